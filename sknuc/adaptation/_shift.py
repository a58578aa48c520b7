r"""Whether the domains differ, in which features, and by how much.

A classifier that tells source from target on events that it has not seen finds any difference, also
one in how features depend on each other (:func:`sknuc.metrics.two_sample_auc`). Where it is, the
features say one by one: the distance of Kolmogorov and Smirnov is the largest difference of the
cumulative distributions,

.. math:: D = \max_x |F_s(x) - F_t(x)|,

and :math:`D \sqrt{nm / (n + m)}` has the law of Kolmogorov if they are of one distribution. With
weights, :math:`F = \sum_{x_i \leq x} w_i / \sum w_i` has the variance

.. math:: V(x) = \frac{(1 - F)^2 \sum_{x_i \leq x} w_i^2 + F^2 \sum_{x_i > x} w_i^2}
   {(\sum w_i)^2},

which is :math:`F(1 - F) / n` without: the largest of them is that of
:math:`n_\mathrm{eff} = 1 / (4 \max V)` events, which the law takes for n. Kish's number does not
know where the heavy events are: the weights of a reweighting grow with the feature. Of d features,
the smallest p-value is d times as probable, the next (d - 1) times: Holm's correction.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import kstwo
from sklearn.utils import check_array
from sklearn.utils._param_validation import HasMethods, validate_params

from sknuc.adaptation._domains import split_domains
from sknuc.base import validate_weights
from sknuc.metrics import TwoSampleAUC, two_sample_auc, wasserstein_distance
from sknuc.metrics._intervals import CONFIDENCE
from sknuc.metrics._sample_validation import column_names
from sknuc.metrics._score_validation import kish_number

__all__ = ["DomainShiftReport", "domain_shift", "split_samples"]

# Numbers that are sorted at a time.
_BLOCK = 2**22
_MOST_ROWS = 20


@dataclass(frozen=True, eq=False)
class DomainShiftReport:
    """How much two domains differ; ``print`` shows it as a table.

    Attributes
    ----------
    auc : TwoSampleAUC
        How well a classifier tells the domains apart, with `error`, `null_interval` and `p_value`.
    feature_names : tuple of str
        Names of the features.
    ks : ndarray of shape (n_features,)
        Distances of Kolmogorov and Smirnov, in [0, 1].
    ks_limit : ndarray of shape (n_features,)
        What chance exceeds in any of the features with the probability 1 - `confidence_level`.
    p_value : ndarray of shape (n_features,)
        Of the distances, corrected for the number of features.
    wasserstein : ndarray of shape (n_features,)
        Wasserstein-1 distances in standard deviations of the source.
    n_source, n_target : int
        Events with a weight.
    n_effective_source, n_effective_target : float
        Kish's numbers of events.
    confidence_level : float
        Of `ks_limit` and of the interval of the AUC.
    """

    auc: TwoSampleAUC
    feature_names: tuple[str, ...]
    ks: np.ndarray
    ks_limit: np.ndarray
    p_value: np.ndarray
    wasserstein: np.ndarray
    n_source: int
    n_target: int
    n_effective_source: float
    n_effective_target: float
    confidence_level: float

    @property
    def order(self):
        """Numbers of the features, the most shifted first."""
        return np.lexsort((-self.wasserstein, -self.ks))

    @property
    def shifted(self):
        """Which features differ by more than chance allows for."""
        return self.p_value < 1 - self.confidence_level

    def __str__(self):
        level = f"{100 * self.confidence_level:g} %"
        low, high = self.auc.null_interval
        n_features = len(self.ks)
        lines = [
            f"{self.shifted.sum()} of {n_features} features differ between the domains, at "
            f"{level} for all together",
            *(
                f"{name:7}{n_events} events"
                + (f", worth {n_effective:.0f}" if round(n_effective) < n_events else "")
                for name, n_events, n_effective in (
                    ("source", self.n_source, self.n_effective_source),
                    ("target", self.n_target, self.n_effective_target),
                )
            ),
            f"AUC    {self.auc.auc:.3f} ± {self.auc.error:.3f}, by chance {low:.3f} to "
            f"{high:.3f}, p = {self.auc.p_value:.2g}",
            "",
        ]
        shown = self.order[:_MOST_ROWS]
        width = max(7, *(len(self.feature_names[i]) for i in shown))
        lines.append(f"{'feature':{width}}     KS  chance        p  W1 (std)")
        lines += [
            f"{self.feature_names[i]:{width}}  {self.ks[i]:.3f}  <{self.ks_limit[i]:.3f}  "
            f"{self.p_value[i]:7.2g}  {self.wasserstein[i]:8.3f}"
            for i in shown
        ]
        if n_features > len(shown):
            lines.append(f"and {n_features - len(shown)} features that differ less")
        return "\n".join(lines)


def split_samples(X, sample_domain, sample_weight):
    """Return the events and weights of the source, then those of the target."""
    table = X if hasattr(X, "shape") else np.asarray(X)
    weight = validate_weights(sample_weight, np.empty((len(table), 1)))
    if sample_domain is None:
        raise ValueError("sample_domain must tell the domain of every event. Got None instead.")
    target = split_domains(sample_domain, table, least_source=2, sample_weight=weight)
    parts = []
    for rows in (~target, target):
        part = table.iloc[rows] if hasattr(table, "iloc") else table[rows]
        parts.append((part, None if weight is None else weight[rows]))
    return parts


@validate_params(
    {
        "X": ["array-like"],
        "sample_domain": ["array-like"],
        "sample_weight": ["array-like", None],
        "feature_names": ["array-like", None],
        "classifier": [HasMethods(["fit", "predict"]), None],
        "cv": ["cv_object"],
        "confidence_level": CONFIDENCE["confidence_level"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def domain_shift(
    X,
    sample_domain,
    *,
    sample_weight=None,
    feature_names=None,
    classifier=None,
    cv=5,
    confidence_level=0.95,
    random_state=0,
):
    """Tell whether source and target differ, in which features, and by how much.

    Parameters
    ----------
    X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
        The events of both domains.
    sample_domain : array-like of int of shape (n_events,)
        0 or more for the source, less for the target.
    sample_weight : array-like of shape (n_events,) or None, default=None
        Non-negative weights, as of a :class:`DomainReweighter` for the source; only their ratios
        within a domain matter.
    feature_names : list of str, default=None
        Names of the features, with units, such as "energy (MeV)"; None for those of a data frame,
        or numbers.
    classifier : classifier or None, default=None
        What tries to tell the domains apart, see :func:`sknuc.metrics.two_sample_auc`.
    cv : int or cross-validation generator, default=5
        Its folds.
    confidence_level : float, default=0.95
        Of what chance does.
    random_state : int, RandomState instance or None, default=0
        Seed of the folds and of the default classifier.

    Returns
    -------
    report : DomainShiftReport

    Raises
    ------
    ValueError
        If a value is not finite, `sample_domain` is not an integer per event, a domain has less
        than two events (or than folds), or a weight is negative.

    See Also
    --------
    DomainShiftDisplay : Draws one report, or several side by side.

    Notes
    -----
    Weights that were learnt on these events make the domains more alike than chance would: judge
    them on others. A feature of few values, such as a count, has p-values that are too large.

    References
    ----------
    .. [1] W. T. Eadie et al., "Statistical Methods in Experimental Physics", North-Holland (1971),
       chapter 11.
    .. [2] S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6
       (1979) 65.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import domain_shift
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 3))
    >>> sample_domain = np.repeat([1, -1], 1000)
    >>> X[sample_domain < 0, 1] += 0.5
    >>> report = domain_shift(X, sample_domain, feature_names=["energy", "depth", "time"])
    >>> report.feature_names[report.order[0]]
    'depth'
    >>> bool(abs(report.wasserstein[1] - 0.5) < 0.1)
    True
    """
    shape = np.shape(X)
    if len(shape) < 2 or 0 in shape[1:]:
        raise ValueError(
            "X must have the shape (n_events, n_features) or (n_events, *event_shape), with a "
            f"feature or more. Got {shape} instead"
            + ("; X.reshape(-1, 1) is a table of one feature." if len(shape) == 1 else ".")
        )
    (source, w_source), (target, w_target) = split_samples(X, sample_domain, sample_weight)
    if feature_names is None:
        feature_names = column_names(source)
    auc = two_sample_auc(
        source,
        target,
        classifier=classifier,
        cv=cv,
        weight_true=w_source,
        weight_generated=w_target,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    distance = wasserstein_distance(
        source, target, standardize=True, weight_true=w_source, weight_generated=w_target
    )
    n_features = len(distance)
    if feature_names is None:
        feature_names = [f"feature {i}" for i in range(n_features)]
    if len(feature_names) != n_features:
        raise ValueError(
            f"The 'feature_names' parameter of domain_shift must name {n_features} features. Got "
            f"{len(feature_names)} names instead."
        )
    source, w_source = _table(source, w_source)
    target, w_target = _table(target, w_target)
    ks, n_effective = _kolmogorov_smirnov(source, w_source, target, w_target)
    n_effective = np.maximum(np.round(n_effective), 1)
    return DomainShiftReport(
        auc=auc,
        feature_names=tuple(str(name) for name in feature_names),
        ks=ks,
        ks_limit=kstwo.isf((1 - confidence_level) / n_features, n_effective),
        p_value=_holm(kstwo.sf(ks, n_effective)),
        wasserstein=distance,
        n_source=len(source),
        n_target=len(target),
        n_effective_source=kish_number(w_source),
        n_effective_target=kish_number(w_target),
        confidence_level=float(confidence_level),
    )


def _table(X, weight):
    """Events of a weight as a table of floats, and their shares."""
    X = check_array(X, dtype=np.float64, allow_nd=True)
    X = X.reshape(len(X), -1)
    weight = np.ones(len(X)) if weight is None else weight
    used = weight > 0
    return X[used], weight[used] / weight[used].sum()


def _kolmogorov_smirnov(source, w_source, target, w_target):
    """Distance of every feature, and the number n m / (n + m) of its law."""
    both = np.concatenate([source, target])
    weights = np.zeros((2, len(both)))
    weights[0, : len(source)], weights[1, len(source) :] = w_source, w_target
    step = max(1, _BLOCK // len(both))
    parts = [_of_columns(both[:, i : i + step], weights) for i in range(0, both.shape[1], step)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _of_columns(X, weights):
    order = np.argsort(X, axis=0, kind="stable")
    ordered = np.take_along_axis(X, order, axis=0)
    # Distributions are compared where a value ends, not between equal ones; at the last one both
    # are one.
    ends = ordered[1:] != ordered[:-1]
    cumulative = [np.cumsum(weight[order], axis=0) for weight in weights]
    distance = np.abs(cumulative[0] - cumulative[1])[:-1].max(axis=0, where=ends, initial=0)
    variance = np.zeros(X.shape[1])
    for weight, share in zip(weights, cumulative, strict=True):
        squares = np.cumsum(weight[order] ** 2, axis=0)
        spread = (1 - share) ** 2 * squares + share**2 * (squares[-1] - squares)
        largest = spread[:-1].max(axis=0, where=ends, initial=0)
        # What has one value only has no variance: as many events as the weights are worth.
        variance += np.where(largest > 0, largest, (weight**2).sum() / 4)
    return distance, 1 / (4 * variance)


def _holm(p_value):
    """P-values corrected for their number."""
    n = len(p_value)
    order = np.argsort(p_value)
    corrected = np.maximum.accumulate(p_value[order] * np.arange(n, 0, -1))
    result = np.empty(n)
    result[order] = np.minimum(corrected, 1)
    return result
