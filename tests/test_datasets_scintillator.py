"""Simulated scintillator events against the formulas of their physics."""

import numpy as np
import pytest
from scipy.integrate import cumulative_simpson, quad
from scipy.spatial import cKDTree
from scipy.stats import binom, chi2, chisquare, expon, exponnorm, ks_2samp, kstest, norm, truncnorm
from scipy.stats import poisson as poisson_law

from sknuc.datasets import make_scintillator_events
from sknuc.datasets._scintillator_decays import (
    ELECTRON_DENSITY,
    ELECTRON_MASS,
    klein_nishina_cross_section,
    positron_spectrum,
)
from sknuc.datasets._scintillator_light import (
    Light,
    _fly,
    detect_light,
    find_nearest,
    nearest_pmt,
)
from sknuc.geometry import cell_areas, fibonacci_sphere

# A right simulator fails a test at this level once in 100,000 seeds.
LEVEL = 1e-5
Y = 3200 * 0.34 * 0.23
Q = 2.458
M = ELECTRON_MASS
GAMMAS = 0.718 + 2 * M
C = 29.9792458
R = 850.0
SIGNAL, BACKGROUND = (0, 1), (1, 0)
FEW = {"light_yield": 1e-3}


def random_sphere(n, seed=0):
    points = np.random.default_rng(seed).standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def hits_of(events):
    """All hits of padded events in one table."""
    return events.data[events.data[..., 2] > 0]


@pytest.fixture(scope="module")
def carbon():
    """Many 10C decays in nearly no light, over the whole spectrum."""
    return make_scintillator_events(
        20_000, weights=BACKGROUND, energy_range=(0.0, 10.0), match_n_hits=False,
        random_state=0, **FEW,
    )  # fmt: skip


def first_deposit(truth, origin):
    """Position from the vertex, time and energy of the first scatter of a gamma ray."""
    i = np.argmax(truth.deposit_origin == origin, axis=1)
    each = np.arange(len(i))
    return (
        truth.deposit_position[each, i] - truth.vertex,
        truth.deposit_time[each, i],
        truth.deposit_energy[each, i],
    )


# Light


@pytest.mark.parametrize(("photocoverage", "efficiency"), [(0.34, 0.23), (0.17, 0.23), (0.3, 0.1)])
def test_photoelectrons_are_poisson_with_the_mean_yield(photocoverage, efficiency):
    n = 2000
    events = make_scintillator_events(
        n, weights=SIGNAL, photocoverage=photocoverage, quantum_efficiency=efficiency,
        random_state=1,
    )  # fmt: skip
    count = (events.data[..., 2] > 0).sum(axis=1)
    np.testing.assert_array_equal(count, events.truth.n_hits)
    mean = 3200 * photocoverage * efficiency * Q
    assert abs(count.sum() - n * mean) < norm.isf(LEVEL / 2) * np.sqrt(n * mean)
    dispersion = np.sum((count - count.mean()) ** 2) / count.mean()
    assert LEVEL / 2 < chi2(n - 1).sf(dispersion) < 1 - LEVEL / 2


def test_photoelectrons_of_the_background_follow_its_energy():
    events = make_scintillator_events(
        3000, weights=BACKGROUND, match_n_hits=False, energy_range=(1.8, 3.5), random_state=2
    )
    mean = Y * events.truth.energy
    pulls = (events.truth.n_photoelectrons - mean) / np.sqrt(mean)
    assert LEVEL / 2 < chi2(3000).sf(np.sum(pulls**2)) < 1 - LEVEL / 2
    assert abs(pulls.sum()) < norm.isf(LEVEL / 2) * np.sqrt(3000)


def test_times_are_exponentials_smeared_by_the_transit_time_spread():
    times, fractions, spread = (4.0, 20.0), (0.6, 0.4), 2.0
    events = make_scintillator_events(
        100, weights=SIGNAL, fiducial_radius=1e-6, decay_times=times, decay_fractions=fractions,
        transit_time_spread=spread, random_state=3,
    )  # fmt: skip

    def cdf(t):
        laws = (exponnorm(tau / spread, scale=spread).cdf(t) for tau in times)
        return sum(f * law for f, law in zip(fractions, laws, strict=True))

    assert kstest(hits_of(events)[:, 1] - R / 16.95, cdf).pvalue > LEVEL


