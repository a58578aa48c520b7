"""Blocks that several networks share."""

import torch
from torch import nn

__all__ = [
    "FeatureNorm",
    "GradientReversal",
    "Standardize",
    "activation",
    "class_probabilities",
    "convolution",
    "group_norm",
    "real_rows",
]

_ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation(name):
    """The activation layer of that name."""
    return _ACTIVATIONS[name]()


def class_probabilities(logits):
    """Probabilities (..., n_classes) of logits, or of the log odds (..., 1) of the second class."""
    if logits.shape[-1] > 1:
        return torch.softmax(logits, -1)
    return torch.sigmoid(torch.cat([-logits, logits], -1))


def convolution(dimensions):
    """The convolution layer for signals of 1, 2 or 3 dimensions."""
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]


def group_norm(channels, groups=8):
    """Normalisation over groups of channels of one event: it never mixes events.

    References
    ----------
    Y. Wu, K. He, "Group Normalization", ECCV 2018, arXiv:1803.08494.
    """
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def real_rows(x, axis):
    """Which rows of events are real: a row of zeros is padding.

    Parameters
    ----------
    x : Tensor of shape (n, *input_shape)
        The events.
    axis : int
        The axis of one event that counts rows, as 0 for points of shape (P, F).

    Returns
    -------
    real : Tensor of bool, of shape (n, 1, ..., P, ..., 1)
    """
    others = [other for other in range(1, x.ndim) if other != axis + 1]
    return x.ne(0).any(dim=others, keepdim=True) if others else x.ne(0)


class Standardize(nn.Module):
    r"""Shift and scale of the input, :math:`(x - \mu)/\sigma`, fixed before the training.

    Parameters
    ----------
    mean, scale : Tensor, broadcastable to (n, *input_shape)
        Without the axis of events.
    padding_axis : int or None, default=None
        The axis of one event that counts rows of which those of zeros are padding. They stay
        zeros, and a number of a real row that would become zero becomes the smallest positive one
        instead: the network behind tells padding as this layer does.
    """

    def __init__(self, mean, scale, *, padding_axis=None):
        super().__init__()
        self.register_buffer("scale", 1.0 / scale)
        self.register_buffer("shift", -mean / scale)
        self.padding_axis = padding_axis

    def forward(self, x):
        """Scale x of shape (n, *input_shape)."""
        if self.padding_axis is None:
            return torch.addcmul(self.shift, x, self.scale)
        # Multiplied and added in two steps: fused, a number's last bit could depend on its place.
        scaled = x * self.scale + self.shift
        scaled = scaled.masked_fill(scaled == 0, torch.finfo(x.dtype).tiny)
        return scaled.masked_fill(~real_rows(x, self.padding_axis), 0.0)


class FeatureNorm(nn.Module):
    r"""Features shifted and scaled to mean 0 and standard deviation 1 before the training starts.

    What batch normalisation does at its first step, measured on all events instead of a batch and
    fixed from then on: a feature never depends on the other events of its batch. Until it is
    measured it is the identity; estimators measure it before they train, unless
    ``standardize=False``. Members of a :class:`StackedModule` are measured before they are stacked.

    Parameters
    ----------
    n_features : int

    References
    ----------
    T. Salimans, D. P. Kingma, "Weight Normalization", NeurIPS 2016, arXiv:1602.07868, section 3,
    for an initialisation that depends on the data; D. P. Kingma, P. Dhariwal, "Glow", NeurIPS 2018,
    arXiv:1807.03039, for such a layer ("actnorm").
    """

    def __init__(self, n_features):
        super().__init__()
        self.register_buffer("scale", torch.ones(n_features))
        self.register_buffer("shift", torch.zeros(n_features))

    def forward(self, x):
        """Scale x of shape (n, n_features)."""
        return torch.addcmul(self.shift, x, self.scale)

    def set(self, mean, scale):
        """Take the mean and the standard deviation of each feature, of shape (n_features,)."""
        self.scale.copy_(1.0 / scale)
        self.shift.copy_(-mean / scale)


class _Reverse(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, strength):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


class GradientReversal(nn.Module):
    r"""The identity forward; the gradient times :math:`-\lambda` backward.

    A head behind it learns to tell two samples apart, and everything before it learns to make them
    alike: one loss trains both. It is for networks of one's own: :mod:`sknuc.adaptation` has the
    same gradients from a critic that is held still, and others that do not vanish.

    Parameters
    ----------
    strength : float
        λ; an attribute, so that a schedule can change it.

    References
    ----------
    Y. Ganin, V. Lempitsky, "Unsupervised Domain Adaptation by Backpropagation", ICML 2015,
    arXiv:1409.7495.
    """

    def __init__(self, strength=1.0):
        super().__init__()
        self.strength = strength

    def forward(self, x):
        """Return x of any shape."""
        return _Reverse.apply(x, self.strength)
