"""Phototube hits to maps: time of flight, conservation, symmetries, layouts, routing, bad input."""

import pickle

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sknuc.datasets import make_scintillator_events
from sknuc.geometry import (
    cell_areas,
    directions,
    equiangular_sphere,
    fibonacci_sphere,
    healpix_sphere,
    random_rotations,
)
from sknuc.preprocessing import PMTHitMap
from sknuc.preprocessing import _hit_map as hit_map_module
from sknuc.preprocessing._hit_map_detector import Pixels
from sknuc.preprocessing._hit_map_kernel import centroid_rows

RADIUS = 850.0
SPEED = 16.95
POSITIONS = RADIUS * fibonacci_sphere(300)
CLOCK = (-20.0, 60.0, 40)


def draw_hits(rng, n_events=30, n_rows=80, dtype=np.float64):
    """Hits anywhere at times that reach beyond the clock, and their vertices."""
    hits = np.zeros((n_events, n_rows, 3))
    hits[..., 0] = rng.integers(0, len(POSITIONS), hits.shape[:2])
    hits[..., 1] = 60.0 + rng.exponential(30.0, hits.shape[:2])
    hits[..., 2] = rng.uniform(0.2, 3.0, hits.shape[:2])
    hits[np.arange(n_rows) >= rng.integers(n_rows // 2, n_rows, n_events)[:, None]] = 0.0
    return hits.astype(dtype), rng.normal(0.0, 80.0, (n_events, 3))


def arrival_times(vertex):
    """Of light that leaves the vertices at once, at all PMTs: (n, n_pmt) in ns."""
    return np.linalg.norm(POSITIONS - vertex[:, np.newaxis], axis=2) / SPEED


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
@pytest.mark.parametrize("t0", ["median", "mean"])
def test_light_of_a_point_source_leaves_at_one_time(dtype, atol, t0):
    rng = np.random.default_rng(0)
    vertex = rng.uniform(-400.0, 400.0, (20, 3))
    time = arrival_times(vertex) + rng.uniform(10.0, 1000.0, (20, 1))
    hits = np.stack(
        [np.broadcast_to(np.arange(300.0), time.shape), time, np.ones_like(time)], axis=2
    )
    step = PMTHitMap(positions=POSITIONS, t0=t0).fit(hits.astype(dtype), vertex=vertex)
    residuals = step.residual_times(hits.astype(dtype), vertex=vertex)
    # The start is unknown: 1000 ns in 32-bit floats are known to 6e-5 ns.
    np.testing.assert_allclose(residuals, 0.0, rtol=0.0, atol=atol)
    # Seen from the wrong place the same light is spread out.
    assert PMTHitMap(positions=POSITIONS).fit(hits).residual_times(hits).std() > 1.0


def test_residuals_are_the_formula():
    hits, vertex = draw_hits(np.random.default_rng(1))
    tubes = hits[..., 0].astype(int)
    flight = np.linalg.norm(POSITIONS[tubes] - vertex[:, np.newaxis], axis=2) / 20.0
    expected = np.where(hits.any(axis=2), hits[..., 1] - flight, np.nan)
    for t0, start in [
        (None, 0.0),
        (35.5, 35.5),
        ("median", np.nanmedian(expected, axis=1, keepdims=True)),
        ("mean", np.nanmean(expected, axis=1, keepdims=True)),
    ]:
        step = PMTHitMap(positions=POSITIONS, light_speed=20.0, t0=t0, bins=(-20.0, 200.0, 9))
        step.fit(hits, vertex=vertex)
        np.testing.assert_allclose(step.residual_times(hits, vertex), expected - start, atol=1e-9)


def test_maps_are_numpys_histograms():
    hits, vertex = draw_hits(np.random.default_rng(2))
    edges = [-20.0, -3.0, 0.0, 1.0, 10.0, 60.0]
    present = hits.any(axis=2)
    for grid, n_pixels in [(None, 300), ((6, 9), 54), (healpix_sphere(2), 48)]:
        for weight, dtype in [("count", np.uint16), ("charge", np.float32)]:
            step = PMTHitMap(positions=POSITIONS, grid=grid, bins=edges, weight=weight)
            maps = step.fit_transform(hits, vertex=vertex)
            assert maps.shape == (30, *step.output_shape_)
            assert maps.dtype == dtype
            residuals = step.residual_times(hits, vertex)
            for i in range(30):
                row = present[i]
                expected, *_ = np.histogram2d(
                    residuals[i, row],
                    step.pixel_of_pmt_[hits[i, row, 0].astype(int)],
                    bins=(edges, np.arange(n_pixels + 1) - 0.5),
                    weights=hits[i, row, 2] if weight == "charge" else None,
                )
                np.testing.assert_allclose(maps[i].reshape(5, -1), expected, rtol=1e-6)


def test_bins_contain_their_lower_edge():
    hits = np.array([[[0, t, 1.0] for t in (1.0, 2.0, 3.0)]])
    step = PMTHitMap(positions=POSITIONS, light_speed=np.inf, t0=None, bins=np.array([1.0, 2, 3]))
    np.testing.assert_array_equal(step.fit_transform(hits)[0, :, 0], [1, 1])
    np.testing.assert_array_equal(step.count_outside(hits), [1])


def test_three_numbers_are_start_stop_and_number_of_bins():
    hits, _ = draw_hits(np.random.default_rng(14), n_events=2)
    for bins in ((-20, 0, 20), [-20, 0, 20], (-20.0, 0.0, np.int64(20))):
        step = PMTHitMap(positions=POSITIONS, bins=bins, outside="clip")
        with pytest.warns(UserWarning, match="outside the bins"):
            step.fit(hits)
        np.testing.assert_allclose(step.edges_, np.arange(-20.0, 1.0), atol=1e-12)
    edges = np.array([-20, 0, 20])
    step = PMTHitMap(positions=POSITIONS, bins=edges).fit(hits)
    np.testing.assert_array_equal(step.edges_, edges)
    with pytest.raises(ValueError, match="three edges of two bins are given as an ndarray"):
        PMTHitMap(positions=POSITIONS, bins=edges.astype(float).tolist()).fit(hits)


def isotropic_light(rng, vertex, n_photons):
    """Where light of an isotropic source crosses the sphere, (n_photons, 3)."""
    u = rng.standard_normal((n_photons, 3))
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    along = u @ vertex
    return vertex + u * (np.sqrt(RADIUS**2 - vertex @ vertex + along**2) - along)[:, np.newaxis]


@pytest.mark.parametrize("coverage", ["even", "dense on one half"])
@pytest.mark.parametrize("vertex", [(0.0, 0.0, 0.0), (0.0, 0.0, 300.0), (350.0, -400.0, 120.0)])
def test_centroid_of_the_light_is_an_unbiased_vertex(coverage, vertex):
    rng = np.random.default_rng(3)
    positions = RADIUS * fibonacci_sphere(3000)
    if coverage != "even":
        positions = positions[(positions[:, 0] > 0) | (np.arange(3000) % 3 == 0)]
    areas = cell_areas(positions)
    # A photon is seen where it meets a photocathode; all are of one size, however far apart.
    tubes = Pixels(positions).find(isotropic_light(rng, np.array(vertex), 400_000))
    seen = tubes[rng.uniform(size=len(tubes)) < areas.min() / areas[tubes]]
    pmt = seen[: len(seen) // 40 * 40].reshape(40, -1)
    found = np.zeros((40, 3))
    centroid_rows(pmt, np.ones(pmt.shape), positions, areas, found)
    error = found.std(axis=0, ddof=1) / np.sqrt(40)
    assert error.max() < 5.0
    # Student's t of 39 degrees of freedom is beyond 4 in 3 of 10,000 experiments.
    assert np.abs((found.mean(axis=0) - vertex) / error).max() < 4.0


@pytest.mark.parametrize("first_hit_only", [False, True])
@pytest.mark.parametrize("removed", ["none", "two thirds on one side"])
def test_centroids_of_simulated_events_are_unbiased(removed, first_hit_only):
    positions = RADIUS * fibonacci_sphere(900)
    if removed != "none":
        positions = positions[(positions[:, 0] > 0) | (np.arange(900) % 3 == 0)]
    n = 400
    # First hits carry the charge of all of them.
    events = make_scintillator_events(
        n, weights=(0, 1), positions=positions, fiducial_radius=400.0, light_yield=32_000.0,
        first_hit_only=first_hit_only, random_state=20,
    )  # fmt: skip
    step = PMTHitMap(positions=positions, vertex="centroid", t0=None, outside="clip", light_speed=1)
    with pytest.warns(UserWarning, match="outside the bins"):
        step.fit(events.data)
    distance = events.data[..., 1] - step.residual_times(events.data)
    # |x - v|² is linear in v and |v|².
    present = np.isfinite(distance)
    pmt = positions[events.data[..., 0].astype(int)]
    rows = np.concatenate([-2 * pmt, np.ones((*present.shape, 1))], axis=2) * present[..., None]
    right = np.where(present, distance**2 - np.sum(pmt**2, axis=2), 0.0)
    found = np.linalg.solve(
        np.einsum("npi,npj->nij", rows, rows), np.einsum("npi,np->ni", rows, right)[..., None]
    )[:, :3, 0]
    error = found - events.truth.vertex
    sigma = error.std(axis=0, ddof=1) / np.sqrt(n)
    assert sigma.max() < 1.0
    assert np.abs(error.mean(axis=0) / sigma).max() < 5
    # Neither pushed outwards nor pulled to the centre.
    along = np.sum(error * events.truth.vertex, axis=1)
    assert abs(along.mean()) < 5 * along.std(ddof=1) / np.sqrt(n)


def test_centroid_is_used_as_the_vertex():
    hits, _ = draw_hits(np.random.default_rng(4))
    tubes = hits[..., 0].astype(int)
    areas = cell_areas(POSITIONS)
    light = hits[..., 2] * areas[tubes]
    mean = np.einsum("np,npk->nk", light, POSITIONS[tubes]) / light.sum(1)[:, None]
    centroid = 1.5 * (mean - areas @ POSITIONS / areas.sum())
    found = PMTHitMap(positions=POSITIONS, vertex="centroid").fit(hits).residual_times(hits)
    given = PMTHitMap(positions=POSITIONS).fit(hits).residual_times(hits, vertex=centroid)
    np.testing.assert_allclose(found, given, atol=1e-9)


def test_the_same_light_in_all_tubes_comes_from_the_centre():
    positions = POSITIONS[(POSITIONS[:, 0] > 0) | (np.arange(300) % 3 == 0)]
    time = np.full((1, len(positions)), 60.0)
    found = PMTHitMap(positions=positions, vertex="centroid").fit(time).residual_times(time)
    np.testing.assert_allclose(found, 0.0, atol=1e-9)


@pytest.mark.parametrize(
    ("grid", "frame"),
    [
        (None, "detector"),
        ((8, 12), "detector"),
        ((8, 12), "vertex"),
        ("healpix", "detector"),
        ("healpix", "vertex"),
    ],
)
def test_every_hit_is_in_the_map_or_counted_outside(grid, frame):
    hits, vertex = draw_hits(np.random.default_rng(5))
    grid = healpix_sphere(2) if grid == "healpix" else grid
    parameters = {"positions": POSITIONS, "grid": grid, "frame": frame, "bins": (-15.0, 30.0, 7)}
    step = PMTHitMap(**parameters).fit(hits, vertex=vertex)
    outside = step.count_outside(hits, vertex=vertex)
    n_hits = hits.any(axis=2).sum(axis=1)
    assert (outside > 0).all()
    maps = step.transform(hits, vertex=vertex)
    np.testing.assert_array_equal(maps.reshape(30, -1).sum(axis=1) + outside, n_hits)
    clipped = clone(step).set_params(outside="clip").fit_transform(hits, vertex=vertex)
    np.testing.assert_array_equal(clipped.reshape(30, -1).sum(axis=1), n_hits)
    np.testing.assert_array_equal(clipped[:, 1:-1], maps[:, 1:-1])
    charge = clone(step).set_params(outside="clip", weight="charge")
    np.testing.assert_allclose(
        charge.fit_transform(hits, vertex=vertex).reshape(30, -1).sum(axis=1, dtype=float),
        hits[..., 2].sum(axis=1),
        rtol=1e-6,
    )


@pytest.mark.parametrize("vertex_from", ["origin", "centroid", "given"])
@pytest.mark.parametrize("weight", ["count", "charge"])
def test_the_order_of_hits_changes_no_bit(vertex_from, weight):
    rng = np.random.default_rng(6)
    hits, vertex = draw_hits(rng, dtype=np.float32)
    given = vertex if vertex_from == "given" else None
    parameters = {} if vertex_from == "given" else {"vertex": vertex_from}
    # Few large cells: many charges add up in each.
    step = PMTHitMap(positions=POSITIONS, grid=(2, 2), bins=(-20.0, 60.0, 3), weight=weight)
    step.set_params(**parameters)
    maps = step.fit_transform(hits, vertex=given)
    shuffled = rng.permuted(np.arange(hits.shape[1])[None].repeat(30, 0), axis=1)
    shuffled = np.take_along_axis(hits, shuffled[..., None], axis=1)
    np.testing.assert_array_equal(step.transform(shuffled, vertex=given), maps)
    assert maps.max() > 5


def test_turning_the_detector_with_its_vertices_changes_nothing():
    rng = np.random.default_rng(7)
    hits, vertex = draw_hits(rng)
    (rotation,) = random_rotations(1, rng)
    step = PMTHitMap(positions=POSITIONS).fit(hits, vertex=vertex)
    turned = PMTHitMap(positions=POSITIONS @ rotation.T).fit(hits, vertex=vertex @ rotation.T)
    np.testing.assert_allclose(
        turned.residual_times(hits, vertex @ rotation.T),
        step.residual_times(hits, vertex),
        atol=1e-9,
    )
    np.testing.assert_array_equal(
        turned.transform(hits, vertex @ rotation.T), step.transform(hits, vertex)
    )


@pytest.mark.parametrize("shape", [(7, 12), (38, 38), (1, 1)])
def test_cells_of_the_grid_are_those_of_the_geometry(shape):
    centres, _ = equiangular_sphere(*shape)
    step = PMTHitMap(positions=RADIUS * centres, grid=shape, t0=0.0, bins=[0.0, 200.0])
    hits = np.stack([np.arange(len(centres)), *np.full((2, len(centres)), 100.0)], axis=1)[:, None]
    maps = step.fit_transform(hits)
    np.testing.assert_array_equal(maps.reshape(len(centres), -1), np.eye(len(centres)))
    np.testing.assert_array_equal(step.directions_, centres)


def test_cells_have_the_areas_of_the_geometry():
    _, areas = equiangular_sphere(4, 6)
    # Points of equal area: a cell holds as many of them as its area says, up to its edge.
    step = PMTHitMap(positions=fibonacci_sphere(100_000), grid=(4, 6)).fit([[[0, 1.0, 1.0]]])
    share = np.bincount(step.pixel_of_pmt_, minlength=24) / 100_000
    np.testing.assert_allclose(share, areas / (4 * np.pi), atol=1e-3)


def test_poles_and_the_seam_belong_to_a_cell():
    theta, phi = [0.0, np.pi, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, -1e-18, 2 * np.pi - 1e-9]
    points = directions(theta, phi)
    step = PMTHitMap(positions=points, grid=(4, 8)).fit(np.ones((1, 1, 3)))
    np.testing.assert_array_equal(step.pixel_of_pmt_[2:], [8, 8, 15])
    np.testing.assert_array_equal(step.pixel_of_pmt_[:2] // 8, [0, 3])


def test_pixels_of_an_array_are_the_nearest():
    pixels = 3.0 * healpix_sphere(4)
    step = PMTHitMap(positions=POSITIONS, grid=pixels).fit(np.ones((1, 1, 3)))
    nearest = (POSITIONS @ pixels.T).argmax(axis=1)
    np.testing.assert_array_equal(step.pixel_of_pmt_, nearest)
    np.testing.assert_allclose(step.directions_, pixels / 3.0, atol=1e-15)
    assert step.output_shape_ == (28, 192)


def test_a_distant_vertex_sees_the_tubes_elsewhere():
    hits = np.stack([np.arange(300.0), *np.ones((2, 300))], axis=1)[None]
    vertex = np.array([[120.0, -300.0, 500.0]])
    step = PMTHitMap(positions=POSITIONS, grid=(9, 11), frame="vertex", t0=None, bins=[-200, 200.0])
    maps = step.fit_transform(hits, vertex=vertex)
    moved = PMTHitMap(positions=POSITIONS - vertex, grid=(9, 11), t0=None, bins=[-200, 200.0])
    np.testing.assert_array_equal(maps, moved.fit_transform(hits))
    assert (
        maps != clone(step).set_params(frame="detector").fit_transform(hits, None, vertex)
    ).any()


def test_all_layouts_give_the_same_map():
    rng = np.random.default_rng(8)
    hits = np.zeros((12, 50, 3), np.float32)
    hits[..., 0] = np.array([rng.permutation(300)[:50] for _ in range(12)])
    hits[..., 1] = 60.0 + rng.exponential(10.0, (12, 50))
    hits[..., 2] = 1.5
    hits[3, 20:] = 0.0
    step = PMTHitMap(positions=POSITIONS)
    maps = step.fit_transform(hits)
    ragged = [event[event.any(axis=1)] for event in hits]
    np.testing.assert_array_equal(clone(step).fit_transform(ragged), maps)
    np.testing.assert_array_equal(step.transform(ragged[:5]), maps[:5])
    as_objects = np.empty(12, object)
    as_objects[:] = ragged
    np.testing.assert_array_equal(step.transform(as_objects), maps)
    np.testing.assert_array_equal(step.transform(np.pad(hits, ((0, 0), (0, 9), (0, 0)))), maps)
    table = clone(step).set_params(input_shape=(50, 3)).fit(hits.reshape(12, -1))
    np.testing.assert_array_equal(table.transform(hits.reshape(12, -1)), maps)
    without_charge = clone(step).fit_transform(hits[..., :2])
    np.testing.assert_array_equal(without_charge, maps)
    other_order = clone(step).set_params(fields=("charge", "pmt", "time"))
    np.testing.assert_array_equal(other_order.fit_transform(hits[..., [2, 0, 1]]), maps)

    readout = np.zeros((12, 300, 2), np.float32)
    for event, row in zip(readout, ragged, strict=True):
        event[row[:, 0].astype(int)] = row[:, 1:]
    np.testing.assert_array_equal(clone(step).fit_transform(readout[..., 0]), maps)
    both = clone(step).set_params(fields=("time", "charge"))
    np.testing.assert_array_equal(both.fit_transform(readout), maps)
    # An idle channel that shows a time is no hit.
    readout[..., 0][readout[..., 1] == 0] = 5.0
    np.testing.assert_array_equal(both.transform(readout), maps)


def test_a_readout_needs_no_positions_for_times_as_they_are():
    times = np.array([[50.0, 0.0, 53.0, 47.0]])
    step = PMTHitMap(bins=[-4.0, -1.0, 1.0, 4.0]).fit(times)
    np.testing.assert_array_equal(
        step.transform(times)[0], [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]
    )
    assert step.directions_ is None


def test_events_without_hits_give_maps_of_zeros():
    hits, _ = draw_hits(np.random.default_rng(9))
    for parameters in ({}, {"vertex": "centroid"}, {"t0": "mean"}, {"weight": "charge"}):
        step = PMTHitMap(positions=POSITIONS, **parameters).fit(hits)
        empty = np.concatenate([hits[:3], np.zeros_like(hits[:1])])
        maps = step.transform(empty)
        assert not maps[3].any()
        np.testing.assert_array_equal(maps[:3], step.transform(hits[:3]))
        assert not step.transform([np.empty((0, 3))] * 2).any()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_counts_too_large_for_their_type_are_refused(dtype):
    n_most = {"uint8": 255, "uint16": 65_535, "float32": 70_000}[dtype]
    wider = {"uint8": "uint16", "uint16": "float32"}.get(dtype)
    step = PMTHitMap(positions=POSITIONS, dtype=dtype)
    hits = np.ones((2, n_most, 3), np.float32)
    hits[0, 1:] = 0.0
    maps = step.fit_transform(hits)
    assert maps.dtype == dtype
    assert maps[1].max() == n_most
    if wider:
        hits = np.ones((2, n_most + 1, 3), np.float32)
        hits[0, 1:] = 0.0
        message = rf"Event 1 has {n_most + 1} hits.*{dtype} holds \({n_most}\).*dtype='{wider}'"
        with pytest.raises(ValueError, match=message):
            step.transform(hits)


def test_hits_outside_the_clock_warn_or_raise():
    hits = np.array([[[0, t, 1.0] for t in (1.0, 2.0, 3.0, 4.0)]])
    step = PMTHitMap(positions=POSITIONS, t0=None, light_speed=np.inf, bins=[0.5, 2.5])
    step.fit(hits)  # Half of the hits.
    step.set_params(bins=[0.5, 1.5])
    with pytest.warns(UserWarning, match=r"3 of 4 hits lie outside .* 0\.5 to 1\.5 ns"):
        step.fit(hits)
    step.set_params(outside="raise", bins=[0.5, 3.5]).fit(hits)
    with pytest.raises(ValueError, match=r"1 of 4 hits lie outside .* 0\.5 to 3\.5 ns"):
        step.transform(hits)
    assert step.transform(hits[:, :3]).sum() == 3


@pytest.mark.parametrize("kind", ["median", "raise"])
def test_fit_transform_is_fit_then_transform_in_one_pass(monkeypatch, kind):
    hits, vertex = draw_hits(np.random.default_rng(15))
    step = PMTHitMap(positions=POSITIONS, bins=(-20.0, -15.0, 5))
    n_passes = []
    run_rows = hit_map_module.run_rows
    monkeypatch.setattr(
        hit_map_module, "run_rows", lambda *args: n_passes.append(1) or run_rows(*args)
    )
    if kind == "raise":
        step.set_params(outside="raise")
        with pytest.raises(ValueError, match="hits lie outside the bins"):
            step.fit_transform(hits, vertex=vertex)
    else:
        with pytest.warns(UserWarning, match="hits lie outside the bins"):
            maps = step.fit_transform(hits, vertex=vertex)
        np.testing.assert_array_equal(step.transform(hits, vertex), maps)
        n_passes.pop()
    assert len(n_passes) == 1


@pytest.mark.parametrize("loss", ["dark hits", "first hits without charge"])
def test_what_is_no_light_pulls_the_centroid_to_the_centre(loss):
    positions = RADIUS * fibonacci_sphere(1879)
    n_photons = 3200 * 0.34 * 0.23 * 2.458
    share, window = 0.2, (-50.0, 250.0)
    dark_hits = share / (1 - share) * n_photons / 1879
    options = {"dark_rate": dark_hits / np.ptp(window) * 1e9, "window": window}
    first_hit_only = loss != "dark hits"
    events = make_scintillator_events(
        1500, weights=(0, 1), positions=positions, first_hit_only=first_hit_only, random_state=21,
        **({} if first_hit_only else options),
    )  # fmt: skip
    pmt = np.where(events.data[..., 2] > 0, events.data[..., 0], -1).astype(np.int64)
    areas, found = cell_areas(positions), np.zeros((1500, 3))
    centroid_rows(pmt, np.ones(pmt.shape), positions, areas, found)

    # What tubes of one size see of a point source: 1/s² and the cosine of the incidence.
    vertex = events.truth.vertex
    away = positions - vertex[:, np.newaxis]
    s = np.linalg.norm(away, axis=2)
    light = np.einsum("npk,pk->np", away, positions / RADIUS) / s**3
    light *= n_photons / light.sum(axis=1, keepdims=True)
    if first_hit_only:
        hits = 1 - np.exp(-light)
    else:
        # Exponential decays, smeared, outlast the window.
        late = [
            f * np.exp((1.5**2 / (2 * tau) - (window[1] - s / SPEED)) / tau)
            for f, tau in zip((0.71, 0.22, 0.07), (3.6, 16.0, 86.0), strict=True)
        ]
        hits = light * (1 - sum(late)) + dark_hits
    light = hits * areas
    expected = 1.5 * (light @ positions) / light.sum(axis=1, keepdims=True)

    pull = np.sum((found - expected) * vertex) / np.sum(vertex**2)
    error = np.sqrt(np.sum(np.sum((found - expected) * vertex, axis=1) ** 2)) / np.sum(vertex**2)
    assert error < 0.01
    assert abs(pull) < 4 * error
    # As the documentation says.
    slope = np.sum(expected * vertex) / np.sum(vertex**2)
    assert slope == pytest.approx(0.84 if first_hit_only else 1 - share, abs=0.01)


@pytest.mark.parametrize("grid", [(4, 8), healpix_sphere(2)])
def test_only_a_hit_at_the_vertex_has_no_direction(grid):
    positions = 850.0 * fibonacci_sphere(50)
    hits = np.array([[[3, 60.0, 1.0], [4, 61.0, 1.0], [0, 0, 0]], np.zeros((3, 3))])
    step = PMTHitMap(positions=positions, grid=grid, frame="vertex", bins=(-50.0, 50.0, 5))
    # The last tube, and the one that rows of padding name, see nothing here.
    for tube in (-1, 0):
        vertex = np.stack([positions[tube], positions[7]])
        maps = step.fit_transform(hits, vertex=vertex).reshape(2, 5, -1)
        np.testing.assert_array_equal(maps.sum(axis=(1, 2)), [2, 0])
        expected = Pixels(grid).find(positions[[3, 4]] - positions[tube])
        np.testing.assert_array_equal(
            maps[0].sum(axis=0), np.bincount(expected, minlength=maps.shape[2])
        )
    with pytest.raises(ValueError, match=r"vertex of event 0, .* cm, is at a PMT with a hit"):
        step.fit_transform(hits, vertex=positions[[4, 7]])
    late = np.concatenate([hits] * 20)
    vertex = np.zeros((40, 3))
    vertex[36] = positions[3]
    with pytest.raises(ValueError, match=r"vertex of event 36, .* cm, is at a PMT with a hit"):
        step.fit_transform(late, vertex=vertex)
    assert step.set_params(frame="detector").fit_transform(late, vertex=vertex).sum() == 40


def test_vertices_are_routed_through_pipelines_and_searches():
    rng = np.random.default_rng(10)
    hits, vertex = draw_hits(rng)
    y = np.arange(30) % 2
    step = PMTHitMap(positions=POSITIONS, grid=(2, 3), bins=(-20.0, 60.0, 6))
    flat = FunctionTransformer(lambda maps: maps.reshape(len(maps), -1).astype(float))
    expected = clone(step).fit_transform(hits, vertex=vertex)
    assert (expected != clone(step).fit_transform(hits)).any()
    with config_context(enable_metadata_routing=True):
        for own in (step, clone(step).set_transform_request(vertex=True)):
            pipe = make_pipeline(own, flat, LogisticRegression()).fit(hits, y, vertex=vertex)
            by_hand = LogisticRegression().fit(expected.reshape(30, -1), y)
            np.testing.assert_array_equal(pipe[-1].coef_, by_hand.coef_)
            found = pipe.predict_proba(hits, vertex=vertex)
            np.testing.assert_array_equal(found, by_hand.predict_proba(expected.reshape(30, -1)))
            with pytest.raises(ValueError, match="vertex must be given"):
                pipe.predict(hits)
        search = GridSearchCV(pipe, {"pmthitmap__t0": ["median", "mean"]}, cv=3)
        search.fit(hits, y, vertex=vertex)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        best = clone(pipe).set_params(**search.best_params_).fit(hits, y, vertex=vertex)
        np.testing.assert_array_equal(best[-1].coef_, search.best_estimator_[-1].coef_)
    pipe = make_pipeline(clone(step), flat, LogisticRegression())
    pipe.fit(hits, y, pmthitmap__vertex=vertex)
    np.testing.assert_array_equal(pipe[-1].coef_, by_hand.coef_)


def test_threads_and_blocks_change_no_bit(monkeypatch):
    hits, vertex = draw_hits(np.random.default_rng(11), n_events=50)
    step = PMTHitMap(positions=POSITIONS, grid=(8, 9)).fit(hits, vertex=vertex)
    maps = step.transform(hits, vertex)
    monkeypatch.setattr("sknuc.preprocessing._kernels._openmp_effective_n_threads", lambda: 3)
    np.testing.assert_array_equal(step.transform(hits, vertex), maps)
    one_by_one = [step.transform(hits[i : i + 1], vertex[i : i + 1])[0] for i in range(50)]
    np.testing.assert_array_equal(one_by_one, maps)


@pytest.mark.parametrize("grid", [None, (8, 9), healpix_sphere(2)], ids=["tubes", "grid", "pixels"])
def test_clones_and_pickles(grid):
    hits, _ = draw_hits(np.random.default_rng(12), dtype=np.float32)
    step = PMTHitMap(positions=POSITIONS, grid=grid, vertex="centroid").fit(hits)
    maps = step.transform(hits)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(step)).transform(hits), maps)
    np.testing.assert_array_equal(clone(step).fit_transform(hits), maps)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 300.0, r"Event 5 has a hit with the PMT id 300; .* from 0 to 299"),
        (0, -1.0, r"Event 5 has a hit with the PMT id -1; "),
        (0, 7.5, r"Event 5 has a hit with the PMT id 7.5; .*integers"),
        (2, 0.0, r"Event 5 has a hit of PMT \d+ at .* ns with the charge 0; "),
        (2, -0.3, r"Event 5 .* with the charge -0.3; charges must be positive"),
        (1, np.nan, "NaN"),
        (1, np.inf, "infinity"),
    ],
)
def test_bad_hits_are_refused(column, value, message):
    hits, _ = draw_hits(np.random.default_rng(13))
    step = PMTHitMap(positions=POSITIONS).fit(hits)
    hits[5, 3, column] = value
    with pytest.raises(ValueError, match=message):
        step.transform(hits)
    with pytest.raises(ValueError, match=message):
        step.fit(hits)


