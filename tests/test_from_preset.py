"""`from_preset` and `save_to_preset`: folders, the Hub, published weights by name; and what they refuse."""

import hashlib
import json
import shutil
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae import convert
from keras_mae.convert import locate

ARCHITECTURE = "mae_vit_micro_patch4_28"


def same_weights(one, two):
    pairs = zip(one.weights, two.weights, strict=True)
    return all(np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in pairs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_mae, randomise):
    """A folder of each class, and the masked autoencoder."""
    folder = tmp_path_factory.mktemp("presets")
    mae = randomise(make_mae(norm_pix_loss=True, masking=keras_mae.BlockMasking(0.4), seed=3))
    mae.encoder.step.set(17)
    mae.save_to_preset(folder / "mae")
    mae.encoder.save_to_preset(folder / "encoder")
    keras_mae.ViTClassifier(mae.encoder, 11).save_to_preset(folder / "classifier")
    return folder, mae


# === Folders ===
def test_a_masked_autoencoder_comes_back_whole(saved):
    folder, mae = saved
    again = keras_mae.MaskedAutoencoder.from_preset(folder / "mae")
    assert same_weights(mae, again)
    assert again.get_config() == mae.get_config()
    assert ops.convert_to_numpy(again.encoder.step.value) == 17
    other = keras_mae.MaskedAutoencoder.from_preset(folder / "mae", seed=5, masking=keras_mae.RandomMasking(0.5))
    assert (other.seed, type(other.masking).__name__, other.norm_pix_loss) == (5, "RandomMasking", True)


@pytest.mark.parametrize("name", ["mae", "encoder", "classifier"])
def test_an_encoder_comes_from_each(name, saved):
    folder, mae = saved
    encoder = keras_mae.ViTEncoder.from_preset(folder / name)
    assert type(encoder) is keras_mae.ViTEncoder
    kept = [weight for weight in mae.encoder.weights if encoder.final_norm or "/norm/" not in weight.path]
    for ours, theirs in zip(encoder.weights, kept, strict=True):
        assert np.array_equal(ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs))
    assert keras_mae.ViTEncoder.from_preset(folder / name, image_shape=(9, 6, 1)).image_shape == (9, 6, 1)


def test_a_classifier_comes_with_its_head_or_a_new_one(saved, randomise, tmp_path):
    folder, mae = saved
    classifier = randomise(keras_mae.ViTClassifier(mae.encoder, 11))
    classifier.save_to_preset(tmp_path / "classifier")
    again = keras_mae.ViTClassifier.from_preset(tmp_path / "classifier")
    assert again.num_classes == 11
    assert same_weights(classifier, again)
    fresh = keras_mae.ViTClassifier.from_preset(folder / "encoder", num_classes=7, drop_path_rate=0.2)
    assert (fresh.num_classes, fresh.encoder.drop_path_rate) == (7, 0.2)
    assert keras_mae.ViTClassifier.from_preset(folder / "classifier", num_classes=5).num_classes == 5


@pytest.mark.backends("torch")
def test_the_card_says_what_is_in_the_folder(saved):
    folder, mae = saved
    text = (folder / "mae" / "README.md").read_text()
    for fact in ("library_name: keras_mae", "15 x 14 x 3", f"{mae.count_params():,} parameters", "normalized", "40%"):
        assert fact in text


def test_keras_files_are_presets_too(saved, tmp_path):
    _, mae = saved
    mae.save(tmp_path / "mae.keras")
    assert same_weights(mae.encoder, keras_mae.ViTEncoder.from_preset(tmp_path / "mae.keras"))


