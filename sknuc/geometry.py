r"""The sphere in numbers: where pixels lie, spherical harmonics, rotations.

A signal :math:`f` on the sphere is read at pixels :math:`\hat x_i`, be they the cells of a grid or
the phototubes of a detector. Its spherical harmonic transform needs an integral,

.. math::

    f_{lm} = \int Y_{lm}(\hat x) f(\hat x)\, d\hat x
    \approx \sum_i A_i Y_{lm}(\hat x_i) f(\hat x_i),

which :func:`harmonic_analysis` makes exact for band-limited signals on any pixels that are many
enough. Rotations act on the coefficients through the matrices of :func:`wigner_d`.

Unit vectors ``(x, y, z)`` everywhere; the polar angle :math:`\theta` is measured from +z, the
azimuth :math:`\varphi` from +x towards +y. Float64.
"""

import math
from numbers import Integral

import numpy as np
from scipy.spatial import KDTree, SphericalVoronoi
from scipy.special import sph_legendre_p_all

__all__ = [
    "cell_areas",
    "directions",
    "equiangular_sphere",
    "fibonacci_sphere",
    "gauss_legendre_sphere",
    "harmonic_analysis",
    "healpix_sphere",
    "highest_degree",
    "polar_angles",
    "random_rotations",
    "rotation_harmonics",
    "spherical_harmonics",
    "wigner_d",
]


# Singular values of the harmonics at the pixels are 1 for an exact quadrature.
_LEAST_RESPONSE = 0.1

# Distance of unit vectors, in rad, below which Voronoi cells are not computed reliably.
_SAME_DIRECTION = 1e-7


def check_points(points, name, owner, *, table=True):
    """Check that positions have directions.

    Parameters
    ----------
    points : array-like of shape (..., 3)
    name, owner : str
        The parameter and whose it is, for the errors.
    table : bool, default=True
        Whether only (n_points, 3) will do.

    Returns
    -------
    points : ndarray of shape (..., 3)
    """
    points = np.asarray(points, dtype=np.float64)
    if points.shape[-1:] != (3,) or (table and points.ndim != 2):
        raise ValueError(
            f"The {name!r} parameter of {owner} must have the shape "
            f"{'(n_points, 3)' if table else '(..., 3)'}. Got an array of shape {points.shape} "
            "instead."
        )
    bad = ~(np.isfinite(points).all(-1) & points.any(-1))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"The {name!r} parameter of {owner} must hold finite positions away from the centre. "
            f"Got {bad.sum()} others, the first for pixel {first}: {points.reshape(-1, 3)[first]}."
        )
    return points


def _check_integer(value, name, owner, least):
    if not isinstance(value, Integral) or value < least:
        raise ValueError(
            f"The {name!r} parameter of {owner} must be an integer of at least {least}. Got "
            f"{value!r} instead."
        )


def directions(theta, phi):
    """Unit vectors of polar angles and azimuths.

    Parameters
    ----------
    theta, phi : array-like, broadcastable to each other
        In rad.

    Returns
    -------
    directions : ndarray of shape (..., 3)
    """
    theta, phi = np.broadcast_arrays(theta, phi)
    ring = np.sin(theta)
    return np.stack([ring * np.cos(phi), ring * np.sin(phi), np.cos(theta)], axis=-1)


def polar_angles(positions):
    """Polar angle and azimuth of positions of any length but zero.

    Parameters
    ----------
    positions : array-like of shape (..., 3)

    Returns
    -------
    theta, phi : ndarray of shape (...,)
        In rad, θ in [0, π] and φ in [0, 2π).
    """
    positions = check_points(positions, "positions", "polar_angles", table=False)
    x, y, z = np.moveaxis(positions, -1, 0)
    phi = np.arctan2(y, x)
    return np.arctan2(np.hypot(x, y), z), np.where(phi < 0, phi + 2 * np.pi, phi) % (2 * np.pi)


def fibonacci_sphere(n_pixels):
    r"""Pixels of equal area along a spiral, for any number of them.

    :math:`z_i = 1 - (2i + 1)/n`, :math:`\varphi_i = 2\pi i/\Phi` with the golden ratio
    :math:`\Phi`.

    Parameters
    ----------
    n_pixels : int

    Returns
    -------
    directions : ndarray of shape (n_pixels, 3)

    References
    ----------
    Á. González, "Measurement of Areas on a Sphere Using Fibonacci and Latitude-Longitude
    Lattices", Math. Geosci. 42 (2010) 49.

    Examples
    --------
    >>> from sknuc.geometry import fibonacci_sphere
    >>> fibonacci_sphere(1879).shape
    (1879, 3)
    """
    _check_integer(n_pixels, "n_pixels", "fibonacci_sphere", 1)
    i = np.arange(n_pixels)
    golden = (1 + math.sqrt(5)) / 2
    return directions(np.arccos(1 - (2 * i + 1) / n_pixels), 2 * np.pi * ((i / golden) % 1))


