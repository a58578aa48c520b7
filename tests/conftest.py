"""Fixtures of the whole suite."""

import os
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
