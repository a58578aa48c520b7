"""LEGEND HDF5 (LH5) files.

LH5 is HDF5 whose groups and datasets carry a ``datatype`` attribute: a ``table{a,b,c}`` is a group
of columns of equal length; a column is an ``array<1>{real}``, an ``array<1>{bool}`` stored as
integers, an ``array_of_equalsized_arrays<1,1>{real}``, a ragged ``array<1>{array<1>{real}}``
stored as ``flattened_data`` and ``cumulative_length``, or a table again, such as a waveform with
``t0``, ``dt`` and ``values``. ``units`` attributes give the units.

Plain HDF5 groups without ``datatype`` are read in the same way, as tables of their datasets.
"""

from numbers import Integral

import h5py
import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.datasets._hdf5 import HDF5Rows, open_hdf5, read_rows, require

__all__ = ["list_lh5", "read_lh5"]


def list_lh5(path, group=None):
    """List what an LH5 or HDF5 file holds.

    Parameters
    ----------
    path : str or path-like
        The file.
    group : str, default=None
        List what is beneath this group only.

    Returns
    -------
    contents : dict
        For each table and column, by its path in the file, a Bunch of ``datatype`` (the LH5
        attribute, or None), ``shape`` (of tables: ``(n_rows,)``), ``dtype`` (None for tables and
        ragged columns) and ``units`` (None without).

    Raises
    ------
    OSError
        If the file is missing, truncated, corrupted or no HDF5.
    KeyError
        If there is no such group.

    Examples
    --------
    >>> import h5py, os, tempfile
    >>> from sknuc.datasets import list_lh5
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.h5")
    ...     with h5py.File(path, "w") as file:
    ...         file["dsp/A_max"] = [1.5, 2.5, 3.5]
    ...     contents = list_lh5(path)
    >>> {name: item.shape for name, item in contents.items()}
    {'dsp': (3,), 'dsp/A_max': (3,)}
    """
    contents = {}

    def add(node):
        if isinstance(node, h5py.Dataset):
            shape, dtype = node.shape, node.dtype
        elif _is_ragged(node):
            shape, dtype = require(node, "cumulative_length").shape, None
        elif _is_table(node):
            shape, dtype = (_n_rows(node, _columns(node)),), None
        else:
            shape = None
        if shape is not None:
            contents[_name(node)] = Bunch(
                datatype=_attribute(node, "datatype"),
                shape=shape,
                dtype=dtype,
                units=_attribute(node, "units"),
            )
        if isinstance(node, h5py.Group) and not _is_ragged(node):
            for name in node:
                add(require(node, name))

    with open_hdf5(path) as file:
        add(require(file, group) if group else file)
    return contents


