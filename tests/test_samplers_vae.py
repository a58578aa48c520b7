"""VAESampler: linear models in closed form, bounds, likelihoods, decoders of any shape."""

import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import binom, chi2, norm, poisson
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import distributions

from sknuc.encoders import CNN, LSTM, MLP
from sknuc.nn import Bernoulli, ConvDecoder, DenseDecoder, Gaussian, Poisson, mirror
from sknuc.nn._likelihoods import log_normal_part
from sknuc.samplers import VAESampler
from sknuc.samplers._vae import _even_noise

LINEAR = MLP(hidden_layer_sizes=())

# What training may lose against the truth, in nats per dimension.
LOST = 0.02
# Statistical errors count four times; other limits give as many false alarms.
SIGMAS = 4
ALARM = 2 * norm.sf(SIGMAS)
# What a variable that loses so much may be off by at most: a shift by d deviations costs d²/2 nats,
# a width that is wrong by a share e costs e², a probability that is off by p costs 2 p² (Pinsker).
SHIFT, STRETCH, SHARE = np.sqrt(2 * LOST), np.sqrt(LOST), np.sqrt(LOST / 2)


def nats(truth, found):
    """Kullback-Leibler divergence, from the log densities of events of the truth, and its error."""
    difference = truth - found
    return difference.mean(), SIGMAS * difference.std() / np.sqrt(len(difference))


