"""Images to patches and back, and the embedding of the visible ones."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae


def to_numpy(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize(
    ("image_shape", "patch_size"),
    [((15, 14, 3), (3, 2)), ((10, 21, 1), (5, 7)), ((12, 12, 4), (4, 4)), ((6, 4, 7), (6, 1))],
)
def test_patchify_agrees_with_a_pixel_by_pixel_loop(image_shape, patch_size, make_images):
    images = make_images(2, image_shape)
    patches = to_numpy(keras_mae.patchify(images, patch_size))
    np.testing.assert_array_equal(patches, oracles.patches_of(images, patch_size))


def test_patch_order_written_out_by_hand():
    # 2 x 4 pixels of two channels, cut into two patches of 2 x 2: (row, column, channel), channel last.
    images = np.arange(16, dtype="float32").reshape(1, 2, 4, 2)
    expected = [[[0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]]]
    np.testing.assert_array_equal(to_numpy(keras_mae.patchify(images, 2)), expected)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_unpatchify_undoes_patchify_and_both_keep_the_dtype(dtype, images):
    images = images.astype(dtype)
    patches = keras_mae.patchify(ops.convert_to_tensor(images), (3, 2))
    back = to_numpy(keras_mae.unpatchify(patches, (3, 2), (15, 14, 3)))
    assert to_numpy(patches).dtype == back.dtype == dtype
    np.testing.assert_array_equal(back, images)


def test_patchify_refuses_a_patch_that_does_not_divide(images):
    with pytest.raises(ValueError, match=r"`patch_size` must divide.*patch_size=\(4, 2\), image_shape=\(15, 14, 3\)"):
        keras_mae.patchify(images, (4, 2))


@pytest.mark.parametrize("patch_size", [0, -3, 2.5, (3,), (3, 2, 1), (3, 0), "16", True])
def test_patch_size_must_be_one_or_two_positive_integers(images, patch_size):
    with pytest.raises(ValueError, match="`patch_size` must be a positive integer"):
        keras_mae.patchify(images, patch_size)


def test_unpatchify_names_the_shape_it_wants():
    with pytest.raises(ValueError, match=r"shape \(batch, 35, 18\).*Received: patches.shape=\(2, 35, 17\)"):
        keras_mae.unpatchify(np.zeros((2, 35, 17)), (3, 2), (15, 14, 3))


def test_embedding_agrees_with_the_oracle(mae, weights, sizes, images):
    expected = oracles.dense(
        oracles.patches_of(oracles.normalised(images, sizes), sizes.patch_size), weights, "encoder.patches"
    )
    np.testing.assert_allclose(to_numpy(mae.encoder.patch_embedding(images)), expected, atol=1e-5)


def test_embedding_of_some_patches_is_those_rows_of_all(mae, images):
    ids = np.array([[34, 0, 7], [1, 33, 2], [5, 6, 20]], "int32")
    whole = to_numpy(mae.encoder.patch_embedding(images))
    some = to_numpy(mae.encoder.patch_embedding(images, ids_keep=ids))
    np.testing.assert_allclose(some, np.take_along_axis(whole, ids[..., None], axis=1), atol=1e-6)


def test_embedding_takes_several_rows_of_ids_an_image(mae, images):
    # Rows 2i and 2i + 1 belong to image i.
    ids = np.random.default_rng(5).integers(0, 35, (6, 4)).astype("int32")
    whole = to_numpy(mae.encoder.patch_embedding(images))
    some = to_numpy(mae.encoder.patch_embedding(images, ids_keep=ids))
    expected = np.stack([whole[row // 2][ids[row]] for row in range(6)])
    np.testing.assert_allclose(some, expected, atol=1e-6)


def test_pixels_are_normalised_channel_by_channel():
    layer = keras_mae.PatchEmbedding((1, 2), 4, pixel_mean=(10, 20, 30), pixel_std=(2, 4, 5))
    images = np.broadcast_to(np.array([14, 12, 35], "uint8"), (1, 1, 2, 3))
    layer.build(images.shape)
    np.testing.assert_allclose(to_numpy(layer.pixels(images)), [[[2, -2, 1, 2, -2, 1]]], atol=1e-6)


def test_pixels_stay_float32_under_a_bfloat16_policy(images):
    exact = keras_mae.PatchEmbedding((3, 2), 4, pixel_mean=(127.5,) * 3, pixel_std=(57.1,) * 3)
    mixed = keras_mae.PatchEmbedding(
        (3, 2), 4, pixel_mean=(127.5,) * 3, pixel_std=(57.1,) * 3, dtype="mixed_bfloat16"
    )
    precise = images.astype("float32") + 0.123
    for layer in (exact, mixed):
        layer.build(images.shape)
    np.testing.assert_array_equal(to_numpy(mixed.pixels(precise)), to_numpy(exact.pixels(precise)))
    assert to_numpy(mixed.pixels(precise)).dtype == "float32"


def test_pixels_are_normalised_by_the_backend_alone():
    """A NumPy constant in PyTorch's arithmetic would cut the gradient on a CPU, and fail on a GPU."""
    torch = pytest.importorskip("torch")
    if keras.backend.backend() != "torch":
        pytest.skip("about PyTorch")
    layer = keras_mae.PatchEmbedding((3, 2), 4, pixel_mean=(10, 20, 30), pixel_std=(40, 50, 60))
    layer.build((None, 15, 14, 3))
    images = torch.rand(2, 15, 14, 3, requires_grad=True)
    layer.pixels(images).sum().backward()
    expected = np.broadcast_to(1 / np.float32((40, 50, 60)), images.shape)
    np.testing.assert_allclose(images.grad.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((1, 2, 3), (1, 2), "one value a channel each"),
        ((1, 2), (1, 2), r"one value for each of the image's channels.*image_shape=\(15, 14, 3\)"),
        ((1, 2, 3), (1, 0, 1), "`pixel_std` must be a finite number above 0. Received: pixel_std=0.0"),
        ((1, 2, 3), (1, -1, 1), "`pixel_std` must be a finite number above 0. Received: pixel_std=-1.0"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        keras_mae.PatchEmbedding((3, 2), 4, pixel_mean=mean, pixel_std=std).build((None, 15, 14, 3))
