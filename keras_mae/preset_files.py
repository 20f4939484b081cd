"""`from_preset` and `save_to_preset`: architectures by name, folders of weights, the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Self

import keras

from keras_mae import _checks, presets

HUB = "hf://"
_CONFIG, _WEIGHTS, _CARD = "config.json", "model.weights.h5", "README.md"
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
        if str(preset) not in presets.names():
            if weights is not None:
                raise ValueError(f"`weights` are for an architecture by name. Received: preset={str(preset)!r}")
            return cls._from_model(read(preset), overrides)
        sizes = presets.get(str(preset))
        if weights is None:
            return cls._from_sizes(sizes, overrides)
        own: tuple[str, ...] = (*presets.ENCODER_ARGUMENTS, "dtype")
        if _other_channels(sizes, overrides):  # then the encoder is loaded as it is, and copied
            own = tuple(key for key in own if key not in ("image_shape", "pixel_mean", "pixel_std"))
        changes = {key: overrides.pop(key) for key in own if key in overrides}
        hints = {
            "num_heads": sizes.encoder["num_heads"],
            "decoder_num_heads": sizes.decoder["num_heads"],
            "norm_pix_loss": overrides.pop("norm_pix_loss", None),
        }
        model = read(weights, published=True, hints=hints, **changes)
        _refuse_other_sizes(getattr(model, "encoder", model), sizes, preset, weights)
        return cls._from_model(model, overrides)

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
            path: The folder. It must not exist, or be empty.

        Returns:
            The path.

        Raises:
            ValueError: If there is something at `path`.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(f"`path` must not exist, so that nothing is lost. Received: path={str(path)!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".writing-{path.name}-{os.getpid()}")
        unfinished.mkdir()
        try:
            config = keras.saving.serialize_keras_object(self)
            config.pop("compile_config", None)  # an optimizer's state is not in the folder either
            (unfinished / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            self.save_weights(unfinished / _WEIGHTS)  # type: ignore[attr-defined]
            (unfinished / _CARD).write_text(card(self, path.name), encoding="utf-8")
            if path.exists():
                path.rmdir()
            unfinished.rename(path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return path


def read(preset: str | Path, published: bool = False, hints: dict[str, Any] | None = None, **encoder: Any) -> Any:
    """The model in a folder or file, or on the Hub.

    Args:
        preset: As in `from_preset`.
        published: Whether it may be the name of a published checkpoint.
        hints: What a file may not say: `num_heads`, `decoder_num_heads`, `norm_pix_loss`.
        encoder: Arguments of `ViTEncoder` that differ, for other libraries' files.

    Raises:
        ValueError: If there is none.
    """
    # Only here, and late: converting needs the models, and the models have `from_preset`.
    from keras_mae import convert

    if str(preset).startswith(HUB):
        path = _download(str(preset).removeprefix(HUB))
    elif published and not Path(preset).exists():
        path = convert.fetch(str(preset))
    else:
        path = Path(preset)
    if not path.exists():
        _checks.one_of("preset", str(preset), (*presets.names(), "a folder", "a file", f"{HUB}user/name"))
    if not is_own(path):
        return convert.load(path, **(hints or {}), **encoder).model
    model = keras.saving.load_model(path) if path.suffix == ".keras" else _read_folder(path)
    if encoder:
        raise ValueError(f"A model of keras_mae's own is taken as it was saved. Received: {encoder}")
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
    model = keras.saving.deserialize_keras_object(config)
    try:
        model.load_weights(path / _WEIGHTS)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"The weights in {str(path)!r} are damaged or do not fit its {_CONFIG}: {error}") from error
    return model


def _download(name: str) -> Path:
    """The folder of a repository on the Hub, or its copy in the cache."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ImportError('Presets on the Hub take huggingface_hub: pip install "keras-mae[convert]"') from error
    weights = ["*.weights.h5", "model*.safetensors", "model.safetensors.index.json"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*config*.json", "*metadata.json", *weights]))
        if not any(path for pattern in weights for path in folder.glob(pattern)):
            folder = Path(snapshot_download(name, allow_patterns=["*config*.json", "pytorch_model*.bin*"]))
    except Exception as error:
        raise ValueError(f"Cannot get {HUB}{name}: {str(error).strip().splitlines()[0]}") from error
    return folder


def _other_channels(sizes: presets.Preset, overrides: dict[str, Any]) -> bool:
    image_shape = overrides.get("image_shape")
    return image_shape is not None and _checks.image_shape(image_shape)[2] != sizes.encoder["image_shape"][2]


def _refuse_other_sizes(encoder: Any, sizes: presets.Preset, preset: Any, weights: Any) -> None:
    differ = {
        name: getattr(encoder, name)
        for name in ("embed_dim", "depth", "num_heads")
        if getattr(encoder, name) != sizes.encoder[name]
    }
    if encoder.patch_size != _checks.pair("patch_size", sizes.encoder["patch_size"]):
        differ["patch_size"] = encoder.patch_size
    if differ:
        raise ValueError(f"The weights {str(weights)!r} are not of {str(preset)!r}: they have {differ}")


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
