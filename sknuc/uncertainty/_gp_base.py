r"""What Gaussian-process estimators share: their parameters, features, and the way they learn.

Hyper-parameters are learnt on nested subsets of the events, each four times as large as the one
before; see :mod:`sknuc.uncertainty._gp_search` for why that is fast. Up to `max_exact_samples`
distinct events the last of them is all events; beyond, it is the sparse bound on all events.
"""

import copy
import inspect
import warnings
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import nn

from sknuc.base import center_and_scale, levels_to_user, validate_events
from sknuc.multiplicity import group_identical
from sknuc.nn import FeatureNorm, Standardize
from sknuc.torch_estimator import TorchEstimator
from sknuc.uncertainty._gp_evidence import (
    Observations,
    Prior,
    choose_inducing,
)
from sknuc.uncertainty._gp_kernels import KERNELS, gpytorch, lengthscales, make_kernel

__all__ = ["GaussianProcess", "distinct_events", "resolve_device"]

# The ratio of the sizes of subsets, the smallest of them, and the largest ahead of a sparse bound.
_RATIO = 4
_SMALLEST = 200
_LARGEST = 2000

# Expected gain in nats at which the search on a subset ends.
_COARSE = 1e-2


class GaussianProcess(BaseEstimator):
    """Base class of regressor and classifier.

    Parameters
    ----------
    kernel : {"matern52", "matern32", "matern12", "rbf", "rq", "periodic", "linear"} or \
            gpytorch.kernels.Kernel, default="matern52"
        Covariance of the function. Objects, sums and products of them, read standardised features;
        they are copied, and their constraints and priors are kept.
    mean : {"constant", "linear", "zero"}, default="constant"
        What the function is far from all data. Coefficients have the prior N(0, 1) for the
        constant and N(0, v) with a learned v for the slopes, in standardised units, and are
        integrated out: their uncertainty is part of every prediction.
    ard : bool, default=True
        One lengthscale for each feature, of kernels by name.
    encoder : encoder or None, default=None
        A network in front of the kernel, learned together with it (deep kernel): an object of
        :mod:`sknuc.encoders`, or your own with a method ``build(input_shape)``. None gives the
        kernel the features of the event themselves. Deep kernels have many parameters, and may
        overfit where events are few.
    input_shape : tuple of int or None, default=None
        How to read a row of a table ``X`` as an event, for the encoder.
    standardize : bool, default=True
        Shift and scale the input to mean 0 and standard deviation 1.
    max_exact_samples : int, default={max_exact_samples}
        The largest number of distinct events that are treated exactly, in O(n³) operations and
        32 n² bytes; beyond, the process is sparse.
    n_inducing : int, default=500
        Inducing events m of the sparse process, in O(n m²) operations.
    n_restarts : int, default=0
        Further searches, from random hyper-parameters, on the smallest subset of events.
    max_iter : int, default=200
        Most steps of each search; 0 keeps the hyper-parameters as they are given.
    tol : float, default={tol}
        The search has converged when a further step promises less of the log evidence, in nats.
    device : str, default="auto"
        "auto" takes a CUDA device where there is one; or a name as torch knows it. Computations
        are in float64, whatever the type of `X`.
    random_state : int, RandomState or None, default=None
        Seed of subsets, restarts and of the encoder's initial weights.
    """

    _parameter_constraints: dict = {
        "kernel": [StrOptions(set(KERNELS)), gpytorch.kernels.Kernel],
        "mean": [StrOptions({"zero", "constant", "linear"})],
        "ard": ["boolean"],
        "encoder": [HasMethods("build"), None],
        "input_shape": ["array-like", None],
        "standardize": ["boolean"],
        "max_exact_samples": [Interval(Integral, 0, None, closed="left")],
        "n_inducing": [Interval(Integral, 1, None, closed="left")],
        "n_restarts": [Interval(Integral, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "device": [str, torch.device],
        "random_state": ["random_state"],
    }

    def __init_subclass__(cls, **kwargs):
        """Write the documentation of the shared parameters into the subclass's."""
        super().__init_subclass__(**kwargs)
        if cls.__doc__ and GaussianProcess.__doc__:
            shared = GaussianProcess.__doc__.split("----------\n", 1)[1].rstrip() + "\n"
            for name, parameter in inspect.signature(cls.__init__).parameters.items():
                shared = shared.replace(f"{{{name}}}", str(parameter.default))
            cls.__doc__ = cls.__doc__.replace("    {shared_parameters}\n", shared)

    def _validate_events(self, X, *, reset):
        return validate_events(self, X, reset=reset)

    def _tensor(self, X):
        X = torch.tensor(X, dtype=torch.float64)
        return X.reshape(len(X), *self.input_shape_)

    def _make_prior(self, X, weight, rng, noise, *, learn_noise, n_noises=1):
        """Build network and kernel for events (n, n_features) with weights."""
        X = self._tensor(X)
        if self.encoder is None:
            shift, scale = torch.zeros(()), torch.ones(X[0].shape)
            if self.standardize:
                shift, scale = map(torch.from_numpy, _center_and_scale(X.numpy(), weight))
            network = nn.Sequential(Standardize(shift, scale), nn.Flatten())
            self._feature_scale = scale.double().reshape(-1).numpy()
            n_features = self.n_features_in_
        else:
            network, n_features = self._deep_network(X, weight, rng)
            self._feature_scale = np.ones(n_features)
        kernel = make_kernel(self.kernel, n_features, ard=self.ard, mean=self.mean)
        network = network.double().eval()
        return Prior(network, kernel, noise, learn_noise=learn_noise, n_noises=n_noises)

    def _deep_network(self, X, weight, rng):
        hall = TorchEstimator(encoder=self.encoder)
        hall.input_shape_ = self.input_shape_
        source = _Rows(X)
        rows = np.arange(len(X))
        scaling = nn.Identity()
        if self.standardize:
            scaling = source.transform = hall._standardize(source, rows, weight).double()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.randint(2**31 - 1)))
            encoder, n_features = hall._encoder()
        # Features of spread 1, for which lengthscales and their bounds are made.
        network = nn.Sequential(encoder, FeatureNorm(n_features)).double()
        hall._measure_features(network, source, rows, weight)
        return nn.Sequential(scaling, network), n_features

    def _learn(self, prior, X, rng, learn):
        """Learn the hyper-parameters, and return what was observed.

        Parameters
        ----------
        prior : Prior
        X : Tensor of shape (n, *input_shape)
        rng : RandomState
        learn : callable
            ``learn(observations, rows, memory, tol) -> Optimum``: moves the prior's parameters to
            the best ones for the events `rows`.

        Returns
        -------
        observations : Observations
            Of all events.
        optimum : Optimum
        """
        n = len(X)
        exact = n <= self.max_exact_samples
        sizes = [n if exact else max(1, min(n // 2, _LARGEST))]
        while self.encoder is None and self.max_iter and sizes[-1] >= _RATIO * _SMALLEST:
            sizes.append(sizes[-1] // _RATIO)
        order = rng.permutation(n)
        optimum = before = None
        for size in reversed(sizes):
            if size < n:
                rows = torch.from_numpy(np.sort(order[:size])).to(X.device)
                tol = max(self.tol, _COARSE)
            else:
                rows, tol = torch.arange(n, device=X.device), self.tol
            observed = Observations(prior, X[rows])
            new = learn(observed, rows, _scaled(optimum, size, before), tol)
            optimum = self._restart(
                prior, rng, new, partial(learn, observed, rows, [], tol), before
            )
            before = size
        # The choice of inducing events reads the kernel, which is then learned with them.
        for _ in range(0 if exact else 2 if self.max_iter else 1):
            observed = Observations(prior, X, choose_inducing(prior, X, self.n_inducing, rng))
            rows = torch.arange(n, device=X.device)
            optimum = learn(observed, rows, _scaled(optimum, n, before), self.tol)
            before = n
        if self.max_iter and not optimum.converged:
            warnings.warn(
                f"The search for hyper-parameters has not converged after max_iter={self.max_iter} "
                "steps. Raise max_iter or tol, or set max_iter=0 to keep the given ones.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )
        if observed.jitter:
            warnings.warn(
                "The covariance matrix was not positive definite: a variance of "
                f"{observed.jitter:.1g} was added to its diagonal, in units of the targets' "
                "variance. Let the noise be learned, or give a larger one.",
                UserWarning,
                stacklevel=levels_to_user(),
            )
        return observed, optimum

    def _restart(self, prior, rng, optimum, search, before):
        """Search from random hyper-parameters, and keep the best of all ends."""
        if before is not None or self.max_iter == 0:
            return optimum
        own = [p for p in (*prior.kernel.parameters(), *prior.own_parameters()) if p.requires_grad]
        initial = [p.detach().clone() for p in own]
        for _ in range(self.n_restarts):
            for parameter, center in zip(own, initial, strict=True):
                noise = torch.from_numpy(rng.standard_normal(tuple(center.shape)))
                parameter.data = center + noise.to(center)
            new = search()
            if new.value < optimum.value:
                optimum = new
        prior.place(optimum.theta)
        return optimum

    @property
    def kernel_(self):
        """The learned kernel, which reads standardised features or those of the encoder."""
        return self._prior.kernel

    @property
    def lengthscales_(self):
        """The lengthscale of each feature, in its units.

        Of the first radial kernel among the terms and factors; infinite for features that it does
        not read, and None where there is none: linear and periodic ones have no length.
        """
        scales = lengthscales(self._prior.kernel, len(self._feature_scale))
        return None if scales is None else scales.cpu().numpy() * self._feature_scale

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_posterior")

    def __getstate__(self):
        # A model fitted on a GPU loads on a machine without one.
        state = super().__getstate__()
        if "_posterior" in state and self._posterior.weights.device.type != "cpu":
            pair = copy.deepcopy((self._prior, self._posterior))
            state = {**state, "_prior": pair[0].cpu(), "_posterior": pair[1].cpu()}
        return state


def _center_and_scale(X, weight):
    """Mean and standard deviation of every feature, which must leave others to be told apart."""
    with np.errstate(over="ignore", invalid="ignore"):
        shift, scale = center_and_scale(X, weight)
        # Of the largest numbers, sums overflow as well.
        if not np.all(np.isfinite(shift + scale**2)):
            raise ValueError(
                "The squares of the values in X overflow float64, and so the input cannot be "
                "standardised. Give X in another unit, or standardize=False with features of your "
                "own scaling."
            )
    return shift, scale


class _Rows:
    """Events in memory, as those who standardise them read them."""

    transform = None
    dtype = torch.float64

    def __init__(self, X):
        self.X = X
        self.row_bytes = 8 * X[0].numel()

    def take(self, rows):
        """Return the events `rows`, transformed."""
        X = self.X[torch.as_tensor(rows)]
        return X if self.transform is None else self.transform(X)


def _scaled(optimum, size, before):
    """Curvature of a search on `before` events, for `size` events."""
    if optimum is None:
        return []
    return [(moved, change * (size / before)) for moved, change in optimum.memory]


def resolve_device(device):
    """The device of the parameter `device`, which must know float64."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device, dtype=torch.float64)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"The 'device' parameter is {device!r}, which cannot compute in float64 on this "
            f"machine ({str(error).splitlines()[0]}). Use 'auto' or 'cpu'."
        ) from error
    return torch.device(device)


def distinct_events(X, weight, noise=None):
    """Find the distinct events.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
    weight : ndarray of shape (n,) or None
    noise : ndarray of shape (n, n_targets) or None
        Known variances, which make events different, too.

    Returns
    -------
    first : ndarray of shape (m,)
        A row of each distinct event of positive weight, in an order that follows from their
        values alone.
    group : ndarray of shape (n,)
        Which distinct event each one is; -1 for those without weight.
    total : ndarray of shape (m,)
        The sums of the weights.
    """
    used = np.arange(len(X)) if weight is None else np.flatnonzero(weight)
    first, groups = group_identical(X[used], None if noise is None else noise[used])
    group = np.full(len(X), -1)
    group[used] = groups
    weights = None if weight is None else weight[used]
    total = np.bincount(groups, weights=weights).astype(np.float64)
    return used[first], group, total
