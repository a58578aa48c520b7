"""Real data of LEGEND-200 germanium detectors in a Th-228 calibration."""

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import StrOptions, validate_params

from sknuc.datasets._download import fetch_file
from sknuc.datasets._lh5 import read_lh5
from sknuc.datasets._registry import LEGEND

__all__ = ["fetch_legend_th228", "fetch_legend_waveforms", "fetch_th228_waveforms"]

CHANNELS = ("ch1084803", "ch1084804", "ch1121600")

_SOURCE = """
Source and licence: test data that the LEGEND collaboration publishes at
https://github.com/legend-exp/legend-testdata (its README states the terms). Cite the collaboration
when you publish results.
"""

_TH228_DESCR = (
    """\
LEGEND-200 Th-228 calibration, pulse-shape quantities of one detector
---------------------------------------------------------------------
38,343 events of one high-purity germanium detector (channel 1104000, period p03, run r000,
11 March 2023) under a Th-228 source, and 22 quantities of the collaboration's digital signal
processing for each: energies of several filters (cuspEmax, zacEmax, trapEmax ... in ADC counts,
uncalibrated), the greatest current A_max, the late charge lq80, the effective drift time dt_eff,
slopes of the tail and of the baseline, and the time. There are no labels: the lines of Tl-208
(full energy 2614.5 keV, single escape 2103.5 keV, double escape 1592.5 keV) tell single-site from
multi-site events. cuspEftp and zacEftp are NaN throughout.
"""
    + _SOURCE
)

_WAVEFORMS_DESCR = (
    """\
LEGEND-200 Th-228 calibration, waveforms with the collaboration's signal processing
-----------------------------------------------------------------------------------
10 events of each of three high-purity germanium detectors (period p03, run r001, 18 March 2023):
the digitized waveforms, 8192 samples of 16 ns as unsigned 16-bit integers, and for the same
events the quantities of the collaboration's digital signal processing (dsp) and its calibrated
energies, A/E and quality flags (hit).
"""
    + _SOURCE
)

_FCIO_DESCR = (
    """\
Th-228 waveforms of a germanium detector, FlashCam stream
---------------------------------------------------------
1000 waveforms of a high-purity germanium detector under a Th-228 source, 1836 samples of 16 ns as
unsigned 16-bit integers, recorded on 25 September 2018. There are no labels. Pile-up and saturated
baselines occur: clean the data first.
"""
    + _SOURCE
)


@validate_params(
    {"as_frame": ["boolean"], "download_if_missing": ["boolean"]},
    prefer_skip_nested_validation=True,
)
def fetch_legend_th228(*, as_frame=False, data_home=None, download_if_missing=True):
    """Load the pulse-shape table of a LEGEND-200 Th-228 calibration (2.6 MB).

    Parameters
    ----------
    as_frame : bool, default=False
        Give ``data`` as a pandas data frame.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    table : :class:`~sklearn.utils.Bunch`
        data : float64 ndarray or DataFrame of shape (38343, 22)
            One row per event. Energies are in ADC counts, times in ns but for ``timestamp`` (s).
        feature_names : list of str
            The columns.
        units : dict
            Units as the file gives them, of the columns that have one there.
        frame : DataFrame of shape (38343, 22) or None
            ``data`` when ``as_frame=True``.
        DESCR : str
            Description, source and licence.
        filename : str
            The file.

    Raises
    ------
    OSError
        If the file is not there and cannot be fetched, or is damaged.

    Examples
    --------
    >>> from sknuc.datasets import fetch_legend_th228
    >>> table = fetch_legend_th228(as_frame=True)  # doctest: +SKIP
    >>> (table.frame["A_max"] / table.frame["cuspEmax"]).median()  # doctest: +SKIP
    """
    path = fetch_file(LEGEND["th228"], data_home, download_if_missing=download_if_missing)
    table = read_lh5(path, "ch1104000/dsp")
    frame = None
    if as_frame:
        data = frame = _frame(table.data)
    else:
        data = np.column_stack([column.astype(np.float64) for column in table.data.values()])
    return Bunch(
        data=data,
        feature_names=list(table.data),
        units=table.units,
        frame=frame,
        DESCR=_TH228_DESCR,
        filename=str(path),
    )


