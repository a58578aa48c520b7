r"""Whether probabilities are frequencies: the calibration of classifiers.

Of the events that are given the probability p, a fraction p should be signal. Events are collected
in bins of p; in bin b the gap between hits and probabilities is

.. math:: \bar d_b = \frac{\sum_{i \in b} w_i (y_i - p_i)}{W_b}, \qquad W_b = \sum_{i \in b} w_i.

The expected calibration error is the mean gap, or its root mean square,

.. math::

    \mathrm{ECE}_1 = \sum_b \frac{W_b}{W} |\bar d_b|, \qquad
    \mathrm{ECE}_2^2 = \sum_b \frac{W_b}{W} \bar d_b^2.

Both are biased: a perfectly calibrated classifier has gaps of the size of their fluctuation
:math:`\sigma_b`, and the more bins, the more of it. :math:`\bar d_b^2 - \sigma_b^2` has no bias,
with :math:`\sigma_b^2` the variance of the mean as the bin's own events tell it. For the modulus,
the sign is taken from one half of the bin's events and the gap from the other,
:math:`\mathrm{sign}(\bar d_A)\, \bar d_B`, whose mean over all halves has a closed form for the
nearly normal means of bins: there :math:`\bar d_{A,B} = \bar d_b \pm e` with e of the standard
deviation :math:`\sigma_b`, and

.. math::

    \mathrm{E}_e[\mathrm{sign}(\bar d_b + e)(\bar d_b - e)]
    = \bar d_b \left(2\Phi(z) - 1\right) - 2 \sigma_b \varphi(z), \qquad z = \bar d_b / \sigma_b,

which is zero on average without a gap, :math:`|\bar d_b|` where the gap is far above its
fluctuation, and too small in between, where its sign is not known.

What bins hide, cancellations within a bin, no number of this kind shows.
"""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from scipy.special import ndtr
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sknuc.metrics._intervals import CONFIDENCE, weighted_fraction
from sknuc.metrics._score_probabilities import PROBABILITIES, check_probabilities, reduce_classes

__all__ = [
    "CalibrationError",
    "ReliabilityCurve",
    "expected_calibration_error",
    "reliability_curve",
]

