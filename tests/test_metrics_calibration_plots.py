import matplotlib.pyplot as plt
import numpy as np
import pytest
from estimators import NormalRegressor
from numpy.testing import assert_allclose
from scipy.stats import binom, norm
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, TunedThresholdClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sknuc.metrics import (
    CoverageDisplay,
    IntervalDisplay,
    PITDisplay,
    ReliabilityDisplay,
    coverage,
    expected_calibration_error,
    pit_test,
)
from sknuc.uncertainty import ConformalRegressor


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


class OwnIntervals(BaseEstimator):
    """Intervals that are no quantiles, as conformal ones, up to a coverage that they can know."""

    def __init__(self, known=1.0):
        self.known = known

    def predict(self, X):
        return X[:, 0]

    def predict_interval(self, X, coverage=0.68):
        self.asked_ = [*getattr(self, "asked_", []), coverage]
        if coverage > self.known:
            raise ValueError(f"A coverage of {coverage} needs more events.")
        return X[:, :1] + np.array([-2.0, 2.0]) * norm.ppf((1 + coverage) / 2)


class OnlyDistributions(BaseEstimator):
    """A normal distribution of unit width about the first feature, and no prediction."""

    def predict_interval(self, X, coverage=0.68):
        return X[:, :1] + np.array([-1.0, 1.0]) * norm.ppf((1 + coverage) / 2)

    def predict_quantiles(self, X, quantiles=(0.5,)):
        return X[:, :1] + norm.ppf(quantiles)


@pytest.fixture(scope="module")
def events():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    y = X @ [1.0, -2.0, 0.5] + 10 + rng.normal(0, 2.0, 3000)
    return X, y


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5])
def test_coverage_of_normal_intervals_is_the_closed_form(events, factor):
    X, y = events
    model = NormalRegressor(factor).fit(X[:1500], y[:1500])
    display = CoverageDisplay.from_estimator(model, X[1500:], y[1500:])
    (results,) = display.coverages.values()
    nominal = np.array([r.nominal for r in results])
    expected = 2 * norm.cdf(factor * norm.ppf((1 + nominal) / 2)) - 1
    fraction = np.array([r.fraction for r in results])
    # Half of the events fitted the width: its own error adds to that of the test.
    assert_allclose(fraction, expected, atol=4 * 0.5 / np.sqrt(1500))
    low, high = np.moveaxis(model.predict_interval(X[1500:], 0.5), 1, 0)
    assert results[4] == coverage(y[1500:], low, high, nominal=0.5)
    points = display.errorbars_[0].lines[0].get_xydata()
    assert_allclose(points, np.column_stack([nominal, fraction]))


def test_band_of_coverage_is_binomial(events):
    _, y = events
    ends = np.column_stack([np.full(3000, -5.0), np.full(3000, 12.0)])
    display = CoverageDisplay.from_predictions(y, [ends], nominal=[0.5])
    path = display.bands_[1].get_paths()[0].vertices
    at_half = np.sort(path[np.isclose(path[:, 0], 0.5), 1])
    assert_allclose(at_half, 0.5 + np.array([-1, 1]) * norm.ppf(0.84) * 0.5 / np.sqrt(3000), 1e-3)
    weight = np.repeat([0.0, 1.0], 1500)
    half = CoverageDisplay.from_predictions(y, [ends], nominal=[0.5], sample_weight=weight)
    assert half.n_effective == 1500


def test_intervals_that_are_no_quantiles_are_asked_for_at_every_coverage(events):
    X, _ = events
    rng = np.random.default_rng(1)
    display = CoverageDisplay.from_estimator(
        OwnIntervals(), X, X[:, 0] + rng.normal(0, 2.0, len(X)), nominal=[0.3, 0.9], name="own"
    )
    for result in display.coverages["own"]:
        assert result.p_value > 1e-4
    assert legend(display.ax_) == ["95 % band", "68 % band", "own"]


def test_default_coverages_that_a_model_cannot_know_are_left_out_with_a_warning(events):
    X, y = events
    with pytest.warns(UserWarning, match="leaves out .* 0.95, 0.99, .* needs more events"):
        display = CoverageDisplay.from_estimator(OwnIntervals(known=0.92), X, y)
    (results,) = display.coverages.values()
    assert [r.nominal for r in results] == pytest.approx(np.arange(1, 10) / 10)
    # What was asked for is not left out, and what fails at every coverage has another reason.
    with pytest.raises(ValueError, match=r"coverage of 0.95 needs"):
        CoverageDisplay.from_estimator(OwnIntervals(known=0.92), X, y, nominal=[0.5, 0.95])
    with pytest.raises(ValueError, match=r"coverage of 0.1 needs"):
        CoverageDisplay.from_estimator(OwnIntervals(known=0.05), X, y)


