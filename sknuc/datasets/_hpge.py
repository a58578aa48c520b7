r"""Simulated waveforms of a point-contact germanium detector.

A gamma ray deposits its energy at one place (single site: what double beta decay looks like) or at
several (multi site: Compton scattering, the background). Each place is a cloud of charge that
drifts to the contact, and the weighting potential rises only near it: the more sites, the lower
and wider the current pulse. Alpha particles stop on the surface, where some charge is trapped and
released microseconds later. Those are the three classes.

Positions, energies and shares are drawn for all events at once; waveforms are made in blocks of
fixed size with a random stream of their own, so that the number of threads changes no bit.
"""

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.parallel import Parallel, delayed

from sknuc.datasets._draws import draw_classes, spawn_streams
from sknuc.datasets._hpge_truth import (
    CLASSES,
    FUNCTION,
    draw,
    draw_energies,
    draw_radii,
    draw_sites,
)
from sknuc.datasets._noise import N_POLES, noise_filter
from sknuc.datasets._pulses import REACH, add_pulses, filter_noise, gaussian_taps

__all__ = ["make_hpge_waveforms"]

# Events per random stream: small enough for the cache of a core.
_BLOCK = 64

_POSITIVE = Interval(Real, 0, None, closed="neither")
_SHARE = Interval(Real, 0, 1, closed="both")

