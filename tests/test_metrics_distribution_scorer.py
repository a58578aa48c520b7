"""Scorers of distributions, against the metrics by hand."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn
from estimators import NormalRegressor
from numpy.testing import assert_allclose
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

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
from sknuc.uncertainty import ConformalRegressor

METRICS = ["crps", "pinball", "interval_score", "energy_score", "variogram_score", "log_prob"]


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
    # The trapezoidal rule over steps of 0.05 falls short by some per mille.
    assert_allclose(
        make_distribution_scorer()(model, X, y), -crps_gaussian(y, mean, std), rtol=0.01
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


class OnlyDistributions(BaseEstimator):
    """What another estimator says of distributions, without its predictions."""

    def __init__(self, model):
        self.model = model

    def predict_quantiles(self, X, quantiles=(0.5,)):
        return self.model.predict_quantiles(X, quantiles)

    def predict_interval(self, X, coverage=0.68):
        return self.model.predict_interval(X, coverage)

    def sample_y(self, X, n_samples=1, random_state=None):
        return self.model.sample_y(X, n_samples, random_state=random_state)

    def log_prob(self, X, y):
        return self.model.log_prob(X, y)


@pytest.mark.parametrize("metric", METRICS)
def test_distributions_without_predictions_are_scored(events, metric):
    X, y, _ = events
    model = NormalRegressor().fit(X, y)
    score = make_distribution_scorer(metric)
    assert score(OnlyDistributions(model), X, y) == score(model, X, y)
    with pytest.raises(ValueError, match=r"shape|targets"):
        score(OnlyDistributions(model), X, y[:, 0])


class OtherSearch(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """A search of another library: no relative of scikit-learn's, with the same attributes."""

    def __init__(self, estimator, factors=(0.5, 1.0), refit=True):
        self.estimator = estimator
        self.factors = factors
        self.refit = refit

    def fit(self, X, y):
        fits = [clone(self.estimator).set_params(factor=f).fit(X, y) for f in self.factors]
        scores = [make_distribution_scorer()(fit, X, y) for fit in fits]
        if self.refit:
            self.best_estimator_ = fits[int(np.argmax(scores))]
        self.scores_ = scores
        return self

    def predict(self, X):
        return self.best_estimator_.predict(X)


SEARCHES = [
    lambda model, **params: GridSearchCV(model, {"factor": [0.5, 1.0]}, cv=2, **params),
    OtherSearch,
]


@pytest.mark.parametrize("make_search", SEARCHES)
def test_searches_are_known_before_and_after_their_fit(events, make_search):
    X, y, _ = events
    y, score = y[:, 0], make_distribution_scorer()
    search = make_search(NormalRegressor())
    conformal = ConformalRegressor(search, conformity_score="cqr", cv="split", random_state=0)
    bare = clone(conformal).set_params(estimator=NormalRegressor())
    assert_allclose(
        conformal.fit(X, y).predict_interval(X), bare.fit(X, y).predict_interval(X), rtol=1e-12
    )
    with pytest.raises(NotFittedError, match=f"This {type(search).__name__} instance is not fit"):
        score(search, X, y)
    # Nor is that asked which the search would fit again.
    with pytest.raises(NotFittedError, match=f"This {type(search).__name__} instance is not fit"):
        score(make_search(FrozenEstimator(NormalRegressor().fit(X, y))), X, y)
    search.fit(X, y)
    assert score(search, X, y) == score(FrozenEstimator(search), X, y)
    assert score(search, X, y) == score(search.best_estimator_, X, y)


@pytest.mark.parametrize("make_search", SEARCHES)
def test_searches_that_keep_no_estimator_are_refused_before_any_fit(events, make_search):
    X, y, _ = events
    message = r"'refit' parameter of .*Search.* must be True, or .* Got False instead, which keeps"
    fits = []

    class Counted(NormalRegressor):
        def fit(self, X, y):
            fits.append(len(X))
            return super().fit(X, y)

    search = make_search(Counted(), refit=False)
    with pytest.raises(ValueError, match=message):
        ConformalRegressor(search, conformity_score="cqr").fit(X, y)
    assert not fits
    with pytest.raises(ValueError, match=message):
        make_distribution_scorer()(search.fit(X, y), X, y)


