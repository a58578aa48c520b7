"""The engine carries every shape of training: one player, two, reversed gradients, a stack."""

import copy
import os
import signal
import threading
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import skorch
import torch
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from sknuc import _engine
from sknuc._engine import Player, TrainingData, _events
from sknuc.encoders import MLP, Encoder, ModuleEncoder, SphericalCNN
from sknuc.exceptions import TrainingDivergedError
from sknuc.networks import NeuralClassifier, NeuralRegressor
from sknuc.nn import (
    AveragedModule,
    ConvLSTMLayers,
    FeatureNorm,
    GradientReversal,
    SelfAttention,
    SphericalActivation,
    SphericalAnalysis,
    SphericalLinear,
    StackedDense,
    StackedModule,
    stack,
)

CPU = torch.device("cpu")


def data_of(X, batch_size, *, seeds=0, rows=None, **columns):
    source = _engine.EventSource(X, X.shape[1:], torch.float64, CPU)
    columns.setdefault("sample_weight", None)
    return TrainingData(source, columns, rows=rows, batch_size=batch_size, seeds=seeds)


def play(module, players, data, max_epochs, **options):
    return _engine.train(
        module, players, data, max_epochs=max_epochs, device=CPU, dtype=torch.float64, **options
    )


def squared(module, batch):
    return (module(batch.X)[..., 0] - batch.y).square()


def linear(seed, n_in=3):
    with _engine.seeded(seed):
        return nn.Linear(n_in, 1).double()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(103, 3))
    return X, X @ [1.0, -2.0, 0.5] + rng.normal(size=103), rng.uniform(0.5, 2, size=103)


class TestBatches:
    def test_an_epoch_is_a_permutation(self):
        X = np.arange(1000.0).reshape(-1, 1)
        data = data_of(X, 64, y=X[:, 0])
        for _ in range(2):
            batches = list(data)
            assert [len(b) for b in batches] == [63] * 15 + [55]
            seen = torch.cat([b.X[:, 0] for b in batches])
            assert torch.equal(seen, torch.cat([b.y for b in batches]))
            assert torch.equal(seen.sort().values, torch.from_numpy(X[:, 0]))
        first, second = (torch.cat([b.y for b in data]) for _ in range(2))
        assert not torch.equal(first, second)

    def test_block_shuffle_is_a_permutation_that_mixes_blocks(self, monkeypatch):
        monkeypatch.setattr(_events, "RESIDENT_BYTES", 1000)
        monkeypatch.setattr(_events, "BLOCK_BYTES", 80)
        monkeypatch.setattr(_events, "BUFFER_BYTES", 800)
        X = np.arange(1003.0).reshape(-1, 1)
        order = torch.cat([b.y for b in data_of(X, 50, y=X[:, 0])]).numpy()
        np.testing.assert_array_equal(np.sort(order), X[:, 0])
        # A batch of 50 of a sorted file spans it: ten blocks of ten rows from anywhere.
        spread = [np.ptp(order[i : i + 50]) for i in range(0, 950, 50)]
        assert min(spread) > 300

    @pytest.mark.parametrize("dtype", [np.float32, np.uint16])
    def test_same_batches_from_memory_memmap_and_hdf5(self, tmp_path, monkeypatch, dtype):
        monkeypatch.setattr(_events, "RESIDENT_BYTES", 10_000)
        monkeypatch.setattr(_events, "BLOCK_BYTES", 400)
        monkeypatch.setattr(_events, "BUFFER_BYTES", 4000)
        monkeypatch.setattr(_events, "CHUNK_BYTES", 1500)
        rng = np.random.default_rng(0)
        X = (1000 * rng.uniform(size=(700, 2, 5))).astype(dtype)
        y = (X.mean((1, 2)) > 500).astype(int)
        np.save(tmp_path / "X.npy", X)
        with h5py.File(tmp_path / "X.h5", "w") as file:
            file.create_dataset("X", data=X, chunks=(16, 2, 5))
        model = NeuralClassifier(
            max_epochs=3, batch_size=32, random_state=0, early_stopping=True, device="cpu"
        )
        expected = copy.deepcopy(model).fit(X, y).predict_proba(X)
        assert expected.dtype == np.float32
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        np.testing.assert_array_equal(
            copy.deepcopy(model).fit(mapped, y).predict_proba(mapped), expected
        )
        with h5py.File(tmp_path / "X.h5") as file:
            fitted = copy.deepcopy(model).fit(file["X"], y)
            np.testing.assert_array_equal(fitted.predict_proba(file["X"]), expected)

    def test_nan_on_disk_is_found_while_reading(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_events, "RESIDENT_BYTES", 1000)
        X = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
        X[321, 2] = np.nan
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        with pytest.raises(ValueError, match="NaN or infinity"):
            NeuralRegressor(max_epochs=1, device="cpu").fit(mapped, np.zeros(500))


