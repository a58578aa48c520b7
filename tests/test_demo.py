"""The demo, on simulated events: its statistics, its report, its command line."""

import os
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("shap")
EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))
events_module = pytest.importorskip("hpge_events")
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
    auc, std = learning.energy_leak(noise, energy, regions)
    assert abs(auc - 0.5) < 4 * std
    # The width of the noise is proportional to 1/E, as in a ratio to the energy.
    auc, std = learning.energy_leak(noise / energy[:, np.newaxis], energy, regions)
    assert auc > 0.5 + 4 * std


def test_no_event_takes_part_in_the_model_or_the_threshold_that_judge_it():
    class Recorder:
        """Remembers what it was trained on, as an event is its own number."""

        def fit(self, X, y, sample_weight):
            self.seen = set(X[:, 0].tolist())
            self.best_estimator_ = self
            return self

        def get_params(self, deep=True):
            return {}

        def decision_function(self, X):
            assert not self.seen & set(X[:, 0].tolist())
            return X[:, 0]

    n = 3000
    rng = np.random.default_rng(3)
    X = np.arange(n, dtype=float)[:, np.newaxis]
    kind = rng.integers(0, 5, n)
    weights = {
        "DEP": np.select([kind == 0, kind == 1], [1.0, -0.2], 0.0),
        "SEP": np.select([kind == 2, kind == 3], [1.0, -0.2], 0.0),
    }
    fold = rng.permutation(n) % learning.N_FOLDS
    score, models = learning.cross_fit(Recorder(), X, weights, fold)
    np.testing.assert_array_equal(score, X[:, 0])
    for k, model in enumerate(models):
        used = np.flatnonzero((weights["DEP"] != 0) | (weights["SEP"] != 0))
        assert model.seen <= set(X[used[fold[used] != k], 0])
    # Whatever happens to the events of a fold, its own threshold stays.
    before = learning.leave_out_thresholds(score, weights["DEP"], fold, 0.9)
    score[fold == 2] += 1000 * rng.normal(size=np.sum(fold == 2))
    after = learning.leave_out_thresholds(score, weights["DEP"], fold, 0.9)
    assert before[2] == after[2]
    assert np.all(before[[0, 1, 3, 4]] != after[[0, 1, 3, 4]])


def test_net_auc_is_that_of_the_lines_without_their_continuum():
    from scipy.stats import norm

    rng, aucs = np.random.default_rng(4), []
    for _ in range(30):
        signal, x1 = line_on_continuum(rng, 1500, 6000, 1.0)
        background, x0 = line_on_continuum(rng, 1500, 6000, -0.5)
        score = np.r_[x1, x0]
        w1 = np.r_[sideband_weights(signal, **REGION), np.zeros(len(x0))]
        w0 = np.r_[np.zeros(len(x1)), sideband_weights(background, **REGION)]
        aucs.append(learning.net_auc(score, w1, w0))
    error = np.std(aucs, ddof=1) / np.sqrt(len(aucs))
    assert abs(np.mean(aucs) - norm.cdf(1.5 / np.sqrt(2))) < 4 * error


def test_identical_methods_differ_by_nothing():
    rng = np.random.default_rng(5)
    replicas = rng.normal(size=200)
    assert learning.compare(0.3, replicas, 0.3, replicas) == (0.0, 0.0, (0.0, 0.0))


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


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    import matplotlib

    matplotlib.use("agg")
    folder = tmp_path_factory.mktemp("demo")
    # A user's table, with the columns of the collaboration.
    events = events_module.simulate_events(10_000)
    with h5py.File(folder / "table.lh5", "w") as file:
        group = file.create_group("ch1/dsp")
        group.attrs["datatype"] = f"table{{{','.join(events_module.COLUMNS.values())}}}"
        for name, column in events_module.COLUMNS.items():
            group[column] = events.columns[name]
            group[column].attrs["datatype"] = "array<1>{real}"
    path = folder / "table.lh5"
    result = demo.main(["--data", str(path), "--output", str(folder / "report"), "--quick"])
    return result, folder / "report", path


def test_demo_finds_what_was_simulated(report):
    result, _, _ = report
    assert set(result["calibration"].lines) == {"208Tl 861", "DEP", "212Bi 1621", "SEP", "FEP"}
    truth = {"DEP": 0.95, "SEP": 0.06, "FEP": 0.10}
    auc, std = result["leak"]
    assert abs(auc - 0.5) < 5 * std
    for method, survival in result["judged"]["survival"][0.9].items():
        dep = survival["DEP"]
        assert abs(dep.fraction - 0.9) < 4 * dep.std, method
        # The single-site events of a multi-site line survive like those of DEP.
        for line in ("SEP", "FEP"):
            assert survival[line].fraction > 0.9 * truth[line] - 4 * survival[line].std, method
            assert survival[line].fraction < 0.3, method
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
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert len(list(folder.glob("*.png"))) == len(sources)
    assert "<script" not in page
    assert "@import" not in page
    assert "Does the BDT beat the A/E cut?" in page
    assert str(path) in page
    assert "simulated events, not data" not in page


def test_legend_aoe_cut_keeps_90_percent_of_dep_and_rejects_multi_site_lines():
    if not os.environ.get("SKNUC_DATA"):
        pytest.skip("SKNUC_DATA names no folder with the LEGEND-200 table")
    prepared = demo.prepare(events_module.load_events())
    assert 0.95 < prepared["n_good"] / prepared["n_all"] < 1.0
    judged = learning.judge(
        {"A/E": prepared["zeta"]},
        *(prepared[key] for key in ("energy", "regions", "weights", "fold")),
        n_bootstrap=50,
    )
    survival = judged["survival"][0.9]["A/E"]
    replicas = judged["replicas"][0.9]["A/E"]
    assert abs(survival["DEP"].fraction - 0.9) < 2 * survival["DEP"].std
    # Computed independently on this table with a fixed cut; the threshold's error is in ours.
    reference = {"SEP": (0.105, 0.022), "FEP": (0.134, 0.006), "2039 ± 35 keV": (0.40, 0.014)}
    for region, (value, std) in reference.items():
        error = np.hypot(np.std(replicas[region], ddof=1), std)
        assert abs(survival[region].fraction - value) < 2 * error, region


def test_simulated_events_are_announced_when_the_table_cannot_be_had(monkeypatch):
    def no_network(**kwargs):
        raise OSError("no network")

    monkeypatch.setattr(events_module, "fetch_legend_th228", no_network)
    events = events_module.load_events(n_simulated=300)
    assert events.simulated
    assert "no network" in events.notes[0]


def test_user_table_without_a_column_is_an_error_that_names_it(tmp_path):
    with h5py.File(tmp_path / "bad.lh5", "w") as file:
        group = file.create_group("dsp")
        group.attrs["datatype"] = "table{A_max}"
        group["A_max"] = np.ones(3)
        group["A_max"].attrs["datatype"] = "array<1>{real}"
    with pytest.raises(KeyError, match="cuspEmax"):
        events_module.load_events(str(tmp_path / "bad.lh5"))
