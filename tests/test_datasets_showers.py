"""Showers against the laws of their parametrisation, and files in the layout of the challenge."""

import pickle

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import gammainc
from scipy.stats import chi2, kstest, norm

from sknuc.datasets import (
    CylindricalVoxels,
    GridVoxels,
    make_calorimeter_showers,
    read_calochallenge,
)

X0, CRITICAL, Z = 8.90, 9.64, 68.3  # lead tungstate: mm, MeV
MOLIERE = 21.2 * X0 / CRITICAL

# Everything in one direction is in one voxel: what remains is the profile in the other.
DEPTHS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 14.0, 20.0, 100.0)
ALONG = CylindricalVoxels([(0, 1e7)] * 8, [1] * 8, DEPTHS)
WHOLE = {"material": "lead_tungstate", "particle": "electron", "threshold": 0.0}
SIMPLE = {**WHOLE, "constant_term": 0.0, "fluctuate_profile": False}


def simulate(n, **params):
    return make_calorimeter_showers(n, **{**SIMPLE, "random_state": 0, **params})


def profile(energy):
    """Median depth of the maximum and shape of the profile."""
    log_y = np.log(1e3 * energy / CRITICAL)
    return log_y - 0.812, 0.81 + (0.458 + 2.26 / Z) * log_y


def test_energy_is_linear_and_its_resolution_is_the_sampling_term():
    for energy, a in ((2.0, 0.1), (20.0, 0.1), (20.0, 0.25)):
        n = 1500
        showers = simulate(n, energy=energy, sampling_term=a, voxels=ALONG)
        total = showers.truth.deposited / 1e3
        sigma = a * np.sqrt(energy)
        assert abs(total.mean() - energy) < 4 * sigma / np.sqrt(n)
        # The variance of a compound Poisson sum; its own spread is a little more than normal.
        assert_allclose(total.std(), sigma, rtol=4 * 1.1 / np.sqrt(2 * n))


def test_constant_term_dominates_at_high_energies():
    n = 800
    showers = simulate(n, energy=50.0, sampling_term=0.3, constant_term=0.1, voxels=ALONG)
    expected = np.hypot(0.3 / np.sqrt(50), 0.1)
    ratio = showers.truth.deposited / 50e3
    assert_allclose(ratio.std(), expected, rtol=4 / np.sqrt(2 * n))
    assert abs(ratio.mean() - 1) < 4 * expected / np.sqrt(n)


@pytest.mark.parametrize("energy", [1.0, 30.0])
def test_longitudinal_profile_is_the_gamma_distribution(energy):
    a = 0.1
    n = int(6000 / energy)
    showers = simulate(n, energy=energy, sampling_term=a, voxels=ALONG)
    maximum, alpha = profile(energy)
    share = np.diff(gammainc(alpha, (alpha - 1) / maximum * np.array(DEPTHS)))
    mean, total = showers.data.sum(axis=0, dtype=float) / 1e3, n * energy
    # Layers are independent compound Poisson sums: the pull of each is a standard normal.
    pull = (mean - total * share) / np.sqrt(a**2 * total * share)
    assert (pull**2).sum() < chi2.ppf(1 - 1e-4, len(share))


def test_maximum_grows_with_the_logarithm_of_the_energy():
    energy = np.repeat([1.0, 10.0, 100.0], 400)
    depth = np.median(
        make_calorimeter_showers(
            1200, energy=energy, sampling_term=0.9, **WHOLE, voxels=ALONG, random_state=1
        ).truth.maximum.reshape(3, -1),
        axis=1,
    )
    # Error of a median: 1.25 sigma / sqrt(n); the logarithm spreads by 0.2 at most.
    assert_allclose(depth, profile(np.array([1.0, 10.0, 100.0]))[0], rtol=4 * 1.25 * 0.3 / 20)
    assert_allclose(np.diff(depth), np.log(10), rtol=0.15)


def test_fluctuations_of_the_profile_and_their_correlation():
    n, energy = 4000, 30.0
    truth = make_calorimeter_showers(
        n, energy=energy, sampling_term=0.9, **WHOLE, voxels=ALONG, random_state=2
    ).truth
    log_y = np.log(1e3 * energy / CRITICAL)
    maximum, alpha = profile(energy)
    t = (np.log(truth.maximum) - np.log(maximum)) * (-1.4 + 1.26 * log_y)
    a = (np.log(truth.alpha) - np.log(alpha)) * (-0.58 + 0.86 * log_y)
    assert kstest(t, norm.cdf).pvalue > 1e-4
    assert kstest(a, norm.cdf).pvalue > 1e-4
    rho = 0.705 - 0.023 * log_y
    assert abs(np.corrcoef(a, t)[0, 1] - rho) < 4 * (1 - rho**2) / np.sqrt(n)


