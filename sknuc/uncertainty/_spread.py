"""Estimators that say how sure they are: what conformal scores and the bootstrap ask of one."""

import inspect

from sklearn.pipeline import Pipeline

__all__ = ["check_return_std"]


def check_return_std(estimator, asked_by):
    """Check that ``predict`` of an estimator, or of the last step of a Pipeline, has `return_std`.

    Parameters
    ----------
    estimator : estimator instance
    asked_by : str
        The parameter that asks for it, with its value.

    Raises
    ------
    ValueError
        If it has not.
    """
    last = estimator
    while isinstance(last, Pipeline):
        last = last.steps[-1][1]
    parameters = inspect.signature(last.predict).parameters if hasattr(last, "predict") else {}
    passed_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if "return_std" not in parameters and not passed_on:
        raise ValueError(
            f"{asked_by} asks for standard deviations, and so the 'estimator' parameter must have "
            "predict(X, return_std=True), as GPRegressor and BayesianRidge have. Got "
            f"{type(last).__name__} instead, whose predict has no return_std."
        )
