"""Shared torch blocks: tensors only."""

from sknuc.nn._blocks import GradientReversal, Standardize, activation, convolution, group_norm
from sknuc.nn._stacked import StackedModule

__all__ = [
    "GradientReversal",
    "StackedModule",
    "Standardize",
    "activation",
    "convolution",
    "group_norm",
]
