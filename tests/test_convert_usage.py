"""What users of other libraries type to load a file: it is run, and the model computes the same."""

import inspect
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import their_files

import keras_mae
from keras_mae import convert

pytestmark = pytest.mark.backends("torch")


def encoder(shape=(12, 8, 3), **options):
    return keras_mae.ViTEncoder(
        shape, options.pop("patch_size", 4), **{"embed_dim": 12, "depth": 2, "num_heads": 3, **options}
    )


@pytest.fixture
def timm(monkeypatch):
    """timm, whose transforms take torchvision, which is not there."""
    timm = their_files.import_timm()
    signature = inspect.signature(timm.data.create_transform)
    monkeypatch.setattr(timm.data, "create_transform", signature.bind)
    return timm


@pytest.fixture
def load(tmp_path):
    """A function that saves a model, runs what is to be typed, and returns what that names."""

    def load(model, name, format):
        path = convert.save(model, tmp_path / name, format)
        names = {}
        exec(convert.how_to_load(model, path, format), names)
        return names

    return load


def inputs(model, count=2):
    images = np.random.default_rng(0).uniform(0, 255, (count, *model.encoder.image_shape)).astype("float32")
    pixels = (images - np.array(model.encoder.pixel_mean)) / np.array(model.encoder.pixel_std)
    return images, pixels.transpose(0, 3, 1, 2).astype("float32")


CLASSIFIERS = {
    "the mean": {},
    "the class token": {"pooling": "token", "layer_norm_eps": 1e-5},
    "no class token": {"class_tokens": 0, "mlp_ratio": 2},
    "five channels": {"shape": (12, 8, 5), "patch_size": (4, 2), "mlp_ratio": 3},
}


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_timm_loads_classifiers(kind, ending, timm, load, randomise):
    import torch

    options = dict(CLASSIFIERS[kind])
    pooling = options.pop("pooling", "mean")
    model = randomise(keras_mae.ViTClassifier(encoder(**options), 5, pooling=pooling))
    theirs = load(model, f"x.{ending}", "timm")["model"]
    images, pixels = inputs(model)
    with torch.no_grad():
        found = theirs(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(images)), atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"class_tokens": 0}, {"final_norm": False}])
def test_timm_loads_encoders(options, timm, load, randomise):
    import torch

    model = randomise(encoder(**options))
    theirs = load(model, "x.safetensors", "timm")["model"]
    images, pixels = inputs(SimpleNamespace(encoder=model))
    with torch.no_grad():
        found = theirs.forward_features(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(images)), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "sizes", "name"),
    [
        ((224, 224, 3), (16, 768, 12, 12), "vit_base_patch16_224"),
        ((448, 448, 3), (14, 1280, 32, 16), "vit_huge_patch14_224"),
    ],
)
def test_a_model_of_a_published_size_is_called_by_its_name(shape, sizes, name):
    small = encoder(shape, patch_size=sizes[0])

    class Sized:  # what is asked of an encoder, without its weights
        def __getattr__(self, attribute):
            return dict(zip(("embed_dim", "depth", "num_heads"), sizes[1:], strict=True)).get(attribute) or getattr(
                small, attribute
            )

    from keras_mae.convert import usage

    text = usage._timm(Sized(), "x")
    assert f"    {name!r},\n" in text
    assert ("embed_dim" in text, "img_size=448" in text) == (False, shape[0] == 448)
    assert "mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)" in text


def test_transformers_loads_what_is_typed(load, randomise, monkeypatch):
    transformers = pytest.importorskip("transformers")
    square = encoder((8, 8, 3))
    mae = keras_mae.MaskedAutoencoder(square, keras_mae.MAEDecoder(8, 1, 2))
    for number, (model, kind) in enumerate(
        (
            (keras_mae.ViTClassifier(square, 3), "BeitForImageClassification"),
            (keras_mae.ViTClassifier(square, 3, pooling="token"), "ViTForImageClassification"),
            (mae, "ViTMAEForPreTraining"),
            (square, "ViTMAEModel"),
        )
    ):
        monkeypatch.setattr(transformers, "AutoImageProcessor", transformers.AutoConfig)  # the one needs torchvision
        assert type(load(model, str(number), "transformers")["model"]).__name__ == kind


def test_the_command_prints_it(keras_mae_command, timm, tmp_path):
    keras_mae.ViTClassifier(encoder(), 5).save(tmp_path / "c.keras")
    status, out, _ = keras_mae_command("convert", "c.keras", "x.safetensors", "--format", "timm")
    assert status == 0
    names = {}
    exec(out[out.index("import timm") :], names)
    assert names["model"].num_classes == 5
    status, out, _ = keras_mae_command("convert", "c.keras", "again.keras")
    assert (status, "import" in out) == (0, False)


def test_bad_arguments():
    for model, path, format, message in (
        (encoder(), "x", "keras", "`format` must be one of 'timm', 'transformers', 'keras_hub'"),
        (keras.Sequential(), "x", "timm", "`model` must be"),
        (encoder(), 3, "timm", "`path` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.how_to_load(model, path, format)
