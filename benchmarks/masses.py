r"""Nuclear masses: predictions of nuclei that were measured later, and how sure they are.

Run with ``python benchmarks/masses.py [--quick]``; SKNUC_DATA names the folder of the data.

What a theory of masses, WS4 or the liquid drop, leaves over is learned from the nuclei measured up
to AME2016. The tests are the 71 that are new in AME2020, most of them at the edge of what is known,
and a random 20 % of AME2016 that was left out of the training.

Residuals of light nuclei are larger. A process of one amplitude has intervals that are too wide for
heavy and too narrow for light nuclei; hence :math:`A^p` times the residual is learned. Kernel,
features and p are those with the largest evidence of the 80 %, which are a part of the training of
both tests; the evidence of the residuals themselves has the Jacobian :math:`p\sum\ln A`. The liquid
drop gets the choice made for WS4, with lengthscales of its own. The errors of AME are noise that is
known for each nucleus, in the training and in the intervals of the test.

Residuals have longer tails than a Gaussian, since most nuclei lie well inside of what is known
and some where the shell structure changes: conformal prediction, with the hyper-parameters of the
selected process and five folds, measures the error bars instead.
"""

import argparse
import time
import warnings

import gpytorch
import numpy as np
from _timing import machine
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from sknuc.datasets import fetch_ame, fetch_ws4, liquid_drop_binding_energy, nuclear_features
from sknuc.distributions import MDNRegressor, QuantileBDTRegressor
from sknuc.metrics import coverage
from sknuc.uncertainty import (
    BNNRegressor,
    BootstrapRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
)

#: Columns of the features: Z, N, the parities, and what else is known of a nucleus.
FEATURES = {
    "Z, N": slice(0, 2),
    "Z, N, parities": slice(0, 4),
    "all features": slice(0, 12),
}
# Mass excess of a hydrogen atom and of a neutron in MeV, from AME2016.
HYDROGEN, NEUTRON = 7.28897, 8.07132


def load():
    """Residuals of measured masses of both editions, for Z, N >= 8 in WS4.

    Returns
    -------
    nuclei : dict of str to dict of ndarray
        "AME2016", and "new in AME2020".
    """
    ws4 = fetch_ws4(as_frame=True).frame
    tables = {}
    for edition in (2016, 2020):
        ame = fetch_ame(edition, measured_only=True, as_frame=True).frame
        both = ame.merge(ws4, on=["Z", "N"], suffixes=("", "_ws4"))
        tables[edition] = both[(both.Z >= 8) & (both.N >= 8)]
    known = tables[2016].set_index(["Z", "N"]).index
    later = tables[2020].set_index(["Z", "N"])
    tables["new"] = later[~later.index.isin(known)].reset_index()
    return {name: _columns(tables[key]) for name, key in (("AME2016", 2016), ("new", "new"))}


def _columns(table):
    Z, N = table.Z.to_numpy(), table.N.to_numpy()
    measured = table.mass_excess.to_numpy() / 1000
    binding = Z * HYDROGEN + N * NEUTRON - measured
    known = ["shell_energy", "deformation_energy", "beta2", "beta4"]
    X = np.column_stack([Z, N, (-1.0) ** Z, (-1.0) ** N, nuclear_features(Z, N), table[known]])
    return {
        "X": X,
        "A": Z + N,
        "WS4": measured - table.mass_excess_ws4.to_numpy(),
        "liquid drop": liquid_drop_binding_energy(Z, N) - binding,
        "noise": table.mass_excess_uncertainty.to_numpy() / 1000,
    }


def rows(nuclei, chosen):
    """Return some of the nuclei."""
    return {name: values[chosen] for name, values in nuclei.items()}


