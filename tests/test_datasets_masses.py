"""Nuclear masses: tables of a few lines from loopback, known nuclei in the real ones, models."""

import os

import numpy as np
import pytest

from sknuc import datasets
from sknuc.datasets import _masses
from sknuc.datasets._registry import AME, WS4

needs_data = pytest.mark.skipif(
    not os.environ.get("SKNUC_DATA"),
    reason="real data: set SKNUC_DATA to the folder with the local copies",
)

# Heads and some lines of the files.
LINES_2016 = """\
1N-Z    N    Z   A  EL    O     MASS EXCESS       BINDING ENERGY/A        BETA-DECAY ENERGY
                                   (keV)                (keV)               (micro-u)
0  1    1    0    1  n         8071.31713    0.00046      0.0      0.0   B-    782.347    0.000   1 008664.91582    0.00049
  -1    1    2    3 He        14931.21793    0.00021   2572.680    0.000 B- -13736#    2000#      3 016029.32265    0.00022
  -3    0    3    3 Li  -pp   28667#      2000#       -2267#     667#    B-      *                3 030775#      2147#
   0    6    6   12 C             0.0        0.0       7680.144    0.000 B- -17338.068    1.000  12 000000.0        0.0
  44  126   82  208 Pb       -21748.598      1.148     7867.453    0.006 B-  -2878.375    2.013 207 976651.918      1.231
"""  # noqa: E501
LINES_2020 = """\
1 N-Z   N    Z    A  EL    O      MASS EXCESS          BINDING ENERGY/A
                                   (keV)                  (keV)               (micro-u)
0  1    1    0    1  n         8071.31806     0.00044       0.0        0.0     B-    782.3470     0.0004    1 008664.91590     0.00047
  -3    0    3    3 Li  -pp   28667#       2000#        -2267#       667#      B-      *                    3 030775#       2147#
   0    6    6   12 C             0.0         0.0        7680.1446     0.0002  B- -17338.0681     0.9999   12 000000.0         0.0
  44  126   82  208 Pb       -21748.519       1.148      7867.4530     0.0055  B-  -2878.3680     2.0127  207 976652.005       1.232
"""  # noqa: E501
LINES_WS4 = """\
Phys. Lett. B 734 (2014) 215\xa8C219
 ====================================
     A,    Z,      Beta2,      Beta4,      Beta6,       Esh
 ====================================
     26     8     -0.0587     -0.0015      0.0001     -7.3166      0.2704   -168.8637   -168.5065     34.7330     35.0903
     27     8     -0.0330     -0.0003      0.0000     -7.0883      0.0940      0.0000   -166.7023      0.0000     44.9658
"""  # noqa: E501


@pytest.fixture
def served(serve, monkeypatch):
    """The tables, with few lines."""

    def table(name, text):
        return serve(name, text.encode("latin-1"))

    monkeypatch.setitem(_masses.AME, 2016, table("mass2016.txt", LINES_2016))
    monkeypatch.setitem(_masses.AME, 2020, table("mass2020.txt", LINES_2020))
    monkeypatch.setattr(_masses, "WS4", table("WS4.txt", LINES_WS4))


def nucleus(table, Z, A):
    (row,) = np.flatnonzero((table.Z == Z) & (table.A == A))
    columns = {name: values for name, values in table.items() if isinstance(values, np.ndarray)}
    return {name: values[row] for name, values in columns.items() if values.ndim == 1}


def test_every_field_of_the_older_format(served):
    table = datasets.fetch_ame(2016)
    lithium = nucleus(table, 3, 3)
    assert np.isnan(lithium.pop("beta_decay_energy"))
    assert np.isnan(lithium.pop("beta_decay_energy_uncertainty"))
    assert lithium == {
        **{"Z": 3, "N": 0, "A": 3, "symbol": "Li", "origin": "-pp", "target": 28667.0},
        **{"estimated": True, "beta_decay_energy_estimated": False},
        **{"mass_excess": 28667.0, "mass_excess_uncertainty": 2000.0},
        "binding_energy_per_nucleon": -2267.0,
        "binding_energy_per_nucleon_uncertainty": 667.0,
        **{"atomic_mass": 3_030_775.0, "atomic_mass_uncertainty": 2147.0},
    }
    helium = nucleus(table, 2, 3)
    assert (helium["estimated"], helium["beta_decay_energy_estimated"]) == (False, True)
    assert (helium["beta_decay_energy"], helium["beta_decay_energy_uncertainty"]) == (-13736, 2000)
    assert helium["atomic_mass"] == pytest.approx(3_016_029.32265, rel=1e-15)
    assert nucleus(table, 0, 1)["symbol"] == "n"


