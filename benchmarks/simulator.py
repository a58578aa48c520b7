"""How many HPGe waveforms of 1024 samples are simulated in a second, and what the time goes to.

Run with::

    python benchmarks/simulator.py

The goal is 20,000 waveforms/s on two cores. Beside the whole simulator stands its floor: one
normal deviate per sample from NumPy's fastest generator, on the same threads and blocks, without
which there is no noise. Both sides alternate within one run; medians of the repetitions are
printed.
"""

import argparse
import statistics
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _timing import alternate, machine

from sknuc.datasets import make_hpge_waveforms
from sknuc.datasets._noise import N_POLES, noise_filter
from sknuc.datasets._pulses import filter_noise

BLOCK = 64


def blocks(n_events, length, n_jobs, work):
    """Run `work` on blocks of a new array of waveforms, as the simulator does."""
    data = np.empty((n_events, length), dtype=np.float32)
    seeds = np.random.SeedSequence(0).spawn(-(-n_events // BLOCK))
    parts = [data[i : i + BLOCK] for i in range(0, n_events, BLOCK)]
    with ThreadPoolExecutor(n_jobs) as pool:
        list(pool.map(work, parts, seeds))


def draw(waveforms, seed):
    rng = np.random.Generator(np.random.SFC64(seed))
    rng.standard_normal(dtype=np.float32, out=waveforms)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-events", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    n_events, length = options.n_events, options.length

    noise = noise_filter(13.0, 6.5, length)
    states = np.zeros((BLOCK, N_POLES))

    def draw_and_filter(waveforms, seed):
        draw(waveforms, seed)
        filter_noise(
            waveforms, states[: len(waveforms)], noise.poles, noise.gains, noise.direct, 0.0
        )

    def simulate(n_jobs, **parameters):
        make_hpge_waveforms(
            n_events,
            waveform_length=length,
            n_jobs=n_jobs,
            random_state=0,
            return_X_y=True,
            **parameters,
        )

    sides = {}
    for n_jobs in (1, 2):
        sides |= {
            ("floor: deviates", n_jobs): lambda n=n_jobs: blocks(n_events, length, n, draw),
            ("deviates + noise filter", n_jobs): lambda n=n_jobs: blocks(
                n_events, length, n, draw_and_filter
            ),
            ("all, single site only", n_jobs): lambda n=n_jobs: simulate(n, weights=(1, 0, 0)),
            ("all, three classes", n_jobs): lambda n=n_jobs: simulate(n),
        }
    times = alternate(sides, options.repeats)

    print(
        f"{n_events} waveforms of {length} samples, median of {options.repeats}; {machine()}, "
        f"numpy {np.__version__}\n"
    )
    print("| step | threads | waveforms/s | µs per waveform | ns per sample |")
    print("|---|---|---|---|---|")
    for (name, n_jobs), seconds in times.items():
        t = statistics.median(seconds) / n_events
        print(f"| {name} | {n_jobs} | {1 / t:,.0f} | {1e6 * t:.1f} | {1e9 * t / length:.1f} |")
    for n_jobs in (1, 2):
        whole = statistics.median(times["all, three classes", n_jobs])
        floor = statistics.median(times["floor: deviates", n_jobs])
        rate = n_events / whole
        verdict = "reached" if rate >= 20_000 else "missed"
        print(
            f"\n{n_jobs} thread(s): {whole / floor:.2f}x the floor; "
            f"goal of 20,000 waveforms/s {verdict}."
        )


if __name__ == "__main__":
    main()
