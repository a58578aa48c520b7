r"""The optical potential of a nucleon on a nucleus, and its kinematics.

What a nucleus does to a nucleon that it scatters is, on average, a potential whose imaginary part
takes away what goes into all other reactions:

.. math::

    U(r) = -V f(r; r_v, a_v) - i W f(r; r_w, a_w) - i W_d\,(-4 a_d) f'(r; r_d, a_d)
        + \ell_j (V_{so} + i W_{so}) \left(\frac{\hbar}{m_\pi c}\right)^2 \frac{1}{r}
        f'(r; r_{so}, a_{so}) + V_C(r; r_c),

with the Woods-Saxon form :math:`f(r; r_i, a_i) = 1 / (1 + e^{(r - r_i A^{1/3}) / a_i})`,
:math:`\ell_j = l` for :math:`j = l + 1/2` and :math:`-(l + 1)` for :math:`j = l - 1/2`, and
:math:`V_C` the Coulomb potential of a uniformly charged sphere.

References
----------
.. [1] A. J. Koning, J. P. Delaroche, "Local and global nucleon optical models from 1 keV to
   200 MeV", Nucl. Phys. A 713 (2003) 231.
.. [2] Particle Data Group, "Review of Particle Physics", Phys. Rev. D 110 (2024) 030001: the mass
   of the charged pion. All other constants are those of CODATA, from :mod:`scipy.constants`.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from scipy.constants import fine_structure, physical_constants
from sklearn.utils._param_validation import StrOptions, validate_params

from sknuc.datasets._draws import as_floats

__all__ = [
    "HBARC",
    "PION_RADIUS_SQUARED",
    "PROJECTILES",
    "check_nucleus",
    "global_potential",
    "kinematics",
    "koning_delaroche",
    "potential_names",
    "potential_units",
]

HBARC = physical_constants["reduced Planck constant times c in MeV fm"][0]
PION_RADIUS_SQUARED = (HBARC / 139.57039) ** 2  # (hbar / m_pi c)^2, fm^2
_ATOMIC_MASS = physical_constants["atomic mass constant energy equivalent in MeV"][0]
PROJECTILES = {
    name: physical_constants[f"{name} mass energy equivalent in MeV"][0]
    for name in ("neutron", "proton")
}

_NAMES = (
    "V", "r_v", "a_v", "W", "r_w", "a_w", "W_d", "r_d", "a_d", "V_so", "W_so", "r_so", "a_so", "r_c"
)  # fmt: skip


def potential_names(projectile):
    """Names of the potential's parameters: without charge there is no radius of it."""
    return _NAMES if projectile == "proton" else _NAMES[:-1]


def potential_units(names):
    """Units of parameters: strengths in MeV, radii and diffusenesses in fm."""
    return {name: "MeV" if name[0] in "VW" else "fm" for name in names}


def check_nucleus(function, nucleus, lightest=1, heaviest=None):
    """Return the proton and mass numbers of a nucleus, checked.

    Parameters
    ----------
    function : str
        For the error.
    nucleus : tuple
    lightest, heaviest : int or None
        Range of mass numbers.

    Returns
    -------
    Z, A : int
    """
    whole = all(isinstance(number, Integral) for number in nucleus) and len(nucleus) == 2
    if (
        not whole
        or not 0 <= nucleus[0] <= nucleus[1]
        or nucleus[1] < lightest
        or (heaviest is not None and nucleus[1] > heaviest)
    ):
        sizes = f"A >= {lightest}" if heaviest is None else f"{lightest} <= A <= {heaviest}"
        raise ValueError(
            f"The 'nucleus' parameter of {function} must be whole numbers (Z, A) with 0 <= Z <= A "
            f"and {sizes}, such as (82, 208). Got {nucleus!r} instead."
        )
    return int(nucleus[0]), int(nucleus[1])


class Kinematics(NamedTuple):
    """What the radial equation needs to know of two masses and an energy."""

    wave_number: np.ndarray  # in the centre of mass, 1/fm
    coupling: np.ndarray  # 2 mu / hbar^2, 1/(MeV fm^2)
    sommerfeld: np.ndarray  # eta


def kinematics(energy, Z, A, projectile, relativistic):
    r"""Kinematics of a nucleon on a nucleus at rest.

    With `relativistic`, the wave number is that of the two-body system and the reduced mass becomes
    the reduced energy :math:`E_1 E_2 / (E_1 + E_2)` in the centre of mass.

    Parameters
    ----------
    energy : ndarray of shape (n,)
        Kinetic energy of the projectile in the laboratory, in MeV.
    Z, A : int
        Of the target. Its mass is taken as A atomic mass units: the binding that this ignores moves
        the reduced mass by less than 1e-4 for A > 10.
    projectile : {"neutron", "proton"}
    relativistic : bool

    Returns
    -------
    kinematics : Kinematics
    """
    m, M = PROJECTILES[projectile], A * _ATOMIC_MASS
    if relativistic:
        s = (m + M) ** 2 + 2 * M * energy
        momentum = M * np.sqrt(energy * (energy + 2 * m) / s)
        E_1, E_2 = np.sqrt(m**2 + momentum**2), np.sqrt(M**2 + momentum**2)
        mass = E_1 * E_2 / (E_1 + E_2)
    else:
        mass = np.full_like(energy, m * M / (m + M))
        momentum = mass * np.sqrt(2 * energy / m)
    charge = Z if projectile == "proton" else 0
    return Kinematics(
        momentum / HBARC, 2 * mass / HBARC**2, charge * fine_structure * mass / momentum
    )


