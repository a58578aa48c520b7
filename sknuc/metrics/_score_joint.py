r"""Scores of predicted joint distributions of several targets.

Averaged over targets, scores of one target ask for every margin and for nothing between them: a
forecast with the right margins and no correlation is as good as the truth. Two proper scores see
more. With :math:`X, X' \sim F` independent, the energy score

.. math:: \mathrm{ES}(F, y) = \mathrm{E}\|X - y\| - \tfrac12 \mathrm{E}\|X - X'\|

is the CRPS with the Euclidean norm in the place of the modulus. Its expectation over truths
:math:`Y \sim G` exceeds the least possible one by half of

.. math:: 2\,\mathrm{E}\|X - Y\| - \mathrm{E}\|X - X'\| - \mathrm{E}\|Y - Y'\| \ge 0,

the energy distance, which is zero for F = G alone. The variogram score

.. math::

    \mathrm{VS}_p(F, y) = \sum_{i, j} w_{ij}
        \left(|y_i - y_j|^p - \mathrm{E}|X_i - X_j|^p\right)^2

looks at pairs of targets and tells wrong correlations apart more sharply, but does not see a shift
of all targets together. Both are computed from draws.
"""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._score_validation import (
    AVERAGED,
    as_numbers,
    average_scores,
    check_samples,
    check_truth,
)
from sknuc.metrics._scores import ensemble_crps

__all__ = ["energy_score", "variogram_score"]

# Numbers of a block of events: their differences stay in the cache of a core.
_BLOCK = 2**16

JOINT = {
    **{name: AVERAGED[name] for name in ("y_true", "sample_weight", "return_std")},
    "samples": ["array-like"],
    "fair": ["boolean"],
}


