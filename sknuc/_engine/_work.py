r"""How much a network computes, and how many threads that is worth.

The work is counted in multiply-adds of matrix products, convolutions and what is made of them:
recurrent layers, attention, distances. Element by element operations and sums do not count.
It is read off what torch computes, not off the layers: a weight that is used at every step of
time, the product of two activations, or of an activation with a fixed matrix, which no layer owns
as a weight, count like any other.
"""

import contextlib
import math

import torch
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["multiply_adds", "threads_for"]

# Threads share the work of one product, and wait for each other after it. Measured: below some ten
# million multiply-adds a second one gains nothing; on a busy machine, waiting for it costs a
# hundred times the product. So the largest product of a step decides, not the sum: an LSTM has a
# small one at every step of time.
WORK_PER_THREAD = 10_000_000

aten = torch.ops.aten


def _vector_product(matrix, *_, **__):
    return 2 * matrix.numel()


def _lstm_layer(x, from_input, from_hidden, *_, **__):
    # One direction of one layer: x is (T, n, C), the gates see both matrices at every step.
    return 2 * x.shape[0] * x.shape[1] * (from_input.numel() + from_hidden.numel())


def _bilinear(_, weight, *__, out_val, **___):
    return 2 * out_val.numel() * weight[0].numel()


def _distances(x, *_, out_val, **__):
    return 2 * out_val.numel() * x.shape[-1]


# What torch's table lacks; as there, a multiply-add counts as two operations.
_FORMULAS = flop_registry | {
    aten._cdist_forward: _distances,
    aten._euclidean_dist: _distances,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        aten._scaled_dot_product_flash_attention
    ],
    aten._trilinear: _bilinear,
    aten.addmv: lambda _, matrix, *__, **___: _vector_product(matrix),
    aten.dot: _vector_product,
    aten.mkldnn_rnn_layer: _lstm_layer,
    aten.mv: _vector_product,
}


class _Counter(TorchDispatchMode):
    """Add up the operations of what this thread computes.

    torch's own ``FlopCounterMode`` also follows the modules, through hooks that the other threads
    of the process would run into, at twice the time.
    """

    def __init__(self):
        super().__init__()
        self.operations = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        formula = _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            operations = formula(*args, **kwargs, out_val=output)
            self.operations += operations
            if func.overloadpacket is aten.mkldnn_rnn_layer:
                operations //= len(args[0])
            self.largest = max(self.largest, operations)
        return output


def multiply_adds(module, probe):
    """Count the multiply-adds of one event on its way through a network.

    For one thread at a time, as under ``seeded``: torch keeps some flags of a mode per process.

    Parameters
    ----------
    module : nn.Module
    probe : Tensor of shape (n, *input_shape)

    Returns
    -------
    output : Tensor
        The module's output for the probe.
    work, largest : float
        All of them, and those of the largest product. Infinite if the module computes what cannot
        be watched, as kernels compiled inside of it.
    """
    with torch.no_grad():
        # Any mode of functions keeps torch's attention from its fused inference kernels, which
        # neither training uses nor the table knows.
        with contextlib.suppress(Exception), BaseTorchFunctionMode(), _Counter() as counter:
            output = module(probe)
            per_event = 2 * len(probe)
            return output, counter.operations / per_event, counter.largest / per_event
        # An error of the module's own comes again, and from where it belongs.
        return module(probe), math.inf, math.inf


@contextlib.contextmanager
def threads_for(work):
    """Run a block with one thread if products of `work` multiply-adds are too small for more."""
    before = torch.get_num_threads()
    if work < WORK_PER_THREAD:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
