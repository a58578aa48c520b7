r"""The ordinary differential equation that turns noise into events, and back.

An event z of unit variance and normal noise ε are mixed by an angle θ, from 0 (the event) to π/2
(noise),

.. math:: x = \cos\theta\;z + \sin\theta\;\varepsilon, \qquad
          F(x, \theta) = E[\cos\theta\;\varepsilon - \sin\theta\;z \,|\, x],
          \qquad \frac{dx}{d\theta} = F(x, \theta),

where the solution of the equation has at each θ the distribution of the mixtures: it is the
continuity equation, since F is the mean velocity of those that pass by. For standard normal events
F = 0. The angle is another name of the noise level of other authors, :math:`\sigma = \tan\theta`,
or of their time, :math:`t = 1/(1 + \tan\theta)`, and F of their denoiser
:math:`D = \cos\theta\;x - \sin\theta\;F` or velocity
:math:`(x/\!\cos\theta - D)/\sigma`: the curves are the same, in coordinates of unit variance.

Along a curve the density changes by the divergence,

.. math:: \ln p(z) = \ln\varphi(x_{\pi/2})
          + \int_0^{\pi/2} \nabla\cdot F(x_\theta, \theta)\,d\theta .

References
----------
Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR
2021, arXiv:2011.13456, section 4.3. C. Lu, Y. Song, "Simplifying, Stabilizing and Scaling
Continuous-Time Consistency Models", ICLR 2025, arXiv:2410.11081, for the angle. F. J. Anscombe,
W. J. Glynn, "Distribution of the Kurtosis Statistic b2 for Normal Samples", Biometrika 70 (1983)
227, for what is noise.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sknuc.multiplicity import row_hash
from sknuc.samplers._columns import are_copies

__all__ = [
    "Gaussian",
    "PrincipalComponents",
    "log_density",
    "n_structured",
    "principal_axes",
    "solve",
]

# Eigenvectors are sought for so many variables at most, from so many events for each.
_MOST_VARIABLES, _EVENTS_PER_VARIABLE = 1024, 5
# Moments of normal noise fluctuate; beyond so many standard deviations they are none of noise.
_SIGNIFICANT = 5.0
# Of fewer events, moments do not tell a uniform distribution from a normal one.
_FEWEST_TO_TELL = 200


def principal_axes(z, weight):
    """Mean, standard deviations along the principal axes, and the axes of events.

    Parameters
    ----------
    z : ndarray of shape (n, ...)
    weight : ndarray of shape (n,)

    Returns
    -------
    mean, scale, axes : ndarray of shape (n_variables,), (n_variables,), (n_variables, n_variables)
        Axes are columns. None instead of all if there are too many variables, or too few events,
        or nothing varies.
    """
    z = z.reshape(len(z), -1).astype(np.float64)
    n = weight.sum() if are_copies(weight) else _n_effective(weight)
    if z.shape[1] > _MOST_VARIABLES or n < _EVENTS_PER_VARIABLE * z.shape[1]:
        return None
    mean = np.average(z, axis=0, weights=weight)
    centred = (z - mean) * np.sqrt(weight / weight.sum())[:, None]
    variance, axes = np.linalg.eigh(centred.T @ centred)
    if variance[-1] <= 0:
        return None
    # What does not vary is a rounding error, and stays one.
    return mean, np.sqrt(np.maximum(variance, 1e-10 * variance[-1])), axes


def _distinct(z, weight):
    """Weights of the different events of z (n, n_variables); those of its copies together."""
    return np.bincount(np.unique(row_hash(z), return_inverse=True)[1], weight)


def _n_effective(weight):
    """So many events of equal weight have means as uncertain (Kish), in whatever unit they are."""
    weight = weight / weight.max()
    return weight.sum() ** 2 / (weight**2).sum()


def _normal_kurtosis(kurtosis, n):
    r"""Kurtoses of n events as standard normal numbers, if those are normal (Anscombe and Glynn).

    They are skewed: 5 standard deviations :math:`\sqrt{24/n}` below 3 there may be none.
    """
    variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
    away = (kurtosis - 3 * (n - 1) / (n + 1)) / math.sqrt(variance)
    skewness = 6 * (n**2 - 5 * n + 2) / ((n + 7) * (n + 9))
    skewness *= math.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
    # The inverse of a chi-square variable of so many degrees of freedom has this skewness; the cube
    # root makes it normal (Wilson and Hilferty).
    freedom = 6 + 8 / skewness * (2 / skewness + math.sqrt(1 + 4 / skewness**2))
    inverse = np.maximum(1 + away * math.sqrt(2 / (freedom - 4)), 1e-12)
    root = np.cbrt((1 - 2 / freedom) / inverse)
    return (1 - 2 / (9 * freedom) - root) / math.sqrt(2 / (9 * freedom))


def n_structured(z, moments, weight, condition=None):
    """How many principal components hold more than normal noise, counted from the largest.

    A component is noise if its skewness and kurtosis are those of a normal distribution, and
    neither it nor its square is correlated with a condition, within what chance does to so many
    events. All components up to the last that is not noise count, and all that vary if events are
    too few to tell.

    Parameters
    ----------
    z : ndarray of shape (n, ...)
    moments : tuple (mean, scale, axes)
        See :func:`principal_axes`.
    weight : ndarray of shape (n,)
    condition : ndarray of shape (n, n_conditions) or None

    Returns
    -------
    n_structured : int
        At least 1.
    """
    mean, scale, axes = moments
    z = z.reshape(len(z), -1).astype(np.float64)
    y = (z - mean) @ axes / scale
    share, n = weight / weight.sum(), _n_effective(_distinct(z, weight))
    if n < _FEWEST_TO_TELL:
        return max(1, int(np.count_nonzero(scale > 1e-4 * scale[-1])))
    structured = np.abs(share @ y**3) > _SIGNIFICANT * math.sqrt(6 / n)
    structured |= np.abs(_normal_kurtosis(share @ y**4, n)) > _SIGNIFICANT
    if condition is not None:
        centred = condition - share @ condition
        centred = centred / np.sqrt(np.maximum(share @ centred**2, 1e-12))
        centred = centred * share[:, None]
        structured |= (np.abs(centred.T @ y) > _SIGNIFICANT / math.sqrt(n)).any(0)
        structured |= (np.abs(centred.T @ y**2) > _SIGNIFICANT * math.sqrt(2 / n)).any(0)
    # What does not vary at all is no structure either.
    structured &= scale > 1e-4 * scale[-1]
    largest_first = np.flatnonzero(structured[::-1])
    return int(largest_first[-1]) + 1 if len(largest_first) else 1


class Gaussian(nn.Module):
    r"""The normal distribution that the network starts from.

    Of events with the covariance :math:`V \lambda^2 V^\top` and the mean m, mixtures have

    .. math:: s_i(\theta)^2 = \lambda_i^2\cos^2\theta + \sin^2\theta

    along the principal axes, and the linear regression of their velocity on them is

    .. math:: F_0(x, \theta) = -\sin\theta\;m + V \frac{s'}{s} V^\top (x - \cos\theta\;m) .

    The network learns :math:`F - F_0`, which is small along axes of noise, where events are normal.
    In the coordinates :math:`y = s^{-1} V^\top (x - \cos\theta\;m)` the linear part is solved:
    :math:`dy/d\theta = s^{-1} V^\top (F - F_0)`, without errors of finite steps.

    Parameters
    ----------
    moments : tuple (mean, scale, axes) or None
        See :func:`principal_axes`; None for mean 0 and the unit matrix, for which
        :math:`F_0 = 0` and y = x.
    """

    def __init__(self, moments):
        super().__init__()
        self.standard = moments is None
        # How much the squared error of each number counts.
        self.register_buffer("importance", torch.ones(()))
        self.log_det = 0.0
        if moments is not None:
            self.log_det = -float(np.log(moments[1]).sum())
            for name, array in zip(("mean", "scale", "axes"), moments, strict=True):
                self.register_buffer(name, torch.as_tensor(array))

    def mix(self, z, angle):
        """Mix events with noise.

        Parameters
        ----------
        z : Tensor of shape (n, n_variables)
        angle : Tensor of shape (n,)

        Returns
        -------
        x, velocity : Tensor of shape (n, n_variables)
            The mixtures, and their velocity beyond what is linear in them.
        """
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        noise = torch.randn_like(z)
        if self.standard:
            return cos * z + sin * noise, cos * noise - sin * z
        z = (z - self.mean) @ self.axes
        x, velocity = cos * z + sin * noise, cos * noise - sin * z
        slope = cos * sin * (1 - self.scale**2) / self._spread(cos, sin) ** 2
        return x @ self.axes.T + cos * self.mean, (velocity - slope * x) @ self.axes.T

    def _spread(self, cos, sin):
        return ((self.scale * cos) ** 2 + sin**2).sqrt()

    def to_normal(self, z):
        """Coordinates y of events (n, n_variables)."""
        return z if self.standard else (z - self.mean) @ self.axes / self.scale

    def from_normal(self, y):
        """Events of coordinates y (n, n_variables)."""
        return y if self.standard else (y * self.scale) @ self.axes.T + self.mean

    def in_normal(self, velocity, y, angle):
        """The velocity of the coordinates y, of a function of x and the angle (1,)."""
        if self.standard:
            return velocity(y, angle)
        cos, sin = angle.cos(), angle.sin()
        spread = self._spread(cos, sin)
        x = (y * spread) @ self.axes.T + cos * self.mean
        return velocity(x, angle) @ self.axes / spread


class PrincipalComponents(Gaussian):
    r"""Principal components of unit variance, of which the network learns the leading ones.

    In the coordinates :math:`y = \lambda^{-1} V^\top (z - m)` events have unit covariance, so that
    every direction in which they vary, however little, counts alike. Components that are normal
    noise keep their distribution at every mixture, F = 0, and need no network. It reads and returns
    the others only.

    Any positive weights of their squared errors have the same minimum, but not the same way there.
    A component that stands out of noise of the width :math:`\lambda_n` takes
    :math:`\ln(\lambda_i/\lambda_n)` nats more to be told than noise does. Here the last one that is
    learnt is taken for the noise, and counts 1,

    .. math:: w_i \propto 1 + \ln\frac{\lambda_i}{\lambda_n} .

    Parameters
    ----------
    moments : tuple (mean, scale, axes)
        See :func:`principal_axes`.
    n_components : int
        How many are learnt, from the largest.
    """

    def __init__(self, moments, n_components):
        mean, scale, axes = moments
        super().__init__((mean, scale[::-1].copy(), axes[:, ::-1].copy()))
        self.n_components = n_components
        learnt = self.scale[:n_components]
        importance = 1 + (learnt / learnt[-1]).log()
        self.importance = importance / importance.mean()

    def mix(self, z, angle):
        """Mix the components that are learnt with noise, both of shape (n, n_components)."""
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        y = self.to_normal(z)[:, : self.n_components]
        noise = torch.randn_like(y)
        return cos * y + sin * noise, cos * noise - sin * y

    def in_normal(self, velocity, y, angle):
        """The velocity of all components (n, n_variables), of a function of those learnt."""
        learnt = velocity(y[:, : self.n_components], angle)
        return functional.pad(learnt, (0, y.shape[1] - self.n_components))


def solve(field, x, angles, solver):
    """Follow the equation through the angles.

    Parameters
    ----------
    field : callable
        ``field(x, angle)``, from (n, ...) and (1,) to (n, ...).
    x : Tensor of shape (n, ...)
        At the first angle.
    angles : Tensor of shape (n_steps + 1,)
    solver : {"heun", "euler"}
        Heun's method takes the mean of the slopes at both ends of a step, and so two evaluations;
        one in the last step, whose end is no noise at all, which no network has learnt (Karras et
        al., algorithm 1).

    Returns
    -------
    x : Tensor of shape (n, ...)
        At the last angle.
    """
    last = len(angles) - 2
    for i, (here, there) in enumerate(pairwise(angles)):
        step = there - here
        slope = field(x, here[None])
        if solver == "heun" and i < last:
            slope = (slope + field(x + step * slope, there[None])) / 2
        x = x + step * slope
    return x


def log_density(field, x, angles, probes):
    """Log density of events, by the classical Runge-Kutta method of fourth order.

    Parameters
    ----------
    field : callable
        ``field(x, angle)``, from (n, n_variables) and (1,) to (n, n_variables).
    x : Tensor of shape (n, n_variables)
        At angle 0.
    angles : Tensor of shape (n_steps + 1,)
        From 0 to π/2.
    probes : Tensor of shape (n or 1, n_probes, n_variables)
        Vectors v with which the divergence is the sum of :math:`v^T J v`: unit vectors give all of
        it, random signs divided by the root of their number an estimate (Hutchinson).

    Returns
    -------
    log_density : Tensor of shape (n,)
    """
    total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for here, there in pairwise(angles):
        step = there - here
        middle = (here + there) / 2
        slope1, growth1 = _with_divergence(field, x, here[None], probes)
        slope2, growth2 = _with_divergence(field, x + step / 2 * slope1, middle[None], probes)
        slope3, growth3 = _with_divergence(field, x + step / 2 * slope2, middle[None], probes)
        slope4, growth4 = _with_divergence(field, x + step * slope3, there[None], probes)
        x = x + step / 6 * (slope1 + 2 * slope2 + 2 * slope3 + slope4)
        total = total + step / 6 * (growth1 + 2 * growth2 + 2 * growth3 + growth4)
    normal = -(x**2 + math.log(2 * math.pi)).sum(1) / 2
    return normal + total


def _with_divergence(field, x, angle, probes):
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = field(x, angle)
        directions = probes.transpose(0, 1).expand(-1, *velocity.shape)
        (pulled,) = torch.autograd.grad(velocity, x, directions, is_grads_batched=True)
    divergence = (pulled * directions).sum((0, 2))
    return velocity.detach(), divergence