@pytest.mark.parametrize("material", ["lead_tungstate", "lead_liquid_argon", "lead"])
def test_nine_tenths_of_the_energy_lie_within_a_moliere_radius(material):
    one = make_calorimeter_showers(1, material=material, energy=10.0, random_state=0)
    radii = [0, one.moliere_radius, 2 * one.moliere_radius, 1e7]
    voxels = CylindricalVoxels([radii], [1], (0, 200))
    showers = simulate(60, material=material, energy=10.0, voxels=voxels)
    within = np.cumsum(showers.data.sum(axis=0)) / showers.data.sum()
    # The definition of the radius; twice the radius holds 95 %.
    assert abs(within[0] - 0.90) < 0.03
    assert abs(within[1] - 0.95) < 0.02


def test_radial_profile_is_core_and_tail():
    """At a given depth the cumulative function is a closed form."""
    energy = 20.0
    radii = np.array([0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 1e6]) * MOLIERE
    voxels = CylindricalVoxels([radii] * 2, [1, 1], (6.0, 6.1, 7.0))
    share = simulate(400, energy=energy, voxels=voxels).data[:, :7].sum(axis=0, dtype=float)
    log_e = np.log(energy)
    tau = 6.05 / profile(energy)[0]  # the middle of the layer
    core = 0.0251 + 0.00319 * log_e + (0.1162 - 0.000381 * Z) * tau
    rise = 0.3585 + 0.0421 * log_e
    tail = (0.659 - 0.00309 * Z) * (np.exp(-2.59 * (tau - 0.645)) + np.exp(rise * (tau - 0.645)))
    q = (0.401 + 0.00187 * Z - tau) / (1.313 - 0.0686 * log_e)
    p = (2.632 - 0.00094 * Z) * np.exp(q - np.exp(q))
    r2 = (radii / MOLIERE) ** 2
    cumulative = p * r2 / (r2 + core**2) + (1 - p) * r2 / (r2 + tail**2)
    expected = np.diff(cumulative) * share.sum()
    pull = (share - expected) / np.sqrt(0.1**2 * 1e3 * expected)
    assert (pull**2).sum() < chi2.ppf(1 - 1e-4, len(pull))


def test_an_angle_shears_the_shower_through_the_layers():
    theta = 40.0
    grid = GridVoxels(n_cells=(1, 401), cell_size=4.0, depth_edges=np.linspace(0, 14, 15))
    straight, inclined = (
        simulate(300, energy=20.0, angle=angle, voxels=grid).data.sum(axis=(0, 2), dtype=float)
        for angle in (0.0, theta)
    )
    x = grid.x[:401]

    def median(profile):
        share = np.cumsum(profile, axis=1) / profile.sum(axis=1, keepdims=True)
        return np.array([np.interp(0.5, s, x + 2.0) for s in share])

    middle = np.arange(0.5, 14) * X0
    assert_allclose(median(straight), 0, atol=1.0)
    # From layer to layer the core follows the axis.
    slope = np.polyfit(middle[2:12], median(inclined)[2:12], 1)[0]
    assert_allclose(slope, np.tan(np.deg2rad(theta)), rtol=0.05)
    # Along the axis the shower is the same: in depth it is shorter by the cosine.
    depth = [(layers.sum(axis=1) @ middle) / layers.sum() for layers in (straight, inclined)]
    assert depth[1] < depth[0]


def test_a_shower_is_symmetric_around_its_axis():
    voxels = CylindricalVoxels([(0, 1e6)], [8], (0, 100))
    n, energy = 500, 5.0
    for angle in (0.0, 30.0):
        sectors = simulate(n, energy=energy, angle=angle, voxels=voxels).data.sum(0, dtype=float)
        sigma = np.sqrt(0.1**2 * 1e3 * sectors.mean() * 2)
        # Up and down are alike at any angle; forwards and backwards only when it comes straight.
        assert np.abs(sectors[:4] - sectors[:3:-1]).max() < 4 * sigma
        if angle == 0:
            assert np.abs(sectors - sectors.mean()).max() < 4 * sigma
        else:
            assert sectors[[3, 4]].sum() > 3 * sectors[[0, 7]].sum()


