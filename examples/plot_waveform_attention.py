r"""
Where does a network look? Attention over time
==============================================

A recurrent network reads a signal step by step; *attention* is a mean of its states whose weights
:math:`a_t`, with :math:`\sum_t a_t = 1`, it learns along with the rest. The weights can be looked
at: here for pulses of a germanium detector, where energy at several sites has to be told from
energy at one, and for the light of a liquid scintillator, where a little of it comes late.

They tell which states the answer is made of. A state remembers what came before it, so they are no
proof of what the answer depends on.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` figures are written to a folder instead of
# being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sknuc.datasets import make_hpge_waveforms, make_scintillator_events
from sknuc.encoders import LSTM, ConvLSTM, Transformer
from sknuc.metrics import rejection_at_acceptance
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import (
    BaselineSubtractor,
    PMTHitMap,
    WaveformAligner,
    WaveformNormalizer,
)

parser = argparse.ArgumentParser(description="Attention over time of networks for signals.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=6000, help="simulated events of each detector")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})
COLORS = {"signal": "#0072B2", "background": "#D55E00"}  # Okabe and Ito: for all eyes


# %%
# Single-site events, as of a double beta decay, are the signal (1), multi-site events, as of
# Compton scattering, the background (0). Energies of both are the same, 1 to 2.7 MeV.
pulses = make_hpge_waveforms(
    arguments.n_events, weights=(0.5, 0.5, 0), energy=(1000.0, 2700.0), random_state=0
)
single_site = (pulses.target == 0).astype(int)
X_train, X_test, y_train, y_test = train_test_split(
    pulses.data, single_site, test_size=1 / 3, stratify=single_site, random_state=0
)

# %%
# Pulses are aligned where they reach 90 % of their height; 80 samples are kept, and read four at a
# time. The two networks differ in nothing but the encoder.
BEFORE, AFTER, PATCH = 960.0, 320.0, 4  # ns, ns, samples
encoders = {
    "LSTM": LSTM(hidden_size=24, pooling="attention", patch_size=PATCH),
    "Transformer": Transformer(width=16, n_heads=2, pooling="attention", patch_size=PATCH),
}
models, scores, rejections = {}, {}, {}
for name, encoder in encoders.items():
    models[name] = make_pipeline(
        BaselineSubtractor(),
        WaveformNormalizer(),
        WaveformAligner(level=0.9, before=BEFORE, after=AFTER),
        NeuralClassifier(encoder=encoder, max_epochs=12, batch_size=64, random_state=0),
    ).fit(X_train, y_train)
    scores[name] = models[name].decision_function(X_test)
    rejections[name] = rejection_at_acceptance(y_test, scores[name])
    low, high = rejections[name].interval
    print(
        f"{name}: rejects {rejections[name].rejection:.3f} ({low:.3f} to {high:.3f}) of multi-site "
        "events at 90 % acceptance"
    )


# %%
# A trained estimator holds its network in ``module_``, after the layer that scales the input. The
# encoder comes first in it, and has the method ``attention``.
def attention(model, X):
    """The attention of a trained classifier to the events X."""
    scaling, network = model.module_
    with torch.no_grad():
        return network[0].attention(scaling(torch.from_numpy(X))).numpy()


aligned = models["LSTM"][:-1].transform(X_test)
weights = {name: attention(model[-1], aligned) for name, model in models.items()}
n_steps = weights["LSTM"].shape[1]
edges = np.linspace(-BEFORE, AFTER, n_steps + 1)
period = pulses.sampling_period
time = period * np.arange(aligned.shape[1]) - BEFORE
# The difference of two samples is the current between them.
current = np.diff(aligned, axis=1)

# %%
# Above, of each class the event whose score is the median of its class: what charge was collected,
# the current, and behind them the attention of the LSTM in units of an even one, 1/T. Below, its
# average over the classes, with a band from the 16 % to the 84 % quantile of events. A state of the
# LSTM knows the past only, so it looks where the pulse is over, and all the more when there was a
# second site. In the Transformer every state has seen all the others before, and any will do: its
# attention is nearly even.
figure, axes = plt.subplots(2, 2, figsize=(13.3, 7.8), sharex=True)
relative = {name: n_steps * a for name, a in weights.items()}
classes = {"single-site": (1, "signal"), "multi-site": (0, "background")}
typical = {}
for label, (target, _) in classes.items():
    own = np.flatnonzero(y_test == target)
    typical[label] = own[np.argsort(scores["LSTM"][own])[len(own) // 2]]
top = max(relative["LSTM"][event].max() for event in typical.values())
for (label, event), ax in zip(typical.items(), axes[0], strict=True):
    band = ax.pcolormesh(
        edges, [-0.15, 1.25], relative["LSTM"][[event]], cmap="YlOrBr", vmin=0, vmax=top, alpha=0.8
    )
    ax.plot(time, aligned[event], color="k", lw=2, label="charge")
    ax.plot(
        time[1:] - period / 2, current[event] / current[event].max(), color="#0072B2", lw=2,
        label="current",
    )  # fmt: skip
    log_odds = scores["LSTM"][event]
    ax.set(title=f"{label.capitalize()} event (LSTM: log odds {log_odds:+.1f})", ylim=(-0.15, 1.25))
axes[0, 0].set_ylabel("Charge and current\n(of their maximum)")
axes[0, 0].legend(loc="upper left")
figure.colorbar(band, ax=axes[0], label="Attention (even = 1)", pad=0.01)
for name, ax in zip(weights, axes[1], strict=True):
    for label, (target, role) in classes.items():
        own = relative[name][y_test == target]
        low, high = np.quantile(own, [0.16, 0.84], axis=0)
        ax.stairs(high, edges, baseline=low, fill=True, color=COLORS[role], alpha=0.2)
        ax.stairs(own.mean(axis=0), edges, baseline=None, color=COLORS[role], lw=2.5, label=label)
    ax.axhline(1, color="0.4", lw=1, ls=":")
    result = rejections[name]
    half = (result.interval[1] - result.interval[0]) / 2
    ax.set(
        title=f"{name}: {100 * result.rejection:.1f} ± {100 * half:.1f} % rejected at 90 %",
        xlabel="Time after 90 % of the charge (ns)",
        ylim=(0, None),
    )
axes[1, 0].set_ylabel("Attention (even = 1),\nmean and 68 % of events")
axes[1, 0].legend(loc="upper left")
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "waveform_attention.png", dpi=120)

# %%
# Light in a scintillator is a film on the sphere of phototubes: the positron and the gamma rays of
# :sup:`10`\ C, the background, make theirs decimetres apart and partly late, a double beta decay
# all of it at once. A convolutional LSTM reads the film, 20 frames of 1.5 ns with 6 x 12 cells.
events = make_scintillator_events(arguments.n_events * 2 // 3, random_state=0)
frames = np.linspace(-12.0, 18.0, 21)
films = PMTHitMap(
    positions=events.positions, grid=(6, 12), bins=frames, dtype="float32"
).fit_transform(events.data, vertex=events.vertex)
films_train, films_test, z_train, z_test = train_test_split(
    films, events.target, test_size=1 / 3, stratify=events.target, random_state=0
)
film_model = NeuralClassifier(
    encoder=ConvLSTM(hidden_channels=(8,), kernel_size=3, padding="sphere"),
    max_epochs=6,
    batch_size=64,
    learning_rate=0.01,
    random_state=0,
).fit(films_train, z_train)
film_rejection = rejection_at_acceptance(z_test, film_model.decision_function(films_test))
low, high = film_rejection.interval
print(
    f"ConvLSTM: rejects {film_rejection.rejection:.3f} ({low:.3f} to {high:.3f}) of 10C at 90 % "
    "acceptance"
)

# %%
# Its attention has a weight for every channel and cell too, over which the curve is the mean. It
# favours late frames, whose states have seen the early light before, and does so more for the
# background.
film_weights = attention(film_model, films_test).mean(axis=(2, 3, 4))
figure, (light, ax) = plt.subplots(1, 2, figsize=(13.3, 5.2))
for label, target, role in (
    ("0νββ", 1, "signal"),
    (r"$^{10}$C", 0, "background"),
):
    profile = films_test[z_test == target].sum(axis=(2, 3)).mean(axis=0) / np.diff(frames)
    light.stairs(profile, frames, baseline=None, color=COLORS[role], lw=2.5, label=label)
    own = len(film_weights[0]) * film_weights[z_test == target]
    low, high = np.quantile(own, [0.16, 0.84], axis=0)
    ax.stairs(high, frames, baseline=low, fill=True, color=COLORS[role], alpha=0.2)
    ax.stairs(own.mean(axis=0), frames, baseline=None, color=COLORS[role], lw=2.5, label=label)
light.set(
    title="Mean light of the two classes",
    xlabel="Time residual (ns)",
    ylabel="Photo-electrons per ns",
    ylim=(0, None),
)
light.legend()
half = (film_rejection.interval[1] - film_rejection.interval[0]) / 2
ax.axhline(1, color="0.4", lw=1, ls=":")
ax.set(
    title=f"ConvLSTM: {100 * film_rejection.rejection:.1f} ± {100 * half:.1f} % of $^{{10}}$C "
    "rejected at 90 %",
    xlabel="Time residual (ns)",
    ylabel="Attention (even = 1),\nmean and 68 % of events",
)
ax.legend()
if arguments.output:
    figure.savefig(arguments.output / "scintillator_attention.png", dpi=120)
else:
    plt.show()
