"""Estimators that say how sure they are: what conformal scores and the bootstrap ask of one."""

import inspect

from sklearn.compose import TransformedTargetRegressor

from sknuc.metrics._final_step import unfitted_step

__all__ = ["check_return_std"]


def check_return_std(estimator, asked_by):
    """Check that ``predict`` of an estimator, or of what it ends in, has `return_std`.

    Parameters
    ----------
    estimator : estimator instance
        A pipeline, a search or one that is frozen is looked into.
    asked_by : str
        The parameter that asks for it, with its value.

    Raises
    ------
    ValueError
        If it has not.
    """
    last = unfitted_step(estimator)
    parameters = inspect.signature(last.predict).parameters if hasattr(last, "predict") else {}
    passed_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    # Of targets that are transformed back there is no standard deviation, whatever is passed on.
    passed_on &= not isinstance(last, TransformedTargetRegressor)
    if "return_std" not in parameters and not passed_on:
        raise ValueError(
            f"{asked_by} asks for standard deviations, and so the 'estimator' parameter must have "
            "predict(X, return_std=True), as GPRegressor and BayesianRidge have. Got "
            f"{type(last).__name__} instead, which gives none."
        )
