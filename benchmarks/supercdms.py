"""Where a particle hit: all regressors on positions of the source that no fit has seen.

Run with ``python benchmarks/supercdms.py [--quick]``; SKNUC_DATA names the folder of the data.

A radioactive source stood at ten positions along a radius of a SuperCDMS detector for the training
and the validation, and at three other ones for the last test. Validation events are of the
positions that a model was trained on: whoever can tell ten positions apart knows the answer. At the
unseen positions only that helps which the pulses say about places between them.

All choices are made on the training file, by leaving out one position after the other. The
candidates follow from how positions are found from times: a pulse from the distance d starts at
t0 + d / v, so that differences of squared distances, which are linear in the position, are
quadratic in times; t0 is common to all channels and must drop out, with the help of one of them,
of the earliest or of the mean. Few coefficients, and smooth functions of few times, are what ten
positions can determine.
"""

import argparse
import time
import warnings

import gpytorch
import numpy as np
from _timing import machine
from sklearn.base import clone
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVR

from sknuc.datasets import fetch_supercdms
from sknuc.distributions import (
    FlowRegressor,
    IQNRegressor,
    MDNRegressor,
    QuantileBDTRegressor,
    QuantileNetRegressor,
)
from sknuc.encoders import MLP
from sknuc.metrics import coverage, crps_quantile
from sknuc.uncertainty import (
    BNNRegressor,
    BootstrapRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
    MCDropoutRegressor,
)

# Quantiles of calibrations by position take a while, see below.
LEVELS = np.linspace(0.05, 0.95, 19)


def times(X, reference="A", quantities=("start",)):
    """Start times of the five channels after a reference, and further quantities, in µs.

    Parameters
    ----------
    X : ndarray of shape (n_events, 19)
        In s; the start of channel A is 0 and no column.
    reference : {"A", "earliest", "mean"}
    quantities : tuple of {"start", "rise", "fall", "width"}

    Returns
    -------
    times : ndarray of shape (n_events, 4 or 5 columns for each quantity)
    """
    columns = {"rise": slice(4, 9), "fall": slice(9, 14), "width": slice(14, 19)}
    start = np.column_stack([np.zeros(len(X)), X[:, :4]])
    if reference == "A":
        start = start[:, 1:]
    else:
        find = {"earliest": np.min, "mean": np.mean}[reference]
        start = start - find(start, axis=1, keepdims=True)
    return 1e6 * np.column_stack([start, *(X[:, columns[name]] for name in quantities[1:])])


def candidates(quick):
    """Search space: which times, of which degree, and how smooth a function of them."""
    pipeline = Pipeline(
        [
            ("times", FunctionTransformer(times)),
            ("scale", StandardScaler()),
            ("powers", PolynomialFeatures(include_bias=False)),
            ("again", StandardScaler()),
            ("model", LinearRegression()),
        ]
    )
    quantities = [("start",), ("start", "rise"), ("start", "rise", "fall", "width")]
    seen = [
        {"reference": reference, "quantities": names}
        for reference in ("A", "earliest", "mean")
        for names in quantities[: 1 if quick else 3]
    ]
    # Functions with a length of about three times the spread of all times together, and a noise
    # that leaves the position of 400 events an error of the order of that between positions.
    smooth = gpytorch.kernels.RBFKernel()
    smooth.lengthscale = 6.0
    gaussian_process = GPRegressor(
        kernel=gpytorch.kernels.ScaleKernel(smooth),
        mean="linear",
        noise=10.0,
        standardize=False,
        max_iter=0,
        max_exact_samples=1,
        n_inducing=100,
        random_state=0,
    )
    space = [
        {
            "times__kw_args": seen,
            "powers__degree": [1, 2],
            "model": [
                LinearRegression(),
                *(Ridge(alpha) for alpha in (10.0, 100.0)),
                *(Lasso(alpha, max_iter=5000, tol=1e-3) for alpha in (0.03, 0.1, 0.3)),
                *(PLSRegression(n) for n in (3, 4)),
            ],
        },
        {
            "times__kw_args": seen,
            "powers__degree": [1],
            "model": [SVR(C=C, gamma=0.01, epsilon=1.0) for C in (1.0, 10.0)],
        },
        {
            "times__kw_args": seen[:: 1 if quick else 3],
            "powers__degree": [1],
            "model": [clone(gaussian_process).set_params(noise=noise) for noise in (3.0, 30.0)],
        },
    ]
    return pipeline, space


