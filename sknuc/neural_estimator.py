"""The hall through which networks of an encoder and a linear layer enter.

:class:`NeuralClassification` and :class:`NeuralRegression` hold what point prediction is, whoever
trains it: labels and targets, the head, the loss of one event, the prediction. A method adds what
is its own: the documentation, ``fit``, and what else its loss has.
"""

from functools import partial
from numbers import Real

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import nn

from sknuc import losses
from sknuc.base import center_and_scale, is_rounding, validate_targets, validate_weights
from sknuc.nn import class_probabilities
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["NeuralClassification", "NeuralRegression"]


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


class NeuralClassification(ClassifierMixin, _Neural):
    """Classification: labels, cross entropy, probabilities."""

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, *, class_weight=None, label_smoothing=0.0, **shared):
        super().__init__(**shared)
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing

    def _fit(
        self,
        X,
        y,
        sample_weight,
        *,
        reset,
        classes=None,
        max_epochs=None,
        member_weights=None,
        other=None,
    ):
        X = self._validate_events(X, reset=reset)
        if reset:
            self._start_anew()
        given = sample_weight
        options = {"reset": reset, "classes": classes, "every_class": max_epochs is None}
        if other is None:
            codes, sample_weight = self._encode_labels(X, y, sample_weight, **options)
        else:
            # y has the labels of one sample only, whose classes are known.
            known = ~other
            weight = np.ones(len(other)) if sample_weight is None else sample_weight
            codes = np.zeros(len(other), np.int64)
            codes[known], found = self._encode_labels(y, y, weight[known], **options)
            if sample_weight is not None or self.class_weight is not None:
                sample_weight = weight.astype(float)
                sample_weight[known] = found
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
            other=other,
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


class NeuralRegression(RegressorMixin, _Neural):
    """Regression: targets in units of their own, a loss, predictions in the units of y."""

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "loss": [StrOptions({"squared_error", "absolute_error", "huber", "poisson"})],
    }

    def __init__(self, *, loss="squared_error", **shared):
        super().__init__(**shared)
        self.loss = loss

    def _fit(self, X, y, sample_weight, *, reset, max_epochs=None, member_weights=None, other=None):
        X = self._validate_events(X, reset=reset)
        float32 = getattr(y, "dtype", None) == np.float32 and X.dtype == np.float32
        y = validate_targets(y, self)
        if other is not None:
            # y has the targets of one sample only.
            known, y = y, np.zeros((len(other), *y.shape[1:]))
            y[~other] = known
        check_consistent_length(X, y)
        sample_weight = all_weights = validate_weights(sample_weight, X)
        if other is not None:
            sample_weight = (
                (~other).astype(float) if sample_weight is None else sample_weight * ~other
            )
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
        scaled = self._continue_with(X, y, target_scale)
        if other is not None:
            scaled[other] = 0.0
        self._fit_events(
            X,
            {"y": scaled},
            sample_weight=all_weights if member_weights is None else member_weights,
            reset=reset,
            max_epochs=max_epochs,
            n_members=None if member_weights is None else len(member_weights),
            target_scale=target_scale,
            other=other,
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
