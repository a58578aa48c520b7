r"""How often 68 % intervals hold new events when there are few events to learn from.

Command: ``python benchmarks/few_events.py [--quick]``

Intervals are calibrated by what a fit has seen. A network that has seen thirty events can go
through all of them, and takes what is left for the noise; with some hundreds it cannot. Here are
events with three features, :math:`y = \sin 2x_1 + x_2 / 2 + 0.3\,\varepsilon`, all uniform in
(-2, 2), and all methods as they come, but for chains, which take minutes. Training samples are
drawn anew for every repetition. Who fits once gets one of the shares and not their mean, so that
beside the mean and its error stand the smallest and the largest of them.
"""

import argparse
import warnings

import numpy as np
import torch
from _timing import machine
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from sknuc.distributions import (
    FlowRegressor,
    IQNRegressor,
    MDNRegressor,
    QuantileBDTRegressor,
    QuantileNetRegressor,
)
from sknuc.uncertainty import (
    BNNRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
    MCDropoutRegressor,
)

METHODS = {
    "GPRegressor": GPRegressor(),
    "ConformalRegressor": ConformalRegressor(),
    "MCDropoutRegressor": MCDropoutRegressor(),
    "BNNRegressor, Laplace": BNNRegressor(),
    "DeepEnsembleRegressor": DeepEnsembleRegressor(),
    "QuantileNetRegressor": QuantileNetRegressor(),
    "QuantileBDTRegressor": QuantileBDTRegressor(n_jobs=1),
    "IQNRegressor": IQNRegressor(),
    "MDNRegressor": MDNRegressor(),
    "FlowRegressor": FlowRegressor(),
}
CLOSE = ("GPRegressor", "ConformalRegressor", "MCDropoutRegressor", "BNNRegressor, Laplace")


def draw(n, rng):
    X = rng.uniform(-2, 2, (n, 3))
    return X, np.sin(2 * X[:, 0]) + X[:, 1] / 2 + 0.3 * rng.standard_normal(n)


def share_held(model, n, seed):
    """Share of 1,000 new events in the 68 % intervals of a fit to n."""
    rng = np.random.default_rng([n, seed])
    model = clone(model).set_params(random_state=seed).fit(*draw(n, rng))
    X, y = draw(1000, rng)
    low, high = model.predict_interval(X, 0.68).T
    return np.mean((low <= y) & (y <= high))


def summary(shares):
    """Mean of the shares, its error, and the range of single fits."""
    error = np.std(shares, ddof=1) / np.sqrt(len(shares))
    return f"{np.mean(shares):.3f} ± {error:.3f} ({min(shares):.2f}–{max(shares):.2f})"


def main(quick):
    torch.set_num_threads(1)
    sizes = (30,) if quick else (30, 100, 300, 1000)
    print("\n| method | fits | " + " | ".join(f"{n:,} events" for n in sizes) + " |")
    print("|---" * (len(sizes) + 2) + "|")
    for name, model in METHODS.items():
        # Small samples differ most from one to the next, and methods that come near what they
        # promise need the most fits to be told from it. All are done in some five minutes.
        fits = (2,) if quick else (40, 40, 10, 10) if name in CLOSE else (10, 10, 5, 5)
        cells = (
            summary([share_held(model, n, seed) for seed in range(n_fits)])
            for n, n_fits in zip(sizes, fits, strict=True)
        )
        print(f"| {name} | {', '.join(map(str, fits))} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions, one size")
    arguments = parser.parse_args()
    # Fits that stop at the last epoch are compared as they are.
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(machine(), flush=True)
    main(arguments.quick)
