"""Images in another range than the encoder's are refused at every door, and welcome where the encoder says so."""

import dataclasses

import keras
import numpy as np
import pytest
from PIL import Image
from training_helpers import (
    BACKEND,
    BATCH,
    IMAGE_SHAPE,
    arrays,
    assert_identical,
    make_images,
    quick_compile,
    sgd,
    step_of,
)

import keras_mae
from keras_mae import data, pixels, transfer, visualize

BYTES = make_images(2 * BATCH)
FLOATS = BYTES.astype("float32")
UNIT = FLOATS / 255
LABELS = np.arange(2 * BATCH) % 3
TRANSPOSED = np.ascontiguousarray(BYTES.transpose(0, 3, 1, 2))
MULTIPLY = (
    r"in 0-255 .*: multiply by 255, or make the encoder with pixel_range=\(0, 1\). Received: float32 values from"
)

CHANNELS_FIRST = r"channels last: np.transpose\(images, \(0, 2, 3, 1\)\).*shape=\((6|12), 3, 12, 20\), channels first"
WRONG = {
    "0 to 1": (UNIT, MULTIPLY),
    "-1 to 1": (FLOATS / 127.5 - 1, r"add 1 and multiply by 127.5, or .* pixel_range=\(-1, 1\). Received: float32"),
    "normalized": ((FLOATS - 120) / 58, r"in 0-255 .* Received: float32 values from -\d"),
    "16 bits": (BYTES.astype("uint16") * 257, r"in 0-255.* Received: "),
    "bool": (BYTES > 99, r"integers or floats in 0-255: .* pixel_range=\(0, 1\). Received: images.dtype=bool"),
    "int8": ((BYTES // 2).astype("int8"), r"integers or floats in 0-255: .* Received: images.dtype=int8"),
    "channels first": (TRANSPOSED, CHANNELS_FIRST),
}


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def autoencoder(how=None, **encoder):
    keras.utils.set_random_seed(5)
    mae = keras_mae.MaskedAutoencoder(
        keras_mae.ViTEncoder(IMAGE_SHAPE, 4, embed_dim=16, depth=1, num_heads=2, mlp_ratio=2, **encoder),
        keras_mae.MAEDecoder(embed_dim=8, depth=1, num_heads=1, mlp_ratio=2),
    )
    mae.compile(sgd(), **({"run_eagerly": BACKEND != "jax"} if how is None else how))
    return mae


@pytest.fixture(scope="module")
def mae():
    return autoencoder()


@pytest.fixture(scope="module")
def classifier(mae):
    classifier = keras_mae.ViTClassifier(mae.encoder, 3)
    classifier.compile(sgd(), run_eagerly=BACKEND != "jax")
    return classifier


# === Every door ===
@pytest.mark.parametrize("kind", WRONG)
def test_fit_refuses_images_that_are_none_and_changes_nothing(mae, kind):
    images, message = WRONG[kind]
    before, step = arrays(mae.weights), step_of(mae)
    with pytest.raises(ValueError, match=message):
        mae.fit(images, batch_size=BATCH, verbose=0)
    assert_identical(arrays(mae.weights), before)
    assert step_of(mae) == step


DOORS = {
    "fit with bad validation_data": lambda mae, clf: mae.fit(
        BYTES, validation_data=UNIT, batch_size=BATCH, verbose=0
    ),
    "fit with bad validation_data in a tuple": lambda mae, clf: clf.fit(
        BYTES, LABELS, validation_data=(UNIT, LABELS), batch_size=BATCH, verbose=0
    ),
    "evaluate": lambda mae, clf: mae.evaluate(UNIT, verbose=0),
    "predict": lambda mae, clf: mae.predict(UNIT, verbose=0),
    "predict of a dict": lambda mae, clf: mae.predict({"images": UNIT}, verbose=0),
    "train_on_batch": lambda mae, clf: mae.train_on_batch(UNIT),
    "test_on_batch": lambda mae, clf: mae.test_on_batch(UNIT),
    "predict_on_batch": lambda mae, clf: mae.predict_on_batch(UNIT),
    "a call": lambda mae, clf: mae(UNIT),
    "reconstruct": lambda mae, clf: mae.reconstruct(UNIT),
    "encoder: predict": lambda mae, clf: mae.encoder.predict(UNIT, verbose=0),
    "encoder: a call": lambda mae, clf: mae.encoder(UNIT),
    "classifier: fit": lambda mae, clf: clf.fit(UNIT, LABELS, verbose=0),
    "classifier: evaluate": lambda mae, clf: clf.evaluate(UNIT, LABELS, verbose=0),
    "classifier: predict": lambda mae, clf: clf.predict(UNIT, verbose=0),
    "extract_features": lambda mae, clf: transfer.extract_features(mae.encoder, UNIT, progress=False),
    "linear_probe on features": lambda mae, clf: transfer.linear_probe(
        mae.encoder,
        (UNIT, LABELS),
        3,
        keras_mae.recipes.LinearProbeRecipe.for_size("base", epochs=1, warmup_epochs=0),
        cache_features=True,
        verbose=0,
    ),
    "reconstruct_at": lambda mae, clf: visualize.reconstruct_at(mae, UNIT),
    "attention": lambda mae, clf: visualize.attention(clf, UNIT),
    "attention_rollout": lambda mae, clf: visualize.attention_rollout(mae, UNIT),
    "feature_colors": lambda mae, clf: visualize.feature_colors(mae.encoder, UNIT),
    "saliency": lambda mae, clf: visualize.saliency(clf, UNIT),
    "ArraySource": lambda mae, clf: data.ArraySource(UNIT),
}


@pytest.mark.parametrize("door", DOORS)
def test_floats_of_0_to_1_are_refused_at_every_door(mae, classifier, door):
    with pytest.raises(ValueError, match=MULTIPLY):
        DOORS[door](mae, classifier)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return UNIT[index * BATCH : (index + 1) * BATCH], LABELS[index * BATCH : (index + 1) * BATCH]


def tf_data():
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
    return tf.data.Dataset.from_tensor_slices((UNIT, LABELS)).batch(BATCH)


def torch_loader():
    torch = pytest.importorskip("torch", reason="a DataLoader needs PyTorch")
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(UNIT), torch.from_numpy(LABELS))
    return torch.utils.data.DataLoader(dataset, BATCH)


def grain_data():
    grain = pytest.importorskip("grain.python", reason="Grain is not installed")
    return grain.MapDataset.source([(image, label) for image, label in zip(UNIT, LABELS, strict=True)]).batch(BATCH)


DATASETS = {
    "generator": lambda: ((UNIT[:BATCH], LABELS[:BATCH]) for _ in range(2)),
    "PyDataset": Batches,
    "tf.data": tf_data,
    "DataLoader": torch_loader,
    "Grain": grain_data,
    "ours, which was told another range": lambda: data.from_arrays(UNIT, LABELS, BATCH, pixel_range=(0, 1)),
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_kind_of_dataset_is_looked_at(mae, classifier, dataset):
    for call in (mae.fit, mae.evaluate, mae.predict, classifier.fit):
        with pytest.raises(ValueError, match=r"multiply by 255, or .* Received: float(32|64) values from"):
            call(DATASETS[dataset](), verbose=0)


# === Compiled ===
COMPILED = {
    "tensorflow": [({"jit_compile": False}, 1), ({"jit_compile": True}, 2)],
    "jax": [({}, 2)],
    "torch": [({}, 1)],  # it executes one step at a time
}[BACKEND]


@pytest.mark.parametrize(("how", "steps"), COMPILED, ids=str)
def test_compiled_steps_look_at_the_first_batch_of_each_call_only(how, steps):
    mae = autoencoder({**how, "steps_per_execution": steps})
    mae.fit(FLOATS, batch_size=BATCH, shuffle=False, verbose=0)
    before = arrays(mae.weights)
    with pytest.raises(ValueError, match=MULTIPLY):
        mae.fit(UNIT, batch_size=BATCH, verbose=0)  # traced already
    with pytest.raises(ValueError, match=MULTIPLY):
        mae.evaluate(UNIT, batch_size=BATCH, verbose=0)
    assert_identical(arrays(mae.weights), before)
    dark_later = np.concatenate([FLOATS[: steps * BATCH], UNIT[:BATCH], FLOATS[:BATCH]])
    logs = mae.fit(dark_later, batch_size=BATCH, shuffle=False, verbose=0).history
    assert np.isfinite(logs["loss"]).all()


class Few(keras.utils.PyDataset):
    """Three batches of an array."""

    def __init__(self, images):
        super().__init__()
        self.images = np.concatenate([images, images[:BATCH]])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.images[index * BATCH : (index + 1) * BATCH]


@pytest.mark.parametrize(("how", "steps"), COMPILED, ids=str)
def test_compiled_steps_look_at_bytes_of_a_dataset_and_lose_none(how, steps):
    """Somebody thresholded these. Of the others every batch is trained on."""
    mae = autoencoder({**how, "steps_per_execution": steps})
    for call in (mae.fit, mae.evaluate):
        with pytest.raises(ValueError, match="Received: uint8 values from 0 to 1"):
            call(Few((BYTES > 99).astype("uint8")), verbose=0)
    assert np.isfinite(mae.fit(Few(BYTES), epochs=2, shuffle=False, verbose=0).history["loss"]).all()
    assert int(mae.optimizer.iterations) == 6


# === What is let through ===
@pytest.mark.parametrize(
    ("images", "pixel_range"),
    [
        (BYTES.astype("int64"), (0, 255)),
        (np.zeros_like(FLOATS), (0, 255)),  # black, whatever the units
        (np.full_like(FLOATS, 255.3), (0, 255)),  # rounding
        (UNIT, (0, 1)),
        (BYTES > 99, (0, 1)),
        (UNIT * 2 - 1, (-1, 1)),
        ((BYTES.astype("int16") * 8 - 1000), (-1024, 3071)),
        (BYTES.astype("uint16") * 257, (0, 65535)),
        (FLOATS * 39, (0, 10000)),
    ],
)
def test_images_in_the_encoders_range_are_taken(images, pixel_range):
    pixels.check_images(images, IMAGE_SHAPE, pixels.checked_range(pixel_range))


@pytest.mark.parametrize(
    ("images", "pixel_range", "message"),
    [
        (BYTES, (0, 1), r"in 0-1 .* uint8 values from"),
        (UNIT.astype("int64"), (0, 255), "multiply by 255.* int64 values from 0 to 1"),
        (BYTES, (-1024, 3071), r"in \[-1024, 3071\].* images.dtype=uint8"),
        (UNIT, (0, 10000), r"in 0-10000 .*pixel_range=\(0, 1\)"),
        (FLOATS * 1.2 - 25, (0, 255), "clip to that what resizing or augmentation took beyond it"),
        (FLOATS - 127, (0, 255), "bring them into that"),
        (FLOATS / 50 - 2, (0, 255), "bring them into that"),
        (BYTES.astype("uint16"), (0, 255), "images.dtype=uint16"),
        (BYTES.astype("complex64"), (0, 255), "images.dtype=complex64"),
        (BYTES.astype("str"), (0, 255), "images.dtype=str"),
    ],
)
def test_images_in_another_range_than_the_encoders_are_refused(images, pixel_range, message):
    with pytest.raises(ValueError, match=message):
        pixels.check_images(images, IMAGE_SHAPE, pixels.checked_range(pixel_range))


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_tensors_of_wide_unsigned_integers_have_extremes(dtype):
    """PyTorch has no minimum of them, and a DataLoader gives them as they are."""
    assert pixels.extremes(keras.ops.cast(np.array([[9, 4095]]), dtype)) == (9, 4095)


def test_pixels_that_are_not_finite_are_left_to_the_step():
    mae, images = autoencoder(), FLOATS[:BATCH].copy()
    images[0, 0, 0, 0], images[1, 0, 0, 0] = np.nan, np.inf
    assert mae.fit(images, batch_size=BATCH, verbose=0).history["skipped_steps"] == [1]
    assert mae.fit(np.full_like(images, np.nan), batch_size=BATCH, verbose=0).history["skipped_steps"] == [1]


@pytest.mark.parametrize("value", [(0,), (1, 0), (0, 0), (0, np.inf), "01", 255])
def test_a_range_is_two_numbers(value):
    with pytest.raises(ValueError, match=r"`pixel_range` must be \(low, high\), two finite numbers with low < high"):
        keras_mae.ViTEncoder((8, 8, 1), 4, 16, 1, 2, pixel_range=value)


# === A range of one's own ===
def test_the_same_images_in_other_units_train_alike():
    """Statistics follow the range, so that the normalized pixels are the same; and so is a PSNR in dB."""
    (bytes_, hounsfield) = (autoencoder(pixel_range=ends) for ends in ((0, 255), (-1024, 3056)))
    assert hounsfield.encoder.pixel_mean == pytest.approx([16 * mean - 1024 for mean in bytes_.encoder.pixel_mean])
    one, other = (
        mae.fit(images, batch_size=BATCH, shuffle=False, epochs=2, verbose=0).history
        for mae, images in ((bytes_, BYTES), (hounsfield, 16 * BYTES.astype("int16") - 1024))
    )
    assert one["psnr"] == pytest.approx(other["psnr"], abs=1e-3)
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_the_range_is_saved_and_copied(tmp_path):
    mae = autoencoder(pixel_range=(0, 10000))
    mae.save(tmp_path / "mae.keras")
    assert keras.saving.load_model(tmp_path / "mae.keras").encoder.pixel_range == (0.0, 10000.0)
    assert mae.encoder.copy(drop_path_rate=0.1).pixel_range == (0.0, 10000.0)
    assert keras_mae.ViTClassifier(mae.encoder, 2).encoder.pixel_range == (0.0, 10000.0)
    config = mae.encoder.get_config()
    del config["pixel_range"]  # as files of earlier states are
    assert keras_mae.ViTEncoder.from_config(config).pixel_range == (0.0, 255.0)


def test_a_copy_for_another_range_gives_the_same_tokens(mae):
    copy = mae.encoder.copy(pixel_range=(-1, 1))
    tokens, others = mae.encoder.predict(BYTES, verbose=0), copy.predict(FLOATS / 127.5 - 1, verbose=0)
    np.testing.assert_allclose(others, tokens, rtol=0, atol=1e-5)


def test_reconstructions_are_clipped_to_the_range_and_shown_in_it():
    mae = autoencoder(pixel_range=(-1024, 3071))
    mae.decoder.prediction.bias.assign(np.full(mae.decoder.prediction.bias.shape, 9.0))
    images = (BYTES.astype("int16") * 8 - 1000)[:2]
    result = mae.reconstruct(images)
    assert result.predicted.dtype == np.int16
    assert result.predicted.max() == 3071
    visible = result.mask == 0
    assert visible.any()
    np.testing.assert_array_equal(result.original, images)
    drawn = visualize.reconstructions(result).axes[3].images[0].get_array()
    np.testing.assert_allclose(drawn, (images[0].astype("float32") + 1024) / 4095, rtol=0, atol=1e-6)
    drawn = visualize.overlays(images, np.ones((2, 3, 5)), pixel_range=(-1024, 3071)).axes[0].images[0].get_array()
    np.testing.assert_allclose(drawn, (images[0].astype("float32") + 1024) / 4095, rtol=0, atol=1e-6)


def test_augmentation_keeps_to_the_range():
    augment = data.Augmentation(3, random_erasing=1.0, pixel_range=(0, 1))
    images, _ = augment(UNIT, LABELS)
    kept = np.isclose(images, UNIT, rtol=0, atol=1e-6).mean()
    assert 0.5 < kept < 1
    assert (images.min(), images.max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))


# === Sources ===
def test_an_array_of_a_range_of_its_own_is_a_source():
    source = data.ArraySource(UNIT, pixel_range=(0, 1))
    assert source.batch(np.arange(3))[0].dtype == np.float32
    assert data.Subset(source, [1]).levels.pixel_range == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(5, 3, 32, 48), (5, 1, 8, 8), (2, 3, 300, 100)])
