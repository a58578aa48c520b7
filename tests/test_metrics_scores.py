import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import expon, norm
from sklearn.metrics import mean_pinball_loss

from sknuc.metrics import (
    crps_ensemble,
    crps_gaussian,
    crps_quantile,
    gaussian_nll,
    interval_score,
    interval_width,
    pinball_loss,
    sharpness,
)

LEVELS = np.linspace(0.01, 0.99, 99)


def scores_of(y, mean, std, rng, **kwargs):
    """Every score of normal forecasts, by its name."""
    y = np.asarray(y)
    quantiles = np.moveaxis(norm.ppf(LEVELS, mean[..., None], std[..., None]), -1, 1)
    samples = rng.normal(mean[..., None], std[..., None], (*mean.shape, 40))
    lower, upper = norm.ppf([[[0.16]], [[0.84]]], mean[None], std[None]).reshape(2, *mean.shape)
    return {
        "crps_gaussian": crps_gaussian(y, mean, std, **kwargs),
        "crps_quantile": crps_quantile(y, quantiles, LEVELS, **kwargs),
        "crps_ensemble": crps_ensemble(y, samples, **kwargs),
        "gaussian_nll": gaussian_nll(y, mean, std, **kwargs),
        "pinball_loss": pinball_loss(y, quantiles, LEVELS, **kwargs),
        "interval_score": interval_score(y, lower, upper, coverage=0.68, **kwargs),
        "interval_width": interval_width(lower, upper, **kwargs),
    }


def events(rng, n):
    mean = rng.normal(size=n)
    std = rng.uniform(0.5, 2.0, n)
    return rng.normal(mean, std), mean, std


@pytest.mark.parametrize("y", [-3.0, 0.2, 1.0, 7.5])
def test_gaussian_crps_is_the_integral_over_the_distribution(y):
    mean, std = 0.7, 1.9
    below, _ = quad(lambda x: norm.cdf(x, mean, std) ** 2, -np.inf, y)
    above, _ = quad(lambda x: norm.sf(x, mean, std) ** 2, y, np.inf)
    assert_allclose(crps_gaussian([y], [mean], [std]), below + above, atol=1e-7)


def test_calibrated_gaussians_reach_sigma_over_root_pi():
    rng, sigma, n = np.random.default_rng(0), 1.7, 200_000
    y = rng.normal(3.0, sigma, n)
    mean, std = np.full(n, 3.0), np.full(n, sigma)
    score, error = crps_gaussian(y, mean, std, return_std=True)
    assert abs(score - sigma / np.sqrt(np.pi)) < 4 * error
    # The standard deviation of the score of N(0, 1) by quadrature.
    moment, _ = quad(lambda x: crps_gaussian([x], [0.0], [1.0]) ** 2 * norm.pdf(x), -9, 9)
    assert_allclose(error, sigma * np.sqrt((moment - 1 / np.pi) / n), rtol=0.02)


def test_pinball_over_all_levels_is_half_the_crps():
    rng, sigma = np.random.default_rng(1), 0.8
    n_levels, n = 400, 20_000
    levels = (np.arange(n_levels) + 0.5) / n_levels
    y = rng.normal(0.0, sigma, n)
    quantiles = np.broadcast_to(norm.ppf(levels, 0, sigma), (n, n_levels))
    loss, error = pinball_loss(y, quantiles, levels, return_std=True)
    assert abs(loss - sigma / (2 * np.sqrt(np.pi))) < 4 * error
    # Event by event it is the CRPS of the same distribution, up to the discrete levels.
    crps = crps_gaussian(y, np.zeros(n), np.full(n, sigma))
    assert_allclose(2 * loss, crps, rtol=1e-4)
    assert_allclose(crps_quantile(y, quantiles, levels), crps, rtol=1e-4)


