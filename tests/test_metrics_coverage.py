import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import beta, binom, binomtest, kstest, norm, poisson
from sklearn.linear_model import Ridge

from sknuc.metrics import (
    binomial_interval,
    coverage,
    interval_score,
    interval_width,
    pit,
    pit_test,
)
from sknuc.uncertainty import ConformalRegressor


def intervals(inside):
    """Truths at zero and intervals that cover them where they should."""
    inside = np.asarray(inside)
    return np.zeros(inside.shape), np.where(inside, -1.0, 0.5), np.ones(inside.shape)


@pytest.mark.parametrize(("k", "n"), [(0, 8), (3, 8), (8, 8), (661, 1000)])
def test_coverage_has_the_binomial_interval_of_scipy(k, n):
    result = coverage(*intervals(np.arange(n) < k), confidence_level=0.9)
    assert result.fraction == k / n
    assert_allclose(result.error, np.sqrt(k * (n - k) / n) / n)
    assert_allclose(result.interval, binomtest(k, n).proportion_ci(0.9, method="exact"), atol=1e-12)
    assert_allclose(result.n_effective, n)
    assert result.p_value is None


@pytest.mark.parametrize("nominal", [0.5, 0.68, 0.95])
def test_p_value_is_twice_the_smaller_binomial_tail_and_dual_to_the_interval(nominal):
    n = 40
    for k in range(n + 1):
        result = coverage(*intervals(np.arange(n) < k), nominal=nominal, confidence_level=0.9)
        tails = binom.cdf(k, n, nominal), binom.sf(k - 1, n, nominal)
        assert_allclose(result.p_value, min(1, 2 * min(tails)), rtol=1e-9)
        low, high = result.interval
        assert (low < nominal < high) == (result.p_value > 0.1)
        assert_allclose(result.z, (k / n - nominal) / np.sqrt(nominal * (1 - nominal) / n))


def test_interval_covers_the_true_coverage_in_simulated_experiments():
    # Exactly: the probability of all counts whose interval holds the truth.
    n, true = 50, 0.68
    for method, low, high in [("clopper-pearson", 0.68, 0.80), ("wilson", 0.60, 0.76)]:
        ends = [
            coverage(*intervals(np.arange(n) < k), method=method).interval for k in range(n + 1)
        ]
        hit = np.array([a <= true <= b for a, b in ends])
        assert low <= hit @ binom.pmf(np.arange(n + 1), n, true) <= high


def test_calibrated_gaussian_intervals_cover_as_they_claim():
    rng, n = np.random.default_rng(0), 100_000
    mean, std = rng.normal(size=n), rng.uniform(0.1, 3, n)
    y = rng.normal(mean, std)
    for nominal in (0.5, 0.68, 0.95):
        half = norm.ppf((1 + nominal) / 2) * std
        result = coverage(y, mean - half, mean + half, nominal=nominal)
        assert abs(result.z) < 4
        assert coverage(y, mean - 0.9 * half, mean + 0.9 * half, nominal=nominal).z < -10


def test_ends_belong_to_the_interval():
    assert coverage([1.0, 2.0, -np.pi], [1.0, 0.0, -np.inf], [3.0, 2.0, np.inf]).fraction == 1


@pytest.mark.parametrize("negative", [False, True])
def test_weighted_coverage_fluctuates_as_its_error_says(negative):
    # Weights that depend on whether the truth is covered: Kish's number would be wrong.
    rng, trials, n, p = np.random.default_rng(1), 2000, 300, 0.7
    inside = rng.uniform(size=(trials, n)) < p
    weight = np.where(inside, rng.exponential(1.0, (trials, n)), rng.exponential(3.0, (trials, n)))
    if negative:
        weight *= np.where(rng.uniform(size=(trials, n)) < 0.1, -1, 1)
    true = p / (p + 3 * (1 - p))
    results = [
        coverage(*intervals(a), nominal=true, sample_weight=w)
        for a, w in zip(inside, weight, strict=True)
    ]
    fraction, error, z = np.array([(r.fraction, r.error, r.z) for r in results]).T
    # The error of a ratio is known to second order in 1/n, and from a sample's squares.
    assert_allclose(np.sqrt(np.mean(error**2)), fraction.std(), rtol=4 / np.sqrt(2 * trials) + 0.02)
    assert abs(z.std() - 1) < 0.1


def test_weighted_sums_are_repetitions_and_negative_ones_cancel():
    rng = np.random.default_rng(2)
    inside = rng.uniform(size=30) < 0.6
    weight = rng.integers(0, 4, 30)
    weighted = coverage(*intervals(inside), sample_weight=weight)
    assert_allclose(weighted.fraction, np.repeat(inside, weight).mean())
    signed = np.r_[np.ones(30), -np.ones(4)]
    result = coverage(*intervals(np.r_[inside, inside[:4]]), sample_weight=signed)
    assert_allclose(result.fraction, inside[4:].mean())
    # Equal weights of any size say as much as weights of one.
    five = coverage(*intervals(inside), nominal=0.68, sample_weight=np.full(30, 5.0))
    assert_allclose(five.p_value, coverage(*intervals(inside), nominal=0.68).p_value)


