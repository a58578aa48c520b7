import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.naive_bayes import GaussianNB

from sknuc.metrics import (
    ReliabilityDisplay,
    binomial_interval,
    brier_decomposition,
    expected_calibration_error,
    quantile_calibration_error,
    reliability_curve,
)


def binary(rng, n, gap=0.0, high=1.0):
    prob = rng.uniform(0, high, n)
    return (rng.uniform(size=n) < prob + gap).astype(int), prob


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def drawn(rng, prob):
    return (rng.uniform(size=(len(prob), 1)) > np.cumsum(prob, axis=1)).sum(axis=1).clip(max=2)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_curve_equals_scikit_learn(strategy):
    y, prob = binary(np.random.default_rng(0), 1200)
    curve = reliability_curve(y, prob, n_bins=12, strategy=strategy)
    observed, predicted = calibration_curve(y, prob, n_bins=12, strategy=strategy)
    # Quantiles of 1200 values lie between two of them there and on one here: one event per bin.
    atol = 1e-12 if strategy == "uniform" else 2 / 100
    assert_allclose(curve.observed, observed, atol=atol)
    assert_allclose(curve.predicted, predicted, atol=atol)
    if strategy == "quantile":
        assert_allclose(curve.weight, 100)
    k = np.rint(curve.observed * curve.weight)
    assert_allclose(curve.interval.T, binomial_interval(k, curve.weight), atol=1e-12)


def test_error_is_the_mean_gap_of_the_curve():
    y, prob = binary(np.random.default_rng(1), 500, gap=-0.05)
    curve = reliability_curve(y, prob, n_bins=10)
    gap, share = np.abs(curve.observed - curve.predicted), curve.weight / 500
    assert_allclose(expected_calibration_error(y, prob, n_bins=10).value, share @ gap)
    root = expected_calibration_error(y, prob, n_bins=10, norm="l2").value
    assert_allclose(root, np.sqrt(share @ gap**2))


def experiments(trials, n, norm, seed=2, **kwargs):
    rng = np.random.default_rng(seed)
    results = [
        expected_calibration_error(*binary(rng, n, **kwargs), n_bins=10, norm=norm)
        for _ in range(trials)
    ]
    return {
        name: np.array([getattr(r, name) for r in results])
        for name in ("value", "std", "debiased", "floor")
    }


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_calibrated_probabilities_show_the_floor_and_no_debiased_error(norm):
    trials = 500
    r = experiments(trials, 2000, norm)
    power = 1 if norm == "l1" else 2
    # The normal approximation of the means of bins of 200 costs a per cent.
    value = r["value"] ** power
    error = value.std() / np.sqrt(trials)
    assert abs(value.mean() - np.mean(r["floor"] ** power)) < 4 * error + 0.01 * value.mean()
    signed = np.sign(r["debiased"]) * np.abs(r["debiased"]) ** power
    assert abs(signed.mean()) < 4 * signed.std() / np.sqrt(trials) + 0.01 * value.mean()


def test_unbiased_square_has_no_bias_with_few_events_and_a_gap():
    trials, gap = 3000, 0.1
    r = experiments(trials, 100, "l2", gap=gap, high=0.9)
    signed = np.sign(r["debiased"]) * r["debiased"] ** 2
    assert abs(signed.mean() - gap**2) < 4 * signed.std() / np.sqrt(trials) + 0.02 * gap**2
    assert np.mean(r["value"] ** 2) > 2 * gap**2


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_large_gaps_are_measured_within_their_error(norm):
    trials, gap = 500, 0.1
    r = experiments(trials, 4000, norm, gap=gap, high=0.9)
    assert_allclose(r["value"].mean(), gap, rtol=0.03)
    assert_allclose(r["debiased"].mean(), gap, rtol=0.02)
    ratio = np.sqrt(np.mean(r["std"] ** 2)) / r["value"].std()
    assert abs(ratio - 1) < 4 / np.sqrt(2 * trials) + 0.05


def test_errors_of_calibrated_probabilities_are_not_too_small():
    for kind in ("l1", "l2"):
        r = experiments(300, 1000, kind)
        assert 1 < r["std"].mean() / r["value"].std() < 2.2


def test_several_classes():
    rng = np.random.default_rng(3)
    prob = softmax(rng.normal(size=(30_000, 3)))
    y = drawn(rng, prob)
    top = expected_calibration_error(y, prob)
    assert_allclose(top.value, expected_calibration_error(y == prob.argmax(1), prob.max(1)).value)
    each = [expected_calibration_error(y == k, prob[:, k]) for k in range(3)]
    classwise = expected_calibration_error(y, prob, multiclass="classwise")
    assert_allclose(classwise.value, np.mean([r.value for r in each]))
    assert_allclose(classwise.debiased, np.mean([r.debiased for r in each]))
    # Sharper than it should be: sure of itself, and wrong.
    sharp = prob**2 / (prob**2).sum(axis=1, keepdims=True)
    for multiclass in ("top-label", "classwise"):
        good = expected_calibration_error(y, prob, multiclass=multiclass)
        bad = expected_calibration_error(y, sharp, multiclass=multiclass)
        assert abs(good.debiased) < 3 * good.std
        assert bad.debiased > 10 * bad.std


