"""Flow sampler: an exact density, its inverse, closed forms, angles, conditions."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import cumulative_trapezoid
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.samplers import FlowSampler

# What training may lose against the truth, in nats per dimension.
LOST = 0.02
# Statistical errors count four times; other limits give as many false alarms.
SIGMAS = 4
ALARM = 2 * stats.norm.sf(SIGMAS)


def nats(truth, found):
    """Kullback-Leibler divergence, from the log densities of events of the truth, and its error."""
    difference = truth - found
    return difference.mean(), SIGMAS * difference.std() / np.sqrt(len(difference))


def ks_limit(*sizes):
    """What the statistic of Kolmogorov and Smirnov may be by chance."""
    return stats.kstwobign.isf(ALARM) * np.sqrt(np.sum(1 / np.array(sizes)))


def mixture(n, seed=0):
    """Three Gaussians in the plane, and their exact log density."""
    rng = np.random.default_rng(seed)
    means = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])
    covariances = [[[1, 0.8], [0.8, 1]], [[0.3, 0], [0, 2]], [[1.5, -0.5], [-0.5, 0.5]]]
    which = rng.integers(3, size=n)
    X = np.array([rng.multivariate_normal(means[k], covariances[k]) for k in which])
    density = sum(
        stats.multivariate_normal(m, c).pdf(X) / 3 for m, c in zip(means, covariances, strict=True)
    )
    return X, np.log(density)


@pytest.fixture(scope="module")
def plane():
    X, _ = mixture(8000)
    return FlowSampler(max_epochs=20, learning_rate=5e-3, random_state=0).fit(X)


def rough(n_columns, *, seed=1, **parameters):
    """A flow in float64 whose maps are far from the identity."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, n_columns)) @ rng.normal(size=(n_columns, n_columns))
    model = FlowSampler(max_epochs=1, random_state=seed, **parameters).fit(X)
    with torch.no_grad():
        for parameter in model.module_.parameters():
            parameter += 0.3 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
    return model


@pytest.mark.parametrize(
    "parameters",
    [
        {"kind": "autoregressive", "n_transforms": 2, "hidden_layer_sizes": (16,)},
        {"kind": "coupling", "n_transforms": 3, "hidden_layer_sizes": (16,)},
    ],
)
@pytest.mark.parametrize("n_columns", [1, 4, 40])
def test_density_is_that_of_the_noise_times_the_jacobian(n_columns, parameters):
    model = rough(n_columns, **parameters)
    flow = model.module_[1]
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=(3, n_columns)))
    z = flow.generate(noise, None)
    # Forward again.
    features = flow._features(z, None)
    u = (z - flow.mean) @ flow.matrix if flow.whitens else z
    base = flow.flow.transform(features)(u)
    df = flow.flow.degrees_of_freedom()
    expected = stats.t.ppf(stats.norm.cdf(noise.numpy()), df)
    np.testing.assert_allclose(base.detach().numpy(), expected, rtol=1e-6, atol=1e-7)

    def forward(row):
        row = row[None]
        u = (row - flow.mean) @ flow.matrix if flow.whitens else row
        return flow.flow.transform(flow._features(row, None))(u)[0]

    for event, b in zip(z.detach(), expected, strict=True):
        jacobian = torch.autograd.functional.jacobian(forward, event)
        log_density = stats.t.logpdf(b, df).sum() + torch.linalg.slogdet(jacobian)[1].item()
        assert flow.log_prob(event[None], None).item() == pytest.approx(log_density, rel=1e-6)


@pytest.fixture(scope="module")
def grid(plane):
    """Points of the plane and the probability of the cells around them."""
    axes = [np.linspace(-9, 13, 400)] * 2
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return points, np.exp(plane.score_samples(points)) * (axes[0][1] - axes[0][0]) ** 2


@pytest.fixture(scope="module")
def drawn(plane):
    return plane.sample(20_000, random_state=1)


def test_density_is_normalised(grid, drawn):
    _, probability = grid
    outside = (np.abs(drawn - 2) > 11).any(1).sum()
    most_outside = stats.beta.isf(ALARM, outside + 1, len(drawn) - outside)
    total = probability.sum()
    # Splines have kinks, so that a step twice as wide costs four times as much.
    coarse = 4 * probability.reshape(400, 400)[::2, ::2].sum()
    assert 1 - most_outside < total + abs(total - coarse)
    assert total - abs(total - coarse) < 1


