r"""From events as they are measured to variables that a generative network can learn, and back.

Networks make smooth densities on all numbers. Measured columns are seldom so: an energy is not
negative, a hit count is an integer, many voxels are exactly zero, an azimuth comes round again.
Here every column becomes one or two variables without bounds, of mean 0 and standard deviation 1:

- **continuous**: :math:`z = (t - m)/s`, where t is x itself, or a number without bounds in place of
  one within (:mod:`sknuc.samplers._bounds`);
- **discrete**, levels :math:`x_1 < x_2 < \dots` with probabilities p: the level k takes the part
  of the normal distribution with quantiles from :math:`P_{k-1}` to :math:`P_k = p_1+\dots+p_k`,

  .. math:: z = \Phi^{-1}(P_{k-1} + u\,p_k), \qquad u \sim U(0, 1),

  so that z is exactly normal, and back there is one level for every z (dequantisation). What never
  varies is one level;
- **rounded**, integers of more than 100 values in a column, or in all of a signal: z anywhere
  between those of :math:`x \pm 1/2`, and rounded on the way back;
- **with atoms**, values that many events share, such as exactly 0: a discrete variable says which
  atom, or none, and a continuous one the value if there is none; else it is normal noise;
- **periodic**: the angle, for models that know circles, or a point of the plane that lies in its
  direction, at a distance around 1 that is drawn as well: events on a circle would have no density
  in the plane.

Where the law of a column depends on conditions, `_marginals` goes on from here.

The density of x has the factor :math:`|dz/dx|` of the continuous columns. Of what is drawn it is
a mean over draws (:mod:`sknuc.samplers._drawn`).
"""

import math

import numpy as np

from sknuc.samplers._bounds import Bounds
from sknuc.samplers._column_parameters import ColumnParameters
from sknuc.samplers._drawn import DrawnVariables
from sknuc.samplers._levels import Levels, find_atoms

__all__ = ["Columns", "are_copies"]

# Integers of more values than these are rounded continuous numbers.
MOST_LEVELS = 100
# Numbers that are transformed at a time, in 64 bits.
_BLOCK_NUMBERS = 2**20


