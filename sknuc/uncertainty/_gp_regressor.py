r"""Gaussian-process regression, with the noise of each event, weights and several targets.

Targets are a function and noise, :math:`y_i = f(x_i) + \varepsilon_i` with
:math:`f\sim GP(0,k)`, :math:`\varepsilon_i\sim N(0, v_i)` and :math:`v_i=\sigma^2+s_i^2`, where σ
is learnt and :math:`s_i` is what the experiment knows of this event. Hyper-parameters maximise the
evidence of the data. Several targets are independent functions with one kernel and a σ each, so
their evidence is a sum in which each has a decomposition of its own matrix K + D; with one share of
noise for all of them, and without :math:`s_i`, they have one in common. What is constant up to
rounding has no noise and no length scale to tell of, and no term in it.

An event of weight w stands for w measurements with the same result. Those at one x whose total
weight is W and whose mean is :math:`\bar y` say the same about f as one measurement of
:math:`\bar y` with the variance v/W, since

.. math:: \prod_j N(y_j; f, v)^{w_j} = N(\bar y; f, v/W)\;
          W^{-1/2}\,(2\pi v)^{-(W-1)/2}\,\exp\Big(-\sum_j\frac{w_j (y_j-\bar y)^2}{2v}\Big) .

So identical events are one row of the covariance matrix, which is smaller and better conditioned
for it, and the factors behind the first Gaussian keep the evidence what it is: they tell σ from
the scatter of repeated measurements.
"""

from functools import cached_property
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sknuc.base import PredictiveRegressorMixin, is_rounding, validate_weights
from sknuc.predictive import Normal
from sknuc.uncertainty._gp_base import GaussianProcess, distinct_events, resolve_device
from sknuc.uncertainty._gp_evidence import maximise

__all__ = ["GPRegressor"]

# Where the search for the noise starts, and its floor where it is given: for scaled targets.
_FIRST_NOISE = 0.1
_LEAST_NOISE = 1e-10


