r"""Where and when the decays of a double beta search deposit their energy.

The two electrons of neutrinoless double beta decay of :sup:`136`\ Xe carry :math:`Q` and stop
within millimetres: one deposit. :sup:`10`\ C emits a positron with the allowed spectrum

.. math::

    \frac{dN}{dT} \propto F(-Z, T)\, p\, (T + m)\, (T_0 - T)^2,

where :math:`F` is the Fermi function of the daughter's charge, a gamma ray of 718 keV and, as the
positron annihilates, two of 511 keV back to back. A gamma ray of energy :math:`k m c^2` flies
:math:`-\lambda \ln u` with :math:`\lambda = 1/(n_e \sigma_{KN})`, scatters off an electron with
the Klein-Nishina cross-section

.. math::

    \frac{d\sigma}{d\epsilon} \propto \Big(\frac1\epsilon + \epsilon\Big)
    \Big[1 - \frac{\epsilon \sin^2\theta}{1 + \epsilon^2}\Big], \qquad
    1 - \cos\theta = \frac{1/\epsilon - 1}{k},

where :math:`\epsilon` is the share of the energy that it keeps, and leaves the rest there.
"""

import math

import numba
import numpy as np
from scipy.special import loggamma

__all__ = [
    "ABSORPTION_ENERGY",
    "ELECTRON_DENSITY",
    "ELECTRON_MASS",
    "GAMMA_ENERGY",
    "ORIGINS",
    "POSITRON_ENDPOINT",
    "Q_VALUE",
    "draw_positron_energies",
    "klein_nishina_cross_section",
    "positron_spectrum",
    "transport_gammas",
]

# Energies in MeV. The transition of 10C to the 718 keV level of 10B, 98.5 % of its decays.
Q_VALUE = 2.458
POSITRON_ENDPOINT = 1.908
DEEXCITATION_ENERGY = 0.718
ELECTRON_MASS = 0.51099895
GAMMA_ENERGY = DEEXCITATION_ENERGY + 2 * ELECTRON_MASS
DAUGHTER_CHARGE = 5
FINE_STRUCTURE = 1 / 137.035999

# Of a scintillator of CH2 with 0.76 g/cm3, in 1/cm3. Around the absorption energy the photoelectric
# effect in carbon takes over, and the gamma ray ends within centimetres: less than any vertex fit
# resolves.
ELECTRON_DENSITY = 2.6e23
ABSORPTION_ENERGY = 0.02
ELECTRON_RADIUS = 2.8179403e-13
LIGHT_SPEED = 29.9792458

ORIGINS = ("electrons", "annihilation_1", "annihilation_2", "deexcitation")
_COLUMNS = 6
_GRID = 4096
_MAX_ATTEMPTS = 1000


def positron_spectrum(energy):
    """Shape of the positron's spectrum, not normalised.

    Parameters
    ----------
    energy : ndarray
        Kinetic energy in MeV.

    Returns
    -------
    density : ndarray
        Zero outside of (0, endpoint).
    """
    energy = np.asarray(energy, dtype=np.float64)
    inside = (energy > 0) & (energy < POSITRON_ENDPOINT)
    kinetic = np.where(inside, energy, 1.0) / ELECTRON_MASS
    momentum = np.sqrt(kinetic * (kinetic + 2))
    coupling = FINE_STRUCTURE * DAUGHTER_CHARGE
    s = math.sqrt(1 - coupling**2)
    eta = -coupling * (kinetic + 1) / momentum
    fermi = momentum ** (2 * s - 2) * np.exp(np.pi * eta + 2 * loggamma(s + 1j * eta).real)
    rest = POSITRON_ENDPOINT / ELECTRON_MASS - kinetic
    return np.where(inside, fermi * momentum * (kinetic + 1) * rest**2, 0.0)


