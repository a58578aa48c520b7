r"""Critics: from an event, and its condition, to one number, and what keeps that number smooth.

*Conditions by projection.* The log ratio of two densities of events with conditions is

.. math:: \ln\frac{p(x, y)}{q(x, y)} = \ln\frac{p(y|x)}{q(y|x)} + \ln\frac{p(x)}{q(x)} ,

and if y is a class with probabilities :math:`\propto e^{v_y \cdot \phi(x)}` of features φ of the
event, the first term is a scalar product of a vector of the class with the features. So is the
critic: :math:`D(x, y) = \psi(\phi(x)) + v(y) \cdot \phi(x)`, ψ linear, v a network of y.

*Spectral normalisation.* A linear map W stretches no vector by more than its largest singular value
σ. Divided by it, every layer has the Lipschitz constant 1, and so has the network if its
non-linearities have. A step of the power iteration :math:`v \propto W^T u,\; u \propto W v` in
every pass follows σ as W changes slowly.
"""

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

__all__ = ["Critic", "SpectralNorm"]

# Steps of the power iteration from random vectors, once.
_FIRST_STEPS = 15


class Critic(nn.Module):
    """One number of an event and its condition.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *shape) to features (n, n_features).
    n_features : int
    n_conditions : int
        Numbers per condition; 0 for none.

    References
    ----------
    T. Miyato, M. Koyama, "cGANs with Projection Discriminator", ICLR 2018 (arXiv:1802.05637).
    """

    def __init__(self, encoder, n_features, n_conditions):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(n_features, 1)
        self.projection = None
        if n_conditions:
            # Of classes, any function is linear; of numbers, a network has to be.
            self.projection = nn.Sequential(
                nn.Linear(n_conditions, n_features),
                nn.SiLU(),
                nn.Linear(n_features, n_features),
            )

    def forward(self, x, condition):
        """From events (n, *shape) and conditions (n, n_conditions) or None to (n,)."""
        features = self.encoder(x)
        output = self.head(features).squeeze(1)
        if condition is None:
            return output
        return output + (self.projection(condition) * features).sum(1)


class SpectralNorm(nn.Module):
    r"""A network whose weights are divided by their largest singular values, :math:`W/\sigma(W)`.

    Of a convolution, W is the matrix from one window to its channels. Vectors (biases, scales of
    normalisations) are left as they are.

    Parameters
    ----------
    network : nn.Module

    References
    ----------
    T. Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018
    (arXiv:1802.05957).
    """

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.names = [name for name, weight in network.named_parameters() if weight.ndim > 1]
        for i, weight in enumerate(self._matrices()):
            vector = F.normalize(torch.randn(len(weight), dtype=weight.dtype), dim=0)
            self.register_buffer(f"vector_{i}", vector)
        for _ in range(_FIRST_STEPS):
            self._power_step()

    def _matrices(self):
        weights = dict(self.network.named_parameters())
        return [weights[name].flatten(1) for name in self.names]

    @torch.no_grad()
    def _power_step(self):
        for i, weight in enumerate(self._matrices()):
            u = getattr(self, f"vector_{i}")
            u.copy_(F.normalize(weight @ F.normalize(weight.T @ u, dim=0), dim=0))

    def normalized(self):
        """The weights by name, each divided by its largest singular value."""
        weights = dict(self.network.named_parameters())
        for i, name in enumerate(self.names):
            weight = weights[name]
            matrix, u = weight.flatten(1), getattr(self, f"vector_{i}").clone()
            v = F.normalize(matrix.detach().T @ u, dim=0)
            weights[name] = weight / (u @ matrix @ v)
        return weights

    def forward(self, *inputs):
        """Apply the network with normalised weights."""
        if self.training:
            self._power_step()
        return functional_call(self.network, self.normalized(), inputs)
