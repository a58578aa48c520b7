r"""Weights that count events: what estimators do with them to the last bit.

A weight is a multiplicity: weight 0 is no event, weight 2 is the event twice. To keep this to the
last bit, an event of weight zero is left out before anything is fitted, and identical events become
one row with the sum of their weights. Otherwise such events would still enter the bins or the
landmarks as separate rows.

Where events are held out or drawn, a row must not be mistaken for one event. Two cases look alike,
and need the opposite:

* a row is *one event* of some weight, or its copies, which over-samplers make. It must stay whole:
  a machine that has seen a copy is no judge of the event;
* a row is *a value that many events share*, as counts, flags and bins are. It must be divided: a
  machine that has never seen this label at this :math:`x`, but has seen the others, is no judge of
  it either.

Copies of one event have one label. So where one :math:`x` comes with several :math:`y`, its rows
are values that events share, and each counts as :math:`\lceil w\rceil` pieces that are dealt one by
one; any other row is one piece, unless the table is one of values, whose rows are all divided:

* Where most :math:`x` come more than once, a value that many events share has other labels as well,
  somewhere, even where classes hardly overlap. So it is a table of values if the rows of several
  pieces at shared :math:`x` have more than a twentieth of the weight of all such rows.
* Where most :math:`x` come once, different events meet at one :math:`x` by chance, the more often
  the more there are and the more their numbers are rounded. Of the pairs of pieces at one
  :math:`x`, let S have one label and D two. Chance knows no labels: it makes
  :math:`D\,Q_S/Q_D` of the S, where :math:`Q_S` and :math:`Q_D` are all such pairs of the table.
  Copies add to S. So it is a table of values if chance makes at least half of the S.

Of rounded and over-sampled events, copies that meet another label are divided, and the others stay
whole. Where numbers are so coarse that chance makes most of the S, or that most :math:`x` come more
than once, all copies are divided, and what is drawn of them scatters too little. Where that
matters, round less, or lower the weights of the others instead: no weight of at most 1 is divided.
"""

import numpy as np
from sklearn.utils import check_consistent_length

from sknuc.base import validate_events, validate_weights

__all__ = [
    "count_pieces",
    "deal_folds",
    "group_identical",
    "hold_out",
    "merge_identical",
    "mix_bits",
    "net_weights",
    "row_hash",
    "row_uniforms",
    "training_events",
]

# Where most x come more than once: the share of shared values from which on all are values.
_SHARE_OF_VALUES = 0.05
# Beyond this total, pieces are made larger, so that no weight can make too many.
MOST_PIECES = 2**20


def training_events(estimator, X, y, sample_weight, *, targets, allow_negative=False, **check):
    """Validate X, y and weights, and leave out the events of weight zero.

    Parameters
    ----------
    estimator : estimator instance
    X : array-like of shape (n_events, ...)
    y : array-like of shape (n_events,) or (n_events, n_targets)
    sample_weight : array-like of shape (n_events,) or None
    targets : callable
        Turns `y` into an array, `base.validate_labels` or `base.validate_targets`.
    allow_negative : bool, default=False
        Whether negative weights are allowed.
    **check : dict
        Passed on to :func:`sklearn.utils.check_array` for `X`.

    Returns
    -------
    X, y, sample_weight : ndarray, ndarray, ndarray or None
    """
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    X = validate_events(estimator, X, reset=True, **check)
    y = targets(y)
    check_consistent_length(X, y)
    weight = validate_weights(sample_weight, X, allow_negative=allow_negative)
    if weight is not None and not weight.all():
        kept = weight != 0
        X, y, weight = X[kept], y[kept], weight[kept]
    return X, y, weight


def net_weights(classes, codes, weight):
    """Return the sum of weights of every class, as floats, after a check that all are positive."""
    net = np.bincount(codes, weights=weight, minlength=len(classes)).astype(np.float64)
    if (net <= 0).any():
        raise ValueError(
            "The weights of every class, class_weight included, must have a positive sum. Got "
            + ", ".join(f"{s:g} for {c!r}" for c, s in zip(classes.tolist(), net, strict=True))
            + ". For a model without a class, leave its events out."
        )
    return net


