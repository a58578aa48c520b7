"""Networks find what is known to be the best: posteriors, means, medians, rates."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import skorch
import torch
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import Pipeline as ImbalancedPipeline
from scipy.special import expit
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sknuc import losses
from sknuc.distributions import MDNRegressor
from sknuc.encoders import CNN, MLP, ModuleEncoder
from sknuc.exceptions import TrainingDivergedError
from sknuc.networks import NeuralClassifier, NeuralRegressor
from sknuc.uncertainty import DeepEnsembleRegressor, MCDropoutRegressor


@pytest.fixture
def gaussians():
    """Two Gaussians at ±1 in the first of three features: the log odds are 2x."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    return rng.normal(size=(4000, 3)) + np.outer(2 * y - 1, [1, 0, 0]), y


class TestLosses:
    def test_binary_is_multiclass_with_two_logits(self):
        z, y = torch.randn(9, 1, dtype=torch.float64), torch.randint(0, 2, (9,))
        two = torch.cat([torch.zeros_like(z), z], 1)
        for smoothing in (0.0, 0.2):
            torch.testing.assert_close(
                losses.binary_cross_entropy(z, y, label_smoothing=smoothing),
                losses.cross_entropy(two, y, label_smoothing=smoothing),
            )

    def test_members_are_handled_like_one_another(self):
        z, y = torch.randn(4, 9, 3), torch.randint(0, 3, (4, 9))
        expected = torch.stack([losses.cross_entropy(a, b) for a, b in zip(z, y, strict=True)])
        torch.testing.assert_close(losses.cross_entropy(z, y), expected)

    def test_closed_forms(self):
        out, y = torch.tensor([[0.0], [3.0], [-0.5]]), torch.tensor([[1.0], [0.0], [0.0]])
        torch.testing.assert_close(losses.squared_error(out, y), torch.tensor([0.5, 4.5, 0.125]))
        torch.testing.assert_close(losses.absolute_error(out, y), torch.tensor([1.0, 3.0, 0.5]))
        torch.testing.assert_close(losses.huber(out, y), torch.tensor([0.5, 2.5, 0.125]))
        torch.testing.assert_close(
            losses.poisson(out, y), torch.exp(out[:, 0]) - y[:, 0] * out[:, 0]
        )


