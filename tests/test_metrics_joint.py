"""Scores of joint distributions against double sums, closed forms, and forecasts that are wrong."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import gamma
from scipy.stats import ortho_group, rice

from sknuc.metrics import _score_joint, crps_ensemble, energy_score, variogram_score

SCORES = [energy_score, variogram_score]


def gaussians(rng, correlation, shape):
    """Pairs of standard normal numbers, the pair on axis 1."""
    first, second = rng.normal(size=(2, *shape))
    mixed = correlation * first + np.sqrt(1 - correlation**2) * second
    return np.stack([first, mixed], axis=1)


@pytest.mark.parametrize("fair", [True, False])
def test_energy_score_is_the_double_sum(fair, monkeypatch):
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=(9, 3)), rng.normal(size=(9, 3, 6))
    weight = rng.uniform(size=9)
    expected = []
    for truth, draws in zip(y, x.swapaxes(1, 2), strict=True):
        spread = sum(np.linalg.norm(a - b) for a, b in itertools.product(draws, draws))
        distance = np.mean([np.linalg.norm(a - truth) for a in draws])
        expected.append(distance - spread / (2 * (30 if fair else 36)))
    score, error = energy_score(y, x, fair=fair, sample_weight=weight, return_std=True)
    mean = np.average(expected, weights=weight)
    assert_allclose(score, mean)
    assert_allclose(error, np.sqrt(weight**2 @ (expected - mean) ** 2) / weight.sum())
    for numbers in (1, 40):
        monkeypatch.setattr(_score_joint, "_BLOCK", numbers)
        assert_allclose(energy_score(y, x, fair=fair, sample_weight=weight), score, rtol=1e-14)


@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
def test_variogram_score_is_the_double_sum(fair, order):
    rng = np.random.default_rng(1)
    y, x = rng.normal(size=(8, 3)), rng.normal(size=(8, 3, 5))
    weights = rng.uniform(size=(3, 3))  # not symmetric
    expected = 0.0
    for i, j in itertools.product(range(3), repeat=2):
        measured = np.abs(y[:, i] - y[:, j]) ** order
        drawn = np.abs(x[:, i] - x[:, j]) ** order
        square = (measured - drawn.mean(axis=1)) ** 2
        if fair:
            square -= ((drawn - drawn.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) / (5 * 4)
        expected += weights[i, j] * square.mean()
    score = variogram_score(y, x, order=order, pair_weights=weights, fair=fair)
    assert_allclose(score, expected)
    kwargs = {"order": order, "fair": fair}
    ones = variogram_score(y, x, pair_weights=np.ones((3, 3)), **kwargs)
    assert_allclose(variogram_score(y, x, **kwargs), ones)


@pytest.mark.parametrize("fair", [True, False])
def test_energy_score_of_one_target_is_the_crps(fair, monkeypatch):
    monkeypatch.setattr(_score_joint, "_BLOCK", 100)
    rng = np.random.default_rng(2)
    y, x = 1e6 + rng.normal(size=50), 1e6 + rng.normal(size=(50, 30))
    expected = crps_ensemble(y, x, fair=fair, return_std=True)
    assert energy_score(y, x, fair=fair, return_std=True) == expected
    assert energy_score(y[:, None], x[:, None], fair=fair, return_std=True) == expected
    # The distances of several targets of which all others are certain are its own.
    both = energy_score(
        np.column_stack([y, y]), np.stack([x, np.broadcast_to(y[:, None], x.shape)], 1), fair=fair
    )
    assert_allclose(both, expected[0], rtol=1e-9)


@pytest.mark.parametrize("n_targets", [2, 3, 10])
def test_energy_score_of_calibrated_gaussians_has_its_closed_form(n_targets):
    rng, n = np.random.default_rng(3), 20_000
    y, x = rng.normal(size=(n, n_targets)), rng.normal(size=(n, n_targets, 3))
    expected = gamma((n_targets + 1) / 2) / gamma(n_targets / 2)
    score, error = energy_score(y, x, return_std=True)
    assert abs(score - expected) < 4 * error
    # As atoms, s draws are worse by the s-th part: half of the distance between two, over s.
    score, error = energy_score(y, x, fair=False, return_std=True)
    assert abs(score - expected * (1 + 1 / 3)) < 4 * error


@pytest.mark.parametrize("distance", [0.0, 0.7, 4.0])
def test_energy_score_of_one_truth_has_its_closed_form(distance):
    # Distances of a Gaussian in the plane from a point are Rice's; from another draw, √2 Rayleigh.
    n = 20_000
    x = np.random.default_rng(4).normal(size=(n, 2, 4))
    y = np.broadcast_to([0.0, distance], (n, 2))
    score, error = energy_score(y, x, return_std=True)
    assert abs(score - (rice.mean(distance) - np.sqrt(np.pi) / 2)) < 4 * error


@pytest.mark.parametrize("order", [0.5, 1.0])
@pytest.mark.parametrize("n_samples", [2, 10])
def test_variogram_score_of_calibrated_gaussians_has_its_closed_form(order, n_samples):
    # The variance of |D|^p for the difference D ~ N(0, 2 (1 - ρ)), for the pair in both orders.
    rng, n, correlation = np.random.default_rng(5), 20_000, 0.6
    y = gaussians(rng, correlation, (n,))
    x = gaussians(rng, correlation, (n, n_samples))

    def moment(p):
        return 2 ** (p / 2) * gamma((p + 1) / 2) / np.sqrt(np.pi)

    variance = (2 * (1 - correlation)) ** order * (moment(2 * order) - moment(order) ** 2)
    score, error = variogram_score(y, x, order=order, return_std=True)
    assert abs(score - 2 * variance) < 4 * error
    score, error = variogram_score(y, x, order=order, fair=False, return_std=True)
    assert abs(score - 2 * variance * (1 + 1 / n_samples)) < 4 * error


@pytest.mark.parametrize("score", SCORES)
def test_the_true_correlation_scores_best(score):
    n, s, true = 40_000, 10, 0.8
    y = gaussians(np.random.default_rng(6), true, (n,))
    # The same numbers behind the draws of all forecasts, so that differences fluctuate less.
    draws = {c: gaussians(np.random.default_rng(7), c, (n, s)) for c in (-0.8, 0, 0.5, true, 0.95)}
    groups = np.array_split(np.arange(n), 100)
    scores = {c: np.array([score(y[g], x[g]) for g in groups]) for c, x in draws.items()}
    for correlation, values in scores.items():
        worse = values - scores[true]
        if correlation != true:
            assert worse.mean() > 3 * worse.std() / np.sqrt(len(groups)), correlation
    # Margins alone cannot tell: shuffled over draws, they score as before.
    shuffled = np.random.default_rng(8).permuted(draws[true], axis=2)
    assert_allclose(crps_ensemble(y, shuffled), crps_ensemble(y, draws[true]), rtol=1e-12)
    assert score(y, shuffled) > score(y, draws[true])


def test_shifts_and_widths_cost_energy_and_common_shifts_no_variogram():
    rng, n = np.random.default_rng(7), 4000
    y, x = gaussians(rng, 0.5, (n,)), gaussians(rng, 0.5, (n, 20))
    score, error = energy_score(y, x, return_std=True)
    for wrong in (x + 0.5, 1.5 * x, 0.5 * x):
        assert energy_score(y, wrong) > score + 2 * error
    assert_allclose(variogram_score(y, x + 0.5), variogram_score(y, x), rtol=1e-9)


def test_symmetries():
    rng = np.random.default_rng(8)
    y, x = rng.normal(size=(30, 3)), rng.normal(size=(30, 3, 7))
    energy, variogram = energy_score(y, x), variogram_score(y, x)
    rotation = ortho_group.rvs(3, random_state=9)
    shift = rng.normal(size=(30, 3))
    turned = energy_score(y @ rotation.T + shift, rotation @ x + shift[..., None])
    assert_allclose(turned, energy, rtol=1e-12)
    assert_allclose(energy_score(-3 * y, -3 * x), 3 * energy, rtol=1e-12)
    mirrored = variogram_score(-3 * y, -3 * x, order=0.7)
    assert_allclose(mirrored, 3**1.4 * variogram_score(y, x, order=0.7), rtol=1e-12)
    order = rng.permutation(3)
    assert_allclose(energy_score(y[:, order], x[:, order]), energy)
    assert_allclose(variogram_score(y[:, order], x[:, order]), variogram)


@pytest.mark.parametrize("score", SCORES)
def test_weights_are_repetitions_and_negative_ones_cancel(score):
    rng = np.random.default_rng(10)
    y, x = rng.normal(size=(20, 2)), rng.normal(size=(20, 2, 5))
    weight = rng.integers(0, 3, 20)
    repeated = score(np.repeat(y, weight, axis=0), np.repeat(x, weight, axis=0))
    assert_allclose(score(y, x, sample_weight=weight), repeated)
    signed = np.r_[np.ones(20), -np.ones(4)]
    cancelled = score(np.r_[y, y[:4]], np.r_[x, x[:4]], sample_weight=signed)
    assert_allclose(cancelled, score(y[4:], x[4:]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy_score([[0.0, 1.0]], [[1.0, 2.0]]), r"must have the shape \(1, 2\) of y_tr"),
        (lambda: energy_score([[0.0, 1.0]], [[[1.0], [2.0]]]), "at least 2 samples. Got"),
        (lambda: energy_score([[0.0, 1.0]], [[[1.0, np.nan]] * 2]), "'samples' .* must be finite"),
        (lambda: variogram_score([0.0], [[1.0, 2.0]]), "two targets or more"),
        (lambda: variogram_score([[0.0]], [[[1.0, 2.0]]]), r"Got the shape \(1, 1\)"),
        (lambda: variogram_score([[0.0, 1.0]], np.ones((1, 2, 2)), order=0.0), "'order' parameter"),
        *(
            (
                lambda w=weights: variogram_score([[0.0, 1.0]], np.ones((1, 2, 2)), pair_weights=w),
                "'pair_weights' parameter of variogram_score must hold a weight that is finite",
            )
            for weights in ([1.0, 1.0], [[1.0, -1.0], [1.0, 1.0]], np.full((2, 2), np.inf))
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
