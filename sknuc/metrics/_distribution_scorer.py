r"""Scores of predicted distributions, for searches and cross-validation.

The default score of a regressor, R², asks for its mean alone: a search with it is free to choose
widths that are wrong. The expectation of a proper score :math:`s(F, y)` is nowhere better than at
the true distribution G of the events,

.. math:: \mathrm{E}_{y \sim G}\, s(G, y) \ge \mathrm{E}_{y \sim G}\, s(F, y)
    \quad \text{for all } F,

so that a search with it is drawn to calibrated and sharp distributions alike. It is strictly proper
if only F = G has the best expectation. Scores of some quantiles, or of the differences of targets,
are as good for all distributions that share these with the truth.
"""

from functools import partial
from inspect import signature
from numbers import Integral

import numpy as np
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils._param_validation import (
    Interval,
    StrOptions,
    validate_parameter_constraints,
    validate_params,
)

from sknuc.metrics._final_step import judged_step
from sknuc.metrics._score_intervals import COVERAGE, interval_score
from sknuc.metrics._score_joint import energy_score, variogram_score
from sknuc.metrics._score_quantiles import crps_quantile, pinball_loss
from sknuc.metrics._score_validation import (
    as_numbers,
    average_scores,
    check_rising_levels,
    check_truth,
)

__all__ = ["make_distribution_scorer"]

#: Farther out they are closer, so that tails are judged too.
LEVELS = (0.005, 0.025, *(k / 20 for k in range(1, 20)), 0.975, 0.995)


# What an estimator says of the events, against the truth. The arguments after `metric` are the
# parameters of the scorer.
def _of_quantiles(
    estimator, X, y, metric, *, levels=LEVELS, multioutput="uniform_average", sample_weight=None
):
    try:
        quantiles = estimator.predict_quantiles(X, levels)
    except ValueError as error:
        # Conformal estimators refuse levels that their calibration events cannot support.
        error.add_note(
            f"make_distribution_scorer asked for the levels {min(levels):g} to {max(levels):g}; "
            "its parameter 'levels' chooses others."
        )
        raise
    return metric(y, quantiles, levels, sample_weight=sample_weight, multioutput=multioutput)


def _of_intervals(
    estimator, X, y, metric, *, coverage=0.68, multioutput="uniform_average", sample_weight=None
):
    interval = estimator.predict_interval(X, coverage=coverage)
    return metric(
        y, interval, coverage=coverage, sample_weight=sample_weight, multioutput=multioutput
    )


def _of_samples(estimator, X, y, metric, *, n_samples=100, random_state=0, sample_weight=None):
    samples = estimator.sample_y(X, n_samples, random_state=random_state)
    return metric(y, samples, sample_weight=sample_weight)


def _of_densities(estimator, X, y, *, sample_weight=None):
    _, _, weight = check_truth(y, sample_weight)
    log_prob = as_numbers("log_prob", estimator.log_prob(X, y))
    return average_scores(log_prob[:, None], weight, "uniform_average", False)


#: Of each metric the method that it asks, its sign, and how it is computed.
METRICS = {
    "crps": ("predict_quantiles", -1, partial(_of_quantiles, metric=crps_quantile)),
    "pinball": ("predict_quantiles", -1, partial(_of_quantiles, metric=pinball_loss)),
    "interval_score": ("predict_interval", -1, partial(_of_intervals, metric=interval_score)),
    "energy_score": ("sample_y", -1, partial(_of_samples, metric=energy_score)),
    "variogram_score": ("sample_y", -1, partial(_of_samples, metric=variogram_score)),
    "log_prob": ("log_prob", 1, _of_densities),
}

#: A scorer returns one number, which excludes the raw values of targets. Fair scores of samples
#: need pairs of them.
PARAMETERS = {
    "levels": ["array-like"],
    **COVERAGE,
    "multioutput": [StrOptions({"uniform_average"}), "array-like"],
    "n_samples": [Interval(Integral, 2, None, closed="left")],
    "random_state": ["random_state"],
}


def _check_params(params):
    """Refuse at once what would fail in every fit of a search."""
    validate_parameter_constraints(PARAMETERS, params, caller_name="make_distribution_scorer")
    if "levels" in params:
        check_rising_levels("levels", params["levels"])
    multioutput = params.get("multioutput", "uniform_average")
    if not isinstance(multioutput, str):
        # The average of no scores checks the weights of as many targets as there are weights.
        average_scores(np.zeros((1, len(multioutput))), np.ones(1), multioutput, False)


