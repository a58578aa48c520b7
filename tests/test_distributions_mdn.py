"""Mixture density networks: the density is the truth's, and its modes are its maxima."""

import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.optimize import check_grad
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc import losses
from sknuc.distributions import MDNRegressor
from sknuc.distributions._mdn import _spread
from sknuc.distributions._modes import mixture_modes
from sknuc.encoders import MLP
from sknuc.predictive import NormalMixture


def inverse_problem(n, seed):
    """Infer x from y = x² + 0.05 ε: the entropy of x given y is -0.887 nats."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    y = x**2 + 0.05 * rng.normal(size=n)
    return y[:, None].astype(np.float32), x.astype(np.float32)


def linear_gaussian(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    mean = np.column_stack([X[:, 0] + X[:, 1], 100 + 30 * X[:, 2]])
    covariance = np.array([[0.25, 0.8 * 0.5 * 20], [0.8 * 0.5 * 20, 400]])
    y = mean + rng.multivariate_normal([0, 0], covariance, n)
    return X.astype(np.float32), y, mean, covariance


@pytest.fixture(scope="module")
def inverse():
    X, y = inverse_problem(10_000, 0)
    return MDNRegressor(max_epochs=30, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def linear():
    X, y, *_ = linear_gaussian(5000, 0)
    fit = {"encoder": MLP(hidden_layer_sizes=(16,)), "max_epochs": 40, "random_state": 0}
    return {
        covariance: MDNRegressor(n_components=1, covariance=covariance, **fit).fit(X, y)
        for covariance in ("full", "diagonal")
    }


def random_mixtures(n, k, t, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k), n)
    means = rng.normal(0, 2, (n, k, t))
    factors = np.tril(rng.normal(0, 0.3, (n, k, t, t)), -1)
    return weights, means, factors + rng.uniform(0.2, 1.2, (n, k, t))[..., None] * np.eye(t)


class TestLoss:
    def test_is_the_density_of_scipy(self):
        weights, means, factors = random_mixtures(7, 4, 3)
        y = np.random.default_rng(1).normal(size=(7, 3))
        expected = [
            -np.log(
                sum(
                    w * stats.multivariate_normal(m, f @ f.T).pdf(target)
                    for w, m, f in zip(*mixture, strict=True)
                )
            )
            for *mixture, target in zip(weights, means, factors, y, strict=True)
        ]
        logits = np.log(weights) + 3.0
        args = [torch.from_numpy(a) for a in (logits, means, factors, y)]
        np.testing.assert_allclose(losses.mixture_nll(*args), expected, rtol=1e-10)
        stds = args[2].diagonal(dim1=-2, dim2=-1)
        diagonal = losses.mixture_nll(*args[:2], stds, args[3])
        full = losses.mixture_nll(*args[:2], torch.diag_embed(stds), args[3])
        torch.testing.assert_close(diagonal, full)

    def test_far_targets_have_finite_gradients(self):
        # At a thousand standard deviations every component's density is zero in any precision.
        logits = torch.zeros(1, 2, requires_grad=True)
        means = torch.tensor([[[-1.0], [1.0]]], requires_grad=True)
        scales = torch.ones(1, 2, 1, requires_grad=True)
        loss = losses.mixture_nll(logits, means, scales, torch.tensor([[1001.0]]))
        assert loss.item() == pytest.approx(500_000 + np.log(2) + np.log(2 * np.pi) / 2)
        loss.backward()
        torch.testing.assert_close(means.grad, torch.tensor([[[0.0], [-1000.0]]]))
        torch.testing.assert_close(scales.grad, torch.tensor([[[0.0], [-999_999.0]]]))


class TestModes:
    def test_are_all_the_maxima_on_a_fine_grid(self):
        mixtures = random_mixtures(200, 4, 1)
        modes, shares = mixture_modes(*mixtures)
        grid = np.linspace(-12, 12, 24_001)
        weights, means, factors = (part.reshape(200, 4, 1) for part in mixtures)
        values = sum(
            weights[:, k] * stats.norm.pdf(grid, means[:, k], factors[:, k]) for k in range(4)
        )
        inner = values[:, 1:-1]
        maxima = (inner > values[:, :-2]) & (inner > values[:, 2:])
        for event in range(200):
            found = modes[event, ~np.isnan(modes[event, :, 0]), 0]
            np.testing.assert_allclose(np.sort(found), grid[1:-1][maxima[event]], atol=1e-3)
        np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
        np.testing.assert_array_equal(shares > 0, ~np.isnan(modes[..., 0]))

    @pytest.mark.parametrize("t", [2, 3])
    def test_of_several_targets_are_maxima_highest_first(self, t):
        weights, means, factors = random_mixtures(100, 5, t)
        modes, _ = mixture_modes(weights, means, factors)
        p = NormalMixture(weights, means, factors=factors)
        at = np.where(np.isnan(modes), 0, modes)
        height = np.stack([p.log_prob(at[:, i]) for i in range(5)], axis=1)
        height[np.isnan(modes[..., 0])] = -np.inf
        assert np.all(height[:, :-1] >= height[:, 1:])
        rng = np.random.default_rng(1)
        for _ in range(50):
            direction = 1e-3 * rng.normal(size=modes.shape)
            around = np.stack([p.log_prob((at + direction)[:, i]) for i in range(5)], axis=1)
            assert np.all((around < height) | ~np.isfinite(height))

    def test_components_that_melt_into_one_make_one_mode(self):
        # Two equal Gaussians have two modes if and only if their means are 2σ apart.
        for apart, n_modes in ((1.99, 1), (2.05, 2)):
            means = np.array([[[-apart / 2], [apart / 2]]])
            modes, shares = mixture_modes(np.full((1, 2), 0.5), means, np.ones((1, 2, 1, 1)))
            assert np.count_nonzero(~np.isnan(modes)) == n_modes
            np.testing.assert_allclose(shares[0, :n_modes], 1 / n_modes)
            if n_modes == 2:
                y = np.abs(modes).max()
                # The maximum solves y = (d/2) tanh(y d/2).
                assert y == pytest.approx(apart / 2 * np.tanh(y * apart / 2), rel=1e-9)

    def test_a_saddle_where_a_climb_starts_by_symmetry_is_left_out(self):
        means = np.array([[[-3.0, 0.0], [3.0, 0.0], [0.0, 0.0]]])
        factors = np.stack([np.eye(2), np.eye(2), 20 * np.eye(2)])[None]
        modes, shares = mixture_modes(np.array([[0.45, 0.45, 0.1]]), means, factors)
        np.testing.assert_allclose(np.sort(modes[0, :2, 0]), [-3, 3], atol=0.01)
        assert np.isnan(modes[0, 2]).all()
        np.testing.assert_allclose(shares, [[0.5, 0.5, 0]])

    @pytest.mark.parametrize("unit", [2.0**10, 2.0**-10, 2.0**40])
    def test_units_of_the_targets_do_not_matter(self, unit):
        # From the mean in the middle, a saddle, the first target rises to both sides.
        means = np.array([[[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]]])
        weights = np.array([[0.45, 0.1, 0.45]])
        factors = np.broadcast_to(np.eye(2), (1, 3, 2, 2))
        modes, shares = mixture_modes(weights, means, factors)
        assert np.count_nonzero(shares) == 2
        units = np.array([unit, 1 / unit])
        other, same = mixture_modes(weights, units * means, units[:, None] * factors)
        np.testing.assert_allclose(other, units * modes, rtol=1e-9, atol=1e-9 * unit)
        np.testing.assert_allclose(same, shares, rtol=1e-12)

    def test_derivatives_are_those_of_the_density(self):
        from sknuc.distributions._modes import _density, _derivatives

        weights, means, factors = random_mixtures(1, 3, 2)
        inverse = np.linalg.inv(factors)
        precisions = inverse.swapaxes(-1, -2) @ inverse
        log_norms = np.log(weights) + np.log(np.diagonal(inverse, axis1=-2, axis2=-1)).sum(-1)

        def height(x):
            return _density(x.reshape(1, 1, 2), means, inverse, log_norms)[0][0, 0]

        def derivatives(x):
            r = _density(x.reshape(1, 1, 2), means, inverse, log_norms)[1]
            return _derivatives(x.reshape(1, 1, 2), r, means, precisions)

        x = np.array([0.3, -0.7])
        assert check_grad(height, lambda x: derivatives(x)[0][0, 0], x) < 1e-6
        for i in range(2):
            error = check_grad(
                lambda x, i=i: derivatives(x)[0][0, 0, i],
                lambda x, i=i: -derivatives(x)[2][0, 0, i],
                x,
            )
            assert error < 1e-6


class TestInverseProblem:
    def test_reaches_the_entropy_of_the_truth(self, inverse):
        X, y = inverse_problem(20_000, 1)
        assert -inverse.log_prob(X, y).mean() == pytest.approx(-0.887, abs=0.05)

    def test_one_gaussian_cannot(self):
        X, y = inverse_problem(10_000, 0)
        model = MDNRegressor(n_components=1, max_epochs=30, random_state=0).fit(X, y)
        X, y = inverse_problem(20_000, 1)
        nll = -model.log_prob(X, y)
        best = 0.563
        assert nll.mean() == pytest.approx(best, abs=0.05)
        assert nll.mean() > best - 3 * nll.std() / np.sqrt(len(nll)) - 5e-3
        modes = model.predict_modes(X[:9])
        np.testing.assert_allclose(modes.positions[:, 0], model.predict(X[:9]), atol=1e-6)

    def test_modes_are_the_two_roots(self, inverse):
        y = np.array([[0.25], [0.49], [0.81]], dtype=np.float32)
        modes = inverse.predict_modes(y)
        both = np.sort(modes.positions[:, :2], axis=1)
        # The maxima of p(x | y) ∝ exp(-(y - x²)²/2σ²) are at x² = y.
        np.testing.assert_allclose(both, np.sqrt(y) * [-1, 1], atol=0.03)
        np.testing.assert_allclose(modes.weights[:, :2], 0.5, atol=0.05)

    def test_density_is_normalised(self, inverse):
        for event in ([[0.0]], [[0.5]], [[1.1]]):
            total, _ = integrate.quad(
                lambda x, e=event: np.exp(inverse.log_prob(np.float64(e), [x])[0]),
                *(-3, 3),
                limit=200,
                points=[-1, 0, 1],
            )
            assert total == pytest.approx(1, abs=1e-6)

    def test_draws_quantiles_moments_and_density_agree(self, inverse):
        X, n_draws = np.linspace(0, 1, 7)[:, None], 50_000
        draws = inverse.sample_y(X, n_draws, random_state=1)
        mean, std = inverse.predict(X, return_std=True)
        assert np.all(np.abs(draws.mean(1) - mean) < 4 * std / np.sqrt(n_draws))
        spread = ((draws - mean[:, None]) ** 2).std(1) / np.sqrt(n_draws)
        assert np.all(np.abs(draws.var(1) - std**2) < 4 * spread)
        levels = np.array([0.05, 0.5, 0.9])
        below = (draws[:, None] < inverse.predict_quantiles(X, levels)[..., None]).mean(2)
        assert np.all(np.abs(below - levels) < 4 * np.sqrt(levels * (1 - levels) / n_draws))
        entropy = -inverse.log_prob(np.repeat(X, 2000, 0), draws[:, :2000].ravel())
        expected = [
            integrate.quad(
                lambda x, e=e: -np.exp(p := inverse.log_prob([e], [x])[0]) * p, -2, 2, limit=200
            )[0]
            for e in X[[1, 5]]
        ]
        entropy = entropy.reshape(7, 2000)[[1, 5]]
        error = entropy.std(1) / np.sqrt(2000)
        assert np.all(np.abs(entropy.mean(1) - expected) < 4 * error)


class TestLinearGaussian:
    def test_mean_and_covariance_are_recovered(self, linear):
        X, _, mean, covariance = linear_gaussian(2000, 1)
        predicted, std = linear["full"].predict(X, return_std=True)
        sigma = np.sqrt(np.diagonal(covariance))
        # In units of the noise: 5000 events leave a few per cent.
        assert np.all(np.sqrt(np.mean((predicted - mean) ** 2, axis=0)) < 0.15 * sigma)
        np.testing.assert_allclose(np.median(std, axis=0), sigma, rtol=0.06)
        draws = linear["full"].sample_y(X[:1], 50_000)[0]
        correlation = np.corrcoef(draws)[0, 1]
        assert correlation == pytest.approx(0.8, abs=0.04)

    def test_full_covariance_gains_the_mutual_information(self, linear):
        X, y, *_ = linear_gaussian(20_000, 1)
        gain = linear["full"].log_prob(X, y) - linear["diagonal"].log_prob(X, y)
        # I = -log(1 - ρ²)/2 = 0.511 nats, with the error of the sample and of the fits.
        expected = -np.log(1 - 0.8**2) / 2
        assert gain.mean() == pytest.approx(expected, abs=0.03 + 3 * gain.std() / np.sqrt(len(y)))

    def test_intervals_cover_what_they_say(self, linear):
        X, y, *_ = linear_gaussian(20_000, 2)
        for coverage in (0.68, 0.95):
            interval = linear["full"].predict_interval(X, coverage)
            inside = (interval[:, 0] < y) & (y < interval[:, 1])
            np.testing.assert_allclose(inside.mean(0), coverage, atol=0.025)

    def test_joint_density_is_normalised(self, linear):
        X = np.zeros((1, 3), dtype=np.float32)
        u, v = np.linspace(-3, 3, 301), np.linspace(-30, 230, 401)
        grid = np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2)
        density = np.exp(linear["full"].log_prob(np.repeat(X, len(grid), 0), grid))
        total = density.sum() * (u[1] - u[0]) * (v[1] - v[0])
        assert total == pytest.approx(1, abs=1e-3)


class TestStart:
    def test_initial_mixture_has_the_moments_of_the_targets(self):
        rng = np.random.default_rng(0)
        y = rng.exponential(size=(3000, 1))
        y = (y - y.mean()) / y.std()
        means, std = _spread(y, None, 4)
        assert means.mean() == pytest.approx(0, abs=1e-12)
        assert np.mean(means**2) + std[0] ** 2 == pytest.approx(1, rel=1e-12)
        ordered = np.sort(y[:, 0])
        np.testing.assert_allclose(
            means[:, 0], [part.mean() for part in np.split(ordered, 4)], rtol=1e-9
        )

    def test_weights_are_repetitions_of_events(self):
        rng = np.random.default_rng(0)
        y, weight = rng.normal(size=(40, 2)) @ [[1, -0.9], [0, 0.4]], rng.integers(0, 4, 40)
        weighted = _spread(y, weight, 5)
        repeated = _spread(np.repeat(y, weight, axis=0), None, 5)
        np.testing.assert_allclose(weighted[0], repeated[0], atol=1e-12)
        np.testing.assert_allclose(weighted[1], repeated[1], atol=1e-12)

    def test_first_densities_are_the_marginal_whatever_the_event(self):
        X, y = inverse_problem(500, 0)
        model = MDNRegressor(max_epochs=1, learning_rate=1e-9, random_state=0).fit(X, y)
        mean, std = model.predict(X, return_std=True)
        np.testing.assert_allclose(mean, y.mean(), atol=0.15 * y.std())
        np.testing.assert_allclose(std, y.std(), rtol=0.1)


class TestEstimator:
    def test_units_of_the_targets_do_not_matter(self):
        X, y = (a.astype(np.float64) for a in inverse_problem(300, 0))
        y = np.column_stack([y, y**3])
        shift, scale = np.array([100.0, -3.0]), np.array([1e3, 1e-4])
        fit = {"n_components": 2, "max_epochs": 5, "random_state": 0}
        model = MDNRegressor(**fit).fit(X, y)
        other = MDNRegressor(**fit).fit(X, shift + scale * y)
        np.testing.assert_allclose(
            other.log_prob(X, shift + scale * y), model.log_prob(X, y) - np.log(0.1), rtol=1e-6
        )
        np.testing.assert_allclose(
            other.predict_quantiles(X), shift + scale * model.predict_quantiles(X), rtol=1e-6
        )
        np.testing.assert_allclose(
            other.predict_modes(X).positions,
            shift + scale * model.predict_modes(X).positions,
            rtol=1e-6,
        )

    @pytest.mark.parametrize("unit", [2.0**-660, 2.0**660])
    def test_units_beyond_those_whose_squares_are_numbers(self, unit):
        X, y = (a.astype(np.float64) for a in inverse_problem(300, 0))
        y = np.column_stack([y, y**3])
        fit = {"n_components": 2, "max_epochs": 5, "random_state": 0}
        model, other = MDNRegressor(**fit).fit(X, y), MDNRegressor(**fit).fit(X, unit * y)
        for one, same in zip(
            model.predict(X, return_std=True), other.predict(X, return_std=True), strict=True
        ):
            np.testing.assert_allclose(same, unit * one, rtol=1e-12)
        np.testing.assert_allclose(
            other.predict_quantiles(X), unit * model.predict_quantiles(X), rtol=1e-9
        )
        np.testing.assert_allclose(
            other.predict_modes(X).positions, unit * model.predict_modes(X).positions, rtol=1e-9
        )

    def test_events_that_overflow_do_not_hold_up_others(self):
        X, y = (a.astype(np.float64) for a in inverse_problem(50, 0))
        model = MDNRegressor(max_epochs=1, random_state=0).fit(X, y)
        expected = model.predict_quantiles(X)
        X[0] = 1e308
        np.testing.assert_array_equal(model.predict_quantiles(X)[1:], expected[1:])

    def test_weights_move_the_mixture_to_the_weighted_truth(self):
        rng = np.random.default_rng(0)
        X, y = np.zeros((4000, 1)), rng.choice([-1.0, 1.0], 4000) + 0.1 * rng.normal(size=4000)
        weight = np.where(y > 0, 3.0, 1.0)
        model = MDNRegressor(n_components=2, max_epochs=20, random_state=0)
        modes = model.fit(X, y, sample_weight=weight).predict_modes(X[:1])
        np.testing.assert_allclose(modes.positions, [[1, -1]], atol=0.05)
        share = weight[y > 0].sum() / weight.sum()
        np.testing.assert_allclose(modes.weights, [[share, 1 - share]], atol=0.03)

    def test_scales_stay_above_the_smallest(self):
        # Two values only: the likelihood of narrow components has no maximum.
        X = np.arange(400.0)[:, None] % 2
        model = MDNRegressor(n_components=2, min_scale=0.05, max_epochs=300, random_state=0)
        model.fit(X, 7 * X[:, 0])
        _, std = model.predict(X[:2], return_std=True)
        assert np.all(std >= 0.05 * 3.5)
        assert np.all(std < 0.06 * 3.5)

    def test_float32_stays_float32(self, inverse):
        X, _ = inverse_problem(10, 1)
        assert inverse.predict(X).dtype == np.float32
        assert inverse.predict_modes(X).positions.dtype == np.float32
        assert next(inverse.module_.parameters()).dtype == torch.float32

    def test_one_event_far_outside_does_not_stop_the_others(self, linear):
        X, y, *_ = linear_gaussian(20, 1)
        X[0] = 1e6
        model = linear["full"]
        draws, log_prob = model.sample_y(X, 10), model.log_prob(X, y)
        assert np.all(np.isfinite(draws))
        np.testing.assert_allclose(log_prob[1:], model.log_prob(X[1:], y[1:]), rtol=1e-9)
        assert log_prob[0] < log_prob[1:].min()

    def test_warm_start_refuses_another_mixture(self):
        X, y, *_ = linear_gaussian(50, 0)
        model = MDNRegressor(n_components=2, max_epochs=1, warm_start=True, random_state=0)
        before = model.fit(X, y).log_prob(X, y)
        for parameter in ({"n_components": 3}, {"covariance": "diagonal"}, {"min_scale": 0.1}):
            with pytest.raises(ValueError, match=f"'{next(iter(parameter))}' parameter was"):
                model.set_params(**parameter).fit(X, y)
            np.testing.assert_array_equal(model.log_prob(X, y), before)
            assert model.predict_modes(X).positions.shape == (50, 2, 2)
            model.set_params(n_components=2, covariance="full", min_scale=0.003)

    def test_warm_start_keeps_the_scaling_and_refuses_other_targets(self):
        X, y = inverse_problem(500, 0)
        model = MDNRegressor(max_epochs=3, warm_start=True, random_state=0).fit(X, y)
        before, scale = model.log_prob(X, y).mean(), model.target_scale_
        model.set_params(max_epochs=30).fit(X, 2 * y)
        np.testing.assert_array_equal(model.target_scale_, scale)
        assert model.n_iter_ == 33
        assert model.log_prob(X, 2 * y).mean() > before - np.log(2)
        with pytest.raises(ValueError, match="built for 1 targets"):
            model.fit(X, np.column_stack([y, y]))
        with pytest.raises(ValueError, match="'n_components' parameter was"):
            model.set_params(n_components=3).fit(X, y)

    def test_pickle_pipeline_and_search(self):
        X, y = inverse_problem(600, 0)
        model = make_pipeline(
            StandardScaler(), MDNRegressor(encoder=MLP(hidden_layer_sizes=(16,)), random_state=0)
        )
        search = GridSearchCV(
            model,
            {"mdnregressor__n_components": [1, 2]},
            scoring=lambda model, X, y: model[-1].log_prob(model[:-1].transform(X), y).mean(),
            cv=2,
        ).fit(X, y)
        assert search.best_params_ == {"mdnregressor__n_components": 2}
        best = search.best_estimator_
        again = pickle.loads(pickle.dumps(best))
        np.testing.assert_array_equal(best[-1].predict_quantiles(X), again[-1].predict_quantiles(X))

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [("n_components", 0), ("covariance", "spherical"), ("min_scale", 0.0)],
    )
    def test_wrong_parameters_are_named(self, parameter, value):
        X, y = inverse_problem(20, 0)
        with pytest.raises(ValueError, match=f"The '{parameter}' parameter"):
            MDNRegressor(**{parameter: value}).fit(X, y)
