r"""What networks have in common that learn quantiles by the pinball loss.

The loss has corners: at a constant learning rate the quantiles keep jumping about their optimum by
steps that do not get smaller. So the learning rate falls to zero within the training, as

.. math:: \eta(p) = \eta\,(1 + \cos \pi p)/2

after the share p of all steps [1]_.

.. [1] I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
       arXiv:1608.03983.
"""

import math

from sknuc.distributions._density import DensityRegressor
from sknuc.torch_estimator import Player

__all__ = ["PinballRegressor"]


class PinballRegressor(DensityRegressor):
    """Fit a network by its ``_pinball(module, batch)`` of scaled targets."""

    def _pinball(self, module, batch):
        """Return the loss of each event, of shape (n,)."""
        raise NotImplementedError

    def _players(self):
        if self.schedule == "constant":
            return [Player(self._pinball, optimizer=self._optimizer)]
        moved = []

        def optimizer(parameters):
            made = self._optimizer(parameters)
            moved.append((made, [group["lr"] for group in made.param_groups]))
            return made

        def loss(module, batch):
            share = (1 + math.cos(math.pi * batch.progress)) / 2
            for made, rates in moved:
                for group, rate in zip(made.param_groups, rates, strict=True):
                    group["lr"] = rate * share
            return self._pinball(module, batch)

        return [Player(loss, optimizer=optimizer)]
