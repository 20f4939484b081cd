"""Files from strangers: what asks for more than it holds is refused, and what is damaged is named."""

import io
import json
import shutil
import zipfile

import hostile_files
import keras
import numpy as np
import pytest

import keras_mae
from keras_mae import _files, convert
from keras_mae.convert import doors, limits

pytestmark = pytest.mark.backends("torch")
EACH = pytest.mark.backends("torch", "jax", "tensorflow")
h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a small autoencoder as a .keras file, and its encoder as a preset."""
    folder = tmp_path_factory.mktemp("saved")
    encoder = keras_mae.ViTEncoder((8, 8, 3), patch_size=4, embed_dim=16, depth=2, num_heads=2)
    mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(embed_dim=8, depth=1, num_heads=2))
    mae.save(folder / "mae.keras")
    encoder.save_to_preset(folder / "preset")
    return folder


def changed(saved, path, config=lambda config: config, weights=lambda content: content, how=zipfile.ZIP_STORED):
    """Write the .keras file with its configuration or weights changed, and return the path."""
    with zipfile.ZipFile(saved / "mae.keras") as old, zipfile.ZipFile(path, "w", how) as new:
        said = json.loads(old.read("config.json"))
        new.writestr("metadata.json", old.read("metadata.json"))
        new.writestr("config.json", json.dumps(config(said)))
        new.writestr("model.weights.h5", weights(old.read("model.weights.h5")))
    return path


def with_encoder(**values):
    """Return a function that changes what a configuration says of the encoder."""

    def change(config):
        config["config"]["encoder"]["config"].update(values)
        return config

    return change


def with_array(change):
    """Return a function that changes the first matrix in a file of weights; `change` gets its group and its name."""

    def weights(content):
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as opened:
            names = []
            opened.visit(names.append)
            name = next(name for name in names if isinstance(opened[name], h5py.Dataset) and opened[name].ndim == 2)
            change(opened, name)
        return file.getvalue()

    return weights


def bomb(opened, name):
    del opened[name]
    opened.create_dataset(name, shape=(10**5, 10**4), chunks=(100, 100), dtype="f4")


def not_a_number(opened, name):
    opened[name][0, 0] = np.nan


# === Bombs ===
@EACH
@pytest.mark.parametrize(
    ("values", "asks"),
    [
        ({"depth": 10**6}, "1,000,001 transformer blocks, and 1,000 are read.*`max_parameters`"),
        ({"embed_dim": 10**5}, "parameters or more, and 2,000,000,000 are read"),
        ({"image_shape": [10**6, 10**6, 3]}, "parameters or more, and 2,000,000,000 are read"),
        ({"mlp_ratio": float("inf")}, "inf parameters or more"),
        ({"depth": 300}, r"damaged: it asks for [\d,]+ parameters or more, and its weights cannot be more than"),
    ],
)
def test_a_configuration_that_asks_for_more_than_the_file_holds_is_refused(
    saved, tmp_path, monkeypatch, values, asks
):
    file = changed(saved, tmp_path / "mae.keras", with_encoder(**values))
    monkeypatch.setattr(keras.saving, "load_model", None)  # nothing is built
    with pytest.raises(ValueError, match=asks):
        convert.load_model(file)


def test_a_preset_is_held_to_the_same(saved, tmp_path):
    shutil.copytree(saved / "preset", tmp_path / "preset")
    file = tmp_path / "preset" / "config.json"
    config = json.loads(file.read_text())
    config["config"]["depth"] = 10**6
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="1,000,000 transformer blocks"):
        keras_mae.ViTEncoder.from_preset(tmp_path / "preset")


def test_zeros_that_take_no_room_in_the_archive_are_refused(saved, tmp_path, monkeypatch):
    file = changed(saved, tmp_path / "mae.keras", weights=lambda content: bytes(2**20), how=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(limits, "_SMALL", 2**19)
    with pytest.raises(
        ValueError, match=r"refused: 'model.weights.h5' has 1,048,576 bytes, of which it holds 1,0\d\d"
    ):
        convert.load_model(file)


def test_an_honest_archive_may_be_compressed(saved, tmp_path):
    file = changed(saved, tmp_path / "mae.keras", how=zipfile.ZIP_DEFLATED)
    assert isinstance(convert.load_model(file), keras_mae.MaskedAutoencoder)


def test_an_array_of_which_nothing_is_stored_is_refused_by_name(saved, tmp_path):
    file = changed(saved, tmp_path / "mae.keras", weights=with_array(bomb))
    with pytest.raises(ValueError, match=r"'\S+vars/0' has 4,000,000,000 bytes, of which it holds 0"):
        convert.load_model(file)


def test_the_limit_can_be_raised_and_lowered(saved):
    with pytest.raises(ValueError, match="and 1,000 are read.*raise `max_parameters`"):
        convert.load_model(saved / "mae.keras", max_parameters=1000)
    with pytest.raises(ValueError, match="and 1,000 are read"):
        keras_mae.ViTEncoder.from_preset(saved / "preset", max_parameters=1000)
    assert convert.load(saved / "mae.keras", max_parameters=10**12).model.encoder.depth == 2
    limits.check_config("file", {"embed_dim": 8, "depth": 1500}, 10**9, 3_000_000_000)
    with pytest.raises(ValueError, match="1,500 transformer blocks, and 1,000 are read"):
        limits.check_config("file", {"embed_dim": 8, "depth": 1500}, 10**9)


@EACH
def test_what_a_configuration_asks_for_is_never_more_than_the_model_has():
    plain = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    encoder = keras_mae.ViTEncoder((8, 16, 3), patch_size=4, **plain)
    teacher = keras_mae.targets.Teacher(keras_mae.ViTEncoder((8, 16, 3), patch_size=4, **plain | {"depth": 1}))
    for model in (
        encoder,
        keras_mae.MaskedAutoencoder(encoder, keras_mae.CrossAttentionDecoder(8, 3, 2)),
        keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(8, 1, 2), target=teacher),
        keras_mae.ViTClassifier(encoder, 3, pooling="attentive"),
    ):
        held = sum(int(np.prod(weight.shape)) for weight in model.weights)
        limits.check_config("file", keras.saving.serialize_keras_object(model), held)


def test_a_model_of_keras_itself_is_refused_before_it_is_built(saved, tmp_path, monkeypatch):
    sequential = {"module": "keras", "class_name": "Sequential", "registered_name": None}
    file = changed(saved, tmp_path / "mae.keras", lambda config: config | sequential)
    monkeypatch.setattr(keras.saving, "load_model", None)
    with pytest.raises(ValueError, match="holds no model of keras_mae. Received: a Sequential"):
        convert.load_model(file)


def test_views_of_the_same_numbers_are_counted(tmp_path):
    (tmp_path / "a.pth").write_bytes(bytes(10))
    tensors = {"a": np.broadcast_to(np.float32(0), (10**5, 10**4)), "b": np.zeros(3)}
    with pytest.raises(
        ValueError, match="its tensors are 1,000,000,003 numbers, and it has 10 bytes. The largest is 'a'"
    ):
        limits.check_arrays(tmp_path / "a.pth", tensors)


# === Damage ===
@EACH
def test_weights_that_are_no_numbers_are_named(saved, tmp_path):
    file = changed(saved, tmp_path / "mae.keras", weights=with_array(not_a_number))
    with pytest.raises(ValueError, match=r"Weights in '\S+' are NaN or infinite: (encoder|decoder)\.\S+$"):
        convert.load_model(file)


@EACH
def test_a_changed_byte_is_found_where_it_is(saved, tmp_path):
    content = bytearray((saved / "mae.keras").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "mae.keras").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged at 'model.weights.h5': Bad CRC-32"):
        convert.load_model(tmp_path / "mae.keras")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
def test_weights_that_are_cut_off_are_damaged(saved, tmp_path, part):
    file = changed(saved, tmp_path / "mae.keras", weights=lambda content: content[: int(part * len(content))])
    with pytest.raises(ValueError, match="model.weights.h5' is damaged at"):
        convert.load_model(file)


@pytest.mark.parametrize("config", ["null", "[" * 100_000, "{", "\x1b[2J", '{"registered_name": ["\x1b"]}'])
def test_a_preset_whose_configuration_is_something_else_is_one_clear_error(saved, tmp_path, config):
    shutil.copytree(saved / "preset", tmp_path / "preset")
    (tmp_path / "preset" / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"^The preset '[^\x1b]*$"):
        keras_mae.ViTEncoder.from_preset(tmp_path / "preset")


@pytest.mark.parametrize("error", [KeyError("a"), RecursionError(), AttributeError("x\x1b"), MemoryError()])
def test_only_documented_errors_leave(error):
    def read(path):
        raise error

    with pytest.raises(ValueError, match=r"^'a.pth' cannot be read[^\x1b]*$") as caught:
        doors.documented(read, "a.pth")
    assert caught.value.__cause__ is error
    with pytest.raises(PermissionError):
        doors.documented(_refusing, "a.pth")


def _refusing(path):
    raise PermissionError(13, "Permission denied", path)


# === Paths ===
@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/../../b", "C:\\a", "..\\a", "\\\\host\\a", "", "a\0", None, 3])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="'index.json' must name files in its own folder. Received: "):
        _files.inside(tmp_path, name, "index.json")
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="must name files in its own folder|has no `weight_map` of files"):
        convert.load(tmp_path)


def test_a_path_inside_stays(tmp_path):
    assert _files.inside(tmp_path, "a/b..c", "index.json") == tmp_path / "a" / "b..c"


def test_names_of_tensors_are_escaped_in_errors(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"a\x1b[2J": np.zeros(1, "float32")}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"It holds a\\x1b\[2J$"):
        convert.load(tmp_path / "a.safetensors")


def test_a_file_with_a_block_for_each_of_many_names_is_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    encoder = keras_mae.ViTEncoder((8, 8, 3), patch_size=4, embed_dim=16, depth=1, num_heads=2)
    convert.save(encoder, tmp_path / "a.safetensors", "timm")
    tensors = safetensors.load_file(tmp_path / "a.safetensors")
    many = {f"blocks.{index}.norm1.weight": np.zeros(1, "float32") for index in range(1, 2000)}
    safetensors.save_file(tensors | many, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="2,000 transformer blocks, and 1,000 are read"):
        convert.load(tmp_path / "b.safetensors", num_heads=2, image_shape=(8, 8, 3))


def test_a_json_file_beyond_all_measure_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "_MOST_JSON", 10)
    (tmp_path / "a.json").write_text('{"a": 12345}')
    with pytest.raises(ValueError, match="has 12 bytes, and a JSON file of 10 is read"):
        _files.read_json(tmp_path / "a.json")


def test_of_files_that_are_changed_at_random_nothing_comes_but_documented_errors():
    counts = hostile_files.main(40, seed=1, say=False)
    assert any(name.endswith("refused") for name in counts)
    assert any(name.endswith("loaded") for name in counts)
