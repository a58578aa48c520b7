"""The sphere in numbers, against closed forms, scipy and the algebra of rotations."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import eval_legendre, sph_harm_y
from scipy.stats import kstest

from sknuc.geometry import (
    cell_areas,
    directions,
    equiangular_sphere,
    fibonacci_sphere,
    gauss_legendre_sphere,
    harmonic_analysis,
    healpix_sphere,
    highest_degree,
    polar_angles,
    random_rotations,
    rotation_harmonics,
    spherical_harmonics,
    wigner_d,
)


def random_points(n, seed=0):
    points = np.random.default_rng(seed).standard_normal((n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def rotations(n=6, seed=0):
    return random_rotations(n, np.random.default_rng(seed))


def about_z(angles):
    c, s, o = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.moveaxis(np.array([[c, -s, o], [s, c, o], [o, o, o + 1]]), -1, 0)


def about_y(angles):
    c, s, o = np.cos(angles), np.sin(angles), np.zeros_like(angles)
    return np.moveaxis(np.array([[c, o, s], [o, o + 1, o], [-s, o, c]]), -1, 0)


PIXELS = {
    "fibonacci": fibonacci_sphere(300),
    "healpix": healpix_sphere(5),
    "equiangular": equiangular_sphere(16, 20)[0],
    "jittered": 850.0 * fibonacci_sphere(300)
    + np.random.default_rng(0).normal(0, 30.0, size=(300, 3)),
}


def test_angles_and_directions_are_inverse():
    points = random_points(100)
    theta, phi = polar_angles(7.0 * points)
    np.testing.assert_allclose(directions(theta, phi), points, atol=1e-15)
    assert phi.min() >= 0
    assert phi.max() < 2 * np.pi
    axes = polar_angles([[0, 0, 2.0], [0, 0, -1.0], [1, 0, 0], [0, 3.0, 0], [-1, 0, 0], [0, -1, 0]])
    np.testing.assert_allclose(axes[0], np.pi * np.array([0, 1, 0.5, 0.5, 0.5, 0.5]), atol=1e-15)
    np.testing.assert_allclose(axes[1][2:], np.pi * np.array([0, 0.5, 1, 1.5]), atol=1e-15)
    # Just below the x axis: no angle of 2π, which would be outside the first cell and the last.
    assert polar_angles([1.0, -1e-300, 0.0])[1] == 0


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 12])
def test_gauss_legendre_integrates_harmonics_and_no_more(degree):
    points, weights = gauss_legendre_sphere(degree)
    assert len(points) == math.ceil((degree + 1) / 2) * (degree + 1)
    integrals = weights @ spherical_harmonics(degree, points)
    np.testing.assert_allclose(integrals[0], math.sqrt(4 * np.pi), rtol=1e-14)
    np.testing.assert_allclose(integrals[1:], 0, atol=1e-13)
    beyond = weights @ spherical_harmonics(degree + 1, points)[:, (degree + 1) ** 2 :]
    assert np.abs(beyond).max() > 0.1


def test_harmonics_are_orthonormal():
    points, weights = gauss_legendre_sphere(24)
    harmonics = spherical_harmonics(12, points)
    gram = harmonics.T @ (weights[:, None] * harmonics)
    np.testing.assert_allclose(gram, np.eye(169), atol=1e-13)


def test_harmonics_are_the_real_ones_of_scipy():
    points = np.concatenate([random_points(50), [[0, 0, 1.0], [0, 0, -1.0], [1.0, 0, 0]]])
    theta, phi = polar_angles(points)
    harmonics = spherical_harmonics(9, 3.0 * points)
    for column in range(100):
        l = math.isqrt(column)  # noqa: E741
        m = column - l * l - l
        complex_one = sph_harm_y(l, abs(m), theta, phi)
        real = complex_one.real if m >= 0 else complex_one.imag
        expected = real * (math.sqrt(2) if m else 1.0)
        np.testing.assert_allclose(harmonics[:, column], expected, atol=1e-13)
    x, y, z = points.T
    expected = np.sqrt(3 / (4 * np.pi)) * np.stack([-y, z, -x], 1)  # Condon-Shortley
    np.testing.assert_allclose(harmonics[:, 1:4], expected, atol=1e-15)


def test_harmonics_at_the_poles():
    north, south = spherical_harmonics(30, [[0, 0, 1.0], [0, 0, -2.0]])
    degree = np.repeat(np.arange(31), 2 * np.arange(31) + 1)
    zonal = np.arange(31**2) == degree**2 + degree
    height = np.where(zonal, np.sqrt((2 * degree + 1) / (4 * np.pi)), 0.0)
    np.testing.assert_allclose(north, height, atol=1e-13)
    np.testing.assert_allclose(south, height * (-1.0) ** degree, atol=1e-13)


def test_addition_theorem():
    points = np.concatenate([random_points(20), [[0, 0, 1.0], [0, 0, -1.0]]])
    harmonics = spherical_harmonics(20, points)
    for degree in (0, 1, 7, 20):
        own = harmonics[:, degree**2 : (degree + 1) ** 2]
        expected = (2 * degree + 1) / (4 * np.pi) * eval_legendre(degree, points @ points.T)
        np.testing.assert_allclose(own @ own.T, expected, atol=1e-12)


@pytest.mark.parametrize("degree", [0, 1, 2, 5, 11])
def test_wigner_matrices_are_a_representation_and_rotate_signals(degree):
    first, second = rotations(4, 0), rotations(4, 1)
    D = wigner_d(degree, first)
    identity = np.broadcast_to(np.eye(2 * degree + 1), D.shape)
    np.testing.assert_allclose(D @ np.swapaxes(D, 1, 2), identity, atol=1e-12)
    np.testing.assert_allclose(wigner_d(degree, np.eye(3)[None]), identity[:1], atol=1e-12)
    np.testing.assert_allclose(
        wigner_d(degree, first @ second), D @ wigner_d(degree, second), atol=1e-12
    )
    points = random_points(30)
    own = slice(degree**2, None)
    coefficients = np.random.default_rng(2).standard_normal(2 * degree + 1)
    for R, matrix in zip(first, D, strict=True):
        turned = spherical_harmonics(degree, points @ R)[:, own] @ coefficients  # f(R^-1 x)
        rotated = spherical_harmonics(degree, points)[:, own] @ (matrix @ coefficients)
        np.testing.assert_allclose(rotated, turned, atol=1e-12)


def test_wigner_matrices_of_degree_one_are_the_rotations():
    order = [1, 2, 0]  # Y_1m goes like -y, z, -x
    sign = np.array([-1, 1, -1])
    R = rotations()
    expected = R[:, order][:, :, order] * np.outer(sign, sign)
    np.testing.assert_allclose(wigner_d(1, R), expected, atol=1e-14)


@pytest.mark.parametrize(("l_max", "max_order"), [(0, 0), (4, 0), (4, 1), (3, 3)])
def test_rotation_harmonics_are_orthonormal_on_their_grid(l_max, max_order):
    harmonics, weights = rotation_harmonics(l_max, max_order, 2 * l_max, 2 * max_order)
    assert weights.sum() == pytest.approx(1, abs=1e-13)
    flat = harmonics.reshape(len(weights), -1)
    gram = flat.T @ (weights[:, None] * flat)
    exists = np.zeros((2 * max_order + 1, (l_max + 1) ** 2))
    for degree, n in itertools.product(range(l_max + 1), range(-max_order, max_order + 1)):
        if abs(n) <= degree:
            exists[n + max_order, degree**2 : (degree + 1) ** 2] = 1
    np.testing.assert_allclose(gram, np.diag(exists.ravel()), atol=1e-12)


def test_rotation_harmonics_are_wigner_matrices_of_euler_angles():
    degree, order = 5, 2
    harmonics, weights = rotation_harmonics(3, 2, degree, order)
    points, _ = gauss_legendre_sphere(degree)
    theta, alpha = polar_angles(points)
    gamma = 2 * np.pi * np.arange(order + 1) / (order + 1)
    R = (about_z(alpha) @ about_y(theta))[:, None] @ about_z(gamma)
    R = R.reshape(-1, 3, 3)
    assert len(R) == len(weights)
    for l in range(4):  # noqa: E741
        kept = min(l, 2)
        expected = math.sqrt(2 * l + 1) * wigner_d(l, R)[:, :, l - kept : l + kept + 1]
        actual = harmonics[:, 2 - kept : 3 + kept, l * l : (l + 1) ** 2]
        np.testing.assert_allclose(np.swapaxes(actual, 1, 2), expected, atol=1e-12)
    # Order 0 are functions of where the z axis goes.
    expected = math.sqrt(4 * np.pi) * spherical_harmonics(3, R[:, :, 2])
    np.testing.assert_allclose(harmonics[:, 2], expected, atol=1e-12)


@pytest.mark.parametrize("name", PIXELS)
def test_analysis_of_band_limited_signals_is_exact(name):
    points = PIXELS[name]
    l_max = highest_degree(points)
    assert l_max >= 8
    for degree in (0, 3, l_max):
        recovered = harmonic_analysis(points, degree) @ spherical_harmonics(degree, points)
        np.testing.assert_allclose(recovered, np.eye((degree + 1) ** 2), atol=1e-12)
    # Only directions matter.
    stretched = points * np.random.default_rng(0).uniform(0.1, 9.0, size=(len(points), 1))
    np.testing.assert_allclose(
        harmonic_analysis(stretched, l_max), harmonic_analysis(points, l_max), atol=1e-12
    )


def test_analysis_of_many_even_pixels_is_the_quadrature():
    # The quadrature is not exact; its error falls with the area of the pixels.
    errors = []
    for n in (200, 800, 3200):
        points = fibonacci_sphere(n)
        quadrature = spherical_harmonics(4, points).T * 4 * np.pi / n
        errors.append(np.abs(harmonic_analysis(points, 4) - quadrature).sum(1).max())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.02


def test_the_highest_degree_is_the_last_that_is_well_conditioned():
    for points in PIXELS.values():
        root = np.sqrt(cell_areas(points))[:, None]
        l_max = highest_degree(points)

        def response(degree, points=points, root=root):
            return np.linalg.svd(root * spherical_harmonics(degree, points))[1][-1]

        assert response(l_max) ** 2 >= 0.5
        assert (l_max + 2) ** 2 > len(points) or response(l_max + 1) ** 2 < 0.5
        assert highest_degree(points, at_most=3) == 3
    assert highest_degree([[0, 0, 1.0]]) == 0


def test_pixels_that_do_not_determine_the_degree_are_an_error():
    points = fibonacci_sphere(300)
    with pytest.raises(ValueError, match=r"99 pixels do not determine.*up to degree 9.*too few"):
        harmonic_analysis(fibonacci_sphere(99), 9)
    hole = points[points[:, 2] < 0.3]
    with pytest.raises(ValueError, match=f"{len(hole)} pixels.*up to degree 8.*hole"):
        harmonic_analysis(hole, 8)
    assert harmonic_analysis(points, 8).shape == (81, 300)
    ring = directions(np.pi / 2, 2 * np.pi * np.arange(40) / 40)
    with pytest.raises(ValueError, match=r"40 pixels do not determine.*up to degree 1"):
        harmonic_analysis(ring, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 300])
def test_two_pixels_in_one_direction_are_an_error(n):
    points = fibonacci_sphere(n)
    doubled = np.concatenate([points, 2.0 * points[-1:]])
    for function in (cell_areas, highest_degree, lambda p: harmonic_analysis(p, 0)):
        with pytest.raises(ValueError, match="Two pixels lie in the same direction"):
            function(doubled)
        function(points)


def test_cells_of_equal_pixels_share_the_sphere():
    golden = (1 + math.sqrt(5)) / 2
    octahedron = np.concatenate([np.eye(3), -np.eye(3)])
    cube = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    rectangle = np.array([(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    icosahedron = np.concatenate([np.roll(rectangle, shift, 1) for shift in range(3)])
    for solid in (octahedron, cube, icosahedron):
        expected = np.full(len(solid), 4 * np.pi / len(solid))
        np.testing.assert_allclose(cell_areas(solid @ rotations(1)[0]), expected, rtol=1e-12)
    for few in (octahedron[:1], octahedron[:3], octahedron[[0, 1, 3, 4]]):
        np.testing.assert_allclose(cell_areas(few), 4 * np.pi / len(few))
    for points in PIXELS.values():
        assert cell_areas(points).sum() == pytest.approx(4 * np.pi, rel=1e-12)


@pytest.mark.parametrize("n_theta", [7, 16])
def test_cells_of_an_equiangular_grid(n_theta):
    for n_phi in (12, 48):
        points, areas = equiangular_sphere(n_theta, n_phi)
        assert areas.sum() == pytest.approx(4 * np.pi, rel=1e-14)
        # The border between two rings is no circle but a polygon around it, n_phi great circles
        # that touch it. Half a side makes with the pole a right-angled spherical triangle with
        # the angle π/n_phi there: cos B = cos b sin A, and its area is A + B - π/2.
        edges = np.pi * np.arange(n_theta + 1) / n_theta
        half = np.pi / n_phi
        caps = 2 * (half - np.arcsin(np.cos(edges) * math.sin(half)))
        voronoi = cell_areas(points)
        np.testing.assert_allclose(voronoi, np.repeat(np.diff(caps), n_phi), rtol=1e-9)
        # arcsin(x sin A) - x A = -x (1 - x²) A³/6 + ..., so that two borders differ by
        # less than 2 · 0.39 A³/6 each per half side.
        assert np.abs(voronoi - areas).max() < 4 * 0.39 * half**3 / 6


def test_equiangular_cells_have_their_centres_and_areas():
    points, areas = equiangular_sphere(6, 8)
    theta, phi = (angle.reshape(6, 8) for angle in polar_angles(points))
    np.testing.assert_allclose(theta[:, 0], np.pi * (np.arange(6) + 0.5) / 6)
    np.testing.assert_allclose(phi[0], 2 * np.pi * (np.arange(8) + 0.5) / 8)
    assert np.ptp(theta, axis=1).max() < 1e-14
    # ∫ sin θ dθ dφ over a cell.
    expected = (2 * np.pi / 8) * 2 * np.sin(theta) * math.sin(np.pi / 12)
    np.testing.assert_allclose(areas.reshape(6, 8), expected, rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 100, 1879])
def test_fibonacci_pixels_have_equal_areas(n):
    points = fibonacci_sphere(n)
    # Archimedes: zones of equal height have equal areas, and each holds one pixel at its middle.
    np.testing.assert_allclose(points[:, 2], 1 - (2 * np.arange(n) + 1) / n, atol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-14)
    step = np.diff(np.unwrap(polar_angles(points)[1])) / (2 * np.pi)
    np.testing.assert_allclose(step % 1, (math.sqrt(5) - 1) / 2, atol=1e-10)
    if n >= 100:
        areas = cell_areas(points) * n / (4 * np.pi)
        assert 0.8 < areas.min() < areas.max() < 1.2


@pytest.mark.parametrize("n_side", [1, 2, 3, 8])
def test_healpix_rings_share_the_sphere_in_equal_areas(n_side):
    points = healpix_sphere(n_side)
    assert points.shape == (12 * n_side**2, 3)
    z, first, count = np.unique(-points[:, 2].round(12), return_index=True, return_counts=True)
    z = -z
    assert len(z) == 4 * n_side - 1
    np.testing.assert_array_equal(np.diff(first), count[:-1])  # ring order
    ring = np.arange(1, 4 * n_side)
    expected = 4 * np.minimum(np.minimum(ring, 4 * n_side - ring), n_side)
    np.testing.assert_array_equal(count, expected)
    # Pixels of area 4π/(12 n²) = π/(3 n²) are as much above as below the height of their centres,
    # so that the cap 2π(1 - z) above a ring holds all rings before and half of the ring.
    above = np.cumsum(count) - count / 2
    np.testing.assert_allclose(2 * np.pi * (1 - z), above * np.pi / (3 * n_side**2), atol=1e-11)
    # A quarter of a turn about z, and half a turn about x, leave the pixels where they are.
    for turned in (points @ about_z(np.array([np.pi / 2]))[0], points * [1, -1, -1]):
        distance = np.linalg.norm(turned[:, None] - points, axis=2).min(1)
        assert distance.max() < 1e-12


def test_healpix_pixels_are_those_of_the_reference():
    # Computed with healpy's pix2ang, n_side = 16.
    theta, phi = polar_angles(healpix_sphere(16)[[1440, 427, 1520, 0, 3068]])
    expected = [1.52911759, 0.78550497, 1.57079633, 0.05103658, 3.09055608]
    np.testing.assert_allclose(theta, expected, atol=1e-8)
    np.testing.assert_allclose(phi, [0, 0.78539816, 1.61988371, 0.78539816, 0.78539816], atol=1e-8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fibonacci_sphere(-3), "'n_pixels' parameter of fibonacci_sphere.*least 1.*Got -3"),
        (lambda: fibonacci_sphere(0), "'n_pixels' parameter of fibonacci_sphere.*Got 0"),
        (lambda: healpix_sphere(1.5), "'n_side' parameter of healpix_sphere.*Got 1.5"),
        (lambda: equiangular_sphere(4, 0), "'n_phi' parameter of equiangular_sphere.*Got 0"),
        (lambda: equiangular_sphere(4.0, 8), "'n_theta' parameter of equiangular_sphere.*Got 4.0"),
        (lambda: gauss_legendre_sphere(-1), "'degree' parameter of gauss_legendre_sphere.*Got -1"),
        (lambda: spherical_harmonics(-1, np.eye(3)), "'l_max' parameter of spherical_harmonics"),
        (lambda: harmonic_analysis(np.eye(3), 0.5), "'l_max' parameter of harmonic_analysis"),
        (lambda: highest_degree(np.eye(3), at_most=-1), "'at_most' parameter of.*Got -1"),
        (lambda: random_rotations(-1, None), "'n_rotations' parameter of random_rotations"),
        (lambda: wigner_d(-1, np.eye(3)[None]), "'degree' parameter of wigner_d.*Got -1"),
        (lambda: rotation_harmonics(1, -1, 2, 0), "'max_order' parameter of rotation_harmonics"),
        (lambda: polar_angles(np.ones((2, 5, 2))), r"'positions' parameter.*\(2, 5, 2\)"),
        (lambda: cell_areas([0.0, 0.0, 1.0]), r"'points' parameter of cell_areas.*\(3,\)"),
    ],
)
def test_errors_name_parameter_and_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("bad", [(0.0, 0.0, 0.0), (1.0, math.nan, 0.0), (1.0, 0.0, -math.inf)])
def test_positions_have_directions(bad):
    points = fibonacci_sphere(20)
    points[[7, 9]] = bad
    functions = {
        "cell_areas": cell_areas,
        "highest_degree": highest_degree,
        "polar_angles": lambda p: polar_angles(p.reshape(4, 5, 3)),
        "harmonic_analysis": lambda p: harmonic_analysis(p, 1),
        "spherical_harmonics": lambda p: spherical_harmonics(1, p),
    }
    for name, function in functions.items():
        words = f"of {name} must hold finite positions away.*Got 2 others, the first for pixel 7"
        with pytest.raises(ValueError, match=words):
            function(points)
        function(fibonacci_sphere(20))


def test_random_rotations_are_uniform():
    n = 4000
    R = rotations(n)
    identity = np.broadcast_to(np.eye(3), R.shape)
    np.testing.assert_allclose(R @ np.swapaxes(R, 1, 2), identity, atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(R), 1, rtol=1e-14)
    # Schur: ∫ D = 0 and ∫ D² = 1/(2 l + 1), here for l = 1 to 3, within five standard errors.
    for degree in (1, 2, 3):
        D = wigner_d(degree, R)
        for values, expected in ((D, 0.0), (D**2, 1 / (2 * degree + 1))):
            error = values.std(0) / math.sqrt(n)
            assert (np.abs(values.mean(0) - expected) < 5 * error).all()
    # Characters are orthonormal: ∫ tr R = 0, ∫ (tr R)² = 1.
    trace = np.trace(R, axis1=1, axis2=2)
    assert abs(trace.mean()) < 5 / math.sqrt(n)
    assert abs((trace**2).mean() - 1) < 5 * (trace**2).std() / math.sqrt(n)
    # The angle of a uniform rotation has the density (1 - cos ω)/π.
    angle = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    assert kstest(angle, lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-4
    np.testing.assert_array_equal(rotations(5, 3), rotations(5, 3))
