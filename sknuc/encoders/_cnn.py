"""Convolutional network for waveforms, images and voxels."""

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.encoders._base import Encoder
from sknuc.nn import ResidualConvolution, activation, padded_convolution

__all__ = ["CNN"]


class CNN(Encoder):
    """Residual convolutional network in one, two or three dimensions.

    A stage per entry of `channels`: a strided convolution that shrinks the signal, then residual
    blocks of two convolutions each, :math:`h + f(h)`, whose second convolution starts at zero, so
    that the network starts shallow and deepens as it learns. The last stage is pooled to features.

    The dimension follows the event: ``(L,)`` and ``(C, L)`` are waveforms, ``(C, H, W)`` images,
    ``(C, D, H, W)`` voxels.

    Parameters
    ----------
    channels : tuple of int, default=(16, 32, 64)
        Channels of each stage.
    kernel_size : int, tuple of int or None, default=None
        Odd width of the convolutions in samples or pixels, the same for all axes or one for each;
        None takes 7 for waveforms and 3 for images and voxels.
    stride : int or tuple of int, default=2
        Each stage shrinks every axis by this factor, or each by its own: (1, 2) for images that
        are long along W.
    wrap : bool, default=False
        The last axis is an azimuth, whose ends are neighbours: a detector in the shape of a
        cylinder, or a sphere seen in polar angle and azimuth. Otherwise, and on the other axes,
        there are zeros beyond the edges.
    n_blocks : int, default=1
        Residual blocks per stage; 0 leaves the strided convolutions only.
    pooling : {"mean_max", "mean", "max", "flatten"}, default="mean_max"
        From the last stage to features, per channel: "mean" measures how much, "max" how strong
        the strongest, "mean_max" both; "flatten" keeps the positions, for signals whose absolute
        position has a meaning.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}, default="relu"
        The non-linearity.
    norm : {"group"} or None, default=None
        Group normalisation after each convolution. Batch normalisation is not offered: it mixes
        events, which breaks weights, and predictions would depend on the batch.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature at the end, during training.

    References
    ----------
    K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
    H. Zhang, Y. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without Normalization",
    ICLR 2019, arXiv:1901.09321, for the start at zero.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import CNN
    >>> CNN(channels=(8, 16)).build((1, 256))(torch.zeros(5, 1, 256)).shape
    torch.Size([5, 32])
    >>> CNN(channels=(8, 16), pooling="mean").build((1, 38, 38))(torch.zeros(5, 1, 38, 38)).shape
    torch.Size([5, 16])
    """

    _parameter_constraints = {
        "channels": ["array-like"],
        "kernel_size": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "stride": [Interval(Integral, 1, None, closed="left"), "array-like"],
        "wrap": ["boolean"],
        "n_blocks": [Interval(Integral, 0, None, closed="left")],
        "pooling": [StrOptions({"mean_max", "mean", "max", "flatten"})],
        "activation": [StrOptions({"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"})],
        "norm": [StrOptions({"group"}), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        channels=(16, 32, 64),
        kernel_size=None,
        stride=2,
        wrap=False,
        n_blocks=1,
        pooling="mean_max",
        activation="relu",
        norm=None,
        dropout=0.0,
    ):
        self.channels = channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.wrap = wrap
        self.n_blocks = n_blocks
        self.pooling = pooling
        self.activation = activation
        self.norm = norm
        self.dropout = dropout

    def channel_axis(self, input_shape):
        """None for a waveform of shape (L,), whose samples are one channel, and 0 otherwise."""
        return None if len(input_shape) == 1 else 0

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the event has more than four axes, or a parameter is out of range.
        """
        self._validate_params()
        shape = (1, *input_shape) if len(input_shape) == 1 else tuple(input_shape)
        dimensions = len(shape) - 1
        if dimensions > 3:
            raise ValueError(
                "CNN reads events of shape (L,), (C, L), (C, H, W) or (C, D, H, W). Got events of "
                f"shape {tuple(input_shape)} instead."
            )
        default = 7 if dimensions == 1 else 3
        kernel_size = default if self.kernel_size is None else self.kernel_size
        kernel_size = self._per_axis("kernel_size", kernel_size, dimensions)
        stride = self._per_axis("stride", self.stride, dimensions)
        if not all(size % 2 for size in kernel_size):
            raise ValueError(
                f"The 'kernel_size' parameter of CNN must be odd. Got {self.kernel_size} instead."
            )
        layers = [nn.Unflatten(1, shape)] if len(input_shape) == 1 else []
        options = {"norm": self.norm, "wrap": self.wrap}
        width, around = shape[0], shape[-1]
        for size in check_widths("channels", self.channels):
            before, around = around, -(-around // stride[-1])
            # The strided convolution sees the axis before, the blocks what it leaves of it.
            available = around if self.n_blocks else before
            if self.wrap and kernel_size[-1] // 2 > available:
                raise ValueError(
                    "The 'kernel_size' parameter of CNN must reach at most once around with "
                    f"wrap=True. Got {kernel_size[-1]} where the last axis is {available} long."
                )
            layers += padded_convolution(width, size, kernel_size, stride=stride, **options)
            layers.append(activation(self.activation))
            layers += [
                ResidualConvolution(size, kernel_size, activation=self.activation, **options)
                for _ in range(self.n_blocks)
            ]
            width = size
        layers.append(nn.Flatten() if self.pooling == "flatten" else Pool(self.pooling))
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers)

    def _per_axis(self, name, value, dimensions):
        values = (value,) * dimensions if isinstance(value, Integral) else tuple(value)
        if len(values) != dimensions or not all(isinstance(v, Integral) and v > 0 for v in values):
            raise ValueError(
                f"The {name!r} parameter of CNN must be a positive integer, or one for each of the "
                f"{dimensions} axes. Got {value!r} instead."
            )
        return tuple(int(v) for v in values)


class Pool(nn.Module):
    """From (n, channels, ...) to (n, channels), or (n, 2 channels) for "mean_max"."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, h):
        h = h.flatten(2)
        if self.kind == "mean":
            return h.mean(2)
        if self.kind == "max":
            return h.amax(2)
        return torch.cat([h.mean(2), h.amax(2)], 1)
