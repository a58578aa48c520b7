"""Columns that are normal by their laws given a condition: events, densities and gaps."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import softmax

from sknuc.samplers import FlowSampler, VAESampler
from sknuc.samplers._marginals import ConditionalColumns


def _voxels(n, seed=0):
    """Three exponential energies in units of the particle's, zero below a threshold."""
    rng = np.random.default_rng(seed)
    energy = np.exp(rng.uniform(0, 1.5, n))
    deposit = energy[:, None] * rng.exponential([0.5, 1.0, 2.0], (n, 3))
    return np.where(deposit > 1, deposit, 0) / energy[:, None], np.log(energy)


def _log_law(X, y):
    """Log of the density above 1/E, and of the probability of zero."""
    scale = np.array([0.5, 1.0, 2.0])
    zero = np.log(-np.expm1(-np.exp(-y)[:, None] / scale))
    return np.where(X > 0, -X / scale - np.log(scale), zero).sum(1)


@pytest.fixture(scope="module")
def sampler():
    model = VAESampler(marginals=True, bounds=(0, None), n_latent=2, max_epochs=15, random_state=0)
    return model.fit(*_voxels(10_000))


def test_events_come_back(sampler):
    X, y = _voxels(500, 1)
    columns, condition = sampler._columns, sampler._encode_conditions(y, 500, "sample")
    z, low, high = columns.encode(X, condition=condition)
    assert z.shape == (500, 3)
    rng = np.random.default_rng(0)
    z = columns.draw(z, low, high, rng.uniform(size=low.shape))
    np.testing.assert_allclose(columns.decode(z, condition), X, rtol=1e-4)


def test_variables_are_normal_under_every_condition(sampler):
    X, y = _voxels(6000, 1)
    columns, condition = sampler._columns, sampler._encode_conditions(y, 6000, "sample")
    z, low, high = columns.encode(X, condition=condition)
    z = columns.draw(z, low, high, np.random.default_rng(0).uniform(size=low.shape))
    for low in (0, 0.5, 1):
        part = z[(y >= low) & (y < low + 0.5)]
        # Four standard errors, of these events and of the third of 10,000 that taught the laws.
        error = np.sqrt(1 / len(part) + 3 / 10_000)
        np.testing.assert_allclose(part.mean(0), 0, atol=4 * error)
        np.testing.assert_allclose(part.std(0), 1, atol=4 * error / np.sqrt(2))


def test_gaps_and_zeros_move_with_the_condition(sampler):
    for y in (0.2, 1.3):
        X = sampler.sample(4000, y=y, random_state=0)
        hit = X > 0
        expected = np.exp(-np.exp(-y) / np.array([0.5, 1.0, 2.0]))
        error = np.sqrt(expected * (1 - expected) * (1 / len(X) + 3 / 10_000))
        np.testing.assert_array_less(np.abs(hit.mean(0) - expected), 4 * error)
        # The threshold is where it was. Were it that of any condition, more would lie below.
        gap = 0.9 * np.exp(-y)
        assert (X[hit] < gap).mean() < 0.01
        others = _voxels(4000, 3)[0]
        assert y > 1 or (others[others > 0] < gap).mean() > 0.1


def test_bound_of_the_density_is_that_of_events(sampler):
    X, y = _voxels(1000, 2)
    lost = _log_law(X, y) - sampler.score_samples(X, y)
    error = lost.std() / np.sqrt(len(lost))
    # No more than the truth has, and 0.02 nats less per column.
    assert -4 * error < lost.mean() < 0.06 + 4 * error


def test_weight_two_is_the_event_twice():
    X, y = _voxels(300)
    weight = np.random.default_rng(0).integers(0, 3, 300)
    twice = np.repeat(np.arange(300), weight)

    def laws(X, y, sample_weight=None):
        model = VAESampler(marginals=True, bounds=(0, None), n_latent=2, max_epochs=1)
        model.set_params(batch_size=1000, random_state=0, atoms={0: [0], 1: [0], 2: [0]})
        module = model.fit(X, y, sample_weight)._columns.laws.module_
        return {name: value.numpy() for name, value in module.state_dict().items()}

    weighted, repeated = laws(X, y, weight), laws(X[twice], y[twice])
    assert weighted.keys() == repeated.keys()
    for name, value in weighted.items():
        np.testing.assert_allclose(value, repeated[name], rtol=1e-4, atol=1e-5)


def test_laws_take_tables_with_conditions():
    X = _voxels(50)[0]
    with pytest.raises(ValueError, match="'marginals' parameter of VAESampler must be 'auto'"):
        VAESampler(marginals=True, max_epochs=1).fit(X)


def test_conditions_of_codes_are_weighed_by_their_densities_of_events():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2000)
    X = y[:, None] + rng.normal(size=(2000, 4)) * np.where(y, 0.2, 1.0)[:, None]
    model = VAESampler(marginals=True, n_latent=2, max_epochs=10, random_state=0).fit(X, y)
    share = np.bincount(y) / len(y)
    X, y = X[:500], y[:500]
    each = np.stack([model.transform(X, k) for k in (0, 1)])
    log_density = np.stack([model.score_samples(X, k) for k in (0, 1)])
    probability = softmax(log_density + np.log(share)[:, None], axis=0)
    # The law of the events themselves: both bounds are near it, and one another.
    expected = (probability[:, :, None] * each).sum(0)
    off = np.abs(model.transform(X) - expected) / np.abs(each[1] - each[0])
    assert off.mean() < 0.05
    own = np.abs(model.transform(X) - each[y, np.arange(500)])
    assert (own < 0.2 * np.abs(each[1] - each[0])).mean() > 0.9


