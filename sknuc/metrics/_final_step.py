"""The estimator that knows distributions, within pipelines and searches."""

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length

__all__ = ["final_name", "final_step", "judged_step", "unfitted_step"]


def _held(estimator):
    """What is asked for the predictions of a search, a pipeline or what is frozen, or None."""
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    if hasattr(estimator, "best_estimator_"):
        return estimator.best_estimator_
    return estimator[-1] if isinstance(estimator, Pipeline) else None


def unfitted_step(estimator):
    """Return what :func:`final_step` will find once the estimator is fitted."""
    while isinstance(estimator, FrozenEstimator | BaseSearchCV | Pipeline):
        estimator = estimator[-1] if isinstance(estimator, Pipeline) else estimator.estimator
    return estimator


def final_step(estimator, X):
    """Return the estimator that knows distributions, and the events as it sees them.

    Searches and pipelines pass ``predict`` on, but not the methods of distributions. Others that
    hold estimators change what is predicted, and are not looked into.
    """
    while (held := _held(estimator)) is not None:
        if isinstance(estimator, Pipeline) and len(estimator) > 1:
            X = estimator[:-1].transform(X)
        estimator = held
    return estimator, X


def final_name(estimator):
    """Return the name of the class of the last step."""
    while (held := _held(estimator)) is not None:
        estimator = held
    return type(estimator).__name__


def judged_step(caller, estimator, X, y, method):
    """Return :func:`final_step`, once it has the method and `y` fits to its events and targets."""
    check_consistent_length(X, y)
    estimator, X = final_step(estimator, X)
    _check_method(caller, estimator, method)
    # One event tells the targets, before all of them take their time.
    targets = np.shape(estimator.predict(_safe_indexing(X, slice(0, 1))))[1:]
    wanted = (np.shape(y)[0], *targets)
    if np.shape(y) != wanted:
        n_targets = targets[0] if targets else 1
        raise ValueError(
            f"The 'y' parameter of {caller} must have the shape {wanted}, as "
            f"{type(estimator).__name__} predicts {n_targets} target{'s' * (n_targets != 1)}. Got "
            f"the shape {np.shape(y)} instead."
        )
    return estimator, X


def _check_method(caller, estimator, method):
    """Raise an error where the estimator cannot say what `caller` asks for."""
    if hasattr(estimator, method):
        return
    if isinstance(estimator, TransformedTargetRegressor):
        advice = (
            "It turns predictions back into the targets, but no distributions. sknuc's regressors "
            "centre and scale targets by themselves and need no such step; for other "
            "transformations, fit the regressor on the transformed targets and give those as y."
        )
    elif method == "log_prob":
        advice = "Take a method with a density, such as FlowRegressor, or another score."
    else:
        advice = (
            "Of estimators that hold others only searches and pipelines are looked into. "
            "ConformalRegressor gives intervals to any regressor."
        )
    raise ValueError(
        f"The 'estimator' parameter of {caller} must have the method {method}. "
        f"{type(estimator).__name__} has none. {advice}"
    )