def test_nobody_is_asked_again_after_a_refusal(events):
    X, y = events
    model = OwnIntervals(known=0.55)
    with pytest.warns(UserWarning, match="leaves out the nominal coverages 0.6, 0.7"):
        CoverageDisplay.from_estimator(model, X, y)
    assert model.asked_ == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    model = OwnIntervals(known=0.05)
    with pytest.raises(ValueError, match=r"coverage of 0.1 needs"):
        CoverageDisplay.from_estimator(model, X, y)
    assert model.asked_ == [0.1]


class CountedRegressor(NormalRegressor):
    """Counts how often the events are looked at."""

    n_looks_ = 0

    def predict(self, X, return_std=False):
        # Of what is wrong one event tells.
        self.n_looks_ += len(X) > 1
        return super().predict(X, return_std=return_std)

    def predict_quantiles(self, X, quantiles=(0.5,)):
        self.n_looks_ += 1
        return super().predict_quantiles(X, quantiles)


def test_quantiles_at_all_coverages_take_one_pass_and_wrong_events_are_refused_soon(events):
    X, y = events
    model = CountedRegressor().fit(X, y)
    model.n_looks_ = 0
    CoverageDisplay.from_estimator(model, X, y)
    assert model.n_looks_ == 1
    for draw in (CoverageDisplay, PITDisplay):
        model.n_looks_ = 0
        with pytest.raises(ValueError, match="X has 2 features"):
            draw.from_estimator(model, X[:, :2], y)
        assert model.n_looks_ <= 2


def test_conformal_intervals_of_few_events_are_drawn_as_far_as_they_go(events):
    X, y = events
    model = ConformalRegressor(LinearRegression(), random_state=0).fit(X[:60], y[:60])
    with pytest.warns(UserWarning, match=r"leaves out .* 0.99, as ConformalRegressor says: .* 60"):
        display = CoverageDisplay.from_estimator(model, X[60:], y[60:])
    (results,) = display.coverages.values()
    assert results[-1].nominal == 0.95
    low, high = model.predict_interval(X[60:], 0.95).T
    assert results[-1].fraction == np.mean((low <= y[60:]) & (y[60:] <= high))


@pytest.mark.parametrize("draw", [CoverageDisplay, PITDisplay, IntervalDisplay])
def test_truths_that_do_not_fit_are_refused_before_all_events_are_looked_at(events, draw):
    X, y = events
    two = np.column_stack([y, -y])
    model = CountedRegressor().fit(X, two)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        draw.from_estimator(model, X, two[1:])
    with pytest.raises(ValueError, match=rf"'y' .* {draw.__name__}.* predicts 2 targets. Got the"):
        draw.from_estimator(model, X, y)
    assert model.n_looks_ == 0
    with pytest.raises(ValueError, match=r"'y' .* \(3000,\), as .* predicts 1 target. Got .*, 2\)"):
        draw.from_estimator(NormalRegressor().fit(X, y), X, two)


@pytest.mark.parametrize("draw", [CoverageDisplay, PITDisplay, IntervalDisplay])
def test_wrong_steps_and_truths_are_refused_before_a_pipeline_transforms_all_events(events, draw):
    X, y = events
    seen = []

    def look(X):
        seen.append(len(X))
        return X

    for last, truth, message in (
        (LinearRegression(), y, "LinearRegression has none"),
        (NormalRegressor(), np.column_stack([y, y]), "predicts 1 target. Got the shape"),
    ):
        pipe = make_pipeline(FunctionTransformer(look), last).fit(X, y)
        search = GridSearchCV(pipe, {}, cv=2).fit(X, y)
        for wrapped in (pipe, search):
            seen.clear()
            with pytest.raises(ValueError, match=message):
                draw.from_estimator(wrapped, X, truth)
            assert sum(seen) <= 1
    # Then they are transformed once.
    seen.clear()
    draw.from_estimator(pipe, X, y)
    assert sorted(seen)[1:] == [len(X)]


