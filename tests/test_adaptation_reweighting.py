"""The ratio of the densities of two domains."""

import pickle
import warnings

import numpy as np
import pytest
from joblib import parallel_backend
from scipy import stats
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sknuc.adaptation import DomainReweighter
from sknuc.exceptions import DomainWarning

# Log-ratios of Gaussians of one width are linear: without a penalty, this classifier is exact.
LOGISTIC = LogisticRegression(C=np.inf)
DELTA = 0.8


def two_gaussians(n_source, n_target, seed, delta=DELTA):
    rng = np.random.default_rng(seed)
    X = np.concatenate([rng.normal(size=n_source), rng.normal(delta, size=n_target)])[:, None]
    return X, np.repeat([1, -1], [n_source, n_target])


def logistic_error(X, x):
    """Standard deviation of the fitted log-odds at `x`, from the information of the events."""
    design = np.column_stack([np.ones(len(X)), X[:, 0]])
    p = 1 / (1 + np.exp(-(DELTA * X[:, 0] - DELTA**2 / 2)))
    covariance = np.linalg.inv((design * (p * (1 - p))[:, None]).T @ design)
    at = np.column_stack([np.ones(len(x)), x])
    return np.sqrt(np.einsum("ij,jk,ik->i", at, covariance, at))


@pytest.mark.parametrize("calibration", ["sigmoid", None])
def test_the_ratio_of_two_gaussians(calibration):
    X, domain = two_gaussians(6000, 4000, seed=0)
    model = DomainReweighter(
        LOGISTIC, calibration=calibration, normalize=False, random_state=0
    ).fit(X, domain)
    x = np.linspace(-2, 3, 11)
    # A sigmoid is found on the same number of events, with errors as large, which are not more
    # than twice those of the classifier together.
    allowed = 5 * 2 * logistic_error(X, x)
    truth = DELTA * x - DELTA**2 / 2
    assert np.all(np.abs(np.log(model.predict_weight(x[:, None])) - truth) < allowed)
    # Probabilities are those of the numbers of events: log-odds of target and source.
    p = model.predict_proba(x[:, None])
    np.testing.assert_allclose(
        np.log(p[:, 0] / p[:, 1]), np.log(model.predict_weight(x[:, None]) * 4000 / 6000)
    )
    np.testing.assert_array_equal(model.predict(x[:, None]), np.where(p[:, 0] > 0.5, -1, 1))


@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic"])
def test_weights_are_calibrated_and_moments_agree(calibration):
    model = DomainReweighter(LOGISTIC, calibration=calibration, random_state=0)
    model.fit(*two_gaussians(40000, 40000, seed=1))
    # Of ten times fewer new events, so that the errors of the weights do not count.
    X, domain = two_gaussians(4000, 4000, seed=2)
    source, target = X[domain > 0, 0], X[domain < 0, 0]
    weight = model.predict_weight(source[:, None])
    edges = np.quantile(target, np.linspace(0, 1, 9)[1:-1])
    in_target = np.bincount(np.digitize(target, edges)) / 4000
    in_source = np.bincount(np.digitize(source, edges), weights=weight) / 4000
    variance = in_target / 4000
    variance = variance + np.bincount(np.digitize(source, edges), weights=weight**2) / 4000**2
    chi2 = np.sum((in_source - in_target) ** 2 / variance)
    assert stats.chi2.sf(chi2, 8) > 1e-5
    for g in (lambda x: x, np.square):
        mean = np.average(g(source), weights=weight)
        error = np.sqrt(
            (weight**2 @ (g(source) - mean) ** 2) / weight.sum() ** 2 + g(target).var() / 4000
        )
        # Without weights, either is off by more than 20 of these errors.
        assert abs(mean - g(target).mean()) < 5 * error


