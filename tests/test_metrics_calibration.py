import os

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

from sknuc.datasets import fetch_legend_th228
from sknuc.metrics import (
    TH228_GAMMAS,
    TH228_LINES,
    PeakDisplay,
    acceptance_threshold,
    calibrate_energy,
    fit_compton_bands,
    fit_peak,
    peak_region,
    sideband_weights,
    survival_fraction,
)
from sknuc.metrics._bins import find_channels, histogram
from sknuc.metrics._peaks import _expected, _fwhm

#: counts, mu, sigma, background at both ends, step, tail fraction, tail length
THETA = np.array([4000.0, 2614.5, 1.1, 20.0, 10.0, 8.0, 0.15, 2.5])
INTENSITY = dict(zip(TH228_LINES, (9000, 1800, 1500, 450, 450, 900, 4500), strict=True))


def test_model_conserves_counts_and_integrates_its_density():
    line, _ = _expected(THETA, np.array([-1e4, 1e4]), (2590, 2640))
    assert line[0] == pytest.approx(THETA[0], rel=1e-12)
    # The tail is the distribution of a Gaussian less an exponential.
    rng = np.random.default_rng(0)
    n = 2_000_000
    tailed = rng.uniform(size=n) < THETA[6]
    x = rng.normal(THETA[1], THETA[2], n) - tailed * rng.exponential(THETA[7], n)
    edges = np.linspace(2600, 2620, 41)
    line, _ = _expected(THETA, edges, (2590, 2640))
    expected = line * n / THETA[0]
    pull = (np.histogram(x, edges)[0] - expected) / np.sqrt(expected)
    assert np.sum(pull**2) < 40 + 5 * np.sqrt(2 * 40)
    # Continuum and step: fine bins are the density, which steps by its height across the line.
    centers = np.array([2590.0, 2614.5, 2640.0])
    density = [
        _expected(THETA, np.array([c - 5e-4, c + 5e-4]), (2590, 2640))[1][0] / 1e-3 for c in centers
    ]
    straight = np.interp(centers, [2590, 2640], [20, 10])
    assert_allclose(density, straight + 8 * np.array([1, 0.5, 0]), rtol=1e-4)


def test_fwhm_is_where_the_density_has_fallen_to_half():
    assert _fwhm(THETA[:5]) == pytest.approx(2.354820045 * 1.1)
    edges = np.linspace(2600, 2620, 200_001)
    line = _expected(THETA, edges, (2590, 2640))[0]
    wide = np.count_nonzero(line > line.max() / 2) * (edges[1] - edges[0])
    assert _fwhm(THETA) == pytest.approx(wide, abs=5e-4)


@pytest.mark.parametrize(("n_line", "n_bins"), [(200, 120), (4000, 30)])
def test_fit_is_unbiased_and_its_errors_are_the_spread(n_line, n_bins):
    rng, trials, pulls = np.random.default_rng(1), 150, []
    truth = {"counts": n_line, "mu": 1592.5, "sigma": 0.9}
    for _ in range(trials):
        x = np.r_[
            rng.normal(1592.5, 0.9, rng.poisson(n_line)), rng.uniform(1578, 1607, rng.poisson(520))
        ]
        fit = fit_peak(x, window=(1578, 1607), n_bins=n_bins, shape="gaussian")
        pulls.append([(fit.params[k] - v) / fit.errors[k] for k, v in truth.items()])
    pulls = np.array(pulls)
    # The maximum-likelihood width of a weak line is low by a fraction of its error.
    assert np.all(np.abs(pulls.mean(axis=0)) < 4 / np.sqrt(trials))
    assert np.all(np.abs(pulls.std(axis=0) - 1) < 4 / np.sqrt(2 * trials))


def test_fit_finds_step_and_tail_where_there_are_some_and_only_there():
    rng = np.random.default_rng(2)
    tailed = rng.normal(2614.5, 1.1, 40_000)
    tailed[:6000] -= rng.exponential(2.5, 6000)
    x = np.r_[tailed, rng.uniform(2590, 2614.5, 1500), rng.uniform(2590, 2640, 500)]
    fit = fit_peak(x, window=(2590, 2640))
    assert fit.shape == "tail"
    for name, value in {
        "mu": 2614.5,
        "sigma": 1.1,
        "tail_fraction": 0.15,
        "tail_length": 2.5,
    }.items():
        assert abs(fit.params[name] - value) < 4 * fit.errors[name]
    assert fit.deviance < fit.n_dof + 5 * np.sqrt(2 * fit.n_dof)
    assert fit.fwhm > 2.3548 * fit.params["sigma"]
    # A useless parameter, bounded from below, lowers D + ln(500) k in 0.6 % of all cases.
    plain = [
        fit_peak(np.r_[rng.normal(0, 1, 200), rng.uniform(-15, 15, 300)], window=(-15, 15)).shape
        for _ in range(30)
    ]
    assert plain.count("gaussian") >= 27


