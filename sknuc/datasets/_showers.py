r"""Simulated electromagnetic showers in a calorimeter.

A shower is the sum of many short tracks, of which a sampling calorimeter sees some. Here their
number is Poisson and the energy that each stands for exponential with the mean :math:`a^2 / 2`
(in GeV), so that the sum has the mean :math:`E` and the variance :math:`a^2 E`: a resolution of
:math:`a / \sqrt{E}`, in the whole and in every voxel. Tracks lie along the axis and around it as
the profiles of `_shower_profile` say. What an incidence under an angle does to layers, and what
leaks out, follows from where the tracks are.
"""

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.parallel import Parallel, delayed

from sknuc.datasets._draws import as_floats, check_range, spawn_streams
from sknuc.datasets._shower_profile import LEAST_Y, check_material, draw_showers
from sknuc.datasets._voxels import PHOTON_VOXELS, CylindricalVoxels, GridVoxels

__all__ = ["make_calorimeter_showers"]

FUNCTION = "make_calorimeter_showers"

# Showers per random stream, and tracks in memory at a time: the number of tracks grows with energy.
_BLOCK = 64
_TRACKS = 2**16

# Electrons radiate from the first layer of matter on; a photon converts after this mean free path,
# in radiation lengths.
_CONVERSION = 9 / 7

