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

    Members of a stack are watched one by one: each goes back to its own best epoch, as if it had
    been trained alone.

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
        self.best_epoch_ = None
        self._best_loss = self._to_beat = torch.tensor(math.inf)
        self._n_without = torch.tensor(0)
        self._best = [t.clone() for t in self._watched(net)]

    def on_epoch_end(self, net, **_):
        # Of one network a number; stacked members have one each, and stop one by one.
        loss = net.member_losses.cpu()
        waiting = self._n_without < (self.n_iter_no_change or math.inf)
        better = (loss < self._best_loss) & waiting
        if better.any():
            tensors = self._watched(net)
            if better.ndim:
                for best, tensor in zip(self._best, tensors, strict=True):
                    best[better] = tensor[better]
            else:
                torch._foreach_copy_(self._best, tensors)
            self._best_loss = torch.where(better, loss, self._best_loss)
            self.best_epoch_ = len(net.history)
        enough = (loss < self._to_beat - self.tol) & waiting
        self._to_beat = torch.where(enough, loss, self._to_beat)
        self._n_without = torch.where(enough, 0, self._n_without + waiting)
        if not (self._n_without < (self.n_iter_no_change or math.inf)).any():
            raise StopTraining

    @staticmethod
    def _watched(net):
        stacked = getattr(net.module_, "member_tensors", None)
        return net._tensors if stacked is None else stacked()

    def on_train_end(self, net, **_):
        if self.best_epoch_ is not None:
            self.restore(net)

    def restore(self, net):
        """Put the network back to its best epoch."""
        with torch.no_grad():
            torch._foreach_copy_(self._watched(net), self._best)


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
