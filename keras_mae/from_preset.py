"""`from_preset` and `save_to_preset`: architectures by name, folders of weights, the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Self

import keras

from keras_mae import _checks, presets

HUB = "hf://"
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.weights.h5", "README.md"
_HINTS = ("num_heads", "decoder_num_heads", "norm_pix_loss")
_CLASSES = ("MaskedAutoencoder", "ViTClassifier", "ViTEncoder")


class PresetFiles:
    """Gives a model `from_preset` and `save_to_preset`.

    A model says with `_from_sizes` how it is made of an architecture's sizes, and with `_from_model` what it takes
    from a model of another class.
    """

    @classmethod
    def from_preset(cls, preset: str | Path, weights: str | Path | None = None, **overrides: Any) -> Self:
        """A model by the name of its architecture, or one that was saved.

        Args:
            preset: A name of `keras_mae.presets.names()`, such as "mae_vit_base_patch16_224", which is only an
                architecture; or a folder that `save_to_preset`, `transformers` or KerasHub wrote; a `.keras` file;
                a `.pth` or `.safetensors` file of the authors' or `timm`'s; or "hf://user/name" on the Hugging Face
                Hub. A `ViTEncoder` is also taken from a masked autoencoder or a classifier, and a `ViTClassifier`
                with a new head from either of the others.
            weights: For an architecture: a file as above, or the name of a published checkpoint, such as
                "mae_pretrain_vit_base" (`keras_mae.convert.published.CHECKPOINTS` lists them), which is downloaded
                on first use. Published checkpoints are under CC-BY-NC 4.0. Random without it.
            overrides: Arguments of the model, or of its encoder, that differ.

        Returns:
            The model.

        Raises:
            ValueError: If there is no such preset, it holds another kind of model (an encoder alone cannot
                reconstruct), it does not fit the architecture, or an argument is unknown.
        """
        if not isinstance(preset, str | Path):
            raise _checks.argument_error("preset", "a name or a path", preset)
        if str(preset) not in presets.names():
            if weights is not None:
                raise ValueError(f"`weights` are for an architecture by name. Received: preset={str(preset)!r}")
            hints: dict[str, Any] = {}
            if not is_own(path := located(preset)):
                hints = {key: overrides.pop(key) for key in _HINTS if key in overrides} | cls._hints()
            return cls._from_model(read(path, hints), overrides)
        sizes = presets.get(str(preset))
        if weights is None:
            return cls._from_sizes(sizes, overrides)
        path = located(weights, published=True)
        image_shape = overrides.get("image_shape", sizes.encoder["image_shape"])
        other_channels = _checks.image_shape(image_shape)[2] != sizes.encoder["image_shape"][2]
        hints = {}
        if not is_own(path):
            # Of another number of channels an encoder is loaded as it is, and copied.
            own = ("drop_path_rate", "dtype", *(() if other_channels else ("image_shape", "pixel_mean", "pixel_std")))
            hints = {key: overrides.pop(key) for key in (*own, "norm_pix_loss") if key in overrides}
            heads = {"num_heads": sizes.encoder["num_heads"], "decoder_num_heads": sizes.decoder["num_heads"]}
            hints |= heads | cls._hints()
        model = read(path, hints)
        expected = sizes.encoder | ({} if other_channels else {"image_shape": image_shape})
        _refuse_other_sizes(getattr(model, "encoder", model), expected, preset, weights)
        return cls._from_model(model, overrides)

    @classmethod
    def _hints(cls) -> dict[str, Any]:
        """What `convert.load` is told besides."""
        return {}

    @classmethod
    def _from_sizes(cls, sizes: presets.Preset, overrides: dict[str, Any]) -> Self:
        raise NotImplementedError

    @classmethod
    def _from_model(cls, model: Any, overrides: dict[str, Any]) -> Self:
        raise NotImplementedError

    def save_to_preset(self, path: str | Path) -> Path:
        """Write a folder that `from_preset` reads: configuration, weights, and a model card to be completed.

        The folder can be uploaded to the Hugging Face Hub as it is.

        Args:
            path: The folder. It must not exist.

        Returns:
            The path.

        Raises:
            ValueError: If there is something at `path`.
        """
        path = Path(path)
        if path.suffix == ".keras":
            raise ValueError(f"`path` must be a folder: a .keras file is `model.save`'s. Received: {str(path)!r}")
        if path.exists() or not path.name:
            raise ValueError(f"`path` must not exist, so that nothing is lost. Received: path={str(path)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".writing-{os.getpid()}-{path.name}")
        unfinished.mkdir()
        try:
            config = keras.saving.serialize_keras_object(self)
            config.pop("compile_config", None)
            self._save_weights_alone(unfinished / _WEIGHTS)
            config["keras_mae"] = {
                "sha256": _digest(unfinished / _WEIGHTS),
                "parameters": self.count_params(),  # type: ignore[attr-defined]
            }
            (unfinished / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            (unfinished / _CARD).write_text(card(self, path.name), encoding="utf-8")
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return path

    def _save_weights_alone(self: Any, path: Path) -> None:
        """Keras would save the optimizer with them."""
        optimizer = getattr(self, "optimizer", None)
        self.optimizer = None
        try:
            self.save_weights(path)
        finally:
            self.optimizer = optimizer


def located(preset: str | Path, published: bool = False) -> Path:
    """Where a preset is on this machine, once it is downloaded if need be.

    Args:
        preset: As in `from_preset`.
        published: Whether it may be the name of a published checkpoint.

    Raises:
        ValueError: If there is none.
    """
    if str(preset).startswith(HUB):
        return _download(str(preset).removeprefix(HUB))
    path = Path(preset)
    if path.exists():
        return path
    if published and not path.suffix:
        from keras_mae import convert

        return convert.fetch(str(preset))
    if published or path.suffix:
        raise ValueError(f"There is no file or folder {str(preset)!r}")
    raise _checks.argument_error(
        "preset", f"one of {', '.join(presets.names())}, a folder, a file or {HUB}user/name", str(preset)
    )


def read(preset: str | Path, hints: dict[str, Any] | None = None) -> Any:
    """The model in a folder or file, or on the Hub.

    Args:
        preset: As in `from_preset`.
        hints: Arguments of `keras_mae.convert.load`, for other libraries' files.

    Raises:
        ValueError: If there is none.
    """
    # Only here, and late: converting needs the models, and the models have `from_preset`.
    from keras_mae import convert

    path = located(preset)
    if not is_own(path):
        return convert.load(path, **(hints or {})).model
    if path.suffix != ".keras":
        return _read_folder(path)
    try:
        model = keras.saving.load_model(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"Cannot load the model file {str(path)!r}: {error}") from error
    if type(model).__name__ not in _CLASSES:
        raise ValueError(f"{str(path)!r} holds no model of keras_mae. Received: a {type(model).__name__}")
    return model


def is_own(path: Path) -> bool:
    """Whether this is a `.keras` file, or a folder of `save_to_preset`."""
    # KerasHub's folders have the same weights' file, and this one beside it.
    return path.suffix == ".keras" or ((path / _WEIGHTS).is_file() and not (path / "metadata.json").is_file())


def _read_folder(path: Path) -> Any:
    try:
        config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The preset {str(path)!r} has no readable {_CONFIG}: {error}") from error
    registered = str(config.get("registered_name")) if isinstance(config, dict) else ""
    if registered not in [f"keras_mae>{name}" for name in _CLASSES]:
        raise ValueError(f"The preset {str(path)!r} holds no model of keras_mae, but: {registered}")
    stated = config.pop("keras_mae", {})
    if stated.get("sha256") != _digest(path / _WEIGHTS):
        raise ValueError(f"The weights in {str(path)!r} are damaged, or others than it was saved with")
    try:
        model = keras.saving.deserialize_keras_object(config)
        model.load_weights(path / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The weights in {str(path)!r} do not fit its {_CONFIG}: {error}") from error
    if model.count_params() != stated.get("parameters"):  # Keras overlooks weights that nobody asks for
        raise ValueError(
            f"The weights in {str(path)!r} do not fit its {_CONFIG}: {stated.get('parameters')} parameters were "
            f"saved, and it has {model.count_params()}"
        )
    return model


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str) -> Path:
    """The folder of a repository on the Hub, or its copy in the cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError('Presets on the Hub take huggingface_hub: pip install "keras-mae[convert]"') from error
    weights = ["*.weights.h5", "model*.safetensors", "model.safetensors.index.json"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", *weights]))
        if not any(path for pattern in weights for path in folder.glob(pattern)):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "pytorch_model*.bin*"]))
    except Exception as error:
        raise ValueError(f"Cannot get {HUB}{name}: {str(error).strip().splitlines()[0]}") from error
    return folder


