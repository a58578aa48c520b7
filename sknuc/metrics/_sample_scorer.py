"""Scores of samplers by the events that they generate, for searches and cross-validation."""

import re
from inspect import signature
from numbers import Integral

import numpy as np
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import _num_samples

from sknuc.base import validate_weights
from sknuc.metrics._final_step import fitted_steps
from sknuc.metrics._sample_conditions import encode_conditions

__all__ = ["generate_like", "make_sample_scorer"]


@validate_params(
    {
        "metric": [callable],
        "n_samples": [Interval(Integral, 1, None, closed="left"), None],
        "greater_is_better": ["boolean"],
        "append_conditions": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_sample_scorer(
    metric,
    *,
    n_samples=None,
    greater_is_better=False,
    append_conditions=True,
    random_state=0,
    **metric_params,
):
    """Make a scorer that ranks samplers by how good their events are.

    The scorer takes held-out events, lets the sampler generate as many, for the same conditions if
    there are any, and compares the two. Use it wherever scikit-learn takes ``scoring=``.

    Parameters
    ----------
    metric : callable
        ``metric(X_true, X_generated, **metric_params)``: a number, or a named tuple whose first
        value is it, such as :func:`two_sample_auc`, :func:`sliced_wasserstein_distance` or a
        function of your own that makes features of both and compares these. An array is averaged.
    n_samples : int, default=None
        How many events to generate; None for as many as are held out. Their conditions are drawn
        from those held out where the numbers differ.
    greater_is_better : bool, default=False
        Whether the metric grows with quality. If not, the score is its negative.
    append_conditions : bool, default=True
        Whether the metric sees the conditions y: as its parameters `y_true` and `y_generated`, if
        it has them (or ``**kwargs``), or as further columns of both tables: numbers as they are,
        and one for each class of labels and of integers, which are numbers to a sampler that was
        fitted with ``condition="continuous"``. Without them a sampler that ignores its condition
        looks as good as one that does not. False passes the events alone, in their shape.
    random_state : int, RandomState instance or None, default=0
        Seed of the sampling; an int lets all candidates be compared with the same noise.
    **metric_params : dict
        Passed on to `metric`; not `y_true`, `y_generated` or `weight_true`, which are those of the
        held-out events.

    Returns
    -------
    scorer : callable
        ``scorer(sampler, X, y=None, sample_weight=None) -> float``, higher for better ones. The
        weights are those of the held-out events, and the metric's `weight_true`; events of weight
        zero are left out. In searches they are routed as those of scikit-learn's scorers, by
        ``scorer.set_score_request(sample_weight=True)``. It raises a ValueError if the estimator
        has no method ``sample``, if conditions hold more than 100 classes, if a weight is negative,
        or if the metric takes no weights where there are some; and a TypeError if the metric passes
        conditions on to what takes none.

    Raises
    ------
    ValueError
        If a parameter is not valid, or `metric_params` hold what the scorer fills in.

    See Also
    --------
    sklearn.metrics.make_scorer : Scores of predictions.

    Notes
    -----
    Of a :class:`~sklearn.pipeline.Pipeline` the last step samples, and the others bring the events
    back into its input units by their ``inverse_transform``.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.neighbors import KernelDensity
    >>> from sknuc.datasets import make_jets
    >>> from sknuc.metrics import make_sample_scorer, sliced_wasserstein_distance
    >>> X = make_jets(300, random_state=0).data
    >>> search = GridSearchCV(
    ...     KernelDensity(),
    ...     {"bandwidth": [0.1, 100.0]},
    ...     scoring=make_sample_scorer(sliced_wasserstein_distance),
    ... )
    >>> search.fit(X).best_params_
    {'bandwidth': 0.1}
    """
    filled = {"y_true", "y_generated", "weight_true"} & metric_params.keys()
    if filled:
        raise ValueError(
            "The metric parameters of make_sample_scorer must leave out what the scorer fills in "
            f"from the held-out events. Got {sorted(filled)}."
        )
    params = {
        "metric": metric,
        "n_samples": n_samples,
        "append_conditions": append_conditions,
        "random_state": random_state,
        "metric_params": metric_params,
    }
    return _SampleScorer(params, greater_is_better)


def _compare(
    estimator,
    X,
    y,
    *,
    metric,
    n_samples,
    append_conditions,
    random_state,
    metric_params,
    sample_weight=None,
):
    if sample_weight is not None:
        if not _takes(metric, "weight_true"):
            raise ValueError(
                "The 'metric' parameter of make_sample_scorer must take 'weight_true' where events "
                f"have weights. {_name(metric)} does not."
            )
        sample_weight = validate_weights(sample_weight, X)
        there = np.flatnonzero(sample_weight)
        X, y, sample_weight = (
            None if values is None else _safe_indexing(values, there)
            for values in (X, y, sample_weight)
        )
    rng = check_random_state(random_state)
    kind = getattr(fitted_steps(estimator)[0], "condition_", None)
    if y is not None and kind == "continuous":
        # Integers are numbers then, between which the sampler interpolates, and no classes.
        y = np.asarray(y, dtype=np.float64)
    generated, given = generate_like(
        estimator, X, y, n_samples=n_samples, sample_weight=sample_weight, rng=rng
    )
    params = dict(metric_params)
    if y is not None and kind == "classes" and np.array(np.asarray(y).tolist()).dtype.kind == "f":
        # Classes that are called by numbers are no numbers.
        _, codes = np.unique(np.concatenate([y, given]), return_inverse=True)
        y, given = codes[: len(y)], codes[len(y) :]
    if y is not None and append_conditions:
        if _takes(metric, "y_true", "y_generated"):
            params |= {"y_true": y, "y_generated": given}
        else:
            *columns, _ = encode_conditions(y, given)
            X, generated = map(_append, (X, generated), columns)
    if sample_weight is not None:
        params["weight_true"] = sample_weight
    try:
        value = metric(X, generated, **params)
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(y_true|y_generated)'", str(error))
        if not refused:
            raise
        raise TypeError(
            f"The 'metric' parameter of make_sample_scorer, {_name(metric)}, passes {refused[1]} "
            "on to what takes no conditions: give append_conditions=False, or name the parameters "
            "that it takes instead of **kwargs."
        ) from error
    return float(np.mean(value[0] if isinstance(value, tuple) else value))


class _SampleScorer(_BaseScorer):
    """A scorer that can be pickled, and that asks for weights by metadata routing."""

    def __init__(self, params, greater_is_better):
        # scikit-learn wants a method that all have: a Pipeline has no `sample`, its last step has.
        super().__init__(_compare, 1 if greater_is_better else -1, params, "fit")

    def __repr__(self):
        name = _name(self._kwargs["metric"])
        return f"make_sample_scorer({name}, greater_is_better={self._sign > 0})"

    def __call__(self, estimator, X, y=None, **kwargs):
        return super().__call__(estimator, X, y, **kwargs)

    def _score(self, method_caller, estimator, X, y=None, **kwargs):
        return self._sign * self._score_func(estimator, X, y, **self._kwargs, **kwargs)

    @classmethod
    def _get_class_level_metadata_request_values(cls, method_name, **kwargs):
        # scikit-learn would read them from the signature of the score, parameters included.
        return {"sample_weight": None}


def _takes(metric, *names):
    """Whether a metric has these parameters, or passes any on."""
    try:
        known = signature(metric).parameters.values()
    except ValueError:
        # Some functions written in C do not tell.
        return False
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known)
    return anything or {*names} <= {parameter.name for parameter in known}


def _name(metric):
    return getattr(metric, "__name__", repr(metric))


def _resample(y, weight, n, rng):
    """Numbers (n,) of events, by systematic resampling: every condition in proportion.

    Drawn one by one, they would be more frequent in one sample than in the other by chance, which a
    classifier learns from some of them, and finds the opposite in those that are left.
    """
    table = np.asarray(y).reshape(len(y), -1)
    columns = (c.astype(str) if c.dtype.kind == "O" else c for c in table.T)
    codes = [np.unique(column, return_inverse=True)[1] for column in columns]
    order = np.lexsort((rng.permutation(len(table)), *codes))
    total = weight[order].cumsum()
    places = (rng.uniform() + np.arange(n)) / n * total[-1]
    return order[np.minimum(np.searchsorted(total, places, side="right"), len(order) - 1)]


def _append(X, columns):
    X = np.asarray(X)
    return np.hstack([X.reshape(len(X), -1), columns])


def generate_like(estimator, X, y=None, *, n_samples=None, sample_weight=None, rng):
    """Generate events under the conditions of given ones.

    Parameters
    ----------
    estimator : fitted sampler, Pipeline that ends with one, or search
    X : array-like of shape (n_events, ...)
        The given events.
    y : array-like of shape (n_events, ...) or None
        Their conditions.
    n_samples : int or None
        None for as many as are given.
    sample_weight : array-like of shape (n_events,) or None
        Of the given events: a condition comes as often as they say.
    rng : RandomState instance

    Returns
    -------
    X : ndarray of shape (n_samples, ...)
        In the units of `X`.
    y : array-like of shape (n_samples, ...) or None
    """
    n_events = _num_samples(X)
    n_samples = n_events if n_samples is None else n_samples
    if y is not None and (n_samples != n_events or sample_weight is not None):
        weight = np.ones(n_events) if sample_weight is None else np.asarray(sample_weight, float)
        y = _safe_indexing(y, _resample(y, weight, n_samples, rng))
    estimator, pipelines = fitted_steps(estimator)
    if not hasattr(estimator, "sample"):
        raise ValueError(
            f"{type(estimator).__name__} cannot generate events: it has no method sample. Give a "
            "sampler, a Pipeline that ends with one, or a search over samplers."
        )
    known = signature(estimator.sample).parameters
    # Who has learnt all events alike is judged by how well that does for the conditions of each.
    conditional = "y" in known and getattr(estimator, "condition_", "unknown") is not None
    params = {"y": y} if y is not None and conditional else {}
    # Some samplers of scikit-learn keep their random state to themselves.
    if "random_state" in known:
        params["random_state"] = rng
    generated = estimator.sample(n_samples, **params)
    # scikit-learn's mixtures return the components too.
    generated = generated[0] if isinstance(generated, tuple) else generated
    for pipeline in reversed(pipelines):
        generated = pipeline.inverse_transform(generated)
    return generated, y
