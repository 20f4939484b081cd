"""One protocol for all formats: our own files go through it, and a further library is one class and one entry."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae import convert
from keras_mae.convert import weight_map

WITNESSES = Path(__file__).parent / "witnesses"
STEM = {"class": "encoder.class_token", "positions": "encoder.positions", "bias": "encoder.patches.bias"}


class Tiny(convert.Layout):
    """A library that exists here only: encoders as one .npz file with our names, and JSON beside the arrays."""

    name = "tiny"

    def matches(self, files):
        return files.path.suffix == ".npz"

    def read(self, files):
        with np.load(files.path) as arrays:
            tensors = {name: arrays[name] for name in arrays if name != "config"}
            config = json.loads(str(arrays["config"]))
        return convert.StateDict(tensors, dict.fromkeys(tensors, "float32"), {"tiny": config}, str(files.path))

    def kind(self, state):
        return "classifier" if "head.weight" in state.tensors else "encoder"

    def sizes(self, state, hints):
        config = state.config["tiny"]
        hints.check_heads(state, config["num_heads"])
        side, width, channels, *patch = 20, *state.tensors["kernel"].shape
        encoder = {"embed_dim": width, "depth": 1, "num_heads": config["num_heads"], "patch_size": tuple(patch)}
        return convert.Sizes(encoder, channels, image_size=(side, side))

    def head(self, state):
        return {"num_classes": len(state.tensors["head.weight"]), "pooling": "token"}

    def rules(self, model, state=None):
        encoder = getattr(model, "encoder", model)
        kernel = weight_map.patch_kernel(encoder.patch_size, encoder.image_shape[2])
        rules = [convert.Rule((theirs,), ours) for theirs, ours in STEM.items()]
        rules.append(convert.Rule(("kernel",), "encoder.patches.kernel", kernel))
        for part in ("norm1", "norm2"):
            rules += weight_map.norm(part, f"encoder.0.{part}")
        for part in ("qkv", "projection", "fc1", "fc2"):
            rules += weight_map.dense(part, f"encoder.0.{part}")
        rules += weight_map.norm("norm", "encoder.norm")
        return rules if encoder is model else rules + weight_map.dense("head", "head")

    def refuse(self, model):
        if getattr(model, "encoder", model).depth != 1:
            raise ValueError("Tiny has one block")

    def check_path(self, path):
        if path.suffix != ".npz":
            raise ValueError("Tiny's files end in .npz")

    def write(self, model, path):
        config = {"num_heads": getattr(model, "encoder", model).num_heads}
        np.savez(path, config=json.dumps(config), **convert.save_weights(model, self.rules(model)))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(convert.FORMATS, "tiny", Tiny())


@pytest.fixture
def encoder(randomise):
    return randomise(keras_mae.ViTEncoder((20, 20, 3), 5, 24, 1, 3))


def arrays(model):
    return [ops.convert_to_numpy(weight) for weight in model.weights]


def same_weights(one, two):
    return all(np.array_equal(a, b) for a, b in zip(arrays(one), arrays(two), strict=True))


# === A fifth library ===
def test_an_encoder_goes_through_a_further_format(tiny, encoder, tmp_path):
    path = convert.save(encoder, tmp_path / "x.npz", "tiny")
    model, report = convert.load(path, drop_path_rate=0.1)
    assert same_weights(model, encoder)
    assert (model.drop_path_rate, report.kind, len(report.rows)) == (0.1, "encoder", 18)
    assert same_weights(keras_mae.ViTEncoder.from_preset(path), encoder)
    resized, report = convert.load(path, image_shape=(30, 40, 3))
    assert same_weights(resized, encoder.copy(image_shape=(30, 40, 3)))
    assert "resized from (4, 4) to (6, 8)" in str(report)


def test_a_probe_is_folded_for_a_further_format(tiny, encoder, tmp_path):
    probe = keras_mae.ViTClassifier(encoder, 7, pooling="token", batch_norm=True)
    model = convert.load(convert.save(probe, tmp_path / "x.npz", "tiny")).model
    assert (model.num_classes, model.batch_norm) == (7, False)
    assert keras_mae.ViTClassifier.from_preset(tmp_path / "x.npz").num_classes == 7
    assert same_weights(convert.load(tmp_path / "x.npz", encoder_only=True).model, encoder)


@pytest.mark.backends("torch")
def test_a_further_format_refuses(tiny, encoder, tmp_path):
    deep = keras_mae.ViTEncoder((20, 20, 3), 5, 24, 2, 3)
    for model, name, message in ((deep, "x.npz", "Tiny has one block"), (encoder, "x", "files end in .npz")):
        with pytest.raises(ValueError, match=message):
            convert.save(model, tmp_path / name, "tiny")
    path = convert.save(encoder, tmp_path / "x.npz", "tiny")
    with pytest.raises(ValueError, match="says how many heads there are: 3. Received: 4"):
        convert.load(path, num_heads=4)
    with pytest.raises(ValueError, match="There is no decoder in 'x.npz'. Received: norm_pix_loss=True"):
        convert.load(path, norm_pix_loss=True)
    with np.load(path) as stored:
        np.savez(path, **{name: stored[name] for name in stored if name != "norm.bias"})
    with pytest.raises(ValueError, match="do not fit, and none was loaded. missing: norm.bias"):
        convert.load(path)
    with pytest.raises(ValueError, match="these weights are a ViTEncoder: it can reconstruct nothing"):
        keras_mae.MaskedAutoencoder.from_preset(convert.save(encoder, tmp_path / "y.npz", "tiny"))


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    ("change", "odd"),
    [
        (lambda rules: rules[1:], "encoder.class_token"),
        (lambda rules: [*rules, convert.Rule(("more",), "encoder.nowhere")], "encoder.nowhere"),
        (lambda rules: [*rules[:-1], convert.Rule((rules[0].sources[0],), rules[-1].target)], "class"),
    ],
    ids=["one forgotten", "one too many", "a name twice"],
)
def test_a_layout_that_would_lose_a_weight_writes_nothing(change, odd, tiny, encoder, tmp_path, monkeypatch):
    rules = Tiny.rules
    monkeypatch.setattr(Tiny, "rules", lambda self, model, state=None: change(rules(self, model, state)))
    with pytest.raises(ValueError, match=f"one rule for each weight, .* Received, too few or too many: {odd}"):
        convert.save(encoder, tmp_path / "x.npz", "tiny")
    assert list(tmp_path.iterdir()) == []


def test_a_transform_of_another_shape_changes_no_weight(tiny, encoder, tmp_path):
    state = Tiny().read(convert.state_dict.Files(convert.save(encoder, tmp_path / "x.npz", "tiny")))
    rules = Tiny().rules(encoder)
    place = next(index for index, rule in enumerate(rules) if rule.target == "encoder.0.fc1.kernel")
    wrong = convert.Transform(lambda found: found[0], rules[place].transform.save)
    rules[place] = convert.Rule(rules[place].sources, rules[place].target, wrong)
    other = keras_mae.ViTEncoder((20, 20, 3), 5, 24, 1, 3)
    before = arrays(other)
    with pytest.raises(ValueError, match=r"none was loaded. of another shape: encoder.0.fc1.kernel \(96, 24\)"):
        convert.load_weights(other, state, rules, "encoder")
    assert all(np.array_equal(a, b) for a, b in zip(before, arrays(other), strict=True))


def test_a_subclass_is_not_what_a_file_holds(encoder, tmp_path):
    class Mine(keras_mae.ViTEncoder):
        pass

    encoder.save_to_preset(tmp_path / "x")
    with pytest.raises(ValueError, match="holds a ViTEncoder, which is no Mine"):
        Mine.from_preset(tmp_path / "x")


# === Our own ===
@pytest.mark.parametrize(("format", "name"), [("keras", "x.keras"), ("preset", "x")])
def test_our_own_formats_keep_everything(format, name, mae, tmp_path):
    model, report = convert.load(convert.save(mae, tmp_path / name, format))
    assert model.get_config() == mae.get_config()
    assert same_weights(model, mae)
    assert (report.kind, report.norm_pix_loss) == ("autoencoder", mae.norm_pix_loss)
    # Every weight is in the report; the model's own counters are none.
    assert {row[1] for row in report.rows} == set(convert.named_weights(mae))
    assert type(convert.load(tmp_path / name, encoder_only=True).model) is keras_mae.ViTEncoder
    with pytest.raises(ValueError, match="is a model of keras_mae, which says itself what it is"):
        convert.load(tmp_path / name, num_heads=3)
    probe = keras_mae.ViTClassifier(mae.encoder, 7, batch_norm=True)
    assert convert.load(convert.save(probe, tmp_path / f"probe-{name}", format)).model.batch_norm


@pytest.mark.backends("torch")
def test_paths_of_our_own_formats(encoder, tmp_path):
    for name, format, message in (("x", "keras", "must end in '.keras'"), ("x.keras", "preset", "must be a folder")):
        with pytest.raises(ValueError, match=message):
            convert.save(encoder, tmp_path / name, format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["preset", "masked_autoencoder.keras", "classifier.keras", "probe.keras"])
def test_what_was_saved_before_still_loads(name):
    model = convert.load_model(WITNESSES / name)
    assert same_weights(convert.load(WITNESSES / name).model, model)
    assert same_weights(type(model).from_preset(WITNESSES / name), model)


@pytest.mark.backends("torch")
def test_load_model_says_what_a_file_is_instead(tmp_path, encoder):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.keras").write_text("no archive")
    (tmp_path / "photo.png").write_text("no model")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "dense.keras")
    convert.save(encoder, tmp_path / "timm.safetensors", "timm")
    for name, message in (
        ("folder", r"is a .keras file, not a folder: try '.*folder/model.keras'"),
        ("nothing.keras", "There is no model file"),
        ("text.keras", "is a .keras file that keras_mae saved. Received"),
        ("photo.png", "is a .keras file that keras_mae saved. Received"),
        ("timm.safetensors", "is a .keras file that keras_mae saved. Received"),
        ("dense.keras", "holds no model of keras_mae. Received: a Sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.load_model(tmp_path / name)


@pytest.mark.backends("torch")
def test_every_format_can_be_asked_about_every_file(tmp_path):
    """`matches` raises no error, whatever the file is."""
    for name, content in (("a.pth", b"PK damaged"), ("b.safetensors", b"12345678{"), ("c.keras", b""), ("d", b"x")):
        (tmp_path / name).write_bytes(content)
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "nothing"):
        matching = [name for name, format in convert.FORMATS.items() if format.matches(convert.Files(path))]
        assert matching == (["keras"] if path.suffix == ".keras" else [])
