"""Display of predictions with their intervals, against the truth or against a feature."""

from numbers import Integral

import numpy as np
from scipy.ndimage import median_filter
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sknuc.metrics._coverage import coverage as coverage_of
from sknuc.metrics._final_step import judged_step
from sknuc.metrics._plot import COLORS, _axes
from sknuc.metrics._sample_validation import column_names
from sknuc.metrics._score_validation import check_interval_ends, check_prediction, check_truth

__all__ = ["IntervalDisplay"]

#: Bars that can be told from each other.
MANY = 100

DRAWN = {
    "max_events": [Interval(Integral, 1, None, closed="left")],
    "style": [StrOptions({"bars", "band"})],
}


def _feature_values(X, feature):
    """Values and name of a column of a table or a data frame."""
    if isinstance(feature, str):
        if feature not in getattr(X, "columns", ()):
            raise ValueError(
                "The 'feature' parameter of IntervalDisplay must name a column of X, or be its "
                f"number. Got {feature!r} for X with "
                f"{list(getattr(X, 'columns', ['no names of columns']))!r:.200}."
            )
        return np.asarray(X[feature], dtype=float), feature
    columns = getattr(X, "columns", None)
    X = np.asarray(X)
    if not isinstance(feature, Integral) or X.ndim != 2 or not 0 <= feature < X.shape[1]:
        raise ValueError(
            "The 'feature' parameter of IntervalDisplay must be the number or the name of a column "
            f"of a table X. Got {feature!r} for X of shape {X.shape}."
        )
    name = f"Feature {feature}" if columns is None else str(columns[feature])
    return X[:, feature].astype(float), name


def _target_column(y, target):
    """Number and name of one of the targets."""
    if np.ndim(y) == 2:
        names, n_targets = column_names(y), np.shape(y)[1]
    else:
        name, n_targets = getattr(y, "name", None), 1
        names = None if name is None else [str(name)]
    if isinstance(target, str) and target in (names or ()):
        return names.index(target), target
    if not isinstance(target, Integral) or not 0 <= target < n_targets:
        raise ValueError(
            "The 'target' parameter of IntervalDisplay must be the number of a target, from 0, "
            f"of which y has {n_targets}, or the name of a column of y. Got {target!r} instead"
            + (f"; the names are {names!r:.200}." if names else ".")
        )
    return target, names[target] if names else None


