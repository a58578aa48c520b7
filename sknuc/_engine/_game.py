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
from skorch.callbacks import Callback
from torch import nn

from sknuc._engine._callbacks import KeepBest, ProgressBar, StopTraining
from sknuc._engine._device import needs_mixed_precision
from sknuc.exceptions import TrainingDivergedError

__all__ = ["Player", "TrainingResult", "train"]


@dataclass
class Player:
    """Who moves which parameters to lower which loss.

    Parameters
    ----------
    loss : callable
        ``loss(module, batch) -> tensor`` of shape (n,), one value per event, which the engine
        averages with the events' weights, or (n_members, n) for stacked members, whose averages
        are added. A 0-d tensor is taken as it is (penalties, statistics of whole batches).
    name : str
        Names the player in the history (``train_loss`` for the first, ``train_<name>_loss`` for
        the others) and in errors.
    parameters : callable or None
        ``parameters(module) -> iterable of Parameter``; None for all of them.
    optimizer : callable
        ``optimizer(parameters) -> torch.optim.Optimizer``.
    every : int
        The player moves in every so many batches: a critic with ``every=1`` and a generator with
        ``every=5`` are a Wasserstein GAN's five critic steps per generator step.
    """

    loss: Callable[[nn.Module, object], torch.Tensor]
    name: str = "loss"
    parameters: Callable[[nn.Module], Iterable[nn.Parameter]] | None = None
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    every: int = 1


