"""How sure is it: Gaussian processes, Bayesian networks, ensembles and conformal sets."""

from sknuc.uncertainty._conformal_classifier import ConformalClassifier
from sknuc.uncertainty._conformal_regressor import ConformalRegressor
from sknuc.uncertainty._gp_regressor import GPRegressor

__all__ = ["ConformalClassifier", "ConformalRegressor", "GPRegressor"]
