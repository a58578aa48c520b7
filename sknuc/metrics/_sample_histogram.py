r"""Overlap of histograms, and how large it can be.

The intersection over union of normalised histograms p and q is

.. math:: \mathrm{IoU} = \frac{\sum_b \min(p_b, q_b)}{\sum_b \max(p_b, q_b)}
    = \frac{1 - D}{1 + D}, \qquad D = \tfrac12 \sum_b |p_b - q_b|.

Two samples of one distribution do not reach 1: with n events each in B bins that are equally
likely, :math:`D \approx \sqrt{B / (\pi n)}`; 5000 events in 70 bins reach 87.5 %. If the
samples come from one distribution, it does not matter which of their events belong to which. So
the events of both are dealt anew, many times, to two samples of the same sizes; the mean overlap is
the ceiling, exact for any histogram, however few events a bin holds.
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.base import validate_weights
from sknuc.metrics._score_validation import kish_number
from sknuc.metrics._validation import check_column

__all__ = ["HistogramIoU", "histogram_iou"]


class HistogramIoU(NamedTuple):
    """Overlap of two histograms."""

    #: Intersection over union, in [0, 1].
    iou: float
    #: What samples of these sizes from one distribution reach on average.
    ceiling: float
    #: `iou` divided by `ceiling`; may exceed 1 by chance.
    ratio: float
    #: Standard deviation of `iou` from the number of events.
    error: float


@validate_params(
    {
        "x_true": ["array-like"],
        "x_generated": ["array-like"],
        "bins": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "range": [tuple, list, None],
        "weight_true": ["array-like", None],
        "weight_generated": ["array-like", None],
        "n_draws": [Interval(Integral, 2, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def histogram_iou(
    x_true,
    x_generated,
    *,
    bins=50,
    range=None,
    weight_true=None,
    weight_generated=None,
    n_draws=200,
    random_state=0,
):
    """Compute the overlap of two histograms and its statistical ceiling.

    Parameters
    ----------
    x_true, x_generated : array-like of shape (n_events,)
        The quantity in both samples.
    bins : int or array-like of shape (n_bins + 1,), default=50
        Number of bins of equal width, or their edges.
    range : (float, float), default=None
        Where bins begin and end; None for the range of the true sample. Values below and above
        count in two bins more, so that a generator gains nothing by them.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights.
    n_draws : int, default=200
        How often events are dealt anew for the ceiling and the error.
    random_state : int, RandomState instance or None, default=0
        Determines these draws.

    Returns
    -------
    result : HistogramIoU
        With `iou`, `ceiling`, `ratio` and `error`. For weighted events ceiling and error are those
        of Kish's number of events of weight one.

    Raises
    ------
    ValueError
        If a value is not finite, there are no events, bins do not rise, or a weight is negative.

    References
    ----------
    .. [1] A. Bhattacharyya, "On a measure of divergence between two statistical populations", Bull.
       Calcutta Math. Soc. 35 (1943) 99, on overlaps of distributions.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import histogram_iou
    >>> rng = np.random.default_rng(0)
    >>> true, good = rng.uniform(size=(2, 5000))
    >>> result = histogram_iou(true, good, bins=70)
    >>> print(f"{result.iou:.2f} of {result.ceiling:.2f}")
    0.89 of 0.88
    """
    x_true, x_generated = check_column("x_true", x_true), check_column("x_generated", x_generated)
    w_true = _check_weights("true", weight_true, x_true)
    w_generated = _check_weights("generated", weight_generated, x_generated)
    edges = _edges(bins, range, x_true[w_true > 0])
    p, q = _shares(x_true, w_true, edges), _shares(x_generated, w_generated, edges)
    n, m = (max(round(kish_number(w)), 1) for w in (w_true, w_generated))
    rng = check_random_state(random_state)
    rng = np.random.default_rng(rng.randint(2**32, size=4, dtype=np.uint32))
    # Whole events: those there are, or effective ones of weighted histograms.
    pool = np.rint(n * p + m * q).astype(np.int64)
    first = np.clip(round(pool.sum() * n / (n + m)), 1, pool.sum() - 1)
    dealt = rng.multivariate_hypergeometric(pool, first, size=n_draws, method="marginals")
    ceiling = _iou(dealt / first, (pool - dealt) / (pool.sum() - first)).mean()
    drawn = _iou(rng.multinomial(n, p, size=n_draws) / n, rng.multinomial(m, q, size=n_draws) / m)
    iou = float(_iou(p, q))
    return HistogramIoU(
        iou=iou, ceiling=float(ceiling), ratio=float(iou / ceiling), error=float(drawn.std())
    )


def _check_weights(which, weight, x):
    try:
        weight = validate_weights(weight, x)
    except ValueError as error:
        raise ValueError(f"The 'weight_{which}' parameter is not valid: {error}") from error
    return np.ones(len(x)) if weight is None else weight


def _edges(bins, limits, x):
    if np.ndim(bins) == 0:
        if limits is None:
            limits = (x.min(), x.max())
        elif len(limits) != 2 or not -np.inf < limits[0] < limits[1] < np.inf:
            raise ValueError(
                "The 'range' parameter of histogram_iou must be (low, high), finite and with low < "
                f"high, or None. Got {limits!r} instead."
            )
        return np.histogram_bin_edges(x, bins, limits)
    edges = check_column("bins", bins)
    if limits is not None or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(
            "The 'bins' parameter of histogram_iou must be a number of bins, or two rising edges "
            f"or more, and then without 'range'. Got {bins!r:.200} and range={limits!r} instead."
        )
    return edges


def _shares(x, weight, edges):
    """Share of the weight in every bin, below the first and above the last."""
    # The last edge belongs to the last bin, as in numpy.
    index = np.searchsorted(edges, x, side="right")
    index[x == edges[-1]] = len(edges) - 1
    counts = np.bincount(index, weights=weight, minlength=len(edges) + 1)
    return counts / counts.sum()


def _iou(p, q):
    return np.minimum(p, q).sum(axis=-1) / np.maximum(p, q).sum(axis=-1)