@validate_params(JOINT, prefer_skip_nested_validation=True)
def energy_score(y_true, samples, *, fair=True, sample_weight=None, return_std=False):
    r"""Compute the energy score of joint distributions that are given by samples.

    For s samples :math:`x_k`

    .. math::

        \frac1s \sum_k \|x_k - y\| - \frac{1}{2 c} \sum_{k, l} \|x_k - x_l\|.

    With :math:`c = s^2` it is the score of the distribution that has the samples as its atoms. With
    :math:`c = s(s-1)` it is fair: for independent draws its expectation is the score of the
    distribution that they come from, whatever their number. Of one target it is
    :func:`crps_ensemble`; of several it takes :math:`O(s^2)` distances per event.

    Parameters
    ----------
    y_true : array-like of shape (n_events,) or (n_events, n_targets)
        The truth. The norm adds the squares of all targets: divide targets of different units, here
        and in `samples`, by what deviation of each is equally bad, such as their standard
        deviations.
    samples : array-like of shape (n_events, n_samples) or (n_events, n_targets, n_samples)
        Samples of the predicted distributions, each of all targets together, such as ``sample_y``
        draws.
    fair : bool, default=True
        Whether the samples stand for the distribution that they were drawn from, or are themselves
        what is predicted.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    score : float
        Lower is better, in the unit of `y_true`. A calibrated normal distribution of t independent
        targets with the variance one has :math:`\Gamma(\frac{t+1}2) / \Gamma(\frac t2)`.
    std : float
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or there are fewer than two samples for the
        fair score.

    See Also
    --------
    variogram_score : Sees wrong correlations more sharply, and no common shift.

    References
    ----------
    .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
       estimation", J. Am. Stat. Assoc. 102 (2007) 359, section 4.3.
    .. [2] C. A. T. Ferro, "Fair scores for ensemble forecasts", Q. J. R. Meteorol. Soc. 140 (2014)
       1917.

    Examples
    --------
    >>> from sknuc.metrics import energy_score
    >>> energy_score([[0.0, 0.0]], [[[3.0, 3.0], [4.0, 4.0]]])
    5.0
    >>> energy_score([[0.0, 0.0]], [[[3.0, -3.0], [4.0, -4.0]]])
    0.0
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    samples = check_samples(samples, shape, 2 if fair else 1)
    n, n_targets, s = samples.shape
    scores = np.empty((n, 1))
    step = max(1, _BLOCK // (n_targets * s))
    for start in range(0, n, step):
        block = slice(start, start + step)
        # Distances from the truth: differences of large numbers would round.
        distance = samples[block] - y[block, :, None]
        if n_targets == 1:
            scores[block] = ensemble_crps(distance, fair)
        else:
            pairs = sum(_norms(distance[..., k:] - distance[..., :-k]) for k in range(1, s))
            spread = pairs / (s * (s - 1) if fair else s**2)
            scores[block, 0] = _norms(distance) / s - spread
    return average_scores(scores, weight, "uniform_average", return_std)


def _norms(vectors):
    """Sums of the lengths of vectors (n_events, n_targets, n_vectors), of shape (n_events,)."""
    return np.sqrt(np.einsum("itk,itk->ik", vectors, vectors)).sum(axis=1)


@validate_params(
    {
        **JOINT,
        "order": [Interval(Real, 0, None, closed="neither")],
        "pair_weights": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def variogram_score(
    y_true,
    samples,
    *,
    order=0.5,
    pair_weights=None,
    fair=True,
    sample_weight=None,
    return_std=False,
):
    r"""Compute the variogram score of joint distributions that are given by samples.

    With the samples :math:`x_k` of s, and :math:`v_{ijk} = |x_{ki} - x_{kj}|^p`,

    .. math::

        \sum_{i, j} w_{ij} \left[\left(|y_i - y_j|^p - \bar v_{ij}\right)^2
            - \frac{\sum_k (v_{ijk} - \bar v_{ij})^2}{s (s - 1)}\right],

    where the last term is there when the score is fair: it is what the square owes to the
    fluctuation of :math:`\bar v_{ij}`, so that for independent draws the expectation is the score
    of the distribution that they come from, whatever their number.

    Parameters
    ----------
    y_true : array-like of shape (n_events, n_targets)
        The truth, of two targets or more, in one unit: divide targets of different units, here and
        in `samples`, by scales such as their standard deviations.
    samples : array-like of shape (n_events, n_targets, n_samples)
        Samples of the predicted distributions, each of all targets together, such as ``sample_y``
        draws.
    order : float, default=0.5
        The power p. Higher ones give more weight to outliers; [1]_ compares 0.5, 1 and 2.
    pair_weights : array-like of shape (n_targets, n_targets), default=None
        The weights :math:`w_{ij}` of pairs of targets, not negative, such as the inverse of what
        is between two sensors; None for one.
    fair : bool, default=True
        Whether the samples stand for the distribution that they were drawn from, or are themselves
        what is predicted.
    sample_weight : array-like of shape (n_events,), default=None
        Weights. Negative ones count with their sign; their sum must be positive.
    return_std : bool, default=False
        Whether to return the standard deviation of the score from the number of events too.

    Returns
    -------
    score : float
        Lower is better, in the unit of `y_true` to the power of 2 `order`; summed over pairs in
        both orders.
    std : float
        Its standard deviation, only when `return_std`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, there is one target only, a weight of a pair is
        negative, or there are fewer than two samples for the fair score.

    See Also
    --------
    energy_score : Strictly proper: it sees all differences, shifts included.

    References
    ----------
    .. [1] M. Scheuerer and T. M. Hamill, "Variogram-based proper scoring rules for probabilistic
       forecasts of multivariate quantities", Mon. Weather Rev. 143 (2015) 1321.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import variogram_score
    >>> rng = np.random.default_rng(0)
    >>> covariance = [[1.0, 0.9], [0.9, 1.0]]
    >>> y = rng.multivariate_normal([0, 0], covariance, 1000)
    >>> right = rng.multivariate_normal([0, 0], covariance, (1000, 50)).swapaxes(1, 2)
    >>> wrong = rng.normal(size=(1000, 2, 50))
    >>> print(f"{variogram_score(y, right):.3f} {variogram_score(y, wrong):.3f}")
    0.107 0.483
    """
    y, shape, weight = check_truth(y_true, sample_weight)
    samples = check_samples(samples, shape, 2 if fair else 1)
    n, n_targets, s = samples.shape
    if n_targets < 2:
        raise ValueError(
            "The 'y_true' parameter of variogram_score must have two targets or more, whose pairs "
            f"are scored. Got the shape {shape}; crps_ensemble scores one target."
        )
    pairs = _check_pair_weights(pair_weights, n_targets)
    scores = np.zeros((n, 1))
    for i, j in zip(*np.nonzero(pairs), strict=True):
        spread = np.abs(samples[:, i] - samples[:, j]) ** order
        gap = np.abs(y[:, i] - y[:, j]) ** order - spread.mean(axis=1)
        excess = spread.var(axis=1, ddof=1) / s if fair else 0.0
        scores[:, 0] += pairs[i, j] * (gap**2 - excess)
    return average_scores(scores, weight, "uniform_average", return_std)


def _check_pair_weights(pair_weights, n_targets):
    """Weights of pairs i < j, those of both orders added."""
    if pair_weights is None:
        pair_weights = np.ones((n_targets, n_targets))
    weights = as_numbers("pair_weights", pair_weights)
    if weights.shape != (n_targets, n_targets) or not np.all(np.isfinite(weights) & (weights >= 0)):
        raise ValueError(
            "The 'pair_weights' parameter of variogram_score must hold a weight that is finite and "
            f"not negative for each pair of {n_targets} targets. Got {pair_weights!r:.200} instead."
        )
    return np.triu(weights + weights.T, 1)