class TestClassifier:
    def test_probabilities_are_the_posterior(self, gaussians):
        X, y = gaussians
        model = NeuralClassifier(early_stopping=True, random_state=0).fit(X, y)
        rng = np.random.default_rng(1)
        labels = rng.integers(0, 2, 4000)
        new = rng.normal(size=(4000, 3)) + np.outer(2 * labels - 1, [1, 0, 0])
        p, truth = model.predict_proba(new)[:, 1], expit(2 * new[:, 0])
        # Four thousand events fix a posterior to a few per cent.
        assert np.sqrt(np.mean((p - truth) ** 2)) < 0.05
        assert np.mean(p - truth) == pytest.approx(0, abs=0.03)

    def test_linear_model_is_logistic_regression(self, gaussians):
        from sklearn.linear_model import LogisticRegression

        X, y = gaussians[0][:500], gaussians[1][:500]
        model = NeuralClassifier(
            encoder=MLP(hidden_layer_sizes=()), max_epochs=2000, batch_size=500, learning_rate=0.05
        ).fit(X, y)
        exact = LogisticRegression(C=np.inf, tol=1e-10).fit(X, y)
        np.testing.assert_allclose(
            model.decision_function(X), exact.decision_function(X), atol=1e-3
        )
        three = (X[:, 0] > 0.7).astype(int) + (X[:, 0] + X[:, 1] > -0.5)
        model.fit(X, three)
        assert model.predict_proba(X).shape == (500, 3)
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)

    def test_class_weight_is_a_sample_weight(self, gaussians):
        X, y = gaussians[0][:300], gaussians[1][:300]
        base = NeuralClassifier(max_epochs=5, random_state=0)
        a = copy.deepcopy(base).set_params(class_weight={0: 3.0, 1: 0.5}).fit(X, y)
        b = copy.deepcopy(base).fit(X, y, sample_weight=np.where(y == 0, 3.0, 0.5))
        np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))

    def test_balanced_classes_move_the_prior(self, gaussians):
        X, y = gaussians
        keep = (y == 0) | (np.arange(len(y)) % 10 == 0)
        options = {
            "encoder": MLP(hidden_layer_sizes=()),
            "max_epochs": 1500,
            "learning_rate": 0.03,
            "batch_size": 4000,
        }
        plain = NeuralClassifier(**options).fit(X[keep], y[keep])
        balanced = NeuralClassifier(class_weight="balanced", **options).fit(X[keep], y[keep])
        # What the score equations say at the optimum: the mean probability is the (weighted) share.
        p = plain.predict_proba(X[keep])[:, 1]
        assert p.mean() == pytest.approx(y[keep].mean(), rel=1e-3)
        p, one = balanced.predict_proba(X[keep])[:, 1], y[keep] == 1
        assert (p[one].mean() + p[~one].mean()) / 2 == pytest.approx(0.5, rel=1e-3)

    def test_label_smoothing_bounds_the_confidence(self):
        X, y = np.array([[-1.0], [1.0]] * 20), np.array([0, 1] * 20)
        model = NeuralClassifier(label_smoothing=0.2, max_epochs=500, random_state=0).fit(X, y)
        np.testing.assert_allclose(model.predict_proba(X).max(1), 0.9, atol=0.005)

    def test_partial_fit_learns_epoch_by_epoch(self, gaussians):
        X, y = gaussians[0][:200], gaussians[1][:200]
        options = {"batch_size": 200, "random_state": 0}
        model = NeuralClassifier(**options)
        for _ in range(7):
            model.partial_fit(X, y, classes=[0, 1])
        expected = NeuralClassifier(max_epochs=7, **options).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
        assert model.n_iter_ == 7
        with pytest.raises(ValueError, match=r"labels \[5\]"):
            model.partial_fit(X, np.full(200, 5))
        with pytest.raises(ValueError, match="first call"):
            NeuralClassifier().partial_fit(X, y)
        with pytest.raises(ValueError, match="early_stopping"):
            NeuralClassifier(early_stopping=True).partial_fit(X, y, classes=[0, 1])
        with pytest.raises(ValueError, match="balanced"):
            NeuralClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])

    def test_each_partial_fit_shuffles_anew(self, gaussians):
        X, y = gaussians[0][:200], gaussians[1][:200]
        seen = []

        class Look(skorch.callbacks.Callback):
            def on_batch_begin(self, net, batch=None, **_):
                seen.append(batch.X[0, 0].item())

        model = NeuralClassifier(batch_size=50, random_state=0, callbacks=[Look()])
        for _ in range(3):
            model.partial_fit(X, y, classes=[0, 1])
        assert len(seen) == len(set(seen)) == 12

    def test_warm_start_goes_on(self, gaussians):
        X, y = gaussians[0][:200], gaussians[1][:200]
        options = {"batch_size": 200, "random_state": 0}
        model = NeuralClassifier(max_epochs=4, warm_start=True, **options).fit(X, y).fit(X, y)
        expected = NeuralClassifier(max_epochs=8, **options).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X))
        # New settings count from then on.
        before = model.predict_proba(X)
        model.set_params(learning_rate=1e-300).fit(X, y)
        np.testing.assert_array_equal(model.predict_proba(X), before)
        model.set_params(optimizer="sgd", learning_rate=0.1).fit(X, y)
        assert np.abs(model.predict_proba(X) - before).max() > 0
        with pytest.raises(ValueError, match="describe another one"):
            model.set_params(encoder=MLP(hidden_layer_sizes=(5,))).fit(X, y)

    def test_a_fit_that_fails_leaves_no_half_of_each(self, gaussians):
        X, y = gaussians[0][:100], gaussians[1][:100]
        model = NeuralClassifier(max_epochs=1).fit(X, y)
        with pytest.raises(ValueError, match="device"):
            model.set_params(device="nowhere").fit(X, np.array(["a", "b"])[y])
        with pytest.raises(NotFittedError):
            model.predict(X)

    @pytest.mark.parametrize(
        ("class_weight", "words"),
        [({0: -1, 1: 2}, "negative"), ({0: 0, 1: 1}, "only one class"), ({0: 0, 1: 0}, "non-zero")],
    )
    def test_class_weights_that_leave_no_two_classes(self, gaussians, class_weight, words):
        X, y = gaussians[0][:100], gaussians[1][:100]
        with pytest.raises(ValueError, match=words):
            NeuralClassifier(class_weight=class_weight, max_epochs=1).fit(X, y)

    def test_balanced_classes_count_weights(self, gaussians):
        X, y = gaussians[0][:200], gaussians[1][:200]
        w = (np.arange(200) % 3).astype(float)
        model = NeuralClassifier(class_weight="balanced", max_epochs=5, random_state=0)
        a = copy.deepcopy(model).fit(X, y, sample_weight=w).predict_proba(X)
        rows = np.repeat(np.arange(200), w.astype(int))
        b = copy.deepcopy(model).fit(X[rows], y[rows]).predict_proba(X)
        np.testing.assert_allclose(a, b, atol=1e-7)

    def test_dtype_follows_the_events(self, gaussians):
        X, y = gaussians[0][:100], gaussians[1][:100]
        for dtype, expected in [
            (np.float32, np.float32),
            (np.float64, np.float64),
            (np.int64, np.float64),
            (np.uint16, np.float32),
        ]:
            events = (np.abs(X) * 100).astype(dtype)
            model = NeuralClassifier(max_epochs=2).fit(events, y)
            assert model.predict_proba(events).dtype == expected

    def test_adc_samples_are_the_bits_of_their_floats(self, gaussians):
        X, y = (np.abs(gaussians[0][:100]) * 1000).astype(np.uint16), gaussians[1][:100]
        model = NeuralClassifier(max_epochs=3, random_state=0)
        a = copy.deepcopy(model).fit(X, y).predict_proba(X)
        b = model.fit(X.astype(np.float32), y).predict_proba(X.astype(np.float32))
        np.testing.assert_array_equal(a, b)

    def test_scale_and_offset_of_the_input_do_not_matter(self, gaussians):
        X, y = gaussians[0][:300], gaussians[1][:300]
        model = NeuralClassifier(random_state=0, max_epochs=20)
        a = copy.deepcopy(model).fit(X, y).predict_proba(X)
        scaled = 14_000 + X * [1e3, 1e-3, 5]
        b = model.fit(scaled, y).predict_proba(scaled)
        np.testing.assert_allclose(a, b, atol=1e-6)

    def test_bits_do_not_depend_on_n_jobs(self, gaussians):
        X, y = gaussians[0][:200], gaussians[1][:200]
        model = NeuralClassifier(max_epochs=3, random_state=0, encoder=MLP(dropout=0.3))
        expected = cross_val_predict(model, X, y, method="predict_proba", n_jobs=1)
        import joblib

        with joblib.parallel_backend("threading"):
            threads = cross_val_predict(model, X, y, method="predict_proba", n_jobs=3)
        np.testing.assert_array_equal(threads, expected)
        processes = cross_val_predict(model, X, y, method="predict_proba", n_jobs=2)
        np.testing.assert_array_equal(processes, expected)

    def test_a_network_that_writes_into_its_input_does_not_touch_ours(self, gaussians):
        X, y = gaussians[0][:100], gaussians[1][:100]
        kept = X.copy()
        encoder = ModuleEncoder(lambda shape: nn.ReLU(inplace=True))
        model = NeuralClassifier(encoder=encoder, standardize=False, max_epochs=3, random_state=0)
        p = model.fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(X, kept)
        plain = ModuleEncoder(lambda shape: nn.ReLU())
        expected = model.set_params(encoder=plain).fit(X, y).predict_proba(X)
        np.testing.assert_array_equal(p, expected)

    def test_waveforms_of_one_channel_may_leave_its_axis_out(self, gaussians):
        X, y = np.repeat(gaussians[0][:60], 8, axis=1), gaussians[1][:60]
        model = NeuralClassifier(encoder=CNN(channels=(4,)), max_epochs=2, random_state=0)
        a = copy.deepcopy(model).fit(X, y).predict_proba(X)
        b = model.fit(X[:, None], y).predict_proba(X[:, None])
        np.testing.assert_array_equal(a, b)

    def test_validation_keeps_the_shares_of_the_classes(self, gaussians):
        X = gaussians[0][:200]
        y = np.r_[np.zeros(190, int), np.ones(10, int)]
        held_out = {}

        class Look(skorch.callbacks.Callback):
            def on_epoch_begin(self, net, dataset_valid=None, **_):
                held_out["y"] = torch.cat([b.y for b in dataset_valid])

        NeuralClassifier(
            early_stopping=True, validation_fraction=0.2, max_epochs=1, callbacks=[Look()]
        ).fit(X, y)
        assert len(held_out["y"]) == 40
        assert held_out["y"].sum() == 2
        with pytest.raises(ValueError, match="early_stopping=True cannot hold out"):
            NeuralClassifier(early_stopping=True).fit(X[:4], [0, 0, 0, 1])