class TestOnePlayer:
    def test_gradient_descent_on_a_linear_model_follows_the_formula(self, problem):
        X, y, w = problem
        module = linear(0)
        theta = np.append(module.weight.detach().numpy()[0], module.bias.item())
        design = np.c_[X, np.ones(len(X))]
        for _ in range(5):
            theta -= 0.05 * 2 * design.T @ (w * (design @ theta - y)) / w.sum()
        play(module, [Player(squared, optimizer=sgd)], data_of(X, 200, y=y, sample_weight=w), 5)
        fitted = np.append(module.weight.detach().numpy()[0], module.bias.item())
        np.testing.assert_allclose(fitted, theta, rtol=1e-12)

    def test_history_holds_the_weighted_mean_loss(self, problem):
        X, y, w = problem
        module = linear(1)
        frozen = Player(squared, optimizer=lambda p: torch.optim.SGD(p, lr=1e-300))
        result = play(module, [frozen], data_of(X, 10, y=y, sample_weight=w), 1)
        loss = (module(torch.from_numpy(X))[:, 0].detach().numpy() - y) ** 2
        assert result.history[-1, "train_loss"] == pytest.approx(np.average(loss, weights=w))

    def test_going_on_is_the_same_as_not_stopping(self, problem):
        X, y, _ = problem
        adam = Player(squared, optimizer=lambda p: torch.optim.AdamW(p, lr=0.1, fused=True))
        whole, parts = linear(0), linear(0)
        play(whole, [adam], data_of(X, 200, y=y), 6)
        data = data_of(X, 200, y=y)
        first = play(parts, [adam], data, 2)
        second = play(
            parts,
            [adam],
            data,
            4,
            history=first.history,
            optimizer_states=first.optimizer_states,
        )
        assert torch.equal(whole.weight, parts.weight)
        assert len(second.history) == 6

    def test_early_stopping_restores_the_best_state(self, problem):
        X, y, _ = problem
        module = linear(0)
        # A rate that overshoots: the validation loss falls, then grows without bounds.
        players = [Player(squared, optimizer=lambda p: torch.optim.SGD(p, lr=1.05))]
        states = []

        class Record(skorch.callbacks.Callback):
            def on_epoch_end(self, net, **_):
                states.append(copy.deepcopy(net.module_.state_dict()))

        rows = np.arange(len(X))
        result = play(
            module,
            players,
            data_of(X, 200, y=y, rows=rows[:80]),
            50,
            valid=data_of(X, 200, y=y, rows=rows[80:]),
            n_iter_no_change=4,
            callbacks=[Record()],
        )
        losses = result.history[:, "valid_loss"]
        best = int(np.argmin(losses))
        assert len(losses) == best + 1 + 4 < 50
        assert torch.equal(module.weight, states[best]["weight"])

    def test_schedules_of_skorch_move_the_rate(self, problem):
        X, y, _ = problem
        rates = []

        class Record(skorch.callbacks.Callback):
            def on_batch_end(self, net, **_):
                rates.append(net.optimizer_.param_groups[0]["lr"])

        schedule = skorch.callbacks.LRScheduler(
            torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5
        )
        NeuralRegressor(
            learning_rate=0.4,
            max_epochs=3,
            batch_size=60,
            device="cpu",
            callbacks=[("schedule", schedule), Record()],
        ).fit(X, y)
        assert rates == [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]

    @pytest.mark.parametrize(
        "callback",
        [
            skorch.callbacks.Checkpoint(monitor="train_loss_best", load_best=True),
            skorch.callbacks.TrainEndCheckpoint(),
        ],
    )
    def test_checkpoints_of_skorch_are_written(self, problem, tmp_path, callback):
        X, y, _ = problem
        callback.dirname = str(tmp_path)
        NeuralRegressor(max_epochs=3, callbacks=[callback], device="cpu").fit(X, y)
        assert {"params.pt", "optimizer.pt", "history.json"} <= {
            name.removeprefix("train_end_") for name in os.listdir(tmp_path)
        }

    def test_gradients_are_clipped(self, problem):
        X, y, _ = problem
        options = {
            "encoder": MLP(hidden_layer_sizes=()),
            "optimizer": "sgd",
            "learning_rate": 0.4,
            "max_epochs": 1,
            "random_state": 0,
            "device": "cpu",
        }
        begun = NeuralRegressor(**{**options, "learning_rate": 1e-300}).fit(X, y)
        clip = skorch.callbacks.GradientNormClipping(1e-3)
        clipped = NeuralRegressor(callbacks=[clip], **options).fit(X, y)
        moved = [
            a - b
            for a, b in zip(clipped.module_.parameters(), begun.module_.parameters(), strict=True)
        ]
        norm = torch.sqrt(sum((m**2).sum() for m in moved)).item()
        assert norm == pytest.approx(0.4 * 1e-3, rel=1e-4)

    def test_a_scoring_callback_is_refused_with_words(self, problem):
        X, y, _ = problem
        model = NeuralRegressor(callbacks=[skorch.callbacks.EpochScoring("r2")], device="cpu")
        with pytest.raises(ValueError, match="scores predictions of a skorch net"):
            model.fit(X, y)

    def test_skorch_early_stopping_ends_without_a_warning(self, problem):
        X, y, _ = problem
        stop = skorch.callbacks.EarlyStopping(monitor="train_loss", patience=2, threshold=10.0)
        model = NeuralRegressor(callbacks=[stop], max_epochs=50, device="cpu").fit(X, y)
        assert model.n_iter_ == 3

    def test_weights_are_those_of_all_events_not_of_the_batch(self):
        # One event in a hundred carries half the weight: most batches hold none of them.
        y = (np.arange(4000) % 100 == 0).astype(float)
        w = np.where(y == 1, 99.0, 1.0)
        module = nn.Linear(1, 1).double()
        player = Player(squared, optimizer=lambda p: torch.optim.SGD(p, lr=0.002))
        data = data_of(np.zeros((4000, 1)), 32, y=y, sample_weight=w)
        play(module, [player], data, 40)
        assert module.bias.item() == pytest.approx(0.5, abs=0.05)

    def test_compile_is_asked_for(self, problem, monkeypatch):
        X, y, _ = problem
        compiled = []
        monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: compiled.append(self))
        NeuralRegressor(max_epochs=1, compile=True, device="cpu").fit(X, y)
        NeuralRegressor(max_epochs=1, device="cpu").fit(X, y)
        assert len(compiled) == 1

    def test_mixed_precision_reaches_the_same_solution(self, problem):
        X, y, _ = problem
        X, y = X.astype(np.float32), (y > 0).astype(int)
        plain = NeuralClassifier(random_state=0, max_epochs=30, device="cpu")
        mixed = copy.deepcopy(plain).set_params(mixed_precision=True)
        a, b = plain.fit(X, y).predict_proba(X), mixed.fit(X, y).predict_proba(X)
        assert 0 < np.abs(a - b).max() < 0.1  # bfloat16 has 8 bits


