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
of an event's gradient, the Fisher information F, over b: :math:`\beta F` with β = 1/b - 1/n. It
brings :math:`\eta^2\beta M^{-1}FM^{-1}` of the heat, so that less is to be added. M is the diagonal
of F (and of the prior), and :math:`\eta M^{-1}(2\alpha T - \eta\beta)` is added: right on average,
and too much in directions of larger curvature :math:`\lambda M`, where batches bring λ times as
much. η is so small that this is a fifth of the heat at most, :func:`stable_step`. The batches of an
epoch add up to all events, so that their noise has no low frequencies; what counts is the noise at
those that the chain follows, :func:`epoch_noise`.

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

import numpy as np
import torch

__all__ = ["SGHMC", "epoch_noise", "memory_friction", "stable_step"]


class SGHMC(torch.optim.Optimizer):
    """An optimizer whose parameters are draws.

    Parameters
    ----------
    parameters : iterable of Parameter
    step_size : float
        η, in units in which the curvature is M on average.
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
    softening : callable or None
        ``softening() -> (c,)`` or 1, by how much all inverse masses are less now.
    after_step : callable or None
        ``after_step(k, share)`` after step k = 1, 2, ...; `share` in (0, 1] says how far the cycle
        has come, and is 1 without cycles.
    """

    def __init__(
        self,
        parameters,
        step_size,
        *,
        inverse_mass,
        friction,
        temperature,
        generator,
        batch_noise=0.0,
        cycle=None,
        softening=None,
        after_step=None,
    ):
        super().__init__(parameters, {"lr": step_size})
        self.inverse_mass = inverse_mass
        self.friction = friction
        self.temperature = temperature
        self.generator = generator
        self.batch_noise = batch_noise
        self.cycle = cycle
        self.softening = softening
        self.after_step = after_step
        self.n_steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        """Move the parameters along their gradients, with friction and noise."""
        share = 1.0 if self.cycle is None else (self.n_steps % self.cycle + 1) / self.cycle
        eta = self.param_groups[0]["lr"]
        if self.cycle is not None:
            # From the start of a step, so that the last one of a cycle is not zero.
            eta *= (1 + math.cos(math.pi * (share - 1 / self.cycle))) / 2
        heat = eta * max(0.0, 2 * self.friction * self.temperature - eta * self.batch_noise)
        soft = torch.as_tensor(1.0 if self.softening is None else self.softening())
        for group in self.param_groups:
            for parameter, inverse_mass in zip(group["params"], self.inverse_mass, strict=True):
                inverse_mass = inverse_mass * soft.to(parameter).view(
                    -1, *[1] * (parameter.ndim - 1)
                )
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocity = state["velocity"]
                noise = torch.empty_like(parameter).normal_(generator=self.generator)
                velocity.mul_(1 - self.friction).addcmul_(inverse_mass, parameter.grad, value=-eta)
                velocity.addcmul_((heat * inverse_mass).sqrt(), noise)
                parameter.add_(velocity)
        self.n_steps += 1
        if self.after_step is not None:
            self.after_step(self.n_steps, share)


def epoch_noise(n_batches, step_size, friction):
    r"""What the noise nβ of k batches is worth as white noise, for a chain of unit curvature.

    Noise that is independent but for its sum over each epoch, which is zero, has the spectrum

    .. math:: S(\omega) = k \left(1 - \frac{\sin^2(k\omega/2)}{k^2\sin^2(\omega/2)}\right),

    and the chain answers to it, as to any force, by
    :math:`|H|^{-2} = |(1-z)(1-(1-\alpha)z) + \eta z|^2` at :math:`z = e^{-i\omega}`:
    :math:`n\beta = \int S|H|^2 d\omega / \int |H|^2 d\omega`.
    """
    # Steps are the same share of ω everywhere: chains swing at √η, or creep at η/α.
    omega = np.geomspace(1e-9, np.pi, 2**14)
    z = np.exp(-1j * omega)
    weight = omega / np.abs((1 - z) * (1 - (1 - friction) * z) + step_size * z) ** 2
    epochs = (np.sin(n_batches * omega / 2) / np.sin(omega / 2)) ** 2 / n_batches
    return float(np.average(n_batches - epochs, weights=weight))


def memory_friction(n_batches, step_size, weight):
    r"""The friction that remembered squares bring, at most, in any direction.

    The force follows the noise σ, hence the squares S of all events, which are those of the last k
    batches: an average over the positions of k steps, (k-1)/2 steps old. A chain that climbs, and
    for which S rises, is pulled back by a σ that is too small, and by one too large on its way
    down. For a swing of frequency ω and W events, of which S/W fluctuates by :math:`\theta^2/W` in
    units of the width of θ, the mean loss of energy is that of a friction

    .. math:: \gamma = \frac{\sin((k-1)\omega)\, \sin(k\omega)}{k W}

    to first order in 1/W and ω. No noise belongs to it, so that it cools. Frequencies are
    :math:`\sqrt\eta` and below; slower ones are worst where :math:`(2k-1)\,\omega=\pi` is reached.
    """
    omega = min(math.sqrt(step_size), math.pi / (2 * n_batches - 1))
    return math.sin((n_batches - 1) * omega) * math.sin(n_batches * omega) / (n_batches * weight)


def stable_step(largest, friction, n_batches, weight=1.0, total=math.inf):
    r"""The largest step η up to `largest` that batches disturb little.

    They bring a fifth of the heat at most, :math:`\eta\, n\beta\, s \le 0.4\, \alpha` with
    :func:`epoch_noise` nβ, of which weights make s = `weight` times as much of the heat; and a
    tenth of the friction, by :func:`memory_friction` of events of weight W = `total`, infinite
    where no σ is to be found. η is in units of the largest curvature, where the noise is strongest.
    """
    step = largest
    # With k batches, nβ is k at most, and the memory's friction falls with η. It comes first: nβ is
    # an integral, and not needed where steps are too long already.
    while (
        memory_friction(n_batches, step, total) > friction / 10
        or step * epoch_noise(n_batches, step, friction) * weight > 0.4 * friction
    ):
        step *= 0.9
    return step
