r"""Translation of simulated events into measured ones, learnt without pairs of them.

No measured event has a simulated twin, so no regression teaches a network what the detector would
have made of a simulated event. Two samples do, if what turns one into the other is to be undone: a
generator G from source to target and a generator F back play against critics :math:`D_T` and
:math:`D_S`, which learn to tell translated events from those of their domain. G has to please
:math:`D_T`, so that the distribution of G(x) is that of the target. Many maps have that property;
most of them shuffle events. What picks one of them is

.. math:: \min_{G, F}\; \lambda_a [\ell_a(D_T(G(x))) + \ell_a(D_S(F(y)))]
          + \lambda_c [\,|F(G(x)) - x| + |G(F(y)) - y|\,]
          + \lambda_i [\,|G(y) - y| + |F(x) - x|\,]

- *The cycle*: what G does can be undone, so no two events become one.
- *The identity*: what is an event of the target already is left as it is.
- *The start*: G and F are x plus changes that start at zero. Training moves all events together, a
  little with each step, towards where the critic's slope points, and so ends with a map near the
  identity: an amplifier's response, and no exchange of events. That is why the label of an event,
  its energy, its place and its number of sites are still its own behind the translation.

Nothing of this is a proof. Two domains with other shares of the classes are made alike by turning
some events of one class into the other, if the game is played to its end: put equal shares into
both, by weights, where they are known (:class:`DomainReweighter`), and look at labels behind the
translation.
"""

import warnings
from functools import partial
from numbers import Real

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sknuc.adaptation._cyclegan_network import CycleGAN, Inverse, default_generator
from sknuc.adaptation._domains import DomainAdapterMixin, split_domains, warn_without_domains
from sknuc.base import levels_to_user, validate_weights
from sknuc.encoders import CNN, MLP
from sknuc.exceptions import TrainingDivergedError
from sknuc.losses import critic_terms, generator_loss, gradient_penalty
from sknuc.metrics import sliced_wasserstein_distance
from sknuc.nn import Critic, Standardize
from sknuc.torch_estimator import GameMixin, Player, TorchEstimator

__all__ = ["CycleGANTranslator"]

# Events of either domain by which a fit is judged, and fewer than which tell nothing.
_MOST_JUDGED, _FEWEST_JUDGED = 2000, 50
# Of the spread of its channel: a number of an event that varies less is read as if it did so much.
_LEAST_SHARE = 0.02
# Of the spread that the target has, along all axes together: far beyond what a change of the
# detector's response or of the sample's composition does.
_LEAST_SPREAD, _LARGEST_SPREAD = 0.5, 2.0


