"""Dropout whose masks belong to events, not to their places in a batch."""

import contextlib
import threading

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

__all__ = [
    "MASK_GROUPS",
    "GroupedDropout",
    "MaskedDraws",
    "group_dropout",
    "mask_groups",
    "other_dropout",
]

#: Groups of events that share a mask in one step of the training.
MASK_GROUPS = 64
# Masks are those of a call, not of a layer, which threads share that predict at the same time.
_call = threading.local()


class GroupedDropout(nn.Module):
    r"""Dropout, :math:`x \odot m / (1-p)`, with the mask m of the group that an event belongs to.

    In training, each step draws a mask for every group of events (:func:`mask_groups`); events of a
    group share it. Which group that is follows from the event itself, so that an event of weight 2
    is exactly the event twice. In prediction it is the identity, or, within :class:`MaskedDraws`,
    one mask for all events: a function drawn from the posterior that dropout stands for.

    Parameters
    ----------
    p : float in (0, 1)
        Probability to drop.

    References
    ----------
    Y. Gal, Z. Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016, arXiv:1506.02142.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        """Mask x of shape (n, ...)."""
        if self.training:
            groups = getattr(_call, "groups", None)
            if groups is None:
                return nn.functional.dropout(x, self.p)
            mask = self._mask((MASK_GROUPS, *x.shape[1:]), x, None)
            return x * mask[groups]
        generator = getattr(_call, "generator", None)
        if generator is None:
            return x
        return x * self._mask(x.shape[1:], x, generator)

    def _mask(self, shape, x, generator):
        # A generator of the CPU, so that a device changes speed and not numbers.
        device = x.device if generator is None else "cpu"
        uniform = torch.rand(shape, generator=generator, device=device, dtype=torch.float32)
        return (uniform.to(x.device) >= self.p).to(x.dtype) / (1 - self.p)


class MaskedDraws(nn.Module):
    """A network under several masks, each the same for all events.

    Parameters
    ----------
    network : nn.Module
        With layers of :class:`GroupedDropout`, in evaluation mode.
    seeds : sequence of int
        One per mask.
    """

    def __init__(self, network, seeds):
        super().__init__()
        self.network = network
        self.seeds = tuple(seeds)
        self.n_members = len(self.seeds)

    def forward(self, x):
        """Evaluate x of shape (n, *input_shape) under all masks, to (n_members, n, ...)."""
        outputs = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(seed)
            with _set("generator", generator):
                outputs.append(self.network(x))
        return torch.stack(outputs)


_REPLACED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def other_dropout(module):
    """The kinds of layers with dropout whose masks :func:`group_dropout` cannot take over.

    Dropout inside of recurrent layers and of torch's attention, and AlphaDropout.

    Parameters
    ----------
    module : nn.Module
        Before :func:`group_dropout`.

    Returns
    -------
    names : list of str
        The classes, each once, sorted.
    """
    found = set()
    for layer in module.modules():
        if isinstance(layer, nn.RNNBase | nn.MultiheadAttention):
            drops = layer.dropout > 0
        elif isinstance(layer, nn.TransformerEncoderLayer):
            # In prediction it may be one fused kernel, which passes all its layers by.
            drops = any(isinstance(part, _REPLACED) and part.p for part in layer.modules())
        else:
            drops = isinstance(layer, _DropoutNd) and not isinstance(layer, _REPLACED) and layer.p
        if drops:
            found.add(type(layer).__name__)
    return sorted(found)


def group_dropout(module):
    """Put :class:`GroupedDropout` in the place of every dropout layer, and return how many."""
    n_layers = 0
    for name, child in module.named_children():
        if isinstance(child, _REPLACED):
            if child.p:
                setattr(module, name, GroupedDropout(child.p))
                n_layers += 1
        else:
            n_layers += group_dropout(child)
    return n_layers


@contextlib.contextmanager
def mask_groups(groups):
    """Give layers the groups (n,) of the events of a batch, each below `MASK_GROUPS`."""
    with _set("groups", groups):
        yield


@contextlib.contextmanager
def _set(name, value):
    before = getattr(_call, name, None)
    setattr(_call, name, value)
    try:
        yield
    finally:
        setattr(_call, name, before)
