r"""Simulated events of a spherical liquid scintillator detector that searches double beta decay.

The signal, neutrinoless double beta decay of :sup:`136`\ Xe, makes all its light at one point and
at one time. The background :sup:`10`\ C, made by muons in the scintillator, makes the same amount
at the vertex and, through gamma rays, decimetres around it, some of it late when the positron
forms ortho-positronium. Phototubes on a sphere see the photons one by one: so the classes differ
in where and when, but hardly in how many.

Vertices, energies and numbers of photo-electrons are drawn for all events at once; gamma rays and
light in blocks of fixed size with random streams of their own, so that the number of threads
changes no bit.
"""

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.parallel import Parallel, delayed

from sknuc.datasets._draws import check_range, draw_classes, spawn_streams, split_events
from sknuc.datasets._scintillator_checks import (
    CLASSES,
    FUNCTION,
    check_acceptance,
    check_decay,
    check_positions,
)
from sknuc.datasets._scintillator_decays import (
    GAMMA_ENERGY,
    ORIGINS,
    Q_VALUE,
    draw_positron_energies,
    transport_gammas,
)
from sknuc.datasets._scintillator_light import Light, detect_light, nearest_pmt

__all__ = ["make_scintillator_events"]

# Events per random stream.
_BLOCK = 64

_DESCR = """\
Simulated events of a spherical liquid scintillator detector
------------------------------------------------------------
Hits of phototubes: index of the phototube, time in ns, charge in photo-electrons. Two classes:
neutrinoless double beta decay of 136Xe (all energy at one point) and 10C (a positron, a gamma ray
of 718 keV and two of 511 keV that scatter off electrons, late after ortho-positronium). Photons
fly straight to the phototube that is nearest where they meet the sphere, all phototubes being of
one size: no scattering, no re-emission, no electronics.
"""

