"""Conformal prediction: ranks, their laws, and what they promise for every kind of event."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse, stats
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel
from sklearn.linear_model import BayesianRidge, Lars, LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    ShuffleSplit,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

from sknuc.distributions import QuantileBDTRegressor
from sknuc.uncertainty import ConformalClassifier, ConformalRegressor
from sknuc.uncertainty._event_draws import event_uniforms

N_REPETITIONS = 200


class Fixed(RegressorMixin, BaseEstimator):
    """Predictions that need no fit: a mean, a spread and Gaussian quantiles, given by functions."""

    def __init__(self, mean=None, std=None, n_targets=None):
        self.mean = mean
        self.std = std
        self.n_targets = n_targets

    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, X, return_std=False):
        shape = (len(X),) if self.n_targets is None else (len(X), self.n_targets)
        mean = np.zeros(shape) if self.mean is None else self.mean(X)
        return (mean, self.std(X)) if return_std else mean

    def predict_quantiles(self, X, quantiles):
        mean, std = self.predict(X, return_std=True)
        return mean[:, None] + std[:, None] * stats.norm.ppf(quantiles)


class LeastSquares(RegressorMixin, BaseEstimator):
    """A straight line by the shortest way, for the tests that repeat experiments."""

    def __init__(self, alpha=0.0):
        self.alpha = alpha

    def fit(self, X, y):
        A = np.column_stack([X, np.ones(len(X))])
        self.coef_ = np.linalg.solve(A.T @ A + self.alpha * np.eye(A.shape[1]), A.T @ y)
        return self

    def predict(self, X):
        return np.column_stack([X, np.ones(len(X))]) @ self.coef_


class Centroids(ClassifierMixin, BaseEstimator):
    """Gaussians of unit width around the mean of each class."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == label].mean(0) for label in self.classes_])
        return self

    def predict_proba(self, X):
        return softmax(-((X[:, None] - self.means_) ** 2).sum(2) / 2, axis=1)


def zero(n_targets=None):
    return FrozenEstimator(Fixed(n_targets=n_targets))


def covers(interval, y):
    return (interval[:, 0] <= y) & (y <= interval[:, 1])


def mean_and_error(covered):
    covered = np.asarray(covered, dtype=float)
    return covered.mean(), max(covered.std(), 0.01) / np.sqrt(len(covered))


def assert_covers(covered, nominal, at_most=1.0):
    """At least the nominal share, up to four errors of the repetitions."""
    share, error = mean_and_error(covered)
    assert nominal - 4 * error <= share <= at_most + 4 * error, (share, error)


def assert_misses(covered, nominal):
    """Less than the nominal share, by more than four errors of the repetitions."""
    share, error = mean_and_error(covered)
    assert share < nominal - 4 * error, (share, error)


def most_of_folds(coverage, n, error_of_all, error_of_parts, n_targets=1):
    """What CV+ holds at most, of Gaussian measurements of variance 1 and least squares.

    The level of n ranks is a multiple of 1/(n + 1). The mean of the models predicts with the
    variance `error_of_all`, that of all events; each model with `error_of_parts`, and so scatters
    around the mean with the difference. An atom is a prediction and a residual of a model.
    """
    level = (coverage + np.mean(1 / (np.asarray(n) + 1))) ** (1 / n_targets)
    atoms = 1 + error_of_parts + (error_of_parts - error_of_all)
    half_width = stats.norm.ppf((1 + level) / 2) * np.sqrt(atoms / (1 + error_of_all))
    return (2 * stats.norm.cdf(half_width) - 1) ** n_targets


def most_of_minmax(coverage, n, error_of_all, error_of_parts):
    """The same of the method "minmax" with five folds: the outermost model, and one quantile.

    Five Gaussians that scatter around their mean are correlated by -1/4: the largest is where that
    of independent ones with the variance 5/4 is. By Jensen, since Φ is concave above its median,
    the mean end holds at least what ends hold in the mean.
    """
    half_width = stats.norm.ppf((1 + coverage + 1 / (n + 1)) / 2) * np.sqrt(1 + error_of_parts)
    largest = stats.norm.expect(lambda z: 5 * z * stats.norm.cdf(z) ** 4)
    half_width += largest * np.sqrt(5 / 4 * (error_of_parts - error_of_all))
    return 2 * stats.norm.cdf(half_width / np.sqrt(1 + error_of_all)) - 1


# ---- one estimator, other events to calibrate


