"""Prediction in blocks: memory stays bounded, and activations stay in the processor's cache."""

import numpy as np
import torch
from tqdm.auto import tqdm

from sknuc._engine._events import numpy_dtype

__all__ = ["forward"]

BLOCK_BYTES = 2**20  # of input per block on the CPU, measured best for dense and conv networks
MAX_BLOCK_ROWS = 8192


def forward(module, source, *, function=None, n_members=1, verbose=0):
    """Apply a module to all events, block by block.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on the source's device.
    source : EventSource
        The events.
    function : callable or None
        Applied to the output of each block; its result has the events first.
    n_members : int
        Networks that the module evaluates at the same time, which share the memory.

    Returns
    -------
    output : ndarray of shape (n, ...)
    """
    scale = 1 if source.device.type == "cpu" else 64
    rows = np.clip(scale * BLOCK_BYTES // source.row_bytes, 1, scale * MAX_BLOCK_ROWS)
    rows = max(1, int(rows) // n_members)
    output = None
    starts = range(0, source.n_rows, rows)
    if verbose:
        starts = tqdm(starts, desc="predict", unit="block", dynamic_ncols=True, delay=1.0)
    with torch.inference_mode():
        for start in starts:
            stop = min(start + rows, source.n_rows)
            block = module(source.slice(start, stop))
            if function is not None:
                block = function(block)
            if output is None:
                output = np.empty((source.n_rows, *block.shape[1:]), numpy_dtype(source.dtype))
            output[start:stop] = block.to(source.dtype).cpu().numpy()
    return output
