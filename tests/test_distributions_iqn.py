"""Implicit quantile networks: known laws, their correlations, densities, and angles."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from sknuc.distributions import IQNRegressor
from sknuc.distributions._iqn import _phases
from sknuc.encoders import CNN, MLP
from sknuc.nn import FreeQuantiles, MonotoneQuantiles

LEVELS = (np.arange(100) + 0.5) / 100
N_TRAIN, N_TEST = 6000, 20_000


def gaussian(n, seed):
    """Mean and width that depend on x: events, targets, and their true law."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    law = stats.norm(np.sin(3 * X[:, 0]) + X[:, 1], 0.2 + 0.3 * (X[:, 0] + 1))
    return X.astype(np.float32), law.rvs(random_state=rng), law


def skewed(n, seed):
    """A Gamma law, whose skewness depends on x as well."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    law = stats.gamma(2 + X[:, 1], loc=X[:, 0] ** 2, scale=0.3)
    return X.astype(np.float32), law.rvs(random_state=rng), law


def correlated(n, seed):
    """Two Gaussian targets in units of their own, whose correlation is 0.8 sin(πx/2)."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 1))
    rho = 0.8 * np.sin(np.pi * X[:, 0] / 2)
    a, b = rng.normal(size=(2, n))
    return X, np.c_[100 + 10 * (X[:, 0] + a), rho * a + np.sqrt(1 - rho**2) * b], rho


def mean_pinball(y, quantiles):
    residual = y[:, None] - quantiles
    return np.maximum(LEVELS * residual, (LEVELS - 1) * residual).mean()


def small_model(**parameters):
    return IQNRegressor(max_epochs=5, random_state=0, **parameters)


class TestLaws:
    @pytest.mark.parametrize("law", [gaussian, skewed])
    def test_all_quantiles_of_a_law(self, law):
        X, y, _ = law(N_TRAIN, 0)
        model = IQNRegressor(max_epochs=40, random_state=0).fit(X, y.astype(np.float32))
        X, y, truth = law(N_TEST, 1)
        quantiles = model.predict_quantiles(X, LEVELS)
        assert np.all(np.diff(quantiles, axis=1) >= 0)
        # Half the CRPS, which for a Gaussian is σ/(2√π).
        best = mean_pinball(y, truth.ppf(LEVELS[:, None]).T)
        assert mean_pinball(y, quantiles) < 1.02 * best
        # A flat PIT, up to what either sample leaves open and steps of 1 %.
        pit = (quantiles < y[:, None]).mean(1)
        allowed = 1.63 * (N_TRAIN**-0.5 + N_TEST**-0.5) + 0.01
        assert stats.kstest(pit, "uniform").statistic < allowed

    def test_heavy_tails_in_a_bounded_loss(self):
        # Cauchy: no mean, no standard deviation. The quantiles are those of the law all the same.
        rng = np.random.default_rng(0)
        X = rng.uniform(-1, 1, (4000, 1))
        y = 2 * X[:, 0] + stats.cauchy.rvs(size=4000, random_state=rng)
        model = IQNRegressor(tail_scale=3.0, max_epochs=30, random_state=0).fit(X, y)
        grid = np.linspace(-0.9, 0.9, 50)[:, None]
        found = model.predict_quantiles(grid, [0.25, 0.5, 0.75])
        # Of n events, a quantile has the error √(τ(1-τ)/n)/p: 0.025 at the median. Local ones
        # rest on a part of them.
        np.testing.assert_allclose(found, 2 * grid + [-1.0, 0.0, 1.0], atol=0.4)

    def test_joint_law_of_two_targets(self):
        X, y, _ = correlated(6000, 0)
        new, truth, rho = correlated(3000, 1)
        true_log_prob = stats.norm.logpdf(truth[:, 0], 100 + 10 * new[:, 0], 10)
        conditional = rho * (truth[:, 0] - 100 - 10 * new[:, 0]) / 10
        true_log_prob += stats.norm.logpdf(truth[:, 1], conditional, np.sqrt(1 - rho**2))
        for order in ([0, 1], [1, 0]):
            model = IQNRegressor(order=order, max_epochs=25, random_state=0).fit(X, y)
            few = np.array([[-0.9], [-0.3], [0.0], [0.5], [0.9]])
            draws = model.sample_y(few, 4000)
            found = [np.corrcoef(draw)[0, 1] for draw in draws]
            np.testing.assert_allclose(found, 0.8 * np.sin(np.pi * few[:, 0] / 2), atol=0.12)
            # The mean difference of the log densities is the Kullback-Leibler divergence.
            divergence = np.mean(true_log_prob - model.log_prob(new, truth))
            assert -0.01 < divergence < 0.04


