"""What the benchmarks share: alternating repetitions, medians, and the table."""

import os
import platform
import statistics
import time

__all__ = ["alternate", "machine", "print_table"]


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