def test_the_default_scintillation_has_three_components():
    events = make_scintillator_events(
        100, weights=SIGNAL, fiducial_radius=1e-6, transit_time_spread=0.0, random_state=4
    )
    components = zip((3.6, 16.0, 86.0), (0.71, 0.22, 0.07), strict=True)
    laws = [(f, expon(scale=tau)) for tau, f in components]
    delays = hits_of(events)[:, 1] - R / 16.95
    assert kstest(delays, lambda t: sum(f * law.cdf(t) for f, law in laws)).pvalue > LEVEL


def test_rise_time_is_a_second_exponential():
    rise, decay = 2.0, 5.0
    events = make_scintillator_events(
        100, weights=SIGNAL, fiducial_radius=1e-6, transit_time_spread=0.0, rise_time=rise,
        decay_times=[decay], decay_fractions=[1.0], random_state=5,
    )  # fmt: skip

    def cdf(t):
        t = np.maximum(t, 0)
        return 1 - (decay * np.exp(-t / decay) - rise * np.exp(-t / rise)) / (decay - rise)

    assert kstest(hits_of(events)[:, 1] - R / 16.95, cdf).pvalue > LEVEL


def test_photons_fly_straight_to_the_sphere():
    # From a point at distance d on the axis, with cos(alpha) uniform: P(cos gamma <= c) is
    # (1 + cos alpha)/2 of the direction to the ring at c.
    d, n = 300.0, 50_000
    light = Light(
        np.ones(1), R, 16.95, np.array([np.inf]), np.ones(1), 0.0, 0.0, 0.0, -np.inf, np.inf, False
    )  # fmt: skip
    event = np.array([[0.0, 0.0, d, 1.0, 7.0, 0.0]])
    points, times = np.empty((3, n)), np.empty(n)
    rng = np.random.Generator(np.random.SFC64(6))
    _fly(rng, event, np.zeros(n, np.int64), points, times, light)
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), R, rtol=1e-12)
    path = np.linalg.norm(points - [[0.0], [0.0], [d]], axis=0)
    np.testing.assert_allclose(times, 7.0 + path / 16.95, rtol=1e-12)

    def cdf(c):
        return 0.5 * (1 + (R * c - d) / np.sqrt(R**2 + d**2 - 2 * R * d * c))

    assert kstest(points[2] / R, cdf).pvalue > LEVEL
    azimuth = np.arctan2(points[1], points[0])
    assert kstest(azimuth, "uniform", (-np.pi, 2 * np.pi)).pvalue > LEVEL


@pytest.mark.parametrize(
    "directions",
    [
        fibonacci_sphere(1879),
        random_sphere(500),
        random_sphere(1),
        np.concatenate([np.eye(3), -np.eye(3)]),
        random_sphere(200) * [0.05, 0.05, 1] + [0, 0, 1e-3],
        random_sphere(300) * [0.02, 0.02, 0] + [1, 1, 1],
    ],
    ids=["fibonacci", "random", "one", "axes", "two clusters", "flat cluster"],
)
def test_the_phototube_is_the_nearest(directions):
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    # Points at random, at phototubes and exactly on the folds of the octahedron.
    folds = np.random.default_rng(8).integers(-3, 4, (2000, 3))
    folds = folds[folds.any(axis=1)] * 1.0
    points = np.concatenate([random_sphere(100_000, 7), directions, folds])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    found, cells = np.empty((2, len(points)), np.int64)
    find_nearest(np.ascontiguousarray(points.T), cells, nearest_pmt(directions), found)
    shortest = cKDTree(directions).query(points)[0]
    distance = np.linalg.norm(points - directions[found], axis=1)
    np.testing.assert_allclose(distance, shortest, rtol=0, atol=1e-9)


