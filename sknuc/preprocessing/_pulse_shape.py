r"""From the waveform of a germanium detector to the table of its pulse-shape quantities.

The current at the point contact is the charge times its velocity times the weighting field, and
that field is strong only close to the contact: each energy deposit, wherever it is, makes the same
short current pulse at the end of its drift. One deposit (a neutrinoless double-beta decay, a
double-escape peak) gives a maximal current *A* proportional to the energy *E*; several deposits
(a Compton-scattered gamma ray) share *E* among current pulses at different times, and A/E drops.
Charge that comes late betrays the transition layer at the outer contact (LQ), and charge released
slowly after an alpha particle on the passivated surface tilts the tail (DCR).
"""

from numbers import Real

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from sknuc.preprocessing._events import check_waveforms, is_on_disk, transform_blocks
from sknuc.preprocessing._kernels import rise_position_rows, run_rows
from sknuc.preprocessing._pulse_kernel import FEATURES, Lengths, pulse_shape_rows
from sknuc.preprocessing._waveforms import (
    _NON_NEGATIVE,
    _POSITIVE,
    _POSITIVE_OR_INFINITE,
    fit_time_constant,
)

__all__ = ["PulseShapeFeatures"]

# The LEGEND-200 settings in ns, for traces of 131 µs with 48 µs of baseline.
_DEFAULT_TIMES = {
    "baseline_window": 44_500.0,
    "rise_time": 10_000.0,
    "flat_time": 3_008.0,
    "t0_rise": 128.0,
    "t0_fall": 2_000.0,
    "current_window": 4_800.0,
    "drift_window": 4_000.0,
    "late_window": 1_500.0,
    "tail_delay": 8_192.0,
}
_CUSP_SIDE = 44_800.0
_DRIFT_FLAT = 96.0
_CURRENT_SMOOTHING = 48.0
_UPSAMPLING = 16
_ADC_RANGE = {np.dtype(np.uint16): (0.0, 65_520.0), np.dtype(np.int16): (-32_768.0, 32_767.0)}


def _n_taps(width):
    """Neighbouring currents that three moving averages of `width` fine samples join."""
    return (3 * width - 2 + _UPSAMPLING - 2) // _UPSAMPLING + 1


