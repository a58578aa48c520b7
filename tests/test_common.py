"""The contract, over every public estimator of the package, found by walking it."""

import importlib
import inspect
import pickle
import pkgutil
import re

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone, is_classifier, is_outlier_detector, is_regressor
from sklearn.datasets import make_classification
from sklearn.utils.estimator_checks import parametrize_with_checks

import sknuc
from sknuc.base import SharedParameters
from sknuc.baselines import BDTRegressor
from sknuc.encoders import LSTM
from sknuc.networks import NeuralRegressor

# Adapters that are given no domains say so.
pytestmark = pytest.mark.filterwarnings("ignore::sknuc.exceptions.DomainWarning")


def public_modules():
    for info in pkgutil.walk_packages(sknuc.__path__, "sknuc."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield importlib.import_module(info.name)


def public_estimators():
    found = {}
    for module in public_modules():
        for name in getattr(module, "__all__", ()):
            item = getattr(module, name)
            if (
                inspect.isclass(item)
                and issubclass(item, BaseEstimator)
                and hasattr(item, "fit")
                and not inspect.isabstract(item)
            ):
                found[name] = item
    return [found[name] for name in sorted(found)]


ESTIMATORS = public_estimators()
PREDICTORS = [E for E in ESTIMATORS if is_classifier(E()) or is_regressor(E())]


def test_the_walk_finds_the_estimators():
    names = {E.__name__ for E in ESTIMATORS}
    assert {"NeuralClassifier", "NeuralRegressor", "BDTClassifier", "PulseShapeFeatures"} <= names
    assert not any(is_outlier_detector(E()) for E in ESTIMATORS)


# Default parameters, and no expected failures: the flag that sknuc flies.
@parametrize_with_checks([E() for E in ESTIMATORS])
def test_check_estimator(estimator, check):
    check(estimator)


def small_problem(E):
    X, y = make_classification(60, 6, random_state=0)
    return X, y if is_classifier(E()) else X[:, 0] + 0.1 * y


@pytest.mark.parametrize("E", PREDICTORS, ids=lambda E: E.__name__)
def test_events_of_any_shape_give_the_bits_of_their_table(E):
    X, y = small_problem(E)
    parameters = {"random_state": 0} if "random_state" in E().get_params() else {}
    events = E(**parameters).fit(X.reshape(60, 2, 3), y)
    if "input_shape" in E().get_params():
        parameters["input_shape"] = (2, 3)
    table = E(**parameters).fit(X, y)
    assert events.input_shape_ == (2, 3)
    np.testing.assert_array_equal(table.predict(X), events.predict(X.reshape(60, 2, 3)))
    np.testing.assert_array_equal(table.predict(X), events.predict(X))
    with pytest.raises(ValueError, match=r"events of shape \(3, 2\)"):
        events.predict(X.reshape(60, 3, 2))


@pytest.mark.parametrize("E", ESTIMATORS, ids=lambda E: E.__name__)
def test_same_seed_same_bits_and_global_generators_untouched(E):
    torch = pytest.importorskip("torch")
    X, y = small_problem(E)
    parameters = {"random_state": 3} if "random_state" in E().get_params() else {}
    before = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    first = clone(E(**parameters)).fit(X, y)
    second = pickle.loads(pickle.dumps(clone(first).fit(X, y)))
    # The whole state: its words change only every 624 draws, its position with each.
    for now, then in zip(np.random.get_state(), before[0], strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(now, then)
    assert torch.equal(torch.get_rng_state(), before[1])
    for method in ("predict_proba", "decision_function", "predict", "transform"):
        if hasattr(first, method):
            a, b = getattr(first, method)(X), getattr(second, method)(X)
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("E", ESTIMATORS, ids=lambda E: E.__name__)
def test_bad_input_is_refused_with_words(E):
    X, y = small_problem(E)
    estimator = E()
    with pytest.raises(ValueError, match="infinity"):
        estimator.fit(np.where(np.arange(6) == 2, np.inf, X), y)
    with pytest.raises(ValueError, match="0 sample"):
        estimator.fit(X[:0], y[:0])
    with pytest.raises(ValueError, match="could not convert string to float"):
        estimator.fit(np.full(X.shape, "a", object), y)
    estimator.fit(X, y)
    for method in ("predict", "transform", "score_samples"):
        if hasattr(estimator, method):
            with pytest.raises(ValueError, match="5 features"):
                getattr(estimator, method)(X[:, :5])
    if "sample_weight" in inspect.signature(estimator.fit).parameters:
        with pytest.raises(ValueError, match=r"non-zero|sums? to 0"):
            estimator.fit(X, y, sample_weight=np.zeros(60))
        with pytest.raises(ValueError, match="NaN"):
            estimator.fit(X, y, sample_weight=np.full(60, np.nan))
        with pytest.raises(ValueError, match="1 negative"):
            estimator.fit(X, y, sample_weight=np.r_[-1.0, np.ones(59)])
    if is_classifier(estimator):
        with pytest.raises(ValueError, match="class"):
            estimator.fit(X, np.zeros(60, int))
        labels = np.array(["ββ", "¹⁰C"])[y]
        assert set(estimator.fit(X, labels).predict(X)) <= set(labels)


@pytest.mark.parametrize("E", ESTIMATORS, ids=lambda E: E.__name__)
def test_every_parameter_and_public_method_is_documented(E):
    documentation = inspect.getdoc(E)
    assert "Examples\n--------" in documentation
    for parameter in E().get_params(deep=False):
        pattern = rf"^(\w+, )*{parameter}(, \w+)* :"
        assert re.search(pattern, documentation, re.MULTILINE), parameter
    for name, method in inspect.getmembers(E, inspect.isfunction):
        if not name.startswith("_") and method.__module__.startswith("sknuc"):
            assert inspect.getdoc(method), name


@pytest.mark.parametrize("E", ESTIMATORS, ids=lambda E: E.__name__)
def test_documented_defaults_are_those_of_the_signature(E):
    parameters = inspect.getdoc(E).split("Parameters\n----------\n", 1)[1].split("\n\n")[0]
    # A type may go on in the next line; what is required has no default.
    entries = re.findall(r"(?m)^(\w+(?:, \w+)*) : ((?:.*\\\n)*.*)", parameters)
    documented = {name: kind for names, kind in entries for name in names.split(", ")}
    signature = inspect.signature(E).parameters
    assert documented.keys() == signature.keys()
    for name, parameter in signature.items():
        if parameter.default is parameter.empty:
            continue
        default, actual = eval(documented[name].partition("default=")[2]), parameter.default
        if isinstance(default, tuple) and ... in default:
            # Of a long one, the ends are documented.
            k = default.index(...)
            actual = (*actual[:k], ..., *actual[len(actual) - (len(default) - k - 1) :])
        np.testing.assert_equal(default, actual, err_msg=name)


class Stump(BDTRegressor):
    def __init__(self, *, max_depth=1):
        super().__init__(max_depth=max_depth)


class Narrow(LSTM):
    def __init__(self, *, hidden_size=4):
        super().__init__(hidden_size=hidden_size)


class Hasty(NeuralRegressor):
    def __init__(self, *, max_epochs=1):
        super().__init__(max_epochs=max_epochs)


class OfTables(NeuralRegressor):
    _without = ("encoder", "input_shape")


class Streamed(OfTables):
    """Goes on.

    Parameters
    ----------
    {shared_parameters}
    """

    _without = (*OfTables._without, "early_stopping")


@pytest.mark.parametrize("E", [OfTables, Streamed])
def test_a_subclass_is_without_what_it_says(E):
    expected = NeuralRegressor().get_params(deep=False).keys() - set(E._without)
    copied = clone(E(loss="huber", max_epochs=3))
    assert copied.get_params(deep=False).keys() == expected
    assert (copied.loss, copied.max_epochs) == ("huber", 3)
    for name in E._without:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            E(**{name: None})
        assert f" {name} : " not in (E.__doc__ or "")


@pytest.mark.parametrize("E", [Stump, Narrow, Hasty])
def test_a_subclass_has_the_parameters_that_it_declares(E):
    (name,) = inspect.signature(E).parameters
    copied = clone(E(**{name: 3}))
    assert copied.get_params(deep=False) == {name: 3}
    with pytest.raises(TypeError, match="unexpected keyword argument 'verbose'"):
        E(verbose=1)


@pytest.mark.parametrize(
    "E",
    [*(E for E in ESTIMATORS if issubclass(E, SharedParameters)), LSTM],
    ids=lambda E: E.__name__,
)
def test_what_is_no_parameter_is_refused_in_the_name_of_the_estimator(E):
    for name in ("no_such", *E._without):
        with pytest.raises(TypeError, match=rf"^{E.__name__}\.__init__\(\) got .* '{name}'$"):
            E(**{name: None})
