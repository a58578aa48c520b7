"""The demo, on simulated events: its statistics, its report, its command line."""

import os
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import sklearn

pytest.importorskip("shap")
EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
events_module = pytest.importorskip("hpge_events")
judging = pytest.importorskip("hpge_judging")
learning = pytest.importorskip("hpge_learning")
demo = pytest.importorskip("hpge_pulse_shape")

from sknuc.metrics import sideband_weights  # noqa: E402

REGION = {"window": (1589.0, 1596.0), "sidebands": [(1570.0, 1585.0), (1600.0, 1612.0)]}


def line_on_continuum(rng, n_line, n_continuum, shift):
    """A line whose feature lies `shift` above that of the continuum."""
    energy = np.r_[rng.normal(1592.5, 0.9, n_line), rng.uniform(1565, 1620, n_continuum)]
    x = rng.normal(size=len(energy))
    x[:n_line] += shift
    return energy, x


def test_expected_weights_are_positive_and_stand_for_the_line_alone():
    rng = np.random.default_rng(0)
    energy, x = line_on_continuum(rng, 3000, 12_000, 2.0)
    signed = sideband_weights(energy, **REGION)
    rows = np.flatnonzero(signed)
    positive = learning.expected_weights(x[rows, np.newaxis], signed[rows])
    assert positive.min() >= 0
    assert positive.sum() == pytest.approx(signed.sum(), rel=0.05)
    # Mean and variance of the feature are those of the line, N(2, 1), not of the mixture.
    mean = np.average(x[rows], weights=positive)
    std = np.sqrt(np.average((x[rows] - mean) ** 2, weights=positive))
    in_window = rows[signed[rows] > 0]
    assert x[in_window].mean() < 1.5
    assert mean == pytest.approx(2.0, abs=0.12)
    assert std == pytest.approx(1.0, abs=0.12)


def test_energy_independent_removes_location_and_width():
    rng = np.random.default_rng(1)
    energy = rng.uniform(850, 2400, 60_000)
    skewed = rng.exponential(size=len(energy)) - np.log(2)
    value = 3.0 + 1e-4 * energy + skewed * (0.1 + 300.0 / energy)
    out = learning.energy_independent(value, energy, np.ones(len(energy), dtype=bool))
    for low in (900, 1400, 1900):
        part = out[(energy > low) & (energy < low + 400)]
        # By construction the median is 0 and the quantiles at 16 and 84 % are -1 and 1.
        assert np.percentile(part, [16, 50, 84]) == pytest.approx([-1, 0, 1], abs=0.06)


def test_energy_leak_sees_energy_where_there_is_some():
    rng = np.random.default_rng(2)
    energy = rng.uniform(1500, 2200, 20_000)
    regions = {
        "DEP": REGION,
        "SEP": {"window": (2100, 2107), "sidebands": [(2060, 2090), (2115, 2145)]},
    }
    noise = rng.normal(size=(len(energy), 1))
    auc, std, tilt = learning.energy_leak(noise, energy, regions)
    assert abs(auc - 0.5) < 4 * std
    assert np.exp(np.mean(np.log(tilt))) == pytest.approx(1.0, abs=0.1)
    # The width of the noise is proportional to 1/E, as in a ratio to the energy.
    leaking = noise / energy[:, np.newaxis]
    auc, std, tilt = learning.energy_leak(leaking, energy, regions)
    assert auc > 0.5 + 4 * std
    # Reweighted by the ratio of densities, the continuum beside SEP has the width of that beside
    # DEP, where the energy is lower and the ratio wider.
    dep, sep = (sideband_weights(energy, **regions[line]) < 0 for line in ("DEP", "SEP"))
    width = np.sqrt(np.average(leaking[sep, 0] ** 2, weights=tilt[sep]))
    assert leaking[sep, 0].std() < 0.8 * leaking[dep, 0].std()
    assert width == pytest.approx(leaking[dep, 0].std(), rel=0.08)


