"""Pulse-shape features against dspeed 2.4.3, the signal processing of the LEGEND collaboration.

Run with (``pip install sknuc[benchmark]``; ``SKNUC_DATA`` may name a folder with the real files)::

    python benchmarks/pulse_shape.py

Both sides compute baseline, pole-zero correction, trapezoid energies, t0, time points, current,
drift time, late charge, tail slope and extrema of the same uint16 waveforms of 8192 samples. They
alternate in one run; the medians count. dspeed gets its fastest block width, the input in memory,
a chain that is built and compiled before, no cusp filter (ours computes one), and once one and
once as many processes as there are cores. The waveforms are 29 real LEGEND-200 events, moved,
with random amplitudes and a little more noise, or simulated pulses where the file is not there. A
pass over the same bytes on all cores measures how fast memory can be read.
"""

import argparse
import importlib.metadata
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from _timing import alternate, machine, print_table

from sknuc.preprocessing import PulseShapeFeatures

PERIOD = 16.0
TAU = 500_000.0
DSPEED = "2.4.3"
RAW = "l200-p03-r001-cal-20230318T012144Z-tier_raw.lh5"
COLUMNS = {
    "energy": "trapEftp",
    "energy_max": "trapEmax",
    "t0": "tp_s",
    "t50": "tp_50",
    "current": "A_max",
    "drift_time": "dt_eff",
    "tail_slope": "pz_slope",
    "baseline": "bl_mean",
    "baseline_noise": "bl_std",
}


def waveforms(n_events, rng):
    """Realistic uint16 waveforms, and where they come from."""
    path = Path(os.environ.get("SKNUC_DATA", "")) / RAW
    if path.is_file():
        import h5py

        with h5py.File(path) as file:
            real = np.concatenate([file[c]["raw/waveform/values"][:] for c in file])
        # The fourth event is an earlier pulse's tail without a pulse of its own.
        real = np.delete(real, 3, axis=0).astype(np.float32)
        X = np.take(real, rng.integers(len(real), size=n_events), axis=0)
        baseline = X[:, :2784].mean(axis=1, keepdims=True)
        X -= baseline
        X *= rng.uniform(0.5, 1.5, size=(n_events, 1)).astype(np.float32)
        for row, shift in zip(X, rng.integers(-40, 41, size=n_events), strict=True):
            row[:] = np.roll(row, shift)
            row[: max(shift, 0)] = 0.0
            row[8192 + min(shift, 0) :] = row[8191 + min(shift, 0)]
        X += 15_000.0
        source = "real LEGEND-200 waveforms, resampled"
    else:
        from sknuc.datasets import make_hpge_waveforms

        X = make_hpge_waveforms(
            n_events, waveform_length=8192, random_state=rng.integers(2**31), return_X_y=True
        )[0]
        source = "simulated waveforms"
    X += rng.standard_normal(X.shape, dtype=np.float32)
    return np.clip(np.rint(X), 0, 65_535).astype(np.uint16), source


