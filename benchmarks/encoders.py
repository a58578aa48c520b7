"""Encoders through `NeuralClassifier` against bare loops; spherical layers against dense ones.

Command: ``python benchmarks/encoders.py [--quick] [--repeat 5] [--epochs 20]``

One thread, float32.

(a) Forward, backward and step of every encoder: `NeuralClassifier.fit` against the same module in
the loop that one writes by hand (one permutation per epoch, indexed batches, fused AdamW, no
weights, no history); both sides build it anew. Inputs are standard normal numbers, so that both
compute on the same values, although `fit` measures and scales them and the bare loop does not. What
`fit` does once (measuring the input and the layers that ask for it; a forward pass after the last
step, to see that its loss is finite) takes some 0.1 s here, which counts in a fit of one epoch and
not in one of 20, a fifth of the default.

(b) Layers on an equiangular grid, forward and backward: a spherical one (analysis, correlation,
non-linearity on a finer grid) against a dense convolution with as many channels, with the
multiply-adds of a forward pass as torch counts them.

All sides run in turn; tables give medians and, of ratios, the median pair by pair.
"""

import argparse
import statistics
import warnings
from typing import NamedTuple

import numpy as np
import torch
from _timing import alternate, machine, print_table
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sknuc.encoders import (
    CNN,
    GRU,
    LSTM,
    ConvLSTM,
    KamNet,
    PointNet,
    SphericalCNN,
    Transformer,
)
from sknuc.geometry import equiangular_sphere, harmonic_analysis
from sknuc.networks import NeuralClassifier
from sknuc.nn import SphericalActivation, SphericalAnalysis, SphericalLinear

RATE = 1e-3
GOAL = "≤ 1.05"


class Case(NamedTuple):
    """An encoder, the events that it reads, and so many of them that an epoch is short."""

    name: str
    encoder: object
    input_shape: tuple
    n_events: int
    batch_size: int


CASES = (
    Case("CNN 1-d", CNN(), (1, 256), 1024, 64),
    Case("CNN 2-d", CNN(), (3, 32, 32), 1024, 64),
    Case("CNN 3-d", CNN(), (1, 16, 16, 16), 512, 32),
    Case("LSTM", LSTM(), (1, 1024), 2048, 64),
    Case("GRU", GRU(), (1, 1024), 2048, 64),
    Case("Transformer", Transformer(), (1, 1024), 2048, 64),
    Case("ConvLSTM", ConvLSTM(), (6, 1, 8, 16), 128, 16),
    Case("SphericalCNN", SphericalCNN(), (8, 16, 32), 512, 64),
    Case("SphericalCNN on 500 phototubes", SphericalCNN(), (8, 500), 512, 64),
    Case("KamNet", KamNet(), (6, 8, 16), 128, 16),
    Case("PointNet", PointNet(), (128, 4), 1024, 64),
)


