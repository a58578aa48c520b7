r"""How good a predicted distribution is: proper scores.

A score :math:`s(F, y)` of a predicted distribution :math:`F` at the truth :math:`y` is proper when
no forecast has a lower expectation than the true distribution. Calibration and sharpness are then
traded at the right rate, and one number compares methods. The continuous ranked probability score

.. math::

    \mathrm{CRPS}(F, y) = \int (F(x) - 1\{x \ge y\})^2 \, dx
    = \mathrm{E}|X - y| - \tfrac12 \mathrm{E}|X - X'|
    = 2 \int_0^1 \rho_\tau(y - F^{-1}(\tau)) \, d\tau

has the unit of y and is the absolute error for a point prediction. Its three forms are those for
densities, for samples :math:`X, X' \sim F`, and for quantiles with the pinball loss
:math:`\rho_\tau(u) = u (\tau - 1\{u < 0\})`. A calibrated normal distribution of width
:math:`\sigma` has the expected CRPS :math:`\sigma / \sqrt\pi` and, averaged over :math:`\tau`, half
of it as its pinball loss.

All scores are averages over events, lower is better, and weights may be negative, as those of
next-to-leading-order generators: sums are signed.
"""

import numpy as np
from scipy.special import ndtr
from sklearn.utils._param_validation import validate_params

from sknuc.metrics._score_validation import (
    AVERAGED,
    average_scores,
    check_prediction,
    check_samples,
    check_truth,
)

__all__ = ["crps_ensemble", "crps_gaussian", "ensemble_crps", "gaussian_nll", "sharpness"]


