r"""Scores for events of the target, of which no labels are known.

Labels of the target are placeholders, and a score that counts them is noise; a score of the source
alone says nothing of the target. What both domains have are events, and the ratio of their
densities makes the one's mean that of the other (importance-weighted validation [1]_ [2]_),

.. math:: \mathrm E_t[\ell(f(x), y)] = \mathrm E_s[r(u)\,\ell(f(x), y)], \qquad
   r(u) = \frac{p_t(u)}{p_s(u)},

wherever :math:`\mathrm E[\ell \mid u]` is the same in both domains. Which u that is true of is what
is assumed of them:

- *the event*, u = x: labels depend on it alike, :math:`p_t(y \mid x) = p_s(y \mid x)`, and only the
  densities differ. Then f reads events of the source as if they were the target's.
- *the prediction*, u = f(x): of what is predicted alike, as much is right in both domains. Adapters
  make it so where events look different, and f reads the events of either domain as what they are.
  It is the validation of deep embeddings [3]_, in the few numbers of them that decide.

The ratio is cross-fitted on the events that are scored (:class:`DomainReweighter`). Scores are
means over weighted events, :math:`\sum r \ell / \sum r`: the divisor takes out of the variance what
is common to numerator and weights, for which [3]_ has a control variate.
"""

from inspect import signature

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.metrics import get_scorer
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils import _safe_indexing
from sklearn.utils._param_validation import HasMethods, StrOptions, validate_params
from sklearn.utils.validation import check_consistent_length

from sknuc.adaptation._domains import source_labels, source_targets, split_domains
from sknuc.adaptation._reweighting import DomainReweighter
from sknuc.base import validate_weights
from sknuc.metrics._final_step import fitted_steps

__all__ = ["make_domain_scorer"]

# What is asked for a prediction, in this order: numbers that hold most of it first.
_OUTPUTS = ("decision_function", "predict_proba", "predict")


