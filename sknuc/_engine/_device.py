"""Where and how a network computes: the device, the precision, the random numbers."""

import contextlib
import os
import threading
import warnings

import numpy as np
import torch
from sklearn.utils import check_random_state

from sknuc.base import levels_to_user

__all__ = ["draw_seed", "needs_mixed_precision", "resolve_device", "seeded", "torch_dtype"]

# torch draws initial weights and dropout masks from one generator per process. Threads that train
# at the same time would share its numbers in an order that no seed fixes, so they take turns.
_GENERATOR = threading.RLock()


def _renew_lock():
    global _GENERATOR
    _GENERATOR = threading.RLock()


# A process that forks while another thread trains would inherit a lock that nobody opens.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def resolve_device(device, dtype=torch.float32):
    """Turn the `device` parameter into a :class:`torch.device`.

    Parameters
    ----------
    device : str or torch.device
        "auto" takes CUDA where there is one, then Apple's MPS (float32 only), then the CPU.
    dtype : torch.dtype
        The type in which the network computes.

    Raises
    ------
    ValueError
        If the named device does not exist on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if torch.backends.mps.is_available() and dtype == torch.float32:
            return torch.device("mps")
        return torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"The 'device' parameter is {device!r}, which cannot be used on this machine "
            f"({str(error).splitlines()[0]}). Use 'auto' or 'cpu'."
        ) from error
    return resolved


def prediction_device(device, dtype):
    """Like `resolve_device`, but a model trained elsewhere still predicts, on the CPU."""
    try:
        return resolve_device(device, dtype)
    except ValueError:
        warnings.warn(
            f"The 'device' parameter is {device!r}, which cannot be used on this machine; "
            "predicting on the CPU.",
            RuntimeWarning,
            stacklevel=levels_to_user(),
        )
        return torch.device("cpu")


def torch_dtype(dtype):
    """The floating type of a network for events of numpy `dtype`.

    Floats keep their precision; integers of 8 and 16 bits, as ADCs give them, are exact in
    float32; wider integers become float64 as everywhere in scikit-learn.
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype == np.float32 or dtype == np.float16 or (dtype.kind in "iub" and dtype.itemsize <= 2):
        return torch.float32
    return torch.float64


def needs_mixed_precision(mixed_precision, device, dtype):
    """Whether to compute in bfloat16 where that is safe (matrix products, convolutions)."""
    if dtype != torch.float32:
        return False
    if mixed_precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(mixed_precision)


def draw_seed(random_state):
    """Draw one seed from a scikit-learn random state; the global generators stay untouched."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


class Generators:
    """torch's default generators, of the CPU and of the device that is used, and of no other."""

    def __init__(self, device=None):
        self.mps = device is not None and device.type == "mps"
        self.generators = [torch.default_generator]
        if device is not None and device.type == "cuda":
            torch.cuda.init()
            index = torch.cuda.current_device() if device.index is None else device.index
            self.generators.append(torch.cuda.default_generators[index])

    def seed(self, seed):
        """Start all from one seed."""
        for generator in self.generators:
            generator.manual_seed(seed)
        if self.mps:
            torch.mps.manual_seed(seed)

    @property
    def state(self):
        """Where they stand."""
        states = [generator.get_state() for generator in self.generators]
        return [*states, torch.mps.get_rng_state()] if self.mps else states

    @state.setter
    def state(self, states):
        for generator, state in zip(self.generators, states, strict=False):
            generator.set_state(state)
        if self.mps:
            torch.mps.set_rng_state(states[-1])


@contextlib.contextmanager
def seeded(seed, device=None):
    """Run a block with torch's generators seeded, and put their states back afterwards."""
    with _GENERATOR:
        generators = Generators(device)
        before = generators.state
        generators.seed(int(seed))
        try:
            yield generators
        finally:
            generators.state = before
