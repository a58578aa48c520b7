r"""Jets through a detector: what learnt distributions lack against the exact one.

Command: ``python benchmarks/jets.py [--quick] [--jobs 2]``

`make_jets` knows the distribution of reconstructed jets given generated ones, so everything is
measured against the truth and not against another model. All methods read the same jets as in
[1]_: :math:`\ln p_T, \eta, \phi, \ln(m + 2\,\mathrm{GeV})`; they learn
:math:`(p_T' + 10)/(p_T + 10)`, :math:`\eta' - \eta`, :math:`\phi' - \phi` (wrapped) and
:math:`(m' + 10)/(m + 10)`, in GeV. These are rising functions of the reconstructed quantities, so
quantiles are those of the jets again.

- Pinball: mean loss over 25 levels and the test jets, in GeV or rad, above that of the exact
  quantiles on the same jets, in per cent of the optimum that `mean_pinball` has. The error is that
  of the paired difference. 0 is perfect, and the goal is 2.
- PIT: p-value of Kolmogorov's test, target by target, that the truth falls evenly into the
  predicted quantiles (5,000 jets: where a share of 2.3 % lies elsewhere, p is 0.01). What the jets
  themselves fluctuate by is in the p-values of the exact distribution below the table.
- Correlation: of the Gaussian copula between pT' and m', from sampled jets, whose ranks in the
  exact distribution are uniform whatever the jet: 0.6 is true, for all other pairs 0. The error of
  a perfect model is 0.01 of the former, and the largest of the others is some 0.02.
- Crossing: share of neighbouring levels (of 99) whose quantiles of pT' cross.
- Unphysical: sampled jets with a momentum or mass that is not positive; the true share is 0.
- Jets per second: sampled, of four numbers, on one core, 20 for each of the test jets.

The second table is the closure in bins of the generated momentum, on jets drawn in each bin: bias
of the mean response, and predicted over true spread. Momenta fall as :math:`p_T^{-5}`: the last
bins show what a method makes of the few jets that it has seen there. The third table turns the
problem round: jets are corrected by samples of p(generated | reconstructed), whose spectrum must be
the generated one.

Nothing is tuned to the test jets: all are defaults but for the number of epochs, and "IQN,
penalty" is the network of [1]_.

.. [1] B. Kronheim et al., "Implicit quantile neural networks for jet simulation and correction",
       arXiv:2111.11415.
"""

import argparse
import time
from itertools import pairwise

import numpy as np
from _timing import machine
from joblib import Parallel, delayed
from scipy.stats import spearmanr

from sknuc.datasets import make_jets
from sknuc.distributions import (
    FlowRegressor,
    IQNRegressor,
    MDNRegressor,
    QuantileBDTRegressor,
    QuantileNetRegressor,
)
from sknuc.encoders import MLP
from sknuc.metrics import pit, pit_test

TARGETS = ("pT", "η", "φ", "m")
EDGES = (20.0, 25.0, 30.0, 40.0, 60.0, 100.0, 1000.0)  # GeV
LEVELS = (np.arange(25) + 0.5) / 25
FINE_LEVELS = np.arange(1, 100) / 100
OFFSET = 10.0  # GeV


def methods(epochs):
    shared = {"max_epochs": epochs, "random_state": 0, "device": "cpu"}
    published = {
        "encoder": MLP(hidden_layer_sizes=(50, 50, 50), activation="leaky_relu"),
        "hidden_layer_sizes": (50, 50),
        "monotone": "penalty",
    }
    return {
        "IQN": IQNRegressor(**shared),
        "IQN, penalty": IQNRegressor(**published, **shared),
        "MDN": MDNRegressor(**shared),
        "flow": FlowRegressor(**shared),
        "quantile network": QuantileNetRegressor(**shared),
        "quantile BDT": QuantileBDTRegressor(random_state=0, n_jobs=1),
    }


def features(jets):
    pt, eta, phi, mass = np.asarray(jets, dtype=np.float64).T
    return np.column_stack([np.log(pt), eta, phi, np.log(mass + 2)]).astype(np.float32)