def _refuse_other_sizes(encoder: Any, expected: dict[str, Any], preset: Any, weights: Any) -> None:
    """An error if the weights are not the architecture's that was named."""
    expected = expected | {"patch_size": _checks.pair("patch_size", expected["patch_size"])}
    differ = {name: found for name in expected if (found := getattr(encoder, name)) != _tuple(expected[name])}
    if differ:
        raise ValueError(f"The weights {str(weights)!r} are not of {str(preset)!r}: they have {differ}")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def refuse_unknown(overrides: dict[str, Any], allowed: tuple[str, ...]) -> None:
    """An error if there is an argument that `from_preset` does not take here."""
    if unknown := set(overrides) - set(allowed):
        raise ValueError(
            f"`from_preset` takes arguments of {', '.join(allowed)}. Received: {', '.join(sorted(unknown))}"
        )


def card(model: Any, name: str) -> str:
    """A model card: what the folder holds and how to load it. What only its author knows is left to be filled in."""
    encoder = getattr(model, "encoder", model)
    kind = type(model).__name__
    lines = [
        "---",
        "library_name: keras_mae",
        f"pipeline_tag: {'image-classification' if kind == 'ViTClassifier' else 'image-feature-extraction'}",
        "tags: [masked-autoencoder, vit, keras]",
        "---",
        f"# {name}",
        "",
        f"A `keras_mae.{kind}`: images of {' x '.join(map(str, encoder.image_shape))} (0-255), patches of "
        f"{' x '.join(map(str, encoder.patch_size))}, {encoder.embed_dim} wide, {encoder.depth} blocks, "
        f"{encoder.num_heads} heads, {model.count_params():,} parameters.",
    ]
    if kind == "MaskedAutoencoder":
        target = "normalised pixels" if model.norm_pix_loss else "pixels"
        lines.append(f"It predicts {target} of patches, {model.masking.mask_ratio:.0%} of which are hidden.")
    if kind == "ViTClassifier":
        lines.append(f"It tells {model.num_classes} classes apart.")
    lines += [
        "",
        "```python",
        "import keras_mae",
        "",
        f'model = keras_mae.{kind}.from_preset("{name}")',
        "```",
        "",
        "Trained on: to be filled in. Licence of the weights: to be filled in.",
        "",
    ]
    return "\n".join(lines)
