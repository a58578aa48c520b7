"""What a scintillator detector may look like: its parameters, checked and made arrays."""

import math

import numpy as np

from sknuc.datasets._draws import as_floats
from sknuc.geometry import cell_areas, fibonacci_sphere

__all__ = ["CLASSES", "FUNCTION", "check_acceptance", "check_decay", "check_positions"]

FUNCTION = "make_scintillator_events"
CLASSES = ("10C", "0vbb")

# Radii of phototubes may differ by this share of their mean.
_RADIUS_TOLERANCE = 1e-3
# The smallest cell of a phototube over their mean: below, next to no light would be accepted.
_LEAST_CELL = 1e-3


def check_positions(positions):
    """Return the positions of phototubes and the radius of their sphere."""
    if positions is None:
        return 850.0 * fibonacci_sphere(1879), 850.0
    pmts = as_floats(FUNCTION, "positions", positions)
    if pmts.ndim != 2 or pmts.shape[1] != 3 or not len(pmts):
        raise ValueError(
            f"The 'positions' parameter of {FUNCTION} must have the shape (n_pmt, 3). "
            f"Got {pmts.shape} instead."
        )
    bad = np.flatnonzero(~np.isfinite(pmts).all(axis=1))
    if len(bad):
        raise ValueError(
            f"The 'positions' parameter of {FUNCTION} must be finite. Got "
            f"{pmts[bad[0]]} for phototube {bad[0]}, and {len(bad)} such phototubes in all."
        )
    radii = np.linalg.norm(pmts, axis=1)
    radius = radii.mean()
    if radius == 0 or np.ptp(radii) > _RADIUS_TOLERANCE * radius:
        raise ValueError(
            f"The 'positions' parameter of {FUNCTION} must lie on a sphere around the "
            f"origin, to {_RADIUS_TOLERANCE:.1%} of its radius. Got radii from {radii.min():g} to "
            f"{radii.max():g} cm."
        )
    return pmts, float(radius)


def check_acceptance(pmts):
    """Return the share of the light in the cell of each phototube that it takes: all see alike."""
    try:
        areas = cell_areas(pmts)
    except ValueError:
        areas = np.zeros(len(pmts))
    if areas.min() < _LEAST_CELL * 4 * np.pi / len(pmts):
        raise ValueError(
            f"The 'positions' parameter of {FUNCTION} must not crowd: each phototube needs at "
            f"least {_LEAST_CELL:g} of the mean area of the sphere that is nearest to one. Got "
            f"phototube {areas.argmin()} at {pmts[areas.argmin()]} with less."
        )
    return areas.min() / areas


def check_decay(times, fractions):
    """Return the time constants and the edges of the cumulative fractions."""
    times = as_floats(FUNCTION, "decay_times", times)
    fractions = as_floats(FUNCTION, "decay_fractions", fractions)
    if times.ndim != 1 or not len(times) or not np.all(np.isfinite(times) & (times > 0)):
        raise ValueError(
            f"The 'decay_times' parameter of {FUNCTION} must be finite numbers > 0. "
            f"Got {times.tolist()!r} instead."
        )
    if (
        fractions.shape != times.shape
        or not np.all(fractions >= 0)
        or not math.isclose(fractions.sum(), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            f"The 'decay_fractions' parameter of {FUNCTION} must be one number >= 0 "
            f"for each of the {len(times)} decay_times, with the sum 1. Got "
            f"{fractions.tolist()!r} instead."
        )
    edges = np.cumsum(fractions)
    edges[-1] = np.inf
    return times, edges
