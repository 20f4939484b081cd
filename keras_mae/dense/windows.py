"""Images that are larger than a model's: windows that slide over them, and the mean where windows overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_mae import _checks

__all__ = ["slide", "window_starts"]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Return where windows start along an axis, so that they cover it; the last one is moved back to end with it.

    Args:
        size: Length of the axis.
        window: Length of a window; where the axis is shorter, there is one that starts at 0.
        stride: Distance between two starts, from 1 to `window`.

    Raises:
        ValueError: If a length is not positive, or windows would leave gaps.

    Example:
        >>> keras_mae.dense.window_starts(1000, 512, 341)
        [0, 341, 488]
    """
    for name, value in {"size": size, "window": window}.items():
        _checks.positive_int(name, value)
    _checks.int_within("stride", stride, 1, window)
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def slide(
    function: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
    dim: int,
    fill: Sequence[float] | None = None,
) -> np.ndarray:
    """Return what a function says of an image's windows, put together; where windows overlap, the mean.

    One window that covers the image gives what the function says of the image itself, to the last bit.

    Args:
        function: From windows (batch, *window, channels), of the image's dtype, to float32 (batch, *window, dim). All
            batches of an image are of one size, for which compiled code is compiled once: windows are repeated if
            need be.
        image: (height, width, channels).
        window: (height, width) of a window.
        stride: (rows, columns) between two windows, none larger than the window.
        batch_size: Largest number of windows at a time, all that is held beside the sums.
        dim: Number of channels that the function returns.
        fill: Value of the pixels, one for each channel, that fill up an image that is smaller than a window, on the
            right and at the bottom, and are cut off again. Without it such an image is an error.

    Returns:
        float32 (height, width, dim).

    Raises:
        ValueError: If the image is smaller than a window, and there is no `fill`.

    Reference: mmsegmentation's sliding windows, by which the published numbers on ADE20K are measured.
    """
    size = image.shape[:2]
    image = _filled(image, window, fill)
    tops, lefts = (window_starts(*lengths) for lengths in zip(image.shape[:2], window, stride, strict=True))
    corners = [(top, left) for top in tops for left in lefts]
    total, count = (np.zeros((*image.shape[:2], channels), "float32") for channels in (dim, 1))
    at_once = -(-len(corners) // -(-len(corners) // batch_size))  # all batches alike, and no larger than need be
    for start in range(0, len(corners), at_once):
        some = corners[start : start + at_once]
        places = [(slice(top, top + window[0]), slice(left, left + window[1])) for top, left in some]
        windows = np.stack([image[place] for place in (*places, *places[:1] * (at_once - len(places)))])
        for place, found in zip(places, function(windows), strict=False):
            total[place] += found
            count[place] += 1
    total /= count
    return total[: size[0], : size[1]]


def _filled(image: np.ndarray, window: tuple[int, int], fill: Sequence[float] | None) -> np.ndarray:
    """Return an image that is as large as a window or larger."""
    size = tuple(max(own, least) for own, least in zip(image.shape[:2], window, strict=True))
    if size == image.shape[:2]:
        return image
    if fill is None:
        raise ValueError(
            f"`images` must be as large as the training crop, {window[0]} x {window[1]}, or larger: resize them, or "
            "give pad=True, which fills them up with the pixel mean. "
            f"Received: an image of {image.shape[0]} x {image.shape[1]}"
        )
    filled = np.empty((*size, image.shape[2]), "float32")  # bytes cannot hold a mean
    filled[:] = np.asarray(fill, "float32")
    filled[: image.shape[0], : image.shape[1]] = image
    return filled
