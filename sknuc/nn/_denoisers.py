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

import math

import torch
from torch import nn
from torch.nn import functional

from sknuc.nn._unet import Film, UNetTrunk, start_at_zero

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


class _DenseBlock(nn.Module):
    def __init__(self, width, embedding_width):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.film = Film(embedding_width, width)
        self.second = start_at_zero(nn.Linear(width, width))

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
        self.outward = start_at_zero(nn.Linear(width, n))

    def forward(self, x, level, condition=None):
        """From events (n, *event_shape), levels (n,) and conditions to (n, *event_shape)."""
        e = self.embedding(level, condition)
        h = self.inward(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.outward(functional.silu(h)).reshape(x.shape)


class ConditionalUNet(UNetTrunk):
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
        super().__init__(
            event_shape,
            channels=channels,
            patch=patch,
            kernel_size=kernel_size,
            n_heads=n_heads,
            embedding=LevelEmbedding(n_conditions, 2 * channels[0]),
        )

    def forward(self, x, level, condition=None):
        """From events (n, *event_shape), levels (n,) and conditions to (n, *event_shape)."""
        return self.leave(self.enter(x), x.shape[2:], self.embedding(level, condition))
