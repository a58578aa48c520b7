"""Networks of two domains against known shifts, and the contract of what they are given."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn
import torch
from scipy.stats import norm
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, check_cv, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sknuc import _engine, losses
from sknuc.adaptation import (
    CDANClassifier,
    DANNClassifier,
    DANNRegressor,
    DeepCORALClassifier,
    DeepCORALRegressor,
    LabelShiftClassifier,
    MMDClassifier,
)
from sknuc.adaptation._aligned import _solve_ratio
from sknuc.encoders import CNN, MLP
from sknuc.exceptions import DomainWarning
from sknuc.networks import NeuralClassifier, NeuralRegressor
from sknuc.nn import ChannelMap, MultilinearMap

CLASSIFIERS = [DANNClassifier, CDANClassifier, DeepCORALClassifier, MMDClassifier]
REGRESSORS = [DANNRegressor, DeepCORALRegressor]
# Half the distance of the classes, and how far the target is shifted.
MU = DELTA = 1.5


def shifted(n_source, n_target, *, share=0.5, seed=0, gain=1.0, pedestal=DELTA):
    """Two classes at ±μ along the first of two axes; the target's events are shifted.

    Returns events, true labels, and domains; `share` is that of class 1 in the target.
    """
    rng = np.random.default_rng(seed)
    y = np.r_[rng.random(n_source) < 0.5, rng.random(n_target) < share].astype(int)
    X = rng.normal(size=(len(y), 2))
    X[:, 0] += MU * (2 * y - 1)
    domain = np.repeat([1, -1], [n_source, n_target])
    X[domain < 0, 0] = gain * X[domain < 0, 0] + pedestal
    return X, y, domain


def hidden(y, domain, unknown=-7):
    return np.where(domain < 0, unknown, y)


def oracle(share=0.5):
    """Accuracy of the best cut for these shares of the classes."""
    cut = np.log(share / (1 - share)) / (2 * MU)
    return share * norm.cdf(MU + cut) + (1 - share) * norm.cdf(MU - cut)


def source_only(share=0.5):
    """Accuracy of the source's best cut in the target."""
    return share * norm.cdf(MU + DELTA) + (1 - share) * norm.cdf(MU - DELTA)


def binomial(p, n):
    return np.sqrt(p * (1 - p) / n)


# Distances.


