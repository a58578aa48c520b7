"""Fetching data: from a real server on loopback, whole and verified or not at all."""

import hashlib
import re
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from sknuc import datasets
from sknuc.datasets import _download, _legend, _majorana
from sknuc.datasets._download import ResumingDownloader, fetch_file
from sknuc.datasets._registry import LEGEND, MAJORANA, RemoteFile


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content`; breaks off after as many bytes as `server.cuts` says."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        content = server.files.get(self.path.lstrip("/"))
        if content is None:
            self.send_error(404)
            return
        start = 0
        if server.ranges and (wanted := self.headers.get("Range")):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if server.ranges is True else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        if not server.hide_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        self.wfile.write(body[:cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """An HTTP server on a free port of this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.cuts = {}, [], []
    server.status, server.ranges, server.hide_length = 200, True, False
    server.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def patient(monkeypatch, tmp_path):
    """No local copies, a data home of its own, and no waiting between retries."""
    monkeypatch.delenv("SKNUC_DATA", raising=False)
    monkeypatch.setenv("SKNUC_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(_download.time, "sleep", lambda seconds: None)


def remote_file(name, content, base):
    digest = hashlib.sha256(content).hexdigest()
    return RemoteFile(name, base + name, f"sha256:{digest}", len(content))


@pytest.fixture
def remote(server):
    content = np.random.default_rng(0).bytes(300_000)
    server.files["data.bin"] = content
    return remote_file("data.bin", content, server.url)


def left(home):
    return sorted(path.name for path in Path(home).iterdir())


def test_a_file_is_fetched_once(server, remote, tmp_path):
    path = fetch_file(remote, tmp_path)
    assert path.read_bytes() == server.files["data.bin"]
    assert left(tmp_path) == ["data.bin"]
    assert fetch_file(remote, tmp_path) == path
    assert server.requests == [None]


def test_the_data_home(monkeypatch, tmp_path):
    assert datasets.get_data_home(tmp_path / "own") == str(tmp_path / "own")
    monkeypatch.setenv("SKNUC_HOME", str(tmp_path / "env" / "deep"))
    assert datasets.get_data_home() == str(tmp_path / "env" / "deep")
    assert (tmp_path / "env" / "deep").is_dir()
    datasets.clear_data_home()
    assert not (tmp_path / "env" / "deep").exists()
    monkeypatch.delenv("SKNUC_HOME")
    monkeypatch.setattr(_download.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    assert datasets.get_data_home() == str(tmp_path / "cache" / "sknuc")


def test_a_broken_transfer_goes_on_where_it_ended(server, remote, tmp_path):
    server.cuts = [150_000, 70_000]
    path = fetch_file(remote, tmp_path)
    assert path.read_bytes() == server.files["data.bin"]
    first, second, third = server.requests
    assert first is None
    starts = [int(wanted[len("bytes=") : -1]) for wanted in (second, third)]
    assert 0 < starts[0] <= 150_000
    assert starts[0] < starts[1] <= starts[0] + 70_000


def test_a_transfer_of_unknown_length_that_ends_early_goes_on(server, remote, tmp_path):
    server.hide_length = True
    server.cuts = [100_000]
    assert fetch_file(remote, tmp_path).read_bytes() == server.files["data.bin"]
    assert server.requests == [None, "bytes=100000-"]


def test_a_server_without_ranges_starts_again(server, remote, tmp_path):
    server.ranges = False
    server.cuts = [150_000, 90_000]
    assert fetch_file(remote, tmp_path).read_bytes() == server.files["data.bin"]
    assert len(server.requests) == 3


def test_a_server_that_sends_another_range_starts_again(server, remote, tmp_path):
    server.ranges = "from the beginning"
    server.cuts = [150_000]
    assert fetch_file(remote, tmp_path).read_bytes() == server.files["data.bin"]
    assert len(server.requests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_never_gets_on_is_given_up(server, remote, tmp_path, ranges):
    server.ranges = ranges
    server.cuts = [150_000] + [0 if ranges else 150_000] * 4
    with pytest.raises(OSError, match=r"Could not fetch data\.bin from http") as info:
        fetch_file(remote, tmp_path)
    assert left(tmp_path) == ["data.bin.part"]
    kept = (tmp_path / "data.bin.part").stat().st_size
    assert 0 < kept <= 150_000
    assert f"first {kept} bytes were kept" in str(info.value)
    # The first attempt got somewhere; then as many retries as there are, and one.
    assert len(server.requests) == 5
    # The next call asks for the rest; without ranges, everything comes again.
    path = fetch_file(remote, tmp_path)
    assert path.read_bytes() == server.files["data.bin"]
    assert left(tmp_path) == ["data.bin"]
    assert server.requests[5:] == [f"bytes={kept}-"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_call_is_taken_up_by_the_next(
    server, remote, tmp_path, monkeypatch, ranges, error
):
    server.ranges = ranges
    whole = ResumingDownloader._chunks

    def interrupted(self, file, received):
        for position in whole(self, file, received):
            yield position
            assert left(tmp_path) == ["data.bin.part"]
            if position >= 2**17:
                raise error

    with monkeypatch.context() as patch:
        patch.setattr(ResumingDownloader, "_chunks", interrupted)
        with pytest.raises(error):
            fetch_file(remote, tmp_path)
    part = tmp_path / "data.bin.part"
    assert left(tmp_path) == [part.name]
    content = part.read_bytes()
    assert 2**17 <= len(content) < remote.n_bytes
    assert content == server.files["data.bin"][: len(content)]
    assert fetch_file(remote, tmp_path).read_bytes() == server.files["data.bin"]
    assert server.requests == [None, f"bytes={len(content)}-"]
    assert left(tmp_path) == ["data.bin"]


def test_a_complete_part_is_verified_and_named(server, remote, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(server.files["data.bin"])
    assert fetch_file(remote, tmp_path).read_bytes() == server.files["data.bin"]
    assert server.requests == []


@pytest.mark.parametrize("n_bytes", [100_000, 300_000, 400_000])
def test_a_part_of_another_file_is_deleted(server, remote, tmp_path, n_bytes):
    (tmp_path / "data.bin.part").write_bytes(b"x" * n_bytes)
    if n_bytes <= remote.n_bytes:
        with pytest.raises(OSError, match=r"not the expected file, its sha256.*Nothing was kept"):
            fetch_file(remote, tmp_path)
        assert left(tmp_path) == []
    assert fetch_file(remote, tmp_path).read_bytes() == server.files["data.bin"]


def test_several_threads_fetch_one_file_once(server, remote, tmp_path):
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: fetch_file(remote, tmp_path), range(6)))
    assert set(paths) == {tmp_path / "data.bin"}
    assert paths[0].read_bytes() == server.files["data.bin"]
    assert left(tmp_path) == ["data.bin"]
    if "fcntl" in sys.modules:
        assert server.requests == [None]


def test_another_file_under_the_name_is_refused(server, remote, tmp_path):
    server.files["data.bin"] = b"x" * remote.n_bytes
    expected = remote.checksum.removeprefix("sha256:")
    with pytest.raises(OSError, match=rf"data\.bin.*not the expected file.*{expected}"):
        fetch_file(remote, tmp_path)
    assert left(tmp_path) == []


def test_a_shorter_file_is_refused(server, remote, tmp_path):
    server.files["data.bin"] = server.files["data.bin"][:-1000]
    with pytest.raises(OSError, match=r"answered 416.*Nothing was kept"):
        fetch_file(remote, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, 4)])
def test_errors_of_the_server(server, remote, tmp_path, status, tries):
    server.status = status
    with pytest.raises(OSError, match=rf"data\.bin.*answered {status}.*SKNUC_DATA"):
        fetch_file(remote, tmp_path)
    assert left(tmp_path) == []
    assert len(server.requests) == tries


def test_no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(OSError, match=r"Could not fetch a\.bin.*network.*SKNUC_DATA"):
            fetch_file(remote_file("a.bin", b"abc", url), tmp_path)
    assert left(tmp_path) == []


def test_no_room(remote, tmp_path):
    with pytest.raises(OSError, match=r"has only \d+ bytes left.*'data_home'"):
        fetch_file(remote._replace(n_bytes=10**18), tmp_path)


def test_without_download(remote, tmp_path):
    with pytest.raises(OSError, match=r"data\.bin.*not there.*'download_if_missing' is False"):
        fetch_file(remote, tmp_path, download_if_missing=False)


def test_a_damaged_copy_in_the_data_home_is_fetched_again(server, remote, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"half")
    with pytest.raises(OSError, match="it has 4 bytes, expected were 300000"):
        fetch_file(remote, tmp_path, download_if_missing=False)
    with pytest.warns(UserWarning, match="damaged .it has 4 bytes.*fetched again"):
        path = fetch_file(remote, tmp_path)
    assert path.read_bytes() == server.files["data.bin"]


def test_local_copies_are_used_and_verified(server, remote, tmp_path, monkeypatch):
    local = tmp_path / "local"
    local.mkdir()
    monkeypatch.setenv("SKNUC_DATA", str(local))
    (local / "data.bin").write_bytes(server.files["data.bin"])
    assert fetch_file(remote, tmp_path / "home") == local / "data.bin"
    assert server.requests == []
    (local / "data.bin").write_bytes(b"x" * remote.n_bytes)
    with pytest.raises(OSError, match=r"its sha256 is \w+, expected was \w+.*SKNUC_DATA"):
        fetch_file(remote, tmp_path / "home")
    # What is not among the local copies is fetched.
    (local / "data.bin").unlink()
    assert fetch_file(remote, tmp_path / "home").parent == tmp_path / "home"


def test_local_copies_in_a_folder_that_does_not_exist(remote, tmp_path, monkeypatch):
    monkeypatch.setenv("SKNUC_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"SKNUC_DATA names '.*nowhere'"):
        fetch_file(remote, tmp_path)


def test_the_registry_is_complete():
    for remote in (*LEGEND.values(), *MAJORANA.values()):
        algorithm, digest = remote.checksum.split(":")
        assert re.fullmatch(r"[0-9a-f]+", digest)
        assert len(digest) == {"sha256": 64, "md5": 32}[algorithm]
        assert remote.url.startswith("https://")
        assert remote.url.endswith(f"/{remote.name}")
    assert len(MAJORANA) == 25
    assert len({remote.checksum for remote in MAJORANA.values()}) == 25
    # Per event 3800 samples and 44 bytes of columns, and the headers of HDF5.
    headers = MAJORANA["MJD_Train_0"].n_bytes - 65_000 * (3800 * 8 + 44)
    assert 0 < headers < 10_000


# The same schemas as the real files, small, from the server.


def write_dsp(path, n=12, seed=0):
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        table = file.create_group("ch1104000/dsp")
        table.attrs["datatype"] = "table{daqenergy,cuspEmax,A_max,timestamp}"
        table["daqenergy"] = rng.integers(0, 99, n, dtype=np.uint16)
        table["cuspEmax"] = rng.normal(size=n).astype(np.float32)
        table["A_max"] = rng.normal(size=n)
        table["timestamp"] = 1.6e9 + np.arange(n)
        table["A_max"].attrs["units"] = "ADC/sample"
        for name in table:
            table[name].attrs["datatype"] = "array<1>{real}"
        return {name: table[name][:] for name in table}


def test_fetch_legend_th228_from_the_server(server, tmp_path, monkeypatch):
    expected = write_dsp(tmp_path / "dsp.lh5")
    content = (tmp_path / "dsp.lh5").read_bytes()
    server.files["dsp.lh5"] = content
    monkeypatch.setitem(_legend.LEGEND, "th228", remote_file("dsp.lh5", content, server.url))
    table = datasets.fetch_legend_th228(data_home=tmp_path / "home")
    assert table.feature_names == ["daqenergy", "cuspEmax", "A_max", "timestamp"]
    assert table.data.dtype == np.float64
    for name, column in zip(table.feature_names, table.data.T, strict=True):
        np.testing.assert_array_equal(column, expected[name])
    assert table.units == {"A_max": "ADC/sample"}
    assert table.frame is None
    framed = datasets.fetch_legend_th228(data_home=tmp_path / "home", as_frame=True)
    assert framed.data is framed.frame
    np.testing.assert_array_equal(framed.frame["cuspEmax"], expected["cuspEmax"])
    assert server.requests == [None]
    with pytest.raises(OSError, match="'download_if_missing' is False"):
        datasets.fetch_legend_th228(data_home=tmp_path / "new", download_if_missing=False)


@pytest.fixture
def majorana(server, tmp_path, monkeypatch):
    """Two labelled files and one without labels, registered under their public names."""
    expected = {}
    for seed, (name, n) in enumerate(
        [("MJD_Train_0", 30), ("MJD_Train_1", 20), ("MJD_NPML_0", 10)]
    ):
        rng = np.random.default_rng(seed)
        columns = {
            "raw_waveform": rng.normal(size=(n, 3800)),
            "tp0": rng.integers(900, 1100, n),
            "detector": rng.integers(0, 40, n),
            "run_number": np.full(n, seed),
            "id": np.arange(n),
        }
        if "NPML" not in name:
            columns["energy_label"] = rng.uniform(0, 3000, n)
            columns |= {label: rng.random(n) < 0.7 for label in _majorana.LABELS}
        with h5py.File(tmp_path / "file.hdf5", "w") as file:
            for key, values in columns.items():
                file[key] = values
        content = (tmp_path / "file.hdf5").read_bytes()
        server.files[f"{name}.hdf5"] = content
        remote = RemoteFile(
            f"{name}.hdf5",
            f"{server.url}{name}.hdf5",
            f"md5:{hashlib.md5(content).hexdigest()}",
            len(content),
        )
        monkeypatch.setitem(_majorana.MAJORANA, name, remote)
        expected[name] = columns
    return expected


def test_fetch_majorana(majorana):
    expected = majorana["MJD_Train_0"]
    events = datasets.fetch_majorana()
    assert events.data.shape == (30, 3800)
    np.testing.assert_array_equal(events.data[5:9], expected["raw_waveform"][5:9])
    np.testing.assert_array_equal(events.energy, expected["energy_label"])
    assert events.target_names == list(_majorana.LABELS)
    for label, column in zip(events.target_names, events.target.T, strict=True):
        np.testing.assert_array_equal(column, expected[label])
    for name in ("tp0", "detector", "run_number", "id"):
        np.testing.assert_array_equal(events[name], expected[name])
    assert events.sampling_period == 10.0


def test_majorana_labels_by_name(majorana):
    expected = majorana["MJD_Train_0"]
    one = datasets.fetch_majorana(target="psd_label_dcr")
    np.testing.assert_array_equal(one.target, expected["psd_label_dcr"])
    two = datasets.fetch_majorana(target=["psd_label_lq", "psd_label_dcr"])
    assert two.target_names == ["psd_label_lq", "psd_label_dcr"]
    np.testing.assert_array_equal(two.target[:, 0], expected["psd_label_lq"])


@pytest.mark.parametrize(("start", "stop"), [(0, None), (25, 40), (0, 30), (30, 50), (7, 7)])
def test_majorana_rows_of_several_files(majorana, start, stop):
    names = ["MJD_Train_1.hdf5", "MJD_Train_0"]
    events = datasets.fetch_majorana(names, start=start, stop=stop, as_frame=True)
    rows = slice(start, stop)

    def both(key):
        parts = [majorana[name][key] for name in ("MJD_Train_1", "MJD_Train_0")]
        return np.concatenate(parts)[rows]

    np.testing.assert_array_equal(np.asarray(events.data), both("raw_waveform"))
    np.testing.assert_array_equal(events.energy, both("energy_label"))
    np.testing.assert_array_equal(events.frame["run_number"], both("run_number"))
    np.testing.assert_array_equal(events.target[:, 3], both("psd_label_lq"))
    mask = events.energy > 1000
    np.testing.assert_array_equal(events.data[mask], both("raw_waveform")[mask])


def test_majorana_without_labels(majorana):
    events = datasets.fetch_majorana("MJD_NPML_0")
    assert (events.target, events.energy, events.target_names) == (None, None, [])
    np.testing.assert_array_equal(events.tp0, majorana["MJD_NPML_0"]["tp0"])
    with pytest.raises(ValueError, match=r"MJD_NPML_0 have no labels.*'target'"):
        datasets.fetch_majorana("MJD_NPML_0", target="psd_label_dcr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"files": "MJD_Train_16"}, r"'files'.*MJD_Train_15.*Got 'MJD_Train_16'"),
        ({"files": []}, r"'files'"),
        ({"target": "dcr"}, r"'target'.*psd_label_dcr.*Got 'dcr'"),
        ({"stop": 31}, r"<= 30.*MJD_Train_0.*stop=31"),
        ({"start": -1}, r"'start'"),
    ],
)
def test_majorana_errors_name_what_is_allowed(majorana, arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.fetch_majorana(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda file: file.pop("tp0"), KeyError, r"no 'tp0'.*holds: detector"),
        (lambda file: file.pop("raw_waveform"), KeyError, r"no 'raw_waveform'"),
        (lambda file: (file.pop("id"), file.create_dataset("id", data=[1, 2, 3])), ValueError,
         r"'id' of .* one value for each of 30 waveforms.*\(3,\)"),
    ],
)  # fmt: skip
def test_majorana_structure_is_checked(
    majorana, server, tmp_path, monkeypatch, change, error, message
):
    # A right checksum does not make a wrong file right.
    path = tmp_path / "broken.hdf5"
    path.write_bytes(server.files["MJD_Train_0.hdf5"])
    with h5py.File(path, "a") as file:
        change(file)
    content = path.read_bytes()
    server.files["MJD_Train_0.hdf5"] = content
    remote = remote_file("MJD_Train_0.hdf5", content, server.url)
    monkeypatch.setitem(_majorana.MAJORANA, "MJD_Train_0", remote)
    with pytest.raises(error, match=message):
        datasets.fetch_majorana()


def test_fcio_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcio", None)
    with pytest.raises(ImportError, match=r"pip install sknuc\[fcio\]"):
        datasets.fetch_th228_waveforms()
