"""Bayesian networks against posteriors that are known."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.signal import lfilter
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch import nn

from sknuc.encoders import LSTM, MLP
from sknuc.exceptions import TrainingDivergedError
from sknuc.metrics import binomial_interval, effective_sample_size
from sknuc.nn import stack
from sknuc.uncertainty import (
    BNNClassifier,
    BNNRegressor,
    _bnn_linearised,
    _bnn_sampling,
    _inference,
)
from sknuc.uncertainty._collapse import has_collapsed
from sknuc.uncertainty._laplace import (
    GaussianLaplace,
    LabelLaplace,
    jacobian,
    last_layer_jacobian,
)
from sknuc.uncertainty._posterior import Categorical, Gaussian, LayerPrior
from sknuc.uncertainty._sghmc import SGHMC, epoch_noise, memory_friction, stable_step
from sknuc.uncertainty._variational import MeanField

LINEAR = MLP(hidden_layer_sizes=())
SMALL = MLP(hidden_layer_sizes=(8,), activation="tanh")
# Chains short enough for a test are judged by the tests' own standard errors.
QUICK = {"n_warmup": 150, "n_samples": 500, "thinning": 1, "n_leapfrog": 6}


def fit(model, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*args, **kwargs)


@pytest.fixture(scope="module")
def line():
    """Ten events on a line, and their weights."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(10, 2))
    y = 1 + X @ [2, -1] + 0.5 * rng.normal(size=10)
    return X, y, rng.uniform(0.5, 2, 10)


def exact_posterior(X, y, w, scale):
    """Mean and covariance of (w1, w2, b) for scaled targets, σ integrated by quadrature.

    And the mean and the variance of log σ.
    """
    z = (y - np.average(y, weights=w)) / np.sqrt(np.cov(y, aweights=w, ddof=0))
    A = np.column_stack([X, np.ones(len(X))])
    prior = scale**2 / np.array([2.0, 2.0, 1.0])
    like = Gaussian()
    log_sigma = np.linspace(np.log(0.05), np.log(10), 2000)
    log_density, means, covariances = [], [], []
    for sigma in np.exp(log_sigma):
        precision = (A.T * w) @ A / sigma**2 + np.diag(1 / prior)
        covariance = np.linalg.inv(precision)
        mean = covariance @ ((A.T * w) @ z) / sigma**2
        energy = (w @ z**2) / sigma**2 - mean @ precision @ mean
        chi2 = like.degrees * like.typical**2 / sigma**2
        log_density.append(
            -w.sum() * np.log(sigma)
            - energy / 2
            - np.linalg.slogdet(precision)[1] / 2
            + stats.chi2.logpdf(chi2, like.degrees)
            + np.log(chi2)
        )
        means.append(mean)
        covariances.append(covariance)
    p = np.exp(log_density - np.max(log_density))
    p /= p.sum()
    means = np.array(means)
    mean = p @ means
    away = means - mean
    covariance = np.einsum("k,kij->ij", p, covariances) + np.einsum("k,ki,kj", p, away, away)
    log_noise = p @ log_sigma
    return mean, covariance, log_noise, p @ (log_sigma - log_noise) ** 2


def chains(values, n_chains):
    return values.reshape(n_chains, -1, values.shape[-1])


def assert_means(values, expected):
    """Means of chains (c, n, q) are as expected, within four standard errors."""
    error = values.std((0, 1)) / np.sqrt(effective_sample_size(values, kind="mean"))
    assert np.all(np.abs(values.mean((0, 1)) - expected) < 4 * error)


@pytest.fixture(scope="module")
def sampled_line(line):
    X, y, w = line
    model = BNNRegressor(
        inference="hmc",
        encoder=LINEAR,
        prior_scale=1.0,
        standardize=False,
        random_state=0,
        **QUICK,
    )
    return fit(model, X, y, sample_weight=w)


def test_hmc_of_a_linear_model_is_the_exact_posterior(line, sampled_line):
    mean, covariance, log_noise, _ = exact_posterior(*line, scale=1.0)
    theta = chains(sampled_line.module_[1].draws.numpy(), 4)
    assert_means(theta, mean)
    away = theta - mean
    products = (away[..., :, None] * away[..., None, :]).reshape(4, -1, 9)
    assert_means(products, covariance.ravel())
    noise = np.log(sampled_line.noise_ / sampled_line.target_scale_)
    assert_means(chains(noise, 4), log_noise)
    assert sampled_line.n_divergences_ == 0


def test_reweighting_is_a_run_under_the_new_prior(line, sampled_line):
    mean, covariance, *_ = exact_posterior(*line, scale=1.5)
    other = sampled_line.reweight(1.5)
    assert 300 < other.weight_ess_ < len(other.draw_weights_)
    theta = other.module_[1].draws.numpy()
    found = other.draw_weights_ @ theta
    error = np.sqrt(np.diagonal(covariance) / effective_sample_size(chains(theta, 4), kind="mean"))
    inflation = np.sqrt(len(theta) / other.weight_ess_)
    assert np.all(np.abs(found - mean) < 4 * error * inflation)
    # The old posterior is another one, by far more than the errors.
    assert np.any(np.abs(found - exact_posterior(*line, scale=1.0)[0]) > 4 * error * inflation)
    X = line[0]
    means = other._predictive(X).means[..., 0]
    np.testing.assert_allclose(other.predict(X), means @ other.draw_weights_)


