r"""
One curve, every way to say how sure
====================================

A curve y(x) is measured in two ranges of x, with a noise that grows. What is it there, what between
them, and what beyond? Every method of `sknuc.uncertainty` and `sknuc.distributions` answers with
the same two words, ``predict_quantiles`` and ``predict_interval``; here are all the answers.

There are two kinds of not knowing. Noise is in the data: all methods learn how large it is, but the
Gaussian process, Laplace's approximation and the bootstrap give all events the same. Ignorance is
where there are no data. Methods that ask which other functions would have fitted (Gaussian
processes, Bayesian networks, ensembles) see it grow, but how fast is their assumption about
functions, which no data there have tested. So it is counted here, region by region.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` the figure is written to a folder instead of
# being shown.
import argparse
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sknuc.distributions import (
    FlowRegressor,
    IQNRegressor,
    MDNRegressor,
    QuantileBDTRegressor,
    QuantileNetRegressor,
)
from sknuc.encoders import MLP
from sknuc.metrics import coverage
from sknuc.networks import NeuralRegressor
from sknuc.uncertainty import (
    BNNRegressor,
    BootstrapRegressor,
    ConformalRegressor,
    DeepEnsembleRegressor,
    GPRegressor,
    MCDropoutRegressor,
)

parser = argparse.ArgumentParser(description="Compare all methods on one curve.")
parser.add_argument("--output", type=Path, help="folder for the figure; else it is shown")
parser.add_argument("--n-events", type=int, default=300, help="events to train on")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 12, "axes.titlesize": 13, "figure.constrained_layout.use": True})

# %%
# The truth, and the regions of which we ask: where there are data, in the gap between them, and
# outside. The noise is Gaussian, and its width is that of the second function.
REGIONS = {
    "inside": ((-2.0, -0.5), (0.5, 2.0)),
    "gap": ((-0.5, 0.5),),
    "outside": ((-3.5, -2.0), (2.0, 3.5)),
}


def response(x):
    """The true curve."""
    return np.sin(2 * x) + 0.5 * x


def noise(x):
    """The true standard deviation."""
    return 0.05 + 0.05 * np.clip(x + 2, 0, 4)


def draw(n_events, region, rng):
    """Events that are uniform in a region."""
    low, high = np.array(REGIONS[region])[rng.integers(len(REGIONS[region]), size=n_events)].T
    x = rng.uniform(low, high)
    return x[:, None], response(x) + noise(x) * rng.standard_normal(n_events)


rng = np.random.default_rng(0)
X, y = draw(arguments.n_events, "inside", rng)
tests = {region: draw(1000, region, rng) for region in REGIONS}

# %%
# Networks are small and smooth; what is not given is as it comes. The first seven methods ask which
# other functions would have fitted; the others describe what they have seen, and conformal
# prediction guarantees how often its intervals hold events like those.
network = {
    "encoder": MLP(hidden_layer_sizes=(32, 32), activation="tanh"),
    "max_epochs": 100,
    "batch_size": 32,
    "random_state": 0,
    "device": "cpu",
}
small = network | {"encoder": MLP(hidden_layer_sizes=(24,), activation="tanh")}
chains = {"n_chains": 2, "n_warmup": 200, "n_samples": 200, "thinning": 4, "n_leapfrog": 10}
with_dropout = network | {"encoder": MLP(hidden_layer_sizes=(64, 64), dropout=0.1)}
# The outermost levels need the most rounds: of 300 events, few lie beyond them.
trees = QuantileBDTRegressor(max_iter=300, random_state=0, n_jobs=1)
models = {
    "Gaussian process": GPRegressor(random_state=0),
    "Bayesian network, HMC": BNNRegressor(inference="hmc", heteroscedastic=True, **small, **chains),
    "Bayesian network, Laplace": BNNRegressor(**small),
    "Bayesian network, variational": BNNRegressor(
        inference="variational", heteroscedastic=True, **small
    ),
    "Deep ensemble": DeepEnsembleRegressor(n_members=10, **network),
    "Bootstrap of networks": BootstrapRegressor(
        NeuralRegressor(**network), n_members=10, random_state=0
    ),
    "Monte-Carlo dropout": MCDropoutRegressor(**with_dropout),
    "Conformal, of quantile trees": ConformalRegressor(
        trees, conformity_score="cqr", cv="split", random_state=0
    ),
    "Quantile network": QuantileNetRegressor(**network),
    "Implicit quantile network": IQNRegressor(**network),
    "Mixture density network": MDNRegressor(n_components=2, **network),
    "Spline flow": FlowRegressor(**network | {"max_epochs": 50}),
}

# %%
# Fit, and measure in each region how often the intervals hold new events. Chains as short as these
# warn that they have not mixed (four times as many steps are not enough); what fits warn of is
# printed below the table.
LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)
grid = np.linspace(-3.5, 3.5, 141)
bands, covered, warned = {}, {}, {}
print(f"{'':29} CPU s   " + "   ".join(f"{region} 68 % / 95 %" for region in REGIONS))
for name, model in models.items():
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(X, y)
    warned[name] = [str(w.message) for w in caught if w.category is ConvergenceWarning]
    seconds = time.process_time() - start
    bands[name] = model.predict_quantiles(grid[:, None], LEVELS)
    for region, (X_test, y_test) in tests.items():
        ends = model.predict_quantiles(X_test, LEVELS).T
        covered[name, region] = [
            coverage(y_test, *pair).fraction for pair in ((ends[1], ends[3]), (ends[0], ends[4]))
        ]
    columns = "   ".join(
        f"{low:{len(region) + 5}.3f} / {high:.3f}"
        for region in REGIONS
        for low, high in [covered[name, region]]
    )
    print(f"{name:30} {seconds:5.1f}   {columns}")
for name, messages in warned.items():
    for message in messages:
        print(f"{name} warns: {message}")

# %%
# What the table says, by the 95 % intervals: who holds as much as that, or more, up to two standard
# errors of the share. Beyond the data nobody should be believed who has not said what he assumes.
# What has not converged is not counted: its share is that of this start of the chains.
counted = [name for name in models if not warned[name]]
for region in REGIONS:
    shares = {name: covered[name, region][1] for name in counted}
    enough = 0.95 - 2 * np.sqrt(0.95 * 0.05 / len(tests[region][1]))
    holding = [name for name, share in shares.items() if share >= enough]
    least, most = min(shares, key=shares.get), max(shares, key=shares.get)
    print(
        f"95 % intervals, {region}: {len(holding)} of {len(counted)} methods hold that share; from "
        f"{shares[least]:.2f} ({least}) to {shares[most]:.2f} ({most})"
    )
left_out = [name for name in models if warned[name]]
if left_out:
    print(f"Not counted, as not converged: {'; '.join(left_out)}")

# %%
# The bands hold 68 and 95 % of new events, according to the method; between the dashed lines are
# 95 % in truth. Data are between the dotted lines.
figure, axes = plt.subplots(3, 4, figsize=(16, 10), sharex=True, sharey=True)
truth, width = response(grid), 1.96 * noise(grid)
for (name, band), ax in zip(bands.items(), axes.flat, strict=True):
    ax.fill_between(grid, band[:, 0], band[:, 4], color="#0072B2", alpha=0.2, lw=0, label="95 %")
    ax.fill_between(grid, band[:, 1], band[:, 3], color="#0072B2", alpha=0.35, lw=0, label="68 %")
    ax.plot(grid, band[:, 2], color="#0072B2", lw=2, label="median")
    ax.plot(X[:, 0], y, ".", color="k", ms=2.5, alpha=0.6, label="data")
    ax.plot(grid, truth, color="#D55E00", lw=1.5, label="truth")
    ends = np.stack([truth - width, truth + width], axis=1)
    ax.plot(grid, ends, color="#D55E00", lw=1, ls="--", label=["95 % in truth", "_"])
    shares = "  ".join(f"{region} {covered[name, region][1]:.2f}" for region in REGIONS)
    title = f"{name}\n(not converged)" if warned[name] else name
    ax.set(title=title, xlim=(-3.5, 3.5), ylim=(-4.5, 4.5))
    ax.text(0.5, 0.03, f"95 % hold: {shares}", transform=ax.transAxes, ha="center", fontsize=10)
    for end in (-2.0, -0.5, 0.5, 2.0):
        label = "limits of the data" if end == -2.0 else None
        ax.axvline(end, color="0.6", lw=1, ls=":", label=label)
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
for ax in axes[-1]:
    ax.set_xlabel("x")
figure.supylabel("y")
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "uncertainty_methods.png", dpi=120)
else:
    plt.show()
