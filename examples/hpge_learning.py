"""Learning from two gamma lines on a continuum: features, weights, cross-fits, errors.

Three things are easy to get wrong, and each has its function. What encodes the energy must not
enter, since the classes have different energies (:func:`energy_independent`). The lines stand on a
Compton continuum, which must not be learnt as DEP or SEP (:func:`expected_weights`). And no event
may be judged by a model or by a threshold that it has helped to make (:func:`cross_fit`,
:func:`leave_out_thresholds`).
"""

import numpy as np
import sklearn
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer

from sknuc.baselines import BDTClassifier, SVMClassifier
from sknuc.metrics import (
    TH228_LINES,
    acceptance_threshold,
    sideband_weights,
    survival_fraction,
)

FEATURES = ["A/E", "LQ/E", "Drift time", "Tail/E"]
ACCEPTANCES = (0.9, 0.8)
N_FOLDS = 5


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


def expected_weights(X, weight, *, random_state=0):
    """Replace signed side-band weights by positive ones that mean the same.

    Any sum over events with signed weights keeps its expectation when each weight is replaced by
    its conditional expectation E[w | x], which is not negative because the line's density is not.
    A forest estimates it as the mean weight of an event's neighbours, at least 2 % of all events,
    from trees that have not seen the event. (M. Borisyak and N. Kazeev, "Machine learning on data
    with sPlot background subtraction", JINST 14 (2019) P08020, arXiv:1905.11719.)

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
        100, min_samples_leaf=0.02, max_features=0.5, oob_score=True, random_state=random_state
    )
    return np.maximum(forest.fit(X, weight).oob_prediction_, 0.0)


def searches(*, quick=False, random_state=0):
    """Grid searches over pipelines: a support vector machine and boosted trees.

    Parameters
    ----------
    quick : bool, default=False
        Smaller grids.
    random_state : int, default=0

    Returns
    -------
    searches : dict of str to GridSearchCV
    """
    scorer = make_scorer(roc_auc_score, response_method="decision_function")
    scorer = scorer.set_score_request(sample_weight=True)
    folds = StratifiedKFold(2 if quick else 4, shuffle=True, random_state=random_state)
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
    grids = {
        "SVM": (svm, {"model__C": [0.1, 1.0], "model__gamma": [0.03, 0.1]}),
        "BDT": (bdt, {"model__max_iter": [60, 120], "model__max_depth": [2, 3]}),
    }
    for _, grid in grids.values() if quick else ():
        grid.popitem()
    return {
        name: GridSearchCV(pipeline, grid, scoring=scorer, cv=folds)
        for name, (pipeline, grid) in grids.items()
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
