"""Levels of quantiles, as regressors take them that learn some of all quantiles."""

import numpy as np

__all__ = ["check_levels"]


def check_levels(quantiles):
    """Return levels as an array (q,).

    Raises
    ------
    ValueError
        If there are fewer than two, they do not rise, or one is not in (0, 1).
    """
    levels = np.asarray(quantiles, dtype=np.float64)
    if (
        levels.ndim != 1
        or len(levels) < 2
        or not np.all(np.diff(levels) > 0)
        or not (levels[0] > 0 and levels[-1] < 1)
    ):
        raise ValueError(
            "The 'quantiles' parameter must hold two levels in (0, 1) or more, rising, such as "
            f"(0.16, 0.5, 0.84). Got {quantiles!r} instead."
        )
    return levels