def test_labels_name_the_columns():
    rng = np.random.default_rng(4)
    prob = softmax(rng.normal(size=(200, 3)))
    y = drawn(rng, prob)
    names = np.array(["gamma", "alpha", "beta"])
    expected = expected_calibration_error(y, prob)
    assert expected_calibration_error(names[y], prob, labels=names) == expected
    with pytest.raises(ValueError, match=r"'pos_label' parameter.*of more than two"):
        expected_calibration_error(y, prob, pos_label=1)


@pytest.mark.parametrize("multiclass", ["top-label", "classwise"])
def test_two_columns_say_what_that_of_the_positive_class_says(multiclass):
    y, p = binary(np.random.default_rng(4), 2000, gap=0.1, high=0.9)
    two, kwargs = np.column_stack([1 - p, p]), {"n_bins": 10, "multiclass": multiclass}
    for function in (expected_calibration_error, brier_decomposition):
        if function is brier_decomposition:
            kwargs = {}
        expected = function(y, p, **kwargs)
        assert function(y, two, **kwargs) == expected
        text = np.where(y == 1, "signal", "background")
        assert function(text, p, pos_label="signal", **kwargs) == expected
        assert function(text, two, **kwargs) == expected
        names = ["signal", "background"]
        assert function(text, two[:, ::-1], labels=names, pos_label="signal", **kwargs) == expected
        assert function(text, p, labels=names[::-1], **kwargs) == expected
        assert function(text, p, labels=names, pos_label="signal", **kwargs) == expected
        second = function(text, two[:, ::-1], labels=names, **kwargs)
        assert second == function(1 - y, 1 - p, **kwargs)
        with pytest.raises(ValueError, match="be one of two classes, or None"):
            function(text, two, pos_label="muon", **kwargs)
    curve, one = reliability_curve(y, two), reliability_curve(y, p)
    assert_allclose(curve.observed, one.observed)
    assert_allclose(curve.predicted, one.predicted)


def test_display_of_a_binary_classifier_shows_its_calibration_error():
    X = np.random.default_rng(10).normal(size=(400, 2))
    y = np.where(X[:, 0] > 0.3 * X[:, 1] ** 2, "signal", "background")
    model = GaussianNB().fit(X[:200], y[:200])
    prob = model.predict_proba(X[200:])
    expected = expected_calibration_error(y[200:], prob)
    for display in (
        ReliabilityDisplay.from_estimator(model, X[200:], y[200:]),
        ReliabilityDisplay.from_predictions(y[200:], prob),
    ):
        assert display.error == expected
        assert "most probable" not in display.histogram_ax_.get_xlabel()
        plt.close(display.figure_)


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_integer_weights_are_repetitions_and_negative_ones_cancel(norm, strategy):
    rng = np.random.default_rng(5)
    y, prob = binary(rng, 300, gap=0.05)
    kwargs = {"norm": norm, "strategy": strategy, "n_bins": 5}
    weight = rng.integers(0, 3, 300)
    weighted = expected_calibration_error(y, prob, sample_weight=weight, **kwargs)
    repeated = expected_calibration_error(np.repeat(y, weight), np.repeat(prob, weight), **kwargs)
    assert_allclose(weighted.value, repeated.value)
    if strategy == "uniform":
        signed = np.r_[np.ones(300), -np.ones(20)]
        double = [np.r_[a, a[:20]] for a in (y, prob)]
        result = expected_calibration_error(*double, sample_weight=signed, **kwargs)
        without = expected_calibration_error(y[20:], prob[20:], **kwargs)
        assert_allclose(result.value, without.value)
        # What cancels in the sum does not in the fluctuation.
        assert result.floor > without.floor


def test_single_events_in_bins_add_nothing_to_the_debiased_error():
    # What one event says of its bin is all fluctuation.
    prob = (np.arange(10) + 0.5) / 10
    y = np.arange(10) % 2
    for kind in ("l1", "l2"):
        result = expected_calibration_error(y, prob, n_bins=10, norm=kind)
        assert result.debiased == 0
        assert result.value > 0.4


