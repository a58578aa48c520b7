"""Deep ensembles, Monte-Carlo dropout and the bootstrap."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_moons
from sklearn.ensemble import AdaBoostRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import BayesianRidge, Lars, LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from sknuc.encoders import CNN, LSTM, MLP, ModuleEncoder, Transformer
from sknuc.networks import NeuralClassifier, NeuralRegressor
from sknuc.nn import MASK_GROUPS, GroupedDropout, MaskedDraws, mask_groups, stack
from sknuc.uncertainty import (
    BNNRegressor,
    BootstrapClassifier,
    BootstrapRegressor,
    ConformalRegressor,
    DeepEnsembleClassifier,
    DeepEnsembleRegressor,
    MCDropoutClassifier,
    MCDropoutRegressor,
)


def noisy_line(n, seed, spread=lambda x: 0.1 + 0.4 * (x > 0)):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    return x[:, None], 2 * x + spread(x) * rng.standard_normal(n)


class FirstOutput(nn.Module):
    """What a layer returns first: recurrent layers and attention return more."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        inputs = (x, x, x) if isinstance(self.layer, nn.MultiheadAttention) else (x,)
        return self.layer(*inputs)[0]


class RecurrentNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(6, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.layer(x)[0][:, -1])


NORMALISED = {
    "table first": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(30), nn.Linear(30, 2)),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 4), nn.BatchNorm1d(4), nn.ReLU()),
    "signal": lambda: nn.Sequential(nn.Conv1d(5, 3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten()),
    "counted": lambda: nn.Sequential(
        nn.Conv1d(5, 3, 3), nn.BatchNorm1d(3, momentum=None), nn.Flatten()
    ),
    "instance": lambda: nn.Sequential(
        nn.Conv1d(5, 3, 3), nn.InstanceNorm1d(3, track_running_stats=True), nn.Flatten()
    ),
    "recurrent": RecurrentNormed,
}


