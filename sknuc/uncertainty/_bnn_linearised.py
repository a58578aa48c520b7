"""Networks linearised where training left them: Laplace's method."""

import copy

import numpy as np
import torch
from torch import nn

from sknuc.multiplicity import group_identical
from sknuc.uncertainty._laplace import jacobian, last_layer_jacobian
from sknuc.uncertainty._posterior import LayerPrior

__all__ = ["LaplaceInference"]

# Laplace of all layers: a matrix of at most so many rows is factorised some thirty times (seconds,
# and what is taken without being asked), and at most so many numbers (256 MiB) are kept.
_LARGEST_MATRIX = 2000
_QUICK_MATRIX = 500
_LARGEST_JACOBIAN = 2**25


class LaplaceInference:
    """What Bayesian estimators do for inference="laplace"."""

    def _infer_laplace(self, X, y, sample_weight, likelihood, total):
        scaling, stack = self.module_
        network = stack.member(0).eval()
        self.module_ = nn.Sequential(scaling, network)
        # An event twice is one of weight 2, also where their number decides.
        rows, sample_weight = _distinct_events(X, y, sample_weight)
        X, y = X[rows], y[rows]
        self._last_layer = self._takes_last_layer(network, len(rows))
        head = network[1] if self._last_layer else network
        prior = copy.copy(self._prior)
        if self._last_layer:
            prior = LayerPrior(head, self._prior.scale)
        mode = torch.cat([p.detach().flatten() for p in head.parameters()]).cpu().double()
        prior.to(mode)
        x, y, weight = self._tensors(X, y, sample_weight)
        jacobians, outputs = self._jacobians(x)
        y = y.cpu().double() if y.is_floating_point() else y.cpu()
        weight = None if weight is None else weight.cpu().double()
        self._laplace = self._fit_laplace(jacobians, outputs, y, weight, prior, mode)
        self.log_evidence_ = self._laplace.log_evidence
        noise = self._laplace.noise[None] if likelihood.has_noise else None
        self._keep_hyperparameters(self._laplace.scales[None], noise)

    def _takes_last_layer(self, network, n):
        if self.laplace_layers == "last":
            return True
        p = sum(parameter.numel() for parameter in network.parameters())
        outputs = self._n_outputs()
        m, rows = n * outputs, min(n, p) * outputs
        recurrent = any(isinstance(layer, nn.RNNBase) for layer in network.modules())
        largest = _LARGEST_MATRIX if self.laplace_layers == "all" else _QUICK_MATRIX
        fits = rows <= largest and m * p <= _LARGEST_JACOBIAN and not recurrent
        if self.laplace_layers == "all" and not fits:
            why = "has recurrent layers" if recurrent else f"has {p} parameters"
            raise ValueError(
                "laplace_layers='all' needs a network without recurrent layers, and at most "
                f"{_LARGEST_MATRIX} events × outputs or parameters × outputs. Got {n} different "
                f"events, {outputs} outputs, and a network that {why}. Use laplace_layers='auto' "
                "or another inference."
            )
        return not fits

    def _jacobians(self, x):
        """Derivatives (n, o, P) and outputs (n, o) for scaled events, in float64 on the CPU."""
        # Not every device has float64.
        device = "cpu" if x.device.type == "mps" else x.device
        network = copy.deepcopy(self.module_[1]).to(device).double()
        x = x.to(device).double()
        function = last_layer_jacobian if self._last_layer else jacobian
        parts = [function(network, x[i : i + 256]) for i in range(0, len(x), 256)]
        outputs, jacobians = zip(*parts, strict=True)
        return torch.cat(jacobians).detach().cpu(), torch.cat(outputs).detach().cpu()


def _distinct_events(X, y, sample_weight):
    """Rows of the distinct events of a weight that is not zero, and their sums of weights."""
    used = np.arange(X.shape[0]) if sample_weight is None else np.flatnonzero(sample_weight)
    table = np.asarray(X[used]).reshape(len(used), -1)
    first, group = group_identical(table, y[used])
    if len(first) == len(used):
        return used, None if sample_weight is None else sample_weight[used]
    weight = None if sample_weight is None else sample_weight[used]
    # In the order in which they came.
    order = np.argsort(first)
    return used[first[order]], np.bincount(group, weights=weight)[order].astype(np.float64)
