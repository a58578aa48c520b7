"""MutualInformation: closed forms of Gaussians and classes, ceilings, and errors that cover."""

import pickle

import numpy as np
import pytest
import torch
from scipy.special import softmax, xlogy
from sklearn.base import clone

from sknuc import losses
from sknuc.encoders import CNN, MLP
from sknuc.representation import MutualInformation

SIGMAS = 4
BOUNDS = ["infonce", "nwj", "dv", "smile"]
# What a trained critic may miss of a small mutual information, in nats.
LOST = 0.03


def gaussian(n, correlation, d=1, seed=0):
    """Pairs whose mutual information is -d/2 ln(1 - ρ²)."""
    rng = np.random.default_rng(seed)
    x, e = rng.normal(size=(2, n, d))
    y = correlation * x + np.sqrt(1 - correlation**2) * e
    return x, y, -d / 2 * np.log(1 - correlation**2)


def best_critic(x, y, correlation):
    """Scores (n, n), the logarithms of density ratios."""
    r2 = correlation**2
    square = (x**2).sum(1)[:, None] + (y**2).sum(1)
    log_ratio = (2 * correlation * x @ y.T - r2 * square) / (2 * (1 - r2))
    return torch.tensor(log_ratio - x.shape[1] / 2 * np.log(1 - r2))


@pytest.mark.parametrize("weighted", [False, True])
def test_bounds_are_means_over_pairs(weighted):
    rng = np.random.default_rng(0)
    n = 6
    scores = rng.normal(size=(n, n))
    weight = rng.uniform(0.5, 2, n) if weighted else np.ones(n)
    given = torch.tensor(weight) if weighted else None
    found = losses.nwj(torch.tensor(scores), weight=given)
    for i in range(n):
        others = np.arange(n) != i
        expected = np.average(np.exp(scores[i, others] - 1), weights=weight[others])
        assert found[i].item() == pytest.approx(expected - scores[i, i], rel=1e-12)
    found = losses.donsker_varadhan(torch.tensor(scores), weight=given)
    pairs = np.outer(weight, weight) * (1 - np.eye(n))
    # The mean over the partners of an event, and that over events.
    rows = (pairs * np.exp(scores)).sum(1) / pairs.sum(1)
    expected = np.log(np.average(rows, weights=weight)) - np.diag(scores)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_best_critic_reaches_the_closed_form(bound):
    x, y, truth = gaussian(1000, 0.5)
    model = MutualInformation(bound=bound, batch_size=1000)
    scores = best_critic(x, y, 0.5) + (1 if bound == "nwj" else 0)
    value, error, _ = estimate(model, scores)
    assert value == pytest.approx(truth, abs=SIGMAS * error)
    # The error is that of the scatter of samples.
    values = []
    for seed in range(60):
        x, y, _ = gaussian(300, 0.5, seed=seed + 1)
        scores = best_critic(x, y, 0.5) + (1 if bound == "nwj" else 0)
        values.append(estimate(model, scores)[:2])
    values, errors = np.array(values).T
    # The spread of 60 has a relative error of 1/√120.
    assert np.std(values, ddof=1) / errors.mean() == pytest.approx(1, abs=SIGMAS / np.sqrt(120))


def estimate(model, scores, weight=None):
    """Value, error and ceiling of a bound for given scores."""

    class Fixed(MutualInformation):
        def _of_events(self, X):
            return scores

        def _of_targets(self, y):
            return torch.zeros(len(y), 1)

    with pytest.MonkeyPatch.context() as patch:
        module = "sknuc.representation._information.pair_scores"
        patch.setattr(module, lambda left, right: left)
        n = len(scores)
        fixed = Fixed(bound=model.bound, batch_size=n)
        return fixed._estimate(np.zeros((n, 1)), np.zeros((n, 1)), weight)


