"""What `PMTHitMap` is told about the detector: its hits, its clock, its tubes and its pixels."""

import numpy as np
from scipy.spatial import KDTree
from sklearn.utils import check_array

from sknuc.geometry import directions, equiangular_sphere, polar_angles
from sknuc.preprocessing._ragged import is_count

__all__ = [
    "Pixels",
    "check_bins",
    "check_dtype",
    "check_fields",
    "check_positions",
    "check_vertex",
    "raise_bad_hit",
    "raise_hit_at_vertex",
    "unit",
]

_FIELDS = {1: ("time",), 2: ("pmt", "time"), 3: ("pmt", "time", "charge")}


def check_fields(fields, n_columns):
    """Names of the numbers of a hit; those of the number of columns for None."""
    if fields is None:
        if n_columns not in _FIELDS:
            raise ValueError(
                "PMTHitMap reads hits of 2 numbers (pmt, time) or 3 numbers (pmt, time, charge), "
                f"or a table with a time per PMT. Got {n_columns} numbers per hit."
            )
        return _FIELDS[n_columns]
    fields = tuple(fields)
    if (
        not all(isinstance(name, str) for name in fields)
        or len(set(fields)) < len(fields)
        or not {"time"} <= set(fields) <= set(_FIELDS[3])
    ):
        raise ValueError(
            "The 'fields' parameter of PMTHitMap must be 'time' and, where there are such, 'pmt' "
            f"and 'charge', in the order of the columns, or None. Got {fields!r} instead."
        )
    if len(fields) != n_columns:
        raise ValueError(
            "The 'fields' parameter of PMTHitMap must name every number of a hit, but X has "
            f"{n_columns} numbers per hit. Got {fields!r} instead."
        )
    return fields


def check_bins(bins):
    """Edges of the bins of time in ns."""
    edges = _as_floats("bins", bins)
    # Three numbers have one meaning, whatever their types: edges of two bins look the same.
    if isinstance(bins, tuple | list) and len(bins) == 3:
        start, stop, n_bins = bins
        if is_count(n_bins) and edges.ndim == 1 and -np.inf < start < stop < np.inf:
            return np.linspace(start, stop, n_bins + 1)
    else:
        rising = edges.ndim == 1 and len(edges) > 1 and (np.diff(edges) > 0).all()
        if rising and np.isfinite(edges).all():
            return edges
    raise ValueError(
        "The 'bins' parameter of PMTHitMap must be (start, stop, number of bins) with start < stop "
        "and a positive integer, or an array of at least two edges that rise, in ns; the three "
        f"edges of two bins are given as an ndarray. Got {bins!r} instead."
    )


def _as_floats(name, values):
    """A new array of the numbers of a parameter."""
    try:
        array = np.array(values)
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except ValueError:
        # Lists of unequal lengths.
        pass
    raise ValueError(
        f"The '{name}' parameter of PMTHitMap must be an array of real numbers. Got {values!r} "
        "instead."
    )


def check_dtype(dtype, weight, fields):
    """The type of the maps: counts fit into integers, charges do not."""
    if weight == "charge" and "charge" not in fields:
        raise ValueError(
            "The 'weight' parameter of PMTHitMap must be 'count' for hits without charge: their "
            f"fields are {fields}. Got 'charge' instead."
        )
    if weight == "charge" and dtype not in (None, "float32"):
        raise ValueError(
            "The 'dtype' parameter of PMTHitMap must be 'float32' or None with weight='charge'. "
            f"Got {dtype!r} instead."
        )
    return np.dtype(dtype or ("float32" if weight == "charge" else "uint16"))


def check_vertex(vertex, n_events, positions):
    """Vertices of shape (n_events, 3), or None where none are given."""
    if vertex is None:
        return None
    if positions is None:
        raise ValueError(
            "The 'positions' parameter of PMTHitMap must be an array of shape (n_pmt, 3), in cm, "
            "where vertex is given. Got None instead."
        )
    vertex = check_array(vertex, dtype=np.float64, input_name="vertex")
    if vertex.shape != (n_events, 3):
        raise ValueError(
            f"vertex must have the shape ({n_events}, 3), one position in cm per event. Got "
            f"{vertex.shape} instead."
        )
    return vertex


