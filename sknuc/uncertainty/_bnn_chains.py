"""Draws of chains as they come: what is kept for prediction, and what tells whether they mix."""

import numpy as np
import torch

__all__ = ["MEASURED", "Chains", "some_rows"]

# Events on which curvature and noise are measured before sampling.
MEASURED = 1024
# Events and outputs whose predictions are followed.
_FOLLOWED = 32
_FOLLOWED_OUTPUTS = 256


class Chains:
    """Collects draws, and follows predictions and noise.

    Not the scales of the prior, nor the parameters: layers can trade sizes without a change of the
    network's outputs, so that those of chains which agree on every prediction may differ for long.

    Parameters
    ----------
    estimator : BayesianNetwork
    network : StackedNetwork
    x : Tensor of shape (n, *input_shape)
        Events, some of which are followed.
    rng : RandomState
        Draws the scales.
    """

    def __init__(self, estimator, network, x, rng):
        self.network = network
        self.prior = estimator._prior
        self.rng = rng
        self.thinning = estimator.thinning
        o = estimator._n_outputs()
        self.x = x[some_rows(len(x), max(4, min(_FOLLOWED, _FOLLOWED_OUTPUTS // o)))]
        self.draws, self.scales, self.noise, self.traces = [], [], [], []

    def __len__(self):
        return len(self.traces)

    @torch.no_grad()
    def record(self, theta, noise):
        """Take the parameters (c, P) and the noise (c, t) after a trajectory."""
        scales = self.prior.draw_scales(theta, self.rng)
        parts = [self.network(theta, self.x).flatten(1)]
        if noise is not None:
            parts.append(noise.log())
        self.traces.append(torch.cat([part.double() for part in parts], 1))
        if len(self.traces) % self.thinning == 0:
            self.draws.append(theta)
            self.scales.append(scales)
            self.noise.append(noise)

    def trace(self):
        """What was followed, (n_chains, n_samples, n_quantities)."""
        return torch.stack(self.traces, 1).cpu().numpy()

    def kept(self):
        """Parameters (n_draws, P), scales (n_draws, G), noise (n_draws, t) or None; by chain."""

        def join(parts):
            return None if parts[0] is None else torch.stack(parts, 1).flatten(0, 1)

        return join(self.draws), join(self.scales), join(self.noise)


def some_rows(n, most):
    """At most so many of n rows, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(int))