def test_a_prior_as_a_function(sampled_line):
    f = np.array([2.0, 2.0, 1.0])

    def log_prior(theta):
        return -(f * theta**2 / 1.5**2).sum(1) / 2

    same = sampled_line.reweight(log_prior).draw_weights_
    np.testing.assert_allclose(same, sampled_line.reweight(1.5).draw_weights_, rtol=1e-9)
    with pytest.raises(ValueError, match="one log density for each"):
        sampled_line.reweight(lambda theta: theta)
    with pytest.raises(ValueError, match=r"positive float.*-1"):
        sampled_line.reweight(-1)
    with pytest.warns(RuntimeWarning, match="Fit with the new"):
        sampled_line.reweight(0.05)


def test_mean_and_quantiles_of_draws_agree(line, sampled_line):
    X = line[0]
    mean, std = sampled_line.predict(X, return_std=True)
    draws = sampled_line.sample_y(X, n_samples=4000)
    assert np.all(np.abs(draws.mean(1) - mean) < 4 * std / np.sqrt(4000))
    interval = sampled_line.predict_interval(X, 0.9)
    inside = ((draws > interval[:, :1]) & (draws < interval[:, 1:])).mean()
    assert inside == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / draws.size))
    parts = sampled_line.predict_uncertainty(X)
    np.testing.assert_allclose(parts.total**2, parts.aleatoric**2 + parts.epistemic**2)
    np.testing.assert_allclose(parts.aleatoric, np.sqrt((sampled_line.noise_**2).mean()))


def test_hmc_of_a_logistic_model_against_a_grid():
    X = np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0])[:, None]
    y = np.array(["a", "a", "b", "a", "b", "b"])
    model = BNNClassifier(
        inference="hmc",
        encoder=LINEAR,
        prior_scale=2.0,
        standardize=False,
        random_state=0,
        **QUICK,
    )
    fit(model, X, y)
    grid = np.linspace(-14, 14, 801)
    slope, offset = np.meshgrid(grid, grid, indexing="ij")
    log_p = -(slope**2 + offset**2) / 8
    for x, label in zip(X[:, 0], y, strict=True):
        log_p -= np.logaddexp(0, -(1 if label == "b" else -1) * (slope * x + offset))
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    Xt = np.array([[-3.0], [0.2], [4.0]])
    expected = [(p / (1 + np.exp(-slope * x - offset))).sum() for x in Xt[:, 0]]
    members = model._member_probabilities(Xt)[..., 1].T
    assert_means(chains(members, 4), expected)
    np.testing.assert_allclose(model.predict_proba(Xt)[:, 1], members.mean(0))


# Laplace.


def least_squares(A, z, prior, sigma, w):
    """Mean and covariance of Bayesian linear regression."""
    precision = (A.T * w) @ A / sigma**2 + np.diag(1 / prior)
    covariance = np.linalg.inv(precision)
    return covariance @ ((A.T * w) @ z) / sigma**2, covariance


@pytest.mark.parametrize("max_epochs", [1, 30])
@pytest.mark.parametrize("n", [2, 10])
def test_laplace_of_a_linear_model_is_exact_however_it_was_trained(line, n, max_epochs):
    X, y, w = (part[:n] for part in line)
    model = BNNRegressor(
        encoder=LINEAR, standardize=False, max_epochs=max_epochs, random_state=0
    ).fit(X, y, sample_weight=w)
    scale = model.prior_scales_[0]
    prior = np.r_[scale[0] ** 2 / 2, scale[0] ** 2 / 2, scale[1] ** 2]
    sigma = model.noise_[0, 0] / model.target_scale_[0]
    z = (y - model.target_mean_[0]) / model.target_scale_[0]
    mean, covariance = least_squares(np.c_[X, np.ones(n)], z, prior, sigma, w)
    Xt = np.c_[np.random.default_rng(1).normal(size=(5, 2)), np.ones(5)]
    expected = model.target_mean_ + model.target_scale_ * (Xt @ mean)
    variance = np.einsum("ni,ij,nj->n", Xt, covariance, Xt)
    found, std = model.predict(Xt[:, :2], return_std=True)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    np.testing.assert_allclose(std, model.target_scale_ * np.sqrt(variance + sigma**2), rtol=1e-7)


def test_evidence_is_that_of_a_gaussian_process(line):
    X, y, _ = line
    model = BNNRegressor(encoder=LINEAR, standardize=False, prior_scale=1.3, random_state=0)
    model.fit(X, y)
    z = (y - y.mean()) / y.std()
    kernel = ConstantKernel(1.3**2) * (
        ConstantKernel(1 / 2) * DotProduct(1e-6) + ConstantKernel(1.0)
    )
    sigma = model.noise_[0, 0] / y.std()
    process = GaussianProcessRegressor(kernel, alpha=sigma**2, optimizer=None).fit(X, z)
    evidence = process.log_marginal_likelihood_value_
    assert model.log_evidence_ == pytest.approx(evidence, rel=1e-9)


@pytest.mark.parametrize("dual", [False, True])
def test_scales_and_noise_maximise_the_evidence(dual):
    generator = torch.Generator().manual_seed(0)
    n = 1 if dual else 12
    module = nn.Sequential(nn.Linear(3, 1)).double()
    jacobians = torch.randn(n, 2, 4, generator=generator, dtype=torch.float64)
    outputs, y = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    prior, mode = LayerPrior(module, None), torch.zeros(4, dtype=torch.float64)
    laplace = GaussianLaplace(prior, mode).fit(jacobians, outputs, y, None, Gaussian())

    def objective(scales, noise):
        S = np.diag(scales.repeat([3, 1]) ** 2 / [3, 3, 3, 1])
        J = jacobians.reshape(2 * n, 4).numpy()
        covariance = J @ S @ J.T + np.diag(np.tile(noise**2, n))
        value = stats.multivariate_normal(None, covariance).logpdf((y - outputs).numpy().ravel())
        for x, like in ((scales, prior), (noise, Gaussian())):
            chi2 = like.degrees * like.typical**2 / x**2
            value += (stats.chi2.logpdf(chi2, like.degrees) + np.log(chi2)).sum()
        return value

    best = np.r_[laplace.scales, laplace.noise]
    top = objective(best[:2], best[2:])
    for k in range(4):
        for step in (-1e-2, 1e-2):
            other = best * np.exp(step * (np.arange(4) == k))
            assert objective(other[:2], other[2:]) < top


