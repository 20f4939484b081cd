"""What `keras-mae pretrain` begins with: new weights of a preset, or those of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_mae.cli.shapes import side_lengths

__all__ = ["Start", "start"]

DEFAULT_MODELS = {"digits": "mae_vit_micro_patch2_8", "fashion_mnist": "mae_vit_micro_patch4_28"}
FOLDER_MODEL = "mae_vit_small_patch16_224"


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    Attributes:
        name: Name of the preset, or of the other model's file.
        preset: Name of the preset; `None` with another model's weights.
        image_shape: Shape (height, width, channels) of the images of the preset, or of the other model.
        patch_size: Size (height, width) of a patch in pixels.
        class_tokens: Number of class tokens.
        loaded: Model whose weights the run begins with; `None` for new weights.
        metadata: JSON values that tell these weights from others; `None` for new weights.
    """

    name: str
    preset: str | None
    image_shape: tuple[int, int, int]
    patch_size: tuple[int, int]
    class_tokens: int
    loaded: Any = None
    metadata: dict[str, Any] | None = None

    def model(
        self,
        image_shape: tuple[int, int, int],
        *,
        decoder: str,
        new_decoder: bool,
        say: Callable[[str], None],
        **arguments: Any,
    ) -> Any:
        """Return the `MaskedAutoencoder` to train.

        Args:
            image_shape: Shape (height, width, channels) of the images.
            decoder: Kind of the decoder.
            new_decoder: Whether the decoder is new even if the other model has one.
            say: Function called with a line on what is taken from another model, if there is one.
            arguments: Other arguments of the model.
        """
        import keras_mae

        if self.loaded is not None:
            return keras_mae.convert.continued(
                self.loaded,
                image_shape,
                decoder=decoder,
                new_decoder=new_decoder,
                say=lambda taken: say(f"goes on from {self.name}: {taken}"),
                **arguments,
            )
        shape: dict[str, Any] = {"image_shape": image_shape, "patch_size": self.patch_size}
        return keras_mae.MaskedAutoencoder.from_preset(
            self.preset or "", **shape, class_tokens=self.class_tokens, decoder=decoder, **arguments
        )


def start(
    data: str, model: str | None, weights: str | None, patch_size: str | None, class_tokens: int, new_decoder: bool
) -> Start:
    """Return what a run begins with; the arguments are options of `keras-mae pretrain`.

    Raises:
        ValueError: If the options do not go together.
    """
    from keras_mae import _checks, presets

    patch = side_lengths("patch_size", patch_size)
    if weights is None:
        if new_decoder:
            raise ValueError("`new_decoder` goes with --weights. Received: --new-decoder")
        preset = model or DEFAULT_MODELS.get(data, FOLDER_MODEL)
        sizes = presets.get(preset).encoder
        own = _checks.pair("patch_size", sizes["patch_size"])
        return Start(preset, preset, sizes["image_shape"], patch or own, class_tokens)
    if model is not None:
        raise ValueError(
            "`model` names an architecture, and `weights` bring their own. "
            f"Received: model={model}, weights={weights}"
        )
    loaded, metadata = _loaded(weights)
    encoder = getattr(loaded, "encoder", loaded)
    # 1 is the default, so it may not have been typed.
    said = {"patch_size": patch, "class_tokens": None if class_tokens == 1 else class_tokens}
    for name, value in said.items():
        if value is not None and value != getattr(encoder, name):
            raise _checks.argument_error(name, f"that of the weights, {getattr(encoder, name)}", value)
    return Start(
        Path(weights).name, None, encoder.image_shape, encoder.patch_size, encoder.class_tokens, loaded, metadata
    )


def _loaded(weights: str) -> tuple[Any, dict[str, Any]]:
    """Return the model in a file or folder, and JSON values that tell it from others."""
    from keras_mae import _files, convert

    found = convert.located(weights, published=True)
    known = {"weights": Path(weights).name, "weights_sha256": _files.sha256(found)[:16]}
    return convert.load(found).model, known