@pytest.mark.parametrize("unit", [1e-5, 6.5, 1e6])
def test_fit_does_not_depend_on_the_unit_of_energy(unit):
    rng = np.random.default_rng(3)
    x = np.r_[rng.normal(1592.5, 0.9, 600), rng.uniform(1578, 1607, 500)]
    kev = fit_peak(x, window=(1578, 1607))
    adc = fit_peak(x * unit, window=(1578 * unit, 1607 * unit))
    for name in ("mu", "mu_std", "fwhm", "fwhm_std"):
        assert getattr(adc, name) / unit == pytest.approx(getattr(kev, name), rel=1e-3), name
    assert adc.errors["counts"] == pytest.approx(kev.errors["counts"], rel=1e-3)


@pytest.mark.parametrize("n_bins", ["auto", 1000])
def test_narrow_line_in_a_wide_window(n_bins):
    rng = np.random.default_rng(12)
    x = np.r_[rng.normal(0, 0.1, 1000), rng.uniform(-20, 20, 300)]
    fit = fit_peak(x, window=(-20, 20), n_bins=n_bins)
    assert abs(fit.fwhm - 0.2355) < 4 * fit.fwhm_std
    # A thousand events measure a width to 1 / sqrt(2000) of it at best.
    assert 1 / np.sqrt(2000) < fit.fwhm_std / fit.fwhm < 1.5 / np.sqrt(2000)


def test_line_that_bins_or_window_cannot_resolve_is_an_error():
    rng = np.random.default_rng(13)
    x = np.r_[rng.normal(0, 0.1, 1000), rng.uniform(-20, 20, 300)]
    # In the middle of a bin, and on the edge of two.
    for n_bins in (20, 21, 40):
        with pytest.raises(ValueError, match="raise 'n_bins'"):
            fit_peak(x, window=(-20, 20), n_bins=n_bins)
    with pytest.raises(ValueError, match="cannot be narrower than the channels"):
        fit_peak(np.rint(x), window=(-20, 20))
    with pytest.raises(ValueError, match="wider than the 'window'"):
        fit_peak(rng.normal(0, 20, 50_000), window=(-20, 20), shape="gaussian")
    with pytest.raises(ValueError, match="5 channels, 8 wide"):
        fit_peak(8 * np.rint(x / 8), window=(-20, 20))


@pytest.mark.parametrize("channels_per_sigma", [0.8, 1.0, 2.3, 7.7, 60.0])
def test_line_of_a_digitised_spectrum(channels_per_sigma):
    # Digitised by an ADC, calibrated, and stored with 32 bits.
    rng, trials, width, pulls = np.random.default_rng(14), 60, 1 / channels_per_sigma, []
    for trial in range(trials):
        x = np.r_[rng.normal(0, 1, rng.poisson(3000)), rng.uniform(-15, 15, rng.poisson(1500))]
        x = width * np.rint(x / width + 0.3) + 2614.511 - 0.3 * width
        fit = fit_peak(
            x.astype(np.float32), window=(2602, 2626), n_bins=(50, 120)[trial % 2], shape="gaussian"
        )
        truth = {"counts": 3000, "mu": 2614.511, "sigma": 1}
        pulls.append([(fit.params[k] - v) / fit.errors[k] for k, v in truth.items()])
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(trials))
    assert np.all(np.abs(np.std(pulls, axis=0) - 1) < 4 / np.sqrt(2 * trials))


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.1547, -20.0), (1e-4, 3.0)])
def test_channels_are_found_in_digitised_values_only(gain, offset):
    rng = np.random.default_rng(15)
    channel = rng.integers(5000, 5400, 3000)
    origin, width = find_channels(gain * channel + offset)
    assert width == pytest.approx(gain, rel=1e-9)
    assert (origin - offset) / gain == pytest.approx(channel.min(), abs=1e-6)
    for n_events in (9, 100, 3000):
        assert find_channels(gain * rng.uniform(5000, 5400, n_events) + offset) == (0.0, 0.0)
    window = gain * 5010 + offset, gain * 5369 + offset
    counts, edges, _ = histogram(gain * channel + offset, window, 120)
    assert_allclose((edges - offset) / gain, np.arange(5009.5, 5369.6, 3), atol=1e-6)
    assert counts.sum() == np.count_nonzero((channel >= 5010) & (channel <= 5369))