def test_density_comes_close_to_the_truth(plane):
    X, log_density = mixture(4000, seed=1)
    lost, error = nats(log_density, plane.score_samples(X))
    assert -error < lost < 2 * LOST + error


def test_events_follow_the_density(grid, drawn):
    points, probability = grid
    for direction in ([1, 0], [0, 1], [1, 1], [1, -1]):
        place, which = np.unique(np.round(points @ direction, 9), return_inverse=True)
        share = np.bincount(which, probability)
        below = np.cumsum(share) - share / 2
        found = stats.kstest(drawn @ direction, lambda x: np.interp(x, place, below))  # noqa: B023
        assert found.statistic < ks_limit(len(drawn))
    left = points - probability @ points
    covariance = (left.T * probability) @ left
    squares = (left.T**2 * probability) @ left**2
    error = np.sqrt((squares - covariance**2) / len(drawn))
    assert (np.abs(np.cov(drawn.T) - covariance) < SIGMAS * error).all()


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
def test_many_correlated_variables(kind):
    # Forty columns of five sources: after whitening, there is almost nothing left to learn.
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(5, 40))
    covariance = factors.T @ factors + 0.01 * np.eye(40)
    truth = stats.multivariate_normal(np.zeros(40), covariance)
    X, X_test = rng.multivariate_normal(np.zeros(40), covariance, (2, 2000))
    model = FlowSampler(
        kind=kind, n_transforms=2, hidden_layer_sizes=(64,), max_epochs=3, random_state=0
    )
    lost, error = nats(truth.logpdf(X_test), model.fit(X).score_samples(X_test))
    # A normal law of known shape loses half an event's share for each of its parameters.
    estimated = (40 + 40 * 41 / 2) / (2 * len(X))
    assert -error < lost < 40 * LOST + estimated + error


def pulses(n, length=40, seed=0):
    """Pulses of any height at two places, under noise of a hundredth of them, (n, 1, length)."""
    rng = np.random.default_rng(seed)
    height, late = rng.uniform(1, 3, (n, 1)), rng.uniform(size=(n, 1)) < 0.5
    shape = np.exp(-((np.arange(length) - np.where(late, 24, 12)) ** 2) / 8)
    return (height * shape + 0.01 * rng.standard_normal((n, length)))[:, None]


def test_signals_are_made_of_their_components():
    X = pulses(2000)
    sizes = (32, 32)
    model = FlowSampler(hidden_layer_sizes=sizes, max_epochs=20, batch_size=64, random_state=0)
    model.fit(X)
    assert model._n_components == 2
    events = model.sample(2000, random_state=0)
    assert events.shape == X.shape
    # What is left of pulses there adds to the variance that of a height, which half of them have.
    left = np.exp(-((np.arange(32, 40) - 24) ** 2) / 8)
    width = np.sqrt(0.01**2 + left**2 * (13 / 6 - 1))
    # Of the events of the fit, and of as many that are drawn.
    error = SIGMAS * np.sqrt(2 / (2 * 2000))
    np.testing.assert_allclose(events[:, 0, 32:].std(0), width, rtol=error)
    # Each is one of both, as high as they are: half-way from a normal law with their moments.
    found, truth = events[:, 0, [12, 24]], X[:, 0, [12, 24]]
    normal = np.random.default_rng(1).multivariate_normal(truth.mean(0), np.cov(truth.T), 2000)
    # A share that is off by p costs 2 p² nats at least (Pinsker), of which one variable has LOST.
    share, error = truth.argmax(1).mean(), SIGMAS * np.sqrt(1 / 4 / 2000)
    assert found.argmax(1).mean() == pytest.approx(share, abs=np.sqrt(LOST / 2) + error)
    assert np.median(found.min(1)) < np.median(normal.min(1)) / 2
    other = stats.ks_2samp(normal.max(1), truth.max(1)).statistic
    assert stats.ks_2samp(found.max(1), truth.max(1)).statistic < other / 2


