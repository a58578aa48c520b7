r"""Fidelity and diversity of generated events, from nearest neighbours.

Around every event lies the ball that reaches to its k-th nearest neighbour in its own sample; the
balls of a sample cover about the region where its distribution has events.

- *precision*: the share of generated events within a ball of a true one (are they realistic?);
- *recall*: the share of true events within a ball of a generated one (is everything generated?);
- *density*: the number of true balls that a generated event is in, divided by k. Where precision
  counts an event beside one true outlier as good as any, density does not;
- *coverage*: the share of true balls with a generated event. Where recall is fooled by generated
  outliers, whose balls are huge, coverage is not.

For n true and m generated events of one distribution every rank of a generated event among the
neighbours of a true one is equally likely, whatever the distribution: the expected density is 1,
the expected coverage

.. math:: 1 - \prod_{i=0}^{k-1} \frac{n - 1 - i}{n + m - 1 - i} \approx 1 - 2^{-k} \quad (n = m).

Precision and recall of good generators depend on the distribution and are below 1.

Weights are taken in units in which a sample weighs Kish's number of events,
:math:`(\sum w)^2 / \sum w^2`, and a ball reaches to where its event and the neighbours weigh more
than :math:`k + \frac12`. With equal weights that is the k-th neighbour; with others a ball holds
k + 1 on average, too.
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._sample_validation import TWO_SAMPLES, check_two_samples, scale_of

__all__ = ["PRDC", "precision_recall_density_coverage"]

# Distances in memory at a time: 64 MiB, of which a few copies are made.
_BLOCK = 2**23

# Squared distances round by this part of the squared norms.
_ROUNDING = 1e-14


class PRDC(NamedTuple):
    """Fidelity (precision, density) and diversity (recall, coverage) of generated events."""

    precision: float
    recall: float
    #: 1 for a perfect generator on average; may exceed it.
    density: float
    coverage: float


@validate_params(
    {
        **TWO_SAMPLES,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "standardize": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def precision_recall_density_coverage(
    X_true,
    X_generated,
    *,
    n_neighbors=5,
    standardize=True,
    weight_true=None,
    weight_generated=None,
):
    """Compute precision, recall, density and coverage of generated events.

    Parameters
    ----------
    X_true, X_generated : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The two samples, of about the same size: recall and coverage grow with that of the
        generated one. Features in which distances mean something, rather than raw voxels.
    n_neighbors : int, default=5
        k, up to which neighbour the balls reach.
    standardize : bool, default=True
        Divide features by the standard deviation of the true sample. Features that are constant in
        it are left as they are.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights; only their ratios within a sample matter. A sample counts as Kish's
        number of events.

    Returns
    -------
    result : PRDC
        With `precision`, `recall`, `density` and `coverage`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, a weight is negative, or Kish's number of
        events of a sample is below `n_neighbors` + 1.

    Notes
    -----
    It takes distances between all pairs of events, in blocks: time grows as the square of their
    number, memory does not.

    References
    ----------
    .. [1] T. Kynkäänniemi, T. Karras, S. Laine, J. Lehtinen and T. Aila, "Improved precision and
       recall metric for assessing generative models", NeurIPS (2019), arXiv:1904.06991.
    .. [2] M. F. Naeem, S. J. Oh, Y. Uh, Y. Choi and J. Yoo, "Reliable fidelity and diversity
       metrics for generative models", ICML (2020), arXiv:2002.09797.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import precision_recall_density_coverage
    >>> rng = np.random.default_rng(0)
    >>> true = rng.choice([-5.0, 5.0], size=(1000, 1)) + rng.normal(size=(1000, 2))
    >>> one_mode = [5.0, 5.0] + rng.normal(size=(1000, 2))
    >>> result = precision_recall_density_coverage(true, one_mode)
    >>> print(f"precision {result.precision:.1f}, coverage {result.coverage:.1f}")
    precision 1.0, coverage 0.5
    """
    X_true, X_generated, w_true, w_generated = check_two_samples(
        X_true, X_generated, weight_true, weight_generated
    )
    w_true, w_generated = (w.sum() / (w**2).sum() * w for w in (w_true, w_generated))
    for name, weight in (("X_true", w_true), ("X_generated", w_generated)):
        # What sums of weights round by is far below half an event.
        if weight.sum() < n_neighbors + 0.5:
            raise ValueError(
                f"The 'n_neighbors' parameter must be below the number of events of either sample, "
                f"(sum w)² / sum w² if they have weights. Got {n_neighbors} for {weight.sum():.3g} "
                f"events in {name}."
            )
    # Around an event in the middle, wherever outliers are, since norms round distances.
    scale, origin = scale_of(X_true, w_true, standardize), np.median(X_true, axis=0)
    X_true, X_generated = (X_true - origin) / scale, (X_generated - origin) / scale
    radius_true = _radii(X_true, w_true, n_neighbors)
    radius_generated = _radii(X_generated, w_generated, n_neighbors)

    covered, recalled = np.zeros((2, len(X_true)), dtype=bool)
    precise, balls = np.empty(len(X_generated), dtype=bool), np.empty(len(X_generated))
    for rows in _blocks(X_generated, X_true):
        distance = euclidean_distances(X_generated[rows], X_true, squared=True)
        inside = distance <= radius_true
        precise[rows] = inside.any(axis=1)
        balls[rows] = inside @ w_true
        covered |= inside.any(axis=0)
        recalled |= (distance <= radius_generated[rows, None]).any(axis=0)
    w_true, w_generated = w_true / w_true.sum(), w_generated / w_generated.sum()
    return PRDC(
        precision=float(w_generated @ precise),
        recall=float(w_true @ recalled),
        density=float(w_generated @ balls / n_neighbors),
        coverage=float(w_true @ covered),
    )


def _blocks(X, other):
    step = max(1, _BLOCK // len(other))
    return (slice(start, start + step) for start in range(0, len(X), step))


def _radii(X, weight, n_neighbors):
    """Squared distance of every event to its neighbour of rank `n_neighbors`."""
    radii = np.empty(len(X))
    plain = weight.min() == weight.max()
    for rows in _blocks(X, X):
        distance = euclidean_distances(X[rows], X, squared=True)
        # The event itself is the first, whatever its copies do.
        own = np.arange(len(distance))
        distance[own, own + rows.start] = -1.0
        if plain:
            radii[rows] = np.partition(distance, n_neighbors, axis=1)[:, n_neighbors]
        else:
            order = np.argsort(distance, axis=1)
            reached = np.cumsum(weight[order], axis=1) > n_neighbors + 0.5
            last = np.take_along_axis(order, reached.argmax(axis=1)[:, None], axis=1)
            radii[rows] = np.take_along_axis(distance, last, axis=1)[:, 0]
    # Copies of one event have a distance of zero, up to rounding; norms of what is in a ball are
    # those of its event and its radius.
    radii = np.maximum(radii, 0)
    return radii + _ROUNDING * (radii + (X**2).sum(axis=1))
