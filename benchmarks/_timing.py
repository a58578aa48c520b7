"""What the benchmarks share: alternating repetitions, medians, the table, and one training."""

import os
import platform
import statistics
import time

__all__ = ["alternate", "fit_network", "machine", "print_table"]


def machine():
    """One line about the machine."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(
                line.split(":")[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def alternate(sides, repeat):
    """Time callables in turn, A B C C B A …, after one warm-up each.

    The order turns round every time, as the first one after another may find the caches cold.

    Parameters
    ----------
    sides : dict of hashable to callable
    repeat : int

    Returns
    -------
    times : dict of hashable to list of float
        Seconds of each repetition.
    """
    for side in sides.values():
        side()
    times = {name: [] for name in sides}
    for repetition in range(repeat):
        for name, side in list(sides.items())[:: -1 if repetition % 2 else 1]:
            start = time.perf_counter()
            side()
            times[name].append(time.perf_counter() - start)
    return times


def print_table(rows):
    """Print a markdown table.

    Parameters
    ----------
    rows : list of (task, times, reference, goal)
        The first key of `times` is compared with `reference`, pair by pair.
    """
    print("| task | side | median s | reference | median s | ratio (min–max) | goal | reached |")
    print("|---|---|---|---|---|---|---|---|")
    for task, times, reference, goal in rows:
        side = next(iter(times))
        ratios = [a / b for a, b in zip(times[side], times[reference], strict=True)]
        ratio = statistics.median(ratios)
        reached = ""
        if goal:
            sign, bound = goal.split()
            good = ratio <= float(bound) if sign == "≤" else ratio >= float(bound)
            reached = "yes" if good else "**no**"
        print(
            f"| {task} | {side} | {statistics.median(times[side]):.3f} | {reference} | "
            f"{statistics.median(times[reference]):.3f} | {ratio:.2f} ({min(ratios):.2f}–"
            f"{max(ratios):.2f}) | {goal} | {reached} |"
        )


def fit_network(encoder, X, y, *, input_shape=None, epochs, batch_size, learning_rate, seed):
    """Train a classifier on one thread, with one cycle of the learning rate up to `learning_rate`.

    Parameters
    ----------
    encoder : encoder
    X, y : ndarray
        Events and labels.
    input_shape : tuple of int or None
        How a row of a table is read.
    epochs, batch_size, seed : int
    learning_rate : float

    Returns
    -------
    model : NeuralClassifier
    seconds : float
        The median epoch.
    n_parameters : int
    """
    # Here, since some benchmarks measure memory, and need none of it.
    import torch
    from skorch.callbacks import LRScheduler

    from sknuc.networks import NeuralClassifier

    torch.set_num_threads(1)
    schedule = LRScheduler(
        torch.optim.lr_scheduler.OneCycleLR,
        max_lr=learning_rate,
        total_steps=epochs * -(-len(X) // batch_size) + 1,
        step_every="batch",
    )
    model = NeuralClassifier(
        encoder=encoder,
        input_shape=input_shape,
        max_epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        callbacks=[schedule],
        device="cpu",
        random_state=seed,
    ).fit(X, y)
    seconds = statistics.median(model.history_[:, "dur"])
    return model, seconds, sum(p.numel() for p in model.module_.parameters())