@pytest.mark.parametrize("dtype", [float, np.int16])
def test_components_of_signals_with_dead_samples(dtype):
    X = np.concatenate([pulses(2000), np.zeros((2000, 1, 3))], 2)
    X = np.round(1000 * X).astype(dtype)
    X[:, :, 5] = 7
    model = FlowSampler(hidden_layer_sizes=(8,), max_epochs=1, random_state=0).fit(X)
    assert model._n_components == 2
    whitened = model.module_[1]
    torch.testing.assert_close(whitened.matrix @ whitened.inverse, torch.eye(X.shape[2]).double())
    # What never varies is none of a component that is learnt, nor of its noise.
    z = torch.randn(4, X.shape[2], dtype=torch.float64)
    other = z.clone()
    other[:, [5, -3, -2, -1]] += 1
    both = [((x - whitened.mean) @ whitened.matrix)[:, :-4] for x in (z, other)]
    torch.testing.assert_close(*both)
    events = model.sample(20, random_state=0)
    assert np.all(events[:, 0, 5] == 7)
    assert not events[:, 0, -3:].any()
    np.testing.assert_array_equal(events, np.round(events) if dtype == np.int16 else events)
    assert np.isfinite(model.score(X[:20]))


def test_density_of_noise_is_that_of_the_normal_law():
    # Two events that differ in what is not learnt only.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 40)) @ rng.normal(size=(40, 40)) + 5
    model = FlowSampler(max_epochs=1, random_state=0).fit(X.reshape(400, 1, 40))
    assert model._n_components == 1
    covariance = np.cov(X.T, bias=True)
    law = stats.multivariate_normal(X.mean(0), covariance)
    axes = np.linalg.eigh(covariance)[1]
    other = X - 0.5 * (X - X.mean(0)) @ axes[:, :-1] @ axes[:, :-1].T
    found = [model.score_samples(x.reshape(400, 1, 40)) for x in (X, other)]
    np.testing.assert_allclose(found[0] - found[1], law.logpdf(X) - law.logpdf(other), rtol=1e-6)
    # What is learnt has one variable and the density of a flow in it.
    y = (X - X.mean(0)) @ axes / np.sqrt(np.linalg.eigvalsh(covariance))
    rest = law.logpdf(X) - stats.norm.logpdf(y[:, -1])
    flow = model.module_[1].flow
    sign = np.sign(((X - X.mean(0)) / model._columns.scale @ model.module_[1].matrix.numpy())[:, 0])
    leading = torch.from_numpy(np.abs(y[:, -1:]) * sign[:, None])
    expected = flow.log_prob(torch.ones(400, 1, dtype=torch.float64), leading).detach().numpy()
    np.testing.assert_allclose(found[0], rest + expected, rtol=1e-6, atol=1e-6)


def angles(n, seed=0):
    """Angles around π, their cosines with an error, and the log density of both."""
    rng = np.random.default_rng(seed)
    angle = (np.pi + 0.5 * rng.normal(size=n)) % (2 * np.pi)
    X = np.column_stack([angle, np.cos(angle) + 0.1 * rng.normal(size=n)])
    return X, stats.norm(np.pi, 0.5).logpdf(angle) + stats.norm(np.cos(angle), 0.1).logpdf(X[:, 1])


def test_angles_have_no_seam():
    X, _ = angles(3000)
    model = FlowSampler(
        periodic={0: 2 * np.pi}, bounds={0: (0, None)}, batch_size=64, random_state=0
    ).fit(X)
    drawn = model.sample(5000, random_state=0)
    assert drawn[:, 0].min() >= 0
    assert drawn[:, 0].max() <= 2 * np.pi
    test, log_density = angles(2000, seed=1)
    lost, error = nats(log_density, model.score_samples(test))
    assert -error < lost < 2 * LOST + error
    # A width that is off by a share e costs e² nats at least, and no more than these are lost.
    stretch = np.sqrt(lost + error)
    away = drawn[:, 1] - np.cos(drawn[:, 0])
    turned = drawn[:, 0] - np.pi
    for found, width in ((away, 0.1), (turned, 0.5)):
        assert found.std() == pytest.approx(width, rel=stretch + SIGMAS / np.sqrt(2 * len(drawn)))
    points = np.array([[1e-9, 1.0], [2 * np.pi - 1e-9, 1.0]])
    one, other = model.score_samples(points)
    assert one == pytest.approx(other, abs=1e-5)
    # A turn changes nothing.
    assert model.score_samples(points + np.array([[2 * np.pi, 0]])) == pytest.approx(
        [one, other], abs=1e-5
    )


