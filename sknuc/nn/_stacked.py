r"""Many networks of one architecture as one computation.

The parameters of K members get a new first axis, and all members are evaluated together: one large
matrix product where a loop over members has K small ones. Losses of shape (K, n) that are added up
give every member the gradient that it would have alone, so training the stack is training K
separate networks. What a training moves beside them, as the running moments of batch normalisation,
gets that axis, too.

A chain of dense layers becomes one of batched matrix products,
:math:`y_k = x_k W_k^\top + b_k` in a single call; any other network is mapped over its members with
``torch.vmap``; recurrent layers, whose kernels know no such axis, are looped over.
"""

import copy
import threading

import torch
from torch import nn
from torch.func import functional_call, stack_module_state
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["StackedDense", "StackedModule", "shared_copy", "stack", "updated_buffers"]

# Layers that act on every number alone: those of a stack are those of a member.
_ELEMENTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Identity,
    nn.Dropout,
)


def stack(members, *, event_ndim):
    """Stack modules of the same architecture.

    Parameters
    ----------
    members : sequence of nn.Module
        Same architecture, own weights, which are copied.
    event_ndim : int
        Number of axes of one event, which tells a batch for all from a batch for each.

    Returns
    -------
    stack : nn.Module
        From events (n_members, n, *input_shape), or (n, *input_shape) for all members, to outputs
        (n_members, n, ...). ``stack.member(k)`` is a module like the k-th one.
    """
    members = list(members)
    layers = list(_chain(members[0]))
    flat = [layer for layer in layers if not isinstance(layer, nn.Flatten)]
    dense = all(type(layer) in (nn.Linear, nn.LayerNorm, *_ELEMENTWISE) for layer in flat)
    # Without a Flatten in front, a Linear of events with several axes acts on the last of them.
    if dense and (event_ndim == 1 or isinstance(layers[0], nn.Flatten)):
        return StackedDense(members, event_ndim=event_ndim)
    return StackedModule(members, event_ndim=event_ndim)


class StackedModule(nn.Module):
    """Modules of any architecture, evaluated together by ``vmap``, or in a loop.

    Parameters
    ----------
    members : sequence of nn.Module
        Same architecture, own weights. They are copied; buffers that all members have in common
        are kept once, but for those of layers that update them in the training.
    event_ndim : int
        Number of axes of one event, which tells a batch for all from a batch for each.
    """

    def __init__(self, members, *, event_ndim):
        super().__init__()
        members = list(members)
        parameters, buffers = stack_module_state(members)
        # Dots are not allowed in names of parameters.
        self._names = {name: name.replace(".", "__") for name in (*parameters, *buffers)}
        self._in_dims = dict.fromkeys(self._names, 0)
        for name, value in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(value.detach().clone()))
        own = updated_buffers(members[0]) if len(members) > 1 else ()
        for name, value in buffers.items():
            if name not in own and torch.equal(value, value[:1].expand_as(value)):
                value, self._in_dims[name] = value[0], None
            self.register_buffer(self._names[name], value.detach().clone())
        self._skeleton = _Skeleton(members[0])
        self._looped = any(map(_knows_no_map, members[0].modules()))
        self.n_members = len(members)
        self.event_ndim = event_ndim

    def _state(self):
        return {name: getattr(self, stored) for name, stored in self._names.items()}

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
        skeleton = self._skeleton.of_thread().train(self.training)
        state = self._state()
        own = x.ndim == self.event_ndim + 2

        def evaluate(state, x):
            return functional_call(skeleton, state, (x,))

        # A single member may update its buffers in place, which have no axis of members.
        if self._looped or self.n_members == 1:
            return torch.stack(
                [evaluate(self._of(k, state), x[k] if own else x) for k in range(self.n_members)]
            )
        in_dims = (self._in_dims, 0 if own else None)
        return torch.vmap(evaluate, in_dims=in_dims, randomness="different")(state, x)

    def _of(self, k, state):
        return {
            name: value if self._in_dims[name] is None else value[k]
            for name, value in state.items()
        }

    def member(self, k):
        """A module of its own, with the weights of member `k`."""
        state = {name: value.detach().clone() for name, value in self._of(k, self._state()).items()}
        module = self._skeleton.copy().train(self.training)
        return _with_state(module, state)

    def member_tensors(self):
        """Tensors whose first axis is that of the members, as far as training moves them."""
        return [self._state()[name].detach() for name, dim in self._in_dims.items() if dim == 0]


