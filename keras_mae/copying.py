"""Copies of an encoder and of a masked autoencoder: with their weights, for other images."""

from __future__ import annotations

from typing import Any

from keras import ops

from keras_mae import _checks, pixels
from keras_mae.patches import mix_channels
from keras_mae.positions import resize_positions

__all__ = ["copied_encoder", "copied_parts"]

_OF_ENCODER = (
    "image_shape",
    "drop_path_rate",
    "pixel_range",
    "window",
    "global_blocks",
    "remat",
    "seed",
    "name",
    "dtype",
)
_OWN = ("masking", "masks_per_image", "predict_ratio", "seed", "name")
_OF_PARTS = ("image_shape", "remat", "dtype")


def copied_encoder(encoder: Any, changes: dict[str, Any]) -> Any:
    """Return an encoder that has the weights of another one and differs in `changes`; see `ViTEncoder.copy`.

    Args:
        encoder: A `ViTEncoder`.
        changes: Arguments of its `copy`.

    Raises:
        ValueError: If its weights depend on one of them.
    """
    image_shape = _checks.image_shape(changes.get("image_shape", encoder.image_shape))
    other_channels = image_shape[2] != encoder.image_shape[2]
    allowed = {*_OF_ENCODER, "final_norm", *(("pixel_mean", "pixel_std") if other_channels else ())}
    if set(changes) - allowed or changes.get("final_norm", encoder.final_norm) not in (False, encoder.final_norm):
        raise ValueError(
            f"A copy may differ in {', '.join(f'`{name}`' for name in _OF_ENCODER)}, and lack the final norm; with "
            "another number of channels also in `pixel_mean` and `pixel_std`; not in what its weights depend on. "
            f"Received: {changes}"
        )
    pixel_range = changes.get("pixel_range", encoder.pixel_range)
    mean, std = pixels.rescaled(encoder.pixel_mean, encoder.pixel_std, encoder.pixel_range, pixel_range)
    fitting: dict[str, Any] = {"pixel_mean": mean, "pixel_std": std}
    if other_channels:
        share = mix_channels(encoder.image_shape[2], image_shape[2])
        share = share / share.sum(axis=0)
        fitting = {name: values @ share for name, values in fitting.items()}
    if changes.get("window", encoder.window) is None:
        fitting["global_blocks"] = None
    copied = type(encoder).from_config({**encoder.get_config(), **fitting, **changes})
    kept = encoder.weights
    if not copied.final_norm and encoder.norm is not None:
        kept = [weight for weight in kept if not any(weight is own for own in encoder.norm.weights)]
    for new, old in zip(copied.weights, kept, strict=True):
        if other_channels and any(old is own for own in encoder.patch_embedding.weights):
            continue
        value = ops.convert_to_numpy(old)
        if old is encoder.position_embedding:
            value = resize_positions(value, encoder.grid, copied.grid)
        new.assign(value)
    if other_channels:
        copied.patch_embedding.load_from(encoder.patch_embedding)
    return copied


def copied_parts(mae: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `MaskedAutoencoder` that has the weights of another one and differs in `changes`.

    Args:
        mae: A `MaskedAutoencoder`.
        changes: Arguments of its `copy`.

    Raises:
        ValueError: If its weights depend on one of them.
    """
    of_encoder = {name: changes[name] for name in (*_OF_PARTS, "drop_path_rate") if name in changes}
    own = {name: changes[name] for name in _OWN if name in changes}
    old = mae.encoder.image_shape
    shape = _checks.image_shape(changes.get("image_shape", old))
    if len(of_encoder) + len(own) < len(changes) or shape[2] != old[2]:
        raise ValueError(
            "A copy may differ in `masking`, `masks_per_image`, `predict_ratio`, `seed`, `drop_path_rate`, `remat`, "
            "`name`, `dtype` and the height and width of `image_shape`, not in what its weights depend on. For other "
            f"channels, give `encoder.copy(image_shape=...)` a new decoder. Received: {changes}, where "
            f"image_shape={old}"
        )
    encoder = mae.encoder.copy(**of_encoder)
    decoder = mae.decoder.copy(**{name: changes[name] for name in _OF_PARTS if name in changes})
    masking = type(mae.masking).from_config(mae.masking.get_config())
    dtype = {"dtype": encoder.dtype_policy} if "dtype" in changes else {}
    # A target has nothing that training changes.
    parts = {"encoder": encoder, "decoder": decoder, "masking": masking, "target": mae.target}
    return {**mae.get_config(), **parts, **dtype, **own}
