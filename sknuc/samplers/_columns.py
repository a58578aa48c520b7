r"""From events as they are measured to variables that a generative network can learn, and back.

Networks make smooth densities on all numbers. Measured columns are seldom so: an energy is not
negative, a hit count is an integer, many voxels are exactly zero, an azimuth comes round again.
Here every column becomes one or two variables without bounds, of mean 0 and standard deviation 1:

- **continuous**: :math:`z = (t - m)/s`, where t is x itself, :math:`\ln(x-a)` above a bound a,
  :math:`-\ln(b-x)` below b, :math:`\ln\frac{x-a}{b-x}` between two;
- **discrete**, levels :math:`x_1 < x_2 < \dots` with probabilities p: the level k takes the part
  of the normal distribution with quantiles from :math:`P_{k-1}` to :math:`P_k = p_1+\dots+p_k`,

  .. math:: z = \Phi^{-1}(P_{k-1} + u\,p_k), \qquad u \sim U(0, 1),

  so that z is exactly normal, and back there is one level for every z (dequantisation). Integers of
  more than 100 values are continuous after :math:`x + u - 1/2`, and rounded on the way back;
- **with atoms**, values that many events share, such as exactly 0: a discrete variable says which
  atom, or none, and a continuous one the value if there is none; else it is normal noise;
- **periodic**: the angle, for models that know circles, or its cosine and sine.

The density of x has the factor :math:`|dz/dx|` of the continuous columns; of a level,

.. math:: p(x_k) = \int_{P_{k-1} < \Phi(z) < P_k} p(z)\,dz
          = p_k\,\mathrm{E}_u\!\left[\frac{p(z)}{\varphi(z)}\right],

whose logarithm is at least the mean of the logarithm (dequantisation bound).
"""

from numbers import Integral, Real

import numpy as np
from scipy.special import expit, ndtri

__all__ = ["Columns"]

# Integers of more values than these are rounded continuous numbers.
_MOST_LEVELS = 100
# A value that so many events share is no accident of a continuous distribution.
_ATOM_SHARE, _ATOM_EVENTS = 0.01, 10