def test_photons_convert_after_nine_sevenths_of_a_radiation_length():
    start = simulate(2000, particle="photon", energy=1.0, sampling_term=0.9).truth.start
    assert kstest(start, "expon", args=(0, 9 / 7)).pvalue > 1e-4
    assert not simulate(5, particle="electron").truth.start.any()


@pytest.mark.parametrize("voxels", ["photon", "grid"])
def test_energy_is_conserved(voxels):
    showers = make_calorimeter_showers(
        150, voxels=voxels, angle=(0.0, 60.0), threshold=3.0, random_state=0
    )
    data = showers.data.reshape(150, -1)
    seen = data.sum(axis=1, dtype=float)
    truth = showers.truth
    assert_allclose(seen + truth.leakage + truth.suppressed, truth.deposited, rtol=1e-6)
    assert truth.leakage.min() >= 0
    assert truth.suppressed.min() >= 0
    # A voxel reads zero, or at least the threshold.
    assert data[data > 0].min() >= 3.0
    assert (data == 0).any()
    assert_allclose(showers.voxels.layer_energies(showers.data).sum(axis=1), seen, rtol=1e-6)


def test_the_bunch():
    showers = make_calorimeter_showers(7, angle=(5.0, 10.0), random_state=0)
    assert (showers.data.dtype, showers.target.dtype) == (np.float32, np.float32)
    assert showers.data.shape == (7, 368)
    assert len(showers.feature_names) == len(set(showers.feature_names)) == 368
    assert_array_equal(np.bincount(showers.voxels.layer), [8, 160, 190, 5, 5])
    energy, angle = showers.target.T
    assert ((energy >= 1) & (energy <= 100) & (angle >= 5) & (angle <= 10)).all()
    X, y = make_calorimeter_showers(7, angle=(5.0, 10.0), random_state=0, return_X_y=True)
    assert_array_equal(X, showers.data)
    assert_array_equal(y, showers.target)
    grid = make_calorimeter_showers(3, voxels="grid", random_state=0)
    assert grid.data.shape == (3, *grid.voxels.shape)
    assert pickle.loads(pickle.dumps(showers.voxels)) == showers.voxels


def test_given_energies_and_distributions():
    given = np.linspace(2.0, 5.0, 4)
    showers = make_calorimeter_showers(4, energy=given, angle=[0, 1, 2, 3], random_state=0)
    assert_allclose(showers.target, np.column_stack([given, np.arange(4)]))
    cheap = {"sampling_term": 0.9, "random_state": 3}
    energy = make_calorimeter_showers(3000, **cheap).target[:, 0]
    assert kstest(np.log(energy) / np.log(100), "uniform").pvalue > 1e-4
    energy = make_calorimeter_showers(3000, energy_distribution="uniform", **cheap).target[:, 0]
    assert kstest((energy - 1) / 99, "uniform").pvalue > 1e-4


