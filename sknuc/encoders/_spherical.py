"""Networks that do not mind how the sphere is turned."""

import warnings
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.encoders._base import Encoder
from sknuc.geometry import (
    check_points,
    equiangular_sphere,
    fibonacci_sphere,
    harmonic_analysis,
    healpix_sphere,
    highest_degree,
    spherical_harmonics,
)
from sknuc.nn import (
    DegreeNorms,
    FeatureNorm,
    SphericalActivation,
    SphericalAnalysis,
    SphericalLinear,
)
from sknuc.nn import activation as activation_layer

__all__ = ["SphericalCNN"]

# In GiB, of the matrices of one network.
_MOST_MEMORY = 1


class SphericalCNN(Encoder):
    r"""Convolutional network on the sphere, whose features do not change under rotations.

    The signal is expanded in spherical harmonics, :math:`f_{lm} = \sum_i B_{lm,i} f(\hat x_i)`,
    from whatever pixels it was measured on: the cells of a grid, HEALPix, or the phototubes of a
    detector where they are. Each layer correlates it with learned filters, which mixes channels
    degree by degree, applies a non-linearity at the points of a finer grid, and keeps lower
    degrees than the layer before. All of this commutes with rotations of signals that the pixels
    resolve (single hits are none: see Notes), and what leaves the network are invariants: the mean
    of each input channel, the norms :math:`\sqrt{\sum_m (f^l_m)^2/(2l + 1)}` of each degree of each
    layer, and the last means.

    Events have the shape ``(C, n_pixels)`` or, on an equiangular grid, ``(C, H, W)``, with C
    channels such as time bins. ``(C,)`` are channels of a single pixel, which has no directions.

    Parameters
    ----------
    positions : ndarray of shape (n_pixels, 3), "fibonacci", "healpix" or None, default=None
        Where the pixels of events of shape (C, n_pixels) lie, seen from the centre of the sphere,
        in any unit; "healpix" is :func:`~sknuc.geometry.healpix_sphere` in ring order. None is
        :func:`~sknuc.geometry.fibonacci_sphere` for events (C, n_pixels) and
        :func:`~sknuc.geometry.equiangular_sphere` for events (C, H, W). The pixels must cover the
        whole sphere, not evenly but without large holes: where there are none, nothing is known.
    channels : tuple of int, default=(16, 16)
        Channels of each layer.
    bandwidths : tuple of int or None, default=None
        Bandwidth b, degrees :math:`l < b`, of the input and of the output of each layer: one more
        than there are `channels`. None takes 6 for the input, or what the pixels resolve if that is
        less, and falls evenly to 3. A bandwidth of 1 is the mean over the sphere alone.
    max_order : int, default=0
        0 for zonal filters, symmetric about their axis, which see how bright a place is; N for
        filters with orders up to N, which see directions too (N = 2: streaks, rings); "full" for
        the full correlation on the rotation group: all orders that the degrees of the input have,
        N = b - 1. The cost grows with (2 N + 1)².
    signal : {"intensity", "counts"}, default="intensity"
        What a pixel holds: an intensity at its centre, or what fell into its area. The cells of an
        equiangular grid shrink towards the poles, so counts of hits need "counts" there, and
        `standardize` subtracts uniform light instead of the same count everywhere. Phototubes of
        one size read intensities.
    activation : {"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"}, default="silu"
        The non-linearity. The smoother, the better the symmetry: see Notes.
    oversampling : int, default=8
        The non-linearity acts on a grid that resolves products of this many signals.
    dropout : float in [0, 1), default=0.0
        Probability to drop a feature at the end, during training.

    Notes
    -----
    Signals of the input's bandwidth are transformed exactly (least squares, float64 matrices), and
    every linear layer is equivariant to rounding. A non-linearity makes degrees beyond every grid;
    under rotations of white signals they change the features of a trained network, standardised by
    their spread between events, by at most some 5e-4 ("silu"), 2e-3 ("gelu", "elu") or 5e-2
    ("relu") of their norm. Light of higher degrees than the pixels resolve is folded into lower
    ones, as everywhere.

    The hits of an event are no such signal. When it is turned, each photon meets another one of n
    phototubes, :math:`\delta^2 = 2/n` rad² away in the mean, whose time of flight moves a share q
    of the hits to other bins of time. Of the shot noise of a bin, :math:`\rho_l = (1 - q) \langle
    P_l(\cos \delta) \rangle` is left in degree l, and standardised invariants change by
    :math:`\sqrt{2 (1 - \rho_l^2)}` of their norm, whatever the network: for 250 photo-electrons per
    MeV in bins of 1.5 ns by 0.8 on 300 tubes and by 0.5 on 1879, mostly for the times, where two
    events differ by 1.4; after a short training by 0.7 and 0.4. Turned events are other samples of
    the same light, and what is invariant is their distribution.

    References
    ----------
    T. S. Cohen, M. Geiger, J. Köhler, M. Welling, "Spherical CNNs", ICLR 2018, arXiv:1801.10130.

    C. Esteves, C. Allen-Blanchette, A. Makadia, K. Daniilidis, "Learning SO(3) Equivariant
    Representations with Spherical CNNs", ECCV 2018, arXiv:1711.06721.

    Examples
    --------
    >>> import torch
    >>> from sknuc.encoders import SphericalCNN
    >>> from sknuc.geometry import fibonacci_sphere
    >>> tubes = 850.0 * fibonacci_sphere(300)
    >>> SphericalCNN(positions=tubes).build((28, 300))(torch.zeros(5, 28, 300)).shape
    torch.Size([5, 237])
    >>> SphericalCNN(channels=(8,)).build((1, 16, 32))(torch.zeros(5, 1, 16, 32)).shape
    torch.Size([5, 74])
    """

    _parameter_constraints = {
        "positions": ["array-like", StrOptions({"fibonacci", "healpix"}), None],
        "channels": ["array-like"],
        "bandwidths": ["array-like", None],
        "max_order": [Interval(Integral, 0, None, closed="left"), StrOptions({"full"})],
        "signal": [StrOptions({"intensity", "counts"})],
        "activation": [StrOptions({"relu", "leaky_relu", "elu", "gelu", "silu", "tanh"})],
        "oversampling": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        positions=None,
        channels=(16, 16),
        bandwidths=None,
        max_order=0,
        signal="intensity",
        activation="silu",
        oversampling=8,
        dropout=0.0,
    ):
        self.positions = positions
        self.channels = channels
        self.bandwidths = bandwidths
        self.max_order = max_order
        self.signal = signal
        self.activation = activation
        self.oversampling = oversampling
        self.dropout = dropout

    def channel_axis(self, input_shape):
        """0: the first axis counts channels."""
        return 0

    def uniform_event(self, input_shape):
        """The areas of the cells of an equiangular grid, if they hold counts."""
        if self.signal == "intensity" or len(input_shape) != 3:
            return None
        return uniform_counts(*input_shape[1:])

    def build(self, input_shape):
        """Build the network for events of `input_shape`.

        Raises
        ------
        ValueError
            If the pixels do not fit the events, do not resolve the bandwidth, the matrices would
            take more than 1 GiB, or a parameter is out of range.

        Warns
        -----
        UserWarning
            If ``bandwidths=None`` and the pixels, though several, resolve no directions, so that
            only means are left.
        """
        self._validate_params()
        n_channels, pixels = sphere_pixels(self.positions, input_shape, "SphericalCNN")
        channels = check_widths("channels", self.channels)
        bandwidths = self.bandwidths
        if bandwidths is None:
            first = resolved_bandwidth("SphericalCNN", pixels, 6)
            bandwidths = np.linspace(first, min(first, 3), len(channels) + 1).round().astype(int)
        bandwidths = check_bandwidths(bandwidths, channels)
        check_memory("SphericalCNN", len(pixels), bandwidths, self.max_order, self.oversampling)
        network = SphericalNetwork(
            analysis_matrix(pixels, bandwidths[0] - 1, self.signal),
            n_channels,
            channels,
            bandwidths,
            max_order=self.max_order,
            activation=self.activation,
            oversampling=self.oversampling,
        )
        layers = [nn.Unflatten(1, (n_channels, -1)) if len(input_shape) == 1 else nn.Flatten(2)]
        layers.append(network)
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers)