@pytest.mark.parametrize("coverage", [0.5, 0.68, 0.9, 0.95])
@pytest.mark.parametrize("n", [19, 25, 100])
def test_the_half_width_is_the_ceil_c_n_plus_1_th_residual(n, coverage):
    rng = np.random.default_rng(n)
    X, y = rng.normal(size=(n, 2)), rng.standard_t(3, n)
    model = ConformalRegressor(zero()).fit(X, y)
    # Integers by decimal arithmetic: 0.95 · 20 is 19.
    k = -(-round(coverage * 100) * (n + 1) // 100)
    low, high = model.predict_interval(X[:1], coverage)[0]
    assert high == -low == np.sort(np.abs(y))[k - 1]
    signed = clone(model).set_params(symmetric=False).fit(X, y)
    tail = -(-(100 + round(coverage * 100)) * (n + 1) // 200)
    if tail <= n:
        low, high = signed.predict_interval(X[:1], coverage)[0]
        assert high == np.sort(y)[tail - 1]
        assert low == np.sort(y)[n - tail]


def test_coverage_given_the_calibration_follows_the_beta_law():
    # |y| is uniform, so an interval ±q covers q of all new events: exactly Beta(k, n + 1 - k).
    rng = np.random.default_rng(0)
    n, coverage = 30, 0.8
    k = int(np.ceil(coverage * (n + 1)))
    X = np.zeros((n, 1))
    widths = [
        ConformalRegressor(zero()).fit(X, rng.uniform(-1, 1, n)).predict_interval(X[:1], coverage)
        for _ in range(N_REPETITIONS)
    ]
    shares = np.array(widths)[:, 0, 1]
    assert stats.kstest(shares, stats.beta(k, n + 1 - k).cdf).pvalue > 1e-3


def test_quantiles_of_signed_scores_are_calibrated_one_by_one():
    rng = np.random.default_rng(1)
    levels = np.array([0.1, 0.3, 0.7, 0.9])
    n = 39
    below = []
    for _ in range(N_REPETITIONS):
        X, y = np.zeros((n + 200, 1)), rng.exponential(1, n + 200)
        model = ConformalRegressor(zero(), symmetric=False).fit(X[:n], y[:n])
        below.append((y[n:, None] <= model.predict_quantiles(X[:1], levels)).mean(0))
    # Levels times n + 1 are integers, and ranks then have the levels exactly.
    error = np.std(below, axis=0) / np.sqrt(N_REPETITIONS)
    assert np.all(np.abs(np.mean(below, axis=0) - levels) < 4 * error)


def test_weights_are_repetitions():
    rng = np.random.default_rng(2)
    X, y, w = rng.normal(size=(60, 2)), rng.normal(size=60), rng.integers(0, 4, 60)
    for symmetric in (True, False):
        model = ConformalRegressor(zero(), symmetric=symmetric)
        weighted = clone(model).fit(X, y, sample_weight=w)
        repeated = clone(model).fit(X.repeat(w, 0), y.repeat(w))
        levels = [0.05, 0.16, 0.5, 0.84, 0.95]
        assert_array_equal(
            weighted.predict_quantiles(X, levels), repeated.predict_quantiles(X, levels)
        )
        for a, b in zip(weighted.predict(X, True), repeated.predict(X, True), strict=True):
            assert_allclose(a, b, rtol=1e-12)
    labels = rng.integers(0, 3, 60)
    classifier = LogisticRegression().fit(X, labels)
    model = ConformalClassifier(FrozenEstimator(classifier))
    weighted = clone(model).fit(X, labels, sample_weight=w).predict_p_values(X)
    repeated = clone(model).fit(X.repeat(w, 0), labels.repeat(w)).predict_p_values(X)
    assert_allclose(weighted, repeated, rtol=1e-12)


def test_events_without_weight_are_absent_from_folds():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    present = rng.uniform(size=50) < 0.7
    model = ConformalRegressor(random_state=0)
    weighted = clone(model).fit(X, y, sample_weight=present.astype(float))
    without = clone(model).fit(X[present], y[present])
    assert_allclose(weighted.predict_interval(X, 0.9), without.predict_interval(X, 0.9), rtol=1e-10)


# ---- folds


def pooled(model, X, y, splits, X_new):
    """Predictions of all models at new events, per calibration event, and their residuals."""
    at, residuals = np.empty((len(X_new), len(y))), np.empty(len(y))
    for train, test in splits:
        fitted = clone(model).fit(X[train], y[train])
        at[:, test] = fitted.predict(X_new)[:, None]
        residuals[test] = y[test] - fitted.predict(X[test])
    return at, residuals


@pytest.mark.parametrize("cv", [LeaveOneOut(), KFold(4)], ids=["jackknife+", "CV+"])
def test_intervals_of_folds_are_those_of_the_paper(cv):
    rng = np.random.default_rng(4)
    X, X_new = rng.normal(size=(40, 3)), rng.normal(size=(7, 3))
    y = X[:, 0] + rng.normal(size=40)
    at, residuals = pooled(LinearRegression(), X, y, cv.split(X), X_new)
    for coverage, k in ((0.68, 28), (0.9, 37)):
        up = np.sort(at + np.abs(residuals), axis=1)[:, k - 1]
        down = -np.sort(-(at - np.abs(residuals)), axis=1)[:, k - 1]
        model = ConformalRegressor(LinearRegression(), cv=cv).fit(X, y)
        assert_allclose(model.predict_interval(X_new, coverage), np.stack([down, up], 1))
        q = np.sort(np.abs(residuals))[k - 1]
        minmax = ConformalRegressor(LinearRegression(), cv=cv, method="minmax").fit(X, y)
        expected = np.stack([at.min(1) - q, at.max(1) + q], 1)
        assert_allclose(minmax.predict_interval(X_new, coverage), expected)
    signed = ConformalRegressor(LinearRegression(), cv=cv, symmetric=False).fit(X, y)
    atoms = np.sort(at + residuals, axis=1)
    # 41 ranks: of the level 0.9, the 37th, of 0.1 the 4th; around the median, the 20th and 21st.
    expected = np.stack([atoms[:, 3], atoms[:, 19:21].mean(1), atoms[:, 36]], 1)
    assert_allclose(signed.predict_quantiles(X_new, [0.1, 0.5, 0.9]), expected)


@pytest.mark.parametrize("weights", [None, "groups"])
def test_mean_std_and_draws_are_those_of_the_atoms(weights):
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) ** 2
    groups = None if weights is None else rng.integers(6, size=30)
    cv = KFold(5) if weights is None else LeaveOneGroupOut()
    splits = list(cv.split(X, groups=groups))
    p = np.ones(30) if groups is None else 1 / np.bincount(groups)[groups]
    p /= p.sum()
    for symmetric in (True, False):
        model = ConformalRegressor(LinearRegression(), cv=cv, symmetric=symmetric)
        model.fit(X, y, groups=groups)
        draws = model.sample_y(X[:3], 40_000)
        mean, std = model.predict(X[:3], return_std=True)
        for t in range(2):
            at, residuals = pooled(LinearRegression(), X, y[:, t], splits, X[:3])
            atoms = np.hstack([at + residuals, at - residuals]) if symmetric else at + residuals
            q = np.tile(p, 2) / 2 if symmetric else p
            assert_allclose(mean[:, t], atoms @ q)
            assert_allclose(std[:, t] ** 2, (atoms - mean[:, [t]]) ** 2 @ q)
            cdf = (atoms[0] <= np.sort(atoms[0])[:, None]) @ q
            found = (draws[0, t] <= np.sort(atoms[0])[:, None] + 1e-9).mean(1)
            assert np.all(np.abs(found - cdf) < 5 * np.sqrt(cdf * (1 - cdf) / 40_000) + 1e-3)
    # A draw holds the residuals of one event: their correlation is that of the atoms.
    scores = model.calibration_scores_
    weight = model.calibration_weights_ / model.calibration_weights_.sum()
    means = np.array([[e.predict(X[:1])[0] for e in model.estimators_]])[0]
    folds = np.empty(30, dtype=int)
    for fold, (_, test) in enumerate(splits):
        folds[np.isin(model.calibration_indices_, test)] = fold
    atoms = means[folds] + scores
    expected = np.cov(atoms.T, aweights=weight, ddof=0)[0, 1]
    products = (draws[0, 0] - mean[0, 0]) * (draws[0, 1] - mean[0, 1])
    assert abs(products.mean() - expected) < 5 * products.std() / 200


def test_jackknife_plus_covers_where_the_fit_interpolates_almost():
    # As many parameters as half the events: residuals of the fit say nothing.
    rng = np.random.default_rng(6)
    n, d = 16, 10
    covered, naive = [], []
    for _ in range(N_REPETITIONS):
        beta = rng.normal(size=d)
        X, X_new = rng.normal(size=(n, d)), rng.normal(size=(20, d))
        y, y_new = X @ beta + rng.normal(size=n), X_new @ beta + rng.normal(size=20)
        model = ConformalRegressor(LeastSquares(), cv=LeaveOneOut()).fit(X, y)
        covered.append(covers(model.predict_interval(X_new, 0.8), y_new).mean())
        fitted = LeastSquares().fit(X, y)
        q = np.quantile(np.abs(y - fitted.predict(X)), 0.8)
        naive.append(np.mean(np.abs(y_new - fitted.predict(X_new)) <= q))
    assert_covers(covered, 0.8)
    assert_misses(naive, 0.8)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("parameters", [{}, {"cv": "split"}, {"method": "minmax"}])
def test_folds_cover(parameters, linear):
    rng = np.random.default_rng(7)
    covered = {0.68: [], 0.9: []}
    for _ in range(N_REPETITIONS):
        X = rng.normal(size=(80, 2))
        if linear:
            y = X[:, 0] + rng.normal(size=80)
        else:
            y = np.sin(3 * X[:, 0]) + rng.standard_t(3, 80)
        model = ConformalRegressor(LeastSquares(), random_state=0, **parameters)
        model.fit(X[:40], y[:40])
        for coverage, shares in covered.items():
            shares.append(covers(model.predict_interval(X[40:], coverage), y[40:]).mean())
    for coverage, shares in covered.items():
        if parameters == {"cv": "split"}:
            # Of 40 events, 10 calibrate.
            assert_covers(shares, coverage, coverage + 1 / 11)
        elif linear:
            # Three parameters of 40 events, and of 32.
            bound = most_of_minmax if parameters else most_of_folds
            assert_covers(shares, coverage, bound(coverage, 40, 3 / 36, 3 / 28))
        else:
            # How much folds hold at most is known of least squares, where these are right, only.
            assert_covers(shares, coverage)


# ---- scores that follow the event


def test_normalized_intervals_scale_with_the_predicted_spread():
    rng = np.random.default_rng(8)
    X = rng.uniform(1, 5, (4000, 1))
    y = 3 + X[:, 0] * rng.laplace(size=4000)
    # The spread is wrong by a factor, as of a Gaussian that has never seen the data.
    model = Fixed(lambda X: np.full(len(X), 3.0), lambda X: 0.1 * X[:, 0])
    conformal = ConformalRegressor(FrozenEstimator(model), conformity_score="normalized")
    conformal.fit(X[:2000], y[:2000])
    interval = conformal.predict_interval(X[2000:], 0.9)
    width = np.diff(interval)[:, 0] / X[2000:, 0]
    assert_allclose(width, width[0])
    for low in range(1, 5):
        inside = (X[2000:, 0] >= low) & (X[2000:, 0] < low + 1)
        share = covers(interval, y[2000:])[inside].mean()
        assert abs(share - 0.9) < 4 * np.sqrt(0.09 * (1 / inside.sum() + 1 / 2000))
    _, std = conformal.predict(X[2000:], return_std=True)
    z = conformal.calibration_scores_[:, 0]
    assert_allclose(std, 0.1 * X[2000:, 0] * np.sqrt(np.mean(z**2)))


def test_scores_ask_the_estimator_for_what_it_has():
    X, y = np.random.default_rng(0).normal(size=(2, 30, 1))
    for estimator in (Ridge(), make_pipeline(StandardScaler(), SVR()), FrozenEstimator(Ridge())):
        model = ConformalRegressor(estimator, conformity_score="normalized")
        with pytest.raises(ValueError, match=r"'normalized' asks.*'estimator'.*return_std.*none"):
            model.fit(X, y[:, 0])
    ridge = make_pipeline(StandardScaler(), BayesianRidge())
    model = ConformalRegressor(ridge, conformity_score="normalized").fit(X, y[:, 0])
    assert np.all(np.diff(model.predict_interval(X)) > 0)


def test_normalized_folds_use_the_spread_of_each_model():
    rng = np.random.default_rng(9)
    X, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    gp = GaussianProcessRegressor(WhiteKernel(), optimizer=None)
    model = ConformalRegressor(gp, conformity_score="normalized", cv=KFold(3)).fit(X, y)
    ends = []
    for train, test in KFold(3).split(X):
        fitted = clone(gp).fit(X[train], y[train])
        mean, std = fitted.predict(X[test], return_std=True)
        at, scale = fitted.predict(X[:4], return_std=True)
        ends.append(at[:, None] + scale[:, None] * np.abs((y[test] - mean) / std))
    k = int(np.ceil(0.8 * 31))
    expected = np.sort(np.hstack(ends), axis=1)[:, k - 1]
    assert_allclose(model.predict_interval(X[:4], 0.8)[:, 1], expected)


def heteroscedastic(rng, n):
    X = rng.uniform(0.2, 3, (n, 1))
    return X, X[:, 0] * rng.normal(size=n)


def test_cqr_keeps_quantiles_that_are_right_and_repairs_those_that_are_not():
    rng = np.random.default_rng(10)
    X, y = heteroscedastic(rng, 6000)
    X_new, y_new = heteroscedastic(rng, 6000)
    for factor in (1.0, 0.5):
        model = Fixed(std=lambda X, f=factor: f * X[:, 0])
        conformal = ConformalRegressor(FrozenEstimator(model), conformity_score="cqr").fit(X, y)
        interval = conformal.predict_interval(X_new, 0.8)
        raw = model.predict_quantiles(X_new, [0.1, 0.9])
        moved = (interval - raw)[:, 1]
        assert_allclose(moved, moved[0])
        # The score of Romano et al.
        predicted = model.predict_quantiles(X, [0.1, 0.9])
        score = np.maximum(predicted[:, 0] - y, y - predicted[:, 1])
        assert_allclose(moved[0], np.sort(score)[int(np.ceil(0.8 * 6001)) - 1])
        assert abs(covers(interval, y_new).mean() - 0.8) < 4 * np.sqrt(2 * 0.16 / 6000)
        if factor == 1:
            assert abs(moved[0]) < 0.05
    # What is said with one coverage is of the distribution that is said otherwise.
    draws = conformal.sample_y(X_new[:5], 20_000)
    mean, std = conformal.predict(X_new[:5], return_std=True)
    assert np.all(np.abs(draws.mean(1) - mean) < 5 * std / np.sqrt(20_000))
    found = np.quantile(draws, [0.16, 0.84], axis=1).T
    assert_allclose(found, conformal.predict_interval(X_new[:5], 0.68), atol=0.1)


def test_spreads_are_found_behind_pipelines_and_searches():
    rng = np.random.default_rng(45)
    X, y = heteroscedastic(rng, 200)
    pipeline = make_pipeline(StandardScaler(), BayesianRidge())
    search = GridSearchCV(pipeline, {"bayesianridge__max_iter": [300]}, cv=2)
    frozen = FrozenEstimator(clone(search).fit(X[:100], y[:100]))
    intervals = [
        ConformalRegressor(estimator, conformity_score="normalized", random_state=0)
        .fit(X[100:], y[100:])
        .predict_interval(X, 0.8)
        for estimator in (pipeline, search, frozen)
    ]
    assert_array_equal(intervals[0], intervals[1])
    Z = StandardScaler().fit(X[:100]).transform(X)
    by_hand = FrozenEstimator(BayesianRidge().fit(Z[:100], y[:100]))
    by_hand = ConformalRegressor(by_hand, conformity_score="normalized").fit(Z[100:], y[100:])
    assert_allclose(by_hand.predict_interval(Z, 0.8), intervals[2])
    plain = GridSearchCV(make_pipeline(StandardScaler(), LinearRegression()), {})
    with pytest.raises(ValueError, match="Got LinearRegression instead"):
        ConformalRegressor(plain, conformity_score="normalized").fit(X, y)


def test_cqr_finds_quantiles_behind_pipelines_and_searches():
    rng = np.random.default_rng(41)
    X, y = heteroscedastic(rng, 300)
    steps = StandardScaler(), QuantileBDTRegressor(max_iter=10)
    pipeline = make_pipeline(*steps)
    search = GridSearchCV(pipeline, {"quantilebdtregressor__max_iter": [10]}, cv=2)
    frozen = FrozenEstimator(clone(search).fit(X[:100], y[:100]))
    intervals = [
        ConformalRegressor(estimator, conformity_score="cqr", random_state=0)
        .fit(X[100:], y[100:])
        .predict_interval(X, 0.8)
        for estimator in (pipeline, search, frozen)
    ]
    assert_array_equal(intervals[0], intervals[1])
    by_hand = steps[1].fit(steps[0].fit_transform(X[:100]), y[:100])
    by_hand = ConformalRegressor(FrozenEstimator(by_hand), conformity_score="cqr")
    Z = steps[0].transform(X)
    assert_allclose(by_hand.fit(Z[100:], y[100:]).predict_interval(Z, 0.8), intervals[2])
    plain = make_pipeline(StandardScaler(), LinearRegression())
    with pytest.raises(ValueError, match="which LinearRegression has not"):
        ConformalRegressor(plain, conformity_score="cqr").fit(X, y)


def test_cqr_calibrates_both_sides_by_themselves():
    rng = np.random.default_rng(11)
    X = rng.uniform(1, 2, (3000, 1))
    y = rng.exponential(1, 3000)
    model = FrozenEstimator(Fixed(std=lambda X: X[:, 0]))
    conformal = ConformalRegressor(model, conformity_score="cqr", symmetric=False)
    conformal.fit(X[:1500], y[:1500])
    for level in (0.05, 0.3, 0.95):
        share = (y[1500:] <= conformal.predict_quantiles(X[1500:], level)).mean()
        assert abs(share - level) < 4 * np.sqrt(2 * level * (1 - level) / 1500)


# ---- who is like whom


def test_weighted_intervals_cover_shifted_events_and_plain_ones_do_not():
    # Simulated: x ~ U(0, 1). Measured: density 3x². The noise grows with x.
    rng = np.random.default_rng(12)
    model = ConformalRegressor(zero(), density_ratio=lambda X: 3 * X[:, 0] ** 2)
    plain, weighted, largest = [], [], []
    for _ in range(N_REPETITIONS):
        x, x_new = rng.uniform(size=(120, 1)), rng.uniform(size=(50, 1)) ** (1 / 3)
        y, y_new = x[:, 0] * rng.normal(size=120), x_new[:, 0] * rng.normal(size=50)
        weighted.append(covers(model.fit(x, y).predict_interval(x_new, 0.9), y_new).mean())
        unweighted = ConformalRegressor(zero()).fit(x, y).predict_interval(x_new, 0.9)
        plain.append(covers(unweighted, y_new).mean())
        # By what a quantile of atoms may hold too much: the largest atom.
        largest.append(3 / (1 + (3 * x**2).sum()))
    assert_covers(weighted, 0.9, at_most=0.9 + np.mean(largest))
    assert_misses(plain, 0.9)
    # The weighted quantile of Tibshirani et al., written out for one event.
    w, own = 3 * x[:, 0] ** 2, 3 * x_new[0, 0] ** 2
    order = np.argsort(np.abs(y))
    k = np.argmax(np.cumsum(w[order]) / (w.sum() + own) >= 0.9)
    assert model.predict_interval(x_new[:1], 0.9)[0, 1] == np.abs(y)[order[k]]


def test_density_ratio_from_a_classifier():
    # Two Gaussians: the log of their ratio is linear, which the classifier can learn.
    rng = np.random.default_rng(13)
    simulation, data = rng.normal(0, 1, (20_000, 1)), rng.normal(0.8, 1, (20_000, 1))
    classifier = LogisticRegression().fit(np.vstack([simulation, data]), np.repeat([0, 1], 20_000))
    y = np.exp(simulation[:, 0]) * rng.normal(size=20_000)
    y_data = np.exp(data[:, 0]) * rng.normal(size=20_000)
    learned = ConformalRegressor(zero(), density_ratio=FrozenEstimator(classifier))
    learned = clone(learned).fit(simulation, y)
    exact = ConformalRegressor(zero(), density_ratio=lambda X: np.exp(0.8 * X[:, 0] - 0.32))
    exact.fit(simulation, y)
    # Errors of shares: of new events, and of calibration events that weights make fewer.
    error = 4 * np.sqrt(0.09 * (1 + np.exp(0.8**2)) / 20_000)
    for model in (learned, exact):
        share = covers(model.predict_interval(data, 0.9), y_data).mean()
        assert abs(share - 0.9) < error
    plain = ConformalRegressor(zero()).fit(simulation, y).predict_interval(data, 0.9)
    assert covers(plain, y_data).mean() < 0.9 - error


def test_where_the_simulation_has_no_weight_is_said():
    rng = np.random.default_rng(14)
    X, y = rng.uniform(size=(50, 1)), rng.normal(size=50)
    model = ConformalRegressor(zero(), density_ratio=lambda X: np.exp(4 * X[:, 0])).fit(X, y)
    far = np.array([[0.5], [3.0]])
    with pytest.raises(ValueError, match="no support for 1 of 2 events"):
        model.predict_interval(far, 0.9)
    interval = model.set_params(tail="infinite").predict_interval(far, 0.9)
    assert_array_equal(np.isinf(interval), [[False, False], [True, True]])


def test_every_category_is_covered():
    rng = np.random.default_rng(15)
    covered, plain, counts = [], [], []
    for _ in range(N_REPETITIONS):
        X = np.column_stack([rng.normal(size=200), rng.uniform(size=200) < 0.2])
        y = X[:, 0] + np.where(X[:, 1], 5, 1) * rng.normal(size=200)
        rare = X[100:, 1] == 1
        for parameters, shares in (({"mondrian": 1}, covered), ({}, plain)):
            model = ConformalRegressor(LeastSquares(), random_state=0, **parameters)
            interval = model.fit(X[:100], y[:100]).predict_interval(X[100:], 0.8)
            inside = covers(interval, y[100:])
            shares.append([inside[rare].mean(), inside[~rare].mean()])
        counts.append([np.sum(X[:100, 1] == 1), np.sum(X[:100, 1] == 0)])
    share, variance = np.array([0.2, 0.8]), np.array([25, 1])
    for category in (0, 1):
        # Each category has a mean of its own, and all have one slope.
        slope = share @ variance / variance[category]
        error = 1 / share[category] + slope
        at_most = most_of_folds(0.8, np.array(counts)[:, category], error / 100, error / 80)
        assert_covers(np.array(covered)[:, category], 0.8, at_most)
    assert_misses(np.array(plain)[:, 0], 0.8)


def test_categories_are_calibrated_as_if_alone():
    rng = np.random.default_rng(16)
    X, y = np.column_stack([rng.normal(size=90), np.arange(90) % 3]), rng.normal(size=90)
    both = ConformalRegressor(zero(), mondrian=1, symmetric=False).fit(X, y)
    named = ConformalRegressor(
        zero(), mondrian=lambda X: np.array(["c", "a", "b"])[X[:, 1].astype(int)]
    )
    named.set_params(symmetric=False).fit(X, y)
    assert_array_equal(named.predict_interval(X), both.predict_interval(X))
    draws = both.sample_y(X, 5, random_state=1)
    quantiles = both.predict_quantiles(X, [0.2, 0.9])
    mean, std = both.predict(X, return_std=True)
    for category in range(3):
        rows = X[:, 1] == category
        one = ConformalRegressor(zero(), symmetric=False).fit(X[rows], y[rows])
        assert_array_equal(quantiles[rows], one.predict_quantiles(X[rows], [0.2, 0.9]))
        for a, b in zip((mean, std), one.predict(X[rows], return_std=True), strict=True):
            assert_allclose(a[rows], b)
        assert np.isin(draws[rows], y[rows]).all()
    with pytest.raises(ValueError, match=r"categories \[7.0\]"):
        both.predict(np.array([[0.0, 7.0]]))


# ---- groups


def positions(rng, n_groups, n_per_group):
    """Events at positions of the source: each position has an offset of its own."""
    groups = np.repeat(np.arange(n_groups), n_per_group)
    X = rng.normal(size=(len(groups), 2))
    y = X[:, 0] + rng.normal(0, 1, n_groups)[groups] + rng.normal(0, 0.3, len(groups))
    return X, y, groups


def test_new_groups_are_covered_and_folds_of_events_do_not_cover_them():
    rng = np.random.default_rng(17)
    by_group, by_event, split = [], [], []
    for _ in range(N_REPETITIONS):
        # What the estimator remembers of a group is in the mark that comes with it.
        X, y, groups = positions(rng, 15, 6)
        mark = rng.normal(size=15)[groups]
        X = np.column_stack([X, np.cos(37 * np.outer(mark, np.arange(1, 15)))])
        new = groups >= 12
        old = ~new
        sides = (
            (ConformalRegressor(LeastSquares(1e-3), cv=LeaveOneGroupOut()), by_group, groups[old]),
            (
                ConformalRegressor(LeastSquares(1e-3), cv="split", calibration_fraction=0.5),
                split,
                groups[old],
            ),
            (ConformalRegressor(LeastSquares(1e-3)), by_event, None),
        )
        for model, shares, g in sides:
            model.set_params(random_state=0).fit(X[old], y[old], groups=g)
            shares.append(covers(model.predict_interval(X[new], 0.68), y[new]).mean())
    assert_covers(by_group, 0.68)
    assert_covers(split, 0.68)
    assert_misses(by_event, 0.68)


def test_groups_weigh_alike_whatever_their_number_of_events():
    rng = np.random.default_rng(18)
    groups = np.repeat(np.arange(6), [1, 2, 3, 10, 50, 4])
    y, X = rng.normal(size=70), np.zeros((70, 1))
    model = ConformalRegressor(zero()).fit(X, y, groups=groups)
    weight = 1 / (7 * np.bincount(groups)[groups])
    order = np.argsort(np.abs(y))
    for coverage in (0.3, 0.68, 0.85):
        k = np.argmax(np.cumsum(weight[order]) >= coverage)
        assert model.predict_interval(X[:1], coverage)[0, 1] == np.abs(y)[order[k]]
    # Six sevenths are all that six groups know.
    assert_allclose(model.predict_interval(X[:1], 6 / 7)[0, 1], np.abs(y).max())
    with pytest.raises(ValueError, match="at least 19 calibration groups, but there are 6"):
        model.predict_interval(X[:1], 0.95)
    model.set_params(tail="infinite")
    assert np.isinf(model.predict_interval(X[:1], 0.95)).all()


def test_the_tail_of_student_is_continuous_and_covers_gaussian_groups():
    rng = np.random.default_rng(19)
    X, y, groups = positions(rng, 10, 5)
    for symmetric in (True, False):
        model = ConformalRegressor(zero(), tail="student", symmetric=symmetric)
        model.fit(X, y, groups=groups)
        known = 10 / 11
        levels = [(1 + known) / 2, 0.96, 0.99] if symmetric else [known, 0.95, 0.99]
        ends = model.predict_quantiles(X[:1], levels)[0]
        top = np.abs(y).max() if symmetric else y.max()
        centre = 0 if symmetric else model.predict_quantiles(X[:1], 0.5)[0]
        assert_allclose(ends[0], top)
        ratio = stats.t.ppf(levels, 9) / stats.t.ppf(levels[0], 9)
        # The median of the distribution that is known, not of the one with a share at infinity.
        assert_allclose(
            (ends - centre) / (top - centre), ratio, rtol=0.05 if not symmetric else 1e-9
        )
    covered = []
    for _ in range(N_REPETITIONS):
        X, y, groups = positions(rng, 13, 5)
        old = groups < 10
        model = ConformalRegressor(LeastSquares(), cv=LeaveOneGroupOut(), tail="student")
        model.fit(X[old], y[old], groups=groups[old])
        covered.append(covers(model.predict_interval(X[~old], 0.95), y[~old]).mean())
    assert_covers(covered, 0.95)


def test_what_tells_no_category_no_group_and_no_class_is_an_error():
    rng = np.random.default_rng(42)
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    with pytest.raises(ValueError, match=r"column 7, but the events have the columns \[0, 1, 2\]"):
        ConformalRegressor(mondrian=7).fit(X, y)
    with pytest.raises(ValueError, match="column 'a', but the events have no names"):
        ConformalRegressor(mondrian="a").fit(X, y)
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"column 'a', but the events have the columns \['b', 'c'"):
        ConformalRegressor(mondrian="a").fit(pd.DataFrame(X, columns=list("bcd")), y)
    with pytest.raises(ValueError, match=r"function, or None\. Got True"):
        ConformalRegressor(mondrian=True).fit(X, y)
    ragged = np.empty(50, dtype=object)
    ragged[:] = [np.zeros(1 + k % 3) for k in range(50)]
    with pytest.raises(ValueError, match=r"column 0, but X is a list of events"):
        ConformalRegressor(zero(), mondrian=0).fit(ragged, y)


