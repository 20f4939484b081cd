"""From an image file, its bytes or an array to pixels: upright, in the wanted channels, cut and resized."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae._optional import require
from keras_mae.data.crops import Box, CenterCrop, Crop

__all__ = [
    "EXTENSIONS",
    "MODES",
    "decoded",
    "open_file",
    "pillow",
    "read_image",
    "unreadable",
    "upright_size",
    "views",
]

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112  # the EXIF tag; from 5 on, height and width change places
_DRAFTED = ("JPEG", "MPO")  # can be decoded at reduced size


def read_image(file: str | Path | bytes, image_shape: tuple[int, int, int], crop: Crop | None = None) -> np.ndarray:
    """Read one image file, or its content, as uint8 of `image_shape`.

    It is turned upright as its EXIF data say. An animation gives its first frame; transparent images are laid on
    white where 1 or 3 channels are asked for; 16-bit gray becomes 8-bit.

    Args:
        file: Path of the file, or its bytes.
        image_shape: Height, width and channels (1, 3 or 4) of the result.
        crop: Part of the image to read; by default as much of the center as has the result's shape.

    Raises:
        ValueError: If the file cannot be decoded as a whole; the message names it.
    """
    name = "an image in memory" if isinstance(file, bytes) else str(file)
    return views(file, name, image_shape, crop or CenterCrop(), [np.random.default_rng(0)])[0].copy()


def views(
    image: str | Path | bytes | np.ndarray,
    name: str,
    image_shape: tuple[int, int, int],
    crop: Crop,
    generators: Sequence[np.random.Generator],
) -> list[np.ndarray]:
    """Return as many crops of one image, decoded once, as there are generators to draw them with."""
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
        boxes = [crop(width, height, image_shape[:2], generator) for generator in generators]
        return [_cut_array(image, box, image_shape) for box in boxes]
    with contextlib.ExitStack() as stack:
        with _named_errors(image, name):
            file = stack.enter_context(open_file(image))
            if file.format not in _DRAFTED:
                file.load()  # Pillow turns TIFF files upright here, and has their upright size before: ask afterwards
            turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = file.size[::-1] if turned else file.size
        boxes = [crop(width, height, image_shape[:2], generator) for generator in generators]
        with _named_errors(image, name):
            return _decode_and_cut(file, boxes, (width, height), image_shape)


@contextlib.contextmanager
def _named_errors(image: str | Path | bytes, name: str) -> Iterator[None]:
    """Raise whatever a file makes Pillow raise as one `ValueError` that names the file."""
    try:
        yield
    except ImportError:
        raise
    except FileNotFoundError as error:
        raise ValueError(f"There is no image file {name!r}") from error
    except Exception as error:
        raise unreadable(image, name, error) from error


@contextlib.contextmanager
def decoded(path: Path, short_side: int) -> Iterator[Any]:
    """Yield a file's image, whole and upright, gray or RGB, perhaps smaller but with at least twice `short_side`.

    Raises:
        ValueError: If it cannot be decoded as a whole.
    """
    from PIL import ImageOps

    with _named_errors(path, str(path)), open_file(path) as file:
        if file.format in _DRAFTED:
            file.draft(file.mode, (2 * short_side, 2 * short_side))
        image = ImageOps.exif_transpose(file)
        yield _in_mode(image, "L" if image.mode in ("1", "L") or image.mode.startswith("I") else "RGB")


def upright_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file's image, turned upright."""
    with _named_errors(path, str(path)), open_file(path) as file:
        if file.format not in _DRAFTED:
            file.load()  # see `views`
        turned = file.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = file.size
    return (width, height) if turned else (height, width)


def open_file(image: str | Path | bytes) -> Any:
    """Open an image: its header is read, and its pixels are not yet decoded."""
    return pillow().open(io.BytesIO(image) if isinstance(image, bytes) else image)


def unreadable(image: str | Path | bytes, name: str, error: Exception) -> ValueError:
    """Return the error to raise for an image that cannot be read."""
    try:
        empty = len(image) == 0 if isinstance(image, bytes) else Path(image).stat().st_size == 0
    except OSError:
        empty = False
    what = "it is empty" if empty else f"{type(error).__name__}: {error}"
    return ValueError(f"Cannot read the image file {name!r}: {what}")


def pillow() -> Any:
    """Return Pillow's Image module."""
    return require("PIL.Image", "Reading image files")


def _decode_and_cut(
    file: Any, boxes: Sequence[Box], upright: tuple[int, int], image_shape: tuple[int, int, int]
) -> list[np.ndarray]:
    """Cut the boxes, in pixels of the `upright` (width, height), out of an open file's image."""
    from PIL import ImageOps

    size, mode = image_shape[:2], MODES[image_shape[2]]
    if file.format in _DRAFTED:
        _decode_smaller(file, boxes, size, mode)
    image = _in_mode(ImageOps.exif_transpose(file) if _ORIENTATION in file.getexif() else file, mode)
    across, down = image.size[0] / upright[0], image.size[1] / upright[1]
    return [_cut(image, box.scaled(across, down), size).reshape(image_shape) for box in boxes]


def _decode_smaller(file: Any, boxes: Sequence[Box], size: tuple[int, int], mode: str) -> None:
    """Let JPEG decode at a half, a quarter or an eighth where that still leaves twice the wanted pixels.

    Several times faster for photographs straight from a camera, and less than half a gray level away.
    """
    shrink = min(
        min((box.right - box.left) / (2 * max(size)), (box.bottom - box.top) / (2 * max(size))) for box in boxes
    )  # by the larger side: EXIF may still turn the image
    if shrink >= 2:
        file.draft(mode, (math.ceil(file.size[0] / shrink), math.ceil(file.size[1] / shrink)))


def _in_mode(image: Any, mode: str) -> Any:
    """Convert an image of any mode to `mode`."""
    if image.mode == "F":
        raise ValueError("pixels are floats, and nothing says what is white")
    if image.mode.startswith("I"):  # 16-bit gray: Pillow would clip it at 255
        image = pillow().fromarray((np.asarray(image, "float32") / 257).round().clip(0, 255).astype("uint8"))
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
    """Cut a box out of a Pillow image, resized bicubically with antialiasing; Pillow clips to 0–255 itself."""
    resized = image.resize(
        size[::-1],
        pillow().Resampling.BICUBIC,
        box=(box.left, box.top, min(box.right, image.size[0]), min(box.bottom, image.size[1])),
        reducing_gap=3.0,  # larger images are averaged down to three times the size first: the same to the eye
    )
    pixels = np.asarray(resized)
    return pixels[:, ::-1] if box.flip else pixels


def _cut_array(image: np.ndarray, box: Box, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Cut a box out of an array (height, width, channels) with any number of channels, in the array's own range."""
    size = image_shape[:2]
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):  # four: Pillow would take the last one for alpha
        squeezed = image[..., 0] if image.shape[-1] == 1 else image
        return _cut(pillow().fromarray(np.ascontiguousarray(squeezed)), box, size).reshape(image_shape)
    depth = "uint8" if image.dtype == np.uint8 else "float32"
    bands = [
        _cut(pillow().fromarray(np.ascontiguousarray(image[..., band], depth)), box, size)
        for band in range(image.shape[-1])
    ]
    pixels = np.stack(bands, axis=-1).clip(0, 255)
    return (pixels if image.dtype.kind == "f" else pixels.round()).astype(image.dtype, copy=False)