def draw_positron_energies(rng, n_events, energy_range, light, n_photoelectrons=None):
    r"""Draw kinetic energies of positrons by rejection.

    Given the numbers of photo-electrons :math:`N`, the energies follow the spectrum times the
    probability of :math:`N` at the visible energy, :math:`(YE)^N e^{-YE}/N!`, which is highest in
    the range at :math:`N/Y` or the end next to it.

    Parameters
    ----------
    rng : numpy Generator
    n_events : int
    energy_range : (float, float)
        Visible energy, the positron's and that of all gamma rays, in MeV.
    light : float
        Photo-electrons per MeV.
    n_photoelectrons : int ndarray of shape (n_events,), default=None
        Condition on these.

    Returns
    -------
    energies : float64 ndarray of shape (n_events,)
        In MeV.
    """
    low = max(energy_range[0] - GAMMA_ENERGY, 0.0)
    high = min(energy_range[1] - GAMMA_ENERGY, POSITRON_ENDPOINT)
    grid = np.linspace(0, POSITRON_ENDPOINT, _GRID)
    density = positron_spectrum(grid)
    density /= density.max()
    if n_photoelectrons is not None:
        best = np.clip(n_photoelectrons / light, low + GAMMA_ENERGY, high + GAMMA_ENERGY)
    energies = np.empty(n_events)
    left = np.arange(n_events)
    while len(left):
        proposed = rng.uniform(low, high, len(left))
        chance = np.interp(proposed, grid, density)
        if n_photoelectrons is not None:
            ratio = (proposed + GAMMA_ENERGY) / best[left]
            surprise = light * best[left] * (ratio - 1) - n_photoelectrons[left] * np.log(ratio)
            chance *= np.exp(-surprise)
        taken = rng.random(len(left)) < chance
        energies[left[taken]] = proposed[taken]
        left = left[~taken]
    return energies


@numba.njit(nogil=True, cache=True)
def klein_nishina_cross_section(energy):
    """Total cross-section per electron.

    Parameters
    ----------
    energy : float
        Of the gamma ray, in MeV.

    Returns
    -------
    cross_section : float
        In cm².
    """
    k = energy / ELECTRON_MASS
    logarithm = math.log1p(2 * k)
    first = (1 + k) / k**2 * (2 * (1 + k) / (1 + 2 * k) - logarithm / k)
    rest = logarithm / (2 * k) - (1 + 3 * k) / (1 + 2 * k) ** 2
    return 2 * math.pi * ELECTRON_RADIUS**2 * (first + rest)


@numba.njit(nogil=True, cache=True)
def isotropic(rng):
    """Draw a unit vector (Marsaglia 1972)."""
    while True:
        a = 2 * rng.random() - 1
        b = 2 * rng.random() - 1
        s = a * a + b * b
        if s < 1:
            f = 2 * math.sqrt(1 - s)
            return a * f, b * f, 1 - 2 * s


@numba.njit(nogil=True, cache=True)
def _kept_share(rng, k):
    """Draw the share of its energy that a gamma ray of `k` electron masses keeps.

    1/ε + ε is a mixture of two densities that invert; the bracket is the chance of acceptance.
    """
    least = 1 / (1 + 2 * k)
    first = -math.log(least)
    second = 0.5 * (1 - least**2)
    while True:
        if rng.random() * (first + second) < first:
            share = math.exp(-first * rng.random())
        else:
            share = math.sqrt(least**2 + (1 - least**2) * rng.random())
        c = (1 / share - 1) / k
        if rng.random() < 1 - share * c * (2 - c) / (1 + share**2):
            return share, 1 - c


@numba.njit(nogil=True, cache=True)
def _turn(u, v, w, cosine, azimuth):
    """Turn a unit vector by a polar angle, at an azimuth around it."""
    sine = math.sqrt(max(1 - cosine * cosine, 0.0))
    a, b = sine * math.cos(azimuth), sine * math.sin(azimuth)
    # A vector across: against the axis that is not nearly parallel.
    if abs(w) < 0.9:
        norm = math.sqrt(u * u + v * v)
        ex, ey, ez = v / norm, -u / norm, 0.0
    else:
        norm = math.sqrt(v * v + w * w)
        ex, ey, ez = 0.0, w / norm, -v / norm
    fx, fy, fz = v * ez - w * ey, w * ex - u * ez, u * ey - v * ex
    x = cosine * u + a * ex + b * fx
    y = cosine * v + a * ey + b * fy
    z = cosine * w + a * ez + b * fz
    norm = 1 / math.sqrt(x * x + y * y + z * z)
    return x * norm, y * norm, z * norm


