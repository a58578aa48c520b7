r"""
Nuclear masses beyond the known
===============================

Of some 7000 nuclei that may exist the masses of about 2500 are measured. Those of the others decide
where in the stars heavy elements are made, and must be extrapolated: by a theory, here the
macroscopic-microscopic model WS4, and by what measured nuclei tell about its error. A Gaussian
process learns that error, and, which matters more, how fast the knowledge is lost with the distance
to the last measured nucleus.

The process is trained on the masses of AME2016. Those that were measured for AME2020 are its test.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` limits the number of nuclei that hyper-parameters are learned from; with
# ``--output`` figures are written to a folder instead of being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sknuc.datasets import fetch_ame, fetch_ws4, liquid_drop_binding_energy, nuclear_features
from sknuc.metrics import coverage
from sknuc.uncertainty import GPRegressor

parser = argparse.ArgumentParser(description="Extrapolate nuclear masses with error bars.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=1200, help="nuclei to learn the kernel from")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})

# %%
# Mass excesses in MeV. Without the tables, and without a network to get them from, the pictures are
# of a world in which nature is another liquid drop with shells, and the theory is the usual one.
HYDROGEN, NEUTRON = 7.28897, 8.07132  # MeV, mass excess of the atom and of the neutron
try:
    ws4 = fetch_ws4()
    tables = [fetch_ame(edition, measured_only=True) for edition in (2016, 2020)]
    theory_name, editions = "WS4", ("AME2016", "AME2020")
    Z, N, theory = ws4.Z, ws4.N, ws4.mass_excess
    measured, uncertainty = (np.full((2, len(Z)), np.nan) for _ in range(2))
    for row, table in enumerate(tables):
        place = {nucleus: i for i, nucleus in enumerate(zip(table.Z, table.N, strict=True))}
        found = np.array([place.get(nucleus, -1) for nucleus in zip(Z, N, strict=True)])
        measured[row] = np.where(found < 0, np.nan, table.mass_excess[found] / 1000)
        uncertainty[row] = table.mass_excess_uncertainty[found] / 1000
except OSError as error:
    print(f"The tables could not be had, the masses are simulated. {error}")
    theory_name, editions = "Liquid drop", ("simulated", "simulated")
    Z, N = (axis.ravel() for axis in np.mgrid[8:111, 8:200])
    stable = 0.5 * (Z + N) / (1 + 0.0077 * (Z + N) ** (2 / 3))
    Z, N, away = (values[np.abs(Z - stable) < 14] for values in (Z, N, Z - stable))
    free = Z * HYDROGEN + N * NEUTRON
    theory = free - liquid_drop_binding_energy(Z, N)
    shells = 3 * np.exp(-nuclear_features(Z, N)[:, 3] / 2)
    truth = free - liquid_drop_binding_energy(Z, N, volume=15.805, pairing=11.0) - shells
    known = np.stack([np.abs(away) < 5, np.abs(away) < 5.5])
    measured = np.where(known, truth, np.nan)
    uncertainty = np.full_like(measured, 0.01)

light = (Z < 8) | (N < 8)
Z, N, theory = Z[~light], N[~light], theory[~light]
measured, uncertainty = measured[:, ~light], uncertainty[:, ~light]
train = np.isfinite(measured[0])
new = np.isfinite(measured[1]) & ~train
residual = measured - theory


# %%
# The process knows Z, N and the parities of both: nuclei that differ by one neutron are neighbours,
# but one of them has a pair more. Errors of light nuclei are larger, so that the square root of A
# times the error is learned, and the known error of each measurement is noise. That errors go on to
# fall so beyond the heaviest measured nucleus is what no measurement says: from there on the factor
# stays as it is. The kernel is learned from some nuclei, and then conditioned on all.
X = np.column_stack([Z, N, (-1.0) ** Z, (-1.0) ** N])
scale = np.sqrt(np.minimum(Z + N, (Z + N)[train].max()) / 100)
noise = uncertainty[0] * scale
some = np.random.default_rng(0).permutation(np.flatnonzero(train))[: arguments.n_events]
learned = GPRegressor(kernel="matern32", mean="zero", tol=1e-2, random_state=0)
learned.fit(X[some], (scale * residual[0])[some], sample_noise=noise[some])
model = GPRegressor(kernel=learned.kernel_, mean="zero", noise=learned.noise_, max_iter=0)
model.fit(X[train], (scale * residual[0])[train], sample_noise=noise[train])
correction, std = (values / scale for values in model.predict(X, return_std=True))
mass = theory + correction
# Where nine tenths of the process's own spread are left, measured nuclei tell next to nothing.
unknown = std * scale > 0.9 * np.max(std * scale)

rms = {
    theory_name: np.sqrt(np.mean(residual[1, new] ** 2)),
    f"{theory_name} and Gaussian process": np.sqrt(np.mean((mass - measured[1])[new] ** 2)),
}
for name, value in rms.items():
    print(f"{name}: RMS {value:.3f} MeV of the {new.sum()} new nuclei")
width = np.hypot(std, uncertainty[1])[new]
covered = coverage(measured[1, new], mass[new] - width, mass[new] + width, nominal=0.6827)
print(f"Within one standard deviation: {covered}")


# %%
# A nucleus is bound against the emission of nucleons if one or two of them are missing in none of
# its neighbours. Masses of neighbours err together, so that the probability is found from draws of
# whole chains: isotopes for neutrons, isotones for protons.
def chain(which, fixed):
    """Draw the masses of a chain, (n, 1000), in the order of the running number."""
    running = N if which is Z else Z
    members = np.flatnonzero(which == fixed)
    members = members[np.argsort(running[members])]
    draws = model.sample_functions(X[members], n_samples=1000, random_state=0)
    return members, running[members], theory[members, None] + draws / scale[members, None]


def is_bound(energies):
    """Whether neither one nor two nucleons leave, in each draw.

    What has no neighbour in the table is bound as far as it can tell.
    """
    return ~((energies[0] < 0) | (energies[1] < 0))


def separation(masses, number, k, nucleon):
    """Energies that it takes to remove k nucleons, (n, 1000); NaN at the ends of the chain."""
    energy = np.full_like(masses, np.nan)
    energy[k:] = masses[:-k] + k * nucleon - masses[k:]
    energy[k:][number[k:] - number[:-k] != k] = np.nan
    return energy


bound = np.ones(len(Z))
for which, nucleon in ((Z, NEUTRON), (N, HYDROGEN)):
    for fixed in np.unique(which):
        members, number, masses = chain(which, fixed)
        energies = [separation(masses, number, k, nucleon) for k in (1, 2)]
        bound[members] *= is_bound(energies).mean(axis=1)

# %%
# The chart of nuclides. The colour is the error bar of the mass: it is small inside of the outline
# of what is measured, and grows beyond, up to the error that the theory has where it can be tested.
# It grows no further, and where it has come there the chart is hatched: that the theory is as good
# there, above all for the superheavy ones, is an assumption and no measurement. Coloured nuclei are
# bound with a probability of more than one half; grey ones with one of 16 to 50 %, the range of the
# drip lines. The thin outline is that of the table: what ends there, as the heaviest elements and
# the most neutron-rich superheavy nuclei do, ends for no reason of nature.
shape = (Z.max() + 2, N.max() + 2)


def on_chart(values, empty=np.nan):
    """Put values on the plane of (Z, N)."""
    plane = np.full(shape, empty, dtype=np.float64)
    plane[Z, N] = values
    return plane


figure, ax = plt.subplots(figsize=(13.3, 7.2))
coloured = (bound > 0.5) | train | new
sure = on_chart(np.where(coloured, std, np.nan))
image = ax.pcolormesh(
    np.arange(shape[1]),
    np.arange(shape[0]),
    sure,
    norm=LogNorm(0.03, 0.6),
    cmap="viridis_r",
    shading="nearest",
    rasterized=True,
)
maybe = on_chart(np.where((bound > 0.16) & ~coloured, 0.25, np.nan))
ax.pcolormesh(maybe, cmap="Greys", vmin=0, vmax=1, shading="nearest", rasterized=True)
plt.rcParams["hatch.linewidth"] = 0.5
ax.contourf(on_chart(unknown & coloured, 0.0), [0.5, 1.5], colors="none", hatches=["////"])
plane = on_chart(train, 0.0)
ax.contour(np.arange(shape[1]), np.arange(shape[0]), plane, [0.5], colors="k", linewidths=1.0)
ax.plot(N[new], Z[new], "s", color="tab:red", ms=3.2)
table = on_chart(1.0, 0.0)
ax.contour(np.arange(shape[1]), np.arange(shape[0]), table, [0.5], colors="0.6", linewidths=0.6)
for magic in (20, 28, 50, 82, 126, 184):
    for here, other, draw in ((Z, N, ax.hlines), (N, Z, ax.vlines)):
        across = other[(here == magic) & (bound > 0.5)]
        if len(across):
            draw(magic, across.min() - 4, across.max() + 3, color="0.35", lw=0.8, ls=":")
            # At the ends where the lines leave the chart, so that they meet no other.
            place = (across.max() + 4, magic) if here is Z else (magic, across.max() + 4)
            side = {"ha": "left", "va": "center"} if here is Z else {"ha": "center", "va": "bottom"}
            ax.text(*place, f"{'Z' if here is Z else 'N'} = {magic}", fontsize=10, **side)
ax.set(
    xlabel="Neutrons N",
    ylabel="Protons Z",
    xlim=(0, N[bound > 0.5].max() + 18),
    ylim=(0, Z[bound > 0.5].max() + 12),
    title=f"Masses by {theory_name} and a Gaussian process: {train.sum()} measured nuclei, "
    f"{np.count_nonzero((bound > 0.5) & ~train)} more of the table that should be bound",
)
bar = figure.colorbar(image, label="Error bar of the mass (MeV)", extend="both", pad=0.01)
bar.set_ticks([0.03, 0.05, 0.1, 0.2, 0.3, 0.5], labels=["0.03", "0.05", "0.1", "0.2", "0.3", "0.5"])
bar.minorticks_off()
ax.legend(
    handles=[
        Line2D([], [], color="k", label=f"measured ({editions[0]})"),
        Line2D([], [], color="tab:red", marker="s", ls="", ms=5, label=f"new ({editions[1]})"),
        Patch(facecolor="none", edgecolor="k", hatch="////", lw=0, label="error bar assumed"),
        Patch(facecolor="0.8", label="bound with 16 to 50 %"),
        Line2D([], [], color="0.6", lw=0.6, label="end of the table"),
    ],
    loc="upper left",
    frameon=False,
)
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "masses_chart.png", dpi=120)

# %%
# Two chains of isotopes, to the drip line: the correction of the theory with the bands that hold 68
# and 95 %, and the energy that it takes to remove two neutrons. Each draw of the masses has a drip
# line of its own, behind its last bound isotope: 68 % of them are in the grey range.
figure, axes = plt.subplots(2, 2, figsize=(13.3, 8.4), sharex="col", height_ratios=[1, 1.4])
shown = {}
for (top, bottom), (element, protons) in zip(
    axes.T, {"calcium": 20, "tin": 50}.items(), strict=True
):
    members, number, masses = chain(Z, protons)
    away = masses - theory[members, None]
    energy = separation(masses, number, 2, NEUTRON)
    holds = is_bound([separation(masses, number, 1, NEUTRON), energy])
    last = np.where(holds, number[:, None], 0).max(axis=0)
    shown[element] = {"N": number, "correction": away, "energy": energy, "last": last}
    low, high = number[train[members]].min(), int(np.median(last))
    drip = np.add(np.quantile(last, [0.16, 0.84], method="nearest"), [-0.5, 0.5])
    print(
        f"Last bound isotope of {element}: N = {high}, with 68 % from {drip[0] + 0.5:.0f} to "
        f"{drip[1] - 0.5:.0f}"
    )
    for panel, draws in ((top, away), (bottom, energy)):
        for level, alpha in ((0.95, 0.2), (0.68, 0.4)):
            ends = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=1)
            name = f"{100 * level:.0f} %"
            panel.fill_between(number, *ends, color="tab:blue", alpha=alpha, lw=0, label=name)
        panel.plot(number, draws.mean(axis=1), color="tab:blue", lw=1.5, label="mean")
        panel.axhline(0, color="k", lw=0.8)
    for edition, (style, label) in enumerate((("ko", editions[0]), ("rs", f"new, {editions[1]}"))):
        own = members[(train, new)[edition][members]]
        error = uncertainty[edition, own]
        top.errorbar(N[own], residual[edition, own], error, fmt=style, ms=4, lw=1, label=label)
        # Both members of a pair are measured by the later edition.
        known = dict(zip(N[members], measured[1, members], strict=True))
        pairs = np.array([known.get(n - 2, np.nan) + 2 * NEUTRON - known[n] for n in N[own]])
        bottom.plot(N[own], pairs, style, ms=4)
    # The bands, which decide the drip line, are too narrow for the axis of the whole chain.
    inset = bottom.inset_axes([0.5, 0.58, 0.34, 0.3])
    for level, alpha in ((0.95, 0.2), (0.68, 0.4)):
        ends = np.quantile(energy, [(1 - level) / 2, (1 + level) / 2], axis=1)
        inset.fill_between(number, *ends, color="tab:blue", alpha=alpha, lw=0)
    inset.plot(number, energy.mean(axis=1), color="tab:blue", lw=1.5)
    inset.axhline(0, color="k", lw=0.8)
    inset.set(xlim=(drip[0] - 4, drip[1] + 4), ylim=(-2, 2))
    inset.tick_params(labelsize=9)
    inset.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    bottom.indicate_inset_zoom(inset, edgecolor="0.3")
    for panel in (bottom, inset):
        panel.axvspan(*drip, color="0.85", lw=0, zorder=0)
        panel.axvline(high + 0.5, color="0.4", ls="--", lw=1)
    bottom.text(drip[0], 0.92, "drip line ", ha="right", transform=bottom.get_xaxis_transform())
    top.set(
        title=f"{element.capitalize()}, Z = {protons}",
        ylabel=f"Mass − {theory_name} (MeV)",
        ylim=(-2.2, 2.2),
    )
    bottom.set(
        xlabel="Neutrons N",
        ylabel="Two-neutron separation\nenergy (MeV)",
        xlim=(low - 1, drip[1] + 4),
        ylim=(-4, 32),
    )
axes[0, 0].legend(loc="upper left", ncols=3, frameon=False)
if arguments.output:
    figure.savefig(arguments.output / "masses_isotopes.png", dpi=120)
else:
    plt.show()
