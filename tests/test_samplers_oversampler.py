"""Over-sampling: real events stay, rare classes follow their distribution, pipelines, searches."""

import numpy as np
import pytest
from imblearn.pipeline import make_pipeline
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score

from sknuc.samplers import FlowSampler, GenerativeOverSampler, VAESampler

pd = pytest.importorskip("pandas")


class Exact(BaseEstimator):
    """A sampler whose law needs no training: a unit Gaussian around the mean."""

    def __init__(self, random_state=None):
        self.random_state = random_state

    def fit(self, X, y=None):
        self.seen_ = np.asarray(X)
        self.labels_ = y
        return self

    def sample(self, n_samples, y=None, random_state=None):
        own = self.seen_ if y is None else self.seen_[self.labels_ == y]
        noise = np.random.RandomState(random_state).normal(size=(n_samples, own.shape[1]))
        return own.mean(0) + noise


def events(n=300, n_rare=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.repeat(["background", "signal"], [n, n_rare])
    return rng.normal(size=(n + n_rare, 2)) + 2 * (y == "signal")[:, None], y


@pytest.mark.parametrize("conditional", [False, True])
def test_classes_are_filled_and_real_events_stay(conditional):
    X, y = events()
    over = GenerativeOverSampler(Exact(), conditional=conditional, random_state=0)
    X_more, y_more = over.fit_resample(X, y)
    np.testing.assert_array_equal(X_more[:360], X)
    np.testing.assert_array_equal(y_more[:360], y)
    assert (y_more[360:] == "signal").all()
    assert len(X_more) == 600
    new = X_more[360:]
    away = (new.mean(0) - X[y == "signal"].mean(0)) * np.sqrt(len(new))
    assert np.abs(away).max() < 5
    seen = over.samplers_["signal"].seen_
    np.testing.assert_array_equal(seen, X if conditional else X[y == "signal"])
    again = GenerativeOverSampler(Exact(), conditional=conditional, random_state=0)
    np.testing.assert_array_equal(again.fit_resample(X, y)[0], X_more)


def test_numbers_are_those_that_were_asked_for():
    X, y = events()
    for strategy, n in ((0.5, 150), ({"signal": 100}, 100), ({"signal": 60}, 60)):
        over = GenerativeOverSampler(Exact(), sampling_strategy=strategy, random_state=0)
        assert np.sum(over.fit_resample(X, y)[1] == "signal") == n


@pytest.mark.parametrize("conditional", [False, True])
def test_a_flow_learns_the_rare_class(conditional):
    X, y = events(800, 400)
    flow = FlowSampler(max_epochs=20, batch_size=64, n_transforms=1, hidden_layer_sizes=(16,))
    over = GenerativeOverSampler(flow, conditional=conditional, random_state=0)
    X_more, _ = over.fit_resample(X, y)
    for i in range(2):
        assert stats.kstest(X_more[1200:, i] - 2, "norm").statistic < 0.12


def test_counts_of_a_data_frame_stay_counts():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [200, 50])
    X = pd.DataFrame({"energy": rng.exponential(size=250), "hits": rng.poisson(3, 250)})
    flow = FlowSampler(bounds={"energy": (0, None)}, max_epochs=5)
    X_more, y_more = GenerativeOverSampler(flow, random_state=0).fit_resample(X, y)
    assert list(X_more.columns) == ["energy", "hits"]
    assert X_more["hits"].dtype == X["hits"].dtype
    assert set(X_more["hits"]) <= set(X["hits"])
    assert (X_more["energy"] >= 0).all()
    pd.testing.assert_frame_equal(X_more[:250], X)
    assert np.bincount(y_more).tolist() == [200, 200]


def test_what_is_cast_to_integers_is_rounded():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [2000, 400])
    X = rng.poisson(10, (2400, 1))
    over = GenerativeOverSampler(Exact(), random_state=0)
    frame = pd.DataFrame({"hits": X[:, 0], "energy": rng.normal(size=2400)})
    for table in (X, frame):
        new = np.asarray(over.fit_resample(table, y)[0])[2400:, 0]
        # Around the mean of the class, with the unit variance of the sampler.
        assert abs(new.mean() - X[y == 1].mean()) < 5 * np.sqrt(13 / 12 / len(new))
    assert over.fit_resample(X, y)[0].dtype == X.dtype


