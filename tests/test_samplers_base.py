"""What all samplers share: columns, conditions, blocks, with a sampler whose law is known."""

import pickle
import re
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator
from torch import nn

from sknuc.exceptions import TrainingDivergedError
from sknuc.samplers import (
    DiffusionSampler,
    FlowSampler,
    GANSampler,
    GenerativeOverSampler,
    ResidualMLP,
    VAESampler,
    _base,
    _diffusion,
)
from sknuc.samplers._base import Sampler
from sknuc.samplers._columns import Columns
from sknuc.samplers._conditions import Conditions
from sknuc.samplers._marginals import Laws
from sknuc.samplers._probability_flow import log_density
from sknuc.torch_estimator import Player

pd = pytest.importorskip("pandas")
N = 2000

# The table below has such a column on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore:X is constant in 1 of 9 columns, constant:UserWarning"
)


class Gaussian(Sampler):
    """Independent Gaussians, whose mean and width are linear in the condition."""

    def _build(self):
        self._largest_product = 0
        width = 1 if self._conditions is None else 1 + self._conditions.width
        network = nn.Linear(width, 2 * self._columns.n_variables)
        nn.init.zeros_(network.weight)
        nn.init.zeros_(network.bias)
        return network

    def _moments(self, network, condition, like):
        one = like.new_ones(len(like), 1)
        inputs = one if condition is None else torch.cat([one, condition], 1)
        return network(inputs).chunk(2, 1)

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _loss(self, module, batch):
        z = self._variables(batch).flatten(1)
        return -self._normal(module, z, getattr(batch, "condition", None))

    def _normal(self, module, z, condition):
        mean, log_std = self._moments(module, condition, z)
        return -(((z - mean) / log_std.exp()) ** 2 / 2 + log_std + 0.5 * np.log(2 * np.pi)).sum(1)

    def _n_noise(self):
        return self._columns.n_variables

    def _generate(self, noise, condition):
        mean, log_std = self._moments(self.module_[1], condition, noise)
        return mean + log_std.exp() * noise

    def _log_density(self, z, condition):
        return self._normal(self.module_[1], z, condition)


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "gauss": rng.normal(3, 2, n),
            "energy": rng.exponential(2.0, n),
            "deposit": rng.exponential(1.0, n) * (rng.uniform(size=n) > 0.3),
            "fraction": rng.beta(2, 3, n),
            "hits": rng.poisson(3, n),
            "adc": rng.integers(0, 4000, n),
            "phi": rng.uniform(0, 2 * np.pi, n),
            "constant": np.full(n, 1.5),
            "below": -rng.exponential(1.0, n),
        }
    )


BOUNDS = {
    "energy": (0, None),
    "deposit": (0, None),
    "fraction": (0, 1),
    "phi": (0, None),
    "below": (None, 0),
}


def columns(circles=False, **changed):
    parameters = {
        "bounds": BOUNDS,
        "discrete": "auto",
        "atoms": "auto",
        "periodic": {"phi": 2 * np.pi},
        "circles": circles,
    }
    X = table()
    integer = np.array([dtype.kind in "iu" for dtype in X.dtypes])
    made = Columns(**{**parameters, **changed})
    return made.fit(X.to_numpy(), (X.shape[1],), integer=integer, names=X.columns), X.to_numpy()


def variables(made, X, seed=1):
    z, low, high = made.encode(X)
    return made.draw(z, low, high, np.random.default_rng(seed).uniform(size=low.shape))


@pytest.mark.parametrize("circles", [False, True])
def test_events_come_back(circles):
    made, X = columns(circles)
    np.testing.assert_allclose(made.decode(variables(made, X)), X, rtol=1e-9, atol=1e-9)
    assert made.shape == (made.n_variables,) == (10 if circles else 11,)


