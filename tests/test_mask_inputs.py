"""Masks as users have them: of any ratio, in patches or in pixels; copies of a model for other masks and images."""

import keras
import numpy as np
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae.masking import explicit_mask
from keras_mae.positions import resize_positions

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 20, 3), "uint8")  # patches of 3 x 4: 2 x 5


@pytest.fixture(scope="module")
def model(randomise):
    encoder = keras_mae.ViTEncoder((6, 20, 3), (3, 4), 24, 1, 4)
    made = randomise(
        keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), keras_mae.RandomMasking(0.6))
    )
    made.compile(keras.optimizers.SGD(0.1))
    return made


def patches_of(removed, rows=4, seed=1):
    """(rows, 10), 1 = removed, as many in every row."""
    mask = np.tile(np.arange(10) < removed, (rows, 1)).astype("float32")
    return np.random.default_rng(seed).permuted(mask, axis=1)


def in_pixels(mask, where=(2, 1)):
    """One pixel of every removed patch, or all."""
    touched = np.zeros((3, 4), "uint8")
    touched[where] = 1
    rows = np.kron(mask.reshape(-1, 2, 5), np.ones((1, 3, 4), "uint8"))
    return (rows * np.tile(touched, (2, 5))).astype("uint8")


def weights(mae):
    return [ops.convert_to_numpy(weight) for weight in mae.weights]


# === Another ratio ===
@pytest.mark.parametrize("how", ["call", "fit", "evaluate", "validation"])
@pytest.mark.parametrize("mask", [patches_of(3), in_pixels(patches_of(3))], ids=["patches", "pixels"])
def test_a_mask_of_another_ratio_names_the_masking_that_fits(how, mask, model):
    x = {"images": IMAGES, "mask": mask}
    run = {
        "call": lambda: model(x),
        "fit": lambda: model.fit(x, verbose=0),
        "evaluate": lambda: model.evaluate(x, verbose=0),
        "validation": lambda: model.fit(IMAGES, validation_data=(x,), verbose=0),
    }
    before = weights(model)
    rule = r"6 of 10 \(mask_ratio 0.6\). Received: 3 of 10 \(mask_ratio 0.3\). masking=RandomMasking\(0.3\) fits"
    with pytest.raises(ValueError, match=rule):
        run[how]()
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert model.copy(masking=keras_mae.RandomMasking(0.3))(x)["mask"].shape == (4, 10)


def test_a_mask_that_leaves_nothing_names_no_masking(model):
    with pytest.raises(ValueError, match="must leave at least one patch of every image visible"):
        model.fit({"images": IMAGES, "mask": patches_of(10)}, verbose=0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="there a dataset is first seen in compiled code")
def test_a_dataset_of_another_ratio_names_it_too(model):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices({"images": IMAGES, "mask": patches_of(3)}).batch(2)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"(?s)6 of 10 .*Received: .*3.* of 10.*RandomMasking.*0.3"
    ):
        model.fit(data, verbose=0)


@pytest.mark.parametrize(("removed", "patches"), [(1, 3), (2, 3), (7, 12), (5, 9), (147, 196), (100, 196)])
def test_the_masking_that_is_named_does_fit(removed, patches):
    mask = (np.arange(patches) < removed)[None].astype("float32")
    with pytest.raises(ValueError, match="RandomMasking") as caught:
        explicit_mask(ops.convert_to_tensor(mask), (1, patches), patches)
    ratio = float(str(caught.value).split("RandomMasking(")[1].split(")")[0])
    assert keras_mae.RandomMasking(ratio).num_kept((1, patches)) == patches - removed


# === In pixels ===
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32", "int64"])
@pytest.mark.parametrize("where", [(0, 0), (2, 3), (slice(None), slice(None))], ids=["first", "last", "all"])
def test_every_touched_patch_is_removed(where, dtype, model):
    mask = patches_of(6)
    given = {"images": IMAGES, "mask": in_pixels(mask, where).astype(dtype)}
    np.testing.assert_array_equal(ops.convert_to_numpy(run_quickly(model)(given)["mask"]), mask)
    np.testing.assert_array_equal(model.predict(given, verbose=0)["mask"], mask)
    result = model.reconstruct(IMAGES, mask=in_pixels(patches_of(2), where).astype(dtype))
    assert result.mask.reshape(4, -1).mean() == pytest.approx(0.2)


