"""Training is a game of players.

A *player* owns a loss and the parameters that it moves. Ordinary training has one player, a GAN
two; the engine does the rest for everybody: batches, weights, precision, history, early stopping,
interrupts. It is a :class:`skorch.NeuralNet` underneath, so that skorch's callbacks work.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import skorch
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch.callbacks import BatchScoring, Callback, EpochScoring, PassthroughScoring
from torch import nn

from sknuc._engine._callbacks import KeepBest, ProgressBar, StopTraining
from sknuc._engine._device import Generators, needs_mixed_precision
from sknuc.base import levels_to_user
from sknuc.exceptions import TrainingDivergedError

__all__ = ["Player", "TrainingResult", "train"]

# Two of them within so many seconds mean the program, not the fit.
INTERRUPT_TWICE = 2.0
_interrupted_at = -math.inf


@dataclass
class Player:
    """Who moves which parameters to lower which loss.

    Parameters
    ----------
    loss : callable
        ``loss(module, batch) -> tensor`` of shape (n,), one value per event, which the engine
        averages with the events' weights, or (n_members, n) for stacked members, whose averages
        are added, so that each gets its own gradient. A 0-d tensor is taken as it is (penalties,
        statistics of whole batches). On
        held-out events it is evaluated with the same random numbers each time.
    name : str
        Names the player in the history (``train_loss`` for the first, ``train_<name>_loss`` for
        the others) and in errors. No two players have the same.
    parameters : callable or None
        ``parameters(module) -> iterable of Parameter``; None for all of them.
    optimizer : callable
        ``optimizer(parameters) -> torch.optim.Optimizer``.
    every : int
        The player moves in every so many batches: a critic with ``every=1`` and a generator with
        ``every=5`` are a Wasserstein GAN's five critic steps per generator step.
    schedule : callable or None
        ``schedule(progress) -> factor`` of the learning rates, from progress 0 to 1; None leaves
        them to the optimizer and to callbacks.
    after_step : callable or None
        ``after_step(module)`` is called, without gradients, when the player has moved: averages of
        parameters.
    """

    loss: Callable[[nn.Module, object], torch.Tensor]
    name: str = "loss"
    parameters: Callable[[nn.Module], Iterable[nn.Parameter]] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    every: int = 1
    schedule: Callable[[float], float] | None = None
    after_step: Callable[[nn.Module], None] | None = None


@dataclass
class TrainingResult:
    """What training leaves behind beside the module, which is trained in place."""

    history: skorch.history.History
    optimizer_states: list[tuple[str, dict]] = field(default_factory=list)
    interrupted: bool = False


def train(
    module,
    players,
    data,
    *,
    valid=None,
    max_epochs,
    n_iter_no_change=None,
    tol=0.0,
    device,
    dtype,
    mixed_precision="auto",
    compile=False,
    callbacks=None,
    history=None,
    optimizer_states=None,
    verbose=0,
):
    """Train `module` in place.

    Parameters
    ----------
    module : nn.Module
        The module, on its device.
    players : sequence of Player
        They move in turn in each batch.
    data, valid : TrainingData
        The events to learn from, and those on which the first player's loss is watched.
    max_epochs : int
        Passes over the data.
    n_iter_no_change : int or None
        Stop after so many epochs in which the loss on `valid` fell by less than `tol`, and go back
        to the best epoch; None trains to the end.
    callbacks : sequence of skorch callbacks, or pairs (name, callback)
        Called as skorch calls them.
    history, optimizer_states
        From an earlier result, to go on where it stopped.

    Returns
    -------
    result : TrainingResult

    Raises
    ------
    TrainingDivergedError
        If a loss is NaN or infinite. The module is put back to its last state with finite losses
        (the best one, if `valid` is watched); the error carries the result until then.
    """
    names = [player.name for player in players]
    if len(set(names)) < len(names):
        raise ValueError(f"Players must have different names. Got {names}.")
    game = _Game(
        module,
        players=players,
        dtype=dtype,
        mixed_precision=needs_mixed_precision(mixed_precision, device, dtype),
        max_epochs=max_epochs,
        callbacks=list(callbacks or []),
        watch=None if valid is None else KeepBest(n_iter_no_change, tol),
        device=device,
        compile=compile,
        verbose=verbose,
    )
    return game.play(data, valid, history, optimizer_states)


class _Game(skorch.NeuralNet):
    def __init__(
        self, module, *, players, dtype, mixed_precision, watch, callbacks, compile, **kwargs
    ):
        super().__init__(
            module,
            criterion=nn.Module,
            train_split=None,
            compile=compile,
            callbacks=callbacks,
            lr=None,
            **kwargs,
        )
        self.players = tuple(players)
        self.dtype = dtype
        self.mixed_precision = mixed_precision
        self.watch = watch

    # What skorch asks for, answered with what is already built.

    def get_default_callbacks(self):
        callbacks = [] if self.watch is None else [("keep_best", self.watch)]
        return [*callbacks, ("progress", self.progress)] if self.verbose else callbacks

    def initialize_module(self):
        self.module_ = self.module
        return self

    def initialize_criterion(self):
        self.criterion_ = nn.Module()
        return self

    def initialize_optimizer(self, *_, **__):
        self._moves = [_Move(self.module_, player) for player in self.players]
        for i, move in enumerate(self._moves):
            name = "optimizer_" if i == 0 else f"{move.player.name}_optimizer_"
            setattr(self, name, move.optimizer)
        return self

    def torch_compile(self, module, name):
        if self.compile and name == "module":
            module.compile()  # in place: the module keeps its class and its state's names
        return module

    def get_split_datasets(self, X, y=None, **_):
        return X, y

    def get_iterator(self, dataset, training=False):
        return dataset

    def check_data(self, X, y=None):
        pass

    # The game.

    def play(self, data, valid, history, optimizer_states):
        global _interrupted_at
        self.progress = ProgressBar(self.max_epochs * data.n_batches)
        self.initialize()
        if history is not None:
            self.history = history
        for move, state in zip(self._moves, optimizer_states or [], strict=False):
            move.go_on(state)
        _check_callbacks(self.callbacks_)
        self._watch_gradients = _overrides(self.callbacks_, "on_grad_computed")
        self._watch_batches = _overrides(self.callbacks_, "on_batch_begin", "on_batch_end")
        self._generators = Generators(torch.device(self.device))
        self._valid_state = self._generators.state
        self._n_steps = self.max_epochs * data.n_batches
        self._batch = 0
        self._lowest = {}
        self._shares = {}
        # A state is known to be good when a loss was finite on it, which is one epoch later.
        self._tensors = list(self.module_.state_dict(keep_vars=False).values())
        self._begun = [t.clone() for t in self._tensors]
        self._good = [t.clone() for t in self._tensors]
        n_before = len(self.history)
        interrupted = False
        self.module_.train()
        try:
            try:
                self.notify("on_train_begin", X=data, y=valid)
                self.fit_loop(data, valid)
                self._check_last_step()
            except StopTraining:
                self._check_last_step()
            except KeyboardInterrupt:
                now = time.monotonic()
                if now - _interrupted_at < INTERRUPT_TWICE:
                    raise
                _interrupted_at = now
                interrupted = True
            self._drop_unfinished_epoch()
            with contextlib.suppress(StopTraining):
                self.notify("on_train_end", X=data, y=valid)
        except TrainingDivergedError as error:
            self._drop_unfinished_epoch()
            if self.watch is not None and self.watch.best_epoch_ is not None:
                self.watch.restore(self)
            else:
                self._restore(self._begun if error.epoch_began_well else self._good)
                if not error.epoch_began_well and len(self.history) > n_before:
                    self.history.pop()
            error.result = TrainingResult(self.history)
            error.n_epochs = len(self.history) - n_before
            raise
        finally:
            # What else was raised, by a callback, has left one, too.
            self._drop_unfinished_epoch()
            self.module_.eval()
            self.module_.zero_grad(set_to_none=True)
            self.progress.close()
        if interrupted:
            kept = "the best epoch" if self.watch is not None else "what was learnt so far"
            warnings.warn(
                f"Training was interrupted in epoch {len(self.history) + 1 - n_before} of "
                f"{self.max_epochs}; {kept} is kept. Interrupt twice within "
                f"{INTERRUPT_TWICE:g} s to end the program.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )
        states = [move.state() for move in self._moves]
        return TrainingResult(self.history, states, interrupted)

    def notify(self, method_name, **kwargs):
        try:
            super().notify(method_name, **kwargs)
        except KeyboardInterrupt:
            # skorch's callbacks end the training so; without them it is the user's Ctrl-C.
            if self.callbacks:
                raise StopTraining from None
            raise

    def run_single_epoch(self, iterator, training, prefix, step_fn=None, **_):
        if iterator is None:
            return
        start = time.perf_counter()
        if self.module_.training != training:
            self.module_.train(training)
        if training:
            torch._foreach_copy_(self._begun, self._tensors)
            moves, step = self._moves, self._step
        else:
            moves, step = self._moves[:1], self._evaluate
            training_state, self._generators.state = self._generators.state, self._valid_state
        sums, counts = [0.0] * len(moves), [0] * len(moves)
        self.member_losses = 0.0
        n_batches, first_loss = 0, math.nan
        for batch in iterator:
            if self._watch_batches:
                self.notify("on_batch_begin", batch=batch, training=training)
            batch.progress = min(1.0, self._batch / self._n_steps)
            batch.first = n_batches == 0
            for i, move in enumerate(moves):
                if training and self._batch % move.player.every:
                    continue
                loss = step(move, batch)
                if not training and i == 0:
                    self.member_losses = self.member_losses + loss * (len(batch) / len(iterator))
                    loss = loss.mean().item()
                sums[i] += loss * len(batch)
                counts[i] += len(batch)
                first_loss = loss if i == 0 else first_loss
            n_batches += 1
            if training:
                self._batch += 1
                if self.verbose:
                    self.progress.advance()
            if self._watch_batches:
                self._record_batch(prefix, first_loss, batch)
                self.notify("on_batch_end", batch=batch, training=training, loss=first_loss)
        if not self._watch_batches:
            # Checkpoints of skorch look at the last batch.
            self.history.new_batch()
            self._record_batch(prefix, first_loss, batch)
        if not training:
            self._generators.state = training_state
        for i, move in enumerate(moves):
            name = f"{prefix}_loss" if i == 0 else f"{prefix}_{move.player.name}_loss"
            if counts[i]:
                value = float(sums[i]) / counts[i]
                if not math.isfinite(value):
                    raise self._diverged(move.player, value, epoch_began_well=False)
                self._record(name, value)
        self.history.record(f"{prefix}_batch_count", n_batches)
        if training:
            self._good, self._begun = self._begun, self._good
            self._last_batch = batch
            self.history.record("dur", time.perf_counter() - start)

    def _step(self, move, batch):
        for parameter in move.parameters:
            parameter.grad = None
        with self._precision():
            loss = move.player.loss(self.module_, batch)
        share = self._share(loss, batch)
        value = _total(loss.detach(), share)
        # On an accelerator, reading the value would make every step wait: there the sum is
        # looked at once an epoch.
        if value.device.type == "cpu":
            value = value.item()
            if not math.isfinite(value):
                raise self._diverged(move.player, value, epoch_began_well=not batch.first)
        loss.backward(share, inputs=move.inputs)
        if self._watch_gradients:
            self.notify(
                "on_grad_computed",
                named_parameters=move.named_parameters,
                batch=batch,
                training=True,
            )
        move.follow_schedule(batch.progress)
        move.optimizer.step()
        if move.player.after_step is not None:
            with torch.no_grad():
                move.player.after_step(self.module_)
        return value

    def _evaluate(self, move, batch):
        """The loss of each member, or of the one network there is."""
        # Losses may differentiate by their input, so gradients stay on.
        with self._precision():
            loss = move.player.loss(self.module_, batch).detach()
        share = self._share(loss, batch)
        return loss if share is None else (loss * share).sum(-1)

    def _check_last_step(self):
        """No loss has been seen after the last step: look at one."""
        if self.watch is None and len(self.history) and "train_loss" in self.history[-1]:
            self.module_.eval()
            value = self._evaluate(self._moves[0], self._last_batch).mean().item()
            if not math.isfinite(value):
                raise self._diverged(self.players[0], value, epoch_began_well=False)

    def _share(self, loss, batch):
        """Each event's share in the mean loss, which starts the backward pass.

        Weights are relative to the mean weight of all events, not of the batch: the steps of an
        epoch then add up to that of the whole sum Σwl/Σw, however rare the heavy events are.
        """
        if loss.ndim == 0:
            return None
        if batch.sample_weight is not None:
            share = batch.sample_weight / (batch.mean_weight * loss.shape[-1])
            return share.to(loss.dtype)
        key = (loss.shape, loss.dtype)
        if key not in self._shares:
            self._shares[key] = torch.full_like(loss, 1 / loss.shape[-1], requires_grad=False)
        return self._shares[key]

    def _precision(self):
        if not self.mixed_precision:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def _record_batch(self, prefix, loss, batch):
        self.history.record_batch(f"{prefix}_loss", float(loss))
        self.history.record_batch(f"{prefix}_batch_size", len(batch))

    def _record(self, name, value):
        self.history.record(name, value)
        # Checkpoints of skorch save when the loss they monitor is the best so far.
        self.history.record(f"{name}_best", value < self._lowest.get(name, math.inf))
        self._lowest[name] = min(value, self._lowest.get(name, math.inf))

    def _diverged(self, player, value, *, epoch_began_well):
        error = TrainingDivergedError(
            f"The loss of player {player.name!r} became {value} in epoch {len(self.history)}, "
            f"after {self._batch} steps. Try a smaller learning_rate or gradient clipping "
            "(callbacks=[skorch.callbacks.GradientNormClipping(1.0)]), and look for outliers in X "
            "and y. The last state with finite losses is kept."
        )
        error.epoch_began_well = epoch_began_well
        return error

    def _restore(self, tensors):
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, tensors)

    def _drop_unfinished_epoch(self):
        needed = {"train_loss"} if self.watch is None else {"train_loss", "valid_loss"}
        if len(self.history) and not needed <= set(self.history[-1]):
            self.history.pop()


class _Move:
    """A player at the table: its parameters and its optimizer."""

    def __init__(self, module, player):
        self.player = player
        named = dict(module.named_parameters())
        if player.parameters is not None:
            own = {id(parameter) for parameter in player.parameters(module)}
            named = {name: p for name, p in named.items() if id(p) in own}
        self.named_parameters = [(name, p) for name, p in named.items() if p.requires_grad]
        self.parameters = [p for _, p in self.named_parameters]
        self.optimizer = player.optimizer(self.parameters)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        # Gradients of what others move would be computed in vain, and spoil their clipping.
        whole = sum(p.requires_grad for p in module.parameters()) == len(self.parameters)
        self.inputs = None if whole else self.parameters

    def follow_schedule(self, progress):
        if self.player.schedule is None:
            return
        factor = self.player.schedule(progress)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

    def state(self):
        return type(self.optimizer).__name__, self.optimizer.state_dict()

    def go_on(self, state):
        """Take over moments and step counts, not the settings: those may have been changed."""
        name, state = state
        if name == type(self.optimizer).__name__:
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["state"]})


def _check_callbacks(callbacks):
    for _, callback in callbacks:
        if isinstance(callback, EpochScoring | BatchScoring | PassthroughScoring):
            raise ValueError(
                f"The 'callbacks' parameter holds a {type(callback).__name__}, which scores "
                "predictions of a skorch net; training here has losses only. Watch the history's "
                "train_loss and valid_loss, or score with cross_validate."
            )


def _overrides(callbacks, *hooks):
    return any(
        getattr(type(callback), hook) is not getattr(Callback, hook)
        for _, callback in callbacks
        for hook in hooks
    )


def _total(loss, share):
    """Σwl/Σw over events, and the mean over members."""
    if share is None:
        return loss
    total = torch.dot(loss.flatten(), share.flatten())
    return total if loss.ndim == 1 else total / len(loss)
