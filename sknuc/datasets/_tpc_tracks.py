r"""From particles to points: transport, drift and readout of a time projection chamber.

In a field B along z a particle of charge Ze and momentum p turns by :math:`d\varphi/ds = -ZeB/p`
per path length, at a constant angle to z: a helix of radius :math:`r = p_T/(ZeB)`, or

.. math:: r[\text m] = p_T[\text{GeV}/c] / (0.2998\,Z B[\text T]),

which shrinks as the particle slows down. A step of length h is an arc of the curvature in its
middle. It frees dE/W electrons on average, whose number has the variance F dE/W (Fano), and each is
multiplied with the relative variance 1/(1 + θ) (Polya); the charge is drawn from the Gamma
distribution of the same mean and variance.

Electrons drift to the pad plane and spread by :math:`\sigma = D \sqrt{L}` on the way, across and
along; the share of the cloud that every pad and time bucket sees is the integral of a Gaussian.
Samples below the threshold are suppressed, and what is left are the points. A sample is known by
its key, (row of pads · rows + column) · time buckets + time bucket.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["CURVATURE", "Detector", "Samples", "simulate", "to_points"]

# The integral of a Gaussian is cut at so many standard deviations, and scaled to one.
_REACH = 3.0
# 0.3 Z B / p in 1/m with p in GeV/c, or 1/mm with p in MeV/c.
CURVATURE = 0.299792458
# Slots of the hash table at first.
_ROOM = 1 << 13


class Detector(NamedTuple):
    """The chamber and its electronics; lengths in mm, charges in ADC counts."""

    field: float
    step: float
    length: float
    radius: float
    bucket: float
    n_buckets: int
    pitch: float
    gain: float
    energy_per_electron: float
    variance: float
    transverse: float
    longitudinal: float
    threshold: float
    saturation: float


class Samples(NamedTuple):
    """Charges in pads and time buckets."""

    event: np.ndarray
    key: np.ndarray
    charge: np.ndarray


def to_points(samples, n_side, det):
    """Points (x, y, z, charge) of samples: events in order, and pad by pad within each.

    Parameters
    ----------
    samples : Samples
        In the order of the events.
    n_side : int
        Rows of the lattice of pads.
    det : Detector

    Returns
    -------
    points : float32 ndarray of shape (n_points, 4)
    """
    # The order in which samples were filled is that of the track, which no detector knows.
    order = np.argsort(samples.event * (n_side**2 * det.n_buckets) + samples.key)
    key = samples.key[order]
    pad, bucket = key // det.n_buckets, key % det.n_buckets
    points = np.empty((len(key), 4), dtype=np.float32)
    points[:, 0] = (pad // n_side + 0.5 - n_side // 2) * det.pitch
    points[:, 1] = (pad % n_side + 0.5 - n_side // 2) * det.pitch
    points[:, 2] = det.length - (bucket + 0.5) * det.bucket
    points[:, 3] = samples.charge[order]
    return points


@njit(cache=True)
def _energy(rest, log_energies, first, spacing):
    """Kinetic energy of an ion that still goes `rest` mm."""
    if rest <= 0.0:
        return 0.0
    place = (math.log(rest) - first) / spacing
    if place < 0.0:
        # Stopping power in proportion to the speed: the energy goes with the square of the range.
        return math.exp(log_energies[0] + 2.0 * place * spacing)
    cell = min(int(place), len(log_energies) - 2)
    left = log_energies[cell]
    return math.exp(left + (place - cell) * (log_energies[cell + 1] - left))


@njit(cache=True)
def _sinc(x):
    return math.sin(x) / x if x != 0.0 else 1.0


@njit(cache=True)
def _share(position, sigma, shares):
    """Shares of a Gaussian in unit cells; returns the first cell and the number of cells."""
    first = math.floor(position - _REACH * sigma)
    n_cells = math.floor(position + _REACH * sigma) - first + 1
    if sigma == 0.0:
        shares[0] = 1.0
        return first, 1
    scale = 1.0 / (math.sqrt(2.0) * sigma)
    lowest = lower = math.erf((first - position) * scale)
    for k in range(n_cells):
        upper = math.erf((first + k + 1 - position) * scale)
        shares[k] = upper - lower
        lower = upper
    for k in range(n_cells):
        shares[k] /= lower - lowest
    return first, n_cells


@njit(cache=True)
def _slot(keys, key):
    """Where a key is in the hash table, or where it belongs."""
    mixed = key * -7046029254386353131
    slot = (mixed ^ (mixed >> 32)) & (len(keys) - 1)
    while keys[slot] != key and keys[slot] >= 0:
        slot = (slot + 1) & (len(keys) - 1)
    return slot


@njit(cache=True)
def _add(keys, charges, used, n_used, key, charge):
    """Add charge to a sample; returns the number of samples in use."""
    slot = _slot(keys, key)
    if keys[slot] < 0:
        keys[slot] = key
        used[n_used] = slot
        n_used += 1
    charges[slot] += charge
    return n_used


@njit(cache=True)
def _room(keys, charges, used, n_used, n_more):
    """Tables with room for more samples: at most half of a hash table is in use."""
    size = len(keys)
    while n_used + n_more > size // 2:
        size *= 2
    if size == len(keys):
        return keys, charges, used
    new_keys, new_charges = np.full(size, -1), np.zeros(size)
    new_used = np.empty(size // 2, dtype=np.int64)
    for i in range(n_used):
        slot = _slot(new_keys, keys[used[i]])
        new_keys[slot] = keys[used[i]]
        new_charges[slot] = charges[used[i]]
        new_used[i] = slot
    return new_keys, new_charges, new_used


@njit(cache=True)
def _read_out(keys, charges, used, n_used, event, det, read, n_read):
    """Move the samples of an event from the table to those that were read; empties the table.

    Returns
    -------
    read : Samples
    n_read, n_saturated : int
    """
    if n_read + n_used > len(read.event):
        room = 2 * (n_read + n_used)
        more = Samples(np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room))
        more.event[:n_read] = read.event[:n_read]
        more.key[:n_read] = read.key[:n_read]
        more.charge[:n_read] = read.charge[:n_read]
        read = more
    n_saturated = 0
    for i in range(n_used):
        slot = used[i]
        charge = min(charges[slot], det.saturation)
        n_saturated += charges[slot] > det.saturation
        if charge >= det.threshold and charge > 0.0:
            read.event[n_read] = event
            read.key[n_read] = keys[slot]
            read.charge[n_read] = charge
            n_read += 1
        keys[slot] = -1
        charges[slot] = 0.0
    return read, n_read, n_saturated


@njit(nogil=True, cache=True, error_model="numpy")
def simulate(
    rng,
    first_tracks,
    atomic_numbers,
    masses,
    tables,
    ranges,
    polar_angles,
    azimuths,
    vertices,
    log_energies,
    firsts,
    spacings,
    pad_gains,
    det,
    noise,
    deposits,
    paths,
    saturated,
):
    """Simulate a block of events.

    Parameters
    ----------
    rng : numpy.random.Generator
    first_tracks : int ndarray of shape (n_events + 1,)
        Where the tracks of each event begin, and the last ends.
    atomic_numbers, masses, ranges, polar_angles, azimuths : ndarray of shape (n_tracks,)
        Atomic number, MeV, mm, rad.
    tables : int ndarray of shape (n_tracks,)
        Which range table.
    vertices : ndarray of shape (n_tracks, 3)
        In mm.
    log_energies : ndarray of shape (n_tables, n_ranges)
    firsts, spacings : ndarray of shape (n_tables,)
        The range tables.
    pad_gains : ndarray of shape (n_side, n_side)
        Relative gain of the pads; 0 where there is none, or a dead one.
    det : Detector
    noise : Samples
        What no particle made, in the order of the events.
    deposits, paths : ndarray of shape (n_tracks,)
        Set to the energy (MeV) that is left in the chamber, and the path there (mm).
    saturated : int ndarray of shape (n_events,)
        Set to the numbers of saturated samples.

    Returns
    -------
    samples : Samples
        Above the threshold, in the order of the events.
    """
    n_side = len(pad_gains)
    widest = math.sqrt(det.length / 10.0)
    wide = widest * max(det.transverse / det.pitch, det.longitudinal / det.bucket)
    shares = np.empty((3, int(2 * _REACH * wide) + 3))
    keys, charges = np.full(_ROOM, -1), np.zeros(_ROOM)
    used = np.empty(_ROOM // 2, dtype=np.int64)
    read = Samples(np.empty(_ROOM, np.int64), np.empty(_ROOM, np.int64), np.empty(_ROOM))
    n_read = n_noise = 0

    for event in range(len(first_tracks) - 1):
        n_used = 0
        for track in range(first_tracks[event], first_tracks[event + 1]):
            table = tables[track]
            e = log_energies[table], firsts[table], spacings[table]
            mass, rest, phi = masses[track], ranges[track], azimuths[track]
            sin, cos = math.sin(polar_angles[track]), math.cos(polar_angles[track])
            x, y, z = vertices[track]
            energy = _energy(rest, *e)
            deposit = path = 0.0
            while rest > 0.0:
                h = min(det.step, rest)
                middle = _energy(rest - 0.5 * h, *e)
                momentum = math.sqrt(middle * (middle + 2.0 * mass))
                turn = -CURVATURE * atomic_numbers[track] * det.field * h / momentum
                # The chord of half an arc, and of the whole.
                half = 0.5 * h * sin * _sinc(0.25 * turn)
                here_x = x + half * math.cos(phi + 0.25 * turn)
                here_y = y + half * math.sin(phi + 0.25 * turn)
                here_z = z + 0.5 * h * cos
                if here_x**2 + here_y**2 > det.radius**2 or not 0.0 <= here_z <= det.length:
                    break
                chord = h * sin * _sinc(0.5 * turn)
                x += chord * math.cos(phi + 0.5 * turn)
                y += chord * math.sin(phi + 0.5 * turn)
                z += h * cos
                phi += turn
                rest -= h
                left = _energy(rest, *e)
                loss = energy - left
                energy = left
                deposit += loss
                path += h

                charge = det.gain * loss
                if det.variance > 0.0:
                    unit = det.variance * det.energy_per_electron
                    charge = det.gain * unit * rng.standard_gamma(loss / unit)
                drift = det.length - here_z
                spread = math.sqrt(drift / 10.0)
                across = det.transverse * spread / det.pitch
                along = det.longitudinal * spread / det.bucket
                ix, nx = _share(here_x / det.pitch + n_side // 2, across, shares[0])
                iy, ny = _share(here_y / det.pitch + n_side // 2, across, shares[1])
                it, nt = _share(drift / det.bucket, along, shares[2])
                keys, charges, used = _room(keys, charges, used, n_used, nx * ny * nt)
                for i in range(max(0, -ix), min(nx, n_side - ix)):
                    for j in range(max(0, -iy), min(ny, n_side - iy)):
                        seen = charge * shares[0, i] * shares[1, j] * pad_gains[ix + i, iy + j]
                        if seen == 0.0:
                            continue
                        key = ((ix + i) * n_side + iy + j) * det.n_buckets + it
                        for k in range(max(0, -it), min(nt, det.n_buckets - it)):
                            n_used = _add(keys, charges, used, n_used, key + k, seen * shares[2, k])
            deposits[track] = deposit
            paths[track] = path

        while n_noise < len(noise.event) and noise.event[n_noise] == event:
            keys, charges, used = _room(keys, charges, used, n_used, 1)
            key, charge = noise.key[n_noise], noise.charge[n_noise]
            n_used = _add(keys, charges, used, n_used, key, charge)
            n_noise += 1
        read, n_read, saturated[event] = _read_out(
            keys, charges, used, n_used, event, det, read, n_read
        )
    return Samples(read.event[:n_read], read.key[:n_read], read.charge[:n_read])
