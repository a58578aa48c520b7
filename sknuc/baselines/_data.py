"""What both baselines ask of their training data: labels, targets and weights.

A weight is a multiplicity: weight 0 is no event, weight 2 is the event twice. To keep this to the
last bit, an event of weight zero is left out before anything is fitted, and identical events become
one event with the sum of their weights. Otherwise such events would still enter the bins, the
landmarks or the folds as separate rows, and copies of one event, which over-samplers make, could
fall on both sides of a split.
"""

import numpy as np
from sklearn.utils import assert_all_finite, check_array, check_consistent_length
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from sknuc.base import validate_events, validate_weights

__all__ = [
    "center_and_scale",
    "class_weights",
    "encode_labels",
    "merge_identical",
    "training_events",
    "training_labels",
    "training_targets",
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
        Turns `y` into an array, :func:`training_labels` or :func:`training_targets`.
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


def training_labels(y):
    """Return labels as a 1-D array after scikit-learn's checks."""
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def training_targets(y):
    """Return targets as finite float64, 1-D or 2-D."""
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if y.ndim > 2:
        raise ValueError(
            f"y must have the shape (n_events,) or (n_events, n_targets), got {y.shape}."
        )
    return y


def encode_labels(estimator, y):
    """Return the classes and the class index of every event.

    Raises
    ------
    ValueError
        If fewer than two classes are left.
    """
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{type(estimator).__name__} needs events of at least 2 classes with non-zero weight, "
            f"but the data contains only one class: {classes.tolist()[0]!r}."
        )
    return classes, codes


def class_weights(class_weight, classes, codes, sample_weight):
    """Multiply the weights of events by the weights of their classes.

    "balanced" reads the sample weights, so that an event of weight 2 counts as two events.
    """
    if class_weight is None:
        return sample_weight
    per_class = compute_class_weight(
        class_weight, classes=classes, y=classes[codes], sample_weight=sample_weight
    )
    return per_class[codes] if sample_weight is None else per_class[codes] * sample_weight


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


def center_and_scale(y, sample_weight):
    """Return the weighted mean and standard deviation of every target.

    A target that is constant up to rounding has the scale 1.
    """
    mean = np.average(y, axis=0, weights=sample_weight)
    scale = np.sqrt(np.average((y - mean) ** 2, axis=0, weights=sample_weight))
    return mean, np.where(scale > 10 * np.finfo(np.float64).eps * np.abs(mean), scale, 1.0)
