"""The two-valued inverse problem: its exact posterior against quadrature."""

import mpmath
import numpy as np
import pytest
from scipy import stats

from sknuc.datasets import make_inverse_problem
from sknuc.datasets._inverse_problem import InversePosterior

NOISES = [0.003, 0.05, 0.4, 3.0]


def observations(noise):
    """In the middle, at the ends, and far outside of what is observed."""
    inside = np.linspace(0, 1, 7)
    outside = noise * np.array([-30, -6, -2, 0.5, 5])
    return np.concatenate([inside, outside, 1 - outside])[:, None]


def fine_grid(noise):
    """Nodes and weights in (0, 1), dense enough for the narrowest peak."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(0, 1, int(np.ceil(4 / noise)) + 100)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (nodes + 1)).ravel(), (half * weights).ravel()


def joint_quadrature(noise):
    """Observations, targets and weights of expectations over both."""
    x, wx = fine_grid(noise)
    normal, wn = np.polynomial.hermite_e.hermegauss(60)
    X = x[:, None] ** 2 + noise * normal
    weights = wx[:, None] * wn / np.sqrt(2 * np.pi)
    return X.reshape(-1, 1), np.repeat(x, len(normal)), weights.ravel()


def test_events():
    events = make_inverse_problem(50_000, noise=0.1, random_state=0)
    assert events.data.shape == (50_000, 1)
    assert (events.data.dtype, events.target.dtype) == (np.float32, np.float32)
    x = events.target.astype(np.float64)
    assert stats.kstest((x + 1) / 2, "uniform").pvalue > 1e-4
    noise = (events.data[:, 0].astype(np.float64) - x**2) / 0.1
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(noise, x)[0, 1]) < 5 / np.sqrt(50_000)
    X, y = make_inverse_problem(50_000, noise=0.1, return_X_y=True, random_state=0)
    np.testing.assert_array_equal(X, events.data)
    np.testing.assert_array_equal(y, events.target)


@pytest.mark.parametrize("noise", NOISES)
def test_the_posterior_is_normalised_wherever_it_is_observed(noise):
    posterior = InversePosterior(noise)
    x, weights = fine_grid(noise)
    if noise < 0.01:  # far outside, the peak at the end is narrower than the grid
        cases = observations(noise)[:8]
    else:
        cases = observations(noise)
    for observed in cases:
        X = np.repeat(observed[None], len(x), axis=0)
        density = np.exp(posterior.log_prob(X, x))
        np.testing.assert_allclose(density, np.exp(posterior.log_prob(X, -x)), rtol=1e-14)
        assert 2 * weights @ density == pytest.approx(1, abs=1e-10)
        assert np.sqrt(2 * weights @ (density * x**2)) == pytest.approx(
            posterior.std(observed[None])[0], abs=1e-10
        )
        # The density is the likelihood, up to a constant of the observation.
        likelihood = -((observed - x**2) ** 2) / (2 * noise**2)
        constant = np.log(density[density > 1e-200]) - likelihood[density > 1e-200]
        np.testing.assert_allclose(constant, constant[0], atol=1e-8 * np.abs(constant).max() + 1e-9)


@pytest.mark.parametrize("noise", NOISES)
def test_distribution_function_and_quantiles(noise):
    posterior = InversePosterior(noise)
    X = observations(noise)
    levels = np.array([1e-9, 1e-3, 0.25, 0.4999, 0.5, 0.501, 0.84, 1 - 1e-6])
    quantiles = posterior.quantiles(X, levels)
    assert quantiles.shape == (len(X), len(levels))
    assert np.all(np.diff(quantiles, axis=1) > 0)
    np.testing.assert_array_equal(quantiles[:, 4], 0)
    assert np.abs(quantiles).max() < 1
    for level, column in zip(levels, quantiles.T, strict=True):
        np.testing.assert_allclose(posterior.cdf(X, column), level, atol=1e-10)
    # Its slope is the density.
    at, step = quantiles[:, 6], 1e-6 * noise
    slope = (posterior.cdf(X, at + step) - posterior.cdf(X, at - step)) / (2 * step)
    np.testing.assert_allclose(slope, np.exp(posterior.log_prob(X, at)), rtol=1e-4)
    for end, value in [(-1.0, 0.0), (1.0, 1.0), (-2.0, 0.0), (2.0, 1.0)]:
        np.testing.assert_allclose(posterior.cdf(X, np.full(len(X), end)), value, atol=1e-15)
    np.testing.assert_array_equal(posterior.log_prob(X, np.full(len(X), 1.5)), -np.inf)


SMALL_NOISES = [1e-2, 1e-4, 1e-6, 1e-8]
DEEP_TO_FAR = [-1e6, -1.0, -3e-4, 0.0, 1e-9, 0.1, 0.5, 1 - 1e-7, 1.0, 1 + 1e-7, 1.2, 10.0, 1e3, 1e6]


@pytest.mark.parametrize("noise", SMALL_NOISES)
def test_quantiles_are_the_nearest_numbers_that_there_are(noise):
    # Above 1, the peak may be narrower than the spacing of numbers: the level of a quantile then
    # lies between those of its neighbours.
    posterior = InversePosterior(noise)
    levels = np.array([1e-6, 0.01, 0.2, 0.4999, 0.5001, 0.7, 0.97, 1 - 1e-9])
    X = np.array(DEEP_TO_FAR)[:, None]
    quantiles = posterior.quantiles(X, levels)
    assert np.all(np.diff(quantiles, axis=1) >= 0)
    assert np.abs(quantiles).max() <= 1
    np.testing.assert_array_equal(posterior.quantiles(X, [0.5]), 0)
    for level, column in zip(levels, quantiles.T, strict=True):
        below = posterior.cdf(X, np.nextafter(column, -2))
        above = posterior.cdf(X, np.nextafter(column, 2))
        assert np.all((below <= level + 1e-10) & (level - 1e-10 <= above))


@pytest.mark.parametrize("noise", SMALL_NOISES)
@pytest.mark.parametrize("observed", DEEP_TO_FAR[::2])
def test_the_posterior_is_the_one_of_long_arithmetic(noise, observed):
    with mpmath.workdps(50):
        y, sigma = mpmath.mpf(observed), mpmath.mpf(noise)
        closest = min(max(y, 0), 1)
        scale = sigma**2 / (sigma + 2 * abs(y - closest))  # of t^2 - closest
        edges = [closest + k * scale for k in (-120, -30, -9, -3, 0, 3, 9, 30, 120)]
        edges = sorted({mpmath.sqrt(min(max(edge, 0), 1)) for edge in edges})

        def moment(power, ends):
            def integrand(t):
                exponent = ((y - closest) ** 2 - (y - t**2) ** 2) / (2 * sigma**2)
                return t**power * mpmath.exp(exponent)

            return mpmath.quad(integrand, ends)

        mass = moment(0, edges)
        std = float(mpmath.sqrt(moment(2, edges) / mass))
        x = float((2 * edges[len(edges) // 2] + edges[-1] + edges[0]) / 4)
        split = sorted({edge for edge in edges if edge < x} | {mpmath.mpf(x)})
        cdf = float((1 + moment(0, split) / mass) / 2) if len(split) > 1 else 0.5
        at = mpmath.mpf(x)
        exponent = ((y - closest) ** 2 - (y - at**2) ** 2) / (2 * sigma**2)
        log_prob = float(exponent - mpmath.log(2 * mass)) if 0 < x < 1 else -np.inf
    posterior = InversePosterior(noise)
    X, target = [[observed]], [x]
    # The last digit of sqrt(y), from which distances are measured, and that of y.
    digit = np.spacing(max(x, 1e-300))
    assert posterior.std(X)[0] == pytest.approx(std, rel=1e-11)
    slope = np.exp(log_prob)
    assert posterior.cdf(X, target)[0] == pytest.approx(cdf, abs=1e-11 + 2 * slope * digit)
    if np.isfinite(log_prob):
        change = 2 * x * abs(observed - x**2) / noise**2 * 2 * digit
        assert posterior.log_prob(X, target)[0] == pytest.approx(log_prob, abs=1e-10 + change)


def test_two_modes():
    posterior = InversePosterior(0.05)
    x = np.linspace(-1, 1, 4001)[1:-1]
    for observed in (0.2, 0.5, 0.8):
        density = posterior.log_prob(np.full((len(x), 1), observed), x)
        is_mode = (density[1:-1] > density[:-2]) & (density[1:-1] > density[2:])
        root = np.sqrt(observed)
        np.testing.assert_allclose(x[1:-1][is_mode], [-root, root], atol=3e-4)
        # Between them, the density is least at the mean.
        assert posterior.mean([[observed]])[0] == 0
        between = np.flatnonzero(np.abs(x) < root)
        assert abs(x[between[density[between].argmin()]]) < 1e-12


def test_events_follow_the_posterior():
    events = make_inverse_problem(50_000, random_state=2)
    transformed = events.conditional.cdf(events.data, events.target)
    assert stats.kstest(transformed, "uniform").pvalue > 1e-4
    samples = events.conditional.sample(events.data[:2000], 10, 0)
    assert samples.shape == (2000, 10)
    repeated = np.repeat(events.data[:2000], 10, axis=0)
    transformed = events.conditional.cdf(repeated, samples.ravel())
    assert stats.kstest(transformed, "uniform").pvalue > 1e-4
    again = events.conditional.sample(events.data[:2000], 10, random_state=0)
    np.testing.assert_array_equal(samples, again)


def test_the_best_likelihoods_that_there_are():
    noise = 0.05
    posterior = InversePosterior(noise)
    X, y, weights = joint_quadrature(noise)
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    best = -weights @ posterior.log_prob(X, y)
    assert best == pytest.approx(-0.887, abs=5e-4)
    # The same from entropies, h(x) + h(y | x) - h(y), with the density of y by its own quadrature.
    x, wx = fine_grid(noise)
    observed = np.linspace(-10 * noise, 1 + 10 * noise, 3001)
    density = stats.norm.pdf(observed[:, None], x**2, noise) @ wx
    logs = density * np.log(density, where=density > 0, out=np.zeros_like(density))
    step = observed[1] - observed[0]
    entropy = -logs.sum() * step
    expected = np.log(2) + stats.norm(0, noise).entropy() - entropy
    assert best == pytest.approx(expected, abs=1e-6)
    # One Gaussian per observation does best with the mean and standard deviation of the posterior.
    gaussian = weights @ (0.5 * np.log(2 * np.pi * np.e * posterior.std(X) ** 2))
    moment = stats.norm.pdf(observed[:, None], x**2, noise) @ (wx * x**2)
    logs = density * np.log(2 * np.pi * np.e * moment / density) / 2
    assert gaussian == pytest.approx(logs.sum() * step, abs=1e-6)
    assert gaussian == pytest.approx(0.563, abs=1e-3)


def test_parameters_are_checked():
    with pytest.raises(ValueError, match="'noise' parameter"):
        make_inverse_problem(noise=0.0)
    with pytest.raises(ValueError, match="'noise' parameter"):
        make_inverse_problem(noise=1e-9)
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        make_inverse_problem(0)
    posterior = InversePosterior(0.1)
    with pytest.raises(ValueError, match=r"'levels' parameter of InversePosterior\..*Got \[0\.0\]"):
        posterior.quantiles([[0.5]], [0.0])
    for levels in ([], [[0.5]], "half"):
        with pytest.raises(ValueError, match=r"'levels' parameter of InversePosterior\.quantiles"):
            posterior.quantiles([[0.5]], levels)
    np.testing.assert_array_equal(
        posterior.quantiles([[0.5], [0.2]], 0.3),
        posterior.quantiles([[0.5], [0.2]], [0.3])[:, 0],
    )
    with pytest.raises(ValueError, match=r"'n_samples' parameter.*integer >= 1\. Got 1\.5"):
        posterior.sample([[0.5]], 1.5)
    with pytest.raises(ValueError, match=r"InversePosterior\.std must have 1 columns"):
        posterior.std([[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"'y' parameter of InversePosterior\.cdf"):
        posterior.cdf([[0.5]], [[0.5, 0.5]])