def test_an_array_with_channels_first_is_named_as_such(shape):
    with pytest.raises(ValueError, match=r"channels last: np.transpose\(images, \(0, 2, 3, 1\)\) .*channels first"):
        data.ArraySource(np.zeros(shape, "uint8"))


@pytest.mark.parametrize("shape", [(5, 1, 1000, 12), (5, 4, 6, 3), (5, 2, 32, 32)])
def test_low_images_of_many_channels_are_not_taken_for_channels_first(shape):
    assert data.ArraySource(np.zeros(shape, "uint8")).image_shape == shape[1:]


# === Statistics ===
def test_statistics_are_those_of_all_pixels(tmp_path):
    generator = np.random.default_rng(3)
    images = generator.normal(1e4, [1.0, 3.0], (40, 37, 41, 2)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    wide = images.astype("float64")
    for source in (images, tmp_path / "images.npy", data.ArraySource(images, pixel_range=(0, 2e4))):
        found = data.pixel_statistics(source)
        np.testing.assert_allclose(found.pixel_mean, wide.mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(found.pixel_std, wide.std(axis=(0, 1, 2)), rtol=1e-9)
        assert found.pixel_range == (images.min(), images.max())
    encoder = keras_mae.ViTEncoder((4, 8, 2), 4, 16, 1, 2, **dataclasses.asdict(found))
    assert (encoder.pixel_mean, encoder.pixel_range) == (found.pixel_mean, found.pixel_range)


def test_parts_add_up(monkeypatch):
    monkeypatch.setattr(data.statistics, "_CHUNK", 1000)
    images = np.arange(7 * 8 * 9 * 3, dtype="uint16").reshape(7, 8, 9, 3)
    found = data.pixel_statistics(images)
    np.testing.assert_allclose(found.pixel_std, images.std(axis=(0, 1, 2)), rtol=1e-12)
    assert found.pixel_range == (0, images.size - 1)


def test_a_folders_images_count_in_their_own_sizes(tmp_path):
    generator, pictures = np.random.default_rng(3), []
    for number, (height, width) in enumerate([(30, 20), (8, 50), (17, 17)]):
        pictures.append(generator.integers(0, 256, (height, width, 3)).astype("uint8"))
        Image.fromarray(pictures[-1]).save(tmp_path / f"{number}.png")
    flat = np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype("float64")
    found = data.pixel_statistics(tmp_path)
    np.testing.assert_allclose(found.pixel_mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.pixel_std, flat.std(axis=0), rtol=1e-12)
    assert found.pixel_range == (0, 255)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((0, 4, 4, 1)), "that is not empty"),
        (np.full((2, 4, 4, 1), np.nan), "must be finite"),
        (np.zeros((2, 4, 4, 1), "complex64"), "an array of numbers"),
        (np.zeros((2, 3, 16, 16)), "looks like channels first"),
    ],
)
def test_statistics_of_what_is_no_images_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        data.pixel_statistics(source)
