"""Figures of merit of nuclear and particle physics, with their errors, and their displays."""

from sknuc.metrics._aoe import ComptonBandCorrection, fit_compton_bands
from sknuc.metrics._calibration import (
    TH228_GAMMAS,
    TH228_LINES,
    EnergyCalibration,
    calibrate_energy,
)
from sknuc.metrics._chains import effective_sample_size, r_hat
from sknuc.metrics._coverage import Coverage, coverage
from sknuc.metrics._distribution_scorer import make_distribution_scorer
from sknuc.metrics._intervals import binomial_interval
from sknuc.metrics._peaks import PeakFit, fit_peak
from sknuc.metrics._plot import PeakDisplay, SurvivalDisplay
from sknuc.metrics._plot_calibration import CoverageDisplay
from sknuc.metrics._plot_intervals import IntervalDisplay
from sknuc.metrics._plot_pit import PITDisplay
from sknuc.metrics._plot_reliability import ReliabilityDisplay
from sknuc.metrics._plot_samples import SampleComparisonDisplay
from sknuc.metrics._rejection import (
    RejectionAtAcceptance,
    acceptance_threshold,
    rejection_at_acceptance,
)
from sknuc.metrics._sample_histogram import HistogramIoU, histogram_iou
from sknuc.metrics._sample_moments import (
    CorrelationDistance,
    FrechetDistance,
    correlation_distance,
    frechet_distance,
)
from sknuc.metrics._sample_neighbors import PRDC, precision_recall_density_coverage
from sknuc.metrics._sample_scorer import make_sample_scorer
from sknuc.metrics._sample_wasserstein import (
    sliced_wasserstein_distance,
    wasserstein_distance,
)
from sknuc.metrics._score_brier import BrierDecomposition, brier_decomposition
from sknuc.metrics._score_calibration import (
    CalibrationError,
    ReliabilityCurve,
    expected_calibration_error,
    reliability_curve,
)
from sknuc.metrics._score_intervals import interval_score, interval_width
from sknuc.metrics._score_joint import energy_score, variogram_score
from sknuc.metrics._score_pit import PITTest, pit, pit_test
from sknuc.metrics._score_quantiles import crps_quantile, pinball_loss, quantile_calibration_error
from sknuc.metrics._scores import crps_ensemble, crps_gaussian, gaussian_nll, sharpness
from sknuc.metrics._survival import (
    SurvivalFraction,
    peak_region,
    sideband_weights,
    survival_fraction,
)
from sknuc.metrics._two_sample import TwoSampleAUC, two_sample_auc

__all__ = [
    "PRDC",
    "TH228_GAMMAS",
    "TH228_LINES",
    "BrierDecomposition",
    "CalibrationError",
    "ComptonBandCorrection",
    "CorrelationDistance",
    "Coverage",
    "CoverageDisplay",
    "EnergyCalibration",
    "FrechetDistance",
    "HistogramIoU",
    "IntervalDisplay",
    "PITDisplay",
    "PITTest",
    "PeakDisplay",
    "PeakFit",
    "RejectionAtAcceptance",
    "ReliabilityCurve",
    "ReliabilityDisplay",
    "SampleComparisonDisplay",
    "SurvivalDisplay",
    "SurvivalFraction",
    "TwoSampleAUC",
    "acceptance_threshold",
    "binomial_interval",
    "brier_decomposition",
    "calibrate_energy",
    "correlation_distance",
    "coverage",
    "crps_ensemble",
    "crps_gaussian",
    "crps_quantile",
    "effective_sample_size",
    "energy_score",
    "expected_calibration_error",
    "fit_compton_bands",
    "fit_peak",
    "frechet_distance",
    "gaussian_nll",
    "histogram_iou",
    "interval_score",
    "interval_width",
    "make_distribution_scorer",
    "make_sample_scorer",
    "peak_region",
    "pinball_loss",
    "pit",
    "pit_test",
    "precision_recall_density_coverage",
    "quantile_calibration_error",
    "r_hat",
    "rejection_at_acceptance",
    "reliability_curve",
    "sharpness",
    "sideband_weights",
    "sliced_wasserstein_distance",
    "survival_fraction",
    "two_sample_auc",
    "variogram_score",
    "wasserstein_distance",
]
