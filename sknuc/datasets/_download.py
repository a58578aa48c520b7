"""Fetching public files into the data home, under their names checked and complete."""

import os
import shutil
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import pooch
import requests
from tqdm import tqdm

__all__ = ["clear_data_home", "fetch_file", "get_data_home"]

# Whole files that were checked by this process: identity, size and time of change, which stay when
# a file is renamed. Hashing two gigabytes takes seconds.
_checked = set()


def get_data_home(data_home=None) -> str:
    """Return the folder that fetched files are kept in, and make it if it is missing.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder. None takes the environment variable ``SKNUC_HOME``, and without it the cache
        folder of the system, such as ``~/.cache/sknuc``.

    Returns
    -------
    data_home : str
    """
    if data_home is None:
        data_home = os.environ.get("SKNUC_HOME") or pooch.os_cache("sknuc")
    home = Path(data_home).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    return str(home)


def clear_data_home(data_home=None) -> None:
    """Delete the folder that fetched files are kept in, with all that it holds.

    Parameters
    ----------
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    """
    shutil.rmtree(get_data_home(data_home))


def fetch_file(remote, data_home=None, *, download_if_missing=True):
    """Return the path of a public file, from a local copy or by download.

    The folder that the environment variable ``SKNUC_DATA`` names is searched first, then the data
    home; what is found is used if its checksum is right.

    Parameters
    ----------
    remote : RemoteFile
        The file.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    path : Path

    Raises
    ------
    OSError
        If the file is not there and cannot be fetched, or is not what it should be.
    """
    local = os.environ.get("SKNUC_DATA")
    if local:
        if not Path(local).is_dir():
            raise FileNotFoundError(
                f"The environment variable SKNUC_DATA names {local!r}, which is no folder. Set it "
                "to the folder with local copies of the data, or unset it."
            )
        path = Path(local) / remote.name
        if path.is_file():
            if wrong := _mismatch(path, remote):
                raise OSError(
                    f"{path} is not the file {remote.name} that is expected: {wrong}. Replace it "
                    f"by the file from {remote.url}, or unset SKNUC_DATA."
                )
            return path

    home = Path(get_data_home(data_home))
    path = home / remote.name
    wrong = _mismatch(path, remote) if path.is_file() else "it is not there"
    if not wrong:
        return path
    if not download_if_missing:
        raise OSError(
            f"{remote.name} cannot be read from the data home {home}: {wrong}, and "
            "'download_if_missing' is False. Set it to True, or put the file into a folder and "
            "name that in the environment variable SKNUC_DATA."
        )
    if path.is_file():
        warnings.warn(f"{path} is damaged ({wrong}) and is fetched again.", stacklevel=3)
    _download(remote, home)
    return path


def _mismatch(path, remote):
    """Say what is wrong with a file; nothing if it is the expected one."""
    status = path.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, remote.checksum)
    if key in _checked:
        return None
    if status.st_size != remote.n_bytes:
        return f"it has {status.st_size} bytes, expected were {remote.n_bytes}"
    algorithm, expected = remote.checksum.split(":")
    found = pooch.file_hash(str(path), alg=algorithm)
    if found != expected:
        return f"its {algorithm} is {found}, expected was {expected}"
    _checked.add(key)
    return None


