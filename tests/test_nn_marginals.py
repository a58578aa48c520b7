"""Laws of columns given a condition: normalised, invertible, and normal variables in the end."""

import numpy as np
import pytest
import torch
from scipy import stats

from sknuc.nn import ConditionalMarginals

N_LEVELS, DENSE = np.array([1, 2, 3, 4, 2]), np.array([0, 1, 1, -1, 0])


@pytest.fixture
def module():
    """Five columns: a density, an atom below, between two atoms, levels only, an atom above."""
    torch.manual_seed(0)
    module = ConditionalMarginals(N_LEVELS, DENSE, 2).double()
    with torch.no_grad():
        module.head.bias.normal_(0, 0.5)
    return module


def _events(module, n=2000):
    torch.manual_seed(1)
    z, condition = torch.randn(n, 5, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)
    return z, condition, *module.from_normal(z, condition)


def test_laws_are_normalised(module):
    t = torch.linspace(-30, 30, 48_001, dtype=torch.float64)[:, None].expand(-1, 5)
    condition = torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    total = torch.zeros(5, dtype=torch.float64)
    for level in range(4):
        exists, dense = level < N_LEVELS, level == DENSE
        one = torch.full((1, 5), level).clamp(max=torch.from_numpy(N_LEVELS - 1))
        at = module.log_prob(t[:1], one, condition).exp()[0]
        # In blocks, as each number has its splines.
        density = torch.cat(
            [
                module.log_prob(part, one.expand(len(part), -1), condition.expand(len(part), -1))
                for part in t.split(3000)
            ]
        ).exp()
        integral = torch.trapezoid(density, t, dim=0)
        total += torch.where(torch.from_numpy(dense), integral, at) * torch.from_numpy(exists)
    np.testing.assert_allclose(total.detach(), 1, atol=1e-4)


def test_normal_variables_come_back(module):
    z, condition, t, level = _events(module)
    assert [len(level[:, i].unique()) for i in range(5)] == N_LEVELS.tolist()
    back = module.to_normal(t, level, torch.full_like(t, 0.5), condition)
    dense = (level == torch.from_numpy(DENSE)).numpy()
    np.testing.assert_allclose(back.detach()[dense], z[dense], atol=1e-6)
    # A level is the part of the normal distribution from which it came.
    below, share, _ = module.parts(level, condition, t)
    lower = torch.special.ndtr(z)
    assert ((below <= lower + 1e-12) & (lower <= below + share + 1e-12)).all()
    for uniform in (1e-9, 1 - 1e-9):
        end = module.to_normal(t, level, torch.full_like(t, uniform), condition)
        again = module.from_normal(end, condition)[1]
        assert (again == level)[~dense].all()


def test_density_is_the_slope_of_the_map(module):
    _, condition, t, level = _events(module, 500)
    t.requires_grad_()
    z = module.to_normal(t, level, torch.full_like(t, 0.5), condition)
    (slope,) = torch.autograd.grad(z.sum(), t)
    normal = -(z**2) / 2 - np.log(2 * np.pi) / 2
    dense = level == torch.from_numpy(DENSE)
    found = (normal + slope.log())[dense].detach()
    np.testing.assert_allclose(module.log_prob(t, level, condition)[dense].detach(), found, 1e-6)


def test_energies_above_a_threshold_become_normal_given_the_condition():
    """An exponential energy below a threshold reads zero; both depend on the condition."""
    rng = np.random.default_rng(0)

    def events(n):
        y = rng.uniform(-1, 1, (n, 1))
        energy = rng.exponential(np.exp(y))
        hit = energy > np.exp(-y) / 2
        t = np.where(hit, np.log(energy), 0)
        return (torch.from_numpy(part).float() for part in (t, y)), torch.from_numpy(hit).long()

    torch.manual_seed(0)
    module = ConditionalMarginals(np.array([2]), np.array([1]), 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    (t, y), level = events(20_000)
    steps = 600
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows = torch.randint(len(t), (500,))
        loss = -module.log_prob(t[rows], level[rows], y[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    (t, y), level = events(20_000)
    with torch.no_grad():
        z = module.to_normal(t, level, torch.rand_like(t), y)[:, 0].numpy()
        share = module.parts(torch.ones_like(level), y, t)[1][:, 0].numpy()
    y = y[:, 0].numpy()
    for low in (-1.0, -0.5, 0.0, 0.5):
        part = (y >= low) & (y < low + 0.5)
        # Far from normal would be a p-value of 1e-4, were the laws exact; the quarter of as many
        # events that taught them brings as much again.
        assert stats.kstest(z[part], "norm").statistic < 2 * stats.kstwo.isf(1e-4, part.sum())
    # P(energy > threshold), by hand, and four errors of a quarter of the events.
    error = 4 * np.sqrt(0.25 / (len(y) / 4))
    np.testing.assert_allclose(share, np.exp(-np.exp(-2 * y) / 2), atol=error)
