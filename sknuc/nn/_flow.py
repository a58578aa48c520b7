"""The network of a conditional spline flow: layers of invertible maps, and the law they end in."""

import math
from functools import partial

import numpy as np
import torch
from scipy.special import stdtrit
from torch import nn
from torch.distributions import Transform, constraints
from torch.nn import functional as F
from zuko.nn import MLP, MaskedMLP
from zuko.transforms import (
    AutoregressiveTransform,
    ComposedTransform,
    DependentTransform,
    MonotonicRQSTransform,
)

__all__ = ["ConditionalFlow"]

BOX = 5.0
# Of degrees of freedom minus 2: from tails whose variance hardly exists to Gaussian ones.
_LOG_DF = math.log(0.01), math.log(1e4)
# Of slopes of splines and of scales, which are learned as logarithms.
_SMALLEST = 1e-3


class ConditionalFlow(nn.Module):
    """From the features of events and their targets to variables of known law.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *input_shape) to features (n, n_features).
    n_features : int
    angular : ndarray of bool, of shape (t,)
        Which targets are angles, in radian.
    orders : list of ndarray of int, of shape (t,)
        For each map, places of the targets: those of a lower place are known to a target. With
        only two places, a map is inverted in two passes (coupling), else in as many as there are.
    hidden_features : tuple of int
        Widths of the hidden layers from features and earlier targets to the parameters of a map.
    bins : int
        Pieces of a spline.
    """

    def __init__(self, encoder, n_features, angular, orders, hidden_features, bins):
        super().__init__()
        self.encoder = encoder
        self.layers = nn.ModuleList(
            _Layer(n_features, angular, hidden_features, bins, first=i == 0, order=order)
            for i, order in enumerate(orders)
        )
        self.register_buffer("angular", torch.from_numpy(angular))
        self.has_angles = bool(angular.any())
        self.log_df = nn.Parameter(torch.full((len(angular),), math.log(8.0)))

    def forward(self, X):
        """Return the features of events."""
        return self.encoder(X)

    def transform(self, features):
        """Return the map from targets (..., t) to z, for features (..., n_features)."""
        return ComposedTransform(*(layer(features) for layer in self.layers))

    def log_prob(self, features, y):
        """Return the log density of scaled targets (..., t), of shape (...)."""
        # In full precision: a shift in bfloat16 has two digits.
        with torch.autocast(features.device.type, enabled=False):
            z, log_slope = self.transform(features.to(y.dtype)).call_and_ladj(y)
            # The constant is a small difference of large numbers.
            df = self._degrees_of_freedom()
            constant = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - (math.pi * df).log() / 2
            df, constant = df.to(z.dtype), constant.to(z.dtype)
            base = constant - (df + 1) / 2 * torch.log1p(z**2 / df)
            if self.has_angles:
                base = torch.where(self.angular, -math.log(2 * math.pi), base)
            return base.sum(-1) + log_slope

    def _degrees_of_freedom(self):
        # Beyond its bounds the parameter keeps its gradient, by which it finds back.
        bounded = self.log_df + (self.log_df.clamp(*_LOG_DF) - self.log_df).detach()
        return 2 + bounded.double().exp()

    def degrees_of_freedom(self):
        """Return those of Student's law of each target, (t,), in float64."""
        return self._degrees_of_freedom().detach().cpu().numpy()

    def base_quantiles(self, levels):
        """Return the quantiles of z, for levels (..., t) in (0, 1)."""
        z = stdtrit(self.degrees_of_freedom(), levels)
        return np.where(self.angular.cpu().numpy(), (2 * levels - 1) * np.pi, z)


