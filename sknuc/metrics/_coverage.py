r"""How often intervals cover the truth, and whether that is what they claim.

Of n events, k lie in their intervals. If the intervals cover with the probability c that they
claim, k is binomial. The p-value is twice the smaller tail,

.. math:: p = 2 \min\left\{P(K \le k \mid c), \; P(K \ge k \mid c)\right\},

at most one, so that :math:`c` lies in the Clopper-Pearson interval of confidence :math:`1 - p'`
exactly when :math:`p > p'`: test and interval never contradict each other. The pull is

.. math:: z = \frac{k/n - c}{\sqrt{c(1-c)/n}}.

Weighted events enter with the effective number for which the binomial variance is that of the
fraction, :math:`[(1-f)^2 V_\mathrm{in} + f^2 V_\mathrm{out}] / (\sum w)^2` with the sums of the
squared weights inside and outside: it holds also where the weights differ between the two.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.special import betainc, betaincc, ndtr
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sknuc.metrics._intervals import CONFIDENCE, effective_number, weighted_fraction
from sknuc.metrics._score_validation import check_interval_ends, check_truth, kish_number

__all__ = ["Coverage", "coverage"]


@dataclass(frozen=True)
class Coverage:
    """The fraction of truths that lie in their intervals.

    Attributes
    ----------
    fraction : float
        The empirical coverage. With negative weights it may fluctuate out of [0, 1].
    error : float
        Binomial standard deviation of `fraction`; zero, and no measure of the error, where all or
        no truths are covered.
    interval : tuple of float
        Interval of `fraction` at `confidence_level`.
    n_effective : float
        Events of weight one that would know the fraction as well.
    confidence_level : float
    nominal : float or None
        The coverage that the intervals claim.
    z : float or None
        How many standard deviations the fraction lies above `nominal`.
    p_value : float or None
        The probability of a fraction as far off if the intervals covered with `nominal`.
    """

    fraction: float
    error: float
    interval: tuple[float, float]
    n_effective: float
    confidence_level: float
    nominal: float | None = None
    z: float | None = None
    p_value: float | None = None

    def __str__(self):
        text = f"{self.fraction:.3f} ± {self.error:.3f}"
        if self.error == 0:
            low, high = self.interval
            text = f"{self.fraction:.3f} +{high - self.fraction:.3f} −{self.fraction - low:.3f}"
        if self.nominal is None:
            return text
        return f"{text} (nominal {self.nominal:g}, p = {self.p_value:.2g})"


def binomial_p_value(n_passed, n_total, probability):
    """Two-sided p-value of a count that may be effective, dual to Clopper-Pearson intervals."""
    at_least = 1.0 if n_passed <= 0 else betainc(n_passed, n_total - n_passed + 1, probability)
    at_most = 1.0
    if n_passed < n_total:
        at_most = betaincc(n_passed + 1, n_total - n_passed, probability)
    return float(min(1.0, 2 * min(at_least, at_most)))


@validate_params(
    {
        "y_true": ["array-like"],
        "lower": ["array-like"],
        "upper": ["array-like", None],
        "nominal": [Interval(Real, 0, 1, closed="neither"), None],
        "sample_weight": ["array-like", None],
        "multioutput": [StrOptions({"raw_values", "joint"})],
        **CONFIDENCE,
    },
    prefer_skip_nested_validation=True,
)
def coverage(
    y_true,
    lower,
    upper=None,
    *,
    nominal=None,
    sample_weight=None,
    multioutput="raw_values",
    confidence_level=0.68,
    method="clopper-pearson",
) -> Coverage:
    """Compute how often intervals cover the truth, with its error.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    lower : array-like of shape (n_events,) or (n_events, n_targets)
        The lower ends of the intervals, or both ends, of shape (n_events, 2) or
        (n_events, 2, n_targets) as ``predict_interval`` returns them.
    upper : array-like of shape (n_events,) or (n_events, n_targets), default=None
        The upper ends; None where `lower` holds both. Ends belong to their intervals and may be
        infinite.
    nominal : float, default=None
        The coverage that the intervals claim, in (0, 1), to be tested; None for no test.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign in sums and with their square in variances;
        intervals and tests are then Gaussian.
    multioutput : {"raw_values", "joint"}, default="raw_values"
        Of several targets the coverage of each, or that of all at once.
    confidence_level : float, default=0.68
        The probability that the interval of the fraction covers the true one.
    method : {"clopper-pearson", "wilson"}, default="clopper-pearson"
        The interval of the fraction, see :func:`binomial_interval`.

    Returns
    -------
    result : Coverage or tuple of Coverage
        With the attributes `fraction`, `error`, `interval`, `n_effective`, and with `nominal` also
        `z` and `p_value`. A tuple with one for each target where `y_true` has an axis of targets,
        unless "joint".

    Raises
    ------
    ValueError
        If shapes do not fit, a value is NaN, a lower end lies above the upper one, or the weights
        do not sum to a positive number.

    References
    ----------
    .. [1] C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated
       in the case of the binomial", Biometrika 26 (1934) 404.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import coverage
    >>> y = np.random.default_rng(0).normal(size=1000)
    >>> print(coverage(y, -np.ones(1000), np.ones(1000), nominal=0.683))
    0.684 ± 0.015 (nominal 0.683, p = 0.98)

    Of two targets, the intervals as ``predict_interval(X, coverage)`` returns them:

    >>> y = np.random.default_rng(0).normal(size=(1000, 2)) * [1.0, 2.0]
    >>> intervals = np.tile([[-1.0, -1.0], [1.0, 1.0]], (1000, 1, 1))
    >>> first, second = coverage(y, intervals)
    >>> print(first, "and", second)
    0.668 ± 0.015 and 0.399 ± 0.015
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    lower, upper = check_interval_ends(lower, upper, shape)
    inside = (lower <= y) & (y <= upper)
    if multioutput == "joint":
        inside = inside.all(axis=1, keepdims=True)
    results = tuple(
        _coverage(column, weight, nominal, confidence_level, method) for column in inside.T
    )
    return results[0] if len(shape) == 1 or multioutput == "joint" else results


def _coverage(inside, weight, nominal, confidence_level, method):
    """Coverage of one target."""
    fraction, error, interval = weighted_fraction(
        inside, weight, confidence_level=confidence_level, method=method
    )
    sums = [(w.sum(), (w**2).sum()) for w in (weight[inside], weight[~inside])]
    # A fraction that negative weights carry out of (0, 1) is that of no number of events.
    known = 0 < fraction < 1
    n_effective = float(effective_number(fraction, *sums)) if known else kish_number(weight)
    test = {}
    if nominal is not None:
        null = np.sqrt(nominal * (1 - nominal) / n_effective)
        if np.any(weight < 0):
            z = (fraction - nominal) / (error if error > 0 else null)
            p_value = float(2 * ndtr(-abs(z)))
        else:
            z = (fraction - nominal) / null
            p_value = binomial_p_value(fraction * n_effective, n_effective, nominal)
        test = {"nominal": float(nominal), "z": float(z), "p_value": p_value}
    return Coverage(
        fraction=fraction,
        error=error,
        interval=interval,
        n_effective=n_effective,
        confidence_level=float(confidence_level),
        **test,
    )
