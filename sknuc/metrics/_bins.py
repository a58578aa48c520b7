r"""Histograms of digitised values.

An analogue-to-digital converter records channel :math:`k` for everything within
:math:`[(k - \tfrac12)\,\delta, (k + \tfrac12)\,\delta)`. Bins that are no multiple of the channel
width :math:`\delta` hold now more, now fewer channels, and their counts beat with the ratio of the
two: by half at 1.5 channels per bin, where no statistics are too poor to show it. Bins whose edges
lie half way between channels, and that hold whole channels, have no such pattern; a density that is
integrated over them is compared with what was recorded, without a correction for the channel width
(Sheppard).
"""

import numpy as np

#: Bins of more channels than this are as good as those of continuous values.
MAX_CHANNELS_PER_BIN = 100
#: Digitised values lie this close to their channel, in channels; calibrated ones round.
TOLERANCE = 0.05


def find_channels(x):
    """Find the channels of digitised values.

    Parameters
    ----------
    x : ndarray of shape (n_events,)
        Channel numbers, or channels that were calibrated linearly.

    Returns
    -------
    origin, width : float
        A channel's value, and the distance of channels; zero for continuous values.
    """
    values = np.unique(x)
    if len(values) < 2:
        return 0.0, 0.0
    gaps = np.diff(values)
    # One channel may have several values that differ by rounding.
    values = values[np.append(True, gaps > 64 * np.finfo(float).eps * np.abs(values).max())]
    gaps = np.diff(values)
    if len(gaps) == 0:
        return 0.0, 0.0
    channel = np.append(0.0, np.cumsum(np.rint(gaps / gaps.min())))
    # Over many channels the average distance is exact where the least one is rounded.
    width = (values[-1] - values[0]) / channel[-1]
    if np.abs(values - values[0] - width * channel).max() > TOLERANCE * width:
        return 0.0, 0.0
    return float(values[0]), float(width)


def histogram(x, window, n_bins):
    """Count values in bins of equal width, of whole channels where the values are digitised.

    Parameters
    ----------
    x : ndarray of shape (n_events,)
    window : tuple of float
        The range. It is narrowed to whole bins where the values are digitised.
    n_bins : int
        The wanted number of bins; there are not more than channels.

    Returns
    -------
    counts : ndarray of shape (n_bins,)
    edges : ndarray of shape (n_bins + 1,)
    channel_width : float
        Zero for continuous values, or for bins of many channels.
    """
    low, high = window
    inside = x[(x >= low) & (x <= high)]
    origin, width = find_channels(inside)
    if (high - low) / n_bins >= MAX_CHANNELS_PER_BIN * width:
        return *np.histogram(inside, bins=n_bins, range=window), 0.0
    first, last = np.ceil((low - origin) / width - 1e-6), np.floor((high - origin) / width + 1e-6)
    n_channels = int(last - first) + 1
    per_bin = max(round(n_channels / n_bins), 1)
    n_bins, rest = divmod(n_channels, per_bin)
    first += rest // 2
    edges = origin + width * (first - 0.5 + per_bin * np.arange(n_bins + 1))
    return *np.histogram(inside, bins=edges), width
