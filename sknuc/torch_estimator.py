"""The hall through which every torch-backed method enters.

:class:`TorchEstimator` joins the contract (:mod:`sknuc.base`), the encoders and the engine: the
parameters that all methods share, training of a module, prediction block by block, continuing,
pickling. A method adds what is its own: which module, which players, which outputs.
"""

import contextlib
import copy
import math
import warnings
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_consistent_length
from torch import nn

from sknuc import _engine
from sknuc.base import (
    SharedParameters,
    class_weights,
    is_rounding,
    levels_to_user,
    validate_events,
    validate_labels,
    validate_targets,
    validate_weights,
)
from sknuc.encoders import MLP
from sknuc.exceptions import TrainingDivergedError
from sknuc.nn import FeatureNorm, Standardize, real_rows, stack

__all__ = ["GameMixin", "Player", "TorchEstimator"]

Player = _engine.Player

# Events on which features are standardised before the training: one per cent is precise enough.
_MEASURED = 8192

_ANEW = "Start anew with a new estimator, or by fit with warm_start=False."

_OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def _cosine(progress):
    return (1 + math.cos(math.pi * progress)) / 2


def _power(progress):
    return (1 + 10 * progress) ** -0.75


_SCHEDULES = {"cosine": _cosine, "power": _power}


