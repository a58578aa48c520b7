r"""The whole analysis of one germanium waveform in one compiled pass (see `PulseShapeFeatures`).

A waveform is read once. Its baseline-subtracted, pole-zero-corrected samples :math:`y_n` and their
running sum :math:`S_n = \sum_{k<n} y_k` then stay in the processor's cache, where each filter is a
difference of running sums; only the filter that finds the start of the pulse, the smoothing of
the current and the cusp filter are weighted sums.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["FEATURES", "Lengths", "pulse_shape_rows"]

# Without NaN (validated) sums may be reordered and maxima vectorised; the order is fixed when the
# kernel is compiled and does not depend on threads.
_FAST = {"nnan", "nsz", "reassoc", "contract"}

FEATURES = (
    "energy",
    "energy_max",
    "energy_cusp",
    "t0",
    "t50",
    "rise_time",
    "current",
    "a_over_e",
    "drift_time",
    "late_charge",
    "tail_slope",
    "tail_noise",
    "baseline",
    "baseline_slope",
    "baseline_noise",
    "saturated",
    "pileup",
    "no_pulse",
    "truncated",
)


class Lengths(NamedTuple):
    """Lengths in samples."""

    baseline: int
    rise: int
    flat: int
    pickoff: int
    t0_rise: int
    t0_fall: int
    current: int
    drift: int
    drift_flat: int
    late: int
    tail: int


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _fast_filter(total, double, rise, fall, out):
    """Mean of the last samples, weighted with their order, less the mean of those before them.

    The weights R, R - 1, ... 1 are a sum of windows, hence a difference of sums of running sums.
    """
    first = rise + fall - 1
    out[:first] = 0.0
    n = len(out) - first
    # Views that start at zero: indices that cannot be negative make vector instructions.
    filtered = out[first:]
    now = total[first + 1 :]
    front = total[fall:]
    double_now = double[first + 1 :]
    double_front = double[fall:]
    weight = 2.0 / (rise * (rise + 1.0))
    for k in range(n):
        triangle = rise * now[k] - (double_now[k] - double_front[k])
        filtered[k] = weight * triangle - (front[k] - total[k]) / fall


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _maximum(f):
    # Four at a time: one comparison need not wait for the one before.
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


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _maximum_rise(f, lag, out):
    """Greatest difference between samples that are `lag` apart."""
    n = len(f) - lag
    if n <= 0:
        return 0.0
    later = f[lag:]
    for k in range(n):
        out[k] = later[k] - f[k]
    return _maximum(out[:n])


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _max_trapezoid(total, rise, flat, out):
    a = total[rise:]
    b = total[rise + flat :]
    c = total[2 * rise + flat :]
    for k in range(len(c)):
        out[k] = (c[k] - b[k]) - (a[k] - total[k])
    return _maximum(out[: len(c)]) / rise


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _rms(f):
    square = 0.0
    for k in range(len(f)):
        square += f[k] * f[k]
    return np.sqrt(square / len(f))


@njit(cache=True, error_model="numpy")
def _quiet_rms(f, default):
    """Second smallest rms of four quarters: an early pulse is seen in two of them at most."""
    quarter = len(f) // 4
    if quarter < 8:
        return default
    smallest = np.inf
    second = np.inf
    for q in range(4):
        rms = _rms(f[q * quarter : (q + 1) * quarter])
        if rms < smallest:
            smallest, second = rms, smallest
        elif rms < second:
            second = rms
    return second


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _scatter(x):
    """Standard deviation of samples."""
    mean = 0.0
    for k in range(len(x)):
        mean += x[k]
    mean /= len(x)
    square = 0.0
    for k in range(len(x)):
        square += (x[k] - mean) ** 2
    return np.sqrt(square / max(len(x) - 1, 1))


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _line_fit(y):
    """Slope per sample and standard deviation of the residuals of a straight-line fit."""
    n = len(y)
    mean = 0.0
    for k in range(n):
        mean += y[k]
    mean /= n
    centre = 0.5 * (n - 1)
    sxy = 0.0
    syy = 0.0
    for k in range(n):
        d = y[k] - mean
        sxy += (k - centre) * d
        syy += d * d
    sxx = n * (n * n - 1.0) / 12.0
    slope = sxy / sxx
    return slope, np.sqrt(max(syy - slope * sxy, 0.0) / (n - 2))


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _current_maximum(current, phases, smooth):
    """Maximum of the smoothed, up-sampled current; `phases` are the filter's taps per phase."""
    n_phases, n_taps = phases.shape
    n = len(current) - n_taps + 1
    top = -np.inf
    for p in range(n_phases):
        for a in range(n):
            smooth[a] = 0.0
        for d in range(n_taps):
            w = phases[p, d]
            shifted = current[d:]
            for a in range(n):
                smooth[a] += w * shifted[a]
        top = max(top, _maximum(smooth))
    return top


