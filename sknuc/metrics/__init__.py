"""Scores on numpy arrays, and displays."""
