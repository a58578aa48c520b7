r"""The whole analysis of one germanium waveform in one compiled pass (see `PulseShapeFeatures`).

A waveform is read once. Its baseline-subtracted, pole-zero-corrected samples :math:`y_n` and their
running sum :math:`S_n = \sum_{k<n} y_k` then stay in the processor's cache, where each filter is a
difference of running sums; only the filter that finds the start of the pulse, the smoothing of
the current and the cusp filter are weighted sums.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from sknuc.preprocessing._reductions import (
    FAST,
    INNER,
    is_clipped,
    line_fit,
    maximum,
    maximum_rise,
    mean,
    quiet_rms,
    sample_noise,
    scatter,
)

__all__ = ["FEATURES", "Lengths", "pulse_shape_rows"]

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

(
    ENERGY,
    ENERGY_MAX,
    ENERGY_CUSP,
    T0,
    T50,
    RISE_TIME,
    CURRENT,
    A_OVER_E,
    DRIFT_TIME,
    LATE_CHARGE,
    TAIL_SLOPE,
    TAIL_NOISE,
    BASELINE,
    BASELINE_SLOPE,
    BASELINE_NOISE,
    SATURATED,
    PILEUP,
    NO_PULSE,
    TRUNCATED,
) = range(len(FEATURES))


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


@njit(fastmath=FAST, **INNER)
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


@njit(fastmath=FAST, **INNER)
def _max_trapezoid(total, rise, flat, out):
    a = total[rise:]
    b = total[rise + flat :]
    c = total[2 * rise + flat :]
    for k in range(len(c)):
        out[k] = (c[k] - b[k]) - (a[k] - total[k])
    return maximum(out[: len(c)]) / rise


@njit(fastmath=FAST, **INNER)
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
        top = max(top, maximum(smooth))
    return top


@njit(**INNER)
def _crossing(y, threshold, n):
    """Walk back from sample `n`: where `y` rises through `threshold`, between two samples."""
    while n > 0 and not (y[n - 1] < threshold <= y[n]):
        n -= 1
    if n == 0:
        return np.nan
    return n - 1 + (threshold - y[n - 1]) / (y[n] - y[n - 1])


@njit(**INNER)
def _baseline_drift(x, baseline):
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
        d = mean(x[p * n_part : (p + 1) * n_part]) - baseline
        sxy += (p - 3.5) * d
        syy += d * d
    # Sums over p of (p - 3.5)^2 = 42; two parameters are fitted to eight means.
    error = np.sqrt(max(syy - sxy * sxy / 42.0, 0.0) / 6.0 / 42.0)
    return sxy / 42.0 / n_part, error / n_part


@njit(**INNER)
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


@njit(fastmath=FAST, **INNER)
def _cusp_energy(late, early, cusp):
    """Difference of two weighted means, with most weight next to the flat gap between them."""
    # Weights fall along `late` and, reversed in time, along `early`.
    last = len(cusp) - 1
    energy = 0.0
    for k in range(len(cusp)):
        energy += cusp[k] * (late[k] - early[last - k])
    return energy


@njit(nogil=True, cache=True, error_model="numpy")
def pulse_shape_rows(X, table, n, phases, cusp, scalars):
    """Fill the rows of `table`, in the order of `FEATURES`."""
    n_samples = X.shape[1]
    y = np.empty(n_samples)
    f = np.empty(n_samples)
    total = np.empty(n_samples + 1)
    double = np.empty(n_samples + 1)
    current = np.empty(n.current + phases.shape[1] - 1)
    smooth = np.empty(n.current)
    period, pole_zero_gain, low, high, least_step, threshold, fill = scalars
    # Not a function of its own for a row: what is inlined here would be compiled twice.
    for i in range(len(X)):
        x = X[i]
        out = table[i]
        out[:] = fill

        before = x[: n.baseline]
        baseline = mean(before)
        noise = scatter(before)
        slope, slope_error = _baseline_drift(before, baseline)
        lowest = x[0]
        highest = x[0]
        previous = x[0]
        fall = -np.inf
        charge = 0.0
        total[0] = 0.0
        double[0] = 0.0
        for k in range(n_samples):
            v = x[k]
            lowest = min(lowest, v)
            highest = max(highest, v)
            d = v - previous
            fall = max(fall, d if d < 0.0 else -np.inf)
            previous = v
            v -= baseline
            y[k] = v + pole_zero_gain * charge
            charge += v
            double[k + 1] = double[k] + total[k]
            total[k + 1] = total[k] + y[k]

        # Below this, differences are rounding errors.
        tiny = 1e-9 * max(abs(lowest), abs(highest))
        # A pulse only rises: in samples of an ADC, the smallest fall between two is one step of it.
        step = max(-fall if fall > -np.inf else 0.0, least_step)
        # What is left of an earlier pulse falls: significantly, and by more than the noise.
        drop = -slope * n.baseline
        pileup = drop > threshold * slope_error * n.baseline and drop > max(noise, step, tiny)
        energy_max = _max_trapezoid(total, n.rise, n.flat, f)
        out[ENERGY_MAX] = energy_max
        out[BASELINE] = baseline
        out[BASELINE_SLOPE] = slope * 1e3 / period
        out[BASELINE_NOISE] = noise
        saturated = lowest <= low or highest >= high
        white_noise = sample_noise(before)
        # Less noise than half a step of the ADC holds values for long without any cut, and between
        # two of them its samples scatter by half a step at most.
        if not saturated and white_noise > max(0.6 * step, tiny):
            saturated = is_clipped(x, highest, before) or is_clipped(x, lowest, before)
        out[SATURATED] = 1.0 if saturated else 0.0

        _fast_filter(total, double, n.t0_rise, n.t0_fall, f)
        first = n.t0_rise + n.t0_fall - 1
        # White noise through the filter, the root of its sum of squared weights, is the least: of a
        # short baseline the quiet parts are few samples, and quiet by chance.
        rise = n.t0_rise
        squares = (4.0 * rise + 2.0) / (3.0 * rise * (rise + 1.0)) + 1.0 / n.t0_fall
        filter_noise = max(quiet_rms(f[first : n.baseline], noise), np.sqrt(squares) * white_noise)
        top = maximum(f[first:])
        # Digitisation shifts either mean by half a step at most.
        detection = max(threshold * filter_noise, step, tiny)
        if not top > detection:
            out[PILEUP] = 1.0 if pileup else 0.0
            out[NO_PULSE] = 1.0
            out[TRUNCATED] = 0.0
            continue
        out[NO_PULSE] = 0.0

        # A waveform without noise starts where the filter has reached 1e-4 of its maximum.
        level = scatter(before[n.baseline - max(n.baseline // 8, 1) :])
        level = max(level, step / np.sqrt(12.0), 1e-4 * top)
        t0 = _t0(f, total, top, level, n.t0_rise, n.t0_fall)
        if t0 < 0:
            out[PILEUP] = 1.0 if pileup else 0.0
            out[TRUNCATED] = 1.0
            continue
        out[T0] = t0 * period
        truncated = False

        # Another pulse lifts the fast filter at once; charge that is released slowly does not.
        lag = max(n.t0_fall // 2, 1)
        lifted = np.sqrt(2.0) * detection
        pileup = (
            pileup or maximum_rise(f[first : max(t0 - n.drift // 4, first)], lag, double) > lifted
        )
        after = t0 + n.drift + n.drift_flat - lag
        pileup = pileup or maximum_rise(f[min(after, n_samples) :], lag, double) > lifted
        out[PILEUP] = 1.0 if pileup else 0.0

        end = t0 + n.rise + n.pickoff + 1
        if end <= n_samples and end - 2 * n.rise - n.flat >= 0:
            late = total[end] - total[end - n.rise]
            early = total[end - n.rise - n.flat] - total[end - 2 * n.rise - n.flat]
            out[ENERGY] = (late - early) / n.rise
        else:
            truncated = True

        half = len(cusp)
        end = t0 + n.pickoff
        if end + half <= n_samples and end - n.flat - half >= 0:
            out[ENERGY_CUSP] = _cusp_energy(y[end:], y[end - n.flat - half :], cusp)
        else:
            truncated = True

        # Half of the smoothing filter beyond either end of the window.
        begin = t0 - phases.shape[1] // 2
        if begin >= 0 and begin + len(current) < n_samples:
            for k in range(len(current)):
                current[k] = y[begin + k + 1] - y[begin + k]
            out[CURRENT] = _current_maximum(current, phases, smooth)
            if out[ENERGY] > 0.0:
                out[A_OVER_E] = out[CURRENT] / out[ENERGY]
        else:
            truncated = True

        end = t0 + 2 * n.drift + n.drift_flat + 1
        if end <= n_samples:
            late = total[end] - total[end - n.drift]
            early = total[end - n.drift - n.drift_flat] - total[end - 2 * n.drift - n.drift_flat]
            if energy_max > 0.0:
                out[DRIFT_TIME] = (late - early) / energy_max * period
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
                    out[T50] = t50 * period
                if not np.isnan(t90 - t10):
                    out[RISE_TIME] = (t90 - t10) * period
                t80 = _crossing(y, 0.8 * energy_max, t99)
                if not np.isnan(t80):
                    begin = int(np.ceil(t80))
                    end = begin + 2 * n.late
                    if end <= n_samples:
                        late = total[end] - total[end - n.late]
                        early = total[end - n.late] - total[begin]
                        out[LATE_CHARGE] = (late - early) / energy_max * period
                    else:
                        truncated = True

        begin = t0 + n.tail
        if n_samples - begin >= 3:
            slope, out[TAIL_NOISE] = line_fit(y[begin:])
            out[TAIL_SLOPE] = slope * 1e3 / period
        else:
            truncated = True
        out[TRUNCATED] = 1.0 if truncated else 0.0
