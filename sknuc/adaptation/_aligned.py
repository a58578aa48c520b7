r"""What all adapters that train a network share: one loss of two domains.

The events of the source are classified, and the features of both domains are made alike,

.. math:: L = \sum_{i \in S} w_i\, \ell(f(z_i), y_i)
              + \lambda\, d\big(\{z_i, w_i r_{y_i}\}_S, \{z_j, w_j\}_T\big),
          \qquad z = \phi(x),\; z_j = \phi(m(x_j)) \text{ of the target,}

with a distance d of two samples that a method defines. Two things make that work where the domains
differ by more than a blur:

- *A map of the target's events*, m, channel by channel (:class:`sknuc.nn.ChannelMap`). One network
  for both domains alone cannot undo a shift.
- *Class priors.* If a class is r times as frequent in the target as in the source, samples that are
  alike have different features, and making them alike moves events of one class to the other.
  In the distance, the classes of the source are weighted by :math:`r_k = p_T(k)/p_S(k)`. That is
  found as the head sees it: its answers to events of class k, averaged, are column k of a matrix C
  (times :math:`p_S(k)`), its answers to the target average to q, and :math:`C r = q` where the
  features of a class are alike in both domains. Least squares with :math:`r \ge 0`,
  :math:`\sum_k p_S(k) r_k = 1`, and a weak pull to r = 1, which counts where the head is ignorant.
  This holds as far as the features of the target are those of a source with these priors. A
  linear judge of the two reads features and says how far: r departs from 1 by the factor
  :math:`1 - 5\,(1 - L/\ln 2)` of his cross entropy L, and not below zero.
  The head itself learns the source's priors, so that no class is forgotten on the way; to events of
  the target it answers by Bayes' rule, with the odds of class k times :math:`r_k`.

λ rises as :math:`2/(1+e^{-\gamma p}) - 1` with the share p of the training that is done. r does not
wait for that, but for the judge, who is not asked in the first 80 steps and in full after some 200:
where features have been made alike for equal priors, other priors no longer show.
"""

import copy
import math
import warnings
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.base import _fit_context
from sklearn.utils import _safe_indexing, check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from sknuc.adaptation._domains import (
    DomainScoreMixin,
    source_labels,
    source_targets,
    split_domains,
    warn_without_domains,
)
from sknuc.base import levels_to_user, validate_weights
from sknuc.exceptions import DomainWarning
from sknuc.neural_estimator import NeuralClassification, NeuralRegression
from sknuc.nn import AdaptedNetwork, ChannelMap, class_probabilities
from sknuc.torch_estimator import Player

__all__ = ["AlignedClassifier", "AlignedRegressor"]

# How soon priors are not believed where a judge tells the domains apart.
_DISTRUST = 5.0
# Of the pull to equal priors, in units of the matrix of answers.
_PULL = 0.1
# Steps after which the ratio of the priors is found anew.
_RATIO_EVERY = 10
# A class whose share fell below this part of the source's is told.
_LOST = 0.1
# Parts of the values of regression targets that play the role of classes.
_N_PARTS = 5
_TINY = torch.finfo(torch.float32).tiny

ALIGNED = {
    "trade_off": [Interval(Real, 0, None, closed="left")],
    "ramp": [Interval(Real, 0, None, closed="neither")],
    "domain_map": [StrOptions({"channel"}), None],
}


class Side(NamedTuple):
    """One domain's part of a batch."""

    #: Features (n, n_features).
    features: torch.Tensor
    #: Outputs of the head (n, n_outputs).
    output: torch.Tensor
    #: Shares (n,) of the events, which sum to 1.
    share: torch.Tensor