@pytest.mark.parametrize("missing", ["nan", "none", "NA", "NaT"])
def test_missing_groups_and_categories_are_an_error(missing):
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(43)
    y, tens = rng.normal(size=50), np.arange(50) // 10
    labels = {
        "nan": np.where(np.arange(50) == 0, np.nan, tens),
        "none": np.array([None, *"abcdefg" * 7], dtype=object),
        "NA": pd.Series([pd.NA, *"abcdefg" * 7], dtype="string"),
        "NaT": np.array(["NaT", *["2025-01-01", "2025-07-01"] * 24, "2026-01-01"], "datetime64[D]"),
    }[missing]
    X = pd.DataFrame({"x": rng.normal(size=50), "label": labels})
    with pytest.raises(ValueError, match=r"'groups' must.*missing values for 1 of 50 events"):
        ConformalRegressor(cv=2).fit(X[["x"]], y, groups=labels)
    model = ConformalRegressor(zero(), mondrian="label")
    with pytest.raises(ValueError, match=r"'mondrian' parameter must.*for 1 of 50 events"):
        model.fit(X, y)
    model.fit(X[1:], y[1:]).predict_interval(X[1:], 0.4)
    with pytest.raises(ValueError, match=r"'mondrian' parameter must.*for 1 of 50 events"):
        model.predict_interval(X, 0.4)
    # An event without weight is absent, and so is its group.
    present = (np.arange(50) > 0).astype(float)
    model = ConformalRegressor(cv=2, random_state=0)
    weighted = clone(model).fit(X[["x"]], y, sample_weight=present, groups=labels)
    without = clone(model).fit(X[["x"]][1:], y[1:], groups=labels[1:])
    assert_allclose(
        weighted.predict_interval(X[["x"]]), without.predict_interval(X[["x"]]), rtol=1e-10
    )


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (np.array([0, 1]), "1"),
        (np.array(["b", "s"]), "'s'"),
        (np.array(["b", "s"], dtype=object), "'s'"),
    ],
    ids=["int", "str", "object"],
)
def test_what_class_is_missing_is_told(labels, named):
    X = np.random.default_rng(44).normal(size=(60, 2))
    groups = np.arange(60) // 10
    only = rf"one class to learn from, \[.*\]: class {named} has "
    # Of five events four are absent.
    y, weight = labels[(np.arange(60) < 5).astype(int)], 1.0 - (np.arange(60) < 4)
    with (
        pytest.raises(ValueError, match=only + r"1 event\. Give more of them"),
        pytest.warns(UserWarning, match="least populated class"),
    ):
        ConformalClassifier().fit(X, y, sample_weight=weight)
    y = labels[(groups == 3).astype(int)]
    with pytest.raises(
        ValueError, match=only + r"10 events in 1 group, \[3\]\. Give events of it in"
    ):
        ConformalClassifier(cv=LeaveOneGroupOut()).fit(X, y, groups=groups)
    with pytest.raises(
        ValueError, match=only + r"10 events, all in that part\. Let parts be strat"
    ):
        ConformalClassifier(cv=KFold(6)).fit(X, y)
    # The one that is not learnt, which is not the rarest.
    y = labels[(groups < 4).astype(int)]
    with pytest.raises(ValueError, match=only + "40 events, all in that part"):
        ConformalClassifier(cv=[(np.arange(40, 60), np.arange(40))]).fit(X, y)