@pytest.fixture(scope="module")
def fitted():
    X, y, _ = correlated(1500, 0)
    return small_model(order=[1, 0]).fit(X, y), X[:6]


class TestOneDistribution:
    def test_samples_have_the_moments_and_the_quantiles(self, fitted):
        model, X = copy.copy(fitted[0]), fitted[1]
        n_draws, model.n_draws = 40_000, 2**14
        draws = model.sample_y(X, n_draws)
        mean, std = model.predict(X, return_std=True)
        # The first target in the order, here the second of y, is exact. The evenly spread draws of
        # the other one are no worse than as many random ones.
        error = 5 * np.sqrt(1 / n_draws + np.array([1, 0]) / model.n_draws)
        assert np.all(np.abs(draws.mean(2) - mean) < error * std)
        squares = (draws - mean[..., None]) ** 2
        assert np.all(np.abs(squares.mean(2) - std**2) < error * squares.std(2))
        levels = np.array([0.05, 0.3, 0.5, 0.9])[:, None]
        below = (draws[:, None] < model.predict_quantiles(X, levels[:, 0])[..., None]).mean(3)
        assert np.all(np.abs(below - levels) < error * np.sqrt(levels * (1 - levels)))
        for coverage in (0.68, 0.95, 0.99):
            low, high = np.moveaxis(model.predict_interval(X, coverage), 1, 0)[..., None]
            inside = ((low < draws) & (draws < high)).mean(2)
            allowed = error * np.sqrt(coverage * (1 - coverage))
            assert np.all(np.abs(inside - coverage) < allowed)

    def test_draws_keep_their_distances_far_outside(self, fitted):
        model, _ = fitted
        far = np.full((1, 1), 1e9)
        _, std = model.predict(far, return_std=True)
        assert np.all(std > 0)
        low, high = model.predict_interval(far, 0.68)[0]
        assert np.all(high > low)

    def test_density_integrates_to_one_and_is_the_slope_of_the_levels(self, fitted):
        model, X = fitted
        one = X[:1]
        mean, std = model.predict(one, return_std=True)
        a, b = (np.linspace(-7, 7, 141) * s + m for m, s in zip(mean[0], std[0], strict=True))
        grid = np.stack(np.meshgrid(a, b, indexing="ij"), -1).reshape(-1, 2)
        density = np.exp(model.log_prob(np.repeat(one, len(grid), 0), grid)).reshape(141, 141)
        assert integrate.simpson(integrate.simpson(density, b), a) == pytest.approx(1, abs=1e-4)
        # Integrated over the other target, it is the density of the first one of the order.
        marginal = integrate.simpson(density.T, a)
        distribution = integrate.cumulative_simpson(marginal, x=b)
        quantile = model.predict_quantiles(one, [0.1, 0.8])[0, :, 1]
        found = np.interp(quantile, b[1:], distribution)
        np.testing.assert_allclose(found, [0.1, 0.8], atol=2e-3)

    def test_far_targets_have_small_but_finite_densities(self, fitted):
        model, X = fitted
        mean, std = model.predict(X, return_std=True)
        log_prob = model.log_prob(X, mean + 1e4 * std)
        assert np.all(np.isfinite(log_prob) & (log_prob < -1e3))

    def test_predictions_do_not_depend_on_other_events(self, fitted):
        model, X = fitted
        for answer in (model.predict, model.predict_quantiles):
            together = answer(X)
            alone = np.concatenate([answer(x[None]) for x in X])
            np.testing.assert_allclose(alone, together, rtol=1e-12)
            np.testing.assert_array_equal(answer(X), together)

    def test_blocks_are_bounded_and_change_nothing(self, fitted, monkeypatch):
        model, X = fitted
        whole = model.sample_y(X, 50), model.predict_quantiles(X)
        monkeypatch.setattr("sknuc.base._BLOCK_NUMBERS", 1)
        monkeypatch.setattr("sknuc.distributions._implicit._BLOCK_NUMBERS", 1000)
        np.testing.assert_allclose(model.sample_y(X, 50), whole[0], rtol=1e-12)
        np.testing.assert_allclose(model.predict_quantiles(X), whole[1], rtol=1e-12)

    def test_pickled_and_cloned(self, fitted):
        model, X = fitted
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict_quantiles(X), model.predict_quantiles(X))
        assert clone(model).get_params()["order"] == [1, 0]


