"""Where models are: files and folders, the Hugging Face Hub, and the checkpoints that the authors published.

None of the published checkpoints is shipped with this package: here are their names, addresses and license.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import keras

from keras_mae import _checks, presets
from keras_mae._optional import require

__all__ = ["PUBLISHED", "fetch", "located"]

HUB = "hf://"
ADDRESS = "https://dl.fbaipublicfiles.com/mae"
LICENSE = "CC-BY-NC 4.0 (not for commercial use)"

# Name -> folder at the address, and how the MD5 of the file begins, where the authors say (their README.md and
# FINETUNE.md print six digits).
PUBLISHED = {
    # Encoders, pre-trained on normalized pixels.
    "mae_pretrain_vit_base": ("pretrain", "8cad7c"),
    "mae_pretrain_vit_large": ("pretrain", "b8b06e"),
    "mae_pretrain_vit_huge": ("pretrain", "9bdbb0"),
    # Encoders and decoders, normalized pixels.
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


def located(preset: str | Path, *, published: bool = False) -> Path:
    """Return where a preset is on this machine, once it is downloaded if need be.

    Args:
        preset: A file, a folder, or "hf://user/name" on the Hugging Face Hub.
        published: Whether it may be the name of a published checkpoint.

    Raises:
        ValueError: If there is none.
    """
    if str(preset).startswith(HUB):
        return download(str(preset))
    path = Path(preset)
    if path.exists():
        return path
    if published and not path.suffix:
        return fetch(str(preset))
    if published or path.suffix:
        raise ValueError(f"There is no file or folder {str(preset)!r}")
    raise _checks.argument_error(
        "preset", f"one of {', '.join(presets.names())}, a folder, a file or {HUB}user/name", str(preset)
    )


def download(address: str) -> Path:
    """Return the folder of a repository on the Hub, or its copy in the cache.

    Args:
        address: "hf://user/name".

    Raises:
        ValueError: If it cannot be had.
    """
    hub, name = require("huggingface_hub", "Loading from the Hugging Face Hub"), address.removeprefix(HUB)
    weights = ["*.weights.h5", "model*.safetensors", "model.safetensors.index.json"]
    try:
        folder = Path(hub.snapshot_download(name, allow_patterns=["*.json", *weights]))
        if not any(path for pattern in weights for path in folder.glob(pattern)):
            folder = Path(hub.snapshot_download(name, allow_patterns=["*.json", "pytorch_model*.bin*"]))
    except Exception as error:
        raise ValueError(f"Cannot get {address}: {str(error).strip().splitlines()[0]}") from error
    return folder


def fetch(name: str) -> Path:
    """Return the file of a published checkpoint, downloaded on first use.

    A file `NAME.pth` in the working directory, or in `models/keras_mae` of Keras' cache (`~/.keras`), is taken
    instead. Its MD5 must begin as published, where the authors published it.

    Args:
        name: A key of `PUBLISHED`.

    Returns:
        The path.

    Raises:
        ValueError: If there is no such checkpoint, it cannot be downloaded, or the file is another one.
    """
    if not isinstance(name, str) or name not in PUBLISHED:
        raise ValueError(f"`weights` must be one of {', '.join(PUBLISHED)}. Received: weights={name!r}")
    folder, checksum = PUBLISHED[name]
    file = f"{name}.pth"
    origin = f"{ADDRESS}/{folder}/{file}"
    warnings.warn(f"The weights {name} are the authors', under {LICENSE}", stacklevel=2)
    path = Path(file)
    if not path.is_file():
        try:
            path = Path(keras.utils.get_file(file, origin, cache_subdir="models/keras_mae"))
        except Exception as error:
            raise ValueError(
                f"Cannot download {origin} ({error}): put the file into the working directory, or into "
                "models/keras_mae of Keras' cache"
            ) from error
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "md5").hexdigest()
    if not digest.startswith(checksum):
        raise ValueError(
            f"{str(path)!r} is not the published file: its MD5 begins with {digest[:6]}, not with {checksum}. "
            "Remove it to download it again"
        )
    return path
