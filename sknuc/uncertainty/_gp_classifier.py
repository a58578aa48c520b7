r"""Gaussian-process classification by augmentation: closed-form steps, each of them a regression.

Two classes have one latent function, :math:`p(y=\pm1\,|\,f)=\sigma(y f)`. With
:math:`c_i^2=E[f_i^2]`, the bound of Jaakkola and Jordan, which is that of the Pólya–Gamma
augmentation,

.. math:: \log\sigma(yf) \ge \tfrac{yf}{2} - \tfrac{\theta f^2}{2} + \tfrac{\theta c^2}{2}
          - \log 2\cosh\tfrac c2, \qquad \theta = \frac{\tanh(c/2)}{2c},

makes every label a Gaussian measurement :math:`y/(2\theta)` of f with the variance
:math:`1/\theta`. The posterior and its bound on the evidence are then those of regression with a
known noise per event. Alternating between c and the posterior, a natural-gradient step of length
one, finds the best bound for given hyper-parameters; its derivative by them is that at fixed c,
so they are learnt as in regression.

More classes have one latent function each, which tells the class from all others and shares the
kernel with them; the probabilities are :math:`\sigma(f_k)/\sum_j\sigma(f_j)`.

References
----------
T. Jaakkola, M. Jordan, "Bayesian parameter estimation via variational methods", Statistics and
Computing 10 (2000) 25.
F. Wenzel et al., "Efficient Gaussian Process Classification Using Pólya-Gamma Data Augmentation",
AAAI 2019, arXiv:1802.06383.
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit, log_expit, ndtri, softmax
from sklearn.base import _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_consistent_length
from torch.nn.functional import softplus

from sknuc.base import (
    EnsembleClassifierMixin,
    class_weights,
    encode_labels,
    validate_labels,
    validate_weights,
)
from sknuc.predictive import even_levels
from sknuc.uncertainty._gp_base import GaussianProcess, distinct_events, resolve_device
from sknuc.uncertainty._gp_evidence import maximise, variances

__all__ = ["GPClassifier"]

# Nodes of the Gauss-Hermite rule for one latent function; points for several, as a power of 2.
_NODES = 32
_POINTS = 256

# Change of log c at which c has converged: its error enters the bound in second order. And the most
# extrapolations, of two updates each.
_STILL = 1e-2
_AT_REST = 1e-6
_UPDATES = 100


class GPClassifier(EnsembleClassifierMixin, GaussianProcess):
    r"""Gaussian-process classification of two or more classes: exact, sparse, or behind a network.

    The posterior of the latent functions is the best Gaussian one under the augmented likelihood;
    of more than two classes, each has a function that tells it from the others.
    Probabilities are means over it, by fixed nodes: Gauss–Hermite for two classes, a lattice of
    quasi-random points for more. Their spread is what the classifier does not know:
    `predict_uncertainty` tells it from the overlap of the classes.

    Parameters
    ----------
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply `sample_weight`.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    kernel_ : gpytorch.kernels.Kernel
        The learned kernel of the latent functions, which all share.
    lengthscales_ : ndarray of shape (n_features,) or None
        Of the first radial kernel (RBF, Matérn, RQ) among terms and factors, in units of the
        features, infinite for those that it does not read; None where there is none.
    elbo_ : float
        The bound on the log evidence; of more than two classes the sum over the functions. It
        includes the densities of the priors that a kernel object brings.
    approximation_ : {"exact", "sparse"}
        How the covariance of the training events was treated.
    n_iter_ : int
        Steps of the last search.
    input_shape_ : tuple of int
        The shape of one event.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    See Also
    --------
    GPRegressor : The same for continuous targets.

    References
    ----------
    C. Rasmussen, C. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, chapter 3.
    F. Wenzel et al., "Efficient Gaussian Process Classification Using Pólya-Gamma Data
    Augmentation", AAAI 2019, arXiv:1802.06383.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from sknuc.uncertainty import GPClassifier
    >>> X, y = make_moons(100, noise=0.1, random_state=0)
    >>> model = GPClassifier(random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.95)
    True
    >>> near, far = model.predict_uncertainty([[0, 1], [20, 20]]).epistemic
    >>> bool(near < far)
    True
    """

    _parameter_constraints: dict = {
        "class_weight": [dict, StrOptions({"balanced"}), None],
        **GaussianProcess._parameter_constraints,
    }

    def __init__(
        self,
        *,
        class_weight=None,
        kernel="matern52",
        mean="constant",
        ard=True,
        encoder=None,
        input_shape=None,
        standardize=True,
        max_exact_samples=2000,
        n_inducing=500,
        n_restarts=0,
        max_iter=200,
        tol=1e-2,
        device="auto",
        random_state=None,
    ):
        self.class_weight = class_weight
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
    def fit(self, X, y, sample_weight=None):
        """Learn the hyper-parameters, and condition on the labels.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : array-like of shape (n_events,)
            Labels of any kind.
        sample_weight : array-like of shape (n_events,) or None, default=None
            Non-negative weights: how many events with this label an event stands for.

        Returns
        -------
        self : GPClassifier

        Raises
        ------
        ValueError
            If an input is not finite, lengths disagree, a weight is negative, features are too
            large to be standardised, or there is only one class.
        """
        X = self._validate_events(X, reset=True)
        y = validate_labels(y, self)
        check_consistent_length(X, y)
        weight = validate_weights(sample_weight, X)
        if weight is not None:
            X, y, weight = X[weight != 0], y[weight != 0], weight[weight != 0]
        self.classes_, codes = encode_labels(self, y)
        weight = validate_weights(class_weights(self.class_weight, self.classes_, codes, weight), X)
        device = resolve_device(self.device)
        rng = check_random_state(self.random_state)

        first, group, total = distinct_events(X, weight)
        counts = np.zeros((len(first), len(self.classes_)))
        np.add.at(counts, (group, codes), 1.0 if weight is None else weight)
        prior = self._make_prior(X[first], total, rng, 1.0, learn_noise=False).to(device)
        counts = torch.from_numpy(counts).to(device)

        labels = None

        def learn(observed, rows, memory, tol):
            nonlocal labels
            labels = _Labels(observed, counts[rows])
            return maximise(observed, labels.bound, max_iter=self.max_iter, tol=tol, memory=memory)

        observed, optimum = self._learn(prior, self._tensor(X[first]).to(device), rng, learn)
        measured = labels.converge(still=_AT_REST)
        with torch.no_grad():
            gaussian = observed.log_evidence(measured.values, measured.variances)
            self.elbo_ = float(gaussian + measured.constant + prior.log_density())
        self._prior = prior
        self._posterior = observed.posterior(measured.values, measured.variances)
        self._nodes, self._node_weights = _nodes(len(self.classes_))
        self.approximation_ = "exact" if observed.inducing is None else "sparse"
        self.n_iter_ = optimum.n_iter
        return self

    def _numbers_per_event(self):
        members = len(self._nodes) * len(self.classes_)
        return 3 * len(self._posterior.weights) + 4 * members + self.n_features_in_

    def _member_weights(self):
        return self._node_weights

    def _member_probabilities(self, X):
        with torch.no_grad():
            features = self._prior(self._tensor(X).to(self._posterior.weights.device))
            mean = self._posterior.mean(features).cpu().numpy()
            std = self._posterior.variance(features).sqrt().cpu().numpy()
        latent = mean[:, None] + std[:, None] * self._nodes
        if latent.shape[2] == 1:
            latent = latent[..., 0]
            return np.stack([expit(-latent), expit(latent)], 2)
        return softmax(log_expit(latent), axis=2)


class _Labels:
    """Labels as measurements of the latent functions, the best ones for each kernel.

    Parameters
    ----------
    observed : Observations
    counts : Tensor of shape (n, n_classes)
        Labels of each event, with their weights.
    """

    def __init__(self, observed, counts):
        self.observed = observed
        self.counts = counts
        prior = observed.prior
        with torch.no_grad():
            start = variances(prior.kernel, prior(observed.X))[:, None].log() / 2
        self.log_c = start.expand(-1, 1 if counts.shape[1] == 2 else counts.shape[1])

    def converge(self, still=_STILL):
        """Find the best measurements for the present kernel.

        Far from the boundary of the classes c grows slowly: steps are extrapolated by the squared
        method of Varadhan and Roland, Scand. J. Statist. 35 (2008) 335.
        """
        moments = self.observed.moments()

        def update(log_c):
            measured = _measure(self.counts, log_c.exp())
            mean, variance = moments(measured.values, measured.variances)
            second = mean.square() + variance.clamp_min(0)
            return second.clamp_min(1e-12).log() / 2

        x = self.log_c
        for _ in range(_UPDATES):
            first = update(x)
            step = first - x
            if step.abs().max() <= still:
                x = first
                break
            second = update(first)
            bend = second - first - step
            length = float((step.norm() / bend.norm().clamp_min(1e-300)).clamp(1, 100))
            # Of length 1 it is the second update.
            x = x + 2 * length * step + length**2 * bend
            x = x.clamp(-14, 14)
        self.log_c = x
        return _measure(self.counts, x.exp())

    def bound(self):
        """Bound on the log evidence, differentiable.

        Measurements that maximise it do not change it in first order, so that its derivative is
        that at fixed measurements.
        """
        measured = self.converge()
        gaussian = self.observed.log_evidence(measured.values, measured.variances)
        return gaussian + measured.constant + self.observed.prior.log_density()


class _Measured(NamedTuple):
    """What labels say about the latent functions, as Gaussian measurements."""

    values: torch.Tensor
    variances: torch.Tensor
    constant: torch.Tensor


def _measure(counts, c):
    """The bound of the likelihood that touches it at latent functions of size c.

    Parameters
    ----------
    counts : Tensor of shape (n, n_classes)
    c : Tensor of shape (n, n_latent)
        Root of the mean square of each latent function.

    Returns
    -------
    measured : _Measured
        The constant is what the bound is above the log evidence of the measurements.
    """
    if counts.shape[1] == 2:
        for_it, against = counts[:, 1:], counts[:, :1]
    else:
        for_it, against = counts, counts.sum(1, keepdim=True) - counts
    both = for_it + against
    precision = both * torch.tanh(c / 2) / (2 * c)
    values = (for_it - against) / (2 * precision)
    log_cosh = c / 2 + softplus(-c)  # log 2cosh(c/2)
    constant = (precision * c.square() / 2 - both * log_cosh).sum()
    gaussian = ((2 * np.pi / precision).log() + values.square() * precision).sum() / 2
    return _Measured(values, 1 / precision, constant + gaussian)


def _nodes(n_classes):
    """Points (q, n_latent) and weights of a normal distribution; None for equal weights."""
    if n_classes == 2:
        points, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        return points[:, None], weights / weights.sum()
    return ndtri(even_levels(_POINTS, n_classes)), None
