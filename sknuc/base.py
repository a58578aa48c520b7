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
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

__all__ = [
    "center_and_scale",
    "class_weights",
    "encode_labels",
    "validate_events",
    "validate_input_shape",
    "validate_labels",
    "validate_targets",
    "validate_weights",
]


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


def validate_labels(y):
    """Return labels as a 1-D array after scikit-learn's checks."""
    y = column_or_1d(y, warn=True)
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def validate_targets(y):
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


def center_and_scale(y, sample_weight):
    """Return the weighted mean and standard deviation of every target.

    A target that is constant up to rounding has the scale 1.
    """
    mean = np.average(y, axis=0, weights=sample_weight)
    scale = np.sqrt(np.average((y - mean) ** 2, axis=0, weights=sample_weight))
    return mean, np.where(scale > 10 * np.finfo(np.float64).eps * np.abs(mean), scale, 1.0)
