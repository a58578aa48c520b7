"""Figures of merit of nuclear and particle physics, with their errors, and their displays."""

from ._aoe import ComptonBandCorrection, fit_compton_bands
from ._calibration import TH228_LINES, EnergyCalibration, calibrate_energy
from ._intervals import binomial_interval
from ._peaks import PeakFit, fit_peak
from ._plot import PeakDisplay, SurvivalDisplay
from ._rejection import RejectionAtAcceptance, acceptance_threshold, rejection_at_acceptance
from ._survival import SurvivalFraction, peak_region, sideband_weights, survival_fraction

__all__ = [
    "TH228_LINES",
    "ComptonBandCorrection",
    "EnergyCalibration",
    "PeakDisplay",
    "PeakFit",
    "RejectionAtAcceptance",
    "SurvivalDisplay",
    "SurvivalFraction",
    "acceptance_threshold",
    "binomial_interval",
    "calibrate_energy",
    "fit_compton_bands",
    "fit_peak",
    "peak_region",
    "rejection_at_acceptance",
    "sideband_weights",
    "survival_fraction",
]
