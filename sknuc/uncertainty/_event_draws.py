"""Random numbers that belong to an event, not to its place among those that are asked about.

A randomised decision is fair if its number u is uniform over events. Taken from a stream, u would
depend on the company: asked one by one, all events would get the first number of the stream. So u
is a hash of the event and of a seed.
"""

import joblib
import numpy as np
from scipy import sparse

from sknuc.multiplicity import mix_bits, row_hash

__all__ = ["event_uniforms"]

# Numbers that are converted and hashed at a time.
_BLOCK = 2**20


def event_uniforms(X, seed):
    """One number in [0, 1) for every event.

    Parameters
    ----------
    X : array of any shape, sparse matrix, data frame or sequence of n_events events
        Equal events have equal numbers; of numbers, whatever their type.
    seed : int in [0, 2**64)

    Returns
    -------
    u : ndarray of shape (n_events,)
    """
    start = mix_bits(np.array([seed], dtype=np.uint64))
    return (mix_bits(_keys(X) + start) >> np.uint64(11)) * 2.0**-53


def _keys(X):
    """A hash of every event, (n_events,)."""
    if not sparse.issparse(X):
        X = np.asarray(X)
        if X.dtype.kind not in "fiub":
            return np.array([_key(event) for event in X], dtype=np.uint64)
        X = X.reshape(len(X), -1)
    step = max(1, _BLOCK // X.shape[1])
    blocks = (X[i : i + step] for i in range(0, X.shape[0], step))
    dense = (block.toarray() if sparse.issparse(block) else block for block in blocks)
    return np.concatenate([row_hash(block.astype(np.float64)) for block in dense])


def _key(event):
    """Hash of an event that is no row of numbers: ragged, or with words."""
    values = event.tolist() if isinstance(event, np.ndarray) else event
    return int(joblib.hash(values)[:16], 16)
