"""What the images of a folder are like, by a look at some of them: sizes, channels, and what their numbers mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data import images as image_files
from keras_mae.data import tiff
from keras_mae.data.array_files import is_array_name, open_array, parsed_name
from keras_mae.data.array_images import ArrayImage, checked_shape, numbers_like
from keras_mae.data.crops import CenterCrop
from keras_mae.data.folders import look_into
from keras_mae.data.levels import EIGHT_BITS, Levels, Numbers, numbers_of
from keras_mae.data.manifests import read_manifest
from keras_mae.data.opening import named_errors
from keras_mae.data.records import IMAGE, RecordSource
from keras_mae.data.sizes import room
from keras_mae.data.tfrecords import first_images
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["Survey", "survey"]

LOOKED_AT = 64
"""Images of a folder that are looked at."""
_ALIKE = 4  # gray levels between the channels of a gray picture, which JPEG moves a little
_ROUNDED = 3  # digits of a measured range


@dataclass(frozen=True)
class Look:
    """What one image is like.

    Attributes:
        size: (height, width), upright.
        channels: Number of channels to read it in.
        numbers: What its numbers are.
        low: Smallest of them, where they are more than 8 bits.
        high: Largest of them, where they are more than 8 bits.
        is_array: Whether it is one of a file of arrays, and no picture.
    """

    size: tuple[int, int]
    channels: int
    numbers: Numbers
    low: float = 0.0
    high: float = 255.0
    is_array: bool = False


@dataclass(frozen=True)
class Survey:
    """What the images of a folder are like; `survey` finds it.

    Attributes:
        images: Number of images.
        sizes: (height, width) of those that were looked at, upright.
        channels: Number of channels to read them in: 1 for gray, 3 for colors, or their bands.
        pixel_range: Range to read them in, as for `read_image`.
        white_level: Number to take for white, as for `read_image`, if one should be stated.
        numbers: What their numbers are, in words.
        measured: Where range and white level come from, in words; "" for the usual ones.
    """

    images: int
    sizes: tuple[tuple[int, int], ...]
    channels: int
    pixel_range: PixelRange = BYTES
    white_level: int | None = None
    numbers: str = "8-bit integers"
    measured: str = ""

    @property
    def short_side(self) -> int:
        """Pixels of the short side of an image, the median of those that were looked at."""
        return int(np.median([min(size) for size in self.sizes]))

    @property
    def one_size(self) -> tuple[int, int] | None:
        """The size (height, width) of all images that were looked at, or `None` if they have several."""
        return self.sizes[0] if len(set(self.sizes)) == 1 else None

    def __str__(self) -> str:
        """Return it in one line."""
        looked = "" if len(self.sizes) == self.images else f" ({len(self.sizes)} looked at)"
        sides = [sorted(size[axis] for size in self.sizes) for axis in (0, 1)]
        size = " x ".join(f"{side[0]}" if side[0] == side[-1] else f"{side[0]} to {side[-1]}" for side in sides)
        channels = {1: "gray", 3: "colors"}.get(self.channels, f"{self.channels} channels")
        return f"{self.images:,} images{looked} of {size} pixels, {channels}, {self.numbers}"


def survey(
    data: str | Path,
    *,
    channels: int | None = None,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange | None = None,
    white_level: int | None = None,
    max_pixels: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look at up to 64 images, spread over all, and say what they are like and how to read them.

    Pictures that are all gray are to be read in one channel. Grays of 9 to 16 bits get a white level by the largest
    number that was seen: what is brighter becomes white. Signed or 32-bit integers and floats, and files of arrays
    of more than 8 bits, are to be read in their own numbers: these are then measured in all images, since one beyond
    the range would be an error.

    Args:
        data: A folder of images, flat or nested, or from `keras-mae prepare`; or an array in a file, such as
            "cells.h5::images".
        channels: Number of channels, where it is known.
        allow_damaged: Largest share of damaged images that is left out without an error; above 0 damaged ones are
            not looked at.
        pixel_range: Range, where it is known; nothing is measured then.
        white_level: White level, where it is known.
        max_pixels: Pixels of the largest image to read, as for `read_image`.
        progress: Function called with (images measured, of how many) where all are.

    Raises:
        ValueError: If there are no images, or one of those that were looked at cannot be read.

    Example:
        >>> print(keras_mae.data.survey("photos/"))
        1,250 images (64 looked at) of 480 to 3456 x 640 to 5184 pixels, colors, 8-bit integers
    """
    _checks.path("data", data, "a folder of images, or an array in a file, such as cells.h5::images")
    _checks.optional(_checks.positive_int, "channels", channels)
    _checks.within("allow_damaged", allow_damaged, 1)
    if progress is not None:
        _checks.function("progress", progress, "a function of two counts, or None")
    levels = Levels(BYTES if pixel_range is None else pixel_range, white_level, max_pixels)
    known = pixel_range is not None or white_level is not None
    images: _Array | _Files | _Records
    if is_array_name(data):
        images = _Array(data, levels)
    elif (manifest := read_manifest(data) if Path(data).is_dir() else None) is None:
        images = _Files(Path(data), levels, skips=allow_damaged > 0)
    else:
        images, known = _Records(Path(data), manifest, levels), True
        levels = Levels(tuple(manifest.get("pixel_range") or levels.pixel_range), max_pixels=max_pixels)
    looks = images.some()
    if not looks:
        raise ValueError(f"None of the images that were looked at in {str(data)!r} can be read")
    found, measured = (levels.pixel_range, levels.white_level), ""
    if not known:
        found, measured = _how_to_read(looks, lambda: images.ends(progress))
    return Survey(
        images=len(images),
        sizes=tuple(look.size for look in looks),
        channels=max(look.channels for look in looks) if channels is None else channels,
        pixel_range=found[0],
        white_level=found[1],
        numbers=", ".join(dict.fromkeys(look.numbers.name for look in looks)),
        measured=measured,
    )


