r"""The smallest inverse problem with two answers, and its exact posterior.

A cause x, uniform in (-1, 1), is observed as :math:`y = x^2 + \sigma\varepsilon`. Which x made an
observed y? Both :math:`\sqrt y` and :math:`-\sqrt y`: the posterior

.. math::

    p(x \mid y) = \frac{\exp[-(y - x^2)^2 / 2\sigma^2]}{2 I(1)}, \qquad
    I(a) = \int_0^a \exp[-(y - t^2)^2 / 2\sigma^2]\, dt,

has two modes, its mean is 0, where it is least likely, and no Gaussian describes it. Theories with
symmetric parameters have such posteriors.

The integrals are Gauss-Legendre sums over the part of (0, 1) where the density is more than
:math:`e^{-40}` of its maximum. There the integrand is a smooth peak over some 20 of its widths or
less, so that 64 nodes give all digits. They run over the distance :math:`\delta = t - a` from the
maximum, at :math:`a^2 = c`, the value in [0, 1] that is closest to y: for an observation far above
1 the peak ends at 1 and may be narrower than the spacing of floating-point numbers there. With
:math:`d = y - c` and :math:`q = t^2 - c = \delta (2a + \delta)` the exponent above that of the
maximum, :math:`q (2d - q) / 2\sigma^2`, has no differences of close numbers.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params

from sknuc.datasets._draws import spawn_streams
from sknuc.datasets._exact import check_draws, check_events, check_levels

__all__ = ["InversePosterior", "make_inverse_problem"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)

# Exponent below that of the maximum where the density is taken for zero.
_DEPTH = 40.0

# Values that are integrated at once: their nodes fill 64 MB.
_BLOCK = 2**17

# Newton's method with bisection doubles the digits of a quantile in most steps; bisection alone
# would be done after as many.
_MAX_STEPS = 60

_DESCR = """\
The two-valued inverse problem
------------------------------
x is uniform in (-1, 1) and y = x^2 + noise * N(0, 1). The feature is y and the target is x, which
has two likely values for each y > 0. With noise = 0.05 the least expected negative log-likelihood
is -0.887, and +0.562 for one Gaussian per y (computed). 'conditional' is the exact posterior.
"""


class _Peak(NamedTuple):
    """Of each event the maximum of the density in (0, 1), and distances from it."""

    at: np.ndarray
    beyond: np.ndarray  # y less the value in [0, 1] that is closest to it
    low: np.ndarray  # ends of what is not negligible
    high: np.ndarray


class InversePosterior:
    """The exact distribution of x given y = x^2 + noise * N(0, 1), with x uniform in (-1, 1).

    It is exact but for the rounding of x: from one floating-point number to the next, the
    distribution function rises by the density times their distance, up to 1e-16. That is 2e-8 at
    most for noise of 1e-8 and observations in (0, 1). For observations y > 1, it is
    (y - 1) / noise^2 times 1e-16, so that samples and quantiles may all be 1.

    Parameters
    ----------
    noise : float
        Standard deviation of the noise, in [1e-8, 1e8].
    """

    def __init__(self, noise):
        self.noise = noise

    def log_prob(self, X, y):
        """Return the log density of targets y given X, of shape (n_events,).

        Parameters
        ----------
        X : array-like of shape (n_events, 1)
            The observations.
        y : array-like of shape (n_events,)
            The causes; the density is zero outside of (-1, 1).
        """
        X, y = check_events("InversePosterior.log_prob", 1, 1, X, y)
        peak, x = self._peak(X[:, 0]), np.abs(y[:, 0])
        log_density = self._exponent(peak, x - peak.at) - np.log(2 * self._integral(peak)[0])
        return np.where(x < 1, log_density, -np.inf)

    def cdf(self, X, y):
        """Return the distribution function at targets y given X, of shape (n_events,)."""
        X, y = check_events("InversePosterior.cdf", 1, 1, X, y)
        peak, x = self._peak(X[:, 0]), y[:, 0]
        upper = np.where(np.abs(x) < 1, np.abs(x) - peak.at, np.inf)
        share = self._integral(peak, upper)[0] / self._integral(peak)[0]
        return 0.5 * (1 + np.sign(x) * share)

    def quantiles(self, X, levels):
        """Return the quantiles of the target.

        Parameters
        ----------
        X : array-like of shape (n_events, 1)
        levels : float or array-like of shape (n_levels,)
            In (0, 1).

        Returns
        -------
        quantiles : ndarray of shape (n_events, n_levels)
            Of a single level, without the axis of levels.
        """
        X = check_events("InversePosterior.quantiles", 1, 1, X)
        checked = check_levels("InversePosterior.quantiles", levels)
        result = self._quantiles(X, np.broadcast_to(checked, (len(X), len(checked))))
        return result[:, 0] if np.ndim(levels) == 0 else result

    def sample(self, X, n_samples=1, random_state=None):
        """Draw targets.

        Parameters
        ----------
        X : array-like of shape (n_events, 1)
        n_samples : int, default=1
            Draws per event.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        samples : ndarray of shape (n_events, n_samples)
        """
        X = check_events("InversePosterior.sample", 1, 1, X)
        rng = check_draws("InversePosterior.sample", n_samples, random_state)
        return self._quantiles(X, rng.uniform(size=(len(X), n_samples)))

    def mean(self, X):
        """Return the means of the target, of shape (n_events,): zero, by symmetry."""
        return np.zeros(len(check_events("InversePosterior.mean", 1, 1, X)))

    def std(self, X):
        """Return the standard deviations of the target, of shape (n_events,)."""
        observed = check_events("InversePosterior.std", 1, 1, X)[:, 0]
        mass, second_moment = self._integral(self._peak(observed))
        return np.sqrt(second_moment / mass)

    def _peak(self, observed):
        """Return where the density is largest in (0, 1), and where it is not negligible."""
        closest = np.clip(observed, 0, 1)
        beyond = observed - closest
        # Where q (2d - q) = -reach, solved for the end that is not y's own.
        reach = 2 * _DEPTH * self.noise**2
        bound = reach / (np.hypot(beyond, np.sqrt(reach)) + np.abs(beyond))
        low, high = np.maximum(-bound, -closest), np.minimum(bound, 1 - closest)
        at = np.sqrt(closest)

        def distance(q):
            # The root of closest + q less that of closest.
            roots = np.sqrt(np.maximum(closest + q, 0)) + at
            return np.divide(q, roots, out=np.zeros_like(q), where=roots > 0)

        return _Peak(at, beyond, distance(low), distance(high))

    def _exponent(self, peak, distance):
        """Return the exponent of the density above that of its maximum."""
        q = distance * (2 * peak.at + distance)
        return q * (2 * peak.beyond - q) / (2 * self.noise**2)

    def _integral(self, peak, upper=None):
        """Return integrals of the density and of x^2 times it, from 0 to `upper`, blockwise.

        The density is one at its maximum, from which `upper` is measured. None integrates up to 1.
        """
        sums = np.empty((2, len(peak.at)))
        for start in range(0, len(peak.at), _BLOCK):
            block = slice(start, start + _BLOCK)
            part = _Peak(*(values[block, None] for values in peak))
            high = part.high
            if upper is not None:
                high = np.clip(upper[block, None], part.low, high)
            half = (high - part.low) / 2
            distance = part.low + half * (1 + _NODES)
            density = np.exp(self._exponent(part, distance))
            sums[0, block] = half[:, 0] * (density @ _WEIGHTS)
            sums[1, block] = half[:, 0] * ((density * (part.at + distance) ** 2) @ _WEIGHTS)
        return sums

    def _quantiles(self, X, levels):
        """Return the quantiles at `levels` (n_events, k), each event's own."""
        shape = levels.shape
        peak = self._peak(X[:, 0])
        mass = np.repeat(self._integral(peak)[0], shape[1])
        peak = _Peak(*(np.repeat(values, shape[1]) for values in peak))
        levels = levels.ravel()
        # |x| has the level |2 level - 1|: half of the probability lies on each side of 0.
        wanted = np.abs(2 * levels - 1) * mass
        low, high = peak.low.copy(), peak.high.copy()
        distance, enough = (low + high) / 2, 1e-14 * (high - low)
        todo = np.arange(len(distance))
        for _ in range(_MAX_STEPS):
            part, at = _Peak(*(values[todo] for values in peak)), distance[todo]
            excess = self._integral(part, at)[0] - wanted[todo]
            is_above = excess > 0
            high[todo[is_above]] = at[is_above]
            low[todo[~is_above]] = at[~is_above]
            step = at - excess / np.exp(np.maximum(self._exponent(part, at), -_DEPTH))
            a, b = low[todo], high[todo]
            step = np.where((step >= a) & (step <= b), step, (a + b) / 2)
            distance[todo] = step
            todo = todo[np.abs(step - at) > enough[todo]]
            if not len(todo):
                break
        return (np.sign(levels - 0.5) * (peak.at + distance)).reshape(shape)


