"""The optical model against closed forms, conservation laws and an integrator of another kind."""

import itertools
import math
import pickle

import mpmath
import numpy as np
import pytest
from numpy.polynomial.legendre import leggauss
from scipy.integrate import quad, solve_ivp
from scipy.special import eval_legendre, expit, spherical_jn, spherical_yn
from scipy.stats import kstest

from sknuc.datasets import elastic_scattering, koning_delaroche, make_optical_model
from sknuc.datasets._optical_coulomb import coulomb_functions
from sknuc.datasets._optical_potential import HBARC, PION_RADIUS_SQUARED, kinematics
from sknuc.datasets._optical_waves import partial_waves

LEAD, CALCIUM = (82, 208), (20, 40)
STRENGTHS = ("V", "W", "W_d", "V_so", "W_so")


def potential_of(energy, nucleus, projectile="neutron", **changes):
    return koning_delaroche(energy, nucleus=nucleus, projectile=projectile) | changes


def nothing_but(energy, nucleus, projectile="neutron", **strengths):
    """The geometry of Koning and Delaroche with these strengths and no others."""
    zeros = dict.fromkeys(STRENGTHS, 0.0)
    return potential_of(energy, nucleus, projectile, **(zeros | strengths))


def at(values, i):
    return {name: v[i] if np.ndim(v) else v for name, v in values.items()}


