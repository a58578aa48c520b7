"""GAN sampler: losses and penalties of the game, what its networks see, collapse."""

import tracemalloc

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sknuc.encoders import CNN, MLP
from sknuc.losses import critic_loss, generator_loss, gradient_penalty
from sknuc.nn import Critic, SpectralNorm
from sknuc.samplers._collapse import find_collapse
from sknuc.samplers._columns import Columns
from sknuc.samplers._gan import GANSampler, _Meaning, _White
from sknuc.samplers._probability_flow import principal_axes

pd = pytest.importorskip("pandas")


def doubles(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# The game.


def test_losses_are_their_formulas():
    true, made = doubles(0, 20), doubles(1, 20)
    p, q = torch.sigmoid(true), torch.sigmoid(made)
    entropy = -p.log() - (1 - q).log()
    expected = {
        "non_saturating": (entropy, -q.log()),
        "minimax": (entropy, (1 - q).log()),
        "wasserstein": (made - true, -made),
        "hinge": ((1 - true).clamp(min=0) + (1 + made).clamp(min=0), -made),
    }
    for kind, (critic, generator) in expected.items():
        torch.testing.assert_close(critic_loss(true, made, kind=kind), critic)
        torch.testing.assert_close(generator_loss(made, kind=kind), generator)


def test_the_best_critic_is_the_log_ratio_of_densities():
    # Of N(1, 1) and N(-1, 1) it is 2x, and the loss there 2 ln 2 minus twice the Jensen-Shannon
    # divergence.
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    one, other = (torch.from_numpy(stats.norm(m).pdf(x)) for m in (1, -1))

    def loss(slope):
        both = critic_loss(slope * x, torch.zeros_like(x), kind="minimax") - np.log(2)
        made = critic_loss(torch.zeros_like(x), slope * x, kind="minimax") - np.log(2)
        return torch.trapezoid(one * both + other * made, x).item()

    middle = (one + other) / 2
    divergence = sum(torch.trapezoid(p * (p / middle).log(), x).item() / 2 for p in (one, other))
    assert loss(2.0) == pytest.approx(2 * np.log(2) - 2 * divergence, rel=1e-6)
    assert loss(2.0) < min(loss(1.9), loss(2.1))


def test_penalty_of_a_linear_critic_is_known():
    slope = doubles(0, 2, 3)
    x = doubles(1, 10, 2, 3).requires_grad_()
    output = (x * slope).flatten(1).sum(1)
    norm = slope.norm()
    for target in (0.0, 1.0):
        penalty = gradient_penalty(output, x, target=target)
        torch.testing.assert_close(penalty, ((norm - target) ** 2).expand(10))
    # Of a square, whose slope is 2x, and the slope of the penalty itself: 8x.
    penalty = gradient_penalty(x.square().flatten(1).sum(1), x)
    torch.testing.assert_close(penalty, 4 * x.square().flatten(1).sum(1))
    (second,) = torch.autograd.grad(penalty.sum(), x)
    torch.testing.assert_close(second, 8 * x)
    # A critic that is flat has no norm to differentiate, and yet a gradient.
    weight = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    gradient_penalty(x.flatten(1) @ weight, x, target=1.0).sum().backward()
    assert torch.isfinite(weight.grad).all()


def test_spectral_norm_bounds_the_slope():
    network = MLP(hidden_layer_sizes=(50, 40)).build((6,)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 5
    norm = SpectralNorm(network)
    for _ in range(200):
        norm(doubles(0, 2, 6))
    norm.eval()
    for name, weight in norm.normalized().items():
        if weight.ndim > 1:
            largest = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
            assert largest == pytest.approx(1, rel=1e-3), name
    a, b = doubles(1, 500, 6), doubles(2, 500, 6)
    stretch = (norm(a) - norm(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert stretch.max() <= 1 + 1e-3
    # Convolutions are matrices from a window to channels.
    norm = SpectralNorm(CNN(channels=(4,), n_blocks=0).build((2, 30)).double())
    for _ in range(200):
        norm(doubles(0, 2, 2, 30))
    kernels = [w.flatten(1) for w in norm.normalized().values() if w.ndim > 1]
    assert torch.linalg.matrix_norm(kernels[0], 2).item() == pytest.approx(1, rel=1e-3)
    # The gradient is that of the quotient: it is orthogonal to the weights' own direction.
    weights = norm.normalized()
    (name, quotient), *_ = ((n, w) for n, w in weights.items() if w.ndim > 1)
    weight = dict(norm.network.named_parameters())[name]
    (gradient,) = torch.autograd.grad((quotient * doubles(3, *quotient.shape)).sum(), weight)
    assert (gradient * weight).sum().abs() < 1e-6 * gradient.norm() * weight.norm()


def test_projection_is_linear_in_the_features():
    critic = Critic(nn.Identity(), 5, 3).double()
    x, condition = doubles(0, 7, 5), doubles(1, 7, 3)
    middle = (critic(x, condition) + critic(-x, condition)) / 2
    torch.testing.assert_close(middle, critic.head.bias.expand(7))
    difference = critic(x, condition) - critic(x, None)
    scale = critic.projection(condition) / np.sqrt(5)
    torch.testing.assert_close(difference, (scale * x).sum(1))


# What the networks see.


@pytest.mark.parametrize("keep_places", [False, True])
def test_white_variables(keep_places):
    rng = np.random.default_rng(0)
    z = (
        rng.normal(size=(500, 6)) @ np.diag(10.0 ** (-np.arange(6) / 2)) @ rng.normal(size=(6, 6))
        + 3
    )
    white = _White(principal_axes(z, np.ones(500)), keep_places=keep_places)
    z = torch.from_numpy(z).reshape(500, 2, 3)
    y = white(z)
    covariance = np.cov(y.flatten(1).numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(6), atol=1e-6)
    torch.testing.assert_close(white.inverse(y), z, rtol=1e-8, atol=1e-8)
    if keep_places:
        torch.testing.assert_close(white.matrix, white.matrix.T)


def test_the_critic_sees_what_events_tell_and_no_more():
    rng = np.random.default_rng(0)
    X = np.column_stack(
        [
            rng.exponential(size=400) * (rng.uniform(size=400) < 0.6),
            rng.uniform(0, 360, 400),
            rng.normal(size=400),
        ]
    )
    columns = Columns(bounds={0: (0, None)}, discrete="auto", atoms="auto", periodic={1: 360.0})
    columns.fit(X, (3,), integer=np.zeros(3, bool))
    meaning = _Meaning(columns).double()
    mark, sine = columns.second[0], columns.second[1]
    z = torch.from_numpy(rng.normal(size=(300, 5)))
    z[:, mark] = torch.where(z[:, mark] > columns.marks[0].inner[0], 4.0, -4.0)
    seen = meaning(z)
    # Where there is no value, the noise in its place is hidden; where there is one, nothing is.
    exists = z[:, mark] > 0
    torch.testing.assert_close(seen[exists, 0], z[exists, 0], rtol=1e-5, atol=1e-5)
    assert seen[~exists, 0].abs().max() < 1e-4
    torch.testing.assert_close(seen[:, mark], 2 * exists.double() - 1, atol=1e-4, rtol=0)
    # An angle, whatever its radius.
    torch.testing.assert_close(seen[:, 1] ** 2 + seen[:, sine] ** 2, torch.ones(300).double())
    angle = torch.atan2(z[:, sine], z[:, 1])
    torch.testing.assert_close(torch.atan2(seen[:, sine], seen[:, 1]), angle)
    torch.testing.assert_close(seen[:, 2], z[:, 2])
    # Events decoded from what is seen are the same.
    np.testing.assert_allclose(columns.decode(seen.numpy()), columns.decode(z.numpy()), rtol=1e-4)


def test_the_average_is_the_recursion():
    X = np.random.default_rng(0).normal(size=(40, 2))
    seen = []

    class Watched(GANSampler):
        def _players(self):
            critic, generator = super()._players()
            move = generator.after_step

            def after_step(module):
                seen.append(module.generator.decoder[0].weight.detach().clone())
                move(module)

            generator.after_step = after_step
            return [critic, generator]

        def _build(self):
            module = super()._build()
            seen.append(module.generator.decoder[0].weight.detach().clone())
            return module

    model = Watched(max_epochs=30, batch_size=10, ema_decay=0.9, n_critic=2, random_state=0).fit(X)
    average, *rest = seen
    assert len(rest) == 60  # every second batch
    for t, weight in enumerate(rest, 1):
        decay = min(0.9, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(model.module_[1].average.decoder[0].weight, average)


def test_at_the_start_events_are_normal_with_the_covariance_of_the_truth():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 4)) + [1, 2, 3, 4]
    model = GANSampler(
        max_epochs=1, learning_rate=1e-12, critic_learning_rate=1e-12, random_state=0
    ).fit(X)
    drawn = model.sample(20_000, random_state=0)
    spread = np.sqrt(np.diag(np.cov(X.T)))
    assert np.abs((drawn.mean(0) - X.mean(0)) / spread).max() < 0.2
    np.testing.assert_allclose(np.corrcoef(drawn.T), np.corrcoef(X.T), atol=0.1)


# Collapse.


def test_collapse_is_told_from_imperfection():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(1000, 6)) @ rng.normal(size=(6, 6))
    alike = rng.normal(size=(1000, 6))
    again = true[rng.permutation(1000)] + 1e-3 * alike
    assert find_collapse(true, again) is None
    # As imperfect as widths that are off by a quarter, or a tenth of the events lost.
    assert find_collapse(true, 1.25 * again) is None
    assert find_collapse(true, 0.75 * again) is None
    kept = again[again[:, 0] > np.quantile(again[:, 0], 0.1)]
    assert find_collapse(true, kept[rng.integers(len(kept), size=1000)]) is None
    # One event, one line, one mode of three, and far away.
    assert "principal axes" in find_collapse(true, np.repeat(again[:1], 1000, axis=0))
    assert find_collapse(true, alike[:, :1] * true[:1]) is not None
    modes = np.repeat(np.eye(3)[:, :2] * 20, 300, axis=0) + rng.normal(size=(900, 2))
    one = modes[rng.integers(300, size=900)] + rng.normal(size=(900, 2)) * 0.1
    assert find_collapse(modes, one) is not None
    assert "times as far" in find_collapse(true, 30 * again)
    assert "finite" in find_collapse(true, np.where(alike > 3, np.nan, alike))
    # Too few to tell.
    assert find_collapse(true[:50], np.zeros((50, 6))) is None


def test_coverage_of_equal_samples_is_the_expected_one():
    rng = np.random.default_rng(0)
    for n_variables in (1, 4, 30):
        two = rng.normal(size=(2, 1000, n_variables))
        assert find_collapse(*two) is None

    # The shared games above are tests that good ones do not: warnings are errors there.


# The contract.


def test_signals_and_images_with_one_s_own_networks():
    class Decoder:
        def build(self, n_inputs, output_shape):
            n = int(np.prod(output_shape))
            return nn.Sequential(nn.Linear(n_inputs, n), nn.Unflatten(1, output_shape))

    X = np.random.default_rng(0).normal(size=(40, 2, 8, 6)).astype(np.float32)
    for parameters in ({}, {"decoder": Decoder()}, {"encoder": CNN(channels=(4,), stride=4)}):
        model = GANSampler(max_epochs=2, random_state=0, **parameters).fit(X)
        drawn = model.sample(3, random_state=0)
        assert drawn.shape == (3, 2, 8, 6)
        assert drawn.dtype == np.float32
    rows = GANSampler(max_epochs=2, random_state=0, input_shape=(2, 8, 6)).fit(X.reshape(40, -1))
    plain = GANSampler(max_epochs=2, random_state=0).fit(X)
    one, other = (model.sample(3, random_state=0) for model in (rows, plain))
    np.testing.assert_array_equal(one, other.reshape(3, -1))


def test_events_of_a_pipeline_come_back_in_its_units():
    X = 1000 + 50 * np.random.default_rng(0).normal(size=(1000, 2))
    model = make_pipeline(StandardScaler(), GANSampler(max_epochs=10, random_state=0)).fit(X)
    drawn = model[:-1].inverse_transform(model[-1].sample(2000, random_state=0))
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=20)
    np.testing.assert_allclose(drawn.std(0), X.std(0), rtol=0.3)


def test_memory_of_sampling_is_bounded():
    X = np.random.default_rng(0).normal(size=(100, 50)).astype(np.float32)
    model = GANSampler(max_epochs=1, random_state=0).fit(X)
    n = 100_000
    tracemalloc.start()
    drawn = model.sample(n, random_state=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Besides the result, some blocks of 16 MiB.
    assert most < drawn.nbytes + 10 * 2**24


def test_there_is_no_density_and_no_early_stopping():
    model = GANSampler()
    assert not hasattr(model, "score_samples")
    assert not hasattr(model, "score")
    assert "early_stopping" not in model.get_params()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"loss": "other"}, "'loss' parameter"),
        ({"gradient_penalty": -1}, "'gradient_penalty' parameter"),
        ({"ema_decay": 1.0}, "'ema_decay' parameter"),
        ({"n_critic": 0}, "'n_critic' parameter"),
        ({"betas": (0.5,)}, "'betas' parameter"),
        ({"betas": (0.5, 1.0)}, "'betas' parameter"),
    ],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        GANSampler(**parameters).fit(np.zeros((10, 2)))
