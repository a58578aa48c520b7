"""Network, trees on features and A/E on simulated waveforms, whose truth is known."""

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from sknuc.baselines import BDTClassifier
from sknuc.datasets import make_hpge_waveforms
from sknuc.encoders import CNN
from sknuc.metrics import rejection_at_acceptance
from sknuc.networks import NeuralClassifier
from sknuc.preprocessing import (
    BaselineSubtractor,
    PulseShapeFeatures,
    WaveformCropper,
    WaveformNormalizer,
)


def compare_on_waveforms(n_events=24_000, max_epochs=12, random_state=0):
    """Network on raw waveforms against trees on pulse-shape features against A/E, with truth.

    Parameters
    ----------
    n_events : int, default=24000
        Simulated single-site and multi-site events; a quarter of them is held out.
    max_epochs : int, default=12
    random_state : int, default=0

    Returns
    -------
    result : dict
        `y`, `scores`, `rejection` and examples of waveforms of the held-out events.
    """
    period = 16.0
    events = make_hpge_waveforms(
        n_events,
        weights=(0.5, 0.5, 0),
        energy=(1000.0, 2700.0),
        sampling_period=period,
        random_state=random_state,
    )
    X, y = events.data, (events.target == 0).astype(int)
    train, test = train_test_split(
        np.arange(len(y)), test_size=0.25, stratify=y, random_state=random_state
    )
    features = PulseShapeFeatures(sampling_period=period).set_output(transform="default")
    names = list(features.fit(X[train]).get_feature_names_out())
    tables = {"train": features.transform(X[train]), "test": features.transform(X[test])}
    aoe = tables["test"][:, names.index("a_over_e")]

    trees = BDTClassifier(
        max_depth=4, max_iter=300, early_stopping=True, random_state=random_state
    ).fit(tables["train"], y[train])

    t0 = tables["train"][:, names.index("t0")]
    window = np.array([np.nanmin(t0) - 300.0, np.nanmax(t0) + 1300.0])
    start, stop = np.clip(np.round(window / period), 0, X.shape[1]) * period
    network = Pipeline(
        [
            ("baseline", BaselineSubtractor(window=float(0.8 * np.nanmin(t0)))),
            ("scale", WaveformNormalizer(norm="tail")),
            ("crop", WaveformCropper(start=float(start), stop=float(stop), sampling_period=period)),
            (
                "cnn",
                NeuralClassifier(
                    encoder=CNN(channels=(16, 32)),
                    input_shape=(1, round((stop - start) / period)),
                    max_epochs=max_epochs,
                    batch_size=128,
                    learning_rate=0.002,
                    random_state=random_state,
                    verbose=1,
                ),
            ),
        ]
    ).fit(X[train], y[train])

    scores = {
        "A/E": aoe,
        "Features + BDT": trees.decision_function(tables["test"]),
        "CNN on waveforms": network.predict_proba(X[test])[:, 1],
    }
    examples = {
        name: X[test][np.flatnonzero(y[test] == label)[:3]]
        for name, label in (("Single-site", 1), ("Multi-site", 0))
    }
    return {
        "y": y[test],
        "scores": scores,
        "rejection": {m: rejection_at_acceptance(y[test], s) for m, s in scores.items()},
        "auc": {m: roc_auc_score(y[test], s) for m, s in scores.items()},
        "n_train": len(train),
        "n_test": len(test),
        "examples": examples,
        "window": (float(start), float(stop)),
        "period": period,
    }