# --- Coulomb functions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eta", "rho", "top"),
    [(0.0, 0.08, 6), (0.0, 17.0, 25), (0.16, 2.5, 5), (1.4, 9.0, 20), (5.8, 14.0, 15), (41, 84, 8)],
)
def test_coulomb_functions_are_those_of_mpmath(eta, rho, top):
    F, G = np.empty((2, top + 1))
    coulomb_functions(float(eta), float(rho), F, G)
    for ell in (0, 1, top // 2, top):
        np.testing.assert_allclose(F[ell], float(mpmath.coulombf(ell, eta, rho)), rtol=2e-13)
        np.testing.assert_allclose(G[ell], float(mpmath.coulombg(ell, eta, rho)), rtol=2e-13)


def test_coulomb_functions_without_charge_are_riccati_bessel_functions():
    for rho in (1e-3, 0.7, math.pi, 12.0, 60.0):
        F, G = np.empty((2, 30))
        coulomb_functions(0.0, rho, F, G)
        ell = np.arange(30)
        # sin(pi) is 1e-16 and not 0: the absolute error counts near a zero.
        np.testing.assert_allclose(F, rho * spherical_jn(ell, rho), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(G, -rho * spherical_yn(ell, rho), rtol=1e-12)


@pytest.mark.parametrize(("eta", "rho"), [(0.0, 5.0), (2.0, 6.0), (12.0, 27.0)])
def test_coulomb_functions_have_their_wronskian(eta, rho):
    # F_{l-1} G_l - F_l G_{l-1} = l / sqrt(l^2 + eta^2): DLMF 33.4.
    F, G = np.empty((2, 20))
    coulomb_functions(eta, rho, F, G)
    ell = np.arange(1, 20)
    np.testing.assert_allclose(
        F[:-1] * G[1:] - F[1:] * G[:-1], ell / np.hypot(ell, eta), rtol=1e-12
    )


# --- partial waves on a grid -------------------------------------------------------------------


def solve_grid(strength, k, step, n_points, n_l=12, eta=0.0, charge=None):
    """S - 1 for the reduced potential strength(r), in 1/fm^2."""
    r = np.arange(n_points + 1) * step
    central = step**2 / 12 * (strength(r) - k**2 + 0j)
    if eta:
        central[1:] += step**2 / 12 * 2 * eta * k / r[1:]
    T = np.zeros((n_l, 2), dtype=complex)
    partial_waves(central, np.zeros_like(central), k, eta, step, round(0.25 / step), n_l, T)
    return T[:, 0]


def square_well(ell, k, K, radius):
    """S of a square well of wave number K inside, by the logarithmic derivative at its edge."""
    x, y = k * radius, K * radius
    inside = K * spherical_jn(ell, y, derivative=True) / spherical_jn(ell, y)
    h, dh = [
        spherical_jn(ell, x, derivative=d) - 1j * spherical_yn(ell, x, derivative=d) for d in (0, 1)
    ]
    return -(k * dh - inside * h) / (k * dh - inside * h).conj()


@pytest.mark.parametrize("depth", [2.0, -0.4, -3.0])
def test_square_well_has_its_analytic_phase_shifts(depth):
    # A jump on a grid point, at which the potential is the mean of both sides, leaves an error of
    # even orders in h, of which two extrapolations take the first two.
    k, radius, ell = 0.8, 5.0, np.arange(12)
    exact = square_well(ell, k, np.emath.sqrt(k**2 + depth), radius)

    def at_step(step):
        def well(r):
            return -depth * np.where(np.isclose(r, radius), 0.5, (r < radius) * 1.0)

        return 1 + solve_grid(well, k, step, round(6.0 / step))

    coarse, fine, finest = (at_step(radius / n) for n in (200, 400, 800))
    assert np.abs(finest - exact).max() < np.abs(fine - exact).max() < np.abs(coarse - exact).max()
    once = [(4 * b - a) / 3 for a, b in ((coarse, fine), (fine, finest))]
    twice = (16 * once[1] - once[0]) / 15
    np.testing.assert_allclose(twice, exact, atol=2e-8)


def test_hard_sphere_is_the_limit_of_a_high_barrier():
    # tan(delta) = j(ka) / n(ka). The wave enters a barrier of height kappa^2 to the depth 1/kappa,
    # as if the sphere were smaller by it, and what is left is of third order in 1/kappa.
    k, radius, ell = 0.8, 5.0, np.arange(8)
    errors = []
    for kappa in (5.0, 10.0, 20.0):

        def barrier(r, kappa=kappa):
            return kappa**2 * np.where(np.isclose(r, radius), 0.5, (r < radius) * 1.0)

        coarse, fine = (
            1 + solve_grid(barrier, k, radius / n, round(6.0 / radius * n), n_l=8)
            for n in (2000, 4000)
        )
        x = k * (radius - 1 / kappa)
        hard_sphere = np.exp(2j * np.arctan(spherical_jn(ell, x) / spherical_yn(ell, x)))
        errors.append(np.abs((4 * fine - coarse) / 3 - hard_sphere).max())
    assert errors[-1] < 1e-3
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 8, rtol=0.1)


def test_numerov_converges_with_the_fourth_power_of_the_step():
    potential = potential_of(14.0, LEAD)
    S = [
        elastic_scattering(potential, 14.0, nucleus=LEAD, step=step).s_matrix[0, :18]
        for step in (0.16, 0.08, 0.04, 0.02)
    ]
    errors = [np.abs(a - b).max() for a, b in itertools.pairwise(S)]
    ratios = np.divide(errors[:-1], errors[1:])
    np.testing.assert_allclose(ratios, 16, rtol=0.1)


# --- the whole against other solutions ---------------------------------------------------------


def s_wave(V, W, radius, diffuseness, k, coupling):
    """S_0 of a Woods-Saxon potential, which hypergeometric functions solve.

    With y = 1/(1 + e^{(r-R)/a}), u = y^nu (1-y)^mu F(mu + nu, mu + nu + 1; 2 nu + 1; y) is an
    outgoing or incoming wave for nu = -+ika, and mu^2 = a^2 (-k^2 - coupling (V + iW)).
    """
    a = mpmath.mpf(float(diffuseness))
    ka = a * float(k)
    mu = mpmath.sqrt(-(ka**2) - a**2 * float(coupling) * mpmath.mpc(float(V), float(W)))
    at_origin = 1 / (1 + mpmath.exp(-mpmath.mpf(float(radius)) / a))

    def wave(nu):
        y = at_origin
        tail = mpmath.hyp2f1(mu + nu, mu + nu + 1, 2 * nu + 1, y)
        return y**nu * (1 - y) ** mu * tail

    # y -> e^{-(r-R)/a}: y^nu is e^{ik(r-R)} for nu = -ika. The sum of both vanishes at r = 0.
    outgoing, incoming = wave(-1j * ka), wave(1j * ka)
    return complex(incoming / outgoing * mpmath.exp(-2j * float(k) * float(radius)))


@pytest.mark.parametrize(("V", "W", "energy"), [(50, 0, 1), (45, 8, 14), (-20, 3, 5), (30, 15, 65)])
def test_s_wave_of_a_woods_saxon_potential_is_exact(V, W, energy):
    potential = nothing_but(energy, CALCIUM, V=V, W=W)
    result = elastic_scattering(potential, energy, nucleus=CALCIUM, relativistic=False, step=0.025)
    (k,), (coupling,), _ = kinematics(np.array([float(energy)]), *CALCIUM, "neutron", False)
    with mpmath.workdps(60):
        exact = s_wave(V, W, potential["r_v"] * 40 ** (1 / 3), potential["a_v"], k, coupling)
    np.testing.assert_allclose(result.s_matrix[0, 0, 0], exact, atol=2e-7)


def integrate(potential, energy, nucleus, projectile, ell, spin):
    """S of one wave by an adaptive Runge-Kutta integrator and the functions of mpmath."""
    Z, A = nucleus
    (k,), (coupling,), (eta,) = kinematics(np.array([energy]), Z, A, projectile, True)
    size = A ** (1 / 3)
    p = potential

    def form(r, i):
        return expit(-(r - p[f"r_{i}"] * size) / p[f"a_{i}"])

    def slope(r, i):
        f = form(r, i)
        return -f * (1 - f) / p[f"a_{i}"]

    R_c = p.get("r_c", 1.0) * size

    def g(r):
        U = -p["V"] * form(r, "v") - 1j * p["W"] * form(r, "w")
        U += 1j * p["W_d"] * 4 * p["a_d"] * slope(r, "d")
        U += spin * (p["V_so"] + 1j * p["W_so"]) * PION_RADIUS_SQUARED * slope(r, "so") / r
        charge = 1 / r if r > R_c else (3 - (r / R_c) ** 2) / (2 * R_c)
        return ell * (ell + 1) / r**2 + 2 * eta * k * charge - k**2 + coupling * U

    # Stops at the edge of the charge, where the second derivative of its potential jumps.
    y, start = np.array([1.0, (ell + 1) / 1e-3], dtype=complex), 1e-3
    end = max(22.0, (2 * eta + 3) / k)
    for stop in (R_c, end):
        y = solve_ivp(
            lambda r, y: [y[1], g(r) * y[0]],
            (start, stop), y, method="DOP853", rtol=1e-11, atol=1e-30,
        ).y[:, -1]  # fmt: skip
        start = stop
    x = k * end
    F, G = float(mpmath.coulombf(ell, eta, x)), float(mpmath.coulombg(ell, eta, x))
    dF, dG = (
        float((ell + 1) / x * f(ell, eta, x) + eta / (ell + 1) * f(ell, eta, x)
              - mpmath.sqrt(1 + (eta / (ell + 1)) ** 2) * f(ell + 1, eta, x))
        for f in (mpmath.coulombf, mpmath.coulombg)
    )  # fmt: skip
    ratio = y[1] / y[0] / k
    return (dG - 1j * dF - ratio * (G - 1j * F)) / (dG + 1j * dF - ratio * (G + 1j * F))


@pytest.mark.parametrize(
    ("projectile", "nucleus", "energy"),
    [("neutron", LEAD, 14.0), ("proton", LEAD, 14.0), ("proton", CALCIUM, 30.0)],
)
def test_partial_waves_are_those_of_an_adaptive_integrator(projectile, nucleus, energy):
    potential = potential_of(energy, nucleus, projectile)
    result = elastic_scattering(
        potential, energy, nucleus=nucleus, projectile=projectile, step=0.025
    )
    for ell, j in ((0, 0), (1, 0), (1, 1), (4, 1), (7, 0), (10, 1)):
        expected = integrate(potential, energy, nucleus, projectile, ell, -(ell + 1) if j else ell)
        np.testing.assert_allclose(result.s_matrix[0, ell, j], expected, atol=2e-7)


@pytest.mark.parametrize("energy", [0.01, 1.0, 14.0, 65.0])
@pytest.mark.parametrize("projectile", ["neutron", "proton"])
def test_the_default_step_is_fine_enough(projectile, energy):
    energy = max(energy, 0.5) if projectile == "proton" else energy
    for nucleus in ((12, 24), LEAD):
        potential = potential_of(energy, nucleus, projectile)
        default, fine = (
            elastic_scattering(potential, energy, nucleus=nucleus, projectile=projectile, step=step)
            for step in (None, 0.015)
        )
        np.testing.assert_allclose(default.s_matrix, fine.s_matrix, atol=1e-5)
        np.testing.assert_allclose(default.cross_section, fine.cross_section, rtol=2e-4)


# --- conservation laws -------------------------------------------------------------------------

ENERGIES = np.array([0.01, 0.5, 3.0, 14.0, 40.0, 96.0])


@pytest.mark.parametrize("projectile", ["neutron", "proton"])
def test_real_potentials_conserve_flux_and_absorbing_ones_lose_it(projectile):
    lowest = 0.5 if projectile == "proton" else 0.0
    energies = ENERGIES[lowest <= ENERGIES]
    potential = potential_of(energies, LEAD, projectile)
    real = elastic_scattering(
        potential | dict.fromkeys(("W", "W_d", "W_so"), 0.0), energies, nucleus=LEAD,
        projectile=projectile,
    )  # fmt: skip
    np.testing.assert_allclose(np.abs(real.s_matrix), 1, atol=1e-12)
    np.testing.assert_allclose(real.reaction * real.wave_number**2, 0, atol=1e-10)
    absorbing = elastic_scattering(potential, energies, nucleus=LEAD, projectile=projectile)
    # Where nothing reaches the nucleus, S is 1 within the rounding of a thousand steps.
    assert np.all(np.abs(absorbing.s_matrix) < 1 + 1e-10)
    inner = np.abs(absorbing.s_matrix[energies > 10, :5, 0])
    assert np.all(inner < 0.9)


def test_optical_theorem():
    # sigma_tot = 4 pi / k Im f(0); of f(0) the modulus is known from the cross-section alone, so
    # the imaginary part comes from S.
    result = elastic_scattering(potential_of(ENERGIES, LEAD), ENERGIES, nucleus=LEAD, angles=[0.0])
    k, T = result.wave_number, result.s_matrix - 1
    ell = np.arange(T.shape[1])
    f = np.sum((ell + 1) * T[..., 0] + ell * T[..., 1], axis=1) / (2j * k)
    np.testing.assert_allclose(result.cross_section[:, 0], 10 * np.abs(f) ** 2, rtol=1e-12)
    np.testing.assert_allclose(result.total, 40 * np.pi / k * f.imag, rtol=1e-12)
    np.testing.assert_allclose(result.total, result.elastic + result.reaction, rtol=1e-12)


def test_cross_sections_integrate_over_the_sphere():
    x, weights = leggauss(160)
    angles = np.rad2deg(np.arccos(x))
    result = elastic_scattering(potential_of(ENERGIES, LEAD), ENERGIES, nucleus=LEAD, angles=angles)
    integral = 2 * np.pi * result.cross_section @ weights
    np.testing.assert_allclose(integral, result.elastic, rtol=1e-10)


# --- limits ------------------------------------------------------------------------------------


def test_no_potential_scatters_nothing():
    result = elastic_scattering(nothing_but(14.0, LEAD), 14.0, nucleus=LEAD)
    # What the integration of a free wave errs, |S - 1| ~ 1e-6, squared.
    assert result.cross_section.max() < 1e-6
    assert np.abs(result.total[0]) < 1e-6
    fine = elastic_scattering(nothing_but(14.0, LEAD), 14.0, nucleus=LEAD, step=0.01)
    assert fine.cross_section.max() < 1e-9


@pytest.mark.parametrize("energy", [3.0, 14.0, 65.0])
def test_weak_potentials_scatter_as_in_the_born_approximation(energy):
    # The mean over both signs of the potential has no second-order term in it.
    V = 0.05
    potential = nothing_but(energy, CALCIUM, V=np.array([V, -V]))
    angles = np.array([5.0, 20.0, 40.0, 60.0])
    result = elastic_scattering(potential, energy, nucleus=CALCIUM, angles=angles, step=0.02)
    (k,), (coupling,), _ = kinematics(np.array([energy]), *CALCIUM, "neutron", True)
    R, a = potential["r_v"] * 40 ** (1 / 3), potential["a_v"]
    for angle, cross_section in zip(angles, result.cross_section.mean(axis=0), strict=True):
        q = 2 * k * math.sin(math.radians(angle) / 2)
        integral, _ = quad(lambda r, q=q: r * expit((R - r) / a) * np.sin(q * r) / q, 0, 40)
        np.testing.assert_allclose(cross_section, 10 * (coupling * V * integral) ** 2, rtol=1e-3)


def test_rutherford_scattering_below_the_barrier_and_at_small_angles():
    angles = np.array([1e-2, 1.0, 20.0, 90.0, 180.0])
    result = elastic_scattering(
        potential_of(2.0, LEAD, "proton"), 2.0, nucleus=LEAD, projectile="proton", angles=angles
    )
    k, eta = result.wave_number[0], result.sommerfeld[0]
    rutherford = 10 * (eta / (2 * k)) ** 2 / np.sin(np.deg2rad(angles) / 2) ** 4
    np.testing.assert_allclose(result.cross_section[0], rutherford, rtol=1e-6)
    # Above it, only where the momentum transfer is small.
    fast = elastic_scattering(
        potential_of(30.0, LEAD, "proton"), 30.0, nucleus=LEAD, projectile="proton", angles=angles
    )
    k, eta = fast.wave_number[0], fast.sommerfeld[0]
    ratio = fast.cross_section[0] / (
        10 * (eta / (2 * k)) ** 2 / np.sin(np.deg2rad(angles) / 2) ** 4
    )
    np.testing.assert_allclose(ratio[0], 1, rtol=1e-3)
    assert ratio[-1] < 0.2


def test_nonrelativistic_rutherford_cross_section_is_that_of_the_energy():
    # (Z e^2 / (4 E_cm))^2 / sin^4(theta/2), with e^2 = alpha hbar c.
    result = elastic_scattering(
        potential_of(1.0, LEAD, "proton"), 1.0, nucleus=LEAD, projectile="proton", angles=[90.0],
        relativistic=False,
    )  # fmt: skip
    m, M = 938.27208943, 208 * 931.49410372
    E_cm = M / (m + M)
    expected = 10 * (82 * HBARC / 137.035999177 / (4 * E_cm)) ** 2 * 4
    np.testing.assert_allclose(result.cross_section[0, 0], expected, rtol=1e-7)


def test_relativity_fades_at_low_energy():
    energies = np.array([0.01, 0.1, 1.0, 10.0, 100.0])
    k, coupling, eta = kinematics(energies, *LEAD, "proton", True)
    k0, coupling0, eta0 = kinematics(energies, *LEAD, "proton", False)
    # k = sqrt(T (T + 2m)) M / sqrt(s): of first order in T / 2m, less the recoil.
    for value, other in ((k, k0), (coupling, coupling0), (eta, eta0)):
        change = np.abs(value / other - 1) / energies
        np.testing.assert_allclose(change[1], change[0], rtol=0.01)
        assert np.all(np.abs(value / other - 1) < 1.2 * energies / 938)


def test_without_spin_orbit_force_spins_do_not_matter():
    free = elastic_scattering(potential_of(14.0, LEAD, V_so=0.0, W_so=0.0), 14.0, nucleus=LEAD)
    np.testing.assert_array_equal(free.s_matrix[0, 1:, 0], free.s_matrix[0, 1:, 1])
    np.testing.assert_array_equal(free.analyzing_power, 0)
    # To first order in the force, its sign is that of the analyzing power.
    up, down = (
        elastic_scattering(
            potential_of(14.0, LEAD, V_so=V_so, W_so=0.0), 14.0, nucleus=LEAD
        ).analyzing_power
        for V_so in (1e-4, -1e-4)
    )
    np.testing.assert_allclose(up, -down, atol=1e-3 * np.abs(up).max())
    assert np.abs(up).max() > 1e-6
    full = elastic_scattering(potential_of(14.0, LEAD), 14.0, nucleus=LEAD)
    assert np.all(np.abs(full.analyzing_power) <= 1)


def test_spin_amplitudes_are_those_of_the_rotation_group():
    # A sum over Legendre polynomials of scipy and their derivatives by recurrence.
    angles = np.array([15.0, 50.0, 120.0])
    result = elastic_scattering(
        potential_of(14.0, LEAD, "proton"), 14.0, nucleus=LEAD, projectile="proton", angles=angles
    )
    x, k, eta = np.cos(np.deg2rad(angles)), result.wave_number[0], result.sommerfeld[0]
    T = result.s_matrix[0] - 1
    ell = np.arange(len(T))
    with mpmath.workdps(30):
        sigma = np.array([float(mpmath.arg(mpmath.gamma(n + 1 + 1j * eta))) for n in ell])
    turn = np.exp(2j * sigma)
    P = eval_legendre(ell, x[:, None])
    dP = ell * (x[:, None] * P - eval_legendre(np.maximum(ell - 1, 0), x[:, None]))
    dP /= x[:, None] ** 2 - 1
    half = (1 - x) / 2
    f = -eta / (2 * k * half) * np.exp(-1j * eta * np.log(half) + 2j * sigma[0])
    f = f + P @ (turn * ((ell + 1) * T[:, 0] + ell * T[:, 1])) / (2j * k)
    g = np.sqrt(1 - x**2) * (dP @ (turn * (T[:, 0] - T[:, 1]))) / (2 * k)
    intensity = np.abs(f) ** 2 + np.abs(g) ** 2
    np.testing.assert_allclose(result.cross_section[0], 10 * intensity, rtol=1e-10)
    np.testing.assert_allclose(
        result.analyzing_power[0], 2 * (f.conj() * g).real / intensity, atol=1e-10
    )


# --- measured ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nucleus", "nonelastic", "error"),
    [((82, 208), 2580.0, 90.0), ((83, 209), 2530.0, 50.0), ((29, 63), 1440.0, 30.0)],
)
def test_nonelastic_cross_sections_of_14_mev_neutrons(nucleus, nonelastic, error):
    # Measured by the sphere transmission technique: "Nonelastic Cross Sections of Pb206 and Pb208
    # for 14-MeV Neutrons", Phys. Rev. A global potential is good to some 3 %.
    result = elastic_scattering(potential_of(14.0, nucleus), 14.0, nucleus=nucleus)
    tolerance = 2 * math.hypot(error, 0.03 * nonelastic)
    np.testing.assert_allclose(result.reaction[0], nonelastic, atol=tolerance)


