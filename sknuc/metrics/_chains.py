r"""Whether Markov chains have converged, and how many independent draws they are worth.

Chains that sample the same distribution agree. The potential scale reduction compares the variance
W within half chains of n draws with the variance B/n of their means,

.. math:: \hat R = \sqrt{\frac{n-1}{n} + \frac{B}{n W}},

which is 1 when all halves agree. Neighbouring draws are correlated, so N draws tell as much about a
mean as N/τ independent ones, :math:`\tau = 1 + 2\sum_{t>0}\rho_t`; the sum over autocorrelations
ends where Geyer's pairs :math:`\rho_{2k} + \rho_{2k+1}`, which are positive and fall for a
reversible chain, drown in noise.

Both are computed on ranks turned into normal scores, so that they exist for tails of any weight;
folded about the median they see chains that disagree in their spread; and on indicators of the 5 %
and 95 % quantiles they tell about tails.
"""

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.utils import check_array
from sklearn.utils._param_validation import StrOptions, validate_params

__all__ = ["effective_sample_size", "r_hat"]


@validate_params({"chains": ["array-like"]}, prefer_skip_nested_validation=True)
def r_hat(chains):
    r"""Potential scale reduction of Markov chains: 1 for chains that agree.

    Rank-normalised and split, the larger of that of the draws and of their distances from the
    median. Above 1.01 the chains have not converged.

    Parameters
    ----------
    chains : array-like of shape (n_chains, n_draws) or (n_chains, n_draws, n_quantities)
        Draws of one or several quantities after the warm-up; 4 draws per chain at least.

    Returns
    -------
    r_hat : float or ndarray of shape (n_quantities,)
        Infinite where each chain is stuck at a value of its own; NaN for a quantity that is the
        same in all draws of all chains.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws, or one is not finite.

    References
    ----------
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, "Rank-normalization, folding,
    and localization: an improved R-hat", Bayesian Analysis 16 (2021) 667, arXiv:1903.08008.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import r_hat
    >>> chains = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(r_hat(chains) < 1.01)
    True
    >>> bool(r_hat(chains + np.arange(4)[:, None]) > 1.5)
    True
    """
    chains, single = _validate(chains)
    halves = _split(chains)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    # Of two values, or of chains stuck at two, the distances from the median are all alike.
    result = np.fmax(
        _scale_reduction(_normal_scores(halves)), _scale_reduction(_normal_scores(folded))
    )
    return float(result[0]) if single else result


@validate_params(
    {"chains": ["array-like"], "kind": [StrOptions({"bulk", "tail", "mean"})]},
    prefer_skip_nested_validation=True,
)
def effective_sample_size(chains, *, kind="bulk"):
    r"""How many independent draws Markov chains are worth.

    .. math:: N_\mathrm{eff} = \frac{N}{1 + 2 \sum_{t>0} \rho_t}

    for N draws in all chains together; the variance between the chains counts as correlation.

    Parameters
    ----------
    chains : array-like of shape (n_chains, n_draws) or (n_chains, n_draws, n_quantities)
        Draws of one or several quantities after the warm-up; 4 draws per chain at least.
    kind : {"bulk", "tail", "mean"}, default="bulk"
        "bulk": of rank-normalised draws, for where most draws are. "tail": the smaller one of the
        5 % and 95 % quantiles. "mean": of the draws as they are: the standard error of their mean
        is their standard deviation over the root of it.

    Returns
    -------
    n_effective : float or ndarray of shape (n_quantities,)
        At most N log10 N, for chains whose draws alternate; NaN for a quantity that is the same in
        all draws of all chains, and of "tail" also where 95 % of the draws have the largest value.

    Raises
    ------
    ValueError
        If there are fewer than 4 draws, or one is not finite.

    References
    ----------
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner, "Rank-normalization, folding,
    and localization: an improved R-hat", Bayesian Analysis 16 (2021) 667, arXiv:1903.08008.

    C. Geyer, "Practical Markov Chain Monte Carlo", Statistical Science 7 (1992) 473.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import effective_sample_size
    >>> chains = np.random.default_rng(0).normal(size=(4, 1000))
    >>> bool(effective_sample_size(chains) > 3500)
    True
    """
    chains, single = _validate(chains)
    halves = _split(chains)
    if kind == "bulk":
        result = _effective(_normal_scores(halves))
    elif kind == "mean":
        result = _effective(halves)
    else:
        low, high = np.quantile(chains, [0.05, 0.95], axis=(0, 1))
        # A quantile that is the largest draw says nothing, as for a quantity of two values.
        result = np.fmin(
            _effective((halves <= low).astype(float)), _effective((halves <= high).astype(float))
        )
    return float(result[0]) if single else result


def _validate(chains):
    """Return draws (n_chains, n_draws, n_quantities), and whether there is one quantity."""
    chains = check_array(chains, allow_nd=True, dtype=np.float64, input_name="chains")
    single = chains.ndim == 2
    if single:
        chains = chains[..., np.newaxis]
    if chains.ndim != 3 or chains.shape[1] < 4:
        raise ValueError(
            "The 'chains' parameter must have the shape (n_chains, n_draws) or (n_chains, n_draws, "
            f"n_quantities), with 4 draws at least. Got {chains.shape[: 2 if single else None]} "
            "instead."
        )
    return chains, single


def _split(chains):
    """Each chain as two: a drift within a chain is a difference between its halves."""
    half = chains.shape[1] // 2
    return np.concatenate([chains[:, :half], chains[:, -half:]])


def _normal_scores(chains):
    """Replace draws by the normal quantiles of their ranks (Blom's fractional offset)."""
    n = chains.shape[0] * chains.shape[1]
    ranks = rankdata(chains.reshape(n, -1), axis=0).reshape(chains.shape)
    return ndtri((ranks - 3 / 8) / (n + 1 / 4))


def _scale_reduction(chains):
    n = chains.shape[1]
    # From the first draw, so that a constant chain has no variance by rounding.
    within = (chains - chains[:, :1]).var(axis=1, ddof=1).mean(0)
    between = chains.mean(1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(within > 0, between / within, np.where(between > 0, np.inf, np.nan))
    return np.sqrt((n - 1) / n + ratio)


def _effective(chains):
    m, n, _ = chains.shape
    # Likewise from one draw of all.
    chains = chains - chains[:1, :1]
    away = chains - chains.mean(1, keepdims=True)
    # Autocovariances by the Fourier transform, padded so that no draw meets one from the far end.
    spectrum = np.fft.rfft(away, n=2 ** int(np.ceil(np.log2(2 * n))), axis=1)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), axis=1)[:, :n].mean(0) / n
    within = covariance[0] * n / (n - 1)
    total = within * (n - 1) / n + (chains.mean(1).var(axis=0, ddof=1) if m > 1 else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, -1).sum(1)
    # Geyer's initial monotone sequence: positive pairs, each no larger than the one before.
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    pairs = np.minimum.accumulate(np.where(positive, pairs, 0.0), axis=0)
    tau = np.maximum(2 * pairs.sum(0) - 1, 1 / np.log10(m * n))
    return np.where(total > 0, m * n / tau, np.nan)