def equiangular_sphere(n_theta, n_phi):
    r"""Centres of a grid of equal angles, :math:`\theta_j = \pi(j + 1/2)/n_\theta`.

    Parameters
    ----------
    n_theta, n_phi : int
        Rings from +z to -z, and cells around each, from :math:`\varphi = 0` on.

    Returns
    -------
    directions : ndarray of shape (n_theta * n_phi, 3)
        Ring by ring, as an image of shape (n_theta, n_phi) is flattened.
    areas : ndarray of shape (n_theta * n_phi,)
        Solid angles of the cells in sr; they sum to 4π.
    """
    _check_integer(n_theta, "n_theta", "equiangular_sphere", 1)
    _check_integer(n_phi, "n_phi", "equiangular_sphere", 1)
    theta = np.pi * (np.arange(n_theta) + 0.5) / n_theta
    phi = 2 * np.pi * (np.arange(n_phi) + 0.5) / n_phi
    edges = np.cos(np.linspace(0, np.pi, n_theta + 1))
    areas = np.repeat((edges[:-1] - edges[1:]) * 2 * np.pi / n_phi, n_phi)
    return directions(theta[:, None], phi).reshape(-1, 3), areas


def healpix_sphere(n_side):
    """Centres of the 12 n_side² HEALPix pixels, in ring order.

    Parameters
    ----------
    n_side : int

    Returns
    -------
    directions : ndarray of shape (12 * n_side**2, 3)

    References
    ----------
    K. M. Górski et al., "HEALPix: A Framework for High-Resolution Discretization and Fast Analysis
    of Data Distributed on the Sphere", ApJ 622 (2005) 759, arXiv:astro-ph/0409513, section 5.
    """
    _check_integer(n_side, "n_side", "healpix_sphere", 1)
    rings = np.arange(1, 4 * n_side)
    z, phi = [], []
    for ring in rings:
        cap = min(ring, 4 * n_side - ring)
        if cap < n_side:
            height = 1 - cap**2 / (3 * n_side**2)
            height = height if ring < 2 * n_side else -height
            azimuth = np.pi / (2 * cap) * (np.arange(4 * cap) + 0.5)
        else:
            height = 4 / 3 - 2 * ring / (3 * n_side)
            shift = (ring - n_side + 1) % 2
            azimuth = np.pi / (2 * n_side) * (np.arange(4 * n_side) + shift / 2)
        z.append(np.full(len(azimuth), height))
        phi.append(azimuth)
    return directions(np.arccos(np.concatenate(z)), np.concatenate(phi))


def gauss_legendre_sphere(degree):
    """The smallest product grid that integrates harmonics up to `degree` exactly.

    Parameters
    ----------
    degree : int

    Returns
    -------
    directions : ndarray of shape (n_pixels, 3)
        n_pixels = ceil((degree + 1) / 2) (degree + 1).
    weights : ndarray of shape (n_pixels,)
        In sr; they sum to 4π.
    """
    _check_integer(degree, "degree", "gauss_legendre_sphere", 0)
    heights, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    phi = 2 * np.pi * np.arange(degree + 1) / (degree + 1)
    points = directions(np.arccos(heights)[:, None], phi).reshape(-1, 3)
    return points, np.repeat(weights * 2 * np.pi / len(phi), len(phi))


def spherical_harmonics(l_max, points):
    r"""Real orthonormal spherical harmonics.

    :math:`Y_{l0} = \bar P_l^0(\cos\theta)`, and for :math:`m > 0` :math:`Y_{l,\pm m} = \sqrt2
    \bar P_l^m(\cos\theta) \{\cos m\varphi, \sin m\varphi\}` with the Condon-Shortley phase, so that
    :math:`\int Y_{lm} Y_{l'm'} = \delta_{ll'} \delta_{mm'}`.

    Parameters
    ----------
    l_max : int
        Highest degree.
    points : array-like of shape (n_points, 3)
        Positions of any length but zero.

    Returns
    -------
    harmonics : ndarray of shape (n_points, (l_max + 1)**2)
        Ordered by degree; m runs from -l to l within each: the index is l² + l + m.

    Examples
    --------
    >>> from sknuc.geometry import spherical_harmonics
    >>> spherical_harmonics(1, [[0, 0, 1.0]]).round(3) + 0.0
    array([[0.282, 0.   , 0.489, 0.   ]])
    """
    _check_integer(l_max, "l_max", "spherical_harmonics", 0)
    theta, phi = polar_angles(check_points(points, "points", "spherical_harmonics"))
    # scipy's assoc_legendre_p_all forgets the normalisation at the poles.
    legendre = sph_legendre_p_all(l_max, l_max, theta)[0]
    harmonics = np.empty((len(theta), (l_max + 1) ** 2))
    for degree in range(l_max + 1):
        centre = degree**2 + degree
        harmonics[:, centre] = legendre[degree, 0]
        for m in range(1, degree + 1):
            amplitude = math.sqrt(2) * legendre[degree, m]
            harmonics[:, centre + m] = amplitude * np.cos(m * phi)
            harmonics[:, centre - m] = amplitude * np.sin(m * phi)
    return harmonics


