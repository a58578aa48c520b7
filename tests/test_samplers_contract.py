"""What every public sampler promises: blocks, threads, units, bad input, searches, copies."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.encoders import MLP
from sknuc.metrics import make_sample_scorer, sliced_wasserstein_distance
from sknuc.samplers import (
    DiffusionSampler,
    FlowSampler,
    GANSampler,
    GenerativeOverSampler,
    ResidualMLP,
    VAESampler,
    _base,
)

pd = pytest.importorskip("pandas")

SHORT = {"max_epochs": 2, "random_state": 0}
SAMPLERS = {
    "diffusion": DiffusionSampler(network=ResidualMLP(width=16, n_blocks=1), n_steps=3, **SHORT),
    "flow": FlowSampler(n_transforms=1, hidden_layer_sizes=(16,), **SHORT),
    "gan": GANSampler(encoder=MLP(hidden_layer_sizes=(16,)), **SHORT),
    "vae": VAESampler(encoder=MLP(hidden_layer_sizes=(16,)), **SHORT),
}


def events(n=200, dtype=np.float64):
    """Correlated events, a class and a number that go with each."""
    rng = np.random.default_rng(0)
    kind, number = rng.choice(["a", "b"], n), rng.uniform(1, 2, n)
    X = rng.normal(size=(n, 3)) @ rng.normal(size=(3, 3)) + number[:, None]
    return X.astype(dtype), kind, number


@pytest.fixture(scope="module", params=list(SAMPLERS))
def sampler(request):
    return SAMPLERS[request.param]


@pytest.fixture(scope="module")
def single(sampler):
    """Fitted in single precision, where rounding shows first."""
    X, _, number = events(dtype=np.float32)
    return clone(sampler).fit(X, number)


# Parameters.


OF_ITS_OWN = {
    "diffusion": {"guidance": 2.0, "condition_dropout": 0.25, "n_steps": 3},
    "flow": {"bins": 4, "n_transforms": 2},
    "gan": {"n_latent": 3, "n_critic": 2},
    "vae": {"n_latent": 3, "beta": 0.5, "free_bits": 0.125, "warm_up": 0.5, "n_importance": 2},
}


@pytest.mark.parametrize(("integer", "real"), [(np.int64, np.float64), (np.int32, np.float32)])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_parameters_may_be_numbers_of_numpy(name, integer, real):
    # As the grids of searches are, np.linspace(0, 2, 3); all values have a short binary fraction.
    X, kind, _ = events()
    plain = clone(SAMPLERS[name]).set_params(batch_size=50, learning_rate=2**-9, **OF_ITS_OWN[name])
    types = {int: integer, float: real}
    other = clone(plain).set_params(
        **{
            key: types[type(value)](value)
            for key, value in plain.get_params().items()
            if type(value) in types
        }
    )
    made = [
        model.fit(X, kind).sample(n, random_state=0) for model in (plain, other) for n in (2, 100)
    ]
    # What is computed of parameters of single precision is rounded to it.
    rtol = 0 if real is np.float64 else 1e-5
    for one, same in zip(made[:2], made[2:], strict=True):
        np.testing.assert_allclose(same, one, rtol=rtol)


# Blocks.


def test_the_same_bits_whatever_the_blocks_and_threads(single, monkeypatch):
    monkeypatch.setattr(_base, "_TILE_EVENTS", 64)
    whole = single.sample(1001, random_state=3)
    lengths = []
    generate = type(single)._generate

    def spied(self, noise, condition):
        lengths.append(len(noise))
        return generate(self, noise, condition)

    monkeypatch.setattr(type(single), "_generate", spied)
    # Blocks of one tile, of three and a part of one, and of all.
    for n_events in (1, 200, 10_000):
        monkeypatch.setattr(_base, "_BLOCK_NUMBERS", n_events * single._numbers_per_event())
        np.testing.assert_array_equal(single.sample(1001, random_state=3), whole)
    assert set(lengths) == {64}
    assert len(lengths) == 3 * 16
    with ThreadPoolExecutor(4) as pool:
        for drawn in pool.map(lambda _: single.sample(1001, random_state=3), range(8)):
            np.testing.assert_array_equal(drawn, whole)
    assert not np.isin(single.sample(1001, random_state=4), whole).all()


def test_memory_is_that_of_the_result_and_of_a_block(single, monkeypatch, capsys):
    n = 50_000
    monkeypatch.setattr(_base, "_BLOCK_NUMBERS", 2**17)
    monkeypatch.setattr(_base, "_TILE_NUMBERS", 2**17)
    seen = []
    generate = type(single)._generate

    def spied(self, noise, condition):
        seen.append(noise.numel() + condition.numel())
        return generate(self, noise, condition)

    monkeypatch.setattr(type(single), "_generate", spied)
    single.set_params(verbose=1)
    tracemalloc.start()
    drawn = single.sample(n, random_state=0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    single.set_params(verbose=0)
    # Of each event, its numbers and its condition: what is drawn for it, its place, and its value.
    assert most < drawn.nbytes + 3 * 8 * n + 10 * 8 * 2**17
    # And of the network's tensors, which are not traced, those of a tile.
    assert max(seen) * 20 <= 2**17
    bar = capsys.readouterr().err
    assert type(single).__name__ in bar
    assert f"{n}/{n}" in bar
    single.sample(10, random_state=0)
    assert capsys.readouterr().err == ""


# Input.


def test_bad_input_is_named(sampler):
    X, kind, number = events()
    for broken in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            clone(sampler).fit(np.where(X[7, 1] == X, broken, X))
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            clone(sampler).fit(X, np.where(number == number[7], broken, number))
    for few in (X[:1], X[:0]):
        with pytest.raises(ValueError, match=r"1 sample|0 sample"):
            clone(sampler).fit(few)
    with pytest.raises(ValueError, match="1 sample"):
        clone(sampler).fit(X, sample_weight=np.eye(200)[3])
    with pytest.raises(ValueError, match="inconsistent"):
        clone(sampler).fit(X, kind[:-1])
    by_class = clone(sampler).fit(X, kind)
    for unknown in ("c", 1):
        with pytest.raises(ValueError, match="not among those of the fit"):
            by_class.sample(3, y=unknown)
    for n in (0, -1, 2.0, True, "2"):
        with pytest.raises(ValueError, match="'n_samples' parameter of sample"):
            by_class.sample(n)
    assert by_class.sample(np.int64(2), y=["a", "b"], random_state=0).shape == (2, 3)
    by_number = clone(sampler).fit(X, number)
    with pytest.raises(ValueError, match="NaN"):
        by_number.sample(3, y=np.nan)
    with pytest.warns(UserWarning, match="2 of 3 conditions lie outside"):
        by_number.sample(3, y=[0.5, 1.5, 2.5], random_state=0)


def fitted_with(message, sampler, *given, **weights):
    with pytest.warns(UserWarning, match=message) as caught:
        model = clone(sampler).fit(*given, **weights)
    assert len(caught) == 1
    # Where it was called.
    assert caught[0].filename == __file__
    return model


def test_what_leaves_little_to_learn_is_told(sampler):
    X, kind, _ = events()
    name = type(sampler).__name__
    few = rf"{name} has 2 events to learn from, which is fewer than 10: nothing but these"
    for weight in (None, np.full(2, 300.7)):
        fitted_with(few, sampler, X[:2], sample_weight=weight)
    # Copies are events.
    clone(sampler).fit(X[:2], sample_weight=np.full(2, 5.0))
    kind[:] = "a"
    kind[[3, 5, 9]] = ["b", "c", "c"]
    rare = rf"{name} has 1 of class 'b', 2 of class 'c' to learn from, which is fewer than 3"
    fitted_with(rare, sampler, X, kind)
    # They are not read here.
    clone(sampler).set_params(condition=None).fit(X, kind)
    frame = pd.DataFrame(X, columns=["energy", "time", "charge"]).assign(time=0.1)
    fitted_with(r"X is constant in 1 of 3 columns, time: ", sampler, frame)
    fitted_with(r"X is constant in 3 of 3 columns, 0, 1, 2: ", sampler, np.full((50, 3), 0.5))


def test_conditions_beyond_the_fit_are_told_by_all_but_the_score(sampler):
    X, _, number = events()
    model = clone(sampler).fit(X, number)
    beyond = np.full(5, 3.0)
    for method in {"score_samples", "transform"} & set(dir(model)):
        with pytest.warns(UserWarning, match="5 of 5 conditions lie outside"):
            getattr(model, method)(X[:5], beyond)
        getattr(model, method)(X[:5], number[:5])
    if hasattr(model, "score"):
        model.score(X[:5], beyond)


def test_what_is_constant_stays_so(sampler):
    X, _, _ = events()
    X[:, 1] = 0.1
    model = fitted_with("X is constant in 1 of 3 columns, 1: ", sampler, X)
    drawn = model.sample(100, random_state=0)
    assert np.all(drawn[:, 1] == 0.1)
    assert np.all(drawn[:, [0, 2]].std(0) > 0)
    with_signals = clone(sampler).set_params(
        **dict.fromkeys({"network"} & set(sampler.get_params()))
    )
    X = np.full((100, 1, 16), 0.1)
    model = fitted_with(r"16 of 16 columns, 0, 1, .* 9, …: ", with_signals, X)
    assert np.all(model.sample(10, random_state=0) == 0.1)
    # Dead pixels are part of an image.
    X[:, :, 3] = np.random.default_rng(0).normal(size=(100, 1))
    assert np.all(with_signals.fit(X).sample(10, random_state=0)[:, :, 4:] == 0.1)


@pytest.mark.parametrize(
    ("dtype", "unit", "offset"),
    [
        ("float64", 1e300, 0.0),
        ("float64", 1e-300, 0.0),
        ("float32", 1e37, 0.0),
        # Widths of sixteen, and of a thousand, last bits of a number.
        ("float32", 1e-3, 1e3),
        ("float64", 1e-10, 1e3),
    ],
)
def test_units_and_offsets_do_not_matter(sampler, dtype, unit, offset):
    X, _, _ = events(100)
    plain = clone(sampler).fit(X).sample(200, random_state=0)
    moved = (unit * X + offset).astype(dtype)
    drawn = clone(sampler).fit(moved).sample(200, random_state=0)
    assert drawn.dtype == dtype
    width = ((drawn.astype(float) - offset) / unit).std(0)
    # Rounded events are others; samples of as many differ by no more than their statistical errors.
    np.testing.assert_allclose(width, plain.std(0), rtol=4 / np.sqrt(len(drawn)))


def test_frames_float32_and_shapes(sampler):
    X, kind, _ = events()
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    frame["hits"] = np.arange(200) % 4
    frame["flag"] = np.arange(200) % 5 == 0
    model = clone(sampler).fit(frame, pd.Series(kind))
    assert model.feature_names_in_.tolist() == ["a", "b", "c", "hits", "flag"]
    drawn = model.sample(500, y="a", random_state=0)
    assert set(drawn[:, 3]) <= {0, 1, 2, 3}
    assert set(drawn[:, 4]) == {0, 1}
    single = clone(sampler).fit(X.astype(np.float32), kind)
    assert single.sample(3, random_state=0).dtype == np.float32
    shaped = clone(sampler).fit(X[:, :2].reshape(-1, 2, 1, 1)[:, :, 0])
    assert shaped.sample(3, random_state=0).shape == (3, 2, 1)


# Composition.


def test_copies_are_the_same(sampler, single):
    X, _, number = events(dtype=np.float32)
    drawn = single.sample(20, random_state=0)
    for copy in (pickle.loads(pickle.dumps(single)), clone(single).fit(X, number)):
        np.testing.assert_array_equal(copy.sample(20, random_state=0), drawn)
    assert repr(clone(sampler)) == repr(sampler)


def test_a_search_by_the_quality_of_events_goes_back_through_the_pipeline(sampler):
    X, kind, _ = events(300)
    X = 50 * X + 1000
    model = make_pipeline(StandardScaler(), sampler)
    search = GridSearchCV(
        model,
        {f"{model.steps[-1][0]}__learning_rate": [1e-3, 3e-3]},
        scoring=make_sample_scorer(sliced_wasserstein_distance),
        cv=2,
        error_score="raise",
    ).fit(X, kind)
    # In units of the widths, which a sampler in other units would miss by twenty.
    assert np.all(search.cv_results_["mean_test_score"] > -1)
    best = search.best_estimator_
    drawn = best[:-1].inverse_transform(best[-1].sample(500, random_state=0))
    assert np.abs((drawn.mean(0) - X.mean(0)) / X.std(0)).max() < 1


@pytest.mark.parametrize("conditional", [False, True])
def test_every_sampler_fills_a_rare_class(sampler, conditional):
    X, _, _ = events()
    # Labels are classes, even where they are numbers.
    y = np.repeat([0.0, 1.0], [160, 40])
    over = GenerativeOverSampler(sampler, conditional=conditional, random_state=0)
    X_more, y_more = over.fit_resample(X, y)
    assert np.unique(y_more, return_counts=True)[1].tolist() == [160, 160]
    np.testing.assert_array_equal(X_more[:200], X)
    if conditional:
        assert over.samplers_[1.0].classes_.tolist() == [0, 1]
