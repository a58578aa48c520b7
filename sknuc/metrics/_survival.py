r"""The fraction of a gamma line that survives a cut.

A line stands on a continuum. The events of side-bands on both sides, scaled to the window, stand
for the continuum under it. With a straight continuum :math:`n(E) = \alpha + \beta E`, an event of
side-band :math:`j` (width :math:`w_j`, centre :math:`c_j`) counts :math:`-a_j`, where

.. math:: \sum_j a_j w_j = w, \qquad \sum_j a_j w_j c_j = w c,

so that :math:`\alpha` and :math:`\beta` cancel exactly; of the many solutions with more than two
side-bands that of the least variance :math:`\sum_j a_j^2 w_j`, that is
:math:`a_j = \lambda + \mu c_j`. With these signed weights the line's survival is

.. math::

    \varepsilon = \frac{P}{P + F}, \qquad
    \sigma_\varepsilon^2 = \frac{(1-\varepsilon)^2 V_P + \varepsilon^2 V_F}{(P+F)^2},

where :math:`P` and :math:`F` are the weights that pass and fail and :math:`V_P`, :math:`V_F` the
sums of their squares. Passed and failed events are disjoint, hence independent; passed and all
events are not, which a division of the errors of `P` and `P + F` would overlook.
:math:`\varepsilon` may fluctuate out of [0, 1]: it is an unbiased estimate and is not clipped.
"""

import warnings
from dataclasses import dataclass
from numbers import Real

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.base import levels_to_user, validate_weights
from sknuc.metrics._intervals import CONFIDENCE, weighted_fraction
from sknuc.metrics._validation import check_column, check_interval

__all__ = ["SurvivalFraction", "peak_region", "sideband_weights", "survival_fraction"]


@dataclass(frozen=True)
class SurvivalFraction:
    """The fraction of the events of a line, or of a window, that survives a cut.

    Attributes
    ----------
    fraction : float
        May lie outside [0, 1] by fluctuation where side-bands are subtracted.
    std : float
        Standard deviation of `fraction`; zero, and no measure of the error, where nothing passes or
        nothing fails.
    interval : tuple of float
        Binomial interval of a plain window; Gaussian where side-bands are subtracted, unless
        nothing passes or nothing fails.
    n_events, n_events_std : float
        Events in the window, net of side-bands, and their standard deviation.
    """

    fraction: float
    std: float
    interval: tuple[float, float]
    n_events: float
    n_events_std: float

    def __str__(self):
        if self.std == 0:
            low, high = self.interval
            return f"{self.fraction:.3f} +{high - self.fraction:.3f} −{self.fraction - low:.3f}"
        return f"{self.fraction:.3f} ± {self.std:.3f}"