class TestRegressor:
    def test_each_loss_finds_its_functional(self):
        # One skewed distribution for all x: mean 1, median ln 2; the counts have the rate 1.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(20_000, 1))
        y = rng.exponential(size=20_000)
        options = {"encoder": MLP(hidden_layer_sizes=()), "max_epochs": 30, "random_state": 0}

        def fitted(loss, y):
            return NeuralRegressor(loss=loss, **options).fit(X, y).predict([[0.0]])[0]

        assert fitted("squared_error", y) == pytest.approx(1, abs=0.03)
        assert fitted("absolute_error", y) == pytest.approx(np.log(2), abs=0.03)
        assert fitted("poisson", rng.poisson(1.0, 20_000)) == pytest.approx(1, abs=0.03)

    def test_huber_withstands_outliers(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(500, 1))
        y = X[:, 0].copy()
        y[:25] += 50
        options = {"encoder": MLP(hidden_layer_sizes=()), "max_epochs": 300, "learning_rate": 0.03}
        error = {
            loss: abs(NeuralRegressor(loss=loss, **options).fit(X, y).predict([[0.0]])[0])
            for loss in ("squared_error", "huber")
        }
        assert error["huber"] < 0.5 * error["squared_error"]

    def test_linear_model_is_least_squares_for_several_targets(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(200, 3))
        Y = 1e4 + X @ rng.normal(size=(3, 2)) * [1, 1e3] + rng.normal(size=(200, 2))
        w = rng.uniform(0.1, 2, 200)
        model = NeuralRegressor(
            encoder=MLP(hidden_layer_sizes=()), max_epochs=800, learning_rate=0.02
        ).fit(X, Y, sample_weight=w)
        design = np.c_[X, np.ones(200)] * np.sqrt(w)[:, None]
        exact = np.linalg.lstsq(design, Y * np.sqrt(w)[:, None], rcond=None)[0]
        np.testing.assert_allclose(
            model.predict(X), np.c_[X, np.ones(200)] @ exact, atol=2e-3 * Y.std(0).min()
        )

    def test_targets_keep_their_shape_and_units(self):
        X = np.linspace(0, 1, 50).reshape(-1, 1)
        model = NeuralRegressor(max_epochs=200, random_state=0)
        assert model.fit(X, X).predict(X).shape == (50, 1)
        flat = copy.deepcopy(model).fit(X, X[:, 0]).predict(X)
        assert flat.shape == (50,)
        shifted = copy.deepcopy(model).fit(X, 5e6 + 1e3 * X[:, 0]).predict(X)
        np.testing.assert_allclose(shifted, 5e6 + 1e3 * flat, rtol=1e-9)

    def test_float32_events_do_not_cost_digits_of_the_target(self):
        X = np.linspace(-1, 1, 200, dtype=np.float32).reshape(-1, 1)
        y = 1.6e9 + 100 * X[:, 0].astype(float)  # a time stamp
        model = NeuralRegressor(max_epochs=300, random_state=0).fit(X, y)
        assert np.sqrt(np.mean((model.predict(X) - y) ** 2)) < 5
        assert model.fit(X, X[:, 0]).predict(X).dtype == np.float32

    def test_poisson_refuses_negative_counts(self):
        with pytest.raises(ValueError, match="non-negative targets"):
            NeuralRegressor(loss="poisson").fit([[0.0], [1.0]], [-1.0, 2.0])

    def test_warm_start_with_other_targets_is_an_error(self):
        X = np.zeros((10, 2)) + np.arange(10)[:, None]
        model = NeuralRegressor(warm_start=True, max_epochs=1).fit(X, X[:, 0])
        with pytest.raises(ValueError, match="built for 1 targets"):
            model.fit(X, X)


