r"""Pulses of a point-contact detector, in the point-contact approximation.

Around a small contact of radius :math:`r_0` in a detector of radius :math:`R` the weighting
potential is that of a sphere,

.. math::

    \phi(r) = \frac{1/r - 1/R}{1/r_0 - 1/R},

and holes drift to the contact along the radius with constant speed, :math:`r(t) = r_s - v t`, for
the drift time :math:`T = (r_s - r_0)/v`. Sites with energy fractions :math:`f_i` induce

.. math::

    q(t) = \frac{\sum_i f_i [\phi(r_i(t)) - \phi(r_i(0))]}{\sum_i f_i [1 - \phi(r_i(0))]},

one at full collection. The electronics smooth it with a Gaussian and discharge it with a time
constant :math:`\tau`.
"""

import math

import numba
import numpy as np

from sknuc.datasets._noise import N_POLES

__all__ = ["add_pulses", "filter_noise", "gaussian_taps", "weighting_potential"]

# Steps of the quadrature in the faster of the smoothing and the pulse, and the standard deviations
# that the smoothing reaches: the smoothed pulse is then right to 2e-5 of its height.
STEPS = 40
REACH = 5.0


def weighting_potential(radius, contact_radius, detector_radius):
    """Weighting potential of the point contact.

    Parameters
    ----------
    radius : float or ndarray
        Distance from the contact, in mm.
    contact_radius, detector_radius : float
        Where the potential is one and zero, in mm.

    Returns
    -------
    potential : float or ndarray
    """
    zero = 1 / detector_radius
    return (1 / radius - zero) / (1 / contact_radius - zero)


def gaussian_taps(smoothing, sampling_period, pulse_scale):
    """Weights of the Gaussian smoothing on a grid finer than the sampling.

    Parameters
    ----------
    smoothing : float
        Standard deviation, in ns; 0 for none.
    sampling_period : float
        In ns.
    pulse_scale : float
        Time in which the charge varies, in ns: that of drifting one contact radius.

    Returns
    -------
    taps : ndarray of shape (2 * reach + 1,)
        Weights that sum to one.
    oversampling : int
        Steps of the grid in one sampling period.
    """
    if smoothing == 0:
        return np.ones(1), 1
    oversampling = math.ceil(STEPS * sampling_period / min(smoothing, pulse_scale))
    step = sampling_period / oversampling
    reach = math.ceil(REACH * smoothing / step)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / smoothing) ** 2)
    return taps / taps.sum(), oversampling


@numba.njit(nogil=True, cache=True)
def filter_noise(deviates, states, poles, gains, direct, offset):
    """Turn white deviates into noise, in place.

    Parameters
    ----------
    deviates : float32 ndarray of shape (n_events, n_samples)
        Standard normal deviates; the noise on return.
    states : ndarray of shape (n_events, N_POLES)
        States of the filter before the first sample.
    poles, gains : ndarray of shape (N_POLES,)
    direct : float
        The filter.
    offset : float
        Added to every sample.
    """
    n_events, n_samples = deviates.shape
    for i in range(n_events):
        state = states[i].copy()
        for n in range(n_samples):
            deviate = np.float64(deviates[i, n])
            value = offset + direct * deviate
            for k in range(N_POLES):
                state[k] = poles[k] * state[k] + gains[k] * deviate
                value += state[k]
            deviates[i, n] = value


@numba.njit(cache=True)
def _delayed_charge(time, release_time, smoothing):
    """``1 - exp(-t/release_time)`` for t > 0, smoothed with a Gaussian."""
    if smoothing == 0.0:
        return -math.expm1(-time / release_time) if time > 0 else 0.0
    x = time / smoothing
    ratio = smoothing / release_time
    left = 0.5 * math.erfc(-x / math.sqrt(2.0))
    right = 0.5 * math.erfc((ratio - x) / math.sqrt(2.0))
    return left - math.exp(ratio * (0.5 * ratio - x)) * right


# Sums in another order, and nothing else, are allowed: the smoothing is a sum of products.
@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def add_pulses(
    waveforms,
    amplitudes,
    radii,
    fractions,
    n_sites,
    start_times,
    delayed_fractions,
    release_times,
    contact_radius,
    detector_radius,
    drift_velocity,
    sampling_period,
    taps,
    oversampling,
    smoothing,
    decay,
):
    """Add the pulses of events to their waveforms, in place.

    Parameters
    ----------
    waveforms : float32 ndarray of shape (n_events, n_samples)
        The waveforms without their pulses.
    amplitudes : ndarray of shape (n_events,)
        Pulse heights without discharge.
    radii, fractions : ndarray of shape (n_events, max_sites)
        Distances from the contact (mm) and shares of the energy.
    n_sites : int ndarray of shape (n_events,)
        How many of the sites are used.
    start_times : ndarray of shape (n_events,)
        Times of interaction after the first sample, in ns.
    delayed_fractions, release_times : ndarray of shape (n_events,)
        Shares of the charge that are released late, and with which time constant (ns).
    contact_radius, detector_radius : float
        In mm.
    drift_velocity : float
        In mm/ns.
    sampling_period : float
        In ns.
    taps : ndarray of shape (2 * reach + 1,)
    oversampling : int
        From :func:`gaussian_taps`.
    smoothing : float
        Standard deviation of the smoothing, in ns.
    decay : float
        The share of the charge that is left after one sampling period.
    """
    n_events, n_samples = waveforms.shape
    step = sampling_period / oversampling
    reach = (len(taps) - 1) // 2
    slope = 1.0 / (1.0 / contact_radius - 1.0 / detector_radius)
    longest = (detector_radius - contact_radius) / drift_velocity
    # Half a smoothing on both sides of the edge, and again on both sides for its first and last
    # sample; rounding the edge to samples adds up to two more.
    charge = np.empty(math.ceil(longest / step) + 4 * reach + 2 * oversampling + 2)

    for i in range(n_events):
        start = start_times[i]
        drift_time = 0.0
        collected = 0.0
        for j in range(n_sites[i]):
            drift_time = max(drift_time, (radii[i, j] - contact_radius) / drift_velocity)
            collected += fractions[i, j] * slope * (1 / contact_radius - 1 / radii[i, j])

        # The edge: samples that see the charge while it moves. Times count from the interaction.
        first = math.floor((start - reach * step) / sampling_period)
        last = math.ceil((start + drift_time + reach * step) / sampling_period)
        n_steps = (last - first) * oversampling + 2 * reach + 1
        origin = first * sampling_period - reach * step - start
        charge[:n_steps] = 0.0
        for j in range(n_sites[i]):
            radius = radii[i, j]
            weight = fractions[i, j] * slope / collected
            begin = max(0, math.ceil(-origin / step))
            end = math.ceil(((radius - contact_radius) / drift_velocity - origin) / step)
            for m in range(begin, end):
                travelled = drift_velocity * (origin + m * step)
                charge[m] += weight * (1 / (radius - travelled) - 1 / radius)
            charge[end:n_steps] += weight * (1 / contact_radius - 1 / radius)

        delayed = delayed_fractions[i]
        value = 0.0
        previous = 0.0
        for n in range(max(first, 0), n_samples):
            current = 1.0
            if n < last:
                current = 0.0
                seen = charge[(n - first) * oversampling :]
                for m in range(len(taps)):
                    current += taps[m] * seen[m]
            if delayed > 0.0:
                time = n * sampling_period - start
                late = _delayed_charge(time, release_times[i], smoothing)
                current = (1.0 - delayed) * current + delayed * late
            value = decay * value + (current - previous)
            previous = current
            waveforms[i, n] += amplitudes[i] * value