def test_fit_without_a_line_is_an_error():
    rng = np.random.default_rng(4)
    with pytest.raises(ValueError, match="needs more than"):
        fit_peak([1.0, 2.0], window=(0, 3))
    with pytest.raises(ValueError, match="found no line"):
        fit_peak(np.linspace(0, 10, 500), window=(0, 10))
    with pytest.raises(ValueError, match="'window' parameter"):
        fit_peak(rng.normal(size=100), window=(1, 0))
    with pytest.raises(ValueError, match="NaN"):
        fit_peak([1.0, np.nan], window=(0, 3))


def spectrum(rng, *, low=200.0, fwhm=1.0, scale=1.0):
    """Th-228 energies in keV: lines with FWHM(E)² = fwhm² (1 + E / 500 keV), falling Compton."""
    parts = [rng.exponential(900.0, int(60_000 * scale)), rng.uniform(0, 2380, int(20_000 * scale))]
    for name, energy in TH228_LINES.items():
        sigma = fwhm * np.sqrt(1 + energy / 500) / 2.3548
        parts.append(rng.normal(energy, sigma, int(INTENSITY[name] * scale)))
    # Lines of the source that are not in the list.
    parts.append(rng.normal(238.632, 0.6, int(30_000 * scale)))
    parts.append(rng.normal(1078.6, 0.8, int(300 * scale)))
    energy = np.concatenate(parts)
    return energy[(energy > low) & (energy < 2700)]


@pytest.mark.parametrize(
    ("gain", "offset", "low", "fwhm"),
    [
        (0.1547, 0.0, 800, 1.0),
        (0.1547, -20.0, 200, 1.0),
        (7.3, 30.0, 500, 1.5),
        (1e-4, 0.0, 200, 0.7),
        (500.0, -10.0, 800, 2.0),
        (0.31, 5.0, 1000, 1.0),
    ],
)
def test_calibration_needs_no_initial_gain(gain, offset, low, fwhm):
    rng = np.random.default_rng(5)
    energy = spectrum(rng, low=low, fwhm=fwhm)
    calibration = calibrate_energy((energy - offset) / gain)
    recorded = {name for name, e in TH228_LINES.items() if e > low}
    assert set(calibration.lines) == recorded
    assert calibration.missing == ()
    for name, (residual, std) in calibration.residuals.items():
        assert abs(residual) < 4 * std, name
    std = np.sqrt(np.diag(calibration.covariance))
    assert np.all(np.abs(calibration.coefficients - [offset, gain]) < 4 * std)
    assert_allclose(calibration.energy((2000 - offset) / gain), 2000, atol=0.2)
    for name, (width, width_std) in calibration.fwhm.items():
        expected = fwhm * np.sqrt(1 + TH228_LINES[name] / 500)
        assert abs(width - expected) < 4.5 * width_std, name


@pytest.mark.parametrize("gain", [0.31, 0.5, 0.77, 1.0, 1.5])
def test_calibration_of_channel_numbers(gain):
    calibration = calibrate_energy(np.rint(spectrum(np.random.default_rng(16)) / gain))
    assert set(calibration.lines) == set(TH228_LINES)
    for name, (residual, std) in calibration.residuals.items():
        assert abs(residual) < 4 * std, name
    std = np.sqrt(np.diag(calibration.covariance))
    assert np.all(np.abs(calibration.coefficients - [0, gain]) < 4 * std)
    for name, (width, width_std) in calibration.fwhm.items():
        assert abs(width - np.sqrt(1 + TH228_LINES[name] / 500)) < 4.5 * width_std, name


def test_quadratic_calibration_takes_up_a_curvature():
    energy = spectrum(np.random.default_rng(6))
    pulse_height = energy / 0.15 * (1 - 2e-7 * energy)
    straight = calibrate_energy(pulse_height)
    curved = calibrate_energy(pulse_height, degree=2)

    def chi2(calibration):
        return sum((r / s) ** 2 for r, s in calibration.residuals.values())

    assert chi2(curved) < 4 + 5 * np.sqrt(8)
    assert chi2(straight) > 3 * chi2(curved)


