"""The model as a whole: what it computes, how it masks, and what it refuses."""

import keras
import numpy as np
import oracles
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae.random import EVALUATION_STEP

RATIO = 0.75


def to_numpy(x):
    return ops.convert_to_numpy(x)


def numpy_of(outputs):
    return {key: to_numpy(value) for key, value in outputs.items()}


def loss_of(mae, images, **inputs):
    """The loss as `evaluate` computes it."""

    def loss(x):
        return mae.compute_loss(x, None, mae.outputs_for_loss(x, training=False), training=False)

    return float(to_numpy(run_quickly(loss)({"images": images, **inputs})))


def mask_of(ratio=RATIO, batch=3, patches=35, seed=9):
    """A mask that keeps int(patches * (1 - ratio)) patches of each sample."""
    return oracles.mask_from_noise(np.random.default_rng(seed).random((batch, patches)), ratio).astype("float32")


# === Against the oracle ===
def test_reconstruction_agrees_with_the_oracle(mae, weights, sizes, images, noise):
    outputs = numpy_of(mae({"images": images, "noise": noise}))
    mask = oracles.mask_from_noise(noise, RATIO)
    np.testing.assert_array_equal(outputs["mask"], mask)
    expected = oracles.decode(oracles.encode(images, weights, sizes, mask), weights, sizes, mask)
    np.testing.assert_allclose(outputs["reconstruction"], expected, atol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_loss_agrees_with_the_oracle(norm_pix_loss, request, weights, sizes, images, noise):
    mae = request.getfixturevalue("norm_pix_mae" if norm_pix_loss else "mae")  # the same weights
    mask = oracles.mask_from_noise(noise, RATIO)
    prediction = oracles.decode(oracles.encode(images, weights, sizes, mask), weights, sizes, mask)
    expected = oracles.loss_of(prediction, oracles.target_of(images, sizes, norm_pix_loss), mask)
    np.testing.assert_allclose(loss_of(mae, images, noise=noise), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("image_shape", "patch_size"), [((8, 30, 1), (4, 5)), ((21, 6, 4), (3, 6))], ids=["wide grey", "tall four"]
)
def test_other_shapes_and_channels_agree_with_the_oracle(image_shape, patch_size, make_mae, make_images, randomise):
    mae = randomise(make_mae(image_shape=image_shape, patch_size=patch_size, depth=1, norm_pix_loss=True))
    weights, sizes, images = oracles.weights_of(mae), oracles.Sizes.of(mae), make_images(2, image_shape)
    mask = mask_of(0.7, 2, sizes.grid[0] * sizes.grid[1])
    prediction = oracles.decode(oracles.encode(images, weights, sizes, mask), weights, sizes, mask)
    ids = np.argsort(mask, axis=1, kind="stable").astype("int32")
    kept = int((mask[0] == 0).sum())
    given = {"ids_keep": ids[:, :kept], "ids_removed": ids[:, kept:]}
    outputs = run_quickly(mae)({"images": images, **given})
    np.testing.assert_allclose(to_numpy(outputs["reconstruction"]), prediction, atol=1e-5)
    expected = oracles.loss_of(prediction, oracles.target_of(images, sizes, True), mask)
    np.testing.assert_allclose(loss_of(mae, images, **given), expected, rtol=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_both_ways_to_the_loss_agree(norm_pix_loss, request, images, noise):
    """From the removed patches alone, as training does it, and from all patches and the mask."""
    mae = request.getfixturevalue("norm_pix_mae" if norm_pix_loss else "mae")
    x = {"images": images, "noise": noise}
    full = float(to_numpy(mae.compute_loss(x, None, mae(x, training=False), training=False)))
    np.testing.assert_allclose(loss_of(mae, images, noise=noise), full, rtol=1e-6)


def test_sample_weights_multiply_each_images_loss(mae, images, noise):
    x, weights = {"images": images, "noise": noise}, np.array([0.5, 0, 3], "float32")
    outputs = mae.outputs_for_loss(x, training=False)
    error = to_numpy(outputs["removed_prediction"]) - to_numpy(outputs["removed_pixels"])
    weighted = float(to_numpy(mae.compute_loss(x, None, outputs, weights, training=False)))
    np.testing.assert_allclose(weighted, np.dot((error**2).mean(axis=(1, 2)), weights) / 3, rtol=1e-5)


# === What enters and what does not ===
def test_removed_pixels_do_not_reach_the_prediction(mae, images, noise):
    removed = oracles.mask_from_noise(noise, RATIO)
    where = to_numpy(keras_mae.unpatchify(np.repeat(removed[..., None], 18, axis=2), (3, 2), (15, 14, 3)))
    changed = np.where(where == 1, 255 - images, images).astype("uint8")
    assert (changed != images).any()
    first, second = (to_numpy(mae({"images": x, "noise": noise})["reconstruction"]) for x in (images, changed))
    np.testing.assert_array_equal(first, second)


def test_visible_pixels_reach_the_prediction_of_removed_patches(mae, images, noise):
    removed = oracles.mask_from_noise(noise, RATIO)
    where = to_numpy(keras_mae.unpatchify(np.repeat(removed[..., None], 18, axis=2), (3, 2), (15, 14, 3)))
    changed = np.where(where == 0, 255 - images, images).astype("uint8")
    first, second = (to_numpy(mae({"images": x, "noise": noise})["reconstruction"]) for x in (images, changed))
    assert np.abs(first - second)[removed == 1].max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_images_may_have_any_dtype(mae, images, noise, dtype):
    expected = to_numpy(mae({"images": images, "noise": noise})["reconstruction"])
    got = to_numpy(mae({"images": images.astype(dtype), "noise": noise})["reconstruction"])
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_dict_with_images_is_the_same_as_images(mae, images):
    bare, wrapped = numpy_of(mae(images)), numpy_of(mae({"images": images}))
    for key in ("reconstruction", "mask"):
        np.testing.assert_array_equal(bare[key], wrapped[key])


def test_symbolic_call_has_the_shapes_of_a_real_one(mae, images):
    outputs = mae(keras.Input((15, 14, 3), batch_size=3))
    real = numpy_of(mae(images))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {k: v.shape for k, v in real.items()}


# === Masks ===
def test_masks_without_training_are_those_of_the_evaluation_step(mae, images):
    noise = oracles.hash_noise(0, EVALUATION_STEP, range(3), 35)
    for _ in range(2):
        np.testing.assert_array_equal(to_numpy(mae(images)["mask"]), oracles.mask_from_noise(noise, RATIO))


def test_masks_in_training_follow_seed_and_step(make_mae, images):
    mae = make_mae(depth=1, seed=5)
    for step in range(3):
        assert int(mae.encoder.step.value) == step
        mask = to_numpy(mae(images, training=True)["mask"])
        expected = oracles.mask_from_noise(oracles.hash_noise(5, step, range(3), 35), RATIO)
        np.testing.assert_array_equal(mask, expected)
        mae(images, training=False)  # evaluation in between disturbs nothing


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
def test_masks_do_not_depend_on_the_dtype_policy(make_mae, mae, images, noise, dtype):
    low = make_mae(dtype=dtype)
    mask = run_quickly(lambda inputs: low(inputs)["mask"])
    np.testing.assert_array_equal(to_numpy(mask({"images": images})), to_numpy(mae(images)["mask"]))
    close = (0.5 + noise / 1000).astype("float32")  # distinct in float32, equal in bfloat16
    expected = oracles.mask_from_noise(close, RATIO)
    np.testing.assert_array_equal(to_numpy(mask({"images": images, "noise": close})), expected)


def test_outputs_and_loss_stay_float32_in_mixed_precision(make_mae, mae, images, noise):
    low = make_mae(dtype="mixed_bfloat16")
    for ours, source in zip(low.weights, mae.weights, strict=True):
        ours.assign(source)
    x = {"images": images, "noise": noise}
    outputs = run_quickly(lambda x: low.outputs_for_loss(x, training=False))(x)
    assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {"float32"}
    loss = low.compute_loss(x, None, outputs, training=False)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32"
    np.testing.assert_allclose(float(to_numpy(loss)), loss_of(mae, images, noise=noise), rtol=0.02)
    # The target was never rounded: it is the float32 model's. (bfloat16 would be 4e-3 off; XLA fuses as it likes.)
    exact = mae.outputs_for_loss(x, training=False)["removed_pixels"]
    np.testing.assert_allclose(to_numpy(outputs["removed_pixels"]), to_numpy(exact), rtol=1e-6, atol=1e-6)


def test_several_masks_of_one_image(make_mae, images):
    """Rows 2i and 2i + 1 of a training step are image i under two masks; the loss is the mean over them."""
    mae = make_mae(depth=1, masks_per_image=2)
    state = int(mae.encoder.step.value)

    @run_quickly
    def training_loss(images):
        return mae.compute_loss(images, None, mae.outputs_for_loss(images, training=True), training=True)

    loss = float(to_numpy(training_loss(images)))
    masks = oracles.mask_from_noise(oracles.hash_noise(0, state, range(6), 35), RATIO)
    ids = np.argsort(masks, axis=1, kind="stable").astype("int32")
    twice = np.repeat(images, 2, axis=0)
    np.testing.assert_allclose(loss, loss_of(mae, twice, ids_keep=ids[:, :8], ids_removed=ids[:, 8:]), rtol=1e-5)


def test_evaluation_uses_one_mask_an_image(make_mae):
    mae = make_mae(depth=1, masks_per_image=2)
    assert tuple(mae(keras.Input((15, 14, 3), batch_size=3), training=False)["mask"].shape) == (3, 35)


@pytest.mark.parametrize("shape", [(3, 35), (3, 5, 7)])
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool"])
def test_a_mask_of_the_caller_is_used(mae, images, shape, dtype):
    mask = mask_of()
    outputs = mae({"images": images, "mask": mask.reshape(shape).astype(dtype)})
    np.testing.assert_array_equal(to_numpy(outputs["mask"]), mask)


@pytest.mark.parametrize("training", [False, True])
def test_a_mask_of_the_caller_must_remove_what_the_masking_would(mae, images, training):
    """Compiled code cannot count, so the number is the same everywhere; `reconstruct` takes any."""
    rule = r"27 of 35 \(mask_ratio 0.7714\). Received: 14 of 35 \(mask_ratio 0.4\). masking=RandomMasking\(0.4\) fits"
    with pytest.raises(ValueError, match=rule):
        mae({"images": images, "mask": mask_of(0.4)}, training=training)


@pytest.mark.parametrize("kind", ["BlockMasking", "GridMasking"])
def test_block_and_grid_masking_reach_the_model(make_mae, make_images, kind):
    masking = getattr(keras_mae, kind)(0.75)
    mae = make_mae(image_shape=(12, 16, 1), patch_size=2, depth=1, masking=masking, seed=3)
    mask = to_numpy(run_quickly(mae)(make_images(2, (12, 16, 1)))["mask"])
    draw = {"BlockMasking": oracles.block_mask, "GridMasking": oracles.grid_mask}[kind]
    np.testing.assert_array_equal(mask, draw(oracles.hash_noise(3, -1, range(2), 48), (6, 8), 0.75))


# === Masks of the caller that do not fit ===
def unequal():
    mask = mask_of()
    mask[1, np.flatnonzero(mask[1] == 0)[0]] = 1
    return mask


def test_unequal_counts_are_refused(mae, images):
    with pytest.raises(ValueError, match="same number of patches in every image, here 8 of 35.* from 7 to 8"):
        mae({"images": images, "mask": unequal()})


def test_values_other_than_0_and_1_are_refused(mae, images):
    with pytest.raises(ValueError, match=r"`mask` must hold 1 \(removed\) and 0 \(kept\) only"):
        mae({"images": images, "mask": mask_of() * 2})


@pytest.fixture(scope="module")
def compiled_mae(make_mae):
    mae = make_mae(depth=1)
    mae.compile(optimizer=keras.optimizers.SGD(0.0))
    return mae


def test_predict_takes_a_mask_of_the_caller(compiled_mae, images):
    mask = mask_of()
    outputs = compiled_mae.predict({"images": images, "mask": mask}, verbose=0)
    np.testing.assert_array_equal(outputs["mask"], mask)


def test_predict_refuses_unequal_counts(compiled_mae, images):
    with pytest.raises(Exception, match="must keep the same number of patches in every image"):
        compiled_mae.predict({"images": images, "mask": unequal()}, verbose=0)


def test_fit_refuses_unequal_counts(compiled_mae, images):
    """Also after `predict` has refused: an error must not cost the model its weights."""
    with pytest.raises(Exception, match="must keep the same number of patches in every image, here 8 of 35"):
        compiled_mae.fit({"images": images, "mask": unequal()}, verbose=0)


@pytest.mark.parametrize("extra", ["noise", "mask"])
def test_only_one_way_to_say_what_to_hide(mae, images, noise, extra):
    given = {"mask": mask_of(), "noise": noise, "ids_keep": np.zeros((3, 8), "int32")}
    with pytest.raises(ValueError, match=r"Give one of `mask`, `noise` or `ids_keep`.*Received: .*ids_keep"):
        mae({"images": images, "ids_keep": given["ids_keep"], extra: given[extra]})


# === Construction ===
def with_masking(masking):
    return lambda encoder: keras_mae.MaskedAutoencoder(encoder, masking=masking)


def with_decoder(**arguments):
    return lambda encoder: keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2, **arguments))