def test_distributions_without_predictions_are_judged(events):
    X, _ = events
    y = X[:, 0] + np.random.default_rng(7).normal(size=len(X))
    model = OnlyDistributions()
    (results,) = CoverageDisplay.from_estimator(model, X, y).coverages.values()
    for result in results:
        assert result == coverage(
            y, model.predict_interval(X, result.nominal), nominal=result.nominal
        )
    (u,) = PITDisplay.from_estimator(model, X, y, n_levels=999).u.values()
    assert np.abs(u - norm.cdf(y - X[:, 0])).max() <= 1e-3 + 1e-12
    for draw in (CoverageDisplay, PITDisplay):
        with pytest.raises(ValueError, match=r"of shape \(3000, 2, 2\)|shape \(3000, 1, 2\)"):
            draw.from_estimator(model, X, np.column_stack([y, y]))
    message = r"'estimator' .* must have the method predict\. OnlyDist.* Give its predictions to"
    with pytest.raises(ValueError, match=message):
        IntervalDisplay.from_estimator(model, X, y)


@pytest.mark.parametrize("draw", [CoverageDisplay, PITDisplay, IntervalDisplay, ReliabilityDisplay])
def test_searches_that_keep_no_estimator_say_so(events, draw):
    X, y = events
    is_classified = draw is ReliabilityDisplay
    y = y > y.mean() if is_classified else y
    model = LogisticRegression() if is_classified else NormalRegressor()
    # That which the search is given is not what it would find, even if it is fitted.
    for given in (model, FrozenEstimator(clone(model).fit(X, y))):
        with pytest.raises(NotFittedError, match="This GridSearchCV instance is not fitted yet"):
            draw.from_estimator(GridSearchCV(given, {}), X, y)
    search = GridSearchCV(model, {}, cv=2, refit=False).fit(X, y)
    with pytest.raises(ValueError, match=r"'refit' parameter of GridSearchCV must .* Got False"):
        draw.from_estimator(search, X, y)


def test_curves_of_several_models_and_targets_share_axes(events):
    X, y = events
    two = np.column_stack([y, -3 * y])
    first = CoverageDisplay.from_estimator(
        NormalRegressor().fit(X, y), X, y, nominal=[0.5], name="a"
    )
    second = CoverageDisplay.from_estimator(
        NormalRegressor().fit(X, two),
        X,
        two,
        nominal=[0.5],
        target_names=["E (keV)", "z (mm)"],
        name="b",
        band=False,
        ax=first.ax_,
    )
    assert second.figure_ is first.figure_
    assert second.bands_ == []
    assert legend(first.ax_)[2:] == ["a", "b, E (keV)", "b, z (mm)"]
    colors = [bar.lines[0].get_color() for bar in (*first.errorbars_, *second.errorbars_)]
    assert len(set(colors)) == 3
    fractions = [results[0].fraction for results in second.coverages.values()]
    assert_allclose(fractions, first.coverages["a"][0].fraction)


def test_searches_and_pipelines_are_unwrapped(events):
    X, y = events
    bare = NormalRegressor().fit(StandardScaler().fit_transform(X), y)
    pipe = make_pipeline(StandardScaler(), NormalRegressor())
    search = GridSearchCV(pipe, {"normalregressor__factor": [1.0]}, cv=2).fit(X, y)
    expected = PITDisplay.from_estimator(bare, StandardScaler().fit_transform(X), y)
    for wrapped in (search, search.best_estimator_):
        display = PITDisplay.from_estimator(wrapped, X, y)
        assert_allclose(display.u["NormalRegressor"], expected.u["NormalRegressor"])
        coverages = CoverageDisplay.from_estimator(wrapped, X, y, nominal=[0.5]).coverages
        assert coverages.keys() == {"NormalRegressor"}
        IntervalDisplay.from_estimator(wrapped, X, y, feature=1)


def test_pit_of_a_model_is_its_distribution_function(events):
    X, y = events
    model = NormalRegressor(0.7).fit(X, y)
    display = PITDisplay.from_estimator(model, X, y, n_levels=999)
    exact = norm.cdf(y, *model.predict(X, return_std=True))
    assert np.abs(display.u["NormalRegressor"] - exact).max() <= 1e-3 + 1e-12
    test = display.tests_["NormalRegressor"]
    assert test == pit_test(display.u["NormalRegressor"])
    assert test.p_value < 1e-6
    assert test.dispersion_z > 5
    # The density integrates to one.
    assert_allclose(display.lines_[0].get_data().values.mean(), 1.0)


def test_pit_of_few_calibration_events_has_as_many_levels_as_they_support(events):
    X, y = events
    model = ConformalRegressor(LinearRegression(), random_state=0).fit(X[:12], y[:12])
    # Twelve events reach a coverage of 12/13: outermost levels of 1/26, which are 25 levels.
    with pytest.warns(UserWarning, match="25 quantiles instead of 99, as Conf.* needs at least 49"):
        display = PITDisplay.from_estimator(model, X, y)
    given = PITDisplay.from_estimator(model, X, y, n_levels=25)
    assert_allclose(display.u["ConformalRegressor"], given.u["ConformalRegressor"])
    for n_levels in (26, 99):
        with pytest.raises(ValueError, match="needs at least"):
            PITDisplay.from_estimator(model, X, y, n_levels=n_levels)


