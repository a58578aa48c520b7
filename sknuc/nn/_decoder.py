"""Decoders: from a vector to an event, as mirrors of the encoders that read it.

A convolution of stride s shrinks an axis from L to ⌈L/s⌉ samples. Its mirror is the transposed
convolution, of kernel 2s: every sample of the result sees as many of its input, because the kernel
is a multiple of the stride, and so there is no checkerboard pattern (Odena et al.). It makes
s⌈L/s⌉ ≥ L samples, of which the first L are kept, so that axes of any length come out as they were.
"""

import math
from itertools import pairwise
from numbers import Integral

import torch
from torch import nn

from sknuc.nn._blocks import activation as make_activation
from sknuc.nn._blocks import group_norm
from sknuc.nn._convolutions import ResidualConvolution, circular_padding

__all__ = ["ConvDecoder", "DenseDecoder", "check_decoder", "mirror"]


class DenseDecoder(nn.Sequential):
    r"""Multi-layer perceptron, :math:`h_{l+1} = \phi(W_l h_l + b_l)`, and a linear map to events.

    Parameters
    ----------
    n_inputs : int
        Length of the vector.
    output_shape : tuple of int
        Shape of one event.
    hidden_layer_sizes : tuple of int, default=(64, 64)
        Width of each layer, from the vector on; () is a linear map.
    activation : str, default="relu"
        The non-linearity φ, as :func:`sknuc.nn.activation` knows it.
    norm : {"layer"} or None, default=None
        Layer normalisation before each non-linearity.
    """

    def __init__(
        self, n_inputs, output_shape, *, hidden_layer_sizes=(64, 64), activation="relu", norm=None
    ):
        layers = []
        for width, size in pairwise((n_inputs, *hidden_layer_sizes)):
            layers.append(nn.Linear(width, size))
            if norm is not None:
                layers.append(nn.LayerNorm(size))
            layers.append(make_activation(activation))
        last = hidden_layer_sizes[-1] if len(hidden_layer_sizes) else n_inputs
        layers.append(nn.Linear(last, math.prod(output_shape)))
        if len(output_shape) > 1:
            layers.append(nn.Unflatten(1, tuple(output_shape)))
        super().__init__(*layers)


