"""Checkpoints of training scripts: wrapped names, several dictionaries, NumPy's scalars, parts of larger models."""

import argparse
import datetime
import os
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae import convert
from keras_mae.convert import unwrap
from keras_mae.convert.state_dict import read, write_safetensors

BACKEND = keras.backend.backend()
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="PyTorch writes these files")


@pytest.fixture(scope="module")
def encoder(randomise):
    return randomise(keras_mae.ViTEncoder((16, 24, 3), 8, 24, 1, 4))


@pytest.fixture(scope="module")
def tensors(encoder, tmp_path_factory):
    """The encoder under timm's names."""
    return read(convert.save(encoder, tmp_path_factory.mktemp("timm") / "x.safetensors", "timm")).tensors


def prefixed(tensors, prefix, **others):
    return {**{f"{prefix}{name}": value for name, value in tensors.items()}, **others}


def changed(tensors, by):
    """Other weights, with positions that still tell their grid."""
    return {name: value if name == "pos_embed" else value + by for name, value in tensors.items()}


def assert_same(model, encoder, by=0):
    for one, two in zip(model.weights, encoder.weights, strict=True):
        more = np.float32(0 if "position" in two.name else by)
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(two) + more)


ONE = np.ones(2, "float32")


# === Names ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "backbone.",
        "encoder.",
        "teacher.",
        "student.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "module.module.",
        "state_dict.module.teacher._orig_mod.backbone.",
        "model.encoder.",
        "vit.",
        "anything.0.else.",
    ],
)
def test_a_prefix_of_all_names_is_stripped_and_reported(prefix, encoder, tensors, tmp_path):
    write_safetensors(tmp_path / "x.safetensors", prefixed(tensors, prefix))
    model, report = convert.load(tmp_path / "x.safetensors", num_heads=4)
    assert_same(model, encoder)
    assert report.left_out == {}
    bare = prefix.replace("_orig_mod.", "")
    assert (f"Names without their prefix {bare!r}" in report.notes) == bool(bare)
    assert ("Names without _orig_mod" in report.notes) == ("_orig_mod" in prefix)


@pytest.mark.backends("torch")
def test_wrappers_within_names_are_no_hindrance(encoder, tensors, tmp_path):
    """As compiling or sharding single blocks leaves them."""
    inner = {
        name.replace("blocks.0.", "blocks.0._orig_mod.").replace("mlp.", "_checkpoint_wrapped_module.mlp."): value
        for name, value in tensors.items()
    }
    write_safetensors(tmp_path / "x.safetensors", prefixed(inner, "_fsdp_wrapped_module."))
    model, report = convert.load(tmp_path / "x.safetensors", num_heads=4)
    assert_same(model, encoder)
    wrappers = "_orig_mod, _fsdp_wrapped_module, _checkpoint_wrapped_module"
    assert report.notes == [f"Names without {wrappers}"]
    write_safetensors(tmp_path / "y.safetensors", {"_orig_mod.a": ONE, "a": ONE})
    with pytest.raises(ValueError, match="y.safetensors' has names that differ in _orig_mod"):
        read(tmp_path / "y.safetensors")


