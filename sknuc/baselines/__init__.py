"""Baselines without torch: boosted trees and support vector machines."""

from sknuc.baselines._bdt import BDTClassifier, BDTRegressor

__all__ = ["BDTClassifier", "BDTRegressor"]
