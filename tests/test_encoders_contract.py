"""The contract, over every encoder of the package in the estimators that take one."""

import copy
import inspect
import pickle
import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import sknuc.encoders
from sknuc.encoders import (
    CNN,
    GRU,
    LSTM,
    MLP,
    ConvLSTM,
    Encoder,
    KamNet,
    ModuleEncoder,
    PointNet,
    SphericalCNN,
    Transformer,
)
from sknuc.geometry import fibonacci_sphere
from sknuc.networks import NeuralClassifier, NeuralRegressor
from sknuc.nn import stack


class OwnNetwork(nn.Sequential):
    """A network that a user would bring along."""

    def __init__(self, input_shape, width=16):
        super().__init__(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), width), nn.Tanh())


@dataclass
class Case:
    """An encoder with small layers, an event that it is made for, two values of a parameter."""

    encoder: Encoder
    shape: tuple
    parameter: str
    choices: list
    # Events of this shape are refused; None where any shape is read.
    refused: tuple | None


TUBES = 850.0 * fibonacci_sphere(24)

CASES = {
    case.encoder.__class__.__name__: case
    for case in (
        Case(MLP(), (2, 3, 4), "hidden_layer_sizes", [(4,), (5, 6)], None),
        Case(ModuleEncoder(OwnNetwork), (3, 4), "params", [{"width": 2}, {"width": 3}], None),
        Case(CNN(channels=(8, 8)), (2, 5, 9), "channels", [(2,), (3, 4)], (1, 2, 3, 4, 5)),
        Case(LSTM(hidden_size=16), (2, 25), "hidden_size", [3, 4], (1, 2, 3)),
        Case(GRU(hidden_size=16), (2, 25), "hidden_size", [3, 4], (1, 2, 3)),
        Case(Transformer(width=16, n_layers=1), (2, 25), "n_layers", [1, 2], (1, 2, 3)),
        Case(
            ConvLSTM(hidden_channels=(16,), kernel_size=3),
            (4, 2, 3, 4),
            "pooling",
            ["attention", "last"],
            (1, 2, 3, 4, 5),
        ),
        Case(PointNet(channels=(32,)), (7, 4), "pooling", ["max", "sum"], (2, 7, 4)),
        Case(
            SphericalCNN(channels=(8, 8)),
            (2, 4, 6),
            "activation",
            ["silu", "tanh"],
            (2, 3, 4, 6),
        ),
        Case(
            KamNet(
                hidden_channels=(6,),
                kernel_size=(3,),
                channels=(8,),
                hidden_layer_sizes=(16,),
            ),
            (3, 4, 8),
            "hidden_channels",
            [(2,), (3,)],
            (1, 2, 3, 4, 5),
        ),
    )
}
NAMES = sorted(CASES)
ESTIMATORS = [NeuralClassifier, NeuralRegressor]
each_encoder = pytest.mark.parametrize("name", NAMES)
each_estimator = pytest.mark.parametrize("E", ESTIMATORS, ids=lambda E: E.__name__)


def default(name):
    """The encoder as it comes."""
    return ModuleEncoder(OwnNetwork) if name == "ModuleEncoder" else type(CASES[name].encoder)()


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_no_encoder_is_forgotten():
    found = {
        kind.__name__
        for kind in subclasses(Encoder)
        if kind.__module__.startswith("sknuc.")
        and not getattr(kind.build, "__isabstractmethod__", False)
    }
    # A base of several encoders is private.
    found = {name for name in found if not name.startswith("_")}
    assert found == set(CASES)
    assert found | {"Encoder"} == set(sknuc.encoders.__all__)


# Fewer and larger steps than by default: the same checks in less time, and less still where nothing
# is asked of the fit.
@parametrize_with_checks(
    [
        E(encoder=CASES[name].encoder, max_epochs=60, learning_rate=0.02)
        for name in NAMES
        for E in ESTIMATORS
    ]
)
def test_check_estimator(estimator, check):
    if not any(word in check.func.__name__ for word in ("train", "class_weight")):
        estimator = clone(estimator).set_params(max_epochs=5)
    check(estimator)


def problem(name, dtype=np.float32):
    case = CASES[name]
    rng = np.random.default_rng(0)
    X = rng.random((30, *case.shape)).astype(dtype)
    y = np.arange(30) % 2
    X[y == 1] *= 2.0
    return X, y


def model_of(E, name, **parameters):
    options = {"max_epochs": 2, "batch_size": 8, "random_state": 0, **parameters}
    return E(encoder=CASES[name].encoder, **options)


