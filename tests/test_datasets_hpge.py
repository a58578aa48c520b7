"""Simulated HPGe waveforms against the closed forms of the point-contact approximation."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest, norm

from sknuc.datasets import make_hpge_waveforms
from sknuc.datasets._noise import N_POLES, noise_autocovariance, noise_filter

R0, R, V, DT = 2.0, 33.0, 0.04, 16.0
SILENT = {"white_noise": 0.0, "pink_noise": 0.0, "pedestal": 0.0, "gain": 1.0}
IDEAL = {**SILENT, "smoothing": 0.0, "decay_time": np.inf}


def potential(r):
    return (1 / r - 1 / R) / (1 / R0 - 1 / R)


def charge(truth, i, t):
    """q(t) of event i, t ns after the interaction, without electronics."""
    n = truth.n_sites[i]
    r, f = truth.site_radius[i, :n, None], truth.site_fraction[i, :n, None]
    position = np.maximum(r - V * np.maximum(t, 0.0), R0)
    q = np.sum(f * (potential(position) - potential(r)), axis=0)
    return q / np.sum(f * (1 - potential(r)))


def times(events, i):
    return np.arange(events.data.shape[1]) * DT - events.truth.t0[i]


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0)])
def test_pulses_follow_the_weighting_potential(weights):
    # One site is the formula; several are the superposition of their formulas.
    events = make_hpge_waveforms(40, weights=weights, energy=1.0, random_state=0, **IDEAL)
    for i in range(40):
        np.testing.assert_allclose(
            events.data[i], charge(events.truth, i, times(events, i)), atol=2e-7
        )


def test_multi_site_pulses_are_sums_of_single_site_pulses():
    events = make_hpge_waveforms(
        20, weights=(0, 1, 0), energy=1.0, smoothing=30.0, random_state=3, **SILENT
    )
    truth = events.truth
    for i in range(20):
        n = truth.n_sites[i]
        share = truth.site_fraction[i, :n] * (1 - potential(truth.site_radius[i, :n]))
        total = np.zeros(events.data.shape[1])
        for j in range(n):
            alone = single_site(truth.site_radius[i, j], truth.t0[i])
            total += share[j] / share.sum() * alone
        np.testing.assert_allclose(events.data[i], total, atol=5e-7)


def single_site(radius, t0):
    """The waveform of one site from the kernel itself."""
    from sknuc.datasets._pulses import add_pulses, gaussian_taps

    waveform = np.zeros((1, 1024), dtype=np.float32)
    taps, oversampling = gaussian_taps(30.0, DT, R0 / V)
    one = np.ones((1, 1))
    add_pulses(
        waveform, np.ones(1), radius * one, one, np.ones(1, int), np.full(1, t0), np.zeros(1),
        np.ones(1), R0, R, V, DT, taps, oversampling, 30.0, math.exp(-DT / 72_000),
    )  # fmt: skip
    return waveform[0]


@pytest.mark.parametrize("smoothing", [10.0, 30.0, 80.0])
def test_smoothing_is_the_convolution_with_a_gaussian(smoothing):
    events = make_hpge_waveforms(
        3, weights=(0, 1, 0), energy=1.0, random_state=1,
        **{**IDEAL, "smoothing": smoothing},
    )  # fmt: skip
    for i in range(3):
        t = times(events, i)
        edge = np.flatnonzero(np.abs(t - 300) < 900)[::7]
        n = events.truth.n_sites[i]
        kinks = np.r_[0.0, (events.truth.site_radius[i, :n] - R0) / V]
        for k in edge:

            def integrand(s, i=i, now=t[k]):
                return charge(events.truth, i, np.array([s]))[0] * norm.pdf(now, s, smoothing)

            low, high = t[k] - 8 * smoothing, t[k] + 8 * smoothing
            points = [s for s in kinks if low < s < high] or None
            expected, _ = quad(integrand, low, high, points=points, limit=200)
            assert events.data[i, k] == pytest.approx(expected, abs=2e-5)


def test_charge_is_complete_after_the_drift_time():
    events = make_hpge_waveforms(200, energy=1.0, weights=(1, 1, 0), random_state=2, **IDEAL)
    truth = events.truth
    slowest = np.nanmax(truth.site_radius, axis=1)
    np.testing.assert_allclose(truth.drift_time, (slowest - R0) / V)
    for i in range(200):
        t = times(events, i)
        assert np.all(events.data[i, t <= 0] == 0)
        np.testing.assert_allclose(events.data[i, t >= truth.drift_time[i]], 1, atol=1e-6)
        assert np.all(events.data[i, (t > 0) & (t < truth.drift_time[i] - 1)] < 1)


def test_pole_zero_correction_undoes_the_discharge():
    tau = 50_000.0
    events = make_hpge_waveforms(
        30, weights=(1, 1, 0), energy=2000.0, decay_time=tau, random_state=4, **SILENT
    )
    tail = events.data[:, 400:].astype(float)
    np.testing.assert_allclose(tail[:, 1:] / tail[:, :-1], math.exp(-DT / tau), rtol=1e-6)
    x = events.data.astype(float)
    corrected = np.cumsum(np.c_[x[:, :1], x[:, 1:] - math.exp(-DT / tau) * x[:, :-1]], axis=1)
    np.testing.assert_allclose(corrected[:, 400:], 2000.0, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 30.0])
def test_delayed_charge_of_surface_alphas(smoothing):
    events = make_hpge_waveforms(
        50, weights=(0, 0, 1), energy=1.0, random_state=5, **{**IDEAL, "smoothing": smoothing}
    )
    truth = events.truth
    assert np.all((truth.delayed_fraction >= 0.01) & (truth.delayed_fraction <= 0.05))
    for i in range(50):
        t = times(events, i)
        a, tau = truth.delayed_fraction[i], truth.release_time[i]
        after = t > truth.drift_time[i] + 8 * smoothing
        # A Gaussian multiplies an exponential by exp(sigma^2 / 2 tau^2).
        late = a * np.exp(-t[after] / tau + 0.5 * (smoothing / tau) ** 2)
        np.testing.assert_allclose(events.data[i, after], 1 - late, atol=2e-7)


def test_only_alphas_have_delayed_charge():
    events = make_hpge_waveforms(90, random_state=0)
    alpha = events.target_names[events.target] == "surface_alpha"
    assert np.all((events.truth.delayed_fraction > 0) == alpha)
    assert np.all(np.isnan(events.truth.release_time) == ~alpha)


def test_the_energy_is_the_pulse_height():
    energy = np.linspace(100.0, 3000.0, 60)
    once = make_hpge_waveforms(60, energy=energy, random_state=6, **{**SILENT, "gain": 6.5})
    twice = make_hpge_waveforms(60, energy=2 * energy, random_state=6, **{**SILENT, "gain": 6.5})
    np.testing.assert_allclose(twice.data, 2 * once.data, rtol=1e-6)
    np.testing.assert_array_equal(once.truth.energy, energy)


def test_pulses_and_noise_superpose_on_the_pedestal():
    options = {"random_state": 7, "gain": 6.5}
    both = make_hpge_waveforms(64, pedestal=1000.0, **options).data
    noise = make_hpge_waveforms(64, pedestal=1000.0, energy=0.0, **options).data
    pulses = make_hpge_waveforms(64, pedestal=0.0, white_noise=0.0, pink_noise=0.0, **options).data
    np.testing.assert_allclose(both, noise + pulses, atol=5e-3)


@pytest.mark.parametrize(
    ("white", "pink", "length"), [(2, 1, 1024), (0, 1, 1024), (1e-6, 1, 8192), (1, 1e-6, 256)]
)
def test_noise_filter_has_the_spectrum_of_the_relaxation_processes(white, pink, length):
    filter_ = noise_filter(white, pink, length)
    lags = np.arange(8 * length)
    rates = -np.log(np.sort(filter_.poles))
    omega = np.geomspace(1e-2 / length, np.pi, 300)
    lorentzians = np.sinh(rates) / (
        2 * np.sinh(rates / 2) ** 2 + 2 * np.sin(omega[:, None] / 2) ** 2
    )
    spectrum = white**2 + pink**2 / N_POLES * lorentzians.sum(axis=1)
    response = filter_.direct + np.sum(
        filter_.gains / (1 - filter_.poles * np.exp(-1j * omega[:, None])), axis=1
    )
    np.testing.assert_allclose(np.abs(response) ** 2, spectrum, rtol=1e-9)

    # The same by way of the impulse response and the stationary state.
    impulse = np.exp(np.log(filter_.poles) * lags[:, None]) @ filter_.gains
    impulse[0] += filter_.direct
    covariance = noise_autocovariance(white, pink, length)
    state = filter_.state_factor @ filter_.state_factor.T
    first = filter_.poles @ state @ filter_.poles + impulse[0] ** 2
    assert first == pytest.approx(white**2 + pink**2, rel=1e-9)
    assert covariance[0] == pytest.approx(first, rel=1e-9)


@pytest.fixture(scope="module")
def noise():
    data, _ = make_hpge_waveforms(
        4000, energy=0.0, white_noise=2.0, pink_noise=1.5, gain=3.0, pedestal=0.0,
        waveform_length=512, baseline_length=1500.0, return_X_y=True, random_state=8,
    )  # fmt: skip
    return data.astype(float) / 3.0


def test_noise_has_the_stated_autocovariance(noise):
    expected = noise_autocovariance(2.0, 1.5, 512)
    n, length = noise.shape
    for lag in (0, 1, 5, 50, 300):
        # Per record one mean over all pairs of the lag; records are independent.
        products = np.mean(noise[:, : length - lag] * noise[:, lag:], axis=1)
        error = products.std() / math.sqrt(n)
        assert abs(products.mean() - expected[lag]) < 4.5 * error


def test_noise_is_stationary_and_not_periodic(noise):
    expected = noise_autocovariance(2.0, 1.5, 512)
    n = len(noise)
    for sample in (0, 255, 511):
        assert noise[:, sample].var() == pytest.approx(expected[0], rel=4.5 * math.sqrt(2 / n))
    # Around the corner of a periodic record the covariance would be that of neighbours.
    product = noise[:, 0] * noise[:, -1]
    assert abs(product.mean() - expected[-1]) < 4.5 * product.std() / math.sqrt(n)
    assert expected[1] - expected[-1] > 10 * product.std() / math.sqrt(n)


@pytest.mark.parametrize("length", [512, 1024, 8192])
def test_pink_noise_has_slope_minus_one(length):
    # The spectrum in closed form times the frequency is constant, over all resolved decades.
    filter_ = noise_filter(0.0, 1.0, length)
    frequency = np.geomspace(1 / length, 0.2, 200)
    delays = np.exp(-2j * np.pi * frequency[:, None])
    power = np.abs(np.sum(filter_.gains / (1 - filter_.poles * delays), axis=1)) ** 2
    np.testing.assert_allclose(power * frequency / np.median(power * frequency), 1, rtol=0.1)
    slope, _ = np.polyfit(np.log(frequency), np.log(power), 1)
    assert slope == pytest.approx(-1, abs=0.02)


def test_noise_has_the_spectrum_of_its_autocovariance(noise):
    # Mean periodogram of a windowed record, exactly: the transform of the autocovariance times
    # the window's own.
    n, length = noise.shape
    window = np.hanning(length)
    power = np.abs(np.fft.rfft(noise * window)) ** 2
    lagged_window = np.correlate(window, window, "full")[length - 1 :]
    product = noise_autocovariance(2.0, 1.5, length) * lagged_window
    phases = 2 * np.pi * np.fft.rfftfreq(length)[:, None] * np.arange(length)
    expected = 2 * np.cos(phases) @ product - product[0]
    bins = slice(1, -1)
    pull = (power.mean(axis=0) - expected) / (power.std(axis=0) / math.sqrt(n))
    assert np.abs(pull[bins]).max() < 5
    assert np.mean(pull[bins] ** 2) == pytest.approx(1, abs=0.5)


def test_sites_fill_the_volume_and_alphas_the_surface():
    events = make_hpge_waveforms(6000, random_state=10)
    truth = events.truth
    inside = truth.site_radius[events.target < 2]
    volume = (inside[~np.isnan(inside)] ** 3 - R0**3) / (R**3 - R0**3)
    assert kstest(volume, "uniform").pvalue > 1e-4
    surface = (truth.site_radius[events.target == 2, 0] ** 2 - R0**2) / (R**2 - R0**2)
    assert kstest(surface, "uniform").pvalue > 1e-4


def test_shares_of_two_sites_are_uniform():
    truth = make_hpge_waveforms(3000, weights=(0, 1, 0), n_sites=2, random_state=11).truth
    assert truth.site_fraction.shape == (3000, 2)
    np.testing.assert_allclose(truth.site_fraction.sum(axis=1), 1)
    assert kstest(truth.site_fraction[:, 0], "uniform", args=(0.1, 0.8)).pvalue > 1e-4


def test_shares_sum_to_one_beyond_the_least():
    truth = make_hpge_waveforms(300, n_sites=(2, 4), random_state=12).truth
    np.testing.assert_allclose(np.nansum(truth.site_fraction, axis=1), 1)
    several = truth.n_sites > 1
    assert np.nanmin(truth.site_fraction[several]) >= 0.1
    np.testing.assert_array_equal(np.sum(~np.isnan(truth.site_radius), axis=1), truth.n_sites)
    assert set(truth.n_sites[several]) == {2, 3, 4}


def test_classes_have_the_stated_numbers():
    events = make_hpge_waveforms(1000, weights=(5, 3, 2), random_state=0)
    np.testing.assert_array_equal(np.bincount(events.target), [500, 300, 200])
    assert np.all((events.truth.n_sites > 1) == (events.target == 1))


def test_log_uniform_energies():
    energy = make_hpge_waveforms(
        2000, energy=(100.0, 3000.0), energy_distribution="log_uniform", random_state=1
    ).truth.energy
    uniform = np.log(energy / 100) / math.log(30)
    assert kstest(uniform, "uniform").pvalue > 1e-4


def test_multi_site_events_have_less_current_for_their_energy():
    # The slowest site of several carries only its share through the steep end of the potential.
    events = make_hpge_waveforms(
        600, weights=(1, 1, 0), energy=1.0, random_state=13, **{**IDEAL, "smoothing": 30.0}
    )
    current = np.diff(events.data, axis=1).max(axis=1)
    single, multi = current[events.target == 0], current[events.target == 1]
    assert np.mean(multi[:, None] < single) > 0.85


def test_the_same_call_gives_the_same_bits_whatever_the_threads():
    first = make_hpge_waveforms(300, random_state=42)
    before = np.random.get_state()  # noqa: NPY002
    second = make_hpge_waveforms(300, random_state=42, n_jobs=2)
    for now, then in zip(np.random.get_state(), before, strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(first.data, second.data)
    for name, values in first.truth.items():
        np.testing.assert_array_equal(values, second.truth[name])
    assert not np.array_equal(first.data, make_hpge_waveforms(300, random_state=43).data)


def test_digitizer_rounds_and_flags_saturation():
    options = {"n_samples": 60, "energy": (500.0, 3000.0), "random_state": 0}
    analog = make_hpge_waveforms(**options)
    digital = make_hpge_waveforms(**options, adc_bits=15)
    over = analog.data.max(axis=1) > 2**15 - 0.5
    np.testing.assert_array_equal(digital.truth.saturated, over)
    assert 0 < over.sum() < 60
    assert not analog.truth.saturated.any()
    np.testing.assert_array_equal(digital.data, np.rint(digital.data))
    assert np.abs(digital.data - analog.data)[~over].max() <= 0.5
    assert digital.data.max() == 2**15 - 1


@pytest.mark.parametrize(("bits", "dtype"), [(1, np.uint16), (12, np.uint16), (16, np.uint16),
                                             (17, np.float32), (24, np.float32)])  # fmt: skip
def test_digitizer_gives_whole_numbers_in_its_range(bits, dtype):
    options = {"energy": (500.0, 3000.0), "random_state": 0, "gain": 40.0, "pedestal": 60.0}
    analog = make_hpge_waveforms(70, **options).data
    data = make_hpge_waveforms(70, adc_bits=bits, **options).data
    assert data.dtype == dtype
    np.testing.assert_array_equal(data, np.rint(analog).clip(0, 2**bits - 1))
    X, _ = make_hpge_waveforms(70, adc_bits=bits, return_X_y=True, n_jobs=2, **options)
    np.testing.assert_array_equal(X, data)


def test_energies_and_weights_may_be_any_array_like():
    pd = pytest.importorskip("pandas")
    energy = [500.0, 1000, 2000.0]
    expected = make_hpge_waveforms(3, energy=np.array(energy), random_state=0)
    for given in (energy, pd.Series(energy, index=[7, 8, 9]), pd.array(energy)):
        events = make_hpge_waveforms(3, energy=given, random_state=0)
        np.testing.assert_array_equal(events.truth.energy, energy)
        np.testing.assert_array_equal(events.data, expected.data)
    for weights in ([1, 0, 0], np.array([1, 0, 0]), pd.Series([1.0, 0.0, 0.0])):
        assert not make_hpge_waveforms(5, weights=weights).target.any()


def test_outputs():
    pytest.importorskip("pandas")
    events = make_hpge_waveforms(10, waveform_length=600, as_frame=True, random_state=0)
    assert events.data.shape == (10, 600)
    assert events.data.dtype == np.float32
    assert len(events.frame) == 10
    np.testing.assert_array_equal(events.frame["target"], events.target)
    np.testing.assert_array_equal(events.frame["site_radius_0"], events.truth.site_radius[:, 0])
    X, y = make_hpge_waveforms(10, waveform_length=600, return_X_y=True, random_state=0)
    np.testing.assert_array_equal(X, events.data)
    np.testing.assert_array_equal(y, events.target)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 0}, "'n_samples'.*Got 0"),
        ({"sampling_period": -16.0}, "'sampling_period'"),
        ({"weights": (1, 1)}, r"'weights'.*3 finite numbers.*Got \(1, 1\)"),
        ({"weights": (0, 0, 0)}, "'weights'"),
        ({"weights": (1, -1, 0)}, "'weights'"),
        ({"n_sites": (1, 3)}, "'n_sites'.*Got"),
        ({"n_sites": (2.5, 3.5)}, "'n_sites'.*int.*Got"),
        ({"n_sites": (2, 3, 4)}, "'n_sites'.*range"),
        ({"min_site_fraction": 0.3}, "'min_site_fraction'.*1 / 4.*Got 0.3"),
        ({"energy": (2000.0, 1000.0)}, "'energy'.*low <= high.*Got"),
        ({"energy": -1.0}, "'energy'"),
        ({"energy": (0.0, 1.0), "energy_distribution": "log_uniform"}, "'energy'"),
        ({"energy": np.ones(3)}, "'energy'.*10 events"),
        ({"energy": [1.0, 2.0]}, "'energy'.*10 events.*Got"),
        ({"energy": ["a"] * 10}, "'energy'.*array of numbers"),
        ({"energy": {"low": 1.0}}, "'energy'.*array of numbers"),
        ({"energy": "high"}, "'energy'.*Got 'high'"),
        ({"energy": (True, 2.0)}, "'energy'.*Got"),
        ({"energy": ("a", "b")}, "'energy'.*low <= high"),
        ({"weights": {"a": 1}}, "'weights'.*array of numbers.*Got {'a': 1}"),
        ({"weights": ["a", "b", "c"]}, "'weights'.*array of numbers"),
        ({"energy": np.full(10, np.nan)}, "'energy'.*finite"),
        ({"delayed_fraction": 1.5}, "'delayed_fraction'.*Got"),
        ({"release_time": 0.0}, "'release_time'.*Got"),
        ({"release_time": (1.0, np.inf)}, "'release_time'"),
        ({"decay_time": 0.0}, "'decay_time'"),
        ({"contact_radius": 40.0}, "'contact_radius'.*below detector_radius=33.0"),
        ({"waveform_length": 64}, "do not fit into the waveform.*'waveform_length'"),
        ({"baseline_length": 100.0}, "do not fit into the waveform.*'baseline_length'"),
        ({"adc_bits": 40}, "'adc_bits'"),
    ],
)  # fmt: skip
def test_errors_name_the_parameter(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_hpge_waveforms(**{"n_samples": 10, **parameters})
