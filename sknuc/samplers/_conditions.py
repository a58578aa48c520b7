"""What events depend on: classes or numbers, as a network reads them."""

import warnings

import numpy as np

from sknuc.base import center_and_scale, validate_labels, validate_targets

__all__ = ["Conditions"]

# Continuous conditions that an average takes, at most.
_NODES = 64


class Conditions:
    """Conditions of events, as one-hot classes or standardised numbers.

    Parameters
    ----------
    kind : {"auto", "classes", "continuous"}
        "auto": numbers of a floating-point type are continuous, everything else is classes.

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
        array = np.asarray(y)
        continuous = self.kind == "continuous" or (self.kind == "auto" and array.dtype.kind == "f")
        weight = np.ones(len(array)) if sample_weight is None else sample_weight
        self.classes = None
        if continuous:
            y = validate_targets(y)
            self.ndim = y.ndim
            y = y.reshape(len(y), -1)
            self.mean, self.scale = center_and_scale(y, weight)
            self.low, self.high = y.min(0), y.max(0)
            self.width = y.shape[1]
            self.known = self._scaled(y)
            self.weight = weight
        else:
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
        return np.eye(self.width)[np.searchsorted(self.classes, np.asarray(y).ravel())]

    def draw(self, n_samples, rng):
        """Conditions (n_samples, width), drawn from those of the training."""
        edges = np.cumsum(self.weight)
        rows = np.searchsorted(edges, rng.uniform(size=n_samples) * edges[-1], side="right")
        return self.known[rows.clip(max=len(self.known) - 1)]

    def nodes(self):
        """Conditions (k, width) that stand for those of the training, and their weights (k,)."""
        step = 1 if self.classes is not None else -(-len(self.known) // _NODES)
        weight = self.weight[::step]
        return self.known[::step], weight / weight.sum()

    def for_samples(self, y, n_samples):
        """Conditions (n_samples, width) of one value for all, or of one for each."""
        if self.classes is not None:
            return self._labels(np.asarray(y), n_samples)
        given = np.asarray(y, dtype=np.float64)
        each = given.reshape(-1, 1) if given.ndim == 1 and self.ndim == 1 else given
        try:
            each = np.broadcast_to(each, (n_samples, self.width))
        except ValueError:
            raise self._misfit(given.shape, n_samples) from None
        if not np.isfinite(each).all():
            raise ValueError("y holds NaN or infinite conditions.")
        outside = ((each < self.low) | (each > self.high)).any(1)
        if outside.any():
            warnings.warn(
                f"{outside.sum()} of {n_samples} conditions lie outside of the range of the fit, "
                f"from {self.low.tolist()} to {self.high.tolist()}: the model extrapolates there.",
                UserWarning,
                stacklevel=3,
            )
        return self._scaled(each)

    def _labels(self, y, n_samples):
        if y.ndim > 1 or y.size not in (1, n_samples):
            raise self._misfit(y.shape, n_samples)
        y = np.broadcast_to(y.ravel(), n_samples)
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
