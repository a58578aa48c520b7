"""Simulators, real data and readers."""
