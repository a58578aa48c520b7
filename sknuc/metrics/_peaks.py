r"""Fit of one line of a gamma spectrum.

The expected number of events per bin is the integral over the bin of

.. math::

    N\,\bigl[(1-f)\,G(x; \mu, \sigma) + f\,T(x; \mu, \sigma, \beta)\bigr]
    + s\,\Phi\!\left(\frac{\mu - x}{\sigma}\right) + b(x),

a Gaussian :math:`G`, a tail :math:`T` towards low energies (the Gaussian convolved with
:math:`e^{x/\beta}, x<0`: charge that is trapped), a step of the height :math:`s` (scattered photons
leave the detector) and a straight continuum :math:`b`. All integrals are closed forms, so that
bins may be wide. The parameters maximise the Poisson likelihood of the counts :math:`n_i`, which
minimises the deviance

.. math:: D = 2 \sum_i \bigl[\nu_i - n_i + n_i \ln(n_i / \nu_i)\bigr] = \sum_i r_i^2,

a sum of squares of deviance residuals that a trust-region least-squares solver handles. Their
covariance is the inverse of the expected Hessian
:math:`H_{jk} = \sum_i \partial_j\nu_i\,\partial_k\nu_i / \nu_i`. Weak lines cannot carry step and
tail: each is kept where it lowers the Bayesian criterion, :math:`D + k \ln n` with :math:`k`
parameters and :math:`n` events.
"""

from dataclasses import dataclass, field
from numbers import Integral

import numpy as np
from scipy.optimize import brentq, least_squares
from scipy.special import log_ndtr, ndtr, xlogy
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sknuc.metrics._bins import histogram
from sknuc.metrics._validation import check_column, check_interval

__all__ = ["PeakFit", "fit_peak"]

#: The parameters of each shape; every shape extends the one before.
SHAPES = {
    "gaussian": ("counts", "mu", "sigma", "background_low", "background_high"),
    "step": ("counts", "mu", "sigma", "background_low", "background_high", "step"),
    "tail": (
        *("counts", "mu", "sigma", "background_low", "background_high", "step"),
        *("tail_fraction", "tail_length"),
    ),
}
#: A line holds at least this many standard deviations of its counts.
MIN_SIGNIFICANCE = 3.0
#: In bins. Of a narrower line on the edge of two bins 1 % or less reach a third one: few events of
#: the continuum would make up its width.
MIN_SIGMA = 0.4
#: The first number of bins that "auto" tries, and the last.
N_BINS, MAX_BINS = 120, 1920
FWHM_PER_SIGMA = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True)
class PeakFit:
    """A fitted line. Energies are in the unit of the data (keV, or ADC before calibration).

    Attributes
    ----------
    shape : {"gaussian", "step", "tail"}
    params : dict of str to float
        `counts` (events in the line), `mu`, `sigma`, `background_low` and `background_high` (the
        continuum at both ends of the window) and `step` in events per unit of energy,
        `tail_fraction` and `tail_length`.
    covariance : ndarray of shape (n_params, n_params)
        Of `params` in their order. NaN for a parameter on its bound, which is held fixed.
    fwhm, fwhm_std : float
        Full width at half maximum of the line, tail included, and its standard deviation; NaN where
        `sigma` is on its bound.
    deviance : float
        Twice the logarithm of the likelihood ratio to the saturated model.
    n_dof : int
        Bins less parameters.
    bin_edges, counts : ndarray
        The fitted histogram.
    """

    shape: str
    params: dict[str, float]
    covariance: np.ndarray
    fwhm: float
    fwhm_std: float
    deviance: float
    n_dof: int
    bin_edges: np.ndarray = field(repr=False)
    counts: np.ndarray = field(repr=False)

    @property
    def errors(self) -> dict[str, float]:
        """Standard deviation of each parameter."""
        return dict(zip(self.params, np.sqrt(np.diag(self.covariance)), strict=True))

    @property
    def mu(self) -> float:
        """Centre of the Gaussian."""
        return self.params["mu"]

    @property
    def mu_std(self) -> float:
        """Standard deviation of `mu`."""
        return self.errors["mu"]

    @property
    def significance(self) -> float:
        """Events in the line in units of their standard deviation; NaN for a fit on a bound."""
        return self.params["counts"] / self.errors["counts"]

    def expected_counts(self, bin_edges=None, component="total"):
        """Expected events per bin.

        Parameters
        ----------
        bin_edges : array-like of shape (n_bins + 1,), default=None
            None for the bins of the fit.
        component : {"total", "line", "background"}, default="total"

        Returns
        -------
        expected : ndarray of shape (n_bins,)
        """
        edges = self.bin_edges if bin_edges is None else np.asarray(bin_edges, dtype=float)
        window = self.bin_edges[0], self.bin_edges[-1]
        parts = _expected(np.array(list(self.params.values())), edges, window)
        return {"total": parts[0] + parts[1], "line": parts[0], "background": parts[1]}[component]


