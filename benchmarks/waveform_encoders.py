"""Encoders on simulated germanium waveforms: single-site against multi-site events.

Command: ``python benchmarks/waveform_encoders.py [--quick] [--seeds 5] [--jobs 2]``

All networks read the same events in the same preparation: baseline, pole-zero correction, charge
divided by the energy (the mean of the corrected tail), aligned at half of the height, and cut to
2 µs. Budget: the same number of epochs in the same batches, with one learning-rate schedule (one
cycle, up to the default step size of sknuc) and no early stopping, so that nothing is chosen on the
events that judge. Encoders are the defaults of `sknuc.encoders`, and one variant each:

- The current pulse of a single site is four to six samples wide, and the default patches hold 11:
  the variants of LSTM, GRU and Transformer read patches of 4.
- A/E is a maximum over time, so LSTM and GRU take the maximum of their states there, too.
- Aligned pulses have a meaning at each time, which "flatten" keeps in the CNN's features.

The table shows, of several seeds of the training, the median and the range of the multi-site
rejection at 90 % single-site acceptance and of the AUC; the error is that of the test events in the
median run (68 %, with that of the threshold). Epochs are timed while `--jobs` fits run side by
side, on one thread each. A/E of the raw waveforms is the traditional cut.
"""

import argparse
import time

import numpy as np
from _timing import fit_network, machine
from joblib import Parallel, delayed
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from sknuc.datasets import make_hpge_waveforms
from sknuc.encoders import CNN, GRU, LSTM, Transformer
from sknuc.metrics import rejection_at_acceptance
from sknuc.preprocessing import (
    BaselineSubtractor,
    PoleZeroCorrector,
    PulseShapeFeatures,
    WaveformAligner,
    WaveformNormalizer,
)

BATCH, RATE = 128, 3e-3

ENCODERS = {
    "CNN": CNN(),
    "CNN, flatten": CNN(pooling="flatten"),
    "LSTM": LSTM(),
    "LSTM, maximum over patches of 4": LSTM(patch_size=4, pooling="max"),
    "GRU": GRU(),
    "GRU, maximum over patches of 4": GRU(patch_size=4, pooling="max"),
    "Transformer": Transformer(),
    "Transformer, patches of 4": Transformer(patch_size=4),
}


def draw(n_events, seed):
    """Waveforms, and 1 for a single site."""
    events = make_hpge_waveforms(
        n_events, weights=(0.5, 0.5, 0), energy=(1000.0, 2700.0), random_state=seed
    )
    return events.data, (events.target == 0).astype(int)


def preparation():
    return make_pipeline(
        BaselineSubtractor(),
        PoleZeroCorrector(),
        WaveformNormalizer(norm="tail"),
        # Charge from any place arrives within 775 ns, which are before or behind half height.
        WaveformAligner(level=0.5, before=1024.0, after=1024.0),
    )


def train(encoder, X, y, X_test, epochs, seed):
    """Scores of the test events, seconds per epoch and number of parameters."""
    model, seconds, n_parameters = fit_network(
        encoder,
        X,
        y,
        input_shape=(1, X.shape[1]),
        epochs=epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        seed=seed,
    )
    return model.decision_function(X_test), seconds, n_parameters


def judge(y, score):
    """Rejection with its interval, and AUC."""
    result = rejection_at_acceptance(y, score)
    return result.rejection, *result.interval, roc_auc_score(y, score)


def print_result(name, y, runs, times, n_parameters, floor):
    """One row: `runs` are the scores of each seed; `floor` is the rejection of A/E."""
    judged = np.array([judge(y, score) for score in runs])
    # Of an even number of runs, the lower one of the two in the middle.
    rejection, low, high, auc = judged[np.argsort(judged[:, 0])[(len(runs) - 1) // 2]]
    spread = "–".join(f"{100 * bound:.1f}" for bound in np.quantile(judged[:, 0], [0, 1]))
    aucs = "–".join(f"{bound:.4f}" for bound in np.quantile(judged[:, 3], [0, 1]))
    is_network = bool(times)
    reached = ("yes" if rejection > floor else "**no**") if is_network else ""
    cells = [
        name,
        f"{100 * rejection:.1f} +{100 * (high - rejection):.1f} −{100 * (rejection - low):.1f}",
        spread if is_network else "",
        f"{auc:.4f}" + (f" ({aucs})" if is_network else ""),
        f"{np.median(times):.2f}" if is_network else "",
        f"{n_parameters:,}" if is_network else "",
        reached,
    ]
    print("|", " | ".join(cells), "|", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=10_000, help="events to learn from")
    parser.add_argument("--test", type=int, default=20_000, help="events that judge")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="fits that run side by side")
    parser.add_argument("--quick", action="store_true", help="few events, epochs and seeds")
    arguments = parser.parse_args()
    if arguments.quick:
        parser.set_defaults(train=1000, test=4000, epochs=3, seeds=2)
        arguments = parser.parse_args()
    started = time.perf_counter()
    raw, y = draw(arguments.train, 0)
    raw_test, y_test = draw(arguments.test, 1)
    steps = preparation().fit(raw)
    X, X_test = steps.transform(raw), steps.transform(raw_test)
    features = PulseShapeFeatures().fit(raw)
    column = list(features.get_feature_names_out()).index("a_over_e")
    aoe = features.transform(raw_test)[:, column]
    fits = [(name, seed) for name in ENCODERS for seed in range(arguments.seeds)]
    results = Parallel(n_jobs=arguments.jobs)(
        delayed(train)(ENCODERS[name], X, y, X_test, arguments.epochs, seed) for name, seed in fits
    )
    print(machine(), f"{arguments.jobs} fits side by side, one thread each")
    if arguments.quick:
        print("A quick run: too few events and epochs for any network.")
    print(
        f"\n{arguments.train:,} events to learn from, {arguments.epochs} epochs, "
        f"{arguments.seeds} seeds; {arguments.test:,} events that judge; half of them single-site\n"
    )
    print(
        "| method | rejection at 90 % (%) | of the seeds | AUC (of the seeds) | s per epoch | "
        "parameters | above A/E |"
    )
    print("|---|---|---|---|---|---|---|")
    floor = judge(y_test, aoe)[0]
    print_result("A/E", y_test, [aoe], [], 0, floor)
    for name in ENCODERS:
        own = [result for (n, _), result in zip(fits, results, strict=True) if n == name]
        scores, times, sizes = zip(*own, strict=True)
        print_result(name, y_test, scores, times, sizes[0], floor)
    print(f"\nIn all {(time.perf_counter() - started) / 60:.1f} min.")


if __name__ == "__main__":
    main()
