r"""
From simulated tracks to those of the detector
==============================================

A network learns to tell protons from carbon nuclei and from everything else in a time projection
chamber. It learns from simulated events, as nobody knows what the measured ones are. Then it meets
the detector: a lower gain, more diffusion and noise, pads that are dead, chips and pads that fire
by themselves, beam particles that pass by. Measured events are plenty, but without labels.

Is there a shift, and where? What does it cost? How much of that do methods of adaptation win back,
which see measured events without labels while they learn? The measured events are simulated too,
with settings that no training is told. Their labels train the oracle, which is what labels would
be worth, and judge the others.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` the figure is written to a folder instead of
# being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix

from sknuc.adaptation import (
    CDANClassifier,
    DANNClassifier,
    DeepCORALClassifier,
    DomainShiftDisplay,
    MMDClassifier,
    domain_shift,
)
from sknuc.datasets import make_tpc_events
from sknuc.encoders import CNN
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import TPCProjector

parser = argparse.ArgumentParser(description="Adapt a classifier of tracks to a detector.")
parser.add_argument("--output", type=Path, help="folder for the figure; else it is shown")
parser.add_argument("--n-events", type=int, default=2500, help="events of each sample")
parser.add_argument("--epochs", type=int, default=12, help="passes over the events")
parser.add_argument("--seeds", type=int, default=2, help="trainings of each method")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 12, "axes.titlesize": 13})

# %%
# Simulated events with labels, measured ones without, and as many measured ones to judge by. The
# fourth sample has the reactions of the first as the detector sees them: for pictures only.
n = arguments.n_events
options = {"format": "ragged"}
simulated = make_tpc_events(n, random_state=0, **options)
measured, judges = (
    make_tpc_events(n, domain="real", random_state=seed, **options) for seed in (1, 2)
)
same = make_tpc_events(n, domain="real", random_state=0, **options)
names = simulated.target_names


# %%
# What a physicist would look at first: amounts of charge and where it is, and the largest numbers
# of points of one pad, as of sparks, and of one time bucket, as of chips that fire.
def describe(events):
    """Quantities of each event, by their names."""
    counts = np.fromiter(map(len, events.data), dtype=int)
    event = np.repeat(np.arange(len(counts)), counts)
    x, y, z, charge = np.concatenate(events.data).astype(float).T
    total = np.bincount(event, charge)
    height = np.bincount(event, charge * z) / total
    middle = np.cumsum(counts) - counts + counts // 2

    def busiest(place, n_places):
        """Most points of an event at one place."""
        place, found = np.unique(event * n_places + place.astype(int), return_counts=True)
        first = np.searchsorted(place, np.arange(len(counts)) * n_places)
        return np.maximum.reduceat(found, first)

    pitch, bucket = events.detector.pad_pitch, events.detector.bucket_length
    row, column = ((v - low) / pitch for v, (low, _) in zip((x, y), events.ranges, strict=False))
    return {
        "points": counts,
        "charge (10³ ADC counts)": total / 1e3,
        "median charge of a point (ADC counts)": charge[np.lexsort((charge, event))][middle],
        "points of the busiest pad": busiest(row.astype(int) * 1000 + column, 10**6),
        "points of the busiest time bucket": busiest(z / bucket, 1000),
        "rms length along the beam (mm)": np.sqrt(
            np.bincount(event, charge * (z - height[event]) ** 2) / total
        ),
        "mean distance from the axis (mm)": np.bincount(event, charge * np.hypot(x, y)) / total,
    }


tables = [describe(events) for events in (simulated, measured)]
domain = np.repeat([0, -1], n)  # zero or more is simulated, less is measured
report = domain_shift(
    np.concatenate([np.column_stack(list(table.values())) for table in tables]),
    domain,
    feature_names=list(tables[0]),
)
print(report)

# %%
# The network reads the pad plane and two side views, 32 x 32 pixels each, on a logarithmic scale of
# charge. All methods have the same one, and the same passes over as many events.
projector = TPCProjector(bins=(32, 32), ranges=simulated.ranges, log=True)
X, X_measured, X_judges = (
    projector.fit_transform(events.data) for events in (simulated, measured, judges)
)
y, truth = simulated.target, judges.target
X_both = np.concatenate([X, X_measured])
y_both = np.concatenate([y, np.full(n, -1)])  # nothing is known of measured events
ADAPTERS = {
    "CORAL": DeepCORALClassifier,
    "MMD": MMDClassifier,
    "DANN": DANNClassifier,
    "CDAN": CDANClassifier,
}


def train(method, seed):
    """A classifier for measured events."""
    network = {
        "encoder": CNN(channels=(8, 16, 32)),
        "max_epochs": arguments.epochs,
        "batch_size": 64,
        "schedule": "cosine",
        "random_state": seed,
        "device": "cpu",
    }
    if method == "source only":
        return NeuralClassifier(**network).fit(X, y)
    if method == "oracle":
        return NeuralClassifier(**network).fit(X_measured, measured.target)
    adapter = ADAPTERS[method](**network)
    return adapter.fit(X_both, y_both, sample_domain=domain)


# %%
# The F1 score of a class is the harmonic mean of the efficiency and the purity of its selection.
# Trainings of a method are averaged. The error is the spread over repetitions in which the events
# that judge are drawn anew; what another training would give is seen from the single ones.
def f1_per_class(confusion):
    """F1 of each class from tables of confusion of shape (..., n_classes, n_classes)."""
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    return 2 * correct / (confusion.sum(axis=-1) + confusion.sum(axis=-2))


redrawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=500)
confusions, f1, errors, accuracies = {}, {}, {}, {}
for method in ("source only", *ADAPTERS, "oracle"):
    said = [train(method, seed).predict(X_judges) for seed in range(arguments.seeds)]
    confusions[method] = np.array([confusion_matrix(truth, s, labels=range(3)) for s in said])
    f1[method] = f1_per_class(confusions[method])
    accuracies[method] = np.mean(np.array(said) == truth, axis=1)
    # Of each event, the cell of the table that it is in.
    again = [(redrawn @ np.eye(9)[3 * truth + s]).reshape(-1, 3, 3) for s in said]
    errors[method] = f1_per_class(np.array(again)).mean(axis=0).std(axis=0)
    text = ", ".join(
        f"{name} {value:.3f} ± {error:.3f}"
        for name, value, error in zip(names, f1[method].mean(axis=0), errors[method], strict=True)
    )
    runs = ", ".join(f"{accuracy:.3f}" for accuracy in accuracies[method])
    print(f"F1 of {method}: {text}; accuracy of single trainings {runs}")

# %%
# How far each method gets on the way from the source alone to the oracle, in accuracy.
low, high = (accuracies[method].mean() for method in ("source only", "oracle"))
for method in ADAPTERS:
    won = accuracies[method].mean() - low
    print(f"{method}: {100 * won:+.1f} of {100 * (high - low):.1f} percent points")

# %%
# Above: a proton as simulated and as the detector sees it, from the side, and the shift. Below:
# what the methods reach, and tables of confusion whose rows are the truth and sum to 100 %.
SHOWN = "CORAL"  # a method without a game; not chosen by what the labels say
COLORS = ("#0072B2", "#D55E00", "#009E73")
figure = plt.figure(figsize=(16, 9), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.05), hspace=0.03)
left, right = top.subfigures(1, 2, width_ratios=(1, 1.9))
protons = np.flatnonzero((simulated.target == 0) & simulated.truth.stopped)
length = simulated.truth.path_length[protons]
shown = protons[np.argsort(length)[len(protons) // 2]]
norm = LogNorm(40.0, 4095.0)
axes = left.subplots(2, 1, sharex=True, sharey=True)
for ax, events, title in zip(
    axes,
    (simulated, same),
    ("a proton, simulated", 'the same, in the "real" detector'),
    strict=True,
):
    x, _, z, charge = events.data[shown].T
    points = ax.scatter(z, x, c=charge, s=5, norm=norm, cmap="viridis")
    ax.set(title=title, ylabel="x (mm)", xlim=(0, 1250), ylim=(-275, 275))
axes[1].set_xlabel("z, along the beam (mm)")
left.colorbar(points, ax=axes, label="charge (ADC counts)")
DomainShiftDisplay({'Simulated and "real"': report}).plot(figure=right)

left, right = bottom.subfigures(1, 2, width_ratios=(1.15, 1))
ax = left.subplots()
places = np.arange(len(f1))
for k, (name, color, marker) in enumerate(zip(names, COLORS, "os^", strict=True)):
    at = places + 0.2 * (k - 1)
    ax.errorbar(
        at,
        [values[:, k].mean() for values in f1.values()],
        [error[k] for error in errors.values()],
        fmt=marker,
        ms=9,
        capsize=4,
        color=color,
        label=name,
    )
    for seed in range(arguments.seeds):
        single = [values[seed, k] for values in f1.values()]
        ax.plot(at + 0.07, single, ".", ms=5, color=color, alpha=0.6)
ax.set_xticks(places, list(f1))
ax.set(ylabel='F1 score on "real" events', ylim=(0, 1.08))
ax.set_title("of each class; dots are single trainings")
ax.grid(axis="y", alpha=0.3)
ax.legend(ncols=3, loc="upper left")
for ax, method in zip(right.subplots(1, 2, sharey=True), ("source only", SHOWN), strict=True):
    total = confusions[method].sum(axis=0)
    percent = 100 * total / total.sum(axis=1, keepdims=True)
    ConfusionMatrixDisplay(percent, display_labels=names).plot(
        ax=ax, cmap="Blues", colorbar=False, values_format=".0f", im_kw={"vmin": 0, "vmax": 100}
    )
    ax.set(
        title=f"{method}: accuracy {accuracies[method].mean():.3f}",
        xlabel="network",
        ylabel="truth (rows in %)",
    )
    ax.label_outer()
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "tpc_simulation_to_data.png", dpi=120)
else:
    plt.show()