class Apply(nn.Module):
    """A function, with the module that it calls, as a module."""

    def __init__(self, function, module=None):
        super().__init__()
        self.function, self.module = function, module

    def forward(self, x):
        return self.function(x) if self.module is None else self.function(self.module, x)


def attend(attention, x):
    return attention(x, x, x, need_weights=False)[0]


def ones(*shape):
    return Apply(lambda x: x @ torch.ones(shape, dtype=x.dtype))


# Multiply-adds of one event, by hand.
WORK = [
    (nn.Linear(5, 7), (5,), 5 * 7),
    (nn.Linear(5, 7), (4, 5), 4 * 5 * 7),
    (nn.Conv1d(2, 3, 5), (2, 20), 16 * 3 * 2 * 5),
    (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 8), 7 * 6 * 6 * 2 * 3 * 3),
    (nn.Conv3d(2, 3, 2, stride=2), (2, 4, 6, 8), 2 * 3 * 4 * 3 * 2 * 2**3),
    (nn.ConvTranspose1d(2, 3, 5, stride=2), (2, 20), 20 * 2 * 3 * 5),
    # Both directions of the second layer see both of the first.
    (nn.LSTM(3, 5, batch_first=True), (11, 3), 11 * 4 * 5 * (3 + 5)),
    (
        nn.LSTM(3, 5, 2, batch_first=True, bidirectional=True),
        (11, 3),
        11 * 2 * 4 * 5 * (3 + 5 + 10 + 5),
    ),
    (nn.GRU(3, 5, batch_first=True), (11, 3), 11 * 3 * 5 * (3 + 5)),
    (
        nn.GRU(3, 5, 2, batch_first=True, bidirectional=True),
        (11, 3),
        11 * 2 * 3 * 5 * (3 + 5 + 10 + 5),
    ),
    # Four projections, and in each head T² products of d / heads numbers, twice.
    (Apply(attend, nn.MultiheadAttention(8, 2, batch_first=True)), (7, 8), 7 * 4 * 64 + 2 * 49 * 8),
    (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (7, 8),
        7 * 4 * 64 + 2 * 49 * 8 + 2 * 7 * 8 * 16,
    ),
    (SelfAttention(8, 2), (7, 8), 7 * 4 * 64 + 2 * 49 * 8),
    (
        Apply(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)),
        (3, 7, 4),
        2 * 3 * 49 * 4,
    ),
    # No layer owns these matrices.
    (ones(6, 4), (5, 6), 5 * 6 * 4),
    (ones(6), (5, 6), 5 * 6),
    (Apply(lambda x: torch.einsum("nij,nkj->nik", x, x)), (3, 4), 3 * 3 * 4),
    (Apply(lambda x: x @ x.mT), (3, 4), 3 * 3 * 4),
    (Apply(lambda x: torch.cdist(x, x)), (30, 4), 30 * 30 * 4),
    (Apply(lambda x: torch.cdist(x, x, p=1.0)), (3, 4), 3 * 3 * 4),
    (Apply(lambda bilinear, x: bilinear(x, x), nn.Bilinear(4, 4, 3)), (4,), 3 * 4 * 4),
    (Apply(torch.func.vmap(lambda row: torch.ones(5, 4, dtype=row.dtype) @ row)), (4,), 5 * 4),
    # All gates of a step, and from the second step on those that see the state before.
    (
        ConvLSTMLayers(2, (3,), (3,)),
        (6, 2, 4, 5),
        4 * 5 * 4 * 3 * 9 * (6 * 2 + 5 * 3),
    ),
    (SphericalAnalysis(np.ones((9, 50))), (3, 50), 3 * 50 * 9),
    (SphericalLinear(2, 3, 4), (3, 1, 9), 9 * 3 * 4),
    (nn.Flatten(), (3, 4), 0),
]


