"""The formats of keras_mae itself: `.keras` files, and the folders of `save_to_preset`."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks, _class_names, _files, _saving
from keras_mae.classifier import ViTClassifier
from keras_mae.convert import limits
from keras_mae.convert.doors import documented
from keras_mae.convert.layout import Converted, Format, Hints
from keras_mae.convert.state_dict import Files
from keras_mae.convert.weight_map import Kind, Report, listed, named_weights
from keras_mae.encoder import ViTEncoder
from keras_mae.from_preset import CONFIG, config_text
from keras_mae.masked_autoencoder import MaskedAutoencoder
from keras_mae.masking.names import describe
from keras_mae.pixels import range_name
from keras_mae.segmenter import ViTSegmenter

__all__ = ["CARD", "MODELS", "KerasFile", "PresetFolder", "card", "load_model"]

MODELS = (MaskedAutoencoder, ViTEncoder, ViTClassifier, ViTSegmenter)
"""The classes that are saved and converted."""
_WEIGHTS, CARD = "model.weights.h5", "README.md"


class _Own(Format):
    """A format that holds the whole model as it is, and so needs no hints."""

    takes_hints = False
    holds_batch_norm = True

    def load(self, files: Files, hints: Hints) -> Converted:
        if hints != Hints(encoder_only=hints.encoder_only, max_parameters=hints.max_parameters):
            raise ValueError(
                f"{str(files.path)!r} is a model of keras_mae, which says itself what it is: load it without other "
                "arguments, and then change its encoder with `encoder.copy`"
            )
        model = load_model(files.path, max_parameters=hints.max_parameters)
        model = getattr(model, "encoder", model) if hints.encoder_only else model
        paths = {id(weight): weight.path for weight in model.weights}
        rows = [
            (paths.get(id(weight), name), name, tuple(weight.shape), "")
            for name, weight in named_weights(model).items()
        ]
        named = getattr(model, "target_name", "") in ("pixels", "normalized")
        return Converted(model, Report(_kind(model), model.norm_pix_loss if named else None, rows))


class KerasFile(_Own):
    """A `.keras` file, which `model.save` writes and `keras.saving.load_model` reads."""

    name = "keras"

    def matches(self, files: Files) -> bool:
        return files.path.suffix == ".keras"

    def check_path(self, path: Path) -> None:
        if path.suffix != ".keras":
            raise ValueError(f"`path` must end in '.keras'. Received: {str(path)!r}")

    def write(self, model: Any, path: Path) -> None:
        _saving.save_model(model, path)


class PresetFolder(_Own):
    """A folder of configuration, weights and a model card, which can be uploaded to the Hugging Face Hub."""

    name = "preset"

    def matches(self, files: Files) -> bool:
        return _is_folder(files.path)

    def check_path(self, path: Path) -> None:
        if path.suffix == ".keras":
            raise ValueError(f"`path` must be a folder: a .keras file is `model.save`'s. Received: {str(path)!r}")

    def write(self, model: Any, path: Path) -> None:
        path.mkdir()
        _save_weights_alone(model, path / _WEIGHTS)
        (path / CONFIG).write_text(config_text(model, _files.sha256(path / _WEIGHTS)), encoding="utf-8")
        (path / CARD).write_text(card(model, path.name), encoding="utf-8")


def load_model(path: str | Path, *, max_parameters: int | None = None) -> Any:
    """Return a model that keras_mae saved.

    Its configuration is compared with its weights before anything is allocated: a model that asks for more than the
    file holds is refused.

    Args:
        path: A `.keras` file, a folder that `save_to_preset` wrote, or a checkpoint of a run.
        max_parameters: Parameters of the largest model to read, 2,000,000,000 by default, with one transformer block
            for every 2,000,000 of them.

    Returns:
        A `MaskedAutoencoder`, `ViTEncoder`, `ViTClassifier` or `ViTSegmenter`.

    Raises:
        ValueError: If there is none, it is damaged or too large, or weights are NaN or infinite; the message says
            what `path` is instead, or what of it is damaged.
        OSError: If it may not be read.
    """
    path = _checks.path("path", path)
    if _is_folder(path):
        return documented(_read_folder, path, max_parameters)
    if path.is_dir():
        inside = sorted(path.glob("*.keras")) or sorted(path.glob("checkpoints/step-*")) or [path / "model.keras"]
        raise ValueError(f"A model is a .keras file, not a folder: try {str(inside[-1])!r}")
    if not path.is_file():
        raise ValueError(f"There is no model file {str(path)!r}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"A model file is a .keras file that keras_mae saved. Received: {str(path)!r}")
    return documented(_read_file, path, max_parameters)


def _is_folder(path: Path) -> bool:
    """Return whether this is a folder that `save_to_preset` wrote."""
    # KerasHub's folders have the same weights' file, and this one beside it.
    return (path / _WEIGHTS).is_file() and not (path / "metadata.json").is_file()


def _read_file(path: Path, max_parameters: int | None) -> Any:
    limits.check_size(path, max_parameters)
    limits.check_archive(path)
    with zipfile.ZipFile(path) as archive:
        if missing := {CONFIG, _WEIGHTS} - set(archive.namelist()):
            raise ValueError(f"Cannot load the model file {str(path)!r}: it has no {', '.join(sorted(missing))}")
        config = _files.parsed_json(archive.read(CONFIG), f"{path}: {CONFIG}")
        _check_class(path, config)
        stored = archive.getinfo(_WEIGHTS).compress_type == zipfile.ZIP_STORED
        with archive.open(_WEIGHTS) as opened:  # in which HDF5 jumps about
            held = limits.check_hdf5(opened if stored else io.BytesIO(opened.read()), f"{path}: {_WEIGHTS}")
    limits.check_config(str(path), config, held, max_parameters)
    try:
        model = keras.saving.load_model(path)
    except Exception as error:  # Keras raises whatever its layers do
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Cannot load the model file {str(path)!r}: {first}") from error
    if not isinstance(model, MODELS):
        raise _no_model_of_ours(path, type(model).__name__)
    _check_finite(path, model)
    return model


def _check_class(path: Path, config: dict[str, Any]) -> None:
    """Raise a `ValueError` if what Keras would build first is known to be no model of ours."""
    name = config.get("registered_name") or config.get("class_name")
    known = keras.saving.get_registered_object(name) if isinstance(name, str) else None
    if str(config.get("module")).partition(".")[0] == "keras" or (known and not issubclass(known, MODELS)):
        raise _no_model_of_ours(path, str(config.get("class_name")))


def _no_model_of_ours(path: Path, received: str) -> ValueError:
    return ValueError(
        f"{str(path)!r} holds no model of keras_mae. Received: a {received}; it must hold a MaskedAutoencoder, a "
        "ViTEncoder, a ViTClassifier or a ViTSegmenter"
    )


def _check_finite(path: Path, model: Any) -> None:
    """Raise a `ValueError` if weights are NaN or infinite, and name them."""
    if wrong := [weight for weight in model.weights if not np.isfinite(ops.convert_to_numpy(weight)).all()]:
        names = {id(weight): name for name, weight in named_weights(model).items()}
        found = listed([names.get(id(weight), weight.path) for weight in wrong])
        raise ValueError(f"Weights in {str(path)!r} are NaN or infinite: {found}")


def _read_folder(path: Path, max_parameters: int | None) -> Any:
    try:
        config = _files.read_json(path / CONFIG)
    except (OSError, ValueError) as error:
        raise ValueError(f"The preset {str(path)!r} has no readable {CONFIG}: {error}") from error
    if str(config.get("registered_name")) not in [keras.saving.get_registered_name(model) for model in MODELS]:
        raise ValueError(
            f"The preset {str(path)!r} holds no model of keras_mae, but: {config.get('registered_name')}"
        )
    stated = config.pop("keras_mae", None)
    stated = stated if isinstance(stated, dict) else {}
    limits.check_size(path / _WEIGHTS, max_parameters)
    if stated.get("sha256") != _files.sha256(path / _WEIGHTS):
        raise ValueError(f"The weights in {str(path)!r} are damaged, or not those it was saved with")
    held = limits.check_hdf5(path / _WEIGHTS, str(path / _WEIGHTS))
    limits.check_config(str(path), config, held, max_parameters)
    try:
        model: Any = keras.saving.deserialize_keras_object(config)
        model.load_weights(path / _WEIGHTS)
    except Exception as error:  # Keras raises whatever its layers do
        raise ValueError(f"The weights in {str(path)!r} do not fit its {CONFIG}: {error}") from error
    if model.count_params() != stated.get("parameters"):  # Keras overlooks weights that nobody asks for
        raise ValueError(
            f"The weights in {str(path)!r} do not fit its {CONFIG}: {stated.get('parameters')} parameters were "
            f"saved, and it has {model.count_params()}"
        )
    _check_finite(path, model)
    return model


def _save_weights_alone(model: Any, path: Path) -> None:
    """Write the weights without the optimizer, which Keras would save with them."""
    optimizer = getattr(model, "optimizer", None)
    model.optimizer = None
    try:
        _saving.save_weights(model, path)
    finally:
        model.optimizer = optimizer


def _kind(model: Any) -> Kind:
    if isinstance(model, ViTClassifier | ViTSegmenter):
        return "classifier" if isinstance(model, ViTClassifier) else "segmenter"
    return "autoencoder" if isinstance(model, MaskedAutoencoder) else "encoder"


def card(model: Any, name: str, preset: str | None = None, library: str = "keras_mae", loading: str = "") -> str:
    """Return a model card: what the folder holds and how to load it, with places for what only its author knows.

    Args:
        model: What is in the folder.
        name: Title of the card.
        preset: What `from_preset` takes to load it; by default the name.
        library: Library that the folder is for.
        loading: What is typed in that library to load it; by default `from_preset`.
    """
    if not loading:
        quoted = json.dumps(preset or name, ensure_ascii=False)
        loading = f"import keras_mae\n\nmodel = keras_mae.{type(model).__name__}.from_preset({quoted})"
    encoder = getattr(model, "encoder", model)
    tags = {"classifier": "image-classification", "segmenter": "image-segmentation"}
    tag = tags.get(_kind(model), "image-feature-extraction")
    lines = [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {tag}",
        "tags: [masked-autoencoder, vit, keras]",
        "---",
        f"# {name}",
        "",
        f"A `keras_mae.{type(model).__name__}`: images of {' x '.join(map(str, encoder.image_shape))} "
        f"({range_name(encoder.pixel_range)}), "
        f"patches of {' x '.join(map(str, encoder.patch_size))}, {encoder.embed_dim} wide, {encoder.depth} blocks, "
        f"{encoder.num_heads} heads, {model.count_params():,} parameters.",
    ]
    if isinstance(model, MaskedAutoencoder):
        lines.append(
            f"It predicts {model.target_description} of patches, {model.masking.mask_ratio:.0%} of which are hidden "
            f"({describe(model.masking)})."
        )
    if isinstance(model, ViTClassifier | ViTSegmenter):
        names = "" if model.class_names is None else f": {_class_names.listed(model.class_names)}"
        lines.append(f"It tells {model.num_classes} classes apart{names}.")
    lines += [
        "",
        "```python",
        loading,
        "```",
        "",
        "Trained on: to be filled in. License of the weights: to be filled in.",
        "",
    ]
    return "\n".join(lines)
