r"""What measures of generated events accept, and the jackknife that tells their errors.

Two samples of events, of any shape and in general of different sizes, each with weights of its own.
Of these only the ratios within a sample matter, and a weight of 0 is the event absent.

What is a function of the weighted distributions takes a weight of 2 as the event twice: Wasserstein
distances, the distance of correlations, the overlap of histograms and the Fréchet distance before
its extrapolation. What asks how many events there are takes it as one event that counts twice, and
as many events as Kish has it, :math:`(\sum w)^2 / \sum w^2`, since twice the event is no more
knowledge than once: the area under a cross-fitted curve with its null interval, neighbours, and all
errors, ceilings and extrapolations.

The delete-a-group jackknife deals the events of both samples to G groups and leaves out one of them
at a time. From :math:`\theta` of all events and :math:`\theta_{(g)}` of those without group g

.. math::

    \hat\theta = G\theta - (G - 1)\bar\theta_{(\cdot)}, \qquad
    \sigma^2 = \frac{G - 1}{G} \sum_g (\theta_{(g)} - \bar\theta_{(\cdot)})^2 :

the first is free of the bias that falls as 1/n, the second is the variance.
"""

import math
from numbers import Integral

import numpy as np
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval

from sknuc.base import center_and_scale, validate_weights

__all__ = [
    "GROUPS",
    "TWO_SAMPLES",
    "check_two_samples",
    "column_names",
    "leave_out",
    "scale_of",
]

TWO_SAMPLES = {
    "X_true": ["array-like"],
    "X_generated": ["array-like"],
    "weight_true": ["array-like", None],
    "weight_generated": ["array-like", None],
}
GROUPS = {
    "n_groups": [Interval(Integral, 2, None, closed="left")],
    "random_state": ["random_state"],
}


def check_two_samples(X_true, X_generated, weight_true, weight_generated, *, min_events=2):
    """Validate two samples and leave out events of weight zero.

    Parameters
    ----------
    X_true, X_generated : array-like of shape (n_events, ...)
        Of two data frames columns must agree in name and order.
    weight_true, weight_generated : array-like of shape (n_events,) or None
    min_events : int, default=2
        Of each sample.

    Returns
    -------
    X_true, X_generated : float64 ndarray of shape (n_events, n_features)
    weight_true, weight_generated : ndarray of shape (n_events,)
    """
    names = column_names(X_true), column_names(X_generated)
    if None not in names and names[0] != names[1]:
        raise ValueError(
            "The 'X_generated' parameter must have the columns of X_true, in this order: "
            f"{names[0]!r:.200}. Got {names[1]!r:.200} instead; X_generated[X_true.columns] puts "
            "them in order."
        )
    true = _check_sample("true", X_true, weight_true, min_events)
    generated = _check_sample("generated", X_generated, weight_generated, min_events)
    if true[2] != generated[2]:
        raise ValueError(
            "The 'X_generated' parameter must hold events of the shape of those in X_true, "
            f"{true[2]}. Got events of shape {generated[2]} instead."
        )
    return true[0], generated[0], true[1], generated[1]


def _check_sample(which, X, weight, min_events):
    name = f"X_{which}"
    X = check_array(
        X,
        dtype=np.float64,
        allow_nd=True,
        ensure_2d=False,
        ensure_min_samples=0,
        ensure_min_features=0,
        input_name=name,
    )
    if X.ndim < 2:
        raise ValueError(
            f"The '{name}' parameter must have the shape (n_events, n_features) or more axes. Got "
            f"{X.shape} instead; reshape(-1, 1) makes a table of one feature."
        )
    shape = X.shape[1:]
    X = X.reshape(len(X), math.prod(shape))
    if X.shape[1] == 0:
        raise ValueError(f"The '{name}' parameter has no features: its shape is {X.shape}.")
    try:
        weight = validate_weights(weight, X)
    except ValueError as error:
        raise ValueError(f"The 'weight_{which}' parameter is not valid: {error}") from error
    weight = np.ones(len(X)) if weight is None else weight
    if not weight.all():
        X, weight = X[weight > 0], weight[weight > 0]
    if len(X) < min_events:
        raise ValueError(
            f"The '{name}' parameter must hold at least {min_events} events of positive weight. "
            f"Got {len(X)} instead."
        )
    return X, weight, shape


def column_names(X):
    """Names of the columns of a data frame, None for everything else."""
    columns = getattr(X, "columns", None)
    return None if columns is None else [str(name) for name in columns]


def scale_of(X_true, weight_true, standardize):
    """What features are divided by: the standard deviation of the true sample, or one.

    Features that are constant there are left as they are.
    """
    if not standardize:
        return np.ones(X_true.shape[1])
    return center_and_scale(X_true, weight_true)[1]


def leave_out(samples, n_groups, rng):
    """Masks of the events that remain when one group after the other is left out.

    Parameters
    ----------
    samples : sequence of ndarray of shape (n_events, n_features)
    n_groups : int
    rng : RandomState instance

    Yields
    ------
    kept : list of bool ndarray of shape (n_events,)
        For each sample.
    """
    for X in samples:
        if len(X) < 2 * n_groups:
            raise ValueError(
                "The 'n_groups' parameter must leave two events or more for every group, of either "
                f"sample. Got {n_groups} groups of {len(X)} events."
            )
    groups = [rng.permutation(len(X)) % n_groups for X in samples]
    for g in range(n_groups):
        yield [group != g for group in groups]