@njit(cache=True, error_model="numpy")
def _crossing(y, threshold, n):
    """Walk back from sample `n`: where `y` rises through `threshold`, between two samples."""
    while n > 0 and not (y[n - 1] < threshold <= y[n]):
        n -= 1
    if n == 0:
        return np.nan
    return n - 1 + (threshold - y[n - 1]) / (y[n] - y[n - 1])


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _mean(x):
    # Relative to the first sample, which keeps the digits of small differences.
    total = 0.0
    for k in range(len(x)):
        total += x[k] - x[0]
    return x[0] + total / len(x)


@njit(cache=True, error_model="numpy")
def _baseline_drift(x, mean):
    """Slope per sample of the first samples, and its error from eight parts of them.

    Slow noise makes neighbouring samples alike, so that the scatter of single samples says
    little about the error of a slope.
    """
    n_part = len(x) // 8
    if n_part == 0:
        return 0.0, 0.0
    sxy = 0.0
    syy = 0.0
    for p in range(8):
        d = _mean(x[p * n_part : (p + 1) * n_part]) - mean
        sxy += (p - 3.5) * d
        syy += d * d
    # Sums over p of (p - 3.5)^2 = 42; two parameters are fitted to eight means.
    error = np.sqrt(max(syy - sxy * sxy / 42.0, 0.0) / 6.0 / 42.0)
    return sxy / 42.0 / n_part, error / n_part


@njit(cache=True, error_model="numpy")
def _t0(f, total, top, level, rise, fall):
    """First sample of the pulse: back from the maximum of the filter to its noise.

    LEGEND's front window has the weights 2 (R - k) / R^2, which sum to 1 + 1/R.
    """
    first = rise + fall - 1
    n = first
    while f[n] != top:
        n += 1
    later = np.inf
    while n >= first:
        rear = (total[n + 1 - rise] - total[n + 1 - rise - fall]) / fall
        value = f[n] + (f[n] + rear) / rise
        if value < level <= later:
            return n + 1
        later = value
        n -= 1
    return -1


@njit(fastmath=_FAST, cache=True, error_model="numpy")
def _cusp_energy(late, early, cusp):
    """Difference of two weighted means, with most weight next to the flat gap between them."""
    # Weights fall along `late` and, reversed in time, along `early`.
    last = len(cusp) - 1
    energy = 0.0
    for k in range(len(cusp)):
        energy += cusp[k] * (late[k] - early[last - k])
    return energy


