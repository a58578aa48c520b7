"""The translator: known responses are recovered event by event, and labels stay where they are."""

import math
import pickle

import numpy as np
import pytest
import sklearn
import torch
from scipy.signal import lfilter
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from torch import nn

from sknuc.adaptation import CycleGANTranslator
from sknuc.datasets import make_hpge_waveforms
from sknuc.encoders import CNN, LSTM, MLP, ModuleEncoder
from sknuc.exceptions import DomainWarning
from sknuc.losses import critic_loss, critic_terms, generator_loss
from sknuc.networks import NeuralClassifier
from sknuc.nn import PositionalUNet, ResidualDense


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def both(source, target):
    """Events of both domains, and which is which."""
    return np.concatenate([source, target]), np.repeat([0, -1], [len(source), len(target)])


# Blocks.


def test_generators_start_as_the_identity_for_events_of_any_length():
    torch.manual_seed(0)
    shapes = [(1, 256), (2, 37), (1, 5), (3, 9, 17), (1, 4, 5, 6)]
    for shape in shapes:
        n = len(shape) - 1
        options = {"patch": (2,) * n, "kernel_size": 3, "reach": (3,) * n}
        network = PositionalUNet(shape, channels=(4, 8), **options)
        x = torch.randn(3, *shape)
        assert torch.equal(network(x), x)
    x = torch.randn(3, 2, 4)
    assert torch.equal(ResidualDense((2, 4))(x), x)


def test_positional_unet_knows_where_it_is():
    # Without positions, and away from the edges, a network of convolutions turns what is the same
    # everywhere into what repeats with the period of its coarsest places.
    torch.manual_seed(0)
    network = PositionalUNet((1, 128), channels=(4, 8), patch=(2,), kernel_size=3, reach=(3,))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.zeros(1, 1, 128)
    inside, step = slice(56, 68), 4
    output = network(x)[0, 0]
    moved = (output[inside.start + step : inside.stop + step] - output[inside]).abs().max()
    nn.init.zeros_(network.position_scale)
    output = network(x)[0, 0]
    same = (output[inside.start + step : inside.stop + step] - output[inside]).abs().max()
    assert same < 1e-5 < 1e-2 < moved


def test_least_squares_losses_have_their_known_values_and_parts_add_up():
    # At the optimum D = p/(p + q), the loss of equal densities is ¼ + ¼ per pair of events.
    true, made = torch.tensor([0.5, 1.0]), torch.tensor([0.5, -1.0])
    losses = critic_loss(true, made, kind="least_squares")
    torch.testing.assert_close(losses, torch.tensor([0.5, 1.0]))
    losses = generator_loss(made, kind="least_squares")
    torch.testing.assert_close(losses, torch.tensor([0.25, 4.0]))
    for kind in ("least_squares", "non_saturating", "wasserstein", "hinge"):
        parts = critic_terms(true, made, kind=kind)
        torch.testing.assert_close(sum(parts), critic_loss(true, made, kind=kind))


# Tables.

N = 1000


@pytest.fixture(scope="module")
def gaussians():
    """Gaussians, of which the target is stretched along axes of its own, and shifted."""
    rng = np.random.default_rng(0)
    source, other, new = rng.normal(size=(3, N, 2)) * [1.0, 0.5]
    cosine, sine = math.cos(0.5), math.sin(0.5)
    axes = np.array([[cosine, -sine], [sine, cosine]])
    # Symmetric and positive: of all maps to the distribution of the target, that which moves events
    # least (Brenier), so that training from the identity has nothing shorter to find.
    matrix, shift = axes @ np.diag([1.3, 0.8]) @ axes.T, np.array([0.5, -0.3])
    X, domain = both(source, other @ matrix + shift)
    model = CycleGANTranslator(max_epochs=60, random_state=0).fit(X, sample_domain=domain)
    return model, X, domain, new, new @ matrix + shift


def test_stretched_and_shifted_gaussian_is_matched(gaussians):
    model, X, domain, new, _ = gaussians
    made, target = model.transform(new), X[domain < 0]
    # Two means of N events differ by σ√(2/N) = .045 σ, two elements of covariance matrices in units
    # of the deviations by √(4/N) = .063 at most. Five of these, as a game ends near its optimum.
    scale = target.std(0)
    assert np.all(np.abs(made.mean(0) - target.mean(0)) < 5 * scale * math.sqrt(2 / N))
    left = (np.cov(made.T) - np.cov(target.T)) / np.outer(scale, scale)
    assert np.abs(left).max() < 5 * math.sqrt(4 / N)


