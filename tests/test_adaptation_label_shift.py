"""Classes that are differently frequent in the target."""

import pickle

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.adaptation import LabelShiftClassifier
from sknuc.adaptation._calibration import fit_scaling
from sknuc.adaptation._priors import estimate_priors, mixture_proportions
from sknuc.exceptions import DomainWarning

MEANS = np.array([-1.0, 0.5, 2.0])
SOURCE, TARGET = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
METHODS = ["em", "bbse", "bbse-soft"]
# Of coverages and pulls: each test has five of them or less, and fails of itself once in 10^5.
Z = 5


def draw(n, priors, rng):
    y = rng.choice(len(priors), size=n, p=priors)
    return rng.normal(MEANS[y]), y


def posterior(x, priors, scale=1.0, bias=0.0):
    return softmax(scale * (np.log(priors) - (x[:, None] - MEANS) ** 2 / 2) + bias, axis=1)


def mixed(n_source, n_target, seed):
    """Source and target in one table; labels of the target are the truth."""
    rng = np.random.default_rng(seed)
    (x, y), (z, u) = draw(n_source, SOURCE, rng), draw(n_target, TARGET, rng)
    return np.r_[x, z][:, None], np.r_[y, u], np.repeat([1, -1], [n_source, n_target])


def test_scaling_undoes_what_was_done_to_probabilities():
    rng = np.random.default_rng(0)
    x, y = draw(20000, SOURCE, rng)
    bias = np.array([0.3, 0.0, -0.4])
    log_p = np.log(posterior(x, SOURCE, 1.7, bias))
    scale, found = fit_scaling(log_p, y, np.ones(20000))
    # p is (a ln f + b), with a = 1/1.7 and b = -bias/1.7 up to a constant.
    expected = -(bias - bias[0]) / 1.7
    # From the information matrix: 0.007 of the scale, 0.03 of the biases.
    assert abs(scale - 1 / 1.7) < Z * 0.007
    np.testing.assert_allclose(found, expected, atol=Z * 0.03)
    # The biases make the mean probability of every class its share, to rounding.
    p = softmax(scale * log_p + found, axis=1)
    np.testing.assert_allclose(p.mean(0), np.bincount(y) / 20000, atol=1e-9)


def test_scaling_of_classes_that_never_overlap_stays_finite():
    y = np.repeat([0, 1, 2], 30)
    p = np.full((90, 3), 0.1)
    p[np.arange(90), y] = 0.8
    scale, bias = fit_scaling(np.log(p), y, np.ones(90))
    assert 1 < scale < 100
    np.testing.assert_allclose(bias, 0, atol=1e-6)


def test_scaling_of_what_knows_nothing_is_the_frequency():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], [300, 100])
    # What says the contrary is not believed the contrary of.
    p = np.clip(0.5 + 0.3 * (1 - 2 * y) + rng.normal(size=400) / 10, 0.01, 0.99)
    scale, bias = fit_scaling(np.log(np.column_stack([1 - p, p])), y, np.ones(400))
    assert scale == 0
    np.testing.assert_allclose(softmax(bias), [0.75, 0.25])


def test_the_likelihood_equation_holds_where_em_ends():
    rng = np.random.default_rng(0)
    x, _ = draw(500, TARGET, rng)
    density = np.exp(-((x[:, None] - MEANS) ** 2) / 2)
    weight = rng.uniform(size=500)
    weight /= weight.sum()
    shares = mixture_proportions(density, weight, SOURCE)
    posteriors = density * shares / (density @ shares)[:, None]
    np.testing.assert_allclose(weight @ posteriors, shares, rtol=1e-10)
    # The algorithm of Saerens ends there, after thousands of steps.
    slow = SOURCE
    for _ in range(5000):
        slow = weight @ (density * slow / (density @ slow)[:, None])
    np.testing.assert_allclose(shares, slow, atol=1e-8)