def test_pit_does_not_depend_on_the_blocks_of_events(events, monkeypatch):
    X, y = events
    two = np.column_stack([y, -y])
    model = NormalRegressor().fit(X, two)
    whole = PITDisplay.from_estimator(model, X, two).u
    monkeypatch.setattr("sknuc.metrics._plot_pit.BLOCK", 700)
    for name, u in PITDisplay.from_estimator(model, X, two).u.items():
        assert_allclose(u, whole[name])


def test_pit_band_holds_the_share_of_bins_that_it_claims():
    rng = np.random.default_rng(2)
    u = rng.uniform(size=(2000, 40))
    display = PITDisplay.from_predictions(u, n_bins=50)
    height = [band.get_height() / 2 for band in display.bands_]
    values = np.concatenate([line.get_data().values for line in display.lines_])
    for half, share in zip(height, (0.95, 0.68), strict=True):
        # Counts are whole numbers of mean 40, of which a band holds a share near what it claims.
        last = np.floor(40 * half + 1e-9)
        exact = binom.cdf(40 + last, 2000, 1 / 50) - binom.cdf(39 - last, 2000, 1 / 50)
        assert abs(exact - share) < binom.pmf(40 - last, 2000, 1 / 50)
        error = np.sqrt(exact * (1 - exact) / values.size)
        assert abs((np.abs(values - 1) <= half).mean() - exact) < 4 * error


def test_signed_weights_cancel_in_the_histogram():
    u = np.random.default_rng(3).uniform(size=200)
    weight = np.r_[np.ones(200), -np.ones(50)]
    display = PITDisplay.from_predictions(np.r_[u, u[:50]], sample_weight=weight, n_bins=10)
    without = PITDisplay.from_predictions(u[50:], n_bins=10)
    assert_allclose(display.lines_[0].get_data().values, without.lines_[0].get_data().values)
    # The band is that of 250 fluctuating events for 150 that are left.
    assert_allclose(
        display.bands_[0].get_height() / without.bands_[0].get_height(), np.sqrt(250 / 150)
    )


def segments(collection):
    return np.array([s for s in collection.get_segments() if len(s)]).reshape(-1, 2, 2)


def test_intervals_are_drawn_where_they_are(events):
    X, y = events
    X, y = X[:40], y[:40]
    model = NormalRegressor().fit(X, y)
    display = IntervalDisplay.from_estimator(
        model, X, y, coverage=0.5, unit="mm", y_name="position"
    )
    assert display.ax_.get_xlabel() == "True position (mm)"
    assert display.ax_.get_ylabel() == "Predicted position (mm)"
    drawn = [segments(c) for c in display.intervals_]
    low, high = model.predict_interval(X, 0.5).T
    inside = (low <= y) & (y <= high)
    for lines, mask in zip(drawn, (inside, ~inside), strict=True):
        assert len(lines) == mask.sum()
        order = np.argsort(y[mask])
        assert_allclose(lines[:, 0], np.column_stack([y, low])[mask][order])
        assert_allclose(lines[:, 1], np.column_stack([y, high])[mask][order])
    assert f"covers {100 * inside.mean():.1f}" in legend(display.ax_)[0]
    assert display.ax_.get_legend().get_title().get_text() == ""


def test_intervals_against_a_feature_and_of_a_target(events):
    pd = pytest.importorskip("pandas")
    X, y = events
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    two = np.column_stack([y, y**2])
    model = NormalRegressor().fit(frame, two)
    display = IntervalDisplay.from_estimator(
        model, frame, two, feature="b", target=1, max_events=100, unit="keV", style="band"
    )
    assert display.ax_.get_xlabel() == "b"
    assert_allclose(display.y_true, y**2)
    x = display.line_.get_xdata()
    assert len(x) == 100
    assert np.all(np.diff(x) > 0)
    assert (x[0], x[-1]) == (X[:, 1].min(), X[:, 1].max())
    # What is not drawn counts nevertheless, and is told.
    assert display.coverage.n_effective == pytest.approx(3000)
    assert display.ax_.get_legend().get_title().get_text() == "100 of 3000 events drawn"


