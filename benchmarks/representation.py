r"""What features that were learned without labels know, by a linear probe, on germanium waveforms.

Command: ``python benchmarks/representation.py [--quick] [--fits 2] [--methods pca,simclr,...]``

10,000 simulated waveforms without labels, aligned as in the README's first example, teach the
features; 100, 1,000 or 10,000 of them with labels teach a linear probe: logistic regression for
single-site against multi-site events, ridge regression for the drift time, both with a penalty that
is chosen by cross-validation on these labels. The supervised networks see the labels alone. 5,000
new waveforms judge.

- All networks are the same encoder; the autoencoder's keeps positions instead of averaging.
- The untrained encoder has random weights: what it reaches, training did not teach.
- An error is the standard error over draws of the labels and seeds of the fit together; as draws
  share test events, differences between methods are surer than their errors say. The difference
  that is the goal is taken draw by draw.

Goal: with 100 labels, SimCLR beats the supervised network.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from _timing import machine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline

from sknuc.datasets import make_hpge_waveforms
from sknuc.encoders import CNN
from sknuc.networks import NeuralClassifier, NeuralRegressor
from sknuc.preprocessing import BaselineSubtractor, WaveformAligner, WaveformNormalizer
from sknuc.representation import Autoencoder, DeepInfoMax, Gain, Noise, Shift, SimCLR

ENCODER = CNN(channels=(16, 32, 32), n_blocks=0, pooling="mean")
# Noise as electronics have it, up to half a per cent of the pulse: more would hide its shape.
VIEWS = [Shift(samples=(-3, 3)), Noise(std=(0.0, 0.01)), Gain()]
# Labels, draws of them, and epochs and batches of the supervised networks, a thousand steps each.
LABELS = {100: (6, 250, 32), 1000: (4, 60, 64), 10_000: (1, 14, 128)}


def simulate(n, seed):
    """Waveforms (n, 1, 150), which are of several sites, and drift times in ns."""
    events = make_hpge_waveforms(n, weights=[0.5, 0.5, 0], random_state=seed)
    steps = make_pipeline(
        BaselineSubtractor(),
        WaveformNormalizer(),
        WaveformAligner(level=0.5, before=1600.0, after=800.0),
    )
    X = steps.fit_transform(events.data)[:, None].astype(np.float32)
    return X, events.target, events.truth.drift_time


def flat(X):
    return X.reshape(len(X), -1)


class Untrained:
    """The encoder with random weights, on standardised events."""

    def __init__(self, seed):
        self.seed = seed

    def fit(self, X):
        """Draw the weights."""
        self.mean, self.scale = X.mean(), X.std()
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.network = ENCODER.build(X.shape[1:])
        return self

    def transform(self, X):
        """Features (n, n_features)."""
        with torch.inference_mode():
            blocks = torch.from_numpy((X - self.mean) / self.scale).split(1000)
            return torch.cat([self.network(block) for block in blocks]).numpy()


class Flat:
    """A transformer of tables, for waveforms; None takes them as they are."""

    def __init__(self, step=None):
        self.step = step

    def fit(self, X):
        """Fit the step."""
        if self.step is not None:
            self.step.fit(flat(X))
        return self

    def transform(self, X):
        """Features (n, n_features)."""
        return flat(X) if self.step is None else self.step.transform(flat(X))


METHODS = {
    "raw": ("Waveforms", lambda seed, epochs: Flat()),
    "pca": ("PCA, 20 components", lambda seed, epochs: Flat(PCA(20, random_state=seed))),
    "untrained": ("Untrained encoder", lambda seed, epochs: Untrained(seed)),
    "autoencoder": (
        "Autoencoder, 16 latent",
        lambda seed, epochs: Autoencoder(max_epochs=epochs, batch_size=128, random_state=seed),
    ),
    "simclr": (
        "SimCLR",
        lambda seed, epochs: SimCLR(
            augmentations=VIEWS,
            encoder=ENCODER,
            max_epochs=epochs,
            batch_size=128,
            random_state=seed,
        ),
    ),
    "infomax": (
        "DeepInfoMax",
        lambda seed, epochs: DeepInfoMax(
            encoder=ENCODER, max_epochs=epochs, batch_size=128, random_state=seed
        ),
    ),
}


def probe(Z, train, y, drift):
    """Accuracy and R² of linear models of features of the events `train`, on those after them."""
    (Z, Z_test), (y, y_test), (drift, drift_test) = Z, y, drift
    sites = LogisticRegressionCV(
        Cs=np.logspace(-3, 4, 8),
        cv=5 if len(train) < 5000 else 3,
        scoring="neg_log_loss",
        l1_ratios=(0,),
        use_legacy_attributes=False,
        max_iter=300,
    )
    with warnings.catch_warnings():
        # The weakest penalties do not converge, and are not chosen.
        warnings.simplefilter("ignore")
        sites.fit(Z[train], y[train])
        time = RidgeCV(np.logspace(-5, 5, 21)).fit(Z[train], drift[train])
    accuracy = np.mean(sites.predict(Z_test) == y_test)
    return accuracy, r2_score(drift_test, time.predict(Z_test))


def supervise(X, train, y, drift, seed, quick):
    """The same of networks that see nothing but the labelled events."""
    _, epochs, batch_size = LABELS[len(train)]
    options = {
        "encoder": ENCODER,
        "max_epochs": max(2, epochs // 20) if quick else epochs,
        "batch_size": batch_size,
        "schedule": "cosine",
        "random_state": seed,
    }
    (X, X_test), (y, y_test), (drift, drift_test) = X, y, drift
    sites = NeuralClassifier(**options).fit(X[train], y[train])
    time = NeuralRegressor(**options).fit(X[train], drift[train])
    return sites.score(X_test, y_test), r2_score(drift_test, time.predict(X_test))


def show(name, results, seconds):
    """Print a row: results of shape (draws, 2) for each number of labels."""
    cells = []
    for k in range(2):
        for values in results.values():
            column = np.array(values)[:, k]
            error = np.std(column, ddof=1) / np.sqrt(len(column)) if len(column) > 1 else np.nan
            cells.append(f"{column.mean():.3f} ± {error:.3f}")
    print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--fits", type=int, default=2, help="seeds of each method")
    parser.add_argument("--methods", default=",".join([*METHODS, "supervised"]))
    parser.add_argument("--events", type=int, help="instead of 10,000 without labels")
    options = parser.parse_args()
    n = options.events or (1000 if options.quick else 10_000)
    n_fits = 1 if options.quick else options.fits
    epochs = 2 if options.quick else 20
    train, test = simulate(n, 0), simulate(max(n // 2, 500), 1)
    X, y, drift = zip(train, test, strict=True)
    labels = {k: draws for k, (draws, *_) in LABELS.items() if k <= n}
    print(f"{machine()}, threads: {torch.get_num_threads()}; {n:,} waveforms without labels\n")
    heads = [f"{what}, {k:,} labels" for what in ("accuracy", "R² of drift") for k in labels]
    print(f"| features | {' | '.join(heads)} | fit s |")
    print("|---" * (len(heads) + 2) + "|", flush=True)
    chosen = {
        k: [np.random.default_rng(draw).permutation(n)[:k] for draw in range(draws)]
        for k, draws in labels.items()
    }
    everything = {}
    for key in options.methods.split(","):
        results = {k: [] for k in labels}
        start = time.perf_counter()
        if key == "supervised":
            for k, draws in chosen.items():
                for seed, rows in enumerate(draws if len(draws) > 1 else draws * n_fits):
                    results[k].append(supervise(X, rows, y, drift, seed, options.quick))
            name, seconds = "Supervised network", time.perf_counter() - start
        else:
            name, make = METHODS[key]
            seconds = 0.0
            for seed in range(1 if key in ("raw", "pca") else n_fits):
                start = time.perf_counter()
                model = make(seed, epochs).fit(X[0])
                seconds += time.perf_counter() - start
                Z = [model.transform(part) for part in X]
                # One scale for all: directions along which features vary little stay small.
                mean, scale = Z[0].mean(0), Z[0].std()
                Z = [(part - mean) / scale for part in Z]
                for k, draws in chosen.items():
                    results[k] += [probe(Z, rows, y, drift) for rows in draws]
        everything[key] = results
        show(name, results, seconds)
    few = min(labels)
    if {"simclr", "supervised"} <= everything.keys():
        ours, theirs = (np.array(everything[key][few]) for key in ("simclr", "supervised"))
        # The mean over seeds of each draw.
        gain = ours.reshape(-1, len(theirs), 2).mean(0) - theirs
        error = gain.std(0, ddof=1) / np.sqrt(len(gain))
        print(f"\nSimCLR less the supervised network, {few} labels:")
        for what, value, std in zip(("accuracy", "R² of drift"), gain.mean(0), error, strict=True):
            reached = "" if options.quick else f"; goal > 0: {'yes' if value > 0 else '**no**'}"
            print(f"- {what}: {value:+.3f} ± {std:.3f}{reached}")


if __name__ == "__main__":
    main()
