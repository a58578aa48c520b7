r"""Sequences of images: convolutional LSTM layers, and attention over time.

An LSTM whose matrix products are convolutions (:math:`*`) keeps a memory :math:`C_t` at every
pixel,

.. math::

    i_t &= \sigma(W_{xi} * X_t + W_{hi} * H_{t-1} + w_{ci} C_{t-1} + b_i) \\
    f_t &= \sigma(W_{xf} * X_t + W_{hf} * H_{t-1} + w_{cf} C_{t-1} + b_f) \\
    C_t &= f_t C_{t-1} + i_t \tanh(W_{xc} * X_t + W_{hc} * H_{t-1} + b_c) \\
    o_t &= \sigma(W_{xo} * X_t + W_{ho} * H_{t-1} + w_{co} C_t + b_o) \\
    H_t &= o_t \tanh C_t,

with the peephole terms :math:`w_{c\cdot}` on request. What a pixel and its neighbours saw many
steps ago is still there when a late hit arrives, as the delayed light of a positron needs.
"""

import torch
from torch import nn
from torch.nn import functional

__all__ = ["ConvLSTMLayers", "TemporalAttention", "pad_sphere"]


def pad_sphere(x, rows, columns):
    r"""Continue images on the sphere over their edges.

    An image of shape (H, W) has the polar angle along H and the azimuth along W, as
    :func:`sknuc.geometry.equiangular_sphere`. Columns wrap around. Beyond a pole a meridian goes
    on as the one half a turn away, :math:`(-\theta, \varphi) = (\theta, \varphi + \pi)`.

    Parameters
    ----------
    x : Tensor of shape (..., H, W)
        W is even.
    rows, columns : int
        How far to go on at both ends, at most H and W.

    Returns
    -------
    x : Tensor of shape (..., H + 2 rows, W + 2 columns)
    """
    if rows:
        turned = x.roll(x.shape[-1] // 2, -1).flip(-2)
        x = torch.cat([turned[..., -rows:, :], x, turned[..., :rows, :]], -2)
    if columns:
        x = torch.cat([x[..., -columns:], x, x[..., :columns]], -1)
    return x


class ConvLSTMLayers(nn.Module):
    """Stacked convolutional LSTM layers.

    Parameters
    ----------
    in_channels : int
        Channels C of the images.
    hidden_channels : sequence of int
        Channels of the hidden state of each layer.
    kernel_sizes : sequence of int or (int, int)
        Odd widths of each layer's convolutions, along H and W.
    padding : {"zeros", "sphere"}, default="zeros"
        What lies beyond the edges of the images; "sphere" is `pad_sphere`.
    peephole : bool, default=False
        Let the gates see the memory: one weight per channel and gate, which starts at zero. (Shi
        et al. have one for each pixel too, which would tie the layer to one size of image and to
        absolute positions.)

    References
    ----------
    X. Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation
    Nowcasting", NeurIPS 2015, arXiv:1506.04214, equation 3.

    Examples
    --------
    >>> import torch
    >>> from sknuc.nn import ConvLSTMLayers
    >>> layers = ConvLSTMLayers(1, (12, 22), (5, 3), padding="sphere")
    >>> layers(torch.zeros(2, 28, 1, 8, 16)).shape
    torch.Size([2, 28, 22, 8, 16])
    """

    def __init__(
        self, in_channels, hidden_channels, kernel_sizes, *, padding="zeros", peephole=False
    ):
        super().__init__()
        widths = [in_channels, *hidden_channels]
        self.layers = nn.ModuleList(
            _ConvLSTMLayer(n_in, n_hidden, _pair(kernel_size), padding, peephole)
            for n_in, n_hidden, kernel_size in zip(
                widths[:-1], widths[1:], kernel_sizes, strict=True
            )
        )

    def forward(self, x):
        """All hidden states of the last layer.

        Parameters
        ----------
        x : Tensor of shape (n, T, C, H, W)

        Returns
        -------
        h : Tensor of shape (n, T, hidden_channels[-1], H, W)
        """
        # Time first: what one step needs lies together.
        h = x.transpose(0, 1)
        for layer in self.layers:
            h = layer(h)
        return h.transpose(0, 1)


class _ConvLSTMLayer(nn.Module):
    """One layer, from (T, n, C, H, W) to (T, n, n_hidden, H, W); gates in the order i, f, o, c."""

    def __init__(self, n_in, n_hidden, kernel_size, padding, peephole):
        super().__init__()
        self.padding = padding
        self.margin = tuple(size // 2 for size in kernel_size)
        zeros = self.margin if padding == "zeros" else 0
        self.from_input = nn.Conv2d(n_in, 4 * n_hidden, kernel_size, padding=zeros)
        self.from_hidden = nn.Conv2d(n_hidden, 4 * n_hidden, kernel_size, padding=zeros, bias=False)
        # What comes in keeps its variance (LeCun), and what is remembered its norm (orthogonal):
        # states that start small learn slowly. Torch's default makes both a third.
        nn.init.kaiming_uniform_(self.from_input.weight, nonlinearity="linear")
        for gate in self.from_hidden.weight.detach().chunk(4):
            nn.init.orthogonal_(gate)
        with torch.no_grad():
            # The gate starts open, so that early light is remembered before anything is learnt:
            # R. Jozefowicz et al., "An Empirical Exploration of Recurrent Network Architectures",
            # ICML 2015.
            self.from_input.bias[n_hidden : 2 * n_hidden] = 1.0
        self.peephole = nn.Parameter(torch.zeros(3, n_hidden, 1, 1)) if peephole else None

    def _convolve(self, convolution, x):
        if x.shape[-2:] == convolution.kernel_size == (1, 1):
            # A sequence of single pixels: a matrix product does it in a third of the time.
            weight = convolution.weight.flatten(1)
            return functional.linear(x.flatten(1), weight, convolution.bias)[..., None, None]
        if self.padding == "sphere":
            x = pad_sphere(x, *self.margin)
        return convolution(x)

    def forward(self, x):
        # What the images say to the gates is one convolution for all steps.
        inputs = self._convolve(self.from_input, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        # In the precision of the weights: under autocast a memory in bfloat16 would forget.
        memory = torch.zeros_like(inputs[0, :, : inputs.shape[2] // 4], dtype=self._dtype)
        hidden = []
        for gates in inputs:
            if hidden:
                gates = gates + self._convolve(self.from_hidden, hidden[-1])
            i, f, o, c = gates.chunk(4, 1)
            if self.peephole is not None:
                i = i + self.peephole[0] * memory
                f = f + self.peephole[1] * memory
            memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(c)
            if self.peephole is not None:
                o = o + self.peephole[2] * memory
            hidden.append(torch.sigmoid(o) * torch.tanh(memory))
        return torch.stack(hidden)

    @property
    def _dtype(self):
        return self.from_input.weight.dtype


class TemporalAttention(nn.Module):
    r"""The attention of KamNet: which steps of a sequence count, seen from its end.

    .. math::

        s_t = h_t \odot W_t \odot h_T, \qquad a_t = \frac{e^{s_t}}{\sum_\tau e^{s_\tau}}, \qquad
        \text{context} = \sum_t a_t \odot h_t,

    all element by element: each channel of each pixel has weights over time of its own. The paper
    speaks of scores from :math:`h_t`, :math:`W` and :math:`h_T`; this is the form of its code.

    Parameters
    ----------
    n_steps, channels : int
        T and C of the hidden states.
    image_shape : tuple of int, default=(1, 1)
        The shape (H, W) of the hidden states gives every pixel a W of its own, as in KamNet's
        code; (1, 1) shares W among the pixels, so that the pooling commutes with every shift and
        rotation of the images, and needs H W times fewer parameters.

    References
    ----------
    A. Li et al., "KamNet: An Integrated Spatiotemporal Deep Neural Network for Rare Event Search
    in KamLAND-Zen", Phys. Rev. C 107 (2023) 014323, arXiv:2203.01870; its code,
    https://github.com/aobol/KamNet, has W of shape (T, C, H, W), uniform in ±0.1 at the start.
    """

    def __init__(self, n_steps, channels, image_shape=(1, 1)):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_steps, channels, *image_shape))
        nn.init.uniform_(self.weight, -0.1, 0.1)

    def forward(self, h):
        """Pool hidden states over time.

        Parameters
        ----------
        h : Tensor of shape (n, T, C, H, W)

        Returns
        -------
        context : Tensor of shape (n, C, H, W)
        attention : Tensor of shape (n, T, C, H, W)
            Sums to 1 over T.
        """
        attention = functional.softmax(h * self.weight * h[:, -1:], 1)
        return (attention * h).sum(1), attention


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)