def batches_of(law, n, n_batches, seed):
    generator = torch.Generator().manual_seed(seed)
    return law(torch.randn(n_batches, n, 3, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("weighted", [False, True])
def test_coral_is_the_distance_of_the_distributions_on_average(weighted):
    a = torch.tensor([[1.0, 0.3, 0.0], [0.0, 0.8, 0.5], [0.0, 0.0, 1.2]], dtype=torch.float64)
    shift = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    n, m, n_batches = 16, 24, 4000
    source = batches_of(lambda z: z, n, n_batches, 0)
    target = batches_of(lambda z: z @ a + shift, m, n_batches, 1)
    weights = [torch.ones(k, dtype=torch.float64) for k in (n, m)]
    if weighted:
        weights = [torch.linspace(0.5, 1.5, k, dtype=torch.float64) for k in (n, m)]
    shares = [w / w.sum() for w in weights]
    found = torch.stack([losses.coral(s, t, *shares) for s, t in zip(source, target, strict=True)])
    exact = (torch.eye(3) - a.T @ a).square().sum() / (4 * 9) + shift.square().sum() / 3
    # Four standard errors of the mean of the batches, and the third order in 1/n that is left.
    error = 4 * found.std() / n_batches**0.5 + 2 * exact / n**2
    assert abs(found.mean() - exact) < error
    other = batches_of(lambda z: z, n, n_batches, 2)
    pairs = zip(source, other, strict=True)
    same = torch.stack([losses.coral(s, t, shares[0], shares[0]) for s, t in pairs])
    error = 4 * same.std() / n_batches**0.5 + 3 / n**3
    assert abs(same.mean()) < error
    # Without the correction, samples of sixteen events would seem this far apart.
    assert error < 0.1 * 2 * (1 + 1 / 12) / n


def test_mmd_is_the_distance_of_two_gaussians_on_average():
    delta, n, n_batches = 1.0, 32, 2000
    source = batches_of(lambda z: z, n, n_batches, 0)
    shift = torch.tensor([delta, 0.0, 0.0], dtype=torch.float64)
    target = batches_of(lambda z: z + shift, n, n_batches, 1)
    share = torch.full((n,), 1 / n, dtype=torch.float64)
    found = torch.stack([
        losses.maximum_mean_discrepancy(s, t, share, share, n_kernels=1)
        for s, t in zip(source, target, strict=True)
    ])  # fmt: skip
    # Of x - x' ~ N(Δ, 2) on each axis, E exp(-u²/s) = (1 + 4/s)^(-1/2) exp(-Δ²/(s + 4)).
    scale = 6 * (1 - 1 / (2 * n)) + delta**2 / 2
    within = (1 + 4 / scale) ** -1.5
    exact = 2 * within * (1 - np.exp(-(delta**2) / (scale + 4)))
    # The width of the kernel is that of each batch, which scatters by some sqrt(2/3n): its square
    # times the curvature of the distance in the logarithm of the width, which is of order 1.
    assert abs(found.mean() - exact) < 4 * found.std() / n_batches**0.5 + exact * 2 / (3 * n)


def test_kernels_are_squares_of_each_other():
    z = batches_of(lambda z: z, 12, 1, 0)[0]
    share = torch.full((6,), 1 / 6, dtype=torch.float64)
    source, target = z[:6], z[6:] + 0.5
    both = torch.cat([source, target])
    squared = torch.cdist(both, both).square()
    scale = squared.mean()
    kernel = sum(torch.exp(-squared / (scale * 2.0**u)) for u in (-1, 0, 1)) / 3

    def among(block):
        return (block.sum() - block.trace()) / 30

    exact = among(kernel[:6, :6]) + among(kernel[6:, 6:]) - 2 * kernel[:6, 6:].mean()
    found = losses.maximum_mean_discrepancy(source, target, share, share, n_kernels=3)
    assert found == pytest.approx(exact.item(), rel=1e-10)


def test_distances_count_the_events_of_a_weighted_sample_as_kish_does():
    # The moments of an event of weight 2 are those of the event twice; what is subtracted for the
    # pairs of an event with itself, of which the kernel is 1, is that of one event.
    z = batches_of(lambda z: z, 30, 1, 0)[0]
    source, target = z[:10], z[10:] + 0.5
    weight = torch.tensor([1, 2, 3, 1, 4, 1, 1, 2, 1, 1])
    copies = source.repeat_interleave(weight, 0)
    other = torch.full((20,), 1 / 20, dtype=torch.float64)
    shares = weight / weight.sum().double()
    once = losses.maximum_mean_discrepancy(source, target, shares, other, n_kernels=1)
    alike = torch.full((len(copies),), 1 / len(copies), dtype=torch.float64)
    twice = losses.maximum_mean_discrepancy(copies, target, alike, other, n_kernels=1)
    both, share = torch.cat([copies, target]), torch.cat([alike, other]) / 2
    squared = torch.cdist(both, both).square()
    kernel = torch.exp(-squared / (share @ squared @ share))[: len(copies), : len(copies)]
    mean = kernel.mean()
    within = [(mean - chance) / (1 - chance) for chance in (shares @ shares, alike @ alike)]
    assert (once - twice).item() == pytest.approx((within[0] - within[1]).item(), rel=1e-9)
    # An event of weight zero is absent, to rounding.
    for distance in (losses.coral, losses.maximum_mean_discrepancy):
        more, none = torch.cat([source, 9 * source]), torch.zeros(10, dtype=torch.float64)
        found = distance(more, target, torch.cat([shares, none]), other)
        torch.testing.assert_close(found, distance(source, target, shares, other))


@pytest.mark.parametrize("name", ["coral", "maximum_mean_discrepancy"])
def test_distances_of_single_events_are_finite(name):
    one = torch.tensor([1.0])
    value = getattr(losses, name)(torch.zeros(1, 3), torch.ones(1, 3), one, one)
    assert torch.isfinite(value)


def test_random_sums_have_the_scalar_products_of_all_products():
    torch.manual_seed(0)
    n_most = 20_000
    products = MultilinearMap(300, 100, n_most=n_most)
    assert not products.exact
    z, p = torch.randn(2, 300), torch.rand(2, 100)
    found = products(z, p)
    # Each of n products of four normal numbers has at most 9 times the squared norms.
    norms = (z.norm(dim=1) * p.norm(dim=1)).prod()
    exact = (z[0] @ z[1]) * (p[0] @ p[1])
    assert abs(found[0] @ found[1] - exact) < 4 * 3 * norms / n_most**0.5
    exactly = MultilinearMap(3, 2)(z[:, :3], p[:, :2])
    np.testing.assert_allclose(exactly[1].reshape(2, 3), np.outer(p[1, :2], z[1, :3]), rtol=1e-6)


# The game.


def gradients(model, batch, domains, progress):
    """Gradients of the loss of a batch, and of its parts, by parameter."""
    module = copy.deepcopy(model.module_[1]).train()
    model._of_target = domains
    batch.progress = progress
    loss = model._both(module, batch, model._loss())
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    return module, dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("progress", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("game", ["minimax", "non_saturating"])
def test_the_critic_learns_what_the_encoder_unlearns(game, progress):
    X, y, domain = shifted(40, 40)
    settings = {"target_priors": "source", "max_epochs": 1, "encoder": MLP(activation="tanh")}
    model = DANNClassifier(game=game, gradient_penalty=0.0, random_state=0, **settings)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    events = torch.from_numpy(X)
    batch = SimpleNamespace(
        X=events[:40],
        y=torch.from_numpy(y[:40]),
        sample_weight=None,
        other=SimpleNamespace(X=events[40:], sample_weight=None),
    )
    module, found = gradients(model, batch, domain < 0, progress)
    features = module.features(batch.X, batch.other.X)
    told = module.critic(features, None)
    sides = nn.functional.softplus(-told[:40]), nn.functional.softplus(told[40:])
    of_domain = sum(side.mean() for side in sides) / 2
    misled = sum(nn.functional.softplus(side).mean() for side in (told[:40], -told[40:])) / 2
    # Reversed gradients, as published, or the loss of exchanged domains.
    of_encoder = -of_domain if game == "minimax" else misled
    of_class = model._loss()(module.head(features[:40]), batch.y).mean()
    strength = 2 / (1 + np.exp(-10 * progress)) - 1
    for name, parameter in module.named_parameters():
        if name.startswith("critic."):
            expected = torch.autograd.grad(of_domain, parameter, retain_graph=True)[0]
        else:
            total = of_class + strength * of_encoder
            expected = torch.autograd.grad(total, parameter, retain_graph=True)[0]
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)


def test_held_out_events_are_judged_by_the_divergence_at_the_end():
    X, y, domain = shifted(200, 200)
    model = DANNClassifier(max_epochs=20, target_priors="source", random_state=0)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    module, events = model.module_[1].eval(), torch.from_numpy(X)
    batch = SimpleNamespace(
        X=events[:200],
        y=torch.from_numpy(y[:200]),
        sample_weight=None,
        progress=0.0,
        other=SimpleNamespace(X=events[200:], sample_weight=None),
    )
    model.set_params(trade_off=3.0)
    value = model._both(module, batch, model._loss()).item()
    features = module.features(batch.X, batch.other.X)
    told = module.critic(features, None)
    critic = (nn.functional.softplus(-told[:200]).mean()
              + nn.functional.softplus(told[200:]).mean()) / 2  # fmt: skip
    task = model._loss()(module.head(features[:200]), batch.y).mean()
    assert value == pytest.approx((task + 3.0 * (np.log(2) - critic)).item(), rel=1e-9)


# Known shifts.


@pytest.mark.parametrize("E", CLASSIFIERS)
def test_a_shift_is_undone(E):
    X, y, domain = shifted(1000, 1000)
    X_test, y_test, _ = shifted(0, 10_000, seed=1)
    model = E(random_state=0).fit(X, hidden(y, domain), sample_domain=domain)
    accuracy = model.score(X_test, y_test)
    # Three errors of the test, and what a cut that a thousand events found may lose.
    assert accuracy > oracle() - 3 * binomial(oracle(), 10_000) - 0.01
    assert abs(model.target_priors_[1] - 0.5) < 0.06
    # The simulation is told as before.
    X_test, y_test, domain_test = shifted(10_000, 1, seed=2)
    of_source = model.score(X_test, y_test, sample_domain=domain_test)
    assert of_source > oracle() - 3 * binomial(oracle(), 10_000) - 0.01


@pytest.mark.parametrize("E", CLASSIFIERS)
def test_without_a_map_no_network_undoes_it(E):
    X, y, domain = shifted(1000, 1000)
    X_test, y_test, _ = shifted(0, 10_000, seed=1)
    model = E(domain_map=None, target_priors="source", random_state=0)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    assert model.score(X_test, y_test) < source_only() + 0.05


@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("E", [DANNClassifier, CDANClassifier, DeepCORALClassifier])
def test_class_priors_that_differ_are_found(E, share):
    X, y, domain = shifted(1000, 1000, share=share)
    X_test, y_test, _ = shifted(0, 10_000, share=share, seed=1)
    model = E(random_state=0).fit(X, hidden(y, domain), sample_domain=domain)
    accuracy = model.score(X_test, y_test)
    assert accuracy > source_only(share)
    assert accuracy > oracle(share) - 0.04
    # A third of the way from the source's priors would be 0.2 off.
    assert abs(model.target_priors_[1] - share) < 0.1
    assert model.target_priors_.sum() == pytest.approx(1.0)


def test_priors_that_are_known_are_used():
    X, y, domain = shifted(1000, 1000, share=0.8, pedestal=0.0)
    model = DANNClassifier(target_priors=[2, 8], random_state=0)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    np.testing.assert_allclose(model.target_priors_, [0.2, 0.8])
    # Bayes' rule: odds of the target are those of the source times what the priors differ by.
    grid = np.column_stack([np.linspace(-3, 3, 31), np.zeros(31)])
    of_source = model.decision_function(grid, sample_domain=np.ones(31, int))
    mapped = model.module_[1].target_map
    nn.init.zeros_(mapped.log_scale)
    nn.init.zeros_(mapped.shift)
    mapped.set(torch.zeros(2), torch.ones(2), torch.zeros(2))
    share = y[domain > 0].mean()
    odds = np.log(4 * (1 - share) / share)
    np.testing.assert_allclose(model.decision_function(grid) - of_source, odds, rtol=1e-5)


@pytest.mark.parametrize("E", [DANNClassifier, DeepCORALClassifier])
def test_another_unit_and_pedestal_are_found(E):
    X, y, domain = shifted(1000, 1000, gain=30.0, pedestal=400.0)
    X_test, y_test, _ = shifted(0, 10_000, gain=30.0, pedestal=400.0, seed=1)
    model = E(random_state=0).fit(X, hidden(y, domain), sample_domain=domain)
    assert model.score(X_test, y_test) > oracle() - 3 * binomial(oracle(), 10_000) - 0.015


@pytest.mark.parametrize("E", REGRESSORS)
def test_regression_undoes_a_shift(E):
    rng = np.random.default_rng(0)
    y = rng.uniform(size=2000)
    domain = np.tile([1, -1], 1000)
    X = np.column_stack([y + np.where(domain < 0, 0.5, 0.0), rng.normal(size=2000)])
    model = E(random_state=0).fit(X, np.where(domain > 0, y, np.nan), sample_domain=domain)
    target = domain < 0
    # Read as simulation, the target is 0.5 off: R² = 1 - 0.25 · 12.
    assert model.score(X[target], y[target]) > 0.95
    assert model._as_source().score(X[target], y[target]) < 0


def test_images_and_padded_clouds_have_maps_of_their_own():
    rng = np.random.default_rng(0)
    images = rng.exponential(size=(60, 2, 8, 8)).astype(np.float32)
    y, domain = rng.integers(2, size=60), np.repeat([0, -1], 30)
    model = DANNClassifier(encoder=CNN(channels=(4,)), max_epochs=2, random_state=0)
    model.fit(images, y, sample_domain=domain)
    assert model.module_[1].target_map.log_scale.shape == (2, 1, 1)
    clouds = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])
    mapped = ChannelMap((1, 2), padding_axis=0)
    mapped.set(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]), torch.tensor([1.0, 4.0]))
    expected = torch.tensor([[[3.0, 7.0], [0.0, 0.0]]])
    torch.testing.assert_close(mapped(clouds), expected)


