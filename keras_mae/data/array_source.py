"""A source over an array in a file, of which only the images of a batch are read."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _terminal, pixels
from keras_mae.data import fingerprints, listings
from keras_mae.data.array_files import files_of, open_array, parsed_name
from keras_mae.data.array_images import numbers_like, pixels_of
from keras_mae.data.crops import Crop
from keras_mae.data.levels import Levels
from keras_mae.data.sizes import check_numbers
from keras_mae.data.sources import Generators, checked_labels, cut
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["ArrayFileSource"]

_LOOKED_AT = 4


class ArrayFileSource:
    """Images in an array in an HDF5, Zarr or .npy file, by index: none is read before it is asked for.

    An HDF5 file or a Zarr store is read fastest where a chunk holds one image. The source can be pickled, and every
    process opens the file for itself.

    Args:
        file: Name of the array: "cells.h5::images", "cells.zarr::images", or a .npy file alone, for an array (images,
            height, width, channels) or (images, height, width), for gray. "cells.h5::images::labels" names the
            labels, too: integers from 0 (images,).
        image_size: Side in pixels of the images that crops of these are resized to, or (height, width); by default
            the images' own.
        channels: Channels that the array must have, or 3 for one of gray images; by default its own.
        class_names: Names of the classes, in the order of the labels; by default the labels as texts.
        pixel_range: (low, high), the smallest and the largest pixel. With (0, 255) these are bytes, or floats in
            0–255; with any other images are float32 in the array's own numbers, and one beyond the range is an error.
        white_level: Number that becomes 255 in unsigned integers of 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image, or chunk, to read, as for `read_image`.

    Raises:
        ValueError: If there is no such file or array, it is damaged, links to another file, holds anything but
            numbers, or these are not images in the range.
        ImportError: If the library that reads the file is missing.
    """

    def __init__(
        self,
        file: str | Path,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        *,
        class_names: Sequence[str] | None = None,
        pixel_range: PixelRange = BYTES,
        white_level: int | None = None,
        max_pixels: int | None = None,
    ):
        self.name = parsed_name(
            _checks.path("file", file, "the name of an array in a file, such as cells.h5::images")
        )
        self.levels = Levels(pixel_range, white_level, max_pixels)
        self._forget()
        array = self._array()
        stored = self._checked_shape(array)
        self._numbers = numbers_like(array.dtype)
        if channels is not None:
            _checks.positive_int("channels", channels)
            if channels != stored[2] and (channels, stored[2]) != (3, 1):
                raise ValueError(
                    f"`channels` must be {stored[2]}, as {self._text} has. Received: channels={channels}"
                )
        size = stored[:2] if image_size is None else _checks.pair("image_size", image_size)
        self.image_shape: tuple[int, int, int] = (*size, stored[2] if channels is None else channels)
        self.sized = self.image_shape == stored
        self._stored_size = stored[:2]
        in_bytes = array.dtype == np.uint8 or white_level is not None
        if not self.levels.own_units and (not in_bytes or array.dtype.kind != "u"):
            pixels.check_dtype(array.dtype.name, self.levels.pixel_range)
            in_bytes = False
        self.dtype = np.dtype("uint8" if in_bytes and not self.levels.own_units else "float32")
        self._length = int(array.shape[0])
        self._look(array)
        self.labels = self._read_labels() if self.name.labels else None
        self.labeled = self.labels is not None
        self.class_names = _class_names.checked(class_names)
        if self.labels is not None and self.class_names is None:
            self.class_names = tuple(str(label) for label in range(int(self.labels.max()) + 1))
        if self.class_names is not None and (self.labels is None or self.labels.max() >= len(self.class_names)):
            raise ValueError(
                f"`class_names` must be one for each label. Received: {len(self.class_names)} names for {self._text}"
            )

    @property
    def _text(self) -> str:
        return repr("::".join(filter(None, (str(self.name.file), self.name.images))))

    # === Opening ===
    def _forget(self) -> None:
        self._opened: tuple[int, Any] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_opened", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def _array(self) -> Any:
        """Return the array, opened in this process: what another one opened is not for its children."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), open_array(self.name, self.name.images, self.levels.max_pixels)
            return self._opened[1]

    def _checked_shape(self, array: Any) -> tuple[int, int, int]:
        shape = tuple(int(side) for side in array.shape)
        if len(shape) not in (3, 4) or not all(shape):
            raise ValueError(
                f"{self._text} must have the shape (images, height, width, channels) and not be empty. "
                f"Received: {shape}"
            )
        stored = (*shape[1:], 1)[:3]
        if len(shape) == 4:
            pixels.check_channels_last(shape)
        size = max(int(np.prod(shape, dtype=object)) * array.dtype.itemsize, 1)
        check_numbers(stored, array.dtype.itemsize, size, self.levels.max_pixels, f"an image in {self._text} has")
        return stored[0], stored[1], stored[2]

    def _look(self, array: Any) -> None:
        """Raise an error if a few images, spread over all, are not in the range that they should have."""
        indices = sorted({number * (self._length - 1) // (_LOOKED_AT - 1) for number in range(_LOOKED_AT)})
        ends = [(image.min(), image.max()) for image in map(self._image, indices)]
        if self.dtype == np.float32:
            low, high = (float(end) for end in (min(low for low, _ in ends), max(high for _, high in ends)))
            pixels.check_extremes(low, high, array.dtype.name, self.levels.pixel_range)

    def _read_labels(self) -> np.ndarray:
        array = open_array(self.name, self.name.labels, self.levels.max_pixels)
        if array.shape not in ((self._length,), (self._length, 1)) or array.dtype.kind not in "ui":
            raise ValueError(
                f"Labels of {self._text} must be integers from 0, one for each of its {self._length:,} images. "
                f"Received: {self.name.labels!r} of shape {array.shape}, {array.dtype}"
            )
        return checked_labels(array[:], self._length)

    # === What a source has ===
    def __len__(self) -> int:
        return self._length

    def names(self, indices: Any) -> list[str]:
        """Return the names of the images at `indices`: "images[12]"."""
        return [f"{self.name.images or self.name.file.name}[{int(index)}]" for index in indices]

    def sizes(self, indices: Any) -> list[tuple[int, int]]:
        """Return (height, width) of the images at `indices`, as they are in the array: all have the same."""
        return [self._stored_size for _ in indices]

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        known = fingerprints.of_files(list(files_of(self.name.file)), self.name.file.parent)
        return {
            "kind": "array file",
            "array": self.name.images,
            **known,
            **fingerprints.of_labels(self.labels),
        }

    def listing(self) -> dict[str, list[int]] | None:
        """Return size and time of each file by its path; `None` of very many files."""
        return listings.of_paths(list(files_of(self.name.file)), self.name.file.parent)

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices]
        images = (self._image(int(index)) for index in indices)
        if self.sized and crop is None:
            return np.stack(list(images)), labels
        return cut(images, indices, self.image_shape, crop, generators, self.levels), labels

    def _image(self, index: int) -> np.ndarray:
        """Return an image as pixels, (height, width, channels)."""
        index = range(self._length)[index]
        try:
            values = np.asarray(self._array()[index])
        except Exception as error:
            reason = _terminal.printable(" ".join(str(error).split()))
            raise ValueError(f"Cannot read image {index} of {self._text}: {reason}") from error
        values = values[..., None] if values.ndim == 2 else values
        if self.levels.own_units or self.dtype == np.uint8:
            try:
                return pixels_of(values, self._numbers, self.levels)
            except ValueError as error:
                raise ValueError(f"Cannot read image {index} of {self._text}: {error}") from error
        low, high = values.min(), values.max()
        if not 0 <= low <= high <= 255:  # NaN is not
            raise ValueError(
                f"Images must be finite and in 0-255. Received: image {index} of {self._text} with values from "
                f"{low:.4g} to {high:.4g}"
            )
        return values.astype("float32")