@njit(cache=True, error_model="numpy")
def _pulse_shape(x, y, total, double, f, current, smooth, out, n, phases, cusp, scalars):
    """Fill one row of the table; `x` holds the samples, everything else is scratch or settings."""
    period, pole_zero_gain, low, high, threshold, fill = scalars
    n_samples = len(x)
    out[:] = fill

    before = x[: n.baseline]
    baseline = _mean(before)
    noise = _scatter(before)
    slope, slope_error = _baseline_drift(before, baseline)
    lowest = x[0]
    highest = x[0]
    charge = 0.0
    total[0] = 0.0
    double[0] = 0.0
    for k in range(n_samples):
        v = x[k]
        lowest = min(lowest, v)
        highest = max(highest, v)
        v -= baseline
        y[k] = v + pole_zero_gain * charge
        charge += v
        double[k + 1] = double[k] + total[k]
        total[k + 1] = total[k] + y[k]

    # Below this, differences are rounding errors.
    tiny = 1e-9 * max(abs(lowest), abs(highest))
    # What is left of an earlier pulse falls: significantly, and by more than the noise.
    drop = -slope * n.baseline
    pileup = drop > threshold * slope_error * n.baseline and drop > noise and drop > tiny
    energy_max = _max_trapezoid(total, n.rise, n.flat, f)
    out[1] = energy_max
    out[12] = baseline
    out[13] = slope * 1e3 / period
    out[14] = noise
    out[15] = 1.0 if lowest <= low or highest >= high else 0.0

    _fast_filter(total, double, n.t0_rise, n.t0_fall, f)
    first = n.t0_rise + n.t0_fall - 1
    filter_noise = _quiet_rms(f[first : n.baseline], noise)
    top = _maximum(f[first:])
    detection = max(threshold * filter_noise, tiny)
    if not top > detection:
        out[16] = 1.0 if pileup else 0.0
        out[17] = 1.0
        out[18] = 0.0
        return
    out[17] = 0.0

    # A waveform without noise starts where the filter has reached 1e-4 of its maximum.
    level = max(_scatter(before[n.baseline - max(n.baseline // 8, 1) :]), 1e-4 * top)
    t0 = _t0(f, total, top, level, n.t0_rise, n.t0_fall)
    if t0 < 0:
        out[16] = 1.0 if pileup else 0.0
        out[18] = 1.0
        return
    out[3] = t0 * period
    truncated = False

    # Another pulse lifts the fast filter at once; charge that is released slowly does not.
    lag = max(n.t0_fall // 2, 1)
    lifted = np.sqrt(2.0) * detection
    pileup = pileup or _maximum_rise(f[first : max(t0 - n.drift // 4, first)], lag, double) > lifted
    after = t0 + n.drift + n.drift_flat - lag
    pileup = pileup or _maximum_rise(f[min(after, n_samples) :], lag, double) > lifted
    out[16] = 1.0 if pileup else 0.0

    end = t0 + n.rise + n.pickoff + 1
    if end <= n_samples and end - 2 * n.rise - n.flat >= 0:
        late = total[end] - total[end - n.rise]
        early = total[end - n.rise - n.flat] - total[end - 2 * n.rise - n.flat]
        out[0] = (late - early) / n.rise
    else:
        truncated = True

    half = len(cusp)
    end = t0 + n.pickoff
    if end + half <= n_samples and end - n.flat - half >= 0:
        out[2] = _cusp_energy(y[end:], y[end - n.flat - half :], cusp)
    else:
        truncated = True

    # Half of the smoothing filter beyond either end of the window.
    begin = t0 - phases.shape[1] // 2
    if begin >= 0 and begin + len(current) < n_samples:
        for k in range(len(current)):
            current[k] = y[begin + k + 1] - y[begin + k]
        out[6] = _current_maximum(current, phases, smooth)
        if out[0] > 0.0:
            out[7] = out[6] / out[0]
    else:
        truncated = True

    end = t0 + 2 * n.drift + n.drift_flat + 1
    if end <= n_samples:
        late = total[end] - total[end - n.drift]
        early = total[end - n.drift - n.drift_flat] - total[end - 2 * n.drift - n.drift_flat]
        if energy_max > 0.0:
            out[8] = (late - early) / energy_max * period
    else:
        truncated = True

    if energy_max > 0.0:
        t99 = t0
        while t99 < n_samples - 1 and not (y[t99] <= 0.99 * energy_max < y[t99 + 1]):
            t99 += 1
        if t99 < n_samples - 1:
            t99 += 1
            t90 = _crossing(y, 0.9 * energy_max, t99)
            t50 = _crossing(y, 0.5 * energy_max, t99)
            t10 = _crossing(y, 0.1 * energy_max, t99)
            if not np.isnan(t50):
                out[4] = t50 * period
            if not np.isnan(t90 - t10):
                out[5] = (t90 - t10) * period
            t80 = _crossing(y, 0.8 * energy_max, t99)
            if not np.isnan(t80):
                begin = int(np.ceil(t80))
                end = begin + 2 * n.late
                if end <= n_samples:
                    late = total[end] - total[end - n.late]
                    early = total[end - n.late] - total[begin]
                    out[9] = (late - early) / energy_max * period
                else:
                    truncated = True

    begin = t0 + n.tail
    if n_samples - begin >= 3:
        slope, scatter = _line_fit(y[begin:])
        out[10] = slope * 1e3 / period
        out[11] = scatter
    else:
        truncated = True
    out[18] = 1.0 if truncated else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def pulse_shape_rows(X, out, n, phases, cusp, scalars):
    """Fill the rows of `out`, in the order of `FEATURES`."""
    n_samples = X.shape[1]
    y = np.empty(n_samples)
    f = np.empty(n_samples)
    total = np.empty(n_samples + 1)
    double = np.empty(n_samples + 1)
    current = np.empty(n.current + phases.shape[1] - 1)
    smooth = np.empty(n.current)
    for i in range(len(X)):
        _pulse_shape(X[i], y, total, double, f, current, smooth, out[i], n, phases, cusp, scalars)
