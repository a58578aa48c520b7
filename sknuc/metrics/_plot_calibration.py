r"""Display of the coverage of intervals.

The coverage of n events scatters about the nominal one, c, with :math:`\sqrt{c(1-c)/n}`: only
beyond that is there something to see. Bands show where it lies with 68 and 95 %.
"""

import warnings

import numpy as np

from sknuc.base import PredictiveRegressorMixin, levels_to_user
from sknuc.metrics._coverage import coverage
from sknuc.metrics._final_step import judged_step
from sknuc.metrics._plot import COLORS, MARKERS, _axes
from sknuc.metrics._plot_shared import BANDS, name_targets
from sknuc.metrics._sample_validation import column_names
from sknuc.metrics._score_validation import check_rising_levels, check_truth, kish_number

__all__ = ["CoverageDisplay"]

NOMINAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def _are_quantiles(estimator):
    """Whether the ends of intervals are what ``predict_quantiles`` says of their levels."""
    own = getattr(type(estimator), "predict_interval", None)
    return own is PredictiveRegressorMixin.predict_interval


def _central_intervals(estimator, X, nominal):
    """Central intervals (n_events, 2, ...) at each coverage, in one pass if they are quantiles."""
    if not _are_quantiles(estimator):
        return [estimator.predict_interval(X, coverage=float(c)) for c in nominal]
    levels = np.concatenate([(1 - nominal) / 2, (1 + nominal) / 2])
    quantiles = estimator.predict_quantiles(X, levels)
    return [quantiles[:, [j, len(nominal) + j]] for j in range(len(nominal))]


def _supported_intervals(estimator, X, nominal):
    """Intervals at the coverages below the first that the estimator refuses.

    Conformal estimators refuse what their calibration events cannot support.
    """
    if _are_quantiles(estimator):
        try:
            return _central_intervals(estimator, X, nominal)
        except ValueError:
            pass  # Asked one by one it tells which coverage is refused, if any is known at all.
    intervals = []
    for j in range(len(nominal)):
        try:
            intervals += _central_intervals(estimator, X, nominal[[j]])
        except ValueError as reason:
            # Who refuses the lowest coverage has another reason.
            if not intervals:
                raise
            left_out = ", ".join(f"{c:g}" for c in nominal[j:])
            warnings.warn(
                f"CoverageDisplay leaves out the nominal coverages {left_out}, as "
                f"{type(estimator).__name__} says: {reason} Give 'nominal' to choose others.",
                UserWarning,
                stacklevel=levels_to_user(),
            )
            break
    return intervals


