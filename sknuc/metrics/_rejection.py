r"""Background rejection at a fixed signal acceptance.

A cut keeps the events with score :math:`s \ge t`. Its acceptance is the fraction :math:`a(t)` of
the signal that it keeps, its rejection the fraction :math:`r(t)` of the background that it removes.
Experiments fix the acceptance (0.9, say), which fixes the threshold, and compare the rejection.

Two samples are finite. The background's leaves a binomial error of :math:`r` at the threshold. The
signal's leaves the threshold itself uncertain: if :math:`[a_-, a_+]` is the binomial interval
around the wanted acceptance for the signal sample, then :math:`[t(a_+), t(a_-)]` is an interval of
the threshold that needs no knowledge of the density (Woodruff), and it moves the rejection to
:math:`r(t(a_\mp))`. The two are independent; each side is added in quadrature (the method of
variance estimates recovery):

.. math:: r_+ = r + \sqrt{(r_+^\mathrm{binomial} - r)^2 + (r(t(a_-)) - r)^2}.

Weighted signal events enter with the number :math:`n_\mathrm{eff} = a(1-a) / \sigma_a^2` for which
the binomial variance is that of the acceptance at the threshold,
:math:`\sigma_a^2 = [(1-a)^2 V_P + a^2 V_F] / (P+F)^2` with the sums of the squared weights that it
keeps and removes. Where weights are negative, as those of side-bands, :math:`\sigma_a` varies so
much along the scores that the interval collects every threshold :math:`t` from which the measured
acceptance is not farther than expected, :math:`|a(t) - a| \le z\,\sigma_a(t)`.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.special import ndtri
from sklearn.isotonic import isotonic_regression
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.multiclass import type_of_target

from sknuc.base import validate_weights
from sknuc.metrics._intervals import (
    CONFIDENCE,
    binomial_interval,
    effective_number,
    weighted_fraction,
)
from sknuc.metrics._validation import check_column

__all__ = ["RejectionAtAcceptance", "acceptance_threshold", "rejection_at_acceptance"]

ACCEPTANCE = {"acceptance": [Interval(Real, 0, 1, closed="neither")]}


@dataclass(frozen=True)
class RejectionAtAcceptance:
    """The background rejection of a cut at a fixed signal acceptance.

    Attributes
    ----------
    rejection : float
        Fraction of the background below the threshold.
    interval : tuple of float
        Interval of `rejection` at `confidence_level`; holds the errors of both samples.
    threshold : float
        Events with a score of at least this are kept.
    threshold_interval : tuple of float
        Interval of `threshold` from the size of the signal sample.
    acceptance : float
        Fraction of the signal that is kept. It exceeds the wanted one where scores are tied.
    confidence_level : float
    """

    rejection: float
    interval: tuple[float, float]
    threshold: float
    threshold_interval: tuple[float, float]
    acceptance: float
    confidence_level: float


def _acceptance_curve(y_score, weight):
    """Distinct scores, falling, and the weight and squared weight at or above each of them."""
    score, inverse = np.unique(-y_score, return_inverse=True)
    kept = np.cumsum(np.bincount(inverse, weights=weight)) / weight.sum()
    if np.any(weight < 0):
        kept = isotonic_regression(kept)
    return -score, kept, np.cumsum(np.bincount(inverse, weights=weight**2))


def _reach(kept, acceptance):
    """Index of the highest score at which the acceptance is at least `acceptance`."""
    # Sums of many weights round; an acceptance that is met to 1e-12 is met.
    return min(np.searchsorted(kept, acceptance - 1e-12), len(kept) - 1)


def _threshold_interval(curve, weight, acceptance, confidence_level, method):
    """Interval of the threshold from the fluctuation of the acceptance."""
    score, kept, v_kept = curve
    top, total = _reach(kept, acceptance), weight.sum()
    if np.any(weight < 0):
        v_removed = np.maximum(v_kept[-1] - v_kept, 0.0)
        std = np.sqrt((1 - acceptance) ** 2 * v_kept + acceptance**2 * v_removed) / total
        z = ndtri((1 + confidence_level) / 2)
        possible = np.flatnonzero(np.abs(kept - acceptance) <= z * std)
        possible = np.append(possible, top)
        return score[possible.max()], score[possible.min()]
    # Tied events are shared such that exactly the wanted acceptance is kept: weights of one then
    # give the number of events.
    edges = np.append(0.0, kept)[[top, top + 1]]
    v_passed = np.interp(acceptance, edges, np.append(0.0, v_kept)[[top, top + 1]])
    n_effective = effective_number(
        acceptance,
        (acceptance * total, v_passed),
        ((1 - acceptance) * total, v_kept[-1] - v_passed),
    )
    low, high = binomial_interval(
        acceptance * n_effective, n_effective, confidence_level=confidence_level, method=method
    )
    return score[_reach(kept, high)], score[_reach(kept, low)]


@validate_params(
    {"y_score": ["array-like"], "sample_weight": ["array-like", None], **ACCEPTANCE},
    prefer_skip_nested_validation=True,
)
def acceptance_threshold(y_score, *, acceptance=0.9, sample_weight=None):
    """Find the cut that keeps a given fraction of a sample.

    Parameters
    ----------
    y_score : array-like of shape (n_events,)
        Scores of the sample, higher for what is to be kept.
    acceptance : float, default=0.9
        Fraction of the weight to keep, in (0, 1).
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones, such as those of side-bands (:func:`sideband_weights`), are allowed
        while the sum is positive. The acceptance is then no longer a monotonic function of the
        threshold; its isotonic regression, the nearest monotonic function, takes its place.

    Returns
    -------
    threshold : float
        The highest score at which ``y_score >= threshold`` keeps at least `acceptance`. Tied scores
        are kept or removed together.

    Raises
    ------
    ValueError
        If a score or a weight is not finite, or the weights do not sum to a positive number.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import acceptance_threshold
    >>> acceptance_threshold(np.arange(100), acceptance=0.9)
    10.0
    """
    y_score = check_column("y_score", y_score)
    weight = validate_weights(sample_weight, y_score, allow_negative=True)
    weight = np.ones(len(y_score)) if weight is None else weight
    score, kept, _ = _acceptance_curve(y_score, weight)
    return float(score[_reach(kept, acceptance)])


@validate_params(
    {
        "y_true": ["array-like"],
        "y_score": ["array-like"],
        "sample_weight": ["array-like", None],
        **ACCEPTANCE,
        **CONFIDENCE,
    },
    prefer_skip_nested_validation=True,
)
def rejection_at_acceptance(
    y_true,
    y_score,
    *,
    acceptance=0.9,
    sample_weight=None,
    pos_label=None,
    confidence_level=0.68,
    method="wilson",
) -> RejectionAtAcceptance:
    """Compute the background rejection at a fixed signal acceptance.

    Parameters
    ----------
    y_true : array-like of shape (n_events,)
        Signal or background.
    y_score : array-like of shape (n_events,)
        Scores, higher for the signal.
    acceptance : float, default=0.9
        Wanted fraction of the signal to keep, in (0, 1).
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones, of side-bands or of Monte-Carlo generators, count with their sign in
        every sum and with their square in every variance; those of each class must sum to a
        positive number. The rejection may then fluctuate out of [0, 1] and is not clipped.
    pos_label : int, float, bool or str, default=None
        The label of the signal; None for 1 among {0, 1}, {-1, 1} or {False, True}.
    confidence_level : float, default=0.68
        The probability that the interval covers the true value.
    method : {"wilson", "clopper-pearson"}, default="wilson"
        The binomial interval, see :func:`binomial_interval`. Weighted events enter with their
        effective number; with negative weights the intervals are Gaussian.

    Returns
    -------
    result : RejectionAtAcceptance
        With the attributes `rejection`, `interval`, `threshold`, `threshold_interval`,
        `acceptance` and `confidence_level`.

    Raises
    ------
    ValueError
        If `y_true` does not have two classes, `pos_label` is not one of them, a score or weight is
        not finite, or the weights of a class do not sum to a positive number.

    Notes
    -----
    Scorers need a number: wrap the function for :func:`sklearn.metrics.make_scorer`, as in
    ``def rejection(y, score): return rejection_at_acceptance(y, score).rejection``.

    References
    ----------
    .. [1] R. S. Woodruff, "Confidence intervals for medians and other position measures", J. Am.
       Stat. Assoc. 47 (1952) 635.
    .. [2] G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures: a
       general approach", Stat. Med. 27 (2008) 1693.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import rejection_at_acceptance
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], 2000)
    >>> result = rejection_at_acceptance(y, rng.normal(2.0 * y, 1.0), confidence_level=0.95)
    >>> low, high = result.interval
    >>> print(f"{low:.2f} to {high:.2f}")  # the normal distribution gives 0.76
    0.75 to 0.81
    """
    y_true = column_or_1d(y_true)
    y_score = check_column("y_score", y_score)
    check_consistent_length(y_true, y_score)
    weight = validate_weights(sample_weight, y_score, allow_negative=True)
    weight = np.ones(len(y_score)) if weight is None else weight
    signal = _signal(y_true, pos_label)

    w_signal, w_background = weight[signal], weight[~signal]
    for label, w in (("signal", w_signal), ("background", w_background)):
        if not w.sum() > 0:
            raise ValueError(
                f"sample_weight of the {label} sums to {w.sum():g}; the sum must be positive."
            )
    curve = _acceptance_curve(y_score[signal], w_signal)
    t = curve[0][_reach(curve[1], acceptance)]
    t_low, t_high = _threshold_interval(curve, w_signal, acceptance, confidence_level, method)

    background = y_score[~signal]
    rejection, _, (low, high) = weighted_fraction(
        background < t, w_background, confidence_level=confidence_level, method=method
    )
    shift_low, shift_high = (
        w_background[background < edge].sum() / w_background.sum() - rejection
        for edge in (t_low, t_high)
    )
    return RejectionAtAcceptance(
        rejection=rejection,
        interval=(
            rejection - float(np.hypot(rejection - low, shift_low)),
            rejection + float(np.hypot(high - rejection, shift_high)),
        ),
        threshold=float(t),
        threshold_interval=(float(t_low), float(t_high)),
        acceptance=float(w_signal[y_score[signal] >= t].sum() / w_signal.sum()),
        confidence_level=float(confidence_level),
    )


def _signal(y_true, pos_label):
    """Return the mask of the signal."""
    kind, classes = type_of_target(y_true, input_name="y_true"), np.unique(y_true)
    if kind != "binary" or len(classes) != 2:
        raise ValueError(
            "The 'y_true' parameter of rejection_at_acceptance must hold two classes, signal and "
            f"background. Got {len(classes)} ({kind}): {classes[:5].tolist()} instead."
        )
    if pos_label is None:
        if classes.tolist() not in ([0, 1], [-1, 1]):
            raise ValueError(
                "The 'pos_label' parameter of rejection_at_acceptance must name the signal when "
                f"the classes are not {{0, 1}} or {{-1, 1}}. Got None with {classes.tolist()}."
            )
        pos_label = 1
    if pos_label not in classes.tolist():
        raise ValueError(
            f"The 'pos_label' parameter of rejection_at_acceptance must be one of "
            f"{classes.tolist()}. Got {pos_label!r} instead."
        )
    return y_true == pos_label
