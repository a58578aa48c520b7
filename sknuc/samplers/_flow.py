r"""Normalizing flows: an invertible map from events to normal noise.

A map f whose Jacobian is known turns a density into another,

.. math:: \log p(x|y) = \log p_Z(f(x; y)) + \log |\det \partial f/\partial x|,

exactly. It is learned by maximum likelihood, gives the density of every event, and, run backwards,
events: :math:`x = f^{-1}(z)`.

Here f is a sequence of splines: variable after variable is shifted, scaled and bent by a monotonic
rational-quadratic spline whose knots are functions of the condition and of the variables before it,
in a new random order in each map. *Autoregressive* maps know all variables before, so that one of
them is already any distribution, and take one pass of the network per variable to invert.
*Coupling* maps know one half, bend the other, and are inverted in two passes: what hundreds of
variables need. Those of signals and images are close to their neighbours; there a linear map to
uncorrelated variables of unit variance (whitening) comes first, :math:`y = \lambda^{-1} V^\top
(x - m)`. Most of those of signals are normal noise, and stay so: f bends the k others only,

.. math:: \log p(x|y) = \log p_Z(f(y_{1 \dots k})) + \log|\det \partial f/\partial y_{1 \dots k}|
          - \sum_{i > k} \left[\tfrac12 y_i^2 + \ln\sqrt{2\pi}\right] - \sum_i \ln\lambda_i .
"""

import math
from numbers import Integral

import numpy as np
import torch
from scipy.special import ndtr
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import check_widths
from sknuc.multiplicity import row_uniforms
from sknuc.nn import ConditionalFlow
from sknuc.samplers._base import Sampler
from sknuc.samplers._probability_flow import n_structured, principal_axes
from sknuc.torch_estimator import Player

__all__ = ["FlowSampler"]

# Variables, and principal components, up to which all can wait for each other.
_MOST_IN_TURN, _MOST_COMPONENTS_IN_TURN = 32, 64
# Smallest variance of a whitened direction, of the largest: below, it is rounding.
_SMALLEST_SHARE = 1e-7


