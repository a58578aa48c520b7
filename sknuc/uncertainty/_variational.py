r"""Variational inference: the independent Gaussians that come nearest to the posterior.

For :math:`q(\theta) = \prod_j N(\theta_j; \mu_j, \sigma_j^2)`, the evidence has the lower bound

.. math:: \log p(D) \ge \sum_i w_i\, E_q[\log p(y_i|f_\theta(x_i))]
          - \mathrm{KL}(q\,\|\,p(\theta|s)),

whose distance to it is the Kullback-Leibler divergence from q to the posterior. Training maximises
it over μ, σ and the size of the noise; the best scales s of the prior are known in closed form.
Where the posterior is a product of Gaussians, q is the posterior; where its parameters are
correlated, q is too narrow.

In a chain of dense layers the noise of the weights is drawn where it arrives, in each layer's
output (the local reparameterisation): each event has its own, and gradients are far less noisy.
Other networks draw their weights once for each batch.

References
----------
C. Blundell et al., "Weight Uncertainty in Neural Networks", ICML 2015, arXiv:1505.05424.

D. Kingma, T. Salimans, M. Welling, "Variational Dropout and the Local Reparameterization Trick",
NeurIPS 2015, arXiv:1506.02557.
"""

import torch
from torch import nn

from sknuc.nn import StackedDense
from sknuc.uncertainty._posterior import StackedNetwork

__all__ = ["MeanField"]

# Of the prior's standard deviation, where training starts: a trained network keeps its shape.
_START = 0.05


class MeanField(nn.Module):
    """A network whose parameters are independent Gaussians.

    Parameters
    ----------
    stack : nn.Module
        One network, as :func:`sknuc.nn.stack` makes it; its parameters are the means at the start.
    prior : LayerPrior
    noise : Tensor of shape (1, t) or None
        σ of the targets at the start.
    """

    def __init__(self, stack, prior, noise):
        super().__init__()
        self.skeleton = stack
        self.network = StackedNetwork(stack)
        self.prior = prior
        self.mean = nn.Parameter(self.network.parameters())
        start = _START * prior.precision(prior.initial_scales(1)).rsqrt()
        self.log_std = nn.Parameter(start.log())
        self.log_noise = None if noise is None else nn.Parameter(noise.log())
        stack.requires_grad_(False)
        self._local = isinstance(stack, StackedDense)

    def train(self, mode=True):
        """Dropout stays off: the noise is that of the weights."""
        super().train(mode)
        self.skeleton.eval()
        return self

    @property
    def noise(self):
        """σ of the targets, (1, t), or None."""
        return None if self.log_noise is None else self.log_noise.exp()

    def forward(self, x):
        """Outputs (1, n, o) of networks that are drawn."""
        std = self.log_std.exp()
        if not self._local:
            return self.network(self.mean + std * torch.randn_like(std), x)
        means, stds = self.network.split(self.mean), self.network.split(std)
        state = dict(zip(self.network.names, zip(means, stds, strict=True), strict=True))
        x = x.flatten(1).expand(1, -1, -1)
        for i, layer in enumerate(self.skeleton.layers):
            own = {name: state[f"layers.{i}.{name}"] for name, _ in layer.named_parameters()}
            if not own:
                x = layer(x)
            elif layer.weight.shape[1] == x.shape[-1] and not hasattr(layer, "eps"):
                x = _dense(x, **own)
            else:
                drawn = {n: mean + std * torch.randn_like(std) for n, (mean, std) in own.items()}
                x = torch.func.functional_call(layer, drawn, (x,))
        return x

    def divergence(self):
        """KL(q || p), a 0-d tensor, at the best scales of the prior."""
        std = self.log_std.exp()
        second = (self.mean - self.prior.mean) ** 2 + std**2
        scales = self.scales()
        precision = self.prior.precision(scales)
        return 0.5 * (precision * second - 1 - precision.log()).sum() - self.log_std.sum()

    @torch.no_grad()
    def scales(self):
        """The scales (1, G) of the prior, at their best where they are learned."""
        if not self.prior.learned:
            return self.prior.initial_scales(1)
        std = self.log_std.exp()
        extra = self.prior.sums(self.prior.fan_in * std**2)
        return self.prior.best_scales(self.prior.squares(self.mean) + extra)

    @torch.no_grad()
    def draws(self, n_draws, generator):
        """Draws of the parameters, (n_draws, P)."""
        shape = (n_draws, self.mean.shape[1])
        like = {"dtype": self.mean.dtype, "device": self.mean.device, "generator": generator}
        return self.mean + self.log_std.exp() * torch.randn(shape, **like)


def _dense(x, weight, bias=None):
    """A layer whose weights and biases are pairs of means and standard deviations."""
    mean, variance = torch.bmm(x, weight[0]), torch.bmm(x**2, weight[1] ** 2)
    if bias is not None:
        mean, variance = mean + bias[0], variance + bias[1] ** 2
    # The square root has no derivative at zero, where all inputs and the bias' spread vanish.
    tiny = torch.finfo(x.dtype).tiny
    return mean + variance.clamp(min=tiny).sqrt() * torch.randn_like(mean)
