r"""Collapse of a generator: events that are too alike, or that leave a part of the truth out.

A critic that has lost, or a generator that has run away, ends in few events that are made again and
again, and the losses do not tell. Two samples do, seen along the principal axes that carry nine
tenths of the variance of the true events, ten at most:

- the *spread* along each axis, as the ratio of the generated to the true range that holds the
  middle nine tenths of the events, which tells of heavy tails, too;
- the *coverage* [1]_, in units of these ranges: the share of true events that have a generated one
  no farther away than their own k-th neighbour. For equal samples of one distribution it is
  :math:`1 - 2^{-k}`, whatever the distribution, since each of the neighbours may as well be a
  generated one; where the generated density is r times the true one, about
  :math:`1 - (1 + r)^{-k}`. With k = 20 or more, events that are not covered are those around which
  there is hardly a tenth of what should be there: the modes that are lost. With k a twentieth of
  all events, "around" is as wide as a mode, whose details an imperfect generator may miss; what has
  fewer than k events is not seen to be lost.

References
----------
.. [1] M. F. Naeem, S. J. Oh, Y. Uh, Y. Choi and J. Yoo, "Reliable fidelity and diversity
   metrics for generative models", ICML (2020), arXiv:2002.09797.
"""

import numpy as np
from sklearn.metrics import pairwise_distances

__all__ = ["MOST_JUDGED", "find_collapse"]

# Events that tell enough, and fewer than which tell nothing.
MOST_JUDGED, _FEWEST_JUDGED = 1000, 100
_VARIANCE, _MOST_AXES = 0.9, 10
_LEAST_NEIGHBORS, _NEIGHBORS = 20, 0.05
_ROUNDING = 1e-5
_MIDDLE = (0.05, 0.95)
# Far beyond what an imperfect generator does; a tenth is less than one of eight equal modes.
_LEAST_SPREAD, _LARGEST_SPREAD, _MOST_LOST = 0.1, 10.0, 0.1


def find_collapse(true, generated):
    """Compare generated events with true ones.

    Parameters
    ----------
    true, generated : ndarray of shape (n, n_variables)
        As many of each.

    Returns
    -------
    seen : str or None
        What is wrong, in words; None if nothing is, or there are fewer than 100 events, or true
        ones do not vary.
    """
    n = len(true)
    if n < _FEWEST_JUDGED:
        return None
    if not np.isfinite(generated).all():
        return "some generated events are not finite"
    center = true.mean(0)
    _, scale, axes = np.linalg.svd((true - center) / np.sqrt(n), full_matrices=False)
    carried = np.cumsum(scale**2)
    if carried[-1] == 0:
        return None
    n_axes = min(1 + np.searchsorted(carried, _VARIANCE * carried[-1]), _MOST_AXES)
    true, generated = ((events - center) @ axes[:n_axes].T for events in (true, generated))
    one, other = (np.diff(np.quantile(x, _MIDDLE, axis=0), axis=0)[0] for x in (true, generated))
    # Of an axis along which most true events are equal, the range tells nothing.
    varied = one > _ROUNDING * scale[:n_axes]
    spread = other[varied] / one[varied]
    few = (spread < _LEAST_SPREAD).sum()
    if few:
        return (
            f"along {few} of {n_axes} principal axes generated events vary by less than "
            f"{_LEAST_SPREAD:g} of what true ones do (the least is {spread.min():.2g})"
        )
    far = spread.max(initial=0)
    if far > _LARGEST_SPREAD:
        return f"generated events spread {far:.2g} times as far as true ones"
    unit = np.where(varied, one, np.where(scale[:n_axes] > 0, scale[:n_axes], 1))
    true, generated = true / unit, generated / unit
    k = max(_LEAST_NEIGHBORS, round(_NEIGHBORS * n))
    among = np.partition(pairwise_distances(true), k, axis=1)[:, k]
    # Events that are equal, as empty ones are, differ by rounding errors.
    lost = np.mean(pairwise_distances(true, generated).min(1) > among + _ROUNDING)
    if lost > _MOST_LOST:
        return f"around {lost:.0%} of true events there are none or hardly any generated ones"
    return None
