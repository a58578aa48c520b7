"""What a time projection chamber reads where no particle was."""

import numpy as np

from sknuc.datasets._tpc_tracks import Samples

__all__ = ["draw_noise"]

# The pads of a front-end chip, 64 channels, lie in a square.
_CHIP = 8
_SPARK = (5, 60)  # time buckets


def draw_noise(rng, n_events, pad_gains, n_buckets, settings):
    """Draw noise: single samples, chips that fire as a whole, and pads that go on and on.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_events : int
    pad_gains : ndarray of shape (n_side, n_side)
        Dead pads, with a gain of zero, are silent.
    n_buckets : int
    settings : dict
        Of the detector, see ``TPC_DETECTORS``.

    Returns
    -------
    noise : Samples
        In the order of the events.
    """
    live = np.flatnonzero(pad_gains)
    low, high = settings["noise_pads"]

    def start(mean_or_counts):
        counts = mean_or_counts
        if np.ndim(counts) == 0:
            counts = rng.poisson(mean_or_counts, n_events)
        events = np.repeat(np.arange(n_events), counts)
        return events, rng.choice(live, len(events)), rng.integers(0, n_buckets, len(events))

    single = start(rng.integers(low, high + 1, n_events))

    events, pads, buckets = start(settings["chip_noise"])
    n_side = len(pad_gains)
    inside = np.arange(_CHIP)
    rows = (pads // n_side // _CHIP * _CHIP)[:, None, None] + inside[:, None]
    columns = (pads % n_side // _CHIP * _CHIP)[:, None, None] + inside
    rows, columns = np.broadcast_arrays(rows, columns)
    fires = (rows < n_side) & (columns < n_side)
    fires[fires] = pad_gains[rows[fires], columns[fires]] > 0
    which = np.nonzero(fires)[0]
    chips = events[which], (rows * n_side + columns)[fires], buckets[which]

    events, pads, buckets = start(settings["sparks"])
    lengths = np.minimum(rng.integers(*_SPARK, len(events)), n_buckets - buckets)
    which = np.repeat(np.arange(len(events)), lengths)
    since = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    sparks = events[which], pads[which], buckets[which] + since

    events, pads, buckets = (
        np.concatenate(parts) for parts in zip(single, chips, sparks, strict=True)
    )
    above = settings["noise_charge"] * rng.standard_exponential(len(events))
    order = np.argsort(events, kind="stable")
    keys = pads * n_buckets + buckets
    return Samples(events[order], keys[order], settings["threshold"] + above)
