"""LH5 and HDF5 files: what was written is what is read, and broken files say so."""

import pickle

import h5py
import numpy as np
import pytest

from sknuc.datasets import HDF5Rows, list_lh5, read_lh5

N = 20


@pytest.fixture(scope="module")
def content():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, N)
    lengths[3] = 0
    return {
        "A_max": rng.normal(size=N),
        "is_valid": rng.random(N) < 0.5,
        "waveform/t0": np.zeros(N, dtype=np.float32),
        "waveform/dt": np.full(N, 16, dtype=np.float32),
        "waveform/values": rng.integers(0, 2**16, (N, 50), dtype=np.uint16),
        "tracelist": [rng.integers(0, 9, n).astype(np.int16) for n in lengths],
    }


def write(path, content, *, datatypes=True):
    def column(group, name, values, datatype, units=None):
        group[name] = values
        if datatypes:
            group[name].attrs["datatype"] = datatype
            if units:
                group[name].attrs["units"] = units

    with h5py.File(path, "w") as file:
        raw = file.create_group("ch1/raw")
        wave = raw.create_group("waveform")
        ragged = raw.create_group("tracelist")
        if datatypes:
            file["ch1"].attrs["datatype"] = "struct{raw}"
            raw.attrs["datatype"] = "table{waveform,A_max,is_valid,tracelist}"
            wave.attrs["datatype"] = "table{t0,dt,values}"
            ragged.attrs["datatype"] = "array<1>{array<1>{real}}"
        column(raw, "A_max", content["A_max"], "array<1>{real}", "ADC")
        column(raw, "is_valid", content["is_valid"].astype(np.uint8), "array<1>{bool}")
        column(wave, "t0", content["waveform/t0"], "array<1>{real}", "ns")
        column(wave, "dt", content["waveform/dt"], "array<1>{real}", "ns")
        kind = "array_of_equalsized_arrays<1,1>{real}"
        column(wave, "values", content["waveform/values"], kind)
        flat = np.concatenate(content["tracelist"])
        ends = np.cumsum([len(row) for row in content["tracelist"]]).astype(np.uint32)
        column(ragged, "flattened_data", flat, "array<1>{real}")
        column(ragged, "cumulative_length", ends, "array<1>{real}")
    return path


@pytest.fixture(scope="module")
def lh5(content, tmp_path_factory):
    return write(tmp_path_factory.mktemp("lh5") / "raw.lh5", content)


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 7), (5, 12), (3, 3), (N, N), (1, N)])
def test_what_was_written_is_read(lh5, content, start, stop):
    table = read_lh5(lh5, "ch1/raw", start=start, stop=stop)
    rows = slice(start, stop)
    assert list(table.data) == [
        "waveform/t0", "waveform/dt", "waveform/values", "A_max", "is_valid", "tracelist",
    ]  # fmt: skip
    assert table.n_rows == len(range(*rows.indices(N)))
    for name, values in table.data.items():
        if name == "tracelist":
            assert len(values) == table.n_rows
            for found, expected in zip(values, content[name][rows], strict=True):
                np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_array_equal(values, content[name][rows])
            assert values.dtype == content[name].dtype
    assert table.units == {"A_max": "ADC", "waveform/t0": "ns", "waveform/dt": "ns"}


def test_the_only_table_is_found(lh5):
    assert read_lh5(lh5).group == "ch1/raw"


def test_columns_are_chosen_by_name(lh5, content):
    table = read_lh5(lh5, columns=["is_valid", "waveform"])
    assert list(table.data) == ["is_valid", "waveform/t0", "waveform/dt", "waveform/values"]
    table = read_lh5(lh5, columns="waveform/values")
    np.testing.assert_array_equal(table.data["waveform/values"], content["waveform/values"])
    nested = read_lh5(lh5, "ch1/raw/waveform", columns=["dt"])
    np.testing.assert_array_equal(nested.data["dt"], 16)
    alone = read_lh5(lh5, "ch1/raw/A_max", start=2, stop=4)
    np.testing.assert_array_equal(alone.data["A_max"], content["A_max"][2:4])