def test_the_map_starts_at_what_class_priors_cannot_explain():
    X, y, domain = shifted(2000, 2000, share=0.95, pedestal=0.0)
    model = DANNClassifier(max_epochs=1, learning_rate=1e-12, random_state=0)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    mapped = model.module_[1].target_map
    # More events of one class: nothing is to be undone, but for the statistics of one of the axes.
    assert mapped(torch.zeros(1, 2))[0, 0].item() == pytest.approx(0.0, abs=0.02)
    assert mapped.unit[0].item() == pytest.approx(1.0, abs=0.02)
    X, y, domain = shifted(2000, 2000, gain=100.0, pedestal=-3000.0)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    scaling, network = model.module_
    start = network.target_map(scaling(torch.from_numpy(X[domain < 0]))).detach().numpy()[:, 0]
    source = scaling(torch.from_numpy(X[domain > 0])).numpy()[:, 0]
    centers = [source[y[domain > 0] == k].mean() for k in (0, 1)]
    assert min(centers) - 1e-6 <= start.mean() <= max(centers) + 1e-6
    within = source[y[domain > 0] == 0].std()
    widest = np.sqrt(within**2 + np.ptp(centers) ** 2 / 4)
    assert 0.9 * within < start.std() < 1.1 * widest


def test_a_class_that_the_estimate_lost_is_told():
    # A rare class, so that the domains are alike without it, and far from the other one.
    rng = np.random.default_rng(0)
    y = np.r_[rng.random(1000) < 0.05, np.zeros(1000)].astype(int)
    X, domain = rng.normal(size=(2000, 2)) + 10 * y[:, None], np.repeat([1, -1], 1000)
    model = DeepCORALClassifier(trade_off=0.0, domain_map=None, max_epochs=30, random_state=0)
    with pytest.warns(DomainWarning, match=r"Of the classes \[1\], the target is est") as caught:
        model.fit(X, hidden(y, domain), sample_domain=domain)
    assert caught[0].filename == __file__
    assert model.target_priors_[1] < 0.1 * y[:1000].mean()
    # Known ones are no estimate, nor are those of the source.
    for priors in ([0.999, 0.001], "source"):
        model.set_params(target_priors=priors, max_epochs=1)
        model.fit(X, hidden(y, domain), sample_domain=domain)


