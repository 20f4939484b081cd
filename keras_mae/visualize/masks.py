"""Masks of several kinds, drawn side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.masking import Masking, NoiseMasking, RandomMasking
from keras_mae.masking.names import describe
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.random import EVALUATION_STEP, hash_noise
from keras_mae.visualize.figures import as_shown, four_dimensions, panel_grid, show_panel

__all__ = ["maskings"]

_GRAY = 0.5


def maskings(
    images: Any,
    patch_size: int | tuple[int, int],
    kinds: Sequence[Masking] | None = None,
    *,
    seed: int = 0,
    bands: int | Sequence[int] | None = None,
    pixel_range: PixelRange = BYTES,
) -> Any:
    """Draw what several maskings leave visible of the same images: a row for each masking, a column for each image.

    All maskings get the same noise, so that nothing else differs.

    Args:
        images: Images (batch, height, width, channels).
        patch_size: Side of a patch in pixels, or (height, width).
        kinds: Maskings; by default, with 75 % removed, random ones of patches and of cells of 2 x 2, and all four
            colors of filtered noise.
        seed: Seed for the masks.
        bands: Channels to show, as in `reconstructions`.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have.

    Returns:
        A matplotlib `Figure`; removed patches are gray in it.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the patches do not divide the images, or a masking does not fit their grid.

    Example:
        >>> images, _ = keras_mae.data.load_builtin("fashion_mnist", "test")
        >>> keras_mae.visualize.maskings(images[:6], patch_size=4).savefig("maskings.png")
    """
    array = four_dimensions("images", images)
    patch = _checks.pair("patch_size", patch_size)
    grid = _checks.grid(array.shape[1:], patch)
    if kinds is None:
        colors = ("red", "green", "blue", "purple")
        kinds = [RandomMasking(), RandomMasking(cell=2), *(NoiseMasking(color=color) for color in colors)]
    if not isinstance(kinds, Sequence) or not kinds or not all(isinstance(kind, Masking) for kind in kinds):
        raise _checks.argument_error("kinds", "maskings, such as RandomMasking(0.75)", kinds)
    index = ops.arange(len(array), dtype="int32")
    noise = hash_noise(_checks.seed_int("seed", seed), EVALUATION_STEP, index, grid[0] * grid[1])
    pictures = as_shown(array, bands, pixel_range)
    figure, rows = panel_grid(len(kinds), len(array), array.shape[1] / array.shape[2])
    for axes, kind in zip(rows, kinds, strict=True):
        mask = ops.convert_to_numpy(kind(noise, grid=grid).mask).reshape(-1, *grid)
        removed = mask.repeat(patch[0], axis=1).repeat(patch[1], axis=2)[..., None] == 1
        for place, picture in zip(axes, np.where(removed, _GRAY, pictures), strict=True):
            show_panel(place, picture)
        axes[0].set_ylabel(f"{describe(kind)}\n{mask.mean():.0%} removed".replace(", ", "\n"), fontsize=8)
    return figure
