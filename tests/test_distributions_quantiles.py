"""Quantile networks and trees: quantiles of known laws, in order, and one distribution with all."""

import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import xgboost as xgb
from scipy import stats
from sklearn.model_selection import GridSearchCV

from sknuc import losses
from sknuc.distributions import QuantileBDTRegressor, QuantileNetRegressor
from sknuc.distributions._quantile_bdt import _spread_ties
from sknuc.encoders import CNN, MLP
from sknuc.nn import OrderedQuantiles

LEVELS = (np.arange(100) + 0.5) / 100
N_TRAIN, N_TEST = 6000, 20_000


def gaussian(n, seed):
    """Mean and width that depend on x: events, targets, and their true law."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    law = stats.norm(np.sin(3 * X[:, 0]) + X[:, 1], 0.2 + 0.3 * (X[:, 0] + 1))
    return X, law.rvs(random_state=rng), law


def skewed(n, seed):
    """A Gamma law, whose skewness depends on x as well."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    law = stats.gamma(2 + X[:, 1], loc=X[:, 0] ** 2, scale=0.3)
    return X, law.rvs(random_state=rng), law


def positions(n, seed):
    """One of ten positions, measured twice with errors of a third of their distance and of two.

    Targets, and the answer of the posterior: a position for each level.
    """
    rng = np.random.default_rng(seed)
    position = rng.integers(0, 10, n)
    X = np.c_[position + 0.3 * rng.normal(size=n), 0.5 * position + rng.normal(size=n)]
    likelihood = stats.norm.pdf(X[:, [0]], np.arange(10), 0.3)
    likelihood *= stats.norm.pdf(X[:, [1]], 0.5 * np.arange(10))
    cdf = np.cumsum(likelihood, axis=1) / likelihood.sum(1, keepdims=True)
    return X, 40.0 + 2 * position, lambda levels: 40.0 + 2 * (cdf[:, None] < levels[:, None]).sum(2)


def mean_pinball(y, quantiles):
    residual = y[:, None] - quantiles
    return np.maximum(LEVELS * residual, (LEVELS - 1) * residual).mean()


def check_against(model, law):
    """Mean pinball loss within 2 % of the least possible, and a flat PIT, on unseen events."""
    X, y, truth = law(N_TEST, 1)
    quantiles = model.predict_quantiles(X, LEVELS)
    best = mean_pinball(y, truth.ppf(LEVELS[:, None]).T)
    assert mean_pinball(y, quantiles) < 1.02 * best
    pit = (quantiles < y[:, None]).mean(1)
    # What the training sample leaves open of any distribution function, and what the test does
    # (1.63/√n is the 99 % point of Kolmogorov's law); the PIT is counted in steps of 1 %.
    allowed = 1.63 * (N_TRAIN**-0.5 + N_TEST**-0.5) + 0.01
    assert stats.kstest(pit, "uniform").statistic < allowed


class TestPinball:
    def test_closed_form_of_a_gaussian(self):
        # At the quantile of level τ the expectation is σ φ(z); its mean over τ is σ/(2√π).
        sigma, levels = 1.7, torch.from_numpy(LEVELS)
        y = torch.from_numpy(sigma * stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000))
        quantiles = torch.from_numpy(sigma * stats.norm.ppf(LEVELS)).expand(len(y), 1, -1)
        found = losses.pinball(quantiles[:, :, [9, 49]], y[:, None], levels[[9, 49]]).mean()
        expected = sigma * stats.norm.pdf(stats.norm.ppf(LEVELS[[9, 49]])).mean()
        assert float(found) == pytest.approx(expected, rel=1e-4)
        found = losses.pinball(quantiles, y[:, None], levels).mean()
        assert float(found) == pytest.approx(sigma / (2 * np.sqrt(np.pi)), rel=2e-4)

    def test_targets_and_levels_are_averaged_within_the_event(self):
        rng = np.random.default_rng(0)
        q, y, levels = (
            rng.normal(size=(5, 2, 3)),
            rng.normal(size=(5, 2)),
            np.array([0.1, 0.5, 0.9]),
        )
        r = y[..., None] - q
        expected = (r * (levels - (r < 0))).mean((1, 2))
        found = losses.pinball(*map(torch.from_numpy, (q, y, levels)))
        np.testing.assert_allclose(found, expected)


