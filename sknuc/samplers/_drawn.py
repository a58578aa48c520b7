r"""Variables that events leave open, and that are drawn.

A level, an atom, a rounded integer or an angle says of a variable z that it lies somewhere. In
training it is drawn there anew in each batch, with a density q, so that all variables have a smooth
density p(z). The probability of the level of :math:`P_{k-1} < \Phi(z) < P_k`, drawn from the normal
distribution, that of an integer, drawn evenly between the z of :math:`x \pm 1/2`, and the density
of an angle, whose distance R is drawn, are

.. math:: p(x_k) = \int_{P_{k-1}}^{P_k} \frac{p(z)}{\varphi(z)}\,d\Phi(z)
          = p_k\,\mathrm{E}\!\left[\frac{p(z)}{\varphi(z)}\right], \qquad
          p(x) = \Delta z\,\mathrm{E}[p(z)], \qquad
          p(\phi) = \mathrm{E}\!\left[\frac{R}{q(R)}\,p(R\cos\phi, R\sin\phi)\right],

where the logarithm of a mean over few draws is a lower bound on average (dequantisation bound).
"""

import math

import numpy as np
import torch

__all__ = ["DrawnVariables"]

# Standard deviation of the logarithm of the distance at which angles are shown: far from zero,
# where they have no meaning, and no thinner than what networks learn.
_RADIAL_WIDTH = 0.2


class DrawnVariables:
    """What is drawn of the variables of events.

    Attributes
    ----------
    random : ndarray of int
        Variables that are drawn within a part of the normal distribution.
    rounded : ndarray of int
        Those that are drawn between two numbers; an atom among them is in `random`, too.
    cosines, sines : ndarray of int
        Those of angles in the plane, whose distance is drawn.
    """

    def draw(self, z, low, high, uniform):
        """Fill in variables that are drawn.

        Parameters
        ----------
        z, low, high : Tensor or ndarray
            See `encode`.
        uniform : Tensor or ndarray of shape (n, n_drawn)
            Numbers in (0, 1).

        Returns
        -------
        z : Tensor or ndarray of shape (n, n_variables)
        """
        if isinstance(z, np.ndarray):
            uniform = np.asarray(uniform, z.dtype)
            return self.draw(*map(torch.from_numpy, (z, low, high, uniform))).numpy()
        sizes = len(self.random), len(self.rounded), len(self.cosines)
        level = low + (high - low) * uniform
        level, cell, radius = level.split(sizes, 1)
        eps = torch.finfo(z.dtype).eps
        z = z.clone()
        # An atom of a rounded column is drawn as all atoms are.
        z[:, self.rounded] = cell
        drawn = torch.special.ndtri(level.clamp(eps / 2, 1 - eps / 2))
        within = (high > low)[:, : sizes[0]]
        z[:, self.random] = torch.where(within, drawn, z[:, self.random])
        radius = torch.exp(_RADIAL_WIDTH * torch.special.ndtri(radius.clamp(eps / 2, 1 - eps / 2)))
        for places in (self.cosines, self.sines):
            z[:, places] = z[:, places] * radius
        return z

    def log_slope(self, X, condition):
        """What of the log of :math:`|dz/dx|` depends on the condition, (n,): nothing."""
        return np.zeros(len(X))

    def log_weight(self, z, low, high):
        """Log of what the density of drawn variables counts, 1/q(z), of shape (n,)."""
        n, end = len(self.random), len(self.random) + len(self.rounded)
        # Of a level, and of what is not there: the probability of the part, over the normal law.
        part, width = z[:, self.random], (high - low)[:, :n]
        within = width > 0
        weight = np.log(width, where=within, out=np.zeros_like(width))
        weight += within * (part**2 + math.log(2 * math.pi)) / 2
        cells = (high - low)[:, n:end]
        weight = weight.sum(1) + np.log(cells, where=cells > 0, out=np.zeros_like(cells)).sum(1)
        log_radius = np.log(np.hypot(z[:, self.cosines], z[:, self.sines]))
        around = 2 * log_radius + (log_radius / _RADIAL_WIDTH) ** 2 / 2
        return weight + (around + math.log(_RADIAL_WIDTH * math.sqrt(2 * math.pi))).sum(1)