# === How to read them ===
def _how_to_read(
    looks: Sequence[Look], ends: Callable[[], tuple[float, float]]
) -> tuple[tuple[PixelRange, int | None], str]:
    """Return range and white level, and where they come from."""
    deep = [look for look in looks if look.numbers.deep]
    if not deep or any(look.numbers.reduced for look in looks):
        return (BYTES, None), ""
    if any(look.numbers.white is None or look.is_array for look in deep):
        low, high = ends()
        return (_rounded(low, high, integers=all("int" in look.numbers.dtype for look in deep)), None), (
            f"all images hold {low:.6g} to {high:.6g}"
        )
    high = max(look.high for look in deep)
    white = 2 ** max(int(high).bit_length(), 8) - 1
    if white >= min(look.numbers.white or white for look in deep):
        return (BYTES, None), ""
    return (BYTES, white), f"the largest number seen is {high:.6g}"


def _rounded(low: float, high: float, integers: bool) -> PixelRange:
    """Return a range that holds what was measured, in ends that are round and may be met by other images, too."""
    if integers and low >= 0:
        return 0.0, float(2 ** max(int(high).bit_length(), 8) - 1)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    step = 10.0 ** (np.floor(np.log10(max(high - low, abs(low), abs(high), 1e-30))) + 1 - _ROUNDED)
    bottom, top = np.floor(low / step), np.ceil(high / step)
    ends = (float(f"{bottom * step:.10g}"), float(f"{max(top, bottom + 1) * step:.10g}"))
    return min(ends[0], low), max(ends[1], high)


# === Where they are ===
class _Files:
    """Image files in a folder.

    Args:
        folder: The folder.
        levels: What becomes of their numbers.
        skips: Whether damaged files are passed over.
    """

    def __init__(self, folder: Path, levels: Levels, skips: bool):
        self.paths, self.levels, self.skips = look_into(folder).paths, levels, skips

    def __len__(self) -> int:
        return len(self.paths)

    def some(self) -> list[Look]:
        """Return looks at some of them."""
        return [look for look in self._looks([self.paths[index] for index in spread(len(self))]) if look is not None]

    def ends(self, progress: Callable[[int, int], None] | None) -> tuple[float, float]:
        """Return the smallest and the largest number of all."""
        low, high = np.inf, -np.inf
        for number, look in enumerate(self._looks(self.paths)):
            if look is not None:
                low, high = min(low, look.low), max(high, look.high)
            if progress is not None:
                progress(number + 1, len(self))
        return low, high

    def _looks(self, paths: Sequence[Path]) -> Iterator[Look | None]:
        def look(path: Path) -> Look | None:
            try:
                return look_at(path, str(path), self.levels)
            except ValueError:
                if self.skips:
                    return None
                raise

        with ThreadPoolExecutor() as pool:
            yield from pool.map(look, paths)


