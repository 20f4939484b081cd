"""From an image file, its bytes or an array to pixels: upright, in the wanted channels, cut and resized."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data import fast
from keras_mae.data.array_images import ArrayImage, pixels_of
from keras_mae.data.crops import Box, CenterCrop, Crop
from keras_mae.data.levels import EIGHT_BITS, Levels, Numbers, check_range, numbers_of, refuse
from keras_mae.data.opening import MODES, extensions, named_errors, open_file, open_image, pillow
from keras_mae.data.sizes import room
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["MODES", "as_array", "brightest", "check_header", "decoded", "extensions", "is_deep", "open_file"]
__all__ += ["open_image", "pillow", "read_image", "resized", "upright_size", "views"]

_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, height and width change places
_DRAFTED = ("JPEG", "MPO")  # can be decoded at reduced size


def read_image(
    file: str | Path | bytes,
    image_shape: tuple[int, int, int],
    crop: Crop | None = None,
    *,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Read one image file, or its content, as an array of `image_shape`.

    It is turned upright as its EXIF data say. A file of several images, such as an animation or a TIFF file of many
    pages, gives its first; transparent images are laid on white where 1 or 3 channels are asked for.

    Args:
        file: Path of the file, or its bytes.
        image_shape: Height, width and channels of the result. 1, 3 or 4 channels are made of a picture's colors.
            Files of arrays (.npy, DICOM, TIFF of many bands) must have so many bands, or one where 3 are made.
        crop: Part of the image to read; by default as much of the center as has the result's shape.
        pixel_range: (low, high), the smallest and the largest pixel. With (0, 255) the result is uint8: grays of 9 to
            16 bits are divided by their white level, and signed or 32-bit integers and floats are refused. With any
            other range it is float32 in the file's own numbers, and a number beyond the range is an error.
        white_level: Number in a file of 9 to 16 bits a gray that becomes 255, such as 4095 for 12 bits in a 16-bit
            file; by default the largest number there is, 65535 in that file.
        max_pixels: Pixels of the largest image to read: by default as many as Pillow reads, 178,956,970, and no more
            than 10,000 in a byte of a file of above 16 megapixels. Checked before anything is decoded.

    Returns:
        uint8 or float32 (height, width, channels).

    Raises:
        ValueError: If the file cannot be decoded as a whole, is too large, or its numbers cannot be read as this
            says; the message names it.
    """
    file = file if isinstance(file, bytes) else _checks.path("file", file, "the path of an image file, or its bytes")
    name = "an image in memory" if isinstance(file, bytes) else str(file)
    image_shape = _checks.image_shape(image_shape)
    if crop is not None:
        _checks.function("crop", crop, "a crop, such as keras_mae.data.CenterCrop(), or None")
    levels = Levels(pixel_range, white_level, max_pixels)
    return views(file, name, image_shape, crop or CenterCrop(), [np.random.default_rng(0)], levels)[0].copy()


def check_header(path: Path, levels: Levels, channels: int | None = None) -> int:
    """Read a file's header, and refuse what could not be read later.

    Args:
        path: Path of the file.
        levels: What becomes of its numbers.
        channels: Channels to make of its bands; `None` for its own.

    Returns:
        Number of pages or slices of a TIFF or DICOM file, else 1: in others frames belong together.

    Raises:
        ValueError: If it is no image, or its numbers cannot be read in these levels.
    """
    with named_errors(path, str(path)), open_image(path, channels, levels) as file:
        if isinstance(file, ArrayImage):
            return file.pages
        refuse(file, numbers_of(file), levels)
        return int(file.n_frames) if file.format == "TIFF" else 1


