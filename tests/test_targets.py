"""What a masked autoencoder predicts: each target against NumPy, in the model, saved, and refused."""

import keras
import numpy as np
import oracles
import pytest
from conftest import PATCH_SIZE, build_mae, random_images, randomize_weights, run_quickly
from keras import ops

import keras_mae
from keras_mae.targets import HOG, LowPass
from keras_mae.targets.matrices import resized
from keras_mae.targets.patch_targets import PatchTargets, settled


def to_numpy(x):
    return ops.convert_to_numpy(x)


def encoder_of(image_shape, patch_size, **kwargs):
    return keras_mae.ViTEncoder(image_shape, patch_size, embed_dim=8, depth=1, num_heads=2, **kwargs)


def vectors_of(target, images, encoder):
    """A target's vectors for all patches, computed in one compiled program where the backend has any."""
    targets = PatchTargets(*settled(target, None), encoder)
    vectors = to_numpy(run_quickly(lambda x: targets.vectors(x))(ops.convert_to_tensor(images)))
    assert vectors.dtype == "float32"
    assert vectors.shape == (len(images), encoder.num_patches, targets.dim)
    return vectors


# === The referees: NumPy, in the complex transform and in degrees ===
def normalised(images, encoder):
    return (images.astype("float64") - np.array(encoder.pixel_mean)) / np.array(encoder.pixel_std)


def low_pass_by_fft(images, encoder, cutoff):
    spectrum = np.fft.fft2(normalised(images, encoder), axes=(1, 2))
    vertical, horizontal = (np.fft.fftfreq(side) for side in images.shape[1:3])
    circle = np.hypot(vertical[:, None], horizontal[None]) <= cutoff + 1e-12
    filtered = np.fft.ifft2(spectrum * circle[None, :, :, None], axes=(1, 2))
    assert abs(filtered.imag).max() < 1e-12
    return oracles.patches_of(filtered.real, encoder.patch_size)


