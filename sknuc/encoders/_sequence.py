"""What the encoders of sequences share: how an event is read as steps in time."""

import math

from sknuc.encoders._base import Encoder

__all__ = ["SequenceEncoder"]


class SequenceEncoder(Encoder):
    """Base class of the encoders of events of shape (L,) or (C, L), with a `patch_size`."""

    def channel_axis(self, input_shape):
        """None for a waveform of shape (L,), whose samples are one channel, and 0 otherwise."""
        return None if len(input_shape) == 1 else 0

    def _sequence_shape(self, input_shape):
        """Channels, samples per step, and steps.

        Raises
        ------
        ValueError
            If the event has more than two axes.
        """
        if len(input_shape) > 2:
            raise ValueError(
                f"{type(self).__name__} reads events of shape (L,) or (C, L): L samples in time of "
                f"C channels. Got events of shape {tuple(input_shape)} instead."
            )
        n_channels, n_samples = (1, *input_shape)[-2:]
        size = self.patch_size or round(math.sqrt(n_samples))
        return n_channels, size, math.ceil(n_samples / size)
