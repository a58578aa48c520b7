"""Showers in the files of the CaloChallenge, and the binning that tells where their voxels are."""

import xml.etree.ElementTree as ET
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.datasets._hdf5 import HDF5Rows, open_hdf5, read_rows, require
from sknuc.datasets._voxels import CylindricalVoxels

__all__ = ["read_calochallenge"]

SHOWERS, ENERGIES = "showers", "incident_energies"

_DESCR = """\
Calorimeter showers in the layout of the Fast Calorimeter Simulation Challenge
-------------------------------------------------------------------------------
'showers' holds the energy of every voxel, 'incident_energies' that of the particle, both in MeV.
Voxels follow one another ring by ring, sector by sector, layer by layer.
"""


@validate_params(
    {
        "path": [str, Path, list, tuple],
        "binning": [str, Path, CylindricalVoxels, None],
        "particle": [str, None],
        "start": [Interval(Integral, 0, None, closed="left")],
        "stop": [Interval(Integral, 0, None, closed="left"), None],
    },
    prefer_skip_nested_validation=True,
)
def read_calochallenge(path, *, binning=None, particle=None, start=0, stop=None):
    """Read showers from HDF5 files of the CaloChallenge.

    Energies of particles are read; showers stay in the files until they are indexed:
    ``events.data[:1000]`` reads a thousand, ``events.data[:]`` all, and an estimator that streams
    takes ``events.data``.

    Parameters
    ----------
    path : str, path-like or list of them
        Files with the datasets ``showers`` of shape (n_events, n_voxels) and ``incident_energies``
        of shape (n_events, 1), in MeV. The events of several follow one another.
    binning : str, path-like or CylindricalVoxels, default=None
        The challenge's XML file that tells where the voxels are, or the voxels themselves; None if
        that is not needed.
    particle : str, default=None
        Which particle of the XML file; None where there is only one.
    start : int, default=0
        First event.
    stop : int, default=None
        Event behind the last one; None for the end of the last file.

    Returns
    -------
    events : :class:`~sklearn.utils.Bunch`
        data : HDF5Rows of shape (n_events, n_voxels)
            Energy in each voxel, in MeV, read when indexed; a ValueError then if an energy is
            negative or not finite.
        target : float64 ndarray of shape (n_events, 1)
            Energy of the particle, in MeV.
        target_names : list of str
            "incident_energy".
        units : dict
            Of data and target.
        voxels : CylindricalVoxels or None
            Where the voxels are, with `binning`; the files do not tell depths. Layers without
            rings in the XML file, which have no voxels, are left out.
        layer_ids : list of int or None
            The numbers of these layers in the XML file.
        filenames : list of str
            The files.
        DESCR : str
            Description.

    Raises
    ------
    OSError
        If a file is not there or is damaged.
    KeyError
        If a file has no ``showers`` or ``incident_energies``.
    ValueError
        If shapes do not fit each other or the binning, energies of particles are not positive, or
        the rows are out of range.

    References
    ----------
    .. [1] C. Krause et al., "CaloChallenge 2022: a community challenge for fast calorimeter
       simulation", arXiv:2410.21611 (2024).
    .. [2] M. Faucci Giannelli et al., "Fast Calorimeter Simulation Challenge 2022 - Dataset 1",
       https://doi.org/10.5281/zenodo.6234054.

    Examples
    --------
    >>> from sknuc.datasets import read_calochallenge
    >>> events = read_calochallenge(
    ...     "dataset_1_photons_1.hdf5", binning="binning_dataset_1_photons.xml"
    ... )  # doctest: +SKIP
    >>> X, y = events.data[:], events.target  # doctest: +SKIP
    """
    paths = [Path(p) for p in ([path] if isinstance(path, str | Path) else path)]
    if not paths:
        raise ValueError(
            "The 'path' parameter of read_calochallenge must name one file at least. Got none."
        )
    energies, shapes, chunks = zip(*map(_check, paths), strict=True)
    widths = {shape[1] for shape in shapes}
    if len(widths) > 1:
        raise ValueError(
            "Showers of different detectors cannot follow one another. The numbers of voxels in "
            f"{', '.join(p.name for p in paths)} are {', '.join(str(s[1]) for s in shapes)}."
        )
    n_voxels = widths.pop()
    voxels, layer_ids = binning, None
    if binning is not None:
        if not isinstance(binning, CylindricalVoxels):
            voxels, layer_ids = _read_binning(Path(binning), particle)
        if voxels.n_voxels != n_voxels:
            raise ValueError(
                f"The 'binning' parameter of read_calochallenge has {voxels.n_voxels} voxels, but "
                f"the showers in {paths[0].name} have {n_voxels}. Give the binning of this dataset."
            )
    total = sum(shape[0] for shape in shapes)
    stop = total if stop is None else stop
    if not start < stop <= total:
        raise ValueError(
            f"The rows of read_calochallenge must satisfy 0 <= start < stop <= {total}, the number "
            f"of events. Got start={start} and stop={stop} instead."
        )
    sources, first = [], 0
    for file, (n, _) in zip(paths, shapes, strict=True):
        low, high = np.clip([start - first, stop - first], 0, n).tolist()
        if low < high:
            sources.append((file, low, high))
        first += n
    return Bunch(
        data=_Showers(sources, SHOWERS, (n_voxels,), _common_type(paths), chunks[0]),
        target=np.concatenate(energies)[start:stop],
        target_names=["incident_energy"],
        units={"data": "MeV", "incident_energy": "MeV"},
        voxels=voxels,
        layer_ids=layer_ids,
        filenames=[str(p) for p in paths],
        DESCR=_DESCR,
    )