def outputs(model, X):
    return model.predict_proba(X) if is_classifier(model) else model.predict(X)


@each_encoder
@each_estimator
def test_rows_give_the_bits_of_events_and_pickles_predict_them(E, name):
    X, y = problem(name)
    rows = X.reshape(30, -1)
    model = model_of(E, name).fit(X, y)
    expected = outputs(model, X)
    assert model.input_shape_ == CASES[name].shape
    assert len(np.unique(expected)) > 20
    table = model_of(E, name, input_shape=CASES[name].shape).fit(rows, y)
    np.testing.assert_array_equal(outputs(table, rows), expected)
    np.testing.assert_array_equal(outputs(table, X), expected)
    loaded = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(outputs(loaded, X), expected)
    again = clone(model).fit(X, y)
    np.testing.assert_array_equal(outputs(again, X), expected)
    # A pickle goes on where the model stopped.
    for copied in (model, loaded):
        copied.partial_fit(X, y)
    np.testing.assert_array_equal(outputs(loaded, X), outputs(model, X))
    assert not np.array_equal(outputs(model, X), expected)


@each_encoder
@each_estimator
def test_grid_search_reaches_the_encoder(E, name):
    X, y = problem(name)
    case = CASES[name]
    search = GridSearchCV(
        model_of(E, name), {f"encoder__{case.parameter}": case.choices}, cv=2
    ).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_params_[f"encoder__{case.parameter}"]
    by_hand = model_of(E, name)
    by_hand.encoder = clone(case.encoder).set_params(**{case.parameter: best})
    expected = outputs(by_hand.fit(X, y), X)
    np.testing.assert_array_equal(outputs(search, X), expected)
    # The two choices are two networks.
    other = case.choices[1 - case.choices.index(best)]
    by_hand.encoder = clone(case.encoder).set_params(**{case.parameter: other})
    assert not np.array_equal(outputs(by_hand.fit(X, y), X), expected)


@each_encoder
@each_estimator
def test_networks_have_the_precision_of_the_events(E, name):
    predicted = {}
    for dtype in (np.float32, np.float64):
        X, y = problem(name, dtype)
        model = model_of(E, name).fit(X, y)
        kinds = {p.dtype for p in model.module_.parameters()}
        assert kinds == {torch.float32 if dtype == np.float32 else torch.float64}
        predicted[dtype] = outputs(model, X)
        if is_classifier(model):
            assert predicted[dtype].dtype == dtype


@each_encoder
@each_estimator
def test_events_of_too_many_axes_are_refused_with_words(E, name):
    case = CASES[name]
    if case.refused is None:
        X = np.random.default_rng(0).random((4, 1, 2, 1, 2, 1))
        assert outputs(model_of(E, name).fit(X, [0, 1, 0, 1]), X).shape[0] == 4
        return
    words = f"{name} reads .* of shape.*Got.*{re.escape(str(case.refused))}"
    with pytest.raises(ValueError, match=words):
        case.encoder.build(case.refused)
    X = np.random.default_rng(0).random((4, *case.refused))
    with pytest.raises(ValueError, match=words):
        model_of(E, name).fit(X, [0, 1, 0, 1])
    with pytest.raises(ValueError, match=words):
        model_of(E, name, input_shape=case.refused).fit(X.reshape(4, -1), [0, 1, 0, 1])


def shapes_of(name):
    return [(1,), (2,), (3,), (10,), (31,), CASES[name].shape]


@each_encoder
@pytest.mark.parametrize("small", [True, False], ids=["small", "default"])
def test_networks_map_each_event_to_features(name, small):
    encoder = CASES[name].encoder if small else default(name)
    for shape in shapes_of(name):
        torch.manual_seed(0)
        single = encoder.build(shape)
        double = copy.deepcopy(single).double()
        x = torch.rand(4, *shape, dtype=torch.float64)
        features = double(x)
        assert features.ndim == 2
        assert len(features) == 4
        # Nothing is remembered or drawn, and events do not see each other.
        state = copy.deepcopy(double.state_dict())
        assert torch.equal(double.train()(x), features)
        assert torch.equal(double.eval()(x), features)
        assert all(torch.equal(a, state[key]) for key, a in double.state_dict().items())
        alone = torch.cat([double(event[None]) for event in x])
        torch.testing.assert_close(alone, features, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(single(x.float()), features.float(), rtol=1e-3, atol=1e-3)
        for axis in (encoder.channel_axis(shape), encoder.padding_axis(shape)):
            assert axis is None or 0 <= axis < len(shape)
        uniform = encoder.uniform_event(shape)
        if uniform is not None:
            assert np.broadcast_to(uniform, shape).mean() == pytest.approx(1)
        features.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in double.parameters())


