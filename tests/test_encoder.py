"""The encoder: what it computes, starts from, and refuses."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae

ARGUMENTS = {"image_shape": (15, 14, 3), "patch_size": (3, 2), "embed_dim": 12, "depth": 2, "num_heads": 3}


def to_numpy(x):
    return ops.convert_to_numpy(x)


def test_unmasked_tokens_agree_with_the_oracle(mae, weights, sizes, images):
    tokens = to_numpy(mae.encoder(images))
    assert tokens.shape == (3, 1 + 35, 12)
    np.testing.assert_allclose(tokens, oracles.encode(images, weights, sizes), atol=1e-5)


def test_visible_tokens_agree_with_the_oracle(mae, weights, sizes, images, noise):
    """The encoder sees the visible patches in another order than the oracle: each token is looked up."""
    kept = np.argsort(noise, axis=1)[:, :8]
    tokens = to_numpy(mae.encoder(images, ids_keep=kept.astype("int32")))
    expected = oracles.encode(images, weights, sizes, oracles.mask_from_noise(noise, 0.75))
    in_place = np.concatenate([[[0]] * 3, 1 + np.argsort(kept, axis=1)], axis=1)
    np.testing.assert_allclose(np.take_along_axis(tokens, in_place[..., None], axis=1), expected, atol=1e-5)


def test_features_are_deterministic_even_with_drop_path(images):
    encoder = keras_mae.ViTEncoder(**ARGUMENTS, drop_path_rate=0.9)
    first = to_numpy(encoder(images))
    np.testing.assert_array_equal(to_numpy(encoder(images)), first)
    np.testing.assert_array_equal(to_numpy(encoder(images, training=False)), first)


def test_drop_path_acts_in_training_and_grows_with_depth(make_images, quick):
    """Of the last block both branches drop at the full rate; of the first, none."""
    encoder = keras_mae.ViTEncoder((4, 2, 1), 2, 8, depth=3, num_heads=2, drop_path_rate=0.6)
    images = np.repeat(make_images(1, (4, 2, 1)), 600, axis=0)
    trained = to_numpy(quick(lambda x: encoder(x, training=True))(images))[:, 0]
    # Without drop path all copies agree. Blocks 2 and 3 drop at 0.3 and 0.6: 16 different outcomes.
    outcomes, counts = np.unique(np.round(trained, 4), axis=0, return_counts=True)
    assert len(outcomes) == 16
    all_kept = 0.7**2 * 0.4**2 * 600
    all_dropped = 0.3**2 * 0.6**2 * 600
    assert counts.max() > all_kept > counts.min()
    plain = keras_mae.ViTEncoder((4, 2, 1), 2, 8, depth=1, num_heads=2)
    plain.set_weights([to_numpy(weight) for weight in _first_block_only(encoder)])
    skipped = to_numpy(quick(plain)(images[:1]))[0, 0]
    share = np.isclose(trained, skipped, atol=1e-4).all(axis=1).mean() * 600
    assert abs(share - all_dropped) < 4.5 * np.sqrt(all_dropped)


def _first_block_only(encoder):
    others = {id(weight) for block in encoder.blocks[1:] for weight in block.weights}
    return [weight for weight in encoder.weights if id(weight) not in others]


def test_drop_path_follows_seed_and_step(images):
    def trained(seed, step):
        keras.utils.set_random_seed(0)
        encoder = keras_mae.ViTEncoder(**ARGUMENTS, drop_path_rate=0.5, seed=seed)
        encoder.step.set(step)
        return to_numpy(encoder(images, training=True))

    first = trained(1, 5)
    np.testing.assert_array_equal(trained(1, 5), first)
    assert not np.array_equal(trained(2, 5), first)
    assert not np.array_equal(trained(1, 6), first)


def test_each_training_call_ends_one_step_and_no_other_call_does(images):
    encoder = keras_mae.ViTEncoder(**ARGUMENTS)
    encoder(images)
    encoder(images, training=False)
    assert int(encoder.step.value) == 0
    encoder(images, training=True)
    encoder(images, training=True)
    assert int(encoder.step.value) == 2


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_features_do_not_depend_on_the_images_dtype(mae, images, dtype):
    np.testing.assert_allclose(to_numpy(mae.encoder(images.astype(dtype))), to_numpy(mae.encoder(images)), atol=1e-6)


def test_pixels_have_the_stated_range_and_default_statistics():
    rgb = keras_mae.ViTEncoder(**ARGUMENTS)
    np.testing.assert_allclose(rgb.pixel_mean, np.array([0.485, 0.456, 0.406]) * 255)
    np.testing.assert_allclose(rgb.pixel_std, np.array([0.229, 0.224, 0.225]) * 255)
    grey = keras_mae.ViTEncoder(**ARGUMENTS | {"image_shape": (15, 14, 1)})
    assert (grey.pixel_mean, grey.pixel_std) == ((127.5,), (127.5,))
    four = keras_mae.ViTEncoder(**ARGUMENTS | {"image_shape": (15, 14, 4)}, pixel_mean=5, pixel_std=[1, 2, 3, 4])
    assert (four.pixel_mean, four.pixel_std) == ((5.0,) * 4, (1.0, 2.0, 3.0, 4.0))


@pytest.mark.parametrize("image_shape", [(15, 14, 1), (3, 14, 4), (15, 2, 7)])
def test_any_grid_and_number_of_channels(image_shape, make_images, quick):
    encoder = keras_mae.ViTEncoder(**ARGUMENTS | {"image_shape": image_shape, "depth": 1})
    tokens = to_numpy(quick(encoder)(make_images(2, image_shape)))
    assert tokens.shape == (2, 1 + image_shape[0] // 3 * (image_shape[1] // 2), 12)
    assert np.isfinite(tokens).all()


# === Initial weights ===
def test_positions_start_as_sines_and_are_not_trained():
    encoder = keras_mae.ViTEncoder(**ARGUMENTS)
    positions = to_numpy(encoder.position_embedding)
    np.testing.assert_allclose(positions, oracles.position_table((5, 7), 12), atol=1e-7)
    assert np.abs(positions[1:]).max(axis=1).min() > 0.5
    assert not encoder.position_embedding.trainable
    assert all(weight is not encoder.position_embedding for weight in encoder.trainable_weights)


def test_class_token_starts_with_a_standard_deviation_of_002():
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder(**ARGUMENTS | {"embed_dim": 768, "depth": 1})
    token = to_numpy(encoder.class_token)
    assert encoder.class_token.trainable
    np.testing.assert_allclose(token.std(), 0.02, rtol=0.1)  # of 768 draws: a standard deviation of 2.6 %
    assert abs(token.mean()) < 4.5 * 0.02 / np.sqrt(768)
    assert np.abs(token).max() < 0.1


def test_patch_projection_starts_xavier_on_the_flattened_patch():
    keras.utils.set_random_seed(0)
    encoder = keras_mae.ViTEncoder((16, 24, 3), (8, 12), 64, depth=1, num_heads=4)
    projection = encoder.patch_embedding.projection
    kernel, limit = to_numpy(projection.kernel), np.sqrt(6 / (288 + 64))
    assert kernel.shape == (288, 64)
    assert limit * 0.99 < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
    assert not to_numpy(projection.bias).any()


# === Refused ===
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 4}, r"`patch_size` must divide.*Received: patch_size=\(4, 4\), image_shape=\(15, 14, 3\)"),
        ({"image_shape": (15, 14)}, r"`image_shape` must be \(height, width, channels\). Received: .*\(15, 14\)"),
        ({"image_shape": (15, 14, 0)}, "`image_shape` must be a positive integer. Received: image_shape=0"),
        ({"num_heads": 5}, "`num_heads` must divide `embed_dim`. Received: num_heads=5, embed_dim=12"),
        ({"embed_dim": 6}, "`embed_dim` must be a multiple of 4. Received: embed_dim=6"),
        ({"embed_dim": 12.0}, "`embed_dim` must be a positive integer. Received: embed_dim=12.0"),
        ({"depth": 0}, "`depth` must be a positive integer. Received: depth=0"),
        ({"drop_path_rate": 1.0}, r"`drop_path_rate` must be in \[0, 1\). Received: drop_path_rate=1.0"),
        ({"pixel_mean": (1, 2)}, r"`pixel_mean` must be a finite number or one for each of the 3 channels"),
        ({"pixel_std": 0}, "`pixel_std` must be a finite number above 0. Received: pixel_std=0.0"),
        ({"seed": -1}, r"`seed` must be an integer in \[0, 2\*\*31\). Received: seed=-1"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.ViTEncoder(**ARGUMENTS | changes)


@pytest.mark.parametrize("shape", [(2, 14, 15, 3), (2, 15, 14, 1), (2, 18, 14, 3)])
def test_images_of_another_shape_are_refused(mae, shape):
    with pytest.raises(
        ValueError, match=r"`images` must have shape \(batch, 15, 14, 3\). Received: images.shape=\(2"
    ):
        mae.encoder(np.zeros(shape, "uint8"))


# === Other channels ===
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("statistics", [{}, {"pixel_mean": 90, "pixel_std": 31}])
def test_an_image_of_equal_channels_keeps_its_tokens(channels, statistics, mae, quick):
    grey = np.random.default_rng(7).uniform(0, 255, (2, 15, 14, 1)).astype("float32")
    other = mae.encoder.copy(image_shape=(15, 14, channels), **statistics)
    tokens = quick(mae.encoder)(np.repeat(grey, 3, axis=-1))
    got = quick(other)(np.repeat(grey, channels, axis=-1))
    np.testing.assert_allclose(to_numpy(got), to_numpy(tokens), atol=1e-5)


def test_channels_take_turns(mae):
    """Each of four channels stands for red, green, blue and red: the last two of five share nothing with red."""
    other = mae.encoder.copy(image_shape=(15, 14, 5))
    assert other.pixel_mean == (*mae.encoder.pixel_mean, *mae.encoder.pixel_mean[:2])
    theirs, ours = (
        ops.convert_to_numpy(encoder.patch_embedding.projection.kernel).reshape(6, -1, 12)
        for encoder in (mae.encoder, other)
    )
    for new, (old, share) in enumerate([(0, 2), (1, 2), (2, 1), (0, 2), (1, 2)]):
        np.testing.assert_allclose(ours[:, new], theirs[:, old] / share, atol=1e-6)


def test_statistics_alone_do_not_change(mae):
    with pytest.raises(ValueError, match=r"with another number of channels also in `pixel_mean`.* Received: .*3\.0"):
        mae.encoder.copy(pixel_mean=3.0)


def test_a_classifier_may_have_other_channels(mae, quick):
    grey = np.random.default_rng(7).integers(0, 256, (2, 15, 14, 1), "uint8")
    classifier = keras_mae.ViTClassifier(mae.encoder, 3, image_shape=(15, 14, 1))
    assert quick(classifier)(grey).shape == (2, 3)
