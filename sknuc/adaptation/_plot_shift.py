"""Display of how much domains differ, before an adaptation and after it."""

from collections.abc import Mapping
from numbers import Integral

import numpy as np
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.adaptation._shift import domain_shift, split_samples
from sknuc.metrics._plot import COLORS, MARKERS
from sknuc.metrics._plot_samples import _edges, _shares

__all__ = ["DomainShiftDisplay"]

_HATCHES = ("", "///", "...", "xxx")
# What was before stands back behind what comes after.
_ORDER = (COLORS[4], COLORS[0], COLORS[2], COLORS[3])
_CHANCE = "#D0D0D0"
_N_BINS = 40


class DomainShiftDisplay:
    """Distances of features and the area under the curve, over what chance does.

    Create it with :meth:`from_samples` or :meth:`from_estimator`, or from reports.

    Parameters
    ----------
    reports : dict of str to DomainShiftReport
        What to compare, up to four, such as ``{"Before": ..., "After": ...}``, of the same
        features.
    max_features : int, default=12
        How many features to show, those that differ most in the first report.
    marginals : list of dict, default=()
        Distributions to show beneath: ``name``, ``edges`` of the bins, ``target`` and ``source``,
        the latter a list with one for each report, shares of the bins and their standard
        deviations, of shape (2, n_bins).

    Attributes
    ----------
    figure_ : matplotlib Figure
    ks_ax_ : matplotlib Axes
        Distances of the features.
    auc_ax_ : matplotlib Axes
        Areas under the curve.
    marginal_axes_ : list of matplotlib Axes
        One for each of `marginals`.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import DomainReweighter, DomainShiftDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 2))
    >>> sample_domain = np.repeat([1, -1], 1000)
    >>> X[sample_domain < 0] += [0.5, 0.0]
    >>> reweighter = DomainReweighter(random_state=0).fit(X, sample_domain)
    >>> display = DomainShiftDisplay.from_estimator(
    ...     reweighter, X, sample_domain, feature_names=["energy (MeV)", "depth (cm)"]
    ... )
    >>> bool(display.reports["After"].ks[0] < 0.5 * display.reports["Before"].ks[0])
    True
    """

    def __init__(self, reports, *, max_features=12, marginals=()):
        self.reports = reports
        self.max_features = max_features
        self.marginals = marginals

    @classmethod
    def from_estimator(cls, estimator, X, sample_domain, *, sample_weight=None, **params):
        """Compare the domains before and after a fitted adapter.

        Parameters
        ----------
        estimator : fitted estimator
            With ``predict_weight``, as a :class:`DomainReweighter`: the source is weighted. Or a
            translator with ``transform``, from the source to the target.
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events of both domains.
        sample_domain : array-like of int of shape (n_events,)
            0 or more for the source, less for the target.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Weights before.
        **params
            As in :meth:`from_samples`.

        Returns
        -------
        display : DomainShiftDisplay
        """
        (source, _), _ = split_samples(X, sample_domain, sample_weight)
        is_source = np.ravel(sample_domain) >= 0
        if hasattr(estimator, "predict_weight"):
            after = np.ones(len(is_source)) if sample_weight is None else sample_weight
            after = np.array(np.broadcast_to(after, len(is_source)), dtype=np.float64)
            after[is_source] *= estimator.predict_weight(source)
            params = {"weight_after": after, **params}
        elif hasattr(estimator, "transform"):
            after = np.array(X)
            translated = np.asarray(estimator.transform(source))
            after = after.astype(np.result_type(after, translated), copy=False)
            after[is_source] = translated.reshape(after[is_source].shape)
            params = {"X_after": after, **params}
        else:
            raise ValueError(
                "The 'estimator' parameter of DomainShiftDisplay.from_estimator must have "
                f"predict_weight or transform. {type(estimator).__name__} has neither."
            )
        return cls.from_samples(X, sample_domain, sample_weight=sample_weight, **params)

    @classmethod
    @validate_params(
        {
            "labels": [tuple, list],
            "max_features": [Interval(Integral, 1, None, closed="left")],
            "n_marginals": [Interval(Integral, 0, None, closed="left")],
        },
        prefer_skip_nested_validation=False,
    )
    def from_samples(
        cls,
        X,
        sample_domain,
        *,
        sample_weight=None,
        X_after=None,
        weight_after=None,
        labels=("Before", "After"),
        max_features=12,
        n_marginals=0,
        figure=None,
        **params,
    ):
        """Compare the domains, and what became of them.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events of both domains.
        sample_domain : array-like of int of shape (n_events,)
            0 or more for the source, less for the target.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Their weights.
        X_after : array-like of the shape of X, default=None
            The events afterwards; None for the same.
        weight_after : array-like of shape (n_events,), default=None
            Their weights afterwards; None for the same.
        labels : (str, str), default=("Before", "After")
            Names of the two. Without `X_after` and `weight_after` there is one only, "Source and
            target".
        max_features : int, default=12
            How many features to show, those that differ most before.
        n_marginals : int, default=0
            Of how many of them to show the distributions.
        figure : matplotlib Figure, default=None
            None for a new one.
        **params
            Passed on to :func:`domain_shift`, such as `feature_names` and `classifier`.

        Returns
        -------
        display : DomainShiftDisplay
        """
        if len(labels) != 2:
            raise ValueError(
                "The 'labels' parameter of DomainShiftDisplay.from_samples must name what is "
                f"before and after. Got {labels!r} instead."
            )
        versions = [(X, sample_weight)]
        if X_after is not None or weight_after is not None:
            versions.append(
                (
                    X if X_after is None else X_after,
                    sample_weight if weight_after is None else weight_after,
                )
            )
        else:
            labels = ("Source and target",)
        names = params.pop("feature_names", None)
        reports = {}
        for label, (events, weight) in zip(labels, versions, strict=True):
            report = domain_shift(
                events, sample_domain, sample_weight=weight, feature_names=names, **params
            )
            # A data frame has names, and what was made of it may have none.
            names = report.feature_names
            reports[label] = report
        first = next(iter(reports.values()))
        shown = first.order[:n_marginals]
        marginals = [_marginal(versions, sample_domain, i, names[i]) for i in shown]
        display = cls(reports, max_features=max_features, marginals=marginals)
        return display.plot(figure=figure)

    def plot(self, figure=None):
        """Draw distances, areas and distributions.

        Parameters
        ----------
        figure : matplotlib Figure, default=None
            None for a new one.

        Returns
        -------
        display : DomainShiftDisplay
        """
        import matplotlib.pyplot as plt

        reports = self._checked()
        first = next(iter(reports.values()))
        shown = first.order[: self.max_features]
        n_marginals = len(self.marginals)
        n_rows = -(-n_marginals // 3)
        height = max(3.4, 1.5 + 0.22 * (1 + len(reports)) * len(shown))
        if figure is None:
            figure = plt.figure(figsize=(11, height + 3.2 * n_rows), layout="constrained")
        parts = [figure]
        if n_marginals:
            parts = figure.subfigures(2, 1, height_ratios=[height, 3.2 * n_rows])
        self.ks_ax_, self.auc_ax_ = parts[0].subplots(1, 2, width_ratios=[1.6, 1])
        self._draw_distances(self.ks_ax_, list(reports.items()), shown)
        self._draw_areas(self.auc_ax_, list(reports.items()))
        self.marginal_axes_ = []
        if n_marginals:
            axes = parts[1].subplots(n_rows, min(n_marginals, 3), squeeze=False).ravel()
            for k, (ax, marginal) in enumerate(zip(axes, self.marginals, strict=False)):
                self._draw_marginal(ax, marginal, list(reports), first=k == 0)
            for ax in axes[n_marginals:]:
                ax.set_axis_off()
            self.marginal_axes_ = list(axes[:n_marginals])
        self.figure_ = figure
        return self

    def _checked(self):
        reports = self.reports
        if not isinstance(reports, Mapping) or not 1 <= len(reports) <= len(_ORDER):
            raise ValueError(
                "The 'reports' parameter of DomainShiftDisplay must be a dict of one to "
                f"{len(_ORDER)} reports by name. Got {type(reports).__name__}"
                + (f" of {len(reports)}." if isinstance(reports, Mapping) else " instead.")
            )
        if len({report.feature_names for report in reports.values()}) > 1:
            raise ValueError(
                "The 'reports' parameter of DomainShiftDisplay must hold reports of the same "
                "features. Got different names of features."
            )
        return reports

    def _draw_distances(self, ax, reports, shown):
        rows = np.arange(len(shown))
        height = 0.8 / len(reports)
        _, first = reports[0]
        for k, (label, report) in enumerate(reports):
            at = rows - 0.4 + (k + 0.5) * height
            ax.barh(
                at,
                report.ks_limit[shown],
                height=height,
                color=_CHANCE,
                label=f"Chance, {100 * first.confidence_level:g} %" if k == 0 else None,
            )
            ax.barh(
                at,
                report.ks[shown],
                height=0.55 * height,
                color=_ORDER[k],
                edgecolor="white",
                linewidth=0,
                hatch=_HATCHES[k],
                label=label,
            )
        ax.set_yticks(rows, [first.feature_names[i] for i in shown], fontsize=11)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        largest = max(max(r.ks[shown].max(), r.ks_limit[shown].max()) for _, r in reports)
        ax.set_xlim(0, min(1.05 * largest, 1))
        ax.set_xlabel("Kolmogorov-Smirnov distance of source and target", fontsize=12)
        n_features = len(first.ks)
        title = "Features one by one"
        if len(shown) < n_features:
            title = f"{len(shown)} most different of {n_features} features"
        ax.set_title(title, fontsize=13)
        ax.legend(loc="lower right", fontsize=11, framealpha=0.9)

    def _draw_areas(self, ax, reports):
        for k, (_, report) in enumerate(reports):
            auc = report.auc
            low, high = auc.null_interval
            ax.barh(k, high - low, left=low, height=0.6, color=_CHANCE)
            ax.errorbar(
                auc.auc,
                k,
                xerr=auc.error,
                fmt=MARKERS[k],
                color=_ORDER[k],
                markersize=8,
                capsize=4,
                lw=2,
            )
            ax.annotate(
                f"{auc.auc:.3f} ± {auc.error:.3f}",
                (auc.auc, k),
                xytext=(0, 14),
                textcoords="offset points",
                ha="center",
                fontsize=11,
            )
        ax.axvline(0.5, color="#666666", lw=1, ls="--")
        labels = [label for label, _ in reports] if len(reports) > 1 else [""]
        ax.set_yticks(range(len(reports)), labels, fontsize=11)
        ax.set_ylim(len(reports) - 0.3, -0.8)
        areas = [edge for _, r in reports for edge in (r.auc.auc, *r.auc.null_interval)]
        spread = max(areas) - min(areas)
        # Room for the numbers above the points.
        ax.set_xlim(min(areas) - 0.3 * spread, max(areas) + 0.3 * spread)
        ax.set_xlabel("Area under the ROC curve", fontsize=12)
        ax.set_title("All features together", fontsize=13)

    def _draw_marginal(self, ax, marginal, labels, *, first):
        edges = marginal["edges"]
        ax.stairs(marginal["target"][0], edges, fill=True, color="#BBBBBB", label="Target")
        for k, (label, shares) in enumerate(zip(labels, marginal["source"], strict=True)):
            ax.stairs(
                shares[0],
                edges,
                color=_ORDER[k],
                lw=2,
                ls=("-", "--", ":", "-.")[k],
                label=f"Source, {label.lower()}" if len(labels) > 1 else "Source",
            )
        ax.set_xlabel(marginal["name"], fontsize=12)
        if first:
            ax.set_ylabel("Share of events / bin", fontsize=12)
            ax.legend(frameon=False, fontsize=10)
        ax.set_ylim(0, 1.35 * ax.dataLim.y1)


def _marginal(versions, sample_domain, column, name):
    """Distributions of a feature in the target and in all versions of the source."""
    samples = []
    for X, weight in versions:
        table = np.asarray(X, dtype=np.float64)
        column_of = table.reshape(len(table), -1)[:, column]
        samples.append(split_samples(column_of, sample_domain, weight))
    ones = [
        (x, np.ones(len(x)) if weight is None else weight)
        for sample in samples
        for x, weight in sample
    ]
    used = [(x[w > 0], w[w > 0]) for x, w in ones]
    source, target = used[::2], used[1]
    everywhere = [np.concatenate(part) for part in zip(*source, strict=True)]
    edges = _edges(everywhere[0], target[0], everywhere[1], target[1], _N_BINS)
    return {
        "name": name,
        "edges": edges,
        "target": _shares(*target, edges),
        "source": [_shares(*sample, edges) for sample in source],
    }
