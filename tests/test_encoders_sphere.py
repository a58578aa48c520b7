"""Networks on the sphere: the algebra of their layers, and what rotations leave unchanged."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sknuc._engine import multiply_adds
from sknuc.encoders import KamNet, SphericalCNN
from sknuc.geometry import (
    equiangular_sphere,
    fibonacci_sphere,
    gauss_legendre_sphere,
    harmonic_analysis,
    healpix_sphere,
    polar_angles,
    random_rotations,
    rotation_harmonics,
    spherical_harmonics,
    wigner_d,
)
from sknuc.networks import NeuralClassifier
from sknuc.nn import (
    DegreeNorms,
    SphericalActivation,
    SphericalAnalysis,
    SphericalLinear,
    StackedModule,
)


def rotations(n, seed=0):
    return random_rotations(n, np.random.default_rng(seed))


def network(encoder, shape, seed=0):
    torch.manual_seed(seed)
    return encoder.build(shape).double()


def random_coefficients(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def values(coefficients, pixels):
    """Signals from coefficients (..., b²) at pixels."""
    l_max = math.isqrt(coefficients.shape[-1]) - 1
    return torch.from_numpy(coefficients @ spherical_harmonics(l_max, pixels).T)


def rotate(coefficients, R):
    """Coefficients (..., b²) of the rotated signal."""
    coefficients = np.asarray(coefficients)
    rotated = np.empty_like(coefficients)
    for l in range(math.isqrt(coefficients.shape[-1])):  # noqa: E741
        own = slice(l * l, (l + 1) ** 2)
        rotated[..., own] = coefficients[..., own] @ wigner_d(l, R[None])[0].T
    return rotated


def about_z(angle):
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def relative_change(after, before):
    """Of the features of each event."""
    return ((after - before).norm(dim=1) / before.norm(dim=1)).detach().numpy()


class Power(nn.Module):
    """A non-linearity that is resolved exactly."""

    def __init__(self, exponent):
        super().__init__()
        self.exponent = exponent

    def forward(self, x):
        return x + 0.3 * x**self.exponent


def with_power(module, exponent):
    """The network with its non-linearities on the sphere replaced."""
    for layer in module.modules():
        if isinstance(layer, SphericalActivation):
            layer.activation = Power(exponent)
    return module


# Layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orders", [(0, 0), (1, 1), (2, 1), (5, 5)])
def test_linear_layers_commute_with_rotations(orders):
    pixels = 850.0 * fibonacci_sphere(150)
    torch.manual_seed(0)
    analysis = SphericalAnalysis(harmonic_analysis(pixels, 5)).double()
    first = SphericalLinear(5, 3, 4, 0, orders[0]).double()
    second = SphericalLinear(4, 4, 2, *orders).double()
    nn.init.normal_(first.bias)
    nn.init.normal_(second.bias)
    coefficients = random_coefficients(6, 3, 36)
    f = analysis(values(coefficients, pixels))
    expected = coefficients[:, :, None] / math.sqrt(4 * np.pi)
    np.testing.assert_allclose(f, expected, atol=1e-12)
    for R in rotations(3):
        f_rotated = analysis(values(rotate(coefficients, R), pixels))
        np.testing.assert_allclose(f_rotated, rotate(f, R), atol=1e-12)
        for layers in (nn.Sequential(first), nn.Sequential(first, second)):
            g = layers(f).detach()
            np.testing.assert_allclose(layers(f_rotated).detach(), rotate(g, R), atol=1e-12)


def test_a_zonal_layer_is_the_convolution_of_funk_and_hecke():
    # (h * f)(x) = ∫ h(x·y) f(y) dy has the coefficients λ_l f_lm, λ_l = 2π ∫ h(t) P_l(t) dt.
    def h(t):
        return np.exp(3 * (t - 1)) * (1 + np.sin(2 * t))

    nodes, weights = np.polynomial.legendre.leggauss(60)
    eigenvalues = 2 * np.pi * np.polynomial.legendre.legvander(nodes, 6).T @ (weights * h(nodes))
    layer = SphericalLinear(6, 1, 1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(eigenvalues)[:, None, None])
    pixels, areas = gauss_legendre_sphere(60)
    coefficients = random_coefficients(49)
    f = values(coefficients, pixels).numpy()
    at = rotations(5)[:, :, 2]
    expected = h(at @ pixels.T) @ (areas * f)
    g = layer(torch.from_numpy(coefficients)[None, None, None]).detach().numpy()[0, 0, 0]
    np.testing.assert_allclose(values(g, at), expected, atol=1e-12)


def test_the_full_layer_is_the_correlation_on_the_sphere():
    # (ψ ⋆ f)(R) = ∫ ψ(R⁻¹x) f(x) dx for a filter without any symmetry.
    l_max = 4
    f, psi = random_coefficients(2, 25)
    pixels, areas = gauss_legendre_sphere(2 * l_max)
    R = rotations(5)
    shifted = np.array([values(psi, pixels @ r).numpy() for r in R])
    expected = shifted @ (areas * values(f, pixels).numpy())
    # g^l_mn = sqrt(4π/(2l + 1)) f_lm ψ_ln, both in units of sqrt(4π).
    layer = SphericalLinear(l_max, 1, 1, 0, l_max).double()
    with torch.no_grad():
        layer.weight.zero_()
        for l in range(l_max + 1):  # noqa: E741
            own = torch.from_numpy(psi[l * l : (l + 1) ** 2])
            orders = slice(l_max - l, l_max + l + 1)
            layer.weight[l, 0, orders] = own * math.sqrt(4 * np.pi / (2 * l + 1))
    scaled = torch.from_numpy(f)[None, None, None] / math.sqrt(4 * np.pi)
    g = layer(scaled)[0, 0].detach().numpy()
    correlation = sum(
        math.sqrt(2 * l + 1)
        * np.einsum(
            "rmn,nm->r",
            wigner_d(l, R),
            g[l_max - l : l_max + l + 1, l * l : (l + 1) ** 2],
        )
        for l in range(l_max + 1)  # noqa: E741
    )
    np.testing.assert_allclose(correlation, expected, atol=1e-12)
    # The activation's grid reads the same function: its mean square is that of the correlation.
    harmonics, weights = rotation_harmonics(l_max, l_max, 2 * l_max, 2 * l_max)
    on_grid = harmonics.reshape(len(weights), -1) @ g.ravel()
    power = sum(
        (f[l * l : (l + 1) ** 2] ** 2).sum() * (psi[l * l : (l + 1) ** 2] ** 2).sum() / (2 * l + 1)
        for l in range(l_max + 1)  # noqa: E741
    )
    assert weights @ on_grid**2 == pytest.approx(power, rel=1e-12)


def test_later_layers_are_correlations_on_the_rotation_group():
    # (ψ ⋆ f)(R) = ∫ ψ(R⁻¹Q) f(Q) dQ with f and ψ in rotation harmonics.
    l_max, order = 2, 2
    torch.manual_seed(0)
    layer = SphericalLinear(l_max, 1, 1, order, order).double()
    harmonics, weights = rotation_harmonics(l_max, order, 2 * l_max, 2 * order)
    points, _ = gauss_legendre_sphere(2 * l_max)
    theta, alpha = polar_angles(points)
    gamma = 2 * np.pi * np.arange(2 * order + 1) / (2 * order + 1)
    tilts = np.zeros((len(theta), 3, 3))
    tilts[:, 0, 0] = tilts[:, 2, 2] = np.cos(theta)
    tilts[:, 0, 2], tilts[:, 2, 0] = np.sin(theta), -np.sin(theta)
    tilts[:, 1, 1] = 1
    turned = np.array([about_z(a) for a in alpha]) @ tilts
    Q = np.array([t @ about_z(angle) for t in turned for angle in gamma])
    f = np.zeros((2 * order + 1, 9))
    for l in range(3):  # noqa: E741
        own = random_coefficients(2 * l + 1, 2 * l + 1, seed=l)
        f[order - l : order + l + 1, l * l : (l + 1) ** 2] = own
    f_on_grid = harmonics.reshape(len(Q), -1) @ f.ravel()
    filters = layer.weight.detach().numpy()

    def psi(rotations):
        return sum(
            (2 * l + 1)
            * np.einsum(
                "rnk,kn->r",
                wigner_d(l, rotations),
                filters[l, order - l : order + l + 1, order - l : order + l + 1],
            )
            for l in range(3)  # noqa: E741
        )

    g = layer(torch.from_numpy(f)[None, None])[0, 0].detach().numpy()
    for R in rotations(4):
        expected = weights @ (psi(R.T @ Q) * f_on_grid)
        actual = sum(
            math.sqrt(2 * l + 1)
            * np.einsum(
                "mn,nm",
                wigner_d(l, R[None])[0],
                g[order - l : order + l + 1, l * l : (l + 1) ** 2],
            )
            for l in range(3)  # noqa: E741
        )
        assert actual == pytest.approx(expected, abs=1e-12)


def test_orders_above_the_degree_stay_zero_and_are_not_learnt():
    torch.manual_seed(0)
    layer = SphericalLinear(3, 2, 2, 2, 2).double()
    g = layer(torch.randn(4, 2, 5, 16, dtype=torch.float64))
    for degree, order in ((0, 1), (0, 2), (1, 2)):
        for n in (2 - order, 2 + order):
            assert not g[:, :, n, degree**2 : (degree + 1) ** 2].any()
    g.square().sum().backward()
    by_order = layer.weight.grad.unflatten(2, (2, 5))
    assert not by_order[0, :, :, [0, 1, 3, 4]].any()
    assert by_order[2].all()


@pytest.mark.parametrize("l_max", [0, 1, 6])
def test_norms_of_degrees_are_invariant_and_near_one(l_max):
    norms = DegreeNorms(l_max).double()
    f = random_coefficients(5, 2, 3, (l_max + 1) ** 2)
    before = norms(torch.from_numpy(f))
    assert before.shape == (5, 2, 3, l_max + 1)
    for R in rotations(3):
        after = norms(torch.from_numpy(rotate(f, R)))
        torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-11)
    degree = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    for l in range(l_max + 1):  # noqa: E741
        square = (l_max + 1) ** 2 * (f[..., degree == l] ** 2).mean(-1)
        np.testing.assert_allclose(before[..., l], np.sqrt(square + 1e-4), rtol=1e-12)
    # A white signal of variance 1 at every point: ones at every degree.
    white = torch.ones(1, 1, 1, (l_max + 1) ** 2, dtype=torch.float64) / (l_max + 1)
    torch.testing.assert_close(norms(white), torch.full_like(norms(white), math.sqrt(1 + 1e-4)))
    dark = torch.zeros(1, 1, 1, (l_max + 1) ** 2, dtype=torch.float64, requires_grad=True)
    norms(dark).sum().backward()
    assert not dark.grad.any()


def test_norms_are_smooth_at_zero():
    # Far below the root of the least square the slope is proportional to the signal.
    norms = DegreeNorms(2).double()
    f = torch.from_numpy(1e-6 * random_coefficients(1, 1, 1, 9)).requires_grad_()
    norms(f).sum().backward()
    slope = 9 / torch.tensor([1.0, 3, 3, 3, 5, 5, 5, 5, 5], dtype=torch.float64) / 1e-2
    torch.testing.assert_close(f.grad, f.detach() * slope, rtol=1e-6, atol=0)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_activations_of_linear_functions_and_of_light_are_exact(order):
    f = np.zeros((4, 2, 2 * order + 1, 16))
    for l in range(4):  # noqa: E741
        kept = min(l, order)
        orders = slice(order - kept, order + kept + 1)
        size = (4, 2, 2 * kept + 1, 2 * l + 1)
        f[:, :, orders, l * l : (l + 1) ** 2] = random_coefficients(*size, seed=l)
    f = torch.from_numpy(f)
    for oversampling in (1, 4):
        identity = SphericalActivation(nn.Identity(), 3, 3, order, oversampling=oversampling)
        torch.testing.assert_close(identity.double()(f), f, rtol=0, atol=1e-12)
        cut = SphericalActivation(nn.Identity(), 3, 2, order, oversampling=oversampling)
        torch.testing.assert_close(cut.double()(f), f[..., :9], rtol=0, atol=1e-12)
    bright = f.clone()
    bright[:, :, order, 0] += 200.0
    relu = SphericalActivation(nn.ReLU(), 3, 3, order).double()
    torch.testing.assert_close(relu(bright), bright, rtol=0, atol=1e-10)


def test_the_square_of_a_signal_is_that_of_the_quadrature():
    class Square(nn.Module):
        def forward(self, x):
            return x.square()

    f = random_coefficients(49)
    layer = SphericalActivation(Square(), 6, 5, oversampling=2).double()
    scaled = torch.from_numpy(f)[None, None, None] / math.sqrt(4 * np.pi)
    squared = layer(scaled).numpy()[0, 0, 0] * math.sqrt(4 * np.pi)
    pixels, areas = gauss_legendre_sphere(40)
    expected = spherical_harmonics(5, pixels).T @ (areas * values(f, pixels).numpy() ** 2)
    np.testing.assert_allclose(squared, expected, atol=1e-12)


@pytest.mark.parametrize("max_order", [0, 1, "full"])
def test_polynomials_are_equivariant_to_rounding_if_their_degree_is_resolved(max_order):
    # What the grid resolves, signal to the 4th times an output, is integrated exactly.
    pixels = fibonacci_sphere(60)
    encoder = SphericalCNN(max_order=max_order, channels=(3, 2), bandwidths=(4, 3, 2))
    coefficients = random_coefficients(4, 2, 16)
    for oversampling in (4, 1):
        encoder.set_params(oversampling=oversampling)
        module = with_power(network(encoder, (2, 60)), 4)
        before = module(values(coefficients, pixels))
        changes = [
            relative_change(module(values(rotate(coefficients, R), pixels)), before).max()
            for R in rotations(3)
        ]
        if oversampling == 4:
            assert max(changes) < 1e-11
        else:
            assert max(changes) > 1e-5


def test_mixed_precision_leaves_the_symmetry_as_it_is():
    pixels = fibonacci_sphere(150)
    torch.manual_seed(0)
    layers = [
        (SphericalAnalysis(harmonic_analysis(pixels, 5)), (4, 2, 150)),
        (SphericalLinear(5, 2, 3, 1, 1), (4, 2, 3, 36)),
        (SphericalActivation(nn.SiLU(), 5, 4, 1), (4, 2, 3, 36)),
        (DegreeNorms(5), (4, 2, 3, 36)),
    ]
    for layer, shape in layers:
        x = torch.randn(shape)
        expected = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(x), expected)
            # What a learned layer made in 16 bits is as good as its digits.
            rounded = layer(x.bfloat16())
        assert torch.equal(rounded, layer(x.bfloat16().float()))
    module = SphericalCNN(positions=pixels).build((2, 150))
    coefficients = random_coefficients(6, 2, 36)
    before = module(values(coefficients, pixels).float())
    for R in rotations(3):
        x = values(rotate(coefficients, R), pixels).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            after = module(x)
        assert torch.equal(after, module(x))
        assert relative_change(after, before).max() <= 1e-3


# The encoder -------------------------------------------------------------------------------------

DETECTORS = {
    "phototubes": (850.0 * fibonacci_sphere(1879), (3, 1879)),
    "healpix": (healpix_sphere(6), (3, 432)),
    "equiangular": (equiangular_sphere(16, 24)[0], (3, 16, 24)),
}


@pytest.mark.parametrize("detector", DETECTORS)
def test_features_do_not_change_under_rotations(detector):
    pixels, shape = DETECTORS[detector]
    positions = {"phototubes": pixels, "healpix": "healpix", "equiangular": None}[detector]
    for seed in range(3):
        module = network(SphericalCNN(positions=positions), shape, seed)
        assert module[1].bandwidths == (6, 4, 3)
        coefficients = random_coefficients(6, 3, 36, seed=seed)
        before = module(values(coefficients, pixels).reshape(6, *shape))
        assert before.std(0).median() > 0.01  # they tell events apart
        for R in rotations(3, seed):
            after = module(values(rotate(coefficients, R), pixels).reshape(6, *shape))
            assert relative_change(after, before).max() <= 1e-3


@pytest.mark.parametrize("max_order", [1, 2, "full"])
def test_features_of_filters_with_orders_do_not_change_under_rotations(max_order):
    pixels = healpix_sphere(3)
    encoder = SphericalCNN(
        max_order=max_order, channels=(4, 4), bandwidths=(5, 4, 3), positions="healpix"
    )
    module = network(encoder, (2, 108))
    coefficients = random_coefficients(6, 2, 25)
    before = module(values(coefficients, pixels))
    assert before.shape[1] == module[1].n_features
    for R in rotations(4):
        after = module(values(rotate(coefficients, R), pixels))
        assert relative_change(after, before).max() <= 1e-3


def test_a_mirror_image_is_told_apart_by_orders_only():
    # Zonal filters and norms see x -> -x as well as rotations; two orders have a handedness.
    pixels = fibonacci_sphere(80)
    coefficients = random_coefficients(5, 1, 25)
    degree = np.repeat(np.arange(5), 2 * np.arange(5) + 1)
    zonal, full = (
        network(SphericalCNN(max_order=order, bandwidths=(5, 4, 3), channels=(4, 4)), (1, 80))
        for order in (0, "full")
    )
    mirrored = coefficients * (-1.0) ** degree
    for module in (zonal, full):
        before = module(values(coefficients, pixels))
        rotated = module(values(rotate(coefficients, rotations(1)[0]), pixels))
        assert relative_change(rotated, before).max() <= 1e-3
        change = relative_change(module(values(mirrored, pixels)), before)
        assert change.max() <= 1e-3 if module is zonal else change.min() > 1e-3


def hits(n_events, n_hits, n_centres=3):
    """Directions of photons around a few places, far beyond any bandwidth."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n_events, n_centres, 3))
    centres /= np.linalg.norm(centres, axis=2, keepdims=True)
    of = rng.integers(n_centres, size=(n_events, n_hits))
    x = centres[np.arange(n_events)[:, None], of] + 0.5 * rng.standard_normal((n_events, n_hits, 3))
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def on_grid(x, n_theta, n_phi):
    """Numbers of hits in the cells of an equiangular grid."""
    theta, phi = polar_angles(x)
    row = np.minimum((theta * n_theta / np.pi).astype(int), n_theta - 1)
    cell = row * n_phi + (phi * n_phi / (2 * np.pi)).astype(int)
    counts = np.stack([np.bincount(event, minlength=n_theta * n_phi) for event in cell])
    return torch.from_numpy(counts.reshape(-1, 1, n_theta, n_phi).astype(np.float64))


