"""Contrastive losses: references in numpy, limits, and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import norm

from sknuc import losses

N = 7


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def reference_info_nce(scores, within=None, weight=None):
    """One event after the other."""
    n = len(scores)
    weight = np.ones(n) if weight is None else weight
    values = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        terms = [scores[i, i], *(np.log(weight[j]) + scores[i, j] for j in others)]
        if within is not None:
            terms += [np.log(weight[j]) + within[i, j] for j in others]
        values.append(logsumexp(terms) - scores[i, i])
    return np.array(values)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("two_sides", [False, True])
def test_info_nce_is_the_sum_over_others(rng, weighted, two_sides):
    scores, within = rng.normal(size=(2, N, N))
    weight = rng.uniform(0.1, 3, N) if weighted else None
    within = within if two_sides else None
    given = {
        name: None if value is None else torch.tensor(value)
        for name, value in {"within": within, "weight": weight}.items()
    }
    found = losses.info_nce(torch.tensor(scores), **given)
    np.testing.assert_allclose(found, reference_info_nce(scores, within, weight), rtol=1e-12)


def test_info_nce_between_knowing_nothing_and_all():
    zero = torch.zeros(N, N, dtype=torch.float64)
    np.testing.assert_allclose(losses.info_nce(zero), math.log(N), rtol=1e-14)
    np.testing.assert_allclose(losses.info_nce(zero, within=zero), math.log(2 * N - 1), rtol=1e-14)
    sure = 100 * torch.eye(N, dtype=torch.float64)
    np.testing.assert_allclose(losses.info_nce(sure), 0, atol=1e-12)
    # A bound of the mutual information that never exceeds ln n.
    assert (math.log(N) - losses.info_nce(1e4 * sure) <= math.log(N)).all()


def test_info_nce_weight_is_multiplicity_among_the_negatives_of_others(rng):
    scores = rng.normal(size=(N, N))
    weight = np.ones(N)
    weight[2] = 3
    found = losses.info_nce(torch.tensor(scores), weight=torch.tensor(weight))
    # Three copies of a column; those of the event itself are no negatives of it.
    columns = np.r_[np.arange(N), 2, 2]
    for i in range(N):
        kept = columns if i != 2 else np.arange(N)
        expected = logsumexp(scores[i, kept]) - scores[i, i]
        assert found[i].item() == pytest.approx(expected, rel=1e-12)


def test_nt_xent_of_two_views(rng):
    a, b = rng.normal(size=(2, N, 3))
    weight = rng.uniform(0.5, 2, N)
    found = losses.nt_xent(
        torch.tensor(a), torch.tensor(b), temperature=0.3, weight=torch.tensor(weight)
    )
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (a, b))
    expected = (
        reference_info_nce(a @ b.T / 0.3, a @ a.T / 0.3, weight)
        + reference_info_nce(b @ a.T / 0.3, b @ b.T / 0.3, weight)
    ) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_nt_xent_of_identical_views_and_many_negatives():
    # Of n directions on a circle that are evenly spread, the sum over negatives is an integral:
    # ln[n/π ∫ exp(cos φ/T) dφ] - 1/T = ln[2n I₀(1/T)] - 1/T, up to the term of the event itself.
    n, temperature = 1000, 0.5
    angle = 2 * np.pi * torch.arange(n, dtype=torch.float64) / n
    z = torch.stack([angle.cos(), angle.sin()], 1)
    found = losses.nt_xent(z, 5 * z, temperature=temperature)
    expected = math.log(2 * n * np.i0(1 / temperature)) - 1 / temperature
    # That term is exp(1/T) of a sum of 2 n I₀(1/T).
    tolerance = 1.1 * math.exp(1 / temperature) / (2 * n * np.i0(1 / temperature))
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_a_single_event_has_no_negatives():
    z = torch.ones(1, 4, dtype=torch.float64, requires_grad=True)
    loss = losses.nt_xent(z, 2 * z)
    loss.backward(torch.ones(1))
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(z.grad).all()
    assert losses.jensen_shannon(torch.zeros(1, 1)).item() == pytest.approx(math.log(2))


def test_jensen_shannon_at_the_best_critic_is_the_divergence():
    # Two bits that agree with probability q: pairs p = (q/2, (1-q)/2), against 1/4 each.
    q, n = 0.9, 1500
    rng = np.random.default_rng(1)
    x = rng.integers(2, size=n)
    y = np.where(rng.uniform(size=n) < q, x, 1 - x)
    ratio = np.log(np.where(x[:, None] == y, 2 * q, 2 * (1 - q)))
    loss = losses.jensen_shannon(torch.tensor(ratio)).numpy()
    agree, differ = np.log(2 * q), np.log(2 * (1 - q))
    expected = (
        -(q * log_expit(agree) + (1 - q) * log_expit(differ))
        - (log_expit(-agree) + log_expit(-differ)) / 2
    )
    # 2 ln 2 - 2 JS, from its definition.
    joint = np.array([q / 2, (1 - q) / 2]).repeat(2)
    middle = (joint + 0.25) / 2
    divergence = (joint @ np.log(joint / middle) + 0.25 * np.log(0.25 / middle).sum()) / 2
    assert expected == pytest.approx(2 * np.log(2) - 2 * divergence, rel=1e-12)
    error = loss.std() / np.sqrt(n) + 4 / n
    assert loss.mean() == pytest.approx(expected, abs=4 * error)
    # Any other critic loses more.
    for worse in (0.5 * ratio, 2 * ratio, ratio + 0.5):
        assert losses.jensen_shannon(torch.tensor(worse)).mean() > loss.mean()


def test_jensen_shannon_weight_is_a_share_of_the_partners(rng):
    scores, weight = rng.normal(size=(N, N)), rng.uniform(0.1, 3, N)
    found = losses.jensen_shannon(torch.tensor(scores), weight=torch.tensor(weight))
    for i in range(N):
        others = np.arange(N) != i
        expected = -np.log(expit(scores[i, i])) + np.average(
            -np.log(expit(-scores[i, others])), weights=weight[others]
        )
        assert found[i].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_energy_distance_of_normal_samples(shift):
    # In one dimension it is twice the integral of the squared difference of the distributions.
    rng = np.random.default_rng(0)
    n = 1500
    x, z = rng.normal(shift, 1, (n, 1)), rng.normal(size=(n, 1))
    loss = losses.energy_distance(torch.tensor(x), torch.tensor(z)).numpy()
    grid = np.linspace(-8, 9, 4001)
    expected = 2 * np.sum((norm.cdf(grid - shift) - norm.cdf(grid)) ** 2) * (grid[1] - grid[0])
    # Less the mean distance of two normal numbers, 2/√π. Of the terms, each event is in two means.
    found = loss.mean() - 2 / np.sqrt(np.pi)
    assert found == pytest.approx(
        expected, abs=4 * 2 * loss.std() / np.sqrt(n) + 4 * 2 / np.sqrt(n)
    )


def test_energy_distance_has_gradients_where_events_are_the_same():
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    losses.energy_distance(x, torch.ones(4, 2, dtype=torch.float64)).sum().backward()
    assert torch.isfinite(x.grad).all()
    # Towards the other sample.
    assert (x.grad < 0).all()
