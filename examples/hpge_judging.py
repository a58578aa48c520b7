"""How well a cut or a model tells two lines apart, and how well that is known.

The cut that keeps 90 % of the double escape line is found on that line's own events: its survival
is 0.90 by construction. The other lines and the continuum do not set the cut, so that their
survival needs one threshold, from all events of the line, and no further split of the data: with
180 net events, thresholds from parts of them scatter over many standard deviations of A/E.

Three things make a result uncertain. The events are a sample; Poisson bootstrap replicas, in each
of which the threshold is found anew, show what this does to a survival or to a difference of two
methods on the same events. A training depends on its seed and on the partition into folds; several
runs show by how much. That the same few events have trained all of these runs is seen by neither.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from sknuc.metrics import acceptance_threshold

ACCEPTANCES = (0.8, 0.9)


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap replicas and its values in single runs of the training.

    Attributes
    ----------
    value : float
        Of the score that is averaged over the runs.
    replicas : ndarray of shape (n_bootstrap,)
    runs : ndarray of shape (n_runs,)
        Of the score of each run; one run for a method that is not trained.
    """

    value: float
    replicas: np.ndarray = field(repr=False)
    runs: np.ndarray = field(repr=False)

    @property
    def training_std(self) -> float:
        """Standard deviation of a single run, by its seed and its partition of the events."""
        return float(np.std(self.runs, ddof=1)) if len(self.runs) > 1 else 0.0

    @property
    def std(self) -> float:
        """Standard deviation by the sample of events and by the run of the training."""
        return float(np.hypot(np.std(self.replicas, ddof=1), self.training_std))

    def interval(self, confidence_level=0.68) -> tuple[float, float]:
        """Interval around the value.

        The replicas give the two sides their lengths, from their own median, as they are shifted
        when a threshold is an extreme quantile; each is lengthened in quadrature by the spread of
        the runs.

        Parameters
        ----------
        confidence_level : float, default=0.68

        Returns
        -------
        low, high : float
        """
        tail = (1 - confidence_level) / 2
        low, middle, high = np.quantile(self.replicas, [tail, 0.5, 1 - tail])
        training = -ndtri(tail) * self.training_std
        return (
            self.value - float(np.hypot(middle - low, training)),
            self.value + float(np.hypot(high - middle, training)),
        )

    def __sub__(self, other):
        """Difference on the same events, replica by replica and run by run."""
        return Estimate(
            self.value - other.value, self.replicas - other.replicas, self.runs - other.runs
        )

    def __str__(self):
        return with_interval(self.value, self.interval())


def with_interval(value, interval):
    """Write a value with the distances to the ends of its interval."""
    low, high = interval
    return f"{value:.3f} +{high - value:.3f} −{value - low:.3f}"


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


def survivals(score, weights, acceptance):
    """Find the threshold that keeps `acceptance` of the net DEP events; apply it to every region.

    Parameters
    ----------
    score : ndarray of shape (n_events,)
    weights : dict of str to ndarray of shape (n_events,)
        Signed weights that stand for each region, "DEP" among them.
    acceptance : float

    Returns
    -------
    threshold : float
    survival : dict of str to float
    """
    line = weights["DEP"] != 0
    threshold = acceptance_threshold(
        score[line], acceptance=acceptance, sample_weight=weights["DEP"][line]
    )
    passed = score >= threshold
    return threshold, {r: float(w[passed].sum() / w.sum()) for r, w in weights.items()}


def judge(runs, weights, *, n_bootstrap=1000, random_state=0):
    """Survival of every region under every method, and the area under its curve.

    Parameters
    ----------
    runs : dict of str to ndarray of shape (n_runs, n_events)
        The scores of every run of a method. Their mean is judged.
    weights : dict of str to ndarray of shape (n_events,)
        Signed weights that stand for each region, "DEP" and "SEP" among them.
    n_bootstrap : int, default=1000
        Poisson bootstrap replicas of the events.
    random_state : int, default=0

    Returns
    -------
    result : dict
        ``auc[method]`` and ``survival[acceptance][method][region]`` are of class
        :class:`Estimate`; ``threshold[acceptance][method]`` is a number.
    """
    used = np.flatnonzero(np.any([w != 0 for w in weights.values()], axis=0))
    w = {region: weight[used] for region, weight in weights.items()}
    runs = {method: np.atleast_2d(scores)[:, used] for method, scores in runs.items()}
    mean = {method: scores.mean(axis=0) for method, scores in runs.items()}

    rng = np.random.default_rng(random_state)
    auc = {method: [] for method in runs}
    survived = {a: {method: {r: [] for r in w} for method in runs} for a in ACCEPTANCES}
    for _ in range(n_bootstrap):
        n = rng.poisson(1.0, len(used))
        drawn = {region: weight * n for region, weight in w.items()}
        for method, score in mean.items():
            auc[method].append(net_auc(score, drawn["DEP"], drawn["SEP"]))
            for a in ACCEPTANCES:
                for region, fraction in survivals(score, drawn, a)[1].items():
                    survived[a][method][region].append(fraction)

    result = {"auc": {}, "survival": {}, "threshold": {}}
    for method, scores in runs.items():
        result["auc"][method] = Estimate(
            net_auc(mean[method], w["DEP"], w["SEP"]),
            np.array(auc[method]),
            np.array([net_auc(score, w["DEP"], w["SEP"]) for score in scores]),
        )
    for a in ACCEPTANCES:
        result["survival"][a], result["threshold"][a] = {}, {}
        for method, scores in runs.items():
            threshold, values = survivals(mean[method], w, a)
            single = [survivals(score, w, a)[1] for score in scores]
            result["threshold"][a][method] = threshold
            result["survival"][a][method] = {
                region: Estimate(
                    value,
                    np.array(survived[a][method][region]),
                    np.array([run[region] for run in single]),
                )
                for region, value in values.items()
            }
    return result


def differences(judged, method, reference="A/E"):
    """Compare two methods on the same events.

    Parameters
    ----------
    judged : dict
        What :func:`judge` returns.
    method, reference : str

    Yields
    ------
    what : str
    difference : Estimate
    verdict : str
        "better" or "worse" where 0 lies outside of the 95 % interval of the difference, else "not
        significantly".
    """
    auc = judged["auc"][method] - judged["auc"][reference]
    yield "AUC, DEP against SEP", auc, verdict(auc, better_is_higher=True)
    for acceptance, survival in judged["survival"].items():
        for region in survival[method]:
            if region in ("SEP", "FEP", "2039 ± 35 keV"):
                difference = survival[method][region] - survival[reference][region]
                what = f"{region} survival at {acceptance:.0%} DEP"
                yield what, difference, verdict(difference)


def verdict(difference, better_is_higher=False):
    """Say whether a difference is significant: 0 lies outside of its 95 % interval."""
    low, high = difference.interval(0.95)
    if low <= 0 <= high:
        return "not significantly"
    return "better" if (difference.value > 0) == better_is_higher else "worse"