def test_groups_stay_together():
    rng = np.random.default_rng(20)
    X, y, groups = positions(rng, 8, 5)
    with pytest.raises(ValueError, match="both sides of a split"):
        ConformalRegressor(cv=list(KFold(3).split(X))).fit(X, y, groups=groups)
    for cv in (4, "split"):
        model = ConformalRegressor(LinearRegression(), cv=cv, random_state=0)
        model.fit(X, y, groups=groups)
        assert len(np.unique(groups[model.calibration_indices_])) == (8 if cv == 4 else 2)
    with pytest.raises(ValueError, match="exclude each other"):
        ConformalRegressor(density_ratio=lambda X: X[:, 0]).fit(X, y, groups=groups)
    with pytest.raises(ValueError, match="groups"):
        ConformalRegressor(cv=LeaveOneGroupOut()).fit(X, y)


# ---- several targets


def test_region_holds_all_targets_together():
    rng = np.random.default_rng(21)
    scales = np.array([1.0, 100.0, 1e-3])
    joint, marginal = [], []
    for _ in range(N_REPETITIONS):
        X = rng.normal(size=(120, 2))
        y = (X[:, :1] + rng.normal(size=(120, 3))) * scales
        model = ConformalRegressor(LeastSquares(), random_state=0).fit(X[:60], y[:60])
        for shares, box in (
            (joint, model.predict_region(X[60:], 0.8)),
            (marginal, model.predict_interval(X[60:], 0.8)),
        ):
            shares.append(covers(box, y[60:]).all(1).mean())
    # Three parameters per target, of 60 events, and of 48.
    assert_covers(joint, 0.8, most_of_folds(0.8, 60, 3 / 56, 3 / 44, n_targets=3))
    assert_misses(marginal, 0.8)


