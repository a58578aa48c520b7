"""PulseShapeFeatures: closed forms, an oracle, real events, flags and bad input."""

import os
import pickle

import h5py
import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import norm
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from sknuc import datasets
from sknuc.preprocessing import PulseShapeFeatures, _events

needs_data = pytest.mark.skipif(
    not os.environ.get("SKNUC_DATA"),
    reason="real data: set SKNUC_DATA to the folder with the local copies",
)
SLOW = 2  # a real event of 69 keV with 2.1 µs from 10 % to 90 %
FLAGS = ["saturated", "pileup", "no_pulse", "truncated"]


def table(features, X):
    """The features of `X` as a dictionary of columns."""
    return dict(zip(features.get_feature_names_out(), features.transform(X).T, strict=True))


def steps(sites, n_samples=2048, period=16.0, width=40.0):
    """Noise-free charge pulses: sites are (fraction, time in ns) arrays of shape (n, sites)."""
    t = np.arange(n_samples) * period
    fractions, times = sites
    X = np.zeros((len(fractions), n_samples))
    for f, t0 in zip(fractions.T, times.T, strict=True):
        X += f[:, np.newaxis] * norm.cdf(t, t0[:, np.newaxis], width)
    return X


def noisy_steps(rng, n, n_samples=4096, sigma=5.0, tau=500_000.0, height=(300.0, 8000.0)):
    """Digitised single-site pulses with white noise and a decay, and their heights."""
    t = np.arange(n_samples) * 16.0
    start = 0.4 * n_samples * 16.0 + rng.uniform(0.0, 600.0, size=(n, 1))
    energy = rng.uniform(*height, size=(n, 1))
    charge = norm.cdf(t, start + rng.uniform(200.0, 700.0, size=(n, 1)), 60.0)
    pedestal = 2000.0 + rng.uniform(-0.5, 0.5, size=(n, 1))
    X = pedestal + energy * charge * np.exp(-(t - start).clip(0.0) / tau)
    X = np.rint(X + rng.normal(0.0, sigma, size=X.shape))
    return X.clip(0, 65_535).astype(np.uint16), energy[:, 0]


# -- closed forms ------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0.5, 1.0, 2.0, 4.0, 6.0])
def test_current_of_two_sites(distance):
    # Two Gaussian currents of equal charge, d apart: A/A0 is exp(-d^2/8) up to d = 2 and 1/2 from
    # d = 4 on, in units of their width. The moving averages widen both alike.
    smoothing = np.sqrt(3 * 48.0**2 / 12)
    for width in (150.0, 300.0):
        d = distance * np.hypot(width, smoothing)
        t0 = np.array([16_000.0, 16_000.0])
        times = np.stack([t0, t0 + np.array([0.0, d])], axis=1)
        X = steps((np.full((2, 2), 0.5), times), width=width)
        features = PulseShapeFeatures(time_constant=np.inf).fit(X)
        one, two = table(features, X)["current"]
        # Within the sampling: 16 ns differences of a current 150 ns wide.
        expected = np.exp(-(distance**2) / 8) if distance <= 2 else 0.5
        if distance == 4:  # the tail of the other pulse at the maximum, exp(-8)
            expected *= 1 + np.exp(-8.0)
        assert two / one == pytest.approx(expected, rel=2e-3)


def test_unequal_sites_far_apart_keep_the_larger_current():
    f = np.array([[0.3, 0.7], [1.0, 0.0], [0.85, 0.15]])
    times = np.array([[16_000.0, 17_500.0]] * 3)
    X = steps((f, times), width=100.0)
    current = table(PulseShapeFeatures(time_constant=np.inf).fit(X), X)["current"]
    np.testing.assert_allclose(current / current[1], [0.7, 1.0, 0.85], rtol=1e-4)