class CoverageDisplay:
    """Empirical against nominal coverage of intervals.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. Points above the diagonal are
    intervals that are too wide, below it too narrow.

    Parameters
    ----------
    coverages : dict of str to tuple of Coverage
        For each curve its coverage at every nominal one.
    n_effective : float
        Effective number of events, for the band.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    errorbars_ : list of matplotlib ErrorbarContainer
        One per curve.
    bands_ : list of matplotlib PolyCollection
        Where calibrated intervals lie with 95 and 68 %; empty without `band`.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import CoverageDisplay
    >>> y = np.random.default_rng(0).normal(size=400)
    >>> half = np.ones((400, 1)) * [-1.0, 1.0]
    >>> display = CoverageDisplay.from_predictions(y, [half, 1.96 * half], nominal=[0.683, 0.95])
    >>> [round(c.fraction, 2) for c in display.coverages["Predictions"]]
    [0.67, 0.95]
    """

    def __init__(self, *, coverages, n_effective):
        self.coverages = coverages
        self.n_effective = n_effective

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        nominal=None,
        sample_weight=None,
        name=None,
        target_names=None,
        band=True,
        ax=None,
    ):
        """Compute and draw the coverage of the intervals of a regressor.

        Parameters
        ----------
        estimator : fitted regressor
            With ``predict_interval``; also within a pipeline or a search.
        X : array-like of shape (n_events, ...)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The truth.
        nominal : array-like of shape (n_levels,), default=None
            Coverages that the intervals claim, rising in (0, 1). None for 0.1, 0.2, ..., 0.9, 0.95,
            0.99, of which those are left out, with a warning, that the estimator cannot support.
        sample_weight, target_names, band, ax
            As in :meth:`from_predictions`.
        name : str, default=None
            Name of the curve; None for that of the estimator.

        Returns
        -------
        display : CoverageDisplay
        """
        ask = _supported_intervals if nominal is None else _central_intervals
        nominal = check_rising_levels("nominal", NOMINAL if nominal is None else nominal)
        caller = f"{cls.__name__}.from_estimator"
        estimator, X = judged_step(caller, estimator, X, y, "predict_interval")
        intervals = ask(estimator, X, nominal)
        return cls.from_predictions(
            y,
            intervals,
            nominal=nominal[: len(intervals)],
            sample_weight=sample_weight,
            name=name or type(estimator).__name__,
            target_names=target_names,
            band=band,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        intervals,
        *,
        nominal,
        sample_weight=None,
        name=None,
        target_names=None,
        band=True,
        ax=None,
    ):
        """Compute and draw the coverage of given intervals.

        Parameters
        ----------
        y_true : array-like of shape (n_events,) or (n_events, n_targets)
            The truth.
        intervals : list of array-like of shape (n_events, 2) or (n_events, 2, n_targets)
            For each nominal coverage the ends, as ``predict_interval`` returns them.
        nominal : array-like of shape (n_levels,)
            Coverages that the intervals claim, rising in (0, 1).
        sample_weight : array-like of shape (n_events,), default=None
            Weights, see :func:`coverage`.
        name : str, default=None
            Name of the curve.
        target_names : list of str, default=None
            Names of the targets; None for those of a data frame's columns, or their numbers.
        band : bool, default=True
            Whether to draw the band of calibrated intervals; False for the second curve and all
            further ones on the same `ax`.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : CoverageDisplay
        """
        nominal = check_rising_levels("nominal", nominal)
        if len(intervals) != len(nominal):
            raise ValueError(
                f"The 'intervals' parameter must hold one array for each of {len(nominal)} nominal "
                f"coverages. Got {len(intervals)}."
            )
        _, shape, weight = check_truth(y_true, sample_weight)
        given = column_names(y_true) if target_names is None else target_names
        names = name_targets(name, shape, given, "Predictions")
        rows = []
        for c, ends in zip(nominal, intervals, strict=True):
            result = coverage(y_true, ends, nominal=float(c), sample_weight=sample_weight)
            rows.append((result,) if len(shape) == 1 else result)
        coverages = dict(zip(names, zip(*rows, strict=True), strict=True))
        return cls(coverages=coverages, n_effective=kish_number(weight)).plot(ax=ax, band=band)

    def plot(self, ax=None, *, band=True):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.
        band : bool, default=True
            Whether to draw the band of calibrated intervals.

        Returns
        -------
        display : CoverageDisplay
        """
        ax = _axes(ax, (5.6, 5.4))
        self.bands_, self.errorbars_ = [], []
        if band:
            c = np.linspace(0, 1, 201)
            std = np.sqrt(c * (1 - c) / self.n_effective)
            self.bands_ = [
                ax.fill_between(c, c - z * std, c + z * std, color=color, lw=0, label=label)
                for label, z, color in BANDS
            ]
            ax.plot([0, 1], [0, 1], color="#666666", lw=1, ls="--")
        for name, results in self.coverages.items():
            i = len(ax.containers)
            fraction = np.array([r.fraction for r in results])
            ends = np.array([r.interval for r in results])
            self.errorbars_.append(
                ax.errorbar(
                    [r.nominal for r in results],
                    fraction,
                    yerr=np.abs(ends.T - fraction),
                    fmt=MARKERS[i % len(MARKERS)] + "-",
                    color=COLORS[i % len(COLORS)],
                    markersize=5,
                    lw=1.2,
                    capsize=2,
                    label=name,
                )
            )
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        ax.set_xlabel("Nominal coverage", fontsize=12)
        ax.set_ylabel("Empirical coverage", fontsize=12)
        # Above the diagonal or below it, wherever the curves are not.
        ax.legend(loc="best", frameon=False, fontsize=10)
        self.ax_, self.figure_ = ax, ax.figure
        return self
