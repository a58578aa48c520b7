r"""
Tracks in a time projection chamber
===================================

An active-target time projection chamber takes pictures of nuclear reactions in three dimensions: a
beam of :sup:`46`\ Ar hits a proton or a carbon nucleus of the gas, and the recoil spirals in the
magnetic field until it stops. Which of the two was it, or neither?

Two networks learn it from simulated events, PointNet from the points and a CNN from their
projections, and are then shown events of a detector that is not quite the simulated one: other
gain, diffusion and threshold, dead pads, sparks. That drop is what every experiment meets.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` figures are written to a folder instead of
# being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.pipeline import make_pipeline

from sknuc.datasets import make_tpc_events
from sknuc.encoders import CNN, PointNet
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import PointCloudSampler, TPCProjector

parser = argparse.ArgumentParser(description="Classify tracks of simulated and of real events.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=6000, help="events to train on")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})

# %%
# The domain "real" is simulated too, with settings that the training does not know.
train = make_tpc_events(arguments.n_events, random_state=0)
tests = {
    "simulation": make_tpc_events(arguments.n_events // 3, random_state=1),
    '"real" detector': make_tpc_events(arguments.n_events // 3, domain="real", random_state=2),
}
names = train.target_names

# %%
# Each network reads the events in its own way. PointNet gets 128 points of each event, whose order
# does not matter; the CNN gets the pad plane and two side views, 32 x 32 pixels each, on a
# logarithmic scale of charge, from the first to the last pad and time bucket.
models = {
    "PointNet": make_pipeline(
        PointCloudSampler(n_points=128, random_state=0),
        NeuralClassifier(
            encoder=PointNet(channels=(32, 64)), max_epochs=12, batch_size=64, random_state=0
        ),
    ),
    "CNN": make_pipeline(
        TPCProjector(bins=(32, 32), ranges=train.ranges, log=True),
        NeuralClassifier(
            encoder=CNN(channels=(8, 16, 32)), max_epochs=6, batch_size=64, random_state=0
        ),
    ),
}
for model in models.values():
    model.fit(train.data, train.target)


# %%
# The F1 score of a class is the harmonic mean of the efficiency and the purity of its selection.
# Its error is the spread over repetitions in which the table of confusion is drawn anew.
def f1_per_class(confusion):
    """F1 of each class from tables of confusion of shape (..., n_classes, n_classes)."""
    correct = np.diagonal(confusion, axis1=-2, axis2=-1)
    return 2 * correct / (confusion.sum(axis=-1) + confusion.sum(axis=-2))


rng = np.random.default_rng(0)
probabilities, confusions = {}, {}
for model_name, model in models.items():
    for domain, events in tests.items():
        key = model_name, domain
        probabilities[key] = model.predict_proba(events.data)
        confusion = confusion_matrix(events.target, probabilities[key].argmax(axis=1))
        again = rng.multinomial(confusion.sum(), confusion.ravel() / confusion.sum(), size=1000)
        errors = f1_per_class(again.reshape(-1, *confusion.shape)).std(axis=0)
        f1 = f1_per_class(confusion)
        confusions[key] = confusion
        text = ", ".join(
            f"{name} {value:.3f} ± {error:.3f}"
            for name, value, error in zip(names, f1, errors, strict=True)
        )
        print(f"F1 of {model_name} on {domain}: {text}")

# %%
# Rows are the truth and sum to 100 %, columns what the network said.
figure, axes = plt.subplots(2, 2, figsize=(10.5, 9.5), sharex=True, sharey=True)
for (model_name, domain), ax in zip(confusions, axes.T.flat, strict=True):
    confusion = confusions[model_name, domain]
    percent = 100 * confusion / confusion.sum(axis=1, keepdims=True)
    ConfusionMatrixDisplay(percent, display_labels=names).plot(
        ax=ax, cmap="Blues", colorbar=False, values_format=".1f", im_kw={"vmin": 0, "vmax": 100}
    )
    ax.set(
        title=f"{model_name}, {domain}\nmean F1 {f1_per_class(confusion).mean():.3f}",
        xlabel="Network",
        ylabel="Truth (rows in %)",
    )
    ax.label_outer()
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "tpc_confusion.png", dpi=120)

# %%
# Of each class (of the others, among the pile-up of recoils) the event whose probability of being
# what it is, in the eyes of PointNet, is the median: simulated ones above, "real" ones below. The
# beam comes from the left; grey is the view of the pads, which the charge drifts to.
figure = plt.figure(figsize=(13.3, 6.8), layout="none")
norm = LogNorm(40.0, 4095.0)
shown = {}
for row, (domain, events) in enumerate(tests.items()):
    for column, name in enumerate(names):
        what, kind = ("pile-up", "pile_up") if name == "other" else (name, "recoil")
        own = np.flatnonzero((events.target == column) & (events.truth.kind == kind))
        certainty = probabilities["PointNet", domain][own, column]
        event = own[np.argsort(certainty)[len(own) // 2]]
        shown[domain, name] = event
        x, y, z, charge = events.data[event][events.data[event][:, 3] > 0].T
        place = [0.305 * column, 0.47 - 0.49 * row, 0.3, 0.52]
        ax = figure.add_axes(place, projection="3d", facecolor="none")
        ax.scatter(np.full_like(z, 1250.0), x, y, s=1, color="0.7", depthshade=False)
        points = ax.scatter(
            z, x, y, c=charge, s=2 + charge / 300, norm=norm, cmap="viridis", depthshade=False
        )
        said = probabilities["PointNet", domain][event, column]
        answer = f"PointNet: p({name}) = {said:.2f}"
        ax.set_title(f"{what.capitalize()}, {domain}\n{answer}", y=0.9)
        ax.set(xlim=(0, 1250), ylim=(-275, 275), zlim=(-275, 275))
        ax.set_box_aspect((1.9, 1, 1), zoom=1.0)
        ax.view_init(elev=18, azim=-62)
        ax.set_xticks([0, 500, 1000])
        ax.set_yticks([-200, 0, 200])
        ax.set_zticks([-200, 0, 200])
        ax.tick_params(labelsize=9, pad=-1)
        ax.set_xlabel("z (mm)", labelpad=1)
        ax.set_ylabel("x (mm)", labelpad=1)
        ax.set_zlabel("y (mm)", labelpad=-1)
bar = figure.add_axes([0.95, 0.2, 0.012, 0.6])
figure.colorbar(points, cax=bar)
bar.set_title("Charge\n(ADC)", fontsize=12)
if arguments.output:
    figure.savefig(arguments.output / "tpc_tracks.png", dpi=120)
else:
    plt.show()