def test_counts_on_a_grid_change_by_less_than_the_pixels_allow():
    n_theta, n_phi, n_hits, l_max = 32, 64, 400, 8
    # Each hit moves by at most half a diagonal of its cell. Unit vectors at an angle d differ in
    # the harmonics of one degree by sqrt((2l + 1)/(4π) · 2 (1 - P_l(cos d))), and 1 - P_l(cos d)
    # is at most l (l + 1) d²/4, since no |P_l'| exceeds l (l + 1)/2. Hits before and after the
    # rotation are both moved.
    d = 0.5 * math.hypot(np.pi / n_theta, 2 * np.pi / n_phi)
    degrees = np.arange(l_max + 1)
    moved = np.sqrt((2 * degrees + 1) / (4 * np.pi) * degrees * (degrees + 1) / 2) * d
    unit = math.sqrt(4 * np.pi) / (n_theta * n_phi)  # a mean of the signal, per pixel
    norm = (l_max + 1) / np.sqrt(2 * degrees + 1)
    bound = 2 * n_hits * unit * norm * moved
    encoder = SphericalCNN(signal="counts", channels=(2,), bandwidths=(l_max + 1, 3))
    module = network(encoder, (1, n_theta, n_phi))[1]
    norms = DegreeNorms(l_max).double()
    x = hits(6, n_hits, n_centres=1)

    def powers(x):
        return norms(module.analysis(on_grid(x, n_theta, n_phi).flatten(2)))[:, 0, 0].numpy()

    before = powers(x)
    # No bound by which everything passes: the light in degrees 1 and 2 exceeds it.
    assert (before[:, 1:3] > 1.5 * bound[1:3]).all()
    for R in rotations(5):
        assert (np.abs(powers(x @ R.T) - before) <= bound + 1e-12).all()