UNEVEN = fibonacci_sphere(600)[(fibonacci_sphere(600)[:, 0] > 0) | (np.arange(600) % 3 == 0)]


@pytest.mark.parametrize("directions", [fibonacci_sphere(500), random_sphere(120), UNEVEN])
def test_central_light_falls_evenly_on_phototubes(directions):
    events = make_scintillator_events(
        200, weights=SIGNAL, fiducial_radius=1e-6, positions=600 * directions, random_state=9
    )
    seen = np.bincount(hits_of(events)[:, 0].astype(int), minlength=len(directions))
    assert chisquare(seen).pvalue > LEVEL


def test_uneven_phototubes_see_as_many_photons_as_others():
    truth = make_scintillator_events(2000, positions=R * UNEVEN, random_state=25).truth
    np.testing.assert_array_equal(truth.n_hits, truth.n_photoelectrons)
    mean = 2000 * Y * Q
    assert abs(truth.n_hits.sum() - mean) < norm.isf(LEVEL / 2) * np.sqrt(mean)


@pytest.mark.parametrize("vertex", [(0.0, 0.0, 0.0), (300.0, 0.0, 0.0), (-250.0, 150.0, -200.0)])
def test_light_of_a_point_source_is_its_flux_at_phototubes_of_one_size(vertex):
    # Per area of the sphere: (1/4 pi) cos(incidence) / distance^2, averaged over the cell.
    n = 400_000
    u = random_sphere(2_000_000, 26)
    along = u @ vertex
    source = np.asarray(vertex)
    where = source + u * (np.sqrt(R**2 - source @ source + along**2) - along)[:, None]
    cells = np.bincount(cKDTree(R * UNEVEN).query(where)[1], minlength=len(UNEVEN))
    areas = cell_areas(UNEVEN)
    expected = cells / areas / np.sum(cells / areas)
    light = Light(
        areas.min() / areas, R, 16.95, np.array([np.inf]), np.full(1, 1e-9), 0.0, 0.0, 0.0,
        -np.inf, np.inf, False,
    )  # fmt: skip
    hits = np.empty((n, 3), np.float32)
    detect_light(
        np.random.Generator(np.random.SFC64(27)), hits, np.array([0, n]),
        np.array([[*vertex, 1.0, 7.0, 0.0]]), np.ones(1, np.int64), np.zeros(1), np.array([n]),
        np.zeros(1, np.int64), light, nearest_pmt(UNEVEN),
    )  # fmt: skip
    pmt = hits[:, 0].astype(int)
    seen = np.bincount(pmt, minlength=len(UNEVEN))
    # The expectation fluctuates too, as it is counted.
    variance = n * expected * (1 - expected) + (n * expected) ** 2 / cells
    assert chi2(len(UNEVEN) - 1).sf(np.sum((seen - n * expected) ** 2 / variance)) > LEVEL
    # The time is that of the flight which was taken, to the size of a cell.
    flight = np.linalg.norm(R * UNEVEN[pmt] - vertex, axis=1) / 16.95
    assert np.abs(hits[:, 1] - 7.0 - flight).max() < R * np.sqrt(areas.max()) / 16.95


def test_charges_are_truncated_gaussians():
    events = make_scintillator_events(50, charge_resolution=0.6, random_state=10)
    law = truncnorm(-1 / 0.6, np.inf, loc=1, scale=0.6)
    assert kstest(hits_of(events)[:, 2], law.cdf).pvalue > LEVEL
    assert np.all(hits_of(make_scintillator_events(5, random_state=10))[:, 2] == 1)


# Gamma rays


def klein_nishina(energy, recoil):
    """Differential cross-section in the electron's recoil energy, not normalised."""
    share = 1 - recoil / energy
    c = 1 - M / energy * (1 / share - 1)
    return share + 1 / share - (1 - c**2)