class Columns:
    """The columns of events, and the variables of a network.

    Parameters
    ----------
    bounds : dict, pair or None
        ``{column: (low, high)}``, each end a number or None; one pair for all columns.
    discrete : "auto", list or None
        Columns of few values; "auto": those that came with an integer type.
    atoms : "auto", dict or None
        ``{column: values}`` of point masses; "auto" finds those that more than 1 % of the events
        share. Values at a finite bound are atoms in any case.
    periodic : dict or None
        ``{column: period}``.
    circles : bool
        Whether the model knows angles, in (-π, π]; else they are cosine and sine.
    by_channel : bool
        For signals and images: one mean and standard deviation per channel, and further variables
        as further channels. Else every column is on its own.

    Attributes
    ----------
    shape : tuple of int
        Of the variables of one event.
    angular : ndarray of bool of shape (n_variables,)
        Which variables are angles.
    random : ndarray of int of shape (n_random,)
        Which variables may be drawn within a part of the normal distribution.
    """

    def __init__(self, *, bounds, discrete, atoms, periodic, circles=False, by_channel=False):
        self.bounds = bounds
        self.discrete = discrete
        self.atoms = atoms
        self.periodic = periodic
        self.circles = circles
        self.by_channel = by_channel

    def fit(self, X, input_shape, *, integer, names=None, sample_weight=None):
        """Look at the events.

        Parameters
        ----------
        X : ndarray of shape (n, n_columns)
        input_shape : tuple of int
            Of one event.
        integer : ndarray of bool of shape (n_columns,)
            Which columns came with an integer type.
        names : ndarray of str or None
            Of the columns.
        sample_weight : ndarray of shape (n,) or None
            Events of weight zero are not looked at.

        Returns
        -------
        self : Columns
        """
        weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
        X, weight = X[weight != 0], weight[weight != 0]
        n_events = weight.sum()
        self.input_shape = tuple(input_shape)
        self.names = None if names is None else [str(name) for name in names]
        self.n_columns = X.shape[1]
        self._read_bounds()
        self._read_periods()
        self._check_within(X)
        integer = self._read_discrete(integer)
        given = self._read_atoms()
        self.levels, self.marks = {}, {}
        self.rounded = np.zeros(self.n_columns, bool)
        for i in np.flatnonzero(self.period == 0):
            values, place = np.unique(X[:, i], return_inverse=True)
            events = np.bincount(place, weight)
            constant = len(values) == 1 and not self.by_channel
            if constant or (integer[i] and len(values) <= _MOST_LEVELS):
                self.levels[i] = _Levels(values, events)
                continue
            self.rounded[i] = integer[i]
            common = (events > _ATOM_SHARE * n_events) & (events >= _ATOM_EVENTS)
            common &= self.atoms is not None and given is None and len(values) > 1
            common |= (values == self.low[i]) | (values == self.high[i])
            common |= np.isin(values, () if given is None else given.get(i, ()))
            if common.all() and len(values) > 1:
                self.levels[i] = _Levels(values, events)
            elif common.any() and not integer[i]:
                between = np.median(values[~common])
                atoms = np.append(values[common], np.nan)
                rank = np.argsort(np.append(values[common], between), kind="stable")
                share = np.append(events[common], events[~common].sum())
                self.marks[i] = _Levels(atoms[rank], share[rank])
        self._scale(X, weight)
        self._lay_out()
        return self

    def _scale(self, X, weight):
        """Mean and standard deviation of the continuous columns."""
        t = self._unbounded(X)
        share = np.broadcast_to(weight[:, None], t.shape)
        if self.marks:
            share = np.where(self._at_atom(X), 0, share)
        axes = (0,)
        if self.by_channel:
            t, share = (a.reshape(len(t), self.input_shape[0], -1) for a in (t, share))
            axes = (0, 2)
        total = share.sum(axes, keepdims=True)
        shift = (share * t).sum(axes, keepdims=True) / total
        # The sum rounds; what is constant is its own mean.
        low, high = (np.where(share > 0, t, end) for end in (np.inf, -np.inf))
        shift = np.clip(shift, low.min(axes, keepdims=True), high.max(axes, keepdims=True))
        # In units of the largest deviation, since squares under- and overflow long before numbers
        # do. However little a column varies, so little will what is generated.
        away = np.where(share > 0, t - shift, 0)
        unit = np.abs(away).max(axes, keepdims=True)
        unit[unit == 0] = 1.0
        scale = unit * np.sqrt((share * (away / unit) ** 2).sum(axes, keepdims=True) / total)
        scale[scale == 0] = 1.0
        shape = (1, *t.shape[1:])
        self.shift, self.scale = (np.broadcast_to(a, shape).ravel() for a in (shift, scale))
        if self.by_channel:
            same = (X[:1] == X).all(0)
            self.constant = np.where(same, X[0], np.nan)

    def _lay_out(self):
        """Places of the variables: first one for each column, then those that some have besides."""
        second = [*self.marks, *(np.flatnonzero(self.period) if not self.circles else ())]
        n = self.n_columns
        self.shape = (n,)
        if self.by_channel:
            self.shape = self.input_shape
            places = {i: n + i for i in second}
            if second:
                self.shape = (2 * self.input_shape[0], *self.input_shape[1:])
        else:
            places = {i: n + k for k, i in enumerate(sorted(second))}
            self.shape = (n + len(second),)
        self.second = places
        self.n_variables = int(np.prod(self.shape))
        self.angular = np.zeros(self.n_variables, bool)
        self.angular[:n] = (self.period > 0) & self.circles
        marked = [place for i in self.marks for place in (i, places[i])]
        self.random = np.array(sorted([*self.levels, *marked]), dtype=int)

    # Events to variables.

    def encode(self, X, uniform):
        r"""Variables of events, and the parts of the normal law that they are drawn from.

        Parameters
        ----------
        X : ndarray of shape (n, n_columns)
        uniform : ndarray of shape (n, n_columns)
            Numbers in (0, 1), for rounded integers.

        Returns
        -------
        z : ndarray of shape (n, n_variables)
        low, high : ndarray of shape (n, n_random)
            A variable with ``high > low`` is to be drawn as :math:`\Phi^{-1}` of a number between.
        """
        self._check_within(X)
        n = self.n_columns
        z = np.zeros((len(X), self.n_variables), dtype=np.float64)
        values = X + self.rounded * (uniform - 0.5) if self.rounded.any() else X
        z[:, :n] = (self._unbounded(values) - self.shift) / self.scale
        low = np.zeros((len(X), self.n_variables))
        high = np.zeros((len(X), self.n_variables))
        for i, levels in self.levels.items():
            low[:, i], high[:, i] = levels.parts(X[:, i], self.name(i))
        for i, marks in self.marks.items():
            place = self.second[i]
            low[:, place], high[:, place] = marks.parts(X[:, i], None)
            at_atom = marks.is_atom(X[:, i])
            high[at_atom, i] = 1
            z[at_atom, i] = 0
        for i in np.flatnonzero(self.period):
            angle = self._angle(X[:, i], i)
            if self.circles:
                z[:, i] = angle
            else:
                z[:, i], z[:, self.second[i]] = np.cos(angle), np.sin(angle)
        return z, low[:, self.random], high[:, self.random]

    def draw(self, z, low, high, uniform):
        """Fill in variables that are drawn: `z` with them, from numbers (n, n_random) in (0, 1)."""
        z = z.copy()
        drawn = ndtri(low + (high - low) * uniform)
        z[:, self.random] = np.where(high > low, drawn, z[:, self.random])
        return z

    def log_det(self, X):
        """Log of :math:`|dz/dx|` of the continuous columns, of shape (n,)."""
        each = -np.log(self.scale) + self._log_slope(X)
        angles = self.period > 0
        each[:, angles] = np.log(2 * np.pi / self.period[angles])
        each[:, list(self.levels)] = 0
        if self.marks:
            each[self._at_atom(X)] = 0
        return each.sum(1)

    # Variables to events.

    def decode(self, z):
        """Events (n, n_columns) of variables (n, n_variables)."""
        z = np.asarray(z, dtype=np.float64)
        n = self.n_columns
        X = self._bounded(self.shift + self.scale * z[:, :n])
        X = np.where(self.rounded, np.round(X), X)
        for i, levels in self.levels.items():
            X[:, i] = levels.values_at(z[:, i])
        for i, marks in self.marks.items():
            atom = marks.values_at(z[:, self.second[i]])
            X[:, i] = np.where(np.isnan(atom), X[:, i], atom)
        for i in np.flatnonzero(self.period):
            angle = z[:, i]
            if not self.circles:
                angle = np.arctan2(z[:, self.second[i]], z[:, i])
            period = self.period[i]
            turned = np.remainder(angle * period / (2 * np.pi) + period / 2, period) - period / 2
            X[:, i] = self.middle[i] + turned
        if self.by_channel:
            X = np.where(np.isnan(self.constant), X, self.constant)
        return X

    # Bounds.

    def _unbounded(self, X):
        t = X.astype(np.float64)
        one, other = np.isfinite(self.low), np.isfinite(self.high)
        plain = self.period == 0
        with np.errstate(divide="ignore"):
            i = one & ~other & plain
            t[:, i] = np.log(t[:, i] - self.low[i])
            i = other & ~one & plain
            t[:, i] = -np.log(self.high[i] - t[:, i])
            i = one & other & plain
            t[:, i] = np.log(t[:, i] - self.low[i]) - np.log(self.high[i] - t[:, i])
        # At the bounds there are atoms, or levels.
        t[~np.isfinite(t)] = 0
        return t

    def _bounded(self, t):
        one, other = np.isfinite(self.low), np.isfinite(self.high)
        X = t.copy()
        # What is far outside of all that was learnt ends at the largest number.
        with np.errstate(over="ignore"):
            i = one & ~other
            X[:, i] = self.low[i] + np.exp(t[:, i])
            i = other & ~one
            X[:, i] = self.high[i] - np.exp(-t[:, i])
        i = one & other
        X[:, i] = self.low[i] + (self.high[i] - self.low[i]) * expit(t[:, i])
        largest = np.finfo(np.float64).max
        return np.clip(X, np.maximum(self.low, -largest), np.minimum(self.high, largest))

    def _log_slope(self, X):
        above, below = X - self.low, self.high - X
        one, other = np.isfinite(self.low), np.isfinite(self.high)
        slope = np.zeros(X.shape)
        with np.errstate(divide="ignore"):
            i = one & ~other
            slope[:, i] = -np.log(above[:, i])
            i = other & ~one
            slope[:, i] = -np.log(below[:, i])
            i = one & other
            width = np.log(self.high[i] - self.low[i])
            slope[:, i] = width - np.log(above[:, i]) - np.log(below[:, i])
        return slope

    def _angle(self, x, i):
        angle = 2 * np.pi * (x - self.middle[i]) / self.period[i]
        return np.remainder(angle + np.pi, 2 * np.pi) - np.pi

    def _at_atom(self, X):
        at = np.zeros(X.shape, bool)
        for i, marks in self.marks.items():
            at[:, i] = marks.is_atom(X[:, i])
        return at

    def _check_within(self, X):
        outside = ((self.low > X) | (self.high < X)).any(0)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            x = X[:, i]
            raise ValueError(
                f"The 'bounds' parameter holds column {self.name(i)!r} within "
                f"[{self.low[i]:g}, {self.high[i]:g}], but X has values from {x.min():g} to "
                f"{x.max():g} there. Give bounds that hold for all events."
            )

    # Parameters.

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

    def _read_bounds(self):
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
            self.low[i], self.high[i] = low, high

    def _read_periods(self):
        self.period = np.zeros(self.n_columns)
        self.middle = np.zeros(self.n_columns)
        for i, period in self._each("periodic").items() if self.periodic is not None else ():
            if not isinstance(period, Real) or not 0 < period < np.inf:
                raise ValueError(
                    "The 'periodic' parameter must hold a positive period for each of its columns. "
                    f"Got {period!r} for column {self.name(i)!r}."
                )
            self.period[i] = period
            # Angles are given back from the lower bound on, or around zero.
            if np.isfinite(self.low[i]):
                self.middle[i] = self.low[i] + period / 2
            self.low[i], self.high[i] = -np.inf, np.inf

    def _read_discrete(self, integer):
        if isinstance(self.discrete, str):
            return integer & (not self.by_channel)
        chosen = np.zeros(self.n_columns, bool)
        for column in self.discrete if self.discrete is not None else ():
            chosen[self._index(column, "discrete")] = True
        return chosen

    def _read_atoms(self):
        if self.atoms is None or isinstance(self.atoms, str):
            return None
        return {i: np.atleast_1d(values) for i, values in self._each("atoms").items()}


