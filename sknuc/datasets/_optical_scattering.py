r"""Elastic scattering of nucleons from an optical potential.

From the parameters of a potential to what a detector counts at an angle it takes one differential
equation per partial wave and a sum over them,

.. math::

    f(\theta) = f_C + \frac{1}{2ik} \sum_l e^{2i\sigma_l}
        [(l + 1)(S_l^+ - 1) + l\,(S_l^- - 1)]\,P_l(\cos\theta), \quad
    g(\theta) = \frac{1}{2k} \sum_l e^{2i\sigma_l} (S_l^+ - S_l^-) \sin\theta\,P_l'(\cos\theta),

    \frac{d\sigma}{d\Omega} = |f|^2 + |g|^2,

with the S-matrix of :math:`j = l \pm 1/2`, the Coulomb phases :math:`\sigma_l` and the amplitude
:math:`f_C` of Rutherford scattering. Integrated,

.. math::

    \sigma_{reac} = \frac{\pi}{k^2} \sum_l [(l + 1)(1 - |S_l^+|^2) + l\,(1 - |S_l^-|^2)], \quad
    \sigma_{tot} = \frac{4\pi}{k} \mathrm{Im} f(0).
"""

import math
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.parallel import Parallel, delayed

from sknuc.datasets._draws import as_floats
from sknuc.datasets._optical_potential import (
    PION_RADIUS_SQUARED,
    PROJECTILES,
    check_nucleus,
    kinematics,
    potential_names,
)
from sknuc.datasets._optical_waves import MAX_L, cross_sections

__all__ = ["check_angles", "elastic_scattering", "solve_scattering"]

# Events per task of a thread.
_BLOCK = 128
_MB_PER_FM2 = 10.0
# The potential is followed to where its form has fallen to this share of its depth.
_TAIL = 1e-8
# Distance between the radii at which waves are matched, in units of 1/k and at most in fm: close
# values differ by little but rounding, and half a wave later they are those of the same phase.
_MATCHING_DISTANCE, _FARTHEST = 0.5, 2.0
# Protons far below the Coulomb barrier turn around a long way outside.
_MAX_POINTS = 250_000
# Waves beyond the one that grazes the end of the potential. Of the last one |S - 1| is checked.
_WAVES_BEYOND = 5
_LAST_WAVE = 1e-6


