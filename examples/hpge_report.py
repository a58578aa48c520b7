"""Tables, figures and the page of the pulse-shape analysis (:mod:`hpge_pulse_shape`)."""

import html
import time
from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import shap
from hpge_learning import compare
from hpge_page import Page
from sklearn.metrics import RocCurveDisplay

from sknuc.metrics import PeakDisplay, SurvivalDisplay, survival_fraction

#: Okabe and Ito: blue for A/E, orange for the SVM, green for trees, pink for the network.
COLORS = {
    "A/E": "#0072B2",
    "SVM": "#D55E00",
    "BDT": "#009E73",
    "Features + BDT": "#009E73",
    "CNN on waveforms": "#CC79A7",
}
STYLES = {"A/E": "-", "SVM": "--", "BDT": "-.", "Features + BDT": "-.", "CNN on waveforms": "--"}
RC = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 110,
}


def write_report(result, folder, start):
    """Print the tables and write the page and its figures.

    Parameters
    ----------
    result : dict
        What :func:`hpge_pulse_shape.analyse` returns.
    folder : pathlib.Path
    start : float
        ``time.perf_counter()`` at the start of the run.

    Returns
    -------
    path : pathlib.Path
        The page.
    """
    with mpl.rc_context(RC):
        page = Page(folder)
        _top(page, result)
        _events(page, result)
        _calibration(page, result)
        _aoe(page, result)
        _survival(page, result)
        _shapley(page, result)
        _waveforms(page, result["waveforms"])
        page.add(f"<p><small>Computed in {time.perf_counter() - start:.0f} s.</small></p>")
        return page.write("Pulse-shape analysis of a germanium detector")


def total_errors(result, acceptance):
    """Survival with the bootstrap's error, which holds that of the threshold.

    The survival of DEP keeps the error of its counts: its replicas are held at the acceptance.
    """
    judged = result["judged"]
    total = {}
    for method, regions in judged["survival"][acceptance].items():
        total[method] = {}
        for region, survival in regions.items():
            replicas = judged["replicas"][acceptance][method][region]
            if region != "DEP":
                low, high = np.quantile(replicas, [0.16, 0.84])
                # Around the value itself, however the replicas are shifted.
                middle = np.median(replicas)
                survival = replace(
                    survival,
                    std=float(np.std(replicas, ddof=1)),
                    interval=(
                        survival.fraction - (middle - low),
                        survival.fraction + (high - middle),
                    ),
                )
            total[method][region] = survival
    return total


def differences(result, method, reference="A/E"):
    """Compare two methods on the same events: (what, difference, std, interval), all bootstrap."""
    judged = result["judged"]
    yield (
        "AUC, DEP against SEP",
        *compare(
            judged["auc"][method],
            judged["auc_replicas"][method],
            judged["auc"][reference],
            judged["auc_replicas"][reference],
        ),
    )
    for acceptance, survival in judged["survival"].items():
        for region in ("SEP", "FEP", "2039 ± 35 keV"):
            yield (
                f"{region} survival at {acceptance:.0%} DEP",
                *compare(
                    survival[method][region].fraction,
                    judged["replicas"][acceptance][method][region],
                    survival[reference][region].fraction,
                    judged["replicas"][acceptance][reference][region],
                ),
            )


def verdict(difference, interval, better_is_higher=False):
    """Say whether a difference is significant: 0 lies outside its 95 % interval."""
    if interval[0] <= 0 <= interval[1]:
        return "not significantly"
    return "better" if (difference > 0) == better_is_higher else "worse"


