"""Events of the pulse-shape analysis: read, or simulated, and selected."""

from dataclasses import dataclass, field

import numpy as np

from sknuc.datasets import fetch_legend_th228, list_lh5, make_hpge_waveforms, read_lh5
from sknuc.metrics import TH228_LINES
from sknuc.preprocessing import PulseShapeFeatures

#: Quantities of the analysis and the columns of a LEGEND dsp table that hold them.
COLUMNS = {
    "energy": "cuspEmax",
    "current": "A_max",
    "late_charge": "lq80",
    "drift_time": "dt_eff",
    "tail": "pz_slope",
}
#: Quantities of the quality cuts; a cut is left out where the table lacks its column.
QUALITY_COLUMNS = {
    "baseline_noise": "bl_std",
    "baseline_slope": "bl_slope",
    "baseline_energy": "baselineEmax",
    "t0": "tp_0_est",
}
#: A cut that removes more than this part of the events does not remove exceptions.
MAX_REMOVED = 0.2


@dataclass
class Events:
    """The table of one calibration run.

    Attributes
    ----------
    columns : dict of str to ndarray
        One array per quantity of ``COLUMNS``, and of those of ``QUALITY_COLUMNS`` that there are.
    source : str
    simulated : bool
    notes : list of str
        What a reader has to know.
    details : str
        The whole error behind a note.
    description : str
        Source and licence of the data.
    """

    columns: dict[str, np.ndarray]
    source: str
    simulated: bool = False
    notes: list[str] = field(default_factory=list)
    details: str = ""
    description: str = ""


def load_events(path=None, group=None, *, n_simulated=36_000, random_state=0):
    """Read the user's table, else the LEGEND-200 table, else simulate one.

    Parameters
    ----------
    path : str, default=None
        An LH5 or HDF5 file with the columns of ``COLUMNS``; None for LEGEND-200, "simulation" for
        simulated events.
    group : str, default=None
        The table in the file; None for its only one.
    n_simulated : int, default=36000
        Number of simulated events.
    random_state : int, default=0
        Seed of the simulation.

    Returns
    -------
    events : Events

    Raises
    ------
    OSError, KeyError, ValueError
        If the user's file, or a table or column in it, is missing or of no use.
    """
    if path == "simulation":
        return simulate_events(n_simulated, random_state)
    if path is not None:
        table = read_lh5(path, group, columns=list(COLUMNS.values()))
        prefix = "" if table.group == "/" else f"{table.group}/"
        there = list_lh5(path, table.group)
        quality = [c for c in QUALITY_COLUMNS.values() if prefix + c in there]
        values = dict(table.data)
        if quality:
            values |= read_lh5(path, table.group, columns=quality).data
        return _table(values, f"{path}, table {table.group}")
    try:
        table = fetch_legend_th228()
    except OSError as error:
        events = simulate_events(n_simulated, random_state)
        events.notes.append("The LEGEND-200 table could not be had.")
        events.details = str(error)
        return events
    events = _table(
        dict(zip(table.feature_names, table.data.T, strict=True)),
        "LEGEND-200 Th-228 calibration p03 r000, detector ch1104000",
    )
    events.description = table.DESCR
    return events


def _table(values, source):
    """Take the columns of the analysis from a table, and say what is not there."""
    columns, notes = {}, []
    for name, column in (COLUMNS | QUALITY_COLUMNS).items():
        if column not in values:
            notes.append(f"There is no column {column}: the quality cut on it is left out.")
            continue
        array = np.asarray(values[column])
        if array.ndim != 1 or array.dtype.kind not in "biuf":
            raise ValueError(
                f"The column {column!r} of {source} must hold one number per event. Got an array "
                f"of {array.dtype} of shape {array.shape} instead."
            )
        if len(array) == 0:
            raise ValueError(f"{source} holds no events.")
        array = array.astype(np.float64)
        if np.all(np.isnan(array)):
            if name in COLUMNS:
                raise ValueError(f"The column {column!r} of {source} is NaN in every event.")
            notes.append(f"The column {column} is NaN throughout: the cut on it is left out.")
            continue
        columns[name] = array
    return Events(columns, source, notes=notes)