@validate_params(
    {
        "energy": [Real, "array-like"],
        "nucleus": [tuple],
        "projectile": [StrOptions(set(PROJECTILES))],
    },
    prefer_skip_nested_validation=True,
)
def koning_delaroche(energy, *, nucleus, projectile="neutron"):
    r"""Global optical potential of Koning and Delaroche.

    Fitted to neutron and proton scattering on near-spherical nuclei with 24 <= A <= 209 from 1 keV
    to 200 MeV. With :math:`\epsilon = E - E_f` the strengths are

    .. math::

        V = v_1 [1 - v_2 \epsilon + v_3 \epsilon^2 - v_4 \epsilon^3] + \Delta V_C, \quad
        W = \frac{w_1 \epsilon^2}{\epsilon^2 + w_2^2}, \quad
        W_d = \frac{d_1 \epsilon^2 e^{-d_2 \epsilon}}{\epsilon^2 + d_3^2},

    .. math::

        V_{so} = v_{so1} e^{-v_{so2} \epsilon}, \quad
        W_{so} = \frac{w_{so1} \epsilon^2}{\epsilon^2 + w_{so2}^2}, \quad
        \Delta V_C = \frac{1.73\,Z}{r_c A^{1/3}}\,
        v_1 [v_2 - 2 v_3 \epsilon + 3 v_4 \epsilon^2],

    the last for protons alone.

    Parameters
    ----------
    energy : float or array-like of shape (n_samples,)
        Kinetic energy in the laboratory, in MeV, in [0.001, 200].
    nucleus : (int, int)
        Proton number Z and mass number A of the target.
    projectile : {"neutron", "proton"}, default="neutron"
        What is scattered.

    Returns
    -------
    potential : dict of float or ndarray of shape (n_samples,)
        Strengths V, W, W_d, V_so and W_so in MeV, reduced radii r_v, r_w, r_d, r_so and, of
        protons, r_c, and diffusenesses a_v, a_w, a_d and a_so in fm: what
        :func:`elastic_scattering` takes.

    Raises
    ------
    ValueError
        If the nucleus or the energy is outside the range of the fit.

    References
    ----------
    .. [1] A. J. Koning, J. P. Delaroche, "Local and global nucleon optical models from 1 keV to
       200 MeV", Nucl. Phys. A 713 (2003) 231.

    Examples
    --------
    >>> from sknuc.datasets import koning_delaroche
    >>> potential = koning_delaroche(14.0, nucleus=(82, 208))
    >>> print(f"{potential['V']:.2f} MeV, {potential['r_v']:.4f} fm, {potential['a_v']:.4f} fm")
    43.35 MeV, 1.2355 fm, 0.6469 fm
    """
    return global_potential("koning_delaroche", energy, nucleus, projectile)


def global_potential(function, energy, nucleus, projectile):
    """Compute :func:`koning_delaroche` for `function`, which errors name."""
    Z, A = check_nucleus(function, nucleus, lightest=24, heaviest=209)
    values = as_floats(function, "energy", energy)
    if values.ndim > 1 or not values.size or not np.all((values >= 1e-3) & (values <= 200)):
        raise ValueError(
            f"The 'energy' parameter of {function} must be in [0.001, 200] MeV, where the global "
            f"potential was fitted, one number or one for each event. Got {energy!r} instead."
        )
    energy = values
    proton = projectile == "proton"
    asymmetry = (1 if proton else -1) * (A - 2 * Z) / A
    size = A ** (1 / 3)
    e = energy - (-8.4075 + 0.01378 * A if proton else -11.2814 + 0.02646 * A)

    v_1, v_4 = 59.30 + 21.0 * asymmetry - 0.024 * A, 7e-9
    v_2 = 0.007067 + 4.23e-6 * A if proton else 0.007228 - 1.48e-6 * A
    v_3 = 1.729e-5 + 1.136e-8 * A if proton else 1.994e-5 - 2.0e-8 * A
    w_1 = 14.667 + 0.009629 * A if proton else 12.195 + 0.0167 * A
    w_2 = 73.55 + 0.0795 * A
    d_1, d_3 = 16.0 + 16.0 * asymmetry, 11.5
    d_2 = 0.0180 + 0.003802 / (1 + np.exp((A - 156) / 8))
    potential = {
        "V": v_1 * (1 - v_2 * e + v_3 * e**2 - v_4 * e**3),
        "r_v": 1.3039 - 0.4054 / size,
        "a_v": 0.6778 - 1.487e-4 * A,
        "W": w_1 * e**2 / (e**2 + w_2**2),
        "W_d": d_1 * e**2 * np.exp(-d_2 * e) / (e**2 + d_3**2),
        "r_d": 1.3424 - 0.01585 * size,
        "a_d": 0.5187 + 5.205e-4 * A if proton else 0.5446 - 1.656e-4 * A,
        "V_so": (5.922 + 0.0030 * A) * np.exp(-0.0040 * e),
        "W_so": -3.1 * e**2 / (e**2 + 160.0**2),
        "r_so": 1.1854 - 0.647 / size,
        "a_so": 0.59,
    }
    potential |= {"r_w": potential["r_v"], "a_w": potential["a_v"]}
    if proton:
        potential["r_c"] = 1.198 + 0.697 / size**2 + 12.994 / size**5
        barrier = 1.73 * Z / (potential["r_c"] * size)
        potential["V"] += barrier * v_1 * (v_2 - 2 * v_3 * e + 3 * v_4 * e**2)
    scalar = energy.ndim == 0
    return {
        name: float(potential[name]) if scalar else np.broadcast_to(potential[name], energy.shape)
        for name in potential_names(projectile)
    }
