r"""What all samplers share: conditions, columns, blocks of events.

A sampler learns :math:`p(x)`, or :math:`p(x|y)` if `fit` is given y, and draws events from it. A
method adds a network from normal noise (and a condition) to an event, and how it is trained; all
else is here, so that all of them speak of the same events.

Normal noise is drawn event after event, the same number for each, and the network is applied to a
number of them that does not depend on blocks, so that `random_state` gives the same events, to the
last bit, whatever the size of the blocks in which they are made.
"""

import warnings
from numbers import Integral

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from tqdm.auto import tqdm

from sknuc.base import levels_to_user, validate_weights
from sknuc.exceptions import TrainingDivergedError
from sknuc.multiplicity import row_uniforms
from sknuc.samplers._columns import MOST_LEVELS, Columns, are_copies
from sknuc.samplers._conditions import Conditions
from sknuc.samplers._marginals import ConditionalColumns, Laws
from sknuc.torch_estimator import TorchEstimator

__all__ = ["Sampler"]

# From so many columns on it pays to learn their laws first.
_MANY_COLUMNS = 32
# Parameters of the training that its laws share.
_OF_THE_TRAINING = ("batch_size", "device", "mixed_precision", "random_state", "verbose")
# Numbers of events, noise and activations in memory at a time: 16 MiB, of which some copies exist.
_BLOCK_NUMBERS = 2**22
# The network is applied to so many events at a time, whatever the blocks: how sums round depends on
# their number, and events of a seed shall be the same to the last bit.
_TILE_EVENTS, _TILE_NUMBERS = 4096, 2**22

# A mean over the conditions at distances h of a Gaussian of width s, whose conditions these are,
# sees 2 √π s/h of them, and is off by 2 exp(-2 π² s²/h²): by 6 % with this many.
_FEWEST_POSSIBLE = 1.5
# Of fewer events no method learns more than these events. Those of a class may be fewer: it has the
# network in common with the others, and needs a width only.
_FEWEST_EVENTS, _FEWEST_OF_CLASS = 10, 3


