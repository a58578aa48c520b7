"""From detector signals to arrays and tables."""

from sknuc.preprocessing._cloud_images import TPCProjector
from sknuc.preprocessing._clouds import PointCloudSampler
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
    "PointCloudSampler",
    "PoleZeroCorrector",
    "PulseShapeFeatures",
    "TPCProjector",
    "TrapezoidalFilter",
    "WaveformAligner",
    "WaveformCropper",
    "WaveformNormalizer",
    "WaveformResampler",
]