def test_priors_are_believed_as_far_as_the_domains_are_alike():
    # All of the target lies where class 1 is, and beyond: its answers are no shares of classes.
    X, y, domain = shifted(500, 500, pedestal=40.0)
    settings = {"domain_map": None, "trade_off": 0.0, "random_state": 0}
    apart = DANNClassifier(**settings).fit(X, hidden(y, domain), sample_domain=domain)
    assert apart.module_[1].likeness < 0.2
    np.testing.assert_allclose(apart.target_priors_[1], y[domain > 0].mean(), rtol=1e-9)
    X, y, domain = shifted(500, 500, share=0.8, pedestal=0.0)
    alike = DANNClassifier(**settings).fit(X, hidden(y, domain), sample_domain=domain)
    # The judge knows of the priors, and sees what the statistics of batches leave.
    network = alike.module_[1]
    assert 0.97 < network.likeness < 1.0
    # The last of 800 steps looked at the ratio: by five times what the judge tells it is less.
    trust = 1 - 5 * (1 - network.likeness)
    ratio = 1 + trust * (network.found_ratio - 1)
    expected = ratio * network.source_priors / (ratio @ network.source_priors)
    np.testing.assert_allclose(alike.target_priors_, expected, rtol=1e-6)
    # The pull, what is not believed, and three errors of the shares of 500 events.
    assert alike.target_priors_[1] == pytest.approx(0.8, abs=0.1)


