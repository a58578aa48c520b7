r"""What the Brier score is made of.

The Brier score :math:`\mathrm{E}(p - y)^2` fines probabilities for being wrong in two ways: for
promising too much or too little, and for not telling events apart. Let :math:`c(p)` be the true
fraction of hits among the events of probability p, and :math:`\bar y` that among all events. Then

.. math::

    \underbrace{\mathrm{E}(p - y)^2}_{\text{Brier score}}
    = \underbrace{\mathrm{E}(p - c)^2}_{\text{reliability}}
    - \underbrace{\mathrm{E}(c - \bar y)^2}_{\text{resolution}}
    + \underbrace{\bar y (1 - \bar y)}_{\text{uncertainty}}.

A recalibration takes the first term away, nothing takes away the last. :math:`c(p)` is estimated by
isotonic regression of the hits on p, the best probabilities of all that keep the order of events:
no choice of bins enters, reliability and resolution are never negative, and the sum is exact.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from sklearn.utils._param_validation import validate_params

from sknuc.base import validate_weights
from sknuc.metrics._score_probabilities import PROBABILITIES, check_probabilities, reduce_classes

__all__ = ["BrierDecomposition", "brier_decomposition"]


class BrierDecomposition(NamedTuple):
    """The Brier score, which is reliability less resolution plus uncertainty."""

    brier: float
    #: How far probabilities are from frequencies; zero when calibrated.
    reliability: float
    #: How far the frequencies of different probabilities are apart.
    resolution: float
    #: The score of the same probability for all events, at best.
    uncertainty: float


def _decompose(prob, hit, weight):
    """Reliability, resolution and uncertainty of one binary question."""
    _, inverse = np.unique(prob, return_inverse=True)
    w = np.bincount(inverse, weights=weight)
    # Events of one probability share one frequency.
    frequency = isotonic_regression(np.bincount(inverse, weights=weight * hit) / w, weights=w).x
    rate = np.average(hit, weights=weight)
    # Averages of hits may leave [0, 1] by rounding.
    base, score, best = (
        np.average((p - hit) ** 2, weights=weight)
        for p in (rate, prob, np.clip(frequency, 0, 1)[inverse])
    )
    return score, score - best, base - best, base


@validate_params(
    {name: PROBABILITIES[name] for name in PROBABILITIES if name != "multiclass"},
    prefer_skip_nested_validation=True,
)
def brier_decomposition(
    y_true, y_prob, *, sample_weight=None, labels=None, pos_label=None
) -> BrierDecomposition:
    """Split the Brier score into reliability, resolution and uncertainty.

    Parameters
    ----------
    y_true : array-like of shape (n_events,)
        The true classes.
    y_prob : array-like of shape (n_events,) or (n_events, n_classes)
        The probability of the positive class, or that of every class as ``predict_proba`` returns.
        Of two classes one column says all; of more, the terms of every class against the rest are
        added, as :func:`sklearn.metrics.brier_score_loss` does.
    sample_weight : array-like of shape (n_events,), default=None
        Weights, not negative: an isotonic regression has no meaning for weights that are.
    labels : array-like of shape (n_classes,), default=None
        The classes of the columns, ``classes_`` of the classifier, the second one of which a 1-D
        `y_prob` is; None for the sorted classes of `y_true`.
    pos_label : int, float, bool or str, default=None
        The positive class of two; None for that of the second column, and for 1 among {0, 1} or
        {-1, 1} of a 1-D `y_prob`.

    Returns
    -------
    result : named tuple (brier, reliability, resolution, uncertainty)
        With brier = reliability - resolution + uncertainty.

    Raises
    ------
    ValueError
        If probabilities are no probabilities, classes and columns do not fit, or a weight is
        negative.

    References
    ----------
    .. [1] A. H. Murphy, "A new vector partition of the probability score", J. Appl. Meteorol. 12
       (1973) 595.
    .. [2] T. Dimitriadis, T. Gneiting and A. I. Jordan, "Stable reliability diagrams for
       probabilistic classifiers", PNAS 118 (2021) e2016191118.

    Examples
    --------
    >>> from sknuc.metrics import brier_decomposition
    >>> result = brier_decomposition([0, 0, 1, 1], [0.2, 0.2, 0.7, 0.7])  # right, too careful
    >>> print(f"{result.brier:.3f} {result.reliability:.3f} {result.resolution:.3f}")
    0.065 0.065 0.250
    """
    y, prob, weight = check_probabilities(
        "brier_decomposition", y_true, y_prob, sample_weight, labels, pos_label
    )
    validate_weights(sample_weight, y)
    y, prob, weight = y[weight > 0], prob[weight > 0], weight[weight > 0]
    questions = reduce_classes(y, prob, "classwise")
    terms = np.sum([_decompose(p, hit, weight) for p, hit in questions], axis=0)
    return BrierDecomposition(*(float(term) for term in terms))
