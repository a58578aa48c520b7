"""Simulators, real data and readers."""

from sknuc.datasets._hpge import make_hpge_waveforms

__all__ = ["make_hpge_waveforms"]