# --- the data set ------------------------------------------------------------------------------


@pytest.mark.parametrize(("energy", "nucleus"), [(14.0, LEAD), (50.0, CALCIUM)])
def test_the_potential_of_koning_and_delaroche(energy, nucleus):
    # Its symmetry: neutrons and protons see opposite signs of the asymmetry, and only protons the
    # Coulomb correction, so that the sum over a nucleus and its mirror is that of N = Z.
    Z, A = nucleus
    potential = koning_delaroche(energy, nucleus=nucleus)
    mirror = koning_delaroche(energy, nucleus=(A - Z, A))
    middle = koning_delaroche(energy, nucleus=(A // 2, A))
    for name, value in potential.items():
        np.testing.assert_allclose((value + mirror[name]) / 2, middle[name], rtol=1e-12)
    # Volume integrals per nucleon of some 300 to 450 MeV fm^3 are what all such potentials share.
    R = potential["r_v"] * A ** (1 / 3)
    volume = 4 / 3 * np.pi * R**3 * (1 + (np.pi * potential["a_v"] / R) ** 2)
    assert 250 < potential["V"] * volume / A < 450
    proton = koning_delaroche(energy, nucleus=nucleus, projectile="proton")
    assert proton["V"] > potential["V"]
    assert proton.keys() - potential.keys() == {"r_c"}


def test_energies_come_one_by_one_or_as_an_array():
    energies = np.array([1.0, 14.0, 100.0])
    together = koning_delaroche(energies, nucleus=LEAD, projectile="proton")
    for i, energy in enumerate(energies):
        alone = koning_delaroche(energy, nucleus=LEAD, projectile="proton")
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-14)


@pytest.mark.parametrize("projectile", ["neutron", "proton"])
def test_an_event_has_the_same_bits_in_any_company_and_on_any_thread(projectile):
    rng = np.random.default_rng(0)
    energies = rng.uniform(1, 60, 300)
    potential = potential_of(energies, LEAD, projectile)
    potential["a_v"] = rng.uniform(0.5, 0.8, 300)
    settings = {"nucleus": LEAD, "projectile": projectile}
    together = elastic_scattering(potential, energies, **settings)
    threads = elastic_scattering(potential, energies, n_jobs=2, **settings)
    for name in ("cross_section", "analyzing_power", "reaction", "s_matrix"):
        np.testing.assert_array_equal(together[name], threads[name])
    for i in (0, 5, 299):
        alone = elastic_scattering(at(potential, i), energies[i], **settings)
        for name in ("cross_section", "analyzing_power", "reaction"):
            np.testing.assert_array_equal(alone[name][0], together[name][i])


def test_parameters_are_uniform_and_cross_sections_those_of_the_theory():
    theory = make_optical_model(2000, angles=[20.0, 90.0], random_state=0)
    assert theory.data.shape == (2000, 6)
    assert theory.target.shape == (2000, 2)
    for name, column in zip(theory.parameter_names, theory.data.T, strict=True):
        low, high = theory.ranges[name]
        np.testing.assert_allclose((low, high), theory.potential[name] * np.array([0.9, 1.1]))
        assert kstest(column, "uniform", (low, high - low)).pvalue > 1e-4
    potential = theory.potential | dict(zip(theory.parameter_names, theory.data.T, strict=True))
    potential |= {"r_w": potential["r_v"], "a_w": potential["a_v"]}
    direct = elastic_scattering(potential, 14.0, nucleus=LEAD, angles=[20.0, 90.0])
    np.testing.assert_array_equal(theory.cross_section, direct.cross_section)
    np.testing.assert_array_equal(theory.target, np.log(direct.cross_section))
    np.testing.assert_array_equal(theory.reaction, direct.reaction)
    np.testing.assert_array_equal(theory.total, direct.total)
    assert theory.units["V"] == "MeV"
    assert theory.units["r_d"] == "fm"


@pytest.mark.parametrize("log", [True, False])
def test_the_theory_computes_other_parameters(log):
    ranges = {"r_w": (1.1, 1.3), "V": (40, 50)}
    theory = make_optical_model(
        4, ranges=ranges, projectile="proton", energy=20.0, nucleus=CALCIUM, log=log, random_state=1
    )
    compute = pickle.loads(pickle.dumps(theory.compute))
    np.testing.assert_array_equal(compute(theory.data[::-1]), theory.target[::-1])
    assert theory.total is None
    potential = theory.potential | {"r_w": 1.2, "V": 45.0}
    direct = elastic_scattering(potential, 20.0, nucleus=CALCIUM, projectile="proton")
    values = np.exp(compute([[1.2, 45.0]])) if log else compute([[1.2, 45.0]])
    np.testing.assert_allclose(values, direct.cross_section, rtol=1e-14)
    with pytest.raises(ValueError, match=r"columns r_w, V. Got an array of shape \(1, 3\)"):
        compute([[1.2, 45.0, 0.0]])


@pytest.mark.parametrize("log", [True, False])
def test_noise_is_relative(log):
    exact = make_optical_model(500, log=log, random_state=2)
    noisy = make_optical_model(500, log=log, noise=0.05, random_state=2)
    np.testing.assert_array_equal(noisy.data, exact.data)
    np.testing.assert_array_equal(noisy.cross_section, exact.cross_section)
    pulls = noisy.target - exact.target if log else np.log(noisy.target / exact.target)
    assert kstest(pulls.ravel() / 0.05, "norm").pvalue > 1e-4
    X, y = make_optical_model(500, log=log, noise=0.05, random_state=2, return_X_y=True)
    np.testing.assert_array_equal(X, noisy.data)
    np.testing.assert_array_equal(y, noisy.target)


def test_same_seed_same_bits_whatever_the_threads():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = make_optical_model(300, noise=0.1, random_state=5)
    second = make_optical_model(300, noise=0.1, random_state=5, n_jobs=2)
    np.testing.assert_array_equal(first.target, second.target)
    other = make_optical_model(300, noise=0.1, random_state=6)
    assert not np.any(first.data == other.data)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# --- errors ------------------------------------------------------------------------------------

GOOD = koning_delaroche(14.0, nucleus=LEAD)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"potential": {"V": 50.0}}, r"Missing: \['V_so', 'W'"),
        ({"potential": GOOD | {"r_c": 1.2}}, r"unknown: \['r_c'\]"),
        ({"potential": GOOD | {"V": np.nan}}, "'V' in elastic_scattering must be finite"),
        ({"potential": GOOD | {"a_v": -0.6}}, "'a_v' in elastic_scattering must be finite and pos"),
        ({"potential": GOOD | {"V": "deep"}}, "must be an array of numbers. Got 'deep'"),
        ({"potential": GOOD | {"V": [40, 45]}, "energy": [1, 2, 3]}, "arrays of one length"),
        ({"energy": 0.0}, "'energy' in elastic_scattering must be finite and positive"),
        ({"energy": 3000.0}, "needs .* partial waves"),
        ({"energy": np.array([])}, "must be of one event at least. Got none"),
        ({"potential": GOOD | {"V": []}}, "must be of one event at least. Got none"),
        ({"nucleus": (208, 82)}, r"whole numbers \(Z, A\).*Got \(208, 82\)"),
        ({"nucleus": (82.5, 208)}, r"whole numbers \(Z, A\)"),
        ({"angles": [200.0]}, r"angles in degrees, in \[0, 180\]. Got \[200.0\]"),
        ({"angles": []}, "'angles' parameter of elastic_scattering"),
        ({"step": 0.4}, r"'step' parameter of elastic_scattering must be at most 0.2"),
        ({"step": -0.1}, "'step' parameter of elastic_scattering must be"),
        ({"projectile": "pion"}, "'projectile' parameter of elastic_scattering must be"),
    ],
)
def test_scattering_refuses_what_has_no_meaning(changes, message):
    with pytest.raises(ValueError, match=message):
        elastic_scattering(**({"potential": GOOD, "energy": 14.0, "nucleus": LEAD} | changes))


