r"""Compiled loops of the germanium signal chain: one pass over each waveform, many at a time.

Every kernel works on the rows of a table of waveforms and releases the global interpreter lock;
:func:`run_rows` hands blocks of rows to threads. A row's result depends on that
row alone, so it is the same for any number of threads.

All sums over windows are differences of one running sum :math:`S_n = \sum_{k<n} y_k` in 64-bit
floats, so that a filter of any length costs the same. With it the pole-zero correction of an
exponential decay :math:`c = e^{-\Delta t/\tau}` is not a recursion on its own output but

.. math:: y_n = x_n + (1 - c) \sum_{k<n} x_k ,

which is the solution of :math:`y_n = y_{n-1} + x_n - c\,x_{n-1}` with :math:`y_{-1} = 0`.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

__all__ = ["run_rows"]

# 16 traces of 8192 samples are 1 MiB of floats: they stay in the processor's cache.
_BLOCK = 16


def _read_only(array):
    """Floats in one kind of memory: each kind would be compiled anew.

    Memory maps, read-only and unaligned arrays come from users, and from joblib's workers.
    """
    array = np.require(array, np.float64, ("C", "ALIGNED", "ENSUREARRAY")).view()
    array.flags.writeable = False
    return array


def run_rows(kernel, X, out, *args):
    """Call ``kernel(X_block, out_block, *args)`` on blocks of rows, on all allowed cores.

    A block is converted to 64-bit floats when it is its turn: one compiled variant serves all
    types, and 16-bit samples are never copied as a whole. The number of threads is that of
    scikit-learn's own parallel loops: ``OMP_NUM_THREADS`` and the limits of the container are
    respected.
    """

    def run(start):
        block = _read_only(X[start : start + _BLOCK])
        kernel(block, out[start : start + _BLOCK], *args)

    args = [_read_only(a) if isinstance(a, np.ndarray) else a for a in args]
    starts = range(0, len(X), _BLOCK)
    n_threads = min(_openmp_effective_n_threads(), len(starts))
    if n_threads <= 1:
        for start in starts:
            run(start)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(run, starts):
            pass


@njit(nogil=True, cache=True, error_model="numpy")
def pole_zero_rows(X, out, rate, second_decay, gain):
    """Deconvolve one or two exponential decays into a step (see `PoleZeroCorrector`)."""
    for i in range(len(X)):
        total = 0.0
        previous = 0.0
        u = 0.0
        for n in range(X.shape[1]):
            x = X[i, n]
            y = x + rate * total
            total += x
            if second_decay > 0.0:
                u = y - second_decay * previous + gain * u
                previous = y
                y = u
            out[i, n] = y


@njit(nogil=True, cache=True, error_model="numpy")
def inverse_pole_zero_rows(X, out, rate, second_decay, gain):
    """Turn steps into exponential decays again: the inverse of `pole_zero_rows`."""
    for i in range(len(X)):
        x = 0.0
        v = 0.0
        previous_v = 0.0
        previous_u = 0.0
        for n in range(X.shape[1]):
            u = X[i, n]
            v = u
            if second_decay > 0.0:
                v = u - gain * previous_u + second_decay * previous_v
                previous_u = u
            x += v - previous_v - rate * x
            previous_v = v
            out[i, n] = x


@njit(nogil=True, cache=True, error_model="numpy")
def trapezoid_rows(X, out, rise, flat):
    """Mean of the last `rise` samples less that of `rise` samples, `flat` earlier."""
    n_samples = X.shape[1]
    total = np.zeros(n_samples + 1)
    for i in range(len(X)):
        for n in range(n_samples):
            total[n + 1] = total[n] + X[i, n]
        for n in range(1, n_samples + 1):
            # Before its first sample a waveform is taken as zero.
            early = total[max(n - rise - flat, 0)] - total[max(n - 2 * rise - flat, 0)]
            out[i, n - 1] = (total[n] - total[max(n - rise, 0)] - early) / rise


@njit(nogil=True, cache=True, error_model="numpy")
def align_rows(X, out, level, before):
    """Copy the window whose sample `before` is the rise through `level` of the maximum."""
    n_samples = X.shape[1]
    for i in range(len(X)):
        top = 0
        for n in range(n_samples):
            if X[i, n] > X[i, top]:
                top = n
        n = top
        threshold = level * X[i, top]
        while n > 0 and X[i, n - 1] >= threshold:
            n -= 1
        for k in range(out.shape[1]):
            out[i, k] = X[i, min(max(n - before + k, 0), n_samples - 1)]


@njit(nogil=True, cache=True, error_model="numpy")
def decay_rate_rows(X, out, n_baseline, n_skip, n_min, low, high):
    """Pole-zero gain 1 - c that makes a tail flat, and the weight of the event (its step).

    The slope of y = x + (1 - c) P, with P the running sum of x, is linear in 1 - c: the gain that
    makes it vanish is -slope(x) / slope(P). Events without a usable tail get the weight zero.
    """
    n_samples = X.shape[1]
    for i in range(len(X)):
        out[i, 0] = 0.0
        out[i, 1] = 0.0
        baseline = 0.0
        for n in range(n_baseline):
            baseline += X[i, n]
        baseline /= max(n_baseline, 1)
        scatter = 0.0
        for n in range(n_baseline):
            scatter += (X[i, n] - baseline) ** 2
        scatter = np.sqrt(scatter / max(n_baseline, 1))
        top = 0
        for n in range(n_samples):
            if X[i, n] > X[i, top]:
                top = n
        step = X[i, top] - baseline
        first = top + n_skip
        n_tail = n_samples - first
        if n_tail < n_min or X[i, top] >= high or step <= 10.0 * scatter:
            continue
        total = 0.0
        for n in range(first):
            total += X[i, n] - baseline
        centre = 0.5 * (n_tail - 1)
        slope_x = 0.0
        slope_p = 0.0
        for n in range(first, n_samples):
            x = X[i, n] - baseline
            slope_x += (n - first - centre) * x
            slope_p += (n - first - centre) * total
            total += x
        if slope_p > 0.0 and X[i, n_samples - 1] > low:
            out[i, 0] = max(-slope_x / slope_p, 0.0)
            out[i, 1] = step


@njit(nogil=True, cache=True, error_model="numpy")
def rise_position_rows(X, out, width):
    """Where the mean of `width` samples exceeds that of the `width` samples before it most."""
    n_samples = X.shape[1]
    for i in range(len(X)):
        late = 0.0
        early = 0.0
        for n in range(width):
            early += X[i, n]
            late += X[i, n + width]
        top = late - early
        best = width
        for n in range(width + 1, n_samples - width + 1):
            early += X[i, n - 1] - X[i, n - 1 - width]
            late += X[i, n - 1 + width] - X[i, n - 1]
            if late - early > top:
                top = late - early
                best = n
        out[i] = best
