r"""Where the truth falls in its predicted distribution: the probability integral transform.

If y is drawn from the distribution that was predicted for it, :math:`u = F(y)` is uniform in
(0, 1). A histogram of u that is U-shaped tells of distributions that are too narrow, a hump of too
wide ones, and a slope of a bias.

Samples and quantiles give F in steps only. Let the levels :math:`0 = \tau_0 < \tau_1 < \dots <
\tau_{q+1} = 1` belong to quantiles :math:`q_j`; of them r lie below y and e are equal to it. All
that is claimed is that y falls between :math:`\tau_r` and :math:`\tau_{r+e+1}`, and u is drawn
uniformly in between: randomised like this it is exactly uniform if the quantiles are calibrated,
also for discrete distributions, and no assumption on what lies between the quantiles enters. The s
samples of an ensemble are quantiles of the levels :math:`j / (s + 1)`: the rank of the truth among
them is uniform over its s + 1 values if all of them come from the same distribution.

For the test of flatness :math:`D = \sup_u |\hat F(u) - u|` is compared with the distribution of
Kolmogorov. The mean of u and its second moment about 1/2, in units of the uniform's 1/12, tell in
which way a histogram is not flat.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import kolmogorov
from scipy.stats import kstwo
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import validate_params

from sknuc.metrics._score_validation import (
    check_quantile_values,
    check_samples,
    check_truth,
    kish_number,
)

__all__ = ["PITTest", "pit", "pit_test"]


@validate_params(
    {
        "y_true": ["array-like"],
        "samples": ["array-like", None],
        "quantiles": ["array-like", None],
        "levels": ["array-like", None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def pit(y_true, samples=None, *, quantiles=None, levels=None, random_state=0):
    r"""Compute the probability integral transform, randomised between samples or quantiles.

    Give `samples`, or `quantiles` with their `levels`. Of a distribution with a known cumulative
    function the transform is its value at the truth, such as ``norm.cdf(y, mean, std)``.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth.
    samples : array-like of shape (n_events, n_samples) or (n_events, n_targets, n_samples), \
            default=None
        Samples of the predicted distributions, such as ``sample_y`` draws.
    quantiles : array-like of shape (n_events, n_levels) or (n_events, n_levels, n_targets), \
            default=None
        Predicted quantiles, such as ``predict_quantiles`` returns. Crossing ones count as if they
        were sorted.
    levels : array-like of shape (n_levels,), default=None
        Their levels in (0, 1), rising.
    random_state : int, RandomState instance or None, default=0
        Determines where between two levels the value is put.

    Returns
    -------
    u : ndarray of shape (n_events,) or (n_events, n_targets)
        Uniform in (0, 1) if the distributions are calibrated.

    Raises
    ------
    ValueError
        If not exactly one of `samples` and `quantiles` is given, or shapes do not fit.

    References
    ----------
    .. [1] C. Czado, T. Gneiting and L. Held, "Predictive model assessment for count data",
       Biometrics 65 (2009) 1254.
    .. [2] V. Chernozhukov, I. Fernández-Val and A. Galichon, "Quantile and probability curves
       without crossing", Econometrica 78 (2010) 1093, on sorting quantiles.

    Examples
    --------
    >>> from sknuc.metrics import pit
    >>> u = pit([0.5, 9.0], quantiles=[[0.0, 1.0], [0.0, 1.0]], levels=[0.1, 0.9])
    >>> 0.1 < u[0] < 0.9 < u[1] < 1
    np.True_
    """
    y, shape, _ = check_truth(y_true, None)
    if (samples is None) == (quantiles is None) or (quantiles is None) != (levels is None):
        raise ValueError(
            "The 'samples' parameter of pit must be given, or 'quantiles' and 'levels' together, "
            "and not both."
        )
    if samples is not None:
        steps = check_samples(samples, shape, 1)
        edges = np.linspace(0, 1, steps.shape[-1] + 2)
    else:
        quantiles, levels = check_quantile_values(quantiles, levels, shape)
        steps = np.moveaxis(quantiles, 1, -1)
        edges = np.concatenate([[0.0], levels, [1.0]])
    n_below = np.count_nonzero(steps < y[:, :, None], axis=-1)
    n_equal = np.count_nonzero(steps == y[:, :, None], axis=-1)
    low, high = edges[n_below], edges[n_below + n_equal + 1]
    draw = check_random_state(random_state).uniform(size=y.shape)
    return (low + draw * (high - low)).reshape(shape)


@dataclass(frozen=True)
class PITTest:
    """Whether probability integral transforms are uniform, and how they are not.

    Attributes
    ----------
    statistic : float
        Largest distance of the cumulative distribution from the diagonal, in [0, 1].
    p_value : float
        The probability of one as large for calibrated distributions (Kolmogorov and Smirnov).
    bias : float
        Mean of u less 1/2: positive where the predictions lie too low.
    bias_z : float
        In its standard deviations.
    dispersion : float
        Second moment of u about 1/2, times 12: above one where the distributions are too narrow,
        below one where they are too wide.
    dispersion_z : float
        Its distance from one, in its standard deviations.
    n_effective : float
        Events of weight one that would know as much.
    """

    statistic: float
    p_value: float
    bias: float
    bias_z: float
    dispersion: float
    dispersion_z: float
    n_effective: float

    def __str__(self):
        return (
            f"p = {self.p_value:.2g}, bias {self.bias:+.3f} ({self.bias_z:+.1f}σ), dispersion "
            f"{self.dispersion:.3f} ({self.dispersion_z:+.1f}σ)"
        )


@validate_params(
    {"u": ["array-like"], "sample_weight": ["array-like", None]},
    prefer_skip_nested_validation=True,
)
def pit_test(u, *, sample_weight=None) -> PITTest:
    r"""Test whether probability integral transforms are uniform.

    Weighted events enter with Kish's number :math:`(\sum w)^2 / \sum w^2`, which holds for weights
    of either sign that do not depend on u; the distribution of the statistic is then Stephens'
    approximation, exact to about a per cent, and otherwise the exact one of Kolmogorov.

    Parameters
    ----------
    u : array-like of shape (n_events,) or (n_events, n_targets)
        Probability integral transforms in [0, 1], see :func:`pit`.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign in sums and with their square in variances.

    Returns
    -------
    result : PITTest or tuple of PITTest
        With the attributes `statistic`, `p_value`, `bias`, `bias_z`, `dispersion`, `dispersion_z`
        and `n_effective`; a tuple with one for each target where `u` has an axis of targets.

    Raises
    ------
    ValueError
        If a value lies outside [0, 1], or the weights do not sum to a positive number.

    References
    ----------
    .. [1] M. A. Stephens, "EDF statistics for goodness of fit and some comparisons", J. Am. Stat.
       Assoc. 69 (1974) 730.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.stats import norm
    >>> from sknuc.metrics import pit_test
    >>> y = np.random.default_rng(0).normal(size=1000)
    >>> pit_test(norm.cdf(y)).p_value > 0.1
    True
    >>> result = pit_test(norm.cdf(y, scale=0.8))  # too narrow
    >>> result.p_value < 0.01, result.dispersion > 1
    (True, True)
    """
    u, shape, weight = check_truth(u, sample_weight)
    n_bad = np.count_nonzero((u < 0) | (u > 1))
    if n_bad:
        raise ValueError(
            f"The 'u' parameter of pit_test must lie in [0, 1]. Got {n_bad} of {u.size} values "
            "that do not: these are no probability integral transforms."
        )
    results = tuple(_pit_test(column, weight) for column in u.T)
    return results[0] if len(shape) == 1 else results


def _pit_test(u, weight):
    """Test one target."""
    u, weight = u[weight != 0], weight[weight != 0]
    n_effective, total = kish_number(weight), weight.sum()
    values, inverse = np.unique(u, return_inverse=True)
    cdf = np.cumsum(np.bincount(inverse, weights=weight)) / total
    before = np.concatenate([[0.0], cdf[:-1]])
    statistic = float(max(np.max(np.abs(cdf - values)), np.max(np.abs(before - values))))
    if np.all(weight == weight[0]):
        p_value = kstwo.sf(statistic, len(u))
    else:
        root = np.sqrt(n_effective)
        p_value = kolmogorov((root + 0.12 + 0.11 / root) * statistic)
    bias = float(weight @ (u - 0.5) / total)
    dispersion = float(12 * (weight @ (u - 0.5) ** 2) / total)
    # Of a uniform u, the variance is 1/12 and that of 12 (u - 1/2)^2 is 4/5.
    return PITTest(
        statistic=statistic,
        p_value=float(p_value),
        bias=bias,
        bias_z=float(bias * np.sqrt(12 * n_effective)),
        dispersion=dispersion,
        dispersion_z=float((dispersion - 1) * np.sqrt(n_effective / 0.8)),
        n_effective=n_effective,
    )