@pytest.mark.backends("torch")
@pytest.mark.parametrize("kind", ["encoder", "autoencoder", "classifier"])
@pytest.mark.parametrize("format", ["reference", "transformers"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.encoder.", "model.vit."])
def test_every_layout_and_kind_may_be_wrapped(kind, format, prefix, randomise, tmp_path):
    """`vit.` and `encoder.` are names of transformers' own, which stay where they belong to it."""
    model = keras_mae.ViTEncoder((32, 32, 3), 8, 24, 1, 4)
    if kind == "autoencoder":
        model = keras_mae.MaskedAutoencoder(model, keras_mae.MAEDecoder(8, 1, 2))
    if kind == "classifier":
        model = keras_mae.ViTClassifier(model, 3, pooling="token")
    randomise(model)
    path = convert.save(model, tmp_path / ("x" if format == "transformers" else "x.safetensors"), format)
    file = path / "model.safetensors" if format == "transformers" else path
    state = read(file)
    write_safetensors(file, prefixed(state.tensors, prefix), state.config["keras_mae"])
    again, report = convert.load(path)
    assert report.kind == kind
    assert_same(again, model)
    if (format, kind) == ("transformers", "encoder"):
        prefix = prefix.removesuffix("vit.")
    assert report.notes == ([f"Names without their prefix {prefix!r}"] if prefix else [])


@pytest.mark.backends("torch")
def test_an_encoder_in_a_larger_model_is_loaded_and_the_rest_reported(encoder, tensors, tmp_path):
    more = {f"neck.{index}.conv.weight": ONE for index in range(9)} | {"head.weight": ONE}
    write_safetensors(tmp_path / "x.safetensors", prefixed(tensors, "backbone.", **more))
    model, report = convert.load(tmp_path / "x.safetensors", num_heads=4)
    assert_same(model, encoder)
    assert report.left_out == dict.fromkeys(more, "not under 'backbone.'")
    text = str(report)
    assert "and 4 more: left out, not under 'backbone.'" in text
    assert "Names without their prefix 'backbone.'" in text


@pytest.mark.backends("torch")
def test_under_its_prefix_a_model_fits_as_a_whole_or_not_at_all(tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, prefixed(tensors, "backbone.", **{"backbone.gate": ONE, "neck": ONE}))
    with pytest.raises(ValueError, match=r"unexpected: gate. Names without their prefix 'backbone.'"):
        convert.load(path, num_heads=4)
    write_safetensors(path, {**tensors, "neck.weight": ONE})  # nothing tells what belongs to the encoder
    with pytest.raises(ValueError, match="unexpected: neck.weight"):
        convert.load(path, num_heads=4)


# === Several models in a file ===
STEM = dict.fromkeys((unwrap.IN_REFERENCE, "blocks.0.norm1.weight"), ONE)
CHOICES = [
    ({"model": STEM, "epoch": 3}, None, "model", []),
    ({"model": STEM, "model_ema": STEM}, None, "model", ["model_ema"]),
    ({"model": STEM, "model_ema": STEM}, "model_ema", "model_ema", ["model"]),
    ({"state_dict": STEM, "state_dict_ema": STEM}, None, "state_dict", ["state_dict_ema"]),
    ({"student": STEM, "teacher": STEM, "optimizer": {"state": {0: ONE}}}, None, "teacher", ["student"]),
    ({"teacher": STEM, "ema": STEM}, None, "teacher", ["ema"]),
    ({"ema": {"module": STEM}}, None, "ema.module", []),
    ({"state_dict": {"model": STEM}}, None, "state_dict.model", []),
    (
        prefixed(STEM, "module.base_encoder.") | prefixed(STEM, "module.momentum_encoder."),
        "momentum_encoder",
        "",
        None,
    ),
    (STEM | prefixed(STEM, "teacher."), None, "", ["teacher"]),
    (STEM | {"epoch": 3}, None, "", []),
]


@pytest.mark.backends("torch")
@pytest.mark.parametrize(("content", "key", "dictionary", "others"), CHOICES)
def test_the_rule_of_several_models(content, key, dictionary, others):
    def is_tensor(value):
        return isinstance(value, np.ndarray)

    selected = unwrap.select(unwrap.dictionaries(content, is_tensor), is_tensor, key, "x.pth")
    assert selected.tensors.keys() == STEM.keys()
    if others is None:
        assert "Names without their prefix 'module.momentum_encoder.'" in selected.notes
        others = ["module.base_encoder"]
    assert (f"Read from the dictionary {dictionary!r}" in selected.notes) == bool(dictionary)
    listed = f"Not read: {', '.join(others)} (`checkpoint_key` chooses)"
    assert (listed in selected.notes) == bool(others)
    assert sum(note.startswith("Not read") for note in selected.notes) == bool(others)
    if "epoch" in content and not dictionary:
        assert selected.left_out == {"epoch": "no tensor"}


@pytest.mark.backends("torch")
def test_what_no_rule_decides_is_asked_for(encoder, tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    content = prefixed(tensors, "encoder.") | prefixed(changed(tensors, 1), "target.")
    write_safetensors(path, content)
    with pytest.raises(ValueError, match="holds several ViTs.*: 'encoder', 'target'. Give one as `checkpoint_key`"):
        convert.load(path, num_heads=4)
    with pytest.raises(ValueError, match="must be one of the ViTs in .*: 'encoder', 'target'. Received: 'teacher'"):
        convert.load(path, num_heads=4, checkpoint_key="teacher")
    assert_same(convert.load(path, num_heads=4, checkpoint_key="target").model, encoder, by=1)
    assert_same(keras_mae.ViTEncoder.from_preset(path, num_heads=4, checkpoint_key="encoder"), encoder)
    encoder.save(tmp_path / "x.keras")
    with pytest.raises(ValueError, match="which says itself what it is"):
        keras_mae.ViTEncoder.from_preset(tmp_path / "x.keras", checkpoint_key="encoder")


@pytest.mark.backends("torch")
def test_the_shell_says_what_was_chosen(tensors, tmp_path, keras_mae_command):
    write_safetensors(
        tmp_path / "x.safetensors", prefixed(tensors, "student.") | prefixed(tensors, "teacher.v.", n=ONE)
    )
    command, heads = ("convert", tmp_path / "x.safetensors"), ("--num-heads", 4)
    status, out, _ = keras_mae_command(*command, tmp_path / "y.keras", *heads)
    assert status == 0
    for line in ("Names without their prefix 'teacher.v.'", "Not read: student (`checkpoint_key` chooses)"):
        assert line in out
    assert "left out: not under" in " ".join(out.split())
    status, out, _ = keras_mae_command(*command, tmp_path / "z.keras", *heads, "--checkpoint-key", "student")
    assert (status, "Names without their prefix 'student.'" in out) == (0, True)


# === PyTorch's files ===
def as_torch(tensors):
    import torch

    return {name: torch.tensor(value) for name, value in tensors.items()}


@torch_only
def test_dictionaries_of_a_pytorch_file(encoder, tensors, tmp_path):
    import torch

    content = {
        "model": as_torch(prefixed(tensors, "module._orig_mod.")),
        "model_ema": as_torch(changed(tensors, 1)),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
    }
    torch.save(content, tmp_path / "x.pth")
    model, report = convert.load(tmp_path / "x.pth", num_heads=4)
    assert_same(model, encoder)
    assert report.notes == [
        "Read from the dictionary 'model'",
        "Names without their prefix 'module.'",
        "Names without _orig_mod",
        "Not read: model_ema (`checkpoint_key` chooses)",
    ]
    assert_same(convert.load(tmp_path / "x.pth", num_heads=4, checkpoint_key="model_ema").model, encoder, by=1)
    torch.save({**as_torch(tensors), "epoch": 3}, tmp_path / "y.pth")
    assert convert.load(tmp_path / "y.pth", num_heads=4).report.left_out == {"epoch": "no tensor"}


NUMPY = {
    "accuracy": np.float64(0.5),
    "loss": np.float32(2),
    "epoch": np.int64(7),
    "best": np.bool_(True),
    "name": np.str_("vit"),
    "curve": np.arange(3.0),
    "random": np.random.RandomState(0).get_state(),
}


@torch_only
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", NUMPY)
def test_numpys_scalars_and_arrays_in_a_checkpoint(value, zipped, encoder, tensors, tmp_path):
    import torch

    content = {"model": as_torch(tensors), value: NUMPY[value]}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert_same(convert.load(tmp_path / "x.pth", num_heads=4).model, encoder)


@torch_only
@pytest.mark.parametrize("old", [True, False])
def test_the_other_numpys_name_of_the_same_function(old, tensors, tmp_path):
    """NumPy 1 writes numpy.core.multiarray.scalar, NumPy 2 numpy._core.multiarray.scalar."""
    import torch

    content = {"model": as_torch(tensors), "accuracy": np.float64(0.5), "curve": np.arange(3.0)}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    names = (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    pickled = (tmp_path / "x.pth").read_bytes()
    written = next(name for name in names if name in pickled)
    (tmp_path / "x.pth").write_bytes(pickled.replace(written, names[old]))
    assert convert.load(tmp_path / "x.pth", num_heads=4).report.kind == "encoder"


class Evil:
    def __init__(self, call=(os.mkdir, ("it-ran",))):
        self.call = call

    def __reduce__(self):
        return self.call


@torch_only
@pytest.mark.parametrize(
    "evil",
    [
        Evil(),
        Evil((np.float64(1).__reduce__()[0], (np.dtype("O"), pickle.dumps(Evil())))),
        Evil((np.load, ("x.npy",))),
        Evil((eval, ("__import__('os').mkdir('it-ran')",))),
        [np.float64(1), Evil()],
        np.array([Evil()], dtype=object),
    ],
    ids=["os", "scalar of an object", "numpy.load", "eval", "beside a scalar", "array of objects"],
)
def test_what_is_harmless_opens_no_door(evil, tensors, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros(1))
    torch.save({"model": as_torch(tensors), "accuracy": np.float64(1), "more": evil}, "x.pth")
    with pytest.raises(ValueError, match="asks for more than tensors, and that is not run"):
        convert.load("x.pth", num_heads=4)
    assert not (tmp_path / "it-ran").exists()


@torch_only
def test_paths_and_dates_in_the_arguments_are_harmless(tensors, tmp_path):
    import torch

    began, took = datetime.datetime(2022, 1, 1), datetime.timedelta(1)
    args = argparse.Namespace(data_path=Path("images"), began=began, took=took)
    torch.save({"model": as_torch(tensors), "args": args}, tmp_path / "x.pth")
    assert convert.load(tmp_path / "x.pth", num_heads=4).report.kind == "encoder"