def test_every_field_of_the_newer_format(served):
    table = datasets.fetch_ame()
    assert nucleus(table, 82, 208) == {
        **{"Z": 82, "N": 126, "A": 208, "symbol": "Pb", "origin": "", "target": -21748.519},
        **{"estimated": False, "beta_decay_energy_estimated": False},
        **{"mass_excess": -21748.519, "mass_excess_uncertainty": 1.148},
        "binding_energy_per_nucleon": 7867.453,
        "binding_energy_per_nucleon_uncertainty": 0.0055,
        **{"beta_decay_energy": -2878.368, "beta_decay_energy_uncertainty": 2.0127},
        **{"atomic_mass": 207_976_652.005, "atomic_mass_uncertainty": 1.232},
    }
    np.testing.assert_array_equal(table.estimated, [False, True, False, False])
    np.testing.assert_array_equal(table.data, [[0, 1], [3, 0], [6, 6], [82, 126]])


@pytest.mark.parametrize("edition", [2016, 2020])
def test_measurements_only(served, edition):
    everything = datasets.fetch_ame(edition)
    measured = datasets.fetch_ame(edition, measured_only=True, as_frame=True)
    assert not measured.estimated.any()
    assert len(measured.data) == np.count_nonzero(~everything.estimated)
    assert set(measured.frame.columns) == set(measured.units) | {
        *("Z", "N", "A", "symbol", "origin", "estimated", "beta_decay_energy_estimated")
    }
    np.testing.assert_array_equal(measured.frame["mass_excess"], measured.target)
    assert measured.DESCR == everything.DESCR


def test_ws4_columns(served):
    table = datasets.fetch_ws4(as_frame=True)
    measured, unknown = nucleus(table, 8, 26), nucleus(table, 8, 27)
    assert measured == {
        **{"Z": 8, "N": 18, "A": 26, "target": 35.0903},
        **{"beta2": -0.0587, "beta4": -0.0015, "beta6": 0.0001},
        **{"shell_energy": -7.3166, "deformation_energy": 0.2704},
        **{"energy_measured": -168.8637, "energy": -168.5065},
        **{"mass_excess_measured": 34.733, "mass_excess": 35.0903},
    }
    assert np.isnan([unknown["energy_measured"], unknown["mass_excess_measured"]]).all()
    assert (unknown["energy"], unknown["mass_excess"]) == (-166.7023, 44.9658)
    assert table.frame.shape == (2, 12)
    np.testing.assert_array_equal(table.data, [[8, 18], [8, 19]])


@pytest.mark.parametrize("fetch", [datasets.fetch_ame, datasets.fetch_ws4])
def test_without_download(served, tmp_path, fetch):
    with pytest.raises(OSError, match="'download_if_missing' is False"):
        fetch(data_home=tmp_path / "new", download_if_missing=False)


def test_unknown_editions():
    with pytest.raises(ValueError, match=r"'edition' parameter.*2016.*Got 2012"):
        datasets.fetch_ame(2012)


def test_the_registry_names_whole_files():
    for remote in (*AME.values(), WS4):
        assert remote.url.startswith("https://")
        assert remote.url.endswith(f"/{remote.name}")
        assert len(remote.checksum) == len("sha256:") + 64


# The real tables.


@needs_data
@pytest.mark.parametrize(
    ("edition", "n_nuclides", "n_measured"), [(2016, 3436, 2498), (2020, 3558, 2550)]
)
def test_known_nuclei(edition, n_nuclides, n_measured):
    table = datasets.fetch_ame(edition)
    assert len(table.data) == n_nuclides
    assert np.count_nonzero(~table.estimated) == n_measured
    assert len(np.unique(table.data, axis=0)) == n_nuclides
    np.testing.assert_array_equal(table.A, table.Z + table.N)
    # The unit of mass is a twelfth of the mass of 12C.
    carbon = nucleus(table, 6, 12)
    assert (carbon["mass_excess"], carbon["mass_excess_uncertainty"]) == (0.0, 0.0)
    assert carbon["atomic_mass"] == 12e6
    # Binding energies as every textbook has them, in MeV.
    for Z, A, energy in [(1, 2, 2.2246), (2, 4, 28.296), (26, 56, 492.26), (82, 208, 1636.43)]:
        found = nucleus(table, Z, A)
        assert A * found["binding_energy_per_nucleon"] / 1000 == pytest.approx(energy, abs=0.006)
        assert not found["estimated"]
    # 62Ni is the most tightly bound nucleus, 56Fe the third behind 58Fe.
    measured = np.flatnonzero(~table.estimated)
    order = measured[np.argsort(table.binding_energy_per_nucleon[measured])[::-1]]
    assert [(table.symbol[i], table.A[i]) for i in order[:3]] == [
        ("Ni", 62),
        ("Fe", 58),
        ("Fe", 56),
    ]
    # The free neutron decays with 782.3 keV, and tritium with 18.6 keV.
    assert nucleus(table, 0, 1)["beta_decay_energy"] == pytest.approx(782.35, abs=0.01)
    assert nucleus(table, 1, 3)["beta_decay_energy"] == pytest.approx(18.59, abs=0.01)