class Aligned(DomainScoreMixin):
    """Training of an encoder and a head on two domains; methods define ``_align``."""

    __metadata_request__predict = {"sample_domain": True}

    # For the methods to define.

    def _make_critic(self, n_features):
        """The module that tells the domains apart, for features; None for none."""
        return None

    def _align(self, module, source, target, strength):
        """What making features alike adds to the loss.

        Parameters
        ----------
        module : AdaptedNetwork
            In training, or not: then it is `strength` times a distance, which is to be low.
        source, target : Side
        strength : float
            λ.

        Returns
        -------
        loss : Tensor of shape ()
        """
        raise NotImplementedError

    def _of_source(self, y, target):
        """What y says of the source, validated."""
        raise NotImplementedError

    # Training.

    def _fit_domains(self, X, y, sample_weight, sample_domain):
        reset = not (self.warm_start and self.__sklearn_is_fitted__())
        if not reset and self._with_domains != (sample_domain is not None):
            had, has = ("a", "none") if self._with_domains else ("no", "one")
            raise ValueError(
                "warm_start=True goes on with the network of the last fit, which had "
                f"{had} sample_domain. Got {has} now; start anew with warm_start=False."
            )
        if sample_domain is None:
            warn_without_domains(self)
            self._of_target = None
            return self._fit(X, y, sample_weight, reset=reset)
        check_consistent_length(X, y)
        sample_weight = validate_weights(sample_weight, X)
        self._of_target = split_domains(sample_domain, X, sample_weight=sample_weight)
        try:
            y = self._of_source(y, self._of_target)
            return self._fit(X, y, sample_weight, reset=reset, other=self._of_target)
        finally:
            # What is known of each event is not kept with the model.
            self._of_target = self._parts = None

    def _start_anew(self):
        super()._start_anew()
        self._with_domains = self._of_target is not None
        # A fit of one domain has none.
        self.__dict__.pop("target_priors_", None)

    def _build(self):
        encoder, n_features = self._encoder()
        head = nn.Linear(n_features, self._n_outputs())
        options = {}
        if self._of_target is not None:
            options["critic"] = self._make_critic(n_features)
            if self.domain_map == "channel":
                options["target_map"] = ChannelMap(
                    self._channel_shape_of_map(), padding_axis=self._padding_axis()
                )
            options |= {"judge": self._make_judge(n_features), **self._priors()}
        return AdaptedNetwork(encoder, head, **options)

    def _channel_shape_of_map(self):
        shape = self._channel_shape()
        return [self.input_shape_[i] if size == -1 else 1 for i, size in enumerate(shape)]

    def _make_judge(self, n_features):
        return None

    def _priors(self):
        return {}

    def _standardize(self, source, rows, sample_weight):
        # What the target has another unit for, its map brings to the source's.
        if self._of_target is not None and self.domain_map is not None:
            rows = rows[~self._of_target[rows]]
        return super()._standardize(source, rows, sample_weight)

    def _measure_features(self, network, source, rows, sample_weight):
        if self._of_target is not None and isinstance(network.target_map, ChannelMap):
            self._start_map(network.target_map, source, rows, sample_weight)
        super()._measure_features(network, source, rows, sample_weight)

    def _start_map(self, target_map, source, rows, sample_weight):
        """Bring moments of the target to where priors of the classes could have brought them.

        That is not where those of the source are: more events of one class move the mean, and the
        map must not undo that. Of each channel, the mean is moved into the range of the means of
        classes, and the deviation into that from one class alone to two of them in equal parts.
        """
        centers, widths = [], []

        def moments(rows):
            mean, variance, count = self._channel_moments(source, rows)
            weight = np.ones((len(rows), 1)) if sample_weight is None else sample_weight[rows, None]
            weight = weight * (np.ones_like(mean) if count is None else count)
            weight = weight / np.maximum(weight.sum(0), np.finfo(float).tiny)
            center = (weight * mean).sum(0)
            return center, np.sqrt((weight * (variance + (mean - center) ** 2)).sum(0))

        known = self._measured_rows(rows[~self._of_target[rows]])
        for codes in self._parts:
            for k in np.unique(codes[known]):
                center, width = moments(known[codes[known] == k])
                centers.append(center)
                widths.append(width)
        low, high = np.min(centers, axis=0), np.max(centers, axis=0)
        narrow = np.min(widths, axis=0)
        wide = np.sqrt(np.max(widths, axis=0) ** 2 + (high - low) ** 2 / 4)
        center, width = moments(self._measured_rows(rows[self._of_target[rows]]))
        varies = (width > 0) & (narrow > 0)
        scale = np.clip(width, narrow, wide) / np.where(varies, width, 1.0)
        scale = np.where(varies, scale, 1.0)
        start = np.clip(center, low, high)
        target_map.set(*(torch.from_numpy(part) for part in (center, scale, start)))

    def _players(self):
        loss, optimizer = self._loss(), self._domain_optimizer()
        if self._of_target is None:
            return [Player(lambda m, batch: loss(m(batch.X), batch.y), optimizer=self._optimizer)]
        return [Player(lambda m, batch: self._both(m, batch, loss), optimizer=optimizer)]

    def _domain_optimizer(self):
        """The optimizer of fits with two domains."""
        return self._optimizer

    def _both(self, module, batch, loss):
        """Loss of a batch of both domains."""
        n = len(batch.X)
        features = module.features(batch.X, batch.other.X)
        output = module.head(features)
        share, other = _shares(batch), _shares(batch.other)
        task = (share * loss(output[:n], batch.y)).sum()
        # Held-out events are judged as at the end, whatever the progress is now.
        progress = batch.progress if module.training else math.inf
        rise = 2 / (1 + math.exp(-self.ramp * progress)) - 1
        ratio, own = self._ratio(module, features, output, batch.y, share, other)
        if ratio is not None:
            share = share * ratio[batch.y]
        # What a batch of heavy events has more than others is its own; of a distance it is not.
        source = Side(features[:n], output[:n], share / share.sum().clamp(min=_TINY))
        target = Side(features[n:], output[n:], other / other.sum().clamp(min=_TINY))
        return task + own + self._align(module, source, target, rise * self.trade_off)

    def _ratio(self, module, features, output, y, share, other):
        """How much more frequent each class is in the target, or None; and a loss of finding it."""
        return None, 0.0

    # Prediction.

    def _as_source(self):
        """A copy that reads events as those of the source."""
        twin = copy.copy(self)
        scaling, network = self.module_
        twin.module_ = nn.Sequential(scaling, network.of_source()).eval()
        return twin

    def _by_domain(self, name, X, sample_domain):
        """Apply a method to events of both domains, each as what it is."""
        check_is_fitted(self)
        target = split_domains(sample_domain, X, least_source=0, least_target=0)
        if not len(target):
            # No events: an error, the same as without domains.
            return getattr(self, name)(X)
        of_target = getattr(self, name)(_safe_indexing(X, target)) if target.any() else None
        if target.all():
            return of_target
        of_source = getattr(self._as_source(), name)(_safe_indexing(X, ~target))
        if of_target is None:
            return of_source
        both = np.empty((len(target), *of_target.shape[1:]), of_target.dtype)
        both[target], both[~target] = of_target, of_source
        return both

    def predict(self, X, sample_domain=None):
        """Predict.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.
        sample_domain : array-like of shape (n_events,) or None, default=None
            Events below zero are of the target, as all are by default; those from zero on are read
            as the source's.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            Of every event, in their order.
        """
        if sample_domain is not None:
            return self._by_domain("predict", X, sample_domain)
        return super().predict(X)


