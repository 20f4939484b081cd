"""Which patches are removed: at random, in blocks, on a grid, or as the caller says.

Every masking is a function of the order of a sample's noise alone, so one kind of noise serves all, and
noise given by the caller may be integer or float. 1 = removed, 0 = kept, everywhere.
"""

from math import isqrt
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.ops import concrete, require
from keras_mae.random import mix

__all__ = ["BlockMasking", "GridMasking", "Mask", "Masking", "RandomMasking", "explicit_mask"]


class Mask(NamedTuple):
    """The patches of each sample, divided.

    Attributes:
        ids_keep: int32 (batch, kept), the visible patches in the order the encoder sees them.
        ids_removed: int32 (batch, removed), the patches to predict.
    """

    ids_keep: Tensor
    ids_removed: Tensor

    @property
    def mask(self) -> Tensor:
        """float32 (batch, patches), 1 = removed."""
        kept = self.ids_keep.shape[1]
        return ops.cast(self.ids_restore >= kept, "float32")

    @property
    def ids_restore(self) -> Tensor:
        """int32 (batch, patches): where each patch stands in the order [kept, removed]."""
        order = ops.concatenate([self.ids_keep, self.ids_removed], axis=1)
        return ops.cast(ops.argsort(order, axis=1), "int32")


def _order(noise: Tensor) -> Tensor:
    return ops.cast(ops.argsort(noise, axis=1), "int32")


