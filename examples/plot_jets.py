r"""
Jets, simulated and corrected
=============================

A detector turns a generated jet into a distribution of reconstructed ones. An implicit quantile
network learns it, all quantities together: put a jet and four random numbers in, and out comes a
reconstructed jet, as the simulation of the detector would make it. With the roles exchanged it
corrects measured jets, and says how sure it is.

`make_jets` knows the exact distribution, so that the network is held against the truth. After
B. Kronheim et al., arXiv:2111.11415.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` figures are written to a folder instead of
# being shown.
import argparse
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sknuc.datasets import make_jets
from sknuc.distributions import IQNRegressor

parser = argparse.ArgumentParser(description="Simulate and correct jets.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=20_000, help="jets to train on")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})

train = make_jets(arguments.n_events, random_state=0)
test = make_jets(arguments.n_events, random_state=1)


# %%
# The network reads logarithms of momenta and masses, and learns ratios and differences, which vary
# less than what they are made of: they are rising functions of the quantities themselves, so that
# quantiles go over into quantiles.
def features(jets):
    """What the network reads of jets (pT, eta, phi, m) of shape (n, 4)."""
    pt, eta, phi, mass = jets.T
    return np.column_stack([np.log(pt), eta, phi, np.log(mass + 2)]).astype(np.float32)


def compare(other, jets):
    """What it learns of other jets: ratios of pT and m, 10 GeV added, differences of angles."""
    angle = (other[:, 2] - jets[:, 2] + np.pi) % (2 * np.pi) - np.pi
    pt, mass = ((other[:, k] + 10) / (jets[:, k] + 10) for k in (0, 3))
    return np.column_stack([pt, other[:, 1] - jets[:, 1], angle, mass]).astype(np.float32)


def to_jets(targets, jets):
    """The other jets (n, 4, n_samples), from targets of the same shape."""
    other, jets = targets.astype(np.float64), jets[..., None]
    other[:, 1:3] += jets[:, 1:3]
    other[:, 0::3] = other[:, 0::3] * (jets[:, 0::3] + 10) - 10
    return other


settings = {"max_epochs": 12, "random_state": 0, "device": "cpu"}
simulator = IQNRegressor(**settings).fit(features(train.data), compare(train.target, train.data))
# Of the corrector intervals are asked, of pT alone: as the first target it has exact quantiles.
# Those of the others are found from draws, of which many would take most of the time here.
corrector = IQNRegressor(n_draws=32, **settings)
corrector.fit(features(train.target), compare(train.data, train.target))

# %%
# Every test jet goes through the network once, as it went through the detector once: distributions
# and correlations must be the same.
simulated = to_jets(simulator.sample_y(features(test.data)), test.data)[..., 0]
edges = [20.0, 25.0, 30.0, 40.0, 60.0, 100.0]
panels = [(20.0, 25.0), (30.0, 40.0), (60.0, 100.0)]
figure, axes = plt.subplots(2, 3, figsize=(15, 8.6), gridspec_kw={"height_ratios": [3, 1.2]})
for (low, high), top, bottom in zip(panels, *axes, strict=True):
    inside = (test.data[:, 0] >= low) & (test.data[:, 0] < high)
    jets = test.data[inside].astype(np.float64)
    response = {
        "detector": test.target[inside, 0] / jets[:, 0],
        "network": simulated[inside, 0] / jets[:, 0],
    }
    reach = 3.2 * test.conditional.std(jets)[:, 0] / jets[:, 0]
    # As many bins as the jets can fill.
    n_bins = int(np.clip(len(jets) // 15, 4, 30))
    bins = np.linspace(max(0, 1 - reach.mean()), 1 + reach.mean(), n_bins + 1)
    counts = {name: np.histogram(r, bins)[0] for name, r in response.items()}
    # The exact expectation: the mean over jets of the probability of each bin.
    at = np.zeros((len(jets), 4))
    at[:, 1:] = jets[:, 1:]
    cdf = []
    for edge in bins:
        at[:, 0] = edge * jets[:, 0]
        cdf.append(test.conditional.cdf(jets, at)[:, 0].sum())
    expected = np.diff(cdf)
    middle = (bins[1:] + bins[:-1]) / 2
    top.stairs(expected, bins, color="#D55E00", lw=2.5, label="exact")
    top.stairs(
        counts["network"], bins, color="#0072B2", lw=2, fill=True, alpha=0.3, label="network"
    )
    top.errorbar(
        middle, counts["detector"], np.sqrt(counts["detector"]), fmt="k.", label="detector"
    )
    top.set(title=f"Generated pT {low:g}–{high:g} GeV, {len(jets):,} jets", ylabel="Jets")
    top.tick_params(labelbottom=False)
    filled = expected >= 5
    ratio = counts["network"][filled] / expected[filled]
    bottom.errorbar(middle[filled], ratio, 1 / np.sqrt(expected[filled]), fmt=".", color="#0072B2")
    for beyond, edge, marker in ((ratio > 1.5, 1.46, "^"), (ratio < 0.5, 0.54, "v")):
        bottom.plot(middle[filled][beyond], np.full(beyond.sum(), edge), marker, color="#0072B2")
    bottom.axhline(1, color="#D55E00", lw=2)
    bottom.set(
        xlabel="Reconstructed pT / generated pT",
        ylabel="Network / exact",
        ylim=(0.5, 1.5),
        xlim=(bins[0], bins[-1]),
    )
    top.set_xlim(bins[0], bins[-1])
    chi2 = np.mean((counts["network"] - expected)[filled] ** 2 / expected[filled])
    print(f"Response at {low:g}–{high:g} GeV: chi2 per bin {chi2:.2f} of the network's jets")
axes[0, 0].legend()
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "jets_response.png", dpi=120)

# %%
# Momentum and mass fluctuate together, as both are made of the same showers: the network draws the
# mass given the momentum that it has drawn before.
residual = {
    "detector": np.log(test.target[:, 0::3] / test.data[:, 0::3]),
    "network": np.log(np.maximum(simulated[:, 0::3], 1e-3) / test.data[:, 0::3]),
}
correlation = {name: np.corrcoef(np.exp(r[:, 0]), r[:, 1])[0, 1] for name, r in residual.items()}
for name, value in correlation.items():
    print(f"Correlation of pT and ln m residuals, {name}: {value:.3f}")

# %%
# Closure of the correction: the spectrum that comes out of reconstructed jets must be the generated
# one. Small momenta are pushed over the threshold by the noise, and steeply falling spectra make
# most jets of a measured momentum come from below: the network knows both, as it learnt from jets
# of this spectrum, and holds for no other. What does not close is the sharp edge at 20 GeV: the
# network's quantiles are smooth functions, and some of its jets fall below. How many the bin at the
# threshold loses by that is printed at the end; cut above it, by a few widths of the response.
corrected = to_jets(corrector.sample_y(features(test.target)), test.target)[:, 0, 0]
interval = to_jets(
    corrector.predict_interval(features(test.target), 0.68).transpose(0, 2, 1), test.target
)[:, 0]
held = np.mean((interval[:, 0] <= test.data[:, 0]) & (test.data[:, 0] <= interval[:, 1]))
print(f"68 % intervals of the corrected pT hold {held:.3f} of the generated ones")
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5.2))
# Few jets lie beyond the panel and are not drawn; how many is printed.
low, high = np.array([[-1.2, -0.7], [1.0, 0.7]])
drawn = {}
for name, r in residual.items():
    within = np.all((r > low) & (r < high), axis=1)
    drawn[name] = r[within]
    print(f"Residuals beyond the picture, {name}: {100 * np.mean(~within):.1f} %")
hexes = left.hexbin(*drawn["network"].T, gridsize=40, mincnt=1, cmap="Blues")
left.plot(*drawn["detector"][:400].T, ".", color="k", ms=3, label="detector")
left.set(
    title="Correlation {network:.2f}, of the detector {detector:.2f}".format(**correlation),
    xlabel="ln(reconstructed pT / generated pT)",
    ylabel="ln(reconstructed m / generated m)",
    xlim=(low[0], high[0]),
    ylim=(low[1], high[1]),
)
left.legend()
figure.colorbar(hexes, ax=left, label="Jets of the network")
bins = np.geomspace(20, 200, 24)
spectra = {
    "generated": (test.data[:, 0], "#D55E00"),
    "reconstructed": (test.target[:, 0], "0.5"),
    "corrected": (corrected, "#0072B2"),
}
for name, (pt, color) in spectra.items():
    middle.stairs(np.histogram(pt, bins)[0] / np.diff(bins), bins, color=color, lw=2.2, label=name)
middle.set(xscale="log", yscale="log", title="Spectra", xlabel="pT (GeV)", ylabel="Jets per GeV")
middle.set_xticks([20, 50, 100, 200], ["20", "50", "100", "200"])
middle.minorticks_off()
middle.legend()
for k, (name, pt) in enumerate(
    {"reconstructed": test.target[:, 0], "corrected": corrected}.items()
):
    share, error = [], []
    for low, high in pairwise(edges):
        true = (test.data[:, 0] >= low) & (test.data[:, 0] < high)
        moved = ((pt >= low) & (pt < high)).astype(float) - true
        share.append(1 + moved.sum() / true.sum())
        error.append(np.sqrt(np.sum(moved**2)) / true.sum())
    centre = np.sqrt(np.array(edges[1:]) * edges[:-1]) * (0.99 + 0.02 * k)
    right.errorbar(centre, share, error, fmt="o", color=("0.5", "#0072B2")[k], label=name)
    ratios = ", ".join(
        f"{low:g}–{high:g} GeV {s:.2f} ± {e:.2f}"
        for (low, high), s, e in zip(pairwise(edges), share, error, strict=True)
    )
    print(f"Spectrum over the generated one, {name}: {ratios}")
print(f"After the correction the bin at the threshold closes to {100 * abs(share[0] - 1):.0f} %")
right.axhline(1, color="#D55E00", lw=2)
right.set(
    title="Closure in bins of pT", xlabel="pT (GeV)", ylabel="Jets / generated", ylim=(0.2, 1.8)
)
right.legend()
if arguments.output:
    figure.savefig(arguments.output / "jets_closure.png", dpi=120)
else:
    plt.show()
