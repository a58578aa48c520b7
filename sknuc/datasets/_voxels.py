r"""Voxels of a calorimeter: where they are, and in which order a shower lists them.

Depth :math:`z` runs along the normal of the layers, from the face on which particles come in, in
radiation lengths; :math:`x` and :math:`y`, or :math:`r` and :math:`\alpha = \arctan(y / x)`, are
across it, in mm, around the point of incidence.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from numbers import Real

import numpy as np

__all__ = ["PHOTON_VOXELS", "CylindricalVoxels", "GridVoxels"]


def _as_floats(values):
    """A sequence of numbers as a tuple; nothing for what is none."""
    values = tuple(values) if np.iterable(values) else (None,)
    return tuple(map(float, values)) if all(isinstance(v, Real) for v in values) else ()


def _as_counts(values):
    """A sequence of positive whole numbers as a tuple; nothing for what is none."""
    values = _as_floats(values)
    whole = all(0 < value < math.inf and value.is_integer() for value in values)
    return tuple(map(int, values)) if whole else ()


def _check_depths(function, depth_edges):
    edges = _as_floats(depth_edges)
    if len(edges) < 2 or edges[0] < 0 or not all(a < b < math.inf for a, b in pairwise(edges)):
        raise ValueError(
            f"The 'depth_edges' parameter of {function} must hold two numbers or more, finite, not "
            f"negative and rising: where layers begin and end. Got {depth_edges!r:.200} instead."
        )
    return edges


class _Layers:
    """What both kinds of voxels can say about layers."""

    @property
    def n_layers(self):
        """Number of layers."""
        return len(self.layer_starts) - 1

    @property
    def n_voxels(self):
        """Number of voxels."""
        return int(self.layer_starts[-1])

    @cached_property
    def layer(self):
        """Index of the layer of each voxel, int ndarray of shape (n_voxels,)."""
        return np.repeat(np.arange(self.n_layers), np.diff(self.layer_starts))

    def layer_energies(self, showers):
        """Sum the voxels of every layer.

        Parameters
        ----------
        showers : array-like of shape (n_samples, n_voxels) or (n_samples, *shape)

        Returns
        -------
        energies : float64 ndarray of shape (n_samples, n_layers)
            In the unit of the showers.
        """
        showers = np.asarray(showers)
        if math.prod(showers.shape[1:]) != self.n_voxels or showers.ndim < 2:
            raise ValueError(
                f"The 'showers' parameter must hold {self.n_voxels} voxels per shower. Got the "
                f"shape {showers.shape} instead."
            )
        table = showers.reshape(len(showers), -1)
        return np.add.reduceat(table, self.layer_starts[:-1], axis=1, dtype=np.float64)


@dataclass(frozen=True)
class CylindricalVoxels(_Layers):
    """Layers that are divided into rings and sectors, each in its own way.

    A shower lists the rings of the first sector of the first layer, from within, then those of the
    next sector, and so on to the last layer: the order of the CaloChallenge.

    Parameters
    ----------
    r_edges : sequence of sequence of float
        Of each layer, the radii of its rings in mm, rising from 0.
    n_alpha : sequence of int
        Of each layer, the number of sectors, which begin at an azimuth of -pi.
    depth_edges : sequence of float of length n_layers + 1, default=None
        Where layers begin and end, in radiation lengths; None if unknown.

    Attributes
    ----------
    n_layers, n_voxels : int
    shape : tuple of int
        Of one shower, ``(n_voxels,)``.
    layer : int ndarray of shape (n_voxels,)
        Index of the layer of each voxel.
    layer_starts : int ndarray of shape (n_layers + 1,)
        The first voxel of each layer, and the number of voxels.
    r, alpha, x, y : ndarray of shape (n_voxels,)
        The middle of each voxel, in mm and rad.

    Raises
    ------
    ValueError
        If the numbers of layers differ, or edges do not rise.

    Examples
    --------
    >>> from sknuc.datasets import CylindricalVoxels
    >>> voxels = CylindricalVoxels(r_edges=[(0, 5, 10), (0, 20)], n_alpha=[4, 1])
    >>> voxels.n_voxels, voxels.layer.tolist()
    (9, [0, 0, 0, 0, 0, 0, 0, 0, 1])
    >>> voxels.r[:3]
    array([2.5, 7.5, 2.5])
    """

    r_edges: tuple
    n_alpha: tuple
    depth_edges: tuple | None = None

    def __post_init__(self):
        """Check the layers."""
        given = tuple(self.r_edges) if np.iterable(self.r_edges) else ()
        r_edges = tuple(map(_as_floats, given))
        # Without layers there is one without radii.
        for edges in r_edges or ((),):
            rising = all(a < b < math.inf for a, b in pairwise(edges))
            if len(edges) < 2 or edges[0] != 0 or not rising:
                raise ValueError(
                    "The 'r_edges' parameter of CylindricalVoxels must hold two radii or more for "
                    f"each layer, rising from 0. Got {self.r_edges!r:.200} instead."
                )
        n_alpha = _as_counts(self.n_alpha)
        if len(n_alpha) != len(r_edges):
            raise ValueError(
                "The 'n_alpha' parameter of CylindricalVoxels must hold a positive number of "
                f"sectors for each of {len(r_edges)} layers. Got {self.n_alpha!r:.200} instead."
            )
        object.__setattr__(self, "r_edges", r_edges)
        object.__setattr__(self, "n_alpha", n_alpha)
        if self.depth_edges is not None:
            depths = _check_depths("CylindricalVoxels", self.depth_edges)
            if len(depths) != len(r_edges) + 1:
                raise ValueError(
                    f"The 'depth_edges' parameter of CylindricalVoxels must hold "
                    f"{len(r_edges) + 1} depths for {len(r_edges)} layers. Got {len(depths)}."
                )
            object.__setattr__(self, "depth_edges", depths)

    @property
    def shape(self):
        """Shape of one shower."""
        return (self.n_voxels,)

    @cached_property
    def layer_starts(self):
        """The first voxel of each layer, and the number of voxels."""
        sizes = [n * (len(r) - 1) for n, r in zip(self.n_alpha, self.r_edges, strict=True)]
        return np.append(0, np.cumsum(sizes))

    @cached_property
    def r(self):
        """Middle radius of each voxel, in mm."""
        middles = (np.add(edges[1:], edges[:-1]) / 2 for edges in self.r_edges)
        return np.concatenate([np.tile(m, n) for m, n in zip(middles, self.n_alpha, strict=True)])

    @cached_property
    def alpha(self):
        """Middle azimuth of each voxel, in rad; 0 in layers of a single sector."""
        return np.concatenate(
            [
                np.repeat(-np.pi + (np.arange(n) + 0.5) * 2 * np.pi / n, len(edges) - 1)
                for n, edges in zip(self.n_alpha, self.r_edges, strict=True)
            ]
        )

    @property
    def x(self):
        """Position of the middle of each voxel, in mm."""
        return self.r * np.cos(self.alpha)

    @property
    def y(self):
        """Position of the middle of each voxel, in mm."""
        return self.r * np.sin(self.alpha)

    def find(self, x, y, z):
        """Find the voxels of points.

        Parameters
        ----------
        x, y : ndarray of shape (n_points,)
            In mm.
        z : ndarray of shape (n_points,)
            Depth, in radiation lengths.

        Returns
        -------
        voxel : int ndarray of shape (n_points,)
            -1 for points outside of all voxels.
        """
        layer = np.searchsorted(np.asarray(self.depth_edges, z.dtype), z, side="right") - 1
        voxel = np.full(len(z), -1)
        for i, (edges, n_alpha) in enumerate(zip(self.r_edges, self.n_alpha, strict=True)):
            points = np.flatnonzero(layer == i)
            r = np.hypot(x[points], y[points])
            ring = np.searchsorted(np.asarray(edges, r.dtype), r, side="right") - 1
            sector = 0
            if n_alpha > 1:
                turn = np.arctan2(y[points], x[points]) / (2 * np.pi) + 0.5
                sector = np.minimum((turn * n_alpha).astype(np.intp), n_alpha - 1)
            n_rings = len(edges) - 1
            found = self.layer_starts[i] + sector * n_rings + ring
            voxel[points] = np.where(ring < n_rings, found, -1)
        return voxel


@dataclass(frozen=True)
class GridVoxels(_Layers):
    """Layers of square cells.

    Parameters
    ----------
    n_cells : int or (int, int), default=16
        Cells along y and along x; the shower comes in at their middle.
    cell_size : float, default=10.0
        Side of a cell, in mm.
    depth_edges : sequence of float, default=(0.0, 2.5, 5.0, ..., 25.0)
        Where layers begin and end, in radiation lengths.

    Attributes
    ----------
    n_layers, n_voxels : int
    shape : tuple of int
        Of one shower, ``(n_layers, n_y, n_x)``.
    layer : int ndarray of shape (n_voxels,)
        Index of the layer of each voxel of a flattened shower.
    layer_starts : int ndarray of shape (n_layers + 1,)
        The first voxel of each layer, and the number of voxels.
    x, y : ndarray of shape (n_voxels,)
        The middle of each voxel of a flattened shower, in mm.

    Raises
    ------
    ValueError
        If there are no cells, or edges do not rise.

    Examples
    --------
    >>> from sknuc.datasets import GridVoxels
    >>> voxels = GridVoxels(n_cells=4, cell_size=20.0, depth_edges=(0, 5, 15))
    >>> voxels.shape, voxels.x[:4].tolist()
    ((2, 4, 4), [-30.0, -10.0, 10.0, 30.0])
    """

    n_cells: int | tuple = 16
    cell_size: float = 10.0
    depth_edges: tuple = tuple(2.5 * i for i in range(11))

    def __post_init__(self):
        """Check the cells."""
        cells = _as_counts(self.n_cells if np.iterable(self.n_cells) else [self.n_cells] * 2)
        if len(cells) != 2:
            raise ValueError(
                "The 'n_cells' parameter of GridVoxels must be a positive int, or two of them "
                f"(n_y, n_x). Got {self.n_cells!r} instead."
            )
        if not (isinstance(self.cell_size, Real) and 0 < self.cell_size < math.inf):
            raise ValueError(
                "The 'cell_size' parameter of GridVoxels must be positive and finite. Got "
                f"{self.cell_size!r} instead."
            )
        object.__setattr__(self, "n_cells", cells)
        object.__setattr__(self, "depth_edges", _check_depths("GridVoxels", self.depth_edges))

    @property
    def shape(self):
        """Shape of one shower."""
        return (len(self.depth_edges) - 1, *self.n_cells)

    @cached_property
    def layer_starts(self):
        """The first voxel of each layer, and the number of voxels."""
        return math.prod(self.n_cells) * np.arange(len(self.depth_edges))

    def _middles(self, axis):
        n = self.n_cells[axis]
        middles = (np.arange(n) - (n - 1) / 2) * self.cell_size
        return np.broadcast_to(middles[:, None] if axis == 0 else middles, self.shape).ravel()

    @cached_property
    def x(self):
        """Position of the middle of each voxel, in mm."""
        return self._middles(1)

    @cached_property
    def y(self):
        """Position of the middle of each voxel, in mm."""
        return self._middles(0)

    def find(self, x, y, z):
        """Find the voxels of points, as :meth:`CylindricalVoxels.find`."""
        layer = np.searchsorted(np.asarray(self.depth_edges, z.dtype), z, side="right") - 1
        rows = np.floor(y / self.cell_size + self.n_cells[0] / 2)
        columns = np.floor(x / self.cell_size + self.n_cells[1] / 2)
        inside = (layer >= 0) & (layer < self.n_layers)
        inside &= (rows >= 0) & (rows < self.n_cells[0])
        inside &= (columns >= 0) & (columns < self.n_cells[1])
        voxel = np.full(len(z), -1)
        row, column = rows[inside].astype(np.intp), columns[inside].astype(np.intp)
        voxel[inside] = (layer[inside] * self.n_cells[0] + row) * self.n_cells[1] + column
        return voxel


#: The voxels of photons in dataset 1 of the CaloChallenge. Its files do not tell depths: these are
#: about those of a liquid-argon barrel with a presampler and three layers, and what leaks behind.
PHOTON_VOXELS = CylindricalVoxels(
    r_edges=(
        (0, 5, 10, 30, 50, 100, 200, 400, 600),
        (0, 2, 4, 6, 8, 10, 12, 15, 20, 30, 40, 50, 70, 90, 120, 150, 200),
        (0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 130, 160, 200, 250, 300, 350, 400),
        (0, 50, 100, 200, 400, 600),
        (0, 100, 200, 400, 1000, 2000),
    ),
    n_alpha=(1, 10, 10, 1, 1),
    depth_edges=(0.0, 2.0, 6.5, 22.5, 25.0, 40.0),
)
