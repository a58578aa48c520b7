"""SuperCDMS source positions: the table from a server on loopback, and the real one."""

import os

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from sknuc import datasets
from sknuc.datasets import _supercdms
from sknuc.datasets._registry import SUPERCDMS

needs_data = pytest.mark.skipif(
    not os.environ.get("SKNUC_DATA"),
    reason="real data: set SKNUC_DATA to the folder with the local copies",
)

COLUMNS = [f"P{channel}start" for channel in "BCDF"] + [
    f"P{channel}{quantity}" for quantity in ("rise", "fall", "width") for channel in "ABCDF"
]


@pytest.fixture
def tables(serve, monkeypatch):
    """The three files, small."""
    rng = np.random.default_rng(0)
    tables = {}
    positions = {
        "training": ["0.0", "-21.034000000000002", "-3.969", "0.0"],
        "validation": ["-41.01", "0.0", "-39.4"],
        "unseen": ["-41.9", "-12.502"],
    }
    for part, source in positions.items():
        times = rng.uniform(1e-6, 3e-4, (len(source), 19))
        rows = rng.integers(0, 30_000, len(source))
        lines = [",".join(["Row", *COLUMNS, "y"])]
        lines += [
            ",".join([str(row), *map(repr, event.tolist()), y])
            for row, event, y in zip(rows, times, source, strict=True)
        ]
        content = "\n".join([*lines, ""]).encode()
        remote = serve(f"supercdms_{part}.csv", content)
        monkeypatch.setitem(_supercdms.SUPERCDMS, part, remote)
        tables[part] = rows, times, np.array(source, dtype=float)
    return tables


@pytest.mark.parametrize("part", ["training", "validation", "unseen"])
def test_the_parts_are_read_as_they_are_written(tables, part):
    rows, times, y = tables[part]
    events = datasets.fetch_supercdms(subset=part)
    np.testing.assert_array_equal(events.data, times)
    np.testing.assert_array_equal(events.target, y)
    np.testing.assert_array_equal(events.row, rows)
    np.testing.assert_allclose(events.positions[events.groups], y, rtol=1e-12)
    assert events.feature_names == COLUMNS
    assert set(events.subset) == {part}
    assert events.frame is None


def test_all_parts_follow_one_another(tables):
    events = datasets.fetch_supercdms(subset="all")
    np.testing.assert_array_equal(events.data, np.concatenate([t[1] for t in tables.values()]))
    np.testing.assert_array_equal(events.row, np.concatenate([t[0] for t in tables.values()]))
    assert list(events.subset) == ["training"] * 4 + ["validation"] * 3 + ["unseen"] * 2
    # The same position has the same group in every part.
    np.testing.assert_array_equal(events.groups, [0, 6, 1, 0, 11, 0, 10, 12, 3])


def test_frames_and_pairs(tables):
    _, times, y = tables["training"]
    X, target = datasets.fetch_supercdms(return_X_y=True)
    np.testing.assert_array_equal(X, times)
    np.testing.assert_array_equal(target, y)
    events = datasets.fetch_supercdms(as_frame=True)
    assert list(events.data.columns) == COLUMNS
    np.testing.assert_array_equal(events.data, times)
    assert events.target.name == "position"
    assert events.frame.shape == (4, 20)
    np.testing.assert_array_equal(events.groups, [0, 6, 1, 0])
    X, target = datasets.fetch_supercdms(return_X_y=True, as_frame=True)
    assert (list(X.columns), target.name) == (COLUMNS, "position")


def test_errors(tables, tmp_path):
    with pytest.raises(OSError, match=r"supercdms_training\.csv.*'download_if_missing' is False"):
        datasets.fetch_supercdms(data_home=tmp_path / "new", download_if_missing=False)
    with pytest.raises(ValueError, match=r"'subset' parameter.*'unseen'.*Got 'test'"):
        datasets.fetch_supercdms(subset="test")


def test_the_registry_names_whole_files():
    for part, name in [("training", "training"), ("validation", "validation"), ("unseen", "hos")]:
        remote = SUPERCDMS[part]
        assert remote.name == f"supercdms_{name}.csv"
        assert remote.url.startswith("https://")
        assert remote.url.endswith(f"/{name}.csv")
        assert len(remote.checksum) == len("sha256:") + 64


@needs_data
def test_the_published_split():
    parts = {part: datasets.fetch_supercdms(subset=part) for part in SUPERCDMS}
    assert [len(part.data) for part in parts.values()] == [4508, 1128, 1515]
    everything = datasets.fetch_supercdms(subset="all")
    # Numbers of events at each position, as they are published with the data.
    counts = dict(zip(everything.positions, np.bincount(everything.groups), strict=True))
    assert counts == {
        **{0.0: 924, -3.969: 500, -9.988: 613, -12.502: 395, -17.992: 357, -19.7: 376},
        **{-21.034: 747, -24.077: 567, -29.5: 634, -36.116: 560, -39.4: 386, -41.01: 606},
        -41.9: 486,
    }
    np.testing.assert_allclose(everything.positions[everything.groups], everything.target)
    groups = {part: set(table.groups) for part, table in parts.items()}
    assert groups["training"] == groups["validation"]
    assert groups["unseen"] == set(range(13)) - groups["training"]
    # No event is in two parts, or twice in one.
    events = np.column_stack([everything.groups, everything.row])
    assert len(np.unique(events, axis=0)) == len(np.unique(everything.data, axis=0)) == 7151
    assert LeaveOneGroupOut().get_n_splits(groups=parts["training"].groups) == 10
    # Widths, rises and falls are times, so they are positive; a pulse lasts less than a second.
    durations = everything.data[:, 4:]
    assert durations.min() > 0
    assert np.abs(everything.data).max() < 1


@needs_data
def test_pulses_tell_the_position():
    # Least squares on standardised times: 1.43 mm at known positions, 1.98 mm at unseen ones.
    X, y = datasets.fetch_supercdms(return_X_y=True)
    scaler = StandardScaler().fit(X)
    model = LinearRegression().fit(scaler.transform(X), y)
    for part, expected in [("validation", 1.43), ("unseen", 1.98)]:
        X, y = datasets.fetch_supercdms(subset=part, return_X_y=True)
        rmse = np.sqrt(np.mean((model.predict(scaler.transform(X)) - y) ** 2))
        assert rmse == pytest.approx(expected, abs=0.005)
