"""Models for other runtimes, which load what was written and agree with Keras before `export` returns."""

import importlib.util
import json
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from PIL import Image

import keras_mae
from keras_mae import convert
from keras_mae.convert import exporting

BACKEND = keras.backend.backend()
# The reconstruction, which holds all there is, in every format; a classifier where most go, and where no test of the
# command line exports one. Each case starts TensorFlow anew.
NAMES = tuple(f"kind {letter}" for letter in "abcdefghijk")
CASES = [*((format, "mae") for format in convert.EXPORT_FORMATS)]
CASES += [(format, "classifier") for format in ("onnx", "torch")]
CASES += [(format, "upernet") for format in ("onnx", "torch", "litert", "openvino")]
CASES += [("saved_model", "linear segmenter")]


@pytest.fixture(scope="module")
def models(mae, randomise):
    return {
        "mae": mae,
        "encoder": mae.encoder,
        "classifier": randomise(keras_mae.ViTClassifier(mae.encoder, 11, class_names=NAMES)),
        "upernet": keras_mae.ViTSegmenter(mae.encoder, 5, "upernet"),
        "linear segmenter": randomise(keras_mae.ViTSegmenter(mae.encoder, 5)),
    }


def texts_in(path):
    """The texts in an ONNX file or PyTorch's program, by name; `None` in others."""
    if path.suffix == ".onnx":
        import onnxruntime

        found = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
        return {name: json.loads(text) for name, text in found.items()}
    if path.suffix == ".pt2":
        import torch

        extra = dict.fromkeys(("class_names.json", "preprocessing.json"), "")
        torch.export.load(path, extra_files=extra)
        return {Path(name).stem: json.loads(text) for name, text in extra.items() if text}
    return None


@pytest.mark.parametrize(("format", "name"), CASES)
def test_the_runtime_agrees_with_keras(forked_export, format, name, models, tmp_path, monkeypatch, capsys):
    written_by = exporting._FORMATS[format]
    path = tmp_path / f"out{convert.export_ending(format)}"
    if any(importlib.util.find_spec(package) is None for package in written_by.packages):
        message = rf"Exporting to {format} takes .*keras-mae\[{written_by.backend},export\]"
        with pytest.raises(ImportError, match=message):
            convert.export(models[name], path, format)
        return
    dtype = "uint8" if format == "onnx" else "float32"
    options = {"input_dtype": "uint8", "script": True} if format == "onnx" else {}
    difference = convert.export(models[name], path, format, center_crop=0.8, **options)
    assert difference <= 1e-5
    if (texts := texts_in(path)) is not None:
        assert texts.get("class_names") == (list(NAMES) if name == "classifier" else None)
        how = {"height": 15, "width": 14, "channels": 3, "dtype": dtype, "resize_to_cover": [18, 17]}
        assert how.items() <= texts["preprocessing"].items()
    # Once more by hand, for a batch of three that `export` never saw.
    generator = np.random.default_rng(5)
    inputs = {"images": generator.uniform(0, 255, (3, 15, 14, 3)).astype(dtype)}
    if name == "mae":
        inputs["noise"] = generator.random((3, 35), "float32")
    outputs = written_by.run(path, inputs)
    wanted = models[name](inputs if name == "mae" else inputs["images"])
    wanted = [ops.convert_to_numpy(value) for value in (wanted.values() if isinstance(wanted, dict) else [wanted])]
    for value in wanted:
        got = next(array for array in outputs if array.shape == value.shape)
        np.testing.assert_allclose(got, value, atol=1e-4, rtol=1e-4)
    if format == "onnx":
        check_names_and_script(path, models[name], monkeypatch, capsys)


