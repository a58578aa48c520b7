"""The examples that end in a picture: what they print and draw, recomputed."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn
from sklearn.metrics import f1_score

plt = pytest.importorskip("matplotlib.pyplot")
torch = pytest.importorskip("torch")
EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, n_events, folder, *options):
    """Run an example as a user does, and return its variables, and what it printed."""

    def refuse():
        raise AssertionError("An example with --output opens no window.")

    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        plt.rc_context(),
        sklearn.config_context(),
        contextlib.redirect_stdout(printed),
    ):
        plt.switch_backend("agg")
        patch.setattr(plt, "show", refuse)
        arguments = [name, "--output", str(folder / "new"), "--n-events", str(n_events), *options]
        patch.setattr(sys, "argv", arguments)
        variables = runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        plt.close("all")
    return variables, printed.getvalue()


def check_pictures(folder, **widths):
    """Pictures of the widths in pixels, none of them empty, and nothing else."""
    assert {path.name for path in folder.iterdir()} == {f"{name}.png" for name in widths}
    for name, width in widths.items():
        picture = plt.imread(folder / f"{name}.png")
        assert picture.shape[1] == width
        colours = np.unique(picture[::5, ::5].reshape(-1, picture.shape[2]), axis=0)
        assert len(colours) > 20


def rejection(score, is_signal):
    """Share of the background below the highest cut that keeps 90 % of the signal."""
    signal = np.sort(score[is_signal])[::-1]
    cut = signal[int(np.ceil(0.9 * len(signal))) - 1]
    return np.mean(score[~is_signal] < cut)


@pytest.fixture(scope="module")
def scintillator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scintillator")
    return *run("plot_scintillator.py", 240, folder), folder / "new"


def test_scintillator_pictures_and_numbers(scintillator):
    drawn, printed, folder = scintillator
    check_pictures(folder, scintillator_rejection=960, scintillator_events=1596)
    is_signal = drawn["events"].target[drawn["test"]] == 1
    assert set(drawn["train"]).isdisjoint(drawn["test"])
    for name, score in drawn["scores"].items():
        assert f"{name}: rejects {rejection(score, is_signal):.3f} (" in printed
    difference = np.diff([rejection(score, is_signal) for score in drawn["scores"].values()])
    assert f"Difference: {difference.item():+z.3f} ± " in printed
    # Of two scores that are the same in every event, nothing is left to fluctuate.
    same = drawn["difference"](drawn["scores"]["SphericalCNN, time and direction"], drawn["score"])
    assert same == (0.0, 0.0)


def test_scintillator_maps_show_the_light_of_the_event(scintillator):
    drawn, _, _ = scintillator
    events, test = drawn["events"], drawn["test"]
    for target in (0, 1):
        own = np.flatnonzero(drawn["target"] == target)
        event = own[np.argsort(drawn["score"][own])[len(own) // 2]]
        hits = events.data[test][event].astype(np.float64)
        hits = hits[hits[:, 2] > 0]
        tubes = hits[:, 0].astype(int)
        flight = np.linalg.norm(events.positions[tubes] - events.vertex[test][event], axis=1)
        residual = hits[:, 1] - flight / 16.95
        residual -= np.median(residual)
        for when, (start, stop) in {"Early light": (-8, 3), "Late light": (3, 40)}.items():
            seen_by, charge, mean = drawn["shown"][target, when]
            inside = (residual >= start) & (residual < stop)
            assert seen_by.tolist() == sorted(set(tubes[inside]))
            assert charge.sum() == pytest.approx(hits[inside, 2].sum(), rel=1e-6)
            total = [np.mean(residual[inside & (tubes == tube)]) for tube in seen_by]
            np.testing.assert_allclose(mean, total, atol=1e-3)


def test_mollweide_coordinates(scintillator):
    vectors = [[0, 0, 2], [3, 0, 0], [0, 1, 0], [0, -1, 0], [-1, -1e-9, 0], [1, 1, -np.sqrt(2)]]
    azimuth, latitude = scintillator[0]["on_map"](vectors)
    half, quarter = np.pi / 2, np.pi / 4
    np.testing.assert_allclose(azimuth[1:], [0, half, -half, -np.pi, quarter], atol=1e-8)
    np.testing.assert_allclose(latitude, [half, 0, 0, 0, 0, -quarter], atol=1e-8)


@pytest.fixture(scope="module")
def tpc(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpc")
    return *run("plot_tpc.py", 300, folder), folder / "new"


def test_tpc_pictures_and_numbers(tpc):
    drawn, printed, folder = tpc
    check_pictures(folder, tpc_confusion=1260, tpc_tracks=1596)
    lines = dict(line.removeprefix("F1 of ").split(": ") for line in printed.splitlines())
    assert len(lines) == len(drawn["confusions"]) == 4
    for (model, domain), confusion in drawn["confusions"].items():
        truth = drawn["tests"][domain].target
        said = drawn["models"][model].predict(drawn["tests"][domain].data)
        assert confusion.sum(axis=1).tolist() == np.bincount(truth).tolist()
        f1 = f1_score(truth, said, average=None)
        np.testing.assert_allclose(drawn["f1_per_class"](confusion), f1, rtol=1e-12)
        found = [float(part.split()[1]) for part in lines[f"{model} on {domain}"].split(", ")]
        np.testing.assert_allclose(found, f1, atol=5.01e-4)


def test_tpc_shows_the_median_event_of_each_class(tpc):
    drawn, _, _ = tpc
    for (domain, name), event in drawn["shown"].items():
        events, column = drawn["tests"][domain], list(drawn["names"]).index(name)
        kind = "pile_up" if name == "other" else "recoil"
        assert events.target[event] == column
        assert events.truth.kind[event] == kind
        certainty = drawn["probabilities"]["PointNet", domain][:, column]
        own = (events.target == column) & (events.truth.kind == kind)
        below = np.count_nonzero(certainty[own] < certainty[event])
        assert abs(below - own.sum() / 2) <= 1


@pytest.fixture(scope="module")
def waveform(tmp_path_factory):
    folder = tmp_path_factory.mktemp("waveform")
    return *run("plot_waveform_attention.py", 150, folder), folder / "new"


def test_waveform_pictures_and_numbers(waveform):
    drawn, printed, folder = waveform
    check_pictures(folder, waveform_attention=1596, scintillator_attention=1596)
    for name, score in drawn["scores"].items():
        found = rejection(score, drawn["y_test"] == 1)
        assert f"{name}: rejects {found:.3f} (" in printed
    film_score = drawn["film_model"].decision_function(drawn["films_test"])
    assert f"ConvLSTM: rejects {rejection(film_score, drawn['z_test'] == 1):.3f} (" in printed


def test_attention_is_one_weight_for_each_step(waveform):
    drawn, _, _ = waveform
    n_steps = 80 // drawn["PATCH"]
    for weights in drawn["weights"].values():
        assert weights.shape == (len(drawn["y_test"]), n_steps)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    assert np.diff(drawn["edges"]) == pytest.approx(drawn["PATCH"] * drawn["period"])
    np.testing.assert_allclose(drawn["film_weights"].sum(axis=1), 1, rtol=1e-5)


def test_time_zero_is_where_90_percent_of_the_charge_is_collected(waveform):
    drawn, _, _ = waveform
    whole = drawn["models"]["LSTM"][:2].transform(drawn["X_test"])
    zero = np.flatnonzero(drawn["time"] == 0).item()
    reached = drawn["aligned"] >= 0.9 * whole.max(axis=1, keepdims=True)
    assert reached[:, zero].all()
    assert not reached[:, zero - 1].any()


def test_attention_of_the_lstm_knows_no_future(waveform):
    drawn, _, _ = waveform
    X = drawn["aligned"].copy()
    X[:, 40:] = X[:, 40:][:, ::-1] - 1.0
    early = {}
    for name, model in drawn["models"].items():
        changed = drawn["attention"](model[-1], X)[:, : 40 // drawn["PATCH"]]
        before = drawn["weights"][name][:, : changed.shape[1]]
        # The later steps enter through the norm only.
        early[name] = np.abs(
            changed / changed.sum(1, keepdims=True) - before / before.sum(1, keepdims=True)
        ).max()
    assert early["LSTM"] < 1e-5
    assert early["Transformer"] > 1e-4
