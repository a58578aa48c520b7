"""sknuc: scikit-learn-compatible estimators for nuclear and particle physics."""

from sknuc._version import __version__

__all__ = ["__version__"]
