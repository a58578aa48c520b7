r"""The running average of a network's weights, of which events are made.

Weights that are trained on random batches wander around an optimum, those of a game around each
other; their average lies closer to it. After every step it moves towards them,
:math:`\bar w \leftarrow \bar w + s\,(w - \bar w)`, by a share s that whoever trains decides.
"""

import copy

import torch
from torch import nn

__all__ = ["AveragedModule"]


class AveragedModule(nn.Module):
    """A module with the average of a network that it trains.

    Parameters
    ----------
    network : nn.Module
        What is trained, and a part of the subclass. Its copy is ``average``.
    """

    def __init__(self, network):
        super().__init__()
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def move_average(self, network, share):
        """Move the average towards the network, and take over its buffers."""
        weights, followed = list(self.average.parameters()), list(network.parameters())
        torch._foreach_lerp_(weights, followed, share)
        buffers = list(self.average.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(network.buffers()))