@validate_params(
    {
        "scoring": [str, callable, None],
        "matched": [StrOptions({"auto", "events", "predictions"})],
        "reweighter": [HasMethods(["fit", "predict_weight"]), None],
    },
    prefer_skip_nested_validation=True,
)
def make_domain_scorer(scoring=None, *, matched="auto", reweighter=None):
    r"""Make a scorer that estimates the score in the target without its labels.

    The score of the labelled events of the source, each with the weight
    :math:`p_t / p_s`, the ratio of the densities of target and source. Use it wherever scikit-learn
    takes ``scoring=`` and routes a `sample_domain`.

    Parameters
    ----------
    scoring : str, callable or None, default=None
        Any score of scikit-learn or sknuc that takes weights: a name such as "roc_auc", or a scorer
        ``scoring(estimator, X, y, sample_weight=...)``. None is the accuracy of a classifier, and
        R² of others.
    matched : {"auto", "events", "predictions"}, default="auto"
        What the densities are of, see Notes. "events": the domains differ in how frequent events
        are, but each event has the same labels in both. "predictions": events or class priors
        differ, which an adapter makes up for; what it predicts alike is as often right. "auto" is
        what an estimator assumes itself: "predictions" of sknuc's adapters and
        `LabelShiftClassifier`, also at the end of a Pipeline, and "events" of others. Say which if
        a search compares both kinds. "events" needs events of one shape, of which a table can be
        made.
    reweighter : DomainReweighter or None, default=None
        Finds the ratio; None is ``DomainReweighter(random_state=0)``. Give it a seed, so that
        candidates are compared with the same folds.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y, sample_domain, sample_weight=None) -> float``, higher for better
        ones. It requests `sample_domain` by itself, and weights by
        ``scorer.set_score_request(sample_weight=True)``: those of the events, of both domains.

    Raises
    ------
    ValueError
        If a parameter is not valid or `scoring` takes no weights; in scoring, if there is no
        `sample_domain`, or a domain has less than two different events. A search turns errors of
        scorers into scores of NaN and a warning, but with ``error_score="raise"``.

    Warns
    -----
    DomainWarning
        If the weighted source is worth less than one per cent of its events.

    See Also
    --------
    DomainReweighter : The ratio of the densities.
    domain_shift : Which features differ between the domains.

    Notes
    -----
    Labels of the target are never looked at. scikit-learn deals the folds: they need events of both
    domains, which a `KFold` has with ``shuffle=True``, and stratified folds have if the placeholder
    is no class of the source.

    With "events", the estimator reads events of the source as if they were the target's, and the
    score is right if :math:`p(y \mid x)` is the same in both domains (covariate shift). If it is
    not, as where the events of a class have moved or other classes are frequent, it prefers what
    was not adapted.

    With "predictions", estimators of sknuc that read the domains in different ways read every event
    as what it is, with the class priors of its domain, and others read all alike. The score is
    right if what is predicted alike has the same loss in both domains, on average, as of
    probabilities that are right in both. It believes what the estimator says of the target: where
    events of one class look like another, or predictions are sure and wrong, it is too high. It
    tells adapters apart that are sure of the target and right in the source from others that are
    not, and the differences may be less than its errors; only labels of the target tell more.

    Neither knows of events of the target where the source has none: weights cannot make what is not
    there, a few events carry all of them, and the score is of where the domains overlap.

    An ordinary estimator learns from all rows that it is given, placeholders included. Let weights
    of zero take them out, by the alias ``set_fit_request(sample_weight="in_source")``.

    References
    ----------
    .. [1] M. Sugiyama, M. Krauledat and K.-R. Müller, "Covariate shift adaptation by importance
       weighted cross validation", JMLR 8 (2007) 985.
    .. [2] C. Cortes, Y. Mansour and M. Mohri, "Learning bounds for importance weighting", NeurIPS
       2010.
    .. [3] K. You, X. Wang, M. Long and M. Jordan, "Towards accurate model selection in deep
       unsupervised domain adaptation", ICML 2019.

    Examples
    --------
    How strong should the alignment be?

    >>> import numpy as np
    >>> import sklearn
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sknuc.adaptation import DeepCORALClassifier, make_domain_scorer
    >>> rng = np.random.default_rng(0)
    >>> y, sample_domain = rng.integers(2, size=400), np.repeat([1, -1], 200)
    >>> X = rng.normal(size=(400, 2)) + np.outer(3 * y - 1.5, [1, 0])
    >>> X[sample_domain < 0, 0] += 1.5
    >>> labels = np.where(sample_domain >= 0, y, -1)
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     search = GridSearchCV(
    ...         DeepCORALClassifier(max_epochs=10, random_state=0),
    ...         {"trade_off": [0.1, 1.0]},
    ...         scoring=make_domain_scorer("accuracy"),
    ...         cv=2,
    ...     ).fit(X, labels, sample_domain=sample_domain)
    >>> bool(0.5 < search.best_score_ <= 1)
    True
    """
    if isinstance(reweighter, type):
        raise ValueError(
            "The 'reweighter' parameter of make_domain_scorer must be an object, such as "
            f"{reweighter.__name__}(). Got the class itself instead."
        )
    scorer = scoring if scoring is None else get_scorer(scoring)
    if scorer is not None and not _takes_weights(scorer):
        raise ValueError(
            "The 'scoring' parameter of make_domain_scorer must be a score that takes "
            f"sample_weight, which makes it one of the target. Got {scoring!r} instead, which "
            "takes none."
        )
    return _DomainScorer(scorer, matched, reweighter)


