"""Speed of the methods that say how sure they are, against what one would use instead.

Command: ``python benchmarks/speed.py [--quick] [--repeat 3] [--parts abcde]``

One thread. Both sides in one process, in turn.

(a) A deep ensemble of 20 members, 20,000 × 20, 64 × 64, against 20 bare loops one after another,
with fused AdamW and the same loss; at batches of 64 and 256.
(b) An exact Gaussian process to the optimum of its evidence, 2,000 × 5, Matérn 5/2 with a length
per feature, scale and noise, against scikit-learn's, in float64. The evidence at both optima is
printed.
(c) Quantile trees against bare xgboost with the same levels.
(d) Every method on the same 10,000 × 10: the fit in units of that of one small network with one
target, in turn with it, which is the cost in the README, and the prediction of means and of two
quantiles of 10,000 events; medians, but of single runs from 20 s on. HMC runs 50 of its 700
trajectories. All others are measured with four targets, too.
(e) Hamiltonian Monte Carlo against Pyro's No-U-Turn sampler, compiled, on the same posterior of
the same network, with the same warm-up and as many draws per chain: effective draws of its output
at 20 places per second, the least of them, with and without the warm-up. Its time is that of a run
that draws next to nothing. The posterior means are compared in units of their Monte-Carlo errors.
"""

import argparse
import time
import warnings

import numpy as np
import torch
import xgboost as xgb
from _timing import alternate, machine, print_table
from sklearn.base import clone
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
from sknuc.encoders import MLP
from sknuc.metrics import effective_sample_size
from sknuc.networks import NeuralRegressor
from sknuc.uncertainty import (
    BNNRegressor,
    BootstrapRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
    MCDropoutRegressor,
)

# Of a run that is all warm-up; convergence can be judged from four on.
FEWEST_DRAWS = 4


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
    print_table(
        [(f"exact Gaussian process, {n:,} × 5, fit to the optimum", times, "scikit-learn", "≤ 0.2")]
    )
    print("\nLog evidence: " + ", ".join(f"{k} {v:.5f}" for k, v in found.items()) + ".")


def quantile_trees(options):
    levels = (0.025, 0.16, 0.5, 0.84, 0.975)
    rows = []
    for n in (20_000,) if options.quick else (20_000, 200_000):
        X, y = draw(n, 20)
        model = QuantileBDTRegressor(quantiles=levels, max_iter=100, random_state=0, n_jobs=1)
        shared = {
            "max_depth": model.max_depth,
            "min_child_weight": model.min_child_weight,
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
        rows.append(
            (f"quantile trees, {n:,} × 20, 100 trees × 5 levels", times, "xgboost", "≤ 1.10")
        )
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
        "BNNRegressor, Laplace": BNNRegressor(max_epochs=20, random_state=0),
        "BNNRegressor, variational": BNNRegressor(
            inference="variational", max_epochs=20, random_state=0
        ),
        "BNNRegressor, HMC": BNNRegressor(
            inference="hmc", max_epochs=20, n_warmup=10, n_samples=40, random_state=0
        ),
        "BootstrapRegressor of networks": BootstrapRegressor(network, random_state=0),
        "ConformalRegressor of a network": ConformalRegressor(network, random_state=0),
    }
    print(f"\n### (d) What methods cost, {n:,} × 10, defaults, networks with 20 epochs\n")
    print("| method | targets | fit s | / network | predict s | predict_quantiles, 2 levels, s |")
    print("|---|---|---|---|---|---|")
    # Further targets are linear in features, and each depends on the one before.
    several = [y, X[:, 3] + y / 2]
    several += [X[:, 4] - several[1] / 2, X[:, 5] + several[0] * several[1] / 4]
    rows = [(name, model, 1) for name, model in methods.items()]
    # Of minutes of trajectories, one target tells enough.
    rows += [(name, model, 4) for name, model in methods.items() if "HMC" not in name]
    for name, model, n_targets in rows:
        targets = y if n_targets == 1 else np.column_stack(several[:n_targets])
        # What a process does once, at its first fit of a kind.
        clone(model).fit(X[:200], targets[:200])
        rounds = []
        # In turn with the network; once if it takes long.
        while len(rounds) < options.repeat and sum(map(sum, rounds)) < 20:
            times = [time.perf_counter()]
            clone(network).fit(X, y)
            times.append(time.perf_counter())
            model.fit(X, targets)
            times.append(time.perf_counter())
            model.predict(X_test)
            times.append(time.perf_counter())
            if hasattr(model, "predict_quantiles"):
                model.predict_quantiles(X_test, [0.16, 0.84])
            times.append(time.perf_counter())
            rounds.append(np.diff(times))
        _, fit, predict, quantiles = np.median(rounds, axis=0)
        ratio = np.median([fit / unit for unit, fit, *_ in rounds])
        print(
            f"| {name} | {n_targets} | {fit:.2f} | {ratio:.1f} | {predict:.3f} | {quantiles:.2f} |",
            flush=True,
        )


