r"""Variational autoencoders: an event is a few normal numbers, decoded, with noise.

An event x is thought to come from latent variables z, by

.. math:: p(x|y) = \int p(x|z, y)\,p(z)\,dz, \qquad p(z) = N(0, 1),

where a network, the decoder, gives the mean (and the scale) of :math:`p(x|z, y)`. The integral
cannot be done, but it is where :math:`p(z|x, y)` is, which another network, the encoder, learns to
know as :math:`q(z|x, y) = N(\mu, \sigma^2)`. By Jensen's inequality

.. math:: \ln p(x|y) \ge \mathrm{E}_q\!\left[\ln p(x|z, y)\right]
          - \mathrm{KL}\!\left[q(z|x, y)\,\|\,p(z)\right] = \mathrm{ELBO},

with equality if q is right. Both networks are trained to raise the bound. Its gradient passes
through the draws from q, since these are :math:`z = \mu + \sigma\varepsilon` of a noise that does
not depend on the networks (reparametrisation). The mean over K draws within the logarithm,

.. math:: L_K = \mathrm{E}\left[\ln \frac1K \sum_{k=1}^K \frac{p(x|z_k, y)\,p(z_k)}{q(z_k|x, y)}
          \right] \le L_{K+1} \le \ln p(x|y),

is a tighter bound (importance weighting).
"""

import math
from numbers import Integral, Real

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sknuc.encoders import CNN, MLP
from sknuc.multiplicity import row_uniforms
from sknuc.nn import Bernoulli, Gaussian, Poisson, check_decoder, mirror
from sknuc.samplers._base import Sampler
from sknuc.samplers._vae_network import AsMeasured, Autoencoder
from sknuc.torch_estimator import Player

__all__ = ["VAESampler"]

# Draws from q of every event that a bound is the mean of.
_N_DRAWS = 64
# Numbers that are averaged at a time.
_BLOCK_NUMBERS = 2**20
# Where the normal law ends in practice: an infinite end has no gradient.
_FARTHEST = 40.0