@pytest.fixture(scope="module")
def two_lines():
    """Features that hold nothing, signed weights of two lines, and a partition."""
    n, rng = 800, np.random.default_rng(3)
    kind = rng.integers(0, 5, n)
    weights = {
        "DEP": np.select([kind == 0, kind == 1], [1.0, -0.2], 0.0),
        "SEP": np.select([kind == 2, kind == 3], [1.0, -0.2], 0.0),
    }
    folds = rng.permutation(n)[np.newaxis] % learning.N_FOLDS
    return rng.normal(size=(n, 2)), weights, folds


def fit_both_lines(X, weights, folds):
    sets = learning.training_sets(X, weights, folds)
    with sklearn.config_context(enable_metadata_routing=True):
        search = learning.searches(quick=True)["BDT"].set_params(
            param_grid={"model__max_iter": [20, 40]}
        )
        # Deep trees without a penalty learn their own events by heart.
        search.estimator.set_params(
            model__max_depth=12, model__min_child_weight=0.0, model__subsample=1.0
        )
        return learning.cross_fit(search, X, sets, folds)


def test_the_own_label_of_an_event_does_not_enter_its_score(two_lines):
    X, weights, folds = two_lines
    scores, models, settings = fit_both_lines(X, weights, folds)
    assert len(settings) == learning.N_FOLDS
    # Swap the lines of every event of one fold: its own model stays the same.
    swapped = {line: weight.copy() for line, weight in weights.items()}
    left_out = folds[0] == 2
    for line, other in (("DEP", "SEP"), ("SEP", "DEP")):
        swapped[line][left_out] = weights[other][left_out]
    after, *_ = fit_both_lines(X, swapped, folds)
    np.testing.assert_array_equal(after[0, left_out], scores[0, left_out])
    assert np.mean(after[0, ~left_out] != scores[0, ~left_out]) > 0.9
    # Trees that know every event by heart find nothing in noise when they judge others.
    window = {line: np.where(weight > 0, weight, 0) for line, weight in weights.items()}
    in_sample = models[0][0].decision_function(X)[folds[0] != 0]
    rows = {line: weight[folds[0] != 0] for line, weight in window.items()}
    assert judging.net_auc(in_sample, rows["DEP"], rows["SEP"]) > 0.9
    auc = judging.net_auc(scores[0], window["DEP"], window["SEP"])
    n1, n0 = (weight.sum() for weight in window.values())
    assert abs(auc - 0.5) < 4 * np.sqrt((1 / n1 + 1 / n0) / 12)


def test_runs_and_models_do_not_depend_on_the_number_of_threads(two_lines):
    X, weights, folds = two_lines
    one, two = (learning.training_sets(X, weights, folds, n_jobs=n) for n in (None, 2))
    assert one.keys() == two.keys()
    for key, arguments in one.items():
        for name, array in arguments.items():
            np.testing.assert_array_equal(array, two[key][name])


def test_net_auc_is_that_of_the_lines_without_their_continuum():
    from scipy.stats import norm

    rng, aucs = np.random.default_rng(4), []
    for _ in range(30):
        signal, x1 = line_on_continuum(rng, 1500, 6000, 1.0)
        background, x0 = line_on_continuum(rng, 1500, 6000, -0.5)
        score = np.r_[x1, x0]
        w1 = np.r_[sideband_weights(signal, **REGION), np.zeros(len(x0))]
        w0 = np.r_[np.zeros(len(x1)), sideband_weights(background, **REGION)]
        aucs.append(judging.net_auc(score, w1, w0))
    error = np.std(aucs, ddof=1) / np.sqrt(len(aucs))
    assert abs(np.mean(aucs) - norm.cdf(1.5 / np.sqrt(2))) < 4 * error


def two_methods(rng, n_line, n_continuum):
    """Scores of two correlated methods, 2.0 and 2.5 sigma, for two lines on continua."""
    # A line, the continuum under it, that beside it; for DEP, then for SEP.
    sizes = np.array([n_line, n_continuum, 3 * n_continuum] * 2)
    kind = np.repeat(np.arange(6), rng.poisson(sizes))
    z, extra = rng.normal(size=(2, len(kind)))
    is_dep, is_continuum = kind == 0, (kind % 3) > 0
    center = np.where(is_continuum, 0.5, 1.0 * is_dep)
    scores = {
        "A/E": z + 2.0 * center,
        "BDT": 0.8 * z + 0.6 * extra + 2.5 * center,
    }
    weights = {
        line: np.select([kind == i, kind == i + 1, kind == i + 2], [1.0, 1.0, -1 / 3], 0.0)
        for i, line in ((0, "DEP"), (3, "SEP"))
    }
    return scores, weights


