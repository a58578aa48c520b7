"""Training: the only room that imports skorch."""
