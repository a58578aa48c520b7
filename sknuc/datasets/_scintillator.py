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

import math
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.parallel import Parallel, delayed

from sknuc.datasets._scintillator_decays import (
    GAMMA_ENERGY,
    ORIGINS,
    Q_VALUE,
    draw_positron_energies,
    transport_gammas,
)
from sknuc.datasets._scintillator_light import Light, detect_light, nearest_pmt
from sknuc.geometry import fibonacci_sphere

__all__ = ["make_scintillator_events"]

CLASSES = ("10C", "0vbb")

# Events per random stream.
_BLOCK = 64
# Radii of phototubes may differ by this share of their mean.
_RADIUS_TOLERANCE = 1e-3

_DESCR = """\
Simulated events of a spherical liquid scintillator detector
------------------------------------------------------------
Hits of phototubes: index of the phototube, time in ns, charge in photo-electrons. Two classes:
neutrinoless double beta decay of 136Xe (all energy at one point) and 10C (a positron, a gamma ray
of 718 keV and two of 511 keV that scatter off electrons, late after ortho-positronium). Photons
fly straight to the phototube that is nearest where they meet the sphere: no scattering, no
re-emission, no electronics.
"""

_POSITIVE = Interval(Real, 0, None, closed="neither")
_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
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
    """Simulate events of a spherical scintillator detector, with their truth."""
    pmts, radius = _check_positions(positions)
    if fiducial_radius >= radius:
        raise ValueError(
            "The 'fiducial_radius' parameter of make_scintillator_events must be below the radius "
            f"of the phototubes, {radius:g} cm. Got {fiducial_radius} instead."
        )
    energy_range = _check_range("energy_range", energy_range)
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
    start, stop = (-np.inf, np.inf) if window is None else _check_range("window", window)
    decay_times, decay_edges = _check_decay(decay_times, decay_fractions)

    random_state = check_random_state(random_state)
    seed = np.random.SeedSequence(random_state.randint(2**32, size=4, dtype=np.uint32).tolist())
    n_blocks = math.ceil(n_samples / _BLOCK)
    truth_seed, *block_seeds = seed.spawn(1 + n_blocks)
    streams = [np.random.Generator(np.random.SFC64(block_seed)) for block_seed in block_seeds]
    blocks = [slice(i, i + _BLOCK) for i in range(0, n_samples, _BLOCK)]
    rng = np.random.Generator(np.random.PCG64DXSM(truth_seed))

    def run(function):
        return Parallel(n_jobs=n_jobs, require="sharedmem")(
            delayed(function)(block, stream) for block, stream in zip(blocks, streams, strict=True)
        )

    target = _draw_classes(rng, n_samples, weights)
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
    data, offsets = _shape_hits(hits, starts, n_hits, format)
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
        offsets=offsets,
        DESCR=_DESCR,
    )


def _check_positions(positions):
    """Return the positions of phototubes and the radius of their sphere."""
    if positions is None:
        return 850.0 * fibonacci_sphere(1879), 850.0
    pmts = np.array(positions, dtype=np.float64)
    if pmts.ndim != 2 or pmts.shape[1] != 3 or not len(pmts):
        raise ValueError(
            "The 'positions' parameter of make_scintillator_events must have the shape (n_pmt, 3). "
            f"Got {pmts.shape} instead."
        )
    bad = np.flatnonzero(~np.isfinite(pmts).all(axis=1))
    if len(bad):
        raise ValueError(
            "The 'positions' parameter of make_scintillator_events must be finite. Got "
            f"{pmts[bad[0]]} for phototube {bad[0]}, and {len(bad)} such phototubes in all."
        )
    radii = np.linalg.norm(pmts, axis=1)
    radius = radii.mean()
    if radius == 0 or np.ptp(radii) > _RADIUS_TOLERANCE * radius:
        raise ValueError(
            "The 'positions' parameter of make_scintillator_events must lie on a sphere around the "
            f"origin, to {_RADIUS_TOLERANCE:.1%} of its radius. Got radii from {radii.min():g} to "
            f"{radii.max():g} cm."
        )
    return pmts, float(radius)


def _check_range(name, value):
    """Return a range of finite numbers."""
    if (
        len(value) != 2
        or not all(isinstance(v, Real) and math.isfinite(v) for v in value)
        or not value[0] < value[1]
    ):
        raise ValueError(
            f"The {name!r} parameter of make_scintillator_events must be a range (low, high) of "
            f"finite numbers with low < high. Got {value!r} instead."
        )
    return float(value[0]), float(value[1])


def _check_decay(times, fractions):
    """Return the time constants and the edges of the cumulative fractions."""
    times, fractions = (np.asarray(a, dtype=np.float64) for a in (times, fractions))
    if times.ndim != 1 or not len(times) or not np.all(np.isfinite(times) & (times > 0)):
        raise ValueError(
            "The 'decay_times' parameter of make_scintillator_events must be finite numbers > 0. "
            f"Got {times.tolist()!r} instead."
        )
    if (
        fractions.shape != times.shape
        or not np.all(fractions >= 0)
        or not math.isclose(fractions.sum(), 1, abs_tol=1e-6)
    ):
        raise ValueError(
            "The 'decay_fractions' parameter of make_scintillator_events must be one number >= 0 "
            f"for each of the {len(times)} decay_times, with the sum 1. Got "
            f"{fractions.tolist()!r} instead."
        )
    edges = np.cumsum(fractions)
    edges[-1] = np.inf
    return times, edges


def _draw_classes(rng, n_samples, weights):
    """Indices of the classes, in the proportions `weights` and in random order."""
    weights = np.asarray(np.ones(len(CLASSES)) if weights is None else weights, dtype=np.float64)
    if (
        weights.shape != (len(CLASSES),)
        or not np.all(np.isfinite(weights) & (weights >= 0))
        or weights.sum() == 0
    ):
        raise ValueError(
            "The 'weights' parameter of make_scintillator_events must be two finite numbers >= 0 "
            f"that are not both zero, for {', '.join(CLASSES)}. Got {weights.tolist()!r} instead."
        )
    edges = np.rint(n_samples * np.cumsum(weights) / weights.sum()).astype(int)
    return rng.permutation(np.repeat(np.arange(len(CLASSES)), np.diff(edges, prepend=0)))


def _shape_hits(hits, starts, n_hits, format):
    """Return the hits as an array or as a list of views, without rows that nobody needs."""
    n_samples = len(n_hits)
    if format == "padded":
        hits = hits.reshape(n_samples, -1, 3)
        longest = max(n_hits.max(), 1)
        return (hits if longest == hits.shape[1] else hits[:, :longest].copy()), None
    offsets = np.r_[0, np.cumsum(n_hits)]
    if offsets[-1] < len(hits):
        row = np.arange(offsets[-1])
        event = np.repeat(np.arange(n_samples), n_hits)
        hits = hits[starts[event] + row - offsets[event]]
    return np.split(hits, offsets[1:-1]), offsets


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
