r"""Autoencoders: an event through a few numbers, and back.

An encoder f makes n_latent numbers z of an event, a decoder g an event of these, and both are
trained to give back what came,

.. math:: \min_{f, g}\; \frac{\sum_i w_i\,|x_i - g(f(\tilde x_i))|^2}{\sum_i w_i} ,

where :math:`\tilde x` is the event, or the event with noise (denoising): the network then has to
know what events look like to tell them from the noise. If f and g are linear, the minimum is that
of principal components: z spans the same space. What the network has not seen it cannot draw, so
that the distance of an event from its reconstruction tells the ordinary from the strange.
"""

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sknuc import losses
from sknuc.base import validate_weights
from sknuc.encoders import CNN, MLP
from sknuc.nn import check_decoder, mirror
from sknuc.representation._augmentations import Noise, Views, check_augmentations
from sknuc.representation._base import Representation
from sknuc.torch_estimator import TorchEstimator

__all__ = ["Autoencoder"]

# Numbers of decoded events that are computed at a time.
_BLOCK_NUMBERS = 2**20


class _Bottleneck(nn.Module):
    """Encoder, linear map to the latent variables, and decoder.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *shape) to features (n, n_features).
    n_features, n_latent : int
    decoder : nn.Module
        From (n, n_latent) to (n, *shape).
    """

    def __init__(self, encoder, n_features, n_latent, decoder):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(n_features, n_latent)
        self.decoder = decoder

    def forward(self, x):
        """Latent variables (n, n_latent) of events (n, *shape)."""
        return self.head(self.encoder(x))