class GPRegressor(PredictiveRegressorMixin, GaussianProcess):
    r"""Gaussian-process regression: exact, sparse, or behind a network.

    The prediction is Gaussian, with the mean :math:`k_*^T (K+D)^{-1} y` and the variance
    :math:`k_{**} - k_*^T (K+D)^{-1} k_* + \sigma^2`, D the noise of the training events.

    Several targets are independent functions with one kernel, in units of the targets' standard
    deviations, and a noise each. Each takes a Cholesky decomposition of its own, and 16 n² bytes,
    but where all have the same noise in these units (``noise="shared"`` or 0.0, both without
    `sample_noise`): so for dozens of targets of one kind, as the points of a curve. Targets that
    depend on other features, or on other scales of them, are better served by
    :class:`~sklearn.multioutput.MultiOutputRegressor`, with a kernel for each.

    Parameters
    ----------
    noise : {"learned", "shared"} or float, default="learned"
        Standard deviation σ of the noise that all events have, in the units of y: learned for
        each target, or as one share of all targets' standard deviations; or given, for all. With
        0.0 the noise is that of `sample_noise` alone, or the
        function goes through the targets, up to 1e-5 of their standard deviation.
    {shared_parameters}

    Attributes
    ----------
    kernel_ : gpytorch.kernels.Kernel
        The learned kernel, with what `mean` adds to it, for standardised features and targets.
    lengthscales_ : ndarray of shape (n_features,) or None
        Of the first radial kernel (RBF, Matérn, RQ) among terms and factors, in units of the
        features, infinite for those that it does not read; None where there is none. Of encoders,
        in units of the standard deviation of their first outputs.
    noise_ : float or ndarray of shape (n_targets,)
        Standard deviation σ of the noise, in the units of y.
    log_marginal_likelihood_value_ : float
        Log evidence, or its lower bound, of the targets scaled to standard deviation 1, without
        those that are constant beside others that vary; it includes the densities of the priors
        that a kernel object brings.
    approximation_ : {"exact", "sparse"}
        How the training events were treated.
    n_iter_ : int
        Steps of the last search.
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    GPClassifier : The same for labels.

    Notes
    -----
    `predict`, `predict_quantiles`, `predict_interval`, `sample_y` and `log_prob` are about a new
    measurement with the noise σ; `predict_uncertainty` tells the function's uncertainty
    (epistemic) from it, and `sample_functions` draws the function alone, jointly at all events.

    References
    ----------
    C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006.
    A. Wilson et al., "Deep Kernel Learning", AISTATS 2016, arXiv:1511.02222.
    S. Ober, C. Rasmussen, M. van der Wilk, "The promises and pitfalls of deep kernel learning",
    UAI 2021, arXiv:2102.12108.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.uncertainty import GPRegressor
    >>> X = np.linspace(0, 6, 40).reshape(-1, 1)
    >>> model = GPRegressor().fit(X, np.sin(X[:, 0]))
    >>> mean, std = model.predict([[1.0], [20.0]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(1)) < 0.01), bool(std[1] > 100 * std[0])
    (True, True)
    """

    _parameter_constraints: dict = {
        "noise": [StrOptions({"learned", "shared"}), Interval(Real, 0, None, closed="left")],
        **GaussianProcess._parameter_constraints,
    }
    __metadata_request__fit = {"sample_noise": True}

    def __init__(
        self,
        *,
        noise="learned",
        kernel="matern52",
        mean="constant",
        ard=True,
        encoder=None,
        input_shape=None,
        standardize=True,
        max_exact_samples=5000,
        n_inducing=500,
        n_restarts=0,
        max_iter=200,
        tol=1e-4,
        device="auto",
        random_state=None,
    ):
        self.noise = noise
        self.kernel = kernel
        self.mean = mean
        self.ard = ard
        self.encoder = encoder
        self.input_shape = input_shape
        self.standardize = standardize
        self.max_exact_samples = max_exact_samples
        self.n_inducing = n_inducing
        self.n_restarts = n_restarts
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, sample_noise=None):
        """Learn the hyper-parameters, and condition on the data.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,) or (n_events, n_targets)
            The targets.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights: how many measurements with this result an event stands for.
        sample_noise : array-like of shape (n_events,) or (n_events, n_targets), default=None
            Standard deviation of each target's known noise, in its units. It adds to `noise` in
            squares.

        Returns
        -------
        self : GPRegressor

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, a weight or noise is negative, features
            are too large to be standardised, or the kernel is no covariance.
        """
        X = self._validate_events(X, reset=True)
        weight = validate_weights(sample_weight, X)
        targets = self._scale_targets(X, y, weight)
        known = self._known_noise(sample_noise, targets)
        device = resolve_device(self.device)
        rng = check_random_state(self.random_state)

        first, group, total = distinct_events(X, weight, known)
        means, scatter = _means(targets, weight, group, total)
        learned = isinstance(self.noise, str)
        n_noises = 1 if self.noise == "shared" else targets.shape[1]
        start = _FIRST_NOISE if learned else 0.0
        prior = self._make_prior(
            X[first], total, rng, start, learn_noise=learned, n_noises=n_noises
        ).to(device)
        known = torch.zeros(1, 1) if known is None else torch.from_numpy(known[first])
        data = [
            part.double().to(device)
            for part in (torch.from_numpy(means), torch.from_numpy(scatter), known)
        ]
        weights = torch.from_numpy(total)[:, None].to(device)
        varies = ~is_rounding(self.target_mean_, self.target_scale_)
        shown = torch.from_numpy(np.flatnonzero(varies | ~varies.any())).to(device)

        def learn(observed, rows, memory, tol):
            z, away, noise = (part[rows] if len(part) > 1 else part for part in data)
            w = weights[rows]

            def log_evidence():
                v = (prior.noise + noise).clamp_min(_LEAST_NOISE)
                # What copies of an event know of the noise, see the head of this file.
                copies = (w - 1) * (2 * np.pi * v).log() + w.log() + away / v
                # One column of v may serve several targets.
                v = (v if v.shape[1] == 1 else v[:, shown]) / w
                gaussian = observed.log_evidence(z[:, shown], v)
                return gaussian - copies[:, shown].sum() / 2 + prior.log_density()

            return maximise(observed, log_evidence, max_iter=self.max_iter, tol=tol, memory=memory)

        X = self._tensor(X[first]).to(device)
        observed, optimum = self._learn(prior, X, rng, learn)
        with torch.no_grad():
            variance = (prior.noise + data[2]).clamp_min(_LEAST_NOISE) / weights
            self._prior, self._posterior = prior, observed.posterior(data[0], variance)
            noise = prior.noise.sqrt().cpu().numpy() * self.target_scale_
        self._train = group, means, variance.cpu().numpy(), total[:, None]
        self.approximation_ = "exact" if observed.inducing is None else "sparse"
        self.log_marginal_likelihood_value_ = -optimum.value
        self.n_iter_ = optimum.n_iter
        self._noise = noise if learned else np.full(len(self.target_scale_), float(self.noise))
        self.noise_ = float(self._noise[0]) if self._y_ndim == 1 else self._noise
        return self

    def _known_noise(self, sample_noise, targets):
        """Known variances of scaled targets, (n, n_targets), or None where there are none."""
        if sample_noise is None and self.noise in ("learned", "shared", 0):
            return None
        known = np.zeros_like(targets)
        if sample_noise is not None:
            noise = check_array(
                sample_noise, ensure_2d=False, dtype=np.float64, input_name="sample_noise"
            )
            check_consistent_length(noise, targets)
            noise = noise.reshape(len(noise), -1)
            if noise.shape[1] not in (1, targets.shape[1]) or (noise < 0).any():
                raise ValueError(
                    "The 'sample_noise' parameter of fit must be non-negative standard deviations "
                    f"of shape ({len(targets)},) or {targets.shape}, in the units of y. Got the "
                    f"shape {np.shape(sample_noise)} and a least value of {noise.min():g}."
                )
            known += (noise / self.target_scale_) ** 2
        if not isinstance(self.noise, str):
            known += (self.noise / self.target_scale_) ** 2
        return known

    def _features(self, X):
        return self._prior(self._tensor(X).to(self._posterior.weights.device))

    def _numbers_per_event(self):
        return 3 * len(self._posterior.weights) + self.n_features_in_

    def _predictive(self, X):
        with torch.no_grad():
            features = self._features(X)
            mean = self._posterior.mean(features).cpu().numpy()

        def latent_variance():
            with torch.no_grad():
                variance = self._posterior.variance(features).cpu().numpy()
            return variance * self.target_scale_**2

        return _LazyNormal(
            self.target_mean_ + self.target_scale_ * mean, latent_variance, self._noise**2
        )

    def _splits_uncertainty(self):
        return True

    def predict(self, X, return_std=False, return_cov=False):
        """Predict the mean of the targets.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        return_std : bool, default=False
            Return the standard deviation of a new measurement as well.
        return_cov : bool, default=False
            Return the covariance of new measurements at all events as well, which takes
            8 · n_targets · n_events² bytes and some copies.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            In the units of the targets in ``fit``.
        std : ndarray of the same shape
            If `return_std`.
        covariance : ndarray of shape (n_events, n_events) or (n_events, n_events, n_targets)
            If `return_cov`.

        Raises
        ------
        ValueError
            If both are asked for.
        """
        if not return_cov:
            return super().predict(X, return_std=return_std)
        if return_std:
            raise ValueError(
                "The parameters return_std and return_cov of predict exclude each other: the "
                "diagonal of the covariance is the square of the standard deviation."
            )
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        mean, covariance = self._joint(X)
        covariance[np.diag_indices(len(X))] += self._noise**2
        covariance = covariance.astype(self._output_dtype, copy=False)
        mean = self._without_targets_axis(mean.astype(self._output_dtype, copy=False))
        return mean, self._without_targets_axis(covariance)

    def _joint(self, X):
        """Mean (n, t) and covariance (n, n, t) of the functions, in the units of the targets."""
        with torch.no_grad():
            features = self._features(X)
            mean = self._posterior.mean(features).cpu().numpy()
            covariance = self._posterior.covariance(features).cpu().numpy()
        covariance = np.moveaxis(covariance, 0, 2) * self.target_scale_**2
        return self.target_mean_ + self.target_scale_ * mean, covariance

    def sample_functions(self, X, n_samples=1, random_state=0):
        """Draw functions from the posterior, without noise.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            Where the functions are evaluated, all together: O(n_events³).
        n_samples : int, default=1
            Functions.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.

        Returns
        -------
        f : ndarray of shape (n_events, n_samples) or (n_events, n_targets, n_samples)
            In the units of the targets.
        """
        check_is_fitted(self)
        rng = _check_draws("sample_functions", n_samples, random_state)
        mean, covariance = self._joint(self._validate_events(X, reset=False))
        draws = _draw(mean, covariance, n_samples, rng).astype(self._output_dtype, copy=False)
        return self._without_targets_axis(draws, axis=1)

    def sample_prior(self, X, n_samples=1, random_state=0):
        """Draw functions from the prior, without noise.

        Before ``fit``, the hyper-parameters are those that its search starts from, features are
        standardised on `X`, and there is one target of mean 0 and scale 1.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            Where the functions are evaluated, all together: O(n_events³).
        n_samples : int, default=1
            Functions.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.

        Returns
        -------
        f : ndarray of shape (n_events, n_samples) or (n_events, n_targets, n_samples)
        """
        rng = _check_draws("sample_prior", n_samples, random_state)
        if self.__sklearn_is_fitted__():
            model, shift, scale = self, self.target_mean_, self.target_scale_
            X, squeeze = self._validate_events(X, reset=False), self._y_ndim == 1
        else:
            self._validate_params()
            model, shift, scale, squeeze = clone(self), np.zeros(1), np.ones(1), True
            X = model._validate_events(X, reset=True)
            model._prior = model._make_prior(
                X, None, check_random_state(self.random_state), 1.0, learn_noise=False
            )
        prior = model._prior
        with torch.no_grad():
            features = prior(model._tensor(X).to(prior.raw_noise.device))
            covariance = prior.covariance(features).cpu().numpy()[..., None]
        mean = np.broadcast_to(shift, (len(X), len(scale)))
        draws = _draw(mean, covariance * scale**2, n_samples, rng)
        return draws[:, 0] if squeeze else draws

    def predict_loo(self, return_std=False):
        r"""Predict each training event from all others, without learning anew.

        With the hyper-parameters of the fit and :math:`M=(K+D)^{-1}`, the mean is
        :math:`y_i - [My]_i / M_{ii}` and the variance of the function :math:`1/M_{ii}-D_i`.
        Events with the same features (and known noise) are left out together.

        Parameters
        ----------
        return_std : bool, default=False
            Return the standard deviation as well, of a measurement with the noise of this event.

        Returns
        -------
        y : ndarray of shape (n_events,) or (n_events, n_targets)
            For the events of ``fit``; NaN for those of weight zero, which it has not seen.
        std : ndarray of the same shape
            If `return_std`.

        Raises
        ------
        ValueError
            If the process is sparse.

        References
        ----------
        C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", section 5.4.2.
        """
        check_is_fitted(self)
        if self.approximation_ == "sparse":
            raise ValueError(
                "predict_loo needs an exact process, but there were more than "
                f"max_exact_samples={self.max_exact_samples} distinct events. Raise it, or use "
                "cross_val_predict."
            )
        group, means, variance, total = self._train
        factors = self._posterior.factors
        inverse = torch.stack([torch.cholesky_inverse(f).diagonal() for f in factors], 1)
        inverse = inverse.cpu().numpy()
        weights = self._posterior.weights.cpu().numpy()
        mean = self.target_mean_ + self.target_scale_ * (means - weights / inverse)
        # That of the event once, and not as often as its weight says.
        measured = np.maximum(1 / inverse - variance, 0) + variance * total
        results = [mean, np.sqrt(measured) * self.target_scale_]
        for i, result in enumerate(results):
            result = np.append(result, np.full((1, result.shape[1]), np.nan), axis=0)[group]
            results[i] = self._without_targets_axis(result.astype(self._output_dtype))
        return tuple(results) if return_std else results[0]