def test_steps_without_end_are_refused():
    potential = koning_delaroche(14.0, nucleus=LEAD, projectile="proton")
    with pytest.raises(ValueError, match="closer to the Coulomb barrier"):
        elastic_scattering(potential, 1e-3, nucleus=LEAD, projectile="proton")
    with pytest.raises(ValueError, match="Use a longer 'step'"):
        elastic_scattering(GOOD, 14.0, nucleus=LEAD, step=1e-5)


@pytest.mark.parametrize("nucleus", [(12, 24), (50, 120), LEAD])
def test_slow_protons_scatter_as_rutherford_said_down_to_a_tenth_of_a_kev_per_charge(nucleus):
    energy = 0.11e-3 * nucleus[0]
    potential = koning_delaroche(energy, nucleus=nucleus, projectile="proton")
    slow = elastic_scattering(
        potential, energy, nucleus=nucleus, projectile="proton", relativistic=False
    )
    half = np.sin(np.deg2rad(slow.angles) / 2)
    rutherford = (slow.sommerfeld / (2 * slow.wave_number * half**2)) ** 2 * 10
    np.testing.assert_allclose(slow.cross_section[0], rutherford, rtol=1e-6)
    with pytest.raises(ValueError, match="closer to the Coulomb barrier"):
        elastic_scattering(potential, 0.9 * energy, nucleus=nucleus, projectile="proton")


