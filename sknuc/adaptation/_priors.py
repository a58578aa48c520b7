r"""How frequent classes are among events without labels.

The domains differ in how frequent classes are, :math:`\pi^s_y` and :math:`\pi_y`, and the events of
a class are alike in both. Functions here take probabilities of any classifier, for source events
that it has not seen and for target events.

*Likelihood* [1]_, [2]_. With calibrated probabilities :math:`p_s(y \mid x)`, the density of the
target is :math:`p_s(x) \sum_y \pi_y q_y(x)`, :math:`q_y(x) = p_s(y \mid x) / \pi^s_y`, and

.. math:: L(\pi) = \sum_j w_j \ln \sum_y \pi_y\, q_y(x_j)

is concave. The EM algorithm of Saerens goes up by :math:`\pi_y \leftarrow \langle\pi_y q_y /
\sum_c \pi_c q_c\rangle`, and ends where the mean posterior is the prior. Sequential quadratic
programs [3]_ end there, too, in some ten steps instead of thousands where classes overlap. The
probabilities are made right by bias-corrected temperature scaling first.

*Confusion matrix* [4]_, [5]_. Of any function :math:`\phi(x)` of predictions, the mean over the
target is :math:`\mu = M \pi` with the means over the source's classes, :math:`M_{\cdot y}`, as
columns: the most probable class, or the probabilities themselves. This needs no calibration, and
knows less. Where M does not tell classes apart, by more than its errors, a ridge draws
:math:`\pi` towards the source's.

*Errors.* All are zeros of mean scores :math:`g(\pi, \theta)`, of which :math:`\theta` are the
source's parameters: its priors and the calibration, or M. With what an event adds to either,

.. math:: \operatorname{Cov} \pi = H^{-1} \Big[\sum_j w_j^2\, g_j g_j^T
   + \sum_i w_i^2\, (D \psi_i) (D \psi_i)^T\Big] H^{-1},

:math:`D = \partial g/\partial\theta` and the influence :math:`\psi_i` of a source event on
:math:`\theta`, in the directions that keep the sum one.

References
----------
.. [1] M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the outputs of a classifier to new a
   priori probabilities", Neural Computation 14 (2002) 21.
.. [2] A. Alexandari, A. Kundaje and A. Shrikumar, "Maximum likelihood with bias-corrected
   calibration is hard-to-beat at label shift adaptation", ICML 2020, arXiv:1901.06852.
.. [3] Y. Kim, P. Carbonetto, M. Stephens and M. Anitescu, "A fast algorithm for maximum likelihood
   estimation of mixture proportions using sequential quadratic programming", JCGS 29 (2020) 261,
   arXiv:1806.01412.
.. [4] Z. Lipton, Y.-X. Wang and A. Smola, "Detecting and correcting for label shift with black box
   predictors", ICML 2018, arXiv:1802.03916.
.. [5] K. Azizzadenesheli, A. Liu, F. Yang and A. Anandkumar, "Regularized learning for domain
   adaptation under label shifts", ICLR 2019, arXiv:1903.09734.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from sknuc.adaptation._calibration import Scaling, scale_probabilities
from sknuc.metrics._score_validation import kish_number

__all__ = ["PriorEstimate", "estimate_priors", "mixture_proportions"]

# Of the sum of squares, what a sum other than one adds.
_HEAVY = 1e4
# Singular values of the confusion matrix below this many of its errors tell nothing, nor do those
# of rounding, where all events have the same answer and it has no errors.
_TELLING, _ROUNDING = 3.0, 1e-8
_LEAST_RIDGE = 1e-3
# The width of a share of which nothing is known but that it is in [0, 1].
_KNOWN = 12**-0.5


class PriorEstimate(NamedTuple):
    """How frequent classes are in both domains."""

    #: Shares of the classes, of shape (n_classes,), in the source.
    source: np.ndarray
    #: The same in the target.
    target: np.ndarray
    #: Covariance of `target`, of shape (n_classes, n_classes), from both samples.
    covariance: np.ndarray
    #: Calibration of the log-probabilities.
    scaling: Scaling
    #: Whether the classes are told apart, so that the target says how frequent they are.
    identified: bool

    @property
    def error(self):
        """Standard deviations of `target`."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def ratio(self):
        """How much more frequent classes are in the target."""
        return self.target / self.source