def test_pinball_equals_scikit_learn():
    rng = np.random.default_rng(2)
    levels = np.array([0.05, 0.3, 0.9])
    y, quantiles = rng.normal(size=(50, 2)), rng.normal(size=(50, 3, 2))
    weight = rng.uniform(size=50)
    expected = [
        mean_pinball_loss(
            y, quantiles[:, j], alpha=a, sample_weight=weight, multioutput="raw_values"
        )
        for j, a in enumerate(levels)
    ]
    kwargs = {"sample_weight": weight, "multioutput": "raw_values"}
    assert_allclose(pinball_loss(y, quantiles, levels, per_level=True, **kwargs), expected)
    assert_allclose(pinball_loss(y, quantiles, levels, **kwargs), np.mean(expected, axis=0))
    values, errors = pinball_loss(y, quantiles, levels, per_level=True, return_std=True)
    assert values.shape == errors.shape == (3,)


def test_quantile_crps_is_exact_where_the_loss_is_linear_between_levels():
    # A point forecast: all quantiles alike, and the CRPS is the absolute error. The loss is linear
    # in the level up to where it jumps: from 0 to tau_1 and from tau_q to 1 the trapezoid is exact.
    levels = np.array([0.001, 0.25, 0.5, 0.75, 0.999])
    for y in (-2.0, 3.0):
        score = crps_quantile([y], [[0.5] * 5], levels)
        # The end of the distribution at the other level is taken for y itself.
        assert_allclose(score, abs(y - 0.5), rtol=2e-3)
    fine = np.linspace(0, 1, 2001)[1:-1]
    assert_allclose(
        crps_quantile([0.3], [expon.ppf(fine)], fine),
        quad(lambda x: expon.cdf(x) ** 2, 0, 0.3)[0] + quad(lambda x: expon.sf(x) ** 2, 0.3, 50)[0],
        rtol=1e-3,
    )


@pytest.mark.parametrize("fair", [True, False])
def test_ensemble_crps_is_the_double_sum(fair):
    rng = np.random.default_rng(3)
    y, x = rng.normal(size=(20, 2)), rng.normal(size=(20, 2, 7))
    pairs = np.abs(x[..., None] - x[..., None, :]).sum((-1, -2)) / (7 * 6 if fair else 49)
    expected = (np.abs(x - y[..., None]).mean(-1) - pairs / 2).mean(0)
    assert_allclose(crps_ensemble(y, x, fair=fair, multioutput="raw_values"), expected)


def test_plain_ensemble_crps_is_the_integral_over_the_step_function():
    x, y = np.array([0.0, 1.0, 1.5, 4.0]), 2.0
    grid = np.linspace(-1, 5, 600_001)
    cdf = np.searchsorted(x, grid, side="right") / len(x)
    integral = np.sum((cdf - (grid >= y)) ** 2) * (grid[1] - grid[0])
    assert_allclose(crps_ensemble([y], [x], fair=False), integral, atol=1e-4)


def test_fair_ensemble_crps_does_not_depend_on_the_size_of_the_ensemble():
    rng, n = np.random.default_rng(4), 60_000
    y = rng.normal(size=n)
    for s in (2, 5, 20):
        x = rng.normal(0.2, 1.5, (n, s))
        exact = crps_gaussian(y, np.full(n, 0.2), np.full(n, 1.5))
        fair, error = crps_ensemble(y, x, return_std=True)
        assert abs(fair - exact) < 4 * error
        # The plain one exceeds it by E|X - X'| / (2 s).
        plain = crps_ensemble(y, x, fair=False)
        assert abs(plain - exact - 1.5 / np.sqrt(np.pi) / s) < 4 * error


def test_many_samples_reach_the_closed_form_far_from_zero():
    rng = np.random.default_rng(5)
    x = rng.normal(1e6, 1.0, (4, 100_000))
    y = 1e6 + np.array([-2.0, -0.5, 0.0, 1.0])
    for fair in (True, False):
        score = crps_ensemble(y, x, fair=fair)
        assert_allclose(score, crps_gaussian(y, np.full(4, 1e6), np.ones(4)), atol=0.01)


