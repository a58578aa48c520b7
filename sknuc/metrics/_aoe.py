r"""The A/E cut with the correction from Compton bands.

The largest current :math:`A` of a single-site event in a point-contact detector is proportional to
its energy :math:`E`; several sites share the charge and reach less. Electronics and the growing
size of the charge cloud bend the proportionality slightly, noise widens it towards low energies.
Compton continua, which hold single-site events at every energy, measure both: in each of several
bands between 900 and 2350 keV the peak of A/E is fitted with a Gaussian that has a low-side tail of
multi-site events (:func:`fit_peak`), then

.. math:: \mu(E) = a E + b, \qquad \sigma(E) = \sqrt{p + (q/E)^r}

are fitted to the centres and widths. The classifier is
:math:`\zeta = (A/E - \mu(E)) / \sigma(E)`: single-site events follow a standard normal distribution
at every energy, multi-site events lie below it, surface events above. Events above a cut
:math:`\zeta_c` are kept; the cut is chosen to keep 90 % of the double escape line
(:func:`acceptance_threshold` with :func:`sideband_weights`).
"""

from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from scipy.optimize import curve_fit
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._bins import find_channels
from sknuc.metrics._calibration import TH228_GAMMAS
from sknuc.metrics._peaks import PeakFit, fit_peak
from sknuc.metrics._validation import check_column, check_interval

__all__ = ["ComptonBandCorrection", "fit_compton_bands"]


@dataclass(frozen=True)
class ComptonBandCorrection:
    """Mean and width of A/E of single-site events as functions of the energy.

    Attributes
    ----------
    mu_coef : ndarray of shape (2,)
        The slope `a` per keV and the intercept `b` of the mean.
    sigma_coef : ndarray of shape (3,)
        `p`, `q` (keV) and `r` of the width.
    band_energy : ndarray of shape (n_bands,)
        Mean energy of the events of each band in keV.
    bands : tuple of PeakFit
        The fit of A/E of each band.
    """

    mu_coef: np.ndarray
    sigma_coef: np.ndarray
    band_energy: np.ndarray
    bands: tuple[PeakFit, ...]

    def mu(self, energy):
        """Mean A/E of single-site events at `energy` (keV)."""
        a, b = self.mu_coef
        return a * np.asarray(energy, dtype=np.float64) + b

    def sigma(self, energy):
        """Standard deviation of A/E of single-site events at `energy` (keV)."""
        return _width(np.asarray(energy, dtype=np.float64), *self.sigma_coef)

    def classifier(self, energy, aoe):
        """Distance of A/E from the single-site mean in standard deviations.

        Parameters
        ----------
        energy : array-like of shape (n_events,)
            Energies in keV.
        aoe : array-like of shape (n_events,)
            A/E in the unit of the fit.

        Returns
        -------
        zeta : ndarray of shape (n_events,)
            Standard normal for single-site events, negative for multi-site events.
        """
        return (np.asarray(aoe, dtype=np.float64) - self.mu(energy)) / self.sigma(energy)


def _width(energy, p, q, r):
    return np.sqrt(p + (q / energy) ** r)


