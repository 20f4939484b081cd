"""What a user of another library types to load a file that was written for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.classifier import ViTClassifier
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.pixels import BYTES

__all__ = ["LIBRARIES", "how_to_load"]

LIBRARIES = ("timm", "transformers", "keras_hub")
"""Formats of `save` that belong to a library with a call of its own to load them."""
# (width, depth, heads) of the sizes that timm has names for, and the sides of the patches that each comes with.
_NAMED = {
    (192, 12, 3): ("tiny", (16,)),
    (384, 12, 6): ("small", (8, 16, 32)),
    (768, 12, 12): ("base", (8, 16, 32)),
    (1024, 24, 16): ("large", (14, 16, 32)),
    (1280, 32, 16): ("huge", (14,)),
}


def how_to_load(model: Any, path: str | Path, format: str) -> str:
    """Return the Python that loads a model's file in the library that it was written for.

    Args:
        model: What was saved: a `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`.
        path: Path of the file or folder.
        format: "timm", "transformers" or "keras_hub".

    Raises:
        ValueError: If `format` is not one of these, or `model` is something else.

    Example:
        >>> print(convert.how_to_load(classifier, "classifier.safetensors", "timm"))
        import timm
        <BLANKLINE>
        model = timm.create_model(
            'vit_base_patch16_224',
            num_classes=10,
            global_pool='avg',
            checkpoint_path='classifier.safetensors',
        ).eval()
        transform = timm.data.create_transform(
            (3, 224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), interpolation='bicubic', crop_pct=1
        )
    """
    _checks.one_of("format", format, LIBRARIES)
    if not isinstance(model, ViTEncoder | ViTClassifier | MaskedAutoencoder):
        raise _checks.argument_error("model", "a ViTEncoder, MaskedAutoencoder or ViTClassifier", model)
    name = str(_checks.path("path", path))
    return {"timm": _timm, "transformers": _transformers, "keras_hub": _keras_hub}[format](model, name)


def _timm(model: Any, path: str) -> str:
    encoder = getattr(model, "encoder", model)
    name, arguments = _timm_model(encoder)
    imports = ["timm"]
    if encoder.layer_norm_eps != 1e-6:
        imports = ["functools", "timm", "torch"]
        arguments["norm_layer"] = f"functools.partial(torch.nn.LayerNorm, eps={encoder.layer_norm_eps!r})"
    arguments["num_classes"] = str(getattr(model, "num_classes", 0))
    if getattr(model, "pooling", "token") == "mean":
        arguments["global_pool"] = "'avg'"
    elif not encoder.class_tokens:
        arguments |= {"global_pool": "'avg'", "fc_norm": "False"}
    if not encoder.final_norm and not isinstance(model, ViTClassifier):
        arguments["final_norm"] = "False"
    arguments["checkpoint_path"] = repr(path)
    lines = [f"import {one}" for one in imports]
    lines += ["", "model = timm.create_model(", f"    {name!r},"]
    lines += [f"    {argument}={value}," for argument, value in arguments.items()]
    return "\n".join([*lines, ").eval()", _timm_input(encoder)])


def _timm_model(encoder: Any) -> tuple[str, dict[str, str]]:
    """Return the name of timm's model nearest to an encoder, and those of its arguments that must differ."""
    rows, columns = encoder.patch_size
    size, sides = _NAMED.get((encoder.embed_dim, encoder.depth, encoder.num_heads), ("base", ()))
    named = rows == columns and rows in sides
    wanted: dict[str, Any] = {"patch_size": _one(encoder.patch_size)}
    wanted |= {name: getattr(encoder, name) for name in ("embed_dim", "depth", "num_heads")}
    differing = {} if named else {name: repr(value) for name, value in wanted.items()}
    usual = {"img_size": 224, "in_chans": 3, "mlp_ratio": 4.0, "class_token": True}
    found = {
        "img_size": _one(encoder.image_shape[:2]),
        "in_chans": encoder.image_shape[2],
        "mlp_ratio": float(encoder.mlp_ratio),
        "class_token": bool(encoder.class_tokens),
    }
    differing |= {name: repr(value) for name, value in found.items() if value != usual[name]}
    return f"vit_{size}_patch{rows if named else 16}_224", differing


def _timm_input(encoder: Any) -> str:
    """Return the code that turns a picture into timm's input, or, for other images, a comment that says how to."""
    height, width, channels = encoder.image_shape
    if tuple(encoder.pixel_range) != BYTES or channels != 3:
        mean, std = (
            json.dumps([round(value, 9) for value in one]) for one in (encoder.pixel_mean, encoder.pixel_std)
        )
        return f"# Its input is (pixels - {mean}) / {std} in each channel, (batch, {channels}, {height}, {width})."
    mean, std = (repr(_shares(one)) for one in (encoder.pixel_mean, encoder.pixel_std))
    return (
        "transform = timm.data.create_transform(\n"
        f"    ({channels}, {height}, {width}), mean={mean}, std={std}, interpolation='bicubic', crop_pct=1\n)"
    )


def _transformers(model: Any, path: str) -> str:
    if isinstance(model, ViTClassifier):
        kind = "AutoModelForImageClassification"
    else:
        kind = "ViTMAEForPreTraining" if isinstance(model, MaskedAutoencoder) else "ViTMAEModel"
    lines = ["import transformers", "", f"model = transformers.{kind}.from_pretrained({path!r})"]
    if tuple(getattr(model, "encoder", model).pixel_range) == BYTES:
        lines.append(f"processor = transformers.AutoImageProcessor.from_pretrained({path!r})")
    return "\n".join(lines)


def _keras_hub(model: Any, path: str) -> str:
    kind = "ImageClassifier" if isinstance(model, ViTClassifier) else "Backbone"
    return f"import keras_hub\n\nmodel = keras_hub.models.{kind}.from_preset({path!r})"


def _one(pair: tuple[int, int]) -> Any:
    return pair[0] if pair[0] == pair[1] else tuple(pair)


def _shares(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value) / BYTES[1], 9) for value in values)
