"""Clouds of points: the order of points, padding, pooling, and the standardisation of both."""

import h5py
import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sknuc import _engine
from sknuc.encoders import CNN, ModuleEncoder, PointNet
from sknuc.networks import NeuralClassifier
from sknuc.nn import StackedModule, Standardize, real_rows

POOLINGS = ["mean_max", "mean", "max", "sum"]


def random_clouds(n_events, n_points, n_features, *, seed=0, dtype=np.float32):
    """Clouds of random sizes, with the padding at random places."""
    rng = np.random.default_rng(seed)
    X = rng.normal(5.0, 3.0, size=(n_events, n_points, n_features)).astype(dtype)
    X[rng.random((n_events, n_points)) < 0.4] = 0.0
    return X


def shuffled_points(X, seed):
    rng = np.random.default_rng(seed)
    return np.array([event[rng.permutation(len(event))] for event in X])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_points", [1, 2, 7, 33, 130])
def test_the_order_of_the_points_does_not_change_a_bit(pooling, dtype, n_points):
    torch.manual_seed(0)
    encoder = PointNet(channels=(16, 40), context_channels=(24,), pooling=pooling, align=3)
    for n_features in (3, 5):
        module = encoder.build((n_points, n_features)).to(dtype)
        # As training leaves it: the matrix of the T-net is no longer the identity.
        nn.init.normal_(module.align.matrix.weight, std=0.3)
        x = torch.from_numpy(random_clouds(9, n_points, n_features)).to(dtype)
        # Equal values, and equal points, make the order ambiguous in one feature and in all.
        x[:, :, 0] = x[:, :, 0].round()
        x[:, n_points // 2] = x[:, 0]
        features = module(x)
        for seed in range(4):
            other = torch.from_numpy(shuffled_points(x.numpy(), seed))
            assert torch.equal(module(other), features)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_features", [1, 4])
def test_predictions_do_not_see_the_order_to_the_bit(dtype, n_features):
    X = random_clouds(60, 37, n_features, dtype=dtype)
    y = np.arange(60) % 2
    model = NeuralClassifier(encoder=PointNet(), max_epochs=3, random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    assert expected.dtype == dtype
    assert len(np.unique(expected[:, 0])) > 50
    for seed in range(3):
        np.testing.assert_array_equal(model.predict_proba(shuffled_points(X, seed)), expected)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_more_padding_changes_nothing_but_rounding(pooling):
    torch.manual_seed(0)
    module = PointNet(pooling=pooling, context_channels=(16,), align=2).build((20, 3)).double()
    nn.init.normal_(module.align.matrix.weight, std=0.3)
    x = torch.from_numpy(random_clouds(6, 20, 3, dtype=np.float64))
    more = torch.cat([torch.zeros(6, 45, 3, dtype=torch.float64), x], 1)
    torch.testing.assert_close(module(more), module(x), rtol=1e-12, atol=1e-12)
    # As if each cloud had come alone, without any padding.
    alone = torch.cat([module(event[event.any(1)][None]) for event in x])
    torch.testing.assert_close(module(x), alone, rtol=1e-12, atol=1e-12)


def test_poolings_are_those_by_hand():
    torch.manual_seed(0)
    X = random_clouds(8, 12, 3, dtype=np.float64)
    X[3] = 0.0
    for pooling in POOLINGS:
        encoder = PointNet(channels=(5,), hidden_layer_sizes=(), pooling=pooling, activation="tanh")
        module = encoder.build((12, 3)).double()
        weight, bias = (p.detach().numpy() for p in module.point[0].parameters())
        expected = []
        for event in X:
            h = np.tanh(event[event.any(1)] @ weight.T + bias)
            if len(h) == 0:
                h = np.zeros((1, 5))
            mean, highest, total = h.mean(0), h.max(0), h.sum(0)
            expected.append(
                {
                    "mean": mean,
                    "max": highest,
                    "sum": total,
                    "mean_max": np.r_[mean, highest],
                }[pooling]
            )
        pooled = module(torch.from_numpy(X)).detach()
        np.testing.assert_allclose(pooled, expected, rtol=1e-12, atol=1e-13)


def test_a_context_layer_is_a_linear_layer_on_point_and_pooled_cloud():
    torch.manual_seed(0)
    encoder = PointNet(
        channels=(4,), context_channels=(6,), pooling="mean", hidden_layer_sizes=(), align=False
    )
    module = encoder.set_params(activation="tanh").build((7, 3)).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    h = torch.tanh(nn.functional.linear(x, module.point[0].weight, module.point[0].bias))
    both = torch.cat([h, h.mean(1, keepdim=True).expand_as(h)], 2)
    weight = torch.cat([module.context[0].point.weight, module.context[0].cloud.weight], 1)
    h = torch.tanh(nn.functional.linear(both, weight, module.context[0].point.bias))
    torch.testing.assert_close(module(x), h.mean(1))


def test_the_t_net_starts_as_the_identity_and_turns_the_coordinates_only():
    torch.manual_seed(0)
    plain = PointNet().build((9, 4)).double()
    aligned = PointNet(align=3).build((9, 4)).double()
    aligned.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 9, 4, dtype=torch.float64)
    assert torch.equal(aligned(x), plain(x))
    # With one matrix for all clouds it is the plain network on turned coordinates.
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    with torch.no_grad():
        aligned.align.matrix.bias.copy_(turn.flatten())
    turned = torch.cat([x[..., :3] @ turn, x[..., 3:]], 2)
    torch.testing.assert_close(aligned(x), plain(turned))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_has_no_gradient_and_points_have_the_right_one(pooling):
    torch.manual_seed(0)
    encoder = PointNet(
        channels=(6,), context_channels=(5,), hidden_layer_sizes=(4,), pooling=pooling, align=2
    )
    module = encoder.set_params(activation="tanh").build((6, 3)).double()
    nn.init.normal_(module.align.matrix.weight)
    x = torch.from_numpy(random_clouds(4, 6, 3, dtype=np.float64))
    x[0] = 0.0
    x.requires_grad_(True)
    module(x).sum().backward()
    padding = ~x.detach().any(-1)
    assert x.grad[padding].abs().max() == 0
    assert (x.grad[~padding].abs().sum(-1) > 0).all() or pooling == "max"
    full = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, full)


