"""What every encoder is: hyper-parameters that build a network for one shape of event."""

from abc import abstractmethod
from numbers import Integral

from sklearn.base import BaseEstimator
from torch import nn

__all__ = ["Encoder", "ModuleEncoder"]


class Encoder(BaseEstimator):
    """Base class of the encoders.

    An encoder holds hyper-parameters only, with ``get_params`` and ``set_params`` as any
    scikit-learn object, so that ``set_params(encoder__channels=...)`` and grid searches reach
    them. It is never fitted: each estimator builds its own network from it.
    """

    def channel_axis(self, input_shape):
        """The axis of one event that counts channels, which are standardised one by one.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one event.

        Returns
        -------
        axis : int or None
            Without the axis of events; None if there is one channel only.
        """
        return 0

    def padding_axis(self, input_shape):
        """The axis of one event that counts rows of which those of zeros are padding.

        They stay zeros when the input is standardised, and are not measured.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one event.

        Returns
        -------
        axis : int or None
            Without the axis of events; None if there is no padding, and zeros are values.
        """
        return None

    def uniform_event(self, input_shape):
        """What an event without structure looks like, whose multiple is subtracted as the mean.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one event.

        Returns
        -------
        event : ndarray, broadcastable to `input_shape`, or None
            Of mean 1; None if all its numbers are the same.
        """
        return None

    @abstractmethod
    def build(self, input_shape):
        """Build the network.

        Parameters
        ----------
        input_shape : tuple of int
            The shape of one event, without the axis of events.

        Returns
        -------
        module : nn.Module
            From events (n, *input_shape) to features (n, n_features).
        """


class ModuleEncoder(Encoder):
    """Your own network as an encoder.

    Parameters
    ----------
    factory : callable
        A function or an ``nn.Module`` class, called as ``factory(input_shape, **params)``; returns
        a module from events (n, *input_shape) to features (n, n_features). To be pickled it must
        be importable: defined in a module, no lambda.
    params : dict or None, default=None
        Further arguments of the factory.
    channels : int or None, default=0
        The axis of one event that counts channels (features of a table), which are standardised
        one by one; None for one scale for the whole event.
    padding : int or None, default=None
        The axis of one event that counts rows of which those of zeros are padding, as 0 for hits
        of shape (P, F): they are not measured and stay zeros when the input is standardised.

    Examples
    --------
    >>> from torch import nn
    >>> from sknuc.encoders import ModuleEncoder
    >>> from sknuc.networks import NeuralClassifier
    >>> def my_network(input_shape, width=8):
    ...     return nn.Sequential(nn.Linear(input_shape[0], width), nn.Tanh())
    >>> model = NeuralClassifier(encoder=ModuleEncoder(my_network, params={"width": 4}))
    >>> model.fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[3.0]]).shape
    (1,)
    """

    def __init__(self, factory, *, params=None, channels=0, padding=None):
        self.factory = factory
        self.params = params
        self.channels = channels
        self.padding = padding

    def channel_axis(self, input_shape):
        """The parameter `channels`.

        Raises
        ------
        ValueError
            If it is neither None nor an axis of the events.
        """
        return self._axis("channels", input_shape)

    def padding_axis(self, input_shape):
        """The parameter `padding`.

        Raises
        ------
        ValueError
            If it is neither None nor an axis of the events.
        """
        return self._axis("padding", input_shape)

    def _axis(self, name, input_shape):
        axis = getattr(self, name)
        is_integer = isinstance(axis, Integral) and not isinstance(axis, bool)
        if axis is None or (is_integer and 0 <= axis < len(input_shape)):
            return axis
        raise ValueError(
            f"The {name!r} parameter of ModuleEncoder must be None or an axis of events of shape "
            f"{tuple(input_shape)}, an integer from 0 to {len(input_shape) - 1}. Got {axis!r} "
            "instead."
        )

    def build(self, input_shape):
        """Call the factory.

        Raises
        ------
        TypeError
            If it does not return an ``nn.Module``.
        """
        module = self.factory(input_shape, **(self.params or {}))
        if not isinstance(module, nn.Module):
            raise TypeError(
                "The 'factory' parameter of ModuleEncoder must return a torch.nn.Module. Got "
                f"{module!r} instead."
            )
        return module
