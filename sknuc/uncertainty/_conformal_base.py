r"""What conformal regressors and classifiers share: splits, fits, and the weights of scores.

Scores of n calibration events that the model has not seen, and the score of a new event, are in
random order if the events are exchangeable: the new one has each rank with probability 1/(n+1).
All variants are other weights of ranks. Event i has the weight :math:`w_i`, a new one at x has
:math:`w(x)`, and the new score is at most the smallest at which
:math:`\sum w_i \geq c\,(W + w(x))` with probability c:

- split and cross: :math:`w_i = 1`, or the sample weights, as events that are there so often;
- covariate shift: times the ratio of densities :math:`w(x)=p_\mathrm{data}(x)/p_\mathrm{sim}(x)`;
- groups: :math:`w_i = 1/n_{g(i)}` and :math:`w(x)=1`, so that K groups and a new one share the
  ranks alike, whatever the number of their events;
- Mondrian: events of the same category only.
"""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    check_cv,
)
from sklearn.model_selection._split import _CVIterableWrapper
from sklearn.pipeline import make_pipeline
from sklearn.utils import _safe_indexing, check_random_state, get_tags, indexable
from sklearn.utils._missing import is_pandas_na
from sklearn.utils._param_validation import HasMethods, Interval, RealNotInt, StrOptions
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    _routing_enabled,
    process_routing,
)
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    _check_feature_names,
    _check_method_params,
    _check_n_features,
    check_consistent_length,
    column_or_1d,
    has_fit_parameter,
)

from sknuc.base import validate_events, validate_weights
from sknuc.uncertainty._conformal_predictive import Calibration
from sknuc.uncertainty._weight_requests import without_weights

__all__ = ["BaseConformal", "check_weights", "weighted_pipeline"]


