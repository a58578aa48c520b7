r"""SimCLR: what two views of one event have in common, and other events have not.

Of every event two views x', x'' are made by random augmentations: other noise, another trigger
time, another gain. A network f, the encoder, makes features h = f(x) of a view, and a small one,
the projection head, z = g(h). The loss is the cross entropy of finding, among all views of a batch
of n events, the one that comes from the same event,

.. math:: -\ln\frac{e^{z' \cdot z''/T}}{e^{z' \cdot z''/T} + \sum_{\text{other events}}
          (e^{z' \cdot z_j'/T} + e^{z' \cdot z_j''/T})}, \qquad |z| = 1 .

Its mean, subtracted from ln(2n - 1), is a lower bound of the mutual information of the two views.
To lower it, features have to know what tells events apart and is left unchanged by the
augmentations. The head forgets more than that, so that h, not z, is what is kept.
"""

from numbers import Real

import torch
from sklearn.utils._param_validation import Interval
from torch import nn

from sknuc import losses
from sknuc.base import check_widths
from sknuc.nn import DenseDecoder
from sknuc.representation._augmentations import (
    FeatureDropout,
    Gain,
    Mask,
    Noise,
    Rotation,
    Shift,
    Views,
    check_augmentations,
)
from sknuc.representation._base import Representation, is_signal
from sknuc.torch_estimator import TorchEstimator

__all__ = ["SimCLR"]


class _Projected(nn.Module):
    """Encoder, and a head for the training only.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *shape) to features (n, n_features).
    n_features : int
    widths : list of int
        Of the layers of the head.
    """

    def __init__(self, encoder, n_features, widths):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Identity()
        if widths:
            self.head = DenseDecoder(n_features, widths[-1:], hidden_layer_sizes=widths[:-1])

    def forward(self, x):
        """Features (n, n_features) of events (n, *shape)."""
        return self.encoder(x)


def default_augmentations(encoder, input_shape):
    """What may be done to events of a shape that an encoder reads; see :class:`SimCLR`."""
    if getattr(encoder, "padding_axis", lambda shape: None)(input_shape) is not None:
        return [Noise()]
    if is_signal(encoder, input_shape):
        farthest = max(1, input_shape[-1] // 50)
        return [Shift(samples=(-farthest, farthest)), Noise(std=(0.0, 0.02)), Gain()]
    if len(input_shape) == 1:
        return [Noise(std=(0.0, 0.3)), FeatureDropout()]
    azimuth = [Rotation()] if getattr(encoder, "wrap", False) else []
    return [Noise(), Gain(), Mask(), *azimuth]


class SimCLR(Representation):
    r"""Contrastive features: the same for two views of an event, different for different events.

    .. math:: \min_{f, g}\; -\sum_i w_i
              \ln\frac{e^{z_i' \cdot z_i''/T}}{e^{z_i' \cdot z_i''/T} + \sum_{j \ne i}
              w_j\,(e^{z_i' \cdot z_j'/T} + e^{z_i' \cdot z_j''/T})} + (' \leftrightarrow ''),
              \qquad z = g(f(x))/|g(f(x))|

    Parameters
    ----------
    augmentations : list, augmentation, callable or None, default=None
        What makes a view of an event: objects of :mod:`sknuc.representation`, or functions from a
        tensor of events (n, \*event_shape), in the units of `X`, to a tensor of the same shape; one
        after the other. None depends on the shape of events: of signals (C, L),
        ``[Shift(), Noise(std=(0.0, 0.02)), Gain()]`` with shifts up to a fiftieth of the length:
        noise far above that of the electronics would hide the shape of a pulse; of tables,
        ``[Noise(std=(0.0, 0.3)), FeatureDropout()]``; of images and all else,
        ``[Noise(), Gain(), Mask()]``, and of those with an azimuth (``wrap=True``) ``Rotation()``;
        of padded clouds of points, ``[Noise()]``.
    temperature : float, default=0.3
        T. A smaller one looks at the most similar events only.
    projection : tuple of int, default=(64, 64)
        Widths of the layers of the head g; () is none.
    encoder : encoder or None, default=None
        The network that reads an event: an object of :mod:`sknuc.encoders`, or your own with a
        method ``build(input_shape)``. None is ``MLP()`` for tables and ``CNN()`` for signals and
        images.
    batch_size : int, default=256
        The most events per step, which are the negatives of each other: more of them make the task
        harder.
    learning_rate : float, default=0.002
        Step size of the optimizer.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, to zero within `max_epochs` along half a cosine, or
        as :math:`(1+10p)^{-3/4}` of the share p of the steps.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events (n, \*input_shape_) to features (n, n_features_out).
    history_ : skorch.history.History
        One row per epoch: losses and times.
    n_iter_ : int
        Epochs trained.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    Autoencoder : Features from which the event can be drawn again.
    LatentDisplay : A map of the features.

    Notes
    -----
    Features know what the augmentations leave, and nothing else need be in them: with ``Shift``
    they do not know the time of the trigger, with ``Gain`` they know less of the energy. Nothing
    may be stretched in time where a drift time matters.

    Identical events are merged before the fit: they are never negatives of each other, and an event
    of weight 2 is exactly the event twice. Weights count relative to their mean.

    References
    ----------
    T. Chen, S. Kornblith, M. Norouzi, G. Hinton, "A Simple Framework for Contrastive Learning of
    Visual Representations", ICML 2020, arXiv:2002.05709.

    Examples
    --------
    Steps at random times and of random lengths, with noise; the length is what matters:

    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from sknuc.representation import SimCLR, Shift, Noise
    >>> rng = np.random.default_rng(0)
    >>> start, length = rng.uniform(10, 20, (300, 1)), rng.uniform(5, 25, (300, 1))
    >>> X = np.clip((np.arange(64) - start) / length, 0, 1) + 0.02 * rng.normal(size=(300, 64))
    >>> views = [Shift(samples=(-5, 5)), Noise()]
    >>> features = SimCLR(augmentations=views, max_epochs=10, input_shape=(1, 64), random_state=0)
    >>> model = make_pipeline(features, Ridge()).fit(X[:200], length[:200, 0])
    >>> bool(model.score(X[200:], length[200:, 0]) > 0.9)
    True
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "augmentations": ["array-like", callable, None],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "projection": ["array-like"],
    }

    def __init__(
        self,
        *,
        augmentations=None,
        temperature=0.3,
        projection=(64, 64),
        learning_rate=0.002,
        schedule="cosine",
        **shared,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, **shared)
        self.augmentations = augmentations
        self.temperature = temperature
        self.projection = projection

    def _check_parameters(self):
        check_widths("projection", self.projection)
        given = self.augmentations
        if given is None:
            given = default_augmentations(self._given_encoder(), self.input_shape_)
        self._views = check_augmentations("augmentations", given)

    def _build(self):
        encoder, self._n_out = self._encoder()
        return _Projected(encoder, self._n_out, check_widths("projection", self.projection))

    def _loss(self, module, batch):
        views = Views(self._views, self._input_scaling())
        both = torch.cat([views(batch.X), views(batch.X)])
        first, second = module.head(module(both)).to(both.dtype).chunk(2)
        return losses.nt_xent(
            first, second, temperature=self.temperature, weight=self._relative_weight(batch)
        )
