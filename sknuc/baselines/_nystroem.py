r"""Support vector machines on the Nyström features of a kernel, trained in the primal.

Nyström's method [1]_ replaces a kernel by the inner product of :math:`m` features
:math:`\phi(x)=K_{mm}^{-1/2}k_m(x)`, exact on the :math:`m` landmarks. The machine
:math:`f(x)=w\cdot\phi(x)+b` minimises

.. math:: \tfrac12\lVert w\rVert^2 + C\sum_i c_i\,\xi_i^2,

with the slack :math:`\xi=\max(0,1-sf)` of a class :math:`s=\pm1`, or
:math:`\xi=\max(0,|y-f|-\epsilon)` of a target. The squares make the objective smooth, and piecewise
quadratic, so that Newton's method [2]_ ends after some ten steps at the exact optimum. Each step is
a ridge regression on the events with slack, of cost :math:`n m^2`, and takes memory
:math:`O(m^2)` besides the features, which are made again block by block where there are too many.
"""

import warnings

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem

from sknuc.base import levels_to_user

__all__ = ["NystroemMachine"]

# Features of all events are kept between Newton steps up to this size.
CACHE_BYTES = 2**29
BLOCK_EVENTS = 4096


class NystroemMachine:
    """A linear support vector machine on Nyström features.

    Parameters
    ----------
    n_landmarks : int
        The number of landmarks, drawn from the training events without replacement.
    C : float
        The price of slack.
    epsilon : float or None
        The half-width of the tube in which a target has no slack; None for classes.
    tol : float
        The relative size of the gradient at which Newton's method ends.
    max_iter : int
        The largest number of Newton steps.
    random_state : int
        The seed of the landmarks.
    **kernel : dict
        `kernel`, `gamma`, `degree` and `coef0` as :class:`sklearn.kernel_approximation.Nystroem`
        takes them.

    Attributes
    ----------
    feature_map_ : Nystroem
        Its ``components_`` are the landmarks.
    coef_ : ndarray of shape (n_outputs, n_landmarks)
    intercept_ : ndarray of shape (n_outputs,)
    n_iter_ : ndarray of shape (n_outputs,)
    """

    def __init__(
        self, *, n_landmarks, C, epsilon=None, tol=1e-6, max_iter=100, random_state, **kernel
    ):
        self.n_landmarks = n_landmarks
        self.C = C
        self.epsilon = epsilon
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state
        self.kernel = kernel

    def fit(self, X, Y, weight):
        """Train one machine for every column of `Y` (n, n_outputs): targets, or signs ±1.

        An event of sign 0 belongs to neither class, and is left out.
        """
        self.feature_map_ = Nystroem(
            n_components=min(self.n_landmarks, len(X)),
            random_state=self.random_state,
            **self.kernel,
        ).fit(X)
        n_landmarks = len(self.feature_map_.components_)
        cached = None
        if 8 * len(X) * n_landmarks <= CACHE_BYTES:
            cached = list(self._blocks(X))
        solutions = [
            self._newton(cached or X, y, self.C * weight, n_landmarks + 1)
            for y in np.ascontiguousarray(Y.T)
        ]
        self.coef_ = np.array([w[:-1] for w, _ in solutions])
        self.intercept_ = np.array([w[-1] for w, _ in solutions])
        self.n_iter_ = np.array([n for _, n in solutions])
        return self

    def decision_function(self, X):
        """Return :math:`f(x)` with shape (n, n_outputs)."""
        coef = np.column_stack([self.coef_, self.intercept_]).T
        return np.concatenate([features @ coef for features in self._blocks(X)])

    def _blocks(self, X):
        """Yield the features of blocks of events, with a last column of ones."""
        for start in range(0, len(X), BLOCK_EVENTS):
            features = self.feature_map_.transform(X[start : start + BLOCK_EVENTS])
            yield np.column_stack([features, np.ones(len(features))])

    def _slack(self, f, y):
        """Return the signed distance of `f` to where its slack ends, 0 without slack."""
        if self.epsilon is None:
            return np.where((y * f < 1) & (y != 0), f - y, 0.0)
        error = f - y
        return np.sign(error) * np.maximum(np.abs(error) - self.epsilon, 0)

    def _newton(self, events, y, cost, n_weights):
        """Minimise the objective for one output; return the weights and the number of steps."""
        blocks = (lambda: events) if isinstance(events, list) else (lambda: self._blocks(events))
        penalty = np.ones(n_weights)
        penalty[-1] = 0
        w, f = np.zeros(n_weights), np.zeros(len(y))

        def objective(w, f):
            return 0.5 * w @ (penalty * w) + cost @ self._slack(f, y) ** 2

        value, first_gradient = objective(w, f), None
        for n_iter in range(1, self.max_iter + 1):
            slack = self._slack(f, y)
            gradient, hessian, start = penalty * w, np.diag(penalty), 0
            for features in blocks():
                rows = slice(start, start + len(features))
                start += len(features)
                active = slack[rows] != 0
                phi, c = features[active], cost[rows][active]
                gradient += 2 * phi.T @ (c * slack[rows][active])
                hessian += 2 * (phi.T * c) @ phi
            size = np.abs(gradient).max()
            first_gradient = first_gradient or size
            if size <= self.tol * first_gradient:
                break
            step = _solve(hessian, -gradient)
            df = np.concatenate([features @ step for features in blocks()])
            # The full step is exact unless it changes which events have slack.
            length, slope = 1.0, gradient @ step
            while (new := objective(w + length * step, f + length * df)) > (
                value + 1e-4 * length * slope
            ):
                length /= 2
                if length < 1e-10:
                    return w, n_iter
            w, f, value = w + length * step, f + length * df, new
        else:
            warnings.warn(
                f"Newton's method has not converged in {self.max_iter} steps; the gradient fell to "
                f"{size / first_gradient:.1e} of its first value. Lower C, or scale the weights.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )
        return w, n_iter


def _solve(hessian, gradient):
    """Solve a Newton step; the Hessian is singular when no event with slack fixes the intercept."""
    try:
        return cho_solve(cho_factor(hessian), gradient)
    except LinAlgError:
        return lstsq(hessian, gradient)[0]
