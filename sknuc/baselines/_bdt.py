r"""Boosted decision trees.

The margin of an event is a sum of regression trees, :math:`f(x)=f_0+\eta\sum_t T_t(x)`, grown one
after another to lower :math:`\sum_i w_i\,\ell(y_i, f(x_i))` [1]_. With the derivatives
:math:`g, h` of :math:`\ell`, a leaf takes the value :math:`-G/(H+\lambda)`, where
:math:`G=\sum w g` and :math:`H=\sum w h` run over the events of the leaf, and a split is worth

.. math:: \tfrac12\left[\frac{G_L^2}{H_L+\lambda} + \frac{G_R^2}{H_R+\lambda}
          - \frac{G^2}{H+\lambda}\right].

Histograms of at most ``max_bins`` bins per feature make the search for the best split cheap [2]_;
a missing value takes the side of the split that is worth more. The sums are all that the events
enter with, so a weight of 2 equals the event twice, and signed Monte-Carlo weights have a meaning.

The trees are grown by xgboost. This file adds the contract of scikit-learn: labels, weights,
targets on their own scale, an early stop on a seeded split, and exact Shapley values.
"""

import numpy as np
from scipy.special import expit, logit, softmax
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import StrOptions

from sknuc.base import (
    center_and_scale,
    class_weights,
    encode_labels,
    validate_labels,
    validate_targets,
)
from sknuc.baselines._boosting import BaseBDT, total_weight
from sknuc.baselines._losses import LOSSES
from sknuc.multiplicity import net_weights
from sknuc.tree_estimator import count_events

__all__ = ["BDTClassifier", "BDTRegressor"]


