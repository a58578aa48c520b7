"""What the benchmarks of samplers compare is the same on both sides, and judged as they say."""

import importlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
from sknuc.encoders import MLP
from sknuc.samplers import FlowSampler, GANSampler, VAESampler


@pytest.fixture
def benchmark(monkeypatch):
    """Import a benchmark by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


@pytest.mark.filterwarnings("ignore:The generator has collapsed")  # It is not what is looked at.
@pytest.mark.parametrize(
    ("kind", "bare", "options"),
    [
        (FlowSampler, "SameFlow", {}),
        (FlowSampler, "SameFlow", {"hidden_layer_sizes": (8,), "n_transforms": 3, "bins": 4}),
        (VAESampler, "BareVAE", {}),
        (VAESampler, "BareVAE", {"n_latent": 3, "encoder": MLP(hidden_layer_sizes=(9, 8, 7))}),
        (GANSampler, "BareGAN", {}),
        (GANSampler, "BareGAN", {"encoder": MLP(hidden_layer_sizes=(9, 8, 7))}),
    ],
)
def test_bare_loops_learn_the_network_of_the_sampler(benchmark, kind, bare, options):
    speed = benchmark("sampler_speed")
    X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    side = speed.Ours(kind, 1, batch_size=100, **options)
    reference = getattr(speed, bare)(side.model)
    speed.check_same(side, reference, X, 1)
    trained = [p for p in side.model.module_.parameters() if p.requires_grad]
    assert reference.n_parameters() == sum(p.numel() for p in trained)
    assert np.isfinite(reference.sample(10)).all()


def test_networks_of_other_sizes_are_not_compared(benchmark):
    speed = benchmark("sampler_speed")
    X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    side, other = (
        speed.Ours(VAESampler, 1, encoder=MLP(hidden_layer_sizes=sizes)) for sizes in ((8,), (8, 8))
    )
    other.fit(X, 1)
    with pytest.raises(ValueError, match=r"VAESampler learns .* numbers, but the bare loop"):
        speed.check_same(side, speed.BareVAE(other.model), X, 1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_undefined_features_are_a_bin_of_the_overlap(benchmark, share):
    overlap = benchmark("samplers").overlap
    n = 100_000
    true = np.random.default_rng(0).normal(size=n)
    true[: n // 10] = np.nan
    # As many values are lost as are then in the bin of what is not defined.
    lost = true.copy()
    lost[n // 10 : n // 10 + round(share * n)] = np.inf
    iou = (1 - share) / (1 + share)
    # What two samples reach in as many bins, at least.
    noise = np.sqrt(53 / (np.pi * n))
    ratio, error = overlap(true, lost)
    assert iou < ratio < iou * (1 + noise) / (1 - noise)
    assert 0 < error < 0.01
    # Values far away, on either side, are not taken for them.
    for far in (-1e6, 1e6):
        assert overlap(true, np.where(np.isfinite(lost), lost, far))[0] < ratio
        assert overlap(true, np.full(n, far))[0] < 0.01


@pytest.mark.parametrize(
    ("law", "parts", "limits"),
    [
        ("Mixture", (2, 5, 0), {}),
        ("Rings", (), {}),
        ("HeavyTails", (), {}),
        ("Exponential", (), {"bounds": {0: (0, None)}, "periodic": {1: 2 * np.pi}}),
    ],
)
def test_closed_forms_are_densities_of_what_is_drawn_and_integrate_to_one(
    benchmark, law, parts, limits
):
    density = benchmark("density")
    law = getattr(density, law)(*parts)
    X = law.draw(20_000, np.random.default_rng(0))
    assert density.integral(law.log_density, X, **limits) == pytest.approx(1, abs=1e-4)
    # Half of the events are below their median, and half of the density.
    middle = np.median(X[:, 0])

    def half(x):
        with np.errstate(divide="ignore"):
            return law.log_density(x) + np.log(x[:, 0] < middle)

    assert density.integral(half, X, **limits) == pytest.approx(0.5, abs=0.03)
