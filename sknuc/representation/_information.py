r"""Mutual information of events and targets, by a network that tells pairs apart.

How much does x tell of y? In nats,

.. math:: I = \mathrm{E}_{p(x, y)}\!\left[\ln\frac{p(x, y)}{p(x)\,p(y)}\right] .

A critic T(x, y) learns which pairs belong together. With N pairs, every one of these is at most I
on average, and reaches it for the right critic (for InfoNCE, as N grows):

- "infonce", :math:`\mathrm{E}[T(x_i, y_i) - \ln \frac1N\sum_j e^{T(x_i, y_j)}] \le \ln N`: it
  scatters little, and can never say more than ln N. With weights, of the mean 1, those of the
  others are in the sum, and N is :math:`1 + \sum_{j\ne i} w_j`: who knows nothing says 0;
- "nwj", :math:`\mathrm{E}_p[T] - \mathrm{E}_{p \times p}[e^{T-1}]`, and "dv",
  :math:`\mathrm{E}_p[T] - \ln \mathrm{E}_{p \times p}[e^T]`: they have no such limit, but scatter
  as :math:`\sqrt{e^I/n}`, since the few pairs of large T decide;
- "smile", the critic of the divergence of Jensen and Shannon, which learns with less scatter, and
  "dv" with :math:`e^T` cut at :math:`e^{\pm 5}`: no strict bound any more.

A critic is judged on events that it has not seen, where no value above I is learnt by heart.
"""

import math
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import nn

from sknuc import losses
from sknuc.base import (
    center_and_scale,
    check_widths,
    levels_to_user,
    validate_labels,
    validate_targets,
    validate_weights,
)
from sknuc.nn import DenseDecoder
from sknuc.representation._base import Representation, distinct_events
from sknuc.torch_estimator import Player, TorchEstimator

__all__ = ["MutualInformation"]

# Where "smile" cuts the logarithms of density ratios.
_CUT = 5.0
# Closer to the ceiling than this, in nats, an estimate may be of the ceiling.
_REACH = 0.5
# Held-out targets that the normalisation of the pointwise information is averaged over.
_REFERENCE = 2048
# Pairs of so many events are compared at a time, for bounds that no batch limits.
_BLOCK = 1024
# Estimates of fewer pairs are no reason to warn.
_ENOUGH = 100


class _Pairs(nn.Module):
    """Critic of pairs, a scalar product of features and a number of either side.

    Parameters
    ----------
    encoder : nn.Module
        From events (n, *shape) to (n, n_features).
    n_features, n_targets, width : int
    hidden : list of int
        Widths of the layers of the network of targets.
    """

    def __init__(self, encoder, n_features, n_targets, width, hidden):
        super().__init__()
        self.encoder = encoder
        self.of_x = nn.Linear(n_features, width + 1)
        self.of_y = DenseDecoder(n_targets, (width + 1,), hidden_layer_sizes=hidden)

    def forward(self, x):
        """Features of events, and their number, (n, width + 1)."""
        return self.of_x(self.encoder(x))


def pair_scores(left, right):
    """Scores (n, m) of all pairs of features with their number in the last column."""
    scores = left[:, :-1] @ right[:, :-1].T / math.sqrt(left.shape[1])
    return scores + left[:, -1:] + right[:, -1]