class StackedDense(nn.Module):
    """Chains of dense layers as batched matrix products.

    Parameters
    ----------
    members : sequence of nn.Module
        Sequences (nested ones, too) of Linear, LayerNorm, Dropout, activations and one Flatten in
        front. They are copied.
    event_ndim : int
        Number of axes of one event.
    """

    def __init__(self, members, *, event_ndim):
        super().__init__()
        members = list(members)
        self.layers = nn.ModuleList()
        for layers in zip(*map(_chain, members), strict=True):
            if isinstance(layers[0], nn.Linear):
                self.layers.append(_Linears(layers))
            elif isinstance(layers[0], nn.LayerNorm):
                self.layers.append(_LayerNorms(layers))
            elif not isinstance(layers[0], nn.Flatten | nn.Identity):
                self.layers.append(copy.deepcopy(layers[0]))
        self._skeleton = _Skeleton(members[0])
        self.n_members = len(members)
        self.event_ndim = event_ndim

    def forward(self, x):
        """Evaluate all members; shapes as of :class:`StackedModule`."""
        own = x.ndim == self.event_ndim + 2
        x = x.flatten(2) if own else x.flatten(1).expand(self.n_members, -1, -1)
        for layer in self.layers:
            x = layer(x)
        return x

    def member(self, k):
        """A module of its own, with the weights of member `k`."""
        module = self._skeleton.copy().train(self.training)
        own = (layer for layer in _chain(module) if isinstance(layer, nn.Linear | nn.LayerNorm))
        stacked = (layer for layer in self.layers if isinstance(layer, _Linears | _LayerNorms))
        for layer, layers in zip(own, stacked, strict=True):
            _with_state(layer, layers.of(k))
        return module

    def member_tensors(self):
        """Tensors whose first axis is that of the members."""
        return [parameter.detach() for parameter in self.parameters()]


class _Linears(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))
        bias = None
        if layers[0].bias is not None:
            bias = nn.Parameter(torch.stack([layer.bias.detach()[None] for layer in layers]))
        self.register_parameter("bias", bias)

    def forward(self, x):
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)

    def of(self, k):
        state = {"weight": self.weight[k].detach().T.clone()}
        return state if self.bias is None else state | {"bias": self.bias[k, 0].detach().clone()}


class _LayerNorms(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.shape, self.eps = layers[0].normalized_shape, layers[0].eps
        for name in ("weight", "bias"):
            values = [getattr(layer, name) for layer in layers]
            stacked = (
                None if values[0] is None else nn.Parameter(torch.stack(values).detach()[:, None])
            )
            self.register_parameter(name, stacked)

    def forward(self, x):
        x = nn.functional.layer_norm(x, self.shape, eps=self.eps)
        if self.weight is None:
            return x
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, x, self.weight)

    def of(self, k):
        return {name: p[k, 0].detach().clone() for name, p in self.named_parameters()}


class _Skeleton:
    """The architecture of a module, without its weights.

    A call puts weights into it for as long as it lasts, so each thread has a copy.
    """

    def __init__(self, module):
        self._module = copy.deepcopy(module).to("meta")
        self._own = threading.local()

    def copy(self):
        return copy.deepcopy(self._module)

    def of_thread(self):
        if not hasattr(self._own, "module"):
            self._own.module = self.copy()
        return self._own.module

    def __deepcopy__(self, memo):
        # Nobody changes it.
        return self

    def __reduce__(self):
        return _Skeleton, (self._module,)


def shared_copy(module):
    """A copy of a module that has its parameters and buffers in common with it.

    ``torch.func.functional_call`` puts other tensors in their place for as long as it lasts: calls
    of several threads at a time need a copy each.
    """
    return copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})


def _knows_no_map(layer):
    """Whether a layer cannot be mapped: recurrent, or with a running mean over a counted number."""
    return isinstance(layer, nn.RNNBase) or (
        isinstance(layer, _NormBase) and layer.track_running_stats and layer.momentum is None
    )


def updated_buffers(module):
    """Names of the buffers that layers of normalisation update when they see a batch."""
    return {
        f"{name}.{buffer}" if name else buffer
        for name, layer in module.named_modules()
        if isinstance(layer, _NormBase)
        for buffer, _ in layer.named_buffers(recurse=False)
    }


def _chain(module):
    """The layers of nested sequences, in order."""
    if type(module) is nn.Sequential:
        for child in module:
            yield from _chain(child)
    else:
        yield module


def _with_state(module, state):
    """Put tensors in the place of a module's parameters and buffers, whatever their device."""
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        owner = module.get_submodule(owner)
        if leaf in owner._parameters:
            owner._parameters[leaf] = nn.Parameter(value)
        else:
            owner._buffers[leaf] = value
    return module
