"""Measures of generated events: closed forms, calibration under the null, weights, bad input."""

import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import sqrtm
from scipy.special import gamma
from scipy.stats import binom, norm
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RepeatedStratifiedKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_score,
    cross_validate,
)
from sklearn.neighbors import KernelDensity, KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.metrics import (
    SampleComparisonDisplay,
    correlation_distance,
    frechet_distance,
    histogram_iou,
    make_sample_scorer,
    precision_recall_density_coverage,
    sideband_weights,
    sliced_wasserstein_distance,
    two_sample_auc,
    wasserstein_distance,
)
from sknuc.metrics._sample_scorer import generate_like
from sknuc.metrics._two_sample import _deal, _stretch
from sknuc.samplers import FlowSampler

METRICS = {
    "auc": lambda *X, **w: two_sample_auc(*X, classifier=LogisticRegression(), **w),
    "wasserstein": wasserstein_distance,
    "sliced": sliced_wasserstein_distance,
    "frechet": frechet_distance,
    "prdc": precision_recall_density_coverage,
    "correlation": correlation_distance,
}


def flat(result):
    return np.hstack([np.ravel(value) for value in np.atleast_1d(np.asarray(result, object))])


def normal(rng, n, mean=(0.0,), covariance=None):
    mean = np.asarray(mean)
    covariance = np.eye(len(mean)) if covariance is None else covariance
    return rng.multivariate_normal(mean, covariance, n)


# Two-sample area under the curve.


@pytest.mark.parametrize("delta", [0.3, 1.0, 2.0])
def test_a_shifted_gaussian_has_the_area_of_the_best_classifier(delta):
    rng = np.random.default_rng(0)
    true, generated = normal(rng, 3000), normal(rng, 2000, [delta])
    result = two_sample_auc(true, generated, classifier=LogisticRegression())
    assert abs(result.auc - norm.cdf(delta / np.sqrt(2))) < 4 * result.error
    assert result.p_value < 1e-6


def test_the_default_classifier_sees_what_no_margin_shows():
    rng = np.random.default_rng(1)
    covariance = [[1, 0.7], [0.7, 1]]
    result = two_sample_auc(normal(rng, 1500, [0, 0]), normal(rng, 1500, [0, 0], covariance))
    linear = two_sample_auc(
        normal(rng, 1500, [0, 0]),
        normal(rng, 1500, [0, 0], covariance),
        classifier=LogisticRegression(),
    )
    low, high = linear.null_interval
    assert low < linear.auc < high
    assert result.auc > 0.6


def test_the_error_is_the_spread_of_the_area():
    rng = np.random.default_rng(2)
    results = [
        two_sample_auc(
            normal(rng, 150), normal(rng, 250, [1.0]), classifier=LinearDiscriminantAnalysis()
        )
        for _ in range(200)
    ]
    spread = np.std([result.auc for result in results])
    # The error of a standard deviation is 1 / sqrt(2 n).
    assert_allclose(np.mean([result.error for result in results]), spread, rtol=4 / np.sqrt(400))


@pytest.mark.parametrize(
    ("classifier", "n_features", "weighted", "empty"),
    [
        (LinearDiscriminantAnalysis(), 6, False, 0.0),
        (KNeighborsClassifier(25), 2, False, 0.0),
        (LogisticRegression(), 6, True, 0.0),
        (LogisticRegression(), 2, False, 0.4),
        (LogisticRegression(), 2, False, 0.9),
    ],
)
def test_samples_of_one_distribution_are_within_the_null_interval(
    classifier, n_features, weighted, empty
):
    rng, n_repetitions, level = np.random.default_rng(3), 150, 0.9
    inside, z = 0, []
    for _ in range(n_repetitions):
        true, generated = rng.normal(size=(150, n_features)), rng.normal(size=(200, n_features))
        true[rng.random(150) < empty] = 0
        generated[rng.random(200) < empty] = 0
        weights = {"weight_generated": rng.exponential(size=200)} if weighted else {}
        result = two_sample_auc(
            true, generated, classifier=classifier, confidence_level=level, cv=4, **weights
        )
        low, high = result.null_interval
        inside += low <= result.auc <= high
        z.append(-norm.ppf(result.p_value))
    low, high = binom.interval(1 - 1e-4, n_repetitions, level)
    assert low <= inside <= high
    assert abs(np.mean(z)) < 4 / np.sqrt(n_repetitions)
    # Nominal: not below, as a variance without the factor of two would be, nor above.
    assert_allclose(np.std(z), 1, atol=4 / np.sqrt(2 * n_repetitions) + 0.05)


def test_the_area_is_that_of_scikit_learn_fold_by_fold():
    rng = np.random.default_rng(4)
    true, generated = rng.normal(size=(60, 2)).round(1), rng.normal(0.5, size=(40, 2)).round(1)
    w = rng.uniform(0.2, 2, 60), rng.uniform(0.2, 2, 40)
    folds = StratifiedKFold(3)
    result = two_sample_auc(
        true,
        generated,
        classifier=LogisticRegression(),
        cv=folds,
        weight_true=w[0],
        weight_generated=w[1],
    )
    X, y = np.vstack([true, generated]), np.repeat([0, 1], [60, 40])
    weight = np.concatenate([w[0] / w[0].sum(), w[1] / w[1].sum()]) * 50
    areas = []
    for train, test in folds.split(X, y):
        model = LogisticRegression().fit(X[train], y[train], sample_weight=weight[train])
        scores = model.decision_function(X[test])
        areas.append(roc_auc_score(y[test], scores, sample_weight=weight[test]))
    assert_allclose(result.auc, np.mean(areas), rtol=1e-12)


def test_copies_are_not_recognised():
    rng = np.random.default_rng(6)
    X = rng.normal(size=(300, 2))
    assert_allclose(two_sample_auc(X, X).auc, 0.5, rtol=1e-12)
    # Nor are those within a sample: each event of the generated one three times.
    result = two_sample_auc(rng.normal(size=(900, 2)), np.repeat(X, 3, axis=0))
    # Three copies say as much as one event: the error is that of 300.
    assert abs(result.auc - 0.5) < 4 * np.sqrt(2 * (1 / 300 + 1 / 900) / 12)


@pytest.mark.parametrize(
    ("n_features", "of_true", "of_generated"), [(1, 0.3, 0.1), (4, 0.4, 0.2), (4, 0.0, 0.5)]
)
def test_a_spike_is_judged_by_its_frequency(n_features, of_true, of_generated):
    # Exact zeros, empty events, a mode to which half of the generated events have collapsed.
    rng = np.random.default_rng(8)
    true, generated = rng.normal(size=(2, 2000, n_features))
    true[rng.random(2000) < of_true] = 0
    generated[rng.random(2000) < of_generated] = 0
    classifier = HistGradientBoostingClassifier(max_iter=20, early_stopping=False)
    result = two_sample_auc(true, generated, classifier=classifier)
    # The best classifier knows the spike only: of two events that differ in it, it tells which.
    best = 0.5 + abs(of_true - of_generated) / 2
    assert abs(result.auc - best) < 4 * result.error


def test_samples_of_a_single_value_cannot_be_told_apart():
    result = two_sample_auc(np.zeros((50, 1)), np.zeros((40, 1)))
    assert_allclose([result.auc, *result.null_interval], 0.5, atol=0.02)
    assert result.error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("cv", "match"),
    [
        (KFold(5), "a fold without one of them"),
        (StratifiedShuffleSplit(1, test_size=0.2, random_state=0), "0 to 1 tests"),
        (RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0), "2 to 2 tests"),
    ],
)
def test_splitters_test_every_event_once(cv, match):
    X = np.random.default_rng(9).normal(size=(40, 1))
    with pytest.raises(ValueError, match=rf"'cv' parameter of two_sample_auc must .*{match}"):
        two_sample_auc(X, X + 1, classifier=LogisticRegression(), cv=cv)


