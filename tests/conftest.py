"""Fixtures of the whole suite."""

import functools
import hashlib
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Workers of pytest-xdist share the cores: one thread each, set before torch and numba load.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# scikit-learn skips one of its estimator checks where scipy does not take foreign arrays.
os.environ.setdefault("SCIPY_ARRAY_API", "1")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread for torch in each worker."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data():
    """The folder with the real detector data; skips where it is not."""
    folder = os.environ.get("SKNUC_DATA")
    if not folder:
        pytest.skip("SKNUC_DATA is not set: no real detector data")
    return Path(folder)


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """``serve(name, content)`` puts a file on a server of this machine; no local copies."""
    from sknuc.datasets._registry import RemoteFile

    monkeypatch.delenv("SKNUC_DATA", raising=False)
    monkeypatch.setenv("SKNUC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Silent, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def put(name, content):
        (folder / name).write_bytes(content)
        url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        return RemoteFile(name, url, checksum, len(content))

    yield put
    server.shutdown()
    thread.join()
    server.server_close()
