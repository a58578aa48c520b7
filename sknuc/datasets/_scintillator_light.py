r"""From deposits of energy to the hits of phototubes.

A photon from :math:`\vec r` in direction :math:`\hat u` meets the sphere of radius :math:`R` at

.. math::

    s = -\vec r \cdot \hat u + \sqrt{(\vec r \cdot \hat u)^2 + R^2 - r^2},

and belongs to the phototube nearest to that point. To find it in constant time, the sphere is
unfolded as an octahedron into a square of :math:`n \times n` cells, each with a list of the
phototubes that may be nearest there. Phototube :math:`q'` is nearer to :math:`p` than :math:`q` if
:math:`p \cdot (q' - q) > 0`, which is linear in :math:`p`, and the points of a cell are positive
combinations of its corners: what is farther at all of the corners is farther in all of the cell.

Phototubes are all of one size, however far apart: where cells are large, more of the light falls in
between. So of the photons that meet the cell of area :math:`A_i`, the share
:math:`\min_j A_j / A_i` is taken; the others try again in another direction, which leaves the
number of photo-electrons, and the place and time that each comes from, as they were drawn.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from sknuc.datasets._scintillator_decays import isotropic

__all__ = ["Light", "NearestPMT", "detect_light", "find_nearest", "nearest_pmt"]

# Cells per phototube, at least: with many more, the table no longer fits the cache.
_CELLS_PER_PMT = 4
# Rounding must not drop a phototube.
_TIE = 1e-12


class NearestPMT(NamedTuple):
    """Phototubes that may be nearest to a point of each cell."""

    directions: np.ndarray
    starts: np.ndarray
    candidates: np.ndarray
    n_side: int


class Light(NamedTuple):
    """How light is made, flies and is seen: times in ns, speed in cm/ns, radius in cm."""

    acceptance: np.ndarray
    """Share of the photons that is taken in the cell of each phototube."""
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
    n_side = 2
    cell = np.repeat(np.arange(4), len(directions))
    pmt = np.tile(np.arange(len(directions)), 4)
    while True:
        corners = _cell_corners(n_side)
        # Whatever is nearest to the middle is likely to beat most of the others.
        towards = np.einsum("kd,kd->k", corners.sum(axis=0)[cell], directions[pmt])
        starts = np.searchsorted(cell, np.arange(n_side**2))
        highest = np.flatnonzero(towards == np.maximum.reduceat(towards, starts)[cell])
        leader = np.empty(n_side**2, dtype=np.intp)
        leader[cell[highest]] = pmt[highest]
        lead = directions[pmt] - directions[leader[cell]]
        useful = np.einsum("ckd,kd->ck", corners[:, cell], lead).max(axis=0) > -_TIE
        cell, pmt = cell[useful], pmt[useful]
        if n_side**2 >= _CELLS_PER_PMT * len(directions):
            break
        i, j = np.divmod(cell, n_side)
        n_side *= 2
        cell = np.concatenate([(2 * i + a) * n_side + 2 * j + b for a in (0, 1) for b in (0, 1)])
        order = np.argsort(cell, kind="stable")
        cell, pmt = cell[order], np.tile(pmt, 4)[order]
    starts = np.searchsorted(cell, np.arange(n_side**2 + 1)).astype(np.int32)
    return NearestPMT(np.ascontiguousarray(directions), starts, pmt.astype(np.int32), n_side)


def _cell_corners(n_side):
    """Unit vectors to the corners of the cells, of shape (4, n_side**2, 3).

    With an even number of cells on a side, a cell is one or two triangles on the octahedron.
    """
    edges = np.linspace(-1, 1, n_side + 1)
    a, b = np.meshgrid(edges, edges, indexing="ij")
    z = 1 - abs(a) - abs(b)
    x = np.where(z < 0, np.copysign(1 - abs(b), a), a)
    y = np.where(z < 0, np.copysign(1 - abs(a), b), b)
    points = np.stack([x, y, z], axis=-1)
    points /= np.linalg.norm(points, axis=-1, keepdims=True)
    of_cells = (points[:-1, :-1], points[:-1, 1:], points[1:, :-1], points[1:, 1:])
    return np.stack(of_cells).reshape(4, -1, 3)


@numba.njit(nogil=True, cache=True)
def _cell(x, y, z, n_side):
    """Cell of a point of any length."""
    scale = 1 / (abs(x) + abs(y) + abs(z))
    a, b = x * scale, y * scale
    p = math.copysign(1 - abs(b), a) if z < 0 else a
    q = math.copysign(1 - abs(a), b) if z < 0 else b
    i = min(int((p + 1) * 0.5 * n_side), n_side - 1)
    j = min(int((q + 1) * 0.5 * n_side), n_side - 1)
    return i * n_side + j


@numba.njit(nogil=True, cache=True)
def find_nearest(points, cells, nearest, out):
    """Indices of the phototubes nearest to points.

    Parameters
    ----------
    points : float64 ndarray of shape (3, n_points)
        Of any length but zero.
    cells, out : int64 ndarray of shape (n_points,)
        Memory to work in, and the indices.
    nearest : NearestPMT
    """
    directions, starts, candidates = nearest.directions, nearest.starts, nearest.candidates
    n_side = nearest.n_side
    x, y, z = points[0], points[1], points[2]
    for i in range(len(out)):
        cells[i] = _cell(x[i], y[i], z[i], n_side)
    for i in range(len(out)):
        start, stop = starts[cells[i]], starts[cells[i] + 1]
        best, highest = candidates[start], -np.inf
        for k in range(start, stop):
            q = candidates[k]
            cosine = x[i] * directions[q, 0] + y[i] * directions[q, 1] + z[i] * directions[q, 2]
            if cosine > highest:
                best, highest = q, cosine
        out[i] = best


@numba.njit(nogil=True, cache=True)
def _accept(rng, event, sources, points, times, light, nearest, cells, pmts):
    """Send photons into other directions until a phototube takes them."""
    for i in range(len(pmts)):
        while rng.random() >= light.acceptance[pmts[i]]:
            own = slice(i, i + 1)
            _fly(rng, event, sources[own], points[:, own], times[own], light)
            find_nearest(points[:, own], cells[own], nearest, pmts[own])


@numba.njit(nogil=True, cache=True)
def _draw_sources(rng, event, sources):
    """Draw deposits with their shares of the energy, through a guide table (Chen and Asau 1974)."""
    n = len(event)
    shares = np.cumsum(event[:, 3])
    total = shares[-1]
    shares[-1] = np.inf
    guide = np.empty(n, np.int64)
    k = 0
    for j in range(n):
        while shares[k] <= j * total / n:
            k += 1
        guide[j] = k
    for i in range(len(sources)):
        draw = rng.random()
        k = guide[min(int(draw * n), n - 1)]
        while shares[k] <= draw * total:
            k += 1
        sources[i] = k


@numba.njit(nogil=True, cache=True)
def _fly(rng, event, sources, points, times, light):
    """Where photons meet the sphere, and when, in ns after the decay."""
    x, y, z = points[0], points[1], points[2]
    for i in range(len(sources)):
        x[i], y[i], z[i] = isotropic(rng)
    square = light.radius * light.radius
    for i in range(len(sources)):
        k = sources[i]
        a, b, c = event[k, 0], event[k, 1], event[k, 2]
        along = a * x[i] + b * y[i] + c * z[i]
        path = -along + math.sqrt(along * along + square - (a * a + b * b + c * c))
        x[i], y[i], z[i] = a + path * x[i], b + path * y[i], c + path * z[i]
        times[i] = event[k, 4] + path / light.speed


@numba.njit(nogil=True, cache=True)
def _delay(rng, times, light):
    """Add the scintillation's decay and the spread of the transit times."""
    edges, decay_times = light.decay_edges, light.decay_times
    for i in range(len(times)):
        component, draw = 0, rng.random()
        while draw >= edges[component]:
            component += 1
        times[i] += decay_times[component] * rng.standard_exponential()
        times[i] += light.transit_time_spread * rng.standard_normal()
    if light.rise_time > 0:
        for i in range(len(times)):
            times[i] += light.rise_time * rng.standard_exponential()