def views(
    image: str | Path | bytes | np.ndarray,
    name: str,
    image_shape: tuple[int, int, int],
    crop: Crop,
    generators: Sequence[np.random.Generator],
    levels: Levels = EIGHT_BITS,
) -> list[np.ndarray]:
    """Return as many crops of one image, decoded once, as there are generators to draw them with.

    Of an array, which is in the range of the levels, only what bicubic resizing adds to it is cut off.
    """
    if isinstance(image, np.ndarray):
        return _views_of_array(image, image_shape, crop, generators, levels.pixel_range)
    with contextlib.ExitStack() as stack:
        with named_errors(image, name):
            file = stack.enter_context(open_image(image, image_shape[2], levels))
            if isinstance(file, ArrayImage):
                stack.enter_context(room(file.size))
                array = pixels_of(file.read(), file.numbers, levels)
            else:
                array, numbers = None, numbers_of(file)
        if array is not None:
            return _views_of_array(array, image_shape, crop, generators, levels.pixel_range)
        with named_errors(image, name):
            if file.format not in _DRAFTED:
                stack.enter_context(room(file.size))
                file.load()  # Pillow turns TIFF files upright here, and has their upright size before: ask afterwards
            turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = file.size[::-1] if turned else file.size
        boxes = [crop(width, height, image_shape[:2], generator) for generator in generators]
        with named_errors(image, name):
            return _decode_and_cut(file, boxes, (width, height), image_shape, numbers, levels)


def _views_of_array(
    array: np.ndarray,
    image_shape: tuple[int, int, int],
    crop: Crop,
    generators: Sequence[np.random.Generator],
    pixel_range: PixelRange,
) -> list[np.ndarray]:
    """Return crops of an array (height, width, bands), of which one band is given to all channels."""
    height, width, bands = array.shape
    boxes = [crop(width, height, image_shape[:2], generator) for generator in generators]
    shape = (*image_shape[:2], bands)
    return [np.broadcast_to(_cut_array(array, box, shape, pixel_range), image_shape) for box in boxes]


def is_deep(path: Path, max_pixels: int | None = None) -> bool:
    """Return whether a file holds grays, or many bands, of more than 8 bits."""
    with named_errors(path, str(path)), open_image(path, None, Levels(max_pixels=max_pixels), False) as file:
        return (file.numbers if isinstance(file, ArrayImage) else numbers_of(file)).deep


def brightest(path: Path, levels: Levels) -> float:
    """Decode a file as a whole, and return about the largest of its pixels.

    Raises:
        ValueError: If it cannot be decoded, or its numbers not be read in these levels.
    """
    with named_errors(path, str(path)), open_image(path, None, levels) as file:
        if isinstance(file, ArrayImage):
            with room(file.size):
                return float(pixels_of(file.read(), file.numbers, levels).max())
    return float(views(path, str(path), (8, 8, 1), CenterCrop(), [np.random.default_rng(0)], levels)[0].max())


def as_array(path: Path, levels: Levels) -> np.ndarray | None:
    """Return a file's image whole and upright in its own numbers, integers as such; `None` if it is one of 8 bits.

    Of pictures that Pillow reads, an array (height, width, 1 or 3) where the levels are in units of their own.

    Raises:
        ValueError: If it cannot be decoded as a whole, or a number lies beyond the range.
    """
    from PIL import ImageOps

    with named_errors(path, str(path)), open_image(path, None, levels) as file:
        if not isinstance(file, ArrayImage) and not levels.own_units:
            return None
        with room(file.size):
            if not isinstance(file, ArrayImage):
                numbers = numbers_of(file)
                image = ImageOps.exif_transpose(file)
                gray = image.mode in ("1", "L") or numbers.deep
                return _own_values(image, "L" if gray else "RGB", numbers, levels).astype(numbers.dtype)
            values = file.read()
            pixels = pixels_of(values, file.numbers, levels)
            whole = levels.own_units and values.dtype.kind in "ui"
            return values.astype(values.dtype.newbyteorder("=")) if whole else pixels


