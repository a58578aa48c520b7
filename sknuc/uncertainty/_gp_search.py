r"""Search for hyper-parameters: quasi-Newton steps whose curvature survives a change of the data.

A marginal likelihood of n events costs :math:`O(n^3)`, so its optimum is first found on a few
events and then on more. The optima of the two are near, and their curvatures too, but for the
factor of the number of events: with the pairs :math:`(s, y)` of steps and changes of the gradient
kept, y scaled, the last and expensive search takes a few steps instead of dozens. It ends when the
expected gain :math:`\tfrac12 g^T H^{-1} g` of a further step, in nats, is small: a measure that
does not depend on the units of the parameters.

The step is that of L-BFGS; trial points at which the covariance is not positive definite have the
value infinity, and the line search backs off, which library routines do not promise to do.
"""

import math
from typing import NamedTuple

import numpy as np

__all__ = ["Optimum", "minimise"]

# Of a coordinate in one step, in the first and in later ones; a factor of 20 for a scale.
_FIRST, _LONGEST = 0.5, 3.0
_ARMIJO = 1e-4
_TRIALS = 25
_STALLED = 3


class Optimum(NamedTuple):
    """Where the search ended."""

    theta: np.ndarray
    value: float
    n_iter: int
    converged: bool
    memory: list


def minimise(evaluate, theta, bounds, *, max_iter, tol, memory=(), most_pairs=50):
    """Minimise a function of the parameters.

    Parameters
    ----------
    evaluate : callable
        ``evaluate(theta) -> (value, gradient)``; `gradient()` makes the ndarray (p,) and is
        called where a step is taken only. The value is infinite outside of the domain.
    theta : ndarray of shape (p,)
        The start.
    bounds : pair of ndarray of shape (p,)
        The least and the largest parameters, which may be infinite.
    max_iter : int
        Most steps.
    tol : float
        Expected gain of a step below which the search has converged.
    memory : sequence of pairs of ndarray
        Steps and changes of the gradient that are known from a similar function.
    most_pairs : int
        Pairs that are kept.

    Returns
    -------
    optimum : Optimum
    """
    memory = list(memory)
    value, gradient = evaluate(theta)
    if max_iter == 0 or math.isinf(value):
        return Optimum(theta, value, 0, max_iter == 0, memory)
    gradient, stalled = gradient(), 0
    for n_iter in range(max_iter):
        held = ((theta <= bounds[0]) & (gradient > 0)) | ((theta >= bounds[1]) & (gradient < 0))
        direction, informed = _direction(memory, gradient, ~held)
        slope = float(gradient @ direction)
        if not math.isfinite(slope):
            return Optimum(theta, value, n_iter, False, memory)
        if -slope / 2 <= tol:
            return Optimum(theta, value, n_iter, True, memory)
        step = min(1.0, (_LONGEST if informed else _FIRST) / np.abs(direction).max())
        for _ in range(_TRIALS):
            trial = np.clip(theta + step * direction, *bounds)
            new_value, new_gradient = evaluate(trial)
            expected = float(gradient @ (trial - theta))
            if new_value <= value + _ARMIJO * expected:
                break
            # The minimum of the parabola through both points, where the new one is finite.
            excess = new_value - value - expected
            ratio = -expected / (2 * excess) if math.isfinite(excess) else 0.1
            step *= min(max(ratio, 0.1), 0.5)
        else:
            if not informed:
                # No descent to be found even along the gradient: rounding is all that is left.
                return Optimum(theta, value, n_iter, True, memory)
            memory = []
            continue
        # Promised gains that never come are rounding errors, of a matrix that is nearly singular.
        stalled = stalled + 1 if value - new_value < tol / 10 else 0
        if stalled == _STALLED:
            return Optimum(trial, new_value, n_iter + 1, True, memory)
        new_gradient = new_gradient()
        moved, change = trial - theta, new_gradient - gradient
        theta, value, gradient = trial, new_value, new_gradient
        if _is_convex(moved, change):
            memory = [*memory[1 - most_pairs :], (moved, change)]
    return Optimum(theta, value, max_iter, False, memory)


def _is_convex(moved, change):
    return moved @ change > 1e-8 * np.linalg.norm(moved) * np.linalg.norm(change)


def _direction(memory, gradient, free):
    """The quasi-Newton step of the free parameters, by the two loops of L-BFGS.

    Held parameters do not move, so the curvature of the others alone is what counts.
    """
    direction, gradient = np.zeros_like(gradient), gradient[free]
    memory = [(moved[free], change[free]) for moved, change in memory]
    memory = [pair for pair in memory if _is_convex(*pair)]
    if not memory:
        direction[free] = -gradient
        return direction, False
    result, shares = gradient, []
    for moved, change in reversed(memory):
        shares.append((moved @ result) / (moved @ change))
        result = result - shares[-1] * change
    moved, change = memory[-1]
    result = result * ((moved @ change) / (change @ change))
    for (moved, change), share in zip(memory, reversed(shares), strict=True):
        result = result + (share - (change @ result) / (moved @ change)) * moved
    direction[free] = -result
    return direction, True
