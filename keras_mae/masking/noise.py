"""Masks from noise of one band of spatial frequencies: removed patches that come in spots of one size."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.masking.base import Mask, Masking, order_of

__all__ = ["COLORS", "NoiseMasking"]

COLORS = ("green", "red", "blue", "purple")
"""Bands of frequencies: the middle ones, the low ones, the high ones, and all but the middle ones."""

_PASSES = 4  # of the coarse filter; the fine one is one pass
_RANKS = 12  # bits that the filters get, so that their sums stay within int32 on grids of any size


@keras.saving.register_keras_serializable(package="keras_mae")
class NoiseMasking(Masking):
    """Keeps the patches where noise of one band of frequencies, a color, is strongest.

    "red" is low-pass: what stays comes in large spots. "green" is band-pass: spots of about two patches, evenly
    spread. "blue" is high-pass: single patches, rarely side by side. "purple" is band-stop, red and blue together.

    The patches' places in the order of their noise are filtered on the grid of patches, whose borders are joined, so
    that none is special: every patch stays equally often. The filters are repeated (1, 2, 1) / 4 along rows and
    columns, Gaussians to the eye: of 1 (standard deviation 0.7 patches) and 4 passes (1.4 patches). "red" is the
    second, "green" their difference, "blue" what the first takes away, "purple" the noise less twice "green". All of
    it is integer arithmetic, so masks agree to the bit between backends; the noise itself decides between equals.
    Which end of the band stays makes no difference: the noise is symmetric.

    Args:
        mask_ratio: Fraction of the patches to remove, in [0, 1).
        color: "green", the best in the paper, "red", "blue" or "purple".

    Call arguments:
        noise: (batch, patches), integer or float; its order decides.
        grid: (rows, columns) of patches.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the ratio is out of range or would leave nothing visible, or there is no such color.

    Example:
        >>> mae = keras_mae.MaskedAutoencoder(encoder, masking=keras_mae.NoiseMasking(0.75, "green"))

    Reference: "ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders" (arXiv 2407.13036),
        whose noise is drawn and filtered beforehand, at more points than there are patches.
    """

    def __init__(self, mask_ratio: float = 0.75, color: str = "green", **kwargs: Any):
        super().__init__(mask_ratio, **kwargs)
        self.color: str = _checks.one_of("color", color, COLORS)

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        kept, patches = self.num_kept(grid), grid[0] * grid[1]
        order = order_of(noise)
        ranks = ops.right_shift(order_of(order), max(patches.bit_length() - _RANKS, 0))
        band = ops.reshape(_filtered(ranks, grid, self.color), (-1, patches))
        # Sorted from the order of the noise, so that equals stay in it, and not in that of the patches.
        strongest = order_of(-ops.take_along_axis(band, order, axis=1))
        by_band = ops.take_along_axis(order, strongest, axis=1)
        return Mask(by_band[:, :kept], by_band[:, kept:])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "color": self.color}


def _filtered(x: Tensor, grid: tuple[int, int], color: str) -> Tensor:
    """Return integers (batch, patches) filtered on their grid, (batch, rows, columns), times 16 or 16**4.

    No sum exceeds 5 * 16**4 * 2**12 < 2**31: the weights of "purple" are at most 1, 2 and 2 in all.
    """
    passes = 1 if color == "blue" else _PASSES
    row, column = (np.arange(-passes, size + passes) % size for size in grid)  # continued beyond the joined borders
    x = ops.take(x, (row[:, None] * grid[1] + column).reshape(-1).astype("int32"), axis=1)
    x = ops.reshape(x, (-1, len(row), len(column)))
    fine = _blurred(x)
    if color == "blue":
        return 16 * _inner(x, 1) - fine
    coarse = fine
    for _ in range(_PASSES - 1):
        coarse = _blurred(coarse)
    if color == "red":
        return coarse
    green = 16 ** (_PASSES - 1) * _inner(fine, _PASSES - 1) - coarse
    return green if color == "green" else 16**_PASSES * _inner(x, _PASSES) - 2 * green


def _blurred(x: Tensor) -> Tensor:
    """Return 16 times the mean of each place and its neighbors, weighted (1, 2, 1) both ways, without the border."""
    for _ in range(2):  # (1, 1) twice is (1, 2, 1)
        x = x[:, 1:] + x[:, :-1]
        x = x[:, :, 1:] + x[:, :, :-1]
    return x


def _inner(x: Tensor, border: int) -> Tensor:
    """Return (batch, rows, columns) without a border of so many places."""
    return x[:, border:-border, border:-border]
