"""Images beside those that are most like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.visualize.figures import as_shown, panel_grid, show_panel

__all__ = ["neighbors"]

_LONGEST = 20  # letters under a picture


def neighbors(
    rows: Sequence[Sequence[np.ndarray | None]],
    titles: Sequence[Sequence[str]],
    *,
    bands: int | Sequence[int] | None = None,
    pixel_range: PixelRange = BYTES,
) -> Any:
    """Draw a grid of pictures, a row a query: the query first, then the images nearest to it.

    Args:
        rows: Images (height, width, channels) of each row; `None` for one that is not there, whose place stays gray.
        titles: Text over each image, such as its cosine and the end of its name.
        bands: Channels to show, as for `reconstructions`.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have.

    Returns:
        A matplotlib `Figure`; `figure.savefig(path)` writes it.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is nothing to show, or titles and images are not equally many.
    """
    rule = "rows of images, or None for one that is not there, with as many titles"
    for argument, value in (("rows", rows), ("titles", titles)):
        several = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
        if not several or not all(isinstance(row, Sequence) and not isinstance(row, str) for row in value):
            raise _checks.argument_error(argument, rule, value)
    if [*map(len, rows)] != [*map(len, titles)] or not any(map(len, rows)):
        raise _checks.argument_error("titles", rule, [*map(len, titles)])
    there = [image for row in rows for image in row if image is not None]
    if not all(isinstance(image, np.ndarray) and image.ndim == 3 for image in there):
        raise _checks.argument_error("rows", rule, type(there[0]).__name__)
    height, width = there[0].shape[:2] if there else (1, 1)
    figure, grid = panel_grid(len(rows), max(map(len, rows)), height / width + 0.25)
    for axes, images, texts in zip(grid, rows, titles, strict=True):
        for panel in axes[len(images) :]:
            panel.set_axis_off()
        for panel, image, text in zip(axes, images, texts, strict=False):
            show_panel(panel, np.full((1, 1, 1), 0.8) if image is None else as_shown(image, bands, pixel_range))
            panel.set_title(_shortened(text), fontsize=6, parse_math=False)
    return figure


def _shortened(text: str) -> str:
    """Return a title whose lines are cut at the front: names differ at their ends."""
    lines = text.encode("utf-8", "replace").decode().split("\n")
    return "\n".join(line if len(line) <= _LONGEST else f"...{line[3 - _LONGEST :]}" for line in lines)
