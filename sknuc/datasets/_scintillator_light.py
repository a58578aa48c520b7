r"""From deposits of energy to the hits of phototubes.

A photon from :math:`\vec r` in direction :math:`\hat u` meets the sphere of radius :math:`R` at

.. math::

    s = -\vec r \cdot \hat u + \sqrt{(\vec r \cdot \hat u)^2 + R^2 - r^2},

and belongs to the phototube nearest to that point. To find it in constant time, the sphere is cut
into the cells of a cube seen from its centre. A phototube :math:`q` nearest to any point :math:`p`
of a cell with centre :math:`c` and reach :math:`\rho` is by the triangle inequality, with
:math:`q_c` nearest to :math:`c`,

.. math::

    |q - c| \le |q - p| + \rho \le |q_c - p| + \rho \le |q_c - c| + 2\rho,

so that each cell needs to know those few only.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from scipy.spatial import cKDTree

from sknuc.datasets._scintillator_decays import isotropic

__all__ = ["Light", "NearestPMT", "detect_light", "find_nearest", "nearest_pmt"]

# Cells per phototube: with more, the table no longer fits the cache.
_CELLS_PER_PMT = 8


class NearestPMT(NamedTuple):
    """Phototubes that may be nearest to a point of each cell."""

    directions: np.ndarray
    starts: np.ndarray
    candidates: np.ndarray
    n_side: int


class Light(NamedTuple):
    """How light is made, flies and is seen: times in ns, speed in cm/ns, radius in cm."""

    radius: float
    speed: float
    decay_edges: np.ndarray
    decay_times: np.ndarray
    rise_time: float
    transit_time_spread: float
    charge_resolution: float
    start: float
    stop: float
    first_hit_only: bool


def nearest_pmt(directions):
    """Make the table of candidates.

    Parameters
    ----------
    directions : float64 ndarray of shape (n_pmt, 3)
        Unit vectors.

    Returns
    -------
    nearest : NearestPMT
    """
    n_side = math.ceil(math.sqrt(_CELLS_PER_PMT * len(directions) / 6))
    edges = np.linspace(-1, 1, n_side + 1)
    centre = (edges[:-1] + edges[1:]) / 2
    centres = _on_cube(centre, centre)
    corners = np.stack(
        [_on_cube(a, b) for a in (edges[:-1], edges[1:]) for b in (edges[:-1], edges[1:])]
    )
    # The point of a cell that is farthest from its centre is a corner.
    reach = np.linalg.norm(corners - centres, axis=2).max(axis=0)
    tree = cKDTree(directions)
    distance, closest = tree.query(centres)
    found = tree.query_ball_point(centres, distance + 2 * reach + 1e-9)
    counts = np.fromiter(map(len, found), np.int64, len(found))
    candidates = np.concatenate(found).astype(np.int32)
    # One phototube beats another all over a cell if it does so at the corners: p·(q - q') is
    # linear in p, and the points of a cell are positive combinations of its corners.
    cell = np.repeat(np.arange(len(centres)), counts)
    lead = directions[candidates] - directions[closest[cell]]
    useful = np.einsum("kcd,cd->kc", corners[:, cell], lead).max(axis=0) > -1e-12
    counts = np.bincount(cell[useful], minlength=len(centres))
    starts = np.r_[0, np.cumsum(counts)].astype(np.int32)
    return NearestPMT(np.ascontiguousarray(directions), starts, candidates[useful], n_side)


def _on_cube(first, second):
    """Unit vectors to the points (first, second) of all faces, in the order of the cells."""
    a, b = (m.ravel() for m in np.meshgrid(first, second, indexing="ij"))
    one = np.ones_like(a)
    faces = [
        (sign * one, a, b) if axis == 0 else (a, sign * one, b) if axis == 1 else (a, b, sign * one)
        for axis in range(3)
        for sign in (1, -1)
    ]
    points = np.concatenate([np.stack(face, axis=1) for face in faces])
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@numba.njit(nogil=True, cache=True)
def _nearest(x, y, z, nearest):
    """Index of the phototube nearest to a point on the unit sphere."""
    ax, ay, az = abs(x), abs(y), abs(z)
    if ax >= ay and ax >= az:
        face, a, b = (0 if x > 0 else 1), y / ax, z / ax
    elif ay >= az:
        face, a, b = (2 if y > 0 else 3), x / ay, z / ay
    else:
        face, a, b = (4 if z > 0 else 5), x / az, y / az
    n = nearest.n_side
    i = min(int((a + 1) * 0.5 * n), n - 1)
    j = min(int((b + 1) * 0.5 * n), n - 1)
    cell = (face * n + i) * n + j
    start, stop = nearest.starts[cell], nearest.starts[cell + 1]
    best = nearest.candidates[start]
    if stop - start > 1:
        highest = -2.0
        for k in range(start, stop):
            pmt = nearest.candidates[k]
            d = nearest.directions[pmt]
            cosine = x * d[0] + y * d[1] + z * d[2]
            if cosine > highest:
                best, highest = pmt, cosine
    return best


@numba.njit(nogil=True, cache=True)
def find_nearest(points, nearest):
    """Indices of the phototubes nearest to points on the unit sphere.

    Parameters
    ----------
    points : float64 ndarray of shape (n_points, 3)
    nearest : NearestPMT

    Returns
    -------
    indices : int64 ndarray of shape (n_points,)
    """
    out = np.empty(len(points), np.int64)
    for i in range(len(points)):
        out[i] = _nearest(points[i, 0], points[i, 1], points[i, 2], nearest)
    return out


@numba.njit(nogil=True, cache=True)
def _charge(rng, resolution):
    if resolution == 0:
        return 1.0
    while True:
        charge = 1 + resolution * rng.standard_normal()
        if charge > 0:
            return charge


@numba.njit(nogil=True, cache=True)
def _photoelectron(rng, deposit, light, nearest):
    """Phototube and time, in ns after the decay, of a photo-electron from a deposit."""
    u, v, w = isotropic(rng)
    x, y, z = deposit[0], deposit[1], deposit[2]
    along = x * u + y * v + z * w
    square = light.radius * light.radius
    path = -along + math.sqrt(along * along + square - (x * x + y * y + z * z))
    scale = 1 / light.radius
    pmt = _nearest((x + path * u) * scale, (y + path * v) * scale, (z + path * w) * scale, nearest)
    component, draw = 0, rng.random()
    while draw >= light.decay_edges[component]:
        component += 1
    time = deposit[4] + path / light.speed
    time += light.decay_times[component] * rng.standard_exponential()
    if light.rise_time > 0:
        time += light.rise_time * rng.standard_exponential()
    return pmt, time + light.transit_time_spread * rng.standard_normal()


@numba.njit(nogil=True, cache=True)
def detect_light(rng, hits, starts, deposits, counts, t0, n_light, n_dark, light, nearest):
    """Write the hits of a block of events.

    Given their number, photo-electrons are independent: each comes from a deposit with a
    probability of the deposit's share of the energy. So they are drawn one by one, dark hits in
    between, and the order of the rows says nothing about their origin.

    Parameters
    ----------
    rng : numpy Generator
    hits : float32 ndarray of shape (n_rows, 3)
        Phototube, time in ns and charge in photo-electrons.
    starts : int64 ndarray of shape (n_events + 1,)
        First row of each event, and the end; rows that are not used become zero.
    deposits : float64 ndarray of shape (n_deposits, 6)
    counts : int64 ndarray of shape (n_events,)
        Deposits of each event.
    t0 : float64 ndarray of shape (n_events,)
        Time of the decay in ns.
    n_light, n_dark : int64 ndarray of shape (n_events,)
        Photo-electrons from light and dark hits.
    light : Light
    nearest : NearestPMT

    Returns
    -------
    n_hits : int64 ndarray of shape (n_events,)
    """
    n_hits = np.empty(len(counts), np.int64)
    n_pmt = len(nearest.directions)
    row_of = np.full(n_pmt if light.first_hit_only else 0, -1)
    shares = np.empty(max(counts.max(), 1))
    first = 0
    for i in range(len(counts)):
        event = deposits[first : first + counts[i]]
        first += counts[i]
        total = 0.0
        for k in range(len(event)):
            total += event[k, 3]
            shares[k] = total
        rows = hits[starts[i] : starts[i + 1]]
        n, dark_left = 0, n_dark[i]
        for left in range(n_light[i] + n_dark[i], 0, -1):
            if dark_left > 0 and rng.random() * left < dark_left:
                dark_left -= 1
                pmt = min(int(rng.random() * n_pmt), n_pmt - 1)
                time = light.start + (light.stop - light.start) * rng.random()
            else:
                source = 0
                if len(event) > 1:
                    source = np.searchsorted(shares[: len(event)], rng.random() * total, "right")
                    source = min(source, len(event) - 1)
                pmt, time = _photoelectron(rng, event[source], light, nearest)
                time += t0[i]
            charge = _charge(rng, light.charge_resolution)
            if not light.start <= time <= light.stop:
                continue
            if light.first_hit_only and row_of[pmt] >= 0:
                row = row_of[pmt]
                rows[row, 1] = min(rows[row, 1], time)
                rows[row, 2] += charge
                continue
            rows[n, 0], rows[n, 1], rows[n, 2] = pmt, time, charge
            if light.first_hit_only:
                row_of[pmt] = n
            n += 1
        rows[n:] = 0
        if light.first_hit_only:
            for k in range(n):
                row_of[int(rows[k, 0])] = -1
        n_hits[i] = n
    return n_hits
