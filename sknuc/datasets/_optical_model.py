r"""Optical potentials and their angular distributions: a theory to emulate and to invert.

From a potential to the cross-section :math:`d\sigma/d\Omega` at an angle it takes a differential
equation for every partial wave. The way back, from a measured angular distribution to the
potential, has no formula: strengths trade against radii, and many potentials scatter almost alike.
Both are problems for a learner: of the theory as its emulator, and of the inverse as a posterior.
"""

import functools
from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sknuc.datasets._draws import as_floats, check_range
from sknuc.datasets._optical_potential import (
    PROJECTILES,
    global_potential,
    potential_units,
)
from sknuc.datasets._optical_scattering import check_angles, solve_scattering

__all__ = ["make_optical_model"]

_VARIED = ("V", "r_v", "a_v", "W_d", "r_d", "a_d")
_ANY = Interval(Real, None, None, closed="neither")

_DESCR = """\
Elastic scattering of nucleons from an optical potential
--------------------------------------------------------
Parameters of a Woods-Saxon optical potential, uniform in ranges around the global potential of
Koning and Delaroche (Nucl. Phys. A 713 (2003) 231), and the cross-sections dsigma/dOmega of elastic
scattering at angles in the centre of mass, from a partial-wave solution of the radial equation.
Compound-elastic scattering is not part of it.
"""


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "nucleus": [tuple],
        "energy": [Interval(Real, 0, None, closed="neither")],
        "projectile": [StrOptions(set(PROJECTILES))],
        "ranges": [Mapping, None],
        "angles": ["array-like", None],
        "log": ["boolean"],
        "noise": [Interval(Real, 0, None, closed="left")],
        "relativistic": ["boolean"],
        "step": [Interval(Real, 0, None, closed="neither"), None],
        "return_X_y": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_optical_model(
    n_samples=1000,
    *,
    nucleus=(82, 208),
    energy=14.0,
    projectile="neutron",
    ranges=None,
    angles=None,
    log=True,
    noise=0.0,
    relativistic=True,
    step=None,
    return_X_y=False,
    n_jobs=None,
    random_state=None,
):
    r"""Draw optical potentials and compute their angular distributions.

    ``fit(data, target)`` emulates the theory, ``fit(target, data)`` inverts it: from a measured
    angular distribution to the potential. Parameters are uniform in their ranges; those that are
    not varied have the values of Koning and Delaroche at this energy, but that ``r_w`` and ``a_w``
    follow ``r_v`` and ``a_v``, as the volume terms share one geometry there.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of potentials.
    nucleus : (int, int), default=(82, 208)
        Proton number Z and mass number A of the target, with 24 <= A <= 209.
    energy : float, default=14.0
        Kinetic energy in the laboratory, in MeV, in [0.001, 200] for neutrons; of protons from
        about 0.1 Z keV (9 keV on lead), see :func:`elastic_scattering`.
    projectile : {"neutron", "proton"}, default="neutron"
        What is scattered.
    ranges : mapping of str to (float, float), default=None
        Which parameters vary, and their range (low, high): strengths in MeV, reduced radii and
        diffusenesses in fm. None for V, r_v, a_v, W_d, r_d and a_d within 10 % of their values by
        Koning and Delaroche.
    angles : array-like of shape (n_angles,), default=None
        Scattering angles in the centre of mass, in degrees; None for every 5 degrees from 10 to
        170.
    log : bool, default=True
        Whether ``target`` is the natural logarithm of the cross-section, which varies over orders
        of magnitude between a maximum and a minimum of the diffraction, in mb/sr.
    noise : float, default=0.0
        Relative experimental error: each cross-section is multiplied with
        :math:`e^{\text{noise} \cdot z}`, z standard normal, so that its logarithm has this standard
        deviation.
    relativistic : bool, default=True
        As in :func:`elastic_scattering`.
    step : float, default=None
        As in :func:`elastic_scattering`.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    n_jobs : int, default=None
        Number of threads; None for one, -1 for all cores. The result does not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed of the parameters and of the noise.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples, n_parameters)
            Parameters of the potentials.
        target : ndarray of shape (n_samples, n_angles)
            Logarithms of the cross-sections in mb/sr, or these, with noise.
        parameter_names : list of str
            The columns of ``data``.
        units : dict of str
            "MeV" or "fm" for each of them.
        ranges : dict of (float, float)
            From which they were drawn.
        angles : ndarray of shape (n_angles,)
            The columns of ``target``, in degrees.
        cross_section : ndarray of shape (n_samples, n_angles)
            Without noise and logarithm, in mb/sr.
        reaction : ndarray of shape (n_samples,)
            Reaction cross-sections, in mb.
        total : ndarray of shape (n_samples,) or None
            Total cross-sections of neutrons, in mb.
        potential : dict of float
            The potential of Koning and Delaroche.
        compute : callable
            The theory itself: from parameters of shape (n, n_parameters) to the target without
            noise, of shape (n, n_angles).
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range or unknown.

    References
    ----------
    .. [1] A. J. Koning, J. P. Delaroche, "Local and global nucleon optical models from 1 keV to
       200 MeV", Nucl. Phys. A 713 (2003) 231.

    Examples
    --------
    >>> from sknuc.datasets import make_optical_model
    >>> theory = make_optical_model(5, random_state=0)
    >>> theory.parameter_names
    ['V', 'r_v', 'a_v', 'W_d', 'r_d', 'a_d']
    >>> theory.data.shape, theory.target.shape
    ((5, 6), (5, 33))
    >>> bool((theory.compute(theory.data) == theory.target).all())
    True
    """
    function = "make_optical_model"
    centre = global_potential(function, energy, nucleus, projectile)
    if ranges is None:
        ranges = {name: (0.9 * centre[name], 1.1 * centre[name]) for name in _VARIED}
    unknown = set(ranges) - set(centre)
    if unknown or not ranges:
        raise ValueError(
            f"The 'ranges' parameter of {function} must name parameters of the potential of a "
            f"{projectile}, out of {', '.join(centre)}. Got {sorted(ranges, key=str)} instead."
        )
    ranges = {
        name: check_range(function, f"ranges[{name!r}]", tuple(range_), _ANY)
        for name, range_ in ranges.items()
    }
    angles = check_angles(function, angles, projectile)
    theory = {
        "names": tuple(ranges),
        "centre": centre,
        "energy": float(energy),
        "nucleus": nucleus,
        "projectile": projectile,
        "angles": angles,
        "relativistic": relativistic,
        "step": step,
        "n_jobs": n_jobs,
    }
    rng = check_random_state(random_state)
    low, high = np.array(list(ranges.values()), dtype=np.float64).T
    parameters = rng.uniform(low, high, (n_samples, len(ranges)))
    scattering = _scatter(parameters, **theory)
    target = _to_target(scattering, log)
    if noise:
        error = noise * rng.standard_normal(target.shape)
        target = target + error if log else target * np.exp(error)
    if return_X_y:
        return parameters, target
    return Bunch(
        data=parameters,
        target=target,
        parameter_names=list(ranges),
        units=potential_units(ranges),
        ranges=ranges,
        angles=angles,
        cross_section=scattering.cross_section,
        reaction=scattering.reaction,
        total=scattering.total,
        potential=centre,
        compute=functools.partial(_compute, log=log, **theory),
        DESCR=_DESCR,
    )


def _scatter(parameters, names, centre, **settings):
    drawn = dict(zip(names, parameters.T, strict=True))
    potential = centre | drawn
    for volume, real in (("r_w", "r_v"), ("a_w", "a_v")):
        if volume not in drawn:
            potential[volume] = potential[real]
    return solve_scattering("make_optical_model", potential, **settings)


def _to_target(scattering, log):
    return np.log(scattering.cross_section) if log else scattering.cross_section.copy()


def _compute(parameters, *, log, names, **theory):
    """Angular distributions of potentials: see ``compute`` of :func:`make_optical_model`."""
    parameters = as_floats("compute", "parameters", parameters)
    if parameters.ndim != 2 or parameters.shape[1] != len(names):
        raise ValueError(
            f"The 'parameters' of compute must have the columns {', '.join(names)}. Got an array "
            f"of shape {parameters.shape} instead."
        )
    return _to_target(_scatter(parameters, names=names, **theory), log)