def test_last_layer_is_bayesian_regression_on_the_features(line):
    X, y, _ = line
    model = BNNRegressor(encoder=SMALL, laplace_layers="last", prior_scale=0.8, random_state=0).fit(
        X, y
    )
    scaling, network = model.module_
    with torch.no_grad():
        features = network[0](scaling(torch.from_numpy(X))).numpy()
    A = np.c_[features, np.ones(len(X))]
    sigma = model.noise_[0, 0] / y.std()
    prior = 0.8**2 / np.r_[np.full(8, 8.0), 1.0]
    mean, _ = least_squares(A, (y - y.mean()) / y.std(), prior, sigma, np.ones(len(X)))
    np.testing.assert_allclose(model.predict(X), y.mean() + y.std() * (A @ mean), rtol=1e-8)


def test_jacobians_are_derivatives():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2)).double()
    x = torch.randn(5, 3).double()
    outputs, full = jacobian(network, x)
    torch.testing.assert_close(outputs, network(x))
    parameters = list(network.parameters())
    for i, j in ((0, 0), (3, 1)):
        row = torch.cat([g.flatten() for g in torch.autograd.grad(network(x)[i, j], parameters)])
        torch.testing.assert_close(full[i, j], row)
    _, last = last_layer_jacobian(network, x)
    torch.testing.assert_close(last, full[..., -10:])


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("n", [2, 40])
def test_laplace_of_labels_is_the_inverse_hessian(n, n_outputs):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Identity(), nn.Linear(3, n_outputs)).double()
    x = torch.randn(n, 3).double()
    y = torch.arange(n) % max(2, n_outputs)
    weight = torch.rand(n).double()
    logits, jacobians = last_layer_jacobian(module, x)
    prior = LayerPrior(module, 0.9)
    mode = torch.cat([p.detach().flatten() for p in module.parameters()])
    likelihood = Categorical()
    laplace = LabelLaplace(prior, mode).fit(
        jacobians.detach(), logits.detach(), y, weight, likelihood
    )
    assert (laplace.rows is not None) == (n == 2)

    def energy(theta):
        W, b = theta[: 3 * n_outputs].reshape(n_outputs, 3), theta[3 * n_outputs :]
        log_likelihood = (weight * likelihood.log_prob(x @ W.T + b, y)).sum()
        return -log_likelihood - prior.log_prob(theta[None], prior.initial_scales(1))[0]

    # Wherever the network was: its outputs are linear, and the mode is found.
    mode = mode + laplace.shift
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(energy, mode), torch.zeros_like(mode)
    )
    hessian = torch.autograd.functional.hessian(energy, mode)
    eye = torch.eye(len(mode), dtype=torch.float64)
    torch.testing.assert_close(laplace._apply(eye), torch.linalg.inv(hessian))
    expected = -energy(mode) + len(mode) / 2 * np.log(2 * np.pi) - torch.logdet(hessian) / 2
    assert laplace.log_evidence == pytest.approx(expected.item(), rel=1e-9)
    covariance = laplace.covariance(jacobians.detach())
    torch.testing.assert_close(covariance, jacobians @ torch.linalg.inv(hessian) @ jacobians.mT)


def test_probabilities_of_laplace_are_integrals_over_gaussian_logits(wave):
    X, y = wave
    model = BNNClassifier(encoder=LINEAR, random_state=0).fit(X, y[:, 0] > 0)
    x = (X - X.mean()) / X.std()
    Xt = np.array([[-3.0], [0.1], [2.0]])
    xt = (Xt - X.mean()) / X.std()
    A, At = np.c_[x, np.ones(len(x))], np.c_[xt, np.ones(3)]
    sign, precision = np.where(y[:, 0] > 0, 1, -1), 1 / model.prior_scales_[0] ** 2

    def energy(theta):
        return np.logaddexp(0, -sign * (A @ theta)).sum() + precision @ theta**2 / 2

    mode = minimize(energy, np.zeros(2), method="BFGS", options={"gtol": 1e-8}).x
    curvature = 1 / (2 + 2 * np.cosh(A @ mode))
    covariance = np.linalg.inv((A.T * curvature) @ A + np.diag(precision))
    mean, std = At @ mode, np.sqrt(np.einsum("ni,ij,nj->n", At, covariance, At))
    z = np.linspace(-8, 8, 4001)
    p = stats.norm.pdf(z) / (1 + np.exp(-mean[:, None] - std[:, None] * z))
    expected = np.trapezoid(p, z, axis=1)
    # The 256 points are evenly spaced in probability.
    np.testing.assert_allclose(model.predict_proba(Xt)[:, 1], expected, atol=2e-3)


def test_recurrent_encoders_take_the_last_layer():
    X = np.random.default_rng(0).normal(size=(12, 8, 1))
    model = BNNRegressor(encoder=LSTM(hidden_size=3), max_epochs=1, random_state=0)
    assert model.fit(X, X[:, 0, 0]).predict(X).shape == (12,)
    assert model.prior_scales_.shape == (1, 2)
    with pytest.raises(ValueError, match="recurrent layers"):
        model.set_params(laplace_layers="all").fit(X, X[:, 0, 0])