class TorchEstimator(SharedParameters, BaseEstimator):
    r"""Base class of the estimators that train a network.

    Subclasses define ``_build`` and ``_players``, call ``_fit_events`` from ``fit`` and
    ``_forward`` from ``predict``.

    Parameters
    ----------
    encoder : encoder or None, default=None
        The network that reads an event: an object of :mod:`sknuc.encoders`, or your own with a
        method ``build(input_shape)``. None is ``MLP()``, whose parameters a search reaches once it
        is given: ``encoder=MLP()``.
    input_shape : tuple of int or None, default=None
        How to read a row of a table ``X``, as (1, 1024) for a waveform of one channel; None takes
        the shape of the events in an N-D ``X``, and (n_features,) from a table.
    standardize : bool, default=True
        Shift and scale the input to mean 0 and standard deviation 1, each feature of a table and
        each channel of a signal or image, as measured (with the weights) in the first fit. Of
        data above 256 MiB, evenly spaced rows of that size in all are measured. Of padded clouds
        of points, the real ones are measured, and the padding stays zero. Networks that
        standardise features of their own (:class:`~sknuc.nn.FeatureNorm`) measure them then, too.
    max_epochs : int, default=100
        Passes over the data.
    batch_size : int, default=256
        The most events per step; the batches of an epoch are made alike.
    learning_rate : float, default=0.003
        Step size of the optimizer.
    optimizer : {"adamw", "adam", "sgd", "rmsprop"} or callable, default="adamw"
        Name, or ``optimizer(parameters, lr=..., weight_decay=...)`` such as a class of
        :mod:`torch.optim` or a :func:`functools.partial` of one.
    schedule : {"constant", "cosine", "power"}, default="constant"
        How the learning rate goes on: as it is; falling to zero within the fit as
        :math:`(1+\cos\pi p)/2` of the share p of its steps, which gets closer to the optimum where
        the number of epochs is known to suffice; or as :math:`(1+10p)^{-3/4}`, usual for
        adversarial adaptation. Other schedules are callbacks of skorch.
    weight_decay : float, default=0.0
        Shrinkage of the weights, as the optimizer defines it ("adamw": decoupled).
    early_stopping : bool, default=False
        Hold out a part of the events, stop when the loss on it no longer falls, and go back to
        the best epoch.
    validation_fraction : float in (0, 1), default=0.1
        The share that `early_stopping` holds out; the classes keep their shares.
    n_iter_no_change : int, default=10
        Epochs without improvement after which `early_stopping` ends the training.
    tol : float, default=1e-4
        The improvement of the loss that counts.
    warm_start : bool, default=False
        Go on with the network, the optimizer's memory and the input's scaling of the last fit.
    callbacks : list or None, default=None
        Callbacks of skorch, or pairs (name, callback): learning-rate schedules, checkpoints,
        gradient clipping. Scoring callbacks are refused. A Ctrl-C ends the training and keeps what
        was learnt; a second one within two seconds ends the program.
    device : str, default="auto"
        "auto" takes a GPU where there is one; or a name as torch knows it: "cpu", "cuda:1".
    mixed_precision : bool or "auto", default="auto"
        Compute matrix products and convolutions in bfloat16; "auto" does so on CUDA, for float32
        data.
    compile : bool or "auto", default="auto"
        Compile the network with :func:`torch.compile`; "auto" does so on CUDA where the training
        is long enough (20,000 steps) to earn the minute that compiling takes.
    random_state : int, RandomState or None, default=None
        Seed of the initial weights, shuffling, dropout and hold-out; None draws it from numpy's
        global generator, as scikit-learn does. Torch's are neither read nor changed.
    verbose : int, default=0
        1 shows a progress bar for training and long predictions.
    """

    _parameter_constraints = {
        "encoder": [HasMethods("build"), None],
        "input_shape": ["array-like", None],
        "standardize": ["boolean"],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "optimizer": [StrOptions(set(_OPTIMIZERS)), callable],
        "schedule": [StrOptions({"constant", *_SCHEDULES})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": ["array-like", None],
        "device": [str, torch.device],
        "mixed_precision": ["boolean", StrOptions({"auto"})],
        "compile": ["boolean", StrOptions({"auto"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        encoder=None,
        input_shape=None,
        standardize=True,
        max_epochs=100,
        batch_size=256,
        learning_rate=0.003,
        optimizer="adamw",
        schedule="constant",
        weight_decay=0.0,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-4,
        warm_start=False,
        callbacks=None,
        device="auto",
        mixed_precision="auto",
        compile="auto",
        random_state=None,
        verbose=0,
    ):
        self.encoder = encoder
        self.input_shape = input_shape
        self.standardize = standardize
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.device = device
        self.mixed_precision = mixed_precision
        self.compile = compile
        self.random_state = random_state
        self.verbose = verbose

    # For the methods to define.

    def _build(self):
        """Build the module; called with torch's generators seeded."""
        raise NotImplementedError

    def _players(self):
        """The players of the training, most often one."""
        raise NotImplementedError

    # For the methods to use.

    def _validate_events(self, X, *, reset):
        """Validate events in memory or on disk; sets `input_shape_`, `n_features_in_`, ...

        Returns
        -------
        X : ndarray, memmap or HDF5 dataset of shape (n, n_features) or, on disk, as it came
        """
        if _engine.is_on_disk(X):
            X = _engine.load_if_small(X)
        if _engine.is_on_disk(X):
            return self._validate_shape_on_disk(X, reset)
        # Small integers (ADC samples) are converted batch by batch, not up front.
        dtype = _common_dtype(X)
        if dtype is not None and dtype.kind in "iu" and dtype.itemsize <= 2:
            return validate_events(self, X, reset=reset, dtype=dtype)
        dtype = (np.float64, np.float32) if dtype is None else float_type(dtype)
        return validate_events(self, X, reset=reset, dtype=dtype)

    def _validate_shape_on_disk(self, X, reset):
        # What scikit-learn's validation would read into memory is checked block by block later.
        if X.dtype.kind not in "fiu" or len(X.shape) < 2:
            raise ValueError(
                "X on disk must hold numbers, with the shape (n_events, ...). Got "
                f"dtype {X.dtype} and shape {X.shape} instead."
            )
        stub = np.broadcast_to(np.zeros((), X.dtype), (1, *X.shape[1:]))
        validate_events(self, stub, reset=reset)
        return X

    def _network_shape(self):
        """The shape of one event as the network reads it."""
        return self.input_shape_

    def _default_encoder(self):
        return MLP()

    def _encoder(self):
        """The module of the encoder for `input_shape_`, and its number of features."""
        encoder = self._default_encoder() if self.encoder is None else self.encoder
        return self._build_encoder("encoder", encoder, self._network_shape())

    def _build_encoder(self, name, encoder, shape):
        """The module that an encoder builds, and its number of features.

        Parameters
        ----------
        name : str
            The parameter that holds the encoder, for errors.
        encoder : encoder
        shape : tuple of int
            Of one event.
        """
        if isinstance(encoder, type):
            raise ValueError(
                f"The '{name}' parameter must be an object, such as {encoder.__name__}(). Got the "
                "class itself instead."
            )
        module = encoder.build(shape)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"The method build of the '{name}' parameter must return a torch.nn.Module. "
                f"{type(encoder).__name__} returned {module!r} instead."
            )
        parameter = next(module.parameters(), torch.empty(0))
        probe = torch.zeros(2, *shape, dtype=parameter.dtype)
        features = self._measure_work(module.eval(), probe)
        module.train()
        if features.ndim != 2 or len(features) != 2:
            raise ValueError(
                f"The network of the '{name}' parameter must turn events of shape (n, "
                f"{', '.join(map(str, shape))}) into features (n, n_features). Got "
                f"the shape {tuple(features.shape)} for n=2 instead."
            )
        return module, features.shape[1]

    def _measure_work(self, module, probe):
        """Apply a network to a few events, and note how large a product one of them is.

        Of all networks of a fit, the largest counts.
        """
        output, _, largest = _engine.multiply_adds(module, probe)
        self._largest_product = max(getattr(self, "_largest_product", 0), largest)
        return output

    def _encode_labels(self, X, y, sample_weight, *, reset=True, classes=None, every_class=True):
        """Validate labels and weights, and multiply the weights by those of the classes.

        Sets ``classes_`` when `reset`: those given, or those of the events with a weight.

        Returns
        -------
        codes : ndarray of int of shape (n,)
            Places in ``classes_``; anything for events of weight zero.
        sample_weight : ndarray of shape (n,) or None
        """
        y = validate_labels(y, self)
        check_consistent_length(X, y)
        sample_weight = validate_weights(sample_weight, X)
        used = np.ones(len(y), bool) if sample_weight is None else sample_weight != 0
        if reset:
            self.classes_ = np.unique(y[used]) if classes is None else classes
        known = np.isin(y, self.classes_) | ~used
        if not known.all():
            raise ValueError(
                f"y holds the labels {np.unique(y[~known]).tolist()}, which are not among the "
                f"classes {self.classes_.tolist()} of this classifier."
            )
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        class_weight = getattr(self, "class_weight", None)
        if len(self.classes_) > 1 and class_weight is not None:
            weight = np.ones(len(codes)) if sample_weight is None else sample_weight.copy()
            weight[used] = class_weights(class_weight, self.classes_, codes[used], weight[used])
            sample_weight = validate_weights(weight, codes)
            used = sample_weight != 0
        present = codes[used]
        if len(self.classes_) < 2 or (every_class and len(np.unique(present)) < 2):
            raise ValueError(
                f"{type(self).__name__} needs events of at least 2 classes with non-zero weight, "
                f"but the data contains only one class: {self.classes_.tolist()[present[0]]!r}."
            )
        return codes, sample_weight

    def _continue_with(self, X, y, target_scale=None):
        """Validate targets of a fit that goes on, and scale them as those of the first one.

        A `target_scale` is one that they have from now on. Changes nothing yet.
        """
        y = validate_targets(y, self)
        check_consistent_length(X, y)
        targets = y.reshape(len(y), -1)
        if (y.ndim, targets.shape[1]) != (self._y_ndim, len(self.target_mean_)):
            raise ValueError(
                f"y has the shape {y.shape}, but the network was built for "
                f"{len(self.target_mean_)} targets. {_ANEW}"
            )
        scale = self.target_scale_ if target_scale is None else target_scale
        return (targets - self.target_mean_) / scale

    def _check_distance(self, scaled, weight, scale):
        """Check that targets of a fit that goes on are not out of reach of the network.

        Constant targets, or all but constant ones, give no unit for others. Far events of heavy
        tails are no sign of that, but where there was no width at all, each of them is.
        """
        if getattr(self, "_log_link", False):
            # The network has only the logarithm of the distance to go.
            return
        away = np.abs(scaled)
        weight = np.ones(len(away)) if weight is None else weight
        median = np.quantile(away, 0.5, axis=0, weights=weight, method="inverted_cdf")
        constant = is_rounding(self.target_mean_, scale)
        away = np.where(constant, away.max(axis=0), median)
        if away.max() <= 1e3:
            return
        far = away > 1e3
        words = (
            f"The targets lie {away.max():.2g} times the width of those of the first fit, "
            f"{scale[far]}, away from their mean, {self.target_mean_[far]}"
        )
        if constant[far].any():
            words += ": they were nearly constant"
        if away.max() > 1e6:
            raise ValueError(f"{words}. {_ANEW}")
        warnings.warn(
            f"{words}. The network takes long to get there, and learns little of them. {_ANEW}",
            UserWarning,
            stacklevel=levels_to_user(),
        )

    def _optimizer(self, parameters, **options):
        """The optimizer of a player, with options of its own."""
        options = {"lr": self.learning_rate, "weight_decay": self.weight_decay, **options}
        if callable(self.optimizer):
            return self.optimizer(parameters, **options)
        if self.optimizer in ("adam", "adamw"):
            options["fused"] = True
        return _OPTIMIZERS[self.optimizer](parameters, **options)

    def _fit_events(
        self,
        X,
        columns,
        *,
        sample_weight=None,
        stratify=None,
        reset,
        max_epochs=None,
        n_members=None,
        target_scale=None,
        other=None,
    ):
        """Train the module.

        Parameters
        ----------
        X : as returned by `_validate_events`
        columns : dict of str to ndarray of shape (n, ...)
            Targets and what else belongs to each event, in the network's units.
        sample_weight : ndarray of shape (n,), (n_members, n) or None
        stratify : ndarray of shape (n,) or None
            Classes whose shares the hold-out keeps.
        reset : bool
            Build a new module; False goes on with the present one.
        max_epochs : int or None
            Instead of the parameter, for `partial_fit`.
        n_members : int or None
            Train so many networks as one stack, each with its own initial weights and shuffling,
            and, if `sample_weight` says so, its own weights of the events.
        target_scale : ndarray of shape (n_targets,) or None
            Of a fit that goes on: the units of the targets from now on, if they change.
        other : ndarray of bool of shape (n,) or None
            Events of a second sample. Every batch of the others has one of it, ``batch.other``.
        """
        n = X.shape[0]
        rows = np.arange(n)
        # What all members together give an event.
        total_weight = sample_weight
        if sample_weight is not None:
            if sample_weight.ndim == 2:
                total_weight = sample_weight.sum(0)
            # Before anything is split or measured: a weight of zero means as if not there.
            rows = rows[total_weight != 0]
        if not reset and hasattr(self, "target_scale_"):
            target_scale = self.target_scale_ if target_scale is None else target_scale
            weight = None if total_weight is None else total_weight[rows]
            self._check_distance(columns["y"][rows], weight, target_scale)
        if reset:
            # Drawn on by later calls, which otherwise would shuffle as the first one did.
            self._random_state = np.random.RandomState(_engine.draw_seed(self.random_state))
        build_seed, train_seed, split_seed = self._random_state.randint(2**31 - 1, size=3)
        valid_rows = None
        if self.early_stopping and max_epochs is None:
            if other is None:
                rows, valid_rows = self._hold_out(rows, stratify, split_seed)
            else:
                rows, valid_rows = self._hold_out_of_both(rows, other, stratify, split_seed)

        dtype = _engine.torch_dtype(X.dtype)
        device = _engine.resolve_device(self.device, dtype)
        source = _engine.EventSource(X, self._network_shape(), dtype, device)
        if reset:
            scaling = self._standardize(source, rows, total_weight) if self.standardize else None
            scaling = (scaling or nn.Identity()).to(device=device, dtype=dtype)
            source.transform = scaling
            with _engine.seeded(build_seed):
                # The bits of orthogonal weights (a QR) depend on the number of threads.
                with _engine.threads_for(0):
                    networks = [self._build() for _ in range(n_members or 1)]
                with self._threads(len(rows)):
                    for network in networks:
                        network.to(device=device, dtype=dtype)
                        if self.standardize:
                            self._measure_features(network, source, rows, total_weight)
            network = networks[0] if n_members is None else self._stack(networks)
            module = nn.Sequential(scaling, network)
            self._optimizer_states = None
        else:
            if max_epochs is None:
                self._check_same_architecture(build_seed, n_members)
            module = self.module_.to(device=device, dtype=dtype)
            scaling, network = module
            source.transform = scaling

        floats = _engine.numpy_dtype(dtype)
        columns = {
            name: column.astype(floats) if column.dtype.kind == "f" else column
            for name, column in {**columns, "sample_weight": sample_weight}.items()
            if column is not None
        }
        columns.setdefault("sample_weight", None)

        def serve(rows, seed, shuffle):
            if other is not None:
                parts = rows[~other[rows]], rows[other[rows]]
                seeds = np.random.RandomState(seed).randint(2**31 - 1, size=2)
                return _engine.PairedData(
                    *(serve_one(part, s, shuffle) for part, s in zip(parts, seeds, strict=True))
                )
            return serve_one(rows, seed, shuffle)

        def serve_one(rows, seed, shuffle):
            if n_members is not None:
                seed = np.random.RandomState(seed).randint(2**31 - 1, size=n_members)
            return _engine.TrainingData(
                source,
                columns,
                rows=rows,
                batch_size=self.batch_size,
                seeds=seed if n_members is not None else int(seed),
                shuffle=shuffle,
            )

        data = serve(rows, train_seed, True)
        valid = None if valid_rows is None else serve(valid_rows, 0, False)
        compile = self.compile
        if compile == "auto":
            steps = (max_epochs or self.max_epochs) * data.n_batches
            compile = device.type == "cuda" and steps >= 20_000
        history = None if reset else self.history_
        try:
            with (
                _engine.seeded(train_seed, device),
                self._threads(len(rows)),
                self._in_units(target_scale),
            ):
                result = _engine.train(
                    network,
                    self._scheduled_players(max_epochs),
                    data,
                    valid=valid,
                    max_epochs=max_epochs or self.max_epochs,
                    n_iter_no_change=self.n_iter_no_change,
                    tol=self.tol,
                    device=device,
                    dtype=dtype,
                    mixed_precision=self.mixed_precision,
                    compile=compile,
                    callbacks=self.callbacks,
                    history=history,
                    optimizer_states=self._optimizer_states,
                    verbose=self.verbose,
                )
        except TrainingDivergedError as error:
            if error.n_epochs or not reset:
                self._keep(module, error.result)
            raise
        self._keep(module, result)

    @contextlib.contextmanager
    def _in_units(self, target_scale):
        """Train with these units of the targets; without an epoch, those before stay.

        None is no fit that goes on.
        """
        if target_scale is None:
            yield
            return
        known, n_epochs = self.target_scale_, len(self.history_)
        self.target_scale_ = target_scale
        try:
            yield
        finally:
            # The training goes on in the history that there is.
            if len(self.history_) == n_epochs:
                self.target_scale_ = known

    def _start_anew(self):
        """Forget the last fit, so that a fit that fails leaves no half of each."""
        for name in ("module_", "history_", "n_iter_", "_largest_product"):
            self.__dict__.pop(name, None)

    def _scheduled_players(self, max_epochs):
        players = self._players()
        # One epoch of partial_fit is no training of its own.
        if self.schedule != "constant" and max_epochs is None:
            for player in players:
                player.schedule = _SCHEDULES[self.schedule]
        return players

    def _threads(self, n_rows):
        return _engine.threads_for(self._largest_product * min(self.batch_size, n_rows))

    def _stack(self, networks):
        return stack(networks, event_ndim=len(self.input_shape_))

    def _check_same_architecture(self, seed, n_members):
        with _engine.seeded(seed):
            fresh = self._build()
            if n_members is not None:
                fresh = self._stack([fresh] * n_members)
        shapes = [
            {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
            for network in (fresh, self.module_[1])
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "warm_start=True goes on with the network of the last fit, but the parameters "
                "(encoder, targets, classes or members) now describe another one. Set "
                "warm_start=False."
            )

    def _keep(self, module, result):
        self.module_ = module
        self.history_ = result.history
        self.n_iter_ = len(result.history)
        self._optimizer_states = result.optimizer_states

    def _hold_out(self, rows, stratify, seed, of=""):
        classes = None if stratify is None else stratify[rows]
        n_events = len(rows)
        try:
            rows, held_out = train_test_split(
                rows, test_size=self.validation_fraction, stratify=classes, random_state=seed
            )
        except ValueError as error:
            raise ValueError(
                f"early_stopping=True cannot hold out a share validation_fraction="
                f"{self.validation_fraction} of {n_events} events{of}: {error} Give more events, a "
                "larger share, or early_stopping=False."
            ) from error
        return np.sort(rows), np.sort(held_out)

    def _hold_out_of_both(self, rows, other, stratify, seed):
        """Hold out the share of either sample, and so at least one event."""
        parts = rows[~other[rows]], rows[other[rows]]
        n_source, n_target = map(len, parts)
        kept = [
            # What the labels of the second sample say is unknown.
            self._hold_out(part, labels, seed, f" of the {name} domain{beside}")
            for part, labels, name, beside in (
                (parts[0], stratify, "source", f" (beside {n_target} of the target)"),
                (parts[1], None, "target", f" (beside {n_source} of the source)"),
            )
        ]
        return tuple(np.sort(np.concatenate(halves)) for halves in zip(*kept, strict=True))

    def _standardize(self, source, rows, sample_weight):
        """Mean and standard deviation per channel, in float64, of at most 256 MiB of rows."""
        step = max(1, math.ceil(len(rows) * source.row_bytes / _engine.RESIDENT_BYTES))
        rows = _some_rows(rows, step)
        weight = None if sample_weight is None else sample_weight[rows].astype(np.float64)
        means, variances, counts = self._channel_moments(source, rows)
        if counts is not None:
            # An event weighs as much as it has points; where none has any, the mean is zero.
            counts = counts if weight is None else counts * weight[:, np.newaxis]
            weight = counts if counts.any() else np.ones_like(counts)
        # The spread of all samples is the spread within events plus the spread of their means.
        mean = np.average(means, axis=0, weights=weight)
        with np.errstate(over="ignore", invalid="ignore"):
            variance = np.average(variances + (means - mean) ** 2, axis=0, weights=weight)
        scale = np.sqrt(variance)
        if not np.all(np.isfinite(scale)):
            wider = "" if _engine.numpy_dtype(source.dtype) == np.float64 else ", or as float64"
            raise ValueError(
                f"The squares of the values in X overflow {source.dtype}, and so the input cannot "
                f"be standardised. Give X in another unit{wider}."
            )
        # A constant channel has a spread of rounding errors only: it is shifted, not blown up.
        tiny = 10 * np.finfo(_engine.numpy_dtype(source.dtype)).eps
        scale[scale <= tiny * np.abs(mean)] = 1.0
        channel_shape = self._channel_shape()
        mean = mean.reshape(channel_shape)
        uniform = getattr(self.encoder, "uniform_event", lambda input_shape: None)
        pattern = uniform(self.input_shape_)
        if pattern is not None:
            mean = mean * pattern
        return Standardize(
            torch.from_numpy(mean),
            torch.from_numpy(scale).reshape(channel_shape),
            padding_axis=self._padding_axis(),
        )

    def _channel_axis(self):
        """The axis of an event that counts channels; None if there is one channel."""
        return getattr(self.encoder, "channel_axis", lambda input_shape: 0)(self.input_shape_)

    def _padding_axis(self):
        """The axis of an event that counts rows of which those of zeros are padding, or None."""
        return getattr(self.encoder, "padding_axis", lambda input_shape: None)(self.input_shape_)

    def _channel_shape(self):
        """The shape in which one number per channel is broadcast to an event."""
        axis = self._channel_axis()
        return [-1 if i == axis else 1 for i in range(len(self.input_shape_))]

    def _channel_moments(self, source, rows):
        """Mean, variance and number of the values of each event and channel.

        Returns
        -------
        mean, variance, count : ndarray of float64 of shape (n, n_channels)
            The number is None where no value is padding.
        """
        axis, padding_axis = self._channel_axis(), self._padding_axis()
        shape = self.input_shape_ if axis is not None else (1, *self.input_shape_)
        block = max(1, _engine.CHUNK_BYTES // source.row_bytes)

        def by_channel(x):
            return x.reshape(-1, *shape).movedim((axis or 0) + 1, 1)

        found = []
        for start in range(0, len(rows), block):
            events = source.take(rows[start : start + block])
            real = None
            if padding_axis is not None:
                real = by_channel(real_rows(events, padding_axis).expand_as(events))
            found.append(_moments(by_channel(events), real))
        mean, variance, count = (
            torch.cat(parts).double().cpu().numpy() if isinstance(parts[0], torch.Tensor) else None
            for parts in zip(*found, strict=True)
        )
        return mean, variance, count

    def _measured_rows(self, rows):
        """Enough rows to measure them."""
        return _some_rows(rows, math.ceil(len(rows) / _MEASURED))

    def _measure_features(self, network, source, rows, sample_weight):
        """Set the layers that standardise features, in turn, on some `_MEASURED` events."""
        norms = [layer for layer in network.modules() if isinstance(layer, FeatureNorm)]
        if not norms:
            return
        rows = self._measured_rows(rows)
        weight = None if sample_weight is None else sample_weight[rows].astype(np.float64)
        network.eval()
        for norm in norms:
            seen = []
            handle = norm.register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.append(*inputs)
            )
            with torch.no_grad():
                for start in range(0, len(rows), self.batch_size):
                    network(source.take(rows[start : start + self.batch_size]))
            handle.remove()
            features = torch.cat(seen).double().cpu().numpy()
            mean = np.average(features, axis=0, weights=weight)
            scale = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weight))
            # What hardly varies at the start may do so after a few steps: it is not blown up.
            floor = np.maximum(1e-2 * np.median(scale), 1e-3 * np.abs(mean))
            scale = np.maximum(scale, floor)
            scale[scale == 0] = 1.0
            norm.set(torch.from_numpy(mean), torch.from_numpy(scale))
        network.train()

    def _forward(self, X, function=None, *, network=None):
        """The module's output for validated events, as an array (n, ...).

        Of a stack, or another `network` with `n_members`, the shape is (n, n_members, ...).
        """
        parameter = next(self.module_.parameters())
        dtype = parameter.dtype
        device = _engine.prediction_device(self.device, dtype)
        if parameter.device != device:
            self.module_.to(device)
        source = _engine.EventSource(X, self._network_shape(), dtype, device)
        module = self.module_
        if network is not None:
            module = nn.Sequential(module[0], network).eval()
        n_members = getattr(module[1], "n_members", None)

        def output(block):
            if n_members is not None:
                block = block.movedim(0, 1)
            return block if function is None else function(block)

        return _engine.forward(
            module, source, function=output, n_members=n_members or 1, verbose=self.verbose
        )

    def __sklearn_is_fitted__(self):
        return hasattr(self, "module_")

    def __getstate__(self):
        # A model trained on a GPU loads on a machine without one.
        state = super().__getstate__()
        if "module_" in state and any(p.device.type != "cpu" for p in self.module_.parameters()):
            state = {**state, "module_": copy.deepcopy(self.module_).cpu()}
            state["_optimizer_states"] = _to_cpu(state["_optimizer_states"])
        return state


class GameMixin:
    """Optimizers of the players of a game, for methods with a parameter `betas`."""

    def _optimizer_at(self, learning_rate):
        """The optimizer of a player that has a learning rate of its own."""
        numbers = all(isinstance(beta, Real) and 0 <= beta < 1 for beta in self.betas)
        if len(self.betas) != 2 or not numbers:
            raise ValueError(
                "The 'betas' parameter must be two numbers in [0, 1), for the means of gradients "
                f"and of their squares. Got {self.betas!r} instead."
            )
        options = {"lr": learning_rate}
        if self.optimizer in ("adam", "adamw"):
            options["betas"] = tuple(self.betas)
        return partial(self._optimizer, **options)


def _moments(events, real):
    """Mean, variance and number of the values of each event and channel.

    Parameters
    ----------
    events : Tensor of shape (n, channels, ...)
    real : Tensor of bool of the same shape, or None
        False for padding, which is zero.

    Returns
    -------
    mean, variance, count : Tensor of shape (n, channels), or int for the count without padding
    """
    if events.ndim == 2:
        return events, torch.zeros_like(events), 1 if real is None else real
    events = events.flatten(2)
    if real is None:
        # Three plain passes: twice as fast as torch.var_mean.
        mean = events.mean(2)
        return mean, (events - mean.unsqueeze(2)).square_().mean(2), events.shape[2]
    real = real.flatten(2)
    count = real.sum(2)
    present = count.clamp(min=1)
    mean = events.sum(2) / present
    variance = (events - mean.unsqueeze(2)).square_().mul_(real).sum(2) / present
    return mean, variance, count


def _some_rows(rows, step):
    """Every step-th group of 64 neighbours, which lie together on disk."""
    return rows[np.arange(len(rows)) // 64 % step == 0]


def float_type(dtype):
    """The numpy type in which a network computes for events of `dtype`."""
    return _engine.numpy_dtype(_engine.torch_dtype(dtype))


def _common_dtype(X):
    """The type that holds all values of an array or data frame; None where numpy has none."""
    try:
        if hasattr(X, "dtypes") and hasattr(X, "columns"):
            dtype = np.result_type(*X.dtypes)
        else:
            dtype = np.dtype(X.dtype)
    except (AttributeError, TypeError, ValueError):
        return None
    return dtype if dtype.kind in "fiub" else None


def _to_cpu(state):
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_to_cpu(value) for value in state)
    return state