def test_variables_have_mean_zero_and_width_one():
    made, X = columns()
    z = variables(made, X)
    scaled = [i for i in range(9) if i != 6]  # the angle is a point on a circle
    spread = z[:, [*scaled, made.second[2]]]
    assert np.abs(spread.mean(0)).max() < 5 / np.sqrt(N)
    assert np.abs(spread.std(0) - 1).max() < 5 / np.sqrt(2 * N)
    # Levels, atoms and what has no value are exactly normal.
    for i in made.random:
        assert stats.kstest(z[:, i], "norm").pvalue > 1e-4 or i == 2


def test_normal_numbers_become_values_as_often_as_they_were():
    made, X = columns()
    z = np.random.default_rng(2).normal(size=(100_000, made.n_variables))
    events = made.decode(z)
    for i, values in ((4, np.arange(8)), (2, [0.0]), (7, [1.5])):
        for value in values:
            share = np.mean(X[:, i] == value)
            error = np.sqrt(max(share * (1 - share), 1e-9) / len(z))
            assert abs(np.mean(events[:, i] == value) - share) < 5 * error + 1e-12


def test_no_event_leaves_its_bounds():
    made, _ = columns()
    for z in (-40.0, -5.0, 5.0, 40.0, 1e9, -1e9):
        event = made.decode(np.full((1, made.n_variables), z))[0]
        assert np.isfinite(event).all()
        assert event[1] >= 0
        assert event[2] >= 0
        assert 0 <= event[3] <= 1
        assert event[8] <= 0
        assert event[4] == round(event[4])
        assert event[5] == round(event[5])
        assert 0 <= event[6] <= 2 * np.pi


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_is_made_at_a_bound_without_an_atom(dtype):
    # Some events are as close to 1 as their type can tell.
    X = 1 - np.random.default_rng(0).uniform(size=(2000, 1)) ** np.array([6, 1 / 6])
    X = X.astype(dtype)
    X = X[((X > 0) & (X < 1)).all(1)]
    model = Gaussian(bounds=(0, 1), max_epochs=5, random_state=0).fit(X)
    drawn = model.sample(20_000, random_state=0)
    assert drawn.dtype == dtype
    assert 0 < drawn.min() <= drawn.max() < 1
    assert np.isfinite(model.score_samples(drawn)).all()
    # And however far off a method is.
    far = model._columns.decode(np.array([[1e3, -1e3], [-1e3, 1e3]])).astype(dtype)
    assert 0 < far.min() <= far.max() < 1


def test_log_det_is_the_logarithm_of_the_derivative():
    made, X = columns(circles=True, discrete=None, atoms={})
    rng = np.random.default_rng(0)
    X = np.column_stack([X[:, :2], rng.exponential(1, N), X[:, 3:]])
    smooth = [0, 1, 3, 6, 8]
    step = 1e-6
    total = np.zeros(N)
    for i in smooth:
        up, down = X.copy(), X.copy()
        up[:, i] += step * X[:, i]
        down[:, i] -= step * X[:, i]
        slope = (made.encode(up)[0] - made.encode(down)[0])[:, i]
        total += np.log(np.abs(np.remainder(slope + np.pi, 2 * np.pi) - np.pi)) - np.log(
            np.abs(2 * step * X[:, i])
        )
    others = [i for i in (2, 4, 5) if i not in made.levels]
    total -= np.log(made.scale[others]).sum()
    total -= np.log(X[:, 2])  # with a bound at zero
    inside = (X[:, 3] > 1e-3) & (X[:, 3] < 1 - 1e-3)
    np.testing.assert_allclose(made.log_det(X)[inside], total[inside], atol=1e-4)


