"""Many networks of one architecture as one computation."""

import copy

import torch
from torch import nn
from torch.func import functional_call, stack_module_state

__all__ = ["StackedModule"]


class StackedModule(nn.Module):
    """K modules of the same architecture, evaluated together.

    The parameters of the members are stacked along a new first axis, and ``vmap`` runs all
    members in one pass: one large matrix product where a loop has K small ones. Losses of shape
    (K, n) that are added up give every member the gradient that it would have alone, so training
    the stack is training K separate networks.

    Parameters
    ----------
    members : sequence of nn.Module
        Same architecture, own weights. They are copied.
    event_ndim : int
        Number of axes of one event, which tells a batch for all from a batch for each.
    """

    def __init__(self, members, *, event_ndim):
        super().__init__()
        members = list(members)
        parameters, buffers = stack_module_state(members)
        # Dots are not allowed in names of parameters.
        self._names = {name: name.replace(".", "__") for name in (*parameters, *buffers)}
        for name, value in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(value.detach().clone()))
        for name, value in buffers.items():
            self.register_buffer(self._names[name], value.detach().clone())
        # The skeleton gives the architecture; kept in a list so that its weights are not ours.
        self._skeleton = [copy.deepcopy(members[0]).to("meta")]
        self.n_members = len(members)
        self.event_ndim = event_ndim

    def forward(self, x):
        """Evaluate all members.

        Parameters
        ----------
        x : Tensor of shape (n_members, n, *input_shape) or (n, *input_shape)
            Each member's own events, or the same for all.

        Returns
        -------
        output : Tensor of shape (n_members, n, ...)
        """
        state = {name: getattr(self, stored) for name, stored in self._names.items()}
        skeleton = self._skeleton[0].train(self.training)

        def evaluate(state, x):
            return functional_call(skeleton, state, (x,))

        in_dims = (0, 0 if x.ndim == self.event_ndim + 2 else None)
        return torch.vmap(evaluate, in_dims=in_dims, randomness="different")(state, x)
