r"""Waveform in, waveform out: the steps of a digital germanium signal chain.

A preamplifier turns the charge :math:`q(t)` into a step that decays with the time constant
:math:`\tau` of its feedback, on a baseline; an ADC samples it every :math:`\Delta t`. The steps
here undo that (:class:`BaselineSubtractor`, :class:`PoleZeroCorrector`), average noise away
(:class:`TrapezoidalFilter`).

All act along the last axis of events of any shape, ``(n, samples)`` or ``(n, channels, samples)``,
and return the table ``(n, channels * samples)``. 16-bit ADC samples and 32-bit floats give 32-bit
floats, everything else gives 64-bit floats. Times are in ns. Waveforms on disk (HDF5 datasets,
:class:`~sknuc.datasets.HDF5Rows`) are transformed block by block; what a step learns from them it
learns from evenly spaced rows of 64 MiB in all.
"""

from numbers import Real

import numpy as np
from sklearn.base import (
    BaseEstimator,
    OneToOneFeatureMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sknuc.preprocessing._events import (
    check_waveforms,
    is_on_disk,
    require_zero_baseline,
    transform_blocks,
)
from sknuc.preprocessing._kernels import (
    decay_rate_rows,
    inverse_pole_zero_rows,
    pole_zero_rows,
    run_rows,
    trapezoid_rows,
)

__all__ = [
    "BaselineSubtractor",
    "PoleZeroCorrector",
    "TrapezoidalFilter",
]

_POSITIVE = Interval(Real, 0, None, closed="neither")
_NON_NEGATIVE = Interval(Real, 0, None, closed="left")
# An interval that is closed at no upper bound contains infinity: no decay.
_POSITIVE_OR_INFINITE = Interval(Real, 0, None, closed="right")


def output_dtype(X):
    """32-bit floats hold 16-bit samples exactly; wider input keeps 64 bits."""
    return np.float64 if X.dtype == np.float64 else np.float32


def fit_time_constant(X, *, period, n_baseline, limits=(-np.inf, np.inf)):
    r"""Estimate the decay time constant of the tails of many waveforms.

    The pole-zero-corrected tail :math:`y_n = x_n + (1 - c) \sum_{k<n} x_k` is flat for
    :math:`c = e^{-\Delta t/\tau}`: each event gives the :math:`1 - c` that makes the
    least-squares slope of its tail vanish, which is exact for an exponential. The estimate is the
    median over events, weighted with their amplitudes, so that noise and piled-up events matter
    little.

    Parameters
    ----------
    X : ndarray of shape (n_events, n_samples)
        Waveforms.
    period : float
        Sampling period in ns.
    n_baseline : int
        Number of samples whose mean is subtracted; 0 for none.
    limits : tuple of float
        Lowest and highest ADC value; waveforms that reach them are left out.

    Returns
    -------
    time_constant : float
        In ns; infinite where no waveform has a tail that decays.
    """
    n_samples = X.shape[1]
    # The tail starts 2 µs after the maximum, later than any charge in a germanium detector.
    n_skip = min(int(np.ceil(2000.0 / period)), max(n_samples // 16, 1))
    n_min = max(n_samples // 8, 16)
    rates = np.empty((len(X), 2))
    run_rows(decay_rate_rows, X, rates, n_baseline, n_skip, n_min, *map(float, limits))
    gain, weight = rates[np.argsort(rates[:, 0], kind="stable")].T
    if not weight.any():
        return np.inf
    cumulative = np.cumsum(weight)
    gain = gain[np.searchsorted(cumulative, 0.5 * cumulative[-1])]
    if gain <= 0.0:
        return np.inf
    return -period / np.log1p(-gain) if gain < 1.0 else period


class _WaveformTransformer(TransformerMixin, BaseEstimator):
    """Validation and the last axis for all steps; a step computes on rows, one per waveform."""

    _parameter_constraints: dict = {"sampling_period": [_POSITIVE]}

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the waveforms and learn what the step learns from them.

        Parameters
        ----------
        X : array-like of shape (n_events, n_samples) or (n_events, n_channels, n_samples)
            Waveforms.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        X = check_waveforms(self, X, reset=True)
        rows = self._rows(X)
        self._fit_rows(rows)
        return self

    def transform(self, X):
        """Apply the step to waveforms.

        Parameters
        ----------
        X : array-like of shape (n_events, n_samples) or (n_events, n_channels, n_samples)
            Waveforms of the length seen in `fit`.

        Returns
        -------
        X_new : ndarray of shape (n_events, n_channels * n_samples_out)
        """
        check_is_fitted(self)
        if is_on_disk(X):
            return transform_blocks(self, X, self._transform)
        return self._transform(X)

    def _transform(self, X):
        X = check_waveforms(self, X, reset=False)
        return self._transform_rows(self._rows(X)).reshape(len(X), -1)

    def _rows(self, X):
        return X.reshape(-1, self.input_shape_[-1])

    def _fit_rows(self, rows):
        pass

    def _samples(self, name, time, maximum, default=None, minimum=1):
        """Convert a length in ns into samples and check that it fits into the waveform."""
        if time is None:
            return default
        samples = round(time / self.sampling_period)
        if not minimum <= samples <= maximum:
            raise ValueError(
                f"The '{name}' parameter of {type(self).__name__} must lie between "
                f"{minimum * self.sampling_period:g} and {maximum * self.sampling_period:g} ns "
                f"for waveforms of {self.input_shape_[-1]} samples, {self.sampling_period:g} ns "
                f"each. Got {time!r} instead."
            )
        return samples

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class BaselineSubtractor(OneToOneFeatureMixin, _WaveformTransformer):
    r"""Subtract the baseline, measured in the first samples of each waveform.

    Parameters
    ----------
    method : {"mean", "median", "linear"}, default="mean"
        What is subtracted: the mean or the median of the window, or the straight line fitted to
        it, extrapolated over the waveform. The median is robust against a small pulse in the
        window; the line follows a drift, at the price of noise that grows with the distance from
        the window.
    window : float, default=None
        Length of the window at the start of the waveform, in ns. None takes the first fifth of
        the waveform.
    sampling_period : float, default=16.0
        Time between two samples, in ns.

    Attributes
    ----------
    window_samples_ : int
        Length of the window in samples.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If the window is longer than the waveform.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import BaselineSubtractor
    >>> X = np.array([[100, 102, 101, 150, 149]], dtype=np.uint16)
    >>> BaselineSubtractor(window=48.0).fit_transform(X)
    array([[-1.,  1.,  0., 49., 48.]], dtype=float32)
    """

    _parameter_constraints: dict = {
        **_WaveformTransformer._parameter_constraints,
        "method": [StrOptions({"mean", "median", "linear"})],
        "window": [_POSITIVE, None],
    }

    def __init__(self, *, method="mean", window=None, sampling_period=16.0):
        self.method = method
        self.window = window
        self.sampling_period = sampling_period

    def _fit_rows(self, rows):
        length = rows.shape[1]
        minimum = min(2, length) if self.method == "linear" else 1
        default = max(length // 5, minimum)
        self.window_samples_ = self._samples("window", self.window, length, default, minimum)

    def _transform_rows(self, rows):
        window = rows[:, : self.window_samples_]
        if self.method == "median":
            baseline = np.median(window, axis=1)[:, np.newaxis]
        else:
            baseline = window.mean(axis=1, dtype=np.float64)[:, np.newaxis]
        out = np.empty(rows.shape, dtype=output_dtype(rows))
        np.subtract(rows, baseline, out=out, dtype=np.float64, casting="same_kind")
        if self.method == "linear" and self.window_samples_ > 1:
            t = np.arange(rows.shape[1]) - 0.5 * (self.window_samples_ - 1)
            inside = t[: self.window_samples_]
            slope = (out[:, : self.window_samples_] @ inside) / (inside @ inside)
            out -= np.multiply.outer(slope, t).astype(out.dtype, copy=False)
        return out


class PoleZeroCorrector(OneToOneFeatureMixin, _WaveformTransformer):
    r"""Turn the exponential decay of the preamplifier into a flat step.

    With :math:`c=e^{-\Delta t/\tau}` and a baseline of zero,

    .. math:: y_n = y_{n-1} + x_n - c\,x_{n-1} = x_n + (1 - c) \sum_{k<n} x_k ,

    summed in 64-bit floats. A second, faster component with the fraction :math:`f` and
    :math:`d=e^{-\Delta t/\tau_2}`, that is the decay :math:`(1-f)c^n + f d^n`, is removed by
    :math:`u_n = y_n - d\,y_{n-1} + [(1-f)d + fc]\,u_{n-1}`.

    Parameters
    ----------
    time_constant : float, default=None
        Time constant :math:`\tau` in ns; ``np.inf`` for no decay. None estimates it in `fit`: the
        amplitude-weighted median over events of the value that makes the tail of an event flat,
        exact for an exponential. Where no event has a decaying tail, it is infinite and nothing
        is corrected.
    second_time_constant : float, default=None
        Time constant :math:`\tau_2` of a second component, in ns; None for a single one.
    second_fraction : float, default=0.0
        Fraction :math:`f` of the second component, in [0, 1); positive with
        `second_time_constant`, zero without.
    sampling_period : float, default=16.0
        Time between two samples, in ns.

    Attributes
    ----------
    time_constant_ : float
        The time constant in ns that is used.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If the waveforms stand on a pedestal, which the sum would turn into a ramp; if only one of
        the parameters of the second component is given.

    See Also
    --------
    BaselineSubtractor : The baseline must be subtracted before.

    References
    ----------
    V. T. Jordanov and G. F. Knoll, "Digital synthesis of pulse shapes in real time for high
    resolution radiation spectroscopy", Nucl. Instrum. Meth. A 345 (1994) 337.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import PoleZeroCorrector
    >>> X = np.exp(-np.arange(1000) * 16.0 / 72_000.0)[np.newaxis]
    >>> y = PoleZeroCorrector(time_constant=72_000.0).fit_transform(X)
    >>> bool(np.ptp(y) < 1e-13)
    True
    >>> round(PoleZeroCorrector().fit(X).time_constant_)
    72000
    """

    _parameter_constraints: dict = {
        **_WaveformTransformer._parameter_constraints,
        "time_constant": [_POSITIVE_OR_INFINITE, None],
        "second_time_constant": [_POSITIVE, None],
        "second_fraction": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        *,
        time_constant=None,
        second_time_constant=None,
        second_fraction=0.0,
        sampling_period=16.0,
    ):
        self.time_constant = time_constant
        self.second_time_constant = second_time_constant
        self.second_fraction = second_fraction
        self.sampling_period = sampling_period

    def _fit_rows(self, rows):
        if (self.second_time_constant is None) != (self.second_fraction == 0.0):
            raise ValueError(
                "The 'second_time_constant' and 'second_fraction' parameters of PoleZeroCorrector "
                "describe a second decay together: give both, with a positive fraction, or leave "
                f"None and 0. Got {self.second_time_constant!r} and {self.second_fraction!r} "
                "instead."
            )
        require_zero_baseline(self, rows)
        self.time_constant_ = self.time_constant
        if self.time_constant is None:
            self.time_constant_ = fit_time_constant(rows, period=self.sampling_period, n_baseline=0)

    def _poles(self):
        # 1 - c from expm1: the difference would lose the digits that keep a step flat.
        rate = float(-np.expm1(-self.sampling_period / self.time_constant_))
        if self.second_time_constant is None:
            return rate, 0.0, 0.0
        second = float(np.exp(-self.sampling_period / self.second_time_constant))
        fraction = self.second_fraction
        return rate, second, float((1.0 - fraction) * second + fraction * (1.0 - rate))

    def _transform_rows(self, rows):
        out = np.empty(rows.shape, dtype=output_dtype(rows))
        run_rows(pole_zero_rows, rows, out, *self._poles())
        return out

    def inverse_transform(self, X):
        """Give steps their exponential decay back.

        Parameters
        ----------
        X : array-like of shape (n_events, n_samples) or (n_events, n_channels, n_samples)
            Pole-zero-corrected waveforms.

        Returns
        -------
        X_original : ndarray of shape (n_events, n_channels * n_samples)
        """
        check_is_fitted(self)
        if is_on_disk(X):
            return transform_blocks(self, X, self._inverse_transform)
        return self._inverse_transform(X)

    def _inverse_transform(self, X):
        X = check_waveforms(self, X, reset=False)
        rows = self._rows(X)
        out = np.empty(rows.shape, dtype=output_dtype(rows))
        run_rows(inverse_pole_zero_rows, rows, out, *self._poles())
        return out.reshape(len(X), -1)


class TrapezoidalFilter(OneToOneFeatureMixin, _WaveformTransformer):
    r"""Filter waveforms with a trapezoid: mean of the last samples less an earlier mean.

    With a rise of :math:`L` samples and a flat top of :math:`G` samples,

    .. math:: z_n = \frac{1}{L}\Bigl(\sum_{k=n-L+1}^{n} y_k - \sum_{k=n-2L-G+1}^{n-L-G} y_k\Bigr),

    so that a step of height :math:`E` has a top of height :math:`E`. White noise of standard
    deviation :math:`\sigma` becomes :math:`\sigma\sqrt{2/L}`. Before its first sample a waveform
    is taken as zero: subtract the baseline first.

    Parameters
    ----------
    rise_time : float, default=None
        Length of the rise and of the fall, in ns. None for 10 µs, or less where that does not
        fit into the waveform.
    flat_time : float, default=None
        Length of the flat top in ns, longer than the drift of the charge. None for 3.008 µs, or
        less where that does not fit.
    sampling_period : float, default=16.0
        Time between two samples, in ns.

    Attributes
    ----------
    rise_samples_, flat_samples_ : int
        The lengths in samples.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If twice the rise and the flat top do not fit into the waveform.

    References
    ----------
    V. T. Jordanov and G. F. Knoll, "Digital synthesis of pulse shapes in real time for high
    resolution radiation spectroscopy", Nucl. Instrum. Meth. A 345 (1994) 337.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import TrapezoidalFilter
    >>> X = np.repeat([[0.0, 8.0]], 6, axis=1)
    >>> TrapezoidalFilter(rise_time=32.0, flat_time=16.0).fit_transform(X)
    array([[0., 0., 0., 0., 0., 0., 4., 8., 8., 4., 0., 0.]])
    """

    _parameter_constraints: dict = {
        **_WaveformTransformer._parameter_constraints,
        "rise_time": [_POSITIVE, None],
        "flat_time": [_NON_NEGATIVE, None],
    }

    def __init__(self, *, rise_time=None, flat_time=None, sampling_period=16.0):
        self.rise_time = rise_time
        self.flat_time = flat_time
        self.sampling_period = sampling_period

    def _fit_rows(self, rows):
        length = rows.shape[1]
        flat = min(round(3008.0 / self.sampling_period), length // 4)
        self.flat_samples_ = self._samples("flat_time", self.flat_time, length, flat, 0)
        longest = (length - self.flat_samples_) // 2
        rise = max(min(round(10_000.0 / self.sampling_period), longest), 1)
        self.rise_samples_ = self._samples("rise_time", self.rise_time, longest, rise)

    def _transform_rows(self, rows):
        out = np.empty(rows.shape, dtype=output_dtype(rows))
        run_rows(trapezoid_rows, rows, out, self.rise_samples_, self.flat_samples_)
        return out
