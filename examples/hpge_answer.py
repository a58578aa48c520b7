"""The box at the top of the report: the answer, its errors, and what it does not say."""

import html

import numpy as np
from hpge_judging import differences, with_interval

import sknuc
from sknuc.metrics import survival_fraction


def survival_rows(result, regions):
    """Rows of a table: the survival of some regions under every cut, with intervals of 68 %."""
    plain = result["plain"]
    cells = [with_interval(plain[r].fraction, plain[r].interval) for r in regions]
    rows = [("A/E ≥ 0.98 μ(E)", *cells)]
    for acceptance, methods in result["judged"]["survival"].items():
        for method, survival in methods.items():
            cells = [
                f"{survival[r].value:.3f} (set)" if r == "DEP" else str(survival[r])
                for r in regions
            ]
            rows.append((f"{method}, {acceptance:.0%} DEP", *cells))
    return rows


def _which_rows(result):
    """Say which acceptance the events of DEP determine well."""
    judged = result["judged"]
    widths = {a: np.ptp(m["A/E"]["FEP"].interval()) for a, m in judged["survival"].items()}
    if widths[0.9] < 3 * widths[0.8]:
        return "Both cuts lie where the DEP events are dense, and are well determined."
    return (
        "Read the 80 % rows: there the DEP events lie dense, and the cut is well determined. At "
        "90 % it lies in the thin tail of DEP, where a handful of events moves it over many "
        "standard deviations: with A/E alone, the interval of FEP is "
        f"{widths[0.9] / widths[0.8]:.0f} times as wide. It is wide for this reason, not because "
        "the methods are poor."
    )


def _leak_verdict(result):
    """Say in words how much of the gain may be energy."""
    (auc, std), (aoe, _), (others, _) = (result["leak"][k] for k in ("all", "A/E", "others"))
    gain = result["judged"]["auc"]["BDT"].value - result["judged"]["auc"]["A/E"].value
    tilted = result["tilted_auc"]["BDT"] - result["tilted_auc"]["A/E"]
    seen = (auc - 0.5) / std
    text = (
        "From the same features a BDT tells the continuum beside DEP from that beside SEP with "
        f"an AUC of {auc:.3f} ± {std:.3f}, {seen:.1f} standard deviations from nothing (A/E alone "
        f"{aoe:.3f}, the features beyond A/E {others:.3f}). "
    )
    if seen < 2:
        text += "No energy is seen in them. "
    else:
        text += (
            f"That is {auc - 0.5:+.3f}, and the gain {gain:+.3f}: energy, or another mixture of "
            "single- and multi-site events at the two energies, may be part of it. "
        )
        if others - 0.5 < 2 * std:
            text += "It shows in A/E, which both methods read, not in what the BDT adds to it. "
    return text + (
        f"With SEP reweighted so that the two continua look alike, the BDT's gain is {tilted:+.3f}."
    )