class TestHouse:
    """Pipelines, searches, samplers and pickles: all of scikit-learn works unchanged."""

    def test_grid_search_over_encoders_and_their_parameters(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(300, 1, 32)).astype(np.float32)
        at = rng.integers(4, 28, 300)
        y = np.arange(300) % 2
        X[np.arange(300), 0, at] += np.where(y, 6, 0)
        search = GridSearchCV(
            NeuralClassifier(max_epochs=60, random_state=0),
            [
                {"encoder": [CNN(channels=(8,))], "encoder__kernel_size": [3, 5]},
                {"encoder": [MLP(hidden_layer_sizes=(4,))]},
            ],
            cv=3,
        ).fit(X, y)
        assert isinstance(search.best_estimator_.encoder, CNN)
        assert search.best_score_ > 0.85
        # The same from rows of a table.
        rows = search.best_estimator_.set_params(input_shape=(1, 32))
        a = copy.deepcopy(rows).fit(X.reshape(300, 32), y).predict_proba(X.reshape(300, 32))
        np.testing.assert_array_equal(a, search.best_estimator_.fit(X, y).predict_proba(X))

    def test_pipeline_with_an_imbalanced_sampler(self, gaussians):
        X, y = gaussians
        keep = (y == 0) | (np.arange(len(y)) % 10 == 0)
        linear = NeuralClassifier(encoder=MLP(hidden_layer_sizes=()), random_state=0)
        model = ImbalancedPipeline([("sampler", SMOTE(random_state=0)), ("model", linear)])
        # The best cut is at x = 0 for equal priors.
        new = X[(y == 1) & ~keep]
        recall = model.fit(X[keep], y[keep]).predict(new).mean()
        assert recall == pytest.approx(norm.cdf(1), abs=0.05)
        # Without the sampler the cut is at x = ln(10)/2.
        assert linear.fit(X[keep], y[keep]).predict(new).mean() < norm.cdf(0.25)

    def test_pickle_in_another_process(self, gaussians, tmp_path):
        X, y = gaussians[0][:100], gaussians[1][:100]
        model = make_pipeline(StandardScaler(), NeuralClassifier(max_epochs=2)).fit(X, y)
        (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
        np.save(tmp_path / "X.npy", X)
        code = (
            "import pickle, numpy as np;"
            "m = pickle.load(open('model.pkl', 'rb')); X = np.load('X.npy');"
            "np.save('p.npy', m.predict_proba(X))"
        )
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
        np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), model.predict_proba(X))

    def test_a_pickle_from_a_missing_device_predicts_with_a_warning(self, gaussians):
        X, y = gaussians[0][:100], gaussians[1][:100]
        model = NeuralClassifier(max_epochs=2).fit(X, y)
        expected = model.predict_proba(X)
        model.device = "cuda:99"
        with pytest.warns(RuntimeWarning, match="predicting on the CPU"):
            np.testing.assert_array_equal(model.predict_proba(X), expected)
        with pytest.raises(ValueError, match=r"'device' parameter is 'cuda:99'"):
            model.fit(X, y)

    def test_progress_bar_shows_epochs_and_losses(self, gaussians, capsys):
        X, y = gaussians[0][:100], gaussians[1][:100]
        NeuralClassifier(max_epochs=3, verbose=1, batch_size=20, early_stopping=True).fit(X, y)
        shown = capsys.readouterr()
        assert "epoch 3/3" in shown.err
        assert "train=" in shown.err
        assert "valid=" in shown.err
        assert "15/15" in shown.err
        NeuralClassifier(max_epochs=3).fit(X, y)
        assert capsys.readouterr() == ("", "")

    def test_parameters_of_a_child_are_its_own_and_its_parents(self):
        class Child(NeuralClassifier):
            def __init__(self, *, extra=3, **shared):
                super().__init__(**shared)
                self.extra = extra

        child = Child(extra=4, class_weight="balanced", max_epochs=7)
        parameters = child.get_params(deep=False)
        assert set(parameters) == set(NeuralClassifier().get_params(deep=False)) | {"extra"}
        assert (parameters["extra"], parameters["class_weight"], child.max_epochs) == (
            4,
            "balanced",
            7,
        )
        with pytest.raises(TypeError, match="nonsense"):
            Child(nonsense=1)


