r"""Modes of mixtures of Gaussians: the local maxima of the density.

With responsibilities :math:`r_k = w_k N_k(x) / \sum_j w_j N_j(x)`, precisions
:math:`\Lambda_k = \Sigma_k^{-1}` and :math:`v_k = \Lambda_k(\mu_k - x)`, the log density has

.. math:: g = \sum_k r_k v_k, \qquad
   -H = \sum_k r_k \Lambda_k - \sum_k r_k v_k v_k^T + g g^T .

The fixed point of :math:`g = 0`, :math:`x \leftarrow x + (\sum_k r_k \Lambda_k)^{-1} g`, is an
expectation-maximisation step: it never lowers the density, but is slow where modes are about to
merge. Newton's step :math:`x \leftarrow x - H^{-1} g` is taken where it raises the density more.
A climb from every component's mean finds the modes (M. Carreira-Perpinan, IEEE Trans. Pattern
Anal. 22 (2000) 1318).
"""

import numpy as np
from scipy.special import logsumexp

__all__ = ["mixture_modes"]

_MAX_STEPS = 200


def mixture_modes(weights, means, factors):
    r"""Find the modes of n mixtures of k Gaussians.

    Parameters
    ----------
    weights : ndarray of shape (n, k)
    means : ndarray of shape (n, k, t)
    factors : ndarray of shape (n, k, t, t)
        Lower triangular L, :math:`\Sigma = L L^T`.

    Returns
    -------
    modes : ndarray of shape (n, k, t)
        The highest density first; NaN where there are fewer than k.
    shares : ndarray of shape (n, k)
        The weights of the components whose climb ends there; 0 where there is no mode.
    """
    inverse = np.linalg.inv(factors)
    precisions = inverse.swapaxes(-1, -2) @ inverse
    with np.errstate(divide="ignore"):
        log_norms = np.log(weights) + np.log(np.diagonal(inverse, axis1=-2, axis2=-1)).sum(-1)
    mixture = means, inverse, log_norms
    x = means.copy()
    height, responsibility = _density(x, *mixture)
    for _ in range(_MAX_STEPS):
        gradient, precision, curvature = _derivatives(x, responsibility, means, precisions)
        climb = _solve(precision, gradient)
        candidate = x + climb
        new_height, new_responsibility = _density(candidate, *mixture)
        # Where the density is convex, Newton's method would look for a minimum.
        concave = np.linalg.eigvalsh(curvature)[..., 0] > 0
        curvature = np.where(concave[..., None, None], curvature, precision)
        newton = x + _solve(curvature, gradient)
        newton_height, newton_responsibility = _density(newton, *mixture)
        better = newton_height > new_height
        candidate = np.where(better[..., None], newton, candidate)
        new_height = np.where(better, newton_height, new_height)
        new_responsibility = np.where(better[..., None], newton_responsibility, new_responsibility)
        step = candidate - x
        # In units of the local width.
        length = np.einsum("nsi,nsij,nsj->ns", step, precision, step)
        x, height, responsibility = candidate, new_height, new_responsibility
        if length.max() < 1e-20:
            break
    precision, curvature = _derivatives(x, responsibility, means, precisions)[1:]
    # In units of the local width, so that those of the targets do not matter.
    whitening = np.linalg.inv(np.linalg.cholesky(precision))
    curvature = whitening @ curvature @ whitening.swapaxes(-1, -2)
    is_maximum = np.linalg.eigvalsh(curvature)[..., 0] > -1e-8
    return _merge(x, height, weights, precision, is_maximum)


def _density(x, means, inverse, log_norms):
    """Log density (n, s) up to a constant, and responsibilities (n, s, k), at points (n, s, t)."""
    z = np.einsum("nkij,nskj->nski", inverse, x[:, :, None] - means[:, None])
    terms = log_norms[:, None] - (z**2).sum(-1) / 2
    height = logsumexp(terms, axis=2)
    return height, np.exp(terms - height[..., None])


def _derivatives(x, responsibility, means, precisions):
    """Gradient of the log density, mean precision, and minus the Hessian."""
    v = np.einsum("nkij,nskj->nski", precisions, means[:, None] - x[:, :, None])
    gradient = np.einsum("nsk,nski->nsi", responsibility, v)
    precision = np.einsum("nsk,nkij->nsij", responsibility, precisions)
    spread = np.einsum("nsk,nski,nskj->nsij", responsibility, v, v)
    outer = gradient[..., :, None] * gradient[..., None, :]
    return gradient, precision, precision - spread + outer


def _solve(matrix, vector):
    return np.linalg.solve(matrix, vector[..., None])[..., 0]


def _merge(x, height, weights, precision, is_maximum):
    """Keep one of the climbs that end in the same point, the highest point first."""
    n, k, _ = x.shape
    rows = np.arange(n)[:, None]
    # A climb that starts, by symmetry, in a saddle stays there: it is left out.
    is_maximum[rows[:, 0], height.argmax(1)] = True
    order = np.argsort(np.where(is_maximum, -height, np.inf), axis=1, kind="stable")
    x, precision, is_maximum = x[rows, order], precision[rows, order], is_maximum[rows, order]
    weights = np.where(is_maximum, weights[rows, order], 0)
    away = x[:, :, None] - x[:, None]
    same = np.einsum("nabi,nbij,nabj->nab", away, precision, away) < 1e-6
    owner = np.where(is_maximum, same.argmax(2), np.arange(k))
    for _ in range(k.bit_length()):
        owner = owner[rows, owner]
    kept = (owner == np.arange(k)) & is_maximum
    modes = np.where(kept[..., None], x, np.nan)
    shares = np.zeros((n, k))
    np.add.at(shares, (rows, owner), weights)
    first = np.argsort(~kept, axis=1, kind="stable")
    return modes[rows, first], shares[rows, first] / weights.sum(1, keepdims=True)
