"""What a model's images must be: their shape, dtype and range. One rule, for sources and for models.

Images are 0–255 unless an encoder says otherwise (`ViTEncoder(pixel_range=...)`). Images in another range train
without an error, to features that are nearly constant: so what cannot be meant is refused.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks

__all__ = [
    "BYTES",
    "PixelRange",
    "check_bytes",
    "check_channels_last",
    "check_dtype",
    "check_extremes",
    "check_images",
    "check_shape",
    "checked_range",
    "default_statistics",
    "dtype_name",
    "extremes",
    "fits",
    "needs_no_look",
    "range_name",
    "rescaled",
]

PixelRange = tuple[float, float]
"""The smallest and the largest value that a pixel may have."""

BYTES: PixelRange = (0.0, 255.0)
_IMAGENET_MEAN, _IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_NARROW = 100.0
"""Length of the shortest range in which images of [-1, 1] would be next to black."""


def checked_range(value: Any) -> PixelRange:
    """Return `value` as the argument `pixel_range`: two finite numbers, the smaller one first."""
    ends = tuple(value) if isinstance(value, Sequence | np.ndarray) else ()
    known = all(isinstance(end, numbers.Real) and not isinstance(end, bool) and math.isfinite(end) for end in ends)
    if len(ends) != 2 or not known or not ends[0] < ends[1]:
        raise _checks.argument_error("pixel_range", "(low, high), two finite numbers with low < high", value)
    return float(ends[0]), float(ends[1])


def range_name(pixel_range: PixelRange) -> str:
    """Return a range in words, such as "0-255"."""
    low, high = (f"{end:.10g}" for end in pixel_range)
    return f"{low}-{high}" if pixel_range[0] >= 0 else f"[{low}, {high}]"


# === Statistics ===
def default_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation by channel for images of 0-255: ImageNet's for three channels."""
    return (_IMAGENET_MEAN, _IMAGENET_STD) if channels == 3 else ((127.5,) * channels,) * 2


