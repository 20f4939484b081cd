"""Models for other runtimes: SavedModel, ONNX, LiteRT, OpenVINO and PyTorch's own programs.

No backend can write them all, and none can be swapped in a running process. So a model goes out as Keras' neutral
`.keras` file to a second process on the backend that can; what that one wrote is loaded by the format's own runtime
and compared with what the model computes here, on whichever backend this is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, _files, _saving
from keras_mae.classifier import ViTClassifier
from keras_mae.convert.beside import (
    CLASS_NAMES,
    PREPROCESSING,
    WRITERS,
    name_onnx,
    output_names,
    preprocessing_of,
    script_of,
)
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.pixels import BYTES
from keras_mae.segmenter import ViTSegmenter

__all__ = ["EXPORT_FORMATS", "export", "export_ending"]

Inputs = dict[str, np.ndarray]
BATCHES = (1, 7)
TOLERANCE = 1e-4


def export_ending(format: str) -> str:
    """Return the ending of an export format's files, such as ".onnx"; it is empty for a folder.

    Args:
        format: One of `EXPORT_FORMATS`.

    Raises:
        ValueError: If there is no such format.
    """
    return _FORMATS[_checks.one_of("format", format, EXPORT_FORMATS)].ending


def export(
    model: Any,
    path: str | Path,
    format: str,
    *,
    input_dtype: str = "float32",
    center_crop: float = 1.0,
    script: bool = False,
) -> float:
    """Write a model for another runtime, and check that it computes the same there.

    A model of another precision is exported in float32, the type of its weights.

    The input is `images` (batch, height, width, channels) in the encoder's `pixel_range`, of any batch size: pixels
    as they are in a picture, which the model itself normalizes. An encoder gives `tokens`, a classifier or a
    segmenter `logits`. A masked autoencoder has a second input, `noise`, float32 (batch, patches): the patches of
    largest noise are removed; it gives `mask` and `reconstruction`, as in Python. In ONNX inputs and outputs have
    these names; other runtimes may rename them.

    Two texts of JSON go with the model: `preprocessing`, how an image becomes the input and, of a classifier, which
    `activation` makes probabilities of the logits; and the list of a classifier's `class_names`. They are among
    ONNX's `metadata_props`, in OpenVINO's `rt_info`, in files `NAME.json` in SavedModel's `assets.extra/`, among the
    extra files of a PyTorch program, and among LiteRT's associated files, where class names are in `labels.txt`, one
    a line.

    Args:
        model: A `ViTEncoder`, `ViTClassifier`, `ViTSegmenter` or `MaskedAutoencoder`.
        path: File to write, with the ending that `export_ending` returns; for "saved_model" a folder. It must not
            exist.
        format: "saved_model", "onnx", "litert" or "openvino", which require TensorFlow beside whatever backend is
            in use, or "torch", which requires PyTorch.
        input_dtype: Type of `images`: "float32", or "uint8" for a `pixel_range` of (0, 255), which takes a quarter of
            the bytes and what image libraries return. `keras-mae export` writes ONNX files of "uint8".
        center_crop: Share of an image's short side to look at, in its center, which `preprocessing` tells: 224 / 256
            for a classifier that was trained by a published recipe.
        script: Whether to write a Python script, `NAME_onnx.py`, beside `NAME.onnx`: it reads an image, asks the
            model and prints or saves what it says.

    Returns:
        The largest difference between the file's outputs and Keras', for batches of 1 and 7, over the largest
        output.

    Raises:
        ValueError: If the format is unknown, the path exists or has another ending, or the file does not compute
            the same (within 1e-4); it is not left behind then.
        ImportError: If a package is missing.

    Example:
        >>> convert.export(classifier, "classifier.onnx", "onnx", input_dtype="uint8")
        2.1e-07
        >>> session = onnxruntime.InferenceSession("classifier.onnx")
        >>> (logits,) = session.run(["logits"], {"images": images})  # uint8 (batch, height, width, channels)
    """
    path = _checks.path("path", path)
    _checks.share("center_crop", center_crop)
    written_by = _check_arguments(model, path, format, input_dtype, _checks.boolean("script", script))
    texts = {PREPROCESSING: preprocessing_of(model, input_dtype, float(center_crop))}
    if (names := getattr(model, "class_names", None)) is not None:
        texts[CLASS_NAMES] = names
    source = script_of(model, path.name, _script_beside(path).name)
    model = in_float32(model)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as appearing:
        work = Path(folder)
        _saving.save_model(model, work / "model.keras")
        (work / "texts.json").write_text(json.dumps(texts))
        for batch in BATCHES:
            inputs = _example(model, batch, input_dtype)
            outputs = _flat(model(inputs if len(inputs) > 1 else inputs["images"]))
            arrays: dict[str, Any] = inputs | {f"output_{name}": value for name, value in outputs.items()}
            np.savez(work / f"{batch}.npz", **arrays)
        difference = _in_another_process(work, work / f"exported{written_by.ending}", format, written_by.backend)
        for file in sorted(work.glob("exported*")):  # OpenVINO's weights are a second file
            target = path.with_suffix(file.suffix) if file.suffix else path
            shutil.move(file, appearing.enter_context(_files.whole(target)))
        if script:
            unfinished = appearing.enter_context(_files.whole(_script_beside(path)))
            unfinished.write_text(source, encoding="utf-8")
    return difference


def _script_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_onnx.py")


def _check_arguments(model: Any, path: Path, format: str, input_dtype: str, script: bool) -> _Format:
    """Return what writes the format; raise an error unless all is there that it takes, and nothing is in its way."""
    ending = export_ending(format)
    if not isinstance(model, ViTEncoder | ViTClassifier | ViTSegmenter | MaskedAutoencoder):
        raise _checks.argument_error("model", "a ViTEncoder, ViTClassifier, ViTSegmenter or MaskedAutoencoder", model)
    if path.suffix != ending:
        rule = f"end in {ending!r}" if ending else "be a folder, without an ending,"
        raise ValueError(f"`path` must {rule} for the format {format!r}. Received: path={str(path)!r}")
    encoder: Any = getattr(model, "encoder", model)
    in_bytes = _checks.one_of("input_dtype", input_dtype, ("uint8", "float32")) == "uint8"
    if in_bytes and tuple(encoder.pixel_range) != BYTES:
        raise ValueError(f"`input_dtype` must be 'float32' for pixels in {encoder.pixel_range}. Received: 'uint8'")
    if script and format != "onnx":
        raise ValueError(f"`script` is for the format 'onnx'. Received: script=True, format={format!r}")
    weights = [path.with_suffix(".bin")] if format == "openvino" else []
    for written in (path, *weights, *([_script_beside(path)] if script else [])):
        if written.exists():
            raise ValueError(f"{str(written)!r} must not exist, so that nothing is lost. Received: {str(path)!r}")
    written_by = _FORMATS[format]
    if missing := [name for name in written_by.packages if importlib.util.find_spec(name) is None]:
        raise ImportError(
            f'Exporting to {format} takes {", ".join(missing)}: pip install "keras-mae[{written_by.backend},export]"'
        )
    return written_by


def in_float32(model: Any) -> Any:
    """Return the model, or a copy that computes in float32 if it does otherwise."""

    def changed(config: Any) -> Any:
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return {**config, "config": {"name": "float32"}}
            return {key: changed(value) for key, value in config.items() if key != "compile_config"}
        return [changed(part) for part in config] if isinstance(config, list | tuple) else config

    if getattr(model, "encoder", model).dtype_policy.name == "float32":
        return model
    copied = keras.saving.deserialize_keras_object(changed(keras.saving.serialize_keras_object(model)))
    for new, old in zip(copied.weights, model.weights, strict=True):
        new.assign(ops.cast(old, "float32"))
    return copied


def _example(model: Any, batch: int, dtype: str = "float32") -> Inputs:
    generator = np.random.default_rng(batch)
    encoder = getattr(model, "encoder", model)
    low, high = encoder.pixel_range
    inputs = {"images": generator.uniform(low, high, (batch, *encoder.image_shape)).astype(dtype)}
    if isinstance(model, MaskedAutoencoder):
        inputs["noise"] = generator.random((batch, encoder.num_patches), "float32")
    return inputs


def _flat(outputs: Any) -> dict[str, np.ndarray]:
    named = outputs if isinstance(outputs, dict) else {"output": outputs}
    return {name: np.asarray(ops.convert_to_numpy(value), "float32") for name, value in named.items()}


def _in_another_process(work: Path, written: Path, format: str, backend: str) -> float:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    package = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "keras_mae.convert.exporting", str(work), str(written), format]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise ValueError(f"Exporting to {format} failed: {lines[-1]}")
    return float(json.loads((work / "difference.json").read_text()))


# === In the other process ===
def main(work: Path, written: Path, format: str) -> None:
    """Export `work`/model.keras to `written`, load it again, and compare its outputs with those in `work`."""
    model = keras.saving.load_model(work / "model.keras", compile=False)
    encoder = getattr(model, "encoder", model)
    texts = json.loads((work / "texts.json").read_text())
    dtype = texts[PREPROCESSING]["dtype"]
    signature = {"images": keras.InputSpec(shape=(None, *encoder.image_shape), dtype=dtype, name="images")}
    if isinstance(model, MaskedAutoencoder):
        signature["noise"] = keras.InputSpec(shape=(None, encoder.num_patches), dtype="float32", name="noise")
    if format == "torch":
        _write_torch(model, signature, written, texts)
    else:
        specs = [signature if len(signature) > 1 else signature["images"]]
        named = "tf_saved_model" if format == "saved_model" else format
        if format == "openvino" and sys.version_info >= (3, 13):
            _tell_openvino_tensorflows_version()
        model.export(str(written), format=named, input_signature=specs, verbose=False)
        if format == "onnx":
            name_onnx(written, output_names(model))
        WRITERS[format](written, texts)
    difference = max(_difference(work / f"{batch}.npz", written, format) for batch in BATCHES)
    (work / "difference.json").write_text(json.dumps(difference))


def _difference(stored: Path, written: Path, format: str) -> float:
    """Return how far the written model's outputs are from those stored with their inputs, over the largest output.

    Raises:
        ValueError: If it is too far.
    """
    arrays = dict(np.load(stored))
    wanted = {name[7:]: value for name, value in arrays.items() if name.startswith("output_")}
    outputs = _FORMATS[format].run(written, {name: arrays[name] for name in arrays if name in ("images", "noise")})
    if len(outputs) != len(wanted):
        raise ValueError(f"the exported model has {len(outputs)} outputs instead of {len(wanted)}")
    largest = 0.0
    for name, value in wanted.items():
        same_shape = [array for array in outputs if array.shape == value.shape]
        off = min((float(np.abs(array - value).max()) for array in same_shape), default=np.inf)
        off = off / max(float(np.abs(value).max()), 1e-30)
        if not off <= TOLERANCE:
            raise ValueError(f"its {name} is {off:.1e} off at batch {stored.stem}, where {TOLERANCE} is allowed")
        largest = max(largest, off)
    return largest


def _write_torch(model: Any, signature: Any, written: Path, texts: dict[str, Any]) -> None:
    import torch

    class Program(torch.nn.Module):  # Keras' own `__call__(*args)` hides the inputs' structure from the export
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: Any) -> Any:
            return self.model(inputs if len(inputs) > 1 else inputs["images"])

    device = model.weights[0].value.device
    inputs = {
        name: torch.zeros((2, *spec.shape[1:]), dtype=getattr(torch, spec.dtype), device=device)
        for name, spec in signature.items()
    }
    batch = torch.export.Dim("batch")
    dynamic = {name: {0: batch} for name in inputs}
    program = torch.export.export(Program(), (inputs,), dynamic_shapes=(dynamic,), strict=False)
    beside = {f"{name}.json": json.dumps(value) for name, value in texts.items()}
    torch.export.save(program, written, extra_files=beside)


def _tell_openvino_tensorflows_version() -> None:
    """Spare OpenVINO 2026.4 its `exec("del tensorflow")`, which Python 3.13 answers with a NameError (PEP 667)."""
    import tensorflow as tf
    from openvino.frontend.tensorflow import utils

    utils.get_environment_setup = lambda framework: {"tensorflow": tf.__version__}


# === The runtimes ===
def _run_saved_model(path: Path, inputs: Inputs) -> list[np.ndarray]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # which its functions do not keep alive
    outputs = loaded.serve(inputs if len(inputs) > 1 else inputs["images"])
    return list(_flat(outputs).values())


def _run_onnx(path: Path, inputs: Inputs) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {each.name: inputs[each.name] for each in session.get_inputs()})
    return outputs


def _run_litert(path: Path, inputs: Inputs) -> list[np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    for each in interpreter.get_input_details():
        interpreter.resize_tensor_input(each["index"], _by_rank(each["shape"], inputs).shape)
    interpreter.allocate_tensors()
    for each in interpreter.get_input_details():
        interpreter.set_tensor(each["index"], _by_rank(each["shape"], inputs))
    interpreter.invoke()
    return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]


def _run_openvino(path: Path, inputs: Inputs) -> list[np.ndarray]:
    import openvino

    # Its default on CPUs that have bfloat16 is bfloat16.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([_by_rank(each.get_partial_shape(), inputs) for each in compiled.inputs])
    return [results[output] for output in compiled.outputs]


def _run_torch(path: Path, inputs: Inputs) -> list[np.ndarray]:
    import torch

    program = torch.export.load(path).module()
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        outputs = program(tensors)
    return list(_flat(outputs).values())


def _by_rank(shape: Any, inputs: Inputs) -> np.ndarray:
    """Return the input of a shape: runtimes rename inputs, but images have four dimensions and noise has two."""
    return inputs["images" if len(shape) == 4 else "noise"]


@dataclass(frozen=True)
class _Format:
    """A format's backend, which writes it; the packages it takes; its files' ending; and its own runtime."""

    backend: str
    packages: tuple[str, ...]
    ending: str
    run: Callable[[Path, Inputs], list[np.ndarray]]


_FORMATS = {
    "saved_model": _Format("tensorflow", ("tensorflow",), "", _run_saved_model),
    "onnx": _Format("tensorflow", ("tensorflow", "onnx", "tf2onnx", "onnxruntime"), ".onnx", _run_onnx),
    "litert": _Format("tensorflow", ("tensorflow", "ai_edge_litert"), ".tflite", _run_litert),
    "openvino": _Format("tensorflow", ("tensorflow", "openvino"), ".xml", _run_openvino),
    "torch": _Format("torch", ("torch",), ".pt2", _run_torch),
}
EXPORT_FORMATS = tuple(_FORMATS)
"""Names of the formats that `export` writes."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
