import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import LogisticRegression

from sknuc.metrics import (
    SurvivalDisplay,
    peak_region,
    sideband_weights,
    survival_fraction,
)

WINDOW = (1588.0, 1597.0)


@pytest.mark.parametrize(
    "sidebands",
    [
        [(1570, 1585), (1600, 1612)],
        [(1540, 1585), (1600, 1612), (1630, 1660)],
        [(1560, 1562), (1570, 1580), (1599, 1603), (1640, 1650)],
    ],
)
def test_sidebands_cancel_a_straight_continuum_exactly(sidebands):
    energy = np.arange(1500, 1700, 0.001) + 0.0005
    weight = sideband_weights(energy, window=WINDOW, sidebands=sidebands)
    for continuum in (np.ones_like(energy), energy - 1400):
        assert abs(np.sum(weight * continuum)) < 1e-9 * np.sum(np.abs(weight) * continuum)
    assert set(np.unique(weight[(energy > 1588) & (energy < 1597)])) == {1.0}


def test_two_bands_are_enough_to_fix_the_scale_and_more_have_the_least_variance():
    two = sideband_weights([1577.5, 1606.0], window=WINDOW, sidebands=[(1570, 1585), (1600, 1612)])
    # Linear interpolation between the bands' centres 1577.5 and 1606 at 1592.5.
    assert_allclose(two, [-9 / 15 * 13.5 / 28.5, -9 / 12 * 15 / 28.5])
    one = sideband_weights([1580.0], window=WINDOW, sidebands=[(1567, 1585)])
    assert_allclose(one, [-0.5])


def toy(rng, survival_line, survival_continuum, n_line, density, slope):
    """A Poisson number of events of a line on a tilted continuum."""
    n_line, n_flat = rng.poisson(n_line), rng.poisson(density * 100)
    u = rng.uniform(size=n_flat)
    # Density 1 + slope t on t in (-1, 1), by inversion.
    t = (np.sqrt((1 - slope) ** 2 + 4 * slope * u) - 1) / slope
    energy = np.r_[rng.normal(1592.5, 0.9, n_line), 1592.5 + 50 * t]
    passed = (
        rng.uniform(size=len(energy))
        < np.r_[np.full(n_line, survival_line), np.full(n_flat, survival_continuum)]
    )
    return energy, passed


@pytest.mark.parametrize(("line", "continuum"), [(0.9, 0.4), (0.1, 0.4)])
def test_survival_is_unbiased_and_its_error_is_the_spread(line, continuum):
    rng, trials = np.random.default_rng(7), 2000
    region = {"window": WINDOW, "sidebands": [(1570, 1585), (1600, 1612)]}
    values = []
    for _ in range(trials):
        s = survival_fraction(*toy(rng, line, continuum, 400, 18.0, 0.4), **region)
        values.append((s.fraction, s.std, s.n_events, s.n_events_std))
    values = np.array(values)
    pull = (values[:, 0] - line) / values[:, 1]
    assert abs(pull.mean()) < 4 / np.sqrt(trials) + 0.02  # 1/N bias of a ratio
    assert abs(pull.std() - 1) < 4 / np.sqrt(2 * trials)
    pull = (values[:, 2] - 400) / values[:, 3]
    assert abs(pull.mean()) < 4 / np.sqrt(trials) + 0.02
    assert abs(pull.std() - 1) < 4 / np.sqrt(2 * trials)


def test_plain_window_is_a_binomial_fraction():
    energy = np.repeat(2039.0, 200)
    passed = np.arange(200) < 60
    s = survival_fraction(energy, passed, window=(2004, 2074))
    assert s.fraction == 0.3
    assert s.std == pytest.approx(np.sqrt(0.3 * 0.7 / 200))
    low, high = survival_fraction(
        energy, passed, window=(2004, 2074), method="clopper-pearson"
    ).interval
    assert low < s.interval[0] < 0.3 < s.interval[1] < high
    assert str(s) == "0.300 ± 0.032"