def pyro_posterior(X, y, X_test, width, n_warmup, n_draws):
    """Draws (1, n_draws, n_test) of the network's output, of one chain of Pyro's sampler."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import MCMC, NUTS

    X, y, X_test = (torch.from_numpy(a) for a in (X, y, X_test))
    # Standard deviations of the parameters: 1 / root of the number of inputs, and 1 for biases.
    shapes = [((width, X.shape[1]), X.shape[1]), ((width,), 1), ((1, width), width), ((1,), 1)]

    def network(parameters, x):
        hidden = torch.tanh(x @ parameters[0].mT + parameters[1].unsqueeze(-2))
        return (hidden @ parameters[2].mT + parameters[3].unsqueeze(-2))[..., 0]

    def model():
        parameters = [
            pyro.sample(f"p{i}", dist.Normal(torch.zeros(shape), fan_in**-0.5).to_event(len(shape)))
            for i, (shape, fan_in) in enumerate(shapes)
        ]
        variance = pyro.sample("variance", dist.InverseGamma(0.5, 0.5 * 0.01**2))
        pyro.sample("y", dist.Normal(network(parameters, X), variance.sqrt()).to_event(1), obs=y)

    pyro.set_rng_seed(0)
    sampler = NUTS(model, jit_compile=True, ignore_jit_warnings=True)
    chain = MCMC(sampler, num_samples=n_draws, warmup_steps=n_warmup, disable_progbar=True)
    chain.run()
    draws = chain.get_samples()
    return network([draws[f"p{i}"] for i in range(4)], X_test).numpy()[None]


def chains(options):
    width, n_warmup, n_draws = (8, 20, 20) if options.quick else (8, 300, 500)
    rng = np.random.default_rng(0)
    # Noise that leaves the posterior one region, which every chain finds.
    X = rng.uniform(-2, 2, (100, 2)).astype(np.float32)
    y = (np.sin(X[:, 0]) + X[:, 1] + 0.5 * rng.standard_normal(100)).astype(np.float32)
    X, y = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
    X_test = rng.uniform(-1.5, 1.5, (20, 2)).astype(np.float32)

    def ours(n_warmup, n_draws):
        model = BNNRegressor(
            encoder=MLP(hidden_layer_sizes=(width,), activation="tanh"),
            inference="hmc",
            prior_scale=1.0,
            n_warmup=n_warmup,
            n_samples=n_draws,
            thinning=1,
            random_state=0,
        ).fit(X, y)
        # Chain by chain.
        return model._forward(X_test)[..., 0].reshape(20, 4, -1).transpose(1, 2, 0)

    def theirs(n_warmup, n_draws):
        return pyro_posterior(X, y, X_test, width, n_warmup, n_draws)

    print("\n### (e) Hamiltonian Monte Carlo, 100 events, 2–8–1\n")
    print(
        "| side | warm-up s | sampling s | chains × draws | least effective draws | per second | "
        "per second of sampling |"
    )
    print("|---|---|---|---|---|---|---|")
    rates, means, errors = [], [], []
    for name, side in {"sknuc": ours, "Pyro": theirs}.items():
        # What a process does once.
        side(FEWEST_DRAWS, FEWEST_DRAWS)
        start = time.perf_counter()
        side(n_warmup, FEWEST_DRAWS)
        warmed = time.perf_counter()
        draws = side(n_warmup, n_draws).astype(np.float64)
        warmup, total = warmed - start, time.perf_counter() - warmed
        sampling = total - warmup
        effective = effective_sample_size(draws, kind="mean")
        rates.append(effective.min() / np.array([total, sampling]))
        means.append(draws.mean((0, 1)))
        errors.append(draws.std((0, 1)) / np.sqrt(effective))
        print(
            f"| {name} | {warmup:.1f} | {sampling:.1f} | {draws.shape[0]} × {draws.shape[1]:,} | "
            f"{effective.min():.0f} | {rates[-1][0]:.2f} | {rates[-1][1]:.2f} |",
            flush=True,
        )
    pull = (means[0] - means[1]) / np.hypot(*errors)
    ratio = rates[0] / rates[1]
    print(
        f"\n{ratio[0]:.0f} times as many (goal: 5), {ratio[1]:.0f} times without the warm-up. The "
        f"posterior means at the 20 places differ by {np.sqrt(np.mean(pull**2)):.1f} Monte-Carlo "
        f"errors (rms), {np.abs(pull).max():.1f} at most."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--parts", default="abcde")
    options = parser.parse_args()
    if options.quick:
        options.repeat = 1
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(machine(), "one thread")
    parts = {"a": ensembles, "b": gaussian_processes, "c": quantile_trees, "d": costs, "e": chains}
    for part, run in parts.items():
        if part in options.parts:
            run(options)


if __name__ == "__main__":
    main()
