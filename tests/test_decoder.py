"""The decoder: mask tokens, positions in shuffled order, predictions of the removed patches."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae
from keras_mae.transformer import MLP


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module")
def ids(noise):
    """Kept and removed patches of three samples, in the order of the noise."""
    order = np.argsort(noise, axis=1).astype("int32")
    return order[:, :8], order[:, 8:]


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(4).standard_normal((3, 9, 12)).astype("float32")


@pytest.fixture(scope="module")
def expected(tokens, ids, noise, weights, sizes):
    """The oracle's prediction, in reading order: it gets the visible tokens in reading order too."""
    in_place = np.concatenate([[[0]] * 3, 1 + np.argsort(ids[0], axis=1)], axis=1)
    visible = np.take_along_axis(tokens, in_place[..., None], axis=1)
    return oracles.decode(visible, weights, sizes, oracles.mask_from_noise(noise, 0.75))


def test_predictions_agree_with_the_oracle(mae, tokens, ids, expected):
    order = np.concatenate(ids, axis=1)
    prediction = to_numpy(mae.decoder(tokens, *ids))
    assert prediction.shape == (3, 35, 18)
    np.testing.assert_allclose(prediction, np.take_along_axis(expected, order[..., None], axis=1), atol=1e-5)


def test_removed_only_predicts_the_removed_patches(mae, tokens, ids, expected):
    prediction = to_numpy(mae.decoder(tokens, *ids, removed_only=True))
    assert prediction.shape == (3, 27, 18)
    np.testing.assert_allclose(prediction, np.take_along_axis(expected, ids[1][..., None], axis=1), atol=1e-5)


def test_removed_only_leaves_the_others_out_of_the_last_block(mae, tokens, ids, monkeypatch):
    widths, call = [], MLP.call
    monkeypatch.setattr(MLP, "call", lambda layer, x: widths.append(x.shape[1]) or call(layer, x))
    for removed_only in (True, False):
        mae.decoder(tokens, *ids, removed_only=removed_only)
    assert widths == [27, 36]  # the class token, 8 visible patches and 27 removed ones


def test_order_of_the_visible_tokens_does_not_matter(mae, tokens, ids):
    """The head reads each token with its own position: a flat head on shuffled tokens would not."""
    keep, removed = ids
    turned = np.concatenate([tokens[:, :1], tokens[:, :0:-1]], axis=1)
    straight = to_numpy(mae.decoder(tokens, keep, removed, removed_only=True))
    other_way = to_numpy(mae.decoder(turned, keep[:, ::-1].copy(), removed, removed_only=True))
    np.testing.assert_allclose(straight, other_way, atol=1e-5)


def test_predictions_are_not_squashed(mae, tokens, ids):
    """A sigmoid or tanh at the end would keep them within [-1, 1]."""
    prediction = to_numpy(mae.decoder(10 * tokens, *ids))
    assert prediction.max() > 1
    assert prediction.min() < -1


def test_initial_weights():
    keras.utils.set_random_seed(0)
    decoder = keras_mae.MAEDecoder(512, depth=1, num_heads=8, image_shape=(15, 14, 3), patch_size=(3, 2))
    decoder.build((None, None, 96))
    token, positions = to_numpy(decoder.mask_token), to_numpy(decoder.position_embedding)
    np.testing.assert_allclose(token.std(), 0.02, rtol=0.15)  # of 512 draws: a standard deviation of 3.1 %
    assert decoder.mask_token.trainable
    np.testing.assert_allclose(positions, oracles.position_table((5, 7), 512), atol=1e-7)
    assert not decoder.position_embedding.trainable
    for layer, limit in ((decoder.embedding, 6 / (96 + 512)), (decoder.prediction, 6 / (512 + 18))):
        kernel = to_numpy(layer.kernel)
        assert 0.98 * np.sqrt(limit) < np.abs(kernel).max() <= np.sqrt(limit)
        np.testing.assert_allclose(kernel.std(), np.sqrt(limit / 3), rtol=0.03)
        assert not to_numpy(layer.bias).any()


def test_a_decoder_on_its_own_needs_to_know_the_image():
    with pytest.raises(ValueError, match=r"needs `image_shape` and `patch_size`.*Received: image_shape=None"):
        keras_mae.MAEDecoder(8, 1, 2).build((None, None, 12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 3}, "`num_heads` must divide `embed_dim`. Received: num_heads=3, embed_dim=8"),
        ({"embed_dim": 6}, "`embed_dim` must be a multiple of 4. Received: embed_dim=6"),
        ({"depth": 0}, "`depth` must be a positive integer. Received: depth=0"),
        ({"patch_size": -1}, "`patch_size` must be a positive integer. Received: patch_size=-1"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.MAEDecoder(**{"embed_dim": 8, "depth": 1, "num_heads": 2} | changes)
