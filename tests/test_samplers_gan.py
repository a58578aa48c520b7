"""GAN sampler: losses and penalties of the game, what its networks see, collapse."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sknuc.encoders import CNN, MLP
from sknuc.losses import critic_loss, generator_loss, gradient_penalty
from sknuc.nn import Critic, SpectralNorm
from sknuc.samplers import GANSampler
from sknuc.samplers._collapse import find_collapse
from sknuc.samplers._columns import Columns
from sknuc.samplers._gan import _Meaning, _resample, _White
from sknuc.samplers._probability_flow import principal_axes

pd = pytest.importorskip("pandas")

SMALL = MLP(hidden_layer_sizes=(64, 64), activation="leaky_relu")


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


def spread_singular_values(network):
    """Singular values 5, 5/2, 5/4, ... of all weights.

    A step of the power iteration takes three quarters of the error of the largest one away, twice
    over in its square, and 30 of them all that float64 tells.
    """
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
                values = 5 * 0.5 ** torch.arange(len(s), dtype=s.dtype)
                weight.copy_(((u * values) @ v).reshape(weight.shape))


def test_spectral_norm_bounds_the_slope():
    network = MLP(hidden_layer_sizes=(50, 40)).build((6,)).double()
    spread_singular_values(network)
    norm = SpectralNorm(network)
    for _ in range(30):
        norm(doubles(0, 2, 6))
    norm.eval()
    for name, weight in norm.normalized().items():
        if weight.ndim > 1:
            largest = torch.linalg.matrix_norm(weight.flatten(1), 2).item()
            assert largest == pytest.approx(1, rel=1e-12), name
    a, b = doubles(1, 500, 6), doubles(2, 500, 6)
    stretch = (norm(a) - norm(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert stretch.max() <= 1 + 1e-12
    # Convolutions are matrices from a window to channels.
    network = CNN(channels=(4,), n_blocks=0).build((2, 30)).double()
    spread_singular_values(network)
    norm = SpectralNorm(network)
    for _ in range(30):
        norm(doubles(0, 2, 2, 30))
    kernels = [w.flatten(1) for w in norm.normalized().values() if w.ndim > 1]
    assert torch.linalg.matrix_norm(kernels[0], 2).item() == pytest.approx(1, rel=1e-12)
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
    torch.testing.assert_close(difference, (critic.projection(condition) * x).sum(1))


def wasserstein_distance_of_a_critic(shift, seed):
    """What a critic of 500 steps finds between two normal distributions in the plane."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        critic = Critic(MLP(hidden_layer_sizes=(64, 64)).build((2,)), 64, 0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    direction = torch.tensor([0.6, 0.8])

    def draw(n):
        made, true = (torch.from_numpy(rng.normal(size=(n, 2)).astype(np.float32)) for _ in "ab")
        return true + shift * direction, made

    for _ in range(500):
        true, made = draw(256)
        share = torch.from_numpy(rng.uniform(size=(256, 1)).astype(np.float32))
        between = torch.lerp(made, true, share).requires_grad_()
        loss = critic_loss(critic(true, None), critic(made, None), kind="wasserstein")
        loss = loss + 10 * gradient_penalty(critic(between, None), between, target=1.0)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        true, made = draw(50_000)
        return -critic_loss(critic(true, None), critic(made, None), kind="wasserstein").mean()


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_a_wasserstein_critic_measures_the_shift(shift):
    # The distance of two distributions that differ by a shift is its length W. A critic of slope s
    # finds sW - λ(s - 1)², the most at s = 1 + W/2λ. One training in six ends beside it.
    found = [wasserstein_distance_of_a_critic(shift, seed).item() for seed in range(3)]
    distance = np.median(found)
    slope = 1 + shift / 20
    # The events that tell the distance have unit variance along the shift, on both sides.
    assert abs(distance - shift * slope) < 4 * slope * np.sqrt(2 / 50_000)


# What the networks see.


