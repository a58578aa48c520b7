"""The two detectors of the simulated time projection chamber, and their pads."""

import math

import numpy as np

__all__ = ["TPC_DETECTORS", "draw_pad_gains", "outer_edges", "pad_lattice"]

TPC_DETECTORS = {
    "simulation": {
        "gain": 60.0,
        "transverse_diffusion": 0.25,
        "longitudinal_diffusion": 0.20,
        "threshold": 40.0,
        "saturation": 4095.0,
        "noise_pads": (20, 300),
        "noise_charge": 60.0,
        "dead_pads": 0.0,
        "gain_spread": 0.0,
        "chip_noise": 0.0,
        "sparks": 0.0,
        "beam_rate": 0.0,
    },
    "real": {
        "gain": 40.0,
        "transverse_diffusion": 0.35,
        "longitudinal_diffusion": 0.28,
        "threshold": 55.0,
        "saturation": 4095.0,
        "noise_pads": (50, 300),
        "noise_charge": 100.0,
        "dead_pads": 0.05,
        "gain_spread": 0.15,
        "chip_noise": 1.0,
        "sparks": 2.0,
        "beam_rate": 0.3,
    },
}
"""Settings of the two detectors of `make_tpc_events`, by `domain`; its parameters explain them."""

# Which pads are dead, and how gains scatter, is a property of the detector and not of the events.
_PAD_SEED = 46


def pad_lattice(n_pads, radius):
    """Square pads that fill a disc: the `n_pads` of a lattice that are nearest to its centre.

    Parameters
    ----------
    n_pads : int
    radius : float
        Of the disc of the same area, in mm.

    Returns
    -------
    is_pad : bool ndarray of shape (n_side, n_side)
    pitch : float
        In mm.
    """
    pitch = radius * math.sqrt(math.pi / n_pads)
    half = math.ceil(radius / pitch) + 1
    centres = np.arange(-half, half) + 0.5
    distance = (centres[:, None] ** 2 + centres**2).ravel()
    is_pad = np.zeros(distance.size, dtype=bool)
    is_pad[np.argsort(distance, kind="stable")[:n_pads]] = True
    return is_pad.reshape(2 * half, 2 * half), pitch


def outer_edges(is_pad, pitch):
    """Where the pads of a lattice begin and end.

    Parameters
    ----------
    is_pad : bool ndarray of shape (n_side, n_side)
    pitch : float
        In mm.

    Returns
    -------
    x, y : (float, float)
        In mm.
    """
    taken = (np.flatnonzero(is_pad.any(axis=axis)) - len(is_pad) // 2 for axis in (1, 0))
    return tuple((float(cells[0] * pitch), float((cells[-1] + 1) * pitch)) for cells in taken)


def draw_pad_gains(is_pad, pitch, hole, dead_pads, gain_spread):
    """Relative gains of the cells of a lattice, the same whenever they are drawn.

    Parameters
    ----------
    is_pad : bool ndarray of shape (n_side, n_side)
    pitch : float
        Of the lattice, in mm.
    hole : float
        Pads whose centres are nearer to the axis are switched off, in mm.
    dead_pads : float
        The fraction of pads that are dead.
    gain_spread : float
        Standard deviation of the logarithm of the gain.

    Returns
    -------
    gains : ndarray of shape (n_side, n_side)
        Zero for pads that are dead or off, and where there is none.

    Raises
    ------
    ValueError
        If no pad is left.
    """
    rng = np.random.default_rng(_PAD_SEED)
    gains = np.where(is_pad, np.exp(gain_spread * rng.standard_normal(is_pad.shape)), 0.0)
    pads = rng.permutation(np.flatnonzero(is_pad))
    gains.flat[pads[: round(dead_pads * len(pads))]] = 0.0
    centres = pitch * (np.arange(len(is_pad)) + 0.5 - len(is_pad) // 2)
    gains[np.hypot(centres[:, None], centres) < hole] = 0.0
    if not gains.any():
        raise ValueError(
            f"No pad of make_tpc_events is left with beam_hole={hole} mm and dead_pads={dead_pads}."
        )
    return gains
