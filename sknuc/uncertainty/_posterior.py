r"""The posterior of a network's parameters, for many networks at a time.

Given the layers' scales s, the parameters of a network are Gaussian a priori,

.. math:: \theta_j \sim N\!\left(m_j,\, s_g^2 / f_j\right),

with a scale for each tensor g of parameters, f the number of inputs that a weight is added up over
(1 for biases), so that features of all layers stay of order one whatever the width, and m = 1 for
the gains of normalisation layers, else 0. Events are independent given the network,

.. math:: \log p(D|\theta) = \sum_i w_i \log p(y_i | f_\theta(x_i)),

so that a weight of 2 is the event twice. Scales and noise have conjugate priors, scaled inverse χ²
with ν degrees of freedom: :math:`s^2 \sim \nu\tau^2/\chi^2_\nu`, worth ν observations of τ². So
scales can be integrated out, which leaves a Student t for each tensor of parameters, and drawn
exactly when the parameters are known: chains need not follow them, which is slow since a scale and
its many parameters hold each other fast.

Shapes: c networks (chains), P parameters, G tensors, n events, t targets, o outputs.
"""

import copy
import math
from functools import cached_property

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from sknuc.nn import shared_copy

__all__ = [
    "Categorical",
    "Gaussian",
    "LayerPrior",
    "Posterior",
    "PosteriorNetworks",
    "StackedNetwork",
    "diagonal_curvature",
    "largest_curvature",
]

_LOG_2PI = math.log(2 * math.pi)
# Events per forward pass: activations of a few chains stay within some 10 MB.
_BLOCK = 4096


