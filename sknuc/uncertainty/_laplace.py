r"""The Laplace approximation: a Gaussian posterior around a trained network.

To first order in the parameters, the network is linear,
:math:`f_\theta(x) \approx f_{\hat\theta}(x) + J(x)(\theta - \hat\theta)`, and with the Gaussian
prior :math:`S` of :class:`~sknuc.uncertainty._posterior.LayerPrior` the posterior's covariance is

.. math:: \Sigma = (S^{-1} + \Phi^T\Phi)^{-1}
          = S - S\Phi^T (1 + \Phi S\Phi^T)^{-1} \Phi S,\qquad
          \Phi = \Lambda^{1/2} J,

the generalised Gauss-Newton matrix: J holds the derivatives of all outputs for all events, (m, P),
and Λ the curvature of the loss by the outputs. The posterior is that of the linear model, found
exactly, so that the trained network need not be its mode: it only says where to linearise.

For Gaussian noise, with :math:`\tilde y = y - f + J\hat\theta`, it is Bayesian linear regression
in θ, or a Gaussian process with the kernel :math:`J S J^T`. Its evidence p(y | s, σ) is known and
is maximised for the scales and the noise, together with their priors. Where there are more events
than parameters, an orthogonal transformation leaves P numbers that depend on θ and many that are
noise alone; no squares of J are ever subtracted from each other.

For labels, the mode :math:`\theta^*` of the linear model is found by Newton's method, in turn with
the scales at the maximum of

.. math:: \log p(D|s) \approx \log p(D|\theta^*) - \tfrac12 |\theta^* - m|^2_{S^{-1}}
          - \tfrac12\log\det(1 + \Phi S\Phi^T) .

References
----------
D. MacKay, "A Practical Bayesian Framework for Backpropagation Networks", Neural Computation 4
(1992) 448.

A. Immer, M. Korzepa, M. Bauer, "Improving predictions of Bayesian neural nets via local
linearization", AISTATS 2021, arXiv:2008.08400.

J. Antorán et al., "Adapting the Linearised Laplace Model Evidence for Modern Deep Learning",
ICML 2022, arXiv:2206.08900.
"""

import math
import warnings

import torch
from torch.func import functional_call, jacrev, vmap

from sknuc.base import levels_to_user
from sknuc.uncertainty._posterior import log_density

__all__ = ["GaussianLaplace", "LabelLaplace", "jacobian", "last_layer_jacobian"]

# Steps of the search for scales and noise; it stops before when nothing moves any more.
_MAX_ITERATIONS = 100
# Of labels: turns of mode and scales, until no scale moves by more; steps of the search in a turn,
# and of Newton's method.
_MAX_TURNS, _SCALES_STAND, _STEPS_OF_TURN = 10, 1e-2, 8
_MAX_NEWTON, _NEWTON_STANDS = 50, 1e-10
# Variances below this share of a matrix' trace are lost in float64 when it is factorised.
_RESOLVED = 1e-12


def jacobian(module, x):
    """Outputs (n, o) and their derivatives (n, o, P) by all parameters."""
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def output(parameters, event):
        result = functional_call(module, parameters, (event.unsqueeze(0),)).squeeze(0)
        return result, result

    parts, outputs = vmap(jacrev(output, has_aux=True), (None, 0))(parameters, x)
    return outputs, torch.cat([part.flatten(2) for part in parts.values()], 2)


def last_layer_jacobian(module, x):
    """Outputs (n, o) and their derivatives (n, o, P) by the weights and biases of the head."""
    encoder, head = module
    with torch.no_grad():
        features = encoder(x)
        outputs = head(features)
    n, o = outputs.shape
    eye = torch.eye(o, dtype=x.dtype, device=x.device)
    weights = torch.einsum("ij,nf->nijf", eye, features).reshape(n, o, -1)
    return outputs, torch.cat([weights, eye.expand(n, o, o)], 2)