_DESCR = """\
Simulated waveforms of a point-contact germanium detector
---------------------------------------------------------
Point-contact approximation: spherical weighting potential, constant drift speed, Gaussian
smoothing and exponential discharge by the electronics, white and 1/f noise. Waveforms are in ADC
counts. Three classes: single_site, multi_site (the sites are independent and uniform in the
volume) and surface_alpha (uniform on the surface around the contact, with delayed charge).
"""


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "waveform_length": [Interval(Integral, 2, None, closed="left")],
        "sampling_period": [Interval(Real, 0, None, closed="neither")],
        "weights": ["array-like", None],
        "n_sites": [tuple, Interval(Integral, 2, None, closed="left")],
        "min_site_fraction": [Interval(Real, 0, 1, closed="left")],
        "energy": [tuple, Real, "array-like"],
        "energy_distribution": [StrOptions({"uniform", "log_uniform"})],
        "contact_radius": [Interval(Real, 0, None, closed="neither")],
        "detector_radius": [Interval(Real, 0, None, closed="neither")],
        "drift_velocity": [Interval(Real, 0, None, closed="neither")],
        "delayed_fraction": [tuple, Real],
        "release_time": [tuple, Real],
        "smoothing": [Interval(Real, 0, None, closed="left")],
        "decay_time": [Interval(Real, 0, None, closed="right")],
        "white_noise": [Interval(Real, 0, None, closed="left")],
        "pink_noise": [Interval(Real, 0, None, closed="left")],
        "baseline_length": [Interval(Real, 0, None, closed="left"), None],
        "t0_jitter": [Interval(Real, 0, None, closed="left")],
        "gain": [Interval(Real, 0, None, closed="neither")],
        "pedestal": [Interval(Real, None, None, closed="neither")],
        "adc_bits": [Interval(Integral, 1, 24, closed="both"), None],
        "return_X_y": ["boolean"],
        "as_frame": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_hpge_waveforms(
    n_samples=1000,
    *,
    waveform_length=1024,
    sampling_period=16.0,
    weights=None,
    n_sites=(2, 4),
    min_site_fraction=0.1,
    energy=(500.0, 2700.0),
    energy_distribution="uniform",
    contact_radius=2.0,
    detector_radius=33.0,
    drift_velocity=0.04,
    delayed_fraction=(0.01, 0.05),
    release_time=(5_000.0, 20_000.0),
    smoothing=30.0,
    decay_time=72_000.0,
    white_noise=2.0,
    pink_noise=1.0,
    baseline_length=None,
    t0_jitter=100.0,
    gain=6.5,
    pedestal=15_000.0,
    adc_bits=None,
    return_X_y=False,
    as_frame=False,
    n_jobs=None,
    random_state=None,
):
    r"""Simulate waveforms of a point-contact germanium detector, with their truth.

    An event of energy :math:`E` is sampled as

    .. math::

        x(t) = \text{pedestal} + \text{gain} \cdot [E\,(q * G_\sigma * e)(t) + \text{noise}(t)],
        \qquad q(t) = \frac{\sum_i f_i [\phi(r_i - v t) - \phi(r_i)]}{\sum_i f_i [1 - \phi(r_i)]},

    where :math:`\phi(r) = (1/r - 1/R)/(1/r_0 - 1/R)` is the weighting potential, each site stops
    at the contact, :math:`G_\sigma` is the smoothing and :math:`e` the discharge of the
    electronics. It is the discharge that a pole-zero correction
    :math:`y_n = y_{n-1} + x_n - e^{-\Delta t/\tau} x_{n-1}` undoes exactly. In surface alphas
    :math:`q` becomes :math:`(1 - a) q(t) + a (1 - e^{-t/\tau_d})`.

    Parameters given as a range ``(low, high)`` are drawn uniformly for each event; a number is the
    same for all events.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of events.
    waveform_length : int, default=1024
        Samples in one waveform.
    sampling_period : float, default=16.0
        In ns.
    weights : array-like of shape (3,), default=None
        Proportions of single-site, multi-site and surface-alpha events; None for equal ones. The
        numbers of events are these proportions rounded, not drawn.
    n_sites : (int, int) or int, default=(2, 4)
        Number of sites of multi-site events.
    min_site_fraction : float, default=0.1
        Least share of the energy at one site. Shares are uniform on the simplex beyond it.
    energy : (float, float), float or array-like of shape (n_samples,), default=(500.0, 2700.0)
        In keV; a tuple is a range, any other array-like gives the energy of each event.
    energy_distribution : {"uniform", "log_uniform"}, default="uniform"
        How energies are drawn from a range.
    contact_radius, detector_radius : float, default=2.0 and 33.0
        Radii :math:`r_0` of the contact and :math:`R` of the detector, in mm.
    drift_velocity : float, default=0.04
        In mm/ns.
    delayed_fraction : (float, float) or float, default=(0.01, 0.05)
        Share :math:`a` of the charge of surface alphas that is released late.
    release_time : (float, float) or float, default=(5000.0, 20000.0)
        Time constant :math:`\tau_d` of the release, in ns.
    smoothing : float, default=30.0
        Standard deviation of the electronics' response, in ns.
    decay_time : float, default=72000.0
        Time constant of the discharge, in ns; ``np.inf`` for none.
    white_noise, pink_noise : float, default=2.0 and 1.0
        Standard deviations of the white and of the 1/f noise in one sample, in keV. The 1/f noise
        is that of relaxation times from 0.65 sampling periods to four records.
    baseline_length : float, default=None
        Mean time of interaction after the first sample, in ns; None for a quarter of the waveform.
    t0_jitter : float, default=100.0
        The time of interaction is uniform within plus and minus this, in ns.
    gain : float, default=6.5
        ADC counts per keV.
    pedestal : float, default=15000.0
        Mean baseline, in ADC counts.
    adc_bits : int, default=None
        Round to whole counts and saturate at 0 and :math:`2^{bits} - 1` as a digitizer does; None
        leaves the waveforms as they are. Up to 16 bits the waveforms are uint16.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    as_frame : bool, default=False
        Give the truth as a pandas data frame in ``frame`` too.
    n_jobs : int, default=None
        Number of threads; None for one, -1 for all cores. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of the events.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : float32 or uint16 ndarray of shape (n_samples, waveform_length)
            Waveforms in ADC counts; 16-bit integers with ``adc_bits <= 16``.
        target : int ndarray of shape (n_samples,)
            Index of the class in ``target_names``.
        target_names : ndarray of shape (3,)
            "single_site", "multi_site", "surface_alpha".
        truth : Bunch
            ``energy`` (keV), ``t0`` (time of interaction after the first sample, ns),
            ``drift_time`` (of the last site, ns), ``n_sites``, ``delayed_fraction`` (0 but for
            surface alphas), ``release_time`` (ns, NaN without), ``saturated`` (bool), each of
            shape (n_samples,), and ``site_radius`` (mm) and ``site_fraction`` of shape
            (n_samples, max_sites), NaN for sites that do not exist.
        frame : DataFrame of shape (n_samples, n_columns) or None
            Truth and target, when ``as_frame=True``.
        sampling_period : float
            In ns.
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range, or the record is too short for the slowest pulse.

    References
    ----------
    .. [1] P. S. Barbeau, J. I. Collar, O. Tench, "Large-mass ultralow noise germanium detectors:
       performance and applications in neutrino and astroparticle physics", JCAP 09 (2007) 009.
    .. [2] N. J. Kasdin, "Discrete simulation of colored noise and stochastic processes and
       1/f^alpha power law noise generation", Proc. IEEE 83 (1995) 802.

    Examples
    --------
    >>> from sknuc.datasets import make_hpge_waveforms
    >>> events = make_hpge_waveforms(6, random_state=0)
    >>> events.data.shape, events.data.dtype
    ((6, 1024), dtype('float32'))
    >>> events.truth.n_sites[events.target == 0]
    array([1, 1])
    """
    if contact_radius >= detector_radius:
        raise ValueError(
            "The 'contact_radius' parameter of make_hpge_waveforms must be below detector_radius="
            f"{detector_radius} mm. Got {contact_radius} instead."
        )
    duration = (waveform_length - 1) * sampling_period
    if baseline_length is None:
        baseline_length = duration / 4
    slowest = (detector_radius - contact_radius) / drift_velocity
    first, last = baseline_length - t0_jitter, baseline_length + t0_jitter + slowest
    if first < REACH * smoothing or last + REACH * smoothing > duration:
        raise ValueError(
            f"Pulses start {first:g} ns after the first sample or later and are collected after "
            f"{last:g} ns at most; with a smoothing of {smoothing:g} ns they do not fit into the "
            f"waveform of {duration:g} ns. Increase 'waveform_length' or 'sampling_period', or "
            "change 'baseline_length' or 't0_jitter'."
        )

    rng, streams = spawn_streams(random_state, n_samples, _BLOCK)
    target = draw_classes(FUNCTION, rng, n_samples, weights, CLASSES)
    site_counts, fractions = draw_sites(rng, target, n_sites, min_site_fraction)
    radii = draw_radii(rng, target, fractions.shape[1], contact_radius, detector_radius)
    energies = draw_energies(rng, n_samples, energy, energy_distribution)
    t0 = rng.uniform(baseline_length - t0_jitter, baseline_length + t0_jitter, n_samples)
    alpha = target == 2
    a = draw(rng, n_samples, "delayed_fraction", delayed_fraction, _SHARE)
    a = np.where(alpha, a, 0.0)
    release = draw(rng, n_samples, "release_time", release_time, _POSITIVE)

    filter_ = noise_filter(gain * white_noise, gain * pink_noise, waveform_length)
    taps, oversampling = gaussian_taps(smoothing, sampling_period, contact_radius / drift_velocity)
    geometry = (float(contact_radius), float(detector_radius), float(drift_velocity))
    decay = math.exp(-sampling_period / decay_time)
    is_small = adc_bits is not None and adc_bits <= 16
    data = np.empty((n_samples, waveform_length), dtype=np.uint16 if is_small else np.float32)

    def simulate(block, rng):
        waveforms = np.empty(data[block].shape, np.float32) if is_small else data[block]
        rng.standard_normal(dtype=np.float32, out=waveforms)
        states = rng.standard_normal((len(waveforms), N_POLES)) @ filter_.state_factor.T
        filter_noise(
            waveforms, states, filter_.poles, filter_.gains, filter_.direct, float(pedestal)
        )
        add_pulses(
            waveforms,
            gain * energies[block],
            radii[block],
            fractions[block],
            site_counts[block],
            t0[block],
            a[block],
            release[block],
            *geometry,
            float(sampling_period),
            taps,
            oversampling,
            float(smoothing),
            decay,
        )
        if adc_bits is not None:
            np.rint(waveforms, out=waveforms)
            full = 2**adc_bits - 1
            saturated[block] = ((waveforms < 0) | (waveforms > full)).any(axis=1)
            np.clip(waveforms, 0, full, out=waveforms)
        if is_small:
            data[block] = waveforms

    saturated = np.zeros(n_samples, dtype=bool)
    blocks = (slice(i, i + _BLOCK) for i in range(0, n_samples, _BLOCK))
    Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(simulate)(block, stream) for block, stream in zip(blocks, streams, strict=True)
    )
    if return_X_y:
        return data, target

    missing = np.arange(fractions.shape[1]) >= site_counts[:, None]
    radii[missing] = np.nan
    fractions[missing] = np.nan
    truth = Bunch(
        energy=energies,
        t0=t0,
        drift_time=(np.nanmax(radii, axis=1) - contact_radius) / drift_velocity,
        n_sites=site_counts,
        site_radius=radii,
        site_fraction=fractions,
        delayed_fraction=a,
        release_time=np.where(alpha, release, np.nan),
        saturated=saturated,
    )
    return Bunch(
        data=data,
        target=target,
        target_names=np.array(CLASSES),
        truth=truth,
        frame=_truth_frame(truth, target) if as_frame else None,
        sampling_period=float(sampling_period),
        DESCR=_DESCR,
    )


def _truth_frame(truth, target):
    import pandas as pd

    columns = {name: values for name, values in truth.items() if values.ndim == 1}
    for name in ("site_radius", "site_fraction"):
        columns |= {f"{name}_{i}": column for i, column in enumerate(truth[name].T)}
    return pd.DataFrame(columns | {"target": target})
