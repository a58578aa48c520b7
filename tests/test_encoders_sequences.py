"""Sequence encoders: recurrences and attention by hand, symmetries."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.base import clone

from sknuc.encoders import GRU, LSTM, Transformer
from sknuc.networks import NeuralClassifier
from sknuc.nn import (
    AttentionPooling,
    Patches,
    SelfAttention,
    StackedModule,
    sequence_pooling,
    sinusoidal_positions,
)

EVERY = [
    LSTM(hidden_size=5),
    LSTM(hidden_size=5, n_layers=2, bidirectional=True, pooling="attention"),
    GRU(hidden_size=5, pooling="max"),
    GRU(hidden_size=5, bidirectional=True, pooling="mean"),
    Transformer(width=8, n_heads=2),
    Transformer(width=8, n_heads=2, positions="learned", pooling="token"),
    Transformer(width=8, n_heads=1, positions=None, pooling="max"),
]


def network(encoder, shape, seed=0):
    """A network in float64, away from the zeros at which attention and its branches start."""
    torch.manual_seed(seed)
    module = encoder.build(shape).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def events(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_of(layer, suffix="l0"):
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return [getattr(layer, f"{name}_{suffix}").detach().numpy() for name in names]


def lstm_by_hand(x, W, U, b, b_state):
    h = c = np.zeros((len(x), U.shape[1]))
    states = []
    for step in x.swapaxes(0, 1):
        i, f, g, o = np.split(step @ W.T + h @ U.T + b + b_state, 4, axis=1)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        states.append(h)
    return np.stack(states, 1)


def gru_by_hand(x, W, U, b, b_state):
    h = np.zeros((len(x), U.shape[1]))
    states = []
    for step in x.swapaxes(0, 1):
        r, z, n = np.split(step @ W.T + b, 3, axis=1)
        r_state, z_state, n_state = np.split(h @ U.T + b_state, 3, axis=1)
        z = expit(z + z_state)
        h = z * h + (1 - z) * np.tanh(n + expit(r + r_state) * n_state)
        states.append(h)
    return np.stack(states, 1)


BY_HAND = [(LSTM, lstm_by_hand), (GRU, gru_by_hand)]


@pytest.mark.parametrize(("Encoder", "by_hand"), BY_HAND)
@pytest.mark.parametrize("pooling", ["last", "mean", "max", "attention"])
def test_recurrence_and_pooling_are_those_of_the_textbook(Encoder, by_hand, pooling):
    module = network(Encoder(hidden_size=4, n_layers=2, patch_size=3, pooling=pooling), (2, 12))
    x = events(5, 2, 12)
    steps = np.stack([x[:, :, t : t + 3].reshape(5, 6).numpy() for t in range(0, 12, 3)], 1)
    states = by_hand(steps, *weights_of(module.layers[0]))
    states = by_hand(states, *weights_of(module.layers[1]))
    if pooling == "attention":
        query = module.pooling.query.detach().numpy()
        weights = softmax(states @ query / np.sqrt(4), axis=1)
        expected = (weights[:, :, None] * states).sum(1)
        np.testing.assert_allclose(module.attention(x).detach(), weights, rtol=0, atol=1e-12)
    else:
        expected = {"last": states[:, -1], "mean": states.mean(1), "max": states.max(1)}[pooling]
    np.testing.assert_allclose(module(x).detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("Encoder", "by_hand"), BY_HAND)
def test_bidirectional_is_two_readings_and_last_is_the_end_of_each(Encoder, by_hand):
    module = network(Encoder(hidden_size=4, bidirectional=True, patch_size=1), (9,))
    x = events(3, 9)
    steps = x.numpy()[:, :, None]
    forward = by_hand(steps, *weights_of(module.layers[0]))
    backward = by_hand(steps[:, ::-1], *weights_of(module.layers[0], "l0_reverse"))
    states = np.concatenate([forward, backward[:, ::-1]], 2)
    np.testing.assert_allclose(module.states(x).detach(), states, rtol=0, atol=1e-12)
    expected = np.concatenate([forward[:, -1], backward[:, -1]], 1)
    np.testing.assert_allclose(module(x).detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("Encoder", [LSTM, GRU])
def test_recurrent_networks_start_orthogonal_with_the_keeping_gate_open(Encoder):
    size = 6
    layer = Encoder(hidden_size=size).build((50,)).layers[0].double()
    _, U, b, b_state = weights_of(layer)
    for gate in np.split(U, len(U) // size):
        np.testing.assert_allclose(gate @ gate.T, np.eye(size), atol=1e-6)
    # Against the recurrence by hand, in which the second gate multiplies the old state.
    expected = np.zeros((len(U) // size, size))
    expected[1] = 1
    np.testing.assert_array_equal((b + b_state).reshape(-1, size), expected)


def test_recurrent_networks_are_causal_and_read_backwards_if_asked():
    x = events(2, 20)
    changed = x.clone()
    changed[:, 12] += 1.0
    for encoder in (LSTM(hidden_size=3, patch_size=4), GRU(hidden_size=3, patch_size=4)):
        module = network(encoder, (20,))
        before, after = module.states(x), module.states(changed)
        assert torch.equal(before[:, :3], after[:, :3])
        assert (before[:, 3:] != after[:, 3:]).any(2).all()


@pytest.mark.parametrize("n_heads", [1, 3])
def test_self_attention_is_the_formula(n_heads):
    torch.manual_seed(0)
    layer = SelfAttention(6, n_heads).double()
    assert not layer.merge.weight.any()
    torch.nn.init.normal_(layer.merge.weight)
    torch.nn.init.normal_(layer.merge.bias)
    h = events(4, 5, 6)
    W, b = (p.detach().numpy() for p in layer.project.parameters())
    merge, shift = (p.detach().numpy() for p in layer.merge.parameters())
    Q, K, V = np.split(h.numpy() @ W.T + b, 3, axis=2)
    heads, d = [], 6 // n_heads
    for i in range(n_heads):
        q, k, v = (M[:, :, i * d : (i + 1) * d] for M in (Q, K, V))
        weights = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(d), axis=2)
        np.testing.assert_allclose(layer.weights(h)[:, i].detach(), weights, rtol=0, atol=1e-12)
        heads.append(weights @ v)
    expected = np.concatenate(heads, 2) @ merge.T + shift
    np.testing.assert_allclose(layer(h).detach(), expected, rtol=0, atol=1e-12)


def layer_norm(h, layer):
    scale, shift = (p.detach().numpy() for p in layer.parameters())
    spread = np.sqrt(h.var(-1, keepdims=True) + layer.eps)
    return scale * (h - h.mean(-1, keepdims=True)) / spread + shift


def test_transformer_is_embedding_blocks_norm_and_token():
    encoder = Transformer(
        width=8, n_heads=2, patch_size=4, positions="sinusoidal", pooling="token", mlp_ratio=3
    )
    module = network(encoder, (2, 12))
    x = events(3, 2, 12)
    steps = np.stack([x[:, :, t : t + 4].reshape(3, 8).numpy() for t in range(0, 12, 4)], 1)
    W, b = (p.detach().numpy() for p in module.embedding.linear.parameters())
    h = steps @ W.T + b + sinusoidal_positions(3, 8).numpy()
    token = module.embedding.token.detach().numpy()
    h = np.concatenate([np.broadcast_to(token, (3, 1, 8)), h], 1)
    for block in module.blocks:
        h = (
            h
            + block.attention(torch.from_numpy(layer_norm(h, block.attention_norm)))
            .detach()
            .numpy()
        )
        assert block.mlp[0].out_features == 24
        inner = torch.from_numpy(layer_norm(h, block.mlp_norm))
        h = h + block.mlp(inner).detach().numpy()
    expected = layer_norm(h, module.norm)[:, 0]
    np.testing.assert_allclose(module(x).detach(), expected, rtol=0, atol=1e-12)


def test_blocks_start_as_the_identity_and_learn_at_once():
    torch.manual_seed(0)
    module = Transformer(pooling="mean").build((1, 100))
    x = torch.randn(4, 1, 100)
    embedded = module.norm(module.embedding(x)).mean(1)
    torch.testing.assert_close(module(x), embedded)
    module(x).square().sum().backward()
    for block in module.blocks:
        assert block.attention.merge.weight.grad.any()
        assert block.mlp[-1].weight.grad.any()


def test_only_positions_tell_the_order_of_patches():
    x = events(3, 2, 24)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = x.unflatten(2, (6, 4))[:, :, order].flatten(2)
    options = {"width": 8, "n_heads": 2, "patch_size": 4}
    for pooling in ("mean", "max", "attention", "token"):
        blind = network(Transformer(positions=None, pooling=pooling, **options), (2, 24))
        torch.testing.assert_close(blind(shuffled), blind(x), rtol=0, atol=1e-12)
        for positions in ("sinusoidal", "learned"):
            sees = network(Transformer(positions=positions, pooling=pooling, **options), (2, 24))
            assert (sees(shuffled) - sees(x)).abs().max() > 1e-3
    attention = network(Transformer(positions=None, **options), (2, 24)).attention
    torch.testing.assert_close(attention(shuffled), attention(x)[:, order], rtol=0, atol=1e-12)


def test_attention_of_the_network_is_that_of_its_blocks():
    module = network(Transformer(width=6, n_heads=3, n_layers=2, pooling="token"), (36,))
    x = events(2, 36)
    weights = module.self_attention(x)
    assert weights.shape == (2, 2, 3, 7, 7)  # 6 patches and the token
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    first = module.blocks[0]
    h = module.embedding(x)
    torch.testing.assert_close(
        weights[:, 0], first.attention.weights(first.attention_norm(h)), rtol=0, atol=1e-12
    )
    second = module.blocks[1]
    torch.testing.assert_close(
        weights[:, 1],
        second.attention.weights(second.attention_norm(first(h))),
        rtol=0,
        atol=1e-12,
    )


def test_sinusoidal_positions():
    positions = sinusoidal_positions(50, 7).numpy()
    t = np.arange(50)
    for i in range(4):
        frequency = 10000 ** (-2 * i / 7)
        np.testing.assert_allclose(positions[:, 2 * i], np.sin(t * frequency), atol=1e-13)
        if i < 3:
            np.testing.assert_allclose(positions[:, 2 * i + 1], np.cos(t * frequency), atol=1e-13)
    # A product of two positions depends on their distance alone.
    pairs = sinusoidal_positions(50, 8).numpy()
    products = pairs @ pairs.T
    np.testing.assert_allclose(products[:-5, :-5], products[5:, 5:], atol=1e-12)


def test_pooling_by_attention_is_a_weighted_mean():
    pooling = AttentionPooling(4).double()
    h = events(3, 6, 4)
    torch.testing.assert_close(pooling(h), h.mean(1))  # the query starts at zero
    torch.nn.init.normal_(pooling.query)
    weights = pooling.weights(h)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(pooling(h), (weights[:, :, None] * h).sum(1))
    # States with the same score, whatever else they are, weigh alike.
    with torch.no_grad():
        level = h - (h @ pooling.query)[..., None] * pooling.query / pooling.query.square().sum()
    torch.testing.assert_close(pooling(level), level.mean(1))
    # A score far above the others picks its step.
    level[:, 2] += 1e4 * pooling.query.detach()
    torch.testing.assert_close(pooling(level), level[:, 2])


def test_simple_poolings():
    h = events(3, 6, 4)
    torch.testing.assert_close(sequence_pooling("mean", 4)(h), h.sum(1) / 6)
    assert torch.equal(sequence_pooling("max", 4)(h), h.sort(1).values[:, -1])


@pytest.mark.parametrize("size", [1, 3, 4, 12, 20])
def test_patches_hold_every_sample_in_order(size):
    x = events(2, 3, 12)
    steps = Patches(size)(x)
    n_steps = -(-12 // size)
    assert steps.shape == (2, n_steps, 3 * size)
    signal = steps.unflatten(2, (3, size)).transpose(1, 2).flatten(2)
    assert torch.equal(signal[..., :12], x)
    assert torch.equal(signal[..., 12:], x[..., -1:].expand(2, 3, n_steps * size - 12))


@pytest.mark.parametrize("encoder", EVERY, ids=str)
@pytest.mark.parametrize("patch_size", [None, 4, 40])
def test_every_sample_of_an_incomplete_patch_counts(encoder, patch_size):
    # The maximum looks at some steps only, so there it is one step.
    patch_size = 40 if encoder.pooling == "max" else patch_size
    module = network(clone(encoder).set_params(patch_size=patch_size), (2, 30))
    x = events(3, 2, 30).requires_grad_()
    features = module(x)
    (features * events(*features.shape, seed=5)).sum().backward()
    assert (x.grad != 0).all()


def test_attention_can_be_differentiated_twice():
    module = network(Transformer(width=4, n_heads=2, n_layers=1, patch_size=3), (7,))
    assert torch.autograd.gradgradcheck(module, events(1, 7).requires_grad_())


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (10,), (1, 30), (3, 17), (1, 1000)])
@pytest.mark.parametrize("encoder", EVERY, ids=str)
def test_features_of_signals_of_any_length(encoder, shape):
    module = encoder.build(shape)
    width = 8 if isinstance(encoder, Transformer) else 5 * (1 + encoder.bidirectional)
    assert module(torch.randn(3, *shape)).shape == (3, width)
    assert encoder.channel_axis(shape) == (None if len(shape) == 1 else 0)
    assert module.double()(events(3, *shape)).dtype == torch.float64


@pytest.mark.parametrize("encoder", EVERY, ids=str)
def test_events_do_not_see_each_other_and_gradients_change_no_bit(encoder):
    module = network(encoder, (2, 30))
    x = events(5, 2, 30)
    one_by_one = torch.cat([module(event[None]) for event in x])
    torch.testing.assert_close(module(x), one_by_one, rtol=0, atol=1e-12)
    with torch.inference_mode():
        inferred = module(x)
    assert torch.equal(module(x), inferred)
    assert torch.equal(module.train()(x), inferred)
    # One channel is a signal of one axis.
    torch.manual_seed(0)
    flat = encoder.build((30,)).double()
    torch.manual_seed(0)
    channel = encoder.build((1, 30)).double()
    assert torch.equal(flat(x[:, 0]), channel(x[:, :1]))


def test_dropout_acts_between_layers_and_at_the_end_in_training_only():
    x = events(200, 2, 30)
    for encoder in (
        LSTM(hidden_size=5, n_layers=2, dropout=0.5),
        GRU(hidden_size=5, dropout=0.5),
        Transformer(width=8, dropout=0.5),
    ):
        module = network(encoder, (2, 30))
        assert torch.equal(module(x), module(x))
        plain = network(clone(encoder).set_params(dropout=0.0), (2, 30))
        assert torch.equal(module(x), plain(x))
        share = (module.train()(x) == 0).double().mean()
        n = 200 * module(x).shape[1]
        assert abs(share - 0.5) < 5 * np.sqrt(0.25 / n)


def test_dropout_between_recurrent_layers_reaches_the_second_only():
    module = network(LSTM(hidden_size=5, n_layers=2, dropout=0.5), (30,)).train()
    seen = []
    for layer in module.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    module(events(50, 30))
    assert seen[0].all()
    assert 0.4 < (seen[1] == 0).double().mean() < 0.6


@pytest.mark.parametrize("encoder", EVERY[4:], ids=str)
def test_transformers_are_stacked(encoder):
    members = [network(encoder, (2, 30), seed) for seed in range(3)]
    stack = StackedModule(members, event_ndim=2)
    x = events(4, 2, 30)
    expected = torch.stack([member(x) for member in members])
    torch.testing.assert_close(stack(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("encoder", "shape", "words"),
    [
        (LSTM(), (1, 8, 8), r"LSTM reads events of shape \(L,\) or \(C, L\).*\(1, 8, 8\)"),
        (GRU(), (2, 1, 8, 8), r"GRU reads.*\(2, 1, 8, 8\)"),
        (Transformer(), (1, 8, 8), r"Transformer reads.*\(1, 8, 8\)"),
        (Transformer(width=30), (8,), "'width' parameter.*multiple of n_heads=4. Got 30"),
        (Transformer(positions="rotary"), (8,), "'positions' parameter"),
        (Transformer(pooling="last"), (8,), "'pooling' parameter"),
        (LSTM(pooling="token"), (8,), "'pooling' parameter"),
        (LSTM(patch_size=0), (8,), "'patch_size' parameter"),
        (GRU(hidden_size=0), (8,), "'hidden_size' parameter"),
        (GRU(dropout=1.0), (8,), "'dropout' parameter"),
    ],
)
def test_errors_name_parameter_and_value(encoder, shape, words):
    with pytest.raises(ValueError, match=words):
        encoder.build(shape)


@pytest.mark.parametrize("encoder", [LSTM(), Transformer(pooling="token")], ids=str)
def test_weights_of_steps_need_attention_pooling(encoder):
    with pytest.raises(ValueError, match="pooling='attention'"):
        encoder.build((8,)).attention(torch.zeros(1, 8))


@pytest.mark.parametrize(
    "encoder", [LSTM(pooling="attention"), GRU(), Transformer()], ids=lambda e: type(e).__name__
)
def test_they_learn_when_a_pulse_came(encoder):
    # The sum over the signal is the same whenever the pulse comes: the answer is in the order.
    rng = np.random.default_rng(3)
    start = rng.integers(2, 60, 400)
    X = 0.1 * rng.normal(size=(400, 64))
    X[np.arange(400)[:, None], start[:, None] + np.arange(3)] += 1.0
    y = (start > 31).astype(int)
    model = NeuralClassifier(encoder=encoder, max_epochs=15, batch_size=50, random_state=0)
    assert model.fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.9
