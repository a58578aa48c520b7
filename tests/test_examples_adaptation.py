"""From simulated tracks to those of the detector: what the example prints and draws, recomputed."""

import re

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import f1_score

pytest.importorskip("matplotlib")
pytest.importorskip("torch")
from test_examples import check_pictures, run


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracks")
    options = ("--epochs", "1", "--seeds", "1")
    return *run("plot_tpc_simulation_to_data.py", 150, folder, *options), folder / "new"


def test_tracks_pictures_and_numbers(tracks):
    drawn, printed, folder = tracks
    check_pictures(folder, tpc_simulation_to_data=1920)
    truth = drawn["truth"]
    lines = re.findall(r"^F1 of (.+?): (.+); accuracy of single trainings (.+)$", printed, re.M)
    assert [name for name, _, _ in lines] == ["source only", *drawn["ADAPTERS"], "oracle"]
    for method, scores, accuracy in lines:
        (confusion,) = drawn["confusions"][method]
        assert confusion.sum(axis=1).tolist() == np.bincount(truth).tolist()
        # The table, unrolled to the answers that it counts.
        true, said = np.indices((3, 3)).reshape(2, -1).repeat(confusion.ravel(), axis=1)
        f1 = f1_score(true, said, average=None, zero_division=0)
        found = [float(part.split()[1]) for part in scores.split(", ")]
        np.testing.assert_allclose(found, f1, atol=5.01e-4)
        assert float(accuracy) == pytest.approx(np.trace(confusion) / 150, abs=5.01e-4)


def test_adapters_see_no_label_of_measured_events(tracks):
    drawn, _, _ = tracks
    measured = drawn["domain"] < 0
    assert measured.sum() == len(drawn["X_measured"]) == 150
    assert (drawn["y_both"][measured] == -1).all()
    np.testing.assert_array_equal(drawn["X_both"][measured], drawn["X_measured"])
    np.testing.assert_array_equal(drawn["y_both"][~measured], drawn["simulated"].target)


def test_quantities_of_tracks(tracks):
    drawn, _, _ = tracks
    for events, table in zip((drawn["simulated"], drawn["measured"]), drawn["tables"], strict=True):
        for event in (0, 77, 149):
            x, y, z, charge = events.data[event].astype(float).T
            height = np.average(z, weights=charge)
            expected = [
                len(charge),
                charge.sum() / 1e3,
                np.sort(charge)[len(charge) // 2],
                np.unique(events.data[event][:, :2], axis=0, return_counts=True)[1].max(),
                np.unique(z, return_counts=True)[1].max(),
                np.sqrt(np.average((z - height) ** 2, weights=charge)),
                np.average(np.hypot(x, y), weights=charge),
            ]
            np.testing.assert_allclose([v[event] for v in table.values()], expected, rtol=1e-6)


def test_shift_of_tracks(tracks):
    drawn, printed, _ = tracks
    report = drawn["report"]
    simulated, measured = drawn["tables"]
    for name, distance in zip(report.feature_names, report.ks, strict=True):
        assert distance == pytest.approx(ks_2samp(simulated[name], measured[name]).statistic)
    # Two pads per event fire in 5 to 59 time buckets in a row, on average; simulated ones never.
    assert report.shifted[report.feature_names.index("points of the busiest pad")]
    assert str(report) in printed


def test_the_same_reaction_is_shown_twice(tracks):
    drawn, _, _ = tracks
    shown, simulated, same = drawn["shown"], drawn["simulated"], drawn["same"]
    assert simulated.target[shown] == same.target[shown] == 0
    np.testing.assert_array_equal(simulated.truth.vertex[shown], same.truth.vertex[shown])
    own = (simulated.target == 0) & simulated.truth.stopped
    length = simulated.truth.path_length
    below = np.count_nonzero(length[own] < length[shown])
    assert abs(below - own.sum() / 2) <= 1
