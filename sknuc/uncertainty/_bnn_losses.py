r"""What Bayesian networks minimise: minus the log of a density, per unit of weight.

With events of total weight W, the mean loss of training is :math:`\sum_i w_i l_i / W`, so that the
prior, which every event shares, has a part 1/W of its log density in each.
"""

import torch

from sknuc.uncertainty._posterior import best_scale, draw_scale

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
    r"""Minus the log posterior density per unit of weight, the noise integrated out.

    The gradient of :math:`\tfrac12(\nu+W) \log(\nu\tau^2 + S)`, S the sum of squared residuals of
    all events, is that of :math:`S/2\hat\sigma^2` at
    :math:`\hat\sigma^2 = (\nu\tau^2 + S)/(\nu + W)`. A batch gives its part of S; the others are
    those that the last steps saw. σ is drawn given the S of the last whole epoch, in which every
    event is once: of batches from two epochs, their choice would spread it.

    An S of many batches hardly follows the chain, which then samples at the mean σ. Where events
    determine P parameters of a linear model, and leave squares :math:`S_0`, variances are then
    :math:`S_0/(\nu+W-P)` in units of M instead of :math:`S_0/(\nu+W-P-2)`, those of Student's t:
    short by :math:`2/(\nu+W-P)`, and by less where S follows.

    Parameters
    ----------
    likelihood : Gaussian or Categorical
    prior : LayerPrior
    squares : Tensor of shape (c, t) or None
        S at the start; None for a likelihood without noise beside the network.
    total : float
        W.
    n_batches : int
        Of an epoch.
    """

    def __init__(self, likelihood, prior, squares, total, n_batches):
        self.likelihood, self.prior = likelihood, prior
        self.total = total
        self.n_steps = 0
        self.parts = None
        self.squares = squares
        if squares is not None:
            self.parts = (squares / n_batches).expand(n_batches, -1, -1).clone()

    @property
    def noise(self):
        """The σ (c, t) that S is best explained by, or None."""
        if self.parts is None:
            return None
        like = self.likelihood
        return best_scale(like.degrees, like.typical, self.total, self.parts.sum(0))

    def draw_noise(self, rng):
        """Draw σ (c, t) given S, with a numpy RandomState; None if there is none."""
        if self.parts is None:
            return None
        like = self.likelihood
        return draw_scale(like.degrees, like.typical, self.total, self.squares, rng)

    def __call__(self, module, batch):
        theta = torch.cat([p.flatten(1) for p in module.parameters()], 1)
        output = module(batch.X)
        noise = None
        if self.parts is not None:
            part = self.likelihood.squares(output.detach(), batch.y, batch.sample_weight)
            self.parts[self.n_steps % len(self.parts)] = part
            self.n_steps += 1
            if self.n_steps % len(self.parts) == 0:
                self.squares = self.parts.sum(0)
            noise = self.noise.to(output.dtype)
        loss = -self.likelihood.log_prob(output, batch.y, noise)
        prior = self.prior.marginal(theta)[0]
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
