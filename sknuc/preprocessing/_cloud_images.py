"""Images and voxels of clouds: what a convolutional network reads of a time projection chamber."""

import warnings
from numbers import Integral

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.preprocessing._cloud_kernels import project_rows
from sknuc.preprocessing._kernels import run_rows
from sknuc.preprocessing._ragged import charge_column, is_count, validate_clouds

__all__ = ["TPCProjector"]


class TPCProjector(TransformerMixin, BaseEstimator):
    r"""Project clouds of points onto planes, as the channels of an image, or fill voxels.

    The image of the plane (a, b) has the bins of coordinate a as rows and of b as columns; a
    pixel holds the charge, or the number, of the points in it.

    Parameters
    ----------
    bins : tuple of 2 or 3 int, default=(64, 64)
        Rows and columns of the images; three numbers make voxels of three coordinates.
    ranges : array-like of shape (n_coordinates, 2), default=None
        Lowest and highest value of each coordinate, both inside, in the units of X (mm). None
        learns them in `fit`: the extent of the points, outside of which later events may have some.
        Give the outer edges of the detector's pads and time buckets, such as the ``ranges`` of
        :func:`sknuc.datasets.make_tpc_events`, and every event is kept whole.
    planes : sequence of tuple of int, default=None
        A channel each: the coordinates, counted without the charge, along its axes. None takes
        (x, y), (z, x) and (z, y) of three or more coordinates (x, y, z), and (x, y) of two; for
        voxels (x, y, z).
    charge : "auto", int or None, default="auto"
        The column of the charge. "auto" is the last column of points with four columns or more,
        and none otherwise. The other columns are the coordinates. Without a charge points weigh
        one.
    statistic : {"sum", "count", "max"}, default="sum"
        Of the charges in a pixel; "count" is the number of points.
    log : bool, default=False
        Return :math:`\ln(1 + v)` of each pixel's value v, as charges span orders of magnitude.
    outside : {"drop", "raise"}, default="drop"
        What becomes of points outside the ranges of the coordinates that any plane uses: they are
        left out of all planes (:meth:`count_outside` says how many, and a warning if it is more
        than half of them), or an error.
    input_shape : tuple of int, default=None
        How a row of a table is read: (P, F) for padded clouds. None reads it as one point.

    Attributes
    ----------
    charge_ : int or None
        The column of the charge.
    coordinates_ : list of int
        The columns of the coordinates.
    planes_ : list of tuple of int
        The coordinates along the axes of each channel.
    ranges_ : ndarray of shape (n_coordinates, 2)
        Lowest and highest value of each coordinate.
    output_shape_ : tuple of int
        Shape of one image: (n_planes, *bins).
    input_shape_ : tuple of int
        Shape of one event in `fit`; later ones may have another number of points.
    n_features_in_ : int
        Number of values per event in `fit`.

    Raises
    ------
    ValueError
        If X has NaN or infinite values, points of another number of columns, or no points to learn
        the ranges from; if parameters do not fit the points or each other.

    References
    ----------
    M. P. Kuchera et al., "Machine learning methods for track classification in the AT-TPC", Nucl.
    Instrum. Meth. A 940 (2019) 156, arXiv:1810.10350.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import TPCProjector
    >>> X = np.array([[[0.0, 0.0, 10.0, 5.0], [1.0, 3.0, 20.0, 7.0]]])
    >>> projector = TPCProjector(bins=(2, 2)).fit(X)
    >>> projector.planes_
    [(0, 1), (2, 0), (2, 1)]
    >>> projector.transform(X)[0, 0]
    array([[5., 0.],
           [0., 7.]])
    """

    _parameter_constraints: dict = {
        "bins": ["array-like"],
        "ranges": ["array-like", None],
        "planes": ["array-like", None],
        "charge": [StrOptions({"auto"}), Integral, None],
        "statistic": [StrOptions({"sum", "count", "max"})],
        "log": ["boolean"],
        "outside": [StrOptions({"drop", "raise"})],
        "input_shape": ["array-like", None],
    }

    def __init__(
        self,
        *,
        bins=(64, 64),
        ranges=None,
        planes=None,
        charge="auto",
        statistic="sum",
        log=False,
        outside="drop",
        input_shape=None,
    ):
        self.bins = bins
        self.ranges = ranges
        self.planes = planes
        self.charge = charge
        self.statistic = statistic
        self.log = log
        self.outside = outside
        self.input_shape = input_shape

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the clouds and learn the ranges.

        Parameters
        ----------
        X : array-like of shape (n, P, F) or (n, n_features), or sequence of n arrays (P_i, F)
            Padded clouds, a table, or ragged clouds.
        y : None
            Ignored.

        Returns
        -------
        self : object

        Warns
        -----
        UserWarning
            If more than half of the points lie outside the ranges.
        """
        clouds, present = validate_clouds(self, X, reset=True, min_columns=2)
        self.charge_, self.coordinates_ = charge_column(self, clouds.shape[2])
        bins = self._check_bins()
        self.planes_ = self._check_planes(len(bins))
        self.ranges_ = self._check_ranges(clouds, present)
        with np.errstate(over="ignore"):
            if not np.isfinite(np.diff(self.ranges_)).all():
                raise ValueError(
                    f"The ranges of TPCProjector are too wide for floats: {self.ranges_.tolist()}."
                )
        self.output_shape_ = (len(self.planes_), *bins)
        if self.ranges is not None and self.outside == "drop":
            self._check_outside(clouds, present)
        return self

    def transform(self, X):
        """Make the images.

        Parameters
        ----------
        X : array-like of shape (n, P, F) or (n, n_features), or sequence of n arrays (P_i, F)
            Clouds with as many columns as in `fit`.

        Returns
        -------
        images : ndarray of shape (n, n_planes, H, W) or (n, n_planes, D, H, W)
            32-bit floats stay such; everything else gives 64-bit floats.

        Raises
        ------
        ValueError
            If points lie outside and ``outside="raise"``, or a pixel has no logarithm.

        Warns
        -----
        UserWarning
            If more than half of the points lie outside the ranges.
        """
        check_is_fitted(self)
        clouds, present = validate_clouds(self, X, reset=False, min_columns=2)
        self._check_outside(clouds, present)
        n_planes, *bins = self.output_shape_
        images = np.empty((len(clouds), n_planes, np.prod(bins)), dtype=clouds.dtype)
        strides = np.cumprod([1, *bins[:0:-1]])[::-1]
        planes = [
            [
                (self.coordinates_[k], size, stride)
                for k, size, stride in zip(plane, bins, strides, strict=True)
            ]
            for plane in self.planes_
        ]
        charge = -1 if self.charge_ is None else self.charge_
        statistic = ("sum", "count", "max").index(self.statistic)
        run_rows(project_rows, clouds, images, np.array(planes), self._limits(), charge, statistic)
        images = images.reshape(len(clouds), *self.output_shape_)
        if self.log:
            if images.min() <= -1:
                raise ValueError(
                    f"TPCProjector cannot take the logarithm of 1 + {images.min():g}: with "
                    "log=True pixels must be above -1. Use log=False, or charges without pedestal."
                )
            np.log1p(images, out=images)
        return images

    def count_outside(self, X):
        """Count the points of each event that lie outside the ranges.

        Parameters
        ----------
        X : array-like
            The clouds, as in `transform`.

        Returns
        -------
        n_outside : int ndarray of shape (n,)
        """
        check_is_fitted(self)
        return self._count_outside(*validate_clouds(self, X, reset=False, min_columns=2))

    def _count_outside(self, clouds, present):
        limits = self._limits()
        outside = np.zeros(present.shape, dtype=bool)
        # Column by column: an array of all comparisons costs as much as the images.
        for column in np.flatnonzero(np.isfinite(limits).all(axis=1)):
            low, high = limits[column]
            outside |= (clouds[..., column] < low) | (clouds[..., column] > high)
        return np.count_nonzero(present & outside, axis=1)

    def _check_outside(self, clouds, present):
        n_outside = self._count_outside(clouds, present)
        if self.outside == "raise" and n_outside.any():
            raise ValueError(
                f"{n_outside.sum()} points of {np.count_nonzero(n_outside)} events lie outside "
                "the 'ranges' of TPCProjector. Widen them, or use outside='drop'."
            )
        if 2 * n_outside.sum() > np.count_nonzero(present):
            warnings.warn(
                f"{n_outside.sum()} of {np.count_nonzero(present)} points lie outside the ranges "
                f"of TPCProjector, {self.ranges_.tolist()}, and are left out. See the 'ranges', in "
                "the units of X."
            )

    def _limits(self):
        """Limits of every column; infinite for the charge and for what no plane uses."""
        n_columns = self.input_shape_[-1]
        limits = np.tile([-np.inf, np.inf], (n_columns, 1))
        for k in {k for plane in self.planes_ for k in plane}:
            limits[self.coordinates_[k]] = self.ranges_[k]
        return limits

    def _check_bins(self):
        bins = tuple(self.bins)
        if len(bins) not in (2, 3) or not all(map(is_count, bins)):
            raise ValueError(
                "The 'bins' parameter of TPCProjector must be two positive integers for images or "
                f"three for voxels. Got {self.bins!r} instead."
            )
        return tuple(int(b) for b in bins)

    def _check_planes(self, n_axes):
        n = len(self.coordinates_)
        if n < n_axes:
            raise ValueError(
                f"The 'bins' parameter of TPCProjector has {n_axes} axes, but the points have "
                f"{n} coordinate(s) besides the charge (column {self.charge_})."
            )
        if self.planes is None:
            if n_axes == 3:
                return [(0, 1, 2)]
            return [(0, 1)] if n == 2 else [(0, 1), (2, 0), (2, 1)]
        planes = [tuple(np.atleast_1d(plane).tolist()) for plane in self.planes]
        if not planes or not all(
            len(set(plane)) == len(plane) == n_axes
            and all(type(k) is int and 0 <= k < n for k in plane)
            for plane in planes
        ):
            raise ValueError(
                f"The 'planes' parameter of TPCProjector must be tuples of {n_axes} different "
                f"coordinates, as many as 'bins', each from 0 to {n - 1}. Got {self.planes!r} "
                "instead."
            )
        return planes

    def _check_ranges(self, clouds, present):
        if self.ranges is None:
            points = clouds[present][:, self.coordinates_].astype(np.float64)
            if not len(points):
                raise ValueError(
                    "TPCProjector cannot learn the ranges: X has no points, only rows of zeros. "
                    "Give the 'ranges' parameter."
                )
            low, high = points.min(axis=0), points.max(axis=0)
            # As in numpy.histogram, a coordinate that does not vary is in the middle.
            half = np.where(low < high, 0.0, np.maximum(0.5, 1e-6 * np.abs(low)))
            return np.stack([low - half, high + half], axis=1)
        n = len(self.coordinates_)
        try:
            ranges = np.asarray(self.ranges, dtype=np.float64)
        except (TypeError, ValueError):
            ranges = np.empty(0)
        if (
            ranges.shape != (n, 2)
            or not np.isfinite(ranges).all()
            or not (ranges[:, 0] < ranges[:, 1]).all()
        ):
            raise ValueError(
                f"The 'ranges' parameter of TPCProjector must be {n} pairs (low, high) of finite "
                "numbers with low < high, one for each coordinate, or None. Got "
                f"{self.ranges!r} instead."
            )
        return ranges