@pytest.mark.parametrize("keep_places", [False, True])
def test_white_variables(keep_places):
    rng = np.random.default_rng(0)
    z = (
        rng.normal(size=(500, 6)) @ np.diag(10.0 ** (-np.arange(6) / 2)) @ rng.normal(size=(6, 6))
        + 3
    )
    slope = rng.normal(size=(2, 6))
    white = _White(principal_axes(z, np.ones(500)), slope, keep_places=keep_places)
    z = torch.from_numpy(z).reshape(500, 2, 3)
    y = white(z, None)
    covariance = np.cov(y.flatten(1).numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.eye(6), atol=1e-6)
    torch.testing.assert_close(white.inverse(y, None), z, rtol=1e-8, atol=1e-8)
    # What conditions move is taken away.
    condition = doubles(1, 500, 2)
    moved = z + (condition @ torch.from_numpy(slope)).reshape(z.shape)
    torch.testing.assert_close(white(moved, condition), y)
    torch.testing.assert_close(white.inverse(y, condition), moved, rtol=1e-8, atol=1e-8)
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
    class Silent:
        """A decoder that says nothing at first."""

        def build(self, n_inputs, output_shape):
            decoder = nn.Linear(n_inputs, *output_shape)
            nn.init.zeros_(decoder.weight)
            nn.init.zeros_(decoder.bias)
            return decoder

    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 4)) + [1, 2, 3, 4]
    model = GANSampler(
        decoder=Silent(),
        max_epochs=1,
        learning_rate=1e-12,
        critic_learning_rate=1e-12,
        random_state=0,
    ).fit(X)
    n = 20_000
    factor = np.linalg.cholesky(np.cov(X.T, bias=True))
    white = np.linalg.solve(factor, (model.sample(n, random_state=0) - X.mean(0)).T)
    # Statistical errors of means, covariances and variances of unit normal numbers.
    assert np.abs(white.mean(1)).max() < 4 / np.sqrt(n)
    error = np.sqrt((1 + np.eye(4)) / n)
    assert np.abs((np.cov(white) - np.eye(4)) / error).max() < 4
    for row in white:
        assert stats.kstest(row, "norm").pvalue > 1e-4


# What is learnt.


def ring(n, seed):
    """Eight normal distributions of width 0.1 on a circle of radius 2, and which each event is."""
    rng = np.random.default_rng(seed)
    mode = rng.integers(8, size=n)
    X = 2 * np.column_stack([np.cos(np.pi / 4 * mode), np.sin(np.pi / 4 * mode)])
    return (X + 0.1 * rng.normal(size=(n, 2))).astype(np.float32), mode


def near(events):
    """How many events each mode has within three of its standard deviations."""
    angle = np.pi / 4 * np.arange(8)
    modes = 2 * np.column_stack([np.cos(angle), np.sin(angle)])
    return np.count_nonzero(np.linalg.norm(events[:, None] - modes, axis=2) < 0.3, axis=0)


def exceed(many, few):
    """Whether counts differ by more than five of their statistical errors."""
    return np.all(many - few > 5 * np.sqrt(many + few))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "parameters",
    [
        {"loss": "non_saturating"},
        {"loss": "minimax"},
        {"loss": "wasserstein"},
        {"loss": "hinge"},
        {"loss": "hinge", "spectral_norm": True},
    ],
    ids=str,
)
def test_all_modes_of_a_ring_are_found(parameters, seed):
    X, mode = ring(1000, seed)
    model = GANSampler(encoder=SMALL, max_epochs=100, random_state=seed, **parameters).fit(X)
    n = 8000
    drawn = model.sample(n, random_state=seed)
    # A mode is found if there are more events than in the normal distribution of all events, where
    # the generator begins, and which is all that a linear one can make.
    rng = np.random.default_rng(seed)
    normal = rng.multivariate_normal(X.mean(0), np.cov(X.T), n)
    assert exceed(near(drawn), near(normal))
    # And modes are told from each other: not all is what a ring without gaps has there.
    if "spectral_norm" not in parameters:
        angle = rng.uniform(0, 2 * np.pi, n)
        even = 2 * np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * rng.normal(size=(n, 2))
        assert exceed(near(drawn).sum(), near(even).sum())
    # Shares are those of the events it learnt from, as far as so many events know them.
    nearest = np.round(np.arctan2(drawn[:, 1], drawn[:, 0]) * 4 / np.pi).astype(int) % 8
    shares, seen = (np.bincount(of, minlength=8) / len(of) for of in (nearest, mode))
    assert np.abs(shares - seen).max() < 4 * np.sqrt(7 / 64 / len(X))


# Of a game there is no bound to how close it comes. The margin is what a cut may tell: the area
# under its ROC curve, for which 0.65 is the goal of what samplers make of signals and showers.
LARGEST_AREA = 0.65


def assert_alike(drawn, mean, covariance):
    """No cut on a linear combination of the variables tells events from those of a normal law.

    By a shift of d standard deviations the area is Φ(d/√2); by a width that is wrong by a factor r,
    with a cut on the distance from the mean, (2/π) arctan r.
    """
    white = np.linalg.solve(np.linalg.cholesky(covariance), (drawn - mean).T)
    assert stats.norm.cdf(np.linalg.norm(white.mean(1)) / np.sqrt(2)) < LARGEST_AREA
    ratio = np.sqrt(np.linalg.eigvalsh(np.cov(white)))
    assert np.max(2 / np.pi * np.arctan(np.maximum(ratio, 1 / ratio))) < LARGEST_AREA


