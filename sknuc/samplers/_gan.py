r"""Generative adversarial networks: a generator learns to please a critic that learns to see.

A generator G turns noise ε into events; a critic D gives every event a number and learns to give
true ones a larger one. As a classifier with the logit D it would reach, were it perfect,
:math:`D = \ln\,[p(x|y)/p_G(x|y)]`, and its loss tells how far the two distributions are apart:

.. math:: \max_G \min_D\;
          \mathrm{E}_{x}\!\left[\ln(1+e^{-D(x)})\right]
          + \mathrm{E}_{\varepsilon}\!\left[\ln(1+e^{D(G(\varepsilon))})\right]
          = 2 \ln 2 - 2\,\mathrm{JS}(p, p_G) \quad\text{at the best D}

(minimax). Where the critic is sure, the gradient of that vanishes, so that the generator is given
another loss of the same fixed point, :math:`\ln(1+e^{-D(G)})` (non-saturating). With a critic of
slope 1, :math:`\mathrm{E}[D(x)] - \mathrm{E}[D(G)]` is the Wasserstein distance instead. No density
is needed anywhere, and none is learnt.

What makes it work on detector data:

- *A smooth critic.* Around the truth the game turns in circles unless the critic becomes flat:
  :math:`\frac\gamma2 |\nabla D|^2` on true and generated events damps them (Mescheder et al.).
- *White variables.* Electronic noise is a thousandth of a pulse; no smooth critic sees it. Both
  networks speak of events in units of their covariance, :math:`C^{-1/2}(x - \bar x - B y)`, where
  B is the linear regression on conditions.
- *A start near the end.* Latent numbers are added to the axes along which events vary most, so that
  the generator starts as the normal distribution of the right covariance, and as the identity: it
  has to move events, as in the transport of one distribution to another, and not to find where
  they are. A generator that starts as noise around one event may end so, or in a part of them.
- *Noise where events have it.* The generator adds noise to every variable, by a standard deviation
  that it learns for every event: sixteen latent numbers cannot make the noise of 256 samples.
- *Averages.* Events are made by the exponential average of the generator's weights in training.
"""

import math
import warnings
from functools import partial
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch import nn

from sknuc.base import levels_to_user
from sknuc.encoders import CNN, MLP
from sknuc.exceptions import TrainingDivergedError
from sknuc.losses import critic_loss, generator_loss, gradient_penalty
from sknuc.multiplicity import row_uniforms
from sknuc.nn import AveragedModule, Critic, Gaussian, SpectralNorm, check_decoder, mirror
from sknuc.samplers._base import Sampler
from sknuc.samplers._collapse import MOST_JUDGED, find_collapse
from sknuc.samplers._probability_flow import principal_axes
from sknuc.torch_estimator import GameMixin, Player

__all__ = ["GANSampler"]

# Of "auto", in white variables. For Wasserstein, 10 is published for images and 0.1 for points in
# the plane: the slope is 1 + W/2λ, so that a large one leaves details to a faint signal.
_PENALTY_WASSERSTEIN, _PENALTY = 0.1, 0.05
# Latent numbers of "auto", each of which starts as a variable of its own.
_MOST_LATENT = 16
# Share of the variance that is theirs at the start, along the axes that they have.
_CARRIED = 0.9
# w, in units of the variable that says whether there is a value, of standard deviation 1.
_GATE_WIDTH = 0.25

# No event is more of those that are judged, since collapse is told by the distance of a twentieth.
_LARGEST_SHARE = 1 / 40


