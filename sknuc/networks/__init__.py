"""Point prediction by neural networks."""

from sknuc.networks._neural import NeuralClassifier, NeuralRegressor

__all__ = ["NeuralClassifier", "NeuralRegressor"]