def test_counts_on_a_grid_are_read_as_counts():
    x = hits(8, 400)
    change = {}
    for signal in ("counts", "intensity"):
        for n_theta in (16, 48):
            shape = (1, n_theta, 2 * n_theta)
            module = network(SphericalCNN(signal=signal), shape)
            before = module(on_grid(x, *shape[1:]))
            change[signal, n_theta] = np.mean(
                [
                    relative_change(module(on_grid(x @ R.T, *shape[1:])), before).mean()
                    for R in rotations(5)
                ]
            )
    assert change["counts", 48] < 0.5 * change["counts", 16]
    for n_theta in (16, 48):
        assert change["counts", n_theta] < 0.5 * change["intensity", n_theta]


def test_the_mean_that_is_subtracted_from_counts_is_uniform_light():
    rng = np.random.default_rng(0)
    shape = (2, 12, 24)
    cells = equiangular_sphere(*shape[1:])[1].reshape(shape[1:])
    for signal, uniform in (("counts", cells / cells.mean()), ("intensity", np.ones(shape[1:]))):
        X = rng.uniform(1, 9, size=(30, 2, 1, 1)) * uniform
        encoder = SphericalCNN(signal=signal, channels=(2,), bandwidths=(3, 2))
        model = NeuralClassifier(encoder=encoder, max_epochs=1, random_state=0)
        model.fit(X, np.arange(30) % 2)
        scaled = model.module_[0](torch.from_numpy(X)).numpy()
        # Uniform light of any brightness stays uniform, and is zero in the mean.
        light = scaled / uniform
        np.testing.assert_allclose(light, light[:, :, :1, :1] + 0 * light, atol=1e-12)
        np.testing.assert_allclose(light.mean(0), 0, atol=1e-12)
        assert light.std() > 0.1
    assert SphericalCNN(signal="counts").uniform_event((3, 50)) is None  # tubes are all alike