def test_quantile_calibration_error_is_that_of_the_counts():
    rng, n = np.random.default_rng(6), 50_000
    levels = np.array([0.1, 0.5, 0.9])
    y = rng.normal(size=(n, 2)) * [1.0, 2.0]
    quantiles = np.tile(norm.ppf(levels)[:, None], (n, 1, 2))
    # Of N(0, 2) the fraction below z_0.1 is Phi(z_0.1 / 2).
    gap = norm.cdf(norm.ppf(0.1) / 2) - 0.1
    raw = quantile_calibration_error(y, quantiles, levels, multioutput="raw_values")
    assert raw[0] < 4 * 0.5 / np.sqrt(n)
    assert_allclose(raw[1], 2 * gap / 3, atol=4 * 0.5 / np.sqrt(n))
    root = quantile_calibration_error(y[:, 1], quantiles[..., 1], levels, norm="l2")
    assert_allclose(root, gap * np.sqrt(2 / 3), atol=4 * 0.5 / np.sqrt(n))
    assert_allclose(quantile_calibration_error(y, quantiles, levels), raw.mean())
    weight = np.r_[np.ones(n), -np.ones(100)]
    again = np.r_[np.arange(n), np.arange(100)]
    signed = quantile_calibration_error(y[again], quantiles[again], levels, sample_weight=weight)
    assert_allclose(signed, quantile_calibration_error(y[100:], quantiles[100:], levels))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([], []), {}, r"must hold one event at least. Got the shapes \(0,\) and \(0,\)"),
        (([0, 1], ["a", "b"]), {}, "'y_prob' parameter must be an array of numbers"),
        (([0, 1], [0.2, 1.5]), {}, r"must hold probabilities in \[0, 1\]"),
        (([0, 1], [0.2, np.nan]), {}, r"must hold probabilities in \[0, 1\]"),
        (([0, 1, 2], [0.2, 0.3, 0.4]), {"pos_label": 1}, "must hold two classes"),
        ((["a", "b"], [0.2, 0.3]), {}, "pos_label"),
        (([0, 1], [0.2, 0.3]), {"pos_label": 2}, r"'pos_label' parameter.*one of two classes"),
        (([0, 1], [0.2, 0.3]), {"labels": [0, 2]}, "'labels' parameter"),
        (([0, 1], [0.2, 0.3]), {"labels": [0, 1, 2]}, "'labels' parameter.*hold two classes"),
        (([0, 0], [0.2, 0.3]), {"labels": [0, 1], "pos_label": 2}, "'pos_label' parameter"),
        (([0, 1], [[0.2, 0.2], [0.5, 0.5]]), {}, "sum to 1 for each event"),
        (([0, 1], [[0.2, 0.3, 0.5]] * 2), {}, "'labels' parameter of expected_calibration_error"),
        (([0, 3], [[0.2, 0.8]] * 2), {"labels": [0, 1]}, "'labels' parameter"),
        (([0, 1], [0.2, 0.7]), {"n_bins": 0}, "'n_bins' parameter"),
        (
            ([0, 1, 1], [0.2, 0.7, 0.9]),
            {"sample_weight": [-1, 1, 1], "n_bins": 2},
            "weights of 1 of 2 bins do not sum to a positive",
        ),
    ],
)
def test_errors_say_what_is_wrong(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(*args, **kwargs)


def test_brier_score_is_that_of_scikit_learn_and_the_sum_of_its_terms():
    rng = np.random.default_rng(7)
    y, prob = binary(rng, 400)
    weight = rng.uniform(size=400)
    several = softmax(rng.normal(size=(400, 3)))
    two = np.column_stack([1 - prob, prob])
    for truth, p in [(y, prob), (y, two), (drawn(rng, several), several)]:
        result = brier_decomposition(truth, p, sample_weight=weight)
        assert_allclose(result.brier, brier_score_loss(truth, p, sample_weight=weight))
        assert_allclose(result.brier, result.reliability - result.resolution + result.uncertainty)
        assert min(result) >= 0
    assert_allclose(brier_decomposition(y, two), brier_decomposition(y, prob))


def test_brier_terms_have_their_closed_forms():
    # Hits with probability u ~ U(0, 1): uncertainty 1/4, resolution var(u) = 1/12. Probabilities
    # u² are too low by E(u² - u)² = 1/30.
    rng, n = np.random.default_rng(8), 200_000
    y, prob = binary(rng, n)
    right, wrong = brier_decomposition(y, prob), brier_decomposition(y, prob**2)
    error = 4 * 0.5 / np.sqrt(n)
    assert_allclose(right.uncertainty, 0.25, atol=error)
    assert_allclose(right.resolution, 1 / 12, atol=error)
    assert_allclose(right.reliability, 0, atol=error)
    assert_allclose(wrong.reliability, 1 / 30, atol=error)
    # What keeps the order of events changes nothing but the reliability.
    assert_allclose(wrong[2:], right[2:])


def test_brier_weights_are_repetitions_and_not_negative():
    rng = np.random.default_rng(9)
    y, prob = binary(rng, 100)
    prob = np.round(prob, 1)
    weight = rng.integers(0, 4, 100)
    assert_allclose(
        brier_decomposition(y, prob, sample_weight=weight),
        brier_decomposition(np.repeat(y, weight), np.repeat(prob, weight)),
    )
    with pytest.raises(ValueError, match="must be non-negative"):
        brier_decomposition(y, prob, sample_weight=np.r_[-1.0, np.ones(99)])