# Variational inference.


def test_variational_is_exact_for_independent_parameters():
    rng = np.random.default_rng(0)
    A, _ = np.linalg.qr(np.c_[np.ones(40), rng.normal(size=(40, 2))])
    X = A[:, 1:] * np.sqrt(40)
    y = X @ [1.0, -0.3] + 0.7 * rng.normal(size=40)
    y = (y - y.mean()) / y.std()
    model = BNNRegressor(
        inference="variational",
        encoder=LINEAR,
        prior_scale=1.0,
        standardize=False,
        learning_rate=0.002,
        n_samples=10_000,
        thinning=1,
        random_state=0,
    ).fit(X, y)
    sigma = model.noise_[0, 0]
    prior = np.array([0.5, 0.5, 1.0])
    mean, covariance = least_squares(np.c_[X, np.ones(40)], y, prior, sigma, np.ones(40))
    std = np.sqrt(np.diagonal(covariance))
    draws = model.module_[1].draws.numpy()
    # Adam goes on to move by a learning rate per step: some per cent of these widths.
    np.testing.assert_allclose(draws.std(0), std, rtol=0.1)
    assert np.all(np.abs(draws.mean(0) - mean) < 0.2 * std)
    # The noise maximises its marginal density given q: E[SSE] and the prior in balance.
    expected = ((y - X @ mean[:2] - mean[2]) ** 2).sum() + (40 * std**2).sum() + 1e-4
    assert sigma == pytest.approx(np.sqrt(expected / 41), rel=0.02)


def field(module):
    prior = LayerPrior(module, 0.8)
    members = stack([module], event_ndim=1)
    return MeanField(members, prior, None), prior


@pytest.mark.parametrize("layers", ["dense", "norm"])
def test_noise_of_activations_is_noise_of_weights(layers):
    torch.manual_seed(0)
    norm = [nn.LayerNorm(3)] if layers == "norm" else []
    module = nn.Sequential(nn.Linear(2, 3), *norm, nn.Tanh(), nn.Linear(3, 1)).double()
    mean_field, _ = field(module)
    with torch.no_grad():
        mean_field.log_std += 2
    assert mean_field._local
    x = torch.randn(1, 2).double()
    with torch.no_grad():
        local = torch.cat([mean_field(x.expand(20_000, 2))[0, :, 0]])
        theta = mean_field.draws(20_000, torch.Generator().manual_seed(0))
        weights = mean_field.network(theta, x)[:, 0, 0]
    if layers == "dense":
        # One event sees the same distribution, whichever way it is drawn.
        assert stats.ks_2samp(local, weights).pvalue > 1e-3
    else:
        # The norm's own parameters are drawn once for the batch.
        assert local.std() < weights.std()


def test_divergence_is_that_of_gaussians():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    mean_field, prior = field(module)
    std = prior.precision(prior.initial_scales(1)).rsqrt()
    q = torch.distributions.Normal(mean_field.mean, mean_field.log_std.exp())
    p = torch.distributions.Normal(prior.mean.expand_as(std), std)
    expected = torch.distributions.kl_divergence(q, p).sum()
    torch.testing.assert_close(mean_field.divergence(), expected)
    prior.scale = None
    best = mean_field.scales()
    value = _hyper_bound(mean_field, prior, best)
    for step in (-0.01, 0.01):
        assert (_hyper_bound(mean_field, prior, best * np.exp(step)) > value).all()


def _hyper_bound(mean_field, prior, scales):
    """KL(q || p) minus the log density of log s, by tensor."""
    second = (mean_field.mean**2 + (2 * mean_field.log_std).exp()) * prior.fan_in
    sums = torch.stack([part.sum(1) for part in second.split(prior.sizes, 1)], 1)
    sizes = torch.tensor(prior.sizes).double()
    prior_term = prior.degrees * (scales.log() + prior.typical**2 / 2 / scales**2)
    return (sums / scales**2 / 2 + sizes * scales.log() + prior_term).detach()


# Stochastic gradients.


def widening(step, friction):
    """Variance of a chain of unit curvature over the exact one, for a step η and a known σ."""
    return 1 / (1 - step / (4 - 2 * friction))


def shortfall(k, step, friction, total, n_parameters):
    r"""By how much variances fall short where σ² is the mean square of the last k batches.

    The force is :math:`\eta\theta(1-\delta)`, δ the share by which the squares of W events exceed
    their mean. To first order it changes the variance by the sum of
    :math:`2\eta\,G(\tau)\,\langle\theta_{t}\,\theta_{t-\tau}\,\delta_{t-\tau}\rangle` over
    τ, G the answer to a kick and C the covariance of the chain, from which that is found as
    :math:`2\, C(\tau + j)\, C(j)/(W+1-P)` averaged over j < k. It is 2/(W+1-P) if σ follows at
    once, which is what Student's t is wider than a Gaussian.
    """
    kick = np.zeros(4000)
    kick[0] = 1
    G = lfilter([1], [1, step + friction - 2, 1 - friction], kick)
    C = 2 * friction * step * np.correlate(G, G, "full")[len(G) - 1 :]
    answer = np.correlate(C, G, "full")[len(G) - 1 :]
    wider = 4 * step * np.mean(C[:k] * answer[1 : k + 1]) / C[0]
    return (2 - wider) / (total + 1 - n_parameters)


