r"""A rare class filled up with generated events.

A classifier that sees one signal event for a thousand of background learns little of the signal.
Copies of the few add nothing but weight; generated events are new ones, from the distribution that
a sampler learned from the few. What the few do not show, no sampler knows: the information on the
rare class is that of its real events, and only tests on real events tell whether it helped.
"""

from inspect import signature

import numpy as np
from imblearn.over_sampling.base import BaseOverSampler
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods

from sknuc.exceptions import TrainingDivergedError
from sknuc.samplers._base import _integer_columns
from sknuc.samplers._flow import FlowSampler

__all__ = ["GenerativeOverSampler"]


class GenerativeOverSampler(BaseOverSampler):
    """Over-sample rare classes with events of a generative model.

    A sampler of imbalanced-learn: a step of ``imblearn.pipeline.Pipeline``, which resamples in
    ``fit`` and leaves new events alone. Real events come first and stay as they are.

    Parameters
    ----------
    sampler : sampler or None, default=None
        What learns the distribution: an object of :mod:`sknuc.samplers`, or any with ``fit(X)`` and
        ``sample(n_samples, random_state=...)``. None is ``FlowSampler()``.
    conditional : bool, default=False
        Train one sampler on the events of all classes, with the class as its condition, instead of
        one for each rare class. What classes have in common is then learned from all of them. The
        sampler must have ``fit(X, y)`` and ``sample(n_samples, y=...)``, as those of this package.
    sampling_strategy : float, str, dict or callable, default="auto"
        How many events of which classes there shall be, as imbalanced-learn knows it: "auto" makes
        all classes as large as the largest; a number is the ratio of the two classes' sizes;
        ``{class: number}``.
    random_state : int, RandomState instance or None, default=None
        Seed of the training and of the events.

    Attributes
    ----------
    sampling_strategy_ : dict
        How many events are generated, by class.
    samplers_ : dict
        The trained sampler of each class that was over-sampled; the same one if `conditional`.
    n_features_in_ : int
        Numbers per event.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, if `X` was a data frame.

    Notes
    -----
    Split into training and test before over-sampling: a generated event resembles the events that
    its sampler has seen, and in a test it would be half known. ``imblearn.pipeline.Pipeline`` in a
    cross-validation does that by itself.

    References
    ----------
    N. Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16 (2002) 321.

    L. Xu et al., "Modeling Tabular Data using Conditional GAN", NeurIPS 2019 (arXiv:1907.00503).

    Examples
    --------
    >>> import numpy as np
    >>> from imblearn.pipeline import make_pipeline
    >>> from sknuc.baselines import BDTClassifier
    >>> from sknuc.samplers import FlowSampler, GenerativeOverSampler
    >>> rng = np.random.default_rng(0)
    >>> y = np.repeat([0, 1], [500, 50])
    >>> X = rng.normal(size=(550, 2)) + 2 * y[:, None]
    >>> over = GenerativeOverSampler(FlowSampler(max_epochs=10), random_state=0)
    >>> X_more, y_more = over.fit_resample(X, y)
    >>> np.bincount(y_more)
    array([500, 500])
    >>> model = make_pipeline(over, BDTClassifier(max_iter=10)).fit(X, y)
    """

    _parameter_constraints = {
        **BaseOverSampler._parameter_constraints,
        "sampler": [HasMethods(["fit", "sample"]), None],
        "conditional": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self, sampler=None, *, conditional=False, sampling_strategy="auto", random_state=None
    ):
        super().__init__(sampling_strategy=sampling_strategy)
        self.sampler = sampler
        self.conditional = conditional
        self.random_state = random_state

    def _check_X_y(self, X, y, accept_sparse=None):
        # Types of columns tell the sampler which of them are counts.
        self._types = dict(X.dtypes) if hasattr(X, "dtypes") and hasattr(X, "columns") else None
        self._frame = type(X)
        self._integer = _integer_columns(X)
        self._event_shape = np.shape(X)[1:]
        if len(self._event_shape) > 1:
            X = np.reshape(X, (len(X), -1))
        return super()._check_X_y(X, y, accept_sparse=False)

    def _fit_resample(self, X, y):
        rng = check_random_state(self.random_state)
        sampler = FlowSampler() if self.sampler is None else self.sampler
        if self.conditional:
            _check_conditional(sampler)
        X = X.reshape(len(X), *self._event_shape)
        self.samplers_ = {}
        events, labels = [X], [y]
        shared = None
        for label, n_samples in self.sampling_strategy_.items():
            if not n_samples:
                continue
            own = y == label
            if own.sum() < 2:
                name = np.asarray(label).item()
                raise ValueError(
                    f"Class {name!r} has n_samples={own.sum()}: no distribution can be learnt from "
                    "1 sample. Leave the class out of 'sampling_strategy'."
                )
            if self.conditional:
                shared = self._fitted(sampler, rng, X, y) if shared is None else shared
                model, condition = shared, {"y": label}
            else:
                model, condition = self._fitted(sampler, rng, X[own]), {}
            self.samplers_[label] = model
            seed = rng.randint(2**31 - 1)
            made = model.sample(n_samples, random_state=seed, **condition)
            # Otherwise integers would be cut off, and be too small by a half.
            events.append(np.where(self._integer, np.rint(made), made))
            labels.append(np.full(n_samples, label, dtype=y.dtype))
        return np.concatenate(events).astype(X.dtype, copy=False), np.concatenate(labels)

    def _fitted(self, sampler, rng, X, *y):
        sampler = clone(sampler)
        parameters = sampler.get_params(deep=False)
        if "random_state" in parameters:
            sampler.set_params(random_state=rng.randint(2**31 - 1))
        # Labels are no numbers, of whatever type they are.
        if y and parameters.get("condition", "continuous") != "continuous":
            sampler.set_params(condition="classes")
        if self._types is not None:
            X = self._frame(X, columns=list(self._types)).astype(self._types)
        try:
            return sampler.fit(X, *y)
        except TrainingDivergedError as error:
            name = type(sampler).__name__
            error.args = (f"{error} These are parameters of the 'sampler', here {name}.",)
            raise

    def __getstate__(self):
        state = super().__getstate__()
        passing = ("_types", "_frame", "_integer", "_event_shape")
        return {name: value for name, value in state.items() if name not in passing}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


def _check_conditional(sampler):
    try:
        signature(sampler.fit).bind(None, None)
        signature(sampler.sample).bind(1, y=None, random_state=None)
    except TypeError:
        raise ValueError(
            "The 'conditional' parameter of GenerativeOverSampler must be False for a sampler "
            "without fit(X, y) or sample(n_samples, y=..., random_state=...). "
            f"{type(sampler).__name__} has none of both or one only."
        ) from None
