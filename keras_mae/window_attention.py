"""Attention within windows of patches, which keeps large images affordable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.fused_attention import attention

__all__ = ["Windows", "check_full_attention", "checked_global_blocks", "rearranged"]


def checked_global_blocks(
    window: int | None, blocks: int | Sequence[int] | None, depth: int
) -> tuple[int, ...] | None:
    """Return the indices from 0 of the blocks without windows, by default the last of each quarter of a depth.

    Args:
        window: Side of the windows in patches, or `None`.
        blocks: Indices of the blocks, negative ones from the end, or `None`.
        depth: Number of blocks.

    Raises:
        ValueError: If there is no such block, no window, or no block that is left to it.
    """
    if window is None:
        if blocks is not None:
            raise ValueError(
                f"`global_blocks` takes a `window` for the other blocks. Received: global_blocks={blocks}"
            )
        return None
    if blocks is None:
        if depth < 5:
            raise ValueError(
                "`global_blocks` must be given for less than five blocks, since by default four have no windows. "
                f"Received: window={window}, global_blocks=None, depth={depth}"
            )
        return tuple(quarter * depth // 4 - 1 for quarter in (1, 2, 3, 4))
    if isinstance(blocks, list | tuple) and not blocks:
        return ()
    rule = f"indices of blocks, from {-depth} to {depth - 1}"
    found = {index % depth for index in _checks.indices("global_blocks", blocks, -depth, depth, rule)}
    if len(found) == depth:
        raise _checks.argument_error("global_blocks", "such that some blocks are left to the windows", blocks)
    return tuple(sorted(found))


def check_full_attention(window: int | None) -> None:
    """Raise a `ValueError` if there are windows, where an encoder sees some of the patches only."""
    if window is not None:
        raise ValueError(
            "`window` must be None where an encoder sees some of the patches only, as in pre-training, because "
            f"windows need all of theirs; `encoder.copy(window=None)` makes it so. Received: window={window}"
        )


def rearranged(x: Tensor, old: Windows | None, new: Windows | None) -> Tensor:
    """Return tokens in another order than they were in; `None` stands for reading order."""
    if old == new:
        return x
    x = x if old is None else old.joined(x)
    return x if new is None else new.split(x)


@dataclass(frozen=True)
class Windows:
    """Windows that share a grid of patches without overlap, and the attention of tokens within them.

    A patch attends to the patches of its window and to the class tokens, a class token to all tokens: what full
    attention does with a mask. So one window over all patches is full attention, also of the class tokens.

    Tokens come in the order of windows, the class tokens first, then the patches of one window after the other, row
    by row. In that order attention needs no copy of the tokens, and what treats each token by itself can stay as it
    is. Windows that reach beyond the grid are filled up with tokens to which nothing attends.

    Args:
        grid: (rows, columns) of patches.
        window: Side of a window in patches; on a side of the grid that is shorter, that side.
        class_tokens: Number of class tokens.

    Reference: "Exploring Plain Vision Transformer Backbones for Object Detection" (ViTDet), section 3, whose blocks
    have no class token.
    """

    grid: tuple[int, int]
    window: int
    class_tokens: int

    @property
    def sides(self) -> tuple[int, int]:
        """Rows and columns of patches of a window."""
        return min(self.window, self.grid[0]), min(self.window, self.grid[1])

    @property
    def counts(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        (rows, columns), (height, width) = self.grid, self.sides
        return -(-rows // height), -(-columns // width)

    def allowed(self) -> np.ndarray:
        """Return which tokens each token attends to, bool (tokens, tokens), in reading order."""
        row, column = (np.arange(side) // of_window for side, of_window in zip(self.grid, self.sides, strict=True))
        number = (row[:, None] * self.counts[1] + column).ravel()  # of each patch's window
        allowed = np.ones((self.class_tokens + number.size,) * 2, bool)
        allowed[self.class_tokens :, self.class_tokens :] = number[:, None] == number
        return allowed

    @property
    def _missing(self) -> tuple[int, int]:
        """Rows and columns that the windows have and the grid has not."""
        return self.counts[0] * self.sides[0] - self.grid[0], self.counts[1] * self.sides[1] - self.grid[1]

    @cached_property
    def _is_patch(self) -> np.ndarray | None:
        """Which tokens of each window are patches, bool (windows, patches); `None` if all are."""
        if self._missing == (0, 0):
            return None
        (down, across), (height, width) = self.counts, self.sides
        known = np.pad(np.ones(self.grid, bool), [(0, missing) for missing in self._missing])
        return known.reshape(down, height, across, width).transpose(0, 2, 1, 3).reshape(down * across, -1)

    # === Orders ===
    def split(self, x: Tensor) -> Tensor:
        """Return tokens in the order of windows, filled up with zeros, of tokens in reading order.

        Args:
            x: (batch, class_tokens + rows * columns, dim).

        Returns:
            (batch, class_tokens + windows * patches of a window, dim).
        """
        first, dim = self.class_tokens, x.shape[-1]
        (down, across), (height, width) = self.counts, self.sides
        patches = ops.reshape(x[:, first:], (-1, *self.grid, dim))
        if self._is_patch is not None:
            patches = ops.pad(patches, ((0, 0), *((0, missing) for missing in self._missing), (0, 0)))
        # Two pairs of neighboring axes stay together, so that four do: not every runtime takes six.
        patches = ops.transpose(ops.reshape(patches, (-1, height, across, width * dim)), (0, 2, 1, 3))
        patches = ops.reshape(patches, (-1, down * across * height * width, dim))
        return ops.concatenate([x[:, :first], patches], axis=1) if first else patches

    def joined(self, x: Tensor) -> Tensor:
        """Return tokens in reading order, of what `split` returned."""
        first, dim, (rows, columns) = self.class_tokens, x.shape[-1], self.grid
        (down, across), (height, width) = self.counts, self.sides
        patches = ops.transpose(ops.reshape(x[:, first:], (-1, across, height, width * dim)), (0, 2, 1, 3))
        patches = ops.reshape(patches, (-1, down * height, across * width, dim))[:, :rows, :columns]
        patches = ops.reshape(patches, (-1, rows * columns, dim))
        return ops.concatenate([x[:, :first], patches], axis=1) if first else patches

    # === Attention ===
    def attention(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what each token takes of those it attends to.

        Args:
            query: (batch, tokens, heads, dim), in the order of windows.
            key: As `query`.
            value: As `query`.

        Returns:
            (batch, tokens, heads, dim).
        """
        first, (heads, dim) = self.class_tokens, query.shape[2:]
        windows, patches = math.prod(self.counts), math.prod(self.sides)

        def by_window(x: Tensor) -> Tensor:
            return ops.reshape(x[:, first:], (-1, patches, heads, dim))

        def with_class_tokens(x: Tensor) -> Tensor:
            if not first:
                return by_window(x)
            # A repetition would be a gather, for which XLA collects a batch that is on several devices.
            shared = ops.broadcast_to(x[:, None, :first], (ops.shape(x)[0], windows, first, heads, dim))
            return ops.concatenate([ops.reshape(shared, (-1, first, heads, dim)), by_window(x)], axis=1)

        mixed = attention(
            by_window(query), with_class_tokens(key), with_class_tokens(value), mask=self._mask_of_windows(query)
        )
        mixed = ops.reshape(mixed, (-1, windows * patches, heads, dim))
        if not first:
            return mixed
        taken = attention(query[:, :first], key, value, mask=self._mask_of_class_tokens())
        return ops.concatenate([taken, mixed], axis=1)

    def _mask_of_windows(self, query: Tensor) -> Tensor | None:
        """Return what a patch may attend to, bool (batch * windows, 1, 1, class tokens + patches)."""
        if self._is_patch is None:
            return None
        known = np.pad(self._is_patch, ((0, 0), (self.class_tokens, 0)), constant_values=True)
        shape = (ops.shape(query)[0], *known.shape)
        mask = ops.broadcast_to(ops.convert_to_tensor(known[None]), shape)
        return ops.reshape(mask, (-1, 1, 1, known.shape[1]))

    def _mask_of_class_tokens(self) -> Tensor | None:
        """Return what a class token may attend to, bool (1, 1, 1, tokens)."""
        if self._is_patch is None:
            return None
        known = np.pad(self._is_patch.ravel(), (self.class_tokens, 0), constant_values=True)
        return ops.convert_to_tensor(known[None, None, None])
