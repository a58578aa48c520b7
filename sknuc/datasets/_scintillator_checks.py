"""What a scintillator detector may look like: its parameters, checked and made arrays."""

import math
from numbers import Real

import numpy as np

from sknuc.geometry import fibonacci_sphere

__all__ = ["CLASSES", "check_decay", "check_positions", "check_range", "draw_classes"]

CLASSES = ("10C", "0vbb")

# Radii of phototubes may differ by this share of their mean.
_RADIUS_TOLERANCE = 1e-3


def _floats(name, values):
    """Return an array-like as a new array of floats."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"The {name!r} parameter of make_scintillator_events must be an array of numbers. "
            f"Got {values!r} instead."
        ) from None


def check_positions(positions):
    """Return the positions of phototubes and the radius of their sphere."""
    if positions is None:
        return 850.0 * fibonacci_sphere(1879), 850.0
    pmts = _floats("positions", positions)
    if pmts.ndim != 2 or pmts.shape[1] != 3 or not len(pmts):
        raise ValueError(
            "The 'positions' parameter of make_scintillator_events must have the shape (n_pmt, 3). "
            f"Got {pmts.shape} instead."
        )
    bad = np.flatnonzero(~np.isfinite(pmts).all(axis=1))
    if len(bad):
        raise ValueError(
            "The 'positions' parameter of make_scintillator_events must be finite. Got "
            f"{pmts[bad[0]]} for phototube {bad[0]}, and {len(bad)} such phototubes in all."
        )
    radii = np.linalg.norm(pmts, axis=1)
    radius = radii.mean()
    if radius == 0 or np.ptp(radii) > _RADIUS_TOLERANCE * radius:
        raise ValueError(
            "The 'positions' parameter of make_scintillator_events must lie on a sphere around the "
            f"origin, to {_RADIUS_TOLERANCE:.1%} of its radius. Got radii from {radii.min():g} to "
            f"{radii.max():g} cm."
        )
    return pmts, float(radius)


def check_range(name, value):
    """Return a range of finite numbers."""
    if (
        len(value) != 2
        or not all(isinstance(v, Real) and math.isfinite(v) for v in value)
        or not value[0] < value[1]
    ):
        raise ValueError(
            f"The {name!r} parameter of make_scintillator_events must be a range (low, high) of "
            f"finite numbers with low < high. Got {value!r} instead."
        )
    return float(value[0]), float(value[1])


def check_decay(times, fractions):
    """Return the time constants and the edges of the cumulative fractions."""
    times, fractions = _floats("decay_times", times), _floats("decay_fractions", fractions)
    if times.ndim != 1 or not len(times) or not np.all(np.isfinite(times) & (times > 0)):
        raise ValueError(
            "The 'decay_times' parameter of make_scintillator_events must be finite numbers > 0. "
            f"Got {times.tolist()!r} instead."
        )
    if (
        fractions.shape != times.shape
        or not np.all(fractions >= 0)
        or not math.isclose(fractions.sum(), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            "The 'decay_fractions' parameter of make_scintillator_events must be one number >= 0 "
            f"for each of the {len(times)} decay_times, with the sum 1. Got "
            f"{fractions.tolist()!r} instead."
        )
    edges = np.cumsum(fractions)
    edges[-1] = np.inf
    return times, edges


def draw_classes(rng, n_samples, weights):
    """Indices of the classes, in the proportions `weights` and in random order."""
    weights = _floats("weights", np.ones(len(CLASSES)) if weights is None else weights)
    if (
        weights.shape != (len(CLASSES),)
        or not np.all(np.isfinite(weights) & (weights >= 0))
        or weights.sum() == 0
    ):
        raise ValueError(
            "The 'weights' parameter of make_scintillator_events must be two finite numbers >= 0 "
            f"that are not both zero, for {', '.join(CLASSES)}. Got {weights.tolist()!r} instead."
        )
    edges = np.rint(n_samples * np.cumsum(weights) / weights.sum()).astype(int)
    return rng.permutation(np.repeat(np.arange(len(CLASSES)), np.diff(edges, prepend=0)))
