"""Events of the pulse-shape analysis: read, or simulated, and selected."""

from dataclasses import dataclass, field

import numpy as np

from sknuc.datasets import fetch_legend_th228, make_hpge_waveforms, read_lh5
from sknuc.metrics import TH228_LINES
from sknuc.preprocessing import PulseShapeFeatures

#: Quantities of the analysis and the columns of a LEGEND dsp table that hold them.
COLUMNS = {
    "energy": "cuspEmax",
    "current": "A_max",
    "late_charge": "lq80",
    "drift_time": "dt_eff",
    "tail": "pz_slope",
    "baseline_noise": "bl_std",
    "baseline_slope": "bl_slope",
    "baseline_energy": "baselineEmax",
    "t0": "tp_0_est",
}


@dataclass
class Events:
    """The table of one calibration run: one array per quantity of ``COLUMNS``."""

    columns: dict[str, np.ndarray]
    source: str
    simulated: bool = False
    notes: list[str] = field(default_factory=list)


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
    """
    if path == "simulation":
        return simulate_events(n_simulated, random_state)
    if path is not None:
        table = read_lh5(path, group, columns=list(COLUMNS.values()))
        columns = {name: table.data[column] for name, column in COLUMNS.items()}
        return Events(_floats(columns), f"{path}, table {table.group}")
    try:
        table = fetch_legend_th228()
    except OSError as error:
        events = simulate_events(n_simulated, random_state)
        events.notes.append(f"The LEGEND-200 table is not available: {error}")
        return events
    values = dict(zip(table.feature_names, table.data.T, strict=True))
    empty = [name for name, column in values.items() if np.all(np.isnan(column))]
    events = Events(
        _floats({name: values[column] for name, column in COLUMNS.items()}),
        "LEGEND-200 Th-228 calibration p03 r000, detector ch1104000",
    )
    if empty:
        events.notes.append(f"Columns that are NaN throughout were dropped: {', '.join(empty)}.")
    return events


def _floats(columns):
    return {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}


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
    return Events(_floats(columns), f"{len(table):,} simulated events", simulated=True)


def select_events(columns, n_sigma=6.0):
    """Remove events with pile-up or a disturbed baseline, and count what each cut removes.

    The baseline's noise, slope and remaining energy and the start of the pulse scatter around the
    same value at every energy; events beyond `n_sigma` robust standard deviations
    (median absolute deviation) of the median have another pulse before or under their own.

    Parameters
    ----------
    columns : dict of str to ndarray
    n_sigma : float, default=6.0

    Returns
    -------
    good : ndarray of bool of shape (n_events,)
    cut_flow : list of (str, int, int)
        Each cut, the events that fail it, and those that fail no cut before it.
    """
    finite = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    cuts = {"A quantity is undefined (NaN)": ~finite}
    for name, text in {
        "baseline_noise": "Baseline noise",
        "baseline_slope": "Baseline slope (tail of an earlier pulse)",
        "baseline_energy": "Energy in the baseline (earlier pulse)",
        "t0": "Start of the pulse (trigger by another pulse)",
    }.items():
        column = columns[name]
        deviation = np.abs(column - np.nanmedian(column))
        cuts[text] = deviation > n_sigma * 1.4826 * np.nanmedian(deviation)
    good, flow = np.ones(len(finite), dtype=bool), []
    for text, fails in cuts.items():
        flow.append((text, int(fails.sum()), int((fails & good).sum())))
        good &= ~fails
    return good, flow
