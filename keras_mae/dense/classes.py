"""From logits to the classes of an image of another size, without holding all of its logits."""

from __future__ import annotations

import numpy as np

from keras_mae.dense.resizing import linear_weights

__all__ = ["classes_at"]

_NUMBERS_AT_ONCE = 2**24
"""Logits that are held at once: 64 MiB."""


def classes_at(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the classes of the pixels of an image of this size: the largest of its logits, resized bilinearly.

    Args:
        logits: float32 (height, width, num_classes).
        size: (height, width) wanted.

    Returns:
        uint8 of that size, or uint16 where there are more than 256 classes.

    Reference: mmsegmentation scores at the masks' own sizes, to which it resizes logits in this way.
    """
    height, width, count = logits.shape
    dtype = "uint8" if count <= 256 else "uint16"
    if (height, width) == size:
        return np.asarray(logits.argmax(axis=-1), dtype)
    rows, columns = linear_weights(height, size[0]), linear_weights(width, size[1])
    classes = np.empty(size, dtype)
    at_once = max(_NUMBERS_AT_ONCE // (size[1] * count), 1)
    for start in range(0, size[0], at_once):
        some = rows[start : start + at_once]
        first, last = np.flatnonzero(some.any(axis=0))[[0, -1]]
        strip = np.tensordot(some[:, first : last + 1], logits[first : last + 1], axes=1)
        classes[start : start + at_once] = np.matmul(columns, strip).argmax(axis=-1)
    return classes
