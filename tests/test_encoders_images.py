"""Sequences of images: the equations of the layers, the sphere, the attention, the encoder."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate
from scipy.special import expit, softmax
from sklearn.model_selection import GridSearchCV
from torch import nn

from sknuc.encoders import CNN, ConvLSTM
from sknuc.geometry import equiangular_sphere, spherical_harmonics
from sknuc.networks import NeuralClassifier
from sknuc.nn import ConvLSTMLayers, StackedModule, TemporalAttention, pad_sphere


def random_layers(*args, **kwargs):
    """Layers in float64, of which no parameter is at its start."""
    torch.manual_seed(0)
    layers = ConvLSTMLayers(*args, **kwargs).double()
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layers


def by_hand(layer, x):
    """One layer by the equations of Shi et al., one image and one output channel at a time."""
    w_x, bias, w_h = (
        p.detach().numpy()
        for p in (layer.from_input.weight, layer.from_input.bias, layer.from_hidden.weight)
    )
    peephole = np.zeros((3, w_h.shape[1], 1, 1))
    if layer.peephole is not None:
        peephole = layer.peephole.detach().numpy()

    def convolve(weight, image):
        return np.array(
            [
                sum(correlate(image[c], kernel[c], mode="same") for c in range(len(image)))
                for kernel in weight
            ]
        )

    states = []
    for event in x.numpy():
        h = c = np.zeros((w_h.shape[1], *x.shape[3:]))
        for frame in event:
            gates = convolve(w_x, frame) + convolve(w_h, h) + bias[:, None, None]
            i, f, o, g = np.split(gates, 4)
            i, f = expit(i + peephole[0] * c), expit(f + peephole[1] * c)
            c = f * c + i * np.tanh(g)
            h = expit(o + peephole[2] * c) * np.tanh(c)
            states.append(h)
    return np.reshape(states, (*x.shape[:2], *h.shape))


@pytest.mark.parametrize("peephole", [False, True])
def test_layers_are_the_equations_of_shi(peephole):
    layers = random_layers(2, (3, 4), (3, (1, 5)), peephole=peephole)
    x = torch.randn(2, 4, 2, 5, 6, dtype=torch.float64)
    expected = x
    for layer in layers.layers:
        expected = torch.from_numpy(by_hand(layer, expected))
    torch.testing.assert_close(layers(x), expected, rtol=0, atol=1e-12)


def test_on_a_single_pixel_the_layers_are_an_lstm():
    layers = random_layers(3, (5, 4), (1, 1))
    lstm = nn.ModuleList([nn.LSTM(3, 5), nn.LSTM(5, 4)]).double()
    for ours, theirs in zip(layers.layers, lstm, strict=True):

        def rearranged(gates):
            i, f, o, c = gates.chunk(4)
            return torch.cat([i, f, c, o]).flatten(1) if gates.ndim > 1 else torch.cat([i, f, c, o])

        with torch.no_grad():
            theirs.weight_ih_l0.copy_(rearranged(ours.from_input.weight))
            theirs.weight_hh_l0.copy_(rearranged(ours.from_hidden.weight))
            theirs.bias_ih_l0.copy_(rearranged(ours.from_input.bias))
            theirs.bias_hh_l0.zero_()
    x = torch.randn(6, 9, 3, dtype=torch.float64)
    expected = lstm[1](lstm[0](x.transpose(0, 1))[0])[0].transpose(0, 1)
    ours = layers(x[..., None, None])[..., 0, 0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_the_forget_gate_starts_open():
    layer = ConvLSTMLayers(2, (4,), (3,)).layers[0]
    start = 1 / np.sqrt(2 * 9)
    assert torch.equal(layer.from_input.bias[4:8], torch.ones(4))
    assert layer.from_input.bias[:4].abs().max() <= start
    assert layer.from_input.bias[8:].abs().max() <= start


def test_the_sphere_goes_on_beyond_its_edges():
    # A smooth function has the same values on the grid that is continued past pole and seam.
    n_theta, n_phi, rows, columns = 6, 10, 3, 4
    points, _ = equiangular_sphere(n_theta, n_phi)
    theta = np.pi * (np.arange(-rows, n_theta + rows) + 0.5) / n_theta
    phi = 2 * np.pi * (np.arange(-columns, n_phi + columns) + 0.5) / n_phi
    ring = np.sin(theta)[:, None]
    beyond = np.stack(
        [ring * np.cos(phi), ring * np.sin(phi), np.cos(theta)[:, None] + 0 * phi], axis=-1
    )
    images = spherical_harmonics(3, points).T.reshape(-1, n_theta, n_phi)
    expected = spherical_harmonics(3, beyond.reshape(-1, 3)).T.reshape(-1, *beyond.shape[:2])
    padded = pad_sphere(torch.from_numpy(images), rows, columns)
    np.testing.assert_allclose(padded, expected, rtol=0, atol=1e-12)
    untouched = torch.from_numpy(images)
    assert pad_sphere(untouched, 0, 0) is untouched


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_rotating_the_sphere_about_its_axis_rotates_the_hidden_states(shift):
    layers = random_layers(1, (3, 4), (5, 3), padding="sphere")
    x = torch.randn(2, 4, 1, 6, 8, dtype=torch.float64)
    rotated = layers(x.roll(shift, -1))
    torch.testing.assert_close(rotated, layers(x).roll(shift, -1), rtol=0, atol=1e-12)
    flat = random_layers(1, (3, 4), (5, 3), padding="zeros")
    assert not torch.allclose(flat(x.roll(shift, -1)), flat(x).roll(shift, -1))


def test_hidden_states_do_not_see_the_future():
    layers = random_layers(1, (3, 4), (3, 3), peephole=True)
    x = torch.randn(1, 6, 1, 4, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4:] += 1.0
    assert torch.equal(layers(x)[:, :4], layers(changed)[:, :4])
    assert not torch.allclose(layers(x)[:, 4:], layers(changed)[:, 4:])


@pytest.mark.parametrize("image_shape", [(1, 1), (2, 5)])
def test_attention_is_the_softmax_of_kamnet(image_shape):
    torch.manual_seed(0)
    pooling = TemporalAttention(7, 3, image_shape).double()
    h = torch.randn(4, 7, 3, 2, 5, dtype=torch.float64)
    context, attention = (tensor.detach().numpy() for tensor in pooling(h))
    h, weight = h.numpy(), pooling.weight.detach().numpy()
    expected = softmax(h * weight * h[:, -1:], axis=1)
    np.testing.assert_allclose(attention, expected, rtol=1e-12)
    np.testing.assert_allclose(attention.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(context, np.einsum("ntchw,ntchw->nchw", expected, h), rtol=1e-12)
    assert np.abs(weight).max() <= 0.1


def test_attention_of_equal_steps_is_even():
    pooling = TemporalAttention(5, 2).double()
    nn.init.zeros_(pooling.weight)
    h = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64)
    context, attention = pooling(h)
    torch.testing.assert_close(attention, torch.full_like(attention, 0.2))
    torch.testing.assert_close(context, h.mean(1))


@pytest.mark.parametrize("shape", [(9,), (9, 2), (9, 4, 6), (9, 2, 4, 6)])
@pytest.mark.parametrize("pooling", ["attention", "pixel_attention", "mean", "last"])
def test_events_of_every_shape_and_pooling(shape, pooling):
    torch.manual_seed(0)
    module = ConvLSTM(hidden_channels=(3, 4), pooling=pooling).build(shape).double()
    x = torch.randn(5, *shape, dtype=torch.float64)
    features = module(x)
    assert features.shape == (5, 8)
    torch.testing.assert_close(torch.cat([module(event[None]) for event in x]), features)
    if pooling.endswith("attention"):
        attention = module.attention(x)
        image = shape[-2:] if len(shape) > 2 else (1, 1)
        n_steps = 1 if len(shape) == 1 else 9
        assert attention.shape == (5, n_steps, 4, *image)
        torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
        context = (attention * module.layers(x.reshape(5, *module.shape))).sum(1).flatten(2)
        pooled = torch.cat([context.mean(2), context.amax(2)], 1)
        torch.testing.assert_close(features, pooled)
    else:
        with pytest.raises(ValueError, match="pooling='attention'"):
            module.attention(x)


def test_kernels_are_cut_to_what_they_can_see():
    # Weights beyond the cut only meet zeros: the wide kernel gives the same states.
    narrow = random_layers(1, (3,), ((1, 3),))
    wide = random_layers(1, (3,), ((5, 5),))
    for ours, cut in zip(wide.parameters(), narrow.parameters(), strict=True):
        with torch.no_grad():
            cut.copy_(ours[:, :, 2:3, 1:4] if ours.ndim == 4 else ours)
    x = torch.randn(2, 3, 1, 1, 2, dtype=torch.float64)
    torch.testing.assert_close(narrow(x), wide(x))
    layers = ConvLSTM(hidden_channels=(3,), kernel_size=5).build((4, 1, 2)).layers
    assert layers.layers[0].from_input.kernel_size == (1, 3)
    assert ConvLSTM().channel_axis((9, 2, 4, 6)) == ConvLSTM().channel_axis((9, 2)) == 1
    assert ConvLSTM().channel_axis((9, 4, 6)) is None
    assert ConvLSTM().channel_axis((9,)) == 0


def test_features_do_not_see_rotations_about_the_axis():
    torch.manual_seed(0)
    module = ConvLSTM(hidden_channels=(4,), kernel_size=3, padding="sphere").build((5, 6, 8))
    module = module.double()
    x = torch.rand(2, 5, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(module(x.roll(3, -1)), module(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 6, 8), (4, 2, 6, 8)])
def test_uniform_light_on_the_sphere_has_the_states_of_no_light(shape):
    # What falls into a cell is its area times the brightness, which is what is subtracted.
    encoder = ConvLSTM(hidden_channels=(3,), kernel_size=3, padding="sphere", pooling="last")
    encoder.set_params(spatial_pooling="flatten")
    areas = equiangular_sphere(6, 8)[1].reshape(6, 8)
    X = np.arange(1.0, 21).reshape(20, *[1] * len(shape)) * np.broadcast_to(areas, shape)
    X = np.concatenate([X, X.mean(0, keepdims=True)])
    model = NeuralClassifier(encoder=encoder, max_epochs=1, random_state=0)
    scaling, network = model.fit(X, np.arange(21) % 2).module_
    scaled = scaling(torch.from_numpy(X[-1:]))
    np.testing.assert_allclose(scaled, 0, atol=1e-12)
    states = network[0].double()(scaled).detach().unflatten(1, (3, -1))
    np.testing.assert_allclose(states, states[..., :1].expand_as(states), atol=1e-12)
    flat = ConvLSTM(padding="zeros")
    assert flat.uniform_event(shape) is None
    assert encoder.uniform_event((4, 2)) is None


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    encoder = ConvLSTM(hidden_channels=(2,), kernel_size=3, peephole=True, padding="sphere")
    module = encoder.set_params(spatial_pooling="mean").build((3, 2, 4)).double()
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


def test_members_of_a_stack_are_the_members():
    torch.manual_seed(0)
    encoder = ConvLSTM(hidden_channels=(3,), kernel_size=3, padding="sphere")
    members = [encoder.build((3, 2, 4)).double() for _ in range(3)]
    x = torch.randn(4, 3, 2, 4, dtype=torch.float64)
    expected = torch.stack([member(x) for member in members])
    torch.testing.assert_close(StackedModule(members, event_ndim=3)(x), expected)


def kernels(encoder, shape):
    return [layer.from_input.kernel_size for layer in encoder.build(shape).layers.layers]


def test_default_kernels_fit_any_number_of_layers_and_any_sphere():
    assert kernels(ConvLSTM(), (4, 12, 16)) == [(5, 5), (3, 3)]
    assert kernels(ConvLSTM(hidden_channels=(4,)), (4, 12, 16)) == [(3, 3)]
    assert kernels(ConvLSTM(hidden_channels=(4, 4, 4)), (4, 12, 16)) == [(3, 3)] * 3
    assert kernels(ConvLSTM(padding="sphere"), (4, 1, 8)) == [(3, 5), (3, 3)]
    assert kernels(ConvLSTM(), (4, 1, 8)) == [(1, 5), (1, 3)]
    X = np.random.default_rng(0).random((12, 3, 4, 6), dtype=np.float32)
    depths = {"encoder__hidden_channels": [(2,), (2, 3), (2, 2, 2)]}
    model = NeuralClassifier(encoder=ConvLSTM(padding="sphere"), max_epochs=1, random_state=0)
    search = GridSearchCV(model, depths, cv=2, error_score="raise").fit(X, np.arange(12) % 2)
    assert len(search.cv_results_["params"]) == 3


@pytest.mark.parametrize(
    ("parameters", "shape", "words"),
    [
        ({}, (2, 3, 4, 5, 6), r"\(2, 3, 4, 5, 6\)"),
        ({"hidden_channels": ()}, (5,), "at least one layer"),
        ({"hidden_channels": (0,)}, (5,), "'hidden_channels' parameter must hold positive"),
        ({"kernel_size": 4}, (5, 8, 8), "odd positive integer"),
        ({"kernel_size": (3,)}, (5, 8, 8), "each of the 2 layers"),
        ({"kernel_size": (3, (3, 3, 3))}, (5, 8, 8), "each of the 2 layers"),
        ({"pooling": "max"}, (5,), "'pooling' parameter"),
        ({"padding": "sphere"}, (5, 8, 7), r"even width.*\(8, 7\)"),
        ({"padding": "sphere", "kernel_size": 7}, (5, 2, 8), r"of ConvLSTM .* once .*\(5, 17\)"),
    ],
)
def test_errors_name_parameter_and_value(parameters, shape, words):
    with pytest.raises(ValueError, match=words):
        ConvLSTM(**parameters).build(shape)


@pytest.mark.parametrize("shape", [(1, 32), (2, 6, 32), (1, 4, 6, 32)])
def test_a_cnn_that_wraps_does_not_see_rotations_by_its_strides(shape):
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    parameters = {"channels": (3, 4), "stride": 2, "kernel_size": 5}
    module = CNN(**parameters, wrap=True).build(shape).double()
    # The blocks start as the identity; here they take part.
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    for shift in (4, 12, 20):
        torch.testing.assert_close(module(x.roll(shift, -1)), module(x), rtol=0, atol=1e-12)
    flat = CNN(**parameters).build(shape).double()
    for ours, theirs in zip(flat.parameters(), module.parameters(), strict=True):
        ours.data.copy_(theirs.data)
    assert not torch.allclose(flat(x.roll(12, -1)), flat(x))
    # Far from the seam both are one, one stage deep.
    single = CNN(channels=(3,), kernel_size=3, stride=1, n_blocks=0, pooling="flatten")
    torch.manual_seed(0)
    flat = single.build(shape).double()(x).reshape(2, 3, *shape[1:])
    torch.manual_seed(0)
    wrapped = single.set_params(wrap=True).build(shape).double()(x).reshape(2, 3, *shape[1:])
    torch.testing.assert_close(wrapped[..., 1:-1], flat[..., 1:-1])
    assert not torch.allclose(wrapped, flat)


def test_a_cnn_has_a_kernel_and_a_stride_for_each_axis():
    encoder = CNN(channels=(3, 5), kernel_size=(3, 7), stride=(1, 2), pooling="flatten")
    module = encoder.build((2, 6, 20))
    assert module(torch.zeros(4, 2, 6, 20)).shape == (4, 5 * 6 * 5)
    assert {tuple(p.shape[2:]) for p in module.parameters() if p.ndim > 1} == {(3, 7)}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"kernel_size": (3, 3, 3)}, "'kernel_size' parameter of CNN must be a positive integer"),
        ({"kernel_size": (3, 4)}, "must be odd"),
        ({"stride": (1, 0)}, "'stride' parameter of CNN must be a positive integer"),
        ({"kernel_size": 9, "wrap": True}, "at most once around.*is 3 long"),
        ({"kernel_size": 15, "wrap": True, "n_blocks": 0}, "at most once around.*is 6 long"),
        ({"kernel_size": 27, "wrap": True, "n_blocks": 0}, "at most once around.*is 12 long"),
    ],
)
def test_errors_of_the_cnn_name_parameter_and_value(parameters, words):
    with pytest.raises(ValueError, match=words):
        CNN(channels=(2, 2), **parameters).build((1, 8, 12))


def flashes(n_events, seed):
    """Events with one flash; whether it comes early or late is the label."""
    rng = np.random.default_rng(seed)
    X = rng.random((n_events, 8, 4, 4), dtype=np.float32)
    y = rng.integers(2, size=n_events)
    X[np.arange(n_events), np.where(y, 6, 1), rng.integers(4, size=n_events), 1] += 3.0
    return X, y


def test_the_order_of_frames_is_learnt():
    X, y = flashes(200, 0)
    encoder = ConvLSTM(hidden_channels=(6,), kernel_size=3)
    model = NeuralClassifier(encoder=encoder, max_epochs=25, batch_size=50, random_state=0)
    model.fit(X, y)
    X_test, y_test = flashes(200, 1)
    assert model.score(X_test, y_test) > 0.9