def test_events_are_moved_as_the_detector_moves_them(gaussians):
    # Maps that exchange events, such as reflections, have the right distribution, too, and are off
    # by as much as events differ. The errors of means and widths that are allowed above add up to
    # 5 √(2/N) ≈ .22 and 5 √(4/N) / 2 ≈ .16 standard deviations.
    model, X, domain, new, true = gaussians
    scale = X[domain < 0].std(0)
    assert rms((model.transform(new) - true) / scale) < math.hypot(0.22, 0.16)
    assert rms((new - true) / scale) > 2 * math.hypot(0.22, 0.16) * 0.9


def test_the_way_back_undoes_the_way(gaussians):
    model, _, _, new, true = gaussians
    change = rms(new - true)
    assert rms(model.inverse_transform(model.transform(new)) - new) < 0.1 * change
    assert rms(model.transform(model.inverse_transform(true)) - true) < 0.1 * change


def test_score_tells_the_distance_to_the_target(gaussians):
    model, X, domain, new, true = gaussians
    events, which = both(new, true)
    with pytest.warns(DomainWarning):
        identity = CycleGANTranslator(random_state=0).fit(X[domain == 0])
    assert identity.score(new) == pytest.approx(0, abs=1e-12)
    assert -0.1 < model.score(new) < 0
    # Half of the distance, in the same units.
    ratio = np.mean(X[domain == 0].std(0) / model.module_[1].source_scale.numpy())
    before = identity.score(events, sample_domain=which) * ratio
    assert 0 > model.score(events, sample_domain=which) > 0.5 * before


def test_events_of_the_target_come_back_as_they_are(gaussians):
    model, X, domain, _, _ = gaussians
    made = model.transform(X, sample_domain=domain)
    np.testing.assert_array_equal(made[domain < 0], X[domain < 0])
    np.testing.assert_array_equal(made[domain >= 0], model.transform(X[domain >= 0]))
    assert not np.array_equal(model.transform(X)[domain < 0], X[domain < 0])


def test_pickles_and_frames(gaussians):
    pd = pytest.importorskip("pandas")
    model, X, _, _, _ = gaussians
    copied = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copied.transform(X), model.transform(X))
    frame = pd.DataFrame(X[:50], columns=["a", "b"])
    with pytest.warns(DomainWarning):
        named = CycleGANTranslator().set_output(transform="pandas").fit(frame)
    assert list(named.transform(frame).columns) == ["a", "b"]


# The contract with a target.


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(1)
    return both(rng.normal(size=(40, 12)), rng.normal(0.5, 1.2, size=(20, 12)))


def fitted(X, domain, **parameters):
    parameters = {"max_epochs": 3, "random_state": 0, **parameters}
    weight = parameters.pop("sample_weight", None)
    y = parameters.pop("y", None)
    return CycleGANTranslator(**parameters).fit(X, y, sample_weight=weight, sample_domain=domain)


def test_labels_are_never_looked_at(small):
    X, domain = small
    once = fitted(X, domain)
    for y in (np.random.default_rng(0).permutation(60), np.full(60, np.nan), ["?"] * 60):
        np.testing.assert_array_equal(fitted(X, domain, y=y).transform(X), once.transform(X))


def test_events_of_any_shape_give_the_bits_of_their_table(small):
    X, domain = small
    table = fitted(X, domain, input_shape=(1, 12))
    events = fitted(X.reshape(60, 1, 12), domain)
    made = events.transform(X.reshape(60, 1, 12))
    np.testing.assert_array_equal(made, table.transform(X))
    np.testing.assert_array_equal(events.inverse_transform(made), table.inverse_transform(made))
    assert not np.array_equal(made, X)


def test_weights_are_multiplicities_in_either_domain(small):
    # All events are in one batch, so that sums differ by the order of their terms alone. The steps
    # of Adam divide by the size of gradients, which makes more of it where those are small.
    X, domain = small
    weight = np.random.default_rng(2).integers(0, 3, size=60)
    weighted = fitted(X, domain, sample_weight=weight, batch_size=200)
    repeated = fitted(np.repeat(X, weight, axis=0), np.repeat(domain, weight), batch_size=200)
    np.testing.assert_allclose(weighted.transform(X), repeated.transform(X), atol=1e-6)
    # The size of either domain does not matter, only shares within it.
    scaled = fitted(X, domain, sample_weight=np.where(domain < 0, 3.0, 1.0), batch_size=200)
    plain = fitted(X, domain, batch_size=200)
    np.testing.assert_allclose(scaled.transform(X), plain.transform(X), atol=1e-6)


