r"""Augmentations: what may be done to an event without making another one of it.

A contrastive method learns features that do not change under them, so each one is a statement of
physics: a trigger may come some samples earlier, electronics are noisy, gains drift. What is *not*
here is a statement, too. No signal is stretched in time: how long charge drifts tells where it came
from, and features that do not change under a stretch cannot know it. Signals are not mirrored in
time by default either, and gains stay near 1.

An augmentation is a scikit-learn object of parameters, called with a tensor of events; a plain
function of a tensor is one, too. Strengths are drawn for each event. A pair (low, high) is a range
in which they are uniform; a number is the same for all. Events are in the units of X. Where another
unit is more natural, the standard deviation of a channel (of a column of a table), it is passed
along by the estimator, which has measured it.

Random numbers come from torch's generator, which estimators seed from their `random_state` and put
back afterwards: use ``torch.rand`` and its like in functions of your own, with the device of the
events.
"""

from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions

from sknuc.nn import real_rows

__all__ = [
    "Augmentation",
    "Baseline",
    "FeatureDropout",
    "Flip",
    "Gain",
    "Mask",
    "Noise",
    "Rotation",
    "Shift",
    "Units",
    "Views",
    "check_augmentations",
]

_SHARE = Interval(Real, 0, 1, closed="both")


class Units(NamedTuple):
    """Mean and standard deviation of the channels, which broadcast to one event."""

    mean: torch.Tensor
    scale: torch.Tensor