HITS = np.array([[[1, 50.0, 1.0], [2, 51.0, 1.0]]])


@pytest.mark.parametrize(
    ("parameters", "X", "message"),
    [
        ({"positions": POSITIONS[:, :2]}, HITS, r"'positions' .* \(n, 3\).* \(300, 2\)"),
        ({"positions": POSITIONS[0]}, HITS, r"'positions' .* \(n, 3\)"),
        (
            {"positions": np.where(np.arange(300)[:, None] == 4, np.nan, POSITIONS)},
            HITS,
            "in row 4",
        ),
        ({"positions": np.r_[POSITIONS, np.zeros((1, 3))]}, HITS, "none at the origin.*row 300"),
        ({"positions": POSITIONS}, np.ones((2, 299)), "readout of 299 PMTs, but .* has 300"),
        ({"positions": POSITIONS}, np.ones((2, 9, 4)), "Got 4 numbers per hit"),
        ({}, HITS, "'positions' parameter .* for hits by PMT id. Got None"),
        ({"grid": (4, 4)}, np.ones((2, 9)), "'positions' parameter .* for a grid. Got None"),
        ({"vertex": "centroid"}, np.ones((2, 9)), "'positions' .* for vertex='centroid'"),
        ({"grid": (4, 4.5)}, HITS, "'grid' parameter .* positive integers"),
        ({"grid": (4, 4, 4)}, HITS, "'grid' parameter .* positive integers"),
        ({"grid": np.ones((4, 2))}, HITS, r"'grid' parameter .* \(n, 3\)"),
        ({"frame": "vertex"}, HITS, "'frame' parameter .* must be 'detector' without a grid"),
        ({"bins": (0.0, 1.0, 0)}, HITS, "'bins' parameter"),
        ({"bins": (0.0, 1.0, 2.0)}, HITS, "'bins' parameter"),
        ({"bins": (1.0, 0.0, 4)}, HITS, "'bins' parameter"),
        ({"bins": [0.0, 2.0, 2.0]}, HITS, "'bins' parameter"),
        ({"bins": [0.0, np.inf]}, HITS, "'bins' parameter"),
        ({"bins": [0.0]}, HITS, "'bins' parameter"),
        ({"bins": (0.0, 1.0, True)}, HITS, "'bins' parameter"),
        ({"bins": ["a", "b"]}, HITS, "'bins' parameter .* real numbers"),
        ({"bins": [[0.0, 1.0], [2.0]]}, HITS, "'bins' parameter .* real numbers"),
        ({"bins": [0.0, 1j]}, HITS, "'bins' parameter .* real numbers"),
        ({"positions": [["a", "b", "c"]]}, HITS, "'positions' parameter .* real numbers"),
        ({"positions": [[1.0, 0.0, 0.0], [1.0]]}, HITS, "'positions' parameter .* real numbers"),
        ({"grid": [["a", "b", "c"]]}, HITS, "'grid' parameter .* real numbers"),
        ({"grid": [[1.0, 0.0, 0.0], [1.0]]}, HITS, "'grid' parameter .* real numbers"),
        ({"grid": (4, True)}, HITS, "'grid' parameter .* positive integers"),
        ({"fields": [["pmt"], ["time"], ["charge"]]}, HITS, "'fields' parameter"),
        ({"fields": ("pmt", "charge")}, HITS[..., :2], "'fields' parameter"),
        ({"fields": ("pmt", "time", "time")}, HITS, "'fields' parameter"),
        ({"fields": ("time", "charge")}, HITS, "name every number .* 3 numbers per hit"),
        ({"weight": "charge"}, HITS[..., :2], "'weight' parameter .* must be 'count'"),
        ({"weight": "charge", "dtype": "uint8"}, HITS, "'dtype' parameter .* must be 'float32'"),
        ({"t0": "first"}, HITS, "'t0' parameter"),
        ({"light_speed": 0.0}, HITS, "'light_speed' parameter"),
        ({"input_shape": (5, 3)}, np.ones((2, 14)), "'input_shape' parameter"),
    ],
)
def test_what_does_not_fit_is_refused(parameters, X, message):
    if "positions" not in parameters and np.ndim(X) == 3 and parameters:
        parameters = {"positions": POSITIONS, **parameters}
    with pytest.raises(ValueError, match=message):
        PMTHitMap(**parameters).fit(X)


