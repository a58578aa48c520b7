"""Columns of samplers: densities are normalised, what is impossible is, weights are counts."""

import tracemalloc
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.model_selection import cross_val_score
from test_samplers_base import Gaussian as Normal

from sknuc.encoders import ModuleEncoder, PointNet
from sknuc.nn import Gaussian
from sknuc.samplers import DiffusionSampler, FlowSampler, GANSampler, ResidualMLP, VAESampler
from sknuc.samplers._columns import Columns
from sknuc.samplers._levels import find_atoms

AUTO = {"bounds": None, "discrete": "auto", "atoms": "auto", "periodic": None}


def columns(X, *, integer=False, sample_weight=None, **changed):
    made = Columns(**{**AUTO, **changed})
    shape, flat = X.shape[1:], X.reshape(len(X), -1)
    integer = np.full(flat.shape[1], integer)
    return made.fit(flat, shape, integer=integer, sample_weight=sample_weight)


def untrained(X, **parameters):
    """A sampler that knows no more than the columns: its variables are normal."""
    return Normal(max_epochs=1, learning_rate=1e-12, random_state=0, **parameters).fit(X)


def circular(angles, width):
    """Density of a narrow normal angle."""
    return stats.norm(0, width).pdf(angles)


# Angles.


def test_direction_of_a_normal_point_has_the_integral_over_its_distance():
    rng = np.random.default_rng(0)
    for mean, std in [((1, 0.2), (0.3, 0.5)), ((-2, 3), (0.4, 0.2)), ((0, 0), (1, 1))]:
        likelihood = Gaussian(
            torch.tensor(mean, dtype=torch.float64),
            torch.tensor(std, dtype=torch.float64),
            1.0,
            circles=([0], [1]),
        )
        likelihood.fixed = torch.tensor(std, dtype=torch.float64)
        angles = np.append(rng.uniform(-np.pi, np.pi, 8), np.arctan2(-mean[1], -mean[0]))
        points = torch.tensor(np.column_stack([np.cos(angles), np.sin(angles)]))
        ours = likelihood.log_prob(torch.zeros(len(points), 2, dtype=torch.float64), points)
        for angle, log_density in zip(angles, ours.numpy(), strict=True):
            unit = np.array([np.cos(angle), np.sin(angle)])

            r = np.linspace(0, 8, 100_001)
            along = r * stats.norm.pdf(r[:, None] * unit, mean, std).prod(1)
            truth = np.trapezoid(along, r)
            assert log_density == pytest.approx(np.log(truth), abs=1e-4)


def test_direction_far_ahead_of_and_behind_the_origin():
    # Of a mean far out it is a normal angle; behind it, the tail, whose gradient is finite.
    angles = torch.tensor([0.0, 1e-4, np.pi], dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], 1)
    mean = torch.tensor([1.0, 0.0], dtype=torch.float64)
    likelihood = Gaussian(mean, torch.ones(2).double(), 1e-4, circles=([0], [1]))
    output = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    density = likelihood.log_prob(output, points)
    ahead = -np.log(1e-4) - 0.5 * np.log(2 * np.pi) - np.array([0, 0.5])
    np.testing.assert_allclose(density[:2].detach(), ahead, atol=1e-4)
    assert density[2].item() == pytest.approx(-0.5e8, rel=1e-3)
    density.sum().backward()
    assert torch.isfinite(output.grad).all()


