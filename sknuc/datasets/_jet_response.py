r"""How a detector reconstructs a jet, as a distribution that is known exactly.

Given a generated jet :math:`(p_T, \eta, \phi, m)`, the reconstructed one is

.. math::

    p_T' &= p_T (1 + \sigma\,\varepsilon_1), \qquad
    \sigma^2 = (N / p_T)^2 + S^2 / p_T + C^2, \\
    \eta' &= \eta + (w / p_T)\,\varepsilon_2, \qquad \phi' = \phi + (w / p_T)\,\varepsilon_3
    \pmod{2\pi}, \\
    \ln m' &= \ln m + s\,\varepsilon_4,

with the noise, stochastic and constant terms of a calorimeter. All :math:`\varepsilon` are
standard normal but for the first: a transverse momentum is positive, so that
:math:`\varepsilon_1 > -1/\sigma`, a normal that is cut there. The same showers make momentum and
mass, hence :math:`\varepsilon_1` and :math:`\varepsilon_4` are linked by a Gaussian copula: with
:math:`\varepsilon_1 = F^{-1}(\Phi(g))`, g and :math:`\varepsilon_4` are bivariate normal with the
correlation rho. So the margins stay what they are, and everything has a closed form.
"""

import numpy as np
from scipy.special import ndtr, ndtri

from sknuc.datasets._exact import check_draws, check_events, check_levels

__all__ = ["JetResponse"]

_LOG_2PI = np.log(2 * np.pi)

# Beyond it, an angle on the circle is no longer a Gaussian to the last bits: 9 standard deviations
# to the opposite side are left.
WIDEST_ANGLE = 0.35