def test_values_whose_squares_overflow_are_refused():
    X = np.tile([1e20, -1e20], (40, 16)).astype(np.float32)
    X[20:] *= 3
    y = np.repeat([0, 1], 20)
    with pytest.raises(ValueError, match="overflow"):
        NeuralClassifier(encoder=CNN(), input_shape=(1, 32), max_epochs=2).fit(X, y)
    model = NeuralClassifier(input_shape=(1, 32), random_state=0)
    assert model.fit(X.astype(np.float64), y).score(X.astype(np.float64), y) == 1


@pytest.mark.parametrize("unit", [2.0**-66, 2.0**-20, 1.0, 2.0**20])
def test_a_first_chunk_of_one_event_gives_no_unit(unit):
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = unit * np.c_[X[:, 0], np.full(100, 3.0)]
    model = NeuralRegressor(random_state=0).partial_fit(X[:1], y[:1])
    for _ in range(60):
        model.partial_fit(X, y)
    varying, constant = model.predict(X).T
    assert r2_score(y[:, 0], varying) > 0.5
    np.testing.assert_allclose(constant, 3 * unit, rtol=1e-12)


@pytest.mark.parametrize("constant", [0.0, 1e-20, 3e-6, 1e6])
def test_constant_targets_are_predicted(constant):
    X = np.random.default_rng(0).normal(size=(100, 2))
    y = np.c_[np.full(100, constant), X[:, 0]]
    model = NeuralRegressor(random_state=0, max_epochs=5).fit(X, y)
    np.testing.assert_allclose(model.predict(X)[:, 0], constant, rtol=1e-12, atol=1e-18)
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match="nearly constant"):
        model.fit(X, X)


