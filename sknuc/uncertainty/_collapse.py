r"""Whether a posterior says nothing of the events although there is something to say.

The posterior of independent Gaussians that comes nearest to the true one may be the prior: with
many parameters and few events, each bit of precision costs more than the data give back
(over-pruning). All predictions are then the same. Nothing in the fit itself tells this from events
that mean nothing; least squares does, for what it finds in the same events is really there.

References
----------
B. Coker, W. Bruinsma, D. Burt, W. Pan, F. Doshi-Velez, "Wide mean-field Bayesian neural networks
ignore the data", AISTATS 2022, arXiv:2202.11670.
"""

import numpy as np
from scipy import stats

from sknuc.multiplicity import group_identical

__all__ = ["has_collapsed"]


def has_collapsed(X, y, predicted, weight=None):
    """Whether predictions explain next to nothing of what a linear model explains.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        The events that were learnt.
    y, predicted : ndarray of shape (n, k)
        Targets, or indicators of classes and their probabilities.
    weight : ndarray of shape (n,) or None

    Returns
    -------
    collapsed : bool
        Of the variance that least squares explain beyond chance, a tenth is not explained. False
        where there are too few events to tell.
    """
    # Copies of an event are one: they say nothing that it does not.
    first, group = group_identical(X, np.asarray(y, dtype=np.float64))
    weight = np.bincount(group, weights=weight)
    X, y, predicted = X[first], y[first], predicted[first]
    p = X.shape[1]
    # As many events of equal weight would tell as much (Kish).
    n = weight.sum() ** 2 / (weight**2).sum()
    if n < 4 * (p + 1):
        return False
    root = np.sqrt(weight / weight.mean())[:, None]
    centre = np.average(y, axis=0, weights=weight)
    rows, away = root * np.column_stack([np.ones(len(X)), X]), root * (y - centre)
    total = (away**2).sum()
    solution = np.linalg.lstsq(rows, away, rcond=1e-10)[0]
    left = ((away - rows @ solution) ** 2).sum()
    network = ((root * (y - predicted)) ** 2).sum()
    # Of noise alone, least squares explain a share that follows a beta distribution.
    chance = stats.beta(p / 2, (n - p - 1) / 2).isf(1e-4)
    linear = 1 - left / total if total > 0 else 0.0
    return bool(linear > chance and 1 - network / total < 0.1 * linear)
