"""Gaussian processes against closed forms, oracles and their own statements."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import log_expit
from scipy.stats import binom, multivariate_normal, norm
from sklearn.datasets import make_friedman1, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sknuc.encoders import MLP
from sknuc.uncertainty import GPClassifier, GPRegressor
from sknuc.uncertainty._gp_base import distinct_events
from sknuc.uncertainty._gp_classifier import _measure
from sknuc.uncertainty._gp_kernels import KERNELS, covariance, gpytorch, make_kernel, variances

LENGTHS = np.array([0.7, 1.3])
NOISE = 0.2


def fixed_kernel():
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=2))
    # Set in double precision: 0.7 in single precision is another lengthscale.
    kernel = kernel.double()
    kernel.initialize(outputscale=torch.tensor(1.7, dtype=torch.float64))
    kernel.base_kernel.initialize(lengthscale=torch.from_numpy(LENGTHS))
    return kernel


def fixed(**parameters):
    """A process whose hyper-parameters stay as they are, in the units of the data."""
    options = {"kernel": fixed_kernel(), "mean": "zero", "standardize": False, "max_iter": 0}
    return GPRegressor(**{**options, "noise": NOISE, **parameters})


def standardized(rng, n, n_targets=1):
    """Targets of mean 0 and standard deviation 1, which are their own scaled targets."""
    X = rng.normal(size=(n, 2))
    y = np.stack([np.sin(2 * X[:, 0]) + (t + 1) * X[:, 1] for t in range(n_targets)], 1)
    y += rng.normal(scale=NOISE, size=y.shape)
    y = (y - y.mean(0)) / y.std(0)
    return X, y[:, 0] if n_targets == 1 else y


def oracle(alpha):
    kernel = ConstantKernel(1.7) * Matern(LENGTHS, nu=2.5)
    return GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None)


@pytest.mark.parametrize("per_event", [False, True], ids=["one noise", "noise per event"])
def test_posterior_equals_that_of_scikit_learn(per_event):
    rng = np.random.default_rng(0)
    X, y = standardized(rng, 40)
    new = rng.normal(size=(15, 2))
    known = rng.uniform(0.1, 0.5, 40) if per_event else None
    model = fixed().fit(X, y, sample_noise=known)
    peer = oracle(NOISE**2 + (0 if known is None else known**2)).fit(X, y)
    mean, covariance = peer.predict(new, return_cov=True)
    got, got_covariance = model.predict(new, return_cov=True)
    np.testing.assert_allclose(got, mean, atol=1e-9)
    np.testing.assert_allclose(got_covariance, covariance + NOISE**2 * np.eye(15), atol=1e-9)
    _, std = model.predict(new, return_std=True)
    np.testing.assert_allclose(std**2, np.diag(got_covariance), atol=1e-12)
    total, aleatoric, epistemic = model.predict_uncertainty(new)
    np.testing.assert_allclose(total, std)
    np.testing.assert_allclose(epistemic**2, np.diag(covariance), atol=1e-9)
    np.testing.assert_allclose(aleatoric, NOISE)
    np.testing.assert_allclose(
        model.log_marginal_likelihood_value_, peer.log_marginal_likelihood_value_, rtol=1e-9
    )


def test_targets_are_independent_functions_with_one_kernel():
    rng = np.random.default_rng(1)
    X, Y = standardized(rng, 30, n_targets=3)
    new = rng.normal(size=(7, 2))
    known = rng.uniform(0.1, 0.5, Y.shape)
    for noise in (None, known):
        together = fixed().fit(X, Y, sample_noise=noise)
        mean, covariance = together.predict(new, return_cov=True)
        for t in range(3):
            alone = fixed().fit(X, Y[:, t], sample_noise=None if noise is None else noise[:, t])
            one, one_covariance = alone.predict(new, return_cov=True)
            np.testing.assert_allclose(mean[:, t], one, atol=1e-10)
            np.testing.assert_allclose(covariance[..., t], one_covariance, atol=1e-10)


@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
def test_each_target_has_a_noise_of_its_own(sparse):
    rng = np.random.default_rng(20)
    n, truth = 400, np.array([0.02, 1.0])
    X = rng.normal(size=(n + 1000, 1))
    Y = X + truth * rng.normal(size=(n + 1000, 2))
    options = {"max_exact_samples": 300, "n_inducing": 25} if sparse else {}
    model = GPRegressor(random_state=0, **options).fit(X[:n], Y[:n])
    assert model.approximation_ == ("sparse" if sparse else "exact")
    assert np.all(np.abs(model.noise_ / truth - 1) < 4 / np.sqrt(2 * n))
    low, high = np.moveaxis(model.predict_interval(X[n:], 0.68), 1, 0)
    covered = np.mean((low < Y[n:]) & (Y[n:] < high), axis=0)
    # New events scatter, and so does the width, as the noise that is learned from the old.
    width = 2 * norm.pdf(norm.ppf(0.84)) * norm.ppf(0.84) / np.sqrt(2 * n)
    assert np.all(np.abs(covered - 0.68) < 4 * np.hypot(np.sqrt(0.68 * 0.32 / 1000), width))
    drawn = model.sample_y(X[:5], 20_000, random_state=0).std(2)
    np.testing.assert_allclose(drawn, model.predict(X[:5], return_std=True)[1], rtol=0.03)


@pytest.mark.parametrize("per_event", [False, True], ids=["learned noise", "and known noise"])
def test_targets_with_learned_noises_are_those_alone_with_them_given(per_event):
    rng = np.random.default_rng(21)
    X, Y = standardized(rng, 60, n_targets=3)
    Y = 5 + Y * [0.1, 1.0, 10.0] + rng.normal(scale=[0.001, 0.3, 10.0], size=Y.shape)
    known = rng.uniform(0.05, 0.2, Y.shape) * Y.std(0) if per_event else None
    new = rng.normal(size=(7, 2))
    together = GPRegressor(random_state=0).fit(X, Y, sample_noise=known)
    mean, covariance = together.predict(new, return_cov=True)
    loo = together.predict_loo(return_std=True)
    parts = together.predict_uncertainty(new)
    evidence = 0
    for t in range(3):
        alone = GPRegressor(
            kernel=together.kernel_, mean="zero", noise=together.noise_[t], max_iter=0
        ).fit(X, Y[:, t], sample_noise=None if known is None else known[:, t])
        one, one_covariance = alone.predict(new, return_cov=True)
        np.testing.assert_allclose(mean[:, t], one, rtol=1e-8)
        np.testing.assert_allclose(covariance[..., t], one_covariance, rtol=1e-7)
        for got, expected in zip(parts, alone.predict_uncertainty(new), strict=True):
            np.testing.assert_allclose(got[:, t], expected, rtol=1e-7)
        # A noise that was given is known, and has the same effect on the event that is left out.
        for got, expected in zip(loo, alone.predict_loo(return_std=True), strict=True):
            np.testing.assert_allclose(got[:, t], expected, rtol=1e-7)
        evidence += alone.log_marginal_likelihood_value_
    np.testing.assert_allclose(together.log_marginal_likelihood_value_, evidence, rtol=1e-9)


def test_a_shared_noise_is_one_share_of_all_standard_deviations():
    rng = np.random.default_rng(22)
    X, Y = standardized(rng, 60, n_targets=3)
    Y = (Y + rng.normal(scale=0.3, size=Y.shape)) * [0.1, 1.0, 10.0]
    spread, new = Y.std(0), rng.normal(size=(7, 2))
    shared = GPRegressor(noise="shared", random_state=0).fit(X, Y)
    share = shared.noise_ / spread
    np.testing.assert_allclose(share, share[0], rtol=1e-12)
    given = GPRegressor(kernel=shared.kernel_, mean="zero", noise=share[0], max_iter=0)
    expected = given.fit(X, Y / spread).predict(new, return_std=True)
    for got, one in zip(shared.predict(new, return_std=True), expected, strict=True):
        np.testing.assert_allclose(got, one * spread + 0 * got, rtol=1e-7, atol=1e-9)
    # A noise for each target can be no less likely.
    each = GPRegressor(random_state=0).fit(X, Y)
    assert each.log_marginal_likelihood_value_ > shared.log_marginal_likelihood_value_


@pytest.mark.parametrize("sparse", [False, True], ids=["exact", "sparse"])
@pytest.mark.parametrize("noise", ["learned", 0.1])
def test_constant_targets_change_nothing(noise, sparse):
    rng = np.random.default_rng(22)
    X = rng.uniform(-3, 3, size=(200, 1))
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.normal(size=200)
    options = {"max_exact_samples": 100, "n_inducing": 25} if sparse else {}
    model = GPRegressor(noise=noise, random_state=0, **options)
    alone = model.fit(X, y)
    mean, std = alone.predict(X, return_std=True)
    evidence = alone.log_marginal_likelihood_value_
    constants = [0.0, 1.0, 3.3]
    beside = model.fit(X, np.column_stack([np.tile(constants, (200, 1)), y]))
    got, got_std = beside.predict(X, return_std=True)
    np.testing.assert_allclose(got[:, 3], mean, atol=1e-6)
    np.testing.assert_allclose(got_std[:, 3], std, rtol=1e-6)
    np.testing.assert_allclose(beside.log_marginal_likelihood_value_, evidence, rtol=1e-7)
    np.testing.assert_allclose(got[:, :3], np.tile(constants, (200, 1)), rtol=1e-14)
    np.testing.assert_allclose(got_std[:, :3], 0 if noise == "learned" else noise, atol=1e-12)


@pytest.mark.parametrize("estimator", [GPRegressor(), GPClassifier()])
def test_features_too_large_to_be_standardised_are_refused(estimator):
    rng = np.random.default_rng(23)
    X = rng.normal(size=(200, 2))
    y = (X[:, 0] > 0).astype(int)
    for value in (1e300, np.finfo(float).max):
        X[3:6, 1] = value
        with pytest.raises(ValueError, match=r"overflow float64.*Give X in another unit"):
            estimator.fit(X, y)


@pytest.mark.parametrize("problem", ["friedman", "waves"])
def test_optimum_is_that_of_scikit_learn(problem):
    if problem == "friedman":
        X, y = make_friedman1(150, 5, noise=1.0, random_state=0)
        X, nu = X[:, :5], 2.5
    else:
        rng = np.random.default_rng(2)
        X, nu = rng.uniform(-2, 2, size=(120, 2)), 1.5
        y = np.sin(3 * X[:, 0]) * X[:, 1] + 0.1 * rng.normal(size=120)
    name = {1.5: "matern32", 2.5: "matern52"}[nu]
    model = GPRegressor(kernel=name, mean="zero", random_state=0).fit(X, y)
    # It starts where ours ended, and in its own place: the better of the two ends counts.
    kernel = ConstantKernel(1.0, (1e-5, 1e5)) * Matern(np.full(X.shape[1], 1.0), nu=nu)
    kernel = kernel + WhiteKernel(0.1, (1e-8, 1e2))
    peer = GaussianProcessRegressor(kernel, alpha=0, normalize_y=True)
    with warnings.catch_warnings():
        # Of lengthscales at their bounds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        peer.fit((X - X.mean(0)) / X.std(0), y)
    best = peer.log_marginal_likelihood_value_
    assert model.log_marginal_likelihood_value_ >= best - 1e-3
    scale = model.kernel_.outputscale.item()
    theta = np.log([scale, *(model.lengthscales_ / X.std(0)), (model.noise_ / y.std()) ** 2])
    # And what ours says of its own optimum is what scikit-learn finds there.
    np.testing.assert_allclose(
        model.log_marginal_likelihood_value_, peer.log_marginal_likelihood(theta), rtol=1e-8
    )


def test_weights_are_repetitions_also_for_the_learned_noise():
    rng = np.random.default_rng(3)
    X, y = standardized(rng, 50)
    weight = rng.integers(0, 4, 50).astype(float)
    noise = rng.uniform(0.05, 0.2, 50)
    rows = np.repeat(np.arange(50), weight.astype(int))
    # Measurements at one place that differ, too: their scatter is noise.
    X = np.concatenate([X, X[:10]])
    y = np.concatenate([y, y[:10] + 0.3])
    noise = np.concatenate([noise, noise[:10]])
    weight = np.concatenate([weight, np.ones(10)])
    rows = np.concatenate([rows, np.arange(50, 60)])
    weighted = GPRegressor(random_state=0).fit(X, y, sample_weight=weight, sample_noise=noise)
    shuffled = rng.permutation(rows)
    repeated = GPRegressor(random_state=0).fit(
        X[shuffled], y[shuffled], sample_noise=noise[shuffled]
    )
    np.testing.assert_allclose(
        weighted.log_marginal_likelihood_value_, repeated.log_marginal_likelihood_value_, rtol=1e-9
    )
    for a, b in zip(
        weighted.predict(X, return_std=True), repeated.predict(X, return_std=True), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-7)


@pytest.mark.parametrize("huge", [1.0, 1.7e18])
def test_copies_are_found_beside_columns_of_any_size(huge):
    rng = np.random.default_rng(0)
    distinct = np.array([[huge, 0.0], [huge, 1.0], [huge, 2.0]])
    X = distinct[rng.permutation(np.arange(60) % 3)]
    X[X == 0] *= rng.choice([-1, 1], np.count_nonzero(X == 0))
    weight = rng.integers(0, 3, 60)
    first, group, total = distinct_events(X, weight)
    assert len(first) == 3
    np.testing.assert_array_equal(X[first][group[weight > 0]], X[weight > 0])
    np.testing.assert_array_equal(group == -1, weight == 0)
    expected = [weight[(x == X).all(1)].sum() for x in X[first]]
    np.testing.assert_array_equal(total, expected)
    # The order follows from the values.
    order = rng.permutation(60)
    again, _, _ = distinct_events(X[order], weight[order])
    np.testing.assert_array_equal(X[order][again], X[first])
    # What is known of their noise makes events different.
    first, _, _ = distinct_events(X, None, np.arange(60)[:, None] % 2 + 0.0)
    assert len(first) == len(np.unique(np.column_stack([X, np.arange(60) % 2]), axis=0))


def test_evidence_of_repeated_measurements_is_that_of_the_dense_matrix():
    rng = np.random.default_rng(4)
    X = np.repeat(rng.normal(size=(12, 2)), 3, axis=0)
    y = rng.normal(size=36)
    y = (y - y.mean()) / y.std()
    model = fixed().fit(X, y)
    matrix = (ConstantKernel(1.7) * Matern(LENGTHS, nu=2.5))(X) + NOISE**2 * np.eye(36)
    expected = multivariate_normal(np.zeros(36), matrix).logpdf(y)
    np.testing.assert_allclose(model.log_marginal_likelihood_value_, expected, rtol=1e-9)


@pytest.mark.parametrize("mean", ["constant", "linear"])
def test_sparse_with_all_events_is_exact(mean):
    rng = np.random.default_rng(5)
    X, y = standardized(rng, 60)
    noise = rng.uniform(0.2, 0.4, 60)
    new = rng.normal(size=(9, 2))
    options = {"mean": mean, "kernel": fixed_kernel(), "max_iter": 0, "random_state": 0}
    exact = GPRegressor(**options).fit(X, y, sample_noise=noise)
    sparse = GPRegressor(**options, max_exact_samples=10).fit(X, y, sample_noise=noise)
    assert (exact.approximation_, sparse.approximation_) == ("exact", "sparse")
    for a, b in zip(
        exact.predict(new, return_cov=True), sparse.predict(new, return_cov=True), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # With fewer it is a lower bound, which rises with each.
    bounds = [
        GPRegressor(**options, max_exact_samples=10, n_inducing=m)
        .fit(X, y, sample_noise=noise)
        .log_marginal_likelihood_value_
        for m in (5, 15, 30, 60)
    ]
    assert np.all(np.diff(bounds) > 0)
    np.testing.assert_allclose(bounds[-1], exact.log_marginal_likelihood_value_, atol=1e-4)


def test_sparse_process_learns_what_the_exact_one_does():
    rng = np.random.default_rng(6)
    X = rng.uniform(-3, 3, size=(400, 1))
    y = np.sin(2 * X[:, 0]) + 0.2 * rng.normal(size=400)
    exact = GPRegressor(kernel="rbf", random_state=0).fit(X, y)
    sparse = GPRegressor(kernel="rbf", max_exact_samples=300, n_inducing=25, random_state=0)
    sparse.fit(X, y)
    assert abs(sparse.log_marginal_likelihood_value_ - exact.log_marginal_likelihood_value_) < 0.01
    np.testing.assert_allclose(sparse.noise_, exact.noise_, rtol=1e-3)
    np.testing.assert_allclose(sparse.predict(X), exact.predict(X), atol=1e-3)


def test_known_noise_alone_and_none_at_all():
    rng = np.random.default_rng(7)
    X, y = standardized(rng, 30)
    through = fixed(noise=0.0).fit(X, y)
    np.testing.assert_allclose(through.predict(X), y, atol=1e-6)
    assert through.noise_ == 0
    assert np.all(through.predict_uncertainty(X).aleatoric == 0)
    # An event with a noise beyond all measure is not there.
    noise = np.where(np.arange(30) < 5, 1e6, 0.1)
    with_it = fixed(noise=0.0).fit(X, y, sample_noise=noise)
    targets = (y - y.mean()) / y.std()
    without = oracle(0.1**2).fit(X[5:], targets[5:])
    np.testing.assert_allclose(with_it.predict(X), without.predict(X), atol=1e-6)


def test_leave_one_out_equals_refits():
    rng = np.random.default_rng(8)
    X, y = standardized(rng, 25)
    noise = rng.uniform(0.1, 0.4, 25)
    model = fixed().fit(X, y, sample_noise=noise)
    mean, std = model.predict_loo(return_std=True)
    for i in range(25):
        rest = np.arange(25) != i
        peer = oracle(NOISE**2 + noise[rest] ** 2).fit(X[rest], y[rest])
        one, latent = peer.predict(X[[i]], return_std=True)
        np.testing.assert_allclose(mean[i], one[0], atol=1e-8)
        np.testing.assert_allclose(
            std[i] ** 2, latent[0] ** 2 + NOISE**2 + noise[i] ** 2, rtol=1e-7
        )
    # Copies leave together, and an event without weight was never there.
    weight = np.where(np.arange(25) == 3, 0.0, 2.0)
    mean = fixed().fit(X, y, sample_weight=weight).predict_loo()
    assert np.isnan(mean[3])
    assert np.isfinite(np.delete(mean, 3)).all()


def test_intervals_of_data_from_the_prior_cover_their_share():
    rng = np.random.default_rng(9)
    X = rng.uniform(-4, 4, size=(600, 2))
    matrix = (ConstantKernel(1.7) * Matern(LENGTHS, nu=2.5))(X) + 1e-10 * np.eye(600)
    inside = np.zeros(2)
    for _ in range(20):
        f = np.linalg.cholesky(matrix) @ rng.normal(size=600)
        y = f + NOISE * rng.normal(size=600)
        train = np.arange(600) < 100
        # One draw has a variance of its own; the prior's is that of the scaled targets.
        shift, scale = y[train].mean(), y[train].std()
        kernel = fixed_kernel()
        kernel.outputscale = 1.7 / scale**2
        model = fixed(kernel=kernel, noise=NOISE, mean="constant").fit(X[train], y[train])
        far = np.flatnonzero(~train)[::25]
        for k, coverage in enumerate((0.68, 0.95)):
            low, high = model.predict_interval(X[far], coverage).T
            inside[k] += np.sum((low < y[far]) & (y[far] < high))
        assert abs(shift) < 10
    for k, coverage in enumerate((0.68, 0.95)):
        assert binom.cdf(inside[k], 400, coverage) > 1e-3
        assert binom.sf(inside[k] - 1, 400, coverage) > 1e-3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_and_scales_far_apart_do_not_fail(dtype):
    rng = np.random.default_rng(10)
    base = rng.normal(size=(250, 4)) * [1e-9, 1.0, 1e6, 1e12] + [0, 1e4, 0, 0]
    X = np.concatenate([base, base]).astype(dtype)
    y = (np.sin(base[:, 0] * 1e9) + base[:, 2] / 1e6).astype(dtype)
    y = np.concatenate([y, y])
    model = GPRegressor(random_state=0, tol=1e-2).fit(X, y)
    assert model.predict(X).dtype == dtype
    assert model.score(X, y) > 0.9
    # Neighbours that are all but copies, and a kernel so smooth that its matrix is singular.
    near = np.concatenate([base, base * (1 + 1e-13)])
    GPRegressor(kernel="rbf", random_state=0, tol=1e-2, max_iter=300).fit(near, y)


def test_a_matrix_that_is_not_positive_definite_is_told():
    X = np.linspace(-1, 1, 60).reshape(-1, 1)
    y = np.sin(X[:, 0])
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
    kernel.outputscale = 1e10
    with pytest.warns(UserWarning, match="not positive definite"):
        smooth = GPRegressor(kernel=kernel, noise=0.0, max_iter=0).fit(X, y)
    np.testing.assert_allclose(smooth.predict(X), y, atol=1e-3)


def test_mean_functions_are_integrated_out():
    rng = np.random.default_rng(11)
    X = rng.normal(size=(80, 2))
    y = 5 + 2 * X[:, 0] - X[:, 1] + 0.1 * rng.normal(size=80)
    far = np.array([[8.0, 0.0], [0.0, 8.0], [-8.0, 8.0]])
    truth = 5 + 2 * far[:, 0] - far[:, 1]
    mean, std = GPRegressor(mean="linear", random_state=0).fit(X, y).predict(far, return_std=True)
    assert np.all(np.abs(mean - truth) < 4 * std)
    assert np.all(std < 1)


def test_samples_agree_with_moments_and_functions_are_smooth():
    rng = np.random.default_rng(12)
    X, y = standardized(rng, 30)
    model = fixed().fit(X, y)
    new = rng.normal(size=(6, 2))
    mean, covariance = model.predict(new, return_cov=True)
    functions = model.sample_functions(new, 20_000, random_state=1)
    error = np.sqrt(np.diag(covariance) / 20_000)
    assert np.all(np.abs(functions.mean(1) - mean) < 5 * error)
    latent = covariance - NOISE**2 * np.eye(6)
    bound = 5 * np.sqrt((np.outer(np.diag(latent), np.diag(latent)) + latent**2) / 20_000)
    assert np.all(np.abs(np.cov(functions) - latent) < bound)
    measured = model.sample_y(new, 20_000, random_state=1)
    np.testing.assert_allclose(measured.var(1), np.diag(covariance), rtol=0.05)
    # Of one function at one place, there is one value.
    twice = model.sample_functions(np.repeat(new[:1], 2, axis=0), 3)
    np.testing.assert_allclose(twice[0], twice[1], atol=1e-6)


def test_prior_functions_have_the_covariance_of_the_kernel():
    X = np.array([[-1.0], [0.0], [1.0]])
    model = GPRegressor(kernel="rbf", mean="zero", standardize=False)
    draws = model.sample_prior(X, 20_000, random_state=0)
    expected = RBF(1.0)(X)
    assert np.all(np.abs(np.cov(draws) - expected) < 5 * np.sqrt(2 / 20_000))
    assert not hasattr(model, "n_features_in_")


def test_deep_kernel_learns_a_rotated_and_bent_coordinate():
    rng = np.random.default_rng(13)
    X = rng.normal(size=(400, 6))
    # Along one direction of six, which no lengthscale of single features describes.
    y = np.tanh(X @ [0.9, -0.9, 0.9, -0.9, 0.9, 0.9]) + 0.1 * rng.normal(size=400)
    train = np.arange(400) < 150
    plain = GPRegressor(random_state=0).fit(X[train], y[train])
    encoder = MLP(hidden_layer_sizes=(1,), activation="tanh")
    deep = GPRegressor(encoder=encoder, random_state=0).fit(X[train], y[train])
    assert deep.log_marginal_likelihood_value_ > plain.log_marginal_likelihood_value_ + 10
    plain, deep = (m.log_prob(X[~train], y[~train]).mean() for m in (plain, deep))
    # That of the truth is 0.88, with an error of 0.03.
    assert plain < 0
    assert deep > 0.75


@pytest.mark.parametrize("name", KERNELS)
def test_fast_matrices_and_gradients_are_those_of_gpytorch(name):
    rng = np.random.default_rng(14)
    u = torch.from_numpy(rng.normal(size=(6, 3))).requires_grad_()
    v = torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_()
    kernel = make_kernel(name, 3, ard=True, mean="linear")
    kernel = kernel * make_kernel("rq", 3, ard=False, mean="zero")
    parameters = [p for p in kernel.parameters() if p.requires_grad]
    weight = torch.from_numpy(rng.normal(size=(6, 4)))
    results = []
    for matrix in (covariance(kernel, u, v), kernel(u, v).to_dense()):
        parts = torch.autograd.grad((weight * matrix).sum(), [u, v, *parameters])
        results.append([matrix.detach(), *parts])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)
    diagonal = covariance(kernel, u).diagonal()
    torch.testing.assert_close(diagonal, variances(kernel, u), rtol=1e-12, atol=1e-12)


def test_lengthscales_are_those_of_the_first_radial_kernel():
    k = gpytorch.kernels
    rbf = k.RBFKernel(ard_num_dims=2, active_dims=(2, 0)).double()
    rbf.initialize(lengthscale=torch.tensor([3.0, 5.0], dtype=torch.float64))
    one = k.MaternKernel(active_dims=(1,)).double()
    one.initialize(lengthscale=torch.tensor(7.0, dtype=torch.float64))
    pair, single = [5, np.inf, 3], [np.inf, 7, np.inf]
    X = np.random.default_rng(0).normal(size=(20, 3))
    for kernel, expected in (
        (rbf, pair),
        (k.ScaleKernel(k.ScaleKernel(rbf)), pair),
        (one * rbf, single),
        (k.LinearKernel() + k.ScaleKernel(rbf * one), pair),
        (k.PeriodicKernel() * one, single),
        (k.PeriodicKernel(), None),
        ("periodic", None),
        ("linear", None),
    ):
        model = GPRegressor(kernel=kernel, max_iter=0, standardize=False, random_state=0)
        lengths = model.fit(X, X[:, 0]).lengthscales_
        if expected is None:
            assert lengths is None
        else:
            np.testing.assert_allclose(lengths, expected)
    scaled = GPRegressor(kernel=one * rbf, max_iter=0).fit(X, X[:, 0])
    np.testing.assert_allclose(scaled.lengthscales_, np.array(single) * X.std(0))


def test_users_kernel_is_copied_and_its_prior_counts():
    rng = np.random.default_rng(15)
    X, y = standardized(rng, 40)
    kernel = fixed_kernel()
    before = {name: value.clone() for name, value in kernel.state_dict().items()}
    free = GPRegressor(kernel=kernel, mean="zero", standardize=False).fit(X, y)
    for name, value in kernel.state_dict().items():
        assert torch.equal(value, before[name])
    prior = gpytorch.priors.GammaPrior(3000.0, 1000.0)
    kernel.base_kernel.register_prior(
        "narrow", prior, lambda module: module.lengthscale, lambda module, value: None
    )
    held = GPRegressor(kernel=kernel, mean="zero", standardize=False).fit(X, y)
    assert np.all(np.abs(held.lengthscales_ - 3) < np.abs(free.lengthscales_ - 3))
    with pytest.raises(ValueError, match="batch_shape"):
        GPRegressor(kernel=gpytorch.kernels.RBFKernel(batch_shape=torch.Size([2]))).fit(X, y)


def test_bad_noise_is_refused():
    X, y = standardized(np.random.default_rng(16), 10)
    with pytest.raises(ValueError, match="'sample_noise' parameter of fit must be non-negative"):
        GPRegressor().fit(X, y, sample_noise=np.full(10, -1.0))
    with pytest.raises(ValueError, match="exclude each other"):
        fixed().fit(X, y).predict(X, return_std=True, return_cov=True)


# Classification.


def test_measurements_bound_the_likelihood_and_touch_it():
    rng = np.random.default_rng(17)
    f = torch.from_numpy(rng.normal(scale=3, size=(50, 1)))
    c = torch.from_numpy(rng.uniform(0.1, 6, size=(50, 1)))
    counts = torch.from_numpy(rng.integers(0, 4, size=(50, 2)) + np.array([0.0, 0.5]))

    def bound(c):
        z, v, constant = _measure(counts, c)
        log_normal = -((z - f) ** 2) / (2 * v) - (2 * np.pi * v).log() / 2
        return float(log_normal.sum() + constant)

    n, latent = counts.numpy(), f.numpy()
    truth = (n[:, 1:] * log_expit(latent) + n[:, :1] * log_expit(-latent)).sum()
    np.testing.assert_allclose(bound(f.abs()), truth, rtol=1e-10)
    assert bound(c) < truth


def test_two_classes_against_quadrature_of_the_exact_posterior():
    # Two events: the posterior of the latent function at them is a two-dimensional integral.
    X = np.array([[0.0], [0.8]])
    kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel()).double()
    kernel.initialize(outputscale=2.0)
    kernel.base_kernel.initialize(lengthscale=1.0)
    options = {"kernel": kernel, "mean": "zero", "standardize": False, "max_iter": 0}
    model = GPClassifier(**options).fit(X, [0, 1], sample_weight=[2.0, 1.0])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    f = grid @ np.linalg.cholesky(2 * RBF(1.0)(X)).T
    prior = np.outer(weights, weights).ravel() / (2 * np.pi)
    likelihood = np.exp(2 * log_expit(-f[:, 0]) + log_expit(f[:, 1]))
    evidence = prior @ likelihood
    p = (prior * likelihood) @ (1 / (1 + np.exp(-f))) / evidence
    assert np.log(evidence) - 0.05 < model.elbo_ < np.log(evidence)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], p, atol=0.02)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_classifier_weights_are_repetitions_and_sparse_is_exact(n_classes):
    rng = np.random.default_rng(18)
    X = rng.normal(size=(60, 2))
    y = np.digitize(X[:, 0] + 0.5 * rng.normal(size=60), [0.0] if n_classes == 2 else [-0.5, 0.5])
    weight = rng.integers(0, 3, 60)
    rows = np.repeat(np.arange(60), weight)
    model = GPClassifier(random_state=0).fit(X, y, sample_weight=weight)
    repeated = GPClassifier(random_state=0).fit(X[rows], y[rows])
    np.testing.assert_allclose(model.predict_proba(X), repeated.predict_proba(X), rtol=1e-7)
    np.testing.assert_allclose(model.elbo_, repeated.elbo_, rtol=1e-9)
    fixed_options = {"max_iter": 0, "random_state": 0}
    exact = GPClassifier(**fixed_options).fit(X, y)
    sparse = GPClassifier(max_exact_samples=5, **fixed_options).fit(X, y)
    assert sparse.approximation_ == "sparse"
    np.testing.assert_allclose(sparse.predict_proba(X), exact.predict_proba(X), atol=1e-5)


def test_classifier_is_sure_where_data_are_and_unsure_beyond():
    X, y = make_moons(150, noise=0.1, random_state=0)
    model = GPClassifier(random_state=0).fit(X, y)
    assert model.score(X, y) > 0.97
    inside, outside = model.predict_uncertainty(X), model.predict_uncertainty(X + 100)
    np.testing.assert_allclose(outside.total, np.log(2), atol=0.05)
    assert outside.epistemic.min() > inside.epistemic.mean()


def test_probabilities_are_calibrated_for_data_from_the_prior():
    rng = np.random.default_rng(19)
    X = rng.uniform(-3, 3, size=(1500, 1))
    kernel = ConstantKernel(4.0) * RBF(0.7)
    f = np.linalg.cholesky(kernel(X) + 1e-8 * np.eye(1500)) @ rng.normal(size=1500)
    truth = 1 / (1 + np.exp(-f))
    y = rng.uniform(size=1500) < truth
    model = GPClassifier(kernel="rbf", random_state=0, tol=1e-2).fit(X[:300], y[:300])
    p = model.predict_proba(X[300:])[:, 1]
    # The excess over the truth's own log loss is what is not known of f: some per cent.
    excess = np.mean(truth[300:] * np.log(truth[300:] / p))
    excess += np.mean((1 - truth[300:]) * np.log((1 - truth[300:]) / (1 - p)))
    assert 0 < excess < 0.03
    drawn = y[300:].mean() - p.mean()
    assert abs(drawn) < 4 * np.sqrt(np.mean(p * (1 - p)) / 1200 + 0.02**2)


def test_warnings_are_of_the_users_line():
    X = np.linspace(0, 1, 20)[:, None]
    model = make_pipeline(StandardScaler(), GPRegressor(max_iter=1))
    with pytest.warns(ConvergenceWarning) as record:
        model.fit(X, np.sin(20 * X[:, 0]))
    assert [warning.filename for warning in record] == [__file__]
