"""The contract that every sknuc estimator keeps: event shapes and weights.

One event is an array of any shape: a row of features ``(n_features,)``, a waveform
``(channels, samples)``, an image ``(channels, height, width)``. scikit-learn passes tables
``(n_events, n_features)`` along. Both are accepted everywhere: an N-D ``X`` is read as the table
of its flattened events, and a table is read as events of ``input_shape``, so that both give the
same bits.
"""

import ast
import functools
import inspect
import math
import re
import sys
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.special import entr
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import assert_all_finite, check_array, check_random_state
from sklearn.utils._missing import is_pandas_na
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

__all__ = [
    "EnsembleClassifierMixin",
    "PredictiveRegressorMixin",
    "SharedParameters",
    "Uncertainty",
    "center_and_scale",
    "check_coverage",
    "check_labels",
    "check_quantiles",
    "check_widths",
    "class_weights",
    "encode_labels",
    "is_rounding",
    "levels_to_user",
    "validate_events",
    "validate_input_shape",
    "validate_labels",
    "validate_targets",
    "validate_weights",
]

# Of predictive distributions in memory at a time: 32 MiB, of which a few copies are made.
_BLOCK_NUMBERS = 2**22
_ALMOST_ZERO = float(np.sqrt(np.finfo(np.float32).tiny))
# Packages that call a method for the user.
_CALLERS = {"sknuc", "sklearn", "imblearn", "joblib"}


def levels_to_user():
    """Return the `stacklevel` of a warning that the caller of this gives: of the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _CALLERS:
        level, frame = level + 1, frame.f_back
    return level


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


def validate_labels(y, estimator=None):
    """Return labels as a 1-D array after scikit-learn's checks."""
    _check_given(y, estimator)
    y = column_or_1d(y, warn=True)
    check_labels(y, "y")
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    return y


def check_labels(y, name):
    """Refuse labels that are missing, or of types that have no order among each other.

    Parameters
    ----------
    y : ndarray of shape (n_events,)
    name : str
        The parameter that an error names.
    """
    missing = ()
    if y.dtype.kind == "O":
        missing = _missing_labels(y, name)
    elif y.dtype.kind in "mM":
        missing = y[np.isnat(y)]
    if len(missing):
        raise ValueError(
            f"The '{name}' parameter must hold a label for each event. Got {missing[0]!r} among "
            "them: leave such events out, or give them a label of their own."
        )


def _missing_labels(y, name):
    """Labels of an array of objects that say nothing; an error where types are mixed."""
    try:
        labels = set(y.tolist())
        missing = [v for v in labels if v is None or is_pandas_na(v) or v != v]
        if not missing:
            sorted(labels)
    except TypeError:
        types = sorted({type(label).__name__ for label in y.tolist()})
        raise ValueError(
            f"The '{name}' parameter must hold labels of one type, such as all strings or all "
            f"integers. Got {', '.join(types)}."
        ) from None
    return missing


def validate_targets(y, estimator=None):
    """Return targets as finite float64, 1-D or 2-D."""
    _check_given(y, estimator)
    y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    if y.ndim > 2:
        raise ValueError(
            f"y must have the shape (n_events,) or (n_events, n_targets), got {y.shape}."
        )
    return y


def _check_given(y, estimator):
    if y is None and estimator is not None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y "
            "is None."
        )


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


def center_and_scale(y, sample_weight, *, features=True):
    """Return the weighted mean and standard deviation of every column.

    One that is constant up to rounding has the scale 1 where it is a feature, since others may
    come; where it is a target, the scale of its rounding, so that no width is made up.
    """
    if sample_weight is not None:
        used = sample_weight != 0
        y, sample_weight = y[used], sample_weight[used]
    mean = np.average(y, axis=0, weights=sample_weight)
    # What is constant has no rounding of a sum.
    mean = np.where((y == y[0]).all(0), y[0], mean)
    # In units of the largest deviation, since squares under- and overflow long before numbers do;
    # a power of two, by which nothing is rounded.
    unit = np.abs(y - mean).max(0)
    unit = np.where(unit > 0, np.ldexp(1.0, np.frexp(unit)[1] - 1), 1.0)
    scale = unit * np.sqrt(np.average(((y - mean) / unit) ** 2, axis=0, weights=sample_weight))
    varies = scale > 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean, np.where(varies, scale, 1.0 if features else _rounding(mean))