@pytest.mark.parametrize("energy", [1e-2, 0.02, 0.1, 0.511, 0.718, 3.0])
def test_cross_section_is_the_integral_of_the_differential_one(energy):
    def differential(c):
        share = 1 / (1 + energy / M * (1 - c))
        return np.pi * 2.8179403e-13**2 * share**2 * (share + 1 / share - 1 + c**2)

    integral = quad(differential, -1, 1, epsabs=0, epsrel=1e-11)[0]
    assert klein_nishina_cross_section(energy) == pytest.approx(integral, rel=1e-8)


@pytest.mark.parametrize(("origin", "energy"), [(1, M), (2, M), (3, 0.718)])
def test_first_recoil_follows_klein_nishina(carbon, origin, energy):
    edge = energy * (1 - 1 / (1 + 2 * energy / M))
    grid = np.linspace(0, edge, 2001)
    cdf = cumulative_simpson(klein_nishina(energy, grid), x=grid, initial=0)
    recoil = first_deposit(carbon.truth, origin)[2]
    assert recoil.max() <= edge * (1 + 1e-6)
    assert kstest(recoil, lambda t: np.interp(t, grid, cdf / cdf[-1])).pvalue > LEVEL


@pytest.mark.parametrize(("origin", "energy"), [(1, M), (3, 0.718)])
def test_mean_free_path(carbon, origin, energy):
    step = first_deposit(carbon.truth, origin)[0]
    length = np.linalg.norm(step, axis=1)
    mean_free_path = 1 / (ELECTRON_DENSITY * klein_nishina_cross_section(energy))
    assert kstest(length, expon(scale=mean_free_path).cdf).pvalue > LEVEL
    assert kstest(step[:, 2] / length, "uniform", (-1, 2)).pvalue > LEVEL


def test_annihilation_is_back_to_back(carbon):
    there, back = (first_deposit(carbon.truth, origin)[0] for origin in (1, 2))
    lengths = np.linalg.norm(there, axis=1) * np.linalg.norm(back, axis=1)
    cosine = np.sum(there * back, axis=1)[lengths > 1] / lengths[lengths > 1]
    np.testing.assert_allclose(cosine, -1, atol=1e-4)


@pytest.mark.parametrize(("origin", "energy"), [(1, M), (3, 0.718)])
def test_scattering_angles_conserve_momentum(carbon, origin, energy):
    # cos(theta) = 1 - m (1/E' - 1/E) at the first scatter, and a uniform azimuth around the flight.
    truth = carbon.truth
    i = np.argmax(truth.deposit_origin == origin, axis=1)
    each = np.arange(len(i))
    there, _, recoil = first_deposit(truth, origin)
    onward = truth.deposit_position[each, i + 1] - truth.deposit_position[each, i]
    lengths = np.linalg.norm(there, axis=1), np.linalg.norm(onward, axis=1)
    long = np.minimum(*lengths) > 1
    there = (there / lengths[0][:, None])[long]
    onward = (onward / lengths[1][:, None])[long]
    recoil = recoil[long].astype(np.float64)
    expected = 1 - M * (1 / (energy - recoil) - 1 / energy)
    np.testing.assert_allclose(np.sum(there * onward, axis=1), expected, atol=5e-4)
    across = np.cross(there, [0.0, 0.0, 1.0])
    up = np.cross(across, there)
    azimuth = np.arctan2(np.sum(onward * across, axis=1), np.sum(onward * up, axis=1))
    assert kstest(azimuth, "uniform", (-np.pi, 2 * np.pi)).pvalue > LEVEL


def test_energy_is_conserved(carbon):
    truth = carbon.truth
    for origin, energy in ((1, M), (2, M), (3, 0.718)):
        deposited = np.where(truth.deposit_origin == origin, truth.deposit_energy, 0).sum(axis=1)
        np.testing.assert_allclose(deposited, energy, rtol=1e-5)
    np.testing.assert_allclose(truth.deposit_energy[:, 0], truth.electron_energy, rtol=1e-6)
    np.testing.assert_allclose(truth.deposit_energy.sum(axis=1), truth.energy, rtol=1e-5)
    np.testing.assert_allclose(truth.energy, truth.electron_energy + GAMMAS, rtol=1e-12)


