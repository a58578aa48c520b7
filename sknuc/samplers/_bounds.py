r"""Numbers within bounds as numbers without, and back.

Above a bound a, :math:`t = \ln(x-a)`; below b, :math:`t = -\ln(b-x)`; between two,
:math:`t = \ln\frac{x-a}{b-x}`. A bound itself is at infinity.
"""

import numpy as np
from scipy.special import expit

__all__ = ["Bounds"]


class Bounds:
    """The bounds of columns.

    Parameters
    ----------
    low, high : ndarray of shape (n_columns,)
        Infinite where there is none.
    dtype : dtype, default=float64
        Of the events that are made, which differ from the bounds as numbers of this type.
    """

    def __init__(self, low, high, dtype=np.float64):
        self.low, self.high = low, high
        # A bound itself has no density; next to infinity is the largest number.
        with np.errstate(over="ignore"):
            self.inside = [
                np.nextafter(end.astype(dtype), dtype(inside)).astype(np.float64)
                for end, inside in ((low, np.inf), (high, -np.inf))
            ]
        one, other = np.isfinite(low), np.isfinite(high)
        self.above, self.below, self.between = (
            np.flatnonzero(where) for where in (one & ~other, other & ~one, one & other)
        )

    def unbounded(self, X):
        """Numbers t (n, n_columns) without bounds; infinite at one."""
        t = np.array(X, dtype=np.float64)
        with np.errstate(divide="ignore"):
            i = self.above
            t[:, i] = np.log(t[:, i] - self.low[i])
            i = self.below
            t[:, i] = -np.log(self.high[i] - t[:, i])
            i = self.between
            t[:, i] = np.log(t[:, i] - self.low[i]) - np.log(self.high[i] - t[:, i])
        return t

    def bounded(self, t):
        """Numbers X (n, n_columns) within the bounds, and at none of them."""
        X = np.array(t, dtype=np.float64)
        # What is far outside of all that was learnt ends next to the bound.
        with np.errstate(over="ignore"):
            i = self.above
            X[:, i] = self.low[i] + np.exp(X[:, i])
            i = self.below
            X[:, i] = self.high[i] - np.exp(-X[:, i])
        i = self.between
        X[:, i] = self.low[i] + (self.high[i] - self.low[i]) * expit(X[:, i])
        return np.clip(X, *self.inside)

    def log_slope(self, X):
        """Log of dt/dx (n, n_columns); minus infinity at a bound, where a density of t ends."""
        slope = np.zeros(X.shape)
        with np.errstate(divide="ignore"):
            i = self.above
            slope[:, i] = -np.log(X[:, i] - self.low[i])
            i = self.below
            slope[:, i] = -np.log(self.high[i] - X[:, i])
            i = self.between
            slope[:, i] = np.log(self.high[i] - self.low[i])
            slope[:, i] -= np.log(X[:, i] - self.low[i]) + np.log(self.high[i] - X[:, i])
        slope[np.isinf(slope)] = -np.inf
        return slope