# === Architectures and published weights ===
@pytest.mark.backends("torch")
def test_every_class_has_the_architectures():
    encoder = keras_mae.ViTEncoder.from_preset(ARCHITECTURE, drop_path_rate=0.1)
    assert (encoder.embed_dim, encoder.drop_path_rate) == (96, 0.1)
    own = {"num_classes": 3, "pooling": "token"}
    classifier = keras_mae.ViTClassifier.from_preset(ARCHITECTURE, image_shape=(8, 8, 1), **own)
    assert (classifier.num_classes, classifier.pooling, classifier.encoder.grid) == (3, "token", (2, 2))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, randomise):
    """A small "published" file, which is safetensors, for not every environment reads .pth; and its model."""
    mae = randomise(keras_mae.MaskedAutoencoder.from_preset(ARCHITECTURE))
    folder = tmp_path / "published" / "visualize"
    path = convert.save(mae, folder / "mae_visualize_vit_micro.safetensors", "reference").rename(
        folder / "mae_visualize_vit_micro.pth"
    )
    checksum = hashlib.md5(path.read_bytes()).hexdigest()[:6]
    monkeypatch.setitem(locate.PUBLISHED, "mae_visualize_vit_micro", ("visualize", checksum))
    monkeypatch.setattr(locate, "ADDRESS", folder.parent.as_uri())
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(keras.utils, "get_file", partial(keras.utils.get_file, cache_dir=tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return path, mae


def load(cls=keras_mae.MaskedAutoencoder, **arguments):
    with pytest.warns(UserWarning, match="mae_visualize_vit_micro are the authors', under CC-BY-NC 4.0"):
        return cls.from_preset(ARCHITECTURE, weights="mae_visualize_vit_micro", **arguments)


@pytest.mark.backends("torch")
def test_published_weights_are_downloaded(checkpoint):
    """By Keras, from an address that is a file's here."""
    _, mae = checkpoint
    again = load(seed=2)
    assert same_weights(mae, again)
    assert (again.seed, again.norm_pix_loss) == (2, False)
    assert same_weights(mae.encoder, load(keras_mae.ViTEncoder))
    assert load(keras_mae.ViTClassifier, num_classes=3).num_classes == 3
    assert load(image_shape=(32, 40, 1)).encoder.grid == (8, 10)
    coloured = load(keras_mae.ViTEncoder, image_shape=(32, 40, 3), pixel_mean=3, drop_path_rate=0.1)
    assert (coloured.image_shape, coloured.pixel_mean[0], coloured.drop_path_rate) == ((32, 40, 3), 3, 0.1)
    assert load(keras_mae.ViTClassifier, num_classes=3, image_shape=(28, 28, 3)).encoder.image_shape == (28, 28, 3)
    with pytest.raises(ValueError, match="the height and width of `image_shape`.* For other channels"):
        load(image_shape=(28, 28, 3))


@pytest.mark.backends("torch")
def test_a_file_of_the_name_is_taken_without_network(checkpoint, tmp_path, monkeypatch):
    path, mae = checkpoint
    monkeypatch.setattr(locate, "ADDRESS", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"Cannot download http://127.0.0.1:9/visualize/.*put the file into"):
        load()
    shutil.copy(path, tmp_path / path.name)
    assert same_weights(mae, load())


@pytest.mark.backends("torch")
def test_a_file_that_is_another_is_refused(checkpoint, tmp_path):
    (tmp_path / "mae_visualize_vit_micro.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the published file: its MD5 begins with"):
        load()


@pytest.mark.backends("torch")
def test_weights_of_another_architecture_are_refused(checkpoint):
    path, _ = checkpoint
    with pytest.raises(ValueError, match=r"are not of 'mae_vit_tiny_patch4_32': they have .*'embed_dim': 96"):
        keras_mae.ViTEncoder.from_preset("mae_vit_tiny_patch4_32", weights=path)


@pytest.mark.backends("torch")
def test_an_encoder_alone_reconstructs_nothing(checkpoint, saved, tmp_path):
    _, mae = checkpoint
    path = convert.save(mae.encoder, tmp_path / "encoder.safetensors", "reference")
    for preset, weights in ((ARCHITECTURE, path), (saved[0] / "encoder", None)):
        with pytest.raises(ValueError, match="these weights are a ViTEncoder: .* Load a checkpoint with a decoder"):
            keras_mae.MaskedAutoencoder.from_preset(preset, weights=weights)


# === The Hub ===
@pytest.mark.backends("torch")
def test_the_hub(saved, tmp_path, monkeypatch):
    """Its package finds a repository in its cache, laid out as it would have downloaded it."""
    constants = pytest.importorskip("huggingface_hub.constants")
    folder, mae = saved
    repository = tmp_path / "models--someone--mae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folder / "mae", repository / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(mae, keras_mae.MaskedAutoencoder.from_preset("hf://someone/mae"))
    with pytest.raises(ValueError, match="Cannot get hf://someone/else"):
        keras_mae.MaskedAutoencoder.from_preset("hf://someone/else")


# === Bad input ===
@pytest.mark.backends("torch")
def test_nothing_is_overwritten(saved):
    folder, mae = saved
    before = (folder / "encoder" / "model.weights.h5").read_bytes()
    with pytest.raises(ValueError, match="`path` must not exist, so that nothing is lost"):
        mae.save_to_preset(folder / "encoder")
    assert (folder / "encoder" / "model.weights.h5").read_bytes() == before


@pytest.mark.backends("torch")
def test_a_failed_write_leaves_nothing(saved, tmp_path, monkeypatch):
    _, mae = saved

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(mae, "save_weights", full)
    with pytest.raises(OSError, match="No space"):
        mae.save_to_preset(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "has no readable config.json"),
        (lambda path: (path / "config.json").write_text("{"), "has no readable config.json"),
        (
            lambda path: (path / "config.json").write_text(
                json.dumps({"module": "keras.layers", "class_name": "Lambda", "registered_name": None})
            ),
            "holds no model of keras_mae, but: None",
        ),
        (
            lambda path: (path / "model.weights.h5").write_bytes((path / "model.weights.h5").read_bytes()[:3000]),
            "are damaged, or not those it was saved with",
        ),
    ],
)
def test_a_damaged_folder_is_refused(spoil, message, saved, tmp_path):
    path = shutil.copytree(saved[0] / "encoder", tmp_path / "encoder")
    spoil(path)
    with pytest.raises(ValueError, match=message):
        keras_mae.ViTEncoder.from_preset(path)


