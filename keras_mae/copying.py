"""Copies of a masked autoencoder: its parts with their weights, for other images."""

from __future__ import annotations

from typing import Any

from keras_mae import _checks

__all__ = ["copied_parts"]

_OWN = ("masking", "masks_per_image", "predict_ratio", "seed", "name")
_OF_PARTS = ("image_shape", "dtype")


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
            "A copy may differ in `masking`, `masks_per_image`, `predict_ratio`, `seed`, `drop_path_rate`, `name`, "
            "`dtype` and the height and width of `image_shape`, not in what its weights depend on. For other "
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
