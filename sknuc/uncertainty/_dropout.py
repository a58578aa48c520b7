r"""Monte-Carlo dropout: one network whose neurons are dropped in prediction, too.

Training with dropout minimises a bound of a Bayesian posterior over networks with some neurons
missing; every mask m is a function drawn from it, and S masks are an ensemble for the price of one
training,

.. math:: p(y|x) = \frac1S\sum_s p(y|x, m_s) .

A mask acts on all events alike, so that a drawn function is one function, and the prediction of an
event does not depend on its company.
"""

from numbers import Integral

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils._param_validation import Interval

from sknuc.multiplicity import row_hash
from sknuc.nn import MASK_GROUPS, MaskedDraws, group_dropout, mask_groups, other_dropout
from sknuc.uncertainty._members import ClassMembers, GaussianMembers

__all__ = ["MCDropoutClassifier", "MCDropoutRegressor"]

# Rows that are hashed at a time, of events that lie on disk.
_HASHED_ROWS = 4096


class _Masks:
    """Training and prediction with masks: what regressor and classifier share."""

    def _fit_masks(self, X, y, sample_weight):
        self._fit_members(X, y, sample_weight, columns=lambda X: {"groups": _groups(X)})
        self._mask_seeds = self._random_state.randint(2**31 - 1, size=self.n_draws).tolist()
        return self

    def _default_encoder(self):
        return super()._default_encoder().set_params(dropout=0.1)

    def _build(self):
        network = super()._build()
        others = other_dropout(network)
        n_layers = group_dropout(network)
        if others or not n_layers:
            found = f"other dropout, in {', '.join(others)}." if others else "none."
            raise ValueError(
                "The 'encoder' parameter must have dropout in layers of torch.nn.Dropout, such as "
                f"MLP(dropout=0.1), and nowhere else. Got {self.encoder!r}, which has {found}"
            )
        return network

    def _loss(self, module, batch):
        with mask_groups(batch.groups):
            return super()._loss(module, batch)

    def _outputs(self, X):
        return self._forward(X, network=MaskedDraws(self.module_[1], self._mask_seeds))


def _groups(X):
    """The group of every event.

    It follows from the event, and so do its masks: an event of weight 2 has those of the same event
    twice.
    """
    blocks = range(0, X.shape[0], _HASHED_ROWS)
    rows = (np.asarray(X[i : i + _HASHED_ROWS]) for i in blocks)
    hashed = np.concatenate([row_hash(part.reshape(len(part), -1)) for part in rows])
    # The high bits of a sum of products are those that all its terms have mixed.
    return ((hashed >> np.uint64(32)) % np.uint64(MASK_GROUPS)).astype(np.int64)


class MCDropoutRegressor(_Masks, GaussianMembers):
    r"""Network that predicts mean and spread, with dropout in training and prediction.

    S masks make S functions, each with a Gaussian :math:`N(\mu_s(x), \sigma_s^2(x))`; the
    prediction is their even mixture. How far the functions differ where there were events depends
    on the dropout's probability as much as on the events: check the coverage, or prefer
    :class:`DeepEnsembleRegressor`.

    Parameters
    ----------
    n_draws : int, default=50
        S, the masks of the prediction.
    beta : float in [0, 1], default=0.5
        How much of the events' share in the fit of the mean, which the likelihood takes from those
        with a large spread, is given back (:func:`sknuc.losses.gaussian_nll`).
    min_std : float, default=1e-3
        The smallest spread that is predicted, in standard deviations of the targets.
    encoder : encoder or None, default=None
        The network that reads an event, with dropout; None is ``MLP(dropout=0.1)``.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events (n, *input_shape_) to means and raw spreads (n, 2
        n_targets), without dropout.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
    history_ : skorch.history.History
        One row per epoch: losses and times.
    n_iter_ : int
        Epochs trained.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    Notes
    -----
    In training, events share masks in 64 groups, which follow from their values, so that a weight
    of 2 is exactly the event twice.

    References
    ----------
    Y. Gal, Z. Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in
    Deep Learning", ICML 2016, arXiv:1506.02142. A. Kendall, Y. Gal, "What Uncertainties Do We Need
    in Bayesian Deep Learning for Computer Vision?", NeurIPS 2017, arXiv:1703.04977.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.uncertainty import MCDropoutRegressor
    >>> X = np.linspace(-1, 1, 300).reshape(-1, 1)
    >>> model = MCDropoutRegressor(random_state=0).fit(X, np.sin(3 * X[:, 0]))
    >>> inside, outside = model.predict_uncertainty([[0.0], [3.0]]).epistemic
    >>> bool(outside > inside)
    True
    """

    _parameter_constraints = {
        **GaussianMembers._parameter_constraints,
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_draws=50, beta=0.5, min_std=1e-3, **shared):
        super().__init__(beta=beta, min_std=min_std, **shared)
        self.n_draws = n_draws

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; a memory map or an HDF5 dataset above 256 MiB is streamed.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : MCDropoutRegressor

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or the encoder has no dropout.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        return self._fit_masks(X, y, sample_weight)

    def _numbers_per_event(self):
        return 8 * len(self._mask_seeds) * len(self.target_mean_)


class MCDropoutClassifier(_Masks, ClassMembers):
    r"""Network classifier with dropout in training and prediction.

    S masks make S functions, whose probabilities are averaged; where they do not agree, the
    network does not know.

    Parameters
    ----------
    n_draws : int, default=50
        S, the masks of the prediction.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply `sample_weight`.
    encoder : encoder or None, default=None
        The network that reads an event, with dropout; None is ``MLP(dropout=0.1)``.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    module_ : torch.nn.Module
        The trained network, from events (n, *input_shape_) to log odds (n, 1) or logits
        (n, n_classes), without dropout.
    history_ : skorch.history.History
        One row per epoch: losses and times.
    n_iter_ : int
        Epochs trained.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    References
    ----------
    Y. Gal, Z. Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in
    Deep Learning", ICML 2016, arXiv:1506.02142.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sknuc.uncertainty import MCDropoutClassifier
    >>> X, y = make_moons(300, noise=0.1, random_state=0)
    >>> model = MCDropoutClassifier(random_state=0).fit(X, y)
    >>> bool(model.predict_uncertainty(X).epistemic.min() >= 0)
    True
    """

    _parameter_constraints = {
        **ClassMembers._parameter_constraints,
        "n_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_draws=50, class_weight=None, **shared):
        super().__init__(class_weight=class_weight, **shared)
        self.n_draws = n_draws

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train the network.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events; a memory map or an HDF5 dataset above 256 MiB is streamed.
        y : array-like of shape (n_events,)
            Labels of any kind.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : MCDropoutClassifier

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, there is only one class, or the encoder
            has no dropout.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        return self._fit_masks(X, y, sample_weight)

    def _numbers_per_event(self):
        return 4 * len(self._mask_seeds) * len(self.classes_)
