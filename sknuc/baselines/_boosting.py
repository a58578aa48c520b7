"""What classifier and regressor share: signed weights, margin and Shapley values.

The objective is derived in :mod:`sknuc.baselines._bdt`.
"""

import numpy as np
import xgboost as xgb
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_monotonic_cst, check_is_fitted

from sknuc.baselines._losses import loss_metric, signed_objective
from sknuc.multiplicity import count_pieces, hold_out, merge_identical, training_events
from sknuc.tree_estimator import TreeEstimator

__all__ = ["BaseBDT", "total_weight"]

# Shapley values of one block of events take at most this much memory.
BLOCK_BYTES = 2**26


def total_weight(X, weight):
    """Return the sum of the weights of events; None weighs each as one."""
    return len(X) if weight is None else weight.sum()


class BaseBDT(TreeEstimator):
    """Training, margin and Shapley values of boosted trees."""

    _parameter_constraints: dict = {
        **TreeEstimator._parameter_constraints,
        "monotonic_cst": ["array-like", dict, None],
        "negative_weights": [StrOptions({"error", "signed"})],
    }

    def __init__(self, *, monotonic_cst=None, negative_weights="error", **shared):
        super().__init__(**shared)
        self.monotonic_cst = monotonic_cst
        self.negative_weights = negative_weights

    def _training_events(self, X, y, sample_weight, targets):
        with np.errstate(over="ignore", invalid="ignore"):
            X, y, weight = training_events(
                self, X, y, sample_weight, targets=targets, allow_negative=True, **self._reading
            )
        if weight is not None and self.negative_weights == "error" and (weight < 0).any():
            raise ValueError(
                f"sample_weight has {np.count_nonzero(weight < 0)} negative values of "
                f"{len(weight)}. Set negative_weights='signed' to train on the signed sums, as "
                "next-to-leading-order generators mean them, or leave these events out."
            )
        return X, y, weight

    def _merge(self, X, y, weight):
        """Return the merged rows, and their pieces where events are held out or drawn."""
        rows = merge_identical(X, y, weight)
        drawn = self.early_stopping or self.subsample < 1
        return *rows, count_pieces(rows[0], rows[2], weight, rows[1]) if drawn else None

    def _grow(
        self,
        X,
        y,
        weight,
        pieces,
        loss,
        *,
        n_events,
        hessian,
        base_score=0.0,
        stratified=False,
        **params,
    ):
        """Train the booster on the merged rows of `n_events`; `y` is on the scale of the margin.

        Before the first tree, `hessian` is the sum of w h.
        """
        random_state = check_random_state(self.random_state)
        signed = weight is not None and bool((weight < 0).any())
        if signed and loss.derivatives is None:
            raise ValueError(
                f"loss={self.loss!r} has no meaning for negative weights; use 'squared_error' or "
                "'huber', or leave these events out."
            )
        own_metric = signed or loss.metric is None
        monotonic_cst = _check_monotonic_cst(self, self.monotonic_cst)
        params = {
            "objective": loss.objective,
            "base_score": base_score,
            "disable_default_eval_metric": own_metric,
            **self._xgboost_params(random_state),
            **params,
        }
        if not own_metric:
            params["eval_metric"] = loss.metric
        if monotonic_cst.any():
            params["monotone_constraints"] = tuple(int(c) for c in monotonic_cst)

        train, validation = (X, y, weight), None
        if self.early_stopping:
            strata = y if stratified else np.zeros(len(X), dtype=np.intp)
            held_out = hold_out(pieces, strata, self.validation_fraction, random_state)
            train = self._part(X, y, weight, pieces, pieces - held_out, copies=self.subsample < 1)
            validation = self._part(X, y, weight, pieces, held_out)
            self._check_parts(train, validation, stratified, n_events)
        elif pieces is not None:
            train = self._part(X, y, weight, pieces, pieces, copies=True)
        kept = total_weight(train[0], train[2]) / total_weight(X, weight)
        self._warn_light_weights(hessian * kept, n_events)

        metric = None
        if own_metric and validation is not None:
            metric = loss_metric(loss, *validation[1:], np.asarray if signed else loss.link)
        objective = None
        if signed:
            # The signs are in the derivatives; xgboost itself takes no negative weights.
            objective = signed_objective(loss, *train[1:])
            train, validation = (
                (*part[:2], None) if part else None for part in (train, validation)
            )
        with self._threads(X):
            booster, self.validation_loss_ = self._boost(
                params, train, validation, objective=objective, metric=metric
            )
        self.booster_ = booster
        self.n_iter_ = booster.num_boosted_rounds()
        gain = np.zeros(X.shape[1])
        for name, value in booster.get_score(importance_type="total_gain").items():
            gain[int(name[1:])] = np.sum(value)
        self.feature_importances_ = gain / gain.sum() if gain.sum() > 0 else gain
        self.expected_value_ = self._contributions(X[:1], interactions=False)[1]

    def _part(self, X, y, weight, pieces, count, *, copies=False):
        """Return `count` of the `pieces` of every row, each as a row of its own where `copies`."""
        rows = np.flatnonzero(count)
        share = count[rows]
        if copies:
            rows, share = np.repeat(rows, share), 1
        if weight is not None:
            weight = weight[rows] * share / pieces[rows]
        return X[rows], y[rows], weight

    def _check_parts(self, train, validation, stratified, n_events):
        """Check that every class, or all events, has a positive net weight in both parts."""
        groups = self.classes_.tolist() if stratified else [None]
        for _, y, weight in (train, validation):
            codes = y if stratified else np.zeros(len(y), dtype=np.intp)
            net = np.bincount(codes, weights=weight, minlength=len(groups))
            if (net <= 0).any():
                name = f" of class {groups[net.argmin()]!r}" if stratified else ""
                part = "holds out" if y is validation[1] else "trains on"
                raise ValueError(
                    f"With the 'validation_fraction' parameter at {self.validation_fraction}, "
                    f"early_stopping {part} events{name} with a total weight of {net.min():g}, "
                    f"which must be positive. Got n_samples={n_events:.10g}. Give more events, "
                    "another validation_fraction, or early_stopping=False."
                )

    def _events(self, X):
        check_is_fitted(self)
        return self._validate_events(X, reset=False)

    def _margin(self, X):
        """Return the margin of validated events with shape (n,) or (n, n_outputs), float64."""
        with self._threads(X):
            margin = self.booster_.inplace_predict(
                X, predict_type="margin", validate_features=False
            )
        margin = margin.astype(np.float64).reshape(len(X), -1)
        return margin[:, 0] if margin.shape[1] == 1 else margin

    def _contributions(self, X, *, interactions):
        """Return Shapley values (n, features[, features][, outputs]) and the value without any."""
        n_outputs = self._margin(X[:1]).size
        width = (X.shape[1] + 1) ** (2 if interactions else 1)
        block = max(1, BLOCK_BYTES // (4 * width * n_outputs))
        values, base = None, None
        for start in range(0, len(X), block):
            rows = slice(start, start + block)
            with self._threads(X):
                part = self.booster_.predict(
                    xgb.DMatrix(X[rows]),
                    pred_contribs=not interactions,
                    pred_interactions=interactions,
                )
            # xgboost puts outputs first and the bias last; the field puts outputs last.
            if n_outputs > 1:
                part = np.moveaxis(part, 1, -1)
            keep = (slice(None), *[slice(X.shape[1])] * (2 if interactions else 1))
            if values is None:
                values = np.empty((len(X), *part[keep].shape[1:]))
                last = (-1, -1) if interactions else (-1,)
                base = np.asarray(part[(0, *last)], dtype=np.float64)
            values[rows] = part[keep]
        return values, base if base.ndim else float(base)

    def shap_values(self, X):
        r"""Shapley values of every event: what each feature adds to the margin.

        Path-dependent TreeSHAP [3]_: the values of one event and ``expected_value_`` add up to
        its margin (`decision_function` of a classifier; of a regressor see ``expected_value_``).

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        shap_values : ndarray of shape (n_events, n_features) or (n_events, n_features, n_outputs)
            With one column per class for three classes and more, one per target for several.
        """
        return self._contributions(self._events(X), interactions=False)[0]

    def shap_interaction_values(self, X):
        """Shapley interaction values of every event.

        The sum over the second feature gives :meth:`shap_values`. Takes of the order of
        `n_features` times longer.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        shap_interaction_values : ndarray of shape (n_events, n_features, n_features[, n_outputs])
        """
        return self._contributions(self._events(X), interactions=True)[0]