class Unwatchable(nn.Linear):
    """Computes nothing while a mode looks on, as kernels that are compiled."""

    def forward(self, x):
        if _get_current_dispatch_mode() is not None:
            raise RuntimeError("a mode is present")
        return super().forward(x)


class TestWork:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("module", "shape", "expected"), WORK)
    def test_it_is_what_one_counts_by_hand(self, module, shape, expected, dtype):
        module = copy.deepcopy(module).to(dtype).eval()
        probe = torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
        output, work, _ = _engine.multiply_adds(module, probe)
        assert work == expected
        with torch.no_grad():
            plain = module(probe)
        output, plain = (o[0] if isinstance(o, tuple) else o for o in (output, plain))
        torch.testing.assert_close(output, plain)
        assert not output.requires_grad

    def test_what_other_threads_compute_does_not_count(self):
        own, other, x = nn.Linear(10, 20), nn.Linear(10, 30), torch.zeros(2, 10)
        stop = threading.Event()

        def compute():
            while not stop.is_set():
                other(x)

        thread = threading.Thread(target=compute)
        thread.start()
        try:
            work = {_engine.multiply_adds(own, x)[1] for _ in range(300)}
        finally:
            stop.set()
            thread.join()
        assert work == {10 * 20}

    def test_a_network_that_cannot_be_watched_still_trains(self, problem):
        X, y, _ = problem
        output, work, largest = _engine.multiply_adds(Unwatchable(3, 2), torch.zeros(5, 3))
        assert output.shape == (5, 2)
        assert work == largest == np.inf
        encoder = ModuleEncoder(lambda shape: Unwatchable(*shape, 2))
        NeuralRegressor(encoder=encoder, max_epochs=1, device="cpu").fit(X, y)

    def test_the_largest_product_is_found(self):
        layers = nn.Sequential(nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 7))
        assert _engine.multiply_adds(layers, torch.zeros(4, 3))[1:] == (500, 350)

    @pytest.mark.parametrize(
        ("module", "shape", "dtype", "expected"),
        [
            # A fused layer does both products step by step; without one, all steps of the input
            # are a single product.
            pytest.param(
                nn.LSTM(3, 5, batch_first=True),
                (11, 3),
                torch.float32,
                20 * (3 + 5),
                marks=pytest.mark.skipif(
                    not torch.backends.mkldnn.is_available(), reason="torch has no fused layer"
                ),
            ),
            (nn.LSTM(3, 5, batch_first=True), (11, 3), torch.float64, 11 * 20 * 3),
            # 6 images of 2 channels, for 4 gates of 3; a step of the state has 3 channels.
            (ConvLSTMLayers(2, (3,), (3,)), (6, 2, 4, 5), torch.float32, 6 * 20 * 12 * 9 * 2),
            (ConvLSTMLayers(1, (9,), (3,)), (6, 1, 4, 5), torch.float32, 20 * 36 * 9 * 9),
            # On to 45 points with 4 directions at each from 3 orders of 16 coefficients.
            (
                SphericalActivation(nn.SiLU(), 3, 2, 1, oversampling=2),
                (5, 3, 16),
                torch.float32,
                5 * (45 * 4) * (3 * 16),
            ),
        ],
    )
    def test_the_largest_product_of_layers_with_many(self, module, shape, dtype, expected):
        module = copy.deepcopy(module).to(dtype)
        probe = torch.zeros(4, *shape, dtype=dtype)
        assert _engine.multiply_adds(module, probe)[2] == expected

    def test_features_are_standardised_before_the_training(self, problem):
        X, y, _ = problem
        weight = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)

        def network(shape):
            return nn.Sequential(nn.Linear(*shape, 6), FeatureNorm(6))

        # So small a step that the network stays as it was built.
        model = NeuralRegressor(
            encoder=ModuleEncoder(network), max_epochs=1, learning_rate=1e-30, random_state=0
        ).fit(X, y, sample_weight=weight)
        scaling, modules = model.module_
        with torch.no_grad():
            features = modules[0](scaling(torch.from_numpy(X))).numpy()
        mean = np.average(features, axis=0, weights=weight)
        np.testing.assert_allclose(mean, 0, atol=1e-6)
        spread = np.average((features - mean) ** 2, axis=0, weights=weight)
        np.testing.assert_allclose(spread, 1, rtol=1e-5)
        # Measured once: going on keeps the features as they are.
        before = modules[0][1].shift.clone()
        model.set_params(warm_start=True).fit(X[:20] + 5, y[:20])
        assert torch.equal(model.module_[1][0][1].shift, before)

    def test_the_order_of_the_events_does_not_matter_for_features(self):
        # More events than are measured, the classes by turns.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(20_000, 2)).astype(np.float32)
        X[::2] *= 4
        y = np.arange(20_000) % 2

        def network(shape):
            return nn.Sequential(nn.Linear(*shape, 5), FeatureNorm(5))

        model = NeuralClassifier(
            encoder=ModuleEncoder(network), max_epochs=1, learning_rate=1e-30, random_state=0
        ).fit(X, y)
        scaling, modules = model.module_
        with torch.no_grad():
            features = modules[0](scaling(torch.from_numpy(X))).numpy()
        # 8192 events determine a standard deviation to 1 % and a mean to 0.011 of it.
        np.testing.assert_allclose(features.std(0), 1, atol=0.06)
        np.testing.assert_allclose(features.mean(0), 0, atol=0.06)

    def test_features_that_hardly_vary_are_not_blown_up(self):
        # The same light in every event: the mean of the sphere is constant but for rounding.
        rng = np.random.default_rng(0)
        X = rng.poisson(1.0, (300, 1, 12, 24)).astype(np.float32)
        X /= X.sum((1, 2, 3), keepdims=True)
        model = NeuralClassifier(
            encoder=SphericalCNN(signal="counts"), max_epochs=5, batch_size=64, random_state=0
        ).fit(X, np.arange(300) % 2)
        norm = next(m for m in model.module_.modules() if isinstance(m, FeatureNorm))
        spread = 1 / norm.scale.numpy()
        assert spread.min() >= 0.009 * np.median(spread)
        one_by_one = np.concatenate([model.decision_function(event[None]) for event in X[:20]])
        together = model.decision_function(X)
        # 32 bits, 1e-7 of the features' size, times the hundred that a feature may be blown up by.
        precision = 1e-3 * together.std()
        np.testing.assert_allclose(together[:20], one_by_one, rtol=0, atol=precision)

    def test_no_standardisation_leaves_features_alone(self, problem):
        X, y, _ = problem

        def network(shape):
            return nn.Sequential(nn.Linear(*shape, 2), FeatureNorm(2))

        encoder = ModuleEncoder(network)
        model = NeuralRegressor(encoder=encoder, standardize=False, max_epochs=1).fit(X, y)
        assert torch.equal(model.module_[1][0][1].scale, torch.ones(2, dtype=torch.float64))

    def test_errors_of_the_network_are_its_own(self):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            _engine.multiply_adds(nn.Linear(3, 2), torch.zeros(5, 4))

    def test_little_work_takes_one_thread(self):
        before = torch.get_num_threads()
        for work, expected in [(9e6, 1), (1.1e7, before), (np.inf, before)]:
            with _engine.threads_for(work):
                assert torch.get_num_threads() == expected
            assert torch.get_num_threads() == before


