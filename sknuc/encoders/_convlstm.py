r"""A network for sequences of images: light on a sphere of phototubes, frame by frame.

Convolutional LSTM layers (:mod:`sknuc.nn`) read the frames :math:`X_t` in turn and keep a memory
at every pixel; their hidden states :math:`H_1, \dots, H_T` are pooled over time, by default with
the attention of KamNet,

.. math::

    A = \sum_t a_t \odot H_t, \qquad a_t = \mathrm{softmax}_t(H_t \odot W_t \odot H_T),

and then over the pixels. The weights :math:`a_t` tell which times the network looks at.
"""

from numbers import Integral, Real

from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.encoders._base import Encoder
from sknuc.encoders._cnn import Pool
from sknuc.encoders._spherical import uniform_counts
from sknuc.nn import ConvLSTMLayers, FeatureNorm, TemporalAttention

__all__ = ["ConvLSTM"]


class ConvLSTM(Encoder):
    """Convolutional LSTM with attention over time, for sequences of images.

    Events of shape ``(T, C, H, W)`` are T frames of C channels, ``(T, H, W)`` frames of one
    channel. ``(T, C)`` are sequences of a single pixel, on which the network is an ordinary LSTM,
    and ``(C,)`` a single step of one.

    Parameters
    ----------
    hidden_channels : tuple of int, default=(12, 22)
        Channels of the hidden state of each layer; KamNet's.
    kernel_size : int, tuple or None, default=None
        Odd width of the convolutions in pixels: one for all layers, or one for each; of each, one
        for both axes or a pair for H and W. None is KamNet's (5, 3) for two layers, and 3 for every
        layer of another number, or less on images so small that it would reach farther than once
        around the sphere. With zeros, what would reach past the far edge of the image is cut off,
        since it would only ever meet zeros.
    pooling : {"attention", "pixel_attention", "mean", "last"}, default="attention"
        From hidden states to an image: the attention of KamNet, with a W that all pixels share or
        (as in KamNet's code) one for each pixel, which depends on the absolute position; the mean
        over time; the last hidden state.
    spatial_pooling : {"mean_max", "mean", "max", "flatten"}, default="mean_max"
        From the image to features, per channel, as in :class:`CNN`.
    padding : {"zeros", "sphere"}, default="zeros"
        What lies beyond the edges of the images. "sphere" is for maps with the polar angle along H
        and the azimuth along W, as :class:`~sknuc.preprocessing.PMTHitMap` makes them: W wraps
        around, and beyond a pole the rows go on at the other side, half a turn away. W must be
        even. The cells hold counts of hits, which shrink with their areas towards the poles:
        `standardize` subtracts uniform light instead of the same count everywhere.
    peephole : bool, default=False
        Let the gates see the memory, by one weight per channel and gate.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature at the end, during training.

    Notes
    -----
    The weights of the attention, of shape (n, T, channels, H, W), sum to 1 over T. A trained
    estimator gives them as in the example, and ``attention.mean((2, 3, 4))`` is a curve over time.

    References
    ----------
    X. Shi et al., "Convolutional LSTM Network: A Machine Learning Approach for Precipitation
    Nowcasting", NeurIPS 2015, arXiv:1506.04214.
    A. Li et al., "KamNet: An Integrated Spatiotemporal Deep Neural Network for Rare Event Search
    in KamLAND-Zen", Phys. Rev. C 107 (2023) 014323, arXiv:2203.01870.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from sknuc.encoders import ConvLSTM
    >>> from sknuc.networks import NeuralClassifier
    >>> X = np.random.default_rng(0).random((20, 6, 4, 8), dtype=np.float32)
    >>> encoder = ConvLSTM(hidden_channels=(4,), kernel_size=3, padding="sphere")
    >>> model = NeuralClassifier(encoder=encoder, max_epochs=2).fit(X, np.arange(20) % 2)
    >>> scaling, network = model.module_
    >>> attention = network[0].attention(scaling(torch.from_numpy(X)))
    >>> attention.shape
    torch.Size([20, 6, 4, 4, 8])
    """

    _parameter_constraints = {
        "hidden_channels": ["array-like"],
        "kernel_size": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "pooling": [StrOptions({"attention", "pixel_attention", "mean", "last"})],
        "spatial_pooling": [StrOptions({"mean_max", "mean", "max", "flatten"})],
        "padding": [StrOptions({"zeros", "sphere"})],
        "peephole": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        hidden_channels=(12, 22),
        kernel_size=None,
        pooling="attention",
        spatial_pooling="mean_max",
        padding="zeros",
        peephole=False,
        dropout=0.0,
    ):
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.pooling = pooling
        self.spatial_pooling = spatial_pooling
        self.padding = padding
        self.peephole = peephole
        self.dropout = dropout

    def channel_axis(self, input_shape):
        """1 for (T, C, H, W) and (T, C), 0 for (C,), None for (T, H, W), which has one channel."""
        return {1: 0, 3: None}.get(len(input_shape), 1)

    def uniform_event(self, input_shape):
        """The areas of the cells of an equiangular grid with padding="sphere"."""
        if self.padding != "sphere" or len(input_shape) not in (3, 4):
            return None
        return uniform_counts(*input_shape[-2:])

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the event has more than four axes, or a parameter is out of range.
        """
        self._validate_params()
        if len(input_shape) > 4:
            raise ValueError(
                "ConvLSTM reads events of shape (T, H, W), (T, C, H, W), (T, C) or (C,). Got "
                f"events of shape {tuple(input_shape)} instead."
            )
        n_steps, *frame = (1, *input_shape) if len(input_shape) == 1 else input_shape
        # A missing axis is one of length one: of channels before images, of pixels after channels.
        channels, height, width = (1, *frame) if len(frame) == 2 else (*frame, 1, 1)[:3]
        hidden = check_widths("hidden_channels", self.hidden_channels)
        if not hidden:
            raise ValueError(
                "The 'hidden_channels' parameter must have at least one layer. Got "
                f"{self.hidden_channels!r} instead."
            )
        kernels = check_kernels(
            "ConvLSTM", self.kernel_size, len(hidden), (height, width), self.padding
        )
        image = (height, width) if self.pooling == "pixel_attention" else (1, 1)
        return _ConvLSTM(
            (n_steps, channels, height, width),
            ConvLSTMLayers(channels, hidden, kernels, padding=self.padding, peephole=self.peephole),
            TemporalAttention(n_steps, hidden[-1], image)
            if self.pooling.endswith("attention")
            else self.pooling,
            self._pool(hidden[-1]),
            nn.Dropout(self.dropout),
        )

    def _pool(self, channels):
        if self.spatial_pooling == "flatten":
            return nn.Flatten()
        n_features = 2 * channels if self.spatial_pooling == "mean_max" else channels
        # What one event's light adds to the mean state of all pixels is little.
        return nn.Sequential(Pool(self.spatial_pooling), FeatureNorm(n_features))


class _ConvLSTM(nn.Module):
    """From (n, *input_shape) to (n, n_features), through hidden states (n, T, channels, H, W)."""

    def __init__(self, shape, layers, pool_time, pool_space, dropout):
        super().__init__()
        self.shape = shape
        self.layers = layers
        self.pool_time = pool_time
        self.pool_space = pool_space
        self.dropout = dropout

    def forward(self, x):
        hidden = self._hidden(x)
        if self.pool_time == "mean":
            image = hidden.mean(1)
        elif self.pool_time == "last":
            image = hidden[:, -1]
        else:
            image, _ = self.pool_time(hidden)
        return self.dropout(self.pool_space(image))

    def attention(self, x):
        """Weights over time, of shape (n, T, channels, H, W); they sum to 1 over T."""
        if not isinstance(self.pool_time, TemporalAttention):
            raise ValueError(
                "ConvLSTM has weights over time with pooling='attention' or 'pixel_attention'. Got "
                f"pooling={self.pool_time!r} instead."
            )
        return self.pool_time(self._hidden(x))[1]

    def _hidden(self, x):
        return self.layers(x.reshape(len(x), *self.shape))


def check_kernels(name, kernel_size, n_layers, image, padding):
    """Widths of the convolutions along H and W.

    Parameters
    ----------
    name : str
        Whose parameters these are, for the errors.
    kernel_size, padding
        As of :class:`ConvLSTM`.
    n_layers : int
    image : (int, int)
        H and W.

    Returns
    -------
    kernels : list of (int, int)
        One for each layer.
    """
    sizes = kernel_size
    if kernel_size is None:
        sizes = (5, 3) if n_layers == 2 else (3,) * n_layers
    elif isinstance(kernel_size, Integral):
        sizes = (kernel_size,) * n_layers
    pairs = [(s, s) if isinstance(s, Integral) else tuple(s) for s in sizes]
    odd = all(isinstance(s, Integral) and s > 0 and s % 2 for pair in pairs for s in pair)
    if len(pairs) != n_layers or not odd or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"The 'kernel_size' parameter of {name} must be an odd positive integer, or hold one "
            f"(or a pair for H and W) for each of the {n_layers} layers, or None. Got "
            f"{kernel_size!r} instead."
        )
    # Farther than once around a sphere, or from one edge to the other, there is nothing more.
    farthest = [2 * n + (1 if padding == "sphere" else -1) for n in image]
    cut = [tuple(map(min, pair, farthest)) for pair in pairs]
    if padding == "sphere":
        if image[1] % 2:
            raise ValueError(
                f"padding='sphere' of {name} goes on half a turn away beyond the poles, so that "
                f"images must have an even width. Got images of shape {tuple(image)} instead."
            )
        if kernel_size is not None and cut != pairs:
            raise ValueError(
                f"The 'kernel_size' parameter of {name} must reach at most once around the sphere: "
                f"be at most {tuple(farthest)} along H and W of images of shape {tuple(image)}. "
                f"Got {kernel_size!r} instead."
            )
    return cut
