r"""Simulated tracks in an active target: a time projection chamber whose gas is the target.

A beam of :sup:`46`\ Ar enters isobutane along the magnetic field and hits protons and carbon
nuclei. These recoil, spiral, slow down and stop, and the electrons that they free drift to a plane
of pads: a picture in three dimensions. Protons curl and leave little charge, carbon nuclei leave
much on a short way; which of the two it was, or neither, is the question. A detector never behaves
as its simulation, so there are two of it: one for the training and one that is called real.

Reactions are drawn for all events at once; tracks are followed in blocks of fixed size with a
random stream of their own, so that the number of threads changes no bit.
"""

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.parallel import Parallel, delayed

from sknuc.datasets._draws import check_range, draw_classes, spawn_streams, split_events
from sknuc.datasets._tpc_detector import (
    TPC_DETECTORS,
    draw_pad_gains,
    outer_edges,
    pad_lattice,
)
from sknuc.datasets._tpc_gas import IONS, RangeTable, gas_density
from sknuc.datasets._tpc_noise import draw_noise
from sknuc.datasets._tpc_tracks import Detector, simulate, to_points
from sknuc.datasets._tpc_truth import CLASSES, draw_tracks, summarize_truth

__all__ = ["make_tpc_events"]

# Events per random stream.
_BLOCK = 64
_ENERGY_PER_ELECTRON = 23.0e-6  # isobutane, MeV

_DESCR = """\
Simulated tracks in an active-target time projection chamber
------------------------------------------------------------
A 46Ar beam in isobutane, in a magnetic field along the beam. Points (x, y, z, charge) are the
samples of pads in time buckets above a threshold, in mm and ADC counts. Classes: proton and carbon
recoils of elastic and inelastic scattering, and other (pile-up of two or three recoils, beam
particles, stray ions, no reaction). Left out: the scattered beam particle, multiple scattering,
straggling, charge states of slow ions in the field, and the shape of the electronics' pulses in
time.
"""

