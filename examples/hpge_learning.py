"""Learning from two gamma lines on a continuum: features, weights, cross-fits.

Three things are easy to get wrong, and each has its function. What encodes the energy must not
enter, since the classes have different energies (:func:`energy_independent`; what is left of it is
measured by :func:`energy_leak`). The lines stand on a Compton continuum, which must not be learnt
as DEP or SEP (:func:`expected_weights`). And an event must not be judged by a model that was
trained on it, or whose settings were chosen with it (:func:`cross_fit`): its own label and weight
do not enter its score. Features and the A/E correction use all events of the continuum, but no
label. The threshold that is then laid on the scores is the matter of ``hpge_judging.py``.
"""

import numpy as np
import sklearn
from hpge_judging import net_auc
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import QuantileTransformer
from sklearn.utils.parallel import Parallel, delayed

from sknuc.baselines import BDTClassifier, SVMClassifier
from sknuc.metrics import TH228_LINES, sideband_weights

FEATURES = ["A/E", "LQ/E", "Drift time", "Tail/E"]
N_FOLDS = 5
#: Every run deals the events to folds anew and trains with another seed.
N_RUNS = 5
CALIBRATION = "model__calibration_folds"


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
    fewest = min(np.count_nonzero(band == i) for i in range(n_bands))
    if fewest < 20:
        raise ValueError(
            f"The continuum between {energy_range[0]:g} and {energy_range[1]:g} keV has bands of "
            f"{energy_range[1] / n_bands - energy_range[0] / n_bands:g} keV with {fewest} events, "
            "but needs 20 in each to correct the features for the energy. Take more data."
        )
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