def test_the_default_finds_a_shift_and_a_width():
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 3000, 3))
    target[:, 0] += 0.7
    target[:, 1] *= 0.7
    model = DomainReweighter(random_state=0)
    model.fit(np.r_[source, target], np.repeat([1, -1], 3000))
    weight = model.predict_weight(source)
    mean = np.average(source, axis=0, weights=weight)
    std = np.sqrt(np.average((source - mean) ** 2, axis=0, weights=weight))
    # Statistical errors are 0.03 for a weighted source worth some thousand events; trees leave a
    # part of the shift in the tails, where they have few events: less than a third is allowed.
    np.testing.assert_allclose(mean, [0.7, 0, 0], atol=0.2)
    np.testing.assert_allclose(std, [1, 0.7, 1], atol=0.1)


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers what it has learnt from, and says what it knows of that."""

    def fit(self, X, y, sample_weight=None):
        self.X_, self.classes_ = X, np.unique(y)
        return self

    def predict_proba(self, X):
        seen = (X[:, None] == self.X_).all(2).any(1)
        assert not (self.strict_ and seen.any())
        return np.tile([0.5, 0.5], (len(X), 1))


def test_no_event_is_weighted_by_a_model_that_saw_it():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    # Copies, of one domain and across the two.
    X[100:110], domain = X[:10], np.repeat([0, -1], 60)
    X[110:] = X[60:70]
    Recorder.strict_ = True
    model = DomainReweighter(Recorder(), random_state=0).fit(X, domain)
    model.predict_weight(X)
    assert len(model.estimators_) == 5
    for k, member in enumerate(model.estimators_):
        left_out = ~(X[:, None] == member.X_).all(2).any(1)
        assert 0 < left_out.sum() < 60
        # What it does not know is what it judges.
        assert np.ptp(model._log_ratio_of_fold(k, X[left_out])) == 0


@pytest.mark.parametrize(
    "memory", [DecisionTreeClassifier(random_state=0), KNeighborsClassifier(n_neighbors=1)]
)
@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic"])
def test_what_memorises_gives_unbiased_weights(memory, calibration):
    rng = np.random.default_rng(0)
    n = 1000
    X, domain = rng.normal(size=(2 * n, 2)), np.repeat([1, -1], n)
    model = DomainReweighter(memory, calibration=calibration, normalize=False, random_state=0)
    log_ratio = np.log(model.fit(X, domain).predict_weight(X))
    # Scores are two values. Of each domain about half of the events, in four folds of five, have
    # either: the log of the ratio of these numbers has this error. A model that has seen the events
    # would be off by log(1600).
    error = np.sqrt(2 / (0.8 * n / 2))
    assert np.abs(log_ratio).max() < 5 * error


def test_a_classifier_without_weights_is_corrected_for_the_numbers():
    X, domain = two_gaussians(2000, 400, seed=0, delta=0)
    model = DomainReweighter(KNeighborsClassifier(50), normalize=False, random_state=0)
    weight = model.fit(X, domain).predict_weight(X)
    # The mean ratio is one up to the fluctuation of 400 events, through the sigmoid's shift.
    assert abs(weight.mean() - 1) < 5 * np.sqrt(1 / 400 + 1 / 2000)
    with pytest.raises(ValueError, match="must accept sample_weight"):
        model.fit(X, domain, np.linspace(1, 2, 2400))
    # Copies are no weights.
    doubled = model.fit(np.repeat(X, 2, axis=0), np.repeat(domain, 2)).predict_weight(X)
    assert abs(doubled.mean() - 1) < 5 * np.sqrt(1 / 400 + 1 / 2000)


@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic", None])
def test_a_weight_of_two_is_the_event_twice_and_of_zero_none(calibration):
    X, domain = two_gaussians(150, 120, seed=3)
    weight = np.random.default_rng(0).integers(0, 4, 270)
    model = DomainReweighter(calibration=calibration, random_state=0)
    weighted = clone(model).fit(X, domain, weight)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(270), weight))
    repeated = clone(model).fit(X[order], domain[order])
    np.testing.assert_allclose(weighted.predict_weight(X), repeated.predict_weight(X), rtol=1e-9)
    assert weighted.effective_sample_size_ == pytest.approx(repeated.effective_sample_size_)
    # And its unit has no meaning, of either domain.
    scaled = clone(model).fit(X, domain, weight * np.where(domain > 0, 1e-6, 1e3))
    np.testing.assert_allclose(weighted.predict_weight(X), scaled.predict_weight(X), rtol=1e-6)


def signed_source(n, seed):
    """Events of N(0, 1), positive with the probability expit(1.4 + x/2).

    The signed density is positive above -2.8, which is where the target is.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, np.where(rng.uniform(size=n) < 1 / (1 + np.exp(-1.4 - x / 2)), 1.0, -1.0)