_DESCR = """\
Simulated electromagnetic showers in a calorimeter
--------------------------------------------------
Longitudinal Gamma profiles with fluctuating and correlated parameters, core and tail across
(Grindhammer and Peters), Poisson tracks with the sampling resolution, incidence under an angle.
Showers are in MeV; 'target' is what they depend on: the energy of the particle in GeV and its angle
to the normal of the layers in degrees, towards +x. 'voxels' tells where the voxels are.
"""


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "energy": [tuple, Real, "array-like"],
        "energy_distribution": [StrOptions({"uniform", "log_uniform"})],
        "angle": [tuple, Real, "array-like"],
        "particle": [StrOptions({"photon", "electron"})],
        "voxels": [StrOptions({"photon", "grid"}), CylindricalVoxels, GridVoxels],
        "material": [str, tuple],
        "sampling_term": [Interval(Real, 0, 1, closed="neither")],
        "constant_term": [Interval(Real, 0, 1, closed="left")],
        "fluctuate_profile": ["boolean"],
        "threshold": [Interval(Real, 0, None, closed="left")],
        "return_X_y": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_calorimeter_showers(
    n_samples=1000,
    *,
    energy=(1.0, 100.0),
    energy_distribution="log_uniform",
    angle=0.0,
    particle="photon",
    voxels="photon",
    material="lead_liquid_argon",
    sampling_term=0.1,
    constant_term=0.007,
    fluctuate_profile=True,
    threshold=1.0,
    return_X_y=False,
    n_jobs=None,
    random_state=None,
):
    r"""Simulate showers of photons or electrons in the voxels of a calorimeter.

    A particle of energy E comes in under the angle :math:`\theta`, converts if it is a photon,
    after a path with the mean of 9/7 radiation lengths, and showers. Of its tracks

    .. math::

        N &\sim \mathrm{Poisson}(2 E / a^2), \qquad
            e_i \sim c\,\mathrm{Exponential}(a^2 / 2), \\
        \beta t_i &\sim \Gamma(\alpha), \qquad
        r_i = R \sqrt{u_i / (1 - u_i)}, \quad
            R = R_C(\tau_i)\ \text{with probability}\ p(\tau_i),\ \text{else}\ R_T(\tau_i),

    where :math:`\alpha, \beta` fluctuate between showers, c is log-normal of mean 1 and width
    `constant_term`, u is uniform, and the azimuth around the axis of the shower too.

    Parameters given as a range ``(low, high)`` are drawn for each event; a number is the same for
    all events.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of showers.
    energy : (float, float), float or array-like of shape (n_samples,), default=(1.0, 100.0)
        Of the particles, in GeV, at least 30 critical energies; a tuple is a range, any other
        array-like gives the energy of each event. The time that a shower takes grows with it.
    energy_distribution : {"uniform", "log_uniform"}, default="log_uniform"
        How energies are drawn from a range.
    angle : (float, float), float or array-like of shape (n_samples,), default=0.0
        Between the particle and the normal of the layers, in degrees, from 0 to 75, towards +x.
        Uniform in a range.
    particle : {"photon", "electron"}, default="photon"
        Photons convert on the way; electrons shower from the face on.
    voxels : {"photon", "grid"}, CylindricalVoxels or GridVoxels, default="photon"
        "photon": the 368 voxels of photons in dataset 1 of the CaloChallenge; "grid": 10 layers of
        16 x 16 cells of 10 mm. Or voxels of your own, with their depths.
    material : str or (float, float, float), default="lead_liquid_argon"
        "lead_liquid_argon", "lead_tungstate", "caesium_iodide", "lead"; or effective atomic number,
        radiation length in mm and critical energy in MeV.
    sampling_term : float, default=0.1
        a, the resolution at 1 GeV, in sqrt(GeV).
    constant_term : float, default=0.007
        Width of c, by which the response differs from shower to shower.
    fluctuate_profile : bool, default=True
        False gives all showers of one energy the same profile, the median one.
    threshold : float, default=1.0
        Voxels below this, in MeV, read exactly zero.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    n_jobs : int, default=None
        Number of threads; None for one, -1 for all cores. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of the events.

    Returns
    -------
    showers : :class:`~sklearn.utils.Bunch`
        data : float32 ndarray of shape (n_samples, n_voxels) or (n_samples, n_layers, n_y, n_x)
            Energy in each voxel, in MeV; N-D for a grid.
        target : float32 ndarray of shape (n_samples, 2)
            Energy of the particle in GeV, and its angle in degrees.
        target_names : list of str
            "energy", "angle".
        feature_names : list of str
            "layer_0_voxel_0" and so on.
        units : dict
            Of data and targets.
        voxels : CylindricalVoxels or GridVoxels
            Where the voxels are.
        truth : Bunch
            ``start`` (path to the conversion), ``maximum`` (path from there to the maximum of the
            profile), both in radiation lengths, ``alpha``, ``deposited`` (energy of all tracks),
            ``leakage`` (of those outside of all voxels) and ``suppressed`` (of voxels below the
            threshold), in MeV, each of shape (n_samples,).
        moliere_radius, radiation_length : float
            Of the material, in mm.
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range, or the depths of voxels are unknown.

    Notes
    -----
    The parametrisation was fitted to homogeneous media at 1 to 100 GeV; a sampling calorimeter is
    the medium with its mean atomic number, radiation length and critical energy.

    References
    ----------
    .. [1] E. Longo and I. Sestili, "Monte Carlo calculation of photon-initiated electromagnetic
       showers in lead glass", Nucl. Instrum. Meth. 128 (1975) 283.
    .. [2] G. Grindhammer and S. Peters, "The parameterized simulation of electromagnetic showers in
       homogeneous and sampling calorimeters", arXiv:hep-ex/0001020 (2000).
    .. [3] C. Krause et al., "CaloChallenge 2022: a community challenge for fast calorimeter
       simulation", arXiv:2410.21611 (2024).

    Examples
    --------
    >>> from sknuc.datasets import make_calorimeter_showers
    >>> showers = make_calorimeter_showers(5, energy=50.0, random_state=0)
    >>> showers.data.shape
    (5, 368)
    >>> (showers.data.sum(axis=1) / 1e3).round()  # GeV
    array([50., 50., 50., 50., 52.], dtype=float32)
    """
    if isinstance(voxels, str):
        voxels = PHOTON_VOXELS if voxels == "photon" else GridVoxels()
    if voxels.depth_edges is None:
        raise ValueError(
            f"The 'voxels' parameter of {FUNCTION} must say where layers begin and end. Give the "
            "CylindricalVoxels their 'depth_edges', in radiation lengths."
        )
    z, x0, critical, moliere = check_material(FUNCTION, material)
    least = LEAST_Y * critical / 1e3
    rng, streams = spawn_streams(random_state, n_samples, _BLOCK)
    limits = Interval(Real, round(least, 6), 1e6, closed="both")
    target = np.empty((n_samples, 2), dtype=np.float32)
    log = energy_distribution == "log_uniform"
    target[:, 0] = _draw(rng, n_samples, "energy", energy, limits, log=log)
    target[:, 1] = _draw(rng, n_samples, "angle", angle, Interval(Real, 0, 75, closed="both"))
    # The showers are those of the conditions as they are given, after rounding to 32 bits.
    energies, theta = target[:, 0].astype(np.float64), np.deg2rad(target[:, 1].astype(np.float64))
    shapes = draw_showers(rng, energies, critical, z, fluctuate=fluctuate_profile)
    start = np.zeros(n_samples)
    if particle == "photon":
        start = _CONVERSION * rng.standard_exponential(n_samples)
    per_track = sampling_term**2 / 2  # GeV
    n_tracks = rng.poisson(energies / per_track)
    response = rng.standard_normal(n_samples)
    response = 1e3 * per_track * np.exp(constant_term * response - constant_term**2 / 2)

    n_voxels = voxels.n_voxels
    data = np.zeros((n_samples, n_voxels), dtype=np.float32)
    deposited, leakage, suppressed = np.zeros((3, n_samples))
    # For a track 32 bits are enough, in half the time.
    columns = np.stack([start, np.cos(theta), np.sin(theta), response]).astype(np.float32)
    single = shapes.astype(np.float32)

    def simulate(first, stream):
        counts = n_tracks[first : first + _BLOCK]
        ends = np.cumsum(counts)
        # The last bin of each shower is for what no voxel sees.
        total = np.zeros((len(counts), n_voxels + 1))
        for low in range(0, int(ends[-1]), _TRACKS):
            high = min(low + _TRACKS, int(ends[-1]))
            begin, end = np.searchsorted(ends, [low, high - 1], side="right")
            inside = np.diff(np.clip(ends[begin : end + 1], low, high), prepend=low)
            event = np.repeat(np.arange(begin, end + 1), inside)
            voxel, energy = _draw_tracks(
                stream, single[first + event], columns[:, first + event], voxels, x0, moliere
            )
            flat = (event - begin) * (n_voxels + 1) + np.where(voxel < 0, n_voxels, voxel)
            size = (end + 1 - begin) * (n_voxels + 1)
            sums = np.bincount(flat, weights=energy, minlength=size)
            total[begin : end + 1] += sums.reshape(-1, n_voxels + 1)
        rows = slice(first, first + len(counts))
        deposited[rows], leakage[rows] = total.sum(axis=1), total[:, -1]
        seen = total[:, :-1]
        below = seen < threshold
        suppressed[rows] = np.where(below, seen, 0).sum(axis=1)
        data[rows] = np.where(below, 0, seen)

    blocks = range(0, n_samples, _BLOCK)
    Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(simulate)(first, stream) for first, stream in zip(blocks, streams, strict=True)
    )
    data = data.reshape(n_samples, *voxels.shape)
    if return_X_y:
        return data, target
    within = np.arange(n_voxels) - voxels.layer_starts[voxels.layer]
    return Bunch(
        data=data,
        target=target,
        target_names=["energy", "angle"],
        feature_names=[
            f"layer_{layer}_voxel_{i}" for layer, i in zip(voxels.layer, within, strict=True)
        ],
        units={"data": "MeV", "energy": "GeV", "angle": "deg"},
        voxels=voxels,
        truth=Bunch(
            start=start,
            maximum=shapes.maximum,
            alpha=shapes.alpha,
            deposited=deposited,
            leakage=leakage,
            suppressed=suppressed,
        ),
        moliere_radius=moliere,
        radiation_length=x0,
        DESCR=_DESCR,
    )


