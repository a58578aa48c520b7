"""Pulse-shape analysis of a germanium detector, from the spectrum to the report.

    python examples/hpge_pulse_shape.py [--data FILE.lh5] [--output report]

On a thorium-228 calibration of one LEGEND-200 detector, or on your own table of the same columns:

1. Quality cuts, each one counted.
2. Energy calibration from the lines of the source, without an initial gain.
3. The traditional A/E cut, corrected for the energy with Compton bands.
4. A support vector machine and boosted decision trees, trained on double escape (DEP, single-site)
   against single escape events (SEP, multi-site).
5. Survival of DEP, SEP, full-energy line (FEP) and of the continuum at 2039 ± 35 keV, where
   neutrinoless double beta decay would be, under a plain A/E cut and at 80 and 90 % DEP acceptance.
6. Why the trees decide as they do: Shapley values.
7. On simulated waveforms with truth: a convolutional network on raw waveforms against trees on
   pulse-shape features against A/E.

How the learning avoids the three classical mistakes (energy that leaks in, continuum learnt as
signal, events judged by models that have seen them) is in ``hpge_learning.py``; what the result
is worth is in ``hpge_judging.py``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import sklearn
from hpge_events import COLUMNS, QUALITY_COLUMNS, load_events, select_events
from hpge_judging import judge, net_auc
from hpge_learning import (
    CALIBRATION,
    FEATURES,
    N_FOLDS,
    N_RUNS,
    cross_fit,
    energy_leak,
    explain,
    make_features,
    searches,
    training_sets,
)
from hpge_report import write_report
from hpge_waveforms import compare_on_waveforms
from sklearn.model_selection import StratifiedKFold

from sknuc.metrics import (
    calibrate_energy,
    fit_compton_bands,
    peak_region,
    sideband_weights,
    survival_fraction,
)

CONTINUUM = (2039.0 - 35.0, 2039.0 + 35.0)
#: Fewer net events of DEP or SEP than this cannot be dealt to folds.
MIN_EVENTS = 60


class Progress:
    """Say what is being done, and when."""

    def __init__(self, n_steps):
        self.start, self.n_steps, self.step = time.perf_counter(), n_steps, 0

    def __call__(self, text):
        """Announce the next step."""
        self.step += 1
        elapsed = time.perf_counter() - self.start
        print(f"[{elapsed:5.1f} s] {self.step}/{self.n_steps}  {text}", flush=True)


def prepare(events, *, random_state=0):
    """Select and calibrate events, correct A/E, and lay out lines, features and folds.

    Parameters
    ----------
    events : Events
    random_state : int, default=0

    Returns
    -------
    result : dict
        With the energies in keV, the regions and the signed weights that stand for each of them,
        the A/E classifier, the features and, for every run, the fold of every event that passes
        the quality cuts.

    Raises
    ------
    ValueError
        If the table is not that of a thorium-228 source, or too small.
    """
    good, cut_flow = select_events(events.columns)
    columns = {name: column[good] for name, column in events.columns.items()}
    calibration = calibrate_energy(columns["energy"])
    energy = calibration.energy(columns["energy"])
    regions = {
        line: peak_region(calibration.lines[line], calibration.fwhm[line][0])
        for line in ("DEP", "212Bi 1621", "SEP", "FEP")
        if line in calibration.lines
    }
    if not {"DEP", "SEP", "FEP"} <= set(regions):
        raise ValueError(
            "The analysis needs the lines DEP, SEP and FEP of 208Tl. Found: "
            f"{', '.join(calibration.lines)}."
        )
    regions["2039 ± 35 keV"] = {"window": CONTINUUM}
    # Bands as wide as the smooth continuum allows: the error of what is subtracted shrinks.
    regions["DEP"]["sidebands"] = [(1530.0, 1585.0), (1600.0, 1612.0), (1629.0, 1660.0)]
    regions["SEP"]["sidebands"] = [(2050.0, 2094.0), (2113.0, 2157.0)]
    weights = {
        name: sideband_weights(energy, **{"sidebands": None, **region})
        for name, region in regions.items()
    }
    for line in ("DEP", "SEP"):
        if weights[line].sum() < MIN_EVENTS:
            raise ValueError(
                f"{line} holds {weights[line].sum():.0f} net events, but the analysis needs "
                f"{MIN_EVENTS}. Take more data."
            )

    aoe = columns["current"] / columns["energy"]
    correction = fit_compton_bands(energy, aoe)
    zeta = correction.classifier(energy, aoe)
    plain = aoe / correction.mu(energy) >= 0.98
    X = make_features(columns, energy, zeta)
    # Every fold gets its share of both lines and of their side-bands.
    kind = np.sign(weights["DEP"]) + 3 * np.sign(weights["SEP"])
    folds = np.empty((N_RUNS, len(X)), dtype=int)
    for run, fold in enumerate(folds):
        partition = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state + run)
        for k, (_, part) in enumerate(partition.split(X, kind)):
            fold[part] = k
    return {
        "events": events,
        "n_good": int(good.sum()),
        "n_all": len(good),
        "cut_flow": cut_flow,
        "calibration": calibration,
        "energy": energy,
        "regions": regions,
        "weights": weights,
        "aoe": aoe,
        "correction": correction,
        "zeta": zeta,
        "plain": {r: survival_fraction(energy, plain, **region) for r, region in regions.items()},
        "features": FEATURES,
        "X": X,
        "folds": folds,
    }


def learn(result, *, quick=False, random_state=0, progress=lambda text: None):
    """Train, judge and explain on prepared events, and compare methods on simulated waveforms.

    Parameters
    ----------
    result : dict
        What :func:`prepare` returns.
    quick, random_state, progress
        As in :func:`analyse`.

    Returns
    -------
    result : dict
    """
    X, energy, regions, weights, folds = (
        result[key] for key in ("X", "energy", "regions", "weights", "folds")
    )
    folds = folds[:2] if quick else folds
    result = {**result, "folds": folds, "quick": quick, "random_state": random_state}
    progress("Does energy leak into the features? What may each model see?")
    *leak, tilt = energy_leak(X, energy, regions, random_state=random_state)
    result["leak"] = {
        "all": tuple(leak),
        "A/E": energy_leak(X[:, :1], energy, regions, random_state=random_state)[:2],
        "others": energy_leak(X[:, 1:], energy, regions, random_state=random_state)[:2],
    }
    sets = training_sets(X, weights, folds, random_state=random_state, n_jobs=-1)
    runs = {"A/E": result["zeta"][np.newaxis]}
    result["models"], result["settings"], result["grids"] = {}, {}, {}
    with sklearn.config_context(enable_metadata_routing=True):
        for name, search in searches(quick=quick, random_state=random_state).items():
            progress(f"{name}: {len(folds)} runs of {N_FOLDS} folds, a grid search in each")
            runs[name], result["models"][name], result["settings"][name] = cross_fit(
                search, X, sets, folds, random_state=random_state, n_jobs=-1
            )
            result["grids"][name] = {k: v for k, v in search.param_grid.items() if k != CALIBRATION}
    result["scores"] = {name: scores.mean(axis=0) for name, scores in runs.items()}

    progress("Survival fractions, with bootstrap errors")
    result["n_bootstrap"] = 300 if quick else 1000
    result["judged"] = judge(
        runs, weights, n_bootstrap=result["n_bootstrap"], random_state=random_state
    )
    # SEP as it would look if the two continua could not be told apart.
    result["tilted_auc"] = {
        name: net_auc(score, weights["DEP"], weights["SEP"] * tilt)
        for name, score in result["scores"].items()
    }
    progress("Shapley values")
    result["explanation"] = explain(result["models"]["BDT"], X, folds, weights)
    progress("Simulated waveforms: CNN against features + BDT against A/E")
    result["waveforms"] = compare_on_waveforms(
        *((2000, 2) if quick else (24_000, 12)), random_state=random_state
    )
    return result


def analyse(events, *, quick=False, random_state=0, progress=lambda text: None):
    """Run the whole analysis.

    Parameters
    ----------
    events : Events
    quick : bool, default=False
        Smaller grids, fewer runs, bootstrap replicas, waveforms and epochs.
    random_state : int, default=0
    progress : callable
        Called with a line of text before each step.

    Returns
    -------
    result : dict
        Everything that the report shows.
    """
    prepared = prepare(events, random_state=random_state)
    return learn(prepared, quick=quick, random_state=random_state, progress=progress)


def main(argv=None):
    """Run the analysis from the command line.

    Parameters
    ----------
    argv : list of str, default=None
        None for those of the process.

    Returns
    -------
    result : dict
        As :func:`analyse`.
    """
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="A table of --data needs the columns "
        + ", ".join(COLUMNS.values())
        + " (one number per event, energies uncalibrated). The quality cuts also read "
        + ", ".join(QUALITY_COLUMNS.values())
        + "; those that are missing are left out, with a note.",
    )
    parser.add_argument("--data", help="LH5 or HDF5 file; 'simulation' for simulated events")
    parser.add_argument("--group", help="table in the file, such as ch1104000/dsp")
    parser.add_argument("--output", default="report", help="folder of the report")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    arguments = parser.parse_args(argv)
    if arguments.group and not arguments.data:
        parser.error("--group names a table in the file that --data gives.")

    progress = Progress(9)
    progress("Reading events")
    try:
        events = load_events(
            arguments.data, arguments.group, n_simulated=10_000 if arguments.quick else 36_000
        )
        lines = [events.source, *events.notes, *([events.details] if events.details else [])]
        print(*(f"          {line}" for line in lines), sep="\n", flush=True)
        progress("Quality cuts, energy calibration, A/E in Compton bands")
        prepared = prepare(events)
    except (OSError, ValueError, KeyError) as error:
        # A KeyError puts its message into quotes.
        message = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        parser.error(message.replace("the 'group' parameter of read_lh5", "--group"))
    result = learn(prepared, quick=arguments.quick, progress=progress)
    progress("Report")
    path = write_report(result, Path(arguments.output), progress.start)
    print(f"\nThe report is in {path.resolve()}")
    return result


if __name__ == "__main__":
    main()
