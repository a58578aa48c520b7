r"""Deep InfoMax: features that tell what the parts of an event are.

A network f makes features h of an event x. Its parts are what a convolutional network sees at each
place before it pools, m(x)_p, or pieces of the event itself. If h tells much of every part, a
critic T knows which parts belong to which features,

.. math:: \max_{f, T}\; \sum_p \mathrm{E}_{P}[-\ln(1+e^{-T(h, m_p)})]
          - \mathrm{E}_{P \times P}[\ln(1+e^{T(h, m_p)})] ,

where P are features and parts of one event, and P × P those of different events. At the best critic
it is 2 JS - 2 ln 2 of the divergence of Jensen and Shannon between the two. That grows with the
mutual information of features and parts, but it is no mutual information, and its value in nats
says nothing of one. The other objective, the contrastive loss of :func:`sknuc.losses.info_nce`,
bounds it from below, and needs many events in a batch. What is said of every part (local) is what
they have in common: the physics, not the noise. The same between features and all parts together
(global) may spend features on a single part.

Features may be drawn to a normal distribution (prior matching), by their energy distance from
normal numbers. It needs no second critic, whose game against the features may never end.
"""

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn
from torch.nn import functional as F

from sknuc import losses
from sknuc.nn import FeatureNorm
from sknuc.representation._base import Representation
from sknuc.torch_estimator import TorchEstimator

__all__ = ["DeepInfoMax"]