def test_conditions_move_and_widen_the_distribution():
    rng = np.random.default_rng(0)
    energy = rng.uniform(1, 4, 4000)
    X = (energy + 0.2 * energy * rng.normal(size=4000))[:, None]
    model = FlowSampler(max_epochs=40, random_state=0).fit(X, energy)
    for value in (1.5, 2.5, 3.5):
        truth = stats.norm(value, 0.2 * value)
        # As probable are the middles of 1000 parts of the truth.
        x = truth.ppf((np.arange(1000) + 0.5) / 1000)
        log_density = model.score_samples(x[:, None], value)
        assert (truth.logpdf(x) - log_density).mean() < LOST
        # The events are those of the density, which is all but 0 at ten standard deviations.
        x = truth.mean() + np.linspace(-10, 10, 1001) * truth.std()
        density = np.exp(model.score_samples(x[:, None], value))
        below = cumulative_trapezoid(density, x, initial=0)
        drawn = model.sample(4000, y=value, random_state=0)[:, 0]
        found = stats.kstest(drawn, lambda points: np.interp(points, x, below))  # noqa: B023
        assert found.statistic < ks_limit(len(drawn))


def energies(n, seed=0):
    """Energies, of which six in ten are 0, and counts that know which, and their log density."""
    rng = np.random.default_rng(seed)
    hit = rng.uniform(size=n) < 0.4
    energy = np.where(hit, rng.exponential(3, n), 0)
    X = np.column_stack([energy, rng.poisson(1 + 3 * hit)])
    law = np.where(hit, np.log(0.4) + stats.expon(scale=3).logpdf(energy), np.log(0.6))
    return X, law + stats.poisson(1 + 3 * hit).logpmf(X[:, 1])


def test_bounds_and_zeros():
    X, _ = energies(4000)
    model = FlowSampler(
        bounds={0: (0, None)}, discrete=[1], max_epochs=40, n_transforms=2, random_state=0
    ).fit(X)
    drawn = model.sample(8000, random_state=0)
    assert np.all(drawn[:, 1] == np.round(drawn[:, 1]))
    test, log_density = energies(4000, seed=1)
    test, log_density = test[kept := np.isin(test[:, 1], X[:, 1])], log_density[kept]
    lost, error = nats(log_density, model.score_samples(test))
    assert -error < lost < 2 * LOST + error
    most = lost + error
    n, n_fit = len(drawn), len(X)
    for there, share, mean in ((False, 0.6, 1), (True, 0.4, 4)):
        own = drawn[(drawn[:, 0] > 0) == there]
        error = SIGMAS * np.sqrt(0.24 * (1 / n + 1 / n_fit))
        assert len(own) / n == pytest.approx(share, abs=error)
        # A mean that is off by d deviations costs d²/2 nats, for a share of the events.
        deviations = np.sqrt(2 * most / share) + SIGMAS / np.sqrt(len(own))
        assert own[:, 1].mean() == pytest.approx(mean, abs=deviations * np.sqrt(mean))
    found = stats.kstest(own[:, 0], stats.expon(scale=3).cdf).statistic
    assert found < ks_limit(len(own), share * n_fit)


def test_a_search_finds_the_flow_that_fits_best():
    X, _ = mixture(800)
    search = GridSearchCV(
        FlowSampler(max_epochs=10, batch_size=64, hidden_layer_sizes=(16,), random_state=0),
        {"n_transforms": [1, 2], "learning_rate": [1e-6, 5e-3]},
        cv=2,
    ).fit(X)
    assert search.best_params_["learning_rate"] == 5e-3


def test_events_of_a_pipeline_come_back_in_its_units():
    X, _ = mixture(1000)
    X = 1000 + 50 * X
    flow = FlowSampler(max_epochs=3, random_state=0)
    model = make_pipeline(StandardScaler(), flow).fit(X)
    drawn = model[:-1].inverse_transform(model[-1].sample(2000, random_state=0))
    # A flow standardises by itself, so that only rounding differs.
    np.testing.assert_allclose(drawn, clone(flow).fit(X).sample(2000, random_state=0), rtol=1e-6)


def test_copies_draw_the_same(plane):
    copy = pickle.loads(pickle.dumps(plane))
    np.testing.assert_array_equal(copy.sample(10, random_state=0), plane.sample(10, random_state=0))
    again = FlowSampler(max_epochs=2, random_state=3)
    X, _ = mixture(500)
    one, other = (again.fit(X).sample(5, random_state=0) for _ in range(2))
    np.testing.assert_array_equal(one, other)