def test_intervals_of_survivals_and_differences_cover_the_truth():
    from scipy.stats import binomtest, norm

    rng, n_experiments = np.random.default_rng(5), 80
    survival = {m: norm.sf(norm.ppf(0.2) + d) for m, d in (("A/E", 2.0), ("BDT", 2.5))}
    auc = {m: norm.cdf(d / np.sqrt(2)) for m, d in (("A/E", 2.0), ("BDT", 2.5))}
    truth = {
        "SEP at 80 % DEP": survival["A/E"],
        "difference of SEP": survival["BDT"] - survival["A/E"],
        "AUC": auc["A/E"],
        "difference of AUC": auc["BDT"] - auc["A/E"],
    }
    covered = dict.fromkeys(truth, 0)
    pull = {name: [] for name in truth}
    for i in range(n_experiments):
        scores, weights = two_methods(rng, 200, 150)
        judged = judging.judge(scores, weights, n_bootstrap=60, random_state=i)
        sep = {m: regions["SEP"] for m, regions in judged["survival"][0.8].items()}
        found = {
            "SEP at 80 % DEP": sep["A/E"],
            "difference of SEP": sep["BDT"] - sep["A/E"],
            "AUC": judged["auc"]["A/E"],
            "difference of AUC": judged["auc"]["BDT"] - judged["auc"]["A/E"],
        }
        for name, estimate in found.items():
            low, high = estimate.interval(0.68)
            assert low <= estimate.value <= high
            covered[name] += low <= truth[name] <= high
            pull[name].append((estimate.value - truth[name]) / estimate.std)
    for name, n in covered.items():
        assert binomtest(n, n_experiments, 0.68).pvalue > 1e-3, (name, n)
        assert abs(np.mean(pull[name])) < 0.5, name
        assert 0.7 < np.std(pull[name]) < 1.35, name


def test_spread_of_runs_enters_the_error_and_the_verdict():
    rng = np.random.default_rng(6)
    replicas = 0.02 + 0.005 * rng.normal(size=4000)
    steady = judging.Estimate(0.02, replicas, np.full(5, 0.02))
    assert steady.training_std == 0.0
    assert judging.verdict(steady, better_is_higher=True) == "better"
    restless = judging.Estimate(0.02, replicas, 0.02 + 0.012 * np.array([-1, -1, 0, 1, 1]))
    assert restless.training_std == pytest.approx(0.012)
    assert restless.std == pytest.approx(np.hypot(0.005, 0.012), rel=0.03)
    low, high = restless.interval(0.95)
    assert (high - low) / 2 == pytest.approx(1.96 * restless.std, rel=0.05)
    assert judging.verdict(restless, better_is_higher=True) == "not significantly"
    same = steady - steady
    assert (same.value, same.std, same.interval(0.95)) == (0.0, 0.0, (0.0, 0.0))


def test_quality_cuts_count_every_event_once():
    events = events_module.simulate_events(3000)
    columns = {name: column.copy() for name, column in events.columns.items()}
    columns["late_charge"][:7] = np.nan
    columns["baseline_slope"][5:20] += 1e4
    good, flow = events_module.select_events(columns)
    assert np.count_nonzero(~good) == sum(first for _, _, first in flow)
    assert not good[:20].any()
    failed = {text: n for text, n, _ in flow}
    assert failed["A quantity is undefined (NaN)"] == 7
    assert failed["Baseline slope (tail of an earlier pulse)"] >= 15


