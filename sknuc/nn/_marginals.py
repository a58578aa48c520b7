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
        absent = torch.arange(self.sizes[0])[:, None] >= n_levels
        self.register_buffer("absent", absent)

    @torch.no_grad()
    def start_from(self, shares):
        """Set the probabilities of levels (max(n_levels), n_columns) before the training."""
        bias = self.head.bias.view(-1, len(self.last))
        bias[: self.sizes[0]] = torch.as_tensor(shares).to(bias).clamp(min=1e-4).log()

    def _laws(self, condition, like):
        """Log probabilities (n, K, n_columns), shift and log scale (n, n_columns), and splines."""
        if condition is None:
            condition = like.new_ones(len(like), 1)
        numbers = self.head(self.trunk(condition)).unflatten(1, (-1, len(self.last)))
        logits, shift, log_scale, *knots = numbers.split(self.sizes, 1)
        log_p = logits.masked_fill(self.absent, -torch.inf).log_softmax(1)
        return log_p, shift[:, 0], log_scale[:, 0], _Spline(*knots)

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
        w, log_slope = spline((t - shift) * torch.exp(-log_scale))
        log_density = log_slope - log_scale - (w**2 + math.log(2 * math.pi)) / 2
        chosen = log_p.gather(1, level[:, None])[:, 0]
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
        w = spline((t - shift) * torch.exp(-log_scale))[0].double()
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
        cumulative = p.cumsum(1)
        survival = p.flip(1).cumsum(1).flip(1) - p
        passed = torch.where(
            (z < 0)[:, None], lower[:, None] >= cumulative, upper[:, None] <= survival
        )
        level = torch.minimum(passed.sum(1), self.last)
        below, share, above = _parts(p, level)
        w = _quantile((lower - below) / share, (upper - above) / share)
        t = shift + log_scale.exp() * spline.inverse(w.to(shift.dtype))
        return torch.where(level == self.dense, t, 0), level


def _parts(p, level):
    """Probabilities (n, n_columns) below, of and above levels, of all of them (n, K, n_columns)."""
    level = level[:, None]
    place = torch.arange(p.shape[1], device=p.device)[:, None]
    below = torch.where(place < level, p, 0).sum(1)
    above = torch.where(place > level, p, 0).sum(1)
    return below, p.gather(1, level)[:, 0], above


class _Spline:
    """Monotonic rational-quadratic splines between -B and B, the identity beyond.

    As zuko's ``MonotonicRQSTransform``, of hundreds of columns with knots of their own per event:
    knots are the second axis, (n, bins, n_columns), along which sums are some times faster than
    along a short last one.
    """

    def __init__(self, widths, heights, log_slopes):
        x, y = (_edges(sizes) for sizes in (widths, heights))
        # Bounded, as a slope of zero or infinity has no logarithm; 1 at the ends.
        slopes = (math.log(_SMALLEST) * functional.softsign(log_slopes)).neg().exp()
        slopes = functional.pad(slopes, (0, 0, 1, 1), value=1.0)
        self.knots = torch.stack([x, y, slopes])

    def _piece(self, values, edges):
        """Both ends of the pieces where values (n, n_columns) lie, as six (n, n_columns)."""
        place = (values[:, None] >= edges[:, 1:-1]).sum(1)
        place = place.expand(3, 1, *place.shape).transpose(1, 2)
        ends = (self.knots.gather(2, place + end)[:, :, 0] for end in (0, 1))
        return [part for end in ends for part in end]

    def __call__(self, t):
        """Return the image of numbers (n, n_columns), and its log slope."""
        inside = t.abs() < _BOX
        t_in = torch.where(inside, t, 0)
        x0, y0, d0, x1, y1, d1 = self._piece(t_in, self.knots[0])
        mean = (y1 - y0) / (x1 - x0)
        u = (t_in - x0) / (x1 - x0)
        uv = u * (1 - u)
        below = mean + (d0 + d1 - 2 * mean) * uv
        image = y0 + (y1 - y0) * (mean * u**2 + d0 * uv) / below
        slope = d1 * u**2 + 2 * mean * uv + d0 * (1 - u) ** 2
        log_slope = 2 * (mean / below).log() + slope.log()
        return torch.where(inside, image, t), torch.where(inside, log_slope, 0)

    def inverse(self, w):
        """Return the numbers of images (n, n_columns)."""
        inside = w.abs() < _BOX
        w_in = torch.where(inside, w, 0)
        x0, y0, d0, x1, y1, d1 = self._piece(w_in, self.knots[1])
        mean = (y1 - y0) / (x1 - x0)
        step = (w_in - y0) * (d0 + d1 - 2 * mean)
        a = (y1 - y0) * (mean - d0) + step
        b = (y1 - y0) * d0 - step
        c = mean * (y0 - w_in)
        root = (b**2 - 4 * a * c).clamp(min=0).sqrt()
        return torch.where(inside, x0 + (x1 - x0) * 2 * c / (-b - root), w)


def _edges(sizes):
    """Edges (n, bins + 1, n_columns) between -B and B of pieces of relative sizes, as logits."""
    bins = sizes.shape[1]
    shares = _SMALLEST + (1 - bins * _SMALLEST) * sizes.softmax(1)
    inner = _BOX * (2 * shares[:, :-1].cumsum(1) - 1)
    return functional.pad(
        functional.pad(inner, (0, 0, 1, 0), value=-_BOX), (0, 0, 0, 1), value=_BOX
    )


def _quantile(lower, upper):
    """Normal quantiles of probabilities from both ends."""
    lower, upper = (part.clamp(min=0) for part in (lower, upper))
    z = torch.where(lower < upper, torch.special.ndtri(lower), -torch.special.ndtri(upper))
    return functional.hardtanh(z, -_FARTHEST, _FARTHEST)