class NaNAfter(nn.Module):
    """Returns NaN from the n-th training step on."""

    def __init__(self, n):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.n = n
        self.steps = 0

    def forward(self, x):
        self.steps += self.training
        return self.linear(x) * (float("nan") if self.training and self.steps > self.n else 1.0)


class NaNEncoder(Encoder):
    def __init__(self, after=0):
        self.after = after

    def build(self, input_shape):
        return NaNAfter(self.after)


class TestAccidents:
    def test_nan_names_epoch_player_and_cure(self, problem):
        X, y, _ = problem
        model = NeuralRegressor(encoder=NaNEncoder(0), device="cpu")
        with pytest.raises(TrainingDivergedError, match=r"'loss' became nan in epoch 1.*learning_"):
            model.fit(X, y)
        assert not model.__sklearn_is_fitted__()

    def test_what_was_learnt_before_nan_is_kept(self, problem):
        X, y, _ = problem
        options = {"batch_size": 40, "random_state": 0, "device": "cpu"}  # three batches an epoch
        model = NeuralRegressor(encoder=NaNEncoder(7), max_epochs=9, **options)
        with pytest.raises(TrainingDivergedError, match=r"in epoch 3, after 7 steps"):
            model.fit(X, y)
        assert model.n_iter_ == len(model.history_) == 2
        expected = NeuralRegressor(encoder=NaNEncoder(99), max_epochs=2, **options).fit(X, y)
        np.testing.assert_array_equal(model.predict(X), expected.predict(X))

    @pytest.mark.parametrize("max_epochs", [1, 2, 9])
    def test_a_step_into_the_void_is_taken_back(self, problem, max_epochs):
        # Each step is finite; the network that it leaves is not.
        X, y, _ = problem
        X, y = X.astype(np.float32), y.astype(np.float32)
        model = NeuralRegressor(
            optimizer="sgd", learning_rate=1e38, max_epochs=max_epochs, device="cpu"
        )
        with pytest.raises(TrainingDivergedError):
            model.fit(X, y)
        assert not model.__sklearn_is_fitted__()

    def test_divergence_goes_back_to_the_best_epoch(self, problem):
        X, y, _ = problem
        options = {
            "encoder": MLP(hidden_layer_sizes=()),
            "optimizer": "sgd",
            "learning_rate": 30.0,
            "early_stopping": True,
            "n_iter_no_change": 10**6,
            "random_state": 0,
            "device": "cpu",
        }
        model = NeuralRegressor(max_epochs=10**4, **options)
        with pytest.raises(TrainingDivergedError):
            model.fit(X, y)
        best = int(np.argmin(model.history_[:, "valid_loss"])) + 1
        expected = NeuralRegressor(max_epochs=best, **options).fit(X, y)
        np.testing.assert_array_equal(model.predict(X), expected.predict(X))

    def test_validation_neither_reads_nor_moves_the_random_numbers(self, problem):
        X, y, _ = problem
        rows = np.arange(len(X))

        def noisy(module, batch):
            # A loss that draws, and differentiates by its input.
            x = batch.X.detach().requires_grad_()
            out = module(x + 0.1 * torch.randn_like(x))[:, 0]
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            return (out - batch.y).square() + slope.square().sum(1)

        still = Player(noisy, optimizer=lambda p: torch.optim.SGD(p, lr=1e-300))
        moving = Player(noisy, optimizer=sgd)
        valid = data_of(X, 200, y=y, rows=rows[80:])
        with _engine.seeded(0):
            result = play(linear(0), [still], data_of(X, 50, y=y, rows=rows[:80]), 3, valid=valid)
        assert len(set(result.history[:, "valid_loss"])) == 1
        assert len(set(result.history[:, "train_loss"])) == 3
        weights = []
        for held_out in (None, valid):
            module = linear(0)
            with _engine.seeded(0):
                data = data_of(X, 50, y=y, rows=rows[:80])
                play(module, [moving], data, 1, valid=held_out)
            weights.append(module.weight.detach().numpy())
        np.testing.assert_array_equal(*weights)

    def test_interrupt_keeps_the_best_state(self, problem):
        X, y, _ = problem
        main = threading.main_thread()
        model = NeuralRegressor(
            encoder=MLP(),
            max_epochs=10**6,
            early_stopping=True,
            tol=0.0,
            n_iter_no_change=10**6,
            random_state=0,
            device="cpu",
        )
        # The first fit of a process imports for seconds, in which an interrupt is none of training.
        clone(model).set_params(max_epochs=2, n_iter_no_change=2).fit(X, y)
        done = threading.Event()

        def press():
            # Python loses an interrupt that comes while it cleans up an object; two within two
            # seconds would end the program.
            pause = 1.0
            while not done.wait(pause):
                signal.pthread_kill(main.ident, signal.SIGINT)
                pause = 4.0

        # A shell's background jobs ignore interrupts, and so would the test.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        fingers = threading.Thread(target=press)
        fingers.start()
        try:
            with pytest.warns(
                ConvergenceWarning, match="interrupted in epoch .* the best epoch is kept"
            ):
                model.fit(X, y)
        finally:
            done.set()
            fingers.join()
            signal.signal(signal.SIGINT, before)
        best = int(np.argmin(model.history_[:, "valid_loss"])) + 1
        expected = copy.deepcopy(model).set_params(max_epochs=best, n_iter_no_change=best + 1)
        np.testing.assert_array_equal(model.predict(X), expected.fit(X, y).predict(X))