@pytest.mark.parametrize("k", [2, 4, 30])
@pytest.mark.parametrize("total", [12, 120, 2400])
@pytest.mark.parametrize("n_parameters", [1, 3, 9])
def test_what_is_remembered_narrows_by_as_much_as_is_told(k, total, n_parameters):
    step = stable_step(0.1, 0.03, k, 1.0, total)
    share = memory_friction(k, step, total) / 0.03
    assert share <= 0.1
    left = total + 1 - n_parameters
    short = shortfall(k, step, 0.03, total, n_parameters)
    # A tenth of the squares that all W events leave.
    assert 0 < short < share * total / left + 2 / left


@pytest.mark.parametrize(
    ("k", "total", "n_parameters"),
    [(1, 120, 3), (4, 120, 3), (30, 120, 3), (4, 12, 3), (30, 12, 3), (25, 60, 20)],
)
def test_chains_that_remember_squares_are_as_narrow_as_is_told(k, total, n_parameters):
    rng, friction, c = np.random.default_rng(0), 0.03, max(1000, 6000 // n_parameters)
    step = stable_step(0.1, friction, k, 1.0, total)
    # Squares of W events around the best fit, which σ is learned from with a prior of one more.
    rest = total + 1 - n_parameters
    theta = rng.normal(size=(n_parameters, c))
    velocity = np.sqrt(step) * rng.normal(size=theta.shape)
    squares = np.tile((theta**2).sum(0), (k, 1))
    found = []
    for i in range(1500):
        squares[i % k] = (theta**2).sum(0)
        noise2 = (rest + squares.mean(0)) / (total + 1)
        velocity = (1 - friction) * velocity - step * theta / noise2
        velocity += np.sqrt(2 * friction * step) * rng.normal(size=theta.shape)
        theta = theta + velocity
        if i >= 400:
            found.append((theta**2).mean(0))
    # Against the variance of Student's t.
    found = np.mean(found, 0) * (rest - 2) / rest
    error = 4 * found.std() / np.sqrt(c)
    assert error < 4 * 0.01
    short = shortfall(k, step, friction, total, n_parameters)
    # Terms of second order: of all that differs from one.
    wide = widening(step, friction)
    second = (abs(short) + wide - 1 + 2 / rest) ** 2
    assert found.mean() == pytest.approx(wide * (1 - short), abs=error + second)


def test_steps_are_short_where_light_events_are_remembered(monkeypatch):
    steps = []

    class Seen(SGHMC):
        def step(self, closure=None):
            steps.append(self.param_groups[0]["lr"])
            super().step(closure)

    monkeypatch.setattr(_bnn_sampling, "SGHMC", Seen)
    monkeypatch.setattr(_bnn_sampling, "largest_curvature", lambda *_: 1.0)
    X = np.random.default_rng(0).normal(size=(120, 2))
    settings = {"n_warmup": 2, "n_samples": 20, "n_leapfrog": 2, "max_epochs": 1}
    model = BNNRegressor(inference="sghmc", encoder=LINEAR, batch_size=30, **settings)
    for weight in (0.1, 1.0, 1000.0):
        steps.clear()
        fit(model, X, X[:, 0], np.full(120, weight))
        (step,) = set(steps)
        # Four batches of 120 events. A step that is a tenth longer would be too long.
        allowed = model.friction / 10
        assert memory_friction(4, step, 120 * weight) <= allowed
        heat = step * epoch_noise(4, step, model.friction) * weight
        assert heat <= 0.4 * model.friction
        if weight == 0.1:
            assert memory_friction(4, step / 0.9, 12) > allowed
    # Labels have no σ that could remember anything, and as many batches less heat.
    steps.clear()
    classifier = BNNClassifier(inference="sghmc", encoder=LINEAR, batch_size=30, **settings)
    fit(classifier, X, X[:, 0] > 0, np.full(120, 0.1))
    assert set(steps) == {stable_step(0.1, model.friction, 4, 0.1)}
    assert memory_friction(4, steps[0], 12) > allowed


@pytest.mark.parametrize(
    ("batch_size", "step_size", "advised"), [(30, 0.1, True), (30, 1e-3, False), (120, 0.1, False)]
)
def test_larger_batches_are_advised_where_they_allow_longer_steps(batch_size, step_size, advised):
    X = np.random.default_rng(0).normal(size=(120, 2))
    model = BNNRegressor(
        inference="sghmc",
        encoder=LINEAR,
        batch_size=batch_size,
        step_size=step_size,
        n_warmup=2,
        n_samples=20,
        n_leapfrog=2,
        max_epochs=20,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning, match="have not converged") as record:
        model.fit(X, X[:, 0])
    assert ("batch_size" in str(record[0].message)) == advised


@pytest.mark.parametrize(("batch_size", "weight"), [(120, 1), (30, 1), (30, 0.1), (30, 20), (4, 1)])
def test_sghmc_of_a_linear_model_has_the_widths_of_the_exact_posterior(batch_size, weight):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(120, 2))
    y = 1 + X @ [1, -0.5] + 0.5 * rng.normal(size=120)
    model = BNNRegressor(
        inference="sghmc",
        encoder=LINEAR,
        prior_scale=1.0,
        standardize=False,
        batch_size=batch_size,
        max_epochs=20,
        n_chains=100,
        n_warmup=100,
        n_samples=50,
        n_leapfrog=10,
        thinning=1,
        random_state=0,
    )
    weight = np.full(120, float(weight))
    fit(model, X, y, weight)
    mean, covariance, log_noise, spread = exact_posterior(X, y, weight, scale=1.0)
    theta = chains(model.module_[1].draws.numpy(), 100) - mean
    noise = chains(np.log(model.noise_ / model.target_scale_), 100) - log_noise
    theta, noise = theta / np.sqrt(np.diagonal(covariance)), noise / np.sqrt(spread)
    assert np.all(np.abs(theta.mean((0, 1))) < 0.1 + 4 * theta.mean(1).std(0) / np.sqrt(100))
    # Taken from a batch of 30, the variance of log σ would be four times it.
    squares = np.concatenate([theta**2, (theta**2).mean(2, keepdims=True), noise**2], 2).mean(1)
    away, error = squares.mean(0) - 1, squares.std(0) / np.sqrt(100)
    # Steps are as long as they may be in the direction of the largest curvature, else shorter.
    k, total = 120 // batch_size, weight.sum()
    step = stable_step(model.step_size, model.friction, k, total / 120, total)
    short = shortfall(k, step, model.friction, total, 3)
    assert np.all(away > -short - 4 * error)
    assert np.all(away < widening(step, model.friction) - 1 + 4 * error)


