r"""A network for clouds of hits or points.

The hits of an event are a set: they have no order, and each event has its own number of them.
Every function of a set is a sum over its elements followed by a function of that sum,

.. math::

    f(\{x_1, \dots, x_P\}) = \rho\Bigl(\sum_i \phi(x_i)\Bigr),

or, where continuous functions are enough, a maximum instead of the sum (Deep Sets; PointNet).
:math:`\phi` is one perceptron for all points and :math:`\rho` another one. Context layers let
points see the others before they are pooled, :math:`h_i' = \sigma(W h_i + V\,\mathrm{pool}(h) +
b)`, which leaves the set a set.

In floating point the sum does depend on the order, in its last bits, and so do the blocks in which
a matrix product is computed. The network therefore brings the points of an event into one order,
that of their values, before it does anything else: whatever the kernels do, events that hold the
same points give the same bits.
"""

import itertools
from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.encoders._base import Encoder
from sknuc.encoders._mlp import MLP
from sknuc.nn import activation, real_rows

__all__ = ["PointNet"]


class PointNet(Encoder):
    r"""Permutation-invariant network for clouds of points, padded with rows of zeros.

    An event is a cloud of shape ``(P, F)``: P points of F features, as (x, y, z, charge), of which
    rows of zeros are padding. The output is the same to the bit for every order of the points, and
    the same up to rounding for every number of padding rows. A cloud without points pools to
    zeros. An event of shape ``(F,)`` is a single point, whose zeros are values.

    Parameters
    ----------
    channels : tuple of int, default=(64, 128)
        Widths of the perceptron φ that all points go through, one after the other.
    context_channels : tuple of int, default=()
        Widths of further layers on each point that see the pooled cloud, too.
    pooling : {"mean_max", "mean", "max", "sum"}, default="mean_max"
        From points to the cloud, per channel: "max" the strongest point, "mean" the average one,
        "mean_max" both; "sum" grows with the number of points, where that number says something.
    hidden_layer_sizes : tuple of int, default=(64,)
        Widths of the perceptron ρ after the pooling; the last one is the number of features.
    align : int or False, default=False
        The number of leading features that are coordinates, as 3 for (x, y, z, charge): a small
        PointNet (T-net) of the widths `channels` and `hidden_layer_sizes` reads the cloud and
        gives a matrix, the identity at the start, that the coordinates are multiplied by.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}, default="relu"
        The non-linearity.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature of ρ, during training.

    References
    ----------
    C. Qi, H. Su, K. Mo, L. Guibas, "PointNet: Deep Learning on Point Sets for 3D Classification
    and Segmentation", CVPR 2017, arXiv:1612.00593.
    M. Zaheer et al., "Deep Sets", NeurIPS 2017, arXiv:1703.06114.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import PointNet
    >>> module = PointNet(pooling="sum").build((100, 4))
    >>> clouds = torch.rand(5, 100, 4)
    >>> clouds[:, 60:] = 0.0
    >>> shuffled = clouds[:, torch.randperm(100)]
    >>> torch.equal(module(clouds), module(shuffled)), module(clouds).shape
    (True, torch.Size([5, 64]))
    """

    _parameter_constraints = {
        "channels": ["array-like"],
        "context_channels": ["array-like"],
        "pooling": [StrOptions({"mean_max", "mean", "max", "sum"})],
        "hidden_layer_sizes": ["array-like"],
        "align": [Interval(Integral, 1, None, closed="left"), "boolean"],
        "activation": [StrOptions({"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        channels=(64, 128),
        context_channels=(),
        pooling="mean_max",
        hidden_layer_sizes=(64,),
        align=False,
        activation="relu",
        dropout=0.0,
    ):
        self.channels = channels
        self.context_channels = context_channels
        self.pooling = pooling
        self.hidden_layer_sizes = hidden_layer_sizes
        self.align = align
        self.activation = activation
        self.dropout = dropout

    def channel_axis(self, input_shape):
        """The axis of features: 1 for (P, F), 0 for (F,)."""
        return len(input_shape) - 1

    def padding_axis(self, input_shape):
        """The axis of points: 0 for (P, F); None for (F,), which has no padding."""
        return 0 if len(input_shape) == 2 else None

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the event has more than two axes, or a parameter is out of range.
        """
        self._validate_params()
        if len(input_shape) > 2:
            raise ValueError(
                "PointNet reads clouds of shape (P, F), or single points of shape (F,). Got events "
                f"of shape {tuple(input_shape)} instead."
            )
        n_features = input_shape[-1]
        if self.align is True or self.align > n_features:
            raise ValueError(
                "The 'align' parameter of PointNet must be False or the number of leading features "
                f"that are coordinates, of {n_features} in all. Got {self.align} instead."
            )
        point = [n_features, *check_widths("channels", self.channels)]
        context = [point[-1], *check_widths("context_channels", self.context_channels)]
        cloud = check_widths("hidden_layer_sizes", self.hidden_layer_sizes)
        align = None
        if self.align:
            align = _TNet(
                self.align,
                self._perceptron(point),
                self._perceptron([point[-1], *cloud]),
                cloud[-1] if cloud else point[-1],
            )
        return _PointNet(
            align=align,
            point=self._perceptron(point),
            context=[
                _Context(n_in, n_out, self.pooling, activation(self.activation))
                for n_in, n_out in itertools.pairwise(context)
            ],
            pool=_MaskedPool(self.pooling),
            cloud=self._perceptron([context[-1] * _POOLS[self.pooling], *cloud], self.dropout),
            padded=len(input_shape) == 2,
        )

    def _perceptron(self, widths, dropout=0.0):
        n_in, *widths = widths
        perceptron = MLP(hidden_layer_sizes=widths, activation=self.activation, dropout=dropout)
        return perceptron.build((n_in,))


class _PointNet(nn.Module):
    def __init__(self, *, align, point, context, pool, cloud, padded):
        super().__init__()
        self.align = align
        self.point = point
        self.context = nn.ModuleList(context)
        self.pool = pool
        self.cloud = cloud
        self.padded = padded

    def forward(self, x):
        """From (n, P, F) or (n, F) to (n, n_features)."""
        if self.padded:
            x = _in_order(x)
            real = real_rows(x, 0)
        else:
            x = x.unsqueeze(1)
            real = torch.ones_like(x[..., :1], dtype=torch.bool)
        if self.align is not None:
            x = self.align(x, real)
        h = self.point(x)
        for layer in self.context:
            h = layer(h, real)
        return self.cloud(self.pool(h, real))


def _in_order(x):
    """The points of each cloud (n, P, F) in lexicographic order of their features."""
    order = x[..., -1].argsort(dim=1)
    for feature in range(x.shape[-1] - 2, -1, -1):
        key = x[..., feature].gather(1, order)
        order = order.gather(1, key.argsort(dim=1, stable=True))
    return x.gather(1, order.unsqueeze(-1).expand_as(x))


# Features per channel of each pooling.
_POOLS = {"mean_max": 2, "mean": 1, "max": 1, "sum": 1}


class _MaskedPool(nn.Module):
    """From points (n, P, channels), of which `real` (n, P, 1) are none of padding, to clouds."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, h, real):
        pooled = []
        if self.kind != "max":
            # As a matrix product the masked sum needs no copy of h.
            total = (real.to(h.dtype).transpose(1, 2) @ h).squeeze(1)
            count = 1 if self.kind == "sum" else real.sum(1).clamp(min=1)
            pooled.append(total / count)
        if self.kind in ("max", "mean_max"):
            highest = h.masked_fill(~real, -torch.inf).amax(1)
            pooled.append(torch.where(real.any(1), highest, 0.0))
        return torch.cat(pooled, 1)


class _Context(nn.Module):
    """A layer on each point that sees the pooled cloud: (n, P, n_in) to (n, P, n_out)."""

    def __init__(self, n_in, n_out, pooling, activation):
        super().__init__()
        self.point = nn.Linear(n_in, n_out)
        self.pool = _MaskedPool(pooling)
        self.cloud = nn.Linear(n_in * _POOLS[pooling], n_out, bias=False)
        self.activation = activation

    def forward(self, h, real):
        # The same as a linear layer on [h_i, pool(h)], whose second half is computed once.
        return self.activation(self.point(h) + self.cloud(self.pool(h, real)).unsqueeze(1))


class _TNet(nn.Module):
    """Multiply the leading features by a matrix that a small PointNet reads from the cloud."""

    def __init__(self, n_coordinates, point, cloud, n_hidden):
        super().__init__()
        self.n_coordinates = n_coordinates
        self.point = point
        self.pool = _MaskedPool("max")
        self.cloud = cloud
        self.matrix = nn.Linear(n_hidden, n_coordinates**2)
        nn.init.zeros_(self.matrix.weight)
        with torch.no_grad():
            self.matrix.bias.copy_(torch.eye(n_coordinates).flatten())

    def forward(self, x, real):
        hidden = self.cloud(self.pool(self.point(x), real))
        matrix = self.matrix(hidden).unflatten(1, (self.n_coordinates, -1))
        coordinates, rest = x.tensor_split([self.n_coordinates], -1)
        return torch.cat([coordinates @ matrix, rest], -1)