@pytest.mark.parametrize("weighted", [False, True])
def test_region_compares_targets_by_the_residuals_of_the_fit(weighted):
    rng = np.random.default_rng(46)
    X, X_new = rng.normal(size=(60, 2)), rng.normal(size=(7, 2))
    y = (X[:, :1] + rng.standard_t(3, (60, 3))) * [1.0, 100.0, 1e-3]
    w = rng.integers(1, 4, 60) if weighted else np.ones(60, dtype=int)
    model = ConformalRegressor(LinearRegression(), cv=KFold(5))
    model.fit(X, y, sample_weight=w if weighted else None)
    low, high = np.empty((2, 60, 7, 3))
    for fitted, (train, test) in zip(model.estimators_, KFold(5).split(X), strict=True):
        away = y[train] - fitted.predict(X[train])
        unit = np.sqrt(np.average(away**2, axis=0, weights=w[train]))
        farthest = (np.abs(y[test] - fitted.predict(X[test])) / unit).max(1)
        low[test] = fitted.predict(X_new) - farthest[:, None, None] * unit
        high[test] = fitted.predict(X_new) + farthest[:, None, None] * unit
    # The ranks of all events and of the new one.
    k = int(np.ceil(0.8 * (w.sum() + 1)))
    expected = [
        -np.sort(-low.repeat(w, axis=0), axis=0)[k - 1],
        np.sort(high.repeat(w, axis=0), axis=0)[k - 1],
    ]
    assert_allclose(model.predict_region(X_new, 0.8), np.stack(expected, axis=1), rtol=1e-9)


@pytest.mark.parametrize("conformity_score", ["absolute", "normalized", "cqr"])
def test_region_of_one_target_is_its_interval(conformity_score):
    rng = np.random.default_rng(22)
    X, y = heteroscedastic(rng, 80)
    model = FrozenEstimator(Fixed(std=lambda X: X[:, 0]))
    model = ConformalRegressor(model, conformity_score=conformity_score).fit(X, y)
    assert_allclose(model.predict_region(X, 0.9), model.predict_interval(X, 0.9))


def test_default_estimators_take_routed_weights():
    X = np.random.default_rng(0).normal(size=(100, 2))
    weight = np.random.default_rng(1).uniform(0.5, 1.5, 100)
    plain = ConformalRegressor(random_state=0).fit(X, X[:, 0], sample_weight=weight)
    with config_context(enable_metadata_routing=True):
        routed = ConformalRegressor(random_state=0).fit(X, X[:, 0], sample_weight=weight)
        ConformalClassifier(random_state=0).fit(X, X[:, 0] > 0, sample_weight=weight)
    np.testing.assert_array_equal(plain.predict_interval(X), routed.predict_interval(X))


@pytest.mark.parametrize("routing", [True, False])
def test_weights_for_what_takes_none_are_an_error(routing):
    X, y, w = np.random.default_rng(0).normal(size=(3, 60, 1))
    y, w = y[:, 0], np.abs(w[:, 0])
    with config_context(enable_metadata_routing=routing):
        with pytest.raises(ValueError, match=r"Lars\.fit takes none"):
            ConformalRegressor(Lars()).fit(X, y, sample_weight=w)
        if routing:
            # A scaler's request is not the learner's.
            scaler = StandardScaler().set_fit_request(sample_weight=True)
            with pytest.raises(ValueError, match=r"Pipeline\.fit takes none"):
                ConformalRegressor(make_pipeline(scaler, Lars())).fit(X, y, sample_weight=w)
            # Who refuses has weighed events in the calibration only.
            inner = LinearRegression().set_fit_request(sample_weight=False)
            model = ConformalRegressor(inner, cv=KFold(5)).fit(X, y, sample_weight=w)
            plain = ConformalRegressor(LinearRegression(), cv=KFold(5)).fit(X, y)
            assert_array_equal(model.calibration_scores_, plain.calibration_scores_)
            assert_array_equal(model.calibration_weights_, w)
        ConformalRegressor(FrozenEstimator(Lars().fit(X, y))).fit(X, y, sample_weight=w)


def test_predictions_made_before_compare_targets_by_their_residuals():
    rng = np.random.default_rng(23)
    X, y = np.zeros((3000, 1)), rng.normal(size=(3000, 2)) * [1, 50]
    region = ConformalRegressor(zero(2)).fit(X, y).predict_region(X[:1], 0.9)
    # Relative, times √n: of the median that is a target's unit, and of the quantile of the larger
    # of two, whose density is 2 F f.
    law, level = stats.halfnorm, np.sqrt(0.9)
    median, quantile = law.ppf([0.5, level])
    errors = (
        1 / (2 * law.pdf(median)) / median,
        np.sqrt(0.9 * 0.1) / (2 * level * law.pdf(quantile)) / quantile,
    )
    # Both targets hold √0.9 of their events.
    assert_allclose(
        region[0, 1],
        stats.norm.ppf((1 + np.sqrt(0.9)) / 2) * np.array([1, 50]),
        rtol=4 * np.hypot(*errors) / np.sqrt(3000),
    )


