"""Scorers of distributions, against the metrics by hand."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.base import PredictiveRegressorMixin, validate_events
from sknuc.metrics import (
    crps_gaussian,
    crps_quantile,
    energy_score,
    gaussian_nll,
    interval_score,
    make_distribution_scorer,
    pinball_loss,
    variogram_score,
)
from sknuc.predictive import Normal

METRICS = ["crps", "pinball", "interval_score", "energy_score", "variogram_score", "log_prob"]


class NormalRegressor(PredictiveRegressorMixin, BaseEstimator):
    """Least squares whose errors are normal, with a width that may be wrong by a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def _validate_events(self, X, *, reset):
        return validate_events(self, X, reset=reset)

    def fit(self, X, y):
        X = self._validate_events(X, reset=True)
        targets = self._scale_targets(X, y, None)
        self.model_ = LinearRegression().fit(X, targets)
        self.std_ = (targets - self.model_.predict(X)).std(axis=0)
        return self

    def _predictive(self, X):
        mean = self.model_.predict(X) * self.target_scale_ + self.target_mean_
        std = self.factor * self.std_ * self.target_scale_
        return Normal(mean, np.broadcast_to(std, mean.shape))


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 3))
    y = np.column_stack([X @ [1.0, -2.0, 0.5], 5 * X[:, 0]]) + rng.normal(0, [2.0, 1.0], (1500, 2))
    return X, y, rng.uniform(0, 2, 1500)


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_the_metrics_by_hand(events, weighted):
    X, y, w = events
    model = NormalRegressor(1.3).fit(X, y)
    weights = {"sample_weight": w} if weighted else {}
    levels = [0.1, 0.5, 0.8]
    quantiles, samples = model.predict_quantiles(X, levels), model.sample_y(X, 20, random_state=3)
    ends = model.predict_interval(X, 0.9)
    shares = {"multioutput": [0.2, 0.8]}
    draws = {"n_samples": 20, "random_state": 3}
    expected = [
        (
            "crps",
            {"levels": levels, **shares},
            -crps_quantile(y, quantiles, levels, **shares, **weights),
        ),
        ("pinball", {"levels": levels}, -pinball_loss(y, quantiles, levels, **weights)),
        ("interval_score", {"coverage": 0.9}, -interval_score(y, ends, coverage=0.9, **weights)),
        ("energy_score", draws, -energy_score(y, samples, **weights)),
        ("variogram_score", draws, -variogram_score(y, samples, **weights)),
        ("log_prob", {}, np.average(model.log_prob(X, y), weights=weights.get("sample_weight"))),
    ]
    for metric, params, value in expected:
        scorer = make_distribution_scorer(metric, **params)
        assert_allclose(scorer(model, X, y, **weights), value, rtol=1e-12)
        assert_allclose(pickle.loads(pickle.dumps(scorer))(model, X, y, **weights), value)


def test_defaults_come_near_the_closed_forms(events):
    X, y, _ = events
    y = y[:, 0]
    model = NormalRegressor().fit(X, y)
    mean, std = model.predict(X, return_std=True)
    # Nineteen levels leave the tails beyond 5 % out: some per cent of the score.
    assert_allclose(
        make_distribution_scorer()(model, X, y), -crps_gaussian(y, mean, std), rtol=0.03
    )
    score = make_distribution_scorer("log_prob")(model, X, y)
    assert_allclose(score, -gaussian_nll(y, mean, std), rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_finds_the_width_that_the_mean_does_not_tell(events, metric):
    X, y, _ = events
    pipe = make_pipeline(StandardScaler(), NormalRegressor())
    grid = {"normalregressor__factor": [0.4, 1.0, 2.5]}
    scorer = make_distribution_scorer(metric)
    search = GridSearchCV(pipe, grid, scoring=scorer, cv=3).fit(X, y)
    assert search.best_params_ == {"normalregressor__factor": 1.0}
    # A search and a pipeline say what their last step says of what it sees.
    scaled = search.best_estimator_[0].transform(X)
    bare = scorer(search.best_estimator_[-1], scaled, y)
    assert scorer(search, X, y) == scorer(search.best_estimator_, X, y) == bare
    r2 = GridSearchCV(pipe, grid, cv=3).fit(X, y).cv_results_["mean_test_score"]
    assert_allclose(r2, r2[0])


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def test_weights_are_routed(events, routing):
    X, y, w = events
    cv = KFold(3)
    plain = make_distribution_scorer("crps")
    with pytest.raises(ValueError, match="sample_weight"):
        cross_val_score(NormalRegressor(), X, y, scoring=plain, cv=cv, params={"sample_weight": w})
    scorer = make_distribution_scorer("crps").set_score_request(sample_weight=True)
    found = cross_val_score(
        NormalRegressor(), X, y, scoring=scorer, cv=cv, params={"sample_weight": w}
    )
    expected = [
        plain(NormalRegressor().fit(X[train], y[train]), X[test], y[test], sample_weight=w[test])
        for train, test in cv.split(X)
    ]
    assert_allclose(found, expected)
    ignored = make_distribution_scorer("crps").set_score_request(sample_weight=False)
    several = cross_validate(
        NormalRegressor(),
        X,
        y,
        scoring={"weighted": scorer, "plain": ignored},
        cv=cv,
        params={"sample_weight": w},
    )
    assert_allclose(several["test_weighted"], expected)
    without = cross_val_score(NormalRegressor(), X, y, scoring=plain, cv=cv)
    assert_allclose(several["test_plain"], without)


def test_a_weight_of_two_is_the_event_twice(events):
    X, y, _ = events
    model = NormalRegressor().fit(X, y)
    w = np.arange(len(X)) % 3
    twice = np.repeat(np.arange(len(X)), w)
    for metric in ("crps", "pinball", "interval_score", "log_prob"):
        scorer = make_distribution_scorer(metric)
        assert_allclose(scorer(model, X, y, sample_weight=w), scorer(model, X[twice], y[twice]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, y: make_distribution_scorer("r2"), "'metric' parameter"),
        (
            lambda X, y: make_distribution_scorer("crps", coverage=0.9),
            r"are \['levels', 'multioutput'\]. Got \['coverage'\]",
        ),
        (
            lambda X, y: make_distribution_scorer("log_prob")(LinearRegression().fit(X, y), X, y),
            r"make_distribution_scorer\('log_prob'\) must have the method log_prob",
        ),
    ],
)
def test_errors_say_what_is_wrong(events, call, message):
    with pytest.raises(ValueError, match=message):
        call(*events[:2])


def test_the_readme_says_how_to_ask_a_pipeline():
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (block,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "make_distribution_scorer" in block
    )
    variables = {}
    exec(compile(block, "README.md", "exec"), variables)
    pipe, X_test = variables["pipe"], variables["X_test"]
    low, high = variables["interval"].T
    assert low.shape == (len(X_test),)
    assert np.all(low < high)
    expected = pipe[-1].predict_quantiles(pipe[0].transform(X_test), [0.16, 0.84])
    assert_allclose(variables["interval"], expected)
