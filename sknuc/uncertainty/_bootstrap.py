r"""Bootstrap: the spread of estimators that learned from events drawn anew.

What would have come out, had the same experiment been done again? Each of K members learns from the
events with weights drawn from a Poisson distribution of mean one (events drawn with replacement,
without fixing their number) or an exponential one (Rubin's Bayesian bootstrap). The spread of the
members is what the statistics of the training leaves open. The noise of single events is measured
where it is honest: on the events that a member has not seen (out of bag).

For regression, let :math:`\mu_k` be the members, v(x) the variance between them, and
:math:`\bar\mu_{-i}` the mean of the :math:`m_i \approx K/e` of them that have not seen event i. Its
squared error holds the noise s², what is wrong with the mean of infinitely many members (b², from
the bias and from the training), and v/m_i; for the mean of all K it would be v/K. So

.. math:: \mathrm{E} = \Big\langle (y_i - \bar\mu_{-i})^2
   - v_i \Big(\frac1{m_i} - \frac1K\Big)\Big\rangle \approx s^2 + b^2 + \frac vK

is the squared error of a prediction. The members around their mean have the variance
:math:`V = \langle v_i\rangle(1 - 1/K)` already, a part of which is the noise that they learned by
heart, and

.. math:: \sigma^2 = E - V

is left for the Gaussian around each, so that the predicted variance is the squared error. Of linear
models, where v is b², that is s²; of trees, whose leaves are single events, next to nothing. Where
members scatter by more than the error of their mean, they are drawn together until they do not,
:math:`\mu_k \to \bar\mu + a(\mu_k - \bar\mu)` with :math:`a^2 = (E-\sigma^2)/V`, and
:math:`\sigma^2 = E/K` joins K points to one density.
"""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, _fit_context, clone
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.parallel import Parallel, delayed
from tqdm.auto import tqdm

from sknuc.base import (
    EnsembleClassifierMixin,
    PredictiveRegressorMixin,
    encode_labels,
    validate_events,
    validate_labels,
    validate_targets,
)
from sknuc.metrics._final_step import final_step, is_frozen
from sknuc.multiplicity import count_pieces, merge_identical, training_events
from sknuc.predictive import Draws, NormalMixture
from sknuc.uncertainty._spread import check_return_std
from sknuc.uncertainty._weight_requests import takes_weights

__all__ = ["BootstrapClassifier", "BootstrapRegressor"]

# Draws of one member until events of two classes are among them.
_MAX_DRAWS = 1000