class TestQuantileNet:
    @pytest.mark.parametrize("law", [gaussian, skewed])
    def test_learns_the_quantiles_of_a_law(self, law):
        X, y, _ = law(N_TRAIN, 0)
        model = QuantileNetRegressor(max_epochs=40, random_state=0)
        check_against(model.fit(X.astype(np.float32), y.astype(np.float32)), law)

    def test_starts_as_a_standard_gaussian(self):
        deviates = torch.tensor([-2.0, -0.5, 0.1, 1.0])
        head = OrderedQuantiles(3, 2, deviates)
        torch.nn.init.zeros_(head.linear.weight)
        torch.nn.init.zeros_(head.linear.bias)
        expected = (deviates - 0.1).expand(5, 2, 4)
        torch.testing.assert_close(head(torch.randn(5, 3)), expected)

    def test_never_crosses(self):
        X, y, _ = gaussian(300, 0)
        model = QuantileNetRegressor(max_epochs=20, random_state=0).fit(X, np.c_[y, -y])
        far = np.random.default_rng(1).normal(0, 1e3, (2000, 2))
        quantiles = model.predict_quantiles(far, np.linspace(0.001, 0.999, 500))
        assert quantiles.shape == (2000, 500, 2)
        assert np.all(np.diff(quantiles, axis=1) >= 0)

    def test_all_answers_are_of_one_distribution(self):
        X, y, _ = skewed(1000, 0)
        model = QuantileNetRegressor(max_epochs=10, random_state=0).fit(X, y)
        few, n_draws = X[:4], 100_000
        draws = model.sample_y(few, n_draws)
        mean, std = model.predict(few, return_std=True)
        assert np.all(np.abs(draws.mean(1) - mean) < 5 * std / np.sqrt(n_draws))
        np.testing.assert_allclose(draws.std(1), std, rtol=0.03)
        low, high = model.predict_interval(few, 0.9).T
        inside = (draws > low[:, None]) & (draws < high[:, None])
        assert np.all(np.abs(inside.mean(1) - 0.9) < 5 * np.sqrt(0.09 / n_draws))
        # The density is the slope of the distribution function.
        a, b = model.predict_quantiles(few, [0.601, 0.602]).T
        np.testing.assert_allclose(np.exp(model.log_prob(few, (a + b) / 2)), 0.001 / (b - a))

    def test_weights_are_multiplicities(self):
        X, y, _ = gaussian(60, 0)
        weight = np.random.default_rng(0).integers(0, 4, 60)
        model = QuantileNetRegressor(max_epochs=30, random_state=0)
        weighted = model.fit(X, y, sample_weight=weight).predict_quantiles(X)
        repeated = model.fit(np.repeat(X, weight, 0), np.repeat(y, weight)).predict_quantiles(X)
        np.testing.assert_allclose(weighted, repeated, rtol=1e-7)

    def test_grid_search_over_encoders(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(200, 16))
        y = X[:, :8].mean(1)
        model = QuantileNetRegressor(input_shape=(1, 16), max_epochs=5, random_state=0)
        grid = {
            "encoder": [CNN(channels=(4,)), MLP(hidden_layer_sizes=(16,))],
            "schedule": ["cosine"],
        }
        search = GridSearchCV(model, grid, cv=2).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    def test_learning_rate_falls_to_zero_and_starts_anew(self):
        X, y, _ = gaussian(512, 0)
        seen = []

        def optimizer(parameters, **options):
            made = torch.optim.SGD(parameters, **options)
            made.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
            return made

        options = {"max_epochs": 10, "batch_size": 256, "learning_rate": 0.1, "warm_start": True}
        model = QuantileNetRegressor(optimizer=optimizer, **options).fit(X, y)
        expected = 0.05 * (1 + np.cos(np.pi * np.arange(20) / 20))
        np.testing.assert_allclose(seen, expected, atol=1e-12)
        model.fit(X, y)
        np.testing.assert_allclose(seen[20:], expected, atol=1e-12)
        model.set_params(schedule="constant").fit(X, y)
        assert set(seen[40:]) == {0.1}

    def test_warm_start_refuses_other_levels(self):
        X, y, _ = gaussian(50, 0)
        model = QuantileNetRegressor(quantiles=[0.1, 0.5, 0.9], max_epochs=1, warm_start=True)
        before = model.fit(X, y).predict_quantiles(X)
        # Of as many, too, though they would fit the network.
        for quantiles in ([0.1, 0.9], [0.2, 0.5, 0.8]):
            with pytest.raises(ValueError, match="'quantiles' parameter was"):
                model.set_params(quantiles=quantiles).fit(X, y)
            np.testing.assert_array_equal(model.predict_quantiles(X), before)
        model.set_params(quantiles=(0.1, 0.5, 0.9)).fit(X, y)
        assert model.n_iter_ == 2

    def test_no_thread_is_refused(self):
        X, y, _ = gaussian(20, 0)
        with pytest.raises(ValueError, match="'n_jobs' parameter"):
            QuantileBDTRegressor(n_jobs=0).fit(X, y)

    @pytest.mark.parametrize(
        "quantiles", [[0.5], [0.5, 0.1], [0.1, 0.1], [0.0, 0.5], 0.5, [[0.5]], [0.5, "a"]]
    )
    @pytest.mark.parametrize("E", [QuantileNetRegressor, QuantileBDTRegressor])
    def test_wrong_levels_are_refused(self, E, quantiles):
        X, y, _ = gaussian(20, 0)
        with pytest.raises(ValueError, match="'quantiles' parameter"):
            E(quantiles=quantiles).fit(X, y)


