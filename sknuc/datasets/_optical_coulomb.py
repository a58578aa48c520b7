r"""Coulomb wave functions by Steed's method.

Outside the nucleus a partial wave is a sum of the regular and the irregular solution of

.. math::

    w'' + \left[1 - \frac{2 \eta}{\rho} - \frac{l (l + 1)}{\rho^2}\right] w = 0.

:math:`F_l` shrinks and :math:`G_l` grows with :math:`l` where the centrifugal barrier begins, so
that :math:`F` is stable downwards and :math:`G` upwards. Two continued fractions close the system:
one gives :math:`F'/F` at the top, the other :math:`(G' + i F') / (G + i F)` at :math:`l = 0`, and
the Wronskian :math:`F' G - F G' = 1` the scale. Without charge, :math:`\eta = 0`, they are the
Riccati-Bessel functions.

References
----------
.. [1] A. R. Barnett, "COULFG: Coulomb and Bessel functions and their derivatives, for real
   arguments, by Steed's method", Comput. Phys. Commun. 27 (1982) 147.
.. [2] NIST Digital Library of Mathematical Functions, sections 33.2, 33.4 and 33.8.
"""

import math

import numba

__all__ = ["coulomb_functions"]

_MAX_TERMS = 100_000
_TINY = 1e-300


@numba.njit(nogil=True, cache=True)
def _regular_slope(ell, eta, rho):
    """``F'/F``, by the modified Lentz evaluation of DLMF 33.8.1."""
    S = (ell + 1) / rho + eta / (ell + 1)
    value = S
    C, D = S, 0.0
    for _ in range(_MAX_TERMS):
        ell += 1
        following = (ell + 1) / rho + eta / (ell + 1)
        a = -(1.0 + (eta / ell) ** 2)
        b = S + following
        S = following
        D = b + a * D
        C = b + a / C
        D = 1.0 / (D if D != 0.0 else _TINY)
        C = C if C != 0.0 else _TINY
        value *= C * D
        if abs(C * D - 1.0) < 1e-16:
            break
    return value


@numba.njit(nogil=True, cache=True)
def _outgoing_slope(eta, rho):
    """``(G' + iF') / (G + iF)`` of l = 0, by DLMF 33.8.2."""
    a = complex(1.0, eta)
    b = complex(0.0, eta)
    value = complex(_TINY, 0.0)
    C, D = value, complex(0.0, 0.0)
    for n in range(_MAX_TERMS):
        numerator = (a + n) * (b + n)
        denominator = complex(2.0 * (rho - eta), 2.0 * (n + 1))
        D = 1.0 / (denominator + numerator * D)
        C = denominator + numerator / C
        value *= C * D
        if abs(C * D - 1.0) < 1e-15:
            break
    return complex(0.0, 1.0 - eta / rho) + complex(0.0, 1.0 / rho) * value


@numba.njit(nogil=True, cache=True)
def coulomb_functions(eta, rho, F, G):
    """Compute Coulomb functions of all orders up to ``len(F) - 1``.

    Parameters
    ----------
    eta : float
        Sommerfeld parameter, 0 or more.
    rho : float
        Distance in units of 1/k, beyond the turning point ``2 * eta`` of l = 0: inside, the
        irregular solution cannot be told from the fraction's rounding.
    F, G : ndarray of shape (n_l,)
        Overwritten by the regular and the irregular function.
    """
    # Above its turning point F is positive and the fraction for F'/F converges at once.
    top = max(len(F) - 1, math.ceil(rho))
    value = 1.0
    slope = _regular_slope(top, eta, rho)
    for ell in range(top, 0, -1):
        if ell < len(F):
            F[ell] = value
        R = math.sqrt(1.0 + (eta / ell) ** 2)
        S = ell / rho + eta / ell
        below = (S * value + slope) / R
        slope = S * below - R * value
        value = below
        if abs(value) > 1e200:
            value *= 1e-200
            slope *= 1e-200
            for m in range(ell, len(F)):
                F[m] *= 1e-200
    F[0] = value

    outgoing = _outgoing_slope(eta, rho)
    p, q = outgoing.real, outgoing.imag
    # Of the solution (value, slope) of any size; nothing divides by F, which has zeros.
    irregular = slope - p * value
    scale = math.sqrt(q / (irregular * irregular + (q * value) ** 2))
    for ell in range(len(F)):
        F[ell] *= scale
    G[0] = irregular / q * scale
    slope = p * G[0] - q * F[0]
    for ell in range(1, len(F)):
        R = math.sqrt(1.0 + (eta / ell) ** 2)
        S = ell / rho + eta / ell
        G[ell] = (S * G[ell - 1] - slope) / R
        slope = R * G[ell - 1] - S * G[ell]
