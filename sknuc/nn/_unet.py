r"""U-Nets: from an event to an event of the same shape.

The trunk cuts events into patches, each of which is one place of the first level, and every
further level halves the axes. What a level on the way down has seen is joined to what comes up
again. Blocks are residual and their last layers start at zero, and so does the last layer of all.

:class:`PositionalUNet` adds what the trunk gives to the event itself, so that it starts as the
identity. It has no normalisation: an amplifier that is 10 % stronger changes a pulse of twice the
height by twice as much, and a network that divides by the height of its input cannot say so.

References
----------
O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, arXiv:1505.04597.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from sknuc.nn._blocks import activation as make_activation
from sknuc.nn._blocks import convolution, group_norm
from sknuc.nn._sequences import SelfAttention, sinusoidal_positions

__all__ = ["Film", "PositionalUNet", "ResidualDense", "UNetTrunk", "start_at_zero"]


def start_at_zero(layer):
    """Set the weights and the bias of a layer to zero, and return it."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Film(nn.Module):
    r"""Scale and shift of features by a vector, :math:`h\,(1 + \gamma(e)) + \beta(e)`.

    Parameters
    ----------
    embedding_width : int
        Numbers of the vector e.
    n_features : int
    """

    def __init__(self, embedding_width, n_features):
        super().__init__()
        self.layer = start_at_zero(nn.Linear(embedding_width, 2 * n_features))

    def forward(self, h, e):
        """From features (n, n_features, ...) and vectors (n, embedding_width) to features."""
        scale, shift = self.layer(e).unflatten(1, (2, -1, *[1] * (h.ndim - 2))).unbind(1)
        return torch.addcmul(h + shift, h, scale)


class _Block(nn.Module):
    """Normalisation, SiLU, convolution, twice, with the embedding, if there is one, in between."""

    def __init__(self, n_in, n_out, embedding_width, kernel_size, dimensions, norm):
        super().__init__()
        layer = convolution(dimensions)
        padding = kernel_size // 2
        self.first_norm = norm(n_in)
        self.first = layer(n_in, n_out, kernel_size, padding=padding)
        self.film = Film(embedding_width, n_out) if embedding_width else None
        self.second_norm = norm(n_out)
        self.second = start_at_zero(layer(n_out, n_out, kernel_size, padding=padding))
        self.around = nn.Identity() if n_in == n_out else layer(n_in, n_out, 1)

    def forward(self, h, e):
        inner = self.second_norm(self.first(functional.silu(self.first_norm(h))))
        if self.film is not None:
            inner = self.film(inner, e)
        return self.around(h) + self.second(functional.silu(inner))


class _Attention(nn.Module):
    """Every place looks at every other, beside what it is."""

    def __init__(self, channels, n_heads, norm):
        super().__init__()
        self.norm = norm(channels)
        self.attention = SelfAttention(channels, n_heads)

    def forward(self, h):
        places = self.norm(h).flatten(2).transpose(1, 2)
        return h + self.attention(places).transpose(1, 2).reshape(h.shape)


def _no_norm(channels):
    return nn.Identity()


class UNetTrunk(nn.Module):
    """What U-Nets for signals, images and voxels share.

    Every level after the first halves the axes that are 4 places long at least. Where an axis is no
    multiple of what it is divided by, it goes on with its last value, and the result is cut.

    Parameters
    ----------
    event_shape : tuple of int
        (C, L), (C, H, W) or (C, D, H, W).
    channels : sequence of int
        Of each level, from the finest to the coarsest.
    patch : tuple of int
        Samples, pixels or voxels along each axis in one place of the first level.
    kernel_size : int
        Odd.
    n_heads : int
        Attention heads at the coarsest level; 0 for none.
    embedding : nn.Module or None
        Makes the vectors, of 2·channels[0] numbers, that scale and shift the features of every
        block.
    norm : bool
        Normalise groups of channels of an event.
    overlap : bool
        Patches that are made overlap by half a patch on either side, so that no pattern of their
        size is left at their edges.
    """

    def __init__(
        self,
        event_shape,
        *,
        channels,
        patch,
        kernel_size,
        n_heads,
        embedding=None,
        norm=True,
        overlap=False,
    ):
        super().__init__()
        n_channels, *size = event_shape
        dimensions = len(size)
        layer = convolution(dimensions)
        upward = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]
        make_norm = group_norm if norm else _no_norm
        width = 2 * channels[0] if embedding is not None else 0
        places = [math.ceil(length / p) for length, p in zip(size, patch, strict=True)]
        self.factors, strides = list(patch), []
        for _ in channels[1:]:
            strides.append(tuple(2 if length >= 4 else 1 for length in places))
            places = [math.ceil(length / s) for length, s in zip(places, strides[-1], strict=True)]
            self.factors = [f * s for f, s in zip(self.factors, strides[-1], strict=True)]

        def block(n_in, n_out):
            return _Block(n_in, n_out, width, kernel_size, dimensions, make_norm)

        if embedding is not None:
            self.embedding = embedding
        self.inward = layer(n_channels, channels[0], patch, stride=patch)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        pairs = list(itertools.pairwise(channels))
        for (fine, coarse), stride in zip(pairs, strides, strict=True):
            self.down.append(block(fine, fine))
            self.shrink.append(layer(fine, coarse, stride, stride=stride))
        for (fine, coarse), stride in reversed(list(zip(pairs, strides, strict=True))):
            self.grow.append(upward(coarse, fine, stride, stride=stride))
            self.up.append(block(2 * fine, fine))
        self.middle = nn.ModuleList([block(channels[-1], channels[-1]) for _ in range(2)])
        self.attention = nn.Identity()
        if n_heads:
            self.attention = _Attention(channels[-1], n_heads, make_norm)
        self.norm = make_norm(channels[0])
        half = tuple(p // 2 if overlap else 0 for p in patch)
        wide = tuple(p + 2 * h for p, h in zip(patch, half, strict=True))
        self.outward = start_at_zero(
            upward(channels[0], n_channels, wide, stride=patch, padding=half)
        )

    def enter(self, x):
        """From events (n, *event_shape) to the places of the first level, (n, channels[0], ...)."""
        missing = [-n % f for n, f in zip(x.shape[2:], self.factors, strict=True)]
        # Torch counts axes from the last one.
        pads = [pad for extra in reversed(missing) for pad in (0, extra)]
        return self.inward(functional.pad(x, pads, mode="replicate") if any(pads) else x)

    def leave(self, h, size, e=None):
        """From places of the first level and vectors (n, width) or None to (n, C, *size)."""
        finer = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, e)
            finer.append(h)
            h = shrink(h)
        h = self.middle[1](self.attention(self.middle[0](h, e)), e)
        for block, grow in zip(self.up, self.grow, strict=True):
            h = block(torch.cat([grow(h), finer.pop()], 1), e)
        h = self.outward(functional.silu(self.norm(h)))
        return h[(..., *[slice(n) for n in size])]


