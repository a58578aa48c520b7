"""Fully connected network for tables of features."""

import math
from numbers import Real

from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.encoders._base import Encoder
from sknuc.nn import activation

__all__ = ["MLP"]


class MLP(Encoder):
    r"""Multi-layer perceptron, :math:`h_{l+1} = \phi(W_l h_l + b_l)`.

    Events of more than one axis are flattened.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(64, 64)
        Width of each layer; the last one is the number of features. () leaves the input as it is,
        so that the estimator's head makes a linear model.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}, default="relu"
        The non-linearity φ after each layer.
    norm : {"layer"} or None, default=None
        Layer normalisation before each non-linearity.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature during training.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import MLP
    >>> MLP(hidden_layer_sizes=(32, 8)).build((20,))(torch.zeros(5, 20)).shape
    torch.Size([5, 8])
    """

    _parameter_constraints = {
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions({"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"})],
        "norm": [StrOptions({"layer"}), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(self, *, hidden_layer_sizes=(64, 64), activation="relu", norm=None, dropout=0.0):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.norm = norm
        self.dropout = dropout

    def build(self, input_shape):
        """Build the network for events of `input_shape`."""
        self._validate_params()
        layers = [] if len(input_shape) == 1 else [nn.Flatten()]
        width = math.prod(input_shape)
        for size in check_widths("hidden_layer_sizes", self.hidden_layer_sizes):
            layers.append(nn.Linear(width, size))
            if self.norm is not None:
                layers.append(nn.LayerNorm(size))
            layers.append(activation(self.activation))
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            width = size
        return nn.Sequential(*layers)
