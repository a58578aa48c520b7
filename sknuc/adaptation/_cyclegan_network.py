"""Networks of a translator: two generators, two critics, and the units of either domain."""

import torch
from torch import nn

from sknuc.nn import AveragedModule, PositionalUNet, ResidualDense

__all__ = ["CycleGAN", "Inverse", "default_generator"]

# Of the default generator for signals and images.
_CHANNELS = (16, 32, 64)
# Lengths of the window of its linear response: 31 samples of 16 ns are half a microsecond.
_REACH = {1: 31, 2: 5, 3: 3}


def default_generator(input_shape):
    """A generator for events of `input_shape`, which starts as the identity."""
    dimensions = len(input_shape) - 1
    if dimensions not in _REACH:
        return ResidualDense(input_shape)
    size = input_shape[1:]
    return PositionalUNet(
        input_shape,
        channels=_CHANNELS,
        patch=tuple(4 if n >= 128 else 2 if n >= 32 else 1 for n in size),
        kernel_size=5 if dimensions == 1 else 3,
        # Not longer than what there is to see.
        reach=tuple(min(_REACH[dimensions], 2 * ((n - 1) // 2) + 1) for n in size),
    )


class CycleGAN(AveragedModule):
    """Generators and critics of both directions, and the averages of the generators.

    Events go in and come out in their units; the networks read those of their domain standardised.

    Parameters
    ----------
    generators : nn.ModuleList of two modules
        From source to target, and back: from standardised events (n, *shape) to such.
    critics : nn.ModuleList of two modules
        Of the target, which judges what the first generator makes, and of the source; from
        standardised events (n, *shape) to (n,).
    units : sequence of two (mean, scale)
        Tensors that are broadcastable to events, of the source and of the target; scales positive.
    weight : Tensor, broadcastable to events
        Of each number of a standardised event in the differences of cycle and identity.
    """

    def __init__(self, generators, critics, units, weight):
        super().__init__(generators)
        self.generators = generators
        self.critics = critics
        for domain, (mean, scale) in zip(("source", "target"), units, strict=True):
            self.register_buffer(f"{domain}_mean", mean)
            self.register_buffer(f"{domain}_scale", scale)
        self.register_buffer("weight", weight)

    def standardize(self, x, domain):
        """Events (n, *shape) of the "source" or the "target" in units of that domain."""
        return (x - getattr(self, f"{domain}_mean")) / getattr(self, f"{domain}_scale")

    def distance(self, a, b):
        """Weighted mean absolute difference of standardised events (n, *shape), of shape (n,)."""
        return ((a - b).abs() * self.weight).flatten(1).mean(1)

    def _translate(self, x, direction, domain, other):
        changed = self.average[direction](self.standardize(x, domain))
        return torch.addcmul(
            getattr(self, f"{other}_mean"), changed, getattr(self, f"{other}_scale")
        )

    def forward(self, x):
        """Translate events (n, *shape) of the source, by the averaged weights."""
        return self._translate(x, 0, "source", "target")

    def inverse(self, x):
        """Translate events (n, *shape) of the target back."""
        return self._translate(x, 1, "target", "source")

    def average_weights(self, decay):
        """Let the averages follow the generators by a step."""
        self.n_steps += 1
        n = self.n_steps.item()
        # Otherwise the first weights would be remembered for long.
        self.move_average(self.generators, 1 - min(decay, (1 + n) / (10 + n)))


class Inverse(nn.Module):
    """The way back of a :class:`CycleGAN`."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        """Translate events (n, *shape) of the target back."""
        return self.network.inverse(x)