def test_images_keep_their_places():
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(300, 2, 3, 4)) * (rng.uniform(size=(300, 2, 3, 4)) > 0.5)
    X[:, 0, 0, 0] = 0.25
    X[:, 1] *= 100
    flat = X.reshape(300, -1)
    made = Columns(bounds=(0, None), discrete="auto", atoms="auto", periodic=None, by_channel=True)
    made.fit(flat, X.shape[1:], integer=np.zeros(24, bool))
    assert made.shape == (4, 3, 4)
    z = variables(made, flat)
    np.testing.assert_allclose(made.decode(z), flat, rtol=1e-9)
    # Channels have a scale each, and whether there is something is a channel of its own.
    varies = flat.reshape(300, 2, 12) > 0
    varies[:, 0, 0] = False
    shown = z.reshape(300, 4, 12)[:, :2][varies]
    scale = made.scale.reshape(2, 12)
    assert np.all(scale == scale[:, :1])
    assert scale[0, 0] != scale[1, 0]
    assert abs(shown.mean()) < 0.1
    drawn = made.decode(rng.normal(size=(10, 48)))
    assert np.all(drawn.reshape(10, 2, 3, 4)[:, 0, 0, 0] == 0.25)


def test_weights_are_copies():
    X = table(300).to_numpy()
    weight = np.random.default_rng(0).integers(0, 4, 300).astype(float)
    integer = np.arange(9) == 4
    kinds = {"discrete": "auto", "atoms": "auto", "periodic": None, "bounds": {2: (0, None)}}
    one = Columns(**kinds).fit(X, (9,), integer=integer, sample_weight=weight)
    other = Columns(**kinds).fit(np.repeat(X, weight.astype(int), 0), (9,), integer=integer)
    np.testing.assert_allclose(one.shift, other.shift, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(one.scale, other.scale, rtol=1e-10)
    np.testing.assert_array_equal(one.levels[4].values, other.levels[4].values)
    np.testing.assert_allclose(one.levels[4].edges, other.levels[4].edges, rtol=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bounds": {"energy": (1, None)}}, "column 'energy' within"),
        ({"bounds": {"energy": (1, 0)}}, "low < high"),
        ({"bounds": {"none": (0, 1)}}, "must name columns"),
        ({"bounds": {17: (0, 1)}}, "must name columns"),
        ({"bounds": "0"}, "pairs"),
        ({"periodic": {"phi": -1}}, "positive period"),
        ({"periodic": [1]}, "dictionary"),
        ({"atoms": {"none": 0}}, "must name columns"),
        ({"discrete": ["none"]}, "must name columns"),
    ],
)
def test_wrong_parameters_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        columns(**changed)


def test_unknown_values_of_discrete_columns_are_named():
    made, X = columns(discrete=["hits"])
    X[0, 4] = 77
    with pytest.raises(ValueError, match="value 77 in column 'hits'"):
        made.encode(X)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.array(["a", "b", None], object), r"label for each event. Got None"),
        (np.array(["a", "b", np.nan], object), r"label for each event. Got nan"),
        (np.array(["a", "b", pd.NA], object), r"label for each event. Got <NA>"),
        (np.array(["2020", "2021", "NaT"], "M8[D]"), r"label for each event. Got .*NaT"),
        (np.array([1, 2, "NaT"], "m8[s]"), r"label for each event. Got .*NaT"),
        (np.array(["a", "b", 3], object), r"labels of one type.* Got int, str"),
        (["a", "b", 3.0], r"labels of one type.* Got float, str"),
        ([["a"], ["b"], ["c", "d"]], r"Got rows of different lengths"),
    ],
)
def test_labels_that_are_none(y, match):
    known = Conditions("auto").fit(np.array(["a", "b"]))
    for read in (Conditions("auto").fit, lambda y: known.for_samples(y, 3)):
        with pytest.raises(ValueError, match=match):
            read(y)


