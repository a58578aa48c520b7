r"""Networks whose outputs are quantiles.

A quantile function rises with the level :math:`\tau`. It is written here as a function of the
normal deviate :math:`z = \Phi^{-1}(\tau)` instead: a Gaussian is then a straight line, whose slope
is the standard deviation, and tails go on beyond all levels that were seen in the training.
"""

import torch
from torch import nn
from torch.nn import functional as F

from sknuc.nn._blocks import activation

__all__ = ["AutoregressiveQuantiles", "FreeQuantiles", "MonotoneQuantiles", "OrderedQuantiles"]

# softplus(_ONE) is 1.
_ONE = 0.541324854612918


def _positive(x):
    """A positive number that is 1 at 0."""
    return F.softplus(x + _ONE)


class OrderedQuantiles(nn.Module):
    r"""Quantiles at fixed levels that cannot cross: a central one and positive steps from there.

    .. math:: q_{c+j} = q_c + \sum_{i=1}^{j} \delta_i\,\mathrm{softplus}(o_i), \qquad
              q_{c-j} = q_c - \sum_{i=1}^{j} \delta_{-i}\,\mathrm{softplus}(o_{-i}),

    δ the distances of a standard Gaussian's quantiles. Steps start at the centre: summed from the
    lowest level on, the highest one would carry the errors of all.

    Parameters
    ----------
    n_features, n_targets : int
    deviates : Tensor of shape (q,)
        Normal deviates of the levels, rising.
    """

    def __init__(self, n_features, n_targets, deviates):
        super().__init__()
        self.n_targets = n_targets
        self.center = int(deviates.abs().argmin())
        self.linear = nn.Linear(n_features, n_targets * len(deviates))
        self.register_buffer("steps", deviates.diff())

    def forward(self, features):
        """Return quantiles (n, n_targets, q) of features (n, n_features)."""
        # In full precision: a quantile in bfloat16 has two digits.
        with torch.autocast(features.device.type, enabled=False):
            raw = self.linear(features.to(self.steps.dtype))
        raw = raw.unflatten(-1, (self.n_targets, -1))
        center, steps = raw[..., :1], self.steps * _positive(raw[..., 1:])
        below, above = steps[..., : self.center], steps[..., self.center :]
        return torch.cat(
            [
                center - below.flip(-1).cumsum(-1).flip(-1),
                center,
                center + above.cumsum(-1),
            ],
            -1,
        )


class _Context(nn.Module):
    """Dense layers on the features of an event and on conditions, of which there may be many."""

    def __init__(self, n_features, n_conditions, hidden_layer_sizes, n_outputs):
        super().__init__()
        width, *others = hidden_layer_sizes
        # One layer, in two parts: that of the features is computed once per event.
        self.of_features = nn.Linear(n_features, width)
        self.of_conditions = nn.Linear(n_conditions, width, bias=False)
        layers = []
        for size in others:
            layers += [activation("silu"), nn.Linear(width, size)]
            width = size
        if n_outputs is not None:
            layers += [activation("silu"), nn.Linear(width, n_outputs)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features, conditions):
        """Return outputs (n, r, n_outputs) of (n, n_features) and (n, r, n_conditions)."""
        first = self.of_features(features).unsqueeze(-2) + self.of_conditions(conditions)
        return self.layers(first)


class MonotoneQuantiles(nn.Module):
    r"""A quantile function that rises by construction.

    .. math:: f(z) = a + s z + \sum_{j=1}^{J} w_j \tanh(b_j z + d_j), \qquad s, w_j, b_j > 0,

    with all parameters given by a network of the event and the conditions. Sums of rising steps
    come as close as one likes to any rising function [1]_, and :math:`f' \geq s > 0`: it has an
    inverse and a density. A level costs J hyperbolic tangents and no pass through the network.

    Parameters
    ----------
    n_features, n_conditions : int
    hidden_layer_sizes : tuple of int
        Of the network that gives the parameters.
    n_units : int
        J.

    References
    ----------
    .. [1] C.-W. Huang et al., "Neural autoregressive flows", ICML 2018, arXiv:1804.00779.
    """

    def __init__(self, n_features, n_conditions, hidden_layer_sizes, n_units=16):
        super().__init__()
        self.n_units = n_units
        self.network = _Context(n_features, n_conditions, hidden_layer_sizes, 2 + 3 * n_units)
        # At the start s = 1/2, and all steps together have this slope as well: f is about z.
        offsets = torch.linspace(2.5, -2.5, n_units)
        positive = torch.ones(1 + 2 * n_units)
        positive[0] = 0.5
        positive[1 : 1 + n_units] = (offsets[0] - offsets[1]) / 4
        with torch.no_grad():
            self.network.layers[-1].bias[1:] += torch.cat([offsets, positive.expm1().log()])
        # How many numbers a level needs.
        self.width = n_units

    def context(self, features, conditions):
        """Return what does not depend on z, (n, r, ...).

        Parameters
        ----------
        features : Tensor of shape (n, n_features)
        conditions : Tensor of shape (n, r, n_conditions)
        """
        shift, offsets, positive = self.network(features, conditions).split(
            [1, self.n_units, 1 + 2 * self.n_units], -1
        )
        slope, weights, rates = F.softplus(positive).split([1, self.n_units, self.n_units], -1)
        return shift, slope, weights, rates, offsets

    def value(self, context, z):
        """Return f at deviates z (n, r, m), of the same shape; axes of z may be 1."""
        shift, slope, weights, rates, offsets = (part.unsqueeze(-2) for part in context)
        z = z.unsqueeze(-1)
        steps = torch.tanh(torch.addcmul(offsets, rates, z))
        # No product of matrices: of so many small ones, it takes longer.
        return torch.addcmul(shift, slope, z).squeeze(-1) + (steps * weights).sum(-1)


