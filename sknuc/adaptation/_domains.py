"""Which events are of the source domain and which of the target, as scikit-adaptation says it.

``sample_domain`` has an integer per event: that of a source, the simulation with its labels, is
zero or more; that of a target, the measured data, is negative. So one table holds both, and goes
through pipelines, searches and cross-validation like any other. Events of the target carry some
``y``, as every event of a table must; it means nothing and is never looked at.
"""

import warnings
from numbers import Real

import numpy as np
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sknuc.base import levels_to_user, validate_labels, validate_targets, validate_weights
from sknuc.exceptions import DomainWarning

__all__ = [
    "DomainAdapterMixin",
    "DomainScoreMixin",
    "source_labels",
    "source_targets",
    "split_domains",
    "warn_without_domains",
]

_CODES = (
    "sample_domain must have an integer per event: zero or more for the source (simulation, with "
    "labels), less than zero for the target (data)."
)
_KINDS = {"b": "booleans", "U": "strings", "c": "complex numbers", "M": "dates"}


class DomainAdapterMixin:
    """Lets ``fit`` request `sample_domain` from pipelines and searches that route metadata."""

    __metadata_request__fit = {"sample_domain": True}


class DomainScoreMixin(DomainAdapterMixin):
    """A ``score`` that looks at no label of the target where it is told which they are.

    A subclass defines ``_as_source()``, a copy that predicts events as those of the source, and
    ``_of_source(y, target)``, what y says of the source, validated.
    """

    __metadata_request__score = {"sample_domain": True}

    def score(self, X, y, sample_weight=None, sample_domain=None):
        """Score predictions: accuracy of a classifier, R² of a regressor.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events, of the target unless `sample_domain` says otherwise.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The truth.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Weights.
        sample_domain : array-like of shape (n_events,) or None, default=None
            If given, as in a search that routes it, the truth of events below zero is unknown: the
            others are scored, as events of the source. That tells nothing of the adaptation.
            Scorers with a name, such as ``scoring="accuracy"``, do not know of it, and look at the
            labels of all events; those of :func:`sknuc.adaptation.make_domain_scorer` do not.

        Returns
        -------
        score : float
        """
        if sample_domain is None:
            return super().score(X, y, sample_weight)
        check_is_fitted(self)
        target = split_domains(sample_domain, X, least_target=0)
        weight = validate_weights(sample_weight, X)
        weight = None if weight is None else weight[~target]
        return self._as_source().score(
            _safe_indexing(X, ~target), self._of_source(y, target), weight
        )


def split_domains(sample_domain, X, *, least_source=1, least_target=2, sample_weight=None):
    """Tell which events are of the target domain.

    Parameters
    ----------
    sample_domain : array-like of shape (n_events,) or None
        An integer per event: at least 0 for the source, less for the target. None: all events are
        of the source, of which the caller warns (:func:`warn_without_domains`).
    X : array-like of shape (n_events, ...)
        The events.
    least_source, least_target : int
        How many events of either domain the caller needs.
    sample_weight : ndarray of shape (n_events,) or None
        Validated weights; events of weight zero are absent, and do not count.

    Returns
    -------
    target : ndarray of bool of shape (n_events,), or None
        Which events are of the target; None if `sample_domain` is None.

    Raises
    ------
    ValueError
        If there is not one integer per event, or too few events of a domain.
    """
    if sample_domain is None:
        return None
    try:
        codes = np.asarray(sample_domain)
        if codes.dtype.kind == "O":
            # Of the type that its values have: numbers, as far as they are.
            codes = np.asarray(codes.tolist())
    except ValueError:
        raise ValueError(f"{_CODES} Got lists of different lengths instead.") from None
    if codes.ndim == 2 and codes.shape[1] == 1:
        codes = codes[:, 0]
    if codes.ndim != 1:
        raise ValueError(f"{_CODES} Got an array of shape {codes.shape} instead.")
    check_consistent_length(X, codes)
    if codes.dtype.kind not in "iuf":
        kind = _KINDS.get(codes.dtype.kind, "something else")
        values = np.asarray(sample_domain, dtype=object).ravel().tolist()
        others = (code for code in values if isinstance(code, bool) or not isinstance(code, Real))
        raise ValueError(f"{_CODES} Got {kind} instead, such as {next(others, values[0])!r}.")
    wrong = ~np.isfinite(codes) | (codes != np.trunc(codes))
    if wrong.any():
        raise ValueError(
            f"{_CODES} Got {codes[wrong][0]:g} instead, and {wrong.sum()} such values of "
            f"{len(codes)}."
        )
    target = codes < 0
    present = True if sample_weight is None else np.asarray(sample_weight) != 0
    for name, sign, rows, least in (
        ("source", ">= 0", ~target, least_source),
        ("target", "< 0", target, least_target),
    ):
        n_rows = int(np.count_nonzero(rows & present))
        if n_rows < least:
            raise ValueError(
                f"sample_domain must have at least {least} of the {name} domain ({sign}). Got "
                f"{n_rows} of {len(codes)} events"
                + (", those of weight zero left out." if sample_weight is not None else ".")
            )
    return target


def source_labels(estimator, y, target):
    """Return the labels of the source events; those of target events are not looked at.

    Parameters
    ----------
    estimator : estimator instance
        Named in errors.
    y : array-like of shape (n_events,)
        Labels of all events. Of the target it may hold anything: NaN, None, what is no class.
    target : ndarray of bool of shape (n_events,), or None
        From :func:`split_domains`; None if all events are of the source.

    Returns
    -------
    labels : ndarray of shape (n_source,)
        In the order of the events, after scikit-learn's checks.
    """
    return validate_labels(_of_source(y, target), estimator)


def source_targets(estimator, y, target):
    """Return the regression targets of the source events, as :func:`source_labels` does labels.

    Parameters
    ----------
    estimator : estimator instance
    y : array-like of shape (n_events,) or (n_events, n_targets)
    target : ndarray of bool of shape (n_events,), or None

    Returns
    -------
    targets : ndarray of float64 of shape (n_source,) or (n_source, n_targets)
    """
    return validate_targets(_of_source(y, target), estimator)


def _of_source(y, target):
    """Part of y that is of the source, of a type that its values alone decide."""
    if y is None or target is None:
        return y
    check_consistent_length(y, target)
    # numpy would turn [0, 1, "unknown"] into strings.
    listed = not hasattr(y, "__array__")
    y = np.asarray(y, dtype=object) if listed else np.asarray(y)
    y = y[~target]
    if y.dtype.kind != "O":
        return y
    typed = np.asarray(y.tolist())
    of_strings = typed.dtype.kind == "U" and listed and set(map(type, y.ravel())) == {str}
    return typed if typed.dtype.kind in "biuf" or of_strings else y


def warn_without_domains(estimator):
    """Warn that an adapter was fitted on source events alone, and so adapts to nothing."""
    warnings.warn(
        f"{type(estimator).__name__} got no sample_domain: all events are taken for those of the "
        "source, and nothing is adapted. Give fit a sample_domain, an integer per event, with "
        "values below zero for events of the target.",
        DomainWarning,
        stacklevel=levels_to_user(),
    )
