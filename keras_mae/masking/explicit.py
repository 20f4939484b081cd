"""Masks that the caller drew."""

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.masking.base import Mask, order_of
from keras_mae.ops import concrete, require

__all__ = ["explicit_mask"]


def explicit_mask(
    mask: Tensor, grid: tuple[int, int], num_kept: int | None = None, patch_size: tuple[int, int] | None = None
) -> Mask:
    """Return a mask as the caller drew it.

    Args:
        mask: (batch, patches), (batch, rows, columns) or, with `patch_size`, (batch, height, width) in pixels;
            1 = removed, 0 = kept. A patch is removed if one of its pixels is. Patches of one pixel have as many rows
            as the image has, and both readings are the same. Rows and columns may be followed by one channel.
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
    _checks.has("mask", mask, ("shape", "dtype"), "an array or a tensor of 0 and 1")
    if isinstance(mask, np.ndarray) and mask.dtype.kind not in "biuf":
        raise ValueError(f"`mask` must hold 1 (removed) and 0 (kept) only. Received: mask.dtype={mask.dtype}")
    grid = _checks.pair("grid", grid)
    patches = grid[0] * grid[1]
    if num_kept is not None:
        _checks.int_within("num_kept", num_kept, 1, patches)
    patch_size = None if patch_size is None else _checks.pair("patch_size", patch_size)
    pixels = None if patch_size is None else (grid[0] * patch_size[0], grid[1] * patch_size[1])
    if len(mask.shape) == 4 and mask.shape[3] == 1:  # as an image
        mask = ops.squeeze(mask, axis=3)
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
    order = order_of(removed * patches + ops.arange(patches, dtype="int32"))
    return Mask(order[:, :num_kept], order[:, num_kept:])