def _draw(rng, n_samples, name, value, interval, *, log=False):
    """Draw a parameter that is a number, a range, or one number for each event."""
    if not isinstance(value, tuple | Real):
        values = as_floats(FUNCTION, name, value)
        given = values.shape == (n_samples,) and all(map(interval.is_satisfied_by, values.tolist()))
        if not given:
            raise ValueError(
                f"The {name!r} parameter of {FUNCTION} must, as an array-like that is no tuple "
                f"(low, high), hold one number for each of the {n_samples} events, each "
                f"{interval}. Got {value!r:.200} instead."
            )
        return values
    low, high = check_range(FUNCTION, name, value, interval, or_number=True)
    if log:
        return np.exp(rng.uniform(math.log(low), math.log(high), n_samples)).clip(low, high)
    return rng.uniform(low, high, n_samples)


def _draw_tracks(rng, shapes, columns, voxels, x0, moliere):
    """Voxels and energies of tracks; all parameters have a value for each of them."""
    start, cos, sin, response = columns
    n = len(start)
    depth = rng.standard_gamma(shapes.alpha, dtype=np.float32)
    tau = depth * shapes.tau_scale
    core = rng.random(n, dtype=np.float32) < shapes.core_share(tau)
    radius = np.where(core, shapes.core_radius(tau), shapes.tail_radius(tau))
    u = rng.random(n, dtype=np.float32)
    radius *= np.float32(moliere) * np.sqrt(u / (1 - u))
    azimuth = np.float32(2 * np.pi) * rng.random(n, dtype=np.float32)
    across, y = radius * np.cos(azimuth), radius * np.sin(azimuth)
    along = np.float32(x0) * (start + depth / shapes.beta)
    x = along * sin + across * cos
    z = (along * cos - across * sin) / np.float32(x0)
    return voxels.find(x, y, z), response * rng.standard_exponential(n, dtype=np.float32)
