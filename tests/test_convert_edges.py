"""Files that are nearly right, and models that a format nearly holds: each was once taken without a word."""

import json
import shutil

import h5py
import keras
import numpy as np
import pytest
import their_files
from keras import ops
from their_files import DECODER_HEADS, HEADS

import keras_mae
from keras_mae import convert
from keras_mae.convert import exporting
from keras_mae.convert.state_dict import read, write_safetensors

pytestmark = pytest.mark.backends("torch")

BACKEND = keras.backend.backend()
SIZES = {"num_heads": HEADS, "decoder_num_heads": DECODER_HEADS}


def numpy(value):
    return ops.convert_to_numpy(value)


def small(**changes):
    return keras_mae.ViTEncoder(**{"image_shape": (20, 20, 3), "patch_size": 5, **SMALL, **changes})


SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 4}


@pytest.fixture
def timm_file(tmp_path, randomise):
    """An encoder under timm's names, its tensors, and a function that writes others."""
    encoder = randomise(small())
    path = convert.save(encoder, tmp_path / "vit.safetensors", "timm")

    def write(**changes):
        kept = {name: value for name, value in {**read(path).tensors, **changes}.items() if value is not None}
        write_safetensors(tmp_path / "changed.safetensors", kept)
        return tmp_path / "changed.safetensors"

    return encoder, path, write


# === What transformers cannot hold ===
@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ({"final_norm": False}, None, "has a final norm. Received: an encoder with final_norm=False"),
        ({"layer_norm_eps": 1e-2}, {}, "has one layer_norm_eps. Received: 0.01 in the encoder, 1e-06 in the decoder"),
        ({"image_shape": (20, 30, 3)}, {}, r"has square images and patches.* image_shape=\(20, 30, 3\)"),
        ({"patch_size": (5, 4)}, {}, r"has square images and patches.* patch_size=\(5, 4\)"),
    ],
)
def test_transformers_is_not_given_what_it_cannot_hold(encoder, decoder, message, tmp_path):
    model = small(**encoder)
    if decoder is not None:
        model = keras_mae.MaskedAutoencoder(model, keras_mae.MAEDecoder(8, 1, 2))
    with pytest.raises(ValueError, match=message):
        convert.save(model, tmp_path / "new" / "out", "transformers")
    assert list(tmp_path.iterdir()) == []


# === What a file says beside its tensors ===
def test_a_classifier_of_timm_with_its_norm_before_the_mean_is_refused(tmp_path):
    classifier = keras_mae.ViTClassifier(small(), 3, pooling="token")
    path = convert.save(classifier, tmp_path / "timm" / "model.safetensors", "timm")
    config = {"global_pool": "avg", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (path.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="averages all tokens behind its norm.* global_pool='avg' without fc_norm"):
        convert.load(path.parent, num_heads=4)
    (path.parent / "config.json").write_text(json.dumps({**config, "global_pool": "token"}))
    assert convert.load(path.parent, num_heads=4).model.encoder.pixel_std == (63.75,) * 3


@pytest.mark.parametrize(
    ("pixels", "mean", "std"),
    [
        ({"image_mean": [0.2, 0.4, 0.6], "image_std": [0.5] * 3}, (51, 102, 153), (127.5,) * 3),
        ({"do_normalize": False, "image_mean": [9.0] * 3}, (0,) * 3, (255,) * 3),
        ({"do_rescale": False, "image_mean": [123.0] * 3, "image_std": [58.0] * 3}, (123,) * 3, (58,) * 3),
        ({"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 1}, (127.5,) * 3, (127.5,) * 3),
        ({"image_mean": None}, None, "`pixel_mean` must be a finite number"),
        ({"image_std": ["a"]}, None, "could not convert string"),
    ],
)
def test_image_processors_are_read(pixels, mean, std, tmp_path):
    path = convert.save(small(), tmp_path / "hf", "transformers")
    (path / "preprocessor_config.json").write_text(json.dumps(pixels))
    if mean is None:
        with pytest.raises(ValueError, match=std):
            convert.load(path)
        return
    encoder = convert.load(path).model
    np.testing.assert_allclose((encoder.pixel_mean, encoder.pixel_std), (mean, std))


def test_a_width_that_is_no_whole_multiple_is_kept(tmp_path):
    """60 / 44 * 44 is 59.99... in floats."""
    encoder = small(embed_dim=44, mlp_ratio=60 / 44)
    assert encoder.blocks[0].mlp.fc1.units == 60
    again = convert.load(convert.save(encoder, tmp_path / "hf", "transformers")).model
    assert again.blocks[0].mlp.fc1.units == 60


# === Tensors that are not what they should be ===
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pos_embed", lambda x: np.concatenate([x, x]), r"pos_embed \(2, 17, 24\), where \(1, 17, 24\) fits"),
        ("cls_token", lambda x: x[0], r"cls_token \(1, 24\), where \(1, 1, 24\) fits"),
        ("norm.weight", lambda x: x.astype("int64"), r"no floats: norm.weight \(int64\)"),
        ("norm.bias", lambda x: x > 0, r"no floats: norm.bias \(bool\)"),
        ("pos_embed", lambda x: x[0], "positions 3"),
        ("pos_embed", lambda x: None, "there is no 'pos_embed'"),
        ("cls_token", lambda x: None, "17 patches of 'changed.safetensors' are no square"),
        ("patch_embed.proj.weight", lambda x: x[:, :, 0, 0], "patch kernel must have 4 dimensions"),
    ],
)
def test_odd_tensors_are_named(name, change, message, timm_file):
    _, path, write = timm_file
    odd = write(**{name: change(read(path).tensors[name])})
    with pytest.raises(ValueError, match=message):
        convert.load(odd, num_heads=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reg_token": np.zeros((1, 4, 24), "float32")}, "no distillation or register tokens"),
        (
            {"mask_token": np.zeros((1, 1, 8), "float32"), "cls_token": None},
            "has a class token, and this file has none",
        ),
    ],
)
def test_other_tokens_are_refused(changes, message, timm_file):
    with pytest.raises(ValueError, match=message):
        convert.load(timm_file[2](**changes), num_heads=4)


