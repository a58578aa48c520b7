r"""Values as parts of the normal distribution, and which values of a column are such parts.

The level :math:`x_k` of :math:`x_1 < x_2 < \dots` with probabilities p takes the part of the normal
distribution with quantiles from :math:`P_{k-1}` to :math:`P_k = p_1+\dots+p_k`. A value that no
event of the fit had lies between two levels, or beyond them all. It is never generated, but others
may have it: of n events, half a one is a fair guess at how often something comes that did not come
(Krichevsky and Trofimov). So it has the part of probability 1/2n around the place where it belongs.
"""

import warnings

import numpy as np
from scipy.special import ndtri

from sknuc.base import levels_to_user

__all__ = ["Levels", "find_atoms"]

# A value that so many events share, and significantly more than its neighbours, is no accident of
# a continuous distribution.
_ATOM_SHARE, _SIGNIFICANT = 0.01, 3.0
# Than neighbours it has to be by more, since each of a thousand samples of a pulse has dozens.
_STANDS_OUT = 5.0


class Levels:
    """Values that are parts of the normal distribution, in the order in which they come.

    Parameters
    ----------
    values : ndarray of shape (n_levels,)
        NaN stands for all other values.
    events : ndarray of shape (n_levels,)
        How many there are of each.
    closed : bool, default=False
        Whether there are no other values.
    """

    def __init__(self, values, events, *, closed=False):
        self.values = values
        self.closed = closed
        edges = np.append(0, np.cumsum(events))
        self.edges = edges / edges[-1]
        self.unseen = 0.5 / edges[-1]
        # From the upper end, where ones minus small numbers would lose their digits.
        self.inner = np.where(
            self.edges < 0.5,
            ndtri(self.edges),
            -ndtri(np.append(np.cumsum(events[::-1])[::-1], 0) / edges[-1]),
        )[1:-1]

    def is_atom(self, x):
        """Whether values (n,) are levels themselves."""
        return np.isin(x, self.values)

    def parts(self, x, name):
        """Lower and upper ends, (n,), of the parts of values (n,) of the column of that name."""
        others = np.flatnonzero(np.isnan(self.values))
        known = np.delete(np.arange(len(self.values)), others)
        at = np.searchsorted(self.values[known], x)
        place = known[at.clip(max=len(known) - 1)]
        new = self.values[place] != x
        if len(others):
            place = np.where(new, others[0], place)
            new = np.zeros_like(new)
        low, high = self.edges[place], self.edges[place + 1]
        if new.any():
            self._report(x[new][0], name)
            start = (self.edges[at] - self.unseen / 2).clip(0, 1 - self.unseen)
            low = np.where(new, start, low)
            high = np.where(new, start + self.unseen, high)
        return low, high

    def _report(self, value, name):
        seen = (
            f"X has the value {value:g} in column {name!r}, which in fit had "
            f"{_shown(self.values)} only"
        )
        if self.closed:
            raise ValueError(
                f"{seen}, and the 'discrete' parameter says that there are no others. Leave it out "
                "of 'discrete' if there are."
            )
        warnings.warn(
            f"{seen}: it has the probability of half an event. Give fit events with all values, or "
            "set atoms=None if these are measured numbers whose few values were taken for atoms.",
            UserWarning,
            stacklevel=levels_to_user(),
        )

    def values_at(self, z):
        """Values of normal deviates (n,)."""
        return self.values[np.searchsorted(self.inner, z, side="right")]


def find_atoms(values, events, *, integer):
    r"""Which values so many events share that they are more than points of a density.

    A density of integers has events at all of them. There, an atom stands out from what continues
    the counts :math:`c_k` of its neighbours smoothly: a cubic through the logarithms of four,

    .. math:: \ln c_0 = \frac{-\ln c_{-2} + 4\ln c_{-1} + 4\ln c_1 - \ln c_2}{6},

    which a normal distribution follows, however narrow; or, at an end, a line through the next two,
    which exponential ones follow. And it stands out from the larger of its neighbours, since counts
    may jump.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
        Ascending.
    events : ndarray of shape (n_values,)
        How many there are of each.
    integer : bool
        Whether the density is one of integers, which events share in any case.

    Returns
    -------
    atoms : ndarray of bool of shape (n_values,)
    """
    smooth = [(0.0, 0.0)]
    if integer:
        neighbours = _neighbours(values, events)
        larger = neighbours[1:3].max(0)
        smooth = [(larger, larger), _continued(neighbours)]
    atoms = np.ones(len(values), bool)
    for expected, variance in smooth:
        excess = events - expected
        atoms &= excess > _ATOM_SHARE * events.sum()
        atoms &= excess > (_STANDS_OUT if integer else _SIGNIFICANT) * np.sqrt(events + variance)
    return atoms


def _neighbours(values, events):
    """Numbers of events (4, n_values) of the values at -2, -1, 1, 2."""
    beyond = values + np.array([-2, -1, 1, 2])[:, None]
    at = np.searchsorted(values, beyond).clip(max=len(values) - 1)
    return np.where(values[at] == beyond, events[at], 0)


def _continued(neighbours):
    """What continues numbers at -2, -1, 1, 2 smoothly, (n_values,), and its variance."""
    end = (neighbours[1] == 0).astype(int) - (neighbours[2] == 0)
    share = np.array([[-1, 2, 0, 0], [-1 / 6, 2 / 3, 2 / 3, -1 / 6], [0, 0, 2, -1]])[end + 1].T
    # Half an event more, for the logarithm of none.
    neighbours = neighbours + 0.5
    expected = np.exp((share * np.log(neighbours)).sum(0))
    return expected, expected**2 * (share**2 / neighbours).sum(0)


def _shown(values):
    text = [f"{value:g}" for value in values[:10]]
    return ("the values " if len(text) > 1 else "the value ") + (
        ", ".join(text) + (" …" if len(values) > 10 else "")
    )
