r"""Gaussian processes in tensors: prior, evidence and posterior, exact and sparse.

A latent function :math:`f\sim GP(0,k)` is seen through Gaussian noise, :math:`z_i\sim N(f(x_i),
D_i)`, with a variance of its own for each event. All that is learnt comes from the evidence

.. math:: \log N(z; 0, K+D) = -\tfrac12 z^T\alpha - \tfrac12\log|K+D| - \tfrac n2\log 2\pi,
          \qquad \alpha=(K+D)^{-1}z ,

whose derivative by the matrix is :math:`\tfrac12(\alpha\alpha^T-(K+D)^{-1})`: one Cholesky
decomposition and one inverse, from which automatic differentiation goes on to kernel and network.
Where n³ is too much, f is carried by its values at m inducing events u, and the evidence has the
bound of Titsias with :math:`Q=K_{fu}K_{uu}^{-1}K_{uf}`,

.. math:: \log N(z;0,Q+D) - \tfrac12\mathrm{tr}\,D^{-1}(K-Q) ,

in n·m² operations; its sums over events are made in blocks and made again in the backward pass, so
that memory stays bounded. The inducing events are training events, each the one whose value is
least known from those before it (Burt et al.).

References
----------
C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, chapters 2, 5.
M. Titsias, "Variational Learning of Inducing Variables in Sparse Gaussian Processes", AISTATS 2009.
D. Burt, C. Rasmussen, M. van der Wilk, "Convergence of Sparse Variational Inference in Gaussian
Processes Regression", JMLR 21 (2020) 131, arXiv:2008.00323.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sknuc.uncertainty._gp_kernels import LogInterval, covariance, variances
from sknuc.uncertainty._gp_search import minimise

__all__ = [
    "NotPositiveDefiniteError",
    "Observations",
    "Posterior",
    "Prior",
    "choose_inducing",
    "maximise",
]

_LOG_2PI = math.log(2 * math.pi)

# Of the noise, for targets of variance 1. Below the lower end matrices of some thousand events
# lose their last digit.
_NOISE_BOUNDS = (1e-8, 1e2)

# Events whose features, or covariances with the inducing events, are in memory at a time.
_ROWS = 2048

# Added to the diagonal where it must be, in turn; shares of the mean variance of the function.
_JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4)

# Candidates among which inducing events are chosen.
_CANDIDATES = 20_000


class NotPositiveDefiniteError(ArithmeticError):
    """A covariance matrix has no Cholesky factor in this precision."""


class Prior(nn.Module):
    """Network, kernel and noise: what is learnt from the data.

    Parameters
    ----------
    network : nn.Module
        From events (n, *input_shape) to the kernel's features (n, n_features).
    kernel : gpytorch.kernels.Kernel
    noise : float
        Variance of the noise, or where its search starts.
    learn_noise : bool
    n_noises : int, default=1
        Variances that are learned, one for each target.
    """

    def __init__(self, network, kernel, noise, *, learn_noise, n_noises=1):
        super().__init__()
        self.network = network
        self.kernel = kernel
        self.learn_noise = learn_noise
        if learn_noise:
            self.noise_constraint = LogInterval(*_NOISE_BOUNDS).double()
            noise = self.noise_constraint.inverse_transform(torch.tensor(noise).double())
            self.raw_noise = nn.Parameter(noise.repeat(n_noises))
        else:
            self.register_buffer("raw_noise", torch.tensor(noise).double())

    @property
    def noise(self):
        """The variance of the noise, of shape (n_noises,) where it is learned."""
        return (
            self.noise_constraint.transform(self.raw_noise) if self.learn_noise else self.raw_noise
        )

    def forward(self, X):
        """Features (n, n_features), in float64, of events."""
        if next(self.network.parameters(), None) is None or not torch.is_grad_enabled():
            return torch.cat([self.network(block) for block in X.split(_ROWS)])
        # The activations of a network for all events would not fit into memory.
        blocks = X.split(_ROWS // 4)
        return torch.cat([checkpoint(self.network, block, use_reentrant=False) for block in blocks])

    def covariance(self, features):
        """Prior covariance (n, n) of the function."""
        return covariance(self.kernel, features)

    def own_parameters(self):
        """The parameters of neither network nor kernel."""
        return [self.raw_noise] if self.learn_noise else []

    def learned(self):
        """All parameters that are learned."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def place(self, theta):
        """Set the learned parameters to the vector `theta`."""
        theta = torch.from_numpy(theta).to(self.raw_noise.device)
        nn.utils.vector_to_parameters(theta, self.learned())

    def bounds(self):
        """The bounds of the learned parameters, two vectors."""
        known = {
            parameter: constraint.raw_bounds
            for _, parameter, constraint in self.kernel.named_parameters_and_constraints()
            if isinstance(constraint, LogInterval)
        }
        if self.learn_noise:
            known[self.raw_noise] = self.noise_constraint.raw_bounds
        pairs = [
            np.tile(known.get(parameter, (-np.inf, np.inf)), (parameter.numel(), 1))
            for parameter in self.learned()
        ]
        return np.concatenate([np.empty((0, 2)), *pairs]).T

    def log_density(self):
        """Log density of the priors that a kernel's parameters may have."""
        terms = (
            prior.log_prob(parameter(module)).sum()
            for _, module, prior, parameter, _ in self.kernel.named_priors()
        )
        return sum(terms, torch.zeros((), dtype=torch.float64))