class TestManyPlayers:
    def test_two_players_alternate_with_their_own_optimizers(self):
        # min_a max_b ab - b²/2 + a²/2 by hand, in simultaneous turns.
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
                self.b = nn.Parameter(torch.tensor(-0.5, dtype=torch.float64))

        def value(module, batch):
            return module.a * module.b - module.b**2 / 2 + module.a**2 / 2

        module = Two()
        players = [
            Player(
                lambda m, b: -value(m, b),
                name="critic",
                parameters=lambda m: [m.b],
                optimizer=lambda p: torch.optim.SGD(p, lr=0.3),
            ),
            Player(
                value,
                name="generator",
                parameters=lambda m: [m.a],
                every=2,
                optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            ),
        ]
        data = data_of(np.zeros((6, 1)), 2)
        result = play(module, players, data, 1)
        a, b = 1.0, -0.5
        for step in range(3):
            b += 0.3 * (a - b)
            if step % 2 == 0:
                a -= 0.1 * (b + a)
        assert module.a.item() == pytest.approx(a, rel=1e-14)
        assert module.b.item() == pytest.approx(b, rel=1e-14)
        assert {"train_loss", "train_generator_loss"} <= set(result.history[-1])

    def test_a_small_gan_learns_a_ring(self):
        seed, max_epochs = 0, 200
        rng = np.random.default_rng(seed)
        radius, width, n = 2.0, 0.3, 8192
        angle = rng.uniform(0, 2 * np.pi, n)
        r = rng.normal(radius, width, n)
        X = np.c_[r * np.cos(angle), r * np.sin(angle)].astype(np.float32)

        class GAN(nn.Module):
            def __init__(self):
                super().__init__()

                def net(n_in, n_out):
                    return nn.Sequential(
                        nn.Linear(n_in, 64),
                        nn.LeakyReLU(0.2),
                        nn.Linear(64, 64),
                        nn.LeakyReLU(0.2),
                        nn.Linear(64, n_out),
                    )

                self.generator, self.critic = net(4, 2), net(2, 1)

        def fake(module, n):
            return module.generator(torch.randn(n, 4))

        def critic_loss(module, batch):
            # Non-saturating loss; the gradient penalty on data (R1) makes the game converge.
            real = batch.X.detach().requires_grad_()
            score = module.critic(real)[:, 0]
            (slope,) = torch.autograd.grad(score.sum(), real, create_graph=True)
            with torch.no_grad():
                made = fake(module, len(batch))
            losses = nn.functional.softplus(-score)
            losses = losses + nn.functional.softplus(module.critic(made)[:, 0])
            return losses + 0.02 * slope.square().sum(1)

        def generator_loss(module, batch):
            return nn.functional.softplus(-module.critic(fake(module, len(batch)))[:, 0])

        # The critic is faster than the generator (two time scales), and both slow down to a halt.
        def adam(rate):
            return lambda parameters: torch.optim.Adam(
                parameters, lr=rate, betas=(0.0, 0.9), fused=True
            )

        class SlowDown(skorch.callbacks.Callback):
            def on_epoch_begin(self, net, **_):
                left = 1 - (len(net.history) - 1) / max_epochs
                net.optimizer_.param_groups[0]["lr"] = 4e-3 * left
                net.generator_optimizer_.param_groups[0]["lr"] = 1e-3 * left

        source = _engine.EventSource(X, (2,), torch.float32, CPU)
        data = TrainingData(source, {"sample_weight": None}, batch_size=256, seeds=seed)
        players = [
            Player(critic_loss, "critic", lambda m: m.critic.parameters(), adam(4e-3)),
            Player(generator_loss, "generator", lambda m: m.generator.parameters(), adam(1e-3)),
        ]
        with _engine.seeded(seed):
            module = GAN()
            _engine.train(
                module,
                players,
                data,
                max_epochs=max_epochs,
                device=CPU,
                dtype=torch.float32,
                callbacks=[SlowDown()],
            )
            with torch.no_grad():
                made = fake(module, 20_000).numpy()
        r = np.hypot(*made.T)
        # Median and the central 68 % say radius and width, whatever a few strays do.
        low, middle, high = np.quantile(r, norm.cdf([-1, 0, 1]))
        assert middle == pytest.approx(radius, rel=0.1)
        assert (high - low) / 2 == pytest.approx(width, rel=0.1)
        # All around the ring: no sector of the twelve is left out.
        sectors = np.histogram(np.arctan2(*made.T), bins=12)[0]
        assert sectors.min() > 0.5 * sectors.mean()

    def test_players_must_have_names_of_their_own(self):
        with pytest.raises(ValueError, match="different names"):
            play(linear(0), [Player(squared), Player(squared)], data_of(np.zeros((4, 3)), 2), 1)

    def test_gradient_reversal_reverses(self):
        x = torch.tensor([1.0, 2.0], requires_grad=True)
        layer = GradientReversal(0.7)
        y = layer(x)
        assert torch.equal(y, x)
        (y * torch.tensor([3.0, -1.0])).sum().backward()
        torch.testing.assert_close(x.grad, -0.7 * torch.tensor([3.0, -1.0]))

    def test_a_reversal_player_unlearns_the_domain(self):
        # The domain follows the label in four events of five, so an ordinary classifier reads it
        # too; the reversed gradient makes the encoder let go of it.
        rng = np.random.default_rng(0)
        n = 4000
        y = rng.integers(0, 2, n)
        domain = np.where(rng.random(n) < 0.2, 1 - y, y)
        X = rng.normal(size=(n, 2)) + 3 * np.c_[0.5 * y, domain]

        class DANN(nn.Module):
            def __init__(self):
                super().__init__()
                self.encode = nn.Linear(2, 1)
                self.label, self.reverse = nn.Linear(1, 1), GradientReversal()
                self.domain = nn.Linear(1, 1)

        bce = nn.functional.binary_cross_entropy_with_logits

        def loss(strength):
            def function(module, batch):
                module.reverse.strength = strength * (2 / (1 + np.exp(-10 * batch.progress)) - 1)
                h = module.encode(batch.X)
                label = bce(module.label(h)[:, 0], batch.y, reduction="none")
                d = bce(module.domain(module.reverse(h))[:, 0], batch.domain, reduction="none")
                return label + d

            return function

        columns = {"y": y.astype(float), "domain": domain.astype(float)}
        share = {}
        for strength in (0.0, 1.0):
            with _engine.seeded(0):
                module = DANN().double()
                player = Player(loss(strength), optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
                play(module, [player], data_of(X, 100, **columns), 30)
            label, nuisance = module.encode.weight.detach().abs().numpy()[0]
            share[strength] = nuisance / (label + nuisance)
        assert share[0.0] > 0.2
        assert share[1.0] < 0.1 * share[0.0]

    @pytest.mark.parametrize("kind", [StackedDense, StackedModule])
    @pytest.mark.parametrize("norm", [None, "layer"])
    def test_stacked_members_equal_separate_runs(self, problem, kind, norm):
        X, y, _ = problem
        seeds = (3, 1, 4)
        encoder = MLP(hidden_layer_sizes=(8,), norm=norm)

        def member(seed):
            with _engine.seeded(seed):
                return nn.Sequential(encoder.build((3,)), nn.Linear(8, 1)).double()

        def adam(parameters):
            return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.01)

        rng = np.random.default_rng(0)
        bootstrap = rng.poisson(1.0, (3, len(X))).astype(float)
        together = kind([member(seed) for seed in seeds], event_ndim=1)
        play(
            together,
            [Player(squared, optimizer=adam)],
            data_of(X, 20, seeds=seeds, y=y, sample_weight=bootstrap),
            4,
        )
        X_all = torch.from_numpy(X)
        for k, seed in enumerate(seeds):
            alone = member(seed)
            play(
                alone,
                [Player(squared, optimizer=adam)],
                data_of(X, 20, seeds=seed, y=y, sample_weight=bootstrap[k]),
                4,
            )
            torch.testing.assert_close(together(X_all)[k], alone(X_all), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(
                together.member(k)(X_all), alone(X_all), rtol=1e-9, atol=1e-9
            )

    def test_each_member_stops_at_its_own_best_epoch(self, problem):
        X, y, _ = problem
        seeds, learn, judge = (3, 1, 4, 5), np.arange(30), np.arange(30, len(X))

        def member(seed):
            with _engine.seeded(seed):
                encoder = MLP(hidden_layer_sizes=(64,)).build((3,))
                return nn.Sequential(encoder, nn.Linear(64, 1)).double()

        def adam(parameters):
            return torch.optim.Adam(parameters, lr=0.02)

        def fit(module, seeds):
            stacked = isinstance(seeds, tuple)
            result = play(
                module,
                [Player(squared, optimizer=adam)],
                data_of(X, 10, seeds=seeds, y=y, rows=learn),
                200,
                valid=data_of(X, 10, seeds=(0,) * 4 if stacked else 0, y=y, rows=judge),
                n_iter_no_change=4,
            )
            return module, len(result.history)

        together, n_together = fit(stack([member(seed) for seed in seeds], event_ndim=1), seeds)
        lengths = []
        for k, seed in enumerate(seeds):
            alone, n_epochs = fit(member(seed), seed)
            lengths.append(n_epochs)
            x = torch.from_numpy(X)
            torch.testing.assert_close(together(x)[k], alone(x), rtol=1e-9, atol=1e-9)
        assert n_together == max(lengths) > min(lengths)

    def test_history_of_a_stack_is_the_mean_over_its_members(self, problem):
        X, y, _ = problem
        members = [linear(seed) for seed in range(3)]
        losses = [
            squared(m, SimpleNamespace(X=torch.from_numpy(X), y=torch.from_numpy(y))).mean().item()
            for m in members
        ]
        data = data_of(X, 200, seeds=(0, 1, 2), y=y)
        result = play(stack(members, event_ndim=1), [Player(squared, optimizer=sgd)], data, 1)
        assert result.history[0, "train_loss"] == pytest.approx(np.mean(losses), rel=1e-12)


def test_a_schedule_moves_the_learning_rate_of_every_step():
    rates = []

    class Watch(skorch.callbacks.Callback):
        def on_batch_end(self, net, training=False, **_):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    X = np.random.default_rng(0).normal(size=(40, 2))
    options = {"max_epochs": 5, "batch_size": 10, "learning_rate": 0.01, "random_state": 0}
    model = NeuralRegressor(schedule="cosine", warm_start=True, callbacks=[Watch()], **options).fit(
        X, X[:, 0]
    )
    expected = 0.005 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    # A fit that goes on starts its schedule anew, from the full rate.
    model.fit(X, X[:, 0])
    np.testing.assert_allclose(rates[20:], expected, rtol=1e-12)
    rates.clear()
    model.partial_fit(X, X[:, 0])
    np.testing.assert_allclose(rates, 0.01)


def test_the_average_moves_whatever_tensors_there_are():
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module = AveragedModule(network)
    module.network = network
    # A state whose tensors become those of the module, and another network of the same kind.
    state = copy.deepcopy(module.state_dict())
    for followed in (network, nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))):
        module.move_average(network, 0.5)
        module.load_state_dict(copy.deepcopy(state), assign=True)
        with torch.no_grad():
            followed[0].weight += 1
            followed[1].running_mean += 1
        expected = 0.75 * module.average[0].weight + 0.25 * followed[0].weight
        module.move_average(followed, 0.25)
        torch.testing.assert_close(module.average[0].weight, expected)
        torch.testing.assert_close(module.average[1].running_mean, followed[1].running_mean)
