"""What a detector has learned, and the .npz file that it is kept in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _files, _saving

__all__ = ["Fitted", "checked", "read", "write"]

_VERSION = 1
_SETTINGS = (
    "methods",
    "mask_ratio",
    "partitions",
    "blocks",
    "neighbors",
    "bank_size",
    "quantile",
    "seed",
    "batch_size",
)


@dataclass(frozen=True)
class Fitted:
    """What a detector has learned of normal images.

    Attributes:
        bank: Features of normal patches, float32 (patches, width); `None` without "neighbors".
        of_images: (mean, standard deviation) of the held-out images' scores, by method.
        of_pixels: (mean, standard deviation) of the pixels of their maps, by method.
        threshold: Quantile of the held-out images' mean scores.
        images: Number of normal images.
        held_out: Number of these that were held out.
    """

    bank: np.ndarray | None
    of_images: dict[str, tuple[float, float]]
    of_pixels: dict[str, tuple[float, float]]
    threshold: float
    images: int
    held_out: int


def write(path: Path, fitted: Fitted, settings: dict[str, Any], model: str) -> None:
    """Write a file whole or not at all; `model` is the digest of the model's weights."""
    if path.suffix != ".npz":
        raise _checks.argument_error("path", "a name that ends in .npz", str(path))
    about = {
        "version": _VERSION,
        "settings": settings,
        "model": model,
        "of_images": fitted.of_images,
        "of_pixels": fitted.of_pixels,
        "threshold": fitted.threshold,
        "images": fitted.images,
        "held_out": fitted.held_out,
    }
    arrays: dict[str, Any] = {} if fitted.bank is None else {"bank": fitted.bank}
    with _files.whole(path) as unfinished, _saving.unfailing(unfinished) as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def read(path: Path) -> tuple[Fitted, dict[str, Any], str]:
    """Return what was learned, the detector's settings, and the digest of its model's weights."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            bank = np.asarray(arrays["bank"], "float32") if "bank" in arrays.files else None
        if about["version"] != _VERSION:
            raise ValueError("of another version")
        of_images, of_pixels = (_pairs(about[name]) for name in ("of_images", "of_pixels"))
        numbers = float(about["threshold"]), int(about["images"]), int(about["held_out"])
        settings = {name: about["settings"][name] for name in _SETTINGS}
        return Fitted(bank, of_images, of_pixels, *numbers), settings, str(about["model"])
    except FileNotFoundError:
        raise ValueError(
            f"`path` must be a detector's .npz file. Received: {str(path)!r}, which does not exist"
        ) from None
    except PermissionError:
        raise
    except (OSError, TypeError, AttributeError, *_files.DAMAGED_NPZ) as error:
        rule = "a detector's .npz file, as AnomalyDetector.save writes it"
        received = f"{str(path)!r}, which is something else or damaged"
        raise ValueError(f"`path` must be {rule}. Received: {received}") from error


def _pairs(found: Any) -> dict[str, tuple[float, float]]:
    return {name: (float(mean), float(deviation)) for name, (mean, deviation) in found.items()}


def checked(path: Path, fitted: Fitted, methods: tuple[str, ...], width: int) -> Fitted:
    """Return what was learned, if the parts of the file fit one another."""
    bank = fitted.bank
    fits = bank is None
    if "neighbors" in methods:
        fits = bank is not None and bank.ndim == 2 and bank.shape[1] == width and len(bank) > 0
    if not fits or any(set(found) != set(methods) for found in (fitted.of_images, fitted.of_pixels)):
        raise ValueError(f"{str(path)!r} is damaged: what was learned does not fit the detector's settings")
    return fitted