def test_plain_hdf5_is_a_table_of_its_datasets(tmp_path, content):
    path = tmp_path / "flat.hdf5"
    with h5py.File(path, "w") as file:
        file["energy"] = content["A_max"]
        file["wave"] = content["waveform/values"]
    table = read_lh5(path, start=4)
    np.testing.assert_array_equal(table.data["energy"], content["A_max"][4:])
    np.testing.assert_array_equal(table.data["wave"], content["waveform/values"][4:])
    assert table.units == {}


def test_list(lh5):
    contents = list_lh5(lh5)
    assert list(contents) == [
        "ch1/raw", "ch1/raw/A_max", "ch1/raw/is_valid", "ch1/raw/tracelist", "ch1/raw/waveform",
        "ch1/raw/waveform/dt", "ch1/raw/waveform/t0", "ch1/raw/waveform/values",
    ]  # fmt: skip
    assert contents["ch1/raw"].shape == (N,)
    values = contents["ch1/raw/waveform/values"]
    assert (values.shape, values.dtype, values.units) == ((N, 50), np.uint16, None)
    assert values.datatype == "array_of_equalsized_arrays<1,1>{real}"
    assert contents["ch1/raw/tracelist"].shape == (N,)
    assert contents["ch1/raw/A_max"].units == "ADC"
    beneath = list_lh5(lh5, "ch1/raw/waveform")
    assert beneath == {key: item for key, item in contents.items() if "waveform" in key}
    assert list(list_lh5(lh5, "ch1/raw/A_max")) == ["ch1/raw/A_max"]


@pytest.fixture(scope="module")
def pieces(content, tmp_path_factory):
    """Rows of three files in a row, and the array that they are."""
    folder = tmp_path_factory.mktemp("pieces")
    sources, expected = [], []
    for i, (start, stop) in enumerate([(0, 6), (4, 20), (10, 10), (19, 20)]):
        values = content["waveform/values"] + np.uint16(i)
        with h5py.File(folder / f"{i}.h5", "w") as file:
            file["wave"] = values
        sources.append((folder / f"{i}.h5", start, stop))
        expected.append(values[start:stop])
    return HDF5Rows(sources, "wave", (50,), np.uint16), np.concatenate(expected)


@pytest.mark.parametrize(
    "key",
    [
        0, 6, -1, np.int64(22), slice(None), slice(3, 9), slice(5, 7), slice(2, None, 3),
        slice(1, 23, 17), slice(None, None, -1), slice(20, 2, -4), slice(-4, None), slice(9, 3),
        [3, 22, 6, 3, -1], np.array([], dtype=int), np.arange(23) % 3 == 0, [[1, 2], [21, 0]],
        (slice(2, 8), slice(0, 4)), (5, 3), ([9, 1], slice(None, None, 2)),
        ..., (), (..., 3), (4, ...), (slice(2, 8), ..., slice(0, 4)), ([9, 1], ...),
        (slice(5), [0, 7]), (3, np.arange(50) % 2 == 0), (slice(4), None, ..., 2),
    ],
)  # fmt: skip
def test_rows_on_disk_are_indexed_as_an_array(pieces, key):
    rows, expected = pieces
    found = rows[key]
    expected = expected[tuple(np.asarray(k) if isinstance(k, list) else k for k in key)
                        if isinstance(key, tuple) else key]  # fmt: skip
    np.testing.assert_array_equal(found, expected)
    assert np.asarray(found).dtype == np.uint16


