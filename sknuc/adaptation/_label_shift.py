r"""Classes that are more or less frequent in the data than in the simulation.

Simulations are made with as many events of a class as one likes; nature has its own shares. If the
events of a class are alike in both domains, :math:`p_t(x \mid y) = p_s(x \mid y)`, Bayes' rule
turns what was learnt on the one into what holds for the other,

.. math:: p_t(y \mid x) \propto p_s(y \mid x)\, \frac{\pi^t_y}{\pi^s_y},

and the shares :math:`\pi^t` of the classes follow from the events without labels
(:mod:`sknuc.adaptation._priors`), often the very number that is wanted.
"""

import copy
import warnings
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.validation import check_consistent_length

from sknuc.adaptation._crossfit import (
    class_probabilities,
    deal_shares,
    fit_folds,
    out_of_fold,
    split_shares,
)
from sknuc.adaptation._domains import (
    DomainScoreMixin,
    source_labels,
    split_domains,
    warn_without_domains,
)
from sknuc.adaptation._priors import estimate_priors
from sknuc.base import (
    EnsembleClassifierMixin,
    encode_labels,
    levels_to_user,
    validate_events,
    validate_weights,
)
from sknuc.exceptions import DomainWarning
from sknuc.multiplicity import merge_identical

__all__ = ["LabelShiftClassifier"]