@each_encoder
def test_the_same_seed_builds_the_same_network(name):
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(CASES[name].encoder.build(CASES[name].shape).state_dict())
    first, second, third = built
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


@each_encoder
def test_parameters_are_scikit_learns(name):
    encoder = default(name)
    kind = type(encoder)
    parameters = inspect.signature(kind).parameters
    assert set(encoder.get_params()) == set(parameters)
    assert all(p.kind is p.KEYWORD_ONLY for key, p in parameters.items() if key != "factory")
    case = CASES[name]
    for choice in case.choices:
        copied = clone(clone(encoder).set_params(**{case.parameter: choice}))
        assert copied.get_params()[case.parameter] == choice
    # Stored as they come, whatever they are: they are judged when a network is built.
    strange = object()
    changed = kind(**{**encoder.get_params(), case.parameter: strange})
    assert getattr(changed, case.parameter) is strange


@each_encoder
def test_parameters_are_documented(name):
    kind = type(CASES[name].encoder)
    documentation = inspect.getdoc(kind)
    assert "Examples\n--------" in documentation
    for parameter in inspect.signature(kind).parameters:
        pattern = rf"^(\w+, )*{parameter}(, \w+)* :"
        assert re.search(pattern, documentation, re.MULTILINE), parameter


@each_estimator
def test_a_detector_is_a_parameter_like_any_other(E):
    # Positions are an array: clone, pickle and search have to carry it along.
    rng = np.random.default_rng(0)
    X, y = rng.random((20, 3, 24), dtype=np.float32), np.arange(20) % 2
    encoder = SphericalCNN(positions=TUBES, channels=(3,), bandwidths=(3, 2))
    model = E(encoder=encoder, max_epochs=2, random_state=0)
    turned = TUBES[::-1]
    search = GridSearchCV(model, {"encoder__positions": [TUBES, turned]}, cv=2).fit(X, y)
    best = search.best_params_["encoder__positions"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(search)).predict(X), search.predict(X))
    expected = clone(model).set_params(encoder__positions=best).fit(X, y).predict(X)
    np.testing.assert_array_equal(search.predict(X), expected)
    with pytest.raises(ValueError, match=r"n_pixels=23.*\(24, 3\)"):
        model.fit(X[:, :, :23], y)


@pytest.mark.parametrize("name", CASES)
def test_a_stack_computes_what_its_members_do(name):
    case = CASES[name]
    torch.manual_seed(0)
    members = [case.encoder.build(case.shape).double().eval() for _ in range(3)]
    together = stack(members, event_ndim=len(case.shape)).eval()
    shared, own = torch.randn(5, *case.shape).double(), torch.randn(3, 5, *case.shape).double()
    for x in (shared, own):
        expected = torch.stack([m(x if x is shared else x[k]) for k, m in enumerate(members)])
        torch.testing.assert_close(together(x), expected, rtol=1e-9, atol=1e-11)
        restored = pickle.loads(pickle.dumps(together))
        torch.testing.assert_close(restored(x), together(x), rtol=0, atol=0)
    for k, member in enumerate(members):
        torch.testing.assert_close(
            together.member(k)(shared), member(shared), rtol=1e-9, atol=1e-12
        )
    # Each member gets the gradient that it would have alone.
    for module in (together, *members):
        module.train()
    together(own).square().sum().backward()
    for k, member in enumerate(members):
        member(own[k]).square().sum().backward()
    gradients = {n: p.grad for n, p in together.named_parameters()}
    total = sum(g.square().sum() for g in gradients.values())
    alone = sum(
        p.grad.square().sum() for m in members for p in m.parameters() if p.grad is not None
    )
    torch.testing.assert_close(total, alone, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_bits_do_not_depend_on_the_threads_of_a_small_network(name):
    case = CASES[name]
    # As wide as it comes, where that is narrow enough for one thread: some ways to draw the first
    # weights (a QR) give other bits with more threads.
    encoder = clone(case.encoder)
    if "hidden_size" in encoder.get_params():
        encoder.set_params(hidden_size=64)
    X, y = problem(name)
    states = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        try:
            model = NeuralClassifier(
                encoder=encoder, max_epochs=1, batch_size=8, random_state=0
            ).fit(X, y)
        finally:
            torch.set_num_threads(1)
        states.append(model.module_.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0, atol=0)