class BaseConformal(MetaEstimatorMixin, BaseEstimator):
    """Fit an estimator without some events, and calibrate it with them."""

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit"]), None],
        "cv": ["cv_object", StrOptions({"split"})],
        "calibration_fraction": [Interval(RealNotInt, 0, 1, closed="neither")],
        "mondrian": [callable, str, Interval(Integral, 0, None, closed="left"), None],
        "density_ratio": [callable, HasMethods("predict_proba"), None],
        "random_state": ["random_state"],
        "n_jobs": [None, Integral],
    }

    def _get_estimator(self):
        return self._default_estimator() if self.estimator is None else self.estimator

    def _validate_events(self, X, *, reset):
        """Return the events as the estimator gets them, in what can be indexed by slices.

        A table is given the shape that the events had in ``fit``. What the estimator accepts, such
        as data frames, missing values and ragged events, is its own to say.
        """
        if self.estimator is None:
            return validate_events(self, X, reset=reset)
        if not hasattr(X, "shape"):
            X = _as_array(X)
        (X,) = indexable(X)
        _check_feature_names(self, X, reset=reset)
        shape = tuple(X.shape[1:])
        if reset:
            if shape:
                self.input_shape_ = shape
                self.n_features_in_ = int(np.prod(shape))
            return X
        if hasattr(self, "input_shape_") and shape != self.input_shape_:
            if len(shape) > 1:
                raise ValueError(
                    f"X has events of shape {shape}, but {type(self).__name__} was fitted on "
                    f"events of shape {self.input_shape_}."
                )
            _check_n_features(self, X, reset=False)
            X = np.asarray(X).reshape(len(X), *self.input_shape_)
        return X

    def _fit_folds(self, X, y, sample_weight, groups, fit_params, respond):
        """Fit the estimator without each fold, and ask it about the fold.

        Sets `estimators_`, `calibration_indices_` and `calibration_weights_`.

        Parameters
        ----------
        X : validated events
        y : ndarray
            As the estimator gets it.
        sample_weight : ndarray of shape (n,) or None
        groups : array-like of shape (n,) or None
        fit_params : dict
        respond : callable
            ``respond(estimator, X, X_train, y_train, weights_train) -> tuple``.

        Returns
        -------
        responses : list of tuple, one per model
        folds : ndarray of shape (m,)
            The index of the model of each calibration event.
        """
        n = len(y)
        rng = check_random_state(self.random_state)
        estimator = self._get_estimator()
        frozen = isinstance(estimator, FrozenEstimator)
        if get_tags(estimator).input_tags.pairwise:
            raise ValueError(
                "The 'estimator' parameter reads a matrix of distances or kernels between events, "
                "whose columns would have to follow the folds. Give one that reads events, such "
                "as a Pipeline that begins with the kernel."
            )
        present = np.arange(n) if sample_weight is None else np.flatnonzero(sample_weight)
        if groups is not None:
            groups = column_or_1d(groups)
            check_consistent_length(y, groups)
            n_missing = _count_missing(groups[present])
            if n_missing:
                raise ValueError(
                    "'groups' must tell the group of every event. Got missing values for "
                    f"{n_missing} of {len(present)} events: leave them out, or give them groups."
                )
            if self.density_ratio is not None:
                raise ValueError(
                    "'groups' and the 'density_ratio' parameter exclude each other: a new group "
                    "comes with densities of its own. Leave out one of them."
                )
        params, split_params = self._route(estimator, sample_weight, groups, fit_params, frozen)
        if frozen:
            splits = [(present[:0], present)]
        else:
            splits = self._split(X, y, groups, split_params, present, rng)
        indices = np.concatenate([test for _, test in splits])
        if np.bincount(indices).max() > 1:
            raise ValueError(
                "The 'cv' parameter must calibrate with every event at most once, so that each "
                "has one score. Got overlapping test sets instead; use KFold, or ShuffleSplit "
                "with n_splits=1."
            )
        if groups is not None:
            _check_groups(groups, splits)
        if self._stratified and not frozen:
            _check_classes(y, splits, groups)
        members = [clone(estimator) for _ in splits]
        if self.random_state is not None:
            for member in members:
                _seed(member, rng)
        tasks = (
            (member, X, y, train, test, params, sample_weight, respond)
            for member, (train, test) in zip(members, splits, strict=True)
        )
        if len(members) == 1:
            results = [_fit_fold(*task) for task in tasks]
        else:
            results = Parallel(n_jobs=self.n_jobs)(delayed(_fit_fold)(*task) for task in tasks)
        self.estimators_ = [member for member, _ in results]
        self.calibration_indices_ = indices
        self._set_categories(X, sample_weight, groups)
        folds = np.repeat(np.arange(len(splits)), [len(test) for _, test in splits])
        return [response for _, response in results], folds

    def _route(self, estimator, sample_weight, groups, fit_params, frozen):
        """Return what the estimator's ``fit`` and the splitter get."""
        given = {"sample_weight": sample_weight, "groups": groups}
        given = {name: value for name, value in given.items() if value is not None}
        if _routing_enabled():
            # The default estimator gets all weights that this object gets.
            own = {}
            if self.estimator is None and sample_weight is not None:
                own = {"sample_weight": given.pop("sample_weight")}
            routed = process_routing(self, "fit", **given, **fit_params)
            if sample_weight is not None and not own and not frozen and without_weights(estimator):
                raise _takes_no_weights(estimator)
            to_estimator = own if self.estimator is None else routed.estimator.fit
            return to_estimator, routed.splitter.split
        params = dict(fit_params)
        if sample_weight is not None and self.estimator is None:
            params |= {f"{step}__sample_weight": sample_weight for step, _ in estimator.steps}
        elif sample_weight is not None and not frozen:
            if not has_fit_parameter(estimator, "sample_weight"):
                raise _takes_no_weights(estimator)
            params["sample_weight"] = sample_weight
        return params, {} if groups is None else {"groups": groups}

    def _split(self, X, y, groups, split_params, present, rng):
        cv, stratified = self.cv, self._stratified
        n_splits = 5 if cv is None else cv
        if isinstance(n_splits, Integral | str):
            n_folds = 2 if isinstance(cv, str) else int(n_splits)
            _check_number(n_folds, y[present], None if groups is None else groups[present])
        # Shuffled: events come sorted by run or by position, and folds shall be exchangeable.
        if isinstance(cv, str):
            kind = ShuffleSplit if groups is None else GroupShuffleSplit
            kind = StratifiedShuffleSplit if stratified and groups is None else kind
            cv = kind(1, test_size=self.calibration_fraction, random_state=rng)
            split_params = {} if groups is None else {"groups": groups}
        elif isinstance(n_splits, Integral):
            kind = StratifiedKFold if stratified else KFold
            kind = kind if groups is None else GroupKFold
            cv = kind(int(n_splits), shuffle=True, random_state=rng)
            split_params = {} if groups is None else {"groups": groups}
        cv = check_cv(cv)
        # An event without weight is absent, unless somebody counted it in indices.
        fixed = isinstance(cv, _CVIterableWrapper)
        kept = np.zeros(len(y), dtype=bool)
        kept[present] = True
        rows = np.arange(len(y)) if fixed else present
        if not fixed and len(present) < len(y):
            X, y = _safe_indexing(X, present), y[present]
            split_params = {
                name: _safe_indexing(value, present) for name, value in split_params.items()
            }
        splits = [
            [rows[side][kept[rows[side]]] for side in sides]
            for sides in cv.split(X, y, **split_params)
        ]
        return [(train, test) for train, test in splits if len(test)]

    def _set_categories(self, X, sample_weight, groups):
        """Find the categories and the weights of the calibration events."""
        indices = self.calibration_indices_
        self._weights = np.ones(len(indices)) if sample_weight is None else sample_weight[indices]
        self._groups = None if groups is None else groups[indices]
        self._ratios, self._codes = np.ones(len(indices)), np.zeros(len(indices), dtype=np.intp)
        if self.density_ratio is not None:
            self._ratios = self._density_ratio(_safe_indexing(X, indices))
        if self.mondrian is not None:
            categories = self._category(_safe_indexing(X, indices))
            self.categories_, self._codes = np.unique(categories, return_inverse=True)
        self.calibration_weights_ = np.empty(len(indices))

    def _calibration(self, chosen, folds, where):
        """Return the weights of the chosen calibration events, as one category."""
        weights = self._unit_weights(chosen)
        unit = "events" if self._groups is None else "groups"
        n_units = weights.sum() if self._groups is None else len(np.unique(self._groups[chosen]))
        weighted = self._groups is None and not np.all(weights == 1)
        weights = weights * self._ratios[chosen]
        if not weights.sum() > 0:
            raise ValueError(
                f"The 'density_ratio' parameter gives all calibration events{where} the ratio 0: "
                "no new event is expected where they are."
            )
        self.calibration_weights_[chosen] = weights
        return Calibration(weights, folds[chosen], n_units, unit, where, weighted)

    def _unit_weights(self, chosen):
        """Weights of calibration events, where a unit that is exchangeable has 1."""
        weights = self._weights[chosen]
        if self._groups is None:
            return weights
        groups = np.unique(self._groups[chosen], return_inverse=True)[1]
        return weights / np.bincount(groups, weights)[groups]

    def _category(self, X):
        if callable(self.mondrian):
            categories = np.asarray(self.mondrian(X))
        else:
            key = self.mondrian
            if isinstance(key, bool):
                raise ValueError(
                    "The 'mondrian' parameter must be the name or the index of a column, a "
                    f"function, or None. Got {key} instead."
                )
            if X.ndim < 2:
                raise ValueError(
                    f"The 'mondrian' parameter is the column {key!r}, but X is a list of events, "
                    "and no table. Give a function from events to categories."
                )
            names = list(getattr(X, "columns", getattr(self, "feature_names_in_", ())))
            known = names if isinstance(key, str) else range(X.shape[1])
            if key not in known:
                raise ValueError(
                    f"The 'mondrian' parameter is the column {key!r}, but the events have "
                    + (f"the columns {list(known)}." if len(known) else "no names of columns.")
                )
            if isinstance(key, str) and not hasattr(X, "columns"):
                key = names.index(key)
            categories = np.asarray(_safe_indexing(X, key, axis=1))
        if categories.shape != (X.shape[0],):
            raise ValueError(
                "The 'mondrian' parameter must give one category per event, of shape "
                f"({X.shape[0]},). Got shape {categories.shape} instead."
            )
        n_missing = _count_missing(categories)
        if n_missing:
            raise ValueError(
                "The 'mondrian' parameter must give a category to every event. Got missing values "
                f"for {n_missing} of {len(categories)} events: leave them out, or make them a "
                "category of their own."
            )
        return categories

    def _encode(self, X):
        """Return the index of the category of every event."""
        if self.mondrian is None:
            return np.zeros(X.shape[0], dtype=np.intp)
        categories = self._category(X)
        codes = np.searchsorted(self.categories_, categories)
        codes = np.minimum(codes, len(self.categories_) - 1)
        unknown = np.unique(categories[self.categories_[codes] != categories])
        if len(unknown):
            raise ValueError(
                f"X has events of the categories {unknown.tolist()}, of which there was none to "
                f"calibrate with. Known are {self.categories_.tolist()}."
            )
        return codes

    def _density_ratio(self, X):
        """Return w(x) of every event; one of all events where there is no shift."""
        if self.density_ratio is None:
            return np.ones(1)
        if hasattr(self.density_ratio, "predict_proba"):
            simulation, data = self.density_ratio.predict_proba(X).T
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = data / simulation
        else:
            ratio = np.asarray(self.density_ratio(X), dtype=np.float64)
        if ratio.shape != (X.shape[0],) or not np.all(np.isfinite(ratio) & (ratio >= 0)):
            raise ValueError(
                "The 'density_ratio' parameter must give one finite ratio of at least 0 per event."
                f" Got shape {ratio.shape} for {X.shape[0]} events, from {np.min(ratio)} to "
                f"{np.max(ratio)}."
            )
        return ratio

    def get_metadata_routing(self):
        """Say who gets the metadata of ``fit``: this object, the estimator and the splitter.

        Returns
        -------
        routing : MetadataRouter
        """
        mapping = MethodMapping
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(splitter=self.cv, method_mapping=mapping().add(caller="fit", callee="split"))
        # What the user has not given has no request beside that of this object.
        if self.estimator is not None:
            fit = mapping().add(caller="fit", callee="fit")
            router.add(estimator=self.estimator, method_mapping=fit)
        return router

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        # The default estimators read numbers in 2-D; another one has its own say.
        if self.estimator is not None:
            inner = get_tags(self.estimator)
            tags.input_tags = inner.input_tags
            tags.target_tags.multi_output = inner.target_tags.multi_output
        return tags