class TestMonotonicity:
    def test_construction_never_crosses(self):
        torch.manual_seed(0)
        z = torch.linspace(-8, 8, 2001, dtype=torch.float64).expand(200, 2, -1)
        for size in (1, 30):
            head = MonotoneQuantiles(5, 3, (16,)).double()
            features = size * torch.randn(200, 5, dtype=torch.float64)
            conditions = size * torch.randn(200, 2, 3, dtype=torch.float64)
            with torch.no_grad():
                values = head.value(head.context(features, conditions), z)
            assert values.shape == z.shape
            assert torch.all(values.diff(dim=-1) > 0)

    def test_starts_close_to_a_standard_gaussian(self):
        head = MonotoneQuantiles(5, 3, (16,))
        torch.nn.init.zeros_(head.network.layers[-1].weight)
        z = torch.linspace(-2, 2, 41).expand(1, 1, -1)
        values = head.value(head.context(torch.zeros(1, 5), torch.zeros(1, 1, 3)), z)
        torch.testing.assert_close(values, z, atol=0.4, rtol=0)

    def test_far_outside_the_data(self):
        X, y, _ = gaussian(500, 0)
        model = small_model().fit(X, y)
        far = np.random.default_rng(1).normal(0, 1e3, (500, 2)).astype(np.float32)
        quantiles = model.predict_quantiles(far, np.linspace(0.001, 0.999, 500))
        assert np.all(np.diff(quantiles, axis=1) >= 0)

    def test_penalty_takes_crossings_away(self):
        # Noise targets of a large free network cross, unless it is told not to.
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(200, 4)), rng.normal(size=200)
        rates = []
        for penalty in (0.0, 100.0):
            model = IQNRegressor(
                monotone="penalty", penalty=penalty, max_epochs=150, learning_rate=0.01,
                random_state=0,
            ).fit(X, y)  # fmt: skip
            steps = np.diff(model.predict_quantiles(X, LEVELS), axis=1)
            rates.append(np.mean(steps < 0))
        assert rates[1] < 0.5 * rates[0]

    def test_free_network_learns_a_gaussian(self):
        X, y, _ = gaussian(4000, 0)
        model = IQNRegressor(monotone="penalty", n_taus=4, max_epochs=20, random_state=0).fit(X, y)
        X, y, truth = gaussian(5000, 1)
        quantiles = model.predict_quantiles(X, LEVELS)
        assert mean_pinball(y, quantiles) < 1.05 * mean_pinball(y, truth.ppf(LEVELS[:, None]).T)

    def test_free_head_reads_the_level_as_an_input(self):
        head = FreeQuantiles(5, 3, (16, 8)).double()
        features, conditions = torch.randn(4, 5).double(), torch.randn(4, 2, 3).double()
        z = torch.randn(4, 2, 7, dtype=torch.float64)
        values = head.value(head.context(features, conditions), z)
        assert values.shape == (4, 2, 7)
        alone = head.value(head.context(features[1:2], conditions[1:2, :1]), z[1:2, :1, 3:4])
        torch.testing.assert_close(alone[0, 0, 0], values[1, 0, 3])


