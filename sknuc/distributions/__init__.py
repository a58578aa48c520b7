"""Distributions p(y given x): quantiles, mixtures and flows, for every encoder."""

__all__ = []
