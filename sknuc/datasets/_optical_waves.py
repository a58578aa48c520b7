r"""Partial waves in an optical potential, by Numerov's method.

The radial function of orbital and total angular momentum :math:`l, j` obeys

.. math::

    u'' = g\,u, \qquad g = \frac{l (l + 1)}{r^2} + 2 \eta k\,v(r) - k^2
        + \frac{2 \mu}{\hbar^2} \left[U(r) + \ell_j\,U_{so}(r)\right],

:math:`\ell_j = l` for :math:`j = l + 1/2` and :math:`-(l + 1)` for :math:`j = l - 1/2`, with
:math:`v = 1/r` outside the charged sphere. With :math:`T = h^2 g / 12` and
:math:`w = (1 - T) u`, Numerov's recurrence is

.. math::

    w_{n+1} = 12\,u_n - 10\,w_n - w_{n-1} + O(h^6), \qquad u_n = w_n / (1 - T_n):

one complex division per step, and an error of :math:`O(h^4)`. All waves of an event advance
together, so that the steps of several fill a vector register. Outside the nucleus
:math:`u \propto H^- - S H^+` with :math:`H^\pm = G \pm i F`, and its values at two radii give

.. math::

    S - 1 = -2i\,\frac{u_2 F_1 - u_1 F_2}{u_2 H^+_1 - u_1 H^+_2},

which loses no digits where :math:`S` approaches one.

References
----------
.. [1] J. M. Blatt, "Practical points concerning the solution of the Schrodinger equation",
   J. Comput. Phys. 1 (1967) 382.
.. [2] I. J. Thompson, F. M. Nunes, "Nuclear Reactions for Astrophysics", Cambridge University Press
   (2009), chapters 3 and 6.
"""

import math

import numba
import numpy as np

from sknuc.datasets._optical_coulomb import coulomb_functions

__all__ = ["MAX_L", "cross_sections", "partial_waves", "woods_saxon"]

MAX_L = 255

# The numbers of one channel, each in a row of this length of one array: the compiler then knows
# how far apart they are, and that writing one does not change another.
_ROW = 2 * (MAX_L + 1)
_CENTRIFUGAL, _SPIN, _W_RE, _W_IM, _P_RE, _P_IM, _U_RE, _U_IM = range(0, 8 * _ROW, _ROW)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def woods_saxon(r, radius, diffuseness):
    """Woods-Saxon form ``f`` and ``-a df/dr = f (1 - f)`` at one radius, without overflow."""
    z = (r - radius) / diffuseness
    x = math.exp(-abs(z))
    return (x if z > 0.0 else 1.0) / (1.0 + x), x / (1.0 + x) ** 2


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _fill_potential(terms, coupling, k, eta, step, central, spin_orbit):
    """``T`` without its centrifugal part, and its factor of the spin-orbit term, on the grid."""
    V, R_v, a_v, W, R_w, a_w, W_d, R_d, a_d, V_so, W_so, R_so, a_so, R_c = terms
    unit = step * step / 12.0
    strength = unit * coupling
    for n in range(1, len(central)):
        r = n * step
        real, _ = woods_saxon(r, R_v, a_v)
        volume, _ = woods_saxon(r, R_w, a_w)
        _, surface = woods_saxon(r, R_d, a_d)
        _, edge = woods_saxon(r, R_so, a_so)
        charge = 1.0 / r if r >= R_c else (3.0 - (r / R_c) ** 2) / (2.0 * R_c)
        central[n] = complex(
            unit * (2.0 * eta * k * charge - k * k) - strength * V * real,
            -strength * (W * volume + 4.0 * W_d * surface),
        )
        thomas = -strength * edge / (r * a_so)
        spin_orbit[n] = complex(thomas * V_so, thomas * W_so)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _start(s, c, n, ell, spin, step, central, spin_orbit):
    """Set a channel at grid points n - 1 and n from the series of the regular solution."""
    s[_CENTRIFUGAL + c] = ell * (ell + 1) / 12.0
    s[_SPIN + c] = spin
    inner = complex(0.0, 0.0)
    T = ell * (ell + 1) / (12.0 * n * n)
    well = central[n] + spin * spin_orbit[n]
    if n > 1:
        # u = r^(l+1) (1 + kappa r^2 / (4 l + 6) + ...), kappa = 12 well / h^2.
        kappa = 12.0 * well / (4 * ell + 6)
        ratio = ((n - 1) / n) ** (ell + 1)
        inner = ratio * (1.0 + kappa * (n - 1) ** 2) / (1.0 + kappa * n * n)
        barrier = ell * (ell + 1) / (12.0 * (n - 1) ** 2)
        inner *= 1.0 - barrier - central[n - 1] - spin * spin_orbit[n - 1]
    w = 1.0 - T - well
    s[_W_RE + c], s[_W_IM + c] = w.real, w.imag
    s[_P_RE + c], s[_P_IM + c] = inner.real, inner.imag


@numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def _advance(s, n_channels, n, central, spin_orbit):
    """Compute u at grid point n, and move w to n + 1."""
    inverse = 1.0 / (n * n)
    a_re, a_im = central.real, central.imag
    b_re, b_im = spin_orbit.real, spin_orbit.imag
    for c in range(n_channels):
        x = 1.0 - (s[_CENTRIFUGAL + c] * inverse + a_re + s[_SPIN + c] * b_re)
        y = a_im + s[_SPIN + c] * b_im
        w_re = s[_W_RE + c]
        w_im = s[_W_IM + c]
        norm = 1.0 / (x * x + y * y)
        u_re = (w_re * x - w_im * y) * norm
        u_im = (w_im * x + w_re * y) * norm
        s[_U_RE + c] = u_re
        s[_U_IM + c] = u_im
        s[_W_RE + c] = 12.0 * u_re - 10.0 * w_re - s[_P_RE + c]
        s[_W_IM + c] = 12.0 * u_im - 10.0 * w_im - s[_P_IM + c]
        s[_P_RE + c] = w_re
        s[_P_IM + c] = w_im


@numba.njit(nogil=True, cache=True, error_model="numpy")
def partial_waves(central, spin_orbit, k, eta, step, n_matching, n_l, T):
    r"""Solve the radial equation of one event for all its partial waves.

    Parameters
    ----------
    central, spin_orbit : complex ndarray of shape (n_points,)
        ``h^2 / 12`` times what stands in ``g`` besides the centrifugal barrier, and its part that
        is multiplied with :math:`\ell_j`, at radii ``0, h, 2 h, ...``. The nuclear part has to
        vanish at the matching radii.
    k : float
        Wave number, in 1/fm.
    eta : float
        Sommerfeld parameter.
    step : float
        ``h``, in fm.
    n_matching : int
        The matching radii are the last grid point and that `n_matching` points before it.
    n_l : int
        Number of orbital angular momenta.
    T : complex ndarray of shape (>= n_l, 2)
        Overwritten by ``S - 1`` for j = l + 1/2 and j = l - 1/2.
    """
    last = len(central) - 1
    first = last - n_matching
    s = np.empty(8 * _ROW)
    inner = np.empty(2 * n_l, dtype=np.complex128)
    opened = 0
    for n in range(1, last + 1):
        # A wave starts where T of its barrier is about 1/12, and what is wrong in its first values
        # dies out under the barrier. At smaller radii 1 - T would change its sign.
        while opened < 2 * n_l and n > opened // 2:
            ell = opened // 2
            _start(s, opened, n, ell, float(ell), step, central, spin_orbit)
            _start(s, opened + 1, n, ell, -float(ell + 1), step, central, spin_orbit)
            opened += 2
        _advance(s, opened, n, central[n], spin_orbit[n])
        if n == first:
            for c in range(opened):
                inner[c] = complex(s[_U_RE + c], s[_U_IM + c])

    F = np.empty((2, n_l))
    G = np.empty((2, n_l))
    coulomb_functions(eta, k * first * step, F[0], G[0])
    coulomb_functions(eta, k * last * step, F[1], G[1])
    for ell in range(n_l):
        for j in range(2):
            c = 2 * ell + j
            u_first, u_last = inner[c], complex(s[_U_RE + c], s[_U_IM + c])
            # Cross-multiplied, since u has zeros, and scaled, since under a barrier it grows far.
            largest = max(abs(u_first), abs(u_last))
            u_first, u_last = u_first / largest, u_last / largest
            regular = u_last * F[0, ell] - u_first * F[1, ell]
            irregular = u_last * G[0, ell] - u_first * G[1, ell]
            T[ell, j] = complex(0.0, -2.0) * regular / (irregular + 1j * regular)
    T[0, 1] = 0.0  # j = -1/2 does not exist


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _observables(T, n_l, k, eta, cosines, integrated, cross_section, analyzing_power):
    """Cross-sections (fm^2) and analyzing power from S - 1 of one event."""
    elastic = reaction = total = 0.0
    for ell in range(n_l):
        for j in range(2):
            weight = ell + 1 - j
            t = T[ell, j]
            size = t.real * t.real + t.imag * t.imag
            elastic += weight * size
            reaction -= weight * (2.0 * t.real + size)
            total -= weight * 2.0 * t.real
    unit = math.pi / (k * k)
    integrated[0] = unit * total
    integrated[1] = unit * elastic
    integrated[2] = unit * reaction

    # Coulomb phases without that of l = 0, which all amplitudes share.
    spread = np.empty((n_l, 2), dtype=np.complex128)
    phase = 0.0
    for ell in range(n_l):
        if ell:
            phase += 2.0 * math.atan(eta / ell)
        rotation = complex(math.cos(phase), math.sin(phase)) / (2.0 * k)
        spread[ell, 0] = -1j * rotation * ((ell + 1) * T[ell, 0] + ell * T[ell, 1])
        spread[ell, 1] = rotation * (T[ell, 0] - T[ell, 1])

    for i in range(len(cosines)):
        x = cosines[i]
        sine = math.sqrt((1.0 - x) * (1.0 + x))
        f = complex(0.0, 0.0)
        g = complex(0.0, 0.0)
        if eta > 0.0:
            half = 0.5 * (1.0 - x)
            phase = -eta * math.log(half)
            f = -eta / (2.0 * k * half) * complex(math.cos(phase), math.sin(phase))
        # P and its derivative D: (l+1) P_{l+1} = (2l+1) x P_l - l P_{l-1}, and
        # D_{l+1} = x D_l + (l + 1) P_l.
        P, below, D = 1.0, 0.0, 0.0
        for ell in range(n_l):
            f += spread[ell, 0] * P
            g += spread[ell, 1] * (sine * D)
            D = x * D + (ell + 1) * P
            P, below = ((2 * ell + 1) * x * P - ell * below) / (ell + 1), P
        intensity = f.real * f.real + f.imag * f.imag + g.real * g.real + g.imag * g.imag
        cross_section[i] = intensity
        interference = 2.0 * (f.real * g.real + f.imag * g.imag)
        analyzing_power[i] = interference / intensity if intensity > 0.0 else 0.0


