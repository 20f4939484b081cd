"""Mean, deviation and range of images, for an encoder that is to take them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, pixels
from keras_mae.data.array_files import is_array_name, open_array, parsed_name
from keras_mae.data.images import read_image, upright_size
from keras_mae.data.sources import FolderSource, Source

__all__ = ["PixelStatistics", "pixel_statistics"]

_CHUNK = 1 << 22
"""Numbers that are in memory at a time, as float64, from an array or a source."""
_ANY = (float(np.finfo("float32").min), float(np.finfo("float32").max))
"""Range that holds every number that is finite."""
_FILES = 16
"""Images of a folder that are in memory at a time."""


@dataclass(frozen=True)
class PixelStatistics:
    """What `pixel_statistics` measured; the fields are arguments of `ViTEncoder` and have their names.

    Attributes:
        pixel_mean: Mean of every channel.
        pixel_std: Standard deviation of every channel, over all pixels of all images.
        pixel_range: (smallest, largest) value of all; (0, 255) for bytes, whatever is in them.
    """

    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    pixel_range: tuple[float, float]


def pixel_statistics(source: Any, *, channels: int = 3, own_units: bool = False) -> PixelStatistics:
    """Measure mean and deviation by channel, and the range, without loading all images at once.

    The sums are float64, so that the result does not depend on the number of images.

    Args:
        source: A folder of images, all of whose pixels count, each image in its own size; an array (images, height,
            width, channels) or (images, height, width), or the name of one in a file, such as "scans.npy" or
            "cells.h5::images"; or a source of `keras_mae.data`, such as an `ArraySource`.
        channels: Channels to read a folder's images in, as for `FolderSource`.
        own_units: Whether a folder's files are measured in their own numbers, as any `pixel_range` but (0, 255) reads
            them; arrays always are.

    Returns:
        A `PixelStatistics`.

    Raises:
        ValueError: If there are no images, or pixels are not finite.

    Example:
        >>> measured = keras_mae.data.pixel_statistics(np.full((2, 8, 8, 1), [[[0.25], [0.75]] * 4] * 8, "float32"))
        >>> measured
        PixelStatistics(pixel_mean=(0.5,), pixel_std=(0.25,), pixel_range=(0.25, 0.75))
        >>> encoder = keras_mae.ViTEncoder(
        ...     (8, 8, 1), patch_size=4, embed_dim=64, depth=2, num_heads=4, **dataclasses.asdict(measured)
        ... )
    """
    _checks.positive_int("channels", channels)
    _checks.boolean("own_units", own_units)
    rule = "a folder, or an array of numbers (images, height, width, channels)"
    if isinstance(source, str | Path):
        path = _checks.path("source", source, "a folder, a .npy file or an array of images")
        units: Any = {"pixel_range": _ANY} if own_units else {}
        source = _in_file(path) if is_array_name(path) else FolderSource(path, channels=channels, **units)
    elif not hasattr(source, "batch") and not isinstance(source, np.ndarray):
        source = _checks.array("source", source, rule)
    if isinstance(source, FolderSource):
        return _Sums.of(_each_file(source)).result(source.dtype.name)
    if hasattr(source, "batch"):
        return _Sums.of(_parts(source)).result(source.dtype.name)
    shape = (*source.shape, 1) if len(source.shape) == 3 else tuple(source.shape)
    if len(shape) != 4 or not all(shape):
        raise ValueError(
            "`source` must be a folder, or an array (images, height, width, channels) that is not empty. "
            f"Received: source.shape={shape}"
        )
    if source.dtype.kind not in "uifb":
        raise _checks.argument_error("source", "an array of numbers", source.dtype.name)
    pixels.check_channels_last(shape)
    step = max(1, _CHUNK // int(np.prod(shape[1:])))
    starts = range(0, shape[0], step)
    parts = (np.asarray(source[start : start + step]).reshape(-1, *shape[1:]) for start in starts)
    return _Sums.of(parts).result(source.dtype.name)


def _in_file(path: Path) -> Any:
    """Return an array in a file, of which nothing is read yet."""
    name = parsed_name(path)
    return open_array(name, name.images)


def _each_file(folder: FolderSource) -> Iterator[np.ndarray]:
    """Yield the images of a folder, whole and upright, decoded side by side."""

    def read(path: Path) -> np.ndarray:
        levels = folder.levels
        shape = (*upright_size(path, levels.max_pixels), folder.image_shape[2])
        return read_image(
            path,
            shape,
            pixel_range=levels.pixel_range,
            white_level=levels.white_level,
            max_pixels=levels.max_pixels,
        )

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(folder.paths), _FILES):
            yield from pool.map(read, folder.paths[start : start + _FILES])


def _parts(source: Source) -> Iterator[np.ndarray]:
    """Yield a source's images, as many as fit in memory."""
    step = max(1, _CHUNK // int(np.prod(source.image_shape)))
    for start in range(0, len(source), step):
        yield source.batch(np.arange(start, min(start + step, len(source))))[0]


class _Sums:
    """Sums over pixels by channel, of their distance from the first pixels' mean: nothing large cancels."""

    def __init__(self, part: np.ndarray):
        self.origin = self._flat(part).mean(axis=0)
        self.count, self.first, self.second = 0, 0.0, 0.0
        self.low, self.high = np.inf, -np.inf

    @classmethod
    def of(cls, parts: Iterator[np.ndarray]) -> _Sums:
        sums = None
        for part in parts:
            sums = sums or cls(part)
            sums.add(part)
        if sums is None:
            raise ValueError("`source` must hold at least one image. Received: none")
        return sums

    @staticmethod
    def _flat(part: np.ndarray) -> np.ndarray:
        return part.reshape(-1, part.shape[-1]).astype("float64")

    def add(self, part: np.ndarray) -> None:
        values = self._flat(part)
        low, high = values.min(), values.max()
        if not np.isfinite([low, high]).all():
            raise ValueError("`source` must be finite. Received: NaN or infinite pixels")
        self.low, self.high = min(self.low, low), max(self.high, high)
        values -= self.origin
        self.count += len(values)
        self.first = self.first + values.sum(axis=0)
        self.second = self.second + np.square(values).sum(axis=0)

    def result(self, dtype: str) -> PixelStatistics:
        shift = self.first / self.count
        std = np.sqrt(np.maximum(self.second / self.count - np.square(shift), 0))
        ends = pixels.BYTES if dtype == "uint8" else (float(self.low), float(self.high))
        return PixelStatistics(tuple((self.origin + shift).tolist()), tuple(std.tolist()), ends)
