"""In how many rows a file's patches are: never guessed where something says it, never a reason to resize."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from typer.testing import CliRunner

import keras_mae
from keras_mae import convert
from keras_mae.cli import app
from keras_mae.convert.metadata import KEY
from keras_mae.convert.state_dict import read, write_safetensors
from keras_mae.positions import sincos_grid, sincos_positions

pytestmark = pytest.mark.backends("torch")

BACKEND = keras.backend.backend()
OBLONG, SQUARE = (16, 64, 3), (32, 32, 3)  # 2 x 8 and 4 x 4 patches
HEADS = {"num_heads": 4, "decoder_num_heads": 2}


def encoder(image_shape=OBLONG, **arguments):
    return keras_mae.ViTEncoder(image_shape, 8, 24, 1, 4, **arguments)


def model_of(kind):
    made = encoder(pixel_mean=100.0, pixel_std=(50.0, 60.0, 70.0), layer_norm_eps=1e-5)
    if kind == "autoencoder":
        decoder = keras_mae.MAEDecoder(8, 1, 2, layer_norm_eps=1e-5)
        return keras_mae.MaskedAutoencoder(made, decoder, keras_mae.RandomMasking(0.5), norm_pix_loss=True)
    return keras_mae.ViTClassifier(made, 3, pooling="token") if kind == "classifier" else made


def arrays(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def assert_same(one, two):
    for a, b in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(a, b)


def silent(path, change=lambda name, value: value):
    """The same tensors as another library writes them: without a word beside them."""
    tensors = {name: change(name, value) for name, value in read(path).tensors.items()}
    write_safetensors(path, tensors)
    return path


def learned(name, value):
    """Positions that no formula gives."""
    return np.random.default_rng(0).normal(size=value.shape).astype("float32") if "pos_embed" in name else value


# === There and back ===
OURS = [
    *((kind, format, "x.safetensors") for kind in ("encoder", "classifier") for format in ("reference", "timm")),
    *((kind, "transformers", "x") for kind in ("encoder", "classifier")),
    ("autoencoder", "reference", "x.safetensors"),
    ("autoencoder", "keras", "x.keras"),
    ("autoencoder", "preset", "x"),
]
PTH = [("autoencoder", "reference", "x.pth"), ("classifier", "timm", "x.pth")]


@pytest.mark.parametrize(("kind", "format", "name"), OURS + (PTH if BACKEND == "torch" else []))
@pytest.mark.parametrize("positions", ["fixed", "learned"])
def test_an_oblong_model_comes_back_as_it_went(kind, format, name, positions, randomise, tmp_path):
    model = randomise(model_of(kind))
    if positions == "learned":
        for part in (getattr(model, "encoder", model), *([model.decoder] if kind == "autoencoder" else [])):
            part.position_embedding.assign(np.random.default_rng(0).normal(size=(17, part.embed_dim)))
    again, report = convert.load(convert.save(model, tmp_path / name, format))
    assert getattr(again, "encoder", again).image_shape == OBLONG
    assert_same(model, again)
    assert not [remark for *_, remark in report.rows if "resized" in remark]
    images = np.random.default_rng(0).integers(0, 256, (2, *OBLONG), "uint8")
    one, two = (keras.tree.flatten(each(images)) for each in (model, again))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    if kind == "autoencoder":
        assert (again.norm_pix_loss, again.masking.mask_ratio) == (True, 0.5)


def test_an_oblong_encoder_goes_to_kerashub_and_back(randomise, tmp_path):
    pytest.importorskip("keras_hub")
    model = randomise(encoder())
    again = convert.load(convert.save(model, tmp_path / "x", "keras_hub")).model
    assert again.image_shape == OBLONG
    assert_same(model, again)


@pytest.mark.skipif(BACKEND != "torch", reason="transformers needs PyTorch")
@pytest.mark.parametrize("image_shape", [OBLONG, (16, 24, 3)])
def test_transformers_computes_the_same_of_oblong_images(image_shape, randomise, tmp_path):
    import torch
    import transformers

    model = randomise(
        keras_mae.ViTClassifier(encoder(image_shape, pixel_mean=127.5, pixel_std=127.5), 3, pooling="token")
    )
    path = convert.save(model, tmp_path / "x", "transformers")
    images = np.random.default_rng(0).integers(0, 256, (2, *image_shape), "uint8")
    with torch.no_grad():
        theirs = transformers.ViTForImageClassification.from_pretrained(path)(
            torch.tensor((images / 127.5 - 1).transpose(0, 3, 1, 2), dtype=torch.float32)
        )
    np.testing.assert_allclose(ops.convert_to_numpy(model(images)), theirs.logits.numpy(), atol=1e-5)


# === Files without a word ===
@pytest.mark.parametrize("kind", ["encoder", "autoencoder"])
def test_fixed_positions_tell_their_rows(kind, tmp_path):
    """So that files of the authors', and ours of before, need no argument."""
    model = model_of(kind)
    path = silent(convert.save(model, tmp_path / "full.safetensors", "reference"))
    again, report = convert.load(path, **HEADS)
    assert getattr(again, "encoder", again).image_shape == OBLONG
    assert_same(model, again)
    assert report.notes == []


