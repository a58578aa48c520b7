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


class Gaussian(nn.Module):
    r"""Values with normal noise, :math:`\log p = -\sum_j [\ln\sigma_j\sqrt{2\pi} + r_j^2/2]`.

    Here :math:`r = (x - \mu)/\sigma`. Outputs count from the mean of each value, in its standard
    deviations, so that a network starts close to a typical event.

    Parameters
    ----------
    mean, std : Tensor of shape (*shape)
        Of each value of an event.
    scale : {"channel", "value", "event"} or float
        The standard deviation σ: learned, one for each channel (a column of a table is one) or one
        for each value; or of the decoder's output, for each value of each event; or that number.
    """

    def __init__(self, mean, std, scale):
        super().__init__()
        self.register_buffer("center", mean)
        self.register_buffer("unit", std)
        self.shape = tuple(mean.shape)
        self.of_event = scale == "event"
        if isinstance(scale, str):
            spread = std
            if scale == "channel" and std.ndim > 1:
                spread = std.square().mean(tuple(range(1, std.ndim)), keepdim=True).sqrt()
            self.register_buffer("spread", spread)
            if not self.of_event:
                self.log_scale = nn.Parameter(torch.zeros_like(spread))
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
        log_scale = None
        if self.of_event:
            output, log_scale = output.chunk(2, 1)
        elif self.learned:
            log_scale = _HASTE * self.log_scale
        mean = torch.addcmul(self.center, output, self.unit)
        if log_scale is None:
            return mean, self.fixed.expand_as(mean)
        # No more noise than values vary: where the decoder has learnt nothing, between events, the
        # exponential of what it says could be anything.
        share = _SMALLEST_SCALE + _LARGEST_SCALE * torch.sigmoid(log_scale)
        return mean, (self.spread * share).expand_as(mean)

    def log_prob(self, output, x, parts=None):
        """Log density (n,) of events (n, *shape).

        Of values that are known to lie in a part only it is the logarithm of the part's
        probability: `parts` are their places (k,) in the flattened event, and lower and upper ends
        (n, k); values whose ends are equal are known.
        """
        mean, std = self.moments(output)
        each = -((x - mean) / std).square() / 2 - std.log() - math.log(2 * math.pi) / 2
        each = each.flatten(1)
        if parts is not None:
            places, low, high = parts
            mean, std = mean.flatten(1)[:, places], std.flatten(1)[:, places]
            within = high > low
            # Ends that are equal would have the logarithm of zero, whose gradient is NaN.
            high = torch.where(within, high, low + 1)
            inside = log_normal_part((low - mean) / std, (high - mean) / std)
            each = each.index_copy(1, places, torch.where(within, inside, each[:, places]))
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
    # Farther out, derivatives lose their digits in 32 bits.
    low, high = low.clamp(min=-_FAR, max=_FAR - 1), high.clamp(min=1 - _FAR, max=_FAR)
    # In the lower tail no digits are lost.
    mirrored = low + high > 0
    low, high = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
    log_low, log_high = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    ratio = (log_low - log_high).clamp(max=-torch.finfo(low.dtype).eps)
    return log_high + torch.log(-torch.expm1(ratio))


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