@numba.njit(nogil=True, cache=True)
def _draw_charge(rng, resolution):
    if resolution == 0:
        return 1.0
    while True:
        charge = 1 + resolution * rng.standard_normal()
        if charge > 0:
            return charge


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
        As :func:`transport_gammas` gives them.
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
    most = n_light.max()
    all_indices = np.empty((3, most), np.int64)
    all_points, all_times = np.empty((3, most)), np.empty(most)
    first = 0
    for i in range(len(counts)):
        event = deposits[first : first + counts[i]]
        first += counts[i]
        n = n_light[i]
        sources, cells, pmts = all_indices[0, :n], all_indices[1, :n], all_indices[2, :n]
        points, times = all_points[:, :n], all_times[:n]
        _draw_sources(rng, event, sources)
        _fly(rng, event, sources, points, times, light)
        find_nearest(points, cells, nearest, pmts)
        _accept(rng, event, sources, points, times, light, nearest, cells, pmts)
        _delay(rng, times, light)

        rows = hits[starts[i] : starts[i + 1]]
        row, dark_left = 0, n_dark[i]
        for left in range(n + n_dark[i], 0, -1):
            if dark_left > 0 and rng.random() * left < dark_left:
                dark_left -= 1
                pmt = int(rng.random() * n_pmt)
                time = light.start + (light.stop - light.start) * rng.random()
            else:
                n -= 1
                pmt, time = pmts[n], times[n] + t0[i]
            charge = _draw_charge(rng, light.charge_resolution)
            if not light.start <= time <= light.stop:
                continue
            if light.first_hit_only and row_of[pmt] >= 0:
                same = row_of[pmt]
                rows[same, 1] = min(rows[same, 1], time)
                rows[same, 2] += charge
                continue
            rows[row, 0], rows[row, 1], rows[row, 2] = pmt, time, charge
            if light.first_hit_only:
                row_of[pmt] = row
            row += 1
        rows[row:] = 0
        if light.first_hit_only:
            for k in range(row):
                row_of[int(rows[k, 0])] = -1
        n_hits[i] = row
    return n_hits
