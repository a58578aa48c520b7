"""Samplers: p(x) or p(x given y), learned from events, and events drawn from it."""

__all__ = []
