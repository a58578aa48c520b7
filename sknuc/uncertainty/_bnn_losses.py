r"""What Bayesian networks minimise: minus the log of a density, per unit of weight.

With events of total weight W, the mean loss of training is :math:`\sum_i w_i l_i / W`, so that the
prior, which every event shares, has a part 1/W of its log density in each.
"""

import torch

from sknuc.uncertainty._posterior import draw_scale

__all__ = ["ELBO", "MAPLoss", "SamplingLoss"]


class MAPLoss:
    """Minus the log posterior density per unit of weight; scales that are learned are 1."""

    def __init__(self, likelihood, estimator, total):
        self.likelihood = likelihood
        self.estimator = estimator
        self.total = total
        self.shrinkage = None

    def __call__(self, module, batch):
        output = module(batch.X)
        loss = self.likelihood.profile_loss(output, batch.y, batch.sample_weight)
        theta = torch.cat([p.flatten(1) for p in module.parameters()], 1)
        if self.shrinkage is None:
            self.prior = self.estimator._prior.to(theta)
            self.shrinkage = self.prior.precision(self.prior.initial_scales(1)) / (2 * self.total)
        penalty = (self.shrinkage * (theta - self.prior.mean) ** 2).sum(1, keepdim=True)
        return loss + penalty


class SamplingLoss:
    """Minus the log posterior density per unit of weight, at a noise drawn in between."""

    def __init__(self, likelihood, prior, noise, total):
        self.likelihood, self.prior = likelihood, prior
        self.noise = noise
        self.total = total
        self._squares, self._weight = 0.0, 0.0

    def __call__(self, module, batch):
        output = module(batch.X)
        loss = -self.likelihood.log_prob(output, batch.y, self.noise)
        if self.likelihood.has_noise:
            weight = batch.sample_weight
            squares = self.likelihood.squares(output.detach(), batch.y, weight)
            self._squares = self._squares + squares.double()
            n = len(batch) if weight is None else weight.double().sum(-1, keepdim=True)
            self._weight = self._weight + n
        theta = torch.cat([p.flatten(1) for p in module.parameters()], 1)
        prior = self.prior.marginal(theta)[0].to(loss.dtype)
        return loss - (prior / self.total).unsqueeze(1)

    def draw_noise(self, rng):
        """Draw the noise, from the events seen since the last time."""
        if self.likelihood.has_noise:
            like = self.likelihood
            squares = self._squares * (self.total / self._weight)
            noise = draw_scale(like.degrees, like.typical, self.total, squares, rng)
            self.noise = noise.to(self.noise.dtype)
            self._squares, self._weight = 0.0, 0.0


class ELBO:
    """Minus the evidence lower bound per unit of weight."""

    def __init__(self, likelihood, total):
        self.likelihood = likelihood
        self.total = total

    def __call__(self, module, batch):
        loss = -self.likelihood.log_prob(module(batch.X), batch.y, module.noise)[0]
        divergence = module.divergence()
        if module.log_noise is not None:
            like, log_noise = self.likelihood, module.log_noise
            prior = like.degrees * (log_noise + like.typical**2 / 2 * (-2 * log_noise).exp())
            divergence = divergence + prior.sum()
        return loss + divergence / self.total