@pytest.mark.parametrize("condition", ["auto", None])
def test_labels_are_conditions_of_any_sampler(condition):
    X, y = events(40, 20)
    flow = FlowSampler(condition=condition, max_epochs=1, n_transforms=1)
    over = GenerativeOverSampler(flow, conditional=True, random_state=0)
    over.fit_resample(X, (y == "signal").astype(float))
    assert over.samplers_[1.0].classes_.tolist() == [0, 1]


def test_signals_keep_their_shape():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [40, 20])
    X = rng.normal(size=(60, 1, 16)).astype(np.float32)
    vae = VAESampler(n_latent=2, max_epochs=2)
    X_more, _ = GenerativeOverSampler(vae, random_state=0).fit_resample(X, y)
    assert X_more.shape == (80, 1, 16)
    assert X_more.dtype == np.float32
    np.testing.assert_array_equal(X_more[:60], X)
    rows = GenerativeOverSampler(vae.set_params(input_shape=(1, 16)), random_state=0)
    np.testing.assert_array_equal(
        rows.fit_resample(X.reshape(60, 16), y)[0], X_more.reshape(80, 16)
    )


class Never(Exact):
    """A sampler that nobody should train."""

    def fit(self, X, y=None):
        raise AssertionError


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("strategy", ["auto", {1: 1}, {1: 1, 0: 5}])
def test_nothing_is_trained_where_nothing_is_asked(conditional, strategy):
    n = [5, 5] if strategy == "auto" else [5, 1]
    X, y = np.zeros((sum(n), 1)), np.repeat([0, 1], n)
    over = GenerativeOverSampler(Never(), conditional=conditional, sampling_strategy=strategy)
    assert len(over.fit_resample(X, y)[0]) == sum(n)
    assert over.samplers_ == {}


def test_pipelines_and_searches_resample_the_training_only():
    X, y = events(500, 25)
    X_test, y_test = events(2000, 2000, seed=1)
    model = make_pipeline(GenerativeOverSampler(Exact(), random_state=0), LogisticRegression()).fit(
        X, y
    )
    # Classes of unit width, 2√2 apart, which balance divides in the middle: that is known by half
    # the error of the mean of the 25 real events, and there both classes have the density φ(√2).
    law, n = stats.norm, len(X_test)
    known = law.pdf(np.sqrt(2)) * 0.5 / np.sqrt(25)
    drawn = np.sqrt(law.sf(np.sqrt(2)) * law.cdf(np.sqrt(2)) / n)
    assert abs(np.mean(model.predict(X_test) == "signal") - 0.5) < 4 * np.hypot(known, drawn)
    # Without it the odds are even farther on, by ln 20 over the distance.
    farther = np.log(20) / (2 * np.sqrt(2))
    share = np.mean(law.sf([farther + np.sqrt(2), farther - np.sqrt(2)]))
    plain = LogisticRegression().fit(X, y)
    assert np.mean(plain.predict(X_test) == "signal") < (share + 0.5) / 2
    # The area of the best classifier, Φ(2), and the largest variance that one can have.
    area, best = roc_auc_score(y_test == "signal", model.decision_function(X_test)), law.cdf(2)
    assert abs(area - best) < 4 * np.sqrt(best * (1 - best) / 2000)
    assert cross_val_score(model, X, y, cv=3).shape == (3,)
    search = GridSearchCV(
        model, {"generativeoversampler__sampling_strategy": [0.1, 1.0]}, cv=2, scoring="roc_auc"
    ).fit(X, y)
    assert search.best_score_ > 0.9


def test_errors_are_named():
    X, y = events(50, 1)
    with pytest.raises(ValueError, match="1 sample"):
        GenerativeOverSampler(Exact()).fit_resample(X, y)
    # Names of classes as one would write them.
    with pytest.raises(ValueError, match=r"Class 'signal' has n_samples=1"):
        GenerativeOverSampler(Exact()).fit_resample(X, y.astype("U"))
    with pytest.raises(ValueError, match="'sampler' parameter"):
        GenerativeOverSampler(LogisticRegression()).fit_resample(X, y)
    # What has no conditions serves per class.
    X, y = events(50, 10)

    class Mixture(GaussianMixture):
        def sample(self, n_samples, random_state=None):
            return super().sample(n_samples)[0]

    assert len(GenerativeOverSampler(Mixture(), random_state=0).fit_resample(X, y)[0]) == 100
    with pytest.raises(ValueError, match=r"'conditional' parameter .* Mixture has none of both"):
        GenerativeOverSampler(Mixture(), conditional=True).fit_resample(X, y)
