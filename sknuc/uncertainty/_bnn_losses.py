r"""What Bayesian networks minimise: minus the log of a density, per unit of weight.

With events of total weight W, the mean loss of training is :math:`\sum_i w_i l_i / W`, so that the
prior, which every event shares, has a part 1/W of its log density in each.
"""

import torch
from torch import nn

__all__ = ["ELBO", "AnchoredLoss", "SamplingLoss"]


class AnchoredLoss:
    r"""The loss of the first training: likelihood, and a pull back to the initial network.

    .. math:: -\log p(D|\theta) + \tfrac12 |\theta - \theta_0|^2_{S^{-1}}

    The maximum of the posterior density is no network to start from: with many parameters and few
    events it is the one that is zero everywhere, though hardly any draw of the posterior is near
    it, and there all derivatives vanish. A network that is drawn and then goes as far as the data
    ask for lies among the draws; if it were linear, it would be one (with noise on the targets).

    References
    ----------
    T. Pearce, F. Leibfried, A. Brintrup, "Uncertainty in Neural Networks: Approximately Bayesian
    Ensembling", AISTATS 2020, arXiv:1810.05546.
    """

    def __init__(self, likelihood, estimator, total):
        self.likelihood = likelihood
        self.estimator = estimator
        self.total = total
        self.anchor = None

    def __call__(self, module, batch):
        output = module(batch.X)
        loss = self.likelihood.profile_loss(output, batch.y, batch.sample_weight)
        theta = torch.cat([p.flatten(1) for p in module.parameters()], 1)
        if self.anchor is None:
            prior = self.estimator._prior.to(theta)
            scales = self.likelihood.leash * prior.initial_scales(1)
            self.pull = prior.precision(scales) / (2 * self.total)
            self.anchor = theta.detach().clone()
        return loss + (self.pull * (theta - self.anchor) ** 2).sum(1, keepdim=True)


class SamplingLoss:
    """Minus the log posterior density per unit of weight, of the parameters and of log σ.

    The noise is one more parameter that moves along the gradients of batches: drawn given a batch,
    as if that were all events, it would spread as much as a batch leaves open.
    """

    def __init__(self, likelihood, prior, noise, total):
        self.likelihood, self.prior = likelihood, prior
        self.total = total
        self.log_noise = None if noise is None else nn.Parameter(noise.log())

    @property
    def noise(self):
        """The present σ (c, t), or None."""
        return None if self.log_noise is None else self.log_noise.detach().exp()

    def __call__(self, module, batch):
        theta = torch.cat([p.flatten(1) for p in module.parameters()], 1)
        prior = self.prior.marginal(theta)[0]
        noise = None
        if self.log_noise is not None:
            # Beside the module, whose gradients are reset for each step.
            self.log_noise.grad = None
            noise = self.log_noise.exp()
            prior = prior + self.likelihood.log_prior(self.log_noise).sum(1)
        loss = -self.likelihood.log_prob(module(batch.X), batch.y, noise)
        return loss - (prior.to(loss.dtype) / self.total).unsqueeze(1)


class ELBO:
    """Minus the evidence lower bound per unit of weight."""

    def __init__(self, likelihood, total):
        self.likelihood = likelihood
        self.total = total

    def __call__(self, module, batch):
        loss = -self.likelihood.log_prob(module(batch.X), batch.y, module.noise)[0]
        divergence = module.divergence()
        if module.log_noise is not None:
            divergence = divergence - self.likelihood.log_prior(module.log_noise).sum()
        return loss + divergence / self.total
