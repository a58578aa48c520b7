r"""What ensembles and dropout networks share: many networks that each say how sure they are.

For regression every member is a Gaussian :math:`N(\mu_k(x), \sigma_k^2(x))` and the prediction
their mixture; for classification every member gives probabilities, whose mean is the prediction.
"""

from numbers import Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn
from torch.nn import functional as F

from sknuc import losses
from sknuc.base import EnsembleClassifierMixin, PredictiveRegressorMixin, validate_weights
from sknuc.nn import class_probabilities
from sknuc.predictive import Affine, NormalMixture
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["ClassMembers", "GaussianMembers"]

# softplus of it is 1: before the training, the spread is that of the targets.
_UNIT = 0.5413248546129181


def _no_columns(X):
    return {}


class GaussianMembers(PredictiveRegressorMixin, TorchEstimator):
    """Regressors whose members are networks with a mean and a spread for every target.

    Subclasses define ``_outputs(X)``, the members' outputs for validated events, of shape
    (n, n_members, 2 n_targets), and call ``_fit_members``.

    With `early_stopping`, ``valid_loss`` in the history is the negative log likelihood, per target
    and of scaled targets, whatever `beta` is.
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "beta": [Interval(Real, 0, 1, closed="both")],
        "min_std": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, *, beta=0.5, min_std=1e-3, **shared):
        super().__init__(**shared)
        self.beta = beta
        self.min_std = min_std

    def _fit_members(self, X, y, sample_weight, *, n_members=None, columns=_no_columns):
        reset = not (self.warm_start and self.__sklearn_is_fitted__())
        X = self._validate_events(X, reset=reset)
        sample_weight = validate_weights(sample_weight, X)
        if reset:
            self._start_anew()
            targets = self._scale_targets(X, y, sample_weight)
        else:
            targets = self._continue_with(X, y)
        self._fit_events(
            X,
            {"y": targets, **columns(X)},
            sample_weight=sample_weight,
            reset=reset,
            n_members=n_members,
        )
        return self

    def _build(self):
        encoder, n_features = self._encoder()
        n_targets = len(self.target_mean_)
        head = nn.Linear(n_features, 2 * n_targets)
        with torch.no_grad():
            head.bias[n_targets:] = _UNIT
        return nn.Sequential(encoder, head)

    def _moments(self, output):
        mean, spread = output.chunk(2, -1)
        return mean, F.softplus(spread) + self.min_std

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _loss(self, module, batch):
        mean, std = self._moments(module(batch.X))
        # What was held out is to judge, and the value of the weighted loss rewards overconfidence.
        beta = self.beta if module.training else 0.0
        return losses.gaussian_nll(mean, std, batch.y, beta=beta)

    def _predictive(self, X):
        means, stds = self._moments(torch.from_numpy(self._outputs(X)))
        means, stds = (part.numpy().astype(np.float64) for part in (means, stds))
        weights = np.full(means.shape[1], 1 / means.shape[1])
        return Affine(NormalMixture(weights, means, stds), self.target_mean_, self.target_scale_)

    def _splits_uncertainty(self):
        return True


class ClassMembers(EnsembleClassifierMixin, TorchEstimator):
    """Classifiers whose members are networks.

    Subclasses define ``_outputs(X)``, the members' logits for validated events, of shape
    (n, n_members, n_outputs), and call ``_fit_members``.
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(self, *, class_weight=None, **shared):
        super().__init__(**shared)
        self.class_weight = class_weight

    def _fit_members(self, X, y, sample_weight, *, n_members=None, columns=_no_columns):
        reset = not (self.warm_start and self.__sklearn_is_fitted__())
        X = self._validate_events(X, reset=reset)
        if reset:
            self._start_anew()
        codes, sample_weight = self._encode_labels(X, y, sample_weight, reset=reset)
        self._fit_events(
            X,
            {"y": codes, **columns(X)},
            sample_weight=sample_weight,
            stratify=codes,
            reset=reset,
            n_members=n_members,
        )
        return self

    def _build(self):
        encoder, n_features = self._encoder()
        n_classes = len(self.classes_)
        return nn.Sequential(encoder, nn.Linear(n_features, 1 if n_classes == 2 else n_classes))

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _loss(self, module, batch):
        logits = module(batch.X)
        if len(self.classes_) == 2:
            return losses.binary_cross_entropy(logits, batch.y)
        return losses.cross_entropy(logits, batch.y)

    def _member_probabilities(self, X):
        return class_probabilities(torch.from_numpy(self._outputs(X))).numpy()
