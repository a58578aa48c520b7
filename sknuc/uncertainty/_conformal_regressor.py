r"""Conformal regression: intervals that cover by counting ranks, around any estimator.

An estimator predicts :math:`\hat\mu(x)`. Events that it was not fitted on have residuals, and so
will have a new event, which is drawn like them: with n of them the next residual exceeds the
:math:`\lceil c(n+1)\rceil`-th smallest with a probability of at most 1 - c, for any estimator, any
distribution and any n [1]_. Exchangeability is the one assumption; the variants below are what it
means in a laboratory.
"""

import numpy as np
from sklearn.base import _fit_context
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.base import (
    PredictiveRegressorMixin,
    center_and_scale,
    check_coverage,
    validate_targets,
)
from sknuc.metrics._final_step import final_step, unfitted_step
from sknuc.uncertainty._conformal_base import BaseConformal, check_weights, weighted_pipeline
from sknuc.uncertainty._conformal_predictive import (
    N_LEVELS,
    ByCategory,
    ConformalPredictive,
    ConformalQuantiles,
    median_range,
)
from sknuc.uncertainty._spread import check_return_std

__all__ = ["ConformalRegressor"]

_METHOD_OF_SCORE = {"absolute": "predict", "normalized": "predict", "cqr": "predict_quantiles"}


