"""The examples of uncertainty: what they print and draw, recomputed."""

import re

import numpy as np
import pytest
from scipy.stats import norm

from sknuc.datasets import fetch_ame, fetch_ws4, liquid_drop_binding_energy

pytest.importorskip("matplotlib")
pytest.importorskip("torch")
from test_examples import check_pictures, run


@pytest.fixture(scope="module")
def jets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jets")
    return *run("plot_jets.py", 3000, folder), folder / "new"


def test_jets_pictures_and_numbers(jets):
    drawn, printed, folder = jets
    check_pictures(folder, jets_response=1800, jets_closure=1920)
    test, corrected = drawn["test"], drawn["corrected"]
    low, high = drawn["interval"].T
    share = np.mean((low <= test.data[:, 0]) & (test.data[:, 0] <= high))
    assert f"hold {share:.3f} of" in printed
    for name, pt in {"reconstructed": test.target[:, 0], "corrected": corrected}.items():
        counts, true = (np.histogram(p, drawn["edges"])[0] for p in (pt, test.data[:, 0]))
        line = re.search(rf"^Spectrum over the generated one, {name}: (.*)$", printed, re.M)[1]
        ratios, errors = np.array(re.findall(r"([\d.]+) ± ([\d.]+)", line), dtype=float).T
        np.testing.assert_allclose(ratios, counts / true, atol=5.1e-3)
        # Jets that stay where they were do not fluctuate.
        assert np.all(errors < np.sqrt(counts + true) / true)
    assert f"closes to {100 * abs(counts[0] / true[0] - 1):.0f} %" in printed
    # Of the detector, the number is the simulator's own.
    correlation = float(re.search(r"residuals, detector: (-?[\d.]+)", printed)[1])
    own = np.log(test.target[:, 0::3] / test.data[:, 0::3])
    assert correlation == pytest.approx(np.corrcoef(np.exp(own[:, 0]), own[:, 1])[0, 1], abs=6e-4)
    # What the panel does not hold is not moved to its edge, and told.
    (panel,) = (ax for ax in drawn["figure"].axes if ax.get_title().startswith("Correlation"))
    bottom, top = np.transpose([panel.get_xlim(), panel.get_ylim()])
    for name, r in drawn["residual"].items():
        within = np.all((r > bottom) & (r < top), axis=1)
        assert f"beyond the picture, {name}: {100 * np.mean(~within):.1f} %" in printed
        if name == "network":
            assert panel.collections[0].get_array().sum() == within.sum()


