r"""Predictive distributions: what a regressor says about the targets of n events.

Every regressor with an uncertainty makes one of these for a block of events, and
:class:`sknuc.base.PredictiveRegressorMixin` derives mean, standard deviation, quantiles, intervals,
samples and densities from it, so that all of them speak of the same distribution.

Shapes: n events, t targets, q quantile levels, k components or draws. Means, standard deviations
and quantiles are those of each target alone; samples and densities are of all targets together.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri
from scipy.stats import qmc

__all__ = [
    "Affine",
    "Draws",
    "Normal",
    "NormalMixture",
    "Predictive",
    "QuantileFunction",
    "even_levels",
]

_LOG_2PI = np.log(2 * np.pi)
# Halvings of the widest bracket of finite numbers, 2**1025, down to the last digit of any.
_MOST_STEPS = 1025 + 1075
_SOBOL_BITS = 30


class Predictive(ABC):
    """The distribution of t targets for each of n events."""

    @abstractmethod
    def mean(self):
        """Return the means, of shape (n, t)."""

    @abstractmethod
    def std(self):
        """Return the standard deviations, of shape (n, t)."""

    @abstractmethod
    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""

    @abstractmethod
    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples), made with a numpy RandomState."""

    def log_prob(self, y):
        """Return the log density of targets (n, t), of shape (n,)."""
        raise NotImplementedError(f"{type(self).__name__} has no density.")

    def epistemic(self):
        """Return the part of the standard deviation that more data would remove, (n, t)."""
        raise NotImplementedError(f"{type(self).__name__} does not know why it is not sure.")


class Normal(Predictive):
    r"""Gaussians.

    Parameters
    ----------
    means : ndarray of shape (n, t)
    stds : ndarray of shape (n, t), optional
    covariances : ndarray of shape (n, t, t), optional
        Instead of `stds`, for targets that are correlated.
    epistemic : ndarray of shape (n, t), optional
        The part of the standard deviation that comes from not knowing the model.
    """

    def __init__(self, means, stds=None, *, covariances=None, epistemic=None):
        self.means = means
        self.covariances = covariances
        if stds is None:
            stds = np.sqrt(np.diagonal(covariances, axis1=-2, axis2=-1))
        self.stds = stds
        self._epistemic = epistemic

    @cached_property
    def factors(self):
        """Lower triangular matrices of the covariances, or None."""
        return None if self.covariances is None else np.linalg.cholesky(self.covariances)

    def mean(self):
        """Return the means, of shape (n, t)."""
        return self.means

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return self.stds

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        return self.means[:, None] + self.stds[:, None] * ndtri(levels)[:, None]

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        n, t = self.means.shape
        # Events first, so that the draws of an event do not depend on the size of the block.
        normal = rng.standard_normal((n, n_samples, t)).transpose(0, 2, 1)
        if self.factors is None:
            return self.means[..., None] + self.stds[..., None] * normal
        return self.means[..., None] + self.factors @ normal

    def log_prob(self, y):
        """Return the log density of targets (n, t), of shape (n,)."""
        return _normal_log_density(y, self.means, self.stds, self.factors)

    def epistemic(self):
        """Return the part of the standard deviation that more data would remove, (n, t)."""
        return super().epistemic() if self._epistemic is None else self._epistemic