def test_several_labels_are_no_condition():
    match = r"one column .* \(3, 2\). .* condition='continuous'"
    y = np.eye(3, 2, dtype=int)
    for several in (y, y.astype(str), [["a", 1.0]] * 3):
        with pytest.raises(ValueError, match=match):
            Conditions("auto").fit(several)
    assert Conditions("continuous").fit(y).width == 2
    with pytest.raises(ValueError, match="rows of different lengths"):
        Conditions("continuous").fit([[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("kind", [list, lambda y: np.array(y, object), pd.Series])
def test_objects_are_what_their_values_are(kind):
    numbers = Conditions("auto").fit(kind([1.0, 2.0, 3.5]))
    assert numbers.classes is None
    np.testing.assert_array_equal(numbers.known, Conditions("auto").fit([1.0, 2.0, 3.5]).known)
    np.testing.assert_array_equal(numbers.for_samples(kind([1.0, 2.0, 3.5]), 3), numbers.known)
    # Whole numbers beside a float are numbers, too; alone they are labels.
    assert Conditions("auto").fit(kind([1, 2, 3.5])).classes is None
    assert Conditions("auto").fit(kind([1, 2, 3])).classes.tolist() == [1, 2, 3]
    assert Conditions("classes").fit(kind([1.0, 2.0])).classes.tolist() == [1, 2]
    labels = Conditions("auto").fit(kind(["b", "a"]))
    assert labels.classes.tolist() == ["a", "b"]
    np.testing.assert_array_equal(labels.encode(kind(["b", "a"])), [[0, 1], [1, 0]])


def test_conditions():
    labels = Conditions("auto").fit(["b", "a", "b"])
    np.testing.assert_array_equal(labels.for_samples("b", 2), [[0, 1], [0, 1]])
    assert Conditions("auto").fit([1, 2, 2]).classes.tolist() == [1, 2]
    numbers = Conditions("auto").fit([1.0, 2.0, 3.0])
    assert numbers.classes is None
    np.testing.assert_allclose(numbers.for_samples(2.0, 3), 0, atol=1e-12)
    assert Conditions("continuous").fit([1, 2, 2]).classes is None
    pair = Conditions("auto").fit([[1.0, 2.0], [3.0, 5.0]])
    np.testing.assert_allclose(pair.for_samples([1.0, 5.0], 2), [[-1, 1], [-1, 1]])
    with pytest.warns(UserWarning, match="1 of 2 conditions lie outside"):
        numbers.warn_outside(numbers.for_samples([3.05, 9.0], 2))
    # One number per event, as a vector or a column; labels likewise.
    np.testing.assert_array_equal(numbers.for_samples([[1.0], [2.0]], 2), numbers.known[:2])
    column = Conditions("auto").fit([[1.0], [2.0], [3.0]])
    np.testing.assert_array_equal(column.for_samples([1.0, 2.0], 2), numbers.known[:2])
    np.testing.assert_array_equal(labels.for_samples([["b"], ["a"]], 2), [[0, 1], [1, 0]])
    for wrong in (lambda: numbers.for_samples("c", 1), lambda: Conditions("continuous").fit(["c"])):
        with pytest.raises(ValueError, match=r"must hold numbers.*'c'"):
            wrong()
    with pytest.raises(ValueError, match=r"classes \['c'\]"):
        labels.for_samples("c", 1)
    with pytest.raises(ValueError, match="one number for all 3 events"):
        numbers.for_samples([1.0, 2.0], 3)
    # Drawn as often as they weigh.
    weighted = Conditions("auto").fit([0, 2, 2], np.array([1.0, 1, 2]))
    share = weighted.draw(20_000, np.random.RandomState(0)).mean(0)
    assert weighted.classes.tolist() == [0, 2]
    assert abs(share[1] - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 20_000)


def fitted(**parameters):
    X = table()
    label = np.where(X["gauss"] > 3, "high", "low")
    made = Gaussian(
        bounds=BOUNDS, periodic={"phi": 2 * np.pi}, max_epochs=5, random_state=0, **parameters
    )
    return made.fit(X, label), X, label


def test_the_same_events_whatever_the_blocks(monkeypatch):
    monkeypatch.setattr(_base, "_TILE_EVENTS", 64)
    model, _, _ = fitted()
    whole = model.sample(1000, random_state=3)
    part = model.sample(100, y="low", random_state=3)
    monkeypatch.setattr(_base, "_BLOCK_NUMBERS", 5000)
    np.testing.assert_array_equal(model.sample(1000, random_state=3), whole)
    np.testing.assert_array_equal(model.sample(100, y="low", random_state=3), part)
    assert not np.allclose(model.sample(1000, random_state=4), whole)


def test_score_of_counts_is_their_probability():
    X = table()[["hits"]]
    model = Gaussian(max_epochs=1, learning_rate=1e-12, random_state=0).fit(X)
    values, counts = np.unique(X["hits"], return_counts=True)
    # The variable of a discrete column is normal, and so is the model.
    score = model.score_samples(pd.DataFrame({"hits": values}))
    np.testing.assert_allclose(score, np.log(counts / N), atol=1e-6)


def test_score_without_conditions_is_that_of_the_mixture():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, N)
    X = rng.normal(size=(N, 1)) + 4 * y[:, None]
    model = Gaussian(max_epochs=100, schedule="cosine", random_state=0).fit(X, y)
    both = [model.score_samples(X, k) + np.log(np.mean(y == k)) for k in (0, 1)]
    np.testing.assert_allclose(model.score_samples(X), np.logaddexp(*both), rtol=1e-10)
    drawn = model.sample(20_000, random_state=0)[:, 0]
    # Means and shares that are learnt are those of the events, so that only draws differ.
    assert abs(drawn.mean() - X.mean()) < 5 * X.std() / np.sqrt(len(drawn))
    for k in (0, 1):
        own = model.sample(5000, y=k, random_state=0)[:, 0]
        assert abs(own.mean() - 4 * k) < 5 / np.sqrt(len(own)) + 5 / np.sqrt(N / 2)
    assert model.classes_.tolist() == [0, 1]


def test_score_without_continuous_conditions_is_that_of_their_mean():
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 10, N)
    model = Gaussian(max_epochs=60, learning_rate=0.01, schedule="cosine", random_state=0)
    wide = model.fit((y + rng.normal(size=N))[:, None], y)
    # The mean over all conditions of the fit, of which 64 quantiles are as good as it takes.
    at = np.linspace(0, 10, 11)
    exact = [np.exp(wide.score_samples(np.full((N, 1), x), y)).mean() for x in at]
    np.testing.assert_allclose(wide.score_samples(at[:, None]), np.log(exact), atol=0.02)
    # Whatever the order of the events, of which some may stand for two.
    nodes, _, is_exact = Conditions("auto").fit(y[:200]).nodes()
    assert not is_exact
    again = Conditions("auto").fit(np.append(y[:100], y[199:99:-1])).nodes()
    np.testing.assert_allclose(again[0], nodes, rtol=1e-9)
    count = rng.integers(1, 4, 200)
    one = Conditions("auto").fit(y[:200], count.astype(float)).nodes()
    other = Conditions("auto").fit(np.repeat(y[:200], count)).nodes()
    np.testing.assert_allclose(one[0], other[0], rtol=1e-9)
    few = Conditions("auto").fit(np.repeat([1.0, 2.0], [10, 30])).nodes()
    assert few[2]
    np.testing.assert_allclose(few[1], [0.25, 0.75])


def test_too_few_conditions_for_narrow_events_are_told():
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 10, 500)
    model = Gaussian(
        max_epochs=60, learning_rate=0.03, batch_size=32, schedule="cosine", random_state=0
    )
    model.fit((y + 0.001 * rng.normal(size=500))[:, None], y)
    with pytest.warns(UserWarning, match="most events are possible under one"):
        model.score_samples(y[:50, None])


