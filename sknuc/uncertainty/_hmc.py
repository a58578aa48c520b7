r"""Hamiltonian Monte Carlo, all chains at a time.

A position q with momentum p moves by Hamilton's equations with
:math:`H = -\log\pi(q) + p^T M^{-1} p/2`, solved by the leapfrog

.. math::
    p \leftarrow p + \tfrac{\epsilon}{2}\nabla\log\pi(q),\quad
    q \leftarrow q + \epsilon M^{-1} p,\quad
    p \leftarrow p + \tfrac{\epsilon}{2}\nabla\log\pi(q),

which is reversible and keeps the volume, with an error of H of order ε². Accepting its end with
probability min(1, exp(-ΔH)) leaves π unchanged whatever ε is.

In the warm-up each chain finds its step size by dual averaging, and its diagonal mass matrix
:math:`M_{jj}^2 = \mathrm{var}(\nabla_j\log\pi)/\mathrm{var}(q_j)`, exact for independent Gaussians
and far less noisy than variances of positions alone. Each chain has its own, since the units of a
network have other roles in each. The number of steps is drawn anew for every trajectory, so that
none is in resonance with the distribution.

References
----------
R. Neal, "MCMC using Hamiltonian dynamics", Handbook of MCMC (2011), arXiv:1206.1901.

M. Hoffman, A. Gelman, "The No-U-Turn Sampler", JMLR 15 (2014) 1593, section 3.2 (step size).

A. Seyboldt, E. Carlson, B. Carpenter, "Preconditioning Hamiltonian Monte Carlo by minimizing
Fisher divergence", arXiv:2603.18845 (mass matrix from positions and gradients).
"""

import math

import torch

__all__ = ["HMC", "DualAveraging", "leapfrog"]

# Beyond, the trajectory has left the region where the leapfrog is stable, as in Stan.
_DIVERGENT = 1000.0


def leapfrog(function, position, momentum, gradient, step_size, n_steps, inverse_mass):
    """Solve Hamilton's equations.

    Parameters
    ----------
    function : callable
        ``function(position) -> log density (c,), gradient (c, D)``.
    position, momentum, gradient, inverse_mass : Tensor of shape (c, D)
    step_size : Tensor of shape (c,)
    n_steps : int

    Returns
    -------
    position, momentum, log_density, gradient
        At the end.
    """
    step = step_size[:, None].to(position.dtype)
    drift = step * inverse_mass
    momentum = momentum + step / 2 * gradient
    for i in range(n_steps):
        position = position + drift * momentum
        log_density, gradient = function(position)
        momentum = momentum + (step if i < n_steps - 1 else step / 2) * gradient
    return position, momentum, log_density, gradient


class DualAveraging:
    r"""Find the step size at which trajectories are accepted with a given probability.

    .. math::
        \log\epsilon_{k+1} = \mu - \frac{\sqrt{k}}{\gamma(k+k_0)} \sum_{i\le k} (\delta - \alpha_i)

    and its average with weights that fall as :math:`k^{-\kappa}`.

    Parameters
    ----------
    step_size : Tensor of shape (c,)
        Where to start.
    target : float
        δ.
    """

    def __init__(self, step_size, target, *, gamma=0.05, k0=10.0, kappa=0.75):
        self.target = target
        self.gamma, self.k0, self.kappa = gamma, k0, kappa
        self.restart(step_size)

    def restart(self, step_size):
        """Forget what was seen, and start from these step sizes."""
        self.log_start = (10 * step_size).log()
        self.error = torch.zeros_like(step_size)
        self.log_average = step_size.log()
        self.k = 0

    def update(self, acceptance):
        """Take the probabilities of acceptance (c,) into account; returns the next step sizes."""
        self.k += 1
        k = self.k
        eta = 1 / (k + self.k0)
        self.error = (1 - eta) * self.error + eta * (self.target - acceptance)
        log_step = self.log_start - math.sqrt(k) / self.gamma * self.error
        weight = k**-self.kappa
        self.log_average = weight * log_step + (1 - weight) * self.log_average
        return log_step.exp()

    @property
    def average(self):
        """The step sizes (c,) to sample with."""
        return self.log_average.exp()


class _Spread:
    """Running variances of positions and gradients (Welford), per chain."""

    def __init__(self, position):
        self.n = 0
        self.means = [torch.zeros_like(position) for _ in range(2)]
        self.squares = [torch.zeros_like(position) for _ in range(2)]

    def add(self, position, gradient):
        self.n += 1
        for i, value in enumerate((position, gradient)):
            away = value - self.means[i]
            self.means[i] += away / self.n
            self.squares[i] += away * (value - self.means[i])

    def inverse_mass(self, prior):
        """Ratio of the spreads, drawn towards `prior` as if that were worth five draws."""
        position, gradient = self.squares
        ratio = (position / gradient).sqrt()
        ratio = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, prior)
        share = self.n / (self.n + 5)
        return (share * ratio.log() + (1 - share) * prior.log()).exp()