def test_the_error_of_folds_of_single_events():
    rng = np.random.default_rng(10)
    true, generated = normal(rng, 100), normal(rng, 100, [1.0])
    few, many = (
        two_sample_auc(true, generated, classifier=LinearDiscriminantAnalysis(), cv=cv).error
        for cv in (5, 100)
    )
    # Pairs of one event each say less than all pairs; the error doubles the variance of these.
    area = norm.cdf(1 / np.sqrt(2))
    assert_allclose(many, np.sqrt(2 * area * (1 - area) / 100), rtol=4 / np.sqrt(200))
    assert few < many


def test_counts_are_told_apart_by_their_frequencies():
    rng = np.random.default_rng(7)
    # Codes without an order: no neighbouring value tells what another one means.
    shares = np.array([0.2, 0.1] * 3 + [0.1])
    true = rng.choice(7, size=(2000, 1), p=shares)
    generated = rng.choice(7, size=(2000, 1), p=np.full(7, 1 / 7))
    result = two_sample_auc(true, generated)
    # The best order is that of the ratio: two kinds of codes.
    high, low = 0.6, 3 / 7
    best = high * (1 - low) + 0.5 * (high * low + (1 - high) * (1 - low))
    assert abs(result.auc - best) < 4 * result.error


def test_classifiers_in_pipelines_take_weights():
    rng = np.random.default_rng(5)
    true, generated = rng.normal(size=(200, 1)), rng.normal(size=(200, 1))
    weight = np.exp(generated[:, 0] - 0.5)  # from N(0, 1) to N(1, 1)
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    result = two_sample_auc(true, generated, classifier=pipe, weight_generated=weight)
    assert abs(result.auc - norm.cdf(1 / np.sqrt(2))) < 4 * result.error
    nested = Pipeline([("outer", Pipeline([("middle", pipe)]))])
    assert two_sample_auc(true, generated, classifier=nested, weight_generated=weight) == result
    with pytest.raises(ValueError, match="KNeighborsClassifier does not"):
        two_sample_auc(true, generated, classifier=KNeighborsClassifier(), weight_true=weight)
    with pytest.raises(ValueError, match=r"'cv' parameter .* Got 300"):
        two_sample_auc(true, generated, cv=300)


# Wasserstein distances.


def test_the_wasserstein_distance_of_a_shift_is_the_shift():
    X = np.random.default_rng(0).normal(size=(50, 3)) * [1, 10, 0] + [0, 0, 7]
    delta = np.array([0.3, -2.0, 4.0])
    assert_allclose(wasserstein_distance(X, X + delta), np.abs(delta))
    std = np.append(X[:, :2].std(axis=0), 1)  # what is constant stays as it is
    assert_allclose(wasserstein_distance(X, X + delta, standardize=True), np.abs(delta) / std)


def test_the_wasserstein_distance_of_gaussians_of_different_width():
    rng, n = np.random.default_rng(1), 20_000
    distance = wasserstein_distance(normal(rng, n), 3 * normal(rng, n))
    # |1 - 3| E|x|
    assert_allclose(distance, 2 * np.sqrt(2 / np.pi), rtol=4 / np.sqrt(n))


@pytest.mark.parametrize("d", [1, 3, 10])
def test_the_sliced_distance_of_a_shift(d):
    rng = np.random.default_rng(d)
    X, delta = rng.normal(size=(20, d)), rng.normal(size=d)
    distance = sliced_wasserstein_distance(X, X + delta, n_projections=3000, standardize=False)
    expected = np.linalg.norm(delta) * gamma(d / 2) / (np.sqrt(np.pi) * gamma((d + 1) / 2))
    # One projection spreads by less than its mean.
    assert_allclose(distance, expected, rtol=4 / np.sqrt(3000))


def test_the_sliced_distance_of_one_feature_is_the_wasserstein_distance():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 1)), rng.exponential(size=(50, 1))
    w = rng.uniform(size=30)
    expected = wasserstein_distance(X, Y, standardize=True, weight_true=w)
    assert_allclose(sliced_wasserstein_distance(X, Y, weight_true=w), expected[0])


# Fréchet distance.


def test_the_frechet_distance_is_that_of_gaussians():
    rng, d = np.random.default_rng(0), 4
    a, b = rng.normal(size=(2, d, d))
    first, second, shift = a @ a.T, b @ b.T, rng.normal(size=d)
    X, Y = normal(rng, 4000, np.zeros(d), first), normal(rng, 3000, shift, second)
    result = frechet_distance(X, Y, standardize=False)
    root = np.real(sqrtm(first @ second))
    expected = shift @ shift + np.trace(first + second - 2 * root)
    assert abs(result.distance - expected) < 4 * result.error
    moments = [np.cov(Z.T, bias=True) for Z in (X, Y)]
    jump = X.mean(axis=0) - Y.mean(axis=0)
    root = np.real(sqrtm(moments[0] @ moments[1]))
    assert_allclose(result.plug_in, jump @ jump + np.trace(moments[0] + moments[1] - 2 * root))


def test_the_frechet_distance_has_no_bias_where_the_plug_in_has_one():
    rng = np.random.default_rng(1)
    results = np.array([frechet_distance(*rng.normal(size=(2, 200, 5))) for _ in range(200)])
    distance, error, plug_in = results.T
    spread = distance.std() / np.sqrt(len(distance))
    assert abs(distance.mean()) < 4 * spread
    assert plug_in.mean() > 10 * spread
    # Where the distance is quadratic in what fluctuates the jackknife doubles the variance.
    rms = np.sqrt(np.mean(error**2))
    assert_allclose(rms / np.sqrt(2), distance.std(), rtol=4 / np.sqrt(400))


def test_the_error_of_the_frechet_distance_is_its_spread():
    rng = np.random.default_rng(2)
    results = np.array(
        [
            frechet_distance(rng.normal(size=(300, 2)), rng.normal(1, 1.5, size=(300, 2)))
            for _ in range(150)
        ]
    )
    # 20 groups know a variance to a third, and 150 repetitions a spread to a twentieth.
    assert_allclose(np.sqrt(np.mean(results[:, 1] ** 2)), results[:, 0].std(), rtol=0.25)


def test_the_frechet_distance_of_features_that_depend_on_each_other():
    x = np.random.default_rng(0).normal(size=(100, 1))
    X = np.hstack([x, 2 * x, np.ones((100, 1))])
    assert_allclose(frechet_distance(X, X).plug_in, 0, atol=1e-6)
    assert_allclose(frechet_distance(X, X + 1, standardize=False).plug_in, 3)


# Neighbours.


def test_density_and_coverage_of_equal_distributions():
    rng, k, n, m = np.random.default_rng(0), 3, 60, 90
    results = np.array(
        [
            precision_recall_density_coverage(
                rng.standard_cauchy(size=(n, 2)), rng.standard_cauchy(size=(m, 2)), n_neighbors=k
            )
            for _ in range(400)
        ]
    )
    i = np.arange(k)
    expected = [1, 1 - np.prod((n - 1 - i) / (n + m - 1 - i))]
    error = results[:, 2:].std(axis=0) / np.sqrt(len(results))
    assert np.all(np.abs(results[:, 2:].mean(axis=0) - expected) < 4 * error)


def brute(X, Y, k):
    """The definitions of the papers, event by event."""

    def radius(Z):
        return np.sort(np.linalg.norm(Z[:, None] - Z, axis=-1), axis=1)[:, k]

    distance = np.linalg.norm(Y[:, None] - X, axis=-1)
    inside, reached = distance <= radius(X), distance <= radius(Y)[:, None]
    density = inside.sum() / k / len(Y)
    return inside.any(1).mean(), reached.any(0).mean(), density, inside.any(0).mean()


