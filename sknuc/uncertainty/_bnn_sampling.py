"""Chains of networks: Hamiltonian Monte Carlo, and its stochastic-gradient version."""

import copy
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from tqdm.auto import tqdm

from sknuc.base import levels_to_user
from sknuc.exceptions import TrainingDivergedError
from sknuc.metrics import effective_sample_size, r_hat
from sknuc.uncertainty._bnn_chains import MEASURED, Chains, some_rows
from sknuc.uncertainty._bnn_losses import SamplingLoss
from sknuc.uncertainty._hmc import HMC
from sknuc.uncertainty._posterior import (
    Posterior,
    PosteriorNetworks,
    StackedNetwork,
    diagonal_curvature,
    largest_curvature,
)
from sknuc.uncertainty._sghmc import SGHMC, epoch_noise, stable_step

__all__ = ["ChainInference"]

# Above, R-hat says that chains have not mixed, and below so many independent draws per chain it
# cannot tell (Vehtari et al. 2021).
_R_HAT = 1.01
_ESS_PER_CHAIN = 100


class ChainInference:
    """What Bayesian estimators do for inference="hmc" and "sghmc"."""

    # Hamiltonian Monte Carlo.

    def _infer_hmc(self, X, y, sample_weight, likelihood, total):
        x, y, weight = self._tensors(X, y, sample_weight)
        generator, rng = self._seeds()
        stack = self.module_[1]
        network = StackedNetwork(stack)
        theta = network.parameters()
        posterior = Posterior(network, self._prior, likelihood, x, y, weight, rng)
        noise = posterior.draw_noise(theta)
        curvature = self._curvature(posterior, theta, noise, generator)
        walk = HMC(
            posterior,
            inverse_mass=1 / curvature,
            n_warmup=self.n_warmup,
            n_leapfrog=self.n_leapfrog,
            target_accept=self.target_accept,
            generator=generator,
            rng=rng,
        )
        chains = Chains(self, network, x, rng)
        steps = range(self.n_warmup + self.n_samples)
        for i in tqdm(steps, desc="HMC", unit="trajectory", disable=not self.verbose):
            theta = walk.step(theta)
            if i >= self.n_warmup:
                chains.record(theta, posterior.draw_noise(theta))
        self.acceptance_rate_ = walk.acceptance_rate.cpu().numpy()
        self.n_divergences_ = int(walk.n_divergences.sum())
        self._keep_chains(chains, stack)
        if self.n_divergences_:
            warnings.warn(
                f"{self.n_divergences_} of {self.n_chains * self.n_samples} trajectories diverged, "
                "so that regions of strong curvature are missing. Raise target_accept, now "
                f"{self.target_accept}, or n_warmup.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )

    def _curvature(self, posterior, theta, noise, generator):
        """Diagonal of the curvature of minus the log density, (c, P), measured on some events."""
        rows = some_rows(len(posterior.x), MEASURED)
        weight = posterior.weight
        weight = None if weight is None else weight[rows]
        network, likelihood = posterior.network, posterior.likelihood
        x, y = posterior.x[rows], posterior.y[rows]
        diagonal = diagonal_curvature(network, likelihood, theta, noise, x, y, weight, generator)
        return diagonal * (len(posterior.x) / len(rows)) + self._prior.marginal(theta)[1]

    # Stochastic-gradient Hamiltonian Monte Carlo.

    def _infer_sghmc(self, X, y, sample_weight, likelihood, total):
        some = self._tensors(X, y, sample_weight, MEASURED)
        generator, rng = self._seeds()
        stack = self.module_[1]
        network = StackedNetwork(stack)
        measured = Posterior(network, self._prior, likelihood, *some, rng)
        w = np.ones(X.shape[0]) if sample_weight is None else sample_weight[sample_weight != 0]
        n_batches = -(-len(w) // self.batch_size)
        squares = measured.squares(network.parameters()) if likelihood.has_noise else None
        loss = SamplingLoss(likelihood, self._prior, squares, total, n_batches)
        chains = Chains(self, network, some[0], rng)
        warmup = self.n_warmup * self.n_leapfrog
        n_steps = self.n_samples * self.n_leapfrog
        # The first half of a cycle is not kept.
        n_steps *= 1 if self.n_cycles is None else 2
        cycle = None if self.n_cycles is None else -(-n_steps // self.n_cycles)
        # Unequal weights make batches differ by more than as many equal ones would.
        spread = len(w) * (w**2).sum() / w.sum() ** 2
        # Heat goes with 1/W, the noise of batches with 1/n.
        heat = spread * total / len(w)
        known = total if likelihood.has_noise else np.inf
        stable = stable_step(self.step_size, self.friction, n_batches, heat, known)

        @torch.enable_grad()
        def metric():
            """Masses, in units of the mean loss, with the step size and noise that they ask for."""
            theta = network.parameters()
            measured.noise = loss.noise if loss.noise is None else loss.noise.to(theta.dtype)
            curvature = diagonal_curvature(
                network, likelihood, theta, measured.noise, *some, generator
            )
            curvature = curvature + self._prior.marginal(theta)[1]
            largest = largest_curvature(measured, theta, 1 / curvature, generator)
            step_size = stable / largest
            batch_noise = epoch_noise(n_batches, step_size, self.friction) * spread / len(w)
            return network.split(total / curvature), step_size, batch_noise

        def softening():
            """Where the noise has become less since, all curvatures are as much larger."""
            if measured.noise is None:
                return 1.0
            return ((loss.noise / measured.noise) ** 2).amin(1).clamp(max=1)

        def optimizer(parameters):
            def after_step(k, share):
                if k % self.n_leapfrog:
                    return
                i = k // self.n_leapfrog
                # While the chains sink, the curvature grows: it is measured after 1, 2, 4, ...
                if k < warmup and i & (i - 1) == 0:
                    sampler.inverse_mass, step_size, sampler.batch_noise = metric()
                    sampler.param_groups[0]["lr"] = step_size
                if k > warmup and share > 0.5 and len(chains) < self.n_samples:
                    noise = loss.draw_noise(rng)
                    theta = network.parameters()
                    chains.record(theta, None if noise is None else noise.to(theta.dtype))

            inverse_mass, step_size, batch_noise = metric()
            sampler = SGHMC(
                parameters,
                step_size,
                inverse_mass=inverse_mass,
                friction=self.friction,
                temperature=1 / total,
                generator=generator,
                batch_noise=batch_noise,
                cycle=cycle,
                softening=softening,
                after_step=after_step,
            )
            return sampler

        self._loss, self._make_optimizer = loss, optimizer
        self._optimizer_states = None
        history = copy.deepcopy(self.history_)
        epochs = -(-(warmup + n_steps) // n_batches) + (0 if cycle is None else 1)
        try:
            self._fit_events(
                X,
                {"y": y},
                sample_weight=sample_weight,
                reset=False,
                max_epochs=epochs,
                n_members=self.n_chains,
            )
        except TrainingDivergedError as error:
            self._start_anew()
            raise TrainingDivergedError(
                "The chains of inference='sghmc' left the region where steps are stable. Lower the "
                f"'step_size' parameter, now {self.step_size}."
            ) from error
        self.history_, self.n_iter_ = history, len(history)
        self._keep_chains(chains, stack, shortened=stable < self.step_size)

    def _keep_chains(self, chains, stack, shortened=False):
        """Keep the draws for prediction, and say whether they can be trusted.

        `shortened` tells that steps are shorter than asked for because of batches.
        """
        draws, scales, noise = chains.kept()
        self.module_ = nn.Sequential(self.module_[0], PosteriorNetworks(stack, draws))
        self._keep_hyperparameters(scales, noise)
        self.draw_weights_ = np.full(len(draws), 1 / len(draws))
        trace = chains.trace()
        reductions, sizes = r_hat(trace), effective_sample_size(trace)
        # What is the same in all draws of all chains has neither; chains stuck apart have R-hat ∞.
        moving = ~np.isnan(reductions)
        self.r_hat_ = float(reductions[moving].max(initial=1.0))
        self.ess_ = float(sizes[moving].min(initial=trace.shape[0] * trace.shape[1]))
        if self.r_hat_ > _R_HAT or self.ess_ < _ESS_PER_CHAIN * self.n_chains:
            small = " or batch_size, which allows longer steps" if shortened else ""
            warnings.warn(
                f"The chains have not converged: R-hat is {self.r_hat_:.3f} (1.01 at most) and the "
                f"effective sample size {self.ess_:.0f} ({_ESS_PER_CHAIN} per chain at least) for "
                "the worst of predictions and noise. Raise n_samples, n_warmup or "
                f"n_leapfrog{small}, or take a smaller encoder.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )
