"""The engine's own callbacks: early stopping that keeps the best state, and the progress bar."""

import math

import torch
from skorch.callbacks import Callback
from tqdm.auto import tqdm

__all__ = ["KeepBest", "ProgressBar", "StopTraining"]


class StopTraining(Exception):
    """Ends the training as if its last epoch were done."""


class KeepBest(Callback):
    """Watch the loss on held-out events, stop when it no longer falls, go back to the best.

    Parameters
    ----------
    n_iter_no_change : int or None
        Epochs without an improvement of at least `tol` after which training stops; None never
        stops, and still goes back to the best epoch at the end.
    tol : float
        The improvement that counts.
    """

    def __init__(self, n_iter_no_change, tol):
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.best_epoch_ = None

    def on_train_begin(self, net, **_):
        self.best_loss_ = math.inf
        self.best_epoch_ = None
        self._to_beat = math.inf
        self._n_without = 0
        self._best = [t.clone() for t in net._tensors]

    def on_epoch_end(self, net, **_):
        loss = net.history[-1, "valid_loss"]
        if loss < self.best_loss_:
            torch._foreach_copy_(self._best, net._tensors)
            self.best_loss_ = loss
            self.best_epoch_ = len(net.history)
        if loss < self._to_beat - self.tol:
            self._to_beat = loss
            self._n_without = 0
            return
        self._n_without += 1
        if self._n_without == self.n_iter_no_change:
            raise StopTraining

    def on_train_end(self, net, **_):
        if self.best_epoch_ is not None:
            self.restore(net)

    def restore(self, net):
        """Put the network back to its best epoch."""
        with torch.no_grad():
            torch._foreach_copy_(net._tensors, self._best)


class ProgressBar(Callback):
    """One bar for the whole training: batches done, epoch, losses, time left.

    Parameters
    ----------
    n_steps : int
        Batches of the whole training.
    """

    def __init__(self, n_steps):
        self.n_steps = n_steps
        self._bar = None

    def on_train_begin(self, net, **_):
        self._bar = tqdm(total=self.n_steps, unit="batch", dynamic_ncols=True, mininterval=0.5)

    def on_epoch_begin(self, net, **_):
        self._bar.set_description(f"epoch {len(net.history)}/{net.max_epochs}", refresh=False)

    def advance(self):
        """One more batch is done."""
        self._bar.update()

    def on_epoch_end(self, net, **_):
        losses = {
            key.removesuffix("_loss"): f"{value:.4g}"
            for key, value in net.history[-1].items()
            if key.endswith("_loss")
        }
        self._bar.set_postfix(losses, refresh=False)

    def close(self):
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
