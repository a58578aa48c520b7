"""Convergence of Markov chains, on chains whose autocorrelation is known."""

import numpy as np
import pytest
from scipy.signal import lfilter

from sknuc.metrics import effective_sample_size, r_hat


def autoregressive(rho, shape, seed):
    """Stationary chains of unit variance with autocorrelation ρ^t."""
    rng = np.random.default_rng(seed)
    noise = np.sqrt(1 - rho**2) * rng.normal(size=shape)
    noise[:, 0] /= np.sqrt(1 - rho**2)
    return lfilter([1.0], [1.0, -rho], noise, axis=1)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["mean", "bulk"])
def test_effective_sample_size_of_an_autoregressive_chain(rho, kind):
    chains = autoregressive(rho, (4, 20_000), seed=0)
    expected = chains.size * (1 - rho) / (1 + rho)
    # The error of a sum of autocorrelations up to lag M is √(2(2M+1)/N) of it (Sokal 1997); the
    # pairs end after some five correlation times.
    lags = 5 * max(1.0, (1 + rho) / (1 - rho) / 2)
    error = np.sqrt(2 * (2 * lags + 1) / chains.size)
    assert effective_sample_size(chains, kind=kind) == pytest.approx(expected, rel=4 * error)


def test_error_of_the_mean_is_what_the_effective_sample_size_says():
    chains = autoregressive(0.8, (400, 1000), seed=1)
    errors = chains.mean(1) / np.sqrt(
        [chain.var() / effective_sample_size(chain[None], kind="mean") for chain in chains]
    )
    # The variance of 400 standard normal numbers has the error √(2/400).
    assert errors.var() == pytest.approx(1, abs=4 * np.sqrt(2 / 400))


def test_r_hat_is_its_definition_on_normal_scores():
    chains = autoregressive(0.5, (3, 200), seed=2)
    halves = chains.reshape(6, 100)
    # Without ranks: for normal draws the scores are nearly the draws themselves.
    within = halves.var(axis=1, ddof=1).mean()
    between = 100 * halves.mean(1).var(ddof=1)
    classic = np.sqrt((99 / 100 * within + between / 100) / within)
    assert r_hat(chains) >= classic - 2e-3
    assert r_hat(np.exp(chains)) == pytest.approx(r_hat(chains), abs=0.02)


def test_monotone_transformations_change_nothing_in_the_bulk():
    chains = autoregressive(0.5, (4, 500), seed=3)
    assert effective_sample_size(np.exp(3 * chains)) == pytest.approx(
        effective_sample_size(chains), rel=1e-12
    )


@pytest.mark.parametrize("fault", ["shift", "scale", "drift", "stuck"])
def test_chains_that_disagree_are_seen(fault):
    chains = autoregressive(0.0, (4, 1000), seed=4)
    assert r_hat(chains) < 1.01
    if fault == "shift":
        chains[0] += 1
    elif fault == "scale":
        chains[0] *= 3
    elif fault == "drift":
        chains += np.linspace(-1, 1, 1000)
    else:
        chains[0] = 0.1
    assert r_hat(chains) > 1.05
    # Means that agree, or hardly vary, say nothing of spreads: those have no part in the bulk's.
    if fault in ("shift", "drift"):
        assert effective_sample_size(chains) < 400


def test_tails_that_mix_slowly_have_few_effective_draws():
    # Rare excursions: the sign mixes at once, the size of the deviation does not.
    size = np.exp(autoregressive(0.995, (4, 4000), seed=5))
    chains = size * np.random.default_rng(6).normal(size=size.shape)
    assert effective_sample_size(chains, kind="tail") < effective_sample_size(chains) / 5


def test_quantities_are_judged_one_by_one():
    chains = np.stack(
        [autoregressive(0.0, (2, 100), 7), autoregressive(0.9, (2, 100), 8), np.ones((2, 100))], 2
    )
    for function in (r_hat, effective_sample_size):
        together = function(chains)
        np.testing.assert_allclose(together[:2], [function(chains[..., k]) for k in range(2)])
        assert np.isnan(together[2])


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (np.zeros((2, 3)), "4 draws"),
        (np.zeros((2, 5, 2, 2)), "n_quantities"),
        (np.full((2, 5), np.nan), "NaN"),
    ],
)
def test_bad_chains_are_refused(chains, message):
    with pytest.raises(ValueError, match=message):
        r_hat(chains)
