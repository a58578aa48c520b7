"""Hyper-parameters of networks from a noisy event to an event, as scikit-learn objects."""

import math
from abc import abstractmethod
from numbers import Integral

from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval

from sknuc.nn import ConditionalMLP, ConditionalUNet

__all__ = ["Denoiser", "ResidualMLP", "UNet"]


class Denoiser(BaseEstimator):
    """Base class of the networks of a :class:`DiffusionSampler`.

    It holds hyper-parameters only; each fit builds its own network from it.
    """

    @abstractmethod
    def build(self, event_shape, n_conditions):
        """Build the network.

        Parameters
        ----------
        event_shape : tuple of int
            The shape of the variables of one event.
        n_conditions : int
            Numbers per condition; 0 for none.

        Returns
        -------
        module : nn.Module
            Called as ``module(x, level, condition)`` with noisy events (n, *event_shape), noise
            levels (n,) from -1 (event) to 1 (noise), or one (1,) for all, and conditions
            (n, n_conditions) or None; returns (n, *event_shape).
        """


class ResidualMLP(Denoiser):
    r"""Residual multi-layer perceptron, for tables.

    Blocks are :math:`h + W_2\,\phi((1 + \gamma) W_1\phi(h) + \beta)` with the SiLU φ, where γ and β
    are linear in features of noise level and condition.

    Parameters
    ----------
    width : int or None, default=None
        Features of each layer; None takes as many as the event has numbers, rounded up to a power
        of two from 128 to 512.
    n_blocks : int, default=3
        Residual blocks of two layers.

    References
    ----------
    E. Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018,
    arXiv:1709.07871.

    Examples
    --------
    >>> import torch
    >>> from sknuc.samplers import ResidualMLP
    >>> network = ResidualMLP(width=64).build((4,), 2)
    >>> network(torch.zeros(5, 4), torch.zeros(5), torch.zeros(5, 2)).shape
    torch.Size([5, 4])
    """

    _parameter_constraints = {
        "width": [Interval(Integral, 1, None, closed="left"), None],
        "n_blocks": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(self, *, width=None, n_blocks=3):
        self.width = width
        self.n_blocks = n_blocks

    def build(self, event_shape, n_conditions):
        """Build the network: see :class:`Denoiser`."""
        self._validate_params()
        width = self.width
        if width is None:
            width = min(512, max(128, 2 ** math.ceil(math.log2(math.prod(event_shape)))))
        return ConditionalMLP(event_shape, n_conditions, width=width, n_blocks=self.n_blocks)


class UNet(Denoiser):
    """Convolutional network with connections across, for signals, images and voxels.

    Events of shape ``(C, L)`` are signals, ``(C, H, W)`` images, ``(C, D, H, W)`` voxels, of any
    lengths: where an axis is no multiple of what it is divided by, it goes on with its last value,
    and the result is cut. Every level halves the axes that are 4 places long at least.

    Parameters
    ----------
    channels : tuple of int, default=(32, 64, 128)
        Channels of each level, from the finest to the coarsest.
    patch : int, tuple of int or None, default=None
        Samples, pixels or voxels that are one place of the first level, along all axes or along
        each. None takes 4 along axes of 128 or more, 2 from 32 on, else 1.
    kernel_size : int or None, default=None
        Odd width of the convolutions in places; None takes 5 for signals, 3 for images and voxels.
    n_heads : int, default=4
        Heads of the attention at the coarsest level, a divisor of its channels; 0 for none.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, arXiv:1505.04597.
    P. Dhariwal, A. Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021,
    arXiv:2105.05233.

    Examples
    --------
    >>> import torch
    >>> from sknuc.samplers import UNet
    >>> network = UNet(channels=(8, 16)).build((1, 250), 0)
    >>> network(torch.zeros(5, 1, 250), torch.zeros(5)).shape
    torch.Size([5, 1, 250])
    """

    _parameter_constraints = {
        "channels": ["array-like"],
        "patch": [Interval(Integral, 1, None, closed="left"), "array-like", None],
        "kernel_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_heads": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(self, *, channels=(32, 64, 128), patch=None, kernel_size=None, n_heads=4):
        self.channels = channels
        self.patch = patch
        self.kernel_size = kernel_size
        self.n_heads = n_heads

    def build(self, event_shape, n_conditions):
        """Build the network: see :class:`Denoiser`.

        Raises
        ------
        ValueError
            If the event is no signal, image or voxels, or a parameter is out of range.
        """
        self._validate_params()
        dimensions = len(event_shape) - 1
        if dimensions not in (1, 2, 3):
            raise ValueError(
                "UNet reads events of shape (C, L), (C, H, W) or (C, D, H, W). Got events of shape "
                f"{tuple(event_shape)}: give input_shape, or take ResidualMLP."
            )
        channels = tuple(self.channels)
        if not channels or not all(isinstance(c, Integral) and c > 0 for c in channels):
            raise ValueError(
                "The 'channels' parameter of UNet must hold a positive integer for each level. Got "
                f"{self.channels!r} instead."
            )
        kernel_size = self.kernel_size or (5 if dimensions == 1 else 3)
        if kernel_size % 2 == 0:
            raise ValueError(
                f"The 'kernel_size' parameter of UNet must be odd. Got {kernel_size} instead."
            )
        if self.n_heads and channels[-1] % self.n_heads:
            raise ValueError(
                "The 'n_heads' parameter of UNet must divide the channels of the coarsest level, "
                f"{channels[-1]}. Got {self.n_heads} instead."
            )
        return ConditionalUNet(
            event_shape,
            n_conditions,
            channels=channels,
            patch=self._patch(event_shape[1:]),
            kernel_size=kernel_size,
            n_heads=self.n_heads,
        )

    def _patch(self, size):
        if self.patch is None:
            return tuple(4 if n >= 128 else 2 if n >= 32 else 1 for n in size)
        patch = (self.patch,) * len(size) if isinstance(self.patch, Integral) else self.patch
        patch = tuple(patch)
        if len(patch) != len(size) or not all(isinstance(p, Integral) and p > 0 for p in patch):
            raise ValueError(
                "The 'patch' parameter of UNet must be a positive integer, or one for each of the "
                f"{len(size)} axes. Got {self.patch!r} instead."
            )
        return tuple(int(p) for p in patch)
