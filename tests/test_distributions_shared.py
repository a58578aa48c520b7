"""What regressors of distributions share: evenly spread points, and how targets are scaled."""

import numpy as np
import pytest
from scipy import special, stats

from sknuc.base import center_and_scale
from sknuc.distributions import (
    FlowRegressor,
    IQNRegressor,
    MDNRegressor,
    QuantileBDTRegressor,
    QuantileNetRegressor,
)
from sknuc.distributions._levels import law_points, sobol_ranks
from sknuc.predictive import even_levels

N = 1024


def partial_square(z):
    return special.ndtr(z) - z * stats.norm.pdf(z)


def normal_points(t):
    return law_points(N, special.ndtri, partial_square)[sobol_ranks(N, t)]


class TestEvenPoints:
    @pytest.mark.parametrize("t", [2, 5, 10, 20])
    def test_sums_of_targets_are_normal(self, t):
        # As close, at least, as those of independent draws: their errors are known.
        z = normal_points(t)
        total = z.sum(1) / np.sqrt(t)
        away = np.corrcoef(z.T) - np.eye(t)
        assert np.abs(away).max() < 4.5 / np.sqrt(N)
        assert abs(total.std() - 1) < 4.5 / np.sqrt(2 * N)
        assert abs(stats.kurtosis(total)) < 4.5 * np.sqrt(24 / N)
        # Plain Sobol sequences start where all targets are at their lowest, at -3.4 sqrt(t).
        assert np.abs(total).max() < -special.ndtri(1e-6 / N)

    @pytest.mark.parametrize("t", [2, 5, 10, 20])
    def test_outer_quantiles_of_sums_are_symmetric(self, t):
        levels = [0.001, 0.999]
        own = np.quantile(normal_points(t).sum(1) / np.sqrt(t), levels, method="hazen").sum()
        normal = np.random.default_rng(0).normal(size=(2000, N))
        random = np.quantile(normal, levels, axis=1, method="hazen").sum(0)
        assert abs(own) < 3 * random.std()

    @pytest.mark.parametrize("t", [1, 2, 20])
    @pytest.mark.parametrize("n", [1, 2, 7, 1024])
    def test_ranks_are_each_once(self, n, t):
        np.testing.assert_array_equal(
            np.sort(sobol_ranks(n, t), axis=0), np.broadcast_to(np.arange(n)[:, None], (n, t))
        )

    @pytest.mark.parametrize("t", [1, 3])
    def test_levels_have_deviates(self, t):
        levels = even_levels(2**12, t)
        assert np.isfinite(special.ndtri(levels)).all()
        np.testing.assert_array_equal(levels, even_levels(2**12, t))
        # One level in each of n equal parts.
        np.testing.assert_array_equal(
            np.sort(np.floor(2**12 * levels), axis=0)[:, 0], np.arange(2**12)
        )


class TestScaling:
    def test_an_event_of_weight_zero_is_absent(self):
        y = np.random.default_rng(0).normal(size=(50, 2))
        weight = np.ones(50)
        weight[:2] = 0
        y[0] = 1e300
        y[1] = -1e-300
        for one, other in zip(
            center_and_scale(y, weight), center_and_scale(y[2:], None), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-14)

    @pytest.mark.parametrize("unit", [2.0**-600, 2.0**600])
    def test_any_unit(self, unit):
        y = np.random.default_rng(0).normal(3, 2, size=(50, 2))
        mean, scale = center_and_scale(y, None)
        np.testing.assert_array_equal(center_and_scale(unit * y, None), (unit * mean, unit * scale))

    def test_a_constant_feature_keeps_its_unit(self):
        np.testing.assert_array_equal(center_and_scale(np.full((5, 1), 0.1), None)[1], 1)


@pytest.mark.parametrize(
    "model",
    [
        FlowRegressor(max_epochs=2, random_state=0),
        IQNRegressor(max_epochs=2, random_state=0),
        IQNRegressor(max_epochs=2, tail_scale=3.0, random_state=0),
        MDNRegressor(max_epochs=2, random_state=0),
        QuantileBDTRegressor(max_iter=2),
        QuantileNetRegressor(max_epochs=2, random_state=0),
    ],
    ids=lambda model: f"{type(model).__name__}-{getattr(model, 'tail_scale', None)}",
)
@pytest.mark.parametrize("constant", [3.7e-9, -3.7, 3.7e9, 0.0])
def test_no_width_is_made_up_for_a_constant_target(model, constant):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = np.column_stack([np.full(60, constant), rng.normal(size=60)])
    mean, std = model.fit(X, y).predict(X, return_std=True)
    # Of zero, whatever the unit, no width is small enough: what is left is the root of the smallest
    # float32, whose square is still a number in either precision.
    rounding = 1e-12 * abs(constant) if constant else 1e-18
    assert np.all(np.abs(mean[:, 0] - constant) <= rounding)
    assert np.all(std[:, 0] <= rounding)
    assert np.all(np.abs(model.predict_interval(X, 0.95)[..., 0] - constant) <= rounding)
    # The other target is not touched by this.
    assert np.all(std[:, 1] > 0.1)


def test_a_fit_does_not_go_on_from_a_constant():
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = MDNRegressor(max_epochs=2, warm_start=True, random_state=0).fit(X, np.zeros(60))
    model.fit(X, np.zeros(60))
    with pytest.raises(ValueError, match="nearly constant"):
        model.fit(X, X[:, 0])
    # Heavy tails are far from a median deviation, and go on.
    y = np.exp(8 * np.random.default_rng(1).normal(size=60))
    model = IQNRegressor(max_epochs=2, warm_start=True, tail_scale=3.0, random_state=0)
    assert model.fit(X, y).fit(X, y).n_iter_ == 4
