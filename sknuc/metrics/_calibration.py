r"""Energy calibration of a spectrum from the known lines of its source.

Nothing is known but the list of lines: neither gain nor resolution nor the recorded range.

1. *Search.* The counts are filtered with a second derivative of a Gaussian, which a straight
   continuum passes at zero; the answer over its standard deviation is the significance of a line
   (Mariscotti). Widths from one bin to a percent of the range are tried.
2. *Match.* Every pair of found lines is supposed to be every pair of known lines. Each supposition
   fixes a gain and an offset, which predict all other lines; the one that explains most of what was
   found, and misses least of what it predicts within the recorded range, is taken.
3. *Fit.* Each matched line is fitted (:func:`fit_peak`), and a polynomial through their centres,
   weighted with their errors, gives :math:`E = \sum_k c_k x^k`.
"""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from scipy.signal import fftconvolve, find_peaks
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._bins import histogram
from sknuc.metrics._peaks import FWHM_PER_SIGMA, MIN_SIGNIFICANCE, PeakFit, fit_histogram
from sknuc.metrics._validation import check_column

__all__ = ["TH228_GAMMAS", "TH228_LINES", "EnergyCalibration", "calibrate_energy"]

#: Strong lines of a thorium-228 source in keV; the escape lines are those of 2614.511 keV, less one
#: or two electron masses.
TH228_LINES = {
    "208Tl 583": 583.187,
    "212Bi 727": 727.330,
    "208Tl 861": 860.557,
    "DEP": 2614.511 - 2 * 510.99895,
    "212Bi 1621": 1620.50,
    "SEP": 2614.511 - 510.99895,
    "FEP": 2614.511,
}
#: All lines above 500 keV that a thorium-228 source emits in at least 0.05 % of its decays, and the
#: escape lines, in keV: where the spectrum is no Compton continuum. Many are too weak to calibrate
#: with. Ancestors of 228Th, such as 228Ac with its lines at 911 and 969 keV, are not in the source.
TH228_GAMMAS = {
    **TH228_LINES,
    "208Tl 511": 510.77,
    "220Rn 550": 549.73,
    "208Tl 722": 722.04,
    "208Tl 763": 763.13,
    "212Bi 785": 785.37,
    "212Bi 893": 893.41,
    "212Bi 952": 952.12,
    "208Tl 983": 982.70,
    "212Bi 1079": 1078.62,
    "208Tl 1094": 1093.90,
    "212Bi 1513": 1512.70,
    "212Bi 1680": 1679.70,
    "212Bi 1806": 1805.90,
}
N_BINS = 8192
#: A line may lie this far, as a fraction of the highest line, from where the others predict it.
TOLERANCE = 0.002
#: The energy at which the recorded values are zero, as a fraction of the highest line.
MAX_OFFSET = 0.05
#: Of the filter, whose maximum over thousands of bins fluctuates to four.
MIN_ANSWER = 5.0