def test_rows_on_disk_look_like_an_array(pieces):
    rows, expected = pieces
    assert (rows.shape, rows.ndim, len(rows), rows.dtype) == ((23, 50), 2, 23, np.uint16)
    np.testing.assert_array_equal(np.asarray(rows, dtype=np.float32), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rows))[4], expected[4])
    assert "'wave'" in repr(rows)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (23, "23 rows"),
        (-24, "23 rows"),
        ([0, 23], "23 rows"),
        (np.ones(5, bool), "must have the shape"),
        ([0.5, 1.5], "whole numbers"),
        ((..., ...), "one of which may be an Ellipsis"),
        ((1, 2, 3), "take 2 indices at most"),
        (([0, 1], [0, 1]), "one after the other"),
    ],
)
def test_rows_out_of_range(pieces, key, message):
    with pytest.raises(IndexError, match=message):
        pieces[0][key]


@pytest.mark.parametrize(
    ("sources", "shape", "message"),
    [
        ([], (50,), "'sources'.*one .path, start, stop. at least"),
        ([(0, 21)], (50,), "0 <= start <= stop <= 20.*start=0 and stop=21"),
        ([(0, 5), (-1, 5)], (50,), "start=-1 and stop=5"),
        ([(5, 4)], (50,), "start=5 and stop=4"),
        ([(0, None)], (50,), "start=0 and stop=None"),
        ([(0, 5)], (51,), r"'shape'.*\(51,\).*has the shape \(20, 50\)"),
    ],
)
def test_sources_must_be_there(lh5, sources, shape, message):
    sources = [(lh5, *rows) for rows in sources]
    with pytest.raises(ValueError, match=message):
        HDF5Rows(sources, "ch1/raw/waveform/values", shape, np.uint16)
    with pytest.raises(KeyError, match=r"no 'wave'"):
        HDF5Rows([(lh5, 0, 1)], "wave", (50,), np.uint16)
    with pytest.raises(ValueError, match="is no dataset"):
        HDF5Rows([(lh5, 0, 1)], "ch1/raw", (50,), np.uint16)


@pytest.mark.parametrize("key", [slice(None), slice(5, 20), [1, 19]])
def test_rows_that_are_lost_later(tmp_path, key):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("wave", data=np.ones((20, 3)), maxshape=(None, 3))
    rows = HDF5Rows([(tmp_path / "a.h5", 0, 20)], "wave", (3,), float)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["wave"].resize(6, axis=0)
    with pytest.raises(OSError, match=r"'wave' of .*a\.h5 has lost rows.*6 rows are there"):
        rows[key]


def test_lazy_columns_read_only_what_is_asked_for(lh5, content):
    table = read_lh5(lh5, columns=["waveform/values", "A_max"], start=4, stop=18, lazy=True)
    values = table.data["waveform/values"]
    assert values.shape == (14, 50)
    np.testing.assert_array_equal(values[3:5], content["waveform/values"][7:9])
    np.testing.assert_array_equal(np.asarray(table.data["A_max"]), content["A_max"][4:18])
    with pytest.raises(ValueError, match=r"'ch1/raw/tracelist'.*lazily.*'columns'"):
        read_lh5(lh5, columns="tracelist", lazy=True)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"group": "ch2/raw"}, KeyError, r"no 'ch2/raw'.*holds: ch1"),
        ({"group": "ch1/dsp"}, KeyError, r"no 'ch1/dsp'\. ch1 holds: raw"),
        ({"group": "ch1"}, ValueError, r"'ch1'.*is no table.*Its tables are: ch1/raw"),
        ({"columns": ["a_max"]}, KeyError, r"no column 'a_max'.*A_max, is_valid"),
        ({"start": 21}, ValueError, r"<= 20.*start=21 and stop=20"),
        ({"stop": 21}, ValueError, r"<= 20.*stop=21"),
        ({"start": 5, "stop": 4}, ValueError, r"start=5 and stop=4"),
        ({"start": -1}, ValueError, r"'start'.*-1"),
    ],
)
def test_errors_name_what_exists(lh5, arguments, error, message):
    with pytest.raises(error, match=message):
        read_lh5(lh5, **arguments)