def estimate_priors(
    source_proba,
    labels,
    target_proba,
    *,
    source_weight=None,
    target_weight=None,
    method="em",
    calibrate=True,
):
    """Estimate how frequent classes are in the target.

    Parameters
    ----------
    source_proba : ndarray of shape (n_source, n_classes)
        Probabilities of source events, from a classifier that has not seen them.
    labels : ndarray of int of shape (n_source,)
        Their classes, 0 to n_classes - 1. Every class must have events.
    target_proba : ndarray of shape (n_target, n_classes) or (n_target, n_models, n_classes)
        Of target events, by the same classifier or by each of several, such as those of the folds.
        Events with several are no more events.
    source_weight, target_weight : ndarray of shape (n_events,) or None
        Non-negative.
    method : {"em", "bbse", "bbse-soft"}, default="em"
        The largest likelihood, or the confusion matrix of the most probable classes, or of
        probabilities.
    calibrate : bool, default=True
        Whether probabilities are calibrated on the source.

    Returns
    -------
    estimate : PriorEstimate
    """
    n_classes = source_proba.shape[1]
    w_source = _shares(source_weight, len(source_proba))
    w_target = _shares(target_weight, len(target_proba))
    n_effective = kish_number(w_source)
    source_proba = np.asarray(source_proba, dtype=np.float64)
    members = np.asarray(target_proba, dtype=np.float64)
    members = members.reshape(len(members), -1, n_classes)
    scaling = scale_probabilities(source_proba, labels, w_source * n_effective, fitted=calibrate)
    source = np.bincount(labels, weights=w_source, minlength=n_classes)
    p_source = np.exp(scaling.log_proba(source_proba))
    p_target = np.exp(scaling.log_proba(members))
    onehot = np.eye(n_classes)[labels]
    if method == "em":
        target, covariance, identified = _by_likelihood(
            (p_source, scaling.log(source_proba), onehot, w_source),
            (p_target, scaling.log(members), w_target),
            source,
            scaling if calibrate else None,
        )
    else:
        if method == "bbse":
            p_source = np.eye(n_classes)[p_source.argmax(-1)]
            p_target = np.eye(n_classes)[p_target.argmax(-1)]
        target, covariance, identified = _by_confusion(
            p_source, onehot, w_source, p_target.mean(1), w_target, source
        )
    return PriorEstimate(source, target, covariance, scaling, identified)


def _shares(weight, n):
    return np.full(n, 1 / n) if weight is None else weight / weight.sum()


def mixture_proportions(density, weight, start, *, max_iter=200, tol=1e-12):
    r"""Return the shares of components that make events most likely.

    Parameters
    ----------
    density : ndarray of shape (n_events, n_components)
        Densities of the components at the events; any factor per event is allowed.
    weight : ndarray of shape (n_events,)
        Of the sum 1.
    start : ndarray of shape (n_components,)
        Positive. Where events tell nothing, it is the result.

    Returns
    -------
    shares : ndarray of shape (n_components,)
        Of the sum 1. With the mean :math:`g_y` of :math:`q_y / \sum_c \pi_c q_c`, all
        :math:`g_y \leq 1`, and 1 where :math:`\pi_y > 0`.
    """
    n_components = density.shape[1]
    density = density / density.max(axis=1, keepdims=True)
    shares = start
    mixed = density @ shares
    for _ in range(max_iter):
        relative = density / mixed[:, None]
        gradient = weight @ relative
        # What is left of the conditions of Karush, Kuhn and Tucker.
        if max(np.max(gradient) - 1, np.max(shares * np.abs(gradient - 1))) < tol:
            break
        hessian = (relative * weight[:, None]).T @ relative
        # min x'Hx/2 - x'(Hs + g - 1) over x >= 0, where Hs = g; without its directions of none.
        ridge = 1e-10 * np.trace(hessian) / n_components
        root = np.linalg.cholesky(hessian + ridge * np.eye(n_components)).T
        aim = np.linalg.solve(root.T, 2 * gradient - 1 + ridge * shares)
        step = nnls(root, aim)[0] - shares
        slope = (gradient - 1) @ step
        value, length = weight @ np.log(mixed) - shares.sum(), 1.0
        while length > 1e-8:
            new = shares + length * step
            new_mixed = density @ new
            if new_mixed.min() > 0:
                gain = weight @ np.log(new_mixed) - new.sum() - value
                if gain >= 1e-4 * length * slope:
                    break
            length /= 2
        else:
            # A step of EM never goes down.
            new = shares * gradient
            new_mixed = density @ new
        shares = new / new.sum()
        mixed = new_mixed / new.sum()
    return shares


