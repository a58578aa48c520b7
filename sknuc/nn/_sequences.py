r"""Blocks for sequences: steps, positions, attention, and pooling over time.

A signal of C channels and L samples becomes T steps of p neighbouring samples each (n, T, C·p),
which a network turns into states (n, T, width), and pooling into features (n, width). Attention
is the weighted mean :math:`\sum_t \alpha_t h_t` whose weights are a softmax of scores: of a
learned query with every step (pooling), or of every step with every other (self-attention).
"""

import math

import torch
from torch import nn

__all__ = [
    "AttentionPooling",
    "Patches",
    "SelfAttention",
    "sequence_pooling",
    "sinusoidal_positions",
]


class Patches(nn.Module):
    """Group neighbouring samples into steps.

    If the samples are no multiple of `size`, the last one is repeated: a signal goes on where it
    was, while zeros would be an edge that the detector never saw.

    Parameters
    ----------
    size : int
        Samples per step.
    """

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        """From (n, C, L) to (n, T, C * size), T = ceil(L / size)."""
        missing = -x.shape[-1] % self.size
        if missing:
            x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], -1)
        return x.unflatten(-1, (-1, self.size)).transpose(-3, -2).flatten(-2)


def sinusoidal_positions(n_steps, width):
    r"""Fixed positions, :math:`p_{t,2i} = \sin\omega_i t` and :math:`p_{t,2i+1} = \cos\omega_i t`.

    The frequencies :math:`\omega_i = 10000^{-2i/\text{width}}` fall from one radian per step, so
    that a shift in time is a rotation of each pair of columns, the same at all times.

    Parameters
    ----------
    n_steps, width : int

    Returns
    -------
    positions : Tensor of shape (n_steps, width), float64

    References
    ----------
    A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762, section 3.5.
    """
    column = torch.arange(width)
    frequency = 10_000.0 ** (-2.0 * (column // 2).double() / width)
    angle = torch.arange(n_steps, dtype=torch.float64)[:, None] * frequency
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())


class SelfAttention(nn.Module):
    r"""Multi-head self-attention.

    In each head, :math:`\text{softmax}(Q K^\top / \sqrt{d})\,V`, where queries, keys and values are
    linear in the states and d = width / n_heads; the heads side by side go through a last linear
    layer, which starts at zero.

    Parameters
    ----------
    width : int
        Width of the states.
    n_heads : int
        A divisor of `width`.

    References
    ----------
    A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762.
    """

    def __init__(self, width, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        nn.init.zeros_(self.merge.weight)
        nn.init.zeros_(self.merge.bias)

    def forward(self, h):
        """From states (n, T, width) to (n, T, width)."""
        # Written out: the fused kernel gains a fifth at 32 steps, and has neither a rule for vmap
        # on the CPU nor a second derivative.
        query, key, value = self._heads(h)
        heads = self._softmax(query, key) @ value
        return self.merge(heads.transpose(-3, -2).flatten(-2))

    def weights(self, h):
        """The weights of the heads, of shape (n, n_heads, T, T); each row sums to 1."""
        query, key, _ = self._heads(h)
        return self._softmax(query, key)

    def _softmax(self, query, key):
        return torch.softmax((query / math.sqrt(query.shape[-1])) @ key.mT, -1)

    def _heads(self, h):
        """Queries, keys and values, each of shape (n, n_heads, T, width / n_heads)."""
        parts = self.project(h).chunk(3, -1)
        return [part.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for part in parts]


class AttentionPooling(nn.Module):
    r"""Weighted mean over time, :math:`\sum_t \alpha_t h_t`, with a learned query.

    The weights are :math:`\alpha = \text{softmax}_t(q \cdot h_t / \sqrt{\text{width}})`. The query
    starts at zero, so that pooling starts as the mean.

    Parameters
    ----------
    width : int
        Width of the states.

    References
    ----------
    D. Bahdanau, K. Cho, Y. Bengio, "Neural Machine Translation by Jointly Learning to Align and
    Translate", ICLR 2015, arXiv:1409.0473.
    """

    def __init__(self, width):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

    def forward(self, h):
        """From states (n, T, width) to features (n, width)."""
        return (self.weights(h).unsqueeze(-2) @ h).squeeze(-2)

    def weights(self, h):
        """The weights of the steps, of shape (n, T); they sum to 1."""
        return torch.softmax(h @ self.query / math.sqrt(h.shape[-1]), -1)


class _Mean(nn.Module):
    def forward(self, h):
        return h.mean(-2)


class _Max(nn.Module):
    def forward(self, h):
        return h.amax(-2)


def sequence_pooling(kind, width):
    """The layer from states (n, T, width) to features (n, width): "mean", "max", "attention"."""
    return AttentionPooling(width) if kind == "attention" else {"mean": _Mean, "max": _Max}[kind]()