def resized(image: np.ndarray, size: tuple[int, int], pixel_range: PixelRange) -> np.ndarray:
    """Return an array (height, width, bands) resized bicubically to `size`, in its own dtype."""
    box = Box(0, 0, image.shape[1], image.shape[0])
    return _cut_array(image, box, (*size, image.shape[2]), pixel_range)


@contextlib.contextmanager
def decoded(
    path: Path, short_side: int, white_level: int | None = None, max_pixels: int | None = None
) -> Iterator[Any]:
    """Yield a file's image in 8 bits, whole and upright, gray or RGB; perhaps smaller, if it has twice `short_side`.

    Raises:
        ValueError: If it cannot be decoded as a whole, or its numbers not be brought to 8 bits.
    """
    from PIL import ImageOps

    with named_errors(path, str(path)), open_file(path, max_pixels) as file:
        if file.format in _DRAFTED:
            file.draft(file.mode, (2 * short_side, 2 * short_side))
        numbers = numbers_of(file)
        with room(file.size):
            image = ImageOps.exif_transpose(file)
            yield _in_mode(image, "L" if image.mode in ("1", "L") or numbers.deep else "RGB", numbers, white_level)


def upright_size(image: Path | bytes, max_pixels: int | None = None) -> tuple[int, int]:
    """Return (height, width) of the image in a file, or in its content, turned upright."""
    name = "an image" if isinstance(image, bytes) else str(image)
    with named_errors(image, name), open_image(image, None, Levels(max_pixels=max_pixels), False) as file:
        if isinstance(file, ArrayImage):
            return file.shape[:2]
        if file.format not in _DRAFTED:
            with room(file.size):
                file.load()  # see `views`
        turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = file.size
    return (width, height) if turned else (height, width)


def _decode_and_cut(
    file: Any,
    boxes: Sequence[Box],
    upright: tuple[int, int],
    image_shape: tuple[int, int, int],
    numbers: Numbers,
    levels: Levels,
) -> list[np.ndarray]:
    """Cut the boxes, in pixels of the `upright` (width, height), out of an open file's image."""
    from PIL import ImageOps

    size, mode = image_shape[:2], MODES[image_shape[2]]
    if file.format in _DRAFTED:
        _decode_smaller(file, boxes, size, mode)
    with room(file.size) if file.format in _DRAFTED else contextlib.nullcontext():
        turned = file.getexif().get(_ORIENTATION, 1) != 1
        if mode == "RGB" and not (turned or levels.own_units) and all(box.fast for box in boxes):
            pixels = fast.decoded(file) if file.size == upright else None
            if pixels is not None:
                return [_cut(pixels, box, size) for box in boxes]
        image = ImageOps.exif_transpose(file) if turned else file
        across, down = image.size[0] / upright[0], image.size[1] / upright[1]
        boxes = [box.scaled(across, down) for box in boxes]
        if levels.own_units:
            values = _own_values(image, mode, numbers, levels)
            shape = (*size, values.shape[2])  # a gray image has one channel, however many are wanted
            parts = [_cut_array(values, box, shape, levels.pixel_range) for box in boxes]
            return [np.broadcast_to(part, image_shape) for part in parts]
        image = _in_mode(image, mode, numbers, levels.white_level)
        return [_cut(image, box, size).reshape(image_shape) for box in boxes]


def _own_values(image: Any, mode: str, numbers: Numbers, levels: Levels) -> np.ndarray:
    """Return a decoded image in its own numbers, float32 (height, width, channels).

    Raises:
        UnclearNumbers: If one lies beyond the range.
    """
    refuse(image, numbers, levels)
    values = numbers.of(image) if numbers.deep else np.asarray(_in_mode(image, mode, numbers))
    check_range(values, numbers, levels.pixel_range)
    return values.reshape(*values.shape[:2], -1).astype("float32")


