"""Batches of events as slices of tensors, from memory or from disk.

Collating events one by one costs more than a small network's arithmetic. Here an epoch is one
permutation of the rows; the rows are gathered in chunks of some ten megabytes, and batches are
views of a chunk. An array on disk is read in the same chunks, so that memory stays bounded.

A file read in random order is slow, so data larger than `RESIDENT_BYTES` is shuffled in blocks:
blocks of neighbouring rows in random order, many blocks to a buffer, rows shuffled within the
buffer. The rule looks at the size alone, never at where the array lies: the same events give the
same batches from memory, from a memory map and from HDF5.
"""

import itertools
import math
import mmap
from concurrent.futures import ThreadPoolExecutor
from numbers import Integral
from types import SimpleNamespace

import numpy as np
import torch

__all__ = ["Batch", "EventSource", "PairedData", "TrainingData", "is_on_disk", "load_if_small"]

RESIDENT_BYTES = 256 * 2**20  # larger arrays are shuffled in blocks, and streamed if on disk
CHUNK_BYTES = 16 * 2**20  # gathered at once
PIECE_BYTES = 2**20  # copied from a memory map before its pages are given back
BLOCK_BYTES = 2**19  # neighbouring rows kept together in the block shuffle
BUFFER_BYTES = 16 * 2**20  # shuffled together


class Batch(SimpleNamespace):
    """The events of one step: tensors `X`, `y`, `sample_weight` and any further columns.

    `progress` is the fraction of the training that is done, from 0 to 1, for losses that follow a
    schedule. With stacked members all tensors have a leading axis of members. Of two samples,
    `other` is the batch of the second one, which has `X`, `sample_weight` and columns of its own.
    """

    def __len__(self):
        return self.n_events


def is_on_disk(X):
    """Whether `X` is a memory map, or an array-like that reads slices from a file (HDF5)."""
    if isinstance(X, np.ndarray):
        return isinstance(X, np.memmap)
    return hasattr(X, "shape") and hasattr(X, "dtype") and hasattr(X, "chunks")


def load_if_small(X):
    """Read an array on disk into memory if it is small; return it unchanged otherwise."""
    if math.prod(X.shape) * X.dtype.itemsize > RESIDENT_BYTES:
        return X
    return np.array(X)


