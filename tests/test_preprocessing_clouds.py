"""Clouds of points: choosing, filling up, projecting."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline

from sknuc.preprocessing import PointCloudSampler, TPCProjector
from sknuc.preprocessing._ragged import pad_clouds, validate_clouds

METHODS = ["random", "farthest", "charge"]


def ragged_clouds(lengths=(40, 7, 0, 300, 12), n_columns=4, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    clouds = [rng.normal(scale=50.0, size=(n, n_columns)).astype(dtype) for n in lengths]
    for cloud in clouds:
        cloud[:, -1] = rng.exponential(100.0, len(cloud)) + 1
    return clouds


def as_objects(clouds):
    return np.fromiter(clouds, dtype=object, count=len(clouds))


def rows(cloud):
    """The points of a cloud as a set."""
    return {tuple(point) for point in cloud if point.any()}


class Reader(BaseEstimator):
    def __init__(self, input_shape=None):
        self.input_shape = input_shape


# --- the three forms of clouds


def test_all_forms_of_clouds_read_alike():
    clouds = ragged_clouds()
    padded = pad_clouds(clouds)
    reader = Reader()
    expected, present = validate_clouds(reader, padded, reset=True)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(present.sum(axis=1), [40, 7, 0, 300, 12])
    assert reader.input_shape_ == (300, 4)
    assert reader.n_features_in_ == 1200
    for form in (clouds, tuple(clouds), as_objects(clouds), padded.reshape(5, -1)):
        read, there = validate_clouds(reader, form, reset=False)
        np.testing.assert_array_equal(read, expected)
        np.testing.assert_array_equal(there, present)
    table = Reader(input_shape=(300, 4))
    np.testing.assert_array_equal(
        validate_clouds(table, padded.reshape(5, -1), reset=True)[0], expected
    )
    np.testing.assert_array_equal(validate_clouds(table, clouds, reset=True)[0], expected)


def test_a_table_without_a_shape_is_one_point_per_event():
    X = np.arange(12.0).reshape(4, 3)
    read, present = validate_clouds(Reader(), X, reset=True)
    np.testing.assert_array_equal(read, X[:, None])
    assert present.all()


@pytest.mark.parametrize("empty", [[], (), np.empty(0), np.zeros((0, 4))])
def test_events_without_points_may_come_first(empty):
    clouds = [empty, empty, *ragged_clouds((3, 0, 5)), empty]
    for form in (clouds, as_objects(clouds)):
        read, present = validate_clouds(Reader(), form, reset=True)
        assert read.shape == (6, 5, 4)
        np.testing.assert_array_equal(present.sum(axis=1), [0, 0, 3, 0, 5, 0])
        np.testing.assert_array_equal(read[4], clouds[4])
    as_float32 = [np.zeros((0, 4), np.float32), *clouds[2:5]]
    assert validate_clouds(Reader(), as_float32, reset=True)[0].dtype == np.float32


@pytest.mark.parametrize("form", [list, pad_clouds, as_objects])
def test_complex_clouds_are_refused(form):
    clouds = form(ragged_clouds((4, 2)))
    change = clouds + 1j if form is pad_clouds else form([cloud + 1j for cloud in clouds])
    with pytest.raises(ValueError, match="Complex data not supported"):
        validate_clouds(Reader(), change, reset=True)


def test_only_the_columns_are_compared_with_the_fit():
    reader = Reader()
    validate_clouds(reader, ragged_clouds(), reset=True)
    assert validate_clouds(reader, ragged_clouds((900,)), reset=False)[0].shape == (1, 900, 4)
    assert validate_clouds(reader, np.ones((2, 3, 4)), reset=False)[0].shape == (2, 3, 4)
    assert validate_clouds(reader, [np.zeros((0, 4))], reset=False)[1].shape == (1, 0)
    with pytest.raises(ValueError, match="points of 3 columns, but Reader was fitted on points of"):
        validate_clouds(reader, ragged_clouds(n_columns=3), reset=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clouds: [*clouds[:2], clouds[2][:, :3]], r"\(40, 4\) for event 0 and \(0, 3\)"),
        (lambda clouds: [*clouds[:2], clouds[0][0]], r"\(40, 4\) for event 0 and \(4,\)"),
        (lambda clouds: [np.where(clouds[0] > 90, np.nan, clouds[0])], "contains NaN"),
        (lambda clouds: [np.where(clouds[0] > 90, np.inf, clouds[0])], "contains infinity"),
        (lambda clouds: pad_clouds(clouds)[:, None], r"events of shape \(1, 300, 4\)"),
    ],
)
@pytest.mark.parametrize("reset", [True, False])
def test_clouds_that_are_none_are_refused(change, message, reset):
    clouds = ragged_clouds()
    reader = Reader()
    validate_clouds(reader, clouds, reset=True)
    with pytest.raises(ValueError, match=message):
        validate_clouds(reader, change(clouds), reset=reset)


# --- clouds of one size


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_points", [1, 12, 40, 500])
def test_samples_are_points_of_the_event_none_twice(method, n_points):
    clouds = ragged_clouds()
    sampler = PointCloudSampler(n_points=n_points, method=method, random_state=0)
    sampled = sampler.fit_transform(clouds)
    assert sampled.shape == (5, n_points, 4)
    assert sampled.dtype == np.float32
    for cloud, sample in zip(clouds, sampled, strict=True):
        n = min(len(cloud), n_points)
        assert rows(sample) <= rows(cloud)
        assert len(rows(sample)) == n
        assert not sample[n:].any()
        if len(cloud) <= n_points:
            np.testing.assert_array_equal(sample[:n], cloud)


@pytest.mark.parametrize("method", METHODS)
def test_an_event_gives_the_same_points_in_any_company_padding_and_order(method):
    clouds = ragged_clouds((300, 80, 120, 90))
    sampler = PointCloudSampler(n_points=50, method=method, random_state=1).fit(clouds)
    sampled = sampler.transform(clouds)
    np.testing.assert_array_equal(sampler.transform(clouds[1:2]), sampled[1:2])
    np.testing.assert_array_equal(sampler.transform(pad_clouds(clouds, 700)), sampled)
    np.testing.assert_array_equal(sampler.transform(pad_clouds(clouds).astype(np.float64)), sampled)
    rng = np.random.default_rng(0)
    mixed = pad_clouds(clouds, 400)
    mixed = np.stack([rng.permutation(cloud) for cloud in mixed])
    for a, b in zip(sampler.transform(mixed), sampled, strict=True):
        assert rows(a) == rows(b)


def test_random_choice_is_uniform_and_independent_between_events_and_seeds():
    # 4,000 events share the same 20 points but for one that tells them apart: which of the shared
    # points are chosen must be uniform, and uncorrelated as in draws without replacement.
    n_events, n, k = 4000, 20, 5
    cloud = np.column_stack([np.arange(n), np.zeros(n), np.zeros(n), np.ones(n)])
    clouds = np.repeat(cloud[None], n_events, axis=0)
    clouds[:, 0, 0] = 1000 + np.arange(n_events)

    def chosen(seed):
        sampled = PointCloudSampler(n_points=k, random_state=seed).fit_transform(clouds)
        hits = (sampled[:, :, :1] == np.arange(1, n)) & (sampled[:, :, 3:] > 0)
        return hits.any(axis=1)

    first, second = chosen(0), chosen(1)
    p = k / n
    # Binomial errors; five standard deviations over 19 + 171 comparisons.
    for choice in (first, second):
        assert np.all(np.abs(choice.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / n_events))
        correlation = np.corrcoef(choice.T)[np.triu_indices(n - 1, 1)]
        assert np.all(np.abs(correlation + 1 / (n - 1)) < 5 / np.sqrt(n_events))
    agreement = (first & second).mean(axis=0)
    assert np.all(np.abs(agreement - p**2) < 5 * np.sqrt(p**2 * (1 - p**2) / n_events))


def test_highest_charges_are_chosen():
    clouds = ragged_clouds((300, 60))
    sampled = PointCloudSampler(n_points=20, method="charge").fit_transform(clouds)
    for cloud, sample in zip(clouds, sampled, strict=True):
        np.testing.assert_array_equal(np.sort(sample[:, 3]), np.sort(cloud[:, 3])[-20:])


def farthest_points(points, n):
    """Oracle, straight from the definition."""
    chosen = [int(np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    while len(chosen) < n:
        distances = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(axis=1)
        chosen.append(int(np.argmax(distances)))
    return chosen


def test_farthest_points_follow_the_definition_and_ignore_the_charge():
    clouds = ragged_clouds((150, 90), dtype=np.float64)
    sampler = PointCloudSampler(n_points=30, method="farthest").fit(clouds)
    sampled = sampler.transform(clouds)
    for cloud, sample in zip(clouds, sampled, strict=True):
        np.testing.assert_array_equal(sample, cloud[sorted(farthest_points(cloud[:, :3], 30))])
    other = [cloud * [1, 1, 1, 7] for cloud in clouds]
    np.testing.assert_array_equal(sampler.transform(other), sampled * [1, 1, 1, 7])


def test_repeated_points_go_round():
    clouds = ragged_clouds((3, 0, 30))
    sampled = PointCloudSampler(n_points=8, fill="repeat", random_state=0).fit_transform(clouds)
    np.testing.assert_array_equal(sampled[0], clouds[0][np.arange(8) % 3])
    assert not sampled[1].any()
    assert len(rows(sampled[2])) == 8


def test_charge_needs_a_column():
    X = np.ones((2, 3, 3))
    with pytest.raises(ValueError, match="must be a column for method='charge'"):
        PointCloudSampler(method="charge").fit(X)
    with pytest.raises(ValueError, match="must be a column of points with 3 columns"):
        PointCloudSampler(charge=3).fit(X)
    assert PointCloudSampler(charge=-1, method="charge").fit(X).charge_ == 2
    with pytest.raises(ValueError, match="needs a column besides the charge"):
        PointCloudSampler(charge=0, method="farthest").fit(X[:, :, :1])


# --- images and voxels

RANGES = [(-100.0, 120.0), (-90.0, 100.0), (-110.0, 100.0)]


def histograms(cloud, bins, planes, weights):
    return np.stack(
        [
            np.histogramdd(
                cloud[:, list(plane)],
                bins=bins,
                range=[RANGES[k] for k in plane],
                weights=weights,
            )[0]
            for plane in planes
        ]
    )


def inside(cloud):
    low, high = np.array(RANGES).T
    return ((cloud[:, :3] >= low) & (cloud[:, :3] <= high)).all(axis=1)


@pytest.mark.parametrize(
    ("bins", "planes", "expected"),
    [
        ((16, 9), None, [(0, 1), (2, 0), (2, 1)]),
        ((5, 6), [(2, 1)], [(2, 1)]),
        ((4, 5, 6), None, [(0, 1, 2)]),
        ((4, 5, 6), [(2, 0, 1), (0, 1, 2)], [(2, 0, 1), (0, 1, 2)]),
    ],
)
def test_images_are_histograms_and_conserve_charge(bins, planes, expected):
    clouds = ragged_clouds(dtype=np.float64)
    projector = TPCProjector(bins=bins, planes=planes, ranges=RANGES).fit(clouds)
    images = projector.transform(clouds)
    counts = TPCProjector(bins=bins, planes=planes, ranges=RANGES, statistic="count")
    numbers = counts.fit_transform(clouds)
    assert images.shape == (5, *projector.output_shape_) == (5, len(expected), *bins)
    # A point that is outside in a coordinate that a plane uses is in none of the planes.
    used = sorted({k for plane in expected for k in plane})
    n_outside = projector.count_outside(clouds)
    for i, cloud in enumerate(clouds):
        low, high = np.array(RANGES)[used].T
        keep = ((cloud[:, used] >= low) & (cloud[:, used] <= high)).all(axis=1)
        cloud, n = cloud[keep], len(cloud)
        assert n_outside[i] == n - len(cloud)
        np.testing.assert_allclose(
            images[i], histograms(cloud, bins, expected, cloud[:, 3]), rtol=1e-12
        )
        np.testing.assert_array_equal(numbers[i], histograms(cloud, bins, expected, None))
        total = images[i].reshape(len(expected), -1).sum(axis=1)
        np.testing.assert_allclose(total, cloud[:, 3].sum(), rtol=1e-12)
    assert n_outside.sum() > 0


def test_learnt_ranges_hold_every_point_of_the_fit():
    clouds = ragged_clouds()
    projector = TPCProjector(bins=(7, 7), statistic="count").fit(clouds)
    points = np.concatenate(clouds)
    np.testing.assert_array_equal(
        projector.ranges_, np.stack([points.min(axis=0), points.max(axis=0)], axis=1)[:3]
    )
    assert not projector.count_outside(clouds).any()
    images = projector.transform(clouds)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images.sum(axis=(2, 3)), np.outer([40, 7, 0, 300, 12], [1] * 3))


@pytest.mark.parametrize("statistic", ["sum", "count", "max"])
def test_images_do_not_depend_on_form_order_padding_or_company(statistic):
    # Some hundred points of very different charges in each of few pixels.
    clouds = ragged_clouds((2000, 7, 0, 3000, 12))
    for cloud in clouds:
        cloud[:, 3] **= 1.5
    projector = TPCProjector(bins=(3, 3), statistic=statistic).fit(clouds)
    images = projector.transform(clouds)
    assert images.dtype == np.float32
    rng = np.random.default_rng(1)
    for _ in range(5):
        mixed = [rng.permutation(cloud) for cloud in clouds]
        np.testing.assert_array_equal(projector.transform(mixed), images)
    np.testing.assert_array_equal(projector.transform(pad_clouds(clouds, 333)), images)
    np.testing.assert_array_equal(projector.transform([c[::-1] for c in clouds]), images)
    np.testing.assert_array_equal(projector.transform(clouds[3:4]), images[3:4])


def test_maximum_and_logarithm():
    X = np.array([[[0.0, 0, 0, 3], [0, 0, 0, 5], [1, 1, 1, -2]]])
    shared = {"bins": (2, 2), "ranges": [(0, 1)] * 3}
    np.testing.assert_array_equal(
        TPCProjector(statistic="max", **shared).fit_transform(X)[0, 0], [[5, 0], [0, -2]]
    )
    X[0, 2, 3] = 2
    image = TPCProjector(log=True, **shared).fit_transform(X)[0, 0]
    np.testing.assert_allclose(image, [[np.log(9), 0], [0, np.log(3)]])
    X[0, 2, 3] = -1
    with pytest.raises(ValueError, match="cannot take the logarithm"):
        TPCProjector(log=True, **shared).fit_transform(X)


def test_charge_column_and_number_of_coordinates():
    X = np.array([[[1.0, 0.0, 2.0], [3.0, 1.0, 1.0]]])
    assert TPCProjector().fit(X).planes_ == [(0, 1), (2, 0), (2, 1)]
    projector = TPCProjector(bins=(2, 2), charge=0).fit(X)
    assert (projector.charge_, projector.coordinates_) == (0, [1, 2])
    np.testing.assert_array_equal(projector.transform(X), [[[[0, 1], [3, 0]]]])
    assert TPCProjector(charge=None).fit(np.ones((1, 2, 5))).coordinates_ == [0, 1, 2, 3, 4]


def test_ranges_in_the_wrong_unit_are_told():
    clouds = ragged_clouds((400, 300))
    points = np.concatenate(clouds)
    ranges = np.stack([points.min(axis=0), points.max(axis=0)], axis=1)[:3]
    learnt = TPCProjector().fit(clouds)
    in_cm = TPCProjector(ranges=ranges / 10)
    low, high = ranges.T / 10
    n_lost = np.count_nonzero(((points[:, :3] < low) | (points[:, :3] > high)).any(axis=1))
    message = f"^{n_lost} of 700 points lie outside the ranges of TPCProjector"
    with pytest.warns(UserWarning, match=message):
        in_cm.fit(clouds)
    with pytest.warns(UserWarning, match=message):
        in_cm.transform(clouds)
    # Learnt ranges hold the points that they were learnt from, and not those of another detector.
    with pytest.warns(UserWarning, match="^700 of 700 points"):
        learnt.transform([cloud + 1e4 for cloud in clouds])
    # Half of them is not more than half: no warning, which would be an error here.
    x = np.column_stack([np.arange(4.0) + 1, np.ones((4, 3))])[np.newaxis]
    half = TPCProjector(bins=(2, 2), planes=[(0, 1)], ranges=[(0, 2.5), (0, 2), (0, 2)])
    assert half.fit_transform(x).sum() == 2
    half.set_params(ranges=[(0, 1.5), (0, 2), (0, 2)])
    with pytest.warns(UserWarning, match="^3 of 4 points"):
        half.fit_transform(x)


def test_points_outside_can_be_an_error():
    clouds = ragged_clouds()
    projector = TPCProjector(ranges=RANGES, outside="raise").fit(clouds)
    n_outside = sum(np.count_nonzero(~inside(cloud)) for cloud in clouds)
    with pytest.raises(ValueError, match=f"^{n_outside} points of [1-5] events lie outside"):
        projector.transform(clouds)
    projector.transform([cloud[inside(cloud)] for cloud in clouds])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bins": (8,)}, "'bins' parameter of TPCProjector must be two positive integers"),
        ({"bins": (8, 0)}, "'bins' parameter of TPCProjector must be two positive integers"),
        ({"bins": (8, True)}, "'bins' parameter of TPCProjector must be two positive integers"),
        ({"bins": ("8", 8)}, "'bins' parameter of TPCProjector must be two positive integers"),
        ({"charge": True}, "must be a column of points with 4 columns"),
        ({"planes": [(False, True)]}, "each from 0 to 2"),
        ({"bins": (2, 2, 2, 2)}, "'bins' parameter of TPCProjector must be two positive integers"),
        ({"planes": [(0, 3)]}, "each from 0 to 2"),
        ({"planes": [(0, 0)]}, "2 different coordinates"),
        ({"planes": [(0, 1, 2)]}, "2 different coordinates"),
        ({"planes": []}, "2 different coordinates"),
        ({"ranges": [(0, 1)]}, r"3 pairs \(low, high\)"),
        ({"ranges": [(0, 1), (1, 1), (0, 1)]}, "low < high"),
        ({"ranges": [(0, 1), (0, np.inf), (0, 1)]}, "finite"),
        ({"ranges": [(-1e308, 1e308)] * 3}, "too wide for floats"),
        ({"charge": -5}, "must be a column of points with 4 columns"),
    ],
)
def test_projector_names_what_is_wrong(parameters, message):
    with pytest.raises(ValueError, match=message):
        TPCProjector(**parameters).fit(ragged_clouds())


def test_projector_needs_points_and_coordinates():
    with pytest.raises(ValueError, match="has no points, only rows of zeros"):
        TPCProjector().fit(np.zeros((2, 5, 4)))
    with pytest.raises(ValueError, match=r"Found array with 1 feature\(s\)"):
        TPCProjector().fit(np.ones((3, 1)))
    with pytest.raises(ValueError, match="3 axes, but the points have 2 coordinate"):
        TPCProjector(bins=(2, 2, 2)).fit(np.ones((3, 2)))


def test_steps_chain():
    clouds = ragged_clouds((300, 200))
    chain = make_pipeline(
        PointCloudSampler(n_points=64, random_state=0), TPCProjector(bins=(8, 8), statistic="count")
    )
    images = chain.fit_transform(clouds)
    np.testing.assert_array_equal(images.sum(axis=(2, 3)), np.full((2, 3), 64))
