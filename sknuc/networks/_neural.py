r"""Classification and regression by a neural network.

The classifier minimises the cross entropy :math:`-\sum_i w_i \log p(y_i | x_i) / \sum_i w_i`,
whose minimum over all functions is the true posterior :math:`p(y|x)`; the regressor minimises a
loss whose minimum is the mean, the median, or the rate of a Poisson process given x. The network
is an encoder of the detector's data followed by one linear layer.
"""

from functools import partial
from numbers import Real

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import nn

from sknuc import losses
from sknuc.base import center_and_scale, is_rounding, validate_targets, validate_weights
from sknuc.nn import class_probabilities
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["NeuralClassifier", "NeuralRegressor"]


class _Neural(TorchEstimator):
    """Encoder, linear head, one player: what the classifier and the regressor share."""

    def _build(self):
        encoder, n_features = self._encoder()
        return nn.Sequential(encoder, nn.Linear(n_features, self._n_outputs()))

    def _players(self):
        loss = self._loss()
        return [
            Player(lambda module, batch: loss(module(batch.X), batch.y), optimizer=self._optimizer)
        ]

    def _fit_stack(self, X, y, member_weights):
        """Train one network for every row of weights (n_members, n), as a stack."""
        return self._fit(X, y, member_weights.mean(0), reset=True, member_weights=member_weights)

    def _check_partial_fit(self):
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it is one epoch.")


