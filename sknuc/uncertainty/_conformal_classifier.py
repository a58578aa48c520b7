r"""Conformal classification: sets of classes that hold the true one with a chosen probability.

A score s(x, y) says how little class y suits event x. The scores of n calibration events with their
true classes and that of a new event are in random order, so that

.. math:: p(x, y) = \frac{w(x) + \sum_i w_i\,[\,s_i \geq s(x, y)\,]}{w(x) + \sum_i w_i}

is a p-value of the hypothesis that the class is y, and the classes with p > 1 - c hold the true one
with a probability of at least c, whatever the classifier [1]_.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.base import _fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sknuc.base import EnsembleClassifierMixin, check_coverage, encode_labels, validate_labels
from sknuc.uncertainty._conformal_base import BaseConformal, check_weights, weighted_pipeline
from sknuc.uncertainty._conformal_predictive import needed
from sknuc.uncertainty._event_draws import event_uniforms

__all__ = ["ConformalClassifier"]


class ConformalClassifier(EnsembleClassifierMixin, BaseConformal):
    r"""Sets of classes that hold the true one, around any classifier with probabilities.

    The classifier is fitted without some events, which then show how much probability it leaves to
    the true class. With the probabilities :math:`\pi_1\geq\pi_2\geq\dots` of the classes in their
    order, class y of rank o has the score

    ====== ==================================================================== ==================
    score  :math:`s(x, y)`                                                      sets
    ====== ==================================================================== ==================
    "lac"  :math:`1-\pi_o`                                                      smallest on average
    "aps"  :math:`\pi_1+\dots+\pi_o`                                            fair to hard events
    "raps" :math:`\pi_1+\dots+\pi_o+\lambda\,\max(o-k,0)`                       "aps" without tails
    ====== ==================================================================== ==================

    [1]_, [2]_, [3]_. Sets of "lac" may be empty: no class suits the event. With one classifier
    (``cv="split"`` or a ``FrozenEstimator``) a set of coverage c holds the true class with a
    probability of at least c; with folds, every calibration event is compared by the classifier
    that has not seen it [2]_, the bound is 1 - 2(1 - c) and the practice about c.

    Parameters
    ----------
    estimator : classifier or None, default=None
        What predicts probabilities; None for a :class:`sklearn.linear_model.LogisticRegression` of
        standardised features. It gets X as it comes. A :class:`sklearn.frozen.FrozenEstimator` is
        not fitted any more, and all events of ``fit`` calibrate.
    conformity_score : {"lac", "aps", "raps"}, default="lac"
        See above.
    randomized : bool, default=False
        Of "aps" and "raps", whether to subtract a random part :math:`u\,\pi_o`, u uniform: the
        coverage is then c and not more, but the set of an event depends on a draw. In prediction u
        follows from the event and seeds, and so is the same in whatever company it comes.
    penalty : float, default=0.01
        Of "raps", :math:`\lambda`.
    n_free : int, default=1
        Of "raps", the number k of classes without penalty.
    class_conditional : bool, default=False
        Whether each class is calibrated by itself, so that the events of each class, also a rare
        one, are covered.
    cv : int, "split", cross-validation generator, iterable or None, default=5
        Which events calibrate. "split" holds out `calibration_fraction` of them and fits once; an
        int is a number of folds, shuffled and stratified, or of whole groups where groups are
        given; None is 5.
    calibration_fraction : float, default=0.25
        The fraction of events, or of groups, that is held out by ``cv="split"``.
    mondrian : callable, str, int or None, default=None
        Categories that are calibrated each by itself: the name or the index of a column, or a
        function from events to one category per event.
    density_ratio : callable, classifier or None, default=None
        The ratio w(x) of the density of the events to come to that of the events in ``fit``, up to
        a factor: a function from events to ratios, or a fitted classifier whose ``predict_proba``
        tells the events to come (second class) from those in ``fit`` (first class), wrapped in
        ``FrozenEstimator``, so that clones keep it fitted.
    random_state : int, RandomState instance or None, default=None
        Seed of the splits, of `randomized` calibration scores, and of the estimator where that has
        been left without one.
    n_jobs : int or None, default=None
        The number of folds that are fitted at a time.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    estimators_ : list of estimator
        One for each fold.
    calibration_indices_ : ndarray of shape (n_calibration,)
        The events in ``fit`` that calibrate.
    calibration_scores_ : ndarray of shape (n_calibration,)
        Their scores.
    calibration_weights_ : ndarray of shape (n_calibration,)
        Their weights, where a new event has 1, or its density ratio.
    categories_ : ndarray of shape (n_categories,)
        The categories, with `mondrian`.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of features, where `X` is a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    ConformalRegressor : Intervals for numbers.

    Notes
    -----
    Probabilities are the mean over the classifiers of the folds, and ``predict_uncertainty`` tells
    by how much these differ; calibration does not change them. Groups, weights and the shift
    between simulation and data are those of :class:`ConformalRegressor`.

    References
    ----------
    .. [1] M. Sadinle, J. Lei and L. Wasserman, "Least ambiguous set-valued classifiers with bounded
           error levels", JASA 114 (2019) 223, arXiv:1609.00451.
    .. [2] Y. Romano, M. Sesia and E. Candès, "Classification with valid and adaptive coverage",
           NeurIPS 2020, arXiv:2006.02544.
    .. [3] A. Angelopoulos et al., "Uncertainty sets for image classifiers using conformal
           prediction", ICLR 2021, arXiv:2009.14193.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.uncertainty import ConformalClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.choice(["alpha", "beta", "gamma"], 3000)
    >>> shift = {"alpha": (0, 0), "beta": (2, 0), "gamma": (0, 2)}
    >>> X = rng.normal(size=(3000, 2)) + [shift[label] for label in y]
    >>> model = ConformalClassifier(random_state=0).fit(X[:1500], y[:1500])
    >>> sets = model.predict_set(X[1500:], coverage=0.95)
    >>> sets.shape
    (1500, 3)
    >>> held = sets[np.arange(1500), np.searchsorted(model.classes_, y[1500:])]
    >>> bool(abs(held.mean() - 0.95) < 0.02)
    True
    """

    _parameter_constraints: dict = {
        **BaseConformal._parameter_constraints,
        "conformity_score": [StrOptions({"lac", "aps", "raps"})],
        "randomized": ["boolean"],
        "penalty": [Interval(Real, 0, None, closed="left")],
        "n_free": [Interval(Integral, 0, None, closed="left")],
        "class_conditional": ["boolean"],
    }
    _stratified = True

    def __init__(
        self,
        estimator=None,
        *,
        conformity_score="lac",
        randomized=False,
        penalty=0.01,
        n_free=1,
        class_conditional=False,
        cv=5,
        calibration_fraction=0.25,
        mondrian=None,
        density_ratio=None,
        random_state=None,
        n_jobs=None,
    ):
        self.estimator = estimator
        self.conformity_score = conformity_score
        self.randomized = randomized
        self.penalty = penalty
        self.n_free = n_free
        self.class_conditional = class_conditional
        self.cv = cv
        self.calibration_fraction = calibration_fraction
        self.mondrian = mondrian
        self.density_ratio = density_ratio
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _default_estimator(self):
        return weighted_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky"))

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, groups=None, **fit_params):
        """Fit the classifier without each fold, and calibrate it with the fold.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events, or what else the classifier takes.
        y : array-like of shape (n_events,)
            The labels.
        sample_weight : array-like of shape (n_events,) or None, default=None
            The weights of events, for the classifier and for the calibration; 2 is the event twice.
        groups : array-like of shape (n_events,) or None, default=None
            The group of every event, where new events are of new groups.
        **fit_params : dict
            For the classifier's ``fit``, or routed as metadata.

        Returns
        -------
        self : ConformalClassifier

        Raises
        ------
        ValueError
            If folds overlap, `groups` are divided by a split, or there is one class only.
        """
        if not hasattr(self._get_estimator(), "predict_proba"):
            raise ValueError(
                "The 'estimator' parameter of ConformalClassifier must have predict_proba. Got "
                f"{type(self._get_estimator()).__name__} instead."
            )
        X = self._validate_events(X, reset=True)
        y = validate_labels(y, self)
        check_consistent_length(np.empty(X.shape[0]), y)
        sample_weight = check_weights(sample_weight, X)
        present = slice(None) if sample_weight is None else sample_weight > 0
        self.classes_, _ = encode_labels(self, y[present])
        codes = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        responses, self._folds = self._fit_folds(
            X, y, sample_weight, groups, fit_params, self._respond
        )
        codes = codes[self.calibration_indices_]
        proba = np.concatenate([response for (response,) in responses])
        draws = None
        if self.randomized:
            rng = check_random_state(self.random_state)
            draws = rng.uniform(size=(len(proba), 1))
            self._draw_seed = rng.randint(2**31 - 1)
        self.calibration_scores_ = self._scores(proba, draws)[np.arange(len(codes)), codes]
        totals = np.bincount(self._folds, self._weights * self._ratios)
        self._shares = totals / totals.sum()
        # Of every category, and of every class where each is calibrated by itself.
        self._tables = {}
        for category in range(self._codes.max() + 1):
            for code in range(len(self.classes_) if self.class_conditional else 1):
                chosen = self._codes == category
                where = (
                    ""
                    if self.mondrian is None
                    else f" of category {self.categories_.tolist()[category]!r}"
                )
                if self.class_conditional:
                    chosen &= codes == code
                    where += f" of class {self.classes_.tolist()[code]!r}"
                self._tables[category, code] = self._table(np.flatnonzero(chosen), where)
        return self

    def _respond(self, estimator, X, X_train, y_train, sample_weight):
        return (self._probabilities(estimator, X),)

    def _probabilities(self, estimator, X):
        """Return the probabilities in the order of `classes_`; 0 of classes without an event."""
        proba = np.asarray(estimator.predict_proba(X), dtype=np.float64)
        unknown = np.setdiff1d(estimator.classes_, self.classes_)
        if len(unknown):
            raise ValueError(
                f"The estimator knows the classes {unknown.tolist()}, of which there is no event "
                "to calibrate with."
            )
        whole = np.zeros((len(proba), len(self.classes_)))
        whole[:, np.searchsorted(self.classes_, estimator.classes_)] = proba
        return whole

    def _scores(self, proba, draws):
        """Return the scores of all classes, (n, n_classes)."""
        if self.conformity_score == "lac":
            return 1 - proba
        order = np.argsort(-proba, axis=1, kind="stable")
        summed = np.take_along_axis(proba, order, axis=1).cumsum(1)
        if self.conformity_score == "raps":
            rank = np.arange(1, proba.shape[1] + 1)
            summed += self.penalty * np.maximum(rank - self.n_free, 0)
        scores = np.empty_like(proba)
        np.put_along_axis(scores, order, summed, axis=1)
        return scores if draws is None else scores - draws * proba

    def _table(self, chosen, where):
        """Sorted scores of the chosen events and their weights from there upwards, by fold."""
        if not len(chosen):
            raise ValueError(
                f"There are no calibration events{where}. Give more events or fewer folds, or do "
                "not calibrate it by itself."
            )
        calibration = self._calibration(chosen, self._folds, where)
        by_fold = []
        for fold in range(len(self.estimators_)):
            inside = calibration.folds == fold
            scores = self.calibration_scores_[chosen][inside]
            order = scores.argsort()
            upwards = calibration.weights[inside][order][::-1].cumsum()[::-1]
            by_fold.append((scores[order], np.append(upwards, 0)))
        return calibration, by_fold

    def _member_probabilities(self, X):
        return np.stack([self._probabilities(e, X) for e in self.estimators_], axis=1)

    def _member_weights(self):
        return self._shares

    def _numbers_per_event(self):
        return 4 * len(self.estimators_) * len(self.classes_)

    def predict_p_values(self, X, random_state=0):
        """P-value of every class: the share of calibration events that suit theirs no better.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        random_state : int, RandomState instance or None, default=0
            Seed of `randomized` scores, beside that of ``fit``.

        Returns
        -------
        p_values : ndarray of shape (n_events, n_classes)
            In (0, 1]. Of the true class, at most p with a probability of at most p.
        """
        return self._each_table(X, random_state, _p_values, np.float64)

    def _each_table(self, X, random_state, function, dtype):
        """Apply a function to scores and to what calibrates them, block by block."""
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        seed = None
        if self.randomized:
            seed = (self._draw_seed << 32) + check_random_state(random_state).randint(2**31 - 1)
        result = np.empty((X.shape[0], len(self.classes_)), dtype)
        step = max(1, 2**20 // self._numbers_per_event())
        for start in range(0, X.shape[0], step):
            block, part = X[start : start + step], result[start : start + step]
            mass = self._density_ratio(block)
            draws = None if seed is None else event_uniforms(block, seed)[:, None]
            scores = [self._scores(self._probabilities(e, block), draws) for e in self.estimators_]
            if len(self._tables) == 1:
                part[:] = function(*self._tables[0, 0], mass[:, None], scores)
                continue
            mass, codes = np.broadcast_to(mass, len(part)), self._encode(block)
            for (category, code), (calibration, by_fold) in self._tables.items():
                rows = np.flatnonzero(codes == category)
                columns = [code] if self.class_conditional else range(len(self.classes_))
                cells = np.ix_(rows, columns)
                chosen = [score[cells] for score in scores]
                part[cells] = function(calibration, by_fold, mass[rows, None], chosen)
        return result

    def predict_set(self, X, coverage=0.68, random_state=0):
        """Predict the classes that together hold the true one with a probability.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        coverage : float in (0, 1), default=0.68
            The probability.
        random_state : int, RandomState instance or None, default=0
            Seed of `randomized` scores, beside that of ``fit``.

        Returns
        -------
        members : ndarray of bool of shape (n_events, n_classes)
            Whether the set of the event has the class.

        Raises
        ------
        ValueError
            If the coverage is not in (0, 1), or so high that every set would have all the classes.
        """
        coverage = check_coverage(coverage, "predict_set")
        if self.density_ratio is None:
            fewest = min((known for known, _ in self._tables.values()), key=lambda c: c.total)
            if coverage / (1 - coverage) > fewest.total * (1 + 1e-12):
                raise ValueError(
                    f"A coverage of {coverage:.6g} needs at least {needed(coverage)} calibration "
                    f"{fewest.unit}{fewest.where}, but {fewest.found()}. With fewer, every set has "
                    "all the classes: give more of them, or ask for less."
                )
        # What is 1 of 20 must not depend on how 1 - 0.95 is rounded.
        limit = (1 - coverage) * (1 + 1e-12)

        def members(calibration, by_fold, mass, scores):
            if len(by_fold) > 1:
                return _p_values(calibration, by_fold, mass, scores) > limit
            # Of one estimator, p-values fall with the score: a threshold is all that it takes.
            ordered, upwards = by_fold[0]
            least = limit * (mass + calibration.total) - mass
            n_above = np.searchsorted(-upwards, -least)
            return scores[0] <= np.r_[-np.inf, ordered, np.inf][n_above]

        return self._each_table(X, random_state, members, bool)


def _p_values(calibration, by_fold, mass, scores):
    """P-values of scores, a list of (n, c) by fold, of events with a mass (n, 1)."""
    above = sum(
        upwards[np.searchsorted(ordered, score)]
        for (ordered, upwards), score in zip(by_fold, scores, strict=True)
    )
    return (mass + above) / (mass + calibration.total)