class GaussianProcessInSteps(GPRegressor):
    """A process whose kernel has the largest evidence of three, learned on every third event."""

    def fit(self, X, y):
        """Learn on a third, as time is short, and condition on all."""
        learned = max(
            (
                GPRegressor(**self.get_params() | {"kernel": kernel}).fit(X[::3], y[::3])
                for kernel in ("matern12", "matern32", "matern52")
            ),
            key=lambda process: process.log_marginal_likelihood_value_,
        )
        self.chosen = learned.kernel
        self.set_params(kernel=learned.kernel_, mean="zero", noise=learned.noise_, max_iter=0)
        return super().fit(X, y)


def regressors(quick, chosen):
    """All methods, with what their ``fit`` gets; groups go to those that know what they are."""
    seed = {"random_state": 0}
    net = {"encoder": MLP(), "max_epochs": 10 if quick else 100, **seed}
    process = {"mean": "linear", "tol": 1e-3, "max_iter": 10 if quick else 60, **seed}
    trees = HistGradientBoostingRegressor(max_iter=50 if quick else 200, **seed)
    by_position = {"cv": LeaveOneGroupOut(), "tail": "student"}
    return {
        "least squares, conformal by events": ConformalRegressor(LinearRegression(), **seed),
        "boosted trees, conformal by events": ConformalRegressor(trees, **seed),
        "QuantileBDT": QuantileBDTRegressor(max_iter=50 if quick else 200, **seed),
        "Bootstrap of trees": BootstrapRegressor(n_members=5 if quick else 50, **seed),
        "QuantileNet": QuantileNetRegressor(**net),
        "IQN": IQNRegressor(**net),
        "MDN": MDNRegressor(**net),
        "Flow": FlowRegressor(**net | {"max_epochs": 5 if quick else 40}),
        "DeepEnsemble": DeepEnsembleRegressor(**net),
        "MCDropout": MCDropoutRegressor(
            **net | {"encoder": MLP(hidden_layer_sizes=(64, 64), dropout=0.1)}
        ),
        "BNN, Laplace": BNNRegressor(**net),
        "GP, Matérn by evidence": GaussianProcessInSteps(**process),
        "boosted trees, conformal by positions": ConformalRegressor(trees, **by_position),
        "least squares, conformal by positions": ConformalRegressor(
            LinearRegression(), **by_position
        ),
        "**selected**, conformal by positions": ConformalRegressor(chosen, **by_position),
    }


def judge(model, X, y):
    """RMSE, CRPS and NLL, coverages of 68 and 95 % with their binomial errors; half-widths."""
    quantiles = model.predict_quantiles(X, [*LEVELS, 0.025, 0.16, 0.84, 0.975])
    low95, low68, high68, high95 = quantiles[:, -4:].T
    density = model.log_prob(X, y).mean() if hasattr(model, "log_prob") else np.nan
    widths = [
        f"{np.median(high - low) / 2:.2f}" for low, high in ((low68, high68), (low95, high95))
    ]
    scores = [
        f"{np.sqrt(np.mean((model.predict(X) - y) ** 2)):.2f}",
        f"{crps_quantile(y, quantiles[:, :-4], LEVELS):.2f}",
        "–" if np.isnan(density) else f"{-density:.3g}",
        *(
            f"{found.fraction:.3f} ± {found.error:.3f}"
            for found in (coverage(y, low68, high68), coverage(y, low95, high95))
        ),
    ]
    return scores, widths


