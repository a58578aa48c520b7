"""Errors that sknuc raises where scikit-learn has none."""

__all__ = ["TrainingDivergedError"]


class TrainingDivergedError(ArithmeticError):
    """A loss became NaN or infinite during training.

    The estimator keeps what was learnt before: it is fitted if at least one epoch was completed.

    Attributes
    ----------
    n_epochs : int
        Completed epochs of this training.
    """

    n_epochs = 0
    result = None
    epoch_began_well = False