class WrongTails(NormalRegressor):
    """Right from 5 to 95 %, and too wide beyond."""

    def predict_quantiles(self, X, quantiles=(0.16, 0.5, 0.84)):
        levels = np.asarray(quantiles)
        right = super().predict_quantiles(X, levels)
        wide = self.predict(X)[:, None] + 3 * (right - self.predict(X)[:, None])
        return np.where(np.abs(levels - 0.5) > 0.451, wide, right)


def test_tails_are_judged_unless_the_levels_leave_them_out(events):
    X, y, _ = events
    right, wrong = NormalRegressor().fit(X, y[:, 0]), WrongTails().fit(X, y[:, 0])
    for metric in ("crps", "pinball"):
        scorer = make_distribution_scorer(metric)
        assert scorer(right, X, y[:, 0]) > scorer(wrong, X, y[:, 0])
        inner = make_distribution_scorer(metric, levels=np.arange(1, 20) / 20)
        assert inner(right, X, y[:, 0]) == inner(wrong, X, y[:, 0])


def test_who_refuses_a_level_is_told_who_asked_for_it(events):
    X, y, _ = events
    model = ConformalRegressor(LinearRegression(), random_state=0).fit(X[:40], y[:40, 0])
    with pytest.raises(ValueError, match="needs at least 99") as refused:
        make_distribution_scorer()(model, X, y[:, 0])
    assert "'levels' chooses others" in refused.value.__notes__[0]
    levels = np.arange(1, 20) / 20
    expected = -crps_quantile(y[:, 0], model.predict_quantiles(X, levels), levels)
    assert make_distribution_scorer(levels=levels)(model, X, y[:, 0]) == expected
    # Who assumes how the tails go on refuses none, in a search neither.
    search = GridSearchCV(
        ConformalRegressor(LinearRegression(), tail="student", random_state=0),
        {"cv": [3, 5]},
        scoring=make_distribution_scorer(),
        cv=3,
    ).fit(X[:60], y[:60, 0])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize(
    ("metric", "params", "message"),
    [
        ("crps", {"levels": (0.6, 0.5)}, "'levels' parameter must hold levels that rise"),
        ("pinball", {"levels": [5, 95]}, r"'levels' parameter must be .* in \(0, 1\)"),
        ("pinball", {"levels": 0.5}, "'levels' parameter of make_distribution_scorer must be an"),
        ("interval_score", {"coverage": 95}, r"'coverage' .* must be a float .* Got 95"),
        ("interval_score", {"coverage": np.nan}, "'coverage' .* Got nan"),
        ("energy_score", {"n_samples": 1}, r"'n_samples' .* Got 1 instead"),
        ("variogram_score", {"n_samples": 10.0}, r"'n_samples' .* must be an int .* Got 10.0"),
        ("energy_score", {"random_state": "a"}, "'random_state' .* Got 'a'"),
        ("crps", {"multioutput": "raw_values"}, "'multioutput' .* Got 'raw_values'"),
        ("crps", {"multioutput": [1.0, -1.0]}, "'multioutput' parameter must hold weights"),
        ("interval_score", {"multioutput": ["a"]}, "'multioutput' parameter must be an array of"),
    ],
)
def test_wrong_parameters_are_refused_before_any_fit(metric, params, message):
    with pytest.raises(ValueError, match=message):
        make_distribution_scorer(metric, **params)


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
        (
            lambda X, y: make_distribution_scorer("crps")(
                TransformedTargetRegressor(NormalRegressor()).fit(X, y), X, y
            ),
            "TransformedTargetRegressor has none. .* fit the regressor on the transformed targets",
        ),
    ],
)
def test_errors_say_what_is_wrong(events, call, message):
    with pytest.raises(ValueError, match=message):
        call(*events[:2])


@pytest.mark.parametrize("metric", METRICS)
def test_truths_that_do_not_fit_are_named_y(events, metric):
    X, y, _ = events
    score = make_distribution_scorer(metric)
    model = NormalRegressor().fit(X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        score(model, X, y[1:])
    with pytest.raises(ValueError, match=r"'y' .* predicts 2 targets. Got the shape \(1500,\)"):
        score(model, X, y[:, 0])


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
