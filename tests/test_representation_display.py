"""LatentDisplay: coordinates, colours, and what it refuses."""

import sys
from types import ModuleType

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

pytest.importorskip("matplotlib")
import matplotlib.pyplot as plt

from sknuc.representation import LatentDisplay

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(300, 6)) * [5, 3, 1, 1, 1, 0.1]
KIND = np.where(Z[:, 0] > 0, "multi site", "single site")


@pytest.fixture(autouse=True)
def closed():
    plt.switch_backend("agg")
    yield
    plt.close("all")


def drawn_points(ax):
    return np.concatenate([part.get_offsets() for part in ax.collections])


def test_coordinates_are_principal_components():
    display = LatentDisplay.from_features(Z)
    pca = PCA(2).fit(Z)
    np.testing.assert_allclose(display.coordinates, pca.transform(Z), atol=1e-10)
    shares = 100 * pca.explained_variance_ratio_
    (ax,) = display.axes_
    assert ax.get_xlabel() == f"Component 1 ({shares[0]:.0f} % of the variance)"
    assert ax.get_ylabel() == f"Component 2 ({shares[1]:.0f} % of the variance)"
    points = drawn_points(ax)
    np.testing.assert_allclose(np.sort(points, 0), np.sort(display.coordinates, 0))
    assert all(part.get_rasterized() for part in ax.collections)


def test_colours_of_kinds_and_numbers_belong_to_their_events():
    drift = Z[:, 1].copy()
    drift[:7] = np.nan
    display = LatentDisplay.from_features(
        Z[:, :2],
        method=None,
        color={"kind": KIND, "drift time (ns)": drift, "count": np.arange(300)},
    )
    kinds, numbers, count = display.axes_
    assert [text.get_text() for text in kinds.get_legend().get_texts()] == [
        "multi site",
        "single site",
    ]
    colours = {}
    for part in kinds.collections:
        for x in part.get_offsets()[:, 0]:
            colours.setdefault(x > 0, set()).add(tuple(part.get_facecolors()[0]))
    # One colour for each kind, and not the same.
    assert [len(c) for c in colours.values()] == [1, 1]
    assert colours[True] != colours[False]
    missing, known = numbers.collections
    np.testing.assert_allclose(np.sort(missing.get_offsets()[:, 0]), np.sort(Z[:7, 0]))
    np.testing.assert_allclose(known.get_array(), known.get_offsets()[:, 1])
    assert known.get_clim() == tuple(np.quantile(drift[7:], [0.03, 0.97]))
    assert numbers.get_title() == "Drift time (ns)"
    assert [bar is None for bar in display.colorbars_] == [True, False, False]
    assert len(drawn_points(count)) == 300


def test_estimators_at_the_end_of_pipelines():
    pipeline = make_pipeline(StandardScaler(), PCA(3)).fit(Z)
    pipeline.set_output(transform="default")
    display = LatentDisplay.from_estimator(pipeline, Z, color=KIND == "multi site")
    expected = np.abs(pipeline.transform(Z)[:, :2])
    np.testing.assert_allclose(np.abs(display.coordinates), expected, atol=1e-10)


def test_a_given_figure_and_many_panels():
    figure = plt.figure(figsize=(10, 8), layout="constrained")
    display = LatentDisplay.from_features(
        Z, color={f"feature {k}": Z[:, k] for k in range(5)}, figure=figure
    )
    assert display.figure_ is figure
    assert len(display.axes_) == 5
    figure.canvas.draw()


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="one value for each of the 300 events"):
        LatentDisplay.from_features(Z, color=np.zeros(3))
    with pytest.raises(ValueError, match=r"may hold 7 kinds at most\. Got 300"):
        LatentDisplay.from_features(Z, color=np.arange(300).astype(str))
    with pytest.raises(ValueError, match=r"takes coordinates of shape \(n_events, 2\)"):
        LatentDisplay.from_features(Z, method=None)
    with pytest.raises(ValueError, match="two features or more"):
        LatentDisplay.from_features(Z[:, :1])
    with pytest.raises(ValueError, match="'method'"):
        LatentDisplay.from_features(Z, method="tsne")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        LatentDisplay.from_features(Z, method="umap")


def test_umap_where_it_is_installed(monkeypatch):
    class UMAP:
        def __init__(self, n_components, random_state):
            self.n_components, self.seed = n_components, random_state

        def fit_transform(self, features):
            return features[:, : self.n_components] + self.seed % 2

    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    first, second = (LatentDisplay.from_features(Z, method="umap") for _ in range(2))
    np.testing.assert_array_equal(first.coordinates, second.coordinates)
    assert first.axis_names == ("UMAP 1", "UMAP 2")