def _rounding(mean):
    """The scale of the rounding of constants; of zeros, one whose inverse square is a number."""
    rounding = 10 * np.finfo(np.float64).eps * np.abs(mean)
    return np.where(rounding > 0, rounding, _ALMOST_ZERO)


def is_rounding(mean, scale):
    """Which targets were constant, so that their scales are those of rounding errors."""
    return scale <= _rounding(mean)


class SharedParameters:
    """Lets methods declare their own parameters only; those of their base class are added.

    Of a base class that inherits from this one, a method ``def __init__(self, *, own=1, **shared)``
    gets the signature of all parameters, which is what scikit-learn and ``help`` read, and
    {shared_parameters} in its docstring their text, with the defaults that it gives them. Those in
    ``_without`` have no meaning for the method, and are no parameters of it. A method without
    ``**shared`` has the parameters that it declares. A class in between has parameters for its
    methods, too, and says by ``_slot`` in which place of their docstrings those are documented.
    """

    _without = ()
    _slot = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if SharedParameters in cls.__bases__:
            cls.__init__ = _refuse_unknown(cls.__init__)
            return
        base = next(c for c in cls.__mro__ if SharedParameters in c.__bases__)
        constraints = cls._parameter_constraints
        cls._parameter_constraints = {k: v for k, v in constraints.items() if k not in cls._without}
        init = cls.__dict__.get("__init__")
        if init is None and "_without" in cls.__dict__:
            # That of the parent class has the parameters that this one is without.
            def init(self, **shared):
                super(cls, self).__init__(**shared)

            cls.__init__ = init
        own = inspect.signature(init).parameters if init is not None else {}
        if any(p.kind == p.VAR_KEYWORD for p in own.values()):
            shared = inspect.signature(super(cls, cls).__init__).parameters
            merged = {name: p for name, p in own.items() if p.kind != p.VAR_KEYWORD} | {
                name: p for name, p in shared.items() if name not in (*own, *cls._without)
            }
            init.__signature__ = inspect.Signature(merged.values())
        for parent in cls.__mro__[1:]:
            slot = parent.__dict__.get("_slot")
            if cls.__doc__ and slot is not None and parent.__doc__:
                own = parent.__doc__.split("----------\n", 1)[1].rstrip() + "\n"
                cls.__doc__ = cls.__doc__.replace(f"    {{{slot}}}\n", own)
        if cls.__doc__ and base.__doc__:
            shared = base.__doc__.split("----------\n", 1)[1].rstrip() + "\n"
            # What a method says of a parameter itself is not said twice.
            entries = {
                entry.split(" : ")[0].strip(): entry
                for entry in re.split(r"(?m)^(?=    \w+ : )", shared)
            }
            said = [*re.findall(r"(?m)^    (\w+) : ", cls.__doc__), *cls._without]
            parameters = inspect.signature(cls.__init__).parameters
            shared = "".join(
                _with_default(entry, parameters.get(name))
                for name, entry in entries.items()
                if name not in said
            )
            cls.__doc__ = cls.__doc__.replace("    {shared_parameters}\n", shared)


def _with_default(entry, parameter):
    """Return the documentation of a parameter with the default that a method gives it."""
    head, *rest = re.split(r"default=(.+)", entry, maxsplit=1)
    if not rest or parameter is None or ast.literal_eval(rest[0]) == parameter.default:
        return entry
    # As the documentation writes it.
    default = repr(parameter.default).replace("'", '"')
    return f"{head}default={default}{rest[1]}"


