r"""Columns whose laws depend on conditions, as normal variables.

A voxel reads zero below a threshold: in units of the energy of the particle, the gap and how often
a shower is in it move with that energy. A network of all columns must then learn, beside how they
hang together, hundreds of such ends. Here every column becomes normal first, given the condition
(:class:`sknuc.nn.ConditionalMarginals`), with its levels and atoms as parts of its own normal
distribution: one variable per column, of which only the dependence on others is left to learn.
"""

import numpy as np
import torch

from sknuc.nn import ConditionalMarginals
from sknuc.samplers._drawn import DrawnVariables
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["ConditionalColumns"]

# Numbers that are transformed at a time, each with a spline of its own: few, as blocks are filled
# up. How sums round depends on the rows of a block, and events of a seed shall be the same to the
# last bit however many are made at a time.
_BLOCK_NUMBERS = 2**13


class ConditionalColumns(DrawnVariables):
    """The columns of a table, and one normal variable for each, given a condition.

    Parameters
    ----------
    columns : Columns
        As fitted to the events, without angles or rounded integers.
    laws : Laws
        Without a fit.
    """

    def __init__(self, columns, laws):
        self.columns = columns
        self.laws = laws
        n = columns.n_columns
        self.shape, self.n_variables = (n,), n
        # Levels and atoms are parts of the variable of their column: none says which.
        self.first, self.second, self.marks = np.arange(n), {}, {}
        self.angular = np.zeros(n, bool)
        self.scale = np.ones(n)
        self.rounded = self.cosines = self.sines = np.array([], dtype=int)
        self.constant = columns.constant
        # Values of the levels of each column; NaN stands for all others, which have a density.
        self.values = [
            (columns.levels.get(i) or columns.marks[i]).values
            if i in columns.levels or i in columns.marks
            else np.array([np.nan])
            for i in range(n)
        ]
        dense = [np.flatnonzero(np.isnan(values)) for values in self.values]
        self.dense = np.array([at[0] if len(at) else -1 for at in dense])
        self.random = np.flatnonzero(
            [len(values) > 1 or at < 0 for values, at in zip(self.values, self.dense, strict=True)]
        )

    def fit(self, X, condition, sample_weight=None):
        """Learn the laws of the columns of events (n, n_columns), given conditions (n, width)."""
        n_levels = np.array([len(values) for values in self.values])
        # The laws compute in the type of the events that are made.
        t = np.empty(X.shape, np.float32 if self.columns.dtype == np.float32 else np.float64)
        level = np.empty(X.shape, np.min_scalar_type(-n_levels.max()))
        for rows in self.columns._blocks(len(X)):
            t[rows], level[rows] = self._read(X[rows])
        self.laws.fit(t, level, condition, sample_weight, n_levels=n_levels, dense=self.dense)
        return self

    def _read(self, X):
        """Numbers without bounds, and levels, both (n, n_columns), of events."""
        X = self.columns._as_fitted(X).astype(np.float64)
        t = self.columns.encode(X)[0][:, self.columns.first]
        level = np.zeros(X.shape, dtype=np.int64)
        for i, values in enumerate(self.values):
            known = np.flatnonzero(~np.isnan(values))
            if len(known):
                at = known[np.searchsorted(values[known], X[:, i]).clip(max=len(known) - 1)]
                other = self.dense[i] if self.dense[i] >= 0 else at
                level[:, i] = np.where(values[at] == X[:, i], at, other)
        return np.where(level == self.dense, t, 0.0), level

    def _each_block(self, function, condition, *arrays):
        """Apply a function of tensors to blocks of one length.

        Yields slices of the rows, and what the function returns of them as arrays.
        """
        n, step = len(condition), max(1, _BLOCK_NUMBERS // self.n_variables)
        like = next(self.laws.module_.parameters())
        for start in range(0, n, step):
            # The last block is filled up with copies of a row.
            rows = np.arange(start, start + step).clip(max=n - 1)
            block = [torch.as_tensor(array[rows], device=like.device) for array in arrays]
            given = torch.as_tensor(condition[rows], device=like.device).to(like.dtype)
            with torch.no_grad():
                made = function(
                    *(part.to(like.dtype) if part.is_floating_point() else part for part in block),
                    given,
                )
            end = min(start + step, n)
            yield slice(start, end), [part[: end - start].cpu().numpy() for part in made]

    def encode(self, X, dtype=np.float64, condition=None):
        """Variables of events, and what is known of those that are drawn: see `Columns`.

        `condition` has the shape (n, width).
        """
        z = np.zeros(X.shape, dtype)
        low, high = np.zeros((2, len(X), len(self.random)), dtype)
        laws = self.laws.module_[1]

        def encode(t, level, given):
            normal = laws.to_normal(t, level, torch.full_like(t, 0.5), given)
            below, share, _ = laws.parts(level, given, t)
            single = level != laws.dense
            ends = (torch.where(single, end, 0)[:, self.random] for end in (below, below + share))
            return normal, *ends

        for rows in self.columns._blocks(len(X)):
            result = z[rows], low[rows], high[rows]
            t, level = self._read(X[rows])
            for within, made in self._each_block(encode, condition[rows], t, level):
                for array, part in zip(result, made, strict=True):
                    array[within] = part
            self._part_unseen(X[rows], level, *result[1:])
        return z, low, high

    def _part_unseen(self, X, level, low, high):
        """Give values that the fit did not see the part of half an event where they belong."""
        X = self.columns._as_fitted(X)
        for k, i in enumerate(self.random):
            if self.dense[i] >= 0:
                continue
            # The first level above the value, or the last of all.
            nearest = self.values[i][level[:, i]]
            new = X[:, i] != nearest
            width = self.columns.levels[i].unseen
            edge = np.where(X[:, i] > nearest, high[:, k], low[:, k])[new]
            low[new, k] = (edge - width / 2).clip(0, 1 - width)
            high[new, k] = low[new, k] + width

    def log_det(self, X, condition):
        r"""Log of :math:`|dz/dx|` of the numbers that have a density, (n,)."""
        return self.columns.log_det(X) + self.log_slope(X, condition)

    def log_slope(self, X, condition):
        """What of `log_det` depends on the condition, (n,)."""
        result = np.zeros(len(X))
        laws = self.laws.module_[1]

        def log_slope(t, level, given):
            z = laws.to_normal(t, level, torch.full_like(t, 0.5), given)
            slope = laws.log_prob(t, level, given) + (z**2 + np.log(2 * np.pi)) / 2
            return (torch.where(level == laws.dense, slope, 0).double().sum(1),)

        for rows in self.columns._blocks(len(X)):
            read = self._read(X[rows])
            for within, made in self._each_block(log_slope, condition[rows], *read):
                (result[rows][within],) = made
        return result

    def decode(self, z, condition):
        """Events (n, n_columns) of variables (n, n_variables)."""
        t, level = np.empty(z.shape), np.empty(z.shape, dtype=np.int64)
        laws = self.laws.module_[1]
        for rows, made in self._each_block(laws.from_normal, condition, np.asarray(z)):
            t[rows], level[rows] = made
        columns = self.columns
        X = columns._range.bounded(columns.shift + columns.scale * t)
        X = np.clip(X, *columns._ends)
        for i, values in enumerate(self.values):
            at = values[level[:, i]]
            X[:, i] = np.where(np.isnan(at), X[:, i], at)
        return X


class Laws(TorchEstimator):
    """The training of the laws of columns, by their likelihood."""

    def __init__(self, *, max_epochs=10, learning_rate=0.002, schedule="cosine", **shared):
        super().__init__(
            max_epochs=max_epochs,
            learning_rate=learning_rate,
            schedule=schedule,
            standardize=False,
            **shared,
        )

    def fit(self, t, level, condition, sample_weight, *, n_levels, dense):
        """Fit to numbers and levels (n, n_columns), given conditions (n, width)."""
        self.input_shape_ = (t.shape[1],)
        weight = np.ones(len(t)) if sample_weight is None else sample_weight
        shares = [np.bincount(column, weight, n_levels.max()) for column in level.T]
        self._laws = n_levels, dense, condition.shape[1], np.stack(shares, 1) / weight.sum()
        self._largest_product = 64 * t.shape[1] * 25
        columns = {"level": level, "condition": condition}
        self._fit_events(t, columns, sample_weight=sample_weight, reset=True)
        return self

    def _build(self):
        *sizes, shares = self._laws
        module = ConditionalMarginals(*sizes)
        module.start_from(shares)
        return module

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _loss(self, module, batch):
        return -module.log_prob(batch.X, batch.level.long(), batch.condition).sum(1)