@pytest.mark.parametrize("n", [2, 20])
def test_few_events_of_the_target_suffice_to_train(n):
    rng = np.random.default_rng(0)
    X, domain = both(rng.normal(size=(200, 3)), rng.normal(1.0, 1.0, size=(n, 3)))
    made = fitted(X, domain, max_epochs=50).transform(X[:200])
    # Their mean lies 1 ± 1/√n away along each axis; translated events go towards it.
    way = X[200:].mean(0) - X[:200].mean(0)
    moved = (made.mean(0) - X[:200].mean(0)) @ way / (way @ way)
    assert 0.1 < moved < 1.5


@pytest.mark.parametrize(
    "encoder", [LSTM(hidden_size=4), CNN(channels=(4,)), MLP(hidden_layer_sizes=(8,))]
)
def test_critics_of_any_kind_and_every_loss(small, encoder):
    X, domain = small
    signals = X.reshape(60, 2, 6)
    for loss in ("least_squares", "wasserstein", "hinge", "non_saturating", "minimax"):
        made = fitted(signals, domain, encoder=encoder, loss=loss, max_epochs=1).transform(signals)
        assert np.isfinite(made).all()
        assert made.shape == X.shape


def view(model):
    """Mean and scale by which critics read each number of an event in its unit."""
    layers = [critic.encoder[0] for critic in model.module_[1].critics]
    scale = [1 / layer.scale for layer in layers]
    mean = [-layer.shift / layer.scale for layer in layers]
    torch.testing.assert_close(mean[0], mean[1], rtol=0, atol=0)
    torch.testing.assert_close(scale[0], scale[1], rtol=0, atol=0)
    return mean[0].numpy(), scale[0].numpy()


@pytest.mark.parametrize("standardize", [True, "each"])
def test_critics_read_each_sample_in_units_of_its_spread(standardize):
    rng = np.random.default_rng(0)
    # Three channels: the last sample is constant, and so is the last channel.
    spread = np.array([3.0, 1.0, 0.3, 0.0])
    X, domain = 100 * rng.normal(size=(90, 3, 4)) * spread + 5, np.repeat([0, -1], [60, 30])
    X[domain < 0] = 1.5 * X[domain < 0] + 40
    X[:, 2] = 7.0
    weight = rng.integers(0, 3, size=90)
    generator = ModuleEncoder(ResidualDense)
    options = {"generator": generator, "standardize": standardize, "max_epochs": 1}
    model = fitted(X, domain, sample_weight=weight, batch_size=16, **options)
    # By hand: in the units of the channels, of both domains, which have equal shares.
    parts = [np.repeat(X[part], weight[part], axis=0) for part in (domain >= 0, domain < 0)]
    units = [(x.mean((0, 2)), x.var((0, 2))) for x in parts]
    if standardize is True:
        mean = np.mean([mean for mean, _ in units], axis=0)
        units = [(mean, np.mean([v + (m - mean) ** 2 for m, v in units], axis=0))] * 2
    scales = [np.sqrt(np.where(v > 0, v, 1.0)) for _, v in units]
    parts = [
        (x - m[:, None]) / scale[:, None]
        for x, (m, _), scale in zip(parts, units, scales, strict=True)
    ]
    mean = np.mean([x.mean(0) for x in parts], axis=0)
    variance = np.mean([np.mean((x - mean) ** 2, axis=0) for x in parts], axis=0)
    expected = np.maximum(np.sqrt(variance), 0.02)
    expected[2] = 1.0
    found = view(model)
    np.testing.assert_allclose(found[0], mean, atol=1e-12)
    np.testing.assert_allclose(found[1], expected, rtol=1e-9)
    # An event twice is one of weight two.
    again = fitted(np.repeat(X, weight, axis=0), np.repeat(domain, weight), **options)
    for one, other in zip(found, view(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_small_samples_are_moved_by_what_they_are_off():
    # Samples 5-8 have a twentieth of the spread of the others, and are off by .1, two deviations.
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 400, 1, 8)) * np.repeat([1.0, 0.05], 4)
    target[..., 4:] += 0.1
    X, domain = both(source, target)
    model = fitted(X, domain, generator=ModuleEncoder(ResidualDense), max_epochs=30)
    moved = (model.transform(source) - source.reshape(400, 8)).mean(0)
    # The game goes on from batch to batch, of which means of 64 are known to .05 √(2/64) = .009.
    way = (target.mean(0) - source.mean(0))[0]
    np.testing.assert_allclose(moved[4:], way[4:], atol=2 * 0.009)


