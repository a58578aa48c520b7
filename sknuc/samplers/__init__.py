"""Samplers: p(x) or p(x given y), learned from events, and events drawn from it."""

from sknuc.samplers._flow import FlowSampler

__all__ = ["FlowSampler"]
