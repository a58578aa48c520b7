"""How sure is it: Gaussian processes, Bayesian networks, ensembles and conformal sets."""

from sknuc.uncertainty._conformal_classifier import ConformalClassifier
from sknuc.uncertainty._conformal_regressor import ConformalRegressor

__all__ = ["ConformalClassifier", "ConformalRegressor"]