class NeuralClassifier(ClassifierMixin, _Neural):
    r"""Neural network classifier for two or more classes.

    The loss of one event is the cross entropy :math:`-\sum_k y'_k \log p_k(x)` with
    :math:`p = \mathrm{softmax}(W f(x) + b)`, f the encoder; two classes share one output,
    :math:`p_1 = 1/(1+e^{-z})`.

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply `sample_weight`; "balanced" weighs each class as
        much as the others.
    label_smoothing : float in [0, 1), default=0.0
        Share of each label that is spread evenly over all classes, against overconfidence.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    module_ : torch.nn.Module
        The trained network, from events (n, *input_shape_) to log odds (n, 1) or logits
        (n, n_classes).
    history_ : skorch.history.History
        One row per epoch: losses and times.
    n_iter_ : int
        Epochs trained.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    NeuralRegressor : The same for continuous targets.
    sknuc.baselines.BDTClassifier : Boosted trees, often as good on tables of features.

    References
    ----------
    C. Bishop, "Pattern Recognition and Machine Learning", Springer 2006, section 5.2.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sknuc.networks import NeuralClassifier
    >>> X, y = make_moons(300, noise=0.1, random_state=0)
    >>> model = NeuralClassifier(random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, *, class_weight=None, label_smoothing=0.0, **shared):
        super().__init__(**shared)
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; a memory map or an HDF5 dataset above 256 MiB is streamed.
        y : array-like of shape (n_events,)
            Labels of any kind.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : NeuralClassifier

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or there is only one class.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        return self._fit(
            X, y, sample_weight, reset=not (self.warm_start and self.__sklearn_is_fitted__())
        )

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train for one epoch on these events, going on from where the network is.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,)
            Labels.
        classes : array-like of shape (n_classes,) or None, default=None
            All labels that will ever come; required in the first call.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : NeuralClassifier
        """
        self._check_partial_fit()
        if self.class_weight == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced', since it sees a part of the "
                "events. Give the weights as a dict."
            )
        first = not self.__sklearn_is_fitted__()
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None:
            classes = np.unique(classes)
            if not first and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"The 'classes' parameter of partial_fit must stay {self.classes_.tolist()}, "
                    f"as in the first call. Got {classes.tolist()} instead."
                )
        return self._fit(X, y, sample_weight, reset=first, classes=classes, max_epochs=1)

    def _fit(
        self, X, y, sample_weight, *, reset, classes=None, max_epochs=None, member_weights=None
    ):
        X = self._validate_events(X, reset=reset)
        if reset:
            self._start_anew()
        given = sample_weight
        codes, sample_weight = self._encode_labels(
            X, y, sample_weight, reset=reset, classes=classes, every_class=max_epochs is None
        )
        n_members = None
        if member_weights is not None:
            # What the weights of the classes have changed, they change for every member.
            factor = np.divide(sample_weight, given, where=given > 0, out=np.zeros(len(X)))
            n_members, sample_weight = len(member_weights), member_weights * factor
        self._fit_events(
            X,
            {"y": codes},
            sample_weight=sample_weight,
            stratify=codes,
            reset=reset,
            max_epochs=max_epochs,
            n_members=n_members,
        )
        return self

    def _predict_stack(self, X):
        return self._forward(self._validate_events(X, reset=False), class_probabilities)

    def _n_outputs(self):
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _loss(self):
        binary = len(self.classes_) == 2
        function = losses.binary_cross_entropy if binary else losses.cross_entropy
        return partial(function, label_smoothing=self.label_smoothing)

    def decision_function(self, X):
        """Log odds of the second class, or logits of all classes.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.

        Returns
        -------
        score : ndarray of shape (n_events,) or (n_events, n_classes)
        """
        check_is_fitted(self)
        score = self._forward(self._validate_events(X, reset=False))
        return score[:, 0] if score.shape[1] == 1 else score

    def predict_proba(self, X):
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.

        Returns
        -------
        probability : ndarray of shape (n_events, n_classes)
        """
        check_is_fitted(self)
        return self._predict_stack(X)

    def predict(self, X):
        """The most probable class.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.

        Returns
        -------
        y : ndarray of shape (n_events,)
        """
        score = self.decision_function(X)
        index = (score > 0).astype(int) if score.ndim == 1 else score.argmax(1)
        return self.classes_[index]


class NeuralRegressor(RegressorMixin, _Neural):
    r"""Neural network regressor for one or several targets.

    Targets are scaled inside to mean 0 and standard deviation 1 (for "poisson", to mean 1), the
    prediction comes back in their units.

    Parameters
    ----------
    loss : {"squared_error", "absolute_error", "huber", "poisson"}, default="squared_error"
        What is estimated: the mean, the median, a mean that outliers of more than one standard
        deviation of y pull linearly only, or the rate :math:`e^z` of counts (half the Poisson
        deviance, :math:`e^z - y z`, for y ≥ 0).
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events (n, *input_shape_) to scaled targets (n, n_targets).
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
    history_ : skorch.history.History
        One row per epoch: losses and times.
    n_iter_ : int
        Epochs trained.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    NeuralClassifier : The same for labels.

    References
    ----------
    P. Huber, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35 (1964) 73.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.networks import NeuralRegressor
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> model = NeuralRegressor(random_state=0).fit(X, np.sin(X[:, 0]))
    >>> bool(model.score(X, np.sin(X[:, 0])) > 0.95)
    True
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "loss": [StrOptions({"squared_error", "absolute_error", "huber", "poisson"})],
    }

    def __init__(self, *, loss="squared_error", **shared):
        super().__init__(**shared)
        self.loss = loss

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; a memory map or an HDF5 dataset above 256 MiB is streamed.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : NeuralRegressor

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or `loss="poisson"` meets negative y.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        return self._fit(
            X, y, sample_weight, reset=not (self.warm_start and self.__sklearn_is_fitted__())
        )

    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch on these events, going on from where the network is.

        The scaling of inputs and targets is that of the first call; where its targets are constant,
        such as those of a single event, their unit is that of the first call where they differ from
        that constant. So the first events should be typical of all.

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
        self : NeuralRegressor

        Raises
        ------
        ValueError
            If targets lie more than 10⁶ units of the first ones away (a warning says so from 10³
            on; but for rates, of `loss="poisson"`), or `loss` is "poisson" now and was not, or the
            other way round. The model stays what it was.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        self._check_partial_fit()
        return self._fit(X, y, sample_weight, reset=not self.__sklearn_is_fitted__(), max_epochs=1)

    def _fit(self, X, y, sample_weight, *, reset, max_epochs=None, member_weights=None):
        X = self._validate_events(X, reset=reset)
        float32 = getattr(y, "dtype", None) == np.float32 and X.dtype == np.float32
        y = validate_targets(y, self)
        check_consistent_length(X, y)
        sample_weight = validate_weights(sample_weight, X)
        log_link = self.loss == "poisson"
        if not reset and log_link != self._log_link:
            raise ValueError(
                "A fit that goes on must have loss='poisson', whose network tells the logarithm of "
                f"the rate, where the first one had, and not elsewhere. Got loss={self.loss!r} "
                "instead. Start anew with a new estimator, or by fit with warm_start=False."
            )
        targets = y.reshape(len(y), -1)
        used = slice(None) if sample_weight is None else sample_weight != 0
        # Later chunks of rare counts may have none, but the first one gives the unit.
        if log_link and (y[used].min() < 0 or (reset and not y[used].any())):
            raise ValueError(
                "loss='poisson' needs non-negative targets with a positive sum. Got targets from "
                f"{y[used].min():g} to {y[used].max():g}."
            )
        target_scale = None
        if reset:
            self._start_anew()
            self._y_ndim = y.ndim
            self._output_dtype = np.float32 if float32 else np.float64
            mean, scale = center_and_scale(targets, sample_weight, features=False)
            if log_link:
                mean, scale = np.zeros_like(mean), np.where(mean > 0, mean, 1.0)
            self.target_mean_, self.target_scale_, self._log_link = mean, scale, log_link
        elif max_epochs is not None:
            target_scale = self._find_units(targets, sample_weight)
        self._fit_events(
            X,
            {"y": self._continue_with(X, y, target_scale)},
            sample_weight=sample_weight if member_weights is None else member_weights,
            reset=reset,
            max_epochs=max_epochs,
            n_members=None if member_weights is None else len(member_weights),
            target_scale=target_scale,
        )
        return self

    def _find_units(self, targets, sample_weight):
        """Return the units of targets: for constant ones, of the first chunk where they vary."""
        mean, known = self.target_mean_, self.target_scale_
        if targets.shape[1] != len(mean):
            return known
        used = slice(None) if sample_weight is None else sample_weight != 0
        away = (targets - mean)[used]
        weight = None if sample_weight is None else np.tile(sample_weight[used], 2)
        # Around the mean of the first chunk, which stays.
        _, scale = center_and_scale(np.vstack([away, -away]), weight)
        found = is_rounding(mean, known) & (np.abs(away).max(axis=0, initial=0.0) > known)
        return np.where(found, scale, known)

    def _predict_stack(self, X):
        exponential = torch.exp if self._log_link else None
        output = self._forward(self._validate_events(X, reset=False), exponential)
        # In float64: a mean that is large against the spread costs no digits.
        return output * self.target_scale_ + self.target_mean_

    def _n_outputs(self):
        return len(self.target_mean_)

    def _loss(self):
        return getattr(losses, self.loss)

    def predict(self, X):
        """Predict the targets.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            In the units of the targets in ``fit``; float32 if both `X` and `y` were.
        """
        check_is_fitted(self)
        output = self._predict_stack(X)
        output = output.astype(self._output_dtype, copy=False)
        return output[:, 0] if self._y_ndim == 1 else output

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