def energy_leak(X, energy, regions, *, n_runs=3, random_state=0):
    """Try to tell the continuum next to DEP from that next to SEP.

    Both are Compton continuum. What a classifier finds beyond an AUC of 0.5 is energy in the
    features, or another mixture of single-site and multi-site events at the two energies: the two
    cannot be told apart here.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    energy : ndarray of shape (n_events,)
    regions : dict
    n_runs : int, default=3
        Partitions into folds over which the score is averaged.
    random_state : int, default=0

    Returns
    -------
    auc, std : float
        Where nothing leaks, `auc` is 0.5 within `std`.
    tilt : ndarray of shape (n_events,)
        Estimated ratio of the densities of the two continua at every event, DEP's to SEP's. Each
        event's comes from models that were not trained on it.
    """
    beside = {name: sideband_weights(energy, **regions[name]) < 0 for name in ("DEP", "SEP")}
    rows = np.flatnonzero(beside["DEP"] | beside["SEP"])
    y = beside["DEP"][rows].astype(int)
    score = np.zeros(len(X))
    for run in range(n_runs):
        seed = random_state + run
        folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)
        bdt = BDTClassifier(max_depth=2, max_iter=100, learning_rate=0.05, random_state=seed)
        judged = bdt.fit(X[rows], y).decision_function(X)
        judged[rows] = cross_val_predict(bdt, X[rows], y, cv=folds, method="decision_function")
        score += judged / n_runs
    n0, n1 = np.bincount(y)
    auc = net_auc(score[rows], y == 1, y == 0)
    return auc, float(np.sqrt((1 / n0 + 1 / n1) / 12)), np.exp(score) * n0 / n1


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

    The candidates are ranked by the area under the curve of DEP against SEP of left-out events,
    with the signed weights of the side-bands: no estimate stands between the data and the choice.

    Parameters
    ----------
    quick : bool, default=False
        Smaller grids.
    random_state : int, default=0

    Returns
    -------
    searches : dict of str to GridSearchCV
        Their best candidate is trained by :func:`cross_fit`, with calibrated scores.
    """

    def signed_auc(y, score, sample_weight):
        return net_auc(score, sample_weight * (y == 1), sample_weight * (y == 0))

    scorer = make_scorer(signed_auc, response_method="decision_function")
    scorer = scorer.set_score_request(sample_weight="signed_weight")
    folds = StratifiedKFold(2, shuffle=True, random_state=random_state)
    svm = Pipeline(
        [
            # Tails of A/E and LQ reach hundreds of standard deviations; kernels want distances.
            (
                "shape",
                QuantileTransformer(
                    n_quantiles=200, output_distribution="normal", random_state=random_state
                ),
            ),
            (
                "model",
                SVMClassifier(calibration_folds=2, random_state=random_state).set_fit_request(
                    sample_weight=True
                ),
            ),
        ]
    )
    bdt = Pipeline(
        [
            (
                "model",
                BDTClassifier(
                    learning_rate=0.1, subsample=0.7, random_state=random_state
                ).set_fit_request(sample_weight=True),
            )
        ]
    )
    grids = {
        "SVM": (svm, {"model__C": [1.0, 10.0, 100.0], "model__gamma": [0.03, 0.1, 0.3]}),
        "BDT": (bdt, {"model__max_iter": [30, 60, 120], "model__max_depth": [3, 6, 12]}),
    }
    for _, grid in grids.values() if quick else ():
        grid.popitem()
    # Calibration keeps the order of margins, all that the ranking reads, and costs two more fits.
    grids["SVM"][1][CALIBRATION] = [None]
    return {
        name: GridSearchCV(pipeline, grid, scoring=scorer, cv=folds, refit=False)
        for name, (pipeline, grid) in grids.items()
    }


def training_sets(X, weights, folds, *, random_state=0, n_jobs=None):
    """Lay out what every model may see: the events of both lines outside of its fold.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    weights : dict of str to ndarray
        Signed weights that stand for the lines "DEP" and "SEP".
    folds : ndarray of int of shape (n_runs, n_events)
        The part of the data in which an event is judged, in every run.
    random_state : int, default=0
    n_jobs : int, default=None
        Number of threads; the result does not depend on it.

    Returns
    -------
    sets : dict of (int, int) to dict
        For every run and fold the arguments of the fit.
    """

    def lay_out(run, k):
        parts = []
        for label, line in ((1, "DEP"), (0, "SEP")):
            i = np.flatnonzero((folds[run] != k) & (weights[line] != 0))
            positive = expected_weights(X[i], weights[line][i], random_state=random_state + run)
            labels = np.full(len(i), label)
            parts.append((X[i], labels, positive / positive.mean(), weights[line][i]))
        names = ("X", "y", "sample_weight", "signed_weight")
        return dict(zip(names, map(np.concatenate, zip(*parts, strict=True)), strict=True))

    keys = [(run, k) for run, fold in enumerate(folds) for k in range(fold.max() + 1)]
    sets = Parallel(n_jobs=n_jobs, prefer="threads")(delayed(lay_out)(*key) for key in keys)
    return dict(zip(keys, sets, strict=True))


def cross_fit(search, X, sets, folds, *, random_state=0, n_jobs=None):
    """Score every event, in every run, with a model that was trained, and chosen, without it.

    Parameters
    ----------
    search : GridSearchCV
    X : ndarray of shape (n_events, n_features)
    sets : dict of (int, int) to dict
        What :func:`training_sets` returns.
    folds : ndarray of int of shape (n_runs, n_events)
    random_state : int, default=0
        Run `r` is trained with the seed ``random_state + r``.
    n_jobs : int, default=None
        Number of threads; the result does not depend on it.

    Returns
    -------
    scores : ndarray of shape (n_runs, n_events)
    models : list of list of Pipeline
        One per run and fold.
    settings : list of dict
        What the searches chose, one per run and fold.
    """
    fitted = Parallel(n_jobs=n_jobs, prefer="threads")(
        delayed(_choose_and_fit)(search, arguments, random_state + run)
        for (run, _), arguments in sets.items()
    )
    scores, models = np.empty(folds.shape), [[] for _ in folds]
    for (run, k), (model, _) in zip(sets, fitted, strict=True):
        left_out = folds[run] == k
        scores[run, left_out] = model.decision_function(X[left_out])
        models[run].append(model)
    return scores, models, [settings for _, settings in fitted]


def _choose_and_fit(search, arguments, seed):
    """Train the best candidate of a search on the same events that it was chosen with."""
    search = sklearn.clone(search)
    seeds = {key: seed for key in search.estimator.get_params() if key.endswith("random_state")}
    search.estimator.set_params(**seeds)
    search.fit(**arguments)
    settings = {key: v for key, v in search.best_params_.items() if key != CALIBRATION}
    model = sklearn.clone(search.estimator).set_params(**settings)
    X, y, sample_weight = (arguments[name] for name in ("X", "y", "sample_weight"))
    return model.fit(X, y, sample_weight=sample_weight), settings


def explain(models, X, folds, weights):
    """Shapley values of the events of both lines, from the trees that have not seen them.

    Parameters
    ----------
    models : list of list of Pipeline
        One per run and fold. Scores are averaged over runs, and so are their Shapley values.
    X : ndarray of shape (n_events, n_features)
    folds : ndarray of int of shape (n_runs, n_events)
    weights : dict of str to ndarray

    Returns
    -------
    explanation : dict
        `values` and `data` of shape (n, n_features), `base` of shape (n,), `line` of shape (n,)
        (1 for the window of DEP, 0 for SEP), and `typical`: for both lines the event in its window
        with the median score.
    """
    rows = np.flatnonzero((weights["DEP"] > 0) | (weights["SEP"] > 0))
    values, base = np.zeros((len(rows), X.shape[1])), np.zeros(len(rows))
    for fold, of_run in zip(folds, models, strict=True):
        for k, model in enumerate(of_run):
            inside = fold[rows] == k
            bdt = model.named_steps["model"]
            values[inside] += bdt.shap_values(X[rows[inside]]) / len(folds)
            base[inside] += bdt.expected_value_ / len(folds)
    line = (weights["DEP"][rows] > 0).astype(int)
    score, typical = base + values.sum(axis=1), {}
    for name, label in (("DEP", 1), ("SEP", 0)):
        of_line = np.flatnonzero(line == label)
        middle = np.median(score[of_line])
        typical[name] = int(of_line[np.argmin(np.abs(score[of_line] - middle))])
    return {"values": values, "data": X[rows], "base": base, "line": line, "typical": typical}
