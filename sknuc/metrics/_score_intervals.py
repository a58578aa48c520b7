r"""Scores of predicted intervals.

Intervals are good when they are narrow and cover as often as they claim. The width alone is met by
intervals of no width, the coverage alone by endless ones; the interval score fines every truth
outside at the rate that makes the true quantiles the best ends.
"""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._score_validation import (
    AVERAGED,
    average_scores,
    check_interval_ends,
    check_truth,
)

__all__ = ["interval_score", "interval_width"]

COVERAGE = {"coverage": [Interval(Real, 0, 1, closed="neither")]}


@validate_params(
    {**AVERAGED, **COVERAGE, "lower": ["array-like"], "upper": ["array-like", None]},
    prefer_skip_nested_validation=True,
)
def interval_score(
    y_true,
    lower,
    upper=None,
    *,
    coverage,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    r"""Compute the interval score: the width, and a fine for truths outside.

    With the lower end l, the upper end u and :math:`\alpha = 1 -` `coverage`

    .. math:: (u - l) + \frac2\alpha (l - y)_+ + \frac2\alpha (y - u)_+,

    whose expectation is least at the quantiles of levels :math:`\alpha/2` and
    :math:`1 - \alpha/2`: :math:`2/\alpha` times the sum of their pinball losses.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    lower : array-like of shape (n_events,) or (n_events, n_targets)
        The lower ends of the intervals, or both ends, of shape (n_events, 2) or
        (n_events, 2, n_targets) as ``predict_interval`` returns them.
    upper : array-like of shape (n_events,) or (n_events, n_targets), default=None
        The upper ends; None where `lower` holds both. Infinite ends give an infinite score.
    coverage : float
        The probability that the central intervals claim, in (0, 1).
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the score of each, or weights for the average.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    score : float or ndarray of shape (n_targets,)
        Lower is better, in the unit of `y_true`.
    std : float or ndarray of shape (n_targets,)
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is NaN, or a lower end lies above the upper one.

    References
    ----------
    .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
       estimation", J. Am. Stat. Assoc. 102 (2007) 359, section 6.2.

    Examples
    --------
    >>> from sknuc.metrics import interval_score
    >>> interval_score([0.0, 1.5], [-1.0, -1.0], [1.0, 1.0], coverage=0.5)
    3.0
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    lower, upper = check_interval_ends(lower, upper, shape)
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    scores = (upper - lower) + 2 / (1 - coverage) * outside
    return average_scores(scores, weight, multioutput, return_std)


@validate_params(
    {
        **{k: v for k, v in AVERAGED.items() if k != "y_true"},
        "lower": ["array-like"],
        "upper": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def interval_width(
    lower,
    upper=None,
    *,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    """Compute the mean width of intervals.

    It compares methods of the same coverage; see :func:`interval_score` for one number of both.

    Parameters
    ----------
    lower : array-like of shape (n_events,) or (n_events, n_targets)
        The lower ends of the intervals, or both ends, of shape (n_events, 2) or
        (n_events, 2, n_targets) as ``predict_interval`` returns them.
    upper : array-like of shape (n_events,) or (n_events, n_targets), default=None
        The upper ends; None where `lower` holds both: an (n_events, 2) array alone is then read as
        the two ends of one target, not as lower ends of two. Ends may be infinite.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the score of each, or weights for the average.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    width : float or ndarray of shape (n_targets,)
        In the unit of the targets.
    std : float or ndarray of shape (n_targets,)
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is NaN, or a lower end lies above the upper one.

    Examples
    --------
    >>> from sknuc.metrics import interval_width
    >>> interval_width([0.0, 1.0], [1.0, 4.0])
    2.0
    """
    shape = np.shape(lower)
    if upper is None:
        shape = shape[:1] + shape[2:]
    _, _, weight = check_truth(np.zeros(shape), sample_weight)
    lower, upper = check_interval_ends(lower, upper, shape)
    return average_scores(upper - lower, weight, multioutput, return_std)