@needs_data
@pytest.mark.parametrize("edition", [2016, 2020])
def test_the_columns_agree_with_one_another(edition):
    table = datasets.fetch_ame(edition)
    measured = ~table.estimated
    hydrogen, neutron = (nucleus(table, Z, 1)["mass_excess"] for Z in (1, 0))
    binding = table.Z * hydrogen + table.N * neutron - table.mass_excess
    rounding = np.where(measured, 0.0006 * table.A, 0.6 * table.A)
    assert np.all(np.abs(binding - table.A * table.binding_energy_per_nucleon) <= rounding)
    # 1 u is 931.494 MeV.
    excess = (table.atomic_mass - 1e6 * table.A) * 0.93149406
    assert np.all(np.abs(excess - table.mass_excess)[measured] < 0.02)
    # Decays lead to nuclides of the table, and take the difference of two masses.
    row = {(Z, N): i for i, (Z, N) in enumerate(zip(table.Z, table.N, strict=True))}
    daughter = np.array(
        [row.get((Z + 1, N - 1), -1) for Z, N in zip(table.Z, table.N, strict=True)]
    )
    np.testing.assert_array_equal(np.isnan(table.beta_decay_energy), daughter < 0)
    known = daughter >= 0
    energy = (table.mass_excess - table.mass_excess[daughter])[known]
    sloppy = table.beta_decay_energy_estimated[known]
    error = np.abs(energy - table.beta_decay_energy[known])
    assert np.all(error <= np.where(sloppy, 1.6, 0.0016))
    # An energy is measured between two measured masses, and in a few cases between two that hang
    # together and are not; never between one that is and one that is not.
    here, there = table.estimated[known], table.estimated[daughter][known]
    assert not sloppy[~here & ~there].any()
    assert sloppy[here ^ there].all()
    assert np.count_nonzero(~sloppy[here & there]) < 10


@needs_data
@pytest.mark.parametrize("edition", [2016, 2020])
def test_no_extrapolation_passes_for_a_measurement(edition, real_data):
    text = (real_data / f"mass{edition}.txt").read_text().splitlines()
    table = datasets.fetch_ame(edition)
    lines = text[-len(table.data) :]
    # Columns up to the binding energy: a # there belongs to the mass itself.
    marked = np.array(["#" in line[:54] for line in lines])
    np.testing.assert_array_equal(table.estimated, marked)


@needs_data
def test_ws4_against_measurements():
    ws4 = datasets.fetch_ws4()
    assert len(ws4.data) == len(np.unique(ws4.data, axis=0)) == 10_237
    assert min(ws4.Z.min(), ws4.N.min()) == 8
    # What the authors give, for the masses that they quote.
    known = ~np.isnan(ws4.mass_excess_measured)
    assert known.sum() == 2353
    deviation = (ws4.mass_excess_measured - ws4.mass_excess)[known]
    assert np.sqrt(np.mean(deviation**2)) == pytest.approx(0.298, abs=0.0005)
    # The two columns are one: mass excess and energy differ by the masses of the nucleons.
    difference = ws4.mass_excess - ws4.energy
    masses, *_ = np.linalg.lstsq(ws4.data, difference)
    np.testing.assert_allclose(masses, [7.289, 8.0713], atol=2e-4)
    np.testing.assert_allclose(difference, ws4.data @ masses, atol=3e-4)

    old, new = (datasets.fetch_ame(edition, measured_only=True) for edition in (2016, 2020))
    before, after = residuals(old, ws4), residuals(new, ws4)
    assert len(before) == 2408
    assert rms(before.values()) == pytest.approx(0.302, abs=0.0005)
    first = [value for nuclide, value in after.items() if nuclide not in before]
    assert len(first) == 71
    assert rms(first) == pytest.approx(0.356, abs=0.0005)


def residuals(ame, ws4):
    """Measured minus calculated mass excess in MeV, of the nuclides in both tables."""
    calculated = dict(zip(map(tuple, ws4.data), ws4.target, strict=True))
    pairs = zip(map(tuple, ame.data), ame.target / 1000, strict=True)
    return {nuclide: m - calculated[nuclide] for nuclide, m in pairs if nuclide in calculated}