@validate_params(
    {
        "energy": ["array-like"],
        "aoe": ["array-like"],
        "energy_range": ["array-like"],
        "n_bands": [Interval(Integral, 4, None, closed="left")],
        "lines": [dict],
        "exclude": [Interval(Real, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def fit_compton_bands(
    energy, aoe, *, energy_range=(900.0, 2350.0), n_bands=12, lines=TH228_GAMMAS, exclude=10.0
) -> ComptonBandCorrection:
    """Fit the energy dependence of A/E of single-site events in Compton bands.

    Parameters
    ----------
    energy : array-like of shape (n_events,)
        Energies in keV.
    aoe : array-like of shape (n_events,)
        A/E, the largest current over the energy, in any unit.
    energy_range : tuple of float, default=(900, 2350)
        Range of the bands in keV.
    n_bands : int, default=12
        Number of bands.
    lines : dict of str to float, default=TH228_GAMMAS
        Gamma lines, which are not Compton continuum, in keV: all of the source, not only those
        strong enough to calibrate with.
    exclude : float, default=10.0
        Events this close to a line, in keV, are left out.

    Returns
    -------
    correction : ComptonBandCorrection
        With the methods `mu`, `sigma` and `classifier`.

    Raises
    ------
    ValueError
        If a band holds no peak of single-site events.

    References
    ----------
    .. [1] GERDA Collaboration, "Pulse shape discrimination for GERDA Phase I data", Eur. Phys. J.
       C 73 (2013) 2583, arXiv:1307.2610.
    .. [2] GERDA Collaboration, "Pulse shape analysis in GERDA Phase II", Eur. Phys. J.
       C 82 (2022) 284, arXiv:2202.13355.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import fit_compton_bands
    >>> rng = np.random.default_rng(0)
    >>> energy = rng.uniform(900, 2350, 20_000)
    >>> aoe = rng.normal(1 - 1e-5 * energy, 0.01)
    >>> correction = fit_compton_bands(energy, aoe)
    >>> print(f"{correction.mu(2000.0):.3f} ± {correction.sigma(2000.0):.3f}")
    0.980 ± 0.010
    """
    energy, aoe = check_column("energy", energy), check_column("aoe", aoe)
    check_consistent_length(energy, aoe)
    low, high = check_interval("energy_range", energy_range)
    continuum = (energy >= low) & (energy < high)
    for line in lines.values():
        continuum &= np.abs(energy - line) > exclude
    band = ((energy - low) / (high - low) * n_bands).astype(int)
    fits, centers = [], []
    for i in range(n_bands):
        inside = continuum & (band == i)
        fits.append(_fit_band(aoe[inside], low + (high - low) * np.array([i, i + 1]) / n_bands))
        centers.append(energy[inside].mean())
    centers = np.array(centers)
    mu, sigma = (np.array([f.params[p] for f in fits]) for p in ("mu", "sigma"))
    mu_std, sigma_std = (np.array([f.errors[p] for f in fits]) for p in ("mu", "sigma"))
    # The energy's own scale keeps slope and intercept of the same order.
    middle = centers.mean()
    slope, level = np.polyfit(centers - middle, mu, 1, w=1 / mu_std)
    unit = sigma.mean()
    p, q, r = curve_fit(
        _width,
        centers / middle,
        sigma / unit,
        p0=[0.5, 0.7, 2.0],
        sigma=sigma_std / unit,
        bounds=([0, 0, 0.5], [4.0, 4.0, 6.0]),
    )[0]
    # sqrt(p + (q/e)^r) with sigma in `unit` and e in `middle`: (unit^(2/r) q middle / E)^r.
    return ComptonBandCorrection(
        mu_coef=np.array([slope, level - slope * middle]),
        sigma_coef=np.array([p * unit**2, unit ** (2 / r) * q * middle, r]),
        band_energy=centers,
        bands=tuple(fits),
    )


def _fit_band(aoe, edges):
    """Fit the single-site peak of A/E in one band."""
    if len(aoe) < 100:
        raise ValueError(
            f"fit_compton_bands found {len(aoe)} events between {edges[0]:.0f} and "
            f"{edges[1]:.0f} keV; a band needs 100. Lower 'n_bands' or take more data."
        )
    mode, width = _half_sample_mode(aoe)
    # A quarter of the sample in one channel: the peak is a few channels wide.
    width = width or find_channels(aoe)[1]
    between = f"between {edges[0]:.0f} and {edges[1]:.0f} keV"
    if width == 0:
        raise ValueError(
            f"The 'aoe' parameter of fit_compton_bands is {mode:g} in a quarter or more of the "
            f"events {between}, with no peak of single-site events around it."
        )
    try:
        return fit_peak(aoe, window=(mode - 12 * width, mode + 8 * width))
    except ValueError as error:
        raise ValueError(
            f"fit_compton_bands cannot fit the peak of single-site events in A/E {between}, which "
            f"it looks for around {mode:g}. {error}"
        ) from error


def _half_sample_mode(x):
    """Return the mode of a peak and a scale of its width: the shortest quarter of the sample."""
    x = np.sort(x)
    n = max(len(x) // 4, 2)
    start = np.argmin(x[n:] - x[:-n])
    return np.median(x[start : start + n]), x[start + n] - x[start]
