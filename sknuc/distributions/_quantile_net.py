r"""Regression by a network that predicts several quantiles at once.

The expectation of the pinball loss

.. math:: \rho_\tau(y - q) = \max\left(\tau (y - q), (\tau - 1)(y - q)\right)

has the derivative :math:`P(y < q\,|\,x) - \tau` in q, so that it is least where q is the quantile
of level :math:`\tau`, whatever the distribution. One network learns the mean of this loss over
many levels; what they have in common makes it more precise than a network for each. Quantiles that
are learnt apart can cross, which no distribution has: here they are a central one and positive
steps from there. Between the levels the distribution is completed as
:class:`sknuc.predictive.QuantileFunction` says.
"""

import numpy as np
import torch
from scipy.special import ndtri
from torch import nn

from sknuc import losses
from sknuc.distributions._base import DistributionRegressor
from sknuc.distributions._levels import check_rising_levels
from sknuc.nn import OrderedQuantiles
from sknuc.predictive import Affine, QuantileFunction

__all__ = ["QuantileNetRegressor"]

# Every 5 %, and closer in the tails.
LEVELS = (0.005, 0.01, 0.025, *(i / 20 for i in range(1, 20)), 0.975, 0.99, 0.995)


class QuantileNetRegressor(DistributionRegressor):
    r"""Neural network for quantiles that cannot cross.

    Minimises the pinball loss, the mean over `quantiles` and targets. Levels in between are
    interpolated linearly, and beyond the outermost ones the density falls exponentially; mean,
    standard deviation, samples and density are those of this distribution. Several targets are
    independent of each other, given the event.

    Parameters
    ----------
    quantiles : array-like of shape (n_quantiles,), \
            default=(0.005, 0.01, 0.025, 0.05, 0.1, ..., 0.9, 0.95, 0.975, 0.99, 0.995)
        The levels that are learnt, rising, in (0, 1); by default every 0.05, and closer in the
        tails. More of them cost next to nothing.
    schedule : {"cosine", "constant"}, default="cosine"
        How the learning rate goes: to zero within `max_epochs` along half a cosine, which takes
        the last per cent of the loss; or not, where `callbacks` set it.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events (n, *input_shape_) to quantiles of the scaled targets
        (n, n_targets, n_quantiles).
    levels_ : ndarray of shape (n_quantiles,)
        The levels.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
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
    IQNRegressor : All levels, and targets that depend on each other.
    QuantileBDTRegressor : Quantiles of boosted trees.

    References
    ----------
    R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46 (1978) 33.

    A. Cannon, "Non-crossing nonlinear regression quantiles by monotone composite quantile
    regression neural network", Stoch. Environ. Res. Risk Assess. 32 (2018) 3207.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.distributions import QuantileNetRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(0, 1, (2000, 1))
    >>> y = X[:, 0] + rng.exponential(0.1, 2000)
    >>> model = QuantileNetRegressor(max_epochs=30, random_state=0).fit(X, y)
    >>> low, median, high = model.predict_quantiles([[0.5]], [0.05, 0.5, 0.95])[0]
    >>> bool(median - low < 0.5 * (high - median))
    True
    """

    _parameter_constraints = {
        **DistributionRegressor._parameter_constraints,
        "quantiles": ["array-like"],
    }

    def __init__(self, *, quantiles=LEVELS, **shared):
        super().__init__(**shared)
        self.quantiles = quantiles

    def _structure(self, n_targets):
        return {"quantiles": tuple(check_rising_levels(self.quantiles).tolist())}

    def _prepare(self, targets, sample_weight):
        self.levels_ = check_rising_levels(self.quantiles)

    def _build(self):
        encoder, n_features = self._encoder()
        deviates = torch.from_numpy(ndtri(self.levels_))
        head = OrderedQuantiles(n_features, len(self.target_mean_), deviates)
        return nn.Sequential(encoder, head)

    def _loss(self, module, batch):
        levels = torch.from_numpy(self.levels_).to(batch.y)
        return losses.pinball(module(batch.X), batch.y, levels)

    def _predictive(self, X):
        values = self._forward(X, lambda quantiles: quantiles.mT)
        base = QuantileFunction(self.levels_, values.astype(np.float64))
        return Affine(base, self.target_mean_, self.target_scale_)

    def _numbers_per_event(self):
        return 4 * len(self.levels_) * len(self.target_mean_)