@pytest.mark.backends("torch")
def test_weights_of_other_sizes_are_refused(saved, tmp_path, make_mae):
    path = shutil.copytree(saved[0] / "encoder", tmp_path / "encoder")
    make_mae(embed_dim=24).encoder.save_weights(path / "model.weights.h5")
    with pytest.raises(ValueError, match="are damaged, or not those it was saved with"):
        keras_mae.ViTEncoder.from_preset(path)


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("cls", "preset", "arguments", "message"),
    [
        ("ViTEncoder", "mae_vit_nano", {}, "`preset` must be one of .*'mae_vit_nano'"),
        (
            "ViTEncoder",
            ARCHITECTURE,
            {"weights": "mae_pretrain_vit_giant"},
            "`weights` must be one of mae_pretrain_vit_base, .* Received: weights='mae_pretrain_vit_giant'",
        ),
        ("ViTEncoder", "/encoder", {"weights": "x"}, "`weights` are for an architecture by name. Received: preset="),
        ("ViTEncoder", ARCHITECTURE, {"depht": 3}, "takes arguments of .* Received: depht"),
        ("ViTClassifier", "/mae", {}, "takes `num_classes`. Received: no argument"),
        ("MaskedAutoencoder", "/mae", {"norm_pix_loss": False}, "takes arguments of .* Received: norm_pix_loss"),
    ],
)
def test_bad_arguments(cls, preset, arguments, message, saved):
    preset = f"{saved[0]}{preset}" if preset.startswith("/") else preset
    with pytest.raises(ValueError, match=message):
        getattr(keras_mae, cls).from_preset(preset, **arguments)