def test_same_seed_same_showers_whatever_the_threads():
    kwargs = {"energy": (1.0, 20.0), "angle": (0.0, 20.0), "random_state": 5}
    one = make_calorimeter_showers(150, **kwargs)
    two = make_calorimeter_showers(150, **kwargs, n_jobs=2)
    assert_array_equal(one.data, two.data)
    other = make_calorimeter_showers(150, **{**kwargs, "random_state": 6})
    assert not np.array_equal(one.target, other.target)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"energy": 0.01}, "'energy' parameter .* Got 0.01"),
        ({"energy": (10.0, 5.0)}, "'energy' parameter"),
        ({"energy": [1.0, np.nan]}, "'energy' parameter"),
        ({"angle": 80.0}, "'angle' parameter"),
        ({"material": "water"}, "'material' parameter .* Got 'water'"),
        ({"material": (82.0, -5.0, 7.0)}, "'material' parameter"),
        ({"voxels": CylindricalVoxels([(0, 1)], [1])}, "'depth_edges'"),
        ({"sampling_term": 0.0}, "'sampling_term' parameter"),
        ({"n_samples": 0}, "'n_samples' parameter"),
    ],
)
def test_bad_parameters(params, match):
    with pytest.raises(ValueError, match=match):
        make_calorimeter_showers(**{"n_samples": 2, **params})


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CylindricalVoxels([(1, 2)], [1]), "'r_edges'"),
        (lambda: CylindricalVoxels([(0, 2, 1)], [1]), "'r_edges'"),
        (lambda: CylindricalVoxels([], []), "'r_edges'"),
        (lambda: CylindricalVoxels([0, 1], [1]), "'r_edges'"),
        (lambda: CylindricalVoxels([("a", "b")], [1]), "'r_edges'"),
        (lambda: CylindricalVoxels([(0, 1)], [1, 2]), "'n_alpha'"),
        (lambda: CylindricalVoxels([(0, 1)], [1.5]), "'n_alpha'"),
        (lambda: CylindricalVoxels([(0, 1)], [np.nan]), "'n_alpha'"),
        (lambda: CylindricalVoxels([(0, 1)], 1), "'n_alpha'"),
        (lambda: CylindricalVoxels([(0, 1)], [1], 5), "'depth_edges'"),
        (lambda: CylindricalVoxels([(0, 1)], [1], (0, 1, 2)), "'depth_edges'"),
        (lambda: GridVoxels(depth_edges=(3, 2)), "'depth_edges'"),
        (lambda: GridVoxels(depth_edges="ab"), "'depth_edges'"),
        (lambda: GridVoxels(n_cells=0), "'n_cells'"),
        (lambda: GridVoxels(n_cells=[3, 4, 5]), "'n_cells'"),
        (lambda: GridVoxels(n_cells="34"), "'n_cells'"),
        (lambda: GridVoxels(n_cells=np.inf), "'n_cells'"),
        (lambda: GridVoxels(n_cells=None), "'n_cells'"),
        (lambda: GridVoxels(cell_size="4"), "'cell_size'"),
        (lambda: GridVoxels(cell_size=0.0), "'cell_size'"),
        (lambda: GridVoxels().layer_energies(np.zeros((2, 3))), "2560 voxels"),
    ],
)
def test_bad_voxels(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_cells_in_a_list_are_those_in_a_tuple():
    voxels = GridVoxels(n_cells=[3, 4])
    assert voxels == GridVoxels(n_cells=(3, 4))
    assert voxels.shape == (10, 3, 4)
    assert CylindricalVoxels(np.array([[0, 1]]), np.array([2])) == CylindricalVoxels([(0, 1)], [2])


@pytest.mark.parametrize(
    "voxels",
    [
        GridVoxels(n_cells=(3, 5), cell_size=2.0, depth_edges=(0, 1, 4)),
        CylindricalVoxels([(0, 1, 3), (0, 2), (0, 1, 2, 4)], [6, 1, 3], (0, 1, 2, 5)),
    ],
)
def test_the_middle_of_a_voxel_is_in_the_voxel(voxels):
    depth = np.add(voxels.depth_edges[1:], voxels.depth_edges[:-1])[voxels.layer] / 2
    assert_array_equal(voxels.find(voxels.x, voxels.y, depth), np.arange(voxels.n_voxels))
    far, before = np.array([1e3]), np.array([-0.1])
    assert voxels.find(far, np.zeros(1), np.array([0.5])) == -1
    assert voxels.find(np.zeros(1), np.zeros(1), before) == -1
    assert voxels.find(np.zeros(1), np.zeros(1), np.array([9.0])) == -1


# The layout of the challenge.

BINNING = """<Bins>
  <Bin pid="22" name="photon">
    <Layer id="0" r_edges="0,5,10" n_bin_alpha="1"/>
    <Layer id="1" r_edges="0,2,4,9" n_bin_alpha="4"/>
    <Layer id="2" r_edges="0" n_bin_alpha="1"/>
    <Layer id="12" r_edges="0,100" n_bin_alpha="1"/>
  </Bin>
</Bins>"""


def write(path, n=20, n_voxels=15, seed=0, **columns):
    rng = np.random.default_rng(seed)
    showers = rng.exponential(size=(n, n_voxels))
    energies = 2.0 ** rng.integers(8, 22, (n, 1))
    columns = {"showers": showers, "incident_energies": energies, **columns}
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            if values is not None:
                file.create_dataset(name, data=values, compression="gzip")
    return showers, energies


def test_read_calochallenge(tmp_path):
    showers, energies = write(tmp_path / "a.hdf5")
    more, more_energies = write(tmp_path / "b.hdf5", n=5, seed=1)
    (tmp_path / "binning.xml").write_text(BINNING)
    events = read_calochallenge(tmp_path / "a.hdf5", binning=tmp_path / "binning.xml")
    assert_array_equal(events.data[:], showers)
    assert_array_equal(events.target, energies)
    assert events.units == {"data": "MeV", "incident_energy": "MeV"}
    assert events.layer_ids == [0, 1, 12]
    assert_array_equal(np.bincount(events.voxels.layer), [2, 12, 1])
    # Rings first, then sectors, then layers.
    assert_allclose(events.voxels.r[2:8], [1, 3, 6.5, 1, 3, 6.5])
    assert_allclose(events.voxels.alpha[2:8], np.pi * np.repeat([-0.75, -0.25], 3))
    assert_allclose(events.voxels.layer_energies(showers)[:, 0], showers[:, :2].sum(axis=1))

    both = read_calochallenge([tmp_path / "a.hdf5", tmp_path / "b.hdf5"], start=15, stop=23)
    assert both.voxels is None
    assert_array_equal(both.data[:], np.vstack([showers, more])[15:23])
    assert_array_equal(both.target, np.vstack([energies, more_energies])[15:23])
    last = read_calochallenge([tmp_path / "a.hdf5", tmp_path / "b.hdf5"], start=21)
    assert_array_equal(last.data[:], more[1:])


def test_a_simulation_in_the_layout_comes_back(tmp_path):
    made = make_calorimeter_showers(6, random_state=0)
    energies = 1e3 * made.target[:, :1]
    write(tmp_path / "made.hdf5", showers=made.data, incident_energies=energies)
    events = read_calochallenge(tmp_path / "made.hdf5", binning=made.voxels)
    assert_array_equal(events.data[:], made.data)
    assert_allclose(events.target, energies)
    assert events.voxels == made.voxels


@pytest.mark.parametrize(
    ("columns", "error", "match"),
    [
        ({"showers": None}, KeyError, "no 'showers'"),
        ({"incident_energies": None}, KeyError, "no 'incident_energies'"),
        ({"showers": np.zeros(20)}, ValueError, "n_events, n_voxels"),
        ({"incident_energies": np.ones((3, 1))}, ValueError, "20 showers"),
        ({"incident_energies": np.ones((20, 2))}, ValueError, "20 showers"),
        ({"incident_energies": np.zeros((20, 1))}, ValueError, "positive and finite"),
        ({"showers": np.full((20, 15), b"a")}, ValueError, "array of numbers"),
    ],
)
def test_files_that_do_not_fit(tmp_path, columns, error, match):
    write(tmp_path / "a.hdf5", **columns)
    with pytest.raises(error, match=match):
        read_calochallenge(tmp_path / "a.hdf5")


@pytest.mark.parametrize("bad", [-1e-3, np.nan, np.inf])
def test_voxels_that_are_no_energies_are_refused_when_they_are_read(tmp_path, bad):
    showers = np.ones((20, 15))
    showers[7, 3] = bad
    write(tmp_path / "a.hdf5")
    write(tmp_path / "b.hdf5", showers=showers)
    rows = read_calochallenge([tmp_path / "a.hdf5", tmp_path / "b.hdf5"], start=2).data
    # Shower 7 of the second file is row 25 of both from the third one on.
    for key in (slice(None), 25, slice(1, None, 6), slice(None, None, -1), [30, 25]):
        with pytest.raises(ValueError, match=rf"b\.hdf5.*is {bad} in voxel 3 of shower 7\."):
            rows[key]
    assert np.all(rows[18:25] >= 0)
    assert_array_equal(rows[26:], np.ones((12, 15)))


def test_files_and_binnings_that_do_not_fit_each_other(tmp_path):
    a, b, xml = tmp_path / "a.hdf5", tmp_path / "b.hdf5", tmp_path / "binning.xml"
    write(a)
    write(b, n_voxels=16)
    xml.write_text(BINNING)
    with pytest.raises(ValueError, match="15, 16"):
        read_calochallenge([a, b])
    with pytest.raises(ValueError, match="has 15 voxels, but the showers in b"):
        read_calochallenge(b, binning=xml)
    with pytest.raises(ValueError, match=r"one of \['photon'\].*Got 'pion'"):
        read_calochallenge(a, binning=xml, particle="pion")
    with pytest.raises(ValueError, match="<= 20"):
        read_calochallenge(a, stop=21)
    with pytest.raises(ValueError, match="one file at least"):
        read_calochallenge([])
    with pytest.raises(FileNotFoundError, match="no file"):
        read_calochallenge(tmp_path / "c.hdf5")
    xml.write_text("<Bins><Bin")
    with pytest.raises(ValueError, match="no XML"):
        read_calochallenge(a, binning=xml)
    xml.write_text(BINNING.replace("n_bin_alpha", "n"))
    with pytest.raises(ValueError, match="each Layer must have"):
        read_calochallenge(a, binning=xml)