class SphericalNetwork(nn.Module):
    """From signals (n, n_in, n_pixels) to rotation invariants (n, n_features).

    Parameters
    ----------
    matrix : ndarray of shape (bandwidths[0]**2, n_pixels)
    n_in : int
    channels, bandwidths, max_order, activation, oversampling
        As of :class:`SphericalCNN`.
    """

    def __init__(self, matrix, n_in, channels, bandwidths, *, max_order, activation, oversampling):
        super().__init__()
        degrees = [bandwidth - 1 for bandwidth in bandwidths]
        order = highest_order(max_order, bandwidths)
        self.analysis = SphericalAnalysis(matrix)
        self.bandwidths = tuple(bandwidths)
        self.layers = nn.ModuleList()
        n_first, order_in = n_in, 0
        for l_in, l_out, n_out in zip(degrees[:-1], degrees[1:], channels, strict=True):
            order_out = min(order, l_in)
            layer = {
                "linear": SphericalLinear(l_in, n_in, n_out, order_in, order_out),
                "norms": DegreeNorms(l_in),
                "activation": SphericalActivation(
                    activation_layer(activation),
                    l_in,
                    l_out,
                    order_out,
                    oversampling=oversampling,
                ),
            }
            self.layers.append(nn.ModuleDict(layer))
            n_in, order_in = n_out, order_out
        self.last_norms = DegreeNorms(degrees[-1])
        orders = [2 * min(order, degree) + 1 for degree in degrees[:-1]]
        norms = [c * o * b for c, o, b in zip(channels, orders, bandwidths[:-1], strict=True)]
        last = channels[-1] * (1 + orders[-1] * degrees[-1])
        self.n_features = n_first + 1 + sum(norms) + last
        self.norm = FeatureNorm(self.n_features)

    def forward(self, x):
        """Compute the invariants of x."""
        f = self.analysis(x)
        # One brightness for all events, so that dim and bright ones reach the layers alike; it
        # commutes with rotations, and is a feature of its own.
        brightness = (f.square().sum(3, keepdim=True).mean(1, keepdim=True) + 1e-12).sqrt()
        f = f / brightness
        # A signal of variance 1 at every point has coefficients of variance 1/b².
        invariants = [f[:, :, 0, 0] * self.bandwidths[0], brightness[:, :, 0, 0].log()]
        for layer in self.layers:
            f = layer["linear"](f)
            invariants.append(layer["norms"](f).flatten(1))
            f = layer["activation"](f)
        centre = f.shape[2] // 2
        invariants.append(f[:, :, centre, 0] * self.bandwidths[-1])
        invariants.append(self.last_norms(f)[..., 1:].flatten(1))
        return self.norm(torch.cat(invariants, 1))


