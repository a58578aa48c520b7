r"""Support vector machines, with their scaling and their probabilities.

A support vector machine [1]_ minimises :math:`\tfrac12\lVert w\rVert^2 + C\sum_i w_i\,\xi_i` over
functions :math:`f(x)=\langle w,\phi(x)\rangle+b`, where the inner product of the features
:math:`\phi` is a kernel. It needs three things around it that are easily got wrong:

* a *scale* for every feature, as the kernel compares distances: the mean and standard deviation of
  the training events, weighted like the loss;
* a *size*: the exact problem [2]_ takes :math:`O(n^2)` to :math:`O(n^3)` operations. Up to
  ``max_exact_samples`` events the kernel is exact; beyond, it is Nyström's [3]_ on ``n_landmarks``
  landmarks, with the slack squared, see :mod:`sknuc.baselines._nystroem`;
* a *probability*, which a margin is not. Platt's sigmoid [4]_, or its softmax for several classes,
  is fitted to margins of events that the machine giving them was not trained on.
"""

import warnings
from functools import partial
from itertools import combinations
from numbers import Integral, Real

import numpy as np
from joblib import Parallel, delayed
from scipy.special import expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.base import (
    center_and_scale,
    class_weights,
    encode_labels,
    levels_to_user,
    validate_events,
    validate_labels,
    validate_targets,
)
from sknuc.baselines._nystroem import NystroemMachine
from sknuc.multiplicity import (
    count_pieces,
    deal_folds,
    merge_identical,
    net_weights,
    training_events,
)

__all__ = ["SVMClassifier", "SVMRegressor"]

# Kernel rows that libsvm keeps, in MB.
CACHE_MB = 500

# The least slope of the calibration, per standard deviation of the margins.
MIN_SLOPE = 1e-6

# Mean weights below this are taken for weights on another scale than that of C.
LIGHT = 1e-2


class _BaseSVM(BaseEstimator):
    """Parameters, scaling and kernel of support vector machines."""

    _parameter_constraints: dict = {
        "C": [Interval(Real, 0, None, closed="neither")],
        "kernel": [StrOptions({"linear", "poly", "rbf"})],
        "gamma": [StrOptions({"scale", "auto"}), Interval(Real, 0, None, closed="neither")],
        "degree": [Interval(Integral, 1, None, closed="left")],
        "coef0": [Interval(Real, None, None, closed="neither")],
        "max_exact_samples": [Interval(Integral, 0, None, closed="left")],
        "n_landmarks": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
    }

    def _scale(self, X, weight):
        """Return the scaler, the scaled events and the kernel's parameters."""
        scaler = StandardScaler().fit(X, sample_weight=weight)
        X = scaler.transform(X)
        gamma = self.gamma
        if gamma == "auto":
            gamma = 1 / X.shape[1]
        elif gamma == "scale":
            # The features have weighted mean zero; only constant ones lack the variance one.
            variance = np.average(X**2, axis=0, weights=weight).mean()
            gamma = 1 / (X.shape[1] * variance) if variance > 0 else 1.0
        kernel = {
            "kernel": self.kernel,
            "gamma": gamma,
            "degree": self.degree,
            "coef0": self.coef0,
        }
        return scaler, X, kernel

    def _warn_light_weights(self, weight, n_events):
        """Say so when the scale of the weights, and not the data, keeps every margin small."""
        mean = 1.0 if weight is None else weight.sum() / n_events
        if mean * max(1, self.C) < LIGHT:
            warnings.warn(
                f"sample_weight has a mean of {mean:g}, and C={self.C:g} multiplies it: the slack "
                "costs so little that the machine hardly learns. Weights count events: divide "
                "them by their mean, or raise C.",
                UserWarning,
                stacklevel=levels_to_user(),
            )

    def _exact(self, n_events):
        return n_events <= self.max_exact_samples

    def _nystroem(self, X, Y, weight, kernel, seed, epsilon=None):
        if self.kernel == "linear":
            kernel = {"kernel": "linear"}
        elif self.kernel == "rbf":
            kernel = {"kernel": "rbf", "gamma": kernel["gamma"]}
        return NystroemMachine(
            n_landmarks=self.n_landmarks, C=self.C, epsilon=epsilon, random_state=seed, **kernel
        ).fit(X, Y, np.ones(len(X)) if weight is None else weight)

    def _events(self, X):
        check_is_fitted(self)
        return validate_events(self, X, reset=False, dtype=np.float64)