class _Layer(nn.Module):
    """One triangular map: shift, scale and knots of a target from the event and those before."""

    def __init__(self, n_features, angular, hidden_features, bins, *, first, order):
        super().__init__()
        t = len(angular)
        self.first = first
        # What is inverted together, in turn.
        self.columns = [np.flatnonzero(order == place).tolist() for place in np.unique(order)]
        self.sizes = [bins, bins, bins - 1] + [1, 1] * first
        before = order[:, None] > order
        # An angle is read as its cosine and its sine.
        reads = np.concatenate([before, before[:, angular], np.ones((t, n_features), bool)], 1)
        if t == 1:
            self.network = MLP(n_features, sum(self.sizes), hidden_features, nn.SiLU)
        else:
            reads = torch.from_numpy(np.repeat(reads, sum(self.sizes), axis=0))
            self.network = MaskedMLP(reads, hidden_features, nn.SiLU)
        # The training starts close to the identity.
        with torch.no_grad():
            self.network[-1].weight.mul_(0.1)
            self.network[-1].bias.zero_()
        self.register_buffer("angular", torch.from_numpy(angular))
        self.has_angles = bool(angular.any())
        bound = np.where(angular, math.pi, BOX).astype(np.float32)[:, None]
        self.register_buffer("bound", torch.from_numpy(bound))

    def forward(self, features):
        return _Triangular(partial(self._univariate, features), self.columns)

    def _univariate(self, features, y, columns=None):
        """The maps of some targets, or of all, given the earlier ones among y (..., t)."""
        bound, angular = self.bound, self.angular if self.has_angles else None
        if len(self.angular) > 1:
            known = [torch.where(self.angular, y.cos(), y), y[..., self.angular].sin(), features]
            shape = torch.broadcast_shapes(*(part.shape[:-1] for part in known))
            features = torch.cat([part.expand(*shape, -1) for part in known], -1)
        if columns is None or len(self.angular) == 1:
            numbers = self.network(features)
        else:
            bound, angular = bound[columns], None if angular is None else angular[columns]
            *hidden, last = self.network
            for layer in hidden:
                features = layer(features)
            weight, bias = (
                number.unflatten(0, (-1, sum(self.sizes)))[columns].flatten(0, 1)
                for number in (last.mask * last.weight, last.bias)
            )
            numbers = F.linear(features, weight, bias)
        numbers = numbers.unflatten(-1, (-1, sum(self.sizes)))
        widths, heights, slopes, *place = numbers.split(self.sizes, -1)
        spline = MonotonicRQSTransform(widths, heights, slopes, bound=bound, slope=_SMALLEST)
        maps = [spline]
        if self.first:
            shift, log_scale = (number.squeeze(-1) for number in place)
            maps.insert(0, _Place(shift, log_scale, angular))
        elif angular is not None:
            # The seam of a circular spline, where its slope is one, lies elsewhere in each layer.
            maps.insert(0, _Place(math.pi * angular, torch.zeros_like(bound[:, 0]), angular))
        return DependentTransform(ComposedTransform(*maps), 1)


class _Triangular(AutoregressiveTransform):
    """A map that is inverted place by place, each given the targets before it.

    The maps of the first place are the same for all points of an event: they are made once.
    """

    def __init__(self, univariate, columns):
        super().__init__(univariate, passes=len(columns))
        self.columns = columns

    def _inverse(self, z):
        y, known = torch.zeros_like(z), z.new_zeros(z.shape[-1])
        for columns in self.columns:
            y = y.clone()
            y[..., columns] = self.meta(known, columns).inv(z[..., columns])
            known = y
        return y


class _Place(Transform):
    """u = (y - shift) / scale of numbers, a rotation of angles; `angular` is None without any."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, shift, log_scale, angular):
        super().__init__()
        self.shift = shift
        self.angular = angular
        log_scale = log_scale / (1 + (log_scale / math.log(_SMALLEST)).abs())
        self.log_scale = log_scale if angular is None else torch.where(angular, 0, log_scale)

    def _call(self, y):
        return self._wrap((y - self.shift) * torch.exp(-self.log_scale))

    def _inverse(self, u):
        return self._wrap(self.shift + u * torch.exp(self.log_scale))

    def _wrap(self, y):
        if self.angular is None:
            return y
        return torch.where(self.angular, torch.remainder(y + math.pi, 2 * math.pi) - math.pi, y)

    def log_abs_det_jacobian(self, y, u):
        return -self.log_scale.expand(y.shape)