def test_cross_validation_warns_of_no_conditions():
    y = np.random.default_rng(0).normal(size=(200, 1))
    assert np.isfinite(cross_val_score(Gaussian(max_epochs=1), y, y[:, 0], cv=5)).all()


def test_few_learnt_components_have_an_exact_divergence(monkeypatch):
    # Pulses of any height at two places, of more samples than the divergence has probes for.
    rng = np.random.default_rng(0)
    height, late = rng.uniform(1, 3, (1000, 1)), rng.uniform(size=(1000, 1)) < 0.5
    shape = np.exp(-((np.arange(24) - np.where(late, 14, 8)) ** 2) / 8)
    X = (height * shape + 0.01 * rng.standard_normal((1000, 24)))[:, None]
    network = ResidualMLP(width=32, n_blocks=1)
    model = DiffusionSampler(network=network, max_epochs=5, random_state=0).fit(X)
    assert model._n_learnt == 2
    z = torch.from_numpy(model._columns.encode(X[:200].reshape(200, -1))[0])
    gaussian, field = model.module_[1].double().gaussian, model._field(None)
    unit = torch.eye(24, dtype=torch.float64)[None]
    y = gaussian.to_normal(z)
    angles = model._density_angles(y)
    truth = log_density(field, y, angles, unit) + gaussian.log_det
    torch.testing.assert_close(model._log_density(z, None), truth, rtol=1e-9, atol=1e-9)
    # More than can be done exactly are probed, and the others not: without bias.
    monkeypatch.setattr(_diffusion, "_EXACT_VARIABLES", 1)
    away = (model._log_density(z, None) - truth).detach().numpy()
    assert away.std() > 0
    assert abs(away.mean()) < 5 * away.std() / np.sqrt(200)