def test_tubes_that_leave_half_of_the_sphere_open_are_told():
    half = fibonacci_sphere(400)[:200]
    with pytest.warns(UserWarning, match="200 pixels of SphericalCNN resolve no direction"):
        module = SphericalCNN(positions=half).build((3, 200))
    assert module[1].bandwidths == (1, 1, 1)
    with pytest.warns(UserWarning, match="8 pixels of KamNet resolve no direction"):
        KamNet().build((3, 1, 8))
    # Of one pixel there is nothing more to know, and whoever asks for means gets them: no warning.
    assert SphericalCNN().build((3,))[1].bandwidths == (1, 1, 1)
    assert SphericalCNN(positions=half, bandwidths=(1, 1, 1)).build((3, 200))
    assert SphericalCNN(positions=fibonacci_sphere(400)).build((3, 400))[1].bandwidths[0] == 6


def test_uniform_light_has_no_structure():
    # Of cells that are counted at their centres, the midpoint rule leaves something that falls
    # with their area as long as they are small against a wavelength.
    left = []
    for n_theta in (12, 24, 48):
        shape = (1, n_theta, 2 * n_theta)
        encoder = SphericalCNN(signal="counts", bandwidths=(5, 4, 3))
        event = torch.from_numpy(encoder.uniform_event(shape).reshape(1, 1, -1).copy())
        f = network(encoder, shape)[1].analysis(event)[0, 0, 0].numpy()
        assert f[0] == pytest.approx(1, rel=1e-12)
        left.append(np.linalg.norm(f[1:]))
    np.testing.assert_allclose(left[0] / left[1], 4, rtol=0.1)
    np.testing.assert_allclose(left[1] / left[2], 4, rtol=0.1)


