r"""Wasserstein distances of samples, of every feature and of random directions.

The Wasserstein-1 distance is the work that turns one distribution into the other, of one feature

.. math:: W_1 = \int |F(x) - G(x)|\,dx,

and :math:`|\delta|` for a shift by :math:`\delta`. Its sliced form is the mean over random
directions; a shift in d dimensions gives :math:`|\delta|\,\Gamma(\frac d2) /
(\sqrt\pi\,\Gamma(\frac{d+1}2))`.
"""

from numbers import Integral

import numpy as np
from scipy.stats import wasserstein_distance as _w1
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._sample_validation import TWO_SAMPLES, check_two_samples, scale_of

__all__ = ["sliced_wasserstein_distance", "wasserstein_distance"]

# Numbers of projections in memory at a time.
_BLOCK = 2**22


@validate_params({**TWO_SAMPLES, "standardize": ["boolean"]}, prefer_skip_nested_validation=True)
def wasserstein_distance(
    X_true, X_generated, *, standardize=False, weight_true=None, weight_generated=None
):
    r"""Compute the Wasserstein-1 distance of every feature.

    Parameters
    ----------
    X_true, X_generated : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The two samples.
    standardize : bool, default=False
        Give distances in standard deviations of the true sample instead of the unit of each
        feature. Features that are constant in it are left as they are.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights; only their ratios within a sample matter. A weight of 2 is the event
        twice.

    Returns
    -------
    distance : ndarray of shape (n_features,)
        Of samples of one distribution it is of the order of
        :math:`\sigma\sqrt{1/n + 1/m}`, and not zero.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or a weight is negative.

    See Also
    --------
    sliced_wasserstein_distance : Sees how features depend on each other.

    Examples
    --------
    >>> from sknuc.metrics import wasserstein_distance
    >>> wasserstein_distance([[0.0, 1.0], [2.0, 1.0]], [[3.0, 1.0], [5.0, 1.0]])
    array([3., 0.])
    """
    X_true, X_generated, w_true, w_generated = check_two_samples(
        X_true, X_generated, weight_true, weight_generated, min_events=1
    )
    scale = scale_of(X_true, w_true, standardize)
    columns = zip(X_true.T, X_generated.T, strict=True)
    return np.array([_w1(a, b, w_true, w_generated) for a, b in columns]) / scale


@validate_params(
    {
        **TWO_SAMPLES,
        "n_projections": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def sliced_wasserstein_distance(
    X_true,
    X_generated,
    *,
    n_projections=100,
    standardize=True,
    weight_true=None,
    weight_generated=None,
    random_state=0,
):
    r"""Compute the Wasserstein-1 distance averaged over random directions.

    Parameters
    ----------
    X_true, X_generated : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The two samples.
    n_projections : int, default=100
        Directions, uniform on the sphere.
    standardize : bool, default=True
        Divide features by the standard deviation of the true sample. Features that are constant in
        it are left as they are.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights; only their ratios within a sample matter. A weight of 2 is the event
        twice.
    random_state : int, RandomState instance or None, default=0
        Determines the directions.

    Returns
    -------
    distance : float

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, or a weight is negative.

    References
    ----------
    .. [1] N. Bonneel, J. Rabin, G. Peyré and H. Pfister, "Sliced and Radon Wasserstein barycenters
       of measures", J. Math. Imaging Vis. 51 (2015) 22.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import sliced_wasserstein_distance
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> print(f"{sliced_wasserstein_distance(X, X + [3.0, 4.0], standardize=False):.1f}")
    3.1
    """
    X_true, X_generated, w_true, w_generated = check_two_samples(
        X_true, X_generated, weight_true, weight_generated, min_events=1
    )
    scale = scale_of(X_true, w_true, standardize)
    directions = check_random_state(random_state).standard_normal((n_projections, X_true.shape[1]))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True) * scale
    step = max(1, _BLOCK // (len(X_true) + len(X_generated)))
    total = 0.0
    for start in range(0, n_projections, step):
        block = directions[start : start + step].T
        projections = zip((X_true @ block).T, (X_generated @ block).T, strict=True)
        total += sum(_w1(a, b, w_true, w_generated) for a, b in projections)
    return float(total / n_projections)