def select(X, y, groups, quick, n_jobs):
    """Choose by leaving out positions, and print how close the race was."""
    start = time.perf_counter()
    pipeline, space = candidates(quick)
    search = GridSearchCV(
        pipeline,
        space,
        scoring="neg_root_mean_squared_error",
        cv=LeaveOneGroupOut(),
        n_jobs=n_jobs,
    ).fit(X, y, groups=groups)
    order = np.argsort(search.cv_results_["rank_test_score"], kind="stable")
    print(
        f"{len(order)} candidates in {time.perf_counter() - start:.0f} s. The best, by the mean "
        "over positions of the RMSE at the one that was left out:\n"
    )
    print("| RMSE (mm) | reference | quantities | degree | model |")
    print("|---|---|---|---|---|")
    for i in order[:8]:
        params = search.cv_results_["params"][i]
        seen = params["times__kw_args"]
        print(
            f"| {-search.cv_results_['mean_test_score'][i]:.2f} | {seen['reference']} | "
            f"{', '.join(seen['quantities'])} | {params['powers__degree']} | {params['model']} |"
        )
    return search.best_estimator_


def main(quick, n_jobs):
    parts = {name: fetch_supercdms(subset=name) for name in ("training", "validation", "unseen")}
    train = parts.pop("training")
    thin = slice(None, None, 5 if quick else 1)
    X, y, groups = train.data[thin], train.target[thin], train.groups[thin]
    chosen = select(X, y, groups, quick, n_jobs)

    left_out = cross_val_predict(chosen, X, y, groups=groups, cv=LeaveOneGroupOut())
    print("\nThe selected model, refitted on all training positions; RMSE and mean error in mm:\n")
    print("| position | events | RMSE | mean error |")
    print("|---|---|---|---|")
    for name, predicted, true in (
        ("left out in turn", left_out, y),
        *((name, chosen.predict(part.data), part.target) for name, part in parts.items()),
    ):
        for position in ("all", *(np.unique(true) if name != "validation" else ())):
            own = np.ones(len(true), bool) if position == "all" else true == position
            where = position if position == "all" else f"{position:.3f}"
            error = (predicted - true)[own]
            print(
                f"| {name}: {where} | {own.sum()} | {np.sqrt(np.mean(error**2)):.2f} | "
                f"{error.mean():+.2f} |"
            )

    columns = ["RMSE (mm)", "CRPS (mm)", "NLL", "68 %", "95 %"]
    head = [f"{name}: {column}" for name in parts for column in columns]
    print(f"\n| method | {' | '.join(head)} | fit s |")
    print("|---" * (len(head) + 2) + "|", flush=True)
    table = []
    for name, model in regressors(quick, clone(chosen)).items():
        start = time.perf_counter()
        by_position = name.endswith("positions")
        model.fit(X, y, groups=groups) if by_position else model.fit(X, y)
        seconds = time.perf_counter() - start
        name += f": {model.chosen}" if hasattr(model, "chosen") else ""
        judged = [judge(model, part.data, part.target) for part in parts.values()]
        row = [cell for scores, _ in judged for cell in scores]
        table.append([name, *(cell for _, widths in judged for cell in widths)])
        print(f"| {name} | {' | '.join(row)} | {seconds:.0f} |", flush=True)

    print("\nMedian half-widths of the intervals in mm:\n")
    head = [f"{name}: {share}" for name in parts for share in ("68 %", "95 %")]
    print(f"| method | {' | '.join(head)} |")
    print("|---" * (len(head) + 1) + "|")
    for row in table:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events and epochs")
    parser.add_argument("--n-jobs", type=int, default=1, help="processes of the search")
    arguments = parser.parse_args()
    # Searches that are cut short, for time's sake, are compared as they are.
    warnings.filterwarnings("ignore", category=ConvergenceWarning)
    print(machine(), flush=True)
    main(arguments.quick, arguments.n_jobs)
