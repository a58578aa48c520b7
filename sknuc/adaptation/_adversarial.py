r"""Adversarial adaptation: features in which a critic cannot tell the domains apart.

A critic D reads features and learns which domain an event is of; the encoder learns to mislead it,

.. math:: \min_D\; L_D = \tfrac12 \mathrm{E}_S[\ln(1+e^{-D})] + \tfrac12 \mathrm{E}_T[\ln(1+e^{D})],
          \qquad
          \min_{\phi, f}\; \mathrm{E}_S[\ell(f(\phi(x)), y)] + \lambda\, L_\phi .

As published, a layer turns the gradient of the critic around: :math:`L_\phi = -L_D`. At its best
the critic loses :math:`L_D = \ln 2 - \mathrm{JS}(S, T)`, so that the encoder lowers the divergence
of Jensen and Shannon of the features of the two domains. But the gradient of :math:`-L_D` vanishes
where the critic is sure, and that is where adaptation is needed: domains that lie far apart stay
there. With the labels exchanged, :math:`L_\phi = \tfrac12 \mathrm{E}_S[\ln(1+e^D)] + \tfrac12
\mathrm{E}_T[\ln(1+e^{-D})]`, the gradient is the same where the domains agree, and largest where
they do not.

It is a game, and it turns in circles, on which classes get lost, unless it is damped: the critic
pays for its slope, :math:`\frac\gamma2|\nabla D|^2`, at the features of both (Mescheder et al.),
and the optimizer has little momentum.
"""

import math
from numbers import Real

import torch
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from torch.func import functional_call
from torch.nn import functional as F

from sknuc.adaptation._aligned import AlignedClassifier, AlignedRegressor
from sknuc.encoders import MLP
from sknuc.losses import generator_loss, gradient_penalty
from sknuc.nn import Critic, MultilinearMap, class_probabilities
from sknuc.torch_estimator import GameMixin

__all__ = ["CDANClassifier", "DANNClassifier", "DANNRegressor"]

_CRITIC = {
    "critic": [HasMethods("build"), None],
    "game": [StrOptions({"non_saturating", "minimax"})],
    "gradient_penalty": [Interval(Real, 0, None, closed="left")],
    "betas": ["array-like"],
}


class _Adversarial(GameMixin):
    """What the encoder plays against."""

    def _make_critic(self, n_features):
        encoder = MLP(hidden_layer_sizes=(64,)) if self.critic is None else self.critic
        return Critic(*self._build_encoder("critic", encoder, (n_features,)), 0)

    def _critic_inputs(self, module, source, target):
        """What the critic reads (n + m, k), and shares of all events, each domain's half."""
        features = torch.cat([source.features, target.features])
        return features, torch.cat([source.share, target.share]) / 2

    def _align(self, module, source, target, strength):
        inputs, share = self._critic_inputs(module, source, target)
        critic = module.critic
        seen = inputs.detach().requires_grad_(module.training and self.gradient_penalty > 0)
        told = critic(seen, None)
        is_source = torch.ones_like(told)
        is_source[len(source.share) :] = -1
        lost = share @ F.softplus(-is_source * told)
        if not module.training:
            return strength * (math.log(2) - lost)
        if self.gradient_penalty:
            lost = lost + self.gradient_penalty / 2 * (share @ gradient_penalty(told, seen))
        # What misleads the critic changes the encoder, and not the critic.
        held = {name: weight.detach() for name, weight in critic.named_parameters()}
        misled = functional_call(critic, held, (inputs, None))
        return lost + strength * (share @ generator_loss(-is_source * misled, kind=self.game))

    def _domain_optimizer(self):
        return self._optimizer_at(self.learning_rate)


