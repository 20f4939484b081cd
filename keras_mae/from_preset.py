"""`from_preset`, `save_to_preset` and `push_to_hub`: the models' door to `keras_mae.convert`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import keras

__all__ = ["CONFIG", "Opener", "PresetFiles", "config_text", "hand_in"]

CONFIG = "config.json"
"""Name of the file in a preset's folder that says what its weights are of."""


class Opener(Protocol):
    """What is behind the door."""

    def open_preset(
        self, cls: type[Any], preset: str | Path, weights: str | Path | None, overrides: dict[str, Any]
    ) -> Any:
        """Return the model of a class that a preset is, as `from_preset` promises."""

    def save_preset(self, model: Any, path: str | Path) -> Path:
        """Write a model to a folder, as `save_to_preset` promises."""

    def push_to_hub(
        self,
        model: Any,
        repository: str,
        *,
        format: str,
        private: bool | None,
        message: str | None,
        token: str | None,
    ) -> str:
        """Upload a model, as `push_to_hub` promises."""


_opener: Callable[[], Opener]


def hand_in(opener: Callable[[], Opener]) -> None:
    """Say what opens and saves presets.

    Converting needs the models, and the models have `from_preset`: so `keras_mae` itself, which imports both, hands
    in a function that imports what is behind the door when it is first used.

    Args:
        opener: Function that returns the opener.
    """
    global _opener
    _opener = opener


def config_text(model: Any, sha256: str) -> str:
    """Return the text of a preset's `config.json`.

    Args:
        model: Model of the preset.
        sha256: Checksum of the file of its weights.
    """
    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    config["keras_mae"] = {"sha256": sha256, "parameters": model.count_params()}
    return json.dumps(config, indent=2) + "\n"


class PresetFiles:
    """Gives a model `from_preset`, `save_to_preset` and `push_to_hub`."""

    @classmethod
    def from_preset(cls, preset: str | Path, weights: str | Path | None = None, **overrides: Any) -> Self:
        """Return a model by the name of its architecture, or one that was saved.

        Args:
            preset: Name among `keras_mae.presets.names()`, such as "mae_vit_base_patch16_224", which is only an
                architecture; or a folder that `save_to_preset`, `transformers` or KerasHub wrote; a `.keras` file; a
                run's checkpoint, such as "runs/a/checkpoints/step-000001000"; a `.pth` or `.safetensors` file of the
                authors' or `timm`'s; or "hf://user/name" on the Hugging Face Hub. A `ViTEncoder` is also taken from
                all other models, and from these a `ViTClassifier` or a `ViTSegmenter` with a new head.
            weights: File as above for an architecture, or the name of a published checkpoint, such as
                "mae_pretrain_vit_base" (`keras_mae.convert.PUBLISHED` lists them), which is downloaded
                on first use. Published checkpoints are under CC-BY-NC 4.0. Random without it.
            overrides: Arguments of the model, or of its encoder, that differ; for an autoencoder by the name of its
                architecture also `decoder`, "self_attention" or "cross_attention"; and for another library's file
                what it may not say, as in `keras_mae.convert.load`: `num_heads`, `decoder_num_heads`,
                `norm_pix_loss`, `checkpoint_key`; for all that is read, `max_parameters`. Another `num_classes` or
                other `class_names` take a new head; names alone are given to a head that has none.

        Returns:
            The model.

        Raises:
            ValueError: If there is no such preset, it is damaged or too large, it holds another kind of model (an
                encoder alone cannot reconstruct), it does not fit the architecture, or an argument is unknown.
            ImportError: If a package that reads it is missing.
            OSError: If it may not be read.
        """
        model: Self = _opener().open_preset(cls, preset, weights, overrides)
        return model

    def save_to_preset(self, path: str | Path) -> Path:
        """Write a folder that `from_preset` reads: configuration, weights, and a model card to be completed.

        `push_to_hub` uploads such a folder to the Hugging Face Hub.

        Args:
            path: Folder to write. It must not exist.

        Returns:
            The path.

        Raises:
            ValueError: If there is something at `path`.
        """
        return _opener().save_preset(self, path)

    def push_to_hub(
        self,
        repository: str,
        *,
        format: str = "preset",
        private: bool | None = None,
        message: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to a repository on the Hugging Face Hub; `keras_mae.convert.push_to_hub` says how.

        Args:
            repository: "user/name", or "hf://user/name". It is made if it is not there.
            format: "preset", or "transformers" or "keras_hub" for these libraries; `from_preset` reads all of them.
            private: Whether a repository that is made is private; by default what its owner's settings say.
            message: Message of the commit; by default it says what was uploaded.
            token: Token that may write to the repository; by default the one that `hf auth login` or HF_TOKEN gave.

        Returns:
            "hf://user/name", which `from_preset` takes.

        Raises:
            ValueError: If the format cannot hold the model, the repository holds weights of another format, or it
                cannot be written to.
            ImportError: If huggingface_hub is missing.
        """
        return _opener().push_to_hub(self, repository, format=format, private=private, message=message, token=token)
