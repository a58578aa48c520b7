r"""Tracks in a time projection chamber: how well networks tell them, and what reality costs.

Command: ``python benchmarks/tpc.py [--quick] [--seeds 3] [--jobs 2]``

`make_tpc_events` has two detectors, "simulation" and "real", with other gain, diffusion, threshold
and noise; the second has dead pads, sparks, firing chips and beam particles too. Networks learn on
one and are judged on the same or on the other: simulation → real is what an experiment without
labels has, and what it loses against real → real is what adaptation methods can win back.

- CNN: images of the planes (x, y), (z, x) and (z, y), :math:`\ln(1 + \mathrm{charge})` in 48 × 48
  pixels of the whole chamber.
- PointNet: 256 points of each event, chosen at random, with :math:`\ln(1 + \mathrm{charge})`.
- Trees on summaries: boosted trees on eleven numbers (points, charge, size, charge per length ...),
  the floor.

Both networks are the defaults of `sknuc.encoders`, with the same events, epochs and batches, one
learning-rate cycle and no early stopping. The table has the F1 score of each class,
:math:`2\,TP/(2\,TP + FP + FN)`, in the median run (by the mean of the three) of several seeds of
the training, its error from bootstrap samples of the test events, and the range of the seeds. What
is lost against real → real has the error of the difference: both are judged on the same events, and
so on the same bootstrap samples. F1
depends on the proportions of the classes; here they are equal. Nothing is tuned on the events that
judge, and the simulation is not told of the real detector's settings.
"""

import argparse
import time

import numpy as np
from _timing import fit_network, machine
from joblib import Parallel, delayed
from sklearn.metrics import confusion_matrix

from sknuc.baselines import BDTClassifier
from sknuc.datasets import make_tpc_events
from sknuc.encoders import CNN, PointNet
from sknuc.preprocessing import PointCloudSampler, TPCProjector

BATCH, RATE = 64, 3e-3
CHAMBER = make_tpc_events(1, random_state=0).ranges  # mm
DOMAINS = ("simulation", "real")
ENCODERS = {"CNN": CNN(), "PointNet": PointNet()}
FLOOR = "trees on summaries"
DIRECTIONS = (("simulation", "simulation"), ("real", "real"), ("simulation", "real"))

# F1 of proton, carbon, other in M. P. Kuchera et al., NIM A 940 (2019) 156, arXiv:1810.10350.
PUBLISHED = {
    ("simulation", "simulation"): (0.69, 0.97, 0.76),
    ("real", "real"): (0.65, 0.46, 0.78),
    ("simulation", "real"): (0.45, 0.31, 0.19),
}


def summarise(clouds):
    """Eleven numbers of each padded cloud (n, P, 4)."""
    position, charge = clouds[..., :3].astype(np.float64), clouds[..., 3].astype(np.float64)
    n_points = np.count_nonzero(charge, axis=1)
    total = charge.sum(axis=1)
    # Weights by charge: noise is frequent, but small.
    weight = charge / np.maximum(total, 1.0)[:, None]
    centre = np.einsum("np,npk->nk", weight, position)
    offset = np.sqrt(weight)[..., None] * (position - centre[:, None])
    covariance = offset.swapaxes(1, 2) @ offset
    spread = np.sqrt(np.linalg.eigvalsh(covariance).clip(min=0.0))
    length = np.sqrt(12.0) * spread[:, 2]  # of a straight line of even charge
    return np.column_stack(
        [
            n_points,
            np.log1p(total),
            np.log1p(charge.max(axis=1)),
            np.log1p(total / np.maximum(n_points, 1)),
            np.log1p(total / np.maximum(length, 1.0)),
            spread,
            np.sqrt(covariance[:, 2, 2]),
            np.hypot(centre[:, 0], centre[:, 1]),
            centre[:, 2],
        ]
    )


def draw(n_events, domain, seed, block=500):
    """What each method reads, and the labels; block by block, as padded clouds are large."""
    projector = TPCProjector(bins=(48, 48), ranges=CHAMBER, log=True)
    sampler = PointCloudSampler(n_points=256, random_state=0)
    random_state = np.random.RandomState(seed)
    parts = []
    for start in range(0, n_events, block):
        size = min(block, n_events - start)
        clouds, y = make_tpc_events(size, domain=domain, return_X_y=True, random_state=random_state)
        points = sampler.fit_transform(clouds)
        points[..., 3] = np.log1p(points[..., 3])  # which leaves zeros, the padding
        parts.append((projector.fit_transform(clouds), points, summarise(clouds), y))
    images, points, summaries, y = (np.concatenate(part) for part in zip(*parts, strict=True))
    return {"CNN": images, "PointNet": points, FLOOR: summaries}, y


def train(method, X, y, tests, epochs, seed):
    """Predictions on each test sample, seconds per epoch and number of parameters."""
    if method == FLOOR:
        model = BDTClassifier(
            max_depth=4, max_iter=300, early_stopping=True, random_state=seed, n_jobs=1
        ).fit(X, y)
        return {domain: model.predict(X_test) for domain, X_test in tests.items()}, None, None
    model, seconds, n_parameters = fit_network(
        ENCODERS[method], X, y, epochs=epochs, batch_size=BATCH, learning_rate=RATE, seed=seed
    )
    predicted = {domain: model.predict(X_test) for domain, X_test in tests.items()}
    return predicted, seconds, n_parameters