class Scaled:
    r"""A process that learns A^p times the residuals.

    Parameters
    ----------
    process : GPRegressor
    features : slice
    power : float
    """

    def __init__(self, process, features, power):
        self.process = process
        self.features = features
        self.power = power

    def read(self, nuclei):
        """Features (n, n_features), and factors (n,) of residuals and errors."""
        return nuclei["X"][:, self.features], (nuclei["A"] / 100) ** self.power

    def fit(self, nuclei, theory):
        """Learn, and return the evidence of the residuals in MeV."""
        X, factor = self.read(nuclei)
        noise = nuclei["noise"] * factor
        self.process.fit(X, nuclei[theory] * factor, sample_noise=noise)
        scaling = len(X) * np.log(self.process.target_scale_[0])
        return self.process.log_marginal_likelihood_value_ + np.log(factor).sum() - scaling

    def predict(self, nuclei):
        """Mean and standard deviation of new measurements with the errors that they have."""
        X, factor = self.read(nuclei)
        mean, std = self.process.predict(X, return_std=True)
        return mean / factor, np.hypot(std / factor, nuclei["noise"])

    def fixed(self):
        """A process with the hyper-parameters that were learned."""
        learned = self.process
        return GPRegressor(kernel=learned.kernel_, mean="zero", noise=learned.noise_, max_iter=0)

    def condition(self, nuclei, theory):
        """Return the same process after other measurements."""
        model = Scaled(self.fixed(), self.features, self.power)
        model.fit(nuclei, theory)
        return model

    def conformal(self, nuclei, theory):
        """Intervals of residuals over their standard deviations, from five folds."""
        X, factor = self.read(nuclei)
        fixed = self.fixed()
        model = ConformalRegressor(fixed, conformity_score="normalized", cv=5, random_state=0)
        model.fit(X, nuclei[theory] * factor, sample_noise=nuclei["noise"] * factor)
        return lambda new: (
            model.predict(self.read(new)[0]) / self.read(new)[1],
            lambda share: (
                model.predict_interval(self.read(new)[0], share) / self.read(new)[1][:, None]
            ),
        )


def candidates(quick):
    """Kernels and features; powers are searched for the best of them."""
    for features in FEATURES:
        yield f"Matérn 3/2 of {features}", "matern32", features
    if not quick:
        for features, columns in (("Z, N", (0, 1)), ("all but parities", (0, 1, *range(4, 12)))):
            yield f"Matérn 3/2 of {features} + pairing", with_pairing(columns), "all features"


def with_pairing(columns):
    """What sets even and odd apart changes over longer ranges than what they share."""
    kernels = gpytorch.kernels
    common = kernels.MaternKernel(nu=1.5, ard_num_dims=len(columns), active_dims=columns)
    common.lengthscale = [[0.3, 0.3, *[4.0] * (len(columns) - 2)]]
    pairing = kernels.MaternKernel(nu=1.5, ard_num_dims=4, active_dims=(0, 1, 2, 3))
    pairing.lengthscale = [[0.5, 0.5, 4.0, 4.0]]
    parts = [kernels.ScaleKernel(common), kernels.ScaleKernel(pairing)]
    parts[1].outputscale = 0.2
    return parts[0] + parts[1]


def learn(kernel, features, power, nuclei, theory, quick):
    """Fit a process; return the evidence and the process."""
    steps = 15 if quick else 120
    model = Scaled(
        GPRegressor(kernel=kernel, mean="zero", tol=1e-3, max_iter=steps, random_state=0),
        FEATURES[features],
        power,
    )
    return model.fit(nuclei, theory), model


def select(nuclei, theory, quick):
    """Choose kernel, features and power by the evidence.

    Returns
    -------
    choice : tuple
        The learned kernel, from which further searches start, features and power.
    model : Scaled
        The selected process, fitted.
    """
    print(f"\nLog evidence of {len(nuclei['A'])} residuals of {theory} in MeV:\n")
    print("| kernel and features | p | log evidence | s |\n|---|---|---|---|", flush=True)
    best = (-np.inf,)

    def attempt(name, kernel, features, power):
        start = time.perf_counter()
        value, model = learn(kernel, features, power, nuclei, theory, quick)
        seconds = time.perf_counter() - start
        print(f"| {name} | {power:g} | {value:.0f} | {seconds:.0f} |", flush=True)
        result = value, name, (model.process.kernel_, features, power), model
        return result if value > best[0] else best

    for name, kernel, features in candidates(quick):
        best = attempt(name, kernel, features, 0.5)
    _, name, (kernel, features, _), _ = best
    for power in (0.0, 1.0):
        best = attempt(name, kernel, features, power)
    print(f"\nSelected: {name}, p = {best[2][2]:g}")
    return best[2:]


