r"""Display of generated events beside true ones: marginals, their ratios, correlations.

A histogram of weighted events has in bin b the share :math:`\sum_b w / \sum w` with the standard
deviation :math:`\sqrt{\sum_b w^2} / \sum w`. The ratio of two such shares is drawn with the error
of the generated one, over a band of that of the true one.
"""

from numbers import Integral

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.metrics._plot import COLORS
from sknuc.metrics._sample_moments import correlations
from sknuc.metrics._sample_scorer import generate_like
from sknuc.metrics._sample_validation import check_two_samples, column_names
from sknuc.metrics._sample_wasserstein import wasserstein_distance

__all__ = ["SampleComparisonDisplay"]

_COUNT = Interval(Integral, 1, None, closed="left")

# Beyond this number of columns a matrix has no more to show than its pixels.
MOST_CORRELATED = 400
# Up to this number the columns of a matrix are named.
MOST_NAMED = 12
# A distribution whose bins differ by more than this is drawn on a logarithmic axis.
_LOG_RATIO = 20


class SampleComparisonDisplay:
    """Marginal distributions of two samples with their ratios, and their correlations.

    Create it with :meth:`from_samples` or :meth:`from_estimator`.

    Parameters
    ----------
    marginals : list of dict
        Of each column that is shown: ``name``, ``distance`` (Wasserstein-1 in standard deviations
        of the true sample), ``edges`` of the bins, and for each sample ``true`` and ``generated``
        the shares of the bins and their standard deviations, of shape (2, n_bins).
    correlation_true, correlation_generated : ndarray of shape (n_columns, n_columns) or None
        Correlation matrices; None to leave them out.
    names : list of str of length n_columns, default=None
        Names of the columns of these matrices, with units in brackets.
    labels : (str, str), default=("True", "Generated")
        Names of the samples.
    title : str, default=None
        What is shown.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : list of matplotlib Axes
        One per marginal.
    ratio_axes_ : list of matplotlib Axes
        One per marginal, below it.
    correlation_axes_ : list of matplotlib Axes
        Those of both samples and of the difference; empty without them.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.metrics import SampleComparisonDisplay
    >>> rng = np.random.default_rng(0)
    >>> true, generated = rng.normal(size=(500, 2)), rng.normal([0, 1], size=(500, 2))
    >>> display = SampleComparisonDisplay.from_samples(
    ...     true, generated, names=["energy (MeV)", "depth (cm)"]
    ... )
    >>> [marginal["name"] for marginal in display.marginals]  # the most different one first
    ['depth (cm)', 'energy (MeV)']
    """

    def __init__(
        self,
        *,
        marginals,
        correlation_true=None,
        correlation_generated=None,
        names=None,
        labels=("True", "Generated"),
        title=None,
    ):
        self.marginals = marginals
        self.correlation_true = correlation_true
        self.correlation_generated = correlation_generated
        self.names = names
        self.labels = labels
        self.title = title

    @classmethod
    @validate_params(
        {"n_samples": [_COUNT, None], "random_state": ["random_state"]},
        prefer_skip_nested_validation=False,
    )
    def from_estimator(
        cls, estimator, X, y=None, *, n_samples=None, sample_weight=None, random_state=0, **params
    ):
        """Generate events and compare them with given ones.

        Parameters
        ----------
        estimator : fitted sampler
            Also at the end of a Pipeline, whose steps bring its events back by their
            ``inverse_transform``, or within a search.
        X : array-like of shape (n_events, ...)
            The true events, best those that the sampler has not seen.
        y : array-like of shape (n_events, ...), default=None
            Their conditions, for which events are generated; None for a sampler without.
        n_samples : int, default=None
            How many to generate; None for as many as are given.
        sample_weight : array-like of shape (n_events,), default=None
            Weights of the true events.
        random_state : int, RandomState instance or None, default=0
            Seed of the sampling.
        **params
            As in :meth:`from_samples`.

        Returns
        -------
        display : SampleComparisonDisplay
        """
        generated, _ = generate_like(
            estimator,
            X,
            y,
            n_samples=n_samples,
            sample_weight=sample_weight,
            rng=check_random_state(random_state),
        )
        return cls.from_samples(X, generated, weight_true=sample_weight, **params)

    @classmethod
    @validate_params(
        {
            "names": ["array-like", None],
            "columns": ["array-like", None],
            "max_columns": [_COUNT],
            "n_bins": [_COUNT],
            "correlation": ["boolean"],
            "labels": [tuple, list],
        },
        prefer_skip_nested_validation=False,
    )
    def from_samples(
        cls,
        X_true,
        X_generated,
        *,
        names=None,
        columns=None,
        max_columns=6,
        n_bins=40,
        correlation=True,
        labels=("True", "Generated"),
        weight_true=None,
        weight_generated=None,
        figure=None,
    ):
        """Compare two samples.

        Parameters
        ----------
        X_true, X_generated : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The two samples.
        names : list of str, default=None
            Names of all columns, with their units, such as "energy (MeV)"; None for those of a data
            frame, or their numbers.
        columns : list of int or str, default=None
            Columns to show, in this order, by number or name. None shows those that differ most, by
            the Wasserstein distance in standard deviations.
        max_columns : int, default=6
            How many these are.
        n_bins : int, default=40
            Bins of the marginals, over the range that holds 99.8 % of the weight of both samples;
            the first and the last bin hold what lies beyond. Whole numbers have bins of their own.
        correlation : bool, default=True
            Whether to show correlation matrices, of all columns if these are at most 400, else of
            those that are shown.
        labels : (str, str), default=("True", "Generated")
            Names of the samples.
        weight_true, weight_generated : array-like of shape (n_events,), default=None
            Non-negative weights.
        figure : matplotlib Figure, default=None
            None for a new one.

        Returns
        -------
        display : SampleComparisonDisplay

        Raises
        ------
        ValueError
            If shapes do not fit, a value is not finite, a weight is negative, or a column is
            unknown.
        """
        given = names if names is not None else column_names(X_true)
        X_true, X_generated, w_true, w_generated = check_two_samples(
            X_true, X_generated, weight_true, weight_generated
        )
        n_features = X_true.shape[1]
        names = [f"column {i}" for i in range(n_features)] if given is None else list(given)
        if len(names) != n_features:
            raise ValueError(
                "The 'names' parameter of SampleComparisonDisplay.from_samples must name "
                f"{n_features} columns. Got {len(names)} names instead."
            )
        if len(labels) != 2:
            raise ValueError(
                "The 'labels' parameter of SampleComparisonDisplay.from_samples must name two "
                f"samples. Got {labels!r} instead."
            )
        distance = wasserstein_distance(
            X_true,
            X_generated,
            standardize=True,
            weight_true=w_true,
            weight_generated=w_generated,
        )
        if columns is None:
            shown = np.argsort(-distance, kind="stable")[:max_columns].tolist()
            rest = f"{len(shown)} most different of {n_features} columns"
            title = rest if len(shown) < n_features else None
        else:
            shown = [_find_column(column, names) for column in columns]
            if not shown:
                raise ValueError(
                    "The 'columns' parameter of SampleComparisonDisplay.from_samples must hold a "
                    "column or more. Got none; None shows those that differ most."
                )
            title = None
        marginals = []
        for i in shown:
            x, z = X_true[:, i], X_generated[:, i]
            edges = _edges(x, z, w_true, w_generated, n_bins)
            marginals.append(
                {
                    "name": names[i],
                    "distance": float(distance[i]),
                    "edges": edges,
                    "true": _shares(x, w_true, edges),
                    "generated": _shares(z, w_generated, edges),
                }
            )
        among, matrices = [], (None, None)
        if correlation and n_features > 1:
            among = list(range(n_features)) if n_features <= MOST_CORRELATED else sorted(shown)
            matrices = (
                correlations(X_true[:, among], w_true),
                correlations(X_generated[:, among], w_generated),
            )
        return cls(
            marginals=marginals,
            correlation_true=matrices[0],
            correlation_generated=matrices[1],
            names=[names[i] for i in among],
            labels=labels,
            title=title,
        ).plot(figure=figure)

    def plot(self, figure=None):
        """Draw marginals, ratios and correlations.

        Parameters
        ----------
        figure : matplotlib Figure, default=None
            None for a new one.

        Returns
        -------
        display : SampleComparisonDisplay
        """
        import matplotlib.pyplot as plt

        n = len(self.marginals)
        n_columns = 2 if n == 4 else min(n, 3)
        n_rows = -(-n // n_columns)
        matrices = self.correlation_true is not None
        if figure is None:
            height = 3.6 * n_rows + (3.6 if matrices else 0) + 0.5
            width = max(4.3 * n_columns, 11 if matrices else 5.5)
            figure = plt.figure(figsize=(width, height), layout="constrained")
        if self.title:
            figure.suptitle(self.title, fontsize=14)
        heights = [3.6 * n_rows, 3.6] if matrices else None
        parts = figure.subfigures(1 + matrices, 1, height_ratios=heights, squeeze=False)[:, 0]
        grid = parts[0].add_gridspec(
            2 * n_rows, n_columns, height_ratios=[2.6, 1] * n_rows, hspace=0.02
        )
        self.axes_, self.ratio_axes_ = [], []
        for k, marginal in enumerate(self.marginals):
            row, column = divmod(k, n_columns)
            ax = parts[0].add_subplot(grid[2 * row, column])
            below = parts[0].add_subplot(grid[2 * row + 1, column], sharex=ax)
            self._draw_marginal(ax, marginal)
            _draw_ratio(below, marginal, first=column == 0)
            if column == 0:
                ax.set_ylabel("Share of events / bin", fontsize=12)
            if k == 0:
                ax.legend(frameon=False, fontsize=11)
            self.axes_.append(ax)
            self.ratio_axes_.append(below)
        self.correlation_axes_ = self._draw_correlations(parts[1]) if matrices else []
        self.figure_ = figure
        return self

    def _draw_marginal(self, ax, marginal):
        edges = marginal["edges"]
        middle = (edges[1:] + edges[:-1]) / 2
        share, std = marginal["true"]
        ax.stairs(share, edges, fill=True, color="#BBBBBB", label=self.labels[0])
        generated, generated_std = marginal["generated"]
        ax.errorbar(
            middle,
            generated,
            yerr=generated_std,
            fmt=".",
            markersize=4,
            elinewidth=1,
            color=COLORS[1],
            label=self.labels[1],
        )
        positive = np.concatenate([share[share > 0], generated[generated > 0]])
        top = positive.max()
        if top > _LOG_RATIO * np.median(positive):
            ax.set_yscale("log")
            ax.set_ylim(0.5 * positive.min(), 8 * top)
        else:
            ax.set_ylim(0, 1.35 * max(top, (share + std).max()))
        ax.tick_params(labelbottom=False)
        distance = marginal["distance"]
        ax.set_title(f"W₁ = {distance:.2g} std", fontsize=10, loc="right", color="#555555")

    def _draw_correlations(self, part):
        axes = part.subplots(1, 3)
        first, second = self.correlation_true, self.correlation_generated
        difference = second - first
        # A scale of its own, so that small differences can be seen.
        limit = max(float(np.abs(difference).max()), 0.05)
        names = [*self.labels, "Difference"]
        for ax, name, matrix, bound in zip(
            axes, names, (first, second, difference), (1, 1, limit), strict=True
        ):
            image = ax.imshow(
                matrix, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest"
            )
            ax.set_title(name, fontsize=12)
            if self.names is not None and len(self.names) == len(matrix) <= MOST_NAMED:
                short = [name.split(" (")[0] for name in self.names]
                ax.set_xticks(range(len(matrix)), short, rotation=45, ha="right", fontsize=10)
                ax.set_yticks(range(len(matrix)), short if ax is axes[0] else [], fontsize=10)
            else:
                ax.locator_params(nbins=min(6, len(matrix)), integer=True)
                ax.set_xlabel("Column", fontsize=11)
            part.colorbar(image, ax=ax, shrink=0.8)
        part.suptitle("Correlation coefficients", fontsize=13)
        return list(axes)


def _draw_ratio(ax, marginal, *, first):
    """Generated over true, with the error of the one over the band of the other."""
    edges = marginal["edges"]
    middle = (edges[1:] + edges[:-1]) / 2
    share, std = marginal["true"]
    generated, generated_std = marginal["generated"]
    filled = share > 0
    relative = np.where(filled, std / np.where(filled, share, 1), 0)
    ax.stairs(1 + relative, edges, baseline=1 - relative, fill=True, color="#DDDDDD")
    ax.axhline(1, color="#666666", lw=1)
    ratio, error = (v[filled] / share[filled] for v in (generated, generated_std))
    within = (ratio > 0.5) & (ratio < 1.5)
    color = COLORS[1]
    at = middle[filled]
    ax.errorbar(
        at[within],
        ratio[within],
        yerr=error[within],
        fmt=".",
        markersize=4,
        elinewidth=1,
        color=color,
    )
    # What is beyond the axis is pointed at, infinite ratios included.
    above = np.append(at[ratio >= 1.5], middle[~filled & (generated > 0)])
    for far, y, marker in ((above, 1.46, "^"), (at[ratio <= 0.5], 0.54, "v")):
        ax.plot(far, np.full(len(far), y), marker, markersize=4, color=color)
    ax.set_ylim(0.5, 1.5)
    ax.set_xlim(edges[0], edges[-1])
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(marginal["name"], fontsize=12)
    if first:
        ax.set_ylabel("Ratio", fontsize=12)


def _find_column(column, names):
    if isinstance(column, str) and column in names:
        return names.index(column)
    number = isinstance(column, Integral) and not isinstance(column, bool)
    if number and -len(names) <= column < len(names):
        return int(column) % len(names)
    raise ValueError(
        "The 'columns' parameter of SampleComparisonDisplay.from_samples must hold names or "
        f"numbers of the {len(names)} columns. Got {column!r}; the names are {names!r:.200}."
    )


def _edges(x, z, w_x, w_z, n_bins):
    both = np.concatenate([x, z])
    values = np.unique(both)
    if np.array_equal(values, np.rint(values)) and values[-1] - values[0] < n_bins:
        return np.arange(values[0], values[-1] + 2) - 0.5
    ends = [
        np.quantile(values, [0.001, 0.999], weights=weight, method="inverted_cdf")
        for values, weight in ((x, w_x), (z, w_z))
    ]
    return np.histogram_bin_edges(both, n_bins, (np.min(ends), np.max(ends)))


def _shares(x, weight, edges):
    """Shares of the bins and their standard deviations; the end bins hold what lies beyond."""
    index = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
    sums, squares = (
        np.bincount(index, weights=w, minlength=len(edges) - 1) for w in (weight, weight**2)
    )
    return np.stack([sums, np.sqrt(squares)]) / weight.sum()
