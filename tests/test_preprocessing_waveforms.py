"""The waveform steps: closed forms, inverses, event shapes, types and bad input."""

import pickle

import h5py
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from sknuc import preprocessing
from sknuc.datasets import make_hpge_waveforms
from sknuc.preprocessing import (
    BaselineSubtractor,
    PoleZeroCorrector,
    PulseShapeFeatures,
    TrapezoidalFilter,
    WaveformAligner,
    WaveformCropper,
    WaveformNormalizer,
    WaveformResampler,
)
from sknuc.preprocessing._kernels import run_rows, trapezoid_rows
from sknuc.preprocessing._waveforms import _WaveformTransformer

PUBLIC = [getattr(preprocessing, name) for name in preprocessing.__all__]
WAVEFORM_STEPS = [step() for step in PUBLIC if issubclass(step, _WaveformTransformer)]
STEPS = [*WAVEFORM_STEPS, PulseShapeFeatures()]


@pytest.fixture
def pulses():
    rng = np.random.default_rng(1)
    t = np.arange(400) * 16.0
    amplitude = rng.uniform(200.0, 5000.0, size=(12, 1))
    pulses = amplitude * (t > 2000.0) * np.exp(-(t - 2000.0).clip(0.0) / 72_000.0)
    return np.rint(1000.0 + pulses + rng.normal(0.0, 3.0, size=pulses.shape)).astype(np.uint16)


@pytest.fixture
def bare(pulses):
    """The same without their pedestal, still in 16 bits."""
    return (pulses.astype(int) - 1000).astype(np.int16)


@pytest.mark.parametrize("tau", [500.0, 72_000.0, 500_000.0, 1e9])
def test_pole_zero_turns_an_exponential_into_a_flat_step(tau):
    X = np.exp(-np.arange(8192) * 16.0 / tau)[np.newaxis]
    y = PoleZeroCorrector(time_constant=tau).fit_transform(X)
    # Rounding of a running sum over 8192 samples, relative to the step.
    np.testing.assert_allclose(y, 1.0, rtol=0.0, atol=1e-14)


def test_pole_zero_is_the_recursion_of_the_docstring():
    x = np.random.default_rng(2).normal(size=300)
    c = np.exp(-16.0 / 3000.0)
    y = np.empty_like(x)
    y[0] = x[0]
    for n in range(1, len(x)):
        y[n] = y[n - 1] + x[n] - c * x[n - 1]
    result = PoleZeroCorrector(time_constant=3000.0).fit_transform(x[np.newaxis])
    np.testing.assert_allclose(result[0], y, rtol=1e-12, atol=1e-12)