def _smoothing_phases(width):
    """Three moving averages of `width` fine samples, split into the phases of one sample.

    Row p holds the weights of neighbouring currents at the time p / _UPSAMPLING of a sample.
    """
    kernel = np.ones(1)
    for _ in range(3):
        # Differences of running sums, exact for whole numbers.
        total = np.cumsum(np.pad(kernel, (0, width - 1)))
        kernel = total.copy()
        kernel[width:] -= total[:-width]
    kernel /= kernel.sum()
    phases = np.zeros((_UPSAMPLING, _n_taps(width)))
    for p in range(_UPSAMPLING):
        np.add.at(phases[p], (np.arange(len(kernel)) + p) // _UPSAMPLING, kernel)
    return phases


def _cusp_weights(n_side, sigma):
    """Half of a cusp filter, sinh(k / sigma) from its end to the flat top, as weights of samples.

    The cusp is defined on the current, the derivative of the charge; its own derivative acts on
    the charge. The weights fall from the flat top outwards and sum to one.
    """
    k = np.arange(n_side, -1, -1.0) / sigma
    # sinh(k) / sinh(n_side / sigma), without overflow.
    cusp = np.exp(k - k[0]) * np.expm1(-2.0 * k) / np.expm1(-2.0 * k[0])
    return -np.diff(cusp)


class PulseShapeFeatures(TransformerMixin, BaseEstimator):
    r"""Energy, times, A/E, drift time, late charge and tail slope of germanium waveforms.

    Each waveform, a positive pulse on a baseline, is read once and turned into one row. The
    quantities and their default lengths
    are those of the LEGEND-200 signal processing [1]_ [2]_; y is the waveform after subtraction
    of the baseline and pole-zero correction,
    :math:`y_n = x_n + (1 - e^{-\Delta t/\tau}) \sum_{k<n} x_k`.

    =================== ========== ===============================================================
    column              unit       meaning
    =================== ========== ===============================================================
    ``energy``          ADC        trapezoid (`rise_time`, `flat_time`) at the fixed time
                                   t0 + rise + `pickoff` · flat (trapEftp)
    ``energy_max``      ADC        maximum of that trapezoid (trapEmax, trapTmax)
    ``energy_cusp``     ADC        cusp filter with the same flat top, at a fixed time (cuspEmax)
    ``t0``              ns         start of the pulse (tp_0_est)
    ``t50``             ns         time at which y reaches half of ``energy_max``
    ``rise_time``       ns         from 10 % to 90 % of ``energy_max``
    ``current``         ADC/sample maximal current A (A_max)
    ``a_over_e``        1/sample   ``current`` / ``energy``
    ``drift_time``      ns         effective drift time (dt_eff)
    ``late_charge``     ns         missing charge after 80 % of the rise, LQ, area / ``energy_max``
    ``tail_slope``      ADC/µs     slope of the tail of y (DCR)
    ``tail_noise``      ADC        standard deviation of the tail about that line
    ``baseline``        ADC        mean of the samples before the pulse
    ``baseline_slope``  ADC/µs     slope of them
    ``baseline_noise``  ADC        standard deviation of them
    ``saturated``       0 or 1     a sample lies at an end of the ADC's range, or the top is cut
    ``pileup``          0 or 1     a second pulse, before or after, or a falling baseline
    ``no_pulse``        0 or 1     nothing exceeds the noise
    ``truncated``       0 or 1     a filter does not fit between the pulse and an end of the trace
    =================== ========== ===============================================================

    Parameters
    ----------
    sampling_period : float, default=16.0
        Time between two samples, in ns.
    time_constant : float, default=None
        Decay time constant τ of the preamplifier in ns; ``np.inf`` for waveforms that are
        corrected already. None estimates it in `fit` from the tails of the waveforms, as
        :class:`PoleZeroCorrector` does. It belongs to one readout channel: fit one transformer
        per detector.
    baseline_window : float, default=None
        Length of the baseline at the start of the waveform, in ns (44.5 µs).
    rise_time, flat_time : float, default=None
        Rise and flat top of the energy filter, in ns (10 µs, 3.008 µs).
    pickoff : float, default=0.8
        Fraction of the flat top at which ``energy`` is read.
    cusp_sigma : float, default=5_000.0
        Curvature of the cusp filter in ns.
    t0_rise, t0_fall : float, default=None
        Front and rear window of the asymmetric filter that finds t0, in ns (128 ns, 2 µs).
    current_window : float, default=None
        Time after t0 in which the current is searched, in ns (4.8 µs: 301 samples).
    current_smoothing : float, default=None
        Length in ns of the moving average that smooths the current, three times (48 ns).
    drift_window : float, default=None
        Time after t0 within which all charge has arrived, in ns (4 µs).
    late_window : float, default=None
        Length of the two windows that define the late charge, in ns (1.5 µs).
    tail_delay : float, default=None
        Start of the tail after t0, in ns (8.192 µs).
    detection_threshold : float, default=6.0
        Height of a pulse in units of the noise of the t0 filter, above which it is one.
    adc_range : array-like of shape (2,), "auto" or None, default="auto"
        Lowest and highest ADC value; samples there are saturated. "auto" takes (0, 65520) for
        16-bit unsigned samples, where 65520 = 2¹⁶ − 16 is the highest code of FlashCam digitizers,
        (−32768, 32767) for signed ones, and none for floats. Whatever the range, a waveform
        with noise of half a step of its ADC or more is saturated too if its maximum or minimum is
        held for eight samples or more, twice as long as any value in its baseline.
    fill_value : float, default=np.nan
        What stands where a quantity is not defined.

    Attributes
    ----------
    time_constant_ : float
        The decay time constant in ns that is used.
    lengths_ : namedtuple of int
        All lengths in samples, but that of the smoothing.
    current_smoothing_ : float
        Length in ns of the moving average that is used.
    n_features_in_ : int
        Number of samples of a waveform.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the samples, for data frames.
    input_shape_ : tuple of int
        Shape of one event.

    Raises
    ------
    ValueError
        If a given length does not fit into the waveforms; if the events have several channels.

    See Also
    --------
    PoleZeroCorrector, TrapezoidalFilter : The steps as transformers of waveforms.

    Notes
    -----
    *What is undefined.* No row is dropped and no event raises. ``baseline``,
    ``baseline_slope``, ``baseline_noise``, ``energy_max`` and the flags are always numbers. All
    else is `fill_value` where ``no_pulse`` is 1 (empty, constant or noise-only traces); where
    ``truncated`` is 1, those quantities whose filter would reach beyond the trace are, and the
    ratios to an energy that is not positive. Saturated
    and piled-up events keep their values, which are then wrong by an unknown amount: cut on the
    flags. The default NaN cannot be mistaken for a measurement, and gradient-boosted trees read
    it as missing; before estimators that refuse NaN, give `fill_value` a number or use
    :class:`~sklearn.impute.SimpleImputer`.

    *Short waveforms.* The lengths left at None are LEGEND's where there is room for them, and
    shorter where there is not: `fit` learns from the training waveforms where the pulses lie and
    gives each filter a share of the time before and after. ``lengths_`` tells what was chosen.
    The flat top and the drift window give way last, for charge drifts about 1 µs. Lengths that
    are given are used as they are or refused.

    *t0* is found with the mean of the last 128 ns, weighted linearly towards the last sample,
    less the mean of 2 µs before: from its maximum back to the first crossing of the noise, which
    is the standard deviation of the samples in the last eighth of the baseline. LEGEND-200 takes
    the noise from a shorter trace around the pulse; clean events agree within one sample.

    *Current.* 300 differences of neighbouring samples from t0 on are held constant over 16
    sub-samples each and averaged three times over 48 ns (48 sub-samples of 1 ns at 16 ns). The
    three averages are one filter, evaluated at every sub-sample and centred between t0 and the
    end of the window; LEGEND's passes differ from it only at the ends. LEGEND-200 searches a longer
    trace around the pulse. That changes nothing where the current rises well above the noise; of
    a small and slow pulse it takes a maximum of the noise on the tail (in that 69 keV event 14 µs
    after t0 and 2.6 % above the current found here, which ``current_window=15_000`` reproduces).

    *Drift time* is :math:`Q/E_\mathrm{max}` with the area Q between y and its later mean over the
    `drift_window` after t0: the charge-weighted mean time of arrival. *Late charge* is the same
    area after y has reached 80 %, over `late_window`, divided by the energy. LEGEND's lq80 has
    another, unpublished normalisation.

    *Energies.* LEGEND optimises rise and flat top for each channel and filters pre-summed traces
    with that channel's calibrated τ, so that its energies differ from those with common settings:
    by some 0.1 % where the charge arrives within the flat tops, by per cent where it does not (a
    69 keV event with 2.1 µs from 10 % to 90 %: ``energy`` 2.4 %, ``energy_max`` 2.0 % and
    ``energy_cusp`` 1.3 % above trapEftp, trapEmax and cuspEmax; within 0.4 % of trapTmax, which
    has the settings used here). ``energy_cusp`` is read at a fixed time where LEGEND takes a
    maximum, which is biased upwards by noise.

    *Pile-up* is flagged where the t0 filter rises by more than `detection_threshold` times its
    noise within half of `t0_fall`, earlier than a quarter of the `drift_window` before t0 or later
    than the `drift_window` after it, and where the baseline falls over its window by more than
    ``baseline_noise`` and by more than `detection_threshold` times the error of that fall. Pulses
    that are closer are one event with several sites, and charge that is released slowly is none.
    In traces so short that the drift window in ``lengths_`` is shorter than the drift of the
    charge (below some 6 µs in all), charge that comes after it is taken for a second pulse.

    *Digitisation.* Where the noise is below about a third of an ADC count, samples hardly scatter
    and their scatter says nothing about the steps that a slow decay makes. No flag is raised for
    what one step of the ADC can do: the step is the smallest fall between neighbouring samples,
    and 1 at least for integers. Samples that were averaged or filtered after the ADC hide it.

    References
    ----------
    .. [1] dspeed, the signal processing of the LEGEND collaboration,
       https://github.com/legend-exp/dspeed
    .. [2] S. I. Alvis et al. (MAJORANA), "Multisite event discrimination for the MAJORANA
       DEMONSTRATOR", Phys. Rev. C 99 (2019) 065501, arXiv:1901.05388.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.preprocessing import PulseShapeFeatures
    >>> t = np.arange(4096) * 16.0
    >>> step = np.clip((t - 30_000.0) / 500.0, 0.0, 1.0) * np.exp(-t / 500_000.0)
    >>> X = 1000.0 + np.outer([500.0, 2000.0], step)
    >>> features = PulseShapeFeatures(time_constant=500_000.0).fit(X)
    >>> table = features.transform(X)
    >>> a_over_e = list(features.get_feature_names_out()).index("a_over_e")
    >>> bool(np.isclose(table[0, a_over_e], table[1, a_over_e]))
    True
    """

    _parameter_constraints: dict = {
        "sampling_period": [_POSITIVE],
        "time_constant": [_POSITIVE_OR_INFINITE, None],
        **{name: [_POSITIVE, None] for name in (*_DEFAULT_TIMES, "current_smoothing")},
        "flat_time": [_NON_NEGATIVE, None],
        "pickoff": [Interval(Real, 0, 1, closed="both")],
        "cusp_sigma": [_POSITIVE],
        "detection_threshold": [_POSITIVE],
        "adc_range": ["array-like", StrOptions({"auto"}), None],
        "fill_value": [Real],
    }

    def __init__(
        self,
        *,
        sampling_period=16.0,
        time_constant=None,
        baseline_window=None,
        rise_time=None,
        flat_time=None,
        pickoff=0.8,
        cusp_sigma=5_000.0,
        t0_rise=None,
        t0_fall=None,
        current_window=None,
        current_smoothing=None,
        drift_window=None,
        late_window=None,
        tail_delay=None,
        detection_threshold=6.0,
        adc_range="auto",
        fill_value=np.nan,
    ):
        self.sampling_period = sampling_period
        self.time_constant = time_constant
        self.baseline_window = baseline_window
        self.rise_time = rise_time
        self.flat_time = flat_time
        self.pickoff = pickoff
        self.cusp_sigma = cusp_sigma
        self.t0_rise = t0_rise
        self.t0_fall = t0_fall
        self.current_window = current_window
        self.current_smoothing = current_smoothing
        self.drift_window = drift_window
        self.late_window = late_window
        self.tail_delay = tail_delay
        self.detection_threshold = detection_threshold
        self.adc_range = adc_range
        self.fill_value = fill_value

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the lengths that fit the waveforms and the decay time constant.

        Parameters
        ----------
        X : array-like of shape (n_events, n_samples) or (n_events, 1, n_samples)
            Waveforms: uint16, int16 and float32 are read as they are. Of waveforms on disk (HDF5
            datasets, :class:`~sknuc.datasets.HDF5Rows`) evenly spaced rows are read, 64 MiB in all.
        y : None
            Ignored.

        Returns
        -------
        self : object
        """
        X = check_waveforms(self, X, reset=True, min_samples=2)
        if self.input_shape_[-1] != X.shape[1]:
            raise ValueError(
                f"PulseShapeFeatures reads events of one channel, but X has events of shape "
                f"{self.input_shape_}. Give the channels one by one."
            )
        limits = self._limits(X.dtype)
        self._fit_lengths(X)
        self.time_constant_ = self.time_constant
        if self.time_constant is None:
            self.time_constant_ = fit_time_constant(
                X,
                period=self.sampling_period,
                n_baseline=self.lengths_.baseline,
                limits=limits,
            )
        return self

    def transform(self, X):
        """Compute the table of pulse-shape quantities.

        Parameters
        ----------
        X : array-like of shape (n_events, n_samples) or (n_events, 1, n_samples)
            Waveforms of the length seen in `fit`; on disk, they are read block by block.

        Returns
        -------
        table : ndarray of shape (n_events, 19)
            The columns that :meth:`get_feature_names_out` names; float32 for float32 waveforms,
            float64 otherwise.
        """
        check_is_fitted(self)
        if is_on_disk(X):
            return transform_blocks(self, X, self._transform)
        return self._transform(X)

    def _transform(self, X):
        X = check_waveforms(self, X, reset=False)
        table = np.empty((len(X), len(FEATURES)))
        gain = -np.expm1(-self.sampling_period / self.time_constant_)
        low, high = self._limits(X.dtype)
        scalars = (
            self.sampling_period,
            gain,
            low,
            high,
            1.0 if X.dtype.kind in "iu" else 0.0,
            self.detection_threshold,
            self.fill_value,
        )
        run_rows(
            pulse_shape_rows,
            X,
            table,
            self.lengths_,
            self._phases,
            self._cusp,
            tuple(float(s) for s in scalars),
        )
        return table.astype(np.float32) if X.dtype == np.float32 else table

    def get_feature_names_out(self, input_features=None):
        """Names of the columns, with the units in the table above.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Checked against the names seen in `fit`.

        Returns
        -------
        feature_names_out : ndarray of str objects
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        return np.array(FEATURES, dtype=object)

    def _limits(self, dtype):
        if self.adc_range is None:
            return -np.inf, np.inf
        if isinstance(self.adc_range, str):
            return _ADC_RANGE.get(dtype, (-np.inf, np.inf))
        try:
            low, high = (float(limit) for limit in self.adc_range)
        except (TypeError, ValueError):
            low = high = np.nan
        if not low < high:
            raise ValueError(
                "The 'adc_range' parameter of PulseShapeFeatures must be a pair (lowest, highest) "
                f"of ADC values, 'auto' or None. Got {self.adc_range!r} instead."
            )
        return low, high

    def _fit_lengths(self, X):
        n_samples = X.shape[1]
        period = self.sampling_period
        position = np.empty(len(X), dtype=np.int64)
        run_rows(rise_position_rows, X, position, max(n_samples // 64, 1))
        rise = float(np.median(position)) * period
        duration = n_samples * period
        # 8 %, or 1.5 µs, for the spread of the pulses and for the drift of the charge.
        before = max(min(0.92 * rise, rise - 1500.0), 0.5 * rise)
        after = max(min(0.92 * (duration - rise), duration - rise - 1500.0), 0.0)

        given = {
            name
            for name in (*_DEFAULT_TIMES, "current_smoothing")
            if getattr(self, name) is not None
        }
        smoothing = self.current_smoothing
        if smoothing is None:
            smoothing = min(_CURRENT_SMOOTHING, 0.1 * after)
        smoothing_width = max(round(smoothing * _UPSAMPLING / period), 1)
        # What the filters need of the room around the pulse. The charge must arrive within the
        # flat top and the drift window, so that these give way last.
        flat = min(_DEFAULT_TIMES["flat_time"], 0.3 * after)
        if "flat_time" in given:
            flat = self.flat_time
        room = {
            "baseline_window": before,
            "rise_time": min(before - (1.0 - self.pickoff) * flat, after - self.pickoff * flat),
            "flat_time": flat,
            "t0_rise": 0.25 * before,
            "t0_fall": 0.5 * before,
            "current_window": after - 1.5 * smoothing,
            "drift_window": 0.5 * (after - _DRIFT_FLAT),
            "late_window": 0.25 * after,
            "tail_delay": 0.7 * after,
        }
        n = {}
        for name, default in _DEFAULT_TIMES.items():
            time = getattr(self, name) if name in given else min(default, room[name])
            n[name] = max(round(time / period), 0 if name == "flat_time" else 1)
        if "flat_time" not in given:
            n["flat_time"] = max(min(n["flat_time"], n_samples - 2 * n["rise_time"]), 0)
        if "rise_time" not in given:
            n["rise_time"] = max(min(n["rise_time"], (n_samples - n["flat_time"]) // 2), 1)
        drift_flat = round(_DRIFT_FLAT / period)
        self._check_lengths(n, given, drift_flat, _n_taps(smoothing_width))

        pickoff = round(self.pickoff * n["flat_time"])
        cusp_before = int(before / period) - (n["flat_time"] - pickoff)
        cusp_after = int(after / period) - pickoff
        n_cusp = max(min(round(_CUSP_SIDE / period), cusp_before, cusp_after), 1)

        self.lengths_ = Lengths(
            baseline=n["baseline_window"],
            rise=n["rise_time"],
            flat=n["flat_time"],
            pickoff=pickoff,
            t0_rise=n["t0_rise"],
            t0_fall=n["t0_fall"],
            current=n["current_window"],
            drift=n["drift_window"],
            drift_flat=drift_flat,
            late=n["late_window"],
            tail=n["tail_delay"],
        )
        self.current_smoothing_ = smoothing_width * period / _UPSAMPLING
        self._phases = _smoothing_phases(smoothing_width)
        self._cusp = _cusp_weights(n_cusp, self.cusp_sigma / period)

    def _check_lengths(self, n, given, drift_flat, n_taps):
        n_samples = self.n_features_in_
        totals = {
            "baseline_window": n["baseline_window"],
            "rise_time": 2 * n["rise_time"] + n["flat_time"],
            "flat_time": 2 * n["rise_time"] + n["flat_time"],
            "t0_rise": n["t0_rise"] + n["t0_fall"],
            "t0_fall": n["t0_rise"] + n["t0_fall"],
            "current_window": n["current_window"] + n_taps,
            "current_smoothing": n["current_window"] + n_taps,
            "drift_window": 2 * n["drift_window"] + drift_flat,
            "late_window": 2 * n["late_window"],
            "tail_delay": n["tail_delay"] + 3,
        }
        for name in totals:
            if name in given and totals[name] > n_samples:
                raise ValueError(
                    f"The '{name}' parameter of PulseShapeFeatures is {getattr(self, name):g} ns; "
                    f"with it, a filter needs {totals[name]} samples, but the waveforms have "
                    f"{n_samples} samples of {self.sampling_period:g} ns. Give a shorter time, "
                    "or None for one that fits."
                )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