class AlignedClassifier(Aligned, NeuralClassification):
    r"""Base class of classifiers of two domains.

    Parameters
    ----------
    trade_off : float, default=1.0
        λ, the weight of the distance of the domains against the loss of the classes.
    ramp : float, default=10.0
        How fast λ rises with the share p of the training that is done,
        :math:`\lambda\,(2/(1+e^{-\gamma p}) - 1)` with this γ.
    domain_map : {"channel"} or None, default="channel"
        A scale and a shift of each channel (of each feature of a table) of the target's events,
        learnt with the rest: gains and pedestals that differ. They start where they bring mean and
        deviation as close to the source's as is needed for other shares of its classes to explain
        the rest. None treats both domains alike, as published; then no shift can be undone.
    target_priors : {"estimated", "source"} or array-like of shape (n_classes,), default="estimated"
        Shares of the classes in the target, in the order of ``classes_``: found in the training,
        those of the source, or known ones. If they are not the source's, the distance weighs the
        source's events by the ratio, and probabilities of the target's events are for its priors,
        where a share counts as a thousandth of the source's at least: even a class whose share is
        given as zero keeps some probability. A warning tells of classes that the estimate lost.
        The estimate needs some 200 steps, and stays with the source's shares where a linear judge
        tells the domains apart by their features to the end.
    batch_size : int, default=64
        The most events of either domain per step; the batches of an epoch are made alike. An epoch
        is a pass over the larger domain, while the smaller one is served again and again.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes of the source, which multiply `sample_weight`.
    label_smoothing : float in [0, 1), default=0.0
        Share of each label that is spread evenly over all classes, against overconfidence.
    """

    _slot = "adapter_parameters"

    _parameter_constraints = {
        **NeuralClassification._parameter_constraints,
        **ALIGNED,
        "target_priors": [StrOptions({"estimated", "source"}), "array-like"],
    }

    def __init__(
        self,
        *,
        trade_off=1.0,
        ramp=10.0,
        domain_map="channel",
        target_priors="estimated",
        batch_size=64,
        **shared,
    ):
        super().__init__(batch_size=batch_size, **shared)
        self.trade_off = trade_off
        self.ramp = ramp
        self.domain_map = domain_map
        self.target_priors = target_priors

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, sample_domain=None):
        """Train the network on both domains.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events of both domains.
        y : array-like of shape (n_events,)
            Labels of the source. Those of the target are never looked at, and may be anything.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.
        sample_domain : array-like of shape (n_events,) or None, default=None
            Integers: from zero on for the source, below zero for the target. Without it all events
            are the source's, and an ordinary classifier is trained.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, there is only one class, or `sample_domain`
            has no source, fewer than two events of the target, or what is no integer.
        TrainingDivergedError
            If the loss becomes NaN or infinite.

        Warns
        -----
        DomainWarning
            If there is no `sample_domain`.
        """
        return self._fit_domains(X, y, sample_weight, sample_domain)

    def _of_source(self, y, target):
        return source_labels(self, y, target)

    def _fit_events(self, X, columns, *, sample_weight=None, **options):
        if self._of_target is not None:
            codes = columns["y"]
            self._parts = [codes]
            weight = ~self._of_target if sample_weight is None else sample_weight * ~self._of_target
            shares = np.bincount(codes, weights=weight, minlength=len(self.classes_))
            self._source_priors = shares / shares.sum()
        super()._fit_events(X, columns, sample_weight=sample_weight, **options)
        if self._of_target is not None:
            self.target_priors_ = self.module_[1].target_priors.double().cpu().numpy()
            self._look_for_lost_classes()

    def _priors(self):
        source = self._source_priors
        target = source
        if not isinstance(self.target_priors, str):
            try:
                target = np.asarray(self.target_priors, dtype=float)
            except (TypeError, ValueError):
                target = np.full_like(source, np.nan)
            good = target.shape == source.shape and np.all(np.isfinite(target) & (target >= 0))
            if not good or target.sum() <= 0:
                raise ValueError(
                    "The 'target_priors' parameter must be 'estimated', 'source', or the share of "
                    f"each of the {len(source)} classes. Got {self.target_priors!r} instead."
                )
            target = target / target.sum()
            if np.any((target > 0) & (source == 0)):
                raise ValueError(
                    "The 'target_priors' parameter has a share of a class of which the source has "
                    f"no events. Got {self.target_priors!r}, and shares {source.tolist()} in the "
                    "source."
                )
        priors = {"source_priors": source, "target_priors": target}
        return {name: torch.from_numpy(prior.copy()) for name, prior in priors.items()}

    def _make_judge(self, n_features):
        return nn.Linear(n_features, 1) if self._priors_are("estimated") else None

    def _ratio(self, module, features, output, y, share, other):
        lost = 0.0
        if module.training and self._priors_are("estimated"):
            n = len(y)
            with torch.no_grad():
                of_source, of_target = class_probabilities(output).tensor_split([n])
                # Whom the judge compares with the target: a source of the priors that were found.
                expected = share * module.found_ratio[y].to(share.dtype)
                expected = expected / expected.sum().clamp(min=_TINY)
            # What the judge learns is not for the encoder.
            told = module.judge(features.detach()).squeeze(1)
            lost = (expected @ F.softplus(-told[:n]) + other @ F.softplus(told[n:])) / 2
            module.remember(of_source, y, share, of_target, other, lost.detach())
            if module.n_seen.item() % _RATIO_EVERY == 0:
                ratio = _solve_ratio(*(t.cpu().numpy() for t in (module.confusion, module.answers)))
                module.found_ratio.copy_(torch.from_numpy(ratio))
                # Where the domains have other features, the head's answers are no class priors.
                trust = max(0.0, 1 - _DISTRUST * (1 - module.likeness.item()))
                priors = (1 + trust * (ratio - 1)) * module.source_priors.cpu().numpy()
                module.target_priors.copy_(torch.from_numpy(priors / priors.sum()))
        return module.class_ratio().to(output.dtype), lost

    def _priors_are(self, kind):
        return isinstance(self.target_priors, str) and self.target_priors == kind

    def _look_for_lost_classes(self):
        lost = self.target_priors_ < _LOST * self._source_priors
        if self._priors_are("estimated") and lost.any():
            warnings.warn(
                f"Of the classes {self.classes_[lost].tolist()}, the target is estimated to have "
                f"the shares {self.target_priors_[lost].round(4).tolist()}, and the source has "
                f"{self._source_priors[lost].round(4).tolist()}. Either they are rare in the data, "
                "or all of it looks like another class to a network that was not adapted. Compare "
                "target_priors='source', a smaller trade_off, or another adapter.",
                DomainWarning,
                stacklevel=levels_to_user(),
            )

    def decision_function(self, X, sample_domain=None):
        """Log odds of the second class, or logits of all classes.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.
        sample_domain : array-like of shape (n_events,) or None, default=None
            As in ``predict``.

        Returns
        -------
        score : ndarray of shape (n_events,) or (n_events, n_classes)
        """
        if sample_domain is not None:
            return self._by_domain("decision_function", X, sample_domain)
        return super().decision_function(X)

    def predict_proba(self, X, sample_domain=None):
        """Probabilities of the classes.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *input_shape_)
            The events.
        sample_domain : array-like of shape (n_events,) or None, default=None
            As in ``predict``.

        Returns
        -------
        probability : ndarray of shape (n_events, n_classes)
        """
        if sample_domain is not None:
            return self._by_domain("predict_proba", X, sample_domain)
        return super().predict_proba(X)