def raise_bad_hit(fields, n_pmt, event, row, numbers):
    """Say what is wrong with the hit in a row of an event."""
    hit = dict(zip(fields, numbers.tolist(), strict=True))
    tube = hit.get("pmt", row)
    if not (0 <= tube < n_pmt and tube == int(tube)):
        raise ValueError(
            f"Event {event} has a hit with the PMT id {tube:g}; ids must be integers from 0 to "
            f"{n_pmt - 1}, one for each of the 'positions'."
        )
    raise ValueError(
        f"Event {event} has a hit of PMT {tube:g} at {hit['time']:g} ns with the charge "
        f"{hit['charge']:g}; charges must be positive. A row of zeros is no hit."
    )


def raise_hit_at_vertex(event, vertex):
    """Say that a hit has no direction as seen from the vertex."""
    raise ValueError(
        f"The vertex of event {event}, {vertex.tolist()} cm, is at a PMT with a hit, which has no "
        "direction from there. Use frame='detector', or give a vertex inside of the detector."
    )


def check_positions(positions, name="positions"):
    """Positions of shape (n, 3), none of them at the origin; of None, no positions."""
    if positions is None:
        return np.empty((0, 3))
    positions = _as_floats(name, positions)
    if positions.ndim != 2 or positions.shape[1] != 3 or not len(positions):
        raise ValueError(
            f"The '{name}' parameter of PMTHitMap must have the shape (n, 3). Got an array of "
            f"shape {positions.shape} instead."
        )
    bad = ~np.isfinite(positions).all(axis=1) | (positions == 0).all(axis=1)
    if bad.any():
        raise ValueError(
            f"The '{name}' parameter of PMTHitMap must be finite, and none at the origin, where "
            f"it has no direction. Got {positions[bad.argmax()]} in row {bad.argmax()}."
        )
    return positions


def unit(positions):
    """Unit vectors of positions, none of which is the origin."""
    return directions(*polar_angles(positions))


class Pixels:
    """The pixels of a sphere, and which of them a direction belongs to.

    Parameters
    ----------
    grid : (int, int) or array-like of shape (n_pixels, 3)
        Rings and cells around each of an equiangular grid, or the centres of pixels.

    Attributes
    ----------
    shape : tuple of int
        (H, W) or (n_pixels,).
    directions : ndarray of shape (n_pixels, 3)
        Unit vectors of the centres.
    """

    def __init__(self, grid):
        try:
            n_axes = np.ndim(grid)
        except ValueError:
            n_axes = 2  # Rows of unequal lengths, which check_positions names.
        if n_axes == 2:
            self.directions = unit(check_positions(grid, "grid"))
            self.shape = (len(self.directions),)
            self._tree = KDTree(self.directions)
            return
        self.shape = tuple(grid)
        if len(self.shape) != 2 or not all(is_count(n) for n in self.shape):
            raise ValueError(
                "The 'grid' parameter of PMTHitMap must be a tuple (H, W) of positive integers, an "
                f"array of directions of shape (n_pixels, 3), or None. Got {grid!r} instead."
            )
        self.directions, _ = equiangular_sphere(*self.shape)
        self._tree = None

    def find(self, points):
        """Pixels that points of shape (..., 3), none at the origin, lie in, seen from there."""
        if self._tree is not None:
            return self._tree.query(unit(points))[1]
        n_theta, n_phi = self.shape
        theta, phi = polar_angles(points)
        row = np.minimum((theta / np.pi * n_theta).astype(np.int64), n_theta - 1)
        return row * n_phi + (phi / (2 * np.pi) * n_phi).astype(np.int64) % n_phi