BINS = {
    "n_bins": [Interval(Integral, 1, None, closed="left")],
    "strategy": [StrOptions({"uniform", "quantile"})],
}


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error of a classifier.

    Attributes
    ----------
    value : float
        The binned error, in [0, 1]. Biased upwards.
    std : float
        Its standard deviation, somewhat too large where `value` is not far above `floor`.
    debiased : float
        The error less its bias: zero on average for a calibrated classifier, hence at times
        negative. For the norm "l2" it is the root of the unbiased square, with its sign.
    floor : float
        What a perfectly calibrated classifier of these probabilities would show for `value`.
    """

    value: float
    std: float
    debiased: float
    floor: float

    def __str__(self):
        return (
            f"{self.value:.4f} ± {self.std:.4f} (debiased {self.debiased:.4f}, "
            f"{self.floor:.4f} if calibrated)"
        )


@dataclass(frozen=True)
class ReliabilityCurve:
    """Hits against probabilities, in bins that hold events.

    Attributes
    ----------
    predicted : ndarray of shape (n_used,)
        Mean probability in each bin.
    observed : ndarray of shape (n_used,)
        Fraction of hits.
    interval : ndarray of shape (n_used, 2)
        Binomial interval of `observed`.
    weight : ndarray of shape (n_used,)
        Sum of the weights in each bin.
    edges : ndarray of shape (n_bins + 1,)
        Edges of all bins.
    """

    predicted: np.ndarray
    observed: np.ndarray
    interval: np.ndarray
    weight: np.ndarray
    edges: np.ndarray


def _assign_bins(prob, weight, n_bins, strategy):
    """Index of the bin of each event, and the edges. Bins hold their upper edge."""
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        # Mass is that of all events, whatever their sign: bins must hold enough of them.
        inner = np.quantile(prob, edges[1:-1], weights=np.abs(weight), method="inverted_cdf")
        edges = np.concatenate([[0.0], np.unique(inner), [1.0]])
    return np.searchsorted(edges[1:-1], prob), edges


def _bin_errors(prob, hit, weight, n_bins, strategy, norm):
    """Powers of the error, debiased and as expected if calibrated, and what each event adds."""
    bins, _ = _assign_bins(prob, weight, n_bins, strategy)
    _, bins = np.unique(bins, return_inverse=True)
    total, d = weight.sum(), hit - prob
    w_bin, v_bin = np.bincount(bins, weights=weight), np.bincount(bins, weights=weight**2)
    if np.any(w_bin <= 0):
        raise ValueError(
            f"The weights of {np.count_nonzero(w_bin <= 0)} of {len(w_bin)} bins do not sum to a "
            "positive number, so that no fraction of hits can be told there. Set fewer 'n_bins', "
            "or strategy='quantile'."
        )
    gap = np.bincount(bins, weights=weight * d) / w_bin
    residual = d - gap[bins]
    n_effective = w_bin**2 / v_bin
    several = n_effective > 1 + 1e-9
    # One event cannot tell its gap from its fluctuation and adds nothing to the debiased error.
    bessel = np.where(several, n_effective / np.where(several, n_effective - 1, 1), 0.0)
    variance = bessel * np.bincount(bins, weights=(weight * residual) ** 2) / w_bin**2
    claimed = np.bincount(bins, weights=weight**2 * prob * (1 - prob)) / w_bin**2
    share, scale = w_bin / total, np.sqrt(bessel)[bins]
    if norm == "l1":
        power = np.abs(gap)
        sigma = np.sqrt(variance)
        z = np.divide(power, sigma, out=np.zeros_like(gap), where=sigma > 0)
        crossed = power * (2 * ndtr(z) - 1) - 2 * sigma * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        unbiased = np.where(sigma > 0, crossed, power)
        floor = np.sqrt(2 / np.pi * claimed)
        slope, second = np.sign(gap), 0.0
    else:
        power, unbiased, floor = gap**2, gap**2 - variance, claimed
        slope, second = 2 * gap, np.sqrt(2 * np.sum((share * variance) ** 2))
    value = share @ power
    influence = slope[bins] * residual * scale + power[bins] - value
    debiased = share @ np.where(several, unbiased, 0.0)
    return value, debiased, share @ floor, influence, second


@validate_params(
    {**PROBABILITIES, **BINS, "norm": [StrOptions({"l1", "l2"})]},
    prefer_skip_nested_validation=True,
)
def expected_calibration_error(
    y_true,
    y_prob,
    *,
    sample_weight=None,
    n_bins=15,
    strategy="uniform",
    norm="l1",
    multiclass="top-label",
    labels=None,
    pos_label=None,
) -> CalibrationError:
    """Compute the expected calibration error of a classifier, with and without its bias.

    Parameters
    ----------
    y_true : array-like of shape (n_events,)
        The true classes.
    y_prob : array-like of shape (n_events,) or (n_events, n_classes)
        The probability of the positive class, or that of every class as ``predict_proba`` returns.
        Of two classes that of the positive one is tested, whichever way they come.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign in sums and with their square in variances;
        those of every bin must sum to a positive number.
    n_bins : int, default=15
        Number of bins.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width in [0, 1], or of equal weight.
    norm : {"l1", "l2"}, default="l1"
        The mean of the gaps, or their root mean square.
    multiclass : {"top-label", "classwise"}, default="top-label"
        What an `y_prob` of more than two columns is tested for: whether the most probable class is
        right as often as its probability says, or every class against the rest, the mean over
        classes. For two classes, test the most probable one by ``(y_true == y_pred, max(p, 1-p))``.
    labels : array-like of shape (n_classes,), default=None
        The classes of the columns, ``classes_`` of the classifier, the second one of which a 1-D
        `y_prob` is; None for the sorted classes of `y_true`.
    pos_label : int, float, bool or str, default=None
        The positive class of two; None for that of the second column, and for 1 among {0, 1} or
        {-1, 1} of a 1-D `y_prob`.

    Returns
    -------
    result : CalibrationError
        With the attributes `value`, `std`, `debiased` and `floor`.

    Raises
    ------
    ValueError
        If probabilities are no probabilities, classes and columns do not fit, or the weights of a
        bin do not sum to a positive number.

    References
    ----------
    .. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
       networks", ICML (2017).
    .. [2] A. Kumar, P. Liang and T. Ma, "Verified uncertainty calibration", NeurIPS (2019), on the
       unbiased square.
    .. [3] M. Kull et al., "Beyond temperature scaling", NeurIPS (2019), on classwise errors.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import expected_calibration_error
    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(size=5000)
    >>> y = rng.uniform(size=5000) < p
    >>> print(expected_calibration_error(y, p))
    0.0133 ± 0.0058 (debiased -0.0048, 0.0172 if calibrated)
    """
    y, prob, weight = check_probabilities(
        "expected_calibration_error", y_true, y_prob, sample_weight, labels, pos_label
    )
    used = weight != 0
    y, prob, weight = y[used], prob[used], weight[used]
    results = [
        _bin_errors(p, hit, weight, n_bins, strategy, norm)
        for p, hit in reduce_classes(y, prob, multiclass)
    ]
    values, debiased, floor, influence, second = (
        np.mean(part, axis=0) for part in zip(*results, strict=True)
    )
    std = np.hypot(np.sqrt(weight**2 @ influence**2) / weight.sum(), second)
    if norm == "l2":
        values, floor = np.sqrt(values), np.sqrt(floor)
        debiased = np.sign(debiased) * np.sqrt(np.abs(debiased))
        std = std / (2 * values) if values > 0 else 0.0
    return CalibrationError(
        value=float(values), std=float(std), debiased=float(debiased), floor=float(floor)
    )


@validate_params({**PROBABILITIES, **BINS, **CONFIDENCE}, prefer_skip_nested_validation=True)
def reliability_curve(
    y_true,
    y_prob,
    *,
    sample_weight=None,
    n_bins=15,
    strategy="uniform",
    multiclass="top-label",
    labels=None,
    pos_label=None,
    confidence_level=0.68,
    method="wilson",
) -> ReliabilityCurve:
    """Compute the fraction of hits against the probability, with binomial intervals.

    Parameters
    ----------
    y_true, y_prob, sample_weight, n_bins, strategy, labels, pos_label
        As in :func:`expected_calibration_error`.
    multiclass : {"top-label", "classwise"}, default="top-label"
        Whether `y_prob` of more than two columns counts the most probable class alone, or every
        class of every event as an event of its own. The classes of one event are not independent:
        the intervals of "classwise" are then somewhat too wide.
    confidence_level : float, default=0.68
        The probability that the interval of a bin covers its true fraction.
    method : {"wilson", "clopper-pearson"}, default="wilson"
        The binomial interval, see :func:`binomial_interval`.

    Returns
    -------
    curve : ReliabilityCurve
        With the attributes `predicted`, `observed`, `interval`, `weight` and `edges`. Bins without
        events have no entry.

    Raises
    ------
    ValueError
        As in :func:`expected_calibration_error`.

    Examples
    --------
    >>> from sknuc.metrics import reliability_curve
    >>> curve = reliability_curve([0, 1, 0, 1], [0.1, 0.3, 0.8, 0.9], n_bins=2)
    >>> curve.predicted, curve.observed
    (array([0.2 , 0.85]), array([0.5, 0.5]))
    """
    y, prob, weight = check_probabilities(
        "reliability_curve", y_true, y_prob, sample_weight, labels, pos_label
    )
    columns = reduce_classes(y, prob, multiclass)
    prob = np.concatenate([p for p, _ in columns])
    hit = np.concatenate([h for _, h in columns])
    weight = np.tile(weight, len(columns))
    prob, hit, weight = prob[weight != 0], hit[weight != 0], weight[weight != 0]
    bins, edges = _assign_bins(prob, weight, n_bins, strategy)
    rows = []
    for b in np.unique(bins):
        inside = bins == b
        w = weight[inside]
        observed, _, interval = weighted_fraction(
            hit[inside], w, confidence_level=confidence_level, method=method
        )
        rows.append((w @ prob[inside] / w.sum(), observed, *interval, w.sum()))
    predicted, observed, low, high, total = np.array(rows).T
    return ReliabilityCurve(
        predicted=predicted,
        observed=observed,
        interval=np.column_stack([low, high]),
        weight=total,
        edges=edges,
    )