@numba.njit(nogil=True, cache=True)
def _grown(rows):
    return np.concatenate((rows, np.empty_like(rows)))


@numba.njit(nogil=True, cache=True)
def _transport(rng, rows, n, vertex, direction, energy, time, origin, radius):
    """Follow one gamma ray; its deposits are appended to the first `n` rows.

    Returns the rows and how many there are, -1 if the gamma ray leaves the sphere.
    """
    x, y, z = vertex[0], vertex[1], vertex[2]
    u, v, w = direction
    while energy > 0:
        path = rng.standard_exponential()
        path /= ELECTRON_DENSITY * klein_nishina_cross_section(energy)
        x, y, z, time = x + path * u, y + path * v, z + path * w, time + path / LIGHT_SPEED
        if x * x + y * y + z * z >= radius * radius:
            return rows, -1
        share, cosine = _kept_share(rng, energy / ELECTRON_MASS)
        rest = share * energy
        if rest < ABSORPTION_ENERGY:
            rest = 0.0
        if n == len(rows):
            rows = _grown(rows)
        rows[n, 0], rows[n, 1], rows[n, 2] = x, y, z
        rows[n, 3], rows[n, 4], rows[n, 5] = energy - rest, time, origin
        n += 1
        energy = rest
        u, v, w = _turn(u, v, w, cosine, 2 * math.pi * rng.random())
    return rows, n


@numba.njit(nogil=True, cache=True)
def transport_gammas(rng, energies, with_gammas, delays, vertices, radius):
    """Deposits of a block of events.

    Parameters
    ----------
    rng : numpy Generator
    energies : float64 ndarray of shape (n_events,)
        Kinetic energy of the electrons or of the positron, which stays at the vertex, in MeV.
    with_gammas : bool ndarray of shape (n_events,)
        Whether the event has the gamma rays of :sup:`10`C.
    delays : float64 ndarray of shape (n_events,)
        Of the annihilation, in ns.
    vertices : float64 ndarray of shape (n_events, 3)
        In cm.
    radius : float
        Of the sphere of phototubes, in cm. Gamma rays of an event that reach it are drawn anew.

    Returns
    -------
    deposits : float64 ndarray of shape (n_deposits, 6)
        x, y, z in cm, energy in MeV, time after the decay in ns, index in ``ORIGINS``.
    counts : int64 ndarray of shape (n_events,)
        Deposits of each event; -1 and the end if its gamma rays do not stay within the sphere.
    """
    rows = np.empty((64 * len(energies), _COLUMNS))
    counts = np.zeros(len(energies), np.int64)
    total = 0
    for i in range(len(energies)):
        if total == len(rows):
            rows = _grown(rows)
        start = total
        rows[start, :3] = vertices[i]
        rows[start, 3], rows[start, 4], rows[start, 5] = energies[i], 0.0, 0.0
        total = start + 1
        if with_gammas[i]:
            for _ in range(_MAX_ATTEMPTS):
                there = isotropic(rng)
                back = (-there[0], -there[1], -there[2])
                vertex, m, t = vertices[i], ELECTRON_MASS, delays[i]
                rows, total = _transport(rng, rows, start + 1, vertex, there, m, t, 1.0, radius)
                if total > 0:
                    rows, total = _transport(rng, rows, total, vertex, back, m, t, 2.0, radius)
                if total > 0:
                    rows, total = _transport(
                        rng, rows, total, vertex, isotropic(rng), DEEXCITATION_ENERGY, 0.0, 3.0,
                        radius,
                    )  # fmt: skip
                if total > 0:
                    break
            if total < 0:
                counts[i] = -1
                return rows[:0], counts
        counts[i] = total - start
    return rows[:total], counts