class TestBatchNormalisation:
    """Encoders of users may have it: stacked members keep running moments of their own."""

    @pytest.mark.parametrize("name", NORMALISED)
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_stacked_is_looped(self, name, n_members):
        torch.manual_seed(0)
        members = [NORMALISED[name]().double() for _ in range(n_members)]
        stacked = stack(members, event_ndim=2).train()
        shapes = [(20, 5, 6), (n_members, 20, 5, 6)]
        for shape in shapes:
            x = torch.randn(shape, dtype=torch.float64)
            expected = [m.train()(x[k] if len(shape) == 4 else x) for k, m in enumerate(members)]
            torch.testing.assert_close(stacked(x), torch.stack(expected))
        stacked.eval()
        x = torch.randn(7, 5, 6, dtype=torch.float64)
        torch.testing.assert_close(stacked(x), torch.stack([m.eval()(x) for m in members]))
        for k, member in enumerate(members):
            own = dict(stacked.member(k).named_buffers())
            assert own
            for key, value in member.named_buffers():
                torch.testing.assert_close(own[key], value)

    @pytest.mark.parametrize("early_stopping", [False, True])
    def test_an_ensemble_of_one_is_a_member(self, early_stopping):
        # Of one batch, nothing is shuffled: the first of three members is the only one of one.
        X, y = noisy_line(60, 0)
        # No bias in front of what subtracts the mean: its gradient would be rounding alone.
        encoder = ModuleEncoder(
            lambda shape: nn.Sequential(
                nn.Linear(*shape, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()
            )
        )
        options = {"encoder": encoder, "max_epochs": 30, "early_stopping": early_stopping}
        one, three = (
            DeepEnsembleRegressor(n_members=k, random_state=0, **options).fit(X, y) for k in (1, 3)
        )
        scaling, network = three.module_
        with torch.no_grad():
            output = network.member(0)(scaling(torch.from_numpy(X)))[:, 0].numpy()
        mean = three.target_mean_ + three.target_scale_ * output
        np.testing.assert_allclose(one.predict(X), mean, rtol=1e-9)

    def test_every_estimator_that_stacks(self):
        X, y = noisy_line(300, 0, spread=lambda x: 0.1)
        encoder = ModuleEncoder(
            lambda shape: nn.Sequential(nn.Linear(*shape, 16), nn.BatchNorm1d(16), nn.Tanh())
        )
        network = NeuralRegressor(encoder=encoder, max_epochs=60)
        for model in (
            BootstrapRegressor(network, n_members=5, random_state=0),
            BNNRegressor(encoder=encoder, inference="laplace", max_epochs=60, random_state=0),
        ):
            # Running moments lag behind the network, so that it is not as good as it could be.
            assert model.fit(X, y).score(X, y) > 0.9


class TestDeepEnsemble:
    def test_members_find_mean_and_noise(self):
        X, y = noisy_line(4000, 0)
        model = DeepEnsembleRegressor(max_epochs=60, random_state=0).fit(X, y)
        x = np.array([[-0.7], [-0.3], [0.3], [0.7]])
        mean, std = model.predict(x, return_std=True)
        # Some tens of events determine a piece of a smooth function of this size.
        np.testing.assert_allclose(mean, 2 * x[:, 0], atol=0.08)
        np.testing.assert_allclose(std, [0.1, 0.1, 0.5, 0.5], rtol=0.15)
        X_test, y_test = noisy_line(4000, 1)
        low, high = model.predict_interval(X_test, 0.68).T
        inside = np.mean((y_test > low) & (y_test < high))
        assert abs(inside - 0.68) < 5 * np.sqrt(0.68 * 0.32 / 4000)

    def test_ignorance_grows_outside(self):
        X, y = noisy_line(500, 0)
        model = DeepEnsembleRegressor(random_state=0).fit(X, y)
        _, aleatoric, epistemic = model.predict_uncertainty([[0.0], [4.0]])
        assert epistemic[1] > 5 * epistemic[0]
        total = model.predict([[0.0], [4.0]], return_std=True)[1]
        np.testing.assert_allclose(total**2, aleatoric**2 + epistemic**2, rtol=1e-6)

    def test_the_prediction_is_the_mixture_of_the_members(self):
        X, y = noisy_line(200, 0)
        model = DeepEnsembleRegressor(n_members=3, max_epochs=3, random_state=0).fit(X, y)
        scaling, network = model.module_
        x = torch.from_numpy(X)
        with torch.no_grad():
            outputs = torch.stack([network.member(k)(scaling(x)) for k in range(3)])
        means = model.target_mean_ + model.target_scale_ * outputs[..., 0].numpy()
        np.testing.assert_allclose(model.predict(X), means.mean(0), rtol=1e-9)
        np.testing.assert_allclose(model.predict_uncertainty(X).epistemic, means.std(0), rtol=1e-7)

    @pytest.mark.parametrize(
        "encoder", [MLP(), CNN(channels=(4,)), LSTM(hidden_size=4), Transformer(width=16)]
    )
    def test_every_kind_of_encoder(self, encoder):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(60, 2, 16)).astype(np.float32)
        y = rng.normal(size=(60, 2))
        model = DeepEnsembleRegressor(encoder=encoder, n_members=2, max_epochs=2, random_state=0)
        mean, std = model.fit(X, y).predict(X, return_std=True)
        assert mean.shape == std.shape == (60, 2)
        assert np.all(std > 0)
        rows = clone(model).set_params(input_shape=(2, 16)).fit(X.reshape(60, -1), y)
        np.testing.assert_array_equal(rows.predict(X.reshape(60, -1)), mean)

    def test_warnings_of_disagreement_for_labels(self):
        X, y = make_moons(400, noise=0.1, random_state=0)
        labels = np.array(["a", "b"])[y]
        model = DeepEnsembleClassifier(random_state=0).fit(X, labels)
        assert model.score(X, labels) > 0.97
        assert set(model.predict(X)) == {"a", "b"}
        p = model.predict_proba(X)
        total, aleatoric, epistemic = model.predict_uncertainty(X)
        np.testing.assert_allclose(total, -(p * np.log(p)).sum(1), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(total, aleatoric + epistemic, atol=1e-6)
        far = model.predict_uncertainty([[0.5, 0.25], [-1.0, 8.0]])
        assert epistemic.max() > 3 * np.median(epistemic)
        assert np.all(far.total <= np.log(2) + 1e-6)

    def test_the_best_epoch_is_the_most_probable_one(self):
        # The value of the weighted loss falls with the spread, right or wrong: what is held out is
        # judged by the likelihood, whatever the events' share in the gradient.
        X, y = noisy_line(200, 0)
        resting = {"learning_rate": 1e-12, "early_stopping": True, "max_epochs": 1}
        histories = [
            DeepEnsembleRegressor(beta=beta, random_state=0, **resting).fit(X, y).history_
            for beta in (0, 0.5, 1)
        ]
        valid = [history[0, "valid_loss"] for history in histories]
        np.testing.assert_allclose(valid, valid[0], rtol=1e-9)
        assert len({history[0, "train_loss"] for history in histories}) == 3

    @pytest.mark.parametrize("n_members", [1, 3])
    def test_warm_start_goes_on(self, n_members):
        # One batch holds all events, so that nothing is shuffled.
        X, y = noisy_line(100, 0)
        options = {"n_members": n_members, "random_state": 0}
        whole = DeepEnsembleRegressor(max_epochs=6, **options).fit(X, y)
        parts = DeepEnsembleRegressor(max_epochs=3, warm_start=True, **options)
        parts.fit(X, y).fit(X, y)
        assert len(parts.history_) == parts.n_iter_ == 6
        np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
        labels = y > 0
        whole = DeepEnsembleClassifier(max_epochs=6, **options).fit(X, labels)
        parts = DeepEnsembleClassifier(max_epochs=3, warm_start=True, **options)
        proba = parts.fit(X, labels).fit(X, labels).predict_proba(X)
        np.testing.assert_array_equal(proba, whole.predict_proba(X))

    def test_warm_start_refuses_what_it_cannot_go_on_with(self):
        X, y = noisy_line(50, 0)
        model = DeepEnsembleRegressor(max_epochs=1, warm_start=True, random_state=0).fit(X, y)
        mean = model.predict(X)
        with pytest.raises(ValueError, match="warm_start"):
            model.set_params(n_members=7).fit(X, y)
        with pytest.raises(ValueError, match="warm_start"):
            model.set_params(n_members=5).fit(X, np.column_stack([y, y]))
        np.testing.assert_array_equal(model.predict(X), mean)
        # In the scaling of the first fit, targets in another unit are other targets.
        assert abs(model.fit(X, 1000 + y).predict(X).mean()) < 500

    def test_grid_search_over_members_and_encoders(self):
        X, y = noisy_line(90, 0)
        search = GridSearchCV(
            DeepEnsembleRegressor(encoder=MLP(), max_epochs=2, random_state=0),
            {"n_members": [1, 3], "encoder__hidden_layer_sizes": [(4,), (8,)]},
            cv=2,
        ).fit(X, y)
        assert search.best_estimator_.module_[1].n_members == search.best_params_["n_members"]


class TestMCDropout:
    def test_masks_of_a_network_have_the_variance_of_the_theory(self):
        # One layer of dropout in front of a linear one: Var = Σ (w x)² p/(1-p).
        torch.manual_seed(0)
        p, x = 0.3, torch.randn(5, 40, dtype=torch.float64)
        network = nn.Sequential(GroupedDropout(p), nn.Linear(40, 1, dtype=torch.float64)).eval()
        draws = MaskedDraws(network, range(20_000))(x)[..., 0].detach()
        expected = ((network[1].weight * x) ** 2).sum(1) * p / (1 - p)
        error = expected * np.sqrt(2 / 20_000)
        assert torch.all((draws.var(0) - expected).abs() < 6 * error)
        mean = network(x)[:, 0]
        assert torch.all((draws.mean(0) - mean).abs() < 5 * (expected / 20_000).sqrt())

    def test_events_of_a_group_share_masks_in_training(self):
        torch.manual_seed(0)
        layer = GroupedDropout(0.5).train()
        groups = torch.arange(200) % MASK_GROUPS
        with mask_groups(groups):
            masks = layer(torch.ones(200, 100))
        torch.testing.assert_close(masks[:MASK_GROUPS], masks[MASK_GROUPS : 2 * MASK_GROUPS])
        assert len(torch.unique(masks[:MASK_GROUPS], dim=0)) == MASK_GROUPS
        share = (masks[:MASK_GROUPS] == 0).double().mean()
        assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(100 * MASK_GROUPS)

    def test_groups_are_even(self):
        from sknuc.uncertainty._dropout import _groups

        for X in (
            np.random.default_rng(0).normal(size=(6400, 3)),
            np.arange(6400.0)[:, None],
            np.random.default_rng(0).integers(0, 2**14, (6400, 4)).astype(np.uint16),
        ):
            counts = np.bincount(_groups(X), minlength=MASK_GROUPS)
            assert stats.chisquare(counts).pvalue > 1e-4

    def test_predictions_do_not_depend_on_company_or_call(self):
        X, y = noisy_line(300, 0)
        model = MCDropoutRegressor(max_epochs=5, random_state=0).fit(X, y)
        mean, std = model.predict(X, return_std=True)
        np.testing.assert_array_equal(model.predict(X), mean)
        np.testing.assert_allclose(model.predict(X[17:18]), mean[17:18], rtol=1e-10)
        assert np.all(std > 0)

    def test_spread_and_noise(self):
        X, y = noisy_line(2000, 0)
        model = MCDropoutRegressor(random_state=0).fit(X, y)
        low, high = model.predict_uncertainty([[-0.5], [0.5]]).aleatoric
        # What the masks add in training is noise to the network: where the true one is small, it
        # finds more.
        assert high == pytest.approx(0.5, rel=0.15)
        assert 0.1 < low < 0.5 * high

    @pytest.mark.parametrize(
        "encoder",
        [MLP(), ModuleEncoder(lambda shape: nn.Sequential(nn.Linear(*shape, 4), nn.ReLU()))],
    )
    def test_an_encoder_without_dropout_is_refused(self, encoder):
        X, y = noisy_line(20, 0)
        with pytest.raises(ValueError, match=r"must have dropout.*none"):
            MCDropoutRegressor(encoder=encoder).fit(X, y)

    @pytest.mark.parametrize(
        ("layer", "name"),
        [
            (lambda: nn.TransformerEncoderLayer(4, 1, 8, 0.1, batch_first=True), "Multihead"),
            (lambda: nn.AlphaDropout(0.2), "AlphaDropout"),
            (lambda: nn.FeatureAlphaDropout(0.2), "FeatureAlphaDropout"),
            (lambda: FirstOutput(nn.MultiheadAttention(4, 1, 0.1, batch_first=True)), "Multihead"),
            (lambda: FirstOutput(nn.GRU(4, 4, 2, dropout=0.1, batch_first=True)), "GRU"),
        ],
    )
    def test_dropout_that_is_not_ours_is_refused(self, layer, name):
        def build(shape):
            return nn.Sequential(layer(), nn.Flatten(), nn.LazyLinear(8), nn.Dropout(0.1))

        X = np.random.default_rng(0).normal(size=(20, 3, 4))
        model = MCDropoutRegressor(encoder=ModuleEncoder(build), max_epochs=1)
        with pytest.raises(ValueError, match=rf"and nowhere else.*{name}"):
            model.fit(X, X[:, 0, 0])

    def test_a_layer_that_drops_nothing_is_welcome(self):
        def build(shape):
            attention = FirstOutput(nn.MultiheadAttention(4, 1, batch_first=True))
            return nn.Sequential(attention, nn.Flatten(), nn.Dropout(0.1))

        X = np.random.default_rng(0).normal(size=(20, 3, 4))
        model = MCDropoutRegressor(encoder=ModuleEncoder(build), max_epochs=1, random_state=0)
        assert np.all(model.fit(X, X[:, 0, 0]).predict(X, return_std=True)[1] > 0)

    def test_warm_start_goes_on(self):
        X, y = noisy_line(100, 0)
        model = MCDropoutRegressor(max_epochs=100, warm_start=True, random_state=0).fit(X, y)
        before = model.module_[1][1].weight.detach().clone()
        # A step moves each weight by the learning rate at most, and a little more by momentum.
        model.set_params(max_epochs=1, learning_rate=1e-4).fit(X, y)
        assert model.n_iter_ == 101
        moved = (model.module_[1][1].weight - before).abs().max()
        assert 0 < moved < 1e-3
        classifier = MCDropoutClassifier(max_epochs=3, warm_start=True, random_state=0)
        assert classifier.fit(X, y > 0).fit(X, y > 0).n_iter_ == 6

    def test_classifier(self):
        X, y = make_moons(400, noise=0.1, random_state=0)
        model = MCDropoutClassifier(random_state=0).fit(X, y)
        assert model.score(X, y) > 0.97
        assert np.all(model.predict_uncertainty(X).epistemic >= 0)


@pytest.mark.parametrize(
    "model",
    [
        MCDropoutRegressor(max_epochs=2),
        BNNRegressor(
            encoder=MLP(hidden_layer_sizes=(4,)),
            inference="hmc",
            n_leapfrog=5,
            n_warmup=20,
            n_samples=20,
            max_epochs=2,
        ),
        DeepEnsembleRegressor(encoder=CNN(channels=(4,)), max_epochs=2),
    ],
    ids=["masks", "draws", "mapped members"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_threads_that_predict_do_not_meet(model):
    # What a call puts into the layers of a network, as masks and draws, is of its thread.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 1, 8))
    model = clone(model).set_params(random_state=0).fit(X[:60], X[:60].sum((1, 2)))
    expected, n_threads = model.predict(X), 4
    start = threading.Barrier(n_threads)

    def predict(_):
        start.wait()
        return [model.predict(X) for _ in range(5)]

    with ThreadPoolExecutor(n_threads) as threads:
        for answers in threads.map(predict, range(n_threads)):
            np.testing.assert_array_equal(answers, [expected] * 5)


class TestBootstrap:
    def test_spread_is_the_standard_error(self):
        # Of a mean, the bootstrap knows the answer: s/√n.
        rng = np.random.default_rng(0)
        y = rng.exponential(size=400)
        X = np.arange(400.0)[:, None]

        class Mean(KNeighborsRegressor):
            def fit(self, X, y, sample_weight=None):
                self.mean_ = np.average(y, weights=sample_weight)
                self.is_fitted_ = True
                return self

            def predict(self, X):
                return np.full(len(X), self.mean_)

        n_members = 2000
        for weights in ("poisson", "bayesian"):
            model = BootstrapRegressor(
                Mean(), n_members=n_members, weights=weights, noise=None, random_state=0
            ).fit(X, y)
            std = model.predict(X[:1], return_std=True)[1][0]
            expected = y.std() / np.sqrt(400)
            # The spread of a spread of n members, and a bias of order 1/n of the weights.
            assert abs(std / expected - 1) < 5 / np.sqrt(2 * n_members) + 5 / 400

    def test_noise_is_measured_on_events_that_were_not_seen(self):
        X, y = noisy_line(600, 0, spread=lambda x: 0.3)
        line = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y)
        assert line.noise_[0] == pytest.approx(0.3, rel=5 / np.sqrt(2 * 600))
        np.testing.assert_array_equal(line.shrinkage_, 1)

    def test_noise_beside_what_members_learned_by_heart(self):
        # The nearest neighbour was drawn with probability d = 1 - 1/e; otherwise the next one, …: a
        # member's prediction is one of the labels near by with p_j = d (1-d)^j. Of labels with the
        # variance s², the mean of all members has b² = s² Σp² = s² d/(2-d), the members around it
        # v = s² - b², and s² + b² - v(1 - 2/K) is left for the Gaussian around each.
        s, n, n_members, drawn = 0.3, 20_000, 50, 1 - np.exp(-1)
        X, y = noisy_line(n, 0, spread=lambda x: s)
        neighbours = KNeighborsRegressor(1)
        model = BootstrapRegressor(neighbours, n_members=n_members, random_state=0).fit(X, y)
        b2 = drawn / (2 - drawn)
        noise = s * np.sqrt(1 + b2 - (1 - b2) * (1 - 2 / n_members))
        # Labels are neighbours of some events each, which leaves fewer that are independent.
        assert model.noise_[0] == pytest.approx(noise, rel=5 / np.sqrt(2 * n / 4))
        total, _, epistemic = model.predict_uncertainty(X)
        variance = np.mean(epistemic**2) / s**2
        # Of the training events themselves, most members have seen the label.
        assert variance < 1 - b2
        np.testing.assert_allclose(total**2, epistemic**2 + model.noise_[0] ** 2, rtol=1e-9)

    @pytest.mark.parametrize("noise", [0.03, 0.3, 3.0])
    @pytest.mark.parametrize(
        "estimator",
        [
            None,
            LinearRegression(),
            KNeighborsRegressor(1),
            NeuralRegressor(encoder=MLP(hidden_layer_sizes=(16,)), max_epochs=30),
        ],
    )
    def test_the_predicted_variance_is_the_squared_error(self, estimator, noise):
        # Whatever the members know by heart, and whatever they cannot learn.
        def events(n, rng):
            X = rng.uniform(-1, 1, (n, 3))
            return X, np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 2] + noise * rng.standard_normal(n)

        ratios = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            model = BootstrapRegressor(estimator, random_state=seed).fit(*events(300, rng))
            X, y = events(2000, rng)
            mean, std = model.predict(X, return_std=True)
            ratios.append(np.mean(std**2) / np.mean((y - mean) ** 2))
        # Twice the variance, or half of it, would be seen.
        assert abs(np.mean(ratios) - 1) < 5 * np.std(ratios, ddof=1) / np.sqrt(10) < 0.5

    def test_weights_are_repetitions(self):
        X, y = noisy_line(100, 0)
        weight = np.random.default_rng(1).integers(0, 4, 100)
        model = BootstrapRegressor(LinearRegression(), random_state=0)
        weighted = clone(model).fit(X, y, sample_weight=weight)
        repeated = clone(model).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
        np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)
        np.testing.assert_allclose(weighted.noise_, repeated.noise_, rtol=1e-9)
        tree = BootstrapRegressor(random_state=0)
        weighted = clone(tree).fit(X, y, sample_weight=weight)
        repeated = clone(tree).fit(np.repeat(X, weight, 0), np.repeat(y, weight))
        np.testing.assert_allclose(weighted.noise_, repeated.noise_, rtol=1e-9)
        np.testing.assert_allclose(weighted.shrinkage_, repeated.shrinkage_, rtol=1e-9)
        np.testing.assert_allclose(
            weighted.predict_interval(X), repeated.predict_interval(X), rtol=1e-9
        )

    def test_an_estimator_without_weights_gets_whole_events(self):
        X, y = noisy_line(60, 0)
        rng = np.random.default_rng(1)
        for estimator in (KNeighborsRegressor(3), make_pipeline(StandardScaler(), Ridge())):
            model = BootstrapRegressor(estimator, random_state=0)
            # One event twice, by chance; and whole weights, which are such.
            for weight in (np.where(np.arange(60) == 7, 2, 1), rng.integers(0, 4, 60) / 1.0):
                counts = weight.astype(int)
                weighted = clone(model).fit(X, y, sample_weight=weight)
                repeated = clone(model).fit(np.repeat(X, counts, 0), np.repeat(y, counts))
                np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-12)
        labels = BootstrapClassifier(make_pipeline(StandardScaler(), LogisticRegression()))
        assert labels.fit(X, y > 0, sample_weight=np.full(60, 2.0)).score(X, y > 0) > 0.8

    def test_pipelines_get_weights_by_request(self):
        X, y = noisy_line(60, 0)
        weight = np.random.default_rng(1).uniform(0.2, 1, 60)
        with config_context(enable_metadata_routing=True):
            steps = (
                StandardScaler().set_fit_request(sample_weight=True),
                LinearRegression().set_fit_request(sample_weight=True),
            )
            routed = BootstrapRegressor(make_pipeline(*steps), random_state=0)
            routed.fit(X, y, sample_weight=weight)
        plain = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y, weight)
        np.testing.assert_allclose(routed.predict(X), plain.predict(X), rtol=1e-9)

    def test_an_estimator_that_refuses_weights_gets_whole_events(self):
        X, y = noisy_line(60, 0)

        class Unweighted(LinearRegression):
            def fit(self, X, y, sample_weight=None):
                assert sample_weight is None
                return super().fit(X, y)

        with config_context(enable_metadata_routing=True):
            inner = Unweighted().set_fit_request(sample_weight=False)
            whole = BootstrapRegressor(inner, random_state=0).fit(X, y)
            with pytest.raises(ValueError, match="whole events only"):
                BootstrapRegressor(inner).fit(X, y, sample_weight=np.full(60, 0.5))
        weighted = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y)
        np.testing.assert_allclose(whole.predict(X), weighted.predict(X), rtol=1e-9)

    @pytest.mark.parametrize("requested", [True, None, False])
    def test_what_learns_inside_a_router_gets_weights_or_whole_events(self, requested):
        X, y = noisy_line(60, 0)
        expected = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y).predict(X)
        with config_context(enable_metadata_routing=True):
            inner = LinearRegression().set_fit_request(sample_weight=requested)
            model = BootstrapRegressor(MultiOutputRegressor(inner), random_state=0)
            predicted = model.fit(X, y[:, None]).predict(X)[:, 0]
            np.testing.assert_allclose(predicted, expected, rtol=1e-9)
            # Takes weights for its calibration, whatever its estimator does.
            model = BootstrapRegressor(ConformalRegressor(inner), n_members=2, random_state=0)
            for member in model.fit(X, y).estimators_:
                assert (member.calibration_weights_.max() > 1) == (requested is True)
            # By default, both do.
            model = BootstrapRegressor(ConformalRegressor(), n_members=2, random_state=0)
            model.fit(X, y, sample_weight=np.full(60, 0.5))
            assert 0.5 in model.estimators_[0].calibration_weights_

    @pytest.mark.parametrize("scaler", [True, False])
    @pytest.mark.parametrize("learner", [True, False])
    def test_only_what_learns_decides_whether_weights_count(self, scaler, learner):
        X, y = noisy_line(60, 0)
        expected = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y).predict(X)
        heavy = np.where(np.arange(60) < 9, 10.5, 0.1)
        with config_context(enable_metadata_routing=True):
            inner = LinearRegression().set_fit_request(sample_weight=learner)
            step = StandardScaler().set_fit_request(sample_weight=scaler)
            scoring = make_scorer(r2_score).set_score_request(sample_weight=scaler)
            for estimator in (
                make_pipeline(step, inner),
                # A scorer gets weights in the search only; folds of whole events would differ.
                GridSearchCV(inner, {"fit_intercept": [True]}, scoring=scoring, cv=2),
            ):
                model = BootstrapRegressor(estimator, random_state=0)
                np.testing.assert_allclose(model.fit(X, y).predict(X), expected, rtol=1e-9)
                if learner:
                    model.fit(X, y, sample_weight=heavy)
                else:
                    with pytest.raises(ValueError, match=r"has refused.*whole events only"):
                        model.fit(X, y, sample_weight=heavy)

    @pytest.mark.parametrize("routing", [True, False])
    def test_learners_without_weights_get_whole_events_inside_others(self, routing):
        X, y = noisy_line(60, 0)
        with config_context(enable_metadata_routing=routing):
            holder = MultiOutputRegressor(KNeighborsRegressor(1))
            alone, held = (
                BootstrapRegressor(inner, n_members=5, noise=None, random_state=0)
                for inner in (KNeighborsRegressor(1), holder)
            )
            expected = alone.fit(X, y).predict(X)
            np.testing.assert_array_equal(held.fit(X, y[:, None]).predict(X)[:, 0], expected)
            # Takes weights for its calibration, but Lars has none.
            model = BootstrapRegressor(ConformalRegressor(Lars()), n_members=2, random_state=0)
            for member in model.fit(X, y).estimators_:
                # A Poisson(60) number of events; about 38 different ones would be drawn.
                np.testing.assert_array_equal(member.calibration_weights_, 1)
                assert len(member.calibration_weights_) > 45
            with pytest.raises(ValueError, match="whole events only"):
                model.fit(X, y, sample_weight=np.full(60, 0.5))

    def test_one_event_at_the_x_of_another_changes_little(self):
        # Events of weight 9 are events: their line is known as well as 100 of them tell, however
        # many of them share an x by chance.
        X, y = noisy_line(100, 0, spread=lambda x: 0.3)
        X, y = np.append(X, X[:1], 0), np.append(y, y[0] + 0.1)
        spreads = []
        for n in (100, 101):
            model = BootstrapRegressor(LinearRegression(), n_members=400, random_state=0)
            model.fit(X[:n], y[:n], sample_weight=np.full(n, 9.0))
            spreads.append(model.predict_uncertainty(X[:1]).epistemic[0])
        # The spread of 400 members is known to 1/√800.
        assert abs(spreads[1] / spreads[0] - 1) < 5 * np.sqrt(2 / 800) + 0.05
        assert spreads[0] == pytest.approx(0.3 * np.sqrt((1 + 3 * X[0, 0] ** 2) / 100), rel=0.3)

    def test_digits_of_over_sampled_events_change_little(self):
        # A hundred rare events ten times each, as over-samplers make: they tell what a hundred do.
        rng = np.random.default_rng(0)
        X = np.append(rng.normal(1, 1, 100).repeat(10), rng.normal(0, 1, 1000))[:, None]
        y = np.repeat([1, 0], 1000)
        spreads = []
        for digits in (9, 3):
            model = BootstrapClassifier(LogisticRegression(C=1e6), n_members=200, random_state=0)
            p = model.fit(X.round(digits), y)._member_probabilities(np.array([[0.5]]))[0, :, 1]
            spreads.append(np.std(np.log(p / (1 - p))))
        # A fifth of them meet others, and have the variance of ten events in place of one.
        expected = np.sqrt(0.8 + 0.2 / 10)
        assert abs(spreads[1] / spreads[0] - expected) < 5 / np.sqrt(400) * np.sqrt(2) * expected

    def test_values_of_one_label_are_values_too(self):
        # Labels that hardly overlap: of 20 values, most have one label only.
        rng = np.random.default_rng(0)
        p = 1 / (1 + np.exp(-3 * (np.arange(20.0) - 10)))
        X = rng.integers(20, size=(20_000, 1)).astype(float)
        y = rng.uniform(size=20_000) < p[X[:, 0].astype(int)]
        at = np.array([[9.0], [10.0], [11.0]])
        model = BootstrapClassifier(LogisticRegression(C=1e9), n_members=400, random_state=0)
        members = model.fit(X, y)._member_probabilities(at)[..., 1]
        # What pairs drawn anew spread by, in the logits: I⁻¹ S I⁻¹, S the sum of squared scores.
        fitted = LogisticRegression(C=1e9).fit(X, y).predict_proba(X)[:, 1]
        A, B = np.c_[np.ones(20_000), X], np.c_[np.ones(3), at]
        inverse = np.linalg.inv((A.T * (fitted * (1 - fitted))) @ A)
        covariance = inverse @ ((A.T * (y - fitted) ** 2) @ A) @ inverse
        expected = np.sqrt(np.diagonal(B @ covariance @ B.T))
        logits = np.log(members / (1 - members))
        # Members' spread is known to 1/√800; beyond the first order come 1/n of the thousand
        # events where labels overlap.
        np.testing.assert_allclose(logits.std(1), expected, rtol=5 / np.sqrt(800))

    def test_weights_of_values_count_events(self):
        # A histogram: most of its x come with both labels, and n of n + m has the binomial error.
        X, y = np.repeat(np.arange(5.0), 2)[:, None], np.tile([0, 1], 5)
        counts = np.array([30, 70, 60, 40, 50, 50, 20, 80, 0, 100])
        model = BootstrapClassifier(n_members=400, random_state=0).fit(X, y, counts)
        members = model._member_probabilities(np.arange(5.0)[:, None])[..., 1]
        p = counts[1::2] / 100
        # The spread of 400 members is known to 1/√800.
        expected = np.sqrt(p * (1 - p) / 100)
        np.testing.assert_allclose(members.std(1), expected, rtol=5 / np.sqrt(800))

    @pytest.mark.parametrize("unit", [1.0, 2.0**-30, 2.0**30])
    @pytest.mark.parametrize("zero", [0.0, 1e9])
    def test_trees_read_any_unit(self, unit, zero):
        X, y = noisy_line(200, 0, spread=lambda x: 0.1)
        model = BootstrapRegressor(random_state=0)
        assert model.fit(X * unit, zero + y).score(X * unit, zero + y) > 0.9
        assert model.fit(X, (zero + y) * unit).score(X, (zero + y) * unit) > 0.9
        labels = BootstrapClassifier(random_state=0).fit(zero + X * unit, y > 0)
        assert unit < 1 < zero or labels.score(zero + X * unit, y > 0) > 0.9

    def test_coverage_of_a_line(self):
        X, y = noisy_line(300, 0, spread=lambda x: 0.3)
        X_test, y_test = noisy_line(5000, 1, spread=lambda x: 0.3)
        model = BootstrapRegressor(LinearRegression(), random_state=0).fit(X, y)
        low, high = model.predict_interval(X_test, 0.9).T
        inside = np.mean((y_test > low) & (y_test < high))
        # The noise is known to 1/√(2·300) only.
        slack = 2 * stats.norm.pdf(1.645) * 1.645 / np.sqrt(600)
        assert abs(inside - 0.9) < 4 * np.hypot(slack, np.sqrt(0.09 / 5000))

    def test_a_stack_of_networks_is_what_a_loop_would_be(self):
        # The same draws: an estimator that hides its stack is fitted member by member.
        X, y = noisy_line(120, 0)
        network = NeuralRegressor(max_epochs=40, encoder=MLP(hidden_layer_sizes=(16,)))
        stacked = BootstrapRegressor(network, n_members=10, random_state=0).fit(X, y)
        looped = BootstrapRegressor(
            make_pipeline(StandardScaler(), network), n_members=10, random_state=0
        ).fit(X, y)
        assert len(stacked.estimators_) == 1
        assert len(looped.estimators_) == 10
        # Other first weights: the same function up to the spread of the members.
        difference = stacked.predict(X) - looped.predict(X)
        spread = stacked.predict_uncertainty(X).epistemic
        assert np.sqrt(np.mean(difference**2)) < np.sqrt(np.mean(spread**2))
        assert stacked.noise_[0] == pytest.approx(looped.noise_[0], rel=0.15)

    def test_classifiers(self):
        X, y = make_moons(300, noise=0.15, random_state=0)
        labels = np.array(["β", "γ"])[y]
        tree = BootstrapClassifier(random_state=0).fit(X, labels)
        assert tree.score(X, labels) > 0.95
        network = BootstrapClassifier(
            NeuralClassifier(class_weight="balanced", max_epochs=50), n_members=5, random_state=0
        ).fit(X, labels)
        assert network.score(X, labels) > 0.95
        assert network.predict_uncertainty(X).epistemic.max() > 0.01

    @pytest.mark.parametrize("n", [100, 400, 2000])
    def test_trees_tell_noise_from_ignorance(self, n):
        rng = np.random.default_rng(n)
        x = rng.normal(size=n)
        model = BootstrapClassifier(random_state=0)
        model.fit(np.column_stack([x, rng.normal(size=n)]), x + rng.normal(size=n) > 0)
        x = rng.normal(size=2000)
        _, aleatoric, epistemic = model.predict_uncertainty(np.column_stack([x, 0 * x]))
        # Nearly all is noise, whose entropy is that of the labels; trees that are certain would
        # have none, and call it ignorance.
        p = stats.norm.cdf(np.column_stack([x, -x]))
        assert stats.entropy(p, axis=1).mean() > aleatoric.mean() > epistemic.mean()

    def test_what_is_drawn_as_one_is_one_event(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(300, 2))
        y = X[:, 0] + rng.normal(size=300) > 0
        model = BootstrapClassifier(random_state=0)
        expected = model.fit(X, y).predict_proba(X)
        # A luminosity, and copies, say nothing of how many events there are.
        heavy = model.fit(X, y, np.full(300, 100.0)).predict_proba(X)
        np.testing.assert_allclose(heavy, expected)
        copies = model.fit(np.repeat(X, 100, 0), np.repeat(y, 100)).predict_proba(X)
        np.testing.assert_allclose(copies, expected)

    def test_trees_know_the_shares_at_values_that_events_have_in_common(self):
        rng = np.random.default_rng(0)
        n, values = 20_000, np.arange(30)
        share = np.where(values % 2, 0.95, 0.05)
        x = rng.integers(0, 30, n)
        y = rng.uniform(size=n) < share[x]
        p = BootstrapClassifier(random_state=0).fit(x[:, None], y).predict_proba(values[:, None])
        # Some 670 events each, and the largest of 30 deviations.
        error = np.sqrt(0.05 * 0.95 / np.bincount(x))
        assert np.all(np.abs(p[:, 1] - share) < 4.5 * error)

    def test_what_learns_nothing_more_is_refused(self):
        X, y = noisy_line(30, 0)
        frozen = FrozenEstimator(LinearRegression().fit(X, y))
        pipeline = make_pipeline(StandardScaler(), frozen)
        for estimator in (frozen, pipeline, GridSearchCV(pipeline, {})):
            with pytest.raises(ValueError, match=r"must be one that learns.*FrozenEstimator"):
                BootstrapRegressor(estimator, n_members=3).fit(X, y)

    def test_estimators_that_route_nothing_get_whole_events(self):
        X, y = noisy_line(50, 0)
        boosting = AdaBoostRegressor(n_estimators=2, random_state=0)
        options = {"n_members": 3, "noise": None, "random_state": 0}
        with config_context(enable_metadata_routing=True):
            model = BootstrapRegressor(boosting, **options).fit(X, y)
            assert np.ptp(model.predict_uncertainty(X).epistemic) > 0
            with pytest.raises(ValueError, match="whole events only"):
                BootstrapRegressor(boosting, **options).fit(X, y, np.full(50, 0.5))

    def test_what_does_not_fit_together_is_refused(self):
        X, y = noisy_line(30, 0)
        with pytest.raises(ValueError, match="leaves no event out of bag"):
            BootstrapRegressor(weights="bayesian").fit(X, y)
        neighbours = BootstrapRegressor(KNeighborsRegressor(2), random_state=0)
        with pytest.raises(
            ValueError, match=r"takes no sample_weight, or.*refused.*set_fit_request"
        ):
            neighbours.fit(X, y, sample_weight=np.full(30, 0.5))
        transformed = TransformedTargetRegressor(BayesianRidge())
        pipeline = make_pipeline(StandardScaler(), Ridge())
        for estimator in (NeuralRegressor(), pipeline, transformed, None):
            with pytest.raises(ValueError, match=r"noise='model' asks.*'estimator'.*return_std"):
                BootstrapRegressor(estimator, noise="model").fit(X, y)
        with pytest.raises(ValueError, match="out of bag for two of n_members=2"):
            BootstrapRegressor(n_members=2, random_state=0).fit(X[:2], y[:2])
        assert not hasattr(BootstrapRegressor(noise=None), "log_prob")

    def test_the_members_themselves_know_the_noise(self):
        X, y = noisy_line(300, 0, spread=lambda x: 0.3)
        pipeline = make_pipeline(StandardScaler(), BayesianRidge())
        for estimator in (BayesianRidge(), pipeline, GridSearchCV(pipeline, {}, cv=2)):
            model = BootstrapRegressor(estimator, n_members=10, noise="model", random_state=0)
            model.fit(X, y)
            total, aleatoric, _ = model.predict_uncertainty(X)
            np.testing.assert_allclose(aleatoric, 0.3, rtol=5 / np.sqrt(2 * 300))
            assert np.all(total >= aleatoric)
