r"""
Showers of a given energy and angle
===================================

Simulating showers is what takes most of the computing of a collider experiment. Here networks learn
showers of electrons in 120 voxels of a calorimeter, given energy and angle, in two steps, as in
CaloFlow (Krause and Shih, arXiv:2106.05285). A flow learns how much energy there is in all voxels:
a sum with a width of a few per cent would drown in the widths of its terms. Then an autoencoder
learns the voxels, some of which are empty, given that sum: each becomes a normal variable by its
own law given the conditions, and what is left is how they hang together.

They are judged at energies and angles of their own, where the simulator makes as many showers: mean
profiles along and across the shower, and how the energy sum, the mean layer, the mean radius and
the number of voxels that are hit fluctuate. Not reproduced are the last millimetre of where the
centres of the layers are, and the last per cent or two of the number of voxels.
"""  # noqa: D205, D400 - the first lines are the page's title.

# %%
# ``--n-events`` sets the statistics; with ``--output`` figures are written to a folder instead of
# being shown.
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from sknuc.datasets import CylindricalVoxels, make_calorimeter_showers
from sknuc.metrics import histogram_iou
from sknuc.samplers import FlowSampler, VAESampler

parser = argparse.ArgumentParser(description="Generate showers of given energies and angles.")
parser.add_argument("--output", type=Path, help="folder for the figures; else they are shown")
parser.add_argument("--n-events", type=int, default=4000, help="showers to learn from")
arguments = parser.parse_args()
plt.rcParams.update({"font.size": 13, "axes.titlesize": 14, "figure.constrained_layout.use": True})

# %%
# Five layers of four rings and six sectors, in lead and liquid argon; 2 to 50 GeV, up to 20° from
# the normal of the layers. Voxels below a threshold of 1 MeV read zero.
THRESHOLD = 1.0  # MeV
N_LAYERS = 5
RINGS = (0.0, 10.0, 25.0, 50.0, 200.0)  # mm
voxels = CylindricalVoxels([RINGS] * N_LAYERS, [6] * N_LAYERS, depth_edges=(0, 3, 6, 9, 13, 20))


def simulate(n_events, random_state, energy=(2.0, 50.0), angle=(0.0, 20.0)):
    """Showers (n, 120) in MeV, and their energies (GeV) and angles (degrees), (n, 2)."""
    showers = make_calorimeter_showers(
        n_events,
        energy=energy,
        angle=angle,
        voxels=voxels,
        particle="electron",
        threshold=THRESHOLD,
        random_state=random_state,
    )
    return showers.data.astype(np.float64), showers.target.astype(np.float64)


# %%
# First step: the sum of all voxels over the energy of the particle.
def log_energy(target):
    """Conditions: the logarithm of the energy, and the angle."""
    return np.column_stack([np.log(target[:, 0]), target[:, 1]])


X, target = simulate(arguments.n_events, 0)
incident = 1e3 * target[:, 0]
total = X.sum(1) / incident
settings = {"random_state": 0, "device": "cpu"}
first = FlowSampler(bounds=(0, None), max_epochs=20, **settings)
first.fit(total[:, None], log_energy(target))

# %%
# Second step: voxels, in units of the energy of the particle, given particle and sum. Exact zeros
# are learnt as such, and so is the threshold, which in these units moves with the energy. What
# comes out is scaled to the sum; what is then below the threshold of the detector reads zero, and
# the other voxels make up for it, since the first step has learnt sums behind the threshold.
second = VAESampler(bounds=(0, None), **settings)
second.fit(X / incident[:, None], np.column_stack([log_energy(target), total]))


def generate(target, random_state):
    """Showers (n, 120), in MeV."""
    n, rng = len(target), np.random.RandomState(random_state)
    sums = first.sample(n, y=log_energy(target), random_state=rng)
    # The first step may make sums a little beyond all that the second one has seen, which is then
    # given the closest that it has.
    given = np.column_stack([log_energy(target), np.clip(sums, total.min(), total.max())])
    made = second.sample(n, y=given, random_state=rng)
    sums = sums * 1e3 * target[:, :1]
    made = made * sums / made.sum(1, keepdims=True)
    made[made < THRESHOLD] = 0.0
    return made * sums / made.sum(1, keepdims=True)


