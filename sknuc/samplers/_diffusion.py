r"""Diffusion and flow matching: noise that becomes events along a learned flow.

A network learns where mixtures of an event z and normal noise ε move when the share of the noise
changes, and events are made by following its directions from noise to the end. With the angle θ of
the mixture (:mod:`sknuc.samplers._probability_flow`) the loss is

.. math:: L = E_{z, \varepsilon, \theta}\; w(\theta)\,
          \big|F(\cos\theta\,z + \sin\theta\,\varepsilon,\, \theta)
          - (\cos\theta\,\varepsilon - \sin\theta\,z)\big|^2,

whose minimum is the mean velocity given the mixture. Input and target of F have unit variance at
every θ. The published methods differ in the noise levels that they draw, and how much they weigh:

- **flow matching** goes along the straight lines :math:`x_t = (1-t)\,\varepsilon + t z` with t
  uniform in (0, 1), or logit-normal for the principal components of signals, so that
  :math:`\tan\theta = (1-t)/t`. What the velocity :math:`z-\varepsilon` holds beyond its linear
  regression on :math:`x_t` is :math:`-F/\sqrt{t^2+(1-t)^2}`, so that its squared error is that of
  F with the weight :math:`w = 1/(t^2+(1-t)^2)`;
- **EDM** adds noise of standard deviation :math:`\sigma = \tan\theta` with :math:`\ln\sigma`
  normal. Its preconditioning :math:`D(z+\sigma\varepsilon) = c_{skip}\,x + c_{out}\,F(c_{in}\,x)`
  is the same F, and its weights make all levels alike at the start: w = 1.
"""

import math
import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import nn
from torch.nn import functional

from sknuc.base import levels_to_user
from sknuc.multiplicity import row_uniforms
from sknuc.nn import AveragedModule
from sknuc.samplers._base import Sampler
from sknuc.samplers._denoisers import ResidualMLP, UNet
from sknuc.samplers._probability_flow import (
    Gaussian,
    PrincipalComponents,
    log_density,
    n_structured,
    principal_axes,
    solve,
)
from sknuc.torch_estimator import Player

__all__ = ["DiffusionSampler"]

# Of the logarithms of the noise levels of EDM, in units of the standard deviation of the events,
# where those of Karras et al. are for events of standard deviation 0.5.
_LOG_MEAN, _LOG_STD = -1.2 + math.log(2), 1.2
# Of the logits of the times at which flow matching looks at principal components.
_LOGIT_MEAN, _LOGIT_STD = 2.0, 1.5
_LEAST_SIGMA, _LARGEST_SIGMA, _RHO = 2 * 0.002, 2 * 80.0, 7
# Up to so many that are learnt the divergence is exact; beyond, with so many random probes.
_EXACT_VARIABLES, _N_PROBES = 20, 16
# Runge-Kutta steps of the density, whose error is then below 1e-3 nats for a normal density of a
# tenth of the width of the events.
_DENSITY_STEPS = 16
# Beyond so many times the farthest event of the fit there is none.
_ABSURD = 10
_COLLAPSED, _JUDGED = 0.1, 100


