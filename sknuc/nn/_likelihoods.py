r"""Likelihoods: the distribution of an event around what a decoder says.

Each is a module that knows how many numbers it asks of the decoder (`output_shape`), how an encoder
should read its events (`read`), and, of the decoder's output, the log density of an event
(`log_prob`), its mean (`mean`) and a draw from it by standard normal noise (`draw`).
"""

import math

import numpy as np
import torch
from scipy.special import ndtr, pdtr, pdtrik
from torch import nn
from torch.nn import functional as F

__all__ = ["Bernoulli", "Gaussian", "Poisson"]

# Of the standard deviation, in those of the data: without the first, a decoder that knows a value
# exactly would have an infinite density.
_SMALLEST_SCALE, _LARGEST_SCALE = 1e-4, 2.0
# A scale passes many powers of e, which takes as many steps of an optimizer as its weights do not
# have to make.
_HASTE = 10.0
_FAR = 1000.0
# Parts of the normal law that are so narrow, also in units of its slope, are nearly points.
_NARROW = 0.1
# So many standard deviations behind the origin differences have lost half of their digits.
_BEHIND = 1e4


class Gaussian(nn.Module):
    r"""Values with normal noise, :math:`\log p = -\sum_j [\ln\sigma_j\sqrt{2\pi} + r_j^2/2]`.

    Here :math:`r = (x - \mu)/\sigma`. Outputs count from the mean of each value, in its standard
    deviations, so that a network starts close to a typical event.

    A scale that the decoder gives is

    .. math:: \sigma = \sigma_0\,[10^{-4} + 2\,S(10\,(s + g o))]

    with the logistic function S and a number s for each value, from which the output o of an event
    departs by a gain g that starts at 0: noise is the same for all events until the decoder knows
    better. Else it starts as a random function of the latent variables, a strong one if these are
    few, and an encoder would first learn to tell nothing by them.

    Parameters
    ----------
    mean, std : Tensor of shape (*shape)
        Of each value of an event.
    scale : {"channel", "value", "event"} or float
        The standard deviation σ: learned, one for each channel (a column of a table is one) or one
        for each value; or of the decoder's output, for each value of each event; or that number.
    circles : pair of ndarray of int of shape (n_angles,), default=((), ())
        Places, in the flattened event, of cosines and sines of angles, whose likelihood is that of
        their direction: how far from the origin a point is says nothing.
    """

    def __init__(self, mean, std, scale, circles=((), ())):
        super().__init__()
        for name, places in zip(("cosines", "sines"), circles, strict=True):
            self.register_buffer(name, torch.tensor(np.asarray(places, dtype=np.int64)))
        self.register_buffer("center", mean)
        self.register_buffer("unit", std)
        self.shape = tuple(mean.shape)
        self.of_event = scale == "event"
        if isinstance(scale, str):
            spread = std
            if scale == "channel" and std.ndim > 1:
                spread = std.square().mean(tuple(range(1, std.ndim)), keepdim=True).sqrt()
            self.register_buffer("spread", spread)
            self.log_scale = nn.Parameter(torch.zeros_like(spread))
            if self.of_event:
                self.gain = nn.Parameter(torch.zeros((), dtype=mean.dtype))
        else:
            self.register_buffer("fixed", torch.tensor(scale, dtype=mean.dtype))
        self.learned = isinstance(scale, str)

    @property
    def output_shape(self):
        """What the decoder of an event makes: twice the channels if it gives the scale as well."""
        return (2 * self.shape[0], *self.shape[1:]) if self.of_event else self.shape

    def read(self, x):
        """Events as the encoder reads them."""
        return x

    def moments(self, output):
        """Mean and standard deviation, both of shape (n, *shape), of an output."""
        if self.of_event:
            output, own = output.chunk(2, 1)
        mean = torch.addcmul(self.center, output, self.unit)
        if not self.learned:
            return mean, self.fixed.expand_as(mean)
        log_scale = self.log_scale
        if self.of_event:
            log_scale = torch.addcmul(log_scale, self.gain, own)
        # No more noise than values vary: where the decoder has learnt nothing, between events, the
        # exponential of what it says could be anything.
        share = torch.sigmoid(_HASTE * log_scale)
        least, width = _SMALLEST_SCALE * self.spread, _LARGEST_SCALE * self.spread
        return mean, torch.addcmul(least, width, share).expand_as(mean)

    def log_prob(self, output, x, parts=None):
        """Log density (n,) of events (n, *shape).

        Of values that are known to lie in a part only it is the logarithm of the part's
        probability: `parts` holds their places (k,) in all numbers of the events, and lower and
        upper ends, both (k,).
        """
        mean, std = self.moments(output)
        residual = (x - mean) / std
        constant = -math.log(2 * math.pi) / 2
        each = constant - torch.addcmul(std.log(), residual, residual, value=0.5)
        each, x, mean, std = (part.flatten(1) for part in (each, x, mean, std))
        if parts is not None:
            places, low, high = parts
            center, width = mean.flatten()[places], std.flatten()[places]
            inside = log_normal_part((low - center) / width, (high - center) / width)
            each = each.flatten().index_copy(0, places, inside.to(each.dtype)).view_as(each)
        if len(self.cosines):
            points = (
                torch.stack([part[:, self.cosines], part[:, self.sines]]) for part in (x, mean, std)
            )
            each = each.index_copy(1, self.cosines, log_direction(*points).to(each.dtype))
            each = each.index_fill(1, self.sines, 0.0)
        return each.sum(1)

    def mean(self, output):
        """Mean of the event, of shape (n, *shape)."""
        return self.moments(output)[0]

    def draw(self, output, noise):
        """Events (n, *shape) of standard normal noise of this shape."""
        mean, std = self.moments(output)
        return torch.addcmul(mean, std, noise)