@validate_params(
    {
        "potential": [Mapping],
        "energy": [Real, "array-like"],
        "nucleus": [tuple],
        "projectile": [StrOptions(set(PROJECTILES))],
        "angles": ["array-like", None],
        "relativistic": ["boolean"],
        "step": [Interval(Real, 0, None, closed="neither"), None],
        "n_jobs": [Integral, None],
    },
    prefer_skip_nested_validation=True,
)
def elastic_scattering(
    potential,
    energy,
    *,
    nucleus,
    projectile="neutron",
    angles=None,
    relativistic=True,
    step=None,
    n_jobs=None,
):
    r"""Solve elastic scattering of nucleons from Woods-Saxon optical potentials.

    The potential is, with :math:`f(r; r_i, a_i) = 1/(1 + e^{(r - r_i A^{1/3})/a_i})`,

    .. math::

        U(r) = -V f(r; r_v, a_v) - i W f(r; r_w, a_w) - i W_d\,(-4 a_d) f'(r; r_d, a_d)
            + \ell_j (V_{so} + i W_{so}) \left(\frac{\hbar}{m_\pi c}\right)^2 \frac{1}{r}
            f'(r; r_{so}, a_{so}) + V_C(r; r_c),

    where :math:`\ell_j = l` for :math:`j = l + 1/2` and :math:`-(l + 1)` for :math:`j = l - 1/2`.
    Every partial wave is integrated by Numerov's method and matched to Riccati-Bessel or Coulomb
    functions. Left out are compound-elastic scattering, which adds symmetrically to 90
    degrees below some 10 MeV, and the force on the neutron's magnetic moment in the Coulomb field,
    within a few degrees of the beam.

    Parameters
    ----------
    potential : mapping of str to float or array-like of shape (n_samples,)
        ``V, r_v, a_v, W, r_w, a_w, W_d, r_d, a_d, V_so, W_so, r_so, a_so`` and, of protons,
        ``r_c``, as :func:`koning_delaroche` returns them: strengths in MeV, reduced radii and
        diffusenesses in fm. Positive ``V`` attracts, positive ``W`` and ``W_d`` absorb.
    energy : float or array-like of shape (n_samples,)
        Kinetic energy in the laboratory, in MeV. Slow protons turn around too far outside of the
        nucleus for the integration, which with the default `step` reaches down to about 0.1 Z keV
        (9 keV on lead), deep in the realm of pure Coulomb scattering.
    nucleus : (int, int)
        Proton number Z and mass number A of the target.
    projectile : {"neutron", "proton"}, default="neutron"
        What is scattered.
    angles : array-like of shape (n_angles,), default=None
        Scattering angles in the centre of mass, in degrees, in [0, 180]; of protons above 0. None
        for every 5 degrees from 10 to 170.
    relativistic : bool, default=True
        Relativistic wave number, and reduced energy in the place of the reduced mass, as the
        Koning-Delaroche potential was fitted; False for the non-relativistic reduced mass.
    step : float, default=None
        Step of the integration, in fm. Errors shrink with its fourth power. None for a tenth of
        the inverse wave number inside the nucleus, and at most a fifth of a diffuseness: S is then
        right to 1e-5.
    n_jobs : int, default=None
        Number of threads; None for one, -1 for all cores. The result does not depend on it.

    Returns
    -------
    scattering : :class:`~sklearn.utils.Bunch`
        cross_section : ndarray of shape (n_samples, n_angles)
            dsigma/dOmega in the centre of mass, in mb/sr.
        analyzing_power : ndarray of shape (n_samples, n_angles)
            :math:`2\,\mathrm{Re}(f^* g)/(|f|^2 + |g|^2)`, positive for more scattering to the left
            of spin up.
        total, elastic : ndarray of shape (n_samples,) or None
            Integrated cross-sections of neutrons, in mb; None for protons, where they diverge.
        reaction : ndarray of shape (n_samples,)
            Cross-section of absorption, in mb; zero within rounding for protons far below the
            Coulomb barrier.
        s_matrix : complex ndarray of shape (n_samples, n_l, 2)
            :math:`S_l` for :math:`j = l + 1/2` and :math:`j = l - 1/2`, without the Coulomb phase;
            1 for waves that do not reach the nucleus or do not exist.
        wave_number : ndarray of shape (n_samples,)
            In the centre of mass, in 1/fm.
        sommerfeld : ndarray of shape (n_samples,)
            Sommerfeld parameter.
        angles : ndarray of shape (n_angles,)
            In degrees.

    Raises
    ------
    ValueError
        If a parameter is missing, unknown or out of range, the shapes disagree or are empty, `step`
        is too long for the potential or the energy, or the energy needs more than 256 waves or
        250,000 steps.

    References
    ----------
    .. [1] A. J. Koning, J. P. Delaroche, "Local and global nucleon optical models from 1 keV to
       200 MeV", Nucl. Phys. A 713 (2003) 231.
    .. [2] I. J. Thompson, F. M. Nunes, "Nuclear Reactions for Astrophysics", Cambridge University
       Press (2009).

    Examples
    --------
    >>> from sknuc.datasets import elastic_scattering, koning_delaroche
    >>> potential = koning_delaroche(14.0, nucleus=(82, 208))
    >>> lead = elastic_scattering({**potential, "V": [40.0, 45.0]}, 14.0, nucleus=(82, 208))
    >>> lead.cross_section.shape, lead.total.round()
    ((2, 33), array([5655., 5141.]))
    """
    return solve_scattering(
        "elastic_scattering",
        potential,
        energy,
        nucleus=nucleus,
        projectile=projectile,
        angles=angles,
        relativistic=relativistic,
        step=step,
        n_jobs=n_jobs,
    )