_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
_POSITIVE = Interval(Real, 0, None, closed="neither")
_COUNT = Interval(Integral, 0, None, closed="left")
_FRACTION = Interval(Real, 0, 1, closed="left")


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "weights": ["array-like", None],
        "domain": [StrOptions(set(TPC_DETECTORS))],
        "beam_energy": [Interval(Real, 1, 100, closed="right")],
        "pressure": [_POSITIVE],
        "magnetic_field": [_NON_NEGATIVE],
        "step": [Interval(Real, 0, 50, closed="right")],
        "drift_velocity": [_POSITIVE],
        "sampling_frequency": [_POSITIVE],
        "length": [_POSITIVE],
        "radius": [_POSITIVE],
        "n_pads": [Interval(Integral, 1, None, closed="left")],
        "beam_hole": [_NON_NEGATIVE],
        "fano": [_NON_NEGATIVE],
        "polya": [Interval(Real, 0, None, closed="both")],
        "gain": [_POSITIVE, None],
        "transverse_diffusion": [_NON_NEGATIVE, None],
        "longitudinal_diffusion": [_NON_NEGATIVE, None],
        "threshold": [_NON_NEGATIVE, None],
        "saturation": [Interval(Real, 0, None, closed="right"), None],
        "noise_pads": [tuple, None],
        "noise_charge": [_NON_NEGATIVE, None],
        "dead_pads": [_FRACTION, None],
        "gain_spread": [_NON_NEGATIVE, None],
        "chip_noise": [_NON_NEGATIVE, None],
        "sparks": [_NON_NEGATIVE, None],
        "beam_rate": [_NON_NEGATIVE, None],
        "format": [StrOptions({"padded", "ragged"})],
        "return_X_y": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_tpc_events(
    n_samples=1000,
    *,
    weights=None,
    domain="simulation",
    beam_energy=4.6,
    pressure=25.0,
    magnetic_field=1.68,
    step=2.5,
    drift_velocity=5.2,
    sampling_frequency=12.5,
    length=1250.0,
    radius=275.0,
    n_pads=10_240,
    beam_hole=20.0,
    fano=0.26,
    polya=1.0,
    gain=None,
    transverse_diffusion=None,
    longitudinal_diffusion=None,
    threshold=None,
    saturation=None,
    noise_pads=None,
    noise_charge=None,
    dead_pads=None,
    gain_spread=None,
    chip_noise=None,
    sparks=None,
    beam_rate=None,
    format="padded",
    return_X_y=False,
    n_jobs=None,
    random_state=None,
):
    r"""Simulate tracks of an active-target time projection chamber, with their truth.

    A beam of :sup:`46`\ Ar enters at z = 0 along +z, the direction of the magnetic field, slows
    down in isobutane, and scatters on a proton or a carbon nucleus at a uniform depth (where it
    still has 1 MeV per nucleon), with Rutherford's distribution :math:`1/\sin^4(\theta/2)` above
    30° in the centre of mass; a fifth of the scatterings, where there is energy enough, excite the
    :math:`2^+` state of the beam at 1.55 MeV. The recoil moves on a helix of

    .. math:: r[\text m] = \frac{p_T[\text{GeV}/c]}{0.2998\,Z\,B[\text T]},

    and loses energy (ICRU 49 and Bethe's formula, with the effective charge of the ion), which
    frees electrons; they drift to the pads at z = `length`, and spread by :math:`\sigma = D
    \sqrt{L}`.

    Events of the class "other" are, in equal parts: the pile-up of two or three recoils; beam
    particles that react with nothing, at small angles to the axis (Rayleigh-distributed, 20 mrad);
    single d, :math:`\alpha`, :sup:`7`\ Li or :sup:`16`\ O of 0.2 to 2 MeV per nucleon
    (log-uniform) from anywhere within three quarters of the radius, in any direction; and events
    without any of them: noise, in the domain "real" with the beam particles that cross every event
    by chance.

    Left out are the scattered beam particle (a proton turns it by up to 1.3°, which mostly stays
    where the pads are off; carbon by up to 15°, a second, bright track), multiple scattering and
    straggling, the charge states of slow ions, and the electronics' pulse shape.

    Parameters that are None take the value of `domain` in ``TPC_DETECTORS``.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of events.
    weights : array-like of shape (3,), default=None
        Proportions of the classes proton, carbon and other; None for equal ones. The numbers of
        events are these proportions rounded, not drawn.
    domain : {"simulation", "real"}, default="simulation"
        Which detector: "real" has other gain, diffusion, threshold and noise, dead pads, pads of
        uneven gain, and chips that fire as a whole, sparks and beam particles in the events, none
        of which the "simulation" knows. The same seed gives the same reactions in both; train and
        test them on different ones, or compare them event by event.
    beam_energy : float, default=4.6
        Where the beam enters, in MeV per nucleon.
    pressure : float, default=25.0
        Of the gas at 20 °C, in hPa.
    magnetic_field : float, default=1.68
        In T.
    step : float, default=2.5
        Longest step of the integration along a track, in mm, at most 50, where energy and charge of
        many tracks are those of short steps to 0.2 %. A step counts as a whole in its middle, or
        not at all if that lies outside of the chamber.
    drift_velocity : float, default=5.2
        Of electrons, in cm/µs.
    sampling_frequency : float, default=12.5
        Of the electronics, in MHz; with the drift velocity it gives time buckets of 4.16 mm.
    length, radius : float, default=1250.0 and 275.0
        Of the chamber, in mm. Tracks end at its walls.
    n_pads : int, default=10240
        Number of square pads: those of a lattice nearest to the axis, as wide (4.8 mm) as their
        number on the area of the chamber makes them.
    beam_hole : float, default=20.0
        Pads nearer to the axis are switched off, since the beam would blind them, in mm.
    fano : float, default=0.26
        Variance of the number of electrons over its mean, dE / 23 eV.
    polya : float, default=1.0
        The parameter :math:`\theta` of the gain of one electron, of relative variance
        :math:`1/(1 + \theta)`; ``np.inf`` for none.
    gain : float, default=None
        ADC counts per keV of energy loss.
    transverse_diffusion, longitudinal_diffusion : float, default=None
        D across and along the drift, in mm/√cm.
    threshold : float, default=None
        Samples below it are suppressed, in ADC counts. Below the `saturation`.
    saturation : float, default=None
        Largest sample, in ADC counts; ``np.inf`` for none.
    noise_pads : (int, int), default=None
        Least and greatest number (uniform) of noise samples per event, each in a random pad and
        time bucket.
    noise_charge : float, default=None
        Mean (exponential) charge of noise above the threshold, in ADC counts.
    dead_pads : float, default=None
        Fraction of pads that do not work. The same pads are dead in every call.
    gain_spread : float, default=None
        Standard deviation of the logarithm of the pads' gains. The same in every call.
    chip_noise : float, default=None
        Mean number (Poisson) per event of squares of 8 x 8 pads that all fire in one time bucket.
    sparks : float, default=None
        Mean number (Poisson) per event of pads that fire in 5 to 59 time buckets in a row.
    beam_rate : float, default=None
        Mean number (Poisson) per event of beam particles that cross it by chance.
    format : {"padded", "ragged"}, default="padded"
        One array with rows of zeros after the points of each event, or an array of arrays.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    n_jobs : int, default=None
        Number of threads; None for one, -1 for all cores. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of the events: of the reactions whatever the `domain`, and of what the detector makes
        of them.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : float32 ndarray of shape (n_samples, max_points, 4), or array of n_samples arrays
            Points (x, y, z, charge) in mm and ADC counts, pad by pad; an object array of arrays
            (n_points, 4) with ``format="ragged"``.
        target : int ndarray of shape (n_samples,)
            Index of the class in ``target_names``.
        target_names : ndarray of shape (3,)
            "proton", "carbon", "other".
        ranges : tuple of (float, float)
            Outer edges of the pads in x and y and of the time buckets in z, in mm; the last bucket
            reaches beyond the chamber. No point is outside: the ranges for
            :class:`~sknuc.preprocessing.TPCProjector`.
        truth : Bunch
            Of the recoil, or of the first particle of other events (NaN, or charge 0, where there
            is none): ``energy`` (MeV), ``polar_angle`` and ``azimuth`` (rad), ``vertex`` (mm, shape
            (n_samples, 3)), ``charge``, ``mass`` (MeV), ``radius`` (of the helix at the start,
            mm; infinite without field), ``range`` (path until it stops in gas without end, mm),
            ``path_length`` and ``deposited`` (mm and MeV within the chamber), ``stopped`` (bool,
            in the chamber). Of the event: ``kind`` ("recoil", "pile_up", "beam", "ion", "noise"),
            ``n_tracks``, ``total_deposited`` (MeV, of all tracks), ``n_points`` and ``saturated``
            (number of samples).
        detector : Bunch
            The settings of ``TPC_DETECTORS`` that were used, ``pad_pitch`` and ``bucket_length``
            (mm).
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range, or no sample can pass the threshold.

    See Also
    --------
    sknuc.preprocessing.TPCProjector : Makes images or voxels of the points.
    sknuc.preprocessing.PointCloudSampler : Makes clouds of one size.

    References
    ----------
    .. [1] J. Bradt et al., "Commissioning of the Active-Target Time Projection Chamber", Nucl.
       Instrum. Meth. A 875 (2017) 65.
    .. [2] M. P. Kuchera et al., "Machine learning methods for track classification in the AT-TPC",
       Nucl. Instrum. Meth. A 940 (2019) 156, arXiv:1810.10350.

    Examples
    --------
    >>> from sknuc.datasets import make_tpc_events
    >>> events = make_tpc_events(6, random_state=0)
    >>> events.data.shape[2], events.data.dtype
    (4, dtype('float32'))
    >>> events.target_names[events.target]
    array(['other', 'other', 'carbon', 'proton', 'proton', 'carbon'],
          dtype='<U6')
    """
    given = locals()
    settings = {
        name: value if given[name] is None else given[name]
        for name, value in TPC_DETECTORS[domain].items()
    }
    check_range("make_tpc_events", "noise_pads", settings["noise_pads"], _COUNT)
    if settings["threshold"] >= settings["saturation"]:
        raise ValueError(
            "The 'threshold' parameter of make_tpc_events must be below the saturation of "
            f"{settings['saturation']:g} ADC counts, where samples are cut off: no other sample "
            f"could pass. Got {settings['threshold']:g} instead."
        )
    rng, streams = spawn_streams(random_state, n_samples, _BLOCK)

    density = gas_density(pressure)
    tables = [RangeTable(*ion, density) for ion in IONS.values()]
    beam = list(IONS).index("46Ar")
    entrance = beam_energy * IONS["46Ar"][2]
    target = draw_classes("make_tpc_events", rng, n_samples, weights, CLASSES)
    tracks, kind = draw_tracks(
        rng, target, tables[beam], entrance, length, radius, settings["beam_rate"]
    )
    charge, mass, _ = np.array(list(IONS.values())).T
    charges, masses = charge[tracks.ion], mass[tracks.ion]
    ranges = np.empty(len(tracks.ion))
    for i, table in enumerate(tables):
        ranges[tracks.ion == i] = table.ranges(tracks.energy[tracks.ion == i])
    first_tracks = np.searchsorted(tracks.event, np.arange(n_samples + 1))

    is_pad, pitch = pad_lattice(n_pads, radius)
    pad_gains = draw_pad_gains(
        is_pad, pitch, beam_hole, settings["dead_pads"], settings["gain_spread"]
    )
    bucket = 10.0 * drift_velocity / sampling_frequency
    variance = fano + 1 / (1 + polya)
    det = Detector(
        field=float(magnetic_field),
        step=float(step),
        length=float(length),
        radius=float(radius),
        bucket=bucket,
        n_buckets=math.ceil(length / bucket),
        pitch=pitch,
        gain=1e3 * settings["gain"],
        energy_per_electron=_ENERGY_PER_ELECTRON,
        variance=float(variance),
        transverse=float(settings["transverse_diffusion"]),
        longitudinal=float(settings["longitudinal_diffusion"]),
        threshold=float(settings["threshold"]),
        saturation=float(settings["saturation"]),
    )
    shared = (
        np.stack([table.log_energies for table in tables]),
        np.array([table.first for table in tables]),
        np.array([table.spacing for table in tables]),
        pad_gains,
        det,
    )
    deposits, paths = np.empty((2, len(ranges)))
    n_saturated = np.empty(n_samples, dtype=np.int64)

    def simulate_block(start, rng):
        stop = min(start + _BLOCK, n_samples)
        own = slice(first_tracks[start], first_tracks[stop])
        noise = draw_noise(rng, stop - start, pad_gains, det.n_buckets, settings)
        samples = simulate(
            rng,
            first_tracks[start : stop + 1] - first_tracks[start],
            charges[own],
            masses[own],
            tracks.ion[own],
            ranges[own],
            tracks.polar_angle[own],
            tracks.azimuth[own],
            tracks.vertex[own],
            *shared,
            noise,
            deposits[own],
            paths[own],
            n_saturated[start:stop],
        )
        return to_points(samples, len(pad_gains), det), np.bincount(
            samples.event, minlength=stop - start
        )

    blocks = Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(simulate_block)(start, stream)
        for start, stream in zip(range(0, n_samples, _BLOCK), streams, strict=True)
    )
    points, n_points = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    data = _join(points, n_points, format)
    if return_X_y:
        return data, target

    truth = summarize_truth(
        tracks, kind, first_tracks, charges, masses, ranges, paths, deposits, magnetic_field
    )
    truth.n_points, truth.saturated = n_points, n_saturated
    return Bunch(
        data=data,
        target=target,
        target_names=np.array(CLASSES),
        ranges=(*outer_edges(is_pad, pitch), (float(length - det.n_buckets * bucket), det.length)),
        truth=truth,
        detector=Bunch(**settings, pad_pitch=pitch, bucket_length=bucket),
        DESCR=_DESCR,
    )


def _join(points, n_points, format):
    if format == "ragged":
        return split_events(points, n_points)
    room = max(n_points.max(), 1)
    data = np.zeros((len(n_points), room, 4), dtype=np.float32)
    data[np.arange(room) < n_points[:, None]] = points
    return data
