"""What all representations share: events that are fitted once each, and features of them."""

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sknuc.base import validate_weights
from sknuc.encoders import CNN, MLP
from sknuc.multiplicity import merge_identical, row_hash
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["Representation", "distinct_events", "is_signal"]

# Above, events are not copied to be merged; as the engine streams them from disk.
_RESIDENT_BYTES = 256 * 2**20
_HASHED_ROWS = 4096


class Representation(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TorchEstimator):
    """Base class of transformers that learn their features without labels.

    The network that subclasses build returns the features of an event, (n, n_features_out).
    """

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Learn the features.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; a memory map or an HDF5 dataset above 256 MiB is streamed.
        y : None
            Ignored: no labels are needed.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or a parameter is out of range.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        reset = not (self.warm_start and self.__sklearn_is_fitted__())
        X = self._validate_events(X, reset=reset)
        if reset:
            self._start_anew()
        sample_weight = validate_weights(sample_weight, X)
        self._check_parameters()
        X, _, sample_weight = distinct_events(X, None, sample_weight)
        try:
            self._fit_events(X, {}, sample_weight=sample_weight, reset=reset)
        finally:
            self.__dict__.pop("_scaling", None)
        return self

    def _check_parameters(self):
        """Check what the tables of constraints cannot say."""

    def transform(self, X):
        """Compute the features.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        Z : ndarray of shape (n_events, n_features_out)
        """
        check_is_fitted(self)
        return self._forward(self._validate_events(X, reset=False))

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _default_encoder(self):
        return CNN() if 2 <= len(self.input_shape_) <= 4 else MLP()

    def _given_encoder(self):
        return self._default_encoder() if self.encoder is None else self.encoder

    def _standardize(self, source, rows, sample_weight):
        # Augmentations act in the units of X, so the loss has to know the way back.
        self._scaling = super()._standardize(source, rows, sample_weight)
        return self._scaling

    def _input_scaling(self):
        """The layer that standardises the events, also while the network is trained."""
        if hasattr(self, "module_"):
            return self.module_[0]
        return getattr(self, "_scaling", nn.Identity())

    @staticmethod
    def _relative_weight(batch):
        """Weights of a batch over the mean weight of all events, or None."""
        if batch.sample_weight is None:
            return None
        return batch.sample_weight / batch.mean_weight

    @property
    def _n_features_out(self):
        return self._n_out


def is_signal(encoder, input_shape):
    """Whether the last axis of events is one of samples: (C, L), or (L,) where it is one channel.

    Parameters
    ----------
    encoder : encoder
    input_shape : tuple of int
    """
    if len(input_shape) == 1:
        return getattr(encoder, "channel_axis", lambda shape: 0)(input_shape) is None
    return len(input_shape) == 2


def distinct_events(X, y, sample_weight):
    """Let identical events be one of their common weight.

    Up to 256 MiB, events come in an order that follows from their values alone, so that whatever is
    drawn for them is the same for an event of weight 2 and for the event twice. Of more, which may
    be on disk, the first of identical events has their weight, and the others none.

    Parameters
    ----------
    X : validated events, ndarray of shape (n, n_features) or on disk
    y : ndarray of shape (n, k) or None
        What makes events different, too.
    sample_weight : ndarray of shape (n,) or None

    Returns
    -------
    X, y, sample_weight
    """
    rows = X.shape[0]
    other = np.zeros((rows, 1)) if y is None else y
    if int(np.prod(X.shape)) * X.dtype.itemsize <= _RESIDENT_BYTES:
        X, other, sample_weight = merge_identical(X, other, sample_weight)
        return X, None if y is None else other, sample_weight
    blocks = (np.asarray(X[i : i + _HASHED_ROWS]) for i in range(0, rows, _HASHED_ROWS))
    keys = np.concatenate([row_hash(block.reshape(len(block), -1)) for block in blocks])
    keys = keys + np.uint64(31) * row_hash(other)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    if len(first) < rows:
        total = np.bincount(group, weights=sample_weight)
        sample_weight = np.zeros(rows)
        sample_weight[first] = total
    return X, y, sample_weight
