"""Simulated tracks of an active-target TPC against the physics that they are made of."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest, chisquare, kstest, norm

from sknuc.datasets import TPC_DETECTORS, make_tpc_events
from sknuc.datasets._tpc_detector import draw_pad_gains, pad_lattice
from sknuc.datasets._tpc_gas import (
    IONS,
    RangeTable,
    effective_charge,
    gas_density,
    stopping_power,
)
from sknuc.datasets._tpc_truth import recoil
from sknuc.preprocessing import TPCProjector

SILENT = {"noise_pads": (0, 0), "threshold": 0.0, "saturation": np.inf, "beam_hole": 0.0}
SHARP = {"transverse_diffusion": 0.0, "longitudinal_diffusion": 0.0}
STEADY = {"fano": 0.0, "polya": np.inf}
IDEAL = {**SILENT, **SHARP, **STEADY}
PROTON, CARBON = IONS["proton"], IONS["carbon"]


def points(events, i):
    return events.data[i, : events.truth.n_points[i]].astype(np.float64)


# --- the gas


def bethe(energy):
    """MeV cm²/g of protons in isobutane, with 34 electrons and I = 48.3 eV."""
    gamma = 1 + energy / 938.272
    beta2 = 1 - gamma**-2
    logarithm = math.log(2 * 0.510999 * beta2 * gamma**2 / 48.3e-6)
    return 0.307075 * 34 / 58.122 / beta2 * (logarithm - beta2)


@pytest.mark.parametrize("energy", [1.5, 5.0, 20.0, 200.0])
def test_fast_protons_lose_energy_as_bethe_says(energy):
    # What the measured protons correct at the joint, less than 5 %, falls with the energy.
    found = 10 * stopping_power(energy, *PROTON[:2], density=1.0)
    assert found == pytest.approx(bethe(energy), rel=0.05 / energy)


@pytest.mark.parametrize(
    ("energy", "hydrogen", "carbon", "rel"),
    [
        # Below 40 keV the fit to carbon goes on with the speed, and the tables with less of it.
        (0.01, 2361.0, 398.7, 0.10),
        (0.02, 3084.0, 509.9, 0.06),
        (0.05, 3808.0, 668.6, 0.01),
        (0.1, 3487.0, 717.4, 0.01),
        (0.25, 2031.0, 526.0, 0.01),
        (0.5, 1159.0, 354.6, 0.01),
        # The binding of the molecule, which the sum of its atoms does not know, in Bethe's formula.
        (1.0, 676.4, 226.1, 0.025),
        (2.0, 388.1, 139.4, 0.025),
    ],
)
def test_slow_protons_lose_energy_as_tables_say(energy, hydrogen, carbon, rel):
    # PSTAR (NIST Standard Reference Database 124), MeV cm²/g in hydrogen gas and amorphous carbon.
    share = 10 * 1.008 / 58.122
    expected = share * hydrogen + (1 - share) * carbon
    found = 10 * stopping_power(energy, *PROTON[:2], density=1.0)
    assert found == pytest.approx(expected, rel=rel)


def test_stopping_power_is_continuous_and_goes_with_the_speed_at_last():
    joint = np.array([1 - 1e-9, 1 + 1e-9]) * 938.272 / 931.494
    below, above = stopping_power(joint, *PROTON[:2], density=1.0)
    assert below == pytest.approx(above, rel=1e-7)
    slow = stopping_power(np.array([1e-4, 4e-4, 9e-3]), *PROTON[:2], density=1.0)
    np.testing.assert_allclose(slow / slow[0], [1, 2, math.sqrt(90)], rtol=1e-5)
    assert stopping_power(1.0, *PROTON[:2], density=0.5) == pytest.approx(
        0.5 * stopping_power(1.0, *PROTON[:2], density=1.0)
    )


def test_ions_of_one_speed_differ_by_the_square_of_the_charge_that_they_keep():
    gamma = 1 + np.array([1e-4, 1e-3, 1e-2, 0.2])
    beta = np.sqrt(1 - gamma**-2)
    proton, carbon = (
        stopping_power((gamma - 1) * mass, charge, mass, density=1.0)
        for charge, mass, _ in (PROTON, CARBON)
    )
    kept = 6 * (1 - np.exp(-125 * beta * 6 ** (-2 / 3)))
    np.testing.assert_allclose(carbon / proton, (kept / (1 - np.exp(-125 * beta))) ** 2, rtol=1e-9)
    assert carbon[-1] / proton[-1] == pytest.approx(36, rel=1e-6)
    assert effective_charge(1.0, 18) == pytest.approx(18)


@pytest.mark.parametrize("name", ["proton", "carbon", "46Ar"])
def test_ranges_are_the_integral_of_the_stopping_power(name):
    charge, mass, nucleons = IONS[name]
    density = gas_density(25.0)
    table = RangeTable(charge, mass, nucleons, density)

    def integrand(root):
        # E = u², since 1/S has a root singularity at zero.
        return 2 * root / stopping_power(root**2, charge, mass, density) if root else 0.0

    kinks = [math.sqrt(t * mass / 931.494) for t in (0.010, 0.040, 1.0)]
    for energy in np.array([0.02, 0.3, 1.0, 4.0]) * nucleons:
        stop = math.sqrt(energy)
        edges = [1e-9, *(k for k in kinks if k < stop), stop]
        expected = sum(
            quad(integrand, a, b, epsrel=1e-10, limit=200)[0] for a, b in pairwise(edges)
        )
        assert table.ranges(energy) == pytest.approx(expected, rel=1e-5)
        assert table.energies(table.ranges(energy)) == pytest.approx(energy, rel=1e-6)


def test_density_of_the_ideal_gas():
    # One mole fills 24.055 l at 1013.25 hPa and 20 °C.
    assert gas_density(1013.25) == pytest.approx(58.122 / 24055, rel=1e-4)


# --- the reaction


@pytest.mark.parametrize("excitation", [0.0, 1.55])
@pytest.mark.parametrize("target", [PROTON, CARBON])
def test_energy_and_momentum_are_conserved(target, excitation):
    beam_mass, mass = IONS["46Ar"][1], target[1]
    cosine = np.linspace(-1, 1, 11)
    energy, angle = recoil(211.6, beam_mass, mass, excitation, cosine)
    p = np.sqrt(energy * (energy + 2 * mass))
    beam_p = math.sqrt(211.6 * (211.6 + 2 * beam_mass))
    left = 211.6 + beam_mass - energy
    missing = np.sqrt(left**2 - (beam_p - p * np.cos(angle)) ** 2 - (p * np.sin(angle)) ** 2)
    np.testing.assert_allclose(missing, beam_mass + excitation, rtol=0, atol=1e-5)
    if excitation == 0.0:
        # Elastic: E = 4mM/(m + M)² E_beam cos²θ, to the order of β².
        expected = 4 * mass * beam_mass / (mass + beam_mass) ** 2 * 211.6 * np.cos(angle) ** 2
        np.testing.assert_allclose(energy[:-1], expected[:-1], rtol=0.01)


# A right simulator fails a test at this level once in 100,000 seeds.
LEVEL = 1e-5


@pytest.fixture(scope="module")
def reactions():
    """Truth of recoils, the energy of the beam before, and the excitation that is missing after."""
    truth = make_tpc_events(
        4000, weights=(1, 1, 0), step=50.0, random_state=17, **SILENT, **SHARP
    ).truth
    charge, beam_mass, nucleons = IONS["46Ar"]
    table = RangeTable(charge, beam_mass, nucleons, gas_density(25.0))
    whole = table.ranges(4.6 * nucleons)
    energy = table.energies(whole - truth.vertex[:, 2])
    momentum = np.sqrt(energy * (energy + 2 * beam_mass))
    p = np.sqrt(truth.energy * (truth.energy + 2 * truth.mass))
    left = energy + beam_mass - truth.energy
    along, across = p * np.cos(truth.polar_angle), p * np.sin(truth.polar_angle)
    excitation = np.sqrt(left**2 - (momentum - along) ** 2 - across**2) - beam_mass
    deepest = whole - table.ranges(nucleons)
    return truth, energy, excitation, min(deepest, 1250.0)


def test_the_first_excited_state_is_as_frequent_as_documented(reactions):
    truth, energy, excitation, _ = reactions
    beam_mass = IONS["46Ar"][1]
    is_excited = excitation > 1.0
    np.testing.assert_allclose(excitation, np.where(is_excited, 1.55, 0.0), atol=1e-4)
    # The energy in the centre of mass is kept, that of its motion is not: it may not suffice.
    s = (beam_mass + truth.mass) ** 2 + 2 * energy * truth.mass
    is_open = np.sqrt(s) - beam_mass - truth.mass > 1.55
    assert not is_excited[~is_open].any()
    assert not is_open.all()
    assert binomtest(is_excited.sum(), is_open.sum(), 0.2).pvalue > LEVEL


@pytest.mark.parametrize("mass", [PROTON[1], CARBON[1]])
def test_scattering_angles_follow_rutherford(reactions, mass):
    truth, energy, excitation, _ = reactions
    own = truth.mass == mass
    energy, kinetic = energy[own], truth.energy[own]
    beam_mass = IONS["46Ar"][1]
    heavy = beam_mass + np.where(excitation[own] > 1.0, 1.55, 0.0)
    # Of the target in the centre of mass, before and after: m (m + T) = E E' - p p' cos(theta).
    s = (beam_mass + mass) ** 2 + 2 * energy * mass
    before = (s + mass**2 - beam_mass**2) / (2 * np.sqrt(s))
    after = (s + mass**2 - heavy**2) / (2 * np.sqrt(s))
    momenta = np.sqrt((before**2 - mass**2) * (after**2 - mass**2))
    cosine = (before * after - mass * (mass + kinetic)) / momenta
    # 1/sin^4(theta/2) from 30 degrees on: the integral of (1 - c)^-2.
    low, high = 0.5, 1 / (1 - math.cos(math.radians(30)))

    def cdf(c):
        return (1 / (1 - np.asarray(c)) - low) / (high - low)

    assert cosine.min() >= -1 - 1e-6
    assert kstest(cosine, cdf).pvalue > LEVEL
    assert kstest(truth.azimuth[own], "uniform", (-np.pi, 2 * np.pi)).pvalue > LEVEL


def test_reactions_are_uniform_in_depth_on_a_narrow_beam(reactions):
    truth, _, _, deepest = reactions
    assert kstest(truth.vertex[:, 2], "uniform", (0, deepest)).pvalue > LEVEL
    for spot in truth.vertex[:, :2].T:
        assert kstest(spot, "norm", (0, 2.0)).pvalue > LEVEL


def test_other_particles_follow_their_laws():
    truth = make_tpc_events(
        6000, weights=(0, 0, 1), step=50.0, random_state=18, **SILENT, **SHARP
    ).truth
    ions = truth.kind == "ion"
    nucleons = np.rint(truth.mass[ions] / 931.494)
    kinds, counts = np.unique(nucleons, return_counts=True)
    assert kinds.tolist() == [2, 4, 7, 16]
    assert chisquare(counts).pvalue > LEVEL
    energy = np.log(truth.energy[ions] / nucleons / 0.2) / math.log(10)
    radius = np.hypot(*truth.vertex[ions, :2].T) / (0.75 * 275.0)
    for values in (energy, radius**2, truth.vertex[ions, 2] / 1250.0):
        assert kstest(values, "uniform").pvalue > LEVEL
    assert kstest(np.cos(truth.polar_angle[ions]), "uniform", (-1, 2)).pvalue > LEVEL
    beam = truth.kind == "beam"
    assert kstest(truth.polar_angle[beam], "rayleigh", (0, 0.02)).pvalue > LEVEL
    np.testing.assert_allclose(truth.energy[beam], 4.6 * 46)
    piled = truth.n_tracks[truth.kind == "pile_up"]
    assert binomtest(np.count_nonzero(piled == 3), len(piled), 0.5).pvalue > LEVEL
    assert binomtest(np.count_nonzero(truth.mass[truth.kind == "pile_up"] < 1000), len(piled),
                     0.5).pvalue > LEVEL  # fmt: skip


# --- tracks


@pytest.fixture(scope="module")
def vacuum():
    """Tracks that lose next to nothing, on pads and in buckets of half a millimetre."""
    return make_tpc_events(
        24,
        weights=(1, 1, 0),
        pressure=1e-9,
        gain=1e12,
        n_pads=1_000_000,
        sampling_frequency=125.0,
        random_state=0,
        **IDEAL,
    )


def helices(events):
    """Points, truth and circle of every event: radius p_T/(0.3 Z B), centre to the right."""
    truth = events.truth
    for i in range(len(events.target)):
        charge, mass, _ = CARBON if events.target[i] else PROTON
        momentum = math.sqrt(truth.energy[i] * (truth.energy[i] + 2 * mass))
        angle, phi = truth.polar_angle[i], truth.azimuth[i]
        radius = momentum * math.sin(angle) / (0.299792458 * charge * 1.68)
        centre = truth.vertex[i, :2] + radius * np.array([math.sin(phi), -math.cos(phi)])
        yield i, points(events, i), radius, centre


def test_tracks_are_circles_of_the_radius_of_their_momentum(vacuum):
    for i, cloud, radius, centre in helices(vacuum):
        assert vacuum.truth.radius[i] == pytest.approx(radius, rel=1e-12)
        distance = np.hypot(*(cloud[:, :2] - centre).T)
        # No point is farther from its track than the corner of a pad from its centre.
        assert np.abs(distance - radius).max() <= vacuum.detector.pad_pitch / math.sqrt(2) + 1e-4


def test_tracks_advance_by_their_pitch(vacuum):
    for i, cloud, radius, centre in helices(vacuum):
        start = np.subtract(vacuum.truth.vertex[i, :2], centre)
        x, y = (cloud[:, :2] - centre).T
        # Positive charges turn clockwise about the field.
        turned = math.atan2(start[1], start[0]) - np.arctan2(y, x)
        slope = radius / math.tan(vacuum.truth.polar_angle[i])
        advance = cloud[:, 2] - vacuum.truth.vertex[i, 2]
        off = (advance / slope - turned + np.pi) % (2 * np.pi) - np.pi
        pad = vacuum.detector.pad_pitch / math.sqrt(2)
        bound = 0.5 * vacuum.detector.bucket_length + 1.01 * slope * pad / (radius - pad)
        assert np.abs(slope * off).max() <= bound + 1e-3
        assert advance.min() >= -bound


def test_stopped_tracks_leave_all_their_energy_and_others_what_the_range_says():
    events = make_tpc_events(300, weights=(1, 1, 0), random_state=1, **IDEAL)
    truth = events.truth
    np.testing.assert_allclose(
        truth.deposited[truth.stopped], truth.energy[truth.stopped], rtol=1e-5
    )
    for name, label in (("proton", 0), ("carbon", 1)):
        left = ~truth.stopped & (events.target == label)
        assert left.any()
        table = RangeTable(*IONS[name], gas_density(25.0))
        rest = table.energies(truth.range[left] - truth.path_length[left])
        np.testing.assert_allclose(truth.deposited[left], truth.energy[left] - rest, rtol=1e-4)
    assert np.all(truth.path_length <= truth.range * (1 + 1e-9))


@pytest.mark.parametrize("diffusion", [SHARP, {}])
def test_pads_see_all_the_energy_that_is_left_in_the_gas(diffusion):
    events = make_tpc_events(
        200, weights=(1, 1, 0), random_state=2, **SILENT, **STEADY, **diffusion
    )
    # Away from the walls, where a cloud may fall beside the pads or outside the clock.
    radius = np.hypot(events.data[:, :, 0], events.data[:, :, 1]).max(axis=1)
    z = np.where(events.data[:, :, 3] > 0, events.data[:, :, 2], 600.0)
    whole = (radius < 260) & (z.min(axis=1) > 15) & (z.max(axis=1) < 1240)
    assert whole.sum() > 50
    charge = events.data[whole, :, 3].sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(
        charge, 1e3 * events.detector.gain * events.truth.total_deposited[whole], rtol=1e-5
    )


def test_result_does_not_depend_on_the_step():
    shared = {"weights": (1, 1, 0), "random_state": 3, **IDEAL}
    coarse, fine = (make_tpc_events(60, step=step, **shared) for step in (5.0, 0.5))
    still = coarse.truth.stopped & fine.truth.stopped
    for i in np.flatnonzero(still):
        a, b = points(coarse, i), points(fine, i)
        # The centre of charge; energy loss within a step matters at the end of the track only.
        np.testing.assert_allclose(
            np.average(a[:, :3], axis=0, weights=a[:, 3]),
            np.average(b[:, :3], axis=0, weights=b[:, 3]),
            atol=1.5,
        )


def test_longest_steps_lose_no_tracks_and_no_energy():
    shared = {"weights": (1, 1, 0), "random_state": 19, **SILENT}
    coarse, fine = (make_tpc_events(300, step=step, **shared).truth for step in (50.0, 1.0))
    # Midpoints of first steps lie outside only of those that start next to a wall.
    assert np.all((coarse.path_length > 0) | (coarse.vertex[:, 2] > 1225.0))
    for name in ("path_length", "deposited"):
        # The last step of a track that leaves counts as a whole or not at all, alike often.
        difference = coarse[name] - fine[name]
        assert abs(difference.sum()) < 4 * np.sqrt(np.sum(difference**2))
        np.testing.assert_allclose(coarse[name].sum(), fine[name].sum(), rtol=0.005)


# --- charge and drift


def test_charge_is_proportional_to_the_gain():
    once, thrice = (
        make_tpc_events(20, random_state=4, gain=gain, **SILENT) for gain in (10.0, 30.0)
    )
    np.testing.assert_array_equal(once.data[..., :3], thrice.data[..., :3])
    np.testing.assert_allclose(3 * once.data[..., 3], thrice.data[..., 3], rtol=1e-6)


@pytest.mark.parametrize(("fano", "polya"), [(0.26, 1.0), (2.0, np.inf)])
def test_charge_fluctuates_as_fano_and_polya_say(fano, polya):
    events = make_tpc_events(
        500, weights=(1, 0, 0), fano=fano, polya=polya, random_state=5, **SILENT, **SHARP
    )
    radius = np.hypot(events.data[:, :, 0], events.data[:, :, 1]).max(axis=1)
    whole = radius < 268
    deposited = events.truth.total_deposited[whole]
    charge = events.data[whole, :, 3].sum(axis=1, dtype=np.float64) / (1e3 * events.detector.gain)
    sigma = np.sqrt((fano + 1 / (1 + polya)) * 23e-6 * deposited)
    pull = (charge - deposited) / sigma
    n = np.count_nonzero(whole)
    assert n > 200
    assert abs(pull.mean()) < 5 / math.sqrt(n)
    assert abs(pull.var() - 1) < 5 * math.sqrt(2 / n)


# The variance of a Gaussian that is cut at three standard deviations.
CUT = 1 - 6 * norm.pdf(3) / (2 * norm.cdf(3) - 1)
STRAIGHT = {"weights": (1, 1, 0), "magnetic_field": 0.0, **SILENT, **STEADY}


@pytest.mark.parametrize("drift", [(0, 400), (400, 800), (800, 1250)])
def test_clouds_widen_with_the_root_of_the_drift(drift):
    # Across: the distance from a straight track in the pad plane.
    events = make_tpc_events(
        40,
        n_pads=200_000,
        transverse_diffusion=0.4,
        longitudinal_diffusion=0.0,
        random_state=6,
        **STRAIGHT,
    )
    pitch = events.detector.pad_pitch
    across = expected = 0.0
    for i in range(40):
        x, y, z, charge = points(events, i).T
        phi = events.truth.azimuth[i]
        length = 1250.0 - z
        far = np.hypot(x, y).max() > 255
        keep = (length >= drift[0]) & (length < drift[1]) & (not far)
        x0, y0, _ = events.truth.vertex[i]
        distance = (y - y0) * math.cos(phi) - (x - x0) * math.sin(phi)
        across += np.sum((charge * distance**2)[keep])
        expected += np.sum((charge * (CUT * 0.4**2 * length / 10 + pitch**2 / 12))[keep])
    assert across == pytest.approx(expected, rel=0.02)

    # Along: the time of arrival, against that of the place on the track.
    events = make_tpc_events(
        40,
        n_pads=1_000_000,
        sampling_frequency=100.0,
        transverse_diffusion=0.0,
        longitudinal_diffusion=0.4,
        random_state=6,
        **STRAIGHT,
    )
    pitch, bucket = events.detector.pad_pitch, events.detector.bucket_length
    along = expected = 0.0
    for i in range(40):
        x, y, z, charge = points(events, i).T
        phi, slope = events.truth.azimuth[i], 1 / math.tan(events.truth.polar_angle[i])
        x0, y0, z0 = events.truth.vertex[i]
        where = z0 + slope * ((x - x0) * math.cos(phi) + (y - y0) * math.sin(phi))
        length = 1250.0 - where
        # Clouds at the ends of the clock are cut.
        keep = (length >= max(drift[0], 30)) & (length < min(drift[1], 1230))
        along += np.sum((charge * (z - where) ** 2)[keep])
        width = CUT * 0.4**2 * length / 10 + bucket**2 / 12 + slope**2 * pitch**2 / 12
        expected += np.sum((charge * width)[keep])
    assert along == pytest.approx(expected, rel=0.02)


# --- the readout


def test_points_are_pads_and_time_buckets():
    events = make_tpc_events(30, random_state=7)
    cloud = np.concatenate([points(events, i) for i in range(30)])
    pitch, bucket = events.detector.pad_pitch, events.detector.bucket_length
    assert bucket == pytest.approx(4.16)
    for coordinate, width in (
        (cloud[:, 0], pitch),
        (cloud[:, 1], pitch),
        (1250 - cloud[:, 2], bucket),
    ):
        cell = coordinate / width - 0.5
        np.testing.assert_allclose(cell, np.rint(cell), atol=1e-4)
    assert np.hypot(cloud[:, 0], cloud[:, 1]).min() >= 20.0
    assert cloud[:, 3].min() >= 40.0
    assert cloud[:, 3].max() <= 4095.0
    for i in range(30):
        own = points(events, i)
        assert len(np.unique(own[:, :3], axis=0)) == len(own)
        assert np.count_nonzero(own[:, 3] == 4095.0) == events.truth.saturated[i]
    assert events.truth.saturated.sum() > 0


@pytest.mark.parametrize("n_pads", [1, 7, 10_240])
def test_the_pads_fill_the_disc(n_pads):
    is_pad, pitch = pad_lattice(n_pads, 275.0)
    assert np.count_nonzero(is_pad) == n_pads
    assert n_pads * pitch**2 == pytest.approx(np.pi * 275.0**2)
    centres = pitch * (np.arange(len(is_pad)) + 0.5 - len(is_pad) // 2)
    distance = np.hypot(centres[:, None], centres)
    assert distance[is_pad].max() <= distance[~is_pad].min() + 1e-9


@pytest.mark.parametrize("parameters", [{}, {"domain": "real"}, {"n_pads": 777, "length": 999.0}])
def test_no_point_lies_outside_the_ranges_and_the_rim_has_some(parameters):
    events = make_tpc_events(600, random_state=15, **parameters)
    (x0, x1), (y0, y1), (z0, z1) = events.ranges
    pitch, bucket = events.detector.pad_pitch, events.detector.bucket_length
    cloud = events.data[events.data[..., 3] > 0][:, :3].astype(np.float64)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    # Noise reaches all pads and buckets: points are their centres.
    half = [pitch / 2, pitch / 2, bucket / 2]
    np.testing.assert_allclose(low - half, [x0, y0, z0], atol=1e-3)
    np.testing.assert_allclose(high + half, [x1, y1, z1], atol=1e-3)
    projector = TPCProjector(bins=(16, 16), ranges=events.ranges, statistic="count")
    images = projector.fit_transform(events.data)
    assert not projector.count_outside(events.data).any()
    np.testing.assert_array_equal(
        images.sum(axis=(2, 3)), np.repeat(events.truth.n_points[:, None], 3, axis=1)
    )
    length = parameters.get("length", 1250.0)
    chamber = [(-275.0, 275.0), (-275.0, 275.0), (0.0, length)]
    assert TPCProjector(ranges=chamber).fit(events.data).count_outside(events.data).any()


def test_pads_die_by_number_and_gains_scatter_alike_in_every_call():
    is_pad, pitch = pad_lattice(10_240, 275.0)
    gains = draw_pad_gains(is_pad, pitch, 0.0, 0.05, 0.15)
    assert np.count_nonzero(gains) == 10_240 - 512
    assert np.std(np.log(gains[gains > 0])) == pytest.approx(0.15, rel=5 / math.sqrt(2 * 9728))
    np.testing.assert_array_equal(draw_pad_gains(is_pad, pitch, 0.0, 0.05, 0.15), gains)
    cloud = np.concatenate(make_tpc_events(60, domain="real", format="ragged", random_state=8).data)
    cells = np.rint(cloud[:, :2] / pitch - 0.5).astype(int) + len(is_pad) // 2
    assert np.all(gains[cells[:, 0], cells[:, 1]] > 0)


def noise_events(n_samples, **parameters):
    events = make_tpc_events(n_samples, weights=(0, 0, 1), random_state=9, **parameters)
    alone = np.flatnonzero(events.truth.kind == "noise")
    return events, alone


def test_noise_is_uniform_in_number_and_exponential_in_charge():
    events, alone = noise_events(1600, noise_pads=(20, 300), threshold=40.0, noise_charge=60.0)
    counts = events.truth.n_points[alone]
    n = len(alone)
    assert n > 300
    assert counts.min() >= 19
    assert counts.max() <= 300
    # Uniform on 281 whole numbers; a coincidence of two in one sample is one in 400 events.
    values = (281**2 - 1) / 12
    assert abs(counts.mean() - 160) < 5 * math.sqrt(values / n) + 0.01
    kurtosis = 1.8
    assert abs(counts.var() - values) < 5 * values * math.sqrt((kurtosis - 1) / n)
    above = np.concatenate([points(events, i)[:, 3] for i in alone]) - 40.0
    assert above.min() >= 0
    assert above.mean() == pytest.approx(60.0, rel=5 / math.sqrt(len(above)) + 1e-3)
    fixed, alone = noise_events(200, noise_pads=(37, 37))
    assert np.all(np.isin(fixed.truth.n_points[alone], [36, 37]))


def test_sparks_are_pads_that_fire_in_a_row():
    events, alone = noise_events(200, noise_pads=(0, 0), sparks=1.0)
    n_pads = 0
    for i in alone:
        own = points(events, i)
        for pad in np.unique(own[:, :2], axis=0):
            bucket = np.sort((1250 - own[(own[:, :2] == pad).all(axis=1), 2]) / 4.16)
            np.testing.assert_allclose(np.diff(bucket), 1, atol=1e-3)
            assert len(bucket) < 60
            assert len(bucket) >= 5 or bucket[-1] > 300
            n_pads += 1
    assert abs(n_pads - len(alone)) < 5 * math.sqrt(len(alone))


def test_chips_fire_as_a_whole():
    events, alone = noise_events(200, noise_pads=(0, 0), chip_noise=1.0, beam_hole=0.0)
    pitch = events.detector.pad_pitch
    n_chips = full = 0
    for i in alone:
        own = points(events, i)
        for z in np.unique(own[:, 2]):
            x, y, _, _ = own[own[:, 2] == z].T
            # Two chips in one bucket are rare, and left out.
            if max(np.ptp(x), np.ptp(y)) < 7.5 * pitch:
                n_chips += 1
                full += len(x) == 64
    assert abs(n_chips - len(alone)) < 5 * math.sqrt(len(alone))
    # Most of the disc is inside, where a chip has all of its pads.
    assert full > 0.8 * n_chips


# --- events


def test_the_same_seed_gives_the_same_events_whatever_the_number_of_threads():
    one, two = (
        make_tpc_events(200, domain="real", n_jobs=n_jobs, random_state=10) for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(one.data, two.data)
    np.testing.assert_array_equal(one.target, two.target)
    for name in one.truth:
        np.testing.assert_array_equal(one.truth[name], two.truth[name])
    assert not np.array_equal(one.target, make_tpc_events(200, random_state=11).target)


def test_formats_hold_the_same_points():
    padded = make_tpc_events(40, random_state=12)
    ragged = make_tpc_events(40, random_state=12, format="ragged")
    assert ragged.data.shape == (40,)
    assert padded.data.dtype == ragged.data[0].dtype == np.float32
    for i, cloud in enumerate(ragged.data):
        np.testing.assert_array_equal(padded.data[i, : len(cloud)], cloud)
        assert not padded.data[i, len(cloud) :].any()
        assert len(cloud) == padded.truth.n_points[i]
    data, target = make_tpc_events(40, random_state=12, return_X_y=True)
    np.testing.assert_array_equal(data, padded.data)
    np.testing.assert_array_equal(target, padded.target)


def test_domains_are_their_settings():
    real = make_tpc_events(20, domain="real", random_state=13)
    simulation = make_tpc_events(20, random_state=13)
    as_real = make_tpc_events(20, **TPC_DETECTORS["real"], random_state=13)
    np.testing.assert_array_equal(real.data, as_real.data)
    assert real.data.shape != simulation.data.shape
    assert {name: real.detector[name] for name in TPC_DETECTORS["real"]} == TPC_DETECTORS["real"]
    assert set(TPC_DETECTORS["real"]) == set(TPC_DETECTORS["simulation"])


def test_the_same_seed_gives_the_same_reactions_in_both_domains():
    simulation, real = (
        make_tpc_events(100, domain=domain, random_state=16) for domain in ("simulation", "real")
    )
    np.testing.assert_array_equal(simulation.target, real.target)
    reaction = ("kind", "energy", "polar_angle", "azimuth", "vertex", "charge", "mass", "range")
    for name in reaction:
        np.testing.assert_array_equal(simulation.truth[name], real.truth[name])


def test_classes_and_truth_agree():
    events = make_tpc_events(1000, weights=(2, 1, 1), random_state=14)
    truth, target = events.truth, events.target
    np.testing.assert_array_equal(np.bincount(target), [500, 250, 250])
    np.testing.assert_array_equal(truth.charge[target == 0], 1)
    np.testing.assert_array_equal(truth.charge[target == 1], 6)
    np.testing.assert_array_equal(truth.kind == "recoil", target < 2)
    np.testing.assert_array_equal(truth.n_tracks[target < 2], 1)
    assert set(truth.n_tracks[truth.kind == "pile_up"]) == {2, 3}
    noise = truth.kind == "noise"
    assert not truth.n_tracks[noise].any()
    assert np.isnan(truth.energy[noise]).all()
    assert not truth.stopped[noise].any()
    assert np.isfinite(truth.energy[~noise]).all()
    # The four kinds of others are equally frequent.
    for kind in ("pile_up", "beam", "ion", "noise"):
        assert abs(np.count_nonzero(truth.kind == kind) - 62.5) < 5 * math.sqrt(250 * 3 / 16)
    # No recoil has more energy than a head-on collision with the beam as it enters gives.
    for label, (_, mass, _) in enumerate((PROTON, CARBON)):
        highest = recoil(46 * 4.6, IONS["46Ar"][1], mass, 0.0, np.array(-1.0))[0]
        assert truth.energy[target == label].max() < highest


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"weights": (1, 1)}, "'weights'.*3 finite numbers"),
        ({"weights": (0, 0, 0)}, "'weights'.*3 finite numbers"),
        ({"weights": ("a", 1, 1)}, "'weights'.*array of numbers"),
        ({"noise_pads": (3, 2)}, r"'noise_pads'.*low <= high.*Got \(3, 2\)"),
        ({"noise_pads": (1.5, 2)}, "'noise_pads'.*an int"),
        ({"noise_pads": (-1, 2)}, "'noise_pads'.*an int"),
        ({"beam_hole": 300.0}, "No pad of make_tpc_events is left"),
        ({"domain": "data"}, "'domain' parameter of make_tpc_events must be"),
        ({"pressure": 0.0}, "'pressure' parameter of make_tpc_events must be"),
        ({"dead_pads": 1.0}, "'dead_pads' parameter of make_tpc_events must be"),
        ({"step": 50.1}, r"'step' parameter of make_tpc_events must be .*\(0.0, 50.0\]"),
        ({"threshold": 5000.0}, "'threshold'.*below the saturation of 4095 ADC counts.*Got 5000"),
        ({"saturation": 40.0}, "'threshold'.*below the saturation of 40 ADC counts.*Got 40 "),
        ({"saturation": 50.0, "domain": "real"}, "'threshold'.*below the saturation.*Got 55 "),
    ],
)
def test_errors_name_the_parameter(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_tpc_events(3, **parameters)