class _Showers(HDF5Rows):
    """Rows of which every number must be an energy, which is only known when they are read."""

    def _read_piece(self, path, rows):
        values = super()._read_piece(path, rows)
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            row, voxel = np.argwhere(bad)[0]
            number = range(rows.stop)[rows][row] if isinstance(rows, slice) else rows[row]
            raise ValueError(
                f"{self.name!r} of {path} must be finite and not negative. {bad.sum()} of the "
                f"{values.size} energies that were read are not; the first is "
                f"{values[row, voxel]} in voxel {voxel} of shower {number}."
            )
        return values


def _common_type(paths):
    types = []
    for path in paths:
        with open_hdf5(path) as file:
            types.append(require(file, SHOWERS).dtype)
    return np.result_type(*types)


def _check(path):
    """Energies of particles of shape (n, 1), and shape and chunks of the showers of a file."""
    with open_hdf5(path) as file:
        showers, energies = require(file, SHOWERS), require(file, ENERGIES)
        for name, node in ((SHOWERS, showers), (ENERGIES, energies)):
            if not hasattr(node, "dtype") or node.dtype.kind not in "iuf":
                raise ValueError(f"{name!r} of {path} must be an array of numbers.")
        if showers.ndim != 2 or 0 in showers.shape:
            raise ValueError(
                f"{SHOWERS!r} of {path} must have the shape (n_events, n_voxels), of one event at "
                f"least. Its shape is {showers.shape}."
            )
        if energies.shape not in ((len(showers), 1), (len(showers),)):
            raise ValueError(
                f"{ENERGIES!r} of {path} must have one energy for each of {len(showers)} showers. "
                f"Its shape is {energies.shape}."
            )
        values = read_rows(energies).astype(np.float64).reshape(-1, 1)
        n_bad = np.count_nonzero(~(np.isfinite(values) & (values > 0)))
        if n_bad:
            raise ValueError(
                f"{ENERGIES!r} of {path} must be positive and finite. {n_bad} of {len(values)} are "
                "not."
            )
        return values, showers.shape, showers.chunks


def _read_binning(path, particle):
    """Voxels and numbers of the layers that an XML file describes for a particle."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise ValueError(f"Cannot read the binning {path}: it is no XML ({error}).") from error
    bins = {node.get("name"): node for node in root.iter("Bin")}
    if particle is None and len(bins) == 1:
        (particle,) = bins
    if particle not in bins:
        raise ValueError(
            f"The 'particle' parameter of read_calochallenge must be one of {list(bins)}, which "
            f"{path.name} describes. Got {particle!r} instead."
        )
    r_edges, n_alpha, ids = [], [], []
    for layer in bins[particle].iter("Layer"):
        try:
            edges = [float(r) for r in layer.attrib["r_edges"].split(",")]
            sectors, number = int(layer.attrib["n_bin_alpha"]), int(layer.attrib["id"])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"Cannot read the binning {path}: each Layer must have an 'id', 'r_edges' and "
                f"'n_bin_alpha'. Got {layer.attrib!r} instead."
            ) from error
        if len(edges) > 1:
            r_edges.append(edges)
            n_alpha.append(sectors)
            ids.append(number)
    if not ids:
        raise ValueError(f"The binning {path} has no layer with rings for {particle!r}.")
    return CylindricalVoxels(r_edges, n_alpha), ids
