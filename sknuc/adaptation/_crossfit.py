"""Classifiers that judge the events of a fold, and have learnt from all others.

What a classifier says of events that it has learnt from is too good to be true: one that memorises
is sure of all of them. So every event is judged by a model that has not seen it, nor its copies.
Which events are copies, and which rows are values that many events share and have to be divided,
:mod:`sknuc.multiplicity` tells; rows come merged from there, in an order of their own.
"""

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import check_cv
from sklearn.model_selection._split import _CVIterableWrapper
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest, _routing_enabled
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter

from sknuc.multiplicity import count_pieces, deal_folds, group_identical

__all__ = [
    "boosted_trees",
    "class_probabilities",
    "deal_shares",
    "fit_folds",
    "split_shares",
    "takes_weights",
]


def boosted_trees(n_events):
    """Small trees, as differences of domains are smooth, with smaller leaves of few events."""
    least = int(np.clip(n_events // 20, 1, 20))
    return HistGradientBoostingClassifier(
        learning_rate=0.15,
        max_iter=60,
        max_leaf_nodes=8,
        min_samples_leaf=least,
        early_stopping=False,
    )


def deal_shares(X, y, strata, weight, sample_weight, n_folds, rng):
    """Tell which share of every row is in which fold.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        Merged rows.
    y : ndarray of shape (n_rows,)
        Labels, as numbers.
    strata : ndarray of shape (n_rows,)
        Numbers; rows of one are spread over the folds, and those of the next go on from there.
    weight : ndarray of shape (n_rows,)
    sample_weight : ndarray of shape (n_events,) or None
        Before rows were merged.
    n_folds : int
    rng : RandomState instance

    Returns
    -------
    shares : ndarray of shape (n_folds, n_rows)
        Of a row 0 or 1, and for rows of one x the same, unless more events than there are folds
        share its value. At most `n_folds` of them, and none is empty.
    """
    pieces = count_pieces(X, weight, sample_weight, y)
    # What comes with several labels is one event all the same to who may not have seen it.
    _, group = group_identical(X)
    divided = (pieces > 1) & (np.bincount(group, weights=pieces)[group] > n_folds)
    group = np.where(divided, len(X) + np.arange(len(X)), group)
    _, group = np.unique(group, return_inverse=True)
    pieces = np.where(divided, pieces, 1)
    n_rows = np.bincount(group)
    # What has several strata comes between them, so that the rows of either are a run.
    middle = np.bincount(group, weights=strata) / n_rows
    _, stratum = np.unique(middle, return_inverse=True)
    in_group = np.zeros(len(n_rows), dtype=np.intp)
    in_group[group] = pieces
    counts = deal_folds(in_group, stratum, n_folds, rng)
    shares = (counts / in_group)[:, group]
    return shares[shares.any(axis=1)]


def split_shares(cv, X, y, weight, present):
    """Tell which share of every merged row a splitter tests in which fold.

    Parameters
    ----------
    cv : cross-validation generator or iterable
        Must test every event once.
    X : ndarray of shape (n_events, n_features)
        Events with a weight, before they are merged.
    y : ndarray of shape (n_events,)
        Labels, as numbers.
    weight : ndarray of shape (n_events,) or None
    present : ndarray of bool of shape (n_all,) or (1,)
        Which events of ``fit`` these are, or that all are: an iterable counts those without a
        weight, too.

    Returns
    -------
    shares : ndarray of shape (n_folds, n_rows)
        Of the rows of :func:`sknuc.multiplicity.merge_identical`.
    """
    splitter = check_cv(cv)
    iterable = isinstance(splitter, _CVIterableWrapper)
    present = np.ones(len(X), dtype=bool) if present.all() else present
    n_events = len(present) if iterable else len(X)
    fold, n_tests = np.zeros((2, n_events), dtype=np.intp)
    for k, (_, test) in enumerate(splitter.split(X, y)):
        fold[test] = k
        n_tests += np.bincount(np.arange(n_events)[test], minlength=n_events)
    if iterable:
        fold, n_tests = fold[present], n_tests[present]
    if (n_tests != 1).any():
        raise ValueError(
            "The 'cv' parameter must test every event once, as KFold does. Got "
            f"{n_tests.min()} to {n_tests.max()} tests of an event."
        )
    _, row = group_identical(X, y)
    weight = np.ones(len(X)) if weight is None else weight
    size = np.abs(weight)
    shares = [np.bincount(row, weights=size * (fold == k)) for k in range(fold.max() + 1)]
    shares = np.array(shares) / np.bincount(row, weights=size)
    shares = shares[:, np.bincount(row, weights=weight) != 0]
    return shares[shares.any(axis=1)]


def fit_folds(estimator, X, y, weight, shares, rng, *, balanced=False, n_jobs=None):
    """Fit a clone of a classifier to all that is not in a fold, for every fold.

    Parameters
    ----------
    estimator : classifier
        Not fitted; must have ``predict_proba``.
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of int of shape (n_rows,)
    weight : ndarray of shape (n_rows,)
        Positive.
    shares : ndarray of shape (n_folds, n_rows)
        From :func:`deal_shares`.
    rng : RandomState instance
        Seeds what the user has left without a seed.
    balanced : bool, default=False
        Whether classes shall have the same total weight in every fit, if the classifier takes
        weights.
    n_jobs : int or None, default=None

    Returns
    -------
    models : list of estimator
        One for each fold.

    Raises
    ------
    ValueError
        If a fold leaves only one class, or weights are given to what takes none.
    """
    seeds = rng.randint(np.iinfo(np.int32).max, size=len(shares))
    tasks = (
        delayed(_fit)(_seeded(estimator, seed), X, y, weight * (1 - share), balanced)
        for share, seed in zip(shares, seeds, strict=True)
    )
    return Parallel(n_jobs=n_jobs)(tasks)


def _fit(estimator, X, y, weight, balanced):
    used = weight > 0
    n_rows = np.bincount(y)
    X, y, weight = X[used], y[used], weight[used]
    if y.size == 0 or y.min() == y.max():
        raise ValueError(
            "The 'cv' parameter must leave events of two classes at least to learn from without "
            f"each fold. Got a fold that has all of a class, of {n_rows.tolist()} different events "
            "of the classes: give more of the rarest, two at least, and let folds be stratified."
        )
    if not takes_weights(estimator):
        copies = np.rint(weight).astype(np.intp)
        if not np.allclose(copies, weight, rtol=1e-9, atol=0):
            raise ValueError(
                "The 'estimator' parameter must accept sample_weight in fit when events have "
                f"weights. {type(estimator).__name__} does not."
            )
        X, y = np.repeat(X, copies, axis=0), np.repeat(y, copies)
        return estimator.fit(X, y)
    if balanced:
        weight = weight / np.bincount(y, weights=weight)[y]
    # Of the mean 1, whatever unit weights have: penalties and leaves are for events.
    return _fit_weighted(estimator, X, y, weight * (len(y) / weight.sum()))


def takes_weights(estimator):
    """Whether ``fit`` of a classifier, or of the last step of a pipeline, takes weights."""
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return has_fit_parameter(estimator, "sample_weight")


def _fit_weighted(estimator, X, y, weight):
    """Give weights to the last step of a pipeline."""
    if isinstance(estimator, Pipeline) and _routing_enabled():
        _request_weights(estimator)
    name, step = "sample_weight", estimator
    if not _routing_enabled():
        names = []
        while isinstance(step, Pipeline):
            part, step = step.steps[-1]
            names.append(part)
        name = "__".join([*names, name])
    return estimator.fit(X, y, **{name: weight})


def _request_weights(estimator, wanted=True):
    """Request weights for the last step of a pipeline alone, where the user has said nothing."""
    if isinstance(estimator, Pipeline):
        *others, last = (step for _, step in estimator.steps)
        _request_weights(last, wanted)
        for step in others:
            _request_weights(step, False)
    elif hasattr(estimator, "set_fit_request"):
        request = estimator.get_metadata_routing()
        if isinstance(request, MetadataRequest) and "sample_weight" in request.fit.requests:
            said = request.fit.requests["sample_weight"]
            estimator.set_fit_request(sample_weight=wanted if said is None else said)


def _seeded(estimator, seed):
    """Return a clone with seeds for what the user has left without one."""
    copy, rng = clone(estimator), np.random.RandomState(seed)
    copy.set_params(
        **{
            name: rng.randint(np.iinfo(np.int32).max)
            for name, value in sorted(copy.get_params().items())
            if value is None and name.split("__")[-1] == "random_state"
        }
    )
    return copy


def class_probabilities(model, X, n_classes):
    """Return probabilities of the labels 0, 1, ..., those that a model does not know with zero."""
    known = np.asarray(model.predict_proba(X), dtype=np.float64)
    proba = np.zeros((len(known), n_classes))
    proba[:, model.classes_] = known
    return proba


def out_of_fold(shares):
    """Return which rows the model of which fold judges, and which share of them.

    Parameters
    ----------
    shares : ndarray of shape (n_folds, n_rows)

    Returns
    -------
    parts : list of (rows, share)
        For every fold, integers and numbers in (0, 1].
    """
    return [(rows := np.flatnonzero(share), share[rows]) for share in shares]
