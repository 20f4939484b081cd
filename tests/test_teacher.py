"""A frozen encoder as the target: its features against NumPy, what it takes, and that it stays as it is."""

import keras
import numpy as np
import oracles
import pytest
from conftest import IMAGE_SHAPE, build_mae, random_images, randomize_weights, run_quickly
from keras import ops

import keras_mae
from keras_mae.targets import Teacher


def to_numpy(x):
    return ops.convert_to_numpy(x)


def build_source():
    """A masked autoencoder whose encoder teaches; it drops paths when it is trained."""
    return randomize_weights(build_mae(embed_dim=8, num_heads=2, drop_path_rate=0.5), seed=7)


@pytest.fixture(scope="module")
def source():
    return build_source()


@pytest.fixture(scope="module")
def taught(source):
    """A model that learns from a copy of that encoder. Shared: tests must not change it."""
    return randomize_weights(build_mae(target=Teacher(source.encoder.copy())))


def normalised(features):
    mean, variance = features.mean(-1, keepdims=True), features.var(-1, keepdims=True)
    return (features - mean) / np.sqrt(variance + 1e-6)


def vectors_of(mae, images):
    return to_numpy(run_quickly(lambda x: mae._targets.vectors(x))(ops.convert_to_tensor(images)))


# === The features ===
def test_the_loss_is_that_of_the_normalised_features_of_the_whole_image(source, taught, images):
    features = oracles.encode(images, oracles.weights_of(source), oracles.Sizes.of(source))[:, 1:]
    sizes, weights = oracles.Sizes.of(taught), oracles.weights_of(taught)
    outputs = run_quickly(lambda x: taught(x))(images)
    mask = to_numpy(outputs["mask"])
    prediction = oracles.decode(oracles.encode(images, weights, sizes, mask), weights, sizes, mask)
    assert prediction.shape[-1] == taught.decoder.output_dim == 8
    expected = oracles.loss_of(prediction, normalised(features), mask)
    by_removed = run_quickly(
        lambda x: taught.compute_loss(x, y_pred=taught.outputs_for_loss(x, training=False), training=False)
    )(images)
    np.testing.assert_allclose(float(to_numpy(by_removed)), expected, rtol=1e-4)


@pytest.mark.parametrize("size", [(30, 28), (45, 42), (15, 14), (5, 7), (7, 20)])
def test_images_are_resized_as_pillow_does(size):
    from PIL import Image

    from keras_mae.targets.matrices import resized

    images = random_images(2).astype("float32")
    expected = np.stack(
        [
            [
                np.asarray(Image.fromarray(image[..., channel]).resize(size[::-1], Image.Resampling.BILINEAR))
                for channel in range(3)
            ]
            for image in images
        ]
    ).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(to_numpy(resized(ops.convert_to_tensor(images), size)), expected, atol=2e-3)


def test_gray_images_of_another_size_and_range_are_brought_to_the_teachers():
    encoder = keras_mae.ViTEncoder((8, 12, 3), 4, embed_dim=8, depth=1, num_heads=2, pixel_range=(-1, 1))
    student = keras_mae.ViTEncoder((4, 6, 1), 2, embed_dim=8, depth=1, num_heads=2, pixel_range=(0, 255))
    mae = keras_mae.MaskedAutoencoder(student, keras_mae.MAEDecoder(8, 1, 2), target=Teacher(encoder))
    images = random_images(2, (4, 6, 1))
    larger = to_numpy(ops.image.resize(images.astype("float32"), (8, 12), interpolation="bilinear"))
    features = to_numpy(encoder(np.repeat(larger / 127.5 - 1, 3, axis=-1).astype("float32")))[:, 1:]
    np.testing.assert_allclose(vectors_of(mae, images), normalised(features), atol=1e-4)


# === Other models ===
def convolution(class_tokens=0):
    inputs = keras.Input(IMAGE_SHAPE)
    outputs = keras.layers.Conv2D(4, (3, 2), strides=(3, 2))(inputs / 255)
    if class_tokens:
        outputs = keras.layers.Reshape((35, 4))(outputs)
        outputs = keras.layers.ZeroPadding1D((class_tokens, 0))(outputs)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("class_tokens", [0, 2])
def test_any_keras_model_teaches_and_is_saved(class_tokens, images, tmp_path):
    model = convolution(class_tokens)
    mae = build_mae(target=Teacher(model, class_tokens=class_tokens))
    features = to_numpy(model(images.astype("float32"))).reshape(3, -1, 4)[:, class_tokens:]
    np.testing.assert_allclose(vectors_of(mae, images), normalised(features), atol=1e-5)
    mae.save(tmp_path / "mae.keras")
    loaded = keras.saving.load_model(tmp_path / "mae.keras")
    np.testing.assert_array_equal(vectors_of(loaded, images), vectors_of(mae, images))