@pytest.fixture(scope="module")
def conditional():
    """Events of mean y² and width 0.3 + 0.1 y, and as much of another variable."""
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 2, 3000)
    X = np.column_stack([y**2 + (0.3 + 0.1 * y) * rng.normal(size=3000), rng.normal(size=3000)])
    return GANSampler(encoder=SMALL, max_epochs=30, random_state=0).fit(X.astype(np.float32), y)


def test_numbers_move_and_widen_the_distribution(conditional):
    for value in (0.3, 1.0, 1.7):
        drawn = conditional.sample(4000, y=value, random_state=0)
        assert_alike(drawn, [value**2, 0], np.diag([(0.3 + 0.1 * value) ** 2, 1]))


def test_classes_have_their_own_means_covariances_and_shares():
    rng = np.random.default_rng(0)
    kind = rng.choice(["one", "other", "third"], 3000, p=[0.5, 0.3, 0.2])
    means = {"one": (0.0, 0.0), "other": (3.0, 1.0), "third": (-1.0, 4.0)}
    slopes = {"one": 0.8, "other": -0.8, "third": 0.0}
    X = np.array([means[k] for k in kind]) + rng.normal(size=(3000, 2))
    slope = np.array([slopes[k] for k in kind])
    centre = np.array([means[k][0] for k in kind])
    X[:, 1] += slope * (X[:, 0] - centre)
    model = GANSampler(encoder=SMALL, max_epochs=30, random_state=0).fit(X.astype(np.float32), kind)
    for name, mean in means.items():
        slope = slopes[name]
        covariance = [[1, slope], [slope, 1 + slope**2]]
        assert_alike(model.sample(4000, y=name, random_state=0), mean, covariance)
    # Without a class, shares are those of the fit, whose conditions are drawn again.
    drawn = model.sample(8000, random_state=0)
    share, seen = np.mean(drawn[:, 1] > 2.5), np.mean(X[:, 1] > 2.5)
    error = np.sqrt(seen * (1 - seen) * (1 / 3000 + 1 / 8000))
    assert abs(share - seen) < 4 * error


# Both modes become too narrow, which is told; how many events are in each is what counts here.
@pytest.mark.filterwarnings("ignore:The generator has collapsed")
def test_weights_count_events():
    # One class of two is a fifth of the events and weighs as much as the other.
    rng = np.random.default_rng(0)
    right = np.arange(2000) < 400
    X = (np.where(right, 3.0, -3.0)[:, None] + rng.normal(size=(2000, 2))).astype(np.float32)
    weight = np.where(right, 4.0, 1.0)
    model = GANSampler(encoder=SMALL, max_epochs=30, random_state=0).fit(X, sample_weight=weight)
    drawn = model.sample(8000, random_state=0)
    # As far as so many events know it, by Kish's number.
    known = weight.sum() ** 2 / (weight**2).sum()
    assert abs(np.mean(drawn[:, 0] > 0) - 0.5) < 4 * np.sqrt(0.25 / known)
    # Events of weight zero are not there, whatever they are.
    model.set_params(max_epochs=2)
    far = np.vstack([X, np.full((50, 2), 1e6, np.float32)])
    with_far = model.fit(far, sample_weight=np.append(weight, np.zeros(50)))
    with_far = with_far.sample(5, random_state=0)
    without = model.fit(X, sample_weight=weight).sample(5, random_state=0)
    np.testing.assert_allclose(with_far, without, rtol=1e-6)


def test_weight_two_is_an_event_twice_where_nothing_is_drawn():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 3))
    weight = rng.choice([1.0, 2.0], 200)
    model = GANSampler(
        max_epochs=1, learning_rate=1e-12, critic_learning_rate=1e-12, random_state=0
    )
    one = model.fit(X, sample_weight=weight).sample(20, random_state=0)
    other = model.fit(np.repeat(X, weight.astype(int), axis=0)).sample(20, random_state=0)
    np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-7)