@validate_params(
    {**AVERAGED, "mean": ["array-like"], "std": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def crps_gaussian(
    y_true,
    mean,
    std,
    *,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    r"""Compute the CRPS of normal distributions.

    With :math:`z = (y - \mu) / \sigma`,

    .. math:: \sigma \left[z (2\Phi(z) - 1) + 2\varphi(z) - 1/\sqrt\pi\right].

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    mean : array-like of shape (n_events,) or (n_events, n_targets)
        Means.
    std : array-like of shape (n_events,) or (n_events, n_targets)
        Standard deviations, positive.
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
        If shapes do not fit, a value is not finite, or a `std` is not positive.

    References
    ----------
    .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
       estimation", J. Am. Stat. Assoc. 102 (2007) 359.

    Examples
    --------
    >>> from sknuc.metrics import crps_gaussian
    >>> print(f"{crps_gaussian([0.0, 1.0], [0.0, 0.0], [1.0, 1.0]):.4f}")
    0.4181
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    mean = check_prediction("mean", mean, shape)
    std = check_prediction("std", std, shape, positive=True)
    z = (y - mean) / std
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    scores = std * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return average_scores(scores, weight, multioutput, return_std)


@validate_params(
    {**AVERAGED, "samples": ["array-like"], "fair": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def crps_ensemble(
    y_true,
    samples,
    *,
    fair=True,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    r"""Compute the CRPS of distributions that are given by samples.

    For s samples :math:`x_k`

    .. math::

        \frac1s \sum_k |x_k - y| - \frac{1}{2 c} \sum_{k, l} |x_k - x_l|,
        \qquad \sum_{k, l} |x_k - x_l| = 2 \sum_k (2k - s - 1)\, x_{(k)},

    the latter over sorted samples, hence :math:`O(s \log s)`. With :math:`c = s^2` it is the CRPS
    of the distribution that has the samples as its atoms. With :math:`c = s(s-1)` it is fair: for
    independent draws its expectation is the CRPS of the distribution that they come from, whatever
    their number.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    samples : array-like of shape (n_events, n_samples) or (n_events, n_targets, n_samples)
        Samples of the predicted distributions, such as ``sample_y`` draws.
    fair : bool, default=True
        Whether the samples stand for the distribution that they were drawn from, or are themselves
        what is predicted.
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
        If shapes do not fit, a value is not finite, or there are fewer than two samples for the
        fair score.

    References
    ----------
    .. [1] C. A. T. Ferro, "Fair scores for ensemble forecasts", Q. J. R. Meteorol. Soc. 140 (2014)
       1917.

    Examples
    --------
    >>> from sknuc.metrics import crps_ensemble
    >>> crps_ensemble([2.0], [[1.0, 2.0, 3.0]], fair=False)
    0.2222222222222222
    >>> crps_ensemble([2.0], [[1.0, 2.0, 3.0]])
    0.0
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    samples = check_samples(samples, shape, 2 if fair else 1)
    # Distances from the truth: differences of large numbers would round.
    scores = ensemble_crps(samples - y[:, :, None], fair)
    return average_scores(scores, weight, multioutput, return_std)


def ensemble_crps(distance, fair):
    """CRPS (...) of samples by their signed distances (..., n_samples) from the truth."""
    distance = np.sort(distance, axis=-1)
    s = distance.shape[-1]
    spread = distance @ np.arange(1.0 - s, s, 2) / (s * (s - 1) if fair else s**2)
    return np.abs(distance).mean(-1) - spread


@validate_params(
    {**AVERAGED, "mean": ["array-like"], "std": ["array-like"]},
    prefer_skip_nested_validation=True,
)
def gaussian_nll(
    y_true,
    mean,
    std,
    *,
    sample_weight=None,
    multioutput="uniform_average",
    return_std=False,
):
    r"""Compute the negative logarithm of the likelihood of normal distributions, in nats.

    .. math:: \tfrac12 \log(2\pi\sigma^2) + \frac{(y - \mu)^2}{2\sigma^2}.

    For other densities it is ``-np.average(estimator.log_prob(X, y), weights=sample_weight)``.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    mean : array-like of shape (n_events,) or (n_events, n_targets)
        Means.
    std : array-like of shape (n_events,) or (n_events, n_targets)
        Standard deviations, positive.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the score of each, or weights for the average.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    nll : float or ndarray of shape (n_targets,)
        Per target, lower is better; shifts by log(c) when `y_true` is scaled by c.
    std : float or ndarray of shape (n_targets,)
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or a `std` is not positive.

    Examples
    --------
    >>> from sknuc.metrics import gaussian_nll
    >>> print(f"{gaussian_nll([0.0, 1.0], [0.0, 0.0], [1.0, 1.0]):.4f}")
    1.1689
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    mean = check_prediction("mean", mean, shape)
    std = check_prediction("std", std, shape, positive=True)
    scores = 0.5 * np.log(2 * np.pi) + np.log(std) + 0.5 * ((y - mean) / std) ** 2
    return average_scores(scores, weight, multioutput, return_std)


@validate_params(
    {
        "std": ["array-like"],
        "sample_weight": AVERAGED["sample_weight"],
        "multioutput": AVERAGED["multioutput"],
    },
    prefer_skip_nested_validation=True,
)
def sharpness(std, *, sample_weight=None, multioutput="uniform_average"):
    r"""Compute the root of the mean predicted variance.

    For calibrated predictions it is the root mean square error of their means,

    .. math:: \sqrt{\mathrm{E}[\sigma^2(x)]} = \sqrt{\mathrm{E}[(y - \mu(x))^2]}.

    Parameters
    ----------
    std : array-like of shape (n_events,) or (n_events, n_targets)
        Predicted standard deviations, positive.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    multioutput : {"uniform_average", "raw_values"} or array-like of shape (n_targets,), \
            default="uniform_average"
        The average over targets, the value of each, or weights for the average.

    Returns
    -------
    sharpness : float or ndarray of shape (n_targets,)
        In the unit of the targets.

    Raises
    ------
    ValueError
        If a value is not finite or not positive.

    References
    ----------
    .. [1] V. Kuleshov, N. Fenner and S. Ermon, "Accurate uncertainties for deep learning using
       calibrated regression", ICML (2018).

    Examples
    --------
    >>> from sknuc.metrics import sharpness
    >>> sharpness([3.0, 4.0, 5.0, 5.0, 5.0])
    4.47213595499958
    """
    _, shape, weight = check_truth(np.zeros(np.shape(std)), sample_weight)
    variance = check_prediction("std", std, shape, positive=True) ** 2
    root = np.sqrt(average_scores(variance, weight, "raw_values", False))
    if isinstance(multioutput, str) and multioutput == "raw_values":
        return root
    return average_scores(root[None], np.ones(1), multioutput, False)
