"""Which events are of the source and which of the target."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from sknuc.adaptation._domains import (
    DomainAdapterMixin,
    source_labels,
    source_targets,
    split_domains,
    warn_without_domains,
)
from sknuc.exceptions import DomainWarning

X = np.zeros((6, 2))
CODES = [1, 0, 3, -1, -2, -9]
TARGET = [False, False, False, True, True, True]


@pytest.mark.parametrize(
    "make",
    [
        list,
        np.array,
        lambda codes: np.array(codes, dtype=float),
        lambda codes: np.array(codes, dtype=np.int8)[:, None],
        lambda codes: np.array(codes, dtype=object),
        lambda codes: pytest.importorskip("pandas").Series(codes, index=range(6, 0, -1)),
        lambda codes: pytest.importorskip("pandas").Series(codes, dtype="Int64"),
    ],
)
def test_sources_are_zero_or_more_and_targets_less(make):
    target = split_domains(make(CODES), X)
    assert target.dtype == bool
    np.testing.assert_array_equal(target, TARGET)


def test_none_is_all_source():
    assert split_domains(None, X) is None


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([0, 0, 0.5, -1, -1, -0.25], r"Got 0\.5 instead, and 2 such values of 6"),
        ([0, 0, np.nan, -1, -1, -1], "Got nan instead, and 1 such"),
        ([0, 0, np.inf, -1, -1, -1], "Got inf instead, and 1 such"),
        (["s", "s", "s", "t", "t", "t"], r"Got strings instead, such as 's'"),
        ([1, 1, 1, "a", "a", "a"], r"Got strings instead, such as 'a'"),
        (
            [2**70, 1, 1, -1, -1, -1],
            r"Got something else instead, such as 1180591620717411303424\.",
        ),
        (TARGET, "Got booleans instead, such as False"),
        ([0, 0, None, -1, -1, -1], "Got something else instead, such as None"),
        ([0, 0, 1 + 2j, -1, -1, -1], r"Got complex numbers instead, such as \(1\+2j\)"),
        (np.full(6, "2020-01-01", "M8[D]"), r"Got dates instead, such as datetime\.date\(2020"),
        ([[0], [0, 1], 0, -1, -1, -1], "Got lists of different lengths"),
        (np.array([0, 0, [1], -1, -1, -1], dtype=object), "Got lists of different lengths"),
        (np.zeros((6, 2)), r"Got an array of shape \(6, 2\)"),
        ([0, 0, 0, -1, -1], r"inconsistent numbers of samples: \[6, 5\]"),
        ([-1] * 6, r"at least 1 of the source domain \(>= 0\). Got 0 of 6"),
        ([1] * 6, r"at least 2 of the target domain \(< 0\). Got 0 of 6"),
        ([1, 1, 1, 1, 1, -1], r"at least 2 of the target domain \(< 0\). Got 1 of 6"),
    ],
)
def test_other_codes_are_refused_with_words(codes, words):
    with pytest.raises(ValueError, match=words):
        split_domains(codes, X)


def test_events_of_weight_zero_are_absent():
    weight = np.array([1.0, 1, 1, 0, 2, 1])
    np.testing.assert_array_equal(split_domains(CODES, X, sample_weight=weight), TARGET)
    weight[-1] = 0
    with pytest.raises(ValueError, match="Got 1 of 6 events, those of weight zero left out"):
        split_domains(CODES, X, sample_weight=weight)
    assert split_domains(CODES, X, sample_weight=weight, least_target=1) is not None


@pytest.mark.parametrize("unknown", [np.nan, None, 7, "unlabelled", [1, 2]])
@pytest.mark.parametrize(
    "labels", [[0, 1, 1], ["a", "b", "b"], [0.0, 1.0, 1.0], [True, False, True]]
)
def test_labels_of_the_target_are_never_looked_at(labels, unknown):
    y = np.empty(6, dtype=object)
    y[:3] = labels
    for row in range(3, 6):
        y[row] = unknown
    for given in (y, y.tolist()) if unknown != [1, 2] else (y,):
        found = source_labels(BaseEstimator(), given, np.array(TARGET))
        np.testing.assert_array_equal(found, labels)
        # Of the type that they have without a target, so that predictions have it, too.
        if not isinstance(labels[0], str) or given is not y:
            assert found.dtype == np.asarray(labels).dtype


def test_labels_of_the_source_are_checked():
    target = np.array(TARGET)
    with pytest.raises(ValueError, match="NaN"):
        source_labels(BaseEstimator(), [0, np.nan, 1, 0, 0, 0], target)
    with pytest.raises(ValueError, match="requires y"):
        source_labels(BaseEstimator(), None, target)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[5, 6\]"):
        source_labels(BaseEstimator(), [0, 1, 1, 0, 0], target)
    with pytest.raises(ValueError, match="Unknown label type"):
        source_labels(BaseEstimator(), [0.5, 1.5, 1, 0, 0, 0], target)
    labels = np.array(["x", "y", "x"])
    np.testing.assert_array_equal(source_labels(BaseEstimator(), labels, None), labels)


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_targets_of_regressions(shape):
    y = np.arange(np.prod(shape), dtype=float).reshape(shape)
    expected = y[:3].copy()
    y[3:] = np.nan
    np.testing.assert_array_equal(source_targets(BaseEstimator(), y, np.array(TARGET)), expected)
    listed = [*y[:3].tolist(), *([None] * 3 if len(shape) == 1 else y[3:].tolist())]
    found = source_targets(BaseEstimator(), listed, np.array(TARGET))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float64
    with pytest.raises(ValueError, match="NaN"):
        source_targets(BaseEstimator(), y, ~np.array(TARGET))


class Adapter(DomainAdapterMixin, BaseEstimator):
    def fit(self, X, y, sample_weight=None, sample_domain=None):
        if sample_domain is None:
            warn_without_domains(self)
        self.domain_ = sample_domain
        return self


def test_fit_requests_the_domain():
    assert get_routing_for_object(Adapter()).fit.requests == {
        "sample_domain": True,
        "sample_weight": None,
    }


def test_the_domain_goes_through_pipelines():
    from sklearn import config_context

    y = np.zeros(6)
    piped = make_pipeline(StandardScaler(), Adapter()).fit(X, y, adapter__sample_domain=CODES)
    assert piped[-1].domain_ is CODES
    with config_context(enable_metadata_routing=True):
        piped = make_pipeline(StandardScaler(), Adapter()).fit(X, y, sample_domain=CODES)
        assert piped[-1].domain_ is CODES


def test_a_fit_without_domains_warns_at_the_line_of_the_user():
    with pytest.warns(DomainWarning, match="Adapter got no sample_domain") as caught:
        Adapter().fit(X, X[:, 0])
    assert caught[0].filename == __file__
