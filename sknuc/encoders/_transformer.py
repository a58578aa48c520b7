r"""Transformer: every step of a signal looks at every other.

A recurrent network carries what it saw through all the steps between; attention connects any two
steps directly. A signal is cut into patches that are embedded linearly,
:math:`h_t = W x_t + b + p_t`, where the position :math:`p_t` tells when a step was; without it
the network could not know their order. Blocks then refine the states,

.. math::

    h \leftarrow h + \text{Attention}(\text{LayerNorm}(h)), \qquad
    h \leftarrow h + \text{MLP}(\text{LayerNorm}(h)),

and the states after a last normalisation are pooled to features.
"""

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.encoders._sequence import SequenceEncoder
from sknuc.nn import Patches, SelfAttention, sequence_pooling, sinusoidal_positions

__all__ = ["Transformer"]


class Transformer(SequenceEncoder):
    r"""Transformer encoder for signals.

    Events are signals of shape ``(L,)`` or ``(C, L)``: L samples in time of C channels. Blocks are
    normalised before each branch, and the branches start at zero, so that the network starts
    shallow and deepens as it learns.

    Parameters
    ----------
    width : int, default=32
        Width of the states, and the number of features.
    n_heads : int, default=4
        Attention heads of each block, a divisor of `width`.
    n_layers : int, default=2
        Number of blocks.
    mlp_ratio : int, default=2
        The hidden layer of each block's perceptron has `mlp_ratio` times `width` units.
    patch_size : int or None, default=None
        Neighbouring samples that make one step. None takes the square root of their number, so
        that there are as many steps as samples in each: 32 for a waveform of 1024. If the samples
        are no multiple of it, the last one is repeated.
    positions : {"sinusoidal", "learned"} or None, default="sinusoidal"
        What tells the steps apart. "sinusoidal" are fixed, with neighbours alike from the start;
        "learned" need more events; None makes the network blind to the order of the steps.
    pooling : {"attention", "mean", "max", "token"}, default="attention"
        From the states to features: "mean" and "max" are taken over time; "attention" is a
        weighted mean, whose weights are learned and can be looked at (``attention`` of the
        network); "token" is the state of one more step that holds no samples.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature at the end of each branch and of the network, during
        training.

    Notes
    -----
    ``build`` returns a network with two methods that take events (n, \*input_shape), as
    standardised, and tell where it looks: ``attention(x)`` gives the weight of each step in the
    features (n, T) for ``pooling="attention"``, and ``self_attention(x)`` those of each step for
    each other (n, n_layers, n_heads, T, T), where the token, if any, comes first.

    References
    ----------
    A. Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762.

    A. Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929, for patches
    and the token.

    R. Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020,
    arXiv:2002.04745, for the normalisation before each branch.

    T. Bachlechner et al., "ReZero is All You Need: Fast Convergence at Large Depth", UAI 2021,
    arXiv:2003.04887, for branches that start at zero.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import Transformer
    >>> network = Transformer().build((1, 1024))
    >>> network(torch.zeros(5, 1, 1024)).shape
    torch.Size([5, 32])
    >>> network.attention(torch.zeros(5, 1, 1024)).shape
    torch.Size([5, 32])
    """

    _parameter_constraints = {
        "width": [Interval(Integral, 1, None, closed="left")],
        "n_heads": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "mlp_ratio": [Interval(Integral, 1, None, closed="left")],
        "patch_size": [Interval(Integral, 1, None, closed="left"), None],
        "positions": [StrOptions({"sinusoidal", "learned"}), None],
        "pooling": [StrOptions({"attention", "mean", "max", "token"})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        width=32,
        n_heads=4,
        n_layers=2,
        mlp_ratio=2,
        patch_size=None,
        positions="sinusoidal",
        pooling="attention",
        dropout=0.0,
    ):
        self.width = width
        self.n_heads = n_heads
        self.n_layers = n_layers
        self.mlp_ratio = mlp_ratio
        self.patch_size = patch_size
        self.positions = positions
        self.pooling = pooling
        self.dropout = dropout

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the event has more than two axes, a parameter is out of range, or `width` is no
            multiple of `n_heads`.
        """
        self._validate_params()
        n_channels, size, n_steps = self._sequence_shape(input_shape)
        if self.width % self.n_heads:
            raise ValueError(
                "The 'width' parameter of Transformer must be a multiple of n_heads="
                f"{self.n_heads}. Got {self.width} instead."
            )
        return _TransformerNetwork(
            _Embedding(n_channels, size, n_steps, self.width, self.positions, self.pooling),
            [
                _Block(self.width, self.n_heads, self.mlp_ratio, self.dropout)
                for _ in range(self.n_layers)
            ],
            nn.LayerNorm(self.width),
            _Token() if self.pooling == "token" else sequence_pooling(self.pooling, self.width),
            nn.Dropout(self.dropout),
        )


class _TransformerNetwork(nn.Module):
    """From events (n, L) or (n, C, L) to features (n, width)."""

    def __init__(self, embedding, blocks, norm, pooling, dropout):
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm
        self.pooling = pooling
        self.dropout = dropout

    def forward(self, x):
        return self.dropout(self.pooling(self.states(x)))

    def states(self, x):
        """The states that are pooled, of shape (n, T, width); with a token, it comes first."""
        return self.norm(self.blocks(self.embedding(x)))

    def attention(self, x):
        """The weights of the steps in the features, of shape (n, T); they sum to 1."""
        if not hasattr(self.pooling, "weights"):
            raise ValueError(
                "Weights of the steps exist for pooling='attention' only, and the network was "
                "built with another pooling. self_attention has those within the blocks."
            )
        return self.pooling.weights(self.states(x))

    def self_attention(self, x):
        """The weights within the blocks, of shape (n, n_layers, n_heads, T, T)."""
        h, weights = self.embedding(x), []
        for block in self.blocks:
            weights.append(block.attention.weights(block.attention_norm(h)))
            h = block(h)
        return torch.stack(weights, 1)


class _Embedding(nn.Module):
    """From events (n, L) or (n, C, L) to states (n, T, width), or T + 1 with a token."""

    def __init__(self, n_channels, size, n_steps, width, positions, pooling):
        super().__init__()
        self.patches = Patches(size)
        self.linear = nn.Linear(n_channels * size, width)
        if positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(n_steps, width))
        elif positions == "sinusoidal":
            # In float64, so that a network in float64 has them to the last digit.
            self.register_buffer("positions", sinusoidal_positions(n_steps, width))
        else:
            self.positions = None
        self.token = nn.Parameter(0.02 * torch.randn(width)) if pooling == "token" else None

    def forward(self, x):
        h = self.linear(self.patches(x if x.ndim == 3 else x.unsqueeze(1)))
        if self.positions is not None:
            h = h + self.positions.to(self.linear.weight.dtype)
        if self.token is not None:
            h = torch.cat([self.token.expand(len(h), 1, -1), h], 1)
        return h


class _Block(nn.Module):
    """From states (n, T, width) to (n, T, width); the identity at the start."""

    def __init__(self, width, n_heads, mlp_ratio, dropout):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, n_heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width)
        )
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h):
        h = h + self.dropout(self.attention(self.attention_norm(h)))
        return h + self.dropout(self.mlp(self.mlp_norm(h)))


class _Token(nn.Module):
    def forward(self, h):
        return h[:, 0]
