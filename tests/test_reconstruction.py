"""`reconstruct`: pictures in the images' own range, and honest statistics."""

import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.fixture(scope="module")
def mask(noise):
    return oracles.mask_from_noise(noise, 0.75)


@pytest.fixture(scope="module")
def hidden(mask):
    """The mask as pixels, bool (3, 15, 14, 3)."""
    return to_numpy(keras_mae.unpatchify(np.repeat(mask[..., None], 18, axis=2), (3, 2), (15, 14, 3))) == 1


@pytest.fixture(scope="module")
def pixels(mae, weights, sizes, images, mask):
    """What the oracle predicts, in the images' own units."""
    tokens = oracles.encode(images, weights, sizes, mask)
    patches = oracles.decode(tokens, weights, sizes, mask)
    whole = to_numpy(keras_mae.unpatchify(patches.astype("float32"), (3, 2), (15, 14, 3)))
    return whole * np.array(sizes.pixel_std) + np.array(sizes.pixel_mean)


@pytest.fixture(scope="module")
def result(mae, images, mask):
    return mae.reconstruct(images, mask=mask)


@pytest.fixture(scope="module")
def float_result(mae, images, mask):
    return mae.reconstruct(images.astype("float32"), mask=mask)


def test_prediction_agrees_with_the_oracle(float_result, pixels):
    np.testing.assert_allclose(float_result.predicted, pixels, atol=2e-3)  # of 255


def test_masked_pixels_show_the_mean_pixel(float_result, images, hidden, mae):
    np.testing.assert_array_equal(float_result.masked[~hidden], images[~hidden])
    mean = np.broadcast_to(np.float32(mae.encoder.pixel_mean), images.shape)
    np.testing.assert_allclose(float_result.masked[hidden], mean[hidden], atol=1e-3)


def test_visible_patches_are_pasted_exactly(result, float_result, images, hidden):
    np.testing.assert_array_equal(result.pasted[~hidden], images[~hidden])
    np.testing.assert_array_equal(float_result.pasted[~hidden], images[~hidden])
    np.testing.assert_array_equal(float_result.pasted[hidden], float_result.predicted[hidden])


def test_original_and_mask_are_given_back(result, images, mask):
    np.testing.assert_array_equal(result.original, images)
    np.testing.assert_array_equal(result.mask, mask)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
def test_pictures_have_the_images_dtype_and_range(mae, images, mask, pixels, dtype):
    result = mae.reconstruct(images.astype(dtype), mask=mask)
    for picture in (result.original, result.masked, result.predicted, result.pasted):
        assert isinstance(picture, np.ndarray)
        assert picture.dtype == dtype
        assert picture.shape == images.shape
    expected = np.clip(np.rint(pixels), 0, 255) if np.dtype(dtype).kind in "iu" else pixels
    # Whole numbers may fall to the other side of a half; nothing else may differ.
    np.testing.assert_allclose(result.predicted, expected, atol=1 if np.dtype(dtype).kind in "iu" else 2e-3)
    assert (np.abs(result.predicted - expected) > 0.01).mean() < 0.001


def test_predictions_beyond_the_range_are_clipped_not_wrapped(make_mae, images, mask, randomise):
    mae = make_mae()
    mae.decoder.prediction.bias.assign(np.repeat([9.0, -9.0], 9))
    predicted = mae.reconstruct(images, mask=mask).predicted
    assert set(np.unique(predicted)) == {0, 255}


def test_the_mask_may_be_a_grid_of_any_ratio(mae, images, noise):
    mask = oracles.mask_from_noise(noise, 0.4)
    np.testing.assert_array_equal(mae.reconstruct(images, mask=mask.reshape(3, 5, 7)).mask, mask)


def test_drawn_masks_follow_the_seed(mae, images):
    first = mae.reconstruct(images, seed=4)
    np.testing.assert_array_equal(first.mask, oracles.mask_from_noise(oracles.hash_noise(4, -1, range(3), 35), 0.75))
    np.testing.assert_array_equal(mae.reconstruct(images, seed=4).predicted, first.predicted)
    assert not np.array_equal(mae.reconstruct(images, seed=5).mask, first.mask)


def test_drawn_masks_do_not_depend_on_the_batch_size(mae, images):
    whole, parts = mae.reconstruct(images), mae.reconstruct(images, batch_size=2)
    np.testing.assert_array_equal(parts.mask, whole.mask)
    np.testing.assert_allclose(parts.predicted.astype(float), whole.predicted, atol=1)


def test_reconstructing_leaves_training_alone(mae, images):
    before = int(mae.encoder.step.value)
    mae.reconstruct(images)
    assert int(mae.encoder.step.value) == before


