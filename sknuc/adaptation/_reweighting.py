r"""Simulated events weighted so that they are distributed as measured ones.

A classifier that tells the domains apart, with as much weight of the one as of the other, says

.. math:: p(x) = \frac{p_t(x)}{p_t(x) + p_s(x)}, \qquad
   r(x) = \frac{p_t(x)}{p_s(x)} = \frac{p(x)}{1 - p(x)},

and the mean of any g over source events with weights :math:`w_i r(x_i)` is that of the target.
Probabilities have to be right for that, not only in order: they are calibrated on events that their
model has not seen. And no event is weighted by a model that has learnt from it, which would know
its domain: such a model gives weights near zero to all the source events that it has seen.

*Negative weights.* Beyond leading order, Monte-Carlo generators make events of negative weight, and
a density of weights, :math:`\rho(x) = q(x)\,\mathrm E[\operatorname{sign} w \mid x]` with the
density q of :math:`|w|`. Where signs mix at one x, the second factor is what a classifier of the
sign says, :math:`2 P(+ \mid x) - 1`. So the ratio of signed densities is

.. math:: r(x) = \frac{q_t(x)}{q_s(x)} \cdot
   \frac{\mathrm E_t[\operatorname{sign} w \mid x] / \mathrm E_t[\operatorname{sign} w]}
        {\mathrm E_s[\operatorname{sign} w \mid x] / \mathrm E_s[\operatorname{sign} w]} .
"""

import warnings
from numbers import Integral, Real

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.adaptation._calibration import CrossFittedOdds
from sknuc.adaptation._crossfit import boosted_trees, deal_shares, split_shares
from sknuc.base import encode_labels, levels_to_user, validate_events, validate_labels
from sknuc.exceptions import DomainWarning
from sknuc.metrics._score_validation import kish_number
from sknuc.multiplicity import merge_identical, net_weights, row_hash, training_events

__all__ = ["DomainReweighter"]

# A density of weights is positive; its estimate is at least this share of what it is on average.
_LEAST_SIGN = 0.01
# What is warned about: the share of all weight that was cut off, and of the events that remain.
_MUCH_CLIPPED = 0.05
_FEW_LEFT = 0.01


