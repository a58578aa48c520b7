"""The estimator that knows distributions, within pipelines and searches."""

from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline

__all__ = ["check_method", "final_step"]


def final_step(estimator, X):
    """Return the estimator that knows distributions, and the events as it sees them.

    Searches and pipelines pass ``predict`` on, but not the methods of distributions. Others that
    hold estimators change what is predicted, and are not looked into.
    """
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        else:
            return estimator, X


def check_method(caller, estimator, method):
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