def test_the_true_distribution_scores_best():
    rng, n = np.random.default_rng(6), 20_000
    y, mean, std = events(rng, n)
    true = scores_of(y, mean, std, np.random.default_rng(0))
    for shift, factor in [(0.3, 1.0), (-0.3, 1.0), (0.0, 0.75), (0.0, 1.35)]:
        wrong = scores_of(y, mean + shift * std, factor * std, np.random.default_rng(0))
        for name in true.keys() - {"interval_width"}:
            assert true[name] < wrong[name], (name, shift, factor)


def test_interval_score_is_least_at_the_true_quantiles_and_a_sum_of_pinball_losses():
    rng, n, coverage = np.random.default_rng(7), 100_000, 0.8
    y = rng.exponential(size=n)
    best = expon.ppf([0.1, 0.9])

    def score(lower, upper):
        return interval_score(y, np.full(n, lower), np.full(n, upper), coverage=coverage)

    for shift in (-0.1, 0.1):
        assert score(*best) < score(best[0] + shift, best[1])
        assert score(*best) < score(best[0], best[1] + 3 * shift)
    two = pinball_loss(y, np.broadcast_to(best, (n, 2)), [0.1, 0.9])
    assert_allclose(score(*best), 2 * 2 / (1 - coverage) * two)


def test_gaussian_nll_is_minus_the_log_density():
    rng = np.random.default_rng(8)
    y, mean, std = events(rng, 100)
    assert_allclose(gaussian_nll(y, mean, std), -norm.logpdf(y, mean, std).mean())


def test_sharpness_of_calibrated_forecasts_is_their_error():
    rng = np.random.default_rng(9)
    y, mean, std = events(rng, 200_000)
    squares = (y - mean) ** 2
    error = squares.std() / np.sqrt(len(y))
    assert abs(sharpness(std) ** 2 - squares.mean()) < 4 * error
    two = np.column_stack([std, 2 * std])
    raw = sharpness(two, multioutput="raw_values")
    assert_allclose(raw, [sharpness(std), 2 * sharpness(std)])
    assert_allclose(sharpness(two), raw.mean())


def test_integer_weights_are_repetitions_and_zero_is_absence():
    rng = np.random.default_rng(10)
    y, mean, std = events(rng, 60)
    weight = rng.integers(0, 4, 60)
    weighted = scores_of(y, mean, std, FixedNormal(0), sample_weight=weight)
    repeated = scores_of(*(np.repeat(a, weight) for a in (y, mean, std)), FixedNormal(0))
    for name, score in repeated.items():
        assert_allclose(weighted[name], score, rtol=1e-12, err_msg=name)


class FixedNormal:
    """Draws that depend on mean and width of the event alone."""

    def __init__(self, seed):
        self.z = np.random.default_rng(seed).normal(size=40)

    def normal(self, mean, std, size):
        return np.broadcast_to(mean + std * self.z, size)


def test_negative_weights_cancel_the_same_event():
    rng = np.random.default_rng(11)
    y, mean, std = events(rng, 60)
    double = [np.r_[a, a[:7]] for a in (y, mean, std)]
    weight = np.r_[rng.uniform(1, 2, 60), np.zeros(7)]
    weight[60:] = -weight[:7]
    signed = scores_of(*double, FixedNormal(0), sample_weight=weight)
    without = scores_of(y[7:], mean[7:], std[7:], FixedNormal(0), sample_weight=weight[7:60])
    for name, score in without.items():
        assert_allclose(signed[name], score, rtol=1e-10, err_msg=name)


def test_errors_of_signed_weights_are_those_of_repeated_experiments():
    rng, trials, n = np.random.default_rng(12), 1500, 200
    y = rng.normal(size=(trials, n))
    weight = np.where(rng.uniform(size=(trials, n)) < 0.2, -1.0, 1.0)
    one = np.ones(n)
    results = np.array(
        [
            crps_gaussian(a, 0 * one, one, sample_weight=w, return_std=True)
            for a, w in zip(y, weight, strict=True)
        ]
    )
    spread = results[:, 0].std()
    assert_allclose(np.sqrt((results[:, 1] ** 2).mean()), spread, rtol=4 / np.sqrt(2 * trials))


