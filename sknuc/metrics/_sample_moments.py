r"""Distances of samples by their means, covariances and correlations.

The Fréchet distance is that of the normal distributions with the mean and covariance of either
sample,

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{tr}\left(\Sigma_1 + \Sigma_2
    - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\right).

Computed from n events it is too large by a term that falls as 1/n, which the jackknife takes off;
of correlations the jackknife tells how far those of equal distributions are from each other.

The jackknife's variance is that of functionals that are about linear in the fluctuations. The
Fréchet distance of equal distributions is quadratic in them: there the jackknife tells twice the
variance, an error that is :math:`\sqrt2` times too large.
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import validate_params

from sknuc.metrics._sample_validation import (
    GROUPS,
    TWO_SAMPLES,
    check_two_samples,
    leave_out,
    scale_of,
)

__all__ = [
    "CorrelationDistance",
    "FrechetDistance",
    "correlation_distance",
    "correlations",
    "frechet_distance",
]


class FrechetDistance(NamedTuple):
    """The Fréchet distance of two samples, with its error."""

    #: Squared distance, without the bias of finite samples; negative by chance where there is none.
    distance: float
    #: Its standard deviation; up to √2 times that where the distance is not beyond the noise.
    error: float
    #: Squared distance of the moments of these samples, never negative.
    plug_in: float


@validate_params(
    {
        "features_true": ["array-like"],
        "features_generated": ["array-like"],
        "weight_true": ["array-like", None],
        "weight_generated": ["array-like", None],
        "standardize": ["boolean"],
        **GROUPS,
    },
    prefer_skip_nested_validation=True,
)
def frechet_distance(
    features_true,
    features_generated,
    *,
    standardize=True,
    n_groups=20,
    weight_true=None,
    weight_generated=None,
    random_state=0,
):
    r"""Compute the Fréchet distance of two samples of features.

    Parameters
    ----------
    features_true, features_generated : array-like of shape (n_events, n_features)
        What is compared: features that physics asks for, such as energies of layers and widths of
        showers. The Fréchet inception distance is this of the features of a network; the Fréchet
        physics distance of energy-flow polynomials of jets.
    standardize : bool, default=True
        Divide features by the standard deviation of the true sample. Features that are constant in
        it are left as they are.
    n_groups : int, default=20
        Groups of the jackknife.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights; only their ratios within a sample matter. For `plug_in` a weight of
        2 is the event twice; for `distance` and `error` it is one event.
    random_state : int, RandomState instance or None, default=0
        Determines the groups.

    Returns
    -------
    result : FrechetDistance
        With `distance`, :math:`d^2` as the field gives it, extrapolated to infinitely many events,
        its `error` (of equal distributions :math:`\sqrt2` times the standard deviation), and
        `plug_in`, the value of these samples, which is larger by a bias of the order of
        ``n_features**2 / n_events``.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, a weight is negative, or there are fewer than
        two events for a group.

    Notes
    -----
    The extrapolation needs many more events than features. It sees means and covariances, nothing
    else: a non-normal distribution with the same ones has the distance 0.

    References
    ----------
    .. [1] D. C. Dowson and B. V. Landau, "The Fréchet distance between multivariate normal
       distributions", J. Multivar. Anal. 12 (1982) 450.
    .. [2] M. J. Chong and D. Forsyth, "Effectively unbiased FID and Inception Score and where to
       find them", CVPR (2020), arXiv:1911.07023.
    .. [3] R. Kansal et al., "Evaluating generative models in high energy physics", Phys. Rev. D 107
       (2023) 076017, arXiv:2211.10295.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import frechet_distance
    >>> rng = np.random.default_rng(0)
    >>> true, wrong = rng.normal(size=(5000, 3)), rng.normal([0.5, 0, 0], size=(5000, 3))
    >>> result = frechet_distance(true, wrong)  # 0.25
    >>> print(f"{result.distance:.2f} ± {result.error:.2f}")
    0.26 ± 0.02
    """
    X_true, X_generated, w_true, w_generated = check_two_samples(
        features_true, features_generated, weight_true, weight_generated
    )
    scale = scale_of(X_true, w_true, standardize)
    # Around a common origin, so that squares of large numbers do not round.
    origin = np.average(X_true, axis=0, weights=w_true)
    samples = [(X - origin) / scale for X in (X_true, X_generated)]
    weights = [w_true, w_generated]
    plug_in = _frechet(*map(_moments, samples, weights))
    parts = np.array(
        [
            _frechet(
                *(_moments(X[k], w[k]) for X, w, k in zip(samples, weights, kept, strict=True))
            )
            for kept in leave_out(samples, n_groups, check_random_state(random_state))
        ]
    )
    return FrechetDistance(
        distance=float(n_groups * plug_in - (n_groups - 1) * parts.mean()),
        error=float(np.sqrt((n_groups - 1) * parts.var())),
        plug_in=plug_in,
    )


def _moments(X, weight):
    """Mean and covariance of the weighted sample itself: nothing is corrected for its size."""
    share = weight / weight.sum()
    mean = share @ X
    centered = (X - mean) * np.sqrt(share)[:, None]
    return mean, centered.T @ centered


def _frechet(first, second):
    (mean_1, cov_1), (mean_2, cov_2) = first, second
    values, vectors = np.linalg.eigh(cov_1)
    root = vectors * np.sqrt(values.clip(min=0))
    # The eigenvalues of root.T @ cov_2 @ root are those of the product of the covariances.
    cross = np.sqrt(np.linalg.eigvalsh(root.T @ cov_2 @ root).clip(min=0)).sum()
    shift = mean_1 - mean_2
    return max(float(shift @ shift + np.trace(cov_1) + np.trace(cov_2) - 2 * cross), 0.0)


class CorrelationDistance(NamedTuple):
    """How far the correlations of two samples are from each other."""

    #: Root mean square difference of correlation coefficients, over all pairs of features.
    distance: float
    #: Standard deviation of `distance`; up to 1.7 times that where it is not beyond `noise`.
    error: float
    #: The distance that samples of these sizes from one distribution would have.
    noise: float


@validate_params({**TWO_SAMPLES, **GROUPS}, prefer_skip_nested_validation=True)
def correlation_distance(
    X_true,
    X_generated,
    *,
    n_groups=20,
    weight_true=None,
    weight_generated=None,
    random_state=0,
):
    r"""Compute how far the correlation matrices of two samples are from each other.

    .. math:: d = \sqrt{\frac{2}{p (p - 1)} \sum_{i < j} (\rho_{ij} - \rho'_{ij})^2},

    the Frobenius norm of the difference per pair of the p features.

    Parameters
    ----------
    X_true, X_generated : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The two samples, of two features or more.
    n_groups : int, default=20
        Groups of the jackknife that tells the errors.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights; only their ratios within a sample matter. For `distance` a weight of
        2 is the event twice; for `error` and `noise` it is one event.
    random_state : int, RandomState instance or None, default=0
        Determines the groups.

    Returns
    -------
    result : CorrelationDistance
        With `distance`, its `error` (of equal distributions too large, for two features
        :math:`1 / \sqrt{1 - 2 / \pi}` times the standard deviation), and `noise`, what it would be
        for samples of one distribution: the root mean square error of a difference.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, there is one feature only, a weight is
        negative, or there are fewer than two events for a group.

    Notes
    -----
    A feature that is constant in a sample has no correlations there; they count as zero.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import correlation_distance
    >>> rng = np.random.default_rng(0)
    >>> true = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 5000)
    >>> result = correlation_distance(true, rng.normal(size=(5000, 2)))
    >>> print(f"{result.distance:.2f} ± {result.error:.2f}, noise {result.noise:.2f}")
    0.80 ± 0.01, noise 0.01
    """
    X_true, X_generated, w_true, w_generated = check_two_samples(
        X_true, X_generated, weight_true, weight_generated
    )
    if X_true.shape[1] < 2:
        raise ValueError(
            "The 'X_true' parameter of correlation_distance must have two features or more, whose "
            f"pairs are compared. Got {X_true.shape[1]} instead."
        )
    samples, weights = [X_true, X_generated], [w_true, w_generated]

    def difference(kept):
        first, second = (
            correlations(X[k], w[k]) for X, w, k in zip(samples, weights, kept, strict=True)
        )
        return first - second

    pairs = np.triu_indices(X_true.shape[1], 1)
    whole = difference([slice(None)] * 2)[pairs]
    # Sums over groups, so that not all of their matrices are in memory.
    total, squares, parts = np.zeros_like(whole), np.zeros_like(whole), []
    for kept in leave_out(samples, n_groups, check_random_state(random_state)):
        part = difference(kept)[pairs]
        parts.append(np.sqrt(np.mean(part**2)))
        total += part - whole
        squares += (part - whole) ** 2
    variance = (n_groups - 1) * (squares / n_groups - (total / n_groups) ** 2)
    return CorrelationDistance(
        distance=float(np.sqrt(np.mean(whole**2))),
        error=float(np.sqrt((n_groups - 1) * np.var(parts))),
        noise=float(np.sqrt(np.mean(variance))),
    )


def correlations(X, weight):
    """Correlation matrix of a weighted sample; of constant features it is zero but for the 1."""
    scale = scale_of(X, weight, standardize=True)
    _, covariance = _moments((X - X[0]) / scale, weight)
    std = np.sqrt(np.diag(covariance))
    # What remains of a constant feature is rounding, far below one standard deviation.
    std = np.where(std > 0.5, std, np.inf)
    result = covariance / std / std[:, None]
    np.fill_diagonal(result, 1.0)
    return result
