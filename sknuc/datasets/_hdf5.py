"""HDF5 files: opening them with errors that help, and reading rows when they are asked for."""

import bisect
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import h5py
import numpy as np

__all__ = ["HDF5Rows", "open_hdf5", "read_rows", "require"]


@contextmanager
def open_hdf5(path):
    """Open an HDF5 file for reading; broken files raise an OSError that says what to do.

    Parameters
    ----------
    path : str or path-like

    Yields
    ------
    file : h5py.File
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        if not h5py.is_hdf5(path):
            reason = "it is not an HDF5 file: the HDF5 signature is missing"
        elif "truncated" in str(error):
            reason = f"it is truncated ({error})"
        else:
            reason = str(error)
        raise OSError(
            f"Cannot read {path}, which has {path.stat().st_size} bytes: {reason}. Check that it "
            "was transferred completely, and fetch it again if it was not."
        ) from error
    with file:
        try:
            yield file
        except (KeyError, OSError, RuntimeError) as error:
            # HDF5's own words for a header that it cannot make sense of, of whatever type.
            if str(error.args[0] if error.args else "").startswith(("Unable to", "Can't")):
                raise _corrupted(file, "a header", error) from error
            raise


def require(file, name):
    """Return a group or dataset; if it is missing, a KeyError names what there is.

    Parameters
    ----------
    file : h5py.Group
    name : str

    Returns
    -------
    node : h5py.Group or h5py.Dataset
    """
    try:
        return file[name]
    except KeyError as error:
        if name in file:  # it is listed, but its header cannot be read
            raise _corrupted(file, repr(name), error) from error
        # Name the nearest level that exists: a file has hundreds of columns.
        parent, *rest = name.strip("/").split("/")
        group = file
        while rest and isinstance(group.get(parent), h5py.Group):
            group = group[parent]
            parent, *rest = rest
        where = group.name.strip("/") or "the file"
        raise KeyError(
            f"{Path(file.file.filename).name} has no {name!r}. {where} holds: "
            f"{', '.join(sorted(group)) or 'nothing'}."
        ) from error


def read_rows(dataset, rows=slice(None)):
    """Read rows of a dataset into memory.

    Parameters
    ----------
    dataset : h5py.Dataset
    rows : slice or sorted int array

    Returns
    -------
    values : ndarray
    """
    try:
        return dataset[rows] if dataset.shape else dataset[()]
    except (OSError, RuntimeError) as error:
        raise _corrupted(dataset.file, repr(dataset.name.strip("/")), error) from error


def _corrupted(file, what, error):
    return OSError(
        f"Cannot read {what} of {file.file.filename}: {error}. The file is corrupted; fetch it "
        "again."
    )


class HDF5Rows:
    """Rows of a dataset in one or several HDF5 files, read when they are indexed.

    Behaves as an array of shape ``(n_rows, ...)`` of which only the indexed rows come into
    memory. No file stays open, so that it can be pickled and passed to other processes.

    Parameters
    ----------
    sources : sequence of (path, start, stop)
        Files, and which of their rows are taken, in order.
    name : str
        Name of the dataset, the same in all files.
    shape : tuple of int
        Shape of one row.
    dtype : numpy dtype
        Type of the values that are returned.
    chunks : tuple of int or None, default=None
        Rows and columns that HDF5 reads at once.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy dtype
    ndim : int

    Raises
    ------
    ValueError
        If there are no sources, or a dataset has another shape or fewer rows than are taken.
    OSError, KeyError
        If a file cannot be read, or has no such dataset.

    Examples
    --------
    >>> import h5py, os, tempfile
    >>> from sknuc.datasets import HDF5Rows
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.h5")
    ...     with h5py.File(path, "w") as file:
    ...         file["wave"] = [[0, 1], [2, 3], [4, 5]]
    ...     waves = HDF5Rows([(path, 1, 3)], "wave", (2,), "int64")
    ...     waves.shape, waves[[1, 0]]
    ((2, 2), array([[4, 5],
           [2, 3]]))
    """

    def __init__(self, sources, name, shape, dtype, chunks=None):
        self.sources = tuple((str(path), start, stop) for path, start, stop in sources)
        if not self.sources:
            raise ValueError(
                "The 'sources' parameter of HDF5Rows must hold one (path, start, stop) at least. "
                "Got none."
            )
        self.name = name
        for source in self.sources:
            self._check_source(*source, tuple(shape))
        # Row `ends[i]` is the first that is behind file i.
        self.ends = np.cumsum([stop - start for _, start, stop in self.sources]).tolist()
        self.shape = (self.ends[-1], *shape)
        self.dtype = np.dtype(dtype)
        # By this attribute of h5py's datasets an array that lies on disk is known.
        self.chunks = chunks

    def _check_source(self, path, start, stop, shape):
        with open_hdf5(path) as file:
            found = require(file, self.name)
            found = found.shape if isinstance(found, h5py.Dataset) else None
        if not found or found[1:] != shape:
            raise ValueError(
                f"The 'shape' parameter of HDF5Rows is {shape}, but {self.name!r} of {path} "
                f"{f'has the shape {found}' if found is not None else 'is no dataset'}."
            )
        whole = all(isinstance(row, Integral) for row in (start, stop))
        if not whole or not 0 <= start <= stop <= found[0]:
            raise ValueError(
                "The 'sources' parameter of HDF5Rows must name rows with 0 <= start <= stop <= "
                f"{found[0]}, the number of rows of {self.name!r} of {path}. Got start={start!r} "
                f"and stop={stop!r}."
            )

    @property
    def ndim(self):
        return len(self.shape)

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        files = ", ".join(Path(path).name for path, _, _ in self.sources)
        return f"HDF5Rows({self.name!r} of {files}, shape={self.shape}, dtype={self.dtype})"

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("HDF5Rows are on disk: an array of them is always a copy.")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key):
        """Read rows.

        Parameters
        ----------
        key : int, slice, array of int or of bool, Ellipsis, or a tuple that starts with one of them
            The rows, and what of them is taken.

        Returns
        -------
        values : ndarray
        """
        key, *rest = self._expanded(key if isinstance(key, tuple) else (key,))
        if isinstance(key, Integral):
            row = key + len(self) if key < 0 else key
            if not 0 <= row < len(self):
                raise IndexError(f"Row {key} is out of range for {len(self)} rows.")
            return self._read(row, row + 1, 1)[(0, *rest)]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step > 0:
                values = self._read(start, max(start, stop), step)
            else:
                rows = range(start, stop, step)
                low, high = (rows[-1], rows[0] + 1) if rows else (0, 0)
                values = self._read(low, high, -step)[::-1]
        else:
            rows = np.asarray(key)
            if any(isinstance(k, list | np.ndarray) for k in rest):
                raise IndexError(
                    "Index rows and the rest of HDF5Rows by arrays one after the other: "
                    "rows[key][:, rest]."
                )
            if rows.dtype == bool:
                if rows.shape != (len(self),):
                    raise IndexError(
                        f"A mask of rows must have the shape ({len(self)},). Got {rows.shape}."
                    )
                rows = np.flatnonzero(rows)
            if rows.size and not np.issubdtype(rows.dtype, np.integer):
                raise IndexError(f"Rows are indexed by whole numbers. Got {rows.dtype}.")
            rows = np.where(rows < 0, rows + len(self), rows).astype(np.int64)
            if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
                raise IndexError(f"Rows are out of range for {len(self)} rows.")
            # HDF5 reads rows in ascending order, each once.
            unique, inverse = np.unique(rows, return_inverse=True)
            values = self._take(unique)[inverse.reshape(rows.shape)]
        return values[(slice(None), *rest)] if rest else values

    def _expanded(self, key):
        """Write an Ellipsis out as slices."""
        n_ellipses = sum(k is Ellipsis for k in key)
        n_axes = sum(k is not Ellipsis and k is not None for k in key)
        if n_ellipses > 1 or n_axes > self.ndim:
            raise IndexError(
                f"HDF5Rows of shape {self.shape} take {self.ndim} indices at most, one of which "
                f"may be an Ellipsis. Got {key!r}."
            )
        if not n_ellipses:
            return key or (slice(None),)
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        filled = (slice(None),) * (self.ndim - n_axes)
        return (*key[:at], *filled, *key[at + 1 :]) or (slice(None),)

    def _read_piece(self, path, rows):
        last = rows.stop if isinstance(rows, slice) else rows[-1] + 1
        with open_hdf5(path) as file:
            dataset = require(file, self.name)
            if last > dataset.shape[0]:  # h5py takes what there is, and one row would fill many
                raise OSError(
                    f"{self.name!r} of {path} has lost rows since it was opened: row {last - 1} "
                    f"was asked for, {dataset.shape[0]} rows are there."
                )
            return read_rows(dataset, rows)

    def _pieces(self):
        begins = [0, *self.ends[:-1]]
        return zip(self.sources, begins, self.ends, strict=True)

    def _read(self, start, stop, step):
        values = np.empty((len(range(start, stop, step)), *self.shape[1:]), dtype=self.dtype)
        done = 0
        for (path, first, _), begin, end in self._pieces():
            low = start + done * step
            if begin <= low < min(end, stop):
                local = slice(low - begin + first, min(end, stop) - begin + first, step)
                count = len(range(local.start, local.stop, step))
                values[done : done + count] = self._read_piece(path, local)
                done += count
        return values

    def _take(self, rows):
        values = np.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        for (path, first, _), begin, end in self._pieces():
            low, high = bisect.bisect_left(rows, begin), bisect.bisect_left(rows, end)
            if low < high:
                local = rows[low:high] - begin + first
                values[low:high] = self._read_piece(path, local)
        return values
