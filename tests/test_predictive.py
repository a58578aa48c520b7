"""Predictive distributions: mean, spread, quantiles, draws and density are of one distribution."""

import copy
import tracemalloc

import numpy as np
import pytest
from scipy import integrate, special, stats

from sknuc.predictive import Affine, Draws, Normal, NormalMixture, QuantileFunction

N, T, K = 5, 2, 3
LEVELS = np.array([0.01, 0.16, 0.5, 0.84, 0.99])


def distributions():
    rng = np.random.default_rng(0)
    means, stds = rng.normal(size=(N, T)), rng.uniform(0.5, 2, (N, T))
    factor = rng.normal(size=(N, T, T))
    covariances = factor @ factor.transpose(0, 2, 1) + np.eye(T)
    weights = rng.dirichlet(np.ones(K), N)
    many = rng.normal(0, 3, (N, K, T))
    factors = rng.normal(size=(N, K, T, T))
    values = np.sort(rng.normal(size=(N, 4, T)), axis=1)
    return {
        "normal": Normal(means, stds),
        "correlated normal": Normal(means, covariances=covariances),
        "mixture": NormalMixture(weights, many, rng.uniform(0.1, 1, (N, K, T))),
        "correlated mixture": NormalMixture(
            weights, many, factors=np.tril(factors, -1) + 0.3 * np.eye(T)
        ),
        "quantiles": QuantileFunction([0.1, 0.3, 0.5, 0.8], values),
        "affine": Affine(Normal(means, stds), np.array([3.0, -1]), np.array([0.1, 20])),
    }


NAMES = list(distributions())


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_moments_and_the_quantiles(name):
    p, n_draws = distributions()[name], 200_000
    draws = p.sample(n_draws, np.random.RandomState(1))
    assert draws.shape == (N, T, n_draws)
    error = p.std() / np.sqrt(n_draws)
    assert np.all(np.abs(draws.mean(2) - p.mean()) < 5 * error)
    # The variance of a variance, from the fourth moment.
    away = (draws - p.mean()[..., None]) ** 2
    assert np.all(np.abs(away.mean(2) - p.std() ** 2) < 5 * away.std(2) / np.sqrt(n_draws))
    below = (draws[:, None] < p.quantiles(LEVELS)[..., None]).mean(3)
    expected = np.broadcast_to(LEVELS[:, None], below.shape)
    assert np.all(np.abs(below - expected) < 5 * np.sqrt(expected * (1 - expected) / n_draws))


@pytest.mark.parametrize("name", [name for name in NAMES if "correlated" not in name])
def test_density_is_the_derivative_of_the_quantile_function(name):
    # Of one target: probability between two quantiles is the difference of their levels.
    p = distributions()[name]
    one = {
        "normal": lambda: Normal(p.means[:, :1], p.stds[:, :1]),
        "mixture": lambda: NormalMixture(p.weights, p.means[..., :1], p.stds[..., :1]),
        "quantiles": lambda: QuantileFunction(p.levels, p.values[..., :1]),
        "affine": lambda: Affine(
            Normal(p.base.means[:, :1], p.base.stds[:, :1]), p.shift[:1], p.scale[:1]
        ),
    }[name]()
    ends = one.quantiles([0.05, 0.37, 0.95])[..., 0]
    for event in range(N):
        for i, share in ((0, 0.32), (1, 0.58)):
            low, high = ends[event, i : i + 2]
            inner = (
                []
                if name != "quantiles"
                else [v for v in one.values[event, :, 0] if low < v < high]
            )

            def density(y, event=event):
                return np.exp(one.log_prob(np.full((N, 1), y))[event])

            total, _ = integrate.quad(density, low, high, points=inner or None, limit=200)
            assert total == pytest.approx(share, abs=1e-7)


def test_correlated_densities_are_scipys():
    p = distributions()["correlated normal"]
    y = np.random.default_rng(2).normal(size=(N, T))
    expected = [
        stats.multivariate_normal(m, c).logpdf(v)
        for m, c, v in zip(p.means, p.covariances, y, strict=True)
    ]
    np.testing.assert_allclose(p.log_prob(y), expected, rtol=1e-10)
    mixture = distributions()["correlated mixture"]
    covariances = mixture.factors @ mixture.factors.swapaxes(-1, -2)
    expected = [
        np.log(
            sum(w * stats.multivariate_normal(m, c).pdf(v) for w, m, c in zip(*parts, strict=True))
        )
        for *parts, v in zip(mixture.weights, mixture.means, covariances, y, strict=True)
    ]
    np.testing.assert_allclose(mixture.log_prob(y), expected, rtol=1e-9)