class ConvDecoder(nn.Sequential):
    """Transposed convolutions from a vector to signals, images or voxels of any size.

    A linear map makes the coarsest stage; then, stage by stage, residual blocks of two convolutions
    and a transposed convolution that stretches every axis, the last of them to the channels of the
    event. The parameters are those of :class:`sknuc.encoders.CNN`, whose mirror it is.

    Parameters
    ----------
    n_inputs : int
        Length of the vector.
    output_shape : tuple of int
        Shape of one event: (L,), (C, L), (C, H, W) or (C, D, H, W).
    channels : tuple of int, default=(16, 32, 64)
        Channels of each stage, from the finest to the coarsest, as the encoder goes.
    kernel_size : int, tuple of int or None, default=None
        Odd width of the convolutions, the same for all axes or one for each; None takes 7 for
        signals and 3 for images and voxels.
    stride : int or tuple of int, default=2
        By how much each stage stretches every axis.
    n_blocks : int, default=1
        Residual blocks per stage.
    activation : str, default="relu"
        The non-linearity, as :func:`sknuc.nn.activation` knows it.
    norm : {"group"} or None, default=None
        Group normalisation after each convolution but those that make events.
    wrap : bool, default=False
        The ends of the last axis are neighbours.

    References
    ----------
    A. Odena, V. Dumoulin, C. Olah, "Deconvolution and Checkerboard Artifacts", Distill (2016),
    doi:10.23915/distill.00003.
    """

    def __init__(
        self,
        n_inputs,
        output_shape,
        *,
        channels=(16, 32, 64),
        kernel_size=None,
        stride=2,
        n_blocks=1,
        activation="relu",
        norm=None,
        wrap=False,
    ):
        shape = (1, *output_shape) if len(output_shape) == 1 else tuple(output_shape)
        dimensions = len(shape) - 1
        if dimensions > 3:
            raise ValueError(
                "ConvDecoder makes events of shape (L,), (C, L), (C, H, W) or (C, D, H, W). Got "
                f"the shape {tuple(output_shape)} instead."
            )
        if kernel_size is None:
            kernel_size = 7 if dimensions == 1 else 3
        kernel_size = _per_axis(kernel_size, dimensions)
        stride = _per_axis(stride, dimensions)
        options = {"activation": activation, "norm": norm, "wrap": wrap}
        # Lengths of the axes from the event to the coarsest stage.
        sizes = [shape[1:]]
        for _ in channels:
            sizes.append(tuple(-(-size // s) for size, s in zip(sizes[-1], stride, strict=True)))
        widths = [shape[0], *(int(width) for width in channels)]
        coarsest = (widths[-1], *sizes[-1])
        layers = [nn.Linear(n_inputs, math.prod(coarsest)), nn.Unflatten(1, coarsest)]
        if len(channels):
            layers.append(make_activation(activation))
        for i in range(len(channels), 0, -1):
            layers += [
                ResidualConvolution(widths[i], kernel_size, **options) for _ in range(n_blocks)
            ]
            layers += [_Stretch(widths[i], widths[i - 1], stride, sizes[i - 1], wrap)]
            if i > 1:
                layers += [group_norm(widths[i - 1])] if norm is not None else []
                layers += [make_activation(activation)]
        if len(output_shape) == 1:
            layers.append(nn.Flatten())
        super().__init__(*layers)


def mirror(encoder, n_inputs, output_shape):
    """Make the decoder that mirrors an encoder.

    Of an encoder with `channels`, such as :class:`sknuc.encoders.CNN`, the decoder has the same
    stages in reverse; of one with `hidden_layer_sizes`, such as :class:`sknuc.encoders.MLP`, the
    same layers. Of any other, and of None, it is a :class:`ConvDecoder` for signals, images and
    voxels, and a :class:`DenseDecoder` for all else, each with its defaults. An encoder has the
    last word by a method ``mirror(n_inputs, output_shape)`` that returns a module.

    Parameters
    ----------
    encoder : object
        The hyper-parameters of the encoder, or None.
    n_inputs : int
        Length of the vector that is decoded.
    output_shape : tuple of int
        Shape of one event.

    Returns
    -------
    decoder : nn.Module
        From (n, n_inputs) to (n, *output_shape).
    """
    if hasattr(encoder, "mirror"):
        return encoder.mirror(n_inputs, output_shape)
    if hasattr(encoder, "hidden_layer_sizes"):
        sizes = tuple(encoder.hidden_layer_sizes)[::-1]
        names = ("activation", "norm")
        options = {name: getattr(encoder, name) for name in names if hasattr(encoder, name)}
        return DenseDecoder(n_inputs, output_shape, hidden_layer_sizes=sizes, **options)
    names = ("channels", "kernel_size", "stride", "n_blocks", "activation", "norm", "wrap")
    # All of them, since other networks mean other things by some of these names.
    if all(hasattr(encoder, name) for name in names):
        options = {name: getattr(encoder, name) for name in names}
        return ConvDecoder(n_inputs, output_shape, **options)
    if 2 <= len(output_shape) <= 4:
        return ConvDecoder(n_inputs, output_shape)
    return DenseDecoder(n_inputs, output_shape)


def check_decoder(decoder, n_inputs, output_shape):
    """Check that a user's decoder makes events.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If it makes events of another shape.
    """
    if not isinstance(decoder, nn.Module):
        raise TypeError(
            "The method build of the 'decoder' parameter must return a torch.nn.Module. Got "
            f"{decoder!r} instead."
        )
    parameter = next(decoder.parameters(), torch.empty(0))
    output = decoder(torch.zeros(2, n_inputs, dtype=parameter.dtype))
    if tuple(output.shape) != (2, *output_shape):
        raise ValueError(
            f"The network of the 'decoder' parameter must turn vectors (n, {n_inputs}) into "
            f"(n, {', '.join(map(str, output_shape))}). Got the shape {tuple(output.shape)} for "
            "n=2 instead."
        )


class _Stretch(nn.Module):
    """Transposed convolution from ⌈L/s⌉ to L samples along every axis."""

    def __init__(self, n_in, n_out, stride, size, wrap):
        super().__init__()
        self.keep = tuple(slice(0, length) for length in size)
        self.pad = None
        if wrap:
            # One neighbour from around the seam, whose own samples are then cut off.
            self.pad = circular_padding(len(stride), 1)
            last = slice(stride[-1], stride[-1] + size[-1])
            self.keep = (*self.keep[:-1], last)
        transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
        self.layer = transposed[len(stride)](
            n_in,
            n_out,
            tuple(2 * s if s > 1 else 1 for s in stride),
            stride=stride,
            padding=tuple((s + 1) // 2 if s > 1 else 0 for s in stride),
            output_padding=tuple(s % 2 if s > 1 else 0 for s in stride),
        )

    def forward(self, h):
        if self.pad is not None:
            h = self.pad(h)
        return self.layer(h)[(slice(None), slice(None), *self.keep)]


def _per_axis(value, dimensions):
    values = (value,) * dimensions if isinstance(value, Integral) else value
    return tuple(int(v) for v in values)
