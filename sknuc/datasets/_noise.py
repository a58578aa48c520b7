r"""White and 1/f noise as one stationary filter of white deviates.

Charge that hops in and out of traps relaxes exponentially; relaxation times spread evenly in
their logarithm add up to a 1/f spectrum (McWhorter's model). Sampled every :math:`\Delta t`, a
process of relaxation time :math:`\tau_k` and variance :math:`\sigma_k^2` is an AR(1) process with
pole :math:`a_k = e^{-\Delta t/\tau_k}`, so that the noise of the whole chain has the
autocovariance and the spectrum

.. math::

    R(m) = w^2 \delta_{m0} + \sum_k \sigma_k^2 a_k^{|m|}, \qquad
    S(\omega) = w^2 + \sum_k \sigma_k^2 \frac{\sinh(\Delta t/\tau_k)}{c_k - \cos\omega},
    \quad c_k = \cosh(\Delta t/\tau_k).

Simulating the sum term by term costs one deviate per term and sample. But :math:`S` is rational in
:math:`\cos\omega`, with one real zero in each gap between its poles, so it factorises exactly into
:math:`|H|^2` with the stable filter

.. math::

    H(z) = h_0 \prod_i (1 - b_i z^{-1}) \Big/ \prod_k (1 - a_k z^{-1})
         = h + \sum_k \frac{g_k}{1 - a_k z^{-1}},

and a single deviate per sample suffices. The filter starts from its stationary distribution,
:math:`\mathrm{Cov}(s_i, s_j) = g_i g_j/(1 - a_i a_j)`: unlike noise from an inverse FFT, the end of
a record knows nothing of its beginning.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

__all__ = ["N_POLES", "NoiseFilter", "noise_autocovariance", "noise_filter"]

# A constant, so that the loop over the poles is unrolled. Eight relaxation times a factor r apart
# ripple about the 1/f law by 2/cosh(pi^2/ln r): 0.2 % for records of 1024 samples, 2 % for 65536.
N_POLES = 8


class NoiseFilter(NamedTuple):
    """A noise process in parallel form.

    Attributes
    ----------
    poles : ndarray of shape (N_POLES,)
        :math:`a_k`, of one sample.
    gains : ndarray of shape (N_POLES,)
        :math:`g_k`, in the unit of the noise.
    direct : float
        :math:`h`, in the unit of the noise.
    state_factor : ndarray of shape (N_POLES, N_POLES)
        A factor :math:`F` of the stationary covariance :math:`FF^T` of the states.
    """

    poles: np.ndarray
    gains: np.ndarray
    direct: float
    state_factor: np.ndarray


def _relaxation_times(n_samples):
    # In sampling periods. Up to four records long: the slowest frequency of a record is then
    # within 3 % of 1/f. At the fast end the steeper fall beyond the shortest time and the aliases
    # of sampling cancel at 0.65: the spectrum is 1/f within 10 % up to 0.2 / sampling period.
    return np.geomspace(0.65, 4.0 * n_samples, N_POLES)


def noise_autocovariance(white, pink, n_samples):
    """Autocovariance of the noise of a record.

    Parameters
    ----------
    white, pink : float
        Standard deviations of the white and of the 1/f component.
    n_samples : int
        Length of the record.

    Returns
    -------
    autocovariance : ndarray of shape (n_samples,)
        For lags of 0 to ``n_samples - 1`` samples, in the square of the unit of `white`.
    """
    lags = np.arange(n_samples)
    times = _relaxation_times(n_samples)
    covariance = (pink**2 / N_POLES) * np.exp(-lags / times[:, None]).sum(axis=0)
    covariance[0] += white**2
    return covariance


def noise_filter(white, pink, n_samples):
    """Factorise the spectrum of white plus 1/f noise into one filter.

    Parameters
    ----------
    white, pink : float
        Standard deviations of the white and of the 1/f component.
    n_samples : int
        Length of the record.

    Returns
    -------
    filter : NoiseFilter
    """
    no_poles = np.zeros(N_POLES)
    if pink == 0:
        return NoiseFilter(no_poles, no_poles, float(white), np.zeros((N_POLES, N_POLES)))

    rates = 1.0 / _relaxation_times(n_samples)[::-1]
    poles = np.exp(-rates)
    # In y = cos(omega) - 1 the slow poles keep their digits: c - 1 = 2 sinh^2(rate/2) ~ 1e-8.
    y_poles = 2 * np.sinh(rates / 2) ** 2
    residues = (pink**2 / N_POLES) * np.sinh(rates)

    def spectrum(y):
        return white**2 + np.sum(residues / (y_poles - y))

    upper = y_poles[1:]
    scale = residues.sum()
    if white > 0:
        scale = white**2
        upper = np.append(upper, y_poles[-1] + 2 * residues.sum() / white**2)
    y_zeros = np.array(
        [
            _zero_between(spectrum, low, high)
            for low, high in zip(y_poles[: len(upper)], upper, strict=True)
        ]
    )
    zeros = np.exp(-2 * np.arcsinh(np.sqrt(y_zeros / 2)))
    h0 = np.sqrt(scale * np.prod(2 * poles) / np.prod(2 * zeros))

    ratios = poles[None, :] / poles[:, None]
    np.fill_diagonal(ratios, 0.0)
    gains = h0 * np.prod(1 - zeros / poles[:, None], axis=1) / np.prod(1 - ratios, axis=1)
    direct = h0 * np.prod(zeros / poles) if white > 0 else 0.0

    covariance = np.outer(gains, gains) / (1 - np.outer(poles, poles))
    # The covariance of close relaxation times is a Cauchy matrix: positive definite, but too close
    # to singular for a Cholesky factor.
    variances, axes = np.linalg.eigh(covariance)
    return NoiseFilter(poles, gains, direct, axes * np.sqrt(np.maximum(variances, 0)))


def _zero_between(function, low, high):
    """Find the zero of `function`, which rises from -inf at the pole `low`, below `high`."""
    low, high = low * (1 + 1e-14), high * (1 - 1e-14)
    if function(low) >= 0:  # a component so weak that zero and pole cancel
        return low
    return brentq(function, low, high, xtol=1e-300, rtol=1e-14, maxiter=500)
