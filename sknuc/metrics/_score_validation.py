r"""What scores of distributions accept, and how they average over events.

Truths are ``(n_events,)`` or ``(n_events, n_targets)``; predictions have the same axes, and samples
and quantiles one more, where the estimators of sknuc put it. Inside everything has targets.

The mean score :math:`\bar s = \sum_i w_i s_i / \sum_i w_i` of independent events has the variance

.. math:: \sigma^2 = \frac{\sum_i w_i^2 (s_i - \bar s)^2}{(\sum_i w_i)^2},

for weights of either sign: sums are signed, variances take squares.
"""

import numpy as np
from sklearn.utils._param_validation import StrOptions

from sknuc import base
from sknuc.base import validate_targets, validate_weights

__all__ = [
    "AVERAGED",
    "as_numbers",
    "average_scores",
    "check_interval_ends",
    "check_prediction",
    "check_quantile_values",
    "check_rising_levels",
    "check_samples",
    "check_truth",
    "kish_number",
]

#: What every score that is averaged over events and targets accepts.
AVERAGED = {
    "y_true": ["array-like"],
    "sample_weight": ["array-like", None],
    "multioutput": [StrOptions({"uniform_average", "raw_values"}), "array-like"],
    "return_std": ["boolean"],
}


def as_numbers(name, values):
    """Return an array-like as floats, or say that the parameter `name` holds something else."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"The '{name}' parameter must be an array of numbers. Got {values!r:.200} instead."
        ) from None


def check_truth(y_true, sample_weight):
    """Return the truth with targets, its own shape, and the weights of the events.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
    sample_weight : array-like of shape (n_events,) or None

    Returns
    -------
    y : ndarray of shape (n_events, n_targets)
    shape : tuple of int
        Of `y_true`.
    weight : ndarray of shape (n_events,)
    """
    y = validate_targets(y_true)
    weight = validate_weights(sample_weight, y, allow_negative=True)
    return y.reshape(len(y), -1), y.shape, np.ones(len(y)) if weight is None else weight


def check_prediction(name, values, shape, *, positive=False, allow_infinite=False):
    """Return a prediction that has the shape of the truth, with targets.

    Parameters
    ----------
    name : str
        The parameter.
    values : array-like of shape (n_events,) or (n_events, n_targets)
    shape : tuple of int
        The shape of the truth.
    positive : bool, default=False
        Whether the values must be positive, as standard deviations are.
    allow_infinite : bool, default=False
        Whether infinite values have a meaning, as ends of intervals do.

    Returns
    -------
    values : ndarray of shape (n_events, n_targets)
    """
    values = as_numbers(name, values)
    if values.shape != shape:
        raise ValueError(
            f"The '{name}' parameter must have the shape of y_true, {shape}. "
            f"Got {values.shape} instead."
        )
    _check_finite(name, values, allow_infinite)
    if positive and np.any(values <= 0):
        raise ValueError(
            f"The '{name}' parameter must be positive. Got {np.count_nonzero(values <= 0)} of "
            f"{values.size} values that are zero or negative, the smallest {values.min():g}."
        )
    return values.reshape(len(values), -1)


def check_interval_ends(lower, upper, shape):
    """Return the ends of intervals, of shape (n_events, n_targets); they may be infinite.

    Without `upper`, `lower` holds both: (n_events, 2) or (n_events, 2, n_targets).
    """
    if upper is None:
        both = as_numbers("lower", lower)
        wanted = (shape[0], 2, *shape[1:])
        if both.shape != wanted:
            raise ValueError(
                "The 'lower' parameter must hold both ends when 'upper' is None, as "
                f"predict_interval returns them, of shape {wanted}. Got {both.shape} instead."
            )
        lower, upper = both[:, 0], both[:, 1]
    lower = check_prediction("lower", lower, shape, allow_infinite=True)
    upper = check_prediction("upper", upper, shape, allow_infinite=True)
    n_bad = np.count_nonzero((lower > upper) | (lower == np.inf) | (upper == -np.inf))
    if n_bad:
        raise ValueError(
            "The 'lower' parameter must not lie above 'upper'. Got "
            f"{n_bad} of {lower.size} intervals where it does. Sort crossing quantiles first."
        )
    return lower, upper


def check_rising_levels(name, levels):
    """Return probabilities in (0, 1) that rise."""
    checked = base.check_quantiles(levels, f"{name!r} parameter")
    if np.any(np.diff(checked) <= 0):
        raise ValueError(
            f"The '{name}' parameter must hold levels that rise. Got "
            f"{checked.tolist()!r:.200} instead."
        )
    return checked


def check_quantile_values(quantiles, levels, shape):
    """Return quantiles of shape (n_events, n_levels, n_targets) and their levels."""
    levels = check_rising_levels("levels", levels)
    quantiles = as_numbers("quantiles", quantiles)
    wanted = (shape[0], len(levels), *shape[1:])
    if quantiles.shape != wanted:
        raise ValueError(
            f"The 'quantiles' parameter must have the shape {wanted} for a y_true of shape {shape} "
            f"and {len(levels)} levels. Got {quantiles.shape} instead."
        )
    _check_finite("quantiles", quantiles, False)
    return quantiles.reshape(shape[0], len(levels), -1), levels


def check_samples(samples, shape, n_least):
    """Return samples of shape (n_events, n_targets, n_samples)."""
    samples = as_numbers("samples", samples)
    if samples.shape[:-1] != shape or samples.shape[-1] < n_least:
        raise ValueError(
            f"The 'samples' parameter must have the shape {shape} of y_true and a last axis of at "
            f"least {n_least} samples. Got {samples.shape} instead."
        )
    _check_finite("samples", samples, False)
    return samples.reshape(shape[0], -1, samples.shape[-1])


def _check_finite(name, values, allow_infinite):
    n_bad = np.count_nonzero(np.isnan(values) if allow_infinite else ~np.isfinite(values))
    if n_bad:
        kind = "free of NaN" if allow_infinite else "finite"
        raise ValueError(
            f"The '{name}' parameter must be {kind}. Got {n_bad} of {values.size} values that are "
            "not."
        )


def average_scores(scores, weight, multioutput, return_std):
    """Average scores over events and targets.

    Parameters
    ----------
    scores : ndarray of shape (n_events, n_targets)
        The score of every event.
    weight : ndarray of shape (n_events,)
        Weights of either sign with a positive sum.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,)
        The average over targets, the value of each, or the weights of the targets.
    return_std : bool
        Whether to return the standard deviation of the average too.

    Returns
    -------
    mean : float or ndarray of shape (n_targets,)
    std : float or ndarray of shape (n_targets,)
        Only when `return_std`.
    """
    raw = isinstance(multioutput, str) and multioutput == "raw_values"
    if not raw:
        # Averaged event by event: the targets of one event are not independent.
        shares = _target_shares(multioutput, scores.shape[1])
        scores = np.average(scores, axis=1, weights=shares)[:, None]
    # Zero times infinity is no number: a weight of zero is an absent event.
    scores, weight = scores[weight != 0], weight[weight != 0]
    total = weight.sum()
    mean = weight @ scores / total
    if not return_std:
        return mean if raw else float(mean[0])
    # An infinite average, as of endless intervals, has no standard deviation.
    with np.errstate(invalid="ignore"):
        std = np.sqrt(weight**2 @ (scores - mean) ** 2) / total
    return (mean, std) if raw else (float(mean[0]), float(std[0]))


def _target_shares(multioutput, n_targets):
    """Weights of targets in their average; None for equal ones."""
    if isinstance(multioutput, str):
        return None
    shares = as_numbers("multioutput", multioutput)
    if shares.shape != (n_targets,):
        raise ValueError(
            f"The 'multioutput' parameter must hold a weight for each of {n_targets} targets. Got "
            f"the shape {shares.shape} instead."
        )
    if not np.all(np.isfinite(shares) & (shares >= 0)) or not shares.any():
        raise ValueError(
            "The 'multioutput' parameter must hold weights of targets that are finite, not "
            f"negative and not all zero. Got {shares.tolist()!r:.200} instead."
        )
    return shares


def kish_number(weight):
    r"""Events of weight one whose mean fluctuates as much, if weight and value are independent.

    Parameters
    ----------
    weight : ndarray of shape (n_events,)
        Weights of either sign.

    Returns
    -------
    n_effective : float
        :math:`(\sum w)^2 / \sum w^2`.
    """
    return float(weight.sum() ** 2 / (weight**2).sum())
