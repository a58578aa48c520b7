r"""Signals on the sphere, and layers that commute with rotations.

A signal is kept as its harmonic coefficients :math:`f^l_{mn}`: degree l, and under a rotation R

.. math::

    f'^l_{mn} = \sum_{m'} D^l_{mm'}(R) f^l_{m'n},

so that everything that leaves m alone commutes with rotations. The order n tells functions of a
point on the sphere (n = 0, a camera's picture) from functions of a point and a direction at it
(:math:`|n| \le N`, which a filter that is no disc makes); with :math:`N = l_{max}` they are all
functions on the rotation group.

- Correlation with a filter mixes channels and orders, degree by degree (:class:`SphericalLinear`).
- A non-linearity acts at every point of a grid that is finer than the signal
  (:class:`SphericalActivation`); what it makes beyond the degree that is kept is cut off.
- The power of each degree, :math:`\sum_m (f^l_{mn})^2`, does not change (:class:`DegreeNorms`).

Coefficients have the shape (n, channels, 2 N + 1, (l_max + 1)²) and are normalised such that the
first is the mean of the signal.
"""

import functools
import math

import torch
from torch import nn

from sknuc.geometry import rotation_harmonics

__all__ = ["DegreeNorms", "SphericalActivation", "SphericalAnalysis", "SphericalLinear"]


class _Exact(nn.Module):
    """Matrices computed in 64 bits, in the precision of the network.

    A matrix cast to 32 bits and back would have lost half of its digits.
    """

    def __init__(self, **matrices):
        super().__init__()
        self._exact = {name: torch.as_tensor(matrix).double() for name, matrix in matrices.items()}
        for name, matrix in self._exact.items():
            self.register_buffer(name, matrix.float(), persistent=False)

    def __getstate__(self):
        """Of the buffers, which follow from the exact matrices, only type and place."""
        buffers = {
            name: torch.empty(0, dtype=b.dtype, device=b.device) if name in self._exact else b
            for name, b in self._buffers.items()
        }
        return self.__dict__ | {"_buffers": buffers}

    def __setstate__(self, state):
        super().__setstate__(state)
        for name, matrix in self._exact.items():
            self._buffers[name] = matrix.to(self._buffers[name])

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        for name, matrix in self._exact.items():
            buffer = getattr(self, name)
            if buffer.dtype == torch.float64 and not buffer.is_meta:
                setattr(self, name, matrix.to(buffer.device))
        return self