class _Laplace:
    """What both have in common: rows (m, P), and a prior with a scale for each group.

    Parameters
    ----------
    prior : LayerPrior
        Of the parameters that the Jacobians are for.
    mode : Tensor of shape (P,)
        The trained parameters.

    Attributes
    ----------
    scales : Tensor of shape (G,)
        Of the prior.
    shift : Tensor of shape (P,)
        From the trained parameters to the posterior's mean.
    """

    def __init__(self, prior, mode):
        self.prior = prior
        self.mode = mode

    def _std(self, scales):
        return self.prior.precision(scales[None])[0].rsqrt()

    def _log_prior(self, log_scales):
        """Log density of the scales, in their logarithms."""
        if not self.prior.learned:
            return 0.0
        return log_density(self.prior.degrees, self.prior.typical, log_scales).sum()

    def _kernels(self, rows):
        """Φ S Φᵀ for each tensor of parameters at a scale of one, (G, m, m)."""
        parts = (rows / self.prior.fan_in.sqrt()).split(self.prior.sizes, 1)
        return torch.stack([part @ part.T for part in parts])

    def _search(self, objective, start, max_iter=_MAX_ITERATIONS):
        """Maximise by L-BFGS."""
        if start.numel() == 0:
            return start
        variable = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [variable],
            max_iter=max_iter,
            tolerance_grad=1e-6,
            tolerance_change=1e-9,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure():
            optimizer.zero_grad()
            loss = -objective(variable)
            loss.backward()
            return loss

        optimizer.step(closure)
        return variable.detach()

    def _set_posterior(self, rows, scales, dual, inner=None):
        """Keep what predictions need of rows Φ (m, P): a matrix of m or of P rows.

        `inner` is ΦSΦᵀ (m, m) where it is known and the form is dual.
        """
        self.scales = scales
        self.std = self._std(scales)
        # Of parameters in units of their prior, no eigenvalue of the inner matrix is below one.
        rows = rows * self.std
        self.rows = rows if dual else None
        if inner is None:
            inner = rows @ rows.T if dual else rows.T @ rows
        self.factor = _root_of_one_plus(inner)

    def _apply(self, vector):
        """Σ times vectors (P, k)."""
        vector = self.std[:, None] * vector
        if self.rows is None:
            return self.std[:, None] * torch.cholesky_solve(vector, self.factor)
        inner = torch.cholesky_solve(self.rows @ vector, self.factor)
        return self.std[:, None] * (vector - self.rows.T @ inner)

    def covariance(self, jacobians):
        """Covariance (n, o, o) of outputs with derivatives (n, o, P)."""
        n, o, p = jacobians.shape
        scaled = jacobians * self.std
        right = scaled.reshape(n * o, p).T
        if self.rows is not None:
            right = self.rows @ right
        root = torch.linalg.solve_triangular(self.factor, right, upper=False)
        root = root.T.reshape(n, o, -1)
        return root @ root.mT if self.rows is None else scaled @ scaled.mT - root @ root.mT


