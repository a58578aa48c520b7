"""Encoders: shapes, symmetries, parameters, and words for what does not fit."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sknuc.encoders import CNN, MLP, ModuleEncoder
from sknuc.networks import NeuralClassifier


@pytest.mark.parametrize("shape", [(50,), (2, 50), (1, 20, 30), (2, 9, 8, 7)])
@pytest.mark.parametrize("encoder", [CNN(norm="group"), CNN(n_blocks=0), MLP(norm="layer")])
def test_features_of_events_of_any_dimension(encoder, shape):
    module = encoder.build(shape)
    features = module(torch.randn(3, *shape))
    assert features.shape == (3, 64 if isinstance(encoder, MLP) else 128)
    assert all(p.requires_grad for p in module.parameters())


def test_events_do_not_see_each_other():
    torch.manual_seed(0)
    for encoder in (CNN(norm="group"), MLP(norm="layer")):
        module = encoder.build((1, 40)).double()
        x = torch.randn(5, 1, 40, dtype=torch.float64)
        one_by_one = torch.cat([module(event[None]) for event in x])
        torch.testing.assert_close(module(x), one_by_one)


def test_pooled_cnn_does_not_see_shifts_by_its_stride():
    module = CNN(channels=(4, 8), kernel_size=3, stride=2, n_blocks=1).build((1, 128)).double()
    x = torch.zeros(1, 1, 128, dtype=torch.float64)
    x[0, 0, 60:64] = torch.tensor([1.0, 3.0, -2.0, 0.5])
    torch.testing.assert_close(module(x.roll(8, 2)), module(x), rtol=1e-12, atol=1e-12)
    flat = CNN(channels=(4, 8), pooling="flatten").build((1, 128)).double()
    assert not torch.allclose(flat(x.roll(8, 2)), flat(x))


def test_residual_blocks_start_as_the_identity():
    torch.manual_seed(0)
    shallow = CNN(channels=(4,), n_blocks=0).build((1, 30))
    torch.manual_seed(0)
    deep = CNN(channels=(4,), n_blocks=3).build((1, 30))
    x = torch.randn(2, 1, 30)
    assert torch.equal(shallow(x), deep(x))
    deep(x).sum().backward()
    assert any(p.grad.abs().sum() > 0 for name, p in deep.named_parameters() if "body" in name)


def test_parameters_are_scikit_learns():
    model = NeuralClassifier(encoder=CNN())
    model.set_params(encoder__channels=(4, 8), encoder__norm="group")
    assert clone(model).encoder.get_params()["channels"] == (4, 8)


@pytest.mark.parametrize(
    ("encoder", "shape", "words"),
    [
        (CNN(channels=(0,)), (1, 9), "'channels' parameter must hold positive integers"),
        (CNN(kernel_size=4), (1, 9), "must be odd"),
        (CNN(pooling="median"), (1, 9), "'pooling' parameter"),
        (CNN(), (1, 2, 3, 4, 5), r"\(1, 2, 3, 4, 5\)"),
        (MLP(hidden_layer_sizes=(2.5,)), (3,), "positive integers"),
        (MLP(dropout=1.0), (3,), "'dropout' parameter"),
        (ModuleEncoder(lambda shape: 3), (3,), "must return a torch.nn.Module"),
    ],
)
def test_errors_name_parameter_and_value(encoder, shape, words):
    with pytest.raises((ValueError, TypeError), match=words):
        encoder.build(shape)


def flat_network(input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 2))


@pytest.mark.parametrize("name", ["channels", "padding"])
def test_an_axis_that_the_events_do_not_have_is_named(name):
    X = np.random.default_rng(0).normal(size=(8, 4, 3))
    hook = {"channels": "channel_axis", "padding": "padding_axis"}[name]
    for axis in (None, 0, 1, np.int64(1)):
        encoder = ModuleEncoder(flat_network, **{name: axis})
        assert getattr(encoder, hook)((4, 3)) == axis
        NeuralClassifier(encoder=encoder, max_epochs=1).fit(X, np.arange(8) % 2)
    for axis in (2, 9, -1, -2, 0.0, "0", False):
        encoder = ModuleEncoder(flat_network, **{name: axis})
        with pytest.raises(
            ValueError, match=rf"'{name}' parameter .*\(4, 3\).*0 to 1. Got {axis!r}"
        ):
            NeuralClassifier(encoder=encoder, max_epochs=1).fit(X, np.arange(8) % 2)


def test_an_encoder_of_the_wrong_shape_is_named():
    def images(input_shape):
        return nn.Unflatten(1, (1, *input_shape))

    with pytest.raises(ValueError, match=r"features \(n, n_features\).*\(2, 1, 3\)"):
        NeuralClassifier(encoder=ModuleEncoder(images)).fit(np.eye(3), [0, 1, 1])
    with pytest.raises(ValueError, match="'encoder' parameter"):
        NeuralClassifier(encoder="cnn").fit(np.eye(3), [0, 1, 1])


@pytest.mark.parametrize(
    ("input_shape", "words"),
    [((2, 2), "4 numbers per event"), ((0, 3), "positive integers"), ((), "non-empty")],
)
def test_an_input_shape_that_does_not_fit_is_named(input_shape, words):
    with pytest.raises(ValueError, match=words):
        NeuralClassifier(input_shape=input_shape).fit(np.eye(3), [0, 1, 1])
    with pytest.raises(ValueError, match=r"events in X have the shape \(3, 1\)"):
        NeuralClassifier(input_shape=(1, 3)).fit(np.eye(3).reshape(3, 3, 1), [0, 1, 1])