def log_normal_part(low, high):
    r"""Logarithm of :math:`\Phi(high) - \Phi(low)`, for finite low < high, also in the tails."""
    middle, width = (low + high) / 2, high - low
    narrow = width * (1 + middle.abs()) < _NARROW
    # Where differences lose their digits, two terms of the density's series do not.
    width = torch.where(narrow, width, _NARROW)
    middle = torch.where(narrow, middle, 0)
    curved = torch.log1p((middle.square() - 1) * width.square() / 24)
    series = width.log() - (middle.square() + math.log(2 * math.pi)) / 2 + curved
    # Farther out, derivatives lose their digits in 32 bits.
    low, high = low.clamp(min=-_FAR, max=_FAR - 1), high.clamp(min=1 - _FAR, max=_FAR)
    # In the lower tail no digits are lost.
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    ratio = (log_low - log_high).clamp(max=-torch.finfo(low.dtype).eps)
    return torch.where(narrow, series, log_high + torch.log(-torch.expm1(ratio)))


def log_direction(point, mean, std):
    r"""Log density of the angle of a normal point of the plane, whose distance is not known.

    With the unit vector u of the angle, the density is

    .. math:: \int_0^\infty N(ru; \mu, \sigma)\,r\,dr = \frac{e^{-E/2}}{2\pi\sigma_1\sigma_2 A}
              \left[e^{-D^2/2} + \sqrt{2\pi}\,D\,\Phi(D)\right],

    where :math:`A = \sum u_i^2/\sigma_i^2`, :math:`D = A^{-1/2}\sum u_i\mu_i/\sigma_i^2` and
    :math:`E = (u_1\mu_2 - u_2\mu_1)^2/(A\sigma_1^2\sigma_2^2)` (projected normal distribution).

    Parameters
    ----------
    point, mean, std : Tensor of shape (2, *shape)

    Returns
    -------
    log_density : Tensor of float64 of shape (*shape)
        Per radian.
    """
    point, mean, std = (part.double() for part in (point, mean, std))
    unit = point / torch.hypot(*point)
    both = (unit / std).square().sum(0)
    along = (unit * mean / std.square()).sum(0) / both.sqrt()
    across = (unit[0] * mean[1] - unit[1] * mean[0]).square() / (both * std.prod(0).square())
    # Behind the origin the bracket is a difference; there it is taken from the scaled tail.
    ahead, behind = along.clamp(min=-1), along.clamp(max=-1, min=-_BEHIND)
    forward = (-ahead.square() / 2).exp()
    forward = forward + math.sqrt(2 * math.pi) * ahead * torch.special.ndtr(ahead)
    tail = math.sqrt(math.pi / 2) * torch.special.erfcx(-behind / math.sqrt(2))
    backward = torch.log1p(behind * tail) - along.clamp(max=-1).square() / 2
    bracket = torch.where(along > -1, forward.log(), backward)
    return bracket - across / 2 - (2 * math.pi * std.prod(0) * both).log()


class Bernoulli(nn.Module):
    r"""Hits or none, :math:`\log p = \sum_j [x_j\ln p_j + (1-x_j)\ln(1-p_j)]`.

    Parameters
    ----------
    mean : Tensor of shape (*shape)
        Probability of each hit over all events, in (0, 1), from whose log odds outputs count.
    """

    def __init__(self, mean):
        super().__init__()
        self.register_buffer("start", torch.logit(mean))
        self.output_shape = self.shape = tuple(mean.shape)

    def read(self, x):
        """Events as the encoder reads them: hits are 1, none is -1."""
        return 2 * x - 1

    def log_prob(self, output, x):
        """Log probability (n,) of events (n, *shape); the expected one where 0 < x < 1."""
        each = F.binary_cross_entropy_with_logits(self.start + output, x, reduction="none")
        return -each.flatten(1).sum(1)

    def mean(self, output):
        """Probability of each hit, of shape (n, *shape)."""
        return torch.sigmoid(self.start + output)

    def draw(self, output, noise):
        """Events (n, *shape) of zeros and ones."""
        return (torch.special.ndtr(noise) < self.mean(output)).to(noise.dtype)


class Poisson(nn.Module):
    r"""Counts, :math:`\log p = \sum_j [x_j\ln\lambda_j - \lambda_j - \ln x_j!]`.

    Parameters
    ----------
    mean : Tensor of shape (*shape)
        Mean of each count over all events, positive, from whose logarithm outputs count.
    """

    def __init__(self, mean):
        super().__init__()
        self.register_buffer("start", mean.log())
        self.output_shape = self.shape = tuple(mean.shape)

    def read(self, x):
        """Events as the encoder reads them, by the logarithm of one plus the count."""
        return torch.log1p(x)

    def log_prob(self, output, x):
        """Log probability (n,) of events (n, *shape)."""
        log_rate = self.start + output
        each = x * log_rate - log_rate.exp() - torch.lgamma(x + 1)
        return each.flatten(1).sum(1)

    def mean(self, output):
        """Rates, of shape (n, *shape)."""
        return (self.start + output).exp()

    def draw(self, output, noise):
        """Counts (n, *shape): quantiles at the levels of the noise."""
        rate = self.mean(output).double().cpu().numpy()
        level = ndtr(noise.double().cpu().numpy())
        return torch.from_numpy(_poisson_quantile(level, rate)).to(noise)


def _poisson_quantile(level, rate):
    """Smallest count k, of which the probability of k or less is at least `level`."""
    guess = np.ceil(pdtrik(level, rate))
    # Rounding may have carried it one too far; at the lowest levels there is no continuous k.
    guess = np.where(np.isnan(guess), 0, guess)
    below = np.maximum(guess - 1, 0)
    return np.where(pdtr(below, rate) >= level, below, guess)