def _exactly(forward):
    """Make mixed precision pass over `forward`: what is rounded to 16 bits has no symmetry left."""

    @functools.wraps(forward)
    def in_own_precision(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return forward(self, x.to(next(self.buffers()).dtype))

    return in_own_precision


class SphericalAnalysis(_Exact):
    """From values at pixels to coefficients of order 0.

    Parameters
    ----------
    matrix : array of shape ((l_max + 1)**2, n_pixels)
        As of :func:`sknuc.geometry.harmonic_analysis`.
    """

    def __init__(self, matrix):
        super().__init__(matrix=torch.as_tensor(matrix).T / math.sqrt(4 * math.pi))

    @_exactly
    def forward(self, x):
        """Transform x of shape (n, channels, n_pixels)."""
        return (x @ self.matrix).unsqueeze(2)


class SphericalLinear(nn.Module):
    r"""Correlation with learned filters, :math:`g^l_{mn} = \sum_{cn'} W^l_{cn',n} f^l_{cmn'}`.

    With `max_order` 0 on both sides the filters are zonal: symmetric about their axis.

    Parameters
    ----------
    l_max : int
        Highest degree that is kept.
    n_in, n_out : int
        Channels.
    order_in, order_out : int, default=0
        Highest order N on either side.

    References
    ----------
    T. S. Cohen, M. Geiger, J. Köhler, M. Welling, "Spherical CNNs", ICLR 2018, arXiv:1801.10130,
    for the correlation; C. Esteves et al., "Learning SO(3) Equivariant Representations with
    Spherical CNNs", ECCV 2018, arXiv:1711.06721, for zonal filters.
    """

    def __init__(self, l_max, n_in, n_out, order_in=0, order_out=0):
        super().__init__()
        self.l_max, self.n_out, self.order_out = l_max, n_out, order_out
        degrees = torch.arange(l_max + 1)
        exists_in, exists_out = (
            (torch.arange(-order, order + 1).abs() <= degrees[:, None]).float()
            for order in (order_in, order_out)
        )
        weight = torch.randn(l_max + 1, n_in, 2 * order_in + 1, n_out, 2 * order_out + 1)
        # A signal of variance 1 at every point gives signals of variance 1.
        weight *= exists_in[:, None, :, None, None] * exists_out[:, None, None, None, :]
        weight /= (n_in * exists_out.sum(1)).sqrt()[:, None, None, None, None]
        self.weight = nn.Parameter(
            weight.reshape(l_max + 1, n_in * (2 * order_in + 1), n_out * (2 * order_out + 1))
        )
        # Orders above the degree do not exist: their outputs stay zero.
        self.register_buffer("exists", exists_out.repeat(1, n_out)[:, None, :], persistent=False)
        #: Inputs that each weight is added up over.
        self.fan_in = n_in * (2 * order_in + 1)
        self.bias = nn.Parameter(torch.zeros(n_out))
        degree_of = torch.repeat_interleave(degrees, 2 * degrees + 1)
        self.register_buffer("degree_of", degree_of, persistent=False)

    @_exactly
    def forward(self, f):
        """Correlate f of shape (n, n_in, 2 order_in + 1, at least (l_max + 1)**2)."""
        f = f[..., : (self.l_max + 1) ** 2].flatten(1, 2).permute(2, 0, 1)
        weight = (self.weight * self.exists)[self.degree_of]
        g = torch.bmm(f, weight).permute(1, 2, 0)
        g = g.unflatten(1, (self.n_out, 2 * self.order_out + 1))
        shift = torch.zeros_like(g[0])
        shift[:, self.order_out, 0] = self.bias
        return g + shift


class SphericalActivation(_Exact):
    """A non-linearity at every point of the sphere, or at every rotation.

    What a function that is no polynomial makes beyond the degrees that the grid resolves is folded
    back, which is where equivariance ends.

    Parameters
    ----------
    activation : nn.Module
        Acts element by element.
    l_in, l_out : int
        Degree of the signal that comes, and the degree that is kept.
    max_order : int, default=0
        Highest order of both.
    oversampling : int, default=8
        Products of this many signals are resolved exactly.
    """

    def __init__(self, activation, l_in, l_out, max_order=0, *, oversampling=8):
        harmonics, weights = rotation_harmonics(
            max(l_in, l_out),
            max_order,
            oversampling * l_in + l_out,
            (oversampling + 1) * max_order,
        )
        n_grid, n_orders, _ = harmonics.shape
        kept_in = harmonics[..., : (l_in + 1) ** 2].reshape(n_grid, -1)
        kept_out = harmonics[..., : (l_out + 1) ** 2].reshape(n_grid, -1)
        super().__init__(synthesis=kept_in.T, analysis=weights[:, None] * kept_out)
        self.activation = activation
        self.n_orders = n_orders

    @_exactly
    def forward(self, f):
        """Act on f of shape (n, channels, 2 max_order + 1, (l_in + 1)**2)."""
        values = self.activation(f.flatten(2) @ self.synthesis)
        return (values @ self.analysis).unflatten(2, (self.n_orders, -1))


class DegreeNorms(_Exact):
    r"""Rotation invariants, the norms of the coefficients of each degree and order.

    :math:`\sqrt{b^2 \sum_m (f^l_{mn})^2/(2 l + 1) + 10^{-4}}` with :math:`b = l_{max} + 1`: near 1
    for a signal of variance 1 whose power is spread over all degrees, and smooth at zero.

    Parameters
    ----------
    l_max : int
    """

    def __init__(self, l_max):
        sizes = 2 * torch.arange(l_max + 1) + 1
        degree_of = torch.repeat_interleave(torch.arange(l_max + 1), sizes)
        mean = torch.zeros(len(degree_of), l_max + 1, dtype=torch.float64)
        mean[torch.arange(len(degree_of)), degree_of] = (l_max + 1) ** 2 / sizes[degree_of].double()
        super().__init__(mean=mean)

    @_exactly
    def forward(self, f):
        """From f (n, channels, n_orders, (l_max + 1)**2) to (n, channels, n_orders, l_max + 1)."""
        # A bare root turns its slope around within rounding errors of zero.
        return (f.square() @ self.mean + 1e-4).sqrt()
