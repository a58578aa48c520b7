"""Clouds of points or hits: each event a set of rows, and no two events alike in number.

A cloud is an array of shape (P, F): P points with F numbers each, such as (x, y, z, charge).
Everywhere in sknuc a row of zeros is padding, so that clouds fit into one array (n, P, F) that is
finite and passes validation; a real point has a charge.
"""

from numbers import Integral

import numpy as np
from sklearn.utils import check_array

from sknuc.base import validate_events

__all__ = ["charge_column", "is_count", "pad_clouds", "validate_clouds"]


def pad_clouds(clouds, n_points=0):
    """Join ragged clouds into one array, with rows of zeros after the points of each.

    Parameters
    ----------
    clouds : sequence of array-like of shape (P_i, F)
        The events; an event may have no point, and be of shape (0,) then.
    n_points : int, default=0
        Least number of rows of an event in the result.

    Returns
    -------
    padded : ndarray of shape (n, max(P_i, n_points), F)
        Of 32-bit floats if all clouds are, and of 64-bit floats otherwise.

    Raises
    ------
    ValueError
        If an event is no array of shape (P, F), F differs between events, or they are complex.
    """
    clouds = [np.asarray(cloud) for cloud in clouds]
    first = next(i for i, cloud in enumerate(clouds) if cloud.ndim == 2)
    empty = clouds[first][:0]
    clouds = [empty if cloud.shape == (0,) else cloud for cloud in clouds]
    for i, cloud in enumerate(clouds):
        if cloud.ndim != 2 or cloud.shape[1:] != empty.shape[1:]:
            raise ValueError(
                "Events of a ragged X must be arrays of shape (n_points, n_columns) with the same "
                f"n_columns. Got shape {clouds[first].shape} for event {first} and {cloud.shape} "
                f"for event {i} instead."
            )
    points = np.concatenate(clouds)
    if points.dtype.kind == "c":
        raise ValueError("Complex data not supported: events of a ragged X must be real numbers.")
    lengths = np.array([len(cloud) for cloud in clouds])
    shape = (len(clouds), max(lengths.max(), n_points), points.shape[1])
    padded = np.zeros(shape, np.float32 if points.dtype == np.float32 else np.float64)
    padded[np.arange(shape[1]) < lengths[:, None]] = points
    return padded


def validate_clouds(estimator, X, *, reset, min_columns=1):
    """Validate clouds in any of their three forms.

    Sets ``n_features_in_``, ``feature_names_in_`` (data frames) and ``input_shape_``, the shape
    (P, F) of one padded event or (F,) of a table of single points, when `reset`. Otherwise `X` is
    checked against them: a table must have as many columns as in the fit; of padded and ragged
    events F counts alone, since P is only the room that the longest event needs.

    Parameters
    ----------
    estimator : estimator instance
        The estimator that is fitted, or that transforms. Its ``input_shape`` parameter (P, F),
        where it has one, says how rows of a table are read; without it a row is one point.
    X : array-like of shape (n, P, F) or (n, n_features), or sequence of n arrays (P_i, F)
        Padded clouds, a table, or ragged clouds (a list or an array of objects).
    reset : bool
        True in ``fit``, False in every other method.
    min_columns : int, default=1
        The least F that means something to the estimator.

    Returns
    -------
    clouds : ndarray of shape (n, P, F)
        Padded, of 32-bit or 64-bit floats.
    present : bool ndarray of shape (n, P)
        False where a row is padding.

    Raises
    ------
    ValueError
        If `X` has NaN or infinite values, no events, or events of another shape.
    """
    name = type(estimator).__name__
    if _is_ragged(X):
        input_shape = getattr(estimator, "input_shape", None)
        X = pad_clouds(X, n_points=input_shape[0] if reset and input_shape else 0)
    if not reset and getattr(X, "ndim", 2) == 3:
        n_columns = estimator.input_shape_[-1]
        if X.shape[2] != n_columns:
            raise ValueError(
                f"X has points of {X.shape[2]} columns, but {name} was fitted on points of "
                f"{n_columns} columns."
            )
        # No minimum of columns in a row: ragged events may all be without points.
        X = check_array(
            X, dtype=(np.float64, np.float32), allow_nd=True, estimator=name, input_name="X"
        )
    else:
        X = validate_events(estimator, X, reset=reset)
        if len(estimator.input_shape_) > 2:
            raise ValueError(
                f"{name} reads events of shape (n_points, n_columns), or a table of single points. "
                f"Got events of shape {estimator.input_shape_} instead."
            )
        X = X.reshape(len(X), *(1, *estimator.input_shape_)[-2:])
    if X.shape[2] < min_columns:
        raise ValueError(
            f"Found array with {X.shape[2]} feature(s) (shape={X.shape}) per point while a minimum "
            f"of {min_columns} is required by {name}."
        )
    return X, (X != 0).any(axis=2)


def charge_column(estimator, n_columns):
    """The column of the charge, or None, and those of the coordinates.

    Parameters
    ----------
    estimator : estimator instance
        Its ``charge`` parameter is a column, None, or "auto" for the last of four or more.
    n_columns : int
        Of the points.

    Returns
    -------
    charge : int or None
    coordinates : list of int

    Raises
    ------
    ValueError
        If the points have no such column.
    """
    charge = estimator.charge
    if charge == "auto":
        charge = n_columns - 1 if n_columns >= 4 else None
    elif charge is not None:
        if isinstance(charge, bool) or not -n_columns <= charge < n_columns:
            raise ValueError(
                f"The 'charge' parameter of {type(estimator).__name__} must be a column of points "
                f"with {n_columns} columns, 'auto' or None. Got {charge!r} instead."
            )
        charge = charge % n_columns
    return charge, [column for column in range(n_columns) if column != charge]


def is_count(number):
    """Whether a number of bins or cells is one: a positive integer, and no boolean."""
    return isinstance(number, Integral) and not isinstance(number, bool) and number > 0


def _is_ragged(X):
    if isinstance(X, np.ndarray):
        if X.dtype != object or X.ndim != 1:
            return False
    elif not isinstance(X, list | tuple):
        return False
    # The first event that has points tells; those before it may be empty lists.
    for event in X:
        if np.ndim(event) == 2:
            return True
        if np.size(event):
            return False
    return False
