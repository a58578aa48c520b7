r"""Deep ensembles: several networks from different first weights.

Networks that start elsewhere end elsewhere, and where there were no events to learn from, they do
not agree. Each of K members says how large the noise is, by minimising
:math:`-\ln N(y; \mu_k(x), \sigma_k^2(x))`; together they are a mixture whose variance

.. math:: \sigma^2(x) = \underbrace{\frac1K\sum_k \sigma_k^2(x)}_{\text{aleatoric}}
   + \underbrace{\frac1K\sum_k (\mu_k(x) - \bar\mu(x))^2}_{\text{epistemic}}

tells noise from ignorance. All members are trained as one stack (:func:`sknuc.nn.stack`).
"""

from numbers import Integral

from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from sknuc.uncertainty._members import ClassMembers, GaussianMembers

__all__ = ["DeepEnsembleClassifier", "DeepEnsembleRegressor"]


class DeepEnsembleRegressor(GaussianMembers):
    r"""Ensemble of networks that predict mean and spread, trained together.

    Each of K members minimises the likelihood of a Gaussian :math:`N(\mu_k(x), \sigma_k^2(x))`
    from first weights and with a shuffling of its own; the prediction is their even mixture.

    Parameters
    ----------
    n_members : int, default=5
        K. Five give most of what an ensemble gives; more make the epistemic part smoother.
    beta : float in [0, 1], default=0.5
        How much of the events' share in the fit of the mean, which the likelihood takes from those
        with a large spread, is given back (:func:`sknuc.losses.gaussian_nll`); 0 is the likelihood
        itself, whose means are slow where the noise is large.
    min_std : float, default=1e-3
        The smallest spread that is predicted, in standard deviations of the targets.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The input's scaling and the stack, from events (n, *input_shape_) to (n_members, n,
        2 n_targets). ``module_[1].member(k)`` is one network.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
    history_ : skorch.history.History
        One row per epoch: losses, the mean over the members, and times.
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
    MCDropoutRegressor : One network for the price of one, whose spread depends on `dropout`.
    BootstrapRegressor : Any estimator, on events drawn anew.

    Notes
    -----
    With `early_stopping`, every member goes back to its own best epoch. Callbacks that look at all
    gradients together (clipping of their norm) act on the stack as a whole.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", NeurIPS 2017, arXiv:1612.01474 (without its adversarial
    examples).

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.uncertainty import DeepEnsembleRegressor
    >>> X = np.linspace(-1, 1, 300).reshape(-1, 1)
    >>> model = DeepEnsembleRegressor(random_state=0).fit(X, np.sin(3 * X[:, 0]))
    >>> inside, outside = model.predict_uncertainty([[0.0], [3.0]]).epistemic
    >>> bool(outside > 10 * inside)
    True
    """

    _parameter_constraints = {
        **GaussianMembers._parameter_constraints,
        "n_members": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_members=5, beta=0.5, min_std=1e-3, **shared):
        super().__init__(beta=beta, min_std=min_std, **shared)
        self.n_members = n_members

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train all members.

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
        self : DeepEnsembleRegressor

        Raises
        ------
        ValueError
            If an input is not finite, or lengths disagree.
        TrainingDivergedError
            If the loss of a member becomes NaN or infinite.
        """
        return self._fit_members(X, y, sample_weight, n_members=self.n_members)

    def _outputs(self, X):
        return self._forward(X)

    def _numbers_per_event(self):
        return 8 * self.module_[1].n_members * len(self.target_mean_)


class DeepEnsembleClassifier(ClassMembers):
    r"""Ensemble of networks, trained together.

    Each of K members minimises the cross entropy from first weights and with a shuffling of its
    own; the prediction is the mean of their probabilities, and where they do not agree, the
    ensemble does not know.

    Parameters
    ----------
    n_members : int, default=5
        K.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply `sample_weight`.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    module_ : torch.nn.Module
        The input's scaling and the stack, from events (n, *input_shape_) to (n_members, n,
        n_outputs): log odds of two classes, or logits. ``module_[1].member(k)`` is one network.
    history_ : skorch.history.History
        One row per epoch: losses, the mean over the members, and times.
    n_iter_ : int
        Epochs trained.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles", NeurIPS 2017, arXiv:1612.01474.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sknuc.uncertainty import DeepEnsembleClassifier
    >>> X, y = make_moons(300, noise=0.1, random_state=0)
    >>> model = DeepEnsembleClassifier(random_state=0).fit(X, y)
    >>> total, aleatoric, epistemic = model.predict_uncertainty(X)
    >>> bool(abs(total - aleatoric - epistemic).max() < 1e-6)
    True
    """

    _parameter_constraints = {
        **ClassMembers._parameter_constraints,
        "n_members": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_members=5, class_weight=None, **shared):
        super().__init__(class_weight=class_weight, **shared)
        self.n_members = n_members

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train all members.

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
        self : DeepEnsembleClassifier

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or there is only one class.
        TrainingDivergedError
            If the loss of a member becomes NaN or infinite.
        """
        return self._fit_members(X, y, sample_weight, n_members=self.n_members)

    def _outputs(self, X):
        return self._forward(X)

    def _numbers_per_event(self):
        return 4 * self.module_[1].n_members * len(self.classes_)
