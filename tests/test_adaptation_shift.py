"""Whether domains differ, in which features, and by how much."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from sknuc.adaptation import (
    DomainReweighter,
    DomainShiftDisplay,
    DomainShiftReport,
    domain_shift,
)
from sknuc.adaptation._shift import _holm, _kolmogorov_smirnov
from sknuc.metrics import two_sample_auc, wasserstein_distance

# Quick to fit; means are all that differs here.
LOGISTIC = LogisticRegression()


@pytest.fixture(autouse=True)
def close_figures():
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("Agg")
    yield
    plt.close("all")


def shifted(n=600, seed=0, shift=(0.0, 0.8, 0.3, 0.0)):
    rng = np.random.default_rng(seed)
    X, domain = rng.normal(size=(2 * n, len(shift))), np.tile([0, -1], n)
    X[domain < 0] += shift
    return X, domain


def equal_weights(*samples):
    return [(x, np.full(len(x), 1 / len(x))) for x in samples]


def test_distances_are_those_of_scipy():
    rng = np.random.default_rng(0)
    # Continuous, with ties, and constant.
    x, z = (
        np.column_stack([rng.normal(size=n), rng.poisson(3, size=n), np.zeros(n)])
        for n in (200, 300)
    )
    (a, b) = equal_weights(x, z)
    distance, n_effective = _kolmogorov_smirnov(*a, *b)
    for column in range(2):
        expected = stats.ks_2samp(x[:, column], z[:, column], method="asymp")
        assert distance[column] == pytest.approx(expected.statistic, abs=1e-12)
    assert distance[2] == 0
    # Where a distribution passes one half, the variance is 1/4n, up to 1/n of that.
    np.testing.assert_allclose(n_effective[[0, 2]], 200 * 300 / 500, rtol=0.001)
    p = stats.kstwo.sf(distance[0], np.round(n_effective[0]))
    assert p == pytest.approx(stats.ks_2samp(x[:, 0], z[:, 0], method="asymp").pvalue)


def test_a_weight_of_two_has_the_distribution_of_two_events():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(50, 2)), rng.normal(size=(60, 2))
    weight = rng.integers(1, 4, 50)
    (_, b) = equal_weights(x, z)
    repeated, _ = _kolmogorov_smirnov(*equal_weights(np.repeat(x, weight, axis=0), z)[0], *b)
    weighted, _ = _kolmogorov_smirnov(x, weight / weight.sum(), *b)
    np.testing.assert_allclose(weighted, repeated, atol=1e-12)


@pytest.mark.parametrize("delta", [0.0, 0.8])
def test_p_values_of_weighted_events_are_those_of_chance(delta):
    rng = np.random.default_rng(0)
    n_trials, p = 400, []
    for _ in range(n_trials):
        # The exact weights bring the source to the target, and grow with the feature.
        x, z = rng.normal(size=400), rng.normal(delta, size=300)
        weight = np.exp(delta * x)
        distance, n = _kolmogorov_smirnov(
            x[:, None], weight / weight.sum(), *equal_weights(z[:, None])[0]
        )
        p.append(stats.kstwo.sf(distance, np.round(n))[0])
    for level in (0.05, 0.32):
        error = np.sqrt(level * (1 - level) / n_trials)
        # The law of the supremum of a bridge is that of equal weights; of others it has the right
        # width where it is widest, and is taken for a quarter too wide or narrow at most.
        assert abs(np.mean(np.array(p) < level) - level) < 4 * error + level / 4


def test_holm_multiplies_the_smallest_by_their_number():
    np.testing.assert_allclose(_holm(np.array([0.01, 0.5, 0.02, 0.021])), [0.04, 0.5, 0.06, 0.06])
    # By the definition, of many.
    p = np.random.default_rng(0).uniform(size=30) ** 3
    for level in (0.01, 0.05, 0.3):
        ordered = np.sort(p)
        failing = np.flatnonzero(ordered > level / np.arange(30, 0, -1))
        n_rejected = failing[0] if len(failing) else 30
        assert np.sum(_holm(p) <= level) == n_rejected


def test_features_that_differ_are_found():
    X, domain = shifted()
    report = domain_shift(X, domain, classifier=LOGISTIC)
    np.testing.assert_array_equal(report.shifted, [False, True, True, False])
    np.testing.assert_array_equal(report.order[:2], [1, 2])
    # Of Gaussians that are shifted by d, 2 Phi(d/2) - 1 and d, with errors of sqrt(1/4n + 1/4m)
    # and, in standard deviations of the source, sqrt(1/n + 1/m) and more for their estimate.
    expected = 2 * stats.norm.cdf(0.4) - 1
    assert abs(report.ks[1] - expected) < 4 * np.sqrt(1 / (2 * 600))
    assert abs(report.wasserstein[1] - 0.8) < 4 * np.sqrt(2 / 600 + 0.64 / 1200)
    np.testing.assert_allclose(report.ks_limit, stats.kstwo.isf(0.05 / 4, 300), rtol=0.01)
    assert report.auc.p_value < 1e-6
    assert report.feature_names == ("feature 0", "feature 1", "feature 2", "feature 3")
    # All of it is what metrics says.
    source, target = X[domain >= 0], X[domain < 0]
    assert report.auc == two_sample_auc(source, target, classifier=LOGISTIC)
    np.testing.assert_array_equal(
        report.wasserstein, wasserstein_distance(source, target, standardize=True)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.ks = None


def test_features_that_do_not_differ_are_seldom_found():
    # The chance that any of 20 features is found is 5 %: of 60 samples, 3 and not 12, which has a
    # probability below 1e-4.
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        samples = equal_weights(*rng.normal(size=(2, 200, 20)))
        distance, n = _kolmogorov_smirnov(*samples[0], *samples[1])
        found += (_holm(stats.kstwo.sf(distance, np.round(n))) < 0.05).any()
    assert found < 12


def test_shapes_names_and_weights():
    pd = pytest.importorskip("pandas")
    X, domain = shifted(100)
    report = domain_shift(X, domain, classifier=LOGISTIC)
    events = domain_shift(X.reshape(-1, 2, 2), domain, classifier=LOGISTIC)
    np.testing.assert_array_equal(events.ks, report.ks)
    assert events.auc == report.auc
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(200)[::-1])
    framed = domain_shift(frame, pd.Series(domain), classifier=LOGISTIC)
    assert framed.feature_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(framed.ks, report.ks)
    # An event of weight zero is absent.
    weight = np.ones(200)
    weight[:20] = 0
    weighted = domain_shift(X, domain, sample_weight=weight, classifier=LOGISTIC)
    absent = domain_shift(X[20:], domain[20:], classifier=LOGISTIC)
    np.testing.assert_allclose(weighted.ks, absent.ks)
    assert (weighted.n_source, weighted.n_target) == (90, 90)
    assert weighted.n_effective_source == pytest.approx(90)


def test_the_table_says_the_largest_shift_first():
    X, domain = shifted()
    weight = np.where(domain < 0, 1.0, np.tile([1.0, 1.0, 3.0, 3.0], 300))
    names = ["energy (MeV)", "depth (cm)", "time (ns)", "A/E"]
    report = domain_shift(X, domain, sample_weight=weight, feature_names=names, classifier=LOGISTIC)
    lines = str(report).splitlines()
    assert lines[0].startswith("2 of 4 features differ between the domains, at 95 % for all")
    # Kish's number of weights 1 and 3 in halves: (2n)^2 / 5n = 4/5 n.
    assert lines[1] == "source 600 events, worth 480"
    assert lines[2] == "target 600 events"
    assert f"AUC    {report.auc.auc:.3f} ± " in lines[3]
    assert [line.split("  ")[0] for line in lines[6:8]] == ["depth (cm)", "time (ns)"]
    assert f"{report.ks[1]:.3f}" in lines[6]
    # Columns are one below the other.
    assert len({len(line) for line in lines[5:]}) == 1
    wide = domain_shift(np.tile(X, 7), domain, classifier=LOGISTIC)
    assert str(wide).splitlines()[-1] == "and 8 features that differ less"


def test_bad_input_is_refused_with_words():
    X, domain = shifted(20)
    with pytest.raises(ValueError, match=r"must name 4 features. Got 2 names"):
        domain_shift(X, domain, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="at least 2 of the target domain"):
        domain_shift(X, np.zeros(40, int))
    with pytest.raises(ValueError, match="1 negative"):
        domain_shift(X, domain, sample_weight=np.r_[-1.0, np.ones(39)])
    with pytest.raises(ValueError, match="NaN"):
        domain_shift(np.where(X > 2, np.nan, X), domain)
    with pytest.raises(ValueError, match=r"^X must have the shape .*Got \(40,\) instead; X\.resh"):
        domain_shift(X[:, 0], domain)
    with pytest.raises(ValueError, match=r"^X must have .* a feature or more. Got \(40, 0\)"):
        domain_shift(X[:, :0], domain)


def reports():
    X, domain = shifted(200)
    names = ["energy (MeV)", "depth (cm)", "time (ns)", "A/E"]
    before = domain_shift(X, domain, feature_names=names, classifier=LOGISTIC)
    after = domain_shift(
        X - np.where(domain < 0, 0.8, 0)[:, None] * [0, 1, 0, 0],
        domain,
        feature_names=names,
        classifier=LOGISTIC,
    )
    return {"Before": before, "After": after}


def widths(ax, color):
    from matplotlib.colors import to_rgba

    return [p.get_width() for p in ax.patches if p.get_facecolor() == to_rgba(color)]


def test_the_display_draws_what_the_reports_say():
    both = reports()
    display = DomainShiftDisplay(both, max_features=3).plot()
    shown = both["Before"].order[:3]
    ax = display.ks_ax_
    np.testing.assert_allclose(widths(ax, "#E69F00"), both["Before"].ks[shown])
    np.testing.assert_allclose(widths(ax, "#0072B2"), both["After"].ks[shown])
    limits = np.concatenate([report.ks_limit[shown] for report in both.values()])
    np.testing.assert_allclose(widths(ax, "#D0D0D0"), limits)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [both["Before"].feature_names[i] for i in shown]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "Chance, 95 %",
        "Before",
        "After",
    ]
    assert ax.get_title() == "3 most different of 4 features"
    # The first is at the top.
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    auc = display.auc_ax_
    points = [container[0].get_xdata()[0] for container in auc.containers if len(container) == 3]
    np.testing.assert_allclose(points, [report.auc.auc for report in both.values()])
    chance = [(p.get_x(), p.get_x() + p.get_width()) for p in auc.patches]
    np.testing.assert_allclose(chance, [r.auc.null_interval for r in both.values()])
    # Numbers are within the axes.
    display.figure_.canvas.draw()
    box = auc.get_window_extent()
    for text in auc.texts:
        extent = text.get_window_extent()
        assert box.x0 < extent.x0 < extent.x1 < box.x1


def test_the_display_of_a_reweighting():
    X, domain = shifted(600)
    names = ["energy (MeV)", "depth (cm)", "time (ns)", "A/E"]
    model = DomainReweighter(LOGISTIC, random_state=0).fit(X, domain)
    given = np.random.default_rng(0).uniform(0.5, 2, 1200)
    display = DomainShiftDisplay.from_estimator(
        model,
        X,
        domain,
        sample_weight=given,
        feature_names=names,
        classifier=LOGISTIC,
        n_marginals=2,
    )
    after = given.copy()
    after[domain >= 0] *= model.predict_weight(X[domain >= 0])
    expected = domain_shift(X, domain, sample_weight=after, classifier=LOGISTIC)
    np.testing.assert_array_equal(display.reports["After"].ks, expected.ks)
    assert not display.reports["After"].shifted.any()
    assert display.reports["Before"].shifted.any()
    assert [m["name"] for m in display.marginals] == ["depth (cm)", "time (ns)"]
    assert [ax.get_xlabel() for ax in display.marginal_axes_] == ["depth (cm)", "time (ns)"]
    for marginal in display.marginals:
        # All events are in some bin.
        for shares in (marginal["target"], *marginal["source"]):
            assert shares[0].sum() == pytest.approx(1)
        # What is after is nearer to the target.
        target = marginal["target"][0].cumsum()
        before, after = (np.abs(s[0].cumsum() - target).max() for s in marginal["source"])
        assert after < before


def test_the_display_of_a_translation():
    pd = pytest.importorskip("pandas")
    X, domain = shifted(200)
    frame = pd.DataFrame(X, columns=list("abcd"))
    move = FunctionTransformer(lambda X: np.add(X, [0, 0.8, 0.3, 0]))
    display = DomainShiftDisplay.from_estimator(
        move.fit(frame), frame, domain, classifier=LOGISTIC, labels=("Raw", "Translated")
    )
    raw, translated = (display.reports[name] for name in ("Raw", "Translated"))
    assert raw.feature_names == translated.feature_names == ("a", "b", "c", "d")
    assert raw.shifted[1]
    assert not translated.shifted.any()


def test_one_report_alone():
    X, domain = shifted(100)
    display = DomainShiftDisplay.from_samples(X, domain, classifier=LOGISTIC, n_marginals=4)
    assert list(display.reports) == ["Source and target"]
    assert len(display.marginal_axes_) == 4
    legend = display.marginal_axes_[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["Target", "Source"]


def test_displays_refuse_what_they_cannot_show():
    X, domain = shifted(50)
    with pytest.raises(ValueError, match=r"must be a dict of one to 4 reports by name\. Got list"):
        DomainShiftDisplay([domain_shift(X, domain, classifier=LOGISTIC)]).plot()
    both = reports()
    both["After"] = dataclasses.replace(both["After"], feature_names=tuple("abcd"))
    assert isinstance(both["After"], DomainShiftReport)
    with pytest.raises(ValueError, match="reports of the same features"):
        DomainShiftDisplay(both).plot()
    with pytest.raises(ValueError, match=r"predict_weight or transform\. LogisticRegression has"):
        DomainShiftDisplay.from_estimator(LOGISTIC, X, domain)
    with pytest.raises(ValueError, match="must name what is before and after"):
        DomainShiftDisplay.from_samples(X, domain, labels=("one",))
