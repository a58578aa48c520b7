r"""Display of the probability integral transform.

A bin of a flat histogram of k bins and n events holds the share
:math:`1/k \pm \sqrt{(1 - 1/k)/(kn)}`: only beyond that is there something to see. Bands show where
it lies with 68 and 95 %.
"""

import warnings
from numbers import Integral

import numpy as np
from sklearn.utils import _safe_indexing, check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.base import levels_to_user
from sknuc.metrics._final_step import judged_step
from sknuc.metrics._plot import COLORS, _axes
from sknuc.metrics._plot_shared import BANDS, name_targets
from sknuc.metrics._sample_validation import column_names
from sknuc.metrics._score_pit import pit, pit_test
from sknuc.metrics._score_validation import check_truth, kish_number

__all__ = ["PITDisplay"]

#: Events whose quantiles are in memory at the same time.
BLOCK = 2**16

N_LEVELS = 99

#: A histogram of one bin is flat whatever it holds.
BINNED = {"n_bins": [Interval(Integral, 2, None, closed="left"), None]}
# Bins, if there are enough events to expect so many in each.
_MOST_BINS, _EXPECTED = 20, 5


def _transforms(estimator, X, y, n_levels, random_state):
    """Transforms between the quantiles at levels that are equally far apart."""
    levels = np.arange(1, n_levels + 1) / (n_levels + 1)
    rng = check_random_state(random_state)
    u = [
        pit(
            y[rows],
            quantiles=estimator.predict_quantiles(_safe_indexing(X, rows), levels),
            levels=levels,
            random_state=rng,
        )
        for rows in gen_batches(len(y), BLOCK)
    ]
    return np.concatenate(u)


def _supported_transforms(estimator, X, y, random_state):
    """Transforms between as many quantiles as the estimator does not refuse.

    Conformal estimators refuse levels that their calibration events cannot support.
    """
    try:
        return _transforms(estimator, X, y, N_LEVELS, random_state)
    except ValueError as refusal:
        reason = refusal
    # Who refuses the median too has another reason, which is raised here. The more levels, the
    # farther out they are: the largest number is found by bisection.
    u, n_levels, n_refused = _transforms(estimator, X, y, 1, random_state), 1, N_LEVELS
    while n_refused - n_levels > 1:
        n_asked = (n_levels + n_refused) // 2
        try:
            u, n_levels = _transforms(estimator, X, y, n_asked, random_state), n_asked
        except ValueError:
            n_refused = n_asked
    warnings.warn(
        f"PITDisplay finds the truth between {n_levels} quantiles instead of {N_LEVELS}, as "
        f"{type(estimator).__name__} says: {reason} Give 'n_levels' to choose another number.",
        UserWarning,
        stacklevel=levels_to_user(),
    )
    return u


def _histograms(ax):
    """The histograms on axes, those of former displays included."""
    return [patch for patch in ax.patches if type(patch).__name__ == "StepPatch"]