def test_score_is_weighted():
    X = table()[["gauss", "hits"]]
    model = Gaussian(max_epochs=1, random_state=0).fit(X)
    weight = np.random.default_rng(0).integers(0, 3, N)
    expected = model.score(X.loc[X.index.repeat(weight)])
    assert model.score(X, sample_weight=weight) == pytest.approx(expected, rel=1e-9)


def test_events_come_in_the_shape_in_which_they_went():
    X = np.random.default_rng(0).normal(size=(100, 3, 4)).astype(np.float32)
    model = Gaussian(max_epochs=2, random_state=0)
    drawn = clone(model).fit(X).sample(7, random_state=0)
    assert drawn.shape == (7, 3, 4)
    assert drawn.dtype == np.float32
    rows = clone(model).set_params(input_shape=(3, 4)).fit(X.reshape(100, -1))
    np.testing.assert_array_equal(rows.sample(7, random_state=0), drawn.reshape(7, -1))
    lists = clone(model).fit(X.tolist()).sample(7, random_state=0)
    assert lists.shape == (7, 3, 4)
    assert clone(model).fit(X[:, 0].tolist()).sample(7, random_state=0).shape == (7, 4)


def test_pickles_draw_the_same():
    model, X, label = fitted()
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.sample(5, random_state=0), model.sample(5, random_state=0))
    assert copy.score(X, label) == model.score(X, label)


def test_bad_requests_are_named():
    model, X, label = fitted()
    for n in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="'n_samples' parameter"):
            model.sample(n)
    with pytest.raises(ValueError, match="classes"):
        model.sample(3, y="other")
    with pytest.raises(ValueError, match="fitted without y"):
        Gaussian(max_epochs=1).fit(X).sample(2, y=1.0)
    with pytest.raises(ValueError, match="1 sample"):
        Gaussian(max_epochs=1).fit(X[:1])
    broken = X.copy()
    broken.loc[3, "gauss"] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        Gaussian(max_epochs=1).fit(broken)
    with pytest.raises(ValueError, match="inconsistent"):
        Gaussian(max_epochs=1).fit(X, label[:-1])


@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_events_of_weight_zero_are_absent(kind):
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.exponential(size=60), rng.integers(0, 3, 60)])
    label = rng.choice(["a", "b"], 60)
    model = Gaussian(bounds={0: (0, None)}, discrete=[1], max_epochs=3, random_state=0)
    present = clone(model).fit(X, kind(label), sample_weight=np.ones(60))
    # Out of bounds, with a level and a label of their own.
    more = np.vstack([X, [[-1.0, 0.0], [1.0, 7.0]]])
    weight = np.append(np.ones(60), [0, 0])
    absent = clone(model).fit(more, kind([*label, "c", "c"]), sample_weight=weight)
    assert absent.classes_.tolist() == ["a", "b"]
    np.testing.assert_array_equal(absent.score_samples(X), present.score_samples(X))
    with pytest.raises(ValueError, match="inconsistent"):
        clone(model).fit(more, kind(label), sample_weight=weight)