class GaussianLaplace(_Laplace):
    """Posterior of a regression network whose noise has one size per target.

    Attributes
    ----------
    noise : Tensor of shape (t,)
    log_evidence : float
    """

    def fit(self, jacobians, outputs, y, weight, likelihood):
        """Find scales and noise, and the posterior of the linear model.

        Parameters
        ----------
        jacobians : Tensor of shape (n, t, P)
        outputs, y : Tensor of shape (n, t)
        weight : Tensor of shape (n,) or None
        likelihood : Gaussian
            Whose prior the noise has.
        """
        n, t, _ = jacobians.shape
        w = outputs.new_ones(n) if weight is None else weight.to(outputs.dtype)
        self._n = w.sum()
        root = w.sqrt()[:, None]
        # In distances from the prior's mean.
        pseudo = y - outputs + jacobians @ (self.mode - self.prior.mean)
        parts = [_compress(root * jacobians[:, k], (root * pseudo)[:, k]) for k in range(t)]
        rows = torch.cat([part[0] for part in parts])
        values = torch.cat([part[1] for part in parts])
        rest = torch.stack([part[2] for part in parts])
        sizes = torch.tensor([len(part[0]) for part in parts], device=y.device)
        target = torch.arange(t, device=y.device).repeat_interleave(sizes)
        kernels = self._kernels(rows)
        scales = self.prior.initial_scales(1)[0]
        n_scales = len(scales) if self.prior.learned else 0

        def unpack(variable):
            chosen = variable[:n_scales].exp() if n_scales else scales
            kernel = torch.einsum("g,gij->ij", chosen**2, kernels)
            unresolved = _RESOLVED * kernel.trace()
            return chosen, kernel, (2 * variable[n_scales:]).exp() + unresolved, unresolved

        def evidence(kernel, variance):
            factor = torch.linalg.cholesky(kernel + variance[target].diag())
            z = torch.linalg.solve_triangular(factor, values[:, None], upper=False)
            # A weight of 2 is the event twice, so the number of events is the sum of the weights.
            alone = rest / variance + (self._n - sizes) * variance.log()
            norm = 0.5 * t * self._n * math.log(2 * math.pi)
            return -0.5 * ((z**2).sum() + alone.sum()) - factor.diagonal().log().sum() - norm

        def objective(variable):
            _, kernel, variance, _ = unpack(variable)
            log_noise = likelihood.log_prior(variable[n_scales:]).sum()
            return evidence(kernel, variance) + self._log_prior(variable[:n_scales]) + log_noise

        noise = ((w[:, None] * (y - outputs) ** 2).sum(0) / self._n).sqrt()
        start = [scales.log()[:n_scales], noise.clamp(min=likelihood.typical).log()]
        scales, kernel, variance, unresolved = unpack(self._search(objective, torch.cat(start)))
        self.noise = variance.sqrt()
        if (unresolved > variance / 2).any():
            warnings.warn(
                "The noise of the targets is below what float64 resolves beside the prior of the "
                f"network; {float(unresolved.sqrt()):.2g} of their standard deviation is taken "
                "instead (for an event of weight one). Lower the sample_weight, or take fewer "
                "parameters.",
                RuntimeWarning,
                stacklevel=levels_to_user(),
            )
        self.log_evidence = float(evidence(kernel, variance))
        inverse = 1 / self.noise[target]
        rows = rows * inverse[:, None]
        self._set_posterior(rows, scales, dual=True)
        # S Φᵀ (1 + Φ S Φᵀ)⁻¹: exact where Σ Φᵀ would be a small difference of large numbers.
        inner = torch.cholesky_solve((values * inverse)[:, None], self.factor)
        away = self.std * (self.rows.T @ inner)[:, 0]
        self.shift = self.prior.mean + away - self.mode
        return self


