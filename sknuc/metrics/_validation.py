"""What the functions of this room accept for columns of events and for intervals."""

import numpy as np
from sklearn.utils import column_or_1d

__all__ = ["check_column", "check_interval"]


def check_column(name, values):
    """Return one finite number per event, of one event at least, as float64."""
    values = column_or_1d(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError(f"The '{name}' parameter holds no events.")
    n_bad = np.count_nonzero(~np.isfinite(values))
    if n_bad:
        raise ValueError(
            f"The '{name}' parameter must be finite. Got NaN or infinity in {n_bad} of "
            f"{len(values)} events"
            + (": the column is empty." if np.all(np.isnan(values)) else "; leave them out.")
        )
    return values


def check_interval(name, interval):
    """Return the ends of a non-empty, finite interval."""
    # Words, sets and dicts can be iterated over too, but are no arrays of numbers.
    try:
        ends = np.asarray(interval)
    except ValueError:
        ends = np.array(np.nan)
    is_pair = ends.shape == (2,) and ends.dtype.kind in "iuf"
    low, high = ends.astype(np.float64).tolist() if is_pair else (np.nan, np.nan)
    if not -np.inf < low < high < np.inf:
        raise ValueError(
            f"The '{name}' parameter must give (low, high), finite and with low < high. "
            f"Got {interval!r:.200} instead."
        )
    return low, high