def test_gamma_rays_fly_at_the_speed_of_light(carbon):
    truth = carbon.truth
    for origin, start in ((1, truth.annihilation_delay), (2, truth.annihilation_delay), (3, 0.0)):
        path, time, _ = first_deposit(truth, origin)
        np.testing.assert_allclose(time, start + np.linalg.norm(path, axis=1) / C, atol=1e-4)
    flight = (truth.deposit_origin[:, 1:] == truth.deposit_origin[:, :-1]) & (
        truth.deposit_origin[:, 1:] > 0
    )
    steps = np.linalg.norm(np.diff(truth.deposit_position, axis=1), axis=2)[flight] / C
    np.testing.assert_allclose(np.diff(truth.deposit_time, axis=1)[flight], steps, atol=1e-4)


# Decays


def test_signal_is_one_point_with_all_the_energy():
    truth = make_scintillator_events(100, weights=SIGNAL, random_state=11, **FEW).truth
    assert truth.deposit_energy.shape == (100, 1)
    np.testing.assert_allclose(truth.deposit_energy, Q, rtol=1e-6)
    np.testing.assert_allclose(truth.deposit_position[:, 0], truth.vertex, rtol=1e-5)
    np.testing.assert_allclose(truth.centroid, truth.vertex, rtol=1e-9)
    assert np.all(truth.n_scatters == 0)
    assert np.all(np.isnan(truth.annihilation_delay))
    assert not truth.ortho_positronium.any()


def test_positron_spectrum_is_the_phase_space_times_the_fermi_function():
    # The non-relativistic Fermi function is right to the order (alpha Z)^2.
    energy = np.linspace(0.02, 1.9, 100)
    total = energy + M
    momentum = np.sqrt(total**2 - M**2)
    x = -2 * np.pi * 5 / 137.036 * total / momentum
    shape = x / (1 - np.exp(-x)) * momentum * total * (1.908 - energy) ** 2
    ratio = positron_spectrum(energy) / shape
    np.testing.assert_allclose(ratio / ratio.mean(), 1, atol=0.01)
    assert np.all(positron_spectrum([-1.0, 0.0, 1.908, 2.0]) == 0)


@pytest.mark.parametrize("energy_range", [(0.0, 10.0), (2.0, 3.0)])
def test_positron_energies_follow_the_spectrum_in_the_range(energy_range):
    truth = make_scintillator_events(
        20_000, weights=BACKGROUND, energy_range=energy_range, match_n_hits=False,
        random_state=12, **FEW,
    ).truth  # fmt: skip
    low, high = max(energy_range[0] - GAMMAS, 0.0), min(energy_range[1] - GAMMAS, 1.908)
    grid = np.linspace(low, high, 4001)
    density = positron_spectrum(grid)
    cdf = cumulative_simpson(density, x=grid, initial=0)
    sample = truth.electron_energy
    assert kstest(sample, lambda t: np.interp(t, grid, cdf / cdf[-1])).pvalue > LEVEL
    norm_ = quad(positron_spectrum, low, high)[0]
    mean = quad(lambda t: t * positron_spectrum(t), low, high)[0] / norm_
    variance = quad(lambda t: (t - mean) ** 2 * positron_spectrum(t), low, high)[0] / norm_
    assert abs(sample.mean() - mean) < norm.isf(LEVEL / 2) * np.sqrt(variance / len(sample))


def test_ortho_positronium_delays_half_of_the_annihilations(carbon):
    truth = carbon.truth
    n, formed = len(truth.t0), truth.ortho_positronium
    assert LEVEL / 2 < binom(n, 0.5).cdf(formed.sum()) < 1 - LEVEL / 2
    assert kstest(truth.annihilation_delay[formed], expon(scale=3.0).cdf).pvalue > LEVEL
    assert np.all(truth.annihilation_delay[~formed] == 0)


def test_ortho_positronium_parameters():
    truth = make_scintillator_events(
        5000, weights=BACKGROUND, ortho_positronium_fraction=1.0, ortho_positronium_lifetime=8.0,
        random_state=13, **FEW,
    ).truth  # fmt: skip
    assert truth.ortho_positronium.all()
    assert kstest(truth.annihilation_delay, expon(scale=8.0).cdf).pvalue > LEVEL