def test_neighbours_are_those_of_the_definition(monkeypatch):
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(70, 3)), rng.normal(0.5, 2, size=(50, 3))
    expected = brute(X, Y, 4)
    for block in (1, 300, 2**23):
        monkeypatch.setattr("sknuc.metrics._sample_neighbors._BLOCK", block)
        result = precision_recall_density_coverage(X, Y, n_neighbors=4, standardize=False)
        assert_allclose(result, expected)


def test_what_collapse_and_outliers_do():
    rng = np.random.default_rng(2)
    modes = rng.choice([-20.0, 20.0], size=(400, 1)) + rng.normal(size=(400, 2))
    one = rng.normal(20.0, 1.0, size=(400, 2))
    collapsed = precision_recall_density_coverage(modes, one)
    assert collapsed.precision > 0.9
    assert abs(collapsed.coverage - np.mean(modes[:, 0] > 0)) < 0.1
    far = precision_recall_density_coverage(modes, modes + 1000.0, standardize=False)
    assert far == (0, 0, 0, 0)


def test_how_far_an_outlier_is_does_not_matter():
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(300, 2)), rng.normal(2.0, size=(300, 2))
    results = []
    for far in (1e3, 1e9):
        true, generated = X.copy(), Y.copy()
        true[0], generated[0] = [-far, 0.0], [far, far]
        results.append(precision_recall_density_coverage(true, generated, standardize=False))
    assert results[0] == results[1]
    assert results[0].recall < 0.9


@pytest.mark.parametrize("k", [3, 8])
def test_the_density_of_weighted_events(k):
    rng = np.random.default_rng(4)
    results = []
    for _ in range(150):
        X, Y = rng.normal(size=(2, 150, 2))
        w = rng.exponential(size=150)
        results.append(precision_recall_density_coverage(X, Y, n_neighbors=k, weight_true=w))
    density = [result.density for result in results]
    assert abs(np.mean(density) - 1) < 4 * np.std(density) / np.sqrt(150)
    # Ratios of weights matter, and equal ones are none.
    scaled = precision_recall_density_coverage(X, Y, n_neighbors=k, weight_true=0.01 * w)
    assert_allclose(scaled, results[-1])
    equal = precision_recall_density_coverage(X, Y, weight_generated=np.full(150, 0.01))
    assert_allclose(equal, precision_recall_density_coverage(X, Y))


# Histograms.


def test_the_overlap_of_known_histograms():
    # Shares (1/2, 1/2, 0) and (1/4, 1/4, 1/2), of which the last lies above the range.
    result = histogram_iou([0.0, 1.0], [0.0, 1.0, 5.0, 6.0], bins=2)
    assert_allclose(result.iou, 0.5 / 1.5)
    weights = histogram_iou([0.0, 1.0], [0.0, 1.0, 5.0], bins=2, weight_generated=[1, 1, 2])
    assert_allclose(weights.iou, 0.5 / 1.5)
    same = histogram_iou([0.0, 1.0, 3.0], [3.0, 0.0, 1.0])
    assert same.iou == 1
    assert histogram_iou([0.0, 1.0], [7.0, 8.0], bins=[0, 1, 2]).iou == 0


@pytest.mark.parametrize(
    ("n", "m", "bins"), [(5000, 5000, 70), (400, 1500, 30), (60, 60, 100), (5000, 50, 20)]
)
def test_the_ceiling_is_what_equal_distributions_reach(n, m, bins):
    rng = np.random.default_rng(0)
    # Most bins of the smaller samples hold no event or a single one.
    results = np.array(
        [
            histogram_iou(
                rng.beta(2, 5, n), rng.beta(2, 5, m), bins=bins, range=(0, 1), random_state=i
            )
            for i in range(60)
        ]
    )
    iou, ceiling, ratio, error = results.T
    assert abs(np.mean(iou - ceiling)) < 4 * np.std(iou - ceiling) / np.sqrt(60)
    assert_allclose(ratio, iou / ceiling)
    assert_allclose(np.mean(error), iou.std(), rtol=4 / np.sqrt(120))


def test_the_ceiling_of_equiprobable_bins():
    rng, n, bins = np.random.default_rng(1), 5000, 70
    result = histogram_iou(*rng.uniform(size=(2, n)), bins=bins, range=(0, 1))
    d = np.sqrt(bins / (np.pi * n))
    assert_allclose(result.ceiling, (1 - d) / (1 + d), atol=0.003)


@pytest.mark.parametrize("bins", [20, 50, 300])
def test_the_ceiling_of_weighted_events(bins):
    rng = np.random.default_rng(2)
    results = []
    for i in range(80):
        x, y = rng.uniform(size=(2, 1000))
        # Heavy tails: a twentieth of the events counts, and most bins hold less than one of them.
        weights = rng.exponential(size=(2, 1000)) ** 3
        result = histogram_iou(
            x,
            y,
            bins=bins,
            range=(0, 1),
            weight_true=weights[0],
            weight_generated=weights[1],
            n_draws=50,
            random_state=i,
        )
        results.append(result)
    iou, ceiling, _, error = np.transpose(results)
    assert abs(np.mean(iou - ceiling)) < 4 * np.std(iou - ceiling) / np.sqrt(80)
    # A few heavy events decide: bootstraps of them know the spread to a quarter.
    assert_allclose(np.mean(error), iou.std(), rtol=0.25)


@pytest.mark.parametrize("bins", [20, 200])
def test_the_ceiling_where_weights_depend_on_the_quantity(bins):
    rng = np.random.default_rng(3)
    results = []
    for i in range(60):
        x, y = rng.uniform(size=2000), rng.uniform(size=2000) ** (1 / 3)
        # Uniform events of weight x² are distributed like the others.
        result = histogram_iou(
            x, y, bins=bins, range=(0, 1), weight_true=x**2, n_draws=50, random_state=i
        )
        results.append(result)
    iou, ceiling, _, error = np.transpose(results)
    assert_allclose(ceiling.mean(), iou.mean(), rtol=0.02)
    assert_allclose(np.mean(error), iou.std(), rtol=4 / np.sqrt(120))


def test_equal_weights_are_none():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(size=(2, 300))
    w = np.full(300, 0.25)
    weighted = histogram_iou(x, y, weight_true=w, weight_generated=w)
    assert_allclose(weighted, histogram_iou(x, y), rtol=1e-12)


def test_what_never_overlaps_has_no_ratio():
    result = histogram_iou([0.0], [1.0])
    assert result[:2] == (0, 0)
    assert np.isnan(result.ratio)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"bins": [1.0, 1.0]}, "'bins' parameter"),
        ({"bins": [0, 1], "range": (0, 1)}, "'bins' parameter"),
        ({"range": (1, 0)}, "'range' parameter"),
        ({"range": ("a", "b")}, "'range' parameter"),
        ({"range": (0, 1, 2)}, "'range' parameter"),
        ({"weight_true": [-1, 1, 1]}, "'weight_true' parameter"),
        ({"weight_generated": [0, 0, 0]}, "'weight_generated' parameter"),
        ({"x_true": [np.nan, 0, 1]}, "'x_true' parameter"),
        ({"x_generated": []}, "'x_generated' parameter"),
    ],
)
def test_bad_histograms(params, match):
    samples = {"x_true": [0.0, 1.0, 2.0], "x_generated": [0.0, 1.0, 2.0]}
    with pytest.raises(ValueError, match=match):
        histogram_iou(**{**samples, **params})


# Correlations.


NO_PAIRS = ["12", b"12", ("1", "2"), {1: 0, 2: 0}, {2, 1}, {1: 0, 2: 0}.keys(), [[1], [2, 3]]]


@pytest.mark.parametrize("band", NO_PAIRS)
def test_what_is_no_pair_of_numbers_is_no_band(band):
    message = r"'sidebands' parameter must give \(low, high\), finite and with low < high. Got "
    with pytest.raises(ValueError, match=message):
        sideband_weights(np.linspace(0, 5, 20), window=(2.5, 4), sidebands=[(4, 5), band])