def test_the_ratio_of_priors_solves_its_equations():
    rng = np.random.default_rng(0)
    source, target = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.3, 0.6])
    answers = rng.dirichlet([1, 1, 1], size=3).T * 0.3 + 0.7 * np.eye(3)
    ratio = _solve_ratio(answers * source, answers @ target)
    exact = target / source
    # The pull to 1, of a tenth, against answers that are right seven times in ten.
    np.testing.assert_allclose(ratio, exact, rtol=0.1)
    assert source @ ratio == pytest.approx(1.0, abs=1e-5)
    # A head that says the same of all events knows nothing.
    np.testing.assert_allclose(_solve_ratio(np.outer(source, source), source), 1.0, atol=1e-5)
    # No class has a negative share, whatever the answers are.
    assert np.all(_solve_ratio(answers * source, np.array([1.2, -0.3, 0.1])) >= 0)


# The contract.


@pytest.mark.parametrize("E", [*CLASSIFIERS, *REGRESSORS])
def test_what_the_target_has_for_labels_changes_no_bit(E):
    X, y, domain = shifted(30, 20)
    model = E(max_epochs=3, random_state=0)
    expected = model.fit(X, hidden(y, domain, 0), sample_domain=domain).predict(X)
    history = model.history_[:, "train_loss"]
    rng = np.random.default_rng(1)
    for unknown in (rng.integers(-99, 99, 50), np.nan, None):
        scrambled = np.where(domain < 0, unknown, y.astype(object))
        if unknown is not None:
            scrambled = scrambled.astype(float)
        again = E(max_epochs=3, random_state=0).fit(X, scrambled, sample_domain=domain)
        np.testing.assert_array_equal(again.predict(X), expected)
        assert again.history_[:, "train_loss"] == history


@pytest.mark.parametrize("E", CLASSIFIERS)
def test_without_domains_it_is_an_ordinary_classifier(E):
    X, y, _ = shifted(100, 0)
    plain = NeuralClassifier(batch_size=64, max_epochs=5, random_state=0).fit(X, y)
    with pytest.warns(DomainWarning, match="no sample_domain"):
        model = E(max_epochs=5, schedule="constant", random_state=0).fit(X, y)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize("E", REGRESSORS)
def test_without_domains_it_is_an_ordinary_regressor(E):
    X, *_ = shifted(100, 0)
    plain = NeuralRegressor(batch_size=64, max_epochs=5, random_state=0).fit(X, X[:, 1] ** 2)
    with pytest.warns(DomainWarning, match="no sample_domain"):
        model = E(max_epochs=5, schedule="constant", random_state=0).fit(X, X[:, 1] ** 2)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