class Sampler(TorchEstimator):
    """Base class of the samplers.

    Subclasses define ``_build``, ``_players``, ``_n_noise`` and ``_generate``; those with a density
    ``_log_density`` as well.

    Parameters
    ----------
    condition : {"auto", "classes", "continuous"} or None, default="auto"
        What y is: classes, of which each is a part of its own, or numbers, between which the model
        interpolates. "auto": numbers if they are of a floating-point type. None: no condition;
        ``fit`` and ``score`` do not read y, which a Pipeline and a search pass to all their steps.
    bounds : dict, tuple or None, default=None
        Physical bounds ``{column: (low, high)}`` by number or name of the column, each end a number
        or None; ``(0, None)`` for all columns. No event is ever generated beyond. Values at a bound
        itself are generated as often as they were there.
    discrete : "auto", list or None, default="auto"
        Columns whose values are the only ones possible: classes, counts. "auto" takes those of an
        integer type of tables (all of an array, or some of a data frame); of more than 100 values
        they are rounded numbers, and so are the integers of signals and images that have more than
        100 values in all. In densities, a value that the fit did not see is an error in
        columns that are named here, and has else the probability of half an event.
    atoms : "auto", dict or None, default="auto"
        Values ``{column: values}`` that many events have exactly, among others that vary: an
        energy of 0 where nothing was deposited. "auto" finds those that more than 1 % share, of
        rounded integers 1 % more than their neighbours and what continues them smoothly.
    periodic : dict or None, default=None
        Period ``{column: period}`` of columns that are angles. They are continuous, and generated
        around 0, or from the lower end of `bounds` on.
    marginals : "auto" or bool, default="auto"
        Learn first the law of every column given the conditions, atoms included, by a spline whose
        knots depend on them, and then how columns that are normal by it hang together. It takes
        tables and conditions. "auto" does so for more than 32 columns some of which have atoms, and
        none more than 100 discrete values: for voxels, whose thresholds and shares of zeros depend
        on the energy. The laws are learnt from all events, with those that `early_stopping` holds
        out of the training that follows, so that its validation is not blind to them.
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "condition": [StrOptions({"auto", "classes", "continuous"}), None],
        "bounds": [dict, "array-like", None],
        "discrete": [StrOptions({"auto"}), "array-like", None],
        "atoms": [StrOptions({"auto"}), dict, None],
        "periodic": [dict, None],
        "marginals": [StrOptions({"auto"}), "boolean"],
    }

    # Columns are standardised in any case, and are others in another fit.
    _without = ("standardize", "warm_start")
    _slot = "sampler_parameters"

    # Whether the network knows what an angle is.
    _circles = False

    def __init__(
        self,
        *,
        condition="auto",
        bounds=None,
        discrete="auto",
        atoms="auto",
        periodic=None,
        marginals="auto",
        **shared,
    ):
        super().__init__(**shared)
        self.condition = condition
        self.bounds = bounds
        self.discrete = discrete
        self.atoms = atoms
        self.periodic = periodic
        self.marginals = marginals

    # For the methods to define.

    def _n_noise(self):
        """How many normal numbers one event is made of."""
        raise NotImplementedError

    def _generate(self, noise, condition):
        """Make variables (n, n_variables) of noise (n, n_noise) and conditions (n, n_conditions).

        All are tensors on the device of the module; the condition is None if there is none.
        """
        raise NotImplementedError

    def _log_density(self, z, condition):
        """Log density (n,) of variables (n, n_variables)."""
        raise NotImplementedError

    def _by_channel(self):
        """Whether the network reads signals and images, whose variables keep their places."""
        return len(self.input_shape_) > 1

    def _channel_axis(self):
        """The axis of signals and images that counts channels, as the encoder reads them."""
        if self._padding_axis() is not None:
            raise ValueError(
                f"The 'encoder' parameter of {type(self).__name__} must read events of one size. "
                f"{type(self.encoder).__name__} takes rows of zeros for padding, and how many "
                "there are is not generated."
            )
        return super()._channel_axis()

    def _numbers_per_event(self):
        """How many numbers the network holds per event, which sets the size of blocks."""
        return 20 * (self._columns.n_variables + self._n_noise())

    def _block_length(self):
        """How many events are made at a time."""
        return max(1, _BLOCK_NUMBERS // self._numbers_per_event())

    def _tile_length(self, n_samples):
        """How many events the network makes at once: a power of two, all of a few events."""
        # Parameters of numpy's integer types make integers of these, which have no bit_length.
        most = max(1, int(min(_TILE_EVENTS, _TILE_NUMBERS // self._numbers_per_event())))
        return 2 ** min(most.bit_length() - 1, (int(n_samples) - 1).bit_length())

    def _make_columns(self):
        """From events to variables; another one for events that are modelled as they are."""
        return Columns(
            bounds=self.bounds,
            discrete=self.discrete,
            atoms=self.atoms,
            periodic=self.periodic,
            circles=self._circles,
            by_channel=self._by_channel(),
            channel_axis=self._channel_axis(),
        )

    def _wants_marginals(self):
        """Whether columns become normal by laws that depend on conditions."""
        columns, wanted = self._columns, self.marginals
        possible = isinstance(columns, Columns) and self._conditions is not None
        # Not `_by_channel`: a method may flatten images, but they are no tables.
        possible &= len(self.input_shape_) == 1
        possible = possible and not len(columns.rounded) and not columns.period.any()
        if not isinstance(wanted, str) and wanted and not possible:
            raise ValueError(
                f"The 'marginals' parameter of {type(self).__name__} must be 'auto' or False "
                "without conditions, for signals, images, hits and counts, and for tables with "
                "angles or integers of more than 100 values. Got True."
            )
        if isinstance(wanted, str):
            if not possible or columns.n_columns <= _MANY_COLUMNS or not columns.marks:
                return False
            # Every column has as many probabilities as that of the most values.
            several = [*columns.levels.values(), *columns.marks.values()]
            return all(len(part.values) <= MOST_LEVELS for part in several)
        return wanted

    def _own_columns(self, X):
        """What else a loss asks of each event: arrays by name, of shape (n, ...)."""
        return {}

    # Fit.

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Learn the distribution of events.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_conditions), or None, default=None
            What events depend on: a class, an energy, an angle. None, or ``condition=None``, learns
            the distribution of all events.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights of the events. If all are whole numbers, an event is there so many
            times, and a value of one of many copies is an atom. Else, as of luminosities, it is one
            event, however much it counts. Copies draw noise of their own, where a method needs
            some: fits to them and to weights are then the same in distribution, not to the bit.

        Returns
        -------
        self : sampler

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, a value is out of bounds, parameters do
            not fit the columns, or labels are missing, of several types or several columns.
        TrainingDivergedError
            If the loss becomes NaN or infinite.

        Warns
        -----
        UserWarning
            If there are fewer than 10 events in all, or 3 of a class. If nothing varies, or in
            tables one of the columns.
        """
        given, integer = X, _integer_columns(X)
        X = np.asarray(self._validate_events(X, reset=True))
        # Lists of lists have as many dimensions as the array that they are.
        self._event_ndim = (given if hasattr(given, "ndim") else np.asarray(given)).ndim - 1
        X = X.reshape(len(X), -1)
        sample_weight = validate_weights(sample_weight, X)
        y = None if self.condition is None else y
        if y is not None:
            check_consistent_length(X, y)
        if sample_weight is not None and not sample_weight.all():
            # They are not there, and neither are their values.
            used = sample_weight != 0
            X, sample_weight = X[used], sample_weight[used]
            y = None if y is None else np.asarray(y)[used]
        self._start_anew()
        for name in ("classes_", "condition_"):
            self.__dict__.pop(name, None)
        if len(X) < 2:
            raise ValueError(
                f"{type(self).__name__} needs 2 events of positive weight at least. Got "
                f"n_samples={len(X)}: no distribution can be learnt from 1 sample."
            )
        names = getattr(self, "feature_names_in_", None)
        self._output_dtype = np.float32 if X.dtype == np.float32 else np.float64
        self._columns = self._make_columns().fit(
            X,
            self.input_shape_,
            integer=np.broadcast_to(integer, X.shape[1:]),
            names=names,
            sample_weight=sample_weight,
        )
        columns = self._own_columns(X)
        self._conditions = None
        if self.condition is None:
            self.condition_ = None
        if y is not None:
            self._conditions = Conditions(self.condition).fit(y, sample_weight)
            columns["condition"] = self._conditions.encode(y)
            self.condition_ = "continuous"
            if self._conditions.classes is not None:
                self.condition_, self.classes_ = "classes", self._conditions.classes
        if self._wants_marginals():
            shared = {name: getattr(self, name) for name in _OF_THE_TRAINING}
            self._columns = ConditionalColumns(self._columns, Laws(**shared))
            try:
                self._columns.fit(X, columns["condition"], sample_weight)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(
                    "The laws of the columns, which are learnt first, diverged. Set "
                    "marginals=False to do without them, and look for outliers in X and y."
                ) from error
        z, low, high = self._columns.encode(X, self._output_dtype, columns.get("condition"))
        if low.shape[1]:
            columns["low"], columns["high"] = low, high
        self._fit_variables(z, columns, sample_weight)
        # Where something is wrong, an error says so before.
        self._warn_of_little(X, y, sample_weight)
        return self

    def _warn_of_little(self, X, y, sample_weight):
        """Warn of what leaves nothing to learn: few events, or columns of one value."""
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        # Luminosities do not say how many events there are.
        weight = weight if are_copies(weight) else np.ones(len(X))
        few, fewest = [f"{weight.sum():g} events"], _FEWEST_EVENTS
        if weight.sum() >= fewest:
            few, fewest = [], _FEWEST_OF_CLASS
            if hasattr(self, "classes_"):
                code = np.searchsorted(self.classes_, np.asarray(y).ravel())
                each = zip(np.bincount(code, weight), self.classes_.tolist(), strict=True)
                few = [f"{n:g} of class {c!r}" for n, c in each if n < fewest]
        if few:
            warnings.warn(
                f"{type(self).__name__} has {_listed(few)} to learn from, which is fewer than "
                f"{fewest}: nothing but these can be learnt. Give fit more events.",
                UserWarning,
                stacklevel=levels_to_user(),
            )
        constant = np.flatnonzero(X.min(0) == X.max(0))
        # Single pixels that are always empty are nothing out of the ordinary.
        if len(constant) == X.shape[1] or (len(constant) and len(self.input_shape_) == 1):
            named = getattr(self, "feature_names_in_", np.arange(X.shape[1]))[constant].tolist()
            warnings.warn(
                f"X is constant in {len(constant)} of {X.shape[1]} columns, {_listed(named)}: all "
                "events that are generated have this value. Leave out what is not measured.",
                UserWarning,
                stacklevel=levels_to_user(),
            )

    def _fit_variables(self, z, columns, sample_weight):
        self._fit_events(z, columns, sample_weight=sample_weight, reset=True)

    def _network_shape(self):
        return self._columns.shape

    def _standardize(self, source, rows, sample_weight):
        # The columns are standardised already.
        return None

    def _variables(self, batch):
        """The variables of a batch, with those that are random drawn anew."""
        if not hasattr(batch, "low"):
            return batch.X
        uniform = torch.rand_like(batch.low)
        z = self._columns.draw(batch.X.flatten(1), batch.low, batch.high, uniform)
        return z.reshape(batch.X.shape)

    # Draw.

    def sample(self, n_samples=1, y=None, random_state=None):
        """Draw events.

        Parameters
        ----------
        n_samples : int, default=1
            How many.
        y : scalar or array-like of shape (n_samples,) or (n_samples, n_conditions), default=None
            The condition of all events, or of each. None, after a fit with y, draws conditions
            from those of the fit, with their weights.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features) or (n_samples, *event_shape)
            Events as they were given to ``fit``, in its units: of a table, rows.

        Raises
        ------
        ValueError
            If `n_samples` is no positive integer, or `y` has another length, shape or class than
            the fit knows.

        Warns
        -----
        UserWarning
            If a condition lies outside the range of the fit, by more than 5 % of it.
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(
                "The 'n_samples' parameter of sample must be a positive int. Got "
                f"{n_samples!r} instead."
            )
        rng = check_random_state(random_state)
        if self._conditions is not None and y is None:
            conditions = self._conditions.draw(n_samples, rng)
        else:
            conditions = self._encode_conditions(y, n_samples, "sample")
        result = np.empty((n_samples, self.n_features_in_), self._output_dtype)
        n_noise = self._n_noise()
        tile = self._tile_length(n_samples)
        step = tile * max(1, self._block_length() // tile)
        bar = tqdm(
            total=n_samples, desc=type(self).__name__, unit="event", disable=not self.verbose
        )
        with bar:
            for start in range(0, n_samples, step):
                rows = slice(start, min(start + step, n_samples))
                noise = rng.standard_normal((rows.stop - start, n_noise))
                given = None if conditions is None else conditions[rows]
                made = self._draw(noise, given, tile)
                result[rows] = self._columns.decode(made, given)
                bar.update(rows.stop - start)
        return result.reshape(n_samples, *self.input_shape_) if self._event_ndim > 1 else result

    def _draw(self, noise, condition, tile):
        """Variables, as an array, of a block of noise and conditions, made tile by tile."""
        made = np.empty((len(noise), self._columns.n_variables))
        with torch.inference_mode(), self._threads(tile):
            for start in range(0, len(noise), tile):
                rows = slice(start, start + tile)
                # The last tile is filled up with copies of an event.
                parts = [self._tensor(_fill(part, rows, tile)) for part in (noise, condition)]
                z = self._generate(*parts).flatten(1).double().cpu().numpy()
                made[rows] = z[: len(made[rows])]
        return made

    def _tensor(self, array):
        """An array as a tensor like those of the module; None stays None."""
        if array is None:
            return None
        like = next(self.module_.parameters())
        return torch.tensor(array, dtype=like.dtype, device=like.device)

    # Densities.

    def _has_density(self):
        return type(self)._log_density is not Sampler._log_density

    @available_if(_has_density)
    def score_samples(self, X, y=None):
        r"""Log density of events.

        Of discrete columns, rounded integers and atoms it is the logarithm of their probability, as
        the mean over draws of the variables that stand for them, of which the logarithm is a lower
        bound on average. A measured number at a bound at which none was in the fit has the density
        0, of which the logarithm is minus infinity.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : scalar or array-like of shape (n_events,) or (n_events, n_conditions), default=None
            The condition of all events, or of each. None, after a fit with y, is the density of
            what ``sample`` draws without y: the mean over the classes of the fit, or, as an
            approximation, over 64 of its other conditions.

        Returns
        -------
        log_prob : ndarray of shape (n_events,)
            Per unit of every continuous column.

        Raises
        ------
        ValueError
            If an event is not possible, or a condition unknown.

        Warns
        -----
        UserWarning
            If a discrete value was not in the fit: it counts as half an event. If 64 conditions
            are too few for the mean over them. If a condition lies outside the range of the fit, by
            more than 5 % of it.
        """
        return self._score_events(X, y, "score_samples")

    def _score_events(self, X, y, method):
        check_is_fitted(self)
        X = np.asarray(self._validate_events(X, reset=False))
        X = X.reshape(len(X), -1)
        if self._conditions is not None and y is None:
            nodes, weights, exact = self._conditions.nodes()
            log_density, n_possible = self._score_each(X, nodes, weights)
            if not exact and np.median(n_possible) < _FEWEST_POSSIBLE:
                warnings.warn(
                    f"The density without y is the mean over {len(nodes)} conditions of the fit, "
                    "but most events are possible under one of these only, and what lies between "
                    "is missed: it is wrong. Give score_samples the conditions.",
                    UserWarning,
                    stacklevel=levels_to_user(),
                )
            return log_density
        return self._score(X, self._encode_conditions(y, len(X), method))

    def _encode_conditions(self, y, n_samples, method):
        """Conditions (n_samples, width) as the network reads them; None if it has none."""
        if self._conditions is not None:
            conditions = self._conditions.for_samples(y, n_samples)
            # In a cross-validation, some conditions lie a little beyond those of the fit.
            if method != "score":
                self._conditions.warn_outside(conditions)
            return conditions
        if y is not None:
            raise ValueError(
                f"This {type(self).__name__} was fitted without y, so that {method} cannot depend "
                "on it. Give fit the conditions (with 'condition' not None), or leave out y here."
            )
        return None

    def _blocks(self, n, share=1):
        """Slices of n events, each of so many that all of them `share` times fill a block."""
        step = max(1, self._block_length() // share)
        starts = range(0, n, step)
        for start in tqdm(starts, desc=type(self).__name__, disable=not self.verbose):
            yield slice(start, start + step)

    def _score(self, X, conditions):
        result = np.empty(len(X))
        for rows in self._blocks(len(X)):
            given = None if conditions is None else conditions[rows]
            result[rows] = self._score_block(X[rows].astype(np.float64), given)
        return result

    def _score_each(self, X, conditions, weights):
        """Log of the weighted mean of the densities under each of some conditions (k, width).

        And how many of them each event is possible under, as the inverse of the sum of the squares
        of their shares.
        """
        result, n_possible, k = np.empty(len(X)), np.empty(len(X)), len(conditions)
        for rows in self._blocks(len(X), k):
            # All conditions of an event together, since a call takes its time for one event, too.
            part = X[rows].astype(np.float64)
            scores = self._score_block(
                np.tile(part, (k, 1)), np.repeat(conditions, len(part), axis=0)
            )
            each = scores.reshape(k, -1) + np.log(weights)[:, None]
            result[rows] = logsumexp(each, axis=0)
            with np.errstate(invalid="ignore"):
                n_possible[rows] = np.exp(2 * result[rows] - logsumexp(2 * each, axis=0))
        return result, np.nan_to_num(n_possible)

    def _score_block(self, X, condition):
        z, low, high = self._columns.encode(X, condition=condition)
        log_det = self._columns.log_det(X, condition)
        condition = self._tensor(condition)
        n_draws = 16 if low.shape[1] else 1
        scores, first = [], row_uniforms(X, low.shape[1])
        # Evenly spread along each variable, in an order of its own (Latin hypercube).
        steps = np.random.RandomState(0).uniform(size=(n_draws, low.shape[1])).argsort(0) / n_draws
        for step in steps:
            point = self._columns.draw(z, low, high, (first + step) % 1)
            with torch.no_grad(), self._threads(len(point)):
                log_density = self._log_density(self._tensor(point), condition)
            weight = self._columns.log_weight(point, low, high)
            scores.append(log_density.double().cpu().numpy() + weight)
        log_density = np.logaddexp.reduce(scores, axis=0) - np.log(n_draws)
        return log_density + log_det

    @available_if(_has_density)
    def score(self, X, y=None, sample_weight=None):
        """Mean log density of events, which cross-validation compares.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_conditions), default=None
            Their conditions; not read after a fit with ``condition=None``.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Weights of the events in the mean.

        Returns
        -------
        score : float
            The larger the better.
        """
        check_is_fitted(self)
        reads_y = getattr(self, "condition_", "unknown") is not None
        log_density = self._score_events(X, y if reads_y else None, "score")
        sample_weight = validate_weights(sample_weight, log_density)
        if sample_weight is None:
            return float(log_density.mean())
        # What is absent may be impossible.
        used = sample_weight != 0
        return float(np.average(log_density[used], weights=sample_weight[used]))


def _fill(array, rows, length):
    """Rows of an array, and copies of the last of them; None stays None."""
    if array is None:
        return None
    part = array[rows]
    if len(part) == length:
        return part
    return np.concatenate([part, np.repeat(part[-1:], length - len(part), axis=0)])


def _listed(items):
    """The first ten, as text."""
    return ", ".join(map(str, items[:10])) + (", …" if len(items) > 10 else "")


def _integer_columns(X):
    """Whether the columns of X came with an integer type, one bool or (n_columns,) of them."""
    if hasattr(X, "dtypes") and hasattr(X, "columns"):
        return np.array([getattr(dtype, "kind", "O") in "iub" for dtype in X.dtypes])
    return getattr(getattr(X, "dtype", None), "kind", "O") in "iub"
