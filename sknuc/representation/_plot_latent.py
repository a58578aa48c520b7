r"""A map of learned features: events as points of a plane, coloured by what is known of them.

Principal components show the two directions along which features vary most,
:math:`Z - \bar Z = U S V^T`, with the share :math:`S_k^2 / \sum S^2` of the variance that each
carries. Nothing of the colours enters the map: where events of one kind lie together, the features
tell them apart by themselves.

Points are drawn in random order, so that no kind covers another. Colours are those of Okabe and Ito
and the scale "cividis", which readers with any colour vision tell apart; kinds have markers of
their own in addition.
"""

from collections.abc import Mapping

import numpy as np
from sklearn.decomposition import PCA
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import StrOptions, validate_params
from sklearn.utils.validation import column_or_1d

__all__ = ["LatentDisplay"]

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*"
_MISSING = "#BBBBBB"
# Share of the values at either end that the colour scale does not resolve.
_TAIL = 0.03


class LatentDisplay:
    """Map of learned features in two dimensions.

    Create it with :meth:`from_estimator` or :meth:`from_features`.

    Parameters
    ----------
    coordinates : ndarray of shape (n_events, 2)
        Places on the map.
    colors : dict of str to ndarray of shape (n_events,)
        What each panel shows, by its name; an empty one is one panel without colours.
    axis_names : (str, str), default=("", "")
        Names of the axes.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : list of matplotlib Axes
        One per panel.
    colorbars_ : list of matplotlib Colorbar or None
        One per panel; None where kinds have a legend.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.representation import LatentDisplay
    >>> rng = np.random.default_rng(0)
    >>> kind = rng.choice(["alpha", "gamma"], 200)
    >>> Z = rng.normal(size=(200, 5)) + 4 * (kind == "gamma")[:, None]
    >>> display = LatentDisplay.from_features(Z, color={"kind": kind, "size (mm)": Z[:, 1]})
    >>> len(display.axes_)
    2
    """

    def __init__(self, *, coordinates, colors, axis_names=("", "")):
        self.coordinates = coordinates
        self.colors = colors
        self.axis_names = axis_names

    @classmethod
    def from_estimator(cls, estimator, X, *, color=None, **params):
        """Transform events and draw the map of their features.

        Parameters
        ----------
        estimator : fitted transformer
            Also a Pipeline that ends with one.
        X : array-like of shape (n_events, ...)
            The events.
        color : array-like of shape (n_events,), dict of them or None, default=None
            As in :meth:`from_features`.
        **params
            As in :meth:`from_features`.

        Returns
        -------
        display : LatentDisplay
        """
        return cls.from_features(np.asarray(estimator.transform(X)), color=color, **params)

    @classmethod
    @validate_params(
        {
            "method": [StrOptions({"pca", "umap"}), None],
            "random_state": ["random_state"],
        },
        prefer_skip_nested_validation=False,
    )
    def from_features(cls, Z, *, color=None, method="pca", random_state=0, figure=None):
        """Draw the map of given features.

        Parameters
        ----------
        Z : array-like of shape (n_events, n_features)
            The features.
        color : array-like of shape (n_events,), dict of them or None, default=None
            What is known of the events. Numbers have a colour bar, which leaves out 3 % of them at
            either end; NaN is "not defined", and grey. Words, flags, and integers of at most seven
            different values are kinds, which have a legend. A dict has one panel for each of its
            entries, and their names with units as titles, such as "drift time (ns)".
        method : {"pca", "umap"} or None, default="pca"
            How features become two: principal components; UMAP, which keeps neighbours together
            and distorts distances, and needs the package ``umap-learn``; None takes `Z` of two
            columns as it is.
        random_state : int, RandomState instance or None, default=0
            Seed of UMAP, and of the order in which points are drawn.
        figure : matplotlib Figure, default=None
            None for a new one.

        Returns
        -------
        display : LatentDisplay

        Raises
        ------
        ValueError
            If `Z` is not finite, lengths disagree, a name has more than seven kinds, or `Z` has too
            few columns.
        ImportError
            If UMAP is asked for and not installed.
        """
        Z = check_array(Z, dtype=np.float64, input_name="Z", ensure_min_samples=2)
        rng = check_random_state(random_state)
        given = color if isinstance(color, Mapping) else {} if color is None else {"": color}
        colors = {name: _check_color(name, values, len(Z)) for name, values in given.items()}
        if method is None:
            if Z.shape[1] != 2:
                raise ValueError(
                    "method=None of LatentDisplay.from_features takes coordinates of shape "
                    f"(n_events, 2). Got the shape {Z.shape} instead."
                )
            coordinates, names = Z, ("First coordinate", "Second coordinate")
        elif Z.shape[1] < 2:
            raise ValueError(f"A map needs two features or more. Got Z of shape {Z.shape} instead.")
        elif method == "pca":
            pca = PCA(2, svd_solver="full").fit(Z)
            coordinates = pca.transform(Z)
            shares = 100 * np.nan_to_num(pca.explained_variance_ratio_)
            names = tuple(
                f"Component {k} ({share:.0f} % of the variance)"
                for k, share in enumerate(shares, 1)
            )
        else:
            coordinates, names = _umap(Z, rng), ("UMAP 1", "UMAP 2")
        return cls(coordinates=coordinates, colors=colors, axis_names=names).plot(
            figure=figure, random_state=rng
        )

    def plot(self, figure=None, *, random_state=0):
        """Draw the map, one panel for each colouring.

        Parameters
        ----------
        figure : matplotlib Figure, default=None
            None for a new one.
        random_state : int, RandomState instance or None, default=0
            Seed of the order in which points are drawn.

        Returns
        -------
        display : LatentDisplay
        """
        import matplotlib.pyplot as plt

        panels = list(self.colors.items()) or [("", None)]
        n_columns = len(panels) if len(panels) <= 3 else -(-len(panels) // 2)
        n_rows = -(-len(panels) // n_columns)
        if figure is None:
            size = (5.2 * n_columns + 0.6, 4.6 * n_rows + 0.4)
            figure = plt.figure(figsize=size, layout="constrained")
        axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        for ax in axes.ravel()[len(panels) :]:
            ax.remove()
        self.axes_ = list(axes.ravel()[: len(panels)])
        n = len(self.coordinates)
        order = check_random_state(random_state).permutation(n)
        size = float(np.clip(16_000 / n, 3, 28))
        self.colorbars_ = []
        for k, (ax, (name, values)) in enumerate(zip(self.axes_, panels, strict=True)):
            if values is None:
                ax.scatter(
                    *self.coordinates[order].T,
                    s=size,
                    c=_COLORS[0],
                    lw=0,
                    alpha=0.7,
                    rasterized=True,
                )
                bar = None
            elif _is_kind(values):
                bar = self._draw_kinds(ax, values, order, size)
            else:
                bar = self._draw_numbers(figure, ax, values, order, size)
            self.colorbars_.append(bar)
            if name:
                ax.set_title(name[0].upper() + name[1:], fontsize=16)
            # Of axes that are shared, those below and on the left are named.
            if k + n_columns >= len(panels):
                ax.set_xlabel(self.axis_names[0], fontsize=14)
                ax.tick_params(labelbottom=True)
            if k % n_columns == 0:
                ax.set_ylabel(self.axis_names[1], fontsize=14)
            ax.tick_params(labelsize=12)
            ax.locator_params(nbins=5)
        self.figure_ = figure
        return self

    def _draw_kinds(self, ax, values, order, size):
        kinds = np.unique(values)
        place = np.searchsorted(kinds, values)
        # In turns of a few points each, since a marker is that of a whole collection.
        for part in np.array_split(order, min(20, len(order))):
            for k in range(len(kinds)):
                own = part[place[part] == k]
                ax.scatter(
                    *self.coordinates[own].T,
                    s=size,
                    c=_COLORS[k],
                    marker=_MARKERS[k],
                    lw=0,
                    alpha=0.7,
                    rasterized=True,
                )
        handles = [
            ax.plot([], [], _MARKERS[k], color=_COLORS[k], markersize=8, label=str(kind))[0]
            for k, kind in enumerate(kinds)
        ]
        ax.legend(handles=handles, fontsize=12, framealpha=0.8)

    def _draw_numbers(self, figure, ax, values, order, size):
        known = order[np.isfinite(values[order])]
        missing = order[~np.isfinite(values[order])]
        if len(missing):
            ax.scatter(
                *self.coordinates[missing].T,
                s=size,
                c=_MISSING,
                lw=0,
                rasterized=True,
                label="not defined",
            )
            ax.legend(fontsize=12, framealpha=0.8)
        if not len(known):
            return None
        low, high = np.quantile(values[known], [_TAIL, 1 - _TAIL])
        points = ax.scatter(
            *self.coordinates[known].T,
            s=size,
            c=values[known],
            cmap="cividis",
            vmin=low,
            vmax=high,
            lw=0,
            rasterized=True,
        )
        bar = figure.colorbar(points, ax=ax, extend="both", pad=0.02)
        bar.ax.tick_params(labelsize=12)
        return bar


def _is_kind(values):
    return values.dtype.kind not in "f"


def _check_color(name, values, n):
    """One value per event: floats for numbers, anything else for kinds."""
    values = column_or_1d(np.asarray(values))
    if len(values) != n:
        raise ValueError(
            f"The 'color' parameter of LatentDisplay must hold one value for each of the {n} "
            f"events. Got {len(values)} values of {name!r}."
        )
    n_kinds = len(np.unique(values)) if values.dtype.kind != "f" else 0
    if values.dtype.kind in "iu" and n_kinds > len(_COLORS):
        return values.astype(np.float64)
    if n_kinds > len(_COLORS):
        raise ValueError(
            f"The 'color' parameter of LatentDisplay may hold {len(_COLORS)} kinds at most. Got "
            f'{n_kinds} kinds of {name!r}: name the rest "other".'
        )
    return values


def _umap(Z, rng):
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError(
            "method='umap' of LatentDisplay draws its map with the package umap-learn, which is "
            "not installed. Install it with: pip install umap-learn. method='pca' needs no package."
        ) from error
    return UMAP(n_components=2, random_state=rng.randint(2**31 - 1)).fit_transform(Z)