class CycleGANTranslator(
    GameMixin, DomainAdapterMixin, OneToOneFeatureMixin, TransformerMixin, TorchEstimator
):
    r"""Translate simulated events into what the detector would have measured, and back.

    Two generators, :math:`G` from source to target and :math:`F` back, against a critic on either
    side (CycleGAN):

    .. math:: \min_{G, F}\; \lambda_a [\ell_a(D_T(G(x))) + \ell_a(D_S(F(y)))]
              + \lambda_c [\,|F(G(x)) - x| + |G(F(y)) - y|\,]
              + \lambda_i [\,|G(y) - y| + |F(x) - x|\,]

    Both domains are in one table; ``sample_domain`` says which event is of which. Labels are never
    looked at: those of simulated events are kept, as each event keeps its row, and a classifier is
    trained on translated simulation.

    Parameters
    ----------
    loss : {"least_squares", "non_saturating", "minimax", "wasserstein", "hinge"}, \
            default="least_squares"
        What critics and generators play for: :func:`sknuc.losses.critic_loss` and
        :func:`sknuc.losses.generator_loss`.
    adversarial_weight : float, default=9.0
        :math:`\lambda_a`, of pleasing the critics.
    cycle_weight : float, default=10.0
        :math:`\lambda_c`, of coming back to where an event was. The absolute difference is the mean
        over the numbers of an event, each in units of its spread, as critics read it.
    identity_weight : float, default=0.5
        :math:`\lambda_i`, of leaving events alone that are of the domain to be reached. It keeps
        translations from exchanging events, and biases them towards none: where domains overlap, an
        event that is to be left alone looks like one that is to be moved. Published are 9, 20 and 5
        for the three weights, of generators that start as noise; these start as the identity, and
        with 5 they may never leave it.
    region_weight : array-like broadcastable to the shape of an event, default=None
        Non-negative weights of the samples or pixels in the absolute differences of cycle and
        identity, as (L,) for a waveform: so that the rising edge counts more. Their mean is made 1.
        None weighs all alike.
    gradient_penalty : float, default=0.05
        γ of :math:`\frac\gamma2|\nabla D|^2` at events and translated ones, which makes the game
        settle; with ``loss="wasserstein"`` the factor of :math:`(|\nabla D| - 1)^2` instead.
    generator : object or None, default=None
        The network of the translations: an object with ``build(input_shape)`` that returns a module
        from events (n, *input_shape) to events of the same shape, called for each direction. Let it
        start as the identity. None is :class:`sknuc.nn.PositionalUNet` for events of shape
        ``(C, L)``, ``(C, H, W)`` and ``(C, D, H, W)``, and :class:`sknuc.nn.ResidualDense` for
        tables.
    ema_decay : float in [0, 1), default=0.999
        Events are translated by an average of the generators' weights, in which those of a step ago
        count by this factor less. At step t it is (1 + t)/(10 + t) at most. 0 takes the last ones.
    encoder : encoder or None, default=None
        The network of the critics, from events to features: an object of :mod:`sknuc.encoders`, or
        your own with a method ``build(input_shape)``. None is
        ``CNN(kernel_size=9, stride=3, n_blocks=0, pooling="flatten", activation="silu")`` for
        signals, with ``kernel_size=3`` for images and voxels, and
        ``MLP(hidden_layer_sizes=(64, 64), activation="leaky_relu")`` for tables.
    critic_learning_rate : float, default=0.002
        Step size of the critics (two time scales).
    betas : tuple of float, default=(0.5, 0.999)
        Decay of the means of gradients and of their squares, where `optimizer` is "adam" or
        "adamw".
    standardize : bool or "each", default=True
        What the networks read, and in what units differences are counted. True: events shifted and
        scaled by one mean and one standard deviation per feature, or channel of a signal, of both
        domains together, which count alike; so an untrained translation is the identity, and other
        gains and offsets are learnt. "each": by those of their own domain, so that an untrained
        translation matches mean and width of the domains; for domains in different units, such as
        keV and ADC counts. False: as they are.
    max_epochs : int, default=100
        Passes over the larger one of the domains.
    batch_size : int, default=64
        The most events of either domain per step.
    learning_rate : float, default=0.003
        Step size of the generators.
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rates go on: as they are, falling to zero within the fit, or as
        :math:`(1+10p)^{-3/4}` of the share p of its steps.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained networks.
    history_ : skorch.history.History
        One row per epoch: losses of the critics (``train_loss``) and of the generators
        (``train_generator_loss``), and times. They are no measure of quality: see `score`.
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
    DomainReweighter : Weights of simulated events, where their distribution is wrong, but each of
        them is as the detector would have measured it.

    Notes
    -----
    At the end of the fit, translated events are compared with those of the target, and a
    ``ConvergenceWarning`` is given if they are farther from them than the source was, or vary by
    half or twice as much. That they pass does not make them good.

    Critics read each sample of a signal and each pixel of an image in units of its own spread: the
    standard deviation in both domains together, which count alike, and 2 % of that of its channel
    at least. It is measured in the fit, with the weights. In one scale for all of them, differences
    that are small against the height of a pulse, such as the slope of its tail, are learnt last, if
    at all. What critics see better they move more, so the differences of cycle and identity are
    counted in the same units, by which the same weights do for signals and tables. Of a table, both
    are the units of `standardize`, and so is all without ``standardize``. Look at the order of
    events behind the translation: it says whether they were exchanged.

    A game has no minimum to end in, and small things decide where it ends: fits that differ by
    rounding alone keep the order of events and match features not equally well. Where it matters,
    compare some values of `random_state`.

    Generators have no noise of their own: they can make the noise of an event weaker or stronger
    and filter it, but not add noise to an event without any. Translate simulations with noise.

    In a pipeline with metadata routing, every step sees the rows of both domains: give the rows of
    the target a weight of zero in the classifier behind. Without `sample_domain`, the pipeline's
    ``predict`` takes events for simulated ones and translates them: give measured events a
    `sample_domain` of -1.

    References
    ----------
    J.-Y. Zhu, T. Park, P. Isola, A. A. Efros, "Unpaired Image-to-Image Translation using
    Cycle-Consistent Adversarial Networks", ICCV 2017 (arXiv:1703.10593).

    "CPU-Net", Machine Learning and the Physical Sciences, NeurIPS 2022 (arXiv:2507.09106), for
    germanium waveforms, positions, and the weights of the losses.

    X. Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017 (arXiv:1611.04076).

    L. Mescheder, A. Geiger, S. Nowozin, "Which Training Methods for GANs do actually Converge?",
    ICML 2018 (arXiv:1801.04406), for the penalty.

    Examples
    --------
    The measured sample has another gain and offset than the simulated one:

    >>> import numpy as np
    >>> from sknuc.adaptation import CycleGANTranslator
    >>> rng = np.random.default_rng(0)
    >>> simulated, other = rng.normal(size=(2, 500, 2)) * [1.0, 0.5]
    >>> X = np.concatenate([simulated, 1.2 * other + 0.5])
    >>> domain = np.repeat([1, -1], 500)
    >>> model = CycleGANTranslator(max_epochs=60, random_state=0)
    >>> translated = model.fit_transform(X, sample_domain=domain)[:500]
    >>> left = translated - (1.2 * simulated + 0.5)
    >>> bool(np.abs(left).mean() < 0.3 * np.abs(0.2 * simulated + 0.5).mean())
    True
    """

    # No loss of a game on held-out events says when to stop.
    _without = ("early_stopping", "validation_fraction", "n_iter_no_change", "tol", "warm_start")

    __metadata_request__transform = {"sample_domain": True}
    __metadata_request__score = {"sample_domain": True}

    _parameter_constraints = {
        **TorchEstimator._parameter_constraints,
        "loss": [
            StrOptions({"least_squares", "non_saturating", "minimax", "wasserstein", "hinge"})
        ],
        "adversarial_weight": [Interval(Real, 0, None, closed="neither")],
        "cycle_weight": [Interval(Real, 0, None, closed="left")],
        "identity_weight": [Interval(Real, 0, None, closed="left")],
        "region_weight": ["array-like", None],
        "gradient_penalty": [Interval(Real, 0, None, closed="left")],
        "generator": [HasMethods("build"), None],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "critic_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "betas": ["array-like"],
        "standardize": ["boolean", StrOptions({"each"})],
    }

    def __init__(
        self,
        *,
        loss="least_squares",
        adversarial_weight=9.0,
        cycle_weight=10.0,
        identity_weight=0.5,
        region_weight=None,
        gradient_penalty=0.05,
        generator=None,
        ema_decay=0.999,
        critic_learning_rate=0.002,
        betas=(0.5, 0.999),
        batch_size=64,
        schedule="cosine",
        **shared,
    ):
        super().__init__(batch_size=batch_size, schedule=schedule, **shared)
        self.loss = loss
        self.adversarial_weight = adversarial_weight
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight
        self.region_weight = region_weight
        self.gradient_penalty = gradient_penalty
        self.generator = generator
        self.ema_decay = ema_decay
        self.critic_learning_rate = critic_learning_rate
        self.betas = betas

    def fit(self, X, y=None, sample_weight=None, sample_domain=None):
        """Learn to translate source events into target events, and back.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            Events of both domains.
        y : None
            Ignored: labels are never looked at.
        sample_weight : array-like of shape (n_events,), default=None
            Non-negative weights, each relative to the others of its domain: 2 is the event twice,
            0 is the event absent.
        sample_domain : array-like of int of shape (n_events,), default=None
            Zero or more: the event is of the source (simulation); less: of the target (data), two
            of which are the least. None: all are of the source, of which the identity is learnt,
            with a ``DomainWarning``.

        Returns
        -------
        self : CycleGANTranslator
        """
        self._validate_params()
        self._start_anew()
        X = self._validate_events(X, reset=True)
        sample_weight = validate_weights(sample_weight, X)
        target = split_domains(sample_domain, X, least_source=2, sample_weight=sample_weight)
        if target is None:
            warn_without_domains(self)
        self._target, self._region = target, self._read_region()
        self._units = self._view = None
        try:
            # Of one domain, the losses of the identity are zero from the start.
            self._fit_events(
                X,
                {},
                sample_weight=sample_weight,
                reset=True,
                other=target,
                max_epochs=1 if target is None else None,
            )
        except TrainingDivergedError as error:
            # Whoever of the two is named, the other may have driven it there.
            error.args = (f"{error} The critics have a critic_learning_rate of their own.",)
            raise
        finally:
            del self._target, self._region, self._units, self._view
        if target is not None:
            self._look_for_failure(X, target, sample_weight)
        return self

    def _read_region(self):
        """Weights of an event's numbers, of the mean 1, or None."""
        if self.region_weight is None:
            return None
        words = (
            "The 'region_weight' parameter must hold non-negative numbers, one of them positive, "
            f"and be broadcastable to the shape of an event, {self.input_shape_}."
        )
        try:
            region = np.asarray(self.region_weight, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{words} Got {self.region_weight!r:.200} instead.") from None
        try:
            region = np.broadcast_to(region, self.input_shape_)
        except ValueError:
            raise ValueError(f"{words} Got the shape {region.shape} instead.") from None
        wrong = ~np.isfinite(region) | (region < 0)
        if wrong.any() or not region.any():
            raise ValueError(f"{words} Got {region[wrong][0] if wrong.any() else 0:g} instead.")
        return torch.from_numpy(region / region.mean())

    # Networks.

    def _of_signals(self):
        return 2 <= len(self.input_shape_) <= 4

    def _default_encoder(self):
        if self._of_signals():
            # Windows as long as some strides: otherwise slopes of the critic, which generators
            # follow, have a pattern of the stride's length.
            width = 9 if len(self.input_shape_) == 2 else 3
            options = {"n_blocks": 0, "pooling": "flatten", "activation": "silu"}
            return CNN(kernel_size=width, stride=3, **options)
        return MLP(hidden_layer_sizes=(64, 64), activation="leaky_relu")

    def _standardize(self, source, rows, sample_weight):
        """Find the units of either domain; events are put into them within the network."""
        measure = partial(super()._standardize, source)
        if self._target is None or self.standardize == "each":
            parts = [rows] if self._target is None else self._parts(rows)
            self._units = [measure(part, sample_weight) for part in parts]
        else:
            # Both domains count alike, however many events they have.
            weight = np.ones(source.n_rows) if sample_weight is None else sample_weight.copy()
            for part in self._parts(rows):
                weight[part] /= weight[part].sum()
            self._units = [measure(rows, weight)]
        if any(layer.padding_axis is not None for layer in self._units):
            raise ValueError(
                "CycleGANTranslator translates tables, signals, images and voxels. The 'encoder' "
                "parameter reads events with padding, such as clouds of points, of which a "
                "translation does not say how many there are."
            )
        if self._target is not None:
            self._view = self._measure_view(source, rows, sample_weight)
        return None

    def _measure_view(self, source, rows, sample_weight):
        """Mean and spread of each number of an event, of both domains, which count alike.

        Of both, and not of the target alone: where the target hardly varies and the source does,
        such as in a dead channel, critics would read numbers that are large without a bound.
        """
        units = self._units[0], self._units[-1]
        moments = [
            self._number_moments(source, self._measured_rows(part), unit, sample_weight)
            for part, unit in zip(self._parts(rows), units, strict=True)
        ]
        mean, square = np.mean(moments, axis=0)
        scale = np.sqrt(np.maximum(square - mean**2, _LEAST_SHARE**2))
        # In its units, the variance of a channel is 1, and that of a constant one 0, which is not
        # blown up; between them is what is constant in one domain.
        others = tuple(i for i, size in enumerate(self._channel_shape()) if size == 1)
        variance = square.mean(others, keepdims=True) - mean.mean(others, keepdims=True) ** 2
        scale = np.where(variance < 0.25, 1.0, scale)
        return torch.from_numpy(mean), torch.from_numpy(scale)

    def _number_moments(self, source, rows, unit, sample_weight):
        """Means of each number of an event and of its square, (2, *input_shape), in a unit."""
        weight = np.ones(len(rows)) if sample_weight is None else sample_weight[rows]
        weight = weight / weight.sum()
        scale, shift = unit.scale.numpy(), unit.shift.numpy()
        total = 0.0
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            # In its unit no number is far from zero, so that little is lost in the difference of
            # the mean square and the squared mean.
            x = source.take(rows[part]).double().cpu().numpy() * scale + shift
            share = weight[part].reshape(-1, *[1] * len(self.input_shape_))
            total = total + np.stack([(share * x).sum(0), (share * x**2).sum(0)])
        return total

    def _parts(self, rows):
        return rows[~self._target[rows]], rows[self._target[rows]]

    def _build(self):
        critics = nn.ModuleList(self._build_critic() for _ in range(2))
        generators = nn.ModuleList(self._build_generator() for _ in range(2))
        one = torch.ones([1] * len(self.input_shape_), dtype=torch.float64)
        units = [(0 * one, one)]
        if self.standardize:
            units = [(-layer.shift / layer.scale, 1 / layer.scale) for layer in self._units]
        weight = one if self._region is None else self._region
        if self._view is not None:
            weight = weight / self._view[1]
        return CycleGAN(generators, critics, [units[0], units[-1]], weight)

    def _build_critic(self):
        encoder, n_features = self._encoder()
        if self._view is not None:
            encoder = nn.Sequential(Standardize(*self._view), encoder)
        return Critic(encoder, n_features, 0)

    def _build_generator(self):
        if self.generator is None:
            module = default_generator(self.input_shape_)
        else:
            module = self.generator.build(self.input_shape_)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "The method build of the 'generator' parameter must return a torch.nn.Module. "
                f"{type(self.generator).__name__} returned {module!r} instead."
            )
        parameter = next(module.parameters(), torch.empty(0))
        probe = torch.zeros(2, *self.input_shape_, dtype=parameter.dtype)
        made = self._measure_work(module.eval(), probe)
        module.train()
        if made.shape != probe.shape:
            raise ValueError(
                "The network of the 'generator' parameter must turn events of shape (n, "
                f"{', '.join(map(str, self.input_shape_))}) into such events. Got the shape "
                f"{tuple(made.shape)} for n=2 instead."
            )
        return module

    def _measure_features(self, network, source, rows, sample_weight):
        """Standardise the features of each critic on the events of its own domain."""
        if self._target is None:
            return
        for part, domain, critic in zip(
            self._parts(rows)[::-1], ("target", "source"), network.critics, strict=True
        ):
            units = Standardize(
                getattr(network, f"{domain}_mean"), getattr(network, f"{domain}_scale")
            )
            reader = nn.Sequential(units, critic.encoder)
            super()._measure_features(reader, source, part, sample_weight)

    # Training.

    def _players(self):
        generators = Player(
            self._generator_loss,
            name="generator",
            parameters=lambda module: module.generators.parameters(),
            optimizer=self._optimizer_at(self.learning_rate),
            after_step=partial(CycleGAN.average_weights, decay=self.ema_decay),
        )
        if self._target is None:
            return [generators]
        critics = Player(
            self._critic_loss,
            name="critic",
            parameters=lambda module: module.critics.parameters(),
            optimizer=self._optimizer_at(self.critic_learning_rate),
        )
        return [critics, generators]

    def _critic_loss(self, module, batch):
        """Loss of both critics on a batch of either domain, 0-d."""
        samples = _Sample(module, batch, "source"), _Sample(module, batch.other, "target")
        with torch.no_grad():
            made = [
                generator(sample.x)
                for generator, sample in zip(module.generators, samples, strict=True)
            ]
        loss = 0.0
        # The critic of the target reads what was made of the source, and the other way round.
        for critic, true, origin, generated in zip(
            module.critics, samples[::-1], samples, made, strict=True
        ):
            loss = loss + self._loss_of_critic(critic, true, origin, generated)
        return loss

    def _loss_of_critic(self, critic, true, origin, generated):
        penalty, wasserstein = self.gradient_penalty, self.loss == "wasserstein"
        both = torch.cat([true.x, generated])
        both.requires_grad_(penalty > 0 and not wasserstein)
        n = len(true.x)
        output = critic(both, None)
        terms = critic_terms(output[:n], output[n:], kind=self.loss)
        loss = true.mean(terms[0]) + origin.mean(terms[1])
        if penalty and wasserstein:
            # As many of either, between which points are drawn.
            m = min(n, len(generated))
            share = torch.rand_like(generated[:m].flatten(1)[:, :1])
            share = share.reshape(-1, *[1] * (generated.ndim - 1))
            between = torch.lerp(generated[:m], true.x[:m], share).requires_grad_()
            slope = gradient_penalty(critic(between, None), between, target=1.0)
            loss = loss + penalty * slope.mean()
        elif penalty:
            slope = gradient_penalty(output, both)
            loss = loss + penalty / 2 * (true.mean(slope[:n]) + origin.mean(slope[n:]))
        return loss

    def _generator_loss(self, module, batch):
        """Loss of both generators on a batch of either domain, 0-d."""
        source = _Sample(module, batch, "source")
        if self._target is None:
            return source.mean(module.distance(module.generators[0](source.x), source.x))
        target = _Sample(module, batch.other, "target")
        loss = 0.0
        for here, there, out, back, critic in (
            (source, target, *module.generators, module.critics[0]),
            (target, source, *reversed(module.generators), module.critics[1]),
        ):
            # What is there already goes along, to be left alone.
            n = len(here.x)
            made = out(torch.cat([here.x, there.x]))
            made, kept = made[:n], made[n:]
            cycle = here.mean(module.distance(back(made), here.x))
            identity = there.mean(module.distance(kept, there.x))
            pleased = here.mean(generator_loss(critic(made, None), kind=self.loss))
            loss = (
                loss
                + self.adversarial_weight * pleased
                + self.cycle_weight * cycle
                + self.identity_weight * identity
            )
        return loss

    def _look_for_failure(self, X, target, sample_weight):
        """Warn if translated events are no better than untranslated ones, or spread otherwise."""
        rng = self._random_state
        present = np.ones(len(target), bool) if sample_weight is None else sample_weight != 0
        rows = [np.flatnonzero(part & present) for part in (~target, target)]
        if min(map(len, rows)) < _FEWEST_JUDGED:
            return
        rows = [np.sort(rng.permutation(part)[:_MOST_JUDGED]) for part in rows]
        weights = [None if sample_weight is None else sample_weight[part] for part in rows]
        source, data = (_table(X, part) for part in rows)
        made = self._forward(source).reshape(source.shape)
        # In the units of the networks: in those of X, one column may be all of the sum.
        there, goal = (
            _variance(self._in_units_of(table, "target"), weight)
            for table, weight in ((made, weights[0]), (data, weights[1]))
        )
        spread = np.sqrt(there / max(goal, 1e-300))
        seen = None
        if not np.isfinite(made).all():
            seen = "some are not finite"
        elif not _LEAST_SPREAD < spread < _LARGEST_SPREAD and goal > 0:
            seen = f"they vary by {spread:.2g} times as much as events of the target"
        else:
            before, after = (
                self._away(data, events, weight_true=weights[1], weight_generated=weights[0])
                for events in (source, made)
            )
            # Two halves of the target have a distance, too, twice as large as the whole has to it.
            halves = np.array_split(rng.permutation(len(data)), 2)
            shares = {}
            if sample_weight is not None:
                names = "weight_true", "weight_generated"
                shares = {name: weights[1][h] for name, h in zip(names, halves, strict=True)}
            chance = self._away(*(data[half] for half in halves), **shares)
            if after > before + chance:
                seen = (
                    f"their distance to events of the target is {after:.2g} (sliced Wasserstein), "
                    f"and {before:.2g} without translation"
                )
        if seen is not None:
            warnings.warn(
                f"The translation has failed: of translated events, {seen}. Take smaller learning "
                "rates, a larger gradient_penalty, more max_epochs, and look for outliers in X.",
                ConvergenceWarning,
                stacklevel=levels_to_user(),
            )

    # Use.

    def fit_transform(self, X, y=None, sample_weight=None, sample_domain=None):
        """Fit, and translate the source events; those of the target come back as they are.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            Events of both domains.
        y : None
            Ignored.
        sample_weight, sample_domain : array-like of shape (n_events,), default=None
            See `fit`.

        Returns
        -------
        X_new : ndarray of shape (n_events, n_features)
        """
        fitted = self.fit(X, y, sample_weight=sample_weight, sample_domain=sample_domain)
        return fitted.transform(X, sample_domain=sample_domain)

    def transform(self, X, sample_domain=None):
        """Translate source events into target events.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        sample_domain : array-like of int of shape (n_events,), default=None
            Events with a value below zero are of the target, and come back as they are. None
            translates all events.

        Returns
        -------
        X_new : ndarray of shape (n_events, n_features)
            Each event in its row, in the units of the target.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        target = split_domains(sample_domain, X, least_source=0, least_target=0)
        made = self._forward(X).reshape(X.shape[0], -1)
        if target is not None and target.any():
            made[target] = _table(X, np.flatnonzero(target))
        return made

    def inverse_transform(self, X):
        """Translate target events into source events.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events, all of which are translated.

        Returns
        -------
        X_new : ndarray of shape (n_events, n_features)
            In the units of the source.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        return self._forward(X, network=Inverse(self.module_[1])).reshape(X.shape[0], -1)

    def score(self, X, y=None, sample_domain=None):
        """How close translated events are to the target: the larger, the better.

        With `sample_domain`, minus the sliced Wasserstein distance of the translated source events
        to those of the target. It does not see whether each event is still itself. Without, minus
        the mean absolute error of the cycle, :math:`|F(G(x)) - x|`, of all events, which does not
        see the target. Both are in the units of `standardize`.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : None
            Ignored.
        sample_domain : array-like of int of shape (n_events,), default=None
            As in `fit`; at least one event of either domain.

        Returns
        -------
        score : float
            Zero is perfect.
        """
        check_is_fitted(self)
        X = self._validate_events(X, reset=False)
        target = split_domains(sample_domain, X, least_source=1, least_target=1)
        if target is not None:
            source, data = (_table(X, np.flatnonzero(part)) for part in (~target, target))
            return -self._away(data, self._forward(source).reshape(source.shape))
        events = _table(X, np.arange(X.shape[0]))
        back = self.inverse_transform(self._forward(events).reshape(events.shape))
        there, here = (self._in_units_of(table, "source") for table in (back, events))
        return -float(np.abs(there - here).mean())

    def _in_units_of(self, events, domain):
        """A table of events in the units in which the networks read a domain, in float64."""
        network = self.module_[1]
        mean, scale = (
            np.broadcast_to(getattr(network, f"{domain}_{name}").cpu().numpy(), self.input_shape_)
            for name in ("mean", "scale")
        )
        return (np.asarray(events, dtype=np.float64) - mean.ravel()) / scale.ravel()

    def _away(self, data, events, **weights):
        """The sliced Wasserstein distance of events to those of the target, in its units."""
        data, events = (self._in_units_of(table, "target") for table in (data, events))
        return float(sliced_wasserstein_distance(data, events, standardize=False, **weights))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class _Sample:
    """The events of a batch in units of their domain, and means over them with their weights."""

    def __init__(self, module, batch, domain):
        self.x = module.standardize(batch.X, domain)
        self.batch = batch

    def mean(self, values):
        """The weighted mean of values (n,)."""
        if self.batch.sample_weight is None:
            return values.mean()
        return (values * self.batch.sample_weight).mean() / self.batch.mean_weight.squeeze()


def _table(X, rows):
    """Some rows of events, in memory or on disk, as a table (n, n_features)."""
    return np.asarray(X[rows]).reshape(len(rows), -1)


def _variance(table, weight):
    """The sum of the variances of all columns."""
    mean = np.average(table, axis=0, weights=weight)
    return np.average((table - mean) ** 2, axis=0, weights=weight).sum()