def solve_scattering(
    function, potential, energy, *, nucleus, projectile, angles, relativistic, step, n_jobs
):
    """Solve elastic scattering for `function`, which errors name: see `elastic_scattering`."""
    Z, A = check_nucleus(function, nucleus)
    angles = check_angles(function, angles, projectile)
    energies, values = _check_potential(function, potential, energy, projectile)
    motion = kinematics(energies, Z, A, projectile, relativistic)

    size = A ** (1 / 3)
    radii = {name: v * size for name, v in values.items() if name[0] == "r"}
    radii.setdefault("r_c", np.ones_like(energies))
    names = potential_names("proton")
    terms = np.column_stack([radii[n] if n[0] == "r" else values[n] for n in names])
    terms[:, [names.index("V_so"), names.index("W_so")]] *= PION_RADIUS_SQUARED

    steps = _choose_steps(function, values, motion, step)
    distance = np.minimum(_MATCHING_DISTANCE / motion.wave_number, _FARTHEST)
    n_matching = np.ceil(distance / steps).astype(np.int64)
    n_points, n_l = _extents(function, terms, names, motion, steps)
    n_points += n_matching
    n, n_angles = len(energies), len(angles)
    T = np.zeros((n, n_l.max(), 2), dtype=np.complex128)
    integrated = np.empty((n, 3))
    cross_section, analyzing_power = np.empty((2, n, n_angles))
    cosines = np.cos(np.deg2rad(angles))

    def solve(block):
        cross_sections(
            terms[block],
            motion.coupling[block],
            motion.wave_number[block],
            motion.sommerfeld[block],
            steps[block],
            n_points[block],
            n_matching[block],
            n_l[block],
            cosines,
            T[block],
            integrated[block],
            cross_section[block],
            analyzing_power[block],
        )

    Parallel(n_jobs=n_jobs, require="sharedmem")(
        delayed(solve)(slice(i, i + _BLOCK)) for i in range(0, n, _BLOCK)
    )
    last = np.abs(T[np.arange(n), n_l - 1]).max()
    if not last < _LAST_WAVE:
        raise ValueError(
            f"The partial waves of {function} have not converged: |S - 1| of the last one is "
            f"{last:.1e}. The potential is too strong or reaches too far for its radii."
        )
    neutron = projectile == "neutron"
    total, elastic, reaction = _MB_PER_FM2 * integrated.T
    return Bunch(
        cross_section=_MB_PER_FM2 * cross_section,
        analyzing_power=analyzing_power,
        total=total if neutron else None,
        elastic=elastic if neutron else None,
        reaction=reaction,
        s_matrix=1 + T,
        wave_number=motion.wave_number,
        sommerfeld=motion.sommerfeld,
        angles=angles,
    )


def check_angles(function, angles, projectile):
    """Return scattering angles in degrees, checked; None for every 5 degrees from 10 to 170."""
    if angles is None:
        return np.linspace(10.0, 170.0, 33)
    values = as_floats(function, "angles", angles)
    lowest_ok = values > 0 if projectile == "proton" else values >= 0
    if values.ndim != 1 or not values.size or not np.all(lowest_ok & (values <= 180)):
        allowed = (
            "(0, 180]: at 0 the Coulomb amplitude diverges"
            if projectile == "proton"
            else "[0, 180]"
        )
        raise ValueError(
            f"The 'angles' parameter of {function} must be a list of angles in degrees, in "
            f"{allowed}. Got {angles!r} instead."
        )
    return values