class TestTraining:
    @pytest.mark.parametrize("monotone", ["construction", "penalty"])
    def test_weights_are_multiplicities(self, monotone):
        X, y, _ = correlated(60, 0)
        weight = np.random.default_rng(0).integers(0, 4, 60)
        model = small_model(monotone=monotone, tail_scale=3.0)
        weighted = model.fit(X, y, sample_weight=weight).predict_quantiles(X)
        rows = np.random.default_rng(1).permutation(np.repeat(np.arange(60), weight))
        repeated = model.fit(X[rows], y[rows]).predict_quantiles(X)
        np.testing.assert_allclose(weighted, repeated, rtol=1e-7)

    def test_levels_are_fresh_and_uniform(self):
        X, y, _ = gaussian(300, 0)
        seen = []
        model = small_model(n_taus=4).fit(X, y)
        loss = model._loss

        class Spy(torch.nn.Module):
            order = torch.tensor([0])

            def forward(self, X, y, z):
                seen.append(z.clone())
                return torch.zeros_like(z)

        batch = type("Batch", (), {})()
        batch.X, batch.y = torch.from_numpy(X), torch.zeros(300, 1)
        batch.phase = torch.rand(300)
        for _ in range(200):
            loss(Spy(), batch)
        levels = stats.norm.cdf(np.stack(seen))
        assert levels.shape == (200, 300, 1, 4)
        # One in each quarter; for each event uniform there, anew in each step.
        np.testing.assert_array_equal(
            np.floor(4 * levels), np.broadcast_to(np.arange(4), levels.shape)
        )
        within = 4 * levels % 1
        for event in (0, 17):
            assert stats.kstest(within[:, event, 0, 2], "uniform").pvalue > 1e-3
        assert stats.kstest(within[5, :, 0, 1], "uniform").pvalue > 1e-3

    @pytest.mark.parametrize("kind", ["constant first", "discrete", "continuous"])
    def test_phases_belong_to_events_and_are_uniform(self, kind):
        rng = np.random.default_rng(0)
        X, y = rng.normal(size=(2000, 3)), rng.normal(size=(2000, 2))
        if kind == "constant first":
            y[:, 0] = 3.7
        elif kind == "discrete":
            y = np.round(y)
        phase = _phases(X, y, None)
        assert len(np.unique(phase)) == 2000
        assert stats.kstest(phase, "uniform").pvalue > 1e-3
        # Nor do they follow from where an event is.
        for column in (*X.T, y[:, 1]):
            assert abs(np.corrcoef(phase, column)[0, 1]) < 4.5 / np.sqrt(2000)
        # An event twice has one phase; one of weight zero changes nothing.
        weight = rng.integers(0, 3, 2000).astype(float)
        rows = rng.permutation(np.repeat(np.arange(2000), weight.astype(int)))
        expected = _phases(X, y, weight)[rows]
        np.testing.assert_array_equal(_phases(X[rows], 1 + 3 * y[rows], None), expected)

    def test_encoder_sees_each_event_once(self):
        calls = []

        class Counting(torch.nn.Linear):
            def forward(self, x):
                calls.append(len(x))
                return super().forward(x)

        class Encoder:
            def build(self, input_shape):
                return Counting(input_shape[0], 4)

        X, y, _ = correlated(100, 0)
        model = small_model(encoder=Encoder()).fit(X, y)
        calls.clear()
        model.sample_y(X, 50)
        assert sum(calls) == 100

    def test_warm_start_goes_on(self):
        X, y, _ = correlated(300, 0)
        model = small_model(warm_start=True).fit(X, y)
        scale = model.target_scale_.copy()
        model.fit(X, y + 1)
        assert model.n_iter_ == 10
        np.testing.assert_array_equal(model.target_scale_, scale)
        for periodic in (None, {1: 6.0}):
            model = small_model(warm_start=True, periodic=periodic).fit(X, y)
            with pytest.raises(ValueError, match="warm_start"):
                model.fit(X, y[:, 0])

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("order", [1, 0]),
            ("periodic", {1: 6.0}),
            ("tail_scale", 3.0),
            ("monotone", "penalty"),
            ("hidden_layer_sizes", (8,)),
        ],
    )
    def test_warm_start_refuses_another_network(self, parameter, value):
        X, y, _ = correlated(50, 0)
        model = small_model(warm_start=True).fit(X, y)
        before, order = model.predict_quantiles(X), model.order_
        with pytest.raises(ValueError, match=f"'{parameter}' parameter was"):
            model.set_params(**{parameter: value}).fit(X, y)
        assert model.order_ is order
        np.testing.assert_array_equal(model.predict_quantiles(X), before)

    def test_quantiles_in_full_precision_under_autocast(self):
        X, y, _ = correlated(300, 0)
        model = small_model().fit(X.astype(np.float32), y.astype(np.float32))
        network = model.module_[1]
        features, targets, z = torch.randn(50, 64), torch.randn(50, 2), torch.randn(50, 2, 3)
        network.encoder = torch.nn.Identity()
        with torch.no_grad():
            expected = network(features, targets, z)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                torch.testing.assert_close(network(features, targets, z), expected)

    def test_grid_search_over_encoders(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(200, 16))
        y = X[:, :8].mean(1)
        model = small_model(input_shape=(1, 16))
        encoders = [CNN(channels=(4,)), MLP(hidden_layer_sizes=(16,))]
        search = GridSearchCV(model, {"encoder": encoders}, cv=2)
        assert np.isfinite(search.fit(X, y).cv_results_["mean_test_score"]).all()