@pytest.mark.parametrize("kind", [list, np.array, np.float32])
def test_pairs_of_any_kind_are_bands(kind):
    energy = np.linspace(0, 5, 20)
    expected = sideband_weights(energy, window=(2, 3), sidebands=[(1, 2), (3, 4)])
    bands = [kind([1, 2]), kind([3, 4])]
    assert_allclose(sideband_weights(energy, window=kind([2, 3]), sidebands=bands), expected)


def test_the_distance_of_correlations():
    rng = np.random.default_rng(0)
    covariance = np.eye(3) + 0.6 * (np.ones((3, 3)) - np.eye(3))
    X, Y = normal(rng, 2000, np.zeros(3), covariance), normal(rng, 2000, np.zeros(3))
    result = correlation_distance(X, Y * [1, 100, -1])
    difference = np.corrcoef(X.T) - np.corrcoef((Y * [1, 100, -1]).T)
    assert_allclose(result.distance, np.linalg.norm(difference) / np.sqrt(6))
    assert abs(result.distance - 0.6) < 4 * result.error


def test_the_noise_is_the_distance_of_equal_distributions():
    rng, rho = np.random.default_rng(1), 0.5
    covariance = np.eye(4) + rho * (np.ones((4, 4)) - np.eye(4))
    results = np.array(
        [
            correlation_distance(
                normal(rng, 500, np.zeros(4), covariance), normal(rng, 250, np.zeros(4), covariance)
            )
            for _ in range(80)
        ]
    )
    rms = np.sqrt(np.mean(results[:, 0] ** 2))
    expected = (1 - rho**2) * np.sqrt(1 / 500 + 1 / 250)
    # Six pairs that are correlated among themselves count as three.
    assert_allclose(rms, expected, rtol=4 / np.sqrt(2 * 80 * 3))
    assert_allclose(np.sqrt(np.mean(results[:, 2] ** 2)), expected, rtol=0.1)
    # The distance of two features is |z|, which spreads by less than the z that the error knows.
    results = np.array(
        [correlation_distance(*rng.normal(size=(2, 400, 2)))[:2] for _ in range(150)]
    )
    factor = 1 / np.sqrt(1 - 2 / np.pi)
    rms = np.sqrt(np.mean(results[:, 1] ** 2))
    assert_allclose(rms / factor, results[:, 0].std(), rtol=4 / np.sqrt(300))


def test_constant_columns_have_no_correlations():
    rng = np.random.default_rng(2)
    x = rng.normal(size=200)
    X = np.column_stack([x, x, np.full(200, 0.1)])
    broken = np.column_stack([x, np.full(200, 1e6), np.full(200, 0.1)])
    # The pair that was fully correlated is one of three.
    assert_allclose(correlation_distance(X, broken).distance, np.sqrt(1 / 3))
    assert correlation_distance(X, X).distance == 0
    with pytest.raises(ValueError, match="two features or more"):
        correlation_distance(X[:, :1], X[:, :1])


# What all have in common.


@pytest.mark.parametrize("name", list(METRICS))
def test_weight_zero_is_absent(name):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(120, 3)), rng.normal(0.3, size=(100, 3))
    extra = 50 * rng.normal(size=(30, 3))
    weights = {"weight_true": np.ones(120), "weight_generated": rng.uniform(0.5, 1.5, 100)}
    expected = METRICS[name](X, Y, **weights)
    with_extra = METRICS[name](
        np.vstack([extra[:10], X]),
        np.vstack([Y, extra]),
        weight_true=np.repeat([0.0, 1.0], [10, 120]),
        weight_generated=np.append(weights["weight_generated"], np.zeros(30)),
    )
    assert_allclose(flat(with_extra), flat(expected), rtol=1e-12)


def test_weight_two_is_the_event_twice():
    rng = np.random.default_rng(1)
    X, Y = rng.normal(size=(80, 3)), rng.normal(0.3, size=(60, 3))
    v, w = rng.integers(1, 4, 80), rng.integers(1, 4, 60)
    repeated = np.repeat(X, v, axis=0), np.repeat(Y, w, axis=0)
    weights = {"weight_true": v, "weight_generated": w}
    for metric, part in (
        (wasserstein_distance, slice(None)),
        (sliced_wasserstein_distance, slice(None)),
        (frechet_distance, -1),
        (correlation_distance, 0),
    ):
        assert_allclose(
            flat(metric(X, Y, **weights))[part], flat(metric(*repeated))[part], rtol=1e-7
        )
    iou = histogram_iou(X[:, 0], Y[:, 0], bins=9, **weights).iou
    assert_allclose(iou, histogram_iou(repeated[0][:, 0], repeated[1][:, 0], bins=9).iou)


@pytest.mark.parametrize("name", [*METRICS, "overlap"])
def test_only_ratios_of_weights_matter(name):
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(120, 3)), rng.normal(0.3, size=(100, 3))
    v, w = rng.uniform(0.5, 1.5, 120), rng.uniform(0.5, 1.5, 100)

    def metric(v, w):
        if name == "overlap":
            return histogram_iou(X[:, 0], Y[:, 0], weight_true=v, weight_generated=w)
        return METRICS[name](X, Y, weight_true=v, weight_generated=w)

    # Powers of two, by which nothing is rounded.
    assert_allclose(flat(metric(v / 128, 16 * w)), flat(metric(v, w)), rtol=1e-9)


@pytest.mark.parametrize("name", list(METRICS))
def test_events_of_any_shape_are_rows(name):
    rng = np.random.default_rng(2)
    X, Y = rng.normal(size=(90, 2, 3)), rng.normal(size=(80, 2, 3))
    table = METRICS[name](X.reshape(90, -1), Y.reshape(80, -1))
    assert_allclose(flat(METRICS[name](X, Y)), flat(table), rtol=0)


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize(
    ("X", "Y", "params", "match"),
    [
        (np.zeros(5), np.zeros((5, 1)), {}, "X_true' parameter must have the shape"),
        (np.zeros((50, 2)), np.zeros((50, 3)), {}, r"shape of those in X_true, \(2,\)"),
        (np.zeros((50, 2)), np.full((50, 2), np.nan), {}, "X_generated contains NaN"),
        (np.zeros((0, 2)), np.zeros((50, 2)), {}, "'X_true' parameter must hold at least"),
        (np.zeros((5, 0)), np.zeros((5, 0)), {}, "'X_true' parameter has no features"),
        (np.eye(9), np.eye(9), {"weight_true": -np.ones(9)}, "'weight_true' parameter"),
        (np.eye(9), np.eye(9), {"weight_generated": np.ones(3)}, "'weight_generated' parameter"),
    ],
)
def test_bad_samples(name, X, Y, params, match):
    with pytest.raises(ValueError, match=match):
        METRICS[name](X, Y, **params)


@pytest.mark.parametrize("name", list(METRICS))
def test_columns_of_data_frames_must_agree(name):
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(100, 3)), rng.normal(1.0, size=(100, 3))
    frames = [pandas.DataFrame(Z, columns=["a", "b", "c"]) for Z in (X, Y)]
    expected = flat(METRICS[name](X, Y))
    for samples in (frames, (frames[0], Y)):
        assert_allclose(flat(METRICS[name](*samples)), expected, rtol=1e-9)
    for columns in (["a", "c", "b"], ["a", "b", "d"]):
        other = pandas.DataFrame(Y, columns=columns)
        with pytest.raises(ValueError, match="must have the columns of X_true, in this order"):
            METRICS[name](frames[0], other)


def test_too_few_events():
    with pytest.raises(ValueError, match="'n_groups' parameter"):
        frechet_distance(np.eye(9), np.eye(9))
    weight = np.append(8.0, np.ones(8))  # (8 + 8)² / (64 + 8)
    with pytest.raises(ValueError, match=r"Got 5 for 3\.56 events in X_true"):
        precision_recall_density_coverage(np.eye(9), np.eye(9), weight_true=weight)


# Scorers.