# Few events.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [30, 100, 200])
def test_few_events_are_not_ignored(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + 1000, 3))
    y = X[:, 0] + 0.3 * rng.normal(size=n + 1000)
    # The estimation of P numbers costs P σ²/n of the squared error. A linear model, which is right,
    # has four; a network, which does not know that, may take as much as twenty for each of them.
    cost = 20 * 4 * 0.3**2 / n
    model = BNNRegressor(random_state=seed).fit(X[:n], y[:n])
    linear = LinearRegression().fit(X[:n], y[:n])
    short = linear.score(X[n:], y[n:]) - model.score(X[n:], y[n:])
    assert short < cost / y[n:].var()
    labels = y > 0
    classifier = BNNClassifier(random_state=seed).fit(X[:n], labels[:n])
    logistic = LogisticRegression().fit(X[:n], labels[:n])
    # A label is wrong more often by φ(0)² d²/σ where y = 0 is missed by d, and y has a width of 1.
    right = logistic.score(X[n:], labels[n:])
    short = right - classifier.score(X[n:], labels[n:])
    assert short < stats.norm.pdf(0) ** 2 * cost / 0.3 + 4 * np.sqrt(right * (1 - right) / 1000)


def test_targets_without_noise():
    X = np.random.default_rng(0).uniform(-1, 1, (2000, 1))
    model = BNNRegressor(encoder=MLP(hidden_layer_sizes=(16,)), max_epochs=30, random_state=0)
    mean, std = model.fit(X, 2 * X[:, 0] + 1).predict(X, return_std=True)
    assert np.abs(mean - 2 * X[:, 0] - 1).max() < 4 * std.max() < 0.02


@pytest.mark.parametrize("weight", [1e3, 1e6])
def test_large_weights_do_not_lose_the_digits(weight):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] + 0.3 * rng.normal(size=60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model = BNNRegressor(max_epochs=20, random_state=0).fit(X, y, np.full(60, weight))
    mean, std = model.predict(X, return_std=True)
    assert np.sqrt(np.mean((mean - y) ** 2)) < 3 * std.mean()


def test_collapse_is_told_from_noise():
    rng = np.random.default_rng(0)
    X, constant = rng.normal(size=(80, 3)), np.zeros((80, 1))
    y = X[:, :1] + 0.3 * rng.normal(size=(80, 1))
    assert has_collapsed(X, y, constant)
    assert not has_collapsed(X, y, X[:, :1])
    # Chance is one in 10,000, also where few events have most of the weight, or copies.
    weight = np.exp(2 * rng.normal(size=80))
    twice = np.repeat(np.arange(80), 5)
    for _ in range(200):
        y = rng.normal(size=(80, 1))
        assert not has_collapsed(X, y, constant)
        assert not has_collapsed(X, y, constant, weight)
        assert not has_collapsed(X[twice], y[twice], constant[twice])


def test_a_fit_that_collapsed_says_so(monkeypatch):
    monkeypatch.setattr(_inference, "_VARIATIONAL_STEPS", 2000)
    # 4,500 independent Gaussians know less of thirty events than least squares of 4 numbers do.
    X = np.random.default_rng(0).normal(size=(30, 3))
    y = X[:, 0] + 0.1 * np.random.default_rng(1).normal(size=30)
    model = BNNRegressor(inference="variational", random_state=0)
    with pytest.warns(ConvergenceWarning, match="'variational' says nothing of the events"):
        model.fit(X, y)
    assert model.score(X, y) < 0.1
    # Another inference, as it says, learns from the same events, and says nothing.
    assert BNNRegressor(random_state=0).fit(X, y).score(X, y) > 0.9


def test_chains_hold_no_running_moments():
    class Normed:
        def build(self, input_shape):
            return nn.Sequential(nn.Linear(*input_shape, 4), nn.BatchNorm1d(4), nn.ReLU())

    X = np.random.default_rng(0).normal(size=(50, 2))
    for inference in ("hmc", "sghmc"):
        with pytest.raises(ValueError, match="layer normalisation in the encoder"):
            BNNRegressor(encoder=Normed(), inference=inference).fit(X, X[:, 0])
    assert BNNRegressor(encoder=Normed(), random_state=0).fit(X, X[:, 0]).score(X, X[:, 0]) > 0.8


def test_what_was_fitted_is_what_predicts(line, sampled_line):
    X, y, _ = line
    model = BNNRegressor(encoder=LINEAR, max_epochs=1, random_state=0).fit(X, y)
    before = model.predict(X)
    model.set_params(inference="hmc")
    np.testing.assert_array_equal(model.predict(X), before)
    assert not hasattr(model, "reweight")
    # The prior of the draws is that of the fit, whatever the parameter is now.
    other = copy.copy(sampled_line).set_params(prior_scale=5.0)
    expected = sampled_line.reweight(1.5).draw_weights_
    np.testing.assert_array_equal(other.reweight(1.5).draw_weights_, expected)


def test_chains_of_a_small_network_agree(wave):
    X, y = wave
    settings = {"n_warmup": 100, "n_samples": 200, "n_leapfrog": 30}
    model = BNNRegressor(inference="hmc", encoder=SMALL, **settings)
    first, second = (fit(clone(model).set_params(random_state=seed), X, y[:, 0]) for seed in (0, 1))
    assert first.n_divergences_ == second.n_divergences_ == 0
    # Means of two runs differ by the spread between networks over the root of their draws.
    Xt = np.linspace(-1.5, 1.5, 7)[:, None]
    error = [m.predict_uncertainty(Xt).epistemic / np.sqrt(m.ess_) for m in (first, second)]
    away = first.predict(Xt) - second.predict(Xt)
    assert np.all(np.abs(away) < 4 * np.hypot(*error))


# All of them.

SAMPLERS = ["hmc", "sghmc", "variational"]


@pytest.fixture(scope="module")
def wave():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (80, 1))
    return X, np.c_[np.sin(3 * X[:, 0]), X[:, 0] ** 2] + 0.1 * rng.normal(size=(80, 2))


