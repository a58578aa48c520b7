r"""KamNet: light on a sphere, as a film.

An event in a liquid scintillator is a film of a few dozen frames of hits on a sphere of phototubes.
What tells :math:`^{10}\mathrm{C}` from a double beta decay is a little late light from somewhere
else. A convolutional LSTM reads the frames, attention over time makes one image of its states, and
spherical convolutions make features of that image that do not change when it is turned.

Of the whole network this is a symmetry about the z axis only. The LSTM sees a planar map, whose
cells are narrower the nearer they are to a pole, so that a cluster of hits leaves other states
there than at the equator.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.encoders._base import Encoder
from sknuc.encoders._convlstm import ConvLSTM, check_kernels
from sknuc.encoders._mlp import MLP
from sknuc.encoders._spherical import (
    SphericalNetwork,
    check_bandwidths,
    check_memory,
    resolved_bandwidth,
    uniform_counts,
)
from sknuc.geometry import equiangular_sphere, harmonic_analysis

__all__ = ["KamNet"]

# Of the dense layers, per row of the frames: 1080, 864, 432, 216 and 54 for 38 rows.
_WIDTHS_PER_ROW = np.array([1080, 864, 432, 216, 54]) / 38

# Of the non-linearities. SphericalCNN takes more, for a symmetry that the LSTM does not leave.
_OVERSAMPLING = 2


class KamNet(Encoder):
    r"""Convolutional LSTM with attention, spherical convolutions and dense layers.

    .. math::

        H_t = \mathrm{ConvLSTM}(X_1, \dots, X_t), \qquad
        A = \sum_t a_t \odot H_t, \quad a_t = \mathrm{softmax}_t(H_t \odot W_t \odot H_T), \qquad
        z = \mathrm{MLP}(\mathrm{SphericalCNN}(A)).

    Events of shape ``(T, H, W)`` or ``(T, C, H, W)`` are T frames of an equiangular grid with the
    polar angle along H and the azimuth along W, as :class:`~sknuc.preprocessing.PMTHitMap` makes
    them; ``(C,)`` are channels of a single pixel at a single time. The defaults are the paper's for
    its (28, 38, 38); on other grids the bandwidths and the dense layers shrink and grow with the
    number of rows.

    The features do not change, to 1e-3 of their norm, when an event is turned about the z axis by
    whole columns (with ``padding="sphere"``). Under other rotations they change by some 20 to 40 %
    in an untrained network: the spherical layers would not notice, but the LSTM does. Train on
    events from all sides, or take a :class:`SphericalCNN`, whose symmetry is that of the sphere.

    Parameters
    ----------
    hidden_channels : tuple of int, default=(12, 22)
        Channels of the convolutional LSTM layers.
    kernel_size : int, tuple or None, default=None
        Odd widths of their convolutions, in cells, as in :class:`ConvLSTM`: None is the paper's
        (5, 3) for two layers.
    channels : tuple of int, default=(36, 63, 74, 124)
        Channels of the spherical layers.
    bandwidths : tuple of int or None, default=None
        Bandwidths of the spherical layers' input and outputs, as in :class:`SphericalCNN`. None
        falls evenly from H/2 to 2: (19, 14, 10, 6, 2) for the paper's grid.
    hidden_layer_sizes : tuple of int or None, default=None
        Widths of the dense layers; the last one is the number of features. None is
        (1080, 864, 432, 216, 54) for 38 rows, and in proportion for other grids, but not below 16.
    max_order : int or "full", default=0
        As in :class:`SphericalCNN`. The paper's layers are "full" correlations, which cost more
        than they gain where light comes from points, since zonal filters see those as well. They
        fit into memory with smaller bandwidths only, such as (9, 7, 5, 3, 2).
    padding : {"sphere", "zeros"} or None, default=None
        What lies beyond the edges of the frames for the LSTM, as in :class:`ConvLSTM`. None is
        "sphere" for an even number of columns.
    signal : {"counts", "intensity"}, default="counts"
        What the cells hold, as in :class:`SphericalCNN`: of counts, `standardize` subtracts uniform
        light instead of the same count everywhere. The states of the LSTM have a value at every
        cell, whatever its area, and are read as intensities.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}, default="silu"
        The non-linearity of spherical and dense layers.
    norm : {"layer"} or None, default="layer"
        Layer normalisation before each non-linearity of the dense layers, in place of the paper's
        batch normalisation, which mixes events.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature after each dense layer, during training.

    Notes
    -----
    The paper trains with RMSprop (``learning_rate=7.73e-5``, momentum 0.781), 32 events per step,
    for 30 epochs. One event of its shape costs 1.7 billion multiply-adds forward, nearly all in the
    LSTM.

    The weights over time of a trained estimator are those of its first layer, as in
    :class:`ConvLSTM`: ``scaling, network = model.module_``, then
    ``network[0][0].attention(scaling(x))``.

    References
    ----------
    A. Li et al., "KamNet: An Integrated Spatiotemporal Deep Neural Network for Rare Event Search
    in KamLAND-Zen", Phys. Rev. C 107 (2023) 014323, arXiv:2203.01870.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import KamNet
    >>> KamNet().build((28, 12, 24))(torch.zeros(2, 28, 12, 24)).shape
    torch.Size([2, 17])
    """

    _parameter_constraints = {
        "hidden_channels": ["array-like"],
        "kernel_size": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "channels": ["array-like"],
        "bandwidths": ["array-like", None],
        "hidden_layer_sizes": ["array-like", None],
        "max_order": [Interval(Integral, 0, None, closed="left"), StrOptions({"full"})],
        "padding": [StrOptions({"sphere", "zeros"}), None],
        "signal": [StrOptions({"counts", "intensity"})],
        "activation": [StrOptions({"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"})],
        "norm": [StrOptions({"layer"}), None],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        hidden_channels=(12, 22),
        kernel_size=None,
        channels=(36, 63, 74, 124),
        bandwidths=None,
        hidden_layer_sizes=None,
        max_order=0,
        padding=None,
        signal="counts",
        activation="silu",
        norm="layer",
        dropout=0.0,
    ):
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.channels = channels
        self.bandwidths = bandwidths
        self.hidden_layer_sizes = hidden_layer_sizes
        self.max_order = max_order
        self.padding = padding
        self.signal = signal
        self.activation = activation
        self.norm = norm
        self.dropout = dropout

    def channel_axis(self, input_shape):
        """As of :class:`ConvLSTM`."""
        return ConvLSTM().channel_axis(input_shape)

    def uniform_event(self, input_shape):
        """The areas of the cells, if they hold counts."""
        if self.signal == "intensity" or len(input_shape) not in (3, 4):
            return None
        return uniform_counts(*input_shape[-2:])

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the event has more than four axes, the frames do not resolve the bandwidths, the
            matrices would take more than 1 GiB, or a parameter is out of range.

        Warns
        -----
        UserWarning
            If ``bandwidths=None`` and frames of several pixels have too few rows to resolve any
            direction.
        """
        self._validate_params()
        if len(input_shape) not in (1, 3, 4):
            raise ValueError(
                "KamNet reads events of shape (T, H, W), (T, C, H, W) or (C,). Got events of shape "
                f"{tuple(input_shape)} instead."
            )
        height, width = (1, 1) if len(input_shape) == 1 else input_shape[-2:]
        padding = self.padding or ("zeros" if width % 2 else "sphere")
        hidden = check_widths("hidden_channels", self.hidden_channels)
        film = ConvLSTM(
            hidden_channels=hidden,
            kernel_size=check_kernels(
                "KamNet", self.kernel_size, len(hidden), (height, width), padding
            ),
            pooling="attention",
            spatial_pooling="flatten",
            padding=padding,
        ).build(input_shape)
        channels = check_widths("channels", self.channels)
        pixels, _ = equiangular_sphere(height, width)
        bandwidths = self.bandwidths
        if bandwidths is None:
            first = max(height // 2, 1)
            check_memory("KamNet", len(pixels), [first], 0, _OVERSAMPLING)
            first = resolved_bandwidth("KamNet", pixels, first)
            bandwidths = np.linspace(first, min(first, 2), len(channels) + 1).astype(int)
        bandwidths = check_bandwidths(bandwidths, channels)
        check_memory("KamNet", len(pixels), bandwidths, self.max_order, _OVERSAMPLING)
        n_hidden = hidden[-1]
        sphere = SphericalNetwork(
            harmonic_analysis(pixels, bandwidths[0] - 1),
            n_hidden,
            channels,
            bandwidths,
            max_order=self.max_order,
            activation=self.activation,
            oversampling=_OVERSAMPLING,
        )
        sizes = self.hidden_layer_sizes
        if sizes is None:
            sizes = np.maximum(_WIDTHS_PER_ROW * height, 16).round().astype(int)
        dense = MLP(
            hidden_layer_sizes=sizes,
            activation=self.activation,
            norm=self.norm,
            dropout=self.dropout,
        ).build((sphere.n_features,))
        return nn.Sequential(film, nn.Unflatten(1, (n_hidden, height * width)), sphere, dense)