def harmonic_analysis(points, l_max):
    r"""The matrix from values at pixels to spherical harmonic coefficients.

    Least squares weighted with the areas :math:`A_i` of the pixels' Voronoi cells,
    :math:`B = (Y^T A Y)^{-1} Y^T A`: exact for signals of degree up to `l_max`, whatever the
    pixels. For pixels that cover the sphere evenly, :math:`Y^T A Y \approx 1` and it is the
    quadrature :math:`B \approx Y^T A`.

    Parameters
    ----------
    points : array-like of shape (n_points, 3)
        Positions of any length but zero; only their directions matter.
    l_max : int
        Highest degree.

    Returns
    -------
    matrix : ndarray of shape ((l_max + 1)**2, n_points)

    Raises
    ------
    ValueError
        If two pixels lie in the same direction, or there are too few, or they leave too large a
        hole, for the degree: noise would be amplified by more than a factor of ten.

    References
    ----------
    N. Sneeuw, "Global spherical harmonic analysis by least-squares and numerical quadrature
    methods in historical perspective", Geophys. J. Int. 118 (1994) 707.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.geometry import fibonacci_sphere, harmonic_analysis, spherical_harmonics
    >>> points = fibonacci_sphere(100)
    >>> identity = harmonic_analysis(points, 4) @ spherical_harmonics(4, points)
    >>> bool(np.allclose(identity, np.eye(25)))
    True
    """
    _check_integer(l_max, "l_max", "harmonic_analysis", 0)
    points = _unit(check_points(points, "points", "harmonic_analysis"))
    harmonics = spherical_harmonics(l_max, points)
    root = np.sqrt(cell_areas(points))
    if len(points) >= harmonics.shape[1]:
        left, singular, right = np.linalg.svd(root[:, None] * harmonics, full_matrices=False)
        if singular[-1] >= _LEAST_RESPONSE:
            return (right.T / singular) @ (left.T * root)
    raise ValueError(
        f"{len(points)} pixels do not determine the spherical harmonics up to degree {l_max}: they "
        "are too few, or leave too large a hole. Lower the degree."
    )


def highest_degree(points, *, at_most=None):
    """The highest degree that pixels determine well: no harmonic is damped by more than 3 dB.

    Parameters
    ----------
    points : array-like of shape (n_points, 3)
        Positions of any length but zero.
    at_most : int or None, default=None
        Where to stop looking.

    Returns
    -------
    l_max : int
    """
    if at_most is not None:
        _check_integer(at_most, "at_most", "highest_degree", 0)
    points = _unit(check_points(points, "points", "highest_degree"))
    root = np.sqrt(cell_areas(points))[:, None]
    l_max = math.isqrt(len(points)) - 1
    if at_most is not None:
        l_max = min(l_max, at_most)
    harmonics = root * spherical_harmonics(l_max, points)
    for degree in range(l_max, 0, -1):
        gram = harmonics[:, : (degree + 1) ** 2]
        if np.linalg.eigvalsh(gram.T @ gram)[0] >= 0.5:
            return degree
    return 0


def cell_areas(points):
    """Solid angles of the Voronoi cells of pixels; of few or flat ones, equal shares.

    Parameters
    ----------
    points : array-like of shape (n_points, 3)
        Positions of any length but zero.

    Returns
    -------
    areas : ndarray of shape (n_points,)
        In sr; they sum to 4π.

    Raises
    ------
    ValueError
        If two pixels lie in the same direction.
    """
    points = _unit(check_points(points, "points", "cell_areas"))
    n_points = len(points)
    if KDTree(points).query_pairs(_SAME_DIRECTION):
        raise ValueError(
            "Two pixels lie in the same direction: their signals cannot be told apart. Give each "
            "a direction of its own, or add their signals up."
        )
    if n_points < 4 or np.linalg.matrix_rank(points - points[0], tol=1e-6) < 3:
        return np.full(n_points, 4 * np.pi / n_points)
    cells = SphericalVoronoi(points, threshold=_SAME_DIRECTION)
    return cells.calculate_areas()