@numba.njit(nogil=True, cache=True, error_model="numpy")
def cross_sections(
    terms,
    coupling,
    k,
    eta,
    step,
    n_points,
    n_matching,
    n_l,
    cosines,
    T,
    integrated,
    cross_section,
    analyzing_power,
):
    """Solve and sum the partial waves of events.

    Parameters
    ----------
    terms : ndarray of shape (n_events, 14)
        V, R_v, a_v, W, R_w, a_w, W_d, R_d, a_d, V_so, W_so, R_so, a_so, R_c, in MeV and fm; the
        spin-orbit strengths in MeV fm^2, radii those of the nucleus.
    coupling : ndarray of shape (n_events,)
        ``2 mu / hbar^2``, in 1 / (MeV fm^2).
    k, eta : ndarray of shape (n_events,)
        Wave numbers (1/fm) and Sommerfeld parameters.
    step : ndarray of shape (n_events,)
        In fm.
    n_points, n_matching, n_l : int ndarray of shape (n_events,)
        Grid points beyond the origin, steps between the matching radii, and numbers of orbital
        angular momenta.
    cosines : ndarray of shape (n_angles,)
        Of the scattering angles in the centre of mass.
    T : complex ndarray of shape (n_events, max(n_l), 2)
        Zeros; overwritten by S - 1.
    integrated : ndarray of shape (n_events, 3)
        Overwritten by the total, elastic and reaction cross-sections, in fm^2.
    cross_section, analyzing_power : ndarray of shape (n_events, n_angles)
        Overwritten: cross-sections in fm^2/sr, and the power, in [-1, 1].
    """
    size = n_points.max() + 1
    central = np.zeros(size, dtype=np.complex128)
    spin_orbit = np.zeros(size, dtype=np.complex128)
    for i in range(len(terms)):
        U = central[: n_points[i] + 1]
        U_so = spin_orbit[: n_points[i] + 1]
        row = terms[i]
        values = (
            row[0], row[1], row[2], row[3], row[4], row[5], row[6],
            row[7], row[8], row[9], row[10], row[11], row[12], row[13],
        )  # fmt: skip
        _fill_potential(values, coupling[i], k[i], eta[i], step[i], U, U_so)
        partial_waves(U, U_so, k[i], eta[i], step[i], n_matching[i], n_l[i], T[i])
        _observables(
            T[i], n_l[i], k[i], eta[i], cosines,
            integrated[i], cross_section[i], analyzing_power[i],
        )  # fmt: skip