class BDTClassifier(ClassifierMixin, BaseBDT):
    r"""Boosted decision trees for two classes and more.

    Minimises the cross entropy. With two classes :math:`p(y=1|x)=1/(1+e^{-f(x)})`; with more, each
    class has its own trees and :math:`p` is the softmax of the margins. The first margin
    :math:`f_0` is that of the class frequencies. Missing values (NaN) are allowed.

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default=None
        The weights of classes, by label, which multiply the weights of events. "balanced" gives all
        classes the same sum of weights.
    min_child_weight : float, default=1.0
        The smallest sum of :math:`w h` in a leaf. For two classes :math:`h=p(1-p)\leq 1/4`, and
        :math:`p` starts as the share of the second class: the leaves of a rare class, or of one of
        small weights, need so many events more.
    monotonic_cst : array-like of int of shape (n_features,), dict or None, default=None
        The direction in which the margin of the second class may change with a feature: 1 never
        falls, -1 never rises, 0 is free. A dict maps feature names to directions. For two classes.
    negative_weights : {"error", "signed"}, default="error"
        What happens to negative Monte-Carlo weights. "error" refuses them. "signed" takes them into
        the sums :math:`G` and :math:`H` with their sign, which keeps the expectation of the loss
        that the generator means; a split that leaves :math:`H` below `min_child_weight` on one
        side is not made, so `min_child_weight` must exceed the fluctuation of a few negative
        events. The net weight of every class must be positive.
    validation_fraction : float, default=0.1
        The fraction of events to hold out, with the classes in proportion.
    tol : float, default=1e-7
        The smallest improvement of the mean cross entropy, in nats, that counts.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    booster_ : xgboost.Booster
        The trees; for two classes their prediction is the margin, not its probability.
    n_iter_ : int
        The number of boosting rounds kept.
    validation_loss_ : ndarray of shape (n_rounds,) or None
        The mean cross entropy of the held-out events after each round, also of those not kept, in
        nats; None without `early_stopping`.
    feature_importances_ : ndarray of shape (n_features,)
        The total gain of the splits on each feature, normalised to a sum of one.
    expected_value_ : float or ndarray of shape (n_outputs,)
        The margin without any feature, to which :meth:`shap_values` add; one per class for three
        classes and more.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of features, where `X` is a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    BDTRegressor : Boosted trees for numbers.
    SVMClassifier : Support vector machine with calibrated probabilities.

    Notes
    -----
    Features are read as float32, 24 bits: subtract the offset of time stamps first. An event of
    weight zero is the same as no event. Events of one class only are an error.

    `early_stopping` and `subsample` hold out and draw an event whole, whatever its weight, and
    together with its copies, which over-samplers make. Only where features are discrete, so that
    some :math:`x` comes with several labels, are equal events taken for different ones: they, and
    the units of their weights, are held out and drawn one by one.

    References
    ----------
    .. [1] J. H. Friedman, "Greedy function approximation: a gradient boosting machine", Annals of
           Statistics 29 (2001) 1189.
    .. [2] T. Chen and C. Guestrin, "XGBoost: a scalable tree boosting system", KDD 2016,
           arXiv:1603.02754.
    .. [3] S. M. Lundberg et al., "From local explanations to global understanding with explainable
           AI for trees", Nature Machine Intelligence 2 (2020) 56, arXiv:1905.04610.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.baselines import BDTClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 3))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "signal", "background")
    >>> bdt = BDTClassifier(max_iter=30, random_state=0).fit(X, y)
    >>> bdt.predict([[1.0, 1.0, 0.0], [1.0, -1.0, np.nan]])
    array(['signal', 'background'], dtype='<U10')
    >>> margin = bdt.expected_value_ + bdt.shap_values(X).sum(axis=1)
    >>> bool(np.allclose(margin, bdt.decision_function(X), atol=1e-5))
    True
    """

    _parameter_constraints: dict = {
        **BaseBDT._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(self, *, class_weight=None, **shared):
        super().__init__(**shared)
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Grow the trees.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; NaN marks a missing value.
        y : array-like of shape (n_events,)
            The labels.
        sample_weight : array-like of shape (n_events,) or None, default=None
            The weights of events.

        Returns
        -------
        self : BDTClassifier

        Raises
        ------
        ValueError
            If `X` has infinite values or values beyond float32, weights are negative and
            ``negative_weights="error"``, or a class has no positive net weight, in all events or,
            with `early_stopping`, in those held out.
        """
        X, y, weight = self._training_events(X, y, sample_weight, validate_labels)
        self.classes_, codes = encode_labels(self, y)
        n_events = count_events(X, weight)
        X, codes, weight, pieces = self._merge(X, codes, weight)
        n_classes = len(self.classes_)
        given = net_weights(self.classes_, codes, weight)
        weight = class_weights(self.class_weight, self.classes_, codes, weight)
        net = net_weights(self.classes_, codes, weight)
        prior = net / net.sum()
        if n_classes == 2:
            loss, params = LOSSES["binary"], {"base_score": logit(prior[1])}
        else:
            if self.monotonic_cst is not None:
                raise ValueError(
                    "The 'monotonic_cst' parameter is for two classes, as the sum of the "
                    f"probabilities ties all margins together. Got {n_classes} classes instead."
                )
            loss = LOSSES["multiclass"]
            params = {"base_score": np.log(prior).tolist(), "num_class": n_classes}
        self._grow(
            X,
            codes,
            weight,
            pieces,
            loss,
            n_events=n_events,
            # A class that `class_weight` makes light is what was asked for.
            hessian=4 * loss.first_hessian * max(_sum_of_variances(net), _sum_of_variances(given)),
            stratified=True,
            **params,
        )
        return self

    def decision_function(self, X):
        """Margin of every event: the log-odds of two classes, else one margin per class.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        margin : ndarray of shape (n_events,) or (n_events, n_classes)
        """
        return self._margin(self._events(X))

    def predict_proba(self, X):
        """Probability of every class.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        proba : ndarray of shape (n_events, n_classes)
        """
        margin = self.decision_function(X)
        if margin.ndim == 2:
            return softmax(margin, axis=1)
        proba = np.empty((len(margin), 2))
        proba[:, 1] = expit(margin)
        proba[:, 0] = 1 - proba[:, 1]
        return proba

    def predict(self, X):
        """Most probable class of every event.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        label : ndarray of shape (n_events,)
        """
        margin = self.decision_function(X)
        index = margin.argmax(axis=1) if margin.ndim == 2 else (margin > 0).astype(np.intp)
        return self.classes_[index]


class BDTRegressor(RegressorMixin, BaseBDT):
    r"""Boosted decision trees for one target or several.

    Targets are trained on their own scale :math:`(y-a)/b`, so that an energy in eV and one in
    TeV give the same trees:

    ================== ============================================ ================= ===========
    loss               :math:`\ell(y,f)`, scaled                     :math:`a`         :math:`b`
    ================== ============================================ ================= ===========
    "squared_error"    :math:`(y-f)^2`                              mean              std
    "absolute_error"   :math:`|y-f|`                                median            1.48 MAD
    "huber"            :math:`\sqrt{1+(y-f)^2}-1`                   median            1.48 MAD
    "poisson"          :math:`e^f-yf`                               0                 mean
    "gamma"            :math:`f+ye^{-f}`                            0                 mean
    ================== ============================================ ================= ===========

    MAD is the median absolute deviation. "huber" (pseudo-Huber) is quadratic up to about
    :math:`b`, a robust standard deviation, and linear beyond. "poisson" and "gamma" predict
    :math:`b e^f`. All of :math:`a, b` are weighted. Missing values (NaN) in `X` are allowed.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "huber", "poisson", "gamma"}, \
            default="squared_error"
        What the trees minimise.
    min_child_weight : float, default=1.0
        The smallest sum of :math:`w h` in a leaf. For the squared error :math:`h=1`, so that it
        counts events.
    monotonic_cst : array-like of int of shape (n_features,), dict or None, default=None
        The direction in which the prediction may change with a feature: 1 never falls,
        -1 never rises, 0 is free. A dict maps feature names to directions.
    negative_weights : {"error", "signed"}, default="error"
        What happens to negative Monte-Carlo weights. "error" refuses them. "signed" takes them into
        the sums :math:`G` and :math:`H` with their sign, which keeps the expectation of the loss
        that the generator means; a split that leaves :math:`H` below `min_child_weight` on one
        side is not made, so `min_child_weight` must exceed the fluctuation of a few negative
        events. Not for "absolute_error", whose leaves are medians.
    {shared_parameters}

    Attributes
    ----------
    target_center_, target_scale_ : ndarray of shape (n_targets,)
        The numbers :math:`a` and :math:`b`, in the unit of `y`.
    n_targets_ : int
        The number of targets.
    booster_ : xgboost.Booster
        The trees.
    n_iter_ : int
        The number of boosting rounds kept.
    validation_loss_ : ndarray of shape (n_rounds,) or None
        The mean of the loss above, of scaled targets, over the held-out events and the targets
        after each round, also of those not kept; None without `early_stopping`.
    feature_importances_ : ndarray of shape (n_features,)
        The total gain of the splits on each feature, normalised to a sum of one.
    expected_value_ : float or ndarray of shape (n_outputs,)
        The prediction (its logarithm for "poisson" and "gamma") without any feature, to which
        :meth:`shap_values` add; one per target for several.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of features, where `X` is a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    BDTClassifier : Boosted trees for classes.
    SVMRegressor : Support vector regression.

    Notes
    -----
    Features are read as float32, 24 bits: subtract the offset of time stamps first. An event of
    weight zero is the same as no event.

    `early_stopping` and `subsample` hold out and draw an event whole, whatever its weight, and
    together with its copies, which over-samplers make. Only where features are discrete, so that
    some :math:`x` comes with several targets, are equal events taken for different ones: they, and
    the units of their weights, are held out and drawn one by one.

    References
    ----------
    .. [1] J. H. Friedman, "Greedy function approximation: a gradient boosting machine", Annals of
           Statistics 29 (2001) 1189.
    .. [2] T. Chen and C. Guestrin, "XGBoost: a scalable tree boosting system", KDD 2016,
           arXiv:1603.02754.
    .. [3] S. M. Lundberg et al., "From local explanations to global understanding with explainable
           AI for trees", Nature Machine Intelligence 2 (2020) 56, arXiv:1905.04610.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.baselines import BDTRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(500, 2))
    >>> bdt = BDTRegressor(random_state=0).fit(X, X[:, 0] ** 2)
    >>> bool(abs(bdt.predict([[0.5, 0.0]])[0] - 0.25) < 0.05)
    True
    """

    _parameter_constraints: dict = {
        "loss": [StrOptions({"squared_error", "absolute_error", "huber", "poisson", "gamma"})],
        **BaseBDT._parameter_constraints,
    }

    def __init__(self, *, loss="squared_error", **shared):
        super().__init__(**shared)
        self.loss = loss

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Grow the trees.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; NaN marks a missing value.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            The weights of events.

        Returns
        -------
        self : BDTRegressor

        Raises
        ------
        ValueError
            If `X` has infinite values or values beyond float32, a target is outside the range of
            the loss, or weights are negative and ``negative_weights="error"``.
        """
        X, y, weight = self._training_events(X, y, sample_weight, validate_targets)
        self._one_dimensional = y.ndim == 1
        self._log_link = self.loss in ("poisson", "gamma")
        n_events = count_events(X, weight)
        X, y, weight, pieces = self._merge(X, y.reshape(len(y), -1), weight)
        self.n_targets_ = y.shape[1]
        self.target_center_, self.target_scale_ = _target_scale(y, weight, self.loss)
        y = (y - self.target_center_) / self.target_scale_
        if self.loss == "absolute_error" and weight is None:
            # xgboost interpolates medians of unweighted events only; a weight of one must not.
            weight = np.ones(len(X))
        self._grow(
            X,
            y[:, 0] if self.n_targets_ == 1 else y,
            weight,
            pieces,
            LOSSES[self.loss],
            n_events=n_events,
            hessian=LOSSES[self.loss].first_hessian * total_weight(X, weight),
            base_score=1.0 if self._log_link else 0.0,
        )
        offset = np.log(self.target_scale_) if self._log_link else self.target_center_
        expected = offset + np.atleast_1d(self.expected_value_)
        self.expected_value_ = float(expected[0]) if self.n_targets_ == 1 else expected
        return self

    def _contributions(self, X, *, interactions):
        values, base = super()._contributions(X, interactions=interactions)
        if self._log_link:
            return values, base
        scale = self.target_scale_ if self.n_targets_ > 1 else float(self.target_scale_[0])
        return values * scale, base * scale

    def predict(self, X):
        """Target of every event.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            In the unit of the targets, float64.
        """
        margin = self._margin(self._events(X))
        margin = margin.reshape(len(margin), self.n_targets_)
        value = np.exp(margin) if self._log_link else margin
        y = self.target_center_ + self.target_scale_ * value
        return y[:, 0] if self._one_dimensional else y


