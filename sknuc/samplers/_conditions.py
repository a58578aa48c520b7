"""What events depend on: classes or numbers, as a network reads them."""

import warnings

import numpy as np

from sknuc.base import (
    center_and_scale,
    check_labels,
    levels_to_user,
    validate_labels,
    validate_targets,
)

__all__ = ["Conditions"]

# Continuous conditions that an average takes, at most.
_NODES = 64
# A new condition of the same law lies a little beyond those of a fit: within this share of them.
_TOLERANCE = 0.05


class Conditions:
    """Conditions of events, as one-hot classes or standardised numbers.

    Parameters
    ----------
    kind : {"auto", "classes", "continuous"}
        "auto": numbers of a floating-point type are continuous, everything else is classes. Lists
        and arrays of objects are what their values are.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,) or None
        The labels, None for numbers.
    width : int
        Numbers per condition.
    """

    def __init__(self, kind):
        self.kind = kind

    def fit(self, y, sample_weight=None):
        """Look at the conditions of the training.

        Parameters
        ----------
        y : array-like of shape (n,) or (n, n_conditions)
        sample_weight : ndarray of shape (n,) or None
            Positive.

        Returns
        -------
        self : Conditions
        """
        y = array = _of_one_type(y)
        continuous = self.kind == "continuous" or (self.kind == "auto" and array.dtype.kind == "f")
        weight = np.ones(len(array)) if sample_weight is None else sample_weight
        self.classes = None
        if continuous:
            y = validate_targets(_as_numbers(y))
            self.ndim = y.ndim
            y = y.reshape(len(y), -1)
            self.mean, self.scale = center_and_scale(y, weight)
            self.low, self.high = y.min(0), y.max(0)
            self.width = y.shape[1]
            self.known = self._scaled(y)
            self.weight = weight
        else:
            if array.ndim > 1 and array.shape[1:] != (1,):
                raise ValueError(
                    "y must be one column of shape (n_events,) where it holds labels, which "
                    f"integers are. Got the shape {array.shape}. For several numbers, give floats "
                    "or condition='continuous'; of several labels, make one for each combination."
                )
            y = validate_labels(y)
            self.ndim = 1
            self.classes, codes = np.unique(y, return_inverse=True)
            self.width = len(self.classes)
            self.known = np.eye(self.width)
            self.weight = np.bincount(codes, weight)
        return self

    def encode(self, y):
        """Conditions (n, width) of the fit for the network."""
        if self.classes is None:
            return self.known
        return np.eye(self.width)[np.searchsorted(self.classes, _of_one_type(y).ravel())]

    def draw(self, n_samples, rng):
        """Conditions (n_samples, width), drawn from those of the training."""
        edges = np.cumsum(self.weight)
        rows = np.searchsorted(edges, rng.uniform(size=n_samples) * edges[-1], side="right")
        return self.known[rows.clip(max=len(self.known) - 1)]

    def nodes(self):
        """Conditions that stand for those of the training.

        Returns
        -------
        nodes : ndarray of shape (k, width)
        weight : ndarray of shape (k,)
        exact : bool
            Whether these are all; else they are 64 quantiles (of several numbers, in the order of
            the first).
        """
        if self.classes is not None:
            return self.known, self.weight / self.weight.sum(), True
        nodes, place = np.unique(self.known, axis=0, return_inverse=True)
        weight = np.bincount(place.ravel(), self.weight)
        if len(nodes) <= _NODES:
            return nodes, weight / weight.sum(), True
        edges = np.cumsum(weight)
        rows = np.searchsorted(edges, (np.arange(_NODES) + 0.5) / _NODES * edges[-1])
        return nodes[rows], np.full(_NODES, 1 / _NODES), False

    def typical(self):
        """One condition (width,): the class that weighs most, or the numbers next to their mean."""
        if self.classes is not None:
            return self.known[self.weight.argmax()]
        return self.known[(self.known**2).sum(1).argmin()]

    def for_samples(self, y, n_samples):
        """Conditions (n_samples, width) of one value for all, or of one for each."""
        if self.classes is not None:
            return self._labels(_of_one_type(y), n_samples)
        given = _as_numbers(_of_one_type(y))
        each = given.reshape(-1, 1) if given.ndim == 1 and self.width == 1 else given
        try:
            each = np.broadcast_to(each, (n_samples, self.width))
        except ValueError:
            raise self._misfit(given.shape, n_samples) from None
        if not np.isfinite(each).all():
            raise ValueError("y holds NaN or infinite conditions.")
        return self._scaled(each)

    def warn_outside(self, conditions):
        """Warn of conditions (n, width), as the network reads them, that the fit did not see."""
        if self.classes is not None:
            return
        beyond = _TOLERANCE * (self.high - self.low)
        ends = self._scaled(self.low - beyond), self._scaled(self.high + beyond)
        outside = ((conditions < ends[0]) | (conditions > ends[1])).any(1)
        if outside.any():
            warnings.warn(
                f"{outside.sum()} of {len(outside)} conditions lie outside of the range of the "
                f"fit, from {self.low.tolist()} to {self.high.tolist()}: the model extrapolates "
                "there.",
                UserWarning,
                stacklevel=levels_to_user(),
            )

    def _labels(self, y, n_samples):
        if y.ndim > 2 or y.shape[1:] not in ((), (1,)) or y.size not in (1, n_samples):
            raise self._misfit(y.shape, n_samples)
        y = np.broadcast_to(y.ravel(), n_samples)
        check_labels(y, "y")
        unknown = ~np.isin(y, self.classes)
        if unknown.any():
            raise ValueError(
                f"y holds the classes {np.unique(y[unknown]).tolist()}, which were not among those "
                f"of the fit: {self.classes.tolist()}."
            )
        return np.eye(self.width)[np.searchsorted(self.classes, y)]

    def _misfit(self, shape, n_samples):
        one = "one number" if self.ndim == 1 and self.classes is None else "one label"
        if self.ndim == 2:
            one = f"one row of {self.width} numbers"
        return ValueError(
            f"y must hold {one} for all {n_samples} events, or one for each. Got the shape "
            f"{shape} instead."
        )

    def _scaled(self, y):
        return (y - self.mean) / self.scale


def _of_one_type(y):
    """Conditions as an array, of numbers where all are numbers."""
    try:
        array = np.array(y, dtype=object) if isinstance(y, list | tuple) else np.asarray(y)
        if array.dtype.kind != "O":
            return array
        values = np.array(array.tolist())
    except ValueError:
        raise ValueError(
            "y must hold conditions of the shape (n_events,) or (n_events, n_conditions). Got rows "
            "of different lengths."
        ) from None
    if values.dtype.kind in "biuf":
        return values
    if values.ndim == 1:
        # Before numpy makes strings of what stands beside them.
        check_labels(array, "y")
    return values if isinstance(y, list | tuple) else array


def _as_numbers(y):
    try:
        return np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            "y must hold numbers, since the conditions of this sampler are continuous. Got "
            f"{np.asarray(y, dtype=object).ravel()[:3].tolist()!r} ... For labels, fit with "
            "condition='classes'."
        ) from None