def test_targets_are_averaged_as_scikit_learn_does():
    rng = np.random.default_rng(13)
    y, mean, std = events(rng, (50, 3))
    raw = scores_of(y, mean, std, FixedNormal(0), multioutput="raw_values")
    uniform = scores_of(y, mean, std, FixedNormal(0))
    shares = scores_of(y, mean, std, FixedNormal(0), multioutput=[0.2, 0.3, 0.5])
    for name, values in raw.items():
        assert values.shape == (3,)
        assert_allclose(uniform[name], values.mean(), err_msg=name)
        assert_allclose(shares[name], values @ [0.2, 0.3, 0.5], err_msg=name)
    single = scores_of(y[:, 1], mean[:, 1], std[:, 1], FixedNormal(0))
    for name, value in single.items():
        assert_allclose(value, raw[name][1], err_msg=name)


def test_correlated_targets_share_their_fluctuation():
    rng = np.random.default_rng(14)
    y = np.repeat(rng.normal(size=(300, 1)), 4, axis=1)
    _, one = crps_gaussian(y[:, 0], np.zeros(300), np.ones(300), return_std=True)
    _, four = crps_gaussian(y, np.zeros((300, 4)), np.ones((300, 4)), return_std=True)
    assert_allclose(four, one)


def test_endless_intervals_have_endless_scores():
    lower, upper = [-np.inf, 0.0], [np.inf, 1.0]
    assert interval_width(lower, upper) == np.inf
    assert interval_score([0.0, 0.0], lower, upper, coverage=0.9) == np.inf
    # An event of weight zero is absent, also where its score is infinite.
    assert interval_width(lower, upper, sample_weight=[0, 1]) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crps_gaussian([0.0], [0.0], [0.0]), "'std' parameter must be positive"),
        (lambda: crps_gaussian([0.0], [[0.0]], [1.0]), "'mean' parameter must have the shape"),
        (lambda: crps_gaussian([0.0], [np.nan], [1.0]), "'mean' parameter must be finite"),
        (lambda: crps_ensemble([0.0], [[1.0]]), "at least 2 samples"),
        (lambda: crps_ensemble([0.0, 1.0], [[1.0, 2.0]]), "'samples' parameter must have the"),
        (lambda: pinball_loss([0.0], [[1.0]], [95]), r"'levels' parameter .* levels in \(0, 1\)"),
        (
            lambda: pinball_loss([0.0], [[1.0, 2.0]], [0.5, 0.1]),
            r"'levels' parameter must hold levels that rise. Got \[0.5, 0.1\]",
        ),
        (lambda: crps_quantile([0.0], [[1.0]], [0.1, 0.5]), r"must have the shape \(1, 2\)"),
        (lambda: interval_score([0.0], [1.0], [0.0], coverage=0.5), "must not lie above"),
        (lambda: interval_score([0.0], [0.0], [1.0], coverage=95), r"in the range \(0.0, 1.0\)"),
        (lambda: interval_width([np.nan], [1.0]), "free of NaN"),
        (
            lambda: crps_gaussian([0.0], [0.0], [1.0], multioutput=[1.0, 2.0]),
            "a weight for each of 1 targets",
        ),
        *(
            (
                lambda shares=shares: crps_gaussian(
                    [[0.0, 1.0]], [[0.0, 0.0]], [[1.0, 1.0]], multioutput=shares
                ),
                "'multioutput' parameter must hold weights of targets that are finite, not neg",
            )
            for shares in ([1.0, -1.0], [2.0, -1.0], [0.0, 0.0], [np.nan, 1.0])
        ),
        (lambda: crps_gaussian([0.0], ["a"], [1.0]), "'mean' parameter must be an array of num"),
        (lambda: crps_ensemble([0.0], [["a"]]), "'samples' parameter must be an array of num"),
        (lambda: pinball_loss([0.0], [[1.0]], ["a"]), "'levels' parameter must be one level or"),
        (
            lambda: crps_gaussian([0.0, 0.0], [0.0] * 2, [1.0] * 2, sample_weight=[1, -1]),
            "sum must be positive",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