@pytest.mark.parametrize("of_target", [False, True])
def test_negative_weights_have_the_ratio_of_signed_densities(of_target):
    n = 20000
    x, sign = signed_source(n, 0)
    z = np.random.default_rng(1).normal(DELTA, size=n)
    X, domain = np.r_[x, z][:, None], np.repeat([1, -1], n)
    model = DomainReweighter(
        LOGISTIC, negative_weights="sign", normalize=False, target_label=1 if of_target else -1
    ).set_params(random_state=0)
    model.fit(X, domain, np.r_[sign, np.ones(n)])
    at = np.linspace(-1, 2, 7)
    # 2 P(+) - 1 at x, over its mean.
    nodes, shares = np.polynomial.hermite_e.hermegauss(60)
    mean = shares @ np.tanh(0.7 + nodes / 4) / shares.sum()
    truth = DELTA * at - DELTA**2 / 2 - np.log(np.tanh(0.7 + at / 4) / mean)
    found = np.log(model.predict_weight(at[:, None])) * (-1 if of_target else 1)
    # Log-odds of signs are known to some 0.03, as of 20000 p (1 - p) events, of which
    # log tanh(l / 2) takes 1 / sinh(l), at most 1 here; those of domains to 0.03.
    assert np.all(np.abs(found - truth) < 5 * np.hypot(0.03, 0.03))
    if not of_target:
        # The signed, weighted source has the moments of the target.
        weight = sign * model.predict_weight(x[:, None])
        mean = np.average(x, weights=weight)
        error = np.sqrt(weight**2 @ (x - mean) ** 2) / weight.sum()
        assert abs(mean - z.mean()) < 5 * np.hypot(error, 1 / np.sqrt(n))
    # |w| alone has another ratio.
    assert np.abs(truth - DELTA * at + DELTA**2 / 2).max() > 5 * np.hypot(0.03, 0.03)


def test_negative_weights_are_an_error_unless_they_have_a_meaning():
    X, domain = two_gaussians(50, 50, seed=0)
    weight = np.r_[-np.ones(3), np.ones(97)]
    with pytest.raises(ValueError, match=r"3 negative values of 100.*negative_weights='sign'"):
        DomainReweighter().fit(X, domain, weight)
    with pytest.raises(ValueError, match=r"must have a positive sum\. Got 50 for -1, -44 for 1"):
        DomainReweighter(negative_weights="sign").fit(X, domain, np.r_[-np.ones(47), np.ones(53)])


def test_one_negative_event_says_nothing_of_where_they_are():
    X, domain = two_gaussians(200, 200, seed=0)
    weight = np.ones(400)
    weight[0] = -1
    model = DomainReweighter(LOGISTIC, calibration=None, negative_weights="sign", random_state=0)
    weight = model.fit(X, domain, weight).predict_weight([[0.0], [1.0]])
    absolute = clone(model).fit(X, domain).predict_weight([[0.0], [1.0]])
    # Other folds, but the same mean over them, up to what a fifth of the events does.
    np.testing.assert_allclose(np.diff(np.log(weight)), np.diff(np.log(absolute)), rtol=0.1)


def test_folds_without_events_of_a_domain():
    X, domain = two_gaussians(4, 40, seed=0)
    weight = np.r_[1.0, 1.0, -0.4, -0.3, np.ones(40)]
    model = DomainReweighter(LOGISTIC, cv=10, negative_weights="sign", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)
        ratio = model.fit(X, domain, weight).predict_weight(X)
    assert np.all(np.isfinite(ratio) & (ratio > 0))
    assert np.average(ratio[:4], weights=weight[:4]) == pytest.approx(1)


