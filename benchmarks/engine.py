"""The engine against a bare PyTorch loop and against skorch's default loop.

Command: ``python benchmarks/engine.py [--repeat 7] [--epochs 10]``

One thread, float32. (a) Fit of a 64×64 MLP on 20,000×20 in batches of 256; (b) its
``predict_proba`` on 1,000,000×20 against the bare module, in one call and in blocks of 8192;
(c) fit of a CNN on (20,000, 1, 256). The bare loop is what one writes by hand: one permutation per
epoch, indexed batches, fused AdamW, no validation, no weights, no history, inputs scaled
beforehand. All sides run in turn; the table gives medians and the median of the ratios pair by
pair.
"""

import argparse
import warnings

import numpy as np
import skorch
import torch
from _timing import alternate, machine, print_table
from torch import nn
from torch.nn import functional as F

from sknuc.encoders import CNN, MLP
from sknuc.networks import NeuralClassifier

BATCH, RATE = 256, 3e-3


def network(encoder, input_shape):
    module = encoder.build(input_shape)
    width = module(torch.zeros(1, *input_shape)).shape[1]
    return nn.Sequential(module, nn.Linear(width, 1))


def bare_fit(encoder, X, y, epochs):
    X, y = torch.from_numpy(X), torch.from_numpy(y).float()
    module = network(encoder, X.shape[1:])
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=0, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(X))
        for start in range(0, len(X), BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(module(X[rows])[:, 0], y[rows])
            loss.backward()
            optimizer.step()
    return module


def skorch_fit(encoder, X, y, epochs):
    net = skorch.NeuralNetBinaryClassifier(
        network(encoder, X.shape[1:]),
        max_epochs=epochs,
        batch_size=BATCH,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=0,
        optimizer__fused=True,
        lr=RATE,
        train_split=None,
        iterator_train__shuffle=True,
        verbose=0,
    )
    return net.fit(X, y.astype(np.float32))


def sknuc_fit(encoder, X, y, epochs, **options):
    model = NeuralClassifier(
        encoder=encoder,
        max_epochs=epochs,
        batch_size=BATCH,
        learning_rate=RATE,
        device="cpu",
        **options,
    )
    return model.fit(X, y)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(machine(), "one thread\n")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 20)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(np.int64)
    waves = rng.normal(size=(20_000, 1, 256)).astype(np.float32)
    labels = (waves.max((1, 2)) > np.median(waves.max((1, 2)))).astype(np.int64)
    mlp, cnn = MLP(), CNN(channels=(8, 16), n_blocks=0)
    rows = []

    times = alternate(
        {
            "sknuc": lambda: sknuc_fit(mlp, X, y, arguments.epochs),
            "bare loop": lambda: bare_fit(mlp, X, y, arguments.epochs),
            "skorch": lambda: skorch_fit(mlp, X, y, arguments.epochs),
        },
        arguments.repeat,
    )
    name = f"fit MLP 64×64, 20,000×20, {arguments.epochs} epochs"
    rows.append((name, times, "bare loop", "≤ 1.05"))
    rows.append((name, {k: times[k] for k in ("skorch", "sknuc")}, "sknuc", "≥ 2.4"))

    big = rng.normal(size=(1_000_000, 20)).astype(np.float32)
    model = sknuc_fit(mlp, X, y, 1)
    module = model.module_

    def bare_predict():
        with torch.inference_mode():
            p = torch.sigmoid(module(torch.from_numpy(big)))
            return torch.cat([1 - p, p], 1).numpy()

    def bare_predict_in_blocks():
        with torch.inference_mode():
            p = [torch.sigmoid(module(block)) for block in torch.from_numpy(big).split(8192)]
            p = torch.cat(p)
            return torch.cat([1 - p, p], 1).numpy()

    np.testing.assert_allclose(model.predict_proba(big), bare_predict(), atol=1e-5)
    times = alternate(
        {
            "sknuc": lambda: model.predict_proba(big),
            "bare module": bare_predict,
            "bare module in blocks": bare_predict_in_blocks,
        },
        arguments.repeat,
    )
    rows.append(("predict_proba MLP, 1,000,000×20", times, "bare module", "≤ 1.10"))
    rows.append(("predict_proba MLP, 1,000,000×20", times, "bare module in blocks", "≤ 1.10"))

    epochs = max(1, arguments.epochs // 2)
    times = alternate(
        {
            "sknuc": lambda: sknuc_fit(cnn, waves, labels, epochs),
            "bare loop": lambda: bare_fit(cnn, waves, labels, epochs),
            "skorch": lambda: skorch_fit(cnn, waves, labels, epochs),
        },
        arguments.repeat,
    )
    name = f"fit CNN (8, 16), 20,000×1×256, {epochs} epochs"
    rows.append((name, times, "bare loop", "≤ 1.05"))
    rows.append((name, {k: times[k] for k in ("skorch", "sknuc")}, "sknuc", ""))
    print_table(rows)


if __name__ == "__main__":
    main()