@pytest.mark.parametrize("law", ["lognormal", "few heavy ones"])
def test_a_critic_that_knows_nothing_finds_nothing_whatever_the_weights(law):
    rng = np.random.default_rng(0)
    weight = rng.lognormal(sigma=1.5, size=300)
    if law == "few heavy ones":
        weight = np.where(rng.random(300) < 0.05, 100.0, 1.0)
    scores = torch.full((300, 300), 0.7, dtype=torch.float64)
    value, error, ceiling = estimate(MutualInformation(), scores, weight)
    assert value == pytest.approx(0, abs=1e-12)
    assert error == pytest.approx(0, abs=1e-12)
    # Of the lightest event, the others are the most.
    assert ceiling == pytest.approx(np.log(301 - weight.min() / weight.mean()))
    # And one that knows all reaches no more than that.
    sure = estimate(MutualInformation(), 1e4 * torch.eye(300, dtype=torch.float64), weight)
    assert 0.5 * ceiling < sure[0] <= ceiling


@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_of_infonce_is_that_of_its_events(weighted):
    # What an event adds is the derivative of the bound with its weight, over the others' as well.
    rng = np.random.default_rng(0)
    n = 40
    scores = torch.tensor(rng.normal(size=(n, n)))
    w = torch.tensor(rng.lognormal(size=n) if weighted else np.ones(n))
    w = (w / w.mean()).requires_grad_()

    def bound(w):
        others = scores.exp() * (1 - torch.eye(n))
        partners = 1 + w.sum() - w
        mean = (scores.diagonal().exp() + others @ w) / partners
        return (w * (scores.diagonal() - mean.log())).sum() / w.sum()

    value = bound(w)
    (slope,) = torch.autograd.grad(value, w)
    exact = (w * slope).square().sum().sqrt()
    found = estimate(MutualInformation(), scores, w.detach().numpy())
    assert found[0] == pytest.approx(value.item(), rel=1e-10)
    # The event itself is one of its partners: the share of its own, of the order of 1/n.
    assert found[1] == pytest.approx(exact.item(), rel=3 / n)


def test_a_batch_of_one_pair_has_no_others():
    one = torch.full((1, 1), 0.3, dtype=torch.float64)
    assert losses.donsker_varadhan(one).item() == losses.donsker_varadhan(one, weight=one).item()
    assert losses.donsker_varadhan(one).item() == pytest.approx(-0.3)
    x, y, _ = gaussian(8, 0.5)
    model = MutualInformation(bound="dv", batch_size=1, max_epochs=2, random_state=0).fit(x, y)
    assert np.isfinite(model.history_[:, "train_loss"]).all()
    assert np.isfinite(model.transform(x)).all()


@pytest.mark.parametrize("bound", BOUNDS)
def test_small_information_is_found_by_all_bounds(bound):
    x, y, truth = gaussian(4000, 0.6, d=2)
    model = MutualInformation(bound=bound, max_epochs=15, random_state=0).fit(x, y)
    error = SIGMAS * model.mutual_information_error_
    assert truth - LOST - error < model.mutual_information_ < truth + error
    # As many new events as were held out.
    x, y, _ = gaussian(1000, 0.6, d=2, seed=1)
    assert truth - LOST - error < model.score(x, y) < truth + error


@pytest.mark.filterwarnings("ignore:The estimate, .* is close")
def test_infonce_saturates_at_the_logarithm_of_the_batch():
    x, y, truth = gaussian(4000, 0.9, d=4)
    assert truth == pytest.approx(3.321, abs=5e-4)
    model = MutualInformation(batch_size=16, max_epochs=8, random_state=0).fit(x, y)
    # Blocks are made alike, none of more than 16 events.
    assert model.ceiling_ <= np.log(16) == pytest.approx(2.773, abs=5e-4)
    assert 2.0 < model.mutual_information_ < model.ceiling_


def test_an_estimate_at_its_ceiling_warns():
    x, y, _ = gaussian(1200, 0.99, d=3)
    with pytest.warns(UserWarning, match="the mutual information may be larger"):
        MutualInformation(batch_size=8, max_epochs=5, random_state=0).fit(x, y)


def test_independent_pairs_have_none():
    x, _, _ = gaussian(3000, 0.5)
    y = np.random.default_rng(5).normal(size=3000)
    model = MutualInformation(max_epochs=5, random_state=0).fit(x, y)
    assert -LOST < model.mutual_information_ < SIGMAS * model.mutual_information_error_ + 1e-3