class Gaussian(BaseEstimator):
    """A sampler whose condition shifts the mean, if it listens to it."""

    def __init__(self, *, width=1.0, listens=True):
        self.width = width
        self.listens = listens

    def fit(self, X, y=None):
        self.mean_ = np.mean(X, axis=0)
        self.conditional_ = y is not None
        self.y_ = None if y is None else np.asarray(y, dtype=float)
        return self

    def sample(self, n_samples=1, y=None, random_state=None):
        assert (y is not None) == self.conditional_
        noise = self.width * random_state.normal(size=(n_samples, len(self.mean_)))
        if y is None:
            return self.mean_ + noise
        y = np.asarray(y, dtype=float) if self.listens else random_state.choice(self.y_, n_samples)
        return y.reshape(-1, 1) + noise


def conditional_events(rng, n=600):
    y = rng.choice([-2.0, 2.0], n)
    return y[:, None] + rng.normal(size=(n, 2)), y


def test_a_search_finds_the_width():
    X = np.random.default_rng(0).normal(3, 2, size=(900, 2))
    scorer = make_sample_scorer(sliced_wasserstein_distance)
    search = GridSearchCV(Gaussian(), {"width": [0.5, 2.0, 6.0]}, scoring=scorer, cv=3).fit(X)
    assert search.best_params_ == {"width": 2.0}
    # Samples come back through the Pipeline: the sampler sees standardised events.
    pipe = make_pipeline(StandardScaler(), Gaussian())
    grid = {"gaussian__width": [0.25, 1.0, 3.0]}
    auc = make_sample_scorer(two_sample_auc, classifier=KNeighborsClassifier(30))
    for scoring in (scorer, auc):
        search = GridSearchCV(pipe, grid, scoring=scoring, cv=3).fit(X)
        assert search.best_params_ == {"gaussian__width": 1.0}
        # A search is a sampler too.
        assert scoring(search, X) == scoring(search.best_estimator_, X)


@pytest.mark.parametrize("kind", ["energy", "class"])
def test_events_of_the_same_conditions_are_told_by_what_is_wrong_alone(kind):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(2000, 3)) if kind == "energy" else rng.choice(["a", "b"], 2000)
    mean = y if kind == "energy" else np.where(y == "a", -1.0, 1.0)[:, None]
    true, right = (mean + rng.normal(size=(2000, 3)) for _ in range(2))
    wrong = rng.permutation(true)
    result = two_sample_auc(true, right, y_true=y, y_generated=y)
    assert abs(result.auc - 0.5) < 4 * result.error
    assert two_sample_auc(true, wrong, y_true=y, y_generated=y).auc > 0.65
    # On average over conditions it is right.
    alike = two_sample_auc(true, rng.permutation(right))
    assert abs(alike.auc - 0.5) < 4 * alike.error
    if kind == "energy":
        # Whoever knows the twin of an event is misled.
        misled = two_sample_auc(np.hstack([true, y]), np.hstack([right, y]))
        assert misled.auc < 0.5 - 4 * misled.error
    # A weight of zero is the event absent, with its condition.
    w = np.repeat([1.0, 0.0], 1000)
    some = two_sample_auc(true, right, y_true=y, y_generated=y, weight_true=w)
    assert some == two_sample_auc(
        true[:1000], right, y_true=y[:1000], y_generated=y, weight_true=w[:1000]
    )
    with pytest.raises(ValueError, match=r"must be given both, or neither. Got y_true only"):
        two_sample_auc(true, right, y_true=y)


@pytest.mark.parametrize(
    ("n_conditions", "of_true", "of_generated", "how"),
    [
        (60, 1, 10, "same"),
        (60, 1, 10, "drawn"),
        (60, 1, 10, "others"),
        (60, 3, 3, "same"),
        (30, 3, 3, "others"),
        (20, 30, 30, "same"),
        (8, 100, 100, "same"),
        (10, 40, 40, "classes"),
        (20, 3, 3, "classes"),
    ],
)
def test_conditions_that_several_events_have(n_conditions, of_true, of_generated, how):
    # A perfect generator, asked as often for each condition, for drawn ones, or for others.
    n_repetitions, level = 40, 0.9
    # The one knows by heart what is near, the other sees how conditions are distributed.
    near = how in ("same", "drawn") and n_conditions > 10
    classifier = KNeighborsClassifier(15) if near else LogisticRegression()
    inside, areas, z = 0, [], []
    for seed in range(n_repetitions):
        rng = np.random.default_rng(seed)
        base = rng.normal(size=(n_conditions, 2))
        one, other = (np.repeat(np.arange(n_conditions), k) for k in (of_true, of_generated))
        if how == "drawn":
            other = rng.choice(n_conditions, len(other))
        given = rng.normal(size=base.shape) if how == "others" else base
        true, generated = (y + rng.normal(size=y.shape) for y in (base[one], given[other]))
        names = np.arange(n_conditions).astype(str)
        y = (names[one], names[other]) if how == "classes" else (base[one], given[other])
        result = two_sample_auc(
            true,
            generated,
            y_true=y[0],
            y_generated=y[1],
            classifier=classifier,
            confidence_level=level,
            random_state=seed,
        )
        low, high = result.null_interval
        inside += low <= result.auc <= high
        areas.append(result.auc)
        z.append(-norm.ppf(result.p_value))
    assert inside >= binom.ppf(1e-4, n_repetitions, level)
    assert abs(np.mean(areas) - 0.5) < 4 * np.std(areas, ddof=1) / np.sqrt(n_repetitions)
    assert np.std(z) < 1 + 4 / np.sqrt(2 * n_repetitions)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_events_that_are_alike_scatter_as_one(k):
    away = np.random.default_rng(k).normal(size=40)
    # The sum of k equal deviations is k times one, that of independent ones √k times.
    group = np.random.default_rng(0).permutation(np.repeat(np.arange(40), k))
    assert_allclose(_stretch(away[group], group), np.sqrt(k))
    assert _stretch(away[group], np.arange(40 * k)) == pytest.approx(1)
    assert _stretch(np.zeros(40), np.arange(40)) == 1


@pytest.mark.parametrize("how", ["drawn", "independent", "all but one"])
def test_classes_in_almost_the_same_proportions_do_not_mislead(how):
    n_repetitions, n_classes, z = 16, 60, []
    for seed in range(n_repetitions):
        rng = np.random.default_rng(seed)
        true = rng.integers(n_classes, size=1200)
        true[:n_classes] = np.arange(n_classes)
        generated = {
            "drawn": rng.choice(true, 1200),
            "independent": rng.choice(n_classes, 1200),
            "all but one": true[1:],
        }[how]
        result = two_sample_auc(
            rng.normal(size=(1200, 1)),
            rng.normal(size=(len(generated), 1)),
            y_true=true,
            y_generated=generated,
            classifier=LogisticRegression(),
            random_state=seed,
        )
        z.append(-norm.ppf(result.p_value))
    # Folds that are dealt by chance are 2.7 off where classes are drawn, √(59 / 2) / 2.
    assert abs(np.mean(z)) < 4 / np.sqrt(n_repetitions)


@pytest.mark.parametrize("times", [(1, 1), (1, 2), (3, 1)])
@pytest.mark.parametrize("n_classes", [1, 12])
def test_every_fold_has_the_classes_in_the_proportions_of_all(times, n_classes):
    rng = np.random.default_rng(0)
    # A number of events that no number of folds divides.
    one = rng.integers(n_classes, size=211)
    condition = np.concatenate([np.tile(one, t) for t in times])
    y = np.repeat([0, 1], [211 * t for t in times])
    fold, _ = _deal(
        rng.normal(size=(len(y), 1)),
        y,
        1 / np.bincount(y)[y],
        5,
        np.random.RandomState(0),
        condition[:, None].astype(float),
        False,
    )
    counts = np.zeros((2, 5, n_classes), dtype=int)
    np.add.at(counts, (y, fold, condition), 1)
    if n_classes > 1:
        np.testing.assert_array_equal(counts[0] * times[1], counts[1] * times[0])
    sizes = counts.sum(axis=2)
    assert np.all(np.ptp(sizes, axis=1) <= np.maximum(1, times))