@dataclass(frozen=True)
class EnergyCalibration:
    """A calibration of pulse heights to energies.

    Attributes
    ----------
    coefficients : ndarray of shape (degree + 1,)
        Of :math:`1, x, x^2` in keV, keV/ADC, ...
    covariance : ndarray of shape (degree + 1, degree + 1)
    lines : dict of str to float
        Energies in keV of the lines that were used.
    peaks : dict of str to PeakFit
        Their fits, in the unit of the pulse heights.
    missing : tuple of str
        Lines within the recorded range that were not found.
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    lines: dict[str, float]
    peaks: dict[str, PeakFit]
    missing: tuple[str, ...]

    def energy(self, pulse_height):
        """Convert pulse heights to energies in keV.

        Parameters
        ----------
        pulse_height : array-like

        Returns
        -------
        energy : ndarray
        """
        x = np.asarray(pulse_height, dtype=np.float64)
        return np.polynomial.polynomial.polyval(x, self.coefficients)

    def _gain(self, x):
        """Slope of the calibration in keV per unit of pulse height."""
        derivative = np.polynomial.polynomial.polyder(self.coefficients)
        return np.polynomial.polynomial.polyval(x, derivative)

    @property
    def residuals(self) -> dict[str, tuple[float, float]]:
        """Calibrated less known energy of each line, and its standard deviation, in keV."""
        return {
            name: (
                float(self.energy(peak.mu) - self.lines[name]),
                float(self._gain(peak.mu) * peak.mu_std),
            )
            for name, peak in self.peaks.items()
        }

    @property
    def fwhm(self) -> dict[str, tuple[float, float]]:
        """Resolution of each line, FWHM and its standard deviation, in keV."""
        return {
            name: (
                float(self._gain(peak.mu) * peak.fwhm),
                float(self._gain(peak.mu) * peak.fwhm_std),
            )
            for name, peak in self.peaks.items()
        }


@validate_params(
    {
        "pulse_height": ["array-like"],
        "lines": [dict],
        "degree": [Interval(Integral, 1, 2, closed="both")],
        "min_lines": [Interval(Integral, 3, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def calibrate_energy(pulse_height, *, lines=TH228_LINES, degree=1, min_lines=3):
    """Calibrate pulse heights with the known lines of a source.

    No initial gain is needed. The recorded range may cut lines off at either end; the pulse height
    of zero energy is taken to be zero within 5 % of the highest line.

    Parameters
    ----------
    pulse_height : array-like of shape (n_events,)
        Uncalibrated energies of the spectrum, in any unit, growing with energy.
    lines : dict of str to float, default=TH228_LINES
        Energies of the source's lines in keV.
    degree : {1, 2}, default=1
        Degree of the polynomial.
    min_lines : int, default=3
        Number of lines that must be found.

    Returns
    -------
    calibration : EnergyCalibration
        With the method `energy` and the attributes `coefficients`, `covariance`, `lines`, `peaks`,
        `missing`, `residuals` and `fwhm`.

    Raises
    ------
    ValueError
        If fewer than `min_lines` lines are found, or the spectrum is not finite or constant.

    References
    ----------
    .. [1] M. A. Mariscotti, "A method for automatic identification of peaks in the presence of
       background and its application to spectrum analysis", Nucl. Instrum. Meth. 50 (1967) 309.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import TH228_LINES, calibrate_energy
    >>> rng = np.random.default_rng(0)
    >>> energy = np.r_[[rng.normal(e, 1.0, 400) for e in TH228_LINES.values()]].ravel()
    >>> energy = np.r_[energy, rng.uniform(500, 2600, 10_000)]
    >>> calibration = calibrate_energy(energy / 0.1547)
    >>> print(f"{calibration.coefficients[1]:.4f} keV/ADC")
    0.1547 keV/ADC
    """
    x = check_column("pulse_height", pulse_height)
    # A few saturated or piled-up events must not stretch the range of the search.
    low, high = np.quantile(x, [0.0005, 0.9995])
    if not high > low:
        raise ValueError("The 'pulse_height' parameter of calibrate_energy is constant.")
    low, high = low - 0.01 * (high - low), high + 0.01 * (high - low)
    names, known = np.array(list(lines)), np.array(list(lines.values()), dtype=float)
    order = np.argsort(known)
    names, known = names[order], known[order]

    position, sigma, significance = _find_lines(x, low, high)
    matched = _match(position, significance, known, (low, high))
    found = matched >= 0
    needed = max(min_lines, degree + 1)
    peaks, missing = {}, []
    if found.sum() >= needed:
        coefficients = np.polynomial.polynomial.polyfit(position[matched[found]], known[found], 1)
        predicted = (known - coefficients[0]) / coefficients[1]
        for i in np.flatnonzero((low < predicted) & (predicted < high)):
            center, fit = position[matched[i]], None
            if found[i]:
                half = 6 * FWHM_PER_SIGMA * sigma[matched[i]]
                # Half way to the next line at most, so that a window holds one line.
                distance = np.abs(np.delete(predicted, i) - predicted[i]).min()
                half = min(half, 0.6 * distance, center - low, high - center)
                fit = fit_histogram(x, (center - half, center + half))
            # A line within one channel has neither a width nor a centre.
            if fit is not None and fit.significance > MIN_SIGNIFICANCE and fit.fwhm_std > 0:
                peaks[str(names[i])] = fit
            else:
                missing.append(str(names[i]))
    if len(peaks) < needed:
        shown = [float(f"{p:.5g}") for p in np.sort(position)[:15]]
        raise ValueError(
            f"calibrate_energy found {len(peaks)} of the lines {dict(lines)} among "
            f"{len(position)} candidates at {shown}, but needs {needed}. Check "
            "that 'pulse_height' is an uncalibrated energy of this source, and take more data."
        )
    mu, std = (np.array([getattr(p, a) for p in peaks.values()]) for a in ("mu", "mu_std"))
    used = {name: float(lines[name]) for name in peaks}
    coefficients, covariance = _polynomial(mu, std, np.array(list(used.values())), degree)
    return EnergyCalibration(coefficients, covariance, used, peaks, tuple(missing))


def _polynomial(mu, std, energy, degree):
    """Weighted least squares of energies on line centres; the errors of the centres in keV."""
    gain = (energy[-1] - energy[0]) / (mu[-1] - mu[0])
    scale = mu[-1]
    design = np.vander(mu / scale, degree + 1, increasing=True)
    weight = 1 / (gain * std) ** 2
    covariance = np.linalg.inv((design.T * weight) @ design)
    coefficients = covariance @ (design.T @ (weight * energy))
    unit = scale ** -np.arange(degree + 1.0)
    return coefficients * unit, covariance * np.outer(unit, unit)


def _find_lines(x, low, high):
    """Find candidates: positions, widths (standard deviations) and significances."""
    counts, edges, _ = histogram(x, (low, high), N_BINS)
    widths = np.geomspace(1.0, max(len(counts) / 100, 2.0), 10)
    answers = []
    for s in widths:
        u = np.arange(-np.ceil(5 * s), np.ceil(5 * s) + 1) / s
        kernel = (1 - u**2) * np.exp(-0.5 * u**2)
        kernel -= kernel.mean()
        # At least one expected count per kernel keeps empty stretches from shining.
        variance = fftconvolve(counts, kernel**2, "same") + 1.0
        answers.append(fftconvolve(counts, kernel, "same") / np.sqrt(np.maximum(variance, 1.0)))
    answers = np.array(answers)
    best = answers.max(axis=0)
    top, _ = find_peaks(best, height=MIN_ANSWER)
    top = top[np.argsort(-best[top])][:40]
    # The width that answers most is that of the line, but for a factor near one.
    sigma = widths[answers[:, top].argmax(axis=0)] * (edges[1] - edges[0])
    return 0.5 * (edges[top] + edges[top + 1]), sigma, best[top]


def _match(position, significance, known, window):
    """Index of the candidate of each known line; -1 for none."""
    none = np.full(len(known), -1)
    if len(position) < 2:
        return none
    i, k = np.nonzero(position[:, None] < position[None, :])
    j, m = np.triu_indices(len(known), 1)
    gain = (known[m] - known[j])[None, :] / (position[k] - position[i])[:, None]
    offset = known[j][None, :] - gain * position[i][:, None]
    possible = np.abs(offset) < MAX_OFFSET * known[-1]
    gain, offset = gain[possible], offset[possible]
    if len(gain) == 0:
        return none
    score, order = np.zeros(len(gain)), np.argsort(position)
    ranked, strength = position[order], np.log(significance[order])
    nearest = np.empty((len(known), len(gain)), dtype=int)
    for line, energy in enumerate(known):
        predicted = (energy - offset) / gain
        right = np.clip(np.searchsorted(ranked, predicted), 1, len(ranked) - 1)
        left_is_nearer = predicted - ranked[right - 1] < ranked[right] - predicted
        index = right - left_is_nearer
        miss = np.abs(ranked[index] - predicted) * gain
        hit = miss < TOLERANCE * known[-1]
        inside = (predicted > window[0]) & (predicted < window[1])
        score += np.where(hit, strength[index] - miss / (TOLERANCE * known[-1]), 0.0)
        score -= np.where(inside & ~hit, np.log(MIN_ANSWER), 0.0)
        nearest[line] = np.where(hit, order[index], -1)
    return nearest[:, np.argmax(score)]