@pytest.mark.parametrize(
    ("vertex", "message"),
    [
        (np.zeros((2, 3)), r"\(1, 3\).* Got \(2, 3\)"),
        (np.zeros((1, 2)), r"\(1, 3\).* Got \(1, 2\)"),
        ([[0.0, np.nan, 0.0]], "vertex contains NaN"),
    ],
)
def test_bad_vertices_are_refused(vertex, message):
    step = PMTHitMap(positions=POSITIONS).fit(HITS)
    for use in (step.transform, step.count_outside, step.residual_times):
        with pytest.raises(ValueError, match=message):
            use(HITS, vertex=vertex)
    with pytest.raises(ValueError, match="where vertex is given"):
        PMTHitMap().fit(np.ones((1, 4)), vertex=np.zeros((1, 3)))


def test_another_detector_is_refused_in_transform():
    step = PMTHitMap().fit(np.ones((3, 8)))
    with pytest.raises(ValueError, match="7 features"):
        step.transform(np.ones((3, 7)))
    step = PMTHitMap(positions=POSITIONS).fit(HITS)
    with pytest.raises(ValueError, match="2 columns"):
        step.transform(HITS[..., :2])
    readout = PMTHitMap(fields=("time", "charge")).fit(np.ones((3, 8, 2)))
    with pytest.raises(ValueError, match="readout of 7 PMTs, but the detector has 8"):
        readout.transform(np.ones((3, 7, 2)))