class _Levels:
    """Values that are parts of the normal distribution, in the order in which they come.

    Parameters
    ----------
    values : ndarray of shape (n_levels,)
        NaN stands for all other values.
    events : ndarray of shape (n_levels,)
        How many there are of each.
    """

    def __init__(self, values, events):
        self.values = values
        edges = np.append(0, np.cumsum(events))
        self.edges = edges / edges[-1]
        # From the upper end, where ones minus small numbers would lose their digits.
        self.inner = np.where(
            self.edges < 0.5,
            ndtri(self.edges),
            -ndtri(np.append(np.cumsum(events[::-1])[::-1], 0) / edges[-1]),
        )[1:-1]

    def place(self, x):
        """Numbers of the levels of values (n,); -1 for unknown ones."""
        atoms = np.flatnonzero(~np.isnan(self.values))
        order = atoms[np.argsort(self.values[atoms])]
        at = np.searchsorted(self.values[order], x).clip(max=len(order) - 1)
        others = np.flatnonzero(np.isnan(self.values))
        return np.where(self.values[order][at] == x, order[at], others[0] if len(others) else -1)

    def is_atom(self, x):
        """Whether values (n,) are levels themselves."""
        return np.isin(x, self.values)

    def parts(self, x, name):
        """Lower and upper ends, (n,), of the parts of values (n,)."""
        place = self.place(x)
        if (place < 0).any():
            raise ValueError(
                f"X has the value {x[place < 0][0]:g} in column {name!r}, which is discrete and "
                f"had the values {_shown(self.values)} in fit. Leave it out of 'discrete' if other "
                "values are possible."
            )
        return self.edges[place], self.edges[place + 1]

    def values_at(self, z):
        """Values of normal deviates (n,)."""
        return self.values[np.searchsorted(self.inner, z, side="right")]


def _shown(values):
    text = [f"{value:g}" for value in values[:10]]
    return ", ".join(text) + (" …" if len(values) > 10 else "")