def with_arguments(**arguments):
    return lambda encoder: keras_mae.MaskedAutoencoder(encoder, **arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: keras_mae.MaskedAutoencoder("vit"), "`encoder` must be a keras_mae.ViTEncoder.*encoder='vit'"),
        (with_masking(keras_mae.RandomMasking(0.0)), "must remove at least one patch.*mask_ratio=0.0 for 35"),
        (with_masking(keras_mae.RandomMasking(0.99)), "leave at least one patch visible.*mask_ratio=0.99"),
        (with_masking(keras_mae.GridMasking(0.75)), "must divide the grid of patches.*for 5 x 7"),
        (with_decoder(image_shape=(14, 15, 3)), r"the encoder's images and patches.*\(14, 15, 3\).*\(15, 14, 3\)"),
        (with_decoder(patch_size=2), r"the encoder's images and patches.*\(2, 2\).*\(3, 2\)"),
        (with_arguments(masks_per_image=0), "`masks_per_image` must be a positive integer. .*masks_per_image=0"),
        (with_arguments(seed=2**31), r"`seed` must be an integer in \[0, 2\*\*31\). Received: seed=2147483648"),
    ],
)
def test_parts_that_do_not_fit_are_refused(mae, make, message):
    with pytest.raises(ValueError, match=message):
        make(mae.encoder)


