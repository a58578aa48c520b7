r"""Adaptation by distances of features that need no critic: moments and kernels.

Correlation alignment compares means and covariance matrices of the features of both domains. The
maximum mean discrepancy compares all moments at once, as a kernel weighs them: it is the distance
of the means of the two samples in the space of functions that the kernel spans, and zero only for
the same distribution.
"""

from numbers import Integral

from sklearn.utils._param_validation import Interval

from sknuc.adaptation._aligned import AlignedClassifier, AlignedRegressor
from sknuc.losses import coral, maximum_mean_discrepancy

__all__ = ["DeepCORALClassifier", "DeepCORALRegressor", "MMDClassifier"]


class _Correlation:
    """Distance of means and covariance matrices."""

    def _align(self, module, source, target, strength):
        return strength * coral(source.features, target.features, source.share, target.share)


class DeepCORALClassifier(_Correlation, AlignedClassifier):
    r"""Classifier for simulation and data by correlation alignment of its features.

    .. math:: \mathrm{E}_S[\ell(f(\phi(x)), y)] + \lambda
              \left(\frac{\|C_S - C_T\|_F^2}{4 d^2} + \frac{|\mu_S - \mu_T|^2}{d}\right)

    with mean μ and covariance matrix C of the d features φ of either domain.

    Parameters
    ----------
    {adapter_parameters}
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
    MMDClassifier : All moments, at a higher price.
    DANNClassifier : A critic instead of moments.

    Notes
    -----
    What chance adds to the distance of two batches is subtracted, as of Kish's number of events: an
    event of weight 2 scatters as one event, so that it is the event twice up to that term only.
    The unit of weights has no meaning, and an event of weight 0 is absent.

    The published distance has no means, and so does not see a shift of features.

    References
    ----------
    B. Sun, K. Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
    Workshops (arXiv:1607.01719).

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import DeepCORALClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=1000)
    >>> X = rng.normal(size=(1000, 2)) + np.outer(3 * y - 1.5, [1, 0])
    >>> domain = np.repeat([1, -1], 500)
    >>> X[domain < 0, 0] += 1.5
    >>> labels = np.where(domain > 0, y, -1)
    >>> model = DeepCORALClassifier(random_state=0).fit(X, labels, sample_domain=domain)
    >>> bool(model.score(X[domain < 0], y[domain < 0]) > 0.9)
    True
    """


class DeepCORALRegressor(_Correlation, AlignedRegressor):
    r"""Regressor for simulation and data by correlation alignment of its features.

    The loss of :class:`DeepCORALClassifier` with that of a regression in the place of the cross
    entropy.

    Parameters
    ----------
    {adapter_parameters}
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
    DeepCORALClassifier : The same for labels.
    DANNRegressor : A critic instead of moments.

    Notes
    -----
    What chance adds to the distance of two batches is subtracted, as of Kish's number of events: an
    event of weight 2 scatters as one event, so that it is the event twice up to that term only.
    The unit of weights has no meaning, and an event of weight 0 is absent.

    If y is distributed otherwise in the data than in the simulation, features that are alike tell
    another y: give the simulation the weights that make y agree.

    References
    ----------
    B. Sun, K. Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", ECCV 2016
    Workshops (arXiv:1607.01719).

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import DeepCORALRegressor
    >>> rng = np.random.default_rng(0)
    >>> y = rng.uniform(size=1000)
    >>> domain = np.repeat([1, -1], 500)
    >>> X = np.column_stack([y + np.where(domain < 0, 0.5, 0.0), rng.normal(size=1000)])
    >>> known = np.where(domain > 0, y, np.nan)
    >>> model = DeepCORALRegressor(random_state=0).fit(X, known, sample_domain=domain)
    >>> bool(model.score(X[domain < 0], y[domain < 0]) > 0.9)
    True
    """


class MMDClassifier(AlignedClassifier):
    r"""Classifier for simulation and data by the maximum mean discrepancy of its features.

    .. math:: \mathrm{E}_S[\ell(f(\phi(x)), y)]
              + \lambda \left|\mathrm{E}_S[k(\phi, \cdot)] - \mathrm{E}_T[k(\phi, \cdot)]\right|^2

    with a mean k of Gaussian kernels of several widths
    (:func:`sknuc.losses.maximum_mean_discrepancy`).

    Parameters
    ----------
    n_kernels : int, default=7
        Kernels, whose squared widths are the mean squared distance of features times powers of 2.
    {adapter_parameters}
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
    DeepCORALClassifier : The first two moments only, and faster.
    DANNClassifier : A critic instead of kernels.

    Notes
    -----
    What chance adds to the distance of two batches is subtracted, as of Kish's number of events: an
    event of weight 2 scatters as one event, so that it is the event twice up to that term only.
    The unit of weights has no meaning, and an event of weight 0 is absent.

    A step takes as many kernels as there are pairs of events in a batch of both domains.

    References
    ----------
    M. Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015
    (arXiv:1502.02791).

    A. Gretton et al., "A Kernel Two-Sample Test", JMLR 13 (2012) 723.

    Examples
    --------
    >>> import numpy as np
    >>> from sknuc.adaptation import MMDClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(2, size=1000)
    >>> X = rng.normal(size=(1000, 2)) + np.outer(3 * y - 1.5, [1, 0])
    >>> domain = np.repeat([1, -1], 500)
    >>> X[domain < 0, 0] += 1.5
    >>> labels = np.where(domain > 0, y, -1)
    >>> model = MMDClassifier(random_state=0).fit(X, labels, sample_domain=domain)
    >>> bool(model.score(X[domain < 0], y[domain < 0]) > 0.9)
    True
    """

    _parameter_constraints = {
        **AlignedClassifier._parameter_constraints,
        "n_kernels": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, *, n_kernels=7, **shared):
        super().__init__(**shared)
        self.n_kernels = n_kernels

    def _align(self, module, source, target, strength):
        sides = source.features, target.features, source.share, target.share
        return strength * maximum_mean_discrepancy(*sides, n_kernels=self.n_kernels)
