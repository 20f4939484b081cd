"""What a file in another library's format says about a model, where that format itself has no place for it.

It is one JSON object under the key "keras_mae": in the header of a safetensors file, beside the tensors of a PyTorch
file, or in a file of its own in a KerasHub preset. Other libraries ignore it.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

from keras_mae.masking import Masking
from keras_mae.masking.names import arguments_of

__all__ = [
    "CLASS_NAMES",
    "KEY",
    "MASKING",
    "decoded",
    "encoded",
    "encoder_arguments",
    "metadata_of",
    "training_arguments",
]

KEY = "keras_mae"
"""Key under which `StateDict.config` holds what `metadata_of` returned when the file was written."""
_ENCODER = ("layer_norm_eps", "pixel_mean", "pixel_std", "pixel_range")
"""Attributes of an encoder that no tensor tells: `metadata_of` writes them, and `encoder_arguments` reads them."""
_TRAINING = {"masks_per_image": 1, "predict_ratio": 1.0, "seed": 0}
"""Attributes of a masked autoencoder that matter when its training goes on, and the values that are not written."""
MASKING = "masking"
"""Key of the arguments of `keras_mae.masking.make`, for a masking other than a plain `RandomMasking`."""
CLASS_NAMES = "class_names"
"""Key of a classifier's class names, if it has any."""


def metadata_of(model: Any) -> dict[str, Any]:
    """Return what a file says about a model, as values that survive JSON.

    Args:
        model: A `ViTEncoder`, `MaskedAutoencoder` or `ViTClassifier`.
    """
    encoder = getattr(model, "encoder", model)
    said = {name: getattr(encoder, name) for name in ("image_shape", "patch_size", "num_heads", *_ENCODER)}
    if hasattr(model, "decoder"):
        said |= {
            "decoder_num_heads": model.decoder.num_heads,
            "decoder_layer_norm_eps": model.decoder.layer_norm_eps,
            "norm_pix_loss": model.norm_pix_loss,
            "mask_ratio": model.masking.mask_ratio,
            **{name: getattr(model, name) for name, usual in _TRAINING.items() if getattr(model, name) != usual},
            **_masking(model.masking),
        }
    if getattr(model, CLASS_NAMES, None) is not None:
        said[CLASS_NAMES] = model.class_names
    return said


def _masking(masking: Masking) -> dict[str, Any]:
    """Return the entry that describes a masking, if it is not a plain `RandomMasking`."""
    arguments = arguments_of(masking)
    if arguments is None:
        warnings.warn(
            "The file has no place for a masking of a class of its own: whoever loads it gets a RandomMasking of the "
            f"same ratio. Received: a {type(masking).__name__}",
            stacklevel=5,
        )
    plain = arguments is None or (arguments["name"], arguments.get("cell")) == ("random", 1)
    return {} if plain else {MASKING: arguments}


def encoder_arguments(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `ViTEncoder` that metadata holds, apart from its grid and its heads."""
    return {name: metadata[name] for name in _ENCODER if name in metadata}


def training_arguments(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `MaskedAutoencoder` that metadata holds, apart from its parts and its target."""
    return {name: metadata[name] for name in _TRAINING if name in metadata}


def encoded(metadata: dict[str, Any]) -> str:
    """Return metadata as the text that a file holds."""
    return json.dumps(metadata, allow_nan=False)


def decoded(text: Any, name: str) -> dict[str, Any]:
    """Return the metadata in a file's text.

    Args:
        text: What the file holds under `KEY`.
        name: Name of the file, for the error.

    Raises:
        ValueError: If it is not a text, or not the JSON of an object.
    """
    try:
        metadata = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is damaged: its metadata {KEY!r} is not JSON ({error})") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"{name!r} is damaged: its metadata {KEY!r} is no dict. Received: {text!r}")
    return metadata
