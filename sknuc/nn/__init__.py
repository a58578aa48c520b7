"""Shared torch blocks: tensors only."""

from sknuc.nn._adaptation import AdaptedNetwork, ChannelMap, MultilinearMap
from sknuc.nn._average import AveragedModule
from sknuc.nn._blocks import (
    FeatureNorm,
    GradientReversal,
    Standardize,
    activation,
    class_probabilities,
    convolution,
    group_norm,
    real_rows,
)
from sknuc.nn._convlstm import ConvLSTMLayers, TemporalAttention, pad_sphere
from sknuc.nn._convolutions import ResidualConvolution, padded_convolution
from sknuc.nn._critic import Critic, SpectralNorm
from sknuc.nn._decoder import ConvDecoder, DenseDecoder, check_decoder, mirror
from sknuc.nn._denoisers import ConditionalMLP, ConditionalUNet, LevelEmbedding
from sknuc.nn._dropout import (
    MASK_GROUPS,
    GroupedDropout,
    MaskedDraws,
    group_dropout,
    mask_groups,
    other_dropout,
)
from sknuc.nn._flow import ConditionalFlow
from sknuc.nn._likelihoods import Bernoulli, Gaussian, Poisson
from sknuc.nn._marginals import ConditionalMarginals
from sknuc.nn._quantiles import (
    AutoregressiveQuantiles,
    FreeQuantiles,
    MonotoneQuantiles,
    OrderedQuantiles,
)
from sknuc.nn._sequences import (
    AttentionPooling,
    Patches,
    SelfAttention,
    sequence_pooling,
    sinusoidal_positions,
)
from sknuc.nn._sphere import (
    DegreeNorms,
    SphericalActivation,
    SphericalAnalysis,
    SphericalLinear,
)
from sknuc.nn._stacked import StackedDense, StackedModule, shared_copy, stack, updated_buffers
from sknuc.nn._unet import PositionalUNet, ResidualDense

__all__ = [
    "MASK_GROUPS",
    "AdaptedNetwork",
    "AttentionPooling",
    "AutoregressiveQuantiles",
    "AveragedModule",
    "Bernoulli",
    "ChannelMap",
    "ConditionalFlow",
    "ConditionalMLP",
    "ConditionalMarginals",
    "ConditionalUNet",
    "ConvDecoder",
    "ConvLSTMLayers",
    "Critic",
    "DegreeNorms",
    "DenseDecoder",
    "FeatureNorm",
    "FreeQuantiles",
    "Gaussian",
    "GradientReversal",
    "GroupedDropout",
    "LevelEmbedding",
    "MaskedDraws",
    "MonotoneQuantiles",
    "MultilinearMap",
    "OrderedQuantiles",
    "Patches",
    "Poisson",
    "PositionalUNet",
    "ResidualConvolution",
    "ResidualDense",
    "SelfAttention",
    "SpectralNorm",
    "SphericalActivation",
    "SphericalAnalysis",
    "SphericalLinear",
    "StackedDense",
    "StackedModule",
    "Standardize",
    "TemporalAttention",
    "activation",
    "check_decoder",
    "class_probabilities",
    "convolution",
    "group_dropout",
    "group_norm",
    "mask_groups",
    "mirror",
    "other_dropout",
    "pad_sphere",
    "padded_convolution",
    "real_rows",
    "sequence_pooling",
    "shared_copy",
    "sinusoidal_positions",
    "stack",
    "updated_buffers",
]
