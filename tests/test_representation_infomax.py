"""Deep InfoMax: parts of events, features that know them, and the contract."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from sklearn.base import clone

from sknuc.encoders import CNN, LSTM, MLP
from sknuc.representation import DeepInfoMax
from sknuc.representation._infomax import find_map, split

SMALL = CNN(channels=(4, 8), n_blocks=0)


def pulses(n=100, length=32, seed=0):
    """Pulses of random widths at random times."""
    rng = np.random.default_rng(seed)
    t = np.arange(length) - rng.uniform(10, 22, (n, 1))
    X = np.exp(-((t / rng.uniform(1, 4, (n, 1))) ** 2) / 2)
    return (X + 0.01 * rng.normal(size=X.shape))[:, None]


@pytest.mark.parametrize(
    ("encoder", "shape", "place"),
    [
        # The last activation before the pooling.
        (CNN(channels=(4, 8), n_blocks=0), (1, 32), (8, 8)),
        (CNN(channels=(4, 8)), (2, 32), (8, 8)),
        (CNN(channels=(4, 8), norm="group", pooling="flatten"), (1, 12, 16), (8, 3, 4)),
        (MLP(), (7,), None),
        (LSTM(hidden_size=4), (1, 32), None),
    ],
)
def test_maps_are_what_the_last_convolution_sees(encoder, shape, place):
    network = encoder.build(shape)
    name = find_map(network, torch.zeros(2, *shape))
    if place is None:
        assert name is None
        return
    seen = []
    network.get_submodule(name).register_forward_hook(lambda *given: seen.append(given[-1]))
    x = torch.randn(3, *shape)
    features = network(x)
    assert seen[0].shape == (3, *place)
    if "mean_max" in repr(encoder.get_params()["pooling"]):
        flat = seen[0].flatten(2)
        assert torch.equal(features, torch.cat([flat.mean(2), flat.amax(2)], 1))


@pytest.mark.parametrize("shape", [(3,), (16,), (40,), (2, 20), (2, 3, 33)])
def test_pieces_hold_every_number_once(shape):
    x = torch.rand(4, *shape) + 1
    parts = split(x)
    assert parts.shape[1] <= 16
    # Nothing but zeros is added, and no piece is empty.
    for event, pieces in zip(x, parts, strict=True):
        assert torch.equal(event.flatten().sort()[0], pieces[pieces != 0].sort()[0])
    assert (parts != 0).any(2).all()


@pytest.mark.parametrize("objective", ["jsd", "infonce"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.5, 1.0)])
def test_features_learn_to_find_their_parts(objective, weights):
    X = pulses(256)
    model = DeepInfoMax(
        encoder=SMALL,
        n_latent=8,
        objective=objective,
        global_weight=weights[0],
        local_weight=weights[1],
        batch_size=32,
        max_epochs=20,
        learning_rate=0.005,
        random_state=0,
    ).fit(X)
    losses = model.history_[:, "train_loss"]
    # Knowing nothing, each term is 2 ln 2, or the logarithm of the batch.
    nothing = sum(weights) * (2 * np.log(2) if objective == "jsd" else np.log(32))
    assert losses[-1] < 0.9 * nothing
    network = model.module_[1]
    with torch.inference_mode():
        # New events, of which the right partner is found among 64.
        h, parts = network.encode(model.module_[0](torch.tensor(pulses(64, seed=1))))
        if weights[0]:
            scores = network.of_all(h, parts)
        else:
            scores = network.of_each(h, parts).mean(0)
    rank = (scores > scores.diagonal()[:, None]).double().mean(1)
    # By chance, one half on average, with the spread of 64 uniform numbers.
    assert rank.mean() < 0.5 - 4 / np.sqrt(12 * 64)


def test_prior_matching_makes_features_normal():
    X = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    parameters = {"n_latent": 2, "max_epochs": 40, "batch_size": 60, "random_state": 0}
    free, matched = (
        DeepInfoMax(prior_weight=weight, **parameters).fit(X).transform(X) for weight in (0.0, 10.0)
    )
    distance = [max(kstest(z, "norm").statistic for z in Z.T) for Z in (free, matched)]
    assert distance[1] < distance[0] / 2


def test_one_event_of_weight_two_is_the_event_twice():
    X = pulses(40)
    weight = np.random.default_rng(0).integers(0, 4, 40)
    parameters = {"encoder": SMALL, "max_epochs": 3, "batch_size": 8, "random_state": 0}
    weighted = DeepInfoMax(**parameters).fit(X, sample_weight=weight)
    order = np.random.default_rng(1).permutation(weight.sum())
    repeated = DeepInfoMax(**parameters).fit(np.repeat(X, weight, axis=0)[order])
    np.testing.assert_array_equal(weighted.transform(X), repeated.transform(X))


@pytest.mark.parametrize(
    ("encoder", "shape"),
    [(None, (5,)), (None, (30,)), (LSTM(hidden_size=4), (1, 20)), (None, (1, 9, 9)), (MLP(), (4,))],
)
def test_events_of_any_shape(encoder, shape):
    X = np.random.default_rng(0).normal(size=(30, *shape)).astype(np.float32)
    model = DeepInfoMax(encoder=encoder, n_latent=3, max_epochs=2, random_state=0).fit(X)
    Z = model.transform(X)
    assert Z.shape == (30, 3)
    assert Z.dtype == np.float32
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(loaded.transform(X), Z)
    np.testing.assert_array_equal(clone(model).fit(X).transform(X), Z)
    assert list(model.get_feature_names_out()) == [f"deepinfomax{k}" for k in range(3)]


def test_something_must_be_learned():
    with pytest.raises(ValueError, match="must not both be 0"):
        DeepInfoMax(global_weight=0, local_weight=0).fit(pulses())
    model = DeepInfoMax(
        encoder=SMALL, max_epochs=30, early_stopping=True, n_iter_no_change=2, random_state=0
    ).fit(pulses())
    assert "valid_loss" in model.history_[-1]
