"""What the exact conditional distributions of simulators share: the checks of their arguments."""

from numbers import Integral

import numpy as np
from sklearn.utils import check_array, check_consistent_length, check_random_state

from sknuc.base import check_quantiles

__all__ = ["check_draws", "check_events", "check_levels"]


def check_events(method, n_features, n_targets, X, y=None):
    """Return inputs, and targets where there are any, as tables of float64.

    Parameters
    ----------
    method : str
        The method that is called, for the error.
    n_features, n_targets : int
        Columns that X and y must have; a single target may be one-dimensional.
    X : array-like of shape (n_events, n_features)
    y : array-like of shape (n_events,) or (n_events, n_targets), default=None

    Returns
    -------
    X : float64 ndarray of shape (n_events, n_features)
    y : float64 ndarray of shape (n_events, n_targets), when given

    Raises
    ------
    ValueError
        If they have other shapes, or values that are not finite.
    """
    X = check_array(X, dtype=np.float64, input_name="X")
    if X.shape[1] != n_features:
        raise ValueError(
            f"The 'X' parameter of {method} must have {n_features} columns. Got the shape "
            f"{X.shape} instead."
        )
    if y is None:
        return X
    y = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
    if y.ndim == 1 and n_targets == 1:
        y = y[:, None]
    if y.ndim != 2 or y.shape[1] != n_targets:
        raise ValueError(
            f"The 'y' parameter of {method} must have {n_targets} columns. Got the shape "
            f"{y.shape} instead."
        )
    check_consistent_length(X, y)
    return X, y


def check_levels(method, levels):
    """Return levels of quantiles, in (0, 1), as a 1-D array."""
    return check_quantiles(levels, f"'levels' parameter of {method}")


def check_draws(method, n_samples, rng):
    """Return the random state of `n_samples` draws per event, a positive integer."""
    if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
        raise ValueError(
            f"The 'n_samples' parameter of {method} must be an integer >= 1. Got {n_samples!r} "
            "instead."
        )
    return check_random_state(rng)