def _top(page, result):
    events, judged, waveforms = result["events"], result["judged"], result["waveforms"]
    page.add("<h1>Pulse-shape analysis of a germanium detector</h1>")
    page.add(f'<p class="source">{html.escape(events.source)}, {result["n_all"]:,} events</p>')
    if events.simulated:
        page.add(
            '<p class="warning"><strong>These are simulated events, not data.</strong> '
            + " ".join(html.escape(note) for note in events.notes)
            + "</p>"
        )
    survival = total_errors(result, 0.9)

    _, gain, std, interval = next(differences(result, "BDT"))
    svm = next(differences(result, "SVM"))
    answer = {
        "better": "Yes, significantly",
        "worse": "No, it is significantly worse",
        "not significantly": "Not significantly",
    }[verdict(gain, interval, better_is_higher=True)]
    fold_cuts = judged["thresholds"][0.9]["A/E"]
    far = survival_fraction(
        result["energy"], result["scores"]["A/E"] < -3, **result["regions"]["DEP"]
    )
    rejection = waveforms["rejection"]
    page.add(
        '<div class="answer"><p><strong>Does the BDT beat the A/E cut? '
        f"{answer}.</strong> The area under the curve of DEP against SEP changes by "
        f"{gain:+.3f} ± {std:.3f} (95 % interval {interval[0]:+.3f} to {interval[1]:+.3f}) on "
        f"the same events: A/E {judged['auc']['A/E']:.3f}, SVM {judged['auc']['SVM']:.3f}, BDT "
        f"{judged['auc']['BDT']:.3f}. For the SVM the change is {svm[1]:+.3f} ± {svm[2]:.3f} "
        f"({svm[3][0]:+.3f} to {svm[3][1]:+.3f}).</p>"
    )
    shown = ("DEP", "SEP", "FEP", "2039 ± 35 keV")
    page.table(
        ["Survival at 90 % DEP acceptance", *shown],
        [(m, *(str(row[r]) for r in shown)) for m, row in survival.items()],
        echo=False,
    )
    page.add(
        f"<p>The errors hold that of the threshold, which {result['weights']['DEP'].sum():.0f} net "
        f"DEP events fix: the A/E cuts of the {len(fold_cuts)} folds lie between "
        f"{fold_cuts.min():.1f} and {fold_cuts.max():.1f} σ, as {far} of the DEP events lie more "
        "than 3 σ below the single-site mean. What survives at 80 % DEP acceptance is in the "
        "tables below.</p>"
        "<p>On simulated waveforms, multi-site events rejected at 90 % single-site acceptance: "
        + ", ".join(
            f"{m} {r.rejection:.3f} [{r.interval[0]:.3f}, {r.interval[1]:.3f}]"
            for m, r in rejection.items()
        )
        + ".</p></div>"
    )
    print(f"\nDoes the BDT beat the A/E cut? {answer}: AUC {gain:+.3f} ± {std:.3f}.")


def _events(page, result):
    page.heading("Events and quality cuts")
    for note in result["events"].notes if not result["events"].simulated else []:
        page.add(f"<p>{html.escape(note)}</p>")
    rows = [(text, f"{n:,}", f"{first:,}") for text, n, first in result["cut_flow"]]
    kept = result["n_good"] / result["n_all"]
    rows.append(("Events kept", f"{result['n_good']:,}", f"{kept:.1%}"))
    page.table(["Cut", "Events that fail", "... and no cut above"], rows, "Quality cuts")
    page.add(
        "<p>Cuts are at 6 robust standard deviations from the median and do not depend on the "
        "energy. The table holds no flag of saturation: "
        f"{np.count_nonzero(result['energy'] > 2700):,} events above 2700 keV, where piled-up and "
        "saturated pulses would lie, enter no figure below.</p>"
    )


