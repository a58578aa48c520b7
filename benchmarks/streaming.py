"""Training from a file larger than the memory that may be used.

Command: ``python benchmarks/streaming.py [--gigabytes 2] [--repeat 3] [--directory DIR]``

Writes simulated pulses of (1, 1024) samples as float32 to a memory-mapped file and to an HDF5
file, and fits the same CNN for one epoch from each and from memory, each run in a fresh process,
in turn. Peak memory is the process's high-water mark during ``fit`` above what it had before
(Linux). The page cache is warm for all sides, so the disk itself is not measured. The three must
learn the same weights bit for bit, which is checked.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from _timing import machine

LENGTH = 1024


def write(directory, gigabytes):
    n = int(gigabytes * 2**30 / (4 * LENGTH))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    np.save(directory / "y.npy", labels)
    X = np.lib.format.open_memmap(
        directory / "X.npy", mode="w+", dtype=np.float32, shape=(n, 1, LENGTH)
    )
    ramp = np.linspace(0, 1, LENGTH, dtype=np.float32)
    for start in range(0, n, 8192):
        y = labels[start : start + 8192, np.newaxis, np.newaxis]
        noise = rng.standard_normal((len(y), 1, LENGTH), dtype=np.float32)
        X[start : start + 8192] = noise + y * ramp
    X.flush()
    with h5py.File(directory / "X.h5", "w") as file:
        data = file.create_dataset("X", X.shape, X.dtype, chunks=(256, 1, LENGTH))
        for start in range(0, n, 8192):
            data[start : start + 8192] = X[start : start + 8192]


def status(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def run(directory, side):
    import torch

    from sknuc.encoders import CNN
    from sknuc.networks import NeuralClassifier

    torch.set_num_threads(1)
    y = np.load(directory / "y.npy")
    model = NeuralClassifier(
        encoder=CNN(channels=(8, 16), stride=4, n_blocks=0),
        max_epochs=1,
        random_state=0,
        device="cpu",
    )
    # A first small fit loads what torch loads only when it is used.
    model.fit(np.arange(8 * LENGTH, dtype=np.float32).reshape(8, 1, LENGTH), np.arange(8) % 2)
    file = None
    if side == "memory":
        X = np.load(directory / "X.npy")
    elif side == "memmap":
        X = np.load(directory / "X.npy", mmap_mode="r")
    else:
        file = h5py.File(directory / "X.h5")
        X = file["X"]
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the high-water mark starts anew
    before = status("VmRSS")
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    growth = status("VmHWM") - before
    weights = b"".join(t.numpy().tobytes() for t in model.module_.state_dict().values())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "growth": growth,
                "threads": torch.get_num_threads(),
                "weights": hashlib.sha256(weights).hexdigest(),
            }
        )
    )
    if file is not None:
        file.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        run(arguments.directory, arguments.side)
        return
    results = {side: [] for side in ("memory", "memmap", "HDF5")}
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        write(Path(directory), arguments.gigabytes)
        for repetition in range(arguments.repeat + 1):
            for side, result in results.items():
                command = [sys.executable, __file__, "--side", side, "--directory", directory]
                output = subprocess.run(command, check=True, capture_output=True, text=True)
                if repetition:  # the first round warms the page cache
                    result.append(json.loads(output.stdout.splitlines()[-1]))
    print(machine(), f"{results['memory'][0]['threads']} threads, {arguments.gigabytes} GiB\n")
    print(
        "| X | median s | throughput / in memory | goal | peak growth MiB | goal | same weights |"
    )
    print("|---|---|---|---|---|---|---|")
    for side, result in results.items():
        seconds = statistics.median(r["seconds"] for r in result)
        ratio = statistics.median(
            a["seconds"] / b["seconds"] for a, b in zip(results["memory"], result, strict=True)
        )
        growth = max(r["growth"] for r in result)
        same = {r["weights"] for r in result} == {r["weights"] for r in results["memory"]}
        goals = ("", "") if side == "memory" else ("≥ 0.8", "≤ 300")
        print(
            f"| {side} | {seconds:.2f} | {ratio:.2f} | {goals[0]} | {growth:.0f} | {goals[1]} | "
            f"{'yes' if same else '**no**'} |"
        )


if __name__ == "__main__":
    main()