@validate_params(
    {
        "channel": [StrOptions(set(CHANNELS)), None],
        "as_frame": ["boolean"],
        "download_if_missing": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def fetch_legend_waveforms(
    channel=None, *, as_frame=False, data_home=None, download_if_missing=True
):
    """Load LEGEND-200 waveforms with the collaboration's dsp and hit values (1.6 MB).

    Parameters
    ----------
    channel : {"ch1084803", "ch1084804", "ch1121600"}, default=None
        The detector; None for all three, one after the other.
    as_frame : bool, default=False
        Give ``raw``, ``dsp`` and ``hit`` as pandas data frames.
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    events : :class:`~sklearn.utils.Bunch`
        data : uint16 ndarray of shape (n_events, 8192)
            Waveforms in ADC counts, 10 of each channel.
        sampling_period : float
            16.0 ns.
        channel : ndarray of shape (n_events,)
            Names of the detectors.
        raw, dsp, hit : dict of ndarray of shape (n_events,), or DataFrame
            What the files of the three tiers hold for the same events.
        units : dict
            For "raw", "dsp" and "hit" the units of the columns that have one.
        DESCR : str
            Description, source and licence.
        filenames : list of str
            The files.

    Raises
    ------
    OSError
        If a file is not there and cannot be fetched, or is damaged.

    Examples
    --------
    >>> from sknuc.datasets import fetch_legend_waveforms
    >>> events = fetch_legend_waveforms("ch1084804")  # doctest: +SKIP
    >>> events.data.shape, len(events.dsp["trapEmax"])  # doctest: +SKIP
    ((10, 8192), 10)
    """
    tiers = ("raw", "dsp", "hit")
    paths = {
        tier: fetch_file(LEGEND[tier], data_home, download_if_missing=download_if_missing)
        for tier in tiers
    }
    channels = CHANNELS if channel is None else (channel,)
    tables = {
        tier: [read_lh5(path, f"{name}/{tier}") for name in channels]
        for tier, path in paths.items()
    }
    columns = {
        tier: {name: np.concatenate([part.data[name] for part in parts]) for name in parts[0].data}
        for tier, parts in tables.items()
    }
    data = columns["raw"].pop("waveform/values")
    (sampling_period,) = set(columns["raw"]["waveform/dt"].tolist())
    return Bunch(
        data=data,
        sampling_period=sampling_period,
        channel=np.repeat(channels, [part.n_rows for part in tables["raw"]]),
        **{tier: _frame(columns[tier]) if as_frame else columns[tier] for tier in tiers},
        units={tier: tables[tier][0].units for tier in tiers},
        DESCR=_WAVEFORMS_DESCR,
        filenames=[str(path) for path in paths.values()],
    )


@validate_params({"download_if_missing": ["boolean"]}, prefer_skip_nested_validation=True)
def fetch_th228_waveforms(*, data_home=None, download_if_missing=True):
    """Load Th-228 waveforms of a germanium detector from a FlashCam stream (3.8 MB).

    The package ``fcio`` reads the stream; ``pip install sknuc[fcio]`` installs it. It prints a
    warning about the size of the trace map of this old file, which means nothing.

    Parameters
    ----------
    data_home : str or path-like, default=None
        As in :func:`get_data_home`.
    download_if_missing : bool, default=True
        If False, raise an error instead of downloading.

    Returns
    -------
    events : :class:`~sklearn.utils.Bunch`
        data : uint16 ndarray of shape (1000, 1836)
            Waveforms in ADC counts.
        sampling_period : float
            16.0 ns.
        timestamp : float64 ndarray of shape (1000,)
            Time of the trigger, in s since 1970 (UTC).
        daq_baseline : float64 ndarray of shape (1000,)
            Baseline that the digitizer computed, in ADC counts.
        DESCR : str
            Description, source and licence.
        filename : str
            The file.

    Raises
    ------
    ImportError
        If fcio is not installed.
    OSError
        If the file is not there and cannot be fetched, or is damaged.

    Examples
    --------
    >>> from sknuc.datasets import fetch_th228_waveforms
    >>> fetch_th228_waveforms().data.shape  # doctest: +SKIP
    (1000, 1836)
    """
    try:
        from fcio import fcio_open
    except ImportError as error:
        raise ImportError(
            "fetch_th228_waveforms reads a FlashCam stream with the package fcio, which is not "
            "installed. Install it with: pip install sknuc[fcio]"
        ) from error

    path = fetch_file(LEGEND["fcio"], data_home, download_if_missing=download_if_missing)
    with fcio_open(str(path), extended=True) as stream:
        sampling_period = float(stream.config.sampling_period_ns)
        # A stream has no index: its records are read one after the other, and each overwrites the
        # buffers of the one before.
        records = [
            (event.trace[0].copy(), event.unix_time_utc_sec, event.fpga_baseline[0])
            for event in stream.events
        ]
    data, timestamp, baseline = (np.array(column) for column in zip(*records, strict=True))
    return Bunch(
        data=data,
        sampling_period=sampling_period,
        timestamp=timestamp,
        daq_baseline=baseline,
        DESCR=_FCIO_DESCR,
        filename=str(path),
    )


def _frame(columns):
    import pandas as pd

    return pd.DataFrame(dict(columns))