# === Statistics of a normalised target ===
@pytest.fixture(scope="module")
def changed(images, hidden):
    """The images with every removed pixel changed."""
    return np.where(hidden, images // 3 + 100, images).astype("float32")


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstruction_does_not_move_with_the_removed_pixels(norm_pix_loss, request, images, mask, hidden, changed):
    mae = request.getfixturevalue("norm_pix_mae" if norm_pix_loss else "mae")
    assert (changed[hidden] != images[hidden]).mean() > 0.9
    first, second = (mae.reconstruct(x, mask=mask) for x in (images.astype("float32"), changed))
    for name in ("masked", "predicted", "pasted"):
        np.testing.assert_allclose(getattr(second, name), getattr(first, name), atol=1e-3, err_msg=name)


def test_true_statistics_do_move_with_the_removed_pixels(norm_pix_mae, images, mask, hidden, changed):
    first, second = (
        norm_pix_mae.reconstruct(x, mask=mask, statistics="true") for x in (images.astype("float32"), changed)
    )
    assert np.abs(first.predicted - second.predicted)[hidden].mean() > 1


def test_visible_statistics_are_the_default(norm_pix_mae, images, mask):
    default = norm_pix_mae.reconstruct(images, mask)
    visible = norm_pix_mae.reconstruct(images, mask, statistics="visible")
    np.testing.assert_array_equal(default.predicted, visible.predicted)
    assert default.statistics == visible.statistics


def test_each_source_of_statistics_is_named(mae, norm_pix_mae, images):
    assert "guessed from visible patches" in norm_pix_mae.reconstruct(images).statistics
    assert "taken from the original" in norm_pix_mae.reconstruct(images, statistics="true").statistics
    assert mae.reconstruct(images).statistics == ""


def test_true_statistics_undo_the_oracles_normalisation(norm_pix_mae, weights, sizes, images, mask):
    prediction = oracles.decode(oracles.encode(images, weights, sizes, mask), weights, sizes, mask)
    truth = oracles.patches_of(oracles.normalised(images, sizes), sizes.patch_size)
    patches = prediction * np.sqrt(truth.var(-1, ddof=1, keepdims=True) + 1e-6) + truth.mean(-1, keepdims=True)
    whole = to_numpy(keras_mae.unpatchify(patches.astype("float32"), (3, 2), (15, 14, 3)))
    expected = whole * np.array(sizes.pixel_std) + np.array(sizes.pixel_mean)
    got = norm_pix_mae.reconstruct(images.astype("float32"), mask=mask, statistics="true").predicted
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_visible_statistics_in_training_do_not_see_the_removed_pixels(norm_pix_mae, images, noise, changed):
    """The PSNR metric of a norm-pix model must not be told the answer either."""
    outputs = [
        norm_pix_mae.outputs_for_loss({"images": x, "noise": noise}, training=False)
        for x in (images.astype("float32"), changed)
    ]
    for key in ("guessed_mean", "guessed_std"):
        np.testing.assert_array_equal(to_numpy(outputs[0][key]), to_numpy(outputs[1][key]))


# === Refused ===
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(mae, images, value):
    bad = images.astype("float32")
    bad[1, 2, 3, 0] = value
    with pytest.raises(ValueError, match=r"`images` must be finite.*in 1 of 3 images, the first at index 1"):
        mae.reconstruct(bad)


@pytest.mark.parametrize("shape", [(15, 14, 3), (2, 14, 15, 3), (2, 15, 14, 1)])
def test_images_of_another_shape_are_refused(mae, shape):
    with pytest.raises(ValueError, match=r"`images` must have shape \(batch, 15, 14, 3\). Received"):
        mae.reconstruct(np.zeros(shape, "uint8"))


def test_no_images_are_refused(mae):
    with pytest.raises(ValueError, match=r"`images` must have at least one image. Received: images.shape=\(0, "):
        mae.reconstruct(np.zeros((0, 15, 14, 3), "uint8"))


def test_images_that_are_no_numbers_are_refused(mae, images):
    with pytest.raises(
        ValueError, match=r"`images` must be integers or floats in 0-255: .* Received: images.dtype=bool"
    ):
        mae.reconstruct(images > 0)


def test_unknown_statistics_are_refused(norm_pix_mae, images):
    with pytest.raises(
        ValueError, match=r"`statistics` must be one of 'visible', 'true'. Received: statistics='best'"
    ):
        norm_pix_mae.reconstruct(images, statistics="best")


def test_a_mask_for_another_number_of_images_is_refused(mae, images, mask):
    with pytest.raises(ValueError, match=r"`mask` must have one row an image. Received: 2 rows for 3 images"):
        mae.reconstruct(images, mask=mask[:2])


def test_unequal_counts_are_refused(mae, images, mask):
    uneven = mask.copy()
    uneven[2, np.flatnonzero(mask[2] == 0)[0]] = 1
    with pytest.raises(ValueError, match="must keep the same number of patches in every image, here 8 of 35"):
        mae.reconstruct(images, mask=uneven)


def test_bad_seed_is_refused(mae, images):
    with pytest.raises(ValueError, match=r"`seed` must be an integer in \[0, 2\*\*31\). Received: seed=1.5"):
        mae.reconstruct(images, seed=1.5)