def to_targets(jets, other):
    """What is learnt of other jets (n, 4) or (n, k, 4), given jets (n, 4)."""
    jets, targets = _aligned(jets, other), np.array(other, dtype=np.float64)
    targets[..., 1:3] -= jets[..., 1:3]
    targets[..., 2] = (targets[..., 2] + np.pi) % (2 * np.pi) - np.pi
    targets[..., 0::3] = (targets[..., 0::3] + OFFSET) / (jets[..., 0::3] + OFFSET)
    return targets


def to_jets(jets, targets):
    """The inverse; phi counts from that of the jets and may lie beyond pi."""
    jets, other = _aligned(jets, targets), np.array(targets, dtype=np.float64)
    other[..., 1:3] += jets[..., 1:3]
    other[..., 0::3] = other[..., 0::3] * (jets[..., 0::3] + OFFSET) - OFFSET
    return other


def _aligned(jets, other):
    jets = np.asarray(jets, dtype=np.float64)
    return jets[:, None] if np.ndim(other) == 3 else jets


def pinball(y, quantiles):
    """Mean over `LEVELS` of the loss, (n, t), of quantiles (n, q, t)."""
    away = y[:, None] - quantiles
    return np.maximum(LEVELS[:, None] * away, (LEVELS[:, None] - 1) * away).mean(axis=1)


def judge_quantiles(model, test):
    """Pinball loss above the optimum in per cent with its error, p-values of flatness, crossing."""
    jets, exact = test.data.astype(np.float64), test.conditional
    # phi as the exact quantiles count it, from that of the generated jet.
    truth = to_jets(jets, to_targets(jets, test.target))
    predicted = to_jets(jets, model.predict_quantiles(features(jets), LEVELS))
    difference = pinball(truth, predicted) - pinball(truth, exact.quantiles(jets, LEVELS))
    scale = 100 / exact.mean_pinball(jets).mean(axis=0)
    loss = scale * difference.mean(axis=0)
    error = scale * difference.std(axis=0) / np.sqrt(len(jets))
    u = pit(truth, quantiles=predicted, levels=LEVELS)
    p_values = [pit_test(column).p_value for column in u.T]
    fine = model.predict_quantiles(features(jets[:500]), FINE_LEVELS)
    return loss, error, p_values, np.mean(np.diff(fine[..., 0], axis=1) < 0)


def sampled(model, test, n_samples=20):
    """Copula correlations and unphysical share of sampled jets, and jets per second."""
    jets, exact = test.data.astype(np.float64), test.conditional
    X = features(jets)
    start = time.perf_counter()
    draws = model.sample_y(X, n_samples, random_state=1)
    rate = draws.shape[0] * n_samples / (time.perf_counter() - start)
    draws = to_jets(jets, draws.transpose(0, 2, 1))
    unphysical = np.mean((draws[..., 0] <= 0) | (draws[..., 3] <= 0))
    # One draw per jet: the others share its jet, and their error would be no longer the binomial.
    rank = spearmanr(exact.cdf(jets, draws[:, 0])).statistic
    copula = 2 * np.sin(np.pi / 6 * rank)
    others = copula[np.triu_indices(4, 1)]
    others = np.delete(others, 2)
    return copula[0, 3], np.abs(others).max(), unphysical, rate


def closure(model, low, high, seed, n_jets=500):
    """Bias of the response and spread over the true one, of pT' and m', in one bin of pT."""
    test = make_jets(n_jets, pt_range=(low, high), random_state=seed)
    jets, exact = test.data.astype(np.float64), test.conditional
    mean, std = model.predict(features(jets), return_std=True)
    predicted = to_jets(jets, mean)
    width = std.astype(np.float64)
    width[:, 0::3] *= jets[:, 0::3] + OFFSET
    bias = 100 * ((predicted - exact.mean(jets)) / jets)[:, 0::3].mean(axis=0)
    return bias, (width / exact.std(jets)).mean(axis=0)


def corrected_spectrum(model, test):
    """Jets per bin of pT after the correction, over those generated, and the error."""
    draws = model.sample_y(features(test.target), 10, random_state=2).transpose(0, 2, 1)
    pt = to_jets(test.target, draws)[..., 0]
    ratio, error = [], []
    for low, high in pairwise(EDGES):
        is_there = (test.data[:, 0] >= low) & (test.data[:, 0] < high)
        # Most jets stay in their bin: what fluctuates is who moves.
        moved = ((pt >= low) & (pt < high)).mean(axis=1) - is_there
        ratio.append(1 + moved.sum() / is_there.sum())
        error.append(np.sqrt((moved**2).sum()) / is_there.sum())
    return ratio, error


