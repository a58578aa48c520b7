"""Conformal prediction against MAPIE: the same intervals and sets, and the time that they take.

Run with ``python benchmarks/conformal.py [--quick]``. A task is to fit, to calibrate and to predict
intervals of new events; both sides wrap the same estimator, split the same events, and run in turns
in one process. Intervals are compared first: the table is of results that agree.
"""

import argparse
import logging

import numpy as np
from _timing import alternate, machine, print_table
from mapie.classification import SplitConformalClassifier
from mapie.regression import (
    ConformalizedQuantileRegressor,
    CrossConformalRegressor,
    SplitConformalRegressor,
)
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, QuantileRegressor
from sklearn.model_selection import KFold, LeaveOneOut

from sknuc.uncertainty import ConformalClassifier, ConformalRegressor

COVERAGE = 0.9


class Quantiles(RegressorMixin, BaseEstimator):
    """Fitted quantile regressions as one estimator."""

    def __init__(self, models):
        self.models = models

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, X, y):
        """Nothing to do."""
        return self

    def predict_quantiles(self, X, quantiles):
        """Return the quantiles, (n, q)."""
        return np.stack([self.models[round(q, 9)].predict(X) for q in quantiles], axis=1)


def draw(n_events, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_events, 10))
    return X, X[:, 0] + np.abs(X[:, 1]) * rng.normal(size=n_events)


def compare(name, ours, theirs, repeat, rows):
    """`ours` and `theirs` are (fit, predict); a fit returns a model, and a prediction an array."""
    a, b = (predict(fit()) for fit, predict in (ours, theirs))
    difference = np.max(np.abs(a.astype(float) - b.astype(float)))
    print(f"{name}: largest difference {difference:.1e} of {a.size:,} numbers", flush=True)
    if not difference < 1e-9:
        raise SystemExit(f"{name}: the results disagree, so that times say nothing.")
    sides = {
        "sknuc": lambda: ours[1](ours[0]()),
        "MAPIE": lambda: theirs[1](theirs[0]()),
    }
    rows.append((name, alternate(sides, repeat), "MAPIE", "≤ 1.0"))


def main(quick):
    shrink, repeat = (10, 3) if quick else (1, 5)
    rows = []
    X, y = draw(11_000, 0)
    fitted = LinearRegression().fit(X[:1000], y[:1000])
    half = X[1000:], y[1000:]
    many = draw(200_000 // shrink, 1)[0]
    compare(
        f"split, 10,000 to calibrate, {len(many):,} new",
        (
            lambda: ConformalRegressor(FrozenEstimator(fitted)).fit(*half),
            lambda m: m.predict_interval(many, COVERAGE),
        ),
        (
            lambda: SplitConformalRegressor(fitted, confidence_level=COVERAGE).conformalize(*half),
            lambda m: m.predict_interval(many)[1][..., 0],
        ),
        repeat,
        rows,
    )
    for label, cv, n, n_new in (
        ("CV+, 10 folds", KFold(10), 2000, 5000 // shrink),
        ("jackknife+", LeaveOneOut(), 300, 3000 // shrink),
    ):
        new = many[:n_new]
        compare(
            f"{label}, {n:,} to fit, {n_new:,} new",
            (
                lambda n=n, cv=cv: ConformalRegressor(LinearRegression(), cv=cv).fit(X[:n], y[:n]),
                lambda m, new=new: m.predict_interval(new, COVERAGE),
            ),
            (
                lambda n=n, cv=cv: CrossConformalRegressor(
                    LinearRegression(), confidence_level=COVERAGE, cv=cv
                ).fit_conformalize(X[:n], y[:n]),
                lambda m, new=new: m.predict_interval(new)[1][..., 0],
            ),
            repeat,
            rows,
        )
    levels = (0.05, 0.95, 0.5)
    models = {q: QuantileRegressor(quantile=q, alpha=0).fit(X[:1000], y[:1000]) for q in levels}
    compare(
        f"CQR, 10,000 to calibrate, {len(many):,} new",
        (
            lambda: ConformalRegressor(
                FrozenEstimator(Quantiles(models)), conformity_score="cqr"
            ).fit(*half),
            lambda m: m.predict_interval(many, COVERAGE),
        ),
        (
            lambda: ConformalizedQuantileRegressor(
                list(models.values()), confidence_level=COVERAGE, prefit=True
            ).conformalize(*half),
            lambda m: m.predict_interval(many, symmetric_correction=True)[1][..., 0],
        ),
        repeat,
        rows,
    )
    labels = np.digitize(y, [-1, 0, 1])
    classifier = LogisticRegression().fit(X[:1000], labels[:1000])
    half = X[1000:], labels[1000:]
    compare(
        f"sets, 10,000 to calibrate, {len(many):,} new",
        (
            lambda: ConformalClassifier(FrozenEstimator(classifier)).fit(*half),
            lambda m: m.predict_set(many, COVERAGE),
        ),
        (
            lambda: SplitConformalClassifier(classifier, confidence_level=COVERAGE).conformalize(
                *half
            ),
            lambda m: m.predict_set(many)[1][..., 0],
        ),
        repeat,
        rows,
    )
    print()
    print_table(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events and repetitions")
    arguments = parser.parse_args()
    # MAPIE logs that quantiles which somebody else predicted may cross.
    logging.getLogger().setLevel(logging.WARNING)
    print(machine(), flush=True)
    main(arguments.quick)