class DANNClassifier(_Adversarial, AlignedClassifier):
    r"""Domain-adversarial network: a classifier for simulation and data.

    .. math:: \min_{\phi, f} \max_D\; \mathrm{E}_S[\ell(f(\phi(x)), y)]
              - \tfrac\lambda2 \left(\mathrm{E}_S[\ln(1+e^{-D})] + \mathrm{E}_T[\ln(1+e^{D})]\right)

    with a critic D of the features φ. That is the game as published, ``game="minimax"``; by default
    the encoder lowers the critic's loss of exchanged domains, :math:`\frac\lambda2
    \left(\mathrm{E}_S[\ln(1+e^D)] + \mathrm{E}_T[\ln(1+e^{-D})]\right)`, instead of raising that of
    the true ones: it does not stop where the critic is sure.

    Parameters
    ----------
    critic : encoder or None, default=None
        The network that tells the domains apart, from features: an object of :mod:`sknuc.encoders`
        or your own with a method ``build(input_shape)``. None is ``MLP(hidden_layer_sizes=(64,))``.
    game : {"non_saturating", "minimax"}, default="non_saturating"
        What the encoder does to the critic's loss: lowers that of exchanged domains, or raises it,
        as published, by a gradient that is turned around and vanishes where the critic is sure.
    gradient_penalty : float, default=1.0
        γ of :math:`\frac\gamma2|\nabla D|^2`, which damps the game; 0 is as published.
    betas : tuple of float, default=(0.5, 0.99)
        Memory of the means of gradients and of their squares, for "adam" and "adamw".
    {adapter_parameters}
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, falling to zero within the fit, or as
        :math:`(1+10p)^{-3/4}` of the share p of its steps, as published.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    target_priors_, of fits with two domains : ndarray of shape (n_classes,)
        Shares of the classes in the target, as estimated, given, or those of the source.
    module_ : torch.nn.Module
        The trained network, from events of the target to log odds (n, 1) or logits (n, n_classes).
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

    See Also
    --------
    CDANClassifier : Features are made alike class by class, as the classifier sees them.
    DeepCORALClassifier, MMDClassifier : Distances without a critic.

    References
    ----------
    Y. Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016) 59
    (arXiv:1505.07818).

    L. Mescheder, A. Geiger, S. Nowozin, "Which Training Methods for GANs do actually Converge?",
    ICML 2018 (arXiv:1801.04406), for the penalty.

    R. Tachet des Combes et al., "Domain Adaptation with Conditional Distribution Matching and
    Generalized Label Shift", NeurIPS 2020 (arXiv:2003.04475), for the weights of classes.

    Examples
    --------
    Two classes in a simulation; in the data all is shifted, and there are no labels:

    >>> import numpy as np
    >>> from sknuc.adaptation import DANNClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=1000)
    >>> X = rng.normal(size=(1000, 2)) + np.outer(3 * y - 1.5, [1, 0])
    >>> domain = np.repeat([1, -1], 500)
    >>> X[domain < 0, 0] += 1.5
    >>> labels = np.where(domain > 0, y, -1)
    >>> model = DANNClassifier(random_state=0).fit(X, labels, sample_domain=domain)
    >>> bool(model.score(X[domain < 0], y[domain < 0]) > 0.9)
    True
    """

    _parameter_constraints = {**AlignedClassifier._parameter_constraints, **_CRITIC}

    def __init__(
        self,
        *,
        critic=None,
        game="non_saturating",
        gradient_penalty=1.0,
        betas=(0.5, 0.99),
        schedule="cosine",
        **shared,
    ):
        super().__init__(schedule=schedule, **shared)
        self.critic = critic
        self.game = game
        self.gradient_penalty = gradient_penalty
        self.betas = betas


class CDANClassifier(_Adversarial, AlignedClassifier):
    r"""Conditional domain-adversarial network: the critic sees features with class probabilities.

    As :class:`DANNClassifier`, but the critic reads the products :math:`z \otimes p(z)` of features
    and class probabilities: each class of one domain is compared with that of the other, as far as
    the classifier knows it. Events count by :math:`1 + e^{-H(p)}`, more where it is sure.

    Parameters
    ----------
    critic : encoder or None, default=None
        The network that tells the domains apart, from products: an object of :mod:`sknuc.encoders`
        or your own with a method ``build(input_shape)``. None is ``MLP(hidden_layer_sizes=(64,))``.
    game : {"non_saturating", "minimax"}, default="non_saturating"
        What the encoder does to the critic's loss: lowers that of exchanged domains, or raises it,
        as published, by a gradient that is turned around and vanishes where the critic is sure.
    gradient_penalty : float, default=1.0
        γ of :math:`\frac\gamma2|\nabla D|^2`, which damps the game; 0 is as published.
    betas : tuple of float, default=(0.5, 0.99)
        Memory of the means of gradients and of their squares, for "adam" and "adamw".
    entropy_weights : bool, default=True
        Whether events count by :math:`1 + e^{-H}` of the entropy H of their probabilities.
    {adapter_parameters}
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, falling to zero within the fit, or as
        :math:`(1+10p)^{-3/4}` of the share p of its steps, as published.
    {shared_parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    target_priors_, of fits with two domains : ndarray of shape (n_classes,)
        Shares of the classes in the target, as estimated, given, or those of the source.
    module_ : torch.nn.Module
        The trained network, from events of the target to log odds (n, 1) or logits (n, n_classes).
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

    See Also
    --------
    DANNClassifier : The critic sees features alone.

    Notes
    -----
    Where there are more than 4096 products, the critic reads as many random sums of them.

    References
    ----------
    M. Long et al., "Conditional Adversarial Domain Adaptation", NeurIPS 2018 (arXiv:1705.10667).

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import CDANClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=1000)
    >>> X = rng.normal(size=(1000, 2)) + np.outer(3 * y - 1.5, [1, 0])
    >>> domain = np.repeat([1, -1], 500)
    >>> X[domain < 0, 0] += 1.5
    >>> labels = np.where(domain > 0, y, -1)
    >>> model = CDANClassifier(random_state=0).fit(X, labels, sample_domain=domain)
    >>> bool(model.score(X[domain < 0], y[domain < 0]) > 0.9)
    True
    """

    _parameter_constraints = {
        **AlignedClassifier._parameter_constraints,
        **_CRITIC,
        "entropy_weights": ["boolean"],
    }

    def __init__(
        self,
        *,
        critic=None,
        game="non_saturating",
        gradient_penalty=1.0,
        betas=(0.5, 0.99),
        entropy_weights=True,
        schedule="cosine",
        **shared,
    ):
        super().__init__(schedule=schedule, **shared)
        self.critic = critic
        self.game = game
        self.gradient_penalty = gradient_penalty
        self.betas = betas
        self.entropy_weights = entropy_weights

    def _make_critic(self, n_features):
        products = MultilinearMap(n_features, len(self.classes_))
        critic = super()._make_critic(products.n_outputs)
        critic.products = products
        return critic

    def _critic_inputs(self, module, source, target):
        features, share = super()._critic_inputs(module, source, target)
        output = torch.cat([source.output, target.output])
        # The classifier does not learn from the game what to say.
        probability = class_probabilities(output).detach().to(features.dtype)
        if self.entropy_weights:
            entropy = torch.special.entr(probability).sum(1)
            share = share * (1 + torch.exp(-entropy))
            n = len(source.share)
            share = torch.cat([part / (2 * part.sum()) for part in share.tensor_split([n])])
        return module.critic.products(features, probability), share