class DiffusionSampler(Sampler):
    r"""Events by flow matching or diffusion.

    A network learns the velocity at which mixtures of events and noise move when the share of the
    noise changes; following it from noise on makes events. Sampling is deterministic but for the
    noise at the start, so that the same noise gives the same event, and events have a density: the
    change of variables along the way (probability flow).

    Parameters
    ----------
    kind : {"flow_matching", "edm"}, default="flow_matching"
        Which noise levels are drawn in training, how they are weighed, and by which steps events
        are made: straight lines from noise to events with uniform times, or the log-normal noise
        levels of Karras et al.
    network : network or None, default=None
        From a noisy event, its noise level and its condition to an event: :class:`ResidualMLP`,
        :class:`UNet` or your own object with a method ``build(event_shape, n_conditions)``, see
        :class:`Denoiser`. None is ``ResidualMLP()`` for tables, and for signals, images and voxels
        ``ResidualMLP(width=384)`` if `wiener` applies and all of their numbers are continuous, else
        ``UNet()``. There, a ResidualMLP makes their principal components: see Notes.
    wiener : bool, default=True
        Learn what the velocity is beyond its linear regression on the mixture, which is that of a
        normal distribution with the mean and covariance of the events, and is solved exactly.
        Electronic noise far below the signal needs no learning then. Of more than 1024 variables,
        or fewer than 5 events for each, the network learns everything, as published.
    n_steps : int, default=25
        Steps from noise to an event. It may be changed after the fit.
    solver : {"heun", "euler"}, default="heun"
        "heun" evaluates the network 2 n_steps - 1 times per event and has errors of second order,
        "euler" n_steps times with errors of first order. It may be changed after the fit.
    guidance : float, default=0.0
        Strength g of guidance without a classifier: conditions are exaggerated, as the velocity is
        :math:`F(x|y) + g\,[F(x|y) - F(x)]`, at the price of a distribution that is no longer
        that of the events. 0 is the distribution given y.
    condition_dropout : float in (0, 1) or None, default=None
        Share of the events whose condition is hidden in training, so that F(x) is learnt, where
        `guidance` is not 0. None is g/(1 + 2g) with the guidance g of the fit, and 0.1 at least:
        see Notes.
    ema_width : float in [0, 0.28], default=0.1
        Events are made by an average over the weights of all steps of the training so far, with
        weights that rise as a power of the step; this is the standard deviation of that average's
        time as a share of the training. 0 takes the last weights.
    {sampler_parameters}
    max_epochs : int, default=100
        Passes over the data.
    learning_rate : float, default=0.002
        Step size of the optimizer.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, falling to zero within the fit, or as
        :math:`(1+10p)^{-3/4}` of the share p of its steps.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, if `fit` was given any.
    condition_ : {"classes", "continuous"} or None
        What `fit` took y for, if it was given; None if it left y aside (``condition=None``).
    module_ : torch.nn.Module
        The trained network and its average.
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

    Warns
    -----
    UserWarning
        If ``sample`` makes events that are not finite, lie far from all events of the fit, or are
        all nearly the same.

    See Also
    --------
    FlowSampler : Invertible network: exact densities at the cost of one evaluation.

    Notes
    -----
    A pulse of thousands of counts has its shape in tens of them, among noise of a few. So that all
    of it is learnt alike, a ResidualMLP reads signals and images as principal components in units
    of their standard deviations, and makes those alone whose skewness, kurtosis or correlation with
    conditions differ from those of normal noise by 5 standard deviations, and all larger ones. The
    others are drawn as what they are. What these components hold is much finer than they are wide:
    of a pulse whose height, time and shape vary, all of them are functions of three numbers. So
    "flow_matching" draws more times close to events, as Esser et al. did for images, with
    :math:`\ln\frac{t}{1-t}` normal, of mean 2 and standard deviation 1.5. The squared error of each
    component has the weight :math:`1 + \ln(\lambda_i/\lambda_n)` of its standard deviation in units
    of the smallest that is learnt.

    Guidance exaggerates what was learnt wrong, too. With a share p of hidden conditions, F(x|y) and
    F(x) are learnt from shares of 1 - p and p of the events. If their squared errors fall with the
    number of these, that of :math:`(1+g)\,F(x|y) - g\,F(x)` goes as

    .. math:: \frac{(1+g)^2}{1-p} + \frac{g^2}{p},

    which is least at p = g/(1 + 2g): a tenth for g = 1/8, below which it stays, so that guidance
    may be raised after the fit, and almost a half for strong one, which takes more epochs than none
    does. This is a heuristic from the sizes of errors: it was not seen to be better than a tenth in
    every test.

    Densities are integrated by 16 Runge-Kutta steps of fourth order. Of up to 20 variables, or
    components that are learnt, the divergence is exact, so that the density is normalised but for
    the steps. Beyond, it is estimated by 16 random signs per event, the same in every call: an
    unbiased log density whose standard deviation is :math:`\sqrt{2 \sum_{i \ne j} J_{ij}^2 / 16}`
    for a symmetric Jacobian J of the flow, integrated over the angle.

    References
    ----------
    Y. Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, arXiv:2210.02747.
    X. Liu, C. Gong, Q. Liu, "Flow Straight and Fast", ICLR 2023, arXiv:2209.03003.
    P. Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", ICML
    2024, arXiv:2403.03206, section 3.1, for logit-normal times.
    T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS
    2022, arXiv:2206.00364.
    T. Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", CVPR
    2024, arXiv:2312.02696, section 3, for the average of the weights.
    J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022, arXiv:2207.12598.
    Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations",
    ICLR 2021, arXiv:2011.13456, for the density.
    D. Kingma et al., "Variational Diffusion Models", NeurIPS 2021, arXiv:2107.00630, for noise
    levels that are spread evenly over a batch.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.samplers import DiffusionSampler, ResidualMLP
    >>> rng = np.random.default_rng(0)
    >>> energy = rng.uniform(1, 2, 500)
    >>> X = np.column_stack([energy, rng.normal(2 * energy, 0.1)])
    >>> sampler = DiffusionSampler(network=ResidualMLP(width=32), max_epochs=20, random_state=0)
    >>> events = sampler.fit(X).sample(200, random_state=0)
    >>> events.shape
    (200, 2)
    >>> bool(np.corrcoef(events.T)[0, 1] > 0.95)
    True
    """

    _without = ("encoder", "standardize", "warm_start")
    # Principal components that the network learns; None if it learns the variables themselves.
    _n_learnt = None

    _parameter_constraints = {
        **Sampler._parameter_constraints,
        "kind": [StrOptions({"flow_matching", "edm"})],
        "network": [HasMethods("build"), None],
        "wiener": ["boolean"],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "solver": [StrOptions({"heun", "euler"})],
        "guidance": [Interval(Real, 0, None, closed="left")],
        "condition_dropout": [Interval(Real, 0, 1, closed="neither"), None],
        "ema_width": [Interval(Real, 0, 0.28, closed="both")],
    }

    def __init__(
        self,
        *,
        kind="flow_matching",
        network=None,
        wiener=True,
        n_steps=25,
        solver="heun",
        guidance=0.0,
        condition_dropout=None,
        ema_width=0.1,
        max_epochs=100,
        learning_rate=0.002,
        schedule="cosine",
        **shared,
    ):
        super().__init__(
            max_epochs=max_epochs,
            learning_rate=learning_rate,
            schedule=schedule,
            **shared,
        )
        self.kind = kind
        self.network = network
        self.wiener = wiener
        self.n_steps = n_steps
        self.solver = solver
        self.guidance = guidance
        self.condition_dropout = condition_dropout
        self.ema_width = ema_width

    # Training.

    def _fit_variables(self, z, columns, sample_weight):
        self._kind, self._guided = self.kind, bool(self.guidance > 0)
        self._hidden = self.condition_dropout
        if self._hidden is None:
            self._hidden = max(0.1, self.guidance / (1 + 2 * self.guidance))
        if self._guided and self._conditions is None:
            raise ValueError(
                f"The 'guidance' parameter of DiffusionSampler is {self.guidance}, but there are "
                "no conditions to guide by. Give fit the conditions y, or set guidance=0."
            )
        points = z
        if "low" in columns:
            low, high = columns["low"], columns["high"]
            points = self._columns.draw(z, low, high, row_uniforms(z, low.shape[1]))
        weight = np.ones(len(z)) if sample_weight is None else sample_weight
        used = np.count_nonzero(weight)
        self._farthest = np.abs(points[weight != 0]).max()
        self._variance = points[weight != 0].reshape(used, -1).var(0).mean()
        self._moments = principal_axes(points, weight) if self.wiener else None
        self._n_learnt = None
        if self._moments is not None and self._reads_components():
            self._n_learnt = n_structured(points, self._moments, weight, columns.get("condition"))
        super()._fit_variables(z, columns, sample_weight)

    def _reads_components(self):
        """Whether the network reads principal components of signals and images."""
        columns = self._columns
        plain = len(columns.random) == len(columns.constant)
        plain &= self._by_channel() and not len(columns.cosines)
        return plain and (self.network is None or isinstance(self.network, ResidualMLP))

    def _read_shape(self):
        """The shape of what the network reads of an event."""
        return self._columns.shape if self._n_learnt is None else (self._n_learnt,)

    def _build(self):
        shape = self._read_shape()
        network = self.network
        if network is None:
            network = ResidualMLP()
            if self._by_channel():
                network = UNet() if self._n_learnt is None else ResidualMLP(width=384)
        n_conditions = 0
        if self._conditions is not None:
            n_conditions = self._conditions.width + self._guided
        module = network.build(shape, n_conditions)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "The method build of the 'network' parameter must return a torch.nn.Module. "
                f"{type(network).__name__} returned {module!r} instead."
            )
        parameter = next(module.parameters(), torch.empty(0))
        level = torch.zeros(2, dtype=parameter.dtype)
        condition = torch.zeros(2, n_conditions, dtype=parameter.dtype) if n_conditions else None
        sizes = []
        handles = [
            layer.register_forward_hook(lambda *args: sizes.append(args[2].numel() // 2))
            for layer in module.modules()
            if not list(layer.children())
        ]
        probe = torch.zeros(2, *shape, dtype=parameter.dtype)
        result = self._measure_work(lambda x: module(x, level, condition), probe)
        for handle in handles:
            handle.remove()
        # Of the layers of a network, a few hold their output at a time.
        self._n_activations = max(4 * max(sizes), sum(sizes) // 4)
        if result.shape != probe.shape:
            raise ValueError(
                "The network of the 'network' parameter must turn events of shape (n, "
                f"{', '.join(map(str, shape))}) into ones of the same shape. Got "
                f"{tuple(result.shape)} for n=2 instead."
            )
        gaussian = Gaussian(self._moments)
        if self._n_learnt is not None:
            gaussian = PrincipalComponents(self._moments, self._n_learnt)
        return _Flow(module, gaussian, self.ema_width)

    def _players(self):
        return [
            Player(
                self._loss,
                optimizer=self._optimizer,
                after_step=lambda module: module.average_weights(),
            )
        ]

    def _loss(self, module, batch):
        z = self._variables(batch)
        # Evenly spread over the levels, so that no batch has many of one kind.
        share = torch.arange(len(z), dtype=z.dtype, device=z.device)
        share = (share + torch.rand((), dtype=z.dtype, device=z.device)) / len(z)
        angle, weight = self._levels(share)
        x, velocity = module.gaussian.mix(z.flatten(1), angle)
        condition = self._shown(getattr(batch, "condition", None), module.training)
        x = x.reshape(len(z), *self._read_shape())
        error = module(x, angle, condition).flatten(1) - velocity
        return weight * (module.gaussian.importance * error.square()).mean(1)

    def _levels(self, share):
        """Angles (n,) of numbers in (0, 1), and their weights in the loss."""
        if self.kind == "edm":
            tiny = torch.finfo(share.dtype).eps
            log_sigma = torch.special.ndtri(share.clamp(tiny, 1 - tiny))
            return (_LOG_MEAN + _LOG_STD * log_sigma).exp().atan(), torch.ones_like(share)
        time = share
        if self._n_learnt is not None:
            time = torch.sigmoid(_LOGIT_MEAN + _LOGIT_STD * torch.special.ndtri(share))
        angle = torch.atan2(1 - time, time)
        return angle, 1 / (time**2 + (1 - time) ** 2)

    def _shown(self, condition, training):
        """Conditions as the network reads them: for guidance, it learns to do without."""
        if not self._guided:
            return condition
        shown = torch.ones_like(condition[:, :1])
        if training:
            shown = (torch.rand_like(shown) >= self._hidden).to(condition.dtype)
        return torch.cat([shown * condition, shown], 1)

    # Sampling.

    def _n_noise(self):
        return self._columns.n_variables

    def _numbers_per_event(self):
        return super()._numbers_per_event() + (1 + self._guided) * self._n_activations

    def _generate(self, noise, condition):
        angles = torch.as_tensor(self._angles(self._kind), dtype=noise.dtype, device=noise.device)
        field = self._field(condition)
        return self.module_[1].gaussian.from_normal(solve(field, noise, angles, self.solver))

    def _angles(self, kind):
        """From noise to events, (n_steps + 1,), with a network of that kind."""
        self._validate_params()
        n = self.n_steps
        if kind == "edm":
            ends = _LARGEST_SIGMA ** (1 / _RHO), _LEAST_SIGMA ** (1 / _RHO)
            return np.append(np.arctan(np.linspace(*ends, n) ** _RHO), 0)
        # Smaller and smaller steps, since events have structures that noise has not.
        return math.pi / 2 * np.linspace(1, 0, n + 1) ** 2

    def _field(self, condition):
        """The learned velocity of (n, n_variables) normal coordinates, at an angle (1,)."""
        module = self.module_[1]
        shape = self._read_shape()
        if self.guidance > 0 and not self._guided:
            raise ValueError(
                f"The 'guidance' parameter of DiffusionSampler is {self.guidance}, but was 0 in "
                "fit, where the network did not learn to do without conditions. Fit again."
            )
        if self._guided:
            shown = self._shown(condition, False)
            condition = torch.cat([shown, torch.zeros_like(shown)])

        def velocity(x, angle):
            x = x.reshape(-1, *shape)
            if not self._guided:
                return module(x, angle, condition).flatten(1)
            known, free = module(torch.cat([x, x]), angle, condition).flatten(1).chunk(2)
            return known + float(self.guidance) * (known - free)

        return lambda y, angle: module.gaussian.in_normal(velocity, y, angle)

    def _draw(self, noise, condition, tile):
        z = super()._draw(noise, condition, tile)
        self._judge(z, condition)
        return z

    def _judge(self, z, condition):
        """Warn of events that are none."""
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(z).all(1)
            absurd = np.abs(z).max(1) > _ABSURD * max(self._farthest, 1)
        if not finite.all() or absurd.any():
            warnings.warn(
                f"The diffusion diverged: of {len(z)} events, {(~finite).sum()} are not finite and "
                f"{(absurd & finite).sum()} lie more than {_ABSURD} times as far out as any event "
                "of the fit. Take a smaller learning_rate, more max_epochs or n_steps, or less "
                "guidance, and look for outliers in X.",
                UserWarning,
                stacklevel=levels_to_user(),
            )
        varied = condition is None or (condition != condition[:1]).any()
        if varied and len(z) >= _JUDGED:
            with np.errstate(invalid="ignore", over="ignore"):
                share = z.var(0).mean() / self._variance if self._variance > 0 else 1
            if share < _COLLAPSED:
                warnings.warn(
                    f"The diffusion collapsed: {len(z)} events have {share:.1%} of the variance of "
                    "the events of the fit. Take a smaller learning_rate, more max_epochs, or less "
                    "guidance.",
                    UserWarning,
                    stacklevel=levels_to_user(),
                )

    # Densities.

    def _log_density(self, z, condition):
        gaussian = self.module_[1].gaussian
        y = gaussian.to_normal(z)
        # Along components that are not learnt nothing moves.
        n = y.shape[1] if self._n_learnt is None else self._n_learnt
        if n <= _EXACT_VARIABLES:
            probes = torch.eye(n, y.shape[1], dtype=y.dtype, device=y.device)[None]
        else:
            uniform = row_uniforms(z.double().cpu().numpy(), n * _N_PROBES)
            signs = np.where(uniform.reshape(-1, _N_PROBES, n) < 0.5, -1, 1) / _N_PROBES**0.5
            probes = torch.as_tensor(signs, dtype=y.dtype, device=y.device)
            probes = functional.pad(probes, (0, y.shape[1] - n))
        field = self._field(condition)
        return log_density(field, y, self._density_angles(y), probes) + gaussian.log_det

    def _density_angles(self, like):
        """From events to noise, as a tensor like another."""
        angles = math.pi / 2 * np.linspace(0, 1, _DENSITY_STEPS + 1) ** 2
        return torch.as_tensor(angles, dtype=like.dtype, device=like.device)


class _Flow(AveragedModule):
    r"""A network, the average of its weights, and the linear map that makes events white.

    In training it is the network, else the average. The average of n steps has the weights
    :math:`\propto k^\gamma` of a power function, whose width is a share of the training, however
    long it is (Karras et al. 2024).
    """

    def __init__(self, network, gaussian, ema_width):
        super().__init__(network)
        self.network = network
        self.gaussian = gaussian
        self.exponent = _power(ema_width)

    def train(self, mode=True):
        super().train(mode)
        self.average.eval()
        return self

    def forward(self, x, angle, condition):
        root, other = angle.sin().clamp(min=0).sqrt(), angle.cos().clamp(min=0).sqrt()
        level = (root - other) / (root + other)
        return (self.network if self.training else self.average)(x, level, condition)

    def average_weights(self):
        self.n_steps += 1
        self.move_average(self.network, 1 - (1 - 1 / self.n_steps.item()) ** self.exponent)


def _power(width):
    """γ + 1 of weights k^γ whose standard deviation is that share of the training."""
    if width == 0:
        return math.inf
    t = width**-2
    return np.roots([1, 7, 16 - t, 12 - t]).real.max() + 1
