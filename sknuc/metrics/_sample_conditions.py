"""What conditions of true and of generated events are, for all that compares events given these.

A condition is one column or several, each of which holds numbers (of a floating-point type, or
integers where the other sample has these) or labels (everything else). A column of a data frame, or
of an array of objects, is what its own values are. Numbers stay one column, labels become one
column of zeros and ones for each class.
"""

import numpy as np
from sklearn.utils import _safe_indexing, assert_all_finite
from sklearn.utils.validation import _num_samples

from sknuc.base import check_labels

__all__ = ["check_lengths", "encode_conditions"]

# Each makes a column, in which a classifier looks for the best split.
_MOST_CLASSES = 100
_NAMES = "y_true", "y_generated"
_KINDS = {"f": "floats", "i": "integers", "u": "integers", "b": "integers"}


def check_lengths(conditions, samples):
    """Refuse conditions that are not those of their samples, or those of one sample only.

    Parameters
    ----------
    conditions : tuple (y_true, y_generated) of array-like or None
    samples : tuple (X_true, X_generated) of array-like
        As they were given, with events of weight zero.
    """
    if any(y is None for y in conditions):
        raise ValueError(
            "The parameters 'y_true' and 'y_generated' must be given both, or neither. Got "
            f"{_NAMES[conditions[0] is None]} only."
        )
    for name, y, X in zip(_NAMES, conditions, samples, strict=True):
        shape, n_events = np.shape(y), _num_samples(X)
        if len(shape) not in (1, 2) or shape[0] != n_events or 0 in shape:
            raise ValueError(
                f"The '{name}' parameter must have the shape ({n_events},) or ({n_events}, "
                f"n_conditions), as X_{name[2:]} has {n_events} events. Got the shape {shape} "
                "instead."
            )


def encode_conditions(y_true, y_generated):
    """Turn conditions of true and generated events into columns of numbers.

    Parameters
    ----------
    y_true, y_generated : array-like of shape (n_events,) or (n_events, n_conditions)
        Of numbers of different precision the coarser one counts, in which what is the same
        condition is equal.

    Returns
    -------
    true, generated : float64 ndarray of shape (n_events, n_columns)
    between : bool
        Whether a condition has others next to it, as numbers have.
    """
    true, generated = (
        _columns(y, name) for y, name in zip((y_true, y_generated), _NAMES, strict=True)
    )
    if len(true) != len(generated):
        raise ValueError(
            f"The 'y_generated' parameter must have as many columns as y_true, {len(true)}. Got "
            f"{len(generated)} instead."
        )
    encoded = [_encode(*column) for column in zip(true, generated, strict=True)]
    between = any(are_numbers for *_, are_numbers in encoded)
    return *(np.hstack([column[k] for column in encoded]) for k in range(2)), between


def _columns(y, name):
    """The columns of conditions, each an array of one type."""
    y = y if hasattr(y, "columns") else np.asarray(y)
    if len(np.shape(y)) == 1:
        return [_of_one_type(y, name)]
    return [_of_one_type(_safe_indexing(y, k, axis=1), name) for k in range(np.shape(y)[1])]


def _of_one_type(column, name):
    column = np.asarray(column)
    check_labels(column, name)
    if column.dtype.kind == "O":
        column = np.array(column.tolist())
    if column.dtype.kind == "f":
        assert_all_finite(column, input_name=name)
    return column


def _encode(true, generated):
    """One column of both samples, encoded, and whether it holds numbers."""
    kinds = [_KINDS.get(column.dtype.kind, "labels") for column in (true, generated)]
    if "floats" in kinds and "labels" not in kinds:
        floats = (c.dtype for c in (true, generated) if c.dtype.kind == "f")
        coarsest = min(floats, key=lambda dtype: dtype.itemsize)
        both = [_rounded(c, coarsest)[:, None] for c in (true, generated)]
        for column, name in zip(both, _NAMES, strict=True):
            assert_all_finite(column, input_name=name)
        return *both, True
    if kinds[0] != kinds[1]:
        raise ValueError(
            "The 'y_generated' parameter must hold conditions of the kind of those in y_true, "
            f"{kinds[0]} such as {true[0]!s}. Got {kinds[1]} such as {generated[0]!s} instead."
        )
    classes = np.unique(true)
    unknown = np.setdiff1d(generated, classes)
    if len(unknown):
        raise ValueError(
            "The 'y_generated' parameter must hold classes of those in y_true, "
            f"{_some(classes)}. Got {_some(unknown)} as well."
        )
    if len(classes) > _MOST_CLASSES:
        raise ValueError(
            f"The 'y_true' parameter must hold {_MOST_CLASSES} classes at most, which labels and "
            f"integers are. Got {len(classes)}, from {_some(classes)} on; give numbers, such as "
            "energies, as floats."
        )
    return *((c[:, None] == classes).astype(np.float64) for c in (true, generated)), False


def _rounded(numbers, dtype):
    """Numbers in the precision of `dtype`, float64; those too large for it stay as they are."""
    with np.errstate(over="ignore"):
        rounded, exact = numbers.astype(dtype).astype(np.float64), numbers.astype(np.float64)
    return np.where(np.isfinite(rounded), rounded, exact)


def _some(values):
    return f"{values[:5].tolist()}"