class _Distance(nn.Module):
    """Mean squared distance (n, 1) of events from their reconstruction."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        away = self.network.decoder(self.network(x)) - x
        return away.flatten(1).square().mean(1, keepdim=True)


class Autoencoder(Representation):
    r"""Latent variables from which events can be drawn again.

    .. math:: \min_{f, g}\; \sum_i w_i\,|x_i - g(f(\tilde x_i))|^2

    Parameters
    ----------
    n_latent : int, default=16
        Latent variables.
    decoder : object or None, default=None
        Your own decoder: an object with ``build(n_inputs, output_shape)`` that returns a module
        from (n, n_inputs) to (n, \*output_shape). None mirrors the encoder,
        :func:`sknuc.nn.mirror`.
    denoising : float, list, augmentation, callable or None, default=None
        What the event is disturbed by before it is encoded, while the network learns to give back
        what it was: the standard deviation of white noise in standard deviations of each channel
        (of each column of a table), or augmentations as in :class:`SimCLR`. None disturbs nothing.
    encoder : encoder or None, default=None
        The network that reads an event: an object of :mod:`sknuc.encoders`, or your own with a
        method ``build(input_shape)``. None is ``MLP()`` for tables, and for signals and images
        ``CNN(stride=4, n_blocks=0, pooling="flatten", activation="silu")``, which keeps track of
        positions: encoders that average over them cannot say where an edge is.
    learning_rate : float, default=0.002
        Step size of the optimizer.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, to zero within `max_epochs` along half a cosine, or
        as :math:`(1+10p)^{-3/4}` of the share p of the steps.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events (n, \*input_shape_) to latent variables (n, n_latent).
    history_ : skorch.history.History
        One row per epoch: losses (half the mean squared distance) and times.
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
    SimCLR : Features that do not change under augmentations.
    sknuc.samplers.VAESampler : Latent variables of a known distribution, and new events.

    Notes
    -----
    Distances are those of standardised events: each column of a table and each channel of a signal
    counts in units of its standard deviation. With ``standardize=False`` they are in units of `X`.

    Identical events are merged before the fit; whatever noise is drawn, an event of weight 2 is
    exactly the event twice.

    References
    ----------
    G. E. Hinton, R. R. Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks",
    Science 313 (2006) 504. P. Baldi, K. Hornik, "Neural Networks and Principal Component Analysis",
    Neural Networks 2 (1989) 53, for the linear case. P. Vincent et al., "Extracting and Composing
    Robust Features with Denoising Autoencoders", ICML 2008.

    Examples
    --------
    Steps of random times and heights are two numbers each; a double step is none of them:

    >>> import numpy as np
    >>> from sknuc.representation import Autoencoder
    >>> rng = np.random.default_rng(0)
    >>> start, height = rng.uniform(10, 20, (300, 1)), rng.uniform(1, 2, (300, 1))
    >>> X = height / (1 + np.exp((start - np.arange(32)) / 2))
    >>> model = Autoencoder(n_latent=2, max_epochs=30, batch_size=32, random_state=0).fit(X)
    >>> model.transform(X).shape, model.inverse_transform(model.transform(X)).shape
    ((300, 2), (300, 32))
    >>> double = X[:1] / 2 + np.roll(X[:1], 8) / 2
    >>> bool(model.score_samples(double)[0] < model.score_samples(X).min())
    True
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "decoder": [HasMethods("build"), None],
        "denoising": [Interval(Real, 0, None, closed="neither"), "array-like", callable, None],
    }

    def __init__(
        self,
        *,
        n_latent=16,
        decoder=None,
        denoising=None,
        learning_rate=0.002,
        schedule="cosine",
        **shared,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, **shared)
        self.n_latent = n_latent
        self.decoder = decoder
        self.denoising = denoising

    def _default_encoder(self):
        if 2 <= len(self.input_shape_) <= 4:
            return CNN(stride=4, n_blocks=0, pooling="flatten", activation="silu")
        return MLP()

    def _check_parameters(self):
        given = self.denoising
        if isinstance(given, bool):
            raise ValueError(
                "The 'denoising' parameter must be a positive number, augmentations, or None. Got "
                f"{given} instead, which says nothing of how large the noise is."
            )
        if isinstance(given, Real):
            given = Noise(std=float(given))
        self._views = None if given is None else check_augmentations("denoising", given)

    def _build(self):
        encoder, n_features = self._encoder()
        shape = self._network_shape()
        if self.decoder is None:
            decoder = mirror(self._given_encoder(), self.n_latent, shape)
        else:
            decoder = self.decoder.build(self.n_latent, shape)
            check_decoder(decoder, self.n_latent, shape)
        parameter = next(decoder.parameters(), torch.empty(0))
        self._measure_work(decoder, torch.zeros(2, self.n_latent, dtype=parameter.dtype))
        self._n_out = self.n_latent
        return _Bottleneck(encoder, n_features, self.n_latent, decoder)

    def _loss(self, module, batch):
        x = batch.X
        seen = x if self._views is None else Views(self._views, self._input_scaling())(x)
        return losses.squared_error(module.decoder(module(seen)).flatten(1), x.flatten(1))

    def inverse_transform(self, Z):
        """Decode latent variables.

        Parameters
        ----------
        Z : array-like of shape (n_events, n_latent)
            Latent variables.

        Returns
        -------
        X : ndarray of shape (n_events, n_features)
            Events in the units of `X` in ``fit``, as rows of a table; ``reshape(-1,
            *input_shape_)`` gives them their shape.

        Raises
        ------
        ValueError
            If `Z` has another number of columns, or is not finite.
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=(np.float64, np.float32), input_name="Z")
        if Z.shape[1] != self._n_out:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but this Autoencoder has n_latent={self._n_out} "
                "latent variables."
            )
        scaling, network = self.module_
        like = next(network.parameters())
        scale = getattr(scaling, "scale", like.new_ones(()))
        shift = getattr(scaling, "shift", like.new_zeros(()))
        step = max(1, _BLOCK_NUMBERS // math.prod(self.input_shape_))
        X = np.empty((len(Z), self.n_features_in_), Z.dtype)
        with torch.inference_mode(), self._threads(len(Z)):
            for start in range(0, len(Z), step):
                block = torch.from_numpy(Z[start : start + step]).to(like)
                decoded = (network.decoder(block) - shift) / scale
                X[start : start + step] = decoded.flatten(1).cpu().numpy()
        return X

    def reconstruction_error(self, X):
        """Root mean squared distance of events from what the decoder makes of them.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        error : ndarray of shape (n_events,)
            In standard deviations of each channel (of each column of a table); in units of `X`
            with ``standardize=False``.
        """
        return np.sqrt(-self.score_samples(X))

    def score_samples(self, X):
        """How ordinary events are: the negative mean squared distance from their reconstruction.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        score : ndarray of shape (n_events,)
            At most zero; the lower, the stranger.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        return -self._forward(X, network=_Distance(self.module_[1]))[:, 0]

    def score(self, X, y=None, sample_weight=None):
        """Mean of ``score_samples``, so that searches find how many latent variables pay.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events, best those that were not learnt from.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        score : float
            At most zero.
        """
        score = self.score_samples(X)
        return float(np.average(score, weights=validate_weights(sample_weight, score)))
