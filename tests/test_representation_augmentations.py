"""Augmentations do what they say, and nothing else."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm
from sklearn.base import clone

from sknuc.nn import Standardize
from sknuc.representation import (
    Augmentation,
    Baseline,
    FeatureDropout,
    Flip,
    Gain,
    Mask,
    Noise,
    Rotation,
    Shift,
)
from sknuc.representation._augmentations import Views, check_augmentations

ALL = [Shift, Noise, Gain, Baseline, Mask, FeatureDropout, Flip, Rotation]
SIGMAS = 4
ALARM = 2 * norm.sf(SIGMAS)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def steps(n=200, length=100):
    """Steps that rise linearly in 5 to 30 samples."""
    rng = np.random.default_rng(0)
    start = rng.uniform(30, 40, n)
    stop = start + rng.uniform(5, 30, n)
    t = np.arange(length)
    x = np.clip((t - start[:, None]) / (stop - start)[:, None], 0, 1)
    return torch.tensor(x).unsqueeze(1)


def crossing(x, level):
    """Where each signal crosses a level, in samples, by linear interpolation."""
    x = x.numpy()[:, 0]
    after = (x >= level).argmax(1)
    row = np.arange(len(x))
    low, high = x[row, after - 1], x[row, after]
    return after - 1 + (level - low) / (high - low)


@pytest.mark.parametrize("kind", ALL)
def test_parameters_are_those_of_a_scikit_learn_object(kind):
    augmentation = kind()
    assert clone(augmentation).get_params() == augmentation.get_params()
    assert isinstance(augmentation, Augmentation)
    assert repr(kind()) == f"{kind.__name__}()"


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6,), (2, 16), (3, 4, 8), (2, 3, 4, 5)])
def test_shapes_types_and_inputs_stay(kind, dtype, shape):
    x = torch.randn(9, *shape, dtype=dtype)
    before = x.clone()
    y = kind()(x)
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert torch.equal(x, before)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("samples", [-6, 0, 9])
def test_a_shift_moves_times_and_keeps_their_differences(samples):
    x = steps()
    y = Shift(samples=samples)(x)
    for level in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(crossing(y, level) - crossing(x, level), samples, atol=1e-9)
    assert (y[..., 0] == x[..., 0]).all()
    assert (y[..., -1] == x[..., -1]).all()


def test_a_shift_by_fractions_is_exact_on_straight_lines():
    x = torch.arange(50.0, dtype=torch.float64).expand(3, 1, 50)
    y = Shift(samples=2.25, subsample=True)(x)
    np.testing.assert_allclose(y[0, 0, 5:], np.arange(5, 50) - 2.25, rtol=1e-12)
    whole = Shift(samples=3.0, subsample=True)(x)
    assert torch.equal(whole, Shift(samples=3)(x))


def test_shifts_are_drawn_for_each_event_and_evenly():
    n, low, high = 4000, -2, 3
    x = torch.arange(20.0, dtype=torch.float64).expand(n, 1, 20)
    shift = (10 - Shift(samples=(low, high))(x)[:, 0, 10]).numpy()
    counts = np.bincount((shift - low).astype(int), minlength=6)
    assert len(counts) == 6
    expected = n / 6
    assert ((counts - expected) ** 2 / expected).sum() < chi2(5).isf(ALARM)


@pytest.mark.parametrize("color", [0.0, 1.0, 2.0])
def test_noise_has_its_variance_and_spectrum(color):
    n, length, std = 400, 64, 0.3
    x = torch.zeros(n, 1, length, dtype=torch.float64)
    y = Noise(std=std, color=color)(x)[:, 0].numpy()
    power = np.abs(np.fft.rfft(y)) ** 2 / length
    k = np.arange(1, length // 2)
    expected = k**-color
    # The variance is the sum over all frequencies, positive and negative, but for none.
    half = (length // 2.0) ** -color
    total = 2 * expected.sum() + half
    level = std**2 * length / total
    # |n_k|² is exponential, so that its mean over n events has the relative error 1/√n.
    limit = norm.isf(ALARM / len(k) / 2) / np.sqrt(n)
    if color:
        np.testing.assert_allclose(power[:, 0], 0, atol=1e-20)
        np.testing.assert_allclose(power[:, k].mean(0) / (level * expected), 1, atol=limit)
        # Few frequencies carry most of the variance.
        share = np.r_[2 * expected, half] / total
        error = SIGMAS * np.sqrt((share**2).sum() / n)
    else:
        np.testing.assert_allclose(power[:, k].mean(0) / std**2, 1, atol=limit)
        error = SIGMAS * np.sqrt(2 / (n * length))
    assert (y**2).mean() / std**2 == pytest.approx(1, abs=2 * error)


def test_noise_is_in_units_of_channels_or_of_the_input():
    n = 20_000
    x = torch.zeros(n, 2, 1, dtype=torch.float64)
    units = torch.zeros(2, 1), torch.tensor([[1.0], [10.0]], dtype=torch.float64)
    limit = SIGMAS / np.sqrt(2 * n)
    for unit, scale in (("channel", [1, 10]), ("input", [1, 1])):
        std = Noise(std=0.5, unit=unit)(x, units)[..., 0].numpy().std(0)
        np.testing.assert_allclose(std / (0.5 * np.array(scale)), 1, atol=limit)


def test_gain_and_baseline_are_one_number_per_event():
    x = steps()
    factor = (Gain(factor=(0.8, 1.2))(x) / x)[x > 0.01].numpy()
    gain = Gain(factor=(0.8, 1.2))(x)
    ratio = gain[:, 0, -1].numpy()
    np.testing.assert_allclose(gain.numpy(), ratio[:, None, None] * x.numpy(), rtol=1e-12)
    assert factor.min() >= 0.8
    assert factor.max() <= 1.2
    assert len(np.unique(ratio)) == len(x)
    offset = Baseline(offset=(-0.1, 0.1))(x) - x
    assert float((offset - offset[..., :1]).abs().max()) < 1e-15
    assert len(np.unique(offset[:, 0, 0])) > 0.9 * len(x)


def test_masks_are_stretches_that_may_lie_anywhere():
    n, length = 3000, 10
    x = torch.arange(float(length), dtype=torch.float64).expand(n, 1, length).clone()
    y = Mask(fraction=0.3)(x)
    hidden = (y != x).numpy()[:, 0]
    # The mean, 4.5, is no value of the event.
    assert (hidden.sum(1) == 3).all()
    first = hidden.argmax(1)
    assert all(row[f : f + 3].all() for row, f in zip(hidden, first, strict=True))
    counts = np.bincount(first, minlength=8)
    assert ((counts - n / 8) ** 2 / (n / 8)).sum() < chi2(7).isf(ALARM)
    assert (y[torch.tensor(hidden).unsqueeze(1)] == 4.5).all()


def test_dropped_features_are_the_mean():
    n, p = 5000, 0.3
    x = torch.ones(n, 4, dtype=torch.float64)
    mean = torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    y = FeatureDropout(p=p)(x, (mean, torch.ones(4)))
    hidden = y != x
    assert torch.equal(y[hidden], mean.expand_as(y)[hidden])
    limit = norm.isf(ALARM / 8) * np.sqrt(p * (1 - p) / n)
    np.testing.assert_allclose(hidden.double().mean(0), p, atol=limit)


def test_flips_and_rotations_keep_the_values():
    x = torch.randn(500, 1, 3, 8, dtype=torch.float64)
    flipped = Flip(axis=-2)(x)
    mirrored = (flipped == x.flip(2)).flatten(1).all(1)
    same = (flipped == x).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert abs(int(mirrored.sum()) - 250) < SIGMAS * np.sqrt(500) / 2
    assert torch.equal(Flip(axis=1, p=1)(x), x.flip(2))
    turned = Rotation()(x)
    turns = [
        next(k for k in range(8) if torch.equal(after, before.roll(k, -1)))
        for before, after in zip(x, turned, strict=True)
    ]
    counts = np.bincount(turns, minlength=8)
    assert ((counts - 500 / 8) ** 2 / (500 / 8)).sum() < chi2(7).isf(ALARM)
    with pytest.raises(ValueError, match="axis of events of shape"):
        Flip(axis=3)(x)


@pytest.mark.parametrize(
    ("augmentation", "words"),
    [
        (Shift(samples=1.5), "'samples' .* integer .* Got 1.5"),
        (Shift(samples=(3, 1)), "low ≤ high"),
        (Noise(std=-1.0), "'std' .* ≥ 0"),
        (Noise(color=-1.0), "'color'"),
        (Noise(std=(0, np.nan)), "finite"),
        (Gain(factor=(1, 2, 3)), "pair"),
        (Mask(fraction=2.0), r"in \[0, 1\]"),
        (Flip(p=2.0), "'p'"),
    ],
)
def test_parameters_out_of_range_are_refused(augmentation, words):
    with pytest.raises(ValueError, match=words):
        augmentation(torch.zeros(2, 1, 8))


def test_views_act_in_the_units_of_the_events():
    x = torch.rand(50, 1, 20, dtype=torch.float64) * 30 + 1000
    scaling = Standardize(torch.full((1, 1), 1000.0).double(), torch.full((1, 1), 25.0).double())
    view = Views([Gain(factor=2.0)], scaling)(scaling(x))
    np.testing.assert_allclose(view, scaling(2 * x), rtol=1e-10)
    # The standard deviation of the channel is known to them.
    view = Views([Baseline(offset=1.0)], scaling)(scaling(x))
    np.testing.assert_allclose(view, scaling(x) + 1, atol=1e-10)
    view = Views([lambda events: events + 25], scaling)(scaling(x))
    np.testing.assert_allclose(view, scaling(x) + 1, atol=1e-10)
    with pytest.raises(ValueError, match="must return events of the shape"):
        Views([lambda events: events.sum(1)], scaling)(scaling(x))


def test_padding_stays_padding():
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    x[:, 3:] = 0
    scaling = Standardize(torch.zeros(3).double(), torch.ones(3).double(), padding_axis=0)
    view = Views([Noise(std=1.0), Baseline(offset=3.0)], scaling)(scaling(x))
    assert (view[:, 3:] == 0).all()
    assert (view[:, :3] != x[:, :3]).all()


def test_what_is_no_augmentation_is_refused():
    with pytest.raises(TypeError, match=r"'augmentations' .* <class .*Noise'>"):
        check_augmentations("augmentations", [Noise])
    with pytest.raises(TypeError, match="Got 'noise'"):
        check_augmentations("augmentations", ["noise"])
    with pytest.raises(ValueError, match="Got none"):
        check_augmentations("augmentations", [])
    noise = Noise()
    assert check_augmentations("augmentations", noise) == [noise]
    assert check_augmentations("augmentations", (noise, torch.relu)) == [noise, torch.relu]