def test_every_fold_has_both_samples_where_few_events_have_many_classes():
    # Of each of ten classes ten true events, so that places start anew, and one generated one.
    condition = np.append(np.repeat(np.arange(10), 10), np.arange(10))
    y = np.repeat([0, 1], [100, 10])
    X, weight = np.arange(110.0)[:, None], 1 / np.bincount(y)[y]
    for seed in range(5):
        random = np.random.RandomState(seed)
        fold, _ = _deal(X, y, weight, 5, random, condition[:, None].astype(float), False)
        # Either sample evenly.
        np.testing.assert_array_equal(np.bincount(fold[y == 1]), 2)
        assert len(np.unique(fold[y == 0])) == 5


def test_a_classifier_sees_what_is_wrong_with_one_class_or_energy():
    # Classes and frequent energies are in all folds: nobody could tell from the others.
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 250)
    true, generated = rng.normal(size=(2, 1000, 1))
    generated[y == 2] += 3
    # The best order is that of the ratio of densities, which is 1 outside of class 2, and there
    # above 1 for x > 1.5.
    best = 0.75**2 / 2 + 2 * 0.75 * 0.25 * norm.cdf(1.5) + 0.25**2 * norm.cdf(3 / np.sqrt(2))
    classifier = HistGradientBoostingClassifier(max_iter=20, early_stopping=False)
    for given in (y, y.astype(float), np.array(list("abcd"))[y]):
        result = two_sample_auc(
            true, generated, y_true=given, y_generated=given, classifier=classifier
        )
        assert abs(result.auc - best) < 4 * result.error


def test_kinds_of_conditions():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    true, generated = normal(rng, 300, [0, 0]), normal(rng, 300, [0.3, 0])
    label, number = rng.choice(["a", "b"], (2, 300)), rng.uniform(1, 2, (2, 300))

    def auc(y_true, y_generated):
        return two_sample_auc(
            true,
            generated,
            y_true=y_true,
            y_generated=y_generated,
            classifier=LogisticRegression(),
        )

    # Labels of any type, and integers, are classes.
    expected = auc(*label)
    for kind in (list, pandas.Series, lambda y: y.astype(object), lambda y: y[:, None]):
        assert auc(kind(label[0]), kind(label[1])) == expected
        assert auc(kind(label[0]), label[1]) == expected
    assert auc(*(label == "b").astype(int)) == expected
    assert auc(*(label == "b")) == expected
    # Numbers are compared in the precision that both have.
    single = number.astype(np.float32)
    assert auc(number[0], single[1]) == auc(single[0], number[1]) == auc(*single)
    assert auc(number[0], single[0]) == auc(single[0], single[0])
    half = number[1].astype(np.float16)
    assert auc(number[0], half) == auc(number[0].astype(np.float16), half)
    # A number too large for the other precision is what it is, and not infinite.
    first = np.arange(300) < 100
    rounded = number[0].astype(np.float16).astype(float)
    assert auc(np.where(first, 1e5, number[0]), half) == auc(
        np.where(first, 1e5, rounded), half.astype(float)
    )
    # Integers are numbers where the other sample has floats, however many.
    energy = rng.permutation(np.arange(300))
    assert auc(energy, energy.astype(float)) == auc(energy.astype(float), energy)
    # Each column is what it holds.
    both = [np.column_stack([y, e.astype(object)]) for y, e in zip(label, number, strict=True)]
    frames = [pandas.DataFrame({"y": y, "e": e}) for y, e in zip(label, number, strict=True)]
    assert auc(*both) == auc(*frames)
    assert auc(*frames) == auc(
        *(
            np.column_stack([y == "a", y == "b", e]).astype(float)
            for y, e in zip(label, number, strict=True)
        )
    )
    two = rng.choice(["a", "b"], (2, 300, 2))
    assert auc(*two) == auc(*(two == "b").astype(int))


NAMES = np.repeat(["a", "b"], 50)
ENERGIES = np.linspace(1, 2, 100)


@pytest.mark.parametrize(
    ("y_true", "y_generated", "match"),
    [
        (NAMES, None, "must be given both, or neither. Got y_true only"),
        (NAMES[:90], np.append(NAMES, NAMES[:10]), r"'y_true' .* X_true has 100 .* \(90,\)"),
        (NAMES, np.append(NAMES, "a"), r"'y_generated' .* X_generated has 100 .* \(101,\)"),
        (
            NAMES,
            np.char.upper(NAMES),
            r"classes of those in y_true, \['a', 'b'\]. Got \['A', 'B'\]",
        ),
        (ENERGIES, NAMES, r"kind of those in y_true, floats such as 1.0. Got labels such as a"),
        (NAMES, ENERGIES, r"kind of those in y_true, labels such as a. Got floats such as 1.0"),
        (np.arange(100), NAMES, r"kind of those in y_true, integers"),
        (ENERGIES, np.ones((100, 2)), "'y_generated' .* as many columns as y_true, 1. Got 2"),
        (ENERGIES, np.full(100, np.nan), "y_generated contains NaN"),
        (NAMES.astype(object), np.array(["a", None] * 50), "'y_generated' .* label for each event"),
        (np.array(["a", 1] * 50, object), NAMES, "'y_true' .* of one type.* Got int, str"),
        (np.array(["2020", "NaT"] * 50, "M8[D]"), NAMES, "'y_true' .* label for each event.*NaT"),
        (ENERGIES[:, None, None], ENERGIES, r"'y_true' .* must have the shape"),
    ],
)
def test_conditions_that_do_not_belong_together(y_true, y_generated, match):
    X = np.random.default_rng(0).normal(size=(100, 2))
    # Before weights, which leave events out.
    weight = np.repeat([1.0, 0.0], [95, 5])
    for weights in ({}, {"weight_true": weight}):
        with pytest.raises(ValueError, match=match):
            two_sample_auc(X, X + 1, y_true=y_true, y_generated=y_generated, **weights)


def test_integers_of_many_values_are_no_classes():
    X, y = np.zeros((101, 1)), np.arange(101)
    with pytest.raises(ValueError, match=r"100 classes at most.* Got 101.* as floats"):
        two_sample_auc(X, X, y_true=y, y_generated=y)


def test_a_search_finds_whether_conditions_are_worth_having():
    X, y = conditional_events(np.random.default_rng(0), 400)
    scorer = make_sample_scorer(sliced_wasserstein_distance)
    flow = FlowSampler(max_epochs=10, random_state=0)
    search = GridSearchCV(flow, {"condition": ["auto", None]}, scoring=scorer, cv=2).fit(X, y)
    assert search.best_params_ == {"condition": "auto"}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_samplers_are_found_within_searches_and_pipelines():
    X = np.random.default_rng(0).normal(3, 2, size=(300, 2))
    scorer = make_sample_scorer(sliced_wasserstein_distance)
    pipe = make_pipeline(StandardScaler(), Gaussian()).fit(X)
    search = GridSearchCV(pipe, {"gaussian__width": [1.0]}, scoring=scorer, cv=2)
    with pytest.raises(NotFittedError, match="This GridSearchCV instance is not fitted yet"):
        scorer(search, X)
    expected = scorer(pipe, X)
    for wrapped in (search.fit(X), FrozenEstimator(search), make_pipeline(FrozenEstimator(pipe))):
        assert scorer(wrapped, X) == expected
    # The events go back through all pipelines.
    assert_allclose(scorer(make_pipeline(StandardScaler(), pipe).fit(X), X), expected)
    search = GridSearchCV(pipe, {}, scoring=scorer, cv=2, refit=False).fit(X)
    with pytest.raises(ValueError, match=r"'refit' parameter of GridSearchCV .* Got False"):
        scorer(search, X)


