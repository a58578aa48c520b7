"""What the Bayesian classifier and regressor share: training, then inference around what it found.

Every inference starts from networks that are trained, each held near where it was initialised: it
is where Laplace's method linearises, where variational means start, and from where chains need a
short warm-up only.
"""

import copy
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import nn

from sknuc.base import levels_to_user
from sknuc.nn import updated_buffers
from sknuc.torch_estimator import Player, TorchEstimator
from sknuc.uncertainty._bnn_chains import MEASURED, some_rows
from sknuc.uncertainty._bnn_linearised import LaplaceInference
from sknuc.uncertainty._bnn_losses import ELBO, AnchoredLoss
from sknuc.uncertainty._bnn_sampling import ChainInference
from sknuc.uncertainty._collapse import has_collapsed
from sknuc.uncertainty._posterior import (
    LayerPrior,
    PosteriorNetworks,
    StackedNetwork,
    best_scale,
)
from sknuc.uncertainty._variational import MeanField

__all__ = ["BayesianNetwork"]

# Spreads start small and grow by a learning rate per step at most, so few epochs of few batches are
# not enough.
_VARIATIONAL_STEPS = 5000


class BayesianNetwork(ChainInference, LaplaceInference, TorchEstimator):
    """Base class of the Bayesian estimators.

    Parameters
    ----------
    inference : {"laplace", "hmc", "sghmc", "variational"}, default="laplace"
        How the posterior is found. "laplace": the posterior of the network linearised where
        training left it; quick, and a good first answer. "hmc": draws by Hamiltonian Monte Carlo,
        the reference for networks and data of moderate size (each step takes all events). "sghmc":
        draws at the price of training, for data too large for "hmc"; biased by the size of the
        step and, where the noise is learned, by batches (see `step_size`). "variational":
        independent Gaussians for all parameters, too narrow where those are correlated, and blind
        to few events where the network has many parameters: a warning says so if nothing was
        learnt.
    prior_scale : "learned" or float, default="learned"
        Standard deviation of the parameters a priori, times the root of the number of inputs for
        weights. "learned": one for each tensor of parameters, with a broad prior of its own
        (scaled inverse χ² with 4 degrees of freedom: 0.6 to 2.9 at 95 %).
    laplace_layers : {"auto", "all", "last"}, default="auto"
        Whose parameters "laplace" takes as uncertain. "all" needs 2000 parameters or 2000 numbers
        (events × outputs) at most, and encoders without recurrent layers. "auto" is "all" up to
        500 of either, and "last" beyond.
    n_chains : int, default=4
        Chains of "hmc" and "sghmc", which are computed together. "variational" draws as many
        networks as they would keep; "laplace" draws none.
    n_warmup : int, default=200
        Trajectories per chain that adapt the sampler and are thrown away.
    n_samples : int, default=500
        Trajectories per chain after them.
    thinning : int, default=5
        One of so many trajectories is kept for prediction; convergence is judged on all.
    n_leapfrog : int, default=50
        Gradient steps per trajectory on average: few long trajectories cross a posterior that as
        many steps in short ones only diffuse in.
    target_accept : float in (0, 1), default=0.8
        Probability of acceptance that the step size of "hmc" is adapted to. More is slower, and
        helps against divergences.
    step_size : float in (0, 1], default=0.1
        η of "sghmc" at most, in units of the largest curvature: draws are a quarter of it too
        wide (variance, in the direction of that curvature, for a small friction). Steps are smaller
        where batches would bring more than a fifth of the heat, or a tenth of the friction by the
        squares that a learned noise remembers of them: of small or many batches, or light weights.
        By that memory draws become too narrow: with a learned noise and several batches, variances
        are short by up to a tenth, plus 2/(W - P) for events of total weight W that determine P
        parameters. Few events are better taken in one batch.
    friction : float in (0, 1], default=0.03
        α of "sghmc", the share of the velocity that is lost in a step.
    n_cycles : int or None, default=None
        Cycles of "sghmc", each with a step size that falls along half a cosine, whose first half
        is thrown away; None for a constant step size.
    """

    _slot = "bayesian_parameters"

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "inference": [StrOptions({"laplace", "hmc", "sghmc", "variational"})],
        "prior_scale": [StrOptions({"learned"}), Interval(Real, 0, None, closed="neither")],
        "laplace_layers": [StrOptions({"auto", "all", "last"})],
        "n_chains": [Interval(Integral, 1, None, closed="left")],
        "n_warmup": [Interval(Integral, 1, None, closed="left")],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "thinning": [Interval(Integral, 1, None, closed="left")],
        "n_leapfrog": [Interval(Integral, 1, None, closed="left")],
        "target_accept": [Interval(Real, 0, 1, closed="neither")],
        "step_size": [Interval(Real, 0, 1, closed="right")],
        "friction": [Interval(Real, 0, 1, closed="right")],
        "n_cycles": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        *,
        inference="laplace",
        prior_scale="learned",
        laplace_layers="auto",
        n_chains=4,
        n_warmup=200,
        n_samples=500,
        thinning=5,
        n_leapfrog=50,
        target_accept=0.8,
        step_size=0.1,
        friction=0.03,
        n_cycles=None,
        **shared,
    ):
        super().__init__(**shared)
        self.inference = inference
        self.prior_scale = prior_scale
        self.laplace_layers = laplace_layers
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_samples = n_samples
        self.thinning = thinning
        self.n_leapfrog = n_leapfrog
        self.target_accept = target_accept
        self.step_size = step_size
        self.friction = friction
        self.n_cycles = n_cycles

    # For the classifier and the regressor to define.

    def _likelihood(self):
        raise NotImplementedError

    def _n_outputs(self):
        raise NotImplementedError

    def _fit_laplace(self, jacobians, outputs, y, weight, prior, mode):
        raise NotImplementedError

    def _means(self, X, y):
        """Targets (n, k) of `_fit_posterior` and what is predicted for them, in the same units."""
        raise NotImplementedError

    # Training.

    def _build(self):
        encoder, n_features = self._encoder()
        network = nn.Sequential(encoder, nn.Linear(n_features, self._n_outputs()))
        if self.inference in ("hmc", "sghmc") and updated_buffers(network):
            raise ValueError(
                f"inference={self.inference!r} draws the parameters of a network, which say "
                "everything about it; the running moments of batch normalisation are none of them. "
                "Use layer normalisation in the encoder, or another inference."
            )
        self._prior = LayerPrior(network, self._scale(self.prior_scale))
        return network

    @staticmethod
    def _scale(prior_scale):
        return None if prior_scale == "learned" else float(prior_scale)

    def _stack(self, networks):
        # What standardises features is part of the model, and so is the same in all chains.
        for network in networks[1:]:
            for own, common in zip(network.buffers(), networks[0].buffers(), strict=True):
                own.copy_(common)
        return super()._stack(networks)

    def _players(self):
        return [Player(self._loss, optimizer=self._make_optimizer)]

    def _fit_posterior(self, X, y, sample_weight, stratify=None):
        """Train, and infer.

        Parameters
        ----------
        X : as returned by `_validate_events`
        y : ndarray of shape (n, t), in units of the targets' standard deviation, or (n,) of codes
        sample_weight : ndarray of shape (n,) or None
        stratify : ndarray of shape (n,) or None
        """
        if self.warm_start:
            raise ValueError(
                f"{type(self).__name__} does not support warm_start=True: a posterior is found "
                "anew. Use warm_start=False."
            )
        if self.n_samples < 4 * self.thinning and self.inference in ("hmc", "sghmc"):
            raise ValueError(
                "The 'n_samples' parameter must be at least 4 × thinning, so that four draws per "
                f"chain are kept. Got n_samples={self.n_samples} and thinning={self.thinning}."
            )
        self._start_anew()
        # What predictions go by, whatever the parameter becomes.
        self._inference = self.inference
        for name in list(self.__dict__):
            if name.endswith("_") and name in self._of_the_posterior:
                del self.__dict__[name]
        total = X.shape[0] if sample_weight is None else sample_weight.sum()
        likelihood = self._likelihood()
        chains = self.n_chains if self.inference in ("hmc", "sghmc") else 1
        self._loss = AnchoredLoss(likelihood, self, total)
        self._make_optimizer = self._optimizer
        try:
            self._fit_events(
                X,
                {"y": y},
                sample_weight=sample_weight,
                stratify=stratify,
                reset=True,
                n_members=chains,
            )
            self._prior.to(next(self.module_.parameters()))
            infer = getattr(self, f"_infer_{self.inference}")
            with self._threads(X.shape[0]):
                infer(X, y, sample_weight, likelihood, total)
        finally:
            # Functions of this training, which no pickle holds.
            del self._loss, self._make_optimizer
        self._optimizer_states = None
        self._prior.to(torch.zeros(1))
        self._check_that_it_learnt(X, y, sample_weight)

    def _check_that_it_learnt(self, X, y, sample_weight):
        used = np.arange(X.shape[0]) if sample_weight is None else np.flatnonzero(sample_weight)
        rows = used[some_rows(len(used), MEASURED)]
        events = np.array(X[rows])
        weight = None if sample_weight is None else sample_weight[rows]
        y, predicted = self._means(events, y[rows])
        if has_collapsed(events.reshape(len(rows), -1), y, predicted, weight):
            others = " or ".join(repr(i) for i in ("laplace", "hmc") if i != self.inference)
            warnings.warn(
                f"The posterior of inference={self.inference!r} says nothing of the events, but a "
                f"linear model does. Take a smaller encoder, more events, or inference={others}.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )

    _of_the_posterior = frozenset(
        {
            "acceptance_rate_",
            "draw_weights_",
            "ess_",
            "log_evidence_",
            "n_divergences_",
            "noise_",
            "prior_scales_",
            "r_hat_",
        }
    )

    def _tensors(self, X, y, sample_weight, most=None):
        """Scaled events, targets and weights on the device, without events of weight zero.

        At most `most` of them, evenly spaced, if that is not None, with the weight of all.
        """
        parameter = next(self.module_.parameters())
        like = {"device": parameter.device, "dtype": parameter.dtype}
        used = np.arange(X.shape[0]) if sample_weight is None else np.flatnonzero(sample_weight)
        rows = used if most is None else used[some_rows(len(used), most)]
        x = np.array(X[rows]).reshape(-1, *self.input_shape_)
        y = torch.as_tensor(y[rows], device=parameter.device)
        y = y.to(parameter.dtype) if y.is_floating_point() else y
        weight = None
        if sample_weight is not None or len(rows) < len(used):
            w = np.ones(X.shape[0]) if sample_weight is None else sample_weight.astype(np.float64)
            weight = torch.as_tensor(w[rows] * (w[used].sum() / w[rows].sum())).to(**like)
        with torch.no_grad():
            x = self.module_[0](torch.as_tensor(x).to(**like))
        return x, y, weight

    def _seeds(self):
        """Generators of torch and numpy for what follows."""
        device = next(self.module_.parameters()).device
        seeds = self._random_state.randint(2**31 - 1, size=2)
        generator = torch.Generator(device=device).manual_seed(int(seeds[0]))
        return generator, np.random.RandomState(seeds[1])

    def _keep_hyperparameters(self, scales, noise):
        self.prior_scales_ = scales.double().cpu().numpy()
        if noise is not None:
            self.noise_ = noise.double().cpu().numpy() * self.target_scale_

    # Variational inference.

    def _infer_variational(self, X, y, sample_weight, likelihood, total):
        generator, _ = self._seeds()
        scaling, stack = self.module_
        noise = None
        if likelihood.has_noise:
            x, targets, weight = self._tensors(X, y, sample_weight, MEASURED)
            network = StackedNetwork(stack)
            with torch.no_grad():
                output = network(network.parameters(), x)
            squares = likelihood.squares(output, targets, weight)
            n = len(x) if weight is None else weight.sum()
            noise = best_scale(likelihood.degrees, likelihood.typical, n, squares)
        field = MeanField(stack, self._prior, noise)
        self.module_ = nn.Sequential(scaling, field)
        self._loss = ELBO(likelihood, total)
        self._optimizer_states = None
        history = copy.deepcopy(self.history_)
        n = X.shape[0] if sample_weight is None else np.count_nonzero(sample_weight)
        n_batches = -(-n // self.batch_size)
        epochs = max(self.max_epochs, -(-_VARIATIONAL_STEPS // n_batches))
        self._fit_events(X, {"y": y}, sample_weight=sample_weight, reset=False, max_epochs=epochs)
        self.bound_history_ = [row["train_loss"] for row in self.history_[len(history) :]]
        self.history_, self.n_iter_ = history, len(history)
        stack.requires_grad_(True)
        draws = field.draws(self._n_draws(), generator)
        self.module_ = nn.Sequential(scaling, PosteriorNetworks(stack, draws))
        noise = None if field.noise is None else field.noise.detach()
        self._keep_hyperparameters(field.scales(), noise)
        if noise is not None:
            self.noise_ = np.broadcast_to(self.noise_, (len(draws), self.noise_.shape[1]))
        self.draw_weights_ = np.full(len(draws), 1 / len(draws))

    def _n_draws(self):
        return self.n_chains * max(1, self.n_samples // self.thinning)

    def _numbers_per_event(self):
        if self._inference == "laplace":
            return 4 * self._n_outputs() * len(self._laplace.mode)
        return 8 * len(self.draw_weights_) * self._n_outputs()