@pytest.mark.parametrize(
    "model",
    [
        VAESampler(n_latent=1, max_epochs=30, random_state=0),
        DiffusionSampler(network=ResidualMLP(width=32, n_blocks=1), max_epochs=30, random_state=0),
    ],
    ids=["vae", "diffusion"],
)
def test_density_of_a_narrow_angle_is_normalised_on_the_circle(model):
    X = np.random.default_rng(0).normal(0, 0.1, (800, 1))
    model.set_params(periodic={0: 2 * np.pi}).fit(X)
    grid = np.linspace(-0.8, 0.8, 81)[:-1, None]
    density = np.exp(model.score_samples(grid))
    assert density.sum() * 0.02 == pytest.approx(1, abs=0.03)
    truth = circular(grid[:, 0], 0.1)
    assert np.abs(density - truth).sum() * 0.02 < 0.15
    width = model.sample(2000, random_state=0).std()
    assert width == pytest.approx(X.std(), rel=0.15)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bounds": {0: (0, 2)}}, "a part of the circle"),
        ({"discrete": [0]}, "'discrete' parameter names column 0"),
        ({"atoms": {0: [1.0]}}, "'atoms' parameter names column 0"),
    ],
)
def test_what_contradicts_a_period_is_refused(changed, message):
    X = np.random.default_rng(0).uniform(0, 2, (50, 1))
    with pytest.raises(ValueError, match=message):
        columns(X, periodic={0: 2 * np.pi}, **changed)


@pytest.mark.parametrize("bounds", [(1, None), (None, 361), (1, 361)])
def test_angles_come_back_between_their_bounds(bounds):
    X = np.random.default_rng(0).uniform(1, 361, (200, 1))
    made = columns(X, periodic={0: 360.0}, bounds={0: bounds})
    np.testing.assert_allclose(made.decode(made.encode(X)[0]), X)


# Bounds.


def test_a_bound_without_an_atom_has_no_density():
    X = np.random.default_rng(0).exponential(size=(300, 2))
    X[:, 1] = 1 / (1 + X[:, 1])
    model = untrained(X, bounds={0: (0, None), 1: (0, 1)})
    scores = model.score_samples([[0.0, 0.5], [1.0, 0.0], [1.0, 1.0], [1.0, 0.5]])
    assert np.all(scores[:3] == -np.inf)
    assert np.isfinite(scores[3])
    # What reads variables sees the closest event of the fit.
    z = model._columns.encode(np.array([[0.0, 0.5], [X[:, 0].min(), 0.5]]))[0]
    np.testing.assert_array_equal(z[0], z[1])


def test_bounds_of_32_bits():
    X = np.linspace(0.01, 0.7, 200, dtype=np.float32)[:, None]
    assert float(X.max()) != 0.7
    made = columns(X, bounds={0: (0, 0.7)})
    drawn = made.decode(np.random.default_rng(0).normal(0, 30, (1000, 2))).astype(np.float32)
    assert drawn.max() <= np.float32(0.7)
    # The same numbers in 64 bits, and those that the bounds were written in.
    for same in (X.astype(np.float64), np.array([[0.7]])):
        made.encode(same)
    np.testing.assert_array_equal(made.encode(X.astype(np.float64))[0], made.encode(X)[0])


# Integers.


def test_probabilities_of_rounded_integers_sum_to_one():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 400, (3000, 1))
    model = untrained(counts)
    every = np.arange(-400, 800)[:, None]
    probability = np.exp(model.score_samples(every))
    # The model is a normal distribution here, of integers.
    ends = (np.append(every - 0.5, every[-1] + 0.5) - counts.mean()) / counts.std()
    np.testing.assert_allclose(probability, np.diff(stats.norm.cdf(ends)), rtol=5e-3)
    assert probability.sum() == pytest.approx(1, abs=1e-3)


def test_vae_knows_the_probability_of_a_rounded_integer():
    X = np.random.default_rng(0).poisson(400, (2000, 1))
    model = VAESampler(n_latent=1, max_epochs=20, random_state=0).fit(X)
    truth = stats.poisson(400).logpmf(X).mean()
    assert model.score(X) == pytest.approx(truth, abs=0.05)
    every = np.arange(200, 600)[:, None]
    # A bound of each probability, but for the error of the mean over draws.
    assert 0.9 < np.exp(model.score_samples(every)).sum() < 1.01


