"""Histograms of oriented gradients."""

from __future__ import annotations

from math import gcd, log
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.encoder import ViTEncoder
from keras_mae.patches import patchify
from keras_mae.targets.base import Target

__all__ = ["HOG"]


@keras.saving.register_keras_serializable(package="keras_mae")
class HOG(Target):
    """Histograms of oriented gradients: shapes and edges, whatever the brightness and the contrast.

    Of every channel the gradient at each pixel is the central difference to its neighbors (0 across the image's
    border). Its direction, without sign, is one of `orientations` equal bins, for which it votes with its length. The
    votes of a cell of pixels make a histogram, which is scaled to length 1. A patch's vector is the histograms of its
    cells, row by row, and in each cell channel by channel.

    Args:
        cell: Side of a cell in pixels, which must divide the patch. By default 8, as published for patches of 16, or
            the divisor of the patch that is nearest to it: a patch of 4 px is one cell.
        orientations: Number of bins over 180 degrees.

    Raises:
        ValueError: If an argument is no positive integer; in a model, if `cell` does not divide its patches.

    Example:
        >>> mae = keras_mae.MaskedAutoencoder(encoder, decoder, target=keras_mae.targets.HOG(cell=2))

    Reference: "Masked Feature Prediction for Self-Supervised Visual Pre-Training" (MaskFeat), arXiv 2112.09133.
    """

    kind = "hog"
    description = "histograms of oriented gradients"
    EPS = 1e-5
    """Added, squared, to a histogram's squared length: a cell without gradients is 0."""

    def __init__(self, cell: int | None = None, orientations: int = 9):
        self.cell = None if cell is None else _checks.positive_int("cell", cell)
        self.orientations = _checks.positive_int("orientations", orientations)

    def cell_in(self, patch_size: tuple[int, int]) -> int:
        """Return the side of a cell in patches of (height, width) pixels."""
        common = gcd(*patch_size)
        if self.cell is None:
            return min((one for one in range(1, common + 1) if common % one == 0), key=lambda one: abs(log(one / 8)))
        if common % self.cell:
            raise ValueError(
                "`cell` must divide the patch's height and width. "
                f"Received: cell={self.cell}, patch_size={patch_size}"
            )
        return self.cell

    def dim(self, encoder: ViTEncoder) -> int:
        cell = self.cell_in(encoder.patch_size)
        cells = (encoder.patch_size[0] // cell) * (encoder.patch_size[1] // cell)
        return cells * encoder.image_shape[2] * self.orientations

    def vectors(self, images: Tensor, encoder: ViTEncoder) -> Tensor:
        (height, width, channels), cell = encoder.image_shape, self.cell_in(encoder.patch_size)
        # Differences of whole pixels are exact, and so is then the choice of a bin, on every backend.
        x = ops.cast(images, "float32")
        down, right = _central_difference(x, 1), _central_difference(x, 2)
        std = ops.convert_to_tensor(np.asarray(encoder.pixel_std, "float32"))
        length = ops.sqrt(down * down + right * right) / std
        chosen = self._bin(down, right)
        shape = (-1, height // cell, cell, width // cell, cell, channels)
        votes = [
            ops.mean(ops.reshape(ops.where(chosen == index, length, 0.0), shape), axis=(2, 4))
            for index in range(self.orientations)
        ]
        histograms = ops.stack(votes, axis=-1)
        squares = ops.sum(ops.square(histograms), axis=-1, keepdims=True)
        histograms = histograms / ops.sqrt(squares + self.EPS**2)
        flat = ops.reshape(histograms, (-1, height // cell, width // cell, channels * self.orientations))
        return patchify(flat, (encoder.patch_size[0] // cell, encoder.patch_size[1] // cell))

    def _bin(self, down: Tensor, right: Tensor) -> Tensor:
        """Return the bin of each gradient's direction, int32: those of 0 to 180 / `orientations` degrees are 0."""
        # Opposite directions are one: all point down, or straight to the right.
        opposite = (down < 0) | ((down == 0) & (right < 0))
        down, right = ops.where(opposite, -down, down), ops.where(opposite, -right, right)
        borders = np.pi * np.arange(1, self.orientations) / self.orientations
        chosen = ops.zeros_like(down, dtype="int32")
        for cosine, sine in zip(np.cos(borders).round(15), np.sin(borders), strict=True):
            # Two products are compared, and not their difference, which compilers round in other ways.
            chosen = chosen + ops.cast(down * float(cosine) >= right * float(sine), "int32")
        return chosen

    def get_config(self) -> dict[str, Any]:
        return {"cell": self.cell, "orientations": self.orientations}


def _central_difference(x: Tensor, axis: int) -> Tensor:
    """Return `x[i + 1] - x[i - 1]` along an axis of images, 0 at both ends."""
    if x.shape[axis] < 3:
        return ops.zeros_like(x)
    first, last = (slice(None),) * axis + (slice(None, -2),), (slice(None),) * axis + (slice(2, None),)
    return ops.pad(x[last] - x[first], [(int(one == axis),) * 2 for one in range(4)])