def _refuse_unknown(init):
    """Let a base class's ``__init__`` refuse, in the name of the method, what is no parameter."""
    known = inspect.signature(init).parameters

    @functools.wraps(init)
    def __init__(self, **params):
        for name in params:
            if name not in known or name in self._without:
                raise TypeError(
                    f"{type(self).__name__}.__init__() got an unexpected keyword argument {name!r}"
                )
        init(self, **params)

    return __init__


class Uncertainty(NamedTuple):
    """How unsure a model is, and why.

    Of a regressor, standard deviations in the units of y; of a classifier, entropies in nats.
    """

    total: np.ndarray
    #: What the events themselves leave open: noise, overlap of classes.
    aleatoric: np.ndarray
    #: What the model does not know, and more data would tell it.
    epistemic: np.ndarray


class PredictiveRegressorMixin(RegressorMixin):
    """One vocabulary for what a regressor says about its uncertainty.

    A subclass defines ``_predictive(X)``, which makes a :class:`sknuc.predictive.Predictive` of a
    block of validated events, and ``_validate_events(X, reset=...)``; in ``fit`` it calls
    ``_scale_targets``.
    """

    def _predictive(self, X):
        """Return the distribution of the targets, in their units, of a block of events."""
        raise NotImplementedError

    def _numbers_per_event(self):
        """How many numbers the distribution of one event holds, which sets the size of blocks."""
        return 100

    def _scale_targets(self, X, y, sample_weight):
        """Validate targets and scale them to mean 0 and standard deviation 1.

        Sets ``target_mean_``, ``target_scale_`` and what the shape and type of results depends on.

        Returns
        -------
        targets : ndarray of shape (n, n_targets)
        """
        float32 = getattr(y, "dtype", None) == np.float32 and X.dtype == np.float32
        y = validate_targets(y, self)
        check_consistent_length(X, y)
        self._y_ndim = y.ndim
        self._output_dtype = np.float32 if float32 else np.float64
        targets = y.reshape(len(y), -1)
        self.target_mean_, self.target_scale_ = center_and_scale(
            targets, sample_weight, features=False
        )
        return (targets - self.target_mean_) / self.target_scale_

    def _each_block(self, X, function, *, extra=0):
        """Apply a function to the distributions of all events, block by block.

        Parameters
        ----------
        X : validated events
        function : callable
            ``function(predictive, rows) -> tuple of arrays`` of shape (n, ..., n_targets) each, or
            (n,); `rows` is the slice of the block.
        extra : int
            Numbers per event that the function makes.

        Returns
        -------
        results : list of ndarray
        """
        step = max(1, _BLOCK_NUMBERS // (self._numbers_per_event() + extra))
        if X.shape[0] <= step:
            parts = function(self._predictive(X[:]), slice(0, X.shape[0]))
            return [part.astype(self._output_dtype, copy=False) for part in parts]
        results = None
        for start in range(0, X.shape[0], step):
            rows = slice(start, min(start + step, X.shape[0]))
            parts = function(self._predictive(X[rows]), rows)
            if results is None:
                results = [
                    np.empty((X.shape[0], *part.shape[1:]), self._output_dtype) for part in parts
                ]
            for result, part in zip(results, parts, strict=True):
                result[rows] = part
        return results

    def _without_targets_axis(self, result, axis=-1):
        return result.squeeze(axis) if self._y_ndim == 1 else result

    def predict(self, X, return_std=False):
        """Predict the mean of the targets.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        return_std : bool, default=False
            Return the standard deviation of the targets as well, of a new measurement: all that
            the method knows of noise and of its own ignorance.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            In the units of the targets in ``fit``.
        std : ndarray of the same shape
            If `return_std`.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)

        def moments(predictive, _):
            return (predictive.mean(), predictive.std()) if return_std else (predictive.mean(),)

        results = [self._without_targets_axis(part) for part in self._each_block(X, moments)]
        return tuple(results) if return_std else results[0]

    def predict_quantiles(self, X, quantiles=(0.025, 0.16, 0.5, 0.84, 0.975)):
        """Predict quantiles of every target.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        quantiles : float or array-like of shape (n_quantiles,)
            Levels in (0, 1), in any order.

        Returns
        -------
        y : ndarray of shape (n_events, n_quantiles) or (n_events, n_quantiles, n_targets)
            In the units of the targets; of a single level, without the axis of levels.

        Raises
        ------
        ValueError
            If a level is not in (0, 1).
        """
        check_is_fitted(self)
        levels = check_quantiles(quantiles)
        X = self._validate_events(X, reset=False)
        extra = len(levels) * len(self.target_mean_)
        (result,) = self._each_block(X, lambda p, _: (p.quantiles(levels),), extra=extra)
        result = self._without_targets_axis(result)
        return result[:, 0] if np.ndim(quantiles) == 0 else result

    def predict_interval(self, X, coverage=0.68):
        """Predict the central interval that holds a share `coverage` of each target.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        coverage : float in (0, 1), default=0.68
            The probability; (1 - coverage)/2 is left on either side.

        Returns
        -------
        interval : ndarray of shape (n_events, 2) or (n_events, 2, n_targets)
            Lower and upper ends, in the units of the targets.

        Raises
        ------
        ValueError
            If the coverage is not in (0, 1).
        """
        coverage = check_coverage(coverage)
        return self.predict_quantiles(X, [(1 - coverage) / 2, (1 + coverage) / 2])

    def sample_y(self, X, n_samples=1, random_state=0):
        """Draw targets from the predicted distribution.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        n_samples : int, default=1
            Draws per event.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.

        Returns
        -------
        y : ndarray of shape (n_events, n_samples) or (n_events, n_targets, n_samples)
            In the units of the targets; a draw holds all targets together.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(
                f"The 'n_samples' parameter of sample_y must be a positive int. Got {n_samples!r} "
                "instead."
            )
        X = self._validate_events(X, reset=False)
        rng = check_random_state(random_state)
        extra = n_samples * len(self.target_mean_)
        (result,) = self._each_block(X, lambda p, _: (p.sample(n_samples, rng),), extra=3 * extra)
        return self._without_targets_axis(result, axis=1)

    @available_if(lambda self: self._has_density())
    def log_prob(self, X, y):
        """Log of the predicted density at measured targets.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.

        Returns
        -------
        log_prob : ndarray of shape (n_events,)
            Of all targets together, per unit of each.

        Raises
        ------
        ValueError
            If `y` has another number of targets than in ``fit``.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        y = validate_targets(y)
        check_consistent_length(X, y)
        targets = y.reshape(len(y), -1)
        if targets.shape[1] != len(self.target_mean_):
            raise ValueError(
                f"y has the shape {y.shape}, but {type(self).__name__} was fitted on "
                f"{len(self.target_mean_)} targets."
            )
        (result,) = self._each_block(X, lambda p, rows: (p.log_prob(targets[rows]),))
        return result

    def _has_density(self):
        return True

    @available_if(lambda self: self._splits_uncertainty())
    def predict_uncertainty(self, X):
        """Standard deviation of the targets, and what it is made of.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        uncertainty : named tuple (total, aleatoric, epistemic)
            Standard deviations of shape (n_events,) or (n_events, n_targets) in the units of the
            targets, with total² = aleatoric² + epistemic².
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        total, epistemic = (
            self._without_targets_axis(part)
            for part in self._each_block(X, lambda p, _: (p.std(), p.epistemic()))
        )
        aleatoric = np.sqrt(np.maximum(total**2 - epistemic**2, 0))
        return Uncertainty(total, aleatoric, epistemic)

    def _splits_uncertainty(self):
        return False

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class EnsembleClassifierMixin(ClassifierMixin):
    r"""One vocabulary for classifiers that are many: members of an ensemble, draws of a posterior.

    A subclass defines ``_member_probabilities(X)``, of shape (n_events, n_members, n_classes), for
    a block of validated events, ``_validate_events(X, reset=...)`` and ``classes_``.

    The entropy of the mean is the entropy within the members on average (aleatoric) plus what the
    members tell about the label (epistemic, the mutual information),

    .. math:: H[\bar p] = \frac{1}{K}\sum_k H[p_k] + I .
    """

    def _member_probabilities(self, X):
        """Return the members' probabilities, (n, n_members, n_classes), of a block of events."""
        raise NotImplementedError

    def _member_weights(self):
        """Return the weights of the members, (n_members,) with the sum 1; None if all are alike."""
        return None

    def _numbers_per_event(self):
        """How many numbers the members' probabilities of one event are."""
        return 100

    def _each_block(self, X, function, shape):
        step = max(1, _BLOCK_NUMBERS // self._numbers_per_event())
        weights = self._member_weights()
        result = None
        for start in range(0, X.shape[0], step):
            rows = slice(start, min(start + step, X.shape[0]))
            members = self._member_probabilities(X[rows])
            if result is None:
                result = np.empty((X.shape[0], *shape), members.dtype)
            mean = np.average(members, axis=1, weights=weights)
            result[rows] = function(mean, members)
        return result

    def predict_proba(self, X):
        """Probability of every class, the mean over the members.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        probabilities : ndarray of shape (n_events, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        return self._each_block(X, lambda mean, _: mean, (len(self.classes_),))

    def predict(self, X):
        """Predict the most probable class.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        labels : ndarray of shape (n_events,)
        """
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def predict_uncertainty(self, X):
        """Entropy of the label, and what it is made of.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        uncertainty : named tuple (total, aleatoric, epistemic)
            Entropies of shape (n_events,) in nats, total = aleatoric + epistemic.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        weights = self._member_weights()

        def split(mean, members):
            within = np.average(entr(members).sum(2), axis=1, weights=weights)
            return np.column_stack([entr(mean).sum(1), within])

        total, aleatoric = self._each_block(X, split, (2,)).T
        # By rounding, the difference of two equal entropies may be below zero.
        return Uncertainty(total, aleatoric, np.maximum(total - aleatoric, 0))


def check_coverage(coverage, method="predict_interval"):
    """Return a coverage in (0, 1).

    Raises
    ------
    ValueError
        If it is anything else; the message names the method.
    """
    if not isinstance(coverage, Real) or not 0 < coverage < 1:
        raise ValueError(
            f"The 'coverage' parameter of {method} must be a float in (0, 1). Got {coverage!r} "
            "instead."
        )
    return float(coverage)


def check_quantiles(quantiles, name="'quantiles' parameter"):
    """Return levels in (0, 1) as a 1-D array; `name` is what an error calls them.

    Raises
    ------
    ValueError
        If there is none, or one lies outside.
    """
    try:
        levels = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    except (TypeError, ValueError):
        levels = np.empty(0)
    if levels.ndim != 1 or levels.size == 0 or not np.all((levels > 0) & (levels < 1)):
        raise ValueError(
            f"The {name} must be one level or a list of levels in (0, 1), such as [0.16, 0.5, "
            f"0.84]. Got {quantiles!r} instead."
        )
    return levels


def check_widths(name, widths):
    """Check that a tuple of layer widths holds positive integers.

    Raises
    ------
    ValueError
        If it does not.
    """
    widths = list(widths)
    if not all(
        isinstance(width, Integral) and not isinstance(width, bool) and width > 0
        for width in widths
    ):
        raise ValueError(
            f"The {name!r} parameter must hold positive integers, one per layer. Got {widths!r} "
            "instead."
        )
    return [int(width) for width in widths]