def test_conditions_after_a_fit_without_them_are_refused():
    model, X, label = fitted()
    assert model.classes_.tolist() == ["high", "low"]
    model.fit(X)
    assert not hasattr(model, "classes_")
    for refused in (model.score_samples, model.score):
        with pytest.raises(ValueError, match="fitted without y"):
            refused(X[:2], [1, 2, 3])
    # A search passes y to all that it fits and scores, whether it is a condition or not.
    aside = clone(model).set_params(condition=None).fit(X, label)
    assert aside.score(X, label) == model.score(X)
    np.testing.assert_array_equal(aside.sample(5, random_state=0), model.sample(5, random_state=0))
    with pytest.raises(ValueError, match="condition"):
        aside.sample(5, y="low")
    # What y is has been settled by the fit.
    assert aside.set_params(condition="auto").score(X, label) == model.score(X)
    conditional = clone(model).fit(X, label)
    expected = conditional.score(X, label)
    assert conditional.set_params(condition=None).score(X, label) == expected
    assert expected != conditional.score(X)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (DiffusionSampler(network=ResidualMLP(width=8, n_blocks=1)), {"learning_rate"}),
        (FlowSampler(), {"learning_rate"}),
        (GANSampler(), {"learning_rate", "critic_learning_rate"}),
        (GANSampler(critic_learning_rate=1e300), {"learning_rate", "critic_learning_rate"}),
        (VAESampler(), {"learning_rate"}),
    ],
    ids=["diffusion", "flow", "gan", "critic", "vae"],
)
def test_advice_after_a_diverged_fit_fits_every_sampler(model, named):
    X = np.random.default_rng(0).normal(size=(100, 2))
    model = clone(model).set_params(optimizer="sgd", max_epochs=5, random_state=0)
    if not getattr(model, "critic_learning_rate", 0) > 1:
        model.set_params(learning_rate=1e300)
    with pytest.raises(TrainingDivergedError) as raised:
        model.fit(X)
    advised = set(re.findall(r"\w*learning_rate|callbacks", str(raised.value)))
    assert advised == named | {"callbacks"} <= set(model.get_params())
    over = GenerativeOverSampler(model, random_state=0)
    with pytest.raises(TrainingDivergedError, match=f"'sampler', here {type(model).__name__}"):
        over.fit_resample(X, np.repeat([0, 1], [60, 40]))


def test_advice_after_diverged_laws_is_theirs(monkeypatch):
    # They have a learning rate that nobody else sets.
    diverging = partial(Laws, learning_rate=1e300, optimizer="sgd")
    monkeypatch.setattr(_base, "Laws", diverging)
    rng = np.random.default_rng(0)
    model = Gaussian(marginals=True, max_epochs=1, random_state=0)
    with pytest.raises(TrainingDivergedError, match="marginals=False") as raised:
        model.fit(rng.normal(size=(100, 2)), rng.uniform(size=100))
    assert "learning_rate" not in str(raised.value)
    model.set_params(marginals=False).fit(rng.normal(size=(100, 2)), rng.uniform(size=100))


def test_advice_after_a_diverged_fit_names_parameters_that_there_are():
    model = Gaussian(optimizer="sgd", learning_rate=1e300, max_epochs=5, random_state=0)
    with pytest.raises(TrainingDivergedError) as raised:
        model.fit(np.random.default_rng(0).normal(size=(100, 2)))
    named = re.findall(r"(\w+)=|(\w+_\w+)", str(raised.value))
    named = {one or other for one, other in named}
    assert named
    assert named <= set(model.get_params())


def test_check_estimator():
    check_estimator(Gaussian(max_epochs=3), on_fail="raise", on_skip=None)