def test_calibration_without_lines_is_an_error():
    rng = np.random.default_rng(7)
    with pytest.raises(ValueError, match="of the lines"):
        calibrate_energy(rng.exponential(500, 20_000))
    with pytest.raises(ValueError, match="of the lines"):
        calibrate_energy(np.r_[rng.normal(1460.8, 1, 3000), rng.uniform(0, 2000, 9000)])
    with pytest.raises(ValueError, match="constant"):
        calibrate_energy(np.ones(50))
    with pytest.raises(ValueError, match="'degree' parameter"):
        calibrate_energy(np.ones(50), degree=3)
    with pytest.raises(ValueError, match="infinity"):
        calibrate_energy([1.0, np.inf])
    with pytest.raises(ValueError, match="'pulse_height' parameter holds no events"):
        calibrate_energy([])
    with pytest.raises(ValueError, match="the column is empty"):
        calibrate_energy(np.full(50, np.nan))


def single_and_multi_site(rng, n):
    energy = rng.uniform(900, 2350, n)
    mu = 0.0748 - 3e-7 * energy
    sigma = np.sqrt(4e-8 + (0.5 / energy) ** 2)
    single = rng.uniform(size=n) < 0.5
    aoe = np.where(
        single, rng.normal(mu, sigma), mu * (1 - rng.beta(1, 3, n)) + rng.normal(0, sigma)
    )
    return energy, aoe, single, mu, sigma


def test_compton_bands_give_a_standard_normal_classifier():
    energy, aoe, single, mu, sigma = single_and_multi_site(np.random.default_rng(8), 60_000)
    correction = fit_compton_bands(energy, aoe)
    zeta = correction.classifier(energy, aoe)[single]
    # Errors of the fitted mean and width, pulled down by the multi-site shoulder under the peak.
    assert abs(zeta.mean()) < 0.12
    assert abs(zeta.std() - 1) < 0.06
    assert np.polyfit(energy[single], zeta, 1)[0] * 1450 == pytest.approx(0, abs=0.15)
    assert_allclose(correction.sigma(energy), sigma, rtol=0.1)
    assert_allclose(correction.mu(energy), mu, atol=0.15 * sigma.min())


def test_cut_at_90_percent_of_single_site_events():
    # A/E = 1 with 1 % noise at every energy: the cut is 1 - 1.2816 * 0.01.
    rng = np.random.default_rng(9)
    energy, aoe = rng.uniform(900, 2350, 100_000), rng.normal(1, 0.01, 100_000)
    correction = fit_compton_bands(energy, aoe)
    zeta = acceptance_threshold(correction.classifier(energy, aoe), acceptance=0.9)
    assert zeta == pytest.approx(norm.ppf(0.1), abs=0.03)
    cut = correction.mu(1592.5) + zeta * correction.sigma(1592.5)
    assert cut == pytest.approx(1 - 1.2816 * 0.01, abs=3e-4)


def test_compton_band_without_events_is_an_error():
    rng = np.random.default_rng(10)
    with pytest.raises(ValueError, match="a band needs 100"):
        fit_compton_bands(rng.uniform(900, 1500, 5000), rng.normal(1, 0.01, 5000))
    energy = rng.uniform(900, 2350, 5000)
    with pytest.raises(ValueError, match="'aoe' parameter of fit_compton_bands is 1 in a quarter"):
        fit_compton_bands(energy, np.ones(5000))
    with pytest.raises(ValueError, match=r"cannot fit .* between 900 and 1021 keV"):
        fit_compton_bands(energy, np.rint(rng.normal(1, 0.2, 5000)))
    for exclude in (-3.0, np.nan):
        with pytest.raises(ValueError, match="'exclude' parameter"):
            fit_compton_bands(energy, energy, exclude=exclude)


def test_compton_bands_of_a_digitised_current():
    energy, aoe, *_ = single_and_multi_site(np.random.default_rng(17), 60_000)
    fine = fit_compton_bands(energy, aoe)
    coarse = fit_compton_bands(energy, 3e-4 * np.rint(aoe / 3e-4))  # sigma is 1 to 2 channels
    for e in (1000.0, 1600.0, 2300.0):
        assert coarse.mu(e) == pytest.approx(fine.mu(e), abs=0.15 * fine.sigma(e))
        assert coarse.sigma(e) == pytest.approx(fine.sigma(e), rel=0.1)


