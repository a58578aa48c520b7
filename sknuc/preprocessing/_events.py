"""What comes in: waveforms in memory or on disk, and whether their baseline is zero."""

import math

import numpy as np

from sknuc.base import validate_events

__all__ = ["check_waveforms", "is_on_disk", "require_zero_baseline", "transform_blocks"]

# Of data on disk, what `fit` looks at, and what `transform` has in memory at a time.
_SAMPLE_BYTES = 2**26
_BLOCK_BYTES = 2**24
# Neighbouring rows lie together on disk, and are read together.
_GROUP = 64


def is_on_disk(X):
    """Whether rows are read when they are indexed: HDF5 datasets, `HDF5Rows` and their like."""
    return not isinstance(X, np.ndarray) and all(
        hasattr(X, name) for name in ("chunks", "shape", "dtype", "__getitem__")
    )


def check_waveforms(estimator, X, *, reset, min_samples=1):
    """Validate waveforms: a table of uint16, int16, float32 or float64 with finite values.

    Of data on disk, evenly spaced groups of rows are read, 64 MiB in all.
    """
    if is_on_disk(X):
        X = _sample(X)
    return validate_events(
        estimator,
        X,
        reset=reset,
        dtype=(np.float64, np.float32, np.uint16, np.int16),
        ensure_min_features=min_samples,
    )


def _row_bytes(X):
    return max(math.prod(X.shape[1:]) * np.dtype(X.dtype).itemsize, 1)


def _sample(X):
    n_rows = X.shape[0]
    keep = max(_SAMPLE_BYTES // _row_bytes(X), 1)
    if n_rows <= keep:
        return np.asarray(X[:n_rows])
    group = min(_GROUP, keep)
    starts = np.linspace(0, n_rows - group, keep // group).astype(int)
    return np.concatenate([np.asarray(X[start : start + group]) for start in starts])


def transform_blocks(estimator, X, transform):
    """Read waveforms on disk block by block and join what `transform` makes of each.

    Parameters
    ----------
    estimator : estimator instance
        Fitted; it says which shape the events have.
    X : array-like on disk of shape (n_events, ...)
    transform : callable
        From an ndarray of events to their rows of the result; it validates them.

    Returns
    -------
    X_new : ndarray of shape (n_events, n_out)
    """
    # The shape is judged on one row, before any is read.
    n_rows, *event_shape = X.shape
    stub = np.broadcast_to(np.zeros((), np.float32), (min(n_rows, 1), *event_shape))
    validate_events(estimator, stub, reset=False)
    block = max(_BLOCK_BYTES // _row_bytes(X), 1)
    first = transform(np.asarray(X[: min(block, n_rows)]))
    out = np.empty((n_rows, first.shape[1]), dtype=first.dtype)
    out[: len(first)] = first
    for start in range(len(first), n_rows, block):
        stop = min(start + block, n_rows)
        out[start:stop] = transform(np.asarray(X[start:stop]))
    return out


def require_zero_baseline(estimator, rows):
    """Refuse waveforms that stand on a pedestal, of which a step would make nonsense.

    An event stands on one where its first samples are flat, a pulse of ten times their scatter
    rises after them, and their median is more than 5 % of that pulse. Waveforms that were cut to
    begin on the pulse are not flat before a rise. More than half of the events with a flat start
    and a pulse must agree, in sign too: what slow noise leaves of a baseline has either sign.

    Parameters
    ----------
    estimator : estimator instance
        Named in the error.
    rows : ndarray of shape (n_waveforms, n_samples)

    Raises
    ------
    ValueError
        If the waveforms have a pedestal.
    """
    n_first = max(rows.shape[1] // 32, 8)
    if rows.shape[1] < 4 * n_first:
        return
    first = rows[:, :n_first].astype(np.float64)
    middle = np.median(first, axis=1)
    scatter = first.std(axis=1)
    half = n_first // 2
    trend = np.abs(first[:, -half:].mean(axis=1) - first[:, :half].mean(axis=1))
    pulse = rows.max(axis=1) - middle
    # Rounding errors are neither a pulse nor a trend.
    tiny = 1e-6 * np.abs(middle)
    usable = (pulse > 10.0 * scatter + tiny) & (trend <= scatter + tiny)
    above = usable & (middle > 0.05 * pulse)
    below = usable & (middle < -0.05 * pulse)
    pedestal = max(above, below, key=np.count_nonzero)
    if 2 * np.count_nonzero(pedestal) > np.count_nonzero(usable):
        name = type(estimator).__name__
        raise ValueError(
            f"{name} needs waveforms with a baseline of zero, but {np.count_nonzero(pedestal)} of "
            f"{np.count_nonzero(usable)} with a pulse start on a pedestal, of "
            f"{np.median(middle[pedestal]):g} (median) for pulses of "
            f"{np.median(pulse[pedestal]):g}. Put BaselineSubtractor before {name}."
        )
