"""Flow matching and diffusion: closed forms of the flow, and what is learnt."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import (
    beta,
    ks_2samp,
    kstest,
    kstwobign,
    kurtosis,
    kurtosistest,
    multivariate_normal,
    norm,
)
from sklearn.base import BaseEstimator
from sklearn.datasets import make_moons
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sknuc.encoders import MLP
from sknuc.nn import ConditionalUNet
from sknuc.samplers import DiffusionSampler, ResidualMLP, UNet
from sknuc.samplers._probability_flow import (
    Gaussian,
    PrincipalComponents,
    _normal_kurtosis,
    log_density,
    n_structured,
    principal_axes,
    solve,
)

SMALL = ResidualMLP(width=32, n_blocks=2)
KINDS = ["flow_matching", "edm"]

# What training may lose against the truth, in nats per dimension.
LOST = 0.02
# Statistical errors count four times; other limits give as many false alarms.
SIGMAS = 4
ALARM = 2 * norm.sf(SIGMAS)
# What a variable that loses so much may be off by at most: a shift by d deviations costs d²/2 nats,
# a width that is wrong by a share e costs e², a probability that is off by p costs 2 p² (Pinsker).
SHIFT, STRETCH, SHARE = np.sqrt(2 * LOST), np.sqrt(LOST), np.sqrt(LOST / 2)


def nats(truth, found):
    """Kullback-Leibler divergence, from the log densities of events of the truth, and its error."""
    difference = truth - found
    return difference.mean(), SIGMAS * difference.std() / np.sqrt(len(difference))


def sampler(**parameters):
    parameters = {"network": SMALL, "max_epochs": 25, "random_state": 0, **parameters}
    return DiffusionSampler(**parameters)


# The equation, with the best possible network for a normal distribution in its place.

MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.0, 0.3], [0.3, 0.2]], dtype=torch.float64)

NORMAL = multivariate_normal(MEAN.numpy(), COVARIANCE.numpy())


def normal_velocity(x, angle):
    """E[cos ε - sin z | x] for z ~ N(MEAN, COVARIANCE), by linear regression."""
    cos, sin = angle.cos(), angle.sin()
    unit = torch.eye(2, dtype=torch.float64)
    of_mixture = torch.linalg.inv(cos**2 * COVARIANCE + sin**2 * unit)
    regression = (cos * sin * unit - sin * cos * COVARIANCE) @ of_mixture
    return -sin * MEAN + (x - cos * MEAN) @ regression.T


def test_velocity_of_mixtures_is_that_of_the_regression():
    rng = np.random.default_rng(0)
    n = 400_000
    z = rng.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy(), size=n)
    noise = rng.standard_normal((n, 2))
    angle = torch.tensor([0.7], dtype=torch.float64)
    cos, sin = math.cos(0.7), math.sin(0.7)
    x, velocity = cos * z + sin * noise, cos * noise - sin * z
    left = velocity - normal_velocity(torch.from_numpy(x), angle).numpy()
    # What is left of the velocity is uncorrelated with the mixture.
    moments = np.column_stack([left, *(left * x[:, [i]] for i in (0, 1))])
    error = moments.std(0) / math.sqrt(n)
    assert (np.abs(moments.mean(0)) < norm.isf(ALARM / 2 / 6) * error).all()


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_mean_and_covariance_of_a_normal_distribution(solver, order):
    # The map is affine: the images of 0 and of unit vectors tell all of it.
    start = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)

    def error(n_steps):
        angles = math.pi / 2 * torch.linspace(1, 0, n_steps + 1, dtype=torch.float64) ** 2
        end = solve(normal_velocity, start, angles, solver)
        factor = end[1:] - end[0]
        return max(
            (end[0] - MEAN).abs().max().item(),
            (factor.T @ factor - COVARIANCE).abs().max().item(),
        )

    errors = [error(n) for n in (50, 100, 200)]
    measured = -np.diff(np.log2(errors))
    # The next term of the error halves with the step, and with it what the order seems off by: it
    # is nearer to the order than to the next one, and nearer to half than to all of what it was.
    off = np.abs(measured - order)
    assert (off < 0.5).all()
    assert off[1] < 0.75 * off[0]


def test_density_of_a_normal_distribution_is_exact():
    model = DiffusionSampler(n_steps=1)
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy(), size=300))
    truth = NORMAL.logpdf(z.numpy())
    probes = torch.eye(2, dtype=torch.float64)[None]
    angles = model._density_angles(z)
    result, coarse = (log_density(normal_velocity, z, a, probes) for a in (angles, angles[::2]))
    # Of fourth order: twice the steps leave a 16th of the error.
    off, twice = (np.abs(found.numpy() - truth).max() for found in (result, coarse))
    # Half-way to those of third order, in powers.
    assert off < twice / 2**3.5


def test_random_probes_estimate_the_divergence_without_bias():
    # Linear and symmetric: the divergence is the trace, and signs have the variance 2 Σ J² / k.
    rng = np.random.default_rng(1)
    jacobian = rng.standard_normal((30, 30))
    jacobian = torch.from_numpy(jacobian + jacobian.T) / 30
    x = torch.zeros(5000, 30, dtype=torch.float64)
    signs = rng.choice([-0.25, 0.25], size=(5000, 16, 30))
    angles = torch.tensor([0.0, 1.0], dtype=torch.float64)
    # At x = 0 events stay where they are, and the normal density is the same for all.
    result = log_density(lambda x, _: x @ jacobian, x, angles, torch.from_numpy(signs)).numpy()
    divergence = result + 15 * math.log(2 * math.pi)
    variance = 2 * (jacobian.square().sum() - jacobian.diagonal().square().sum()).item() / 16
    assert abs(divergence.mean() - jacobian.trace().item()) < 4 * math.sqrt(variance / 5000)
    np.testing.assert_allclose(divergence.var(), variance, rtol=SIGMAS * math.sqrt(2 / 5000))


# The part that is known without learning.


def test_input_and_target_of_the_network_have_unit_variance_at_every_level():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.choice([-1.0, 1.0], size=(100_000, 1)))
    torch.manual_seed(0)
    for angle in (0.02, 0.4, 0.8, 1.2, 1.55):
        angles = torch.full((100_000,), angle, dtype=torch.float64)
        x, velocity = Gaussian(None).mix(z, angles)
        for product, expected in ((x * x, 1), (velocity * velocity, 1), (x * velocity, 0)):
            error = SIGMAS * product.std().item() / math.sqrt(len(z))
            assert product.mean().item() == pytest.approx(expected, abs=error)
        # Karras et al., table 1, for events of unit variance: what they call F is -velocity.
        sigma = math.tan(angle)
        noisy = x / math.cos(angle)
        c_skip, c_out = 1 / (1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        np.testing.assert_allclose(c_skip * noisy - c_out * velocity, z, atol=1e-9)
        np.testing.assert_allclose(noisy / math.sqrt(1 + sigma**2), x, atol=1e-9)


def test_flow_matching_loss_is_the_squared_error_of_the_straight_velocity():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    angle, weight = DiffusionSampler()._levels(t)
    torch.manual_seed(0)
    z, noise, guess = torch.randn(3, 50, dtype=torch.float64)
    x, velocity = angle.cos() * z + angle.sin() * noise, angle.cos() * noise - angle.sin() * z
    # Velocities v of x_t = (1-t) ε + t z: the true one, and the one that belongs to the guess.
    root = (t**2 + (1 - t) ** 2).sqrt()
    torch.testing.assert_close(x * root, (1 - t) * noise + t * z)
    straight = z - noise
    guessed = (angle.cos() - angle.sin()) * x - (angle.cos() + angle.sin()) * guess
    torch.testing.assert_close(weight * (guess - velocity) ** 2, (guessed - straight) ** 2)


def test_noise_levels_of_edm_are_log_normal():
    share = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    angle, weight = DiffusionSampler(kind="edm")._levels(share)
    # P_mean = -1.2 for events of standard deviation 0.5, P_std = 1.2.
    assert kstest((0.5 * angle.tan()).log().numpy(), norm(-1.2, 1.2).cdf).statistic < 1e-3
    assert (weight == 1).all()
    sigma = 0.5 * np.tan(DiffusionSampler(n_steps=18)._angles("edm"))
    i = np.arange(18)
    schedule = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(sigma[:-1], schedule, rtol=1e-9)
    assert sigma[-1] == 0


def test_linear_part_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal(MEAN.numpy(), COVARIANCE.numpy(), size=1000)
    weight = rng.uniform(size=1000)
    mean, scale, axes = principal_axes(X, weight)
    np.testing.assert_allclose(mean, np.average(X, axis=0, weights=weight))
    np.testing.assert_allclose((axes * scale**2) @ axes.T, np.cov(X.T, aweights=weight, ddof=0))
    gaussian = Gaussian((MEAN.numpy(), *_root(COVARIANCE)))
    # A network that says nothing leaves the coordinates where they are ...
    z = torch.from_numpy(X)
    y = gaussian.to_normal(z)
    torch.testing.assert_close(gaussian.from_normal(y), z)
    angle = torch.tensor([0.3], dtype=torch.float64)
    assert (gaussian.in_normal(lambda x, _: torch.zeros_like(x), y, angle) == 0).all()
    # ... and the true density of the normal distribution as it is.
    normal = -(y.square().sum(1) + 2 * math.log(2 * math.pi)) / 2 + gaussian.log_det
    np.testing.assert_allclose(normal, NORMAL.logpdf(X))
    # What is learnt on top of it is what the velocity has beyond its regression.
    angles = torch.full((1000,), 0.3, dtype=torch.float64)
    torch.manual_seed(0)
    x, beyond = gaussian.mix(z, angles)
    torch.manual_seed(0)
    noise = torch.randn_like(z) @ gaussian.axes.T
    velocity = angle.cos() * noise - angle.sin() * z
    torch.testing.assert_close(beyond, velocity - normal_velocity(x, angle))


def _root(covariance):
    variance, axes = np.linalg.eigh(covariance.numpy())
    return np.sqrt(variance), axes


# What is learnt.


@pytest.mark.parametrize(
    ("kind", "wiener"), [("flow_matching", True), ("flow_matching", False), ("edm", True)]
)
def test_correlated_normal_distribution(kind, wiener):
    rng = np.random.default_rng(0)
    X = rng.multivariate_normal([3.0, -2.0], [[4.0, 1.2], [1.2, 1.0]], size=1500)
    model = sampler(kind=kind, wiener=wiener, max_epochs=20).fit(X)
    # No normal law has a greater likelihood than that of their moments.
    mean, covariance = X.mean(0), np.cov(X.T, bias=True)
    lost, error = nats(multivariate_normal(mean, covariance).logpdf(X), model.score_samples(X))
    assert -error < lost < 2 * LOST + error
    # An error E of the covariance, in units of deviations, costs |E|²/4 nats, a shift d²/2.
    lost, n = max(lost, 0), 4000
    events = model.sample(n, random_state=1)
    tolerance = np.sqrt(np.diag(covariance)) * (np.sqrt(2 * lost) + SIGMAS / np.sqrt(n))
    assert (np.abs(events.mean(0) - mean) < tolerance).all()
    variances = np.outer(np.diag(covariance), np.diag(covariance))
    tolerance = np.sqrt(4 * lost * variances)
    tolerance += SIGMAS * np.sqrt((variances + covariance**2) / n)
    assert (np.abs(np.cov(events.T) - covariance) < tolerance).all()


def test_two_moons():
    X, _ = make_moons(3000, noise=0.1, random_state=0)
    test, _ = make_moons(600, noise=0.1, random_state=1)
    model = sampler(network=ResidualMLP(width=64, n_blocks=2), max_epochs=80).fit(X)
    events = model.sample(2000, random_state=0)
    # The density integrates to one but for the mass outside, where no event or few are drawn.
    axes = np.linspace(-2, 3, 46), np.linspace(-1.5, 2, 46)
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    density = np.exp(model.score_samples(grid)) * (5 / 45) * (3.5 / 45)
    chance = kstwobign.isf(ALARM) / np.sqrt(len(events))
    outside = ((events < grid[0]) | (events > grid[-1])).any(1).sum()
    assert abs(density.sum() - 1) < beta.isf(ALARM, outside + 1, len(events) - outside)
    # Events follow the density. Within a step h of the sum, a slope f of it is missed by f h²/8.
    for i, axis in enumerate(axes):
        share = np.array([density[grid[:, i] == x].sum() for x in axis])
        missed = np.abs(np.diff(share)).max() / 8
        below = np.cumsum(share) - share / 2
        found = kstest(events[:, i], lambda x: np.interp(x, axis, below))  # noqa: B023
        assert found.statistic < chance + missed
    # The truth says what the density can be at best.
    phase = np.pi * (np.arange(400) + 0.5) / 400
    upper = np.column_stack([np.cos(phase), np.sin(phase)])
    centres = np.vstack([upper, [1, 0.5] - upper])
    distance2 = ((test[:, None] - centres) ** 2).sum(2)
    truth = np.log((np.exp(-distance2 / 0.02) / (0.02 * np.pi)).mean(1))
    lost, error = nats(truth, model.score_samples(test))
    assert -error < lost < 2 * LOST + error


@pytest.mark.parametrize("kind", KINDS)
def test_conditional_means_and_widths(kind):
    rng = np.random.default_rng(0)
    y = rng.uniform(-1, 1, 4000)
    X = np.column_stack([2 * y + (0.2 + 0.1 * y) * rng.standard_normal(4000), y**2])
    model = sampler(kind=kind, max_epochs=100).fit(X, y)
    for given in (-0.7, 0.0, 0.7):
        events = model.sample(1500, y=given, random_state=0)
        width = 0.2 + 0.1 * given
        # The errors of those drawn, and of a line through those of the fit.
        n = 1 / (1 / 1500 + (1 + 3 * given**2) / 4000)
        assert abs(events[:, 0].mean() - 2 * given) < width * (SHIFT + SIGMAS / np.sqrt(n))
        assert abs(events[:, 0].std() / width - 1) < STRETCH + SIGMAS / np.sqrt(2 * n)
        # Half-way to the mean over all conditions.
        assert abs(events[:, 1].mean() - given**2) < abs(given**2 - 1 / 3) / 2


def guided_mean(strength, known, free):
    """Mean of the guided flow to a normal law from a mixture of two of them in equal shares.

    Each law is a mean and a standard deviation, in units of √2.
    """

    def velocity(x, angle, mean, std):
        variance = (angle.cos() * std) ** 2 + angle.sin() ** 2
        away = x - angle.cos() * mean
        slope = angle.cos() * angle.sin() * (1 - std**2) / variance
        log_density = -(away**2 / variance + variance.log()) / 2
        return slope * away - angle.sin() * mean, log_density

    def guided(x, angle):
        target = velocity(x, angle, *known)[0]
        each, log_density = (
            torch.stack(part)
            for part in zip(*(velocity(x, angle, *law) for law in free), strict=True)
        )
        return target + strength * (target - (log_density.softmax(0) * each).sum(0))

    start = torch.from_numpy(norm.ppf((np.arange(1000) + 0.5) / 1000))[:, None]
    angles = math.pi / 2 * torch.linspace(1, 0, 201, dtype=torch.float64)
    return solve(guided, start, angles, "heun").mean().item()


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_guidance_is_made_of_the_two_outputs_of_the_network(strength):
    # F(x|y) + g [F(x|y) - F(x)], to rounding, whatever the network has learnt.
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), np.arange(40) % 2
    model = sampler(guidance=1.0, max_epochs=40, batch_size=10, learning_rate=0.01)
    model.fit(X + 4 * y[:, None], y)
    model.set_params(guidance=strength)
    module, like = model.module_[1], next(model.module_.parameters())
    noise, different = torch.as_tensor(rng.normal(size=(6, 2))).to(like), []
    condition = torch.eye(2).to(like)[torch.arange(6) % 2]
    shown = torch.cat([condition, torch.ones(6, 1).to(like)], 1)

    def output(x, angle, shown):
        return module.gaussian.in_normal(lambda x, angle: module(x, angle, shown), x, angle)

    def guided(x, angle):
        known, free = output(x, angle, shown), output(x, angle, torch.zeros_like(shown))
        different.append((known - free).abs().max())
        return known + strength * (known - free)

    angles = torch.as_tensor(model._angles("flow_matching")).to(like)
    with torch.no_grad():
        for angle in angles[:-1].split(1):
            expected = guided(noise, angle)
            torch.testing.assert_close(model._field(condition)(noise, angle), expected)
        ends = module.gaussian.from_normal(solve(guided, noise, angles, "heun"))
        torch.testing.assert_close(model._generate(noise, condition), ends)
    assert max(different) > 0.01


def test_guidance_exaggerates_the_class():
    # The formula is tested above, what has been learnt here: by the errors of its events.
    n, m, strength = 1000, math.sqrt(0.5), 2.0
    rng = np.random.default_rng(0)
    y = np.repeat(["signal", "background"], n)
    X = rng.standard_normal((2 * n, 1)) + np.where(y == "signal", 1.0, -1.0)[:, None]
    model = sampler(guidance=strength, max_epochs=100).fit(X, y)
    guided = {c: model.sample(n, y=c, random_state=0) for c in ("signal", "background")}
    plain = model.set_params(guidance=0.0).sample(n, y="signal", random_state=0)
    # Statistical errors of the fit and of what is drawn.
    assert abs(plain.mean() - 1) < SIGMAS * np.sqrt(1 / n + 1 / n)

    def mean(laws):
        known, *free = laws.reshape(3, 2)
        return guided_mean(strength, known, free)

    # The law given the class, and both that are the law without. Each is known by its n events, to
    # σ/√n in the mean and σ/√(2n) in the width, which guidance exaggerates as well.
    laws = np.array([m, m, m, m, -m, m])
    errors = np.diag(np.tile([m / np.sqrt(n), m / np.sqrt(2 * n)], 3))
    shifts = [(mean(laws + error) - mean(laws - error)) / 2 for error in errors]
    for sign, events in zip((1, -1), guided.values(), strict=True):
        tolerance = SIGMAS * np.sqrt(2 * np.square(shifts).sum() + events.var() / n)
        assert sign * events.mean() == pytest.approx(math.sqrt(2) * mean(laws), abs=tolerance)


@pytest.mark.parametrize(("strength", "share"), [(0.01, 0.1), (0.125, 0.1), (2.0, 0.4)])
def test_conditions_are_hidden_as_often_as_guidance_asks(strength, share):
    X = np.random.default_rng(0).normal(size=(20, 1))
    model = sampler(guidance=strength, max_epochs=1).fit(X, np.arange(20) % 2)
    condition = torch.ones(10_000, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = (model._shown(condition, True) == 0).all(1).double().mean().item()
    assert hidden == pytest.approx(share, abs=SIGMAS * np.sqrt(share * (1 - share) / 10_000))
    assert (model._shown(condition, False) == 1).all()
    # From a tenth on, no other share makes the variance of (1 + g) F(x|y) - g F(x) less.
    other = np.linspace(0.1, 0.99, 90)

    def variance(p):
        return (1 + strength) ** 2 / (1 - p) + strength**2 / p

    assert (variance(share) <= variance(other) + 1e-12).all()


def test_guidance_needs_a_fit_with_conditions_that_were_hidden():
    X, y = np.random.default_rng(0).normal(size=(20, 1)), np.arange(20) % 2
    with pytest.raises(ValueError, match="was 0 in fit"):
        sampler(max_epochs=1).fit(X, y).set_params(guidance=1.0).sample(2)
    with pytest.raises(ValueError, match="no conditions to guide by"):
        sampler(guidance=1.0).fit(X)


def test_electronic_noise_far_below_the_signal():
    # Steps of any height under noise of a thousandth: its width and whiteness are kept.
    rng = np.random.default_rng(0)
    n, length = 1500, 32
    height = rng.uniform(1, 3, (n, 1, 1))
    X = height * (np.arange(length) >= 16) + 1e-3 * rng.standard_normal((n, 1, length))
    network = UNet(channels=(8, 16), patch=4, n_heads=0)
    model = sampler(network=network, max_epochs=6).fit(X)
    events = model.sample(300, random_state=0)
    assert events.shape == (300, 1, length)
    baseline, top = events[:, 0, :16], events[:, 0, 16:]
    error = STRETCH + SIGMAS / np.sqrt(2 * 300 * 16)
    np.testing.assert_allclose(baseline.std(), 1e-3, rtol=error)
    # One of 16 degrees of freedom is that of the height.
    around = np.sqrt((top.var(1, ddof=1)).mean())
    np.testing.assert_allclose(around, 1e-3, rtol=STRETCH + SIGMAS / np.sqrt(2 * 300 * 15))
    error = SHIFT + SIGMAS * np.sqrt(1 / 300 + 1 / n)
    assert abs(top.mean() - 2) < error * 2 / np.sqrt(12)


def test_components_that_are_more_than_noise_are_counted():
    rng = np.random.default_rng(0)
    n, length = 4000, 20
    axes = np.linalg.qr(rng.normal(size=(length, length)))[0]
    scale = np.geomspace(10, 0.1, length)
    y = rng.standard_normal((n, length))
    y[:, 0] = np.sqrt(12) * (rng.uniform(size=n) - 0.5)
    y[:, 3] = rng.standard_exponential(n) - 1
    weight = np.ones(n)
    z = (y * scale) @ axes.T
    moments = principal_axes(z, weight)
    assert n_structured(z, moments, weight) == 4
    # Normal noise, too, is no mere noise if a condition tells its sign or its width.
    condition = rng.uniform(-1, 1, (n, 1))
    assert n_structured(z, moments, weight, condition) == 4
    assert n_structured(z, moments, weight, y[:, 7:8] + condition) == 8
    assert n_structured(z, moments, weight, y[:, 9:10] ** 2 + condition) == 10
    noise = rng.standard_normal((n, length))
    assert n_structured(noise, principal_axes(noise, weight), weight) == 1


def test_kurtosis_of_normal_events_is_told_from_that_of_others():
    rng = np.random.default_rng(0)
    for n in (50, 200, 600):
        x = rng.standard_exponential(n)
        found = _normal_kurtosis(kurtosis(x) + 3, n)
        assert found == pytest.approx(kurtosistest(x).statistic, rel=1e-9)
    # Two values that are equally frequent have the least of all.
    assert _normal_kurtosis(1.0, 200) < -5


@pytest.mark.parametrize("n", [200, 300, 400, 600])
@pytest.mark.parametrize("shape", ["uniform", "bimodal"])
def test_few_events_tell_flat_components_from_noise(shape, n):
    length = 40
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = rng.standard_normal((n, length))
        scale = np.append([10.0, 8.0], np.geomspace(2, 1, length - 2))
        noise = y * scale
        flat = rng.uniform(-np.sqrt(3), np.sqrt(3), n)
        if shape == "bimodal":
            flat = (2 * rng.choice([-1, 1], n) + 0.5 * flat) / np.sqrt(4.25)
        y[:, 1] = flat
        z = y * scale
        weight = np.ones(n)
        assert n_structured(z, principal_axes(z, weight), weight) == 2
        assert n_structured(noise, principal_axes(noise, weight), weight) == 1
        few = z[:150, :20]
        assert n_structured(few, principal_axes(few, weight[:150]), weight[:150]) == 20


def test_axes_of_copies_are_those_of_whole_weights():
    rng = np.random.default_rng(0)
    for n in (5, 7, 8, 30):
        z = rng.standard_normal((n, 3))
        copies = principal_axes(np.repeat(z, 2, axis=0), np.ones(2 * n))
        weights = principal_axes(z, np.full(n, 2.0))
        assert (copies is None) == (weights is None) == (2 * n < 15)
        if copies is not None:
            np.testing.assert_allclose(weights[1], copies[1])
    # One event of a large luminosity is one event.
    z = rng.standard_normal((30, 3))
    assert principal_axes(z, np.append(np.full(29, 0.3), 100.7)) is None
    assert principal_axes(z, np.full(30, 0.3)) is not None


def test_components_do_not_depend_on_the_unit_of_the_weights():
    rng = np.random.default_rng(0)
    n, length = 1000, 10
    z = rng.standard_normal((n, length)) * np.geomspace(10, 1, length)
    z[:, 1] = rng.choice([-1, 1], n) * np.geomspace(10, 1, length)[1] + 0.5 * z[:, 1]
    weight = rng.integers(1, 4, n)
    for unit in (1e-6, 1e-3, 1.0, 1e3, 1e6):
        w = unit * weight
        assert n_structured(z, principal_axes(z, w), w) == 2
    # An event of weight 2 is there twice, however much a component stands out.
    twice = np.repeat(np.arange(n), weight)
    found = []
    for share in np.linspace(0, 0.6, 13):
        noise = rng.standard_normal((n, length))
        noise[:, 0] += share * rng.exponential(size=n) ** 2
        z = noise * np.geomspace(10, 1, length)[::-1]
        both = [(z, weight), (z[twice], np.ones(len(twice)))]
        counts = [n_structured(z, principal_axes(z, w), w) for z, w in both]
        assert counts[0] == counts[1]
        found.append(counts[0])
    assert found[0] == 1
    assert max(found) > length / 2


def test_components_count_as_they_stand_out_of_the_noise():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    scale = np.array([0.01, 0.1, 1.0, 10.0])
    gaussian = PrincipalComponents((np.zeros(4), scale, axes), 3)
    # 1, 1 + ln 10 and 1 + ln 100, of mean 1.
    expected = 1 + np.log([100, 10, 1])
    np.testing.assert_allclose(gaussian.importance, expected / expected.mean(), rtol=1e-9)
    flat = PrincipalComponents((np.zeros(4), np.ones(4), axes), 4)
    np.testing.assert_allclose(flat.importance, 1)


def test_times_at_which_components_are_learnt_are_logit_normal():
    share = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    model = DiffusionSampler()
    model._n_learnt = 4
    angle, weight = model._levels(share)
    t = 1 / (1 + angle.tan())
    assert kstest(torch.logit(t).numpy(), norm(2, 1.5).cdf).statistic < 1e-3
    torch.testing.assert_close(weight, 1 / (t**2 + (1 - t) ** 2))
    # The ends that rounding makes have finite angles.
    ends = model._levels(torch.tensor([0.0, 1.0]))[0]
    torch.testing.assert_close(ends, torch.tensor([math.pi / 2, 0.0]))


def test_signals_are_made_of_their_components():
    # Pulses of any height at two places, under noise of a hundredth of them.
    rng = np.random.default_rng(0)
    n, length = 2000, 24
    height, late = rng.uniform(1, 3, (n, 1)), rng.uniform(size=(n, 1)) < 0.5
    place = np.arange(length)
    shape = np.exp(-((place - np.where(late, 14, 8)) ** 2) / 8)
    X = (height * shape + 0.01 * rng.standard_normal((n, length)))[:, None]
    model = sampler(max_epochs=40, batch_size=64).fit(X)
    assert model._n_learnt == 2
    events = model.sample(2000, random_state=0)
    assert events.shape == X.shape
    events = events[:, 0]
    # All that is no pulse is as it was: what is left of pulses there adds to the variance that of
    # a height, which half of them have. Errors are of the fit, and of as many that are drawn.
    left = np.exp(-((place[21:] - 14) ** 2) / 8)
    width = np.sqrt(0.01**2 + left**2 * (13 / 6 - 1))
    np.testing.assert_allclose(events[:, 21:].std(0), width, rtol=SIGMAS * np.sqrt(2 / (2 * n)))
    # The rest is half-way at most from a normal law of the same moments.
    truth, found = X[:, 0, [8, 14]], events[:, [8, 14]]
    normal = np.random.default_rng(1).multivariate_normal(truth.mean(0), np.cov(truth.T), n)
    error = SHARE + SIGMAS * np.sqrt(1 / 4 / n)
    assert found.argmax(1).mean() == pytest.approx(truth.argmax(1).mean(), abs=error)

    def left_over(heights):
        return np.quantile(np.abs(heights.min(1) - np.exp(-36 / 8) * heights.max(1)), 0.9)

    assert left_over(found) < left_over(normal) / 2
    other = ks_2samp(normal.max(1), truth.max(1)).statistic
    assert ks_2samp(found.max(1), truth.max(1)).statistic < other / 2
    gaussian = model.module_[1].gaussian
    z = torch.randn(5, length, dtype=torch.float64)
    torch.testing.assert_close(gaussian.from_normal(gaussian.to_normal(z)), z, atol=1e-4, rtol=1e-4)
    # Atoms and levels keep their places, for which there is the U-Net.
    X[:, 0, :3] = np.where(X[:, 0, :3] > 0.01, X[:, 0, :3], 0)
    assert sampler(network=None, max_epochs=1).fit(X[:200])._n_learnt is None


# Networks.


@pytest.mark.parametrize("shape", [(2, 37), (1, 9, 14), (1, 3, 8, 5)])
def test_unet_keeps_shapes_and_starts_at_zero(shape):
    module = UNet(channels=(8, 16, 24)).build(shape, 3)
    assert isinstance(module, ConditionalUNet)
    x, level, condition = torch.randn(4, *shape), torch.rand(4), torch.randn(4, 3)
    assert (module(x, level, condition) == 0).all()
    # Trained weights: what one event becomes depends on no other, and on level and condition.
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    whole = module(x, level, condition)
    assert whole.shape == x.shape
    torch.testing.assert_close(module(x[1:2], level[1:2], condition[1:2]), whole[1:2])
    one = module(x, level[:1], condition)
    torch.testing.assert_close(one[:1], whole[:1])
    assert not torch.allclose(one[1:], whole[1:])
    assert not torch.allclose(module(x, level, -condition), whole)


class Linear(BaseEstimator):
    def __init__(self, extra=0):
        self.extra = extra

    def build(self, event_shape, n_conditions):
        return _Linear(math.prod(event_shape), math.prod(event_shape) + self.extra)


class _Linear(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)

    def forward(self, x, level, condition=None):
        return self.layer(x)


def test_networks_of_ones_own():
    X = np.random.default_rng(0).standard_normal((300, 3))
    model = sampler(network=Linear(), max_epochs=2).fit(X)
    assert model.sample(5).shape == (5, 3)
    with pytest.raises(ValueError, match=r"Got \(2, 4\) for n=2"):
        sampler(network=Linear(extra=1)).fit(X)
    with pytest.raises(ValueError, match="UNet reads events of shape"):
        sampler(network=UNet()).fit(X)
    with pytest.raises(ValueError, match="odd"):
        UNet(kernel_size=4).build((1, 8), 0)
    with pytest.raises(ValueError, match="divide the channels"):
        UNet(channels=(8, 9)).build((1, 8), 0)


# The contract.


@pytest.fixture(scope="module")
def fitted():
    X, y = make_moons(200, noise=0.1, random_state=0)
    return sampler(max_epochs=5).fit(X, y), X, y


def test_events_do_not_depend_on_blocks(fitted, monkeypatch):
    model, X, y = fitted
    whole, scores = model.sample(100, random_state=3), model.score_samples(X, y)
    monkeypatch.setattr("sknuc.samplers._base._BLOCK_NUMBERS", 17 * model._numbers_per_event())
    monkeypatch.setattr("sknuc.samplers._base._TILE_EVENTS", 16)
    blocks = []
    monkeypatch.setattr(model, "_judge", lambda z, _: blocks.append(len(z)))
    np.testing.assert_allclose(model.sample(100, random_state=3), whole, atol=1e-9)
    np.testing.assert_allclose(model.score_samples(X, y), scores, atol=1e-9)
    assert max(blocks) == 16


def test_pickle_gives_the_same_events(fitted):
    model, X, y = fitted
    again = pickle.loads(pickle.dumps(model))
    events = again.sample(10, random_state=0)
    np.testing.assert_array_equal(events, model.sample(10, random_state=0))
    np.testing.assert_array_equal(
        again.score_samples(X[:5], y[:5]), model.score_samples(X[:5], y[:5])
    )


def test_steps_are_those_of_the_fit_whatever_is_set_afterwards(fitted):
    model, _, _ = fitted
    set_anew = pickle.loads(pickle.dumps(model)).set_params(kind="edm")
    np.testing.assert_array_equal(
        set_anew.sample(10, random_state=0), model.sample(10, random_state=0)
    )


def test_weights_choose_the_events():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-3, 1, (1000, 1)), rng.normal(3, 1, (1000, 1))])
    weight = np.repeat([1.0, 3.0], 1000)
    events = sampler().fit(X, sample_weight=weight).sample(2000, random_state=0)
    assert abs((events > 0).mean() - 0.75) < SIGMAS * np.sqrt(0.75 * 0.25 / 2000)


def test_average_of_the_weights_has_its_width(fitted):
    module = fitted[0].module_[1]
    # Feed the steps 1, 2, ... as weights: the average is their mean under the power law.
    module = pickle.loads(pickle.dumps(module))
    module.n_steps.zero_()
    moments = []
    for power in (1, 2):
        module.n_steps.zero_()
        for step in range(1, 2001):
            for parameter in module.network.parameters():
                parameter.data.fill_(float(step / 2000) ** power)
            module.average_weights()
        moments.append(next(module.average.parameters()).flatten()[0].item())
    # To one of the 200 steps that the width is long.
    np.testing.assert_allclose(math.sqrt(moments[1] - moments[0] ** 2), 0.1, rtol=1 / 200)


def test_pipeline_and_search_by_score(fitted):
    _, X, _ = fitted
    pipeline = make_pipeline(StandardScaler(), sampler(max_epochs=3)).fit(X)
    assert np.isfinite(pipeline.score_samples(X[:5])).all()
    grid = {"ema_width": [0.0, 0.1], "network__width": [8]}
    search = GridSearchCV(sampler(max_epochs=3), grid, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.sample(3).shape == (3, 2)


def test_what_diverged_or_collapsed_is_told(fitted):
    model, _, _ = fitted
    broken = pickle.loads(pickle.dumps(model))
    last = broken.module_[1].average.outward
    nn.init.constant_(last.bias, 1e4)
    with pytest.warns(UserWarning, match="0 are not finite and 50 lie more than 10 times"):
        broken.sample(50, random_state=0)
    nn.init.constant_(last.bias, math.nan)
    with pytest.warns(UserWarning, match="50 are not finite"):
        broken.sample(50, random_state=0)
    # Everything is drawn to the mean: dx/dθ = x, from π/2 down to 0.
    collapsed = pickle.loads(pickle.dumps(model))
    collapsed.module_[1].average = _Shrink()
    with pytest.warns(UserWarning, match="collapsed: 200 events"):
        collapsed.sample(200, random_state=0)


class _Shrink(nn.Module):
    def forward(self, x, level, condition=None):
        return 2 * x


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "ddpm"}, "kind"),
        ({"n_steps": 0}, "n_steps"),
        ({"solver": "rk45"}, "solver"),
        ({"guidance": -1.0}, "guidance"),
        ({"condition_dropout": 1.0}, "condition_dropout"),
        ({"ema_width": 0.3}, "ema_width"),
        ({"network": 3}, "network"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=f"The '{message}' parameter of DiffusionSampler"):
        sampler(**parameters).fit([[0.0], [1.0]])


def test_encoder_is_no_parameter():
    assert not {"encoder", "standardize", "warm_start"} & set(DiffusionSampler().get_params())
    with pytest.raises(TypeError, match="encoder"):
        DiffusionSampler(encoder=MLP())