_POSITIVE = Interval(Real, 0, None, closed="neither")
_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
_FINITE = Interval(Real, None, None, closed="neither")
_SHARE = Interval(Real, 0, 1, closed="both")


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "weights": ["array-like", None],
        "positions": ["array-like", None],
        "fiducial_radius": [_POSITIVE],
        "energy_range": [tuple],
        "match_n_hits": ["boolean"],
        "light_yield": [_POSITIVE],
        "photocoverage": [Interval(Real, 0, 1, closed="right")],
        "quantum_efficiency": [Interval(Real, 0, 1, closed="right")],
        "decay_times": ["array-like"],
        "decay_fractions": ["array-like"],
        "rise_time": [_NON_NEGATIVE],
        "light_speed": [_POSITIVE],
        "transit_time_spread": [_NON_NEGATIVE],
        "charge_resolution": [_NON_NEGATIVE],
        "ortho_positronium_fraction": [_SHARE],
        "ortho_positronium_lifetime": [_POSITIVE],
        "vertex_resolution": [_NON_NEGATIVE],
        "t0_jitter": [_NON_NEGATIVE],
        "dark_rate": [_NON_NEGATIVE],
        "window": [tuple, None],
        "first_hit_only": ["boolean"],
        "format": [StrOptions({"padded", "ragged"})],
        "return_X_y": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_scintillator_events(
    n_samples=1000,
    *,
    weights=None,
    positions=None,
    fiducial_radius=167.0,
    energy_range=(2.0, 3.0),
    match_n_hits=True,
    light_yield=3200.0,
    photocoverage=0.34,
    quantum_efficiency=0.23,
    decay_times=(3.6, 16.0, 86.0),
    decay_fractions=(0.71, 0.22, 0.07),
    rise_time=0.0,
    light_speed=16.95,
    transit_time_spread=1.5,
    charge_resolution=0.0,
    ortho_positronium_fraction=0.5,
    ortho_positronium_lifetime=3.0,
    vertex_resolution=12.0,
    t0_jitter=0.0,
    dark_rate=0.0,
    window=None,
    first_hit_only=False,
    format="padded",
    return_X_y=False,
    n_jobs=None,
    random_state=None,
):
    r"""Simulate events of a spherical scintillator detector, with their truth.

    An event of visible energy :math:`E` has a Poisson number of photo-electrons with the mean

    .. math::

        \mu = Y E, \qquad Y = \text{light yield} \times \text{photocoverage} \times
        \text{quantum efficiency},

    250 per MeV by default. Each comes from one of the event's deposits of energy, flies straight
    in a random direction to the sphere of phototubes, and is seen by the one nearest to that point.
    Phototubes are of one size: where they are sparse, more light falls in between. Of the photons
    in the cell of area :math:`A_i` around one, the share :math:`\min_j A_j / A_i` is taken and the
    others fly anew, so that light from the centre falls on all phototubes alike, and :math:`\mu` is
    the same everywhere. A photo-electron arrives at

    .. math::

        t = t_0 + t_\text{deposit} + t_\text{rise} + t_\text{decay} +
        \frac{\text{path}}{v} + \mathcal N(0, \sigma_{TTS}),

    with exponential :math:`t_\text{rise}` and :math:`t_\text{decay}`, the latter's time constant
    being drawn from `decay_times`.

    The signal "0vbb", two electrons with 2.458 MeV in all, is one deposit. The background "10C"
    is a positron at the vertex (allowed spectrum with the Fermi function, endpoint 1.908 MeV), a
    gamma ray of 718 keV and, at once or after the decay of ortho-positronium, two of 511 keV back
    to back. Gamma rays scatter off electrons (Klein-Nishina) until 20 keV are left, which are
    absorbed in the same place.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of events.
    weights : array-like of shape (2,), default=None
        Proportions of the classes 10C and 0vbb; None for equal ones.
    positions : array-like of shape (n_pmt, 3), default=None
        Positions of the phototubes, in cm, on a sphere around the origin, evenly spread or not.
        None for 1879 evenly spread ones at 850 cm.
    fiducial_radius : float, default=167.0
        Decays are uniform in the ball of this radius, in cm.
    energy_range : (float, float), default=(2.0, 3.0)
        Visible energy of the background, in MeV. Must contain that of the signal, 2.458 MeV.
    match_n_hits : bool, default=True
        Give both classes the same distribution of the number of photo-electrons, so that nothing
        can be learnt from it (see Notes). Otherwise the background's energies follow the
        spectrum within `energy_range`.
    light_yield : float, default=3200.0
        Photons per MeV that reach the sphere.
    photocoverage, quantum_efficiency : float, default=0.34 and 0.23
        Shares of the photons that meet a phototube and of those that make a photo-electron, in
        (0, 1].
    decay_times : array-like of shape (n_components,), default=(3.6, 16.0, 86.0)
        Time constants of the scintillation, in ns.
    decay_fractions : array-like of shape (n_components,), default=(0.71, 0.22, 0.07)
        Shares of the light with these time constants; they sum to 1.
    rise_time : float, default=0.0
        Time constant of the rise of the scintillation, in ns.
    light_speed : float, default=16.95
        In the detector, in cm/ns.
    transit_time_spread : float, default=1.5
        Standard deviation of the time that phototubes measure, in ns.
    charge_resolution : float, default=0.0
        Standard deviation of the charge of a photo-electron, in photo-electrons: a Gaussian
        around one, cut off at zero.
    ortho_positronium_fraction : float, default=0.5
        Share of the positrons that form ortho-positronium; the others annihilate at once.
    ortho_positronium_lifetime : float, default=3.0
        Mean time to the annihilation, in ns.
    vertex_resolution : float, default=12.0
        Standard deviation of each coordinate of the reconstructed vertex at 1 MeV, in cm. It falls
        with :math:`1/\sqrt{E/\text{MeV}}`.
    t0_jitter : float, default=0.0
        The decay's time is uniform within plus and minus this, in ns.
    dark_rate : float, default=0.0
        Dark hits per phototube and second, in Hz, uniform in `window`.
    window : (float, float), default=None
        Start and stop of the acquisition, in ns; photo-electrons outside of it are not recorded,
        but counted in ``n_photoelectrons`` of the truth. None records all light. Light of a
        central event arrives from 50 ns on.
    first_hit_only : bool, default=False
        One hit per phototube, with the earliest time and the sum of the charges, as electronics
        with one hit per channel give it; otherwise one per photo-electron.
    format : {"padded", "ragged"}, default="padded"
        One array in which zero rows fill up events, or an array of arrays.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    n_jobs : int, default=None
        Number of threads; None for one, -1 for all cores. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of the events.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : float32 ndarray of shape (n_samples, n_rows, 3), or array of n_samples arrays
            Hits: index of the phototube, time in ns and charge in photo-electrons (above zero, so
            that a row of zeros is padding), in random order; an object array of arrays (n_hits, 3)
            with ``format="ragged"``. :class:`~sknuc.preprocessing.PMTHitMap` makes films on grids
            or phototubes of them.
        target : int ndarray of shape (n_samples,)
            Index of the class in ``target_names``.
        target_names : ndarray of shape (2,)
            "10C" (background) and "0vbb" (signal).
        positions : float64 ndarray of shape (n_pmt, 3)
            Of the phototubes, in cm.
        vertex : float64 ndarray of shape (n_samples, 3)
            Reconstructed vertex in cm: the smeared centroid of the deposited energy, which is
            what a fit to the light can find.
        truth : Bunch
            ``vertex`` (of the decay, cm), ``centroid`` (of the deposited energy, cm), ``t0`` (ns),
            ``energy`` (visible, MeV), ``electron_energy`` (kinetic, of the electrons or the
            positron, MeV), ``n_photoelectrons`` (of light), ``n_dark``, ``n_hits`` (rows in data),
            ``ortho_positronium`` (bool), ``annihilation_delay`` (ns, NaN for the signal),
            ``n_scatters`` (deposits by gamma rays), each with the axis of events first; and with a
            second axis of deposits ``deposit_position`` (cm), ``deposit_energy`` (MeV, 0 where
            there is none), ``deposit_time`` (ns after the decay) and ``deposit_origin``, an index
            in ``origin_names`` or -1 where there is none. Deposits of a gamma ray are in the order
            in which it made them.
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range, the phototubes crowd or do not lie on a sphere that is
        larger than the fiducial volume, or gamma rays do not stay inside.

    Notes
    -----
    With ``match_n_hits`` the number :math:`N` of an event is drawn from the signal's Poisson
    distribution first, for both classes. The energy of a background event follows from it by
    Bayes' theorem, :math:`p(E|N) \propto p(E) (YE)^N e^{-YE}`, with the spectrum :math:`p(E)` in
    `energy_range`, so that it is an event of that selection, and no event is thrown away. Matched
    are photo-electrons: the number of phototubes with a hit (`first_hit_only`) or of hits in a
    `window` may still differ as the classes spread light differently.

    Not simulated: the range of electrons, quenching, scattering and re-emission of light, the
    lifetime of the 718 keV level, the decay branch to the 1740 keV level, three-photon
    annihilation. Gamma rays that would reach the phototubes are drawn anew: events are contained.

    See Also
    --------
    sknuc.preprocessing.PMTHitMap : Makes grids of the hits: films (time, polar angle, azimuth), or
        of the phototubes, corrected for the time of flight.

    References
    ----------
    .. [1] A. Li et al., "KamNet: An Integrated Spatiotemporal Deep Neural Network for Rare Event
       Searches in KamLAND-Zen", Phys. Rev. C 107 (2023) 014323, arXiv:2203.01870.
    .. [2] A. Li et al., "Suppression of Cosmic Muon Spallation Backgrounds in Liquid Scintillator
       Detectors Using Convolutional Neural Networks", Nucl. Instrum. Meth. A 947 (2019) 162604,
       arXiv:1812.02906.
    .. [3] O. Klein, Y. Nishina, "Über die Streuung von Strahlung durch freie Elektronen nach der
       neuen relativistischen Quantendynamik von Dirac", Z. Phys. 52 (1929) 853.

    Examples
    --------
    >>> from sknuc.datasets import make_scintillator_events
    >>> events = make_scintillator_events(4, light_yield=320.0, random_state=0)
    >>> events.data.shape[0], events.data.shape[2], events.positions.shape
    (4, 3, (1879, 3))
    >>> events.target_names[events.target].tolist().count("0vbb")
    2
    >>> bool(((events.data[..., 2] > 0).sum(axis=1) == events.truth.n_hits).all())
    True
    """
    pmts, radius = check_positions(positions)
    if fiducial_radius >= radius:
        raise ValueError(
            "The 'fiducial_radius' parameter of make_scintillator_events must be below the radius "
            f"of the phototubes, {radius:g} cm. Got {fiducial_radius} instead."
        )
    energy_range = check_range(FUNCTION, "energy_range", energy_range, _FINITE, strict=True)
    if not energy_range[0] <= Q_VALUE <= energy_range[1]:
        raise ValueError(
            "The 'energy_range' parameter of make_scintillator_events must contain the energy of "
            f"the signal, {Q_VALUE} MeV. Got {energy_range!r} instead."
        )
    if window is None and dark_rate > 0:
        raise ValueError(
            "The 'window' parameter of make_scintillator_events must be a range (start, stop) in "
            f"ns when dark_rate={dark_rate} Hz is not zero. Got None instead."
        )
    start, stop = -np.inf, np.inf
    if window is not None:
        start, stop = check_range(FUNCTION, "window", window, _FINITE, strict=True)
    decay_times, decay_edges = check_decay(decay_times, decay_fractions)
    acceptance = check_acceptance(pmts)

    rng, streams = spawn_streams(random_state, n_samples, _BLOCK)
    blocks = [slice(i, i + _BLOCK) for i in range(0, n_samples, _BLOCK)]

    def run(function):
        return Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(function)(block, stream) for block, stream in zip(blocks, streams, strict=True)
        )

    target = draw_classes(FUNCTION, rng, n_samples, weights, CLASSES)
    background = target == 0
    vertices = rng.standard_normal((n_samples, 3))
    vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    vertices *= fiducial_radius * np.cbrt(rng.random((n_samples, 1)))
    t0 = rng.uniform(-t0_jitter, t0_jitter, n_samples)
    smearing = vertex_resolution * rng.standard_normal((n_samples, 3))
    ortho = background & (rng.random(n_samples) < ortho_positronium_fraction)
    delays = np.where(ortho, rng.exponential(ortho_positronium_lifetime, n_samples), 0.0)

    light_per_mev = light_yield * photocoverage * quantum_efficiency
    n_light = rng.poisson(light_per_mev * Q_VALUE, n_samples)
    electrons = np.full(n_samples, Q_VALUE)
    electrons[background] = draw_positron_energies(
        rng,
        np.count_nonzero(background),
        energy_range,
        light_per_mev,
        n_light[background] if match_n_hits else None,
    )
    energies = electrons + np.where(background, GAMMA_ENERGY, 0.0)
    if not match_n_hits:
        n_light[background] = rng.poisson(light_per_mev * energies[background])
    n_dark = np.zeros(n_samples, dtype=np.int64)
    if dark_rate > 0:
        n_dark = rng.poisson(dark_rate * 1e-9 * (stop - start) * len(pmts), n_samples)

    transported = run(
        lambda block, stream: transport_gammas(
            stream, electrons[block], background[block], delays[block], vertices[block], radius
        )
    )
    deposits = [rows for rows, _ in transported]
    counts = np.concatenate([counts for _, counts in transported])
    if np.any(counts < 0):
        raise ValueError(
            "The gamma rays of 10C do not stay within the sphere of phototubes of "
            f"make_scintillator_events, whose radius is {radius:g} cm. Give larger 'positions'."
        )

    n_rows = n_light + n_dark
    if format == "padded":
        starts = np.arange(n_samples + 1) * max(n_rows.max(), 1)
    else:
        starts = np.r_[0, np.cumsum(n_rows)]
    hits = np.empty((starts[-1], 3), dtype=np.float32)
    n_hits = np.empty(n_samples, dtype=np.int64)
    nearest = nearest_pmt(pmts / np.linalg.norm(pmts, axis=1, keepdims=True))
    light = Light(
        acceptance,
        radius,
        float(light_speed),
        decay_edges,
        decay_times,
        float(rise_time),
        float(transit_time_spread),
        float(charge_resolution),
        float(start),
        float(stop),
        bool(first_hit_only),
    )

    def detect(block, stream):
        edges = starts[block.start : block.stop + 1]
        n_hits[block] = detect_light(
            stream,
            hits,
            edges,
            deposits[block.start // _BLOCK],
            counts[block],
            t0[block],
            n_light[block],
            n_dark[block],
            light,
            nearest,
        )

    run(detect)
    data = _shape_hits(hits, starts, n_hits, format)
    if return_X_y:
        return data, target

    deposits = np.concatenate(deposits)
    first = np.r_[0, np.cumsum(counts)[:-1]]
    centroid = np.add.reduceat(deposits[:, :3] * deposits[:, 3:4], first) / energies[:, None]
    truth = Bunch(
        vertex=vertices,
        centroid=centroid,
        t0=t0,
        energy=energies,
        electron_energy=electrons,
        n_photoelectrons=n_light,
        n_dark=n_dark,
        n_hits=n_hits,
        ortho_positronium=ortho,
        annihilation_delay=np.where(background, delays, np.nan),
        n_scatters=counts - 1,
        **_pad_deposits(deposits, counts),
        origin_names=np.array(ORIGINS),
    )
    return Bunch(
        data=data,
        target=target,
        target_names=np.array(CLASSES),
        positions=pmts,
        vertex=centroid + smearing / np.sqrt(energies)[:, None],
        truth=truth,
        DESCR=_DESCR,
    )


def _shape_hits(hits, starts, n_hits, format):
    """Return the hits, padded or ragged, without rows that nobody needs."""
    n_samples = len(n_hits)
    if format == "padded":
        hits = hits.reshape(n_samples, -1, 3)
        longest = max(n_hits.max(), 1)
        return hits if longest == hits.shape[1] else hits[:, :longest].copy()
    offsets = np.r_[0, np.cumsum(n_hits)]
    if offsets[-1] < len(hits):
        row = np.arange(offsets[-1])
        event = np.repeat(np.arange(n_samples), n_hits)
        hits = hits[starts[event] + row - offsets[event]]
    return split_events(hits, n_hits)


def _pad_deposits(deposits, counts):
    """Truth of the deposits as arrays with the axes events and deposits."""
    exists = np.arange(counts.max()) < counts[:, None]
    padded = {
        "deposit_position": np.zeros((*exists.shape, 3), np.float32),
        "deposit_energy": np.zeros(exists.shape, np.float32),
        "deposit_time": np.zeros(exists.shape, np.float32),
        "deposit_origin": np.full(exists.shape, -1, np.int8),
    }
    columns = (deposits[:, :3], deposits[:, 3], deposits[:, 4], deposits[:, 5])
    for values, column in zip(padded.values(), columns, strict=True):
        values[exists] = column
    return padded