def test_targets_are_told_apart_or_covered_together():
    rng = np.random.default_rng(3)
    inside = rng.uniform(size=(400, 2)) < [0.9, 0.5]
    first, second = coverage(*intervals(inside), nominal=0.9)
    assert first.fraction == inside[:, 0].mean()
    assert second.fraction == inside[:, 1].mean()
    joint = coverage(*intervals(inside), multioutput="joint", nominal=0.45)
    assert joint.fraction == inside.all(axis=1).mean()
    assert coverage(*intervals(inside[:, 0]), nominal=0.9) == first


@pytest.mark.parametrize("shape", [(60,), (60, 1), (60, 2), (60, 3)])
def test_both_ends_in_one_array_are_those_that_are_apart(shape):
    rng = np.random.default_rng(12)
    y, (lower, upper) = rng.normal(size=shape), np.sort(rng.normal(size=(2, *shape)), axis=0)
    both, weight = np.stack([lower, upper], axis=1), rng.uniform(size=60)
    kwargs = {"nominal": 0.4, "sample_weight": weight}
    assert coverage(y, both, **kwargs) == coverage(y, lower, upper, **kwargs)
    kwargs = {"sample_weight": weight, "multioutput": "raw_values"}
    assert_allclose(interval_width(both, **kwargs), interval_width(lower, upper, **kwargs))
    assert_allclose(
        interval_score(y, both, coverage=0.4, **kwargs),
        interval_score(y, lower, upper, coverage=0.4, **kwargs),
    )


def test_intervals_of_a_regressor_of_several_targets():
    X = np.random.default_rng(13).normal(size=(900, 2))
    y = X @ [[1.0, 2.0], [0.0, 1.0]] + np.random.default_rng(14).normal(size=(900, 2)) * [1, 3]
    model = ConformalRegressor(Ridge(), random_state=0).fit(X[:500], y[:500])
    interval = model.predict_interval(X[500:], coverage=0.8)
    results = coverage(y[500:], interval, nominal=0.8)
    for target, result in enumerate(results):
        inside = (interval[:, 0, target] <= y[500:, target]) & (
            y[500:, target] <= interval[:, 1, target]
        )
        assert result.fraction == inside.mean()
    joint = coverage(y[500:], interval, multioutput="joint").fraction
    assert joint <= min(result.fraction for result in results)


def test_text_of_a_coverage():
    result = coverage(*intervals(np.arange(100) < 60), nominal=0.68)
    assert str(result) == f"0.600 ± 0.049 (nominal 0.68, p = {result.p_value:.2g})"
    low, _ = binomial_interval(10, 10, method="clopper-pearson")
    assert str(coverage(*intervals(np.ones(10, bool)))) == f"1.000 +0.000 −{1 - low:.3f}"


# ------------------------------------------------------------------------------------- PIT


def test_pit_of_calibrated_ensembles_is_exactly_uniform():
    rng, n, s = np.random.default_rng(4), 20_000, 4
    draws = rng.exponential(size=(n, s + 1)) * rng.uniform(0.1, 5, (n, 1))
    u = pit(draws[:, 0], draws[:, 1:], random_state=1)
    assert kstest(u, "uniform").pvalue > 1e-3
    # The cell of the draw is the rank of the truth.
    assert_allclose(np.floor(u * (s + 1)), (draws[:, 1:] < draws[:, :1]).sum(axis=1))


def test_pit_of_calibrated_quantiles_is_uniform_whatever_the_levels():
    rng, n = np.random.default_rng(5), 20_000
    mean = rng.normal(size=n)
    levels = np.array([0.02, 0.16, 0.5, 0.6, 0.99])
    quantiles = norm.ppf(levels, mean[:, None], 2.0)
    u = pit(rng.normal(mean, 2.0), quantiles=quantiles, levels=levels)
    assert kstest(u, "uniform").pvalue > 1e-3
    counts = np.histogram(u, np.r_[0, levels, 1])[0]
    assert_allclose(counts / n, np.diff(np.r_[0, levels, 1]), atol=4 * 0.5 / np.sqrt(n))


def test_pit_of_counts_is_uniform_though_they_tie():
    rng, n, levels = np.random.default_rng(6), 20_000, np.linspace(0, 1, 400)[1:-1]
    rate = rng.uniform(0.5, 4, n)
    u = pit(rng.poisson(rate), rng.poisson(rate[:, None], (n, 30)))
    assert kstest(u, "uniform").pvalue > 1e-3
    # Between levels that stand for a whole atom, the quantiles of the atom say the rest.
    u = pit(rng.poisson(2.0, n), quantiles=np.tile(poisson.ppf(levels, 2.0), (n, 1)), levels=levels)
    assert kstest(u, "uniform").statistic < 2.0 / np.sqrt(n) + 1 / 400


