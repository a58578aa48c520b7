"""Clouds of one size: every event has another number of points, and networks want as many of all.

Points are chosen from each event on its own: what becomes of it does not depend on the others in X.
"""

from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.preprocessing._cloud_kernels import farthest_rows
from sknuc.preprocessing._kernels import run_rows
from sknuc.preprocessing._ragged import charge_column, validate_clouds

__all__ = ["PointCloudSampler"]

# Events whose points are ordered at a time.
_BLOCK = 256


class PointCloudSampler(TransformerMixin, BaseEstimator):
    """Make all clouds of one size: choose among many points, fill up few.

    Points keep their order in the event. Events of no more than `n_points` points keep them all,
    followed by rows of zeros, or by their points again.

    Parameters
    ----------
    n_points : int, default=256
        Number of points of each event in the result.
    method : {"random", "farthest", "charge"}, default="random"
        Which points of larger events are chosen: each set of points with the same probability;
        one after the other the farthest from those already chosen, which covers the cloud evenly
        (coordinates should have the same unit), from the farthest from their mean on; or those of
        the highest charge.
    fill : {"zeros", "repeat"}, default="zeros"
        What follows the points of smaller events: padding, or the same points again from the
        first on, for networks without masks. Events without points are zeros in any case.
    charge : "auto", int or None, default="auto"
        The column of the charge. "auto" is the last column of points with four columns or more,
        and none otherwise.
    input_shape : tuple of int, default=None
        How a row of a table is read: (P, F) for padded clouds. None reads it as one point.
    random_state : int, RandomState instance or None, default=None
        Seed of the random choice, drawn once in `fit`. See Notes.

    Attributes
    ----------
    charge_ : int or None
        The column of the charge.
    coordinates_ : list of int
        The other columns.
    seed_ : int
        Seed of the random choice.
    input_shape_ : tuple of int
        Shape of one event in `fit`; later ones may have another number of points.
    n_features_in_ : int
        Number of values per event in `fit`.

    Raises
    ------
    ValueError
        If X has NaN or infinite values or points of another number of columns, or the points have
        no charge to choose by.

    Notes
    -----
    The random choice is a hash: each point gets a number made of `seed_`, its own values and those
    of all points of the event, and the lowest numbers win. So an event gives the same points
    alone, in any batch, with any padding, and in any order of its points; two events that share a
    point choose independently; another seed chooses anew.

    References
    ----------
    C. R. Qi et al., "PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric
    Space", NeurIPS 2017, arXiv:1706.02413, for farthest-point sampling.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import PointCloudSampler
    >>> X = [np.array([[0.0, 1], [3, 1], [1, 1], [9, 1]]), np.array([[5.0, 2]])]
    >>> sampler = PointCloudSampler(n_points=2, method="farthest", charge=1)
    >>> sampler.fit_transform(X).tolist()
    [[[0.0, 1.0], [9.0, 1.0]], [[5.0, 2.0], [0.0, 0.0]]]
    """

    _parameter_constraints: dict = {
        "n_points": [Interval(Integral, 1, None, closed="left")],
        "method": [StrOptions({"random", "farthest", "charge"})],
        "fill": [StrOptions({"zeros", "repeat"})],
        "charge": [StrOptions({"auto"}), Integral, None],
        "input_shape": ["array-like", None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        n_points=256,
        method="random",
        fill="zeros",
        charge="auto",
        input_shape=None,
        random_state=None,
    ):
        self.n_points = n_points
        self.method = method
        self.fill = fill
        self.charge = charge
        self.input_shape = input_shape
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the clouds and draw the seed.

        Parameters
        ----------
        X : array-like of shape (n, P, F) or (n, n_features), or sequence of n arrays (P_i, F)
            Padded clouds, a table, or ragged clouds.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        clouds, _ = validate_clouds(self, X, reset=True)
        self.charge_, self.coordinates_ = charge_column(self, clouds.shape[2])
        if self.method == "charge" and self.charge_ is None:
            raise ValueError(
                "The 'charge' parameter of PointCloudSampler must be a column for method='charge'; "
                f"'auto' finds none in points of {clouds.shape[2]} columns. Got {self.charge!r} "
                "instead."
            )
        if self.method == "farthest" and not self.coordinates_:
            raise ValueError(
                "PointCloudSampler with method='farthest' needs a column besides the charge."
            )
        self.seed_ = int(check_random_state(self.random_state).randint(2**32, dtype=np.uint32))
        return self

    def transform(self, X):
        """Choose points, and fill up.

        Parameters
        ----------
        X : array-like of shape (n, P, F) or (n, n_features), or sequence of n arrays (P_i, F)
            Clouds with as many columns as in `fit`.

        Returns
        -------
        X_new : ndarray of shape (n, n_points, F)
            32-bit floats stay such; everything else gives 64-bit floats.
        """
        check_is_fitted(self)
        clouds, present = validate_clouds(self, X, reset=False)
        chosen = present.copy()
        large = present.sum(axis=1) > self.n_points
        if large.any():
            chosen[large] = self._choose(clouds[large], present[large])
        out = np.zeros((len(clouds), self.n_points, clouds.shape[2]), dtype=clouds.dtype)
        counts = chosen.sum(axis=1)
        out[np.arange(self.n_points) < counts[:, None]] = clouds[chosen]
        if self.fill == "repeat":
            again = np.arange(self.n_points) % np.maximum(counts, 1)[:, None]
            out = np.take_along_axis(out, again[:, :, None], axis=1)
        return out

    def _choose(self, clouds, present):
        chosen = np.zeros(present.shape, dtype=bool)
        if self.method == "farthest":
            run_rows(farthest_rows, clouds, chosen, np.array([self.n_points, *self.coordinates_]))
            return chosen
        for start in range(0, len(clouds), _BLOCK):
            block = slice(start, start + _BLOCK)
            if self.method == "charge":
                keys = -clouds[block, :, self.charge_].astype(np.float64)
                keys[~present[block]] = np.inf
            else:
                keys = _hash_points(clouds[block], present[block], self.seed_)
            order = np.argsort(keys, axis=1, kind="stable")[:, : self.n_points]
            np.put_along_axis(chosen[block], order, True, axis=1)
        return chosen


def _hash_points(clouds, present, seed):
    """Return a number for each point that depends on the seed, the point and its event's set."""
    # Minus zero is zero, and 32-bit values hash as the same 64-bit ones.
    bits = np.ascontiguousarray(clouds, dtype=np.float64) + 0.0
    bits = bits.view(np.uint64)
    points = np.full(present.shape, seed, dtype=np.uint64)
    for column in range(bits.shape[2]):
        points = _mix(points + bits[:, :, column])
    events = _mix(np.where(present, points, 0).sum(axis=1, dtype=np.uint64, keepdims=True))
    keys = _mix(points ^ events) >> np.uint64(1)
    return np.where(present, keys, np.iinfo(np.uint64).max)


def _mix(values):
    """Scramble 64 bits: the output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