class StackedNetwork:
    """Networks as a function of their parameters.

    Parameters
    ----------
    stack : nn.Module
        As :func:`sknuc.nn.stack` makes it. It stays as it is, and may be evaluated meanwhile.
    """

    def __init__(self, stack):
        self.stack = shared_copy(stack).eval()
        self.names = [name for name, _ in stack.named_parameters()]
        self.shapes = [parameter.shape[1:] for parameter in stack.parameters()]
        self.sizes = [shape.numel() for shape in self.shapes]

    def parameters(self):
        """The parameters of all networks, (c, P)."""
        return torch.cat([p.detach().flatten(1) for p in self.stack.parameters()], 1)

    def split(self, theta):
        """Parameters (c, P) as the tensors of the stack, in their order."""
        parts = theta.split(self.sizes, 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def evaluate(self, tensors, x):
        """Outputs (c, n, o) for events (n, *input_shape)."""
        stack = self.stack
        if len(tensors[0]) != stack.n_members:
            stack = copy.copy(stack)
            stack.n_members = len(tensors[0])
        return functional_call(stack, dict(zip(self.names, tensors, strict=True)), (x,))

    def __call__(self, theta, x):
        """Outputs (c, n, o) of networks with parameters (c, P)."""
        return self.evaluate(self.split(theta), x)


class PosteriorNetworks(nn.Module):
    """Networks whose parameters are draws of a posterior.

    Parameters
    ----------
    stack : nn.Module
        The architecture, as :func:`sknuc.nn.stack` makes it.
    draws : Tensor of shape (n_draws, P)
    """

    def __init__(self, stack, draws):
        super().__init__()
        self.stack = stack
        self.draws = nn.Parameter(draws, requires_grad=False)
        self.n_members = len(draws)

    def forward(self, x):
        """Outputs (n_draws, n, o) for events (n, *input_shape)."""
        return StackedNetwork(self.stack)(self.draws, x)


class LayerPrior:
    r"""Gaussian priors of a network's parameters, with given or learned scales.

    Parameters
    ----------
    module : nn.Module
        A network as it is initialised.
    scale : float or None
        s of all tensors; None if the scales are learned.
    """

    #: Degrees of freedom and scale of the prior of learned scales: s from 0.6 to 2.9 (95 %).
    degrees, typical = 4.0, 1.0

    def __init__(self, module, scale):
        parameters = [p.detach() for p in module.parameters()]
        self.names = [name for name, _ in module.named_parameters()]
        self.scale = scale
        self.sizes = [p.numel() for p in parameters]
        self.n_groups = len(parameters)
        like = {"dtype": parameters[0].dtype, "device": parameters[0].device}
        sizes = torch.tensor(self.sizes, device=like["device"])
        self.group = torch.repeat_interleave(torch.arange(len(sizes), device=sizes.device), sizes)
        fan_in = [_fan_in(module, name, p) for name, p in module.named_parameters()]
        self.fan_in = torch.tensor(fan_in, **like).repeat_interleave(sizes)
        # Gains of normalisation layers start, and are expected, at one.
        gain = [float(p.ndim <= 1 and bool((p == 1).all())) for p in parameters]
        self.mean = torch.tensor(gain, **like).repeat_interleave(sizes)

    def to(self, tensor):
        """Take over the type and the device of a tensor."""
        for name in ("group", "fan_in", "mean"):
            value = getattr(self, name)
            value = value.to(tensor) if value.is_floating_point() else value.to(tensor.device)
            setattr(self, name, value)
        return self

    @property
    def learned(self):
        """Whether the scales are learned."""
        return self.scale is None

    def initial_scales(self, c):
        """Scales (c, G) to start from."""
        value = 1.0 if self.learned else self.scale
        return self.fan_in.new_full((c, self.n_groups), value)

    def precision(self, scales):
        """Inverse variances (c, P) of the parameters given scales (c, G)."""
        return self.fan_in / scales[:, self.group] ** 2

    def squares(self, theta):
        r"""Sums of :math:`f_j (\theta_j - m_j)^2` over each tensor, (c, G)."""
        return self.sums(self.fan_in * (theta - self.mean) ** 2)

    def sums(self, numbers):
        """Sums over each tensor, (c, G), of numbers (c, P)."""
        return torch.stack([part.sum(1) for part in numbers.split(self.sizes, 1)], 1)

    def log_prob(self, theta, scales):
        """Log density (c,) of parameters (c, P) given scales (c, G)."""
        precision = self.precision(scales)
        square = (precision * (theta - self.mean) ** 2).double().sum(1)
        return 0.5 * (precision.log().double().sum(1) - square - theta.shape[1] * _LOG_2PI)

    def marginal(self, theta):
        r"""Log density (c,), the scales integrated out, and the pull (c, P) towards the means.

        .. math:: p(\theta_g) \propto (\nu\tau^2 + \sum_j f_j(\theta_j-m_j)^2)^{-(\nu+P_g)/2},

        a multivariate Student t per tensor. The pull is the gradient over :math:`m - \theta`.
        """
        if not self.learned:
            scales = self.initial_scales(len(theta))
            return self.log_prob(theta, scales), self.precision(scales)
        total = self.degrees * self.typical**2 + self.squares(theta)
        power = self.degrees + self._sizes(theta)
        log_prob = self._constant - 0.5 * (power * total.log()).sum(1, dtype=torch.float64)
        return log_prob, self.fan_in * (power / total)[:, self.group]

    @cached_property
    def _constant(self):
        nu = self.degrees
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        constant = torch.lgamma((nu + sizes) / 2) - sizes / 2 * math.log(math.pi)
        constant = constant + nu / 2 * math.log(nu * self.typical**2) - math.lgamma(nu / 2)
        return constant.sum().item() + 0.5 * self.fan_in.double().log().sum().item()

    def _sizes(self, like):
        return torch.tensor(self.sizes, dtype=like.dtype, device=like.device)

    def draw_scales(self, theta, rng):
        """Draw scales (c, G) given the parameters: exact, with a numpy RandomState."""
        if not self.learned:
            return self.initial_scales(len(theta))
        squares = self.squares(theta)
        return draw_scale(self.degrees, self.typical, self._sizes(squares), squares, rng)

    def best_scales(self, squares):
        r"""Scales at the maximum of their density in log s, given sums of squares (c, G)."""
        return best_scale(self.degrees, self.typical, self._sizes(squares), squares)


def _fan_in(module, name, parameter):
    """The number of inputs that a weight is added up over; 1 for what is no weight.

    A layer whose weights are not of shape (outputs, inputs, ...) says it as its `fan_in`.
    """
    owner, _, leaf = name.rpartition(".")
    layer = module.get_submodule(owner)
    if parameter.ndim < 2 or "weight" not in leaf:
        return 1
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        # Each output is reached by one of `stride` taps of the kernel.
        taps = math.prod(layer.kernel_size) / math.prod(layer.stride)
        return layer.in_channels / layer.groups * taps
    return getattr(layer, "fan_in", parameter[0].numel())


def draw_scale(degrees, typical, n, squares, rng):
    r"""Draw σ from :math:`\sigma^2 \sim (\nu\tau^2 + S)/\chi^2_{\nu+n}`, S a sum of n squares."""
    shape = ((degrees + torch.as_tensor(n, dtype=torch.float64).cpu()) / 2).expand(squares.shape)
    gamma = torch.from_numpy(rng.standard_gamma(shape.numpy())).to(squares)
    return ((degrees * typical**2 + squares) / (2 * gamma)).sqrt()


def best_scale(degrees, typical, n, squares):
    r"""The maximum in log σ of the density that :func:`draw_scale` draws from."""
    return ((degrees * typical**2 + squares) / (degrees + n)).sqrt()


def log_density(degrees, typical, log_scale):
    r"""Log density, up to a constant, of log σ for :math:`\sigma^2 \sim \nu\tau^2/\chi^2_\nu`."""
    return -degrees * (log_scale + typical**2 / 2 * (-2 * log_scale).exp())


class Gaussian:
    r"""Targets with Gaussian noise, of one learned size, or of a size that the network gives.

    Parameters
    ----------
    heteroscedastic : bool
        The network's outputs are t means and t values of log σ.
    """

    #: Degrees of freedom and scale of the prior of σ, in standard deviations of the targets.
    degrees, typical = 1.0, 0.01
    #: The first training looks no closer: where events are met exactly, ever smaller residuals
    #: would pull ever harder, and rounding errors decide where the network goes.
    finest = 0.1
    #: How far the first training may go from the initial network, in scales of the prior.
    leash = 1.0

    def __init__(self, heteroscedastic=False):
        self.heteroscedastic = heteroscedastic

    @property
    def has_noise(self):
        """Whether σ is a parameter beside the network."""
        return not self.heteroscedastic

    def log_prior(self, log_noise):
        """Log densities, up to a constant, of log σ."""
        return log_density(self.degrees, self.typical, log_noise)

    def split(self, output, noise):
        """Means (c, n, t) and log σ of the same or a broadcastable shape."""
        if self.heteroscedastic:
            return output.chunk(2, -1)
        return output, noise.log().unsqueeze(1)

    def log_prob(self, output, y, noise):
        """Log densities (c, n) of targets (n, t), given σ (c, t)."""
        mean, log_noise = self.split(output, noise)
        z = (y - mean) * (-log_noise).exp()
        return -(0.5 * z**2 + log_noise + _LOG_2PI / 2).sum(-1)

    def profile_loss(self, output, y, weight):
        """Minus log densities (c, n) at the σ that fits these events best, for a first training."""
        if self.heteroscedastic:
            return -self.log_prob(output, y, None)
        squares = (y - output.detach()) ** 2
        if weight is not None:
            squares = squares * (weight / weight.mean(-1, keepdim=True)).unsqueeze(-1)
        noise = (squares.mean(-2) + self.finest**2).sqrt()
        return -self.log_prob(output, y, noise)

    def squares(self, output, y, weight):
        """Weighted sums of squared residuals, (c, t), in float64."""
        squares = (y - output) ** 2
        squares = squares if weight is None else squares * weight[..., None]
        return squares.sum(-2, dtype=torch.float64)

    def marginal(self, squares, n):
        """Log density (c,) of events of weight n, σ integrated out, of their squares (c, t)."""
        total = self.degrees * self.typical**2 + squares
        return -0.5 * (self.degrees + n) * total.log().sum(-1)


class Categorical:
    """Labels; two classes have one output, the log odds."""

    has_noise = False
    # A label says ln 2 at most: few of them would not pull the network off where it began.
    leash = 2.0

    def log_prob(self, output, y, noise=None):
        """Log probabilities (c, n) of class numbers (n,) or (c, n)."""
        if output.shape[-1] == 1:
            sign = 2 * y.to(output.dtype) - 1
            return F.logsigmoid(sign * output[..., 0])
        y = y.expand(output.shape[:-1]).unsqueeze(-1)
        return F.log_softmax(output, -1).gather(-1, y)[..., 0]

    def profile_loss(self, output, y, weight):
        """Minus log probabilities (c, n)."""
        return -self.log_prob(output, y)

    def probabilities(self, output):
        """Probabilities (..., n_classes) of logits."""
        if output.shape[-1] == 1:
            return torch.sigmoid(torch.cat([-output, output], -1))
        return torch.softmax(output, -1)


class Posterior:
    r"""Log density and gradient for c chains, with scales and noise integrated out.

    The noise of each target leaves what the scales leave, a Student t,

    .. math:: p(D|\theta) \propto
        \big(\nu\tau^2 + \sum_i w_i (y_i - f_\theta(x_i))^2\big)^{-(\nu+W)/2},

    and is drawn when it is asked for: chains need not follow it.

    Parameters
    ----------
    network : StackedNetwork
    prior : LayerPrior
    likelihood : Gaussian or Categorical
    x : Tensor of shape (n, *input_shape)
    y : Tensor of shape (n, t) or (n,)
    weight : Tensor of shape (n,) or None
    rng : RandomState
        Draws the noise.

    Attributes
    ----------
    noise : Tensor of shape (c, t) or None
        If it is set, the density is that at this noise.
    """

    def __init__(self, network, prior, likelihood, x, y, weight, rng):
        self.network = network
        self.prior = prior
        self.likelihood = likelihood
        self.x, self.y, self.weight = x, y, weight
        self.rng = rng
        self.n_events = len(x) if weight is None else weight.double().sum().item()
        self.noise = None

    def _blocks(self):
        for start in range(0, len(self.x), _BLOCK):
            rows = slice(start, start + _BLOCK)
            yield self.x[rows], self.y[rows], None if self.weight is None else self.weight[rows]

    def __call__(self, theta):
        """Log density (c,) in float64, and its gradient (c, P)."""
        log_prob, pull = self.prior.marginal(theta)
        gradient = pull * (self.prior.mean - theta)
        tensors = [part.detach().requires_grad_() for part in self.network.split(theta)]
        integrated = self.likelihood.has_noise and self.noise is None
        # The gradient of a block depends on the squares of all others.
        others = data = 0.0
        if integrated and len(self.x) > _BLOCK:
            others = self.squares(theta)
        for x, y, weight in self._blocks():
            output = self.network.evaluate(tensors, x)
            if integrated:
                own = self.likelihood.squares(output, y, weight)
                rest = others - own.detach() if len(self.x) > _BLOCK else 0.0
                total = self.likelihood.marginal(rest + own, self.n_events)
            else:
                each = self.likelihood.log_prob(output, y, self.noise)
                if weight is not None:
                    each = each * weight
                # Differences of log densities decide on acceptance: summed in float64.
                total = each.sum(1, dtype=torch.float64)
            # The sum over chains gives each its own gradient.
            parts = torch.autograd.grad(total.sum(), tensors)
            gradient = gradient + torch.cat([part.flatten(1) for part in parts], 1)
            # With the noise integrated out, each block gives the density of all events.
            data = total.detach() if integrated else data + total.detach()
        return log_prob + data, gradient

    @torch.no_grad()
    def squares(self, theta):
        """Weighted sums of squared residuals (c, t)."""
        return sum(
            self.likelihood.squares(self.network(theta, x), y, weight)
            for x, y, weight in self._blocks()
        )

    def draw_noise(self, theta):
        """Draw the noise (c, t) given the parameters; None if the likelihood has none."""
        if not self.likelihood.has_noise:
            return None
        like = self.likelihood
        squares = self.squares(theta)
        noise = draw_scale(like.degrees, like.typical, self.n_events, squares, self.rng)
        return noise.to(theta.dtype)


def diagonal_curvature(network, likelihood, theta, noise, x, y, weight, generator, n_probes=16):
    r"""Diagonal of the Fisher information of all events, (c, P), at parameters (c, P).

    The expectation of squares of :math:`\sum_i \pm\sqrt{w_i}\, \nabla \log p(y_i|x_i)` over random
    signs is the sum of squared gradients, and takes a few passes instead of one for each event.
    Half of each number comes from its tensor's mean, since so few probes leave 35 % of noise.
    """
    tensors = [part.detach().requires_grad_() for part in network.split(theta)]
    total = torch.zeros_like(theta)
    output = network.evaluate(tensors, x)
    each = likelihood.log_prob(output, y, noise)
    if weight is not None:
        each = each * weight.sqrt()
    for probe in range(n_probes):
        signs = torch.randint(
            0, 2, each.shape, generator=generator, device=each.device, dtype=each.dtype
        )
        gradients = torch.autograd.grad(
            each, tensors, 2 * signs - 1, retain_graph=probe < n_probes - 1
        )
        total += torch.cat([part.flatten(1) for part in gradients], 1) ** 2 / n_probes
    parts = total.split(network.sizes, 1)
    return torch.cat([(part + part.mean(1, keepdim=True)) / 2 for part in parts], 1)


def largest_curvature(posterior, theta, inverse_mass, generator, n_turns=10):
    r"""Largest eigenvalue of :math:`M^{-1/2} H M^{-1/2}` over all networks, by the power method.

    H is the matrix of second derivatives of minus the log density. Masses M that are its diagonal
    make it one for a single parameter; where many act on few events in the same way, the direction
    in which they all help has an eigenvalue of up to their number. Products with H are differences
    of gradients.

    Parameters
    ----------
    posterior : callable
        ``posterior(theta) -> log density (c,), gradient (c, P)``.
    theta, inverse_mass : Tensor of shape (c, P)
    generator : torch.Generator
    n_turns : int
        Products with H.

    Returns
    -------
    curvature : float
        At least 1.
    """
    root = inverse_mass.sqrt()
    gradient = posterior(theta)[1]
    direction = torch.randn(
        theta.shape, generator=generator, dtype=theta.dtype, device=theta.device
    )
    curvature = torch.ones(len(theta), 1, dtype=theta.dtype, device=theta.device)
    for _ in range(n_turns):
        direction = direction / direction.norm(dim=1, keepdim=True)
        # A tenth of the width of the posterior in this direction, as far as it is known.
        size = 0.1 / curvature.sqrt()
        change = posterior(theta + size * root * direction)[1] - gradient
        direction = -root * change / size
        curvature = direction.norm(dim=1, keepdim=True).clamp(min=1)
    return curvature.max().item()
