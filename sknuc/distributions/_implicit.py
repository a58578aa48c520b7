r"""The distributions that an implicit quantile network predicts.

Of the first target, the network gives every quantile, and moments are integrals over the normal
deviate z by the trapezoidal rule, :math:`E[g(y)] = \int g(f(z))\,\varphi(z)\,dz`. The others have
quantile functions given those before them only: their moments and quantiles are those of a fixed
set of samples, the same quasi-random numbers for every event, so that a prediction depends neither
on chance nor on the other events. The density of a target is :math:`\varphi(z)/f'(z)` where
:math:`f(z) = y`.
"""

import copy
from functools import cached_property

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from sknuc.distributions._levels import law_points, sobol_ranks
from sknuc.predictive import Predictive

__all__ = ["N_NODES", "ImplicitQuantiles", "wrap"]

N_NODES = 129
# From here on, in standard deviations of the targets, samples are made in double precision.
_FAR = 1e3
_BLOCK_NUMBERS = 2**22


class ImplicitQuantiles(Predictive):
    """Distributions of t targets for n events, by a network.

    Parameters
    ----------
    network : sknuc.nn.AutoregressiveQuantiles
        On its device.
    features : ndarray of shape (n, n_features)
        What its encoder makes of the events.
    reference : ndarray of shape (n, t)
        What targets are differences to: the middle of the period of periodic ones, 0 of others.
    mean, scale : ndarray of shape (t,)
        The difference that is 0 for the network, and the size of its unit.
    periods : ndarray of shape (t,)
        0 for targets that are not periodic.
    n_draws : int
        Behind moments and quantiles of all targets but the first.
    """

    def __init__(self, network, features, reference, mean, scale, periods, n_draws):
        self.network = network
        self.order = network.order.cpu().numpy()
        parameter = next(network.head.parameters())
        self.features = torch.from_numpy(features).to(parameter)
        self.reference = reference
        self.center = reference + mean
        self.scale = scale
        self.periods = periods
        self.n_draws = n_draws

    def mean(self):
        """Return the means, of shape (n, t)."""
        return self.center + self.scale * self._in_place(self._moments[0])

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return self.scale * self._in_place(self._moments[1])

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t).

        Exact for the first target of the order; of samples for the others.
        """
        values = self._first(ndtri(levels))[..., None]
        if len(self.scale) > 1:
            # Half of a draw's probability on either side of it: other rules are biased inwards.
            others = np.quantile(self._draws[:, 1:], levels, axis=2, method="hazen")
            values = np.concatenate([values, others.transpose(1, 0, 2)], 2)
        return self.center[:, None] + self.scale * self._in_place(values)

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        # Events first, so that the draws of an event do not depend on the size of the block.
        z = rng.standard_normal((*self.center.shape[:1], n_samples, len(self.scale)))
        draws = self._in_place(self._sample(z))
        return (self.center[:, None] + self.scale * draws).transpose(0, 2, 1)

    def log_prob(self, y):
        """Return the log density of targets (n, t), of shape (n,)."""
        y = y.copy()
        for k in np.flatnonzero(self.periods):
            y[:, k] = self.reference[:, k] + wrap(y[:, k] - self.reference[:, k], self.periods[k])
        scaled = ((y - self.center) / self.scale)[:, self.order]
        head = self._double_head
        with torch.no_grad():
            targets = torch.from_numpy(scaled).to(self.features.device)
            conditions = self.network.conditions(targets).double()
            context = head.context(self.features.double(), conditions)
            z = _solve(lambda z: head.value(context, z), targets.unsqueeze(-1))
        z.requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(head.value(context, z).sum(), z)
        z, slope = (a.detach().cpu().numpy()[..., 0] for a in (z, slope))
        found = np.isfinite(z).all(1)
        result = np.full(len(y), -np.inf)
        result[found] = (norm.logpdf(z[found]) - np.log(slope[found])).sum(1)
        return result - np.log(self.scale).sum()

    def _in_place(self, values):
        """Bring the last axis from the network's order into that of y."""
        return values[..., np.argsort(self.order)]

    @cached_property
    def _moments(self):
        """Means and standard deviations, scaled, in the network's order."""
        z = np.linspace(-6, 6, N_NODES)
        weights = norm.pdf(z)
        weights /= weights.sum()
        values = self._first(z)
        mean = values @ weights
        std = np.sqrt((values - mean[:, None]) ** 2 @ weights)
        if len(self.scale) == 1:
            return mean[:, None], std[:, None]
        others = self._draws[:, 1:]
        return np.c_[mean, others.mean(2)], np.c_[std, others.std(2)]

    @cached_property
    def _draws(self):
        """Draws (n, t, n_draws), scaled, in the network's order."""
        points = law_points(self.n_draws, ndtri, lambda z: ndtr(z) - z * norm.pdf(z))
        z = points[sobol_ranks(self.n_draws, len(self.scale))]
        return self._sample(z[None]).transpose(0, 2, 1)

    @cached_property
    def _double_head(self):
        # Neighbouring quantiles do not cross by rounding, and roots are sharp.
        return copy.deepcopy(self.network.head).double()

    def _first(self, z):
        """Quantiles (n, q) of the first target at deviates (q,), scaled."""
        head = self._double_head
        with torch.inference_mode():
            features = self.features.double()
            z = torch.from_numpy(z).to(features).expand(1, 1, -1)
            nothing = features.new_zeros(len(features), 1, len(self.scale))
            conditions = self.network.conditions_of(0, nothing).to(features)
            values = head.value(head.context(features, conditions), z)
        return values[:, 0].cpu().numpy()

    def _sample(self, z):
        """Samples (n, s, t), scaled, made of deviates (n, s, t) or (1, s, t)."""
        z = np.broadcast_to(z, (len(self.features), *z.shape[1:]))
        draws = self._sample_events(self.network.head, self.features, z).astype(np.float64)
        # Next to a large mean, in single precision, draws would lose their distances.
        far = np.abs(draws).max((1, 2)) > _FAR
        if far.any():
            features = self.features.double()[torch.from_numpy(far)]
            draws[far] = self._sample_events(self._double_head, features, z[far])
        return draws

    def _sample_events(self, head, features, z):
        """Samples (n, s, t) as precise as the features (n, n_features) are."""
        step = max(1, _BLOCK_NUMBERS // (len(features) * head.width))
        parts = (torch.tensor(z[:, i : i + step]).to(features) for i in range(0, z.shape[1], step))
        with torch.inference_mode():
            return np.concatenate([self._sample_block(head, features, part) for part in parts], 1)

    def _sample_block(self, head, features, z):
        network = self.network
        n, s, t = z.shape
        # The context of the first target is the same for all samples.
        targets = features.new_zeros(n, 1, t)
        conditions = network.conditions_of(0, targets).to(features)
        first = head.value(head.context(features, conditions), z[:, None, :, 0])[:, 0]
        targets = features.new_zeros(n, s, t)
        targets[..., 0] = first
        for k in range(1, t):
            conditions = network.conditions_of(k, targets).to(features)
            context = head.context(features, conditions)
            targets[..., k] = head.value(context, z[..., k : k + 1])[..., 0]
        return targets.cpu().numpy()


def wrap(difference, period):
    """Return angles between -period/2 and period/2."""
    return (difference + period / 2) % period - period / 2


def _solve(function, y):
    """Solve function(z) = y for a rising function, by bisection; infinite where nothing is found.

    Where the function does not rise everywhere, the root is one where it rises through y.
    """
    low, high = torch.full_like(y, -8.0), torch.full_like(y, 8.0)
    for _ in range(60):
        above, below = function(low) > y, function(high) < y
        if not (above.any() or below.any()):
            break
        low, high = torch.where(above, 2 * low, low), torch.where(below, 2 * high, high)
    missing = above | below
    for _ in range(200):
        middle = (low + high) / 2
        small = function(middle) < y
        low, high = torch.where(small, middle, low), torch.where(small, high, middle)
        if ((high - low) <= 1e-14 * torch.maximum(high.abs(), torch.ones_like(high))).all():
            break
    return torch.where(missing, torch.inf, (low + high) / 2)
