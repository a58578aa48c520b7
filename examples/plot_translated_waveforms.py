r"""
Simulated pulses made like measured ones
========================================

A simulation of a germanium detector never has quite the electronics of the real one: pulses rise at
another speed and fall with another slope, and a cut or a network that was made on simulated pulses
does something else on measured ones. A translator learns from both samples, without pairs of them,
what the detector would have made of a simulated pulse. The pulse stays that of the same event: its
label is still right.

The measured pulses are those of a Th-228 calibration. Half of them are for learning, and half are
for judging what was learnt.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` the figure is written to a folder instead of
# being shown. The measured pulses need the package ``fcio``.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr

from sknuc.adaptation import CycleGANTranslator
from sknuc.datasets import fetch_th228_waveforms, make_hpge_waveforms
from sknuc.metrics import histogram_iou
from sknuc.preprocessing import PulseShapeFeatures, WaveformAligner

parser = argparse.ArgumentParser(description="Translate simulated germanium pulses.")
parser.add_argument("--output", type=Path, help="folder for the figure; else it is shown")
parser.add_argument("--n-events", type=int, default=800, help="simulated pulses to learn from")
parser.add_argument("--epochs", type=int, default=40, help="passes over them")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})
COLORS = {"simulated": "#0072B2", "translated": "#D55E00", "measured": "0.35"}
PERIOD = 16.0  # ns
LENGTH = 256
# About as large as the real one (mm) and with about its drift velocity (mm/ns); no surface events.
DETECTOR = {"detector_radius": 60.0, "drift_velocity": 0.034, "weights": [0.5, 0.5, 0]}


# %%
# Pulses of the height 1 without their baseline, in a window around half of the height: shape
# (n, 1, 256), signals of one channel.
def moving_mean(x, n):
    """Mean of n neighbouring samples of float32 waveforms."""
    total = np.cumsum(np.pad(x, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    return ((total[:, n:] - total[:, :-n]) / n).astype(np.float32)


def prepare(x):
    """From waveforms in ADC counts to windows."""
    x = x.astype(np.float32)
    x -= np.median(x[:, :100], axis=1, keepdims=True)
    x /= moving_mean(x, 25).max(1, keepdims=True)
    window = WaveformAligner(level=0.5, before=1200.0, after=LENGTH * PERIOD - 1200.0)
    return window.fit_transform(x)[:, None, :LENGTH]


# %%
# Of the measured pulses, those that are clean, and high enough for their shape to be seen.
waveforms = fetch_th228_waveforms().data
table = PulseShapeFeatures().set_output(transform="pandas").fit_transform(waveforms)
flags = table[["no_pulse", "pileup", "truncated", "saturated"]].to_numpy()
smooth = waveforms.astype(np.float32)
smooth = moving_mean(smooth - np.median(smooth[:, :100], axis=1, keepdims=True), 25)
middle = (smooth > 0.5 * smooth.max(1, keepdims=True)).argmax(1)
good = (flags == 0).all(1) & (smooth.max(1) > 1500)
good &= (middle > 150) & (middle < waveforms.shape[1] - LENGTH)
measured = prepare(waveforms[good])
n = arguments.n_events
train, test = (
    prepare(make_hpge_waveforms(n_events, **DETECTOR, random_state=seed).data)
    for seed, n_events in enumerate((n, 1000))
)
half = len(measured) // 2
print(f"{n} simulated and {half} measured pulses to learn from")

# %%
# The sign of the domain says which is which: zero or more is simulated, less is measured.
X = np.concatenate([train, measured[:half]])
domain = np.repeat([0, -1], [n, half])
translator = CycleGANTranslator(max_epochs=arguments.epochs, random_state=0, device="cpu")
translator.fit(X, sample_domain=domain)
translated = translator.transform(test)
pulses = {
    "simulated": test[:, 0],
    "translated": translated,
    "measured": measured[half:, 0],
}


# %%
# What analyses look at, and the translator has never seen.
def features(x):
    """Drift time in ns, largest current over height in 1/µs, slope of the tail in 1/µs."""
    smooth = moving_mean(x, 5)
    top = smooth.max(1, keepdims=True)
    first, last = ((smooth >= share * top).argmax(1) for share in (0.05, 0.95))
    current = (smooth[:, 3:] - smooth[:, :-3]).max(1, keepdims=True) / (3e-3 * PERIOD) / top
    time = np.arange(96) * PERIOD / 1000
    slope = np.polynomial.polynomial.polyfit(time, x[:, -96:].T, 1)[1]
    return (last - first) * PERIOD, current[:, 0], slope


TITLES = ("drift time, 5 % to 95 % (ns)", "A/E (1/µs)", "slope of the tail (1/µs)")
values = {source: features(x) for source, x in pulses.items()}
order = spearmanr(values["simulated"][1], values["translated"][1])[0]
back = translator.inverse_transform(translated) - test[:, 0]
change = translated - test[:, 0]
print(f"Order of A/E kept: Spearman's correlation {order:.3f}")
print(
    f"Translated back: {np.sqrt(np.mean(back**2) / np.mean(change**2)):.3f} of the change is left"
)

# %%
# Averages, some pulses before and after, and distributions with their overlap with measured ones,
# over what two measured samples of these sizes reach.
figure, axes = plt.subplots(2, 3, figsize=(16, 8.4))
time = (np.arange(LENGTH) * PERIOD - 1200) / 1000
for source, x in pulses.items():
    low, average, high = np.quantile(x, 0.16, 0), x.mean(0), np.quantile(x, 0.84, 0)
    axes[0, 0].plot(time, average, color=COLORS[source], label=source)
    axes[0, 0].fill_between(time, low, high, color=COLORS[source], alpha=0.15, lw=0)
    axes[0, 1].plot(time, average - pulses["measured"].mean(0), color=COLORS[source])
axes[0, 0].set(title="average pulses, and 68 % of them", ylabel="signal / height")
axes[0, 0].legend()
axes[0, 1].set(title="averages, less that of measured pulses")
for k in range(4):
    axes[0, 2].plot(time, test[k, 0] + 0.3 * k, color=COLORS["simulated"], lw=1.2)
    axes[0, 2].plot(time, translated[k] + 0.3 * k, color=COLORS["translated"], lw=1.2)
axes[0, 2].set(title="four pulses before and after", xlim=(-0.8, 1.2))
for ax in axes[0]:
    ax.set_xlabel("time (µs)")
for k, (title, ax) in enumerate(zip(TITLES, axes[1], strict=True)):
    true = values["measured"][k]
    everything = np.concatenate([table[k] for table in values.values()])
    edges = np.linspace(*np.quantile(everything, [0.005, 0.995]), 36)
    words = []
    for source, table in values.items():
        clipped = np.clip(table[k], edges[0], edges[-1])
        ax.hist(clipped, edges, density=True, histtype="step", lw=1.8, color=COLORS[source])
        if source != "measured":
            found = histogram_iou(np.clip(true, edges[0], edges[-1]), clipped, bins=edges)
            words.append(f"{found.ratio:.2f}")
    print(f"{title}: overlap over its ceiling {words[0]} before, {words[1]} after")
    ax.set(xlabel=title, ylabel="density", title=f"overlap {words[0]} before, {words[1]} after")
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "translated_waveforms.png", dpi=120)
else:
    plt.show()
