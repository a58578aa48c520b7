import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import binomtest, norm

from sknuc.metrics import acceptance_threshold, binomial_interval, rejection_at_acceptance


@pytest.mark.parametrize(("method", "oracle"), [("wilson", "wilson"), ("clopper-pearson", "exact")])
@pytest.mark.parametrize(("k", "n"), [(0, 7), (1, 7), (7, 7), (90, 100), (1, 2000)])
def test_binomial_interval_equals_scipy(method, oracle, k, n):
    expected = binomtest(k, n).proportion_ci(0.9, method=oracle)
    assert_allclose(
        binomial_interval(k, n, confidence_level=0.9, method=method), expected, atol=1e-12
    )


def test_binomial_interval_refuses_impossible_counts():
    for k, n in [(3, 2), (-1, 2), (0, 0)]:
        with pytest.raises(ValueError, match="0 <= n_passed <= n_total"):
            binomial_interval(k, n)


def gaussian_sample(rng, n, distance):
    y = np.repeat([0, 1], n)
    return y, rng.normal(distance * y)


@pytest.mark.parametrize("acceptance", [0.5, 0.9, 0.99])
def test_gaussian_scores_have_the_analytic_rejection(acceptance):
    # Signal N(d, 1), background N(0, 1): the cut is d - z(a) and removes Phi(d - z(a)).
    distance, n = 2.0, 400_000
    y, score = gaussian_sample(np.random.default_rng(1), n, distance)
    result = rejection_at_acceptance(y, score, acceptance=acceptance)
    z = norm.ppf(acceptance)
    expected = norm.cdf(distance - z)
    # Delta method: the background's binomial error and the slope of the ROC curve.
    slope = norm.pdf(distance - z) / norm.pdf(z)
    std = np.sqrt(expected * (1 - expected) / n + slope**2 * acceptance * (1 - acceptance) / n)
    assert abs(result.rejection - expected) < 4 * std
    assert_allclose(result.threshold, distance - z, atol=0.02)
    # The interval is read off the signal events inside it, whose number fluctuates.
    n_inside = 2 * norm.ppf(0.84) * np.sqrt(n * acceptance * (1 - acceptance))
    assert_allclose(np.diff(result.interval), 2 * norm.ppf(0.84) * std, rtol=4 / np.sqrt(n_inside))


def test_interval_covers_at_its_confidence_level():
    rng, trials, distance = np.random.default_rng(2), 1200, 1.8
    expected, hit, bare = norm.cdf(distance - norm.ppf(0.9)), 0, 0
    for _ in range(trials):
        y, score = gaussian_sample(rng, 500, distance)
        result = rejection_at_acceptance(y, score)
        hit += result.interval[0] <= expected <= result.interval[1]
        low, high = binomial_interval(result.rejection * 500, 500)
        bare += low <= expected <= high
    sigma = np.sqrt(0.68 * 0.32 / trials)
    assert abs(hit / trials - 0.68) < 4 * sigma
    # Without the threshold's own error the interval would be wrong.
    assert bare / trials < 0.68 - 4 * sigma


def test_ties_are_kept_or_removed_together():
    y = np.repeat([1, 0], 10)
    score = np.r_[[5] * 4, [3] * 6, [5] * 2, [3] * 3, [1] * 5]
    result = rejection_at_acceptance(y, score, acceptance=0.5)
    assert result.threshold == 3  # keeping only the fives would accept 0.4
    assert result.acceptance == 1.0
    assert result.rejection == 0.5
    assert rejection_at_acceptance(y, score, acceptance=0.4).rejection == 0.8


def test_threshold_is_the_empirical_quantile_of_distinct_scores():
    score = np.random.default_rng(0).permutation(1000)
    for acceptance in (0.001, 0.1, 0.9, 0.999):
        threshold = acceptance_threshold(score, acceptance=acceptance)
        assert (score >= threshold).mean() == pytest.approx(acceptance, abs=1e-15)


def test_integer_weights_are_repetitions():
    rng = np.random.default_rng(3)
    y, score = gaussian_sample(rng, 200, 1.5)
    weight = rng.integers(0, 4, len(y))
    weighted = rejection_at_acceptance(y, score, sample_weight=weight)
    repeated = rejection_at_acceptance(np.repeat(y, weight), np.repeat(score, weight))
    assert weighted.rejection == pytest.approx(repeated.rejection, abs=1e-12)
    assert weighted.threshold == repeated.threshold


def test_result_depends_on_the_order_of_the_scores_and_the_ratio_of_the_weights_alone():
    rng = np.random.default_rng(4)
    y, score = gaussian_sample(rng, 300, 1.5)
    weight = rng.gamma(2.0, size=len(y))
    one = rejection_at_acceptance(y, score, sample_weight=weight)
    other = rejection_at_acceptance(y, np.exp(score), sample_weight=7 * weight)
    assert_allclose(one.interval, other.interval)
    assert_allclose(one.rejection, other.rejection)
    assert_allclose(np.exp(one.threshold), other.threshold)