def run(name, model, sizes):
    n_train, n_test = sizes
    train, test = (make_jets(n, random_state=seed) for seed, n in enumerate((n_train, n_test)))
    start = time.perf_counter()
    model.fit(features(train.data), to_targets(train.data, train.target).astype(np.float32))
    seconds = time.perf_counter() - start
    bins = [closure(model, low, high, 10 + i) for i, (low, high) in enumerate(pairwise(EDGES))]
    return name, seconds, judge_quantiles(model, test), sampled(model, test), bins


def run_correction(name, model, sizes):
    n_train, n_test = sizes
    train, test = (make_jets(n, random_state=3 + i) for i, n in enumerate((n_train, 10 * n_test)))
    model.fit(features(train.target), to_targets(train.target, train.data).astype(np.float32))
    return name, corrected_spectrum(model, test)


def main(quick, n_jobs):
    sizes, epochs = ((4000, 1000), 3) if quick else ((50_000, 5000), 15)
    tasks = [delayed(run)(name, model, sizes) for name, model in methods(epochs).items()]
    tasks += [
        delayed(run_correction)(name, model, sizes)
        for name, model in methods(epochs).items()
        if name in ("IQN", "flow")
    ]
    results = Parallel(n_jobs=n_jobs)(tasks)
    simulated, corrected = results[:-2], results[-2:]

    print(
        "\n| method | fit s | pinball above the optimum, %: pT′, η′, φ′, m′ | p(PIT flat): pT′, η′,"
        " φ′, m′ | corr(pT′, m′), others | crossing | unphysical | jets/s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, seconds, (loss, error, p_values, crossing), numbers, _ in simulated:
        correlation, others, unphysical, rate = numbers
        loss = ", ".join(f"{a:+.2f} ± {b:.2f}" for a, b in zip(loss, error, strict=True))
        p_values = ", ".join(f"{p:.2g}" for p in p_values)
        print(
            f"| {name} | {seconds:.0f} | {loss} | {p_values} | {correlation:.3f}, {others:.3f} | "
            f"{crossing:.5f} | {unphysical:.5f} | {rate:,.0f} |"
        )

    train, test = (make_jets(n, random_state=seed) for seed, n in enumerate(sizes))
    for label, jets in (("training", train), ("test", test)):
        u = jets.conditional.cdf(jets.data, jets.target)
        p_values = ", ".join(f"{pit_test(column).p_value:.2g}" for column in u.T)
        print(f"\nOf the exact distribution, the {label} jets have p(PIT flat) = {p_values}.")
    labels = [f"{a:g}–{b:g}" for a, b in pairwise(EDGES)]
    print("\nBias of the mean response in %, and predicted spread over the true one, of pT′; m′:\n")
    print("| generated pT, GeV | training jets | " + " | ".join(r[0] for r in simulated) + " |")
    print("|---" * (2 + len(simulated)) + "|")
    for i, (label, n) in enumerate(
        zip(labels, np.histogram(train.data[:, 0], EDGES)[0], strict=True)
    ):
        cells = (
            "; ".join(f"{b:+.2f}, {r:.3f}" for b, r in zip(bias, ratio[0::3], strict=True))
            for bias, ratio in (result[-1][i] for result in simulated)
        )
        print(f"| {label} | {n:,} | " + " | ".join(cells) + " |")

    print("\nSpectrum of corrected jets over that of the generated ones:\n")
    print("| pT, GeV | " + " | ".join(name for name, _ in corrected) + " |")
    print("|---" * (1 + len(corrected)) + "|")
    for i, label in enumerate(labels):
        cells = (f"{ratio[i]:.3f} ± {error[i]:.3f}" for _, (ratio, error) in corrected)
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer jets and epochs")
    parser.add_argument("--jobs", type=int, default=2, help="methods at the same time")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    main(arguments.quick, arguments.jobs)