def test_coarse_columns_lose_no_good_event():
    rng = np.random.default_rng(7)
    columns = {name: rng.normal(size=5000) for name in events_module.COLUMNS}
    # More than half of the events share a value: the median absolute deviation is zero.
    columns["baseline_noise"] = rng.choice([3.0, 4.0, 5.0], size=5000, p=[0.1, 0.8, 0.1])
    columns["baseline_noise"][:20] = 40.0
    good, flow = events_module.select_events(columns)
    assert np.flatnonzero(~good).tolist() == list(range(20))
    assert [text for text, *_ in flow] == ["A quantity is undefined (NaN)", "Baseline noise"]
    # A quantity of two populations is none that cuts on exceptions can be laid on.
    columns["t0"] = np.where(rng.random(5000) < 0.4, 900.0, rng.normal(size=5000))
    with pytest.raises(ValueError, match=r"Start of the pulse .* removes (39|4\d)%"):
        events_module.select_events(columns)


def write_table(path, columns, group="ch1/dsp"):
    """Write a user's table, with the columns of the collaboration."""
    names = events_module.COLUMNS | events_module.QUALITY_COLUMNS
    with h5py.File(path, "a") as file:
        table = file.create_group(group)
        table.attrs["datatype"] = f"table{{{','.join(names[name] for name in columns)}}}"
        for name, column in columns.items():
            table[names[name]] = column
            table[names[name]].attrs["datatype"] = "array<1>{real}"
    return str(path)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    import matplotlib

    matplotlib.use("agg")
    folder = tmp_path_factory.mktemp("demo")
    events = events_module.simulate_events(10_000)
    path = write_table(folder / "table.lh5", events.columns)
    result = demo.main(["--data", path, "--output", str(folder / "report"), "--quick"])
    return result, folder / "report", path


def test_same_seed_gives_the_same_scores(report, monkeypatch):
    result, _, path = report
    # The network has such a test of its own.
    monkeypatch.setattr(demo, "compare_on_waveforms", lambda *args, random_state: None)
    again = demo.analyse(events_module.load_events(path), quick=True, random_state=0)
    for method, score in result["scores"].items():
        np.testing.assert_array_equal(again["scores"][method], score, err_msg=method)
    assert again["settings"] == result["settings"]
    for method, auc in result["judged"]["auc"].items():
        assert again["judged"]["auc"][method].interval() == auc.interval()


def test_demo_finds_what_was_simulated(report):
    result, _, _ = report
    assert set(result["calibration"].lines) == {"208Tl 861", "DEP", "212Bi 1621", "SEP", "FEP"}
    truth = {"DEP": 0.95, "SEP": 0.06, "FEP": 0.10}
    for auc, std in result["leak"].values():
        assert abs(auc - 0.5) < 5 * std
    for acceptance, methods in result["judged"]["survival"].items():
        for method, survival in methods.items():
            assert survival["DEP"].value == pytest.approx(acceptance, abs=0.02), method
            # The single-site events of a multi-site line survive like those of DEP.
            for line in ("SEP", "FEP"):
                least = acceptance * truth[line] - 4 * survival[line].std
                assert least < survival[line].value < 0.3, method
                assert survival[line].std < 0.06, method
    importance = np.abs(result["explanation"]["values"]).mean(axis=0)
    assert result["features"][np.argmax(importance)] == "A/E"


def test_shapley_values_add_up_to_the_score(report):
    result, _, _ = report
    explanation = result["explanation"]
    window = (result["weights"]["DEP"] > 0) | (result["weights"]["SEP"] > 0)
    np.testing.assert_allclose(
        explanation["base"] + explanation["values"].sum(axis=1),
        result["scores"]["BDT"][window],
        atol=1e-4,
    )