@pytest.mark.parametrize(
    ("survival", "weight_passed", "weight_failed"), [(0.9, 1, 5), (0.9, 5, 1), (0.5, 1, 1)]
)
def test_interval_and_std_of_weighted_events_agree_and_cover(
    survival, weight_passed, weight_failed
):
    rng, trials, inside = np.random.default_rng(11), 1500, 0
    passing = survival * weight_passed
    truth = passing / (passing + (1 - survival) * weight_failed)
    for _ in range(trials):
        n = rng.poisson(400)
        passed = rng.uniform(size=n) < survival
        weight = np.where(passed, weight_passed, weight_failed)
        s = survival_fraction(np.zeros(n), passed, window=(-1, 1), sample_weight=weight)
        inside += s.interval[0] <= truth <= s.interval[1]
    assert abs(inside / trials - 0.68) < 4 * np.sqrt(0.68 * 0.32 / trials)
    # 0.68 of a Gaussian lie within 0.994 standard deviations; Wilson's is narrower by O(1/n).
    assert np.diff(s.interval)[0] / 2 == pytest.approx(0.994 * s.std, rel=0.03)


def test_nothing_failed_and_nothing_passed_keep_an_error():
    energy = np.r_[[1592.0] * 40, [1575.0] * 10]
    for sidebands, n_effective in ((None, 40), ([(1570, 1585)], 34**2 / (40 + 10 * 0.6**2))):
        region = {"window": WINDOW, "sidebands": sidebands}
        all_passed = survival_fraction(energy, energy > 0, **region)
        lowest = n_effective / (n_effective + 0.99446**2)  # Wilson's at k = n
        assert all_passed.interval == pytest.approx((lowest, 1.0), rel=1e-4)
        assert str(all_passed) == f"1.000 +0.000 −{1 - lowest:.3f}"
        none_passed = survival_fraction(energy, energy < 0, **region)
        assert none_passed.interval == pytest.approx((0.0, 1 - lowest), rel=1e-4)
        assert str(none_passed) == f"0.000 +{1 - lowest:.3f} −0.000"


def test_fraction_outside_zero_and_one_is_not_clipped():
    energy = np.r_[[1592.0] * 10, [1575.0] * 10]
    passed = np.r_[[True] * 10, [False] * 10]
    s = survival_fraction(energy, passed, window=WINDOW, sidebands=[(1570, 1585)])
    assert s.fraction == pytest.approx(10 / (10 - 6))
    assert s.interval[1] > s.fraction


def test_weights_scale_out_and_cut_and_anticut_add_up():
    rng = np.random.default_rng(8)
    energy, passed = toy(rng, 0.8, 0.4, 400, 20, 0.2)
    weight = rng.gamma(3.0, size=len(energy))
    region = {"window": WINDOW, "sidebands": [(1570, 1585), (1600, 1612)]}
    s = survival_fraction(energy, passed, sample_weight=weight, **region)
    other = survival_fraction(energy, ~passed, sample_weight=5 * weight, **region)
    assert s.fraction + other.fraction == pytest.approx(1)
    assert s.std == pytest.approx(other.std)
    assert other.n_events == pytest.approx(5 * s.n_events)


def test_peak_region_scales_with_the_resolution():
    region = peak_region(2103.5, 4.0, half_width=1.0, sideband_width=2.0, gap=1.0)
    assert region["window"] == (2099.5, 2107.5)
    assert region["sidebands"] == [(2087.5, 2095.5), (2111.5, 2119.5)]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"window": (5, 4)}, "'window' parameter"),
        ({"window": (0, np.inf)}, "'window' parameter"),
        ({"window": (100, 200)}, "holds no events"),
        ({"window": (0, 2), "sidebands": [(1, 3)]}, "overlap"),
        ({"window": (0, 2), "sidebands": [(3, 5), (4, 6)]}, "overlap"),
        ({"window": (0, 2), "sidebands": [(3, 4), (50, 60)]}, "surround"),
        ({"window": (0, 1), "sidebands": [(2, 3)]}, "must be positive"),
    ],
)
def test_bad_regions_are_named(kwargs, message):
    energy = np.r_[0.5, 2.5, 2.6]
    with pytest.raises(ValueError, match=message):
        survival_fraction(energy, energy > 1, **kwargs)


