"""What happens in simulated events of an active target: reactions, their products and pile-up."""

import math
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch

from sknuc.datasets._tpc_gas import IONS
from sknuc.datasets._tpc_tracks import CURVATURE

__all__ = ["CLASSES", "KINDS", "Tracks", "draw_tracks", "recoil", "summarize_truth"]

CLASSES = ("proton", "carbon", "other")
KINDS = ("recoil", "pile_up", "beam", "ion", "noise")

_INDEX = {name: i for i, name in enumerate(IONS)}
_BEAM = _INDEX["46Ar"]
_STRAY = [_INDEX[name] for name in ("deuteron", "alpha", "7Li", "16O")]
# Below this angle in the centre of mass the recoil's track is too short to be seen.
_LEAST_ANGLE = math.radians(30)
_LEAST_BEAM_ENERGY = 1.0  # MeV per nucleon
_EXCITATION = 1.55  # first 2+ state of 46Ar, MeV
_INELASTIC = 0.2
_BEAM_WIDTH = 2.0  # mm
_BEAM_SPREAD = 0.02  # rad
_STRAY_RADIUS = 0.75  # of that of the chamber
_STRAY_ENERGY = (0.2, 2.0)  # MeV per nucleon


class Tracks(NamedTuple):
    """Particles at their origin, in the order of their events."""

    event: np.ndarray
    ion: np.ndarray
    """Index in `IONS`."""
    energy: np.ndarray
    """Kinetic, in MeV."""
    polar_angle: np.ndarray
    azimuth: np.ndarray
    vertex: np.ndarray
    """Shape (n_tracks, 3), in mm."""


def recoil(beam_energy, beam_mass, target_mass, excitation, cosine):
    """Energy and angle of a target nucleus at rest that a beam particle hits (relativistic).

    Parameters
    ----------
    beam_energy : ndarray
        Kinetic, in MeV.
    beam_mass, target_mass, excitation : float or ndarray
        In MeV; the excitation stays with the beam particle.
    cosine : ndarray
        Of the scattering angle in the centre of mass.

    Returns
    -------
    energy : ndarray
        Kinetic, in MeV.
    polar_angle : ndarray
        Against the beam, in the laboratory.
    """
    momentum = np.sqrt(beam_energy * (beam_energy + 2 * beam_mass))
    total = beam_energy + beam_mass + target_mass
    s = total**2 - momentum**2
    heavy = beam_mass + excitation
    after = (s - (heavy + target_mass) ** 2) * (s - (heavy - target_mass) ** 2) / (4 * s)
    after = np.sqrt(after)
    beta, gamma = momentum / total, total / np.sqrt(s)
    own = np.sqrt(after**2 + target_mass**2)
    energy = gamma * (own - beta * after * cosine) - target_mass
    along = gamma * (beta * own - after * cosine)
    return energy, np.arctan2(after * np.sqrt((1 - cosine) * (1 + cosine)), along)


def draw_tracks(rng, target, beam_table, beam_energy, length, radius, beam_rate):
    """Draw the tracks of events.

    Parameters
    ----------
    rng : numpy.random.Generator
    target : int ndarray of shape (n_samples,)
        Classes.
    beam_table : RangeTable
        Of the beam in the gas.
    beam_energy : float
        Kinetic, where the beam enters, in MeV.
    length, radius : float
        Of the chamber, in mm.
    beam_rate : float
        Mean number of beam particles in an event that have nothing to do with it.

    Returns
    -------
    tracks : Tracks
        In the order of the events, that of interest first.
    kind : int ndarray of shape (n_samples,)
        Indices in `KINDS`.
    """
    everyone = np.arange(len(target))
    kind = np.where(target == 2, rng.integers(1, len(KINDS), len(target)), 0)
    light = np.array([_INDEX["proton"], _INDEX["carbon"]])
    piled = np.repeat(everyone[kind == 1], rng.integers(2, 4, np.count_nonzero(kind == 1)))
    ions = np.r_[light[target[kind == 0]], light[rng.integers(0, 2, len(piled))]]
    events = np.r_[everyone[kind == 0], piled]
    beam = beam_table, beam_energy
    parts = [
        _recoils(rng, events, ions, *beam, length),
        _beam(rng, everyone[kind == 2], beam_energy),
        _strays(rng, everyone[kind == 3], length, radius),
        _beam(rng, np.repeat(everyone, rng.poisson(beam_rate, len(target))), beam_energy),
    ]
    tracks = [np.concatenate(values) for values in zip(*parts, strict=True)]
    order = np.argsort(tracks[0], kind="stable")
    return Tracks(*(values[order] for values in tracks)), kind