@pytest.mark.parametrize("kind", ["encoder", "autoencoder"])
def test_an_image_shape_of_as_many_patches_decides(kind, tmp_path):
    path = silent(convert.save(model_of(kind), tmp_path / "full.safetensors", "reference"), learned)
    square = convert.load(path, **HEADS)
    assert getattr(square.model, "encoder", square.model).image_shape == SQUARE
    assert square.report.notes == ["4 x 4 patches: a square, as nothing says otherwise"]
    oblong = convert.load(path, image_shape=OBLONG, **HEADS)
    assert getattr(oblong.model, "encoder", oblong.model).image_shape == OBLONG
    assert oblong.report.notes == ["2 x 8 patches: as `image_shape` says"]
    assert_same(square.model, oblong.model)  # nothing is resized
    if kind == "encoder":
        assert_same(keras_mae.ViTEncoder.from_preset(path, num_heads=4, image_shape=OBLONG), square.model)


def test_what_nothing_says_is_an_error_that_names_the_shapes(tmp_path):
    path = silent(convert.save(encoder((16, 24, 3)), tmp_path / "x.safetensors", "timm"), learned)
    shapes = r"\(16, 24, 3\), \(24, 16, 3\), \(8, 48, 3\), \(48, 8, 3\). Received: image_shape="
    for asked in (None, (32, 32, 3)):
        with pytest.raises(ValueError, match=f"6 patches of 'x.safetensors' are no square.* one of {shapes}"):
            convert.load(path, num_heads=4, image_shape=asked)
    with pytest.raises(ValueError, match=shapes):
        keras_mae.ViTEncoder.from_preset(path, num_heads=4)
    for image_shape in ((16, 24, 3), (48, 8, 3)):
        assert convert.load(path, num_heads=4, image_shape=image_shape).model.image_shape == image_shape
    gray = keras_mae.ViTEncoder.from_preset(path, num_heads=4, image_shape=(24, 16, 1))
    assert gray.image_shape == (24, 16, 1)


def test_timms_configuration_says_the_shape(tmp_path):
    silent(convert.save(encoder(), tmp_path / "model.safetensors", "timm"), learned)
    for size, shape in ((OBLONG[:2], OBLONG), ((224, 224), SQUARE)):  # the second was made for other images
        content = {"architecture": "x", "pretrained_cfg": {"input_size": [3, *size]}}
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert convert.load(tmp_path, num_heads=4).model.image_shape == shape


# === A shape that is said ===
def test_as_many_patches_in_other_rows_are_not_resized_without_being_asked(randomise, tmp_path):
    model = randomise(encoder())
    path = convert.save(model, tmp_path / "x.safetensors", "timm")
    with pytest.raises(ValueError, match="as many patches as 'x.safetensors', whose images are 16 x 64, but in"):
        convert.load(path, image_shape=SQUARE)
    larger, report = convert.load(path, image_shape=(32, 64, 3))
    assert_same(larger, model.copy(image_shape=(32, 64, 3)))
    assert "resized from (2, 8) to (4, 8)" in str(report)


def test_metadata_of_other_positions_is_an_error(randomise, tmp_path):
    path = convert.save(randomise(encoder()), tmp_path / "x.safetensors", "timm")
    state = read(path)
    for said, message in (
        ({"image_shape": [24, 64, 3]}, "says 3 x 8 patches, and it has positions of 16"),
        ({"image_shape": [16, "64", 3]}, "`image_shape` must be a positive integer"),
    ):
        write_safetensors(path, state.tensors, state.config[KEY] | said)
        with pytest.raises(ValueError, match=message):
            convert.load(path)


def test_a_shape_is_given_in_the_shell(tmp_path):
    path = silent(convert.save(encoder((16, 24, 3)), tmp_path / "x.safetensors", "timm"), learned)
    command = ["convert", str(path), str(tmp_path / "y.keras"), "--num-heads", "4"]
    assert "one of (16, 24, 3), (24, 16, 3)" in str(CliRunner().invoke(app, command).exception)
    done = CliRunner().invoke(app, [*command, "--image-shape", "48", "8", "3"])
    assert done.exit_code == 0, done.output
    assert "6 x 1 patches: as `image_shape` says" in done.output
    assert convert.load_model(tmp_path / "y.keras").image_shape == (48, 8, 3)


def test_tables_tell_their_grid_or_none():
    for grid in ((1, 5), (2, 8), (8, 2), (4, 4), (14, 14), (7, 28)):
        table = sincos_positions(grid, 32)
        assert sincos_grid(table) == grid
        assert sincos_grid(table.astype("float16").astype("float32")) == grid
        assert sincos_grid(table * 1.1) is None
    assert sincos_grid(np.zeros((5, 6), "float32")) is None
