r"""Whether a classifier can tell generated events from true ones.

If no function of an event separates the two samples, they come from one distribution. A classifier
looks for the best such function on a part of the events and is judged on the rest, in turn for all
folds: the area under its ROC curve is the probability that a generated event looks more generated
than a true one, 1/2 if nothing can be told. For :math:`N(0, 1)` and :math:`N(\delta, 1)` the best
possible classifier reaches :math:`\Phi(\delta / \sqrt2)`.

*What chance does.* On held-out events, given a classifier, the area fluctuates around 1/2 with the
variance of Mann and Whitney, :math:`\sigma_0^2 = (1/n + 1/m) / 12`. The mean over folds fluctuates
more, since folds judge one another: what the events of fold k teach about those of fold l is what
those of l teach about those of k. For classifiers whose scores are sums of what single events teach
(linear ones, kernels, and about so boosted trees) the mean is :math:`\sum_{k \ne l} s_{kl}` with
:math:`s_{kl} = s_{lk}`, in which every term appears twice, so that the variance is
:math:`2\sigma_0^2`. Intervals that miss this factor exclude 1/2 far too often: one of 95 % holds
83 % of samples that are alike. Weighted events count with Kish's number,
:math:`(\sum w)^2 / \sum w^2`. Equal scores, as those of all events without a signal, cannot be put
in a wrong order: where shares :math:`p_t` of the events have the same ones,
:math:`1 - \sum_t p_t^3` of the variance remains. Of events that know each other, as copies do and
several of one condition, the sums of their shares in the area scatter, not each share for itself.
"""

from numbers import Integral
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import PredefinedSplit, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_random_state
from sklearn.utils._param_validation import HasMethods, validate_params
from sklearn.utils.validation import has_fit_parameter

from sknuc.metrics._intervals import CONFIDENCE
from sknuc.metrics._sample_conditions import check_lengths, encode_conditions
from sknuc.metrics._sample_validation import TWO_SAMPLES, check_two_samples
from sknuc.metrics._score_validation import kish_number
from sknuc.multiplicity import group_identical

__all__ = ["TwoSampleAUC", "two_sample_auc"]

# Numbers that more events have than so many times the square root of all events are in all folds:
# a few beam energies, of which the trees that never saw one could not judge it.
_MOST_WHOLE = 2


class TwoSampleAUC(NamedTuple):
    """How well a classifier tells two samples apart."""

    #: Area under the ROC curve on held-out events; 0.5 if it cannot, 1 if it always can.
    auc: float
    #: Standard deviation of `auc` from the number of events.
    error: float
    #: What chance does to samples of one distribution, at the confidence level.
    null_interval: tuple[float, float]
    #: Probability of at least `auc` if the samples come from one distribution.
    p_value: float


