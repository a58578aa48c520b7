r"""Densities of samplers against closed forms.

Command: ``python benchmarks/density.py [--quick]``

Each sampler learns 20,000 events whose density is known, with default parameters; in eight
dimensions 100,000, too, as that many events have more to tell than a network can learn by heart.
"Lost" is the mean of :math:`\ln p_\mathrm{true} - \ln p_\mathrm{model}` over 5,000 new events, per
dimension: the Kullback-Leibler divergence that is left, in nats, with its statistical error; the
goal is 0.02. In the plane, the integral of the density over all of it tells whether it is one:
1 ± 0.01.
`DiffusionSampler` reads an angle as a point of the plane, where an angle has no density: there it
is not measured. Quick runs have no goals.
"""

import argparse
import time

import numpy as np
from _timing import machine
from scipy import stats
from scipy.special import logsumexp

from sknuc.samplers import DiffusionSampler, FlowSampler


class Mixture:
    """Gaussians in several dimensions, some narrow and correlated."""

    def __init__(self, n_dimensions, n_components, seed):
        rng = np.random.default_rng(seed)
        self.shares = rng.dirichlet(np.full(n_components, 3.0))
        self.means = rng.normal(0, 3, (n_components, n_dimensions))
        self.factors = np.tril(rng.normal(0, 0.5, (n_components, n_dimensions, n_dimensions)))
        self.factors += np.eye(n_dimensions) * rng.uniform(0.3, 1, (n_components, 1, 1))

    def draw(self, n, rng):
        """Events (n, n_dimensions)."""
        which = rng.choice(len(self.shares), n, p=self.shares)
        noise = rng.standard_normal((n, self.means.shape[1], 1))
        return self.means[which] + (self.factors[which] @ noise)[..., 0]

    def log_density(self, X):
        """Log density, (n,)."""
        parts = [
            np.log(share) + stats.multivariate_normal(mean, factor @ factor.T).logpdf(X)
            for share, mean, factor in zip(self.shares, self.means, self.factors, strict=True)
        ]
        return logsumexp(parts, axis=0)


class Rings:
    """Two circles of different radius, blurred, one brighter than the other."""

    radii, shares, width = np.array([1.0, 3.0]), np.array([0.3, 0.7]), 0.15

    def draw(self, n, rng):
        """Events (n, 2)."""
        radius = rng.choice(self.radii, n, p=self.shares)
        angle = rng.uniform(0, 2 * np.pi, n)
        centre = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
        return centre + self.width * rng.standard_normal((n, 2))

    def log_density(self, X):
        """Log density: of one circle, Rice's law of the distance from the centre."""
        distance = np.linalg.norm(X, axis=1)
        radial = [
            np.log(share) + stats.rice(radius / self.width, scale=self.width).logpdf(distance)
            for share, radius in zip(self.shares, self.radii, strict=True)
        ]
        return logsumexp(radial, axis=0) - np.log(2 * np.pi * distance)


class HeavyTails:
    """Student's law with three degrees of freedom, correlated."""

    def __init__(self):
        self.law = stats.multivariate_t([1.0, -1.0], [[1.0, 0.7], [0.7, 1.0]], df=3)

    def draw(self, n, rng):
        """Events (n, 2)."""
        return self.law.rvs(n, random_state=rng)

    def log_density(self, X):
        """Log density, (n,)."""
        return self.law.logpdf(X)


class Exponential:
    """An energy above zero and an angle that depends on it."""

    def draw(self, n, rng):
        """Events (n, 2)."""
        energy = rng.exponential(2.0, n)
        return np.column_stack([energy, rng.vonmises(energy - np.pi, 3.0)])

    def log_density(self, X):
        """Log density, (n,)."""
        angle = stats.vonmises(3.0, loc=X[:, 0] - np.pi).logpdf(X[:, 1])
        return stats.expon(scale=2.0).logpdf(X[:, 0]) + angle


def axis(x, bounded, angle, n=201):
    """Points that reach as far as the tails do, denser where events are, and their widths."""
    u = (np.arange(n) + 0.5) / n
    if angle:
        return 2 * np.pi * (u - 0.5), np.full(n, 2 * np.pi / n)
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75])
    if bounded:
        return middle * u / (1 - u), middle / (1 - u) ** 2 / n
    half, tangent = (high - low) / 2, np.tan(np.pi * (u - 0.5))
    return middle + half * tangent, half * np.pi * (1 + tangent**2) / n


def integral(log_density, X, bounds=None, periodic=None):
    """Of a density over the plane of events X, or what bounds and a period leave of it."""
    axes = [axis(x, i in (bounds or {}), i in (periodic or {})) for i, x in enumerate(X.T)]
    (first, second), (width, height) = zip(*axes, strict=True)
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.exp(log_density(grid)) @ np.outer(width, height).ravel()


def main(quick):
    few, many = (1000, 2000) if quick else (20_000, 100_000)
    laws = {
        "Gaussians, 2-d": (Mixture(2, 5, 0), few),
        "rings": (Rings(), few),
        "Student's law, ν = 3": (HeavyTails(), few),
        "energy and angle": (Exponential(), few),
        "Gaussians, 8-d": (Mixture(8, 4, 1), few),
        f"Gaussians, 8-d, {many:,} events": (Mixture(8, 4, 1), many),
    }

    def verdict(reached):
        return "" if quick else "yes" if reached else "**no**"

    head = ["law", "sampler", "lost, nats per dimension", "reached", "integral", "reached"]
    print(f"| {' | '.join(head)} | fit s | density/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, (law, n) in laws.items():
        rng = np.random.default_rng(2)
        X, X_test = law.draw(n, rng), law.draw(5000, rng)
        own = {"random_state": 0}
        if name == "energy and angle":
            own |= {"bounds": {0: (0, None)}, "periodic": {1: 2 * np.pi}}
        for Sampler in (FlowSampler, DiffusionSampler):
            if Sampler is DiffusionSampler and "periodic" in own:
                print(f"| {name} | {Sampler.__name__} | not measured | | | | | |")
                continue
            start = time.perf_counter()
            model = Sampler(**own).fit(X)
            fitted = time.perf_counter()
            difference = (law.log_density(X_test) - model.score_samples(X_test)) / X.shape[1]
            rate = len(X_test) / (time.perf_counter() - fitted)
            lost, error = difference.mean(), difference.std() / np.sqrt(len(X_test))
            total, right = "", ""
            if X.shape[1] == 2:
                whole = integral(model.score_samples, X, model.bounds, model.periodic)
                total, right = f"{whole:.4f}", verdict(abs(whole - 1) < 0.01)
            print(
                f"| {name} | {Sampler.__name__} | {lost:.4f} ± {error:.4f} | "
                f"{verdict(lost < 0.02)} | {total} | {right} | "
                f"{fitted - start:.0f} | {rate:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove that it runs")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    main(arguments.quick)