def test_several_tables_must_be_chosen_from(tmp_path):
    path = tmp_path / "two.lh5"
    with h5py.File(path, "w") as file:
        file["ch1/dsp/A"] = [1.0]
        file["ch2/dsp/A"] = [1.0]
    with pytest.raises(ValueError, match=r"holds 2 tables.*'group'.*ch1/dsp, ch2/dsp"):
        read_lh5(path)


def test_columns_of_different_length_are_no_table(tmp_path):
    path = tmp_path / "uneven.lh5"
    with h5py.File(path, "w") as file:
        file["a"], file["b"] = np.zeros(3), np.zeros(4)
    with pytest.raises(ValueError, match="'a' has 3 rows, and 'b' has 4"):
        read_lh5(path)


def test_a_column_that_the_table_names_but_lacks(lh5, tmp_path, content):
    path = write(tmp_path / "raw.lh5", content)
    with h5py.File(path, "a") as file:
        del file["ch1/raw/A_max"]
    with pytest.raises(KeyError, match=r"no 'A_max'\. ch1/raw holds: is_valid"):
        read_lh5(path)


def test_encoded_columns_are_named(tmp_path):
    path = tmp_path / "encoded.lh5"
    with h5py.File(path, "w") as file:
        file["raw/n"] = np.arange(2)
        wave = file.create_group("raw/wave")
        wave.attrs["datatype"] = "array_of_encoded_equalsized_arrays<1,1>{real}"
        wave.attrs["codec"] = "radware_sigcompress"
        wave["encoded_data/cumulative_length"] = [3, 6]
        wave["encoded_data/flattened_data"] = np.zeros(6, np.uint8)
        wave["decoded_size"] = 50
        file["raw"].attrs["datatype"] = "table{n,wave}"
    with pytest.raises(ValueError, match=r"'raw/wave'.*radware_sigcompress.*'columns'"):
        read_lh5(path, "raw")
    np.testing.assert_array_equal(read_lh5(path, "raw", columns=["n"]).data["n"], [0, 1])


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.lh5"):
        read_lh5(tmp_path / "nothing.lh5")


def test_no_hdf5(tmp_path):
    path = tmp_path / "page.lh5"
    path.write_text("<html>404</html>")
    with pytest.raises(OSError, match=r"page\.lh5, which has 16 bytes: it is not an HDF5 file"):
        read_lh5(path)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_file(lh5, tmp_path, kept):
    path = tmp_path / "cut.lh5"
    whole = lh5.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(OSError, match=r"cut\.lh5.*truncated.*fetch it again"):
        read_lh5(path)
    with pytest.raises(OSError, match="truncated"):
        list_lh5(path)


def test_corrupted_rows(tmp_path):
    path = tmp_path / "raw.lh5"
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        file.create_dataset("good", data=np.arange(100))
        file.create_dataset("bad", data=rng.integers(0, 9, 5000)[:100], compression="gzip")
        where = file["bad"].id.get_chunk_info(0)
    raw = bytearray(path.read_bytes())
    start = where.byte_offset
    raw[start : start + where.size] = b"\xff" * where.size
    path.write_bytes(raw)
    np.testing.assert_array_equal(read_lh5(path, columns="good").data["good"], np.arange(100))
    with pytest.raises(OSError, match=r"'bad' of .*raw\.lh5.*corrupted"):
        read_lh5(path)
    lazy = read_lh5(path, lazy=True).data["bad"]
    with pytest.raises(OSError, match="corrupted"):
        lazy[:5]


def test_corrupted_header(tmp_path):
    path = tmp_path / "raw.lh5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(1000)
        where = h5py.h5o.get_info(file["a"].id).addr
    raw = bytearray(path.read_bytes())
    raw[where : where + 16] = b"\xff" * 16
    path.write_bytes(raw)
    with pytest.raises(OSError, match=r"raw\.lh5.*corrupted"):
        read_lh5(path, "/", columns=["a"])
    with pytest.raises(OSError, match=r"raw\.lh5.*corrupted"):
        list_lh5(path)
