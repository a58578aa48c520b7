"""Pulse-shape analysis of a germanium detector, from the spectrum to the report.

    python examples/hpge_pulse_shape.py [--data FILE.lh5] [--output report]

On a thorium-228 calibration of one LEGEND-200 detector, or on your own table of the same columns:

1. Quality cuts, each one counted.
2. Energy calibration from the lines of the source, without an initial gain.
3. The traditional A/E cut, corrected for the energy with Compton bands.
4. A support vector machine and boosted decision trees, trained on double escape (DEP, single-site)
   against single escape events (SEP, multi-site).
5. Survival of DEP, SEP, full-energy line (FEP) and of the continuum at 2039 ± 35 keV, where
   neutrinoless double beta decay would be, at 90 % DEP acceptance.
6. Why the trees decide as they do: Shapley values.
7. On simulated waveforms with truth: a convolutional network on raw waveforms against trees on
   pulse-shape features against A/E.

Three things are easy to get wrong here, and each has its function below. What encodes the energy
must not enter, since the classes have different energies (:func:`energy_independent`). The lines
stand on a Compton continuum, which must not be learnt as DEP or SEP (:func:`expected_weights`). And
no event may be judged by a model or by a threshold that it has helped to make (:func:`cross_fit`,
:func:`leave_out_thresholds`).
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sklearn
from hpge_report import write_report
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    train_test_split,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer

from sknuc.baselines import BDTClassifier, SVMClassifier
from sknuc.datasets import fetch_legend_th228, make_hpge_waveforms, read_lh5
from sknuc.encoders import CNN
from sknuc.metrics import (
    TH228_LINES,
    acceptance_threshold,
    calibrate_energy,
    fit_compton_bands,
    peak_region,
    rejection_at_acceptance,
    sideband_weights,
    survival_fraction,
)
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import (
    BaselineSubtractor,
    PulseShapeFeatures,
    WaveformCropper,
    WaveformNormalizer,
)

#: Quantities of the analysis and the columns of a LEGEND dsp table that hold them.
COLUMNS = {
    "energy": "cuspEmax",
    "current": "A_max",
    "late_charge": "lq80",
    "drift_time": "dt_eff",
    "tail": "pz_slope",
    "baseline_noise": "bl_std",
    "baseline_slope": "bl_slope",
    "baseline_energy": "baselineEmax",
    "t0": "tp_0_est",
}
FEATURES = ["A/E", "LQ/E", "Drift time", "Tail/E"]
CONTINUUM = (2039.0 - 35.0, 2039.0 + 35.0)
METHODS = ["A/E", "SVM", "BDT"]
ACCEPTANCES = (0.9, 0.8)
N_FOLDS = 5


@dataclass
class Events:
    """The table of one calibration run: one array per quantity of ``COLUMNS``."""

    columns: dict[str, np.ndarray]
    source: str
    simulated: bool = False
    notes: list[str] = field(default_factory=list)


class Progress:
    """Say what is being done, and when."""

    def __init__(self, n_steps):
        self.start, self.n_steps, self.step = time.perf_counter(), n_steps, 0

    def __call__(self, text):
        """Announce the next step."""
        self.step += 1
        elapsed = time.perf_counter() - self.start
        print(f"[{elapsed:5.1f} s] {self.step}/{self.n_steps}  {text}", flush=True)


# ---------------------------------------------------------------------------------------- events


def load_events(path=None, group=None, *, n_simulated=36_000, random_state=0):
    """Read the user's table, else the LEGEND-200 table, else simulate one.

    Parameters
    ----------
    path : str, default=None
        An LH5 or HDF5 file with the columns of ``COLUMNS``; None for LEGEND-200, "simulation" for
        simulated events.
    group : str, default=None
        The table in the file; None for its only one.
    n_simulated : int, default=36000
        Number of simulated events.
    random_state : int, default=0
        Seed of the simulation.

    Returns
    -------
    events : Events
    """
    if path == "simulation":
        return simulate_events(n_simulated, random_state)
    if path is not None:
        table = read_lh5(path, group, columns=list(COLUMNS.values()))
        columns = {name: table.data[column] for name, column in COLUMNS.items()}
        return Events(_floats(columns), f"{path}, table {table.group}")
    try:
        table = fetch_legend_th228()
    except OSError as error:
        events = simulate_events(n_simulated, random_state)
        events.notes.append(f"The LEGEND-200 table is not available: {error}")
        return events
    values = dict(zip(table.feature_names, table.data.T, strict=True))
    empty = [name for name, column in values.items() if np.all(np.isnan(column))]
    events = Events(
        _floats({name: values[column] for name, column in COLUMNS.items()}),
        "LEGEND-200 Th-228 calibration p03 r000, detector ch1104000",
    )
    if empty:
        events.notes.append(f"Columns that are NaN throughout were dropped: {', '.join(empty)}.")
    return events


def _floats(columns):
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


def simulate_events(n_events=36_000, random_state=0):
    """Simulate a Th-228 calibration: lines on Compton continua, each with its own share of sites.

    Parameters
    ----------
    n_events : int, default=36000
    random_state : int, default=0

    Returns
    -------
    events : Events
    """
    rng = np.random.default_rng(random_state)
    # Energy (a line or a range), share of the events, share of single-site events.
    parts = [
        (TH228_LINES["208Tl 861"], 0.04, 0.35),
        (TH228_LINES["DEP"], 0.03, 0.95),
        (TH228_LINES["212Bi 1621"], 0.02, 0.15),
        (TH228_LINES["SEP"], 0.05, 0.06),
        (TH228_LINES["FEP"], 0.16, 0.10),
        ((800.0, 2382.0), 0.66, 0.45),
        ((2382.0, 2610.0), 0.04, 0.15),
    ]
    waveforms = []
    for single_site in (True, False):
        energies = []
        for where, share, single in parts:
            n = round(n_events * share * (single if single_site else 1 - single))
            if isinstance(where, tuple):
                energies.append(rng.uniform(*where, n))
            else:
                energies.append(rng.normal(where, 0.02 * np.sqrt(where), n))
        energy = np.concatenate(energies)
        waveforms.append(
            make_hpge_waveforms(
                len(energy),
                energy=energy,
                weights=(1, 0, 0) if single_site else (0, 1, 0),
                random_state=int(rng.integers(2**31)),
            ).data
        )
    transformer = PulseShapeFeatures(sampling_period=16.0)
    table = transformer.fit_transform(rng.permutation(np.concatenate(waveforms)))
    values = dict(zip(transformer.get_feature_names_out(), table.T, strict=True))
    columns = {
        "energy": values["energy_cusp"],
        "current": values["current"],
        "late_charge": values["late_charge"] * values["energy_max"],
        "drift_time": values["drift_time"],
        "tail": values["tail_slope"],
        "baseline_noise": values["baseline_noise"],
        "baseline_slope": values["baseline_slope"],
        "baseline_energy": values["baseline"],
        "t0": values["t0"],
    }
    return Events(_floats(columns), f"{len(table):,} simulated events", simulated=True)


def select_events(columns, n_sigma=6.0):
    """Remove events with pile-up or a disturbed baseline, and count what each cut removes.

    The baseline's noise, slope and remaining energy and the start of the pulse scatter around the
    same value at every energy; events beyond `n_sigma` robust standard deviations
    (median absolute deviation) of the median have another pulse before or under their own.

    Parameters
    ----------
    columns : dict of str to ndarray
    n_sigma : float, default=6.0

    Returns
    -------
    good : ndarray of bool of shape (n_events,)
    cut_flow : list of (str, int, int)
        Each cut, the events that fail it, and those that fail no cut before it.
    """
    finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    cuts = {"A quantity is undefined (NaN)": ~finite}
    for name, text in {
        "baseline_noise": "Baseline noise",
        "baseline_slope": "Baseline slope (tail of an earlier pulse)",
        "baseline_energy": "Energy in the baseline (earlier pulse)",
        "t0": "Start of the pulse (trigger by another pulse)",
    }.items():
        column = columns[name]
        deviation = np.abs(column - np.nanmedian(column))
        cuts[text] = deviation > n_sigma * 1.4826 * np.nanmedian(deviation)
    good, flow = np.ones(len(finite), dtype=bool), []
    for text, fails in cuts.items():
        flow.append((text, int(fails.sum()), int((fails & good).sum())))
        good &= ~fails
    return good, flow


# -------------------------------------------------------------------------------------- features


def energy_independent(value, energy, continuum, *, n_bands=10, energy_range=(900.0, 2350.0)):
    """Express a quantity in units of its own spread around its median, both at the event's energy.

    Noise makes ratios to the energy narrower at higher energy, and electronics shifts them: a
    classifier would read the energy, and with it the class, off them. Median (a straight line) and
    distances to the quantiles at 16 and 84 % (of the form p + q/E) come from the Compton continuum.

    Parameters
    ----------
    value, energy : ndarray of shape (n_events,)
    continuum : ndarray of bool of shape (n_events,)
        Events away from all lines.
    n_bands : int, default=10
    energy_range : tuple of float, default=(900, 2350)
        In keV.

    Returns
    -------
    value : ndarray of shape (n_events,)
    """
    edges = np.linspace(*energy_range, n_bands + 1)
    center = 0.5 * (edges[1:] + edges[:-1])
    band = np.where(continuum, np.digitize(energy, edges) - 1, -1)
    low, middle, high = np.array(
        [np.percentile(value[band == i], [16, 50, 84]) for i in range(n_bands)]
    ).T
    residual = value - np.polyval(np.polyfit(center, middle, 1), energy)
    below, above = (
        np.polyval(np.polyfit(1 / center, spread, 1), 1 / energy)
        for spread in (middle - low, high - middle)
    )
    return residual / np.where(residual < 0, below, above)


def make_features(columns, energy, zeta):
    """Pulse shape without energy.

    Parameters
    ----------
    columns : dict of str to ndarray
    energy : ndarray of shape (n_events,)
        In keV.
    zeta : ndarray of shape (n_events,)
        The A/E classifier, which Compton bands have corrected already.

    Returns
    -------
    X : ndarray of shape (n_events, len(FEATURES))
    """
    continuum = np.all([np.abs(energy - line) > 10 for line in TH228_LINES.values()], axis=0)
    raw = (
        columns["late_charge"] / columns["energy"],
        columns["drift_time"],
        columns["tail"] / columns["energy"],
    )
    return np.column_stack([zeta, *(energy_independent(v, energy, continuum) for v in raw)])


def energy_leak(X, energy, regions, *, random_state=0):
    """Try to tell the continuum next to DEP from that next to SEP: AUC and its standard deviation.

    Both are the same kind of event. What a classifier finds beyond 0.5 is energy.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    energy : ndarray of shape (n_events,)
    regions : dict
    random_state : int, default=0

    Returns
    -------
    auc, std : float
    """
    beside = {name: sideband_weights(energy, **regions[name]) < 0 for name in ("DEP", "SEP")}
    rows = np.flatnonzero(beside["DEP"] | beside["SEP"])
    y = beside["DEP"][rows].astype(int)
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state)
    bdt = BDTClassifier(max_depth=2, max_iter=100, learning_rate=0.05, random_state=random_state)
    score = cross_val_predict(bdt, X[rows], y, cv=folds, method="decision_function")
    n1, n0 = np.bincount(y)
    return roc_auc_score(y, score), float(np.sqrt((1 / n0 + 1 / n1) / 12))


# -------------------------------------------------------------------------------------- learning


def expected_weights(X, weight, *, random_state=0):
    """Replace signed side-band weights by positive ones that mean the same.

    Any sum over events with signed weights keeps its expectation when each weight is replaced by
    its conditional expectation E[w | x], which is not negative because the line's density is not.
    A forest estimates it as the mean weight of an event's neighbours, from trees that have not
    seen the event. (Borisyak and Kazeev, JINST 14 (2019) P08020, arXiv:1905.11719.)

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    weight : ndarray of shape (n_events,)
        One in the window, negative in the side-bands.
    random_state : int, default=0

    Returns
    -------
    weight : ndarray of shape (n_events,)
    """
    forest = RandomForestRegressor(
        200, min_samples_leaf=20, max_features=0.5, oob_score=True, random_state=random_state
    )
    return np.maximum(forest.fit(X, weight).oob_prediction_, 0.0)


def searches(random_state=0):
    """Grid searches over pipelines: a support vector machine and boosted trees.

    Parameters
    ----------
    random_state : int, default=0

    Returns
    -------
    searches : dict of str to GridSearchCV
    """
    scorer = make_scorer(roc_auc_score, response_method="decision_function")
    scorer = scorer.set_score_request(sample_weight=True)
    folds = StratifiedKFold(4, shuffle=True, random_state=random_state)
    svm = Pipeline(
        [
            # Tails of A/E and LQ reach hundreds of standard deviations; kernels want distances.
            ("shape", QuantileTransformer(n_quantiles=200, output_distribution="normal")),
            ("model", SVMClassifier(calibration_folds=2).set_fit_request(sample_weight=True)),
        ]
    )
    bdt = Pipeline(
        [
            (
                "model",
                BDTClassifier(
                    learning_rate=0.05, subsample=0.7, random_state=random_state
                ).set_fit_request(sample_weight=True),
            )
        ]
    )
    return {
        "SVM": GridSearchCV(
            svm, {"model__C": [0.1, 1.0], "model__gamma": [0.03, 0.1]}, scoring=scorer, cv=folds
        ),
        "BDT": GridSearchCV(
            bdt,
            {"model__max_depth": [2, 3], "model__max_iter": [60, 120]},
            scoring=scorer,
            cv=folds,
        ),
    }


def cross_fit(search, X, weights, fold, *, random_state=0):
    """Score every event with a model that was trained, and chosen, without it.

    Parameters
    ----------
    search : GridSearchCV
    X : ndarray of shape (n_events, n_features)
    weights : dict of str to ndarray
        Signed weights that stand for the lines "DEP" and "SEP".
    fold : ndarray of int of shape (n_events,)
        The part of the data in which an event is judged.
    random_state : int, default=0

    Returns
    -------
    score : ndarray of shape (n_events,)
    models : list of Pipeline
        One per fold.
    """
    score, models = np.empty(len(X)), []
    for k in range(fold.max() + 1):
        rows, labels, positive = [], [], []
        for label, line in ((1, "DEP"), (0, "SEP")):
            i = np.flatnonzero((fold != k) & (weights[line] != 0))
            w = expected_weights(X[i], weights[line][i], random_state=random_state)
            i, w = i[w > 0], w[w > 0]
            rows.append(i)
            labels.append(np.full(len(i), label))
            positive.append(w / w.mean())
        rows, labels = np.concatenate(rows), np.concatenate(labels)
        model = sklearn.clone(search)
        model.fit(X[rows], labels, sample_weight=np.concatenate(positive))
        score[fold == k] = model.decision_function(X[fold == k])
        models.append(model.best_estimator_)
    return score, models


# -------------------------------------------------------------------------------------- judgment


def leave_out_thresholds(score, weight, fold, acceptance):
    """Threshold of each fold that keeps `acceptance` of the net DEP events of all other folds.

    Parameters
    ----------
    score, weight, fold : ndarray of shape (n_events,)
    acceptance : float

    Returns
    -------
    thresholds : ndarray of shape (n_folds,)
    """
    line = weight != 0
    score, weight, fold = score[line], weight[line], fold[line]
    return np.array(
        [
            acceptance_threshold(
                score[fold != k], acceptance=acceptance, sample_weight=weight[fold != k]
            )
            for k in range(N_FOLDS)
        ]
    )


def net_auc(score, signal_weight, background_weight):
    """Probability that an event of one line scores higher than one of another, both net.

    Parameters
    ----------
    score, signal_weight, background_weight : ndarray of shape (n_events,)
        Weights may be negative; :func:`sklearn.metrics.roc_auc_score` refuses the curve that is
        then not monotonic, although its area is well defined.

    Returns
    -------
    auc : float
    """
    _, rank = np.unique(score, return_inverse=True)
    signal = np.bincount(rank, weights=signal_weight)
    background = np.bincount(rank, weights=background_weight)
    below = np.cumsum(background) - 0.5 * background
    return float(signal @ below / (signal.sum() * background.sum()))


def judge(scores, energy, regions, weights, fold, *, n_bootstrap=200, random_state=0):
    """Survival of every region under every method, and differences on the same events.

    Parameters
    ----------
    scores : dict of str to ndarray of shape (n_events,)
    energy : ndarray of shape (n_events,)
    regions : dict of str to dict
    weights : dict of str to ndarray
        Signed weights of the regions.
    fold : ndarray of int of shape (n_events,)
    n_bootstrap : int, default=200
        Poisson bootstrap replicas of the events, in each of which the thresholds are found anew:
        their spread holds the error of the threshold, which a count of survivors does not, and the
        correlation between methods that judge the same events.
    random_state : int, default=0

    Returns
    -------
    result : dict
        ``survival[acceptance][method][region]``, ``passed[acceptance][method]``,
        ``replicas[acceptance][method][region]``, ``auc[method]``, ``auc_replicas[method]``.
    """
    used = np.flatnonzero(np.any([w != 0 for w in weights.values()], axis=0))
    w = {name: weight[used] for name, weight in weights.items()}
    s = {name: score[used] for name, score in scores.items()}
    f = fold[used]
    rng = np.random.default_rng(random_state)

    result = {"survival": {}, "passed": {}, "replicas": {}, "thresholds": {}}
    result["auc"] = {m: net_auc(s[m], w["DEP"], w["SEP"]) for m in scores}
    result["auc_replicas"] = {m: [] for m in scores}
    for a in ACCEPTANCES:
        t = {m: leave_out_thresholds(s[m], w["DEP"], f, a) for m in scores}
        passed = {m: scores[m] >= t[m][fold] for m in scores}
        result["thresholds"][a], result["passed"][a] = t, passed
        result["survival"][a] = {
            m: {r: survival_fraction(energy, passed[m], **region) for r, region in regions.items()}
            for m in scores
        }
        result["replicas"][a] = {m: {r: [] for r in regions} for m in scores}
    for _ in range(n_bootstrap):
        n = rng.poisson(1.0, len(used)).astype(float)
        for m in scores:
            result["auc_replicas"][m].append(net_auc(s[m], w["DEP"] * n, w["SEP"] * n))
            for a in ACCEPTANCES:
                passed = s[m] >= leave_out_thresholds(s[m], w["DEP"] * n, f, a)[f]
                for r in regions:
                    total = w[r] * n
                    result["replicas"][a][m][r].append(total[passed].sum() / total.sum())
    return result


def compare(value, replicas, reference, reference_replicas):
    """Difference of two results on the same events: value, standard deviation, 95 % interval.

    Parameters
    ----------
    value, reference : float
    replicas, reference_replicas : array-like of shape (n_bootstrap,)

    Returns
    -------
    difference, std : float
    interval : tuple of float
    """
    spread = np.subtract(replicas, reference_replicas)
    low, high = np.quantile(spread, [0.025, 0.975])
    return value - reference, float(spread.std(ddof=1)), (float(low), float(high))


# --------------------------------------------------------------------------------- Shapley values


def explain(models, X, fold, weights):
    """Shapley values of the events of both lines, from the trees that have not seen them.

    Parameters
    ----------
    models : list of Pipeline
    X : ndarray of shape (n_events, n_features)
    fold : ndarray of int of shape (n_events,)
    weights : dict of str to ndarray

    Returns
    -------
    explanation : dict
        `values` and `data` of shape (n, n_features), `base` of shape (n,), `line` of shape (n,)
        (1 for the window of DEP, 0 for SEP), and `typical`: for both lines the event in its window
        with the median score.
    """
    rows = np.flatnonzero((weights["DEP"] > 0) | (weights["SEP"] > 0))
    values, base = np.empty((len(rows), X.shape[1])), np.empty(len(rows))
    for k, model in enumerate(models):
        inside = fold[rows] == k
        bdt = model.named_steps["model"]
        values[inside] = bdt.shap_values(X[rows[inside]])
        base[inside] = bdt.expected_value_
    line = (weights["DEP"][rows] > 0).astype(int)
    score, typical = base + values.sum(axis=1), {}
    for name, label in (("DEP", 1), ("SEP", 0)):
        of_line = np.flatnonzero(line == label)
        middle = np.median(score[of_line])
        typical[name] = int(of_line[np.argmin(np.abs(score[of_line] - middle))])
    return {"values": values, "data": X[rows], "base": base, "line": line, "typical": typical}


# -------------------------------------------------------------------------------------- waveforms


def compare_on_waveforms(n_events=24_000, max_epochs=12, random_state=0):
    """Network on raw waveforms against trees on pulse-shape features against A/E, with truth.

    Parameters
    ----------
    n_events : int, default=24000
        Simulated single-site and multi-site events; a quarter of them is held out.
    max_epochs : int, default=12
    random_state : int, default=0

    Returns
    -------
    result : dict
        `y`, `scores`, `rejection` and examples of waveforms of the held-out events.
    """
    period = 16.0
    events = make_hpge_waveforms(
        n_events,
        weights=(0.5, 0.5, 0),
        energy=(1000.0, 2700.0),
        sampling_period=period,
        random_state=random_state,
    )
    X, y = events.data, (events.target == 0).astype(int)
    train, test = train_test_split(
        np.arange(len(y)), test_size=0.25, stratify=y, random_state=random_state
    )
    features = PulseShapeFeatures(sampling_period=period).set_output(transform="default")
    names = list(features.fit(X[train]).get_feature_names_out())
    tables = {"train": features.transform(X[train]), "test": features.transform(X[test])}
    aoe = tables["test"][:, names.index("a_over_e")]

    trees = BDTClassifier(
        max_depth=4, max_iter=300, early_stopping=True, random_state=random_state
    ).fit(tables["train"], y[train])

    t0 = tables["train"][:, names.index("t0")]
    window = np.array([np.nanmin(t0) - 300.0, np.nanmax(t0) + 1300.0])
    start, stop = np.clip(np.round(window / period), 0, X.shape[1]) * period
    network = Pipeline(
        [
            ("baseline", BaselineSubtractor(window=float(0.8 * np.nanmin(t0)))),
            ("scale", WaveformNormalizer(norm="tail")),
            ("crop", WaveformCropper(start=float(start), stop=float(stop), sampling_period=period)),
            (
                "cnn",
                NeuralClassifier(
                    encoder=CNN(channels=(16, 32)),
                    input_shape=(1, round((stop - start) / period)),
                    max_epochs=max_epochs,
                    batch_size=128,
                    learning_rate=0.002,
                    random_state=random_state,
                    verbose=1,
                ),
            ),
        ]
    ).fit(X[train], y[train])

    scores = {
        "A/E": aoe,
        "Features + BDT": trees.decision_function(tables["test"]),
        "CNN on waveforms": network.predict_proba(X[test])[:, 1],
    }
    examples = {
        name: X[test][np.flatnonzero(y[test] == label)[:3]]
        for name, label in (("Single-site", 1), ("Multi-site", 0))
    }
    return {
        "y": y[test],
        "scores": scores,
        "rejection": {m: rejection_at_acceptance(y[test], s) for m, s in scores.items()},
        "auc": {m: roc_auc_score(y[test], s) for m, s in scores.items()},
        "n_train": len(train),
        "n_test": len(test),
        "examples": examples,
        "window": (float(start), float(stop)),
        "period": period,
    }


# ------------------------------------------------------------------------------------------- main


def analyse(events, *, quick=False, random_state=0, progress=None):
    """Run the whole analysis.

    Parameters
    ----------
    events : Events
    quick : bool, default=False
        Fewer bootstrap replicas, waveforms and epochs.
    random_state : int, default=0
    progress : callable, default=None
        Called with a line of text before each step.

    Returns
    -------
    result : dict
        Everything that the report shows.
    """
    progress = progress or (lambda text: None)
    progress("Quality cuts and energy calibration")
    good, cut_flow = select_events(events.columns)
    columns = {name: column[good] for name, column in events.columns.items()}
    calibration = calibrate_energy(columns["energy"])
    energy = calibration.energy(columns["energy"])
    regions = {
        line: peak_region(calibration.lines[line], calibration.fwhm[line][0])
        for line in ("DEP", "212Bi 1621", "SEP", "FEP")
        if line in calibration.lines
    }
    if not {"DEP", "SEP", "FEP"} <= set(regions):
        raise ValueError(
            "The analysis needs the lines DEP, SEP and FEP of 208Tl. Found: "
            f"{', '.join(calibration.lines)}."
        )
    regions["2039 ± 35 keV"] = {"window": CONTINUUM}
    # Bands as wide as the smooth continuum allows: the error of what is subtracted shrinks.
    regions["DEP"]["sidebands"] = [(1530.0, 1585.0), (1600.0, 1612.0), (1629.0, 1660.0)]
    regions["SEP"]["sidebands"] = [(2050.0, 2094.0), (2113.0, 2157.0)]
    weights = {
        name: sideband_weights(energy, **{"sidebands": None, **region})
        for name, region in regions.items()
    }

    progress("A/E cut with Compton-band correction")
    aoe = columns["current"] / columns["energy"]
    correction = fit_compton_bands(energy, aoe)
    zeta = correction.classifier(energy, aoe)
    plain = aoe / correction.mu(energy) >= 0.98
    plain_survival = {
        r: survival_fraction(energy, plain, **region) for r, region in regions.items()
    }

    X = make_features(columns, energy, zeta)
    leak = energy_leak(X, energy, regions, random_state=random_state)
    # Every fold gets its share of both lines and of their side-bands.
    kind = np.sign(weights["DEP"]) + 3 * np.sign(weights["SEP"])
    fold = np.empty(len(X), dtype=int)
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state)
    for k, (_, part) in enumerate(folds.split(X, kind)):
        fold[part] = k

    scores, models = {"A/E": zeta}, {}
    with sklearn.config_context(enable_metadata_routing=True):
        for name, search in searches(random_state).items():
            progress(f"{name}: grid search within {N_FOLDS} folds")
            scores[name], models[name] = cross_fit(
                search, X, weights, fold, random_state=random_state
            )

    progress("Survival fractions, with bootstrap errors")
    judged = judge(
        scores,
        energy,
        regions,
        weights,
        fold,
        n_bootstrap=20 if quick else 200,
        random_state=random_state,
    )
    progress("Shapley values")
    explanation = explain(models["BDT"], X, fold, weights)
    progress("Simulated waveforms: CNN against features + BDT against A/E")
    waveforms = compare_on_waveforms(
        *((2000, 2) if quick else (24_000, 12)), random_state=random_state
    )
    return {
        "events": events,
        "n_good": int(good.sum()),
        "n_all": len(good),
        "cut_flow": cut_flow,
        "calibration": calibration,
        "energy": energy,
        "regions": regions,
        "weights": weights,
        "aoe": aoe,
        "correction": correction,
        "plain": plain_survival,
        "leak": leak,
        "scores": scores,
        "fold": fold,
        "models": models,
        "judged": judged,
        "explanation": explanation,
        "features": FEATURES,
        "waveforms": waveforms,
        "compare": compare,
    }


def main(argv=None):
    """Run the analysis from the command line.

    Parameters
    ----------
    argv : list of str, default=None
        None for those of the process.

    Returns
    -------
    result : dict
        As :func:`analyse`.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="LH5 or HDF5 file; 'simulation' for simulated events")
    parser.add_argument("--group", help="table in the file, such as ch1104000/dsp")
    parser.add_argument("--output", default="report", help="folder of the report")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    arguments = parser.parse_args(argv)

    progress = Progress(8)
    progress("Reading events")
    events = load_events(
        arguments.data, arguments.group, n_simulated=12_000 if arguments.quick else 36_000
    )
    print(f"          {events.source}", *events.notes, sep="\n          ", flush=True)
    result = analyse(events, quick=arguments.quick, progress=progress)
    progress("Report")
    path = write_report(result, Path(arguments.output), progress.start)
    print(f"\nThe report is in {path.resolve()}")
    return result


if __name__ == "__main__":
    main()
