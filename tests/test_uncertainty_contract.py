"""One vocabulary: what each regressor with uncertainty says, it says of one distribution."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import integrate
from sklearn.base import is_regressor
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_common import ESTIMATORS

from sknuc import base
from sknuc.base import EnsembleClassifierMixin, PredictiveRegressorMixin
from sknuc.encoders import MLP

REGRESSORS = [E for E in ESTIMATORS if issubclass(E, PredictiveRegressorMixin)]
CLASSIFIERS = [E for E in ESTIMATORS if issubclass(E, EnsembleClassifierMixin)]
# What makes a fit of some hundred events quick; the rest is as it comes.
CHEAP = {"max_epochs": 20, "n_members": 4, "n_estimators": 30}
N_DRAWS = 20_000
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Adapters without domains are ordinary classifiers, and say so.
    pytest.mark.filterwarnings("ignore::sknuc.exceptions.DomainWarning"),
]

each_regressor = pytest.mark.parametrize("E", REGRESSORS, ids=lambda E: E.__name__)
each_classifier = pytest.mark.parametrize("E", CLASSIFIERS, ids=lambda E: E.__name__)


def make(E, **parameters):
    model = E(random_state=0) if "random_state" in E().get_params() else E()
    known = model.get_params()
    cheap = {name: value for name, value in CHEAP.items() if name in known}
    return model.set_params(**{**cheap, **parameters})


def problem(n=150, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    noise = (0.2 + 0.3 * (X[:, :1] > 0)) * rng.standard_normal((n, 2))
    noise[:, 1] += noise[:, 0]
    return X, 1000 + 10 * (np.column_stack([X[:, 0], X[:, 0] * X[:, 1]]) + noise)


def test_the_walk_finds_them():
    methods = ("BNN", "Bootstrap", "Conformal", "DeepEnsemble", "GP", "MCDropout")
    distributions = ("Flow", "IQN", "MDN", "QuantileBDT", "QuantileNet")
    expected = {f"{name}Regressor" for name in (*methods, *distributions)}
    assert expected <= {E.__name__ for E in REGRESSORS}
    assert {f"{name}Classifier" for name in methods} <= {E.__name__ for E in CLASSIFIERS}
    assert all(is_regressor(E()) for E in REGRESSORS)


@each_regressor
def test_all_answers_are_of_one_distribution(E):
    X, y = problem()
    model, x = make(E).fit(X, y[:, 0]), X[:8]
    mean, std = model.predict(x, return_std=True)
    np.testing.assert_array_equal(model.predict(x), mean)
    draws = model.sample_y(x, N_DRAWS, random_state=1)
    assert mean.shape == std.shape == (8,)
    assert draws.shape == (8, N_DRAWS)
    assert np.all(np.abs(draws.mean(1) - mean) < 5 * std / np.sqrt(N_DRAWS))
    squares = (draws - mean[:, None]) ** 2
    assert np.all(np.abs(squares.mean(1) - std**2) < 6 * squares.std(1) / np.sqrt(N_DRAWS))
    levels = np.array([0.05, 0.16, 0.5, 0.84, 0.95])
    quantiles = model.predict_quantiles(x, levels)
    assert quantiles.shape == (8, 5)
    assert np.all(np.diff(quantiles, axis=1) >= 0)
    # Distributions with atoms jump over a level; the share below and the share up to it do not.
    below = (draws[:, None] < quantiles[..., None]).mean(2)
    up_to = (draws[:, None] <= quantiles[..., None]).mean(2)
    slack = 5 * np.sqrt(levels * (1 - levels) / N_DRAWS)
    atoms = 0 if hasattr(model, "log_prob") else 1 / 30
    assert np.all(below - slack - atoms < levels)
    assert np.all(up_to + slack + atoms > levels)
    for same, expected in (
        (model.predict_interval(x, 0.68), quantiles[:, [1, 3]]),
        (model.predict_quantiles(x, 0.5), quantiles[:, 2]),
        (model.predict_quantiles(x, levels[::-1]), quantiles[:, ::-1]),
    ):
        np.testing.assert_allclose(same, expected, rtol=1e-12)


@each_regressor
def test_density_holds_what_the_quantiles_say(E):
    X, y = problem()
    model = make(E).fit(X, y[:, 0])
    if not hasattr(model, "log_prob"):
        assert not model._has_density()
        return
    levels = [0.05, 0.3, 0.7, 0.95]
    ends = model.predict_quantiles(X[:3], levels)
    for event in range(3):
        for i, share in enumerate(np.diff(levels)):
            grid = np.linspace(*ends[event, i : i + 2], 4001)
            density = np.exp(model.log_prob(np.repeat(X[event : event + 1], 4001, 0), grid))
            assert integrate.trapezoid(density, grid) == pytest.approx(share, abs=5e-3)


@each_regressor
def test_several_targets(E):
    X, y = problem()
    model, x = make(E).fit(X, y), X[:5]
    mean, std = model.predict(x, return_std=True)
    assert mean.shape == std.shape == (5, 2)
    assert model.predict_quantiles(x, [0.1, 0.5, 0.9]).shape == (5, 3, 2)
    assert model.predict_interval(x, 0.9).shape == (5, 2, 2)
    draws = model.sample_y(x, N_DRAWS)
    assert draws.shape == (5, 2, N_DRAWS)
    # What is said of several targets may itself be told by draws, of a thousand at least.
    error = np.sqrt(1 / N_DRAWS + 1 / 1000)
    assert np.all(np.abs(draws.mean(2) - mean) < 6 * std * error)
    squares = (draws - mean[..., None]) ** 2
    assert np.all(np.abs(squares.mean(2) - std**2) < 6 * squares.std(2) * error)
    atoms = 0 if hasattr(model, "log_prob") else 1 / 30
    for coverage in (0.68, 0.95, 0.99):
        low, high = model.predict_interval(x, coverage).transpose(1, 0, 2)[..., None]
        inside = ((low <= draws) & (draws <= high)).mean(2)
        assert np.all(
            np.abs(inside - coverage) < 5 * np.sqrt(coverage * (1 - coverage)) * error + atoms
        )
    if hasattr(model, "log_prob"):
        assert model.log_prob(x, y[:5]).shape == (5,)
        with pytest.raises(ValueError, match="2 targets"):
            model.log_prob(x, y[:5, 0])


@each_regressor
def test_targets_scale_with_their_unit(E):
    X, y = problem()
    in_mev, in_kev = (make(E).fit(X, y[:, 0] * unit) for unit in (1.0, 1024.0))
    x = X[:5]
    for method in ("predict", "predict_quantiles", "sample_y"):
        np.testing.assert_allclose(
            getattr(in_kev, method)(x), 1024.0 * getattr(in_mev, method)(x), rtol=1e-5
        )
    if hasattr(in_mev, "log_prob"):
        densities = in_mev.log_prob(x, y[:5, 0]), in_kev.log_prob(x, 1024.0 * y[:5, 0])
        np.testing.assert_allclose(densities[1], densities[0] - np.log(1024.0), atol=1e-3)


@each_regressor
def test_answers_do_not_depend_on_the_company_of_an_event(E, monkeypatch):
    X, y = problem()
    model = make(E).fit(X, y[:, 0])
    quantiles, mean = model.predict_quantiles(X[:40]), model.predict(X[:40])
    draws = model.sample_y(X[:40], 5, random_state=3)
    monkeypatch.setattr(base, "_BLOCK_NUMBERS", 1)
    # Each event by itself: up to the order in which matrix products add up, and with the same
    # numbers of the generator, which every event takes in its turn.
    np.testing.assert_allclose(model.predict_quantiles(X[:40]), quantiles, rtol=2e-14)
    np.testing.assert_allclose(model.predict(X[:40]), mean, rtol=2e-14)
    np.testing.assert_allclose(model.sample_y(X[:40], 5, random_state=3), draws, rtol=2e-14)


@each_regressor
def test_the_same_seed_the_same_draws(E):
    X, y = problem()
    model = make(E).fit(X, y[:, 0])
    again = pickle.loads(pickle.dumps(model))
    draws = model.sample_y(X[:5], 7, random_state=3)
    np.testing.assert_array_equal(again.sample_y(X[:5], 7, random_state=3), draws)
    assert not np.array_equal(model.sample_y(X[:5], 7, random_state=4), draws)


@each_regressor
def test_wrong_questions_are_refused_with_words(E):
    X, y = problem(60)
    model = make(E)
    with pytest.raises(ValueError, match="fitted"):
        model.predict_quantiles(X)
    model.fit(X, y[:, 0])
    for wrong in (68, 0, 1.0, "wide"):
        with pytest.raises(ValueError, match=r"'coverage'.*float in \(0, 1\)"):
            model.predict_interval(X, wrong)
    for wrong in ([0.5, 1.5], [], [[0.5]], 0):
        with pytest.raises(ValueError, match=r"'quantiles'.*\(0, 1\)"):
            model.predict_quantiles(X, wrong)
    with pytest.raises(ValueError, match="'n_samples'"):
        model.sample_y(X, 0)


@each_regressor
def test_pipelines_and_searches(E):
    X, y = problem(80)
    model = make(E)
    pipeline = make_pipeline(StandardScaler(), model).fit(X, y[:, 0])
    mean, std = pipeline.predict(X, return_std=True)
    assert mean.shape == std.shape == (80,)
    assert np.all(np.isfinite(cross_val_score(model, X, y[:, 0], cv=2)))
    if "encoder" in model.get_params():
        # Dropout, since one of the methods lives on it.
        grid = {"encoder": [MLP(hidden_layer_sizes=w, dropout=0.1) for w in ((4,), (8, 8))]}
        search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y[:, 0])
        assert search.predict(X).shape == (80,)


@each_regressor
def test_noise_of_a_known_size_is_found(E):
    # Many events on a straight line: whatever the method, its 68 % are 68 %, as it comes.
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (2000, 1))
    y = X[:, 0] + 0.3 * rng.standard_normal(2000)
    model = E(random_state=0) if "random_state" in E().get_params() else E()
    low, high = model.fit(X[:1000], y[:1000]).predict_interval(X[1000:], 0.68).T
    inside = np.mean((y[1000:] > low) & (y[1000:] < high))
    # The binomial error of the test, and the same again of what a thousand events teach: ranks of
    # calibration events have it; a Gaussian's width is known better, but locally.
    assert abs(inside - 0.68) < 4 * np.sqrt(2 * 0.68 * 0.32 / 1000)


@each_classifier
def test_entropies_add_up(E):
    X, y = problem(200)
    labels = np.array(["p", "n", "α"])[np.digitize(y[:, 0], [996, 1004])]
    model = make(E).fit(X, labels)
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    total, aleatoric, epistemic = model.predict_uncertainty(X)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.nansum(p * np.log(p), axis=1)
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(total, aleatoric + epistemic, atol=1e-6)
    assert np.all(epistemic >= 0)
    assert np.all(total <= np.log(3) + 1e-6)
    np.testing.assert_array_equal(model.predict(X), model.classes_[p.argmax(1)])


@each_classifier
def test_one_class_is_refused_with_its_plain_name(E):
    X, _ = problem(40)
    # The other class has no weight.
    y, weight = np.where(np.arange(40) < 20, 2.0, 7.0), np.arange(40) < 20
    words = r"2 classes with non-zero weight, but the data contains only one class: 2\.0\.$"
    with pytest.raises(ValueError, match=words):
        make(E).fit(X, y, sample_weight=weight.astype(float))


PREDICT_MANY = """
import sys
import warnings
import numpy as np
from sklearn.base import is_classifier
from sknuc.encoders import MLP
from sknuc.uncertainty import *