def test_correlated_draws_have_the_covariance():
    for name in ("correlated normal", "correlated mixture"):
        p, n_draws = distributions()[name], 100_000
        draws = p.sample(n_draws, np.random.RandomState(3))
        if name == "correlated normal":
            covariances = p.covariances
        else:
            away = p.means - p.mean()[:, None]
            within = p.factors @ p.factors.swapaxes(-1, -2)
            covariances = np.einsum(
                "nk,nkij->nij", p.weights, within + away[..., :, None] * away[..., None, :]
            )
        products = (draws - p.mean()[..., None])[:, 0] * (draws - p.mean()[..., None])[:, 1]
        error = products.std(1) / np.sqrt(n_draws)
        assert np.all(np.abs(products.mean(1) - covariances[:, 0, 1]) < 5 * error)


def test_far_from_the_diagonal_a_factor_is_enough():
    # Their product is singular in floating point; the density is not.
    factors = np.array([[[[1.0, 0.0], [1e9, 1e-3]]]])
    p = NormalMixture([1.0], np.zeros((1, 1, 2)), factors=factors)
    expected = -(0.5**2 + 0.3**2) / 2 - np.log(2 * np.pi) - np.log(1e-3)
    y = np.array([[0.5, 0.5e9 + 0.3e-3]])
    assert p.log_prob(y)[0] == pytest.approx(expected, abs=1e-3)
    assert np.isfinite(p.sample(10, np.random.RandomState(0))).all()


