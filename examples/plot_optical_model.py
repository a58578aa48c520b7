r"""
Theory to experiment, and back
==============================

A theory code turns the parameters of an optical potential into the cross-section of elastic
scattering at every angle. A learner can stand in for it, with error bars on what it does not know.
And it can go the other way, for which there is no code: from a measured angular distribution to
all potentials that explain it, with their probabilities.

Whether such a posterior may be trusted is a question with an answer: over many simulated
measurements, the true parameters must be evenly spread over the ranks of posterior draws
(simulation-based calibration, S. Talts et al., arXiv:1804.06788).
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` figures are written to a folder instead of
# being shown.
import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import special
from scipy.stats import binom
from sklearn.frozen import FrozenEstimator

from sknuc.datasets import make_optical_model
from sknuc.distributions import MDNRegressor
from sknuc.encoders import MLP
from sknuc.metrics import pit, pit_test
from sknuc.uncertainty import ConformalRegressor, GPRegressor

parser = argparse.ArgumentParser(description="Emulate an optical model, and invert it.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=10_000, help="potentials for the inverse")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})
N_TEST = 500

# %%
# Neutrons of 14 MeV on lead, six parameters within 10 % of a global potential. A Gaussian process
# learns the logarithm of the cross-section from as many runs of the theory as it would get from a
# slow code, a few hundred. All angles share one kernel and one share of noise, so that it is too
# cautious at most and too bold at the minima; conformal calibration on further runs puts every
# angle's width right.
train = make_optical_model(max(40, arguments.n_events // 16), random_state=0)
extra = make_optical_model(len(train.data), random_state=1)
test = make_optical_model(N_TEST, random_state=2)
emulator = GPRegressor(noise="shared", random_state=0).fit(train.data, train.target)
calibrated = ConformalRegressor(FrozenEstimator(emulator), conformity_score="normalized")
calibrated.fit(extra.data, extra.target)

relative = np.abs(np.expm1(emulator.predict(test.data) - test.target))
print(
    f"Emulator: mean error {100 * relative.mean():.2f} %, median {100 * np.median(relative):.2f} %"
)
held = {}
for name, model in {"Gaussian process": emulator, "conformal": calibrated}.items():
    shares = []
    for level in (0.68, 0.95):
        low, high = model.predict_interval(test.data, level).transpose(1, 0, 2)
        shares.append(np.mean((low <= test.target) & (test.target <= high)))
    held[name] = shares
    print(f"{name}: 68 % intervals hold {shares[0]:.3f}, 95 % intervals {shares[1]:.3f}")
seconds = {}
for name, function in {"theory": test.compute, "emulator": emulator.predict}.items():
    function(test.data[:10])
    start = time.process_time()
    for _ in range(5):
        function(test.data)
    seconds[name] = time.process_time() - start
print(f"{seconds['theory'] / seconds['emulator']:.1f} times as fast as the theory code (CPU time)")

# %%
# The way back. The posterior is a mixture of Gaussians of the parameters, mapped to normal
# deviates of their prior: no draw then leaves the prior's range. It learns from measurements with
# 5 % noise at every angle.
NOISE = 0.05
LOW, HIGH = np.array(list(train.ranges.values())).T


def to_normal(parameters):
    """Normal deviates of uniform parameters."""
    return special.ndtri((parameters - LOW) / (HIGH - LOW))


def to_parameters(normal):
    """Parameters of normal deviates."""
    return LOW + (HIGH - LOW) * special.ndtr(normal)


runs = make_optical_model(arguments.n_events, noise=NOISE, random_state=3)
inverse = MDNRegressor(
    encoder=MLP(hidden_layer_sizes=(128, 128), activation="silu"),
    max_epochs=40,
    learning_rate=1e-3,
    random_state=0,
    device="cpu",
).fit(runs.target.astype(np.float32), to_normal(runs.data).astype(np.float32))
measured = make_optical_model(N_TEST, noise=NOISE, random_state=4)
draws = to_parameters(inverse.sample_y(measured.target, 255).transpose(0, 2, 1)).transpose(0, 2, 1)
ranks = pit(measured.data, draws)
tests = [pit_test(column) for column in ranks.T]
# What the measurement tells: 1 less the variance of the posterior over that of the prior. At 0 it
# tells nothing, at 1 everything.
contraction = 1 - draws.var(axis=2).mean(axis=0) / ((HIGH - LOW) ** 2 / 12)
for name, result, share in zip(runs.parameter_names, tests, contraction, strict=True):
    print(f"{name}: ranks {result}; contraction {share:.2f}")

# %%
# May it be trusted? Each parameter is tested three times: are its ranks flat, is their mean in the
# middle, and do they scatter as they should? Of so many tests some look odd by chance, so that only
# those count whose p-value is below 5 % over their number. The dispersion is negative where ranks
# crowd in the middle: the posterior is too wide then, the lesser evil, as its intervals hold more
# than they say.
limit = 0.05 / (3 * len(tests))
findings = []
for name, result in zip(runs.parameter_names, tests, strict=True):
    side = "too wide" if result.dispersion_z < 0 else "too narrow"
    for what, p_value in {
        "not flat": result.p_value,
        "shifted": 2 * special.ndtr(-abs(result.bias_z)),
        side: 2 * special.ndtr(-abs(result.dispersion_z)),
    }.items():
        if p_value < limit:
            findings.append(f"{name} {what} (p = {p_value:.2g})")
verdict = "not exact: " + ", ".join(findings) if findings else "no sign that it is wrong"
print(f"Posteriors by {3 * len(tests)} tests of ranks in {N_TEST} measurements: {verdict}")

# %%
# The measurement of which we show everything: that whose posterior has the median width.
width = (draws.std(axis=2) / (HIGH - LOW)).mean(axis=1)
shown = np.argsort(width)[len(width) // 2]
posterior = to_parameters(inverse.sample_y(measured.target[[shown]], 2000)[0].T)
explained = np.exp(measured.compute(posterior[:400]))

figure, panels = plt.subplot_mosaic(
    [["section", "right"], ["left", "right"]], figsize=(15, 6.4), height_ratios=[1, 2]
)
section, left, right = (panels[name] for name in ("section", "left", "right"))
angles, truth = test.angles, np.exp(test.target)
# The potential that is emulated as badly as nine of ten others are not.
hard = np.argsort(relative.mean(axis=1))[int(0.9 * N_TEST)]
for level, alpha in ((0.95, 0.25), (0.68, 0.45)):
    low, high = np.exp(calibrated.predict_interval(test.data[[hard]], level)[0]) / truth[hard]
    left.fill_between(
        angles, 100 * (low - 1), 100 * (high - 1), color="#0072B2", alpha=alpha, lw=0,
        label=f"emulator, {100 * level:.0f} %",
    )  # fmt: skip
left.axhline(0, color="#D55E00", lw=2, label="theory")
predicted = np.exp(emulator.predict(test.data[[hard]])[0]) / truth[hard]
left.plot(angles, 100 * (predicted - 1), color="#0072B2", lw=2, label="emulator")
# Linear up to 1 %, then logarithmic: the deepest minimum has the largest error by far.
left.set_yscale("symlog", linthresh=1)
ticks = [-100, -10, -1, 0, 1, 10, 100]
left.set(
    xlabel="Scattering angle (degrees)",
    ylabel="Difference from theory (%)",
    ylim=(-100, 100),
)
left.set_yticks(ticks, ticks)
section.plot(angles, truth[hard], color="#D55E00", lw=2)
section.plot(angles, predicted * truth[hard], "--", color="#0072B2", lw=1.5)
section.set(
    title="Emulated cross-section: 90 % are better than this one",
    ylabel="dσ/dΩ (mb/sr)",
    yscale="log",
)
section.legend(*left.get_legend_handles_labels(), loc="upper right", fontsize=11, ncols=2)
section.sharex(left)
section.tick_params(labelbottom=False)
for level, alpha in ((0.95, 0.25), (0.68, 0.45)):
    low, high = np.quantile(explained, [(1 - level) / 2, (1 + level) / 2], axis=0)
    right.fill_between(
        angles, low, high, color="#0072B2", alpha=alpha, lw=0,
        label=f"posterior, {100 * level:.0f} %",
    )  # fmt: skip
values = np.exp(measured.target[shown])
right.errorbar(angles, values, NOISE * values, fmt="k.", label="measured")
right.plot(angles, measured.cross_section[shown], color="#D55E00", lw=1.5, label="true potential")
right.set(
    title="What potentials of the posterior predict",
    xlabel="Scattering angle (degrees)",
    ylabel="dσ/dΩ (mb/sr)",
    yscale="log",
)
right.legend()
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "optical_model_emulated.png", dpi=120)

# %%
# The posterior of that measurement, over the whole range of the prior, and below it the ranks over
# all measurements, in the band that holds 95 % of the bins of a calibrated posterior. Depth and
# radius of the real potential trade against each other: a deeper one with a smaller radius scatters
# almost alike.
trade = np.corrcoef(posterior[:, 0], posterior[:, 1])[0, 1]
print(f"Correlation of V and r_v in the posterior that is shown: {trade:.2f}")
figure, axes = plt.subplots(2, 6, figsize=(18, 7.2), height_ratios=[1.2, 1])
for k, name in enumerate(runs.parameter_names):
    unit = runs.units[name]
    axes[0, k].hist(
        posterior[:, k], bins=40, range=(LOW[k], HIGH[k]), density=True, color="#0072B2", alpha=0.5
    )
    axes[0, k].axhline(1 / (HIGH[k] - LOW[k]), color="0.4", ls=":", lw=1.5, label="prior")
    axes[0, k].axvline(measured.data[shown, k], color="#D55E00", lw=2.5, label="true")
    axes[0, k].set(title=f"{name}: contraction {contraction[k]:.2f}", xlabel=f"{name} ({unit})")
    axes[0, k].set_yticks([])
    n_bins = 16
    axes[1, k].hist(ranks[:, k], bins=n_bins, range=(0, 1), color="#0072B2", alpha=0.6)
    band = binom.ppf([0.025, 0.5, 0.975], N_TEST, 1 / n_bins)
    axes[1, k].fill_between([0, 1], band[0], band[2], color="0.5", alpha=0.3, lw=0)
    axes[1, k].axhline(N_TEST / n_bins, color="0.3", lw=1.5)
    scatter = f"p = {tests[k].p_value:.2f}, dispersion {tests[k].dispersion_z:+.1f}σ"
    axes[1, k].set(xlabel="Rank of the truth", xlim=(0, 1))
    axes[1, k].set_title(scatter, fontsize=12)
axes[0, 0].legend()
axes[0, 0].set_ylabel("Posterior density")
axes[1, 0].set_ylabel("Measurements")
if arguments.output:
    figure.savefig(arguments.output / "optical_model_posterior.png", dpi=120)
else:
    plt.show()