def _calibration(page, result):
    page.heading("Energy calibration")
    calibration, energy = result["calibration"], result["energy"]
    c = calibration.coefficients
    page.add(
        f"<p>E = {c[0]:.3f} keV + {c[1]:.6f} keV/ADC · x, from lines that were found without an "
        "initial gain."
        + (f" Not found: {', '.join(calibration.missing)}." if calibration.missing else "")
        + "</p>"
    )
    rows = []
    for name, peak in calibration.peaks.items():
        (r, dr), (w, dw) = calibration.residuals[name], calibration.fwhm[name]
        rows.append(
            (
                name,
                f"{calibration.lines[name]:.2f}",
                f"{r:+.3f} ± {dr:.3f}",
                f"{w:.2f} ± {dw:.2f}",
                f"{peak.params['counts']:.0f} ± {peak.errors['counts']:.0f}",
                peak.shape,
            )
        )
    header = ["Line", "Energy (keV)", "Residual (keV)", "FWHM (keV)", "Events", "Shape"]
    page.table(header, rows, "Energy calibration")
    if not result["events"].simulated:
        page.add(
            "<p>SEP is broader than its neighbours: the electron's motion shifts the energies of "
            "the two annihilation photons, of which one escapes.</p>"
        )

    figure, ax = plt.subplots(figsize=(10, 4.2))
    top = max(calibration.lines.values()) + 60
    ax.hist(energy, bins=np.arange(np.floor(energy.min()), top, 2.0), histtype="step", color="k")
    ax.set_yscale("log")
    y_top = ax.get_ylim()[1]
    shift = {"DEP": "right"}
    for name, line in calibration.lines.items():
        ax.axvline(line, color=COLORS["SVM"], lw=0.8, ls=":")
        ax.text(
            line, y_top, f"{name} ", rotation=90, va="top", ha=shift.get(name, "right"), fontsize=10
        )
    low, high = result["regions"]["2039 ± 35 keV"]["window"]
    ax.axvspan(low, high, color=COLORS["A/E"], alpha=0.15, lw=0, label="2039 ± 35 keV")
    ax.set(xlabel="Energy (keV)", ylabel="Counts / 2 keV", xlim=(energy.min() - 10, top))
    ax.legend(loc="lower left", frameon=False)
    page.figure("spectrum", figure, "Calibrated spectrum and the lines that were used.")

    names = [n for n in ("DEP", "SEP", "FEP") if n in calibration.peaks]
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4.6))
    for name, ax in zip(names, axes, strict=True):
        half = 5 * calibration.fwhm[name][0]
        center = calibration.lines[name]
        PeakDisplay.from_energies(energy, window=(center - half, center + half), name=name, ax=ax)
    page.figure(
        "peaks", figure, "The three 208Tl lines and their fits (binned Poisson likelihood)."
    )


def _net_histogram(ax, score, weight, bins, **style):
    """Histogram of a line alone: window less side-bands, with errors, normalised."""
    total = weight.sum()
    counts, _ = np.histogram(score, bins, weights=weight / total)
    variance, _ = np.histogram(score, bins, weights=(weight / total) ** 2)
    center = 0.5 * (bins[1:] + bins[:-1])
    ax.stairs(counts, bins, lw=1.8, **style)
    ax.errorbar(center, counts, np.sqrt(variance), fmt="none", color=style["color"], lw=1)


def _aoe(page, result):
    page.heading("A/E with Compton-band correction")
    energy, aoe, correction = result["energy"], result["aoe"], result["correction"]
    a, b = correction.mu_coef
    p, q, r = correction.sigma_coef
    page.add(
        f"<p>μ(E) = {b:.5f} {'−' if a < 0 else '+'} {abs(a):.3e}·E/keV, "
        f"σ(E) = √({p:.2e} + ({q:.3g} keV/E)<sup>{r:.2f}</sup>) from "
        f"{len(correction.bands)} Compton bands; the classifier is ζ = (A/E − μ)/σ.</p>"
    )
    plain = result["plain"]
    page.table(
        ["Plain cut", *plain],
        [("A/E ≥ 0.98 μ(E)", *(str(s) for s in plain.values()))],
        "Survival under a plain A/E cut, 2 % below the single-site mean",
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.6))
    low, high = 0.55 * correction.mu(1600.0), 1.12 * correction.mu(1600.0)
    left.hist2d(
        energy,
        aoe,
        bins=[220, 160],
        range=[[energy.min(), 2650], [low, high]],
        norm="log",
        cmap="Greys",
    )
    e = np.linspace(900, 2650, 100)
    left.plot(e, correction.mu(e), color=COLORS["A/E"], lw=2, label="μ(E)")
    left.plot(
        e, correction.mu(e) - 2 * correction.sigma(e), "--", color=COLORS["SVM"], label="μ − 2σ"
    )
    left.set(xlabel="Energy (keV)", ylabel="A/E (1/sample)")
    left.legend(loc="lower left", frameon=True)
    bins = np.arange(-20.0, 6.01, 1.0)
    for name, color, style in (("DEP", COLORS["A/E"], "-"), ("SEP", COLORS["SVM"], "--")):
        _net_histogram(
            right, result["scores"]["A/E"], result["weights"][name], bins,
            color=color, ls=style, label=f"{name}, side-bands subtracted",
        )  # fmt: skip
    right.axhline(0, color="k", lw=0.6)
    right.set(xlabel="ζ (standard deviations)", ylabel="Fraction of the line / 1 σ")
    right.legend(loc="upper left", frameon=False)
    page.figure(
        "aoe",
        figure,
        "Left: A/E against energy with the fitted single-site mean. Right: the classifier ζ of "
        "DEP (single-site) and SEP (multi-site).",
    )


