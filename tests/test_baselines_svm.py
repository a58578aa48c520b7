"""Support vector machines: scikit-learn's own inside, honest probabilities outside."""

import pickle

import numpy as np
import pandas as pd
import pytest
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import Pipeline
from scipy.special import expit, logit
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR
from sklearn.utils.estimator_checks import check_estimator

from sknuc.baselines import SVMClassifier, SVMRegressor
from sknuc.baselines._nystroem import NystroemMachine
from sknuc.baselines._svm import _calibrate

SVMS = [SVMClassifier, SVMRegressor]
PATHS = [5000, 0]  # max_exact_samples: the exact kernel, Nyström's


def log_odds(X):
    return 1.5 * X[:, 0] + X[:, 1] * X[:, 2]


def draw(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, (rng.random(n) < expit(log_odds(X))).astype(int)


@pytest.fixture(scope="module")
def events():
    X, y = draw(600, 7)
    return X * [1, 1e-9, 1e6, 10] + [0, 1e-8, 0, 1e3], y


@pytest.mark.parametrize("svm", SVMS)
def test_scikit_learn_contract_of_the_approximate_kernel(svm):
    check_estimator(svm(max_exact_samples=0))


# The machine


@pytest.mark.parametrize("kernel", ["rbf", "linear", "poly"])
def test_exact_classifier_is_svc_on_scaled_events(events, kernel):
    X, y = events
    svm = SVMClassifier(C=2, kernel=kernel, tol=1e-8, random_state=0).fit(X, y)
    oracle = make_pipeline(StandardScaler(), SVC(C=2, kernel=kernel, tol=1e-8)).fit(X, y)
    assert svm.approximation_ == "exact"
    margin = svm.svm_.decision_function(svm.scaler_.transform(X))
    np.testing.assert_allclose(margin, oracle.decision_function(X), atol=1e-5)
    a, b = svm.calibration_slope_, svm.calibration_offset_
    assert a > 0
    np.testing.assert_allclose(svm.decision_function(X), a * margin + b[1] - b[0], atol=1e-12)


def test_exact_regressor_is_svr_on_scaled_events_and_targets(events):
    X, _ = events
    y = 300 + 40 * np.sin(StandardScaler().fit_transform(X)[:, 0])
    svm = SVMRegressor(epsilon=0.05, tol=1e-8).fit(X, y)
    scaled = (y - y.mean()) / y.std()
    oracle = make_pipeline(StandardScaler(), SVR(epsilon=0.05, tol=1e-8)).fit(X, scaled)
    np.testing.assert_allclose(svm.predict(X), y.mean() + y.std() * oracle.predict(X), atol=1e-4)


def test_nystroem_machines_are_optimal():
    # liblinear penalises the intercept too: a large intercept_scaling leaves it free.
    X, y = draw(300, 1)
    rng = np.random.default_rng(0)
    weight = rng.gamma(2, 0.5, size=300)
    options = {"n_landmarks": 40, "C": 0.7, "random_state": 0, "kernel": "rbf", "gamma": 0.2}
    sign = np.where(y == 1, 1.0, -1.0)
    svm = NystroemMachine(tol=1e-12, **options).fit(X, sign[:, None], weight)
    features = svm.feature_map_.transform(X)
    oracle = LinearSVC(C=0.7, dual=False, tol=1e-10, intercept_scaling=300, max_iter=10_000)
    oracle.fit(features, y, sample_weight=weight)
    np.testing.assert_allclose(
        svm.decision_function(X)[:, 0], oracle.decision_function(features), atol=2e-3
    )
    target = log_odds(X)
    svr = NystroemMachine(epsilon=0.1, tol=1e-12, **options).fit(X, target[:, None], weight)
    oracle = LinearSVR(
        C=0.7,
        epsilon=0.1,
        loss="squared_epsilon_insensitive",
        dual=False,
        tol=1e-10,
        intercept_scaling=300,
        max_iter=10_000,
    ).fit(features, target, sample_weight=weight)
    np.testing.assert_allclose(svr.decision_function(X)[:, 0], oracle.predict(features), atol=2e-3)


def test_blocks_of_features_give_the_same_machine(monkeypatch):
    X, y = draw(500, 2)
    svm = SVMClassifier(max_exact_samples=0, n_landmarks=30, calibration_folds=None, random_state=0)
    kept = svm.fit(X, y).decision_function(X)
    monkeypatch.setattr("sknuc.baselines._nystroem.CACHE_BYTES", 0)
    monkeypatch.setattr("sknuc.baselines._nystroem.BLOCK_EVENTS", 64)
    np.testing.assert_allclose(clone(svm).fit(X, y).decision_function(X), kept, atol=1e-8)


def test_nystroem_with_all_landmarks_ranks_like_the_exact_kernel():
    X, y = draw(800, 3)
    test, label = draw(3000, 4)
    exact = SVMClassifier(random_state=0).fit(X, y)
    nystroem = SVMClassifier(max_exact_samples=799, n_landmarks=800, random_state=0).fit(X, y)
    assert (exact.approximation_, nystroem.approximation_) == ("exact", "nystroem")
    scores = [svm.decision_function(test) for svm in (exact, nystroem)]
    assert spearmanr(*scores)[0] > 0.95
    assert abs(np.subtract(*[roc_auc_score(label, s) for s in scores])) < 0.02


def test_few_landmarks_suffice_for_a_smooth_posterior():
    X, y = draw(6000, 5)
    test, label = draw(4000, 6)
    svm = SVMClassifier(n_landmarks=200, random_state=0).fit(X, y)
    assert svm.approximation_ == "nystroem"
    optimum = roc_auc_score(label, log_odds(test))
    assert roc_auc_score(label, svm.decision_function(test)) > optimum - 0.02


@pytest.mark.parametrize("max_exact_samples", PATHS)
def test_regressor_learns_functions(max_exact_samples):
    rng = np.random.default_rng(1)
    X, test = rng.uniform(-2, 2, size=(2, 600, 2))

    def truth(X):
        return np.column_stack([1e6 + 1e3 * np.sin(2 * X[:, 0]), X[:, 0] * X[:, 1]])

    svm = SVMRegressor(C=100, epsilon=0.01, max_exact_samples=max_exact_samples, random_state=0)
    together = svm.fit(X, truth(X)).predict(test)
    error = np.abs(together - truth(test)).mean(axis=0) / truth(test).std(axis=0)
    assert (error < 0.03).all()
    alone = clone(svm).fit(X, truth(X)[:, 1]).predict(test)
    np.testing.assert_allclose(alone, together[:, 1], atol=0.05)


# Probabilities


@pytest.mark.parametrize("max_exact_samples", PATHS)
@pytest.mark.parametrize("prior", [0.5, 0.15])
def test_probabilities_are_those_of_the_posterior(max_exact_samples, prior):
    # Two Gaussians at ±1: the log-odds are 2x plus those of the prior, which a linear machine
    # can follow.
    rng = np.random.default_rng(2)
    y = rng.random(4000) < prior
    X = rng.normal(np.where(y, 1, -1), 1)[:, None]
    svm = SVMClassifier(
        kernel="linear", max_exact_samples=max_exact_samples, n_landmarks=20, random_state=0
    )
    grid = np.linspace(-2, 2, 41)
    p = svm.fit(X, y).predict_proba(grid[:, None])[:, 1]
    assert np.abs(p - expit(2 * grid + logit(prior))).max() < 0.06


@pytest.mark.parametrize("max_exact_samples", PATHS)
def test_probabilities_of_three_classes_are_reliable(max_exact_samples):
    rng = np.random.default_rng(3)
    centers = np.array([[0, 0], [2, 0], [0, 2]])
    y = rng.integers(0, 3, size=6000)
    X = centers[y] + rng.normal(size=(6000, 2))
    density = np.exp(-0.5 * ((X[1500:, None] - centers) ** 2).sum(axis=2))
    posterior = density / density.sum(axis=1, keepdims=True)
    svm = SVMClassifier(max_exact_samples=max_exact_samples, n_landmarks=150, random_state=0)
    # Linear machines can follow the posterior point by point.
    linear = clone(svm).set_params(kernel="linear").fit(X[:1500], y[:1500])
    assert np.abs(linear.predict_proba(X[1500:]) - posterior).mean() < 0.03
    p = svm.fit(X[:1500], y[:1500]).predict_proba(X[1500:])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    for k in range(3):
        for part in np.array_split(np.argsort(p[:, k]), 5):
            assert abs(p[part, k].mean() - posterior[part, k].mean()) < 0.08


@pytest.mark.parametrize("max_exact_samples", PATHS)
def test_labels_of_noise_are_told_apart_by_nobody(max_exact_samples):
    # A machine with C=100 separates noise that it is trained on: margins of training events would
    # make it sure.
    rng = np.random.default_rng(4)
    X = rng.normal(size=(400, 10))
    y = rng.random(400) < 0.3
    svm = SVMClassifier(C=100, max_exact_samples=max_exact_samples, random_state=0).fit(X, y)
    trained = svm.svm_.decision_function(svm.scaler_.transform(X)).ravel()
    assert roc_auc_score(y, trained) > 0.99
    unseen = svm.predict_proba(rng.normal(size=(2000, 10)))[:, 1]
    assert abs(unseen.mean() - y.mean()) < 0.06
    assert unseen.std() < 0.1
    assert svm.predict_proba(X)[:, 1].max() < 0.75


@pytest.mark.parametrize("max_exact_samples", PATHS)
@pytest.mark.parametrize("scale", [0.3, 1, 3])
def test_probabilities_on_a_discrete_feature(max_exact_samples, scale):
    # Ten values shared by 4000 events: no machine may judge a value without its events of the
    # label that it judges.
    rng = np.random.default_rng(9)
    x = rng.integers(0, 10, size=4000)
    y = rng.random(4000) < expit(0.8 * (x - 4.5))
    grid = np.arange(10)
    svm = SVMClassifier(kernel="linear", max_exact_samples=max_exact_samples, random_state=0)
    p = svm.fit(x[:, None], y, np.full(4000, scale)).predict_proba(grid[:, None])[:, 1]
    assert np.abs(p - expit(0.8 * (grid - 4.5))).max() < 0.03
    counts = np.bincount(10 * y + x, minlength=20)
    values, labels = np.tile(grid, 2)[:, None], np.repeat([False, True], 10)
    counted = svm.fit(values, labels, scale * counts).predict_proba(grid[:, None])[:, 1]
    assert np.abs(counted - expit(0.8 * (grid - 4.5))).max() < 0.03


def test_noise_on_many_discrete_values_is_told_apart_by_nobody():
    # Two events per value: equal labels must be no better known to the folds than unequal ones.
    ranges = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        X = np.repeat(rng.permutation(200), 2)[:, None]
        y = rng.random(400) < 0.5
        svm = SVMClassifier(C=10, gamma=1e4, random_state=seed).fit(X, y)
        ranges.append(np.ptp(svm.predict_proba(X)[:, 1]))
    assert np.mean(ranges) < 0.06


@pytest.mark.parametrize("max_exact_samples", PATHS)
def test_copies_of_events_are_not_judged_by_machines_that_saw_them(max_exact_samples):
    rng = np.random.default_rng(10)
    X = rng.normal(size=(300, 10))
    y = rng.random(300) < 0.5
    svm = SVMClassifier(C=10, max_exact_samples=max_exact_samples, random_state=0)
    p = svm.fit(np.tile(X, (4, 1)), np.tile(y, 4)).predict_proba(X)[:, 1]
    # Labels are drawn: the sigmoid of machines that have not seen them is flat up to chance, of
    # machines that have it is steep for all events.
    assert np.abs(p - 0.5).mean() < 0.25


def test_calibration_is_the_maximum_likelihood():
    rng = np.random.default_rng(5)
    margin = rng.normal(size=100_000)
    codes = (rng.random(100_000) < expit(3 * margin - 1)).astype(int)
    both = np.column_stack([-margin / 2, margin / 2])
    a, b = _calibrate(both, codes, None)
    assert (a, b[1] - b[0]) == pytest.approx((3, -1), abs=0.05)
    regression = LogisticRegression(C=np.inf, tol=1e-10).fit(margin[:, None], codes)
    expected = (regression.coef_[0, 0], regression.intercept_[0])
    assert (a, b[1] - b[0]) == pytest.approx(expected, abs=2e-3)
    # A margin that misleads gets no say, and keeps its order.
    a, b = _calibrate(-both, codes, None)
    assert 0 < a < 1e-5
    assert expit(b[1] - b[0]) == pytest.approx(codes.mean(), abs=1e-4)
    # Separable margins have a finite slope.
    assert np.isfinite(_calibrate(both[:2], (margin[:2] > margin[:2].mean()).astype(int), None)[0])
    # Three classes, drawn from the softmax itself.
    f = rng.normal(size=(100_000, 3))
    score = 2 * f + [0.5, 0, -0.5]
    codes = (score + rng.gumbel(size=f.shape)).argmax(axis=1)
    a, b = _calibrate(f, codes, None)
    np.testing.assert_allclose([a, *b], [2, 0.5, 0, -0.5], atol=0.04)


def test_methods_agree_and_a_lonely_event_is_not_calibrated():
    X, y = draw(60, 8)
    y[0] = 2
    svm = SVMClassifier(random_state=0).fit(X, y)
    assert svm.n_folds_ == 0
    assert svm.calibration_slope_ == 1
    y[1:3] = 2
    svm.fit(X, y)
    assert svm.n_folds_ == 3
    for test in (X, 1e3 * X):
        np.testing.assert_array_equal(svm.predict(test), svm.predict_proba(test).argmax(axis=1))
        np.testing.assert_array_equal(svm.predict(test), svm.decision_function(test).argmax(axis=1))


# Weights


@pytest.mark.parametrize("svm", SVMS)
@pytest.mark.parametrize("max_exact_samples", PATHS)
@pytest.mark.parametrize("discrete", [False, True])
def test_weights_are_multiplicities(events, svm, max_exact_samples, discrete):
    X, y = events
    if discrete:
        X = np.digitize(StandardScaler().fit_transform(X)[:, :2], [-1, 0, 1])
    rng = np.random.default_rng(6)
    weight = rng.integers(0, 4, size=len(X))
    rows = rng.permutation(np.repeat(np.arange(len(X)), weight))
    svm = svm(max_exact_samples=max_exact_samples, n_landmarks=50, random_state=0)
    method = "predict_proba" if hasattr(svm, "predict_proba") else "predict"
    weighted = getattr(clone(svm).fit(X, y, weight), method)(X)
    repeated = getattr(clone(svm).fit(X[rows], y[rows]), method)(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9)


def test_class_weight_equals_sample_weight(events):
    X, y = events
    labels = np.where(y == 1, "signal", "background")
    by_class = SVMClassifier(class_weight={"signal": 3, "background": 1}, random_state=0)
    by_event = SVMClassifier(random_state=0).fit(X, labels, np.where(y == 1, 3, 1))
    # The scale is that of the events as they are weighted: class weights included.
    np.testing.assert_allclose(
        by_class.fit(X, labels).predict_proba(X), by_event.predict_proba(X), rtol=1e-9
    )


@pytest.mark.parametrize("svm", SVMS)
def test_weights_on_another_scale_are_told(events, svm):
    X, y = events
    with pytest.warns(UserWarning, match="divide them by their mean") as record:
        svm(random_state=0).fit(X, y, np.full(len(X), 1e-6))
    assert record[0].filename == __file__
    svm(random_state=0, C=1e6).fit(X, y, np.full(len(X), 1e-6))


def test_scaling_is_weighted():
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.normal(size=500), rng.normal(100, 1, 500)])
    y = np.tile([0, 1], 500)
    weight = np.repeat([1, 1e-3], 500)
    svm = SVMClassifier(random_state=0).fit(x[:, None], y, weight)
    assert svm.scaler_.mean_[0] == pytest.approx(np.average(x, weights=weight))
    # "scale" is one over the number of features that vary.
    assert svm.gamma_ == pytest.approx(1)
    constant = np.column_stack([x, np.full(1000, 3.0)])
    assert SVMClassifier(random_state=0).fit(constant, y).gamma_ == pytest.approx(1)


