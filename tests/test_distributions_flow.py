"""Conditional flows: an exact density, and draws, quantiles and moments that are its own."""

import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.model_selection import GridSearchCV
from torch import nn

from sknuc.distributions import FlowRegressor
from sknuc.distributions._flow import _base_points, _FlowPredictive, _partial_square
from sknuc.encoders import MLP
from sknuc.nn._flow import BOX, ConditionalFlow


def random_flow(angular, n_transforms=2, seed=0):
    """A flow far from the identity, and features of five events."""
    angular = np.array(angular)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        order = np.arange(len(angular))
        orders = [order[::-1] if i % 2 else order for i in range(n_transforms)]
        flow = ConditionalFlow(nn.Identity(), 3, angular, orders, (16,), 6).double()
        for layer in flow.layers:
            nn.init.normal_(layer.network[-1].weight, std=0.7)
        nn.init.normal_(flow.log_df)
        features = torch.randn(5, 3, dtype=torch.float64)
    return flow, features


def predictive(angular, *, n_transforms=2, n_draws=1024):
    flow, features = random_flow(angular, n_transforms)
    t = len(angular)
    angular = np.array(angular)
    scale = np.where(angular, 1, 0.1 * 3.0 ** np.arange(t))
    return _FlowPredictive(flow, features, np.arange(t) - 2.0, scale, n_draws)


KINDS = {
    "one target": [False],
    "three targets": [False, False, False],
    "angle": [True],
    "angle and energies": [False, True, False],
}


@pytest.mark.parametrize("kind", KINDS)
def test_slope_is_the_jacobian(kind):
    flow, features = random_flow(KINDS[kind])
    t = len(KINDS[kind])
    y = torch.from_numpy(np.random.default_rng(0).uniform(-3, 3, (5, t)))
    for event in range(5):
        transform = flow.transform(features[event])
        z, log_slope = transform.call_and_ladj(y[event])
        jacobian = torch.autograd.functional.jacobian(transform, y[event])
        assert torch.linalg.slogdet(jacobian)[1].item() == pytest.approx(log_slope.item(), abs=1e-9)
        torch.testing.assert_close(transform.inv(z), y[event], atol=1e-8, rtol=0)


def test_later_targets_do_not_change_what_earlier_ones_become():
    flow, features = random_flow([False, True, False], n_transforms=1)
    y = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(flow.transform(features[0]), y)
    assert torch.equal(torch.triu(jacobian, 1), torch.zeros(3, 3, dtype=torch.float64))
    assert (torch.tril(jacobian).abs() > 1e-6).sum() == 6


