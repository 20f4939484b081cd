"""The drawing of heat maps: where images are unlike normal ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.visualize.figures import as_shown, four_dimensions, panel_grid, short_name, show_panel

__all__ = ["heat_maps"]

_LEAST = 3.0


def heat_maps(
    images: Any,
    maps: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    defects: Any = None,
    bands: int | Sequence[int] | None = None,
    pixel_range: PixelRange = BYTES,
) -> Any:
    """Draw images beside maps of how unlike normal ones their parts are, all maps of a column on one scale.

    A scale goes from 0, the mean of normal images' pixels, to the column's largest value, and at least to 3 standard
    deviations: what is cold in one picture is as cold in all others.

    Args:
        images: Images (batch, height, width, channels).
        maps: Maps (batch, height, width) by their titles, such as the `maps` of `anomaly.AnomalyScores`.
        names: Names of the images, such as their files', to write beside them.
        defects: Where the defects are, Boolean (batch, height, width), to outline them.
        bands: As in `reconstructions`.
        pixel_range: As in `overlays`.

    Returns:
        A matplotlib `Figure`, one row per image.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If images and maps do not fit one another, or there is no such channel.
    """
    images = four_dimensions("images", images)
    rule = f"maps {images.shape[:3]} by their titles, one for each image"
    if not isinstance(maps, Mapping) or not maps:
        raise _checks.argument_error("maps", rule, maps)
    arrays = {title: _of_images("maps", one, images.shape[:3], rule) for title, one in maps.items()}
    several = isinstance(names, Sequence) and not isinstance(names, str)
    if names is not None and not (several and [isinstance(name, str) for name in names] == [True] * len(images)):
        raise _checks.argument_error("names", "texts, one for each image", names)
    outlined = None
    if defects is not None:
        outlined = _of_images("defects", defects, images.shape[:3], f"Booleans {images.shape[:3]}, of each image")
    height, width = images.shape[1:3]
    shown = as_shown(images, bands, pixel_range)
    figure, grid = panel_grid(len(images), 1 + len(arrays), height / width, extra=0.5)
    tops = {title: max(_LEAST, float(one.max())) for title, one in arrays.items()}
    for row, axes in enumerate(grid):
        show_panel(axes[0], shown[row])
        if names is not None:
            axes[0].set_ylabel(short_name(names[row]), fontsize=5, parse_math=False)
        if outlined is not None and outlined[row].any():
            axes[0].contour(outlined[row].astype("float32"), levels=[0.5], colors=["red"], linewidths=0.8)
        for panel, (title, one) in zip(axes[1:], arrays.items(), strict=True):
            show_panel(panel, shown[row].mean(axis=-1, keepdims=True))
            show_panel(panel, one[row], cmap="inferno", alpha=0.65, vmin=0, vmax=tops[title])
    for panel, (title, top) in zip(grid[0, 1:], tops.items(), strict=True):
        panel.set_title(f"{title}\n0 to {top:.3g}", fontsize=7)
    outlines = outlined is not None and outlined.any()
    grid[0, 0].set_title("image\nred: outline of the defect" if outlines else "image", fontsize=7)
    figure.suptitle("standard deviations above the mean of normal images' pixels", fontsize=7)
    return figure


def _of_images(argument: str, given: Any, shape: tuple[int, ...], rule: str) -> np.ndarray:
    """Return finite numbers of this shape."""
    known = _checks.array(argument, given, rule)
    if known.shape != tuple(shape) or not np.isfinite(known).all():
        raise _checks.argument_error(argument, rule, given)
    return known