# Chains as short as these have not converged.
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.uniform(-1, 1, (60, 2))
y = X[:, 0] + 0.1 * rng.standard_normal(60)
data = [np.resize(X, (int(size), 2)) for size in sys.argv[1:]]
small = dict(encoder=MLP(hidden_layer_sizes=(8,)), max_epochs=2, random_state=0)


def memory(key):
    # Of this program: what getrusage calls the largest is that of the process it was started by.
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


for model in (
    DeepEnsembleRegressor(n_members=10, **small),
    DeepEnsembleClassifier(n_members=10, **small),
    MCDropoutRegressor(n_draws=10, **{**small, "encoder": MLP(dropout=0.1)}),
    BNNRegressor(inference="hmc", n_chains=2, n_warmup=10, n_samples=25, **small),
    BootstrapRegressor(n_members=10, random_state=0),
    ConformalRegressor(cv=10, random_state=0),
    GPRegressor(random_state=0),
):
    model.fit(X, y > 0 if is_classifier(model) else y)
    # Whatever is loaded or started once, before anything is counted.
    model.predict(X)
    before, peaks = memory("VmRSS"), []
    for events in data:
        with open("/proc/self/clear_refs", "w") as file:
            # The highest so far is what it is now.
            file.write("5")
        if is_classifier(model):
            answer = model.predict_uncertainty(events).total
        else:
            answer = model.predict_quantiles(events, [0.16])
        assert len(answer) == len(events)
        peaks.append(memory("VmHWM") - before)
        del answer
    print(type(model).__name__, *peaks)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_prediction_is_bounded():
    # The process itself says how much it had, so that arrays of torch count, too. Both sizes are
    # more than a block, so that the larger one adds what grows with the events.
    few, many, n_members = 110_000, 210_000, 10
    command = [sys.executable, "-c", PREDICT_MANY, str(few), str(many)]
    # Memory that is given back is not kept for later.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 7
    for line in lines:
        name, *peaks = line.split()
        peaks = [int(peak) for peak in peaks]
        growth = (peaks[1] - peaks[0]) / (many - few)
        # Not even one number for each member and event: the data, the answers and copies of them.
        assert growth < 8 * n_members, name
        # A million events with ten members: one gigabyte above the data.
        assert peaks[1] + growth * (1_000_000 - many) < 1e9, name