def test_two_decays_are_turned_into_a_flat_step():
    t = np.arange(5000) * 16.0
    X = (0.97 * np.exp(-t / 500_000.0) + 0.03 * np.exp(-t / 20_000.0))[np.newaxis]
    step = PoleZeroCorrector(
        time_constant=500_000.0, second_time_constant=20_000.0, second_fraction=0.03
    )
    y = step.fit_transform(X)
    np.testing.assert_allclose(y, 1.0, rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(step.inverse_transform(y), X, rtol=0.0, atol=1e-12)


def test_pole_zero_has_an_inverse(pulses):
    X = pulses.astype(float) - 1000.0
    step = PoleZeroCorrector(time_constant=72_000.0).fit(X)
    np.testing.assert_allclose(step.inverse_transform(step.transform(X)), X, rtol=0, atol=1e-8)


def test_time_constant_is_found_among_noise_and_bad_events():
    rng = np.random.default_rng(3)
    t = np.arange(2000) * 16.0 - 8000.0
    X = rng.uniform(500.0, 5000.0, size=(60, 1)) * (t > 0) * np.exp(-t.clip(0.0) / 72_000.0)
    X[:6] += 800.0 * (t > 12_000.0)  # piled up
    X[6:10] = 0.0  # empty
    X += rng.normal(0.0, 3.0, size=X.shape)
    found = PoleZeroCorrector().fit(X).time_constant_
    # One waveform of 3000 measures 1/tau to 1 %, the median of 50 to 0.2 %.
    assert found == pytest.approx(72_000.0, rel=0.01)


def test_flat_tails_have_an_infinite_time_constant():
    X = np.repeat([[0.0, 100.0]], 500, axis=1)
    step = PoleZeroCorrector()
    np.testing.assert_array_equal(step.fit_transform(X), X)
    assert step.time_constant_ == np.inf


def test_trapezoid_keeps_the_height_of_a_step():
    X = np.repeat([[0.0, 7.0]], 200, axis=1)
    z = TrapezoidalFilter(rise_time=480.0, flat_time=160.0).fit_transform(X)[0]
    L, G = 30, 10
    np.testing.assert_allclose(z[:200], 0.0)
    np.testing.assert_allclose(z[200 : 200 + L], 7.0 * np.arange(1, L + 1) / L)
    np.testing.assert_allclose(z[200 + L - 1 : 200 + L + G], 7.0)
    np.testing.assert_allclose(z[200 + 2 * L + G - 1 :], 0.0, atol=1e-12)


@pytest.mark.parametrize("rise", [4, 20, 100])
def test_trapezoid_noise_of_white_noise(rise):
    sigma = 2.5
    X = np.random.default_rng(rise).normal(0.0, sigma, size=(20_000, 2 * rise + 5))
    z = TrapezoidalFilter(rise_time=rise * 16.0, flat_time=80.0).fit_transform(X)[:, -1]
    # The standard deviation of 20,000 normal deviates is known to 0.5 %.
    assert z.std() == pytest.approx(sigma * np.sqrt(2.0 / rise), rel=0.02)


def test_baseline_methods_on_a_line():
    t = np.arange(100.0)
    X = 5.0 + 0.5 * t[np.newaxis]
    for method, first in [("mean", 5.0 + 0.5 * 9.5), ("median", 5.0 + 0.5 * 9.5)]:
        result = BaselineSubtractor(method=method, window=320.0).fit_transform(X)
        np.testing.assert_allclose(result, X - first)
    linear = BaselineSubtractor(method="linear", window=320.0).fit_transform(X)
    np.testing.assert_allclose(linear, 0.0, atol=1e-12)


def test_median_baseline_withstands_a_small_pulse():
    X = np.zeros((1, 100))
    X[0, 5:8] = 50.0
    assert BaselineSubtractor(method="median").fit_transform(X)[0, -1] == 0.0
    assert BaselineSubtractor(method="mean").fit_transform(X)[0, -1] < -1.0


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_alignment_undoes_a_shift(level):
    t = np.arange(300.0)
    edge = lambda t0: 1.0 / (1.0 + np.exp(-(t - t0) / 4.0)) * np.exp(-t / 1e5)  # noqa: E731
    X = np.array([3.0 * edge(120.0), 8.0 * edge(120.0), 3.0 * edge(150.0)])
    aligned = WaveformAligner(level=level, before=640.0, after=640.0).fit_transform(X)
    assert aligned.shape == (3, 80)
    np.testing.assert_allclose(aligned[0] / 3.0, aligned[1] / 8.0)
    shape = aligned / aligned.max(axis=1, keepdims=True)
    np.testing.assert_allclose(shape[0], shape[2], atol=5e-4)
    # The time point is the first sample at or above the level.
    top = X.max(axis=1)
    assert np.all(aligned[:, 40] >= level * top)
    assert np.all(aligned[:, 39] < level * top)


def test_alignment_repeats_the_ends_of_the_trace():
    X = np.array([[1.0, 9.0, 8.0]])
    aligned = WaveformAligner(before=32.0, after=48.0).fit_transform(X)
    np.testing.assert_array_equal(aligned, [[1.0, 1.0, 9.0, 8.0, 8.0]])


def test_presum_conserves_area_and_averages_noise():
    X = np.random.default_rng(4).normal(size=(500, 960))
    summed = WaveformResampler(target_period=96.0).fit_transform(X)
    np.testing.assert_allclose(summed.sum(axis=1) * 6.0, X.sum(axis=1))
    assert summed.std() == pytest.approx(1.0 / np.sqrt(6.0), rel=0.02)


def test_interpolation_is_exact_for_lines_and_keeps_the_samples():
    X = 3.0 * np.arange(11.0)[np.newaxis] - 2.0
    fine = WaveformResampler(target_period=4.0).fit_transform(X)
    np.testing.assert_allclose(fine[0], 0.75 * np.arange(41) - 2.0)
    X = np.random.default_rng(5).normal(size=(3, 50))
    fine = WaveformResampler(target_period=10.0, sampling_period=50.0).fit_transform(X)
    np.testing.assert_allclose(fine[:, ::5], X)


def test_normalisation_removes_the_amplitude(pulses):
    X = pulses - 1000.0
    for norm in ("max", "range", "tail"):
        once = WaveformNormalizer(norm=norm).fit_transform(X)
        np.testing.assert_allclose(WaveformNormalizer(norm=norm).fit_transform(7.0 * X), once)
    np.testing.assert_allclose(WaveformNormalizer().fit_transform(X).max(axis=1), 1.0)
    zeros = np.zeros((2, 5))
    np.testing.assert_array_equal(WaveformNormalizer().fit_transform(zeros), zeros)


def test_the_chain_measures_amplitudes(pulses):
    chain = make_pipeline(
        BaselineSubtractor(window=1600.0),
        PoleZeroCorrector(time_constant=72_000.0),
        TrapezoidalFilter(rise_time=1600.0, flat_time=160.0),
        WaveformCropper(start=1000.0),
    )
    energy = chain.fit_transform(pulses).max(axis=1)
    truth = pulses[:, 126:].max(axis=1) - 1000.0
    np.testing.assert_allclose(energy, truth, atol=15.0)


@pytest.mark.parametrize("step", WAVEFORM_STEPS, ids=lambda s: type(s).__name__)
def test_types_and_event_shapes_give_the_same_numbers(step, bare):
    reference = clone(step).fit_transform(bare.astype(np.float64))
    assert reference.dtype == np.float64
    for X in (bare, bare.astype(np.float32)):
        result = clone(step).fit_transform(X)
        assert result.dtype == np.float32
        scale = np.abs(reference).max()
        np.testing.assert_allclose(result, reference, rtol=0.0, atol=1e-6 * scale)
    channel = clone(step).fit(bare[:, np.newaxis])
    np.testing.assert_array_equal(
        channel.transform(bare[:, np.newaxis]), clone(step).fit_transform(bare)
    )
    # Two channels are two waveforms.
    two = bare.reshape(6, 2, 400)
    both = clone(step).fit(two)
    result = both.transform(two).reshape(12, -1)
    np.testing.assert_array_equal(result, both.fit(bare).transform(bare))
    assert len(both.get_feature_names_out()) == result.shape[1]


@pytest.mark.parametrize("step", WAVEFORM_STEPS, ids=lambda s: type(s).__name__)
def test_pickles_and_data_frames(step, bare):
    pd = pytest.importorskip("pandas")
    step = clone(step).set_output(transform="pandas").fit(bare)
    frame = step.transform(bare)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == list(step.get_feature_names_out())
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(step)).transform(bare), frame)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch):
    X = np.random.default_rng(6).normal(size=(203, 150))
    results = []
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(
            "sknuc.preprocessing._kernels._openmp_effective_n_threads", lambda n=n_threads: n
        )
        out = np.empty_like(X)
        run_rows(trapezoid_rows, X, out, 10, 4)
        results.append(out)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (BaselineSubtractor(window=1e6), "'window' parameter of BaselineSubtractor"),
        (BaselineSubtractor(window=-1.0), "'window' parameter"),
        (PoleZeroCorrector(time_constant=0.0), "'time_constant' parameter"),
        (PoleZeroCorrector(time_constant=-5.0), "'time_constant' parameter"),
        (PoleZeroCorrector(second_fraction=1.0), "'second_fraction' parameter"),
        (PoleZeroCorrector(second_fraction=0.1), "'second_time_constant' and 'second_fraction'"),
        (PoleZeroCorrector(second_time_constant=9e3), "'second_time_constant' and 'second_fr"),
        (TrapezoidalFilter(rise_time=4000.0), "'rise_time' parameter of TrapezoidalFilter"),
        (TrapezoidalFilter(rise_time=3.0), "'rise_time' parameter of TrapezoidalFilter"),
        (TrapezoidalFilter(flat_time=-1.0), "'flat_time' parameter"),
        (TrapezoidalFilter(sampling_period=0.0), "'sampling_period' parameter"),
        (WaveformAligner(level=0.0), "'level' parameter"),
        (WaveformAligner(before=1e6), "'before' parameter of WaveformAligner"),
        (WaveformCropper(start=6400.0), "'start' parameter of WaveformCropper"),
        (WaveformCropper(start=320.0, stop=320.0), "'stop' parameter of WaveformCropper"),
        (WaveformResampler(target_period=24.0), "'target_period' parameter"),
        (WaveformResampler(target_period=16e6), "'target_period' parameter"),
        (WaveformNormalizer(norm="mean"), "'norm' parameter"),
    ],
)
def test_parameters_that_do_not_fit_are_named(step, message, bare):
    with pytest.raises(ValueError, match=message):
        step.fit(bare)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: type(s).__name__)