def test_zeros_and_counts():
    rng = np.random.default_rng(0)
    hit = rng.uniform(size=3000) < 0.4
    energy = np.where(hit, rng.exponential(3, 3000), 0)
    X = pd.DataFrame({"energy": energy, "hits": rng.poisson(1 + 3 * hit)})
    model = GANSampler(
        encoder=SMALL, bounds={"energy": (0, None)}, max_epochs=30, random_state=0
    ).fit(X)
    drawn = model.sample(8000, random_state=0)
    assert abs(np.mean(drawn[:, 0] == 0) - np.mean(energy == 0)) < 4 * np.sqrt(0.24 / len(X))
    assert drawn[:, 0].min() == 0
    assert np.all(drawn[:, 1] == np.round(drawn[:, 1]))
    # Counts of both kinds of events, and energies, are told from true ones by no cut.
    for there in (False, True):
        own = drawn[(drawn[:, 0] > 0) == there]
        for made, true in ((own[:, 1], X["hits"][hit == there]), (own[:, 0], energy[hit == there])):
            area = stats.mannwhitneyu(made, true).statistic / (len(made) * len(true))
            assert abs(area - 0.5) < LARGEST_AREA - 0.5


# Collapse.


@pytest.mark.parametrize("heaviest", [1.0, 1000.0])
def test_a_collapsed_generator_warns(heaviest):
    X = np.random.default_rng(0).normal(size=(500, 2))
    weight = np.append(np.ones(499), heaviest)
    # A critic that never learns has one favourite event.
    model = GANSampler(
        loss="wasserstein",
        gradient_penalty=0,
        critic_learning_rate=1e-12,
        learning_rate=0.01,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning, match="collapsed or diverged") as caught:
        model.fit(X, sample_weight=weight)
    # The line that it points at is the user's.
    assert caught[0].filename == __file__


def test_events_are_resampled_as_often_as_they_weigh():
    rng = np.random.RandomState(0)
    weight = rng.uniform(1, 3, 400)
    for unit in (1e-9, 1.0, 1e9):
        counts = np.bincount(_resample(unit * weight, 1000, rng), minlength=400)
        expected = 1000 * weight / weight.sum()
        assert counts.sum() == 1000
        assert np.abs(counts - expected).max() < 1
    # Equal events are there once, whatever their order.
    np.testing.assert_array_equal(np.sort(_resample(np.full(300, 0.1), 300, rng)), np.arange(300))
    # No event is more than a fortieth of all, and the others are as often as they weigh.
    weight = np.append(np.ones(500), [1e6, 1e3])
    counts = np.bincount(_resample(weight, 1000, rng), minlength=502)
    np.testing.assert_allclose(counts[500:], 1000 / 40, atol=1)
    np.testing.assert_allclose(counts[:500], 0.95 * 1000 / 500, atol=1)


def test_events_are_judged_by_their_weights(monkeypatch):
    seen = []
    monkeypatch.setattr("sknuc.samplers._gan.find_collapse", lambda *two: seen.append(two))
    heavy = np.arange(4000) < 400
    X = np.where(heavy, 3.0, -3.0)[:, None] + np.random.default_rng(0).normal(size=(4000, 2))
    model = GANSampler(encoder=SMALL, max_epochs=1, batch_size=1000, random_state=0)
    model.fit(X, sample_weight=np.where(heavy, 9.0, 1.0))
    true, made = seen[0]
    assert true.shape == made.shape == (1000, 2)
    # Both kinds weigh as much.
    assert abs(np.mean(true[:, 0] > 0) - 0.5) < 4 * np.sqrt(0.25 / len(true))


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
    # Most events are equal, but for rounding errors.
    equal = np.where(rng.uniform(size=(1000, 1)) < 0.6, true[:1], true)
    assert find_collapse(equal, equal[rng.permutation(1000)] + 1e-8 * alike) is None
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


# The contract.


def test_same_seed_same_bits_in_copies(conditional):
    X = np.random.default_rng(0).normal(size=(60, 3))
    spectral = GANSampler(spectral_norm=True, max_epochs=2, random_state=0).fit(X)
    for model in (conditional, spectral):
        drawn = model.sample(10, random_state=0)
        copied = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copied.sample(10, random_state=0), drawn)
    again = clone(spectral).fit(X)
    np.testing.assert_array_equal(again.sample(10, random_state=0), drawn)
    other = clone(spectral).set_params(random_state=1).fit(X)
    assert not np.allclose(other.sample(10, random_state=0), drawn)


def test_events_are_those_of_the_fit_whatever_is_set_afterwards(conditional):
    drawn = conditional.sample(10, random_state=0)
    set_anew = pickle.loads(pickle.dumps(conditional)).set_params(n_latent=3)
    np.testing.assert_array_equal(set_anew.sample(10, random_state=0), drawn)


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
    assert_alike(drawn, X.mean(0), np.cov(X.T))


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
