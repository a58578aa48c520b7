r"""Probabilities made right on events that the classifier has not seen.

*Bias-corrected temperature scaling*, with a scale :math:`a \geq 0` and a bias for every class,

.. math:: p(y \mid x) \propto e^{a \ln f_y(x) + b_y},

of the largest likelihood; of two classes, a sigmoid of the log-odds. The biases make the mean
probability of every class its share of the events, whatever the classifier: what is inferred from
mean probabilities has no bias from there. Where classes are told apart without fail, the likelihood
grows with a for ever: a normal prior on a, of mean and width 1, ends that. It weighs as much as one
event or so.

A classifier with too many or too few events of one kind may say 0 or 1. After N events of one kind,
and none of another, odds are at most N + 1 (the rule of succession), and no probability says more.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import log_expit, log_softmax, logit
from sklearn.isotonic import IsotonicRegression

from sknuc.adaptation._crossfit import class_probabilities, fit_folds, out_of_fold, takes_weights

__all__ = ["CrossFittedOdds", "Scaling", "fit_scaling", "scale_probabilities"]

_MOST_STEPS = 100


class Scaling(NamedTuple):
    """Bias-corrected temperature scaling."""

    #: Of log-probabilities, the inverse temperature.
    scale: float
    #: Of every class, that of the first one 0.
    bias: np.ndarray
    #: What stands for a probability of zero.
    floor: float

    def log(self, proba):
        """Logarithms of probabilities before they are calibrated."""
        return np.log(np.maximum(proba, self.floor))

    def log_proba(self, proba):
        """Calibrated log-probabilities of shape (..., n_classes)."""
        return log_softmax(self.scale * self.log(proba) + self.bias, axis=-1)


def scale_probabilities(proba, codes, weight, *, fitted=True):
    """Return the :class:`Scaling` of probabilities, see :func:`fit_scaling`; the identity if not.

    A probability of zero counts as the smallest that is not, or as small as events can tell.
    """
    floor = float(min(proba[proba > 0].min(), 1 / (weight.sum() + proba.shape[1])))
    scale, bias = 1.0, np.zeros(proba.shape[1])
    if fitted:
        scale, bias = fit_scaling(np.log(np.maximum(proba, floor)), codes, weight)
    return Scaling(scale, bias, floor)


def fit_scaling(log_proba, codes, weight):
    """Fit the scale and the biases by the likelihood.

    Parameters
    ----------
    log_proba : ndarray of shape (n_events, n_classes)
        Of events that the classifier has not seen.
    codes : ndarray of int of shape (n_events,)
        Their classes.
    weight : ndarray of shape (n_events,)
        Positive; the sum is the number of events against which the prior weighs.

    Returns
    -------
    scale : float
    bias : ndarray of shape (n_classes,)
    """
    n_classes = log_proba.shape[1]
    share = np.bincount(codes, weights=weight, minlength=n_classes) / weight.sum()
    # Without a scale, what is left is how frequent classes are; one without events stays rare.
    frequent = np.log(np.maximum(share, 1 / (weight.sum() + n_classes)))
    onehot = np.eye(n_classes)[codes]

    def loss(theta):
        log_p = log_softmax(theta[0] * log_proba + np.append(0, theta[1:]), axis=1)
        likelihood = weight @ np.take_along_axis(log_p, codes[:, None], axis=1)[:, 0]
        return (theta[0] - 1) ** 2 / 2 - likelihood, np.exp(log_p)

    theta = np.append(1.0, np.zeros(n_classes - 1))
    value, p = loss(theta)
    for _ in range(_MOST_STEPS):
        left = p - onehot
        gradient = np.append(theta[0] - 1 + weight @ (left * log_proba).sum(1), (weight @ left)[1:])
        # Second derivatives: covariances of (log f, class) under p, summed over events.
        mean = (p * log_proba).sum(1)
        cross = weight @ (p * (log_proba - mean[:, None]))
        hessian = np.empty((n_classes, n_classes))
        hessian[0, 0] = 1 + weight @ ((p * log_proba**2).sum(1) - mean**2)
        hessian[0, 1:] = hessian[1:, 0] = cross[1:]
        hessian[1:, 1:] = (np.diag(weight @ p) - (p * weight[:, None]).T @ p)[1:, 1:]
        hessian[np.diag_indices(n_classes)] += 1e-9
        step = np.linalg.solve(hessian, gradient)
        decrement = gradient @ step
        if decrement < 1e-16 * max(1.0, weight.sum()):
            break
        length = 1.0
        while length > 1e-10:
            new_value, new_p = loss(theta - length * step)
            if new_value <= value - 1e-4 * length * decrement:
                break
            length /= 2
        else:
            # No better to the last bit.
            break
        theta, value, p = theta - length * step, new_value, new_p
    if theta[0] < 0:
        # Worse than guessing: the likelihood is convex, so that the best scale allowed is zero.
        return 0.0, frequent - frequent[0]
    return float(theta[0]), np.append(0, theta[1:])


class CrossFittedOdds:
    """Calibrated log-odds of label 1 against 0, from models that have not seen a fold each.

    Parameters
    ----------
    estimator : classifier
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of int of shape (n_rows,)
        0 and 1.
    weight : ndarray of shape (n_rows,)
        Positive.
    shares : ndarray of shape (n_folds, n_rows)
        Which share of a row is in which fold.
    rng : RandomState instance
    calibration : {"sigmoid", "isotonic"} or None
    balanced : bool, default=False
        Odds for labels that are equally frequent, instead of as frequent as here.
    n_jobs : int or None, default=None
    """

    def __init__(
        self, estimator, X, y, weight, shares, rng, *, calibration, balanced=False, n_jobs=None
    ):
        self.models = fit_folds(
            estimator, X, y, weight, shares, rng, balanced=balanced, n_jobs=n_jobs
        )
        total = np.bincount(y, weights=weight)
        # A model without weights says the odds of its events.
        seen = balanced and not takes_weights(estimator)
        self._offset = np.log(total[1] / total[0]) if seen else 0.0
        if balanced:
            weight = weight / total[y]
        n_effective = weight.sum() ** 2 / (weight**2).sum()
        self._n_events = n_effective
        weight = weight * (n_effective / weight.sum())
        self._largest = np.inf
        parts = [
            (self._raw(k, X[rows]), y[rows], weight[rows] * share)
            for k, (rows, share) in enumerate(out_of_fold(shares))
        ]
        # What stands for infinite log-odds: the largest that are not, or what events can tell.
        raw = np.abs(np.concatenate([part[0] for part in parts]))
        self._largest = max(np.max(raw, where=np.isfinite(raw), initial=0), self._limit())
        parts = [(np.clip(raw, -self._largest, self._largest), *rest) for raw, *rest in parts]
        self.calibrators = [
            self._calibrator(calibration, *map(np.concatenate, zip(*others, strict=True)))
            for others in ([p for j, p in enumerate(parts) if j != k] for k in range(len(parts)))
        ]

    def log_odds(self, k, X):
        """Calibrated log-odds of events by the model that has not seen fold `k`."""
        raw, calibrator = self._raw(k, X), self.calibrators[k]
        if isinstance(calibrator, tuple):
            scale, bias = calibrator
            return self._limited(scale * raw + bias[1])
        return self._limited(raw if calibrator is None else logit(calibrator.predict(raw)))

    def _raw(self, k, X):
        if not len(X):
            # A fold may have none of the events of a domain.
            return np.empty(0)
        p = class_probabilities(self.models[k], X, 2)
        with np.errstate(divide="ignore"):
            raw = np.log(p[:, 1]) - np.log(p[:, 0]) - self._offset
        return np.clip(raw, -self._largest, self._largest)

    def _limit(self):
        return float(np.log(self._n_events + 1))

    def _limited(self, log_odds):
        return np.clip(log_odds, -self._limit(), self._limit())

    def _calibrator(self, kind, raw, y, weight):
        if kind is None:
            return None
        if kind == "isotonic":
            return _rising(raw, y, weight)
        return fit_scaling(log_expit(np.column_stack([-raw, raw])), y, weight)


def _rising(raw, y, weight):
    """Isotonic regression, of which an end with events of one kind is sure as these are many."""
    rising = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    level, block = np.unique(rising.fit(raw, y, weight).predict(raw), return_inverse=True)
    n_events = np.bincount(block, weights=weight)
    # One event at an end would have the odds 1:0 else, and thereby all the weight that there is.
    pure = (level == 0) | (level == 1)
    level = np.where(pure, (n_events * level + 1) / (n_events + 2), level)
    return rising.fit(raw, level[block], weight)
