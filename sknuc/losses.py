"""Losses as pure functions on tensors: one value per event, so that weights stay exact.

Each takes the network's output and the target of a batch, and returns a tensor of shape (n,) (or
(n_members, n) for stacked networks). Several targets are averaged within the event.
"""

import math

import torch
from torch.nn import functional as F

__all__ = [
    "absolute_error",
    "binary_cross_entropy",
    "cross_entropy",
    "gaussian_nll",
    "huber",
    "mixture_nll",
    "pinball",
    "poisson",
    "squared_error",
]


def binary_cross_entropy(logit, y, *, label_smoothing=0.0):
    r"""Cross entropy of two classes, :math:`\log(1+e^z) - y' z`.

    Parameters
    ----------
    logit : Tensor of shape (..., n, 1)
        z, the log odds of class 1.
    y : Tensor of shape (..., n)
        0 or 1.
    label_smoothing : float
        ε; the target becomes y' = (1-ε) y + ε/2.
    """
    z = logit.squeeze(-1)
    target = y.to(z.dtype)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(z, target, reduction="none")


def cross_entropy(logits, y, *, label_smoothing=0.0):
    r"""Cross entropy of K classes, :math:`-\sum_k y'_k \log\mathrm{softmax}(z)_k`.

    Parameters
    ----------
    logits : Tensor of shape (..., n, n_classes)
    y : Tensor of int, of shape (..., n)
    label_smoothing : float
        ε; the target becomes y' = (1-ε) onehot(y) + ε/K.
    """
    losses = F.cross_entropy(
        logits.flatten(0, -2), y.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return losses.reshape(y.shape)


def squared_error(output, y):
    r"""Half the squared error, :math:`(\hat y - y)^2/2`, of outputs (..., n, n_targets)."""
    return (output - y).square().mean(-1) / 2


def absolute_error(output, y):
    r"""Absolute error, :math:`|\hat y - y|`, of outputs of shape (..., n, n_targets)."""
    return (output - y).abs().mean(-1)


def huber(output, y, *, delta=1.0):
    r"""Huber's loss (smooth L1): quadratic below `delta`, linear above.

    .. math:: \tfrac12 r^2 \;\text{for}\; |r| \le \delta,\quad \delta(|r| - \tfrac12\delta)
       \;\text{otherwise}, \quad r = \hat y - y
    """
    return F.huber_loss(output, y, reduction="none", delta=delta).mean(-1)


def gaussian_nll(mean, std, y, *, beta=0.0):
    r"""Negative log density of Gaussians, :math:`\sigma^{2\beta}[\ln\sigma+(y-\mu)^2/2\sigma^2]`.

    The factor :math:`\sigma^{2\beta}`, through which no gradient flows, gives events with a large
    spread back what the likelihood takes from their share in the fit of the mean: with β = 1 they
    count as in a fit of least squares. Its gradient vanishes where that of the likelihood (β = 0)
    does, event by event, for any β. Its value is no score: a smaller spread lowers it, right or
    wrong, so that models are compared with β = 0.

    Parameters
    ----------
    mean, std, y : Tensor of shape (..., n, n_targets)
        The standard deviation is positive.
    beta : float
        In [0, 1].

    References
    ----------
    M. Seitzer et al., "On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic
    Neural Networks", ICLR 2022, arXiv:2203.09168.
    """
    nll = std.log() + ((y - mean) / std).square() / 2 + math.log(2 * math.pi) / 2
    if beta:
        nll = nll * std.detach() ** (2 * beta)
    return nll.mean(-1)


def pinball(quantiles, y, levels):
    r"""Pinball loss, :math:`\max(\tau r, (\tau - 1) r)` with :math:`r = y - q_\tau`.

    Its expectation is least at the quantile of level τ. The mean over targets and levels is taken
    within the event; over all levels it is half the continuous ranked probability score.

    Parameters
    ----------
    quantiles : Tensor of shape (..., n, n_targets, q)
    y : Tensor of shape (..., n, n_targets)
    levels : Tensor of shape (q,) or (..., n, n_targets, q)
        τ, in (0, 1).

    References
    ----------
    R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46 (1978) 33.
    """
    residual = y.unsqueeze(-1) - quantiles
    return torch.maximum(levels * residual, (levels - 1) * residual).mean((-2, -1))


def poisson(output, y):
    r"""Half the Poisson deviance up to a constant, :math:`e^{z} - y z`, z the log of the rate."""
    return (torch.exp(output) - y * output).mean(-1)


def mixture_nll(logits, means, scales, y):
    r"""Negative log density of a mixture of Gaussians, :math:`-\log\sum_k w_k N(y;\mu_k,\Sigma_k)`.

    The logarithm of the sum is taken around its largest term, so that targets far from all
    components have finite gradients.

    Parameters
    ----------
    logits : Tensor of shape (..., n, k)
        w = softmax(logits).
    means : Tensor of shape (..., n, k, t)
    scales : Tensor of shape (..., n, k, t) or (..., n, k, t, t)
        Standard deviations, or lower triangular L of :math:`\Sigma = L L^T`; positive diagonals.
    y : Tensor of shape (..., n, t)
    """
    away = y.unsqueeze(-2) - means
    if scales.ndim > means.ndim:
        z = torch.linalg.solve_triangular(scales, away.unsqueeze(-1), upper=False).squeeze(-1)
        log_scales = scales.diagonal(dim1=-2, dim2=-1).log()
    else:
        z = away / scales
        log_scales = scales.log()
    log_densities = -(z.square() / 2 + log_scales + math.log(2 * math.pi) / 2).sum(-1)
    return -torch.logsumexp(torch.log_softmax(logits, -1) + log_densities, -1)
