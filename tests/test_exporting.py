"""Models for other runtimes, which load what was written and agree with Keras before `export` returns."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
from keras import ops

import keras_mae
from keras_mae import convert
from keras_mae.convert import exporting

BACKEND = keras.backend.backend()
# The reconstruction, which holds all there is, in every format; a classifier where most go, and where no test of the
# command line exports one. Each case starts TensorFlow anew.
NAMES = tuple(f"kind {letter}" for letter in "abcdefghijk")
CASES = [*((format, "mae") for format in convert.EXPORT_FORMATS), ("onnx", "classifier"), ("torch", "classifier")]


@pytest.fixture(scope="module")
def models(mae, randomise):
    return {
        "mae": mae,
        "encoder": mae.encoder,
        "classifier": randomise(keras_mae.ViTClassifier(mae.encoder, 11, class_names=NAMES)),
    }


def names_in(path):
    """The class names in an ONNX file or PyTorch's program."""
    if path.suffix == ".onnx":
        import onnxruntime

        found = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map.get("class_names")
        return found and json.loads(found)
    if path.suffix == ".pt2":
        import torch

        extra = {"class_names.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["class_names.json"] or "null")
    return None


@pytest.mark.parametrize(("format", "name"), CASES)
def test_the_runtime_agrees_with_keras(forked_export, format, name, models, tmp_path):
    written_by = exporting._FORMATS[format]
    path = tmp_path / f"out{convert.export_ending(format)}"
    if any(importlib.util.find_spec(package) is None for package in written_by.packages):
        message = rf"Exporting to {format} takes .*keras-mae\[{written_by.backend},export\]"
        with pytest.raises(ImportError, match=message):
            convert.export(models[name], path, format)
        return
    difference = convert.export(models[name], path, format)
    assert difference <= 1e-5
    assert names_in(path) == (list(NAMES) if name == "classifier" else None)
    # Once more by hand, for a batch of three that `export` never saw.
    generator = np.random.default_rng(5)
    inputs = {"images": generator.uniform(0, 255, (3, 15, 14, 3)).astype("float32")}
    if name == "mae":
        inputs["noise"] = generator.random((3, 35), "float32")
    outputs = written_by.run(path, inputs)
    wanted = models[name](inputs if name == "mae" else inputs["images"])
    wanted = [ops.convert_to_numpy(value) for value in (wanted.values() if isinstance(wanted, dict) else [wanted])]
    for value in wanted:
        got = next(array for array in outputs if array.shape == value.shape)
        np.testing.assert_allclose(got, value, atol=1e-4, rtol=1e-4)


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


def test_bad_arguments(models, tmp_path):
    encoder = models["encoder"]
    (tmp_path / "there.onnx").write_text("mine")
    (tmp_path / "mine.bin").write_text("mine")
    for model, path, format, message in (
        (encoder, "x.onnx", "tensorrt", "`format` must be one of 'saved_model', 'onnx'"),
        (encoder, "x.tflite", "onnx", "`path` must end in '.onnx' for the format 'onnx'"),
        (encoder, "x.pb", "saved_model", "`path` must be a folder, without an ending, for the format 'saved_model'"),
        (encoder, "there.onnx", "onnx", "there.onnx' must not exist, so that nothing is lost"),
        (encoder, "mine.xml", "openvino", "mine.bin' must not exist, so that nothing is lost"),
        (keras.Sequential(), "x.onnx", "onnx", "`model` must be a ViTEncoder, ViTClassifier or MaskedAutoencoder"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.export(model, tmp_path / path, format)
    assert (tmp_path / "there.onnx").read_text() == "mine"
