"""The estimator that knows distributions, within pipelines and searches.

Searches and pipelines pass ``predict`` on, but not the methods of distributions. Others that hold
estimators change what is predicted, and are not looked into.
"""

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.validation import check_is_fitted

__all__ = ["final_step", "fitted_steps", "is_frozen", "judged_step", "unfitted_step"]


def _held(estimator):
    """What a search, a pipeline or what is frozen asks for its predictions, or None for others.

    A search before its fit is known by its parameters `estimator` and `refit`.
    """
    if isinstance(estimator, FrozenEstimator):
        return estimator.estimator
    if isinstance(estimator, Pipeline):
        return estimator[-1]
    if hasattr(estimator, "best_estimator_"):
        return estimator.best_estimator_
    is_search = hasattr(estimator, "estimator") and hasattr(estimator, "refit")
    # Who tunes a threshold refits too, but predicts by more than what it holds.
    if not is_search or hasattr(estimator, "estimator_"):
        return None
    if not estimator.refit:
        raise ValueError(
            f"The 'refit' parameter of {type(estimator).__name__} must be True, or tell which "
            f"candidate is fitted to all events. Got {estimator.refit!r} instead, which keeps no "
            "estimator that could be asked."
        )
    return estimator.estimator


def unfitted_step(estimator):
    """Return what :func:`final_step` will find once the estimator is fitted."""
    while (held := _held(estimator)) is not None:
        estimator = held
    return estimator


def is_frozen(estimator):
    """Whether ``fit`` leaves what is asked in the end as it is."""
    while estimator is not None and not isinstance(estimator, FrozenEstimator):
        estimator = _held(estimator)
    return estimator is not None


def fitted_steps(estimator):
    """Return what is asked in the end, and the pipelines that transform the events before it."""
    pipelines = []
    while (held := _held(estimator)) is not None:
        if isinstance(estimator, Pipeline):
            if len(estimator) > 1:
                pipelines.append(estimator[:-1])
        elif not (isinstance(estimator, FrozenEstimator) or hasattr(estimator, "best_estimator_")):
            # What a search is given is not what it finds, even if it is fitted.
            check_is_fitted(estimator, "best_estimator_")
        estimator = held
    return estimator, pipelines


def final_step(estimator, X):
    """Return the estimator that knows distributions, and the events as it sees them."""
    estimator, pipelines = fitted_steps(estimator)
    for pipeline in pipelines:
        X = pipeline.transform(X)
    return estimator, X


def judged_step(caller, estimator, X, y, *methods):
    """Return :func:`final_step`, once it has the methods and `y` fits to its events and targets.

    Of an estimator without ``predict`` the targets are left to what compares them with `y`.
    """
    check_consistent_length(X, y)
    # One event tells the targets, before all of them take their time.
    last, event = final_step(estimator, _safe_indexing(X, slice(0, 1)))
    for method in methods:
        _check_method(caller, last, method)
    if hasattr(last, "predict"):
        targets = np.shape(last.predict(event))[1:]
        wanted = (np.shape(y)[0], *targets)
        if np.shape(y) != wanted:
            n_targets = targets[0] if targets else 1
            raise ValueError(
                f"The 'y' parameter of {caller} must have the shape {wanted}, as "
                f"{type(last).__name__} predicts {n_targets} target{'s' * (n_targets != 1)}. Got "
                f"the shape {np.shape(y)} instead."
            )
    return final_step(estimator, X)


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
    elif method == "predict":
        advice = "Give its predictions to from_predictions."
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
