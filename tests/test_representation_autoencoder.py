"""Autoencoder: principal components in closed form, round trips, and strange events."""

import pickle

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from sknuc.encoders import CNN, LSTM, MLP
from sknuc.nn import DenseDecoder
from sknuc.representation import Autoencoder, Mask, Noise

LINEAR = MLP(hidden_layer_sizes=())
# What the last steps of the optimizer may leave of the way to the minimum.
LOST = 0.01


def low_rank(n, noise=0.3, seed=0):
    """Events of 8 values, of which 2 latent variables and noise are the cause."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(8, 2)))[0] * [3.0, 1.5]
    return rng.normal(size=(n, 2)) @ axes.T + noise * rng.normal(size=(n, 8)) + 4.0


@pytest.fixture(scope="module")
def linear():
    X = low_rank(1000)
    model = Autoencoder(
        n_latent=2,
        encoder=LINEAR,
        batch_size=1000,
        max_epochs=500,
        learning_rate=0.02,
        random_state=0,
    )
    return model.fit(X), X


def test_linear_autoencoder_reaches_principal_components(linear):
    model, X = linear
    X = (X - X.mean(0)) / X.std(0)
    pca = PCA(2).fit(X)
    best = ((X - pca.inverse_transform(pca.transform(X))) ** 2).mean()
    reached = -model.score(low_rank(1000))
    # No linear map of this rank does better (Eckart and Young).
    assert best * (1 - 1e-9) < reached < best * (1 + LOST)
    # An axis that lies off by an angle θ loses at least (λ₂ - λ₃) sin²θ of the variance.
    values = np.linalg.eigvalsh(np.cov(X.T, bias=True))[::-1]
    largest = np.sqrt(8 * LOST * best / (values[1] - values[2]))
    decoder = model.module_[1].decoder[-1].weight.detach().numpy()
    assert np.sin(subspace_angles(decoder, pca.components_.T)).max() < largest


def test_round_trips(linear):
    model, X = linear
    Z = model.transform(X)
    again = model.inverse_transform(Z)
    # What has been decoded once is on the plane that is spanned.
    np.testing.assert_allclose(model.inverse_transform(model.transform(again)), again, atol=0.1)
    away = (((X - again) / X.std(0)) ** 2).mean(1)
    np.testing.assert_allclose(-away, model.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(model.reconstruction_error(X), np.sqrt(away), rtol=1e-9)
    weight = np.random.default_rng(0).uniform(size=len(X))
    score = model.score(X, sample_weight=weight)
    assert score == pytest.approx(-np.average(away, weights=weight), rel=1e-9)


def test_units_are_those_of_the_events():
    X = low_rank(300)
    # One batch, since the order of events follows from their values.
    parameters = {"n_latent": 3, "max_epochs": 20, "batch_size": 300, "random_state": 0}
    first = Autoencoder(**parameters).fit(X)
    second = Autoencoder(**parameters).fit(1000 * X)
    decoded = first.inverse_transform(first.transform(X))
    np.testing.assert_allclose(
        1000 * decoded, second.inverse_transform(second.transform(1000 * X)), rtol=1e-6
    )
    errors = (m.reconstruction_error(x) for m, x in ((first, X), (second, 1000 * X)))
    np.testing.assert_allclose(*errors, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "encoder"),
    [
        ((7,), None),
        ((1, 50), None),
        ((2, 33), None),
        ((1, 12, 9), None),
        ((1, 20), LSTM(hidden_size=4)),
        ((1, 20), CNN(channels=(4,))),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_events_of_any_shape_come_back_in_it(shape, encoder, dtype):
    X = np.random.default_rng(0).normal(size=(30, *shape)).astype(dtype)
    model = Autoencoder(n_latent=3, encoder=encoder, max_epochs=2, random_state=0).fit(X)
    Z = model.transform(X)
    assert Z.shape == (30, 3)
    assert Z.dtype == dtype
    table = model.inverse_transform(Z)
    assert table.shape == (30, np.prod(shape))
    assert table.dtype == dtype
    assert table.reshape(-1, *model.input_shape_).shape == X.shape
    assert list(model.get_feature_names_out()) == [f"autoencoder{k}" for k in range(3)]


@pytest.mark.parametrize("denoising", [None, 0.3, [Noise(std=0.1), Mask()], Noise()])
def test_one_event_of_weight_two_is_the_event_twice(denoising):
    X = low_rank(40)
    weight = np.random.default_rng(0).integers(0, 4, 40)
    parameters = {"denoising": denoising, "max_epochs": 3, "batch_size": 8, "random_state": 0}
    weighted = Autoencoder(**parameters).fit(X, sample_weight=weight)
    order = np.random.default_rng(1).permutation(weight.sum())
    repeated = Autoencoder(**parameters).fit(np.repeat(X, weight, axis=0)[order])
    np.testing.assert_array_equal(weighted.transform(X), repeated.transform(X))


def test_denoising_is_linear_shrinkage_in_closed_form():
    # With noise of variance s² before a linear encoder of full rank, the best map is that of
    # Wiener: λ/(λ + s²) along every principal axis.
    X = low_rank(2000)
    X -= X.mean(0)
    s = 1.0
    model = Autoencoder(
        n_latent=8,
        encoder=LINEAR,
        denoising=s,
        standardize=False,
        batch_size=500,
        max_epochs=150,
        learning_rate=0.01,
        random_state=0,
    ).fit(X)
    values, axes = np.linalg.eigh(np.cov(X.T, bias=True))
    expected = axes * (values / (values + s**2)) @ axes.T
    network = model.module_[1]
    found = (network.decoder[-1].weight @ network.head.weight).detach().numpy()
    # Fresh noise in every epoch, of which the last third, say, counts: errors of a regression,
    # (noise / width of an axis) / √(2000 × 50), are far below those of the steps.
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_strange_events_are_far_from_their_reconstruction():
    rng = np.random.default_rng(0)
    t = np.arange(40)

    def pulses(n, width):
        return np.exp(-(((t - rng.uniform(12, 28, (n, 1))) / width) ** 2) / 2)

    X = pulses(400, 3.0)[:, None] + 0.01 * rng.normal(size=(400, 1, 40))
    model = Autoencoder(n_latent=2, max_epochs=30, batch_size=50, random_state=0).fit(X)
    new, strange = (
        model.score_samples(pulses(100, 3.0)[:, None]),
        model.score_samples(pulses(100, 1.0)[:, None]),
    )
    assert np.quantile(new, 0.05) > np.quantile(strange, 0.95)


class Tanh:
    """A decoder of one's own."""

    def build(self, n_inputs, output_shape):
        return nn.Sequential(DenseDecoder(n_inputs, output_shape), nn.Tanh())