@validate_params(
    {
        **TWO_SAMPLES,
        "y_true": ["array-like", None],
        "y_generated": ["array-like", None],
        "classifier": [HasMethods(["fit", "predict"]), None],
        "cv": ["cv_object"],
        "confidence_level": CONFIDENCE["confidence_level"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def two_sample_auc(
    X_true,
    X_generated,
    *,
    y_true=None,
    y_generated=None,
    classifier=None,
    cv=5,
    weight_true=None,
    weight_generated=None,
    confidence_level=0.95,
    random_state=0,
):
    r"""Compute how well a cross-fitted classifier tells generated events from true ones.

    Parameters
    ----------
    X_true, X_generated : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The two samples.
    y_true, y_generated : array-like of shape (n_events,) or (n_events, n_conditions), default=None
        Conditions, such as a class or the energy, of both or neither: the classifier sees them, as
        events must be right given their conditions, and not only on average over them. Labels and
        integers are classes, 100 at most, of which true events have all; floats are numbers, and so
        are integers if those of the other sample are floats. Columns of a data frame may be
        of different kinds.
    classifier : classifier, default=None
        Any classifier with ``predict_proba`` or ``decision_function``, also in a Pipeline. None for
        :class:`~sklearn.ensemble.HistGradientBoostingClassifier` without early stopping.
    cv : int or cross-validation generator, default=5
        Number of folds, of both samples in proportion, or a splitter of two classes that tests
        every event once, with events of both samples in every fold. See Notes for what the folds of
        a number keep together.
    weight_true, weight_generated : array-like of shape (n_events,), default=None
        Non-negative weights; only their ratios within a sample matter. An event of any weight is in
        one fold, and a sample counts as Kish's number of events. The classifier must accept
        ``sample_weight`` if one is given, and sees either sample with the same total weight.
    confidence_level : float, default=0.95
        Of `null_interval`.
    random_state : int, RandomState instance or None, default=0
        Determines the folds and the default classifier.

    Returns
    -------
    result : TwoSampleAUC
        With `auc`, the mean over folds, its `error` (DeLong; up to :math:`\sqrt2` too large where
        folds hold single events), `null_interval`, in which `auc` lies with the probability
        `confidence_level` if the samples come from one distribution, and `p_value`.

    Raises
    ------
    ValueError
        If shapes do not fit, a value is not finite, a sample has fewer events than there are folds,
        a splitter leaves out or repeats events or has folds without one of the samples, a weight is
        negative, or the classifier takes no weights or gives no scores. If conditions are those of
        one sample only, of another number of events or columns, missing, numbers in one sample and
        labels in the other, of a class that no true event has, or of more than 100 classes.

    Notes
    -----
    The area is that of this classifier: a better one may still tell the samples apart.

    With a number of folds, copies of an event go to the same one, so that nobody recognises them: a
    generator that repeats true events reaches 0.5. What has more copies in both samples together
    than there are folds is a value that events share: empty events, exact zeros, small counts, or
    the mode to which a generator collapsed. It is in all folds, and judged by how frequent it is.
    That takes true events which the generator has not seen: of an event that comes once there, and
    is generated often, all others are generated ones, and the area falls far below 0.5.

    Events of one condition go to the same fold, too, if few have it: no more of all n events than
    there are folds, or, if it is a number, than the smaller of :math:`2\sqrt n` and the mean size
    of a fold, as the energy of a true event is for which one or a hundred were generated. Else a
    classifier learns from some of them whether this energy is that of more true or of more
    generated events, and finds the opposite in those that are left: the area falls below 0.5.

    Classes, and a few beam energies, are in all folds, as what is wrong with one of them is
    not seen in others. Where both samples have them in the same proportions, so has every fold.
    Where these differ as they do between independent samples, or by more, which is a fault, the
    folds are dealt by chance. In between, as where the classes of generated events are drawn one by
    one from the true ones, it would mislead as above: a linear classifier that k classes tell
    apart would fall below 0.5 by :math:`\sqrt{(k - 1) / 2}\;m / (n + m)` standard deviations of
    the null interval, for n true and m generated events. Instead every class is dealt in
    proportion with the probability that chi-square of the proportions lacks, per degree of freedom,
    of 1. Of independent samples, whose chi-square is below that as often as above, only what is
    above is left then: areas below 0.5 are rarer than the interval says, and the mean is above by
    0.4 standard deviations at the most. Proportions that weights make are the same in every fold
    only up to single weights: the area is too low where a class has few events of very different
    ones.

    Events of one fold that know each other are alike: the error and the null interval are wider by
    what their sums scatter more than those of as many independent events.

    References
    ----------
    .. [1] D. Lopez-Paz and M. Oquab, "Revisiting classifier two-sample tests", ICLR (2017),
       arXiv:1610.06545.
    .. [2] E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or
       more correlated receiver operating characteristic curves", Biometrics 44 (1988) 837.
    .. [3] C. Krause and D. Shih, "CaloFlow: fast and accurate generation of calorimeter showers
       with normalizing flows", Phys. Rev. D 107 (2023) 113003, arXiv:2106.05285.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sknuc.metrics import two_sample_auc
    >>> rng = np.random.default_rng(0)
    >>> true, shifted = rng.normal(size=(2000, 1)), rng.normal(1.0, size=(2000, 1))
    >>> result = two_sample_auc(true, shifted, classifier=LogisticRegression())
    >>> print(f"{result.auc:.2f} ± {result.error:.2f}")  # Phi(1 / sqrt(2)) = 0.76
    0.76 ± 0.01
    """
    weighted = weight_true is not None or weight_generated is not None
    conditional = y_true is not None or y_generated is not None
    if conditional:
        check_lengths((y_true, y_generated), (X_true, X_generated))
    weights = weight_true, weight_generated
    X_true, X_generated, w_true, w_generated = check_two_samples(X_true, X_generated, *weights)
    rng = check_random_state(random_state)
    X = np.concatenate([X_true, X_generated])
    conditions, between = None, False
    if conditional:
        given = (y_true, y_generated)
        used = (_of_weight(*pair) for pair in zip(given, weights, strict=True))
        *conditions, between = encode_conditions(*used)
        conditions = np.concatenate(conditions)
        X = np.hstack([X, conditions])
    y = np.repeat([0, 1], [len(X_true), len(X_generated)])
    # Each event's share of its sample, times the mean size of the samples.
    weight = np.concatenate([w_true / w_true.sum(), w_generated / w_generated.sum()]) * len(y) / 2
    if classifier is None:
        classifier = HistGradientBoostingClassifier(
            early_stopping=False, random_state=rng.randint(2**31)
        )
    cv, group = 5 if cv is None else cv, np.arange(len(X))
    if isinstance(cv, Integral):
        smallest = min(len(X_true), len(X_generated))
        if not 2 <= cv <= smallest:
            raise ValueError(
                "The 'cv' parameter of two_sample_auc must be from 2 to the number of events of "
                f"the smaller sample, {smallest}. Got {cv} instead."
            )
        fold, group = _deal(X, y, weight, cv, rng, conditions, between)
        cv = PredefinedSplit(fold)
    fit_params = _fit_weights(classifier, weight) if weighted else {}
    splits = list(check_cv(cv, y, classifier=True).split(X, y))
    _check_splits(splits, y)
    areas, chances, placements = [], [], []
    for train, test in splits:
        part = {name: values[train] for name, values in fit_params.items()}
        fitted = clone(classifier).fit(X[train], y[train], **part)
        score, is_true, w = _scores(fitted, X[test]), y[test] == 0, weight[test]
        area, chance, placed = _judge(score[is_true], score[~is_true], w[is_true], w[~is_true])
        areas.append(area)
        chances.append(chance)
        placements.append(placed)
    auc = float(np.mean(areas))
    share, placement = np.concatenate(placements, axis=1)
    away = share * (placement - auc)
    tests = np.concatenate([np.concatenate([t[y[t] == 0], t[y[t] == 1]]) for _, t in splits])
    stretch = _stretch(away, group[tests])
    std = stretch * np.sqrt(2 * np.sum(chances)) / len(splits)
    half = float(ndtri((1 + confidence_level) / 2) * std)
    return TwoSampleAUC(
        auc=auc,
        error=float(stretch * np.linalg.norm(away) / len(splits)),
        null_interval=(0.5 - half, 0.5 + half),
        p_value=float(ndtr((0.5 - auc) / std)),
    )


def _stretch(away, group):
    """How many times wider the area scatters, since events of a group are alike; 1 at least."""
    total = np.sum(away**2)
    return max(1.0, np.sqrt(np.sum(np.bincount(group, away) ** 2) / total)) if total else 1.0


def _of_weight(conditions, weight):
    """Conditions of the events that are there."""
    if weight is None:
        return conditions
    return _safe_indexing(conditions, np.flatnonzero(weight))


def _deal(X, y, weight, n_folds, rng, conditions, between):
    """Fold of every event, of both samples in proportion, with those that know each other in one.

    These are copies of an event, and events of a condition that few have. Those of a condition that
    many have are dealt evenly as far as both samples have it more alike than chance makes it.

    Returns
    -------
    fold, group : ndarray of int of shape (n_events,)
    """
    _, group = group_identical(X)
    # What has more copies than there are folds is a value that events share: it is in every fold.
    shared = np.bincount(group)[group] > n_folds
    group = np.where(shared, 2 * len(X) + np.arange(len(X)), group)
    stratum = np.zeros(len(X), dtype=np.intp)
    if conditions is not None:
        _, given = group_identical(conditions)
        most = n_folds
        if between:
            most = max(most, min(_MOST_WHOLE * len(X) ** 0.5, len(X) / n_folds))
        whole = np.bincount(given)[given] <= most
        group = np.where(whole, len(X) + given, group)
        stratum = np.where(whole, 0, 1 + given)
        # How many events of a condition a fold has tells what the others lack of it. That is right
        # only where the total is not known beforehand, but what chance makes of it.
        share = _share_of_chance(stratum, y, weight)
        stratum = np.where(rng.uniform(size=len(X) + 1)[stratum] < share, 0, stratum)
    _, first, group = np.unique(group, return_index=True, return_inverse=True)
    if min(len(np.unique(group[y == label])) for label in (0, 1)) < n_folds:
        first = group = np.arange(len(X))
    n_groups = len(first)
    in_true, in_generated = (np.bincount(group[y == k], minlength=n_groups) > 0 for k in (0, 1))
    # What both samples have comes between what one of them has: either is a run, dealt evenly.
    runs = 1 + in_generated - in_true.astype(int)
    stratum = stratum[first]
    # Neighbours are of about the same weight where folds are to have the same.
    heavy = np.where(stratum == 0, 0, weight[first])
    order = np.lexsort((rng.permutation(n_groups), heavy, stratum, runs))
    line = np.empty(n_groups, dtype=np.intp)
    line[order] = np.arange(n_groups)
    fold = _deal_alike(line, runs, stratum) % n_folds
    if min(len(np.unique(fold[group[y == label]])) for label in (0, 1)) < n_folds:
        fold = line % n_folds
    return fold[group], group


def _deal_alike(line, runs, stratum):
    """Places in turn, at which both samples have events of a stratum in proportion.

    Of the sample with fewer events of a stratum each takes the next place, and those of the other
    one share these places. In stratum 0, and with what both samples have, runs follow one another.

    Parameters
    ----------
    line : ndarray of int of shape (n_groups,)
        Places in the order of runs, and of strata in each.
    runs : ndarray of int of shape (n_groups,)
        0 for true events, 2 for generated ones, 1 for what both samples have.
    stratum : ndarray of int of shape (n_groups,)

    Returns
    -------
    place : ndarray of int of shape (n_groups,)
    """
    n = np.bincount(3 * stratum + runs, minlength=3 * (stratum.max() + 1)).reshape(-1, 3)
    before = np.cumsum(n, axis=0) - n + (np.cumsum(n.sum(axis=0)) - n.sum(axis=0))
    rank = line - before[stratum, runs]
    places = n.copy()
    fewer = n[1:, ::2].min(axis=1)
    places[1:, ::2] = np.where(fewer > 0, fewer, n[1:, ::2].max(axis=1))[:, None]
    start = np.zeros_like(n)
    start[0] = np.cumsum(n[0]) - n[0]
    start[1:] = (n[0, 0] + np.cumsum(places[1:, 0]) - places[1:, 0])[:, None]
    return start[stratum, runs] + rank * places[stratum, runs] // n[stratum, runs]


def _share_of_chance(stratum, y, weight):
    """The variance between the proportions of two samples, in units of that by chance; 1 at most.

    It is chi-square per degree of freedom: 0 for the same proportions, 1 for independent samples.
    """
    _, stratum = np.unique(stratum, return_inverse=True)
    n_free = stratum.max()
    # Both samples have the same sum of weights.
    share = np.where(y == 1, weight, -weight)
    chi2 = np.sum(np.bincount(stratum, share) ** 2 / np.bincount(stratum, share**2))
    return min(1.0, chi2 / n_free) if n_free else 1.0


def _check_splits(splits, y):
    """Refuse what would be judged on a part of the events, or twice on some."""
    tests = np.bincount(np.concatenate([test for _, test in splits]), minlength=len(y))
    classes = min(len(np.unique(y[part])) for split in splits for part in split)
    if not np.all(tests == 1) or classes < 2:
        raise ValueError(
            "The 'cv' parameter of two_sample_auc must test every event once, and have events of "
            "both samples in every training and test fold, as StratifiedKFold does. Got "
            + ("a fold without one of them." if classes < 2 else "")
            + (f"{tests.min()} to {tests.max()} tests of an event." if classes == 2 else "")
        )


def _fit_weights(classifier, weight):
    """The weights as the classifier's ``fit`` takes them."""
    names, step = [], classifier
    while isinstance(step, Pipeline):
        name, step = step.steps[-1]
        names.append(name)
    if not has_fit_parameter(step, "sample_weight"):
        raise ValueError(
            "The 'classifier' parameter of two_sample_auc must accept sample_weight in fit when "
            f"events have weights. {type(step).__name__} does not."
        )
    return {"__".join([*names, "sample_weight"]): weight}


def _scores(classifier, X):
    """How generated events look, higher for more."""
    for name in ("decision_function", "predict_proba"):
        if hasattr(classifier, name):
            scores = np.asarray(getattr(classifier, name)(X))
            return scores if scores.ndim == 1 else scores[:, 1]
    raise ValueError(
        "The 'classifier' parameter of two_sample_auc must have decision_function or "
        f"predict_proba. {type(classifier).__name__} has neither."
    )


def _judge(true, generated, w_true, w_generated):
    """Area under the ROC curve, its variance by chance, and shares and placements of all events."""
    w_true, w_generated = w_true / w_true.sum(), w_generated / w_generated.sum()
    # The placements: of each event the share of the other sample on its right side, ties half.
    below = _share_below(generated, true, w_true)
    above = 1 - _share_below(true, generated, w_generated)
    share = np.concatenate([w_true, w_generated])
    _, tied = np.unique(np.concatenate([true, generated]), return_inverse=True)
    ties = (np.bincount(tied, weights=share / 2) ** 3).sum() - ((share / 2) ** 3).sum()
    n, m = kish_number(w_true), kish_number(w_generated)
    chance = (1 / n + 1 / m + 1 / (n * m)) / 12 * (1 - ties)
    return w_generated @ below, chance, np.stack([share, np.concatenate([above, below])])


def _share_below(points, others, weight):
    order = np.argsort(others)
    edges = np.append(0.0, np.cumsum(weight[order]))
    low, high = (np.searchsorted(others[order], points, side=side) for side in ("left", "right"))
    return (edges[low] + edges[high]) / (2 * edges[-1])