class PositionalUNet(UNetTrunk):
    r"""U-Net that knows where it is, and starts as the identity: :math:`x + k * x + u(x, t)`.

    The convolution k with a window of `reach` samples is what a linear response of electronics is;
    the trunk u, to whose first level sinusoids of the position are added, does the rest. Both start
    at zero.

    Parameters
    ----------
    event_shape : tuple of int
        (C, L), (C, H, W) or (C, D, H, W).
    channels : sequence of int
        Of each level, from the finest to the coarsest.
    patch : tuple of int
        Samples, pixels or voxels along each axis in one place of the first level.
    kernel_size : int
        Odd.
    reach : tuple of int
        Odd length of the window of k along each axis.

    References
    ----------
    "CPU-Net", Machine Learning and the Physical Sciences, NeurIPS 2022, arXiv:2507.09106.
    """

    def __init__(self, event_shape, *, channels, patch, kernel_size, reach):
        super().__init__(
            event_shape,
            channels=channels,
            patch=patch,
            kernel_size=kernel_size,
            n_heads=0,
            norm=False,
            overlap=True,
        )
        n_channels, *size = event_shape
        self.response = start_at_zero(convolution(len(size))(n_channels, n_channels, reach))
        self.pads = [side for width in reversed(reach) for side in (width // 2, width // 2)]
        self.position_scale = nn.Parameter(torch.ones(len(size), channels[0]))
        for axis, (length, factor, p) in enumerate(zip(size, self.factors, patch, strict=True)):
            places = math.ceil(length / factor) * factor // p
            shape = [channels[0], *[1] * len(size)]
            shape[axis + 1] = places
            position = sinusoidal_positions(places, channels[0]).T.reshape(shape).float()
            self.register_buffer(f"position_{axis}", position)

    def forward(self, x):
        """From events (n, *event_shape) to events of the same shape."""
        h = self.enter(x)
        for axis, scale in enumerate(self.position_scale):
            position = getattr(self, f"position_{axis}")
            h = h + position * scale.reshape(-1, *[1] * (position.ndim - 1))
        changed = self.leave(h, x.shape[2:])
        return x + self.response(functional.pad(x, self.pads, mode="replicate")) + changed


class ResidualDense(nn.Module):
    r"""A table's network that starts as the identity: :math:`x + A x + b + u(x)`.

    Parameters
    ----------
    event_shape : tuple of int
    hidden_layer_sizes : sequence of int
        Widths of the layers of u, whose last layer starts at zero as A and b do.
    activation : str
        As :func:`sknuc.nn.activation` knows it.
    """

    def __init__(self, event_shape, *, hidden_layer_sizes=(64, 64), activation="silu"):
        super().__init__()
        n = math.prod(event_shape)
        self.response = start_at_zero(nn.Linear(n, n))
        layers = []
        for n_in, n_out in itertools.pairwise((n, *hidden_layer_sizes)):
            layers += [nn.Linear(n_in, n_out), make_activation(activation)]
        last = hidden_layer_sizes[-1] if len(hidden_layer_sizes) else n
        self.body = nn.Sequential(*layers, start_at_zero(nn.Linear(last, n)))

    def forward(self, x):
        """From events (n, *event_shape) to events of the same shape."""
        flat = x.flatten(1)
        return x + (self.response(flat) + self.body(flat)).reshape(x.shape)