def quick(inference, **kwargs):
    settings = {"n_warmup": 100, "n_samples": 100, "thinning": 5, "n_leapfrog": 10}
    return BNNRegressor(inference=inference, encoder=SMALL, random_state=0, **settings, **kwargs)


@pytest.mark.parametrize("inference", ["laplace", *SAMPLERS])
def test_several_targets_and_what_is_known_far_away(wave, inference, monkeypatch):
    monkeypatch.setattr(_inference, "_VARIATIONAL_STEPS", 1000)
    X, y = wave
    model = fit(quick(inference), X, y)
    Xt = np.array([[0.0], [4.0]])
    mean, std = model.predict(Xt, return_std=True)
    assert mean.shape == std.shape == (2, 2)
    # Independent Gaussians lose most of the spread between networks. By all others, what is not
    # known far away outweighs the noise of an event, and has grown as lines do, (1 + x²/<x²>)^½,
    # rather than not at all: by more than the geometric mean of the two.
    _, aleatoric, epistemic = model.predict_uncertainty(Xt)
    if inference == "variational":
        assert np.all(epistemic[1] > epistemic[0])
    else:
        assert np.all(epistemic[1] > aleatoric[1])
        line = np.sqrt(1 + 4.0**2 / np.mean(X**2))
        assert np.all(epistemic[1] / epistemic[0] > np.sqrt(line))
    assert np.all(np.abs(mean[0] - [0, 0]) < 5 * std[0])
    assert model.sample_y(Xt, 3).shape == (2, 2, 3)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(Xt), mean)
    if inference in ("hmc", "sghmc"):
        assert model.module_[1].draws.shape[0] == len(model.noise_) == 4 * 20


def test_same_seed_same_draws(wave):
    X, y = wave
    model = quick("hmc").set_params(n_warmup=20, n_samples=20)
    first, second = (fit(clone(model), X[:20], y[:20]) for _ in range(2))
    assert torch.equal(first.module_[1].draws, second.module_[1].draws)


def test_float32_stays(wave):
    X, y = (part.astype(np.float32) for part in wave)
    model = fit(quick("hmc"), X, y[:, 0])
    assert model.module_[1].draws.dtype == torch.float32
    assert model.predict(X).dtype == np.float32


def test_noise_that_depends_on_the_event():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (300, 1))
    y = np.exp(2 * X[:, 0]) * rng.normal(size=300) / 10
    model = fit(quick("hmc", heteroscedastic=True, prior_scale=1.0), X, y)
    left, right = model.predict_uncertainty([[-0.8], [0.8]]).aleatoric
    # Ratio of the true widths: exp(3.2) = 24; of 300 events each end has some 60.
    assert np.log(right / left) == pytest.approx(3.2, abs=4 * np.sqrt(2 / (2 * 60)))
    with pytest.raises(ValueError, match="heteroscedastic=True needs"):
        BNNRegressor(heteroscedastic=True).fit(X, y)


def test_intervals_of_a_well_specified_model_cover():
    """Each repetition is a new truth from the prior, new events and one new measurement."""
    rng = np.random.default_rng(0)
    inside = np.zeros(2)
    n = 200
    for _ in range(n):
        X = rng.normal(size=(41, 2))
        y = X @ rng.normal(size=2) + rng.normal() + 0.5 * rng.normal(size=41)
        model = BNNRegressor(encoder=LINEAR, max_epochs=1, random_state=0).fit(X[:40], y[:40])
        mean, std = model.predict(X[40:], return_std=True)
        inside += np.abs(y[40] - mean[0]) / std[0] < stats.norm.ppf([0.84, 0.975])
    for k, coverage in zip(inside, (0.68, 0.95), strict=True):
        low, high = binomial_interval(k, n, confidence_level=0.997)
        assert low < coverage < high