class Observations:
    """What was seen of the latent function, exactly or through inducing events.

    Parameters
    ----------
    prior : Prior
    X : Tensor of shape (n, *input_shape)
    inducing : Tensor of int or None
        Rows of `X`; None is exact.
    """

    def __init__(self, prior, X, inducing=None):
        self.prior = prior
        self.X = X
        self.inducing = inducing
        self.jitter = 0.0

    def log_evidence(self, z, variance):
        """Log evidence, or its bound, of values with a known noise.

        Parameters
        ----------
        z : Tensor of shape (n, t)
        variance : Tensor of shape (n, 1) or (n, t)
            One column serves all targets with one decomposition.

        Returns
        -------
        log_evidence : Tensor, differentiable
        """
        if self.inducing is None:
            matrix = covariance(self.prior.kernel, self.prior(self.X))
            return sum(
                _LogNormal.apply(matrix, v + self.jitter, part) for v, part in _groups(z, variance)
            )
        return sum(
            self._bound(z=part, variance=v, statistics=statistics)[0]
            for (v, part), statistics in zip(
                _groups(z, variance), self._statistics(z, variance), strict=True
            )
        )

    def posterior(self, z, variance):
        """What is known of f after these observations, as a :class:`Posterior`."""
        with torch.no_grad():
            if self.inducing is None:
                features = self.prior(self.X)
                matrix = covariance(self.prior.kernel, features)
                factors = [_cholesky(matrix, v + self.jitter) for v, _ in _groups(z, variance)]
                weights = [
                    torch.cholesky_solve(part, factor)
                    for (_, part), factor in zip(_groups(z, variance), factors, strict=True)
                ]
                return Posterior(
                    self.prior.kernel, features, torch.cat(weights, 1), torch.stack(factors)
                )
            parts = [
                self._bound(part, v, statistics)[1:]
                for (v, part), statistics in zip(
                    _groups(z, variance), self._statistics(z, variance), strict=True
                )
            ]
            weights, factors, gains = zip(*parts, strict=True)
            return Posterior(
                self.prior.kernel,
                self.prior(self.X[self.inducing]),
                torch.cat(weights, 1),
                factors[0][None],
                torch.stack(gains),
            )

    def moments(self):
        """How to find the latent means and variances at the events themselves.

        Returns
        -------
        moments : callable
            ``moments(z, variance) -> mean, variance``, both of shape (n, t), for the present
            kernel, whose matrix is computed once.
        """
        with torch.no_grad():
            features = self.prior(self.X)
            if self.inducing is None:
                matrix = covariance(self.prior.kernel, features)

        def exact(z, variance):
            columns = []
            for v, part in _groups(z, variance):
                v = v + self.jitter
                factor = _cholesky(matrix, v)
                mean = part - v[:, None] * torch.cholesky_solve(part, factor)
                left = v - v.square() * torch.cholesky_inverse(factor).diagonal()
                columns.append((mean, left[:, None]))
            return tuple(torch.cat(parts, 1) for parts in zip(*columns, strict=True))

        def sparse(z, variance):
            posterior = self.posterior(z, variance)
            blocks = [(posterior.mean(u), posterior.variance(u)) for u in features.split(_ROWS)]
            return tuple(torch.cat(parts) for parts in zip(*blocks, strict=True))

        return torch.no_grad()(exact if self.inducing is None else sparse)

    def _statistics(self, z, variance):
        """Sums over events that the sparse bound needs, one set for each column of `variance`."""
        prior = self.prior
        inducing = prior(self.X[self.inducing])
        within = covariance(prior.kernel, inducing)
        # Inducing events that determine each other need a little noise of their own.
        floor = 1e-10 * within.diagonal().mean().detach() + self.jitter
        factor = _cholesky(within, floor.expand(len(within)))

        def block(inducing, factor, X, z, variance):
            features = prior.network(X)
            across = covariance(prior.kernel, inducing, features)
            # Event by event: of the sum over all, the small numbers would be lost.
            white = torch.linalg.solve_triangular(factor, across, upper=False)
            diagonal = variances(prior.kernel, features)
            sums = []
            for v, part in _groups(z, variance):
                scaled = white / v
                sums += [scaled @ white.T, scaled @ part, (diagonal / v).sum()]
            return tuple(sums)

        totals = None
        blocks = zip(self.X.split(_ROWS), z.split(_ROWS), variance.split(_ROWS), strict=True)
        for parts in blocks:
            sums = checkpoint(block, inducing, factor, *parts, use_reentrant=False)
            totals = sums if totals is None else [a + b for a, b in zip(totals, sums, strict=True)]
        return [(factor, *totals[i : i + 3]) for i in range(0, len(totals), 3)]

    def _bound(self, z, variance, statistics):
        factor, scaled, projected, trace = statistics
        n, t = z.shape
        gain = _cholesky(scaled, torch.ones_like(scaled[0]))
        c = torch.linalg.solve_triangular(gain, projected, upper=False)
        value = (
            -t * (n * _LOG_2PI + variance.log().sum()) / 2
            - t * gain.diagonal().log().sum()
            - (z.square() / variance[:, None]).sum() / 2
            + c.square().sum() / 2
            + t * (scaled.trace() - trace) / 2
        )
        weights = torch.linalg.solve_triangular(gain.T, c, upper=True)
        weights = torch.linalg.solve_triangular(factor.T, weights, upper=True)
        return value, weights, factor, gain