def _sum_of_variances(net):
    """Return the sum of w p(1-p), p the share of the class closest to one half: of its trees."""
    return (net * (1 - net / net.sum())).max()


def _target_scale(y, weight, loss):
    """Return the centre and the scale of every target, each of shape (n_targets,)."""
    if loss in ("poisson", "gamma"):
        if (y < 0).any() or (loss == "gamma" and (y == 0).any()):
            allowed = "non-negative" if loss == "poisson" else "positive"
            raise ValueError(f"loss={loss!r} needs {allowed} targets y. Got a y of {y.min():g}.")
        mean = np.average(y, axis=0, weights=weight)
        if (mean <= 0).any():
            raise ValueError(f"loss={loss!r} needs targets y with a positive mean. Got {mean}.")
        return np.zeros(y.shape[1]), mean
    # Location and scale only set the unit, so that signed weights may enter by their size.
    size = None if weight is None else np.abs(weight)
    mean, std = center_and_scale(y, size)
    if loss == "squared_error":
        return mean, std
    size = np.ones(len(y)) if size is None else size

    def median(values):
        return np.quantile(values, 0.5, axis=0, weights=size, method="inverted_cdf")

    center = median(y)
    mad = 1.4826 * median(np.abs(y - center))
    # More than half of the targets at one value have no median deviation.
    return center, np.where(mad > 0, mad, std)
