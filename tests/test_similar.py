"""Nearest neighbors, which are exact, and maps in two dimensions."""

import sys

import numpy as np
import pytest

from keras_mae import transfer
from keras_mae.transfer import similar

pytestmark = pytest.mark.backends("torch")

RNG = np.random.default_rng(3)
FEATURES = RNG.standard_normal((203, 7)).astype("float32") * RNG.uniform(0.1, 30, (203, 1)).astype("float32")
QUERIES = RNG.standard_normal((5, 7))


def by_numpy(features, queries, k):
    """Every cosine in float64, sorted."""
    unit = [rows.astype("float64") / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, features)]
    cosines = unit[0] @ unit[1].T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosines, order, 1)


@pytest.mark.parametrize("at_a_time", [11, 203, 8192])
def test_neighbors_are_numpys(monkeypatch, at_a_time):
    monkeypatch.setattr(similar, "_AT_A_TIME", at_a_time)
    indices, cosines = transfer.nearest(FEATURES, QUERIES, 13)
    expected, values = by_numpy(FEATURES, QUERIES, 13)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, values, atol=1e-6)


@pytest.mark.parametrize("at_a_time", [11, 8192])
def test_centered_neighbors_are_numpys_of_vectors_minus_the_features_mean(monkeypatch, at_a_time):
    monkeypatch.setattr(similar, "_AT_A_TIME", at_a_time)
    common = np.float32(1000)
    indices, cosines = transfer.nearest(FEATURES + common, QUERIES + common, 13, center=True)
    mean = (FEATURES + common).mean(axis=0, dtype="float64")
    expected, values = by_numpy(FEATURES + common - mean, np.float32(QUERIES + common) - mean, 13)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, values, atol=1e-6)
    assert transfer.nearest(FEATURES + common, QUERIES + common, 13)[1].std() < 0.01 < cosines.std()


def test_centering_survives_what_leaves_nothing_or_would_overflow():
    assert transfer.nearest(np.full((3, 2), 0.1, "float32"), [[0.1, 0.1]], center=True)[1].tolist() == [[0, 0, 0]]
    huge = np.array([[3e38, 1], [-3e38, 1], [-3e38, 2]], "float32")
    assert transfer.nearest(huge, huge[:1], 1, exclude=[0], center=True)[1].tolist() == [[-1]]


def test_a_map_of_centered_features_does_not_change_with_what_they_have_in_common():
    places = transfer.map_coordinates(FEATURES[:20], "pca", center=True)[0]
    moved = transfer.map_coordinates(FEATURES[:20] + np.float32(8), "pca", center=True)[0]
    np.testing.assert_allclose(moved, places, atol=1e-4)
    assert np.abs(transfer.map_coordinates(FEATURES[:20] + np.float32(8), "pca")[0] - places).max() > 0.1


def test_an_image_leaves_itself_out_and_no_query_gets_more_than_there_are():
    indices, cosines = transfer.nearest(FEATURES[:6], FEATURES[[4, 2]], 10, exclude=[4, -1])
    assert indices.shape == (2, 5)
    assert sorted(indices[0]) == [0, 1, 2, 3, 5]
    assert (indices[1, 0], np.isfinite(cosines).all()) == (2, True)
    np.testing.assert_allclose(cosines[1, 0], 1, atol=1e-6)
    assert transfer.nearest(FEATURES[:1], FEATURES[:1], exclude=[0])[0].shape == (1, 0)


def test_equally_near_ones_come_in_their_order(monkeypatch):
    monkeypatch.setattr(similar, "_AT_A_TIME", 3)
    same = np.eye(4, dtype="float32")[[0, 1, 0, 0, 1, 0, 0, 2]]
    assert transfer.nearest(same, same[:1], 6)[0].tolist() == [[0, 2, 3, 5, 6, 1]]


def test_zeros_and_huge_numbers_have_cosines():
    features = np.array([[0, 0], [3e38, 3e38], [-1e-38, 0]], "float32")
    indices, cosines = transfer.nearest(features, [[1, 0]], 3)
    assert indices.tolist() == [[1, 0, 2]]
    np.testing.assert_allclose(cosines, [[2**-0.5, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_a_map_has_neighbors_close_by_and_is_the_same_again(method):
    blobs = np.concatenate([RNG.standard_normal((15, 9)) * 0.1 + 5 * np.eye(9)[number] for number in range(3)])
    places, used = transfer.map_coordinates(blobs, method)
    assert (places.shape, places.dtype, used) == ((45, 2), "float32", method)
    middles = places.reshape(3, 15, 2).mean(axis=1)
    nearest = np.linalg.norm(places[:, None] - middles, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, np.repeat(range(3), 15))
    np.testing.assert_array_equal(transfer.map_coordinates(blobs, method)[0], places)


@pytest.mark.parametrize("images", [1, 2, 4, 5, 6])
def test_few_images_have_a_map(images):
    places, used = transfer.map_coordinates(FEATURES[:images, :3], None)
    assert (places.shape, np.isfinite(places).all()) == ((images, 2), True)
    assert used == ("pca" if images < 5 else used)
    assert transfer.map_coordinates(FEATURES[:images, :1])[0].shape == (images, 2)


@pytest.mark.parametrize("different", [1, 4])
@pytest.mark.filterwarnings("error")
def test_copies_of_few_images_have_a_map(different):
    copies = FEATURES[np.arange(40) % different]
    places, used = transfer.map_coordinates(copies, "tsne", center=True)
    assert (used, len(np.unique(places.round(4), axis=0))) == ("pca", different)


def test_umap_is_taken_where_it_is_installed_and_named_where_it_is_not(monkeypatch):
    if not similar.importlib.util.find_spec("umap"):
        with pytest.raises(ImportError, match=r"keras-mae\[umap\]"):
            transfer.map_coordinates(FEATURES, "umap")

    class Umap:
        class UMAP:
            def __init__(self, **options):
                assert options == {"n_neighbors": 15, "init": "spectral", "random_state": 5}

            def fit_transform(self, rows):
                return rows[:, :2]

    monkeypatch.setattr(similar.importlib.util, "find_spec", lambda name: name == "umap")
    monkeypatch.setitem(sys.modules, "umap", Umap)
    assert transfer.map_coordinates(FEATURES, seed=5)[1] == "umap"
