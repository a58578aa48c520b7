r"""Mixture density networks: p(y | x) as a mixture of Gaussians.

A network that learns by squared error gives the mean of the targets. Where several answers fit an
event (an inverse problem, an ambiguous track) the mean is none of them. A mixture of Gaussians
whose weights, means and covariances are outputs of a network,

.. math:: p(y|x) = \sum_k w_k(x)\, N(y;\, \mu_k(x),\, L_k(x) L_k(x)^T),

comes as near to any density as its components allow. Its negative log likelihood
:math:`-\sum_i \log p(y_i|x_i)` is, up to the entropy of the truth, the Kullback-Leibler divergence
from the truth to the model, so its minimum is the true density where the mixture can be that.

The likelihood of a mixture has no upper bound: a component that shrinks onto one event has an
infinite density. So the diagonal of L stays above a smallest scale.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from sknuc import losses
from sknuc.distributions._base import DistributionRegressor
from sknuc.distributions._modes import mixture_modes
from sknuc.predictive import Affine, NormalMixture

__all__ = ["MDNRegressor", "Modes"]


class Modes(NamedTuple):
    """Local maxima of the predicted densities."""

    #: Of shape (n_events, n_components) or (n_events, n_components, n_targets), in the units of
    #: the targets, the highest density first; NaN where there are fewer modes than components.
    positions: np.ndarray
    #: Of shape (n_events, n_components): the weights of the components that belong to each mode.
    weights: np.ndarray


class _MixtureHead(nn.Module):
    """From features (n, n_features) to the numbers of a mixture, (n, k·numbers per component)."""

    def __init__(self, n_features, means, std, n_scales, min_scale):
        super().__init__()
        self.k, self.t = means.shape
        self.n_scales = n_scales
        self.min_scale = min_scale
        self.linear = nn.Linear(n_features, self.k * (1 + self.t + n_scales))
        # The network starts close to the marginal distribution of the targets, whatever the event.
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            logits, mean, scale = self._split(self.linear.bias)
            logits.zero_()
            mean.copy_(torch.from_numpy(means))
            scale.zero_()
            above = np.maximum(std - min_scale, 1e-2)
            scale[:, : self.t] = torch.from_numpy(np.log(np.expm1(above)))

    def _split(self, numbers):
        k, t = self.k, self.t
        logits, means, scales = numbers.split([k, k * t, k * self.n_scales], -1)
        return logits, means.unflatten(-1, (k, t)), scales.unflatten(-1, (k, self.n_scales))

    def forward(self, features):
        # In full precision: a mean in bfloat16 has two digits.
        with torch.autocast(features.device.type, enabled=False):
            return self.linear(features.to(self.linear.weight.dtype))

    def mixture(self, numbers):
        """Logits (n, k), means (n, k, t), and stds (n, k, t) or factors (n, k, t, t)."""
        logits, means, scales = self._split(numbers)
        diagonal = self.min_scale + F.softplus(scales[..., : self.t])
        if self.n_scales == self.t:
            return logits, means, diagonal
        row, column = torch.tril_indices(self.t, self.t, -1, device=numbers.device)
        factors = torch.diag_embed(diagonal)
        factors[..., row, column] = scales[..., self.t :]
        return logits, means, factors


class MDNRegressor(DistributionRegressor):
    r"""Mixture density network: a mixture of Gaussians for one or several targets.

    .. math:: p(y|x) = \sum_{k=1}^K w_k(x)\, N(y;\, \mu_k(x),\, L_k(x) L_k(x)^T)

    of all targets together, with w = softmax of K outputs and the diagonal of L = `min_scale` +
    softplus of t outputs. Trained by maximum likelihood. The means start spread over the targets
    along their principal axis, so that all components have events to learn from.

    Parameters
    ----------
    n_components : int, default=5
        Gaussians per event, K. More than needed cost little: weights go to zero.
    covariance : {"full", "diagonal"}, default="full"
        Whether targets are correlated within a component. One target has a variance only.
    min_scale : float, default=0.003
        The smallest standard deviation of a component, in units of the targets' standard
        deviation ("full": of each target given those before it). It bounds the likelihood, which
        otherwise grows without limit where a component shrinks onto one event, or where targets
        take the same value again and again. A step of the optimizer moves means by about
        `learning_rate`: lower both together for targets known more precisely than that.
        Components that shrink onto few events are overtraining, too: `early_stopping` and
        `weight_decay` act against it.
    schedule : {"cosine", "constant"}, default="cosine"
        How the learning rate goes: to zero within `max_epochs` along half a cosine; or not, where
        `callbacks` set it.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events to the numbers that the mixtures are made of.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
    history_ : skorch.history.History
        One row per epoch: losses (the negative log likelihood of scaled targets) and times.
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
    FlowRegressor : Any shape of distribution, but without modes, and slower.

    References
    ----------
    C. Bishop, "Mixture Density Networks", Aston University NCRG/94/004 (1994).

    Examples
    --------
    Which x has the square y? There are two answers.

    >>> import numpy as np
    >>> from sknuc.distributions import MDNRegressor
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, 1000)
    >>> y = x**2 + 0.05 * rng.normal(size=1000)
    >>> model = MDNRegressor(n_components=2, max_epochs=40, random_state=0).fit(y[:, None], x)
    >>> modes = model.predict_modes([[0.49]])
    >>> np.sort(modes.positions).round(1)
    array([[-0.7,  0.7]])
    """

    _parameter_constraints = {
        **DistributionRegressor._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance": [StrOptions({"full", "diagonal"})],
        # Below, squares of scales would be lost to rounding against variances of one.
        "min_scale": [Interval(Real, 1e-6, 1, closed="left")],
    }

    def __init__(self, *, n_components=5, covariance="full", min_scale=0.003, **shared):
        super().__init__(**shared)
        self.n_components = n_components
        self.covariance = covariance
        self.min_scale = min_scale

    def _structure(self, n_targets):
        return {name: getattr(self, name) for name in ("n_components", "covariance", "min_scale")}

    def _prepare(self, targets, sample_weight):
        self._initial = _spread(targets, sample_weight, self.n_components)

    def _build(self):
        encoder, n_features = self._encoder()
        means, std = self._initial
        t = means.shape[1]
        n_scales = t * (t + 1) // 2 if self.covariance == "full" else t
        return nn.Sequential(
            encoder, _MixtureHead(n_features, means, std, n_scales, self.min_scale)
        )

    def _loss(self, module, batch):
        return losses.mixture_nll(*module[1].mixture(module(batch.X)), batch.y)

    def _mixture(self, X):
        """Weights, means and stds or factors of a block of events, of scaled targets."""
        numbers = torch.from_numpy(self._forward(X)).double()
        with torch.inference_mode():
            logits, means, scales = self.module_[1][1].mixture(numbers)
            weights = torch.softmax(logits, -1).numpy()
        return weights, means.numpy(), scales.numpy()

    def _predictive(self, X):
        weights, means, scales = self._mixture(X)
        if scales.ndim == means.ndim:
            mixture = NormalMixture(weights, means, scales)
        elif means.shape[2] == 1:
            mixture = NormalMixture(weights, means, scales[..., 0])
        else:
            mixture = NormalMixture(weights, means, factors=scales)
        return Affine(mixture, self.target_mean_, self.target_scale_)

    def _numbers_per_event(self):
        t = len(self.target_mean_)
        return self.module_[1][1].k * (1 + t + t * t)

    def predict_modes(self, X):
        """Predict the most likely values of the targets: the local maxima of their density.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        modes : named tuple (positions, weights)
            `positions` of shape (n_events, n_components) or (n_events, n_components, n_targets),
            in the units of the targets, the highest density first, and `weights` of shape
            (n_events, n_components): how much of the mixture belongs to each mode, with the sum
            1. Where there are fewer modes than components, NaN and 0 follow.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        k, t = self.module_[1][1].k, len(self.target_mean_)
        positions = np.empty((X.shape[0], k, t), self._output_dtype)
        shares = np.empty((X.shape[0], k), self._output_dtype)
        step = max(1, 2**20 // (k * k * t + k * t * t))
        for start in range(0, X.shape[0], step):
            rows = slice(start, start + step)
            weights, means, scales = self._mixture(X[rows])
            if scales.ndim == means.ndim:
                scales = scales[..., None] * np.eye(t)
            scaled, shares[rows] = mixture_modes(weights, means, scales)
            positions[rows] = self.target_mean_ + self.target_scale_ * scaled
        return Modes(self._without_targets_axis(positions), shares)


def _spread(targets, sample_weight, k):
    """Means (k, t) and standard deviations (t,) of a mixture like the targets as a whole.

    The targets, scaled to mean 0 and variance 1, are cut into k parts of equal weight along their
    principal axis; the means are those of the parts, and the standard deviations make up for
    what the means leave of the variance.
    """
    weight = np.ones(len(targets)) if sample_weight is None else sample_weight
    axis = np.linalg.eigh(np.einsum("n,ni,nj->ij", weight, targets, targets))[1][:, -1]
    # One of two opposite axes, whatever the rounding: of (1, -1), either could be the largest.
    axis = axis * np.sign(axis[(np.abs(axis) > np.abs(axis).max() / 2).argmax()])
    along = targets @ axis
    order = np.argsort(along)
    # The integral of the quantile function is linear in the share, so that parts may cut events.
    share = np.concatenate([[0], np.cumsum(weight[order])])
    integral = np.concatenate([[0], np.cumsum(weight[order] * along[order])])
    edges = np.interp(np.linspace(0, share[-1], k + 1), share, integral)
    centres = np.diff(edges) * k / share[-1]
    left = 1 - np.mean(centres**2) * axis**2
    return np.outer(centres, axis), np.sqrt(np.maximum(left, 1 / k**2))