class NormalMixture(Predictive):
    r"""Mixtures of Gaussians, :math:`p(y) = \sum_k w_k\, N(y; \mu_k, \Sigma_k)`.

    The components of a mixture density network, or the members of an ensemble, whose spread is
    then the epistemic part.

    Parameters
    ----------
    weights : ndarray of shape (n, k) or (k,)
        They sum to 1.
    means : ndarray of shape (n, k, t)
    stds : ndarray of shape (n, k, t), optional
        Positive.
    factors : ndarray of shape (n, k, t, t), optional
        Instead of `stds`: lower triangular matrices L of covariances :math:`\Sigma = L L^T`.
    """

    def __init__(self, weights, means, stds=None, *, factors=None):
        self.means = means
        self.weights = np.broadcast_to(weights, means.shape[:2])
        self.factors = factors
        if stds is None:
            stds = np.sqrt((factors**2).sum(-1))
        self.stds = np.broadcast_to(stds, means.shape)

    def mean(self):
        """Return the means, of shape (n, t)."""
        return np.einsum("nk,nkt->nt", self.weights, self.means)

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return np.hypot(_root_mean_square(self.weights, self.stds), self.epistemic())

    def epistemic(self):
        """Return the standard deviation between the components' means, of shape (n, t)."""
        return _root_mean_square(self.weights, self.means - self.mean()[:, None])

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t).

        The root of the distribution function lies between the smallest and the largest quantile
        of the components; Newton's method, kept inside this bracket, finds it to rounding. Where a
        component is not finite, neither is the quantile: NaN.
        """
        levels = np.asarray(levels, dtype=np.float64)
        n, k, t = self.means.shape
        # A row for each event and target, a column for each component.
        weights = np.repeat(self.weights, t, axis=0)
        means, stds = (a.transpose(0, 2, 1).reshape(n * t, k) for a in (self.means, self.stds))
        with np.errstate(over="ignore", invalid="ignore"):
            middle, spread = self.mean().ravel(), self.std().ravel()
        result = np.empty((n, len(levels), t))
        for q, level in enumerate(levels):
            result[:, q] = _mixture_quantile(level, weights, means, stds, middle, spread).reshape(
                n, t
            )
        return result

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        n, _, t = self.means.shape
        # One kind of random number, events first: the draws of an event do not depend on blocks.
        normal = rng.standard_normal((n, n_samples, 1 + t))
        # Component by component, so that memory does not grow with their number.
        edges = np.cumsum(self.weights, axis=1)[:, :-1]
        uniform, normal = ndtr(normal[..., 0]), normal[..., 1:]
        component = np.zeros(uniform.shape, dtype=np.intp)
        for edge in edges.T:
            component += uniform > edge[:, None]
        rows = np.arange(n)[:, None]
        draws = self.means[rows, component]
        if self.factors is None:
            draws += self.stds[rows, component] * normal
        else:
            for i, row in enumerate(self.factors.transpose(2, 0, 1, 3)):
                draws[..., i] += np.einsum("nsj,nsj->ns", row[rows, component], normal)
        return draws.transpose(0, 2, 1)

    def log_prob(self, y):
        """Return the log density of targets (n, t), of shape (n,)."""
        log_density = _normal_log_density(y[:, None], self.means, self.stds, self.factors)
        return logsumexp(log_density, axis=1, b=self.weights)


class QuantileFunction(Predictive):
    r"""Distributions given by some quantiles: linear between, exponential beyond.

    Between two levels the density is constant; beyond the outermost ones it falls exponentially
    from there without a step, which fixes the scale: :math:`s = \tau_0 (q_1-q_0)/(\tau_1-\tau_0)`
    on the left. Targets are independent of each other, given the event.

    Parameters
    ----------
    levels : ndarray of shape (q,)
        Two at least, strictly ascending, in (0, 1).
    values : ndarray of shape (n, q, t)
        Non-decreasing along the levels.
    """

    def __init__(self, levels, values):
        self.levels = np.asarray(levels, dtype=np.float64)
        self.values = values
        widths = np.diff(values, axis=1)
        steps = np.diff(self.levels)
        self.left = self.levels[0] * widths[:, 0] / steps[0]
        self.right = (1 - self.levels[-1]) * widths[:, -1] / steps[-1]

    def mean(self):
        """Return the means, of shape (n, t)."""
        q, low, high = self.values, self.levels[0], 1 - self.levels[-1]
        inside = np.einsum("s,nst->nt", np.diff(self.levels), (q[:, 1:] + q[:, :-1]) / 2)
        return inside + low * (q[:, 0] - self.left) + high * (q[:, -1] + self.right)

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        # About the mean: of squares alone, a distant mean would leave rounding errors.
        q, low, high = self.values - self.mean()[:, None], self.levels[0], 1 - self.levels[-1]
        a, b = q[:, :-1], q[:, 1:]
        inside = np.einsum("s,nst->nt", np.diff(self.levels), (a * a + a * b + b * b) / 3)
        left = low * ((q[:, 0] - self.left) ** 2 + self.left**2)
        right = high * ((q[:, -1] + self.right) ** 2 + self.right**2)
        return np.sqrt(inside + left + right)

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        levels = np.asarray(levels, dtype=np.float64)
        return self._at(np.broadcast_to(levels[:, None], (len(self.values), len(levels), 1)))

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        n, _, t = self.values.shape
        uniform = rng.uniform(size=(n, n_samples, t))
        return self._at(uniform).transpose(0, 2, 1)

    def _at(self, levels):
        """The quantile function at levels (n, m, t) or (n, m, 1)."""
        known = self.levels
        i = np.clip(np.searchsorted(known, levels, side="right") - 1, 0, len(known) - 2)
        i = np.broadcast_to(i, (*levels.shape[:2], self.values.shape[2]))
        a = np.take_along_axis(self.values, i, 1)
        b = np.take_along_axis(self.values, i + 1, 1)
        result = a + (b - a) * (levels - known[i]) / (known[i + 1] - known[i])
        first, last = self.values[:, :1], self.values[:, -1:]
        with np.errstate(divide="ignore"):
            below = first + self.left[:, None] * np.log(np.minimum(levels / known[0], 1))
            above = last - self.right[:, None] * np.log(
                np.minimum((1 - levels) / (1 - known[-1]), 1)
            )
        return np.where(levels < known[0], below, np.where(levels > known[-1], above, result))

    def log_prob(self, y):
        """Return the log density of targets (n, t), of shape (n,)."""
        values, steps = self.values, np.diff(self.levels)
        tiny = np.finfo(np.float64).tiny
        log_density = np.log(steps)[:, None] - np.log(np.maximum(np.diff(values, axis=1), tiny))
        inside = np.clip((values[:, :-1] <= y[:, None]).sum(1) - 1, 0, len(steps) - 1)
        log = np.take_along_axis(log_density, inside[:, None], 1)[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            below = (y - values[:, 0]) / np.maximum(self.left, tiny)
            above = (values[:, -1] - y) / np.maximum(self.right, tiny)
        log += np.minimum(below, 0) + np.minimum(above, 0)
        return log.sum(1)


class Draws(Predictive):
    """Equally likely values: the members of an ensemble without noise of their own.

    Parameters
    ----------
    values : ndarray of shape (n, t, k)
        A draw holds all targets.
    """

    def __init__(self, values):
        self.values = values

    def mean(self):
        """Return the means, of shape (n, t)."""
        return self.values.mean(2)

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return self.values.std(2)

    def epistemic(self):
        """Return the standard deviations, all of which is epistemic."""
        return self.std()

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        # Half of a draw's probability on either side of it: other rules are biased inwards.
        return np.quantile(self.values, levels, axis=2, method="hazen").transpose(1, 0, 2)

    def sample(self, n_samples, rng):
        """Return draws, with replacement, of shape (n, t, n_samples)."""
        n, _, k = self.values.shape
        chosen = rng.randint(k, size=(n, n_samples))
        return np.take_along_axis(self.values, chosen[:, None], 2)


class Affine(Predictive):
    """A distribution in other units, y = shift + scale z.

    Parameters
    ----------
    base : Predictive
        Of z.
    shift, scale : ndarray of shape (t,)
        The scale is positive.
    """

    def __init__(self, base, shift, scale):
        self.base = base
        self.shift = shift
        self.scale = scale

    def mean(self):
        """Return the means, of shape (n, t)."""
        return self.shift + self.scale * self.base.mean()

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return self.scale * self.base.std()

    def epistemic(self):
        """Return the part of the standard deviation that more data would remove, (n, t)."""
        return self.scale * self.base.epistemic()

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        return self.shift + self.scale * self.base.quantiles(levels)

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        draws = self.base.sample(n_samples, rng)
        return self.shift[:, None] + self.scale[:, None] * draws

    def log_prob(self, y):
        """Return the log density of targets (n, t), of shape (n,)."""
        return self.base.log_prob((y - self.shift) / self.scale) - np.log(self.scale).sum()


def even_levels(n, dimension):
    """Return n points (n, dimension) of (0, 1), the same in every call, that fill it evenly.

    Several dimensions are a scrambled Sobol sequence (A. B. Owen, J. Complexity 14 (1998) 466),
    which is best where n is a power of two. The plain one starts in the corner where all levels are
    the lowest, which hardly ever happens, and would be one in n.
    """
    if dimension == 1:
        return (np.arange(n)[:, None] + 0.5) / n
    sobol = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(0), bits=_SOBOL_BITS)
    # The middle of each cell: its corner may be 0, whose normal deviate is infinite.
    return sobol.random_base2((n - 1).bit_length())[:n] + 2.0 ** -(_SOBOL_BITS + 1)


def _root_mean_square(weights, values):
    """Of values (n, k, t) with weights (n, k), of shape (n, t)."""
    # In units of the largest one, since squares under- and overflow long before numbers do.
    unit = np.abs(values).max(1, keepdims=True)
    unit = np.where(unit > 0, unit, 1.0)
    return unit[:, 0] * np.sqrt(np.einsum("nk,nkt->nt", weights, (values / unit) ** 2))


# Of numbers too large or too small for their squares or inverses, Newton's step is none, and
# bisection goes on.
@np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore")
def _mixture_quantile(level, weights, means, stds, middle, spread):
    """Quantile (m,) of m mixtures, given as (m, k), by Newton's method from that of a Gaussian."""
    ends, start = means + stds * ndtri(level), middle + spread * ndtri(level)
    result = np.full(len(ends), np.nan)
    low = np.where(weights > 0, ends, np.inf).min(1)
    high = np.where(weights > 0, ends, -np.inf).max(1)
    # What has arrived leaves: an event neither waits for nor depends on those that take longer.
    going = np.flatnonzero(np.isfinite(ends).all(1) & np.isfinite(weights).all(1))
    low, high, start, weights, means, stds = (
        a[going] for a in (low, high, start, weights, means, stds)
    )
    x = np.where(np.isfinite(start), np.clip(start, low, high), low / 2 + high / 2)
    eps = np.finfo(np.float64).eps
    step = high - low
    # A step halves the one before at least, from the largest number to the smallest.
    for _ in range(_MOST_STEPS):
        if not going.size:
            break
        z = (x[:, None] - means) / stds
        excess = (weights * ndtr(z)).sum(1) - level
        low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
        density = (weights * np.exp(-(z**2) / 2) / stds).sum(1) / np.sqrt(2 * np.pi)
        new = x - excess / density
        # Where Newton's step leaves the bracket, or does not halve the one before: bisect.
        good = (new > low) & (new < high) & (np.abs(new - x) < step / 2)
        new = np.where(good, new, low / 2 + high / 2)
        # As close as the sum over the components can tell.
        new = np.where(np.abs(excess) <= 4 * eps * level, x, new)
        step = np.abs(new - x)
        # Half of each: their difference may be too large for a number.
        arrived = step / 2 <= 8 * eps * np.maximum(np.abs(x) / 2, high / 2 - low / 2)
        result[going[arrived]] = new[arrived]
        stays = ~arrived
        going, low, high, x, step = (a[stays] for a in (going, low, high, new, step))
        weights, means, stds = (a[stays] for a in (weights, means, stds))
    result[going] = x
    return result


def _normal_log_density(y, means, stds, factors):
    """Log density over the last axis, of shape (...)."""
    away = y - means
    t = means.shape[-1]
    if factors is None:
        return -((away / stds) ** 2 / 2 + np.log(stds)).sum(-1) - t * _LOG_2PI / 2
    z = np.linalg.solve(factors, away[..., None])[..., 0]
    log_det = np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(-1)
    return -(z**2).sum(-1) / 2 - log_det - t * _LOG_2PI / 2