@pytest.mark.parametrize("method", [FlowSampler, VAESampler])
@pytest.mark.parametrize("wanted", [True, np.True_])
def test_laws_are_those_of_tables(method, wanted):
    rng = np.random.default_rng(0)
    images, y = rng.normal(size=(50, 1, 6, 7)), rng.uniform(size=50)
    with pytest.raises(ValueError, match=r"'marginals' parameter of .* must be 'auto' or False"):
        method(marginals=wanted, max_epochs=1).fit(images, y)
    with pytest.raises(ValueError, match=r"'marginals' parameter of .* must be 'auto' or False"):
        method(marginals=wanted, max_epochs=1).fit(rng.normal(size=(50, 3)))
    # Zeros in more pixels than a table needs columns for "auto".
    images[rng.uniform(size=images.shape) < 0.3] = 0
    model = method(max_epochs=1, random_state=0).fit(images, y)
    assert not isinstance(model._columns, ConditionalColumns)


def test_values_that_the_fit_did_not_see_count_as_half_an_event():
    rng = np.random.default_rng(0)
    y = rng.uniform(size=2000)
    known = np.array([0.0, 1.0, 2.0, 5.0])
    # Zeros become rarer with the condition.
    X = np.column_stack([known[rng.binomial(3, 0.1 + 0.4 * y)], rng.normal(size=2000)])
    options = {"atoms": {0: known}, "max_epochs": 5, "random_state": 0}
    lost = {}
    for marginals in (True, False):
        model = FlowSampler(marginals=marginals, **options).fit(X, y)
        columns, condition = model._columns, model._encode_conditions(y[:200], 200, "sample")
        score, low, high = {}, {}, {}
        # Of those that are not known, one is below, one between and one above the others.
        for value in (-1.0, 3.0, 7.0, *known):
            events = np.column_stack([np.full(200, value), X[:200, 1]])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                score[value] = model.score_samples(events, y[:200])
                _, low[value], high[value] = (
                    part[:, 0] for part in columns.encode(events, condition=condition)
                )
            assert any("half an event" in str(w.message) for w in caught) == (value not in known)
        for value in (-1.0, 3.0, 7.0):
            np.testing.assert_allclose(high[value] - low[value], 0.5 / 2000, rtol=1e-9)
        np.testing.assert_array_equal(low[-1.0], 0)
        np.testing.assert_allclose(high[7.0], 1, rtol=1e-12)
        np.testing.assert_allclose((low[3.0] + high[3.0]) / 2, low[5.0], rtol=1e-6)
        np.testing.assert_allclose((low[3.0] + high[3.0]) / 2, high[2.0], rtol=1e-6)
        lost[marginals] = [score[5.0].mean() - score[value].mean() for value in (-1.0, 3.0, 7.0)]
    # The rarest that is known has some 60 events.
    assert min(lost[True] + lost[False]) > 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_laws_compute_in_the_type_of_events(dtype):
    X, y = _voxels(2000)
    model = FlowSampler(marginals=True, bounds=(0, None), max_epochs=1, random_state=0)
    model.fit(X.astype(dtype), y)
    columns, condition = model._columns, model._encode_conditions(y, 2000, "sample")
    expected = {np.float32: torch.float32, np.float64: torch.float64}[dtype]
    assert {p.dtype for p in columns.laws.module_.parameters()} == {expected}
    assert model.sample(10, random_state=0).dtype == dtype
    # And there and back are as exact as the type is.
    z, low, high = columns.encode(X.astype(dtype), condition=condition)
    z = columns.draw(z, low, high, np.full_like(low, 0.5))
    back = columns.decode(z, condition)
    np.testing.assert_array_equal(back == 0, X == 0)
    np.testing.assert_allclose(back, X, rtol={np.float32: 1e-3, np.float64: 1e-9}[dtype])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_do_not_change_events(monkeypatch, dtype):
    # Blocks of the laws end within those of the network, and are filled up.
    monkeypatch.setattr("sknuc.samplers._marginals._BLOCK_NUMBERS", 3 * 64)
    X, y = _voxels(1500)
    model = FlowSampler(marginals=True, bounds=(0, None), max_epochs=1, random_state=0)
    model.fit(X.astype(dtype), y)
    columns, condition = model._columns, model._encode_conditions(y, 1500, "sample")
    z, *_ = columns.encode(X, condition=condition)
    slope, events = columns.log_slope(X, condition), columns.decode(z, condition)
    for rows in [slice(k, k + n) for n in (1, 3, 65) for k in (0, 100, 1499 - n)]:
        given = condition[rows]
        np.testing.assert_array_equal(columns.encode(X[rows], condition=given)[0], z[rows])
        np.testing.assert_array_equal(columns.log_slope(X[rows], given), slope[rows])
        np.testing.assert_array_equal(columns.decode(z[rows], given), events[rows])
    expected = model.sample(1025, y=y[:1025], random_state=0)
    for numbers in (2**12, 2**16):
        monkeypatch.setattr("sknuc.samplers._base._BLOCK_NUMBERS", numbers)
        np.testing.assert_array_equal(model.sample(1025, y=y[:1025], random_state=0), expected)


@pytest.mark.parametrize(("n_values", "laws"), [(50, True), (150, False)])
def test_auto_takes_columns_of_few_values(n_values, laws):
    rng = np.random.default_rng(0)
    X = rng.exponential(size=(300, 40))
    X[:, :39] *= rng.integers(0, 2, (300, 39))
    X[:, 39] = np.arange(300) % n_values
    model = FlowSampler(discrete=[39], max_epochs=1, random_state=0)
    model.fit(X, rng.uniform(size=300))
    assert isinstance(model._columns, ConditionalColumns) == laws