def _survival(page, result):
    judged = result["judged"]
    page.heading("Survival under A/E, SVM and BDT")
    auc, std = result["leak"]
    page.add(
        "<p>SVM and BDT see "
        + ", ".join(result["features"])
        + ", each in units of its own spread at the event's energy. What energy is left in them? A "
        f"BDT tells the continuum beside DEP from that beside SEP with an AUC of {auc:.3f} ± "
        f"{std:.3f} (0.5: nothing). Every event is judged by a model, chosen by grid search, that "
        "was trained on the other four fifths of the data, and by a threshold that keeps the "
        "stated part of the net DEP events there. The errors of DEP are those of its counts; all "
        "others come from a Poisson bootstrap that finds the thresholds anew, with the models held "
        "fixed: it does not hold the error of training. The A/E correction and the spreads are "
        "those of the continuum of all events; they use no label.</p>"
    )
    for acceptance in judged["survival"]:
        total = total_errors(result, acceptance)
        regions = list(next(iter(total.values())))
        page.table(
            [f"At {acceptance:.0%} DEP", *regions],
            [(m, *(str(s) for s in row.values())) for m, row in total.items()],
            f"Survival at {acceptance:.0%} DEP acceptance (errors with that of the threshold)",
        )
    figure, axes = plt.subplots(2, 1, figsize=(10, 10))
    for acceptance, ax in zip(judged["survival"], axes, strict=True):
        SurvivalDisplay(survival=total_errors(result, acceptance)).plot(ax=ax)
        ax.set_title(f"At {acceptance:.0%} DEP acceptance")
    page.figure(
        "survival", figure, "Survival fractions; error bars hold the error of the threshold."
    )

    rows = []
    for method in ("SVM", "BDT"):
        for what, difference, std, interval in differences(result, method):
            higher = what.startswith("AUC")
            rows.append(
                (
                    f"{method} − A/E",
                    what,
                    f"{difference:+.3f} ± {std:.3f}",
                    f"[{interval[0]:+.3f}, {interval[1]:+.3f}]",
                    verdict(difference, interval, better_is_higher=higher),
                )
            )
    page.table(
        ["", "Quantity", "Difference", "95 % interval", "Better?"],
        rows,
        "Differences on the same events",
    )
    page.add(
        "<p>The interval is that of the difference over bootstrap replicas of the same events. A "
        "survival is better when it is lower, an AUC when it is higher. Of "
        f"{len(rows)} comparisons of equal methods, {0.05 * len(rows):.1f} would look significant "
        "at this level.</p>"
    )

    figure, ax = plt.subplots(figsize=(7.5, 5.2))
    signal, background = result["weights"]["DEP"], result["weights"]["SEP"]
    for method, score in result["scores"].items():
        order = np.argsort(-score)
        ax.plot(
            np.cumsum(signal[order]) / signal.sum(),
            np.cumsum(background[order]) / background.sum(),
            color=COLORS[method],
            ls=STYLES[method],
            lw=1.8,
            label=f"{method} (AUC {judged['auc'][method]:.3f})",
        )
    for acceptance in judged["survival"]:
        ax.axvline(acceptance, color="k", lw=0.7, ls=":")
    ax.set(
        xlabel="DEP survival (side-bands subtracted)",
        ylabel="SEP survival (side-bands subtracted)",
        xlim=(0.3, 1.05),
        ylim=(-0.03, 0.6),
    )
    ax.legend(frameon=False, loc="upper left")
    page.figure(
        "roc",
        figure,
        "SEP against DEP survival as the threshold moves; low and to the right is good. The curves "
        "are not monotonic, as the subtracted continuum fluctuates. Where a curve rises steeply, a "
        "small error of the DEP survival moves the cut over many standard deviations: this is why "
        "what survives at a fixed acceptance there is uncertain.",
    )


