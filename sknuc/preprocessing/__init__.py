"""From detector signals to arrays and tables."""

from sknuc.preprocessing._hit_map import PMTHitMap
from sknuc.preprocessing._pulse_shape import PulseShapeFeatures
from sknuc.preprocessing._waveforms import BaselineSubtractor, PoleZeroCorrector, TrapezoidalFilter
from sknuc.preprocessing._windows import (
    WaveformAligner,
    WaveformCropper,
    WaveformNormalizer,
    WaveformResampler,
)

__all__ = [
    "BaselineSubtractor",
    "PMTHitMap",
    "PoleZeroCorrector",
    "PulseShapeFeatures",
    "TrapezoidalFilter",
    "WaveformAligner",
    "WaveformCropper",
    "WaveformNormalizer",
    "WaveformResampler",
]
