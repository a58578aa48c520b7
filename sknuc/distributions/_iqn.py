r"""Implicit quantile networks: one network that is the whole quantile function.

A network :math:`f_\theta(x, \tau)` that reads the level :math:`\tau` as an input, and whose pinball
loss is averaged over levels drawn anew for every event and step,

.. math:: L = E_{\tau\sim U(0,1)}\;\rho_\tau(y - f_\theta(x, \tau)),

becomes the quantile function of y given x at all levels; L is then half the continuous ranked
probability score. Put a uniform random number in, and out comes a sample. Several targets are
factorised, :math:`p(y|x) = \prod_k p(y_k | x, y_1 \dots y_{k-1})`: the network reads which target
is asked for and those before it, and learns all of these quantile functions at once; sampled in
this order, with a fresh level each, the targets have their correlations. The density follows from
the change of variables :math:`y_k = f(\tau_k)`,

.. math:: \log p(y|x) = -\sum_k \log\frac{\partial f_k}{\partial\tau}(\tau_k).
"""

import math
from functools import partial
from itertools import pairwise
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length

from sknuc import losses
from sknuc.base import check_widths, validate_targets
from sknuc.distributions._base import DistributionRegressor
from sknuc.distributions._implicit import N_NODES, ImplicitQuantiles, wrap
from sknuc.distributions._levels import check_periodic
from sknuc.multiplicity import row_uniforms
from sknuc.nn import AutoregressiveQuantiles, FreeQuantiles, MonotoneQuantiles

__all__ = ["IQNRegressor"]

# Events read at a time where they lie on disk.
_BLOCK = 2**16


