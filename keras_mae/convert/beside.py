"""What goes with a model to another runtime: its preprocessing and class names, and, with ONNX, a script."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from keras_mae.classifier import ViTClassifier
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.pixels import BYTES
from keras_mae.segmenter import ViTSegmenter

__all__ = ["CLASS_NAMES", "PREPROCESSING", "WRITERS", "name_onnx", "output_names", "preprocessing_of", "script_of"]

CLASS_NAMES, PREPROCESSING = "class_names", "preprocessing"
"""What the texts are called, wherever a format keeps them."""


def output_names(model: Any) -> tuple[str, ...]:
    """Return the names of a model's outputs, in the order of the exported model's."""
    if isinstance(model, MaskedAutoencoder):
        return "mask", "reconstruction"
    return ("logits",) if isinstance(model, ViTClassifier | ViTSegmenter) else ("tokens",)


def preprocessing_of(model: Any, input_dtype: str, center_crop: float) -> dict[str, Any]:
    """Return how an image becomes the input of an exported model, and what its outputs are; what JSON can hold.

    Args:
        model: A `ViTEncoder`, `ViTClassifier`, `ViTSegmenter` or `MaskedAutoencoder`.
        input_dtype: Type of the numbers in the input.
        center_crop: Share of an image's short side to look at, in its center.
    """
    encoder = getattr(model, "encoder", model)
    height, width, channels = encoder.image_shape
    said = {
        "height": height,
        "width": width,
        "channels": channels,
        "layout": "NHWC",
        "dtype": input_dtype,
        "pixel_range": encoder.pixel_range,
        "upright": True,
        "center_crop": center_crop,
        "resize_to_cover": (int(height / center_crop), int(width / center_crop)),
        "resample": "bicubic",
        "normalized": "in the model",
        "mean": encoder.pixel_mean,
        "std": encoder.pixel_std,
        "outputs": output_names(model),
    }
    return said | ({"activation": model.activation} if isinstance(model, ViTClassifier) else {})


# === Texts in the formats' own places ===
Texts = Mapping[str, Any]
"""Values that JSON can hold, by name."""


def _in_saved_model(written: Path, texts: Texts) -> None:
    (written / "assets.extra").mkdir(exist_ok=True)
    for name, value in texts.items():
        (written / "assets.extra" / f"{name}.json").write_text(json.dumps(value))


def _in_onnx(written: Path, texts: Texts) -> None:
    import onnx

    model = onnx.load(written)
    for name, value in texts.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    onnx.save(model, written)


def _in_litert(written: Path, texts: Texts) -> None:
    with zipfile.ZipFile(written, "a") as files:  # behind the model, as all of LiteRT's associated files are
        for name, value in texts.items():
            if name == CLASS_NAMES:
                files.writestr("labels.txt", "".join(f"{' '.join(line.splitlines())}\n" for line in value))
            else:
                files.writestr(f"{name}.json", json.dumps(value))


def _in_openvino(written: Path, texts: Texts) -> None:
    tree = ElementTree.parse(written)
    information = tree.getroot().find("rt_info")
    if information is None:
        information = ElementTree.SubElement(tree.getroot(), "rt_info")
    for name, value in texts.items():
        ElementTree.SubElement(information, name, value=json.dumps(value))
    tree.write(written, encoding="utf-8", xml_declaration=True)


WRITERS: dict[str, Callable[[Path, Texts], None]] = {
    "saved_model": _in_saved_model,
    "onnx": _in_onnx,
    "litert": _in_litert,
    "openvino": _in_openvino,
}
"""Functions that write texts into an exported model, by its format; a PyTorch program gets them when it is saved."""


# === ONNX ===
def name_onnx(written: Path, names: tuple[str, ...]) -> None:
    """Give the outputs of an ONNX file their names, and the first dimension everywhere the name "batch"."""
    import onnx

    model = onnx.load(written)
    graph = model.graph
    for output, name in zip(graph.output, names, strict=True):
        for node in graph.node:
            for tensors in (node.input, node.output):
                tensors[:] = [name if tensor == output.name else tensor for tensor in tensors]
        output.name = name
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(model)
    onnx.save(model, written)


_PICTURE = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's modes for the channels of pictures."""
_SCRIPT = """\
# {summary}: python {usage}
# It takes {given}, and needs {packages}: pip install {packages_spaced}
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
{imports}
session = onnxruntime.InferenceSession(Path(__file__).with_name({name!r}))
about = {{key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}}
how = about["preprocessing"]
{read}
inputs = {{"images": pixels.astype(how["dtype"])[None]}}
{run}
"""
_READ_PICTURE = """\
image = Image.open(sys.argv[1])
if image.mode[0] in "IF":
    sys.exit(f"{{sys.argv[1]}} has more than 8 bits a channel")
image = ImageOps.exif_transpose(image).convert("RGBA")
{flatten}size, least = (how["width"], how["height"]), how["resize_to_cover"][::-1]  # width, height
scale = max(least[0] / image.width, least[1] / image.height)
whole = [max(side, int(scale * own)) for side, own in zip(least, image.size)]
left, top = (round((whole[axis] - size[axis]) / 2) for axis in (0, 1))
image = image{convert}.resize(whole, Image.Resampling.BICUBIC)
pixels = np.asarray(image.crop((left, top, left + size[0], top + size[1])))
pixels = pixels.reshape(how["height"], how["width"], how["channels"])"""
_ON_WHITE = 'image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)\n'
_READ_ARRAY = """\
pixels = np.load(sys.argv[1])  # (height, width, channels), numbers in how["pixel_range"]"""
_CLASSIFY = """\
(logits,) = session.run(["logits"], inputs)[0].astype("float64")
{probabilities}names = about.get("class_names", range(len(logits)))
for index in np.argsort(-logits)[:5]:
    print(f"{{{shown}[index]:.4f}} {{names[index]}}")"""