class LabelShiftClassifier(
    DomainScoreMixin, EnsembleClassifierMixin, MetaEstimatorMixin, BaseEstimator
):
    r"""Classifier for a target in which classes are differently frequent.

    Any classifier is fitted to the source without each fold; on the folds, its probabilities are
    calibrated. From what it says of the events of the target, the shares of the classes there
    follow with their errors, and probabilities for them by Bayes' rule,
    :math:`p_t(y \mid x) \propto p_s(y \mid x)\, \pi^t_y / \pi^s_y`.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Any classifier with ``predict_proba``, also in a Pipeline. It gets events as a table. None
        is a :class:`~sklearn.linear_model.LogisticRegression` of standardised features.
    method : {"em", "bbse", "bbse-soft"}, default="em"
        How the shares are found. "em" is the largest likelihood, to which the EM algorithm
        converges, which has the smallest errors and relies on the calibration. "bbse" inverts the
        confusion matrix of the most probable classes, "bbse-soft" that of the probabilities: with
        larger errors, for any classifier.
    calibrate : bool, default=True
        Whether the probabilities are calibrated, by bias-corrected temperature scaling.
    cv : int, cross-validation generator or iterable, default=5
        Number of folds of the source; events that are equal are in one fold. Or a splitter that
        tests every source event once.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, and of the estimator where that has been left without one.
    n_jobs : int or None, default=None
        The number of folds that are fitted at a time.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels of the source, sorted.
    source_priors_, target_priors_ : ndarray of shape (n_classes,)
        The shares of the classes in either domain.
    target_priors_error_ : ndarray of shape (n_classes,)
        Standard deviations of `target_priors_`, from the numbers of events of both domains. Of a
        share that is at zero, of what it would be without that bound.
    target_priors_covariance_ : ndarray of shape (n_classes, n_classes)
        Their covariance.
    class_ratio_ : ndarray of shape (n_classes,)
        How much more frequent classes are in the target: also the weights of source events with
        which any method can be trained for the target.
    calibration_scale_ : float
        Inverse temperature of the log-probabilities, 1 if they were right, less if too sure.
    calibration_bias_ : ndarray of shape (n_classes,)
        What is added to them, 0 for the first class.
    estimators_ : list of classifier
        One for each fold, of the numbers of the classes.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    DomainReweighter : If events of a class look different, too.
    domain_shift : Tells which features differ.

    Notes
    -----
    Probabilities are the mean over the classifiers of all folds, and ``predict_uncertainty`` tells
    by how much these differ. The errors are those of the numbers of events; they know nothing of
    events that look different in the domains, nor of a classifier whose probabilities cannot be
    made right by a temperature. Compare "em" and "bbse": they agree if all is well.

    Without target events, this is an ordinary classifier, calibrated.

    Only the ratios of weights within a domain matter; events of weight zero are absent.

    References
    ----------
    .. [1] M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the outputs of a classifier to
       new a priori probabilities", Neural Computation 14 (2002) 21.
    .. [2] A. Alexandari, A. Kundaje and A. Shrikumar, "Maximum likelihood with bias-corrected
       calibration is hard-to-beat at label shift adaptation", ICML 2020, arXiv:1901.06852.
    .. [3] Z. Lipton, Y.-X. Wang and A. Smola, "Detecting and correcting for label shift with black
       box predictors", ICML 2018, arXiv:1802.03916.
    .. [4] K. Azizzadenesheli, A. Liu, F. Yang and A. Anandkumar, "Regularized learning for domain
       adaptation under label shifts", ICLR 2019, arXiv:1903.09734.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import LabelShiftClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = np.r_[rng.choice(2, 3000, p=[0.5, 0.5]), rng.choice(2, 3000, p=[0.9, 0.1])]
    >>> X = rng.normal(2 * y[:, None], size=(6000, 1))
    >>> sample_domain = np.repeat([1, -1], 3000)
    >>> known = np.where(sample_domain > 0, y, -1)  # the target has no labels
    >>> model = LabelShiftClassifier(random_state=0).fit(X, known, sample_domain=sample_domain)
    >>> share, error = model.target_priors_[1], model.target_priors_error_[1]
    >>> bool(abs(share - 0.1) < 3 * error < 0.05)
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict_proba"]), None],
        "method": [StrOptions({"em", "bbse", "bbse-soft"})],
        "calibrate": ["boolean"],
        "cv": ["cv_object"],
        "random_state": ["random_state"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        estimator=None,
        *,
        method="em",
        calibrate=True,
        cv=5,
        random_state=None,
        n_jobs=None,
    ):
        self.estimator = estimator
        self.method = method
        self.calibrate = calibrate
        self.cv = cv
        self.random_state = random_state
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, sample_domain=None):
        """Fit the classifier to the source, and find the shares of the classes in the target.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events of both domains.
        y : array-like of shape (n_events,)
            The labels. Of target events they may be anything, and are not looked at.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.
        sample_domain : array-like of int of shape (n_events,) or None, default=None
            0 or more for the source, less for the target. None: all events are of the source.

        Returns
        -------
        self : LabelShiftClassifier

        Raises
        ------
        ValueError
            If `sample_domain` is not an integer per event, there is no source or less than two
            target events, there is only one class, or a weight is negative.
        """
        X = validate_events(self, X, reset=True)
        weight = validate_weights(sample_weight, X)
        target = split_domains(sample_domain, X, sample_weight=weight)
        check_consistent_length(X, y)
        labels = source_labels(self, y, target)
        present = np.ones(len(X), dtype=bool) if weight is None else weight != 0
        of_source = present if target is None else present & ~target
        labels = labels[present if target is None else present[~target]]
        self.classes_, codes = encode_labels(self, labels)
        w_source = None if weight is None else weight[of_source]
        events = X[of_source], codes.astype(np.float64), w_source
        rng = check_random_state(self.random_state)
        if isinstance(self.cv, Integral | None):
            rows, codes, w_rows = _merged(*events)
            n_folds = 5 if self.cv is None else self.cv
            shares = deal_shares(rows, codes, codes, w_rows, w_source, n_folds, rng)
        else:
            shares = split_shares(self.cv, *events, of_source)
            rows, codes, w_rows = _merged(*events)
        estimator = self.estimator
        if estimator is None:
            estimator = make_pipeline(
                StandardScaler(), LogisticRegression(solver="newton-cholesky")
            )
        self.estimators_ = fit_folds(
            estimator, rows, codes, w_rows, shares, rng, n_jobs=self.n_jobs
        )
        parts = [
            (self._of_model(model, rows[own]), codes[own], w_rows[own] * share)
            for model, (own, share) in zip(self.estimators_, out_of_fold(shares), strict=True)
        ]
        judged = [np.concatenate(part) for part in zip(*parts, strict=True)]
        if target is None:
            warn_without_domains(self)
            self._set_priors(judged, None, None)
        else:
            of_target = present & target
            w_target = None if weight is None else weight[of_target]
            unlabelled = X[of_target], np.zeros(of_target.sum()), w_target
            self._set_priors(judged, *_merged(*unlabelled)[::2])
        return self

    def _set_priors(self, judged, X, weight):
        """Calibrate on the source, and find the shares of the classes in the target."""
        proba, codes, w_source = judged
        estimate = estimate_priors(
            proba,
            codes,
            proba if X is None else self._of_models(X),
            source_weight=w_source,
            target_weight=w_source if X is None else weight,
            method=self.method,
            calibrate=self.calibrate,
        )
        self._scaling = estimate.scaling
        self.calibration_scale_, self.calibration_bias_, _ = estimate.scaling
        self.source_priors_ = estimate.source
        if X is None:
            # The same sample, so that there is no difference, and only the source's error.
            share = w_source / w_source.sum()
            left = np.eye(len(estimate.source))[codes] - estimate.source
            covariance = (left * (share**2)[:, None]).T @ left
            estimate = estimate._replace(target=estimate.source, covariance=covariance)
        elif not estimate.identified:
            warnings.warn(
                "The classifier hardly tells some classes apart, so that the target does not say "
                f"how frequent these are: shares {np.round(estimate.target, 3).tolist()} of "
                f"{self.classes_.tolist()!r:.200}. Give it more events, or merge these classes.",
                DomainWarning,
                stacklevel=levels_to_user(),
            )
        self.target_priors_ = estimate.target
        self.target_priors_covariance_ = estimate.covariance
        self.target_priors_error_ = estimate.error
        self.class_ratio_ = estimate.ratio

    def _of_source(self, y, target):
        return source_labels(self, y, target)

    def _validate_events(self, X, *, reset):
        return validate_events(self, X, reset=reset)

    def _of_model(self, model, X):
        return class_probabilities(model, X, len(self.classes_))

    def _of_models(self, X):
        """Probabilities as classifiers say them, of shape (n, n_models, n_classes)."""
        return np.stack([self._of_model(model, X) for model in self.estimators_], axis=1)

    def _member_probabilities(self, X):
        proba = np.exp(self._scaling.log_proba(self._of_models(X))) * self.class_ratio_
        return proba / proba.sum(axis=2, keepdims=True)

    def _as_source(self):
        """A copy that reads events as those of the source, with its class priors."""
        twin = copy.copy(self)
        twin.class_ratio_ = np.ones_like(self.class_ratio_)
        return twin

    def _numbers_per_event(self):
        return 4 * len(self.estimators_) * len(self.classes_)


def _merged(X, y, weight):
    X, y, weight = merge_identical(X, y, weight)
    return X, y.astype(np.intp), np.ones(len(X)) if weight is None else weight