def test_empty_clouds_are_finite_in_output_and_gradient():
    for pooling in POOLINGS:
        module = PointNet(pooling=pooling, context_channels=(8,), align=3).build((5, 4))
        output = module(torch.zeros(3, 5, 4))
        output.sum().backward()
        assert output.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_a_row_of_a_table_is_a_point_whatever_its_values():
    torch.manual_seed(0)
    encoder = PointNet(context_channels=(8,), align=2)
    module = encoder.build((4,)).double()
    cloud = encoder.build((1, 4)).double()
    cloud.load_state_dict(module.state_dict())
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(module(x), cloud(x[:, None]))
    zeros = torch.zeros(1, 4, dtype=torch.float64)
    assert not torch.equal(module(zeros), cloud(zeros[:, None]))
    assert encoder.padding_axis((4,)) is None
    assert encoder.padding_axis((7, 4)) == 0
    assert (encoder.channel_axis((4,)), encoder.channel_axis((7, 4))) == (0, 1)


def scaling_of(X, *, sample_weight=None, encoder=None):
    encoder = PointNet(channels=(2,), hidden_layer_sizes=(2,)) if encoder is None else encoder
    model = NeuralClassifier(encoder=encoder, max_epochs=1, random_state=0)
    return model.fit(X, np.arange(len(X)) % 2, sample_weight=sample_weight).module_[0]


def check_scaling(scaling, mean, std, rtol):
    np.testing.assert_allclose(1 / scaling.scale.double().numpy().squeeze(), std, rtol=rtol)
    shift = -scaling.shift.double() / scaling.scale.double()
    np.testing.assert_allclose(shift.numpy().squeeze(), mean, rtol=rtol)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_scaling_is_measured_on_real_points_only(dtype, rtol, monkeypatch):
    X = random_clouds(50, 11, 3, dtype=dtype)
    X[7] = 0.0
    points = X[X.any(2)].astype(np.float64)
    check_scaling(scaling_of(X), points.mean(0), points.std(0), rtol)
    weight = np.random.default_rng(0).integers(0, 4, size=50).astype(np.float64)
    repeated = np.repeat(X, weight.astype(int), axis=0)
    points = repeated[repeated.any(2)].astype(np.float64)
    check_scaling(scaling_of(X, sample_weight=weight), points.mean(0), points.std(0), rtol)
    # In blocks of a few events, as from disk.
    monkeypatch.setattr(_engine, "CHUNK_BYTES", 1000)
    check_scaling(scaling_of(X, sample_weight=weight), points.mean(0), points.std(0), rtol)
    # One scale for all features, for an encoder of one's own.
    own = ModuleEncoder(_flat_network, channels=None, padding=0)
    check_scaling(scaling_of(X, encoder=own), *_moments(X[X.any(2)]), rtol)


def _flat_network(input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), 2))


def _moments(values):
    values = values.astype(np.float64)
    return values.mean(), values.std()