def check_weights(sample_weight, X):
    """Validate weights of events that may be no array of numbers."""
    return validate_weights(sample_weight, np.empty((X.shape[0], 1)))


def _fit_fold(estimator, X, y, train, test, params, sample_weight, respond):
    X_train, y_train, X_test = _safe_indexing(X, train), y[train], _safe_indexing(X, test)
    # A frozen estimator has nothing to fit.
    if len(train):
        estimator.fit(X_train, y_train, **_check_method_params(X, params, indices=train))
    weights = None if sample_weight is None else sample_weight[train]
    return estimator, respond(estimator, X_test, X_train, y_train, weights)


def weighted_pipeline(*steps):
    """A pipeline whose steps all get the weights of events."""
    if _routing_enabled():
        steps = [step.set_fit_request(sample_weight=True) for step in steps]
    return make_pipeline(*steps)


def _takes_no_weights(estimator):
    return ValueError(
        f"sample_weight was given, but {type(estimator).__name__}.fit takes none. Leave it out or, "
        "for a Pipeline, request it in the step with set_fit_request and "
        "sklearn.set_config(enable_metadata_routing=True)."
    )


def _check_number(n_folds, y, groups):
    n, what = len(y), "events"
    if groups is not None:
        n, what = len(np.unique(groups)), "groups"
    if n < n_folds:
        raise ValueError(
            f"The 'cv' parameter asks for {n_folds} parts, but there are {n} {what} with positive "
            f"weight (n_samples={len(y)}). Give more of them, or a smaller cv."
        )


