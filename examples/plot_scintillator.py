r"""
A sphere of phototubes: double beta decay against carbon-10
===========================================================

Neutrinoless double beta decay (0νββ) makes all its light at one point and at once. The background
:sup:`10`\ C makes the same amount of it, but with gamma rays, decimetres around the vertex, and
partly late, when the positron forms ortho-positronium. The phototubes of a liquid scintillator
detector see no more of it than where each photon arrives, and when.

A network that reads the light on the sphere of phototubes, whatever way the detector is turned, is
compared with logistic regression on the time profile alone.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` figures are written to a folder instead of
# being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from matplotlib.colors import LogNorm, Normalize
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import LRScheduler

from sknuc.datasets import make_scintillator_events
from sknuc.encoders import SphericalCNN
from sknuc.geometry import polar_angles
from sknuc.metrics import rejection_at_acceptance
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import PMTHitMap

parser = argparse.ArgumentParser(description="Double beta decay against carbon-10 in light.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=15_000, help="simulated events")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})

# %%
# 250 photo-electrons per MeV on 1879 phototubes, whose transit times spread by 1.5 ns. The number
# of photo-electrons is the same in both classes. Scattered light, dark noise and electronics are
# left out, so this is easier than it is in an experiment.
events = make_scintillator_events(arguments.n_events, charge_resolution=0.35, random_state=0)
train, test = train_test_split(
    np.arange(arguments.n_events), test_size=1 / 3, stratify=events.target, random_state=0
)

# %%
# Both methods start from the same maps: hits in bins of time and on phototubes, their times
# corrected for the flight from the reconstructed vertex. The vertex of each event travels along
# with the hits to the step that asks for it, through scikit-learn's metadata routing.
sklearn.set_config(enable_metadata_routing=True)
edges = np.r_[-15.0, -10.0, -8.0:8.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 60.0]  # ns
hit_map = PMTHitMap(positions=events.positions, bins=edges, dtype="uint8")


def time_profile(maps):
    """Hits in each bin of time, wherever they are: (n, T, n_pmt) to (n, T)."""
    return maps.sum(axis=2)


models = {
    "Logistic regression, time profile": make_pipeline(
        hit_map,
        FunctionTransformer(time_profile),
        StandardScaler(),
        LogisticRegression(max_iter=1000),
    ),
    "SphericalCNN, time and direction": make_pipeline(
        clone(hit_map),
        NeuralClassifier(
            encoder=SphericalCNN(positions=events.positions, bandwidths=(4, 3, 3)),
            max_epochs=8,
            batch_size=128,
            weight_decay=0.3,
            callbacks=[LRScheduler("CosineAnnealingLR", T_max=8)],
            random_state=0,
        ),
    ),
}
scores, rejections = {}, {}
for name, model in models.items():
    model.fit(events.data[train], events.target[train], vertex=events.vertex[train])
    scores[name] = model.decision_function(events.data[test], vertex=events.vertex[test])
    rejections[name] = rejection_at_acceptance(events.target[test], scores[name], acceptance=0.9)
    low, high = rejections[name].interval
    print(f"{name}: rejects {rejections[name].rejection:.3f} ({low:.3f} to {high:.3f}) of 10C")

# %%
# Both methods are judged by the same events, so their difference is known better than each of them:
# its error is the spread over samples of these events that are drawn anew. Nearly all that tells
# the classes apart is in the times, where bins must begin early enough: gamma rays bring light to
# some tubes before that of the vertex. Where the light goes adds little to it.
target = events.target[test]


def difference(score, other):
    """How much more background `other` rejects, and the error of that."""
    rng = np.random.default_rng(0)
    samples = [np.arange(len(target)), *rng.integers(len(target), size=(200, len(target)))]
    replicas = [
        rejection_at_acceptance(target[rows], other[rows]).rejection
        - rejection_at_acceptance(target[rows], score[rows]).rejection
        for rows in samples
    ]
    return replicas[0], np.std(replicas[1:])


gain, gain_error = difference(*scores.values())
print(f"Difference: {gain:+z.3f} ± {gain_error:.3f}")

# %%
# Background rejection against signal acceptance. The points are at 90 % acceptance; their errors
# hold the statistics of both classes in the test, but not that of another training.
figure, ax = plt.subplots(figsize=(8.0, 6.0))
styles = {"color": ["#D55E00", "#0072B2"], "ls": ["--", "-"]}
for (name, score), color, ls in zip(scores.items(), *styles.values(), strict=True):
    removed, acceptance, _ = roc_curve(events.target[test], score)
    result = rejections[name]
    low, high = result.interval
    ax.plot(100 * acceptance, 100 * (1 - removed), color=color, ls=ls, lw=2.5)
    ax.errorbar(
        100 * result.acceptance,
        100 * result.rejection,
        yerr=100 * np.array([[result.rejection - low], [high - result.rejection]]),
        fmt="o",
        color=color,
        capsize=4,
        label=f"{name}\n{100 * result.rejection:.1f} ± {50 * (high - low):.1f} % at 90 %",
    )
ax.axvline(90, color="0.5", lw=1, ls=":")
ax.set(
    xlabel="Acceptance of 0νββ (%)",
    ylabel=r"Rejection of $^{10}$C (%)",
    xlim=(70, 100),
    ylim=(50, 100),
    title=f"{len(train)} events to learn from, {len(test)} to judge by:\n"
    f"SphericalCNN - logistic regression: {100 * gain:+z.1f} ± {100 * gain_error:.1f} %",
)
ax.legend(loc="lower left")
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "scintillator_rejection.png", dpi=120)

# %%
# Of each class the event whose score is the median of its class, as Mollweide maps of the
# detector: a circle for each phototube with light, the larger the more charge, coloured by the
# mean residual of its hits. Triangles are the directions, seen from the vertex, in which gamma
# rays left 50 keV or more, the larger the more; the light of such a place comes early to the tubes
# on that side, and late to those on the other. Latitude is measured from the plane z = 0; azimuth
# is zero in the middle, with a line every 60°.
hits = events.data[test]
residuals = models["SphericalCNN, time and direction"][0].residual_times(
    hits, vertex=events.vertex[test]
)
score = scores["SphericalCNN, time and direction"]
norms = {"Early light": Normalize(-8.0, 3.0), "Late light": LogNorm(3.0, 40.0)}  # ns
ticks = {"Early light": [-8, -6, -4, -2, 0, 2], "Late light": [3, 5, 10, 20, 40]}


def on_map(vectors):
    """Azimuth from -π to π and latitude of vectors."""
    polar, azimuth = polar_angles(vectors)
    return np.where(azimuth > np.pi, azimuth - 2 * np.pi, azimuth), np.pi / 2 - polar


shown = {}
figure, axes = plt.subplots(2, 2, figsize=(13.3, 8.2), subplot_kw={"projection": "mollweide"})
for label, row, line in (("0νββ", 1, axes[0]), (r"$^{10}$C", 0, axes[1])):
    own = np.flatnonzero(target == row)
    event = own[np.argsort(score[own])[len(own) // 2]]
    pmt, _, charge = hits[event].T
    for (when, norm), ax in zip(norms.items(), line, strict=True):
        inside = (residuals[event] >= norm.vmin) & (residuals[event] < norm.vmax)
        tubes, tube_of_hit = np.unique(pmt[inside].astype(int), return_inverse=True)
        seen = np.bincount(tube_of_hit, charge[inside])
        mean = np.bincount(tube_of_hit, residuals[event][inside]) / np.bincount(tube_of_hit)
        shown[row, when] = tubes, seen, mean
        points = ax.scatter(
            *on_map(events.positions[tubes]), s=28 * seen, c=mean, cmap="viridis", norm=norms[when],
            linewidths=0,
        )  # fmt: skip
        truth = events.truth
        gamma = truth.deposit_origin[test][event] > 0
        gamma &= truth.deposit_energy[test][event] > 0.05
        where = truth.deposit_position[test][event][gamma] - truth.vertex[test][event]
        energy = truth.deposit_energy[test][event][gamma]
        ax.scatter(
            *on_map(where), s=250 * energy, marker="^", facecolors="none", edgecolors="#D55E00",
            linewidths=2, label="γ energy > 50 keV",
        )  # fmt: skip
        ax.set_longitude_grid(60)
        ax.set_latitude_grid(30)
        ax.grid(color="0.85", lw=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=10, labelcolor="0.3")
        ax.set_xticklabels([])
        ax.set_title(f"{label}: {when.lower()}, {seen.sum():.0f} pe")
        if row == 0:
            bar = figure.colorbar(
                points,
                ax=axes[:, list(norms).index(when)],
                orientation="horizontal",
                label="Time residual (ns)",
                shrink=0.62,
                pad=0.02,
                ticks=ticks[when],
                format="{x:.0f}",
            )
            bar.minorticks_off()
delay = events.truth.annihilation_delay[test][event]
figure.legend(
    *axes[1, 0].get_legend_handles_labels(),
    title=f"Annihilation after {delay:.1f} ns" if delay else "Annihilation at once",
    loc="lower center",
    fontsize=11,
    title_fontsize=11,
)
if arguments.output:
    figure.savefig(arguments.output / "scintillator_events.png", dpi=120)
else:
    plt.show()