class VAESampler(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Sampler):
    r"""Variational autoencoder: samples, latent variables, and a lower bound of the density.

    .. math:: \mathrm{ELBO} = \mathrm{E}_{q(z|x,y)}\!\left[\ln p(x|z, y)\right]
              - \beta\,\mathrm{KL}\!\left[q(z|x, y)\,\|\,p(z)\right]

    Parameters
    ----------
    n_latent : int, default=16
        Latent variables. Those that events do not need are left to the prior.
    likelihood : {"gaussian", "bernoulli", "poisson"}, default="gaussian"
        How events vary around what the decoder says: by normal noise of the standardised variables;
        as hits (0 or 1; numbers between are probabilities of a hit); as counts. Hits and counts are
        modelled as they are, so that `bounds`, `discrete`, `atoms` and `periodic` do not apply.
    scale : {"event", "value", "channel"} or float, default="event"
        Standard deviation of normal noise: "event", given by the decoder for each value of each
        event; learned once for each "value" (sample, pixel, column), or for each "channel" (a
        column of a table is one); or a number, in standard deviations of the channel.
    beta : float, default=1.0
        Weight of the KL divergence. Above 1, fewer and more independent latent variables carry the
        events; below, they are reconstructed better and the prior fits less. 1 is the bound.
    free_bits : float, default=0.0
        In nats. A latent variable whose KL divergence, averaged over the batch, is less than this
        pays as much as if it were this: no variable is given up early in the training (posterior
        collapse).
    warm_up : float in [0, 1), default=0.0
        Share of the training within which the weight of the KL divergence rises from 0 to `beta`,
        so that the latent variables learn to tell events apart before they have to pay for it:
        where noise explains too much (posterior collapse). Too long, and they are not normal in the
        end. There is none with `early_stopping`, for which the bound has to grow from the start.
    sample_noise : bool, default=True
        Whether ``sample`` adds the noise of the likelihood, as events have it; without, it returns
        means of the decoder.
    n_importance : int, default=1
        Draws K within the logarithm of the bound that ``score_samples`` returns; 1 is the ELBO.
    decoder : object or None, default=None
        Your own decoder: an object with ``build(n_inputs, output_shape)`` that returns a module
        from (n, n_inputs), latent variables and conditions, to (n, *output_shape). None mirrors the
        encoder, :func:`sknuc.nn.mirror`.
    encoder : encoder or None, default=None
        The network that reads an event: an object of :mod:`sknuc.encoders`, or your own with a
        method ``build(input_shape)``. None is
        ``MLP(hidden_layer_sizes=(128, 128), activation="silu")`` for tables, and for signals and
        images ``CNN(stride=4, n_blocks=0, pooling="flatten", activation="silu")``. Where an edge is
        matters as much as what it looks like: encoders that average over positions lose it.
    learning_rate : float, default=0.001
        Step size of the optimizer.
    schedule : {"cosine", "constant"}, default="cosine"
        How the learning rate goes: to zero within `max_epochs` along half a cosine, or not.
    {sampler_parameters}
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
        One row per epoch: losses (the negative bound of the variables, in nats) and times.
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
    An event twice in the data meets the noise that a single one of twice the weight would: it is
    drawn for the batch, and shifted (as a level, modulo 1) by numbers that belong to the event.

    A step of a Pipeline that ends with a classifier is fitted with its classes, and encodes what
    they do not tell: set ``condition=None`` there.

    Levels of discrete columns and atoms, such as voxels without energy, enter the bound with their
    exact probability :math:`\Phi(b) - \Phi(a)` given the latent variables. An energy that is not
    there enters with the probability 1: the decoder describes those that are.

    A decoder may leave a column to its noise (posterior collapse), without a warning: events then
    have a normal law there, whatever theirs is. With the defaults, most fits to 20,000 jets (pT, η,
    φ, m) lose η, which the decoded events, ``inverse_transform(transform(X))``, show: they hardly
    vary with it. ``warm_up=0.2`` kept η with each of three seeds.

    The noise washes out sharp ends of a distribution, as those of an angle's acceptance: give them
    by `bounds`. Signals with little noise are described to a per cent or so of their size, not to
    the last of their noise, and the latent variables of many such events are not quite normal: a
    classifier still tells such samples from events.

    References
    ----------
    D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv:1312.6114).

    K. Sohn, H. Lee, X. Yan, "Learning Structured Output Representation using Deep Conditional
    Generative Models", NeurIPS 2015, for conditions.

    D. P. Kingma et al., "Improving Variational Inference with Inverse Autoregressive Flow",
    NeurIPS 2016 (arXiv:1606.04934), for free bits.

    I. Higgins et al., "beta-VAE", ICLR 2017.

    C. K. Sønderby et al., "Ladder Variational Autoencoders", NeurIPS 2016 (arXiv:1602.02282), for
    the warm-up.

    O. Rybkin, K. Daniilidis, S. Levine, "Simple and Effective VAE Training with Calibrated
    Decoders", ICML 2021 (arXiv:2006.13202), for the scale.

    Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016
    (arXiv:1509.00519).

    Examples
    --------
    Pulses of two sizes, of which each is an energy, a time and noise:

    >>> import numpy as np
    >>> from sknuc.samplers import VAESampler
    >>> rng = np.random.default_rng(0)
    >>> size = rng.choice([1.0, 2.0], 500)
    >>> t = np.arange(32) - rng.normal(16, 2, (500, 1))
    >>> X = size[:, None] * np.exp(-(t**2) / 20) + 0.02 * rng.normal(size=(500, 32))
    >>> model = VAESampler(n_latent=2, max_epochs=30, random_state=0).fit(X, size)
    >>> pulses = model.sample(100, y=2.0, random_state=0)
    >>> bool(1.7 < np.median(pulses.max(1)) < 2.3)
    True
    >>> model.transform(X, size).shape
    (500, 2)
    """

    _parameter_constraints = {
        **Sampler._parameter_constraints,
        "n_latent": [Interval(Integral, 1, None, closed="left")],
        "likelihood": [StrOptions({"gaussian", "bernoulli", "poisson"})],
        "scale": [
            StrOptions({"event", "value", "channel"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "beta": [Interval(Real, 0, None, closed="left")],
        "free_bits": [Interval(Real, 0, None, closed="left")],
        "warm_up": [Interval(Real, 0, 1, closed="left")],
        "sample_noise": ["boolean"],
        "n_importance": [Interval(Integral, 1, None, closed="left")],
        "decoder": [HasMethods("build"), None],
    }

    def __init__(
        self,
        *,
        n_latent=16,
        likelihood="gaussian",
        scale="event",
        beta=1.0,
        free_bits=0.0,
        warm_up=0.0,
        sample_noise=True,
        n_importance=1,
        decoder=None,
        learning_rate=0.001,
        schedule="cosine",
        **shared,
    ):
        super().__init__(learning_rate=learning_rate, schedule=schedule, **shared)
        self.n_latent = n_latent
        self.likelihood = likelihood
        self.scale = scale
        self.beta = beta
        self.free_bits = free_bits
        self.warm_up = warm_up
        self.sample_noise = sample_noise
        self.n_importance = n_importance
        self.decoder = decoder

    # Fit.

    def _default_encoder(self):
        if self._by_channel() and len(self.input_shape_) <= 4:
            return CNN(stride=4, n_blocks=0, pooling="flatten", activation="silu")
        return MLP(hidden_layer_sizes=(128, 128), activation="silu")

    def _make_columns(self):
        if self.likelihood == "gaussian":
            return super()._make_columns()
        for name, unset in (
            ("bounds", None),
            ("discrete", "auto"),
            ("atoms", "auto"),
            ("periodic", None),
        ):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value == unset):
                raise ValueError(
                    f"The {name!r} parameter applies to likelihood='gaussian' only, since hits and "
                    f"counts are modelled as they are. Got {value!r} with likelihood="
                    f"{self.likelihood!r}."
                )
        return AsMeasured(self.likelihood)

    def _own_columns(self, X):
        self._n_latent = self.n_latent
        return {"phase": row_uniforms(X, self._n_latent)}

    def _fit_variables(self, z, columns, sample_weight):
        weight = np.ones(len(z)) if sample_weight is None else sample_weight
        mean = _mean_of_rows(z, weight, lambda rows: rows)
        if self.likelihood == "gaussian":
            std = np.sqrt(_mean_of_rows(z, weight, lambda rows: (rows - mean) ** 2))
            # What is drawn within a part of the normal law, or does not vary, is measured by it.
            mean[self._columns.random], std[self._columns.random] = 0.0, 1.0
            std[std <= 1e-6] = 1.0
            self._start = mean, std
        else:
            # Half an event more of each kind, so that what never happened may. Weights count
            # events; where all are smaller than 1, one is as large as the largest.
            total = weight.sum() / min(1.0, weight.max())
            top = 1.0 if self.likelihood == "bernoulli" else np.maximum(mean.max(), 1.0)
            self._start = ((total * mean + 0.5 * top) / (total + top),)
        super()._fit_variables(z, columns, sample_weight)

    def _build(self):
        encoder, n_features = self._encoder()
        shape = self._columns.shape
        start = [torch.from_numpy(part.reshape(shape)) for part in self._start]
        if self.likelihood == "gaussian":
            circles = self._columns.cosines, self._columns.sines
            likelihood = Gaussian(*start, self.scale, circles=circles)
        else:
            likelihood = (Bernoulli if self.likelihood == "bernoulli" else Poisson)(*start)
        n_conditions = 0 if self._conditions is None else self._conditions.width
        n_inputs = self._n_latent + n_conditions
        if self.decoder is None:
            like = self._default_encoder() if self.encoder is None else self.encoder
            decoder = mirror(like, n_inputs, likelihood.output_shape)
        else:
            decoder = self.decoder.build(n_inputs, likelihood.output_shape)
            check_decoder(decoder, n_inputs, likelihood.output_shape)
        self._largest_product = max(
            self._largest_product,
            *(layer.weight.numel() for layer in decoder.modules() if isinstance(layer, nn.Linear)),
            0,
        )
        return Autoencoder(encoder, n_features, decoder, likelihood, self._n_latent, n_conditions)

    def _players(self):
        return [Player(self._loss, optimizer=self._optimizer)]

    def _loss(self, module, batch):
        """Negative bound of each event, with beta and free bits."""
        low, high = getattr(batch, "low", None), getattr(batch, "high", None)
        x, parts = self._with_parts(batch.X.flatten(1), low, high)
        condition = getattr(batch, "condition", None)
        mean, log_std = module.posterior(x, condition)
        shift = torch.rand(self._n_latent, dtype=x.dtype, device=x.device)
        eps = torch.finfo(x.dtype).eps
        level = (batch.phase + shift).frac().clamp(eps, 1 - eps)
        std = log_std.exp()
        z = torch.addcmul(mean, std, math.sqrt(2) * torch.erfinv(2 * level - 1))
        log_likelihood = module.log_likelihood(z, x, condition, parts)
        divergence = ((mean.square() + std.square() - 1) / 2 - log_std).to(x.dtype)
        if self.free_bits:
            weight = batch.sample_weight
            typical = divergence.detach()
            if weight is None:
                typical = typical.mean(0)
            else:
                typical = weight @ typical / weight.sum()
            divergence = torch.where(typical > self.free_bits, divergence, self.free_bits)
        beta = self.beta
        if not self.early_stopping and batch.progress < self.warm_up:
            beta = beta * batch.progress / self.warm_up
        return beta * divergence.sum(1) - log_likelihood

    def _with_parts(self, z, low, high):
        """Events as the encoder reads them, and the parts of the normal law that are all one knows.

        Levels, rounded integers and atoms are parts, whose probability needs no draws. What is not
        there, as the energy of a voxel without any, may be anything, with the probability 1.
        """
        places = np.concatenate([self._columns.random, self._columns.rounded])
        if not len(places):
            return z.reshape(-1, *self._columns.shape), None
        places = torch.as_tensor(places, device=z.device)
        low, high = low[:, : len(places)], high[:, : len(places)]
        row, k = (high > low).nonzero(as_tuple=True)
        low, high, is_level = low[row, k], high[row, k], k < len(self._columns.random)
        eps = torch.finfo(z.dtype).eps
        ends = [
            torch.special.ndtri(level.clamp(0, 1)).clamp(-_FARTHEST, _FARTHEST)
            for level in (low, ((low + high) / 2).clamp(eps, 1 - eps), high)
        ]
        # Those of rounded integers are numbers already, and their cells hold the variable.
        at = row * z.shape[1] + places[k]
        numbers = z.flatten()
        known = low, numbers[at], high
        low, middle, high = (torch.where(is_level, *both) for both in zip(ends, known, strict=True))
        z = numbers.index_copy(0, at, middle)
        parts = at, low, high
        return z.reshape(-1, *self._columns.shape), parts

    # Draw.

    def _n_noise(self):
        return self._n_latent + self._columns.n_variables

    def _generate(self, noise, condition):
        z, noise = noise[:, : self._n_latent], noise[:, self._n_latent :]
        module = self.module_[1]
        output = module.decode(z, condition)
        if not self.sample_noise:
            return module.likelihood.mean(output)
        return module.likelihood.draw(output, noise.reshape(-1, *self._columns.shape))

    # Bound.

    def _score_block(self, X, condition):
        z, low, high = self._columns.encode(X, condition=condition)
        parts = (self._tensor(level) for level in (low, high))
        with torch.no_grad(), self._threads(len(X)):
            bound = self._log_density(self._tensor(z), self._tensor(condition), *parts)
        return bound.double().cpu().numpy() + self._columns.log_det(X, condition)

    def _log_density(self, z, condition, low=None, high=None):
        module = self.module_[1]
        x, parts = self._with_parts(z, low, high)
        mean, log_std = module.posterior(x, condition)
        n_groups = max(1, _N_DRAWS // self.n_importance)
        noise = _even_noise(n_groups * self.n_importance, self._n_latent).to(x)
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for group in noise.split(self.n_importance):
            inner = torch.full_like(total, -torch.inf)
            for eps in group:
                log_weight = module.log_weight(x, condition, mean, log_std, eps, parts)
                inner = torch.logaddexp(inner, log_weight.double())
            total += inner - math.log(len(group))
        return total / n_groups

    def score_samples(self, X, y=None):
        r"""Lower bound of the log density of events.

        .. math:: \mathrm{E}\left[\ln \frac1K \sum_{k=1}^K \frac{p(x|z_k, y)\,p(z_k)}{q(z_k|x, y)}
                  \right] \le \ln p(x|y)

        with K = `n_importance`: the evidence lower bound (ELBO) for K = 1, which grows with K. The
        expectation is the mean over 64 draws, or K if those are more, evenly spread and the same
        for all events.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : scalar or array-like of shape (n_events,) or (n_events, n_conditions), default=None
            The condition of all events, or of each. None, after a fit with y, is the bound for
            what ``sample`` draws without y: the mean over the classes of the fit, or, as an
            approximation, over 64 of its other conditions.

        Returns
        -------
        bound : ndarray of shape (n_events,)
            In nats, per unit of every continuous column.

        Raises
        ------
        ValueError
            If an event is not possible, or a condition unknown.
        """
        return super().score_samples(X, y)

    # Latent variables.

    def transform(self, X, y=None):
        """Encode events.

        What y tells of an event is not in the latent variables of a model that was fitted with y,
        as by a Pipeline: where that is what they are to tell, fit with ``condition=None``.

        Parameters
        ----------
        X : array-like of shape (n_events, n_features) or (n_events, *event_shape)
            The events.
        y : scalar or array-like of shape (n_events,) or (n_events, n_conditions), default=None
            The condition of all events, or of each. None, after a fit with y, is the mean over the
            conditions of the fit (at most 64), each with its probability for this event.

        Returns
        -------
        Z : ndarray of shape (n_events, n_latent)
            Mean of the latent variables, μ of :math:`q(z|x, y)`.
        """
        check_is_fitted(self)
        X = np.asarray(self._validate_events(X, reset=False))
        X = X.reshape(len(X), -1)
        if self._conditions is None or y is not None:
            return self._encode(X, self._encode_conditions(y, len(X), "transform"))[:, 1:]
        nodes, weights, _ = self._conditions.nodes()
        Z, k = np.empty((len(X), self._n_latent), self._output_dtype), len(nodes)
        for rows in self._blocks(len(X), k):
            part = X[rows]
            encoded = self._encode(np.tile(part, (k, 1)), np.repeat(nodes, len(part), axis=0))
            encoded = encoded.reshape(k, len(part), -1)
            log_evidence, latent = encoded[:, :, :1], encoded[:, :, 1:]
            probability = softmax(log_evidence + np.log(weights)[:, None, None], axis=0)
            Z[rows] = (probability * latent).sum(0)
        return Z

    def _encode(self, X, conditions):
        """Log evidence, by the curvature at the mean (Laplace), and mean of the latent variables.

        Of shape (n, 1 + n_latent).
        """

        def encode(X, condition):
            given = None if condition is None else condition.double().cpu().numpy()
            z, low, high = self._columns.encode(X.astype(np.float64), condition=given)
            parts = (self._tensor(level) for level in (low, high))
            x, parts = self._with_parts(self._tensor(z), *parts)
            module = self.module_[1]
            mean, log_std = module.posterior(x, condition)
            at_mean = torch.zeros_like(mean)
            log_evidence = module.log_weight(x, condition, mean, log_std, at_mean, parts)
            # The variables of conditions that move them have densities of their own; what all
            # conditions have in common, though infinite, compares none of them.
            slope = self._columns.log_slope(X.astype(np.float64), given)
            return torch.cat([(log_evidence + self._tensor(slope))[:, None], mean], 1)

        return self._each_block(encode, X, conditions, 1 + self._n_latent)

    def inverse_transform(self, Z, y=None):
        """Decode latent variables.

        Parameters
        ----------
        Z : array-like of shape (n_events, n_latent)
            Latent variables.
        y : scalar or array-like of shape (n_events,) or (n_events, n_conditions), default=None
            The condition of all events, or of each. None, after a fit with y, is one condition for
            all, as a mean of events over conditions is no event: the class that weighs most in the
            fit, or of other conditions those closest to their mean.

        Returns
        -------
        X : ndarray of shape (n_events, n_features) or (n_events, *event_shape)
            What the decoder says, without noise, as events were given to ``fit``: means of the
            standardised variables, probabilities of hits, or rates of counts.

        Raises
        ------
        ValueError
            If `Z` has another number of variables, or `y` an unknown class.
        """
        check_is_fitted(self)
        Z = check_array(Z, dtype=(np.float64, np.float32), input_name="Z")
        if Z.shape[1] != self._n_latent:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but this {type(self).__name__} has n_latent="
                f"{self._n_latent} latent variables."
            )
        if self._conditions is not None and y is None:
            typical = self._conditions.typical()
            conditions = np.broadcast_to(typical, (len(Z), len(typical)))
        else:
            conditions = self._encode_conditions(y, len(Z), "inverse_transform")

        def decode(Z, condition):
            module = self.module_[1]
            return module.likelihood.mean(module.decode(self._tensor(Z), condition)).flatten(1)

        X = self._each_block(
            decode, Z, conditions, self.n_features_in_, finish=self._columns.decode
        )
        return X.reshape(len(Z), *self.input_shape_) if self._event_ndim > 1 else X

    def _each_block(self, function, rows, conditions, width, finish=None):
        """Apply a function of arrays and conditions to blocks of rows."""
        result = np.empty((len(rows), width), self._output_dtype)
        step = self._block_length()
        for start in range(0, len(rows), step):
            block = slice(start, min(start + step, len(rows)))
            given = None if conditions is None else self._tensor(conditions[block])
            with torch.inference_mode(), self._threads(block.stop - block.start):
                part = function(rows[block], given)
            part = part.double().cpu().numpy()
            if finish is not None:
                part = finish(part, None if conditions is None else conditions[block])
            result[block] = part
        return result

    @property
    def _n_features_out(self):
        return self._n_latent


def _mean_of_rows(z, weight, function):
    """Weighted mean, in 64 bits, of a function of the rows of an array (n, n_variables)."""
    step = max(1, _BLOCK_NUMBERS // z.shape[1])
    blocks = (slice(start, start + step) for start in range(0, len(z), step))
    return sum(weight[b] @ function(z[b].astype(np.float64)) for b in blocks) / weight.sum()


def _even_noise(n, n_latent):
    """Normal numbers (n, n_latent), evenly spread and always the same."""
    engine = torch.quasirandom.SobolEngine(n_latent, scramble=True, seed=0)
    return torch.special.ndtri(engine.draw(n, dtype=torch.float64).clamp(1e-10, 1 - 1e-10))