def _download(remote, home):
    """Put the whole file, verified, under its name.

    What has come is kept as ``<name>.part`` until it is complete, and the next call goes on there,
    however the last one ended.
    """
    part, path = home / f"{remote.name}.part", home / remote.name
    with _opened(part) as file:
        if path.is_file() and not _mismatch(path, remote):  # another process was faster
            file.truncate(0)
            return
        received = file.seek(0, os.SEEK_END)
        if received > remote.n_bytes:
            received = file.truncate(0)
        free = shutil.disk_usage(home).free
        if free < remote.n_bytes - received:
            raise OSError(
                f"{remote.name} has {remote.n_bytes} bytes, of which {received} are there, but "
                f"{home} has only {free} bytes left. Make room, or choose another folder with "
                "'data_home'."
            )
        reason = None
        try:
            ResumingDownloader(remote)(file, received)
        except requests.HTTPError as error:
            reason = f"the server answered {error.response.status_code} {error.response.reason}"
            if error.response.status_code == 416:  # what came is no beginning of what is there
                file.truncate(0)
        except (requests.RequestException, IncompleteTransfer) as error:
            reason = str(error)
        file.flush()
        if reason is None and (wrong := _mismatch(part, remote)):
            reason = f"what came is not the expected file, {wrong}"
            file.truncate(0)
        if reason is None:
            with suppress(PermissionError):  # Windows renames no file that is open
                os.replace(part, path)
                return
        n_kept = os.fstat(file.fileno()).st_size
    if reason is None:
        os.replace(part, path)
        return
    kept = f"The first {n_kept} bytes were kept: a new call goes on there"
    raise OSError(
        f"Could not fetch {remote.name} from {remote.url}: {reason}. "
        f"{kept if n_kept else 'Nothing was kept'}. Check the network and try again, or put the "
        "file into a folder and name that in the environment variable SKNUC_DATA."
    )


@contextmanager
def _opened(part):
    """Open a partial file, for this process alone where the system can lock files."""
    while True:
        with open(part, "ab") as file:
            with suppress(OSError, ImportError):  # some network folders, and Windows
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), part.stat())
            except FileNotFoundError:
                same = False
            if not same:  # whoever held it has completed or deleted it
                continue
            try:
                yield file
            finally:
                file.flush()
                if not os.fstat(file.fileno()).st_size:
                    with suppress(PermissionError):  # Windows deletes no file that is open
                        part.unlink()
            return


class IncompleteTransfer(OSError):
    """A transfer that ended before the whole file had come."""


class ResumingDownloader:
    """Download over HTTP that goes on where a broken connection ended.

    Parameters
    ----------
    remote : RemoteFile
        The file.
    n_retries : int, default=3
        How often a connection may fail without bringing the transfer forward.
    delay : float, default=0.5
        Pause before the first retry, in s; it doubles from one to the next.
    timeout : float, default=30
        How long the server may be silent, in s.
    """

    def __init__(self, remote, n_retries=3, delay=0.5, timeout=30):
        self.remote = remote
        self.n_retries = n_retries
        self.delay = delay
        self.timeout = timeout

    def __call__(self, file, received):
        """Append what is missing to an open file that has the first `received` bytes."""
        furthest = received
        failures = 0
        bar = tqdm(
            total=self.remote.n_bytes,
            initial=received,
            unit="B",
            unit_scale=True,
            desc=self.remote.name,
            disable=None,
        )
        with bar:
            while received < self.remote.n_bytes:
                try:
                    for position in self._chunks(file, received):
                        received = position
                        bar.update(received - bar.n)
                        if received > self.remote.n_bytes:  # another file, of unknown length
                            return
                    if received == self.remote.n_bytes:
                        return
                    error = IncompleteTransfer(
                        f"only {received} of {self.remote.n_bytes} bytes came"
                    )
                except requests.HTTPError as http:
                    if http.response.status_code < 500:  # the next answer would be the same
                        raise
                    error = http
                except requests.RequestException as broken:
                    error = broken
                # A server that cannot resume starts again and again: only what goes beyond all
                # earlier attempts is progress.
                failures = 0 if received > furthest else failures + 1
                furthest = max(furthest, received)
                if failures > self.n_retries:
                    raise error
                time.sleep(self.delay * 2**failures)

    def _chunks(self, file, received):
        """Write what comes from byte `received` on; yield how far the file has come."""
        # Compressed in transfer, the bytes would not be those that ranges and sizes count.
        headers = {"Accept-Encoding": "identity"}
        if received:
            headers["Range"] = f"bytes={received}-"
        with requests.get(
            self.remote.url, headers=headers, stream=True, timeout=self.timeout
        ) as response:
            response.raise_for_status()
            resumed = response.headers.get("Content-Range", "").startswith(f"bytes {received}-")
            if response.status_code != 206 or not resumed:
                received = 0
            file.truncate(received)
            for chunk in response.iter_content(2**16):
                file.write(chunk)
                received += len(chunk)
                yield received
