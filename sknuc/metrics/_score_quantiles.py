r"""Scores of predicted quantiles.

The expectation of the pinball loss :math:`\rho_\tau(y - q)`, with
:math:`\rho_\tau(u) = u(\tau - 1\{u < 0\})`, has the derivative :math:`P(y < q) - \tau` in q: it is
least at the quantile of level :math:`\tau`, whatever the distribution. Integrated over all levels
it is half the continuous ranked probability score.
"""

import numpy as np
from sklearn.utils._param_validation import StrOptions, validate_params

from sknuc.metrics._score_validation import (
    AVERAGED,
    average_scores,
    check_quantile_values,
    check_truth,
)

__all__ = ["crps_quantile", "pinball_loss", "quantile_calibration_error"]


def _pinball(y, quantiles, levels):
    """Pinball losses of shape (n_events, n_levels, n_targets)."""
    residual = y[:, None, :] - quantiles
    return np.maximum(levels[:, None] * residual, (levels[:, None] - 1) * residual)


@validate_params(
    {**AVERAGED, "quantiles": ["array-like"], "levels": ["array-like"], "per_level": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def pinball_loss(
    y_true,
    quantiles,
    levels,
    *,
    per_level=False,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    r"""Compute the pinball loss of quantiles at several levels.

    .. math:: \rho_\tau(y - q) = \max\left(\tau (y - q), (\tau - 1)(y - q)\right),

    whose expectation is least at the quantile of level :math:`\tau`.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    quantiles : array-like of shape (n_events, n_levels) or (n_events, n_levels, n_targets)
        Predicted quantiles, such as ``predict_quantiles`` returns.
    levels : array-like of shape (n_levels,)
        Their levels in (0, 1), rising.
    per_level : bool, default=False
        Whether to return the loss at each level instead of their mean.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the score of each, or weights for the average.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    loss : float or ndarray of shape (n_targets,), (n_levels,) or (n_levels, n_targets)
        Lower is better, in the unit of `y_true`; with an axis of levels when `per_level`, and one
        of targets for the "raw_values".
    std : as `loss`
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or the levels are not rising in (0, 1).

    References
    ----------
    .. [1] R. Koenker and G. Bassett, "Regression quantiles", Econometrica 46 (1978) 33.

    Examples
    --------
    >>> from sknuc.metrics import pinball_loss
    >>> pinball_loss([1.0], [[0.0, 2.0]], [0.25, 0.5], per_level=True)
    array([0.25, 0.5 ])
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    quantiles, levels = check_quantile_values(quantiles, levels, shape)
    losses = _pinball(y, quantiles, levels)
    if not per_level:
        return average_scores(losses.mean(axis=1), weight, multioutput, return_std)
    results = [
        average_scores(losses[:, j], weight, multioutput, return_std) for j in range(len(levels))
    ]
    return tuple(map(np.array, zip(*results, strict=True))) if return_std else np.array(results)


@validate_params(
    {**AVERAGED, "quantiles": ["array-like"], "levels": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def crps_quantile(
    y_true,
    quantiles,
    levels,
    *,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    r"""Compute the CRPS of distributions that are given by quantiles.

    Twice the pinball loss is integrated over the levels by the trapezoidal rule,

    .. math:: \sum_j (\tau_{j+1} - \tau_{j-1})\, \rho_{\tau_j}(y - q_j),
        \qquad \tau_0 = 0, \; \tau_{q+1} = 1,

    where the loss vanishes at the levels 0 and 1, whose quantiles are the ends of the
    distribution. It is exact where the loss is linear in the level between those that are given,
    and proper for the quantiles in any case. For calibrated normal distributions it falls short of
    :math:`\sigma / \sqrt\pi` by 1.5 % with the levels 0.1 to 0.9, 0.4 % with 0.05 to 0.95 and
    0.02 % with 0.01 to 0.99.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    quantiles : array-like of shape (n_events, n_levels) or (n_events, n_levels, n_targets)
        Predicted quantiles, such as ``predict_quantiles`` returns.
    levels : array-like of shape (n_levels,)
        Their levels in (0, 1), rising.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the score of each, or weights for the average.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    crps : float or ndarray of shape (n_targets,)
        Lower is better, in the unit of `y_true`.
    std : float or ndarray of shape (n_targets,)
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or the levels are not rising in (0, 1).

    References
    ----------
    .. [1] F. Laio and S. Tamea, "Verification tools for probabilistic forecasts of continuous
       hydrological variables", Hydrol. Earth Syst. Sci. 11 (2007) 1267.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.stats import norm
    >>> from sknuc.metrics import crps_gaussian, crps_quantile
    >>> levels = np.linspace(0.01, 0.99, 99)
    >>> print(f"{crps_quantile([0.5], [norm.ppf(levels)], levels):.3f}")
    0.331
    >>> print(f"{crps_gaussian([0.5], [0.0], [1.0]):.3f}")
    0.331
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    quantiles, levels = check_quantile_values(quantiles, levels, shape)
    ends = np.concatenate([[0.0], levels, [1.0]])
    scores = np.moveaxis(_pinball(y, quantiles, levels), 1, -1) @ (ends[2:] - ends[:-2])
    return average_scores(scores, weight, multioutput, return_std)


@validate_params(
    {
        **{name: AVERAGED[name] for name in ("y_true", "sample_weight", "multioutput")},
        "quantiles": ["array-like"],
        "levels": ["array-like"],
        "norm": [StrOptions({"l1", "l2"})],
    },
    prefer_skip_nested_validation=True,
)
def quantile_calibration_error(
    y_true, quantiles, levels, *, norm="l1", sample_weight=None, multioutput="uniform_average"
):
    r"""Compute how far the levels of quantiles are from the frequencies of truths below them.

    .. math:: \frac1q \sum_j \left|\hat P(y \le q_j) - \tau_j\right|, \qquad
        \hat P(y \le q_j) = \frac{\sum_i w_i 1\{y_i \le q_{ij}\}}{\sum_i w_i},

    or the root of the mean square. Calibrated quantiles of n events show about
    :math:`\sqrt{2\tau(1-\tau) / \pi n}` at each level; see :func:`pit_test` for a test.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    quantiles : array-like of shape (n_events, n_levels) or (n_events, n_levels, n_targets)
        Predicted quantiles, such as ``predict_quantiles`` returns.
    levels : array-like of shape (n_levels,)
        Their levels in (0, 1), rising.
    norm : {"l1", "l2"}, default="l1"
        The mean over the levels, or the root mean square.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the error of each, or weights for the average.

    Returns
    -------
    error : float or ndarray of shape (n_targets,)
        In [0, 1] for weights that are not negative; lower is better.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or the levels are not rising in (0, 1).

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner and S. Ermon, "Accurate uncertainties for deep learning using
       calibrated regression", ICML (2018).

    Examples
    --------
    >>> from sknuc.metrics import quantile_calibration_error
    >>> quantile_calibration_error([1, 2, 3, 4], [[2.5, 3.5]] * 4, [0.5, 0.9])
    0.07500000000000001
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    quantiles, levels = check_quantile_values(quantiles, levels, shape)
    below = np.einsum("n,njt->jt", weight, y[:, None, :] <= quantiles) / weight.sum()
    gaps = np.abs(below - levels[:, None])
    errors = gaps.mean(axis=0) if norm == "l1" else np.sqrt((gaps**2).mean(axis=0))
    return average_scores(errors[None], np.ones(1), multioutput, False)
