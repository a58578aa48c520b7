r"""Kernels of Gaussian processes: gpytorch's objects, and their matrices with one backward pass.

The parameters live in gpytorch's kernels, so that sums, products, priors and constraints are
theirs. What costs time are the n × n matrices of the stationary ones. With the distance
:math:`r=|u-v|` of scaled events :math:`u=x/\ell`,

.. math:: \frac{\partial k(r)}{\partial u} = -F(r)\,(u-v),\qquad F(r)=-k'(r)/r ,

so for a loss with :math:`W=\partial L/\partial K` and :math:`G=W\circ F` the gradient is
:math:`\partial L/\partial u_i = -\sum_j G_{ij}(u_i-v_j)`: one product of matrices, and no array of
n × n × features. Lengthscales and networks in front of the kernel get theirs from it by the chain
rule.
"""

import copy
import math
import warnings

import torch

with warnings.catch_warnings():
    # linear_operator compiles functions by torch.jit.script, which torch has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import gpytorch
    from gpytorch import kernels

__all__ = ["KERNELS", "LogInterval", "covariance", "lengthscales", "make_kernel", "variances"]

KERNELS = ("rbf", "matern12", "matern32", "matern52", "rq", "periodic", "linear")

# Of every positive parameter, as those of scikit-learn; of features and targets with spread 1.
_BOUNDS = (1e-5, 1e5)


class LogInterval(gpytorch.constraints.Interval):
    """Positive parameters that are found on a logarithmic axis, between bounds.

    On it, the ridges on which scales trade against each other are straight, which they are not
    behind gpytorch's sigmoid. The search keeps to the bounds, where a parameter comes to rest that
    the data leave free, as the lengthscale of a feature without influence.
    """

    @property
    def raw_bounds(self):
        """The bounds of the logarithm."""
        return math.log(self.lower_bound), math.log(self.upper_bound)

    def transform(self, tensor):
        """From the logarithm to the parameter."""
        return tensor.exp()

    def inverse_transform(self, transformed_tensor):
        """From the parameter to its logarithm."""
        return transformed_tensor.log()


def make_kernel(kernel, n_features, *, ard, mean):
    r"""Build the prior covariance: a kernel, and what the mean function adds to it.

    A mean :math:`h(x)^T\beta` with :math:`\beta\sim N(0,B)` is the same as a term
    :math:`h(x)^T B h(x')` of the kernel (Rasmussen & Williams, section 2.7).

    Parameters
    ----------
    kernel : str or gpytorch.kernels.Kernel
        A name of `KERNELS`, or an object, which is copied.
    n_features : int
    ard : bool
        One lengthscale for each feature. Ignored for objects.
    mean : {"zero", "constant", "linear"}

    Returns
    -------
    kernel : gpytorch.kernels.Kernel
        In float64.
    """
    if isinstance(kernel, str):
        kernel = _named(kernel, n_features, ard)
    else:
        kernel = copy.deepcopy(kernel)
        if len(kernel.batch_shape):
            raise ValueError(
                "The 'kernel' parameter must be a kernel without a batch_shape: several targets "
                f"share it. Got {type(kernel).__name__} with {tuple(kernel.batch_shape)} instead."
            )
    if mean != "zero":
        constant = kernels.ConstantKernel()
        constant.raw_constant.requires_grad_(False)
        constant.constant = torch.ones(1)
        kernel = kernel + constant
    if mean == "linear":
        slopes = kernels.LinearKernel(variance_constraint=LogInterval(*_BOUNDS))
        slopes.initialize(variance=1.0 / n_features)
        kernel = kernel + slopes
    return kernel.double()


def _named(name, n_features, ard):
    positive = LogInterval(*_BOUNDS)
    options = {"ard_num_dims": n_features if ard else None}
    if name == "linear":
        kernel = kernels.LinearKernel(variance_constraint=positive, **options)
        kernel.initialize(variance=1.0 / n_features)
        return kernel
    # Of the order of the distance between two events: neither all alike nor all unrelated.
    start = 1.0 if name == "periodic" else math.sqrt(n_features)
    options["lengthscale_constraint"] = positive
    if name == "rbf":
        kernel = kernels.RBFKernel(**options)
    elif name == "rq":
        kernel = kernels.RQKernel(alpha_constraint=LogInterval(1e-3, 1e3), **options)
        kernel.initialize(alpha=1.0)
    elif name == "periodic":
        options["ard_num_dims"] = options["ard_num_dims"] or 1
        kernel = kernels.PeriodicKernel(period_length_constraint=LogInterval(*_BOUNDS), **options)
        kernel.initialize(period_length=1.0)
    else:
        nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}[name]
        kernel = kernels.MaternKernel(nu=nu, **options)
    kernel.initialize(lengthscale=start)
    kernel = kernels.ScaleKernel(kernel, outputscale_constraint=LogInterval(*_BOUNDS))
    kernel.initialize(outputscale=1.0)
    return kernel


