"""What all simulators share: parameters that are arrays or ranges, classes, random streams."""

import math

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["as_floats", "check_range", "draw_classes", "spawn_streams", "split_events"]


def as_floats(function, name, values):
    """Return an array-like as a new array of floats.

    Parameters
    ----------
    function, name : str
        Of the simulator and of its parameter, for the error.
    values : array-like

    Returns
    -------
    values : float64 ndarray

    Raises
    ------
    ValueError
        If they are no numbers.
    """
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"The {name!r} parameter of {function} must be an array of numbers. Got {values!r} "
            "instead."
        ) from None


def check_range(function, name, value, interval, *, strict=False, or_number=False):
    """Return the two ends of a range.

    Parameters
    ----------
    function, name : str
        Of the simulator and of its parameter, for the error.
    value : tuple
    interval : Interval
        scikit-learn's constraint that each end must satisfy.
    strict : bool, default=False
        Refuse a range whose ends are equal.
    or_number : bool, default=False
        Take a number as a range whose ends are equal.

    Returns
    -------
    low, high : float or int
    """
    ends = (value, value) if or_number and not isinstance(value, tuple) else value
    if (
        len(ends) != 2
        or not all(interval.is_satisfied_by(end) and not isinstance(end, bool) for end in ends)
        or ends[0] > ends[1]
        or (strict and ends[0] == ends[1])
    ):
        raise ValueError(
            f"The {name!r} parameter of {function} must be {'a number or ' if or_number else ''}"
            f"a range (low, high) with low {'<' if strict else '<='} high, each {interval}. Got "
            f"{value!r} instead."
        )
    return ends


def draw_classes(function, rng, n_samples, weights, names):
    """Draw the classes of events, in random order.

    Parameters
    ----------
    function : str
        Name of the simulator, for the error.
    rng : numpy.random.Generator
    n_samples : int
    weights : array-like of shape (n_classes,) or None
        Proportions of the classes; None for equal ones. The numbers of events are these
        proportions rounded, not drawn.
    names : sequence of str
        Of the classes.

    Returns
    -------
    target : int ndarray of shape (n_samples,)
    """
    n_classes = len(names)
    shares = np.ones(n_classes) if weights is None else as_floats(function, "weights", weights)
    if (
        shares.shape != (n_classes,)
        or not np.all(np.isfinite(shares) & (shares >= 0))
        or shares.sum() == 0
    ):
        raise ValueError(
            f"The 'weights' parameter of {function} must be {n_classes} finite numbers >= 0 that "
            f"are not all zero, for {', '.join(names)}. Got {weights!r} instead."
        )
    edges = np.rint(n_samples * np.cumsum(shares) / shares.sum()).astype(int)
    return rng.permutation(np.repeat(np.arange(n_classes), np.diff(edges, prepend=0)))


def spawn_streams(random_state, n_samples, block):
    """Random streams of a simulation, the same for any number of threads.

    Parameters
    ----------
    random_state : int, RandomState instance or None
    n_samples : int
    block : int
        Events per stream.

    Returns
    -------
    rng : numpy.random.Generator
        For what is drawn for all events at once.
    streams : list of numpy.random.Generator
        One for each block of events.
    """
    entropy = check_random_state(random_state).randint(2**32, size=4, dtype=np.uint32)
    seeds = np.random.SeedSequence(entropy.tolist()).spawn(1 + math.ceil(n_samples / block))
    streams = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds[1:]]
    return np.random.Generator(np.random.PCG64DXSM(seeds[0])), streams


def split_events(rows, counts):
    """Ragged events: an array of arrays, which masks and indices select from.

    Parameters
    ----------
    rows : ndarray of shape (sum(counts), n_columns)
        Of all events in order.
    counts : int ndarray of shape (n_samples,)
        Rows of each event.

    Returns
    -------
    events : object ndarray of shape (n_samples,)
        Views of shape (counts[i], n_columns) into `rows`, their ``base``.
    """
    events = np.split(rows, np.cumsum(counts)[:-1])
    return np.fromiter(events, dtype=object, count=len(events))