def test_targets_are_named_by_their_columns(events):
    pd = pytest.importorskip("pandas")
    X, y = events
    frame = pd.DataFrame({"E (keV)": y, "z (mm)": -3 * y})
    model = NormalRegressor().fit(X, frame)
    coverages = CoverageDisplay.from_estimator(model, X, frame, name="a", nominal=[0.5]).coverages
    assert list(coverages) == ["a, E (keV)", "a, z (mm)"]
    assert list(PITDisplay.from_estimator(model, X, frame).u) == [
        "NormalRegressor, E (keV)",
        "NormalRegressor, z (mm)",
    ]
    by_name = IntervalDisplay.from_estimator(model, X, frame, target="z (mm)")
    by_number = IntervalDisplay.from_estimator(model, X, frame, target=1)
    for display in (by_name, by_number):
        assert_allclose(display.y_true, -3 * y)
        assert display.ax_.get_xlabel() == "True z (mm)"
    given = IntervalDisplay.from_estimator(model, X, frame, target=1, y_name="depth", unit="mm")
    assert given.ax_.get_xlabel() == "True depth (mm)"
    series = IntervalDisplay.from_estimator(
        NormalRegressor().fit(X, frame["E (keV)"]), X, frame["E (keV)"]
    )
    assert series.ax_.get_ylabel() == "Predicted E (keV)"
    with pytest.raises(ValueError, match=r"'target' parameter .* Got 'x' instead; the names are"):
        IntervalDisplay.from_estimator(model, X, frame, target="x")


def test_bands_are_running_medians(events):
    X, y = events
    # A rising function of the feature alone stays what it is.
    alone = NormalRegressor().fit(X[:, :1], y)
    display = IntervalDisplay.from_estimator(
        alone, X[:, :1], y, feature=0, style="band", max_events=300
    )
    assert_allclose(display.line_.get_ydata(), alone.predict(display.line_.get_xdata()[:, None]))
    # Of a function of further features the line shows the dependence on this one, and no scatter.
    model = NormalRegressor().fit(X, y)
    display = IntervalDisplay.from_estimator(model, X, y, feature=0, style="band", max_events=300)
    x, line = display.line_.get_data()
    slope, level = model.model_.coef_[0, 0] * display.y_true.std(), y.mean()
    inside = np.abs(x) < 1.5
    other = np.std(model.predict(X) - slope * X[:, 0])
    error = 1.2533 * other / np.sqrt(np.sqrt(len(y)))
    assert np.std((line - slope * x - level)[inside]) < 1.5 * error
    # What covers is counted with the interval of each event.
    low, high = model.predict_interval(X, 0.68).T
    assert display.coverage.fraction == np.mean((low <= y) & (y <= high))


@pytest.mark.parametrize("draw", [CoverageDisplay, PITDisplay])
def test_legends_stay_on_their_axes_and_beside_the_curves(events, draw):
    X, y = events
    two = np.column_stack([y, -3 * y])
    _, axes = plt.subplots(1, 3, figsize=(15, 5))
    # Intervals that are too wide: the curve of their coverage is where legends often are.
    model = NormalRegressor(1.6).fit(X, two)
    for ax in axes:
        display = draw.from_estimator(model, X, two, ax=ax)
        box = ax.get_legend().get_window_extent()
        inside = ax.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1
        if draw is PITDisplay:
            tops = [line.get_data().values.max() for line in display.lines_]
            assert ax.transData.transform((0, max(tops)))[1] < box.y0
        else:
            for bar in display.errorbars_:
                points = ax.transData.transform(bar.lines[0].get_xydata())
                assert not any(box.contains(*point) for point in points)


def test_endless_intervals_leave_the_picture():
    y = np.array([0.0, 1.0, 2.0])
    display = IntervalDisplay.from_predictions(y, y, [-np.inf] * 3, [np.inf, 1.5, 3.0])
    assert display.coverage.fraction == 1
    assert np.all(np.isfinite(display.ax_.get_ylim()))
    lines = segments(display.intervals_[0])
    assert np.all(np.isfinite(lines))
    assert np.all(lines[:, 0, 1] < display.ax_.get_ylim()[0])


def test_many_bars_leave_those_that_miss_the_truth_to_be_seen(events):
    X, y = events
    model = NormalRegressor().fit(X, y)

    def ink(bars):
        return bars.get_linewidth()[0] * bars.get_alpha()

    few, some, many = (
        IntervalDisplay.from_estimator(model, X, y, max_events=n) for n in (20, 100, 800)
    )
    assert ink(few.intervals_[0]) == ink(some.intervals_[0])
    # As much of the picture is covered by them all as by a hundred.
    assert_allclose(800 * ink(many.intervals_[0]), 100 * ink(some.intervals_[0]))
    for display in (few, some, many):
        covered, missed = display.intervals_
        assert missed.get_alpha() > covered.get_alpha()
        children = display.ax_.get_children()
        parts = (covered, missed, display.line_)
        layers = [(part.get_zorder(), children.index(part)) for part in parts]
        assert layers == sorted(layers)