def covariance(kernel, u, v=None):
    """Matrix of a kernel between events, by the fast way where there is one.

    Parameters
    ----------
    kernel : gpytorch.kernels.Kernel
    u : Tensor of shape (n, n_features)
    v : Tensor of shape (m, n_features) or None
        None for the events `u`.

    Returns
    -------
    matrix : Tensor of shape (n, m)
    """
    v = u if v is None else v
    kind = type(kernel)
    if kind is kernels.ScaleKernel and kernel.active_dims is None:
        return kernel.outputscale * covariance(kernel.base_kernel, u, v)
    if kind in (kernels.AdditiveKernel, kernels.ProductKernel) and kernel.active_dims is None:
        result = covariance(kernel.kernels[0], u, v)
        for part in kernel.kernels[1:]:
            other = covariance(part, u, v)
            result = result + other if kind is kernels.AdditiveKernel else result * other
        return result
    if kind not in _RADIAL:
        return kernel(u, v).to_dense()
    if kernel.active_dims is not None:
        u, v = u.index_select(1, kernel.active_dims), v.index_select(1, kernel.active_dims)
    u, v = u / kernel.lengthscale, v / kernel.lengthscale
    if kind is kernels.RQKernel:
        return (1 + _Radial.apply(u, v, "square") / (2 * kernel.alpha)) ** -kernel.alpha
    return _Radial.apply(u, v, "rbf" if kind is kernels.RBFKernel else kernel.nu)


def variances(kernel, u):
    """Variances k(x, x) of events, of shape (n,)."""
    return kernel(u, diag=True)


def lengthscales(kernel, n_features):
    """Lengthscales of the first radial kernel, (n_features,); None where there is none.

    Infinite for features that the kernel does not read.
    """
    return _lengthscales(kernel, torch.arange(n_features), n_features)


def _lengthscales(kernel, features, n_features):
    """The same of a kernel that gets the columns `features` of all."""
    if kernel.active_dims is not None:
        features = features[kernel.active_dims.to(features.device)]
    while isinstance(kernel, kernels.ScaleKernel):
        # It has chosen the columns of its kernel.
        kernel = kernel.base_kernel
    if isinstance(kernel, _RADIAL):
        scales = torch.full((n_features,), math.inf, dtype=torch.float64)
        scales[features] = kernel.lengthscale.detach().reshape(-1).cpu().double()
        return scales
    for part in kernel.sub_kernels():
        scales = _lengthscales(part, features, n_features)
        if scales is not None:
            return scales
    return None


_RADIAL = (kernels.RBFKernel, kernels.MaternKernel, kernels.RQKernel)


class _Radial(torch.autograd.Function):
    """A function of the distance, with the gradient of the head of this file."""

    @staticmethod
    def forward(ctx, u, v, kind):
        # Differences, not squares and products: small distances keep their digits.
        r = torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist")
        if kind == "square":
            k, slope = r.square_(), torch.full_like(r[:1, :1], -2.0)
        elif kind == "rbf":
            k = slope = r.square_().mul_(-0.5).exp_()
        else:
            s = r.mul_(math.sqrt(2 * kind))
            decay = torch.exp(-s)
            if kind == 0.5:
                # At r = 0 there is a kink; its two sides cancel.
                k, slope = decay, torch.where(s > 0, decay / s, 0.0)
            elif kind == 1.5:
                slope = 3 * decay
                k = s.add_(1).mul_(decay)
            else:
                slope = (s + 1).mul_(decay).mul_(5 / 3)
                k = decay.mul_(s.square_().div_(3)).add_(slope, alpha=0.6)
        ctx.save_for_backward(u, v, slope)
        return k

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        u, v, slope = ctx.saved_tensors
        g = gradient * slope
        grad_u = g @ v - g.sum(1, keepdim=True) * u if ctx.needs_input_grad[0] else None
        grad_v = g.T @ u - g.sum(0)[:, None] * v if ctx.needs_input_grad[1] else None
        return grad_u, grad_v, None