def test_classes():
    rng = np.random.default_rng(0)
    n = 6000
    label = rng.choice(["single site", "multi site"], n)
    x = rng.normal(size=n) + 2.0 * (label == "multi site")
    model = MutualInformation(max_epochs=15, random_state=0).fit(x[:, None], label)
    assert model.classes_.tolist() == ["multi site", "single site"]
    # H(y) - H(y|x), from the posterior.
    p = softmax(np.stack([2.0 * x - 2.0, np.zeros(n)], 1), axis=1)
    truth = np.log(2) + xlogy(p, p).sum(1).mean()
    error = SIGMAS * model.mutual_information_error_
    assert truth - LOST - error < model.mutual_information_ < truth + error
    pointwise = model.pointwise_information(x[:, None], label)
    expected = np.log(2 * np.where(label == "multi site", p[:, 0], p[:, 1]))
    usual = np.abs(x - 1) < 2
    assert np.abs(pointwise - expected)[usual].mean() < 0.1
    with pytest.raises(ValueError, match=r"labels \['alpha'\]"):
        model.score([[0.0], [1.0]], ["alpha", "multi site"])


def test_pointwise_information_is_the_log_density_ratio():
    x, y, truth = gaussian(6000, 0.7)
    model = MutualInformation(max_epochs=20, random_state=0).fit(x, y[:, 0])
    x, y, _ = gaussian(2000, 0.7, seed=3)
    expected = best_critic(x, y, 0.7).diagonal().numpy()
    found = model.pointwise_information(x, y[:, 0])
    usual = np.abs(x[:, 0]) < 2
    assert np.abs(found - expected)[usual].mean() < 0.1
    assert found.mean() == pytest.approx(truth, abs=LOST + SIGMAS * expected.std() / 2000**0.5)


def test_one_pair_of_weight_two_is_the_pair_twice():
    x, y, _ = gaussian(60, 0.8, d=2)
    weight = np.random.default_rng(0).integers(0, 4, 60)
    parameters = {"max_epochs": 3, "batch_size": 16, "random_state": 0}
    weighted = MutualInformation(**parameters).fit(x, y, sample_weight=weight)
    order = np.random.default_rng(1).permutation(weight.sum())
    repeated = MutualInformation(**parameters).fit(
        np.repeat(x, weight, axis=0)[order], np.repeat(y, weight, axis=0)[order]
    )
    np.testing.assert_array_equal(weighted.transform(x), repeated.transform(x))
    assert weighted.mutual_information_ == repeated.mutual_information_


def test_units_do_not_matter_and_pickles_and_signals_work():
    rng = np.random.default_rng(0)
    t = np.arange(32)
    width = rng.uniform(2, 5, 400)
    X = np.exp(-(((t - 16) / width[:, None]) ** 2))[:, None]
    model = MutualInformation(
        encoder=CNN(channels=(4, 8), n_blocks=0), max_epochs=10, batch_size=50, random_state=0
    ).fit(X, width)
    assert model.mutual_information_ > 0.5
    loaded = pickle.loads(pickle.dumps(model))
    assert loaded.score(X, width) == model.score(X, width)
    assert model.transform(X).shape == (400, 32)
    assert list(model.get_feature_names_out())[:1] == ["mutualinformation0"]
    again = clone(model).fit(X, width)
    assert again.mutual_information_ == model.mutual_information_


def test_what_cannot_be_estimated_is_refused():
    x, y, _ = gaussian(30, 0.5)
    with pytest.raises(ValueError, match="four different events"):
        MutualInformation().fit(x[:3], y[:3])
    with pytest.raises(ValueError, match="'target_layers'"):
        MutualInformation(target_layers=(0,)).fit(x, y)
    model = MutualInformation(max_epochs=1, encoder=MLP(), random_state=0).fit(x, y)
    with pytest.raises(ValueError, match="fitted on 1 targets"):
        model.score(x, np.hstack([y, y]))
    with pytest.raises(ValueError, match="two pairs"):
        model.score(x[:1], y[:1])
