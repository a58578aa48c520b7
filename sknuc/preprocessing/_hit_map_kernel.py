r"""Compiled loops from phototube hits to maps (see `PMTHitMap`).

Each kernel makes one pass over the hits of a block of events, whose arrays stay in the processor's
cache, and releases the global interpreter lock. An event's result depends on that event alone and
on no order of its hits: times are binned one by one, and a cell is summed in 64-bit floats.
"""

import numpy as np
from numba import njit

__all__ = ["centroid_rows", "fill_rows", "read_rows", "start_rows"]


@njit(nogil=True, cache=True, error_model="numpy")
def read_rows(hits, columns, n_pmt, pmt, time, charge):
    """Unpack hits of any layout; return the flat index of the first bad one, or -1.

    Parameters
    ----------
    hits : ndarray of shape (n, P, F)
    columns : (int, int, int)
        Columns of PMT id, time and charge; -1 where there is none. Without ids, row p is PMT p.
    n_pmt : int
    pmt : int64 ndarray of shape (n, P)
        Out: the PMT of each hit, -1 where there is no hit.
    time, charge : float64 ndarray of shape (n, P)
        Out: in ns and pe.
    """
    n_events, n_rows, n_columns = hits.shape
    pmt_column, time_column, charge_column = columns
    for i in range(n_events):
        for p in range(n_rows):
            zero = True
            for k in range(n_columns):
                zero &= hits[i, p, k] == 0.0
            q = hits[i, p, charge_column] if charge_column >= 0 else 1.0
            # In a readout of all PMTs an idle one may show a time, but no charge.
            if zero or (pmt_column < 0 and q == 0.0):
                pmt[i, p] = -1
                continue
            tube = hits[i, p, pmt_column] if pmt_column >= 0 else float(p)
            if not (0.0 <= tube < n_pmt and tube == np.floor(tube) and q > 0.0):
                return i * n_rows + p
            pmt[i, p] = int(tube)
            time[i, p] = hits[i, p, time_column]
            charge[i, p] = q
    return -1


@njit(nogil=True, cache=True, error_model="numpy")
def centroid_rows(pmt, charge, levers, area, vertex):
    """Three halves of the mean lever of the light, per unit of area; 0 without hits.

    Levers are positions relative to the mean that the same light in all tubes has.
    """
    for i in range(len(pmt)):
        x, y, z, total = 0.0, 0.0, 0.0, 0.0
        for p in range(pmt.shape[1]):
            tube = pmt[i, p]
            if tube >= 0:
                light = charge[i, p] * area[tube]
                x += light * levers[tube, 0]
                y += light * levers[tube, 1]
                z += light * levers[tube, 2]
                total += light
        if total > 0.0:
            vertex[i, 0] = 1.5 * x / total
            vertex[i, 1] = 1.5 * y / total
            vertex[i, 2] = 1.5 * z / total


@njit(nogil=True, cache=True, error_model="numpy")
def start_rows(pmt, time, positions, vertex, light_speed, t0, start):
    """Subtract the time of flight and the start of the event from the times, in place.

    Parameters
    ----------
    pmt : int64 ndarray of shape (n, P)
    time : float64 ndarray of shape (n, P)
    positions : ndarray of shape (n_pmt, 3) or (0, 3)
        In cm; none for no time of flight.
    vertex : ndarray of shape (n, 3)
    light_speed : float
        In cm/ns.
    t0 : {"median", "mean", ""}
        What is the start of an event; "" for `start`.
    start : float
        In ns.
    """
    buffer = np.empty(pmt.shape[1])
    for i in range(len(pmt)):
        n_hits = 0
        for p in range(pmt.shape[1]):
            tube = pmt[i, p]
            if tube >= 0:
                if len(positions):
                    x = positions[tube, 0] - vertex[i, 0]
                    y = positions[tube, 1] - vertex[i, 1]
                    z = positions[tube, 2] - vertex[i, 2]
                    time[i, p] -= np.sqrt(x * x + y * y + z * z) / light_speed
                buffer[n_hits] = time[i, p]
                n_hits += 1
        if n_hits == 0:
            continue
        if t0 == "median":
            start = np.median(buffer[:n_hits])
        elif t0 == "mean":
            start = np.mean(buffer[:n_hits])
        for p in range(pmt.shape[1]):
            time[i, p] -= start


@njit(nogil=True, cache=True, error_model="numpy")
def fill_rows(pixel, time, weight, edges, clip, maps, largest):
    """Add hits up in maps of zeros.

    Parameters
    ----------
    pixel : int64 ndarray of shape (n, P)
        -1 where there is no hit.
    time, weight : float64 ndarray of shape (n, P)
    edges : float64 ndarray of shape (n_bins + 1,)
        Bins contain their lower edge.
    clip : bool
        Whether hits outside the edges count in the first or last bin, or nowhere.
    maps : ndarray of shape (n, n_bins, n_pixels)
        Out.
    largest : float64 ndarray of shape (n,)
        Out: the largest cell of each event, before it is converted to the type of the maps.
    """
    n_bins, n_pixels = maps.shape[1:]
    cells = np.zeros(n_bins * n_pixels)
    where = np.empty(pixel.shape[1], np.int64)
    for i in range(len(pixel)):
        n_inside = 0
        for p in range(pixel.shape[1]):
            if pixel[i, p] < 0:
                continue
            k = np.searchsorted(edges, time[i, p], side="right") - 1
            if clip:
                k = min(max(k, 0), n_bins - 1)
            if 0 <= k < n_bins:
                cell = k * n_pixels + pixel[i, p]
                cells[cell] += weight[i, p]
                where[n_inside] = cell
                n_inside += 1
        for j in range(n_inside):
            cell = where[j]
            total = cells[cell]
            # A cell of several hits was written, and cleared, at the first of them.
            if total > 0.0:
                maps[i, cell // n_pixels, cell % n_pixels] = total
                largest[i] = max(largest[i], total)
                cells[cell] = 0.0