class IntervalDisplay:
    """Predictions with their intervals, and the truths that they miss.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    y_true, y_pred, lower, upper : ndarray of shape (n_events,)
        Truth, predictions and the ends of the intervals.
    coverage : Coverage
        How often the intervals cover, of all events.
    x : ndarray of shape (n_events,), default=None
        What to draw them against; None for the truth.
    x_name : str, default=None
        Name of `x`.
    y_name : str, default="y"
        Name of the target.
    unit : str, default=None
        Unit of the target.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    intervals_ : list of matplotlib LineCollection, or of PolyCollection
        The intervals that cover the truth and those that miss it, or the band.
    line_ : matplotlib Line2D
        The predictions.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import IntervalDisplay
    >>> rng = np.random.default_rng(0)
    >>> mean = rng.normal(size=500)
    >>> display = IntervalDisplay.from_predictions(
    ...     rng.normal(mean, 0.3), mean, mean - 0.3, mean + 0.3, coverage=0.683, unit="mm"
    ... )
    >>> display.ax_.get_ylabel()
    'Predicted y (mm)'
    """

    def __init__(
        self, *, y_true, y_pred, lower, upper, coverage, x=None, x_name=None, y_name="y", unit=None
    ):
        self.y_true = y_true
        self.y_pred = y_pred
        self.lower = lower
        self.upper = upper
        self.coverage = coverage
        self.x = x
        self.x_name = x_name
        self.y_name = y_name
        self.unit = unit

    @classmethod
    @validate_params(DRAWN, prefer_skip_nested_validation=False)
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        coverage=0.68,
        feature=None,
        target=0,
        sample_weight=None,
        x_name=None,
        y_name=None,
        unit=None,
        max_events=200,
        style="bars",
        ax=None,
    ):
        """Compute and draw the predictions and the intervals of a regressor.

        Parameters
        ----------
        estimator : fitted regressor
            With ``predict_interval`` and ``predict``; also within a pipeline or a search.
        X : array-like of shape (n_events, ...)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The truth.
        coverage : float, default=0.68
            The probability that the intervals claim, in (0, 1).
        feature : int or str, default=None
            The column of `X` to draw against; None for the truth.
        target : int or str, default=0
            Which of several targets to draw: its number, or the name of its column in `y`.
        sample_weight, unit, max_events, style, ax
            As in :meth:`from_predictions`.
        y_name : str, default=None
            Name of the target; None for that of the series or the column, or "y".
        x_name : str, default=None
            Name of the feature; None for that of the column.

        Returns
        -------
        display : IntervalDisplay
        """
        x = None
        if feature is not None:
            x, column = _feature_values(X, feature)
            x_name = x_name or column
        caller = f"{cls.__name__}.from_estimator"
        estimator, X = judged_step(caller, estimator, X, y, "predict_interval", "predict")
        target, own_name = _target_column(y, target)
        y_name = y_name or own_name or "y"
        interval = np.asarray(estimator.predict_interval(X, coverage=coverage))
        parts = [np.asarray(y), np.asarray(estimator.predict(X)), interval[:, 0], interval[:, 1]]
        if np.ndim(y) == 2:
            parts = [part[:, target] for part in parts]
        return cls.from_predictions(
            *parts,
            coverage=coverage,
            x=x,
            sample_weight=sample_weight,
            x_name=x_name,
            y_name=y_name,
            unit=unit,
            max_events=max_events,
            style=style,
            ax=ax,
        )

    @classmethod
    @validate_params(DRAWN, prefer_skip_nested_validation=False)
    def from_predictions(
        cls,
        y_true,
        y_pred,
        lower,
        upper,
        *,
        coverage=0.68,
        x=None,
        sample_weight=None,
        x_name=None,
        y_name="y",
        unit=None,
        max_events=200,
        style="bars",
        ax=None,
    ):
        """Draw given predictions and intervals.

        Parameters
        ----------
        y_true, y_pred, lower, upper : array-like of shape (n_events,)
            Truth, predictions and the ends of the intervals, which may be infinite.
        coverage : float, default=0.68
            The probability that the intervals claim, in (0, 1).
        x : array-like of shape (n_events,), default=None
            What to draw them against; None for the truth.
        sample_weight : array-like of shape (n_events,), default=None
            Weights for the coverage in the legend, see :func:`coverage`.
        x_name : str, default=None
            Name of `x`, with its unit.
        y_name : str, default="y"
            Name of the target.
        unit : str, default=None
            Unit of the target.
        max_events : int, default=200
            Events to draw, evenly along the horizontal axis; the legend tells how many there are.
        style : {"bars", "band"}, default="bars"
            A bar for each event, or a band along `x`: running medians over √n neighbours, for what
            else the predictions depend on.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : IntervalDisplay
        """
        y_true = column_or_1d(y_true)
        y, shape, _ = check_truth(y_true, sample_weight)
        lower_, upper_ = check_interval_ends(lower, upper, shape)
        result = coverage_of(
            y_true, lower, upper, nominal=float(coverage), sample_weight=sample_weight
        )
        display = cls(
            y_true=y[:, 0],
            y_pred=check_prediction("y_pred", y_pred, shape)[:, 0],
            lower=lower_[:, 0],
            upper=upper_[:, 0],
            coverage=result,
            x=None if x is None else check_prediction("x", x, shape)[:, 0],
            x_name=x_name,
            y_name=y_name,
            unit=unit,
        )
        return display.plot(ax=ax, max_events=max_events, style=style)

    @validate_params(DRAWN, prefer_skip_nested_validation=False)
    def plot(self, ax=None, *, max_events=200, style="bars"):
        """Draw predictions, intervals and truths.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.
        max_events : int, default=200
            Events to draw, evenly along the horizontal axis.
        style : {"bars", "band"}, default="bars"
            A bar for each event, or a band along `x`.

        Returns
        -------
        display : IntervalDisplay
        """
        if style == "band" and self.x is None:
            raise ValueError(
                "The 'style' parameter of IntervalDisplay must be 'bars' for predictions against "
                "the truth, along which there is no band. Got 'band' instead; give x or a feature."
            )
        ax = _axes(ax, (6.4, 5.2))
        order = np.argsort(self.y_true if self.x is None else self.x, kind="stable")
        x, y, prediction, lower, upper = (
            part[order]
            for part in (
                self.y_true if self.x is None else self.x,
                self.y_true,
                self.y_pred,
                self.lower,
                self.upper,
            )
        )
        if style == "band":
            # Of an odd number of neighbours; where a function of x rises or falls it stays as it
            # is. Other features scatter the rest, which a line through every event would follow.
            window = 2 * (int(np.sqrt(len(order))) // 2) + 1
            prediction, lower, upper = (
                median_filter(part, size=window, mode="nearest")
                for part in (prediction, lower, upper)
            )
        if len(order) > max_events:
            chosen = np.rint(np.linspace(0, len(order) - 1, max_events)).astype(int)
            x, y, prediction, lower, upper = (
                part[chosen] for part in (x, y, prediction, lower, upper)
            )
        inside = (lower <= y) & (y <= upper)

        finite = np.concatenate([part[np.isfinite(part)] for part in (y, prediction, lower, upper)])
        margin = 0.05 * (finite.max() - finite.min()) or 1.0
        bottom, top = finite.min() - margin, finite.max() + margin
        # Endless intervals leave the picture.
        lower, upper = np.maximum(lower, bottom - margin), np.minimum(upper, top + margin)
        if style == "band":
            band = ax.fill_between(x, lower, upper, color=COLORS[0], alpha=0.25, lw=0)
            self.intervals_ = [band]
        else:
            # Many bars overlap: thin and pale ones leave those to be seen that miss the truth and
            # lie above them, and the predictions above both.
            fade = min(1.0, np.sqrt(MANY / len(x)))
            self.intervals_ = [
                ax.vlines(
                    x[mask], lower[mask], upper[mask], color=color, lw=1.2 * fade, alpha=alpha
                )
                for mask, color, alpha in (
                    (inside, COLORS[0], 0.7 * fade),
                    (~inside, COLORS[1], 0.9),
                )
            ]
        r = self.coverage
        error = f"± {100 * r.error:.1f}"
        if r.error == 0:
            # All or none: the width of a binomial law at 0 or 1 is no measure of the error.
            low, high = r.interval
            error = f"+{100 * (high - r.fraction):.1f} −{100 * (r.fraction - low):.1f}"
        self.intervals_[0].set_label(
            f"{100 * r.nominal:g} % interval: covers {100 * r.fraction:.1f} {error} %"
        )
        if style == "bars":
            self.intervals_[1].set_label("Truth outside")
        if self.x is None:
            (self.line_,) = ax.plot(
                x, prediction, ".", color="#333333", ms=4 * fade, label="Prediction"
            )
            ax.plot([y.min(), y.max()], [y.min(), y.max()], color="#666666", lw=1, ls="--")
        else:
            form = {"lw": 1.8} if style == "band" else {"ls": "", "marker": ".", "ms": 4 * fade}
            (self.line_,) = ax.plot(x, prediction, color=COLORS[0], label="Prediction", **form)
            ax.plot(x, y, "x", color="#333333", ms=4, label="Truth")
        unit = f" ({self.unit})" if self.unit else ""
        true, predicted = f"True {self.y_name}{unit}", f"Predicted {self.y_name}{unit}"
        own = self.y_name[:1].upper() + self.y_name[1:] if len(self.y_name) > 1 else self.y_name
        ax.set_xlabel(true if self.x is None else self.x_name or "x", fontsize=12)
        ax.set_ylabel(predicted if self.x is None else f"{own}{unit}", fontsize=12)
        ax.set_ylim(bottom, top + 4 * margin)
        title = f"{len(x)} of {len(self.y_true)} events drawn"
        if len(x) == len(self.y_true):
            title = None
        ax.legend(loc="upper left", frameon=False, fontsize=10, title=title, alignment="left")
        self.ax_, self.figure_ = ax, ax.figure
        return self