def merge_identical(X, y, sample_weight):
    """Merge identical events, and bring events into an order of their own.

    The order follows from the values of an event alone, so that nothing that is fitted, split or
    drawn afterwards depends on the order in which events came. A missing value equals a missing
    value.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    y : ndarray of shape (n_events,) or (n_events, n_targets)
        Numbers.
    sample_weight : ndarray of shape (n_events,) or None

    Returns
    -------
    X, y, sample_weight : ndarray, ndarray, ndarray or None
        None stays None where no event appears twice.
    """
    order, copy = _sort_copies(X, y.reshape(len(y), -1))
    X, y = X.take(order, axis=0), y.take(order, axis=0)
    weight = None if sample_weight is None else sample_weight[order]
    if not copy.any():
        return X, y, weight
    row = np.cumsum(~copy) - 1
    weight = np.bincount(row, weights=weight).astype(np.float64)
    kept = weight != 0
    first = np.flatnonzero(~copy)[kept]
    return X[first], y[first], weight[kept]


def group_identical(X, y=None):
    """Find which events are identical.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_features)
    y : ndarray of shape (n_events, ...) or None
        What makes events different, too.

    Returns
    -------
    first : ndarray of int of shape (n_distinct,)
        A row of each distinct event, in an order that follows from their values alone.
    group : ndarray of int of shape (n_events,)
        Which distinct event each one is.
    """
    order, copy = _sort_copies(X, np.zeros((len(X), 1)) if y is None else y.reshape(len(y), -1))
    group = np.empty(len(X), dtype=np.intp)
    group[order] = np.cumsum(~copy) - 1
    return order[~copy], group


def _sort_copies(X, y):
    """Return an order of the rows of tables X and y, and which of them, so ordered, are copies."""
    key, second_key = row_hash(X), row_hash(y)
    # By X alone where that decides: what is drawn then does not depend on the unit of y.
    order = np.argsort(key)
    if (key[order[1:]] == key[order[:-1]]).any():
        order = np.lexsort((second_key, key))
    key = (key + np.uint64(31) * second_key)[order]
    copy = np.append(False, key[1:] == key[:-1])
    # Real data seldom has copies: only rows whose hashes agree are compared.
    second = np.flatnonzero(copy)
    for table in (X, y):
        copy[second] &= (_bits(table[order[second]]) == _bits(table[order[second - 1]])).all(axis=1)
    return order, copy


def count_pieces(X, weight, sample_weight, y=None):
    """Return into how many pieces every merged row may be divided, see the head of this file.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_features)
        The merged rows.
    weight : ndarray of shape (n_rows,) or None
        The weights of the merged rows.
    sample_weight : ndarray of shape (n_events,) or None
        The weights of events as they came. Where all are smaller than 1, a piece is as large as
        the largest.
    y : ndarray of shape (n_rows,) or (n_rows, n_targets), or None
        What comes at the same `X`; None if two events have the same as often as not.

    Returns
    -------
    pieces : ndarray of int of shape (n_rows,)
    """
    pieces = np.ones(len(X), dtype=np.intp)
    if weight is None:
        return pieces
    _, place, n_rows = np.unique(row_hash(X), return_inverse=True, return_counts=True)
    size = np.abs(weight)
    unit = 1.0 if sample_weight is None else min(1.0, np.abs(sample_weight).max())
    unit = max(unit, size.sum() / MOST_PIECES)
    # Sums of weights differ in their last bits from the integers that they mean.
    counts = np.maximum(np.ceil(size / unit - 1e-6), 1).astype(np.intp)
    shared, several = n_rows[place] > 1, counts > 1
    total = np.bincount(place, weights=counts)
    if 2 * np.sum(total > 1) < len(total):
        values = _meet_by_chance(counts, place, y)
    else:
        values = counts[shared & several].sum() > _SHARE_OF_VALUES * counts[several].sum()
    return counts if values else np.where(shared, counts, pieces)


