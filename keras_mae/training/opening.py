"""What the name of a data set, or a folder, is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras_mae import _checks
from keras_mae.data import BUILTIN, CLASS_NAMES, ArraySource, Stream, load_builtin, open_directory
from keras_mae.data.levels import Levels
from keras_mae.data.sources import Source
from keras_mae.pixels import PixelRange

__all__ = ["checked_levels", "labeled_source", "named_or_path"]


def named_or_path(data: Any) -> str | Path:
    """Return the name of a built-in data set, or a path."""
    rule = f"{', '.join(BUILTIN)} or an existing folder of images"
    path = _checks.path("data", data, rule)
    return str(data) if str(data) in BUILTIN and isinstance(data, str) else path


def checked_levels(
    data: str | Path, pixel_range: PixelRange, white_level: int | None, max_pixels: int | None
) -> Levels:
    """Return the levels of a folder's images; built-in ones have levels of their own."""
    levels = Levels(pixel_range, white_level, max_pixels)
    if data in BUILTIN and levels != Levels(max_pixels=max_pixels):
        raise ValueError(
            f"{data} has images of 0-255. Received: pixel_range={levels.pixel_range}, white_level={white_level}"
        )
    return levels


def labeled_source(
    data: str | Path,
    split: str,
    image_shape: tuple[int, int, int],
    levels: Levels,
    class_names: tuple[str, ...] | None = None,
) -> Source:
    """Return labeled images by index; only built-in data sets have a split, and only folders other class names."""
    image_shape = _checks.image_shape(image_shape)
    if data in BUILTIN:
        source = ArraySource(*load_builtin(str(data), split), class_names=CLASS_NAMES[str(data)])
        if source.image_shape != tuple(image_shape):
            raise ValueError(f"{data} has images of {source.image_shape}. Received: a model for {image_shape}")
        return source
    folder = open_directory(
        data,
        image_shape[:2],
        image_shape[2],
        labeled=True,
        class_names=class_names,
        pixel_range=levels.pixel_range,
        white_level=levels.white_level,
        max_pixels=levels.max_pixels,
    )
    if isinstance(folder, Stream):
        raise ValueError(
            f"This takes images by index. Received: {str(data)!r}, prepared as TFRecord: prepare it as ArrayRecord "
            "(--format array_record)"
        )
    return folder