def rescaled(
    mean: Sequence[float], std: Sequence[float], old: PixelRange, new: PixelRange
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the same images stretched from one range to another."""
    new = checked_range(new)
    if new == old:  # to the last bit
        return tuple(mean), tuple(std)
    factor = (new[1] - new[0]) / (old[1] - old[0])
    return tuple(new[0] + (value - old[0]) * factor for value in mean), tuple(value * factor for value in std)


# === Shape ===
def check_shape(
    shape: Sequence[int | None], image_shape: tuple[int | None, int | None, int], argument: str = "images"
) -> None:
    """Raise a `ValueError` unless this is the shape of a batch of images; sizes may be `None`, which are not known.

    Args:
        shape: Shape of the batch.
        image_shape: (height, width, channels) that the model takes; `None` for any height or width.
        argument: Name of the argument, for the message.
    """

    def agree(given: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
        known = zip(given[1:], wanted, strict=True)
        return len(given) == 4 and all(has is None or size in (None, has) for has, size in known)

    if agree(shape, image_shape):
        return
    height, width, channels = (size or name for size, name in zip(image_shape, ("height", "width", ""), strict=True))
    rule = f"`{argument}` must have shape (batch, {height}, {width}, {channels})"
    if agree(shape, (image_shape[2], *image_shape[:2])):
        raise ValueError(
            f"{rule}, channels last: np.transpose({argument}, (0, 2, 3, 1)) makes it so. "
            f"Received: {argument}.shape={tuple(shape)}, channels first"
        )
    raise ValueError(f"{rule}. Received: {argument}.shape={tuple(shape)}")


def check_channels_last(shape: tuple[int, ...]) -> None:
    """Raise a `ValueError` for images of no stated shape that are (images, channels, height, width), by all signs."""
    rows, columns, channels = shape[1:]
    if rows in (1, 3, 4) and min(columns, channels) >= 8 and 4 * channels >= columns:
        raise ValueError(
            "`images` must have shape (images, height, width, channels), channels last: "
            "np.transpose(images, (0, 2, 3, 1)) makes it so. "
            f"Received: images.shape={tuple(shape)}, which looks like channels first"
        )


# === Dtype ===
def dtype_name(array: Any) -> str:
    """Return the name of the dtype of an array or tensor of any backend, such as "uint8"."""
    dtype = array.dtype
    return str(getattr(dtype, "name", dtype)).removeprefix("torch.")


def check_dtype(dtype: str, pixel_range: PixelRange) -> None:
    """Raise a `ValueError` for a type that pixels of the range do not come in.

    Floats do; so do integers that can hold the whole range, except that 16 bits for one of 8 are a sensor's numbers
    and not 0-255, and Booleans for 0-1.
    """
    if _is_float(dtype):
        return
    advice = ""
    if dtype == "bool":
        if pixel_range == (0.0, 1.0):
            return
        advice = ": " + _make(pixel_range, (0.0, 1.0), "convert them to uint8 and multiply by 255")
    elif dtype.startswith(("int", "uint")) and dtype[-1].isdigit():
        limits = np.iinfo(dtype)
        holds = limits.min <= pixel_range[0] and pixel_range[1] <= limits.max
        if holds and not (limits.bits == 16 and pixel_range[1] - pixel_range[0] <= 255):
            return
        advice = ": convert them if that is what they hold, or name their own range, such as "
        advice += f"pixel_range=({max(limits.min, -1024)}, {min(limits.max, 4095)})"
    raise ValueError(
        f"`images` must be integers or floats in {range_name(pixel_range)}{advice}. Received: images.dtype={dtype}"
    )


def _is_float(dtype: str) -> bool:
    return dtype.startswith(("float", "bfloat"))


def needs_no_look(dtype: str, pixel_range: PixelRange) -> bool:
    """Return whether the type alone keeps every value in the range: bytes in one of 0-255."""
    if _is_float(dtype) or dtype == "bool":
        return dtype == "bool"
    limits = np.iinfo(dtype)
    return bool(pixel_range[0] <= limits.min and limits.max <= pixel_range[1])


# === Range ===
def extremes(images: Any) -> tuple[float, float]:
    """Return the smallest and the largest finite value; (inf, -inf) if there is none.

    Args:
        images: An array, or a tensor whose values are known.
    """
    library: Any = np if isinstance(images, np.ndarray) else ops
    if not all(images.shape):
        return float("inf"), float("-inf")
    if library is ops and dtype_name(images) in ("uint16", "uint32", "uint64"):
        images = ops.cast(images, "float32")  # PyTorch compares none of these
    low, high = float(library.min(images)), float(library.max(images))
    if _is_float(dtype_name(images)) and not np.isfinite([low, high]).all():
        finite = library.isfinite(images)
        low = float(library.min(library.where(finite, images, float("inf"))))
        high = float(library.max(library.where(finite, images, float("-inf"))))
    return low, high


def fits(low: Any, high: Any, pixel_range: PixelRange) -> Any:
    """Return whether values from `low` to `high` can be images of the range; numbers, or scalar tensors.

    Half of a gray level beyond it is rounding. Values that are all within [-1, 1], and not all 0, are images that
    somebody divided by 255, normalized or thresholded, where the range is much longer.
    """
    rounding = (pixel_range[1] - pixel_range[0]) / 510
    inside = (low >= pixel_range[0] - rounding) & (high <= pixel_range[1] + rounding)
    if pixel_range[1] - pixel_range[0] >= _NARROW:
        black = (low == 0) & (high == 0)
        inside = inside & (black | (low < -1) | (high > 1))
    return inside | (low > high)


def check_extremes(low: float, high: float, dtype: str, pixel_range: PixelRange) -> None:
    """Raise a `ValueError` unless values from `low` to `high` can be images of the range; see `fits`."""
    if fits(low, high, pixel_range):
        return
    length, own = pixel_range[1] - pixel_range[0], "make the encoder with the pixel_range they have"
    if low >= 0 and high <= 1:
        advice = _make(pixel_range, (0.0, 1.0), "multiply by 255")
    elif low >= -1 and high <= 1:
        advice = _make(pixel_range, (-1.0, 1.0), "add 1 and multiply by 127.5")
    elif low >= pixel_range[0] - length / 4 and length / 2 < high - pixel_range[0] <= 5 * length / 4:
        advice = f"clip to that what resizing or augmentation took beyond it, or {own}"
    else:
        advice = f"bring them into that, or {own}"
    raise ValueError(
        f"`images` must be in {range_name(pixel_range)} (the encoder normalizes them itself): {advice}. "
        f"Received: {dtype} values from {low:.4g} to {high:.4g}"
    )


def check_bytes(images: Any, pixel_range: PixelRange) -> None:
    """Raise a `ValueError` for bytes that are 0 and 1 only where the range is much longer; see `fits`.

    Nearly always the first image tells that they are not.

    Args:
        images: Array, or tensor whose values are known, (batch, height, width, channels).
        pixel_range: Range of the images.
    """
    if dtype_name(images) == "bool" or pixel_range[1] - pixel_range[0] < _NARROW or not all(images.shape):
        return
    if extremes(images[:1])[1] <= 1:
        check_extremes(*extremes(images), dtype_name(images), pixel_range)


def _make(pixel_range: PixelRange, own: PixelRange, change: str) -> str:
    """Return what to do with images of the range `own`."""
    other = f"make the encoder with pixel_range=({own[0]:g}, {own[1]:g})"
    return f"{change}, or {other}" if pixel_range == BYTES else other


# === All of it ===
def check_images(images: Any, image_shape: tuple[int | None, int | None, int], pixel_range: PixelRange) -> np.ndarray:
    """Return `images` as an array that a model takes; see `check_shape` for its shape.

    Raises:
        ValueError: If shape, dtype or range do not fit, there is none, or pixels are not finite.
    """
    rule = "an array or a tensor of images (batch, height, width, channels)"
    if images is None or isinstance(images, str | bytes | type):
        raise _checks.argument_error("images", rule, images)
    try:
        array: np.ndarray = images if isinstance(images, np.ndarray) else ops.convert_to_numpy(images)
    except (TypeError, ValueError):
        raise _checks.argument_error("images", rule, type(images).__name__) from None
    check_shape(array.shape, image_shape)
    if not len(array):
        raise ValueError(f"`images` must have at least one image. Received: images.shape={array.shape}")
    dtype = dtype_name(array)
    check_dtype(dtype, pixel_range)
    if _is_float(dtype) and not np.isfinite(array).all():
        bad = np.flatnonzero(~np.isfinite(array).all(axis=(1, 2, 3)))
        raise ValueError(
            f"`images` must be finite. Received: NaN or infinite pixels in {len(bad)} of {len(array)} images, "
            f"the first at index {bad[0]}"
        )
    if needs_no_look(dtype, pixel_range):
        check_bytes(array, pixel_range)
    else:
        check_extremes(*extremes(array), dtype, pixel_range)
    return array