def test_the_mean_weight_of_the_source_is_one():
    X, domain = two_gaussians(500, 300, seed=0)
    given = np.random.default_rng(0).uniform(0.5, 2, 800)
    model = DomainReweighter(LOGISTIC, random_state=0).fit(X, domain, given)
    weight, given = model.predict_weight(X[domain > 0]), given[domain > 0]
    assert np.average(weight, weights=given) == pytest.approx(1, abs=1e-12)
    total = weight * given
    assert model.effective_sample_size_ == pytest.approx(total.sum() ** 2 / (total**2).sum())
    assert (model.max_weight_, model.clipped_events_, model.clipped_weight_) == (np.inf, 0, 0)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("max_weight", [1.8, 0.9])
def test_the_largest_weight(max_weight, normalize):
    X, domain = two_gaussians(1000, 1000, seed=0)
    model = DomainReweighter(LOGISTIC, max_weight=max_weight, normalize=normalize, random_state=0)
    full = clone(model).set_params(max_weight=None).fit(X, domain).predict_weight(X[:1000])
    with pytest.warns(DomainWarning, match=r"cuts off \d+% of the weight, of \d+\.\d\d% of") as w:
        model.fit(X, domain)
    assert w[0].filename == __file__
    weight = model.predict_weight(X[:1000])
    if normalize:
        assert weight.mean() == pytest.approx(1, abs=1e-9)
    top = weight.max()
    assert top == pytest.approx(model.max_weight_)
    at_top = weight > top * (1 - 1e-12)
    if max_weight > 1:
        assert top == pytest.approx(max_weight)
    else:
        # The quantile itself is not over it.
        assert at_top.sum() == 101
        assert model.clipped_events_ == 0.1
    # The others keep their ratios.
    ratio = weight / full
    np.testing.assert_allclose(ratio[~at_top], ratio[~at_top][0])
    cut = full * ratio[~at_top][0]
    assert model.clipped_weight_ == pytest.approx(np.maximum(cut - top, 0).sum() / cut.sum())
    assert np.all(model.predict_weight([[9.0], [99.0]]) <= top)


def test_a_little_that_is_cut_off_is_not_warned_about():
    X, domain = two_gaussians(1000, 1000, seed=0)
    model = DomainReweighter(LOGISTIC, max_weight=0.99, random_state=0).fit(X, domain)
    assert 0 < model.clipped_weight_ < 0.05


def test_domains_without_events_in_common_are_warned_about():
    X, domain = two_gaussians(2000, 2000, seed=0, delta=5)
    with pytest.warns(DomainWarning, match="of 2000 before: the domains hardly have events in"):
        model = DomainReweighter(LOGISTIC, random_state=0).fit(X, domain)
    assert model.effective_sample_size_ < 20


def test_no_odds_are_beyond_what_the_events_can_tell():
    X, domain = two_gaussians(50, 50, seed=0, delta=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DomainWarning)
        for calibration in ("sigmoid", "isotonic", None):
            model = DomainReweighter(
                DecisionTreeClassifier(), calibration=calibration, normalize=False, random_state=0
            ).fit(X, domain)
            weight = model.predict_weight(X)
            assert weight.min() >= 1 / 101 - 1e-9
            assert weight.max() <= 101 + 1e-9
            assert weight[domain < 0].min() > 5 > 0.2 > weight[domain > 0].max()


def test_one_event_at_the_end_has_no_large_weight():
    # Isotonic odds of the last event, if it is of the target, would be 1:0.
    X, domain = two_gaussians(500, 500, seed=0, delta=0)
    X[-1] = 9
    model = DomainReweighter(LOGISTIC, calibration="isotonic", normalize=False, random_state=0)
    # Of noise, an end of 19 events or more of one kind, at either side of five functions, has the
    # probability 1e-5. Without the rule of succession the odds were 1001.
    assert model.fit(X, domain).predict_weight(X).max() < 20