def _meet_by_chance(counts, place, y):
    """Whether chance explains half of the pairs of pieces that have x and y in common."""
    alike = _pairs(counts).sum()
    different = _pairs(np.bincount(place, weights=counts)).sum() - alike
    if y is None:
        return 0 < alike <= 2 * different
    label = np.unique(row_hash(y.reshape(len(y), -1)), return_inverse=True)[1]
    all_alike = _pairs(np.bincount(label, weights=counts)).sum()
    all_different = _pairs(counts.sum()) - all_alike
    return 0 < alike * all_different <= 2 * different * all_alike


def _pairs(n):
    return n * (n - 1.0) / 2


def deal_folds(pieces, strata, n_folds, random_state):
    """Deal the pieces of rows to folds, every stratum in proportion.

    Parameters
    ----------
    pieces : ndarray of int of shape (n_rows,)
    strata : ndarray of int of shape (n_rows,)
        Each must have at least `n_folds` pieces for every fold to get one.
    n_folds : int
    random_state : RandomState instance

    Returns
    -------
    counts : ndarray of int of shape (n_folds, n_rows)
        How many pieces of each row are in each fold.
    """
    rows = _line(pieces, strata, random_state)
    fold = np.arange(len(rows)) % n_folds
    counts = np.bincount(fold * len(pieces) + rows, minlength=n_folds * len(pieces))
    return counts.reshape(n_folds, len(pieces))


def hold_out(pieces, strata, fraction, random_state):
    """Draw a fraction of the pieces of rows, in every stratum, and at least one.

    Parameters
    ----------
    pieces : ndarray of int of shape (n_rows,)
    strata : ndarray of int of shape (n_rows,)
    fraction : float in (0, 1)
    random_state : RandomState instance

    Returns
    -------
    count : ndarray of int of shape (n_rows,)
        How many pieces of each row are held out.
    """
    rows = _line(pieces, strata, random_state)
    period = np.minimum(1 / fraction, np.bincount(strata, weights=pieces))[strata[rows]]
    position = np.arange(len(rows)) + random_state.uniform() * period
    taken = (position + 1) // period > position // period
    return np.bincount(rows[taken], minlength=len(pieces))


def _line(pieces, strata, random_state):
    """Lay all pieces in a line, strata apart, shuffled; return the row of each.

    Pieces of one row are shuffled like those of different rows: dealt evenly, an event would be
    judged by machines that have seen its like more often than chance has it.
    """
    rows = np.repeat(np.arange(len(pieces)), pieces)
    return rows[np.lexsort((random_state.permutation(len(rows)), strata[rows]))]


def _bits(table):
    """Return the bits of numbers, equal where the numbers are: one zero, and one missing value."""
    # Adding zero turns -0.0 into 0.0, which equals it and has other bits.
    table = np.ascontiguousarray(table + 0)
    if table.dtype.kind == "f":
        table[np.isnan(table)] = np.nan
    return table.view(f"u{table.dtype.itemsize}")


def row_hash(table):
    """Return a 64-bit hash of every row; equal rows have equal hashes."""
    factors = np.random.default_rng(0).integers(2**63, size=table.shape[1], dtype=np.uint64) | 1
    block = max(1, 2**20 // table.shape[1])

    def hashed(rows):
        bits = _bits(rows).astype(np.uint64)
        if table.dtype.itemsize == 8:
            # The low bits of small integers are zero as floats, and would be so in the products.
            bits ^= bits >> np.uint64(32)
        return bits @ factors

    return np.concatenate([hashed(table[i : i + block]) for i in range(0, len(table), block)])


def mix_bits(numbers):
    """Return uint64 numbers of which every bit depends on all bits, the finaliser of SplitMix64.

    G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
    2014.
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def row_uniforms(table, n):
    """Return numbers in (0, 1), of shape (n_rows, n), that look random and belong to the rows.

    An event twice has the same numbers, and so counts as one of weight 2.
    """
    step = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    key = mix_bits(row_hash(table)[:, None] + step)
    return ((key >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
