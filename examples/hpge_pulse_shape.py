"""Pulse-shape analysis of a germanium detector, from the spectrum to the report.

    python examples/hpge_pulse_shape.py [--data FILE.lh5] [--output report]

On a thorium-228 calibration of one LEGEND-200 detector, or on your own table of the same columns:

1. Quality cuts, each one counted.
2. Energy calibration from the lines of the source, without an initial gain.
3. The traditional A/E cut, corrected for the energy with Compton bands.
4. A support vector machine and boosted decision trees, trained on double escape (DEP, single-site)
   against single escape events (SEP, multi-site).
5. Survival of DEP, SEP, full-energy line (FEP) and of the continuum at 2039 ± 35 keV, where
   neutrinoless double beta decay would be, at 90 % DEP acceptance.
6. Why the trees decide as they do: Shapley values.
7. On simulated waveforms with truth: a convolutional network on raw waveforms against trees on
   pulse-shape features against A/E.

How the learning avoids the three classical mistakes (energy that leaks in, continuum learnt as
signal, events judged by what they helped to train) is in ``hpge_learning.py``.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import sklearn
from hpge_events import load_events, select_events
from hpge_learning import (
    FEATURES,
    N_FOLDS,
    cross_fit,
    energy_leak,
    explain,
    judge,
    make_features,
    searches,
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
        the A/E classifier, the features and the fold of every event that passes the quality cuts.
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

    aoe = columns["current"] / columns["energy"]
    correction = fit_compton_bands(energy, aoe)
    zeta = correction.classifier(energy, aoe)
    plain = aoe / correction.mu(energy) >= 0.98
    X = make_features(columns, energy, zeta)
    # Every fold gets its share of both lines and of their side-bands.
    kind = np.sign(weights["DEP"]) + 3 * np.sign(weights["SEP"])
    fold = np.empty(len(X), dtype=int)
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=random_state)
    for k, (_, part) in enumerate(folds.split(X, kind)):
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
        "fold": fold,
    }


def analyse(events, *, quick=False, random_state=0, progress=None):
    """Run the whole analysis.

    Parameters
    ----------
    events : Events
    quick : bool, default=False
        Smaller grids, fewer bootstrap replicas, waveforms and epochs.
    random_state : int, default=0
    progress : callable, default=None
        Called with a line of text before each step.

    Returns
    -------
    result : dict
        Everything that the report shows.
    """
    progress = progress or (lambda text: None)
    progress("Quality cuts, energy calibration, A/E in Compton bands")
    result = prepare(events, random_state=random_state)
    X, energy, regions, weights, fold = (
        result[key] for key in ("X", "energy", "regions", "weights", "fold")
    )
    result["leak"] = energy_leak(X, energy, regions, random_state=random_state)

    scores, models = {"A/E": result["zeta"]}, {}
    with sklearn.config_context(enable_metadata_routing=True):
        for name, search in searches(quick=quick, random_state=random_state).items():
            progress(f"{name}: grid search within {N_FOLDS} folds")
            scores[name], models[name] = cross_fit(
                search, X, weights, fold, random_state=random_state
            )

    progress("Survival fractions, with bootstrap errors")
    result["scores"], result["models"] = scores, models
    result["judged"] = judge(
        scores,
        energy,
        regions,
        weights,
        fold,
        n_bootstrap=20 if quick else 200,
        random_state=random_state,
    )
    progress("Shapley values")
    result["explanation"] = explain(models["BDT"], X, fold, weights)
    progress("Simulated waveforms: CNN against features + BDT against A/E")
    result["waveforms"] = compare_on_waveforms(
        *((2000, 2) if quick else (24_000, 12)), random_state=random_state
    )
    return result


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="LH5 or HDF5 file; 'simulation' for simulated events")
    parser.add_argument("--group", help="table in the file, such as ch1104000/dsp")
    parser.add_argument("--output", default="report", help="folder of the report")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    arguments = parser.parse_args(argv)

    progress = Progress(8)
    progress("Reading events")
    events = load_events(
        arguments.data, arguments.group, n_simulated=10_000 if arguments.quick else 36_000
    )
    print(f"          {events.source}", *events.notes, sep="\n          ", flush=True)
    result = analyse(events, quick=arguments.quick, progress=progress)
    progress("Report")
    path = write_report(result, Path(arguments.output), progress.start)
    print(f"\nThe report is in {path.resolve()}")
    return result


if __name__ == "__main__":
    main()
