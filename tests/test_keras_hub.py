"""KerasHub's ViTBackbone and ViTImageClassifier: there, back, through its presets, or a refusal."""

import keras
import numpy as np
import pytest
from conftest import run_quickly
from keras import ops

import keras_mae
from keras_mae import convert
from keras_mae.convert.load_save import without_batch_norm

keras_hub = pytest.importorskip("keras_hub")

SHAPE = (10, 15, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), "uint8")


def numpy(value):
    return ops.convert_to_numpy(value)


def same_weights(one, two):
    return all(np.array_equal(numpy(a), numpy(b)) for a, b in zip(one.weights, two.weights, strict=True))


@pytest.fixture(scope="module")
def encoder():
    pixels = {"pixel_mean": [1, 20, 99], "pixel_std": 7}
    pixels = {"pixel_mean": [1, 20, 99], "pixel_std": 7}
    vit = keras_mae.ViTEncoder(SHAPE, 5, 24, 2, 3, mlp_ratio=2, layer_norm_eps=1e-5, **pixels)
    generator = np.random.default_rng(1)
    for weight in vit.weights:
        weight.assign(generator.normal(0, 0.3, weight.shape))
    return vit


@pytest.fixture(scope="module")
def classifier(encoder, randomise):
    names = [f"kind {letter}" for letter in "abcdefghijk"]
    return randomise(keras_mae.ViTClassifier(encoder, 11, pooling="token", class_names=names))


@pytest.fixture(scope="module")
def normalised(encoder):
    return ((IMAGES - np.array(encoder.pixel_mean)) / encoder.pixel_std).astype("float32")


def test_an_encoder_gives_the_same_tokens_there(encoder, normalised):
    backbone = convert.to_keras_hub(encoder)
    np.testing.assert_allclose(
        numpy(run_quickly(backbone)(normalised)), numpy(run_quickly(encoder)(IMAGES)), atol=1e-5, rtol=1e-5
    )
    np.testing.assert_allclose(numpy(convert.image_converter_of(encoder)(IMAGES)), normalised, atol=1e-5)
    back, report = convert.from_keras_hub(backbone, pixel_mean=encoder.pixel_mean, pixel_std=encoder.pixel_std)
    assert (report.kind, len(report.rows)) == ("encoder", 30)
    assert same_weights(encoder, back)
    assert same_weights(backbone, convert.to_keras_hub(back))
    changed = {"name", "image_shape"}
    ours, theirs = (
        {key: value for key, value in model.get_config().items() if key not in changed} for model in (encoder, back)
    )
    assert ours == theirs


def test_an_encoder_goes_through_its_presets(encoder, normalised, tmp_path):
    path = convert.save(encoder, tmp_path / "preset", "keras_hub")
    theirs = keras_hub.models.Backbone.from_preset(str(path))
    assert isinstance(theirs, keras_hub.models.ViTBackbone)
    direct = convert.to_keras_hub(encoder)
    assert np.array_equal(numpy(run_quickly(theirs)(normalised)), numpy(run_quickly(direct)(normalised)))
    back, report = convert.load(path)
    assert report.kind == "encoder"
    assert same_weights(encoder, back)
    assert (back.pixel_mean, back.pixel_std) == (encoder.pixel_mean, encoder.pixel_std)
    assert same_weights(encoder, keras_mae.ViTEncoder.from_preset(path))


def test_a_classifier_goes_through_its_presets(classifier, normalised, tmp_path):
    path = convert.save(classifier, tmp_path / "preset", "keras_hub")
    theirs = keras_hub.models.ViTImageClassifier.from_preset(str(path))
    logits = numpy(run_quickly(classifier)(IMAGES))
    np.testing.assert_allclose(numpy(run_quickly(theirs)(normalised)), logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(numpy(theirs.preprocessor.image_converter(IMAGES)), normalised, atol=1e-5)
    back, report = convert.load(path)
    assert (report.kind, back.class_names) == ("classifier", classifier.class_names)
    assert np.array_equal(numpy(run_quickly(back)(IMAGES)), logits)


def test_a_probe_loses_its_batch_norm_and_nothing_else(encoder, randomise, normalised):
    probe = randomise(keras_mae.ViTClassifier(encoder, 11, pooling="token", batch_norm=True))
    statistics = probe.head.layers[0]
    statistics.moving_mean.assign(np.linspace(-1, 1, 24))
    statistics.moving_variance.assign(np.linspace(0.5, 2, 24))
    with pytest.raises(ValueError, match="no norm behind it. Received: a classifier with a BatchNorm"):
        convert.to_keras_hub(probe)
    theirs = convert.to_keras_hub(without_batch_norm(probe))
    np.testing.assert_allclose(
        numpy(run_quickly(theirs)(normalised)), numpy(run_quickly(probe)(IMAGES)), atol=1e-5, rtol=1e-5
    )


def test_what_differs_is_refused(encoder, mae):
    backbone = convert.to_keras_hub(encoder)
    hub = keras_hub.models
    sizes = {"patch_size": 5, "num_layers": 1, "num_heads": 2, "hidden_dim": 4, "mlp_dim": 8, "image_shape": SHAPE}
    for model, message in (
        (hub.ViTImageClassifier(backbone, 3, pooling="gap"), "averages the class token too.* Received: 'gap'"),
        (hub.ViTImageClassifier(backbone, 3, intermediate_dim=5), "one layer that gives logits.* intermediate_dim=5"),
        (hub.ViTImageClassifier(backbone, 3, activation="softmax"), "gives logits.* activation="),
        (hub.ViTBackbone(**sizes, use_class_token=False), "has a class token.* Received: .*use_class_token=False"),
        (hub.ViTBackbone(**sizes, use_mha_bias=False), "all biases. Received: .*use_mha_bias=False"),
        (keras.Sequential([keras.layers.Dense(3)]), "must be a ViTBackbone or ViTImageClassifier. Received"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.from_keras_hub(model)
    for model, message in (
        (keras_mae.ViTClassifier(encoder, 3), "has the class token.* Received: a classifier with pooling='mean'"),
        (encoder.copy(final_norm=False), "has a final norm. Received: an encoder with final_norm=False"),
        (mae, "takes a ViTEncoder, such as mae.encoder"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.to_keras_hub(model)
