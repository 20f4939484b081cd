"""Fixed 2-D sine-cosine positions for any grid, and their resize to another grid."""

from __future__ import annotations

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor

__all__ = ["grids_of", "resize_positions", "sincos_grid", "sincos_positions"]


def sincos_positions(grid: tuple[int, int], embed_dim: int) -> np.ndarray:
    """Return the table of positions of a grid of patches, below a row of zeros for the class token.

    The first half of the channels encodes the column, the second the row; each half is [sin, cos] with
    frequencies 10000**(-i / (embed_dim / 4)).

    Args:
        grid: (rows, columns) of patches.
        embed_dim: Width of the table, a multiple of 4.

    Returns:
        float32 (1 + rows * columns, embed_dim), computed in float64.

    Raises:
        ValueError: If `embed_dim` is not a multiple of 4.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1.
    """
    rows, columns = _checks.pair("grid", grid)
    if _checks.positive_int("embed_dim", embed_dim) % 4:
        raise _checks.argument_error("embed_dim", "a multiple of 4", embed_dim)
    omega = 10000.0 ** -(np.arange(embed_dim // 4) / (embed_dim / 4))

    def encode(places: np.ndarray) -> np.ndarray:
        angles = np.outer(places, omega)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    row, column = np.divmod(np.arange(rows * columns), columns)
    table = np.concatenate([encode(column), encode(row)], axis=1)
    return np.concatenate([np.zeros((1, embed_dim)), table]).astype("float32")


def grids_of(patches: int) -> list[tuple[int, int]]:
    """Return all grids (rows, columns) of a number of patches, those nearest to a square first."""
    rows = [row for row in range(1, patches + 1) if patches % row == 0]
    return sorted(((row, patches // row) for row in rows), key=lambda grid: abs(grid[0] - grid[1]))


def sincos_grid(table: np.ndarray) -> tuple[int, int] | None:
    """Return the grid whose sine-cosine positions a table holds; `None` if they are learned or resized ones.

    Pre-training keeps these positions fixed, so that most tables tell the rows and columns they are for.

    Args:
        table: (1 + rows * columns, embed_dim), the class token's row first; rounded to bfloat16 at worst.
    """
    if table.ndim != 2 or len(table) < 2 or not table.shape[1] or table.shape[1] % 4:
        return None
    for grid in grids_of(len(table) - 1):
        if np.allclose(table[1:], sincos_positions(grid, table.shape[1])[1:], rtol=0, atol=1e-2):
            return grid
    return None


def resize_positions(table: np.ndarray, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    """Resize a table of positions to another grid, bicubically in two dimensions.

    Args:
        table: (1 + rows * columns, embed_dim), the class token's row first.
        old_grid: (rows, columns) of the table.
        new_grid: (rows, columns) wanted.

    Returns:
        float32 (1 + new rows * new columns, embed_dim); the class token's row is kept. The table itself
        where the grids agree.

    Raises:
        ValueError: If `table` does not have the old grid's number of rows.
    """
    table = _checks.array("table", table, "an array of numbers (1 + rows * columns, embed_dim)")
    table = np.asarray(table, "float32")
    old, new = _checks.pair("old_grid", old_grid), _checks.pair("new_grid", new_grid)
    if table.ndim != 2 or len(table) != 1 + old[0] * old[1]:
        raise ValueError(
            f"`table` must have shape (1 + {old[0] * old[1]}, embed_dim) for old_grid={old}. "
            f"Received: table.shape={table.shape}"
        )
    if old == new:
        return table
    patches = table[1:].reshape(*old, -1).astype("float64")
    rows, columns = _cubic_weights(old[0], new[0]), _cubic_weights(old[1], new[1])
    patches = np.einsum("ar,bc,rcd->abd", rows, columns, patches, optimize=True)
    return np.concatenate([table[:1], patches.reshape(new[0] * new[1], -1).astype("float32")])


def resized_on_the_fly(table: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Return what `resize_positions` does, of a weight that may learn: gradients go through the resize.

    Each new position is a sum of four times four old ones, taken out and added up in float32. A matrix product would
    do the same, but accelerators may round its factors to 10 bits.

    Args:
        table: float32 (1 + rows * columns, embed_dim), the class token's row first.
        old_grid: (rows, columns) of the table.
        new_grid: (rows, columns) wanted.

    Returns:
        float32 (1 + new rows * new columns, embed_dim); the table itself where the grids agree.
    """
    if old_grid == new_grid:
        return table
    (rows, row_weights), (columns, column_weights) = map(_cubic_taps, old_grid, new_grid)
    x = ops.reshape(table[1:], (*old_grid, -1))
    taken = ops.take(x, ops.convert_to_tensor(rows), axis=0)  # (new rows, 4, columns, embed_dim)
    x = ops.sum(taken * ops.convert_to_tensor(row_weights[..., None, None], dtype="float32"), axis=1)
    taken = ops.take(x, ops.convert_to_tensor(columns), axis=1)  # (new rows, new columns, 4, embed_dim)
    x = ops.sum(taken * ops.convert_to_tensor(column_weights[..., None], dtype="float32"), axis=2)
    return ops.concatenate([table[:1], ops.reshape(x, (new_grid[0] * new_grid[1], -1))])


def _cubic_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which four old places make each new one, int32 (new, 4), and their weights, (new, 4).

    A 1-D cubic resize: half-pixel centers, edges repeated, a = -0.75. Those are the conventions of the resize that
    fine-tuning code for this method uses; TensorFlow and JAX take a = -0.5, so the resize is written out here and
    gives the same table on every backend.
    """
    a = -0.75
    center = (np.arange(new) + 0.5) * old / new - 0.5
    places = np.floor(center).astype(int)[:, None] + np.arange(-1, 3)
    d = np.abs(center[:, None] - places)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    weights = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return np.clip(places, 0, old - 1).astype("int32"), weights


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """Return the same as a matrix, (new, old)."""
    places, taps = _cubic_taps(old, new)
    weights = np.zeros((new, old))
    for place, tap in zip(places.T, taps.T, strict=True):
        np.add.at(weights, (np.arange(new), place), tap)
    return weights