class Posterior(nn.Module):
    r"""The latent function given the data.

    With :math:`k = k(U, x)` the covariances with some events U and :math:`LL^T` the matrix of
    these events, the mean is :math:`k^T w` and the variance
    :math:`k(x,x) - |L^{-1}k|^2 + |G^{-1}L^{-1}k|^2`, where the last term, of sparse processes
    only, is what the data leave open of the function at U.

    Parameters
    ----------
    kernel : gpytorch.kernels.Kernel
    features : Tensor of shape (m, n_features)
        Of the events U.
    weights : Tensor of shape (m, t)
    factors : Tensor of shape (1 or t, m, m)
        The lower triangles L; one for all targets or one for each.
    gains : Tensor of shape (1 or t, m, m) or None
        The lower triangles G.
    """

    def __init__(self, kernel, features, weights, factors, gains=None):
        super().__init__()
        self.kernel = kernel
        for name, value in (
            ("features", features),
            ("weights", weights),
            ("factors", factors),
            ("gains", gains),
        ):
            self.register_buffer(name, value)

    def mean(self, features):
        """Means of shape (n, t)."""
        return covariance(self.kernel, features, self.features) @ self.weights

    def variance(self, features):
        """Variances of shape (n, t or 1)."""
        before = variances(self.kernel, features)
        columns = [
            before - known.square().sum(0) + (0 if left is None else left.square().sum(0))
            for known, left in self._reductions(features)
        ]
        # Differences of equal numbers may fall below zero by rounding.
        return torch.stack(columns, 1).clamp_min(0)

    def covariance(self, features):
        """Covariances between the events, of shape (t or 1, n, n)."""
        before = covariance(self.kernel, features)
        return torch.stack(
            [
                before - known.T @ known + (0 if left is None else left.T @ left)
                for known, left in self._reductions(features)
            ]
        )

    def _reductions(self, features):
        across = covariance(self.kernel, self.features, features)
        gains = [None] * len(self.factors) if self.gains is None else self.gains
        factors = self.factors.expand(len(gains), -1, -1)
        for factor, gain in zip(factors, gains, strict=True):
            known = torch.linalg.solve_triangular(factor, across, upper=False)
            if gain is None:
                yield known, None
            else:
                yield known, torch.linalg.solve_triangular(gain, known, upper=False)