@pytest.mark.backends("torch")
def test_timms_and_transformers_files_teach(source, tmp_path):
    pytest.importorskip("safetensors")
    for format, path in (("timm", tmp_path / "vit.safetensors"), ("transformers", tmp_path / "vit")):
        keras_mae.convert.save(source.encoder, path, format)
        teacher = Teacher.from_preset(path)
        images = random_images()
        expected = normalised(to_numpy(source.encoder(images))[:, 1:].astype("float64"))
        np.testing.assert_allclose(to_numpy(teacher(images)), expected, atol=1e-4)


def test_the_encoder_of_a_larger_model_teaches(source):
    assert Teacher(build_source()).encoder.embed_dim == 8


# === The teacher stays as it is ===
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(model, its teacher's weights before, the model after a file): trained for two compiled steps."""
    images = random_images()
    mae = build_mae(target=Teacher(build_source().encoder), masks_per_image=2)
    mae.compile(keras_mae.optimizers.AdamW(1e-2))
    before = [to_numpy(weight).copy() for weight in mae.target.weights]
    logs = mae.fit(images, batch_size=3, epochs=2, shuffle=False, verbose=0).history
    path = tmp_path_factory.mktemp("models") / "mae.keras"
    mae.save(path)
    return mae, before, logs, keras.saving.load_model(path)


def test_training_moves_the_student_alone(trained):
    mae, before, logs, _ = trained
    assert set(logs) == {"loss", "skipped_steps"}
    assert logs["loss"][1] < logs["loss"][0]
    for now, then in zip(mae.target.weights, before, strict=True):
        np.testing.assert_array_equal(to_numpy(now), then)
    own = {id(weight) for weight in mae.target.weights}
    assert own.isdisjoint(id(weight) for weight in mae.trainable_weights)
    assert own <= {id(weight) for weight in mae.non_trainable_weights}
    assert int(to_numpy(mae.target.encoder.step.value)) == 0


def test_a_saved_model_goes_on_with_the_same_teacher(trained):
    mae, _, _, loaded = trained
    images = random_images()
    np.testing.assert_array_equal(vectors_of(loaded, images), vectors_of(mae, images))
    for model in (mae, loaded):
        model.fit(images, batch_size=3, shuffle=False, verbose=0)
    for ours, theirs in zip(loaded.weights, mae.weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


def test_unfreezing_the_model_leaves_the_teacher_frozen(source):
    mae = build_mae(target=Teacher(source.encoder.copy()))
    trained = len(mae.trainable_weights)
    mae.trainable = False
    mae.trainable = True
    assert len(mae.trainable_weights) == trained
    assert mae.target.trainable is False


def test_a_copy_has_the_same_teacher(taught):
    assert taught.copy(seed=3).target is taught.target


# === What is refused ===
def other(image_shape=IMAGE_SHAPE, patch_size=(3, 2)):
    return keras_mae.ViTEncoder(image_shape, patch_size, embed_dim=8, depth=1, num_heads=2)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Teacher(len), "`encoder` must be a ViTEncoder or another Keras model; a function is a target"),
        (lambda: Teacher(other(), class_tokens=1), "A ViTEncoder says itself .* Received: {'class_tokens': 1}"),
        (
            lambda: Teacher(other((15, 14, 3), (3, 1))),
            r"grid of patches must be the student's.*\(5, 14\) and \(5, 7\)",
        ),
        (lambda: Teacher(other((15, 14, 4))), "as many channels as the student.*a teacher of 4 and a student of 3"),
        (lambda: Teacher(convolution(1)), r"Received: 36 patches after 0 `class_tokens`, and \(5, 7\)"),
        (lambda: other(), "may be a `keras_mae.targets.Teacher`, which freezes a model"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        build_mae(target=make())


@pytest.mark.backends("torch")
def test_a_student_is_not_its_own_teacher():
    encoder = other()
    with pytest.raises(ValueError, match="must be another encoder than the student"):
        keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), target=Teacher(encoder))


@pytest.mark.backends("torch")
def test_a_teacher_has_no_standardised_patches(source):
    with pytest.raises(ValueError, match="another name for .* Received: norm_pix_loss=True"):
        build_mae(target=Teacher(source.encoder.copy()), norm_pix_loss=True)