def test_a_prefix_of_data_parallelism_is_no_hindrance(timm_file):
    encoder, path, _ = timm_file
    write_safetensors(path, {f"module.{name}": value for name, value in read(path).tensors.items()})
    again = convert.load(path, num_heads=4).model
    assert all(np.array_equal(numpy(a), numpy(b)) for a, b in zip(encoder.weights, again.weights, strict=True))


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch writes these files")
def test_timms_vit_without_class_token_gives_the_same_logits(tmp_path):
    import torch

    vit = their_files.timm_vit("avg", class_token=False)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    model = convert.load(tmp_path / "vit.pth", num_heads=their_files.HEADS).model
    assert model.encoder.class_tokens == 0
    with torch.no_grad():
        expected = vit(their_files.pixels(their_files.IMAGES)).numpy()
    np.testing.assert_allclose(numpy(model(their_files.IMAGES)), expected, atol=1e-5, rtol=1e-5)
    again = convert.save(model, tmp_path / "again.pth", "timm")
    vit.load_state_dict(torch.load(again)["model"])


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch writes these files")
def test_pytorch_files_by_another_name_and_of_parameters(tmp_path):
    import torch

    vit = their_files.timm_vit("token", 0)
    torch.save(dict(vit.named_parameters()), tmp_path / "a.pth")
    shutil.copy(tmp_path / "a.pth", tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert convert.load(tmp_path / name, num_heads=HEADS).report.kind == "encoder"
    torch.save({"model": {3: torch.zeros(2)}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        convert.load(tmp_path / "c.pth")
    torch.save({"model": {"x": torch.zeros(2, 2).to_sparse()}}, tmp_path / "d.pth")
    with pytest.raises(ValueError, match="no plain arrays"):
        convert.load(tmp_path / "d.pth")


def test_what_was_said_is_not_passed_over(timm_file, tmp_path):
    encoder, path, _ = timm_file
    hf = convert.save(encoder, tmp_path / "hf", "transformers")
    with pytest.raises(ValueError, match="says how many heads there are: 4. Received: 3"):
        convert.load(hf, num_heads=3)
    with pytest.raises(ValueError, match="There is no decoder in 'vit.safetensors'. Received: norm_pix_loss=True"):
        convert.load(path, num_heads=4, norm_pix_loss=True)
    with pytest.raises(ValueError, match=r"`image_shape` must be .* Received: image_shape=\(20, 20\)"):
        convert.load(path, num_heads=4, image_shape=(20, 20))


# === from_preset ===
def test_from_preset_takes_what_a_file_does_not_say(tmp_path, randomise):
    mae = randomise(keras_mae.MaskedAutoencoder(small(), keras_mae.MAEDecoder(8, 1, 2)))
    path = convert.save(mae, tmp_path / "mae.safetensors", "reference")
    write_safetensors(path, read(path).tensors)  # as the authors do, without a word of ours
    told = {"num_heads": 4, "decoder_num_heads": 2}
    assert keras_mae.MaskedAutoencoder.from_preset(path, norm_pix_loss=True, **told).norm_pix_loss
    assert keras_mae.ViTEncoder.from_preset(path, num_heads=4).count_params() == mae.encoder.count_params()


def test_from_preset_refuses_another_image_size(tmp_path):
    name = "mae_vit_micro_patch4_28"
    encoder = keras_mae.ViTEncoder.from_preset(name, image_shape=(32, 32, 1))
    encoder.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=rf"are not of '{name}': they have .*image_shape': \(32, 32, 1\)"):
        keras_mae.ViTEncoder.from_preset(name, weights=tmp_path / "other.keras")
    with pytest.raises(ValueError, match="There is no file or folder .*none.pth"):
        keras_mae.ViTEncoder.from_preset(name, weights=tmp_path / "none.pth")


def test_other_models_are_no_presets(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="holds no model of keras_mae. Received: a Sequential"):
        keras_mae.ViTEncoder.from_preset(tmp_path / "dense.keras")
    for preset in (None, 5):
        with pytest.raises(ValueError, match=f"`preset` must be a name or a path. Received: preset={preset}"):
            keras_mae.ViTEncoder.from_preset(preset)


def test_a_trained_head_is_kept(tmp_path, randomise):
    classifier = randomise(keras_mae.ViTClassifier(small(), 7, pooling="token"))
    classifier.save_to_preset(tmp_path / "classifier")
    again = keras_mae.ViTClassifier.from_preset(tmp_path / "classifier", num_classes=7)
    assert again.pooling == "token"
    assert np.array_equal(numpy(again.head.layers[-1].kernel), numpy(classifier.head.layers[-1].kernel))


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_no_optimizer_in_a_preset(tmp_path):
    mae = keras_mae.MaskedAutoencoder(small(), keras_mae.MAEDecoder(8, 1, 2))
    mae.compile(keras_mae.optimizers.AdamW(1e-3))
    mae.optimizer.build(mae.trainable_variables)
    optimizer = mae.optimizer
    mae.save_to_preset(tmp_path / "mae")
    assert mae.optimizer is optimizer
    with h5py.File(tmp_path / "mae" / "model.weights.h5") as file:
        assert not any("optimizer" in name for name in file)


def test_a_preset_whose_configuration_was_changed_is_refused(tmp_path):
    small().save_to_preset(tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    config["config"]["depth"] = 1
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit its config.json: \d+ parameters were saved, and it has \d+"):
        keras_mae.ViTEncoder.from_preset(tmp_path / "encoder")
    for path in (tmp_path / "x.keras", tmp_path / "encoder"):
        with pytest.raises(ValueError, match="must be a folder|must not exist"):
            small().save_to_preset(path)


# === Other precisions, compiled models ===
@pytest.mark.backends("torch", "jax", "tensorflow")
def test_keras_hub_gets_float32(tmp_path):
    pytest.importorskip("keras_hub")
    path = convert.save(small(dtype="mixed_bfloat16"), tmp_path / "hub", "keras_hub")
    assert convert.load(path).model.dtype_policy.name == "float32"


@pytest.mark.backends("torch", "jax", "tensorflow")
def test_a_model_of_lower_precision_is_exported_in_float32(mae, randomise):
    half = keras_mae.ViTClassifier(small(dtype="mixed_bfloat16"), 3)
    randomise(half)
    full = exporting.in_float32(half)
    assert {layer.dtype_policy.name for layer in full._flatten_layers()} == {"float32"}
    for ours, theirs in zip(full.weights, half.weights, strict=True):
        assert np.array_equal(numpy(ours), numpy(theirs))
    assert exporting.in_float32(mae) is mae


@pytest.mark.skipif(BACKEND == "jax", reason="JAX alone exports nothing")
def test_a_compiled_model_with_a_loss_of_its_own_is_exported(forked_export, tmp_path):
    classifier = keras_mae.ViTClassifier(small(dtype="mixed_bfloat16"), 3)
    classifier.compile("sgd", loss=lambda y, logits: ops.mean(logits))
    name, format = ("x.pt2", "torch") if BACKEND == "torch" else ("x", "saved_model")
    assert convert.export(classifier, tmp_path / name, format) < 1e-4
