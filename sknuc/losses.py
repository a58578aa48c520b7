"""Losses as pure functions on tensors: one value per event, so that weights stay exact.

Each takes the network's output and the target of a batch, and returns a tensor of shape (n,) (or
(n_members, n) for stacked networks). Several targets are averaged within the event.
"""

import math

import torch
from torch.nn import functional as F

__all__ = [
    "absolute_error",
    "binary_cross_entropy",
    "coral",
    "critic_loss",
    "critic_terms",
    "cross_entropy",
    "donsker_varadhan",
    "energy_distance",
    "gaussian_nll",
    "generator_loss",
    "gradient_penalty",
    "huber",
    "info_nce",
    "jensen_shannon",
    "maximum_mean_discrepancy",
    "mixture_nll",
    "nt_xent",
    "nwj",
    "pinball",
    "poisson",
    "squared_error",
]


def binary_cross_entropy(logit, y, *, label_smoothing=0.0):
    r"""Cross entropy of two classes, :math:`\log(1+e^z) - y' z`.

    Parameters
    ----------
    logit : Tensor of shape (..., n, 1)
        z, the log odds of class 1.
    y : Tensor of shape (..., n)
        0 or 1.
    label_smoothing : float
        ε; the target becomes y' = (1-ε) y + ε/2.
    """
    z = logit.squeeze(-1)
    target = y.to(z.dtype)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(z, target, reduction="none")