_PROBABILITIES = {
    "softmax": "shares = np.exp(logits - logits.max())\nshares /= shares.sum()\n",
    "sigmoid": "shares = 1 / (1 + np.exp(-logits))\n",
}
_NOISE = """\
inputs["noise"] = np.random.default_rng(0).random((1, {patches}), "float32")  # the largest hide their patches
"""
_SAVE = """\
np.savez(sys.argv[2], **dict(zip(how["outputs"], session.run(how["outputs"], inputs))))"""


def script_of(model: Any, name: str, script: str) -> str:
    """Return a Python script that asks an exported ONNX model about an image, for its user to read and to change.

    Args:
        model: What was exported.
        name: Name of the ONNX file, which the script looks for beside itself.
        script: Name of the script.
    """
    encoder = getattr(model, "encoder", model)
    channels = encoder.image_shape[2]
    pictures = tuple(encoder.pixel_range) == BYTES and channels in _PICTURE
    if pictures:
        converted = f'.convert("{_PICTURE[channels]}")' if channels != 4 else ""
        read = _READ_PICTURE.format(flatten="" if channels == 4 else _ON_WHITE, convert=converted)
    else:
        read = _READ_ARRAY
    kind = type(model).__name__
    arguments = "PICTURE" if pictures else "ARRAY.npy"
    if isinstance(model, ViTClassifier):
        shares = _PROBABILITIES.get(model.activation or "", "")
        what = f"Print the {'most probable classes' if shares else 'largest logits'} of an image"
        run = _CLASSIFY.format(probabilities=shares, shown="shares" if shares else "logits")
    else:
        what = f"Save what a {kind} makes of an image: {' and '.join(output_names(model))}"
        arguments += " OUT.npz"
        run = _NOISE.format(patches=encoder.num_patches) if isinstance(model, MaskedAutoencoder) else ""
        run += _SAVE
    packages = ["numpy", "onnxruntime", *(["pillow"] if pictures else [])]
    return _SCRIPT.format(
        summary=what,
        usage=f"{script if re.fullmatch('[a-zA-Z0-9_.-]+', script) else repr(script)} {arguments}",
        given="pictures of 8 bits a channel" if pictures else f"arrays {encoder.image_shape}",
        packages=", ".join(packages),
        packages_spaced=" ".join(packages),
        imports="from PIL import Image, ImageOps\n" if pictures else "",
        name=name,
        read=read,
        run=run,
    )
