r"""Recurrent networks, which read a signal step by step and remember.

The state :math:`h_t` follows from the one before and the step :math:`x_t`. A plain recurrence
:math:`h_t = \tanh(W x_t + U h_{t-1} + b)` forgets within some steps, since its gradient shrinks or
grows by a factor at each; gates make keeping the state the easy case. With :math:`\sigma` the
logistic function and :math:`\odot` the product of elements, the LSTM has the memory

.. math::

    c_t = f_t \odot c_{t-1} + i_t \odot \tanh(W_g x_t + U_g h_{t-1} + b_g),
    \qquad h_t = o_t \odot \tanh(c_t),

with gates :math:`f_t = \sigma(W_f x_t + U_f h_{t-1} + b_f)` (keep), :math:`i_t` (write) and
:math:`o_t` (show) of the same form. The GRU makes do with the state alone and two gates,

.. math::

    h_t = z_t \odot h_{t-1} + (1 - z_t) \odot
    \tanh(W_n x_t + b_n + r_t \odot (U_n h_{t-1} + b_n')),

where :math:`z_t` keeps the state and :math:`r_t` resets it.
"""

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import SharedParameters
from sknuc.encoders._sequence import SequenceEncoder
from sknuc.nn import Patches, sequence_pooling

__all__ = ["GRU", "LSTM"]


