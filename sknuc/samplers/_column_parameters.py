"""What users say about columns: bounds, discrete values, atoms, periods."""

import warnings
from numbers import Integral, Real

import numpy as np

from sknuc.base import levels_to_user

__all__ = ["ColumnParameters"]


class ColumnParameters:
    """Parameters of columns, as they are read for the columns of a fit.

    Parameters
    ----------
    bounds, discrete, atoms, periodic
        See :class:`~sknuc.samplers._columns.Columns`.

    Attributes
    ----------
    low, high : ndarray of shape (n_columns,)
        Bounds, in the precision of the events; infinite where there is none, and of angles.
    period, middle : ndarray of shape (n_columns,)
        Of angles; the period is 0 for other columns.
    """

    def __init__(self, *, bounds, discrete, atoms, periodic):
        self.bounds = bounds
        self.discrete = discrete
        self.atoms = atoms
        self.periodic = periodic

    def _read(self, n_columns, names, dtype):
        """Read the parameters for events of so many columns, perhaps with names, and a dtype."""
        self.names = None if names is None else [str(name) for name in names]
        self.n_columns = n_columns
        self._read_bounds(dtype)
        self._read_periods()

    def name(self, i):
        """How the user calls a column."""
        return int(i) if self.names is None else self.names[i]

    def _index(self, column, parameter):
        if self.names is not None and column in self.names:
            return self.names.index(column)
        if isinstance(column, Integral) and 0 <= column < self.n_columns:
            return int(column)
        known = f"numbers from 0 to {self.n_columns - 1}"
        if self.names is not None:
            known += f" or names among {self.names}"
        raise ValueError(
            f"The {parameter!r} parameter must name columns of X: {known}. Got {column!r} instead."
        )

    def _each(self, parameter):
        given = getattr(self, parameter)
        if not isinstance(given, dict):
            raise ValueError(
                f"The {parameter!r} parameter must be a dictionary from columns to what belongs to "
                f"them. Got {given!r} instead."
            )
        return {self._index(column, parameter): value for column, value in given.items()}

    def _read_bounds(self, dtype):
        self.low = np.full(self.n_columns, -np.inf)
        self.high = np.full(self.n_columns, np.inf)
        if self.bounds is None:
            return
        if isinstance(self.bounds, dict):
            pairs = self._each("bounds")
        else:
            pairs = dict.fromkeys(range(self.n_columns), self.bounds)
        for i, pair in pairs.items():
            try:
                low, high = (
                    infinite if end is None else float(end)
                    for end, infinite in zip(pair, (-np.inf, np.inf), strict=True)
                )
            except (TypeError, ValueError):
                low, high = np.nan, np.nan
            if not low < high:
                raise ValueError(
                    "The 'bounds' parameter must hold pairs (low, high) with low < high, of "
                    f"numbers or None. Got {pair!r} for column {self.name(i)!r}."
                )
            # Events that are rounded to 32 bits are within bounds that are.
            floats = dtype if dtype.kind == "f" else np.float64
            self.low[i], self.high[i] = np.array([low, high]).astype(floats)

    def _read_periods(self):
        self.period = np.zeros(self.n_columns)
        self.middle = np.zeros(self.n_columns)
        for i, period in self._each("periodic").items() if self.periodic is not None else ():
            name = self.name(i)
            if not isinstance(period, Real) or not 0 < period < np.inf:
                raise ValueError(
                    "The 'periodic' parameter must hold a positive period for each of its columns. "
                    f"Got {period!r} for column {name!r}."
                )
            low, high = self.low[i], self.high[i]
            if np.isfinite([low, high]).all() and not np.isclose(high - low, period, rtol=1e-6):
                raise ValueError(
                    f"The 'bounds' parameter holds column {name!r} within [{low:g}, {high:g}], and "
                    f"the 'periodic' parameter says that it comes round after {period:g}. Angles "
                    "within a part of the circle are not periodic: leave them out of 'periodic', "
                    f"or give bounds that are {period:g} apart."
                )
            for parameter in ("discrete", "atoms"):
                if i in self._named(parameter):
                    raise ValueError(
                        f"The {parameter!r} parameter names column {name!r}, and so does "
                        f"'periodic'. Angles are continuous: leave it out of one of them."
                    )
            self.period[i] = period
            # Angles are given back from the lower bound on, up to the upper one, or around zero.
            if np.isfinite(low):
                self.middle[i] = low + period / 2
            elif np.isfinite(high):
                self.middle[i] = high - period / 2
            self.low[i], self.high[i] = -np.inf, np.inf

    def _named(self, parameter):
        """Columns that the user names in a parameter that may be "auto" or None."""
        given = getattr(self, parameter)
        if given is None or isinstance(given, str):
            return []
        if parameter == "atoms":
            return list(self._each("atoms"))
        return [self._index(column, parameter) for column in given]

    def _read_discrete(self, integer):
        """Which columns have few values (n_columns,)."""
        if isinstance(self.discrete, str):
            return integer & (len(self.input_shape) == 1)
        chosen = np.zeros(self.n_columns, bool)
        chosen[self._named("discrete")] = True
        return chosen

    def _report_absent(self, i, values):
        warnings.warn(
            f"The 'atoms' parameter holds {values.tolist()} for column {self.name(i)!r}, where no "
            "event of X is: none will be generated there.",
            UserWarning,
            stacklevel=levels_to_user(),
        )

    def _read_atoms(self):
        """Atoms that the user gives, by column."""
        if self.atoms is None or isinstance(self.atoms, str):
            return {}
        return {i: np.atleast_1d(values) for i, values in self._each("atoms").items()}
