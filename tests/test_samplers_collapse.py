"""Collapse of generators: lost modes are found, heavy tails are none."""

import numpy as np
import pytest

from sknuc.samplers._collapse import find_collapse


def ring(rng, n, n_modes):
    """The first modes of eight on a circle of radius 2."""
    angle = np.pi / 4 * rng.integers(n_modes, size=n)
    return 2 * np.column_stack([np.cos(angle), np.sin(angle)]) + 0.1 * rng.normal(size=(n, 2))


def test_lost_modes_are_told():
    rng = np.random.default_rng(0)
    found = dict.fromkeys((4, 7, 8), 0)
    for _ in range(10):
        true = ring(rng, 1000, 8)
        for n_modes in found:
            found[n_modes] += find_collapse(true, ring(rng, 1000, n_modes)) is not None
    # The lost mode of eight holds 125 true events, 104 at two standard deviations below.
    assert found[4] == 10
    assert found[7] >= 8
    assert found[8] == 0


def test_a_lost_half_is_told_in_any_dimension():
    rng = np.random.default_rng(0)
    for n, n_variables in ((100, 1), (1000, 1), (1000, 10)):
        for _ in range(5):
            true = rng.normal(size=(n, n_variables)) + 12 * rng.integers(2, size=(n, 1))
            assert find_collapse(true, rng.normal(size=(n, n_variables))) is not None


@pytest.mark.parametrize("n", [100, 1000])
def test_heavy_tails_are_no_collapse(n):
    rng = np.random.default_rng(0)
    for n_variables in (1, 3):
        for _ in range(12):
            assert find_collapse(*rng.standard_cauchy((2, n, n_variables))) is None
