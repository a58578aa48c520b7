"""Representations: features that are learned without labels, as steps of a pipeline."""

from sknuc.representation._augmentations import (
    Augmentation,
    Baseline,
    FeatureDropout,
    Flip,
    Gain,
    Mask,
    Noise,
    Rotation,
    Shift,
)
from sknuc.representation._autoencoder import Autoencoder
from sknuc.representation._infomax import DeepInfoMax
from sknuc.representation._information import MutualInformation
from sknuc.representation._plot_latent import LatentDisplay
from sknuc.representation._simclr import SimCLR

__all__ = [
    "Augmentation",
    "Autoencoder",
    "Baseline",
    "DeepInfoMax",
    "FeatureDropout",
    "Flip",
    "Gain",
    "LatentDisplay",
    "Mask",
    "MutualInformation",
    "Noise",
    "Rotation",
    "Shift",
    "SimCLR",
]
