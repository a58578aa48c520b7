"""What is known of nuclei before any fit: the liquid drop, and where its shells close.

A model of masses learns the residuals of a simpler one. The drop of a charged liquid holds the
bulk of the binding energy and nothing of the shells; the features count the valence nucleons that
are left over from closed shells, as a learner needs them to see the rest.
"""

from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

__all__ = ["liquid_drop_binding_energy", "nuclear_features"]

_MAGIC_NUMBERS = np.array([2, 8, 20, 28, 50, 82, 126, 184])


@validate_params(
    {
        "Z": ["array-like", Real],
        "N": ["array-like", Real],
        "volume": [Interval(Real, None, None, closed="neither")],
        "surface": [Interval(Real, None, None, closed="neither")],
        "coulomb": [Interval(Real, None, None, closed="neither")],
        "asymmetry": [Interval(Real, None, None, closed="neither")],
        "pairing": [Interval(Real, None, None, closed="neither")],
    },
    prefer_skip_nested_validation=True,
)
def liquid_drop_binding_energy(
    Z, N, *, volume=15.8, surface=18.3, coulomb=0.714, asymmetry=23.2, pairing=12.0
):
    r"""Binding energy of nuclei as drops of a charged liquid (Bethe-Weizsaecker).

    .. math::

        B = a_v A - a_s A^{2/3} - a_c \frac{Z (Z - 1)}{A^{1/3}} - a_a \frac{(N - Z)^2}{A}
            + a_p \frac{\delta}{\sqrt{A}}, \qquad \delta = \frac{(-1)^Z + (-1)^N}{2}.

    It follows the measured energies to a few MeV, but for the closed shells, of which a drop knows
    nothing: the residuals have their structure there.

    Parameters
    ----------
    Z, N : array-like of int
        Numbers of protons and neutrons, of the same shape or scalars.
    volume, surface, coulomb, asymmetry, pairing : float, default=15.8, 18.3, 0.714, 23.2 and 12.0
        The coefficients :math:`a_v, a_s, a_c, a_a, a_p` in MeV.

    Returns
    -------
    binding_energy : float64 ndarray
        In MeV, of the common shape of Z and N.

    Raises
    ------
    ValueError
        If numbers are negative or not whole, or there is no nucleon.

    References
    ----------
    .. [1] C. F. von Weizsaecker, "Zur Theorie der Kernmassen", Z. Phys. 96 (1935) 431.
    .. [2] H. A. Bethe, R. F. Bacher, "Nuclear Physics A. Stationary States of Nuclei", Rev. Mod.
       Phys. 8 (1936) 82.

    Examples
    --------
    >>> from sknuc.datasets import liquid_drop_binding_energy
    >>> liquid_drop_binding_energy([26, 82], [30, 126]).round(1)  # 56Fe, 208Pb
    array([ 490.6, 1628.5])
    """
    Z, N = _nucleons("liquid_drop_binding_energy", Z, N)
    A = (Z + N).astype(np.float64)
    return (
        volume * A
        - surface * A ** (2 / 3)
        - coulomb * Z * (Z - 1) / np.cbrt(A)
        - asymmetry * (N - Z) ** 2 / A
        + pairing * _pairing(Z, N) / np.sqrt(A)
    )


@validate_params(
    {"Z": ["array-like", Real], "N": ["array-like", Real]}, prefer_skip_nested_validation=True
)
def nuclear_features(Z, N):
    r"""Features of nuclei that tell what the shell model knows beyond a liquid drop.

    With the numbers of valence nucleons :math:`\nu_p, \nu_n`, the distances of Z and N to the
    nearest of the magic numbers 2, 8, 20, 28, 50, 82, 126 and 184, the columns are

    ===  =====================================================================================
    0    pairing :math:`\delta = [(-1)^Z + (-1)^N] / 2`: 1 even-even, 0 odd, -1 odd-odd
    1    valence protons :math:`\nu_p`
    2    valence neutrons :math:`\nu_n`
    3    promiscuity :math:`P = \nu_p \nu_n / (\nu_p + \nu_n)`: the mean number of interactions
         of a valence nucleon with those of the other kind; 0 in doubly magic nuclei
    ===  =====================================================================================

    Parameters
    ----------
    Z, N : array-like of int of shape (n_nuclei,)
        Numbers of protons and neutrons.

    Returns
    -------
    features : float64 ndarray of shape (n_nuclei, 4)

    Raises
    ------
    ValueError
        If numbers are negative or not whole, or there is no nucleon.

    References
    ----------
    .. [1] R. F. Casten, D. S. Brenner, P. E. Haustein, "Valence p-n interactions and the
       development of collectivity in heavy nuclei", Phys. Rev. Lett. 58 (1987) 658.
    .. [2] M. W. Kirson, "Mutual influence of terms in a semi-empirical mass formula", Nucl. Phys.
       A 798 (2008) 29.

    Examples
    --------
    >>> from sknuc.datasets import nuclear_features
    >>> nuclear_features([82, 68, 67], [126, 98, 98]).round(2)  # 208Pb, 166Er, 165Ho
    array([[ 1.  ,  0.  ,  0.  ,  0.  ],
           [ 1.  , 14.  , 16.  ,  7.47],
           [ 0.  , 15.  , 16.  ,  7.74]])
    """
    Z, N = _nucleons("nuclear_features", Z, N)
    if Z.ndim != 1:
        raise ValueError(
            "The 'Z' and 'N' parameters of nuclear_features must be one-dimensional, one number "
            f"per nucleus. Got the shape {Z.shape} instead."
        )
    protons, neutrons = (np.abs(k[:, None] - _MAGIC_NUMBERS).min(axis=1) for k in (Z, N))
    promiscuity = protons * neutrons / np.maximum(protons + neutrons, 1)
    return np.column_stack([_pairing(Z, N), protons, neutrons, promiscuity])


def _pairing(Z, N):
    return 1.0 - Z % 2 - N % 2


def _nucleons(function, Z, N):
    """Return numbers of protons and neutrons as integers of one shape."""
    counts = []
    for name, values in (("Z", Z), ("N", N)):
        try:
            values = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if not np.all((values >= 0) & (values == np.rint(values)) & (values < 1e9)):
            raise ValueError(
                f"The {name!r} parameter of {function} must be whole numbers >= 0. Some are not."
            )
        counts.append(values.astype(np.int64))
    try:
        Z, N = np.broadcast_arrays(*counts)
    except ValueError:
        raise ValueError(
            f"The 'Z' and 'N' parameters of {function} must have the same shape. Got "
            f"{counts[0].shape} and {counts[1].shape} instead."
        ) from None
    if np.any(Z + N == 0):
        raise ValueError(
            f"The 'Z' and 'N' parameters of {function} must give at least one nucleon for every "
            "nucleus. Some have Z = N = 0."
        )
    return Z, N