class Wrong(Tanh):
    def build(self, n_inputs, output_shape):
        return DenseDecoder(n_inputs, (3,))


def test_own_decoders_and_bad_parameters():
    X = low_rank(30)
    model = Autoencoder(decoder=Tanh(), standardize=False, max_epochs=1, random_state=0).fit(X)
    assert np.abs(model.inverse_transform(100 * model.transform(X))).max() <= 1
    with pytest.raises(ValueError, match="'decoder' parameter"):
        Autoencoder(decoder=Wrong()).fit(X)
    with pytest.raises(ValueError, match="n_latent=16"):
        model.inverse_transform(np.ones((2, 3)))
    with pytest.raises(ValueError, match="'denoising'"):
        Autoencoder(denoising=-1.0).fit(X)
    with pytest.raises(ValueError, match=r"'denoising' parameter must be a positive.*Got True"):
        Autoencoder(denoising=True).fit(X)


def test_pipelines_searches_and_pickles():
    X = low_rank(120)
    y = (X[:, 0] > 4).astype(int)
    search = GridSearchCV(
        Autoencoder(max_epochs=150, encoder=LINEAR, batch_size=30, random_state=0),
        {"n_latent": [1, 2]},
        cv=2,
    ).fit(X)
    # The second latent variable has a variance of 2 beside noise of .09.
    assert search.best_params_ == {"n_latent": 2}
    model = make_pipeline(Autoencoder(max_epochs=5, random_state=0), LogisticRegression())
    loaded = pickle.loads(pickle.dumps(model.fit(X, y)))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    more = Autoencoder(max_epochs=3, warm_start=True, denoising=0.1, random_state=0).fit(X)
    again = pickle.loads(pickle.dumps(more))
    np.testing.assert_array_equal(more.fit(X).transform(X), again.fit(X).transform(X))
    assert torch.isfinite(next(more.module_.parameters())).all()