def _check_potential(function, potential, energy, projectile):
    """Energies of shape (n,) and a dict of parameters of shape (n,)."""
    names = potential_names(projectile)
    missing, unknown = set(names) - set(potential), set(potential) - set(names)
    if missing or unknown:
        raise ValueError(
            f"The 'potential' parameter of {function} must have the entries {', '.join(names)} for "
            f"a {projectile}. Missing: {sorted(missing)}; unknown: {sorted(unknown, key=str)}."
        )
    values = {name: as_floats(function, f"potential[{name!r}]", potential[name]) for name in names}
    values["energy"] = as_floats(function, "energy", energy)
    shapes = {name: v.shape for name, v in values.items() if v.ndim}
    if any(len(shape) > 1 for shape in shapes.values()) or len(set(shapes.values())) > 1:
        raise ValueError(
            f"The energy and the entries of the 'potential' parameter of {function} must be "
            f"numbers or arrays of one length. Got the shapes {shapes} instead."
        )
    (n,) = next(iter(shapes.values()), (1,))
    if n == 0:
        raise ValueError(
            f"The energy and the entries of the 'potential' parameter of {function} must be of one "
            "event at least. Got none: the arrays are empty."
        )
    for name, v in values.items():
        positive = name[0] not in "VW"
        if not np.all(np.isfinite(v)) or (positive and not np.all(v > 0)):
            raise ValueError(
                f"{name!r} in {function} must be finite{' and positive' if positive else ''}. Got "
                f"{v!r} instead."
            )
        values[name] = np.broadcast_to(v, n)
    return np.array(values.pop("energy")), values


def _choose_steps(function, values, motion, step):
    """Step of the integration of each event: short against wave length and diffuseness."""
    depth = np.abs(values["V"]) + np.abs(values["W"]) + np.abs(values["W_d"])
    wave_number = np.sqrt(motion.wave_number**2 + motion.coupling * depth)
    diffuseness = np.min([values[f"a_{i}"] for i in ("v", "w", "d", "so")], axis=0)
    if step is None:
        return np.minimum(0.1 / wave_number, diffuseness / 5)
    longest = np.minimum(0.5 / wave_number, diffuseness / 2).min()
    if step > longest:
        raise ValueError(
            f"The 'step' parameter of {function} must be at most {longest:.3g} fm, half a "
            "diffuseness and half the inverse wave number inside the nucleus, or None. Got "
            f"{step} instead."
        )
    return np.full_like(wave_number, step)


def _extents(function, terms, names, motion, steps):
    """Grid points up to the first matching radius and partial waves of each event."""
    k, eta = motion.wave_number, motion.sommerfeld
    column = {name: terms[:, i] for i, name in enumerate(names)}
    tail = -math.log(_TAIL)
    reach = np.max([column[f"r_{i}"] + tail * column[f"a_{i}"] for i in ("v", "w", "d", "so")], 0)
    # The first of the two matching radii is beyond the potential, the charge and the turning point
    # of l = 0.
    charged = np.maximum(column["r_c"], (2 * eta + 2) / k) if eta.any() else 0.0
    n_points = np.ceil(np.maximum(reach, charged) / steps).astype(np.int64)
    if n_points.max() > _MAX_POINTS:
        raise ValueError(
            f"The waves of {function} need {n_points.max()} steps of the integration; at most "
            f"{_MAX_POINTS} are possible. Use a longer 'step' or, for protons, an 'energy' closer "
            "to the Coulomb barrier: from about 0.1 Z keV with step=None."
        )
    # Of protons too: under the Coulomb barrier waves die out slowly with l.
    n_l = np.floor(k * reach).astype(np.int64) + 1 + _WAVES_BEYOND
    if n_l.max() > MAX_L + 1:
        raise ValueError(
            f"The 'energy' parameter of {function} needs {n_l.max()} partial waves on this "
            f"nucleus; at most {MAX_L + 1} are possible. Use lower energies."
        )
    return n_points, n_l
