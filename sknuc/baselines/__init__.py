"""Baselines without torch: boosted trees and support vector machines."""
