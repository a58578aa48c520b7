r"""The Laplace approximation: a Gaussian posterior around a trained network.

To first order in the parameters, the network is linear,
:math:`f_\theta(x) \approx f_{\hat\theta}(x) + J(x)(\theta - \hat\theta)`, and with the Gaussian
prior :math:`S` of :class:`~sknuc.uncertainty._posterior.LayerPrior` the posterior's covariance is

.. math:: \Sigma = (S^{-1} + \Phi^T\Phi)^{-1}
          = S - S\Phi^T (1 + \Phi S\Phi^T)^{-1} \Phi S,\qquad
          \Phi = \Lambda^{1/2} J,

the generalised Gauss-Newton matrix: J holds the derivatives of all outputs for all events, (m, P),
and Λ the curvature of the loss by the outputs. The first form costs P³, the second m³: whichever is
smaller is taken.

For Gaussian noise the linear model is solved exactly: with :math:`\tilde y = y - f + J\hat\theta`
it is Bayesian linear regression in θ, or a Gaussian process whose kernel is :math:`J S J^T`. Its
evidence p(y | s, σ) is known and is maximised for the scales and the noise, together with their
priors. For labels, the trained network is taken as the mode, and

.. math:: \log p(D|s) \approx \log p(D|\hat\theta) + \log p(\hat\theta|s)
          - \tfrac12\log\det(1 + \Phi S\Phi^T) + \text{const}.

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

import torch
from torch.func import functional_call, jacrev, vmap

__all__ = ["GaussianLaplace", "LabelLaplace", "jacobian", "last_layer_jacobian"]

# Steps of the search for scales and noise; it stops before when nothing moves any more.
_MAX_ITERATIONS = 100


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
    """

    def __init__(self, prior, mode):
        self.prior = prior
        self.mode = mode

    def _variance(self, scales):
        return 1 / self.prior.precision(scales[None])[0]

    def _log_prior(self, log_scales):
        """Log density of the scales, in their logarithms."""
        if not self.prior.learned:
            return 0.0
        return _log_density(log_scales, self.prior.degrees, self.prior.typical)

    def _kernel(self, rows, scales):
        """Φ S Φᵀ, (m, m), with derivatives by the scales."""
        if not hasattr(self, "_kernels"):
            base = rows / self.prior.fan_in.sqrt()
            parts = base.split(self.prior.sizes, 1)
            self._kernels = torch.stack([part @ part.T for part in parts])
        return torch.einsum("g,gij->ij", scales**2, self._kernels)

    def _search(self, objective, start):
        """Maximise by L-BFGS."""
        if start.numel() == 0:
            return start
        variable = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [variable],
            max_iter=_MAX_ITERATIONS,
            tolerance_grad=1e-9,
            tolerance_change=1e-12,
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

    def _set_posterior(self, rows, scales):
        """Keep what predictions need of rows Φ (m, P)."""
        self.scales = scales
        self.std = self._variance(scales).sqrt()
        # Of parameters in units of their prior, no eigenvalue of the inner matrix is below one.
        rows = rows * self.std
        self.dual = len(rows) < rows.shape[1]
        self.rows = rows if self.dual else None
        self.factor = _root_of_one_plus(rows @ rows.T if self.dual else rows.T @ rows)
        self.__dict__.pop("_kernels", None)

    def _apply(self, vector):
        """Σ times vectors (P, k)."""
        vector = self.std[:, None] * vector
        if not self.dual:
            return self.std[:, None] * torch.cholesky_solve(vector, self.factor)
        inner = torch.cholesky_solve(self.rows @ vector, self.factor)
        return self.std[:, None] * (vector - self.rows.T @ inner)

    def covariance(self, jacobians):
        """Covariance (n, o, o) of outputs with derivatives (n, o, P)."""
        n, o, p = jacobians.shape
        scaled = jacobians * self.std
        right = scaled.reshape(n * o, p).T
        if self.dual:
            right = self.rows @ right
        root = torch.linalg.solve_triangular(self.factor, right, upper=False)
        root = root.T.reshape(n, o, -1)
        return scaled @ scaled.mT - root @ root.mT if self.dual else root @ root.mT


