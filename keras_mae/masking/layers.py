"""The paper's maskings: patches or cells of patches at random, blocks, and a grid."""

from math import isqrt
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.masking.base import Mask, Masking, order_of, second_draws

__all__ = ["BlockMasking", "GridMasking", "RandomMasking"]


@keras.saving.register_keras_serializable(package="keras_mae")
class RandomMasking(Masking):
    """Removes patches, or square cells of patches, uniformly at random: the method's own masking.

    Cells are laid out from the upper left corner; where they do not divide the grid, those at the right and at the
    bottom are cut. Cells stay in the order of the noise of their upper left patches until exactly `num_kept` patches
    do. The last of them may be too large: then only some of its patches stay, drawn anew, so that no place in a cell
    is preferred. The number of patches that stay is that of cells of one patch.

    Args:
        mask_ratio: Fraction of the patches to remove, in [0, 1).
        cell: Number of patches along each side of a cell. Larger cells make the task harder: less of what is removed
            can be guessed from the patch beside it.

    Call arguments:
        noise: (batch, patches); the patches, or cells, with the smallest noise stay.
        grid: (rows, columns) of patches.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the ratio is out of range or would leave nothing visible, or one cell covers the grid.

    Example:
        >>> masking = keras_mae.RandomMasking(0.75, cell=2)
        >>> masking.num_kept((7, 7))  # three cells of 2 x 2, or more where the cells are cut
        12

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 3, "Masking". Cells: "In Pursuit of Pixel
        Supervision for Visual Pre-training" (arXiv 2512.15715), with 4 x 4 patches.
    """

    def __init__(self, mask_ratio: float = 0.75, cell: int = 1, **kwargs: Any):
        super().__init__(mask_ratio, **kwargs)
        self.cell = _checks.positive_int("cell", cell)

    def num_kept(self, grid: tuple[int, int]) -> int:
        if 1 < self.cell >= max(grid):
            raise ValueError(
                f"`cell` must be smaller than the grid of patches, so that there are cells to choose from. Received: "
                f"cell={self.cell} for a grid of {grid[0]} x {grid[1]} patches"
            )
        return super().num_kept(grid)

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        kept = self.num_kept(grid)
        order = order_of(noise) if self.cell == 1 else self._by_cell(noise, grid, kept)
        return Mask(order[:, :kept], order[:, kept:])

    def _by_cell(self, noise: Tensor, grid: tuple[int, int], kept: int) -> Tensor:
        """Return int32 (batch, patches): the patches, cell by cell."""
        patches, side = grid[0] * grid[1], self.cell
        row, column = np.divmod(np.arange(patches), grid[1])
        cell_of = row // side * -(-grid[1] // side) + column // side
        corners = np.flatnonzero((row % side == 0) & (column % side == 0))
        places = order_of(order_of(ops.take(noise, corners, axis=1)))  # the place of each cell
        key = ops.take(places, cell_of.astype("int32"), axis=1)
        if kept % side**2 or grid[0] % side or grid[1] % side:  # a cell may have to be divided
            bits = 31 - len(corners).bit_length()
            within = ops.bitwise_and(second_draws(order_of(noise), patches), (1 << bits) - 1)
            key = key * (1 << bits) + within
        return order_of(key)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "cell": self.cell}