def test_draws_of_many_components_take_bounded_memory():
    n, k, s = 50, 4000, 1000
    p = NormalMixture(np.full(k, 1 / k), np.zeros((n, k, 1)), np.ones((n, k, 1)))
    tracemalloc.start()
    draws = p.sample(s, np.random.RandomState(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Some copies of the draws and of the mixture, far less than draws times components.
    assert peak < 10 * (draws.nbytes + n * k * 8)


def test_coinciding_quantiles_have_a_density_without_overflow():
    p = QuantileFunction([0.1, 0.5, 0.9], np.array([[[1e3], [1e3], [1e3]]]))
    with np.errstate(all="raise"):
        assert p.log_prob(np.array([[1e3]]))[0] > 100


def test_quantiles_of_a_mixture_invert_its_distribution_function():
    # Narrow components far apart: between them the density vanishes, and Newton's step explodes.
    means = np.array([[[-50.0], [0.0], [1e3]]])
    stds = np.array([[[1e-3], [1.0], [10.0]]])
    p = NormalMixture([0.2, 0.5, 0.3], means, stds)
    levels = np.array([1e-6, 0.1, 0.1999, 0.2001, 0.5, 0.6999, 0.7001, 0.9, 1 - 1e-9])
    x = p.quantiles(levels)[0, :, 0]
    cdf = (
        np.array([0.2, 0.5, 0.3]) * stats.norm(means[0, :, 0], stds[0, :, 0]).cdf(x[:, None])
    ).sum(1)
    np.testing.assert_allclose(cdf, levels, rtol=1e-9)


def test_quantiles_of_random_mixtures_invert_their_distribution_functions():
    # Newton's method alone runs in circles on some of these.
    rng = np.random.default_rng(0)
    n, k = 20_000, 8
    weights, means = rng.dirichlet(np.full(k, 0.5), n), rng.normal(size=(n, k, 1))
    stds = np.exp(rng.normal(-1, 1, (n, k, 1)))
    levels = np.array([0.005, 0.2, 0.6, 0.9])
    x = NormalMixture(weights, means, stds).quantiles(levels)[:, :, 0]
    z = (x[:, None] - means) / stds
    cdf = np.einsum("nk,nkq->nq", weights, special.ndtr(z))
    np.testing.assert_allclose(cdf, np.broadcast_to(levels, cdf.shape), rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1e200, 1e300])
def test_quantiles_of_a_mixture_in_any_unit(unit):
    rng = np.random.default_rng(0)
    weights, means = rng.dirichlet(np.ones(K), 50), rng.normal(0, 3, (50, K, 1))
    stds = rng.uniform(0.01, 1, (50, K, 1))
    p, q = NormalMixture(weights, means, stds), NormalMixture(weights, means * unit, stds * unit)
    np.testing.assert_allclose(q.std(), p.std() * unit, rtol=1e-12)
    np.testing.assert_allclose(q.epistemic(), p.epistemic() * unit, rtol=1e-12)
    np.testing.assert_allclose(q.quantiles(LEVELS), p.quantiles(LEVELS) * unit, rtol=1e-9)


@pytest.mark.parametrize("width", [1e-308, 1e-200, 1e-20])
def test_quantiles_between_components_at_the_ends_of_the_number_range(width):
    # Between them the density underflows, and the distance between them overflows.
    p = NormalMixture([0.3, 0.7], np.array([[[-1.7e308], [1.7e308]]]), np.full((1, 2, 1), width))
    x = p.quantiles([0.1, 0.299, 0.301, 0.9])[0, :, 0]
    np.testing.assert_allclose(x, [-1.7e308, -1.7e308, 1.7e308, 1.7e308], rtol=1e-9)


@pytest.mark.parametrize("part", ["weights", "means", "stds"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_quantiles_and_holds_up_nobody(part, value):
    rng = np.random.default_rng(0)
    parts = {
        "weights": rng.dirichlet(np.ones(K), N),
        "means": rng.normal(size=(N, K, 1)),
        "stds": rng.uniform(0.1, 1, (N, K, 1)),
    }
    expected = NormalMixture(**parts).quantiles(LEVELS)
    parts[part][2, 1] = value
    x = NormalMixture(**parts).quantiles(LEVELS)
    assert np.isnan(x[2]).all()
    others = np.arange(N) != 2
    np.testing.assert_array_equal(x[others], expected[others])


def test_quantile_function_is_exact_for_its_own_family():
    # An exponential tail on both sides of a uniform density: quantiles at 0.25, 0.75 of ±1/2 with
    # scales 1/2 make a distribution whose moments are integrals done by hand.
    p = QuantileFunction([0.25, 0.75], np.array([[[-0.5], [0.5]]]))
    assert p.mean()[0, 0] == pytest.approx(0)
    # 2·(1/4)·((1/2+1/2)² + (1/2)²) from the tails and (1/2)·(1/12) from the middle.
    assert p.std()[0, 0] ** 2 == pytest.approx(0.5 * 1.25 + 0.5 / 12)
    np.testing.assert_allclose(np.exp(p.log_prob(np.array([[0.0]]))), 0.5)
    np.testing.assert_allclose(np.exp(p.log_prob(np.array([[1.0]]))), 0.5 * np.exp(-1))


def test_epistemic_is_the_spread_of_the_means():
    p = NormalMixture([0.25, 0.75], np.array([[[0.0], [4.0]]]), np.array([[[1.0], [2.0]]]))
    assert p.epistemic()[0, 0] == pytest.approx(np.sqrt(0.25 * 9 + 0.75 * 1))
    assert p.std()[0, 0] ** 2 == pytest.approx(0.25 * 1 + 0.75 * 4 + 3)


def test_draws_are_their_own_distribution():
    values = np.random.default_rng(4).normal(size=(N, T, 1001))
    p = Draws(values)
    np.testing.assert_allclose(p.quantiles([0.5])[:, 0], np.median(values, axis=2))
    sample = p.sample(50, np.random.RandomState(0))
    for event in range(N):
        pairs = {tuple(pair) for pair in values[event].T}
        assert {tuple(pair) for pair in sample[event].T} <= pairs
    with pytest.raises(NotImplementedError, match="no density"):
        p.log_prob(np.zeros((N, T)))


@pytest.mark.parametrize("name", NAMES)
def test_the_draws_of_an_event_do_not_depend_on_blocks(name):
    p = distributions()[name]
    cut = slice(0, 2), slice(2, N)
    rng, whole = np.random.RandomState(5), p.sample(7, np.random.RandomState(5))
    parts = []
    for rows in cut:
        part = copy.copy(p)
        inner = copy.copy(p.base) if name == "affine" else part
        for key, value in vars(inner).items():
            if isinstance(value, np.ndarray) and value.ndim > 1:
                setattr(inner, key, value[rows])
        if name == "affine":
            part.base = inner
        parts.append(part.sample(7, rng))
    np.testing.assert_array_equal(np.concatenate(parts), whole)
