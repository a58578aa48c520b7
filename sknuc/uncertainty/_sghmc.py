r"""Stochastic-gradient Hamiltonian Monte Carlo: draws of a posterior at the price of training.

Gradients of batches are noisy, and that noise would heat up Hamilton's equations. Friction takes
the heat away; with the noise that belongs to the friction α,

.. math::
    v \leftarrow (1-\alpha)\, v - \eta M^{-1} \nabla \tilde U
      + \sqrt{2\alpha\eta T}\, M^{-1/2} \xi, \qquad \theta \leftarrow \theta + v,

the positions are draws of :math:`\exp(-\tilde U/T)` up to a bias of order η. Here
:math:`\tilde U = -\log p(\theta|D)/W` for events of total weight W is what training minimises (the
mean loss), and so T = 1/W. There is no test of acceptance, which would need all events.

The gradient of a batch of b of n events has a noise of its own. At a mode its covariance is that
of an event's gradient, the Fisher information, over b: :math:`\beta M` with β = 1/b - 1/n where M
is the curvature for each event. It brings :math:`\eta^2\beta M^{-1}` of the heat, and only the rest
is added, :math:`\eta M^{-1}(2\alpha T - \eta\beta)`. That must be positive: η < 2αT/β. The
batches of an epoch add up to all events, so that their noise has no low frequencies; what counts
is the noise at the chain's own, :func:`epoch_noise`.

A step size that falls along half a cosine, again and again, takes the network from one mode to
another at the start of each cycle, and samples the mode in its second half.

References
----------
T. Chen, E. Fox, C. Guestrin, "Stochastic Gradient Hamiltonian Monte Carlo", ICML 2014,
arXiv:1402.4102.

R. Zhang et al., "Cyclical Stochastic Gradient MCMC for Bayesian Deep Learning", ICLR 2020,
arXiv:1902.03932.
"""

import math

import torch

__all__ = ["SGHMC", "epoch_noise"]


class SGHMC(torch.optim.Optimizer):
    """An optimizer whose parameters are draws.

    Parameters
    ----------
    parameters : iterable of Parameter
    lr : float
        η, in units in which the curvature is M.
    inverse_mass : list of Tensor
        Of the shape of each parameter.
    friction : float
        α in (0, 1].
    temperature : float
        T, one over the number of events.
    generator : torch.Generator
    batch_noise : float
        β, the noise of gradients in units of M.
    cycle : int or None
        Steps of a cycle; None for a constant step size.
    after_step : callable or None
        ``after_step(k, share)`` after step k = 1, 2, ...; `share` in (0, 1] says how far the cycle
        has come, and is 1 without cycles.
    """

    def __init__(
        self,
        parameters,
        lr,
        *,
        inverse_mass,
        friction,
        temperature,
        generator,
        batch_noise=0.0,
        cycle=None,
        after_step=None,
    ):
        super().__init__(parameters, {"lr": lr})
        self.inverse_mass = inverse_mass
        self.friction = friction
        self.temperature = temperature
        self.generator = generator
        self.batch_noise = batch_noise
        self.cycle = cycle
        self.after_step = after_step
        self.n_steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        """Move the parameters along their gradients, with friction and noise."""
        share = 1.0 if self.cycle is None else (self.n_steps % self.cycle + 1) / self.cycle
        for group in self.param_groups:
            lr = group["lr"]
            if self.cycle is not None:
                # From the start of a step, so that the last one of a cycle is not zero.
                lr *= (1 + math.cos(math.pi * (share - 1 / self.cycle))) / 2
            heat = lr * max(0.0, 2 * self.friction * self.temperature - lr * self.batch_noise)
            for parameter, inverse_mass in zip(group["params"], self.inverse_mass, strict=True):
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"]
                noise = torch.empty_like(parameter).normal_(generator=self.generator)
                velocity.mul_(1 - self.friction).addcmul_(inverse_mass, parameter.grad, value=-lr)
                velocity.addcmul_((heat * inverse_mass).sqrt(), noise)
                parameter.add_(velocity)
        self.n_steps += 1
        if self.after_step is not None:
            self.after_step(self.n_steps, share)


def epoch_noise(n_batches, step_size):
    r"""nβ at the frequency :math:`\omega=\sqrt\eta` with which chains swing, for k batches.

    .. math:: n\beta = k \left(1 - \frac{\sin^2(k\omega/2)}{k^2\sin^2(\omega/2)}\right),

    the spectrum of noise that is independent but for its sum over each epoch, which is zero.
    """
    half = min(math.sqrt(step_size), math.pi) / 2
    return n_batches * (1 - (math.sin(n_batches * half) / (n_batches * math.sin(half))) ** 2)