@pytest.mark.parametrize(
    ("draw", "given", "value"),
    [
        (PITDisplay, "n_bins", 0),
        (PITDisplay, "n_bins", 1),
        (PITDisplay, "n_bins", 2.5),
        (PITDisplay, "n_levels", 0),
        (PITDisplay, "n_levels", 2.5),
        (IntervalDisplay, "max_events", 0),
        (IntervalDisplay, "max_events", -3),
        (IntervalDisplay, "max_events", 2.5),
    ],
)
def test_numbers_are_checked_before_events_are_looked_at(events, draw, given, value):
    message = f"'{given}' parameter of {draw.__name__}.from_est.* must be an int .* Got {value} "
    with pytest.raises(ValueError, match=message):
        draw.from_estimator(NormalRegressor(), *events, **{given: value})


@pytest.mark.parametrize("target", [1, "z"])
def test_there_is_no_second_target_of_one(events, target):
    pd = pytest.importorskip("pandas")
    X, y = events
    with pytest.raises(
        ValueError, match=f"'target' .* of which y has 1, .* Got {target!r} instead"
    ):
        IntervalDisplay.from_estimator(OwnIntervals(), X, y, target=target)
    series = pd.Series(y, name="E (keV)")
    by_name = IntervalDisplay.from_estimator(OwnIntervals(), X, series, target="E (keV)")
    assert by_name.ax_.get_xlabel() == "True E (keV)"
    with pytest.raises(ValueError, match=r"Got .* instead; the names are \['E \(keV\)'\]"):
        IntervalDisplay.from_estimator(OwnIntervals(), X, series, target=target)


@pytest.fixture(scope="module")
def classified():
    rng = np.random.default_rng(4)
    X = rng.normal(size=(4000, 2))
    y = np.where(rng.uniform(size=4000) < 1 / (1 + np.exp(-2 * X[:, 0])), "signal", "background")
    return X, y


def test_reliability_of_a_model_that_is_right(classified):
    X, y = classified
    model = LogisticRegression().fit(X[:2000], y[:2000])
    display = ReliabilityDisplay.from_estimator(model, X[2000:], y[2000:], n_bins=10)
    p = model.predict_proba(X[2000:])[:, 1]
    expected = expected_calibration_error(y[2000:], p, n_bins=10, pos_label="signal")
    assert display.error == expected
    assert abs(display.error.debiased) < 4 * display.error.std
    assert f"ECE {expected.value:.3f} ± {expected.std:.3f}" in legend(display.ax_)[1]
    assert display.histogram_ax_.get_xlabel() == "Predicted probability of signal"
    assert display.ax_.get_ylabel() == "Fraction of signal"
    assert_allclose(display.histogram, np.histogram(p, bins=50, range=(0, 1))[0])
    points = display.errorbar_.lines[0].get_xydata()
    assert_allclose(points, np.column_stack([display.curve.predicted, display.curve.observed]))
    other = ReliabilityDisplay.from_estimator(
        model, X[2000:], y[2000:], n_bins=10, pos_label="background"
    )
    assert_allclose(other.error.value, expected.value)


def test_reliability_of_one_class_against_all_others_counts_this_class(classified):
    X, y = classified
    numbers = np.where(X[:, 1] > 1, 2, np.where(y == "signal", 1, 0))
    p = np.random.default_rng(6).dirichlet([1, 1, 1], len(X))
    names = np.array(["background", "signal", "other"])
    for classes, label in ((np.arange(3), "class 1"), (names, "signal")):
        model = LogisticRegression().fit(X, classes[numbers])
        display = ReliabilityDisplay.from_estimator(
            model, X, classes[numbers], pos_label=classes[1]
        )
        column = list(model.classes_).index(classes[1])
        expected = expected_calibration_error(numbers == 1, model.predict_proba(X)[:, column])
        assert display.error == expected
        assert display.ax_.get_ylabel() == f"Fraction of {label}"
        assert display.histogram_ax_.get_xlabel() == f"Predicted probability of {label}"
    given = ReliabilityDisplay.from_predictions(y, p[:, 0], pos_label="signal")
    assert given.ax_.get_ylabel() == "Fraction of signal"
    bare = ReliabilityDisplay.from_predictions(y == "signal", p[:, 0])
    assert bare.ax_.get_ylabel() == "Fraction of hits"


