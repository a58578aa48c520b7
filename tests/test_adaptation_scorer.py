"""Scores in the target, from labels of the source alone."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from scipy.stats import multivariate_normal, norm
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, get_scorer, make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.adaptation import (
    DeepCORALClassifier,
    DomainReweighter,
    LabelShiftClassifier,
    make_domain_scorer,
)
from sknuc.adaptation._domains import DomainAdapterMixin

# Log-ratios of Gaussians of one width are linear: without a penalty, this classifier is exact.
LINEAR = DomainReweighter(LogisticRegression(C=np.inf), calibration=None, random_state=0)
SHIFT = 1.0


class Cut(ClassifierMixin, BaseEstimator):
    """Class 1 on one side of a cut; nothing is learnt."""

    def __init__(self, at=0.0, above=True):
        self.at = at
        self.above = above

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def decision_function(self, X):
        return (X[:, 0] - self.at) * (1 if self.above else -1)

    def predict(self, X):
        return (self.decision_function(X) > 0).astype(int)


def shifted(n, seed, shift=SHIFT):
    """Events around 0 and around `shift`, in any order, with labels that depend on x alike."""
    rng = np.random.default_rng(seed)
    domain = rng.permutation(np.repeat([1, -1], n))
    x = rng.normal(size=2 * n) + np.where(domain < 0, shift, 0.0)
    y = (x + rng.normal(size=2 * n) > 0).astype(int)
    return x[:, None], y, domain


def hidden(y, domain, as_=-1):
    return np.where(domain < 0, as_, y)


def same_sign(shift):
    """The probability that x ~ N(shift, 1) and x + N(0, 1) have the same sign."""
    law = multivariate_normal([shift, shift], [[1, 1], [1, 2]])
    opposite = multivariate_normal([-shift, -shift], [[1, 1], [1, 2]])
    return law.cdf([0, 0]) + opposite.cdf([0, 0])


@pytest.mark.parametrize("matched", ["events", "predictions"])
def test_the_accuracy_in_the_target_in_closed_form(matched):
    n = 10_000
    X, y, domain = shifted(n, seed=0)
    model = Cut().fit(X, y)
    truth, source_truth = same_sign(SHIFT), same_sign(0.0)
    scorer = make_domain_scorer(matched=matched, reweighter=LINEAR)
    score = scorer(model, X, hidden(y, domain), sample_domain=domain)
    # Errors of a weighted mean are those of its terms, r (c - A) with c = 1 where right, and that
    # of the slope of ln r, which the information of the events tells: it moves the mean by the
    # covariance of c and x in the target. (An offset is the same for all.)
    x = X[:, 0]
    ratio = np.exp(SHIFT * x - SHIFT**2 / 2)
    right = model.predict(X) == y
    of_mean = np.std((ratio * (right - truth))[domain > 0]) / n**0.5
    p = ratio / (1 + ratio)
    design = np.column_stack([np.ones(2 * n), x])
    of_slope = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)[1, 1] ** 0.5
    target = domain < 0
    error = np.hypot(of_mean, of_slope * np.cov(right[target], x[target])[0, 1])
    assert abs(score - truth) < 5 * error
    # Without weights it is the accuracy in the source, far from it.
    plain = accuracy_score(y[~target], model.predict(X[~target]))
    assert abs(plain - source_truth) < 5 * (source_truth * (1 - source_truth) / n) ** 0.5
    assert truth - source_truth > 10 * error


def test_any_score_is_that_of_the_weighted_source():
    X, y, domain = shifted(300, seed=1)
    model = Cut(0.3).fit(X, y)
    source = domain > 0
    weight = LINEAR.fit(X, domain).predict_weight(X[source])
    said = model.decision_function(X[source])
    expected = roc_auc_score(y[source], said, sample_weight=weight)
    for scoring in ("roc_auc", get_scorer("roc_auc")):
        scorer = make_domain_scorer(scoring, reweighter=LINEAR)
        assert_allclose(scorer(model, X, hidden(y, domain), domain), expected, rtol=1e-12)
    copied = pickle.loads(pickle.dumps(scorer))
    assert copied(model, X, hidden(y, domain), domain) == scorer(
        model, X, hidden(y, domain), domain
    )
    assert repr(copied) == repr(scorer)
    # Of a regressor, in more dimensions.
    rng = np.random.default_rng(0)
    X = np.column_stack([X, rng.normal(size=600)])
    y = np.column_stack([X[:, 0] ** 2, X[:, 1]])
    model = LinearRegression().fit(X[source], y[source])
    weight = LINEAR.fit(X, domain).predict_weight(X[source])
    y[~source] = np.nan
    for scoring in (None, "neg_mean_absolute_error"):
        expected = get_scorer(scoring or "r2")(model, X[source], y[source], sample_weight=weight)
        score = make_domain_scorer(scoring, reweighter=LINEAR)(model, X, y, domain)
        assert_allclose(score, expected, rtol=1e-12)


@pytest.mark.parametrize("matched", ["events", "predictions"])
def test_weights_are_numbers_of_events(matched):
    X, y, domain = shifted(100, seed=2)
    weight = np.random.default_rng(0).integers(0, 3, len(X))
    model, y = Cut(0.3).fit(X, y), hidden(y, domain)
    scorer = make_domain_scorer(matched=matched, reweighter=LINEAR)
    copies = [np.repeat(part, weight, axis=0) for part in (X, y, domain)]
    weighted = scorer(model, X, y, domain, sample_weight=weight)
    assert_allclose(weighted, scorer(model, *copies), rtol=1e-6)
    assert weighted != scorer(model, X, y, domain)


@pytest.mark.parametrize("scoring", ["accuracy", "roc_auc", "neg_log_loss"])
def test_events_of_weight_zero_are_absent_with_their_labels(scoring):
    X, y, domain = shifted(100, seed=2)
    model, weight = LogisticRegression().fit(X, y), np.ones(len(X))
    y = hidden(y, domain)
    scorer = make_domain_scorer(scoring, reweighter=LINEAR)
    out = np.flatnonzero(domain >= 0)[3]
    y[out], weight[out] = 7, 0.0
    rest = weight > 0
    expected = scorer(model, X[rest], y[rest], domain[rest], sample_weight=weight[rest])
    assert scorer(model, X, y, domain, sample_weight=weight) == expected


def in_the_middle(n, seed):
    """Class 1 is where |x| < 1; the source is around -1/2, the target around 1/2."""
    X, _, domain = shifted(n, seed)
    X = X - 0.5
    return X, (np.abs(X[:, 0]) < 1).astype(int), domain


# Neither is right everywhere: x > -1 fails above 1, and x < 1 below -1.
CUTS = [{"at": [-1.0], "above": [True]}, {"at": [1.0], "above": [False]}]


def test_a_search_finds_what_is_better_in_the_target():
    n = 1000
    X, y, domain = in_the_middle(n, seed=3)
    cv = KFold(3, shuffle=True, random_state=0)
    wrong = {"small": norm.sf(1.5), "large": norm.sf(0.5)}
    found = []
    with config_context(enable_metadata_routing=True):
        for matched in ("events", "predictions"):
            scoring = make_domain_scorer(matched=matched, reweighter=LINEAR)
            for placeholder in (0, 1, -7):
                labels = hidden(y, domain, placeholder)
                search = GridSearchCV(Cut(), CUTS, scoring=scoring, cv=cv)
                search.fit(X, labels, sample_domain=domain)
                # Weights whose mean square is e make this the error of either score, at most; that
                # of the ratio is less.
                error = np.sqrt(np.e * 0.25 / n) * np.sqrt(2)
                assert_allclose(
                    search.cv_results_["mean_test_score"],
                    [1 - wrong["large"], 1 - wrong["small"]],
                    atol=5 * error,
                )
                assert search.best_params_ == {"at": 1.0, "above": False}
                found.append(search.cv_results_["mean_test_score"])
    # What is said of the target's labels is not looked at.
    assert_array_equal(found[0], found[1])
    assert_array_equal(found[0], found[2])
    # The source's own labels choose the worse.
    source = domain > 0
    search = GridSearchCV(Cut(), CUTS, cv=cv).fit(X[source], y[source])
    assert search.best_params_ == {"at": -1.0, "above": True}


def test_ordinary_classifiers_leave_placeholders_out_by_weights():
    X, y, domain = shifted(200, seed=4)
    cv = KFold(3, shuffle=True, random_state=0)
    source = domain > 0
    scorer = make_domain_scorer("neg_log_loss", reweighter=LINEAR)
    with config_context(enable_metadata_routing=True):
        model = LogisticRegression().set_fit_request(sample_weight="in_source")
        result = cross_validate(
            make_pipeline(StandardScaler(), model),
            X,
            hidden(y, domain, 0),
            scoring={"target": scorer, "source": "neg_log_loss"},
            cv=cv,
            params={"sample_domain": domain, "in_source": source.astype(float)},
        )
    expected = []
    for train, test in cv.split(X):
        scaled = make_pipeline(StandardScaler(), LogisticRegression())
        scaled[0].fit(X[train])
        train = train[source[train]]
        scaled[1].fit(scaled[0].transform(X[train]), y[train])
        expected.append(scorer(scaled, X[test], y[test], domain[test]))
    # As far as the solver goes.
    assert_allclose(result["test_target"], expected, rtol=1e-4)


@pytest.fixture(scope="module")
def coral():
    rng = np.random.default_rng(0)
    domain = rng.permutation(np.repeat([1, -1], 150))
    y = rng.integers(2, size=300)
    X = rng.normal(size=(300, 2)) + np.outer(3 * y - 1.5, [1, 0])
    X[domain < 0, 0] += 1.5
    model = DeepCORALClassifier(max_epochs=5, random_state=0)
    pipe = make_pipeline(StandardScaler(), model)
    pipe.fit(X, hidden(y, domain), deepcoralclassifier__sample_domain=domain)
    return pipe, X, y, domain


def test_adapters_read_either_domain_as_what_it_is(coral):
    pipe, X, y, domain = coral
    source = domain > 0
    scaled, model = pipe[0].transform(X), pipe[-1]
    said = model.decision_function(scaled, sample_domain=domain)[:, None]
    weight = LINEAR.fit(said, domain).predict_weight(said[source])
    right = model.predict(scaled, sample_domain=domain)[source] == y[source]
    scorer = make_domain_scorer(reweighter=LINEAR)
    score = scorer(pipe, X, hidden(y, domain), domain)
    assert_allclose(score, np.average(right, weights=weight), rtol=1e-12)
    assert score == scorer(model, scaled, hidden(y, domain), domain)
    # Events are read as the target's where their own densities are compared.
    weight = LINEAR.fit(X, domain).predict_weight(X[source])
    right = pipe.predict(X[source]) == y[source]
    score = make_domain_scorer(matched="events", reweighter=LINEAR)(
        pipe, X, hidden(y, domain), domain
    )
    assert_allclose(score, np.average(right, weights=weight), rtol=1e-12)


def test_searches_over_adapters_need_no_requests(coral):
    _, X, y, domain = coral
    results = []
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), DeepCORALClassifier(max_epochs=2, random_state=0))
        grid = {"deepcoralclassifier__trade_off": [0.1, 1.0]}
        for placeholder, request in ((-1, {}), (5, {"sample_weight": False})):
            scoring = make_domain_scorer(reweighter=LINEAR)
            if request:
                scoring = scoring.set_score_request(**request)
            search = GridSearchCV(pipe, grid, scoring=scoring, cv=KFold(2), error_score="raise")
            search.fit(X, hidden(y, domain, placeholder), sample_domain=domain)
            results.append(search.cv_results_["mean_test_score"])
    assert np.isfinite(results[0]).all()
    assert_array_equal(*results)


def test_class_priors_of_the_target_are_known_to_the_label_shift_classifier():
    # Two classes N(-1, 1) and N(1, 1), one in two of the source and four in five of the target.
    rng, n = np.random.default_rng(5), 3000
    domain = rng.permutation(np.repeat([1, -1], n))
    y = (rng.random(2 * n) < np.where(domain > 0, 0.5, 0.8)).astype(int)
    X = rng.normal(size=(2 * n, 1)) + 2 * y[:, None] - 1
    model = LabelShiftClassifier(random_state=0).fit(X, hidden(y, domain), sample_domain=domain)
    cut = -np.log(4) / 2
    truth = 0.8 * norm.sf(cut - 1) + 0.2 * norm.cdf(cut + 1)
    # Where a sample of the target's size has this error, weights below 1.6, the largest ratio of
    # the priors, have 1.3 times as much at most; that of the ratio and of the cut are not more.
    error = 2 * 1.3 * (truth * (1 - truth) / n) ** 0.5
    found = make_domain_scorer()(model, X, hidden(y, domain), domain)
    assert abs(found - truth) < 5 * error
    # Events are of class 1 as often as in the source only if class priors do not differ: then, a
    # share 1 / (1 + exp(-2 x)) of them would be.
    x = np.linspace(-8, 8, 4001)
    density = 0.8 * norm.pdf(x, 1) + 0.2 * norm.pdf(x, -1)
    wrong = np.trapezoid(density * expit(np.where(x > cut, 2 * x, -2 * x)), x)
    assert truth - wrong > 5 * error
    found = make_domain_scorer(matched="events")(model, X, hidden(y, domain), domain)
    assert abs(found - wrong) < 5 * error


class Constant(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.where(X[:, 0] > self.edge, 2.0, 1.0)


def test_predictions_that_are_all_one():
    X, y, domain = shifted(50, seed=6)
    scorer = make_domain_scorer("neg_mean_absolute_error", matched="predictions")
    model = Constant().fit(X, y)
    model.edge = 100.0
    known = y.astype(float)
    expected = -np.abs(known[domain > 0] - 1).mean()
    assert_allclose(scorer(model, X, known, domain), expected)
    # All of the target is predicted as some of the source is.
    model.edge = X[domain < 0].min() - 1e-6
    above = (domain > 0) & (X[:, 0] > model.edge)
    assert 0 < above.sum() < 50
    assert_allclose(scorer(model, X, known, domain), -np.abs(known[above] - 2).mean())
    # And as none of it is.
    X[domain < 0] += 100.0
    model.edge = 50.0
    with pytest.raises(ValueError, match="was not adapted"):
        scorer(model, X, known, domain)


def test_what_is_refused():
    X, y, domain = shifted(20, seed=7)
    model, scorer = Cut().fit(X, y), make_domain_scorer()
    with pytest.raises(ValueError, match=r"needs the sample_domain.*enable_metadata_routing"):
        scorer(model, X, y)
    with pytest.raises(ValueError, match=r"at least 2 of the target domain.*Got 0 of 40"):
        scorer(model, X, y, np.ones(40, int))
    with pytest.raises(ValueError, match=r"at least 2 of the source domain.*Got 0 of 40"):
        scorer(model, X, y, np.full(40, -1))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        scorer(model, X, y, domain[:-1])
    with pytest.raises(ValueError, match="negative"):
        scorer(model, X, y, domain, sample_weight=np.r_[-1, np.ones(39)])
    with pytest.raises(ValueError, match="takes none"):
        make_domain_scorer(max)
    with pytest.raises(ValueError, match=r"must be an object, such as DomainReweighter\(\)"):
        make_domain_scorer(reweighter=DomainReweighter)
    with pytest.raises(ValueError, match="'matched' parameter of make_domain_scorer"):
        make_domain_scorer(matched="x")
    with pytest.raises(
        ValueError, match=r"'scoring' parameter of make_domain_scorer.*Got 'neg_max_error'"
    ):
        make_domain_scorer("neg_max_error")
    with pytest.raises(ValueError, match="takes none"):
        make_domain_scorer(make_scorer(lambda y_true, y_pred: 0.0))
    with pytest.raises(ValueError, match="takes none"):
        make_domain_scorer(lambda estimator, X, y: 0.0)


class Adapter(DomainAdapterMixin, Cut):
    def fit(self, X, y, sample_domain=None):
        return super().fit(X, y)


def test_a_search_without_routing_says_what_is_missing():
    X, y, domain = shifted(20, seed=8)
    assert not sklearn.get_config()["enable_metadata_routing"]
    search = GridSearchCV(Adapter(), CUTS, scoring=make_domain_scorer(), cv=2)
    with pytest.raises(ValueError, match="needs the sample_domain"):
        search.set_params(error_score="raise").fit(X, y, sample_domain=domain)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.set_params(error_score=np.nan).fit(X, y, sample_domain=domain)
    assert any("needs the sample_domain" in str(warning.message) for warning in caught)
    assert np.isnan(search.cv_results_["mean_test_score"]).all()
