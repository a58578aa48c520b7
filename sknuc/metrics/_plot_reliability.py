"""Display of the reliability of classifiers: hits against probability, and where events lie."""

import numpy as np
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sknuc.base import validate_labels, validate_weights
from sknuc.metrics._final_step import fitted_steps
from sknuc.metrics._plot import COLORS, MARKERS, _axes
from sknuc.metrics._score_calibration import expected_calibration_error, reliability_curve
from sknuc.metrics._score_probabilities import check_probabilities, reduce_classes

__all__ = ["ReliabilityDisplay"]

HISTOGRAM_BINS = 50

#: What the axes hold, whatever the classes are.
NAMES = ("Predicted probability", "Fraction of hits")


def _names(pos_label):
    """Names of the axes for a positive class; what is True or not needs none."""
    if pos_label is None or (isinstance(pos_label, bool | np.bool_) and pos_label):
        return NAMES
    positive = pos_label if isinstance(pos_label, str) else f"class {pos_label}"
    return f"Predicted probability of {positive}", f"Fraction of {positive}"


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
    y_name : str, default="Fraction of hits"
        Name of what the probability is of.

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

    def __init__(
        self,
        *,
        curve,
        error,
        histogram,
        name=None,
        x_name="Predicted probability",
        y_name="Fraction of hits",
    ):
        self.curve = curve
        self.error = error
        self.histogram = histogram
        self.name = name
        self.x_name = x_name
        self.y_name = y_name

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
            Their true classes, among those of the classifier.
        sample_weight, n_bins, strategy, multiclass, ax
            As in :meth:`from_predictions`.
        pos_label : int, float, bool or str, default=None
            The class whose probability is drawn; None for the second of two classes, and for what
            `multiclass` says of more.
        name : str, default=None
            Name of the classifier; None for that of its class, or of the last step of a pipeline
            or a search.

        Returns
        -------
        display : ReliabilityDisplay
        """
        last, _ = fitted_steps(estimator)
        if not hasattr(estimator, "predict_proba"):
            raise ValueError(
                "The 'estimator' parameter of ReliabilityDisplay.from_estimator must have the "
                f"method predict_proba. {type(estimator).__name__} has none; see "
                "sklearn.calibration.CalibratedClassifierCV."
            )
        if not hasattr(estimator, "classes_"):
            check_is_fitted(estimator)
        check_consistent_length(X, y)
        y, labels = validate_labels(y), np.asarray(estimator.classes_).tolist()
        sample_weight = validate_weights(sample_weight, y, allow_negative=True)
        if sample_weight is not None and not np.all(sample_weight):
            present = np.flatnonzero(sample_weight)
            X, y, sample_weight = _safe_indexing(X, present), y[present], sample_weight[present]
        # Elements are compared: arrays of numbers and of words would become words.
        unknown = [label for label in np.unique(y).tolist() if label not in labels]
        if unknown:
            raise ValueError(
                "The 'y' parameter of ReliabilityDisplay.from_estimator must hold classes that the "
                f"classifier knows, {labels!r:.200}. Got {unknown!r:.200} instead."
            )
        if pos_label is None and len(labels) == 2:
            pos_label = labels[1]
        if pos_label is not None and pos_label not in labels:
            raise ValueError(
                "The 'pos_label' parameter of ReliabilityDisplay must be one of the classes "
                f"{labels!r:.200}. Got {pos_label!r} instead."
            )
        prob = np.asarray(estimator.predict_proba(X))
        x_name = y_name = None
        if pos_label is not None:
            y, prob = y == pos_label, prob[:, labels.index(pos_label)]
            x_name, y_name = _names(pos_label)
            labels, pos_label = None, True
        return cls.from_predictions(
            y,
            prob,
            sample_weight=sample_weight,
            n_bins=n_bins,
            strategy=strategy,
            multiclass=multiclass,
            labels=labels,
            pos_label=pos_label,
            name=name or type(last).__name__,
            x_name=x_name,
            y_name=y_name,
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
        y_name=None,
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
        x_name, y_name : str, default=None
            Names of the probability and of what it is of; None for what they are.
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
        x_own, y_own = _names(pos_label)
        if prob.ndim == 2:
            top = multiclass == "top-label"
            x_own += " of the most probable class" if top else " of every class"
        display = cls(
            curve=curve,
            error=error,
            histogram=histogram,
            name=name,
            x_name=x_name or x_own,
            y_name=y_name or y_own,
        )
        return display.plot(ax=ax)

    def plot(self, ax=None):
        """Draw the curve, and the histogram beneath it.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure. On axes that hold a display already both are compared; what the
            two call differently, as probabilities of different classes, gets a name for both.

        Returns
        -------
        display : ReliabilityDisplay
        """
        from matplotlib.ticker import LogLocator, StrMethodFormatter

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
        if np.all(self.histogram >= 0):
            below.set_yscale("log")
            below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
            below.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            # A bin of one event is seen.
            least = np.min(self.histogram[self.histogram > 0], initial=np.inf) / 2
            below.set_ylim(bottom=min(least, below.get_ylim()[0]) if i else least)
        below.minorticks_off()
        ax.set(xlim=(0, 1), ylim=(0, 1))
        x_name, y_name = self.x_name, self.y_name
        if i > 0:
            x_name = x_name if below.get_xlabel() == x_name else NAMES[0]
            y_name = y_name if ax.get_ylabel() == y_name else NAMES[1]
        ax.set_ylabel(y_name, fontsize=12)
        below.set_xlabel(x_name, fontsize=12)
        below.set_ylabel("Events", fontsize=12)
        # Above the diagonal or below it, wherever the curves are not.
        ax.legend(loc="best", frameon=False, fontsize=10)
        self.ax_, self.histogram_ax_, self.figure_ = ax, below, ax.figure
        return self