def f1_scores(confusion):
    """Of each class, from matrices (..., true, predicted)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    return 2 * hits / np.maximum(confusion.sum(-1) + confusion.sum(-2), 1)


def bootstrap(n_events, rng, n_samples=1000):
    """How often each event is in each sample, of shape (n_samples, n_events)."""
    return rng.multinomial(n_events, np.full(n_events, 1 / n_events), size=n_samples)


def judge(y, runs, samples):
    """F1 of each class and their mean: the median run, its replicas, and the range of all runs."""
    confusions = [confusion_matrix(y, predicted, labels=[0, 1, 2]) for predicted in runs]
    scores = np.array([f1_scores(confusion) for confusion in confusions])
    scores = np.column_stack([scores, scores.mean(axis=1)])
    # Of an even number of runs, the lower one of the two in the middle.
    median = np.argsort(scores[:, 3])[(len(runs) - 1) // 2]
    cell = np.eye(9)[3 * y + runs[median]]
    replicas = f1_scores((samples @ cell).reshape(-1, 3, 3))
    replicas = np.column_stack([replicas, replicas.mean(axis=1)])
    return scores[median], replicas, scores.min(axis=0), scores.max(axis=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=6000, help="events of each detector")
    parser.add_argument("--test", type=int, default=6000, help="events of each detector")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="fits that run side by side")
    parser.add_argument("--quick", action="store_true", help="few events, epochs and seeds")
    arguments = parser.parse_args()
    if arguments.quick:
        parser.set_defaults(train=1000, test=1500, epochs=3, seeds=1)
        arguments = parser.parse_args()
    started = time.perf_counter()
    samples = {
        domain: (draw(arguments.train, domain, 2 * i), draw(arguments.test, domain, 2 * i + 1))
        for i, domain in enumerate(DOMAINS)
    }
    methods = (FLOOR, *ENCODERS)
    fits = [
        (m, domain, seed) for m in methods for domain in DOMAINS for seed in range(arguments.seeds)
    ]
    results = Parallel(n_jobs=arguments.jobs)(
        delayed(train)(
            method,
            samples[domain][0][0][method],
            samples[domain][0][1],
            {other: samples[other][1][0][method] for d, other in DIRECTIONS if d == domain},
            arguments.epochs,
            seed,
        )
        for method, domain, seed in fits
    )
    results = dict(zip(fits, results, strict=True))

    print(machine(), f"{arguments.jobs} fits side by side, one thread each")
    if arguments.quick:
        print("A quick run: too few events and epochs for any network.")
    print(
        f"\n{arguments.train:,} events to learn from, {arguments.epochs} epochs, "
        f"{arguments.seeds} seeds, {arguments.test:,} events that judge\n"
    )
    print(
        "| learnt on → judged on | method | F1 proton (seeds) | carbon | other | mean | "
        "of real → real | s per epoch | parameters | above trees |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    rng = np.random.default_rng(0)
    resampled = {domain: bootstrap(arguments.test, rng) for domain in DOMAINS}
    judged = {}
    for learnt, judged_on in DIRECTIONS:
        for method in methods:
            own = [results[method, learnt, seed] for seed in range(arguments.seeds)]
            runs = [predicted[judged_on] for predicted, _, _ in own]
            y = samples[judged_on][1][1]
            score, replicas, low, high = judge(y, runs, resampled[judged_on])
            judged[learnt, judged_on, method] = score[3], replicas[:, 3]
            error = replicas.std(axis=0)
            print_row(judged, (learnt, judged_on, method), score, error, low, high, own)
    print(
        "\nFor comparison, on other data (the AT-TPC's own simulation and hand-labelled events, of "
        "other proportions), from arXiv:1810.10350:\n"
    )
    print("| learnt on → judged on | F1 proton | carbon | other | mean |")
    print("|---|---|---|---|---|")
    for (learnt, judged_on), values in PUBLISHED.items():
        cells = " | ".join(f"{value:.2f}" for value in (*values, np.mean(values)))
        print(f"| {learnt} → {judged_on} | {cells} |")
    print(f"\nIn all {(time.perf_counter() - started) / 60:.1f} min.")


def print_row(judged, key, score, error, low, high, own):
    learnt, judged_on, method = key
    cells = [f"{learnt} → {judged_on}", method]
    cells += [
        f"{s:.3f} ± {e:.3f} ({a:.3f}–{b:.3f})"
        for s, e, a, b in zip(score, error, low, high, strict=True)
    ]
    change = ""
    if learnt != judged_on:
        best, of_best = judged[judged_on, judged_on, method]
        _, of_own = judged[key]
        change = f"{score[3] - best:+.3f} ± {np.std(of_own - of_best):.3f}".replace("-", "−")
    cells.append(change)
    if method == FLOOR:
        cells += ["", "", ""]
    else:
        floor, _ = judged[learnt, judged_on, FLOOR]
        seconds = np.median([seconds for _, seconds, _ in own])
        cells += [f"{seconds:.1f}", f"{own[0][2]:,}", "yes" if score[3] > floor else "**no**"]
    print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
