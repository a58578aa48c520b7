r"""Collapse of a generator: events that are too alike, or that leave a part of the truth out.

A critic that has lost, or a generator that has run away, ends in few events that are made again and
again, and the losses do not tell. Two samples do, seen along the principal axes that carry nine
tenths of the variance of the true events, ten at most, in units of their standard deviations:

- the *spread* along each axis, as the ratio of generated to true standard deviation;
- the *coverage* [1]_: the share of true events that have a generated one no farther away than
  their own fifth neighbour. For equal samples of one distribution it is
  :math:`1 - 2^{-5} = 0.97`, whatever the distribution; without one of two equal modes, 0.48.

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
_N_NEIGHBORS = 5
_ROUNDING = 1e-5
# Far beyond what an imperfect generator does.
_LEAST_SPREAD, _LARGEST_SPREAD, _LEAST_COVERAGE = 0.1, 10.0, 0.5


def find_collapse(true, generated):
    """Compare generated events with true ones.

    Parameters
    ----------
    true, generated : ndarray of shape (n, n_variables)
        As many of each.

    Returns
    -------
    seen : str or None
        What is wrong, in words; None if nothing is, or there are fewer than 100 events.
    """
    n = len(true)
    if n < _FEWEST_JUDGED:
        return None
    if not np.isfinite(generated).all():
        return "some generated events are not finite"
    center = true.mean(0)
    _, scale, axes = np.linalg.svd((true - center) / np.sqrt(n), full_matrices=False)
    carried = np.cumsum(scale**2)
    n_axes = min(1 + np.searchsorted(carried, _VARIANCE * carried[-1]), _MOST_AXES)
    axes, scale = axes[:n_axes], np.where(scale[:n_axes] > 0, scale[:n_axes], 1.0)
    true, generated = ((events - center) @ axes.T / scale for events in (true, generated))
    spread = generated.std(0)
    if spread.min() < _LEAST_SPREAD:
        few = (spread < _LEAST_SPREAD).sum()
        return (
            f"along {few} of {n_axes} principal axes generated events vary by less than "
            f"{_LEAST_SPREAD:g} of what true ones do (the least is {spread.min():.2g})"
        )
    far = max(spread.max(), np.abs(generated.mean(0)).max())
    if far > _LARGEST_SPREAD:
        return f"generated events spread {far:.2g} times as far as true ones"
    among = np.partition(pairwise_distances(true), _N_NEIGHBORS, axis=1)[:, _N_NEIGHBORS]
    # Events that are equal, as empty ones are, differ by rounding errors.
    covered = np.mean(pairwise_distances(true, generated).min(1) <= among + _ROUNDING)
    if covered < _LEAST_COVERAGE:
        return (
            f"only {covered:.0%} of true events have a generated one among their neighbours, where "
            f"{1 - 2.0**-_N_NEIGHBORS:.0%} would"
        )
    return None