def test_encoders_without_padding_read_zeros_as_values():
    X = random_clouds(50, 11, 3, dtype=np.float64)
    scaling = scaling_of(X, encoder=ModuleEncoder(_flat_network, channels=1))
    check_scaling(scaling, X.mean((0, 1)), X.std((0, 1)), 1e-12)
    assert CNN().padding_axis((3, 9)) is None

    class Foreign:
        def build(self, input_shape):
            return _flat_network(input_shape)

    check_scaling(scaling_of(X, encoder=Foreign()), X.mean((0, 2)), X.std((0, 2)), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padding_stays_zero_and_points_never_become_padding(dtype):
    x = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 4.0], [5.0, 4.0]]], dtype=dtype)
    mean, scale = torch.tensor([[3.0, 4.0]], dtype=dtype), torch.tensor([[2.0, 1.0]], dtype=dtype)
    scaled = Standardize(mean, scale, padding_axis=0)(x)
    # The second point lies on the mean in every feature.
    torch.testing.assert_close(scaled[0, 1:], ((x - mean) / scale)[0, 1:])
    assert torch.equal(real_rows(scaled, 0), real_rows(x, 0))
    assert torch.equal(scaled[0, 0], torch.zeros(2, dtype=dtype))
    assert real_rows(x, 0).flatten().tolist() == [False, True, True, True]


def test_points_that_are_all_alike_are_still_points():
    # Each point is the mean: all that is left to learn from is how many there are.
    counts = np.arange(40) % 20
    X = np.where(np.arange(20) < counts[:, None], 7.0, 0.0)[..., None]
    scaled = scaling_of(X)(torch.from_numpy(X))
    np.testing.assert_array_equal(real_rows(scaled, 0).sum((1, 2)), counts)
    assert scaled.abs().max() < 1e-300


def test_scaling_from_disk_is_that_from_memory(tmp_path, monkeypatch):
    X = random_clouds(64, 11, 3)
    y = np.arange(64) % 2
    monkeypatch.setattr(_engine._events, "RESIDENT_BYTES", 2000)
    model = NeuralClassifier(encoder=PointNet(), max_epochs=2, batch_size=16, random_state=0)
    expected = clone(model).fit(X, y).predict_proba(X)
    with h5py.File(tmp_path / "clouds.h5", "w") as file:
        file.create_dataset("X", data=X, chunks=(8, 11, 3))
    with h5py.File(tmp_path / "clouds.h5", "r") as file:
        streamed = clone(model).fit(file["X"], y).predict_proba(file["X"])
    np.testing.assert_array_equal(streamed, expected)


def shells(n_events, seed):
    """Points on a sphere of radius 1 or 2, up to 30 of them, at places of their own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n_events)
    points = rng.normal(size=(n_events, 30, 3))
    points *= (1 + y)[:, None, None] / np.linalg.norm(points, axis=2, keepdims=True)
    points[np.arange(30) >= rng.integers(5, 31, size=n_events)[:, None]] = 0.0
    return points.astype(np.float32), y


def test_clouds_of_any_number_of_points_are_learnt():
    X, y = shells(200, 0)
    model = NeuralClassifier(encoder=PointNet(), max_epochs=20, batch_size=50, random_state=0)
    model.fit(X, y)
    X_test, y_test = shells(200, 1)
    assert model.score(X_test, y_test) > 0.95


def test_members_of_a_stack_are_the_members():
    torch.manual_seed(0)
    encoder = PointNet(channels=(8,), context_channels=(6,), align=2)
    members = [encoder.build((7, 3)).double() for _ in range(3)]
    x = torch.from_numpy(random_clouds(4, 7, 3, dtype=np.float64))
    expected = torch.stack([member(x) for member in members])
    torch.testing.assert_close(StackedModule(members, event_ndim=2)(x), expected)


@pytest.mark.parametrize(
    ("parameters", "shape", "words"),
    [
        ({}, (2, 3, 4), r"\(2, 3, 4\)"),
        ({"channels": (0,)}, (5, 3), "'channels' parameter must hold positive"),
        ({"context_channels": (2.5,)}, (5, 3), "'context_channels' parameter must hold positive"),
        ({"pooling": "median"}, (5, 3), "'pooling' parameter"),
        ({"align": 4}, (5, 3), "of 3 in all. Got 4"),
        ({"align": True}, (5, 3), "of 3 in all. Got True"),
        ({"align": 0}, (5, 3), "'align' parameter"),
    ],
)
def test_errors_name_parameter_and_value(parameters, shape, words):
    with pytest.raises(ValueError, match=words):
        PointNet(**parameters).build(shape)