def cross_entropy(logits, y, *, label_smoothing=0.0):
    r"""Cross entropy of K classes, :math:`-\sum_k y'_k \log\mathrm{softmax}(z)_k`.

    Parameters
    ----------
    logits : Tensor of shape (..., n, n_classes)
    y : Tensor of int, of shape (..., n)
    label_smoothing : float
        ε; the target becomes y' = (1-ε) onehot(y) + ε/K.
    """
    losses = F.cross_entropy(
        logits.flatten(0, -2), y.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return losses.reshape(y.shape)


def squared_error(output, y):
    r"""Half the squared error, :math:`(\hat y - y)^2/2`, of outputs (..., n, n_targets)."""
    return (output - y).square().mean(-1) / 2


def absolute_error(output, y):
    r"""Absolute error, :math:`|\hat y - y|`, of outputs of shape (..., n, n_targets)."""
    return (output - y).abs().mean(-1)


def huber(output, y, *, delta=1.0):
    r"""Huber's loss (smooth L1): quadratic below `delta`, linear above.

    .. math:: \tfrac12 r^2 \;\text{for}\; |r| \le \delta,\quad \delta(|r| - \tfrac12\delta)
       \;\text{otherwise}, \quad r = \hat y - y
    """
    return F.huber_loss(output, y, reduction="none", delta=delta).mean(-1)


def gaussian_nll(mean, std, y, *, beta=0.0):
    r"""Negative log density of Gaussians, :math:`\sigma^{2\beta}[\ln\sigma+(y-\mu)^2/2\sigma^2]`.

    The factor :math:`\sigma^{2\beta}`, through which no gradient flows, gives events with a large
    spread back what the likelihood takes from their share in the fit of the mean: with β = 1 they
    count as in a fit of least squares. Its gradient vanishes where that of the likelihood (β = 0)
    does, event by event, for any β. Its value is no score: a smaller spread lowers it, right or
    wrong, so that models are compared with β = 0.

    Parameters
    ----------
    mean, std, y : Tensor of shape (..., n, n_targets)
        The standard deviation is positive.
    beta : float
        In [0, 1].

    References
    ----------
    M. Seitzer et al., "On the Pitfalls of Heteroscedastic Uncertainty Estimation with Probabilistic
    Neural Networks", ICLR 2022, arXiv:2203.09168.
    """
    nll = std.log() + ((y - mean) / std).square() / 2 + math.log(2 * math.pi) / 2
    if beta:
        nll = nll * std.detach() ** (2 * beta)
    return nll.mean(-1)


def pinball(quantiles, y, levels):
    r"""Pinball loss, :math:`\max(\tau r, (\tau - 1) r)` with :math:`r = y - q_\tau`.

    Its expectation is least at the quantile of level τ. The mean over targets and levels is taken
    within the event; over all levels it is half the continuous ranked probability score.

    Parameters
    ----------
    quantiles : Tensor of shape (..., n, n_targets, q)
    y : Tensor of shape (..., n, n_targets)
    levels : Tensor of shape (q,) or (..., n, n_targets, q)
        τ, in (0, 1).

    References
    ----------
    R. Koenker, G. Bassett, "Regression Quantiles", Econometrica 46 (1978) 33.
    """
    residual = y.unsqueeze(-1) - quantiles
    return torch.maximum(levels * residual, (levels - 1) * residual).mean((-2, -1))


def poisson(output, y):
    r"""Half the Poisson deviance up to a constant, :math:`e^{z} - y z`, z the log of the rate."""
    return (torch.exp(output) - y * output).mean(-1)


def mixture_nll(logits, means, scales, y):
    r"""Negative log density of a mixture of Gaussians, :math:`-\log\sum_k w_k N(y;\mu_k,\Sigma_k)`.

    The logarithm of the sum is taken around its largest term, so that targets far from all
    components have finite gradients.

    Parameters
    ----------
    logits : Tensor of shape (..., n, k)
        w = softmax(logits).
    means : Tensor of shape (..., n, k, t)
    scales : Tensor of shape (..., n, k, t) or (..., n, k, t, t)
        Standard deviations, or lower triangular L of :math:`\Sigma = L L^T`; positive diagonals.
    y : Tensor of shape (..., n, t)
    """
    away = y.unsqueeze(-2) - means
    if scales.ndim > means.ndim:
        z = torch.linalg.solve_triangular(scales, away.unsqueeze(-1), upper=False).squeeze(-1)
        log_scales = scales.diagonal(dim1=-2, dim2=-1).log()
    else:
        z = away / scales
        log_scales = scales.log()
    log_densities = -(z.square() / 2 + log_scales + math.log(2 * math.pi) / 2).sum(-1)
    return -torch.logsumexp(torch.log_softmax(logits, -1) + log_densities, -1)


def critic_terms(true, generated, *, kind):
    r"""What a critic D loses by true events and by generated ones, as many or not.

    Their sum is :func:`critic_loss`.

    Parameters
    ----------
    true : Tensor of shape (n,)
    generated : Tensor of shape (m,)
        D of the events of either sample.
    kind : {"non_saturating", "minimax", "wasserstein", "hinge", "least_squares"}

    Returns
    -------
    of_true : Tensor of shape (n,)
    of_generated : Tensor of shape (m,)
    """
    if kind == "wasserstein":
        return -true, generated
    if kind == "hinge":
        return F.relu(1 - true), F.relu(1 + generated)
    if kind == "least_squares":
        return (true - 1).square(), generated.square()
    return F.softplus(-true), F.softplus(generated)


def critic_loss(true, generated, *, kind):
    r"""Loss of a critic D that tells true events from generated ones.

    - "non_saturating" and "minimax", the cross entropy of a classifier with the logit D,
      :math:`\ln(1+e^{-D(x)}) + \ln(1+e^{D(G)})`;
    - "wasserstein", :math:`D(G) - D(x)`;
    - "hinge", :math:`\max(0, 1-D(x)) + \max(0, 1+D(G))`;
    - "least_squares", :math:`(D(x) - 1)^2 + D(G)^2`.

    Parameters
    ----------
    true, generated : Tensor of shape (n,)
        D of the events of either sample.
    kind : {"non_saturating", "minimax", "wasserstein", "hinge", "least_squares"}

    References
    ----------
    I. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014 (arXiv:1406.2661).
    M. Arjovsky, S. Chintala, L. Bottou, "Wasserstein GAN", ICML 2017 (arXiv:1701.07875).
    J. H. Lim, J. C. Ye, "Geometric GAN", 2017 (arXiv:1705.02894), for the hinge loss.
    X. Mao et al., "Least Squares Generative Adversarial Networks", ICCV 2017 (arXiv:1611.04076).
    """
    of_true, of_generated = critic_terms(true, generated, kind=kind)
    return of_true + of_generated


def generator_loss(generated, *, kind):
    r"""Loss of a generator whose events a critic has judged.

    - "minimax", what the critic gains is lost: :math:`-\ln(1+e^{D(G)})`, of which the gradient
      vanishes where the critic is sure;
    - "non_saturating", the cross entropy with the other label: :math:`\ln(1+e^{-D(G)})`;
    - "wasserstein" and "hinge", :math:`-D(G)`;
    - "least_squares", :math:`(D(G) - 1)^2`.

    Parameters
    ----------
    generated : Tensor of shape (n,)
        D of the generated events.
    kind : {"non_saturating", "minimax", "wasserstein", "hinge", "least_squares"}
    """
    if kind == "minimax":
        return -F.softplus(generated)
    if kind == "non_saturating":
        return F.softplus(-generated)
    if kind == "least_squares":
        return (generated - 1).square()
    return -generated


def gradient_penalty(output, x, *, target=0.0):
    r"""Squared distance of the slope of a critic from a target, :math:`(|\nabla_x D| - t)^2`.

    Parameters
    ----------
    output : Tensor of shape (n,)
        D of each event, computed from `x` event by event.
    x : Tensor of shape (n, *shape)
        The events, which require gradients.
    target : float
        t: 1 for the critic of Wasserstein, whose slope is 1 almost everywhere between the samples;
        0 for a smooth one.

    References
    ----------
    I. Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017 (arXiv:1704.00028).
    L. Mescheder, A. Geiger, S. Nowozin, "Which Training Methods for GANs do actually Converge?",
    ICML 2018 (arXiv:1801.04406), for the target 0.
    """
    (slope,) = torch.autograd.grad(output.sum(), x, create_graph=True)
    squared = slope.flatten(1).square().sum(1)
    if target == 0:
        return squared
    # The norm has no derivative at zero, where a critic that knows nothing starts.
    tiny = torch.finfo(squared.dtype).tiny
    return (squared.clamp(min=tiny).sqrt() - target).square()


def coral(source, target, source_weight, target_weight):
    r"""Squared distance of the first two moments of two samples of features (CORAL).

    .. math:: \frac{\|\Sigma_s - \Sigma_t\|_F^2}{4 d^2} + \frac{|\mu_s - \mu_t|^2}{d}

    of the distributions that the samples are of, estimated without bias (up to terms of third order
    in 1/n): what chance adds to the squared distance of sample moments is subtracted. It is
    proportional to the variances, so that otherwise features would shrink to lower it.

    Parameters
    ----------
    source, target : Tensor of shape (n, d) and (m, d)
    source_weight, target_weight : Tensor of shape (n,) and (m,)
        Each event's share of its sample; they sum to 1. A sample counts as Kish's number of events.

    Returns
    -------
    distance : Tensor of shape ()
        Around 0, on either side, for samples of one distribution.

    Notes
    -----
    A share of 2/n is one event, which scatters as one, and not the event twice: what chance adds
    to the moments is that of Kish's number :math:`1/\sum w^2`. Only so the unit of weights has no
    meaning, as with those of generators, of which many are small, and weighted samples have the
    mean 0, too. The moments themselves are those of the event twice.

    The first term is the one published, whose estimate was biased; it alone does not see a shift.

    References
    ----------
    B. Sun, K. Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
    Workshops, arXiv:1607.01719.
    """
    (mean_s, cov_s, *chance_s), (mean_t, cov_t, *chance_t) = (
        _sample_moments(*side) for side in ((source, source_weight), (target, target_weight))
    )
    of_mean, of_cov = (sum(chance) for chance in zip(chance_s, chance_t, strict=True))
    d = source.shape[1]
    covariance = ((cov_s - cov_t).square().sum() - of_cov) / (4 * d**2)
    return covariance + ((mean_s - mean_t).square().sum() - of_mean) / d


def _sample_moments(z, weight):
    """Mean, covariance matrix, and the expected squared error of each."""
    kish = weight.square().sum()
    rest = _rest(weight)
    mean = weight @ z
    away = z - mean
    cov = away.T @ (weight[:, None] * away) / rest
    # Of the matrices that are averaged, those of single events.
    squared = away.square().sum(1).square() - 2 * ((away @ cov) * away).sum(1)
    of_cov = weight.square() @ (squared + cov.square().sum()) / rest**2
    # The matrix that is subtracted has errors of its own: of normal samples they make this a
    # factor 1 - 2/n too small. Of two or three events nothing better is known.
    return mean, cov, kish * cov.trace(), of_cov / (1 - 2 * kish).clamp(min=1 / 3)


def _rest(weight):
    """1 - Σw², which is 1 - 1/n, and positive even for one event."""
    return (1 - weight.square().sum()).clamp(min=torch.finfo(weight.dtype).eps)


def maximum_mean_discrepancy(source, target, source_weight, target_weight, *, n_kernels=7):
    r"""Squared distance of two distributions in the space of a mean of Gaussian kernels.

    .. math:: \mathrm{E}_{s,s'} k + \mathrm{E}_{t,t'} k - 2\,\mathrm{E}_{s,t} k, \qquad
              k(z, z') = \frac1K \sum_u \exp\!\left(-\frac{|z - z'|^2}{2^u \sigma^2}\right)

    over pairs of different events, so that the estimate has no bias. σ² is the mean squared
    distance of events, through which no gradient flows, and u are K integers around 0.

    Parameters
    ----------
    source, target : Tensor of shape (n, d) and (m, d)
    source_weight, target_weight : Tensor of shape (n,) and (m,)
        Each event's share of its sample; they sum to 1. As in :func:`coral`, one of 2/n is one
        event, which makes no pair with itself, and not the event twice.
    n_kernels : int, default=7
        K; even numbers have one more wide kernel than narrow ones.

    Returns
    -------
    distance : Tensor of shape ()
        Around 0, on either side, for samples of one distribution.

    References
    ----------
    A. Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012) 723.
    M. Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015,
    arXiv:1502.02791, for several kernels in a network.
    """
    # Of vectors from their mean: no digits are lost where they lie far from zero.
    z = torch.cat([source, target])
    z = z - z.detach().mean(0)
    norm = z.square().sum(1)
    squared = (norm[:, None] + norm - 2 * z @ z.T).clamp(min=0)
    share = torch.cat([source_weight, target_weight]).detach() / 2
    scale = (share @ squared.detach() @ share).clamp(min=torch.finfo(z.dtype).tiny)
    # Each kernel is the square of the next wider one: one exponential serves all.
    kernel = torch.exp(-squared / (scale * 2.0 ** (n_kernels // 2)))
    total = kernel
    for _ in range(n_kernels - 1):
        kernel = kernel.square()
        total = total + kernel
    total = total / n_kernels
    n = len(source)

    def among(block, weight):
        return (weight @ block @ weight - weight.square() @ block.diagonal()) / _rest(weight)

    between = source_weight @ total[:n, n:] @ target_weight
    within = among(total[:n, :n], source_weight) + among(total[n:, n:], target_weight)
    return within - 2 * between


def info_nce(scores, *, within=None, weight=None):
    r"""Contrastive loss: the cross entropy of finding the right partner among all.

    .. math:: -\ln\frac{e^{s_{ii}}}{e^{s_{ii}} + \sum_{j\ne i} w_j e^{s_{ij}}}

    There are n partners, of which i is the right one. With scores that know nothing it is
    ln n, with such that know all it is zero; so ln n less its mean, which is a lower bound of the
    mutual information of the two sides, is at most ln n. With weights it is the mean of
    :math:`\ln W_i` less the loss, of the number :math:`W_i = 1 + \sum_{j\ne i} w_j` of partners.

    Parameters
    ----------
    scores : Tensor of shape (..., n, n)
        s: of every event (row) with every partner (column); those of the event are on the diagonal.
    within : Tensor of shape (..., n, n) or None
        Scores of every event with the others of its own side, which are further negatives; the
        diagonal is not read.
    weight : Tensor of shape (n,) or None
        w, relative to a mean weight of 1. A weight of 2 is the event twice among the negatives of
        all others, and never one of its own.

    Returns
    -------
    loss : Tensor of shape (..., n)

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation Learning with Contrastive Predictive
    Coding", 2018, arXiv:1807.03748.
    """
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    logits = scores
    if weight is not None:
        logits = logits + weight.log().masked_fill(own, 0.0)
    if within is not None:
        others = within if weight is None else within + weight.log()
        logits = torch.cat([logits, others.masked_fill(own, -math.inf)], -1)
    return torch.logsumexp(logits, -1) - scores.diagonal(dim1=-2, dim2=-1)


def nt_xent(a, b, *, temperature=0.1, weight=None):
    r"""Contrastive loss of two views of each event (SimCLR), by the cosine of their features.

    The mean over both views of :func:`info_nce` with scores :math:`a_i \cdot b_j / (|a_i| |b_j| T)`
    and all views of the other events, on either side, as negatives.

    Parameters
    ----------
    a, b : Tensor of shape (n, d)
        Features of the two views.
    temperature : float
        T.
    weight : Tensor of shape (n,) or None
        As in :func:`info_nce`.

    Returns
    -------
    loss : Tensor of shape (n,)

    References
    ----------
    T. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    ICML 2020, arXiv:2002.05709.
    """
    a, b = F.normalize(a, dim=1) / temperature**0.5, F.normalize(b, dim=1) / temperature**0.5
    scores = a @ b.T
    first = info_nce(scores, within=a @ a.T, weight=weight)
    return (first + info_nce(scores.T, within=b @ b.T, weight=weight)) / 2


def jensen_shannon(scores, *, weight=None):
    r"""Loss of a critic T that tells pairs that belong together from others.

    .. math:: \ln(1+e^{-T_{ii}}) + \frac{\sum_{j\ne i} w_j \ln(1+e^{T_{ij}})}{\sum_{j\ne i} w_j}

    Its least expectation, at :math:`T = \ln p(x, y)/p(x)p(y)`, is
    :math:`2\ln 2 - 2\,\mathrm{JS}` of the divergence of Jensen and Shannon between pairs that
    belong together and those that do not. It grows with their mutual information, but is
    none: in nats it says nothing of it. An event without others has the first term alone.

    Parameters
    ----------
    scores : Tensor of shape (..., n, n)
        T, with the pairs that belong together on the diagonal.
    weight : Tensor of shape (n,) or None
        w of each column.

    Returns
    -------
    loss : Tensor of shape (..., n)

    References
    ----------
    R. D. Hjelm et al., "Learning Deep Representations by Mutual Information Estimation and
    Maximization", ICLR 2019, arXiv:1808.06670.
    """
    own = scores.diagonal(dim1=-2, dim2=-1)
    return F.softplus(-own) + (_others(scores, weight) * F.softplus(scores)).sum(-1)


def _others(scores, weight):
    """Shares (n, n) of the partners of every event in the mean over all but its own one."""
    n = scores.shape[-1]
    shares = scores.new_ones(n, n) if weight is None else weight.to(scores).expand(n, n)
    shares = shares * (1 - torch.eye(n, dtype=scores.dtype, device=scores.device))
    # An event without others has none.
    return shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def energy_distance(x, z, *, weight=None):
    r"""How far a sample is from another one, by the distances of their events.

    .. math:: 2\,\overline{|x_i - z_j|} - \frac{\sum_{j\ne i} w_j |x_i - x_j|}{\sum_{j\ne i} w_j}

    Its expectation, less that of :math:`|z - z'|`, is the energy distance: positive, and zero only
    for samples of one distribution. Nothing has to be learnt for it.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        The sample that is moved.
    z : Tensor of shape (m, d)
        The other one.
    weight : Tensor of shape (n,) or None
        w of x.

    Returns
    -------
    loss : Tensor of shape (n,)

    References
    ----------
    G. J. Székely, M. L. Rizzo, "Energy statistics: A class of statistics based on distances",
    J. Stat. Plan. Inference 143 (2013) 1249.
    """

    def distances(a, b):
        # Without the root at zero, where it has no derivative.
        squares = (a.unsqueeze(1) - b).square().sum(2)
        return (squares + torch.finfo(x.dtype).eps).sqrt()

    own = (_others(x @ x.T, weight) * distances(x, x)).sum(1)
    return 2 * distances(x, z).mean(1) - own


def nwj(scores, *, weight=None):
    r"""Loss of a critic of pairs whose negative is a bound of the mutual information.

    .. math:: -T_{ii} + \frac{\sum_{j\ne i} w_j e^{T_{ij} - 1}}{\sum_{j\ne i} w_j}

    Less its expectation is at most the mutual information, in nats, and equal to it for
    :math:`T = 1 + \ln p(x, y)/p(x)p(y)`. It is not limited by the number of events, but scatters
    the more the larger the information is.

    Parameters
    ----------
    scores : Tensor of shape (..., n, n)
        T, with the pairs that belong together on the diagonal.
    weight : Tensor of shape (n,) or None
        w of each column.

    Returns
    -------
    loss : Tensor of shape (..., n)

    References
    ----------
    X. Nguyen, M. J. Wainwright, M. I. Jordan, "Estimating Divergence Functionals and the Likelihood
    Ratio by Convex Risk Minimization", IEEE Trans. Inf. Theory 56 (2010) 5847, arXiv:0809.0853.
    B. Poole et al., "On Variational Bounds of Mutual Information", ICML 2019, arXiv:1905.06922.
    """
    own = scores.diagonal(dim1=-2, dim2=-1)
    return (_others(scores, weight) * (scores - 1).exp()).sum(-1) - own


def donsker_varadhan(scores, *, weight=None):
    r"""Loss of a critic of pairs whose negative is the bound of Donsker and Varadhan.

    .. math:: -T_{ii} + \ln\frac{\sum_i w_i \sum_{j\ne i} w_j e^{T_{ij}}}
              {\sum_i w_i \sum_{j\ne i} w_j}

    For all pairs there are, less its expectation is at most the mutual information, in nats, and
    equal to it for :math:`T = \ln p(x, y)/p(x)p(y)` plus any constant. The logarithm of a mean over
    a batch is too small on average, and so is the loss. An event without others has the first term
    alone.

    Parameters
    ----------
    scores : Tensor of shape (n, n)
        T, with the pairs that belong together on the diagonal.
    weight : Tensor of shape (n,) or None
        w of each event.

    Returns
    -------
    loss : Tensor of shape (n,)

    References
    ----------
    M. D. Donsker, S. R. S. Varadhan, "Asymptotic evaluation of certain Markov process expectations
    for large time, IV", Commun. Pure Appl. Math. 36 (1983) 183. M. I. Belghazi et al., "MINE:
    Mutual Information Neural Estimation", ICML 2018, arXiv:1801.04062.
    """
    if len(scores) == 1:
        return -scores.diagonal()
    shares = _others(scores, weight)
    if weight is not None:
        shares = shares * weight.to(scores)[:, None]
    log_mean = torch.logsumexp((scores + shares.log()).flatten(), 0) - shares.sum().log()
    return log_mean - scores.diagonal()
