"""Pre-training that goes on from the weights of another model."""

import json

import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import convert
from keras_mae.ops import concrete

torch_only = pytest.mark.backends("torch")


def small(shape=(8, 8, 3), **options):
    encoder = keras_mae.ViTEncoder(shape, 4, embed_dim=8, depth=1, num_heads=2)
    return keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), **options)


def same(one, other):
    return all(np.array_equal(concrete(a), concrete(b)) for a, b in zip(one.weights, other.weights, strict=True))


def test_a_whole_model_goes_on_with_its_decoder(tmp_path):
    mae = small()
    mae.save(tmp_path / "mae.keras")
    for source in (mae, tmp_path / "mae.keras"):
        again = convert.continued(source, seed=5)
        assert same(again.encoder, mae.encoder)
        assert same(again.decoder, mae.decoder)
        assert (again.seed, again.encoder is mae.encoder) == (5, False)
    wide = convert.continued(mae, (8, 16, 3), norm_pix_loss=False)
    assert (wide.encoder.image_shape, wide.norm_pix_loss) == ((8, 16, 3), False)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 3), "uint8")
    wide.compile("sgd")
    assert np.isfinite(wide.train_on_batch(images, return_dict=True)["loss"])


@torch_only
def test_what_is_not_the_models_is_new():
    mae = small()
    fresh = convert.continued(mae, new_decoder=True)
    assert same(fresh.encoder, mae.encoder)
    assert fresh.decoder.embed_dim == 512  # no preset has such an encoder
    gray = convert.continued(mae, (8, 8, 1))
    assert (gray.encoder.image_shape, gray.decoder.embed_dim) == ((8, 8, 1), 512)
    assert convert.continued(mae, decoder="cross_attention").decoder.kind == "cross_attention"
    assert same(convert.continued(mae.encoder).encoder, mae.encoder)
    classifier = keras_mae.ViTClassifier(mae.encoder, 2, drop_path_rate=0.1)
    assert convert.continued(classifier).encoder.drop_path_rate == 0
    windowed = mae.encoder.copy(window=2, global_blocks=())
    assert same(convert.continued(windowed).encoder, mae.encoder)  # with full attention, which pre-training needs
    micro = keras_mae.ViTEncoder.from_preset("mae_vit_micro_patch2_8")
    assert convert.continued(micro).decoder.embed_dim == 64
    for wrong, message in (
        ({"say": "x"}, "`say` must be a function of a line"),
        ({"decoder": "x"}, "`decoder` must be one of"),
        ({"new_decoder": 1}, "`new_decoder` must"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.continued(mae, **wrong)
    with pytest.raises(ValueError, match="`weights` must be a model, a path"):
        convert.continued(None)


@torch_only
def test_what_was_taken_is_said():
    mae, said = small(), []
    for shape in ((8, 8, 3), (8, 16, 3), (8, 16, 1)):
        convert.continued(mae, shape, say=said.append)
    assert said == [
        "encoder and decoder",
        "encoder and decoder, positions resized from 2 x 2 to 2 x 4 patches",
        "the encoder, and a new decoder, positions resized from 2 x 2 to 2 x 4 patches, channels: 1 in place of 3",
    ]


@torch_only
def test_pretrain_goes_on_from_a_file(keras_mae_command, digits_model, tmp_path):
    short = ("--epochs", 1, "--batch-size", 720, "--base-learning-rate", 1e-12)
    status, out, _ = keras_mae_command("pretrain", "--weights", digits_model, *short, "--out", "run")
    assert (status, "model.keras: 2," in out) == (0, True)
    assert "\ngoes on from model.keras: encoder and decoder\n" in f"\n{out}"
    trained, before = keras.saving.load_model("run/model.keras"), keras.saving.load_model(digits_model)
    for part in ("encoder", "decoder"):
        for one, other in zip(getattr(trained, part).weights, getattr(before, part).weights, strict=True):
            if one.path.rpartition("/")[2] != "step":
                np.testing.assert_allclose(concrete(one), concrete(other), atol=1e-6)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["weights"], len(record["weights_sha256"])) == ("model.keras", 16)
    (tmp_path / "few").mkdir()
    for number, image in enumerate(keras_mae.data.digits("test")[0][:4]):
        keras.utils.save_img(tmp_path / "few" / f"{number}.png", image)
    few = ("few", "--batch-size", 4)  # the new decoder is wide
    assert keras_mae_command("pretrain", *few, "--recipe", "run/recipe.toml", "--new-decoder", "--out", "new")[0] == 0
    assert keras.saving.load_model("new/model.keras").decoder.embed_dim == 512
    for options, message in (
        (("--weights", digits_model, "--model", "mae_vit_micro_patch2_8"), "`model` names an architecture"),
        (("--weights", digits_model, "--patch-size", 4), "`patch_size` must be that of the weights, (2, 2)"),
        (("--weights", digits_model, "--class-tokens", 2), "`class_tokens` must be that of the weights, 1"),
        (("--new-decoder",), "`new_decoder` goes with --weights"),
        (("--weights", "nowhere.keras"), "There is no file or folder"),
    ):
        status, _, err = keras_mae_command("pretrain", *options)
        assert (status, message in err) == (2, True), err
