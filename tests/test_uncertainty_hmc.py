"""Samplers against distributions that are known."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import solve_discrete_lyapunov
from torch import nn

from sknuc.metrics import effective_sample_size, r_hat
from sknuc.nn import stack
from sknuc.uncertainty import _posterior, _sghmc
from sknuc.uncertainty._hmc import HMC, DualAveraging, leapfrog
from sknuc.uncertainty._posterior import (
    Gaussian,
    LayerPrior,
    Posterior,
    StackedNetwork,
    diagonal_curvature,
    largest_curvature,
)
from sknuc.uncertainty._sghmc import SGHMC, epoch_noise, memory_friction, stable_step

SHORT = {"n_warmup": 150, "n_samples": 500, "n_leapfrog": 6}


def gaussian(precision):
    def function(position):
        gradient = -position @ precision
        return 0.5 * (position * gradient).sum(1), gradient

    return function


def banana(position):
    """A density that is no Gaussian."""
    x, y = position.T
    log_density = -0.5 * x**2 - 0.5 * (y - x**2) ** 2
    return log_density, torch.stack([-x + 2 * x * (y - x**2), -(y - x**2)], 1)


def sample(function, position, *, n_warmup=300, n_samples=1000, n_leapfrog=10, seed=0):
    walk = HMC(
        function,
        inverse_mass=torch.ones_like(position),
        n_warmup=n_warmup,
        n_leapfrog=n_leapfrog,
        target_accept=0.8,
        generator=torch.Generator().manual_seed(seed),
        rng=np.random.RandomState(seed),
    )
    draws = []
    for i in range(n_warmup + n_samples):
        position = walk.step(position)
        if i >= n_warmup:
            draws.append(position)
    return walk, torch.stack(draws, 1).numpy()


def assert_means(values, expected):
    """Means of chains (c, n, ...) are as expected, within four standard errors."""
    values = values.reshape(*values.shape[:2], -1)
    error = values.std((0, 1)) / np.sqrt(effective_sample_size(values, kind="mean"))
    assert np.all(np.abs(values.mean((0, 1)) - np.ravel(expected)) < 4 * error)


def start(n=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    position, momentum = (torch.randn(n, 2, generator=generator, dtype=dtype) for _ in range(2))
    mass = torch.tensor([[0.5, 2.0]], dtype=dtype).expand(n, 2)
    return position, momentum, mass


def test_leapfrog_is_reversible():
    position, momentum, inverse_mass = start()
    step = torch.full((3,), 0.1, dtype=torch.float64)
    _, gradient = banana(position)
    q, p, _, gradient = leapfrog(banana, position, momentum, gradient, step, 50, inverse_mass)
    assert not torch.allclose(q, position)
    q, p, _, _ = leapfrog(banana, q, -p, gradient, step, 50, inverse_mass)
    torch.testing.assert_close(q, position, rtol=0, atol=1e-10)
    torch.testing.assert_close(p, -momentum, rtol=0, atol=1e-10)


def test_leapfrog_keeps_the_volume():
    position, momentum, inverse_mass = start(1)
    step = torch.full((1,), 0.2, dtype=torch.float64)

    def end(state):
        q, p = state[None, :2], state[None, 2:]
        q, p, _, _ = leapfrog(banana, q, p, banana(q)[1], step, 7, inverse_mass)
        return torch.cat([q[0], p[0]])

    jacobian = torch.autograd.functional.jacobian(end, torch.cat([position[0], momentum[0]]))
    assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-10)


def test_error_of_the_energy_is_of_second_order():
    position, momentum, inverse_mass = start()
    log_density, gradient = banana(position)
    kinetic = (momentum**2 * inverse_mass).sum(1) / 2
    errors = []
    for n_steps in (20, 40, 80, 160):
        step = torch.full((3,), 1.0 / n_steps, dtype=torch.float64)
        _, p, end, _ = leapfrog(banana, position, momentum, gradient, step, n_steps, inverse_mass)
        change = end - (p**2 * inverse_mass).sum(1) / 2 - (log_density - kinetic)
        errors.append(change.abs().mean().item())
    slope = np.polyfit(np.log([20, 40, 80, 160]), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)


def test_dual_averaging_finds_the_step_size():
    # Acceptance as that of a Gaussian in many dimensions, 2Φ(-ε²), plus noise.
    rng = np.random.default_rng(0)
    averaging = DualAveraging(torch.tensor([0.01, 10.0], dtype=torch.float64), 0.8)
    step = averaging.average
    for _ in range(3000):
        mean = 2 * stats.norm.cdf(-(step.numpy() ** 2))
        noisy = np.clip(mean + 0.2 * rng.uniform(-1, 1, 2) * np.minimum(mean, 1 - mean), 0, 1)
        step = averaging.update(torch.from_numpy(noisy))
    reached = 2 * stats.norm.cdf(-(averaging.average.numpy() ** 2))
    np.testing.assert_allclose(reached, 0.8, atol=0.02)


def test_draws_of_a_correlated_gaussian_of_many_scales():
    root = np.random.default_rng(0).normal(size=(4, 4)) * [0.01, 1, 10, 1]
    covariance = root.T @ root
    precision = torch.from_numpy(np.linalg.inv(covariance))
    walk, draws = sample(gaussian(precision), torch.zeros(4, 4, dtype=torch.float64), n_leapfrog=25)
    assert r_hat(draws).max() < 1.02
    assert walk.n_divergences.sum() == 0
    assert_means(draws, np.zeros(4))
    assert_means(draws[..., :, None] * draws[..., None, :], covariance)


def test_draws_of_a_density_that_is_no_gaussian():
    _, draws = sample(banana, torch.zeros(4, 2, dtype=torch.float64))
    x, y = draws[..., 0], draws[..., 1]
    assert_means(np.stack([x, x**2, y, y - x**2, (y - x**2) ** 2], 2), [0, 1, 1, 0, 1])


def test_each_chain_finds_the_mass_of_its_own_coordinates():
    precision = torch.diag(torch.tensor([1.0, 100.0, 1e4], dtype=torch.float64))
    walk, _ = sample(
        gaussian(precision), torch.zeros(4, 3, dtype=torch.float64), n_warmup=400, n_samples=4
    )
    found = (walk.inverse_mass * precision.diagonal()).numpy()
    assert np.abs(np.log(found / found.mean(1, keepdims=True))).max() < np.log(2)


# Posteriors of networks.


def linear(n_inputs, c, bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(n_inputs, 1, bias=bias)).to(dtype)
    return module, StackedNetwork(stack([module] * c, event_ndim=1))


@pytest.fixture(autouse=True)
def _own_generator():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.mark.parametrize("learned", [False, True])
def test_gradient_of_the_posterior(learned, monkeypatch):
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 2)).double()
    network = StackedNetwork(stack([module] * 2, event_ndim=1))
    prior = LayerPrior(module, None if learned else 0.7)
    x, y, w = torch.randn(5, 2).double(), torch.randn(5, 2).double(), torch.rand(5).double()
    posterior = Posterior(network, prior, Gaussian(), x, y, w, np.random.RandomState(0))
    theta = network.parameters() + 0.1 * torch.randn(2, network.parameters().shape[1]).double()

    def given_noise(theta):
        z = (y - network(theta, x)) / posterior.noise[:, None]
        log_likelihood = -(z**2 / 2).sum(2) - posterior.noise.log().sum(1, keepdim=True)
        return (w * log_likelihood).sum() + prior.marginal(theta)[0].sum()

    def integrated(theta):
        squares = (w[:, None] * (y - network(theta, x)) ** 2).sum(1)
        like = posterior.likelihood
        total = like.degrees * like.typical**2 + squares
        log_likelihood = -0.5 * (like.degrees + w.sum()) * total.log()
        return log_likelihood.sum() + prior.marginal(theta)[0].sum()

    # In one block, and in blocks of two events.
    for block in (4096, 2):
        monkeypatch.setattr(_posterior, "_BLOCK", block)
        for noise, density in ((None, integrated), (0.5 + torch.rand(2, 2).double(), given_noise)):
            posterior.noise = noise
            value, gradient = posterior(theta)
            expected = torch.autograd.functional.jacobian(density, theta)
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
            # The difference of two chains: constants are the same for both.
            constant = 0 if noise is None else -5 * 2 * np.log(2 * np.pi) / 2 * w.mean().item()
            found = value.sum().item() - 2 * constant
            assert found == pytest.approx(density(theta).item(), rel=1e-9)


def test_noise_integrated_out_is_the_integral():
    like = Gaussian()
    squares, n = torch.tensor([[0.7], [3.0]]).double(), 6.5
    log_sigma = np.linspace(np.log(1e-3), np.log(1e3), 20_001)
    chi2 = like.degrees * like.typical**2 * np.exp(-2 * log_sigma)
    log_prior = stats.chi2.logpdf(chi2, like.degrees) + np.log(chi2)
    integrals = [
        np.trapezoid(np.exp(log_prior - n * log_sigma - s / 2 * np.exp(-2 * log_sigma)), log_sigma)
        for s in squares[:, 0].tolist()
    ]
    found = like.marginal(squares, n)
    assert (found[0] - found[1]).item() == pytest.approx(np.log(integrals[0] / integrals[1]))


def test_scales_integrated_out_are_the_integral():
    module, _ = linear(3, 1)
    prior = LayerPrior(module, None)
    theta = torch.tensor([[0.3, -1.0, 0.2, 0.5]], dtype=torch.float64)
    s = np.geomspace(1e-3, 1e3, 20_001)
    density = np.ones_like(s)
    result = 0.0
    for part, fan_in in ((theta[0, :3].numpy(), 3), (theta[0, 3:].numpy(), 1)):
        # s² = ντ²/χ²_ν, in the measure d log s.
        chi2 = prior.degrees * prior.typical**2 / s**2
        density = stats.chi2.pdf(chi2, prior.degrees) * 2 * chi2
        likelihood = stats.norm.pdf(part[:, None], 0, s / np.sqrt(fan_in)).prod(0)
        result += np.log(np.trapezoid(density * likelihood, np.log(s)))
    assert prior.marginal(theta)[0].item() == pytest.approx(result, rel=1e-8)


def test_without_data_the_draws_are_those_of_the_prior():
    module, network = linear(3, 4)
    prior = LayerPrior(module, None)
    x, y = torch.ones(1, 3).double(), torch.zeros(1, 1).double()
    posterior = Posterior(
        network, prior, Gaussian(), x, y, torch.zeros(1).double(), np.random.RandomState(0)
    )
    posterior.noise = torch.ones(4, 1).double()
    _, draws = sample(posterior, torch.zeros(4, 4, dtype=torch.float64), **SHORT)
    squares = np.stack([3 * (draws[..., :3] ** 2).mean(2), draws[..., 3] ** 2], 2)
    # Means of squares of normal numbers with a scale from an inverse χ² follow Fisher's F.
    share = np.stack([stats.f(n, prior.degrees).cdf(squares[..., k]) for k, n in ((0, 3), (1, 1))])
    share = share.transpose(1, 2, 0)
    assert_means(np.concatenate([share, (share - 0.5) ** 2], 2), [0.5, 0.5, 1 / 12, 1 / 12])


def test_learned_scales_against_quadrature():
    module, network = linear(8, 4, bias=False)
    prior = LayerPrior(module, None)
    y = torch.tensor([0.3, -0.8, 1.1, 0.1, -0.4, 0.6, -1.5, 0.2]).double()[:, None]
    posterior = Posterior(
        network, prior, Gaussian(), torch.eye(8).double(), y, None, np.random.RandomState(0)
    )
    posterior.noise = torch.full((4, 1), 0.5).double()
    _, draws = sample(posterior, torch.zeros(4, 8, dtype=torch.float64), **SHORT)
    rng = np.random.RandomState(1)
    scales = prior.draw_scales(torch.from_numpy(draws.reshape(-1, 8)), rng).numpy()
    log_scales = np.log(scales).reshape(4, -1, 1)

    s = np.geomspace(1e-2, 1e2, 5001)
    chi2 = prior.degrees * prior.typical**2 / s**2
    weight = stats.chi2.pdf(chi2, prior.degrees) * chi2
    weight *= stats.norm.pdf(y.numpy(), 0, np.sqrt(0.25 + s**2 / 8)).prod(0)
    weight /= weight.sum()
    expected = [weight @ np.log(s), weight @ np.log(s) ** 2]
    assert_means(np.concatenate([log_scales, log_scales**2], 2), expected)


def test_noise_is_drawn_from_its_conditional_distribution():
    _, network = linear(1, 4)
    module, _ = linear(1, 1)
    x = torch.linspace(-1, 1, 7).double()[:, None]
    weight = torch.tensor([1, 1, 2, 0, 1, 1, 0.5]).double()
    posterior = Posterior(
        network, LayerPrior(module, 1.0), Gaussian(), x, x**2, weight, np.random.RandomState(0)
    )
    theta = torch.zeros(4, 2).double()
    draws = []
    for _ in range(2000):
        draws.append(posterior.draw_noise(theta)[:, 0])
    like = Gaussian()
    squares = (weight[:, None] * x**4).sum().item() + like.degrees * like.typical**2
    chi2 = squares / torch.stack(draws).numpy().ravel() ** 2
    assert stats.kstest(chi2, stats.chi2(like.degrees + 6.5).cdf).pvalue > 1e-3


def test_curvature_is_the_sum_of_squared_gradients():
    _, network = linear(3, 2, bias=False)
    torch.manual_seed(3)
    x, y = torch.randn(50, 3).double(), torch.randn(50, 1).double()
    noise = torch.tensor([[1.0], [2.0]]).double()
    theta = torch.zeros(2, 3).double()
    found = diagonal_curvature(
        network, Gaussian(), theta, noise, x, y, None, torch.Generator().manual_seed(0), 4000
    )
    exact = ((x * y) ** 2).sum(0) / noise**4
    exact = (exact + exact.mean(1, keepdim=True)) / 2
    # A probe's square has a spread of √2 of its mean.
    torch.testing.assert_close(found, exact, rtol=4 * np.sqrt(2 / 4000), atol=0)


# Stochastic-gradient Hamiltonian Monte Carlo.


def stationary(lr, k, friction, temperature, inverse_mass):
    """Covariance of (θ, v) of the recursion for a potential kθ²/2, exactly."""
    step = lr * inverse_mass
    matrix = np.array([[1 - step * k, 1 - friction], [-step * k, 1 - friction]])
    noise = 2 * friction * step * temperature * np.ones((2, 2))
    return solve_discrete_lyapunov(matrix, noise)


def test_sghmc_samples_a_gaussian_up_to_its_step_size():
    k, friction, temperature, inverse_mass = 4.0, 0.3, 0.01, 0.5
    theta = nn.Parameter(torch.zeros(40_000, dtype=torch.float64))
    optimizer = SGHMC(
        [theta],
        0.1,
        inverse_mass=[torch.full_like(theta, inverse_mass)],
        friction=friction,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
    )
    for _ in range(150):
        theta.grad = k * theta.detach()
        optimizer.step()
    exact = stationary(0.1, k, friction, temperature, inverse_mass)[0, 0]
    found = theta.detach().var().item()
    assert found == pytest.approx(exact, rel=4 * np.sqrt(2 / len(theta)))
    bias = [
        stationary(lr, k, friction, temperature, inverse_mass)[0, 0] * k / temperature - 1
        for lr in (0.1, 0.05, 0.025)
    ]
    assert abs(bias[0]) < 0.1
    np.testing.assert_allclose([bias[0] / bias[1], bias[1] / bias[2]], 2, rtol=0.1)


def test_noise_of_batches_is_taken_off():
    # 4,000 independent means of 200 events, each with the posterior N(mean, 1/200).
    rng = np.random.default_rng(0)
    n, n_batches, step_size, friction = 200, 10, 0.04, 0.2
    x = torch.from_numpy(rng.normal(size=(n, 4000)))
    x = (x - x.mean(0)) / x.std(0, correction=0)

    def variance(batch_noise):
        theta = nn.Parameter(torch.zeros(4000, dtype=torch.float64))
        optimizer = SGHMC(
            [theta],
            step_size,
            inverse_mass=[torch.ones_like(theta)],
            friction=friction,
            temperature=1 / n,
            generator=torch.Generator().manual_seed(0),
            batch_noise=batch_noise,
        )
        squares = []
        for epoch in range(60):
            for rows in rng.permutation(n).reshape(n_batches, -1):
                theta.grad = theta.detach() - x[rows].mean(0)
                optimizer.step()
                if epoch >= 10:
                    squares.append(n * theta.detach().square().mean().item())
        return np.mean(squares)

    exact = n * stationary(step_size, 1.0, friction, 1 / n, 1.0)[0, 0]
    # 500 steps of a motion that forgets within some ten, in 4,000 dimensions.
    error = 4 * np.sqrt(2 / 4000 / 50)
    noise = epoch_noise(n_batches, step_size, friction) / n
    heat = step_size * noise / (2 * friction / n)
    assert heat > 0.2
    assert variance(noise) == pytest.approx(exact, rel=error)
    assert variance(0.0) == pytest.approx(exact * (1 + heat), rel=error)


@pytest.mark.parametrize(("step_size", "friction"), [(0.1, 0.1), (0.02, 0.5)])
def test_noise_of_epochs_is_what_a_chain_makes_of_it(step_size, friction):
    k, rng = 8, np.random.default_rng(0)
    epochs = rng.normal(size=(60, k, 20_000))
    # Batches of an epoch add up to all events. A batch of b = n/k has the variance 1/b of an event.
    force = (epochs - epochs.mean(1, keepdims=True)).reshape(-1, 20_000) * np.sqrt(k)
    theta = velocity = np.zeros(20_000)
    squares = []
    for i, now in enumerate(force):
        velocity = (1 - friction) * velocity - step_size * (theta + now)
        theta = theta + velocity
        if i >= 25 * k:
            squares.append(np.mean(theta**2))
    step = np.array([[1 - step_size, 1 - friction], [-step_size, 1 - friction]])
    white = solve_discrete_lyapunov(step, step_size**2 * np.ones((2, 2)))[0, 0]
    found = np.mean(squares) / white
    # Some 280 steps of a motion that forgets within thirty.
    error = 4 * np.sqrt(2 / 20_000 / 9)
    assert epoch_noise(k, step_size, friction) == pytest.approx(found, rel=error)


@pytest.mark.parametrize(("k", "step_size"), [(2, 0.01), (4, 0.1), (10, 0.01), (30, 0.02)])
def test_friction_of_what_batches_remember_is_that_of_a_chain(k, step_size):
    rng, total, omega = np.random.default_rng(0), 1000, np.sqrt(step_size)
    theta = rng.normal(size=20_000)
    velocity = omega * rng.normal(size=20_000)
    squares = np.ones((k, 20_000))
    energies = []
    n_steps = int(8 * np.pi / omega)
    for i in range(3 * k + n_steps + 1):
        if i in (3 * k, 3 * k + n_steps):
            # What these steps keep but for terms of higher order.
            kept = velocity**2 + step_size * theta**2 - step_size * theta * velocity
            energies.append(kept.mean())
        squares[i % k] = theta**2
        force = theta / (1 + (squares.mean(0) - 1) / total)
        velocity = velocity - step_size * force
        theta = theta + velocity
    found = -np.log(energies[1] / energies[0]) / n_steps
    # To first order in ω, and 20,000 chains of which the largest swings decide.
    exact = np.sin((k - 1) * omega) * np.sin(k * omega) / (k * total)
    assert found == pytest.approx(exact, rel=omega**2 + 5 * np.sqrt(8 / 20_000))
    assert memory_friction(k, step_size, total) >= exact
    # Of all directions, those of less curvature swing more slowly.
    slower = np.linspace(0, omega, 100_001)
    worst = (np.sin((k - 1) * slower) * np.sin(k * slower)).max() / (k * total)
    assert memory_friction(k, step_size, total) == pytest.approx(worst, rel=1e-5)


@pytest.mark.parametrize("total", [3.0, 100.0, np.inf])
@pytest.mark.parametrize("n_batches", [1, 2, 10, 1000])
def test_batches_bring_a_fifth_of_the_heat_and_a_tenth_of_the_friction_at_most(n_batches, total):
    def shares(step):
        heat = step * epoch_noise(n_batches, step, friction) * 2.0 / (2 * friction)
        return heat / 0.2, memory_friction(n_batches, step, total) / (friction / 10)

    for friction in (0.01, 0.1):
        step = stable_step(0.1, friction, n_batches, 2.0, total)
        assert max(shares(step)) <= 1
        # No longer step would do, but for the tenth that they are tried in.
        assert step == 0.1 or max(shares(step / 0.9)) > 1


def test_integrals_are_left_for_steps_that_may_do(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return epoch_noise(*args)

    monkeypatch.setattr(_sghmc, "epoch_noise", counted)
    # Weights so light that what is remembered decides, some 200 steps below the first.
    step = stable_step(0.1, 0.03, 100, 1e-6, 1e-6)
    assert step < 1e-9
    assert len(calls) == 1


def test_largest_curvature_is_the_largest_eigenvalue():
    torch.manual_seed(0)
    roots = torch.randn(2, 30, 30).double()
    hessian = roots @ roots.mT + torch.eye(30)
    inverse_mass = 1 / hessian.diagonal(dim1=1, dim2=2)

    def posterior(theta):
        return None, -(hessian @ theta[..., None])[..., 0]

    found = largest_curvature(
        posterior, torch.randn(2, 30).double(), inverse_mass, torch.Generator().manual_seed(0), 200
    )
    root = inverse_mass.sqrt()
    exact = torch.linalg.eigvalsh(root[:, :, None] * hessian * root[:, None]).max().item()
    assert found == pytest.approx(exact, rel=1e-3)


def test_cycles_of_the_step_size():
    seen = []
    theta = nn.Parameter(torch.zeros(1))
    optimizer = SGHMC(
        [theta],
        1.0,
        inverse_mass=[torch.ones(1)],
        friction=1.0,
        temperature=0.0,
        generator=torch.Generator().manual_seed(0),
        cycle=4,
        after_step=lambda k, share: seen.append((k, share)),
    )
    steps = []
    for _ in range(8):
        before = theta.item()
        theta.grad = torch.full((1,), -1.0)
        optimizer.step()
        steps.append(theta.item() - before)
    expected = (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(steps, [*expected, *expected], rtol=1e-5)
    assert seen == [(k + 1, (k % 4 + 1) / 4) for k in range(8)]