def test_single_site_cut_at_90_percent():
    # A/E of single sites spreads by 1 %: nine tenths lie above 1 - 1.2816 * 0.01.
    rng = np.random.default_rng(0)
    n = 3000
    smoothing = np.sqrt(3 * 48.0**2 / 12)
    spread = rng.normal(1.0, 0.01, size=n)
    width = np.sqrt((np.hypot(60.0, smoothing) / spread) ** 2 - smoothing**2)
    t = np.arange(1024) * 16.0
    X = norm.cdf(t, 8000.0 + rng.uniform(-8, 8, (n, 1)), width[:, np.newaxis])
    X *= rng.uniform(0.5, 2.0, size=(n, 1))
    a_over_e = table(PulseShapeFeatures(time_constant=np.inf).fit(X), X)["a_over_e"]
    cut = np.quantile(a_over_e, 0.1) / np.median(a_over_e)
    # The quantile of 3000 values has a standard error of 0.01 * 0.3 / 0.1755 / sqrt(n).
    error = 0.01 * 0.3 / norm.pdf(1.2816) / np.sqrt(n)
    assert cut == pytest.approx(1 - 1.2816 * 0.01, abs=4 * error)


def test_multi_site_survival_and_auc():
    # Reference, computed for a 1 % spread of A/E: 3.98 % of the two-site events survive the cut
    # that keeps 90 % of the single-site ones, and the area under the curve is 0.981.
    rng = np.random.default_rng(1)
    n, period = 3000, 4.0
    f = rng.uniform(0.1, 0.9, size=n)
    times = 4000.0 + rng.uniform(200.0, 900.0, size=(2 * n, 2))
    fractions = np.concatenate([np.stack([np.ones(n), np.zeros(n)], 1), np.stack([f, 1 - f], 1)])
    X = steps((fractions, times), n_samples=2000, period=period, width=40.0).astype(np.float32)
    features = PulseShapeFeatures(
        sampling_period=period, time_constant=np.inf, current_smoothing=4.0
    )
    a_over_e = table(features.fit(X), X)["a_over_e"] * rng.normal(1.0, 0.01, size=2 * n)
    single, multi = a_over_e[:n], a_over_e[n:]
    survival = np.mean(multi > np.quantile(single, 0.1))
    assert survival == pytest.approx(0.0398, abs=4 * np.sqrt(0.0398 * 0.96 / n) + 0.0005)
    label = np.repeat([1, 0], n)
    assert roc_auc_score(label, a_over_e) == pytest.approx(0.981, abs=0.005)


def test_variance_of_the_tail_slope():
    rng = np.random.default_rng(2)
    n_events, sigma = 1500, 4.0
    X = np.zeros((n_events, 1024))
    X[:, 400:] = 3000.0
    X += rng.normal(0.0, sigma, size=X.shape)
    features = PulseShapeFeatures(time_constant=np.inf).fit(X)
    columns = table(features, X)
    n = 1024 - columns["t0"] / 16.0 - features.lengths_.tail
    assert np.ptp(n) < 0.1 * n.mean()
    expected = 12 * sigma**2 / (n * (n**2 - 1) * 0.016**2)  # (ADC/µs)^2
    pull = columns["tail_slope"] / np.sqrt(expected)
    assert pull.mean() == pytest.approx(0.0, abs=4 / np.sqrt(n_events))
    assert pull.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / n_events))
    assert columns["tail_noise"].mean() == pytest.approx(sigma, rel=0.01)


def test_energy_resolution_is_that_of_the_trapezoid():
    rng = np.random.default_rng(3)
    sigma, rise = 5.0, 2000.0
    X = np.zeros((3000, 1024))
    X[:, 500:] = 1000.0
    X += rng.normal(0.0, sigma, size=X.shape)
    features = PulseShapeFeatures(time_constant=np.inf, rise_time=rise).fit(X)
    energy = table(features, X)["energy"]
    error = sigma * np.sqrt(2.0 / 125)
    assert energy.mean() == pytest.approx(1000.0, abs=4 * error / np.sqrt(3000))
    assert energy.std() == pytest.approx(error, rel=0.06)


def test_drift_time_and_late_charge_of_a_ramp():
    # Uniform collection over T: the mean arrival is T/2; after 80 % the missing charge falls from
    # 0.2 to 0 over 0.2 T, an area of 0.02 T.
    t = np.arange(4096) * 16.0
    for T in (400.0, 800.0, 1600.0):
        X = 1000.0 * np.clip((t - 32_000.0) / T, 0.0, 1.0)[np.newaxis]
        columns = table(PulseShapeFeatures(time_constant=np.inf).fit(X), X)
        assert columns["energy"] == pytest.approx(1000.0, rel=1e-9)
        assert columns["energy_cusp"] == pytest.approx(1000.0, rel=1e-9)
        start = columns["t0"] + 16.0
        assert columns["drift_time"] == pytest.approx(32_000.0 + T / 2 - start, abs=9.0)
        assert columns["late_charge"] == pytest.approx(0.02 * T, abs=4.0)
        assert columns["t50"] == pytest.approx(32_000.0 + T / 2, abs=1e-6)
        assert columns["rise_time"] == pytest.approx(0.8 * T, abs=1e-6)
        assert columns["current"] == pytest.approx(1000.0 * 16.0 / T, rel=1e-9)