def _unpack(theta):
    """Parameters of every shape, those that the shape lacks at nothing."""
    return (*theta, *((0.0, 0.0, 1.0)[len(theta) - 5 :]))


def _tail_cdf(z, tail):
    """Cumulative distribution at `z` sigma of a Gaussian with a tail of length `tail` sigma."""
    return ndtr(z) + np.exp(z / tail + 0.5 / tail**2 + log_ndtr(-z - 1 / tail))


def _line_cdf(z, fraction, tail):
    return (1 - fraction) * ndtr(z) + (fraction * _tail_cdf(z, tail) if fraction > 0 else 0.0)


def _expected(theta, edges, window):
    """Expected events per bin of the line and of everything under it."""
    counts, mu, sigma, low, high, step, fraction, tail = _unpack(theta)
    z = (edges - mu) / sigma
    line = counts * np.diff(_line_cdf(z, fraction, tail / sigma))
    t = (edges - window[0]) / (window[1] - window[0])
    straight = (window[1] - window[0]) * (low * t + 0.5 * (high - low) * t**2)
    # The antiderivative of Phi(-z) is z Phi(-z) - phi(z).
    stair = step * sigma * (z * ndtr(-z) - np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
    return line, np.diff(straight + stair)


def _fwhm(theta):
    """Full width at half maximum of the line, with its tail."""
    _, _, sigma, *_, fraction, tail = _unpack(theta)
    if fraction == 0:
        return FWHM_PER_SIGMA * sigma
    t = tail / sigma

    def density(z):
        gauss = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        tailed = np.exp(z / t + 0.5 / t**2 + log_ndtr(-z - 1 / t)) / t
        return (1 - fraction) * gauss + fraction * tailed

    z = np.linspace(-3, 0.5, 3501)
    top = z[np.argmax(density(z))]
    half = density(top) / 2
    left = brentq(lambda u: density(u) - half, top - 10 - 2 * t, top)
    return sigma * (brentq(lambda u: density(u) - half, top, top + 10) - left)


def _gradient(function, theta, scale):
    """Central differences of `function`, shape (n_params, ...)."""
    steps = 1e-4 * np.diag(scale)
    return np.array([(function(theta + h) - function(theta - h)) / (2 * h.sum()) for h in steps])


@validate_params(
    {
        "energy": ["array-like"],
        "window": ["array-like"],
        "n_bins": [StrOptions({"auto"}), Interval(Integral, 10, None, closed="left")],
        "shape": [StrOptions({"auto", *SHAPES})],
    },
    prefer_skip_nested_validation=True,
)
def fit_peak(energy, *, window, n_bins="auto", shape="auto") -> PeakFit:
    """Fit one line of a spectrum by its binned Poisson likelihood.

    Parameters
    ----------
    energy : array-like of shape (n_events,)
        Energies in keV, or uncalibrated pulse heights.
    window : tuple of float
        The range of the fit; one line, and continuum on both sides of it.
    n_bins : int or "auto", default="auto"
        Bins over the window. The expected counts are exact integrals over the bins, hence a bin
        needs only to be narrower than the line. "auto" takes 120, and more until a bin is not wider
        than the standard deviation of the line. Digitised energies are put into the nearest number
        of bins of whole channels, to which the window is narrowed.
    shape : {"auto", "gaussian", "step", "tail"}, default="auto"
        "gaussian" on a straight continuum, with a "step" in addition, with step and "tail"; "auto"
        takes the shape of the lowest Bayesian criterion (BIC).

    Returns
    -------
    fit : PeakFit

    Raises
    ------
    ValueError
        If the window holds fewer events or channels than the fit has parameters; if it shows no
        line: fewer counts than three times their standard deviation; or if the line is too narrow
        for the bins or too wide for the window.

    References
    ----------
    .. [1] S. Baker and R. D. Cousins, "Clarification of the use of chi-square and likelihood
       functions in fits to histograms", Nucl. Instrum. Meth. 221 (1984) 437.
    .. [2] G. Schwarz, "Estimating the dimension of a model", Ann. Stat. 6 (1978) 461.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import fit_peak
    >>> rng = np.random.default_rng(0)
    >>> energy = np.r_[rng.normal(2614.5, 1.0, 5000), rng.uniform(2590, 2640, 500)]
    >>> fit = fit_peak(energy, window=(2590, 2640))
    >>> print(f"{fit.mu:.1f} keV, FWHM {fit.fwhm:.1f} keV")
    2614.5 keV, FWHM 2.3 keV
    """
    energy = check_column("energy", energy)
    low, high = check_interval("window", window)
    automatic = n_bins == "auto"
    n_bins = N_BINS if automatic else n_bins
    while True:
        fit = fit_histogram(energy, (low, high), n_bins=n_bins, shape=shape)
        if not fit.significance > MIN_SIGNIFICANCE:
            raise ValueError(
                f"fit_peak found no line between {low:g} and {high:g}: "
                f"{fit.params['counts']:.1f} ± {fit.errors['counts']:.1f} events. Choose another "
                "'window', or take more data."
            )
        width, sigma = fit.bin_edges[1] - fit.bin_edges[0], fit.params["sigma"]
        if not automatic or sigma >= width or n_bins >= MAX_BINS or len(fit.counts) < n_bins / 2:
            break
        n_bins *= 4
    if np.isnan(fit.fwhm_std):
        if sigma > width:
            raise ValueError(
                f"The line between {low:g} and {high:g} is wider than the 'window' parameter of "
                "fit_peak allows to tell; widen the window."
            )
        raise ValueError(
            f"The line at {fit.mu:g} is narrower than the bins of fit_peak, {width:g} wide: raise "
            "'n_bins' or narrow the 'window' parameter. Bins cannot be narrower than the channels "
            "of digitised values."
        )
    return fit


def fit_histogram(energy, window, *, n_bins=N_BINS, shape="auto"):
    """Fit whatever is in the window; see :func:`fit_peak`."""
    counts, edges, channel = histogram(energy, window, n_bins)
    if counts.sum() <= len(SHAPES["tail"]):
        raise ValueError(
            f"The 'window' parameter of fit_peak holds {counts.sum()} events between "
            f"{window[0]:g} and {window[1]:g}; the fit needs more than {len(SHAPES['tail'])}."
        )
    shapes = SHAPES if shape == "auto" else list(SHAPES)[: list(SHAPES).index(shape) + 1]
    needed = len(SHAPES["gaussian" if shape == "auto" else shape])
    if len(counts) <= needed:
        raise ValueError(
            f"The 'window' parameter of fit_peak holds {len(counts)} channels, {channel:g} wide, "
            f"between {window[0]:g} and {window[1]:g}; the fit needs more than {needed}."
        )
    start, fits = None, {}
    for name in shapes:
        if len(SHAPES[name]) < len(counts):
            start = fits[name] = _minimise(name, counts, edges, start)
    if shape != "auto":
        return fits[shape]

    def criterion(fit):
        # A core on its bound is a spike that a tail was fitted around.
        degenerate = fit.shape != "gaussian" and np.isnan(fit.fwhm_std)
        return np.inf if degenerate else fit.deviance + len(fit.params) * np.log(counts.sum())

    return min(fits.values(), key=criterion)


def _minimise(shape, counts, edges, start):
    """Fit one shape from the fit of the simpler one, or from the histogram."""
    window, width = (edges[0], edges[-1]), edges[1] - edges[0]
    span = window[1] - window[0]
    if start is None:
        theta = _first_guess(counts, edges)
    else:
        theta = np.array(list(start.params.values()))
        sigma = start.params["sigma"]
        extra = {"step": [0.1 * (theta[3] + 1 / span)], "tail": [0.1, 2 * sigma]}
        theta = np.concatenate([theta, *(extra[s] for s in ("step", "tail") if s == shape)])
    n_params, total = len(SHAPES[shape]), counts.sum()
    peak = np.sqrt(total)
    scale = np.array([peak, width, width, peak / span, peak / span, peak / span, 0.1, width])
    lower = np.array([0, window[0], MIN_SIGMA * width, 0, 0, 0, 0, 0.2 * width])[:n_params]
    upper = np.array([2.0 * total, window[1], span / 3, *3 * [10 * total / span], 0.9, span / 2])
    upper, scale = upper[:n_params], scale[:n_params]

    def expected(theta):
        return np.maximum(sum(_expected(theta, edges, window)), 1e-9)

    def residuals(theta):
        nu = expected(theta)
        deviance = 2 * (nu - counts + xlogy(counts, counts / nu))
        return np.sign(nu - counts) * np.sqrt(np.maximum(deviance, 0))

    inside = lower + 1e-6 * (upper - lower), upper - 1e-6 * (upper - lower)
    solution = least_squares(
        residuals, np.clip(theta, *inside), bounds=(lower, upper), x_scale=scale, max_nfev=300
    )
    theta = solution.x
    free = (theta - lower > 1e-3 * scale) & (upper - theta > 1e-3 * scale)
    jacobian = _gradient(expected, theta, scale)
    free &= np.any(jacobian != 0, axis=1)
    jacobian = jacobian[free]
    covariance = np.full((n_params, n_params), np.nan)
    hessian = (jacobian / expected(theta)) @ jacobian.T
    # Parameters differ by many orders of magnitude; inverted is a matrix with ones on its diagonal.
    unit = np.sqrt(np.diag(hessian))
    inverse = np.linalg.pinv(hessian / np.outer(unit, unit), rcond=1e-12, hermitian=True)
    covariance[np.ix_(free, free)] = inverse / np.outer(unit, unit)
    slope = _gradient(_fwhm, theta, np.minimum(scale, np.abs(theta) + 1e-12))[free]
    fwhm_std = np.sqrt(slope @ covariance[np.ix_(free, free)] @ slope)
    has_width = free[SHAPES[shape].index("sigma")]
    return PeakFit(
        shape=shape,
        params={name: float(v) for name, v in zip(SHAPES[shape], theta, strict=True)},
        covariance=covariance,
        fwhm=float(_fwhm(theta)),
        fwhm_std=float(fwhm_std) if has_width else float("nan"),
        deviance=float(np.sum(residuals(theta) ** 2)),
        n_dof=len(counts) - n_params,
        bin_edges=edges,
        counts=counts,
    )


def _first_guess(counts, edges):
    """Read a Gaussian on a flat continuum off a histogram."""
    width, n = edges[1] - edges[0], len(counts)
    quarter = n // 4
    background = 0.5 * (counts[:quarter].mean() + counts[-quarter:].mean())
    net = counts - background
    # The widths that a line may have, each with the matched filter's answer.
    candidates = []
    for sigma in np.geomspace(0.5, n / 8, 12):
        half = (n - 1) // 2
        kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
        kernel /= np.sqrt((kernel**2).sum())
        answer = np.convolve(net, kernel, "same")
        candidates.append((answer.max(), answer.argmax(), sigma))
    _, top, sigma = max(candidates)
    near = slice(max(top - int(3 * sigma) - 1, 0), top + int(3 * sigma) + 2)
    total = max(net[near].sum(), 1.0)
    mu = edges[0] + (top + 0.5) * width
    return np.array([total, mu, sigma * width, background / width, background / width])
