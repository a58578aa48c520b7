"""Which network for light on a sphere: background rejection over photocoverage × efficiency.

Command: ``python benchmarks/photocoverage_map.py [--quick] [--full] [--threads 2] [--output file]``

Neutrinoless double beta decay against ¹⁰C in a spherical scintillator, with the numbers of
photo-electrons matched between the classes: the share of ¹⁰C that is rejected where 90 % of the
signal is accepted, for six readers of the same events.

- logistic regression: 24 bins of time, and the norms of dipole and quadrupole of the early light
- CNN: the bins as channels of a planar map of 16 × 32 cells
- LSTM: the sum over the sphere, one step per bin
- ConvLSTM, KamNet: 8 steps of 3 bins on 8 × 16 cells, which two cores can train; ``--full`` gives
  them all steps on 16 × 32 cells and the paper's widths, and is meant for a GPU
- SphericalCNN: the bins as channels on 16 × 32 cells, as counts
- CNN and SphericalCNN on the coarse map as well, where the planar network over-fits less

All networks have the same budget: AdamW with a cosine schedule over the same number of steps, one
seed, and no choice by looking at test events. Errors are those of the test sample, without the
scatter between seeds; differences are paired on it.

(a) Two settings with 16,000 training events, with bins from −15 to 60 ns, fine where the light is,
and with 1 ns bins from −6 to 40 ns, which cut early light of the gamma rays off. (b) How rejection
grows with training events, all with the same number of steps. (c) The map. (d) Networks that see
times alone against the Bayes factor of a toy whose start is known: whoever is above it leaks.
``--full`` takes 40,000 events in each cell of a finer map, 30 epochs and the paper's network.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from _timing import machine
from scipy.special import erfc, erfcx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import LRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

from sknuc.datasets import make_scintillator_events
from sknuc.encoders import CNN, LSTM, MLP, ConvLSTM, KamNet, SphericalCNN
from sknuc.geometry import equiangular_sphere, spherical_harmonics
from sknuc.metrics import rejection_at_acceptance
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import PMTHitMap

GRID = (16, 32)
EDGES = np.r_[-15.0, -10.0, -8.0:8.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 60.0]  # ns
NARROW = np.arange(-6.0, 41.0)
ENERGY = 2.458  # MeV
# Light that reaches the tubes of 34 % photocoverage and 23 % efficiency as 250 pe/MeV.
LIGHT_YIELD = 250 / (0.34 * 0.23)


def simulate(n, seed, *, photocoverage=0.34, quantum_efficiency=0.23, spread=1.5, edges=EDGES):
    """Maps (n, bins, 16, 32) of hits, and labels."""
    events = make_scintillator_events(
        n,
        light_yield=LIGHT_YIELD,
        photocoverage=photocoverage,
        quantum_efficiency=quantum_efficiency,
        transit_time_spread=spread,
        n_jobs=torch.get_num_threads(),
        random_state=seed,
    )
    step = PMTHitMap(positions=events.positions, grid=GRID, bins=edges, dtype="uint8")
    with warnings.catch_warnings():
        # That most light lies outside is what one of the windows is there to show.
        warnings.filterwarnings("ignore", message=".*outside.*")
        maps = step.fit_transform(events.data, vertex=events.vertex)
    n_hits = np.count_nonzero(events.data[..., 2])
    print(f"<!-- {1 - maps.sum() / n_hits:.1%} of the light lies outside the bins -->")
    return maps, events.target


def fine(maps):
    return maps


def coarse(maps):
    n, bins, height, width = maps.shape
    return maps.reshape(n, bins, height // 2, 2, width // 2, 2).sum((3, 5)).astype(np.uint8)


def film(maps):
    return coarse(maps).reshape(len(maps), 8, 3, GRID[0] // 2, GRID[1] // 2)


def profile(maps):
    return maps.sum((2, 3), dtype=np.float32)[:, None]


def summaries(maps):
    """Time bins, and how uneven the light of the first nanoseconds is."""
    times = maps.sum((2, 3), dtype=np.float64)
    harmonics = spherical_harmonics(2, equiangular_sphere(*GRID)[0])
    early = []
    for stop in (10, 14):
        light = maps[:, :stop].sum(1, dtype=np.float64).reshape(len(maps), -1)
        moments = light @ harmonics / np.sqrt(light.sum(1, keepdims=True) + 1)
        early += [np.linalg.norm(moments[:, 1:4], axis=1), np.linalg.norm(moments[:, 4:], axis=1)]
    return np.column_stack([times, *early])


def methods(full):
    """Name → (view of the maps, encoder), None for logistic regression."""
    small = {"hidden_channels": (6, 8), "kernel_size": (3, 3), "padding": "sphere"}
    spherical = {"bandwidths": (4, 3, 3), "signal": "counts"}
    table = {
        "logistic regression": (summaries, None),
        "CNN": (fine, CNN(n_blocks=0)),
        "LSTM": (profile, LSTM(hidden_size=32, patch_size=1)),
        "ConvLSTM": (film, ConvLSTM(**small, spatial_pooling="mean")),
        "SphericalCNN": (fine, SphericalCNN(**spherical)),
        "KamNet": (film, KamNet(**small, channels=(16, 16), hidden_layer_sizes=(32,))),
        "CNN, coarse map": (coarse, CNN(n_blocks=0)),
        "SphericalCNN, coarse map": (coarse, SphericalCNN(**spherical)),
    }
    if full:
        table["ConvLSTM"] = (fine, ConvLSTM(padding="sphere", spatial_pooling="mean"))
        table["KamNet"] = (fine, KamNet())
    return table


def learn(encoder, X, y, seed, epochs, verbose=0):
    if encoder is None:
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    return NeuralClassifier(
        encoder=encoder,
        max_epochs=epochs,
        batch_size=128,
        learning_rate=2e-3,
        weight_decay=1.0,
        callbacks=[LRScheduler(CosineAnnealingLR, T_max=epochs)],
        random_state=seed,
        verbose=verbose,
    ).fit(X, y)


def judge(y, score):
    result = rejection_at_acceptance(y, score)
    low, high = result.interval
    return result.rejection, (high - low) / 2


def difference(y, score, other, n_draws=200):
    """Difference of two rejections on the same events, with its bootstrap error."""
    rng = np.random.default_rng(0)
    signal, background = np.flatnonzero(y == 1), np.flatnonzero(y == 0)

    def rejections(s, b):
        return [(x[b] < np.quantile(x[s], 0.1)).mean() for x in (score, other)]

    draws = [
        np.subtract(
            *rejections(rng.choice(signal, len(signal)), rng.choice(background, len(background)))
        )
        for _ in range(n_draws)
    ]
    return np.subtract(*rejections(signal, background)), np.std(draws)


def compare(train, test, names, options):
    """Fit and judge; returns {name: (rejection, error, seconds, scores)}."""
    results = {}
    for name in names:
        view, encoder = methods(options.full)[name]
        X, X_test = view(train[0]), view(test[0])
        start = time.perf_counter()
        model = learn(encoder, X, train[1], 0, options.epochs)
        seconds = time.perf_counter() - start
        score = model.predict_proba(X_test)[:, 1]
        results[name] = (*judge(test[1], score), seconds, score)
        print(f"<!-- {name}: {results[name][0]:.3f}, {seconds:.0f} s -->", flush=True)
    return results


SETTINGS = {
    "250 pe/MeV, 1.5 ns": {"quantum_efficiency": 0.23, "spread": 1.5},
    "100 pe/MeV, 3 ns": {"quantum_efficiency": 0.092, "spread": 3.0},
}


def settings_table(options):
    n = options.n_train
    for edges, names in (
        (EDGES, list(methods(options.full))),
        (NARROW, ["logistic regression", "CNN", "SphericalCNN", "CNN, coarse map"]),
    ):
        print(
            f"\n### (a) Rejection at 90 % acceptance, {n:,} training, {options.n_test:,} test "
            f"events, {len(edges) - 1} bins from {edges[0]:g} to {edges[-1]:g} ns\n"
        )
        columns = {}
        for label, setting in SETTINGS.items():
            train = simulate(n, 1, edges=edges, **setting)
            test = simulate(options.n_test, 2, edges=edges, **setting)
            columns[label] = compare(train, test, names, options), test[1]
        print(
            "\n| reader | "
            + " | ".join(f"{label} | minus logistic | minus CNN | fit s" for label in columns)
            + " |"
        )
        print("|---|" + "---|" * (4 * len(columns)))
        for name in names:
            row = [name]
            for results, y in columns.values():
                value, error, seconds, score = results[name]
                row.append(f"{value:.3f} ± {error:.3f}")
                for other in ("logistic regression", "CNN"):
                    delta, sigma = difference(y, score, results[other][3])
                    row.append("" if name == other else f"{delta:+.3f} ± {sigma:.3f}")
                row.append(f"{seconds:.0f}")
            print("| " + " | ".join(row) + " |")


def learning_table(options):
    setting = SETTINGS["250 pe/MeV, 1.5 ns"]
    names = ("logistic regression", "CNN", "CNN, coarse map", "SphericalCNN")
    sizes = [options.n_train // 16, options.n_train // 4, options.n_train, 4 * options.n_train]
    train, test = simulate(sizes[-1], 3, **setting), simulate(options.n_test, 4, **setting)
    print("\n### (b) Rejection against the number of training events, 250 pe/MeV, 1.5 ns\n")
    rows = {name: [] for name in names}
    for size in sizes:
        part = (train[0][:size], train[1][:size])
        # The same number of steps for all, so that few events are not learned for a shorter time.
        epochs = max(1, round(options.epochs * options.n_train / size))
        local = argparse.Namespace(**{**vars(options), "epochs": epochs})
        for name, result in compare(part, test, names, local).items():
            rows[name].append(result[:2])
    print("\n| reader | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---|" + "---|" * len(sizes))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{v:.3f} ± {e:.3f}" for v, e in values) + " |")


def map_table(options):
    names = [name for name in methods(options.full) if "coarse" not in name]
    coverages, efficiencies = options.coverages, options.efficiencies
    n, n_test = options.n_map, options.n_test
    print(f"\n### (c) The map, {n:,} training events per cell, transit time spread 1.5 ns\n")
    values = {name: np.zeros((len(coverages), len(efficiencies))) for name in names}
    errors = {name: np.zeros_like(value) for name, value in values.items()}
    for i, coverage in enumerate(coverages):
        for j, efficiency in enumerate(efficiencies):
            setting = {"photocoverage": coverage, "quantum_efficiency": efficiency}
            train = simulate(n, 10 + i * 10 + j, **setting)
            test = simulate(n_test, 500 + i * 10 + j, **setting)
            for name, result in compare(train, test, names, options).items():
                values[name][i, j], errors[name][i, j] = result[:2]
    for name in names:
        print(f"\n{name}:\n")
        print("| photocoverage \\ efficiency | " + " | ".join(map(str, efficiencies)) + " |")
        print("|---|" + "---|" * len(efficiencies))
        for coverage, *row in zip(coverages, values[name], errors[name], strict=True):
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in zip(*row, strict=True)]
            print(f"| {coverage} | " + " | ".join(cells) + " |")
    draw(values, coverages, efficiencies, n, options.output)


def draw(values, coverages, efficiencies, n, path):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6.6), layout="constrained")
    low = min(value.min() for value in values.values())
    for ax, (name, value) in zip(axes.flat, values.items(), strict=True):
        picture = ax.imshow(value, origin="lower", vmin=low, vmax=1, cmap="cividis", aspect="auto")
        ax.set_title(name)
        ax.set_xticks(range(len(efficiencies)), [f"{100 * e:g}" for e in efficiencies])
        ax.set_yticks(range(len(coverages)), [f"{100 * c:g}" for c in coverages])
        for (i, j), number in np.ndenumerate(value):
            color = "white" if number < (1 + low) / 2 else "black"
            ax.text(j, i, f"{100 * number:.1f}", ha="center", va="center", color=color)
    figure.supxlabel("quantum efficiency (%)")
    figure.supylabel("photocoverage (%)")
    figure.suptitle(f"¹⁰C rejected at 90 % acceptance of 0νββ (%), {n:,} training events")
    figure.colorbar(picture, ax=axes, label="rejection")
    figure.savefig(path, dpi=110)


# (d): times alone.

DECAYS = np.array([3.6, 16.0, 86.0])
SHARES = np.array([0.71, 0.22, 0.07])
LATE = 1.022 / ENERGY  # share of the light that waits for the positron


def toy_times(n, light, spread, rng, *, delayed):
    """Times of n events whose start is known, and which of the padded ones are real."""
    counts = rng.poisson(light * ENERGY, n)
    real = np.arange(counts.max()) < counts[:, None]
    t = rng.exponential(rng.choice(DECAYS, real.shape, p=SHARES)) + rng.normal(
        0, spread, real.shape
    )
    if delayed:
        wait = rng.exponential(3.0, n) * (rng.random(n) < 0.5)
        t += wait[:, None] * (rng.random(real.shape) < LATE)
    return t, real


def density(t, spread):
    """Exponential decays, smeared."""
    total = 0
    for share, decay in zip(SHARES, DECAYS, strict=True):
        z = (spread / decay - t / spread) / np.sqrt(2)
        steep = np.exp(-(t**2) / (2 * spread**2)) * erfcx(np.maximum(z, 0))
        tail = np.exp(np.minimum(spread**2 / (2 * decay**2) - t / decay, 0)) * erfc(
            np.minimum(z, 0)
        )
        total = total + share / (2 * decay) * np.where(z > 0, steep, tail)
    return total


def bayes_factor(t, real, spread, step=0.005):
    """Log p(times | delayed) / p(times | prompt), with the delay integrated out."""
    # A table in steps of 5 ps, and 200 delays that are equally likely.
    start = min(t.min(), -20 * spread)
    grid = np.arange(start - 40.0, t.max() + step, step)
    prompt = np.maximum(density(grid, spread), np.finfo(float).tiny)
    nearest = np.rint((t[real] - grid[0]) / step).astype(np.intp)
    firsts = np.r_[0, np.cumsum(real.sum(1))[:-1]]
    logs = []
    for delay in -3.0 * np.log1p(-(np.arange(200) + 0.5) / 200):
        late = np.interp(grid - delay, grid, prompt)
        logs.append(np.add.reduceat(np.log1p(LATE * (late / prompt - 1))[nearest], firsts))
    top = np.max(logs, axis=0)
    return top + np.log(np.exp(logs - top).mean(0))


def times_table(options):
    n, n_test = options.n_train, options.n_test
    rng = np.random.default_rng(5)
    print("\n### (d) Times alone, start known, ortho-positronium alone: nobody may beat Bayes\n")
    print("| light | Bayes | logistic regression | MLP | LSTM |")
    print("|---|---|---|---|---|")
    for light in (250, 80):
        views = []
        for size in (n, n_test):
            sides = [toy_times(size // 2, light, 1.5, rng, delayed=d) for d in (True, False)]
            y = np.repeat([0, 1], size // 2)
            bins = np.concatenate(
                [
                    np.stack(
                        [
                            np.histogram(row[keep], EDGES)[0]
                            for row, keep in zip(t, real, strict=True)
                        ]
                    )
                    for t, real in sides
                ]
            ).astype(np.float32)
            factor = np.concatenate([-bayes_factor(t, real, 1.5) for t, real in sides])
            views.append((bins, y, factor))
        (bins, y, _), (bins_test, y_test, factor) = views
        cells = [f"{light} pe/MeV, 1.5 ns", "{:.3f} ± {:.3f}".format(*judge(y_test, factor))]
        for encoder in (None, MLP(hidden_layer_sizes=(32,)), LSTM(hidden_size=32, patch_size=1)):
            model = learn(encoder, bins, y, 0, options.epochs)
            score = model.predict_proba(bins_test)[:, 1]
            delta, sigma = difference(y_test, score, factor)
            cells.append(
                "{:.3f} ± {:.3f}".format(*judge(y_test, score)) + f" ({delta:+.3f} ± {sigma:.3f})"
            )
        print("| " + " | ".join(cells) + " |", flush=True)
    print("\nIn brackets the difference to Bayes on the same events.")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--full", action="store_true", help="the paper's networks; for a GPU")
    parser.add_argument("--parts", default="abcd")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", default="benchmarks/photocoverage_map.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.n_train, options.n_test, options.n_map, options.epochs = 16_000, 16_000, 4_000, 8
    options.coverages, options.efficiencies = (0.2, 0.34, 0.6), (0.1, 0.2, 0.4)
    if options.full:
        options.n_map, options.epochs = 40_000, 30
        options.coverages = (0.2, 0.34, 0.5, 0.7, 0.9)
        options.efficiencies = (0.1, 0.2, 0.3, 0.4, 0.5)
    if options.quick:
        options.n_train = options.n_test = options.n_map = 1_000
        options.epochs = 2
        options.coverages, options.efficiencies = (0.2, 0.6), (0.1, 0.4)
    start = time.perf_counter()
    print(
        machine(),
        f"{options.threads} threads",
        "reduced statistics" if not options.full else "full",
    )
    for part, table in zip(
        "dabc", (times_table, settings_table, learning_table, map_table), strict=True
    ):
        if part in options.parts:
            table(options)
    print(f"\nDone in {(time.perf_counter() - start) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
