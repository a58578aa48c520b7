"""Point prediction by neural networks."""