def test_compton_bands_do_not_hold_the_lines_of_the_source():
    # Many multi-site events in weak lines, which are not among those to calibrate with.
    energy, aoe, *_ = single_and_multi_site(np.random.default_rng(18), 20_000)
    lines = np.repeat([902.0, 1078.62, 1512.7, 1805.9], 500)
    fits = [
        fit_compton_bands(np.r_[energy, e], np.r_[aoe, np.full(len(e), 0.99 * np.median(aoe))])
        for e in (lines[:0], lines)
    ]
    assert_allclose(fits[1].mu_coef, fits[0].mu_coef, rtol=1e-12)
    assert_allclose(fits[1].band_energy, fits[0].band_energy, rtol=1e-12)
    assert fit_compton_bands(energy, aoe, exclude=np.float32(10)).mu_coef[0] == fits[0].mu_coef[0]


def test_lines_fit_into_the_level_schemes():
    # Transitions of 212Po end at its level of 727.33 keV, those of 208Pb at 2614.51 or 3197.71.
    line = {name.split()[-1]: energy for name, energy in TH228_GAMMAS.items()}
    for cascade, direct in (("893", "1621"), ("952", "1680"), ("1079", "1806"), ("785", "1513")):
        assert line[cascade] + line["727"] == pytest.approx(line[direct], abs=0.4)
    assert line["511"] + line["583"] == pytest.approx(line["1094"], abs=0.1)
    assert line["FEP"] - line["DEP"] == pytest.approx(2 * (line["FEP"] - line["SEP"]))


def test_peak_display_draws_the_fit():
    rng = np.random.default_rng(11)
    energy = np.r_[rng.normal(2614.5, 1.0, 3000), rng.uniform(2600, 2630, 300)]
    display = PeakDisplay.from_energies(energy, window=(2600, 2630), name="FEP")
    # The curve is in counts per bin: its integral is the number of events.
    x, y = display.line_.get_data()
    width = display.peak.bin_edges[1] - display.peak.bin_edges[0]
    assert np.trapezoid(y, x) / width == pytest.approx(len(energy), rel=0.02)
    assert display.ax_.get_ylabel() == "Counts / 0.25 keV"
    assert PeakDisplay.from_fit(display.peak, ax=display.ax_).figure_ is display.figure_


@pytest.fixture(scope="module")
def legend():
    if not os.environ.get("SKNUC_DATA"):
        pytest.skip("SKNUC_DATA names no folder with the LEGEND-200 table")
    table = fetch_legend_th228(download_if_missing=False)
    return dict(zip(table.feature_names, table.data.T, strict=True))


def test_legend_lines_are_found_and_are_those_of_a_germanium_detector(legend):
    calibration = calibrate_energy(legend["cuspEmax"])
    assert set(calibration.lines) == {"208Tl 861", "DEP", "212Bi 1621", "SEP", "FEP"}
    assert all(abs(r) < 0.3 for r, _ in calibration.residuals.values())
    assert calibration.fwhm["FEP"][0] < 3.0
    # Annihilation in flight broadens the single escape line, not the double escape line.
    (sep, sep_std), (dep, dep_std) = calibration.fwhm["SEP"], calibration.fwhm["DEP"]
    assert sep - dep > 3 * np.hypot(sep_std, dep_std)
    # The same lines at the same energies from another filter with another gain.
    daq = calibrate_energy(legend["daqenergy"].astype(float))
    other = daq.energy(legend["daqenergy"])
    assert abs(np.median(other - calibration.energy(legend["cuspEmax"]))) < 0.5


def test_plain_aoe_cut_reproduces_the_reference_values(legend):
    # The cut A/E >= 0.98 mu(E) reproduces the reference survival fractions of this table under a
    # plain A/E cut, DEP 0.92 ± 0.09, SEP 0.105 ± 0.022, FEP 0.134 ± 0.006, continuum 0.40, within
    # their errors.
    calibration = calibrate_energy(legend["cuspEmax"])
    energy, aoe = calibration.energy(legend["cuspEmax"]), legend["A_max"] / legend["cuspEmax"]
    correction = fit_compton_bands(energy, aoe)
    passed = aoe / correction.mu(energy) >= 0.98
    regions = {
        n: peak_region(calibration.lines[n], calibration.fwhm[n][0]) for n in ("DEP", "SEP", "FEP")
    }
    for name, (value, std) in {
        "DEP": (0.92, 0.09),
        "SEP": (0.105, 0.022),
        "FEP": (0.134, 0.006),
    }.items():
        survival = survival_fraction(energy, passed, **regions[name])
        assert abs(survival.fraction - value) < 2 * np.hypot(survival.std, std), name
    continuum = survival_fraction(energy, passed, window=(2004, 2074))
    assert abs(continuum.fraction - 0.40) < 2 * continuum.std
    net = sideband_weights(energy, **regions["DEP"])
    assert abs(net.sum() - 182) < 3 * np.sqrt((net**2).sum())