class _Recurrent(SharedParameters, SequenceEncoder):
    """What the two share: parameters, reading, pooling.

    Parameters
    ----------
    hidden_size : int, default=64
        Width of the state, which is that of the features (twice that with `bidirectional`).
    n_layers : int, default=1
        Each layer reads the states of the one before.
    bidirectional : bool, default=False
        Read the signal from the end too, with weights of its own; the states of the two readings
        are put side by side.
    pooling : {"last", "mean", "max", "attention"}, default="last"
        From the states to features: "last" is the state at the end of the reading; "mean" and
        "max" are taken over time; "attention" is a weighted mean, whose weights are learned and
        can be looked at: the network has a method ``attention(x)``, from events
        (n, *input_shape), as standardised, to the weights of the steps (n, T).
    patch_size : int or None, default=None
        Neighbouring samples that are read in one step. None takes the square root of their
        number, so that there are as many steps as samples in each: 32 for a waveform of 1024. If
        the samples are no multiple of it, the last one is repeated.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature between layers and at the end, during training.
    """

    _parameter_constraints = {
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "n_layers": [Interval(Integral, 1, None, closed="left")],
        "bidirectional": ["boolean"],
        "pooling": [StrOptions({"last", "mean", "max", "attention"})],
        "patch_size": [Interval(Integral, 1, None, closed="left"), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        hidden_size=64,
        n_layers=1,
        bidirectional=False,
        pooling="last",
        patch_size=None,
        dropout=0.0,
    ):
        self.hidden_size = hidden_size
        self.n_layers = n_layers
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.patch_size = patch_size
        self.dropout = dropout

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the event has more than two axes, or a parameter is out of range.
        """
        self._validate_params()
        n_channels, size, _ = self._sequence_shape(input_shape)
        width = self.hidden_size * (2 if self.bidirectional else 1)
        widths = [n_channels * size] + [width] * (self.n_layers - 1)
        layers = [
            self._layer(n, self.hidden_size, batch_first=True, bidirectional=self.bidirectional)
            for n in widths
        ]
        if self.pooling == "last":
            pooling = _LastState(self.bidirectional)
        else:
            pooling = sequence_pooling(self.pooling, width)
        return _RecurrentNetwork(Patches(size), layers, pooling, self.dropout)


class LSTM(_Recurrent):
    """Long short-term memory: a recurrent network with gates and a memory.

    Events are signals of shape ``(L,)`` or ``(C, L)``: L samples in time of C channels.

    Parameters
    ----------
    {shared_parameters}

    See Also
    --------
    GRU : Two gates and no separate memory: three quarters of the weights and of the time.

    Notes
    -----
    The recurrent matrix of each gate starts orthogonal, which carries a state over many steps
    without shrinking it [2]_, and the gate that keeps the memory starts open, with a bias of 1
    [3]_. The layers are those of torch, which run on cuDNN on a GPU and have no rule for
    :func:`torch.vmap`.

    References
    ----------
    .. [1] S. Hochreiter, J. Schmidhuber, "Long Short-Term Memory", Neural Comput. 9 (1997) 1735.
    .. [2] A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of
       learning in deep linear neural networks", ICLR 2014, arXiv:1312.6120.
    .. [3] R. Jozefowicz, W. Zaremba, I. Sutskever, "An Empirical Exploration of Recurrent Network
       Architectures", ICML 2015.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import LSTM
    >>> LSTM(hidden_size=16).build((1, 1024))(torch.zeros(5, 1, 1024)).shape
    torch.Size([5, 16])
    >>> network = LSTM(bidirectional=True, pooling="attention", patch_size=8).build((250,))
    >>> network.attention(torch.zeros(5, 250)).shape
    torch.Size([5, 32])
    """

    _layer = nn.LSTM


class GRU(_Recurrent):
    """Gated recurrent unit: a recurrent network with two gates, smaller than the LSTM.

    Events are signals of shape ``(L,)`` or ``(C, L)``: L samples in time of C channels.

    Parameters
    ----------
    {shared_parameters}

    See Also
    --------
    LSTM : With a memory besides the state.

    Notes
    -----
    It starts as the LSTM does: orthogonal recurrent matrices, and a bias of 1 for the gate that
    keeps the state [2]_. The layers are those of torch, which run on cuDNN on a GPU and have no
    rule for :func:`torch.vmap`.

    References
    ----------
    .. [1] K. Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder for
       Statistical Machine Translation", EMNLP 2014, arXiv:1406.1078.
    .. [2] C. Tallec, Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018,
       arXiv:1804.11188.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import GRU
    >>> GRU(hidden_size=16, n_layers=2).build((2, 500))(torch.zeros(5, 2, 500)).shape
    torch.Size([5, 16])
    """

    _layer = nn.GRU


class _RecurrentNetwork(nn.Module):
    """From events (n, L) or (n, C, L) to features (n, width)."""

    def __init__(self, patches, layers, pooling, dropout):
        super().__init__()
        self.patches = patches
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)
        self.pooling = pooling
        for layer in layers:
            _initialise(layer)

    def forward(self, x):
        return self.dropout(self.pooling(self.states(x)))

    def states(self, x):
        """The states of the last layer, of shape (n, T, width)."""
        h = self.patches(x if x.ndim == 3 else x.unsqueeze(1))
        for i, layer in enumerate(self.layers):
            h, _ = layer(self.dropout(h) if i else h)
        return h

    def attention(self, x):
        """The weights of the steps, of shape (n, T); they sum to 1."""
        if not hasattr(self.pooling, "weights"):
            raise ValueError(
                "Weights of the steps exist for pooling='attention' only, and the network was "
                "built with another pooling."
            )
        return self.pooling.weights(self.states(x))

    def train(self, mode=True):
        super().train(mode)
        # cuDNN differentiates recurrent layers in training mode only, and saliency needs that
        # after the training too. They hold no dropout of their own, so it changes no number.
        for layer in self.layers:
            layer.train()
        return self


def _initialise(layer):
    for name, parameter in layer.named_parameters():
        for gate in parameter.detach().split(layer.hidden_size):
            if name.startswith("weight_ih"):
                nn.init.xavier_uniform_(gate)
            elif name.startswith("weight_hh"):
                nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(gate)
        if name.startswith("bias_ih"):
            # In torch, the second gate of both is the one that keeps the state.
            parameter.detach()[layer.hidden_size : 2 * layer.hidden_size] = 1.0


class _LastState(nn.Module):
    """The state at the end of the reading, which for the backward one is the first in time."""

    def __init__(self, bidirectional):
        super().__init__()
        self.bidirectional = bidirectional

    def forward(self, h):
        if not self.bidirectional:
            return h[:, -1]
        forward, backward = h.chunk(2, -1)
        return torch.cat([forward[:, -1], backward[:, 0]], -1)