def low_rank(n, noise=0.3, seed=0):
    """Events of 6 values, of which 2 latent variables and isotropic noise are the cause."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 2)))[0] * [2.0, 1.0]
    z = rng.normal(size=(n, 2))
    return z @ axes.T + noise * rng.normal(size=(n, 6)) + 3.0


@pytest.fixture(scope="module")
def linear():
    """A linear VAE with one scale: probabilistic principal components."""
    X = low_rank(2000)
    model = VAESampler(
        encoder=LINEAR,
        input_shape=(1, 6),
        n_latent=2,
        scale="channel",
        learning_rate=0.02,
        max_epochs=150,
        random_state=0,
    )
    return X, model.fit(X)


def test_linear_vae_reaches_the_likelihood_of_probabilistic_pca(linear):
    # Tipping and Bishop (1999); Lucas et al. (2019): the ELBO has no worse maximum than this.
    X, model = linear
    exact = PCA(2).fit(X)
    short = exact.score_samples(X) - model.score_samples(X)
    # The maximum is reached but for what the events cannot tell: twice the sum of what is missing
    # has a χ² distribution with a degree of freedom for each mean, axis and noise (Wilks).
    missing = chi2.isf(ALARM, 6 + (6 + 5) + 1) / (2 * len(X))
    # The 64 draws of the bound are off by as much as its weights vary, for what is missing.
    assert -np.sqrt(2 * missing / 64) < short.mean() < missing
    # Event by event: of normal laws so close, the log ratio has twice its mean as variance.
    assert short.std() < np.sqrt(2 * missing)


def test_linear_vae_finds_the_principal_subspace_and_the_noise(linear):
    X, model = linear
    exact = PCA(2).fit(X)
    # At least half an event's share for each of 18 parameters: a maximum is known no better.
    missing = max(exact.score(X) - model.score(X), 18 / (2 * len(X)))
    decoded = model.inverse_transform(np.vstack([np.zeros(2), np.eye(2)]))
    directions = decoded[1:] - decoded[0]
    q = np.linalg.qr(directions.T)[0]
    overlap = np.linalg.svd(exact.components_ @ q)[1]
    # An axis of variance v, turned into the noise of variance s², costs (v - s²)²/(2 v s²) nats per
    # square of the sine.
    v, noise = exact.explained_variance_[1], exact.noise_variance_
    assert 1 - overlap.min() ** 2 < missing * 2 * v * noise / (v - noise) ** 2
    # W W' + s² is the covariance of the samples. An error E of it, in units of deviations, costs
    # |E|²/4 nats.
    n = 20_000
    samples = model.sample(n, random_state=0)
    covariance = exact.get_covariance()
    variances = np.outer(np.diag(covariance), np.diag(covariance))
    tolerance = np.sqrt(4 * missing * variances)
    tolerance += SIGMAS * np.sqrt((variances + covariance**2) / n)
    assert (np.abs(np.cov(samples.T) - covariance) < tolerance).all()
    means = model.set_params(sample_noise=False).sample(n, random_state=0)
    model.set_params(sample_noise=True)
    assert np.linalg.matrix_rank(np.cov(means.T), tol=1e-6) == 2
    # Noise of a wrong width costs its share squared in each of the four directions that are noise.
    # What is drawn has the errors of its squares, and of its products with the means.
    removed = np.trace(np.cov(samples.T)) - np.trace(np.cov(means.T))
    error = np.sqrt((2 * 6 * noise**2 + 4 * noise * np.trace(np.cov(means.T))) / n) / 6
    assert removed / 6 == pytest.approx(
        noise, abs=2 * noise * np.sqrt(missing / 4) + SIGMAS * error
    )


def test_scale_of_each_event_trains_as_one_scale_does():
    # Noise that is the same for all events: that the decoder may give it any other width must not
    # keep the encoder from telling events apart.
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(30, 5)))[0] * np.linspace(2, 1, 5)
    X = rng.normal(size=(1000, 5)) @ axes.T + 0.5 * rng.normal(size=(1000, 30))
    model = VAESampler(
        encoder=LINEAR, n_latent=5, learning_rate=0.005, max_epochs=100, random_state=0
    )
    event, channel = (model.set_params(scale=s).fit(X).score(X) for s in ("event", "channel"))
    # Widths that follow 5 latent variables are 150 numbers more to be fitted, which by chance gain
    # chi-squared with as many degrees of freedom, over 2n (Wilks). The training may lose more or
    # less of each latent variable.
    gain = (150 + SIGMAS * np.sqrt(2 * 150)) / (2 * len(X))
    assert abs(event - channel) < gain + 5 * LOST


def test_more_importance_samples_tighten_the_bound(linear):
    X, model = linear
    law = PCA(2).fit(X)
    exact, missing = law.score(X[:300]), max(law.score(X) - model.score(X), 18 / (2 * len(X)))
    # An encoder that is wrong by its own width in both variables, by which the ELBO is lower than
    # the likelihood by KL[N(1, 1) || N(0, 1)] = 1/2 each; the importance weights correct it.
    wrong = pickle.loads(pickle.dumps(model))
    module = wrong.module_[1]
    events = torch.tensor(wrong._columns.encode(X[:1])[0]).reshape(1, 1, 6)
    with torch.no_grad():
        module.head.bias[:2] += module.posterior(events, None)[1][0].exp()
    scores = [wrong.set_params(n_importance=k).score(X[:300]) for k in (1, 8, 64)]
    assert scores[0] < scores[1] < scores[2]
    # The log weights are ln p(x) - 1 - Σ ε, of which those of the even draws are known. An encoder
    # that itself loses m nats shifts and stretches the posterior: their mean is off by √(6 m).
    even = -1 - _even_noise(64, 2).sum(1)
    error = missing + np.sqrt(6 * missing) + SIGMAS * np.sqrt(2 * missing / 300)
    for k, score in zip((1, 8, 64), scores, strict=True):
        expected = (even.reshape(-1, k).logsumexp(1) - math.log(k)).mean().item()
        assert score - exact == pytest.approx(expected, abs=error)


def test_latent_means_decode_to_events_of_low_rank():
    X = low_rank(1000, noise=0.0)
    model = VAESampler(
        encoder=LINEAR, n_latent=2, learning_rate=0.02, max_epochs=150, random_state=0
    ).fit(X)
    Z = model.transform(X)
    assert Z.shape == (1000, 2)
    residual = X - model.inverse_transform(Z)
    # Half-way to what the lesser of both axes, a fifth of the variance, would leave.
    assert residual.var(0).sum() < X.var(0).sum() / 5 / 2
    np.testing.assert_array_equal(Z, model.transform(X))
    assert list(model.get_feature_names_out()) == ["vaesampler0", "vaesampler1"]


def test_free_bits_keep_latent_variables_in_use():
    # Nothing to tell apart: without free bits all variables collapse to the prior.
    X = np.random.default_rng(0).normal(size=(500, 2))

    def divergence(free_bits):
        model = VAESampler(
            n_latent=3,
            scale=1.0,
            free_bits=free_bits,
            learning_rate=0.01,
            max_epochs=60,
            random_state=0,
        ).fit(X)
        x = torch.tensor(model._columns.encode(X)[0])
        mean, log_std = (part.detach() for part in model.module_[1].posterior(x, None))
        q = distributions.Normal(mean, log_std.exp())
        return distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).mean(0)

    # A chance correlation r makes an axis of variance 1 + r, worth ln(1 + r)/2 nats.
    assert divergence(0.0).max() < np.log1p(SIGMAS / np.sqrt(500)) / 2
    # The mean of a batch is held above: if it is s² that is left of a unit of variance, ln(1/s)
    # nats have the variance (1 - s²)²/2 from event to event.
    error = (1 - np.exp(-2 * 0.5)) / np.sqrt(2 * 250)
    assert divergence(0.5).min() > 0.5 - SIGMAS * error


def test_beta_weighs_the_divergence():
    X = low_rank(600)
    model = VAESampler(
        encoder=LINEAR,
        n_latent=2,
        scale=0.5,
        max_epochs=100,
        learning_rate=0.02,
        random_state=0,
    )
    spread = [model.set_params(beta=b).fit(X).transform(X).var(0).sum() for b in (0.1, 1.0, 30.0)]
    assert spread[0] > spread[1] > spread[2]
    # Above every eigenvalue, β s² leaves nothing: a variance v of the latent means costs
    # β/2 (1 - eigenvalue/(β s²)) v nats.
    eigenvalue = np.linalg.eigvalsh(np.corrcoef(X.T))[-1]
    assert spread[2] < 6 * LOST / (15 * (1 - eigenvalue / (30 * 0.5**2)))


def test_loss_is_the_negative_bound_with_its_weights():
    X = low_rank(64)
    model = VAESampler(n_latent=3, max_epochs=5, random_state=0).fit(X)
    module, x = model.module_[1], torch.tensor(model._columns.encode(X)[0])
    phase = torch.tensor(model._own_columns(X)["phase"])

    def loss(progress=1.0, **parameters):
        model.set_params(**parameters)
        batch = SimpleNamespace(X=x, phase=phase, progress=progress, sample_weight=None)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return model._loss(module, batch).detach()

    mean, log_std = (part.detach() for part in module.posterior(x, None))
    q = distributions.Normal(mean, log_std.exp())
    divergence = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0))
    reconstruction = loss(beta=0.0)
    expected = reconstruction + divergence.sum(1)
    torch.testing.assert_close(loss(beta=1.0), expected)
    # Half way through the warm-up, half of the divergence counts.
    torch.testing.assert_close(
        loss(progress=0.2, warm_up=0.4), reconstruction + divergence.sum(1) / 2
    )
    torch.testing.assert_close(loss(progress=0.2, early_stopping=True), expected)
    # On average over the noise, the loss is minus the ELBO that is the score.
    scores = torch.tensor(model.score_samples(X) - model._columns.log_det(X))
    difference = loss(warm_up=0.0) + scores
    assert difference.mean().abs() < SIGMAS * difference.std() / math.sqrt(len(X))
    # Free bits, on average over the batch: each variable pays this much at least.
    paid = (loss(free_bits=0.3) - reconstruction).mean()
    torch.testing.assert_close(paid, divergence.mean(0).clamp(min=0.3).sum())


# Likelihoods against their definitions.


@pytest.mark.parametrize("scale", ["channel", "value", "event", 0.7])
def test_gaussian_likelihood_is_that_of_torch(scale):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    likelihood = Gaussian(normal(2, 5), normal(2, 5).exp(), scale).double()
    x, output = normal(7, 2, 5), normal(7, *likelihood.output_shape)
    # Until more is learnt, the noise of all events is the same, and as wide as these vary.
    mean, std = likelihood.moments(output)
    start = likelihood.fixed if scale == 0.7 else likelihood.spread
    torch.testing.assert_close(std, start.expand_as(std), rtol=2e-4, atol=0)
    with torch.no_grad():
        for parameter in likelihood.parameters():
            parameter += 0.1
    mean, std = likelihood.moments(output)
    assert (std[1:] != std[0]).all() == (scale == "event")
    expected = distributions.Normal(mean, std).log_prob(x).sum((1, 2))
    torch.testing.assert_close(likelihood.log_prob(output, x), expected)
    noise = normal(7, 2, 5)
    torch.testing.assert_close(likelihood.draw(output, noise), mean + std * noise)
    if scale == 0.7:
        assert (std == 0.7).all()


@pytest.mark.parametrize("kind", [Bernoulli, Poisson])
def test_discrete_likelihoods_are_those_of_torch(kind):
    generator = torch.Generator().manual_seed(0)
    likelihood = kind(torch.rand(2, 5, generator=generator, dtype=torch.float64)).double()
    output = 2 * torch.randn(4000, 2, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    x, mean = likelihood.draw(output, noise), likelihood.mean(output)
    law = getattr(distributions, kind.__name__)(mean)
    torch.testing.assert_close(likelihood.log_prob(output, x), law.log_prob(x).sum((1, 2)))
    pull = (x - mean).sum(0) / law.variance.sum(0).sqrt()
    # The largest of ten.
    assert pull.abs().max() < norm.isf(ALARM / 2 / 10)


def test_counts_are_quantiles_of_the_noise():
    rng = np.random.default_rng(0)
    rate = np.exp(rng.uniform(-8, 8, 5000))
    noise = rng.normal(size=5000)
    likelihood = Poisson(torch.ones(1, dtype=torch.float64))
    output, noise = torch.tensor(np.log(rate))[:, None], torch.tensor(noise)[:, None]
    drawn = likelihood.draw(output, noise).numpy().ravel()
    expected = poisson.ppf(norm.cdf(noise.numpy().ravel()), rate)
    # The rates differ in the last bit, which moves a count where a level is at its edge.
    assert np.abs(drawn - expected).max() <= 1
    assert (drawn == expected).mean() > 0.999


def glow(n, seed=0):
    """Photons of three detectors in the light of a gamma distribution, and their probability."""
    rng = np.random.default_rng(seed)
    share = np.array([1.0, 4.0, 0.2])
    X = rng.poisson(rng.gamma(4, 1, (n, 1)) * share)
    total = 4 + X.sum(1)
    each = X @ np.log(share) - gammaln(X + 1).sum(1)
    return X, gammaln(total) - gammaln(4) + each - total * np.log(1 + share.sum())


def test_poisson_decoder_learns_rates_and_their_correlation():
    X, _ = glow(3000)
    model = VAESampler(
        likelihood="poisson", n_latent=2, max_epochs=30, learning_rate=0.005, random_state=0
    ).fit(X)
    test, log_probability = glow(3000, seed=1)
    lost, error = nats(log_probability, model.score_samples(test))
    assert -error < lost < 3 * LOST + error
    samples = model.sample(6000, random_state=0)
    np.testing.assert_array_equal(samples, np.round(samples))
    assert samples.min() >= 0
    # Var = E[rate] + Var[rate]: far above that of independent Poisson counts.
    mean = 4 * np.array([1.0, 4.0, 0.2])
    std = np.sqrt(mean + mean**2 / 4)
    n = 1 / (1 / 3000 + 1 / 6000)
    assert (np.abs(samples.mean(0) - mean) < (SHIFT + SIGMAS / np.sqrt(n)) * std).all()
    fourth = ((X - mean) ** 4).mean(0) / std**4
    tolerance = 2 * STRETCH + SIGMAS * np.sqrt((fourth - 1) / n)
    assert (np.abs(samples.var(0) / std**2 - 1) < tolerance).all()
    # A correlation r that is off by d costs d² (1 + r²)/(2 (1 - r²)²) nats, of two variables.
    r = mean[0] * mean[1] / 4 / std[0] / std[1]
    tolerance = (1 - r**2) * (np.sqrt(4 * LOST / (1 + r**2)) + SIGMAS / np.sqrt(n))
    assert np.corrcoef(samples[:, 0], samples[:, 1])[0, 1] == pytest.approx(r, abs=tolerance)


def sides(n, seed=0):
    """Hits of one side or the other, and the logarithm of their probability."""
    rng = np.random.default_rng(seed)
    p = np.array([[0.1] * 3 + [0.9] * 3, [0.9] * 3 + [0.1] * 3])
    X = rng.uniform(size=(n, 6)) < p[rng.integers(0, 2, n)]
    return X.astype(float), np.log(np.where(X[:, None], p, 1 - p).prod(-1).mean(1))


def test_bernoulli_decoder_learns_hits_that_come_together():
    X, _ = sides(2000)
    model = VAESampler(
        likelihood="bernoulli", n_latent=2, max_epochs=40, learning_rate=0.005, random_state=0
    ).fit(X)
    samples = model.sample(4000, random_state=0)
    assert set(np.unique(samples)) == {0.0, 1.0}
    covariance = np.full((6, 6), -0.16)
    covariance[:3, :3] = covariance[3:, 3:] = 0.16
    np.fill_diagonal(covariance, 0.25)
    # Half-way to hits that know nothing of each other.
    tolerance = 0.16 / 2 + SIGMAS * 0.25 * np.sqrt(1 / 2000 + 1 / 4000)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=tolerance)
    # The bound cannot beat the entropy of the truth.
    test, log_probability = sides(2000, seed=1)
    lost, error = nats(log_probability, model.score_samples(test))
    # Nor is it nearer to that of hits that know nothing of each other.
    assert -error < lost < (6 * np.log(2) + log_probability.mean()) / 2 + error


# Conditions.


def test_conditional_events_have_the_mean_and_width_of_their_condition():
    rng = np.random.default_rng(0)
    energy = rng.uniform(1, 3, 3000)
    X = energy[:, None] * [1.0, -1.0] + 0.2 * energy[:, None] * rng.normal(size=(3000, 2))
    model = VAESampler(n_latent=2, max_epochs=30, learning_rate=0.003, random_state=0)
    model.fit(X, energy)
    for e in (1.5, 2.5):
        events = model.sample(4000, y=e, random_state=0)
        # The errors of those drawn, and of a line through those of the fit.
        n = 1 / (1 / 4000 + (1 + (e - 2) ** 2 * 3) / 3000)
        error = 0.2 * e * (SHIFT + SIGMAS / np.sqrt(n))
        np.testing.assert_allclose(events.mean(0), [e, -e], atol=error)
        np.testing.assert_allclose(events.std(0), 0.2 * e, rtol=STRETCH + SIGMAS / np.sqrt(2 * n))
    # Among the conditions, the events themselves say which one it was.
    free, given = model.transform(X[:200]), model.transform(X[:200], energy[:200])
    assert free.shape == given.shape
    assert model.inverse_transform(given, energy[:200]).shape == (200, 2)
    # Without a condition, that of the fit closest to the mean: of many, the mean is no event.
    typical = energy[np.abs(energy - energy.mean()).argmin()]
    np.testing.assert_array_equal(
        model.inverse_transform(given), model.inverse_transform(given, typical)
    )


def test_a_step_of_a_pipeline_keeps_what_the_classes_tell():
    rng = np.random.default_rng(0)
    y = np.repeat(["background", "signal"], 300)
    X = rng.normal(size=(600, 4)) + 2 * (y == "signal")[:, None]
    vae = VAESampler(
        encoder=LINEAR,
        n_latent=2,
        condition=None,
        max_epochs=20,
        learning_rate=0.02,
        random_state=0,
    )
    model = make_pipeline(vae, LogisticRegression())
    # Half-way between the optimum for classes four deviations apart, and guessing.
    assert cross_val_score(model, X, y, cv=2).min() > (norm.cdf(2) + 0.5) / 2
    # So does a fit without y, bit by bit.
    alone = clone(vae).fit(X)
    np.testing.assert_array_equal(clone(vae).fit_transform(X, y), alone.transform(X))
    assert alone.score(X, y) == alone.score(X)
    for refused in (alone.transform, alone.score_samples):
        with pytest.raises(ValueError, match="fitted without y"):
            refused(X, y)


def test_parts_of_the_normal_law_have_their_exact_probability():
    low = torch.tensor([-40.0, -1.0, 0.5, 9.0, -9.5, -40.0, 300.0], dtype=torch.float64)
    high = torch.tensor([0.3, 1.0, 40.0, 9.1, -9.0, 40.0, 301.0], dtype=torch.float64)
    low.requires_grad_()
    found = log_normal_part(low, high)
    a, b = low.detach().numpy(), high.numpy()
    # From the upper tail, where no digits are lost; the last part is too small for this.
    part = norm.sf(np.where(a > 0, a, -b)) - norm.sf(np.where(a > 0, b, -a))
    np.testing.assert_allclose(found.detach()[:-1], np.log(part[:-1]), rtol=1e-10, atol=1e-14)
    assert found[-1].item() == pytest.approx(norm.logsf(300.0), rel=1e-9)
    found.sum().backward()
    slope = -np.exp(norm.logpdf(a) - found.detach().numpy())
    np.testing.assert_allclose(low.grad, slope, rtol=1e-6, atol=1e-14)


def voxels(n, seed=0):
    """Energies of two voxels, of which some read zero, and their log density."""
    rng = np.random.default_rng(seed)
    hit = rng.uniform(size=(n, 2)) < [0.5, 0.3]
    log_energy = rng.normal([2.0, -1.0], [0.1, 0.5], (n, 2))
    law = np.log([0.5, 0.3]) + norm([2.0, -1.0], [0.1, 0.5]).logpdf(log_energy) - log_energy
    law = np.where(hit, law, np.log([0.5, 0.7]))
    return np.where(hit, np.exp(log_energy), 0), law.sum(1)


def test_zeros_and_energies_that_are_not_there():
    # Half of the voxels read zero. Their energies have a narrow distribution, of which events
    # without energy tell nothing: neither its mean nor its width may suffer.
    X, _ = voxels(3000)
    model = VAESampler(
        n_latent=1,
        bounds=(0, None),
        encoder=MLP(hidden_layer_sizes=(16,)),
        max_epochs=40,
        random_state=0,
    ).fit(X)
    drawn = model.sample(4000, random_state=0)
    n = 1 / (1 / 3000 + 1 / 4000)
    for i, (p, mean, std) in enumerate([(0.5, 2.0, 0.1), (0.3, -1.0, 0.5)]):
        there = np.log(drawn[drawn[:, i] > 0, i])
        assert len(there) / 4000 == pytest.approx(p, abs=SHARE + SIGMAS * np.sqrt(p * (1 - p) / n))
        error = SIGMAS / np.sqrt(p * n)
        assert there.mean() == pytest.approx(mean, abs=std * (SHIFT + error))
        assert there.std() == pytest.approx(std, rel=STRETCH + error / np.sqrt(2))
    test, log_density = voxels(3000, seed=1)
    lost, error = nats(log_density, model.score_samples(test))
    assert -error < lost < 2 * LOST + error


def test_classes_are_told_apart_by_their_bound():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 600)
    X = rng.normal(size=(600, 3)) + 4.0 * y[:, None]
    model = VAESampler(n_latent=2, max_epochs=40, learning_rate=0.003, random_state=0).fit(X, y)
    each = np.stack([model.score_samples(X, label) for label in (0, 1)])
    picked = each.argmax(0)
    # Half the distance between the classes is 2 √3 deviations. A wrong bound, too, loses something.
    assert (picked != y).sum() <= binom.isf(ALARM, 600, norm.sf(2 * np.sqrt(3)))
    # Without y, encoding picks the class that the event is of.
    encoded, given = model.transform(X), np.stack([model.transform(X, c) for c in (0, 1)])
    away = np.linalg.norm(encoded - given, axis=2)
    clear = np.abs(each[1] - each[0]) > SIGMAS
    assert clear.any()
    np.testing.assert_array_equal(away.argmin(0)[clear], picked[clear])


# As scikit-learn's estimators.


def test_weights_are_multiplicities():
    rng = np.random.default_rng(0)
    X, weight = rng.normal(size=(40, 3)), rng.integers(0, 4, 40)
    fit = VAESampler(max_epochs=20, random_state=0, free_bits=0.1).fit
    weighted = fit(X, sample_weight=weight).transform(X)
    repeated = fit(np.repeat(X, weight, axis=0)).transform(X)
    np.testing.assert_allclose(weighted, repeated, rtol=1e-9, atol=1e-12)


def test_samples_do_not_depend_on_blocks_and_pickle(monkeypatch):
    X = low_rank(200)
    model = VAESampler(max_epochs=2, n_latent=3, random_state=0).fit(X)
    at_once = model.sample(50, random_state=1), model.transform(X), model.score_samples(X[:20])
    monkeypatch.setattr("sknuc.samplers._base._BLOCK_NUMBERS", 2000)
    copy = pickle.loads(pickle.dumps(model))
    in_blocks = copy.sample(50, random_state=1), copy.transform(X), copy.score_samples(X[:20])
    for one, other in zip(at_once, in_blocks, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_pipeline_gives_events_back_in_its_units():
    X = low_rank(400) * 1e3
    sampler = VAESampler(
        encoder=LINEAR,
        n_latent=2,
        scale="channel",
        max_epochs=100,
        learning_rate=0.02,
        random_state=0,
    )
    model = make_pipeline(StandardScaler(), sampler)
    Z = model.fit_transform(X)
    # In units of deviations, half-way between what is left of the variance by two axes and by one.
    residual = ((X - model.inverse_transform(Z)) / X.std(0)).var(0).sum()
    left = np.linalg.eigvalsh(np.corrcoef(X.T))[::-1]
    assert residual < (left[1:].sum() + left[2:].sum()) / 2
    samples = model[:-1].inverse_transform(model[-1].sample(4000, random_state=0))
    error = X.std(0) * (SHIFT + SIGMAS / np.sqrt(4000))
    assert (np.abs(samples.mean(0) - X.mean(0)) < error).all()


def test_grid_search_by_the_bound_prefers_the_right_number_of_latent_variables():
    search = GridSearchCV(
        VAESampler(
            encoder=LINEAR, scale="channel", max_epochs=60, learning_rate=0.02, random_state=0
        ),
        {"n_latent": [1, 2]},
        cv=2,
    ).fit(low_rank(600))
    assert search.best_params_ == {"n_latent": 2}


def test_early_stopping_judges_by_the_bound_itself():
    X = low_rank(400)
    model = VAESampler(encoder=LINEAR, learning_rate=0.02, max_epochs=60, random_state=0)
    all_epochs = clone(model).fit(X).score(X)
    # Standard normal events are where the training starts; more than half of its way is made.
    start = norm(X.mean(0), X.std(0)).logpdf(X).sum(1).mean()
    assert model.set_params(early_stopping=True).fit(X).score(X) > (start + all_epochs) / 2


@pytest.mark.parametrize(
    ("parameters", "X", "message"),
    [
        ({"likelihood": "poisson"}, [[0.5, 1.0], [1.0, 2.0]], "needs counts.*0.5"),
        ({"likelihood": "poisson"}, [[-1.0, 1.0], [1.0, 2.0]], "needs counts.*-1"),
        ({"likelihood": "bernoulli"}, [[2.0, 1.0], [1.0, 0.0]], "needs hits.*2"),
        ({"likelihood": "poisson", "bounds": (0, None)}, [[1.0], [2.0]], "'bounds' parameter"),
        ({"n_latent": 0}, [[1.0], [2.0]], "'n_latent' parameter"),
        ({"scale": 0.0}, [[1.0], [2.0]], "'scale' parameter"),
        ({"warm_up": 1.0}, [[1.0], [2.0]], "'warm_up' parameter"),
        ({"decoder": CNN()}, [[1.0, 2.0], [2.0, 2.0]], "build"),
    ],
)
def test_errors_say_what_is_allowed(parameters, X, message):
    with pytest.raises((ValueError, TypeError), match=message):
        VAESampler(max_epochs=1, **parameters).fit(np.array(X))


class OwnDecoder:
    """A linear decoder that a user brings along."""

    def build(self, n_inputs, output_shape):
        return DenseDecoder(n_inputs, output_shape, hidden_layer_sizes=())


def test_own_decoders_are_built_and_checked():
    X = low_rank(50)
    model = VAESampler(decoder=OwnDecoder(), n_latent=2, max_epochs=1, random_state=0).fit(X)
    layers = list(model.module_[1].decoder)
    assert len(layers) == 1
    assert layers[0].weight.shape == (12, 2)
    OwnDecoder.build, build = lambda self, n, shape: DenseDecoder(n, (3,)), OwnDecoder.build
    try:
        with pytest.raises(ValueError, match=r"\(n, 12\). Got the shape \(2, 3\)"):
            VAESampler(decoder=OwnDecoder(), max_epochs=1).fit(X)
    finally:
        OwnDecoder.build = build
    Z = model.transform(X)
    with pytest.raises(ValueError, match="Z has 1 columns"):
        model.inverse_transform(Z[:, :1])


# Decoders.

SHAPES = [(7,), (1, 256), (2, 251), (3, 1), (1, 13, 17), (2, 1, 9), (2, 5, 7, 11)]


def test_numbers_of_numpy_are_numbers():
    X = np.random.default_rng(0).normal(size=(20, 1, 16))
    model = VAESampler(
        encoder=CNN(
            channels=np.array([4, 8]),
            stride=np.int64(2),
            kernel_size=np.int64(3),
            pooling="flatten",
        ),
        n_latent=np.int64(2),
        max_epochs=1,
        random_state=0,
    ).fit(X)
    drawn = model.sample(3, random_state=0)
    assert drawn.shape == (3, 1, 16)
    # What is set after the fit is for the next one.
    Z = model.transform(X)
    model.set_params(n_latent=5)
    np.testing.assert_array_equal(model.sample(3, random_state=0), drawn)
    np.testing.assert_array_equal(model.transform(X), Z)
    assert model.inverse_transform(Z).shape == X.shape
    assert len(model.get_feature_names_out()) == 2


@pytest.mark.parametrize("name", ["standardize", "warm_start"])
def test_parameters_without_a_meaning_are_none(name):
    assert name not in VAESampler().get_params()
    with pytest.raises(TypeError, match=name):
        VAESampler(**{name: name == "warm_start"})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoders_make_events_of_any_length(shape):
    z = torch.randn(3, 4)
    cnns = [
        CNN(channels=(4, 6), kernel_size=3, stride=stride, wrap=wrap)
        for stride in (1, 2, 3)
        for wrap in (False, True)
    ]
    for encoder in [None, MLP(hidden_layer_sizes=(5, 3)), LSTM(), *cnns]:
        assert mirror(encoder, 4, shape)(z).shape == (3, *shape)


def test_decoder_mirrors_the_layers_of_its_encoder():
    dense = mirror(MLP(hidden_layer_sizes=(8, 3), activation="tanh"), 2, (5,))
    assert [layer.out_features for layer in dense if hasattr(layer, "weight")] == [3, 8, 5]
    assert isinstance(dense[1], torch.nn.Tanh)
    cnn = mirror(CNN(channels=(4, 8), stride=4, n_blocks=0), 2, (1, 50))
    # 50 samples are 13 after the first stage, and 4 after the second.
    assert cnn[0].out_features == 8 * 4
    assert [layer.layer.weight.shape[:2] for layer in cnn if hasattr(layer, "layer")] == [
        (8, 4),
        (4, 1),
    ]


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_transposed_convolutions_have_no_checkerboard(stride):
    # Every sample inside is a sum over as many weights: equal weights make equal samples.
    (layer,) = list(ConvDecoder(1, (1, 60), channels=(1,), stride=stride, n_blocks=0))[3:]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
    inside = layer(torch.ones(1, 1, 60 // stride))[0, 0, stride:-stride]
    assert inside.unique().tolist() == [3.0]


def test_wrapped_decoder_turns_with_its_input():
    torch.manual_seed(0)
    decoder = ConvDecoder(3, (2, 6, 16), channels=(4, 5), wrap=True)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layers = torch.nn.Sequential(*list(decoder)[2:])
    h = torch.randn(2, 5, 2, 4)
    torch.testing.assert_close(layers(h.roll(1, -1)), layers(h).roll(4, -1))


@pytest.mark.parametrize("shape", [(1, 50), (2, 9, 7), (1, 4, 5, 3)], ids=str)
def test_signals_and_images_keep_their_shape(shape):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, *shape)).astype(np.float32)
    model = VAESampler(n_latent=3, max_epochs=2, random_state=0).fit(X)
    assert model.sample(5).shape == (5, *shape)
    Z = model.transform(X)
    assert Z.shape == (60, 3)
    assert Z.dtype == np.float32
    assert model.inverse_transform(Z).shape == X.shape
    table = VAESampler(n_latent=3, max_epochs=2, random_state=0, input_shape=shape)
    np.testing.assert_array_equal(table.fit(X.reshape(60, -1)).transform(X), Z)
