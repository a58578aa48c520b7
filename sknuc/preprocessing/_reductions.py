"""Compiled sums and maxima of one row, in vector instructions.

Rows and windows of them are passed as views that start at zero: indices that cannot be negative
are what lets the compiler use vector instructions.

The cache of a compiled caller does not notice a change in this file: after one, delete the files
``*.nbi`` and ``*.nbc`` in ``__pycache__``.
"""

import numpy as np
from numba import njit

__all__ = [
    "FAST",
    "INNER",
    "is_clipped",
    "line_fit",
    "maximum",
    "maximum_rise",
    "mean",
    "quiet_rms",
    "rms",
    "sample_noise",
    "scatter",
]

# Without NaN (validated) sums may be reordered and maxima vectorised; the order is fixed when the
# kernel is compiled and does not depend on threads.
FAST = {"nnan", "nsz", "reassoc", "contract"}
# Functions that only compiled code calls need no entry points from Python or C, and no cache of
# their own: they are part of their caller's.
INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


@njit(fastmath=FAST, **INNER)
def mean(x):
    """Mean, relative to the first sample, which keeps the digits of small differences."""
    total = 0.0
    for k in range(len(x)):
        total += x[k] - x[0]
    return x[0] + total / len(x)


@njit(fastmath=FAST, **INNER)
def scatter(x):
    """Standard deviation of samples."""
    centre = mean(x)
    square = 0.0
    for k in range(len(x)):
        square += (x[k] - centre) ** 2
    return np.sqrt(square / max(len(x) - 1, 1))


@njit(fastmath=FAST, **INNER)
def rms(f):
    """Root mean square."""
    square = 0.0
    for k in range(len(f)):
        square += f[k] * f[k]
    return np.sqrt(square / len(f))


@njit(fastmath=FAST, **INNER)
def sample_noise(x):
    """Noise of single samples from differences of neighbours, which drifts do not enter."""
    later = x[1:]
    square = 0.0
    for k in range(len(later)):
        square += (later[k] - x[k]) ** 2
    return np.sqrt(0.5 * square / max(len(later), 1))


@njit(**INNER)
def quiet_rms(f, default):
    """Second smallest rms of four quarters: an early pulse is seen in two of them at most."""
    quarter = len(f) // 4
    if quarter < 8:
        return default
    smallest = np.inf
    second = np.inf
    for q in range(4):
        here = rms(f[q * quarter : (q + 1) * quarter])
        if here < smallest:
            smallest, second = here, smallest
        elif here < second:
            second = here
    return second


@njit(fastmath=FAST, **INNER)
def maximum(f):
    """Maximum, four at a time: one comparison need not wait for the one before."""
    n = len(f) // 4
    a, b, c, d = f[:n], f[n : 2 * n], f[2 * n : 3 * n], f[3 * n : 4 * n]
    top_a = top_b = top_c = top_d = f[len(f) - 1]
    for k in range(n):
        top_a = max(top_a, a[k])
        top_b = max(top_b, b[k])
        top_c = max(top_c, c[k])
        top_d = max(top_d, d[k])
    top = max(max(top_a, top_b), max(top_c, top_d))
    for k in range(4 * n, len(f)):
        top = max(top, f[k])
    return top


@njit(fastmath=FAST, **INNER)
def maximum_rise(f, lag, out):
    """Greatest difference between samples that are `lag` apart."""
    n = len(f) - lag
    if n <= 0:
        return 0.0
    later = f[lag:]
    for k in range(n):
        out[k] = later[k] - f[k]
    return maximum(out[:n])


@njit(fastmath=FAST, **INNER)
def line_fit(y):
    """Slope per sample and standard deviation of the residuals of a straight-line fit."""
    n = len(y)
    height = mean(y)
    centre = 0.5 * (n - 1)
    sxy = 0.0
    syy = 0.0
    for k in range(n):
        d = y[k] - height
        sxy += (k - centre) * d
        syy += d * d
    sxx = n * (n * n - 1.0) / 12.0
    slope = sxy / sxx
    return slope, np.sqrt(max(syy - slope * sxy, 0.0) / (n - 2))


@njit(fastmath=FAST, **INNER)
def _count(x, value):
    n = 0.0
    for k in range(len(x)):
        n += 1.0 if x[k] == value else 0.0
    return n


@njit(**INNER)
def is_clipped(x, value, before):
    """Whether samples stay at an extreme value longer than noise would let them.

    Eight equal samples in a row, and twice as many as are equal anywhere in the baseline, which
    tells how coarsely the noise is digitised.
    """
    # Nearly all waveforms end here, after one fast pass.
    if _count(x, value) < 8:
        return False
    run = 0
    longest = 0
    for k in range(len(x)):
        run = run + 1 if x[k] == value else 0
        longest = max(longest, run)
    if longest < 8:
        return False
    run = 1
    usual = 1
    for k in range(1, len(before)):
        run = run + 1 if before[k] == before[k - 1] else 1
        usual = max(usual, run)
    return longest >= 2 * usual
