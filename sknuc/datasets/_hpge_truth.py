"""What happens in simulated HPGe events: classes, energies and sites."""

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval

from sknuc.datasets._draws import as_floats, check_range

__all__ = ["CLASSES", "FUNCTION", "draw", "draw_energies", "draw_radii", "draw_sites"]

FUNCTION = "make_hpge_waveforms"
CLASSES = ("single_site", "multi_site", "surface_alpha")


def draw(rng, n_samples, name, value, interval):
    """Draw a parameter that is a number or a range within the interval."""
    return rng.uniform(*check_range(FUNCTION, name, value, interval, or_number=True), n_samples)


def draw_energies(rng, n_samples, energy, distribution):
    """Energies in keV."""
    if not isinstance(energy, tuple | Real):
        energies = as_floats(FUNCTION, "energy", energy)
        if energies.shape != (n_samples,) or not np.all(np.isfinite(energies) & (energies >= 0)):
            raise ValueError(
                f"The 'energy' parameter of {FUNCTION} must, as an array-like that is no tuple "
                f"(low, high), hold one finite energy >= 0 for each of the {n_samples} events. "
                f"Got {energy!r} instead."
            )
        return energies
    if distribution == "log_uniform":
        positive = Interval(Real, 0, None, closed="neither")
        low, high = check_range(FUNCTION, "energy", energy, positive, or_number=True)
        return np.exp(rng.uniform(math.log(low), math.log(high), n_samples))
    return draw(rng, n_samples, "energy", energy, Interval(Real, 0, None, closed="left"))


def draw_sites(rng, target, n_sites, min_fraction):
    """Numbers of sites, and shares of the energy that are uniform beyond the least one."""
    several = Interval(Integral, 2, None, closed="left")
    low, high = check_range(FUNCTION, "n_sites", n_sites, several, or_number=True)
    if high * min_fraction > 1:
        raise ValueError(
            f"The 'min_site_fraction' parameter of {FUNCTION} must be at most 1 / {high} for "
            f"events of {high} sites. Got {min_fraction} instead."
        )
    counts = np.where(target == 1, rng.integers(low, high + 1, len(target)), 1)
    shares = rng.standard_exponential((len(target), high))
    shares[np.arange(high) >= counts[:, None]] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    least = np.where(counts > 1, min_fraction, 0.0)[:, None]
    return counts, np.where(shares > 0, least, 0.0) + (1 - counts[:, None] * least) * shares


def draw_radii(rng, target, max_sites, contact_radius, detector_radius):
    """Distances from the contact: uniform in the volume, alphas uniform on the surface."""
    power = np.where(target == 2, 2.0, 3.0)[:, None]
    low, high = contact_radius**power, detector_radius**power
    return (low + (high - low) * rng.random((len(target), max_sites))) ** (1 / power)