def test_energies_of_the_global_potential():
    for energy in (0.0005, 200.1, [14.0, np.nan], [], [[14.0]]):
        with pytest.raises(ValueError, match="'energy' parameter of koning_delaroche must be in"):
            koning_delaroche(energy, nucleus=LEAD)


def test_protons_are_not_seen_at_zero_degrees():
    potential = koning_delaroche(14.0, nucleus=LEAD, projectile="proton")
    with pytest.raises(ValueError, match="Coulomb amplitude diverges"):
        elastic_scattering(potential, 14.0, nucleus=LEAD, projectile="proton", angles=[0.0, 10.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nucleus": (2, 4)}, "24 <= A <= 209"),
        (
            {"energy": 300.0},
            r"'energy' parameter of make_optical_model must be in \[0.001, 200\] MeV.*Got 300.0",
        ),
        ({"energy": 0.001, "projectile": "proton"}, "waves of make_optical_model need .* steps"),
        ({"step": 1.0}, "'step' parameter of make_optical_model must be at most"),
        ({"ranges": {"a_v": (-0.6, -0.5)}}, "'a_v' in make_optical_model must be finite and pos"),
        ({"ranges": {"r_c": (1.0, 1.3)}}, r"parameters of the potential of a neutron.*\['r_c'\]"),
        ({"ranges": {}}, "'ranges' parameter of make_optical_model"),
        ({"ranges": {"V": (50.0, 40.0)}}, r"\(low, high\) with low <= high"),
        ({"ranges": {"V": (40.0,)}}, r"\(low, high\) with low <= high"),
        ({"noise": -0.1}, "'noise' parameter of make_optical_model must be"),
        ({"n_samples": 0}, "'n_samples' parameter of make_optical_model must be"),
    ],
)
def test_the_data_set_refuses_what_has_no_meaning(changes, message):
    with pytest.raises(ValueError, match=message):
        make_optical_model(**({"n_samples": 2, "random_state": 0} | changes))
