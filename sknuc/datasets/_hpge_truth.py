"""What happens in simulated HPGe events: classes, energies and sites."""

import math
from numbers import Integral, Real

import numpy as np

__all__ = ["CLASSES", "draw", "draw_classes", "draw_energies", "draw_radii", "draw_sites"]

CLASSES = ("single_site", "multi_site", "surface_alpha")


def _bounds(name, value, low, high, open_low=False):
    """Return the range that a parameter gives, checked to lie within [low, high]."""
    value = value if isinstance(value, tuple) else (value, value)
    if (
        len(value) != 2
        or not all(isinstance(v, Real) and not isinstance(v, bool) for v in value)
        or not low <= value[0] <= value[1] <= high
        or (open_low and value[0] == low)
        or not all(math.isfinite(v) for v in value)
    ):
        raise ValueError(
            f"The {name!r} parameter of make_hpge_waveforms must be a number or a range "
            f"(low, high) with low <= high within {'(' if open_low else '['}{low}, {high}]. "
            f"Got {value!r} instead."
        )
    return value


def _floats(values):
    """Return an array-like as a new array of floats; None if it is none of numbers."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def draw(rng, n_samples, name, value, low, high, open_low=False):
    """Draw a parameter given as a number or a range within [low, high]."""
    return rng.uniform(*_bounds(name, value, low, high, open_low), n_samples)


def draw_energies(rng, n_samples, energy, distribution):
    """Energies in keV."""
    if not isinstance(energy, tuple | Real):
        energies = _floats(energy)
        if (
            energies is None
            or energies.shape != (n_samples,)
            or not np.all(np.isfinite(energies) & (energies >= 0))
        ):
            raise ValueError(
                "The 'energy' parameter of make_hpge_waveforms must, as an array-like that is no "
                "tuple (low, high), hold one finite energy >= 0 for each of the "
                f"{n_samples} events. Got {energy!r} instead."
            )
        return energies
    if distribution == "log_uniform":
        low, high = _bounds("energy", energy, 0, np.inf, open_low=True)
        return np.exp(rng.uniform(math.log(low), math.log(high), n_samples))
    return draw(rng, n_samples, "energy", energy, 0, np.inf)


def draw_classes(rng, n_samples, weights):
    """Indices of the classes, in the proportions `weights` and in random order."""
    given, weights = weights, _floats(np.ones(len(CLASSES)) if weights is None else weights)
    if (
        weights is None
        or weights.shape != (len(CLASSES),)
        or not np.all(np.isfinite(weights) & (weights >= 0))
        or weights.sum() == 0
    ):
        raise ValueError(
            "The 'weights' parameter of make_hpge_waveforms must be three finite numbers >= 0 "
            f"that are not all zero, for {', '.join(CLASSES)}. Got {given!r} instead."
        )
    edges = np.rint(n_samples * np.cumsum(weights) / weights.sum()).astype(int)
    return rng.permutation(np.repeat(np.arange(len(CLASSES)), np.diff(edges, prepend=0)))


def draw_sites(rng, target, n_sites, min_fraction):
    """Numbers of sites, and shares of the energy that are uniform beyond the least one."""
    low, high = _bounds("n_sites", n_sites, 2, np.inf)
    if not (isinstance(low, Integral) and isinstance(high, Integral)):
        raise ValueError(
            "The 'n_sites' parameter of make_hpge_waveforms must be whole numbers. "
            f"Got {n_sites!r} instead."
        )
    if high * min_fraction > 1:
        raise ValueError(
            "The 'min_site_fraction' parameter of make_hpge_waveforms must be at most 1 / "
            f"{high} for events of {high} sites. Got {min_fraction} instead."
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