class DANNRegressor(_Adversarial, AlignedRegressor):
    r"""Domain-adversarial network: a regressor for simulation and data.

    The loss of :class:`DANNClassifier` with that of a regression in the place of the cross entropy.

    Parameters
    ----------
    critic : encoder or None, default=None
        The network that tells the domains apart, from features: an object of :mod:`sknuc.encoders`
        or your own with a method ``build(input_shape)``. None is ``MLP(hidden_layer_sizes=(64,))``.
    game : {"non_saturating", "minimax"}, default="non_saturating"
        What the encoder does to the critic's loss: lowers that of exchanged domains, or raises it,
        as published, by a gradient that is turned around and vanishes where the critic is sure.
    gradient_penalty : float, default=1.0
        γ of :math:`\frac\gamma2|\nabla D|^2`, which damps the game; 0 is as published.
    betas : tuple of float, default=(0.5, 0.99)
        Memory of the means of gradients and of their squares, for "adam" and "adamw".
    {adapter_parameters}
    schedule : {"constant", "cosine", "power"}, default="cosine"
        How the learning rate goes on: as it is, falling to zero within the fit, or as
        :math:`(1+10p)^{-3/4}` of the share p of its steps, as published.
    {shared_parameters}

    Attributes
    ----------
    module_ : torch.nn.Module
        The trained network, from events of the target to scaled targets (n, n_targets).
    target_mean_, target_scale_ : ndarray of shape (n_targets,)
        The scaling of the targets.
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

    See Also
    --------
    DANNClassifier : The same for labels.
    DeepCORALRegressor : A distance without a critic.

    Notes
    -----
    If y is distributed otherwise in the data than in the simulation, features that are alike tell
    another y. Classifiers weigh for that; a regressor cannot, and the simulation should be given
    the weights that make y agree.

    References
    ----------
    Y. Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17 (2016) 59
    (arXiv:1505.07818).

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import DANNRegressor
    >>> rng = np.random.default_rng(0)
    >>> y = rng.uniform(size=1000)
    >>> domain = np.repeat([1, -1], 500)
    >>> X = np.column_stack([y + np.where(domain < 0, 0.5, 0.0), rng.normal(size=1000)])
    >>> known = np.where(domain > 0, y, np.nan)
    >>> model = DANNRegressor(random_state=0).fit(X, known, sample_domain=domain)
    >>> bool(model.score(X[domain < 0], y[domain < 0]) > 0.9)
    True
    """

    _parameter_constraints = {**AlignedRegressor._parameter_constraints, **_CRITIC}

    def __init__(
        self,
        *,
        critic=None,
        game="non_saturating",
        gradient_penalty=1.0,
        betas=(0.5, 0.99),
        schedule="cosine",
        **shared,
    ):
        super().__init__(schedule=schedule, **shared)
        self.critic = critic
        self.game = game
        self.gradient_penalty = gradient_penalty
        self.betas = betas