def draw(case, seed=0):
    """Standard normal events and labels; clouds end in a third of padding on average."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((case.n_events, *case.input_shape), dtype=np.float32)
    if isinstance(case.encoder, PointNet):
        n_points = rng.integers(case.input_shape[0] // 3, case.input_shape[0] + 1, len(X))
        X[np.arange(case.input_shape[0]) >= n_points[:, None]] = 0.0
    return X, rng.integers(0, 2, len(X))


def bare_fit(case, X, y, epochs):
    X, y = torch.from_numpy(X), torch.from_numpy(y).float()
    torch.manual_seed(0)
    encoder = case.encoder.build(case.input_shape)
    with torch.no_grad():
        width = encoder(X[:2]).shape[1]
    module = nn.Sequential(encoder, nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(X))
        for start in range(0, len(X), case.batch_size):
            rows = order[start : start + case.batch_size]
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(module(X[rows])[:, 0], y[rows])
            loss.backward()
            optimizer.step()
    return module


def sknuc_fit(case, X, y, epochs):
    model = NeuralClassifier(
        encoder=case.encoder,
        max_epochs=epochs,
        batch_size=case.batch_size,
        learning_rate=RATE,
        device="cpu",
        random_state=0,
    )
    return model.fit(X, y)


def through_the_classifier(case, epochs, repeat):
    """The row of one encoder, for the table."""
    X, y = draw(case)
    times = alternate(
        {
            "sknuc": lambda: sknuc_fit(case, X, y, epochs),
            "bare loop": lambda: bare_fit(case, X, y, epochs),
        },
        repeat,
    )
    shape = "×".join(map(str, (case.n_events, *case.input_shape)))
    steps = epochs * -(-case.n_events // case.batch_size)
    return f"{case.name}, {shape}, {steps} steps", times, "bare loop", GOAL


def spherical_layer(grid, bandwidth, channels, oversampling):
    """From pixels to the coefficients that the next spherical layer reads."""
    l_max = bandwidth - 1
    pixels, _ = equiangular_sphere(*grid)
    analysis = SphericalAnalysis(harmonic_analysis(pixels, l_max))
    linear = SphericalLinear(l_max, channels, channels)
    activation = SphericalActivation(nn.SiLU(), l_max, l_max, oversampling=oversampling)
    return nn.Sequential(nn.Flatten(2), analysis, linear, activation)


def dense_layer(channels, kernel_size):
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2), nn.SiLU()
    )


def multiply_adds(layer, x):
    """Of one event, forward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    return counter.get_total_flops() / 2 / len(x)


def layers_on_a_grid(grid, channels, batch_size, repeat):
    """Print what layers on one grid cost."""
    half = grid[0] // 2
    images = torch.randn(batch_size, channels, *grid)
    first = {
        f"spherical, bandwidth {bandwidth}, oversampling {oversampling}": spherical_layer(
            grid, bandwidth, channels, oversampling
        )
        # The defaults of SphericalCNN, and of the first layer of KamNet.
        for bandwidth, oversampling in ((6, 8), (half, 2))
    }
    layers = {"dense 3 × 3": dense_layer(channels, 3), "dense 7 × 7": dense_layer(channels, 7)}
    inputs = dict.fromkeys((*layers, *first), images)
    layers |= first
    for name, layer in first.items():
        # A layer behind another one starts from coefficients.
        with torch.no_grad():
            inputs[f"{name}, without analysis"] = layer[:2](images)
        layers[f"{name}, without analysis"] = layer[2:]

    def pass_through(layer, x):
        x = x.clone().requires_grad_()
        layer(x).sum().backward()

    times = alternate(
        {name: lambda name=name: pass_through(layers[name], inputs[name]) for name in layers},
        repeat,
    )
    reference = "dense 3 × 3"
    dense_work = multiply_adds(layers[reference], images)
    print(
        f"\n### Layers with {channels} channels on a {grid[0]} × {grid[1]} grid, {batch_size} "
        "events, forward and backward\n"
    )
    print("| layer | median ms | time / dense 3 × 3 | million multiply-adds per event | / dense |")
    print("|---|---|---|---|---|")
    for name, layer in layers.items():
        work = multiply_adds(layer, inputs[name])
        ratios = [a / b for a, b in zip(times[name], times[reference], strict=True)]
        print(
            f"| {name} | {1e3 * statistics.median(times[name]):.1f} | "
            f"{statistics.median(ratios):.2f} | {work / 1e6:.2f} | {work / dense_work:.2f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", default="", help="encoders with this in their name")
    parser.add_argument("--quick", action="store_true", help="one epoch, three repetitions")
    arguments = parser.parse_args()
    if arguments.quick:
        parser.set_defaults(repeat=3, epochs=1)
        arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(machine(), "one thread")
    if arguments.quick:
        print("A quick run: fits are short, and what they do once weighs more than in use.")
    print("\n### NeuralClassifier.fit against the same module in a bare loop\n")
    print_table(
        [
            through_the_classifier(case, arguments.epochs, arguments.repeat)
            for case in CASES
            if arguments.only in case.name
        ]
    )
    layers_on_a_grid((32, 64), 32, 16, 3 * arguments.repeat)


if __name__ == "__main__":
    main()