class AlignedRegressor(Aligned, NeuralRegression):
    r"""Base class of regressors of two domains.

    Parameters
    ----------
    trade_off : float, default=1.0
        λ, the weight of the distance of the domains against the loss of the targets.
    ramp : float, default=10.0
        How fast λ rises with the share p of the training that is done,
        :math:`\lambda\,(2/(1+e^{-\gamma p}) - 1)` with this γ.
    domain_map : {"channel"} or None, default="channel"
        A scale and a shift of each channel (of each feature of a table) of the target's events,
        learnt with the rest: gains and pedestals that differ. They start where they bring mean and
        deviation as close to the source's as is needed for another distribution of y to explain
        the rest. None treats both domains alike, as published; then no shift can be undone.
    batch_size : int, default=64
        The most events of either domain per step; the batches of an epoch are made alike. An epoch
        is a pass over the larger domain, while the smaller one is served again and again.
    loss : {"squared_error", "absolute_error", "huber", "poisson"}, default="squared_error"
        What is estimated, see :class:`sknuc.networks.NeuralRegressor`.
    """

    _slot = "adapter_parameters"

    _parameter_constraints = {**NeuralRegression._parameter_constraints, **ALIGNED}

    def __init__(self, *, trade_off=1.0, ramp=10.0, domain_map="channel", batch_size=64, **shared):
        super().__init__(batch_size=batch_size, **shared)
        self.trade_off = trade_off
        self.ramp = ramp
        self.domain_map = domain_map

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, sample_domain=None):
        """Train the network on both domains.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events of both domains.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            Targets of the source. Those of the target domain are never looked at, and may be
            anything.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights.
        sample_domain : array-like of shape (n_events,) or None, default=None
            Integers: from zero on for the source, below zero for the target. Without it all events
            are the source's, and an ordinary regressor is trained.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or `sample_domain` has no source, fewer
            than two events of the target, or what is no integer.
        TrainingDivergedError
            If the loss becomes NaN or infinite.

        Warns
        -----
        DomainWarning
            If there is no `sample_domain`.
        """
        return self._fit_domains(X, y, sample_weight, sample_domain)

    def _of_source(self, y, target):
        return source_targets(self, y, target)

    def _fit_events(self, X, columns, *, sample_weight=None, **options):
        if self._of_target is not None:
            levels = np.arange(1, _N_PARTS) / _N_PARTS
            known = columns["y"][~self._of_target]
            self._parts = [
                np.searchsorted(np.quantile(part, levels), column)
                for part, column in zip(known.T, columns["y"].T, strict=True)
            ]
        super()._fit_events(X, columns, sample_weight=sample_weight, **options)


def _shares(batch):
    """Shares (n,) of a batch's events in the mean over all events, as the engine's."""
    n = len(batch.X)
    if batch.sample_weight is None:
        return torch.full((n,), 1 / n, dtype=batch.X.dtype, device=batch.X.device)
    return (batch.sample_weight / (batch.mean_weight * n)).to(batch.X.dtype)


def _solve_ratio(confusion, answers):
    """Ratio r of the priors from the matrix C and the answers q: see the module's documentation."""
    priors = confusion.sum(0)
    # The constraint as an equation that outweighs all others.
    heavy = 1e3
    equations = np.vstack([confusion, _PULL * np.diag(priors), heavy * priors])
    ratio, _ = nnls(equations, np.concatenate([answers, _PULL * priors, [heavy * priors.sum()]]))
    return ratio