def test_domains_in_other_units():
    # An untrained translation matches mean and width; trained, it stays there.
    rng = np.random.default_rng(0)
    energy = rng.gamma(3.0, 300.0, size=(2, 400, 1))
    counts = 15_000 + 6.5 * energy[1]
    X, domain = both(energy[0], counts)
    model = fitted(X, domain, standardize="each", learning_rate=1e-12)
    made = model.transform(energy[0])
    assert made.mean() == pytest.approx(counts.mean(), rel=1e-9)
    assert made.std() == pytest.approx(counts.std(), rel=1e-6)
    np.testing.assert_allclose(model.inverse_transform(made), energy[0], rtol=1e-6)


def test_region_weight_says_where_differences_count(small):
    # Where nothing pleases a critic, and the last layers start away from zero, coming back is all
    # that is learnt: of the samples that count.
    X, domain = small
    region = np.repeat([1.0, 0.0], 6)
    options = {"adversarial_weight": 1e-6, "cycle_weight": 10.0, "identity_weight": 0.0}
    generator = ModuleEncoder(off_the_identity)
    model = fitted(X, domain, generator=generator, region_weight=region, max_epochs=300, **options)
    left = np.abs(model.inverse_transform(model.transform(X)) - X).mean(0)
    assert left[:6].max() < 0.2 * left[6:].min()


def off_the_identity(input_shape):
    network = nn.Linear(*input_shape * 2)
    with torch.no_grad():
        network.weight.copy_(1.3 * torch.eye(*input_shape * 2))
    return network


def test_without_a_target_nothing_is_changed(small):
    X, _ = small
    with pytest.warns(DomainWarning, match="sample_domain"):
        model = CycleGANTranslator(random_state=0).fit(X)
    np.testing.assert_allclose(model.transform(X), X, rtol=0, atol=1e-12)


def test_a_game_that_failed_is_told():
    rng = np.random.default_rng(0)
    X, domain = both(rng.normal(size=(200, 3)), rng.normal(size=(200, 3)))
    with pytest.warns(ConvergenceWarning, match="translation has failed"):
        fitted(X, domain, learning_rate=0.3, schedule="constant", ema_decay=0.0, max_epochs=10)


def judged(model, made, X, domain, **options):
    """Judge a fit that would have made these events of the source."""
    model._forward = lambda events: made
    model._random_state = np.random.RandomState(0)
    model._look_for_failure(X, domain < 0, options.get("sample_weight"))


def test_a_spread_is_judged_in_the_units_of_each_column():
    # Of a variance that is nearly all of one column, five times the spread of the other is little.
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 100, 2)) * [1000.0, 1.0]
    X, domain = both(source, target)
    model = fitted(X, domain, max_epochs=1)
    with pytest.warns(ConvergenceWarning, match=r"they vary by 3\.\d times as much"):
        judged(model, source * [1.0, 5.0], X, domain)


def test_what_chance_does_is_judged_with_the_weights():
    # Half of the target are outliers of no weight: the others tell that events were moved away.
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(2, 200, 2))
    target[::2] += 100
    X, domain = both(source, target)
    weight = np.r_[np.ones(200), np.tile([1e-9, 1.0], 100)]
    model = fitted(X, domain, sample_weight=weight, max_epochs=1)
    judged(model, source, X, domain, sample_weight=weight)
    with pytest.warns(ConvergenceWarning, match="their distance to events of the target"):
        judged(model, source + 1.0, X, domain, sample_weight=weight)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"region_weight": [1.0, 2.0]}, "region_weight.*broadcastable.*Got the shape"),
        ({"region_weight": [-1.0] * 12}, "region_weight.*non-negative.*Got -1"),
        ({"region_weight": [0.0] * 12}, "region_weight.*one of them positive"),
        ({"region_weight": ["a"]}, r"region_weight.*non-negative.*Got \['a'\]"),
        ({"betas": (0.5,)}, "betas"),
        ({"generator": ModuleEncoder(lambda shape: nn.Linear(12, 3))}, "generator.*shape"),
        ({"standardize": "both"}, "standardize"),
        ({"cycle_weight": -1.0}, "cycle_weight"),
    ],
)
def test_bad_parameters_are_refused_in_words(small, parameters, words):
    with pytest.raises(ValueError, match=words):
        fitted(*small, **parameters)


def test_bad_domains_are_refused_in_words(small):
    X, domain = small
    with pytest.raises(ValueError, match="at least 2 of the target"):
        fitted(X[:41], domain[:41])
    with pytest.raises(ValueError, match="at least 2 of the source"):
        fitted(X[39:], domain[39:])
    with pytest.raises(TypeError, match=r"generator.*Module"):
        fitted(X, domain, generator=Builder())