def test_a_class_that_is_not_there_has_the_share_zero():
    rng = np.random.default_rng(0)
    x = rng.normal(MEANS[0], 0.5, size=300)
    density = np.exp(-((x[:, None] - MEANS) ** 2) / 2)
    weight = np.full(300, 1 / 300)
    shares = mixture_proportions(density, weight, SOURCE)
    np.testing.assert_allclose(shares, [1, 0, 0], atol=1e-12)
    # Karush, Kuhn and Tucker: no class would be better than what there is.
    assert np.all(weight @ (density / (density @ shares)[:, None]) <= 1 + 1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_priors_are_covered_by_their_errors(method):
    rng = np.random.default_rng(0)
    n_trials = 150
    pulls, inside = [], 0
    for _ in range(n_trials):
        (x, y), (z, _) = draw(800, SOURCE, rng), draw(1000, TARGET, rng)
        # Too sure, and biased: the calibration's errors are a part of all.
        bias = np.array([0.3, 0.0, -0.4])
        found = estimate_priors(
            posterior(x, SOURCE, 1.7, bias), y, posterior(z, SOURCE, 1.7, bias), method=method
        )
        assert found.identified
        np.testing.assert_allclose(found.covariance.sum(0), 0, atol=1e-12)
        difference = found.target - TARGET
        pulls.append(difference / found.error)
        # Mahalanobis' distance in the plane of the sum one.
        inside += difference @ np.linalg.pinv(found.covariance) @ difference < stats.chi2.ppf(
            0.68, 2
        )
    pulls = np.array(pulls)
    # The mean pull allows for a second-order bias, of a tenth of the error.
    assert np.all(np.abs(pulls.mean(0)) < 0.1 + Z / np.sqrt(n_trials))
    assert np.all(np.abs(pulls.std(0) - 1) < Z / np.sqrt(2 * n_trials))
    assert abs(inside / n_trials - 0.68) < Z * np.sqrt(0.68 * 0.32 / n_trials)


def test_errors_without_calibration_are_those_of_the_likelihood():
    # Of classes that do not overlap, shares are counted: the error is binomial.
    y = np.repeat([0, 1], [300, 700])
    p = np.eye(2)[y]
    u = np.repeat([0, 1], [250, 750])
    for method in METHODS:
        found = estimate_priors(p, y, np.eye(2)[u], method=method, calibrate=False)
        np.testing.assert_allclose(found.target, [0.25, 0.75], atol=2e-3)
        expected = np.sqrt(0.25 * 0.75 / 1000)
        np.testing.assert_allclose(found.error, expected, rtol=0.02)


@pytest.mark.parametrize("method", ["bbse", "bbse-soft"])
def test_the_confusion_matrix_in_closed_form(method):
    # Exact by design: of class 0, 80 of 100 are taken for 0; of class 1, 10 of 50; of the target,
    # 41 of 100: 41 = 80 p + 20 (1 - p), p = 0.35.
    said = np.r_[np.zeros(80), np.ones(20), np.zeros(10), np.ones(40)].astype(int)
    y = np.repeat([0, 1], [100, 50])
    table = np.eye(2) if method == "bbse" else np.array([[0.9, 0.1], [0.1, 0.9]])
    target = table[np.repeat([0, 1], [41, 59])]
    found = estimate_priors(table[said], y, target, method=method, calibrate=False)
    np.testing.assert_allclose(found.target, [0.35, 0.65], atol=1e-9)
    np.testing.assert_allclose(found.source, [2 / 3, 1 / 3])
    # By propagation of binomial errors: p = (t - b) / (a - b).
    a, b, t, p = 0.8, 0.2, 0.41, 0.35
    error = np.sqrt(
        t * (1 - t) / 100 + p**2 * a * (1 - a) / 100 + (1 - p) ** 2 * b * (1 - b) / 50
    ) / (a - b)
    np.testing.assert_allclose(found.error, error, rtol=1e-9)
    np.testing.assert_allclose(found.ratio, found.target / found.source)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_told_stays_as_in_the_source(method):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [200, 100, 100])
    # Two classes that the classifier does not tell apart, and nothing that it does.
    for known in (
        np.eye(3)[np.minimum(y, 1)] @ [[0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0, 0, 0]],
        np.full((400, 3), 1 / 3),
    ):
        p = known * rng.uniform(1 - 1e-9, 1 + 1e-9, size=(400, 3))
        p /= p.sum(1, keepdims=True)
        found = estimate_priors(p, y, p[::-1], method=method)
        assert not found.identified
        np.testing.assert_allclose(found.target.sum(), 1)
        np.testing.assert_allclose(found.target[0], 0.5, atol=0.1)
        # Of shares of which nothing is known, the error says so.
        assert found.error.max() > 12**-0.5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("worse_than_chance", [False, True])
