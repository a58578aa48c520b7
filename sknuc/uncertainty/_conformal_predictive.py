r"""The distribution that calibrated residuals make of a prediction.

Model k predicts :math:`\mu_k(x)` with the scale :math:`\sigma_k(x)`; calibration event i, which
model k(i) has not seen, has the score :math:`r_i=(y_i-\mu_{k(i)}(x_i))/\sigma_{k(i)}(x_i)` and the
weight :math:`w_i`. A new event is given the atoms

.. math:: a_i(x) = \mu_{k(i)}(x) + \sigma_{k(i)}(x)\, r_i, \qquad
          p_i = \frac{w_i}{W + w(x)}, \quad W = \sum_i w_i ,

and the rest :math:`w(x)/(W+w(x))`, its own share of the ranks, lies at infinity, on whichever side
is asked for. The upper quantile at level v is the smallest atom up to which the atoms hold v: with
one model and n weights of 1 it is the :math:`\lceil v(n+1)\rceil`-th residual. Lower quantiles are
the same of mirrored atoms. "Symmetric" puts :math:`|r_i|` on both sides with half of its weight.
"""

import numpy as np
from scipy.stats import t as student

from sknuc.predictive import Predictive, QuantileFunction

__all__ = [
    "N_LEVELS",
    "ByCategory",
    "Calibration",
    "ConformalPredictive",
    "ConformalQuantiles",
    "median_range",
    "needed",
]

# Levels times weights carry rounding errors, and what is 19 of 20 must not become 20.
_ROUNDING = 1e-12
# Of the quantile function from which moments and draws are made where levels are calibrated singly.
N_LEVELS = 50
# Of the pairs of new events and calibration events in memory at a time, 2 MiB.
_ATOMS = 2**18


class Calibration:
    """What the calibration events of one category tell, apart from their scores.

    Parameters
    ----------
    weights : ndarray of shape (m,)
        Positive; of groups, the weights in each sum to 1.
    folds : ndarray of shape (m,)
        The index of the model that each event is judged by.
    n_units : float
        The number of events, or of groups where groups are exchangeable.
    unit : {"events", "groups"}
    where : str
        The category, for messages.
    weighted : bool
        Whether `n_units` is a sum of sample weights.
    """

    def __init__(self, weights, folds, n_units, unit, where, weighted):
        self.weighted = weighted
        self.weights = weights
        self.folds = folds
        self.n_units = n_units
        self.unit = unit
        self.where = where
        self.total = weights.sum()

    def found(self):
        """How much there is to calibrate with, for messages."""
        if not self.weighted:
            return f"there {'is' if self.total == 1 else 'are'} {self.total:g}"
        return (
            f"their sample_weight sums to {self.total:g}. It counts events: normalise weights with "
            "a common factor of their own to mean 1"
        )

    def upper(self, values, targets):
        """Smallest value up to which the weights reach `targets`, infinity where they do not.

        Parameters
        ----------
        values : ndarray of shape (m, t), or (n, m, t) for values that depend on the event
        targets : ndarray of shape (n,)
            Or of shape (1,), with `values` of shape (m, t), for the same of all events.

        Returns
        -------
        ndarray of shape (n, t) or (1, t)
        """
        targets = targets * (1 - _ROUNDING)
        if len(targets) == 1 and values.ndim == 2:
            values = values[None]
        if values.ndim == 2:
            order = values.argsort(0)
            cumulated = self.weights[order].cumsum(0)
            ordered = np.vstack(
                [np.take_along_axis(values, order, 0), np.full(values.shape[1:], np.inf)[None]]
            )
            return np.column_stack(
                [
                    column[np.searchsorted(reached, targets)]
                    for column, reached in zip(ordered.T, cumulated.T, strict=True)
                ]
            )
        return np.stack([self._upper(values[..., t], targets) for t in range(values.shape[2])], 1)

    def _upper(self, values, targets):
        """The same for one target, values (n, m)."""
        weights, m = self.weights, values.shape[1]
        if np.all(weights == weights[0]) and np.all(targets == targets[:1]):
            # All events ask for the same rank, which needs no sorting.
            k = max(int(np.ceil(targets[0] / weights[0])), 1)
            if k > m:
                return np.full(len(values), np.inf)
            return np.partition(values, k - 1, axis=1)[:, k - 1]
        order = values.argsort(1)
        rank = (weights[order].cumsum(1) < targets[:, None]).sum(1)
        chosen = np.take_along_axis(order, np.minimum(rank, m - 1)[:, None], 1)
        return np.where(rank < m, np.take_along_axis(values, chosen, 1)[:, 0], np.inf)