def simulate_events(n_events=36_000, random_state=0):
    """Simulate a Th-228 calibration: lines on Compton continua, each with its own share of sites.

    Parameters
    ----------
    n_events : int, default=36000
    random_state : int, default=0

    Returns
    -------
    events : Events
    """
    rng = np.random.default_rng(random_state)
    # Energy (a line or a range), share of the events, share of single-site events.
    parts = [
        (TH228_LINES["208Tl 861"], 0.04, 0.35),
        (TH228_LINES["DEP"], 0.03, 0.95),
        (TH228_LINES["212Bi 1621"], 0.02, 0.15),
        (TH228_LINES["SEP"], 0.05, 0.06),
        (TH228_LINES["FEP"], 0.16, 0.10),
        ((800.0, 2382.0), 0.66, 0.45),
        ((2382.0, 2610.0), 0.04, 0.15),
    ]
    waveforms = []
    for single_site in (True, False):
        energies = []
        for where, share, single in parts:
            n = round(n_events * share * (single if single_site else 1 - single))
            if isinstance(where, tuple):
                energies.append(rng.uniform(*where, n))
            else:
                energies.append(rng.normal(where, 0.02 * np.sqrt(where), n))
        energy = np.concatenate(energies)
        waveforms.append(
            make_hpge_waveforms(
                len(energy),
                energy=energy,
                weights=(1, 0, 0) if single_site else (0, 1, 0),
                random_state=int(rng.integers(2**31)),
            ).data
        )
    transformer = PulseShapeFeatures(sampling_period=16.0)
    table = transformer.fit_transform(rng.permutation(np.concatenate(waveforms)))
    values = dict(zip(transformer.get_feature_names_out(), table.T, strict=True))
    columns = {
        "energy": values["energy_cusp"],
        "current": values["current"],
        "late_charge": values["late_charge"] * values["energy_max"],
        "drift_time": values["drift_time"],
        "tail": values["tail_slope"],
        "baseline_noise": values["baseline_noise"],
        "baseline_slope": values["baseline_slope"],
        "baseline_energy": values["baseline"],
        "t0": values["t0"],
    }
    return Events(columns, "Simulated Th-228 calibration", simulated=True)


def select_events(columns, n_sigma=6.0):
    """Remove events with pile-up or a disturbed baseline, and count what each cut removes.

    The baseline's noise, slope and remaining energy and the start of the pulse scatter around the
    same value at every energy; events beyond `n_sigma` robust standard deviations
    (median absolute deviation) of the median have another pulse before or under their own. Where a
    quantity is so coarse that most events share one value, its resolution, the usual step between
    its values, takes the place of the deviation.

    Parameters
    ----------
    columns : dict of str to ndarray
        Cuts whose column is missing are left out.
    n_sigma : float, default=6.0

    Returns
    -------
    good : ndarray of bool of shape (n_events,)
    cut_flow : list of (str, int, int)
        Each cut, the events that fail it, and those that fail no cut before it.

    Raises
    ------
    ValueError
        If a cut removes more than 20 % of the events.
    """
    finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    cuts = {"A quantity is undefined (NaN)": ~finite}
    for name, text in {
        "baseline_noise": "Baseline noise",
        "baseline_slope": "Baseline slope (tail of an earlier pulse)",
        "baseline_energy": "Energy in the baseline (earlier pulse)",
        "t0": "Start of the pulse (trigger by another pulse)",
    }.items():
        if name not in columns:
            continue
        column = columns[name]
        steps = np.diff(np.unique(column[np.isfinite(column)]))
        resolution = np.median(steps) if len(steps) else 0.0
        deviation = np.abs(column - np.nanmedian(column))
        scale = max(1.4826 * np.nanmedian(deviation), resolution)
        cuts[text] = deviation > n_sigma * scale
    good, flow = np.ones(len(finite), dtype=bool), []
    for text, fails in cuts.items():
        if fails.mean() > MAX_REMOVED:
            which = {
                name: int(np.count_nonzero(~np.isfinite(column)))
                for name, column in columns.items()
                if not np.all(np.isfinite(column))
            }
            raise ValueError(
                f"The quality cut {text!r} removes {fails.mean():.0%} of the events: it was made "
                f"for exceptions, {MAX_REMOVED:.0%} at most. Undefined values: {which or 'none'}. "
                "Clean the table, or leave a column of the quality cuts out of it."
            )
        flow.append((text, int(fails.sum()), int((fails & good).sum())))
        good &= ~fails
    return good, flow
