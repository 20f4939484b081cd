"""A masked autoencoder that goes on from the weights of another model, of any format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_mae import _checks, presets
from keras_mae.convert.load_save import load
from keras_mae.convert.locate import located
from keras_mae.convert.own import MODELS
from keras_mae.cross_attention import DECODERS
from keras_mae.decoder import MAEDecoder
from keras_mae.encoder import ViTEncoder
from keras_mae.masked_autoencoder import MaskedAutoencoder

__all__ = ["continued"]


def continued(
    weights: Any,
    image_shape: tuple[int, int, int] | None = None,
    *,
    decoder: str = MAEDecoder.kind,
    new_decoder: bool = False,
    pixel_range: tuple[float, float] | None = None,
    dtype: Any = None,
    remat: bool = False,
    say: Callable[[str], None] | None = None,
    **arguments: Any,
) -> MaskedAutoencoder:
    """Return a masked autoencoder with the weights of a model, to pre-train it further.

    The encoder is the model's, for images of `image_shape`: see `ViTEncoder.copy`. So is the decoder, if the model
    has one of the kind that is asked for, which reads the same fused blocks, its images have as many channels, and
    both predict pixels. Otherwise it is a new one, in the size of the preset with such an encoder, or else the
    paper's.

    Args:
        weights: File, folder, "hf://user/name", or name of a published checkpoint, as for `from_preset`: a masked
            autoencoder, an encoder or a classifier; or such a model itself, which is not changed.
        image_shape: Shape of the images, (height, width, channels); the model's by default.
        decoder: Kind of decoder: "self_attention" or "cross_attention".
        new_decoder: Whether the decoder is a new one in any case.
        pixel_range: (low, high), the smallest and the largest pixel; the model's by default.
        dtype: Dtype policy; the model's by default.
        remat: Whether training computes each block again for the backward pass, to save memory.
        say: Function called with a line on what was taken of the model, and what was changed, such as `print`.
        arguments: Other arguments of `MaskedAutoencoder`, such as those of `PretrainRecipe.model_arguments`.

    Raises:
        ValueError: If there is no such model, or an argument does not fit it.

    Example:
        >>> mae = keras_mae.convert.continued("runs/photos-1/model.keras", (96, 192, 3))
    """
    _checks.boolean("new_decoder", new_decoder)
    if say is not None:
        _checks.function("say", say, "a function of a line, or None")
    kind = DECODERS[_checks.one_of("decoder", decoder, DECODERS)]
    loaded = weights
    if not isinstance(weights, MODELS):
        _checks.path("weights", weights, "a model, a path, or the name of a published checkpoint")
        loaded = load(located(weights, published=True)).model
    old = getattr(loaded, "encoder", loaded)
    shape = old.image_shape if image_shape is None else _checks.image_shape(image_shape)
    as_well: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    parts = {**as_well, "remat": _checks.boolean("remat", remat)}
    changes: dict[str, Any] = {} if pixel_range is None else {"pixel_range": pixel_range}
    encoder = old.copy(image_shape=shape, drop_path_rate=0.0, window=None, **changes, **parts)
    whole = not new_decoder and _keeps_decoder(loaded, decoder, shape, arguments)
    made = loaded.decoder.copy(image_shape=shape, **parts) if whole else kind(**_decoder_sizes(old), **parts)
    if say is not None:
        say(", ".join(_taken(old, encoder, whole)))
    return MaskedAutoencoder(encoder, made, **arguments, **as_well)


def _taken(old: ViTEncoder, new: ViTEncoder, whole: bool) -> list[str]:
    """Return what is taken of a model with encoder `old`, and what is changed for encoder `new`."""
    said = ["encoder and decoder" if whole else "the encoder, and a new decoder"]
    if old.grid != new.grid:
        before, after = (f"{rows} x {columns}" for rows, columns in (old.grid, new.grid))
        said.append(f"positions resized from {before} to {after} patches")
    channels = old.image_shape[2], new.image_shape[2]
    if channels[0] != channels[1]:
        said.append(f"channels: {channels[1]} in place of {channels[0]}")
    if old.window is not None:
        said.append("full attention in place of windows")
    return said


def _keeps_decoder(loaded: Any, decoder: str, shape: tuple[int, int, int], arguments: dict[str, Any]) -> bool:
    """Return whether a model's decoder predicts what is asked for."""
    if not isinstance(loaded, MaskedAutoencoder) or loaded.decoder.kind != decoder:
        return False
    plain = (None, "pixels", "normalized")
    return (
        loaded.target_name in plain
        and arguments.get("target") in plain
        and loaded.fuse_blocks == arguments.get("fuse_blocks")
        and loaded.encoder.image_shape[2] == shape[2]
    )


def _decoder_sizes(encoder: ViTEncoder) -> dict[str, Any]:
    """Return the sizes of the decoder of the preset that has such an encoder, none if there is no such preset."""
    sizes = ("embed_dim", "depth", "num_heads")
    for name in presets.names():
        preset = presets.get(name)
        if all(preset.encoder[size] == getattr(encoder, size) for size in sizes):
            return preset.decoder
    return {}
