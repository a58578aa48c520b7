r"""
A rare class, over-sampled
==========================

Of a thousand pulses of a germanium detector twenty are of alphas on its surface, and a classifier
that sees forty of them in all is to find more. Remedies are on offer: weigh the rare events up,
put new ones between neighbours (SMOTE), or generate them by a model that has learnt their
distribution, as :class:`~sknuc.samplers.GenerativeOverSampler` does. None of them knows more of the
rare class than its few events tell. So what do they change: the order in which events are ranked,
which is the ROC curve, or only the probabilities? And what would four times as many real ones do?

Every repetition has new training events and new test events, so that the spread of the repetitions
is all that fluctuates. Methods are compared on the same events, pair by pair.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the size of the training samples, of which one event in fifty is of the rare
# class; with ``--output`` the figure is written to a folder instead of being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from imblearn.over_sampling import SMOTE
from imblearn.pipeline import make_pipeline
from scipy.stats import t as student_t
from sklearn.metrics import log_loss, roc_auc_score, roc_curve

from sknuc.baselines import BDTClassifier
from sknuc.datasets import make_hpge_waveforms
from sknuc.metrics import reliability_curve
from sknuc.preprocessing import PulseShapeFeatures
from sknuc.samplers import FlowSampler, GenerativeOverSampler

parser = argparse.ArgumentParser(description="What over-sampling does to a classifier.")
parser.add_argument("--output", type=Path, help="folder for the figure; else it is shown")
parser.add_argument("--n-events", type=int, default=2000, help="events of one training sample")
parser.add_argument("--repetitions", type=int, default=8, help="training samples")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})
SHARE = 0.02  # of the rare class, in nature
COLUMNS = ["a_over_e", "drift_time", "late_charge", "tail_slope"]


# %%
# Four summaries of a pulse are what the classifier reads. In tests both classes are equally
# frequent, so that there are enough rare events; weights bring back the share of nature.
def draw(n_common, n_rare, random_state):
    """Features (n, 4) of pulses, and whether they are of the rare class."""
    n = n_common + n_rare
    weights = [n_common / 2 / n, n_common / 2 / n, n_rare / n]
    events = make_hpge_waveforms(n, waveform_length=256, weights=weights, random_state=random_state)
    table = shape.fit(events.data).transform(events.data)[COLUMNS].to_numpy()
    # Few pulses have no A/E or no end of the drift; they are left out.
    defined = np.isfinite(table).all(1)
    return table[defined], (events.target[defined] == 2).astype(int)


shape = PulseShapeFeatures(sampling_period=16.0, adc_range=None).set_output(transform="pandas")


def boosted_trees(**options):
    """The classifier, the same for all."""
    return BDTClassifier(max_iter=60, max_depth=3, n_jobs=1, random_state=0, **options)


# %%
# A flow of the rare class sees forty events as one batch in every epoch, hence many epochs. Four
# times as many real events of the rare class count a quarter each, so that the odds remain those of
# nature.
flow = FlowSampler(max_epochs=300, random_state=0, device="cpu")
methods = {
    "as it is": boosted_trees(),
    "class weights": boosted_trees(class_weight="balanced"),
    "SMOTE": make_pipeline(SMOTE(random_state=0), boosted_trees()),
    "generated": make_pipeline(GenerativeOverSampler(flow, random_state=0), boosted_trees()),
    "four times as many": boosted_trees(),
}
REMEDIES = ["class weights", "SMOTE", "generated"]


# %%
# All remedies train at equal shares of both classes, where the odds are larger than in nature by a
# known factor. Dividing by it is exact for a classifier that is right about what it was trained on.
def with_natural_odds(probability):
    """Probabilities at the share of nature, from those at equal shares."""
    odds = probability / (1 - probability) * SHARE / (1 - SHARE)
    return odds / (1 + odds)


EFFICIENCY = np.linspace(0.02, 0.98, 49)
areas, curves, losses, claimed, pooled = {}, {}, {}, {}, {}
n_rare = round(SHARE * arguments.n_events)
for repetition in range(arguments.repetitions):
    X_more, y_more = draw(arguments.n_events - n_rare, 4 * n_rare, 2 * repetition)
    # All events of the common class, and the first of the rare one.
    few = (y_more == 0) | (np.cumsum(y_more) <= n_rare)
    X, y = X_more[few], y_more[few]
    X_test, y_test = draw(arguments.n_events, arguments.n_events, 2 * repetition + 1)
    weight = np.where(y_test == 1, SHARE / np.mean(y_test), (1 - SHARE) / np.mean(1 - y_test))
    for name, method in methods.items():
        if name == "four times as many":
            method.fit(X_more, y_more, sample_weight=np.where(y_more == 1, 0.25, 1.0))
        else:
            method.fit(X, y)
        probability = method.predict_proba(X_test)[:, 1].astype(np.float64)
        # Of float32 a probability may be one, of which there are no odds.
        probability = probability.clip(1e-6, 1 - 1e-6)
        versions = {name: probability}
        if name in REMEDIES:
            versions[f"{name}, odds of nature"] = with_natural_odds(probability)
        false, true, _ = roc_curve(y_test, probability)
        areas.setdefault(name, []).append(roc_auc_score(y_test, probability))
        curves.setdefault(name, []).append(np.interp(EFFICIENCY, true, false))
        for version, p in versions.items():
            losses.setdefault(version, []).append(log_loss(y_test, p, sample_weight=weight))
            mean = np.average(p, weights=weight)
            claimed.setdefault(version, []).append(mean / SHARE)
            pooled.setdefault(version, []).append((y_test, p, weight))


# %%
# What changed, as the mean over repetitions of the difference to doing nothing, with its standard
# error, and whether a paired t-test at 95 % sees it. The area tells how well events are ranked; the
# logarithmic loss (in nats per event, less is better) and the number of rare events that the
# probabilities add up to, over the true one, tell whether they can be believed.
def mean_and_error(values):
    """Mean and its standard error, over repetitions."""
    return np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))


def compare(values, reference):
    """Difference in words."""
    gain, error = mean_and_error(np.subtract(values, reference))
    seen = abs(gain) > student_t.ppf(0.975, len(values) - 1) * error
    return f"{gain:+.4f} ± {error:.4f}{', seen' if seen else ', not seen'}"


print(f"{arguments.n_events} events, {n_rare} rare ones, {arguments.repetitions} repetitions")
print("Area under the ROC curve, and its change:")
for name, values in areas.items():
    mean, error = mean_and_error(values)
    change = "" if name == "as it is" else f"; {compare(values, areas['as it is'])}"
    print(f"  {name}: {mean:.4f} ± {error:.4f}{change}")
print("Log loss, its change, and rare events that are claimed over true ones:")
for name, values in losses.items():
    mean, error = mean_and_error(values)
    ratio, ratio_error = mean_and_error(claimed[name])
    change = "" if name == "as it is" else f"; {compare(values, losses['as it is'])}"
    print(f"  {name}: {mean:.4f} ± {error:.4f}{change}; claimed {ratio:.2f} ± {ratio_error:.2f}")

# %%
# Left: background that is let through at a given efficiency for the rare class. Middle: the same,
# over what passes without any remedy; bands are standard errors of the mean. Right: how often
# events are rare, against what the probability says; dashed lines are before the odds of nature are
# put back, and events of all repetitions are together.
COLORS = dict(zip(methods, ("k", "#009E73", "#D55E00", "#0072B2", "#CC79A7"), strict=True))
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(16, 5.4))
base = np.array(curves["as it is"])
passes = base.mean(0) > 0
for name, color in COLORS.items():
    curve = np.array(curves[name])
    left.plot(EFFICIENCY, curve.mean(0), color=color, lw=2, label=name)
    curve, known, kept = curve[:, passes], base[:, passes], EFFICIENCY[passes]
    ratio = curve.mean(0) / known.mean(0)
    # Of the ratio of two means, by its linear part in both.
    away = (curve - ratio * known) / known.mean(0)
    error = away.std(0, ddof=1) / np.sqrt(len(away))
    middle.plot(kept, ratio, color=color, lw=2)
    middle.fill_between(kept, ratio - error, ratio + error, color=color, alpha=0.2, lw=0)
    for version in (name, f"{name}, odds of nature"):
        if version not in pooled:
            continue
        truth, probability, weight = (
            np.concatenate(part) for part in zip(*pooled[version], strict=True)
        )
        found = reliability_curve(
            truth, probability, sample_weight=weight, n_bins=12, strategy="quantile"
        )
        final = name not in REMEDIES or version != name
        right.plot(
            found.predicted,
            found.observed,
            color=color,
            ls="-" if final else "--",
            marker="o" if final else None,
            ms=4,
        )
left.set(
    title="ROC curve",
    xlabel="Rare events kept",
    ylabel="Background kept",
    yscale="log",
    ylim=(1e-3, 1),
    xlim=(0, 1),
)
left.legend()
middle.set(
    title="Background, over that without a remedy",
    xlabel="Rare events kept",
    ylabel="Ratio",
    yscale="log",
    xlim=(0.4, 1),
    ylim=(0.2, 5),
)
middle.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
middle.minorticks_off()
right.plot([1e-4, 1], [1e-4, 1], color="0.6", lw=1, ls=":")
right.set(
    title="Dashed: before the odds of nature",
    xlabel="Probability that is claimed",
    ylabel="Share that is rare",
    xscale="log",
    yscale="log",
    xlim=(1e-4, 1),
    ylim=(1e-4, 1),
)
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "rare_class.png", dpi=120)
else:
    plt.show()
