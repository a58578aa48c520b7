r"""Bayesian neural networks: averages over all networks that the data allow.

One trained network is one answer; a physicist wants to know which others would have fitted. With a
prior p(θ) on the parameters, the data leave the posterior :math:`p(\theta|D) \propto p(\theta)
\prod_i p(y_i|f_\theta(x_i))^{w_i}`, and a new event has the predictive distribution

.. math:: p(y|x, D) = \int p(y|f_\theta(x))\, p(\theta|D)\, d\theta .

Where there are data all networks agree, and the noise is what is left; far from them they do not,
and the spread says so.
"""

import copy
import warnings
from functools import lru_cache
from numbers import Real

import numpy as np
import torch
from scipy.special import ndtri
from sklearn.base import _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sknuc.base import (
    EnsembleClassifierMixin,
    PredictiveRegressorMixin,
    class_weights,
    encode_labels,
    levels_to_user,
    validate_labels,
    validate_weights,
)
from sknuc.predictive import Normal, NormalMixture, even_levels
from sknuc.uncertainty._inference import BayesianNetwork
from sknuc.uncertainty._laplace import GaussianLaplace, LabelLaplace
from sknuc.uncertainty._posterior import Categorical, Gaussian

__all__ = ["BNNClassifier", "BNNRegressor"]

# Where Laplace's Gaussian of the logits is evaluated: a power of two, as Sobol sequences want.
_POINTS = 256


class _Draws:
    """What both estimators can do with draws of the posterior."""

    def _has_draws(self):
        if getattr(self, "_inference", self.inference) == "laplace":
            raise AttributeError(
                "reweight needs draws of the posterior, which inference='laplace' has none of; a "
                "new fit with the other prior_scale is quick there."
            )
        return True

    @available_if(_has_draws)
    def reweight(self, prior_scale):
        r"""The posterior under another prior, without sampling anew.

        Each draw gets the weight :math:`p_\mathrm{new}(\theta)/p_\mathrm{old}(\theta)`, with
        learned scales integrated out. It answers how much a result owes to the prior, as long as
        the draws cover the new posterior.

        Parameters
        ----------
        prior_scale : float, "learned" or callable
            Like the parameter of the estimator; or ``log_prior(parameters) -> (n_draws,)``, the
            log density up to a constant of parameters (n_draws, n_parameters), an array of
            float64 in the order of ``module_[1].draws``.

        Returns
        -------
        estimator : estimator of the same class
            A fitted copy with ``draw_weights_`` under the new prior and ``weight_ess_``, how many
            draws of equal weight they are worth. The scales' draws stay those of the old prior.

        Warns
        -----
        RuntimeWarning
            If fewer than 50 draws of equal weight or a tenth of all, whichever is less, are left:
            the new posterior lies outside the draws, and a new fit is needed.

        Raises
        ------
        ValueError
            If `prior_scale` is none of these, or the new density is zero at all draws.
        """
        check_is_fitted(self)
        theta = self.module_[1].draws.detach().double().cpu()
        old, new = copy.deepcopy(self._prior).to(theta), copy.deepcopy(self._prior).to(theta)
        if callable(prior_scale):
            log_new = np.asarray(prior_scale(theta.numpy()), dtype=np.float64)
            if log_new.shape != (len(theta),):
                raise ValueError(
                    "The 'prior_scale' parameter of reweight must return one log density for each "
                    f"draw, of shape ({len(theta)},). Got {log_new.shape} instead."
                )
        else:
            known = isinstance(prior_scale, str) and prior_scale == "learned"
            if not known and not (isinstance(prior_scale, Real) and 0 < prior_scale < np.inf):
                raise ValueError(
                    "The 'prior_scale' parameter of reweight must be 'learned', a positive float "
                    f"or a function. Got {prior_scale!r} instead."
                )
            new.scale = self._scale(prior_scale)
            log_new = new.marginal(theta)[0].numpy()
        ratio = log_new - old.marginal(theta)[0].numpy()
        if np.isnan(ratio).any() or not np.isfinite(ratio.max()):
            raise ValueError("The new prior has no finite log density at any draw, or NaN at some.")
        weights = np.exp(ratio - ratio.max())
        result = copy.copy(self)
        result.draw_weights_ = weights / weights.sum()
        result.weight_ess_ = float(1 / (result.draw_weights_**2).sum())
        if result.weight_ess_ < min(50, len(theta) / 10):
            warnings.warn(
                f"The draws under the new prior are worth {result.weight_ess_:.1f} of "
                f"{len(theta)}: the new posterior lies outside of them. Fit with the new "
                "prior_scale instead.",
                RuntimeWarning,
                stacklevel=levels_to_user(),
            )
        return result


