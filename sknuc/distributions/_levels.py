r"""Levels of quantiles that regressors learn, and evenly spread points of several targets.

Where targets depend on each other, mean, standard deviation and quantiles of all but the first are
sums over draws. Instead of random levels, these take in every dimension one point in each of n
equal parts of the law of the deviate z, combined in the order of a scrambled Sobol sequence. A
point is the root mean square of its part,

.. math:: z_i^2 = n \int_{(i-1)/n}^{i/n} z(\tau)^2\,d\tau ,

so that the draws have the variance of the law, tails included; medians of the parts would miss
what lies beyond the outermost ones.
"""

from numbers import Integral, Real

import numpy as np

from sknuc.base import check_quantiles
from sknuc.predictive import even_levels

__all__ = ["check_periodic", "check_rising_levels", "law_points", "sobol_ranks"]


def check_rising_levels(quantiles):
    """Return levels as an array (q,).

    Raises
    ------
    ValueError
        If there are fewer than two, they do not rise, or one is not in (0, 1).
    """
    levels = check_quantiles(quantiles)
    if len(levels) < 2 or not np.all(np.diff(levels) > 0):
        raise ValueError(
            "The 'quantiles' parameter must hold two levels in (0, 1) or more, rising, such as "
            f"(0.16, 0.5, 0.84). Got {quantiles!r} instead."
        )
    return levels


def law_points(n, quantile, partial_square):
    """Return one point in each of n equal parts of a symmetric law, rising, of shape (n,).

    Parameters
    ----------
    n : int
    quantile : callable
        The law's quantile function.
    partial_square : callable
        The integral of the density times z², from minus infinity to its argument.
    """
    edges = quantile(np.arange(1, n) / n)
    squares = np.diff(partial_square(edges), prepend=0.0, append=2 * partial_square(0.0))
    return np.sign(2 * np.arange(n) - n + 1) * np.sqrt(n * squares)


def sobol_ranks(n, t):
    """Return n evenly spread combinations of t numbers from 0 to n - 1, each once per column."""
    return even_levels(n, t).argsort(axis=0).argsort(axis=0)


def check_periodic(periodic, n_targets, n_features=0):
    """Return a dict from targets that are angles to (period, feature or None).

    Parameters
    ----------
    periodic : float, dict or None
        The parameter of that name: a period, for one target, or ``{target: period}``.
    n_targets : int
    n_features : int, default=0
        How many features there are to refer an angle to, by ``{target: (period, feature)}``.

    Raises
    ------
    ValueError
        If a target, a period or a feature is none.
    """
    if periodic is None:
        return {}
    if not isinstance(periodic, dict):
        if n_targets > 1:
            raise ValueError(
                f"The 'periodic' parameter must say which of the {n_targets} targets are angles, "
                f"as {{target: period}}. Got {periodic!r} instead."
            )
        periodic = {0: periodic}
    checked = {}
    for target, value in periodic.items():
        if not isinstance(target, Integral) or not 0 <= target < n_targets:
            raise ValueError(
                f"The 'periodic' parameter must give targets by their numbers, from 0 to "
                f"{n_targets - 1}. Got {target!r} instead."
            )
        pair = isinstance(value, list | tuple) and len(value) == 2 and n_features > 0
        period, feature = value if pair else (value, None)
        if isinstance(period, bool) or not isinstance(period, Real) or not 0 < period < np.inf:
            either = ", or a pair of period and feature" if n_features else ""
            raise ValueError(
                f"The 'periodic' parameter must give target {target} a positive period{either}. "
                f"Got {value!r} instead."
            )
        if pair and not (isinstance(feature, Integral) and 0 <= feature < n_features):
            raise ValueError(
                f"The 'periodic' parameter must refer target {target} to one of the features from "
                f"0 to {n_features - 1}. Got {feature!r} instead."
            )
        checked[int(target)] = (float(period), None if feature is None else int(feature))
    return checked
