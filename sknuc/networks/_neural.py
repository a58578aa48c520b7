r"""Classification and regression by a neural network.

The classifier minimises the cross entropy :math:`-\sum_i w_i \log p(y_i | x_i) / \sum_i w_i`,
whose minimum over all functions is the true posterior :math:`p(y|x)`; the regressor minimises a
loss whose minimum is the mean, the median, or the rate of a Poisson process given x. The network
is an encoder of the detector's data followed by one linear layer.
"""

import numpy as np
from sklearn.base import _fit_context

from sknuc.neural_estimator import NeuralClassification, NeuralRegression

__all__ = ["NeuralClassifier", "NeuralRegressor"]


class _Network:
    """What ensembles and chunks of events ask for."""

    def _fit_stack(self, X, y, member_weights):
        """Train one network for every row of weights (n_members, n), as a stack."""
        return self._fit(X, y, member_weights.mean(0), reset=True, member_weights=member_weights)

    def _check_partial_fit(self):
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True: it is one epoch.")


class NeuralClassifier(_Network, NeuralClassification):
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


class NeuralRegressor(_Network, NeuralRegression):
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