class _DomainScorer(_BaseScorer):
    """A scorer that can be pickled, and that asks for domains by metadata routing."""

    def __init__(self, scoring, matched, reweighter):
        self.scoring = scoring
        self.matched = matched
        self.reweighter = reweighter
        super().__init__(None, 1, {})

    def __repr__(self):
        params = [repr(self.scoring)] if self.scoring is not None else []
        params.append(f"matched={self.matched!r}")
        params += [f"reweighter={self.reweighter!r}"] if self.reweighter is not None else []
        return f"make_domain_scorer({', '.join(params)})"

    def __call__(self, estimator, X, y, sample_domain=None, sample_weight=None):
        # Domains are given here also where scikit-learn routes nothing.
        return self._score(None, estimator, X, y, sample_domain, sample_weight)

    def set_score_request(self, **requests):
        return super().set_score_request(**{"sample_domain": True, **requests})

    @classmethod
    def _get_class_level_metadata_request_values(cls, method_name, **kwargs):
        # Without domains there is no score: nobody has to ask for them.
        return {"sample_domain": True, "sample_weight": None}

    def _accept_sample_weight(self):
        return True

    def _score(self, method_caller, estimator, X, y_true, sample_domain=None, sample_weight=None):
        if sample_domain is None:
            raise ValueError(
                "The score of make_domain_scorer needs the sample_domain of every event. Got none. "
                "Searches pass it on after sklearn.set_config(enable_metadata_routing=True), from "
                "fit(X, y, sample_domain=...)."
            )
        check_consistent_length(X, y_true, sample_domain)
        weight = validate_weights(sample_weight, X)
        if weight is not None:
            # Events of weight zero are absent, with their labels.
            there = np.flatnonzero(weight)
            X, y_true, sample_domain, weight = (
                _safe_indexing(part, there) for part in (X, y_true, sample_domain, weight)
            )
        target = split_domains(sample_domain, X, least_source=2)
        known = source_labels if is_classifier(estimator) else source_targets
        y = known(estimator, y_true, target)
        judge, source = estimator, _safe_indexing(X, ~target)
        last, pipelines = fitted_steps(estimator)
        adapts = hasattr(last, "_as_source")
        if self.matched == "events" or (self.matched == "auto" and not adapts):
            ratio = self._ratio(X, target, weight)
        else:
            if adapts:
                judge = last._as_source()
                for pipeline in pipelines:
                    source = pipeline.transform(source)
            of_target = _predictions(estimator, _safe_indexing(X, target))
            ratio = self._ratio_of(_predictions(judge, source), of_target, target, weight)
        if weight is not None:
            ratio = ratio * weight[~target]
        scoring = self.scoring
        if scoring is None:
            scoring = get_scorer("accuracy" if is_classifier(estimator) else "r2")
        return scoring(judge, source, y, sample_weight=ratio)

    def _ratio(self, X, target, weight):
        """Ratio of the densities at the events of the source."""
        reweighter = self.reweighter
        reweighter = DomainReweighter(random_state=0) if reweighter is None else clone(reweighter)
        reweighter.fit(X, np.where(target, -1, 1), sample_weight=weight)
        return reweighter.predict_weight(_safe_indexing(X, ~target))

    def _ratio_of(self, source, of_target, target, weight):
        """The same at predictions, which may all be one."""
        if min(len(np.unique(part, axis=0)) for part in (source, of_target)) > 1:
            both = np.empty((len(target), source.shape[1]))
            both[~target], both[target] = source, of_target
            return self._ratio(both, target, weight)
        # Events of the source that are predicted as all of the target are, if that is all one.
        same = (source == of_target[0]).all(1) & (of_target == of_target[0]).all()
        if not same.any():
            raise ValueError(
                "make_domain_scorer(matched='predictions') compares predictions of the domains, "
                "and those of a domain are all one value, which the other has not, or others "
                "beside it. Such an estimator was not adapted."
            )
        return same.astype(float)


def _takes_weights(scorer):
    if isinstance(scorer, _BaseScorer):
        return scorer._accept_sample_weight()
    try:
        parameters = signature(scorer).parameters.values()
    except ValueError:
        # Some functions written in C do not tell.
        return False
    return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)


def _predictions(estimator, X):
    """What the estimator says of every event, of shape (n_events, n_numbers)."""
    name = next((name for name in _OUTPUTS if hasattr(estimator, name)), "predict")
    said = np.asarray(getattr(estimator, name)(X))
    if name == "predict" and is_classifier(estimator):
        said = said[:, None] == np.asarray(estimator.classes_)
    return said.reshape(len(said), -1).astype(np.float64)
