r"""What regressors have in common that learn the density p(y | x) by maximum likelihood.

At a constant learning rate the parameters keep jumping about their optimum, by steps that matter
where densities are narrow. So the learning rate falls to zero within the training, as

.. math:: \eta(p) = \eta\,(1 + \cos \pi p)/2

after the share p of all steps [1]_.

.. [1] I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
       arXiv:1608.03983.
"""

import math

from sklearn.base import _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_consistent_length

from sknuc.base import PredictiveRegressorMixin, validate_targets, validate_weights
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["DensityRegressor"]


class DensityRegressor(PredictiveRegressorMixin, TorchEstimator):
    """Fit a network by its ``_negative_log_density(module, batch)`` of scaled targets."""

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "schedule": [StrOptions({"cosine", "constant"})],
    }

    def __init__(self, *, schedule="cosine", **shared):
        super().__init__(**shared)
        self.schedule = schedule

    def _negative_log_density(self, module, batch):
        """Return -log p of the scaled targets ``batch.y``, of shape (n,)."""
        raise NotImplementedError

    def _prepare(self, targets, sample_weight):
        """Read off the scaled targets what the initial network needs."""

    def _players(self):
        if self.schedule == "constant":
            return [Player(self._negative_log_density, optimizer=self._optimizer)]
        moved = []

        def optimizer(parameters):
            made = self._optimizer(parameters)
            moved.extend((group, group["lr"]) for group in made.param_groups)
            return made

        def loss(module, batch):
            for group, rate in moved:
                group["lr"] = rate * (1 + math.cos(math.pi * batch.progress)) / 2
            return self._negative_log_density(module, batch)

        return [Player(loss, optimizer=optimizer)]

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
        self : object
            The fitted regressor.

        Raises
        ------
        ValueError
            If an input is not finite, or lengths disagree.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        reset = not (self.warm_start and self.__sklearn_is_fitted__())
        X = self._validate_events(X, reset=reset)
        sample_weight = validate_weights(sample_weight, X)
        if reset:
            self._start_anew()
            targets = self._scale_targets(X, y, sample_weight)
        else:
            targets = self._continue_with(X, y)
        self._prepare(targets, sample_weight)
        self._fit_events(X, {"y": targets}, sample_weight=sample_weight, reset=reset)
        return self

    def _continue_with(self, X, y):
        """Validate targets of a fit that goes on, and scale them as those of the first one."""
        y = validate_targets(y)
        check_consistent_length(X, y)
        targets = y.reshape(len(y), -1)
        if (y.ndim, targets.shape[1]) != (self._y_ndim, len(self.target_mean_)):
            raise ValueError(
                f"y has the shape {y.shape}, but the network was built for "
                f"{len(self.target_mean_)} targets. Set warm_start=False to start anew."
            )
        return (targets - self.target_mean_) / self.target_scale_