class GANSampler(GameMixin, Sampler):
    r"""Generative adversarial network: events fast, without a density.

    .. math:: \min_D\; \mathrm{E}_{x}\!\left[\ln(1+e^{-D(x)})\right] +
              \mathrm{E}_{\varepsilon}\!\left[\ln(1+e^{D(G(\varepsilon))})\right], \qquad
              \min_G\; \mathrm{E}_{\varepsilon}\!\left[\ln(1+e^{-D(G(\varepsilon))})\right]

    Parameters
    ----------
    loss : {"non_saturating", "minimax", "wasserstein", "hinge"}, default="non_saturating"
        What critic and generator play for: :func:`sknuc.losses.critic_loss` and
        :func:`sknuc.losses.generator_loss`. "minimax" is the first one published, whose gradient
        vanishes where the critic is sure.
    gradient_penalty : float or "auto", default="auto"
        γ of :math:`\frac\gamma2|\nabla D|^2`, at true and generated events; with
        ``loss="wasserstein"`` the factor of :math:`(|\nabla D| - 1)^2` between them. Too small, the
        game oscillates; too large, the critic sees no details. "auto" is 0.1 for "wasserstein", and
        0.05 for others; with `spectral_norm` it is 0.
    spectral_norm : bool, default=False
        Divide the critic's weights by their largest singular values, which bounds its slope.
    n_critic : int, default=1
        Steps of the critic per step of the generator; 5 is usual for "wasserstein".
    n_latent : int or "auto", default="auto"
        Normal numbers that the generator makes an event of, besides the noise of each variable.
        "auto" is the number of variables, 16 at most.
    ema_decay : float in [0, 1), default=0.999
        Events are made by an average of the generator's weights, in which those of a step ago count
        by this factor less, :math:`\bar w \leftarrow d\,\bar w + (1-d)\,w`. At step t it is
        (1 + t)/(10 + t) at most. 0 takes the last weights.
    encoder : encoder or None, default=None
        The network of the critic, from events to features: an object of :mod:`sknuc.encoders`, or
        your own with a method ``build(input_shape)``. None is
        ``MLP(hidden_layer_sizes=(128, 128), activation="leaky_relu")`` for tables, and for
        signals and images ``CNN(stride=4, n_blocks=0, pooling="flatten", activation="silu")``.
    decoder : object or None, default=None
        The network of the generator: an object with ``build(n_inputs, output_shape)`` that returns
        a module from (n, n_inputs), latent numbers and conditions, to (n, *output_shape). None
        mirrors the encoder, :func:`sknuc.nn.mirror`.
    critic_learning_rate : float, default=0.002
        Step size of the critic (two time scales).
    betas : tuple of float, default=(0.5, 0.99)
        Decay of the means of gradients and of their squares, where `optimizer` is "adam" or
        "adamw". A momentum of 0.9, usual elsewhere, makes the two players overshoot each other.
    {sampler_parameters}
    max_epochs : int, default=50
        Passes over the data.
    batch_size : int, default=128
        The most events per step; the batches of an epoch are made alike.
    learning_rate : float, default=0.003
        Step size of the generator.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rates go on: as they are, falling to zero within the fit, or as
        :math:`(1+10p)^{-3/4}` of the share p of its steps.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained networks.
    classes_ : ndarray of shape (n_classes,)
        The classes, if `fit` was given labels.
    condition_ : {"classes", "continuous"} or None
        What `fit` took y for, if it was given; None if it left y aside (``condition=None``).
    history_ : skorch.history.History
        One row per epoch: losses of the critic (``train_loss``) and the generator
        (``train_generator_loss``), and times. They are no measure of quality: compare samples, as
        :func:`sknuc.metrics.two_sample_auc` does.
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
    FlowSampler : The exact density.
    DiffusionSampler : Better for signals and images, slower.

    Notes
    -----
    At the end of the fit, up to 1000 generated events are compared with true ones, and a
    ``ConvergenceWarning`` is given if they are too alike, spread too far, or leave out more than a
    tenth of the true ones. That they pass does not make them good.

    White variables need 5 events for each and not more than 1024 of them; otherwise every variable
    is in units of its own standard deviation. With weights, a true event counts by its weight, and
    so does the generated one that shares its condition.

    References
    ----------
    I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014 (arXiv:1406.2661).

    L. Mescheder, A. Geiger, S. Nowozin, "Which Training Methods for GANs do actually Converge?",
    ICML 2018 (arXiv:1801.04406), for the penalty at the events.

    I. Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017 (arXiv:1704.00028).

    T. Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018
    (arXiv:1802.05957); T. Miyato, M. Koyama, "cGANs with Projection Discriminator", ICLR 2018
    (arXiv:1802.05637), for conditions.

    M. Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", NeurIPS 2017 (arXiv:1706.08500).

    Y. Yazıcı et al., "The Unusual Effectiveness of Averaging in GAN Training", ICLR 2019
    (arXiv:1806.04498).

    M. Paganini, L. de Oliveira, B. Nachman, "CaloGAN", Phys. Rev. D 97 (2018) 014021
    (arXiv:1712.10321).

    Examples
    --------
    Energies of two kinds of events:

    >>> import numpy as np
    >>> from sknuc.samplers import GANSampler
    >>> rng = np.random.default_rng(0)
    >>> kind = rng.choice(["signal", "background"], 500)
    >>> energy = np.where(kind == "signal", rng.normal(10, 1, 500), rng.exponential(5, 500))
    >>> X = np.column_stack([energy, 0.1 * energy + rng.normal(0, 0.1, 500)])
    >>> model = GANSampler(max_epochs=20, random_state=0).fit(X, kind)
    >>> events = model.sample(500, y="signal", random_state=0)
    >>> bool(9 < np.median(events[:, 0]) < 11)
    True
    """

    # No loss of a game on held-out events says when to stop.
    _without = (
        "standardize",
        "early_stopping",
        "validation_fraction",
        "n_iter_no_change",
        "tol",
        "warm_start",
    )

    _parameter_constraints = {
        **Sampler._parameter_constraints,
        "loss": [StrOptions({"non_saturating", "minimax", "wasserstein", "hinge"})],
        "gradient_penalty": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "spectral_norm": ["boolean"],
        "n_critic": [Interval(Integral, 1, None, closed="left")],
        "n_latent": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "decoder": [HasMethods("build"), None],
        "critic_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "betas": ["array-like"],
    }

    def __init__(
        self,
        *,
        loss="non_saturating",
        gradient_penalty="auto",
        spectral_norm=False,
        n_critic=1,
        n_latent="auto",
        ema_decay=0.999,
        decoder=None,
        critic_learning_rate=0.002,
        betas=(0.5, 0.99),
        max_epochs=50,
        batch_size=128,
        learning_rate=0.003,
        optimizer="adam",
        schedule="cosine",
        **shared,
    ):
        super().__init__(
            max_epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=optimizer,
            schedule=schedule,
            **shared,
        )
        self.loss = loss
        self.gradient_penalty = gradient_penalty
        self.spectral_norm = spectral_norm
        self.n_critic = n_critic
        self.n_latent = n_latent
        self.ema_decay = ema_decay
        self.decoder = decoder
        self.critic_learning_rate = critic_learning_rate
        self.betas = betas

    # Networks.

    def _default_encoder(self):
        if self._by_channel() and len(self.input_shape_) <= 4:
            return CNN(stride=4, n_blocks=0, pooling="flatten", activation="silu")
        return MLP(hidden_layer_sizes=(128, 128), activation="leaky_relu")

    def _fit_variables(self, z, columns, sample_weight):
        points = z
        if "low" in columns:
            low, high = columns["low"], columns["high"]
            points = self._columns.draw(z, low, high, row_uniforms(z, low.shape[1]))
        weight = np.ones(len(z)) if sample_weight is None else sample_weight
        used = weight != 0
        condition = columns.get("condition")
        points, self._slope = points.reshape(len(z), -1).astype(np.float64), None
        left = points[used]
        if condition is not None:
            self._slope = _slope(condition[used], left, weight[used])
            left = left - condition[used] @ self._slope
        self._moments = principal_axes(left, weight[used])
        try:
            super()._fit_variables(z, columns, sample_weight)
        except TrainingDivergedError as error:
            # Whoever of the two is named, the other may have driven it there.
            error.args = (f"{error} The critic has a critic_learning_rate of its own.",)
            raise
        self._look_for_collapse(points, condition, weight)

    def _build(self):
        encoder, n_features = self._encoder()
        shape = self._columns.shape
        n_conditions = 0 if self._conditions is None else self._conditions.width
        critic = Critic(encoder, n_features, n_conditions)
        if self.spectral_norm:
            critic = SpectralNorm(critic)
        n_latent = self.n_latent
        if isinstance(n_latent, str):
            n_latent = min(_MOST_LATENT, self._columns.n_variables)
        self._n_latent = n_latent
        start, spread = self._start(n_latent)
        noise = Gaussian(torch.zeros(shape), spread, "event")
        n_inputs = n_latent + n_conditions
        if self.decoder is None:
            like = self._default_encoder() if self.encoder is None else self.encoder
            decoder = mirror(like, n_inputs, noise.output_shape)
        else:
            decoder = self.decoder.build(n_inputs, noise.output_shape)
            check_decoder(decoder, n_inputs, noise.output_shape)
        parameter = next(decoder.parameters(), torch.empty(0))
        self._measure_work(decoder, torch.zeros(2, n_inputs, dtype=parameter.dtype))
        meaning = _Meaning(self._columns)
        white = _White(self._moments, self._slope, keep_places=self._by_channel())
        return _GAN(critic, _Generator(decoder, noise, start), meaning, white)

    def _start(self, n_latent):
        """White variables of each latent number at first, and the deviation of the noise."""
        shape = self._columns.shape
        n = self._columns.n_variables
        start = np.zeros((n_latent, n))
        if self._moments is not None:
            _, _, axes = self._moments
            if not self._by_channel():
                axes = np.eye(n)
            # The axes along which events vary most come last.
            k = min(n_latent, n)
            start[:k] = np.sqrt(_CARRIED) * axes.T[::-1][:k]
        spread = np.sqrt(1 - (start**2).sum(0))
        return torch.from_numpy(start.reshape(-1, *shape)), torch.from_numpy(spread.reshape(shape))

    # Training.

    def _players(self):
        return [
            Player(
                self._critic_loss,
                name="critic",
                parameters=lambda module: module.critic.parameters(),
                optimizer=self._optimizer_at(self.critic_learning_rate),
            ),
            Player(
                self._generator_loss,
                name="generator",
                parameters=lambda module: module.generator.parameters(),
                optimizer=self._optimizer_at(self.learning_rate),
                every=self.n_critic,
                after_step=partial(_GAN.average_weights, decay=self.ema_decay),
            ),
        ]

    def _penalty(self):
        if not isinstance(self.gradient_penalty, str):
            return self.gradient_penalty
        if self.spectral_norm:
            return 0.0
        return _PENALTY_WASSERSTEIN if self.loss == "wasserstein" else _PENALTY

    def _critic_loss(self, module, batch):
        """Loss of the critic at each true event, and a generated one of the same condition."""
        condition = getattr(batch, "condition", None)
        true = self._variables(batch)
        with torch.no_grad():
            generated = module.generate(self._noise_for(true), condition)
            generated, true = (module.see(z, condition) for z in (generated, true))
        penalty = self._penalty()
        both = torch.cat([true, generated]).requires_grad_(penalty > 0)
        output = module.critic(both, None if condition is None else condition.repeat(2, 1))
        loss = critic_loss(*output.chunk(2), kind=self.loss)
        if penalty and self.loss == "wasserstein":
            share = torch.rand_like(true[:, :1].flatten(1)[:, :1])
            share = share.reshape(-1, *[1] * (true.ndim - 1))
            between = torch.lerp(generated, true, share).requires_grad_()
            output = module.critic(between, condition)
            loss = loss + penalty * gradient_penalty(output, between, target=1.0)
        elif penalty:
            loss = loss + penalty / 2 * sum(gradient_penalty(output, both).chunk(2))
        return loss

    def _generator_loss(self, module, batch):
        """Loss of the generator at one event of the condition of each true one."""
        condition = getattr(batch, "condition", None)
        generated = module.generate(self._noise_for(batch.X), condition)
        seen = module.see(generated, condition)
        return generator_loss(module.critic(seen, condition), kind=self.loss)

    def _noise_for(self, x):
        return torch.randn(len(x), self._n_noise(), dtype=x.dtype, device=x.device)

    def _look_for_collapse(self, points, condition, weight):
        rng = self._random_state
        rows = _resample(weight, min(len(points), MOST_JUDGED), rng)
        noise = rng.standard_normal((len(rows), self._n_noise()))
        given = None if condition is None else condition[rows]
        made = self._draw(noise, given, self._tile_length(len(rows)))
        # As events tell: the energy of an empty voxel is what is drawn for a true one.
        X = self._columns.decode(made, given)
        z, low, high = self._columns.encode(X, condition=given)
        made = self._columns.draw(z, low, high, row_uniforms(z, low.shape[1]))
        seen = find_collapse(points[rows], made)
        if seen is not None:
            warnings.warn(
                f"The generator has collapsed or diverged: {seen}. Do not use its events. Take "
                "smaller learning rates, another gradient_penalty or loss, more max_epochs, and "
                "look for outliers in X.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )

    # Draw.

    def _n_noise(self):
        return self._n_latent + self._columns.n_variables

    def _generate(self, noise, condition):
        return self.module_[1].generate(noise, condition)


class _GAN(AveragedModule):
    """Critic and generator, the average of the generator, and what they see of events.

    Parameters
    ----------
    critic : nn.Module
        From white events (n, *shape) and conditions to (n,).
    generator : _Generator
        From noise (n, n_noise) and conditions to white events (n, *shape).
    meaning : _Meaning
    white : _White
    """

    def __init__(self, critic, generator, meaning, white):
        super().__init__(generator)
        self.critic = critic
        self.generator = generator
        self.meaning = meaning
        self.white = white

    def generate(self, noise, condition):
        """Variables (n, *shape); in training from the present weights, else from the average."""
        generator = self.generator if self.training else self.average
        return self.white.inverse(generator(noise, condition), condition)

    def see(self, z, condition):
        """Variables (n, *shape) as the critic reads them."""
        return self.white(self.meaning(z), condition)

    def average_weights(self, decay):
        """Let the average follow the generator by a step."""
        self.n_steps += 1
        n = self.n_steps.item()
        # Otherwise the first weights would be remembered for long.
        self.move_average(self.generator, 1 - min(decay, (1 + n) / (10 + n)))


class _Generator(nn.Module):
    """A decoder of latent numbers and conditions, and noise.

    Parameters
    ----------
    decoder : nn.Module
        From (n, n_latent + n_conditions) to (n, *noise.output_shape).
    noise : sknuc.nn.Gaussian
    start : Tensor of shape (n_latent, *noise.shape)
        What each latent number adds to the events, besides.
    """

    def __init__(self, decoder, noise, start):
        super().__init__()
        self.decoder = decoder
        self.noise = noise
        self.register_buffer("start", start)

    def forward(self, noise, condition):
        latent, noise = noise.tensor_split([len(self.start)], 1)
        output = self.decoder(latent if condition is None else torch.cat([latent, condition], 1))
        made = self.noise.draw(output, noise.reshape(-1, *self.noise.shape))
        return made + torch.tensordot(latent, self.start, 1)


class _White(nn.Module):
    """Linear map to variables of the unit covariance matrix, at given conditions.

    Parameters
    ----------
    moments : tuple (mean, scale, axes) or None
        See :func:`principal_axes`, of what the conditions leave; None leaves variables as they are.
    slope : ndarray of shape (n_conditions, n_variables) or None
        How the mean depends on conditions.
    keep_places : bool
        Turn back to the axes of the variables, where neighbours are neighbours: of all maps to the
        unit matrix the one that moves events least.
    """

    def __init__(self, moments, slope, keep_places):
        super().__init__()
        self.standard = moments is None
        self.register_buffer("slope", None if slope is None else torch.from_numpy(slope))
        if not self.standard:
            mean, scale, axes = moments
            back = axes.T if keep_places else np.eye(len(mean))
            self.register_buffer("mean", torch.from_numpy(mean))
            self.register_buffer("matrix", torch.from_numpy(axes / scale @ back))
            self.register_buffer("inverted", torch.from_numpy(back.T @ (axes * scale).T))

    def _center(self, condition):
        return self.mean if condition is None else self.mean + condition @ self.slope

    def forward(self, z, condition):
        """From variables (n, *shape) to white ones."""
        if self.standard:
            return z
        return ((z.flatten(1) - self._center(condition)) @ self.matrix).reshape(z.shape)

    def inverse(self, y, condition):
        """From white variables (n, *shape) back."""
        if self.standard:
            return y
        center = self._center(condition)
        return torch.addmm(center, y.flatten(1), self.inverted).reshape(y.shape)


class _Meaning(nn.Module):
    r"""What variables tell of an event, smoothly, and nothing else.

    - Of a column with atoms, one variable :math:`z_1` says whether there is a value, by the part
      (a, b) of the normal law that it lies in, and another, :math:`z_2`, is that value, or normal
      noise if there is none. In their place the critic is shown g and :math:`g z_2`, with

      .. math:: g = \mathrm{sigm}\frac{z_1 - a}{w}\;\mathrm{sigm}\frac{b - z_1}{w} .
    - Of cosine and sine of an angle, their ratio counts: they are shown on the unit circle.
    - What is constant is shown as 0.

    The same is done to true and generated events. A critic that saw more would teach the generator
    to make noise as it is made for true events, and circles.

    Parameters
    ----------
    columns : Columns
    """

    def __init__(self, columns):
        super().__init__()
        parts = [
            (columns.second[i], columns.first[i], *_existing(marks))
            for i, marks in columns.marks.items()
        ]
        mark, value, low, high = zip(*parts, strict=True) if parts else ((), (), (), ())
        places = {
            "mark": mark,
            "value": value,
            "cosine": columns.cosines,
            "sine": columns.sines,
            "constant": columns.constant,
        }
        for name, place in places.items():
            self.register_buffer(name, torch.tensor(np.asarray(place, dtype=np.int64)))
        self.register_buffer("low", torch.tensor(low, dtype=torch.float64))
        self.register_buffer("high", torch.tensor(high, dtype=torch.float64))
        self.trivial = not parts and not len(columns.cosines) and not len(columns.constant)

    def forward(self, z):
        """From variables (n, *shape) to their meaning, of the same shape."""
        if self.trivial:
            return z
        flat = z.flatten(1)
        mark = flat[:, self.mark]
        there = torch.sigmoid((mark - self.low) / _GATE_WIDTH)
        there = there * torch.sigmoid((self.high - mark) / _GATE_WIDTH)
        cosine, sine = flat[:, self.cosine], flat[:, self.sine]
        radius = (cosine.square() + sine.square() + torch.finfo(z.dtype).eps).sqrt()
        places = torch.cat([self.mark, self.value, self.cosine, self.sine])
        told = [2 * there - 1, there * flat[:, self.value], cosine / radius, sine / radius]
        told = flat.index_copy(1, places, torch.cat(told, 1))
        return told.index_fill(1, self.constant, 0.0).reshape(z.shape)


def _slope(condition, z, weight):
    """Slopes (n_conditions, n_variables) of the mean of variables by least squares."""
    root = np.sqrt(weight)[:, None]
    both = (a - np.average(a, axis=0, weights=weight) for a in (condition, z))
    return np.linalg.lstsq(*(root * a for a in both), rcond=1e-10)[0]


def _resample(weight, n, rng):
    """Numbers (n,) of events, each as often as it weighs (systematic resampling), up to a cap."""
    # The cap c = s Σ min(w, c): the heaviest j events have it, which are fewer than 1/s.
    order = np.argsort(-weight, kind="stable")
    rest = weight[order][::-1].cumsum()[::-1][: math.ceil(1 / _LARGEST_SHARE)]
    caps = _LARGEST_SHARE * rest / (1 - _LARGEST_SHARE * np.arange(len(rest)))
    fits = weight[order][: len(rest)] <= caps
    if fits.any():
        weight = np.minimum(weight, caps[fits.argmax()])
    # Neighbours in a file may be alike.
    order = rng.permutation(len(weight))
    total = weight[order].cumsum()
    places = (rng.uniform() + np.arange(n)) / n * total[-1]
    return order[np.minimum(np.searchsorted(total, places, side="right"), len(order) - 1)]


def _existing(marks):
    """Ends of the part of the normal law where there is a value, and no atom."""
    edges = np.concatenate([[-np.inf], marks.inner, [np.inf]])
    (k,) = np.flatnonzero(np.isnan(marks.values))
    return edges[k], edges[k + 1]