def random_rotations(n_rotations, rng):
    """Rotations, uniformly distributed (Haar measure).

    Parameters
    ----------
    n_rotations : int
    rng : numpy.random.Generator

    Returns
    -------
    rotations : ndarray of shape (n_rotations, 3, 3)
    """
    _check_integer(n_rotations, "n_rotations", "random_rotations", 0)
    w, x, y, z = _unit(rng.standard_normal((n_rotations, 4))).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
            np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
            np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
        ],
        axis=-2,
    )


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def rotation_harmonics(l_max, max_order, degree, order):
    r"""Harmonics on the rotations, and a grid of rotations that integrates them.

    :math:`\sqrt{2l + 1}\, D^l_{mn}(R)` with :math:`|n| \le` `max_order`, orthonormal under the
    uniform measure. Order 0 alone are functions of :math:`R\hat z`, that is of a point on the
    sphere: :math:`\sqrt{4\pi}\, Y_{lm}(R\hat z)`. Higher orders also know directions at the point.

    Parameters
    ----------
    l_max : int
        Highest degree.
    max_order : int
        Highest order n; at most `l_max`.
    degree, order : int
        The grid integrates harmonics up to this degree and this order exactly.

    Returns
    -------
    harmonics : ndarray of shape (n_rotations, 2 max_order + 1, (l_max + 1)**2)
        Zero where :math:`|n| > l`.
    weights : ndarray of shape (n_rotations,)
        They sum to 1.
    """
    for name, value in (("l_max", l_max), ("max_order", max_order), ("order", order)):
        _check_integer(value, name, "rotation_harmonics", 0)
    points, weights = gauss_legendre_sphere(degree)
    theta, alpha = polar_angles(points)
    n_gamma = min(degree, order) + 1
    gamma = 2 * np.pi * np.arange(n_gamma) / n_gamma
    rings, ring_of = np.unique(theta, return_inverse=True)
    tilts = np.zeros((len(rings), 3, 3))
    tilts[:, 0, 0] = tilts[:, 2, 2] = np.cos(rings)
    tilts[:, 0, 2], tilts[:, 2, 0] = np.sin(rings), -np.sin(rings)
    tilts[:, 1, 1] = 1
    harmonics = np.zeros((len(points), n_gamma, 2 * max_order + 1, (l_max + 1) ** 2))
    for l in range(l_max + 1):  # noqa: E741
        order = min(l, max_order)
        turned = _turns(l, alpha) @ wigner_d(l, tilts)[ring_of]
        turned = turned[:, None, :, l - order : l + order + 1] @ _turns(order, gamma)
        columns = slice(max_order - order, max_order + order + 1)
        harmonics[:, :, columns, l**2 : (l + 1) ** 2] = math.sqrt(2 * l + 1) * np.swapaxes(
            turned, -1, -2
        )
    weights = np.repeat(weights / (4 * np.pi * n_gamma), n_gamma)
    return harmonics.reshape(len(weights), 2 * max_order + 1, -1), weights


def _turns(degree, angles):
    """:func:`wigner_d` of rotations about the z axis."""
    m = np.arange(1, degree + 1)
    cos, sin = np.cos(angles[:, None] * m), np.sin(angles[:, None] * m)
    matrices = np.zeros((len(angles), 2 * degree + 1, 2 * degree + 1))
    matrices[:, degree, degree] = 1
    matrices[:, degree + m, degree + m] = matrices[:, degree - m, degree - m] = cos
    matrices[:, degree - m, degree + m] = sin
    matrices[:, degree + m, degree - m] = -sin
    return matrices


def wigner_d(degree, rotations):
    r"""Matrices that rotate the coefficients of one degree.

    The signal rotated by :math:`R`, :math:`f'(\hat x) = f(R^{-1} \hat x)`, has the coefficients
    :math:`f'_{lm} = \sum_n D^l_{mn}(R) f_{ln}`; the matrices are orthogonal, and :math:`D(R_1 R_2)
    = D(R_1) D(R_2)`.

    Parameters
    ----------
    degree : int
        l.
    rotations : ndarray of shape (n_rotations, 3, 3)

    Returns
    -------
    matrices : ndarray of shape (n_rotations, 2 l + 1, 2 l + 1)
        In the basis of :func:`spherical_harmonics`.
    """
    _check_integer(degree, "degree", "wigner_d", 0)
    # D_mn = <Y_m(x), Y_n(R^-1 x)>, by a quadrature that is exact for the product.
    points, weights = gauss_legendre_sphere(2 * degree)
    rotated = points @ rotations  # rows x^T R = (R^-1 x)^T
    own = spherical_harmonics(degree, points)[:, degree**2 :]
    turned = spherical_harmonics(degree, rotated.reshape(-1, 3))[:, degree**2 :]
    turned = turned.reshape(*rotated.shape[:-1], 2 * degree + 1)
    return np.einsum("pm,p,rpn->rmn", own, weights, turned, optimize=True)