class ConformalRegressor(PredictiveRegressorMixin, BaseConformal):
    r"""Calibrated intervals around any regressor.

    The estimator is fitted without some events, which then show how far off it is. Scores are

    ============== ================================================= ==========================
    score          of an event                                       asks the estimator for
    ============== ================================================= ==========================
    "absolute"     :math:`r = y-\hat\mu(x)`                          ``predict(X)``
    "normalized"   :math:`r = (y-\hat\mu(x))/\hat\sigma(x)`          ``predict(X, return_std)``
    "cqr"          :math:`\max(\hat q_\ell(x)-y,\;y-\hat q_u(x))`    ``predict_quantiles``
    ============== ================================================= ==========================

    and an interval of coverage c is :math:`\hat\mu(x) \pm \hat\sigma(x)\, Q_c(|r|)`, where
    :math:`Q_c` is the :math:`\lceil c(n+1)\rceil`-th smallest of n; for "cqr" [2]_ it is
    :math:`[\hat q_\ell(x)-Q_c, \hat q_u(x)+Q_c]` with the levels :math:`(1\mp c)/2`. All coverages
    come from one fit. Of pipelines, searches and frozen estimators, the one that they end in is
    asked for spreads and quantiles; others that hold estimators must have these methods themselves.
    The probability that the interval covers is

    - at least c where one estimator is calibrated by other events (``cv="split"`` or a
      ``FrozenEstimator``), and at most c + 1/(n+1) where no scores are equal;
    - at least 1 - 2(1 - c) and in practice about c with ``method="plus"``, which gives every score
      the estimator that has not seen its event (jackknife+, CV+ [3]_);
    - at least c with ``method="minmax"``, which is wider.

    **Groups.** Where events come from groups that they share something with (calibration positions,
    detectors, runs), and a new event is of a *new* group, `groups` in ``fit`` makes groups the unit
    that is exchangeable [4]_, [5]_: every group has the same weight 1/(K+1), however many events it
    has, and 1/(K+1) is kept for the group that is not there. With K groups no coverage above
    K/(K+1) is known without assuming something: see `tail`.

    **Simulation and data.** Where the calibration events are simulated and new ones are measured,
    with another distribution of x, but the same of y given x, scores are weighted with the ratio of
    densities, see `density_ratio` [6]_.

    Parameters
    ----------
    estimator : estimator or None, default=None
        What predicts; None for a :class:`sklearn.linear_model.Ridge` of standardised features. It
        gets X as it comes: arrays of any shape, data frames. A
        :class:`sklearn.frozen.FrozenEstimator` is not fitted any more, and all events of ``fit``
        calibrate.
    conformity_score : {"absolute", "normalized", "cqr"}, default="absolute"
        What is compared between events, see above. Intervals of "absolute" are as wide everywhere;
        the other two follow what the estimator says about its own uncertainty.
    symmetric : bool, default=True
        Whether positive and negative scores are one sample. If False, both sides are calibrated by
        themselves: every quantile is then calibrated, not only central intervals, for twice as many
        events.
    method : {"plus", "minmax"}, default="plus"
        How the estimators of several folds make one interval. No difference for one estimator.
    cv : int, "split", cross-validation generator, iterable or None, default=5
        Which events calibrate. "split" holds out `calibration_fraction` of them and fits once; an
        int is a number of folds, shuffled, of whole groups where groups are given, None is 5.
        ``LeaveOneOut()`` makes the jackknife+, ``LeaveOneGroupOut()`` its version for groups.
    calibration_fraction : float, default=0.25
        The fraction of events, or of groups, that is held out by ``cv="split"``.
    mondrian : callable, str, int or None, default=None
        Categories that are calibrated each by itself, so that each is covered: the name or the
        index of a column, or a function from events to one category per event.
    density_ratio : callable, classifier or None, default=None
        The ratio w(x) of the density of the events to come to that of the events in ``fit``, up to
        a factor: a function from events to ratios, or a classifier whose ``predict_proba`` tells
        the events to come (second class) from those in ``fit`` (first class), fitted on as
        many of the one as of the other, or on any numbers, since factors do not matter. Wrap it in
        ``FrozenEstimator``, so that clones keep it fitted.
    tail : {"error", "infinite", "student"}, default="error"
        What an end is that the calibration cannot support: n events reach a coverage of n/(n+1),
        K groups one of K/(K+1). "error" says how many are needed. "infinite" is the end of the
        theory. "student" is an assumption: from the largest coverage that is supported, ends go
        on like the quantiles of Student's t with n - 1 (K - 1) degrees of freedom, which is what
        groups with Gaussian offsets would do. Not for "cqr".
    random_state : int, RandomState instance or None, default=None
        Seed of the splits, and of the estimator where that has been left without one.
    n_jobs : int or None, default=None
        The number of folds that are fitted at a time.

    Attributes
    ----------
    estimators_ : list of estimator
        One for each fold.
    calibration_indices_ : ndarray of shape (n_calibration,)
        The events in ``fit`` that calibrate.
    calibration_scores_ : ndarray of shape (n_calibration, n_targets)
        Their scores with sign; of "cqr", the residuals of the median.
    calibration_weights_ : ndarray of shape (n_calibration,)
        Their weights, where a new event has 1, or its density ratio.
    categories_ : ndarray of shape (n_categories,)
        The categories, with `mondrian`.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The mean and the standard deviation of the targets.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of features, where `X` is a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    ConformalClassifier : Sets of classes that hold the true one.

    Notes
    -----
    ``predict`` is the mean of the distribution that the scores make: the prediction of the
    estimator, or the mean over the estimators of the folds, plus the mean score if not `symmetric`.
    Standard deviation and draws are those of the measured scores: the share 1/(n+1) of what the
    calibration has not seen is no part of them, and a draw holds all targets of one calibration
    event. With "cqr" they come from 50 calibrated quantiles, and targets are independent.

    Intervals are for each target alone; :meth:`predict_region` covers all together.

    An event of weight 2 in `sample_weight` is as two events, for the estimator and in the
    calibration, where a new event has the weight 1. Weights with a common factor of their own, as
    those of simulated events, are to be normalised first: to mean 1, or, where they differ much, to
    the sum :math:`(\sum w)^2/\sum w^2`, the number of events of equal weight that would scatter as
    they do. Too large a sum would promise what so few events cannot tell. That equal events come
    into different folds is not prevented.

    References
    ----------
    .. [1] J. Lei et al., "Distribution-free predictive inference for regression", JASA 113 (2018)
           1094, arXiv:1604.04173.
    .. [2] Y. Romano, E. Patterson and E. Candès, "Conformalized quantile regression", NeurIPS 2019,
           arXiv:1905.03222.
    .. [3] R. F. Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 49
           (2021) 486, arXiv:1905.02928.
    .. [4] R. Dunn, L. Wasserman and A. Ramdas, "Distribution-free prediction sets for two-layer
           hierarchical models", JASA 118 (2023) 2491, arXiv:1809.07441.
    .. [5] Y. Lee, R. F. Barber and R. Willett, "Distribution-free inference with hierarchical
           data", arXiv:2306.06342.
    .. [6] R. J. Tibshirani et al., "Conformal prediction under covariate shift", NeurIPS 2019,
           arXiv:1904.06019.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from sknuc.uncertainty import ConformalRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (2000, 3))
    >>> y = X.sum(axis=1) + rng.laplace(0, 0.1, 2000)
    >>> model = ConformalRegressor(LinearRegression(), random_state=0).fit(X[:1000], y[:1000])
    >>> low, high = model.predict_interval(X[1000:], coverage=0.9).T
    >>> bool(abs(np.mean((low <= y[1000:]) & (y[1000:] <= high)) - 0.9) < 0.03)
    True

    A new position of the source is not like those that the detector was calibrated at:

    >>> from sklearn.model_selection import LeaveOneGroupOut
    >>> position = rng.integers(30, size=2000)
    >>> y += rng.normal(0, 1, 30)[position]
    >>> model = ConformalRegressor(LinearRegression(), cv=LeaveOneGroupOut())
    >>> wide = model.fit(X, y, groups=position).predict_interval(X[:1])
    >>> bool(np.diff(wide)[0, 0] > 1.5)
    True
    """

    _parameter_constraints: dict = {
        **BaseConformal._parameter_constraints,
        "conformity_score": [StrOptions({"absolute", "normalized", "cqr"})],
        "symmetric": ["boolean"],
        "method": [StrOptions({"plus", "minmax"})],
        "tail": [StrOptions({"error", "infinite", "student"})],
    }
    _stratified = False

    def __init__(
        self,
        estimator=None,
        *,
        conformity_score="absolute",
        symmetric=True,
        method="plus",
        cv=5,
        calibration_fraction=0.25,
        mondrian=None,
        density_ratio=None,
        tail="error",
        random_state=None,
        n_jobs=None,
    ):
        self.estimator = estimator
        self.conformity_score = conformity_score
        self.symmetric = symmetric
        self.method = method
        self.cv = cv
        self.calibration_fraction = calibration_fraction
        self.mondrian = mondrian
        self.density_ratio = density_ratio
        self.tail = tail
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _default_estimator(self):
        return weighted_pipeline(StandardScaler(), Ridge())

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, groups=None, **fit_params):
        """Fit the estimator without each fold, and calibrate it with the fold.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events, or what else the estimator takes.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            The weights of events, for the estimator and for the calibration.
        groups : array-like of shape (n_events,) or None, default=None
            The group of every event, where new events are of new groups.
        **fit_params : dict
            For the estimator's ``fit``, or routed as metadata.

        Returns
        -------
        self : ConformalRegressor

        Raises
        ------
        ValueError
            If folds overlap, `groups` are divided by a split, or the estimator lacks what the score
            asks for.
        """
        method = _METHOD_OF_SCORE[self.conformity_score]
        asked = self._get_estimator()
        if self.conformity_score == "cqr":
            asked = unfitted_step(asked)
        if not hasattr(asked, method):
            raise ValueError(
                f"conformity_score={self.conformity_score!r} asks the estimator for {method}, "
                f"which {type(asked).__name__} has not."
            )
        if self.conformity_score == "normalized":
            check_return_std(self._get_estimator(), "conformity_score='normalized'")
        if self.conformity_score == "cqr" and self.tail == "student":
            raise ValueError(
                "tail='student' is for conformity_score='absolute' and 'normalized'. Got 'cqr' "
                "instead."
            )
        X = self._validate_events(X, reset=True)
        sample_weight = check_weights(sample_weight, X)
        self._scale_targets(X if hasattr(X, "dtype") else np.empty(X.shape[0]), y, sample_weight)
        y = validate_targets(y).astype(self._output_dtype, copy=False)
        responses, folds = self._fit_folds(X, y, sample_weight, groups, fit_params, self._respond)
        locations, scales, sizes = zip(*responses, strict=True)
        away = y.reshape(len(y), -1)[self.calibration_indices_] - np.concatenate(locations)
        self.calibration_scores_ = away if scales[0] is None else away / np.concatenate(scales)
        if sizes[0] is None:
            weights = self._unit_weights(np.arange(len(folds)))
            self._sizes = median_range(np.abs(self.calibration_scores_), weights)
        else:
            self._sizes = (np.stack(sizes),) * 2
        self._calibrations = []
        for code in range(self._codes.max() + 1):
            chosen = np.flatnonzero(self._codes == code)
            where = (
                "" if self.mondrian is None else f" of category {self.categories_.tolist()[code]!r}"
            )
            self._calibrations.append((chosen, self._calibration(chosen, folds, where)))
        self._quantiles_of_fold = {}
        if self.conformity_score == "cqr":
            self._calibration_events = [
                _safe_indexing(X, self.calibration_indices_[folds == fold])
                for fold in range(len(self.estimators_))
            ]
            self._calibration_targets = y.reshape(len(y), -1)[self.calibration_indices_]
        return self

    def _respond(self, estimator, X, X_train, y_train, sample_weight):
        """What an estimator says of its calibration events, and how far off it was in its fit (t,).

        Only what does not know the calibration events leaves their ranks in random order. A frozen
        estimator does not tell with what it was fitted.
        """
        location, scale = self._locate(estimator, X)
        t = location.shape[1]
        if scale is not None or t == 1:
            return location, scale, np.ones(t)
        if X_train.shape[0] == 0:
            return location, scale, None
        y_train = y_train.reshape(-1, t)
        away = y_train - self._locate(estimator, X_train)[0]
        size = np.sqrt(np.average(away**2, axis=0, weights=sample_weight))
        # An estimator that knows its events by heart is compared in the spread of the targets.
        return (
            location,
            scale,
            np.where(size > 0, size, center_and_scale(y_train, sample_weight)[1]),
        )

    def _locate(self, estimator, X):
        """Return predictions, (n, t), and the scales of scores."""
        n = X.shape[0]
        if self.conformity_score == "cqr":
            return _quantiles(estimator, X, [0.5]).reshape(n, -1), None
        if self.conformity_score == "absolute":
            return np.asarray(estimator.predict(X), dtype=np.float64).reshape(n, -1), None
        # Searches do not pass the question on.
        estimator, X = final_step(estimator, X)
        mean, std = estimator.predict(X, return_std=True)
        std = np.asarray(std, dtype=np.float64).reshape(n, -1)
        if not np.all(std > 0):
            raise ValueError(
                "conformity_score='normalized' divides by the standard deviations of the "
                f"estimator, which must be positive. Got {std.min()} from "
                f"{type(estimator).__name__}."
            )
        return np.asarray(mean, dtype=np.float64).reshape(n, -1), std

    def _predictive(self, X):
        n, t = X.shape[0], len(self.target_mean_)
        mass = self._density_ratio(X)
        options = {"symmetric": self.symmetric, "method": self.method, "tail": self.tail}
        if self.conformity_score == "cqr":
            asked = {}

            def predicted(levels):
                key = tuple(levels)
                if key not in asked:
                    asked[key] = _join(
                        _quantiles(e, X, levels).reshape(n, len(levels), t)
                        for e in self.estimators_
                    )
                return asked[key]

            def distribution(rows, chosen, calibration):
                return ConformalQuantiles(
                    calibration,
                    lambda levels: predicted(levels)[rows],
                    lambda levels: self._scores_at(levels)[chosen],
                    np.empty((n, len(self.estimators_), t))[rows].shape,
                    mass if len(mass) == 1 else mass[rows],
                    **options,
                )
        else:
            parts = [self._locate(estimator, X) for estimator in self.estimators_]
            locations = _join(location for location, _ in parts)
            scales = None
            if self.conformity_score == "normalized":
                scales = _join(scale for _, scale in parts)

            def distribution(rows, chosen, calibration):
                return ConformalPredictive(
                    calibration,
                    locations[rows],
                    None if scales is None else scales[rows],
                    self.calibration_scores_[chosen],
                    mass if len(mass) == 1 else mass[rows],
                    **options,
                )

        if self.mondrian is None:
            return distribution(slice(None), *self._calibrations[0])
        codes = self._encode(X)
        parts = [(np.flatnonzero(codes == code), self._calibrations[code]) for code in set(codes)]
        return ByCategory([(rows, distribution(rows, *known)) for rows, known in parts])

    def _scores_at(self, levels):
        """Targets less predicted quantiles of the calibration events, (m, q, t)."""
        new = [level for level in levels if level not in self._quantiles_of_fold]
        # Blocks of events and repeated calls ask for the same few levels.
        if new:
            parts = [
                _quantiles(e, X, new).reshape(X.shape[0], len(new), -1)
                for e, X in zip(self.estimators_, self._calibration_events, strict=True)
            ]
            scores = self._calibration_targets[:, None] - np.concatenate(parts)
            self._quantiles_of_fold.update(zip(new, scores.transpose(1, 0, 2), strict=True))
        return np.stack([self._quantiles_of_fold[level] for level in levels], axis=1)

    def _numbers_per_event(self):
        n_levels = 2 * N_LEVELS if self.conformity_score == "cqr" else 4
        return n_levels * len(self.estimators_) * len(self.target_mean_)

    def _has_density(self):
        return False

    def predict_region(self, X, coverage=0.68):
        """Predict a hyper-rectangle that holds all targets of an event together.

        The score of an event is that of its farthest target, in units of how far off the estimator
        was in its fit. A ``FrozenEstimator`` does not tell; the unit is then the median of the
        scores of all calibration events and the new one, and the region holds whatever that
        leaves open. The coverage is at least what :meth:`predict_interval` promises; of a
        ``FrozenEstimator``, up to 1/(n + 1) less where it met a target exactly in all n
        calibration events, which is then taken for certain.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        coverage : float in (0, 1), default=0.68
            The probability that all targets lie inside.

        Returns
        -------
        region : ndarray of shape (n_events, 2) or (n_events, 2, n_targets)
            Lower and upper ends, in the units of the targets.

        Raises
        ------
        ValueError
            If the coverage is not in (0, 1), or the calibration does not support it.
        """
        check_is_fitted(self)
        coverage = check_coverage(coverage, "predict_region")
        X = self._validate_events(X, reset=False)
        extra = 2 * len(self.target_mean_)
        (region,) = self._each_block(
            X, lambda p, _: (p.region(coverage, self._sizes),), extra=extra
        )
        return self._without_targets_axis(region)


def _quantiles(estimator, X, levels):
    """Quantiles by the last step of a pipeline or a search, which do not pass them on."""
    estimator, X = final_step(estimator, X)
    return np.asarray(estimator.predict_quantiles(X, levels))


def _join(members):
    """Stack what the estimators say, (n, ...), to (n, k, ...); a single one without a copy."""
    members = list(members)
    return members[0][:, None] if len(members) == 1 else np.stack(members, axis=1)
