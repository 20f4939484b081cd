"""Target, loss, and what undoes a normalised target."""

import math

import numpy as np
import oracles
import pytest
from keras import ops

from keras_mae.loss import (
    patch_statistics,
    psnr,
    reconstruction_loss,
    reconstruction_target,
    visible_statistics,
)


def to_numpy(x):
    return ops.convert_to_numpy(x)


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values), dtype="float32")


@pytest.fixture(scope="module")
def pixels():
    return tensor(np.random.default_rng(0).standard_normal((3, 7, 5)))


@pytest.fixture(scope="module")
def prediction():
    return tensor(np.random.default_rng(1).standard_normal((3, 7, 5)))


MASK = np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 0, 0]], "float32")


def test_pixel_target_is_the_pixels(pixels):
    np.testing.assert_array_equal(to_numpy(reconstruction_target(pixels, norm_pix_loss=False)), to_numpy(pixels))


def test_normalised_target_has_mean_zero_and_unbiased_variance_one(pixels):
    target = to_numpy(reconstruction_target(pixels, norm_pix_loss=True))
    np.testing.assert_allclose(target.mean(-1), 0, atol=1e-6)
    # The biased variance would give 1.25 here, with 5 pixels a patch.
    np.testing.assert_allclose(target.var(-1, ddof=1), 1, atol=1e-4)


def test_normalised_target_of_a_faint_patch_by_hand():
    # Mean 0, unbiased variance 2e-6: each of +-1e-3 becomes 1e-3 / sqrt(2e-6 + 1e-6).
    target = to_numpy(reconstruction_target(tensor([[[1e-3, -1e-3]]]), norm_pix_loss=True))
    np.testing.assert_allclose(target, [[[1e-3 / math.sqrt(3e-6), -1e-3 / math.sqrt(3e-6)]]], rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.75])
def test_normalised_target_of_a_flat_patch_is_zero(value):
    flat = tensor(np.full((1, 2, 5), value))
    np.testing.assert_allclose(to_numpy(reconstruction_target(flat, norm_pix_loss=True)), 0, atol=1e-3)


def test_normalised_target_of_one_pixel_patches_is_finite():
    np.testing.assert_array_equal(to_numpy(reconstruction_target(tensor([[[1], [1]]]), True)), 0)


def test_statistics_undo_the_normalisation(pixels):
    mean, std = patch_statistics(pixels)
    back = to_numpy(reconstruction_target(pixels, True)) * to_numpy(std) + to_numpy(mean)
    np.testing.assert_allclose(back, to_numpy(pixels), atol=1e-5)


def test_loss_agrees_with_the_formula_of_the_paper(prediction, pixels):
    """With the same number removed of every sample, the mean of the losses is sum(loss * mask) / sum(mask)."""
    loss = to_numpy(reconstruction_loss(prediction, pixels, tensor(MASK)))
    assert loss.shape == (3,)
    expected = oracles.loss_of(to_numpy(prediction), to_numpy(pixels), MASK)
    np.testing.assert_allclose(loss.mean(), expected, atol=1e-6)


def test_loss_of_each_sample_is_its_own(prediction, pixels):
    loss = to_numpy(reconstruction_loss(prediction, pixels, tensor(MASK)))
    guess, truth = to_numpy(prediction), to_numpy(pixels)
    for sample in range(3):
        one = slice(sample, sample + 1)
        np.testing.assert_allclose(loss[sample], oracles.loss_of(guess[one], truth[one], MASK[one]), atol=1e-6)


def test_loss_without_a_mask_counts_every_patch(prediction, pixels):
    loss = to_numpy(reconstruction_loss(prediction, pixels))
    error = to_numpy(prediction) - to_numpy(pixels)
    np.testing.assert_allclose(loss, (error**2).mean(axis=(1, 2)), atol=1e-6)


def test_visible_patches_do_not_enter_the_loss(prediction, pixels):
    spoilt = tensor(np.where(MASK[..., None] == 0, 1e4, to_numpy(prediction)))
    loss, unspoilt = (reconstruction_loss(x, pixels, tensor(MASK)) for x in (spoilt, prediction))
    np.testing.assert_array_equal(to_numpy(loss), to_numpy(unspoilt))


def test_loss_of_bfloat16_predictions_is_computed_in_float32(pixels):
    close = ops.cast(pixels * 1.01, "bfloat16")
    loss = to_numpy(reconstruction_loss(close, pixels))
    assert loss.dtype == "float32"
    exact = to_numpy(ops.cast(close, "float32")).astype("float64")
    np.testing.assert_allclose(loss, ((exact - to_numpy(pixels)) ** 2).mean(axis=(1, 2)), rtol=1e-5)


def test_psnr_by_hand():
    # Two channels with deviations 10 and 20; errors of 0.5 and 0.25: 5 grey levels in both.
    pixels = tensor(np.zeros((1, 3, 4)))
    prediction = tensor(np.tile([0.5, -0.25], (1, 3, 2)))
    np.testing.assert_allclose(
        to_numpy(psnr(prediction, pixels, (10.0, 20.0))), [20 * math.log10(255 / 5)], rtol=1e-5
    )


def test_psnr_of_a_perfect_prediction_is_finite(pixels):
    assert np.isfinite(to_numpy(psnr(pixels, pixels, (57.0,)))).all()


# === Statistics guessed from the visible patches ===
KEEP, REMOVED = np.array([[4, 0], [1, 5]], "int32"), np.array([[1, 2, 3, 5], [0, 2, 3, 4]], "int32")


def guess(visible):
    mean, std = visible_statistics(
        tensor(visible), ops.convert_to_tensor(KEEP), ops.convert_to_tensor(REMOVED), grid=(2, 3)
    )
    return to_numpy(mean), to_numpy(std)


def test_visible_statistics_agree_with_loops():
    visible = np.random.default_rng(3).random((2, 2, 7))
    mean, std = guess(visible)
    for sample in range(2):
        for place, patch in enumerate(REMOVED[sample]):
            weights = [
                1 / ((patch // 3 - kept // 3) ** 2 + (patch % 3 - kept % 3) ** 2) for kept in KEEP[sample].tolist()
            ]
            for got, of_patch in ((mean, visible[sample].mean(-1)), (std, visible[sample].std(-1, ddof=1))):
                expected = np.average(of_patch, weights=weights)
                np.testing.assert_allclose(got[sample, place, 0], expected, atol=1e-5)


def test_visible_statistics_of_equal_patches_are_theirs():
    mean, std = guess(np.tile([1, 2, 3, 6], (2, 2, 1)))
    np.testing.assert_allclose(mean, 3, rtol=1e-5)
    np.testing.assert_allclose(std, np.std([1, 2, 3, 6], ddof=1), rtol=1e-5)