@keras.saving.register_keras_serializable(package="keras_mae")
class BlockMasking(Masking):
    """Removes rectangles of neighboring patches until exactly the ratio is reached.

    A sample's rectangles are centered on its patches in the order of their noise. Their sizes come from a
    table of 64: areas from 8 to 40 % of the grid, aspect ratios from 0.3 to 1 / 0.3, chosen by integer
    arithmetic, so that masks agree to the bit between backends. The last rectangle is cut off at the count,
    row by row.

    Args:
        mask_ratio: Fraction of the patches to remove, in [0, 1). The paper finds 0.5 better than 0.75 here.

    Call arguments:
        noise: (batch, patches), integer or float.
        grid: (rows, columns) of patches.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the ratio is out of range or would leave nothing visible.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", figure 6 and table 1f; the rectangles
        follow "BEiT: BERT Pre-Training of Image Transformers", section 2.3.
    """

    NUM_BLOCKS = 32

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        order, patches = order_of(noise), grid[0] * grid[1]
        removed = patches - self.num_kept(grid)
        centers = order[:, : self.NUM_BLOCKS]
        blocks = centers.shape[1]
        draws = second_draws(order, blocks)
        sizes = ops.take(
            ops.convert_to_tensor(self._sizes(grid)), ops.bitwise_and(draws, 63), axis=0
        )  # (batch, blocks, 2)

        token = ops.arange(patches, dtype="int32")
        row, column = token // grid[1], token % grid[1]
        top = centers // grid[1] - sizes[..., 0] // 2
        left = centers % grid[1] - sizes[..., 1] // 2

        def inside(place: Tensor, start: Tensor, size: Tensor) -> Tensor:
            offset = place - ops.expand_dims(start, 2)  # (batch, blocks, patches)
            return ops.logical_and(offset >= 0, offset < ops.expand_dims(size, 2))

        covers = ops.logical_and(inside(row, top, sizes[..., 0]), inside(column, left, sizes[..., 1]))
        number = ops.expand_dims(ops.arange(blocks, dtype="int32"), 1)
        first = ops.min(ops.where(covers, number, blocks), axis=1)  # (batch, patches)
        by_block = order_of(ops.cast(first, "int32") * patches + token)
        return Mask(by_block[:, removed:], by_block[:, :removed])

    @staticmethod
    def _sizes(grid: tuple[int, int]) -> np.ndarray:
        """Return int32 (64, 2): heights and widths of the rectangles, in patches."""
        area: np.ndarray = np.repeat(np.linspace(0.08, 0.4, 8), 8) * grid[0] * grid[1]
        aspect = np.tile(np.geomspace(0.3, 1 / 0.3, 8), 8)
        size = np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1)
        sizes: np.ndarray = np.clip(np.rint(size), 1, grid).astype("int32")
        return sizes


@keras.saving.register_keras_serializable(package="keras_mae")
class GridMasking(Masking):
    """Keeps one patch of every square cell, at the same place in all cells; the noise chooses the place.

    Args:
        mask_ratio: 1 - 1 / side**2 for cells of side × side patches: 0.75 (2 × 2), 0.889 (3 × 3), 0.9375
            (4 × 4), ...

    Call arguments:
        noise: (batch, patches), integer or float.
        grid: (rows, columns) of patches; the cells must divide it.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If no cell gives the ratio, or the cells do not divide the grid.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", figure 6 and table 1f.
    """

    def __init__(self, mask_ratio: float = 0.75, **kwargs: Any):
        super().__init__(mask_ratio, **kwargs)
        self.side = isqrt(round(1 / (1 - self.mask_ratio)))
        if self.side < 2 or abs(1 - 1 / self.side**2 - self.mask_ratio) > 1e-3:
            raise _checks.argument_error(
                "mask_ratio", "1 - 1 / side**2 for a grid: 0.75, 0.889, 0.9375, ...", mask_ratio
            )

    def num_kept(self, grid: tuple[int, int]) -> int:
        if grid[0] % self.side or grid[1] % self.side:
            raise ValueError(
                f"The cells of a grid masking must divide the grid of patches. Received: cells of "
                f"{self.side} x {self.side} (mask_ratio={self.mask_ratio}) for {grid[0]} x {grid[1]} patches"
            )
        return grid[0] * grid[1] // self.side**2

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        patches, kept = grid[0] * grid[1], self.num_kept(grid)
        place = order_of(noise)[:, :1] % self.side**2
        token = ops.arange(patches, dtype="int32")
        row, column = token // grid[1], token % grid[1]
        visible = ops.equal(row % self.side * self.side + column % self.side, place)
        order = order_of(ops.where(visible, 0, patches) + token)
        return Mask(order[:, :kept], order[:, kept:])