class HMC:
    """Trajectories of c chains, whose first ones adapt step sizes and mass matrices.

    Parameters
    ----------
    function : callable
        ``function(position) -> log density (c,), gradient (c, D)``; it may depend on what is drawn
        between the steps.
    inverse_mass : Tensor of shape (c, D)
        A guess of the variances.
    n_warmup : int
        Steps that adapt, and do not count.
    n_leapfrog : int
        Steps per trajectory on average; between half and one and a half times as many are drawn.
    target_accept : float
        The probability of acceptance that the step sizes are made for.
    generator : torch.Generator
    rng : numpy RandomState

    Attributes
    ----------
    step_size : Tensor of shape (c,)
    n_divergences : Tensor of shape (c,)
        Trajectories that diverged after the warm-up.
    """

    def __init__(
        self,
        function,
        *,
        inverse_mass,
        n_warmup,
        n_leapfrog,
        target_accept,
        generator,
        rng,
    ):
        self.function = function
        self.inverse_mass = inverse_mass
        self.n_warmup = n_warmup
        self.n_leapfrog = n_leapfrog
        self.target_accept = target_accept
        self.generator = generator
        self.rng = rng
        self.windows = _windows(n_warmup)
        self.n_steps = 0
        self.step_size = None
        c, device = len(inverse_mass), inverse_mass.device
        self.n_divergences = torch.zeros(c, dtype=torch.int64, device=device)
        self._acceptances = torch.zeros(c, dtype=torch.float64, device=device)

    @property
    def acceptance_rate(self):
        """Mean probability of acceptance after the warm-up, (c,)."""
        return self._acceptances / max(1, self.n_steps - self.n_warmup)

    def step(self, position):
        """Move the chains along a trajectory; returns their positions (c, D)."""
        log_density, gradient = self.function(position)
        if self.step_size is None:
            self.step_size = self._first_step(position, log_density, gradient)
            self.averaging = DualAveraging(self.step_size, self.target_accept)
        momentum = self._momentum()
        energy = log_density - self._kinetic(momentum)
        half = self.n_leapfrog // 2
        end, momentum, end_density, end_gradient = leapfrog(
            self.function,
            position,
            momentum,
            gradient,
            self.step_size,
            self.rng.randint(self.n_leapfrog - half, self.n_leapfrog + half + 1),
            self.inverse_mass,
        )
        gain = end_density - self._kinetic(momentum) - energy
        gain = torch.where(torch.isfinite(gain), gain, -math.inf)
        acceptance = gain.clamp(max=0).exp()
        uniform = torch.rand(
            len(gain), generator=self.generator, dtype=gain.dtype, device=gain.device
        )
        accepted = (uniform < acceptance)[:, None]
        position = torch.where(accepted, end, position)
        if self.n_steps < self.n_warmup:
            self._adapt(position, torch.where(accepted, end_gradient, gradient), acceptance)
        else:
            self._acceptances += acceptance
            self.n_divergences += gain < -_DIVERGENT
        self.n_steps += 1
        return position

    def _adapt(self, position, gradient, acceptance):
        self.step_size = self.averaging.update(acceptance)
        done = self.n_steps + 1
        if self.windows and self.windows[0] < done <= self.windows[-1]:
            if self.n_steps in self.windows:
                self.spread = _Spread(position)
            self.spread.add(position, gradient)
            if done in self.windows:
                self.inverse_mass = self.spread.inverse_mass(self.inverse_mass)
                self.averaging.restart(self.averaging.average)
                self.step_size = self.averaging.average
        if done == self.n_warmup:
            self.step_size = self.averaging.average

    def _momentum(self):
        mass = self.inverse_mass
        normal = torch.randn(
            mass.shape, generator=self.generator, dtype=mass.dtype, device=mass.device
        )
        return normal / mass.sqrt()

    def _kinetic(self, momentum):
        return (momentum**2 * self.inverse_mass).sum(1, dtype=torch.float64) / 2

    def _first_step(self, position, log_density, gradient):
        """A size at which one step is accepted with a probability near 0.8, within a factor 2."""
        step = torch.ones(len(position), dtype=torch.float64, device=position.device)
        momentum = self._momentum()
        energy = log_density - self._kinetic(momentum)
        grows = None
        for _ in range(60):
            _, end, end_density, _ = leapfrog(
                self.function, position, momentum, gradient, step, 1, self.inverse_mass
            )
            gain = end_density - self._kinetic(end) - energy
            good = torch.isfinite(gain) & (gain > math.log(0.8))
            if grows is None:
                grows, moving = good, torch.ones_like(good)
            moving = moving & (good == grows)
            if not moving.any():
                break
            step = torch.where(moving, torch.where(grows, 2 * step, step / 2), step)
        return step


def _windows(n_warmup):
    """Ends of the stretches of the warm-up after each of which the mass matrix is renewed.

    As in Stan: 15 % for the step size alone, stretches that double, 10 % for the step size again.
    """
    start, stop = round(0.15 * n_warmup), round(0.9 * n_warmup)
    ends, width = [start], 25
    while ends[-1] + 3 * width < stop:
        ends.append(ends[-1] + width)
        width *= 2
    return [*ends, stop] if stop - start >= 10 else []