class SVMClassifier(ClassifierMixin, _BaseSVM):
    r"""Support vector machine for two classes and more, with calibrated probabilities.

    Every pair of classes has a machine with a margin :math:`d_{ij}(x)=-d_{ji}(x)`. The probability
    of a class is Platt's sigmoid for two classes and its softmax for more,

    .. math:: p_i(x) \propto \exp\Big(\frac{a}{K}\sum_{j\neq i} d_{ij}(x) + b_i\Big),\qquad a>0,

    so that the log-odds of two classes are :math:`a\,d(x)+b`, and events keep the order of the
    margin. :math:`a` and :math:`b` maximise the likelihood of the margins of a cross-fit: the
    events are dealt to folds, and each fold is judged by machines (their scaling and landmarks
    included) trained on the others. The machines that are kept are trained on all events.
    `decision_function`, `predict_proba` and `predict` read the same calibrated scores and never
    contradict each other.

    Parameters
    ----------
    C : float, default=1.0
        The price of slack, for an event of weight 1.
    kernel : {"linear", "poly", "rbf"}, default="rbf"
        The kernel, of scaled features. "sigmoid" is left out: it is not positive definite, and the
        solution not unique.
    gamma : {"scale", "auto"} or float, default="scale"
        The coefficient of the kernels "rbf" and "poly". "scale" is
        1 / (`n_features` · variance of the scaled features), "auto" is 1 / `n_features`.
    degree : int, default=3
        The degree of the kernel "poly".
    coef0 : float, default=0.0
        The constant in the kernel "poly".
    max_exact_samples : int, default=5000
        The largest number of different events for which the kernel is exact. libsvm takes a time
        of the order of :math:`n^2` to :math:`n^3`; from about 5,000 events on, Nyström's method
        with the default `n_landmarks` is faster, and separates classes nearly as well.
    n_landmarks : int, default=500
        The number of landmarks of Nyström's method beyond `max_exact_samples`.
    calibration_folds : int or None, default=5
        The number of folds of the cross-fit; at most the number of events of the smallest class.
        None takes the margin itself as the log-odds, without calibration, and trains once. So does
        a class with one event, which no cross-fit can judge; see ``n_folds_``.
    class_weight : dict, "balanced" or None, default=None
        The weights of classes, by label, which multiply the weights of events. "balanced" gives all
        classes the same sum of weights.
    tol : float, default=1e-3
        The tolerance of libsvm, for the exact kernel.
    random_state : int, RandomState instance or None, default=None
        The seed of the landmarks and of the folds.
    n_jobs : int or None, default=None
        The number of folds that are trained at the same time, as threads; None for one.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    calibration_slope_ : float
        The slope :math:`a`.
    calibration_offset_ : ndarray of shape (n_classes,)
        The offsets :math:`b_i`, which sum to zero.
    n_folds_ : int
        The number of folds of the cross-fit; 0 where the probabilities are not calibrated.
    scaler_ : StandardScaler
        The weighted means and standard deviations of the features.
    gamma_ : float
        The coefficient of the kernel.
    approximation_ : {"exact", "nystroem"}
        Which machine was trained.
    svm_ : SVC or NystroemMachine
        The machine, which reads the output of `scaler_`.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of features, where `X` is a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    BDTClassifier : Boosted decision trees.
    SVMRegressor : Support vector regression.

    Notes
    -----
    A weight is a multiplicity: 0 is no event, 2 is the event twice. Weights multiply `C`: divide
    weights on another scale, such as cross sections, by their mean. Negative weights are an error,
    as the problem is not convex with them. Missing values are an error.

    An event is judged whole by one fold, whatever its weight, and together with its copies, which
    over-samplers make. Only where features are discrete, so that some :math:`x` comes with several
    labels, are equal events taken for different ones: they, and the units of their weights, are
    dealt to the folds one by one. Class weights are no multiplicities, and divide nothing.

    References
    ----------
    .. [1] C. Cortes and V. Vapnik, "Support-vector networks", Machine Learning 20 (1995) 273.
    .. [2] C.-C. Chang and C.-J. Lin, "LIBSVM: a library for support vector machines", ACM TIST 2
           (2011) 27.
    .. [3] C. Williams and M. Seeger, "Using the Nyström method to speed up kernel machines",
           NeurIPS 13 (2000) 682.
    .. [4] J. Platt, "Probabilistic outputs for support vector machines", in: Advances in Large
           Margin Classifiers, MIT Press (1999).

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.baselines import SVMClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = np.where(np.hypot(*X.T) < 1, "signal", "background")
    >>> svm = SVMClassifier(random_state=0).fit(X, y)
    >>> svm.predict([[0.0, 0.0], [2.0, 2.0]])
    array(['signal', 'background'], dtype='<U10')
    >>> svm.approximation_
    'exact'
    """

    _parameter_constraints: dict = {
        **_BaseSVM._parameter_constraints,
        "calibration_folds": [Interval(Integral, 2, None, closed="left"), None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        *,
        C=1.0,
        kernel="rbf",
        gamma="scale",
        degree=3,
        coef0=0.0,
        max_exact_samples=5000,
        n_landmarks=500,
        calibration_folds=5,
        class_weight=None,
        tol=1e-3,
        random_state=None,
        n_jobs=None,
    ):
        self.C = C
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.max_exact_samples = max_exact_samples
        self.n_landmarks = n_landmarks
        self.calibration_folds = calibration_folds
        self.class_weight = class_weight
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train the machine and calibrate its probabilities.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,)
            The labels.
        sample_weight : array-like of shape (n_events,) or None, default=None
            The weights of events.

        Returns
        -------
        self : SVMClassifier

        Raises
        ------
        ValueError
            If `X` has NaN or infinite values, a weight is negative, fewer than two classes have
            events, or the weights of a class do not sum to a positive number.
        """
        X, y, weight = training_events(
            self, X, y, sample_weight, targets=validate_labels, dtype=np.float64
        )
        self.classes_, codes = encode_labels(self, y)
        events_weight = weight
        X, codes, weight = merge_identical(X, codes, weight)
        pieces = count_pieces(X, weight, events_weight, codes)
        weight = class_weights(self.class_weight, self.classes_, codes, weight)
        weight = np.ones(len(X)) if weight is None else weight
        net_weights(self.classes_, codes, weight)
        self._warn_light_weights(weight, len(y))
        random_state = check_random_state(self.random_state)
        machine_seed = random_state.randint(np.iinfo(np.int32).max)
        # One decision for all folds, so that the sigmoid belongs to the machine that is kept.
        train = partial(self._train, exact=self._exact(len(X)), seed=machine_seed)
        self.scaler_, self.svm_, self.gamma_ = train(X, codes, weight)
        self.approximation_ = "exact" if self._exact(len(X)) else "nystroem"

        n_classes = len(self.classes_)
        folds = min(self.calibration_folds or 0, np.bincount(codes, weights=pieces).min())
        self.n_folds_ = int(folds) if folds >= 2 else 0
        self.calibration_slope_, self.calibration_offset_ = 1.0, np.zeros(n_classes)
        if self.n_folds_:
            shares = deal_folds(pieces, codes, self.n_folds_, random_state) / pieces
            judged = self._cross_fit(X, codes, weight, shares, train)
            self.calibration_slope_, self.calibration_offset_ = _calibrate(*judged)
        return self

    def _train(self, X, codes, weight, *, exact, seed):
        """Return the scaler, the machine and the gamma of these events."""
        scaler, X, kernel = self._scale(X, weight)
        if exact:
            svm = SVC(
                C=self.C,
                tol=self.tol,
                cache_size=CACHE_MB,
                decision_function_shape="ovo",
                random_state=seed,
                **kernel,
            ).fit(X, codes, sample_weight=weight)
        else:
            signs = np.column_stack(
                [
                    np.where(codes == first, 1.0, np.where(codes == second, -1.0, 0.0))
                    for first, second in _pairs(len(self.classes_))
                ]
            )
            svm = self._nystroem(X, signs, weight, kernel, seed)
        return scaler, svm, kernel["gamma"]

    def _cross_fit(self, X, codes, weight, shares, train):
        """Return margins (m, n_classes) of unseen events, their class codes and their weights.

        `shares` (n_folds, n) is the part of the weight of every row that each fold holds out.
        """

        def judge(share):
            seen, unseen = share < 1, share > 0
            scaler, svm, _ = train(X[seen], codes[seen], (weight * (1 - share))[seen])
            margin = _margin(scaler, svm, X[unseen], len(self.classes_))
            return margin, codes[unseen], (weight * share)[unseen]

        parts = Parallel(n_jobs=self.n_jobs, prefer="threads")(
            delayed(judge)(share) for share in shares
        )
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def decision_function(self, X):
        """Calibrated score of every event, a rising function of the machine's margin.

        The margin itself is ``svm_.decision_function(scaler_.transform(X))``.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        score : ndarray of shape (n_events,) or (n_events, n_classes)
            For two classes the log-odds of the second one; else the logarithms of the
            probabilities, up to a constant of each event.
        """
        X = self._events(X)
        margin = _margin(self.scaler_, self.svm_, X, len(self.classes_))
        score = self.calibration_slope_ * margin + self.calibration_offset_
        return score[:, 1] - score[:, 0] if score.shape[1] == 2 else score

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
        score = self.decision_function(X)
        if score.ndim == 2:
            return softmax(score, axis=1)
        return np.column_stack([expit(-score), expit(score)])

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
        score = self.decision_function(X)
        index = score.argmax(axis=1) if score.ndim == 2 else (score > 0).astype(np.intp)
        return self.classes_[index]


class SVMRegressor(RegressorMixin, _BaseSVM):
    r"""Support vector regression for one target or several.

    The slack of an event is :math:`\xi=\max(0,|y-f(x)|-\epsilon)`, with targets scaled to mean 0
    and standard deviation 1 inside; several targets are trained one by one on the same kernel.

    Parameters
    ----------
    C : float, default=1.0
        The price of slack, for an event of weight 1.
    kernel : {"linear", "poly", "rbf"}, default="rbf"
        The kernel, of scaled features. "sigmoid" is left out: it is not positive definite, and the
        solution not unique.
    gamma : {"scale", "auto"} or float, default="scale"
        The coefficient of the kernels "rbf" and "poly". "scale" is
        1 / (`n_features` · variance of the scaled features), "auto" is 1 / `n_features`.
    degree : int, default=3
        The degree of the kernel "poly".
    coef0 : float, default=0.0
        The constant in the kernel "poly".
    epsilon : float, default=0.1
        The half-width of the tube without slack, in standard deviations of the target.
    max_exact_samples : int, default=5000
        The largest number of different events for which the kernel is exact. libsvm takes a time
        of the order of :math:`n^2` to :math:`n^3` for every target.
    n_landmarks : int, default=500
        The number of landmarks of Nyström's method beyond `max_exact_samples`.
    tol : float, default=1e-3
        The tolerance of libsvm, for the exact kernel.
    random_state : int, RandomState instance or None, default=None
        The seed of the landmarks.
    n_jobs : int or None, default=None
        The number of targets that are trained at the same time, as threads; None for one.

    Attributes
    ----------
    target_center_, target_scale_ : ndarray of shape (n_targets,)
        The weighted mean and standard deviation of every target, in the unit of `y`.
    n_targets_ : int
        The number of targets.
    scaler_ : StandardScaler
        The weighted means and standard deviations of the features.
    gamma_ : float
        The coefficient of the kernel.
    approximation_ : {"exact", "nystroem"}
        Which machine was trained.
    svm_ : list of SVR, one per target, or NystroemMachine
        The machine, which reads the output of `scaler_`.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features,)
        The names of features, where `X` is a data frame.
    input_shape_ : tuple of int
        The shape of one event.

    See Also
    --------
    BDTRegressor : Boosted decision trees.
    SVMClassifier : Support vector machine for classes.

    Notes
    -----
    A weight is a multiplicity: 0 is no event, 2 is the event twice. Weights multiply `C`: divide
    weights on another scale, such as cross sections, by their mean. Negative weights are an error,
    as the problem is not convex with them. Missing values are an error.

    References
    ----------
    .. [1] C. Cortes and V. Vapnik, "Support-vector networks", Machine Learning 20 (1995) 273.
    .. [2] C.-C. Chang and C.-J. Lin, "LIBSVM: a library for support vector machines", ACM TIST 2
           (2011) 27.
    .. [3] C. Williams and M. Seeger, "Using the Nyström method to speed up kernel machines",
           NeurIPS 13 (2000) 682.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.baselines import SVMRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-2, 2, size=(200, 1))
    >>> svm = SVMRegressor(C=10, epsilon=0.01).fit(X, np.sin(X[:, 0]))
    >>> bool(abs(svm.predict([[1.0]])[0] - np.sin(1.0)) < 0.02)
    True
    """

    _parameter_constraints: dict = {
        **_BaseSVM._parameter_constraints,
        "epsilon": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        *,
        C=1.0,
        kernel="rbf",
        gamma="scale",
        degree=3,
        coef0=0.0,
        epsilon=0.1,
        max_exact_samples=5000,
        n_landmarks=500,
        tol=1e-3,
        random_state=None,
        n_jobs=None,
    ):
        self.C = C
        self.kernel = kernel
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0
        self.epsilon = epsilon
        self.max_exact_samples = max_exact_samples
        self.n_landmarks = n_landmarks
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train the machine.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            The weights of events.

        Returns
        -------
        self : SVMRegressor

        Raises
        ------
        ValueError
            If `X` or `y` has NaN or infinite values, or a weight is negative.
        """
        X, y, weight = training_events(
            self, X, y, sample_weight, targets=validate_targets, dtype=np.float64
        )
        self._one_dimensional = y.ndim == 1
        n_events = len(y)
        X, y, weight = merge_identical(X, y.reshape(len(y), -1), weight)
        self._warn_light_weights(weight, n_events)
        self.n_targets_ = y.shape[1]
        self.target_center_, self.target_scale_ = center_and_scale(y, weight)
        y = (y - self.target_center_) / self.target_scale_
        self.scaler_, X, kernel = self._scale(X, weight)
        if self._exact(len(X)):
            machines = [
                SVR(C=self.C, epsilon=self.epsilon, tol=self.tol, cache_size=CACHE_MB, **kernel)
                for _ in y.T
            ]
            for machine in machines:
                # Without a seed, libsvm's wrapper draws one from NumPy's global generator. An SVR
                # has no parameter for it, since nothing in it is random.
                machine.random_state = 0
            self.svm_ = Parallel(n_jobs=self.n_jobs, prefer="threads")(
                delayed(machine.fit)(X, target, sample_weight=weight)
                for machine, target in zip(machines, y.T, strict=True)
            )
        else:
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            self.svm_ = self._nystroem(X, y, weight, kernel, seed, epsilon=self.epsilon)
        self.gamma_ = kernel["gamma"]
        self.approximation_ = "exact" if self._exact(len(X)) else "nystroem"
        return self

    def predict(self, X):
        """Target of every event.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            In the unit of the targets.
        """
        X = self._events(X)
        X = self.scaler_.transform(X)
        if self.approximation_ == "exact":
            y = np.column_stack([svr.predict(X) for svr in self.svm_])
        else:
            y = self.svm_.decision_function(X)
        y = self.target_center_ + self.target_scale_ * y
        return y[:, 0] if self._one_dimensional else y