class MutualInformation(Representation):
    r"""Mutual information of events and targets, in nats, and the features that carry it.

    .. math:: I(X; Y) = \mathrm{E}\left[\ln\frac{p(x, y)}{p(x)\,p(y)}\right]

    Parameters
    ----------
    bound : {"infonce", "nwj", "dv", "smile"}, default="infonce"
        What is raised, and reported of held-out events. "infonce" scatters least and cannot exceed
        the logarithm of `batch_size`; "nwj" and "dv" have no limit and scatter the more the larger
        the information is; "smile" scatters less and is no strict bound.
    discrete_target : bool or "auto", default="auto"
        Whether `y` holds classes; "auto" takes words and flags for classes, and all numbers for
        numbers.
    n_latent : int, default=32
        Features of x, and of y, whose scalar product is the critic.
    target_layers : tuple of int, default=(64, 64)
        Widths of the layers of the network that reads y.
    test_fraction : float in (0, 1), default=0.25
        Share of the events that is held out for the estimate; `early_stopping` holds out a part of
        the others.
    encoder : encoder or None, default=None
        The network that reads an event: an object of :mod:`sknuc.encoders`, or your own with a
        method ``build(input_shape)``. None is ``MLP()`` for tables and ``CNN()`` for signals and
        images.
    learning_rate : float, default=0.002
        Step size of the optimizer.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, to zero within `max_epochs` along half a cosine, or
        as :math:`(1+10p)^{-3/4}` of the share p of the steps.
    {shared_parameters}

    Attributes
    ----------
    mutual_information_ : float
        The estimate of held-out events, in nats.
    mutual_information_error_ : float
        Its standard error by the number of these events, for the critic as it is: not what a better
        critic would find. Near the ceiling of "infonce" it may be wrong by a sixth.
    ceiling_ : float
        What the estimate cannot exceed: the logarithm of the events in a batch for "infonce", each
        with its weight but the own one with 1; infinite otherwise.
    classes_ : ndarray of shape (n_classes,)
        The classes, if `y` holds classes.
    module_ : torch.nn.Module
        The trained network, from events (n, \*input_shape_) to features (n, n_latent + 1), the
        last of which is a number that is added.
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

    See Also
    --------
    sklearn.feature_selection.mutual_info_regression : Of single columns, by neighbours.

    Notes
    -----
    What a critic that has learnt too little reaches is too low, so that the largest of several
    estimates on held-out events is the best. Of "dv", the logarithm of the mean over all
    held-out pairs is used, of which the bias is of the order of one over their number.

    Identical pairs of event and target are merged before the fit, so that none is both learnt from
    and held out, and one of weight 2 is exactly the pair twice.

    References
    ----------
    B. Poole, S. Ozair, A. van den Oord, A. Alemi, G. Tucker, "On Variational Bounds of Mutual
    Information", ICML 2019, arXiv:1905.06922. J. Song, S. Ermon, "Understanding the Limitations of
    Variational Mutual Information Estimators", ICLR 2020, arXiv:1910.06222, for "smile".

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.representation import MutualInformation
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(4000, 1))
    >>> y = 0.8 * x[:, 0] + 0.6 * rng.normal(size=4000)  # the correlation is 0.8
    >>> model = MutualInformation(max_epochs=15, random_state=0).fit(x, y)
    >>> bool(abs(model.mutual_information_ - -np.log(1 - 0.8**2) / 2) < 0.1)
    True
    """

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "bound": [StrOptions({"infonce", "nwj", "dv", "smile"})],
        "discrete_target": ["boolean", StrOptions({"auto"})],
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "target_layers": ["array-like"],
        "test_fraction": [Interval(Real, 0, 1, closed="neither")],
    }
    _without = ("warm_start",)

    def __init__(
        self,
        *,
        bound="infonce",
        discrete_target="auto",
        n_latent=32,
        target_layers=(64, 64),
        test_fraction=0.25,
        learning_rate=0.002,
        schedule="cosine",
        **shared,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, **shared)
        self.bound = bound
        self.discrete_target = discrete_target
        self.n_latent = n_latent
        self.target_layers = target_layers
        self.test_fraction = test_fraction

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Train the critic on a part of the pairs, and estimate on the others.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            Numbers, or classes.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        self : MutualInformation

        Warns
        -----
        UserWarning
            If the estimate is close to its ceiling, which it may have hit.

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or there are fewer than four different
            events.
        TrainingDivergedError
            If the loss becomes NaN or infinite.
        """
        X = self._validate_events(X, reset=True)
        self._start_anew()
        check_widths("target_layers", self.target_layers)
        kind = np.asarray(y).dtype.kind if y is not None else "f"
        discrete = kind not in "fiu" if self.discrete_target == "auto" else self.discrete_target
        self.__dict__.pop("classes_", None)
        target = (validate_labels if discrete else validate_targets)(y, self)
        check_consistent_length(X, target)
        sample_weight = validate_weights(sample_weight, X)
        if sample_weight is not None:
            kept = sample_weight != 0
            X, target, sample_weight = X[kept], target[kept], sample_weight[kept]
        if discrete:
            self.classes_ = np.unique(target)
            target = self._encode(target)
        else:
            self._target_ndim = target.ndim
        columns = target.reshape(len(target), -1)
        X, columns, sample_weight = distinct_events(X, columns, sample_weight)
        if not discrete:
            # Of merged events, so that a weight is a multiplicity to the last bit.
            self._target_mean, self._target_scale = center_and_scale(columns, sample_weight)
            columns = (columns - self._target_mean) / self._target_scale
        if len(X) < 4:
            raise ValueError(
                "MutualInformation needs four different events or more, of which some are held "
                f"out. Got {len(X)}, that is n_samples={len(X)}."
            )
        self._n_targets = columns.shape[1]
        order = check_random_state(self.random_state).permutation(len(X))
        n_test = min(max(2, round(self.test_fraction * len(X))), len(X) - 2)
        test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
        weight = [None if sample_weight is None else sample_weight[rows] for rows in (train, test)]
        self._fit_events(X[train], {"y": columns[train]}, sample_weight=weight[0], reset=True)
        held_out = slice(0, _REFERENCE)
        self._reference = (
            columns[test][held_out],
            None if weight[1] is None else weight[1][held_out],
        )
        result = self._estimate(X[test], columns[test], weight[1])
        self.mutual_information_, self.mutual_information_error_, self.ceiling_ = result
        if len(test) >= _ENOUGH and self.mutual_information_ > self.ceiling_ - _REACH:
            warnings.warn(
                f"The estimate, {self.mutual_information_:.2f} nats, is close to what "
                f"bound='infonce' can say at most, the logarithm of the events in a batch, "
                f"{self.ceiling_:.2f}: the mutual information may be larger. Take a larger "
                "batch_size, more events, or another bound.",
                UserWarning,
                stacklevel=levels_to_user(),
            )
        return self

    def _encode(self, y):
        """Targets as the network reads them, of shape (n, n_targets): one number per class."""
        if hasattr(self, "classes_"):
            unknown = ~np.isin(y, self.classes_)
            if unknown.any():
                raise ValueError(
                    f"y holds the labels {np.unique(y[unknown]).tolist()}, which are not among the "
                    f"classes {self.classes_.tolist()} of this MutualInformation."
                )
            return (y[:, np.newaxis] == self.classes_).astype(np.float64)
        columns = y.reshape(len(y), -1)
        if y.ndim != self._target_ndim or columns.shape[1] != len(self._target_mean):
            raise ValueError(
                f"y has the shape {y.shape}, but this MutualInformation was fitted on "
                f"{len(self._target_mean)} targets."
            )
        return (columns - self._target_mean) / self._target_scale

    def _build(self):
        encoder, n_features = self._encoder()
        self._n_out = self.n_latent
        hidden = check_widths("target_layers", self.target_layers)
        return _Pairs(encoder, n_features, self._n_targets, self.n_latent, hidden)

    def _players(self):
        loss = {
            "infonce": losses.info_nce,
            "nwj": losses.nwj,
            "dv": losses.donsker_varadhan,
            "smile": losses.jensen_shannon,
        }[self.bound]

        def of_batch(module, batch):
            scores = pair_scores(module(batch.X), module.of_y(batch.y))
            return loss(scores, weight=self._relative_weight(batch))

        return [Player(of_batch, optimizer=self._optimizer)]

    def _of_targets(self, y):
        """Features (n, n_latent + 1) of encoded targets, in 64 bits."""
        network = self.module_[1]
        like = next(network.parameters())
        with torch.inference_mode(), self._threads(len(y)):
            return network.of_y(torch.from_numpy(y).to(like)).double().cpu()

    def _of_events(self, X):
        return torch.from_numpy(self._forward(X)).double()

    def _estimate(self, X, y, weight):
        """The bound on given pairs, its standard error, and its ceiling."""
        left, right = self._of_events(X), self._of_targets(y)
        n = len(left)
        weight = torch.ones(n, dtype=torch.float64) if weight is None else torch.tensor(weight)
        weight = weight.double() / weight.mean()
        size = self.batch_size if self.bound == "infonce" else max(self.batch_size, _BLOCK)
        n_blocks = -(-n // size)
        parts = [torch.from_numpy(rows) for rows in np.array_split(np.arange(n), n_blocks)]
        values = [
            self._influences(pair_scores(left[rows], right[rows]), weight[rows]) for rows in parts
        ]
        own, partners = (torch.cat(columns) for columns in zip(*values, strict=True))
        total = weight.sum()
        if self.bound == "infonce":
            value, influence = own @ weight / total, own - partners
        elif self.bound == "nwj":
            mean = partners @ weight / total / 2
            value, influence = own @ weight / total - mean, own - partners
        else:
            mean = partners @ weight / total / 2
            value, influence = own @ weight / total - mean.log(), own - partners / mean
        influence = influence - influence @ weight / total
        error = (weight * influence).square().sum().sqrt() / total
        ceiling = math.inf
        if self.bound == "infonce":
            # Of every pair, the number of partners.
            partners = [1 + weight[rows].sum() - weight[rows].min() for rows in parts]
            ceiling = math.log(max(partners))
        return float(value), float(error), ceiling

    def _influences(self, scores, weight):
        """What every pair adds by itself, and as a partner of the others, each of shape (n,)."""
        n = len(scores)
        own = scores.diagonal()
        if self.bound == "infonce":
            # Against a critic that knows nothing, of which the shares are the weights.
            ignorant = weight.log().repeat(n, 1).fill_diagonal_(0.0)
            told, ignored = (torch.log_softmax(s + ignorant, 1) for s in (scores, 0.0))
            # A pair that takes a share of more than its own from the others lowers the bound.
            partners = weight @ (told.exp() - ignored.exp()) / weight
            return (told - ignored).diagonal(), partners
        logs = {"nwj": scores - 1, "dv": scores, "smile": scores.clamp(-_CUT, _CUT)}[self.bound]
        ratios = logs.exp() * (1 - torch.eye(n, dtype=scores.dtype))
        rest = (weight.sum() - weight).clamp(min=torch.finfo(weight.dtype).tiny)
        return own, (ratios @ weight + weight @ ratios) / rest

    def transform(self, X):
        """Compute the features that tell of the targets.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.

        Returns
        -------
        Z : ndarray of shape (n_events, n_latent)
        """
        return super().transform(X)[:, :-1]

    def _validate_pairs(self, X, y):
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        y = (validate_labels if hasattr(self, "classes_") else validate_targets)(y, self)
        check_consistent_length(X, y)
        return X, self._encode(y)

    def score(self, X, y, sample_weight=None):
        """Estimate the mutual information from given pairs, by the critic of the fit.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            Events that were not learnt from.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            Their targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.

        Returns
        -------
        score : float
            In nats.

        Raises
        ------
        ValueError
            If there are fewer than two pairs.
        """
        X, y = self._validate_pairs(X, y)
        weight = validate_weights(sample_weight, X)
        if weight is not None:
            X, y, weight = X[weight != 0], y[weight != 0], weight[weight != 0]
        if len(y) < 2:
            raise ValueError("The score of MutualInformation needs two pairs or more. Got one.")
        return self._estimate(X, y, weight)[0]

    def pointwise_information(self, X, y):
        r"""How much an event tells of its own target, :math:`\ln p(x, y)/p(x)p(y)`.

        The critic is normalised by its mean over targets that were held out.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            Their targets.

        Returns
        -------
        information : ndarray of shape (n_events,)
            In nats; negative where the target is less probable than without the event.
        """
        X, y = self._validate_pairs(X, y)
        left, right = self._of_events(X), self._of_targets(y)
        targets, weight = self._reference
        reference = self._of_targets(targets)
        own = (left[:, :-1] * right[:, :-1]).sum(1) / math.sqrt(left.shape[1])
        own = own + left[:, -1] + right[:, -1]
        weight = np.ones(len(targets)) if weight is None else weight
        shares = torch.from_numpy(weight / weight.sum()).log()
        blocks = [
            torch.logsumexp(pair_scores(block, reference) + shares, 1) for block in left.split(1024)
        ]
        return (own - torch.cat(blocks)).numpy()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags
