r"""Networks of two domains: one encoder for both, and what is different about the target's events.

A network that treats both domains alike can make their features agree only where some function of
an event is distributed alike in both. A shift x → x + δ has none that keeps the classes: of two
classes at ∓δ the simulation's boundary lies where the data's first class is. So the target's events
pass a map of their own first, channel by channel,

.. math:: x \mapsto e^{a_c} x + b_c ,

which is what gains and pedestals are, and starts as the identity.

References
----------
Y. Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", ICLR 2017 Workshop,
arXiv:1603.04779, for statistics of each domain; W.-G. Chang et al., "Domain-Specific Batch
Normalization for Unsupervised Domain Adaptation", CVPR 2019, arXiv:1906.03950, for learned ones.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from sknuc.nn._blocks import real_rows

__all__ = ["AdaptedNetwork", "ChannelMap", "MultilinearMap"]

# The optimizer moves every number by the learning rate at most: a map has further to go than the
# weights of a network. Much faster, it oscillates in the game with a critic.
_HASTE = 3.0
# Of a batch in running means. Fifty batches: not noise, of a network that still changes.
_SHARE = 0.02
# A class that is rarer in the target than that, as against the source, counts as that rare.
_LEAST_RATIO = 1e-3


class ChannelMap(nn.Module):
    """Scale and shift of every channel, which are learnt.

    Parameters
    ----------
    shape : sequence of int
        The shape in which one number per channel is broadcast to an event.
    padding_axis : int or None, default=None
        The axis of one event that counts rows of which those of zeros are padding, and stay zeros.
    """

    def __init__(self, shape, *, padding_axis=None):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(shape))
        self.shift = nn.Parameter(torch.zeros(shape))
        self.register_buffer("unit", torch.ones(shape))
        self.register_buffer("center", torch.zeros(shape))
        self.register_buffer("start", torch.zeros(shape))
        self.padding_axis = padding_axis

    def forward(self, x):
        """From events (n, *input_shape) to events of the same shape."""
        scale = self.unit * (_HASTE * self.log_scale).exp()
        mapped = torch.addcmul(self.start + _HASTE * self.shift, x - self.center, scale)
        if self.padding_axis is None:
            return mapped
        return mapped.masked_fill(~real_rows(x, self.padding_axis), 0.0)

    def set(self, center, scale, start):
        r"""Let the map start as :math:`s\,(x - c) + b`, of one number per channel each."""
        for name, value in (("center", center), ("unit", scale), ("start", start)):
            buffer = getattr(self, name)
            buffer.copy_(value.reshape(buffer.shape))


class MultilinearMap(nn.Module):
    r"""Products of features and class probabilities, :math:`z \otimes p`, or random sums of them.

    Where there are more than `n_most` products, :math:`(R_z z) \odot (R_p p) / \sqrt{n}` with fixed
    normal matrices R: its scalar products are those of all products, on average.

    Parameters
    ----------
    n_features, n_classes : int
    n_most : int, default=4096
        n.

    References
    ----------
    M. Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018, arXiv:1705.10667.
    """

    def __init__(self, n_features, n_classes, *, n_most=4096):
        super().__init__()
        self.exact = n_features * n_classes <= n_most
        self.n_outputs = n_features * n_classes if self.exact else n_most
        if not self.exact:
            self.register_buffer("of_features", torch.randn(n_features, n_most))
            self.register_buffer("of_classes", torch.randn(n_classes, n_most) / math.sqrt(n_most))

    def forward(self, z, p):
        """From features (n, n_features) and probabilities (n, n_classes) to (n, n_outputs)."""
        if self.exact:
            return (p.unsqueeze(2) * z.unsqueeze(1)).flatten(1)
        return (z @ self.of_features) * (p @ self.of_classes)


class AdaptedNetwork(nn.Module):
    """An encoder and a head for both domains.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *input_shape) to features (n, n_features).
    head : nn.Module
        From features to outputs.
    target_map : nn.Module or None
        From events of the target to events as the encoder reads them; None for none.
    critic : nn.Module or None
        What tells the domains apart, of methods that have one.
    judge : nn.Module or None
        From features to log odds of the source, by which :meth:`remember` knows how alike the
        domains are; of classifiers.
    source_priors, target_priors : Tensor of shape (n_classes,) or None
        Shares of the classes in either domain, of a classifier.
    """

    def __init__(
        self,
        encoder,
        head,
        *,
        target_map=None,
        critic=None,
        judge=None,
        source_priors=None,
        target_priors=None,
    ):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.target_map = nn.Identity() if target_map is None else target_map
        self.critic = critic
        self.judge = judge
        self.register_buffer("source_priors", source_priors)
        self.register_buffer("target_priors", target_priors)
        if source_priors is not None:
            # What the head says on average: of events of each class, and of the target's events.
            self.register_buffer("confusion", torch.diag(source_priors))
            self.register_buffer("answers", source_priors.clone())
            # What these say of the priors' ratio, and how far the domains are alike for it.
            self.register_buffer("found_ratio", torch.ones_like(source_priors))
            self.register_buffer("likeness", torch.zeros_like(source_priors[0]))
            self.register_buffer("n_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        """From events of the target (n, *input_shape) to outputs."""
        output = self.head(self.encoder(self.target_map(x)))
        if self.source_priors is None:
            return output
        # The head has learnt the source's priors: Bayes' rule for those of the target.
        odds = self.class_ratio().clamp(min=_LEAST_RATIO).log().to(output.dtype)
        return output + (odds[1:] - odds[0] if output.shape[1] == 1 else odds)

    def of_source(self):
        """The same network for events of the source."""
        return nn.Sequential(self.encoder, self.head)

    def features(self, source, target):
        """Features (n + m, n_features) of events of both domains, in one pass."""
        return self.encoder(torch.cat([source, self.target_map(target)]))

    def class_ratio(self):
        """How much more frequent every class is in the target, of shape (n_classes,)."""
        ratio = self.target_priors / self.source_priors
        return torch.where(self.source_priors > 0, ratio, 1.0)

    @torch.no_grad()
    def remember(self, probability, y, source_weight, answers, target_weight, lost):
        """Follow what the head says of the source's classes and of the target, over some batches.

        Parameters
        ----------
        probability : Tensor of shape (n, n_classes)
            Of events of the source, of the classes `y` and shares `source_weight`.
        answers : Tensor of shape (m, n_classes)
            Of events of the target, of shares `target_weight`.
        lost : Tensor of shape ()
            Cross entropy of the judge of the target and the source with `found_ratio`: ln 2 if it
            cannot tell them apart, less if it can.
        """
        self.n_seen += 1
        share = max(_SHARE, 1 / (1 + self.n_seen.item()))
        truth = F.one_hot(y, probability.shape[1]).to(probability.dtype)
        found = (source_weight[:, None] * probability).T @ truth
        self.confusion.lerp_(found.to(self.confusion.dtype), share)
        self.answers.lerp_((target_weight @ answers).to(self.answers.dtype), share)
        likeness = (lost / math.log(2)).clamp(0, 1)
        self.likeness.lerp_(likeness.to(self.likeness.dtype), _SHARE)