def test_a_mask_in_pixels_trains_as_the_same_in_patches(model):
    after = []
    for mask in (patches_of(6), in_pixels(patches_of(6))):
        copied = model.copy()
        copied.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
        copied.fit({"images": IMAGES, "mask": mask}, epochs=1, shuffle=False, verbose=0)
        after.append(weights(copied))
    assert all(np.array_equal(a, b) for a, b in zip(*after, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(after[0], weights(model), strict=True))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (in_pixels(patches_of(6)) * 255, r"must hold 1 \(removed\) and 0 \(kept\) only. .*from 0.0 to 255.0"),
        (np.zeros((4, 20, 6), "uint8"), r"\(batch, 10\) or \(batch, 2, 5\), or \(batch, 6, 20\) in pixels. Received"),
        (in_pixels(np.concatenate([patches_of(6, 3), patches_of(5, 1)])), "removes fewer.*Received: from 4 to 5"),
    ],
    ids=["255", "turned", "unequal"],
)
def test_masks_in_pixels_that_do_not_fit(mask, message, model):
    for run in (
        lambda: model.fit({"images": IMAGES, "mask": mask}, verbose=0),
        lambda: model.reconstruct(IMAGES, mask),
    ):
        with pytest.raises(ValueError, match=message):
            run()


def test_patches_of_one_pixel_read_the_same_both_ways():
    mask = np.eye(3, dtype="uint8")[None]
    one, two = (explicit_mask(ops.convert_to_tensor(mask), (3, 3), 6, size) for size in (None, (1, 1)))
    np.testing.assert_array_equal(ops.convert_to_numpy(one.mask), ops.convert_to_numpy(two.mask))


# === Copies ===
def test_a_copy_for_other_images(model):
    copied = model.copy(image_shape=(12, 12, 3), seed=5, name="larger")
    assert (copied.encoder.grid, copied.decoder.image_shape, copied.seed) == ((4, 3), (12, 12, 3), 5)
    assert (copied.name, copied.masking.mask_ratio, copied.norm_pix_loss) == ("larger", 0.6, False)
    for new, old in ((copied.encoder, model.encoder), (copied.decoder, model.decoder)):
        table = ops.convert_to_numpy(old.position_embedding)
        resized = ops.convert_to_numpy(new.position_embedding)
        np.testing.assert_array_equal(resized, resize_positions(table, (2, 5), (4, 3)))
        same = [np.array_equal(a, b) for a, b in zip(weights(new), weights(old), strict=True)]
        assert same.count(False) == 1
    assert copied(np.zeros((2, 12, 12, 3), "uint8"))["reconstruction"].shape == (2, 12, 36)


def test_training_a_copy_leaves_the_model_alone(model):
    before, copied = weights(model), model.copy()
    noise = np.tile(np.arange(10, dtype="float32"), (4, 1))
    one, two = (mae({"images": IMAGES, "noise": noise})["reconstruction"] for mae in (model, copied))
    np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(two))
    copied.compile(keras.optimizers.SGD(0.1), run_eagerly=keras.backend.backend() == "tensorflow")
    copied.fit(IMAGES, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(before, weights(copied), strict=True))
    assert copied.masking is not model.masking


def test_a_copy_of_another_precision_and_masking(model):
    copied = model.copy(
        dtype="mixed_bfloat16", masking=keras_mae.BlockMasking(0.5), masks_per_image=2, drop_path_rate=0.1
    )
    assert {part.dtype_policy.name for part in (copied, copied.encoder, copied.decoder)} == {"mixed_bfloat16"}
    assert (type(copied.masking), copied.masks_per_image) == (keras_mae.BlockMasking, 2)
    assert copied.encoder.drop_path_rate == 0.1
    assert all(np.array_equal(a, b) for a, b in zip(weights(copied), weights(model), strict=True))


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (6, 20, 1)}, "For other channels, give `encoder.copy"),
        ({"norm_pix_loss": True}, "not in what its weights depend on.*norm_pix_loss"),
        ({"patch_size": 2}, "not in what its weights depend on.*patch_size"),
        ({"image_shape": (7, 20, 3)}, "`patch_size` must divide"),
        ({"masking": keras_mae.GridMasking(0.75)}, "must divide the grid of patches"),
    ],
)
def test_what_a_copy_cannot_change(changes, message, model):
    with pytest.raises(ValueError, match=message):
        model.copy(**changes)


@pytest.mark.backends("torch")
def test_a_preset_is_opened_for_other_images(model, tmp_path):
    model.save_to_preset(tmp_path / "mae")
    again = keras_mae.MaskedAutoencoder.from_preset(tmp_path / "mae", image_shape=(12, 12, 3))
    expected = model.copy(image_shape=(12, 12, 3))
    assert all(np.array_equal(a, b) for a, b in zip(weights(again), weights(expected), strict=True))