class _LazyNormal(Normal):
    """Gaussians whose variances, the larger part of the work, are computed if asked for."""

    def __init__(self, means, latent_variance, noise_variance):
        self.means = means
        self.covariances = None
        self._latent_variance = latent_variance
        self._noise_variance = noise_variance

    @cached_property
    def _latent(self):
        return self._latent_variance()

    @cached_property
    def stds(self):
        return np.sqrt(self._latent + self._noise_variance)

    def epistemic(self):
        return np.sqrt(self._latent)


def _means(targets, weight, group, total):
    """Weighted mean and sum of squared deviations of distinct events, both of shape (m, t)."""
    used = group >= 0
    group, targets = group[used], targets[used]
    weight = np.ones(len(group)) if weight is None else weight[used]

    def summed(values):
        columns = [np.bincount(group, weight * v, minlength=len(total)) for v in values.T]
        return np.stack(columns, 1)

    means = summed(targets) / total[:, None]
    # An event that is alone keeps the bits of its target.
    alone = np.bincount(group, minlength=len(total))[group] == 1
    means[group[alone]] = targets[alone]
    return means, summed((targets - means[group]) ** 2)


def _check_draws(method, n_samples, random_state):
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(
            f"The 'n_samples' parameter of {method} must be a positive int. Got {n_samples!r} "
            "instead."
        )
    return check_random_state(random_state)


def _draw(mean, covariance, n_samples, rng):
    """Draws (n, t, n_samples) of Gaussians with covariances (n, n, t) that may be singular."""
    n, t = mean.shape
    draws = np.empty((n, t, n_samples))
    for target in range(t):
        values, vectors = np.linalg.eigh(covariance[..., target])
        root = vectors * np.sqrt(np.maximum(values, 0))
        draws[:, target] = mean[:, [target]] + root @ rng.standard_normal((n, n_samples))
    return draws