@pytest.mark.parametrize("distribution", [stats.norm(), stats.t(2)], ids=["normal", "t2"])
@pytest.mark.parametrize(("n", "coverage"), [(9, 0.9), (19, 0.95)])
def test_region_of_few_events_covers_without_knowing_their_scale(n, coverage, distribution):
    # As many events as the coverage needs: the largest score decides, and whatever the new event
    # is not compared in alike would favour those that were.
    rng = np.random.default_rng(38)
    X, scales = np.zeros((n, 1)), np.array([1.0, 100.0, 1e-3, 1.0, 7.0])
    nearest = ConformalRegressor(
        KNeighborsRegressor(1), cv="split", calibration_fraction=0.5, random_state=0
    )
    frozen, split = [], []
    for _ in range(N_REPETITIONS // 2):
        y, y_new = (distribution.rvs((m, 5), random_state=rng) * scales for m in (n, 200))
        region = ConformalRegressor(zero(5)).fit(X, y).predict_region(X[:1], coverage)
        frozen.append(covers(region, y_new).all(1).mean())
        # Knows its own events by heart, so that its residuals there have no scale.
        X_split, y_split = rng.normal(size=(2 * n, 1)), distribution.rvs((2 * n, 5), rng) * scales
        region = nearest.fit(X_split, y_split).predict_region(rng.normal(size=(200, 1)), coverage)
        split.append(covers(region, y_new).all(1).mean())
    assert_covers(frozen, coverage)
    assert_covers(split, coverage)


def test_region_weighs_events_and_groups():
    rng = np.random.default_rng(39)
    X, y, w = np.zeros((40, 1)), rng.normal(size=(40, 3)), rng.integers(0, 4, 40)
    weighted = ConformalRegressor(zero(3)).fit(X, y, sample_weight=w)
    repeated = ConformalRegressor(zero(3)).fit(X.repeat(w, 0), y.repeat(w, 0))
    assert_array_equal(weighted.predict_region(X[:1], 0.9), repeated.predict_region(X[:1], 0.9))
    covered = []
    for _ in range(N_REPETITIONS):
        groups = rng.permutation(np.repeat(np.arange(9), rng.integers(1, 20, 9)))
        y = rng.normal(size=(9, 2))[groups] + 0.3 * rng.normal(size=(len(groups), 2))
        model = ConformalRegressor(zero(2)).fit(np.zeros((len(y), 1)), y, groups=groups)
        region = model.predict_region(X[:1], 0.9)
        y_new = rng.normal(size=(500, 2)) * np.hypot(1, 0.3)
        covered.append(covers(region, y_new).all(1).mean())
    assert_covers(covered, 0.9)


def test_region_where_a_target_is_met_exactly():
    rng = np.random.default_rng(40)
    X, y = np.zeros((50, 1)), rng.normal(size=(50, 3)) * [1, 0, 1]
    region = ConformalRegressor(zero(3)).fit(X, y).predict_region(X[:1], 0.9)[0]
    assert_array_equal(region[:, 1], 0)
    without = ConformalRegressor(zero(2)).fit(X, y[:, [0, 2]]).predict_region(X[:1], 0.9)[0]
    assert_array_equal(region[:, [0, 2]], without)
    # Some targets are zero in most events, as energies in layers behind a shower.
    y = rng.normal(size=(50, 3)) * (rng.uniform(size=(50, 3)) < [1, 0.3, 0.3])
    region = ConformalRegressor(zero(3)).fit(X, y).predict_region(X[:1], 0.9)
    assert np.isfinite(region).all()
    assert covers(region, y).all(1).mean() >= 0.9


# ---- sets of classes


def classes(rng, n, n_classes=4):
    y = rng.integers(n_classes, size=n)
    return rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[y], y


@pytest.mark.parametrize("score", ["lac", "aps", "raps"])
@pytest.mark.parametrize("cv", ["split", 5])
def test_sets_cover(score, cv):
    rng = np.random.default_rng(24)
    # Of 100 events, 25 calibrate where they are split.
    n = 25 if cv == "split" else 100
    covered, p_values = [], []
    for seed in range(N_REPETITIONS // 2):
        X, y = classes(rng, 200)
        model = ConformalClassifier(
            Centroids(), conformity_score=score, randomized=True, cv=cv, random_state=seed
        )
        sets = model.fit(X[:100], y[:100]).predict_set(X[100:], 0.8)
        covered.append(sets[np.arange(100), y[100:]].mean())
        p = model.predict_p_values(X[100:])
        assert_array_equal(sets, p > 0.2 * (1 + 1e-9))
        p_values.append(p[np.arange(100), y[100:]].mean())
    if cv == "split":
        assert_covers(covered, 0.8, at_most=0.8 + 1 / 26)
    else:
        # At most: see the mean of the p-values. How alike folds rank an event, nothing bounds.
        assert_covers(covered, 0.8)
    # A model that has seen neither a calibration event nor a new one ranks either first alike. So
    # sets that hold too much at one coverage hold too little at another.
    mean, error = mean_and_error(p_values)
    assert abs(mean - (1 + n / 2) / (n + 1)) < 4 * error


@pytest.fixture(scope="module")
def classified():
    rng = np.random.default_rng(25)
    X, y = classes(rng, 3000)
    return X, y, FrozenEstimator(LogisticRegression().fit(X[:500], y[:500]))


def test_least_ambiguous_sets_are_a_threshold_on_the_probability(classified):
    X, y, frozen = classified
    model = ConformalClassifier(frozen).fit(X[500:599], y[500:599])
    proba = frozen.predict_proba(X)
    threshold = np.sort(1 - proba[np.arange(500, 599), y[500:599]])[90 - 1]
    assert_array_equal(model.predict_set(X, 0.9), 1 - proba <= threshold)
    assert_array_equal(model.predict(X), frozen.predict(X))
    assert_allclose(model.predict_proba(X), proba)
    assert model.predict_uncertainty(X).epistemic.max() < 1e-12


def test_adaptive_scores_are_the_sums_of_the_papers(classified):
    X, y, frozen = classified
    proba = np.sort(frozen.predict_proba(X), axis=1)[:, ::-1]
    rank = (frozen.predict_proba(X) > frozen.predict_proba(X)[np.arange(3000), y][:, None]).sum(1)
    sums = proba.cumsum(1)[np.arange(3000), rank]
    aps = ConformalClassifier(frozen, conformity_score="aps").fit(X, y)
    assert_allclose(aps.calibration_scores_, sums)
    raps = ConformalClassifier(frozen, conformity_score="raps", penalty=0.2, n_free=2).fit(X, y)
    assert_allclose(raps.calibration_scores_, sums + 0.2 * np.maximum(rank + 1 - 2, 0))
    # A penalty on rank makes the largest sets smaller.
    assert raps.predict_set(X, 0.95).sum(1).max() <= aps.predict_set(X, 0.95).sum(1).max()
    # Sets grow with the coverage, and take classes in the order of their probability.
    small, large = aps.predict_set(X, 0.6), aps.predict_set(X, 0.9)
    assert np.all(small <= large)
    order = np.argsort(-frozen.predict_proba(X), axis=1)
    assert np.all(np.diff(np.take_along_axis(large, order, 1).astype(int), axis=1) <= 0)


def test_p_values_of_the_true_class_are_uniform(classified):
    X, y, frozen = classified
    model = ConformalClassifier(frozen, conformity_score="aps", randomized=True, random_state=1)
    p = model.fit(X[500:2500], y[500:2500]).predict_p_values(X[2500:])
    p = p[np.arange(500), y[2500:]]
    assert stats.ks_2samp(p, (np.arange(2000) + 0.5) / 2000).pvalue > 1e-3


def test_random_parts_belong_to_events(classified):
    X, y, frozen = classified
    model = ConformalClassifier(frozen, conformity_score="aps", randomized=True, random_state=1)
    model.fit(X[500:2500], y[500:2500])
    new, truth = X[2500:], y[2500:]
    p = model.predict_p_values(new)
    one_by_one = np.concatenate([model.predict_p_values(x[None]) for x in new])
    # What probabilities are rounded to depends on the number of events.
    assert_allclose(one_by_one, p, atol=2 / 2001)
    sets = np.concatenate([model.predict_set(x[None], 0.8) for x in new])
    assert np.mean(sets != model.predict_set(new, 0.8)) < 1e-3
    assert_array_equal(
        sets[::-1], np.concatenate([model.predict_set(x[None], 0.8) for x in new[::-1]])
    )
    # Event by event, the coverage is c: not that of the one number that a stream begins with.
    held = sets[np.arange(500), truth]
    assert abs(held.mean() - 0.8) < 4 * np.sqrt(0.16 * (1 / 500 + 1 / 2000))
    other = model.predict_set(new, 0.8, random_state=5)
    assert 0 < np.mean(other != sets) < 0.2
    assert_array_equal(other, model.predict_set(new, 0.8, random_state=5))


@pytest.mark.parametrize("kind", ["normal", "integers", "sparse", "frame", "ragged"])
def test_numbers_of_events_are_uniform_and_independent(kind):
    n, rng = 20_000, np.random.default_rng(30)
    if kind == "normal":
        X = rng.normal(size=(n, 3))
        assert_array_equal(event_uniforms(X.reshape(n, 3, 1), 7), event_uniforms(X, 7))
    elif kind == "integers":
        X = np.column_stack([np.arange(n) % 200, np.arange(n) // 200])
        assert_array_equal(event_uniforms(X.astype(np.float32), 7), event_uniforms(X, 7))
    elif kind == "sparse":
        X = sparse.csr_array(rng.normal(size=(n, 3)) * [1, 0, 1])
        assert_array_equal(event_uniforms(X.toarray(), 7), event_uniforms(X, 7))
    elif kind == "frame":
        pd = pytest.importorskip("pandas")
        X = pd.DataFrame({"x": np.arange(n), "detector": rng.choice(["a", "bc"], n)})
        assert event_uniforms(X.iloc[[5]], 7) == event_uniforms(X, 7)[5]
    else:
        X = np.empty(n, dtype=object)
        X[:] = [[i] * (1 + i % 3) for i in range(n)]
    u = event_uniforms(X, 7)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    for other in (event_uniforms(X, 8), event_uniforms(X, 7 << 32), np.roll(u, 1)):
        assert abs(np.corrcoef(u, other)[0, 1]) < 5 / np.sqrt(n)


def test_folds_of_classifiers_are_those_of_the_paper():
    rng = np.random.default_rng(26)
    X, y = classes(rng, 80)
    X_new, _ = classes(rng, 9)
    cv = KFold(4)
    model = ConformalClassifier(LogisticRegression(), cv=cv).fit(X, y)
    above = np.zeros((9, 4))
    for train, test in cv.split(X):
        fitted = LogisticRegression().fit(X[train], y[train])
        scores = 1 - fitted.predict_proba(X[test])[np.arange(len(test)), y[test]]
        above += (scores >= (1 - fitted.predict_proba(X_new))[..., None]).sum(2)
    assert_allclose(model.predict_p_values(X_new), (1 + above) / 81)


def test_every_class_is_covered():
    rng = np.random.default_rng(27)
    y = (rng.uniform(size=8000) < 0.05).astype(int)
    X = rng.normal(size=(8000, 1)) + 1.5 * y[:, None]
    for conditional in (True, False):
        model = ConformalClassifier(class_conditional=conditional, random_state=0)
        sets = model.fit(X[:4000], y[:4000]).predict_set(X[4000:], 0.9)
        held = sets[np.arange(4000), y[4000:]]
        shares = [held[y[4000:] == label].mean() for label in (0, 1)]
        if conditional:
            assert abs(shares[1] - 0.9) < 4 * np.sqrt(0.09 * 2 / 200)
            assert abs(shares[0] - 0.9) < 4 * np.sqrt(0.09 * 2 / 3800)
        else:
            assert shares[1] < 0.9 - 4 * np.sqrt(0.09 * 2 / 200)


def test_classifier_with_categories_groups_and_shift(classified):
    X, y, frozen = classified
    new, old = slice(500, 1500), slice(1500, 3000)
    category = ConformalClassifier(frozen, mondrian=lambda X: X[:, 0] > 1).fit(X[old], y[old])
    held = category.predict_set(X[new], 0.9)[np.arange(1000), y[new]]
    for side in (True, False):
        inside = (X[new, 0] > 1) == side
        assert abs(held[inside].mean() - 0.9) < 4 * np.sqrt(0.09 * (1 / inside.sum() + 1 / 500))
    groups = np.arange(1500) % 4
    model = ConformalClassifier(frozen).fit(X[old], y[old], groups=groups)
    with pytest.raises(ValueError, match="at least 9 calibration groups, but there are 4"):
        model.predict_set(X[new], 0.9)
    assert model.predict_set(X[new], 0.8).any()
    # Events of class 0 are twenty times as many in the data: they score better.
    shifted = ConformalClassifier(frozen, density_ratio=lambda X: np.exp(2 * X[:, 0]))
    p = shifted.fit(X[old], y[old]).predict_p_values(X[new][:1])
    w, own = np.exp(2 * X[old, 0]), np.exp(2 * X[500, 0])
    scores = 1 - frozen.predict_proba(X[old])[np.arange(1500), y[old]]
    least = 1 - frozen.predict_proba(X[500:501])[0]
    expected = [(own + w[scores >= s].sum()) / (own + w.sum()) for s in least]
    assert_allclose(p[0], expected)


# ---- MAPIE says the same


def test_intervals_are_mapies():
    regression = pytest.importorskip("mapie.regression")
    rng = np.random.default_rng(28)
    X, X_new = rng.normal(size=(200, 3)), rng.normal(size=(50, 3))
    y = X[:, 0] + rng.normal(size=200) * (1 + X[:, 1] ** 2)
    fitted = LinearRegression().fit(X[:100], y[:100])
    ours = ConformalRegressor(FrozenEstimator(fitted)).fit(X[100:], y[100:])
    for coverage in (0.68, 0.9, 0.95):
        theirs = regression.SplitConformalRegressor(fitted, confidence_level=coverage)
        theirs = theirs.conformalize(X[100:], y[100:]).predict_interval(X_new)[1][..., 0]
        assert_allclose(ours.predict_interval(X_new, coverage), theirs, rtol=1e-8)
    for method in ("plus", "minmax"):
        ours = ConformalRegressor(LinearRegression(), method=method, cv=KFold(5)).fit(X, y)
        theirs = regression.CrossConformalRegressor(
            LinearRegression(), confidence_level=[0.68, 0.9], method=method, cv=KFold(5)
        ).fit_conformalize(X, y)
        theirs = theirs.predict_interval(X_new)[1]
        for i, coverage in enumerate((0.68, 0.9)):
            assert_allclose(ours.predict_interval(X_new, coverage), theirs[..., i], rtol=1e-8)


class Level(RegressorMixin, BaseEstimator):
    """One quantile of :class:`Fixed`, which is how MAPIE takes them."""

    def __init__(self, level):
        self.level = level

    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def __sklearn_is_fitted__(self):
        return True

    def predict(self, X):
        return Fixed(std=lambda X: X[:, 0]).predict_quantiles(X, [self.level])[:, 0]


def test_conformalized_quantiles_are_mapies():
    regression = pytest.importorskip("mapie.regression")
    rng = np.random.default_rng(29)
    X, y = heteroscedastic(rng, 150)
    levels = [Level(0.1).fit(X, y), Level(0.9).fit(X, y), Level(0.5).fit(X, y)]
    theirs = regression.ConformalizedQuantileRegressor(levels, confidence_level=0.8, prefit=True)
    theirs = theirs.conformalize(X, y)
    for symmetric in (True, False):
        model = ConformalRegressor(
            FrozenEstimator(Fixed(std=lambda X: X[:, 0])),
            conformity_score="cqr",
            symmetric=symmetric,
        ).fit(X, y)
        expected = theirs.predict_interval(X, symmetric_correction=symmetric)[1][..., 0]
        assert_allclose(model.predict_interval(X, 0.8), expected, rtol=1e-8)


def test_sets_are_mapies(classified):
    classification = pytest.importorskip("mapie.classification")
    X, y, frozen = classified
    ours = ConformalClassifier(frozen).fit(X[500:700], y[500:700])
    for coverage in (0.68, 0.9):
        theirs = classification.SplitConformalClassifier(
            frozen.estimator, confidence_level=coverage
        ).conformalize(X[500:700], y[500:700])
        assert_array_equal(
            ours.predict_set(X[700:], coverage), theirs.predict_set(X[700:])[1][..., 0]
        )


# ---- scikit-learn around and inside


class Images(RegressorMixin, BaseEstimator):
    """Reads 4-D events and nothing else."""

    def fit(self, X, y):
        assert X.ndim == 4
        self.inner_ = LinearRegression().fit(X.mean((2, 3)), y)
        return self

    def predict(self, X):
        assert X.ndim == 4
        return self.inner_.predict(X.mean((2, 3)))


def test_events_reach_the_estimator_as_they_are():
    rng = np.random.default_rng(30)
    X, y = rng.normal(size=(40, 2, 3, 4)), rng.normal(size=40)
    model = ConformalRegressor(Images(), random_state=0).fit(X, y)
    interval = model.predict_interval(X)
    assert_array_equal(model.predict_interval(X.reshape(40, -1)), interval)
    with pytest.raises(ValueError, match=r"events of shape \(3, 2, 4\)"):
        model.predict(X.transpose(0, 2, 1, 3))
    with pytest.raises(ValueError, match="12 features"):
        model.predict(X.reshape(40, -1)[:, :12])


def test_data_frames_keep_their_columns():
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(31)
    X = pd.DataFrame({"energy": rng.normal(size=80), "detector": ["V01", "B02"] * 40})
    y = X["energy"] + np.where(X["detector"] == "V01", 1, 5) * rng.normal(size=80)
    inner = make_pipeline(make_column_transformer((StandardScaler(), ["energy"])), Ridge())
    model = ConformalRegressor(inner, mondrian="detector", random_state=0).fit(X, y)
    assert_array_equal(model.categories_, ["B02", "V01"])
    width = np.diff(model.predict_interval(X))[:, 0]
    assert width[1] > 3 * width[0]
    assert_array_equal(model.feature_names_in_, ["energy", "detector"])
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X.rename(columns={"energy": "charge"}))


def test_ragged_events_are_passed_on():
    class Counts(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            return self

        def predict(self, X):
            return np.array([len(hits) for hits in X], dtype=float)

    rng = np.random.default_rng(32)
    sizes = rng.integers(1, 9, 60)
    X = [rng.normal(size=(size, 3)) for size in sizes]
    model = ConformalRegressor(Counts(), random_state=0).fit(X, sizes + rng.normal(size=60))
    assert_allclose(model.predict(X), sizes)


def test_grid_search_with_groups_routed():
    rng = np.random.default_rng(33)
    X, y, groups = positions(rng, 9, 6)
    with config_context(enable_metadata_routing=True):
        inner = Ridge().set_fit_request(sample_weight=True)
        model = ConformalRegressor(inner, cv=LeaveOneGroupOut())
        model.set_fit_request(groups=True, sample_weight=True)
        model.set_score_request(sample_weight=False)
        search = GridSearchCV(model, {"estimator__alpha": [0.1, 1e4]}, cv=LeaveOneGroupOut())
        search.fit(X, y, groups=groups, sample_weight=np.ones(54))
        assert search.best_params_ == {"estimator__alpha": 0.1}
        assert len(search.best_estimator_.estimators_) == 9
        for cv, n_calibration in ((3, 9), ("split", 3)):
            own = ConformalRegressor(Ridge(), cv=cv).fit(X, y, groups=groups)
            assert len(np.unique(groups[own.calibration_indices_])) == n_calibration
        pipeline = make_pipeline(StandardScaler(), Ridge().set_fit_request(sample_weight=True))
        pipeline[0].set_fit_request(sample_weight=False)
        weights = rng.uniform(0.5, 2, 54)
        routed = ConformalRegressor(pipeline, cv=KFold(3)).set_fit_request(sample_weight=True)
        routed.fit(X, y, sample_weight=weights)
        train, _ = next(KFold(3).split(X))
        alone = clone(pipeline).fit(X[train], y[train], sample_weight=weights[train])
        assert_allclose(routed.estimators_[0].predict(X), alone.predict(X))
    with pytest.raises(ValueError, match="takes none"):
        ConformalRegressor(make_pipeline(StandardScaler(), Ridge())).fit(X, y, weights)


@pytest.mark.parametrize("conformal", [ConformalRegressor, ConformalClassifier])
def test_weights_reach_the_default_estimator_if_they_are_requested(conformal):
    rng = np.random.default_rng(38)
    X = rng.normal(size=(60, 2))
    y, w = X[:, 0] + rng.normal(size=60) > 0, rng.integers(1, 4, 60).astype(float)
    with config_context(enable_metadata_routing=True):
        model = conformal(cv="split", random_state=0).set_score_request(sample_weight=False)
        direct = clone(model).fit(X, y, sample_weight=w)
        seen = direct.estimators_[0][0].n_samples_seen_
        assert seen + direct.calibration_weights_.sum() == pytest.approx(w.sum())
        grid = {"calibration_fraction": [0.25]}
        search = GridSearchCV(model.set_fit_request(sample_weight=True), grid, cv=2)
        found = search.fit(X, y, sample_weight=w).best_estimator_
        assert_array_equal(found.calibration_weights_, direct.calibration_weights_)
        search = GridSearchCV(model.set_fit_request(sample_weight=False), grid, cv=2)
        with pytest.raises(TypeError, match="not routed to any object"):
            search.fit(X, y, sample_weight=w)
        assert_array_equal(search.fit(X, y).best_estimator_.calibration_weights_, 1)


def test_a_seed_reaches_what_has_none():
    rng = np.random.default_rng(34)
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    forest = RandomForestRegressor(n_estimators=3)
    a, b = (
        ConformalRegressor(forest, random_state=0, n_jobs=n_jobs).fit(X, y) for n_jobs in (1, None)
    )
    assert_array_equal(a.predict_interval(X), b.predict_interval(X))
    kept = ConformalRegressor(forest.set_params(random_state=7), random_state=0).fit(X, y)
    assert all(member.random_state == 7 for member in kept.estimators_)


@pytest.mark.parametrize("unit", [2.0**-30, 2.0**30])
def test_estimators_by_default_read_any_unit(unit):
    rng = np.random.default_rng(37)
    X = rng.normal(size=(60, 3))
    y, w = X[:, 0] + 0.1 * rng.normal(size=60), rng.uniform(0.5, 2, 60)
    model = ConformalRegressor(random_state=0)
    expected = clone(model).fit(X, y, w).predict_interval(X)
    assert_allclose(clone(model).fit(X * unit, y, w).predict_interval(X * unit), expected)
    model = ConformalClassifier(random_state=0)
    expected = clone(model).fit(X, y > 0, w).predict_proba(X)
    assert_allclose(clone(model).fit(X * unit, y > 0, w).predict_proba(X * unit), expected)


def test_the_size_of_blocks_does_not_matter(monkeypatch):
    rng = np.random.default_rng(35)
    X, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    model = ConformalRegressor(mondrian=lambda X: X[:, 0] > 0, random_state=0).fit(X, y)
    classifier = ConformalClassifier(random_state=0).fit(X, y > 0)
    whole = model.predict_interval(X), model.sample_y(X, 3), classifier.predict_p_values(X)
    monkeypatch.setattr("sknuc.base._BLOCK_NUMBERS", 200)
    monkeypatch.setattr("sknuc.uncertainty._conformal_predictive._ATOMS", 200)
    parts = model.predict_interval(X), model.sample_y(X, 3), classifier.predict_p_values(X)
    for a, b in zip(whole, parts, strict=True):
        assert_allclose(a, b, rtol=1e-12)


def test_errors_say_what_to_do():
    rng = np.random.default_rng(36)
    X, y = rng.normal(size=(12, 2)), rng.normal(size=12)
    model = ConformalRegressor(random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"at least 19 calibration events, but there are 12"):
        model.predict_interval(X, 0.95)
    with pytest.raises(ValueError, match=r"of 0\.9 needs at least 9 calibration events of cat"):
        ConformalRegressor(zero(), mondrian=lambda X: X[:, 0] > 0).fit(X, y).predict_interval(
            X, 0.9
        )
    with pytest.raises(ValueError, match=r"'coverage' parameter of predict_region.*Got 95"):
        model.predict_region(X, 95)
    with pytest.raises(ValueError, match="predict_quantiles, which Ridge has not"):
        ConformalRegressor(Ridge(), conformity_score="cqr").fit(X, y)
    with pytest.raises(ValueError, match="'student' is for"):
        ConformalRegressor(zero(), conformity_score="cqr", tail="student").fit(X, y)
    negative = FrozenEstimator(Fixed(std=lambda X: X[:, 0]))
    with pytest.raises(ValueError, match="must be positive"):
        ConformalRegressor(negative, conformity_score="normalized").fit(X, y)
    kernel = SVR(kernel="precomputed")
    with pytest.raises(ValueError, match="kernels between events"):
        ConformalRegressor(kernel).fit(X @ X.T, y)
    with pytest.raises(ValueError, match="at most once"):
        ConformalRegressor(cv=ShuffleSplit(5, random_state=0)).fit(X, y)
    with pytest.raises(ValueError, match="one category per event"):
        ConformalRegressor(mondrian=lambda X: X).fit(X, y)
    with pytest.raises(ValueError, match="one finite ratio"):
        ConformalRegressor(density_ratio=lambda X: -np.ones(len(X))).fit(X, y)
    with pytest.raises(ValueError, match="events of category True the ratio 0"):
        ConformalRegressor(
            density_ratio=lambda X: 1.0 * (X[:, 0] < 0), mondrian=lambda X: X[:, 0] > 0
        ).fit(X, y)
    for n, cv in ((2, 5), (2, None), (1, "split")):
        with pytest.raises(ValueError, match=rf"'cv' parameter asks for . parts.* are {n} events"):
            ConformalRegressor(cv=cv).fit(X[:n], y[:n])
    with pytest.raises(ValueError, match=r"'cv' parameter asks for 5 parts.* are 4 groups"):
        ConformalRegressor().fit(X, y, groups=np.arange(12) % 4)
    light = ConformalRegressor().fit(X, y, sample_weight=np.full(12, 1e-3))
    with pytest.raises(ValueError, match=r"sample_weight sums to 0\.012.*normalise.*to mean 1"):
        light.predict_interval(X)
    labels = (np.arange(12) % 2).astype(str)
    classifier = ConformalClassifier(random_state=0).fit(X, labels)
    with pytest.raises(ValueError, match=r"at least 19 calibration events, but there are 12"):
        classifier.predict_set(X, 0.95)
    with pytest.raises(ValueError, match="must have predict_proba"):
        ConformalClassifier(Ridge()).fit(X, labels)