def dspeed_config(features, t0):
    """Recipe of dspeed for the same quantities, with the lengths of fitted PulseShapeFeatures.

    `t0` is the sample at which the pulses start: dspeed fits the tail from a fixed sample.
    """
    n = features.lengths_
    # The up-sampler is half a sample early: without the last one, it fills its output.
    n_up = 16 * (n.current - 1)
    smoothing = round(features.current_smoothing_ * 16 / PERIOD)
    t0_length = n.t0_rise + n.t0_fall
    p = "dspeed.processors."
    tau = TAU / PERIOD
    eighth = n.baseline // 8
    fit = [f"waveform[0:{n.baseline}]", "bl_mean", "bl_std", "bl_slope", "bl_intercept"]
    near = [
        f"waveform[{n.baseline - eighth}:{n.baseline}]",
        "n_mean",
        "n_std",
        "n_slope",
        "n_intercept",
    ]
    tail = [f"wf_pz[{t0 + n.tail}:]", "pz_mean", "pz_std", "pz_slope", "pz_intercept"]
    # The convolution is centred on its kernel: its last sample is half a kernel later.
    shift = t0_length // 2
    tp_0 = f"tp_s + {shift * 16}*ns"
    pick = f"tp_s + {(shift + n.rise + n.pickoff) * 16}*ns"
    drift = f"tp_s + {(shift + 2 * n.drift + n.drift_flat) * 16}*ns"
    amax = {"kwargs": {"signature": "(n),()->()", "types": ["fi->f"]}, "unit": "ADC"}
    processors = {
        "tp_min, tp_max, wf_min, wf_max": (
            p + "min_max",
            ["waveform", "tp_min", "tp_max", "wf_min", "wf_max"],
        ),
        "bl_mean, bl_std, bl_slope, bl_intercept": (p + "linear_slope_fit", fit),
        "n_mean, n_std, n_slope, n_intercept": (p + "linear_slope_fit", near),
        "wf_bl": (p + "bl_subtract", ["waveform", "bl_mean", "wf_bl"]),
        "wf_pz": (p + "pole_zero", ["wf_bl", tau, "wf_pz"]),
        "pz_mean, pz_std, pz_slope, pz_intercept": (p + "linear_slope_fit", tail),
        "t0_kernel": (
            p + "t0_filter",
            [n.t0_rise, n.t0_fall, f"t0_kernel(shape={t0_length}, dtype='f')"],
            {"unit": "ADC"},
        ),
        "wf_t0": (
            p + "convolve_wf",
            ["wf_pz", "t0_kernel", "'s'", "wf_t0(shape=len(wf_pz), dtype='f', grid=wf_pz.grid)"],
            {"unit": "ADC"},
        ),
        "t0_tmin, tp_start, t0_min, t0_max": (
            p + "min_max",
            ["wf_t0", "t0_tmin", "tp_start", "t0_min", "t0_max"],
        ),
        "tp_s": (p + "time_point_thresh", ["wf_t0", "n_std", "tp_start", 0, "tp_s(unit=ns)"]),
        "wf_trap": (p + "trap_norm", ["wf_pz", n.rise, n.flat, "wf_trap"]),
        "trapEmax": ("numpy.amax", ["wf_trap", 1, "trapEmax"], amax),
        "trapEftp": (p + "fixed_time_pickoff", ["wf_trap", pick, "'l'", "trapEftp"]),
        "tp_99": (p + "time_point_thresh", ["wf_pz", "0.99*trapEmax", tp_0, 1, "tp_99(unit=ns)"]),
        "tp_90": (p + "time_point_thresh", ["wf_pz", "0.9*trapEmax", "tp_99", 0, "tp_90(unit=ns)"]),
        "tp_80": (p + "time_point_thresh", ["wf_pz", "0.8*trapEmax", "tp_90", 0, "tp_80(unit=ns)"]),
        "tp_50": (p + "time_point_thresh", ["wf_pz", "0.5*trapEmax", "tp_80", 0, "tp_50(unit=ns)"]),
        "tp_10": (p + "time_point_thresh", ["wf_pz", "0.1*trapEmax", "tp_50", 0, "tp_10(unit=ns)"]),
        "late": (
            p + "trap_pickoff",
            ["wf_pz", n.late, 0, f"tp_80 + {(2 * n.late - 1) * 16}*ns", "late"],
        ),
        "wf_q": (p + "trap_norm", ["wf_pz", n.drift, n.drift_flat, "wf_q"]),
        "trapQ": (
            p + "fixed_time_pickoff",
            ["wf_q", drift, "'l'", "trapQ"],
        ),
        "dt_eff": ("numpy.divide", ["trapQ", "trapEmax", "dt_eff"]),
        "wf_le": (p + "windower", ["wf_pz", tp_0, f"wf_le(shape={n.current + 1}, dtype='f')"]),
        "curr": (p + "avg_current", ["wf_le", 1, "curr(shape=len(wf_le)-1, dtype='f')"]),
        "curr_up": (p + "upsampler", ["curr", 16, f"curr_up(shape={n_up}, dtype='f')"]),
        "curr_av": (p + "moving_window_multi", ["curr_up", smoothing, 3, 0, "curr_av"]),
        "A_tmin, A_tmax, A_min, A_max": (
            p + "min_max",
            ["curr_av", "A_tmin", "A_tmax", "A_min", "A_max"],
        ),
    }
    extra = ["late", "tp_10", "tp_90", "bl_slope", "pz_std", "wf_min", "wf_max"]
    return {
        "outputs": [*COLUMNS.values(), *extra],
        "processors": {
            key: {"function": value[0], "args": value[1], **(value[2] if value[2:] else {})}
            for key, value in processors.items()
        },
    }


class Dspeed:
    """A compiled dspeed chain for a number of waveforms."""

    def __init__(self, X, config, block_width):
        import lgdo
        from dspeed.processing_chain import build_processing_chain

        values = lgdo.ArrayOfEqualSizedArrays(nda=X)
        waveform = lgdo.WaveformTable(
            values=values, dt=PERIOD, dt_units="ns", t0=0.0, t0_units="ns"
        )
        self.table = lgdo.Table(col_dict={"waveform": waveform}, size=len(X))
        self.chain = build_processing_chain(config, self.table, block_width=block_width)[0]

    def __call__(self):
        """Process all waveforms."""
        return self.chain(self.table)


