"""Shared torch blocks: tensors only."""

from sknuc.nn._blocks import (
    GradientReversal,
    Standardize,
    activation,
    convolution,
    group_norm,
    real_rows,
)
from sknuc.nn._convlstm import ConvLSTMLayers, TemporalAttention, pad_sphere
from sknuc.nn._stacked import StackedModule

__all__ = [
    "ConvLSTMLayers",
    "GradientReversal",
    "StackedModule",
    "Standardize",
    "TemporalAttention",
    "activation",
    "convolution",
    "group_norm",
    "pad_sphere",
    "real_rows",
]