@pytest.mark.parametrize("argument", ["loss", "metrics"])
def test_a_loss_or_metrics_of_the_caller_are_refused(mae, argument):
    with pytest.raises(ValueError, match=f"has its own loss and metrics.*Received: {argument}"):
        mae.compile(optimizer="sgd", **{argument: "mse"})


def test_summary_shows_the_parts_and_their_parameters(mae):
    lines = []
    mae.summary(print_fn=lines.append)
    text = "\n".join(map(str, lines))
    for part in (mae.encoder, mae.decoder):
        assert f"{part.count_params():,}" in text
    assert f"{mae.count_params():,}" in text


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_psnr_in_image_units(norm_pix_loss, request, images, noise):
    """PSNR of the removed pixels in grey levels; a normalised target is undone with the visible statistics."""
    mae = request.getfixturevalue("norm_pix_mae" if norm_pix_loss else "mae")
    outputs = mae.outputs_for_loss({"images": images, "noise": noise}, training=False)
    values = numpy_of(outputs)
    predicted = values["removed_prediction"].astype("float64")
    if norm_pix_loss:
        predicted = predicted * values["guessed_std"] + values["guessed_mean"]
    error = (predicted - values["removed_pixels"]) * np.tile(mae.encoder.pixel_std, 6)
    expected = 10 * np.log10(255**2 / (error**2).mean(axis=(1, 2)))
    np.testing.assert_allclose(to_numpy(mae.removed_psnr(outputs)), expected, rtol=1e-5)
