"""Jets: spectra, moments and the exact conditional distribution, against closed forms and scipy."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtri
from sklearn.utils import check_random_state

from sknuc.datasets import make_jets

# Default, and a detector so coarse that a good part of the momenta would not be positive.
SETTINGS = {
    "default": {},
    "coarse": {"pt_range": (5.0, 30.0), "spectral_index": 2.5, "correlation": -0.8},
    "fine": {"pt_range": (300.0, 400.0), "mass_resolution": 0.5, "correlation": 0.3},
}


@pytest.fixture(params=list(SETTINGS))
def jets(request):
    return make_jets(40_000, **SETTINGS[request.param], random_state=0)


def some_jets(conditional, n=5):
    """Generated jets over the range where the response is defined."""
    lowest = conditional.angular_resolution / 0.35
    pt = np.geomspace(max(lowest, 4.0), 800.0, n)
    return np.column_stack([pt, np.linspace(-2, 2, n), np.linspace(-3.1, 3.1, n), 0.1 * pt])


def cut_normal(conditional, X):
    """scipy's distribution of pT'."""
    sigma, _ = conditional.widths(X[:, 0])
    return stats.truncnorm(-1 / sigma, np.inf, loc=X[:, 0], scale=X[:, 0] * sigma)


def uniform(values):
    return stats.kstest(values, "uniform").pvalue > 1e-4


def test_spectra_of_generated_jets():
    X = make_jets(50_000, pt_range=(30.0, 200.0), spectral_index=4.0, random_state=1).data
    X = X.astype(np.float64)
    power = 30.0**-3 - X[:, 0] ** -3.0
    assert uniform(power / (30.0**-3 - 200.0**-3))
    assert uniform((X[:, 1] + 2.5) / 5)
    assert uniform((X[:, 2] + np.pi) / (2 * np.pi))
    ratio = np.log(X[:, 3] / X[:, 0])
    assert stats.kstest(ratio, stats.norm(np.log(0.12), 0.4).cdf).pvalue > 1e-4
    # Nothing else depends on anything.
    columns = np.column_stack([X[:, 0], X[:, 1], X[:, 2], ratio])
    assert np.all(np.abs(np.triu(np.corrcoef(columns.T), 1)) < 5 / np.sqrt(len(X)))


def test_the_bunch():
    jets = make_jets(70, as_frame=True, random_state=3)
    assert (jets.data.dtype, jets.target.dtype) == (np.float32, np.float32)
    assert jets.target_names == ["reco_pt", "reco_eta", "reco_phi", "reco_mass"]
    np.testing.assert_array_equal(jets.frame[jets.feature_names], jets.data)
    np.testing.assert_array_equal(jets.frame[jets.target_names], jets.target)
    X, y = make_jets(70, return_X_y=True, random_state=np.random.RandomState(3))
    np.testing.assert_array_equal(X, jets.data)
    np.testing.assert_array_equal(y, jets.target)
    assert not np.array_equal(make_jets(70, random_state=4).target, y)


def test_targets_follow_the_exact_distribution(jets):
    transformed = jets.conditional.cdf(jets.data, jets.target)
    for column in transformed.T:
        assert uniform(column)
    # Independent of the generated jet, and of one another but for momentum and mass.
    normal = ndtri(transformed)
    correlations = np.corrcoef(
        np.column_stack([normal, np.log(jets.data[:, 0]), jets.data[:, 3]]).T
    )
    expected = np.eye(4, 6)
    expected[0, 3] = expected[3, 0] = jets.conditional.correlation
    assert np.all(np.abs(correlations[:4] - expected) < 5 / np.sqrt(len(normal)))
    assert jets.target[:, 0].min() > 0
    assert np.abs(jets.target[:, 2]).max() <= np.float32(np.pi)


def test_masses_fluctuate_with_the_momenta():
    jets = make_jets(40_000, pt_range=(200.0, 1000.0), random_state=0)
    sigma, _ = jets.conditional.widths(jets.data[:, 0])
    residual = (jets.target[:, 0] / jets.data[:, 0] - 1) / sigma
    log_mass = np.log(jets.target[:, 3] / jets.data[:, 3])
    rho = np.corrcoef(residual, log_mass)[0, 1]
    assert abs(rho - 0.6) < 5 * (1 - 0.6**2) / np.sqrt(len(residual))
    # The resolution is that of the formula, bin by bin.
    edges = np.quantile(jets.data[:, 0], np.linspace(0, 1, 9))
    in_bin = np.digitize(jets.data[:, 0], edges[1:-1])
    for i in range(8):
        spread = np.std(residual[in_bin == i])
        assert abs(spread - 1) < 5 / np.sqrt(2 * np.sum(in_bin == i))


def test_margins_are_those_of_scipy(jets):
    conditional = jets.conditional
    X = some_jets(conditional)
    levels = np.array([1e-6, 0.025, 0.3, 0.5, 0.8, 0.999999])
    quantiles = conditional.quantiles(X, levels)
    assert quantiles.shape == (len(X), len(levels), 4)
    _, angle = conditional.widths(X[:, 0])
    margins = [
        cut_normal(conditional, X),
        stats.norm(X[:, 1], angle),
        stats.norm(X[:, 2], angle),
        stats.lognorm(conditional.mass_resolution, scale=X[:, 3]),
    ]
    for k, margin in enumerate(margins):
        expected = margin.ppf(levels[:, None]).T
        np.testing.assert_allclose(quantiles[..., k], expected, rtol=1e-9, err_msg=str(k))
        np.testing.assert_allclose(conditional.mean(X)[:, k], margin.mean(), rtol=1e-9)
        np.testing.assert_allclose(conditional.std(X)[:, k], margin.std(), rtol=1e-7)
    for i, level in enumerate(levels):
        np.testing.assert_allclose(conditional.cdf(X, quantiles[:, i]), level, rtol=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_density_of_an_ordinary_jet(correlation):
    # Where no momentum is cut, residuals and ln m' are jointly normal.
    conditional = make_jets(1, correlation=correlation, random_state=0).conditional
    X = np.array([[500.0, 0.3, 1.0, 50.0]])
    sigma, angle = conditional.widths(500.0)
    covariance = np.diag([500 * sigma, angle, angle, 0.15]) ** 2
    covariance[0, 3] = covariance[3, 0] = correlation * 500 * sigma * 0.15
    normal = stats.multivariate_normal([500, 0.3, 1.0, np.log(50)], covariance)
    y = np.array([[490.0, 0.301, 1.003, 55.0], [560.0, 0.3, 0.998, 40.0]])
    log_y = np.column_stack([y[:, :3], np.log(y[:, 3])])
    expected = normal.logpdf(log_y) - np.log(y[:, 3])
    np.testing.assert_allclose(conditional.log_prob(np.repeat(X, 2, axis=0), y), expected)


@pytest.mark.parametrize("pt", [3.0, 8.0, 100.0])
def test_densities_are_normalised_and_have_the_margins(pt):
    conditional = make_jets(1, pt_range=(3.0, 9.0), correlation=0.6, random_state=0).conditional
    X = np.array([[pt, 0.5, -3.0, 0.2 * pt]])
    nodes, weights = np.polynomial.legendre.leggauss(200)
    sigma, angle = conditional.widths(pt)
    low, high = max(0.0, pt * (1 - 9 * sigma)), pt * (1 + 9 * sigma)
    momentum = low + (high - low) * (nodes + 1) / 2
    mass = 0.2 * pt * np.exp(10 * 0.15 * nodes)
    grid = np.stack(np.meshgrid(momentum, mass, indexing="ij"), axis=-1).reshape(-1, 2)
    y = np.column_stack([grid[:, 0], np.full(len(grid), 0.5), np.full(len(grid), -3.0), grid[:, 1]])
    density = np.exp(conditional.log_prob(np.repeat(X, len(y), axis=0), y))
    # At the centres of both angles; du = m d(ln m).
    density = (density * grid[:, 1] * 2 * np.pi * angle**2).reshape(200, 200)
    margin = density @ weights * 10 * 0.15
    np.testing.assert_allclose(margin, cut_normal(conditional, X).pdf(momentum), rtol=1e-7)
    assert margin @ weights * (high - low) / 2 == pytest.approx(1, abs=1e-7)
    # phi is periodic, and eta is not.
    jet = [[pt, 0.5, -3.0, 0.2 * pt]]
    around = conditional.log_prob(jet, [[pt, 0.5, np.pi - 0.05, 0.2 * pt]])
    below = conditional.log_prob(jet, [[pt, 0.5, -np.pi - 0.05, 0.2 * pt]])
    np.testing.assert_allclose(around, below)


def test_impossible_jets_have_no_density():
    conditional = make_jets(1, random_state=0).conditional
    X = np.repeat([[20.0, 0.0, 0.0, 2.0]], 3, axis=0)
    y = np.array([[-1.0, 0.0, 0.0, 2.0], [20.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    np.testing.assert_array_equal(conditional.log_prob(X, y), -np.inf)
    np.testing.assert_array_equal(conditional.cdf(X, y)[[0, 1, 2], [0, 3, 3]], 0)


def test_density_and_draws_agree(jets):
    # The mean log density of draws is minus the entropy, a sum of closed forms.
    conditional = jets.conditional
    log_density = conditional.log_prob(jets.data, jets.target)
    X = jets.data.astype(np.float64)
    sigma, angle = conditional.widths(X[:, 0])
    kept = stats.norm.sf(-1 / sigma)
    entropy = (
        np.log(np.sqrt(2 * np.pi * np.e) * kept * X[:, 0] * sigma)
        - stats.norm.pdf(1 / sigma) / (2 * sigma * kept)
        + 2 * stats.norm(0, angle).entropy()
        + stats.norm(np.log(X[:, 3]), conditional.mass_resolution).entropy()
        + np.log(X[:, 3])  # of m' instead of ln m'
        + 0.5 * np.log(1 - conditional.correlation**2)  # less what pT' and m' tell of each other
    )
    difference = log_density + entropy
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(len(X))


def test_draws_of_one_jet():
    conditional = make_jets(1, pt_range=(5.0, 30.0), random_state=0).conditional
    X = np.array([[5.0, 1.0, 3.1, 0.5], [25.0, -1.0, 0.0, 4.0]])
    samples = conditional.sample(X, 20_000, check_random_state(0))
    assert samples.shape == (2, 4, 20_000)
    for jet, draws in zip(X, samples, strict=True):
        transformed = conditional.cdf(np.repeat(jet[None], 20_000, axis=0), draws.T)
        for column in transformed.T:
            assert uniform(column)
        rho = np.corrcoef(ndtri(transformed[:, [0, 3]]).T)[0, 1]
        assert abs(rho - 0.6) < 5 * (1 - 0.6**2) / np.sqrt(20_000)
    np.testing.assert_array_equal(samples, conditional.sample(X, 20_000, random_state=0))
    # The first jet lies at the end of the circle, and some of its draws beyond it.
    phi = samples[0, 2]
    assert phi.min() < -3 < 3 < phi.max()
    assert np.abs(phi).max() <= np.pi


def test_least_pinball_loss(jets):
    conditional = jets.conditional
    X = some_jets(conditional)
    least = conditional.mean_pinball(X)
    sigma, angle = conditional.widths(X[:, 0])
    # Of a Gaussian, 0.28209 of its width; of what is cut far away too.
    np.testing.assert_allclose(least[:, 1], 0.2820947917738781 * angle)
    np.testing.assert_allclose(least[-1, 0], 0.2820947917738781 * (X[:, 0] * sigma)[-1], rtol=1e-6)
    # Half of the integral of F (1 - F).
    margins = [cut_normal(conditional, X), stats.lognorm(conditional.mass_resolution, 0, X[:, 3])]
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for k, margin in zip([0, 3], margins, strict=True):
        low, high = margin.ppf(1e-15), margin.isf(1e-15)
        y = low + (high - low) * (nodes[:, None] + 1) / 2
        integral = weights @ (margin.cdf(y) * margin.sf(y)) * (high - low) / 2
        np.testing.assert_allclose(least[:, k], integral / 2, rtol=1e-6)
    # And what the exact quantiles lose on the targets themselves.
    levels = (np.arange(200) + 0.5) / 200
    X, y = jets.data[:4000], jets.target[:4000]
    error = y[:, None] - conditional.quantiles(X, levels)
    error[..., 2] = (error[..., 2] + np.pi) % (2 * np.pi) - np.pi
    loss = np.maximum(levels[:, None] * error, (levels[:, None] - 1) * error).mean(axis=1)
    excess = (loss / conditional.mean_pinball(X)).T - 1
    assert np.all(np.abs(excess.mean(axis=1)) < 5 * excess.std(axis=1) / np.sqrt(4000) + 1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pt_range": (50.0, 50.0)}, r"'pt_range'.*low < high.*Got \(50\.0, 50\.0\)"),
        ({"pt_range": (0.0, 50.0)}, r"'pt_range'"),
        ({"pt_resolution": (1.0, 2.0)}, r"'pt_resolution'.*three finite numbers.*Got \(1\.0, 2"),
        ({"pt_resolution": (0.0, 0.0, 0.0)}, r"'pt_resolution'.*not all zero"),
        ({"pt_resolution": (1.0, -2.0, 0.0)}, r"'pt_resolution'"),
        ({"angular_resolution": 8.0}, r"'angular_resolution'.*at most 7 GeV.*Got 8\.0"),
        ({"correlation": 1.0}, r"'correlation'.*\(-1, 1\)|'correlation'.*\(-1\.0, 1\.0\)"),
        ({"spectral_index": 1}, r"'spectral_index'"),
        ({"n_samples": 0}, r"'n_samples'"),
    ],
)
def test_parameters_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_jets(**arguments)


def test_arguments_of_the_conditional_are_checked():
    jets = make_jets(3, angular_resolution=7.0, random_state=0)
    conditional, X, y = jets.conditional, jets.data, jets.target
    with pytest.raises(ValueError, match=r"'X' parameter of JetResponse\.mean must have 4 columns"):
        conditional.mean(X[:, :3])
    with pytest.raises(ValueError, match=r"'y' parameter of JetResponse\.cdf must have 4 columns"):
        conditional.cdf(X, y[:, :2])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        conditional.log_prob(X, y[:2])
    with pytest.raises(ValueError, match=r"'levels' parameter of JetResponse.*Got \[0\.5, 95\]"):
        conditional.quantiles(X, [0.5, 95])
    np.testing.assert_array_equal(
        conditional.quantiles(X, 0.3), conditional.quantiles(X, [0.3])[:, 0]
    )
    with pytest.raises(ValueError, match=r"JetResponse\.sample must have positive transverse"):
        conditional.sample(-X)
    with pytest.raises(ValueError, match=r"'n_samples' parameter of JetResponse\.sample.*Got 0"):
        conditional.sample(X, 0)
    with pytest.raises(ValueError, match=r"transverse momenta above 20 GeV.*Got 10 GeV"):
        conditional.std([[10.0, 0.0, 0.0, 1.0]])
