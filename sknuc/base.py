"""The contract that every sknuc estimator keeps: event shapes and weights.

One event is an array of any shape: a row of features ``(n_features,)``, a waveform
``(channels, samples)``, an image ``(channels, height, width)``. scikit-learn passes tables
``(n_events, n_features)`` along. Both are accepted everywhere: an N-D ``X`` is read as the table
of its flattened events, and a table is read as events of ``input_shape``, so that both give the
same bits.
"""

import math
from numbers import Integral

import numpy as np
from sklearn.utils.validation import _check_sample_weight, validate_data

__all__ = ["validate_events", "validate_input_shape", "validate_weights"]


def validate_input_shape(input_shape, n_features):
    """Check that events of `input_shape` have `n_features` numbers.

    Parameters
    ----------
    input_shape : tuple of int or None
        The shape of one event, without the axis of events; None for ``(n_features,)``.
    n_features : int
        The length of one row of the table.

    Returns
    -------
    input_shape : tuple of int

    Raises
    ------
    ValueError
        If `input_shape` is not a tuple of positive integers, or has another number of elements.
    """
    if input_shape is None:
        return (n_features,)
    shape = tuple(input_shape)
    if not shape or not all(isinstance(s, Integral) and s > 0 for s in shape):
        raise ValueError(
            "The 'input_shape' parameter must be a non-empty tuple of positive integers, the shape "
            f"of one event such as (1, 1024), or None. Got {input_shape!r} instead."
        )
    shape = tuple(int(s) for s in shape)
    if math.prod(shape) != n_features:
        raise ValueError(
            f"The 'input_shape' parameter is {shape}, that is {math.prod(shape)} numbers per "
            f"event, but the events in X have {n_features}. Give the shape of one event, without "
            "the axis of events."
        )
    return shape


def validate_events(estimator, X, *, reset, **check_params):
    """Validate events and return them as a table.

    Sets ``n_features_in_``, ``feature_names_in_`` (data frames) and ``input_shape_``, the shape of
    one event, when `reset`; otherwise checks `X` against them. The estimator's ``input_shape``
    parameter, where it has one, says how rows of a table are read.

    Parameters
    ----------
    estimator : estimator instance
        The estimator that is fitted, or that predicts.
    X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The events.
    reset : bool
        True in ``fit``, False in every other method.
    **check_params : dict
        Passed on to :func:`sklearn.utils.check_array`. Floats of 32 and 64 bits keep their type,
        everything else becomes float64, unless `dtype` says otherwise.

    Returns
    -------
    X : ndarray of shape (n_events, n_features)

    Raises
    ------
    ValueError
        If `X` has NaN or infinite values, no events, or events of another shape.
    """
    if isinstance(X, list | tuple) and len(X) and np.ndim(X[0]) > 1:
        X = np.asarray(X)
    event_shape = None
    if getattr(X, "ndim", 2) > 2:
        event_shape = tuple(X.shape[1:])
        X = X.reshape(len(X), math.prod(event_shape))
        if not reset and event_shape != estimator.input_shape_:
            raise ValueError(
                f"X has events of shape {event_shape}, but {type(estimator).__name__} was fitted "
                f"on events of shape {estimator.input_shape_}."
            )
    check_params = {"dtype": (np.float64, np.float32), **check_params}
    X = validate_data(estimator, X, reset=reset, **check_params)
    if reset:
        input_shape = getattr(estimator, "input_shape", None)
        shape = validate_input_shape(input_shape, X.shape[1])
        if event_shape is not None:
            if input_shape is not None and shape != event_shape:
                raise ValueError(
                    f"The 'input_shape' parameter is {shape}, but the events in X have the shape "
                    f"{event_shape}. Leave input_shape=None to take it from an N-D X."
                )
            shape = event_shape
        estimator.input_shape_ = shape
    return X


def validate_weights(sample_weight, X, *, allow_negative=False):
    """Validate the weights of events.

    Parameters
    ----------
    sample_weight : array-like of shape (n_events,), float or None
        The weights; None weighs every event alike.
    X : array-like of shape (n_events, ...)
        The events that are weighted.
    allow_negative : bool, default=False
        Whether negative weights, which Monte-Carlo generators produce at next-to-leading order,
        have a meaning for the estimator.

    Returns
    -------
    sample_weight : ndarray of shape (n_events,) or None

    Raises
    ------
    ValueError
        If a weight is not finite, all are zero, one is negative where that is not allowed, or the
        weights sum to nothing or less.
    """
    if sample_weight is None:
        return None
    sample_weight = _check_sample_weight(sample_weight, X)
    n_negative = int(np.count_nonzero(sample_weight < 0))
    if n_negative and not allow_negative:
        raise ValueError(
            f"sample_weight has {n_negative} negative values of {len(sample_weight)}; weights must "
            "be non-negative here. Negative Monte-Carlo weights can be cancelled against nearby "
            "positive ones (cell resampling) or left out before the fit."
        )
    if sample_weight.sum() <= 0:
        raise ValueError(
            f"sample_weight sums to {sample_weight.sum():g}; the sum must be positive."
        )
    return sample_weight
