"""Encoders: the networks that read a detector's data, as scikit-learn objects."""
