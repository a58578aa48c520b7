r"""All samplers on jets, germanium waveforms and showers, judged against the simulators.

Command: ``python benchmarks/samplers.py [--quick] [--fits 3] [--tasks abc] [--samplers flow,...]``

(a) 20,000 reconstructed jets (pT, η, φ, m). (b) 10,000 germanium waveforms of 256 samples, three
kinds of events. (c) 20,000 showers of photons of 1 to 100 GeV in 368 voxels, per energy, given the
logarithm of the energy. All with default parameters, but for bounds and periods. 5,000 new events
of the simulator judge. Every sampler is fitted with several seeds; the row is that of the median
AUC.

- AUC: of boosted trees that tell generated from simulated events, cross-fitted, with its error;
  0.5 is indistinguishable, and "null" the interval where 95 % of indistinguishable samples lie.
  "All fits" are the smallest and the largest of the seeds.
- W1: Wasserstein distance per column in units of its standard deviation, the mean of all columns,
  and of two samples of the simulator.
- Distance between the correlations of features that no sampler has seen, where they are defined,
  and what it is for two samples of the simulator.
- Overlap of these features, over what two samples of the simulator reach; events where one is not
  defined, as the drift time of a pulse that never rises, are in a bin of their own.
- Events per second, and those of the simulator itself, which is given as many threads; that of jets
  works in one.

Goals are those of the best sampler: an AUC, and of A/E and drift time an overlap of 0.9. Quick runs
are judged by none.
"""

import argparse
import time

import numpy as np
import torch
from _timing import machine

from sknuc import samplers
from sknuc.datasets import make_calorimeter_showers, make_hpge_waveforms, make_jets
from sknuc.metrics import correlation_distance, histogram_iou, two_sample_auc, wasserstein_distance
from sknuc.preprocessing import PulseShapeFeatures

SAMPLERS = {
    "flow": "FlowSampler",
    "vae": "VAESampler",
    "gan": "GANSampler",
    "diffusion": "DiffusionSampler",
}

# Of the overlap, over its ceiling.
GOAL = 0.9


class Jets:
    """A table."""

    title, n, goal = "(a) jets, a table of 4 columns", 20_000, 0.55
    overlap_goals = ()
    parameters = {"bounds": {0: (0, None), 3: (0, None)}, "periodic": {2: 2 * np.pi}}
    features = ("pT m", "m / pT")

    def simulate(self, n, seed):
        """Events and conditions."""
        return make_jets(n, random_state=seed).target, None

    def measure(self, X, y):
        """Features (n, n_features)."""
        return np.column_stack([X[:, 0] * X[:, 3], X[:, 3] / X[:, 0]])


class Waveforms:
    """Signals."""

    title, n, goal = "(b) germanium waveforms of 256 samples", 10_000, 0.65
    overlap_goals = ("A/E", "drift time")
    parameters = {}
    features = ("A/E", "drift time", "tail slope")

    def simulate(self, n, seed):
        """Events and conditions."""
        n_jobs = torch.get_num_threads()
        pulses = make_hpge_waveforms(n, waveform_length=256, n_jobs=n_jobs, random_state=seed)
        return pulses.data[:, None], None

    def measure(self, X, y):
        """Features (n, n_features); the filters are set on simulated waveforms."""
        if not hasattr(self, "shape"):
            self.shape = PulseShapeFeatures(sampling_period=16.0, adc_range=None)
            self.shape.set_output(transform="pandas").fit(X)
        table = self.shape.transform(X)
        return table[["a_over_e", "drift_time", "tail_slope"]].to_numpy()


class Showers:
    """Many sparse columns, and a condition."""

    title, n, goal = "(c) showers in 368 voxels, given the energy", 20_000, 0.65
    overlap_goals = ()
    parameters = {"bounds": (0, None)}
    features = ("energy sum", "mean layer", "mean radius", "hit voxels")

    def simulate(self, n, seed):
        """Events and conditions."""
        n_jobs = torch.get_num_threads()
        showers = make_calorimeter_showers(n, n_jobs=n_jobs, random_state=seed)
        self.voxels = showers.voxels
        energy = showers.target[:, :1]
        return showers.data / energy, np.log(energy)

    def measure(self, X, y):
        """Features (n, n_features)."""
        total = np.maximum(X.sum(1), 1e-12)
        depth = X @ np.asarray(self.voxels.layer) / total
        radius = X @ np.asarray(self.voxels.r) / total
        return np.column_stack([X.sum(1), depth, radius, (X > 0).sum(1)])


