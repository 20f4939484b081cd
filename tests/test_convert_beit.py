"""Classifiers on the mean of the patches in `transformers`, whose model for that is BEiT."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_mae
from keras_mae import convert

NAMES = ("ant", "bee", "cat", "dog", "eel")
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 12, 12, 3)).astype("float32")


@pytest.fixture
def classifier(randomise):
    encoder = keras_mae.ViTEncoder((12, 12, 3), 4, embed_dim=12, depth=2, num_heads=3, layer_norm_eps=1e-5)
    return randomise(keras_mae.ViTClassifier(encoder, 5, class_names=NAMES))


def logits_of(model):
    return keras.ops.convert_to_numpy(model(IMAGES))


@pytest.fixture
def folder(classifier, tmp_path):
    return convert.save(classifier, tmp_path / "beit", "transformers")


def test_it_comes_back_and_keys_need_no_bias(classifier, folder):
    model, report = convert.load(folder)
    assert (model.pooling, model.class_names, model.encoder.layer_norm_eps) == ("mean", NAMES, 1e-5)
    assert (report.kind, report.left_out) == ("classifier", {})
    np.testing.assert_allclose(logits_of(model), logits_of(classifier), atol=1e-5)
    _, key, _ = np.split(keras.ops.convert_to_numpy(model.encoder.blocks[0].attention.qkv.bias), 3)
    assert not key.any()
    again = convert.save(model, folder.parent / "again", "transformers")
    one, two = (load_file(path / "model.safetensors") for path in (folder, again))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_an_encoder_alone_is_read_of_it(classifier, folder):
    encoder = convert.load(folder, encoder_only=True).model
    np.testing.assert_allclose(
        *(keras.ops.convert_to_numpy(one.encode(IMAGES)) for one in (encoder, classifier.encoder)), atol=1e-5
    )


@pytest.mark.backends("torch")
def test_transformers_computes_the_same_and_what_it_saves_is_read(classifier, folder, tmp_path):
    import torch

    transformers = pytest.importorskip("transformers")

    model, loading = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "BeitForImageClassification"
    assert not any(loading.values())
    assert tuple(model.config.id2label.values()) == NAMES
    mean, std = (np.array(getattr(classifier.encoder, f"pixel_{name}")) for name in ("mean", "std"))
    pixels = torch.from_numpy(((IMAGES - mean) / std).transpose(0, 3, 1, 2).astype("float32"))
    with torch.no_grad():
        np.testing.assert_allclose(model(pixels).logits.numpy(), logits_of(classifier), atol=1e-5)
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    np.testing.assert_allclose(logits_of(convert.load(tmp_path / "theirs").model), logits_of(classifier), atol=1e-5)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_relative_position_bias": True}, "use_relative_position_bias=True"),
        (
            {"layer_scale_init_value": None, "use_mean_pooling": False},
            "use_mean_pooling=False, layer_scale_init_value",
        ),
        ({"use_absolute_position_embeddings": False}, "has absolute positions"),
        ({"hidden_act": "relu"}, "exact GELU"),
    ],
)
def test_another_beit_is_refused(change, message, folder):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None})
    )
    with pytest.raises(ValueError, match=message):
        convert.load(folder)


@pytest.mark.backends("torch")
def test_a_beit_without_a_head_is_refused(classifier, folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if "classifier" not in name}, folder / "model.safetensors"
    )
    with pytest.raises(ValueError, match="A BEiT that can be read is a classifier"):
        convert.load(folder)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("shape", "pooling", "message"),
    [
        ((12, 8, 3), "mean", r"BEiT, has square images and patches. Received: image_shape=\(12, 8, 3\)"),
        (
            (12, 12, 3),
            "attentive",
            "no queries that pool patches.*export it.*Received: a classifier with pooling='attent",
        ),
        ((12, 12, 3), "flatten", "has no head on all patch tokens.*export it"),
    ],
)
def test_what_no_model_of_transformers_holds_is_refused_with_the_reason(shape, pooling, message, tmp_path):
    encoder = keras_mae.ViTEncoder(shape, 4, embed_dim=12, depth=1, num_heads=3)
    with pytest.raises(ValueError, match=message):
        convert.save(keras_mae.ViTClassifier(encoder, 3, pooling=pooling), tmp_path / "x", "transformers")
    assert not (tmp_path / "x").exists()
