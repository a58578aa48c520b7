"""From detector signals to arrays and tables."""

from ._pulse_shape import PulseShapeFeatures
from ._waveforms import BaselineSubtractor, PoleZeroCorrector, TrapezoidalFilter
from ._windows import WaveformAligner, WaveformCropper, WaveformNormalizer, WaveformResampler

__all__ = [
    "BaselineSubtractor",
    "PoleZeroCorrector",
    "PulseShapeFeatures",
    "TrapezoidalFilter",
    "WaveformAligner",
    "WaveformCropper",
    "WaveformNormalizer",
    "WaveformResampler",
]
