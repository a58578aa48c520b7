"""Distributions p(y given x): quantiles, mixtures and flows, for every encoder."""

from sknuc.distributions._flow import FlowRegressor
from sknuc.distributions._iqn import IQNRegressor
from sknuc.distributions._mdn import MDNRegressor
from sknuc.distributions._quantile_bdt import QuantileBDTRegressor
from sknuc.distributions._quantile_net import QuantileNetRegressor

__all__ = [
    "FlowRegressor",
    "IQNRegressor",
    "MDNRegressor",
    "QuantileBDTRegressor",
    "QuantileNetRegressor",
]
