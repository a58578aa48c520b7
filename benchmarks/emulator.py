r"""Theory and experiment: networks that stand in for a theory code, and networks that invert it.

Command: ``python benchmarks/emulator.py [--quick]``

`make_optical_model` solves elastic scattering of 14 MeV neutrons from lead: from six parameters of
an optical potential to the cross-section at 33 angles. Over the range of the potentials (10 %
around a global one) it changes by factors of 2 to 10, and diffraction minima move through it.

**Forward**: methods learn the logarithms from runs of the theory and predict new ones. All are
defaults but for the network's width and its learning rate, which falls along half a cosine.

- Error: mean of :math:`|\sigma_\mathrm{emulated}/\sigma_\mathrm{theory} - 1|` over angles and
  2,000 new potentials, its median, and its 99 % quantile: the largest ones sit in deep minima.
  Published for supersymmetry is 3.34 % (arXiv:2007.04506); the goal is 1 %.
- Coverage: share of theory values in the 68 and 95 % intervals; the error counts potentials, as
  angles of one are correlated. "conformal" widths are calibrated on 1,000 more runs.
- Evaluations per second, of all angles, on one core, against the theory code itself: in turn, when
  all fits are done. This code is a quick one, some 0.03 ms per potential, so that factors here are
  small; codes of minutes gain a million times more.

**Inverse**: methods learn p(parameters | angular distribution) from measurements with 5 % noise at
every angle. Parameters are mapped to normal deviates of their uniform prior, so that no posterior
leaves the prior's box; ranks do not change by that.

- Simulation-based calibration: the rank of the truth among 255 posterior draws, over 1,000 new
  potentials, is uniform for a true posterior. p-values of Kolmogorov's test, parameter by
  parameter; of twelve, one below 0.1 is expected, one below 0.001 is not.
- Contraction: 1 − (mean posterior variance) / (prior variance); 1 is perfect knowledge.
- Information: mean of ln posterior − ln prior at the truth, in nats. Differences between methods
  are differences of the Kullback-Leibler divergence from the true posterior.
- Efficiency: effective share of the draws when they are weighted with the exact posterior, whose
  likelihood the theory code gives. 1 is an exact posterior; the median of 40 measurements.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from _timing import alternate, machine
from scipy import special
from scipy.stats import norm
from sklearn.frozen import FrozenEstimator

from sknuc.datasets import make_optical_model
from sknuc.distributions import FlowRegressor, MDNRegressor
from sknuc.encoders import MLP
from sknuc.metrics import pit, pit_test
from sknuc.networks import NeuralRegressor
from sknuc.uncertainty import (
    BNNRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
)

NOISE = 0.05  # of the measured cross-sections, relative
N_DRAWS = 255


def emulators(quick):
    shared = {"device": "cpu", "random_state": 0}
    smooth = {
        "encoder": MLP(hidden_layer_sizes=(128, 128), activation="silu"),
        "batch_size": 64,
        "max_epochs": 5 if quick else 100,
        "schedule": "cosine",
    }
    bayesian = MLP(hidden_layer_sizes=(64, 64), activation="tanh")
    return {
        "Gaussian process": (GPRegressor(noise="shared", **shared), 500 if quick else 2000),
        "network": (NeuralRegressor(**smooth, **shared), 1000 if quick else 5000),
        "deep ensemble, 5": (
            DeepEnsembleRegressor(**smooth, **shared),
            1000 if quick else 5000,
        ),
        "Bayesian network, variational": (
            BNNRegressor(encoder=bayesian, inference="variational", **shared),
            500 if quick else 2000,
        ),
    }


def single(*arrays):
    """Arrays in 32 bits, in which networks are twice as fast."""
    return [array.astype(np.float32) for array in arrays]


def intervals_hold(model, test):
    """Coverage of 68 and 95 % intervals with errors, from one entry per potential."""
    if not hasattr(model, "predict_interval"):
        return "–"
    text = []
    for level in (0.68, 0.95):
        low, high = model.predict_interval(test.data, level).transpose(1, 0, 2)
        share = ((low <= test.target) & (test.target <= high)).mean(axis=1)
        text.append(f"{share.mean():.3f} ± {share.std() / np.sqrt(len(share)):.3f}")
    return " / ".join(text)


def emulate(name, model, n_train, n_test):
    """The fitted model, and its row of the table, up to the times."""
    train = make_optical_model(n_train, random_state=0)
    extra = make_optical_model(1000, random_state=1)
    test = make_optical_model(n_test, random_state=2)
    start = time.perf_counter()
    is_network = not isinstance(model, GPRegressor)
    model.fit(*(single(train.data, train.target) if is_network else (train.data, train.target)))
    seconds = time.perf_counter() - start
    error = 100 * np.abs(np.expm1(model.predict(test.data) - test.target))
    knows_widths = hasattr(model, "predict_interval")
    calibrated = ConformalRegressor(
        FrozenEstimator(model), conformity_score="normalized" if knows_widths else "absolute"
    )
    calibrated.fit(extra.data, extra.target)
    median, far = np.quantile(error, [0.5, 0.99])
    return model, (
        f"| {name} | {n_train:,} | {seconds:.0f} | {error.mean():.2f} | {median:.2f} | {far:.1f} | "
        f"{intervals_hold(model, test)} | {intervals_hold(calibrated, test)} |"
    )


def inverters(quick):
    shared = {
        "encoder": MLP(hidden_layer_sizes=(128, 128), activation="silu"),
        "max_epochs": 5 if quick else 25,
        "learning_rate": 1e-3,
        "device": "cpu",
        "random_state": 0,
    }
    return {"MDN": MDNRegressor(**shared), "flow": FlowRegressor(**shared)}


def to_normal(theory, parameters):
    """Normal deviates of uniform parameters."""
    low, high = np.array(list(theory.ranges.values())).T
    return special.ndtri((parameters - low) / (high - low))


def to_parameters(theory, normal):
    low, high = np.array(list(theory.ranges.values())).T
    return low + (high - low) * special.ndtr(normal)


def efficiency(model, theory, measured, n_draws=400):
    """Effective share of posterior draws under the exact posterior, median of measurements."""
    shares = []
    for y in measured:
        z = model.sample_y(y[None], n_draws, random_state=0)[0].T
        proposed = model.log_prob(np.repeat(y[None], n_draws, axis=0), z)
        predicted = theory.compute(to_parameters(theory, z))
        # In normal deviates the prior is normal.
        exact = norm.logpdf((y - predicted) / NOISE).sum(axis=1) + norm.logpdf(z).sum(axis=1)
        weight = special.softmax(exact - proposed)
        shares.append(1 / (n_draws * np.sum(weight**2)))
    return np.median(shares)


def invert(name, model, n_train, n_test):
    train = make_optical_model(n_train, noise=NOISE, random_state=3)
    test = make_optical_model(n_test, noise=NOISE, random_state=4)
    start = time.perf_counter()
    model.fit(*single(train.target, to_normal(train, train.data)))
    seconds = time.perf_counter() - start
    z = to_normal(test, test.data)
    information = np.mean(model.log_prob(test.target, z) - norm.logpdf(z).sum(axis=1))
    start = time.perf_counter()
    draws = model.sample_y(test.target, N_DRAWS, random_state=0)
    drawn = draws.shape[0] * N_DRAWS / (time.perf_counter() - start)
    u = pit(z, draws)
    p_values = [pit_test(column).p_value for column in u.T]
    posterior = to_parameters(test, draws.transpose(0, 2, 1)).var(axis=1).mean(axis=0)
    low, high = np.array(list(test.ranges.values())).T
    contraction = 1 - posterior / ((high - low) ** 2 / 12)
    return (
        f"| {name} | {n_train:,} | {seconds:.0f} | {information:.2f} | "
        f"{efficiency(model, test, test.target[:40]):.2f} | "
        + " | ".join(f"{p:.2g}; {c:.2f}" for p, c in zip(p_values, contraction, strict=True))
        + f" | {drawn:,.0f} |"
    )


def main(quick):
    torch.set_num_threads(1)
    n_forward, n_inverse = (500, (2000, 200)) if quick else (2000, (20_000, 1000))
    names = make_optical_model(1, random_state=0).parameter_names
    print("\nInverse; of each parameter p(ranks flat); contraction:\n")
    print(
        "| method | theory runs | fit s | information, nats | efficiency | "
        + " | ".join(names)
        + " | draws/s |"
    )
    print("|---" * (6 + len(names)) + "|", flush=True)
    for name, model in inverters(quick).items():
        print(invert(name, model, *n_inverse), flush=True)
    print(
        "\n| emulator | theory runs | fit s | error % | median | 99 % below | 68 / 95 % hold | "
        "conformal 68 / 95 % hold |"
    )
    print("|---" * 8 + "|", flush=True)
    fitted = {}
    for name, (model, n_train) in emulators(quick).items():
        fitted[name], row = emulate(name, model, n_train, n_forward)
        print(row, flush=True)

    new = make_optical_model(1000, random_state=5)
    sides = {"theory code": lambda: new.compute(new.data)}
    sides |= {name: lambda m=model: m.predict(new.data) for name, model in fitted.items()}
    times = alternate(sides, 3 if quick else 7)
    print("\n| side | evaluations/s | times the theory code's |\n|---|---|---|")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(times["theory code"], seconds, strict=True))
        print(f"| {name} | {len(new.data) / statistics.median(seconds):,.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer theory runs and epochs")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    main(arguments.quick)