@pytest.mark.parametrize("n_classes", [2, 3])
def test_reliability_refuses_truths_that_the_classifier_does_not_know(classified, n_classes):
    X, _ = classified
    y = np.digitize(X[:, 0], [0.0, 1.0][: n_classes - 1])
    model = LogisticRegression().fit(X, y)
    message = r"'y' parameter of ReliabilityDisplay.from_estimator .* knows, \[0, 1"
    for wrong in (y + 1, y.astype(str), np.array(["bkg", "sig", "other"])[y]):
        for pos_label in (None, 1):
            with pytest.raises(ValueError, match=message):
                ReliabilityDisplay.from_estimator(model, X, wrong, pos_label=pos_label)
    for wrong, message in (
        (X[:, 0], "continuous"),
        (np.where(X[:, 1] > 2, np.nan, y), "NaN"),
        (y[1:], "inconsistent numbers of samples"),
    ):
        with pytest.raises(ValueError, match=message):
            ReliabilityDisplay.from_estimator(model, X, wrong, pos_label=1)
    # The same classes of another type are those that it knows.
    expected = ReliabilityDisplay.from_estimator(model, X, y, pos_label=1).error
    as_floats = ReliabilityDisplay.from_estimator(model, X, y.astype(float), pos_label=1)
    assert as_floats.error == expected


class CountedClassifier(LogisticRegression):
    """Remembers which events it is asked for."""

    def predict_proba(self, X):
        self.asked_ = [*getattr(self, "asked_", []), X]
        return super().predict_proba(X)


@pytest.mark.parametrize("pos_label", [None, 1])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_reliability_of_weight_zero_is_without_the_event(classified, n_classes, pos_label):
    X, _ = classified
    y = np.digitize(X[:, 0], [0.0, 1.0][: n_classes - 1])
    model = CountedClassifier().fit(X, y)
    rng = np.random.default_rng(8)
    weight = rng.integers(0, 3, len(X)) * rng.choice([1.0, -0.1], len(X))
    present = np.flatnonzero(weight)
    unknown = np.where(weight == 0, 7, y)
    display = ReliabilityDisplay.from_estimator(
        model, X, unknown, sample_weight=weight, pos_label=pos_label
    )
    (asked,) = model.asked_
    assert_allclose(asked, X[present])
    without = ReliabilityDisplay.from_estimator(
        model, X[present], y[present], sample_weight=weight[present], pos_label=pos_label
    )
    assert display.error == without.error
    assert_allclose(display.histogram, without.histogram)
    # What counts is refused before any event is looked at.
    model.asked_ = []
    message = r"'y' parameter of ReliabilityDisplay.from_estimator .* Got \[7\]"
    unknown[present[0]] = 7
    with pytest.raises(ValueError, match=message):
        ReliabilityDisplay.from_estimator(
            model, X, unknown, sample_weight=weight, pos_label=pos_label
        )
    with pytest.raises(ValueError, match=r"'pos_label' parameter .* Got 9 instead"):
        ReliabilityDisplay.from_estimator(model, X, y, pos_label=9)
    assert model.asked_ == []


def test_reliability_needs_a_fit(classified):
    for model in (LogisticRegression(), make_pipeline(LogisticRegression())):
        with pytest.raises(NotFittedError, match="instance is not fitted yet"):
            ReliabilityDisplay.from_estimator(model, *classified)


def test_reliability_has_the_name_of_the_last_step(classified):
    X, y = classified
    pipe = make_pipeline(StandardScaler(), LogisticRegression())
    search = GridSearchCV(pipe, {"logisticregression__C": [1.0]}, cv=2).fit(X, y)
    for wrapped in (search, search.best_estimator_, search.best_estimator_[-1]):
        display = ReliabilityDisplay.from_estimator(wrapped, X, y)
        assert legend(display.ax_)[1].startswith("LogisticRegression: ECE ")
    # A threshold is a classifier of its own.
    tuned = TunedThresholdClassifierCV(LogisticRegression(), cv=2)
    display = ReliabilityDisplay.from_estimator(tuned.fit(X, y), X, y)
    assert legend(display.ax_)[1].startswith("TunedThresholdClassifierCV: ECE ")


def test_the_legend_of_reliability_leaves_the_points_free():
    # All probabilities are too small by far, so that the curve is in the upper left corner.
    p = np.linspace(0.01, 0.3, 2000)
    hits = np.arange(2000) % 10 > 0
    display = ReliabilityDisplay.from_predictions(hits, p)
    display.figure_.canvas.draw()
    box = display.ax_.get_legend().get_window_extent()
    points = display.ax_.transData.transform(display.errorbar_.lines[0].get_xydata())
    assert not any(box.contains(*point) for point in points)


