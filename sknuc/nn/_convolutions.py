"""Convolutions that keep the size of what they read, and residual blocks of them.

Beyond the edges there are zeros or, where the last axis is an azimuth, its other end.
"""

from torch import nn

from sknuc.nn._blocks import activation as make_activation
from sknuc.nn._blocks import convolution, group_norm

__all__ = ["ResidualConvolution", "circular_padding", "padded_convolution"]


def circular_padding(dimensions, width):
    """The layer that continues the last of 1, 2 or 3 axes by `width` samples from its other end."""
    circular = {1: nn.CircularPad1d, 2: nn.CircularPad2d, 3: nn.CircularPad3d}
    # Torch counts axes from the last one, two numbers for each.
    return circular[dimensions]([width] * 2 + [0] * (2 * dimensions - 2))


def padded_convolution(n_in, n_out, kernel_size, *, stride=1, norm=None, wrap=False):
    """The layers of a convolution that takes an axis of L samples to ⌈L/s⌉.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    kernel_size : tuple of int
        Odd width along each axis.
    stride : int or tuple of int, default=1
        The factor s by which an axis shrinks.
    norm : {"group"} or None, default=None
        Group normalisation behind it.
    wrap : bool, default=False
        The ends of the last axis are neighbours.

    Returns
    -------
    layers : list of nn.Module
    """
    zeros = [size // 2 for size in kernel_size]
    pad = []
    if wrap:
        pad = [circular_padding(len(zeros), zeros[-1])]
        zeros[-1] = 0
    layer = convolution(len(zeros))(n_in, n_out, kernel_size, stride=stride, padding=tuple(zeros))
    return [*pad, layer, *([] if norm is None else [group_norm(n_out)])]


class ResidualConvolution(nn.Module):
    r"""Two convolutions, :math:`\phi(h + f(h))`, where f starts at zero.

    The block starts as the activation alone, so that the network deepens as it learns.

    Parameters
    ----------
    channels : int
    kernel_size : tuple of int
        Odd width along each axis.
    activation : str
        The non-linearity φ, as :func:`sknuc.nn.activation` knows it, also between the two.
    norm : {"group"} or None, default=None
        Group normalisation after each convolution.
    wrap : bool, default=False
        The ends of the last axis are neighbours.

    References
    ----------
    K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
    H. Zhang, Y. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without Normalization",
    ICLR 2019, arXiv:1901.09321, for the start at zero.
    """

    def __init__(self, channels, kernel_size, *, activation, norm=None, wrap=False):
        super().__init__()
        options = {"norm": norm, "wrap": wrap}
        self.body = nn.Sequential(
            *padded_convolution(channels, channels, kernel_size, **options),
            make_activation(activation),
            *padded_convolution(channels, channels, kernel_size, **options),
        )
        self.activation = make_activation(activation)
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, h):
        """Map h of shape (n, channels, ...) to the same shape."""
        return self.activation(h + self.body(h))