@validate_params({"metric": [StrOptions(set(METRICS))]}, prefer_skip_nested_validation=True)
def make_distribution_scorer(metric="crps", **params):
    """Make a scorer that ranks regressors by the distributions that they predict.

    Use it wherever scikit-learn takes ``scoring=``. Of a :class:`~sklearn.pipeline.Pipeline` or a
    search the last step is asked, and the others transform the events before.

    ================= ===================== ============================ ==========================
    metric            asks                  scores                       parameters
    ================= ===================== ============================ ==========================
    "crps"            ``predict_quantiles`` all of each distribution     `levels`, `multioutput`
    "pinball"         ``predict_quantiles`` the quantiles at `levels`    `levels`, `multioutput`
    "interval_score"  ``predict_interval``  intervals                    `coverage`, `multioutput`
    "energy_score"    ``sample_y``          all targets together         `n_samples`, `random_state`
    "variogram_score" ``sample_y``          how targets depend           `n_samples`, `random_state`
    "log_prob"        ``log_prob``          densities, where there are   none
    ================= ===================== ============================ ==========================

    All of them are proper: no distribution is better than the true one. "energy_score" and
    "log_prob" are strictly proper: the true one alone, of all targets together, is best. The others
    are as good for any with the right quantiles at the `levels` ("crps" by the trapezoidal rule
    between them, and "pinball"), the right ends of the intervals, or the right differences of
    targets ("variogram_score"); the first three judge every target by itself.

    Parameters
    ----------
    metric : {"crps", "pinball", "interval_score", "energy_score", "variogram_score", \
            "log_prob"}, default="crps"
        See the table, and :func:`crps_quantile`, :func:`pinball_loss`, :func:`interval_score`,
        :func:`energy_score` and :func:`variogram_score`. "log_prob" is the mean log density, in
        nats per event: a few events far out in tails that are too short decide it, so that
        distributions given by quantiles, as those of
        :class:`~sknuc.distributions.QuantileBDTRegressor`, are better compared by "crps".
    **params : dict
        `levels` : array-like of shape (n_levels,), \
                default=(0.005, 0.025, 0.05, 0.1, ..., 0.95, 0.975, 0.995)
            Levels in (0, 1), rising. Beyond the outermost ones nothing is judged; an estimator may
            refuse them, as a :class:`~sknuc.uncertainty.ConformalRegressor` does that has fewer
            than 99 events to calibrate with, or 199 if not `symmetric`, in every category; with
            groups, as many groups. Of ``cv="split"`` only a quarter calibrate. Give levels farther
            in, or set its ``tail="student"``, which is not for "cqr".
        `coverage` : float, default=0.68
            In (0, 1).
        `multioutput` : {"uniform_average"} or array-like of shape (n_targets,)
            Weights of the targets, which are averaged in their own units.
        `n_samples` : int, default=100
            Draws per event, at least 2.
        `random_state` : int, RandomState instance or None, default=0
            Seed of the draws; an int lets all candidates be compared with the same noise.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, sample_weight=None) -> float``, higher for better ones: the
        metric, or its negative where that is a loss. Weights in searches are routed as those of
        scikit-learn's scorers, by ``scorer.set_score_request(sample_weight=True)``.

    Raises
    ------
    ValueError
        If a parameter is none of the metric's, or has a value that is not allowed; in scoring, if
        the estimator has not the method that the metric asks.

    See Also
    --------
    make_sample_scorer : Scores of samplers.
    sklearn.metrics.make_scorer : Scores of predictions.

    References
    ----------
    .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules, prediction, and
       estimation", J. Am. Stat. Assoc. 102 (2007) 359.

    Examples
    --------
    The number of trees that describes the distribution best:

    >>> from sklearn.model_selection import GridSearchCV
    >>> from sknuc.datasets import make_inverse_problem
    >>> from sknuc.distributions import QuantileBDTRegressor
    >>> from sknuc.metrics import make_distribution_scorer
    >>> X, y = make_inverse_problem(400, return_X_y=True, random_state=0)
    >>> search = GridSearchCV(
    ...     QuantileBDTRegressor(n_jobs=1),
    ...     {"max_iter": [1, 20]},
    ...     scoring=make_distribution_scorer("crps"),
    ...     cv=3,
    ... )
    >>> search.fit(X, y).best_params_
    {'max_iter': 20}
    """
    allowed = [
        name
        for name, parameter in signature(METRICS[metric][2]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("metric", "sample_weight")
    ]
    unknown = sorted(set(params) - set(allowed))
    if unknown:
        raise ValueError(
            f"The parameters of make_distribution_scorer({metric!r}) are {allowed}. Got {unknown} "
            "as well."
        )
    _check_params(params)
    return _DistributionScorer(metric, params)


class _DistributionScorer(_BaseScorer):
    """A scorer that can be pickled, and that asks for weights by metadata routing."""

    def __init__(self, metric, params):
        self.metric = metric
        method, sign, score = METRICS[metric]
        super().__init__(score, sign, params, method)

    def __repr__(self):
        params = "".join(f", {name}={value!r}" for name, value in self._kwargs.items())
        return f"make_distribution_scorer({self.metric!r}{params})"

    def _score(self, method_caller, estimator, X, y_true, **kwargs):
        caller = f"make_distribution_scorer({self.metric!r})"
        estimator, X = judged_step(caller, estimator, X, y_true, self._response_method)
        return self._sign * self._score_func(estimator, X, y_true, **self._kwargs, **kwargs)

    @classmethod
    def _get_class_level_metadata_request_values(cls, method_name, **kwargs):
        # scikit-learn would read them from the signature of the score, parameters included.
        return {"sample_weight": None}