class EventSource:
    """Rows of `X` in any order, as tensors of events in the network's precision.

    Parameters
    ----------
    X : ndarray, memmap or HDF5 dataset of shape (n, features) or (n, *input_shape)
        The events.
    input_shape : tuple of int
        The shape of one event.
    dtype : torch.dtype
        The network's precision.
    device : torch.device
        Where tensors go.
    transform : callable or None
        Applied to what `take` gathers: once for a whole chunk, not batch by batch.
    """

    def __init__(self, X, input_shape, dtype, device, *, transform=None):
        self.X = X
        self.input_shape = tuple(input_shape)
        self.dtype = dtype
        self.device = device
        self.transform = transform
        self.n_rows = X.shape[0]
        self.row_bytes = math.prod(self.input_shape) * dtype.itemsize
        self.on_disk = is_on_disk(X)
        self._tensor = None
        if not self.on_disk and torch_equivalent(X.dtype) == dtype:
            tensor = as_tensor(X).reshape(self.n_rows, *self.input_shape)
            small = self.n_rows * self.row_bytes <= RESIDENT_BYTES
            if device.type == "cpu":
                self._tensor = tensor
            elif small:
                self._tensor = tensor.to(device)

    def take(self, rows):
        """Gather `rows`, an index array of any shape, as a tensor (*rows.shape, *input_shape)."""
        if self._tensor is not None:
            index = torch.from_numpy(rows.ravel()).to(self.device)
            events = self._tensor.index_select(0, index)
        else:
            events = self._read(rows.ravel())
        if self.transform is not None:
            events = self.transform(events)
        return events.reshape(*rows.shape, *self.input_shape)

    def slice(self, start, stop):
        """Rows from `start` to `stop` as a tensor (stop - start, *input_shape)."""
        if self._tensor is not None:
            # A copy, since a network may write into its input.
            return self._tensor[start:stop].clone()
        events = self._as_events(np.array(self.X[start:stop]))
        self._release()
        return self._checked(events, f" in the rows from {start} on")

    def _read(self, rows):
        """Gather rows from disk in the order in which they lie there."""
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        events = torch.empty((len(rows), *self.input_shape), dtype=self.dtype)
        for piece in self._pieces(ordered):
            if isinstance(self.X, np.ndarray):
                block = self.X[ordered[piece]]
            else:
                first, last = ordered[piece][0], ordered[piece][-1]
                block = self.X[first : last + 1][ordered[piece] - first]
            events.index_copy_(0, torch.from_numpy(order[piece]), self._as_events(block))
            self._release()
        return self._checked(events, "")

    def _pieces(self, ordered):
        """Slices of ascending row numbers that are read at once."""
        if isinstance(self.X, np.ndarray):
            # The kernel maps the neighbours of each page that is touched, so give back often.
            step = max(1, PIECE_BYTES // self.row_bytes)
            return [slice(start, start + step) for start in range(0, len(ordered), step)]
        # HDF5 reads runs of neighbours fast and single rows slowly: small gaps are read over.
        breaks = [0, *(np.flatnonzero(np.diff(ordered) > 16) + 1).tolist(), len(ordered)]
        return [slice(start, stop) for start, stop in itertools.pairwise(breaks)]

    def _as_events(self, block):
        block = np.ascontiguousarray(block, dtype=numpy_dtype(self.dtype))
        return as_tensor(block).reshape(len(block), *self.input_shape)

    def _checked(self, events, where):
        # A sum is finite only if all terms are (up to overflow, which the second look settles).
        if self.on_disk and not torch.isfinite(events.sum()) and not events.isfinite().all():
            raise ValueError(
                f"Input X contains NaN or infinity{where}. Clean the file, or impute before."
            )
        return events.to(self.device)

    def _release(self):
        """Give the pages of a memory map back, which otherwise count as this process's memory."""
        memory_map = getattr(self.X, "_mmap", None)
        # A copy-on-write map would lose the user's changes.
        if memory_map is not None and self.X.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
            memory_map.madvise(mmap.MADV_DONTNEED)


class TrainingData:
    """Events and their columns, served in shuffled batches.

    Parameters
    ----------
    source : EventSource
        The events.
    columns : dict of str to ndarray of shape (n, ...) or None
        What belongs to each event: `y`, `sample_weight`, ... None stays None. Stacked members may
        have a `sample_weight` of shape (n_members, n), each its own.
    rows : ndarray of int or None
        The rows that take part, ascending; None for all.
    batch_size : int
        The most events per batch (and member). The batches of an epoch are made alike, so that
        none is left with a few events whose step would weigh as much as the others'.
    seeds : int or sequence of int
        The seed of the shuffling; a sequence for stacked members, each with its own.
    """

    def __init__(self, source, columns, *, rows=None, batch_size, seeds=0, shuffle=True):
        self.source = source
        self.rows = np.arange(source.n_rows) if rows is None else np.asarray(rows)
        self.n = len(self.rows)
        self.n_batches = -(-self.n // batch_size)
        self.batch_size = -(-self.n // self.n_batches)
        self.columns = {
            name: None if column is None else as_tensor(np.asarray(column)).to(source.device)
            for name, column in columns.items()
        }
        self.stacked = not isinstance(seeds, Integral)
        self.seeds = tuple(seeds) if self.stacked else (seeds,)
        self.shuffle = shuffle and self.n_batches > 1
        self.mean_weight = None
        if self.columns.get("sample_weight") is not None:
            weight = self.columns["sample_weight"][..., torch.from_numpy(self.rows)]
            self.mean_weight = weight.double().mean(-1, keepdim=True).to(weight.dtype)
        self._rngs = [np.random.RandomState(seed) for seed in self.seeds]
        self._chunk = None

    def __len__(self):
        return self.n

    def __iter__(self):
        """Yield the batches of one epoch, in a new order each time."""
        event_bytes = self.source.row_bytes * len(self.seeds)
        if not self.shuffle and self.n * event_bytes <= CHUNK_BYTES:
            # One chunk holds everything in its one order: gather it once for all epochs.
            if self._chunk is None:
                self._chunk = self._gather(self._order())
            # A copy, since a network may write into its input.
            yield from self._batches({**self._chunk, "X": self._chunk["X"].clone()})
            return
        order = self._order()
        per_chunk = max(1, CHUNK_BYTES // (event_bytes * self.batch_size))
        per_chunk *= self.batch_size
        chunks = [order[..., start : start + per_chunk] for start in range(0, self.n, per_chunk)]
        gathered = read_ahead if self.source.on_disk else map
        for chunk in gathered(self._gather, chunks):
            yield from self._batches(chunk)

    def _order(self):
        """Row numbers in the order of the epoch, of shape (n,) or (n_members, n)."""
        if not self.shuffle:
            orders = [self.rows] * len(self.seeds)
        elif self.n * self.source.row_bytes <= RESIDENT_BYTES:
            orders = [self.rows[rng.permutation(self.n)] for rng in self._rngs]
        else:
            orders = [self.rows[self._block_permutation(rng)] for rng in self._rngs]
        return np.stack(orders) if self.stacked else orders[0]

    def _block_permutation(self, rng):
        block = max(1, BLOCK_BYTES // self.source.row_bytes)
        starts = rng.permutation(np.arange(0, self.n, block))
        per_buffer = max(1, BUFFER_BYTES // (block * self.source.row_bytes))
        order = []
        for first in range(0, len(starts), per_buffer):
            buffer = starts[first : first + per_buffer, np.newaxis] + np.arange(block)
            buffer = buffer[buffer < self.n]
            order.append(rng.permutation(buffer))
        return np.concatenate(order)

    def _gather(self, rows):
        index = torch.from_numpy(rows).to(self.source.device)
        chunk = {"X": self.source.take(rows)}
        for name, column in self.columns.items():
            if column is None:
                chunk[name] = None
            elif name == "sample_weight" and column.ndim == 2:
                chunk[name] = column.gather(1, index)
            else:
                chunk[name] = column[index]
        return chunk

    def _batches(self, chunk):
        axis = 1 if self.stacked else 0
        n = chunk["X"].shape[axis]
        if n <= self.batch_size:
            yield Batch(**chunk, n_events=n, mean_weight=self.mean_weight)
            return
        for start in range(0, n, self.batch_size):
            stop = min(start + self.batch_size, n)
            cut = (slice(None), slice(start, stop)) if self.stacked else slice(start, stop)
            yield Batch(
                **{name: None if t is None else t[cut] for name, t in chunk.items()},
                n_events=stop - start,
                mean_weight=self.mean_weight,
            )


class PairedData:
    """Two samples side by side: each batch of the first has one of the second as `other`.

    An epoch is a pass over the sample of more batches. The other one is served again and again
    meanwhile, in a new order each time, so that a sample of twenty events is in every step.

    Parameters
    ----------
    first, second : TrainingData
    """

    def __init__(self, first, second):
        self.first, self.second = first, second
        self.n_batches = max(first.n_batches, second.n_batches)

    def __len__(self):
        """Events of the first sample that an epoch serves, the same ones again if need be."""
        passes, rest = divmod(self.n_batches, self.first.n_batches)
        return passes * self.first.n + min(rest * self.first.batch_size, self.first.n)

    def __iter__(self):
        """Yield the batches of one epoch."""
        pairs = zip(_again(self.first), _again(self.second), strict=False)
        for batch, other in itertools.islice(pairs, self.n_batches):
            batch.other = other
            yield batch


def _again(data):
    """The batches of a sample, epoch after epoch."""
    while True:
        yield from data


def read_ahead(function, items):
    """Like `map`, with the next result being made in a thread while this one is used."""
    with ThreadPoolExecutor(1) as pool:
        pending = None
        for item in items:
            upcoming = pool.submit(function, item)
            if pending is not None:
                yield pending.result()
            pending = upcoming
        if pending is not None:
            yield pending.result()


def as_tensor(array):
    """A tensor that shares the array's memory where torch can."""
    array = np.ascontiguousarray(array)
    if array.flags.writeable:
        return torch.from_numpy(array)
    # torch warns of sharing a read-only array, as the workers of joblib receive; the engine never
    # writes into its input, and DLPack shares it without the warning.
    try:
        return torch.from_dlpack(array)
    except BufferError:
        return torch.from_numpy(array.copy())


def torch_equivalent(dtype):
    """The torch type of a numpy type, or None where torch has none."""
    return _TORCH_TYPES.get(np.dtype(dtype))


def numpy_dtype(dtype):
    """The numpy type of a torch floating type."""
    return {torch.float32: np.float32, torch.float64: np.float64}[dtype]


_TORCH_TYPES = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.int32): torch.int32,
    np.dtype(bool): torch.bool,
}