def test_what_says_the_same_of_all_events_tells_nothing(method, worse_than_chance):
    # Exactly the same: the confusion matrix has no errors either. What is worse than chance ends
    # there, too, as its calibration believes nothing of it.
    rng = np.random.default_rng(0)
    for n in (50, 173, 400):
        y = np.r_[0, 1, rng.integers(2, size=n - 2)]
        p = np.tile([0.44, 0.56], (n, 1))
        if worse_than_chance:
            p[y == 1] = [0.6, 0.4]
        # The likelihood takes probabilities at their word, and is calibrated.
        options = {"method": method, "calibrate": worse_than_chance or method == "em"}
        found = estimate_priors(p, y, p[: n // 2], **options)
        assert not found.identified
        # The share that was in the source, and an error as large as that of any share.
        np.testing.assert_allclose(found.target, found.source, atol=1e-3)
        assert found.error.max() > 12**-0.5


@pytest.mark.parametrize("method", METHODS)
def test_events_of_several_models_are_no_more_events(method):
    rng = np.random.default_rng(0)
    (x, y), (z, _) = draw(800, SOURCE, rng), draw(600, TARGET, rng)
    p, q = posterior(x, SOURCE), posterior(z, SOURCE)
    one = estimate_priors(p, y, q, method=method)
    three = estimate_priors(p, y, np.stack([q] * 3, axis=1), method=method)
    np.testing.assert_allclose(three.target, one.target, atol=1e-9)
    np.testing.assert_allclose(three.error, one.error, rtol=1e-6)
    # And weights of which only ratios matter: of 4 in 2 events are those of 2 events.
    weight = rng.uniform(size=600)
    first = estimate_priors(p, y, q, method=method, target_weight=weight)
    second = estimate_priors(p, y, q, method=method, target_weight=1e5 * weight)
    np.testing.assert_allclose(first.error, second.error, rtol=1e-9)
    assert np.all(first.error > one.error)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("estimator", [None, LinearDiscriminantAnalysis()])
def test_priors_and_accuracy_in_the_target(estimator, method):
    X, y, domain = mixed(4000, 4000, seed=1)
    unknown = np.where(domain > 0, y, -7)
    model = LabelShiftClassifier(estimator, method=method, random_state=0)
    model.fit(X, unknown, sample_domain=domain)
    pull = (model.target_priors_ - TARGET) / model.target_priors_error_
    assert np.all(np.abs(pull) < Z)
    assert np.all(model.target_priors_error_ < 0.06)
    np.testing.assert_allclose(model.source_priors_, np.bincount(y[:4000]) / 4000)
    np.testing.assert_allclose(model.class_ratio_, model.target_priors_ / model.source_priors_)
    # New events of the target: as right as Bayes with the true shares, up to the differences of
    # the two classifiers, whose variance is the share of events on which they differ.
    z, u = draw(8000, TARGET, np.random.default_rng(5))
    best, naive = posterior(z, TARGET).argmax(1), posterior(z, SOURCE).argmax(1)
    found = model.predict(z[:, None])
    lost = np.mean(best == u) - np.mean(found == u)
    # Shares that are off by d cost of the order of d squared.
    cost = 2 * np.sum(model.target_priors_error_**2)
    assert lost < Z * np.sqrt(np.mean(found != best) / 8000) + Z * cost
    assert np.mean(found == u) > np.mean(naive == u)
    p = model.predict_proba(z[:, None])
    np.testing.assert_allclose(p.sum(1), 1)
    # Calibrated in the target: the mean probability of a class is its share.
    error = np.sqrt(p.std(0) ** 2 / 8000 + model.target_priors_error_**2 * 2)
    assert np.all(np.abs(p.mean(0) - np.bincount(u) / 8000) < Z * error)


def test_labels_of_the_target_are_never_looked_at():
    X, y, domain = mixed(300, 200, seed=0)
    model = LabelShiftClassifier(random_state=0)
    expected = clone(model).fit(X, y, sample_domain=domain)
    scrambled = np.array(y, dtype=object)
    rng = np.random.default_rng(0)
    scrambled[domain < 0] = rng.permutation(y[domain < 0])
    missing = np.where(domain > 0, y, np.nan)
    words = [label if d > 0 else "no idea" for label, d in zip(y.tolist(), domain, strict=True)]
    none = [label if d > 0 else None for label, d in zip(y.tolist(), domain, strict=True)]
    for labels in (scrambled, missing, words, none):
        found = clone(model).fit(X, labels, sample_domain=domain)
        np.testing.assert_array_equal(found.classes_, [0, 1, 2])
        np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))
        np.testing.assert_array_equal(found.target_priors_error_, expected.target_priors_error_)


@pytest.mark.parametrize("method", ["em", "bbse"])
def test_a_weight_of_two_is_the_event_twice_and_of_zero_none(method):
    X, y, domain = mixed(300, 200, seed=0)
    weight = np.random.default_rng(0).integers(0, 4, 500)
    model = LabelShiftClassifier(method=method, random_state=0)
    weighted = clone(model).fit(X, y, weight, domain)
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(500), weight))
    repeated = clone(model).fit(X[order], y[order], sample_domain=domain[order])
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-9)
    np.testing.assert_allclose(weighted.target_priors_error_, repeated.target_priors_error_)


def test_weights_of_the_target_count():
    X, y, domain = mixed(3000, 3000, seed=0)
    # Weights that bring the shares of the source back.
    weight = np.where(domain > 0, 1.0, (SOURCE / TARGET)[y])
    model = LabelShiftClassifier(random_state=0).fit(X, y, weight, domain)
    assert np.all(np.abs(model.target_priors_ - SOURCE) < Z * model.target_priors_error_)


