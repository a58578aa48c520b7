"""What both baselines do with the weights of their training data.

A weight is a multiplicity: weight 0 is no event, weight 2 is the event twice. To keep this to the
last bit, an event of weight zero is left out before anything is fitted, and identical events become
one event with the sum of their weights. Otherwise such events would still enter the bins, the
landmarks or the folds as separate rows, and copies of one event, which over-samplers make, could
fall on both sides of a split.
"""

import numpy as np
from sklearn.utils import check_consistent_length

from sknuc.base import validate_events, validate_weights

__all__ = [
    "merge_identical",
    "training_events",
]


def training_events(estimator, X, y, sample_weight, *, targets, allow_negative=False, **check):
    """Validate X, y and weights, and leave out the events of weight zero.

    Parameters
    ----------
    estimator : estimator instance
    X : array-like of shape (n_events, ...)
    y : array-like of shape (n_events,) or (n_events, n_targets)
    sample_weight : array-like of shape (n_events,) or None
    targets : callable
        Turns `y` into an array, `base.validate_labels` or `base.validate_targets`.
    allow_negative : bool, default=False
        Whether negative weights are allowed.
    **check : dict
        Passed on to :func:`sklearn.utils.check_array` for `X`.

    Returns
    -------
    X, y, sample_weight : ndarray, ndarray, ndarray or None
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    X = validate_events(estimator, X, reset=True, **check)
    y = targets(y)
    check_consistent_length(X, y)
    weight = validate_weights(sample_weight, X, allow_negative=allow_negative)
    if weight is not None and not weight.all():
        kept = weight != 0
        X, y, weight = X[kept], y[kept], weight[kept]
    return X, y, weight


def merge_identical(X, y, sample_weight):
    """Merge identical events, and bring events into an order of their own.

    The order follows from the values of an event alone, so that nothing that is fitted, split or
    drawn afterwards depends on the order in which events came.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    y : ndarray of shape (n_events,) or (n_events, n_targets)
        Numbers.
    sample_weight : ndarray of shape (n_events,) or None

    Returns
    -------
    X, y, sample_weight : ndarray, ndarray, ndarray or None
        None stays None where no event appears twice.
    """
    key = _row_hash(X) + np.uint64(31) * _row_hash(y.reshape(len(y), -1))
    order = np.argsort(key)
    key, X, y = key[order], X.take(order, axis=0), y.take(order, axis=0)
    weight = None if sample_weight is None else sample_weight[order]
    # Real data seldom has copies: only rows whose hashes agree are compared.
    same = key[1:] == key[:-1]
    if not same.any():
        return X, y, weight
    suspects = np.flatnonzero(np.append(same, False) | np.append(False, same))
    table = np.column_stack([X[suspects], y[suspects]])
    _, first, inverse = np.unique(
        table, axis=0, return_index=True, return_inverse=True, equal_nan=False
    )
    weight = np.ones(len(X)) if weight is None else weight.astype(np.float64)
    merged = np.bincount(inverse.ravel(), weights=weight[suspects])
    weight[suspects] = 0
    weight[suspects[first]] = merged
    kept = weight != 0
    return X[kept], y[kept], weight[kept]


def _row_hash(table):
    """Return a 64-bit hash of every row; equal rows have equal hashes."""
    unsigned = np.dtype(f"u{table.dtype.itemsize}")
    factors = np.random.default_rng(0).integers(2**63, size=table.shape[1], dtype=np.uint64) | 1
    block = max(1, 2**20 // table.shape[1])
    return np.concatenate(
        [
            # Adding zero turns -0.0 into 0.0, which equals it and has other bits.
            np.ascontiguousarray(table[i : i + block] + 0).view(unsigned).astype(np.uint64)
            @ factors
            for i in range(0, len(table), block)
        ]
    )
