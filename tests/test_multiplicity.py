"""What a row of merged events is: one event and its copies, or a value that many events share."""

import numpy as np
import pytest

from sknuc.multiplicity import count_pieces, merge_identical


def over_sampled(digits, n_copies, seed=0, n_rare=100, n_others=1000, weighted=False):
    """Rare events that are there several times, among others; the last digits are rounded away."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rare + n_others, 1)).round(digits)
    y = np.repeat([1, 0], [n_rare, n_others])
    copies = np.where(y == 1, n_copies, 1)
    if weighted:
        weight = copies.astype(float)
        return *merge_identical(X, y, weight), weight
    return *merge_identical(X.repeat(copies, 0), y.repeat(copies), None), None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("digits", "n_copies"), [(9, 2), (4, 2), (4, 10), (3, 3), (3, 10)])
def test_copies_of_rare_events_stay_whole_though_they_meet_the_many(
    digits, n_copies, weighted, seed
):
    # A rare event meets one of a thousand others far more often than one of these meets a rare
    # one: the pairs of copies are still far more than chance makes.
    X, y, weight, given = over_sampled(digits, n_copies, seed, weighted=weighted)
    pieces = count_pieces(X, weight, given, y)
    alone = ~np.isin(X[:, 0], np.intersect1d(X[y == 1], X[y == 0]))
    assert alone[y == 1].mean() > 0.6
    np.testing.assert_array_equal(pieces[alone], 1)
    # Who meets another label may be a value.
    np.testing.assert_array_equal(pieces[~alone], weight[~alone])


@pytest.mark.parametrize("n_meetings", [1, 2, 3, 5, 20])
def test_a_few_meetings_more_change_a_few_rows(n_meetings):
    # Fifty events of weight 10 and a thousand of 1, of which some meet.
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(1050, 1)), rng.integers(2, size=1050)
    X[50 : 50 + n_meetings], y[50 : 50 + n_meetings] = X[:n_meetings], 1 - y[:n_meetings]
    weight = np.repeat([10.0, 1.0], [50, 1000])
    merged, labels, total = merge_identical(X, y, weight)
    pieces = count_pieces(merged, total, weight, labels)
    assert (pieces > 1).sum() == n_meetings
    np.testing.assert_array_equal(pieces[pieces > 1], 10)


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_events_that_meet_by_chance_alone_are_all_divided(share):
    # A fine grid of which most cells are hit once: rows of several events are chance, and as many
    # as the meetings of different labels tell, however rare one of these is.
    rng = np.random.default_rng(2)
    x, y = rng.integers(20_000, size=10_000), (rng.uniform(size=10_000) < share).astype(int)
    merged, labels, total = merge_identical(x[:, None], y, None)
    assert (total > 1).sum() > 1000
    np.testing.assert_array_equal(count_pieces(merged, total, None, labels), total)


def test_measurements_at_one_setting_are_divided_and_their_copies_are_not():
    # Continuous targets: different events agree in x alone.
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(500, 1)), rng.normal(size=500)
    X[400:] = X[300:400]
    weight = np.where(np.arange(500) < 50, 4.0, 1.0)
    weight[300:] = 3.0
    merged, targets, total = merge_identical(X, y, weight)
    pieces = count_pieces(merged, total, weight, targets)
    shared = np.isin(merged[:, 0], X[400:, 0])
    np.testing.assert_array_equal(pieces, np.where(shared, 3, 1))