@pytest.mark.parametrize("E", [DANNClassifier, DeepCORALRegressor])
def test_pipelines_and_searches_route_domains(E):
    # Folds are of all events in turn: their order must not be that of the domains.
    X, y, domain = shifted(60, 60)
    order = np.random.default_rng(0).permutation(120)
    X, y, domain = X[order], y[order], domain[order]
    grid = {f"{E.__name__.lower()}__trade_off": [0.1, 1.0]}
    pipe = make_pipeline(StandardScaler(), E(max_epochs=2, random_state=0))
    with sklearn.config_context(enable_metadata_routing=True):
        pipe.fit(X, y, sample_domain=domain)
        assert len(pipe.predict(X)) == len(X)
        search = GridSearchCV(pipe, grid, cv=2).fit(X, y, sample_domain=domain)
        scores = cross_validate(pipe, X, y, cv=2, params={"sample_domain": domain})
    # By hand: fits of both domains, judged by their source.
    by_hand = []
    folds = check_cv(2, y, classifier=sklearn.base.is_classifier(pipe))
    for train, test in folds.split(X, y):
        scaler = StandardScaler().fit(X[train])
        model = E(max_epochs=2, random_state=0)
        model.fit(scaler.transform(X[train]), y[train], sample_domain=domain[train])
        known = test[domain[test] > 0]
        made = model.predict(scaler.transform(X[known]), sample_domain=domain[known])
        judge = accuracy_score if sklearn.base.is_classifier(model) else r2_score
        by_hand.append(judge(y[known], made))
    np.testing.assert_allclose(scores["test_score"], by_hand, rtol=1e-9)
    # One of the candidates is what was cross-validated.
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(np.mean(by_hand), rel=1e-9)
    assert search.best_estimator_[-1].module_[1].target_map is not None
    # And without routing, by the names of the steps.
    again = make_pipeline(StandardScaler(), E(max_epochs=2, random_state=0))
    again.fit(X, y, **{f"{E.__name__.lower()}__sample_domain": domain})
    np.testing.assert_array_equal(again.predict(X), pipe.predict(X))


@pytest.mark.parametrize("E", [*CLASSIFIERS, *REGRESSORS, LabelShiftClassifier])
def test_scores_of_searches_look_at_no_label_of_the_target(E):
    X, y, domain = shifted(60, 60)
    options = {} if E is LabelShiftClassifier else {"max_epochs": 1}
    scores = []
    for seed in (0, 1):
        scrambled = np.where(domain < 0, np.random.default_rng(seed).permutation(y), y)
        with sklearn.config_context(enable_metadata_routing=True):
            scores.append(
                cross_val_score(
                    E(random_state=0, **options),
                    X,
                    scrambled,
                    cv=KFold(3, shuffle=True, random_state=0),
                    params={"sample_domain": domain},
                )
            )
    np.testing.assert_array_equal(*scores)


def test_class_shares_of_the_target_are_not_those_that_score_the_source():
    X, y, domain = shifted(400, 400, share=0.95, pedestal=0.0)
    model = LabelShiftClassifier(random_state=0).fit(X, hidden(y, domain), sample_domain=domain)
    plain = LabelShiftClassifier(random_state=0)
    with pytest.warns(DomainWarning):
        plain.fit(X[:400], y[:400])
    known = plain.score(X[:400], y[:400])
    assert model.score(X, hidden(y, domain), sample_domain=domain) == known
    # With the odds of the target's shares, three sigmas of the cut lie in the other class.
    assert model.score(X[:400], y[:400]) < known - 0.05


def test_every_event_is_predicted_as_what_it_is():
    X, y, domain = shifted(60, 60)
    model = DANNClassifier(max_epochs=10, random_state=0)
    with pytest.raises(NotFittedError):
        model.predict(X, sample_domain=domain)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    order = np.random.default_rng(0).permutation(120)
    X, domain = X[order], domain[order]
    target = domain < 0
    for name in ("predict", "predict_proba", "decision_function"):
        method = getattr(model, name)
        both = method(X, sample_domain=domain)
        # In batches of other sizes, the last bit may differ.
        np.testing.assert_allclose(both[target], method(X)[target], rtol=1e-12)
        of_source = method(X[~target], sample_domain=np.zeros(60, int))
        np.testing.assert_array_equal(both[~target], of_source)
        assert len(method(X)) == 120
    assert np.any(method(X)[~target] != of_source)
    # No events are an error, as without domains.
    for name in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            getattr(model, name)(X[:0], sample_domain=domain[:0])
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("E", [DANNClassifier, DANNRegressor, MMDClassifier, DeepCORALRegressor])
def test_events_of_weight_zero_are_absent(E):
    X, y, domain = shifted(60, 60)
    weight = np.random.default_rng(0).integers(0, 2, 120).astype(float)
    there = weight > 0
    model = E(max_epochs=3, random_state=0).fit(X, y, weight, sample_domain=domain)
    again = E(max_epochs=3, random_state=0)
    again.fit(X[there], y[there], np.ones(there.sum()), sample_domain=domain[there])
    np.testing.assert_array_equal(model.predict(X), again.predict(X))


