"""Boosted trees: Shapley values that add up, weights as multiplicities, constraints that hold."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from imblearn.over_sampling import SMOTE, RandomOverSampler
from imblearn.pipeline import Pipeline
from scipy.special import expit, rel_entr
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV

from sknuc.baselines import BDTClassifier, BDTRegressor
from sknuc.baselines._losses import LOSSES, loss_metric, signed_objective
from sknuc.multiplicity import count_pieces, deal_folds, hold_out, merge_identical

BDTS = [BDTClassifier, BDTRegressor]


def log_odds(X):
    return 1.5 * X[:, 0] + X[:, 1] * X[:, 2]


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(7)
    X = rng.normal(size=(2000, 5)).astype(np.float32)
    y = (rng.random(2000) < expit(log_odds(X))).astype(int)
    return X, y


@pytest.fixture(scope="module")
def classifier(events):
    return BDTClassifier(max_iter=40, random_state=0).fit(*events)


# Shapley values


def test_shapley_values_add_up_to_the_margin(events, classifier):
    X, _ = events
    values = classifier.shap_values(X)
    assert values.shape == X.shape
    margin = classifier.expected_value_ + values.sum(axis=1)
    np.testing.assert_allclose(margin, classifier.decision_function(X), atol=1e-4)


def test_shapley_values_equal_those_of_shap(events, classifier):
    with warnings.catch_warnings():
        # shap's colour maps use a call that matplotlib retires.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        import shap
    X, _ = events
    explainer = shap.TreeExplainer(classifier.booster_, feature_perturbation="tree_path_dependent")
    # Left to itself, shap hands the events back to xgboost; "internal" is its own code.
    explainer.model.model_type = "internal"
    expected = explainer.shap_values(X[:200].astype(float), check_additivity=False)
    np.testing.assert_allclose(classifier.shap_values(X[:200]), expected, atol=1e-4)


def test_shapley_interactions_sum_to_shapley_values(events, classifier):
    X, _ = events
    interactions = classifier.shap_interaction_values(X[:50])
    np.testing.assert_allclose(interactions.sum(axis=2), classifier.shap_values(X[:50]), atol=1e-4)
    strength = np.abs(interactions).mean(axis=0)
    np.fill_diagonal(strength, 0)
    assert set(np.unravel_index(strength.argmax(), strength.shape)) == {1, 2}


def test_shapley_values_of_classes_add_up(events):
    X, _ = events
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    bdt = BDTClassifier(max_iter=15).fit(X, y)
    values = bdt.shap_values(X[:100])
    assert values.shape == (100, 5, 3)
    np.testing.assert_allclose(
        bdt.expected_value_ + values.sum(axis=1), bdt.decision_function(X[:100]), atol=1e-4
    )


@pytest.mark.parametrize(
    ("loss", "link"), [("squared_error", np.asarray), ("huber", np.asarray), ("poisson", np.log)]
)
@pytest.mark.parametrize("n_targets", [1, 2])
def test_shapley_values_of_regressors_are_in_the_unit_of_the_target(events, loss, link, n_targets):
    X, _ = events
    y = 1e4 * np.exp(X[:, :n_targets].astype(float))
    bdt = BDTRegressor(loss=loss, max_iter=20).fit(X, y)
    values = bdt.shap_values(X[:100])
    if n_targets == 1:
        values = values[..., None]
    total = bdt.expected_value_ + values.sum(axis=1)
    np.testing.assert_allclose(total, link(bdt.predict(X[:100])), rtol=1e-5, atol=1e-4)


def test_blocks_of_shapley_values_are_the_values(events, classifier, monkeypatch):
    X, _ = events
    whole = classifier.shap_values(X)
    monkeypatch.setattr("sknuc.baselines._boosting.BLOCK_BYTES", 4 * 6 * 300)
    np.testing.assert_array_equal(classifier.shap_values(X), whole)


def test_importances_rank_what_the_truth_depends_on(classifier):
    importances = classifier.feature_importances_
    assert importances.sum() == pytest.approx(1)
    assert importances.argmax() == 0
    assert importances[3:].max() < importances[:3].min()


# Learning


def test_trees_are_those_of_xgboost(events):
    X, y = events
    X, y, _ = merge_identical(X, y, None)
    params = {"objective": "binary:logistic", "eta": 0.1, "base_score": y.mean()}
    bare = xgb.train(params, xgb.QuantileDMatrix(X, y), 100)
    ours = BDTClassifier().fit(X, y).predict_proba(X)[:, 1]
    np.testing.assert_allclose(ours, bare.inplace_predict(X), atol=1e-6)


def test_probabilities_approach_the_posterior():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(24_000, 3))
    posterior = expit(log_odds(X))
    y = rng.random(len(X)) < posterior
    bdt = BDTClassifier(early_stopping=True, max_iter=500, random_state=0)
    p = bdt.fit(X[:12_000], y[:12_000]).predict_proba(X[12_000:])[:, 1]
    optimum = log_loss(y[12_000:], posterior[12_000:])
    assert log_loss(y[12_000:], p) < optimum + 0.015
    # Calibrated in every decile, within the statistical error.
    for part in np.array_split(np.argsort(p), 10):
        truth = posterior[12_000:][part]
        assert abs(truth.mean() - p[part].mean()) < 0.04


def test_regressor_learns_a_function_at_any_scale():
    rng = np.random.default_rng(1)
    X = rng.uniform(-1, 1, size=(2000, 2))
    y = np.sin(3 * X[:, 0]) + X[:, 1] ** 2
    test = rng.uniform(-0.95, 0.95, size=(500, 2))
    truth = np.sin(3 * test[:, 0]) + test[:, 1] ** 2
    for loss in ("squared_error", "absolute_error", "huber"):
        bdt = BDTRegressor(loss=loss, max_iter=200).fit(X, y)
        assert np.abs(bdt.predict(test) - truth).mean() < 0.05, loss
        # A power of two and a large offset change no bit of the trees.
        far = clone(bdt).fit(X, 2.0**-20 * y).predict(test) * 2.0**20
        np.testing.assert_allclose(far, bdt.predict(test), rtol=1e-12)
    offset = BDTRegressor(max_iter=300).fit(X, y + 1e9).predict(test) - 1e9
    assert np.abs(offset - truth).mean() < 0.05


def test_absolute_error_finds_medians_and_poisson_finds_means():
    rng = np.random.default_rng(2)
    group = np.repeat([0.0, 1.0], 2000)
    y = rng.exponential(np.where(group == 0, 1, 5))
    kwargs = {"max_iter": 200, "l2_regularization": 0.0}
    median = BDTRegressor(loss="absolute_error", **kwargs).fit(group[:, None], y)
    counts = BDTRegressor(loss="poisson", **kwargs).fit(group[:, None], y)
    gamma = BDTRegressor(loss="gamma", **kwargs).fit(group[:, None], y)
    for g in (0.0, 1.0):
        of_group = y[group == g]
        assert median.predict([[g]])[0] == pytest.approx(np.median(of_group), rel=5e-3)
        assert counts.predict([[g]])[0] == pytest.approx(of_group.mean(), rel=1e-3)
        assert gamma.predict([[g]])[0] == pytest.approx(of_group.mean(), rel=1e-3)


def test_huber_withstands_outliers():
    rng = np.random.default_rng(4)
    X = rng.uniform(-1, 1, size=(3000, 1))
    truth = 3 * X[:, 0]
    y = truth + 0.1 * rng.normal(size=len(X))
    y[rng.random(len(X)) < 0.03] += 100
    error = {
        loss: np.abs(BDTRegressor(loss=loss, max_depth=3).fit(X, y).predict(X) - truth).mean()
        for loss in ("squared_error", "huber")
    }
    assert error["huber"] < 0.1 < error["squared_error"]


def test_targets_in_columns_equal_targets_alone(events):
    X, _ = events
    Y = np.column_stack([X[:, 0] ** 2, 100 + X[:, 1]])
    together = BDTRegressor(max_iter=20).fit(X, Y).predict(X)
    assert together.shape == Y.shape
    for k in range(2):
        alone = BDTRegressor(max_iter=20).fit(X, Y[:, k]).predict(X)
        np.testing.assert_allclose(together[:, k], alone, rtol=1e-5, atol=1e-5)


def test_missing_values_inform():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 2, 1000)
    X = rng.normal(size=(1000, 2))
    X[y == 1, 0] = np.nan
    X = np.column_stack([X, np.full(1000, np.nan)])  # a column without any value
    bdt = BDTClassifier(max_iter=20).fit(X, y)
    assert bdt.score(X, y) == 1.0
    assert bdt.feature_importances_[2] == 0


@pytest.mark.parametrize("direction", [1, -1])
def test_monotonic_constraint_holds_everywhere(events, direction):
    X, y = events
    frame = pd.DataFrame(X, columns=list("abcde"))
    bdt = BDTClassifier(max_iter=60, monotonic_cst={"b": direction}).fit(frame, y)
    by_index = BDTClassifier(max_iter=60, monotonic_cst=[0, direction, 0, 0, 0]).fit(X, y)
    rng = np.random.default_rng(0)
    free = BDTClassifier(max_iter=60).fit(X, y)
    grid = np.linspace(-4, 4, 101, dtype=np.float32)
    violated = False
    for other in rng.normal(size=(20, 5)).astype(np.float32):
        line = np.tile(other, (len(grid), 1))
        line[:, 1] = grid
        margin = bdt.decision_function(pd.DataFrame(line, columns=list("abcde")))
        assert (direction * np.diff(margin) >= -1e-6).all()
        np.testing.assert_array_equal(by_index.decision_function(line), margin)
        violated |= (direction * np.diff(free.decision_function(line)) < -1e-3).any()
    assert violated


@pytest.mark.parametrize("bdt", BDTS)
def test_early_stopping_keeps_the_best_round(events, bdt):
    X, y = events
    noisy = y ^ (np.random.default_rng(0).random(len(y)) < 0.3)
    model = bdt(early_stopping=True, max_iter=400, learning_rate=0.3, random_state=1)
    model.fit(X, noisy)
    loss = model.validation_loss_
    assert model.n_iter_ == loss.argmin() + 1 == model.booster_.num_boosted_rounds()
    assert len(loss) == model.n_iter_ + model.n_iter_no_change < 400
    again = clone(model).fit(X, noisy)
    assert again.booster_.save_raw() == model.booster_.save_raw()


# Weights


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", ["continuous", "missing", "discrete"])
@pytest.mark.parametrize(
    "estimator",
    [
        BDTClassifier(),
        *(
            BDTRegressor(loss=x)
            for x in sorted(BDTRegressor._parameter_constraints["loss"][0].options)
        ),
    ],
    ids=str,
)
def test_weights_are_multiplicities(estimator, kind, early_stopping):
    rng = np.random.default_rng(6)
    n = 3000  # many more than there are bins
    X = rng.normal(size=(n, 4))
    y = rng.poisson(np.exp(X[:, 0])) + 1 if "loss" in estimator.get_params() else X[:, 0] > X[:, 1]
    if kind == "missing":
        X[rng.random(X.shape) < 0.2] = np.nan
    if kind == "discrete":
        X = np.digitize(X[:, :2], [-1, 0, 1])
    weight = rng.integers(0, 4, size=n)
    estimator.set_params(max_iter=20, subsample=0.7, early_stopping=early_stopping, random_state=0)
    weighted = clone(estimator).fit(X, y, sample_weight=weight)
    rows = rng.permutation(np.repeat(np.arange(n), weight))
    repeated = clone(estimator).fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-6)
    np.testing.assert_allclose(
        weighted.shap_values(X[:20]), repeated.shap_values(X[:20]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("scale", [1e-2, 1, 2.5])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"subsample": 0.5},
        {"early_stopping": True, "max_iter": 500},
        {"early_stopping": True, "max_iter": 500, "subsample": 0.5},
    ],
    ids=str,
)
def test_discrete_features(settings, scale):
    # Ten values shared by 4000 events: trees can give each its own frequency. Twice the divergence
    # of frequencies from the truth is distributed as χ² with ten degrees of freedom.
    rng = np.random.default_rng(9)
    x = rng.integers(0, 10, size=4000)
    grid = np.arange(10)
    truth = expit(0.8 * (grid - 4.5))
    y = rng.random(4000) < truth[x]
    bound = chi2.isf(1e-6, df=10) / (2 * len(x))

    def divergence(p):
        share = np.bincount(x) / len(x)
        return share @ (rel_entr(truth, p) + rel_entr(1 - truth, 1 - p))

    bdt = BDTClassifier(random_state=0, min_child_weight=scale, l2_regularization=scale, **settings)
    p = bdt.fit(x[:, None], y, np.full(4000, scale)).predict_proba(grid[:, None])[:, 1]
    assert divergence(p) < bound
    counts = np.bincount(10 * y + x, minlength=20)
    values, labels = np.tile(grid, 2)[:, None], np.repeat([False, True], 10)
    counted = bdt.fit(values, labels, counts).predict_proba(grid[:, None])[:, 1]
    assert divergence(counted) < bound


def test_copies_of_events_stay_on_one_side_of_the_split():
    # Noise with every event four times: a held-out copy would be known by heart.
    rng = np.random.default_rng(10)
    X, y = rng.normal(size=(600, 5)), rng.random(600) < 0.5
    bdt = BDTClassifier(early_stopping=True, max_iter=200, random_state=0)
    bdt.fit(np.tile(X, (4, 1)), np.tile(y, 4))
    assert bdt.n_iter_ < 20
    assert bdt.validation_loss_.min() > 0.65


@pytest.mark.parametrize("discrete", [False, True])
def test_parts_are_parts(discrete):
    rng = np.random.default_rng(11)
    X = rng.integers(0, 3, size=(500, 1)) if discrete else rng.normal(size=(500, 1))
    strata = rng.integers(0, 4, size=500)
    weight = rng.gamma(2, 2, size=500)
    merged, codes, total = merge_identical(X, strata, weight)
    assert total.sum() == pytest.approx(weight.sum())
    pieces = count_pieces(merged, total, weight)
    assert pieces.sum() >= weight.sum() if discrete else (pieces == 1).all()
    folds = deal_folds(pieces, codes, 5, np.random.RandomState(0))
    np.testing.assert_array_equal(folds.sum(axis=0), pieces)
    for k in range(4):
        assert np.ptp(folds[:, codes == k].sum(axis=1)) <= 1
        for fraction in (0.001, 0.1, 0.9):
            held_out = hold_out(pieces, codes, fraction, np.random.RandomState(1))
            n = pieces[codes == k].sum()
            assert abs(held_out[codes == k].sum() - max(1, fraction * n)) <= 1
            assert ((held_out >= 0) & (held_out <= pieces)).all()
    # The pieces of a row are dealt like those of different rows: two meet in every fifth fold.
    two = deal_folds(np.full(4000, 2), np.zeros(4000, int), 5, np.random.RandomState(2))
    assert abs((two == 2).any(axis=0).mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)
    # Pieces are limited, and the light ones of heavy company are kept.
    shared = count_pieces(np.zeros((3, 1)), np.array([1e12, 1.0, 1e-12]), np.ones(3))
    assert shared[0] <= 2**20 + 1
    np.testing.assert_array_equal(shared[1:], 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_events_that_meet_by_chance_do_not_divide_copies_of_others(weighted):
    # A thousand different events, two of which meet, and ten that are there three times.
    rng = np.random.default_rng(14)
    X, y = rng.normal(size=(1000, 2)), rng.integers(0, 2, size=1000)
    X[1], y[:2] = X[0], [0, 1]
    weight = np.where((np.arange(1000) >= 10) & (np.arange(1000) < 20), 3, 1)
    if not weighted:
        X, y, weight = np.repeat(X, weight, axis=0), np.repeat(y, weight), None
    merged, _, total = merge_identical(X, y, weight)
    np.testing.assert_array_equal(count_pieces(merged, total, weight), 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_copied", [10, 1000])
@pytest.mark.parametrize("features", ["float32", "rounded"])
def test_copies_stay_whole_however_often_others_meet(features, n_copied, weighted):
    # Numbers of few digits: tens and hundreds of events meet, and next to none that has copies.
    rng = np.random.default_rng(15)
    if features == "float32":
        X = rng.random((50_000, 1), dtype=np.float32)
    else:
        X = rng.normal(size=(50_000, 2)).round(3)
    y, copies = rng.integers(0, 2, size=len(X)), np.where(np.arange(len(X)) < n_copied, 10, 1)
    weight = copies.astype(float) if weighted else None
    if not weighted:
        X, y = np.repeat(X, copies, axis=0), np.repeat(y, copies)
    merged, _, total = merge_identical(X, y, weight)
    _, place, n_rows = np.unique(merged, axis=0, return_inverse=True, return_counts=True)
    assert (n_rows > 1).sum() > 10
    alone = n_rows[place.ravel()] == 1
    assert (total[alone] == 10).any()
    np.testing.assert_array_equal(count_pieces(merged, total, weight)[alone], 1)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        # Flags and counts of two classes that hardly overlap: one value has both labels.
        (np.repeat([0, 1, 1, 2], [50, 5, 5, 50]), np.repeat([0, 1], [55, 55])),
        # A fine grid: of the cells that are hit, most are hit once.
        np.random.default_rng(16).integers(0, [[1000], [2]], size=(2, 1000)),
    ],
)
def test_values_of_one_label_are_divided_like_those_of_several(x, y):
    merged, _, total = merge_identical(x[:, None], y, None)
    np.testing.assert_array_equal(count_pieces(merged, total, None), total)


def test_losses_are_those_that_are_documented(events):
    X, _ = events
    rng = np.random.default_rng(12)
    y = np.exp(X[:, 0].astype(float)) * rng.gamma(5, 2, size=len(X))
    documented = {
        "squared_error": lambda y, f: (y - f) ** 2,
        "absolute_error": lambda y, f: np.abs(y - f),
        "huber": lambda y, f: np.sqrt(1 + (y - f) ** 2) - 1,
        "poisson": lambda y, f: np.exp(f) - y * f,
        "gamma": lambda y, f: f + y * np.exp(-f),
    }
    for name, loss in documented.items():
        # Nearly all events are held out: their mean loss is that of all, but for a statistical
        # error, and the same, up to one event in 2000, when that one has a negligible weight with a
        # sign.
        bdt = BDTRegressor(
            loss=name, early_stopping=True, validation_fraction=0.9, max_iter=5, random_state=0
        ).fit(X, y)
        scaled = (y - bdt.target_center_) / bdt.target_scale_
        margin = (bdt.predict(X) - bdt.target_center_) / bdt.target_scale_
        margin = np.log(margin) if name in ("poisson", "gamma") else margin
        expected = loss(scaled, margin).mean()
        assert bdt.validation_loss_[-1] == pytest.approx(expected, rel=0.1), name
        if name != "absolute_error":
            weight = np.where(np.arange(len(X)) == 0, -1e-9, 1.0)
            signed = clone(bdt).set_params(negative_weights="signed").fit(X, y, weight)
            assert signed.validation_loss_[0] == pytest.approx(bdt.validation_loss_[0], rel=2e-3)


def test_first_margin_is_the_prior_however_rare():
    X = np.zeros((2, 1))
    bdt = BDTClassifier(max_iter=1, min_child_weight=0).fit(X, [0, 1], sample_weight=[1e9, 1])
    assert bdt.decision_function(X[:1])[0] == pytest.approx(np.log(1e-9), rel=1e-6)


def test_order_of_events_does_not_matter(events):
    X, y = events
    order = np.random.default_rng(0).permutation(len(X))
    bdt = BDTClassifier(max_iter=10, subsample=0.5, random_state=0)
    first = clone(bdt).fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(clone(bdt).fit(X[order], y[order]).predict_proba(X), first)


def test_class_weight_equals_sample_weight(events):
    X, y = events
    keep = (y == 1) | (np.arange(len(y)) % 5 == 0)
    X, y = X[keep], np.where(y[keep] == 1, "signal", "background")
    ratio = (y == "signal").sum() / (y == "background").sum()
    by_class = BDTClassifier(max_iter=10, class_weight={"background": ratio, "signal": 1}).fit(X, y)
    by_event = BDTClassifier(max_iter=10).fit(X, y, np.where(y == "signal", 1, ratio))
    np.testing.assert_array_equal(by_class.predict_proba(X), by_event.predict_proba(X))
    balanced = BDTClassifier(max_iter=1, learning_rate=1e-9, class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(balanced.predict_proba(X[:1]), 0.5, atol=1e-6)


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.derivatives])
def test_signed_derivatives_are_those_of_xgboost(events, name):
    X, label = events
    loss = LOSSES[name]
    rng = np.random.default_rng(0)
    y = {"binary": label, "multiclass": np.digitize(X[:, 0], [-0.5, 0.5])}.get(
        name, rng.gamma(2, 0.5, size=len(X))
    )
    weight = rng.gamma(2, 0.5, size=len(X))
    params = {"objective": loss.objective, "base_score": 0.5, "eta": 0.1}
    if name == "multiclass":
        params |= {"num_class": 3, "base_score": [0.0, 0.0, 0.0]}
    # Bins from the same unit weights, so that only the derivatives differ.
    bins = xgb.QuantileDMatrix(X)
    weighted = xgb.QuantileDMatrix(X, y, weight=weight, ref=bins)
    plain = xgb.QuantileDMatrix(X, y, ref=bins)
    ours = xgb.train(params, plain, 8, obj=signed_objective(loss, y, weight))
    theirs = xgb.train(params, weighted, 8)
    margins = [b.inplace_predict(X, predict_type="margin") for b in (ours, theirs)]
    np.testing.assert_allclose(*margins, atol=2e-4)
    if name in ("binary", "multiclass"):
        _, value = loss_metric(loss, y, weight)(margins[1], None)
        p = expit(margins[1]) if name == "binary" else theirs.inplace_predict(X)
        assert value == pytest.approx(log_loss(y, p, sample_weight=weight), rel=1e-5)


def test_signed_weights_cancel_what_the_generator_subtracts():
    # Class 1 is N(+1, 1), but the generator also emits as many events again at N(-1, 1), and
    # takes them back with weight -1, event by other event.
    rng = np.random.default_rng(8)
    n = 20_000
    x = np.concatenate([rng.normal(1, 1, n), rng.normal(-1, 1, n), rng.normal(-1, 1, 2 * n)])
    y = np.repeat([1, 0, 1], [n, n, 2 * n])
    weight = np.repeat([1, 1, 1, -1], n)
    bdt = BDTClassifier(
        negative_weights="signed", max_depth=3, min_child_weight=300, max_iter=60, random_state=0
    )
    grid = np.linspace(-1, 2.5, 30)[:, None]
    truth = expit(2 * grid[:, 0])
    signed = bdt.fit(x[:, None], y, weight).predict_proba(grid)[:, 1]
    dropped = bdt.fit(x[weight > 0, None], y[weight > 0]).predict_proba(grid)[:, 1]
    assert np.abs(signed - truth).max() < 0.1
    assert np.abs(dropped - truth).max() > 0.2
    stopped = clone(bdt).set_params(early_stopping=True, max_iter=300).fit(x[:, None], y, weight)
    assert np.abs(stopped.predict_proba(grid)[:, 1] - truth).max() < 0.15
    assert stopped.n_iter_ == stopped.validation_loss_.argmin() + 1


def test_opposite_copies_cancel_exactly(events):
    X, y = events
    both = np.concatenate([X, X[:100], X[:100]])
    labels = np.concatenate([y, 1 - y[:100], 1 - y[:100]])
    weight = np.concatenate([np.ones(len(X) + 100), -np.ones(100)])
    bdt = BDTClassifier(max_iter=10, negative_weights="signed")
    cancelled = clone(bdt).fit(both, labels, weight).predict_proba(X)
    np.testing.assert_array_equal(cancelled, clone(bdt).fit(X, y).predict_proba(X))


def test_weights_too_light_to_split_are_told(events):
    X, y = events
    with pytest.warns(UserWarning, match="all trees are one leaf"):
        bdt = BDTClassifier(max_iter=2).fit(X, y, np.full(len(X), 1e-6))
    assert len(np.unique(bdt.decision_function(X))) == 1
    with pytest.warns(UserWarning, match="all trees are one leaf") as record:
        BDTClassifier(max_iter=2).fit(X[:, :1] > 0, y, np.full(len(X), 1e-6))
    assert record[0].filename == __file__
    # Two leaves of all events would do, two of those that are not held out do not.
    bdt = BDTRegressor(min_child_weight=47, early_stopping=True, max_iter=2, random_state=0)
    with pytest.warns(UserWarning, match="Of 100 events, a tree is grown on a sum of w h of 90,"):
        bdt.fit(X[:100], X[:100, 0])
    assert np.ptp(bdt.predict(X)) == 0


@pytest.mark.parametrize(
    ("counts", "weights", "hessian"),
    [
        # Twice as many of a class as one event more would do for two leaves of w h = 1.
        ((2000, 2000), (1.0, 1e-4), 2000 * 0.2 / 2000.2),
        ((298, 2), (1.0, 1.0), 298 * 2 / 300),
        ((1000, 1000, 1000), (1.0, 2e-4, 2e-4), 2 * 1000 * 0.4 / 1000.4),
    ],
)
def test_a_class_too_light_to_be_split_off_is_told(counts, weights, hessian):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(counts)), counts)
    X, weight = rng.normal(size=(len(y), 2)) + 5 * y[:, None], np.array(weights)[y]
    bdt = BDTClassifier(max_iter=5)
    with pytest.warns(UserWarning, match=rf"grown on a sum of w h of {hessian:.4g},"):
        bdt.fit(X, y, weight)
    assert np.ptp(bdt.decision_function(X), axis=0).max() == 0
    # That sum is what decides, and classes of equal weight have enough.
    bdt.set_params(min_child_weight=0.49 * hessian).fit(X, y, weight)
    assert np.ptp(bdt.decision_function(X), axis=0).max() > 0
    bdt.set_params(min_child_weight=1.0, class_weight="balanced").fit(X, y, weight)
    assert bdt.score(X, y) > 0.99


def test_the_warning_of_light_weights_knows_nothing_of_how_events_are_counted(events):
    X = events[0][:8]
    y, two = X[:, 0], np.full(8, 2.0)
    bdt = BDTRegressor(min_child_weight=8, early_stopping=True, max_iter=2, random_state=0)
    for data in ((X, y, two), (np.tile(X, (2, 1)), np.tile(y, 2))):
        with pytest.warns(
            UserWarning, match="Of 16 events, a tree is grown on a sum of w h of 14,"
        ):
            bdt.fit(*data)
        assert np.ptp(bdt.predict(X)) == 0


# The rest of the contract


@pytest.mark.parametrize(("loss", "other"), [("poisson", "huber"), ("squared_error", "gamma")])
def test_predictions_are_those_of_the_loss_of_the_fit(events, loss, other):
    X, y = events
    bdt = BDTRegressor(loss=loss, max_iter=2).fit(X, 1 + y)
    predicted, values = bdt.predict(X), bdt.shap_values(X[:9])
    bdt.set_params(loss=other)
    np.testing.assert_array_equal(bdt.predict(X), predicted)
    np.testing.assert_array_equal(bdt.shap_values(X[:9]), values)


def test_threads_do_not_change_a_bit():
    rng = np.random.default_rng(9)
    X = rng.normal(size=(30_000, 10)).astype(np.float32)
    y = X[:, 0] + X[:, 1] * X[:, 2] > rng.normal(size=len(X))
    settings = {"max_iter": 10, "subsample": 0.7, "max_features": 0.5, "random_state": 0}
    one, two, three = (BDTClassifier(n_jobs=n, **settings).fit(X, y) for n in (1, 2, 3))
    assert one.booster_.save_raw() == two.booster_.save_raw() == three.booster_.save_raw()
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))


def test_threads_do_not_matter_with_weights():
    rng = np.random.default_rng(13)
    X = rng.normal(size=(30_000, 10)).astype(np.float32)
    y = X[:, 0] + X[:, 1] * X[:, 2] > rng.normal(size=len(X))
    weight = rng.lognormal(0, 2, size=len(X))
    one, two = (BDTClassifier(n_jobs=n, max_iter=10).fit(X, y, weight) for n in (1, 2))
    np.testing.assert_allclose(one.predict_proba(X), two.predict_proba(X), rtol=1e-5)


@pytest.mark.parametrize("bdt", BDTS)
def test_shapes_and_types_of_events(events, bdt):
    X, y = events
    model = bdt(max_iter=5).fit(X.reshape(-1, 1, 5), y)
    assert model.input_shape_ == (1, 5)
    table = bdt(max_iter=5).fit(X.astype(np.float64), y)
    assert table.booster_.save_raw() == model.booster_.save_raw()
    np.testing.assert_array_equal(model.predict(X.reshape(-1, 1, 5)), table.predict(X))
    with pytest.raises(ValueError, match="shape"):
        model.predict(X.reshape(-1, 5, 1))
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(restored.predict(X), model.predict(X))


@pytest.mark.parametrize("sampler", [SMOTE(random_state=0), RandomOverSampler(random_state=0)])
def test_grid_search_over_a_pipeline_with_an_over_sampler(events, sampler):
    X, y = events
    y = np.where((y == 1) & (X[:, 0] > 1), "rare", "common")
    pipeline = Pipeline([("over", sampler), ("bdt", BDTClassifier(max_iter=10))])
    search = GridSearchCV(pipeline, {"bdt__max_depth": [1, 4]}, cv=3).fit(X, y)
    assert set(search.predict(X)) == {"rare", "common"}
    assert search.best_score_ > 0.8


def test_labels_of_any_kind(events):
    X, y = events
    expected = BDTClassifier(max_iter=5).fit(X, y).predict(X)
    for kinds in ([False, True], ["b", "s"], [-1.0, 1.0], [10, 30]):
        kinds = np.array(kinds)
        bdt = BDTClassifier(max_iter=5).fit(X, kinds[y])
        np.testing.assert_array_equal(bdt.classes_, kinds)
        np.testing.assert_array_equal(bdt.predict(X), kinds[expected])
    objects = BDTClassifier(max_iter=5).fit(X, np.array(["b", "s"], object)[y])
    np.testing.assert_array_equal(objects.predict(X), np.array(["b", "s"])[expected])


def test_progress_bar_shows_the_loss(events, capfd):
    BDTClassifier(max_iter=5, early_stopping=True, verbose=1, random_state=0).fit(*events)
    shown = capfd.readouterr().err
    assert "5/5" in shown
    # A round is one tree per class.
    assert re.search(r"round/s|s/round", shown)
    BDTClassifier(max_iter=5).fit(*events)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("bdt", BDTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": lambda X: np.where(X > 2, np.inf, X)}, "infinity"),
        ({"X": lambda X: X.astype(float) * 1e39}, "too large for dtype"),
        ({"X": lambda X: X[:-1]}, "inconsistent numbers of samples"),
        ({"X": lambda X: np.array([["a"] * 5] * len(X), object)}, "could not convert"),
        ({"X": lambda X: X[:0], "y": lambda y: y[:0]}, "minimum of 1"),
        ({"sample_weight": lambda y: -np.ones(len(y))}, "negative_weights|sum"),
        ({"sample_weight": lambda y: np.where(y == 1, -0.1, 1)}, "negative_weights='signed'"),
        ({"sample_weight": lambda y: np.zeros(len(y))}, "non-zero"),
        ({"sample_weight": lambda y: np.full(len(y), np.nan)}, "NaN"),
        ({"sample_weight": lambda y: np.ones(3)}, "sample_weight.shape"),
    ],
)
def test_bad_events_are_refused(events, bdt, change, message):
    X, y = events
    given = {"X": X, "y": y}
    given = {k: change.get(k, lambda v: v)(v) for k, v in given.items()}
    if "sample_weight" in change:
        given["sample_weight"] = change["sample_weight"](y)
    with pytest.raises(ValueError, match=message):
        bdt(max_iter=2).fit(**given)


def test_bad_settings_are_refused(events):
    X, y = events
    with pytest.raises(ValueError, match="only one class"):
        BDTClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="only one class"):
        BDTClassifier().fit(X, y, sample_weight=y)
    with pytest.raises(ValueError, match="positive sum"):
        BDTClassifier(negative_weights="signed").fit(X, y, np.where(y == 1, -0.1, 1))
    with pytest.raises(ValueError, match="positive sum"):
        BDTClassifier(class_weight={0: 0, 1: 1}).fit(X, y)
    stopping = BDTClassifier(early_stopping=True, random_state=0)
    with pytest.raises(ValueError, match=r"validation_fraction.* of class 2 .* must be positive"):
        stopping.fit(X, np.where(np.arange(len(X)) == 0, 2, y))
    with pytest.raises(ValueError, match=r"'validation_fraction' parameter at 0\.1"):
        BDTRegressor(early_stopping=True).fit(X[:1], X[:1, 0])
    # One heavy event is held out or not: without it a class has no positive weight on one side.
    weight = np.where(y == 1, -0.01, 1)
    weight[np.flatnonzero(y == 1)[0]] = 1000
    with pytest.raises(ValueError, match=r"validation_fraction.* of class 1 .* must be positive"):
        stopping.set_params(negative_weights="signed").fit(X, y, weight)
    stopping.set_params(negative_weights="error")
    with pytest.raises(ValueError, match="'absolute_error' has no meaning for negative weights"):
        BDTRegressor(loss="absolute_error", negative_weights="signed").fit(
            X, y, np.where(y == 1, -0.1, 1)
        )
    with pytest.raises(ValueError, match="non-negative targets"):
        BDTRegressor(loss="poisson").fit(X, X[:, 0])
    with pytest.raises(ValueError, match="positive targets"):
        BDTRegressor(loss="gamma").fit(X, y)
    with pytest.raises(ValueError, match="'learning_rate' parameter of BDTClassifier"):
        BDTClassifier(learning_rate=-1).fit(X, y)
    with pytest.raises(ValueError, match="monotonic_cst"):
        BDTClassifier(monotonic_cst=[1, 0]).fit(X, y)
    with pytest.raises(ValueError, match="two classes"):
        BDTClassifier(monotonic_cst=[1, 0, 0, 0, 0]).fit(X, np.arange(len(X)) % 3)