@pytest.mark.parametrize(
    ("domain", "label"),
    [(["data", "simulation"], "data"), ([False, True], False), ([-3, 0], -3), ([1, 2], 1)],
)
def test_labels_of_domains(domain, label):
    X, codes = two_gaussians(300, 300, seed=0)
    model = DomainReweighter(LOGISTIC, random_state=0)
    reference = clone(model).fit(X, codes)
    y = np.array(domain)[(codes > 0).astype(int)]
    named = clone(model).fit(X, y)
    assert named.target_label_ == label
    np.testing.assert_array_equal(named.predict_weight(X), reference.predict_weight(X))
    assert named.score(X, y) == reference.score(X, codes)
    # The other way round, the ratio is the inverse.
    other = clone(model).set_params(target_label=domain[1], normalize=False).fit(X, y)
    ratio = other.predict_weight(X) * reference.predict_weight(X)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)
    np.testing.assert_allclose(other.predict_proba(X), reference.predict_proba(X), atol=1e-6)
    with pytest.raises(ValueError, match="'target_label' parameter must be one of the labels"):
        clone(model).set_params(target_label="nobody").fit(X, y)


def test_searches_judge_candidates():
    X, domain = two_gaussians(400, 300, seed=0)
    X = np.repeat(X, 2, axis=1)
    for scoring in ("neg_log_loss", "roc_auc"):
        search = GridSearchCV(
            DomainReweighter(LogisticRegression(), cv=3, random_state=0),
            {"estimator__C": [1e-6, 1.0], "calibration": [None]},
            scoring=scoring,
            cv=3,
        ).fit(X, domain)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    search.set_params(scoring="neg_log_loss").fit(X, domain)
    # Of no use is a classifier that may not learn.
    assert search.best_params_["estimator__C"] == 1.0
    assert np.corrcoef(search.best_estimator_.predict_weight(X), np.exp(X[:, 0]))[0, 1] > 0.9


def test_clones_pickles_and_threads_have_the_same_bits():
    X, domain = two_gaussians(200, 200, seed=0)
    model = DomainReweighter(calibration="isotonic", max_weight=0.99, random_state=1)
    fitted = clone(model).fit(X, domain)
    weight = fitted.predict_weight(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).predict_weight(X), weight)
    with parallel_backend("threading"):
        threads = clone(fitted).set_params(n_jobs=2).fit(X, domain)
    np.testing.assert_array_equal(threads.predict_weight(X), weight)
    # Nor does it matter in which order events come.
    order = np.random.default_rng(0).permutation(400)
    shuffled = clone(model).fit(X[order], domain[order])
    np.testing.assert_array_equal(shuffled.predict_weight(X), weight)


def test_events_of_any_shape():
    rng = np.random.default_rng(0)
    X, domain = rng.normal(size=(100, 2, 3)), np.repeat([1, -1], 50)
    model = DomainReweighter(random_state=0)
    weight = clone(model).fit(X, domain).predict_weight(X)
    flat = clone(model).fit(X.reshape(100, 6), domain).predict_weight(X.reshape(100, 6))
    np.testing.assert_array_equal(weight, flat)


@pytest.mark.parametrize("routing", [False, True])
def test_pipelines_get_the_weights(routing):
    X, domain = two_gaussians(300, 300, seed=0)
    weight = np.random.default_rng(0).uniform(0.1, 3, 600)
    with config_context(enable_metadata_routing=routing):
        piped = make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), LOGISTIC))
        inside = DomainReweighter(piped, random_state=0).fit(X, domain, weight)
        plain = DomainReweighter(LOGISTIC, random_state=0).fit(X, domain, weight)
    # Scales do not matter to a classifier without a penalty, up to its tolerance.
    np.testing.assert_allclose(inside.predict_weight(X), plain.predict_weight(X), rtol=0.01)