def test_bad_waveforms_are_refused(step, bare):
    step = clone(step)
    bad = bare.astype(float)
    bad[3, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        step.fit(bad)
    bad[3, 7] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        step.fit(bad)
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        step.fit(bare[:0])
    with pytest.raises(ValueError, match="could not convert string to float"):
        step.fit(np.array([["a", "b"], ["c", "d"]], dtype=object))
    step.fit(bare)
    with pytest.raises(ValueError, match="400 features as input"):
        step.transform(bare[:, :-1])
    with pytest.raises(ValueError, match="events of shape"):
        step.transform(bare.reshape(12, 2, 200))
    bad[3, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        step.transform(bad)
    with pytest.raises(ValueError, match="minimum of 1 is required"):
        step.transform(bare[:0])


def test_object_arrays_of_numbers_are_read(pulses):
    result = TrapezoidalFilter().fit_transform(pulses.astype(object))
    np.testing.assert_array_equal(result, TrapezoidalFilter().fit_transform(pulses.astype(float)))


PEDESTAL_STEPS = [
    PoleZeroCorrector(),
    PoleZeroCorrector(time_constant=72_000.0),
    WaveformAligner(),
    WaveformNormalizer(),
    WaveformNormalizer(norm="tail"),
]


@pytest.mark.parametrize("step", PEDESTAL_STEPS, ids=repr)
def test_pedestals_are_refused(step, pulses, bare):
    for X in (pulses, pulses.astype(float) - 1300.0, 0.01 * pulses, pulses[:, np.newaxis]):
        with pytest.raises(ValueError, match=f"BaselineSubtractor before {type(step).__name__}"):
            clone(step).fit(X)
    # Bad events among good ones are no reason.
    mixed = bare.astype(float)
    mixed[:4] += 500.0
    clone(step).fit(mixed)
    subtracted = make_pipeline(BaselineSubtractor(window=1600.0), clone(step))
    assert np.isfinite(subtracted.fit_transform(pulses)).all()


@pytest.mark.parametrize("step", PEDESTAL_STEPS, ids=repr)
@pytest.mark.parametrize("n_samples", [60, 300, 3000])
@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_waveforms_that_begin_on_the_pulse_are_accepted(step, n_samples, sigma):
    rng = np.random.default_rng(7)
    t = np.arange(n_samples + 200) * 16.0
    for rise in (16.0, 300.0, 1000.0):
        charge = np.clip((t - 800.0) / rise, 0.0, 1.0) * np.exp(-(t - 800.0).clip(0) / 72_000.0)
        X = rng.uniform(500.0, 5000.0, size=(50, 1)) * charge
        X += rng.normal(0.0, sigma, size=X.shape)
        # From the top, from half height, from the foot, and with some baseline.
        for start in (800.0 + rise, 800.0 + rise / 2, 800.0 + rise / 10, 800.0, 500.0):
            first = int(np.ceil(start / 16.0))
            clone(step).fit(X[:, first : first + n_samples])


@pytest.mark.parametrize("energy", [30.0, 100.0, 1000.0])
def test_slow_noise_is_no_pedestal(energy):
    events = make_hpge_waveforms(
        300, energy=energy, white_noise=1.0, pink_noise=2.0, random_state=0, n_jobs=1
    )
    X = BaselineSubtractor().fit_transform(events.data)
    for step in PEDESTAL_STEPS:
        clone(step).fit(X)
        with pytest.raises(ValueError, match="BaselineSubtractor"):
            clone(step).fit(events.data)


def test_steps_read_waveforms_on_disk(tmp_path, bare, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["wave"] = bare.reshape(6, 2, 400)
        for step in WAVEFORM_STEPS:
            expected = clone(step).fit_transform(bare.reshape(6, 2, 400))
            monkeypatch.setattr("sknuc.preprocessing._events._BLOCK_BYTES", 4 * 1600)
            found = clone(step).fit_transform(file["wave"])
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
        step = PoleZeroCorrector().fit(file["wave"])
        np.testing.assert_allclose(
            step.inverse_transform(step.transform(file["wave"])).reshape(12, 400), bare, atol=0.1
        )
