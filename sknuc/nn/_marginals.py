r"""Columns as normal variables: every one by its own law, given a condition.

A column has levels :math:`1 \dots K`, values that many events share, of probabilities
:math:`p_k(y)`. One of them may stand for all other values, which have a density: t, a number
without bounds, becomes normal by a shift, a scale and a monotonic rational-quadratic spline,
:math:`w = s(t; y)`, so that :math:`F(t|y) = \Phi(w)`. In the order of the levels all of it makes
one cumulative distribution, and one normal variable,

.. math:: z = \Phi^{-1}\Big(\sum_{j<k} p_j + p_k v\Big), \qquad
          v = \begin{cases} F(t|y) & \text{if the level k has a density} \\
                            u \sim U(0, 1) & \text{if it is one value,} \end{cases}

so that, given y, z is exactly normal if p and F are right. A law of all columns is then a law of z
with normal marginals (a copula), c, and

.. math:: \ln p(x|y) = \sum_i \ln p_i(x_i|y)
          + \ln \mathrm{E}_u\!\left[\frac{p(z|y)}{\prod_i \varphi(z_i)}\right] .

Probabilities are counted from the end that is nearer, so that both tails keep their digits.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from zuko.transforms import MonotonicRQSTransform

__all__ = ["ConditionalMarginals"]

# Where splines end and the tails of the normal law begin; the smallest slope.
_BOX, _SMALLEST = 4.0, 1e-3
# Beyond, the normal law has no digits left in 32 bits.
_FARTHEST = 12.0


class ConditionalMarginals(nn.Module):
    """The laws of the columns of a table, given a condition.

    Parameters
    ----------
    n_levels : ndarray of int of shape (n_columns,)
        Levels of each column, of which one may have a density.
    dense : ndarray of int of shape (n_columns,)
        Which one has; -1 for none.
    n_conditions : int
        Numbers per condition; 0 for none.
    width : int, default=64
        Features that the columns share.
    bins : int, default=8
        Pieces of a spline.
    """

    def __init__(self, n_levels, dense, n_conditions, *, width=64, bins=8):
        super().__init__()
        n_levels = torch.as_tensor(n_levels)
        self.sizes = [int(n_levels.max()), 1, 1, bins, bins, bins - 1]
        self.trunk = nn.Sequential(
            nn.Linear(max(n_conditions, 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.head = nn.Linear(width, len(n_levels) * sum(self.sizes))
        # The training starts from laws that do not depend on the condition.
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.3)
        self.register_buffer("dense", torch.as_tensor(dense))
        self.register_buffer("last", n_levels - 1)
        absent = torch.arange(self.sizes[0]) >= n_levels[:, None]
        self.register_buffer("absent", absent)

    @torch.no_grad()
    def start_from(self, shares):
        """Set the probabilities of levels (n_columns, max(n_levels)) before the training."""
        bias = self.head.bias.view(len(self.last), -1)
        bias[:, : self.sizes[0]] = torch.as_tensor(shares).to(bias).clamp(min=1e-4).log()

    def _laws(self, condition, like):
        """Log probabilities (n, n_columns, K), shift and log scale (n, n_columns), and splines."""
        if condition is None:
            condition = like.new_ones(len(like), 1)
        numbers = self.head(self.trunk(condition)).unflatten(1, (len(self.last), -1))
        logits, shift, log_scale, *knots = numbers.split(self.sizes, -1)
        log_p = logits.masked_fill(self.absent, -torch.inf).log_softmax(-1)
        spline = MonotonicRQSTransform(*knots, bound=_BOX, slope=_SMALLEST)
        return log_p, shift[..., 0], log_scale[..., 0], spline

    def log_prob(self, t, level, condition):
        """Log probability or density of each column.

        Parameters
        ----------
        t : Tensor of shape (n, n_columns)
            Not read where the level has no density.
        level : int64 Tensor of shape (n, n_columns)
        condition : Tensor of shape (n, n_conditions) or None

        Returns
        -------
        log_prob : Tensor of shape (n, n_columns)
        """
        log_p, shift, log_scale, spline = self._laws(condition, t)
        w, log_slope = spline.call_and_ladj((t - shift) * torch.exp(-log_scale))
        log_density = log_slope - log_scale - (w**2 + math.log(2 * math.pi)) / 2
        chosen = log_p.gather(-1, level[..., None])[..., 0]
        return chosen + torch.where(level == self.dense, log_density, 0)

    def parts(self, level, condition, like):
        """Probabilities below, of and above the levels, each (n, n_columns), in 64 bits."""
        p = self._laws(condition, like)[0].double().exp()
        return _parts(p, level)

    def to_normal(self, t, level, uniform, condition):
        """Normal variables (n, n_columns) of levels and numbers.

        `uniform`, (n, n_columns), are numbers in (0, 1) for the levels without a density.
        """
        log_p, shift, log_scale, spline = self._laws(condition, t)
        w = spline((t - shift) * torch.exp(-log_scale)).double()
        below, p, above = _parts(log_p.double().exp(), level)
        dense = level == self.dense
        uniform = uniform.double()
        lower = below + p * torch.where(dense, torch.special.ndtr(w), uniform)
        upper = above + p * torch.where(dense, torch.special.ndtr(-w), 1 - uniform)
        return _quantile(lower, upper).to(t.dtype)

    def from_normal(self, z, condition):
        """Numbers and levels, both (n, n_columns), of normal variables."""
        log_p, shift, log_scale, spline = self._laws(condition, z)
        p = log_p.double().exp()
        z = z.double()
        lower, upper = torch.special.ndtr(z), torch.special.ndtr(-z)
        cumulative = p.cumsum(-1)
        survival = p.flip(-1).cumsum(-1).flip(-1) - p
        passed = torch.where(
            (z < 0)[..., None], lower[..., None] >= cumulative, upper[..., None] <= survival
        )
        level = torch.minimum(passed.sum(-1), self.last)
        below, share, above = _parts(p, level)
        w = _quantile((lower - below) / share, (upper - above) / share)
        t = shift + log_scale.exp() * spline.inv(w.to(shift.dtype))
        return torch.where(level == self.dense, t, 0), level


def _parts(p, level):
    """Probabilities (n, n_columns) below, of and above levels, of all of them (..., K)."""
    level = level[..., None]
    place = torch.arange(p.shape[-1], device=p.device)
    below = torch.where(place < level, p, 0).sum(-1)
    above = torch.where(place > level, p, 0).sum(-1)
    return below, p.gather(-1, level)[..., 0], above


def _quantile(lower, upper):
    """Normal quantiles of probabilities from both ends."""
    lower, upper = (part.clamp(min=0) for part in (lower, upper))
    z = torch.where(lower < upper, torch.special.ndtri(lower), -torch.special.ndtri(upper))
    return functional.hardtanh(z, -_FARTHEST, _FARTHEST)