# Parts of an event that are looked at.
_MOST_PARTS = 16
# Width of the space in which features and parts are compared.
_WIDTH = 64
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class DeepInfoMax(Representation):
    r"""Features that share most information with the parts of an event.

    .. math:: \min_f\; \sum_i w_i \left[\alpha\,L_\mathrm{global} + \beta\,\frac1P
              \sum_{p=1}^P L_\mathrm{local}^{(p)} + \gamma\,L_\mathrm{prior}\right]

    Parameters
    ----------
    n_latent : int, default=64
        Features h, a linear map of what the encoder makes.
    objective : {"infonce", "jsd"}, default="infonce"
        What is raised: a lower bound of the mutual information in nats, which cannot exceed the
        logarithm of the batch size, or the divergence of Jensen and Shannon between pairs that
        belong together and those that do not, which is no mutual information.
    global_weight : float, default=1.0
        α, of features and all parts of an event together.
    local_weight : float, default=1.0
        β, of features and each part.
    prior_weight : float, default=0.0
        γ, of the energy distance of the features from independent normal numbers.
    encoder : encoder or None, default=None
        The network that reads an event: an object of :mod:`sknuc.encoders`, or your own with a
        method ``build(input_shape)``. None is ``MLP()`` for tables and ``CNN()`` for signals and
        images. The parts are what its last convolution sees at each place, 16 at most, for which
        neighbours are averaged. Of networks without one, they are the columns of a table, or
        pieces of the events along the last axis where it is longer than 16.
    learning_rate : float, default=0.002
        Step size of the optimizer.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, to zero within `max_epochs` along half a cosine, or
        as :math:`(1+10p)^{-3/4}` of the share p of the steps.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events (n, \*input_shape_) to features (n, n_latent).
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
    SimCLR : Tells what may change in an event instead.
    MutualInformation : How much two things tell of each other, in nats.

    Notes
    -----
    Identical events are merged before the fit: none is told from itself, and an event of weight 2
    is exactly the event twice. Weights count relative to their mean.

    References
    ----------
    R. D. Hjelm et al., "Learning Deep Representations by Mutual Information Estimation and
    Maximization", ICLR 2019, arXiv:1808.06670, where the prior is matched by a critic.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import RidgeCV
    >>> from sklearn.pipeline import make_pipeline
    >>> from sknuc.representation import DeepInfoMax
    >>> rng = np.random.default_rng(0)
    >>> start, length = rng.uniform(10, 20, (300, 1)), rng.uniform(5, 25, (300, 1))
    >>> X = np.clip((np.arange(64) - start) / length, 0, 1) + 0.02 * rng.normal(size=(300, 64))
    >>> features = DeepInfoMax(
    ...     n_latent=16, max_epochs=20, batch_size=64, input_shape=(1, 64), random_state=0
    ... )
    >>> model = make_pipeline(features, RidgeCV()).fit(X[:200], length[:200, 0])
    >>> bool(model.score(X[200:], length[200:, 0]) > 0.9)
    True
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "objective": [StrOptions({"jsd", "infonce"})],
        **{
            f"{name}_weight": [Interval(Real, 0, None, closed="left")]
            for name in ("global", "local", "prior")
        },
    }

    def __init__(
        self,
        *,
        n_latent=64,
        objective="infonce",
        global_weight=1.0,
        local_weight=1.0,
        prior_weight=0.0,
        learning_rate=0.002,
        schedule="cosine",
        **shared,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, **shared)
        self.n_latent = n_latent
        self.objective = objective
        self.global_weight = global_weight
        self.local_weight = local_weight
        self.prior_weight = prior_weight

    def _check_parameters(self):
        if self.global_weight == self.local_weight == 0:
            raise ValueError(
                "The parameters 'global_weight' and 'local_weight' of DeepInfoMax must not both be "
                "0: features would be told nothing of events. Got 0 for both."
            )

    def _build(self):
        encoder, n_features = self._encoder()
        self._n_out = self.n_latent
        parameter = next(encoder.parameters(), torch.empty(0))
        probe = torch.zeros(2, *self._network_shape(), dtype=parameter.dtype)
        return _InfoMax(encoder, n_features, self.n_latent, probe)

    def _loss(self, module, batch):
        weight = self._relative_weight(batch)
        objective = losses.jensen_shannon if self.objective == "jsd" else losses.info_nce
        h, parts = module.encode(batch.X)
        loss = h.new_zeros(len(h))
        if self.global_weight:
            loss = loss + self.global_weight * objective(module.of_all(h, parts), weight=weight)
        if self.local_weight:
            local = objective(module.of_each(h, parts), weight=weight).mean(0)
            loss = loss + self.local_weight * local
        if self.prior_weight:
            scale = self.n_latent**0.5
            normal = torch.randn_like(h) / scale
            away = losses.energy_distance(h / scale, normal, weight=weight)
            loss = loss + self.prior_weight * away
        return loss


class _InfoMax(nn.Module):
    """Encoder, linear map to features, and critics of features and parts.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *shape) to (n, n_features).
    n_features, n_latent : int
    probe : Tensor of shape (2, *shape)
        Any events.
    """

    def __init__(self, encoder, n_features, n_latent, probe):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(FeatureNorm(n_features), nn.Linear(n_features, n_latent))
        self.place = find_map(encoder, probe)
        with torch.no_grad():
            _, parts = self.encode(probe)
        _, n_parts, width = parts.shape
        self.position = nn.Parameter(torch.randn(n_parts, _WIDTH))
        self.local = nn.Linear(width, _WIDTH)
        self.to_local = nn.Sequential(nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
        self.to_all = _two_layers(n_parts * width, _WIDTH)
        self.from_local, self.from_all = (_two_layers(n_latent, _WIDTH) for _ in range(2))

    def forward(self, x):
        """Features (n, n_latent) of events (n, *shape)."""
        return self.head(self.encoder(x))

    def encode(self, x):
        """Features (n, n_latent) and parts (n, n_parts, width) of events (n, *shape)."""
        if self.place is None:
            return self(x), split(x)
        seen = []
        layer = self.encoder.get_submodule(self.place)
        handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            h = self(x)
        finally:
            handle.remove()
        return h, _pooled(seen[-1].flatten(2)).transpose(1, 2)

    def of_each(self, h, parts):
        """Scores (n_parts, n, n) of the features of every event with the parts of every other."""
        local = self.to_local(self.local(parts) + self.position)
        return torch.einsum("id,jpd->pij", self.from_local(h), local) / _WIDTH**0.5

    def of_all(self, h, parts):
        """Scores (n, n) of the features of every event with all parts of every other."""
        return self.from_all(h) @ self.to_all(parts.flatten(1)).T / _WIDTH**0.5


def _two_layers(n_inputs, n_outputs):
    return nn.Sequential(nn.Linear(n_inputs, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, n_outputs))


def find_map(encoder, probe):
    """Name of the layer of an encoder that makes its last map (n, channels, ...); None without.

    It is the last one to be computed whose result has the channels of the last convolution, and
    more than one place.
    """
    seen = []
    handles = [
        layer.register_forward_hook(
            lambda layer, inputs, output, name=name: seen.append((name, layer, output))
        )
        for name, layer in encoder.named_modules()
        if name
    ]
    with torch.no_grad():
        encoder(probe)
    for handle in handles:
        handle.remove()
    channels = [layer.out_channels for _, layer, _ in seen if isinstance(layer, _CONVOLUTIONS)]
    for name, _, output in reversed(seen):
        if (
            channels
            and isinstance(output, torch.Tensor)
            and output.ndim > 2
            and output.shape[:2] == (len(probe), channels[-1])
            and output[0, 0].numel() > 1
        ):
            return name
    return None


def split(x):
    """Pieces (n, n_parts, width) of events along the last axis; a few columns are one each."""
    x = x.flatten(1, -2) if x.ndim > 2 else x.unsqueeze(1)
    size = x.shape[-1]
    width = -(-size // _MOST_PARTS)
    n_parts = -(-size // width)
    pieces = F.pad(x, (0, n_parts * width - size)).unflatten(2, (n_parts, width))
    return pieces.transpose(1, 2).flatten(2)


def _pooled(places):
    """A map (n, channels, places) of `_MOST_PARTS` places at most."""
    size = places.shape[2]
    return F.adaptive_avg_pool1d(places, _MOST_PARTS) if size > _MOST_PARTS else places