@dataclass
class TrainingResult:
    """What training leaves behind beside the module, which is trained in place."""

    history: skorch.history.History
    optimizer_states: list[dict] = field(default_factory=list)
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
        If a loss is NaN or infinite. The module is put back to its last good state; the error
        carries the result until then.
    """
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
        return [*callbacks, ("progress", ProgressBar())] if self.verbose else callbacks

    def initialize_module(self):
        self.module_ = self.module
        return self

    def initialize_criterion(self):
        self.criterion_ = nn.Module()
        return self

    def initialize_optimizer(self, *_, **__):
        self._moves = []
        for player in self.players:
            parameters = (
                self.module_.parameters()
                if player.parameters is None
                else (player.parameters(self.module_))
            )
            parameters = [p for p in parameters if p.requires_grad]
            optimizer = player.optimizer(parameters)
            first = player is self.players[0]
            setattr(self, "optimizer_" if first else f"{player.name}_optimizer_", optimizer)
            self._moves.append((player, optimizer, parameters))
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
        self.initialize()
        if history is not None:
            self.history = history
        for (_, optimizer, _), state in zip(self._moves, optimizer_states or [], strict=False):
            optimizer.load_state_dict(state)
        self._watch_gradients = _overrides(self.callbacks_, "on_grad_computed")
        self.n_batches = data.n_batches
        self._batch = 0
        self._lowest = {}
        self._shares = {}
        self._tensors = list(self.module_.state_dict(keep_vars=False).values())
        self._good = [t.clone() for t in self._tensors]
        n_before = len(self.history)
        self.module_.train()
        interrupted = False
        self.notify("on_train_begin", X=data, y=valid)
        try:
            self.fit_loop(data, valid)
        except StopTraining:
            pass
        except KeyboardInterrupt:
            interrupted = True
        except TrainingDivergedError as error:
            self._restore()
            self._drop_unfinished_epoch()
            error.result = self._result(interrupted=False)
            error.n_epochs = len(self.history) - n_before
            raise
        finally:
            self.module_.eval()
            self.module_.zero_grad(set_to_none=True)
            self._close_progress()
        self._drop_unfinished_epoch()
        self.notify("on_train_end", X=data, y=valid)
        if interrupted:
            kept = "the best epoch" if self.watch is not None else "what was learnt so far"
            warnings.warn(
                f"Training was interrupted in epoch {len(self.history) + 1 - n_before} of "
                f"{self.max_epochs}; {kept} is kept.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return self._result(interrupted)

    def notify(self, method_name, **kwargs):
        with self._callback_may_stop():
            super().notify(method_name, **kwargs)

    @contextlib.contextmanager
    def _callback_may_stop(self):
        try:
            yield
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
        hooks = _overrides(self.callbacks_, "on_batch_begin", "on_batch_end")
        moves = self._moves if training else self._moves[:1]
        step = self._step if training else self._evaluate
        sums = [0.0] * len(moves)
        weights = [0.0] * len(moves)
        n_batches = 0
        for batch in iterator:
            if hooks:
                self.notify("on_batch_begin", batch=batch, training=training)
            batch.progress = min(1.0, self._batch / (self.max_epochs * self.n_batches))
            weight = _total_weight(batch)
            for i, move in enumerate(moves):
                if training and self._batch % move[0].every:
                    continue
                loss = step(move, batch)
                sums[i] += loss * weight
                weights[i] += weight
            if training:
                self._batch += 1
            n_batches += 1
            if hooks:
                self.history.record_batch(f"{prefix}_loss", loss)
                self.history.record_batch(f"{prefix}_batch_size", len(batch))
                self.notify("on_batch_end", batch=batch, training=training, loss=loss)
        for i, (player, _, _) in enumerate(moves):
            name = f"{prefix}_loss" if i == 0 else f"{prefix}_{player.name}_loss"
            if weights[i]:
                value = float(sums[i]) / float(weights[i])
                if not math.isfinite(value):
                    raise self._diverged(player, value)
                self._record(name, value)
        self.history.record(f"{prefix}_batch_count", n_batches)
        if training:
            torch._foreach_copy_(self._good, self._tensors)
            self.history.record("dur", time.perf_counter() - start)

    def _step(self, move, batch):
        player, optimizer, parameters = move
        for parameter in parameters:
            parameter.grad = None
        with self._precision():
            loss = player.loss(self.module_, batch)
        share = self._share(loss, batch.sample_weight)
        value = _total(loss.detach(), share)
        # On an accelerator, reading the value would make every step wait: there the sum is
        # looked at once an epoch, and the epoch's start is what is kept.
        if value.device.type == "cpu":
            value = value.item()
            if not math.isfinite(value):
                raise self._diverged(player, value)
        loss.backward(share, inputs=None if len(self._moves) == 1 else parameters)
        if self._watch_gradients:
            self.notify(
                "on_grad_computed",
                named_parameters=list(self.module_.named_parameters()),
                batch=batch,
                training=True,
            )
        optimizer.step()
        return value

    def _evaluate(self, move, batch):
        with torch.no_grad(), self._precision():
            loss = move[0].loss(self.module_, batch)
            return _total(loss, self._share(loss, batch.sample_weight)).item()

    def _share(self, loss, weight):
        """Each event's share in the mean loss, w/Σw, which starts the backward pass."""
        if loss.ndim == 0:
            return None
        if weight is not None:
            # A bootstrapped member can draw no event of a batch: it rests, instead of 0/0.
            total = weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
            return (weight / total).to(loss.dtype)
        key = (loss.shape, loss.dtype)
        if key not in self._shares:
            self._shares[key] = torch.full_like(loss, 1 / loss.shape[-1], requires_grad=False)
        return self._shares[key]

    def _precision(self):
        if not self.mixed_precision:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16)

    def _record(self, name, value):
        self.history.record(name, value)
        # Checkpoints of skorch save when the loss they monitor is the best so far.
        self.history.record(f"{name}_best", value < self._lowest.get(name, math.inf))
        self._lowest[name] = min(value, self._lowest.get(name, math.inf))

    def _diverged(self, player, value):
        return TrainingDivergedError(
            f"The loss of player {player.name!r} became {value} in epoch {len(self.history)}, "
            f"batch {self._batch % self.n_batches + 1} of {self.n_batches}. Try a smaller "
            "learning_rate, standardize=True or gradient clipping "
            "(callbacks=[skorch.callbacks.GradientNormClipping(1.0)]), and look for outliers in X "
            "and y. The state before that epoch is kept."
        )

    def _restore(self):
        with torch.no_grad():
            torch._foreach_copy_(self._tensors, self._good)

    def _drop_unfinished_epoch(self):
        if len(self.history) and "train_loss" not in self.history[-1]:
            self.history.pop()

    def _close_progress(self):
        for _, callback in self.callbacks_:
            if isinstance(callback, ProgressBar):
                callback.close()

    def _result(self, interrupted):
        states = [optimizer.state_dict() for _, optimizer, _ in self._moves]
        return TrainingResult(self.history, states, interrupted)


def _overrides(callbacks, *hooks):
    return any(
        getattr(type(callback), hook) is not getattr(Callback, hook)
        for _, callback in callbacks
        for hook in hooks
    )


def _total(loss, share):
    """Σwl/Σw over events; the members' means are added, so that each gets its own gradient."""
    return loss if share is None else torch.dot(loss.flatten(), share.flatten())


def _total_weight(batch):
    if batch.sample_weight is None:
        return len(batch)
    total = batch.sample_weight.sum()
    return total.item() if total.device.type == "cpu" else total
