"""Speed of the methods that say how sure they are, against what one would use instead.

Command: ``python benchmarks/speed.py [--quick] [--repeat 3] [--parts abcd]``

One thread. Both sides in one process, in turn.

(a) A deep ensemble of 20 members, 20,000 × 20, 64 × 64, against 20 bare loops one after another,
with fused AdamW and the same loss; at batches of 64 and 256.
(b) An exact Gaussian process to the optimum of its evidence, 2,000 × 5, Matérn 5/2 with a length
per feature, scale and noise, against scikit-learn's, in float64. The evidence at both optima is
printed.
(c) Quantile trees against bare xgboost with the same levels.
(d) Every method on the same 10,000 × 10: the fit in units of that of one small network, which is
the cost in the README, and the prediction of two quantiles of 10,000 events.
"""

import argparse
import time
import warnings

import numpy as np
import torch
import xgboost as xgb
from _timing import alternate, machine, print_table
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from torch import nn
from torch.nn import functional as F

from sknuc.distributions import (
    FlowRegressor,
    IQNRegressor,
    MDNRegressor,
    QuantileBDTRegressor,
    QuantileNetRegressor,
)
from sknuc.networks import NeuralRegressor
from sknuc.uncertainty import (
    BNNRegressor,
    BootstrapRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
    MCDropoutRegressor,
)


def draw(n, n_features, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(dtype)
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] / 2 + 0.3 * rng.standard_normal(n)
    return X, y.astype(dtype)


def bare_ensemble(X, y, n_members, batch_size, epochs):
    X, y = torch.from_numpy(X), torch.from_numpy((y - y.mean()) / y.std())
    members = []
    for seed in range(n_members):
        torch.manual_seed(seed)
        module = nn.Sequential(
            nn.Linear(X.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )
        optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=0, fused=True)
        for _ in range(epochs):
            order = torch.randperm(len(X))
            for start in range(0, len(X), batch_size):
                rows = order[start : start + batch_size]
                optimizer.zero_grad()
                mean, spread = module(X[rows]).unbind(1)
                std = F.softplus(spread) + 1e-3
                loss = (std.log() + ((y[rows] - mean) / std).square() / 2).mean()
                loss.backward()
                optimizer.step()
        members.append(module)
    return members


def ensembles(options):
    n_members, epochs = 20, 1 if options.quick else 3
    X, y = draw(20_000, 20)
    rows = []
    for batch_size, goal in ((64, "≤ 0.21"), (256, "≤ 0.42")):
        model = DeepEnsembleRegressor(
            n_members=n_members, beta=0.0, max_epochs=epochs, batch_size=batch_size, random_state=0
        )
        times = alternate(
            {
                "stack": lambda model=model: model.fit(X, y),
                "loop": lambda b=batch_size: bare_ensemble(X, y, n_members, b, epochs),
            },
            options.repeat,
        )
        rows.append((f"20 members, batches of {batch_size}, {epochs} epochs", times, "loop", goal))
    print("\n### (a) Deep ensemble\n")
    print_table(rows)


def gaussian_processes(options):
    n = 500 if options.quick else 2000
    X, y = draw(n, 5, dtype=np.float64)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    kernel = ConstantKernel() * Matern(np.ones(5), nu=2.5) + WhiteKernel(0.1)
    found = {}

    def ours():
        model = GPRegressor(kernel="matern52", mean="zero", random_state=0).fit(X, y)
        found["sknuc"] = model.log_marginal_likelihood_value_

    def theirs():
        model = GaussianProcessRegressor(kernel, alpha=0.0).fit(X, y)
        found["scikit-learn"] = model.log_marginal_likelihood_value_

    times = alternate({"sknuc": ours, "scikit-learn": theirs}, max(1, options.repeat // 3))
    print(f"\n### (b) Exact Gaussian process, {n:,} × 5\n")
    print_table([("fit to the optimum", times, "scikit-learn", "≤ 0.2")])
    print("\nLog evidence: " + ", ".join(f"{k} {v:.5f}" for k, v in found.items()) + ".")


def quantile_trees(options):
    levels = (0.025, 0.16, 0.5, 0.84, 0.975)
    rows = []
    for n in (20_000,) if options.quick else (20_000, 200_000):
        X, y = draw(n, 20)
        model = QuantileBDTRegressor(quantiles=levels, n_estimators=100, random_state=0, n_jobs=1)
        shared = {
            "max_depth": model.max_depth,
            "eta": model.learning_rate,
            "objective": "reg:quantileerror",
            "quantile_alpha": np.array(levels),
            "tree_method": "hist",
            "nthread": 1,
        }

        def bare(X=X, y=y, shared=shared):
            xgb.train(shared, xgb.QuantileDMatrix(X, y), 100)

        times = alternate(
            {"sknuc": lambda X=X, y=y, model=model: model.fit(X, y), "xgboost": bare},
            options.repeat,
        )
        rows.append((f"fit, {n:,} × 20, 100 trees × 5 levels", times, "xgboost", "≤ 1.10"))
    print("\n### (c) Quantile trees\n")
    print_table(rows)


def costs(options):
    n = 2_000 if options.quick else 10_000
    X, y = draw(n, 10)
    X_test, _ = draw(n, 10, seed=1)
    network = NeuralRegressor(max_epochs=20, random_state=0)
    methods = {
        "NeuralRegressor": network,
        "QuantileNetRegressor": QuantileNetRegressor(max_epochs=20, random_state=0),
        "QuantileBDTRegressor": QuantileBDTRegressor(n_jobs=1, random_state=0),
        "IQNRegressor": IQNRegressor(max_epochs=20, random_state=0),
        "MDNRegressor": MDNRegressor(max_epochs=20, random_state=0),
        "FlowRegressor": FlowRegressor(max_epochs=20, random_state=0),
        "GPRegressor (sparse)": GPRegressor(random_state=0),
        "DeepEnsembleRegressor": DeepEnsembleRegressor(max_epochs=20, random_state=0),
        "MCDropoutRegressor": MCDropoutRegressor(max_epochs=20, random_state=0),
        "BNNRegressor": BNNRegressor(random_state=0),
        "BootstrapRegressor of networks": BootstrapRegressor(network, random_state=0),
        "ConformalRegressor of a network": ConformalRegressor(network, random_state=0),
    }
    print(f"\n### (d) What methods cost, {n:,} × 10, defaults, networks with 20 epochs\n")
    print("| method | fit s | / network | predict_quantiles, 2 levels, s |")
    print("|---|---|---|---|")
    unit = None
    for name, model in methods.items():
        start = time.perf_counter()
        model.fit(X, y)
        fitted = time.perf_counter()
        if hasattr(model, "predict_quantiles"):
            model.predict_quantiles(X_test, [0.16, 0.84])
        done = time.perf_counter()
        unit = unit or fitted - start
        print(
            f"| {name} | {fitted - start:.2f} | {(fitted - start) / unit:.1f} | "
            f"{done - fitted:.2f} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--parts", default="abcd")
    options = parser.parse_args()
    if options.quick:
        options.repeat = 1
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(machine(), "one thread")
    parts = {"a": ensembles, "b": gaussian_processes, "c": quantile_trees, "d": costs}
    for part, run in parts.items():
        if part in options.parts:
            run(options)


if __name__ == "__main__":
    main()