class _LogNormal(torch.autograd.Function):
    """Log density of the columns of z under N(0, K + diag(variance))."""

    @staticmethod
    def forward(ctx, matrix, variance, z):
        factor = _cholesky(matrix, variance)
        alpha = torch.cholesky_solve(z, factor)
        ctx.save_for_backward(factor, alpha)
        n, t = z.shape
        return -(z * alpha).sum() / 2 - t * (factor.diagonal().log().sum() + n * _LOG_2PI / 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        factor, alpha = ctx.saved_tensors
        inverse = torch.cholesky_inverse(factor)
        by_matrix = torch.addmm(
            inverse, alpha, alpha.T, beta=-0.5 * alpha.shape[1], alpha=0.5
        ).mul_(gradient)
        return by_matrix, by_matrix.diagonal().clone(), None


def _cholesky(matrix, variance):
    if torch.is_grad_enabled():
        matrix = matrix + torch.diag_embed(variance)
    else:
        matrix = matrix.clone()
        matrix.diagonal().add_(variance)
    factor, info = torch.linalg.cholesky_ex(matrix)
    if info.item() or not torch.isfinite(factor.diagonal()).all():
        raise NotPositiveDefiniteError
    return factor


def _groups(z, variance):
    """Pairs of a variance (n,) and the targets (n, t) that have it."""
    if variance.shape[1] == 1:
        return [(variance[:, 0], z)]
    return list(zip(variance.T, z.split(1, dim=1), strict=True))


def choose_inducing(prior, X, n_inducing, rng):
    """Rows of `X`, each the event that is least known from those before.

    Parameters
    ----------
    prior : Prior
    X : Tensor of shape (n, *input_shape)
    n_inducing : int
    rng : RandomState
        Draws the candidates where there are too many.

    Returns
    -------
    rows : Tensor of int
    """
    candidates = torch.arange(len(X))
    if len(X) > max(_CANDIDATES, n_inducing):
        drawn = rng.choice(len(X), max(_CANDIDATES, n_inducing), replace=False)
        drawn.sort()
        candidates = torch.from_numpy(drawn)
    with torch.no_grad():
        features = prior(X[candidates.to(X.device)])
        left = variances(prior.kernel, features).clone()
        least = 1e-9 * left.max()
        reductions = left.new_empty(min(n_inducing, len(left)), len(left))
        rows = []
        for i in range(len(reductions)):
            row = int(left.argmax())
            if left[row] <= least:
                break
            across = covariance(prior.kernel, features[row : row + 1], features)[0]
            across = across - reductions[:i, row] @ reductions[:i]
            reductions[i] = across / left[row].sqrt()
            left -= reductions[i].square()
            left[row] = 0
            rows.append(row)
    return candidates[torch.tensor(rows)].to(X.device)


def maximise(observed, log_evidence, **options):
    """Move the prior's parameters to a maximum of the evidence.

    Parameters
    ----------
    observed : Observations
        Gets the least jitter with which the covariance matrix at the start is positive definite.
    log_evidence : callable
        Without arguments; returns a differentiable Tensor.
    **options : dict
        Of the search, :func:`minimise`.

    Returns
    -------
    optimum : Optimum

    Raises
    ------
    ValueError
        If a variance of 1e-4 of that of the function does not make the matrix positive definite.
    """
    prior = observed.prior
    parameters = prior.learned()

    def evaluate(theta):
        prior.place(theta)
        try:
            loss = -log_evidence()
        except NotPositiveDefiniteError:
            return math.inf, None
        value = float(loss.detach())

        def gradient():
            parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            return nn.utils.parameters_to_vector(parts).cpu().numpy()

        return (value, gradient) if math.isfinite(value) else (math.inf, None)

    if parameters:
        start = nn.utils.parameters_to_vector(parameters).detach().cpu().numpy().copy()
    else:
        start, options = np.zeros(0), {**options, "max_iter": 0}
    with torch.no_grad():
        features = prior(observed.X[:_ROWS])
        spread = float(variances(prior.kernel, features).mean())
    for jitter in _JITTERS:
        observed.jitter = jitter * spread
        optimum = minimise(evaluate, start, prior.bounds(), **options)
        if math.isfinite(optimum.value):
            prior.place(optimum.theta)
            return optimum
    raise ValueError(
        "The covariance matrix of the events is not positive definite, even with "
        f"{_JITTERS[-1]:g} of its diagonal added. Check the 'kernel' parameter: some products and "
        "functions of kernels are no covariances."
    )
