"""Where a waveform starts and ends, how finely it is sampled and how high it is.

Networks compare samples at fixed places. These steps put the same physics in the same place:
align on a point of the rising edge, crop, average neighbouring samples, divide by the amplitude.
"""

from numbers import Real

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, OneToOneFeatureMixin
from sklearn.utils._param_validation import Interval, StrOptions

from sknuc.preprocessing._events import require_zero_baseline
from sknuc.preprocessing._kernels import align_rows, run_rows
from sknuc.preprocessing._waveforms import (
    _NON_NEGATIVE,
    _POSITIVE,
    _WaveformTransformer,
    output_dtype,
)

__all__ = ["WaveformAligner", "WaveformCropper", "WaveformNormalizer", "WaveformResampler"]


class _WindowTransformer(ClassNamePrefixFeaturesOutMixin, _WaveformTransformer):
    """A step that changes the number of samples."""

    @property
    def _n_features_out(self):
        return self.n_features_in_ // self.input_shape_[-1] * self.n_samples_out_


class WaveformAligner(_WindowTransformer):
    """Shift waveforms so that all cross a fraction of their maximum at the same sample.

    The time point is the last sample before the maximum at which the waveform comes from below
    ``level`` times its maximum: 0.5 is a robust mark of the rising edge, 0.999 the end of the
    charge collection. The baseline must be zero. Beyond the ends of the trace its first or last
    sample is repeated.

    Parameters
    ----------
    level : float, default=0.5
        Fraction of the maximum, in (0, 1].
    before : float, default=None
        Time kept before the time point, in ns. None keeps half of the waveform's length.
    after : float, default=None
        Time kept from the time point on, in ns. None keeps as many samples in all as the
        waveform has, or what is left of them after `before`.
    sampling_period : float, default=16.0
        Time between two samples, in ns.

    Attributes
    ----------
    before_samples_ : int
        Index of the time point in the result.
    n_samples_out_ : int
        Length of a waveform in the result.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If `before` or `after` is longer than the waveform, or nothing is left; if the waveforms
        stand on a pedestal (see :class:`BaselineSubtractor`), a fraction of which means nothing.

    References
    ----------
    The alignment at 99.9 % of the maximum is that of CPU-Net, K. Bhimani et al.,
    arXiv:2507.09106.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import WaveformAligner
    >>> X = np.array([[0.0, 0.0, 2.0, 4.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0, 1.0, 3.0]])
    >>> WaveformAligner(before=32.0, after=48.0).fit_transform(X)
    array([[0., 0., 2., 4., 4.],
           [0., 1., 3., 3., 3.]])
    """

    _parameter_constraints: dict = {
        **_WaveformTransformer._parameter_constraints,
        "level": [Interval(Real, 0, 1, closed="right")],
        "before": [_NON_NEGATIVE, None],
        "after": [_POSITIVE, None],
    }

    def __init__(self, *, level=0.5, before=None, after=None, sampling_period=16.0):
        self.level = level
        self.before = before
        self.after = after
        self.sampling_period = sampling_period

    def _fit_rows(self, rows):
        require_zero_baseline(self, rows)
        length = rows.shape[1]
        self.before_samples_ = self._samples("before", self.before, length, length // 2, 0)
        rest = max(length - self.before_samples_, 1)
        after = self._samples("after", self.after, length, rest)
        self.n_samples_out_ = self.before_samples_ + after

    def _transform_rows(self, rows):
        out = np.empty((len(rows), self.n_samples_out_), dtype=output_dtype(rows))
        run_rows(align_rows, rows, out, float(self.level), self.before_samples_)
        return out


class WaveformCropper(_WindowTransformer):
    """Keep the part of the waveforms between two times.

    Parameters
    ----------
    start : float, default=0.0
        First time kept, in ns from the first sample.
    stop : float, default=None
        Time of the first sample that is left out, in ns. None keeps the rest.
    sampling_period : float, default=16.0
        Time between two samples, in ns.

    Attributes
    ----------
    start_sample_ : int
        Index of the first sample kept.
    n_samples_out_ : int
        Length of a waveform in the result.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If the window does not lie inside the waveform.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import WaveformCropper
    >>> WaveformCropper(start=16.0, stop=64.0).fit_transform(np.arange(6.0)[np.newaxis])
    array([[1., 2., 3.]])
    """

    _parameter_constraints: dict = {
        **_WaveformTransformer._parameter_constraints,
        "start": [_NON_NEGATIVE],
        "stop": [_POSITIVE, None],
    }

    def __init__(self, *, start=0.0, stop=None, sampling_period=16.0):
        self.start = start
        self.stop = stop
        self.sampling_period = sampling_period

    def _fit_rows(self, rows):
        length = rows.shape[1]
        self.start_sample_ = self._samples("start", self.start, length - 1, minimum=0)
        first = self.start_sample_ + 1
        stop = self._samples("stop", self.stop, length, length, minimum=first)
        self.n_samples_out_ = stop - self.start_sample_

    def _transform_rows(self, rows):
        stop = self.start_sample_ + self.n_samples_out_
        return rows[:, self.start_sample_ : stop].astype(output_dtype(rows))


class WaveformResampler(_WindowTransformer):
    r"""Change the sampling period: average neighbours, or interpolate between them.

    A period :math:`m` times longer, with an integer :math:`m`, gives means of :math:`m`
    samples (a pre-sum), which keeps areas and lowers white noise by :math:`\sqrt m`. A shorter
    period interpolates linearly between the samples; it makes no sample later than the last one.

    Parameters
    ----------
    target_period : float, default=16.0
        Time between two samples of the result, in ns.
    sampling_period : float, default=16.0
        Time between two samples of the waveforms, in ns.

    Attributes
    ----------
    n_average_ : int
        Number of samples in a mean.
    n_samples_out_ : int
        Length of a waveform in the result. Samples at the end that do not fill a mean of
        :math:`m` are left out.
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If a longer period is not an integer multiple of the sampling period, or no sample is
        left.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import WaveformResampler
    >>> X = np.array([[0.0, 2.0, 4.0, 8.0]])
    >>> WaveformResampler(target_period=32.0).fit_transform(X)
    array([[1., 6.]])
    >>> WaveformResampler(target_period=8.0).fit_transform(X)
    array([[0., 1., 2., 3., 4., 6., 8.]])
    """

    _parameter_constraints: dict = {
        **_WaveformTransformer._parameter_constraints,
        "target_period": [_POSITIVE],
    }

    def __init__(self, *, target_period=16.0, sampling_period=16.0):
        self.target_period = target_period
        self.sampling_period = sampling_period

    def _fit_rows(self, rows):
        length = rows.shape[1]
        ratio = self.target_period / self.sampling_period
        self.n_average_ = max(round(ratio), 1)
        if ratio > 1.0 and not np.isclose(ratio, self.n_average_, rtol=1e-9, atol=0.0):
            raise ValueError(
                "The 'target_period' parameter of WaveformResampler must be an integer multiple "
                f"of sampling_period={self.sampling_period:g} ns, or shorter than it. Got "
                f"{self.target_period!r} instead."
            )
        if ratio > length:
            raise ValueError(
                "The 'target_period' parameter of WaveformResampler must not be longer than the "
                f"waveform, {length * self.sampling_period:g} ns. Got {self.target_period!r} "
                "instead."
            )
        self.n_samples_out_ = length // self.n_average_
        if ratio < 1.0:
            # The last sample belongs to the result in spite of rounding.
            self.n_samples_out_ = int(np.floor((length - 1) / ratio * (1 + 1e-12))) + 1

    def _transform_rows(self, rows):
        dtype = output_dtype(rows)
        if self.target_period >= self.sampling_period:
            kept = rows[:, : self.n_samples_out_ * self.n_average_]
            blocks = kept.reshape(len(rows), self.n_samples_out_, self.n_average_)
            return blocks.mean(axis=2, dtype=np.float64).astype(dtype)
        position = np.arange(self.n_samples_out_) * (self.target_period / self.sampling_period)
        left = np.minimum(position.astype(np.intp), max(rows.shape[1] - 2, 0))
        right = np.minimum(left + 1, rows.shape[1] - 1)
        weight = np.minimum(position - left, 1.0).astype(dtype)
        rows = rows.astype(dtype, copy=False)
        return rows[:, left] * (1 - weight) + rows[:, right] * weight


class WaveformNormalizer(OneToOneFeatureMixin, _WaveformTransformer):
    """Divide each waveform by its own amplitude.

    Parameters
    ----------
    norm : {"max", "range", "tail"}, default="max"
        The amplitude: the maximum, the maximum less the minimum, or the mean of the last tenth
        of the waveform, which is less noisy for pole-zero-corrected waveforms. For "max" and
        "tail" the baseline must be zero; "range" leaves a baseline, divided by the amplitude.

    Attributes
    ----------
    input_shape_ : tuple of int
        Shape of one event.
    n_features_in_ : int
        Number of values per event.

    Raises
    ------
    ValueError
        If the waveforms stand on a pedestal (see :class:`BaselineSubtractor`), except with
        "range".

    Notes
    -----
    A waveform whose amplitude is zero or negative has no pulse that could be normalised; it is
    returned as it is, as :func:`sklearn.preprocessing.normalize` does with zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import WaveformNormalizer
    >>> WaveformNormalizer().fit_transform(np.array([[0.0, 1.0, 4.0], [0.0, 0.0, 0.0]]))
    array([[0.  , 0.25, 1.  ],
           [0.  , 0.  , 0.  ]])
    """

    _parameter_constraints: dict = {"norm": [StrOptions({"max", "range", "tail"})]}

    def __init__(self, *, norm="max"):
        self.norm = norm

    def _fit_rows(self, rows):
        if self.norm != "range":
            require_zero_baseline(self, rows)

    def _transform_rows(self, rows):
        dtype = output_dtype(rows)
        if self.norm == "tail":
            n_tail = max(rows.shape[1] // 10, 1)
            amplitude = rows[:, -n_tail:].mean(axis=1, dtype=np.float64)
        else:
            amplitude = rows.max(axis=1).astype(np.float64)
            if self.norm == "range":
                amplitude -= rows.min(axis=1)
        amplitude[amplitude <= 0.0] = 1.0
        return np.divide(rows, amplitude[:, np.newaxis], dtype=np.float64).astype(dtype)