def _pairs(n_classes):
    """Return the pairs of classes in libsvm's order, the favoured one first."""
    return [(1, 0)] if n_classes == 2 else list(combinations(range(n_classes), 2))


def _margin(scaler, svm, X, n_classes):
    """Return the mean margin of every class against the others, (n, n_classes), of raw events."""
    pairwise = svm.decision_function(scaler.transform(X)).reshape(len(X), -1)
    margin = np.zeros((len(X), n_classes))
    for (first, second), values in zip(_pairs(n_classes), pairwise.T, strict=True):
        margin[:, first] += values / n_classes
        margin[:, second] -= values / n_classes
    return margin


def _calibrate(margin, codes, weight):
    """Fit the slope :math:`a>0` and the offsets :math:`b_i` of a softmax to margins.

    As in [4]_, a class of weight :math:`N` counts as :math:`(N+1)/(N+2)` and not as certain, so
    that separable margins have a finite slope. Newton's method with step halving, as the
    likelihood is concave.
    """
    n_classes = margin.shape[1]
    weight = np.ones(len(margin)) if weight is None else weight
    class_weight = np.bincount(codes, weights=weight, minlength=n_classes)
    rest = 1 / (class_weight[codes] + 2)
    target = np.repeat(rest[:, None] / (n_classes - 1), n_classes, axis=1)
    target[np.arange(len(codes)), codes] = 1 - rest
    weight = (weight / weight.sum())[:, None]
    scale = np.sqrt((weight * (margin - (weight * margin).sum(axis=0)) ** 2).sum()) or 1.0
    f = margin / scale

    def loss(x):
        return -(weight * target * log_softmax(x[0] * f + x[1:], axis=1)).sum()

    constant = np.log((weight * target).sum(axis=0))
    x = np.concatenate([[0.0], constant])
    for _ in range(100):
        p = softmax(x[0] * f + x[1:], axis=1)
        residual = weight * (p - target)
        gradient = np.concatenate([[(residual * f).sum()], residual.sum(axis=0)])
        if np.abs(gradient).max() < 1e-12:
            break
        mean = np.column_stack([(p * f).sum(axis=1), p])
        hessian = np.diag(np.concatenate([[(weight * p * f**2).sum()], (weight * p).sum(axis=0)]))
        hessian[0, 1:] = hessian[1:, 0] = (weight * p * f).sum(axis=0)
        hessian -= mean.T @ (weight * mean)
        # A constant added to all offsets changes nothing: the least-norm step leaves it out.
        step = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0]
        length, now = 1.0, loss(x)
        while loss(x - length * step) > now and length > 1e-10:
            length /= 2
        if length <= 1e-10:
            break
        x = x - length * step
    if x[0] < MIN_SLOPE:
        # Margins that say nothing about unseen events give the class frequency, and keep order.
        x = np.concatenate([[MIN_SLOPE], constant])
    return float(x[0] / scale), x[1:] - x[1:].mean()