# -- an oracle: the same definitions, written without running sums -----------------------------


def oracle(x, features):
    """LEGEND's steps one by one with NumPy and SciPy, for one waveform."""
    n = features.lengths_
    dt, tau = features.sampling_period, features.time_constant_
    baseline = x[: n.baseline].mean()
    noise = x[n.baseline - n.baseline // 8 : n.baseline].std(ddof=1)
    y = lfilter([1.0, -np.exp(-dt / tau)], [1.0, -1.0], x - baseline)
    window = np.ones(n.rise) / n.rise
    kernel = np.concatenate([window, np.zeros(n.flat), -window])
    trapezoid = np.convolve(y, kernel)[: len(y)]
    energy_max = trapezoid[len(kernel) - 1 :].max()
    weights = np.arange(n.t0_rise, 0, -1.0)
    rear = np.full(n.t0_fall, 1.0 / n.t0_fall)
    fast = np.convolve(y, np.concatenate([weights / weights.sum(), -rear]))[: len(y)]
    legend = np.concatenate([2.0 * weights / n.t0_rise**2, -rear])
    legend = np.convolve(y, legend)[: len(y)]
    t0 = np.argmax(np.where(np.arange(len(y)) >= len(rear) + n.t0_rise - 1, fast, -np.inf))
    while not legend[t0 - 1] < noise <= legend[t0]:
        t0 -= 1
    box = np.ones(round(features.current_smoothing_ * 16 / dt))
    taps = (3 * len(box) - 2 + 14) // 16 + 1
    begin = t0 - taps // 2
    fine = np.repeat(np.diff(y[begin : begin + n.current + taps]), 16)
    for _ in range(3):
        fine = np.convolve(fine, box / len(box), mode="valid")
    drift = n.drift
    late = y[t0 + drift + n.drift_flat + 1 : t0 + 2 * drift + n.drift_flat + 1].sum()
    begin = t0 + n.tail
    slope = np.polyfit(np.arange(len(y) - begin) * dt * 1e-3, y[begin:], 1)[0]
    return {
        "energy": trapezoid[t0 + n.rise + n.pickoff],
        "energy_max": energy_max,
        "t0": t0 * dt,
        "current": fine[: 16 * n.current].max(),
        "drift_time": (late - y[t0 + 1 : t0 + drift + 1].sum()) / energy_max * dt,
        "tail_slope": slope,
        "baseline": baseline,
        "baseline_noise": x[: n.baseline].std(ddof=1),
    }


def assert_oracle(X, features):
    columns = table(features, X)
    good = (columns["no_pulse"] == 0) & (columns["truncated"] == 0) & (columns["energy_max"] > 0)
    assert good.sum() > 0.8 * len(X)
    for i in np.flatnonzero(good):
        for name, value in oracle(X[i].astype(float), features).items():
            assert columns[name][i] == pytest.approx(value, rel=1e-6, abs=1e-5), (name, i)


def test_features_agree_with_their_definitions_on_simulated_pulses():
    X, _ = noisy_steps(np.random.default_rng(4), 40)
    assert_oracle(X, PulseShapeFeatures().fit(X))
    assert_oracle(X[:, :2000], PulseShapeFeatures(sampling_period=10.0).fit(X[:, :2000]))


# -- physics on simulated and real events ------------------------------------------------------


@pytest.mark.parametrize(("length", "period"), [(1024, 16.0), (3800, 10.0), (8192, 16.0)])
def test_simulated_truth_is_found_with_the_defaults(length, period):
    events = datasets.make_hpge_waveforms(
        600,
        waveform_length=length,
        sampling_period=period,
        energy=(1000.0, 2700.0),
        adc_bits=16,
        random_state=5,
    )
    features = PulseShapeFeatures(sampling_period=period).fit(events.data)
    columns = table(features, events.data)
    # The tails of surface events are lifted: the estimate stays within 1 %.
    assert features.time_constant_ == pytest.approx(72_000.0, rel=0.01)
    assert np.mean([columns[flag] for flag in FLAGS], axis=1).max() < 0.05
    single = events.target == 0
    scale = columns["energy"][single] / events.truth.energy[single]
    assert np.abs(scale / np.median(scale) - 1).max() < 0.005
    assert np.abs(columns["t0"] - events.truth.t0)[single].max() < 150.0
    # The charge drifts unseen at first: the effective time is shorter, but follows.
    drift = np.corrcoef(columns["drift_time"][single], events.truth.drift_time[single])[0, 1]
    assert drift > 0.95
    sites = events.target < 2
    assert roc_auc_score(single[sites], columns["a_over_e"][sites]) > 0.95
    alpha = events.target == 2
    assert (
        roc_auc_score(alpha[events.target != 1], columns["tail_slope"][events.target != 1]) > 0.97
    )


@pytest.fixture(scope="module")
def legend():
    events = datasets.fetch_legend_waveforms()
    columns = {name: [] for name in FLAGS}
    for part in np.split(np.arange(30), 3):
        found = table(PulseShapeFeatures().fit(events.data[part]), events.data[part])
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    columns = {name: np.concatenate(values) for name, values in columns.items()}
    # Clean: the collaboration calls the event valid, and nothing is flagged here.
    clean = np.asarray(events.hit["is_valid_cal"]) == 1
    for flag in FLAGS:
        clean &= columns[flag] == 0
    return columns, events.dsp, clean


@needs_data
def test_real_energies_agree_with_the_collaboration(legend):
    columns, dsp, clean = legend
    assert clean.sum() >= 20
    # trapTmax has the default rise and flat top; the decay time constants are estimated here.
    for name in ("energy", "energy_max"):
        ratio = np.abs(columns[name] / dsp["trapTmax"] - 1)[clean]
        assert np.median(ratio) < 1e-3
        assert ratio.max() < 5e-3
    # The others have settings of their own for each channel, on which events with slow charge
    # depend: one here.
    usual = clean & (columns["rise_time"] < 2000.0)
    np.testing.assert_array_equal(np.flatnonzero(clean & ~usual), [SLOW])
    pairs = [("energy", "trapEftp"), ("energy_max", "trapEmax"), ("energy_cusp", "cuspEmax")]
    for name, column in pairs:
        ratio = np.abs(columns[name] / dsp[column] - 1)[usual]
        assert np.median(ratio) < 1e-3, column
        assert ratio.max() < 5e-3, column


@needs_data
def test_real_slow_event_deviates_as_the_docstring_says(legend):
    columns, dsp, _ = legend
    assert columns["rise_time"][SLOW] == pytest.approx(2131.0, abs=5.0)
    assert columns["energy_max"][SLOW] == pytest.approx(dsp["trapTmax"][SLOW], rel=4e-3)
    # The channel's own rise and flat top: the flat top ends before the charge has arrived.
    for name, column, deviation in (
        ("energy", "trapEftp", 0.0244),
        ("energy_max", "trapEmax", 0.0196),
        ("energy_cusp", "cuspEmax", 0.0130),
    ):
        found = columns[name][SLOW] / dsp[column][SLOW] - 1
        assert found == pytest.approx(deviation, abs=1e-3), column
    # The collaboration's current is noise of the tail, 14 µs after t0: beyond 4.8 µs.
    assert columns["current"][SLOW] / dsp["A_max"][SLOW] - 1 == pytest.approx(-0.0258, abs=1e-3)
    assert dsp["tp_aoe_max"][SLOW] - columns["t0"][SLOW] == pytest.approx(14_031.0, abs=32.0)
    channel = datasets.fetch_legend_waveforms().data[:10]
    wide = PulseShapeFeatures(current_window=15_000.0).fit(channel)
    assert table(wide, channel)["current"][SLOW] == pytest.approx(dsp["A_max"][SLOW], rel=1e-3)


@needs_data
def test_real_times_and_currents_agree_with_the_collaboration(legend):
    columns, dsp, clean = legend
    assert np.abs(columns["t0"] - dsp["tp_0_est"])[clean].max() <= 32.0
    # The current and the half height of the slow event: see above.
    usual = clean & (columns["rise_time"] < 2000.0)
    assert np.abs(columns["current"] / dsp["A_max"] - 1)[usual].max() < 0.01
    assert np.abs(columns["drift_time"] / dsp["dt_eff"] - 1)[clean].max() < 0.03
    # The collaboration's baseline is that of a pre-summed trace.
    assert np.abs(columns["baseline"] - dsp["bl_mean"])[clean].max() < 0.5
    assert np.abs(columns["t50"] - dsp["tp_50"])[usual].max() <= 32.0


@needs_data
def test_real_event_without_a_pulse_is_flagged(legend):
    columns, dsp, _ = legend
    # The fourth event: the tail of an early pulse; the collaboration gives a negative energy.
    assert dsp["cuspEmax"][3] < 0
    assert columns["no_pulse"][3] + columns["pileup"][3] + columns["truncated"][3] >= 1


@needs_data
def test_another_detector_follows_the_same_definitions():
    pytest.importorskip("fcio")
    X = datasets.fetch_th228_waveforms().data
    features = PulseShapeFeatures().fit(X)
    assert_oracle(X[:60], features)
    columns = table(features, X)
    # A/E of single-site events hardly depends on energy.
    clean = sum(columns[flag] for flag in FLAGS) == 0
    assert clean.sum() > 500
    band = [
        np.quantile(columns["a_over_e"][clean & (columns["energy"] > low)], 0.8)
        for low in (3_000.0, 8_000.0)
    ]
    assert band[0] == pytest.approx(band[1], rel=0.05)


# -- invariances -------------------------------------------------------------------------------


def test_scaling_and_offset():
    X, _ = noisy_steps(np.random.default_rng(6), 20)
    X = X.astype(float)
    features = PulseShapeFeatures().fit(X)
    first = table(features, X)
    second = table(features, 4.0 * X - 300.0)
    proportional = ["energy", "energy_max", "energy_cusp", "current", "tail_slope", "tail_noise"]
    for name in proportional:
        np.testing.assert_allclose(second[name], 4.0 * first[name], rtol=1e-9, atol=1e-9)
    for name in ("t0", "t50", "rise_time", "a_over_e", "drift_time", "late_charge", *FLAGS):
        np.testing.assert_allclose(second[name], first[name], rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(second["baseline"], 4.0 * first["baseline"] - 300.0)


def test_a_shift_moves_times_only():
    X, _ = noisy_steps(np.random.default_rng(7), 20, sigma=0.0)
    X = X.astype(float)
    features = PulseShapeFeatures(time_constant=500_000.0, tail_delay=8192.0).fit(X)
    shifted = np.concatenate([X[:, :50], X[:, :-50]], axis=1)
    first, second = table(features, X), table(features, shifted)
    np.testing.assert_allclose(second["t0"], first["t0"] + 800.0)
    np.testing.assert_allclose(second["t50"], first["t50"] + 800.0)
    for name in ("energy", "energy_max", "current", "drift_time", "late_charge"):
        np.testing.assert_allclose(second[name], first[name], rtol=1e-9)


def test_types_shapes_and_threads_give_the_same_table(monkeypatch):
    X, _ = noisy_steps(np.random.default_rng(8), 70, n_samples=1500)
    features = PulseShapeFeatures().fit(X)
    reference = features.transform(X)
    assert reference.dtype == np.float64
    kernels = "sknuc.preprocessing._kernels._openmp_effective_n_threads"
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(kernels, lambda n=n_threads: n)
        np.testing.assert_array_equal(features.transform(X), reference)
    np.testing.assert_array_equal(features.transform(X.astype(float)), reference)
    np.testing.assert_array_equal(features.transform(X[::-1])[::-1], reference)
    np.testing.assert_array_equal(features.transform(np.asfortranarray(X)), reference)
    single = features.transform(X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, reference.astype(np.float32))
    channel = clone(features).fit(X[:, np.newaxis])
    np.testing.assert_array_equal(channel.transform(X[:, np.newaxis]), reference)
    again = pickle.loads(pickle.dumps(features))
    np.testing.assert_array_equal(again.transform(X), reference)


@pytest.mark.parametrize("shape", [(-1, 1500), (-1, 1, 1500)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_waveforms_on_disk_are_read_in_blocks(tmp_path, monkeypatch, shape, dtype):
    X, _ = noisy_steps(np.random.default_rng(8), 70, n_samples=1500)
    X = X.astype(dtype)
    reference = PulseShapeFeatures().fit(X)
    longest = 0

    class Rows(datasets.HDF5Rows):
        def __getitem__(self, key):
            nonlocal longest
            rows = super().__getitem__(key)
            longest = max(longest, rows.nbytes)
            return rows

        def __array__(self, dtype=None, copy=None):
            raise AssertionError("read whole")

    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("wave", data=X.reshape(shape), chunks=True)
        source = (tmp_path / "a.h5", 0, 70)
        rows = Rows([source], "wave", dataset.shape[1:], dtype, dataset.chunks)
        for lazy in (dataset, rows):
            features = PulseShapeFeatures().fit(lazy)
            assert features.input_shape_ == dataset.shape[1:]
            assert features.time_constant_ == reference.time_constant_
            with monkeypatch.context() as small:
                small.setattr(_events, "_BLOCK_BYTES", 16 * X[0].nbytes)
                longest = 0
                table = features.transform(lazy)
                assert longest <= 16 * X[0].nbytes
            np.testing.assert_array_equal(table, reference.transform(X))
            # What fit learns comes from rows in bounded memory.
            with monkeypatch.context() as small:
                small.setattr(_events, "_SAMPLE_BYTES", 20 * X[0].nbytes)
                longest = 0
                features.fit(lazy)
                assert longest <= 20 * X[0].nbytes
            assert features.time_constant_ == pytest.approx(500_000.0, rel=0.1)
            assert features.lengths_.rise == pytest.approx(reference.lengths_.rise, rel=0.02)


def test_waveforms_on_disk_are_validated(tmp_path):
    X, _ = noisy_steps(np.random.default_rng(8), 5, n_samples=1500)
    features = PulseShapeFeatures().fit(X)
    bad = X.astype(float)
    bad[4, 7] = np.nan
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["bad"], file["short"], file["none"] = bad, X[:, :-1], X[:0]
        file["two"] = X.reshape(5, 2, 750)
        for dataset in (file["bad"], file["none"]):
            with pytest.raises(ValueError, match=r"NaN|minimum of 1 is required"):
                features.fit(dataset)
            with pytest.raises(ValueError, match=r"NaN|minimum of 1 is required"):
                features.transform(dataset)
            features.fit(X)
        with pytest.raises(ValueError, match="1499 features"):
            features.transform(file["short"])
        with pytest.raises(ValueError, match="events of shape"):
            features.transform(file["two"])


def test_data_frames():
    pd = pytest.importorskip("pandas")
    X, energy = noisy_steps(np.random.default_rng(9), 10)
    frame = PulseShapeFeatures().set_output(transform="pandas").fit_transform(X)
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_allclose(frame["energy"], energy, rtol=0.01)


# -- flags: documented values for events that cannot be measured -------------------------------


@pytest.fixture(scope="module")
def clean_events():
    X, _ = noisy_steps(np.random.default_rng(10), 400)
    return X, PulseShapeFeatures(time_constant=500_000.0).fit(X)


def test_clean_events_are_not_flagged(clean_events):
    X, features = clean_events
    columns = table(features, X)
    assert all(columns[flag].mean() <= 0.005 for flag in FLAGS)
    assert np.isfinite(features.transform(X)).mean() > 0.999


@pytest.mark.parametrize("length", [512, 1024, 2048])
def test_pileup_is_rare_in_short_clean_events(length):
    events = datasets.make_hpge_waveforms(1500, waveform_length=length, random_state=22)
    columns = table(PulseShapeFeatures().fit(events.data), events.data)
    assert all(columns[flag].mean() < 0.02 for flag in FLAGS)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.1, 0.2, 0.5])
def test_coarse_digitisation_is_no_noise_and_no_pulse(sigma, dtype):
    # Below half a count of noise a sample hardly scatters: digitisation is what is left.
    rng = np.random.default_rng(20)
    n = 600
    pulses, _ = noisy_steps(rng, n, n_samples=2048, sigma=sigma, height=(200.0, 4000.0))
    small, _ = noisy_steps(rng, n, n_samples=2048, sigma=sigma, height=(20.0, 40.0))
    empty = np.rint(rng.uniform(2000, 2001, (n, 1)) + rng.normal(0.0, sigma, (n, 2048)))
    features = PulseShapeFeatures(time_constant=500_000.0).fit(pulses)
    unit = 1.0 if dtype == np.uint16 else 0.37  # floats have been scaled, and cannot say so
    for X, expected in ((pulses, 0), (small, 0), (empty, 1)):
        columns = table(features, (unit * X).astype(dtype))
        for flag in ("saturated", "pileup", "truncated"):
            assert columns[flag].mean() < 0.01, flag
        assert np.mean(columns["no_pulse"] != expected) < 0.01


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_a_second_pulse_is_seen_in_coarse_digitisation(sigma):
    rng = np.random.default_rng(21)
    X, _ = noisy_steps(rng, 200, sigma=sigma)
    X[:, 3000:] += 6  # counts, of pulses of 300 or more
    assert table(PulseShapeFeatures(time_constant=500_000.0).fit(X), X)["pileup"].mean() > 0.99


@pytest.mark.parametrize("value", [0, 2000, 65_520])
def test_constant_waveforms_have_no_pulse(clean_events, value):
    _, features = clean_events
    X = np.full((3, 4096), value, dtype=np.uint16)
    columns = table(features, X)
    assert np.all(columns["no_pulse"] == 1)
    assert np.all(columns["pileup"] == 0)
    assert np.all(columns["saturated"] == (value != 2000))
    np.testing.assert_array_equal(columns["energy_max"], 0.0)
    np.testing.assert_array_equal(columns["baseline"], value)
    undefined = [n for n in columns if n not in FLAGS and not n.startswith("baseline")]
    undefined.remove("energy_max")
    assert np.isnan([columns[name] for name in undefined]).all()


def test_constants_with_rounding_errors_have_no_pulse():
    X = np.full((4, 1000), 0.1) * np.array([[1.0], [3.0], [1e7], [1e-7]])
    columns = table(PulseShapeFeatures().fit(X), X)
    assert np.all(columns["no_pulse"] == 1)
    assert np.all(columns["pileup"] == 0)


def test_noise_has_no_pulse(clean_events):
    _, features = clean_events
    X = np.random.default_rng(11).normal(2000.0, 5.0, size=(500, 4096))
    columns = table(features, X)
    assert columns["no_pulse"].mean() > 0.99
    assert columns["pileup"].mean() < 0.01
    assert np.isnan(columns["t0"]).mean() > 0.99


def test_saturated_events_are_flagged(clean_events):
    X, features = clean_events
    X = X[:3].copy()
    X[0] = np.minimum(X[0].astype(int) * 60, 65_520)
    X[1, 3000] = 0
    np.testing.assert_array_equal(table(features, X)["saturated"], [1.0, 1.0, 0.0])
    given = clone(features).set_params(adc_range=(-1e9, 2500.0)).fit(X)
    assert table(given, X.astype(float))["saturated"][2] == float(X[2].max() >= 2500)
    for limits in ([0, 2500], np.array([0, 2500])):
        same = clone(features).set_params(adc_range=limits).fit(X)
        np.testing.assert_array_equal(same.transform(X)[:, -4], [1.0, 1.0, X[2].max() >= 2500])


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_cut_tops_are_saturated_whatever_the_range(clean_events, dtype):
    X, features = clean_events
    cap = 2000 + 3000
    cut = np.minimum(X, cap).astype(dtype)
    features = clone(features).set_params(adc_range=None).fit(X)
    columns = table(features, cut)
    above = np.sum(cap < X, axis=1)
    assert np.all(columns["saturated"][above > 500] == 1)
    assert (above > 500).sum() > 100
    assert np.all(columns["saturated"][above == 0] == 0)
    # Coarse digitisation without a cut: equal neighbours everywhere.
    coarse = np.rint(X / 8.0).astype(dtype)
    assert table(clone(features).fit(coarse), coarse)["saturated"].mean() < 0.02


def test_digitised_simulations_know_their_range():
    events = datasets.make_hpge_waveforms(90, energy=(500.0, 20_000.0), adc_bits=16, random_state=0)
    saturated = table(PulseShapeFeatures().fit(events.data), events.data)["saturated"]
    assert 20 < events.truth.saturated.sum() < 70
    # The highest code of the digitizer here is 65520, less than that of the simulation.
    np.testing.assert_array_equal(saturated, events.data.max(axis=1) >= 65_520)
    assert np.all(saturated[events.truth.saturated] == 1)


@pytest.mark.parametrize("delay", [-12_000.0, -4_000.0, 8_000.0, 25_000.0])
def test_a_second_pulse_is_flagged(delay):
    rng = np.random.default_rng(12)
    t = np.arange(4096) * 16.0
    start = 26_000.0
    X = np.full((200, 4096), 2000.0)
    for height, t0 in ((2000.0, start), (300.0, start + delay)):
        X += height * norm.cdf(t, t0, 60.0) * np.exp(-(t - t0).clip(0.0) / 72_000.0)
    X += rng.normal(0.0, 5.0, size=X.shape)
    columns = table(PulseShapeFeatures(time_constant=72_000.0).fit(X), X)
    assert columns["pileup"].mean() > 0.99


def test_the_tail_of_an_earlier_pulse_is_flagged(clean_events):
    X, _ = clean_events
    X = X + 1000.0 * np.exp(-np.arange(4096) * 16.0 / 72_000.0)
    assert table(PulseShapeFeatures(time_constant=72_000.0).fit(X), X)["pileup"].mean() > 0.99


def test_slow_charge_is_no_pileup():
    events = datasets.make_hpge_waveforms(
        400, waveform_length=4096, weights=(0, 0, 1), energy=2500.0, random_state=13
    )
    features = PulseShapeFeatures(time_constant=72_000.0).fit(events.data)
    assert table(features, events.data)["pileup"].mean() < 0.02


def test_pulses_at_the_edges_are_truncated(clean_events):
    X, features = clean_events
    late = np.concatenate([X[:50, :2000], X[:50, :1600], X[:50, 1600:2096]], axis=1)
    columns = table(features, np.concatenate([X[:50, :2000], late[:, 2000:]], axis=1))
    assert np.all(columns["truncated"] + columns["pileup"] + columns["no_pulse"] >= 1)
    late = np.full((50, 4096), 2000, dtype=np.uint16)
    late[:, 3900:] = X[:50, 1600:1796]
    columns = table(features, late)
    assert np.all((columns["truncated"] == 1) | (columns["no_pulse"] == 1))
    assert np.isnan(columns["energy"]).all()


def test_fill_value_replaces_nan(clean_events):
    X, features = clean_events
    X = np.concatenate([X[:5], np.zeros_like(X[:5])])
    result = clone(features).set_params(fill_value=-1.0).fit(X).transform(X)
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(np.isnan(features.transform(X)), result == -1.0)


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "baseline_window",
        "rise_time",
        "flat_time",
        "t0_rise",
        "t0_fall",
        "current_window",
        "current_smoothing",
        "drift_window",
        "late_window",
        "tail_delay",
    ],
)
def test_lengths_that_do_not_fit_are_named(name):
    X, _ = noisy_steps(np.random.default_rng(14), 5, n_samples=500)
    with pytest.raises(ValueError, match=f"'{name}' parameter of PulseShapeFeatures is 20000 ns"):
        PulseShapeFeatures(**{name: 20_000.0}).fit(X)
    with pytest.raises(ValueError, match=f"'{name}' parameter of PulseShapeFeatures must be"):
        PulseShapeFeatures(**{name: -16.0}).fit(X)


def test_other_bad_parameters_and_shapes():
    X, _ = noisy_steps(np.random.default_rng(15), 6, n_samples=500)
    for parameters in (
        {"sampling_period": 0.0},
        {"time_constant": -1.0},
        {"pickoff": 1.5},
        {"detection_threshold": 0.0},
        {"adc_range": "14 bit"},
    ):
        with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter"):
            PulseShapeFeatures(**parameters).fit(X)
    for limits in ((5.0,), (10.0, 0.0), ("a", "b"), (0.0, None), [np.nan, 1.0], [[0, 1], [2, 3]]):
        with pytest.raises(ValueError, match="must be a pair"):
            PulseShapeFeatures(adc_range=limits).fit(X)
    with pytest.raises(ValueError, match=r"'current_smoothing' parameter.*a filter needs"):
        PulseShapeFeatures(current_smoothing=1e9).fit(X)
    with pytest.raises(ValueError, match="one channel"):
        PulseShapeFeatures().fit(X.reshape(6, 2, 250))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        PulseShapeFeatures().fit(X[:, :1])