def _check_classes(y, splits, groups):
    used = np.unique(np.concatenate([side for split in splits for side in split]))
    classes, counts = np.unique(y[used], return_counts=True)
    for train, _ in splits:
        known = np.isin(classes, y[train])
        if known.sum() > 1:
            continue
        rarest = np.flatnonzero(~known)[counts[~known].argmin()]
        n = int(counts[rarest])
        found = f"{n} event{'s' * (n != 1)}"
        advice = "Give more of them"
        if groups is not None:
            inside = np.unique(groups[used][y[used] == classes[rarest]]).tolist()
            found += f" in {len(inside)} group{'s' * (len(inside) != 1)}, {inside[:5]}"
            advice = "Give events of it in more groups"
        elif n > 1:
            found += ", all in that part"
            advice = "Let parts be stratified, as those of an int are"
        raise ValueError(
            "Without one of the parts of the 'cv' parameter, there is only one class to learn "
            f"from, {classes[known].tolist()}: class {classes.tolist()[rarest]!r} has {found}. "
            f"{advice}, or fit the classifier on other events and calibrate it as a "
            "FrozenEstimator."
        )


def _count_missing(labels):
    """How many labels are NaN, NaT, None or what data frames have for a missing value."""
    if labels.dtype != object:
        return int(np.sum(labels != labels))
    # What is missing in a data frame is neither equal to itself nor different.
    return sum(label is None or is_pandas_na(label) or label != label for label in labels)


def _check_groups(groups, splits):
    for train, test in splits:
        both = np.intersect1d(groups[train], groups[test])
        if len(both):
            raise ValueError(
                f"The 'cv' parameter puts events of the groups {both[:5].tolist()} on both sides "
                "of a split, but new events come from new groups. Use LeaveOneGroupOut, "
                "GroupKFold, an int or 'split'."
            )
    tests = [np.unique(groups[test]) for _, test in splits]
    if len(np.unique(np.concatenate(tests))) < sum(map(len, tests)):
        raise ValueError(
            "The 'cv' parameter must calibrate with all events of a group by the same model. Use "
            "LeaveOneGroupOut, GroupKFold, an int or 'split'."
        )


def _seed(estimator, rng):
    """Seed what the user has left without a seed."""
    seeds = {
        name: rng.randint(np.iinfo(np.int32).max)
        for name, value in sorted(estimator.get_params().items())
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    }
    if seeds:
        estimator.set_params(**seeds)


def _as_array(X):
    """A list of events as an array; of objects where their lengths differ."""
    try:
        return np.asarray(X)
    except ValueError:
        ragged = np.empty(len(X), dtype=object)
        ragged[:] = X
        return ragged