class FreeQuantiles(nn.Module):
    """A quantile function from a network that reads the level as one more input.

    Nothing makes it rise but its training.

    Parameters
    ----------
    n_features, n_conditions : int
    hidden_layer_sizes : tuple of int
    """

    def __init__(self, n_features, n_conditions, hidden_layer_sizes):
        super().__init__()
        width, *others = hidden_layer_sizes
        self.first = _Context(n_features, n_conditions, (width,), None)
        self.of_level = nn.Parameter(torch.empty(width).uniform_(-1, 1))
        layers = [activation("silu")]
        for size in (*others, 1):
            layers += [nn.Linear(width, size), activation("silu")]
            width = size
        self.layers = nn.Sequential(*layers[:-1])
        self.width = 2 * max(hidden_layer_sizes)

    def context(self, features, conditions):
        """Return what does not depend on z, (n, r, ...), as in `MonotoneQuantiles`."""
        return self.first(features, conditions)

    def value(self, context, z):
        """Return f at deviates z (n, r, m), of the same shape; axes of z may be 1."""
        return self.layers(context.unsqueeze(-2) + z.unsqueeze(-1) * self.of_level).squeeze(-1)


class AutoregressiveQuantiles(nn.Module):
    r"""Quantile functions of several targets, each given the event and the targets before it.

    The head reads the features of the event and, as conditions, which target is asked for (one-hot)
    and the earlier targets; later ones are zeros. A periodic target, an angle α, is read as
    :math:`\sin\alpha` and :math:`\cos\alpha - 1`, over the spread of α: no seam, and for narrow
    distributions nothing but the scaled target itself.

    Parameters
    ----------
    encoder : nn.Module
        From events to features (n, n_features).
    make_head : callable
        ``make_head(n_conditions)``, a :class:`MonotoneQuantiles` or :class:`FreeQuantiles`.
    order : sequence of int
        The targets in the order in which they are predicted.
    spreads : sequence of float
        By target: the angle, in radians, of one unit of the scaled target; 0 if not periodic.
    """

    def __init__(self, encoder, make_head, order, spreads):
        super().__init__()
        t = len(order)
        spreads = torch.as_tensor(spreads)[list(order)]
        periodic = torch.nonzero(spreads).flatten()
        before = torch.ones(t, t).tril(-1)
        self.encoder = encoder
        self.head = make_head(2 * t + len(periodic))
        self.register_buffer("order", torch.as_tensor(order))
        self.register_buffer("periodic", periodic)
        self.register_buffer("spreads", spreads[periodic])
        self.register_buffer("which", torch.eye(t))
        self.register_buffer("before", torch.cat([before, before[:, periodic]], 1))

    def forward(self, x, targets=None, z=None):
        """Return quantiles (n, t, m) of all targets, each given those before it.

        Parameters
        ----------
        x : Tensor of shape (n, *input_shape)
        targets : Tensor of shape (n, t)
            Scaled, in `order`. Without them, the features are returned.
        z : Tensor of shape (n, t, m)
            The deviates of the levels.
        """
        features = self.encoder(x)
        if targets is None:
            return features
        # In full precision: a quantile in bfloat16 has two digits.
        with torch.autocast(features.device.type, enabled=False):
            context = self.head.context(features.to(z.dtype), self.conditions(targets))
            return self.head.value(context, z)

    def conditions(self, targets):
        """Return the conditions (n, t, c) of all targets (n, t)."""
        n, t = targets.shape
        earlier = self._read(targets).unsqueeze(1) * self.before
        return torch.cat([self.which.expand(n, t, t), earlier], -1)

    def conditions_of(self, step, targets):
        """Return the conditions (..., c) of one target, given `targets` (..., t)."""
        which = self.which[step].expand_as(targets)
        return torch.cat([which, self._read(targets) * self.before[step]], -1)

    def _read(self, targets):
        if not len(self.periodic):
            return targets
        angles = targets[..., self.periodic] * self.spreads
        targets = targets.index_copy(-1, self.periodic, angles.sin() / self.spreads)
        return torch.cat([targets, (angles.cos() - 1) / self.spreads], -1)
