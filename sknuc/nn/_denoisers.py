r"""Networks from a noisy event, its noise level and its condition to an event.

Noise level and condition become one vector e, which scales and shifts the features of every block
(FiLM): :math:`h \mapsto h\,(1 + \gamma(e)) + \beta(e)`. Blocks are residual and their last layers
start at zero, so that the networks start as the function 0.

References
----------
E. Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018,
arXiv:1709.07871.
O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, arXiv:1505.04597.
P. Dhariwal, A. Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021,
arXiv:2105.05233.
"""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from sknuc.nn._blocks import convolution, group_norm
from sknuc.nn._sequences import SelfAttention

__all__ = ["ConditionalMLP", "ConditionalUNet", "LevelEmbedding"]


class LevelEmbedding(nn.Module):
    """One vector of the noise level and the condition.

    Parameters
    ----------
    n_conditions : int
        Numbers per condition; 0 for none.
    width : int
    n_frequencies : int, default=4
        Waves of the level, whose lengths halve from 2 on.
    """

    def __init__(self, n_conditions, width, n_frequencies=4):
        super().__init__()
        frequencies = math.pi * 2.0 ** torch.arange(n_frequencies)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.level = nn.Sequential(
            nn.Linear(2 * n_frequencies + 1, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.condition = nn.Linear(n_conditions, width) if n_conditions else None

    def forward(self, level, condition):
        """From levels (n,) in [-1, 1], and conditions (n, n_conditions) or None, to (n, width).

        One level (1,) may stand for all events.
        """
        angle = level[:, None] * self.frequencies
        e = self.level(torch.cat([level[:, None], angle.sin(), angle.cos()], 1))
        if self.condition is not None:
            e = e + self.condition(condition)
        return functional.silu(e)


def _start_at_zero(layer):
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class _Film(nn.Module):
    def __init__(self, embedding_width, n_features):
        super().__init__()
        self.layer = _start_at_zero(nn.Linear(embedding_width, 2 * n_features))

    def forward(self, h, e):
        scale, shift = self.layer(e).unflatten(1, (2, -1, *[1] * (h.ndim - 2))).unbind(1)
        return torch.addcmul(h + shift, h, scale)


class _DenseBlock(nn.Module):
    def __init__(self, width, embedding_width):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.film = _Film(embedding_width, width)
        self.second = _start_at_zero(nn.Linear(width, width))

    def forward(self, h, e):
        inner = self.film(self.first(functional.silu(h)), e)
        return h + self.second(functional.silu(inner))


class ConditionalMLP(nn.Module):
    """Residual multi-layer perceptron.

    Parameters
    ----------
    event_shape : tuple of int
    n_conditions : int
    width : int
        Features of the layers.
    n_blocks : int
        Residual blocks of two layers.
    """

    def __init__(self, event_shape, n_conditions, *, width, n_blocks):
        super().__init__()
        n = math.prod(event_shape)
        embedding_width = max(1, width // 2)
        self.embedding = LevelEmbedding(n_conditions, embedding_width)
        self.inward = nn.Linear(n, width)
        self.blocks = nn.ModuleList(_DenseBlock(width, embedding_width) for _ in range(n_blocks))
        self.outward = _start_at_zero(nn.Linear(width, n))

    def forward(self, x, level, condition=None):
        """From events (n, *event_shape), levels (n,) and conditions to (n, *event_shape)."""
        e = self.embedding(level, condition)
        h = self.inward(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.outward(functional.silu(h)).reshape(x.shape)


class _ConvolutionBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with the embedding in between."""

    def __init__(self, n_in, n_out, embedding_width, kernel_size, dimensions):
        super().__init__()
        layer = convolution(dimensions)
        padding = kernel_size // 2
        self.first_norm = group_norm(n_in)
        self.first = layer(n_in, n_out, kernel_size, padding=padding)
        self.film = _Film(embedding_width, n_out)
        self.second_norm = group_norm(n_out)
        self.second = _start_at_zero(layer(n_out, n_out, kernel_size, padding=padding))
        self.around = nn.Identity() if n_in == n_out else layer(n_in, n_out, 1)

    def forward(self, h, e):
        inner = self.first(functional.silu(self.first_norm(h)))
        inner = self.film(self.second_norm(inner), e)
        return self.around(h) + self.second(functional.silu(inner))


class _Attention(nn.Module):
    """Every place looks at every other, beside what it is."""

    def __init__(self, channels, n_heads):
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = SelfAttention(channels, n_heads)

    def forward(self, h):
        places = self.norm(h).flatten(2).transpose(1, 2)
        return h + self.attention(places).transpose(1, 2).reshape(h.shape)


class ConditionalUNet(nn.Module):
    """U-Net for signals, images and voxels.

    Events are cut into patches, each of which is one place of the first level. Every further level
    halves the axes that are 4 places long at least. Where an axis is no multiple of what it is
    divided by, it goes on with its last value, and the result is cut.

    Parameters
    ----------
    event_shape : tuple of int
        (C, L), (C, H, W) or (C, D, H, W).
    n_conditions : int
    channels : sequence of int
        Of each level, from the finest to the coarsest.
    patch : tuple of int
        Samples, pixels or voxels along each axis in one place of the first level.
    kernel_size : int
        Odd.
    n_heads : int
        Attention heads at the coarsest level; 0 for none.
    """

    def __init__(self, event_shape, n_conditions, *, channels, patch, kernel_size, n_heads):
        super().__init__()
        n_channels, *size = event_shape
        dimensions = len(size)
        layer = convolution(dimensions)
        upward = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]
        width = 2 * channels[0]
        places = [math.ceil(length / p) for length, p in zip(size, patch, strict=True)]
        self.factors, strides = list(patch), []
        for _ in channels[1:]:
            strides.append(tuple(2 if length >= 4 else 1 for length in places))
            places = [math.ceil(length / s) for length, s in zip(places, strides[-1], strict=True)]
            self.factors = [f * s for f, s in zip(self.factors, strides[-1], strict=True)]

        def block(n_in, n_out):
            return _ConvolutionBlock(n_in, n_out, width, kernel_size, dimensions)

        self.embedding = LevelEmbedding(n_conditions, width)
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
        self.attention = _Attention(channels[-1], n_heads) if n_heads else nn.Identity()
        self.norm = group_norm(channels[0])
        self.outward = _start_at_zero(upward(channels[0], n_channels, patch, stride=patch))

    def forward(self, x, level, condition=None):
        """From events (n, *event_shape), levels (n,) and conditions to (n, *event_shape)."""
        e = self.embedding(level, condition)
        missing = [-n % f for n, f in zip(x.shape[2:], self.factors, strict=True)]
        # Torch counts axes from the last one.
        pads = [pad for extra in reversed(missing) for pad in (0, extra)]
        h = self.inward(functional.pad(x, pads, mode="replicate") if any(pads) else x)
        finer = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, e)
            finer.append(h)
            h = shrink(h)
        h = self.middle[1](self.attention(self.middle[0](h, e)), e)
        for block, grow in zip(self.up, self.grow, strict=True):
            h = block(torch.cat([grow(h), finer.pop()], 1), e)
        h = self.outward(functional.silu(self.norm(h)))
        return h[(..., *[slice(n) for n in x.shape[2:]])]