def test_narrow_parts_keep_their_digits_in_32_bits():
    middle = np.array([0.0, 1.5, -4.0, 7.0])
    likelihood = Gaussian(torch.zeros(1), torch.ones(1), 1.0)
    for width in (1e-6, 1e-3, 0.01, 0.02, 0.05, 0.2, 1.0):
        low, high = ((middle + side * width / 2)[:, None] for side in (-1, 1))
        upper = np.minimum(-low, -high) < -abs(middle[:, None])
        tails = np.where(upper, stats.norm.sf(low), stats.norm.cdf(high))
        others = np.where(upper, stats.norm.sf(high), stats.norm.cdf(low))
        truth = np.log(tails - others)
        if width < 1e-4:
            truth = stats.norm.logpdf(middle[:, None]) + np.log(width)
        output = torch.zeros(4, 1)
        # By ends that 32 bits can tell apart.
        place = torch.arange(4)
        ends = (torch.tensor(low[:, 0]), torch.tensor(high[:, 0]))
        found = likelihood.double().log_prob(output.double(), output.double(), (place, *ends))
        np.testing.assert_allclose(found.numpy(), truth[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("atoms", ["auto", {0: [0]}, None])
def test_integers_at_their_bound_come_as_often_as_they_were(atoms):
    rng = np.random.default_rng(0)
    X = rng.integers(1, 400, (4000, 1)) * (rng.uniform(size=(4000, 1)) > 0.39)
    made = columns(X, integer=True, bounds=(0, None), atoms=atoms)
    assert (list(made.marks) == [0]) == (atoms is not None)
    z, low, high = made.encode(X)
    drawn = made.draw(z, low, high, rng.uniform(size=low.shape))
    np.testing.assert_array_equal(made.decode(drawn), X)
    assert np.isfinite(drawn).all()
    if atoms is not None:
        made_up = made.decode(rng.normal(size=(20_000, made.n_variables)))
        share = np.mean(X == 0)
        error = np.sqrt(share * (1 - share) / 20_000)
        assert abs(np.mean(made_up == 0) - share) < 5 * error
        assert made_up.min() == 0


def test_smooth_counts_have_no_atoms():
    # Every value has more than one per cent of the events.
    X = np.random.default_rng(0).poisson(200, (5000, 1))
    X[:100] = np.arange(150, 250)[:, None]
    X[0] = 400
    made = columns(X, integer=True)
    assert len(np.unique(X)) > 100
    assert not made.marks
    # Nor one at the lower end, where there is no neighbour.
    X = np.random.default_rng(0).geometric(0.03, (5000, 1)) - 1
    assert not columns(X, integer=True, bounds=(0, None)).marks


def pulses_in_counts():
    # Under noise of 3 counts, where a sample has few values, and each of them many events.
    rng = np.random.default_rng(0)
    height, late = rng.uniform(100, 1000, (2000, 1)), rng.uniform(size=(2000, 1)) < 0.5
    shape = np.exp(-((np.arange(40) - np.where(late, 24, 12)) ** 2) / 8)
    return np.round(height * shape + rng.normal(0, 3, (2000, 40)))[:, None]


@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_counts_of_a_digitiser_have_no_atoms(dtype, by_channel):
    X = pulses_in_counts()
    made = columns(X.astype(dtype), integer=dtype == np.int16, by_channel=by_channel)
    assert not made.marks
    assert not made.levels
    assert made.whole.all() == (dtype == np.int16)
    # What stands out from its neighbours is one, such as the end of the range of the digitiser.
    X = np.minimum(X, 500).astype(dtype)
    made = columns(X, integer=dtype == np.int16, by_channel=by_channel)
    assert set(made.marks) <= set(range(6, 31))
    for i, marks in made.marks.items():
        np.testing.assert_array_equal(marks.values[~np.isnan(marks.values)], [500], str(i))
    assert {12, 24} <= set(made.marks)


@pytest.mark.parametrize("width", [0.7, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("dtype", [np.int16, np.float64])
def test_narrow_noise_of_a_digitiser_has_no_atoms(width, dtype):
    rng = np.random.default_rng(0)
    # Baselines anywhere between two counts, and a stuck sample now and then.
    baseline = np.linspace(20, 120, 41)
    X = np.round(rng.normal(baseline, width, (5000, 41)))[:, None].astype(dtype)
    assert not columns(X, integer=dtype == np.int16, by_channel=True).marks
    X[rng.uniform(size=X.shape) < 0.03] = 0
    made = columns(X, integer=dtype == np.int16, by_channel=True)
    assert len(made.marks) == 41
    for marks in made.marks.values():
        np.testing.assert_array_equal(marks.values[~np.isnan(marks.values)], [0])


@pytest.mark.parametrize("width", [0.7, 1.0, 2.0, 3.0])
def test_zeros_in_the_midst_of_noise_are_an_atom(width):
    # The share of each count is that of the distribution: what is found is none of chance.
    values = np.arange(-20.0, 21)
    share = np.diff(stats.norm(0, width).cdf(np.append(values - 0.5, 20.5)))
    events = 1e6 * share
    values, events = values[events > 0.5], events[events > 0.5]
    assert not find_atoms(values, events, integer=True).any()
    events = events + 3e4 * (values == 0)
    np.testing.assert_array_equal(values[find_atoms(values, events, integer=True)], [0])
    # As many of a few events are within their errors.
    assert not find_atoms(values, events / 1e4, integer=True).any()


def test_exponential_counts_have_no_atom_where_they_begin():
    for mean in (0.5, 1, 3):
        X = np.floor(np.random.default_rng(0).exponential(mean, (5000, 1, 1)))
        X = np.append(X, 50 + np.random.default_rng(1).integers(0, 200, X.shape), axis=2)
        assert not columns(X, by_channel=True).marks


def test_counts_of_a_digitiser_have_the_components_of_the_pulse():
    X = pulses_in_counts()
    found = [
        DiffusionSampler(max_epochs=1, batch_size=1000, random_state=0).fit(x)
        for x in (X, X.astype(np.int16))
    ]
    assert found[0]._n_learnt == found[1]._n_learnt == 2
    events = found[1].sample(50, random_state=0)
    np.testing.assert_array_equal(events, np.round(events))


def test_few_counts_of_an_image_are_atoms():
    hits = np.random.default_rng(0).uniform(size=(1000, 1, 3, 3)) < 0.5
    for made in (columns(hits.astype(np.uint8), integer=True), columns(hits.astype(float))):
        assert not made.whole.any()
        assert all(list(made.levels[i].values) == [0, 1] for i in range(9))


def test_rounded_integers_are_drawn_anew():
    X = np.random.default_rng(0).integers(0, 200, (1000, 1))
    made = columns(X, integer=True)
    z, low, high = made.encode(X)
    drawn = made.draw(z, low, high, np.random.default_rng(1).uniform(size=low.shape))
    assert len(np.unique(drawn)) == 1000
    width = 1 / made.scale[0]
    np.testing.assert_allclose(high - low, width)
    assert np.all(np.abs(drawn - z) <= width / 2 + 1e-12)


# Levels.


def test_count_tables_can_be_cross_validated():
    X = np.random.default_rng(0).poisson(3, (300, 3))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        scores = cross_val_score(Normal(max_epochs=1), X, cv=5)
    assert np.isfinite(scores).all()
    assert all("half an event" in str(warning.message) for warning in seen)
    assert seen


def test_an_unseen_value_is_half_an_event():
    X = np.repeat([0, 1, 3], [10, 20, 70])[:, None]
    model = untrained(X)
    for value in (-4, 2, 9):
        with pytest.warns(UserWarning, match=f"value {value} in column 0.*half an event"):
            score = model.score_samples([[value]])
        np.testing.assert_allclose(score, np.log(0.5 / 100), atol=1e-6)
    # It is never made.
    assert set(model.sample(2000, random_state=0).ravel()) == {0, 1, 3}


def test_few_values_of_measured_numbers_are_no_closed_set():
    X = np.repeat([0.0, 0.5, 1.0], 20)[:, None]
    with pytest.warns(UserWarning, match="atoms=None"):
        untrained(X).score_samples([[0.7]])
    with pytest.raises(ValueError, match="'discrete' parameter says"):
        untrained(X, discrete=[0]).score_samples([[0.7]])


def test_atoms_that_never_occur_are_told():
    X = np.random.default_rng(0).normal(size=(100, 1))
    with pytest.warns(UserWarning, match=r"\[-7.0\] for column 0"):
        columns(X, atoms={0: [-7.0]})


# Images.


@pytest.mark.parametrize("likelihood", ["vae", "flow", "normal"])
def test_constant_pixels_count_nothing(likelihood):
    X = np.random.default_rng(0).normal(size=(400, 1, 8))
    X[:, :, 4:] = 7.0
    model = {
        "vae": VAESampler(n_latent=1, max_epochs=8, random_state=0),
        "flow": FlowSampler(max_epochs=8, random_state=0),
        "normal": Normal(max_epochs=8, random_state=0),
    }[likelihood].fit(X)
    truth = -4 * 0.5 * np.log(2 * np.pi * np.e)
    assert model.score(X) == pytest.approx(truth, abs=0.6)
    assert np.all(model.sample(5, random_state=0)[:, :, 4:] == 7.0)
    other = X[:1].copy()
    other[0, 0, 5] = 6.0
    with pytest.warns(UserWarning, match="value 6 in column 5"):
        score = model.score_samples(other)
    lost = model.score_samples(X[:1]) - score
    assert lost[0] == pytest.approx(np.log(2 * 400), abs=3)


def test_what_is_constant_is_nothing_to_learn():
    X = np.random.default_rng(0).normal(size=(400, 1, 16))
    X[:, :, 8:] = 7.0
    # Principal components are read as of signals that vary everywhere.
    diffusion = DiffusionSampler(max_epochs=1, random_state=0).fit(X)
    assert diffusion._n_learnt is not None
    gan = GANSampler(max_epochs=1, random_state=0).fit(X)
    z = torch.randn(5, 1, 16, dtype=torch.float64)
    shown = gan.module_[1].meaning(z)
    assert not shown[:, :, 8:].any()
    np.testing.assert_array_equal(shown[:, :, :8], z[:, :, :8])
    for model in (diffusion, gan):
        assert np.all(model.sample(5, random_state=0)[:, :, 8:] == 7.0)


def test_a_voxel_that_is_always_empty():
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(200, 2, 6)) * (rng.uniform(size=(200, 2, 6)) > 0.5)
    X[:, 0, 0] = 0
    X[:, 1] = 0
    made = columns(X, bounds=(0, None), by_channel=True)
    flat = X.reshape(200, -1)
    z, low, high = made.encode(flat)
    drawn = made.draw(z, low, high, rng.uniform(size=low.shape))
    assert np.isfinite(drawn).all()
    np.testing.assert_allclose(made.decode(drawn), flat)


@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_channels_are_where_the_encoder_says(axis):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 4, 3, 5))
    scale = 10.0 ** np.arange(X.shape[1 + (axis or 0)])
    if axis is not None:
        X *= np.moveaxis(scale.reshape(-1, 1, 1), 0, axis)
    X[rng.uniform(size=X.shape) > 0.5] = 0
    made = columns(X, by_channel=True, channel_axis=axis)
    doubled = list(X.shape[1:])
    doubled[axis or 0] *= 2
    assert made.shape == tuple(doubled)
    flat = X.reshape(500, -1)
    z, low, high = made.encode(flat)
    drawn = made.draw(z, low, high, rng.uniform(size=low.shape))
    np.testing.assert_allclose(made.decode(drawn), flat, rtol=1e-9)
    values = np.where(flat != 0, z[:, made.first], np.nan)
    by_place = np.nanstd(values, 0).reshape(X.shape[1:])
    assert np.abs(by_place - 1).max() < 0.3


def test_encoders_tell_their_channels_and_no_padding():
    X = np.random.default_rng(0).normal(size=(40, 6, 2)) * [1, 1000]
    with pytest.raises(ValueError, match="PointNet takes rows of zeros for padding"):
        VAESampler(encoder=PointNet(), max_epochs=1).fit(X)

    def flat(input_shape):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))

    model = VAESampler(encoder=ModuleEncoder(flat, channels=1), max_epochs=1, random_state=0)
    scale = model.fit(X)._columns.scale.reshape(6, 2)
    np.testing.assert_allclose(scale / scale[:1], 1)
    assert scale[0, 1] / scale[0, 0] == pytest.approx(1000, rel=0.3)