class GaussianLaplace(_Laplace):
    """Posterior of a regression network whose noise has one size per target."""

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
        n, t, p = jacobians.shape
        self.likelihood = likelihood
        w = outputs.new_ones(n) if weight is None else weight.to(outputs.dtype)
        self._n = w.sum()
        root = w.sqrt()[:, None]
        # In distances from the prior's mean.
        pseudo = y - outputs + jacobians @ (self.mode - self.prior.mean)
        rows = (root[..., None] * jacobians).reshape(n * t, p)
        values = (root * pseudo).reshape(n * t)
        target = torch.arange(t, device=y.device).repeat(n)
        scales = self.prior.initial_scales(1)[0]
        noise = ((w[:, None] * (y - outputs) ** 2).sum(0) / self._n).sqrt()
        noise = noise.clamp(min=likelihood.typical)
        n_scales = len(scales) if self.prior.learned else 0
        evidence = self._evidence(rows, values, target, t)

        def unpack(variable):
            return variable[:n_scales].exp() if n_scales else scales, variable[n_scales:].exp()

        def objective(variable):
            log_prior = self._log_prior(variable[:n_scales]) + _log_density(
                variable[n_scales:], likelihood.degrees, likelihood.typical
            )
            return evidence(*unpack(variable)) + log_prior

        start = torch.cat([scales.log()[:n_scales], noise.log()])
        best = self._search(objective, start)
        scales, self.noise = unpack(best)
        self.log_evidence = float(evidence(scales, self.noise))
        inverse = 1 / self.noise[target]
        rows = rows * inverse[:, None]
        self._set_posterior(rows, scales)
        away = self._apply(rows.T @ (values * inverse)[:, None])[:, 0]
        self.shift = self.prior.mean + away - self.mode
        return self

    def _evidence(self, rows, values, target, t):
        """The function log p(y | scales (G,), noise (t,))."""
        if len(rows) < rows.shape[1]:

            def dual(scales, noise):
                inverse = 1 / noise[target]
                kernel = self._kernel(rows, scales) * inverse[:, None] * inverse
                factor = _root_of_one_plus(kernel)
                z = torch.linalg.solve_triangular(factor, (values * inverse)[:, None], upper=False)
                return -0.5 * (z**2).sum() - factor.diagonal().log().sum() - self._norm(noise)

            return dual

        grams = torch.stack([rows[target == k].T @ rows[target == k] for k in range(t)])
        sums = torch.stack([rows[target == k].T @ values[target == k] for k in range(t)])
        squares = torch.stack([(values[target == k] ** 2).sum() for k in range(t)])

        def primal(scales, noise):
            precision = noise**-2
            std = self._variance(scales).sqrt()
            gram = torch.einsum("k,kij->ij", precision, grams)
            factor = _root_of_one_plus(std[:, None] * gram * std)
            right = (std * (precision @ sums))[:, None]
            z = torch.linalg.solve_triangular(factor, right, upper=False)
            quadratic = precision @ squares - (z**2).sum()
            return -0.5 * quadratic - factor.diagonal().log().sum() - self._norm(noise)

        return primal

    def _norm(self, noise):
        # A weight of 2 is the event twice, so the number of events is the sum of the weights.
        return self._n * (noise.log() + 0.5 * math.log(2 * math.pi)).sum()


class LabelLaplace(_Laplace):
    """Posterior of a classification network."""

    def fit(self, jacobians, logits, log_prob, weight):
        """Find the scales, and the posterior.

        Parameters
        ----------
        jacobians : Tensor of shape (n, o, P)
        logits : Tensor of shape (n, o)
        log_prob : Tensor of shape (n,)
            Log probabilities of the labels.
        weight : Tensor of shape (n,) or None
        """
        n, o, p = jacobians.shape
        w = logits.new_ones(n) if weight is None else weight.to(logits.dtype)
        root = w.sqrt()[:, None, None] * _curvature_root(logits)
        rows = (root.mT @ jacobians).reshape(n * o, p)
        squares = self.prior.squares(self.mode[None])[0]
        dual = len(rows) < p
        gram = None if dual else rows.T @ rows

        def objective(log_scales):
            scales = log_scales.exp() if self.prior.learned else log_scales
            if dual:
                inner = self._kernel(rows, scales)
            else:
                std = self._variance(scales).sqrt()
                inner = std[:, None] * gram * std
            log_det = _root_of_one_plus(inner).diagonal().log().sum()
            return self._log_prior(log_scales) - 0.5 * (squares / scales**2).sum() - log_det

        scales = self.prior.initial_scales(1)[0]
        if self.prior.learned:
            scales = self._search(objective, scales.log()).exp()
        self._set_posterior(rows, scales)
        self.shift = torch.zeros_like(self.mode)
        self.log_evidence = float((w * log_prob).sum() - 0.5 * (squares / scales**2).sum())
        self.log_evidence -= float(self.factor.diagonal().log().sum())
        return self


def _log_density(log_scale, degrees, typical):
    r"""Log density, up to a constant, of log σ for :math:`\sigma^2 \sim \nu\tau^2/\chi^2_\nu`."""
    return -(degrees * log_scale + degrees * typical**2 / 2 * (-2 * log_scale).exp()).sum()


def _curvature_root(logits):
    """A root (n, o, o) of the curvature of the cross entropy by the logits."""
    if logits.shape[-1] == 1:
        p = torch.sigmoid(logits)
        return (p * (1 - p)).sqrt().unsqueeze(-1)
    p = torch.softmax(logits, -1)
    return torch.diag_embed(p.sqrt()) - p.unsqueeze(-1) * p.sqrt().unsqueeze(-2)


def _root_of_one_plus(matrix):
    """Cholesky factor of 1 + a matrix."""
    eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.cholesky(matrix + eye)