class FlowSampler(Sampler):
    r"""Neural spline flow: events with their exact density.

    .. math:: \log p(x|y) = \log p_Z(f(x; y)) + \log |\det \partial f/\partial x|

    Parameters
    ----------
    kind : {"auto", "autoregressive", "coupling"}, default="auto"
        How variables depend on each other within a map. "autoregressive" is the better density, and
        its sampling takes as many passes as there are variables; "coupling" takes two. "auto" is
        autoregressive up to 32 variables, or 64 principal components: see Notes.
    n_transforms : int or "auto", default="auto"
        Maps in a row: 4 autoregressive ones, 8 couplings.
    hidden_layer_sizes : tuple of int or "auto", default="auto"
        Widths of the hidden layers of each map's network: (64, 64) up to 32 variables, else
        (256, 256).
    bins : int, default=8
        Pieces of a spline.
    {sampler_parameters}
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained flow.
    classes_ : ndarray of shape (n_classes,)
        The classes, if `fit` was given labels.
    condition_ : {"classes", "continuous"} or None
        What `fit` took y for, if it was given; None if it left y aside (``condition=None``).
    history_ : skorch.history.History
        One row per epoch: losses (the negative log likelihood of the variables) and times.
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
    sknuc.distributions.FlowRegressor : The density of targets, given events.
    DiffusionSampler : Better for signals and images, slower.

    Notes
    -----
    The defaults are for distributions with structure: of peaks and rings they lose less than fewer
    maps do, from 200 events on. What some hundred events tell of a smooth and simple distribution
    is learnt with less noise by ``n_transforms=2, learning_rate=0.003``.

    Signals and images of 33 to 1024 numbers, all continuous, rounded or constant, with at least 5
    events for each, are learnt as principal components, from the largest to the last whose
    skewness, kurtosis or correlation with conditions differ from those of normal noise by 5
    standard deviations. The others are drawn as the noise that they are, and have its density.

    References
    ----------
    C. Durkan et al., "Neural Spline Flows", NeurIPS 2019 (arXiv:1906.04032).

    G. Papamakarios et al., "Normalizing Flows for Probabilistic Modeling and Inference", JMLR 22
    (2021) 57 (arXiv:1912.02762).

    C. Krause, D. Shih, "CaloFlow", Phys. Rev. D 107 (2023) 113003 (arXiv:2106.05285).

    Examples
    --------
    Energies and angles of two kinds of events:

    >>> import numpy as np
    >>> from sknuc.samplers import FlowSampler
    >>> rng = np.random.default_rng(0)
    >>> kind = rng.choice(["signal", "background"], 1000)
    >>> energy = np.where(kind == "signal", rng.normal(10, 1, 1000), rng.exponential(5, 1000))
    >>> X = np.column_stack([np.abs(energy), rng.uniform(-np.pi, np.pi, 1000)])
    >>> model = FlowSampler(
    ...     bounds={0: (0, None)}, periodic={1: 2 * np.pi}, max_epochs=20, random_state=0
    ... ).fit(X, kind)
    >>> events = model.sample(500, y="signal", random_state=0)
    >>> bool(9.5 < np.median(events[:, 0]) < 10.5)
    True
    >>> log_density = model.score_samples(X, kind)
    """

    _parameter_constraints = {
        **Sampler._parameter_constraints,
        "kind": [StrOptions({"auto", "autoregressive", "coupling"})],
        "n_transforms": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "hidden_layer_sizes": ["array-like", StrOptions({"auto"})],
        "bins": [Interval(Integral, 2, None, closed="left")],
    }
    _circles = True

    def __init__(
        self,
        *,
        kind="auto",
        n_transforms="auto",
        hidden_layer_sizes="auto",
        bins=8,
        max_epochs=50,
        learning_rate=0.005,
        schedule="cosine",
        **shared,
    ):
        super().__init__(
            max_epochs=max_epochs, learning_rate=learning_rate, schedule=schedule, **shared
        )
        self.kind = kind
        self.n_transforms = n_transforms
        self.hidden_layer_sizes = hidden_layer_sizes
        self.bins = bins

    def _by_channel(self):
        # Every variable is one of a list here, wherever it was measured.
        return False

    def _fit_variables(self, z, columns, sample_weight):
        self._whitening, self._n_components = None, None
        if self._columns.n_variables > _MOST_IN_TURN:
            weight = np.ones(len(z)) if sample_weight is None else sample_weight
            drawn = z
            if "low" in columns:
                low, high = columns["low"], columns["high"]
                drawn = self._columns.draw(z, low, high, row_uniforms(z, low.shape[1]))
            plain = len(self._columns.random) == len(self._columns.constant)
            if plain and len(self.input_shape_) > 1 and not self._columns.angular.any():
                self._find_components(drawn, weight, columns.get("condition"))
            if self._whitening is None:
                self._whitening = _whitening(drawn, self._columns.angular, weight)
        super()._fit_variables(z, columns, sample_weight)

    def _find_components(self, z, weight, condition):
        """Principal components of signals and images, if there are enough events for them."""
        n = z.shape[1]
        # What never varies is noise on its own, and comes last.
        varies = np.ones(n, bool)
        varies[self._columns.constant] = False
        live, dead = np.flatnonzero(varies), np.flatnonzero(~varies)
        if not len(live):
            return
        # As they were measured: noise is the same everywhere, where something happens or not.
        scale = np.where(varies, self._columns.scale, 0).reshape(self.input_shape_[0], -1)
        number = varies.reshape(scale.shape).sum(1, keepdims=True)
        mean_square = (scale**2).sum(1, keepdims=True) / np.maximum(number, 1)
        unit = scale.ravel()[live] / np.repeat(np.sqrt(mean_square), scale.shape[1])[live]
        moments = principal_axes(unit * z[:, live], weight)
        if moments is None:
            return
        self._n_components = n_structured(unit * z[:, live], moments, weight, condition)
        mean, matrix, inverse = np.zeros(n), np.zeros((n, n)), np.zeros((n, n))
        scale, axes = moments[1][::-1], moments[2][:, ::-1]
        k = len(live)
        mean[live] = moments[0] / unit
        matrix[live, :k], inverse[:k, live] = unit[:, None] * axes / scale, (axes * scale).T / unit
        matrix[dead, np.arange(k, n)] = inverse[np.arange(k, n), dead] = 1
        self._whitening = mean, matrix, inverse

    def _build(self):
        n, most_in_turn = self._columns.n_variables, _MOST_IN_TURN
        n_transforms, sizes = self.n_transforms, self.hidden_layer_sizes
        if isinstance(sizes, str):
            sizes = (64, 64) if n <= _MOST_IN_TURN else (256, 256)
        if self._n_components is not None:
            n, most_in_turn = self._n_components, _MOST_COMPONENTS_IN_TURN
        in_turn = self.kind == "autoregressive" or (self.kind == "auto" and n <= most_in_turn)
        if isinstance(n_transforms, str):
            n_transforms = 4 if in_turn else 8
        places = torch.randperm(n).numpy()
        orders = []
        for i in range(n_transforms):
            # Whoever came first comes last, and in between it is drawn anew.
            places = places[::-1].copy() if i % 2 else torch.randperm(n).numpy()
            orders.append(places if in_turn or n == 1 else 2 * places // n)
        width = 0 if self._conditions is None else self._conditions.width
        flow = ConditionalFlow(
            nn.Identity(),
            max(width, 1),
            self._columns.angular[:n],
            orders,
            check_widths("hidden_layer_sizes", sizes),
            self.bins,
        )
        weights = (weight for weight in flow.parameters() if weight.ndim == 2)
        self._largest_product = max(weight.numel() for weight in weights)
        return _Whitened(flow, self._whitening, n)

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _loss(self, module, batch):
        return -module.log_prob(self._variables(batch), getattr(batch, "condition", None))

    def _n_noise(self):
        return self._columns.n_variables

    def _generate(self, noise, condition):
        return self.module_[1].generate(noise, condition)

    def _log_density(self, z, condition):
        return self.module_[1].log_prob(z, condition)

    def _numbers_per_event(self):
        flow = self.module_[1].flow
        return max(layer.network[-1].out_features for layer in flow.layers) * 4


class _Whitened(nn.Module):
    """A flow behind a linear map.

    Parameters
    ----------
    flow : ConditionalFlow
    whitening : tuple of ndarray or None
        Mean (n,), matrix (n, n) and its inverse; None for none.
    n_learnt : int
        The flow makes so many of the first variables; the others are normal noise.
    """

    def __init__(self, flow, whitening, n_learnt):
        super().__init__()
        self.flow = flow
        self.n_learnt = n_learnt
        self.whitens = whitening is not None
        if self.whitens:
            for name, array in zip(("mean", "matrix", "inverse"), whitening, strict=True):
                self.register_buffer(name, torch.from_numpy(array))
            self.log_det = float(np.linalg.slogdet(whitening[1])[1])

    def _features(self, like, condition):
        return like.new_ones(len(like), 1) if condition is None else condition

    def log_prob(self, z, condition):
        """Log density (n,) of variables (n, n_variables), given conditions (n, width) or None."""
        log_det = 0.0
        if self.whitens:
            z = (z - self.mean) @ self.matrix
            log_det = self.log_det
        z, rest = z[:, : self.n_learnt], z[:, self.n_learnt :]
        noise = (rest.square() + math.log(2 * math.pi)).sum(1) / 2
        return self.flow.log_prob(self._features(z, condition), z) - noise + log_det

    def generate(self, noise, condition):
        """Variables of normal noise (n, n_variables)."""
        noise, rest = noise[:, : self.n_learnt], noise[:, self.n_learnt :]
        # From the lower tail on both sides: levels close to one have no digits left.
        levels = ndtr(-noise.abs().double().cpu().numpy())
        z = torch.from_numpy(-self.flow.base_quantiles(levels)).to(noise)
        angular = self.flow.angular
        z = torch.where(angular, z, z.abs()) * noise.sign()
        z = self.flow.transform(self._features(noise, condition)).inv(z)
        z = torch.cat([z, rest], 1)
        return z @ self.inverse + self.mean if self.whitens else z


def _whitening(z, angular, weight):
    """Mean, matrix and inverse of a map to uncorrelated variables of variance 1, but for angles."""
    z = z.astype(np.float64)
    mean = np.where(angular, 0, np.average(z, axis=0, weights=weight))
    plain = np.flatnonzero(~angular)
    away = (z - mean)[:, plain]
    covariance = (away * weight[:, None]).T @ away / weight.sum()
    variances, vectors = np.linalg.eigh(covariance)
    # The largest first: what is known early is what matters most.
    variances, vectors = variances[::-1], vectors[:, ::-1]
    scale = np.sqrt(np.maximum(variances, _SMALLEST_SHARE * variances[0]))
    matrix, inverse = np.eye(len(mean)), np.eye(len(mean))
    matrix[np.ix_(plain, plain)] = vectors / scale
    inverse[np.ix_(plain, plain)] = (vectors * scale).T
    return mean, matrix, inverse
