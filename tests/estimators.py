"""Estimators that several tests judge."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression

from sknuc.base import PredictiveRegressorMixin, validate_events
from sknuc.predictive import Normal


class NormalRegressor(PredictiveRegressorMixin, BaseEstimator):
    """Least squares whose errors are normal, with a width that may be wrong by a factor."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def _validate_events(self, X, *, reset):
        return validate_events(self, X, reset=reset)

    def fit(self, X, y):
        X = self._validate_events(X, reset=True)
        targets = self._scale_targets(X, y, None)
        self.model_ = LinearRegression().fit(X, targets)
        self.std_ = (targets - self.model_.predict(X)).std(axis=0)
        return self

    def _predictive(self, X):
        mean = self.model_.predict(X) * self.target_scale_ + self.target_mean_
        std = self.factor * self.std_ * self.target_scale_
        return Normal(mean, np.broadcast_to(std, mean.shape))