@validate_params(
    {
        "group": [str, None],
        "columns": ["array-like", str, None],
        "start": [Interval(Integral, 0, None, closed="left")],
        "stop": [Interval(Integral, 0, None, closed="left"), None],
        "lazy": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def read_lh5(path, group=None, *, columns=None, start=0, stop=None, lazy=False):
    """Read a table of an LH5 file.

    Parameters
    ----------
    path : str or path-like
        The file.
    group : str, default=None
        The table, such as ``"ch1104000/dsp"``. None takes the only table of a file.
    columns : list of str or str, default=None
        The columns to read; those of nested tables are ``"waveform/values"``, and ``"waveform"``
        stands for all of them. None reads all.
    start : int, default=0
        First row.
    stop : int, default=None
        Row behind the last one; None for the end of the table.
    lazy : bool, default=False
        Give :class:`HDF5Rows` instead of arrays: they read the rows that they are indexed with,
        and nothing stays open. For data that are larger than memory. Flags keep the integers of
        the file.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        data : dict
            For each column an ndarray whose first axis is the rows, with the type of the file;
            flags are bool. Ragged columns are object arrays of one array per row.
        units : dict
            Units of the columns that have them.
        group : str
            The table.
        n_rows : int
            The number of rows that were read.

    Raises
    ------
    OSError
        If the file is missing, truncated, corrupted or no HDF5.
    KeyError
        If there is no such table or column; the message lists those that exist.
    ValueError
        If rows or column types cannot be read as asked.

    References
    ----------
    .. [1] LEGEND collaboration, "LEGEND data format specifications",
       https://legend-exp.github.io/legend-data-format-specs

    Examples
    --------
    >>> import h5py, os, tempfile
    >>> from sknuc.datasets import read_lh5
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.lh5")
    ...     with h5py.File(path, "w") as file:
    ...         dsp = file.create_group("ch1/dsp")
    ...         dsp.attrs["datatype"] = "table{A_max}"
    ...         dsp["A_max"] = [1.5, 2.5, 3.5]
    ...         dsp["A_max"].attrs.update(datatype="array<1>{real}", units="ADC")
    ...     table = read_lh5(path, "ch1/dsp", start=1)
    >>> table.data["A_max"], table.units
    (array([2.5, 3.5]), {'A_max': 'ADC'})
    """
    with open_hdf5(path) as file:
        group = _the_only_table(file) if group is None else group.strip("/") or "/"
        node = require(file, group)
        if isinstance(node, h5py.Group) and not _is_table(node):
            raise ValueError(
                f"{group!r} of {path} is no table, but a group of: {', '.join(sorted(node))}. "
                f"Its tables are: {', '.join(_tables(node)) or 'none'}."
            )
        selected = _select(node, columns)
        n_rows = _n_rows(node, selected)
        stop = n_rows if stop is None else stop
        if not start <= stop <= n_rows:
            raise ValueError(
                f"The rows of read_lh5 must satisfy 0 <= start <= stop <= {n_rows}, the number of "
                f"rows of {group!r}. Got start={start} and stop={stop} instead."
            )
        read = _lazy if lazy else _read
        return Bunch(
            data={name: read(path, column, start, stop) for name, column in selected.items()},
            units={
                name: units
                for name, column in selected.items()
                if (units := _attribute(column, "units"))
            },
            group=group,
            n_rows=stop - start,
        )


def _name(node):
    return node.name.strip("/") or "/"


def _attribute(node, name):
    value = node.attrs.get(name)
    return value.decode() if isinstance(value, bytes) else value


def _datatype(node):
    return _attribute(node, "datatype") or ""


def _is_ragged(node):
    return isinstance(node, h5py.Group) and _datatype(node).startswith("array<1>{array<1>{")


def _is_encoded(node):
    return "encoded" in _datatype(node)


def _is_table(node):
    """Whether a group is a table, or has columns and says nothing of its kind."""
    if not isinstance(node, h5py.Group):
        return False
    datatype = _datatype(node)
    if datatype:
        return datatype.startswith("table{")
    return any(isinstance(require(node, name), h5py.Dataset) for name in node)


def _tables(group):
    """Names of the outermost tables beneath a group."""
    names = []
    for child in (require(group, name) for name in group):
        if _is_table(child):
            names.append(_name(child))
        elif isinstance(child, h5py.Group) and not _datatype(child).startswith("array"):
            names += _tables(child)
    return names


def _the_only_table(file):
    if _is_table(file):
        return "/"
    tables = _tables(file)
    if len(tables) != 1:
        raise ValueError(
            f"{file.filename} holds {len(tables)} tables; choose one with the 'group' parameter "
            f"of read_lh5: {', '.join(tables) or 'there is none'}."
        )
    return tables[0]


def _columns(node, prefix=""):
    """Columns of a table by name, in its order; those of nested tables as ``table/column``."""
    if isinstance(node, h5py.Dataset):
        return {node.name.rsplit("/", 1)[-1]: node}
    datatype = _datatype(node)
    listed = datatype[len("table{") : -1].split(",") if datatype.startswith("table{") else []
    names = [name for name in listed if name] or list(node)
    columns = {}
    for name in names:
        column = require(node, name)
        if _is_table(column):
            columns |= _columns(column, f"{prefix}{name}/")
        else:
            columns[prefix + name] = column
    return columns


def _select(node, names):
    columns = _columns(node)
    if names is None:
        return columns
    selected = {}
    for name in [names] if isinstance(names, str) else names:
        found = {
            key: column
            for key, column in columns.items()
            if key == name or key.startswith(f"{name}/")
        }
        if not found:
            raise KeyError(
                f"{_name(node)} of {node.file.filename} has no column {name!r}. "
                f"Its columns are: {', '.join(columns)}."
            )
        selected |= found
    return selected


def _n_rows(node, columns):
    lengths = {}
    for name, column in columns.items():
        if _is_encoded(column):
            column = require(column, "encoded_data")
        if isinstance(column, h5py.Group):
            column = require(column, "cumulative_length")
        if column.shape:
            lengths.setdefault(column.shape[0], name)
    if len(lengths) > 1:
        (first, a), (second, b) = list(lengths.items())[:2]
        raise ValueError(
            f"{_name(node)} of {node.file.filename} is no table: its column {a!r} has "
            f"{first} rows, and {b!r} has {second}."
        )
    return next(iter(lengths), 0)


def _read(path, column, start, stop):
    if isinstance(column, h5py.Dataset):
        values = read_rows(column, slice(start, stop))
        return values.astype(bool) if _datatype(column).endswith("{bool}") else values
    if not _is_ragged(column):
        raise _unsupported(path, column)
    ends = read_rows(require(column, "cumulative_length"), slice(max(start - 1, 0), stop))
    ends = ends.astype(np.int64)
    begin, ends = (0, ends) if start == 0 else (ends[0], ends[1:])
    flat = read_rows(require(column, "flattened_data"), slice(begin, ends[-1] if len(ends) else 0))
    rows = np.split(flat, ends[:-1] - begin) if len(ends) else []
    return np.fromiter(rows, dtype=object, count=len(rows))


def _lazy(path, column, start, stop):
    if not isinstance(column, h5py.Dataset) or not column.shape:
        raise _unsupported(path, column, " lazily")
    return HDF5Rows(
        [(path, start, stop)], _name(column), column.shape[1:], column.dtype, column.chunks
    )


def _unsupported(path, column, how=""):
    kind = _datatype(column) or type(column).__name__
    codec = _attribute(column, "codec")
    encoding = f", encoded by {codec}: decode it with legend-pydataobj" if codec else ""
    return ValueError(
        f"Cannot read {_name(column)!r} of {path}{how}: it is of type {kind}{encoding}. "
        "Leave it out with the 'columns' parameter of read_lh5."
    )