class PITDisplay:
    """Histogram of the probability integral transform, flat for calibrated distributions.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    u : dict of str to ndarray of shape (n_events,)
        For each histogram the transforms.
    weight : ndarray of shape (n_events,)
        Weights of the events.
    n_bins : int
        Number of bins.

    Attributes
    ----------
    tests_ : dict of str to PITTest
        The test of flatness of each histogram.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib StepPatch
        One per histogram.
    bands_ : list of matplotlib Polygon
        Where the bins of a flat histogram lie with 95 and 68 %; empty without `band`.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.stats import norm
    >>> from sknuc.metrics import PITDisplay
    >>> y = np.random.default_rng(0).normal(size=2000)
    >>> display = PITDisplay.from_predictions(norm.cdf(y), n_bins=10)
    >>> display.tests_["Predictions"].p_value > 0.05
    True
    """

    def __init__(self, *, u, weight, n_bins=20):
        self.u = u
        self.weight = weight
        self.n_bins = n_bins

    @classmethod
    @validate_params(
        {**BINNED, "n_levels": [Interval(Integral, 1, None, closed="left"), None]},
        prefer_skip_nested_validation=False,
    )
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        n_bins=None,
        n_levels=None,
        sample_weight=None,
        name=None,
        target_names=None,
        band=True,
        random_state=0,
        ax=None,
    ):
        """Compute and draw the transforms of a regressor's quantiles.

        Parameters
        ----------
        estimator : fitted regressor
            With ``predict_quantiles``; also within a pipeline or a search.
        X : array-like of shape (n_events, ...)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The truth.
        n_levels : int, default=None
            Quantiles between which the truth is found, see :func:`pit`. None for 99, or, with a
            warning, as many as the estimator can support.
        random_state : int, RandomState instance or None, default=0
            Determines where between two quantiles the transform is put.
        n_bins, sample_weight, target_names, band, ax
            As in :meth:`from_predictions`.
        name : str, default=None
            Name of the histogram; None for that of the estimator.

        Returns
        -------
        display : PITDisplay
        """
        caller = f"{cls.__name__}.from_estimator"
        estimator, X = judged_step(caller, estimator, X, y, "predict_quantiles")
        target_names = column_names(y) if target_names is None else target_names
        y = np.asarray(y)
        if n_levels is None:
            u = _supported_transforms(estimator, X, y, random_state)
        else:
            u = _transforms(estimator, X, y, n_levels, random_state)
        return cls.from_predictions(
            u,
            n_bins=n_bins,
            sample_weight=sample_weight,
            name=name or type(estimator).__name__,
            target_names=target_names,
            band=band,
            ax=ax,
        )

    @classmethod
    @validate_params(BINNED, prefer_skip_nested_validation=False)
    def from_predictions(
        cls, u, *, n_bins=None, sample_weight=None, name=None, target_names=None, band=True, ax=None
    ):
        """Draw given transforms.

        Parameters
        ----------
        u : array-like of shape (n_events,) or (n_events, n_targets)
            Probability integral transforms, see :func:`pit`.
        n_bins : int, default=None
            Number of bins, at least 2. None for 20, or as many as have 5 events each if those are
            fewer.
        sample_weight : array-like of shape (n_events,), default=None
            Weights of either sign, see :func:`pit_test`.
        name : str, default=None
            Name of the histogram.
        target_names : list of str, default=None
            Names of the targets; None for those of a data frame's columns, or their numbers.
        band : bool, default=True
            Whether to draw the band of a flat histogram.
        ax : matplotlib Axes, default=None
            None for a new figure.

        Returns
        -------
        display : PITDisplay
        """
        values, shape, weight = check_truth(u, sample_weight)
        given = column_names(u) if target_names is None else target_names
        names = name_targets(name, shape, given, "Predictions")
        columns = dict(zip(names, values.T, strict=True))
        if n_bins is None:
            n_bins = int(np.clip(kish_number(weight) / _EXPECTED, 2, _MOST_BINS))
        return cls(u=columns, weight=weight, n_bins=n_bins).plot(ax=ax, band=band)

    def plot(self, ax=None, *, band=True):
        """Draw the histograms.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            None for a new figure.
        band : bool, default=True
            Whether to draw the band of a flat histogram.

        Returns
        -------
        display : PITDisplay
        """
        self.tests_ = {name: pit_test(u, sample_weight=self.weight) for name, u in self.u.items()}
        ax = _axes(ax, (6.4, 4.2))
        self.bands_, self.lines_ = [], []
        if band:
            std = np.sqrt((self.n_bins - 1) / kish_number(self.weight))
            self.bands_ = [
                ax.axhspan(1 - z * std, 1 + z * std, color=color, lw=0, label=label)
                for label, z, color in BANDS
            ]
            ax.axhline(1, color="#666666", lw=1, ls="--")
        edges = np.linspace(0, 1, self.n_bins + 1)
        for name, u in self.u.items():
            i = len(_histograms(ax))
            counts, _ = np.histogram(u, bins=edges, weights=self.weight)
            density = counts * self.n_bins / self.weight.sum()
            self.lines_.append(
                ax.stairs(
                    density,
                    edges,
                    color=COLORS[i % len(COLORS)],
                    ls=("-", "--", "-.", ":")[i % 4],
                    lw=1.8,
                    baseline=None,
                    label=f"{name} (p = {self.tests_[name].p_value:.2g})",
                )
            )
        ax.set_xlim(0, 1)
        ax.set_xlabel("Probability integral transform F(y)", fontsize=12)
        ax.set_ylabel("Events / expected", fontsize=12)
        legend = ax.legend(loc="upper left", frameon=False, fontsize=10)
        # The legend has its place above all histograms that share the axes.
        top = max([1.25, *(patch.get_data().values.max() for patch in _histograms(ax))])
        share = legend.get_window_extent().height / ax.get_window_extent().height
        ax.set_ylim(0, 1.05 * top / max(1 - share, 0.3))
        self.ax_, self.figure_ = ax, ax.figure
        return self
