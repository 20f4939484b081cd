"""Fixed matrices for the two axes of an image: any backend applies them alike, and any compiler takes them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from keras import ops

from keras_mae._types import Tensor

__all__ = ["both_sides", "fourier_waves", "resized"]


def both_sides(x: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Return `rows @ x @ columns.T` for every matrix of `x`, (batch, channels, height, width)."""
    x = ops.matmul(ops.convert_to_tensor(np.ascontiguousarray(rows)), x)
    return ops.matmul(x, ops.convert_to_tensor(np.ascontiguousarray(columns.T)))


def fourier_waves(side: int, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the real Fourier basis of `side` pixels, float32 (n, side), up to a frequency, and its frequencies."""
    waves, frequencies = [], []
    for cycles in range(side // 2 + 1):
        if cycles / side > cutoff * (1 + 1e-9):
            break
        angles = 2 * np.pi * cycles * np.arange(side) / side
        # Of no cycle, and of half as many as there are pixels, the sine is 0 everywhere.
        for wave in (np.cos(angles), np.sin(angles))[: 1 if 2 * cycles % side == 0 else 2]:
            waves.append(wave / np.linalg.norm(wave))
            frequencies.append(cycles / side)
    return np.array(waves, "float32"), np.array(frequencies)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images bilinearly, with antialiasing where they get smaller; edges are repeated.

    Args:
        images: float32 (batch, height, width, channels).
        size: (height, width) wanted.

    Returns:
        float32 (batch, *size, channels); the images themselves where they have that size.
    """
    old = tuple(images.shape[1:3])
    if old == size:
        return images
    rows, columns = (_bilinear(*sides) for sides in zip(old, size, strict=True))
    return ops.transpose(both_sides(ops.transpose(images, (0, 3, 1, 2)), rows, columns), (0, 2, 3, 1))


@lru_cache(maxsize=8)
def _bilinear(old: int, new: int) -> np.ndarray:
    """Return the weights of a bilinear resize of one axis, float32 (new, old), half-pixel centers."""
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(old / new, 1.0)
    weights = np.maximum(0.0, 1 - abs(centers[:, None] - np.arange(old)) / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights, "float32")