# The rest of the contract


@pytest.mark.parametrize("svm", SVMS)
def test_shapes_names_and_pickles(events, svm):
    X, y = events
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = svm(random_state=0).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcd")
    images = svm(random_state=0).fit(X.reshape(-1, 2, 2), y)
    assert images.input_shape_ == (2, 2)
    np.testing.assert_array_equal(images.predict(X.reshape(-1, 2, 2)), model.predict(frame))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(model)).predict(frame), model.predict(frame)
    )
    threads = svm(random_state=0, n_jobs=2).fit(X, y)
    np.testing.assert_array_equal(threads.predict(X), images.predict(X))
    with pytest.raises(ValueError, match="3 features"):
        images.predict(X[:, :3])


def test_grid_search_over_a_pipeline_with_an_over_sampler(events):
    X, y = events
    y = np.where((y == 1) & (X[:, 0] > 0.8), "rare", "common")
    pipeline = Pipeline([("over", SMOTE(random_state=0)), ("svm", SVMClassifier(random_state=0))])
    grid = {"svm__C": [0.1, 1], "svm__calibration_folds": [None]}
    search = GridSearchCV(pipeline, grid, cv=3, scoring="roc_auc").fit(X, y)
    assert search.best_score_ > 0.9


@pytest.mark.parametrize("svm", SVMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": lambda X: np.where(X > 2, np.inf, X)}, "infinity"),
        ({"X": lambda X: np.where(X > 2, np.nan, X)}, "NaN"),
        ({"X": lambda X: X[:-1]}, "inconsistent numbers of samples"),
        ({"X": lambda X: np.array([["a"] * 4] * len(X), object)}, "could not convert"),
        ({"X": lambda X: X[:0], "y": lambda y: y[:0]}, "minimum of 1"),
        ({"sample_weight": lambda y: np.where(y == 1, -0.1, 1)}, "negative"),
        ({"sample_weight": lambda y: np.zeros(len(y))}, "non-zero"),
        ({"sample_weight": lambda y: np.ones(3)}, "sample_weight.shape"),
    ],
)
def test_bad_events_are_refused(events, svm, change, message):
    X, y = events
    given = {"X": X, "y": y}
    given = {k: change.get(k, lambda v: v)(v) for k, v in given.items()}
    if "sample_weight" in change:
        given["sample_weight"] = change["sample_weight"](y)
    with pytest.raises(ValueError, match=message):
        svm().fit(**given)


def test_bad_settings_are_refused(events):
    X, y = events
    with pytest.raises(ValueError, match="only one class"):
        SVMClassifier().fit(X, np.array(["signal"] * len(X)))
    with pytest.raises(ValueError, match="only one class"):
        SVMClassifier().fit(X, y, sample_weight=y)
    for classes, class_weight in ((2, {0: 0, 1: 1}), (2, {0: -1, 1: 1}), (3, {0: 0, 1: 1, 2: 1})):
        with pytest.raises(ValueError, match="class_weight included, must have a positive sum"):
            SVMClassifier(class_weight=class_weight).fit(X, np.arange(len(X)) % classes)
    with pytest.raises(ValueError, match="'C' parameter of SVMClassifier"):
        SVMClassifier(C=0).fit(X, y)
    with pytest.raises(ValueError, match="'epsilon' parameter of SVMRegressor"):
        SVMRegressor(epsilon=-1).fit(X, y)
