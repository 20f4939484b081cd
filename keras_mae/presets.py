"""Architectures by name: data only.

Base, large and huge have the published sizes; tiny and small the encoders of DeiT with a decoder to match;
micro and the patch-2 and patch-4 presets are this package's own, for small images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_mae import _checks

__all__ = ["Preset", "get", "names"]

ENCODER_ARGUMENTS = (
    "image_shape",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "drop_path_rate",
    "layer_norm_eps",
    "pixel_mean",
    "pixel_std",
    "pixel_range",
    "class_tokens",
    "window",
    "global_blocks",
    "remat",
)


@dataclass(frozen=True)
class Preset:
    """Arguments of `ViTEncoder` and `MAEDecoder`."""

    encoder: dict[str, Any]
    decoder: dict[str, Any]


_WIDTHS = {  # embed_dim, depth, num_heads
    "micro": (96, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
_DECODERS = {
    "micro": (64, 2, 4),
    "tiny": (128, 4, 4),
    "small": (256, 4, 8),
    "base": (512, 8, 16),
    "large": (512, 8, 16),
    "huge": (512, 8, 16),
}
_INPUTS = {  # image_shape, patch_size
    "mae_vit_micro_patch2_8": ((8, 8, 1), 2),
    "mae_vit_micro_patch4_28": ((28, 28, 1), 4),
    "mae_vit_micro_patch4_32": ((32, 32, 3), 4),
    "mae_vit_tiny_patch2_28": ((28, 28, 1), 2),
    "mae_vit_tiny_patch4_32": ((32, 32, 3), 4),
    "mae_vit_tiny_patch16_224": ((224, 224, 3), 16),
    "mae_vit_small_patch8_96": ((96, 96, 3), 8),
    "mae_vit_small_patch16_224": ((224, 224, 3), 16),
    "mae_vit_base_patch16_224": ((224, 224, 3), 16),
    "mae_vit_large_patch16_224": ((224, 224, 3), 16),
    "mae_vit_huge_patch14_224": ((224, 224, 3), 14),
}


def names() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(_INPUTS)


def get(name: str) -> Preset:
    """Return the preset `name`.

    Raises:
        ValueError: If there is none; the message lists them all.
    """
    _checks.one_of("preset", name, names())
    size = name.split("_")[2]
    image_shape, patch_size = _INPUTS[name]
    keys = ("embed_dim", "depth", "num_heads")
    encoder = dict(zip(keys, _WIDTHS[size], strict=True))
    return Preset(
        {"image_shape": image_shape, "patch_size": patch_size, **encoder},
        dict(zip(keys, _DECODERS[size], strict=True)),
    )