def test_vertices_are_uniform_in_the_ball(carbon):
    vertex = carbon.truth.vertex
    radius = np.linalg.norm(vertex, axis=1)
    assert kstest((radius / 167.0) ** 3, "uniform").pvalue > LEVEL
    assert kstest(vertex[:, 2] / radius, "uniform", (-1, 2)).pvalue > LEVEL
    azimuth = np.arctan2(vertex[:, 1], vertex[:, 0])
    assert kstest(azimuth, "uniform", (-np.pi, 2 * np.pi)).pvalue > LEVEL


def test_reconstructed_vertices_are_smeared_centroids(carbon):
    truth = carbon.truth
    share = truth.deposit_energy / truth.energy[:, None]
    centroid = np.sum(share[..., None] * truth.deposit_position, axis=1)
    np.testing.assert_allclose(truth.centroid, centroid, atol=1e-3)
    pulls = (carbon.vertex - truth.centroid) * np.sqrt(truth.energy)[:, None] / 12.0
    assert kstest(pulls.ravel(), norm.cdf).pvalue > LEVEL


# Matching


@pytest.mark.parametrize("light_yield", [3200.0, 400.0, 5.0])
def test_matched_classes_have_the_same_numbers_of_photoelectrons(light_yield):
    events = make_scintillator_events(4000, light_yield=light_yield, random_state=14)
    n_hits, target = events.truth.n_hits, events.target
    assert ks_2samp(n_hits[target == 0], n_hits[target == 1]).pvalue > LEVEL
    mean = light_yield * 0.34 * 0.23 * Q
    for c in (0, 1):
        n = np.count_nonzero(target == c)
        excess = n_hits[target == c].sum() - n * mean
        assert abs(excess) < norm.isf(LEVEL / 2) * np.sqrt(n * mean)


@pytest.mark.parametrize(("light_yield", "high"), [(3200.0, 3.0), (100.0, 2.6)])
def test_matched_energies_follow_bayes_theorem(light_yield, high):
    events = make_scintillator_events(
        8000, weights=BACKGROUND, light_yield=light_yield, energy_range=(2.0, high),
        random_state=15,
    )  # fmt: skip
    truth, light = events.truth, light_yield * 0.34 * 0.23
    energy = np.linspace(2.0, high, 2001)
    number = np.arange(1 + int(light * Q + 12 * np.sqrt(light * Q) + 12))
    joint = positron_spectrum(energy - GAMMAS) * poisson_law(light * energy).pmf(number[:, None])
    posterior = joint / np.trapezoid(joint, energy, axis=1)[:, None]
    mean = np.trapezoid(energy * posterior, energy, axis=1)
    variance = np.trapezoid((energy - mean[:, None]) ** 2 * posterior, energy, axis=1)
    n = truth.n_photoelectrons
    pulls = (truth.energy - mean[n]) / np.sqrt(variance[n])
    assert abs(pulls.sum()) < norm.isf(LEVEL / 2) * np.sqrt(len(n))
    marginal = poisson_law(light * Q).pmf(number) @ posterior
    cdf = cumulative_simpson(marginal, x=energy, initial=0)
    assert kstest(truth.energy, lambda e: np.interp(e, energy, cdf / cdf[-1])).pvalue > LEVEL


# The acquisition