def test_splitters_keep_what_belongs_together():
    X, domain = two_gaussians(90, 60, seed=0)
    folds = list(KFold(3, shuffle=True, random_state=0).split(X))
    model = DomainReweighter(LOGISTIC, random_state=0, calibration=None, normalize=False)
    weight = clone(model).set_params(cv=folds).fit(X, domain).predict_weight(X)
    for train, test in folds:
        share = np.bincount((domain[train] < 0).astype(int)) / 2
        by_hand = clone(LOGISTIC).fit(
            X[train], domain[train] < 0, 1 / share[(domain[train] < 0).astype(int)]
        )
        odds = np.exp(by_hand.decision_function(X[test]))
        np.testing.assert_allclose(weight[test], odds, rtol=1e-3)
    # An iterable counts events of weight zero, a splitter does not see them.
    given = np.ones(150)
    given[::7] = 0
    left = [np.flatnonzero(given[test]) for _, test in folds]
    assert all(map(len, left))
    clone(model).set_params(cv=folds).fit(X, domain, given)
    clone(model).set_params(cv=KFold(3, shuffle=True, random_state=0)).fit(X, domain, given)
    with pytest.raises(ValueError, match=r"test every event once.*Got 0 to 1 tests"):
        clone(model).set_params(cv=folds[:2]).fit(X, domain)
    with pytest.raises(ValueError, match="a fold that has all of a class"):
        clone(model).set_params(cv=[(test, train) for train, test in KFold(2).split(X[:150])]).fit(
            X, np.repeat([1, -1], 75)
        )


def test_what_is_no_pair_of_domains_is_refused():
    X = np.arange(12.0)[:, None]
    with pytest.raises(ValueError, match="Only binary classification"):
        DomainReweighter().fit(X, np.arange(12) % 3 - 1)
    with pytest.raises(
        ValueError, match=r"at least 2 different events of each class.* Got 11 and 1"
    ):
        DomainReweighter().fit(X, np.repeat([1, -1], [11, 1]))
    with pytest.raises(ValueError, match="only one class: 1"):
        DomainReweighter().fit(X, np.ones(12, int))


def test_it_is_the_density_ratio_of_conformal_prediction():
    from sklearn.linear_model import LinearRegression

    from sknuc.uncertainty import ConformalRegressor

    X, domain = two_gaussians(3000, 3000, seed=0, delta=1.0)
    rng = np.random.default_rng(1)
    # The noise grows with x, where the target is.
    y = X[:, 0] + rng.normal(size=6000) * np.exp(0.5 * X[:, 0])
    ratio = DomainReweighter(LOGISTIC, random_state=0).fit(X, domain)
    model = ConformalRegressor(
        LinearRegression(), cv="split", density_ratio=ratio.predict_weight, random_state=0
    )
    model.fit(X[:3000], y[:3000])
    interval = model.predict_interval(X[3000:], coverage=0.68)
    inside = ((interval[:, 0] <= y[3000:]) & (y[3000:] <= interval[:, 1])).mean()
    # 750 calibration events, of which weights leave about 750 / e, and 3000 new ones.
    error = np.sqrt(0.68 * 0.32 * (np.e / 750 + 1 / 3000))
    assert abs(inside - 0.68) < 4 * error


@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f8", "f4")])
def test_events_of_the_fit_are_known_in_either_precision(dtypes):
    # A tree that has seen an event is sure of its domain: odds of 1600 instead of 1.
    rng = np.random.default_rng(0)
    X, domain = rng.normal(size=(2000, 2)).astype(dtypes[0]), np.repeat([1, -1], 1000)
    tree = DecisionTreeClassifier(random_state=0)
    model = DomainReweighter(tree, calibration=None, random_state=0).fit(X, domain)
    weight, other = (model.predict_weight(x) for x in (X, X.astype(dtypes[1])))
    # What a tree says may change where rounding crosses a cut, at next to no event.
    assert np.mean(other == weight) > 0.99
    # A file of single precision, read as doubles.
    there_and_back = model.predict_weight(X.astype("f4").astype("f8"))
    assert np.mean(there_and_back == weight) > 0.99


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_events_beyond_single_precision_are_told_apart(scale):
    X, domain = two_gaussians(50, 50, seed=0)
    model = DomainReweighter(random_state=0).fit(scale * X, domain)
    # Each is judged by one model alone.
    np.testing.assert_array_equal(np.sort(model._shares_of(scale * X), axis=0)[:-1], 0)