class TestDensity:
    @pytest.mark.parametrize("n_transforms", [1, 2])
    def test_of_one_target_is_normalised_and_has_the_moments(self, n_transforms):
        p = predictive([False], n_transforms=n_transforms)
        # Cells of the box, and cells that grow with the distance from it, as the tails need.
        box = p._in_units(p._invert(np.linspace(-BOX, BOX, 1001)[None, :, None]))[..., 0]
        far = np.expm1(np.linspace(0, 40, 81))[1:]
        edges = np.concatenate([box[:, :1] - far[::-1], box, box[:, -1:] + far], axis=1)
        nodes, weights = np.polynomial.legendre.leggauss(6)
        half = np.diff(edges)[..., None] / 2
        y = (edges[:, :-1, None] + half + half * nodes).reshape(5, -1)
        shares = (half * weights).reshape(5, -1)
        features = p.features.repeat_interleave(y.shape[1], 0)
        many = _FlowPredictive(p.flow, features, p.shift, p.scale, p.n_draws)
        shares = shares * np.exp(many.log_prob(y.reshape(-1, 1))).reshape(y.shape)
        mean, std = p.mean(), p.std()[:, 0]
        np.testing.assert_allclose(shares.sum(1), 1, atol=2e-4)
        np.testing.assert_allclose((shares * (y - mean)).sum(1) / std, 0, atol=2e-4)
        np.testing.assert_allclose(np.sqrt((shares * (y - mean) ** 2).sum(1)), std, rtol=1e-3)

    def test_of_two_targets_is_normalised(self):
        p = predictive([False, True])
        u = np.concatenate([-np.geomspace(60, 3, 150), np.linspace(-2.99, 2.99, 300)])
        u = np.concatenate([u, np.geomspace(3, 60, 150)]) - 2
        v = np.linspace(-np.pi, np.pi, 201)
        grid = np.stack(np.meshgrid(u, v, indexing="ij"), -1).reshape(-1, 2)
        one = _FlowPredictive(
            p.flow, p.features[:1].expand(len(grid), -1), p.shift, np.array([1.0, 1]), 8
        )
        density = np.exp(one.log_prob(grid)).reshape(len(u), len(v))
        total = integrate.trapezoid(integrate.trapezoid(density, v, axis=1), u)
        # What lies beyond 60 scales, and the error of the grid.
        assert total == pytest.approx(1, abs=5e-3)

    @pytest.mark.parametrize("kind", ["angle", "angle and energies"])
    def test_is_periodic_and_continuous_across_the_seam(self, kind):
        p = predictive(KINDS[kind])
        rng = np.random.default_rng(0)
        y = rng.uniform(-3, 3, (5, len(KINDS[kind])))
        angle = KINDS[kind].index(True)
        turned = y.copy()
        turned[:, angle] += 2 * np.pi
        np.testing.assert_allclose(p.log_prob(turned), p.log_prob(y), atol=1e-8)
        jumps = []
        for phi in np.linspace(-np.pi, np.pi, 9):
            left, right = y.copy(), y.copy()
            left[:, angle], right[:, angle] = phi - 1e-7, phi + 1e-7
            jumps.append(np.abs(p.log_prob(left) - p.log_prob(right)).max())
        assert max(jumps) < 1e-4

    def test_tails_are_students(self):
        # Beyond the box the map is a straight line: the ratio of densities is Student's.
        p = predictive([False], n_transforms=1)
        df = p.flow.degrees_of_freedom()[0]
        y = p._in_units(p._invert(np.array([6.0, 60.0])[None, :, None]))
        ratio = p.log_prob(y[:, 1]) - p.log_prob(y[:, 0])
        expected = stats.t.logpdf(60, df) - stats.t.logpdf(6, df)
        np.testing.assert_allclose(ratio, expected, rtol=1e-9)
        far, _ = integrate.quad(lambda z: 2 * z**2 * stats.t.pdf(z, df), BOX, np.inf)
        assert 2 * _partial_square(df, -BOX) == pytest.approx(far, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_df", [-20.0, -2.0, 2.0, 9.0, 14.0, 40.0])
def test_tails_of_any_weight_have_the_density_of_scipy(log_df, dtype):
    flow, features = random_flow([False])
    flow, features = flow.to(dtype), features.to(dtype)
    flow.log_df.data.fill_(log_df)
    y = torch.linspace(-3, 3, 5, dtype=dtype)[:, None]
    with torch.no_grad():
        z, log_slope = flow.transform(features).call_and_ladj(y)
        base = flow.log_prob(features, y) - log_slope
    (df,) = flow.degrees_of_freedom()
    # Bounded, so that nothing overflows and the variance is one.
    assert df == pytest.approx(2 + np.clip(np.exp(log_df), 0.01, 1e4), rel=1e-6)
    expected = stats.t.logpdf(z[:, 0].double().numpy(), df)
    # Rounding of what differences are taken of, here in `dtype`, there always in double precision.
    size = 1 + np.abs(base.numpy()) + np.abs(log_slope.numpy()) + np.abs(z[:, 0].numpy())
    error = 20 * torch.finfo(dtype).eps * size + 4 * np.finfo(np.float64).eps * df * np.log(df)
    assert np.all(np.abs(base.numpy() - expected) < error)


def test_degrees_of_freedom_find_back_from_beyond_their_bounds():
    flow, features = random_flow([False], seed=1)
    flow.log_df.data.fill_(-8.0)
    y = flow.transform(features).inv(torch.full((5, 1), 1.5, dtype=torch.float64)).detach()
    flow.log_prob(features, y).sum().backward()
    # At z = 1.5 lighter tails have the larger density.
    assert flow.log_df.grad.item() > 0


@pytest.mark.parametrize("orders", [[[0, 1, 2, 3]], [[2, 0, 3, 1], [1, 3, 0, 2]], [[0, 1, 1, 0]]])
def test_inverse_is_that_of_all_targets_at_once(orders):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        angular = np.array([False, True, False, False])
        flow = ConditionalFlow(nn.Identity(), 3, angular, [np.array(o) for o in orders], (16,), 6)
        flow = flow.double()
        for layer in flow.layers:
            nn.init.normal_(layer.network[-1].weight, std=0.7)
        features, z = torch.randn(5, 1, 3).double(), torch.randn(5, 7, 4).double()
    with torch.no_grad():
        y = flow.transform(features).inv(z)
        slow = z
        for layer in reversed(flow.layers):
            step, guess = layer(features), torch.zeros_like(slow)
            for _ in range(4):
                guess = step.meta(guess).inv(slow)
            slow = guess
        torch.testing.assert_close(y, slow, atol=1e-12, rtol=0)
        torch.testing.assert_close(flow.transform(features)(y), z, atol=1e-8, rtol=0)


@pytest.mark.parametrize("n_transforms", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_quantiles_and_moments(kind, n_transforms):
    n_draws, n_even = 20_000, 2**14
    p = predictive(KINDS[kind], n_transforms=n_transforms, n_draws=n_even)
    # Squares of draws have a standard deviation from four degrees of freedom on.
    p.flow.log_df.data.clamp_(min=np.log(6.0))
    draws = p.sample(n_draws, np.random.RandomState(1)).transpose(0, 2, 1)
    mean, std = p.mean()[:, None], p.std()
    angular = np.array(KINDS[kind])
    away = draws - mean
    away = np.where(angular, np.remainder(away + np.pi, 2 * np.pi) - np.pi, away)
    # What 20,000 draws leave open; and, but for one target, the evenly spread ones, which are no
    # worse than as many random ones.
    error = 4.5 * np.sqrt(1 / n_draws + (kind != "one target") / n_even)
    # The direction of the mean of angles, the mean of everything else.
    offset = np.where(angular, np.sin(away).mean(1), away.mean(1))
    assert np.all(np.abs(offset) < error * std)
    squares = away**2
    assert np.all(np.abs(squares.mean(1) - std**2) < error * squares.std(1))
    levels = np.array([0.05, 0.3, 0.5, 0.95])
    quantiles = p.quantiles(levels)
    assert quantiles.shape == (5, 4, len(angular))
    below = ((mean + away)[:, None] < quantiles[:, :, None]).mean(2)
    allowed = error * np.sqrt(levels * (1 - levels))
    assert np.all(np.abs(below - levels[:, None]) < allowed[:, None])
    for coverage in (0.68, 0.95, 0.99):
        low, high = np.moveaxis(p.quantiles([(1 - coverage) / 2, (1 + coverage) / 2]), 1, 0)
        inside = ((low[:, None] < mean + away) & (mean + away < high[:, None])).mean(1)
        allowed = error * np.sqrt(coverage * (1 - coverage))
        assert np.all(np.abs(inside - coverage) < allowed)


@pytest.mark.parametrize("n_transforms", [1, 2])
def test_evenly_spread_draws_are_better_than_random_ones(n_transforms):
    few, many = (
        predictive([False] * 4, n_transforms=n_transforms, n_draws=n) for n in (1024, 2**15)
    )
    # Of means, a third of the error of random draws at most.
    offset = ((few.mean() - many.mean()) / many.std())[:, 1:]
    assert np.sqrt(np.mean(offset**2)) < 1 / np.sqrt(1024) / 3
    levels = np.array([0.005, 0.16, 0.5, 0.84, 0.995])
    draws = many._in_units(many._draws[1])
    below = (draws[:, None] < few.quantiles(levels)[:, :, None]).mean(2)[..., 1:]
    error = np.sqrt(np.mean((below - levels[:, None]) ** 2, axis=(0, 2)))
    assert np.all(error < np.sqrt(levels * (1 - levels) / 1024))


def test_the_first_of_several_targets_is_exact():
    p = predictive([False, False], n_transforms=1)
    rough = predictive([False, False], n_transforms=1, n_draws=4)
    for answer in ("mean", "std"):
        first, same = getattr(p, answer)()[:, 0], getattr(rough, answer)()[:, 0]
        np.testing.assert_allclose(first, same, rtol=1e-12)
    levels = np.array([1e-5, 0.3, 0.999])
    y = p.quantiles(levels)[..., 0]
    at = torch.from_numpy(np.stack([(y - p.shift[0]) / p.scale[0], np.zeros_like(y)], -1))
    z = p.flow.transform(p.features[:, None])(at).detach().numpy()[..., 0]
    cdf = stats.t.cdf(z, p.flow.degrees_of_freedom()[0])
    np.testing.assert_allclose(cdf, np.broadcast_to(levels, cdf.shape), rtol=1e-6)


@pytest.mark.parametrize("n", [2, 7, 1024])
def test_evenly_spread_points_have_the_variance_of_the_law(n):
    flow, _ = random_flow([False, True, False])
    points = _base_points(flow, n)
    df = flow.degrees_of_freedom()[[0, 2]]
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-12)
    middle = 0 if n % 2 == 0 else 1 / n
    variance = (points[:, [0, 2]] ** 2).mean(0)
    assert np.all(variance <= df / (df - 2) * (1 + 1e-9))
    assert np.all(variance >= df / (df - 2) - 0.3 * middle**2 - 1e-9)
    # One point in each of n equal parts.
    parts = np.sort(stats.t.cdf(points[:, 0], df[0])) * n
    np.testing.assert_array_equal(np.floor(parts), np.arange(n))


def test_quantiles_of_one_target_invert_the_distribution_function():
    p = predictive([False])
    levels = np.array([1e-6, 0.1, 0.5, 0.999])
    y = p.quantiles(levels)[..., 0]
    z = p.flow.transform(p.features[:, None])(torch.from_numpy((y - p.shift) / p.scale)[..., None])
    cdf = stats.t.cdf(z.detach().numpy()[..., 0], p.flow.degrees_of_freedom()[0])
    np.testing.assert_allclose(cdf, np.broadcast_to(levels, cdf.shape), rtol=1e-6)


def inverse_problem(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    y = x**2 + 0.05 * rng.normal(size=n)
    return y[:, None].astype(np.float32), x.astype(np.float32)


def skewed(n, seed):
    """Log-normal with a width that grows with x; the entropy is known for each event."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, n)
    sigma = 0.2 + 0.4 * x
    y = x + np.exp(sigma * rng.normal(size=n))
    return x[:, None].astype(np.float32), y.astype(np.float32), sigma


@pytest.fixture(scope="module")
def log_normal():
    X, y, _ = skewed(6000, 0)
    return FlowRegressor(max_epochs=25, random_state=0).fit(X, y)


class TestLearning:
    def test_inverse_problem(self):
        X, y = inverse_problem(10_000, 0)
        model = FlowRegressor(max_epochs=30, random_state=0).fit(X, y)
        X, y = inverse_problem(20_000, 1)
        assert -model.log_prob(X, y).mean() == pytest.approx(-0.887, abs=0.05)
        # Two answers of equal weight, and nothing between them.
        draws = model.sample_y(np.array([[0.49]], dtype=np.float32), 20_000)[0]
        assert np.mean(np.abs(np.abs(draws) - 0.7) < 0.12) > 0.95
        assert np.mean(draws > 0) == pytest.approx(0.5, abs=0.06)

    def test_skewed_law_with_its_widths(self, log_normal):
        X, y, sigma = skewed(20_000, 1)
        truth = stats.lognorm(sigma).logpdf(y.astype(float) - X[:, 0])
        assert np.mean(truth - log_normal.log_prob(X, y)) == pytest.approx(0, abs=0.03)
        levels = [0.1, 0.5, 0.9]
        exact = X + stats.lognorm(sigma[:, None]).ppf(levels)
        error = (log_normal.predict_quantiles(X, levels) - exact) / sigma[:, None]
        assert np.all(np.sqrt(np.mean(error**2, axis=0)) < 0.15)

    def test_intervals_cover_and_draws_follow_the_truth(self, log_normal):
        X, y, _ = skewed(20_000, 2)
        interval = log_normal.predict_interval(X, 0.9)
        assert np.mean((interval[:, 0] < y) & (y < interval[:, 1])) == pytest.approx(0.9, abs=0.02)
        at = np.full((1, 1), 0.5, dtype=np.float32)
        draws = log_normal.sample_y(at, 20_000)[0]
        distance = stats.kstest(draws - 0.5, stats.lognorm(0.4).cdf).statistic
        # Six thousand events over a range of widths fix a distribution function to some per cent.
        assert distance < 0.04

    def test_heavy_tails_are_learned(self):
        rng = np.random.default_rng(0)
        X, y = np.zeros((6000, 1), np.float32), rng.standard_t(3, 6000).astype(np.float32)
        model = FlowRegressor(
            encoder=MLP(hidden_layer_sizes=(8,)), max_epochs=40, learning_rate=0.01, random_state=0
        ).fit(X, y)
        new = rng.standard_t(3, 20_000)
        excess = stats.t(3).logpdf(new) - model.log_prob(np.zeros((20_000, 1), np.float32), new)
        assert excess.mean() < 0.02
        # A power law, whose index few events fix; Gaussian tails would lose a thousand nats.
        far = np.array([80.0, 40.0, -80.0, -40.0])
        log_prob = model.log_prob(np.zeros((4, 1), np.float32), far).reshape(2, 2)
        index = np.diff(log_prob)[:, 0] / np.log(2)
        assert np.all((index > 3) & (index < 8))

    def test_correlations_of_targets(self):
        rng = np.random.default_rng(0)
        covariance = np.array([[1, 0.8], [0.8, 1]])
        X = rng.normal(size=(8000, 1)).astype(np.float32)
        y = X + rng.multivariate_normal([0, 0], covariance, 8000)
        model = FlowRegressor(max_epochs=20, n_draws=256, random_state=0).fit(X[:6000], y[:6000])
        residual = y[6000:] - X[6000:]
        truth = stats.multivariate_normal([0, 0], covariance).logpdf(residual)
        assert np.mean(truth - model.log_prob(X[6000:], y[6000:])) == pytest.approx(0, abs=0.04)
        draws = model.sample_y(X[6000:], 1)[..., 0] - X[6000:]
        assert np.corrcoef(draws.T)[0, 1] == pytest.approx(0.8, abs=0.03)
        mean, std = model.predict(X[6000:6300], return_std=True)
        assert np.sqrt(np.mean((mean - X[6000:6300]) ** 2)) < 0.1
        np.testing.assert_allclose(std.mean(0), 1, rtol=0.05)

    def test_angle_is_learned_across_the_seam(self):
        rng = np.random.default_rng(0)
        X = rng.uniform(0, 360, (6000, 1))
        features = np.column_stack([np.cos(np.radians(X)), np.sin(np.radians(X))])
        phi = np.mod(np.degrees(rng.vonmises(np.radians(X[:, 0]), 20)), 360)
        model = FlowRegressor(periodic=360.0, max_epochs=20, random_state=0)
        model.fit(features[:5000].astype(np.float32), phi[:5000])
        new = features[5000:].astype(np.float32)
        truth = stats.vonmises(20).logpdf(np.radians(phi - X[:, 0]))[5000:] - np.log(180 / np.pi)
        assert np.mean(truth - model.log_prob(new, phi[5000:])) == pytest.approx(0, abs=0.06)
        np.testing.assert_array_equal(model.degrees_of_freedom_, [np.inf])
        draws = model.sample_y(new, 20)
        assert draws.min() >= -1
        assert draws.max() <= 361
        away = np.mod(model.predict(new) - X[5000:, 0] + 180, 360) - 180
        std = np.degrees(stats.vonmises(20).std())
        assert np.sqrt(np.mean(away**2)) < 0.3 * std
        interval = model.predict_interval(new, 0.68)
        np.testing.assert_allclose(np.diff(interval).mean(), 2 * 0.9945 * std, rtol=0.1)


class TestEstimator:
    def test_predictions_do_not_depend_on_the_block(self):
        X, y = inverse_problem(200, 0)
        for target in (y, np.column_stack([y, y**2])):
            model = FlowRegressor(max_epochs=3, n_draws=64, random_state=0)
            model.fit(X.astype(np.float64), target)
            whole = model.predict_quantiles(X.astype(np.float64), [0.1, 0.9])
            alone = np.concatenate(
                [model.predict_quantiles(x[None].astype(np.float64), [0.1, 0.9]) for x in X[:9]]
            )
            np.testing.assert_allclose(whole[:9], alone, rtol=1e-9)

    def test_weights_are_repetitions(self):
        X, y = (a.astype(np.float64) for a in inverse_problem(60, 0))
        weight = np.random.default_rng(0).integers(0, 3, 60)
        fit = {"max_epochs": 5, "random_state": 0}
        weighted = FlowRegressor(**fit).fit(X, y, sample_weight=weight)
        repeated = FlowRegressor(**fit).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
        np.testing.assert_allclose(weighted.log_prob(X, y), repeated.log_prob(X, y), rtol=1e-7)

    def test_units_of_the_targets_do_not_matter(self):
        X, y = (a.astype(np.float64) for a in inverse_problem(200, 0))
        fit = {"max_epochs": 5, "random_state": 0}
        model = FlowRegressor(**fit).fit(X, y)
        other = FlowRegressor(**fit).fit(X, 1e6 + 1e3 * y)
        np.testing.assert_allclose(
            other.log_prob(X, 1e6 + 1e3 * y), model.log_prob(X, y) - np.log(1e3), rtol=1e-5
        )
        mean, std = model.predict(X, return_std=True)
        np.testing.assert_allclose(other.predict(X, return_std=True)[1], 1e3 * std, rtol=1e-5)
        np.testing.assert_allclose(other.predict(X), 1e6 + 1e3 * mean, rtol=1e-9)

    def test_pickle_and_search(self):
        X, y = inverse_problem(300, 0)
        search = GridSearchCV(
            FlowRegressor(max_epochs=3, random_state=0),
            {"bins": [4, 8]},
            scoring=lambda model, X, y: model.log_prob(X, y).mean(),
            cv=2,
        ).fit(X, y)
        model = search.best_estimator_
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.sample_y(X, 3), model.sample_y(X, 3))
        assert model.predict(X).dtype == np.float32

    @pytest.mark.parametrize(
        ("parameter", "value"), [("periodic", {0: 9.0}), ("bins", 4), ("hidden_layer_sizes", (8,))]
    )
    def test_warm_start_refuses_another_network(self, parameter, value):
        X, y = inverse_problem(50, 0)
        model = FlowRegressor(max_epochs=1, warm_start=True, random_state=0).fit(X, y)
        before = model.log_prob(X, y)
        with pytest.raises(ValueError, match=f"'{parameter}' parameter was"):
            model.set_params(**{parameter: value}).fit(X, y)
        np.testing.assert_array_equal(model.log_prob(X, y), before)

    @pytest.mark.parametrize(
        ("parameter", "value"),
        [
            ("periodic", [None, 360.0]),
            ("periodic", -1.0),
            ("periodic", {1: 360.0}),
            ("periodic", {0: -1.0}),
            ("periodic", {0: "rad"}),
            ("periodic", True),
            ("periodic", {0: (360.0, 0)}),
            ("hidden_layer_sizes", (8, 0)),
            ("hidden_layer_sizes", (8, True)),
            ("bins", 1),
        ],
    )
    def test_wrong_parameters_are_named(self, parameter, value):
        X, y = inverse_problem(20, 0)
        with pytest.raises(ValueError, match=f"The '{parameter}' parameter"):
            FlowRegressor(**{parameter: value}).fit(X, y)
