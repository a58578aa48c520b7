"""Baselines: boosted trees against bare xgboost, Shapley values against shap, SVM against SVM.

Run with ``python benchmarks/baselines.py [--quick]``. Both sides of every comparison run in turns
in one process, on the same arrays and with the same number of threads; the tables show medians.
"""

import argparse
import os
import time
import warnings

import numpy as np
import xgboost as xgb
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from sknuc.baselines import BDTClassifier, SVMClassifier


def draw(n_events, n_features, seed):
    """Events of a smooth posterior, and the log-odds that they were drawn with."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_events, n_features)).astype(np.float32)
    log_odds = 1.5 * X[:, 0] + X[:, 1] * X[:, 2]
    return X, (rng.random(n_events) < expit(log_odds)).astype(int), log_odds


def alternate(ours, theirs, repetitions):
    """Return the last results, the median times and the median of the ratios of both sides."""
    times, results = ([], []), [None, None]
    for repetition in range(repetitions + 1):
        order = [(0, ours), (1, theirs)]
        for side, call in order if repetition % 2 else order[::-1]:
            start = time.perf_counter()
            results[side] = call()
            if repetition:  # the first one warms up
                times[side].append(time.perf_counter() - start)
    ratio = np.median(np.divide(*times))
    return results, [np.median(t) for t in times], ratio


def table(title, header, rows):
    print(f"\n### {title}\n\n| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(str(cell) for cell in row)} |")


def judge(ratio, goal):
    return "reached" if ratio <= goal else f"missed by {100 * (ratio / goal - 1):.1f} %"


def trees(n_events, repetitions):
    X, y, _ = draw(n_events, 20, 0)
    params = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "eta": 0.1,
        "max_depth": 6,
        "max_bin": 256,
        "lambda": 1.0,
        "min_child_weight": 1.0,
        "base_score": y.mean(),
    }

    def fit():
        return BDTClassifier().fit(X, y)

    def fit_bare():
        return xgb.train(params, xgb.QuantileDMatrix(X, y), 100)

    (ours, bare), fit_times, fit_ratio = alternate(fit, fit_bare, repetitions)
    many = draw(5 * n_events, 20, 1)[0]
    (p, q), times, ratio = alternate(
        lambda: ours.predict_proba(many), lambda: bare.inplace_predict(many), repetitions
    )
    rows = [
        (
            f"fit, {n_events:,} × 20, 100 trees",
            *map("{:.3f}".format, (*fit_times, fit_ratio)),
            1.05,
        ),
        (f"predict_proba, {len(many):,} × 20", *map("{:.3f}".format, (*times, ratio)), 1.05),
    ]
    rows = [(*row, judge(value, 1.05)) for row, value in zip(rows, (fit_ratio, ratio), strict=True)]
    table(
        "BDTClassifier against bare xgboost",
        ("", "sknuc (s)", "xgboost (s)", "ratio", "goal", ""),
        rows,
    )
    again = xgb.train(params, xgb.QuantileDMatrix(X[::-1], y[::-1]), 100).inplace_predict(many)
    print(
        f"\nMean difference of the probabilities {np.abs(p[:, 1] - q).mean():.3f}; of xgboost's "
        f"own, when the same events come in reverse order, {np.abs(again - q).mean():.3f}."
    )
    return ours


def shapley(bdt, n_events, repetitions):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap
    X = draw(n_events, 20, 2)[0]
    explainer = shap.TreeExplainer(bdt.booster_, feature_perturbation="tree_path_dependent")
    rows = []
    for name in ("as it comes (calls xgboost)", "its own code"):
        if name == "its own code":
            explainer.model.model_type = "internal"
        (ours, theirs), times, ratio = alternate(
            lambda: bdt.shap_values(X),
            lambda: explainer.shap_values(X, check_additivity=False),
            repetitions,
        )
        difference = np.abs(ours - theirs).max()
        rows.append((name, *map("{:.3f}".format, (*times, ratio)), f"{difference:.1e}"))
    table(
        f"shap_values against shap.TreeExplainer, {n_events:,} × 20",
        ("shap.TreeExplainer", "sknuc (s)", "shap (s)", "ratio", "largest difference"),
        rows,
    )


def machines(sizes):
    test, label, log_odds = draw(5000, 20, 3)
    rows = []
    for n in sizes:
        X, y, _ = draw(n, 20, 4)
        for name, most in (("exact", n), ("Nyström, 500 landmarks", 0)):
            if name == "exact" and n > 20_000:
                continue
            svm = SVMClassifier(max_exact_samples=most, random_state=0)
            start = time.perf_counter()
            svm.fit(X, y)
            fitted = time.perf_counter()
            score = svm.decision_function(test)
            done = time.perf_counter()
            rows.append(
                (
                    f"{n:,}",
                    name,
                    f"{fitted - start:.2f}",
                    f"{1e3 * (done - fitted):.0f}",
                    f"{roc_auc_score(label, score):.4f}",
                )
            )
    table(
        "SVMClassifier: exact kernel and Nyström's, with the calibration",
        ("events", "kernel", "fit (s)", "5,000 events (ms)", "AUC"),
        rows,
    )
    print(f"\nBest possible AUC on these 5,000 events: {roc_auc_score(label, log_odds):.4f}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    quick = parser.parse_args().quick
    print(f"{os.cpu_count()} cores, xgboost {xgb.__version__}")
    bdt = trees(20_000 if quick else 200_000, 3 if quick else 9)
    shapley(bdt, 1000 if quick else 5000, 3)
    machines((1000, 2000) if quick else (1000, 2000, 5000, 10_000, 50_000))


if __name__ == "__main__":
    main()
