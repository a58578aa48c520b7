"""The map that is learned without labels: what it prints and draws, recomputed."""

import re
import warnings

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold

pytest.importorskip("matplotlib")
pytest.importorskip("torch")
pytest.importorskip("fcio")
from test_examples import check_pictures, run


@pytest.fixture(scope="module")
def learned(tmp_path_factory, real_data):
    folder = tmp_path_factory.mktemp("learned")
    with warnings.catch_warnings():
        # The package that reads the file may warn of its age.
        warnings.simplefilter("ignore", ResourceWarning)
        return *run("plot_learned_map.py", 300, folder, "--max-epochs", "3"), folder / "new"


def test_map_of_real_pulses(learned):
    drawn, printed, folder = learned
    check_pictures(folder, learned_map=1944)
    assert f"{len(drawn['X'])} of 300 pulses are clean" in printed
    display = drawn["display"]
    assert len(display.axes_) == len(drawn["colors"]) == 3
    # The places are principal components: without correlation, the wider one first.
    covariance = np.cov(display.coordinates.T)
    assert abs(covariance[0, 1]) < 1e-6 * covariance[0, 0]
    assert covariance[0, 0] > covariance[1, 1]
    Z = (drawn["Z"] - drawn["Z"].mean(0)) / drawn["Z"].std()
    for name, values in drawn["colors"].items():
        assert np.isfinite(values).all()
        away = 0.0
        for train, test in KFold(5).split(Z):
            model = RidgeCV(np.logspace(-5, 5, 21)).fit(Z[train], values[train])
            away += ((model.predict(Z[test]) - values[test]) ** 2).sum()
        share = 1 - away / len(Z) / values.var()
        line = re.search(rf"{re.escape(name)}: .* explains (\S+) of", printed)
        assert float(line[1]) == pytest.approx(share, abs=0.00501)


def test_only_clean_pulses_are_shown(learned):
    drawn, _, _ = learned
    table = drawn["table"]
    assert (table[["saturated", "pileup", "no_pulse", "truncated"]] == 0).all(axis=None)
    assert table["energy"].min() > 1500
    # Noise below a hundredth of the pulse.
    assert (table["baseline_noise"] / table["energy"]).median() < 0.01