class TestPeriodic:
    def test_a_measured_angle_across_the_seam(self):
        # An angle measured with σ = 0.05 anywhere on the circle, and a target that it shifts.
        rng = np.random.default_rng(0)
        truth = rng.uniform(-np.pi, np.pi, 6000)
        error = 0.05 * rng.normal(size=6000)
        measured = (truth + error + np.pi) % (2 * np.pi) - np.pi
        second = 20 * error + 0.3 * rng.normal(size=6000)
        X = np.c_[truth, rng.normal(size=6000)]
        model = IQNRegressor(periodic={0: (2 * np.pi, 0)}, max_epochs=25, random_state=0)
        model.fit(X, np.c_[measured, second])
        # The true angles are 1 % of a turn to either side of the seam.
        few = np.c_[[np.pi - 0.06, -np.pi + 0.06, 0.5], np.zeros(3)]
        mean, std = model.predict(few, return_std=True)
        np.testing.assert_allclose(mean[:, 0], few[:, 0], atol=0.01)
        np.testing.assert_allclose(std[:, 0], 0.05, rtol=0.15)
        angle, other = np.moveaxis(model.sample_y(few, 4000), 1, 0)
        expected = 1 / np.hypot(1, 0.3)
        for a, b in zip(angle, other, strict=True):
            assert np.corrcoef(a, b)[0, 1] == pytest.approx(expected, abs=0.05)
        # A whole turn more is the same angle.
        at = np.c_[few[:, 0] + 0.03, [0.6, 0.6, 0.6]]
        turned = model.log_prob(few, at + np.array([2 * np.pi, 0]))
        np.testing.assert_allclose(turned, model.log_prob(few, at), rtol=1e-9)

    def test_ways_to_say_what_is_periodic(self):
        X, y, _ = correlated(50, 0)
        expected = small_model(periodic={0: 6.0}).fit(X, y[:, 0]).predict(X)
        found = small_model(periodic=6.0).fit(X, y[:, 0]).predict(X)
        np.testing.assert_array_equal(found, expected)
        expected = small_model(periodic={0: (6.0, 0)}).fit(X, y).predict(X)
        found = small_model(periodic={0: [6.0, 0]}).fit(X, y).predict(X)
        np.testing.assert_array_equal(found, expected)

    def test_around_the_circular_mean(self):
        # All angles lie around the seam at ±180°; an arithmetic mean would be 0.
        rng = np.random.default_rng(0)
        X = rng.uniform(-1, 1, (3000, 1))
        y = (180 + 20 * X[:, 0] + 5 * rng.normal(size=3000) + 180) % 360 - 180
        model = IQNRegressor(periodic={0: 360.0}, max_epochs=20, random_state=0).fit(X, y)
        few = np.array([[-0.8], [0.0], [0.8]])
        mean = model.predict(few)
        np.testing.assert_allclose(np.mod(mean, 360), 180 + 20 * few[:, 0], atol=1.5)
        low, high = model.predict_interval(few, 0.68).T
        np.testing.assert_allclose(high - low, 10 * 0.9945, rtol=0.15)

    def test_condition_on_an_angle_has_no_seam(self):
        X, y, _ = correlated(200, 0)
        model = small_model(periodic={0: 30.0}).fit(X, y)
        network = copy.deepcopy(model.module_[1]).double()
        turn = 30.0 / model.target_scale_[0]
        targets = torch.randn(5, 2, dtype=torch.float64)
        shifted = targets + torch.tensor([turn, 0.0], dtype=torch.float64)
        torch.testing.assert_close(
            network.conditions(targets), network.conditions(shifted), atol=1e-5, rtol=0
        )


class TestErrors:
    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"order": [0]}, "'order' parameter must hold each of the 2 targets"),
            ({"order": [1, 1]}, "'order' parameter"),
            (
                {"periodic": {2: 1.0}},
                "'periodic' parameter must give targets by their numbers, from 0 to 1",
            ),
            ({"periodic": {0: -1.0}}, "positive period"),
            ({"periodic": {0: (1.0, 0, 0)}}, "positive period"),
            ({"periodic": 1.0}, "which of the 2 targets"),
            ({"periodic": {0: (1.0, 1)}}, "features from 0 to 0"),
            ({"hidden_layer_sizes": ()}, "'hidden_layer_sizes' parameter"),
            ({"hidden_layer_sizes": (0,)}, "'hidden_layer_sizes' parameter"),
            ({"hidden_layer_sizes": (8, True)}, "'hidden_layer_sizes' parameter"),
            ({"periodic": {0: True}}, "positive period"),
            ({"n_taus": 0}, "'n_taus' parameter"),
            ({"monotone": "sorted"}, "'monotone' parameter"),
            ({"schedule": "linear"}, "'schedule' parameter"),
        ],
    )
    def test_wrong_parameters_are_named(self, parameters, words):
        X, y, _ = correlated(20, 0)
        with pytest.raises(ValueError, match=words):
            IQNRegressor(**parameters).fit(X, y)