@pytest.mark.parametrize("classes", [False, True])
def test_a_conditional_sampler_must_listen(classes):
    X, y = conditional_events(np.random.default_rng(1))
    y = y.astype(int) if classes else y
    grid = {"listens": [False, True]}
    search = GridSearchCV(
        Gaussian(), grid, scoring=make_sample_scorer(sliced_wasserstein_distance), cv=3
    ).fit(X, y)
    assert search.best_params_ == {"listens": True}
    scores = search.cv_results_["mean_test_score"]
    assert scores[1] > scores[0] + 0.2
    # Without their conditions the events of both are alike.
    alone = make_sample_scorer(sliced_wasserstein_distance, append_conditions=False)
    fits = [Gaussian(listens=listens).fit(X, y) for listens in (False, True)]
    assert abs(alone(fits[0], X, y) - alone(fits[1], X, y)) < 0.2


def test_sign_number_and_weights_of_a_scorer():
    X, y = conditional_events(np.random.default_rng(2))
    sampler = Gaussian().fit(X, y)
    seen = []

    def metric(X_true, X_generated, weight_true=None, factor=1.0):
        seen.append((X_true.shape, X_generated.shape, weight_true))
        assert np.all(np.isin(X_generated[:, 2:], [-2.0, 2.0]))
        return factor

    assert make_sample_scorer(metric, factor=2.0)(sampler, X, y) == -2.0
    assert make_sample_scorer(metric, greater_is_better=True)(sampler, X, y) == 1.0
    make_sample_scorer(metric, n_samples=50)(sampler, X, y)
    assert seen[0][:2] == ((600, 3), (600, 3))
    assert seen[2][:2] == ((600, 3), (50, 3))
    # Conditions are drawn with the weights: here of one kind only.
    weight = (y > 0).astype(float)

    def only_positive(X_true, X_generated, weight_true):
        assert np.all(X_generated[:, 2] == 2.0)
        # Who weighs nothing is not there.
        np.testing.assert_array_equal(X_true[:, :2], X[y > 0])
        np.testing.assert_array_equal(weight_true, 1)
        assert len(X_generated) == np.sum(y > 0)
        return 0.0

    make_sample_scorer(only_positive)(sampler, X, y, sample_weight=weight)


def test_weights_of_a_scorer_that_are_none():
    X = np.random.default_rng(0).normal(size=(50, 2))
    scorer = make_sample_scorer(sliced_wasserstein_distance)
    with pytest.raises(ValueError, match="sample_weight has 50 negative"):
        scorer(Gaussian().fit(X), X, sample_weight=-np.ones(50))


def test_a_metric_that_passes_conditions_on_must_know_what_to():
    X, y = conditional_events(np.random.default_rng(0), 60)

    def metric(*samples, **others):
        return sliced_wasserstein_distance(*samples, **others)

    sampler = Gaussian().fit(X, y)
    with pytest.raises(TypeError, match=r"metric, passes y_true on .* append_conditions=False"):
        make_sample_scorer(metric)(sampler, X, y)
    assert np.isfinite(make_sample_scorer(metric, append_conditions=False)(sampler, X, y))

    # Errors of other kinds are the metric's own.
    def broken(*samples, **others):
        raise TypeError("no number")

    with pytest.raises(TypeError, match=r"^no number$"):
        make_sample_scorer(broken)(sampler, X, y)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_metric_sees_the_labels_that_were_given(shape):
    X, y = conditional_events(np.random.default_rng(0), 60)
    label = np.where(y > 0, "up", "down").astype(object).reshape(shape)

    class Labelled(Gaussian):
        def sample(self, n_samples=1, y=None, random_state=None):
            return super().sample(n_samples, np.where(np.ravel(y) == "up", 2, -2), random_state)

    sampler = Labelled().fit(X, y)
    sampler.condition_ = "classes"

    def metric(X_true, X_generated, y_true, y_generated):
        np.testing.assert_array_equal(y_true, label)
        np.testing.assert_array_equal(y_generated, label)
        return 0.0

    make_sample_scorer(metric)(sampler, X, label)


def test_classes_that_are_called_by_numbers_are_classes():
    X, y = conditional_events(np.random.default_rng(0))
    sampler = Gaussian().fit(X, y)
    sampler.condition_ = "classes"
    scorer = make_sample_scorer(two_sample_auc, classifier=LogisticRegression())
    assert scorer(sampler, X, y) == scorer(sampler, X, y.astype(int))


@pytest.mark.parametrize("weighted", [False, True])
def test_conditions_of_generated_events_are_in_proportion(weighted):
    rng = np.random.default_rng(0)
    y = rng.integers(7, size=500).astype(str)
    weight = rng.uniform(0.5, 2, 500) if weighted else None
    X = rng.normal(size=(500, 2))
    sampler = KernelDensity().fit(X)
    _, given = generate_like(
        sampler, X, y, n_samples=1234, sample_weight=weight, rng=np.random.RandomState(0)
    )
    w = np.ones(500) if weight is None else weight
    for label in np.unique(y):
        expected = 1234 * w[y == label].sum() / w.sum()
        # Places are evenly spaced: a run of them has one more or less at most.
        assert abs(np.sum(given == label) - expected) <= 1


@pytest.mark.parametrize("n_samples", [None, 3000])
def test_a_scorer_gives_conditions_to_a_metric_that_takes_them(n_samples):
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    X = y[:, None] + rng.normal(size=(300, 2))
    sampler = Gaussian().fit(X, y)
    drawn = np.random.RandomState(0)
    generated, given = generate_like(sampler, X, y, n_samples=n_samples, rng=drawn)
    # As many of each condition: ten, of 3000 for 300.
    np.testing.assert_array_equal(np.sort(given), np.repeat(np.sort(y), len(given) // 300))
    params = {"classifier": LogisticRegression(), "n_samples": n_samples}
    scorer = make_sample_scorer(two_sample_auc, **params)
    del params["n_samples"]
    expected = two_sample_auc(X, generated, y_true=y, y_generated=given, **params)
    assert scorer(sampler, X, y) == -expected.auc

    # So does a function that passes on what it is given, which must not be given twice.
    def metric(*samples, **others):
        return two_sample_auc(*samples, **params, **others)

    assert make_sample_scorer(metric, n_samples=n_samples)(sampler, X, y) == -expected.auc
    with pytest.raises(ValueError, match=r"must leave out what .* Got \['y_true'\]"):
        make_sample_scorer(two_sample_auc, y_true=y)


def test_a_scorer_takes_conditions_for_what_the_sampler_did():
    rng = np.random.default_rng(0)
    energy = rng.permutation(np.arange(1000, 1150))
    X = energy[:, None] / 100 + rng.normal(size=(150, 2))
    flow = FlowSampler(
        condition="continuous", n_transforms=1, hidden_layer_sizes=(8,), max_epochs=1
    ).fit(X, energy)
    assert flow.condition_ == "continuous"
    scorers = (
        make_sample_scorer(sliced_wasserstein_distance),
        make_sample_scorer(two_sample_auc, classifier=LogisticRegression()),
    )
    for scorer in scorers:
        assert scorer(flow, X, energy) == scorer(flow, X, energy.astype(float))
    # What it was fitted to counts, not what its parameters have become.
    expected = scorer(flow, X, energy)
    assert scorer(flow.set_params(condition=None), X, energy) == expected
    kinds = {"auto": "classes", "classes": "classes", "continuous": "continuous", None: None}
    for condition, kind in kinds.items():
        fitted = flow.set_params(condition=condition).fit(X, energy % 2)
        assert fitted.condition_ == kind
        assert np.isfinite(scorer(fitted, X, energy % 2))
    with pytest.raises(ValueError, match="fitted without y"):
        scorer(flow.set_params(condition="auto").fit(X), X, energy)


def test_weights_are_refused_by_metrics_without_any():
    X = np.random.default_rng(0).normal(size=(50, 2))
    scorer = make_sample_scorer(lambda true, generated: 0.0)
    # Before anything is generated: a sampler that is not fitted cannot.
    with pytest.raises(ValueError, match=r"must take 'weight_true'.* <lambda> does not"):
        scorer(Gaussian(), X, sample_weight=np.ones(50))


def test_weights_of_a_scorer_are_routed():
    rng, cv = np.random.default_rng(6), KFold(3)
    X, w = rng.normal(size=(300, 2)), rng.exponential(size=300)
    plain = make_sample_scorer(sliced_wasserstein_distance)
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), Gaussian())
        with pytest.raises(ValueError, match="sample_weight"):
            cross_val_score(pipe, X, scoring=plain, cv=cv, params={"sample_weight": w})
        asks, ignores = (
            make_sample_scorer(sliced_wasserstein_distance).set_score_request(sample_weight=value)
            for value in (True, False)
        )
        scoring = {"weighted": asks, "plain": ignores}
        found = cross_validate(pipe, X, scoring=scoring, cv=cv, params={"sample_weight": w})
        grid = {"gaussian__width": [0.2, 1.0, 5.0]}
        search = GridSearchCV(pipe, grid, scoring=asks, cv=cv).fit(X, sample_weight=w)
    folds = [(clone(pipe).fit(X[train]), X[test], w[test]) for train, test in cv.split(X)]
    expected = [plain(fitted, part, sample_weight=weight) for fitted, part, weight in folds]
    assert_allclose(found["test_weighted"], expected)
    assert_allclose(found["test_plain"], [plain(fitted, part) for fitted, part, _ in folds])
    assert search.best_params_ == {"gaussian__width": 1.0}
    assert_allclose(search.best_score_, np.mean(expected))


