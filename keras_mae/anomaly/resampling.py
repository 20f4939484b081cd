"""Maps smoothed, and maps with a matrix applied to their rows and one to their columns."""

from __future__ import annotations

import numpy as np

__all__ = ["blur", "resampled"]


def blur(size: int, sigma: float) -> np.ndarray:
    """Return the matrix that smooths `size` pixels by a Gaussian, float32 (size, size).

    Beyond the edges the pixels are mirrored, the outermost one twice in a row. The Gaussian ends at four times
    `sigma`, in pixels.
    """
    radius = int(4 * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-(steps**2) / (2 * max(sigma, 1e-12) ** 2))
    places = (np.arange(size)[:, None] + steps) % (2 * size)
    places = np.where(places < size, places, 2 * size - 1 - places)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], places), weights / weights.sum())
    return matrix.astype("float32")


def resampled(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return maps (batch, rows, columns) with one of these matrices applied to rows, and one to columns."""
    result: np.ndarray = rows @ maps @ columns.T
    return result
