"""Adaptation: what was learnt on simulated events is made right for measured ones."""

__all__ = []