def test_without_domains_it_is_a_classifier_and_says_so():
    X, y, _ = mixed(2000, 2, seed=0)
    with pytest.warns(DomainWarning, match="LabelShiftClassifier got no sample_domain") as caught:
        model = LabelShiftClassifier(random_state=0).fit(X[:2000], y[:2000])
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(model.class_ratio_, 1)
    np.testing.assert_array_equal(model.target_priors_, model.source_priors_)
    p = model.source_priors_
    np.testing.assert_allclose(model.target_priors_error_, np.sqrt(p * (1 - p) / 2000))
    plain = LogisticRegression(C=np.inf).fit(X[:2000], y[:2000])
    assert np.mean(model.predict(X[:2000]) == plain.predict(X[:2000])) > 0.97


def test_a_class_of_one_event_is_refused_with_words():
    X, y, domain = mixed(60, 60, seed=0)
    y = np.r_[1, np.zeros(119, int)]
    with pytest.raises(ValueError, match=r"all of a class, of \[59, 1\] different events"):
        LabelShiftClassifier(random_state=0).fit(X, y, sample_domain=domain)


@pytest.mark.parametrize("method", METHODS)
def test_events_that_are_all_alike_are_warned_about(method):
    y = np.random.default_rng(0).integers(2, size=200)
    domain = np.repeat([1, -1], 100)
    model = LabelShiftClassifier(method=method, random_state=0)
    with pytest.warns(DomainWarning, match="hardly tells some classes apart"):
        model.fit(np.zeros((200, 1)), y, sample_domain=domain)
    np.testing.assert_allclose(model.target_priors_, model.source_priors_, atol=1e-3)


def test_classes_that_look_alike_are_warned_about():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 2)), rng.integers(0, 2, 600)
    for method in METHODS:
        with pytest.warns(DomainWarning, match="hardly tells some classes apart"):
            LabelShiftClassifier(method=method, random_state=0).fit(
                X, y, sample_domain=np.repeat([1, -1], 300)
            )


@pytest.mark.parametrize("routing", [False, True])
def test_domains_reach_the_classifier_through_pipelines_and_searches(routing):
    X, y, domain = mixed(300, 200, seed=0)
    model = LabelShiftClassifier(random_state=0)
    direct = clone(model).fit(StandardScaler().fit_transform(X), y, sample_domain=domain)
    with config_context(enable_metadata_routing=routing):
        piped = make_pipeline(StandardScaler(), clone(model))
        name = "sample_domain" if routing else "labelshiftclassifier__sample_domain"
        piped.fit(X, y, **{name: domain})
        np.testing.assert_array_equal(piped[-1].target_priors_, direct.target_priors_)
        folds = KFold(3, shuffle=True, random_state=0)
        search = GridSearchCV(
            piped, {"labelshiftclassifier__method": ["em", "bbse-soft"]}, cv=folds
        )
        search.fit(X, y, **{name: domain})
        assert np.all(search.best_estimator_[-1].class_ratio_ != 1)
        scores = cross_validate(piped, X, y, cv=folds, params={name: domain})["test_score"]
        assert np.all(scores > 0.4)


def test_pickles_event_shapes_and_uncertainty():
    X, y, domain = mixed(300, 200, seed=0)
    X = np.c_[X, X**2, np.sin(X), X]
    model = LabelShiftClassifier(random_state=0).fit(X, y, sample_domain=domain)
    events = clone(model).fit(X.reshape(-1, 2, 2), y, sample_domain=domain)
    p = model.predict_proba(X)
    np.testing.assert_array_equal(events.predict_proba(X.reshape(-1, 2, 2)), p)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), p)
    total, aleatoric, epistemic = model.predict_uncertainty(X)
    np.testing.assert_allclose(total, aleatoric + epistemic)


def test_a_splitter_of_the_source():
    X, y, domain = mixed(90, 60, seed=0)
    order = np.random.default_rng(0).permutation(150)
    X, y, domain = X[order], y[order], domain[order]
    model = LabelShiftClassifier(cv=KFold(3), random_state=0)
    first = clone(model).fit(X, y, sample_domain=domain)
    # An iterable counts the events of both domains.
    rows = np.flatnonzero(domain > 0)
    folds = [(rows[train], rows[test]) for train, test in KFold(3).split(rows)]
    second = clone(model).set_params(cv=folds).fit(X, y, sample_domain=domain)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    with pytest.raises(ValueError, match=r"test every event once.*Got 0 to 1 tests"):
        clone(model).set_params(cv=folds[:2]).fit(X, y, sample_domain=domain)