def test_sidebands_outside_of_the_recorded_energies_are_warned_of():
    rng = np.random.default_rng(12)
    energy = rng.uniform(1500, 1610, 5000)
    with pytest.warns(UserWarning, match=r"\(1620, 1640\) lies outside .* to 16"):
        sideband_weights(energy, window=WINDOW, sidebands=[(1540, 1560), (1620, 1640)])
    for band in [(1600, 1612), (1598, 1700)]:
        with pytest.warns(UserWarning, match="partly outside"):
            survival_fraction(energy, energy > 0, window=WINDOW, sidebands=[(1560, 1580), band])
    with pytest.warns(UserWarning, match="partly outside"):
        sideband_weights(energy, window=WINDOW, sidebands=[(1490, 1510), (1600, 1609)])
    # Cut within the line, on either side.
    line = rng.normal(1592.5, 1.0, 500)
    for kept in (line < 1593.5, line > 1591.5):
        with pytest.warns(UserWarning, match="lies outside"):
            sideband_weights(line[kept], window=WINDOW, sidebands=[(1575, 1585), (1600, 1610)])


def test_energies_that_end_by_themselves_are_not_warned_of():
    # Warnings are errors here. Few events leave the ends of their band empty by chance,
    rng = np.random.default_rng(13)
    for n in (0, 1, 10, 100):
        energy = rng.uniform(1500, 1612, n)
        sideband_weights(np.r_[energy, 1590.0], window=WINDOW, sidebands=[(1600, 1612)])
    # and nothing lies above the line of highest energy.
    for n in (10, 100, 1000, 10_000):
        energy = np.r_[rng.normal(2614.5, 1.2, n), rng.uniform(2500, 2614.5, n // 4)]
        sideband_weights(energy, **peak_region(2614.5, 2.8))


def test_columns_are_checked():
    for energy, message in (
        ([], "'energy' parameter holds no events"),
        ([1.0, np.nan], "NaN or infinity in 1 of 2 events"),
        ([np.nan, np.nan], "the column is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            survival_fraction(energy, np.ones(len(energy), dtype=bool), window=(0, 2))
    with pytest.raises(ValueError, match="'center' parameter"):
        peak_region(np.nan, 2.0)


def test_passed_must_be_boolean():
    with pytest.raises(ValueError, match="array of bool"):
        survival_fraction([1.0, 2.0], [0.3, 0.4], window=(0, 3))


def test_display_shows_what_survival_fraction_computes():
    rng = np.random.default_rng(9)
    energy, passed = toy(rng, 0.9, 0.4, 600, 30, 0.2)
    regions = {"DEP": peak_region(1592.5, 2.1), "continuum": (1600, 1640)}
    display = SurvivalDisplay.from_predictions(
        energy, {"A/E": passed, "all": passed | True}, regions=regions
    )
    expected = survival_fraction(energy, passed, **regions["DEP"])
    assert display.survival["A/E"]["DEP"] == expected
    assert_allclose(display.errorbars_[0][0].get_ydata()[0], expected.fraction)
    assert [t.get_text() for t in display.ax_.get_xticklabels()] == ["DEP", "continuum"]
    again = display.plot(ax=display.figure_.add_subplot())
    assert again.ax_.figure is again.figure_


def test_display_from_estimator_cuts_where_the_estimator_does():
    rng = np.random.default_rng(10)
    energy, passed = toy(rng, 0.9, 0.4, 600, 30, 0.2)
    X = np.where(passed, 1.0, -1.0)[:, None] + rng.normal(0, 0.1, (len(energy), 1))
    classifier = LogisticRegression().fit(X, np.where(passed, "single", "multi")[:, None].ravel())
    # The second class in order of names is "single".
    display = SurvivalDisplay.from_estimator(
        classifier, X, energy, regions={"continuum": (1600, 1640)}
    )
    expected = survival_fraction(energy, passed, window=(1600, 1640))
    assert display.survival["LogisticRegression"]["continuum"] == expected


def test_metrics_import_neither_matplotlib_nor_torch():
    code = "import sys, sknuc.metrics; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("passed", "regions", "message"),
    [
        ({}, {"all": (0, 3)}, "'passed' parameter .* empty dict"),
        (pd.Series([True, False]), {"all": (0, 3)}, "'passed' parameter .* dict from the names"),
        ({"cut": [True, False]}, {}, "'regions' parameter .* empty dict"),
        ({"cut": [True, False]}, [(0, 3)], "'regions' parameter .* dict from the names"),
    ],
)
def test_display_names_what_it_needs(passed, regions, message):
    with pytest.raises(ValueError, match=message):
        SurvivalDisplay.from_predictions([1.0, 2.0], passed, regions=regions)