class ConformalPredictive(Predictive):
    """Conformal distributions of events of one category, with scores that do not ask for a level.

    Parameters
    ----------
    calibration : Calibration
    locations : ndarray of shape (n, k, t)
        Predictions of the k models.
    scales : ndarray of shape (n, k, t) or None
        What scores are multiplied by; None for 1.
    scores : ndarray of shape (m, t)
        Of the calibration events, with their sign.
    mass : ndarray of shape (n,) or (1,)
        The weight of each new event, w(x), or of all of them.
    symmetric : bool
    method : {"plus", "minmax"}
    tail : {"error", "infinite", "student"}
    """

    def __init__(self, calibration, locations, scales, scores, mass, *, symmetric, method, tail):
        self.calibration = calibration
        self.locations = locations
        self.scales = scales
        self.scores = scores
        self.mass = mass
        self.symmetric = symmetric
        self.method = method
        self.tail = tail
        k, folds = locations.shape[1], calibration.folds
        self.shares = np.bincount(folds, calibration.weights, k) / calibration.total

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        return _columns([self._quantile(level) for level in np.atleast_1d(levels)])

    def _quantile(self, level):
        if not self.symmetric:
            return self._one_side(level, self.locations, self.scores)
        if level == 0.5:
            return self._mean_of(self.locations)
        side = 1 if level > 0.5 else -1
        share = abs(2 * level - 1)
        end = self._end(share, side, self.locations, np.abs(self.scores), True)
        if self.locations.shape[1] == 1:
            return end
        centre = self._mean_of(self.locations)
        # Models that disagree may leave an end of low coverage on the wrong side of their mean.
        return np.maximum(end, centre) if side == 1 else np.minimum(end, centre)

    def _one_side(self, level, locations, scores):
        """The quantile from scores with their sign; at 1/2 the middle of those from both sides."""
        sides = (1, -1) if level == 0.5 else (1 if level > 0.5 else -1,)
        level = max(level, 1 - level)
        return np.mean([self._end(level, s, locations, s * scores, False) for s in sides], axis=0)

    def region(self, coverage, sizes):
        """Hyper-rectangles that hold a share of the events with all their targets, (n, 2, t).

        Parameters
        ----------
        coverage : float
        sizes : tuple of two ndarrays of shape (k, t)
            In which scores of different targets are compared; at least and at most, where they
            depend on the new event.
        """
        return self._rectangle(coverage, sizes, (self.locations,) * 2, np.abs(self.scores))

    def _rectangle(self, coverage, sizes, locations, scores):
        scores = _of_the_farthest(scores, *(size[self.calibration.folds] for size in sizes))
        ends = [
            self._end(coverage, side, where, scores, True)
            for side, where in zip((-1, 1), locations, strict=True)
        ]
        return _columns(ends)

    def _end(self, share, side, locations, scores, symmetric):
        """The end, on one side, up to which scores that count outwards hold a share."""
        calibration, scales = self.calibration, self.scales
        targets = share * (calibration.total + self.mass)
        if locations.shape[1] == 1 or self.method == "minmax":
            distances, centre = calibration.upper(scores, targets), 0.0
            if not symmetric:
                centre = calibration.upper(scores, np.array([calibration.total / 2]))
            distances = self._extend(share, distances, scores.max(0), centre, symmetric)
            moves = side * distances[:, None]
            ends = locations + (moves if scales is None else scales * moves)
            if ends.shape[1] == 1:
                return ends[:, 0]
            return ends.max(1) if side == 1 else ends.min(1)
        folds, centre = calibration.folds, side * self._mean_of(locations)
        ends, farthest = np.empty((2, *centre.shape))
        # Few events at a time: there is an atom for every pair of events.
        targets = np.broadcast_to(targets, len(ends))
        step = max(1, _ATOMS // scores.size)
        for start in range(0, len(ends), step):
            rows = slice(start, start + step)
            atoms = scores if scales is None else scales[rows, folds] * scores
            atoms = side * locations[rows, folds] + atoms
            ends[rows] = calibration.upper(atoms, targets[rows])
            farthest[rows] = atoms.max(1)
            if not symmetric and self.tail == "student":
                centre[rows] = calibration.upper(atoms, np.full(len(atoms), calibration.total / 2))
        return side * self._extend(share, ends, farthest, centre, symmetric)

    def _extend(self, share, ends, farthest, centre, symmetric):
        """Do what `tail` says where the calibration cannot support the share."""
        known = self.calibration
        if self.tail == "infinite" or not np.isinf(ends).any():
            return ends
        if self.tail == "student" and known.n_units >= 2:
            level, reached = share, known.total / (known.total + self.mass)
            if symmetric:
                level, reached = (1 + level) / 2, (1 + reached) / 2
            nu = known.n_units - 1
            # From less than a half of the distribution, no width can be told.
            with np.errstate(divide="ignore"):
                ratio = student.ppf(level, nu) / np.maximum(student.ppf(reached, nu), 0)
            beyond = centre + (farthest - centre) * ratio[:, None]
            ends = np.where(np.isinf(ends), beyond, ends)
        if not np.isfinite(ends).all():
            self._refuse(share, np.count_nonzero(~np.isfinite(ends).all(1)), symmetric)
        return ends

    def _refuse(self, share, n_infinite, symmetric):
        known = self.calibration
        if np.all(self.mass == 1):
            why = (
                f"needs at least {needed(share)} calibration {known.unit}{known.where}, but "
                f"{known.found()}. Give more of them, ask for less"
            )
        else:
            why = (
                f"has no support for {n_infinite} of {len(self.mass)} events: where they lie, the "
                f"calibration events{known.where} have too little weight. Calibrate with events "
                "there, ask for less"
            )
        what = "A coverage of" if symmetric else "A quantile at, or as far from 1 as,"
        raise ValueError(
            f"{what} {share:.6g} {why}, or set tail='infinite' for ends at infinity or "
            "tail='student' to assume how scores go on."
        )

    def _mean_of(self, values):
        return (
            values[:, 0] if len(self.shares) == 1 else np.einsum("k,nkt->nt", self.shares, values)
        )

    def _moments(self):
        """Mean over the events of each model of the score and its square, (k, t)."""
        weights, folds = self.calibration.weights / self.calibration.total, self.calibration.folds
        k = self.locations.shape[1]
        powers = [np.zeros_like(self.scores) if self.symmetric else self.scores, self.scores**2]
        return [
            np.column_stack([np.bincount(folds, weights * column, k) for column in power.T])
            for power in powers
        ]

    def mean(self):
        """Return the means, of shape (n, t)."""
        first, _ = self._moments()
        scales = np.ones(1) if self.scales is None else self.scales
        return self._mean_of(self.locations) + (scales * first[None]).sum(1)

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        first, second = self._moments()
        scales = np.ones(1) if self.scales is None else self.scales
        away = self.locations - self.mean()[:, None]
        within = (2 * away * scales * first + scales**2 * second[None]).sum(1)
        return np.sqrt(self._mean_of(away**2) + within)

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        n, _, t = self.locations.shape
        return self.draw(rng.uniform(size=(n, n_samples, t + 1)))

    def draw(self, uniform):
        """Return draws (n, t, n_samples) made of uniform numbers (n, n_samples, t + 1)."""
        cumulated = self.calibration.weights.cumsum()
        atom = np.searchsorted(cumulated, uniform[..., 0] * cumulated[-1], side="right")
        atom = np.minimum(atom, len(cumulated) - 1)
        rows, folds = np.arange(len(uniform))[:, None], self.calibration.folds[atom]
        away = self.scores[atom]
        if self.symmetric:
            away = np.where(uniform[..., 1:2] < 0.5, -away, away)
        if self.scales is not None:
            away *= self.scales[rows, folds]
        return (self.locations[rows, folds] + away).transpose(0, 2, 1)


class ConformalQuantiles(ConformalPredictive):
    """Conformal distributions made of predicted quantiles, each level calibrated by itself.

    Parameters
    ----------
    calibration, mass, symmetric, method, tail
        As of :class:`ConformalPredictive`.
    predicted : callable
        From levels (q,) to the quantiles of the new events, (n, k, q, t).
    scores : callable
        From levels (q,) to targets less quantiles of the calibration events, (m, q, t).
    shape : tuple (n, k, t)
    """

    def __init__(self, calibration, predicted, scores, shape, mass, **options):
        super().__init__(calibration, np.empty(shape), None, None, mass, **options)
        self._predicted = predicted
        self._scores = scores

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        levels = np.atleast_1d(levels)
        if not self.symmetric:
            predicted, scores = self._predicted(levels), self._scores(levels)
            return _columns(
                [
                    self._one_side(level, predicted[:, :, i], scores[:, i])
                    for i, level in enumerate(levels)
                ]
            )
        # Both ends of an interval, each the mirror of the other, shall ask for the same two levels.
        lower = np.minimum(levels, 1 - levels)
        lower = np.where(lower > 1e-6, np.round(lower, 14), lower)
        asked = np.unique(np.r_[lower, 1 - lower])
        predicted, scores = self._predicted(asked), self._scores(asked)
        at = np.searchsorted(asked, np.stack([lower, 1 - lower]))
        result = []
        for level, low, i, j in zip(levels, lower, *at, strict=True):
            if level == 0.5:
                result.append(self._mean_of(predicted[:, :, i]))
                continue
            # How far outside the predicted interval; negative inside.
            outside = np.maximum(-scores[:, i], scores[:, j])
            side, locations = (1, predicted[:, :, j]) if level > 0.5 else (-1, predicted[:, :, i])
            result.append(self._end(1 - 2 * low, side, locations, outside, True))
        return _columns(result)

    def region(self, coverage, sizes):
        """Hyper-rectangles that hold a share of the events with all their targets, (n, 2, t)."""
        levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
        predicted, scores = self._predicted(levels), self._scores(levels)
        outwards = np.maximum(-scores[:, 0], scores[:, 1])
        return self._rectangle(coverage, sizes, (predicted[:, :, 0], predicted[:, :, 1]), outwards)

    def _curve(self):
        """The quantile function of the calibrated residuals alone."""
        levels = (np.arange(N_LEVELS) + 0.5) / N_LEVELS
        mass, self.mass = self.mass, np.zeros_like(self.mass)
        try:
            values = self.quantiles(levels)
        finally:
            self.mass = mass
        # Levels that are calibrated one by one may cross.
        return QuantileFunction(levels, np.sort(values, axis=1))

    def mean(self):
        """Return the means, of shape (n, t)."""
        return self._curve().mean()

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return self._curve().std()

    def draw(self, uniform):
        """Return draws (n, t, n_samples) made of uniform numbers (n, n_samples, t + 1)."""
        return self._curve()._at(uniform[..., :-1]).transpose(0, 2, 1)


class ByCategory(Predictive):
    """Events of several categories, each with a distribution of its own.

    Parameters
    ----------
    parts : list of (rows, ConformalPredictive)
        The rows (n_i,) of each category.
    """

    def __init__(self, parts):
        self.parts = parts
        self.n_events = sum(len(rows) for rows, _ in parts)

    def _join(self, results):
        results = list(results)
        whole = np.empty((self.n_events, *results[0].shape[1:]))
        for (rows, _), result in zip(self.parts, results, strict=True):
            whole[rows] = result
        return whole

    def mean(self):
        """Return the means, of shape (n, t)."""
        return self._join(part.mean() for _, part in self.parts)

    def std(self):
        """Return the standard deviations, of shape (n, t)."""
        return self._join(part.std() for _, part in self.parts)

    def quantiles(self, levels):
        """Return the quantiles at `levels` (q,), of shape (n, q, t)."""
        return self._join(part.quantiles(levels) for _, part in self.parts)

    def region(self, coverage, sizes):
        """Return hyper-rectangles of shape (n, 2, t)."""
        return self._join(part.region(coverage, sizes) for _, part in self.parts)

    def sample(self, n_samples, rng):
        """Return draws of shape (n, t, n_samples)."""
        t = self.parts[0][1].locations.shape[2]
        # For all events at once, so that draws do not depend on the order of categories.
        uniform = rng.uniform(size=(self.n_events, n_samples, t + 1))
        return self._join(part.draw(uniform[rows]) for rows, part in self.parts)


def median_range(values, weights):
    """Between what the median of positive values lies when a further event is among them.

    Parameters
    ----------
    values : ndarray of shape (m, t)
        Zeros are left out, and so is a further event that has one.
    weights : ndarray of shape (m,)
        The further event has the weight 1.

    Returns
    -------
    least, most : ndarray of shape (1, t)
        0 where the further event alone may be the median; both, where no value is positive.
    """
    least, most = np.zeros((2, 1, values.shape[1]))
    for t, column in enumerate(values.T):
        order = column.argsort()
        order = order[column[order] > 0]
        if not len(order):
            continue
        reached = weights[order].cumsum() * (1 + _ROUNDING)
        ordered = np.append(column[order], np.inf)
        if reached[-1] > 1:
            least[0, t] = ordered[np.searchsorted(reached, (weights[order].sum() - 1) / 2)]
        most[0, t] = ordered[np.searchsorted(reached, (weights[order].sum() + 1) / 2)]
    return least, most


def _of_the_farthest(scores, least, most):
    """The score of each event's farthest target, in the size of each target, (m, t).

    Where sizes are known to lie in a range only, the largest that it may be.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        outside = np.where(scores < 0, scores / most, scores / least)
    outside[scores == 0] = 0
    result = scores.copy()
    for t in range(scores.shape[1]):
        others = np.delete(outside, t, axis=1).max(1, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            others = others * np.where(others < 0, least[:, t], most[:, t])
        # A target that was met exactly by all events has the size 0.
        result[:, t] = np.fmax(result[:, t], others)
    return result


def _columns(parts):
    """Stack arrays (n, t) to (n, q, t), which numpy.stack is slow at for one target."""
    whole = np.empty((len(parts[0]), len(parts), parts[0].shape[1]))
    for i, part in enumerate(parts):
        whole[:, i] = part
    return whole


def needed(share):
    """The least number of exchangeable events that supports a share."""
    return int(np.ceil(share / (1 - share) * (1 - _ROUNDING)))
