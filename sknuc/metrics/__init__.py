"""Figures of merit of nuclear and particle physics, with their errors, and their displays."""

from sknuc.metrics._aoe import ComptonBandCorrection, fit_compton_bands
from sknuc.metrics._calibration import (
    TH228_GAMMAS,
    TH228_LINES,
    EnergyCalibration,
    calibrate_energy,
)
from sknuc.metrics._intervals import binomial_interval
from sknuc.metrics._peaks import PeakFit, fit_peak
from sknuc.metrics._plot import PeakDisplay, SurvivalDisplay
from sknuc.metrics._rejection import (
    RejectionAtAcceptance,
    acceptance_threshold,
    rejection_at_acceptance,
)
from sknuc.metrics._survival import (
    SurvivalFraction,
    peak_region,
    sideband_weights,
    survival_fraction,
)

__all__ = [
    "TH228_GAMMAS",
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
