"""Errors and warnings of sknuc where scikit-learn has none."""

__all__ = ["DomainWarning", "TrainingDivergedError"]


class DomainWarning(UserWarning):
    """What should be made right for a target domain may not be.

    A fit got no events of the target, or the two domains hardly have events in common.
    """


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