def serve(pipe, X, config, block_width):
    """Run a chain in a process of its own, whenever it is asked to."""
    chain = Dspeed(X, config, block_width)
    while pipe.recv():
        chain()
        pipe.send(True)


def bandwidth(X, n_threads):
    """Read all bytes once on all cores."""
    parts = np.array_split(X.reshape(-1).view(np.uint64), 4 * n_threads)
    with ThreadPoolExecutor(n_threads) as pool:
        return max(pool.map(np.max, parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-events", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    X, source = waveforms(options.n_events, np.random.default_rng(0))
    n_cores = len(os.sched_getaffinity(0))

    features = PulseShapeFeatures(sampling_period=PERIOD, time_constant=TAU).fit(X)
    t0 = features.transform(X[:512])[:, list(features.get_feature_names_out()).index("t0")]
    config = dspeed_config(features, round(np.nanmedian(t0) / PERIOD))
    small = X[:512]
    speed = {}
    for width in (1, 4, 8, 16, 32, 64):
        chain = Dspeed(small, config, width)
        chain()
        start = time.perf_counter()
        chain()
        speed[width] = time.perf_counter() - start
    width = min(speed, key=speed.get)
    chain = Dspeed(X, config, width)

    pipes = []
    processes = []
    context = multiprocessing.get_context("spawn")
    for part in np.array_split(X, n_cores):
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, part, config, width), daemon=True)
        process.start()
        pipes.append(here)
        processes.append(process)

    def all_processes():
        for pipe in pipes:
            pipe.send(True)
        for pipe in pipes:
            pipe.recv()

    many = f"dspeed, {n_cores} processes"
    times = alternate(
        {
            "sknuc": lambda: features.transform(X),
            "dspeed": chain,
            many: all_processes,
            "memory": lambda: bandwidth(X, n_cores),
        },
        options.repeats,
    )
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(False)
        process.join()

    version = importlib.metadata.version("dspeed")
    print(f"{machine()}; numpy {np.__version__}, dspeed {version}")
    if version != DSPEED:
        print(f"\nWarning: this is dspeed {version}; the recipe was written for dspeed {DSPEED}.")
    print(f"{len(X)} {source}, {X.shape[1]} samples; dspeed block width {width}\n")
    print("| side | waveforms/s |\n|---|---|")
    for side in ("sknuc", "dspeed", many):
        print(f"| {side} | {len(X) / np.median(times[side]):,.0f} |")
    print()
    rows = [
        ("same quantities", {side: times[side], "sknuc": times["sknuc"]}, "sknuc", "≥ 10")
        for side in ("dspeed", many)
    ]
    print_table(rows)
    fraction = np.median(times["memory"]) / np.median(times["sknuc"])
    read = X.nbytes / np.median(times["memory"]) / 1e9
    print(
        f"\nMemory: {read:.1f} GB/s when only read; the features read their input at "
        f"{fraction:.1%} of that."
    )

    ours = features.transform(X)
    theirs = chain()
    names = list(features.get_feature_names_out())
    clean = (ours[:, [names.index(f) for f in ("saturated", "pileup", "no_pulse")]] == 0).all(1)
    # Slopes are per sample there, and the area of the drift is a mean over its window.
    units = {"tail_slope": 1e3 / PERIOD, "drift_time": features.lengths_.drift * PERIOD}
    # The centre of dspeed's filter for t0, from its first sample.
    shift = {"t0": (features.lengths_.t0_rise + features.lengths_.t0_fall) // 2 * PERIOD}
    print(f"\nAgreement of {clean.sum()} clean events:\n")
    print("| feature | dspeed | median abs. difference | 99 % below | median abs. value |")
    print("|---|---|---|---|---|")
    for name, column in COLUMNS.items():
        a = ours[clean, names.index(name)]
        b = np.asarray(theirs[column].nda, dtype=float)[clean]
        d = np.abs(a - units.get(name, 1.0) * b - shift.get(name, 0.0))
        print(
            f"| {name} | {column} | {np.nanmedian(d):.3g} | {np.nanquantile(d, 0.99):.3g} | "
            f"{np.nanmedian(np.abs(a)):.4g} |"
        )


if __name__ == "__main__":
    main()