class Masking(keras.layers.Layer):
    """What all maskings share: a ratio, and a call that turns noise into a `Mask`.

    Args:
        mask_ratio: Fraction of the patches to remove, in [0, 1).

    Call arguments:
        noise: (batch, patches), integer or float; its order decides.
        grid: (rows, columns) of patches.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the ratio is out of range or would leave nothing visible.
    """

    def __init__(self, mask_ratio: float = 0.75, **kwargs: Any):
        kwargs.setdefault("autocast", False)  # rounding the noise would make ties, and ties a bias
        super().__init__(**kwargs)
        self.mask_ratio = _checks.fraction("mask_ratio", mask_ratio)
        self.built = True  # no weights

    def num_kept(self, grid: tuple[int, int]) -> int:
        """Return how many patches stay visible: int(patches * (1 - mask_ratio)).

        The product is rounded at the tenth digit first, so that 0.9 of 10 patches leaves 1 and not, by the
        error of 1 - 0.9, none.
        """
        kept = int(round(grid[0] * grid[1] * (1 - self.mask_ratio), 10))
        if kept < 1:
            raise ValueError(
                f"`mask_ratio` must leave at least one patch visible. Received: mask_ratio={self.mask_ratio} "
                f"for a grid of {grid[0]} x {grid[1]} patches"
            )
        return kept

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        raise NotImplementedError(f"{type(self).__name__} must implement `call`.")

    def compute_output_spec(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        kept = self.num_kept(grid)
        removed = grid[0] * grid[1] - kept
        return Mask(
            keras.KerasTensor((noise.shape[0], kept), "int32"),
            keras.KerasTensor((noise.shape[0], removed), "int32"),
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mask_ratio": self.mask_ratio}


@keras.saving.register_keras_serializable(package="keras_mae")
class RandomMasking(Masking):
    """Removes patches uniformly at random: the method's own masking.

    Args:
        mask_ratio: Fraction of the patches to remove, in [0, 1).

    Call arguments:
        noise: (batch, patches); the patches with the smallest noise stay.
        grid: (rows, columns) of patches.

    Returns:
        A `Mask`.

    Raises:
        ValueError: If the ratio is out of range or would leave nothing visible.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 3, "Masking".
    """

    def call(self, noise: Tensor, grid: tuple[int, int]) -> Mask:
        order, kept = _order(noise), self.num_kept(grid)
        return Mask(order[:, :kept], order[:, kept:])


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
        order, patches = _order(noise), grid[0] * grid[1]
        removed = patches - self.num_kept(grid)
        centers = order[:, : self.NUM_BLOCKS]
        blocks = centers.shape[1]
        key = order[:, 0]
        for place in range(1, min(4, patches)):
            key = mix(key + order[:, place] * (2 * patches * place + 1))
        draws = mix(ops.expand_dims(key, 1) + ops.arange(blocks, dtype="int32") * 0x27D4EB2F)
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
        by_block = _order(ops.cast(first, "int32") * patches + token)
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
        place = _order(noise)[:, :1] % self.side**2
        token = ops.arange(patches, dtype="int32")
        row, column = token // grid[1], token % grid[1]
        visible = ops.equal(row % self.side * self.side + column % self.side, place)
        order = _order(ops.where(visible, 0, patches) + token)
        return Mask(order[:, :kept], order[:, kept:])


def explicit_mask(
    mask: Tensor, grid: tuple[int, int], num_kept: int | None = None, patch_size: tuple[int, int] | None = None
) -> Mask:
    """Return a mask as the caller drew it.

    Args:
        mask: (batch, patches), (batch, rows, columns) or, with `patch_size`, (batch, height, width) in pixels;
            1 = removed, 0 = kept. A patch is removed if one of its pixels is. Patches of one pixel have as many rows
            as the image has, and both readings are the same.
        grid: (rows, columns) of patches.
        num_kept: Number of patches that the model's masking keeps in every sample. `None` takes any, and counts
            them, which only eager code can do.
        patch_size: (height, width) of a patch, if the mask may be in pixels.

    Returns:
        A `Mask`, both sides in reading order.

    Raises:
        ValueError: If the shape does not fit the grid, if there is anything but 0 and 1, or if samples of
            one batch keep different numbers of patches, none, or another number than `num_kept`.
    """
    patches = grid[0] * grid[1]
    pixels = None if patch_size is None else (grid[0] * patch_size[0], grid[1] * patch_size[1])
    shape = tuple(mask.shape[1:])
    if shape not in ((patches,), tuple(grid), pixels):
        in_pixels = "" if pixels is None else f", or (batch, {pixels[0]}, {pixels[1]}) in pixels"
        raise ValueError(
            f"`mask` must have shape (batch, {patches}) or (batch, {grid[0]}, {grid[1]}){in_pixels}. "
            f"Received: mask.shape={tuple(mask.shape)}"
        )
    values = ops.cast(mask, "float32")
    require(
        ops.all(ops.logical_or(ops.equal(values, 0.0), ops.equal(values, 1.0))),
        "`mask` must hold 1 (removed) and 0 (kept) only. Received: other values, from {} to {}",
        ops.min(values),
        ops.max(values),
    )
    if pixels is not None and shape == pixels:
        height, width = pixels[0] // grid[0], pixels[1] // grid[1]
        values = ops.max(ops.reshape(values, (-1, grid[0], height, grid[1], width)), axis=(2, 4))
    removed = ops.cast(ops.reshape(values, (-1, patches)), "int32")
    return _divided(removed, num_kept)


def _divided(removed: Tensor, num_kept: int | None) -> Mask:
    """Return the patches that are removed, int32 (batch, patches), and the others, `num_kept` of them if given."""
    patches = removed.shape[1]
    kept = ops.sum(1 - removed, axis=1)
    fewest, most = ops.min(kept), ops.max(kept)
    wanted = num_kept
    if num_kept is None:
        known = concrete(kept)
        if known is None:
            raise ValueError("`num_kept` must be given in compiled code, where the mask cannot be counted.")
        num_kept = int(known[0])
    require(
        ops.equal(fewest, most),
        f"`mask` must keep the same number of patches in every image, here {num_kept} of {patches}: where it removes "
        "fewer, set more of them to 1. Received: from {} to {}",
        fewest,
        most,
    )
    require(ops.greater(most, 0), "`mask` must leave at least one patch of every image visible. Received: none")
    if wanted is not None:
        # Rounded down: one more patch would be lost to a ratio that is a little too high.
        ratio = ops.cast((patches - fewest) * 10_000 // patches, "float32") / 10_000
        require(
            ops.logical_or(fewest < most, ops.equal(fewest, num_kept)),
            f"`mask` must remove as many patches as the model's masking, {patches - num_kept} of {patches} "
            f"(mask_ratio {(patches - num_kept) / patches:.4g}). Received: {{}} of {patches} (mask_ratio {{:.4g}}). "
            "masking=RandomMasking({:.4g}) fits such masks: give it to the model, or to `mae.copy`",
            patches - fewest,
            ratio,
            ratio,
        )
    order = _order(removed * patches + ops.arange(patches, dtype="int32"))
    return Mask(order[:, :num_kept], order[:, num_kept:])
