"""The authors' published checkpoints: their names, addresses and licence. None is shipped with this package."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import keras

ADDRESS = "https://dl.fbaipublicfiles.com/mae"
LICENCE = "CC-BY-NC 4.0 (not for commercial use)"

# Name -> folder at the address, and how the MD5 of the file begins, where the authors say (their README.md and
# FINETUNE.md print six digits).
CHECKPOINTS = {
    # Encoders, pre-trained on normalised pixels.
    "mae_pretrain_vit_base": ("pretrain", "8cad7c"),
    "mae_pretrain_vit_large": ("pretrain", "b8b06e"),
    "mae_pretrain_vit_huge": ("pretrain", "9bdbb0"),
    # Encoders and decoders, normalised pixels.
    "mae_pretrain_vit_base_full": ("pretrain", ""),
    "mae_pretrain_vit_large_full": ("pretrain", ""),
    "mae_pretrain_vit_huge_full": ("pretrain", ""),
    # Encoders and decoders, pixels.
    "mae_visualize_vit_base": ("visualize", ""),
    "mae_visualize_vit_large": ("visualize", ""),
    "mae_visualize_vit_huge": ("visualize", ""),
    "mae_visualize_vit_large_ganloss": ("visualize", ""),
    # Classifiers of ImageNet-1K.
    "mae_finetuned_vit_base": ("finetune", "1b25e9"),
    "mae_finetuned_vit_large": ("finetune", "51f550"),
    "mae_finetuned_vit_huge": ("finetune", "2541f2"),
}


def fetch(name: str) -> Path:
    """The file of a published checkpoint, downloaded on first use.

    A file `NAME.pth` in the working directory, or in `models/keras_mae` of Keras' cache (`~/.keras`), is taken
    instead. Its MD5 must begin as published, where the authors published it.

    Args:
        name: A key of `CHECKPOINTS`.

    Returns:
        The path.

    Raises:
        ValueError: If there is no such checkpoint, it cannot be downloaded, or the file is another one.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"`weights` must be one of {', '.join(CHECKPOINTS)}. Received: weights={name!r}")
    folder, checksum = CHECKPOINTS[name]
    file = f"{name}.pth"
    origin = f"{ADDRESS}/{folder}/{file}"
    warnings.warn(f"The weights {name} are the authors', under {LICENCE}", stacklevel=2)
    path = Path(file)
    if not path.is_file():
        try:
            path = Path(keras.utils.get_file(file, origin, cache_subdir="models/keras_mae"))
        except Exception as error:
            raise ValueError(
                f"Cannot download {origin} ({error}): put the file into the working directory, or into "
                "models/keras_mae of Keras' cache"
            ) from error
    if checksum:
        with path.open("rb") as opened:
            found = hashlib.file_digest(opened, "md5").hexdigest()
        if not found.startswith(checksum):
            raise ValueError(
                f"{str(path)!r} is not the published file: its MD5 begins with {found[:6]}, not with {checksum}. "
                "Remove it to download it again"
            )
    return path