def add_answer(page, result):
    """Open the page: what was analysed, the answer, how well it is known, what it leaves open."""
    events, judged, waveforms = result["events"], result["judged"], result["waveforms"]
    page.add("<h1>Pulse-shape analysis of a germanium detector</h1>")
    page.add(f'<p class="source">{html.escape(events.source)}, {result["n_all"]:,} events</p>')
    if events.simulated:
        page.add(
            '<div class="warning"><strong>These are simulated events, not data.</strong> '
            + " ".join(html.escape(note) for note in events.notes)
            + (
                f"<details><summary>Why</summary>{html.escape(events.details)}</details>"
                if events.details
                else ""
            )
            + "</div>"
        )
    if result["quick"]:
        page.add(
            '<p class="warning"><strong>A quick run</strong> with small grids, few waveforms and '
            "few epochs, to see that everything works. Take no numbers from it.</p>"
        )

    _, gain, verdict = next(differences(judged, "BDT"))
    _, svm, _ = next(differences(judged, "SVM"))
    answer = {
        "better": "Yes, significantly, on this table",
        "worse": "No, it is significantly worse",
        "not significantly": "Not significantly",
    }[verdict]
    far = survival_fraction(
        result["energy"], result["scores"]["A/E"] < -3, **result["regions"]["DEP"]
    )
    (low, high), (svm_low, svm_high) = gain.interval(0.95), svm.interval(0.95)
    n_runs = len(gain.runs)
    page.add(
        '<div class="answer"><p><strong>Does the BDT beat the A/E cut? '
        f"{answer}.</strong> The area under the curve of DEP against SEP changes by "
        f"{gain.value:+.3f} ± {gain.std:.3f} (95 % interval {low:+.3f} to {high:+.3f}) on "
        f"the same events: A/E {judged['auc']['A/E'].value:.3f}, SVM "
        f"{judged['auc']['SVM'].value:.3f}, BDT {judged['auc']['BDT'].value:.3f}. For the SVM the "
        f"change is {svm.value:+.3f} ± {svm.std:.3f} ({svm_low:+.3f} to {svm_high:+.3f}). Scores "
        f"are means over {n_runs} runs with other folds and seeds; single runs of the BDT gain "
        f"{gain.runs.min():+.3f} to {gain.runs.max():+.3f}, and their standard deviation "
        f"({gain.training_std:.3f}) is in the error and in the verdict.</p>"
        f"<p><strong>Is it energy?</strong> {_leak_verdict(result)}</p>"
    )
    shown = ("DEP", "SEP", "FEP", "2039 ± 35 keV")
    page.table(["Survival", *shown], survival_rows(result, shown), echo=False)
    cuts = ", ".join(f"{t['A/E']:.1f} σ at {a:.0%}" for a, t in judged["threshold"].items())
    page.add(
        f"<p>The plain cut is fixed, and its DEP survival is measured: {far} of DEP lie more than "
        "3 σ below the single-site mean. The other cuts are set on the "
        f"{result['weights']['DEP'].sum():.0f} net DEP events, whose survival is what it is "
        f"by construction (A/E cut: {cuts}). {_which_rows(result)}</p>"
        f"<p><strong>What this does not say.</strong> {_limits(result)}</p>"
        "<p>On simulated waveforms, multi-site events rejected at 90 % single-site acceptance: "
        + ", ".join(
            f"{m} {r.rejection:.3f} [{r.interval[0]:.3f}, {r.interval[1]:.3f}]"
            for m, r in waveforms["rejection"].items()
        )
        + ".</p></div>"
    )
    print(
        f"\nDoes the BDT beat the A/E cut? {answer}: AUC {gain.value:+.3f} ± {gain.std:.3f} "
        f"(95 % interval {low:+.3f} to {high:+.3f}).\n{_leak_verdict(result)}"
    )


def _limits(result):
    """What a reader might wrongly take from the answer."""
    chosen = (
        "The features, the quality cuts, the side-bands and the ranges of the grids were chosen on "
        + ("this same table" if result["events"].description else "the LEGEND-200 table")
        + ": about ten variants of features and weights were compared there by the AUC of DEP "
        "against SEP, and four features kept."
    )
    if result["events"].description:
        chosen += " The gain is therefore rather too large than too small."
    return (
        f"{chosen} All runs of the training share the same events of the two lines: the error that "
        "this leaves in the models is not in the errors above. One detector and one run say "
        "nothing of other detectors, and the lines of a source, which reach the detector from "
        "outside, nothing of the acceptance of events that are spread evenly over it."
    )


def add_footer(page, result, seconds):
    """Say what made this page, and from what."""
    text = (
        f"sknuc {sknuc.__version__}, seed {result['random_state']}, "
        f"{result['n_bootstrap']:,} bootstrap replicas"
        + (", quick run" if result["quick"] else "")
        + f"; computed in {seconds:.0f} s."
    )
    page.add(f"<footer><p><small>{text}</small></p>")
    if result["events"].description:
        page.add(
            "<details><summary><small>The data, their source and licence</small></summary>"
            f"<pre>{html.escape(result['events'].description)}</pre></details>"
        )
    page.add("</footer>")