def test_samplers_of_scikit_learn_are_scored():
    X = np.random.default_rng(3).normal(size=(300, 2))
    scorer = pickle.loads(pickle.dumps(make_sample_scorer(sliced_wasserstein_distance)))
    for sampler in (KernelDensity(bandwidth=0.1), GaussianMixture(random_state=0)):
        scores = cross_val_score(sampler, X, scoring=scorer, cv=3)
        assert np.all((scores < 0) & (scores > -0.4))
    with pytest.raises(ValueError, match="no method sample"):
        scorer(LogisticRegression(), X)
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        make_sample_scorer(sliced_wasserstein_distance, n_samples=0)


# The display.


@pytest.fixture
def plt():
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_marginals_are_shares_with_their_errors(plt):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(500, 2)), rng.normal(size=(400, 2))
    X[0], Y[0] = 100.0, -100.0  # beyond the range that is drawn
    w = rng.uniform(size=500)
    display = SampleComparisonDisplay.from_samples(X, Y, weight_true=w, columns=[1], n_bins=10)
    (marginal,) = display.marginals
    share, std = marginal["true"]
    assert_allclose([share.sum(), marginal["generated"][0].sum()], 1)
    edges = marginal["edges"]
    middle = (X[:, 1] >= edges[5]) & (X[:, 1] < edges[6])
    assert_allclose(share[5], w[middle].sum() / w.sum())
    assert_allclose(std[5], np.sqrt((w[middle] ** 2).sum()) / w.sum())
    np.testing.assert_allclose(
        display.correlation_generated, np.corrcoef(Y.T), rtol=1e-10, atol=1e-12
    )
    assert len(display.axes_) == len(display.ratio_axes_) == 1
    assert len(display.correlation_axes_) == 3


def test_the_range_holds_the_weight(plt):
    rng = np.random.default_rng(6)
    X, Y = rng.normal(size=(2, 1000, 1))
    # A tenth of the events, far away, that weighs nothing to speak of.
    X[:100] += 1000.0
    w = np.where(X[:, 0] > 500, 1e-9, 1.0)
    display = SampleComparisonDisplay.from_samples(X, Y, weight_true=w, n_bins=20)
    (marginal,) = display.marginals
    assert marginal["edges"][-1] <= max(Y.max(), X[100:].max())
    # Weight two is the event twice.
    v = rng.integers(1, 4, 1000)
    weighted, repeated = (
        SampleComparisonDisplay.from_samples(*samples, n_bins=20, **weights).marginals[0]["edges"]
        for samples, weights in (
            ((Y, X[100:]), {"weight_true": v}),
            ((np.repeat(Y, v, axis=0), X[100:]), {}),
        )
    )
    assert_allclose(weighted, repeated)


def test_the_ratio_of_a_sample_to_itself_is_one(plt):
    X = np.random.default_rng(1).normal(size=(300, 2))
    display = SampleComparisonDisplay.from_samples(X, X, correlation=False)
    for ax in display.ratio_axes_:
        points = ax.containers[0].lines[0].get_ydata()
        assert_allclose(points, 1)
    assert display.correlation_axes_ == []


def test_the_most_different_columns_come_first(plt):
    rng = np.random.default_rng(2)
    X = rng.normal(size=(300, 5, 3)) * 10.0
    Y = X + np.linspace(0, 5, 15).reshape(5, 3)
    display = SampleComparisonDisplay.from_samples(X, Y, max_columns=3)
    assert [marginal["name"] for marginal in display.marginals] == [
        "column 14",
        "column 13",
        "column 12",
    ]
    assert display.figure_._suptitle.get_text() == "3 most different of 15 columns"
    names = [f"E{i} (keV)" for i in range(15)]
    display = SampleComparisonDisplay.from_samples(X, Y, names=names, columns=["E3 (keV)", -1])
    assert [ax.get_xlabel() for ax in display.ratio_axes_] == ["E3 (keV)", "E14 (keV)"]


def test_whole_numbers_have_bins_of_their_own(plt):
    rng = np.random.default_rng(3)
    X, Y = rng.poisson(3, (200, 1)), rng.poisson(4, (200, 1))
    (marginal,) = SampleComparisonDisplay.from_samples(X, Y).marginals
    assert_allclose(
        marginal["true"][0] * 200,
        np.bincount(X[:, 0], minlength=len(X))[np.rint(marginal["edges"][:-1] + 0.5).astype(int)],
    )


def test_display_of_an_estimator(plt):
    X = np.random.default_rng(4).normal(5, 3, size=(400, 2))
    pipe = make_pipeline(StandardScaler(), Gaussian()).fit(X)
    display = SampleComparisonDisplay.from_estimator(pipe, X, labels=("A", "B"))
    assert all(marginal["distance"] < 0.2 for marginal in display.marginals)
    assert [text.get_text() for text in display.axes_[0].get_legend().get_texts()] == ["A", "B"]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the scaler was fitted without names
        display = SampleComparisonDisplay.from_samples(frame, X)
    assert sorted(marginal["name"] for marginal in display.marginals) == ["a", "b"]


def test_bad_columns(plt):
    X = np.random.default_rng(5).normal(size=(20, 2))
    with pytest.raises(ValueError, match=r"'names' parameter .* 2 columns"):
        SampleComparisonDisplay.from_samples(X, X, names=["a"])
    for columns in ([2], ["c"], [], [1.0], [None], [[0]], [True, False], "column 0", 1):
        with pytest.raises(ValueError, match="'columns' parameter"):
            SampleComparisonDisplay.from_samples(X, X, columns=columns)


@pytest.mark.parametrize(
    "params",
    [
        {"max_columns": 0},
        {"n_bins": 0},
        {"n_bins": 2.5},
        {"names": "ab"},
        {"correlation": "no"},
        {"labels": "AB"},
        {"labels": ("A",)},
    ],
)
def test_bad_parameters_of_the_display(params):
    X = np.random.default_rng(5).normal(size=(20, 2))
    with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter"):
        SampleComparisonDisplay.from_samples(X, X, **params)
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        SampleComparisonDisplay.from_estimator(Gaussian().fit(X), X, n_samples=0)