def test_jets_come_back_from_what_the_network_learns(jets):
    drawn, _, _ = jets
    test = drawn["test"]
    targets = drawn["compare"](test.target, test.data)[..., None]
    back = drawn["to_jets"](targets, test.data)[..., 0]
    away = back - test.target
    away[:, 2] = (away[:, 2] + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(away).max() < 1e-3 * test.target[:, 0].max()


@pytest.fixture(scope="module")
def optical(tmp_path_factory):
    folder = tmp_path_factory.mktemp("optical")
    return *run("plot_optical_model.py", 1000, folder), folder / "new"


def test_optical_model_pictures_and_numbers(optical):
    drawn, printed, folder = optical
    check_pictures(folder, optical_model_emulated=1800, optical_model_posterior=2160)
    # The axis ends where its labels do.
    assert drawn["left"].get_ylim() == (drawn["ticks"][0], drawn["ticks"][-1])
    test, emulator = drawn["test"], drawn["emulator"]
    emulated, theory = np.exp(emulator.predict(test.data)), np.exp(test.target)
    error = 100 * np.abs(emulated / theory - 1)
    assert f"mean error {error.mean():.2f} %, median {np.median(error):.2f} %" in printed
    for share, name in zip(drawn["contraction"], drawn["runs"].parameter_names, strict=True):
        assert re.search(rf"^{re.escape(name)}: ranks .*; contraction {share:.2f}$", printed, re.M)
    # The verdict counts every test.
    limit = 0.05 / (3 * len(drawn["tests"]))
    odd = sum(
        p < limit
        for result in drawn["tests"]
        for p in (
            result.p_value,
            2 * norm.sf(abs(result.bias_z)),
            2 * norm.sf(abs(result.dispersion_z)),
        )
    )
    assert len(drawn["findings"]) == odd
    assert ("no sign" in printed) == (odd == 0)
    # No draw leaves the range of the prior.
    assert np.all((drawn["posterior"] > drawn["LOW"]) & (drawn["posterior"] < drawn["HIGH"]))


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    return *run("plot_uncertainty_methods.py", 80, folder), folder / "new"


def test_methods_pictures_and_numbers(methods):
    drawn, printed, folder = methods
    check_pictures(folder, uncertainty_methods=1920)
    assert len(drawn["models"]) == 12
    # What the fits warn of is not kept back, and what has not converged not counted.
    warned = list(dict.fromkeys(re.findall(r"^(.*) warns: ", printed, re.M)))
    assert warned == [name for name, messages in drawn["warned"].items() if messages]
    hmc = drawn["models"]["Bayesian network, HMC"]
    assert ("Bayesian network, HMC" in warned) == (hmc.r_hat_ > 1.01 or hmc.ess_ < 100 * 2)
    assert f"Not counted, as not converged: {'; '.join(warned)}" in printed
    counted = [name for name in drawn["models"] if name not in warned]
    for region, (_, y_test) in drawn["tests"].items():
        shares = [drawn["covered"][name, region][1] for name in counted]
        enough = 0.95 - 2 * np.sqrt(0.95 * 0.05 / len(y_test))
        line = re.search(rf"^95 % intervals, {region}: (\d+) of {len(counted)} .*$", printed, re.M)
        assert int(line[1]) == np.sum(np.array(shares) >= enough)
        assert f"from {min(shares):.2f} (" in line[0]
        assert f"to {max(shares):.2f} (" in line[0]
    lines = {line[:30].strip(): line[30:].split() for line in printed.splitlines()[1:]}
    for name, model in drawn["models"].items():
        shown = [float(word) for word in lines[name] if word != "/"][1:]
        found = []
        for X_test, y_test in drawn["tests"].values():
            for level in (0.68, 0.95):
                low, high = model.predict_interval(X_test, level).T
                found.append(np.mean((low <= y_test) & (y_test <= high)))
        np.testing.assert_allclose(shown, found, atol=1.001e-3)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("simulated", [False, True])
def test_masses_pictures_and_numbers(simulated, tmp_path, monkeypatch):
    if simulated:
        # Without the tables, and without a network.
        monkeypatch.setenv("SKNUC_DATA", str(tmp_path / "none"))
        monkeypatch.setenv("SKNUC_HOME", str(tmp_path / "home"))
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
    else:
        try:
            fetch_ws4(download_if_missing=False)
            fetch_ame(2020, download_if_missing=False)
        except OSError:
            pytest.skip("The tables of masses are not there.")
    drawn, printed = run("plot_masses.py", 150, tmp_path)
    check_pictures(tmp_path / "new", masses_chart=1596, masses_isotopes=1596)
    assert ("the masses are simulated" in printed) == simulated
    Z, N, new = drawn["Z"], drawn["N"], drawn["new"]
    std, train, unknown = drawn["std"], drawn["train"], drawn["unknown"]
    assert not np.any(unknown & train)
    if not simulated:
        # Where nothing is known, error bars do not fall with the mass beyond all measured nuclei.
        mass_number = Z + N
        heavier = unknown & (mass_number > mass_number[train].max())
        assert np.count_nonzero(heavier) > 100
        assert np.ptp(std[heavier]) < 0.15 * std[heavier].max()
    error = (drawn["mass"] - drawn["measured"][1])[new]
    assert f"Gaussian process: RMS {np.sqrt(np.mean(error**2)):.3f} MeV" in printed
    if simulated:
        free = Z * drawn["HYDROGEN"] + N * drawn["NEUTRON"]
        expected = free - liquid_drop_binding_energy(Z, N)
        np.testing.assert_allclose(drawn["theory"], expected, rtol=1e-12)
    # The energy that removes two neutrons is a difference of masses.
    tin = drawn["shown"]["tin"]
    masses = drawn["theory"][Z == 50][np.argsort(N[Z == 50])][:, None] + tin["correction"]
    expected = masses[:-2] + 2 * drawn["NEUTRON"] - masses[2:]
    # The insets hold the drip lines, on the scale of the bands; the outline is all of the table.
    for isotopes, panel in zip(drawn["shown"].values(), drawn["axes"][1], strict=True):
        (inset,) = panel.child_axes
        start, end = inset.get_xlim()
        assert np.mean((isotopes["last"] > start) & (isotopes["last"] < end)) >= 0.68
        assert inset.get_ylim() == (-2, 2)
    np.testing.assert_array_equal(np.argwhere(drawn["table"]), np.unique(np.c_[Z, N], axis=0))
    # Each draw ends at an isotope that keeps its neutrons, before one that does not.
    assert np.all(np.isin(tin["last"], tin["N"]))
    assert "Last bound isotope of tin: N = " in printed
    together = np.diff(tin["N"])[:-1] + np.diff(tin["N"])[1:] == 2
    np.testing.assert_allclose(tin["energy"][2:][together], expected[together], atol=1e-9)
