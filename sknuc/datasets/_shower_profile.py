r"""The shape of electromagnetic showers and how it fluctuates.

The profile is that of Longo and Sestili, its parameters are those of Grindhammer and Peters.

In units of the radiation length the energy of a shower is deposited along its axis as a Gamma
density, whose two parameters fluctuate from shower to shower,

.. math::

    \frac{1}{E}\frac{dE}{dt} = \frac{(\beta t)^{\alpha - 1} \beta e^{-\beta t}}{\Gamma(\alpha)},
    \qquad T = \frac{\alpha - 1}{\beta},

with :math:`\ln T` and :math:`\ln\alpha` normal and correlated. With :math:`y = E / E_c`

.. math::

    \langle\ln T\rangle &= \ln(\ln y - 0.812), &
    \sigma(\ln T) &= (-1.4 + 1.26 \ln y)^{-1}, \\
    \langle\ln\alpha\rangle &= \ln(0.81 + (0.458 + 2.26/Z) \ln y), &
    \sigma(\ln\alpha) &= (-0.58 + 0.86 \ln y)^{-1}, \\
    \rho &= 0.705 - 0.023 \ln y.

Across the axis a core and a tail are superimposed, with radii in units of the Molière radius,

.. math::

    \frac{dE}{dr} \propto p \frac{2 r R_C^2}{(r^2 + R_C^2)^2}
        + (1 - p) \frac{2 r R_T^2}{(r^2 + R_T^2)^2},

where :math:`R_C`, :math:`R_T` and :math:`p` depend on the depth in units of the mean,
:math:`\tau = \frac{t}{\langle t\rangle} \frac{\langle\alpha\rangle}{\langle\alpha\rangle - 1}`.
Either part has the cumulative function :math:`r^2 / (r^2 + R^2)`, from which radii are drawn.
"""

from dataclasses import dataclass
from numbers import Real

import numpy as np
from scipy.special import ndtr, ndtri

__all__ = ["CALORIMETER_MATERIALS", "Showers", "check_material", "draw_showers"]

#: Effective atomic number, radiation length (mm) and critical energy (MeV) by name. Those of lead
#: and crystals are the Particle Data Group's; "lead_liquid_argon" is computed for plates of 1.53 mm
#: of lead and 0.4 mm of steel with 4.2 mm of argon, about those of the barrel of ATLAS.
CALORIMETER_MATERIALS = {
    "lead_liquid_argon": (61.1, 18.8, 10.8),
    "lead_tungstate": (68.3, 8.90, 9.64),
    "caesium_iodide": (54.0, 18.6, 11.17),
    "lead": (82.0, 5.61, 7.43),
}

# Of the scale of multiple scattering, whose ratio to the critical energy is that of the Molière
# radius to the radiation length, in MeV.
_SCATTERING = 21.2

# Below this energy in units of the critical one the fluctuations are not those of the fit.
LEAST_Y = 30.0

# Profiles have a maximum inside the calorimeter for alpha > 1 only.
_LEAST_ALPHA = 1.1


def check_material(function, material):
    """Return atomic number, radiation length (mm), critical energy (MeV), Molière radius (mm)."""
    values = material
    if isinstance(material, str):
        values = CALORIMETER_MATERIALS.get(material, ())
    positive = [isinstance(v, Real) and 0 < v < np.inf for v in values]
    if len(positive) != 3 or not all(positive):
        raise ValueError(
            f"The 'material' parameter of {function} must be one of "
            f"{', '.join(map(repr, CALORIMETER_MATERIALS))}, or a tuple of the effective atomic "
            "number, the radiation length in mm and the critical energy in MeV, all positive. Got "
            f"{material!r} instead."
        )
    z, x0, critical = (float(v) for v in values)
    return z, x0, critical, x0 * _SCATTERING / critical


@dataclass
class Showers:
    """Parameters of showers, each of shape (n_samples,); radii in Molière radii."""

    alpha: np.ndarray
    beta: np.ndarray
    #: tau of one beta * t.
    tau_scale: np.ndarray
    log_energy: np.ndarray
    z: float

    def __getitem__(self, rows):
        """The same of some showers, or of one shower several times."""
        return self._apply(lambda column: column[rows])

    def astype(self, dtype):
        """The same with parameters of another type."""
        return self._apply(lambda column: column.astype(dtype))

    def _apply(self, function):
        columns = (self.alpha, self.beta, self.tau_scale, self.log_energy)
        return Showers(*map(function, columns), z=self.z)

    @property
    def maximum(self):
        """Depth T of the maximum, in radiation lengths."""
        return (self.alpha - 1) / self.beta

    def core_radius(self, tau):
        """Radius of the core."""
        return 0.0251 + 0.00319 * self.log_energy + (0.1162 - 0.000381 * self.z) * tau

    def tail_radius(self, tau):
        """Radius of the tail."""
        rise = 0.3585 + 0.0421 * self.log_energy
        k = 0.659 - 0.00309 * self.z
        return k * (np.exp(-2.59 * (tau - 0.645)) + np.exp(rise * (tau - 0.645)))

    def core_share(self, tau):
        """Share p of the core."""
        q = (0.401 + 0.00187 * self.z - tau) / (1.313 - 0.0686 * self.log_energy)
        return (2.632 - 0.00094 * self.z) * np.exp(q - np.exp(q))


def draw_showers(rng, energy, critical_energy, z, *, fluctuate=True):
    """Draw the profiles of showers.

    Parameters
    ----------
    rng : numpy.random.Generator
    energy : ndarray of shape (n_samples,)
        In GeV, at least `LEAST_Y` critical energies.
    critical_energy : float
        In MeV.
    z : float
        Effective atomic number.
    fluctuate : bool, default=True
        False gives every shower the median profile.

    Returns
    -------
    showers : Showers
    """
    log_y = np.log(1e3 * energy / critical_energy)
    mean_alpha = 0.81 + (0.458 + 2.26 / z) * log_y
    center, width = np.log(mean_alpha), 1 / (-0.58 + 0.86 * log_y)
    a, t = np.zeros_like(energy), np.zeros_like(energy)
    if fluctuate:
        # Of the normal law above the least alpha, and the other given it.
        cut = ndtr((np.log(_LEAST_ALPHA) - center) / width)
        a = ndtri(cut + (1 - cut) * rng.random(len(energy)))
        rho = 0.705 - 0.023 * log_y
        t = rho * a + np.sqrt(1 - rho**2) * rng.standard_normal(len(energy))
    alpha = np.exp(center + width * a)
    maximum = np.exp(np.log(log_y - 0.812) + t / (-1.4 + 1.26 * log_y))
    return Showers(
        alpha=alpha,
        beta=(alpha - 1) / maximum,
        tau_scale=mean_alpha / (mean_alpha - 1) / alpha,
        log_energy=np.log(energy),
        z=z,
    )