@pytest.mark.parametrize("E", [*CLASSIFIERS, *REGRESSORS])
def test_the_unit_of_weights_has_no_meaning(E):
    X, y, domain = shifted(20, 15)
    weight = np.random.default_rng(0).uniform(0.5, 2.0, 35)
    # Those of generators are small, and sum to less than one event.
    fits = [
        E(max_epochs=3, random_state=0).fit(X, y, unit * weight, sample_domain=domain).predict(X)
        for unit in (1.0, 2.0**-20)
    ]
    np.testing.assert_allclose(*fits, rtol=1e-6)


# CORAL and MMD are the exception that CONTRIBUTING.md names: see the test of distances above.
@pytest.mark.parametrize("E", [DANNClassifier, CDANClassifier, DANNRegressor])
def test_a_weight_of_two_is_the_event_twice(E):
    X, y, domain = shifted(20, 15)
    weight = np.random.default_rng(0).integers(1, 4, 35)
    # One batch per epoch, as batches of other events would differ.
    settings = {"max_epochs": 5, "batch_size": 1000, "random_state": 0}
    model = E(**settings).fit(X, y, weight, sample_domain=domain)
    copies = np.repeat(np.arange(35), weight)
    again = E(**settings).fit(X[copies], y[copies], sample_domain=domain[copies])
    np.testing.assert_allclose(model.predict(X), again.predict(X), rtol=1e-6, atol=1e-9)
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(model.predict_proba(X), again.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("E", [DANNClassifier, DeepCORALClassifier, MMDClassifier])
@pytest.mark.parametrize("n_target", [2, 5])
def test_a_target_of_a_few_events_is_in_every_step(E, n_target):
    X, y, domain = shifted(300, n_target)
    model = E(max_epochs=2, random_state=0).fit(X, hidden(y, domain), sample_domain=domain)
    assert np.isfinite(model.predict_proba(X)).all()
    assert np.isfinite(model.history_[:, "train_loss"]).all()


def test_an_epoch_is_a_pass_over_the_larger_sample():
    X = np.arange(107.0).reshape(-1, 1)
    source = _engine.EventSource(X, (1,), torch.float64, torch.device("cpu"))

    def serve(rows, seed):
        return _engine.TrainingData(source, {}, rows=rows, batch_size=10, seeds=seed)

    for first, second in ((range(7), range(7, 107)), (range(100), range(100, 107))):
        pair = _engine.PairedData(serve([*first], 1), serve([*second], 2))
        batches = list(pair)
        assert len(batches) == pair.n_batches == 10
        assert sum(len(batch) for batch in batches) == len(pair)
        for rows, parts in ((first, batches), (second, [batch.other for batch in batches])):
            seen = torch.cat([part.X for part in parts]).flatten().numpy()
            times = np.bincount(seen.astype(int), minlength=107)[[*rows]]
            assert times.min() == times.max() == (1 if len(rows) == 100 else 10)
        larger = batches if len(first) == 100 else [batch.other for batch in batches]
        assert not torch.equal(larger[0].X.flatten().sort()[0], torch.arange(10.0).double())


def test_early_stopping_needs_no_labels_of_the_target():
    X, y, domain = shifted(200, 200)
    settings = {"early_stopping": True, "n_iter_no_change": 3, "random_state": 0}
    model = DeepCORALClassifier(max_epochs=300, **settings)
    model.fit(X, hidden(y, domain), sample_domain=domain)
    assert model.n_iter_ < 300
    assert "valid_loss" in model.history_[-1]
    again = DeepCORALClassifier(max_epochs=300, **settings).fit(X, y, sample_domain=domain)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("E", [DeepCORALClassifier, DANNRegressor])
@pytest.mark.parametrize("sizes", [(100, 2), (100, 5), (12, 100)])
def test_early_stopping_holds_out_events_of_either_domain(E, sizes):
    X, y, domain = shifted(*sizes)
    settings = {"max_epochs": 2, "early_stopping": True, "validation_fraction": 0.2}
    model = E(random_state=0, **settings).fit(X, hidden(y, domain), sample_domain=domain)
    assert np.isfinite(model.history_[:, "valid_loss"]).all()


def test_domains_too_small_to_hold_out_of_are_named():
    X, y, domain = shifted(3, 40)
    y[:3] = 0, 1, 1
    model = DeepCORALClassifier(max_epochs=1, early_stopping=True)
    words = (
        r"early_stopping=True cannot.*validation_fraction=0.1 of 3 events of the source domain "
        r"\(beside 40 of the target\)"
    )
    with pytest.raises(ValueError, match=words):
        model.fit(X, y, sample_domain=domain)
    X, y, domain = shifted(40, 2)
    words = r"validation_fraction=0.9 of 2 events of the target domain \(beside 40 of the source\)"
    with pytest.raises(ValueError, match=words):
        model.set_params(validation_fraction=0.9).fit(X, y, sample_domain=domain)


def test_the_largest_network_of_a_fit_decides_on_threads():
    X, y, domain = shifted(20, 20)
    wide = DANNClassifier(encoder=MLP(hidden_layer_sizes=(300, 300)), max_epochs=1)
    wide.fit(X, y, sample_domain=domain)
    assert wide._largest_product == 300 * 300
    # Of this fit alone: the critic's 64 features of 300, then of 8.
    wide.set_params(encoder=MLP(hidden_layer_sizes=(8,))).fit(X, y, sample_domain=domain)
    assert wide._largest_product == 8 * 64


def test_fits_with_and_without_domains_are_not_mixed():
    X, y, domain = shifted(20, 20)
    model = DeepCORALClassifier(max_epochs=1, random_state=0).fit(X, y, sample_domain=domain)
    model.set_params(warm_start=True)
    with pytest.raises(ValueError, match=r"had a sample_domain\. Got none now.*warm_start=False"):
        model.fit(X, y)
    model.set_params(warm_start=False)
    with pytest.warns(DomainWarning):
        model.fit(X, y)
    # What the fit before has found of the target.
    assert not hasattr(model, "target_priors_")
    with pytest.raises(ValueError, match=r"had no sample_domain\. Got one now"):
        model.set_params(warm_start=True).fit(X, y, sample_domain=domain)


def test_training_goes_on():
    X, y, domain = shifted(60, 60)
    model = DANNClassifier(max_epochs=2, warm_start=True, random_state=0)
    model.fit(X, y, sample_domain=domain)
    before = copy.deepcopy(model.module_.state_dict())
    model.fit(X, y, sample_domain=domain)
    assert model.n_iter_ == 4
    moved = [k for k, v in model.module_.state_dict().items() if not torch.equal(v, before[k])]
    assert any("target_map" in name for name in moved)
    assert any("critic" in name for name in moved)


def test_bad_input_is_refused_with_words():
    X, y, domain = shifted(20, 20)
    model = DANNClassifier(max_epochs=1)
    cases = [
        (np.ones(40, int), "at least 2 of the target domain"),
        (-np.ones(40, int), "at least 1 of the source domain"),
        (np.r_[np.ones(39, int), -1], "at least 2 of the target domain"),
        (np.full(40, 0.5), "must have an integer per event"),
        (np.full(40, np.nan), "must have an integer per event"),
        (["simulation"] * 40, "must have an integer per event"),
        (domain[:-1], "inconsistent numbers"),
    ]
    for codes, words in cases:
        with pytest.raises(ValueError, match=words):
            model.fit(X, y, sample_domain=codes)
    with pytest.raises(ValueError, match="only one class"):
        model.fit(X, np.zeros(40, int), sample_domain=domain)
    for priors in ([0.5], [0.5, 0.2, 0.3], [-1, 2], [0, 0], [np.inf, 1], ["a", "b"]):
        with pytest.raises(ValueError, match="'target_priors' parameter"):
            DANNClassifier(target_priors=priors).fit(X, y, sample_domain=domain)
    with pytest.raises(ValueError, match=r"'critic' parameter must be an object, such as MLP\(\)"):
        DANNClassifier(critic=MLP).fit(X, y, sample_domain=domain)
    bad = SimpleNamespace(build=lambda shape: 3)
    with pytest.raises(TypeError, match=r"'critic' parameter must return a .*Module.*returned 3"):
        CDANClassifier(critic=bad).fit(X, y, sample_domain=domain)
    for betas in (("a", "b"), [[0.1, 0.2], [0.3, 0.4]], (0.5,), (2, 3)):
        with pytest.raises(ValueError, match="'betas' parameter must be two numbers"):
            CDANClassifier(betas=betas, optimizer="sgd").fit(X, y, sample_domain=domain)
        with (
            pytest.warns(DomainWarning),
            pytest.raises(ValueError, match="'betas' parameter must be two numbers"),
        ):
            CDANClassifier(betas=betas).fit(X, y)
    with pytest.raises(ValueError, match="'domain_map' parameter"):
        DANNClassifier(domain_map="affine").fit(X, y, sample_domain=domain)
    model.fit(X, y, sample_domain=domain)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.predict(X, sample_domain=domain[:-1])
    with pytest.raises(ValueError, match=r"sample_weight.*\(3,\)"):
        model.score(X, y, np.ones(3), sample_domain=domain)
    assert model.score(X, y, 2.0, sample_domain=domain) == model.score(X, y, sample_domain=domain)
