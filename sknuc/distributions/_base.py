"""What regressors have in common that learn distributions p(y | x).

Densities by maximum likelihood, quantiles by the pinball loss: at a constant learning rate the
parameters keep jumping about their optimum, by steps that matter where distributions are narrow and
where the loss has corners. So the learning rate falls to zero within the training.
"""

from sklearn.base import _fit_context

from sknuc.base import PredictiveRegressorMixin, validate_weights
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["DistributionRegressor"]


class DistributionRegressor(PredictiveRegressorMixin, TorchEstimator):
    """Fit a network by its ``_loss(module, batch)`` of scaled targets."""

    def __init__(self, *, schedule="cosine", **shared):
        super().__init__(schedule=schedule, **shared)

    def _loss(self, module, batch):
        """Return the loss of the scaled targets ``batch.y``, of shape (n,)."""
        raise NotImplementedError

    def _structure(self, n_targets):
        """Validate the parameters that the network is made of; return them by name.

        A fit that goes on (`warm_start`) refuses others.
        """
        return {}

    def _prepare(self, targets, sample_weight):
        """Read off the scaled targets what the initial network needs."""

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

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
            self._fitted_structure = self._structure(targets.shape[1])
            self._prepare(targets, sample_weight)
        else:
            targets = self._continue_with(X, y)
        self._fit_events(X, {"y": targets}, sample_weight=sample_weight, reset=reset)
        return self

    def _continue_with(self, X, y):
        """Validate targets of a fit that goes on, and scale them as those of the first one.

        Parameters that describe another network are refused before anything has changed.
        """
        targets = super()._continue_with(X, y)
        for name, value in self._structure(targets.shape[1]).items():
            if value != self._fitted_structure[name]:
                raise ValueError(
                    f"warm_start=True goes on with the network of the last fit, where the "
                    f"{name!r} parameter was {self._fitted_structure[name]!r}. Got {value!r} "
                    "instead. Set warm_start=False to start anew."
                )
        return targets