def test_report_is_one_file_without_external_resources(report):
    _, folder, path = report
    page = (folder / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert len(sources) >= 9
    assert "What this does not say" in page
    assert "A quick run" in page
    assert re.search(r"sknuc \S+, seed 0, 300 bootstrap replicas, quick run", page)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(list(folder.glob("*.png"))) == len(sources)
    assert "<script" not in page
    assert "@import" not in page
    assert "Does the BDT beat the A/E cut?" in page
    assert str(path) in page
    assert "simulated events, not data" not in page


@pytest.fixture(scope="module")
def legend():
    if not os.environ.get("SKNUC_DATA"):
        pytest.skip("SKNUC_DATA names no folder with the LEGEND-200 table")
    return demo.prepare(events_module.load_events())


#: Survival of this table under A/E >= 0.98 mu(E).
REFERENCE = {
    "DEP": (0.92, 0.09),
    "SEP": (0.105, 0.022),
    "FEP": (0.134, 0.006),
    "2039 ± 35 keV": (0.40, 0.014),
}


@pytest.mark.parametrize("region", REFERENCE)
def test_legend_plain_aoe_cut(legend, region):
    survival, (value, std) = legend["plain"][region], REFERENCE[region]
    assert abs(survival.fraction - value) < 1.5 * std
    assert survival.std < 1.2 * std


def test_legend_aoe_cut_at_80_percent(legend):
    assert 0.95 < legend["n_good"] / legend["n_all"] < 1.0
    judged = judging.judge({"A/E": legend["zeta"]}, legend["weights"], n_bootstrap=100)
    cut = judged["survival"][0.8]["A/E"]
    assert cut["DEP"].value == pytest.approx(0.8, abs=0.02)
    # A harder cut than the plain one keeps less of every region, and the error stays small.
    for region, most in (("SEP", 0.03), ("FEP", 0.03), ("2039 ± 35 keV", 0.05)):
        value, std = REFERENCE[region]
        assert 0 < cut[region].value < value + std, region
        assert cut[region].std < most, region
    # At 90 % the same cut moves over many standard deviations.
    assert judged["survival"][0.9]["A/E"]["FEP"].std > 2 * cut["FEP"].std


def test_simulated_events_are_announced_when_the_table_cannot_be_had(monkeypatch):
    def no_network(**kwargs):
        raise OSError("no network")

    monkeypatch.setattr(events_module, "fetch_legend_th228", no_network)
    events = events_module.load_events(n_simulated=300)
    assert events.simulated
    assert len(events.notes) == 1
    assert len(events.notes[0]) < 60
    assert "no network" in events.details


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing file", "no file"),
        ("text", "not an HDF5 file"),
        ("no such group", "'nope'"),
        ("no column", "no column 'cuspEmax'"),
        ("three tables", "choose one with --group: a/dsp, b/dsp, c/dsp"),
        ("empty", "holds no events"),
        ("NaN", "'lq80' of .* is NaN in every event"),
        ("few events", "calibrate_energy"),
        ("group alone", "--group names a table"),
    ],
)
def test_user_errors_are_one_line_and_exit_code_2(case, message, tmp_path, capsys):
    path, options = tmp_path / "mine.lh5", []
    columns = {name: np.arange(1.0, 31.0) for name in events_module.COLUMNS}
    if case == "text":
        path.write_text("A_max, cuspEmax\n1, 2\n")
    elif case == "no column":
        write_table(path, {"current": columns["current"]})
    elif case == "three tables":
        for name in "abc":
            write_table(path, columns, f"{name}/dsp")
    elif case == "empty":
        write_table(path, {name: column[:0] for name, column in columns.items()})
    elif case == "NaN":
        write_table(path, columns | {"late_charge": np.full(30, np.nan)})
    elif case != "missing file":
        write_table(path, columns)
        options = ["--group", "nope"] if case == "no such group" else []
    data = ["--group", "ch1/dsp"] if case == "group alone" else ["--data", str(path)]
    with pytest.raises(SystemExit) as error:
        demo.main([*data, *options, "--output", str(tmp_path / "report")])
    assert error.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in said
    assert not said.endswith('"')
    assert re.search(message, said), said
    assert not (tmp_path / "report").exists()


def test_missing_quality_columns_are_noted(tmp_path):
    columns = events_module.simulate_events(300).columns
    del columns["baseline_energy"]
    columns["t0"] = np.full(len(columns["t0"]), np.nan)
    events = events_module.load_events(write_table(tmp_path / "mine.lh5", columns))
    assert [note.split(":")[0] for note in events.notes] == [
        "There is no column baselineEmax",
        "The column tp_0_est is NaN throughout",
    ]
    _, flow = events_module.select_events(events.columns)
    assert len(flow) == 3


def test_help_lists_the_columns(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    said = capsys.readouterr().out
    for column in (*events_module.COLUMNS.values(), *events_module.QUALITY_COLUMNS.values()):
        assert column in said