def check_names_and_script(path, model, monkeypatch, capsys):
    """Inputs and outputs have names; the script beside the file says what Keras says of a picture of another size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    named = {each.name: (each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())}
    assert named.pop("images") == ("tensor(uint8)", ["batch", 15, 14, 3])
    headed = isinstance(model, keras_mae.ViTClassifier | keras_mae.ViTSegmenter)
    outputs = {"logits"} if headed else {"noise", "mask", "reconstruction"}
    assert named.keys() == outputs
    assert {shape[0] for _, shape in named.values()} == {"batch"}
    monkeypatch.chdir(path.parent)
    pixels = np.random.default_rng(8).integers(0, 256, (40, 61, 3), "uint8")
    Image.fromarray(pixels).save("picture.png")
    monkeypatch.setattr(sys, "argv", ["out_onnx.py", "picture.png", "saved.npz"])
    runpy.run_path("out_onnx.py")
    if not isinstance(model, keras_mae.ViTClassifier):
        shapes = {"logits": (1, 15, 14, 5)} if headed else {"mask": (1, 35), "reconstruction": (1, 35, 18)}
        with np.load("saved.npz") as saved:
            assert {name: array.shape for name, array in saved.items()} == shapes
        return
    found = model.predict_files("picture.png", crop=keras_mae.data.CenterCrop(0.8))
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith(f" {found.classes[0]}")
    assert float(first.split()[0]) == pytest.approx(float(found.probabilities.max()), abs=0.01)


def test_keras_own_export_works_too(models, tmp_path):
    """A user who knows Keras types this."""
    if BACKEND != "tensorflow":
        pytest.skip("on the other backends Keras' own export is not ours to promise")
    import tensorflow as tf

    images = np.zeros((2, 15, 14, 3), "float32")
    logits = ops.convert_to_numpy(models["classifier"](images))
    models["classifier"].export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.serve(images).numpy(), logits, atol=1e-5)


# === What goes wrong ===
def pretend(monkeypatch, format, tmp_path, script):
    """Another process that does something else than to export."""
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: True)
    run = subprocess.run

    def replaced(command, **kwargs):
        return run([sys.executable, "-c", script, *command[3:]], **kwargs)

    monkeypatch.setattr(exporting.subprocess, "run", replaced)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise ValueError('its output is 3.0e-01 off at batch 7')", "Exporting to onnx failed: .*off at batch 7"),
        ("import os; os._exit(9)", "Exporting to onnx failed: status 9"),
    ],
)
def test_a_failed_export_leaves_nothing(script, message, models, tmp_path, monkeypatch):
    pretend(monkeypatch, "onnx", tmp_path, script)
    with pytest.raises(ValueError, match=message):
        convert.export(models["encoder"], tmp_path / "out" / "x.onnx", "onnx")
    assert not (tmp_path / "out").exists()


def test_a_file_that_computes_something_else_is_refused(models, tmp_path, monkeypatch):
    """The comparison itself, with a runtime that is a little off."""
    model = models["encoder"]
    model.save(tmp_path / "model.keras")
    (tmp_path / "texts.json").write_text(json.dumps({"preprocessing": {"dtype": "float32"}}))
    monkeypatch.setattr(exporting, "name_onnx", lambda *_: None)
    monkeypatch.setitem(exporting.WRITERS, "onnx", lambda *_: None)
    for batch in exporting.BATCHES:
        inputs = exporting._example(model, batch)
        np.savez(tmp_path / f"{batch}.npz", **inputs, output_output=np.ones((batch, 36, 12), "float32"))
    monkeypatch.setattr(keras.Model, "export", lambda *_, **__: None)
    for off, message in ((2e-4, "its output is 2.0e-04 off at batch 1"), (np.nan, "its output is nan off")):
        runtime = partial(lambda off, path, inputs: [np.ones((len(inputs["images"]), 36, 12)) + off], off)
        monkeypatch.setitem(exporting._FORMATS, "onnx", replace(exporting._FORMATS["onnx"], run=runtime))
        with pytest.raises(ValueError, match=message):
            exporting.main(tmp_path, tmp_path / "x.onnx", "onnx")
    nothing = replace(exporting._FORMATS["onnx"], run=lambda path, inputs: [])
    monkeypatch.setitem(exporting._FORMATS, "onnx", nothing)
    with pytest.raises(ValueError, match="has 0 outputs instead of 1"):
        exporting.main(tmp_path, tmp_path / "x.onnx", "onnx")


def test_bad_arguments(models, tmp_path, monkeypatch):
    encoder = models["encoder"]
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "mine.bin").write_text("mine")
    (tmp_path / "y_onnx.py").write_text("mine")
    floats = encoder.copy(pixel_range=(0, 10))
    for model, path, format, message in (
        (encoder, "x.onnx", "tensorrt", "`format` must be one of 'saved_model', 'onnx'"),
        (encoder, "x.tflite", "onnx", "`path` must end in '.onnx' for the format 'onnx'"),
        (encoder, "x.pb", "saved_model", "`path` must be a folder, without an ending, for the format 'saved_model'"),
        (encoder, "there.onnx", "onnx", "there.onnx' must not exist, so that nothing is lost"),
        (encoder, "mine.xml", "openvino", "mine.bin' must not exist, so that nothing is lost"),
        (
            keras.Sequential(),
            "x.onnx",
            "onnx",
            "`model` must be a ViTEncoder, ViTClassifier, ViTSegmenter or MaskedAutoencoder",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            convert.export(model, tmp_path / path, format)
    for model, path, format, options, message in (
        (encoder, "y.onnx", "onnx", {"script": True}, "y_onnx.py' must not exist"),
        (encoder, "y.pt2", "torch", {"script": True}, "`script` is for the format 'onnx'"),
        (floats, "x.onnx", "onnx", {"input_dtype": "uint8"}, r"`input_dtype` must be 'float32' for pixels in \(0"),
    ):
        monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: True)
        with pytest.raises(ValueError, match=message):
            convert.export(model, tmp_path / path, format, **options)
    assert (tmp_path / "there.onnx").read_text() == "mine"