# Weights, memory, bad numbers.


@pytest.mark.parametrize("unit", [1e-3, 1.0])
def test_small_weights_find_the_same_atoms(unit):
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(500, 1)) * (rng.uniform(size=(500, 1)) > 0.3)
    made = columns(X, sample_weight=np.full(500, unit))
    assert list(made.marks) == [0]


@pytest.mark.parametrize("integer", [False, True])
def test_no_luminosity_makes_an_event_an_atom(integer):
    # Ten events of a sample that was made with a hundredth of the luminosity of the others.
    X = np.random.default_rng(0).normal(size=(500, 2))
    if integer:
        X = np.round(1000 * X)
    weight = np.repeat([0.37, 41.2], [490, 10])
    assert not columns(X, integer=integer, sample_weight=weight).marks
    # What many events of the sample share is one.
    X[::3, 0] = 0
    made = columns(X, integer=integer, sample_weight=weight)
    assert list(made.marks) == [0]
    np.testing.assert_array_equal(np.sort(made.marks[0].values), [0, np.nan])


def test_whole_weights_are_copies_in_atoms():
    X = np.random.default_rng(0).normal(size=(500, 2))
    weight = np.repeat([1.0, 2.0, 20.0], [300, 199, 1])
    weight[7] = 150
    one = columns(X, sample_weight=weight)
    copies = columns(np.repeat(X, weight.astype(int), axis=0))
    assert list(one.marks) == list(copies.marks) == [0, 1]
    for i in (0, 1):
        np.testing.assert_array_equal(one.marks[i].values, copies.marks[i].values)
        np.testing.assert_array_equal(one.marks[i].edges, copies.marks[i].edges)
        assert X[7, i] in one.marks[i].values
    # The same in other units is one event that counts more.
    assert not columns(X, sample_weight=0.7 * weight).marks


