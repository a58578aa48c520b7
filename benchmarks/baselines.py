"""Baselines: boosted trees against bare xgboost, Shapley values against shap, SVM against SVM.

Run with ``python benchmarks/baselines.py [--quick]``. Both sides of every comparison run in turns
in one process, on the same arrays and with the same number of threads; the tables show medians.
"""

import argparse
import time
import warnings

import numpy as np
import xgboost as xgb
from _timing import alternate, machine, print_table
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from sknuc.baselines import BDTClassifier, SVMClassifier


def draw(n_events, n_features, seed):
    """Events of a smooth posterior, and the log-odds that they were drawn with."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_events, n_features)).astype(np.float32)
    log_odds = 1.5 * X[:, 0] + X[:, 1] * X[:, 2]
    return X, (rng.random(n_events) < expit(log_odds)).astype(int), log_odds


def trees(n_events, repeat):
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

    models = {}

    def fit():
        models["sknuc"] = BDTClassifier().fit(X, y)

    def fit_bare():
        models["xgboost"] = xgb.train(params, xgb.QuantileDMatrix(X, y), 100)

    print("\n### BDTClassifier against bare xgboost\n")
    times = alternate({"sknuc": fit, "xgboost": fit_bare}, repeat)
    rows = [(f"fit, {n_events:,} × 20, 100 trees", times, "xgboost", "≤ 1.05")]
    many = draw(5 * n_events, 20, 1)[0]
    ours, bare = models["sknuc"], models["xgboost"]
    times = alternate(
        {
            "sknuc": lambda: ours.predict_proba(many),
            "xgboost": lambda: bare.inplace_predict(many),
        },
        repeat,
    )
    rows.append((f"predict_proba, {len(many):,} × 20", times, "xgboost", "≤ 1.05"))
    print_table(rows)
    p, q = ours.predict_proba(many)[:, 1], bare.inplace_predict(many)
    again = xgb.train(params, xgb.QuantileDMatrix(X[::-1], y[::-1]), 100).inplace_predict(many)
    print(
        f"\nMean difference of the probabilities {np.abs(p - q).mean():.3f}; of xgboost's "
        f"own, when the same events come in reverse order, {np.abs(again - q).mean():.3f}."
    )
    return ours


def shapley(bdt, n_events, repeat):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap
    X = draw(n_events, 20, 2)[0]
    values = bdt.shap_values(X)
    print(f"\n### shap_values against shap.TreeExplainer, {n_events:,} × 20\n")
    rows, differences = [], []
    for name, code in (("shap as it comes (calls xgboost)", None), ("shap's own code", "internal")):
        explainer = shap.TreeExplainer(bdt.booster_, feature_perturbation="tree_path_dependent")
        explainer.model.model_type = code or explainer.model.model_type

        def explain(explainer=explainer):
            return explainer.shap_values(X, check_additivity=False)

        times = alternate({"sknuc": lambda: bdt.shap_values(X), name: explain}, repeat)
        rows.append(("Shapley values", times, name, ""))
        differences.append(f"{np.abs(values - explain()).max():.1e}")
    print_table(rows)
    print(f"\nLargest differences of the values: {' and '.join(differences)}.")


def machines(sizes):
    test, label, log_odds = draw(5000, 20, 3)
    print("\n### SVMClassifier: exact kernel and Nyström's, with the calibration\n")
    print("| events | kernel | fit (s) | 5,000 events (ms) | AUC |\n|---|---|---|---|---|")
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
            print(
                f"| {n:,} | {name} | {fitted - start:.2f} | {1e3 * (done - fitted):.0f} | "
                f"{roc_auc_score(label, score):.4f} |"
            )
    print(f"\nBest possible AUC on these 5,000 events: {roc_auc_score(label, log_odds):.4f}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events")
    quick = parser.parse_args().quick
    print(f"{machine()}, xgboost {xgb.__version__}")
    bdt = trees(20_000 if quick else 200_000, 3 if quick else 9)
    shapley(bdt, 1000 if quick else 5000, 3)
    machines((1000, 2000) if quick else (1000, 2000, 5000, 10_000, 50_000))


if __name__ == "__main__":
    main()
