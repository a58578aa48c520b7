"""Display of the reliability of classifiers: hits against probability, and where events lie."""

import numpy as np

from sknuc.metrics._plot import COLORS, MARKERS, _axes
from sknuc.metrics._score_calibration import expected_calibration_error, reliability_curve
from sknuc.metrics._score_probabilities import check_probabilities, reduce_classes

__all__ = ["ReliabilityDisplay"]

HISTOGRAM_BINS = 50


class ReliabilityDisplay:
    """Fraction of hits against the predicted probability, with a histogram of the latter beneath.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. Points below the diagonal are
    probabilities that promise too much.

    Parameters
    ----------
    curve : ReliabilityCurve
        Hits and their intervals in bins.
    error : CalibrationError
        The expected calibration error.
    histogram : ndarray of shape (50,)
        Weight of the events in bins of equal width in [0, 1].
    name : str, default=None
        Name of the classifier.
    x_name : str, default="Predicted probability"
        Name of the probability.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes of the curve.
    histogram_ax_ : matplotlib Axes
        The axes of the histogram.
    figure_ : matplotlib Figure
    errorbar_ : matplotlib ErrorbarContainer

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import ReliabilityDisplay
    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(size=2000)
    >>> display = ReliabilityDisplay.from_predictions(rng.uniform(size=2000) < p, p)
    >>> display.ax_.get_ylabel()
    'Fraction of hits'
    """

    def __init__(self, *, curve, error, histogram, name=None, x_name="Predicted probability"):
        self.curve = curve
        self.error = error
        self.histogram = histogram
        self.name = name
        self.x_name = x_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        sample_weight=None,
        n_bins=15,
        strategy="uniform",
        multiclass="top-label",
        pos_label=None,
        name=None,
        ax=None,
    ):
        """Compute and draw the reliability of a classifier.

        Parameters
        ----------
        estimator : fitted classifier
            With ``predict_proba``.
        X : array-like of shape (n_events, ...)
            The events.
        y : array-like of shape (n_events,)
            Their true classes.
        sample_weight, n_bins, strategy, multiclass, ax
            As in :meth:`from_predictions`.
        pos_label : int, float, bool or str, default=None
            The class whose probability is drawn; None for the second of two classes, and for what
            `multiclass` says of more.
        name : str, default=None
            Name of the classifier; None for that of its class.

        Returns
        -------
        display : ReliabilityDisplay
        """
        if not hasattr(estimator, "predict_proba"):
            raise ValueError(
                "The 'estimator' parameter of ReliabilityDisplay.from_estimator must have the "
                f"method predict_proba. {type(estimator).__name__} has none; see "
                "sklearn.calibration.CalibratedClassifierCV."
            )
        y, prob, labels = np.asarray(y), np.asarray(estimator.predict_proba(X)), estimator.classes_
        if pos_label is None and len(labels) == 2:
            pos_label = labels[1]
        if pos_label is not None:
            if pos_label not in list(labels):
                raise ValueError(
                    "The 'pos_label' parameter of ReliabilityDisplay must be one of the classes "
                    f"{list(labels)!r:.200}. Got {pos_label!r} instead."
                )
            y, prob = y == pos_label, prob[:, list(labels).index(pos_label)]
            labels = None
        return cls.from_predictions(
            y,
            prob,
            sample_weight=sample_weight,
            n_bins=n_bins,
            strategy=strategy,
            multiclass=multiclass,
            labels=labels,
            pos_label=None if labels is not None else True,
            name=name or type(estimator).__name__,
            x_name=None if labels is not None else f"Predicted probability of {pos_label}",
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true,
        y_prob,
        *,
        sample_weight=None,
        n_bins=15,
        strategy="uniform",
        multiclass="top-label",
        labels=None,
        pos_label=None,
        name=None,
        x_name=None,
        ax=None,
    ):
        """Compute and draw the reliability of given probabilities.

        Parameters
        ----------
        y_true, y_prob, sample_weight, n_bins, strategy, labels, pos_label
            As in :func:`expected_calibration_error`.
        multiclass : {"top-label", "classwise"}, default="top-label"
            Whether probabilities of more than two classes count for the most probable one alone,
            or every class of every event as an event of its own.
        name : str, default=None
            Name of the classifier.
        x_name : str, default=None
            Name of the probability; None for what it is.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : ReliabilityDisplay
        """
        what = {
            "sample_weight": sample_weight,
            "n_bins": n_bins,
            "strategy": strategy,
            "multiclass": multiclass,
            "labels": labels,
            "pos_label": pos_label,
        }
        error = expected_calibration_error(y_true, y_prob, **what)
        curve = reliability_curve(y_true, y_prob, **what)
        codes, prob, weight = check_probabilities(
            cls.__name__, y_true, y_prob, sample_weight, labels, pos_label
        )
        columns = reduce_classes(codes, prob, multiclass)
        histogram, _ = np.histogram(
            np.concatenate([p for p, _ in columns]),
            bins=HISTOGRAM_BINS,
            range=(0, 1),
            weights=np.tile(weight, len(columns)),
        )
        if x_name is None:
            x_name = "Predicted probability"
            if prob.ndim == 2:
                top = multiclass == "top-label"
                x_name += " of the most probable class" if top else " of every class"
        display = cls(curve=curve, error=error, histogram=histogram, name=name, x_name=x_name)
        return display.plot(ax=ax)

    def plot(self, ax=None):
        """Draw the curve, and the histogram beneath it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure. On axes that hold a display already both are compared.

        Returns
        -------
        display : ReliabilityDisplay
        """
        ax = _axes(ax, (5.6, 6.4))
        if ax.get_subplotspec() is None:
            raise ValueError(
                "The 'ax' parameter of ReliabilityDisplay must be one of a grid, as plt.subplots "
                "returns, which is divided to hold the histogram. Got axes that are in none."
            )
        i = len(ax.containers)
        color, c = COLORS[i % len(COLORS)], self.curve
        if i == 0:
            ax.plot([0, 1], [0, 1], color="#666666", lw=1, ls="--", label="Calibrated")
            top, bottom = ax.get_subplotspec().subgridspec(2, 1, height_ratios=[3, 1])
            ax.set_subplotspec(top)
            below = ax.figure.add_subplot(bottom, sharex=ax)
            ax.tick_params(labelbottom=False)
        else:
            (below,) = set(ax.get_shared_x_axes().get_siblings(ax)) - {ax}
        label = f"ECE {self.error.value:.3f} ± {self.error.std:.3f}"
        self.errorbar_ = ax.errorbar(
            c.predicted,
            c.observed,
            yerr=np.abs(c.interval.T - c.observed),
            fmt=MARKERS[i % len(MARKERS)] + "-",
            color=color,
            markersize=5,
            lw=1.2,
            capsize=2,
            label=f"{self.name}: {label}" if self.name else label,
        )
        edges = np.linspace(0, 1, len(self.histogram) + 1)
        below.stairs(self.histogram, edges, color=color, lw=1.4)
        # Scores crowd at the ends by orders of magnitude; signed weights have no logarithm.
        below.set_yscale("log" if np.all(self.histogram >= 0) else "linear")
        below.minorticks_off()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.set_ylabel("Fraction of hits", fontsize=12)
        below.set_xlabel(self.x_name, fontsize=12)
        below.set_ylabel("Events", fontsize=12)
        ax.legend(loc="upper left", frameon=False, fontsize=10)
        self.ax_, self.histogram_ax_, self.figure_ = ax, below, ax.figure
        return self