def _decode_smaller(file: Any, boxes: Sequence[Box], size: tuple[int, int], mode: str) -> None:
    """Let JPEG decode at a half, a quarter or an eighth where that still leaves twice the wanted pixels.

    Several times faster for photographs straight from a camera, and less than half a gray level away.
    """
    shrink = min(
        min((box.right - box.left) / (2 * max(size)), (box.bottom - box.top) / (2 * max(size))) for box in boxes
    )  # by the larger side: EXIF may still turn the image
    if shrink >= 2:
        file.draft(mode, (math.ceil(file.size[0] / shrink), math.ceil(file.size[1] / shrink)))


def _in_mode(image: Any, mode: str, numbers: Numbers, white_level: int | None = None) -> Any:
    """Convert an image of any mode to `mode`, in 8 bits."""
    if numbers.deep:
        image = pillow().fromarray(numbers.in_bytes(image, white_level))
    else:
        refuse(image, numbers, Levels(white_level=white_level))
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        white = pillow().new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    if image.mode == mode:
        image.load()
        return image
    return image.convert(mode)


def _cut(image: Any, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Cut a box out of an image, resized bicubically with antialiasing and clipped to 0–255.

    Args:
        image: Pillow's image, or, to be cut fast, pixels of 8 bits, (height, width) or (height, width, 3).
        box: The part to cut out.
        size: (height, width) of the result.
    """
    are_pixels = isinstance(image, np.ndarray)
    width, height = image.shape[1::-1] if are_pixels else image.size
    left, top, right, bottom = box.beyond(width, height, size)
    part = (max(box.left, 0), max(box.top, 0), min(box.right, width), min(box.bottom, height))
    resize = fast.resized if are_pixels or (box.fast and image.mode in fast.MODES) else _resized
    pixels = resize(image, part, (size[1] - left - right, size[0] - top - bottom))
    if left or top or right or bottom:
        pixels = np.pad(pixels, [(top, bottom), (left, right), (0, 0)][: pixels.ndim], mode="reflect")
    return _mirrored(pixels) if box.flip else pixels


def _resized(image: Any, part: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Return a part of a Pillow image resized to `size`, (width, height)."""
    # Larger images are averaged down to three times the size first: the same to the eye.
    return np.asarray(image.resize(size, pillow().Resampling.BICUBIC, box=part, reducing_gap=3.0))


def _mirrored(pixels: np.ndarray) -> np.ndarray:
    """Return pixels (height, width, ...) mirrored, in contiguous memory."""
    if pixels.ndim == 2:
        return np.ascontiguousarray(pixels[:, ::-1])
    pixel = np.dtype((np.void, pixels.shape[2] * pixels.itemsize))  # channel by channel takes three times as long
    return np.ascontiguousarray(pixels.view(pixel)[:, ::-1]).view(pixels.dtype)


def _cut_array(
    image: np.ndarray, box: Box, image_shape: tuple[int, int, int], pixel_range: tuple[float, float]
) -> np.ndarray:
    """Cut a box out of an array (height, width, channels) with any number of channels, in the array's own range."""
    size, bytes_suffice = image_shape[:2], image.dtype == np.uint8 and pixel_range == BYTES
    if bytes_suffice and image.shape[-1] in (1, 3):  # four: Pillow would take the last one for alpha
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        return _cut(_to_cut(squeezed, box), box, size).reshape(image_shape)
    bands = [_cut(_to_cut(image[..., band], box), box, size) for band in range(image.shape[-1])]
    pixels = np.stack(bands, axis=-1).clip(*pixel_range)
    return (pixels if image.dtype.kind == "f" else pixels.round()).astype(image.dtype, copy=False)


def _to_cut(pixels: np.ndarray, box: Box) -> Any:
    """Return what `_cut` cuts a box out of: pixels of 8 bits to be cut fast, or Pillow's image of them."""
    if pixels.dtype != np.uint8:
        return pillow().fromarray(np.ascontiguousarray(pixels, "float32"))
    return pixels if box.fast else pillow().fromarray(np.ascontiguousarray(pixels))