class _Bootstrap(MetaEstimatorMixin, BaseEstimator):
    """Draws of weights, training and prediction of the members."""

    _parameter_constraints = {
        "estimator": [HasMethods(["fit", "predict"]), None],
        "n_members": [Interval(Integral, 2, None, closed="left")],
        "weights": [StrOptions({"poisson", "bayesian"})],
        "random_state": ["random_state"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        estimator=None,
        *,
        n_members=20,
        weights="poisson",
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.n_members = n_members
        self.weights = weights
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _validate_events(self, X, *, reset):
        return validate_events(self, X, reset=reset, ensure_all_finite=self._finite())

    def _finite(self):
        return "allow-nan" if self._base().__sklearn_tags__().input_tags.allow_nan else True

    def _base(self):
        return self._default() if self.estimator is None else self.estimator

    def _events(self, X):
        """Rows of the table, in the shape in which the events came for whoever reads shapes."""
        if self._scaler is not None:
            return self._scaler.transform(X)
        names = (name.split("__")[-1] for name in self._base().get_params())
        if len(self.input_shape_) == 1 or "input_shape" not in names:
            return X
        return X.reshape(len(X), *self.input_shape_)

    def _training_events(self, X, y, sample_weight, targets):
        return training_events(
            self, X, y, sample_weight, targets=targets, ensure_all_finite=self._finite()
        )

    def _draw(self, pieces, size, accept, rng):
        """Weights of the events for every member, of shape (n_members, n)."""
        drawn = np.empty((self.n_members, len(pieces)))
        for member in drawn:
            for _ in range(_MAX_DRAWS):
                if self.weights == "poisson":
                    member[:] = rng.poisson(pieces)
                else:
                    member[:] = rng.standard_gamma(pieces)
                if accept(member):
                    break
            else:
                raise ValueError(
                    f"Of {_MAX_DRAWS} bootstrap samples of {len(pieces)} events none had events of "
                    "two classes. Give more events, or weights='bayesian', which leaves none out."
                )
        return drawn * size

    def _train(self, X, y, pieces, weight, accept):
        """Fit the members; returns the weights that each gave the events."""
        rng = check_random_state(self.random_state)
        size = 1.0 if weight is None else weight / pieces
        drawn = self._draw(pieces, size, accept, rng)
        base = self._base()
        if is_frozen(base):
            raise ValueError(
                "The 'estimator' parameter must be one that learns, as members differ by the "
                f"events that they have learnt from. What predicts in {type(base).__name__} is a "
                "FrozenEstimator."
            )
        # Trees see no difference where numbers differ by less than 1e-7.
        default = self.estimator is None
        self._scaler = StandardScaler().fit(X, sample_weight=weight) if default else None
        weighted = takes_weights(base)
        if weighted and hasattr(base, "_fit_stack"):
            estimator = _with_seed(clone(base), rng)
            self.estimators_ = [estimator._fit_stack(self._events(X), y, drawn)]
            return drawn
        times = np.rint(drawn)
        # Sums of weights differ in their last bits from the integers that they mean.
        if not weighted and np.any(np.abs(drawn - times) > 1e-6):
            raise ValueError(
                f"{type(base).__name__}.fit takes no sample_weight, or what learns in it has "
                "refused or not requested it, and so the 'estimator' parameter can have whole "
                "events only: neither fractional weights nor weights='bayesian'. Where it holds "
                "others, as a Pipeline does, request them for all that learns with "
                "set_fit_request(sample_weight=True) and "
                "sklearn.set_config(enable_metadata_routing=True). Some of scikit-learn's that "
                "hold others, as AdaBoostRegressor, route nothing: they take weights with "
                "enable_metadata_routing=False only."
            )
        drawn = drawn if weighted else times
        members = [_with_seed(clone(base), rng) for _ in drawn]

        def fit(estimator, member):
            used = np.flatnonzero(member)
            if not weighted:
                used = np.repeat(used, member[used].astype(np.intp))
                return estimator.fit(self._events(X[used]), y[used])
            return estimator.fit(self._events(X[used]), y[used], sample_weight=member[used])

        jobs = Parallel(n_jobs=self.n_jobs, return_as="generator")(
            delayed(fit)(estimator, member)
            for estimator, member in zip(members, drawn, strict=True)
        )
        progress = tqdm(jobs, total=len(members), desc="members", disable=not self.verbose)
        self.estimators_ = list(progress)
        return drawn

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._base().__sklearn_tags__().input_tags.allow_nan
        return tags


class BootstrapRegressor(PredictiveRegressorMixin, _Bootstrap):
    r"""Any regressor, fitted on K bootstrap samples.

    The members' predictions :math:`\mu_k(x)` are an ensemble for what the statistics of the
    training leaves open. Around each, a measurement scatters by the noise :math:`\sigma`, which is
    such that the predicted variance is the mean square of :math:`y_i - \bar\mu_{-i}(x_i)`, where
    :math:`\bar\mu_{-i}` is the mean of the members that have not seen event i:

    .. math:: \sigma^2 = \Big\langle (y_i - \bar\mu_{-i})^2
       - v_i\Big(1 + \frac1{m_i} - \frac2K\Big)\Big\rangle ,

    v_i the variance between the :math:`m_i` members that have not seen it. It is at least 1/K of
    the squared error of the members' mean; members that scatter by more than is then left are drawn
    towards their mean.

    Parameters
    ----------
    estimator : regressor or None, default=None
        What is fitted; None is a :class:`~sklearn.tree.DecisionTreeRegressor` of standardised
        features and targets. The members of a :class:`sknuc.networks.NeuralRegressor` are trained
        as one stack.
    n_members : int, default=20
        K.
    weights : {"poisson", "bayesian"}, default="poisson"
        Numbers of times that an event is drawn, or exponential weights, with which every event
        takes part. Events are then never out of bag, and `noise` cannot be "oob".
    noise : {"oob", "model"} or None, default="oob"
        How a measurement scatters around a member: as measured out of bag, as the members say
        themselves (``predict(X, return_std=True)``), or not at all: intervals are then those of the
        mean.
    random_state : int, RandomState or None, default=None
        Seed of the draws and of the members.
    n_jobs : int or None, default=None
        Processes that fit members; a stack of networks is one computation.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    estimators_ : list of regressor
        The members; one for all, if it is a stack of networks.
    noise_ : ndarray of shape (n_targets,)
        :math:`\sigma`, in the units of the targets; nan unless `noise` is "oob".
    shrinkage_ : ndarray of shape (n_targets,)
        The factor of the members' distances to their mean in the predicted distribution; 1 unless
        they scatter by more than their mean is wrong out of bag.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        Of the targets in the training.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    Notes
    -----
    A weight of 2 is exactly the event twice: identical events are merged to one of their summed
    weight w. It is drawn as one, with the weight w a Poisson(1) number of times, so that heavy
    events make a spread as large as few events do. Where one x comes with several y, it is a value
    that many events share, as a count or a bin, and w says how many: a Poisson(w) number is drawn.

    References
    ----------
    B. Efron, R. Tibshirani, "Improvements on Cross-Validation: The .632+ Bootstrap Method", JASA 92
    (1997) 548. D. B. Rubin, "The Bayesian Bootstrap", Ann. Statist. 9 (1981) 130. M. West,
    "Approximating Posterior Distributions by Mixtures", J. R. Stat. Soc. B 55 (1993) 409.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from sknuc.uncertainty import BootstrapRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 1))
    >>> y = X[:, 0] + 0.5 * rng.normal(size=400)
    >>> model = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y)
    >>> bool(0.45 < model.noise_[0] < 0.55)
    True
    """

    _parameter_constraints = {
        **_Bootstrap._parameter_constraints,
        "noise": [StrOptions({"oob", "model"}), None],
    }

    def __init__(
        self,
        estimator=None,
        *,
        n_members=20,
        weights="poisson",
        noise="oob",
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        super().__init__(
            estimator,
            n_members=n_members,
            weights=weights,
            random_state=random_state,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.noise = noise

    def _default(self):
        return DecisionTreeRegressor()

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Fit the members.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : BootstrapRegressor

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, `weights` and `noise` do not fit together,
            or the estimator takes no weights or gives no standard deviations where some are needed.
        """
        if self.noise == "model":
            check_return_std(self._base(), "noise='model'")
        if self.weights == "bayesian" and self.noise == "oob":
            raise ValueError(
                "weights='bayesian' leaves no event out of bag, and so noise='oob' cannot be "
                "measured. Set noise='model' or None, or weights='poisson'."
            )
        X, y, weight = self._training_events(X, y, sample_weight, validate_targets)
        self._scale_targets(X, y, weight)
        given = weight
        X, y, weight = merge_identical(X, y, weight)
        pieces = count_pieces(X, weight, given, y)
        targets = y.reshape(len(y), -1)
        if self.estimator is None:
            targets = (targets - self.target_mean_) / self.target_scale_
        drawn = self._train(X, targets.reshape(y.shape), pieces, weight, np.any)
        self.noise_ = np.full(len(self.target_mean_), np.nan)
        self.shrinkage_ = np.ones_like(self.noise_)
        if self.noise == "oob":
            y = y.reshape(len(y), -1)
            self.noise_, self.shrinkage_ = self._measure_noise(X, y, weight, drawn == 0)
        return self

    def _measure_noise(self, X, y, weight, unseen):
        """Return the noise and the shrinkage, (n_targets,) each, see the head of this file."""
        n_members = self.n_members
        error, excess, spread = np.zeros((3, y.shape[1]))
        total = 0.0
        step = max(1, 2**22 // (n_members * y.shape[1]))
        for start in range(0, len(X), step):
            rows = slice(start, start + step)
            judged = unseen[:, rows].T[..., None]
            predictions, _ = self._members(X[rows])
            # Two members at least, so that they have a spread.
            counts = np.maximum(judged.sum(1), 2)
            w = (judged.sum(1)[:, 0] >= 2) * (1.0 if weight is None else weight[rows])
            mean = (predictions * judged).sum(1) / counts
            variance = ((predictions - mean[:, None]) ** 2 * judged).sum(1) / (counts - 1)
            squares = (y[rows] - mean) ** 2
            error += w @ squares
            excess += w @ (variance * (1 / counts - 1 / n_members))
            spread += w @ variance * (1 - 1 / n_members)
            total += w.sum()
        if total == 0:
            raise ValueError(
                f"Of n_samples={len(X)} different events none is out of bag for two of "
                f"n_members={n_members}. Give more of either, or noise=None."
            )
        # Few members judge an event, so that their mean scatters more than that of all.
        error = np.maximum(error - excess, error / n_members)
        least = error / n_members
        wide = error - spread < least
        noise = np.where(wide, least, error - spread)
        shrinkage = np.ones_like(noise)
        shrinkage[wide] = np.sqrt((error - noise)[wide] / spread[wide])
        return np.sqrt(noise / total), shrinkage

    def _members(self, X, *, return_std=False):
        """Predictions and spreads of the members, (n, n_members, n_targets) each."""
        events = self._events(X)
        if len(self.estimators_) == 1:
            return self.estimators_[0]._predict_stack(events), None
        if return_std:
            # Searches do not pass the question on.
            asked = [final_step(e, events) for e in self.estimators_]
            pairs = [last.predict(seen, return_std=True) for last, seen in asked]
        else:
            pairs = [(e.predict(events), np.empty(0)) for e in self.estimators_]
        means, stds = (np.stack(parts, axis=1) for parts in zip(*pairs, strict=True))
        shape = (len(X), self.n_members, -1)
        means = means.reshape(shape)
        if self._scaler is not None:
            means = self.target_mean_ + self.target_scale_ * means
        return means, stds.reshape(shape) if return_std else None

    def _predictive(self, X):
        means, stds = self._members(X, return_std=self.noise == "model")
        if self.noise is None:
            return Draws(means.transpose(0, 2, 1))
        if self.noise == "oob":
            # Members that reproduce every event leave no noise; a density needs some.
            tiny = np.finfo(np.float64).eps * (np.abs(self.target_mean_) + self.target_scale_)
            stds = np.maximum(self.noise_, tiny)
            middle = means.mean(1, keepdims=True)
            means = middle + self.shrinkage_ * (means - middle)
        return NormalMixture(np.full(self.n_members, 1 / self.n_members), means, stds)

    def _numbers_per_event(self):
        return 4 * self.n_members * len(self.target_mean_)

    def _has_density(self):
        return self.noise is not None

    def _splits_uncertainty(self):
        return True


class BootstrapClassifier(EnsembleClassifierMixin, _Bootstrap):
    r"""Any classifier, fitted on K bootstrap samples.

    The prediction is the mean of the members' probabilities; their disagreement is what the
    statistics of the training leaves open.

    Parameters
    ----------
    estimator : classifier or None, default=None
        What is fitted, with ``predict_proba``; None is a
        :class:`~sklearn.tree.DecisionTreeClassifier` of standardised features with
        :math:`\sqrt{n}/2` of n drawn events per leaf at least: fully grown, each tree would be
        certain, and all noise would be called ignorance. The members of a
        :class:`sknuc.networks.NeuralClassifier` are trained as one stack.
    n_members : int, default=20
        K.
    weights : {"poisson", "bayesian"}, default="poisson"
        Numbers of times that an event is drawn, or exponential weights, with which every event
        takes part.
    random_state : int, RandomState or None, default=None
        Seed of the draws and of the members.
    n_jobs : int or None, default=None
        Processes that fit members; a stack of networks is one computation.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    estimators_ : list of classifier
        The members; one for all, if it is a stack of networks.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    References
    ----------
    L. Breiman, "Bagging Predictors", Machine Learning 24 (1996) 123. D. B. Rubin, "The Bayesian
    Bootstrap", Ann. Statist. 9 (1981) 130.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sknuc.uncertainty import BootstrapClassifier
    >>> X, y = make_moons(300, noise=0.1, random_state=0)
    >>> model = BootstrapClassifier(random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _parameter_constraints = {
        **_Bootstrap._parameter_constraints,
        "estimator": [HasMethods(["fit", "predict_proba"]), None],
    }

    def _default(self):
        return DecisionTreeClassifier(min_weight_fraction_leaf=getattr(self, "_leaf", 0.0))

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Fit the members.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,)
            Labels of any kind.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : BootstrapClassifier

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, there is only one class, or the estimator
            takes no weights where some are needed.
        """
        X, y, weight = self._training_events(X, y, sample_weight, validate_labels)
        self.classes_, codes = encode_labels(self, y)
        given = weight
        X, codes, weight = merge_identical(X, codes, weight)
        pieces = count_pieces(X, weight, given, codes)
        # Whatever is drawn as one is one event, and counts the less the more weights differ.
        size = np.ones(len(X)) if weight is None else weight
        self._leaf = 0.5 * np.sqrt((size**2 / pieces).sum()) / size.sum()
        self._train(X, codes, pieces, weight, lambda drawn: len(np.unique(codes[drawn > 0])) > 1)
        return self

    def _member_probabilities(self, X):
        events = self._events(X)
        if len(self.estimators_) == 1:
            return self.estimators_[0]._predict_stack(events)
        result = np.zeros((len(X), self.n_members, len(self.classes_)))
        for k, estimator in enumerate(self.estimators_):
            # A class that a member has not met has no column there.
            result[:, k, estimator.classes_] = estimator.predict_proba(events)
        return result

    def _numbers_per_event(self):
        return 2 * self.n_members * len(self.classes_)


def _with_seed(estimator, rng):
    """Give every ``random_state`` among the parameters, of steps as well, a seed."""
    names = [n for n in sorted(estimator.get_params()) if n.split("__")[-1] == "random_state"]
    return estimator.set_params(**{n: int(rng.randint(2**31 - 1)) for n in names})