class Augmentation(BaseEstimator):
    """Base class of the augmentations: parameters, and a call on a tensor of events.

    Subclasses define ``_apply(x, units)``.
    """

    _parameter_constraints = {}

    def __call__(self, x, units=None):
        """Change events at random.

        Parameters
        ----------
        x : Tensor of shape (n, *event_shape)
            The events, which stay as they are.
        units : (Tensor, Tensor) or None, default=None
            Mean and standard deviation of the channels, which broadcast to one event; None for 0
            and 1.

        Returns
        -------
        x : Tensor of the same shape

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        self.check()
        units = Units(x.new_zeros(()), x.new_ones(())) if units is None else Units(*units)
        return self._apply(x, units)

    def check(self):
        """Check the parameters.

        Raises
        ------
        ValueError
            If one is out of range.
        """
        self._validate_params()

    def _apply(self, x, units):
        raise NotImplementedError

    def _range(self, name, low=None, high=None, *, integer=False):
        """The ends of a parameter that is a number or a pair (low, high)."""
        value = getattr(self, name)
        kind = Integral if integer else Real
        ends = (value, value) if isinstance(value, Real) else tuple(np.asarray(value).tolist())
        good = (
            len(ends) == 2
            and all(isinstance(end, kind) and np.isfinite(end) for end in ends)
            and ends[0] <= ends[1]
            and (low is None or ends[0] >= low)
            and (high is None or ends[1] <= high)
        )
        if not good:
            allowed = "integer" if integer else "number"
            bounds = "" if low is None else f" ≥ {low}" if high is None else f" in [{low}, {high}]"
            raise ValueError(
                f"The {name!r} parameter of {type(self).__name__} must be a finite {allowed} or a "
                f"pair (low, high) of them{bounds}, low ≤ high. Got {value!r} instead."
            )
        return ends

    def _draw(self, x, ends):
        """A uniform number for each event, of shape (n, 1, ...)."""
        shape = (len(x), *[1] * (x.ndim - 1))
        low, high = ends
        if low == high:
            return torch.full(shape, low, dtype=x.dtype, device=x.device)
        return low + (high - low) * torch.rand(shape, dtype=x.dtype, device=x.device)


class Shift(Augmentation):
    """Shift along the last axis: a trigger that came earlier or later.

    What is shifted in beyond an end repeats the first or the last value: nothing comes back at the
    other end. Nothing is stretched, so times between two points of a signal stay as they are.

    Parameters
    ----------
    samples : int, float or pair, default=(-4, 4)
        To later times, in samples.
    subsample : bool, default=False
        Also by fractions of a sample, by linear interpolation, which averages the noise of two
        neighbours. Without it, `samples` must be integers.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Shift
    >>> Shift(samples=1)(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor([[0., 0., 1.]])
    """

    _parameter_constraints = {"samples": [Real, "array-like"], "subsample": ["boolean"]}

    def __init__(self, *, samples=(-4, 4), subsample=False):
        self.samples = samples
        self.subsample = subsample

    def check(self):
        """Check the parameters; see the base class."""
        super().check()
        self._range("samples", integer=not self.subsample)

    def _apply(self, x, units):
        low, high = self._range("samples", integer=not self.subsample)
        if self.subsample:
            shift = self._draw(x, (low, high))
        else:
            # Each integer is as probable as the others.
            shift = self._draw(x, (low, high + 1 - 1e-6)).floor()
        length = x.shape[-1]
        place = torch.arange(length, dtype=x.dtype, device=x.device) - shift
        before = place.floor()
        value = _take(x, before)
        if self.subsample:
            part = (place - before).to(x.dtype)
            value = torch.lerp(value, _take(x, before + 1), part)
        return value


def _take(x, place):
    """Values at places (n, 1, ..., length) of the last axis; beyond its ends, those of the ends."""
    index = place.long().clamp(0, x.shape[-1] - 1)
    return x.gather(-1, index.expand(x.shape))


class Noise(Augmentation):
    r"""Add normal noise.

    Parameters
    ----------
    std : float or pair, default=(0.0, 0.1)
        Standard deviation.
    unit : {"channel", "input"}, default="channel"
        What it is measured in: standard deviations of each channel (of each column of a table), or
        the units of X.
    color : float, default=0.0
        Exponent α of the spectrum :math:`1/f^\alpha` along the last axis: 0 is white noise, 1 that
        of many amplifiers. The noise of an event then has no mean.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Noise
    >>> Noise(std=0.1)(torch.zeros(5, 1, 100)).shape
    torch.Size([5, 1, 100])
    """

    _parameter_constraints = {
        "std": [Real, "array-like"],
        "unit": [StrOptions({"channel", "input"})],
        "color": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, *, std=(0.0, 0.1), unit="channel", color=0.0):
        self.std = std
        self.unit = unit
        self.color = color

    def check(self):
        """Check the parameters; see the base class."""
        super().check()
        self._range("std", 0)

    def _apply(self, x, units):
        noise = torch.randn_like(x)
        length = x.shape[-1]
        if self.color and length > 1:
            spectrum = torch.fft.rfft(noise)
            k = torch.arange(spectrum.shape[-1], dtype=x.dtype, device=x.device)
            gain = torch.where(k > 0, k.clamp(min=1) ** (-self.color / 2), 0.0)
            # The variance of a sample is the mean of |gain|² over both halves of the spectrum.
            twice = torch.where((k > 0) & (2 * k < length), 2.0, 1.0)
            gain = gain / ((twice * gain.square()).sum() / length).sqrt()
            noise = torch.fft.irfft(spectrum * gain, n=length).to(x.dtype)
        std = self._draw(x, self._range("std", 0))
        if self.unit == "channel":
            std = std * units.scale
        return torch.addcmul(x, noise, std)


class Gain(Augmentation):
    """Multiply by a number near 1: an amplifier that drifts, an energy that does not matter.

    Parameters
    ----------
    factor : float or pair, default=(0.95, 1.05)
        Of the event about zero, in the units of X: subtract a pedestal before.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Gain
    >>> Gain(factor=2.0)(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor([[ 0.,  2., 10.]])
    """

    _parameter_constraints = {"factor": [Real, "array-like"]}

    def __init__(self, *, factor=(0.95, 1.05)):
        self.factor = factor

    def check(self):
        """Check the parameters; see the base class."""
        super().check()
        self._range("factor")

    def _apply(self, x, units):
        return x * self._draw(x, self._range("factor"))


class Baseline(Augmentation):
    """Add one number to an event: a baseline that wanders.

    Parameters
    ----------
    offset : float or pair, default=(-0.05, 0.05)
        The number.
    unit : {"channel", "input"}, default="channel"
        What it is measured in: standard deviations of each channel, or the units of X.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Baseline
    >>> Baseline(offset=1.0)(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor([[1., 2., 6.]])
    """

    _parameter_constraints = {
        "offset": [Real, "array-like"],
        "unit": [StrOptions({"channel", "input"})],
    }

    def __init__(self, *, offset=(-0.05, 0.05), unit="channel"):
        self.offset = offset
        self.unit = unit

    def check(self):
        """Check the parameters; see the base class."""
        super().check()
        self._range("offset")

    def _apply(self, x, units):
        offset = self._draw(x, self._range("offset"))
        return x + (offset * units.scale if self.unit == "channel" else offset)


class Mask(Augmentation):
    """Replace a stretch of the last axis, at a random place, by the mean of the event's channel.

    Parameters
    ----------
    fraction : float or pair, default=(0.0, 0.2)
        Length of the stretch over that of the axis.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Mask
    >>> Mask(fraction=1.0)(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor([[2., 2., 2.]])
    """

    _parameter_constraints = {"fraction": [Real, "array-like"]}

    def __init__(self, *, fraction=(0.0, 0.2)):
        self.fraction = fraction

    def check(self):
        """Check the parameters; see the base class."""
        super().check()
        self._range("fraction", 0, 1)

    def _apply(self, x, units):
        size = x.shape[-1]
        length = (size * self._draw(x, self._range("fraction", 0, 1))).round()
        start = (self._draw(x, (0.0, 1.0)) * (size - length + 1 - 1e-6)).floor()
        place = torch.arange(size, device=x.device)
        hidden = (place >= start) & (place < start + length)
        return torch.where(hidden, x.mean(-1, keepdim=True), x)


class FeatureDropout(Augmentation):
    """Replace numbers of an event, each with the same probability, by the mean over all events.

    Parameters
    ----------
    p : float in [0, 1], default=0.2
        The probability.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import FeatureDropout
    >>> FeatureDropout(p=1.0)(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor([[0., 0., 0.]])
    """

    _parameter_constraints = {"p": [_SHARE]}

    def __init__(self, *, p=0.2):
        self.p = p

    def _apply(self, x, units):
        hidden = torch.rand(x.shape, dtype=x.dtype, device=x.device) < self.p
        return torch.where(hidden, units.mean.to(x.dtype), x)


class Flip(Augmentation):
    """Mirror an axis, with some probability: for detectors that are symmetric.

    Parameters
    ----------
    axis : int, default=-1
        The axis of one event: 1 and 2, or -2 and -1, are those of an image (C, H, W).
    p : float in [0, 1], default=0.5
        The probability.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Flip
    >>> Flip(p=1.0)(torch.tensor([[0.0, 1.0, 5.0]]))
    tensor([[5., 1., 0.]])
    """

    _parameter_constraints = {"axis": [Integral], "p": [_SHARE]}

    def __init__(self, *, axis=-1, p=0.5):
        self.axis = axis
        self.p = p

    def _apply(self, x, units):
        if not 1 - x.ndim <= self.axis < x.ndim - 1:
            raise ValueError(
                f"The 'axis' parameter of Flip must be an axis of events of shape "
                f"{tuple(x.shape[1:])}. Got {self.axis} instead."
            )
        axis = self.axis if self.axis < 0 else self.axis + 1
        return torch.where(self._draw(x, (0.0, 1.0)) < self.p, x.flip(axis), x)


class Rotation(Augmentation):
    """Turn the last axis, an azimuth whose ends are neighbours, by any number of its pixels.

    Examples
    --------
    >>> import torch
    >>> from sknuc.representation import Rotation
    >>> turned = Rotation()(torch.tensor([[0.0, 1.0, 5.0]]))
    >>> sorted(turned[0].tolist())
    [0.0, 1.0, 5.0]
    """

    def _apply(self, x, units):
        size = x.shape[-1]
        turn = (self._draw(x, (0.0, 1.0)) * size).long().clamp(max=size - 1)
        place = (torch.arange(size, device=x.device) - turn) % size
        return x.gather(-1, place.expand(x.shape))


def check_augmentations(name, augmentations):
    """Return augmentations as a list, after a check of their parameters.

    Raises
    ------
    TypeError
        If one is neither an object nor a function.
    ValueError
        If a parameter is out of range, or there is none.
    """
    single = callable(augmentations)
    items = [augmentations] if single else list(augmentations)
    for item in items:
        if isinstance(item, type) or not callable(item):
            raise TypeError(
                f"The {name!r} parameter must hold augmentations, such as Noise(), or functions of "
                f"a tensor of events. Got {item!r} instead."
            )
        if isinstance(item, Augmentation):
            item.check()
    if not items:
        raise ValueError(
            f"The {name!r} parameter must hold one augmentation or more. Got none: two views of an "
            "event that are the same teach nothing."
        )
    return items


class Views:
    """Random views of standardised events: to the units of X, through the augmentations, and back.

    Parameters
    ----------
    augmentations : list of Augmentation or callable
    scaling : Standardize or Identity
        What standardises the events.
    """

    def __init__(self, augmentations, scaling):
        self.augmentations = augmentations
        self.scaling = scaling

    def __call__(self, x):
        """Make a view of events (n, *input_shape)."""
        scale = getattr(self.scaling, "scale", x.new_ones(()))
        shift = getattr(self.scaling, "shift", x.new_zeros(()))
        padding = getattr(self.scaling, "padding_axis", None)
        units = Units(-shift / scale, 1 / scale)
        view = (x - shift) / scale
        for augmentation in self.augmentations:
            if isinstance(augmentation, Augmentation):
                view = augmentation._apply(view, units)
                continue
            shape, view = view.shape, augmentation(view)
            if getattr(view, "shape", None) != shape:
                raise ValueError(
                    f"A function among the augmentations must return events of the shape "
                    f"{tuple(shape)} that it gets. Got {getattr(view, 'shape', view)!r} instead."
                )
        view = torch.addcmul(shift, view, scale)
        # Rows that were not measured stay so.
        return view if padding is None else view.masked_fill(~real_rows(x, padding), 0.0)