class IQNRegressor(DistributionRegressor):
    r"""Implicit quantile network, autoregressive over several targets.

    All quantiles of any target, samples of all targets together, and their density, from one
    network of the features of the encoder, the one-hot target, the earlier targets and the level
    :math:`\tau`, which it reads as the normal deviate :math:`z=\Phi^{-1}(\tau)`: Gaussian tails are
    straight lines, and go on beyond all levels that were seen.

    Parameters
    ----------
    order : array-like of int of shape (n_targets,) or None, default=None
        The targets in the order in which they are predicted, each given those before it; None is
        their order in y. Quantiles, mean and standard deviation of the first one are computed
        exactly, those of the others with `n_draws` evenly spread draws.
    periodic : dict, float or None, default=None
        Targets that are angles: ``{target: period}`` or ``{target: (period, feature)}``; of one
        target, its period. What is learnt is the difference to a reference, wrapped to half a
        period on either side: to the circular mean of the target, or to that feature of each
        event (its index in the flattened event), which is best where the target is a measurement
        of it. Predictions are in the period around the reference, so that intervals and means
        hold across the seam; wrap them where you need another one.
    monotone : {"construction", "penalty"}, default="construction"
        "construction": the quantile function rises whatever the weights, a straight line and
        hyperbolic tangents in z with positive coefficients that the network gives. "penalty": a
        plain network reads z, and the loss has the term
        :math:`\lambda\,\langle\min(0, \partial f/\partial z)^2\rangle`, as in [2]_ (there with the
        derivative by the level); quantiles may then cross, mostly outside the data.
    penalty : float, default=100.0
        λ of ``monotone="penalty"``.
    hidden_layer_sizes : tuple of int, default=(64,)
        Widths of the layers (SiLU) behind the encoder that read the earlier targets, and with
        "penalty" the level.
    n_taus : int, default=8
        Levels per event, target and step, one in each of so many equal parts of (0, 1).
    tail_scale : float or None, default=None
        With a number c, the loss is that of :math:`\tanh((y - m)/(c\,s))`, m the median and s the
        normalised median absolute deviation of the target: quantiles commute with rising functions,
        so that the same ones are best, but events far out pull less. For heavy tails; 3 is a
        good start.
    n_draws : int, default=1024
        Draws per event, the same (quasi-random) for all, behind mean, standard deviation and
        quantiles of all targets but the first. Quantiles further out than one part in `n_draws`
        are the outermost draws. Time goes with it; errors fall faster than with random draws, the
        more so the fewer the targets.
    schedule : {"cosine", "constant"}, default="cosine"
        How the learning rate goes: to zero within `max_epochs` along half a cosine, which takes
        the last per cent of the loss; or not, where `callbacks` set it.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, an :class:`~sknuc.nn.AutoregressiveQuantiles` behind the scaling of
        the input.
    order_ : ndarray of int of shape (n_targets,)
        The order of the targets.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets; of periodic ones, of their differences to the reference. With
        `tail_scale`, m and s.
    history_ : skorch.history.History
        One row per epoch: losses, in standard deviations of the targets, and times.
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
    QuantileNetRegressor : Some quantiles at once, of targets that are independent.

    Notes
    -----
    An event twice in the data sees the levels that a single one of twice the weight would: levels
    are drawn for the batch, and shifted (modulo 1) by a number that belongs to the event.

    References
    ----------
    .. [1] W. Dabney et al., "Implicit quantile networks for distributional reinforcement
           learning", ICML 2018, arXiv:1806.06923.
    .. [2] B. Kronheim et al., "Implicit quantile neural networks for jet simulation and
           correction", arXiv:2111.11415; "Implicit quantile networks for emulation in jet
           physics", arXiv:2306.15053.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.distributions import IQNRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(0, 1, (1000, 1))
    >>> pt = X[:, 0] + 0.1 * rng.normal(size=1000)
    >>> mass = pt + 0.05 * rng.normal(size=1000)
    >>> model = IQNRegressor(max_epochs=20, batch_size=64, random_state=0)
    >>> model = model.fit(X, np.column_stack([pt, mass]))
    >>> pt, mass = model.sample_y([[0.5]], n_samples=1000)[0]
    >>> bool(np.corrcoef(pt, mass)[0, 1] > 0.7)
    True
    """

    _parameter_constraints = {
        **DistributionRegressor._parameter_constraints,
        "order": ["array-like", None],
        "periodic": [dict, Interval(Real, 0, None, closed="neither"), None],
        "monotone": [StrOptions({"construction", "penalty"})],
        "penalty": [Interval(Real, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "n_taus": [Interval(Integral, 1, None, closed="left")],
        "tail_scale": [Interval(Real, 0, None, closed="neither"), None],
        "n_draws": [Interval(Integral, 2, None, closed="left")],
    }

    def __init__(
        self,
        *,
        order=None,
        periodic=None,
        monotone="construction",
        penalty=100.0,
        hidden_layer_sizes=(64,),
        n_taus=8,
        tail_scale=None,
        n_draws=1024,
        **shared,
    ):
        super().__init__(**shared)
        self.order = order
        self.periodic = periodic
        self.monotone = monotone
        self.penalty = penalty
        self.hidden_layer_sizes = hidden_layer_sizes
        self.n_taus = n_taus
        self.tail_scale = tail_scale
        self.n_draws = n_draws

    def _structure(self, n_targets):
        t = n_targets
        order = list(range(t)) if self.order is None else np.asarray(self.order).tolist()
        if sorted(order) != list(range(t)):
            raise ValueError(
                f"The 'order' parameter must hold each of the {t} targets once, by their numbers "
                f"from 0 to {t - 1}. Got {self.order!r} instead."
            )
        sizes = check_widths("hidden_layer_sizes", self.hidden_layer_sizes)
        if not sizes:
            raise ValueError(
                "The 'hidden_layer_sizes' parameter must hold one width or more. Got "
                f"{self.hidden_layer_sizes!r} instead."
            )
        return {
            "order": order,
            "periodic": check_periodic(self.periodic, t, self.n_features_in_),
            "monotone": self.monotone,
            "hidden_layer_sizes": sizes,
            "tail_scale": self.tail_scale,
        }

    def _prepare(self, targets, sample_weight):
        self.order_ = np.array(self._fitted_structure["order"])

    def _build(self):
        encoder, n_features = self._encoder()
        t, sizes = len(self.order_), tuple(self.hidden_layer_sizes)
        free = self.monotone == "penalty"
        if free:
            # The network behind the encoder sees every level of every target.
            per_level = max(a * b for a, b in pairwise((*sizes, 1)))
            largest = t * self.n_taus * per_level
            self._largest_product = max(self._largest_product, largest)
        head = FreeQuantiles if free else MonotoneQuantiles
        spreads = np.zeros(t)
        for k, (period, _) in self._periods.items():
            spreads[k] = 2 * np.pi * self.target_scale_[k] / period
        return AutoregressiveQuantiles(
            encoder, lambda n: head(n_features, n, sizes), self.order_.tolist(), spreads
        )

    def _loss(self, module, batch):
        """Pinball loss at `n_taus` levels per event and target, one in each part of (0, 1)."""
        y = batch.y[:, module.order]
        shift = torch.rand(y.shape[1], self.n_taus, dtype=y.dtype, device=y.device)
        part = torch.arange(self.n_taus, dtype=y.dtype, device=y.device)
        levels = (part + (batch.phase[:, None, None] + shift).frac()) / self.n_taus
        # The ends have no deviate.
        eps = torch.finfo(y.dtype).eps
        levels = levels.clamp(eps, 1 - eps)
        penalty = self.penalty if self.monotone == "penalty" else 0.0
        z = torch.special.ndtri(levels).requires_grad_(penalty > 0)
        quantiles = module(batch.X, y, z)
        falling = 0.0
        if penalty:
            (slope,) = torch.autograd.grad(quantiles.sum(), z, create_graph=True)
            falling = penalty * slope.clamp(max=0).square().mean((1, 2))
        if self.tail_scale is not None:
            y, quantiles = torch.tanh(y / self.tail_scale), torch.tanh(quantiles / self.tail_scale)
        return losses.pinball(quantiles, y, levels) + falling

    def _fit_events(self, X, columns, *, sample_weight=None, **kwargs):
        phase = _phases(X, columns["y"], sample_weight)
        columns = {**columns, "phase": phase}
        super()._fit_events(X, columns, sample_weight=sample_weight, **kwargs)

    def _predictive(self, X):
        features = self._forward(X)
        periods = np.zeros(len(self.order_))
        for k, (period, _) in self._periods.items():
            periods[k] = period
        return ImplicitQuantiles(
            self.module_[1],
            features,
            self._reference(X),
            self.target_mean_,
            self.target_scale_,
            periods,
            self.n_draws,
        )

    def _numbers_per_event(self):
        width = self.module_[1].head.width
        return N_NODES * width + (self.n_draws * width if len(self.order_) > 1 else 0)

    # Targets: differences to a reference where they are periodic, scaled.

    def _scale_targets(self, X, y, sample_weight):
        self._periods, self._circular_means = {}, None
        if y is not None and self.periodic is not None:
            targets = validate_targets(y)
            check_consistent_length(X, targets)
            targets = targets.reshape(len(targets), -1)
            self._periods = check_periodic(self.periodic, targets.shape[1], self.n_features_in_)
            self._circular_means = np.zeros(targets.shape[1])
            for k, (period, _) in self._periods.items():
                self._circular_means[k] = _circular_mean(targets[:, k], period, sample_weight)
        targets = super()._scale_targets(X, self._differences(X, y), sample_weight)
        if self.tail_scale is None:
            return targets
        # Of heavy tails, mean and standard deviation are those of the farthest events.
        weight = np.ones(len(targets)) if sample_weight is None else sample_weight
        median = partial(np.quantile, q=0.5, axis=0, weights=weight, method="inverted_cdf")
        center = median(targets)
        scale = 1.4826 * median(np.abs(targets - center))
        # More than half of the targets at one value have no median deviation.
        scale = np.where(scale > 0, scale, 1.0)
        self.target_mean_ = self.target_mean_ + self.target_scale_ * center
        self.target_scale_ = self.target_scale_ * scale
        return (targets - center) / scale

    def _continue_with(self, X, y):
        return super()._continue_with(X, self._differences(X, y))

    def _differences(self, X, y):
        """Replace periodic targets by their differences to the reference.

        Those of another number, of a warm start, are returned for the base class to refuse.
        """
        if not self._periods:
            return y
        float32 = getattr(y, "dtype", None) == np.float32
        y = validate_targets(y)
        check_consistent_length(X, y)
        targets = y.reshape(len(y), -1).copy()
        reference = self._reference(X)
        if targets.shape[1] == reference.shape[1]:
            for k, (period, _) in self._periods.items():
                targets[:, k] = wrap(targets[:, k] - reference[:, k], period)
        y = targets.reshape(y.shape)
        return y.astype(np.float32) if float32 else y

    def _reference(self, X):
        """Reference of each event and target, of shape (n, t); 0 if not periodic."""
        if not self._periods:
            return np.zeros((X.shape[0], len(self.order_)))
        reference = np.zeros((X.shape[0], len(self._circular_means)))
        for k, (_, feature) in self._periods.items():
            if feature is None:
                reference[:, k] = self._circular_means[k]
            else:
                # The events may lie on disk, in their own shape.
                index = (feature,)
                if len(X.shape) > 2:
                    index = np.unravel_index(feature, self.input_shape_)
                reference[:, k] = X[(slice(None), *index)]
        return reference


def _phases(X, y, sample_weight):
    """Return numbers in (0, 1) that look random and belong to the events.

    Identical events have the same: an event twice is then an event of weight 2. Of targets alone,
    where many events share their values, these would share their levels.
    """
    n, t = y.shape
    used = np.arange(n) if sample_weight is None else np.flatnonzero(sample_weight)
    # The last bits of scaled targets depend on how their mean was added up; their order does not.
    rank = np.zeros((n, t))
    for k in range(t):
        rank[used, k] = np.unique(y[used, k], return_inverse=True)[1]
    of_events = [
        row_uniforms(np.asarray(X[i : i + _BLOCK]).reshape(-1, math.prod(X.shape[1:])), 1)
        for i in range(0, n, _BLOCK)
    ]
    return (np.concatenate(of_events)[:, 0] + row_uniforms(rank, 1)[:, 0]) % 1


def _circular_mean(y, period, sample_weight):
    direction = np.average(np.exp(2j * np.pi * y / period), weights=sample_weight)
    return np.angle(direction) * period / (2 * np.pi)