class TestQuantileBDT:
    @pytest.mark.parametrize("law", [gaussian, skewed])
    def test_learns_the_quantiles_of_a_law(self, law):
        X, y, _ = law(N_TRAIN, 0)
        levels = [0.01, 0.05, *np.arange(0.1, 0.95, 0.1), 0.95, 0.99]
        check_against(QuantileBDTRegressor(quantiles=levels).fit(X, y), law)

    def test_intervals_of_few_events_are_less_overtrained_than_those_of_deep_trees(self):
        X, y, _ = gaussian(1000, 0)
        X_test, y_test, _ = gaussian(N_TEST, 1)

        def judge(**parameters):
            model = QuantileBDTRegressor(**parameters).fit(X, y)
            low, high = model.predict_interval(X_test, 0.68).T
            inside = np.mean((low < y_test) & (y_test < high))
            return inside, mean_pinball(y_test, model.predict_quantiles(X_test, LEVELS))

        inside, loss = judge()
        deep_inside, deep_loss = judge(max_depth=6, min_child_weight=1)
        assert loss < deep_loss
        # Of what deep trees miss, half at most is left.
        assert 0 < 0.68 - inside < (0.68 - deep_inside) / 2

    def test_is_xgboost_in_order(self):
        X, y, _ = gaussian(500, 0)
        levels = np.array([0.1, 0.5, 0.55, 0.9])
        model = QuantileBDTRegressor(quantiles=levels, max_iter=20, max_depth=4).fit(X, y)
        scaled = (y - y.mean()) / y.std()
        data = xgb.QuantileDMatrix(X, scaled, weight=np.ones(500))
        params = {"objective": "reg:quantileerror", "quantile_alpha": levels, "max_depth": 4}
        params["min_child_weight"] = model.min_child_weight
        bare = xgb.train({**params, "eta": 0.1}, data, 20).predict(xgb.DMatrix(X))
        assert (np.diff(bare, axis=1) < 0).any()
        expected = y.mean() + y.std() * np.sort(bare, axis=1)
        found = model.predict_quantiles(X, levels)
        # The same trees to the last bit: only the way of the float32 margins to units is ours.
        raw = model.boosters_[0].predict(xgb.DMatrix(X))
        np.testing.assert_array_equal(raw, bare)
        np.testing.assert_allclose(found, expected, rtol=1e-12)

        def loss(q):
            r = y[:, None] - q
            return np.maximum(levels * r, (levels - 1) * r).mean()

        # Rearranged quantiles are better than those that cross.
        assert loss(found) < loss(y.mean() + y.std() * bare)

    def test_weights_are_multiplicities_in_any_order(self):
        # More events than bins, so that where bins lie depends on all events.
        rng = np.random.default_rng(0)
        X, y, _ = gaussian(800, 0)
        weight = rng.integers(0, 3, 800)
        options = {"max_iter": 10, "subsample": 0.5, "max_bins": 32, "random_state": 0}
        model = QuantileBDTRegressor(**options)
        weighted = model.fit(X, y, sample_weight=weight).predict_quantiles(X)
        rows = rng.permutation(np.repeat(np.arange(800), weight))
        repeated = model.fit(X[rows], y[rows]).predict_quantiles(X)
        # The scaling of the targets is a sum in another order.
        np.testing.assert_allclose(weighted, repeated, rtol=1e-12)
        ones = model.fit(X, y, sample_weight=np.ones(800)).predict_quantiles(X)
        np.testing.assert_array_equal(ones, model.fit(X, y).predict_quantiles(X))

    def test_targets_that_take_ten_values(self):
        X, y, _ = positions(4000, 0)
        # Steps between positions, where a hundred shallow trees would not be done.
        model = QuantileBDTRegressor(max_depth=6, min_child_weight=1, random_state=0).fit(X, y)
        X, y, best = positions(10_000, 1)
        levels = model.levels_

        def loss(q):
            r = y[:, None] - q
            return np.maximum(levels * r, (levels - 1) * r).mean(0)

        # Levels that start at a value of many events, and cannot leave it, lose ten times that.
        found = model.predict_quantiles(X, levels)
        assert np.all(loss(found) < 4 * loss(best(levels)))
        median = np.flatnonzero(levels == 0.5)
        assert np.all(loss(found)[median] < 1.5 * loss(best(levels))[median])

    def test_equal_targets_are_spread_between_their_neighbours(self):
        y = np.array([0, 3, 1, 0, 2, 1.001, 0, 3, 1, 0], dtype=np.float32)
        n_values, spread = _spread_ties(y)
        assert n_values == 5
        expected = [-0.00375, 2.9975, 0.9975, -0.00125, 2, 1.001, 0.00125, 3.0025, 1.00025, 0.00375]
        np.testing.assert_allclose(spread, expected, atol=3e-7)
        for same in (np.full(5, 2.0, np.float32), np.arange(5, dtype=np.float32)):
            assert _spread_ties(same)[1] is same

    def test_ties_know_nothing_of_weights_and_of_order(self):
        rng = np.random.default_rng(0)
        X, y, _ = positions(400, 0)
        weight = rng.integers(0, 3, 400)
        model = QuantileBDTRegressor(max_iter=10, random_state=0)
        weighted = model.fit(X, y, sample_weight=weight).predict_quantiles(X)
        rows = rng.permutation(np.repeat(np.arange(400), weight))
        repeated = model.fit(X[rows], y[rows]).predict_quantiles(X)
        np.testing.assert_allclose(weighted, repeated, rtol=1e-9)

    def test_predicts_from_several_threads_at_once(self):
        X, y, _ = gaussian(300, 0)
        fitted = QuantileBDTRegressor(max_iter=5).fit(X, np.c_[y, -y])
        expected = fitted.predict_quantiles(X)
        for model in (fitted, *(pickle.loads(pickle.dumps(fitted)) for _ in range(5))):
            barrier = threading.Barrier(4)

            def predict(rows, model=model, barrier=barrier):
                barrier.wait(timeout=60)
                return [model.predict_quantiles(X[:rows]) for _ in range(5)]

            with ThreadPoolExecutor(4) as pool:
                # Of different numbers of events, for which different numbers of threads are best.
                for rows, answers in zip(
                    (300, 1, 30, 3), pool.map(predict, (300, 1, 30, 3)), strict=True
                ):
                    for answer in answers:
                        np.testing.assert_array_equal(answer, expected[:rows])

    def test_targets_are_fitted_one_by_one(self):
        X, y, _ = gaussian(300, 0)
        model = QuantileBDTRegressor(max_iter=5)
        both = model.fit(X, np.c_[y, y**3]).predict_quantiles(X, [0.2, 0.7])
        assert both.shape == (300, 2, 2)
        alone = model.fit(X, y**3).predict_quantiles(X, [0.2, 0.7])
        np.testing.assert_allclose(both[..., 1], alone, rtol=1e-12)

    def test_missing_values_are_a_side_of_a_split(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(1000, 2))
        missing = rng.uniform(size=1000) < 0.3
        y = np.where(missing, 5.0, X[:, 0]) + 0.1 * rng.normal(size=1000)
        X[missing, 0] = np.nan
        model = QuantileBDTRegressor(quantiles=[0.25, 0.5, 0.75], max_depth=3).fit(X, y)
        quartiles = model.predict_quantiles(X[missing], [0.25, 0.5, 0.75])
        # Of a Gaussian of width 0.1 around 5.
        np.testing.assert_allclose(quartiles.mean(0), 5 + 0.06745 * np.r_[-1, 0, 1], atol=0.03)

    def test_early_stopping_keeps_the_best_round(self):
        X, y, _ = gaussian(600, 0)
        model = QuantileBDTRegressor(
            early_stopping=True, max_iter=300, learning_rate=0.3, random_state=0
        ).fit(X, y)
        (loss,) = model.validation_loss_
        assert model.n_iter_ == loss.argmin() + 1 < 300
        assert model.boosters_[0].num_boosted_rounds() == model.n_iter_
        with pytest.raises(ValueError, match="validation_fraction"):
            model.set_params(min_child_weight=0.0).fit(X[:1], y[:1])

    @pytest.mark.parametrize(
        ("n", "weight", "settings", "seen"),
        [
            (600, 0.01, {}, "6"),
            # The sum of all events suffices for two leaves of 20, what is left of them does not.
            (42, None, {"early_stopping": True}, "37"),
            (42, 1.0, {"early_stopping": True}, "37"),
            # Numbers of drawn events fluctuate, but by no four standard deviations.
            (50, None, {"subsample": 0.5}, "25"),
            (50, None, {"early_stopping": True, "subsample": 0.5}, "22.5"),
        ],
    )
    def test_trees_that_see_too_little_for_two_leaves_say_so(self, n, weight, settings, seen):
        X, y, _ = gaussian(n, 0)
        weight = None if weight is None else np.full(n, weight)
        model = QuantileBDTRegressor(max_iter=2, random_state=0, **settings)
        with pytest.warns(UserWarning, match=rf"Of {n} events.* w h of {seen},") as record:
            model.fit(X, np.column_stack([y, -y]), weight)
        # Once, for both targets.
        assert [warning.filename for warning in record] == [__file__]
        assert np.ptp(model.predict(X), axis=0).max() == 0

    def test_the_warning_knows_nothing_of_how_events_are_counted(self):
        X, y, _ = gaussian(21, 0)
        model = QuantileBDTRegressor(max_iter=2, early_stopping=True, random_state=0)
        for data in ((X, y, np.full(21, 2.0)), (np.tile(X, (2, 1)), np.tile(y, 2))):
            with pytest.warns(UserWarning, match=r"Of 42 events.* w h of 36,"):
                model.fit(*data)
            assert np.ptp(model.predict(X)) == 0

    def test_trees_of_any_target_that_see_too_little_say_so(self):
        # The trees of a target split if the one heavy event is not among those it holds out.
        X, y, _ = gaussian(60, 0)
        weight, targets = np.r_[100.0, np.ones(59)], np.outer(y, [1.0, 2.0, 3.0])
        for seed in range(4):
            model = QuantileBDTRegressor(
                max_iter=2, early_stopping=True, validation_fraction=0.4, random_state=seed
            )
            with warnings.catch_warnings(record=True) as record:
                warnings.simplefilter("always")
                model.fit(X, targets, weight)
            constant = np.ptp(model.predict(X), axis=0) == 0
            assert len(record) == constant.any()

    def test_trees_that_see_enough_for_two_leaves_split(self):
        X, y, _ = gaussian(60, 0)
        model = QuantileBDTRegressor(max_iter=2, early_stopping=True, subsample=0.8, random_state=0)
        assert np.ptp(model.fit(X, y).predict(X)) > 0
