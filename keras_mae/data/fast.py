"""What `RandomResizedCrop(fast=True)` has done by other libraries than Pillow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from keras_mae._optional import require

__all__ = ["MODES", "check_installed", "decoded", "resized"]

MODES = ("L", "RGB")
"""Pillow's modes of the images that are resized here."""


def check_installed() -> None:
    """Raise an `ImportError` unless the libraries are there."""
    _library("simplejpeg")
    _library("cykooz_resizer")


def decoded(file: Any) -> np.ndarray | None:
    """Decode an opened file that is plain JPEG to the same pixels as Pillow, (height, width, 3), or return `None`.

    Both have libjpeg-turbo, and this does without Pillow's own image. What it does not take without a word, such as
    damaged files, is left to Pillow.
    """
    if file.format != "JPEG" or file.mode != "RGB":
        return None
    place = file.fp.tell()
    file.fp.seek(0)
    content = file.fp.read()
    file.fp.seek(place)
    try:
        pixels: np.ndarray = _library("simplejpeg").decode_jpeg(content, strict=True)
    except ValueError:
        return None
    return pixels if pixels.shape[1::-1] == file.size else None


def resized(image: Any, part: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Return a part of an image resized bicubically with antialiasing, as Pillow does it, in integers of fewer bits.

    SIMD instructions of the fast_image_resize crate do it, and any of them, or none, give the same pixels.

    Args:
        image: Pillow's image in one of `MODES`, or pixels of 8 bits, (height, width) or (height, width, 3).
        part: (left, top, right, bottom) of the part, in pixels of the image. The kernel sees what is around it, too.
        size: (width, height) of the result.
    """
    simd = _library("cykooz_resizer")
    are_pixels = isinstance(image, np.ndarray)
    width, height = image.shape[1::-1] if are_pixels else image.size
    colors = image.ndim == 3 if are_pixels else image.mode == "RGB"
    left, top, right, bottom = part
    across, down = (2 * max(side / to, 1) + 1 for side, to in zip((right - left, bottom - top), size, strict=True))
    first, last = max(int(left - across), 0), min(math.ceil(right + across), width)
    upper, lower = max(int(top - down), 0), min(math.ceil(bottom + down), height)
    # As bytes: the library would read Pillow's memory itself, whose layout is Pillow's own business.
    seen = image[upper:lower, first:last] if are_pixels else image.crop((first, upper, last, lower))
    kind = simd.PixelType.U8x3 if colors else simd.PixelType.U8
    source, result = simd.ImageData(last - first, lower - upper, kind, seen.tobytes()), simd.ImageData(*size, kind)
    kernel = simd.ResizeAlg.convolution(simd.FilterType.catmull_rom)  # Pillow's bicubic one
    box = simd.CropBox(left - first, top - upper, right - left, bottom - top)
    simd.Resizer().resize(source, result, simd.ResizeOptions(kernel, crop_box=box))
    return np.frombuffer(result.get_buffer(), "uint8").reshape((size[1], size[0], 3) if colors else size[::-1])


def _library(name: str) -> Any:
    return require(name, "RandomResizedCrop(fast=True)")