def overlap(true, generated):
    """Overlap of a feature over its ceiling, and its error."""
    low, high = np.quantile(true[np.isfinite(true)], [0.005, 0.995])
    edges = np.linspace(low, high, 51)
    width = edges[1] - edges[0]
    # Three bins more: what is below, what is above, and what is not defined.
    edges = np.concatenate([[low - width], edges, high + width * np.array([1, 2])])
    both = (
        np.where(
            np.isfinite(values),
            np.clip(values, low - width / 2, high + width / 2),
            high + 1.5 * width,
        )
        for values in (true, generated)
    )
    found = histogram_iou(*both, bins=edges)
    return found.ratio, found.error / found.ceiling


def run(task, names, n, n_judge, n_fits, quick):
    X, y = task.simulate(n, 0)
    start = time.perf_counter()
    X_true, y_true = task.simulate(n_judge, 1)
    simulated = n_judge / (time.perf_counter() - start)
    twin, y_twin = task.simulate(n_judge, 2)
    true = task.measure(X_true, y_true)
    print(f"\n### {task.title}: {n:,} events\n")
    second = " and ".join(f"{name} ≥ {GOAL}" for name in task.overlap_goals)
    print(
        f"| sampler | AUC | all fits | AUC ≤ {task.goal} | W1 mean (null) | "
        f"correlations (null) | overlap: {', '.join(task.features)} | {second} | fit s | events/s |"
    )
    print("|---" * 10 + "|", flush=True)

    def flat(X, y):
        X = X.reshape(len(X), -1)
        return X if y is None else np.column_stack([X, y])

    null = wasserstein_distance(flat(X_true, None), flat(twin, None), standardize=True).mean()

    def judge(name, events, y, seconds, rate):
        """The AUC, and the row before and after the range of all fits."""
        auc = two_sample_auc(flat(X_true, y_true), flat(events, y))
        distance = wasserstein_distance(flat(X_true, None), flat(events, None), standardize=True)
        both = (true, task.measure(events, y))
        away = correlation_distance(*(a[np.isfinite(a).all(1)] for a in both))
        columns = zip(task.features, true.T, both[1].T, strict=True)
        common = {name: overlap(*pair) for name, *pair in columns}
        reached = [auc.auc <= task.goal]
        if task.overlap_goals:
            reached.append(all(common[name][0] >= GOAL for name in task.overlap_goals))
        words = ["" if quick else ("yes" if good else "**no**") for good in reached] + [""]
        return (
            auc.auc,
            f"| {name} | {auc.auc:.3f} ± {auc.error:.3f} (null {auc.null_interval[0]:.3f}–"
            f"{auc.null_interval[1]:.3f}) | ",
            f" | {words[0]} | {distance.mean():.3f} ({null:.3f}) | "
            f"{away.distance:.3f} ({away.noise:.3f}) | "
            f"{', '.join(f'{ratio:.2f} ± {error:.2f}' for ratio, error in common.values())} | "
            f"{words[1]} | {seconds} | {rate:,.0f} |",
        )

    _, first, rest = judge("the simulator again", twin, y_twin, "", simulated)
    print(first + rest, flush=True)
    for name in names:
        fits = []
        for seed in range(n_fits):
            model = getattr(samplers, SAMPLERS[name])(**task.parameters, random_state=seed)
            start = time.perf_counter()
            model.fit(X, y)
            fitted = time.perf_counter()
            # Not the conditions of the true events: a classifier would know the twin of each.
            events = model.sample(n_judge, y=y_twin, random_state=0)
            rate = n_judge / (time.perf_counter() - fitted)
            fits.append(judge(SAMPLERS[name], events, y_twin, f"{fitted - start:.0f}", rate))
        fits.sort()
        _, first, rest = fits[n_fits // 2]
        everything = f"{fits[0][0]:.3f}–{fits[-1][0]:.3f}" if n_fits > 1 else ""
        print(first + everything + rest, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--fits", type=int, default=3, help="seeds of each sampler, an odd number")
    parser.add_argument("--tasks", default="abc")
    parser.add_argument("--samplers", default="flow,vae,gan,diffusion")
    options = parser.parse_args()
    if options.fits < 1 or options.fits % 2 == 0:
        parser.error(f"--fits must be odd, for one of them to be the median. Got {options.fits}.")
    print(f"{machine()}, threads: {torch.get_num_threads()}", flush=True)
    for letter, task in zip("abc", (Jets(), Waveforms(), Showers()), strict=True):
        if letter in options.tasks:
            n = 1000 if options.quick else task.n
            n_fits = 1 if options.quick else options.fits
            run(task, options.samplers.split(","), n, min(n, 5000), n_fits, options.quick)


if __name__ == "__main__":
    main()
