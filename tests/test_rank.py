"""RankMe: against the definition, by singular values, and where the answer is known."""

import numpy as np
import pytest

from keras_mae import transfer

pytestmark = pytest.mark.backends("torch")

GENERATOR = np.random.default_rng(0)


def by_definition(features):
    values = np.linalg.svd(np.asarray(features, "float64"), compute_uv=False)
    shares = values / values.sum()
    return np.exp(-np.sum(shares * np.log(shares)))


@pytest.mark.parametrize("shape", [(101, 7), (5, 13), (8192 + 1, 3), (1, 5), (6, 1)], ids=str)
def test_it_is_the_exponential_of_the_entropy_of_singular_values(shape):
    features = GENERATOR.normal(size=shape) @ np.diag(np.linspace(0.2, 3, shape[1])) + 1
    assert transfer.rankme(features) == pytest.approx(by_definition(features), rel=1e-9)
    assert transfer.rankme(features.astype("float32")) == pytest.approx(by_definition(features), rel=1e-5)


def test_orthogonal_vectors_of_one_length_use_all_dimensions():
    assert transfer.rankme(np.repeat(3 * np.eye(5), 4, axis=0)) == pytest.approx(5)


def test_multiples_of_one_vector_use_one():
    features = np.outer(np.arange(1, 400), GENERATOR.normal(size=32)).astype("float32")
    assert transfer.rankme(features) == pytest.approx(1, abs=1e-4)
    assert transfer.rankme(np.outer(np.arange(1, 400), np.arange(32))) == pytest.approx(1, abs=1e-12)
    assert transfer.rankme(np.zeros((4, 3))) == 0


@pytest.mark.parametrize("factor", [1e-200, 1e-3, 1e200])
def test_neither_scale_nor_rotation_change_it(factor):
    features = GENERATOR.normal(size=(50, 4)) * [1, 2, 3, 4]
    rotation, _ = np.linalg.qr(GENERATOR.normal(size=(4, 4)))
    assert transfer.rankme(features @ rotation * factor) == pytest.approx(transfer.rankme(features))


def test_features_may_lie_in_a_file(tmp_path):
    features = GENERATOR.normal(size=(50, 4)).astype("float32")
    np.save(tmp_path / "x.npy", features)
    assert transfer.rankme(np.load(tmp_path / "x.npy", mmap_mode="r")) == transfer.rankme(features)


@pytest.mark.parametrize(
    "features", [np.ones(3), np.ones((0, 3)), "photos.npz", None, [["a", "b"]], np.ones((2, 3), bool)], ids=str
)
def test_what_is_no_features_is_refused(features):
    with pytest.raises(ValueError, match=r"`features` must be finite numbers \(images, width\)"):
        transfer.rankme(features)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_must_be_finite(value):
    features = np.ones((5000, 2))
    features[4500, 1] = value
    with pytest.raises(ValueError, match="Received: NaN or infinite ones"):
        transfer.rankme(features)
