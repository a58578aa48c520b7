"""How sure is it: Gaussian processes, Bayesian networks, ensembles and conformal sets."""

from sknuc.uncertainty._bnn import BNNClassifier, BNNRegressor
from sknuc.uncertainty._bootstrap import BootstrapClassifier, BootstrapRegressor
from sknuc.uncertainty._conformal_classifier import ConformalClassifier
from sknuc.uncertainty._conformal_regressor import ConformalRegressor
from sknuc.uncertainty._dropout import MCDropoutClassifier, MCDropoutRegressor
from sknuc.uncertainty._ensemble import DeepEnsembleClassifier, DeepEnsembleRegressor
from sknuc.uncertainty._gp_classifier import GPClassifier
from sknuc.uncertainty._gp_regressor import GPRegressor

__all__ = [
    "BNNClassifier",
    "BNNRegressor",
    "BootstrapClassifier",
    "BootstrapRegressor",
    "ConformalClassifier",
    "ConformalRegressor",
    "DeepEnsembleClassifier",
    "DeepEnsembleRegressor",
    "GPClassifier",
    "GPRegressor",
    "MCDropoutClassifier",
    "MCDropoutRegressor",
]