@validate_params(
    {
        "center": [Interval(Real, None, None, closed="neither")],
        "fwhm": [Interval(Real, 0, None, closed="neither")],
        "half_width": [Interval(Real, 0, None, closed="neither")],
        "sideband_width": [Interval(Real, 0, None, closed="neither")],
        "gap": [Interval(Real, 0, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def peak_region(center, fwhm, *, half_width=1.5, sideband_width=4.0, gap=0.5) -> dict:
    """Lay a window over a line and side-bands on both sides of it.

    Parameters
    ----------
    center : float
        Energy of the line in keV.
    fwhm : float
        Full width at half maximum of the line in keV.
    half_width : float, default=1.5
        Half width of the window in FWHM; 1.5 hold 99.96 % of a Gaussian line.
    sideband_width : float, default=4.0
        Width of each side-band in FWHM.
    gap : float, default=0.5
        Gap between the window and each side-band in FWHM.

    Returns
    -------
    region : dict
        With the keys `window` and `sidebands`, the parameters of :func:`survival_fraction`.

    Examples
    --------
    >>> from sknuc.metrics import peak_region
    >>> peak_region(1592.5, 2.0)["sidebands"]
    [(1580.5, 1588.5), (1596.5, 1604.5)]
    """
    half, inner = half_width * fwhm, (half_width + gap) * fwhm
    outer = inner + sideband_width * fwhm
    return {
        "window": (center - half, center + half),
        "sidebands": [(center - outer, center - inner), (center + inner, center + outer)],
    }


@validate_params(
    {"energy": ["array-like"], "window": ["array-like"], "sidebands": ["array-like", None]},
    prefer_skip_nested_validation=True,
)
def sideband_weights(energy, *, window, sidebands):
    """Weigh events so that they stand for a line alone, without the continuum under it.

    Parameters
    ----------
    energy : array-like of shape (n_events,)
        Energies in keV.
    window : tuple of float
        The window of the line, ``low <= energy < high``, in keV.
    sidebands : list of tuple of float or None
        The side-bands in keV, outside of the window. With one side-band the continuum is taken as
        flat, with two or more as straight. None subtracts nothing.

    Returns
    -------
    weight : ndarray of shape (n_events,)
        One in the window, negative in the side-bands, zero elsewhere.

    Raises
    ------
    ValueError
        If an interval is empty, a side-band overlaps the window or another one, or the side-bands
        lie so far to one side that an event of theirs would count positive.

    Warns
    -----
    UserWarning
        If the recorded energies end before the outer end of a side-band, which then subtracts too
        little, and do so in a way that happens less than once in a thousand times by chance.

    Examples
    --------
    >>> from sknuc.metrics import sideband_weights
    >>> weight = sideband_weights(
    ...     [1570.0, 1592.0, 1610.0], window=(1588, 1596), sidebands=[(1568, 1584), (1600, 1616)]
    ... )
    >>> weight.tolist()
    [-0.25, 1.0, -0.25]
    """
    energy = check_column("energy", energy)
    low, high = check_interval("window", window)
    weight = ((energy >= low) & (energy < high)).astype(float)
    if sidebands is None or len(sidebands) == 0:
        return weight
    bands = np.array([check_interval("sidebands", band) for band in sidebands])
    edges = np.vstack([bands, [[low, high]]])
    edges = edges[np.argsort(edges[:, 0])]
    if np.any(edges[1:, 0] < edges[:-1, 1]):
        raise ValueError(
            "The 'sidebands' parameter must hold intervals that overlap neither the window "
            f"{(low, high)} nor each other. Got {[tuple(b) for b in bands.tolist()]} instead."
        )
    width, center = np.diff(bands, axis=1)[:, 0], bands.mean(axis=1) - (low + high) / 2
    # Energies relative to the window's centre keep the 2 × 2 system well conditioned.
    degree = min(len(bands), 2)
    basis = np.vander(center, degree, increasing=True)
    multiplier = np.linalg.solve((basis.T * width) @ basis, (high - low) * np.eye(degree)[0])
    scale = basis @ multiplier
    if np.any(scale < 0):
        raise ValueError(
            "The 'sidebands' parameter must surround the window: a straight continuum cannot be "
            f"told from {[tuple(b) for b in bands.tolist()]} for {(low, high)}."
        )
    _warn_of_bands_outside(energy, bands, (low, high))
    for (band_low, band_high), a in zip(bands, scale, strict=True):
        weight[(energy >= band_low) & (energy < band_high)] = -a
    return weight


def _warn_of_bands_outside(energy, bands, window):
    """Warn of side-bands that the recorded range of energies cuts off.

    Where a spectrum ends cannot tell whether it was cut or there is no more: nothing lies above the
    line of highest energy. Therefore the end must also be unlikely: events of a flat continuum next
    to it, or of a symmetric line in the window, would reach farther.
    """
    center, half = 0.5 * (window[0] + window[1]), 0.5 * (window[1] - window[0])
    for band in bands:
        # Distances from the line, growing towards the band.
        side = 1 if band[0] >= center else -1
        x, (near, far) = side * (energy - center), np.sort(side * (band - center))
        end = x.max()
        if end >= far:
            continue
        if end > half:
            start = near if end > near else half
            n_events = np.count_nonzero((x >= start) & (x < far))
            if start == half:
                # As many may be the tail of the line.
                n_events = max(n_events - 1e-3 * np.count_nonzero(np.abs(x) <= half), 0)
            chance = ((end - start) / (far - start)) ** n_events
        else:
            # As many on the other side of the line are missing, less a continuum that ends with it.
            mirrored = np.count_nonzero((x >= -half) & (x <= -end))
            beyond = np.count_nonzero((x >= end - 2 * half) & (x < -half))
            chance = 0.5 ** max(mirrored - beyond, 0)
        if chance < 1e-3:
            warnings.warn(
                f"The side-band ({band[0]:g}, {band[1]:g}) lies {'partly ' if end > near else ''}"
                f"outside of the energies, which range from {energy.min():g} to {energy.max():g}: "
                "it subtracts too little. Choose side-bands within the recorded range.",
                stacklevel=levels_to_user(),
            )


@validate_params(
    {
        "energy": ["array-like"],
        "passed": ["array-like"],
        "window": ["array-like"],
        "sidebands": ["array-like", None],
        "sample_weight": ["array-like", None],
        **CONFIDENCE,
    },
    prefer_skip_nested_validation=True,
)
def survival_fraction(
    energy,
    passed,
    *,
    window,
    sidebands=None,
    sample_weight=None,
    confidence_level=0.68,
    method="wilson",
) -> SurvivalFraction:
    """Compute the fraction of a line, or of a window of the continuum, that survives a cut.

    Parameters
    ----------
    energy : array-like of shape (n_events,)
        Energies in keV.
    passed : array-like of bool of shape (n_events,)
        Whether the event survives the cut.
    window : tuple of float
        The window, ``low <= energy < high``, in keV.
    sidebands : list of tuple of float, default=None
        Side-bands in keV that are subtracted, see :func:`sideband_weights`; None for the survival
        of everything in the window.
    sample_weight : array-like of shape (n_events,), default=None
        Weights of the events. Negative ones count with their sign in the sums and with their square
        in the variances.
    confidence_level : float, default=0.68
        The probability that the interval covers the true value.
    method : {"wilson", "clopper-pearson"}, default="wilson"
        The binomial interval of a plain window, see :func:`binomial_interval`.

    Returns
    -------
    survival : SurvivalFraction
        With the attributes `fraction`, `std`, `interval`, `n_events` and `n_events_std`.

    Raises
    ------
    ValueError
        If `passed` is not boolean, the window holds no events, or nothing is left of the line when
        the side-bands are subtracted.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import survival_fraction
    >>> energy = np.linspace(2000, 2080, 80, endpoint=False)
    >>> print(survival_fraction(energy, energy < 2030, window=(2010, 2050)))
    0.500 ± 0.079
    """
    energy, passed = check_column("energy", energy), column_or_1d(passed)
    check_consistent_length(energy, passed)
    if passed.dtype != bool:
        raise ValueError(
            "The 'passed' parameter of survival_fraction must be an array of bool, such as "
            f"score >= threshold. Got {passed.dtype} instead."
        )
    weight = sideband_weights(energy, window=window, sidebands=sidebands)
    if not np.any(weight == 1):
        raise ValueError(
            f"The 'window' parameter of survival_fraction holds no events between {window[0]:g} "
            f"and {window[1]:g}; the energies lie between {energy.min():g} and {energy.max():g}."
        )
    sample_weight = validate_weights(sample_weight, energy, allow_negative=True)
    if sample_weight is not None:
        weight = weight * sample_weight
    used = weight != 0
    fraction, std, interval = weighted_fraction(
        passed[used], weight[used], confidence_level=confidence_level, method=method
    )
    return SurvivalFraction(
        fraction=fraction,
        std=std,
        interval=interval,
        n_events=float(weight.sum()),
        n_events_std=float(np.sqrt((weight**2).sum())),
    )