def test_small_weights_start_from_the_same_rates():
    X = np.random.default_rng(0).poisson(3, (300, 1, 2))
    starts = [
        VAESampler(likelihood="poisson", n_latent=1, max_epochs=1, random_state=0)
        .fit(X, sample_weight=np.full(300, unit))
        ._start[0]
        for unit in (1e-4, 1.0)
    ]
    np.testing.assert_allclose(*starts, rtol=1e-10)


def test_bad_numbers_on_disk_are_found(tmp_path, monkeypatch):
    X = np.random.default_rng(0).normal(size=(50, 6))
    path = tmp_path / "events.npy"
    np.save(path, X)
    monkeypatch.setattr("sknuc._engine._events.RESIDENT_BYTES", 100)
    model = Normal(max_epochs=1, random_state=0).fit(np.load(path, mmap_mode="r"))
    X[3, 5] = np.nan
    np.save(path, X)
    broken = np.load(path, mmap_mode="r")
    for use in (model.score_samples, Normal(max_epochs=1).fit):
        with pytest.raises(ValueError, match="NaN or infinity"):
            use(broken)


def test_memory_of_encoding_is_that_of_the_variables():
    X = np.random.default_rng(0).normal(size=(40_000, 256)).astype(np.float32)
    made = Columns(**AUTO, by_channel=True)
    tracemalloc.start()
    made.fit(X, (1, 256), integer=np.zeros(256, bool))
    z, low, _ = made.encode(X, np.float32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert z.dtype == np.float32
    assert low.shape == (len(X), 0)
    # And some blocks of 8 MiB.
    assert peak < X.nbytes + 100 * 2**20