class BNNRegressor(_Draws, PredictiveRegressorMixin, BayesianNetwork):
    r"""Bayesian neural network for one or several targets.

    .. math:: p(y|x, D) = \int N(y;\, f_\theta(x), \sigma^2)\, p(\theta, \sigma|D)\, d\theta

    f is an encoder and a linear layer; parameters have Gaussian priors, by default with a learned
    scale for each tensor, and the noise σ of each target is learned (scaled inverse χ² prior with
    one degree of freedom at 0.01 standard deviations of the target).

    =============== ======================================== ================================
    `inference`     the posterior is                         cost, beside one training
    =============== ======================================== ================================
    "laplace"       Gaussian, of the linearised network      some 30 factorisations
    "hmc"           draws, exact once chains have mixed      35,000 passes over all events
    "sghmc"         draws, biased by the step size           35,000 batches
    "variational"   independent Gaussians                    5,000 steps, or one more training
    =============== ======================================== ================================

    Scales and noise are integrated out of the chains of "hmc", and drawn given the parameters after
    each trajectory, parameters and hyper-parameters in turn.

    Parameters
    ----------
    {bayesian_parameters}
    heteroscedastic : bool, default=False
        The noise depends on the event: the network has a second output for log σ of each target.
        Not for "laplace".
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        From events to outputs (n_draws, n, n_outputs) of all draws; for "laplace", the trained
        network. ``module_[1].draws`` are the parameters, chain by chain.
    prior_scales_ : ndarray of shape (n_draws, n_tensors)
        Scales of the prior, of each draw; one row where they are not drawn.
    noise_ : ndarray of shape (n_draws, n_targets)
        σ in the units of the targets; one row for "laplace". Not for `heteroscedastic`.
    draw_weights_ : ndarray of shape (n_draws,)
        Weights of the draws, whose sum is 1. Not for "laplace".
    r_hat_, ess_ : float
        Convergence of "hmc" and "sghmc": the largest R-hat, the smallest effective sample size,
        of predictions for up to 32 events and of noise.
    acceptance_rate_ : ndarray of shape (n_chains,)
        Of "hmc".
    n_divergences_ : int
        Trajectories of "hmc" after the warm-up that left the stable region.
    log_evidence_ : float
        Log of p(y | scales, noise) of "laplace", of scaled targets: compares encoders.
    bound_history_ : list of float
        Minus the evidence lower bound per unit of weight, in each epoch of "variational".
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
    history_ : skorch.history.History
        Of the first training: losses and times.
    n_iter_ : int
        Its epochs.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    BNNClassifier : The same for labels.

    References
    ----------
    R. Neal, "Bayesian Learning for Neural Networks", Springer 1996.

    B. Kronheim, M. Kuchera, H. Prosper, "TensorBNN: Bayesian inference for neural networks using
    TensorFlow", Comput. Phys. Commun. 270 (2022) 108168, arXiv:2009.14393.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.encoders import MLP
    >>> from sknuc.uncertainty import BNNRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, (60, 1))
    >>> y = np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=60)
    >>> model = BNNRegressor(encoder=MLP(hidden_layer_sizes=(16,)), random_state=0).fit(X, y)
    >>> mean, std = model.predict([[0.0], [3.0]], return_std=True)
    >>> bool(std[1] > 2 * std[0])  # far from the data
    True
    """

    _parameter_constraints = {
        **BayesianNetwork._parameter_constraints,
        "heteroscedastic": ["boolean"],
    }

    def __init__(self, *, heteroscedastic=False, **shared):
        super().__init__(**shared)
        self.heteroscedastic = heteroscedastic

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Infer the posterior.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events. Only "sghmc" and "variational" train on batches; "hmc" and "laplace" hold
            all events in memory.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights w, which multiply the log likelihood of each event.

        Returns
        -------
        self : BNNRegressor

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or parameters do not fit together.
        TrainingDivergedError
            If the loss becomes NaN or infinite.

        Warns
        -----
        ConvergenceWarning
            If chains have not converged, trajectories diverged, or the posterior says nothing
            although a linear model does.
        """
        if self.heteroscedastic and self.inference == "laplace":
            raise ValueError(
                "heteroscedastic=True needs inference='hmc', 'sghmc' or 'variational'. Got "
                "inference='laplace'."
            )
        X = self._validate_events(X, reset=True)
        sample_weight = validate_weights(sample_weight, X)
        targets = self._scale_targets(X, y, sample_weight)
        self._fit_posterior(X, targets, sample_weight)
        return self

    def _likelihood(self):
        return Gaussian(self.heteroscedastic)

    def _n_outputs(self):
        return len(self.target_mean_) * (2 if self.heteroscedastic else 1)

    def _fit_laplace(self, jacobians, outputs, y, weight, prior, mode):
        laplace = GaussianLaplace(prior, mode)
        return laplace.fit(jacobians, outputs, y, weight, self._likelihood())

    def _means(self, X, y):
        return y, (self._predictive(X).mean() - self.target_mean_) / self.target_scale_

    def _predictive(self, X):
        if self._inference == "laplace":
            return self._gaussian(X)
        output = self._forward(X).astype(np.float64)
        t = len(self.target_mean_)
        means = self.target_mean_ + self.target_scale_ * output[..., :t]
        if self.heteroscedastic:
            noise = self.target_scale_ * np.exp(output[..., t:])
        else:
            noise = self.noise_
        return NormalMixture(self.draw_weights_, means, noise)

    def _gaussian(self, X):
        x, _, _ = self._tensors(X, np.zeros(len(X)), None)
        jacobians, outputs = self._jacobians(x)
        laplace, scale = self._laplace, self.target_scale_
        means = self.target_mean_ + scale * (outputs + jacobians @ laplace.shift).numpy()
        covariances = laplace.covariance(jacobians).numpy() * (scale[:, None] * scale)
        variances = np.maximum(np.diagonal(covariances, axis1=1, axis2=2), 0)
        epistemic = np.sqrt(variances)
        if len(scale) == 1:
            return Normal(means, np.sqrt(variances + self.noise_**2), epistemic=epistemic)
        covariances = covariances + np.diag(self.noise_[0] ** 2)
        return Normal(means, covariances=covariances, epistemic=epistemic)

    def _splits_uncertainty(self):
        return True


class BNNClassifier(_Draws, EnsembleClassifierMixin, BayesianNetwork):
    r"""Bayesian neural network for two or more classes.

    .. math:: p(k|x, D) = \int \mathrm{softmax}_k f_\theta(x)\, p(\theta|D)\, d\theta

    f is an encoder and a linear layer (two classes share one output, the log odds); parameters
    have Gaussian priors, by default with a learned scale for each tensor.

    Parameters
    ----------
    {bayesian_parameters}
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply `sample_weight`.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    module_ : torch.nn.Module
        From events to logits (n_draws, n, n_outputs) of all draws; for "laplace", the trained
        network. ``module_[1].draws`` are the parameters, chain by chain.
    prior_scales_ : ndarray of shape (n_draws, n_tensors)
        Scales of the prior, of each draw; one row where they are not drawn.
    draw_weights_ : ndarray of shape (n_draws,)
        Weights of the draws, whose sum is 1. Not for "laplace".
    r_hat_, ess_ : float
        Convergence of "hmc" and "sghmc": the largest R-hat, the smallest effective sample size,
        of logits for up to 32 events.
    acceptance_rate_ : ndarray of shape (n_chains,)
        Of "hmc".
    n_divergences_ : int
        Trajectories of "hmc" after the warm-up that left the stable region.
    log_evidence_ : float
        Log of p(y | scales) of "laplace": compares encoders.
    bound_history_ : list of float
        Minus the evidence lower bound per unit of weight, in each epoch of "variational".
    history_ : skorch.history.History
        Of the first training: losses and times.
    n_iter_ : int
        Its epochs.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    BNNRegressor : The same for continuous targets.

    References
    ----------
    R. Neal, "Bayesian Learning for Neural Networks", Springer 1996.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sknuc.encoders import MLP
    >>> from sknuc.uncertainty import BNNClassifier
    >>> X, y = make_moons(200, noise=0.2, random_state=0)
    >>> model = BNNClassifier(encoder=MLP(hidden_layer_sizes=(16,)), random_state=0).fit(X, y)
    >>> inside, outside = model.predict_uncertainty([[0.0, 1.0], [20.0, 20.0]]).epistemic
    >>> bool(outside > inside)  # where the border between the classes goes, nobody knows
    True
    """

    _parameter_constraints = {
        **BayesianNetwork._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(self, *, class_weight=None, **shared):
        super().__init__(**shared)
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None):
        """Infer the posterior.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events. Only "sghmc" and "variational" train on batches; "hmc" and "laplace" hold
            all events in memory.
        y : array-like of shape (n_events,)
            Labels of any kind.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights w, which multiply the log likelihood of each event.

        Returns
        -------
        self : BNNClassifier

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, or there is only one class.
        TrainingDivergedError
            If the loss becomes NaN or infinite.

        Warns
        -----
        ConvergenceWarning
            If chains have not converged, trajectories diverged, or the posterior says nothing
            although a linear model does.
        """
        X = self._validate_events(X, reset=True)
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        y = validate_labels(y)
        check_consistent_length(X, y)
        sample_weight = validate_weights(sample_weight, X)
        used = slice(None) if sample_weight is None else sample_weight != 0
        self.classes_, codes_used = encode_labels(self, y[used])
        codes = np.zeros(len(y), dtype=np.int64)
        codes[used] = codes_used
        if self.class_weight is not None:
            weight = np.ones(len(y)) if sample_weight is None else sample_weight.copy()
            weight[used] = class_weights(
                self.class_weight, self.classes_, codes[used], weight[used]
            )
            sample_weight = validate_weights(weight, y)
        self._fit_posterior(X, codes, sample_weight, stratify=codes)
        return self

    def _likelihood(self):
        return Categorical()

    def _n_outputs(self):
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _fit_laplace(self, jacobians, outputs, y, weight, prior, mode):
        laplace = LabelLaplace(prior, mode)
        return laplace.fit(jacobians, outputs, y, weight, self._likelihood())

    def _means(self, X, y):
        members = self._member_probabilities(X)
        return np.eye(len(self.classes_))[y], members.mean(1)

    def _member_probabilities(self, X):
        if self._inference != "laplace":
            return (
                self._likelihood()
                .probabilities(torch.from_numpy(self._forward(X)).double())
                .numpy()
            )
        x, _, _ = self._tensors(X, np.zeros(len(X)), None)
        jacobians, logits = self._jacobians(x)
        logits = logits + jacobians @ self._laplace.shift
        values, vectors = torch.linalg.eigh(self._laplace.covariance(jacobians))
        root = vectors * values.clamp(min=0).sqrt().unsqueeze(1) @ vectors.mT
        # The same evenly spread normal numbers for each event: probabilities are smooth functions.
        logits = logits.unsqueeze(1) + torch.from_numpy(_normal_points(logits.shape[1])) @ root
        return self._likelihood().probabilities(logits).numpy()

    def _numbers_per_event(self):
        points = 4 * _POINTS * len(self.classes_) if self._inference == "laplace" else 0
        return super(EnsembleClassifierMixin, self)._numbers_per_event() + points

    def _member_weights(self):
        return None if self._inference == "laplace" else self.draw_weights_


@lru_cache
def _normal_points(dimension):
    """Points (n, dimension) that cover the standard normal distribution evenly."""
    return ndtri(even_levels(_POINTS, dimension))
