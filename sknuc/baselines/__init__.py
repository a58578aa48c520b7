"""Baselines without torch: boosted trees and support vector machines."""

from sknuc.baselines._bdt import BDTClassifier, BDTRegressor
from sknuc.baselines._svm import SVMClassifier, SVMRegressor

__all__ = ["BDTClassifier", "BDTRegressor", "SVMClassifier", "SVMRegressor"]
