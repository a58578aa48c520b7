"""What the displays of predicted distributions share."""

from sklearn.pipeline import Pipeline

__all__ = ["BANDS", "check_method", "final_step", "name_targets"]

#: Names of the bands, and their half widths in standard deviations.
BANDS = (("95 % band", 1.96, "#E6E6E6"), ("68 % band", 0.994, "#CCCCCC"))


def final_step(estimator, X):
    """Return the estimator that knows distributions, and the events as it sees them.

    Searches and pipelines pass ``predict`` on, but not the methods of distributions.
    """
    while True:
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, Pipeline):
            X = estimator[:-1].transform(X) if len(estimator) > 1 else X
            estimator = estimator[-1]
        else:
            return estimator, X


def check_method(display, estimator, method):
    """Raise an error where the estimator cannot say what is to be drawn."""
    if not hasattr(estimator, method):
        raise ValueError(
            f"The 'estimator' parameter of {display}.from_estimator must have the method {method}. "
            f"{type(estimator).__name__} has none; ConformalRegressor gives intervals to any "
            "regressor."
        )


def name_targets(name, shape, target_names, default):
    """Names of the curves of all targets."""
    n_targets = 1 if len(shape) == 1 else shape[1]
    if target_names is None:
        target_names = [None] if len(shape) == 1 else [f"target {j}" for j in range(n_targets)]
    if len(target_names) != n_targets:
        raise ValueError(
            f"The 'target_names' parameter must name {n_targets} targets. Got {target_names!r}."
        )
    names = [", ".join(part for part in (name, target) if part) for target in target_names]
    return [label or default for label in names]