class LabelLaplace(_Laplace):
    """Posterior of a classification network.

    Attributes
    ----------
    log_evidence : float
    """

    def fit(self, jacobians, logits, y, weight, likelihood):
        """Find mode and scales in turn, and the posterior of the linear model.

        Parameters
        ----------
        jacobians : Tensor of shape (n, o, P)
        logits : Tensor of shape (n, o)
        y : Tensor of shape (n,)
            Class numbers.
        weight : Tensor of shape (n,) or None
        likelihood : Categorical
        """
        n, o, p = jacobians.shape
        w = logits.new_ones(n) if weight is None else weight.to(logits.dtype)
        base = logits + jacobians @ (self.prior.mean - self.mode)
        dual = n * o < p

        def log_posterior(away, std):
            value = (w * likelihood.log_prob(base + jacobians @ away, y)).sum()
            return value - 0.5 * ((away / std) ** 2).sum()

        # Products of P numbers once, and of those of the events from then on.
        kernels = self._kernels(jacobians.reshape(n * o, p)) if dual else None

        def root_at(away):
            return _curvature_root(base + jacobians @ away) * w.sqrt()[:, None, None]

        def weighted(root, kernel):
            blocks = kernel.reshape(-1, n, o, n, o)
            blocks = torch.einsum("nij,gnimk,mkl->gnjml", root, blocks, root)
            return blocks.reshape(-1, n * o, n * o)

        def set_posterior(away, scales):
            root, inner = root_at(away), None
            if dual:
                kernel = torch.einsum("g,gij->ij", scales**2, kernels)
                inner = weighted(root, kernel)[0]
            rows = (root.mT @ jacobians).reshape(n * o, p)
            self._set_posterior(rows, scales, dual, inner)

        def newton(away, scales):
            std = self._std(scales)
            for _ in range(_MAX_NEWTON):
                away.requires_grad_()
                value = log_posterior(away, std)
                (gradient,) = torch.autograd.grad(value, away)
                away = away.detach()
                set_posterior(away, scales)
                step = self._apply(gradient[:, None])[:, 0]
                gain = gradient @ step
                share = 1.0
                while log_posterior(away + share * step, std) < value and share > 1e-6:
                    share /= 2
                away = away + share * step
                if gain < _NEWTON_STANDS * (1 + value.abs()):
                    break
            return away

        def log_evidence_of(away):
            root = root_at(away)
            squares = self.prior.squares((self.prior.mean + away)[None])[0]
            if dual:
                inner = weighted(root, kernels)
            else:
                rows = (root.mT @ jacobians).reshape(n * o, p)
                inner = rows.T @ rows

            def objective(log_scales):
                scales = log_scales.exp()
                if dual:
                    matrix = torch.einsum("g,gij->ij", scales**2, inner)
                else:
                    std = self._std(scales)
                    matrix = std[:, None] * inner * std
                log_det = _root_of_one_plus(matrix).diagonal().log().sum()
                return self._log_prior(log_scales) - 0.5 * (squares / scales**2).sum() - log_det

            return objective

        scales = self.prior.initial_scales(1)[0]
        away = newton(self.mode - self.prior.mean, scales)
        for _ in range(_MAX_TURNS if self.prior.learned else 0):
            before = scales
            scales = self._search(log_evidence_of(away), scales.log(), _STEPS_OF_TURN).exp()
            away = newton(away, scales)
            if (scales / before).log().abs().max() < _SCALES_STAND:
                break
        set_posterior(away, scales)
        self.shift = self.prior.mean + away - self.mode
        self.log_evidence = float(
            log_posterior(away, self.std) - self.factor.diagonal().log().sum()
        )
        return self


def _compress(rows, values):
    r"""Rows (r, P) and values (r,) with r <= P that say as much of θ, and what is left of squares.

    An orthogonal transformation of the events leaves :math:`|v - A\theta|^2` as it is.
    """
    used = (rows != 0).any(0)
    if len(rows) <= int(used.sum()):
        return rows, values, values.new_zeros(())
    q, r = torch.linalg.qr(rows[:, used])
    inside = q.T @ values
    compressed = rows.new_zeros(len(r), rows.shape[1])
    compressed[:, used] = r
    return compressed, inside, ((values - q @ inside) ** 2).sum()


def _curvature_root(logits):
    """A root (n, o, o) of the curvature of the cross entropy by the logits."""
    if logits.shape[-1] == 1:
        p = torch.sigmoid(logits)
        return (p * (1 - p)).sqrt().unsqueeze(-1)
    p = torch.softmax(logits, -1)
    return torch.diag_embed(p.sqrt()) - p.unsqueeze(-1) * p.sqrt().unsqueeze(-2)


def _root_of_one_plus(matrix):
    """Cholesky factor of 1 + a matrix, the 1 raised where float64 would lose it."""
    one = (_RESOLVED * matrix.trace()).clamp(min=1.0)
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky(matrix + one * eye)
