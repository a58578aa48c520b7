r"""
Germanium pulses, generated and judged
======================================

A generator learns the pulses of a germanium detector, 256 samples each, from those of a simulator,
given what kind of event they are of. Are they good enough for an analysis? They are judged as one
would judge a simulation: by A/E, drift time and slope of the tail, which are computed from pulses
by filters and which the generator has never seen; and by the cut that is made on them.

No two samples of a finite size have the same histogram. The *ceiling* is the overlap that two
samples of the same distribution have on average, and an overlap is held against that.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics, from 1280 on; with ``--output`` figures are written to a
# folder instead of being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sknuc.datasets import make_hpge_waveforms
from sknuc.metrics import (
    SampleComparisonDisplay,
    binomial_interval,
    histogram_iou,
    two_sample_auc,
)
from sknuc.preprocessing import PulseShapeFeatures
from sknuc.samplers import DiffusionSampler

parser = argparse.ArgumentParser(description="Generate germanium pulses and judge them.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=5000, help="pulses to learn from")
arguments = parser.parse_args()
# Five pulses for each of the 256 samples of one: from fewer, their covariance is not learnt, and
# hardly a generated pulse has a drift time.
if arguments.n_events < 5 * 256:
    parser.error(f"--n-events must be {5 * 256} at least. Got {arguments.n_events}.")
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})
COLORS = {"simulated": "0.4", "generated": "#D55E00"}

# %%
# Pulses in ADC counts, 16 ns apart, of three kinds of events. A second sample of the simulator is
# what generated pulses are compared with.
PERIOD = 16.0  # ns
train = make_hpge_waveforms(arguments.n_events, waveform_length=256, random_state=0)
test = make_hpge_waveforms(arguments.n_events // 2, waveform_length=256, random_state=1)
names = train.target_names

# %%
# As signals of one channel, shape (n, 1, 256): samples keep their places and their common scale.
generator = DiffusionSampler(max_epochs=30, random_state=0, device="cpu")
generator.fit(train.data[:, None], names[train.target])
generated = generator.sample(len(test.data), y=names[test.target], random_state=0)[:, 0]

# %%
# Some of them: for every kind, eight simulated and eight generated pulses.
figure, axes = plt.subplots(2, 3, figsize=(15, 7.4), sharex=True, sharey=True)
time = PERIOD * np.arange(256) / 1000
for name, *column in zip(names, *axes, strict=True):
    own = np.flatnonzero(names[test.target] == name)[:8]
    for (source, color), pulses, ax in zip(
        COLORS.items(), (test.data, generated), column, strict=True
    ):
        ax.plot(time, pulses[own].T, color=color, lw=1.2, alpha=0.8)
        ax.set_title(f"{name.replace('_', ' ')}, {source}")
figure.supxlabel("Time (µs)")
figure.supylabel("Signal (ADC counts)")
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "generated_waveforms.png", dpi=120)

# %%
# The features, and overlaps of their histograms; the range holds 99 % of the simulated events, and
# what lies outside counts, too. Pulses of which a feature is not defined are counted.
shape = PulseShapeFeatures(sampling_period=PERIOD, adc_range=None).set_output(transform="pandas")
shape.fit(train.data)
FEATURES = {
    "a_over_e": "A/E",
    "drift_time": "drift time (ns)",
    "tail_slope": "slope of the tail (ADC/µs)",
}
features = {
    source: shape.transform(pulses)[list(FEATURES)].to_numpy()
    for source, pulses in (("simulated", test.data), ("generated", generated))
}
overlaps, lost = {}, {}
for k, title in enumerate(FEATURES.values()):
    true, made = (table[np.isfinite(table[:, k]), k] for table in features.values())
    ends = tuple(np.quantile(true, [0.005, 0.995]))
    overlaps[title] = found = histogram_iou(true, made, bins=40, range=ends)
    print(
        f"{title}: overlap {found.iou:.3f} of at most {found.ceiling:.3f}, ratio {found.ratio:.3f} "
        f"± {found.error / found.ceiling:.3f}; not defined: {len(test.data) - len(true)} simulated "
        f"and {len(test.data) - len(made)} generated"
    )
whole = {source: table[np.isfinite(table).all(1)] for source, table in features.items()}
auc = two_sample_auc(whole["simulated"], whole["generated"])
low, high = auc.null_interval
print(
    f"Features together: a classifier tells them apart with AUC {auc.auc:.3f} ± {auc.error:.3f} "
    f"(95 % of equal samples: {low:.3f} to {high:.3f})"
)

# %%
# A cut on A/E keeps 90 % of the simulated single-site events that have one. How much it keeps of
# generated ones, of every kind, is what an analysis would get wrong by them; intervals are
# binomial, at 68 %.
cut = np.nanquantile(features["simulated"][names[test.target] == "single_site", 0], 0.1)
kept = {}
for name in names:
    own = names[test.target] == name
    for source, table in features.items():
        n_kept, n_own = np.count_nonzero(table[own, 0] >= cut), np.count_nonzero(own)
        kept[name, source] = n_kept / n_own, *binomial_interval(n_kept, n_own)
    line = ", ".join(
        f"{source} {kept[name, source][0]:.3f} ({kept[name, source][1]:.3f} to "
        f"{kept[name, source][2]:.3f})"
        for source in features
    )
    print(f"The cut keeps of {name}: {line}")

# %%
# Distributions and their ratios, and how features depend on each other.
display = SampleComparisonDisplay.from_samples(
    whole["simulated"],
    whole["generated"],
    names=list(FEATURES.values()),
    columns=list(FEATURES.values()),
    labels=("simulated", "generated"),
)
if arguments.output:
    display.figure_.savefig(arguments.output / "generated_features.png", dpi=120)
else:
    plt.show()
