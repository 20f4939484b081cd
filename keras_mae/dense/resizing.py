"""Maps of another size, by fixed matrices: any backend applies them alike, and any compiler takes them.

Gradients go through them under any compiler, and adaptive pooling is PyTorch's alone among the backends.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from keras import ops

from keras_mae._types import Tensor

__all__ = ["linear_weights", "mean_weights", "pooled", "resized"]


def linear_weights(places: int, size: int) -> np.ndarray:
    """Return the matrix that interpolates linearly from so many places to `size` others, float32 (size, places).

    A place is in the middle of its part of the axis, as without "aligned corners"; beyond the outermost ones their
    values go on. There is no antialiasing.
    """
    where = np.clip((np.arange(size) + 0.5) * places / size - 0.5, 0, places - 1)
    below = np.minimum(where.astype(int), max(places - 2, 0))
    share = where - below
    matrix = np.zeros((size, places), "float32")
    rows = np.arange(size)
    np.add.at(matrix, (rows, below), 1 - share)
    np.add.at(matrix, (rows, np.minimum(below + 1, places - 1)), share)
    return matrix


def mean_weights(places: int, size: int) -> np.ndarray:
    """Return the matrix that averages so many places in `size` bins, float32 (size, places).

    Bin i goes from floor(i * places / size) to ceil((i + 1) * places / size), so that bins overlap where `size` does
    not divide `places`, and repeat places where it is larger: PyTorch's adaptive average pooling.
    """
    matrix = np.zeros((size, places), "float32")
    for i in range(size):
        first, last = i * places // size, -(-(i + 1) * places // size)
        matrix[i, first:last] = 1 / (last - first)
    return matrix


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of another size, interpolated bilinearly.

    Args:
        maps: (batch, rows, columns, dim).
        size: (rows, columns) wanted.

    Returns:
        (batch, *size, dim), in the dtype of `maps`; the maps themselves where they have that size.
    """
    old = tuple(maps.shape[1:3])
    return maps if old == size else _along_both(maps, *map(_linear, old, size))


def pooled(maps: Tensor, size: int) -> Tensor:
    """Return the means of maps in `size` times `size` bins, (batch, size, size, dim), in their dtype."""
    dtype = maps.dtype
    means = _along_both(ops.cast(maps, "float32"), *(mean_weights(places, size) for places in maps.shape[1:3]))
    return ops.cast(means, dtype)


_linear = lru_cache(maxsize=32)(linear_weights)


def _along_both(maps: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Return maps with one matrix applied to their rows, and one to their columns."""
    height, width, dim = maps.shape[1:]
    by_row, by_column = (ops.cast(ops.convert_to_tensor(matrix), maps.dtype) for matrix in (rows, columns))
    x = ops.matmul(by_row, ops.reshape(maps, (-1, height, width * dim)))
    x = ops.reshape(x, (-1, len(rows), width, dim))
    return ops.matmul(by_column, x)