class DomainReweighter(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    r"""Weights that turn the distribution of the source into that of the target.

    A classifier of domains, cross-fitted and calibrated, whose odds are the ratio of the densities
    :math:`r(x) = p_t(x) / p_s(x)`. ``fit`` takes the domains as labels, so that searches can judge
    candidates by the log-loss or the area under the ROC curve.

    Parameters
    ----------
    estimator : classifier or None, default=None
        Any classifier with ``predict_proba``, also in a Pipeline. It gets events as a table, and
        weights, which balance the domains; one that takes no weights is corrected for the numbers
        of events. None is a :class:`~sklearn.ensemble.HistGradientBoostingClassifier` of 60
        small trees.
    cv : int, cross-validation generator or iterable, default=5
        Number of folds; events that are equal are in one fold, whatever their domains. Or a
        splitter of domains that tests every event once, as of runs that belong together.
    calibration : {"sigmoid", "isotonic"} or None, default="sigmoid"
        How probabilities are made right. "sigmoid" scales and shifts the log-odds; "isotonic" finds
        any rising function, for some thousand events or more, with steps; None trusts the
        classifier. The function for the events of a fold is learnt on the other folds.
    max_weight : float or None, default=None
        The largest weight: a number above 1 in units of the mean weight; one below 1, such as
        0.999, is the quantile of the source's weights. None cuts nothing off. Of what is cut off,
        the rest of the source has its share, and the density there is too low.
    normalize : bool, default=True
        Whether the weights have the mean 1 over the source in ``fit``, with its own weights. If
        not, they are the ratio as found, whose mean differs from 1 by its errors.
    negative_weights : {"error", "sign"}, default="error"
        What negative weights mean. "sign" learns with :math:`|w|`, and the mean sign at x by a
        second classifier in each domain that has two different events of either sign or more.
    target_label : int, str, bool or None, default=None
        The label of the target domain; None is the smaller of the two, which of a `sample_domain`
        is the negative one.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds, and of the estimator where that has been left without one.
    n_jobs : int or None, default=None
        The number of folds that are fitted at a time.

    Attributes
    ----------
    classes_ : ndarray of shape (2,)
        The labels of the domains, sorted.
    target_label_ : object
        Which of them is the target.
    estimators_ : list of classifier
        One for each fold, of 1 for the target against 0.
    effective_sample_size_ : float
        Kish's number of events, :math:`(\sum w r)^2 / \sum (w r)^2`, of the weighted source; copies
        of an event are one.
    normalization_ : float
        What the ratio is multiplied by.
    max_weight_ : float
        The largest weight; infinite if none is cut off.
    clipped_events_ : float
        The share of the source, by \|w\|, whose weights were cut off.
    clipped_weight_ : float
        The share of the total weight that was.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    domain_shift : Tells whether the weighted source agrees with the target.
    LabelShiftClassifier : If only the shares of the classes differ.
    sknuc.uncertainty.ConformalRegressor : Takes ``density_ratio=reweighter.predict_weight``.

    Notes
    -----
    An event that was in ``fit`` is recognised by its numbers, rounded to single precision or not,
    and judged by the model that has not seen it; a new one has the mean log-ratio of all models.
    Where a value is shared by many events, as of counts and flags (:mod:`sknuc.multiplicity`), it
    is in all folds.

    Where there is no source event, no weight helps: `effective_sample_size_` falls, and a
    :class:`~sknuc.exceptions.DomainWarning` says so below one per cent of the source. No odds are
    beyond what the number N of events can tell, N + 1.

    With signed weights, the mean sign at x counts as a hundredth of that of the domain at least:
    where a density of weights is not positive, there is no ratio of densities.

    Events of weight zero are absent. Only the ratios of weights within a domain matter.

    References
    ----------
    .. [1] M. Sugiyama, T. Suzuki and T. Kanamori, "Density Ratio Estimation in Machine Learning",
       Cambridge University Press (2012).
    .. [2] K. Cranmer, J. Pavez and G. Louppe, "Approximating likelihood ratios with calibrated
       discriminative classifiers", arXiv:1506.02169.
    .. [3] A. Rogozhnikov, "Reweighting with boosted decision trees", J. Phys.: Conf. Ser. 762
       (2016) 012036, arXiv:1608.05806.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import DomainReweighter
    >>> rng = np.random.default_rng(0)
    >>> simulation, data = rng.normal(0.0, size=(4000, 1)), rng.normal(0.5, size=(3000, 1))
    >>> X, sample_domain = np.concatenate([simulation, data]), np.repeat([1, -1], [4000, 3000])
    >>> reweighter = DomainReweighter(random_state=0).fit(X, sample_domain)
    >>> weight = reweighter.predict_weight(simulation)
    >>> bool(abs(np.average(simulation[:, 0], weights=weight) - 0.5) < 0.1)
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "predict_proba"]), None],
        "cv": ["cv_object"],
        "calibration": [StrOptions({"sigmoid", "isotonic"}), None],
        "max_weight": [
            Interval(Real, 0, 1, closed="neither"),
            Interval(Real, 1, None, closed="neither"),
            None,
        ],
        "normalize": ["boolean"],
        "negative_weights": [StrOptions({"error", "sign"})],
        "target_label": [Integral, str, "boolean", None],
        "random_state": ["random_state"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        estimator=None,
        *,
        cv=5,
        calibration="sigmoid",
        max_weight=None,
        normalize=True,
        negative_weights="error",
        target_label=None,
        random_state=None,
        n_jobs=None,
    ):
        self.estimator = estimator
        self.cv = cv
        self.calibration = calibration
        self.max_weight = max_weight
        self.normalize = normalize
        self.negative_weights = negative_weights
        self.target_label = target_label
        self.random_state = random_state
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Learn to tell the domains apart.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events of both domains.
        y : array-like of shape (n_events,)
            The domains, two different labels, such as a `sample_domain` of 1 for the source and -1
            for the target.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Weights; a weight of 2 is the event twice, of 0 is the event absent.

        Returns
        -------
        self : DomainReweighter

        Raises
        ------
        ValueError
            If there are not two domains with two different events each, weights of a domain sum to
            nothing or less, or a weight is negative and `negative_weights` is "error".
        """
        X, y, given = training_events(
            self,
            X,
            y,
            sample_weight,
            targets=lambda y: validate_labels(y, self),
            allow_negative=True,
        )
        if self.negative_weights == "error" and given is not None and (given < 0).any():
            raise ValueError(
                f"sample_weight has {np.count_nonzero(given < 0)} negative values of {len(given)}, "
                "which negative_weights='error' does not allow. negative_weights='sign' learns the "
                "ratio of densities of signed weights."
            )
        classes, codes = encode_labels(self, y)
        if len(classes) > 2:
            raise ValueError(
                "Only binary classification is supported. The type of the target is multiclass: y "
                f"has the {len(classes)} domains {classes.tolist()!r:.200}. Of several sources or "
                "targets, give np.where(sample_domain < 0, -1, 1)."
            )
        target = 0 if self.target_label is None else _index(self.target_label, classes)
        domain = (codes == target).astype(np.float64)
        shares = None
        if not isinstance(self.cv, Integral | None):
            present = True if sample_weight is None else np.asarray(sample_weight) != 0
            shares = split_shares(self.cv, X, domain, given, np.atleast_1d(present))
        X, domain, weight = merge_identical(X, domain, given)
        domain = domain.astype(np.intp)
        weight = np.ones(len(X)) if weight is None else weight
        net = net_weights(classes, codes, given)
        n_rows = np.bincount(domain, minlength=2)
        if n_rows.min() < 2:
            raise ValueError(
                "y must have at least 2 different events of each class, the source and the target. "
                f"Got {n_rows[0]} and {n_rows[1]}."
            )
        rng = check_random_state(self.random_state)
        negative, size = weight < 0, np.abs(weight)
        if shares is None:
            # Target and source, the rare events of each at the outer ends.
            strata = np.where(domain == 1, 1 - negative, 3 + negative)
            n_folds = 5 if self.cv is None else self.cv
            shares = deal_shares(X, domain, strata, size, given, n_folds, rng)
        estimator = boosted_trees(len(X)) if self.estimator is None else self.estimator
        params = {"calibration": self.calibration, "n_jobs": self.n_jobs}
        odds = CrossFittedOdds(estimator, X, domain, size, shares, rng, balanced=True, **params)
        signs = []
        for label in (0, 1):
            rows = domain == label
            n_signs = np.bincount(negative[rows], minlength=2)
            if n_signs.min() < 2:
                continue
            sign = CrossFittedOdds(
                estimator, X[rows], 1 - negative[rows], size[rows], shares[:, rows], rng, **params
            )
            mean = weight[rows].sum() / size[rows].sum()
            signs.append((2 * label - 1, mean, sign))
        self.classes_, self.target_label_ = classes, classes[target]
        self.estimators_ = odds.models
        self._target, self._odds, self._signs = target, odds, signs
        self._log_share = np.log(net[target]) - np.log(net[1 - target])
        self._remember(X, size, shares)
        self._set_scale(X[domain == 0], weight[domain == 0])
        return self

    def _remember(self, X, size, shares):
        """Keep which model judges which event of the fit."""
        # In single precision, too: events are rounded on their way to and from files.
        self._known = []
        for dtype in {X.dtype, np.dtype(np.float32)}:
            keys, place = np.unique(_keys(X, dtype), return_inverse=True)
            totals = np.bincount(place, weights=size)
            known = [np.bincount(place, weights=size * share) / totals for share in shares]
            self._known.append((dtype, keys, np.stack(known).astype(np.float32)))
        self._known.sort(key=lambda known: -known[0].itemsize)

    def _shares_of(self, X):
        """Which share of every event the model of each fold judges, (n_folds, n)."""
        n_folds = len(self._odds.models)
        shares = np.full((n_folds, len(X)), 1 / n_folds, dtype=np.float32)
        rows = np.arange(len(X))
        for dtype, keys, known in self._known:
            wanted = _keys(X[rows], dtype)
            place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            seen = keys[place] == wanted
            shares[:, rows[seen]] = known[:, place[seen]]
            rows = rows[~seen]
            if not len(rows):
                break
        return shares

    def _set_scale(self, source, weight):
        """Find the factor and the largest weight, and what they do to the source."""
        ratio = np.exp(self._log_ratio(source))
        size, total = np.abs(weight), weight.sum()
        mean = weight @ ratio / total
        if mean <= 0:
            raise ValueError(
                f"The weighted source events sum to {mean:.3g} of the source: negative weights are "
                "where the target is. Give more events, or a simpler estimator."
            )
        factor, largest = 1 / mean if self.normalize else 1.0, np.inf
        if self.max_weight is not None and self.max_weight > 1:
            largest = float(self.max_weight)
            if self.normalize and (ratio * factor).max() > largest:

                def excess(log_factor):
                    return weight @ np.minimum(ratio * np.exp(log_factor), largest) / total - 1

                # From no weight to all of them at the largest, which is more than the mean.
                ends = -np.log(ratio.max()) - 50, np.log(largest) - np.log(ratio.min())
                factor = float(np.exp(brentq(excess, *ends, xtol=1e-14)))
        elif self.max_weight is not None:
            cut = np.quantile(ratio, self.max_weight, weights=size, method="inverted_cdf")
            if self.normalize:
                factor = total / (weight @ np.minimum(ratio, cut))
            largest = float(cut * factor)
        full = ratio * factor
        weights = np.minimum(full, largest)
        over = full > largest
        self.normalization_, self.max_weight_ = float(factor), largest
        self.clipped_events_ = float(size[over].sum() / size.sum())
        self.clipped_weight_ = float(size @ (full - weights) / (size @ full))
        self.effective_sample_size_ = kish_number(weight * weights)
        if self.clipped_weight_ > _MUCH_CLIPPED:
            warnings.warn(
                f"max_weight={self.max_weight} cuts off {self.clipped_weight_:.0%} of the weight, "
                f"of {self.clipped_events_:.2%} of the source events: where they are, the weighted "
                "source has too little.",
                DomainWarning,
                stacklevel=levels_to_user(),
            )
        before = kish_number(weight)
        if self.effective_sample_size_ < _FEW_LEFT * before:
            warnings.warn(
                f"The weighted source is worth {self.effective_sample_size_:.3g} events, of "
                f"{before:.0f} before: the domains hardly have events in common, and the weights "
                "are of little use.",
                DomainWarning,
                stacklevel=levels_to_user(),
            )

    def _log_ratio(self, X):
        """Log of the ratio of densities, as found."""
        result = np.zeros(len(X))
        for k, share in enumerate(self._shares_of(X)):
            rows = np.flatnonzero(share)
            if len(rows):
                result[rows] += share[rows] * self._log_ratio_of_fold(k, X[rows])
        return result

    def _log_ratio_of_fold(self, k, X):
        result = self._odds.log_odds(k, X)
        for power, mean, sign in self._signs:
            relative = np.tanh(sign.log_odds(k, X) / 2) / mean
            result = result + power * np.log(np.maximum(relative, _LEAST_SIGN))
        return result

    def _validated(self, X):
        check_is_fitted(self)
        return validate_events(self, X, reset=False)

    def predict_weight(self, X):
        """Weights that give events of the source the distribution of the target.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        weight : ndarray of shape (n_events,)
            Non-negative, to be multiplied with the weights that events have. See `normalize` and
            `max_weight` for their scale.
        """
        ratio = np.exp(self._log_ratio(self._validated(X)))
        return np.minimum(ratio * self.normalization_, self.max_weight_)

    def predict_proba(self, X):
        """Probability of either domain, with the weights that the domains had in ``fit``.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        probabilities : ndarray of shape (n_events, 2)
            In the order of `classes_`. Not of the scale and the largest weight of
            :meth:`predict_weight`.
        """
        log_odds = self._log_ratio(self._validated(X)) + self._log_share
        proba = np.empty((len(log_odds), 2))
        proba[:, self._target], proba[:, 1 - self._target] = expit(log_odds), expit(-log_odds)
        return proba

    def predict(self, X):
        """Predict the more probable domain.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        labels : ndarray of shape (n_events,)
        """
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def _keys(X, dtype):
    """Hashes of the rows of a table as they are in a type of floats."""
    # What is too large for it is infinite, and like all others that are.
    with np.errstate(over="ignore"):
        return row_hash(X.astype(dtype, copy=False))


def _index(label, classes):
    found = [i for i, known in enumerate(classes.tolist()) if known == label]
    if not found:
        raise ValueError(
            "The 'target_label' parameter must be one of the labels in y, "
            f"{classes.tolist()!r:.200}. Got {label!r} instead."
        )
    return found[0]