def hog_by_loops(images, encoder, cell, orientations):
    x = images.astype("float64")
    down, right = np.zeros_like(x), np.zeros_like(x)
    down[:, 1:-1], right[:, :, 1:-1] = x[:, 2:] - x[:, :-2], x[:, :, 2:] - x[:, :, :-2]
    degrees = np.rad2deg(np.arctan2(down, right)) % 180
    length = np.hypot(down, right) / np.array(encoder.pixel_std)
    (rows, columns), channels, (height, width) = encoder.grid, images.shape[3], encoder.patch_size
    result = np.zeros((len(images), rows * columns, 0)).tolist()
    for image in range(len(images)):
        for patch in range(rows * columns):
            top, left = patch // columns * height, patch % columns * width
            for row in range(top, top + height, cell):
                for column in range(left, left + width, cell):
                    for channel in range(channels):
                        histogram = np.zeros(orientations)
                        for i in range(row, row + cell):
                            for j in range(column, column + cell):
                                bin = int(degrees[image, i, j, channel] // (180 / orientations))
                                histogram[bin] += length[image, i, j, channel] / cell**2
                        result[image][patch] += list(histogram / np.sqrt((histogram**2).sum() + 1e-10))
    return np.array(result)


# === Pixels without high frequencies ===
@pytest.mark.parametrize(
    ("image_shape", "patch_size", "cutoff"),
    [
        ((15, 14, 3), (3, 2), 0.3),
        ((28, 28, 1), 4, 5 / 28),  # (3, 4) and (4, 3) cycles lie on the circle
        ((8, 6, 2), 2, 0.5),  # the highest frequency of an even side has no sine
    ],
)
def test_low_pass_is_the_circle_of_the_complex_transform(image_shape, patch_size, cutoff):
    encoder, images = encoder_of(image_shape, patch_size), random_images(2, image_shape)
    expected = low_pass_by_fft(images, encoder, cutoff)
    np.testing.assert_allclose(vectors_of(LowPass(cutoff), images, encoder), expected, atol=2e-6)


def test_low_pass_by_name_keeps_40_cycles_of_224_pixels():
    encoder, images = encoder_of((28, 28, 1), 4), random_images(1, (28, 28, 1))
    np.testing.assert_array_equal(
        vectors_of("low_pass", images, encoder), vectors_of(LowPass(5 / 28), images, encoder)
    )


def test_low_pass_with_a_high_cutoff_changes_nothing():
    encoder, images = encoder_of((15, 14, 3), (3, 2)), random_images(2)
    np.testing.assert_allclose(
        vectors_of(LowPass(0.75), images, encoder), vectors_of("pixels", images, encoder), atol=2e-6
    )


# === Histograms of oriented gradients ===
@pytest.mark.parametrize(
    ("image_shape", "patch_size", "target", "cell"),
    [((12, 20, 3), 4, HOG(2), 2), ((12, 20, 1), (4, 5), HOG(1, 6), 1), ((16, 12, 2), 4, "hog", 4)],
)
def test_hog_is_that_of_loops_over_pixels_and_degrees(image_shape, patch_size, target, cell):
    encoder = encoder_of(image_shape, patch_size, pixel_std=[40 + 10 * i for i in range(image_shape[2])])
    images = random_images(2, image_shape)
    images[0, :, :, 0] = 7  # no gradient at all: zero, not 0 / 0
    expected = hog_by_loops(images, encoder, cell, getattr(target, "orientations", 9))
    np.testing.assert_allclose(vectors_of(target, images, encoder), expected, atol=2e-6)


def test_hog_is_scikit_images():
    feature = pytest.importorskip("skimage.feature")
    encoder, images = encoder_of((16, 24, 1), 8, pixel_mean=0.0, pixel_std=1.0), random_images(2, (16, 24, 1))
    expected = [
        feature.hog(image[..., 0].astype("float64"), 9, (4, 4), (1, 1), block_norm="L2", feature_vector=False)
        for image in images
    ]
    cells = vectors_of(HOG(4), images, encoder).reshape(2, 2, 3, 2, 2, 9).transpose(0, 1, 3, 2, 4, 5)
    np.testing.assert_allclose(cells.reshape(2, 4, 6, 9), np.array(expected)[:, :, :, 0, 0], atol=2e-6)


@pytest.mark.parametrize(
    ("patch_size", "cell"),
    [((16, 16), 8), ((14, 14), 7), ((8, 8), 8), ((4, 4), 4), ((32, 32), 8), ((11, 11), 11), ((6, 4), 2)],
)
def test_a_cell_is_the_divisor_of_the_patch_nearest_to_8(patch_size, cell):
    assert HOG().cell_in(patch_size) == cell


def test_images_of_one_row_have_gradients_along_it_only():
    encoder, images = encoder_of((1, 8, 1), (1, 4)), random_images(2, (1, 8, 1))
    vectors = vectors_of("hog", images, encoder)
    np.testing.assert_allclose(vectors[..., 0].max(), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors.reshape(2, 8, 9)[..., 1:], 0)


def test_compiled_forms_give_the_same(compiled):
    encoder, images = encoder_of((8, 12, 3), 4), random_images(2, (8, 12, 3))
    low_pass, hog = (PatchTargets(*settled(target, None), encoder) for target in ("low_pass", "hog"))
    both = compiled(lambda x: (low_pass.vectors(x), hog.vectors(x), resized(ops.cast(x, "float32"), (5, 19))))
    found = [to_numpy(value) for value in both(ops.convert_to_tensor(images))]
    np.testing.assert_allclose(found[0], low_pass_by_fft(images, encoder, 40 / 224), atol=2e-6)
    np.testing.assert_allclose(found[1], hog_by_loops(images, encoder, 4, 9), atol=2e-6)
    assert found[2].shape == (2, 5, 19, 3)


# === In the model ===
def means(images):
    """A target of somebody's own: mean and largest value of each patch and channel, (batch, patches, 6)."""
    patches = ops.cast(keras_mae.patchify(images, PATCH_SIZE), "float32")
    patches = ops.reshape(patches, (-1, patches.shape[1], 6, 3)) / 255
    return ops.concatenate([ops.mean(patches, axis=2), ops.max(patches, axis=2)], axis=-1)


keras.saving.register_keras_serializable(package="test_targets")(means)


def means_by_numpy(images, mae):
    patches = oracles.patches_of(images.astype("float64") / 255, PATCH_SIZE).reshape(len(images), -1, 6, 3)
    return np.concatenate([patches.mean(2), patches.max(2)], axis=-1)


def standardised(vectors):
    return (vectors - vectors.mean(-1, keepdims=True)) / np.sqrt(vectors.var(-1, ddof=1, keepdims=True) + 1e-6)


TARGETS = {
    "normalized": ({"target": "normalized"}, lambda x, mae: standardised(low_pass_by_fft(x, mae.encoder, 1)), 18),
    "low_pass": ({"target": LowPass(0.3)}, lambda x, mae: low_pass_by_fft(x, mae.encoder, 0.3), 18),
    "low_pass, normalized": (
        {"target": "low_pass", "norm_pix_loss": True},
        lambda x, mae: standardised(low_pass_by_fft(x, mae.encoder, 40 / 224)),
        18,
    ),
    "hog": ({"target": "hog"}, lambda x, mae: hog_by_loops(x, mae.encoder, 1, 9), 6 * 3 * 9),
    "function": ({"target": means}, means_by_numpy, 6),
}
each_target = pytest.mark.parametrize("name", TARGETS)


@pytest.fixture(scope="module")
def models():
    """A model of each target, with random weights. Shared: tests must not change them."""
    return {name: randomize_weights(build_mae(**arguments)) for name, (arguments, *_) in TARGETS.items()}


@each_target
def test_the_loss_is_the_mean_square_over_the_vectors_of_removed_patches(name, models, images):
    mae, (_, vectors, dim) = models[name], TARGETS[name]
    sizes, weights = oracles.Sizes.of(mae), oracles.weights_of(mae)
    outputs = run_quickly(lambda x: mae(x))(images)
    mask = to_numpy(outputs["mask"])
    tokens = oracles.encode(images, weights, sizes, mask)
    prediction = oracles.decode(tokens, weights, sizes, mask)
    assert prediction.shape[-1] == dim
    np.testing.assert_allclose(to_numpy(outputs["reconstruction"]), prediction, rtol=1e-4, atol=1e-4)
    expected = oracles.loss_of(prediction, vectors(images, mae), mask)
    by_call = run_quickly(lambda x: mae.compute_loss(x, y_pred=mae(x), training=False))(images)
    by_removed = run_quickly(
        lambda x: mae.compute_loss(x, y_pred=mae.outputs_for_loss(x, training=False), training=False)
    )(images)
    np.testing.assert_allclose([float(to_numpy(by_call)), float(to_numpy(by_removed))], expected, rtol=1e-4)


@each_target
def test_masks_of_one_image_share_its_vectors(name, models, images):
    targets = models[name]._targets
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(35, dtype="int32"), (6, 1)), axis=1)[:, :9]
    whole = to_numpy(targets.vectors(images))
    several = to_numpy(targets.vectors(images, ops.convert_to_tensor(ids)))
    np.testing.assert_array_equal(several, np.stack([whole[row // 2, ids[row]] for row in range(6)]))


def test_vectors_are_those_of_the_patches_that_are_predicted(models, images):
    """A share of the removed patches, under two masks an image."""
    mae = build_mae(target="hog", masks_per_image=2, predict_ratio=0.3)
    outputs = run_quickly(lambda x: mae.outputs_for_loss(x, training=True))(images)
    whole, given = to_numpy(models["hog"]._targets.vectors(images)), to_numpy(outputs["removed_target"])
    assert given.shape == (6, 8, 162)  # 8 of 27 removed ones
    apart = abs(given[:, :, None] - whole.repeat(2, axis=0)[:, None]).max(-1)
    assert apart.min(-1).max() < 1e-6
    assert len({tuple(row.argmin(-1)) for row in apart}) == 6


@pytest.mark.parametrize(
    "name", ["low_pass, normalized", "hog", pytest.param("function", marks=pytest.mark.backends("torch"))]
)
def test_training_saved_and_loaded_goes_on_as_if_it_had_not_been(name, images, tmp_path):
    """Compiled steps, two masks an image; the prediction's width is the target's after loading, too."""
    arguments = TARGETS[name][0]
    mae = build_mae(**arguments, masks_per_image=2)
    mae.compile(keras_mae.optimizers.AdamW(1e-2))
    logs = mae.fit(images, batch_size=3, epochs=2, shuffle=False, verbose=0).history
    assert ("psnr" in logs) == mae.predicts_pixels == (name not in ("hog", "function"))
    assert logs["loss"][1] < logs["loss"][0]
    assert set(logs) == {"loss", "skipped_steps"} | ({"psnr"} if mae.predicts_pixels else set())
    mae.save(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras")
    assert (type(loaded.target), loaded.norm_pix_loss) == (type(mae.target), mae.norm_pix_loss)
    assert loaded.get_config()["target"] == mae.get_config()["target"]
    for model in (mae, loaded):
        model.fit(images, batch_size=3, shuffle=False, verbose=0)
    for ours, theirs in zip(loaded.weights, mae.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


def test_a_preset_folder_keeps_the_target(tmp_path):
    mae = build_mae(target=HOG(orientations=4))
    mae.save_to_preset(tmp_path / "preset")
    again = keras_mae.MaskedAutoencoder.from_preset(tmp_path / "preset")
    assert again.target.get_config() == {"cell": None, "orientations": 4}
    assert again.decoder.output_dim == 6 * 3 * 4


@pytest.mark.parametrize("name", ["normalized", "hog"])
def test_a_copy_for_larger_images_keeps_the_target(name, models):
    copied = models[name].copy(image_shape=(18, 14, 3), seed=3)
    assert (copied.target, copied.norm_pix_loss, copied.seed) == (name, name == "normalized", 3)
    assert copied.decoder.output_dim == models[name].decoder.output_dim
    kernels = [to_numpy(model.decoder.prediction.kernel) for model in (copied, models[name])]
    np.testing.assert_array_equal(*kernels)


def test_psnr_of_a_low_pass_model_is_that_of_the_pixels_it_predicts(models, images):
    mae = models["low_pass"]
    outputs = {key: to_numpy(value) for key, value in mae.outputs_for_loss(images, training=False).items()}
    error = (outputs["removed_prediction"] - outputs["removed_pixels"]) * np.tile(mae.encoder.pixel_std, 6)
    expected = 10 * np.log10(255**2 / (error.astype("float64") ** 2).mean((1, 2)))
    np.testing.assert_allclose(to_numpy(mae.removed_psnr(outputs)), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["low_pass", "low_pass, normalized"])
def test_reconstructions_of_a_low_pass_model_are_its_pixels(name, models, images):
    mae, arguments = models[name], TARGETS[name][0]
    cutoff = getattr(arguments["target"], "cutoff", 40 / 224)
    result = mae.reconstruct(images.astype("float32"), statistics="true")
    prediction = to_numpy(mae.predict(images, verbose=0)["reconstruction"])
    if mae.norm_pix_loss:
        target = low_pass_by_fft(images, mae.encoder, cutoff)
        std = np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        prediction = prediction * std + target.mean(-1, keepdims=True)
    pixels = prediction * np.tile(mae.encoder.pixel_std, 6) + np.tile(mae.encoder.pixel_mean, 6)
    np.testing.assert_allclose(oracles.patches_of(result.predicted, PATCH_SIZE), pixels, rtol=1e-3, atol=1e-2)


def unregistered(images):
    return means(images)


def test_a_function_that_is_not_registered_takes_custom_objects(tmp_path):
    build_mae(target=unregistered).save(tmp_path / "mae.keras")
    with pytest.raises(ValueError, match="a function that is not known here: register it .* target='unregistered'"):
        keras.saving.load_model(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras", custom_objects={"unregistered": unregistered})
    assert loaded.target is unregistered


# === What is refused, and what is the same by another name ===
@pytest.mark.parametrize("given", [{}, {"target": "pixels"}, {"norm_pix_loss": False}])
def test_pixels_are_predicted_unless_something_else_is_said(given):
    mae = build_mae(**given)
    assert (mae.target, mae.norm_pix_loss, mae.get_config()["target"]) == ("pixels", False, None)


@pytest.mark.parametrize(
    "given", [{"target": "normalized"}, {"norm_pix_loss": True}, {"target": "normalized", "norm_pix_loss": True}]
)
def test_normalized_is_another_name_of_norm_pix_loss(given):
    mae = build_mae(**given)
    assert (mae.target, mae.norm_pix_loss, mae.get_config()["target"]) == ("normalized", True, None)


@pytest.mark.parametrize(
    ("target", "norm_pix_loss"), [("pixels", True), ("normalized", False), ("hog", True), (means, True)]
)
def test_a_target_that_contradicts_norm_pix_loss_is_refused(target, norm_pix_loss):
    with pytest.raises(ValueError, match=f"another name for .* Received: norm_pix_loss={norm_pix_loss}, target="):
        build_mae(target=target, norm_pix_loss=norm_pix_loss)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("hogs", "`target` must be one of 'pixels', 'normalized', 'low_pass', 'hog'. Received: target='hogs'"),
        (3, "`target` must be 'pixels', .*, or a function of images. Received: target=3"),
        (lambda images: images, r"`target` must return vectors \(batch, 35, dim\).*Received: .*\(1, 15, 14, 3\)"),
        (HOG(2), r"`cell` must divide the patch's height and width. Received: cell=2, patch_size=\(3, 2\)"),
    ],
)
def test_a_target_that_is_none_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        build_mae(target=target)


def test_a_decoder_built_for_another_target_is_refused():
    decoder = build_mae().decoder
    with pytest.raises(ValueError, match="a decoder for 18 values a patch and a target of 162"):
        keras_mae.MaskedAutoencoder(build_mae().encoder, decoder, target="hog")


def test_what_is_no_pixels_cannot_be_looked_at(models, images):
    with pytest.raises(ValueError, match="`reconstruct` shows predicted pixels.* Received: a model of target='hog'"):
        models["hog"].reconstruct(images)
    with pytest.raises(ValueError, match="`removed_psnr` shows predicted pixels"):
        models["function"].removed_psnr({})