def test_labels_of_several_kinds(wave, monkeypatch):
    monkeypatch.setattr(_inference, "_VARIATIONAL_STEPS", 1000)
    X, _ = wave
    y = np.array(["α", "β", "γ"])[np.digitize(X[:, 0], [-0.3, 0.3])]
    for inference in ("laplace", *SAMPLERS):
        model = BNNClassifier(
            inference=inference,
            encoder=SMALL,
            n_warmup=50,
            n_samples=50,
            thinning=5,
            n_leapfrog=10,
            learning_rate=0.03,
            random_state=0,
        )
        fit(model, X, y)
        assert model.score(X, y) > 0.9
        near, far = model.predict_uncertainty([[0.0], [0.3]]).total
        assert far > near
        np.testing.assert_allclose(model.predict_proba(X).sum(1), 1)


def test_chains_that_have_not_mixed_are_reported(wave):
    X, y = wave
    model = quick("hmc").set_params(n_warmup=1, n_samples=20, n_leapfrog=1)
    with pytest.warns(ConvergenceWarning) as caught:
        model.fit(X, y)
    messages = [str(warning.message) for warning in caught]
    assert any("R-hat is" in message and "Raise n_samples" in message for message in messages)
    diverged = any("diverged" in message and "target_accept" in message for message in messages)
    assert diverged == (model.n_divergences_ > 0)


@pytest.mark.parametrize("n_chains", [2, 4])
def test_chains_that_are_stuck_apart_are_reported(wave, n_chains):
    X, y = wave
    model = quick("sghmc", step_size=1e-200, n_chains=n_chains).set_params(n_samples=20)
    with pytest.warns(ConvergenceWarning, match="R-hat is inf"):
        model.fit(X, y)
    assert model.r_hat_ == np.inf
    assert model.ess_ < 2 * n_chains


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"warm_start": True}, "warm_start"),
        ({"inference": "hmc", "n_samples": 10}, "4 × thinning"),
        ({"prior_scale": 0.0}, "prior_scale"),
        ({"inference": "nuts"}, "inference"),
        ({"laplace_layers": "all", "encoder": MLP(hidden_layer_sizes=(1000,))}, "at most"),
    ],
)
def test_bad_parameters_are_refused_with_words(parameters, message):
    X = np.random.default_rng(0).normal(size=(2001, 1))
    with pytest.raises(ValueError, match=message):
        BNNRegressor(max_epochs=1).set_params(**parameters).fit(X, X[:, 0])


def test_stochastic_chains_of_exact_constant_and_few_targets():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    cases = {
        "exact": (X, X[:, 0]),
        "constant": (X, np.full(200, 2.0)),
        **{f"{n} events": (X[:n], X[:n, 0]) for n in (1, 3)},
    }
    for name, (events, y) in cases.items():
        model = fit(quick("sghmc", step_size=0.1), events, y)
        mean, std = model.predict(events, return_std=True)
        # Targets of unit spread: as close as the prior of the noise and its own width ask for.
        assert np.sqrt(np.mean((mean - y) ** 2)) < 4 * np.sqrt(np.mean(std**2)), name
        assert np.all(std < (0.1 if len(y) == 200 else 3.0)), name


@pytest.mark.parametrize("inference", ["laplace", "variational"])
def test_copies_and_absent_events_where_numbers_decide(inference, monkeypatch):
    monkeypatch.setattr(_bnn_linearised, "_QUICK_MATRIX", 60)
    monkeypatch.setattr(_inference, "_VARIATIONAL_STEPS", 40)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    y = X[:, 0] + 0.3 * rng.normal(size=50)
    settings = {"inference": inference, "max_epochs": 1, "batch_size": 100, "random_state": 0}
    model = fit(BNNRegressor(**settings), X, y)
    absent = np.vstack([X, rng.normal(size=(150, 2))])
    weight = np.repeat([1.0, 0.0], [50, 150])
    other = fit(BNNRegressor(**settings), absent, np.append(y, np.zeros(150)), weight)
    copies = fit(BNNRegressor(**settings), np.vstack([X, X]), np.append(y, y))
    twice = fit(BNNRegressor(**settings), X, y, np.full(50, 2.0))
    assert model.prior_scales_.shape == other.prior_scales_.shape
    assert copies.prior_scales_.shape == twice.prior_scales_.shape
    if inference == "variational":
        assert len(model.bound_history_) == len(other.bound_history_)
    else:
        assert copies.log_evidence_ == pytest.approx(twice.log_evidence_, rel=1e-3)


def test_priors_count_the_inputs_of_a_weight():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.positions = nn.Parameter(torch.randn(7, 5))
            self.dense = nn.Linear(6, 3)
            self.convolution = nn.Conv1d(4, 8, 3, groups=2)
            self.transposed = nn.ConvTranspose1d(6, 2, 4, stride=2)

    prior = LayerPrior(Layers(), 1.0)
    parts = prior.fan_in.split(prior.sizes)
    fan_in = {name: part[0].item() for name, part in zip(prior.names, parts, strict=True)}
    assert fan_in == {
        "positions": 1,
        "dense.weight": 6,
        "dense.bias": 1,
        "convolution.weight": 6,
        "convolution.bias": 1,
        "transposed.weight": 12,
        "transposed.bias": 1,
    }


def test_steps_that_are_too_large_are_an_error_that_names_them(wave, monkeypatch):
    X, y = wave
    # As if the curvature were far more than what was measured.
    monkeypatch.setattr(_bnn_sampling, "largest_curvature", lambda *args: 1e-100)
    model = quick("sghmc", step_size=1.0)
    with pytest.raises(TrainingDivergedError, match=r"'step_size' parameter, now 1.0"):
        model.fit(X, y)
    assert not hasattr(model, "module_")


def test_reweighting_needs_draws():
    assert not hasattr(BNNRegressor(), "reweight")
    assert hasattr(BNNRegressor(inference="hmc"), "reweight")
