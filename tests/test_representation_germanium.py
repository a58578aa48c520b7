"""What features of germanium pulses know, by linear probes, against an untrained encoder."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline

from sknuc.datasets import make_hpge_waveforms
from sknuc.encoders import CNN
from sknuc.preprocessing import BaselineSubtractor, WaveformAligner, WaveformNormalizer
from sknuc.representation import DeepInfoMax, Gain, Noise, Shift, SimCLR

ENCODER = CNN(channels=(8, 16, 16), n_blocks=0, pooling="mean")
PERIOD = 32.0  # ns
# Pulses without labels, those of them with labels, and the standard errors that count.
N_FIT, N_LABELS, SIGMAS = 2000, 1000, 3


@pytest.fixture(scope="module")
def pulses():
    """Aligned pulses of height 1, whether of several sites, and drift times."""
    events = make_hpge_waveforms(
        5000, sampling_period=PERIOD, waveform_length=512, weights=[0.5, 0.5, 0], random_state=0
    )
    steps = make_pipeline(
        BaselineSubtractor(sampling_period=PERIOD),
        WaveformNormalizer(),
        WaveformAligner(level=0.5, before=1600.0, after=800.0, sampling_period=PERIOD),
    )
    X = steps.fit_transform(events.data)[:, None].astype(np.float32)
    return X, events.target, events.truth.drift_time


def probe(Z, y, drift):
    """Losses of linear models of new events: of the sites in nats, of the drift time in ns."""
    Z = (Z - Z[:N_FIT].mean(0)) / Z[:N_FIT].std()
    sites = LogisticRegression(C=100.0, max_iter=1000).fit(Z[:N_LABELS], y[:N_LABELS])
    times = RidgeCV(np.logspace(-5, 3, 17)).fit(Z[:N_LABELS], drift[:N_LABELS])
    new = slice(N_FIT, None)
    margin = sites.decision_function(Z[new]) * np.where(y[new] == 1, 1, -1)
    return np.logaddexp(0, -margin), np.abs(times.predict(Z[new]) - drift[new])


@pytest.fixture(scope="module")
def untrained(pulses):
    X, y, drift = pulses
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        network = ENCODER.build(X.shape[1:])
        Z = network(torch.from_numpy((X - X[:N_FIT].mean()) / X[:N_FIT].std())).numpy()
    return probe(Z, y, drift)


def beats(ours, theirs):
    """By how many standard errors a loss is smaller, event by event."""
    gain = theirs - ours
    return gain.mean() / (gain.std() / np.sqrt(len(gain)))


def test_simclr_knows_more_than_an_untrained_encoder(pulses, untrained):
    X, y, drift = pulses
    model = SimCLR(
        augmentations=[Shift(samples=(-2, 2)), Noise(std=(0, 0.01)), Gain()],
        encoder=ENCODER,
        max_epochs=30,
        batch_size=64,
        random_state=0,
    )
    sites, times = probe(model.fit(X[:N_FIT]).transform(X), y, drift)
    assert beats(sites, untrained[0]) > SIGMAS
    assert beats(times, untrained[1]) > SIGMAS


def test_infomax_knows_more_of_the_drift_time_than_pulses_tell_a_linear_model(pulses):
    # No more of the sites: those are nearly linear in pulses that are aligned.
    X, y, drift = pulses
    model = DeepInfoMax(encoder=ENCODER, max_epochs=20, batch_size=64, random_state=0)
    _, times = probe(model.fit(X[:N_FIT]).transform(X), y, drift)
    _, linear = probe(X[:, 0], y, drift)
    assert beats(times, linear) > SIGMAS