def test_pit_of_targets_and_of_crossing_quantiles():
    rng = np.random.default_rng(7)
    y, samples = rng.normal(size=(50, 2)), rng.normal(size=(50, 2, 9))
    u = pit(y, samples)
    assert u.shape == (50, 2)
    ranks = (samples < y[..., None]).sum(-1)
    assert_allclose(np.floor(u * 10), ranks)
    quantiles = np.moveaxis(samples, -1, 1)
    levels = np.arange(1, 10) / 10
    assert_allclose(pit(y, quantiles=quantiles, levels=levels), u)
    assert_allclose(pit(y, quantiles=np.sort(quantiles, axis=1), levels=levels), u)


def test_pit_test_equals_the_one_of_scipy():
    u = np.random.default_rng(8).beta(1.2, 1.0, 200)
    result, expected = pit_test(u), kstest(u, "uniform")
    assert_allclose(result.statistic, expected.statistic)
    assert_allclose(result.p_value, expected.pvalue)
    ones = pit_test(np.r_[u, 0.3, 0.9], sample_weight=np.r_[np.full(200, 2.0), 0, 0])
    assert_allclose(ones.p_value, expected.pvalue)


@pytest.mark.parametrize("negative", [False, True])
def test_p_values_of_weighted_uniform_transforms_are_uniform(negative):
    rng, trials, n = np.random.default_rng(9), 1000, 400
    u, weight = rng.uniform(size=(trials, n)), rng.exponential(size=(trials, n))
    if negative:
        weight *= np.where(rng.uniform(size=(trials, n)) < 0.15, -1, 1)
    results = [pit_test(a, sample_weight=w) for a, w in zip(u, weight, strict=True)]
    p_values = np.array([r.p_value for r in results])
    for level in (0.05, 0.3, 0.7):
        assert abs((p_values < level).mean() - level) < 4 * np.sqrt(level * (1 - level) / trials)
    for z in ([r.bias_z for r in results], [r.dispersion_z for r in results]):
        assert abs(np.mean(z)) < 4 / np.sqrt(trials)
        assert abs(np.std(z) - 1) < 4 / np.sqrt(2 * trials) + 0.03


def test_dispersion_and_bias_have_their_closed_forms():
    # u ~ Beta(a, a) has the variance 1 / (4 (2a + 1)).
    rng, n = np.random.default_rng(10), 100_000
    for a in (0.5, 2.0):
        result = pit_test(beta.rvs(a, a, size=n, random_state=rng))
        assert_allclose(result.dispersion, 3 / (2 * a + 1), rtol=0.02)
        assert (result.dispersion > 1) == (a < 1)
        assert abs(result.dispersion_z) > 10
        assert abs(result.bias_z) < 4
    assert_allclose(pit_test([0.5, 1.0]).bias, 0.25)


def test_pit_test_of_targets():
    u = np.random.default_rng(11).uniform(size=(100, 2))
    assert pit_test(u) == (pit_test(u[:, 0]), pit_test(u[:, 1]))
    assert str(pit_test(u[:, 0])).startswith("p = ")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage([0.0], [1.0], [0.0]), "must not lie above 'upper'. Got 1 of 1"),
        (lambda: coverage([0.0], [0.0], [1.0], nominal=95), "'nominal' parameter of coverage"),
        (lambda: coverage([0.0], [[0.0]], [1.0]), "'lower' parameter must have the shape"),
        (lambda: coverage([0.0], [1.0]), r"both ends when 'upper' is None, .* of shape \(1, 2\)"),
        (lambda: coverage([[0.0, 1.0]], [[1.0, 2.0]]), r"of shape \(1, 2, 2\). Got \(1, 2\)"),
        (lambda: coverage([0.0], [[1.0, 0.0]]), "must not lie above 'upper'. Got 1 of 1"),
        (lambda: interval_width([0.0, 1.0]), r"of shape \(2, 2\). Got \(2,\)"),
        (lambda: coverage([0.0], [np.nan], [1.0]), "'lower' parameter must be free of NaN"),
        (lambda: pit([0.0]), "'samples' parameter of pit must be given, or"),
        (lambda: pit([0.0], [[1.0]], levels=[0.5]), "'samples' parameter of pit must be given, or"),
        (lambda: pit([0.0], quantiles=[[1.0]]), "'samples' parameter of pit must be given, or"),
        (lambda: pit_test([0.5, 1.2]), r"lie in \[0, 1\]. Got 1 of 2"),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