def _by_likelihood(source, target, priors, scaling):
    p_source, log_source, onehot, w_source = source
    p_target, log_target, w_target = target
    n_members, n_classes = p_target.shape[1:]
    pairs = np.repeat(w_target / n_members, n_members)
    density = (p_target / priors).reshape(-1, n_classes)
    shares = mixture_proportions(density, pairs, priors)
    relative = density / (density @ shares)[:, None]
    hessian = (relative * pairs[:, None]).T @ relative
    # Of an event, the mean over all models.
    score = relative.reshape(-1, n_members, n_classes).mean(1)
    score -= w_target @ score
    noise = (score * (w_target**2)[:, None]).T @ score
    # The score of class y changes with the log of q_c by r_y (delta_yc - t_c), with the posterior t
    # in the target; that of q_c with the bias b_c, minus the log of the source's prior, and the
    # scale times log f_c.
    posterior = shares * relative
    by_bias = np.diag(pairs @ relative) - (relative * pairs[:, None]).T @ posterior
    influence = -((onehot - priors) / priors)
    change = influence @ by_bias.T
    if scaling is not None and scaling.scale > 0:
        logs = log_target.reshape(-1, n_classes)
        centred = logs - (posterior * logs).sum(1, keepdims=True)
        by_scale = pairs @ (relative * centred)
        derivative = np.column_stack([by_scale, by_bias[:, 1:]])
        change = change + _scaling_influence(p_source, log_source, onehot, w_source) @ derivative.T
    noise = noise + (change * (w_source**2)[:, None]).T @ change
    basis = _sum_zero(n_classes)
    inner = basis.T @ hessian @ basis
    value, vector = np.linalg.eigh(inner)
    told = value > 1e-10 * n_classes
    inverse = (vector[:, told] / value[told]) @ vector[:, told].T
    solved = basis @ inverse @ basis.T
    untold = basis @ vector[:, ~told]
    if not told.all():
        # There rounding alone would have decided.
        shares = np.maximum(shares - untold @ (untold.T @ (shares - priors)), 0)
        shares /= shares.sum()
    covariance = solved @ noise @ solved + untold @ untold.T
    identified = bool(np.diag(covariance).max() < _KNOWN**2)
    return shares, covariance, identified


def _scaling_influence(p, log_proba, onehot, weight):
    """What every source event does to the scale and to the biases but the first."""
    left = onehot - p
    score = np.column_stack([(left * log_proba).sum(1), left[:, 1:]])
    mean = (p * log_proba).sum(1)
    n = p.shape[1]
    information = np.empty((n, n))
    information[0, 0] = weight @ ((p * log_proba**2).sum(1) - mean**2)
    cross = weight @ (p * (log_proba - mean[:, None]))
    information[0, 1:] = information[1:, 0] = cross[1:]
    information[1:, 1:] = (np.diag(weight @ p) - (p * weight[:, None]).T @ p)[1:, 1:]
    return score @ np.linalg.pinv(information)


def _sum_zero(n):
    """An orthonormal basis of the vectors whose sum is zero, of shape (n, n - 1)."""
    return np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, 1:]]))[0][:, 1:]


def _by_confusion(phi_source, onehot, w_source, phi_target, w_target, priors):
    n_classes = len(priors)
    matrix = phi_source.T @ (onehot * w_source[:, None]) / priors
    mean = w_target @ phi_target
    basis = _sum_zero(n_classes)
    inner = matrix @ basis

    def noise_of(shares):
        left = phi_target - mean
        noise = (left * (w_target**2)[:, None]).T @ left
        own = onehot @ (shares / priors)
        left = (phi_source - onehot @ matrix.T) * own[:, None]
        return noise + (left * (w_source**2)[:, None]).T @ left

    variance = np.trace(noise_of(priors)) / max(1, n_classes - 1)
    least = np.linalg.svd(inner, compute_uv=False)[-1]
    identified = bool(least > max(_TELLING * np.sqrt(variance), _ROUNDING))
    ridge = 0.0 if identified else max(np.sqrt(variance), _LEAST_RIDGE)
    system = np.vstack([matrix, ridge * np.eye(n_classes), np.full((1, n_classes), _HEAVY)])
    shares = nnls(system, np.concatenate([mean, ridge * priors, [_HEAVY]]))[0]
    shares /= shares.sum()
    inverse = np.linalg.inv(inner.T @ inner + ridge**2 * np.eye(n_classes - 1))
    if identified:
        solved = basis @ inverse @ inner.T
        covariance = solved @ noise_of(shares) @ solved.T
    else:
        # The ridge is a normal prior of the width one, where the noise has its square.
        covariance = basis @ (ridge**2 * inverse) @ basis.T
    return shares, covariance, identified