def highest_order(max_order, bandwidths):
    """The highest order N of filters: of the full correlation, that of the input's degrees."""
    return bandwidths[0] - 1 if max_order == "full" else max_order


def check_memory(name, n_pixels, bandwidths, max_order, oversampling):
    """Check that the matrices of the network fit, before they are computed."""
    highest = highest_order(max_order, bandwidths)
    sizes = [n_pixels * bandwidths[0] ** 2]
    for b_in, b_out in pairwise(bandwidths):
        order = min(highest, b_in - 1)
        # The grid of the non-linearity, of rotation_harmonics, for either side.
        degree = oversampling * (b_in - 1) + b_out - 1
        n_grid = (degree // 2 + 1) * (degree + 1) * (min(degree, (oversampling + 1) * order) + 1)
        sizes.append(n_grid * (2 * order + 1) * (b_in**2 + b_out**2))
    # In 64 and in 32 bits.
    gibibytes = 12 * sum(sizes) / 2**30
    if gibibytes > _MOST_MEMORY:
        parameter = "max_order" if highest and sizes[0] < max(sizes) else "bandwidths"
        raise ValueError(
            f"The {parameter!r} parameter of {name} must be so low that the matrices take at most "
            f"{_MOST_MEMORY} GiB; they would take {gibibytes:.2f}. Got max_order={max_order!r} "
            f"with the bandwidths {tuple(bandwidths)} on {n_pixels} pixels instead."
        )


def resolved_bandwidth(name, pixels, at_most):
    """The bandwidth that pixels resolve, with a warning where several resolve none but the mean."""
    bandwidth = 1 + highest_degree(pixels, at_most=at_most - 1)
    if bandwidth == 1 and len(pixels) > 1:
        warnings.warn(
            f"The {len(pixels)} pixels of {name} resolve no direction, since they are too few or "
            "leave too large a hole in the sphere: its spherical layers see means alone. Give "
            "pixels that cover the whole sphere."
        )
    return bandwidth


def check_bandwidths(bandwidths, channels):
    """Check that there is one bandwidth more than there are layers, and that none is wider."""
    if not channels:
        raise ValueError(
            "The 'channels' parameter must have at least one spherical layer. Got () instead."
        )
    bandwidths = check_widths("bandwidths", bandwidths)
    if len(bandwidths) != len(channels) + 1 or any(
        after > before for before, after in pairwise(bandwidths)
    ):
        raise ValueError(
            "The 'bandwidths' parameter must hold one bandwidth for the input and one for each of "
            f"the {len(channels)} layers in 'channels', none above the one before. Got "
            f"{tuple(bandwidths)} instead."
        )
    return bandwidths


def sphere_pixels(positions, input_shape, name):
    """Where the pixels of events of `input_shape` lie, and how many channels they have.

    Parameters
    ----------
    positions : array-like of shape (n_pixels, 3), str or None
        As of :class:`SphericalCNN`.
    input_shape : tuple of int
    name : str
        Who asks, for the errors.

    Returns
    -------
    n_channels : int
    pixels : ndarray of shape (n_pixels, 3)
    """
    if len(input_shape) > 3:
        raise ValueError(
            f"{name} reads events of shape (C, n_pixels), or (C, H, W) on an equiangular grid. Got "
            f"events of shape {tuple(input_shape)} instead."
        )
    n_channels = input_shape[0]
    if len(input_shape) == 3:
        if positions is not None:
            raise ValueError(
                f"The 'positions' parameter of {name} must be None for events of shape (C, H, W), "
                "whose pixels are those of an equiangular grid. Give events of shape (C, n_pixels) "
                f"at these positions. Got events of shape {tuple(input_shape)} instead."
            )
        return n_channels, equiangular_sphere(*input_shape[1:])[0]
    n_pixels = input_shape[1] if len(input_shape) == 2 else 1
    if positions is None or isinstance(positions, str):
        if positions != "healpix":
            return n_channels, fibonacci_sphere(n_pixels)
        n_side = round((n_pixels / 12) ** 0.5)
        if 12 * n_side**2 != n_pixels:
            raise ValueError(
                f"positions='healpix' of {name} needs 12 n_side² pixels. Got events of shape "
                f"{tuple(input_shape)} instead."
            )
        return n_channels, healpix_sphere(n_side)
    pixels = np.asarray(positions, dtype=np.float64)
    if pixels.shape != (n_pixels, 3):
        raise ValueError(
            f"The 'positions' parameter of {name} must have the shape (n_pixels, 3), with "
            f"n_pixels={n_pixels} for events of shape {tuple(input_shape)} (input_shape=(C, "
            f"n_pixels) says how a table is read). Got an array of shape {pixels.shape} instead."
        )
    return n_channels, check_points(pixels, "positions", name)


def uniform_counts(height, width):
    """What uniform light leaves in the cells of an equiangular grid: their areas, of mean 1."""
    _, areas = equiangular_sphere(height, width)
    return areas.reshape(height, width) / areas.mean()


def analysis_matrix(pixels, l_max, signal):
    r"""The matrix from what pixels hold to harmonic coefficients.

    Counts are a measure, :math:`f_{lm} = \sum_i n_i Y_{lm}(\hat x_i)`, in units of the mean area
    of a pixel; intensities are integrated.
    """
    if signal == "counts":
        # Checks that the pixels resolve the degree.
        harmonic_analysis(pixels, l_max)
        return spherical_harmonics(l_max, pixels).T * (4 * np.pi / len(pixels))
    return harmonic_analysis(pixels, l_max)
