"""Displays of fitted lines and of survival fractions: computed first, then drawn.

Colours are those of Okabe and Ito, which readers with any colour vision tell apart; every series
has a marker or a line style of its own in addition, for print without colour.
"""

from collections.abc import Mapping

import numpy as np

from sknuc.metrics._peaks import PeakFit, fit_peak
from sknuc.metrics._survival import survival_fraction

__all__ = ["PeakDisplay", "SurvivalDisplay"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"


def _axes(ax, figsize):
    """Return `ax`, or that of a new figure."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=figsize, layout="constrained")
    return ax


class PeakDisplay:
    """A fitted line over the histogram it was fitted to.

    Create it with :meth:`from_energies` or :meth:`from_fit`.

    Parameters
    ----------
    peak : PeakFit
        The fit.
    name : str, default=None
        Name of the line, the title of the plot.
    unit : str, default="keV"
        Unit of the energies.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D
        The fitted curve.
    background_ : matplotlib Line2D
        The fitted continuum.
    errorbar_ : matplotlib ErrorbarContainer
        The counts.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import PeakDisplay
    >>> rng = np.random.default_rng(0)
    >>> energy = np.r_[rng.normal(2614.5, 1.0, 5000), rng.uniform(2590, 2640, 500)]
    >>> display = PeakDisplay.from_energies(energy, window=(2600, 2630), name="FEP")
    >>> display.ax_.get_xlabel()
    'Energy (keV)'
    """

    def __init__(self, *, peak: PeakFit, name=None, unit="keV"):
        self.peak = peak
        self.name = name
        self.unit = unit

    @classmethod
    def from_energies(
        cls, energy, *, window, n_bins="auto", shape="auto", name=None, unit="keV", ax=None
    ):
        """Fit a line and draw it.

        Parameters
        ----------
        energy : array-like of shape (n_events,)
            Energies.
        window, n_bins, shape
            As in :func:`fit_peak`.
        name : str, default=None
            Name of the line.
        unit : str, default="keV"
            Unit of the energies.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : PeakDisplay
        """
        peak = fit_peak(energy, window=window, n_bins=n_bins, shape=shape)
        return cls.from_fit(peak, name=name, unit=unit, ax=ax)

    @classmethod
    def from_fit(cls, peak, *, name=None, unit="keV", ax=None):
        """Draw a line that was fitted before.

        Parameters
        ----------
        peak : PeakFit
            The fit.
        name : str, default=None
            Name of the line.
        unit : str, default="keV"
            Unit of the energies.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : PeakDisplay
        """
        return cls(peak=peak, name=name, unit=unit).plot(ax=ax)

    def plot(self, ax=None):
        """Draw counts, fit and continuum.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : PeakDisplay
        """
        ax, peak = _axes(ax, (7, 4.5)), self.peak
        edges, counts = peak.bin_edges, peak.counts
        width = edges[1] - edges[0]
        center = 0.5 * (edges[1:] + edges[:-1])
        self.errorbar_ = ax.errorbar(
            center,
            counts,
            yerr=np.sqrt(counts),
            fmt=".",
            color="#444444",
            elinewidth=0.8,
            markersize=4,
            label="Counts",
        )
        # Integrals over windows of one bin, drawn finer than the bins.
        fine = np.linspace(edges[0] + width / 2, edges[-1] - width / 2, 800)
        curves = {}
        for component in ("total", "background"):
            pairs = np.column_stack([fine - width / 2, fine + width / 2]).ravel()
            curves[component] = peak.expected_counts(pairs, component)[::2]
        total, under = curves["total"], curves["background"]
        (self.line_,) = ax.plot(fine, total, color=COLORS[1], lw=2, label="Fit")
        (self.background_,) = ax.plot(fine, under, "--", color=COLORS[0], lw=1.5, label="Continuum")
        text = (
            f"{peak.mu:.2f} ± {peak.mu_std:.2f} {self.unit}\n"
            f"FWHM {peak.fwhm:.2f} ± {peak.fwhm_std:.2f} {self.unit}\n"
            f"{peak.params['counts']:.0f} ± {peak.errors['counts']:.0f} events"
        )
        ax.text(0.03, 0.95, text, transform=ax.transAxes, va="top", fontsize=11)
        ax.set_xlabel(f"Energy ({self.unit})", fontsize=12)
        ax.set_ylabel(f"Counts / {width:.3g} {self.unit}", fontsize=12)
        # Room above the line for its numbers and the legend.
        ax.set_ylim(bottom=0, top=1.45 * max(counts.max(), total.max()))
        ax.locator_params(axis="x", nbins=6)
        ax.set_xlim(edges[0], edges[-1])
        ax.legend(loc="upper right", frameon=False, fontsize=11)
        if self.name:
            ax.set_title(self.name, fontsize=13)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class SurvivalDisplay:
    """Survival fractions of lines and windows under one or several cuts.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    survival : dict of str to dict of str to SurvivalFraction
        For each cut the survival of each region.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    errorbars_ : list of matplotlib ErrorbarContainer
        One per cut.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import SurvivalDisplay
    >>> energy = np.linspace(2000, 2080, 80, endpoint=False)
    >>> display = SurvivalDisplay.from_predictions(
    ...     energy, {"A/E": energy < 2030}, regions={"2039 ± 35 keV": (2004, 2074)}
    ... )
    >>> print(display.survival["A/E"]["2039 ± 35 keV"])
    0.371 ± 0.058
    """

    def __init__(self, *, survival):
        self.survival = survival

    @classmethod
    def from_estimator(
        cls, estimator, X, energy, *, regions, sample_weight=None, name=None, ax=None
    ):
        """Compute and draw the survival of the events that a classifier takes for signal.

        Parameters
        ----------
        estimator : fitted classifier
            Events that it predicts to be of the second of its ``classes_`` survive; see
            :class:`sklearn.model_selection.FixedThresholdClassifier` to set its threshold.
        X : array-like of shape (n_events, ...)
            The events.
        energy : array-like of shape (n_events,)
            Their energies in keV.
        regions, sample_weight
            As in :meth:`from_predictions`.
        name : str, default=None
            Name of the cut; None for that of the estimator.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : SurvivalDisplay
        """
        if len(estimator.classes_) != 2:
            raise ValueError(
                "The 'estimator' parameter of SurvivalDisplay must tell two classes apart. Got "
                f"{type(estimator).__name__} with the classes {list(estimator.classes_)}."
            )
        passed = np.asarray(estimator.predict(X)) == estimator.classes_[1]
        return cls.from_predictions(
            energy,
            {name or type(estimator).__name__: passed},
            regions=regions,
            sample_weight=sample_weight,
            ax=ax,
        )

    @classmethod
    def from_predictions(cls, energy, passed, *, regions, sample_weight=None, ax=None):
        """Compute and draw the survival under given cuts.

        Parameters
        ----------
        energy : array-like of shape (n_events,)
            Energies in keV.
        passed : dict of str to array-like of bool of shape (n_events,)
            For each cut, by its name, whether the event survives it.
        regions : dict of str to (dict or tuple)
            The lines and windows by their names: the keyword arguments `window` and `sidebands` of
            :func:`survival_fraction`, such as :func:`peak_region` returns, or ``(low, high)`` for a
            plain window in keV.
        sample_weight : array-like of shape (n_events,), default=None
            Weights.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : SurvivalDisplay
        """
        for name, value, content in (
            ("passed", passed, "the names of the cuts to the events that pass"),
            ("regions", regions, "the names of the regions to their windows"),
        ):
            if not isinstance(value, Mapping) or len(value) == 0:
                got = f"an empty {type(value).__name__}" if isinstance(value, Mapping) else value
                raise ValueError(
                    f"The '{name}' parameter of SurvivalDisplay.from_predictions must be a dict "
                    f"from {content}, of one entry at least. Got {got!r:.200} instead."
                )
        regions = {
            name: dict(region) if isinstance(region, Mapping) else {"window": tuple(region)}
            for name, region in regions.items()
        }
        survival = {
            cut: {
                name: survival_fraction(energy, mask, sample_weight=sample_weight, **region)
                for name, region in regions.items()
            }
            for cut, mask in passed.items()
        }
        return cls(survival=survival).plot(ax=ax)

    def plot(self, ax=None):
        """Draw one group of points per region, one marker per cut.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : SurvivalDisplay
        """
        ax = _axes(ax, (8, 4.8))
        names = list(next(iter(self.survival.values())))
        spread = 0.6 / max(len(self.survival), 1)
        self.errorbars_, low, high = [], 0.0, 1.0
        for i, (cut, fractions) in enumerate(self.survival.items()):
            y = np.array([fractions[name].fraction for name in names])
            ends = np.array([fractions[name].interval for name in names])
            low, high = min(low, ends.min()), max(high, ends.max())
            x = np.arange(len(names)) + (i - 0.5 * (len(self.survival) - 1)) * spread
            self.errorbars_.append(
                ax.errorbar(
                    x,
                    y,
                    yerr=np.abs(ends.T - y),
                    fmt=MARKERS[i % len(MARKERS)],
                    color=COLORS[i % len(COLORS)],
                    markersize=8,
                    capsize=4,
                    elinewidth=1.8,
                    label=cut,
                )
            )
            for xi, yi, top in zip(x, y, ends[:, 1], strict=True):
                ax.annotate(
                    f"{yi:.3f}",
                    (xi, max(yi, top)),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    rotation=90,
                    fontsize=10,
                )
        ax.set_xticks(np.arange(len(names)), names, fontsize=12)
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_ylim(low - 0.03, high + 0.15)
        ax.set_ylabel("Survival fraction", fontsize=12)
        ax.grid(axis="y", alpha=0.3)
        for edge in np.arange(len(names) - 1) + 0.5:
            ax.axvline(edge, color="#CCCCCC", lw=0.8)
        ax.legend(frameon=False, fontsize=11, loc="upper center", ncols=len(self.survival))
        self.ax_, self.figure_ = ax, ax.figure
        return self