class JetResponse:
    """The exact distribution of reconstructed jets given generated ones.

    Arrays of generated jets X and reconstructed jets y have the columns pT (GeV), eta, phi (rad)
    and mass (GeV). Quantiles and distribution functions are those of each target alone; densities
    and draws are of all four together. Angles phi count from the generated one: their quantiles
    are continuous and may lie beyond pi.

    Parameters
    ----------
    pt_resolution : (float, float, float)
        Noise term N in GeV, stochastic term S in sqrt(GeV), constant term C.
    angular_resolution : float
        w, in GeV: the widths of eta and phi are w / pT.
    mass_resolution : float
        s, the width of ln m'.
    correlation : float
        rho in (-1, 1), between the residuals of pT and of ln m'.
    """

    def __init__(self, pt_resolution, angular_resolution, mass_resolution, correlation):
        self.pt_resolution = pt_resolution
        self.angular_resolution = angular_resolution
        self.mass_resolution = mass_resolution
        self.correlation = correlation

    def widths(self, pt):
        """Return sigma, the relative width of pT before it is cut, and the width of the angles.

        Parameters
        ----------
        pt : float or ndarray
            Generated transverse momenta in GeV.

        Returns
        -------
        sigma, angle : float or ndarray
            The width of the angles is in rad.
        """
        noise, stochastic, constant = self.pt_resolution
        sigma = np.sqrt((noise / pt) ** 2 + stochastic**2 / pt + constant**2)
        return sigma, self.angular_resolution / pt

    def mean(self, X):
        """Return the means of the targets, of shape (n_jets, 4)."""
        X, sigma, _ = self._check("mean", X)
        inverse_mills, _ = _cut_moments(-1 / sigma)
        mean = X.copy()
        mean[:, 0] *= 1 + sigma * inverse_mills
        mean[:, 3] *= np.exp(self.mass_resolution**2 / 2)
        return mean

    def std(self, X):
        """Return the standard deviations of the targets, of shape (n_jets, 4)."""
        X, sigma, angle = self._check("std", X)
        _, variance = _cut_moments(-1 / sigma)
        square = self.mass_resolution**2
        mass = X[:, 3] * np.exp(square / 2) * np.sqrt(np.expm1(square))
        return np.column_stack([X[:, 0] * sigma * np.sqrt(variance), angle, angle, mass])

    def quantiles(self, X, levels):
        """Return the quantiles of each target.

        Parameters
        ----------
        X : array-like of shape (n_jets, 4)
        levels : float or array-like of shape (n_levels,)
            In (0, 1).

        Returns
        -------
        quantiles : ndarray of shape (n_jets, n_levels, 4)
            Of a single level, without the axis of levels.
        """
        X, sigma, angle = self._check("quantiles", X)
        normal = ndtri(check_levels("JetResponse.quantiles", levels))
        result = self._reconstruct(X, sigma, angle, np.tile(normal[:, None], 4)[None], normal)
        return result[:, 0] if np.ndim(levels) == 0 else result

    def cdf(self, X, y):
        """Return the distribution function of each target at y, of shape (n_jets, 4).

        These are the probability integral transforms: uniform in (0, 1) for jets of this response.
        """
        X, y, sigma, angle = self._check("cdf", X, y)
        normal = self._normals(X, y, sigma, angle)
        normal[:, 0] = _uncut(normal[:, 0], -1 / sigma)
        return ndtr(normal)

    def log_prob(self, X, y):
        """Return the log density of all targets, of shape (n_jets,); -inf where it is zero.

        The density is that of (pT', eta', phi', m') in 1/(GeV^2 rad).
        """
        X, y, sigma, angle = self._check("log_prob", X, y)
        normal = self._normals(X, y, sigma, angle)
        with np.errstate(divide="ignore", invalid="ignore"):
            copula = _uncut(normal[:, 0], -1 / sigma)
            rest = 1 - self.correlation**2
            normal[:, 3] = (normal[:, 3] - self.correlation * copula) / np.sqrt(rest)
            log_jacobian = (
                np.log(X[:, 0] * sigma)
                + np.log(ndtr(1 / sigma))
                + 2 * np.log(angle)
                + np.log(self.mass_resolution * np.sqrt(rest))
                + np.log(y[:, 3])
            )
            log_density = -0.5 * (normal**2).sum(axis=1) - 2 * _LOG_2PI - log_jacobian
        possible = (y[:, 0] > 0) & (y[:, 3] > 0)
        return np.where(possible, log_density, -np.inf)

    def sample(self, X, n_samples=1, random_state=None):
        """Reconstruct each jet several times.

        Parameters
        ----------
        X : array-like of shape (n_jets, 4)
        n_samples : int, default=1
            Draws per jet.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        samples : ndarray of shape (n_jets, 4, n_samples)
        """
        X, sigma, angle = self._check("sample", X)
        rng = check_draws("JetResponse.sample", n_samples, random_state)
        normal = rng.standard_normal((len(X), n_samples, 4))
        return self._draw(X, sigma, angle, normal).transpose(0, 2, 1)

    def mean_pinball(self, X):
        r"""Return the least mean pinball loss that a model can have, of shape (n_jets, 4).

        The mean over levels uniform in (0, 1), each target alone: half the continuous ranked
        probability score of the true distribution, :math:`E|y - y'| / 4` for two independent
        draws. It is :math:`\sigma / (2 \sqrt\pi)` for a Gaussian.
        """
        X, sigma, angle = self._check("mean_pinball", X)
        cut = -1 / sigma
        below, above, density = ndtr(cut), ndtr(-cut), _density(cut)
        # The integrals from the cut on of Phi (1 - Phi), and of 1 - Phi.
        both = (1 - ndtr(np.sqrt(2) * cut)) / np.sqrt(np.pi)
        both -= cut * below * above + density * (1 - 2 * below)
        spread = (both - below * (density - cut * above)) / above**2
        s = self.mass_resolution
        mass = X[:, 3] * np.exp(s**2 / 2) * (ndtr(s / np.sqrt(2)) - 0.5)
        angular = angle / (2 * np.sqrt(np.pi))
        return np.column_stack([X[:, 0] * sigma * spread / 2, angular, angular, mass])

    def _check(self, method, X, y=None):
        """Return valid jets and the widths of their response."""
        arrays = check_events(f"JetResponse.{method}", 4, 4, X, y)
        X = arrays if y is None else arrays[0]
        if not np.all((X[:, 0] > 0) & (X[:, 3] > 0)):
            raise ValueError(
                f"The 'X' parameter of JetResponse.{method} must have positive transverse momenta "
                "and masses (columns 0 and 3). Some are not."
            )
        sigma, angle = self.widths(X[:, 0])
        # Momenta may have been rounded to 32 bits.
        if np.any(angle > WIDEST_ANGLE * (1 + 1e-6)):
            raise ValueError(
                f"The 'X' parameter of JetResponse.{method} must have transverse momenta above "
                f"{self.angular_resolution / WIDEST_ANGLE:g} GeV, where angles are reconstructed "
                f"to {WIDEST_ANGLE} rad. Got {X[:, 0].min():g} GeV."
            )
        return (X, sigma, angle) if y is None else (*arrays, sigma, angle)

    def _draw(self, X, sigma, angle, normal):
        """Turn standard normals (n, k, 4), changed in place, into reconstructed jets (n, k, 4)."""
        copula = normal[..., 0].copy()
        normal[..., 3] *= np.sqrt(1 - self.correlation**2)
        normal[..., 3] += self.correlation * copula
        jets = self._reconstruct(X, sigma, angle, normal, copula)
        phi = jets[..., 2]
        phi[:] = (phi + np.pi) % (2 * np.pi) - np.pi
        return jets

    def _reconstruct(self, X, sigma, angle, normal, copula):
        """Turn normals into targets (n, k, 4); phi is not yet put back on the circle."""
        pt, eta, phi, mass = X.T[..., None]
        jets = np.empty((len(X), normal.shape[1], 4))
        jets[..., 0] = pt * (1 + sigma[:, None] * _cut(copula, -1 / sigma[:, None]))
        jets[..., 1] = eta + angle[:, None] * normal[..., 1]
        jets[..., 2] = phi + angle[:, None] * normal[..., 2]
        jets[..., 3] = mass * np.exp(self.mass_resolution * normal[..., 3])
        return jets

    def _normals(self, X, y, sigma, angle):
        """Return the epsilons of reconstructed jets (n, 4); -inf for what is not positive."""
        turn = (y[:, 2] - X[:, 2] + np.pi) % (2 * np.pi) - np.pi
        mass = np.full(len(X), -np.inf)
        np.log(y[:, 3] / X[:, 3], out=mass, where=y[:, 3] > 0)
        return np.column_stack(
            [
                np.where(y[:, 0] > 0, (y[:, 0] / X[:, 0] - 1) / sigma, -np.inf),
                (y[:, 1] - X[:, 1]) / angle,
                turn / angle,
                mass / self.mass_resolution,
            ]
        )


def _density(z):
    return np.exp(-0.5 * (z**2 + _LOG_2PI))


def _cut_moments(cut):
    """Return mean and variance of a standard normal above the cut."""
    mean = _density(cut) / ndtr(-cut)
    return mean, 1 + cut * mean - mean**2


# Each tail is computed from its own end, where small probabilities keep their digits.


def _cut(normal, cut):
    """Map a standard normal to one above the cut, quantile to quantile."""
    tail = ndtr(-np.abs(normal)) * ndtr(-cut)
    is_low = normal < 0
    z = ndtri(np.where(is_low, tail + ndtr(cut), tail))
    return np.where(is_low, z, -z)


def _uncut(z, cut):
    """Map a standard normal above the cut to one without a cut, quantile to quantile."""
    tail = ndtr(-np.abs(z))
    is_low = z < 0
    # Rounding alone can put what is at the cut below it.
    part = np.where(is_low, np.maximum(tail - ndtr(cut), 0), tail) / ndtr(-cut)
    normal = ndtri(part)
    return np.where(is_low, normal, -normal)
