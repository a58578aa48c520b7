r"""How well a fraction of counted events is known.

Of :math:`n` events, :math:`k` pass a cut. The Wilson (score) interval collects all true fractions
:math:`p` from which :math:`k/n` is not more than :math:`z` standard deviations away,

.. math:: \left|\tfrac kn - p\right| \le z \sqrt{p(1-p)/n},

and the Clopper-Pearson interval all those for which neither tail of the binomial distribution
beyond :math:`k` holds less than half of what is left over. The first covers the stated probability
on average over :math:`p`, the second never less than it.

Weighted events are less than they look. The weights that pass and fail, :math:`P` and :math:`F`,
are independent sums with the variances :math:`V_P = \sum_P w^2` and :math:`V_F = \sum_F w^2`, so
that :math:`\varepsilon = P / (P + F)` has the variance

.. math:: \sigma_\varepsilon^2 = \frac{(1-\varepsilon)^2 V_P + \varepsilon^2 V_F}{(P+F)^2},

which is :math:`\varepsilon(1-\varepsilon)/n` for weights of one. In general the fraction fluctuates
like that of :math:`n_\mathrm{eff} = \varepsilon(1-\varepsilon) / \sigma_\varepsilon^2` events of
weight one, which the intervals take for :math:`n`. It is Kish's
:math:`(\sum w)^2 / \sum w^2` where the weights of passed and failed events are alike, and only
there: side-bands and generators weigh what passes differently from what fails. Where nothing passes
or nothing fails, one of the variances is unknown and Kish's number stands in.
"""

from numbers import Real

import numpy as np
from scipy.special import betaincinv, ndtri
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

__all__ = ["binomial_interval"]

#: What every function that reports an interval accepts.
CONFIDENCE = {
    "confidence_level": [Interval(Real, 0, 1, closed="neither")],
    "method": [StrOptions({"wilson", "clopper-pearson"})],
}


@validate_params(
    {"n_passed": ["array-like", Real], "n_total": ["array-like", Real], **CONFIDENCE},
    prefer_skip_nested_validation=True,
)
def binomial_interval(n_passed, n_total, *, confidence_level=0.68, method="wilson"):
    """Compute the interval of a fraction of counted events.

    Parameters
    ----------
    n_passed : float or array-like
        Events that passed; effective counts of weighted events may be fractional.
    n_total : float or array-like
        All events.
    confidence_level : float, default=0.68
        The probability that the interval covers the true fraction.
    method : {"wilson", "clopper-pearson"}, default="wilson"
        "wilson" covers `confidence_level` on average, "clopper-pearson" never less.

    Returns
    -------
    low, high : ndarray
        The ends of the interval, in [0, 1].

    Raises
    ------
    ValueError
        If a count is not within ``0 <= n_passed <= n_total`` or `n_total` is zero.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
       J. Am. Stat. Assoc. 22 (1927) 209.
    .. [2] C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated
       in the case of the binomial", Biometrika 26 (1934) 404.

    Examples
    --------
    >>> from sknuc.metrics import binomial_interval
    >>> low, high = binomial_interval(90, 100)
    >>> print(f"{low:.3f} {high:.3f}")
    0.866 0.926
    """
    k, n = np.asarray(n_passed, dtype=float), np.asarray(n_total, dtype=float)
    if not np.all((k >= 0) & (k <= n) & (n > 0)):
        raise ValueError(
            "The 'n_passed' and 'n_total' parameters of binomial_interval must satisfy "
            f"0 <= n_passed <= n_total and n_total > 0. Got {n_passed!r} of {n_total!r} instead."
        )
    if method == "wilson":
        z2 = ndtri((1 + confidence_level) / 2) ** 2
        center = (k + z2 / 2) / (n + z2)
        half = np.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
        # Rounding would leave 1e-17 where the interval ends at 0 or 1 exactly.
        return np.where(k > 0, center - half, 0.0), np.where(k < n, center + half, 1.0)
    tail = (1 - confidence_level) / 2
    low = betaincinv(np.maximum(k, 1e-300), n - k + 1, tail)
    high = betaincinv(k + 1, np.maximum(n - k, 1e-300), 1 - tail)
    return np.where(k > 0, low, 0.0), np.where(k < n, high, 1.0)


def effective_number(fraction, passed, failed):
    """Events of weight one whose fraction would fluctuate as much.

    Parameters
    ----------
    fraction : float
        The fraction of the weight that passes, in (0, 1); in {0, 1} where nothing passes or fails.
    passed, failed : tuple of float
        The sum of the weights and the sum of their squares.

    Returns
    -------
    n_effective : float
    """
    total, (v_passed, v_failed) = passed[0] + failed[0], (passed[1], failed[1])
    if v_passed == 0 or v_failed == 0:
        return total**2 / (v_passed + v_failed)
    variance = (1 - fraction) ** 2 * v_passed + fraction**2 * v_failed
    return fraction * (1 - fraction) * total**2 / variance


def weighted_fraction(passed, weight, *, confidence_level, method):
    """Fraction of the weight that passes, its standard deviation and its interval.

    Parameters
    ----------
    passed : ndarray of bool of shape (n_events,)
        Whether the event passes.
    weight : ndarray of shape (n_events,)
        Weights of either sign with a positive sum.
    confidence_level, method
        As in :func:`binomial_interval`. With negative weights the interval is the Gaussian one,
        unless nothing passes or nothing fails.

    Returns
    -------
    fraction, std : float
    interval : tuple of float
    """
    (p, v_passed), (f, v_failed) = (
        (w.sum(), (w**2).sum()) for w in (weight[passed], weight[~passed])
    )
    total = p + f
    if not total > 0:
        raise ValueError(
            f"The events weigh {total:g} in all, so that no fraction of them can be told: the sum "
            "of the weights, after side-bands are subtracted, must be positive."
        )
    fraction = p / total
    std = np.sqrt((1 - fraction) ** 2 * v_passed + fraction**2 * v_failed) / total
    if v_passed > 0 and v_failed > 0 and np.any(weight < 0):
        z = ndtri((1 + confidence_level) / 2)
        interval = (fraction - z * std, fraction + z * std)
    else:
        n_effective = effective_number(fraction, (p, v_passed), (f, v_failed))
        interval = binomial_interval(
            fraction * n_effective,
            n_effective,
            confidence_level=confidence_level,
            method=method,
        )
    return float(fraction), float(std), (float(interval[0]), float(interval[1]))