class Builder:
    def build(self, input_shape):
        return "no module"


# Waveforms.

LENGTH = 64
GAIN, OFFSET, TIME_CONSTANT = 1.1, 0.02, 1.0


def pulses(n, seed):
    """Normalised pulses of 64 samples, 64 ns each, and which are of a single site."""
    events = make_hpge_waveforms(
        n, waveform_length=4 * LENGTH, weights=[0.5, 0.5, 0], random_state=seed
    )
    x = events.data - events.data[:, :40].mean(1, keepdims=True)
    x /= 6.5 * events.truth.energy[:, None]
    return x.reshape(n, LENGTH, 4).mean(2, dtype=np.float32), events.target == 0


def respond(x):
    """The linear response of other electronics: a gain, an offset and a low-pass filter."""
    share = 1 - math.exp(-1 / TIME_CONSTANT)
    return np.float32(GAIN * lfilter([share], [1, share - 1], x, axis=1) + OFFSET)


def two_levels(input_shape):
    """The default generator with fewer levels, which takes half the time."""
    options = {"patch": (2,), "kernel_size": 5, "reach": (15,)}
    return PositionalUNet(input_shape, channels=(16, 32), **options)


def a_over_e(x):
    return np.diff(x, axis=1).max(1) / x[:, -8:].mean(1)


@pytest.fixture(scope="module")
def waveforms():
    X, domain = both(pulses(400, 0)[0], respond(pulses(400, 1)[0]))
    generator = ModuleEncoder(two_levels)
    model = CycleGANTranslator(generator=generator, max_epochs=40, random_state=0)
    model.fit(X[:, None], sample_domain=domain)
    return model, *pulses(500, 2)


def test_linear_response_is_recovered_event_by_event(waveforms):
    model, x, _ = waveforms
    made, true = model.transform(x), respond(x)
    # Two thirds of what the response does to each waveform: fits of five samples and seeds leave
    # 27 to 29 %, and 8 to 9 % of the squares. Half of the gain alone would leave 42 %, and 18 %.
    assert rms(made - true) < 0.35 * rms(x - true)
    assert np.median(((made - true) ** 2).sum(1) / ((x - true) ** 2).sum(1)) < 0.12
    # Before the pulse the offset, which they miss by .0016 to .0030 of .02, and to its end the
    # gain, from 1 to 1.1, by .003 to .004.
    before, was_before = (pulse[:, :8].mean() for pulse in (made, x))
    assert abs(before - was_before - OFFSET) < 0.25 * OFFSET
    gain = (made[:, -8:].mean() - before) / (x[:, -8:].mean() - was_before)
    assert abs(gain - GAIN) < 0.1 * (GAIN - 1)


def test_labels_of_waveforms_are_kept(waveforms):
    model, x, single = waveforms
    made = model.transform(x)
    # The filter itself turns some neighbours round: no translation that is right keeps more.
    bound = spearmanr(a_over_e(x), a_over_e(respond(x)))[0]
    assert spearmanr(a_over_e(x), a_over_e(made))[0] > bound - 0.1
    # The area is known to √(A(1-A)/n_single) at most, .02 at A = .95.
    before, after = (roc_auc_score(single, a_over_e(pulse)) for pulse in (x, made))
    assert after > before - 3 * 0.02


def test_waveforms_come_back(waveforms):
    model, x, _ = waveforms
    back = model.inverse_transform(model.transform(x))
    assert rms(back - x) < 0.2 * rms(respond(x) - x)


def test_a_pipeline_trains_on_translated_simulation():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 100)
    simulated, other = (rng.normal(size=(200, 2)) + 3.0 * y[:, None] for _ in range(2))
    X, domain = both(simulated, other + 0.5)
    labels = np.r_[y, np.zeros(200, int)]
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = NeuralClassifier(max_epochs=5, random_state=0)
        translator = CycleGANTranslator(max_epochs=3, random_state=0)
        model = make_pipeline(
            translator.set_fit_request(sample_weight=False, sample_domain=True),
            classifier.set_fit_request(sample_weight=True),
        )
        model.fit(X, labels, sample_domain=domain, sample_weight=1.0 * (domain >= 0))
        on_data = model.predict(X, sample_domain=domain)
    # By hand, the same.
    made = fitted(X, domain).transform(X, sample_domain=domain)
    by_hand = NeuralClassifier(max_epochs=5, random_state=0)
    by_hand.fit(made, labels, sample_weight=1.0 * (domain >= 0))
    np.testing.assert_array_equal(on_data, by_hand.predict(made))
