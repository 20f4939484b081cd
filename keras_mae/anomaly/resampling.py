"""Matrices that smooth maps, and maps with one matrix applied to their rows and one to their columns."""

from __future__ import annotations

import numpy as np

__all__ = ["blur", "resampled"]


def blur(size: int, sigma: float) -> np.ndarray:
    """Return the matrix that smooths `size` pixels by a Gaussian, float32 (size, size).

    Pixels are mirrored at the edges, so that the outermost one comes twice in a row. The Gaussian is cut off at four
    times `sigma`, its standard deviation in pixels.
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
    """Return maps (batch, rows, columns) with `rows`, (height, rows), applied to rows and `columns` to columns."""
    result: np.ndarray = rows @ maps @ columns.T
    return result
