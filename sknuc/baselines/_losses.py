r"""Losses of boosted trees, as xgboost knows them and as signed weights need them.

Boosting reads a loss :math:`\ell(y, f)` of the margin :math:`f` through its derivatives
:math:`g=\partial\ell/\partial f` and :math:`h` (an upper bound of the second one). A leaf takes the
Newton step :math:`-\sum w g/(\sum w h + \lambda)`. xgboost computes both sums in C++ and refuses
negative weights there. The sums have a meaning for signed weights too, as long as
:math:`\sum w h` stays positive, which ``min_child_weight`` sees to; so the derivatives are written
out here once more, and are handed over already multiplied by the signed weights.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_softmax, softmax

__all__ = ["LOSSES", "loss_metric", "signed_objective"]

# xgboost bounds a Poisson step by bounding the hessian from below in this way.
POISSON_MAX_DELTA_STEP = 0.7


class Loss(NamedTuple):
    """A loss: xgboost's names, the largest mean of h before the first tree, the loss, (g, h).

    `metric` is None where none of xgboost's is the loss itself; `link` turns what xgboost hands to
    a metric of one's own into the margin.
    """

    objective: str
    metric: str | None
    first_hessian: float
    value: Callable | None = None
    derivatives: Callable | None = None
    link: Callable = np.asarray


def _one_hot(y, f):
    return np.arange(f.shape[1]) == y[:, None]


def _binary(y, f):
    p = expit(f)
    return p - y, p * (1 - p)


def _multiclass(y, f):
    p = softmax(f, axis=1)
    return p - _one_hot(y, f), 2 * p * (1 - p)


def _pseudo_huber(y, f):
    root = np.sqrt(1 + (f - y) ** 2)
    return (f - y) / root, 1 / root**3


def _poisson(y, f):
    return np.exp(f) - y, np.exp(f + POISSON_MAX_DELTA_STEP)


def _gamma(y, f):
    return 1 - y * np.exp(-f), y * np.exp(-f)


LOSSES = {
    # The margin itself and not its probability, whose first value xgboost would clip at 1e-6.
    "binary": Loss("binary:logitraw", None, 0.25, lambda y, f: np.logaddexp(0, f) - y * f, _binary),
    "multiclass": Loss(
        "multi:softprob",
        "mlogloss",
        0.5,
        lambda y, f: -np.sum(_one_hot(y, f) * log_softmax(f, axis=1), axis=1),
        _multiclass,
    ),
    "squared_error": Loss(
        "reg:squarederror",
        None,
        1.0,
        lambda y, f: (f - y) ** 2,
        lambda y, f: (f - y, np.ones_like(f)),
    ),
    # A median is no Newton step: xgboost refreshes its leaves, which signed weights do not allow.
    "absolute_error": Loss("reg:absoluteerror", "mae", 1.0),
    "huber": Loss(
        "reg:pseudohubererror",
        "mphe",
        1.0,
        lambda y, f: np.sqrt(1 + (f - y) ** 2) - 1,
        _pseudo_huber,
    ),
    "poisson": Loss(
        "count:poisson",
        None,
        float(np.exp(POISSON_MAX_DELTA_STEP)),
        lambda y, f: np.exp(f) - y * f,
        _poisson,
        np.log,
    ),
    "gamma": Loss("reg:gamma", "gamma-nloglik", 1.0, lambda y, f: f + y * np.exp(-f), _gamma),
}


def _columns(values, margin):
    return (
        values
        if values.ndim == margin.ndim
        else values.reshape(len(values), *[1] * (margin.ndim - 1))
    )


def signed_objective(loss, y, weight):
    """Return xgboost's ``obj`` callback for signed weights."""

    def objective(margin, dtrain):
        margin = margin.astype(np.float64).reshape(len(y), -1)
        margin = margin[:, 0] if margin.shape[1] == 1 else margin
        g, h = loss.derivatives(y, margin)
        w = _columns(weight, margin)
        return g * w, h * w

    return objective


def loss_metric(loss, y, weight, link=np.asarray):
    """Return xgboost's ``custom_metric`` callback: the weighted mean of the loss.

    With an objective of one's own, xgboost hands over the margin, and `link` is the identity.
    """

    def metric(prediction, deval):
        margin = link(prediction.astype(np.float64).reshape(len(y), -1))
        margin = margin[:, 0] if margin.shape[1] == 1 else margin
        value = loss.value(y, margin)
        return "loss", float(np.average(value.reshape(len(y), -1).mean(axis=1), weights=weight))

    return metric