def rms(values):
    return np.sqrt(np.mean(np.square(list(values))))


# Models.


@needs_data
def test_the_liquid_drop_follows_the_masses_but_for_closed_shells():
    ame = datasets.fetch_ame(2020, measured_only=True)
    heavy = (ame.Z >= 8) & (ame.N >= 8)
    Z, N = ame.Z[heavy], ame.N[heavy]
    energy = (ame.A * ame.binding_energy_per_nucleon / 1000)[heavy]
    missing = energy - datasets.liquid_drop_binding_energy(Z, N)
    # About 3 MeV of energies up to 1900 MeV; a least-squares fit of the same terms bounds it.
    A = Z + N
    terms = [A, -(A ** (2 / 3)), -Z * (Z - 1) / A ** (1 / 3), -((N - Z) ** 2) / A]
    terms.append(datasets.nuclear_features(Z, N)[:, 0] / np.sqrt(A))
    best, *_ = np.linalg.lstsq(np.column_stack(terms), energy)
    least = rms(energy - np.column_stack(terms) @ best)
    assert least < rms(missing) < 4.0
    # What is missing is missing in doubly magic nuclei above all.
    shells = datasets.nuclear_features(Z, N)[:, 1:3].sum(axis=1)
    assert missing[shells == 0].mean() > missing[shells > 15].mean() + 5


def test_terms_of_the_liquid_drop():
    off = dict.fromkeys(("volume", "surface", "coulomb", "asymmetry", "pairing"), 0.0)
    Z, N = np.array([8, 13, 92, 0]), np.array([19, 14, 146, 1])
    A = Z + N
    expected = {
        "volume": A,
        "surface": -(A ** (2 / 3)),
        "coulomb": -Z * (Z - 1) / A ** (1 / 3),
        "asymmetry": -((A - 2 * Z) ** 2) / A,
        "pairing": [0, 0, 1 / np.sqrt(238), 0],
    }
    for name, term in expected.items():
        found = datasets.liquid_drop_binding_energy(Z, N, **{**off, name: 2.0})
        np.testing.assert_allclose(found, 2 * np.array(term), rtol=1e-14, err_msg=name)
    odd_odd = datasets.liquid_drop_binding_energy(7, 7, **{**off, "pairing": 12.0})
    assert odd_odd == pytest.approx(-12 / np.sqrt(14))
    # Worked by hand for 56Fe: 884.8 - 267.86 - 121.31 - 6.63 + 1.60 MeV.
    assert datasets.liquid_drop_binding_energy(26, 30) == pytest.approx(490.6, abs=0.02)


def test_nuclear_features():
    Z, N = np.meshgrid(np.arange(1, 127), np.arange(0, 200), indexing="ij")
    Z, N = Z.ravel(), N.ravel()
    pairing, protons, neutrons, promiscuity = datasets.nuclear_features(Z, N).T
    np.testing.assert_array_equal(pairing, ((-1.0) ** Z + (-1.0) ** N) / 2)
    magic = np.isin(Z, [2, 8, 20, 28, 50, 82, 126])
    np.testing.assert_array_equal(protons == 0, magic)
    # One proton more is one step towards a closed shell or away from it.
    np.testing.assert_array_equal(np.abs(np.diff(protons.reshape(126, 200), axis=0)), 1)
    assert np.all(promiscuity <= np.minimum(protons, neutrons))
    both = (protons > 0) & (neutrons > 0)
    np.testing.assert_allclose(1 / promiscuity[both], 1 / protons[both] + 1 / neutrons[both])
    np.testing.assert_array_equal(promiscuity[~both], 0)


@pytest.mark.parametrize(
    ("Z", "N", "message"),
    [
        ([-1], [3], r"'Z' parameter of {} must be whole numbers >= 0"),
        ([1.5], [3], r"'Z' parameter of {}"),
        ([1], [np.nan], r"'N' parameter of {}"),
        ([1], ["x"], r"'N' parameter of {}"),
        ([0, 1], [0, 1], r"{} must give at least one nucleon"),
        ([1, 2, 3], [1, 2], r"{} must have the same shape\. Got \(3,\) and \(2,\)"),
    ],
)
@pytest.mark.parametrize("function", ["liquid_drop_binding_energy", "nuclear_features"])
def test_numbers_of_nucleons_are_checked(function, Z, N, message):
    with pytest.raises(ValueError, match=message.format(function)):
        getattr(datasets, function)(Z, N)


def test_features_are_a_table():
    with pytest.raises(ValueError, match=r"must be one-dimensional.*\(2, 1\)"):
        datasets.nuclear_features([[1], [2]], [[1], [2]])
