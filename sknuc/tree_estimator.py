"""The hall through which every method of boosted trees enters.

:class:`TreeEstimator` holds what all of them share: parameters, events in the precision of the
trees, growing by xgboost with an early stop, and its threads. A method adds what is its own: which
loss, which events are held out, what the margin means. Objectives are derived there, in
:mod:`sknuc.baselines` and :mod:`sknuc.distributions`.
"""

import warnings
from numbers import Integral, Real

import numpy as np
import xgboost as xgb
from sklearn.base import BaseEstimator
from sklearn.utils._openmp_helpers import _openmp_effective_n_threads
from sklearn.utils._param_validation import Interval, StrOptions
from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

from sknuc.base import SharedParameters, levels_to_user, validate_events

__all__ = ["TreeEstimator", "count_events"]

# Threads wait for each other after every level of a tree; on a busy machine this costs more than
# it gains for fewer values (events × features) per thread.
_VALUES_PER_THREAD = 100_000

# The OpenMP libraries loaded so far, xgboost's among them.
_OPENMP = ThreadpoolController().select(user_api="openmp")


class TreeEstimator(SharedParameters, BaseEstimator):
    r"""Base class of the estimators that grow boosted trees.

    Subclasses call ``_boost`` from ``fit`` with the events of their own loss, and keep the boosters
    that it returns in attributes.

    Parameters
    ----------
    learning_rate : float, default=0.1
        The step :math:`\eta` of every tree.
    max_iter : int, default=100
        The number of boosting rounds, the most there can be with `early_stopping`. One round grows
        one tree per output.
    max_depth : int or None, default=6
        The largest depth of a tree; None for no limit.
    max_leaf_nodes : int or None, default=None
        The largest number of leaves of a tree. When given, the leaf that is worth most is split
        first, otherwise trees grow level by level.
    min_child_weight : float, default=1.0
        The smallest sum of :math:`w h` in a leaf.
    l2_regularization : float, default=1.0
        The penalty :math:`\lambda` on the values of leaves.
    subsample : float, default=1.0
        The fraction of events that each tree is grown on.
    max_features : float, default=1.0
        The fraction of features that each split chooses from.
    max_bins : int, default=256
        The largest number of bins per feature.
    early_stopping : bool, default=False
        Whether to hold out events, stop when their loss does not fall any more, and keep the
        trees up to the best round.
    validation_fraction : float, default=0.1
        The fraction of events to hold out.
    n_iter_no_change : int, default=10
        The number of rounds without improvement after which to stop.
    tol : float, default=1e-7
        The smallest improvement of ``validation_loss_`` that counts.
    random_state : int, RandomState instance or None, default=None
        The seed of the split, of `subsample` and of `max_features`.
    n_jobs : int or None, default=None
        The largest number of threads; None for all that OpenMP may use, -1 for all, -2 for all but
        one, and so on. The result does not depend on it, up to the rounding of sums where weights
        span many orders of magnitude.
    device : {"cpu", "cuda"}, default="cpu"
        Where to train. Prediction runs on the CPU, so that a model trained on a GPU can be loaded
        anywhere.
    verbose : int, default=0
        Whether to show a progress bar.
    """

    _parameter_constraints: dict = {
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "max_depth": [Interval(Integral, 1, None, closed="left"), None],
        "max_leaf_nodes": [Interval(Integral, 2, None, closed="left"), None],
        "min_child_weight": [Interval(Real, 0, None, closed="left")],
        "l2_regularization": [Interval(Real, 0, None, closed="left")],
        "subsample": [Interval(Real, 0, 1, closed="right")],
        "max_features": [Interval(Real, 0, 1, closed="right")],
        "max_bins": [Interval(Integral, 2, 65535, closed="both")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "n_jobs": [
            Interval(Integral, None, -1, closed="right"),
            Interval(Integral, 1, None, closed="left"),
            None,
        ],
        "device": [StrOptions({"cpu", "cuda"})],
        "verbose": ["verbose"],
    }

    # float32, as the trees read it, before the check for infinite values: what overflows is told as
    # an error.
    _reading = {"dtype": np.float32, "ensure_all_finite": "allow-nan"}

    def __init__(
        self,
        *,
        learning_rate=0.1,
        max_iter=100,
        max_depth=6,
        max_leaf_nodes=None,
        min_child_weight=1.0,
        l2_regularization=1.0,
        subsample=1.0,
        max_features=1.0,
        max_bins=256,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=10,
        tol=1e-7,
        random_state=None,
        n_jobs=None,
        device="cpu",
        verbose=0,
    ):
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.max_depth = max_depth
        self.max_leaf_nodes = max_leaf_nodes
        self.min_child_weight = min_child_weight
        self.l2_regularization = l2_regularization
        self.subsample = subsample
        self.max_features = max_features
        self.max_bins = max_bins
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def __setstate__(self, state):
        super().__setstate__(state)
        # A booster that was loaded is set up by the first call, which must not be two at once.
        for value in vars(self).values():
            for booster in value if isinstance(value, list) else [value]:
                if isinstance(booster, xgb.Booster):
                    booster.num_boosted_rounds()

    def _validate_events(self, X, *, reset):
        with np.errstate(over="ignore", invalid="ignore"):
            return validate_events(self, X, reset=reset, **self._reading)

    def _xgboost_params(self, random_state):
        """Return the parameters of xgboost but for the loss; draws its seed."""
        return {
            "tree_method": "hist",
            "eta": self.learning_rate,
            "max_depth": self.max_depth or 0,
            "max_leaves": self.max_leaf_nodes or 0,
            "grow_policy": "lossguide" if self.max_leaf_nodes else "depthwise",
            "min_child_weight": self.min_child_weight,
            "lambda": self.l2_regularization,
            "subsample": self.subsample,
            "colsample_bynode": self.max_features,
            "max_bin": self.max_bins,
            "device": self.device,
            "seed": random_state.randint(np.iinfo(np.int32).max),
            "verbosity": 1,
        }

    def _boost(self, params, train, validation=None, *, objective=None, metric=None):
        """Grow trees.

        Parameters
        ----------
        params : dict
            Of xgboost.
        train : tuple of (X, y, weight)
            The events that the trees are grown on; the weight may be None.
        validation : tuple of (X, y, weight) or None, default=None
            Events whose loss stops the growth.
        objective, metric : callable or None, default=None
            In the place of those of xgboost.

        Returns
        -------
        booster : xgboost.Booster
        validation_loss : ndarray of shape (n_rounds,) or None
            The loss of the validation events after each round, also of those not kept.
        """
        dtrain = self._matrix(train)
        callbacks, evals, history = [], [], {}
        if validation is not None:
            evals = [(self._matrix(validation, dtrain), "validation")]
            callbacks.append(
                xgb.callback.EarlyStopping(
                    rounds=self.n_iter_no_change, min_delta=self.tol, save_best=True
                )
            )
        name = type(self).__name__
        with tqdm(total=self.max_iter, desc=name, unit="round", disable=not self.verbose) as bar:
            booster = xgb.train(
                params,
                dtrain,
                self.max_iter,
                obj=objective,
                evals=evals,
                evals_result=history,
                custom_metric=metric,
                callbacks=[*callbacks, _Progress(bar)],
                verbose_eval=False,
            )
        # A booster on its training device could not be loaded, or be fed from memory, elsewhere.
        booster.set_param({"device": "cpu"})
        loss = np.array(next(iter(history["validation"].values()))) if history else None
        return booster, loss

    def _warn_light_weights(self, hessian, n_events):
        """Say so when trees cannot split though there are enough events.

        They see too little: a class is rare, weights are small, or too many events are held out of
        all trees or of each.

        Parameters
        ----------
        hessian : float
            The sum of w h of the training events before the first tree. What does not suffice for
            two leaves then, never does.
        n_events : float
            By `count_events`. Of few ones, nobody expects much.
        """
        seen, needed = self.subsample * hessian, 2 * self.min_child_weight
        # Sums of weights differ in their last bits from the integers that they mean.
        if seen * (1 + 1e-9) < needed <= n_events * (1 + 1e-9):
            warnings.warn(
                f"Of {n_events:.10g} events, a tree is grown on a sum of w h of {seen:.4g}, but "
                f"can split from {needed:g} on (min_child_weight={self.min_child_weight:g}): most "
                "or all trees are one leaf, and tell no events apart. Lower min_child_weight, "
                "divide weights that do not count events by their mean, weigh up a rare class, or "
                "leave more events to the trees (validation_fraction, subsample).",
                UserWarning,
                stacklevel=levels_to_user(),
            )

    def _matrix(self, part, ref=None):
        X, y, weight = part
        return xgb.QuantileDMatrix(X, y, weight=weight, max_bin=self.max_bins, ref=ref)

    def _threads(self, X):
        """Limit xgboost to as many threads as find enough to do, in this context and thread alone.

        The parameter of a booster would be shared, and not to be changed while others predict.
        """
        most = _openmp_effective_n_threads(self.n_jobs)
        return _OPENMP.limit(limits=min(most, 1 + X.size // _VALUES_PER_THREAD))


def count_events(X, weight):
    """Return the number of events: one of weight 2 is two, however light the others are."""
    return float(len(X) if weight is None else np.maximum(np.abs(weight), 1).sum())


class _Progress(xgb.callback.TrainingCallback):
    """Move a progress bar on by one round, and show the loss of the validation events."""

    def __init__(self, bar):
        self.bar = bar

    def after_iteration(self, model, epoch, evals_log):
        for metrics in evals_log.values():
            name, values = list(metrics.items())[-1]
            self.bar.set_postfix({name: f"{values[-1]:.5g}"})
        self.bar.update()
        return False