@validate_params(
    {
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "noise": [Interval(Real, 1e-8, 1e8, closed="both")],
        "return_X_y": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_inverse_problem(n_samples=1000, *, noise=0.05, return_X_y=False, random_state=None):
    r"""Draw observations :math:`y = x^2 + \sigma\varepsilon` of which x is to be inferred.

    x is uniform in (-1, 1). The feature is the observation y and the target is x: for each
    observation there are two likely values, :math:`\pm\sqrt y`.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of events.
    noise : float, default=0.05
        sigma, in [1e-8, 1e8]. Events have 32 bits: below some 1e-6, their rounding shows.
    return_X_y : bool, default=False
        Return ``(data, target)`` only.
    random_state : int, RandomState instance or None, default=None
        Seed of the events.

    Returns
    -------
    events : :class:`~sklearn.utils.Bunch`
        data : float32 ndarray of shape (n_samples, 1)
            The observations.
        target : float32 ndarray of shape (n_samples,)
            The values x.
        feature_names, target_names : list of str
            ``["y"]`` and ``["x"]``.
        conditional : InversePosterior
            The exact distribution of the target given data: ``log_prob(X, y)``, ``cdf(X, y)``,
            ``quantiles(X, levels)``, ``sample(X, n_samples, rng)``, ``mean(X)`` and ``std(X)``.
        DESCR : str
            Description.
    (data, target) : tuple if ``return_X_y=True``

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    .. [1] C. M. Bishop, "Mixture density networks", Aston University NCRG/94/004 (1994).

    Examples
    --------
    >>> from sknuc.datasets import make_inverse_problem
    >>> events = make_inverse_problem(5, random_state=0)
    >>> events.data.shape, events.target.shape
    ((5, 1), (5,))
    >>> events.conditional.quantiles([[0.25]], [0.25, 0.75]).round(3)
    array([[-0.495,  0.495]])
    """
    rng, _ = spawn_streams(random_state, n_samples, n_samples)
    target = rng.uniform(-1, 1, n_samples)
    data = (target**2 + noise * rng.standard_normal(n_samples))[:, None]
    data, target = data.astype(np.float32), target.astype(np.float32)
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        feature_names=["y"],
        target_names=["x"],
        conditional=InversePosterior(float(noise)),
        DESCR=_DESCR,
    )