def others(quick):
    """Trees and networks, on all features."""
    seed = {"random_state": 0}
    epochs = {"max_epochs": 20 if quick else 300, "schedule": "cosine", "batch_size": 64}
    return {
        "QuantileBDT": QuantileBDTRegressor(max_iter=50 if quick else 300, **seed),
        "Bootstrap of trees": BootstrapRegressor(n_members=50, **seed),
        "DeepEnsemble of 10": DeepEnsembleRegressor(n_members=10, **epochs, **seed),
        "MDN": MDNRegressor(n_components=2, **epochs, **seed),
        "BNN, Laplace": BNNRegressor(**epochs, **seed),
    }


def row(name, test, theory, mean, interval):
    """One line of the table: RMS, bias, and coverages with their errors."""
    true = test[theory]
    error = mean - true
    found = [coverage(true, *np.transpose(interval(c)), nominal=c) for c in (0.68, 0.95)]
    cells = [f"{each.fraction:.3f} ± {each.error:.3f} (p {each.p_value:.2f})" for each in found]
    width = np.median(np.diff(interval(0.68), axis=1)) / 2
    rms = np.sqrt(np.mean(error**2))
    uncertainty = np.std(error**2) / np.sqrt(len(error)) / (2 * rms)
    print(
        f"| {name} | {rms:.3f} ± {uncertainty:.3f} | {error.mean():+.3f} | {' | '.join(cells)} | "
        f"{width:.3f} |",
        flush=True,
    )


def compare(label, train, test, theory, model, quick):
    """All methods on one test; `model` is fitted."""
    print(f"\n{theory}, {label}: {len(train['A'])} nuclei to learn, {len(test['A'])} to predict\n")
    print("| method | RMS (MeV) | mean error | 68 % | 95 % | median half-width of 68 % |")
    print("|---|---|---|---|---|---|", flush=True)

    def gaussian(mean, std):
        return lambda share: np.stack(norm.interval(share, mean, std), axis=1)

    spread = np.full(len(test["A"]), np.std(train[theory]))
    mean = np.full(len(spread), np.mean(train[theory]))
    row(f"{theory} and its mean", test, theory, mean, gaussian(mean, spread))
    mean, std = model.predict(test)
    row("**GP, selected**", test, theory, mean, gaussian(mean, std))
    mean, interval = model.conformal(train, theory)(test)
    row("**GP, selected, conformal**", test, theory, mean, interval)
    for name, other in others(quick).items():
        other.fit(train["X"], train[theory])

        def interval(share, other=other):
            return other.predict_interval(test["X"], share)

        row(name, test, theory, other.predict(test["X"]), interval)


def main(quick):
    nuclei = load()
    known, new = nuclei["AME2016"], nuclei["new"]
    held_out = np.random.default_rng(0).random(len(known["A"])) < 0.2
    part, test = rows(known, ~held_out), rows(known, held_out)
    choice, model = select(part, "WS4", quick)
    for theory in ("WS4", "liquid drop")[: 1 if quick else 2]:
        if theory != "WS4":
            model = learn(*choice, part, theory, quick)[1]
        compare("random 20 %", part, test, theory, model, quick)
        compare("new in AME2020", known, new, theory, model.condition(known, theory), quick)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer kernels, steps and methods")
    arguments = parser.parse_args()
    # Searches that end before the last digit are compared as they are.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    print(machine(), flush=True)
    main(arguments.quick)
