"""SimCLR: what views have in common, on tables, signals, images and germanium pulses."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.encoders import CNN, LSTM, MLP, PointNet
from sknuc.representation import (
    FeatureDropout,
    Gain,
    Mask,
    Noise,
    Rotation,
    Shift,
    SimCLR,
)
from sknuc.representation._simclr import default_augmentations

SIGMAS = 4
SMALL = CNN(channels=(4, 8), n_blocks=0)


def shapes(n=120, length=32, seed=0):
    """Pulses of two widths at random times."""
    rng = np.random.default_rng(seed)
    width = rng.choice([1.5, 3.0], n)
    t = np.arange(length) - rng.uniform(10, 22, (n, 1))
    X = np.exp(-((t / width[:, None]) ** 2) / 2) + 0.01 * rng.normal(size=(n, length))
    return X[:, None], (width > 2).astype(int)


@pytest.mark.parametrize("encoder", [SMALL, LSTM(hidden_size=4), MLP(hidden_layer_sizes=(8,))])
def test_any_encoder(encoder):
    X, _ = shapes()
    model = SimCLR(encoder=encoder, max_epochs=2, random_state=0).fit(X)
    Z = model.transform(X)
    assert Z.shape == (len(X), len(model.get_feature_names_out()))
    assert np.isfinite(Z).all()
    assert model.set_output(transform="pandas").transform(X).columns[0] == "simclr0"


def test_one_event_of_weight_two_is_the_event_twice():
    X, _ = shapes(40)
    weight = np.random.default_rng(0).integers(0, 4, 40)
    parameters = {"encoder": SMALL, "max_epochs": 3, "batch_size": 8, "random_state": 0}
    weighted = SimCLR(**parameters).fit(X, sample_weight=weight)
    order = np.random.default_rng(1).permutation(weight.sum())
    repeated = SimCLR(**parameters).fit(np.repeat(X, weight, axis=0)[order])
    np.testing.assert_array_equal(weighted.transform(X), repeated.transform(X))
    # Only ratios of weights count.
    scaled = SimCLR(**parameters).fit(X, sample_weight=0.25 * weight)
    np.testing.assert_array_equal(weighted.transform(X), scaled.transform(X))


def test_large_files_are_merged_where_they_are(monkeypatch):
    from sknuc.representation import _base

    X, _ = shapes(40)
    table = X.reshape(40, -1)
    monkeypatch.setattr(_base, "_RESIDENT_BYTES", 0)
    merged, _, weight = _base.distinct_events(np.tile(table, (3, 1)), None, None)
    assert len(merged) == 120
    np.testing.assert_array_equal(weight, np.repeat([3, 0, 0], 40))
    _, _, weight = _base.distinct_events(table, None, None)
    assert weight is None


def test_features_of_views_come_together():
    X, _ = shapes(300)
    views = [Shift(samples=(-4, 4)), Noise(std=0.1)]
    parameters = {"encoder": SMALL, "augmentations": views, "random_state": 0, "batch_size": 64}

    def similarity(model):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = torch.tensor(X)
            for view in views:
                x = view(x)
        with torch.inference_mode():
            first, second = (
                torch.nn.functional.normalize(model.module_[1].head(torch.tensor(z)))
                for z in (model.transform(X), model.transform(x.numpy()))
            )
        return torch.softmax(first @ second.T / 0.1, 1).diagonal().log().mean().item()

    untrained = SimCLR(max_epochs=1, learning_rate=1e-12, **parameters).fit(X)
    trained = SimCLR(max_epochs=20, **parameters).fit(X)
    assert similarity(trained) > similarity(untrained) + 0.5
    losses = trained.history_[:, "train_loss"]
    # The mean over batches of 60 events cannot exceed that of knowing nothing by chance alone.
    assert losses[-1] < losses[0] < np.log(2 * 60 - 1) + 1


def test_gain_acts_about_zero_whatever_the_pedestal():
    seen = []

    def look(x):
        seen.append(x.clone())
        return x

    X, _ = shapes(50)
    X = 1000 + 10 * X
    SimCLR(encoder=SMALL, augmentations=[look], max_epochs=1, random_state=0).fit(X)
    # A function sees events in the units of X, to the rounding of their scaling: two views of each.
    seen = np.sort(torch.cat(seen[:2]).numpy().reshape(-1, 32), axis=0)
    expected = np.sort(np.concatenate([X, X])[:, 0], axis=0)
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


def test_defaults_follow_the_shape_of_events():
    def kinds(encoder, shape):
        return [type(item) for item in default_augmentations(encoder, shape)]

    assert kinds(CNN(), (1, 100)) == [Shift, Noise, Gain]
    assert default_augmentations(CNN(), (1, 200))[0].samples == (-4, 4)
    # A row of one channel is a signal for a network that reads it so.
    assert kinds(CNN(), (100,)) == [Shift, Noise, Gain]
    assert kinds(MLP(), (100,)) == [Noise, FeatureDropout]
    assert kinds(CNN(), (1, 16, 16)) == [Noise, Gain, Mask]
    assert kinds(CNN(wrap=True), (1, 16, 16)) == [Noise, Gain, Mask, Rotation]
    assert kinds(PointNet(), (20, 4)) == [Noise]


def test_going_on_and_early_stopping():
    X, _ = shapes()
    model = SimCLR(encoder=SMALL, max_epochs=2, warm_start=True, random_state=0).fit(X)
    assert len(model.fit(X).history_) == 4
    stopped = SimCLR(
        encoder=SMALL, max_epochs=50, early_stopping=True, n_iter_no_change=2, random_state=0
    ).fit(X)
    assert "valid_loss" in stopped.history_[-1]
    again = clone(stopped).fit(X)
    np.testing.assert_array_equal(again.transform(X), stopped.transform(X))


def test_pipelines_searches_and_pickles():
    X, y = shapes(90)
    model = make_pipeline(
        SimCLR(encoder=SMALL, augmentations=Shift(), max_epochs=2, random_state=0),
        StandardScaler(),
        LogisticRegression(),
    )
    grid = {
        "simclr__augmentations": [Noise(), [Shift(), Gain()]],
        "simclr__temperature": [0.1, 0.5],
    }
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    loaded = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(loaded.predict(X), search.predict(X))
    assert model.set_params(simclr__augmentations__samples=(-1, 1))[0].augmentations.samples[0] < 0


def test_parameters_are_checked():
    X, _ = shapes(20)
    with pytest.raises(TypeError, match=r"'augmentations' .*'shift'"):
        SimCLR(augmentations=["shift"]).fit(X)
    with pytest.raises(ValueError, match="'std' parameter of Noise"):
        SimCLR(augmentations=[Noise(std=-1)]).fit(X)
    with pytest.raises(ValueError, match="'projection'"):
        SimCLR(projection=(0,)).fit(X)
    flat = SimCLR(encoder=SMALL, projection=(), max_epochs=1, random_state=0).fit(X)
    assert flat.module_[1].head(torch.ones(1, 16)).shape == (1, 16)


def test_events_of_two_shapes_give_the_same_bits():
    X, _ = shapes(40)
    parameters = {"encoder": SMALL, "max_epochs": 2, "random_state": 0}
    events = SimCLR(**parameters).fit(X)
    table = SimCLR(input_shape=(1, 32), **parameters).fit(X.reshape(40, 32))
    np.testing.assert_array_equal(events.transform(X), table.transform(X.reshape(40, 32)))
