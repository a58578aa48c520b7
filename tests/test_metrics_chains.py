"""Convergence of Markov chains, on chains whose autocorrelation is known."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm

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


def halves(chains):
    n = chains.shape[1] // 2
    return [part for chain in chains for part in (chain[:n], chain[-n:])]


def normal_scores(parts):
    """Eq. 14 of Vehtari et al. 2021, rank by rank: equal draws share the mean of their ranks."""
    values = np.concatenate(parts)
    ranks = [(np.sum(values < v) + np.sum(values <= v) + 1) / 2 for v in values]
    scores = [norm.ppf((r - 3 / 8) / (len(values) + 1 / 4)) for r in ranks]
    return np.reshape(scores, (len(parts), -1))


def variances(parts):
    """W and var+ of eqs. 1 to 3, sum by sum."""
    m, n = len(parts), len(parts[0])
    means = [sum(part) / n for part in parts]
    within = sum(sum((x - mean) ** 2 for x in p) for p, mean in zip(parts, means, strict=True))
    within /= m * (n - 1)
    between = n / (m - 1) * sum((mean - sum(means) / m) ** 2 for mean in means)
    return within, (n - 1) / n * within + between / n


def paper_r_hat(chains):
    """The larger one of the bulk's and of the folded draws', eqs. 4 and 15."""
    parts = halves(chains)
    median = np.median(np.concatenate(parts))
    folded = [np.abs(part - median) for part in parts]
    results = []
    for scores in (normal_scores(parts), normal_scores(folded)):
        within, total = variances(scores)
        results.append(np.sqrt(total / within))
    return max(results)


def paper_effective_size(parts):
    """Eqs. 10 to 13 with Geyer's initial monotone sequence, lag by lag."""
    m, n = len(parts), len(parts[0])
    within, total = variances(parts)
    away = [np.asarray(part) - np.mean(part) for part in parts]

    def rho(t):
        if t == 0:
            return 1.0
        covariance = sum(a[: n - t] @ a[t:] / n for a in away) / m
        return 1 - (within - covariance) / total

    tau, last = -1.0, np.inf
    for k in range(n // 2):
        pair = rho(2 * k) + rho(2 * k + 1)
        if pair <= 0:
            break
        last = min(last, pair)
        tau += 2 * last
    return m * n / max(tau, 1 / np.log10(m * n))


@pytest.mark.parametrize("n_draws", [120, 121])
@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.8])
def test_the_definitions_of_the_paper(rho, n_draws):
    chains = np.exp(autoregressive(rho, (3, n_draws), seed=2))
    chains[0] *= 1.5
    assert r_hat(chains) == pytest.approx(paper_r_hat(chains), rel=1e-12)
    chains = chains.round(1)  # ties
    assert r_hat(chains) == pytest.approx(paper_r_hat(chains), rel=1e-12)
    parts = halves(chains)
    expected = {"mean": paper_effective_size(parts)}
    expected["bulk"] = paper_effective_size(normal_scores(parts))
    expected["tail"] = min(
        paper_effective_size([(part <= end) * 1.0 for part in parts])
        for end in np.quantile(chains, [0.05, 0.95])
    )
    for kind, size in expected.items():
        assert effective_sample_size(chains, kind=kind) == pytest.approx(size, rel=1e-9), kind


@pytest.mark.parametrize("n_ones", [55, 70, 99])
def test_r_hat_of_two_values_has_a_closed_form(n_ones):
    # Both halves of the first chain hold n_ones ones, those of the second as many zeros. The
    # scores are ±z, on which R-hat does not depend, and the distances from the median are all z.
    rng, n = np.random.default_rng(9), 100
    ones = rng.permuted(np.tile(np.arange(n) < n_ones, (2, 1)), axis=1).ravel()
    p = n_ones / n
    ratio = 4 / 3 * (2 * p - 1) ** 2 / (4 * p * (1 - p) * n / (n - 1))
    chains = np.array([ones, ~ones], dtype=float)
    assert r_hat(chains) == pytest.approx(np.sqrt((n - 1) / n + ratio), rel=1e-12)
    # Of two values all indicators are the same one.
    sizes = [effective_sample_size(chains, kind=kind) for kind in ("bulk", "tail", "mean")]
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-9)


@pytest.mark.parametrize("n_chains", [2, 3, 5])
def test_chains_that_are_all_stuck_disagree_without_end(n_chains):
    values = np.random.default_rng(10).normal(size=(n_chains, 1))
    chains = np.repeat(values, 501, axis=1)
    assert r_hat(chains) == np.inf
    for kind in ("bulk", "tail", "mean"):
        # Each is worth one draw; their halves agree without end, up to the longest lag that is.
        assert effective_sample_size(chains, kind=kind) == pytest.approx(n_chains, rel=0.01)
    # What is the same everywhere, also where its mean is not itself by rounding, has neither.
    same = np.full((n_chains, 501), 0.1)
    assert np.isnan(r_hat(same))
    for kind in ("bulk", "tail", "mean"):
        assert np.isnan(effective_sample_size(same, kind=kind))


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