def test_reliability_of_several_classes_and_on_shared_axes(classified):
    X, y = classified
    y = np.where(X[:, 1] > 1, "other", y)
    model = LogisticRegression().fit(X, y)
    _, axes = plt.subplots(1, 2)
    for ax, multiclass in zip(axes, ("top-label", "classwise"), strict=True):
        first = ReliabilityDisplay.from_estimator(model, X, y, multiclass=multiclass, ax=ax)
        second = ReliabilityDisplay.from_estimator(
            model, X, y, multiclass=multiclass, ax=ax, name="again"
        )
        assert first.histogram_ax_ is second.histogram_ax_
        assert first.error == second.error
        assert first.histogram.sum() == len(y) * (1 if multiclass == "top-label" else 3)
    assert len(first.figure_.axes) == 4


def test_shared_axes_are_named_for_all_curves_that_they_hold(classified):
    X, y = classified
    general = ("Predicted probability", "Fraction of hits")

    def draw(ax, pos_label, truth=y):
        p = np.random.default_rng(9).uniform(size=len(X))
        display = ReliabilityDisplay.from_predictions(truth, p, pos_label=pos_label, ax=ax)
        ax = display.ax_
        return ax, (display.histogram_ax_.get_xlabel(), ax.get_ylabel())

    of_signal = ("Predicted probability of signal", "Fraction of signal")
    ax, names = draw(None, "signal")
    assert names == of_signal
    assert draw(ax, "signal")[1] == of_signal
    # A third curve does not take back what two are called.
    for pos_label in ("background", "signal"):
        assert draw(ax, pos_label)[1] == general
    for positive in (True, np.True_):
        assert draw(None, positive, y == "signal")[1] == general
    assert draw(None, 1, (y == "signal").astype(int))[1][1] == "Fraction of class 1"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda X, y: CoverageDisplay.from_estimator(LinearRegression(), X, y), "predict_interval"),
        (lambda X, y: PITDisplay.from_estimator(OwnIntervals(), X, y), "predict_quantiles"),
        (lambda X, y: ReliabilityDisplay.from_estimator(OwnIntervals(), X, y), "predict_proba"),
        (lambda X, y: CoverageDisplay.from_predictions(y, [], nominal=[0.5]), "'intervals' par"),
        (
            lambda X, y: CoverageDisplay.from_estimator(OwnIntervals(), X, y, nominal=[68]),
            r"'nominal' parameter must be one level or a list of levels in \(0, 1\)",
        ),
        (
            lambda X, y: IntervalDisplay.from_estimator(OwnIntervals(), X, y, feature=7),
            "'feature' parameter of IntervalDisplay",
        ),
        (
            lambda X, y: IntervalDisplay.from_estimator(OwnIntervals(), X, y, feature="a"),
            "'feature' parameter of IntervalDisplay",
        ),
        (
            lambda X, y: IntervalDisplay.from_estimator(OwnIntervals(), X, y, style="band"),
            "'style' parameter of IntervalDisplay",
        ),
        (
            lambda X, y: PITDisplay.from_predictions([0.1], target_names=["a", "b"]),
            "'target_names' parameter must name 1",
        ),
        (
            lambda X, y: ReliabilityDisplay.from_predictions(
                [0, 1], [0.1, 0.9], ax=plt.figure().add_axes((0, 0, 1, 1))
            ),
            "'ax' parameter of ReliabilityDisplay",
        ),
    ],
)
def test_errors_say_what_is_wrong(events, call, message):
    with pytest.raises(ValueError, match=message):
        call(*events)


def test_few_events_are_drawn_with_their_errors():
    """All of 12 events inside has an error below only; ten events have two bins, of five each."""
    y = np.arange(12.0)
    display = IntervalDisplay.from_predictions(y, y, y - 1, y + 1)
    low = 100 * (1 - display.coverage.interval[0])
    assert f"covers 100.0 +0.0 −{low:.1f} %" in legend(display.ax_)[0]
    for n, n_bins in ((3, 2), (10, 2), (60, 12), (1000, 20)):
        assert PITDisplay.from_predictions(np.linspace(0, 1, n)).n_bins == n_bins


def test_histograms_of_probabilities_show_single_events():
    """A bin of one event stands above the lower end of its axis, which has two labels at least."""
    rng = np.random.default_rng(0)
    for n in (20, 400):
        p = rng.beta(0.5, 0.5, n)
        display = ReliabilityDisplay.from_predictions((rng.uniform(size=n) < p).astype(int), p)
        below = display.histogram_ax_
        bottom, top = below.get_ylim()
        assert bottom == 0.5
        assert sum(bottom <= tick <= top for tick in below.get_yticks()) > 1