def test_equal_weights_and_any_labels_change_nothing():
    y, score = gaussian_sample(np.random.default_rng(5), 300, 1.5)
    plain = rejection_at_acceptance(y, score)
    assert rejection_at_acceptance(y, score, sample_weight=np.ones(len(y))) == plain
    names = np.where(y == 1, "DEP", "SEP")
    assert rejection_at_acceptance(names, score, pos_label="DEP") == plain


@pytest.mark.parametrize(
    ("n_signal", "n_continuum", "ratio", "level"),
    [(600, 300, 3, 0.68), (300, 600, 3, 0.68), (2000, 6000, 2, 0.68), (300, 600, 3, 0.95)],
)
def test_negative_weights_subtract_a_contamination(n_signal, n_continuum, ratio, level):
    # The signal sample holds continuum; a side-band, `ratio` times as wide, counts negatively.
    rng, trials, distance = np.random.default_rng(6), 400, 2.5
    threshold = distance - norm.ppf(0.9)
    expected = norm.cdf(threshold)
    hits, thresholds = [], []
    for _ in range(trials):
        n = rng.poisson([n_signal, n_continuum, n_continuum * ratio])
        score = np.r_[rng.normal(distance, 1, n[0]), rng.normal(0, 1, n[1] + n[2] + 3000)]
        weight = np.repeat([1.0, 1.0, -1 / ratio, 1.0], [*n, 3000])
        y = np.repeat([1, 0], [n.sum(), 3000])
        result = rejection_at_acceptance(y, score, sample_weight=weight, confidence_level=level)
        thresholds.append(result.threshold)
        hits.append(
            (
                result.interval[0] <= expected <= result.interval[1],
                result.threshold_interval[0] <= threshold <= result.threshold_interval[1],
            )
        )
    sigma = np.sqrt(level * (1 - level) / trials)
    assert_allclose(np.mean(hits, axis=0), level, atol=4 * sigma)
    assert abs(np.median(thresholds) - threshold) < 4 * np.std(thresholds) / np.sqrt(trials)


@pytest.mark.parametrize(("weight_kept", "weight_removed"), [(1.0, 6.0), (6.0, 1.0)])
def test_interval_of_the_threshold_with_weights_that_follow_the_score(weight_kept, weight_removed):
    rng, trials, n, cut = np.random.default_rng(7), 600, 400, -1.0
    kept = weight_kept * norm.sf(cut)
    acceptance, hits = kept / (kept + weight_removed * norm.cdf(cut)), 0
    background = rng.normal(-2, 1, 50)
    for _ in range(trials):
        score = np.r_[rng.normal(size=rng.poisson(n)), background]
        weight = np.where(score >= cut, weight_kept, weight_removed)
        y = np.r_[np.ones(len(score) - 50), np.zeros(50)]
        low, high = rejection_at_acceptance(
            y, score, sample_weight=weight, acceptance=acceptance
        ).threshold_interval
        hits += low <= cut <= high
    assert abs(hits / trials - 0.68) < 4 * np.sqrt(0.68 * 0.32 / trials)


def test_interval_of_weights_of_one_is_that_of_counts():
    # Even where scores are tied at the threshold.
    rng = np.random.default_rng(8)
    for score in (rng.normal(size=500), rng.integers(0, 6, 500)):
        y = np.r_[np.ones(500), np.zeros(10)]
        result = rejection_at_acceptance(y, np.r_[score, np.zeros(10)])
        low, high = binomial_interval(0.9 * 500, 500)
        assert result.threshold_interval == (
            acceptance_threshold(score, acceptance=float(high)),
            acceptance_threshold(score, acceptance=float(low)),
        )


def test_threshold_of_no_events_is_an_error():
    with pytest.raises(ValueError, match="'y_score' parameter holds no events"):
        acceptance_threshold([])


@pytest.mark.parametrize(
    ("y", "score", "kwargs", "message"),
    [
        ([1, 1, 1], [1, 2, 3], {}, "two classes"),
        ([0, 1, 2], [1, 2, 3], {}, "two classes"),
        (["a", "b", "b"], [1, 2, 3], {}, "must name the signal"),
        ([0, 1, 1], [1, 2, 3], {"pos_label": 2}, "must be one of"),
        ([0, 1, 1], [1, np.nan, 3], {}, "NaN"),
        ([0, 1], [1, 2, 3], {}, "inconsistent"),
        ([0, 1, 1], [1, 2, 3], {"acceptance": 90}, "'acceptance' parameter"),
        ([0, 1, 1], [1, 2, 3], {"sample_weight": [1, 1, -1]}, "of the signal sums to 0"),
        ([0, 1, 1], [1, 2, 3], {"sample_weight": [0, 0, 0]}, "non-zero"),
        ([0, 1, 1], [1, 2, 3], {"sample_weight": [1, np.inf, 1]}, "inf"),
        ([0, 1, 1], [1, 2, 3], {"method": "wald"}, "'method' parameter"),
    ],
)
def test_bad_input_is_named(y, score, kwargs, message):
    with pytest.raises(ValueError, match=message):
        rejection_at_acceptance(y, score, **kwargs)
