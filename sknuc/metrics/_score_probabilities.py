"""What scores of classifiers' probabilities accept."""

from numbers import Real

import numpy as np
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_pos_label_consistency

from sknuc.base import validate_labels, validate_weights
from sknuc.metrics._score_validation import as_numbers

__all__ = ["PROBABILITIES", "check_probabilities", "reduce_classes"]

PROBABILITIES = {
    "y_true": ["array-like"],
    "y_prob": ["array-like"],
    "sample_weight": ["array-like", None],
    "multiclass": [StrOptions({"top-label", "classwise"})],
    "labels": ["array-like", None],
    "pos_label": [Real, str, "boolean", None],
}

ROUNDING = 1e-6


def check_probabilities(function, y_true, y_prob, sample_weight, labels, pos_label):
    """Validate classes and their probabilities.

    Parameters
    ----------
    function : str
        Who asks, for the errors.
    y_true : array-like of shape (n_events,)
    y_prob : array-like of shape (n_events,) or (n_events, n_classes)
    sample_weight : array-like of shape (n_events,) or None
    labels : array-like of shape (n_classes,) or None
    pos_label : int, float, bool, str or None

    Returns
    -------
    codes : ndarray of int of shape (n_events,)
        The column of the true class; for a 1-D `prob` 1 for the positive class, 0 for the other.
    prob : ndarray of shape (n_events,) or (n_events, n_classes)
        One column of two is that of the positive class: the other one says the same.
    weight : ndarray of shape (n_events,)
    """
    prob = as_numbers("y_prob", y_prob)
    if np.size(y_true) == 0 or prob.size == 0:
        raise ValueError(
            f"The 'y_true' and 'y_prob' parameters of {function} must hold one event at least. Got "
            f"the shapes {np.shape(y_true)} and {prob.shape} instead."
        )
    y = validate_labels(y_true)
    check_consistent_length(y, prob)
    # Sums of 32-bit floats may exceed one by rounding.
    bad = ~((prob >= -ROUNDING) & (prob <= 1 + ROUNDING))
    if prob.ndim not in (1, 2) or np.any(bad):
        raise ValueError(
            f"The 'y_prob' parameter of {function} must hold probabilities in [0, 1], of shape "
            f"(n_events,) or (n_events, n_classes). Got the shape {prob.shape} and "
            f"{np.count_nonzero(bad)} values that are none."
        )
    prob = np.clip(prob, 0.0, 1.0)
    weight = validate_weights(sample_weight, y, allow_negative=True)
    weight = np.ones(len(y)) if weight is None else weight
    if prob.ndim == 1:
        classes = np.unique(y if labels is None else labels)
        if len(classes) > 2:
            raise ValueError(
                f"The '{'y_true' if labels is None else 'labels'}' parameter of {function} must "
                f"hold two classes for a 1-D y_prob. Got {len(classes)}; give the probabilities of "
                "every class instead."
            )
        if labels is None:
            positive = _check_pos_label_consistency(pos_label, y)
        else:
            _check_classes(function, classes, 2, y, np.isin(y, classes))
            positive = np.asarray(labels).tolist()[1] if pos_label is None else pos_label
        # Events of one class alone may be those that are not positive.
        if len(classes) == 2:
            _check_positive(function, positive, classes.tolist())
        return (y == positive).astype(np.intp), prob, weight
    off = np.abs(prob.sum(axis=1) - 1)
    if off.max() > 1e-3:
        raise ValueError(
            f"The 'y_prob' parameter of {function} must hold probabilities that sum to 1 for each "
            f"event. Got {np.count_nonzero(off > 1e-3)} of {len(prob)} rows that do not, one by "
            f"{off.max():.2g}."
        )
    classes = np.unique(y) if labels is None else np.asarray(labels)
    order = np.argsort(classes)
    codes = order[np.searchsorted(classes, y, sorter=order).clip(max=len(classes) - 1)]
    _check_classes(function, classes, prob.shape[1], y, classes[codes] == y)
    names = classes.tolist()
    if pos_label is not None:
        _check_positive(function, pos_label, names)
    if len(names) == 2:
        column = 1 if pos_label is None else names.index(pos_label)
        return (codes == column).astype(np.intp), prob[:, column], weight
    return codes, prob, weight


def _check_classes(function, classes, n_columns, y, known):
    if len(classes) != n_columns or not known.all():
        raise ValueError(
            f"The 'labels' parameter of {function} must name the class of each of the "
            f"{n_columns} columns of y_prob, as classes_ of the classifier does. Got "
            f"{classes.tolist()!r:.200} for the classes {np.unique(y).tolist()!r:.200} in y_true."
        )


def _check_positive(function, pos_label, names):
    if len(names) > 2 or pos_label not in names:
        raise ValueError(
            f"The 'pos_label' parameter of {function} must be one of two classes, or None. Got "
            f"{pos_label!r} for the classes {names!r:.200}; of more than two, give the column of "
            "one as a 1-D y_prob."
        )


def reduce_classes(codes, prob, multiclass):
    """Binary questions that probabilities answer: pairs of probability and whether it was hit."""
    if prob.ndim == 1:
        return [(prob, codes == 1)]
    if multiclass == "top-label":
        top = prob.argmax(axis=1)
        return [(prob[np.arange(len(prob)), top], codes == top)]
    return [(prob[:, k], codes == k) for k in range(prob.shape[1])]