def _shapley(page, result):
    page.heading("Why the trees decide as they do")
    explanation, names = result["explanation"], result["features"]
    importance = np.abs(explanation["values"]).mean(axis=0)
    order = np.argsort(-importance)
    page.table(
        ["Feature", "Mean |Shapley value| (log-odds)"],
        [(names[i], f"{importance[i]:.3f}") for i in order],
        "Shapley ranking",
    )
    labels = [f"{n} (σ)" for n in names]
    figure = plt.figure(layout="none")
    shap.plots.beeswarm(
        shap.Explanation(
            values=explanation["values"],
            base_values=explanation["base"],
            data=explanation["data"],
            feature_names=labels,
        ),
        show=False,
        plot_size=(9, 3.6),
    )
    plt.gca().set_xlabel("Shapley value (log-odds of DEP)")
    page.figure(
        "shapley",
        figure,
        "Shapley values of the events in the DEP and SEP windows, each from the trees that have "
        "not seen the event (TreeSHAP). Right: towards single-site.",
    )
    for line, meaning in (("DEP", "single-site"), ("SEP", "multi-site")):
        i = explanation["typical"][line]
        figure = shap.plots.force(
            float(np.round(explanation["base"][i], 2)),
            np.round(explanation["values"][i], 2),
            features=np.round(explanation["data"][i], 1),
            feature_names=names,
            out_names="log-odds of DEP",
            matplotlib=True,
            show=False,
            figsize=(14, 2.8),
        )
        # shap leaves the lower half of its axes empty.
        figure.axes[0].set_ylim(-0.22, 0.15)
        page.figure(
            f"force_{line}",
            figure,
            f"An event with the median score of the {line} window ({meaning}): red features push "
            "it towards DEP, blue ones towards SEP. Features in standard deviations.",
        )


def _waveforms(page, waveforms):
    page.heading("Simulated waveforms: network, features and A/E")
    page.add(
        f"<p>{waveforms['n_train']:,} single- and multi-site events to train on, "
        f"{waveforms['n_test']:,} to judge, with known truth; 1–2.7 MeV. The network sees the raw "
        "samples of the rising edge, with baseline and amplitude taken out; the trees see all "
        "pulse-shape features. Here every label is true, and samples are large: that is the "
        "difference to the analysis above.</p>"
    )
    page.table(
        ["Method", "Rejection at 90 %", "68 % interval", "AUC"],
        [
            (
                m,
                f"{r.rejection:.4f}",
                f"[{r.interval[0]:.4f}, {r.interval[1]:.4f}]",
                f"{waveforms['auc'][m]:.4f}",
            )
            for m, r in waveforms["rejection"].items()
        ],
        "Simulated waveforms: multi-site events rejected at 90 % single-site acceptance",
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 4.8))
    start, stop = waveforms["window"]
    for name, color, style in (
        ("Single-site", COLORS["A/E"], "-"),
        ("Multi-site", COLORS["SVM"], "--"),
    ):
        for i, waveform in enumerate(waveforms["examples"][name]):
            t = np.arange(len(waveform)) * waveforms["period"]
            w = waveform - waveform[: len(waveform) // 6].mean()
            w = w / w.max()
            left.plot(t - start, w, color=color, ls=style, lw=1.5, label=name if i == 0 else None)
    left.set(xlim=(0, stop - start), xlabel="Time (ns)", ylabel="Charge (of its maximum)")
    left.legend(frameon=False)
    for m, score in waveforms["scores"].items():
        RocCurveDisplay.from_predictions(
            waveforms["y"],
            score,
            name=m,
            ax=right,
            curve_kwargs={"color": COLORS[m], "ls": STYLES[m], "lw": 2},
        )
    right.set(
        aspect="auto",
        xlim=(0, 0.1),
        ylim=(0.6, 1.005),
        xlabel="Multi-site events that survive",
        ylabel="Single-site events that survive",
    )
    right.axhline(0.9, color="k", lw=0.7, ls=":")
    page.figure(
        "waveforms", figure, "Left: three waveforms of each kind. Right: the ROC curves, enlarged."
    )