def _recoils(rng, event, ion, beam_table, beam_energy, length):
    """Target nuclei hit by the beam, which slows down in the gas before."""
    n = len(event)
    masses = np.array([mass for _, mass, _ in IONS.values()])
    whole = beam_table.ranges(beam_energy)
    deepest = whole - beam_table.ranges(_LEAST_BEAM_ENERGY * IONS["46Ar"][2])
    z = rng.uniform(0.0, min(deepest, length), n)
    energy = beam_table.energies(whole - z)
    # Rutherford's 1/sin⁴(θ/2) is uniform in 1/(1 - cos θ).
    cosine = 1 - 1 / rng.uniform(0.5, 1 / (1 - math.cos(_LEAST_ANGLE)), n)
    mass, beam_mass = masses[ion], masses[_BEAM]
    momentum_squared = energy * (energy + 2 * beam_mass)
    invariant = np.sqrt((energy + beam_mass + mass) ** 2 - momentum_squared)
    is_open = invariant > beam_mass + mass + _EXCITATION
    excitation = np.where(is_open & (rng.random(n) < _INELASTIC), _EXCITATION, 0.0)
    energy, polar_angle = recoil(energy, beam_mass, mass, excitation, cosine)
    spot = rng.normal(0.0, _BEAM_WIDTH, (n, 2))
    azimuth = rng.uniform(-np.pi, np.pi, n)
    return event, ion, energy, polar_angle, azimuth, np.column_stack([spot, z])


def _beam(rng, event, beam_energy):
    """Beam particles that enter and react with nothing."""
    n = len(event)
    vertex = np.column_stack([rng.normal(0.0, _BEAM_WIDTH, (n, 2)), np.zeros(n)])
    polar_angle = rng.rayleigh(_BEAM_SPREAD, n)
    azimuth = rng.uniform(-np.pi, np.pi, n)
    return event, np.full(n, _BEAM), np.full(n, beam_energy), polar_angle, azimuth, vertex


def _strays(rng, event, length, radius):
    """Light and heavy ions of low energy from anywhere, in any direction."""
    n = len(event)
    ion = rng.choice(_STRAY, n)
    nucleons = np.array([nucleons for *_, nucleons in IONS.values()])[ion]
    energy = nucleons * np.exp(rng.uniform(*np.log(_STRAY_ENERGY), n))
    polar_angle = np.arccos(rng.uniform(-1.0, 1.0, n))
    azimuth, around = rng.uniform(-np.pi, np.pi, (2, n))
    distance = _STRAY_RADIUS * radius * np.sqrt(rng.random(n))
    z = rng.uniform(0.0, length, n)
    vertex = np.column_stack([distance * np.cos(around), distance * np.sin(around), z])
    return event, ion, energy, polar_angle, azimuth, vertex


def summarize_truth(tracks, kind, first_tracks, charges, masses, ranges, paths, deposits, field):
    """Describe events by their first track, where they have one of interest.

    Parameters
    ----------
    tracks : Tracks
    kind : int ndarray of shape (n_samples,)
        Indices in `KINDS`.
    first_tracks : int ndarray of shape (n_samples + 1,)
        Where the tracks of each event begin, and the last ends.
    charges, masses, ranges, paths, deposits : ndarray of shape (n_tracks,)
        Atomic number; MeV; mm until it stops in gas without end, and within the chamber; MeV there.
    field : float
        In T.

    Returns
    -------
    truth : Bunch
        As `make_tpc_events` describes it.
    """
    first = np.where(kind != KINDS.index("noise"), first_tracks[:-1], -1)
    momentum = np.sqrt(tracks.energy * (tracks.energy + 2 * masses))
    with np.errstate(divide="ignore"):
        radii = momentum * np.sin(tracks.polar_angle) / (CURVATURE * charges * field)
    return Bunch(
        energy=_of_first(tracks.energy, first),
        polar_angle=_of_first(tracks.polar_angle, first),
        azimuth=_of_first(tracks.azimuth, first),
        vertex=_of_first(tracks.vertex, first),
        charge=_of_first(charges, first, 0).astype(int),
        mass=_of_first(masses, first),
        radius=_of_first(radii, first),
        range=_of_first(ranges, first),
        path_length=_of_first(paths, first),
        deposited=_of_first(deposits, first),
        stopped=_of_first(paths >= ranges * (1 - 1e-9), first, False).astype(bool),
        kind=np.array(KINDS)[kind],
        n_tracks=np.diff(first_tracks),
        total_deposited=np.bincount(tracks.event, deposits, len(kind)),
    )


def _of_first(values, first, missing=np.nan):
    """The value of each event's first track, where it has one."""
    out = np.full((len(first), *values.shape[1:]), missing, dtype=np.float64)
    out[first >= 0] = values[first[first >= 0]]
    return out