class _Records:
    """Images in a folder that `prepare` wrote, whose manifest says how they are read.

    Args:
        folder: The folder.
        manifest: What its manifest says.
        levels: What becomes of their numbers.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], levels: Levels):
        self.files = [folder / shard["file"] for shard in manifest["shards"]]
        self.manifest, self.levels = manifest, levels

    def __len__(self) -> int:
        return int(self.manifest["images"])

    def some(self) -> list[Look]:
        """Return looks at some of them: of TFRecord files, which are read from front to back, at the first."""
        if self.manifest["format"] == "array_record":
            source = RecordSource(self.files, max_pixels=self.levels.max_pixels)
            images = source.encoded(spread(len(source)))
        else:
            images = first_images(self.files, LOOKED_AT, IMAGE)
        return [look_at(image, f"number {number}", self.levels) for number, image in enumerate(images)]

    def ends(self, progress: Callable[[int, int], None] | None) -> tuple[float, float]:
        """Return the range that the manifest says."""
        low, high = self.manifest.get("pixel_range") or BYTES
        return float(low), float(high)


class _Array:
    """Images in an array in a file.

    Args:
        data: Name of the array.
        levels: What becomes of their numbers.
    """

    def __init__(self, data: str | Path, levels: Levels):
        name = parsed_name(data)
        self.array = open_array(name, name.images, levels.max_pixels)
        shape = tuple(int(side) for side in self.array.shape)
        if len(shape) not in (3, 4) or not all(shape):
            raise ValueError(
                f"{str(data)!r} must have the shape (images, height, width, channels) and not be empty. "
                f"Received: {shape}"
            )
        self.shape, self.numbers = checked_shape(shape[1:]), numbers_like(self.array.dtype)

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def some(self) -> list[Look]:
        """Return looks at some of them."""
        return [self._look(int(index)) for index in spread(len(self))]

    def ends(self, progress: Callable[[int, int], None] | None) -> tuple[float, float]:
        """Return the smallest and the largest number of all."""
        low, high = np.inf, -np.inf
        for index in range(len(self)):
            look = self._look(index)
            low, high = min(low, look.low), max(high, look.high)
            if progress is not None:
                progress(index + 1, len(self))
        return low, high

    def _look(self, index: int) -> Look:
        return _look_at_numbers(np.asarray(self.array[index]), self.shape, self.numbers, f"image {index}")


def spread(count: int) -> np.ndarray:
    """Return indices of images to look at, evenly over so many."""
    return np.unique(np.linspace(0, count - 1, LOOKED_AT).round().astype("int64"))


# === One of them ===
def look_at(image: Path | bytes, name: str, levels: Levels) -> Look:
    """Return what an image file, or its bytes, is like.

    Raises:
        ValueError: If it cannot be read; the message names it.
    """
    with named_errors(image, name), image_files.open_image(image, None, levels, check=False) as file:
        is_tiff = getattr(file, "format", "") == "TIFF"
        bands = tiff.named_channels(file) if is_tiff else 1
        if bands > 1:
            file.close()
            file = tiff.open_tiff(image, bands, levels)
        if isinstance(file, ArrayImage):
            with room(file.size):
                return _look_at_numbers(file.read(), file.shape, file.numbers, name)
        numbers = numbers_of(file)
        unnamed = is_tiff and tiff.has_unnamed_band(file)
        if numbers.deep:
            with room(file.size):
                values = numbers.of(file)
            size = _upright(file)
            return Look(size, 1, numbers, *_ends(values, name))
    box: list[tuple[int, int]] = []

    def center(width: int, height: int, size: tuple[int, int], generator: np.random.Generator) -> Any:
        box.append((height, width))
        return CenterCrop()(width, height, size, generator)

    small = image_files.views(image, name, (32, 32, 3), center, [np.random.default_rng(0)], EIGHT_BITS)[0]
    colors = int(np.ptp(small.astype("int16"), axis=-1).max()) > _ALIKE
    return Look(box[0], 4 if unnamed else 3 if colors else 1, numbers)


def _upright(file: Any) -> tuple[int, int]:
    """Return (height, width) of a picture that is decoded."""
    turned = file.format != "TIFF" and file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    width, height = file.size
    return (width, height) if turned else (height, width)


def _look_at_numbers(values: np.ndarray, shape: tuple[int, int, int], numbers: Numbers, name: str) -> Look:
    low, high = _ends(values, name)
    return Look(shape[:2], shape[2], numbers, low, high, is_array=True)


def _ends(values: np.ndarray, name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"Images must be finite. Received: NaN or infinite pixels in {name}")
    return low, high