def test_a_chunk_that_is_refused_changes_nothing():
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = NeuralRegressor(random_state=0).partial_fit(X, np.c_[np.ones(60), 1e-9 * X[:, 0]])
    before, scale = model.predict(X), model.target_scale_
    # The first target gets a unit from this chunk, the second is out of reach.
    with pytest.raises(ValueError, match=r"times the width of those of the first fit, \[\d"):
        model.partial_fit(X, np.c_[1 + X[:, 0], X[:, 0]])
    np.testing.assert_array_equal(model.target_scale_, scale)
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize(("loss", "other"), [("poisson", "huber"), ("squared_error", "poisson")])
def test_predictions_are_those_of_the_loss_of_the_fit(loss, other):
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = np.arange(60.0)
    model = NeuralRegressor(loss=loss, max_epochs=2, random_state=0).fit(X, y)
    before = model.predict(X)
    model.set_params(loss=other, warm_start=True)
    np.testing.assert_array_equal(model.predict(X), before)
    for goes_on in (model.partial_fit, model.fit):
        with pytest.raises(ValueError, match=f"must have loss='poisson'.* Got loss='{other}'"):
            goes_on(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    # A mean and a Huber mean are in the same units.
    if loss == "squared_error":
        model.set_params(loss="huber").partial_fit(X, y)
    model.set_params(loss=other, warm_start=False).fit(X, y)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_events_of_weight_zero_are_not_there_for_fits_that_go_on(loss):
    X = np.random.default_rng(0).normal(size=(60, 2))
    y, weight = np.full(60, 3.0), np.r_[0.0, np.ones(59)]
    absurd = np.r_[-100.0, y[1:]]
    options = {"loss": loss, "batch_size": 60, "random_state": 0, "warm_start": True}
    for goes_on in ("fit", "partial_fit"):
        models = [NeuralRegressor(max_epochs=2, **options).fit(X, y) for _ in range(2)]
        getattr(models[0], goes_on)(X, absurd, sample_weight=weight)
        getattr(models[1], goes_on)(X[1:], y[1:])
        np.testing.assert_allclose(*(model.predict(X) for model in models), rtol=1e-9)


@pytest.mark.parametrize("E", [MDNRegressor, DeepEnsembleRegressor, NeuralRegressor])
def test_weights_say_where_the_targets_of_a_fit_that_goes_on_are(E):
    X = np.random.default_rng(0).normal(size=(60, 2))
    y = X[:, 0].copy()
    model = E(max_epochs=1, warm_start=True, random_state=0).fit(X, y)
    y[:35] = 1e8
    model.fit(X, y, sample_weight=np.r_[np.zeros(35), np.ones(25)])
    # One event of weight 99 is 99 events.
    model.fit(X[34:], y[34:], sample_weight=np.r_[1e-6, np.ones(25)])
    with pytest.raises(ValueError, match="times the width of those of the first fit"):
        model.fit(X[34:], y[34:], sample_weight=np.r_[99.0, np.ones(25)])


@pytest.mark.parametrize("E", [NeuralRegressor, MDNRegressor, MCDropoutRegressor])
def test_targets_far_away_are_told_where_the_user_is(E):
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = E(max_epochs=1, warm_start=True, random_state=0).fit(X, X[:, 0])
    with pytest.warns(UserWarning, match="times the width of those of the first fit") as told:
        model.fit(X, 2000 + X[:, 0])
    assert "nearly constant" not in str(told[0].message)
    assert told[0].filename == __file__


def test_rates_of_a_stream_may_rise_by_orders_of_magnitude():
    X = np.random.default_rng(0).normal(size=(1000, 2))
    model = NeuralRegressor(loss="poisson", random_state=0).partial_fit(X, np.eye(1000)[0])
    # The network has to go the logarithm of the distance only: no warning.
    model.partial_fit(X, np.full(1000, 5.0))


def test_a_chunk_that_diverges_at_once_changes_nothing():
    X = np.random.default_rng(0).normal(size=(100, 2))
    model = NeuralRegressor(random_state=0).partial_fit(X, np.ones(100))
    before, scale = model.predict(X), model.target_scale_
    far = X.copy()
    far[0, 0] = 1e300
    with pytest.raises(TrainingDivergedError):
        model.partial_fit(far, X[:, 1])
    np.testing.assert_array_equal(model.target_scale_, scale)
    np.testing.assert_array_equal(model.predict(X), before)


class _Refusing(skorch.callbacks.Callback):
    def on_batch_begin(self, net, batch, training=False, **kwargs):
        raise LookupError


class _Interrupted(torch.optim.SGD):
    def step(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "broken",
    [
        {"device": "tpu"},
        {"optimizer": lambda parameters, **options: 1 / 0},
        {"callbacks": [_Refusing()]},
        {"optimizer": _Interrupted},
    ],
    ids=["device", "optimizer", "callback", "interrupt"],
)
def test_a_chunk_that_fails_at_once_changes_nothing(broken):
    X = np.random.default_rng(0).normal(size=(100, 2))
    model = NeuralRegressor(random_state=0).partial_fit(X, np.ones(100))
    before, scale, params = model.predict(X), model.target_scale_, model.get_params()
    model.set_params(**broken)
    told = (ValueError, ZeroDivisionError, LookupError, ConvergenceWarning)
    with pytest.raises(told):
        model.partial_fit(X, 1000 * X[:, 1])
    model.set_params(**params)
    np.testing.assert_array_equal(model.target_scale_, scale)
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.n_iter_ == len(model.history_) == 1


def test_chunks_of_no_counts_are_data():
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = NeuralRegressor(loss="poisson", random_state=0).partial_fit(X, np.arange(60) % 2)
    before = model.predict(X)
    for _ in range(20):
        model.partial_fit(X, np.zeros(60))
    assert np.all(model.predict(X) < before)
    with pytest.raises(ValueError, match="positive sum"):
        NeuralRegressor(loss="poisson").partial_fit(X, np.zeros(60))


def test_targets_far_beyond_their_unit_are_told():
    X = np.random.default_rng(0).normal(size=(60, 2))
    model = NeuralRegressor(random_state=0)
    model.partial_fit(X, np.full(60, 0.3)).partial_fit(X, 0.3 + 1e-3 * X[:, 0])
    with pytest.warns(UserWarning, match="Start anew with a new estimator") as record:
        model.partial_fit(X, 100 * X[:, 0])
    assert [warning.filename for warning in record] == [__file__]