# %%
# Three energies, each at an angle of its own, of which no shower was learnt from in particular.
POINTS = {(5.0, 15.0): "#56B4E9", (15.0, 5.0): "#009E73", (40.0, 10.0): "#D55E00"}
n_judge = max(50, arguments.n_events // 8)
middle = np.asarray(voxels.layer)
radius, x = np.asarray(voxels.r), np.asarray(voxels.x)
summaries = {
    "energy sum / energy": lambda made, energy: made.sum(1) / (1e3 * energy),
    "mean layer": lambda made, energy: made @ middle / made.sum(1),
    "mean radius (mm)": lambda made, energy: made @ radius / made.sum(1),
    "voxels that are hit": lambda made, energy: (made > 0).sum(1).astype(float),
}
showers, overlaps = {}, {}
for seed, (energy, angle) in enumerate(POINTS):
    true, at = simulate(n_judge, 1 + seed, energy, angle)
    made = generate(at, 1 + seed)
    showers[energy, angle] = true, made
    print(f"{energy:g} GeV, {angle:g} degrees, {n_judge} showers:")
    for name, summary in summaries.items():
        a, b = (summary(made, energy) for made in showers[energy, angle])
        ends = tuple(np.quantile(a, [0.01, 0.99]))
        overlaps[energy, angle, name] = found = histogram_iou(a, b, bins=15, range=ends)
        print(
            f"  {name}: mean {a.mean():.4g} simulated, {b.mean():.4g} generated; std "
            f"{a.std():.3g}, {b.std():.3g}; overlap / ceiling {found.ratio:.2f} ± "
            f"{found.error / found.ceiling:.2f}"
        )

# %%
# Lines are simulated, points are generated showers, with statistical errors. Energy along the
# shower, per radiation length, and across it, per area of the rings; below, quantities of single
# showers.
depth = np.asarray(voxels.depth_edges)
ring = np.tile(np.arange(len(RINGS) - 1), voxels.n_voxels // (len(RINGS) - 1))
area = np.pi * np.diff(np.square(RINGS)) / 100  # cm²
figure, axes = plt.subplots(3, 2, figsize=(15, 15.5))
for (point, color), (true, made) in zip(POINTS.items(), showers.values(), strict=True):
    label = "{:g} GeV, {:g}°".format(*point)
    profiles = {
        axes[0, 0]: [voxels.layer_energies(s) / np.diff(depth) for s in (true, made)],
        axes[0, 1]: [
            np.column_stack([s[:, ring == k].sum(1) for k in range(len(area))]) / area
            for s in (true, made)
        ],
    }
    for (ax, (one, other)), edges in zip(profiles.items(), (depth, RINGS), strict=True):
        ax.stairs(one.mean(0), edges, color=color, lw=2.2, label=label)
        error = other.std(0) / np.sqrt(len(other))
        centre = (np.array(edges[1:]) + edges[:-1]) / 2
        ax.errorbar(centre, other.mean(0), error, fmt="o", color=color, ms=6)
    for ax, name in zip(axes[1:].flat, summaries, strict=True):
        one, other = (summaries[name](s, point[0]) for s in (true, made))
        low, high = np.quantile(np.append(one, other), [0.002, 0.998])
        bins = np.linspace(low, high, 16)
        if name == "voxels that are hit":
            # Bins of whole numbers hold equally many of them.
            bins = np.arange(low // 1 - 0.5, high + 3, max(1, round((high - low) / 15)))
        ax.stairs(np.histogram(one, bins)[0], bins, color=color, lw=2.2, label=label)
        counts = np.histogram(other, bins)[0]
        ax.errorbar((bins[1:] + bins[:-1]) / 2, counts, np.sqrt(counts), fmt="o", color=color, ms=5)
        ax.set(xlabel=name.capitalize(), ylabel="Showers")
axes[0, 0].set(
    title="Along the shower", xlabel="Depth (X₀)", ylabel="Energy (MeV / X₀)", yscale="log"
)
axes[0, 1].set(title="Across", xlabel="Radius (mm)", ylabel="Energy (MeV / cm²)", yscale="log")
for ax in axes.flat:
    ax.legend(title="Lines simulated, points generated" if ax is axes[0, 0] else None)
if arguments.output:
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "generated_showers.png", dpi=120)

# %%
# The angle: a shower that comes in at an angle moves away from the axis with depth. Centres of the
# energy in each layer, along the direction of the tilt. The generated ones follow to one to three
# per cent of the way, which is some times the statistical errors in the deeper layers.
ANGLES = np.array([1.0, 5.0, 10.0, 15.0, 19.0])
tilted = {}
for seed, angle in enumerate(ANGLES):
    true, at = simulate(max(50, n_judge // 2), 10 + seed, 15.0, angle)
    for source, made in (("simulated", true), ("generated", generate(at, 10 + seed))):
        layers = voxels.layer_energies(made)
        moved = voxels.layer_energies(made * x)
        centre = moved.sum(0) / layers.sum(0)
        # Of the ratio of two sums over showers.
        error = (moved - centre * layers).std(0) * np.sqrt(len(made)) / layers.sum(0)
        tilted[angle, source] = centre, error
figure, ax = plt.subplots(figsize=(9, 6.2))
for k, color in enumerate(plt.get_cmap("viridis")(np.linspace(0, 0.85, N_LAYERS))):
    one, other = (
        np.array([[part[k] for part in tilted[angle, source]] for angle in ANGLES]).T
        for source in ("simulated", "generated")
    )
    ax.plot(ANGLES, one[0], color=color, lw=2, label=f"layer {k}")
    ax.errorbar(ANGLES, *other, fmt="o", color=color, ms=6)
    away = np.abs(other[0] - one[0])
    print(
        f"Centre of layer {k}: away by {away.mean():.2f} mm on average over angles (statistics: "
        f"{np.hypot(one[1], other[1]).mean():.2f} mm), and moves by {np.ptp(one[0]):.1f} mm"
    )
ax.set(
    title="Lines simulated, points generated, 15 GeV",
    xlabel="Angle (degrees)",
    ylabel="Centre of the energy (mm)",
)
ax.legend()
if arguments.output:
    figure.savefig(arguments.output / "generated_showers_angle.png", dpi=120)
else:
    plt.show()