def test_the_more_phototubes_the_better_the_symmetry():
    # Photons know no bandwidth: what tubes do not resolve is folded into the degrees that are kept.
    x = hits(12, 600)
    encoder = SphericalCNN(bandwidths=(7, 5, 3))
    changes = []
    for n_tubes in (100, 300, 900, 2700):
        tubes = fibonacci_sphere(n_tubes)
        encoder.set_params(positions=850.0 * tubes)
        module = network(encoder, (1, n_tubes))

        def seen(x, tubes=tubes):
            tube = (x @ tubes.T).argmax(2)
            counts = [np.bincount(event, minlength=len(tubes)) for event in tube]
            return torch.from_numpy(np.array(counts, dtype=np.float64))[:, None]

        before = module(seen(x))
        after = [module(seen(x @ R.T)) for R in rotations(4)]
        changes.append(np.mean([relative_change(y, before).mean() for y in after]))
    assert (np.diff(changes) < 0).all()
    # Tubes are 1/sqrt(n) apart.
    assert changes[-1] < 0.5 * changes[0]


def test_brightness_is_one_feature_and_changes_no_other():
    pixels = fibonacci_sphere(120)
    module = network(SphericalCNN(), (3, 120))
    x = values(random_coefficients(5, 3, 64), pixels)
    dim, bright = module(x), module(1000.0 * x)
    expected = torch.zeros_like(dim)
    expected[:, 3] = math.log(1000.0)
    torch.testing.assert_close(bright - dim, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("encoder", [SphericalCNN(), SphericalCNN(signal="counts", max_order=1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_events_without_light_have_finite_gradients(encoder, dtype):
    torch.manual_seed(0)
    module = encoder.build((2, 8, 12)).to(dtype)
    x = torch.rand(3, 2, 8, 12, dtype=dtype)
    x[1] = 0
    x.requires_grad_()
    y = module(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    # Events do not see each other.
    torch.testing.assert_close(module(x[2:]), y[2:], rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_finite_differences():
    encoder = SphericalCNN(channels=(2, 2), bandwidths=(3, 2, 2), max_order=1)
    module = network(encoder, (2, 20))
    x = torch.randn(2, 2, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)


def matrices(module):
    return {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}


def test_matrices_are_exact_in_float64_wherever_the_network_has_been():
    pixels = fibonacci_sphere(60)
    encoder = SphericalCNN(channels=(2,), bandwidths=(4, 3), max_order=1)
    built = encoder.build((1, 60))
    assert all(m.dtype == torch.float32 for m in matrices(built).values())
    exact = harmonic_analysis(pixels, 3).T / math.sqrt(4 * np.pi)
    travellers = [
        built.double(),
        copy.deepcopy(built).float().double(),
        copy.deepcopy(built).half().double(),
        pickle.loads(pickle.dumps(copy.deepcopy(built).float())).double(),
    ]
    for module in travellers:
        np.testing.assert_allclose(module[1].analysis.matrix, exact, rtol=0, atol=1e-15)
        for name, matrix in matrices(module).items():
            assert matrix.dtype == torch.float64
            assert torch.equal(matrix, matrices(travellers[0])[name])
    # They are computed, not learnt: only weights are saved, and what was measured.
    weights = {name for name, _ in built.named_parameters()}
    assert set(built.state_dict()) - weights == {"1.norm.scale", "1.norm.shift"}


def test_a_matrix_is_pickled_once():
    built = SphericalCNN(bandwidths=(6, 5, 4), max_order=1).build((1, 60))
    for module in (built, copy.deepcopy(built).double()):
        numbers = sum(m.numel() for m in matrices(module).values())
        learned = sum(p.numel() * p.element_size() for p in module.parameters())
        size = len(pickle.dumps(module))
        assert size < 8 * numbers + learned + 30_000
        # The bound tells 8 bytes for a number from 12.
        assert 12 * numbers + learned > 8 * numbers + learned + 30_000


@pytest.mark.parametrize("max_order", [0, 1, "full"])
def test_the_memory_that_is_checked_is_that_of_the_matrices(max_order, monkeypatch):
    encoder = SphericalCNN(max_order=max_order, bandwidths=(5, 4, 2), oversampling=3)
    held = sum(
        m.numel()
        for name, m in matrices(encoder.build((1, 60))).items()
        if name.endswith(("analysis", "synthesis", "matrix"))
    )
    monkeypatch.setattr("sknuc.encoders._spherical._MOST_MEMORY", 12 * held / 2**30)
    encoder.build((1, 60))
    monkeypatch.setattr("sknuc.encoders._spherical._MOST_MEMORY", 12 * (held - 1) / 2**30)
    with pytest.raises(ValueError, match="matrices"):
        encoder.build((1, 60))


def test_full_filters_have_all_orders_of_their_input():
    module = SphericalCNN(max_order="full", bandwidths=(5, 3, 2), channels=(2, 2)).build((1, 60))
    assert [layer["linear"].order_out for layer in module[1].layers] == [4, 2]
    # The next higher order adds filters of no degree, and changes nothing.
    higher = SphericalCNN(max_order=7, bandwidths=(5, 3, 2), channels=(2, 2))
    x = torch.rand(3, 1, 60)
    torch.manual_seed(0)
    full = SphericalCNN(max_order="full", bandwidths=(5, 3, 2), channels=(2, 2)).build((1, 60))
    torch.manual_seed(0)
    assert torch.equal(higher.build((1, 60))(x), full(x))


def test_members_of_a_stack_are_the_members():
    encoder = SphericalCNN(channels=(3, 2), bandwidths=(4, 3, 2), max_order=1)
    members = [network(encoder, (2, 40), seed) for seed in range(3)]
    x = torch.randn(4, 2, 40, dtype=torch.float64)
    expected = torch.stack([member(x) for member in members])
    stacked = StackedModule(members, event_ndim=2)
    torch.testing.assert_close(stacked(x), expected, rtol=1e-12, atol=1e-12)


def test_default_bandwidths_are_what_the_pixels_resolve():
    assert SphericalCNN().build((1, 1879))[1].bandwidths == (6, 4, 3)
    assert SphericalCNN(channels=(4, 4, 4)).build((1, 1879))[1].bandwidths == (6, 5, 4, 3)
    assert SphericalCNN().build((5,))[1].bandwidths == (1, 1, 1)
    few = SphericalCNN(channels=(2,)).build((1, 20))[1].bandwidths
    assert few[0] ** 2 <= 20
    # Two arrangements of the same tubes are two different detectors.
    cap = fibonacci_sphere(600)[:450]
    assert SphericalCNN(positions=cap).build((1, 450))[1].bandwidths[0] in (2, 3)


NAN = np.where(np.arange(150).reshape(50, 3) == 31, np.nan, fibonacci_sphere(50))
CENTRE = fibonacci_sphere(50) * (np.arange(50) != 7)[:, None]
DOUBLED = np.concatenate([fibonacci_sphere(49), fibonacci_sphere(49)[:1]])


@pytest.mark.parametrize(
    ("parameters", "shape", "words"),
    [
        ({"positions": fibonacci_sphere(49)}, (2, 50), r"\(n_pixels, 3\).*n_pixels=50.*\(49, 3\)"),
        ({"positions": np.ones((50, 2))}, (2, 50), r"shape \(50, 2\)"),
        ({"positions": fibonacci_sphere(50)}, (100,), r"input_shape=\(C, n_pixels\)"),
        ({"positions": NAN}, (2, 50), "finite positions.*Got 1 others.*pixel 10"),
        ({"positions": CENTRE}, (2, 50), "away from the centre.*Got 1 others.*pixel 7"),
        ({"positions": DOUBLED}, (2, 50), "same direction"),
        ({"positions": fibonacci_sphere(50)}, (2, 5, 10), "must be None for events of shape"),
        ({"positions": "healpix"}, (2, 5, 10), "must be None for events of shape"),
        ({"positions": "healpix"}, (2, 50), "12 n_side² pixels"),
        ({"positions": "grid"}, (2, 50), "'positions' parameter"),
        ({"bandwidths": (4, 5, 3)}, (2, 50), r"none above the one before.*\(4, 5, 3\)"),
        ({"bandwidths": (5, 4)}, (2, 50), "each of the 2 layers"),
        ({"bandwidths": ()}, (2, 50), "each of the 2 layers"),
        ({"bandwidths": (5, 4, 0)}, (2, 50), "'bandwidths' parameter must hold positive"),
        ({"bandwidths": (9, 4, 3)}, (2, 50), "50 pixels do not determine.*degree 8"),
        ({"bandwidths": (9, 4, 3), "signal": "counts"}, (2, 50), "50 pixels do not determine"),
        ({"channels": ()}, (2, 50), "'channels' parameter must have at least one"),
        ({"channels": (4, 0)}, (2, 50), "'channels' parameter must hold positive"),
        ({"max_order": -1}, (2, 50), "'max_order' parameter"),
        ({"oversampling": 0}, (2, 50), "'oversampling' parameter"),
        ({}, (2, 3, 4, 5), r"SphericalCNN reads.*\(2, 3, 4, 5\)"),
        (
            {"max_order": "full", "bandwidths": (20, 20, 20)},
            (1, 40, 80),
            r"'max_order' parameter of SphericalCNN.*1 GiB.*max_order='full'.*\(20, 20, 20\)",
        ),
        (
            {"bandwidths": (200, 4, 3)},
            (1, 200, 400),
            "'bandwidths' parameter of SphericalCNN.*1 GiB",
        ),
    ],
)
def test_errors_name_parameter_and_value(parameters, shape, words):
    with pytest.raises(ValueError, match=words):
        SphericalCNN(**parameters).build(shape)


# KamNet ------------------------------------------------------------------------------------------


def test_kamnet_has_the_sizes_of_the_paper_at_its_frames():
    module = KamNet().build((28, 38, 38))
    film, _, sphere, dense = module
    lstm = film.layers.layers
    assert [layer.from_hidden.weight.shape[1:] for layer in lstm] == [(12, 5, 5), (22, 3, 3)]
    assert film.pool_time.weight.shape == (28, 22, 1, 1)
    assert sphere.bandwidths == (19, 14, 10, 6, 2)
    assert [layer["linear"].n_out for layer in sphere.layers] == [36, 63, 74, 124]
    assert [layer["linear"].l_max for layer in sphere.layers] == [18, 13, 9, 5]
    widths = [layer.out_features for layer in dense if isinstance(layer, nn.Linear)]
    assert widths == [1080, 864, 432, 216, 54]
    # As the documentation says.
    with torch.no_grad():
        _, work, *_ = multiply_adds(module, torch.zeros(1, 28, 38, 38))
    assert work == pytest.approx(1.7e9, rel=0.03)
    assert dense[0].in_features == sphere.n_features


@pytest.mark.parametrize("shape", [(4, 12, 16), (4, 2, 12, 16), (4, 9, 7), (1, 1, 1), (6,)])
def test_kamnet_reads_frames_of_any_size(shape):
    module = network(KamNet(hidden_channels=(3, 4)), shape)
    x = torch.rand(3, *shape, dtype=torch.float64)
    y = module(x)
    torch.testing.assert_close(torch.cat([module(event[None]) for event in x]), y)
    film = module[0]
    x = x.reshape(3, *film.shape)
    attention = film.attention(x)
    assert attention.shape == (3, film.shape[0], 4, *film.shape[2:])
    torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
    context = (attention * film.layers(x)).sum(1)
    torch.testing.assert_close(film(x), context.flatten(1))


@pytest.mark.parametrize("max_order", [0, 1])
def test_kamnet_does_not_see_rotations_by_whole_columns(max_order):
    # Film, attention and analysis commute with them to rounding, since the grid goes into itself.
    # The grids of the non-linearities do not; they resolve squares.
    shape = (5, 12, 16)
    encoder = KamNet(max_order=max_order)
    module = network(encoder, shape)
    film, unflatten, sphere, _ = module
    x = torch.rand(4, *shape, dtype=torch.float64)
    before = sphere.analysis(unflatten(film(x))).detach()
    assert before[..., 1:].std() > 1e-3
    smooth = module(x)
    square = with_power(copy.deepcopy(module), 2)
    exact = square(x)
    for columns in (1, 3, 8):
        turned = x.roll(columns, -1)
        after = sphere.analysis(unflatten(film(turned))).detach()
        expected = rotate(before, about_z(2 * np.pi * columns / 16))
        np.testing.assert_allclose(after, expected, atol=1e-12)
        assert relative_change(square(turned), exact).max() < 1e-10
        assert relative_change(module(turned), smooth).max() <= 1e-3
    zeros = network(encoder.set_params(padding="zeros"), shape)
    assert relative_change(zeros(x.roll(3, -1)), zeros(x)).max() > 1e-3


def test_kamnet_takes_widths_from_arrays():
    shape = (4, 6, 8)
    listed = network(KamNet(hidden_channels=[3, 4], channels=[5] * 4), shape)
    arrays = KamNet(hidden_channels=np.array([3, 4]), channels=np.full(4, 5))
    x = torch.rand(2, *shape, dtype=torch.float64)
    assert torch.equal(network(arrays, shape)(x), listed(x))


def test_kamnet_finds_no_structure_in_uniform_light():
    shape = (4, 12, 24)
    cells = equiangular_sphere(*shape[1:])[1].reshape(shape[1:])
    light = np.broadcast_to(cells / cells.mean(), shape)
    rng = np.random.default_rng(0)
    X = rng.poisson(0.5 * light, size=(200, *shape)).astype(float)
    pattern = {}
    for signal in ("counts", "intensity"):
        encoder = KamNet(signal=signal, hidden_channels=(6, 8), channels=(4,), bandwidths=(5, 3))
        film, unflatten, sphere, _ = network(encoder, shape)
        uniform = encoder.uniform_event(shape)
        expected = np.ones(shape) if uniform is None else np.broadcast_to(uniform, shape)
        with torch.no_grad():
            # Of the mean light itself nothing is left.
            mean = torch.from_numpy(light - expected)[None]
            at_mean = sphere.analysis(unflatten(film(mean)))[0, :, 0]
            f = sphere.analysis(unflatten(film(torch.from_numpy(X - 0.5 * expected))))[:, :, 0]
        quiet = at_mean[:, 1:].abs().max() < 1e-12
        assert quiet if signal == "counts" else not quiet
        # Of its fluctuations, which grow with the cells, less than one event differs by from the
        # next: here the mean of the two zonal coefficients that are even in z.
        even = f[:, :, [6, 20]]
        pattern[signal] = (even.mean(0).square().mean() / even.var(0).mean()).sqrt()
    assert pattern["counts"] < 1
    assert pattern["counts"] < 0.3 * pattern["intensity"]
    assert KamNet().uniform_event((7,)) is None


@pytest.mark.parametrize(
    ("parameters", "shape", "words"),
    [
        ({}, (3, 4), r"KamNet reads.*\(3, 4\)"),
        ({}, (2, 3, 4, 5, 6), r"KamNet reads.*\(2, 3, 4, 5, 6\)"),
        ({"channels": ()}, (3, 8, 8), "'channels' parameter must have at least one"),
        ({"hidden_channels": (), "kernel_size": ()}, (3, 8, 8), "'hidden_channels' parameter"),
        ({"kernel_size": (5, 4)}, (3, 8, 8), "'kernel_size' .* KamNet must be an odd positive"),
        ({"kernel_size": 7}, (3, 2, 8), r"'kernel_size' parameter of KamNet .* once .*\(5, 17\)"),
        ({"bandwidths": (4, 3)}, (3, 8, 8), "each of the 4 layers"),
        ({"bandwidths": (9, 4, 3, 2, 2)}, (3, 8, 8), "64 pixels do not determine"),
        ({"padding": "sphere"}, (3, 8, 7), "padding='sphere' of KamNet .* even width"),
        ({"padding": "wrap"}, (3, 8, 8), "'padding' parameter"),
        ({"max_order": "full"}, (28, 38, 38), "'max_order' parameter of KamNet.*1 GiB"),
        ({}, (2, 200, 400), "'bandwidths' parameter of KamNet.*1 GiB"),
        ({"signal": "charge"}, (3, 8, 8), "'signal' parameter"),
    ],
)
def test_errors_of_kamnet_name_parameter_and_value(parameters, shape, words):
    with pytest.raises(ValueError, match=words):
        KamNet(**parameters).build(shape)


def test_features_of_a_trained_network_do_not_change_under_rotations():
    pixels = fibonacci_sphere(300)
    coefficients = random_coefficients(200, 3, 36)
    y = np.arange(200) % 2
    coefficients[y == 1, :, 1:4] *= 1.5
    X = np.asarray(values(coefficients, pixels))
    model = NeuralClassifier(encoder=SphericalCNN(), max_epochs=20, random_state=0).fit(X, y)
    scaling, (encoder, _) = model.module_
    with torch.no_grad():
        before = encoder(scaling(torch.as_tensor(X)))
        for R in rotations(3):
            after = encoder(scaling(torch.as_tensor(values(rotate(coefficients, R), pixels))))
            assert relative_change(after, before).max() <= 1e-3
