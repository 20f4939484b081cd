"""The models that keras_mae itself saved: `.keras` files, and the folders of `save_to_preset`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_mae import _files
from keras_mae.classifier import ViTClassifier
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder

__all__ = ["load_model"]

MODELS = (MaskedAutoencoder, ViTEncoder, ViTClassifier)
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.weights.h5", "README.md"


def load_model(path: str | Path) -> Any:
    """Return a model that keras_mae saved.

    Args:
        path: A `.keras` file, or a folder that `save_to_preset` wrote.

    Returns:
        A `MaskedAutoencoder`, `ViTEncoder` or `ViTClassifier`.

    Raises:
        ValueError: If there is none; the message says what `path` is instead.
    """
    path = Path(path)
    if _is_folder(path):
        return _read_folder(path)
    if path.is_dir():
        inside = sorted(path.glob("*.keras")) or [path / "model.keras"]
        raise ValueError(f"A model is a .keras file, not a folder: try {str(inside[-1])!r}")
    if not path.is_file():
        raise ValueError(f"There is no model file {str(path)!r}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"A model file is a .keras file that keras_mae saved. Received: {str(path)!r}")
    return _read_file(path)


def _is_folder(path: Path) -> bool:
    """Return whether this is a folder that `save_to_preset` wrote."""
    # KerasHub's folders have the same weights' file, and this one beside it.
    return (path / _WEIGHTS).is_file() and not (path / "metadata.json").is_file()


def _read_file(path: Path) -> Any:
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # Keras raises whatever its layers do
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Cannot load the model file {str(path)!r}: {first}") from error
    if not isinstance(model, MODELS):
        raise ValueError(
            f"{str(path)!r} holds no model of keras_mae. Received: a {type(model).__name__}; it must hold a "
            "MaskedAutoencoder, a ViTEncoder or a ViTClassifier"
        )
    return model


def _read_folder(path: Path) -> Any:
    try:
        config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The preset {str(path)!r} has no readable {_CONFIG}: {error}") from error
    registered = str(config.get("registered_name")) if isinstance(config, dict) else ""
    if registered not in [keras.saving.get_registered_name(model) for model in MODELS]:
        raise ValueError(f"The preset {str(path)!r} holds no model of keras_mae, but: {registered}")
    stated = config.pop("keras_mae", {})
    if stated.get("sha256") != _files.sha256(path / _WEIGHTS):
        raise ValueError(f"The weights in {str(path)!r} are damaged, or others than it was saved with")
    try:
        model: Any = keras.saving.deserialize_keras_object(config)
        model.load_weights(path / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The weights in {str(path)!r} do not fit its {_CONFIG}: {error}") from error
    if model.count_params() != stated.get("parameters"):  # Keras overlooks weights that nobody asks for
        raise ValueError(
            f"The weights in {str(path)!r} do not fit its {_CONFIG}: {stated.get('parameters')} parameters were "
            f"saved, and it has {model.count_params()}"
        )
    return model