def test_the_order_of_the_hits_says_nothing():
    events = make_scintillator_events(
        300, weights=BACKGROUND, ortho_positronium_fraction=1.0, ortho_positronium_lifetime=50.0,
        dark_rate=3e5, window=(0.0, 1000.0), random_state=16,
    )  # fmt: skip
    halves = [], []
    for hits, n in zip(events.data, events.truth.n_hits, strict=True):
        halves[0].append(hits[: n // 2, 1])
        halves[1].append(hits[n // 2 : n, 1])
    assert ks_2samp(*map(np.concatenate, halves)).pvalue > LEVEL


def test_first_hits_are_the_earliest_of_each_phototube():
    parameters = {
        "charge_resolution": 0.4,
        "positions": 700 * random_sphere(80),
        "random_state": 17,
    }
    every = make_scintillator_events(20, **parameters)
    first = make_scintillator_events(20, first_hit_only=True, **parameters)
    for all_hits, hits, n in zip(every.data, first.data, first.truth.n_hits, strict=True):
        all_hits = all_hits[all_hits[:, 2] > 0]
        assert np.all(hits[n:] == 0)
        hits = hits[:n]
        np.testing.assert_array_equal(np.sort(hits[:, 0]), np.unique(all_hits[:, 0]))
        for pmt, time, charge in hits:
            same = all_hits[all_hits[:, 0] == pmt]
            assert time == same[:, 1].min()
            assert charge == pytest.approx(same[:, 2].sum(), rel=1e-5)
    assert first.data.shape[1] == first.truth.n_hits.max()


def test_the_window_keeps_what_lies_in_it():
    every = make_scintillator_events(20, random_state=18)
    some = make_scintillator_events(20, window=(50.0, 70.0), random_state=18)
    for all_hits, hits, n in zip(every.data, some.data, some.truth.n_hits, strict=True):
        inside = (all_hits[:, 2] > 0) & (all_hits[:, 1] >= 50) & (all_hits[:, 1] <= 70)
        np.testing.assert_array_equal(hits[:n], all_hits[inside])
    np.testing.assert_array_equal(some.truth.n_photoelectrons, every.truth.n_hits)


def test_dark_hits_are_poisson_and_uniform():
    n, n_pmt, rate, start, stop = 400, 200, 2e6, -100.0, 400.0
    events = make_scintillator_events(
        n, positions=R * fibonacci_sphere(n_pmt), dark_rate=rate, window=(start, stop),
        light_yield=1e-9, random_state=19,
    )  # fmt: skip
    assert np.all(events.truth.n_photoelectrons == 0)
    mean = n * n_pmt * rate * 1e-9 * (stop - start)
    hits = hits_of(events)
    assert abs(len(hits) - mean) < norm.isf(LEVEL / 2) * np.sqrt(mean)
    assert kstest(hits[:, 1], "uniform", (start, stop - start)).pvalue > LEVEL
    assert chisquare(np.bincount(hits[:, 0].astype(int), minlength=n_pmt)).pvalue > LEVEL


def test_jitter_shifts_the_times():
    still = make_scintillator_events(30, random_state=20)
    moved = make_scintillator_events(30, t0_jitter=100.0, random_state=20)
    assert np.all(np.abs(moved.truth.t0) <= 100)
    assert np.ptp(moved.truth.t0) > 0
    real = still.data[..., 2] > 0
    shift = np.broadcast_to(moved.truth.t0[:, None], real.shape)[real]
    np.testing.assert_allclose(moved.data[real, 1], still.data[real, 1] + shift, atol=1e-3)
    np.testing.assert_array_equal(moved.data[..., 0], still.data[..., 0])


# The interface


@pytest.mark.parametrize("options", [{}, {"first_hit_only": True}, {"window": (40.0, 60.0)}])
def test_ragged_events_are_the_padded_ones(options):
    padded = make_scintillator_events(40, random_state=21, **options)
    ragged = make_scintillator_events(40, format="ragged", random_state=21, **options)
    assert padded.data.dtype == np.float32
    assert ragged.data.dtype == object
    assert ragged.data.shape == (40,)
    flat = ragged.data[0].base
    end = 0
    for i, (hits, n) in enumerate(zip(ragged.data, padded.truth.n_hits, strict=True)):
        assert hits.shape == (n, 3)
        assert hits.base is flat
        np.testing.assert_array_equal(hits, padded.data[i, :n])
        np.testing.assert_array_equal(hits, flat[end : end + n])
        end += n
        assert np.all(padded.data[i, n:] == 0)
    assert end == len(flat)
    signal = ragged.data[ragged.target == 1]
    np.testing.assert_array_equal(signal[-1], ragged.data[np.flatnonzero(ragged.target)[-1]])


def test_threads_change_no_bit_and_the_seed_does():
    options = {"dark_rate": 1e4, "window": (0.0, 500.0), "charge_resolution": 0.3}
    one, two = (
        make_scintillator_events(300, n_jobs=n_jobs, random_state=22, **options)
        for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(one.data, two.data)
    np.testing.assert_array_equal(one.vertex, two.vertex)
    for name in one.truth:
        np.testing.assert_array_equal(one.truth[name], two.truth[name])
    X, y = make_scintillator_events(300, random_state=22, return_X_y=True, **options)
    np.testing.assert_array_equal(X, one.data)
    np.testing.assert_array_equal(y, one.target)
    other = make_scintillator_events(300, random_state=23, **options)
    assert not np.array_equal(other.vertex, one.vertex)


def test_global_generator_is_untouched():
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    make_scintillator_events(3, random_state=0, **FEW)
    assert np.random.random() == expected  # noqa: NPY002


def test_classes_come_in_the_given_proportions():
    target = make_scintillator_events(100, weights=(3, 1), random_state=24, **FEW).target
    assert np.bincount(target).tolist() == [75, 25]
    assert 0 < np.argmin(target[::-1]) + np.argmax(target) < 100


BAD_RADIUS = R * fibonacci_sphere(50) * np.linspace(1, 1.1, 50)[:, None]
CROWDED = R * np.concatenate([fibonacci_sphere(50), fibonacci_sphere(50)[[12] * 3]])
CROWDED[50:] += 1e-2 * np.array([[0, 1, 0], [1, -1, 0], [-1, -1, 0]])
NOT_FINITE = np.where(np.arange(50)[:, None] == 7, np.nan, R * fibonacci_sphere(50))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"positions": np.ones((4, 2))}, r"'positions'.*\(n_pmt, 3\).*\(4, 2\)"),
        ({"positions": NOT_FINITE}, r"'positions'.*finite.*phototube 7"),
        ({"positions": BAD_RADIUS}, r"'positions'.*sphere.*850 to 935"),
        ({"positions": np.zeros((5, 3))}, "'positions'.*sphere"),
        ({"positions": R * np.ones((5, 3))}, "'positions'.*crowd.*phototube 0"),
        ({"positions": CROWDED}, "'positions'.*crowd.*phototube 12"),
        ({"positions": [["a", "b", "c"]]}, "'positions'.*array of numbers"),
        ({"fiducial_radius": 900.0}, "'fiducial_radius'.*850 cm. Got 900"),
        ({"positions": 2 * fibonacci_sphere(50), "fiducial_radius": 1.0}, "do not stay.*2 cm"),
        ({"energy_range": (2.5, 3.0)}, "'energy_range'.*2.458 MeV"),
        ({"energy_range": (3.0, 2.0)}, "'energy_range'.*low < high"),
        ({"energy_range": (2.0, np.inf)}, r"'energy_range'.*\(-inf, inf\)"),
        ({"window": (1.0,)}, "'window'.*low < high"),
        ({"window": (1.0, 1.0)}, "'window'.*low < high"),
        ({"dark_rate": 100.0}, "'window'.*dark_rate=100"),
        ({"decay_times": (1.0, -1.0), "decay_fractions": (0.5, 0.5)}, "'decay_times'.*> 0"),
        ({"decay_fractions": (0.5, 0.5)}, "'decay_fractions'.*each of the 3"),
        ({"decay_fractions": (0.5, 0.5, 0.5)}, "'decay_fractions'.*sum 1"),
        ({"weights": (0, 0)}, "'weights'.*10C, 0vbb"),
        ({"weights": (1, 1, 1)}, "'weights'.*2 finite numbers"),
        ({"photocoverage": 1.2}, "'photocoverage'"),
        ({"format": "sparse"}, "'format'"),
    ],
)
def test_errors_name_the_parameter(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_scintillator_events(4, random_state=0, **parameters)