class Columns(ColumnParameters, DrawnVariables):
    """The columns of events, and the variables of a network.

    Parameters
    ----------
    bounds : dict, pair or None
        ``{column: (low, high)}``, each end a number or None; one pair for all columns.
    discrete : "auto", list or None
        Columns of few values; "auto": those of tables that came with an integer type.
    atoms : "auto", dict or None
        ``{column: values}`` of point masses; "auto" finds those that more than 1 % of the events
        share. Values of measured numbers at a finite bound are atoms in any case.
    periodic : dict or None
        ``{column: period}``.
    circles : bool
        Whether the model knows angles, in (-π, π]; else they are points of the plane.
    by_channel : bool
        For signals and images: one mean and standard deviation per channel, and further variables
        as further channels. Else every column is on its own.
    channel_axis : int or None, default=0
        The axis of events that counts channels; None for one channel.

    Attributes
    ----------
    shape : tuple of int
        Of the variables of one event.
    first : ndarray of int of shape (n_columns,)
        The variable that every column has.
    second : dict of int to int
        By column, the variable that some have besides: which atom, or the sine of an angle.
    angular : ndarray of bool of shape (n_variables,)
        Which variables are angles.
    random, rounded, cosines, sines : ndarray of int
        See :class:`~sknuc.samplers._drawn.DrawnVariables`.
    constant : ndarray of int
        Those of `random` whose column never varies.
    """

    def __init__(
        self,
        *,
        bounds,
        discrete,
        atoms,
        periodic,
        circles=False,
        by_channel=False,
        channel_axis=0,
    ):
        super().__init__(bounds=bounds, discrete=discrete, atoms=atoms, periodic=periodic)
        self.circles = circles
        self.by_channel = by_channel
        self.channel_axis = channel_axis

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
        if not weight.all():
            X, weight = X[weight != 0], weight[weight != 0]
        copies = are_copies(weight)
        # Weights count events; where all are smaller than 1, one is as large as the largest.
        weight = weight / min(1.0, weight.max())
        self.input_shape = tuple(input_shape)
        self.dtype = X.dtype
        self._read(X.shape[1], names, X.dtype)
        self._check_within(X)
        fine = len(self.input_shape) > 1 and self._are_many_integers(X)
        rounded = fine & (self.discrete == "auto") & np.asarray(integer)
        self._find_levels(X, weight, copies, self._read_discrete(integer), rounded, fine)
        self._lay_out()
        self._scale(X, weight)
        return self

    def _find_levels(self, X, weight, copies, integer, rounded, fine):
        """Which values are levels and atoms, of all columns but angles."""
        chosen = self._named("discrete")
        self.levels, self.marks = {}, {}
        self.whole = np.zeros(self.n_columns, bool)
        given = self._read_atoms()
        for i in np.flatnonzero(self.period == 0):
            values, place = np.unique(X[:, i], return_inverse=True)
            events = np.bincount(place, weight)
            # Numbers that are no integers cannot be rounded to any.
            few = len(values) <= MOST_LEVELS or (values != np.round(values)).any()
            if len(values) == 1 or (integer[i] and few):
                self.levels[i] = Levels(values, events, closed=i in chosen)
                continue
            # What a digitiser rounds has neighbours, whatever type its counts were given later.
            dense = fine or (len(values) > MOST_LEVELS and (values == np.round(values)).all())
            self.whole[i] = integer[i] or rounded[i]
            common = np.isin(values, given.get(i, ()))
            if i in given and not np.isin(given[i], values).all():
                self._report_absent(i, given[i][~np.isin(given[i], values)])
            if isinstance(self.atoms, str):
                # One event is no atom, however large its luminosity.
                number = events if copies else np.bincount(place)
                common |= find_atoms(values, number, integer=self.whole[i] or dense)
            if not self.whole[i]:
                common |= (values == self.low[i]) | (values == self.high[i])
            if common.all():
                self.levels[i] = Levels(values, events)
            elif common.any():
                between = np.median(values[~common])
                atoms = np.append(values[common], np.nan)
                rank = np.argsort(np.append(values[common], between), kind="stable")
                share = np.append(events[common], events[~common].sum())
                self.marks[i] = Levels(atoms[rank], share[rank])

    def _are_many_integers(self, X):
        """Whether all numbers of X are integers, and more than are levels."""
        values = np.empty(0, X.dtype)
        for rows in self._blocks(len(X)):
            if X.dtype.kind == "f" and (X[rows] != np.round(X[rows])).any():
                return False
            if len(values) <= MOST_LEVELS:
                values = np.union1d(values, X[rows])
        return len(values) > MOST_LEVELS

    def _lay_out(self):
        """Places of the variables: first one for each column, then those that some have besides."""
        angles = np.flatnonzero(self.period)
        second = sorted([*self.marks, *(() if self.circles else angles)])
        n = self.n_columns
        self.first = np.arange(n)
        if not self.by_channel:
            self.shape = (n + len(second),)
            self.second = {i: n + k for k, i in enumerate(second)}
        elif not second:
            self.shape, self.second = self.input_shape, {}
        else:
            axis = self.channel_axis or 0
            places = np.arange(2 * n).reshape(
                *self.input_shape[:axis], -1, *self.input_shape[axis + 1 :]
            )
            self.shape = places.shape
            self.first, others = (half.ravel() for half in np.split(places, 2, axis))
            self.second = {i: int(others[i]) for i in second}
        self.n_variables = math.prod(self.shape)
        self.angular = np.zeros(self.n_variables, bool)
        self.angular[self.first] = (self.period > 0) & self.circles
        marked = [place for i in self.marks for place in (self.first[i], self.second[i])]
        self.random = np.array(sorted([*self.first[list(self.levels)], *marked]), dtype=int)
        alone = [i for i, levels in self.levels.items() if len(levels.values) == 1]
        self._alone = np.array(alone, dtype=int)
        self._only = np.array([self.levels[i].values[0] for i in alone], dtype=np.float64)
        self.constant = self.first[self._alone]
        self.rounded = self.first[self.whole]
        self.cosines = self.first[[] if self.circles else angles]
        self.sines = np.array([self.second[i] for i in ([] if self.circles else angles)], dtype=int)
        low, high = self.low.copy(), self.high.copy()
        # Integers at a bound are numbers like others, half-way to where no number is.
        low[self.whole], high[self.whole] = np.ceil(low[self.whole]), np.floor(high[self.whole])
        # And next to an atom at a bound, so that nothing else is rounded to it.
        for i in self.whole.nonzero()[0]:
            if i in self.marks:
                low[i] += low[i] in self.marks[i].values
                high[i] -= high[i] in self.marks[i].values
        self._ends = low, high
        made = np.float32 if self.dtype == np.float32 else np.float64
        self._range = Bounds(low - self.whole, high + self.whole, made)
        self._cells = Bounds(self._range.low[self.whole], self._range.high[self.whole])

    def _scale(self, X, weight):
        """Mean and standard deviation of the continuous columns, or of those of each channel."""
        group = np.arange(self.n_columns)
        if self.by_channel:
            axis = self.channel_axis
            group = np.zeros(self.input_shape, dtype=int)
            if axis is not None:
                along = [1] * len(self.input_shape)
                along[axis] = -1
                group += np.arange(self.input_shape[axis]).reshape(along)
            group = group.ravel()
        low, high = np.full((2, self.n_columns), [[np.inf], [-np.inf]])

        def mean(function):
            total, weights = np.zeros((2, self.n_columns))
            for rows in self._blocks(len(X)):
                values = X[rows].astype(np.float64)
                t, share = self._range.unbounded(values), self._continuous(values)
                np.minimum(low, np.where(share, t, np.inf).min(0), out=low)
                np.maximum(high, np.where(share, t, -np.inf).max(0), out=high)
                share = share * weight[rows, None]
                total += (share * function(np.where(share, t, 0))).sum(0)
                weights += share.sum(0)
            total, weights = np.bincount(group, total), np.bincount(group, weights)
            # Without continuous numbers there is nothing to scale.
            return np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)[group]

        shift = mean(lambda t: t)
        self.nearest = low, high
        least, most = np.full((2, self.n_columns), [[np.inf], [-np.inf]])
        np.minimum.at(least, group, low)
        np.maximum.at(most, group, high)
        least, most = least[group], most[group]
        seen = least <= most
        # The sum rounds; what is constant is its own mean.
        self.shift = np.clip(shift, least, most, where=seen, out=np.zeros_like(shift))
        # In units of the largest deviation, since squares under- and overflow long before numbers
        # do. However little a column varies, so little will what is generated.
        unit = np.where(seen, np.maximum(most - self.shift, self.shift - least), 0)
        unit[unit == 0] = 1.0
        self.scale = unit * np.sqrt(mean(lambda t: ((t - self.shift) / unit) ** 2))
        self.scale[self.scale == 0] = 1.0

    def _continuous(self, X):
        """Which numbers (n, n_columns) are no levels, atoms or angles."""
        continuous = np.broadcast_to(self.period == 0, X.shape).copy()
        continuous[:, list(self.levels)] = False
        for i, marks in self.marks.items():
            continuous[:, i] = ~marks.is_atom(X[:, i])
        return continuous

    def _blocks(self, n):
        step = max(1, _BLOCK_NUMBERS // self.n_columns)
        return [slice(start, min(start + step, n)) for start in range(0, n, step)]

    # Events to variables.

    def encode(self, X, dtype=np.float64, condition=None):
        r"""Variables of events, and what is known of those that are drawn.

        Parameters
        ----------
        X : ndarray of shape (n, n_columns)
        dtype : dtype, default=float64
            Of the result.
        condition : ndarray of shape (n, n_conditions) or None
            Not read here, but by :class:`~sknuc.samplers._marginals.ConditionalColumns`.

        Returns
        -------
        z : ndarray of shape (n, n_variables)
            A measured number at a bound that is no atom has no density; it is where the closest one
            of the fit was.
        low, high : ndarray of shape (n, n_drawn)
            First of the variables `random`: one with ``high > low`` is to be drawn as
            :math:`\Phi^{-1}` of a number between. Then of those `rounded`, which lie between
            the two, and of distances of angles, of which nothing is known: 0 and 1.
        """
        X = self._as_fitted(X)
        self._check_within(X)
        z = np.zeros((len(X), self.n_variables), dtype)
        n_drawn = len(self.random) + len(self.rounded) + len(self.cosines)
        low, high = np.zeros((2, len(X), n_drawn), dtype)
        for rows in self._blocks(len(X)):
            self._encode(X[rows].astype(np.float64), z[rows], low[rows], high[rows])
        return z, low, high

    def _encode(self, X, z, low, high):
        t = self._range.unbounded(X)
        t = np.where(np.isinf(t), np.clip(t, *self.nearest), t)
        z[:, self.first] = np.where(self._continuous(X), (t - self.shift) / self.scale, 0)
        at = {place: k for k, place in enumerate(self.random)}
        # All at once where nothing is new, since an image may have many dead pixels.
        same = (X[:, self._alone] == self._only).all(0)
        high[:, [at[place] for place in self.constant[same]]] = 1
        for i in self.levels.keys() - set(self._alone[same]):
            k = at[self.first[i]]
            low[:, k], high[:, k] = self.levels[i].parts(X[:, i], self.name(i))
        for i, marks in self.marks.items():
            k = at[self.second[i]]
            low[:, k], high[:, k] = marks.parts(X[:, i], self.name(i))
            high[:, at[self.first[i]]] = marks.is_atom(X[:, i])
        whole, n = self.whole, len(self.random)
        if whole.any():
            there = self._continuous(X)[:, whole]
            for ends, half in ((low, -0.5), (high, 0.5)):
                # Atoms may lie beyond the others.
                with np.errstate(invalid="ignore"):
                    t = self._cells.unbounded(X[:, whole] + half)
                cells = (t - self.shift[whole]) / self.scale[whole]
                ends[:, n : n + len(self.rounded)] = np.where(there, cells, 0)
        for i in np.flatnonzero(self.period):
            angle = self._angle(X[:, i], i)
            if self.circles:
                z[:, self.first[i]] = angle
            else:
                z[:, self.first[i]], z[:, self.second[i]] = np.cos(angle), np.sin(angle)
        high[:, n + len(self.rounded) :] = 1

    def log_det(self, X, condition=None):
        """Log of :math:`|dz/dx|` of the continuous columns, (n,); -inf where no event can be."""
        X = self._as_fitted(X).astype(np.float64)
        each = np.where(self._continuous(X), self._range.log_slope(X) - np.log(self.scale), 0)
        angles = self.period > 0
        each[:, angles] = np.log(2 * np.pi / self.period[angles])
        each[:, self.whole] = np.where(np.round(X) == X, 0, -np.inf)[:, self.whole]
        return each.sum(1)

    def _as_fitted(self, X):
        # Levels and bounds of events of 32 bits are numbers of 32 bits.
        return X.astype(self.dtype, copy=False) if self.dtype.kind == "f" else X

    # Variables to events.

    def decode(self, z, condition=None):
        """Events (n, n_columns) of variables (n, n_variables)."""
        z = np.asarray(z, dtype=np.float64)
        X = self._range.bounded(self.shift + self.scale * z[:, self.first])
        X[:, self.whole] = np.round(X[:, self.whole])
        X = np.clip(X, *self._ends)
        X[:, self._alone] = self._only
        for i in self.levels.keys() - set(self._alone):
            X[:, i] = self.levels[i].values_at(z[:, self.first[i]])
        for i, marks in self.marks.items():
            atom = marks.values_at(z[:, self.second[i]])
            X[:, i] = np.where(np.isnan(atom), X[:, i], atom)
        for i in np.flatnonzero(self.period):
            angle = z[:, self.first[i]]
            if not self.circles:
                angle = np.arctan2(z[:, self.second[i]], angle)
            period = self.period[i]
            turned = np.remainder(angle * period / (2 * np.pi) + period / 2, period) - period / 2
            X[:, i] = self.middle[i] + turned
        return X

    def _angle(self, x, i):
        angle = 2 * np.pi * (x - self.middle[i]) / self.period[i]
        return np.remainder(angle + np.pi, 2 * np.pi) - np.pi

    def _check_within(self, X):
        least, most = X.min(0), X.max(0)
        if not (np.isfinite(least) & np.isfinite(most)).all():
            raise ValueError("Input X contains NaN or infinity. Clean the data, or impute before.")
        outside = np.flatnonzero((least < self.low) | (most > self.high))
        if len(outside):
            i = int(outside[0])
            raise ValueError(
                f"The 'bounds' parameter holds column {self.name(i)!r} within "
                f"[{self.low[i]:g}, {self.high[i]:g}], but X has values from {least[i]:g} to "
                f"{most[i]:g} there. Give bounds that hold for all events."
            )


def are_copies(weight):
    """Whether weights (n,) are whole numbers, and so say how often an event is there.

    Others, such as luminosities, say how much one event counts, however large they are.
    """
    return bool((weight == np.round(weight)).all())
