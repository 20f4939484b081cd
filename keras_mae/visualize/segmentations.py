"""The drawing of segmentations: image, truth, prediction, and where the two differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae._colors import class_colors
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.visualize.figures import as_shown, panel_grid, short_name, show_panel

__all__ = ["segmentations"]

_RIGHT, _WRONG, _IGNORED = (215, 215, 215), (0, 0, 0), (255, 255, 255)
_MOST_NAMED = 40
_LINE = 0.16  # inches of a line of the legend
_COLUMNS = 4


def segmentations(
    images: Any,
    masks: Any,
    predictions: Any,
    class_names: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    ignore_label: int = 255,
    bands: int | Sequence[int] | None = None,
    pixel_range: PixelRange = BYTES,
) -> Any:
    """Draw images beside their masks, what was predicted, and where that is wrong.

    Each class has a color of its own, which the legend names; pixels of no class are white. In the last column wrong
    pixels are black, and right ones gray.

    Args:
        images: Images (height, width, channels) in a list, or in an array.
        masks: Their true labels (height, width), integers. They may have another size than the image.
        predictions: Predicted classes, integers, each of the shape of its mask.
        class_names: Names of the classes, in the order of the labels.
        names: Names of the images, such as their files', to write beside them.
        ignore_label: Label of the pixels that belong to no class.
        bands: As in `reconstructions`.
        pixel_range: As in `overlays`.

    Returns:
        A matplotlib `Figure`, one row per image.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If images, masks and predictions do not fit one another, or a label is that of no class.

    Example:
        >>> predicted = [logits.argmax(-1) for logits in segmenter.predict(images)]
        >>> figure = keras_mae.visualize.segmentations(images, masks, predicted, segmenter.class_names)
        >>> figure.savefig("segmentations.png")
    """
    class_names = _class_names.checked(class_names) or ()
    if not class_names:
        raise _checks.argument_error("class_names", "the names of the classes", class_names)
    ignored = _checks.count("ignore_label", ignore_label)
    pictures = _several("images", images, 3, "images (height, width, channels)")
    true = _several("masks", masks, 2, "masks (height, width)")
    predicted = _several("predictions", predictions, 2, "classes (height, width)")
    for name, known in {"masks": true, "predictions": predicted}.items():
        _check_labels(name, known, len(class_names), ignored if name == "masks" else None)
    shapes = [[one.shape for one in known] for known in (true, predicted)]
    if shapes[0] != shapes[1] or len(pictures) != len(true):
        raise ValueError(
            "There must be a mask and a prediction, both of one shape, for each image. "
            f"Received: {len(pictures)} images, masks of {shapes[0]}, predictions of {shapes[1]}"
        )
    several = isinstance(names, Sequence) and not isinstance(names, str)
    if names is not None and not (several and [isinstance(name, str) for name in names] == [True] * len(pictures)):
        raise _checks.argument_error("names", "texts, one for each image", names)
    colors = class_colors(len(class_names))
    shown = np.unique(np.concatenate([np.unique(one[one != ignored]) for one in (*true, *predicted)]))
    has_ignored = any((one == ignored).any() for one in true)
    lines = -(-(min(len(shown), _MOST_NAMED) + 1 + has_ignored) // _COLUMNS)
    aspect = max(one.shape[0] / one.shape[1] for one in true)
    figure, grid = panel_grid(len(pictures), 4, aspect, extra=0.4 + _LINE * lines)
    for row, axes in enumerate(grid):
        show_panel(axes[0], as_shown(pictures[row], bands, pixel_range))
        if names is not None:
            axes[0].set_ylabel(short_name(names[row]), fontsize=5, parse_math=False)
        counted = true[row] != ignored
        show_panel(axes[1], _painted(true[row], colors, counted))
        show_panel(axes[2], _painted(predicted[row], colors))
        show_panel(axes[3], _errors(true[row] == predicted[row], counted))
    for panel, title in zip(grid[0], ("image", "truth", "prediction", "error"), strict=True):
        panel.set_title(title, fontsize=8)
    _add_legend(figure, shown, class_names, colors, has_ignored)
    return figure


def _several(argument: str, given: Any, dimensions: int, rule: str) -> list[np.ndarray]:
    """Return arrays of so many dimensions, at least one."""
    rule = f"one or more {rule}, in a list or an array"
    if isinstance(given, str) or not hasattr(given, "__len__") or not len(given):
        raise _checks.argument_error(argument, rule, given)
    arrays = [_checks.array(argument, one, rule) for one in given]
    if any(one.ndim != dimensions or not one.size for one in arrays):
        raise _checks.argument_error(argument, rule, [one.shape for one in arrays])
    return arrays


def _check_labels(argument: str, arrays: list[np.ndarray], count: int, ignored: int | None) -> None:
    """Raise ValueError unless all are integers that are labels of classes, or the one that is ignored."""
    for one in arrays:
        known = one if ignored is None else one[one != ignored]
        if one.dtype.kind not in "iu" or (known.size and not 0 <= known.min() <= known.max() < count):
            rest = "" if ignored is None else f", or {ignored}"
            raise ValueError(
                f"`{argument}` must be integers in [0, {count}), the classes of `class_names`{rest}. "
                f"Received: {one.dtype}, from {one.min()} to {one.max()}"
            )


def _painted(labels: np.ndarray, colors: np.ndarray, counted: np.ndarray | None = None) -> np.ndarray:
    """Return labels in the colors of their classes, uint8 (height, width, 3)."""
    if counted is None:
        return np.asarray(colors[labels])
    return np.where(counted[..., None], colors[np.where(counted, labels, 0)], np.array(_IGNORED, "uint8"))


def _errors(right: np.ndarray, counted: np.ndarray) -> np.ndarray:
    shown = np.where(right[..., None], np.array(_RIGHT, "uint8"), np.array(_WRONG, "uint8"))
    return np.where(counted[..., None], shown, np.array(_IGNORED, "uint8"))


def _add_legend(
    figure: Any, shown: np.ndarray, class_names: Sequence[str], colors: np.ndarray, has_ignored: bool
) -> None:
    patch = _optional.require("matplotlib.patches", "Drawing").Patch
    entries = [(class_names[index], colors[index]) for index in shown[:_MOST_NAMED]]
    entries += [("no class", _IGNORED)] * has_ignored + [("error", _WRONG)]
    handles = [
        # Names may be other bytes than UTF-8, which cannot be drawn.
        patch(facecolor=np.divide(color, 255), edgecolor="gray", label=name.encode("utf-8", "replace").decode())
        for name, color in entries
    ]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=_COLUMNS, fontsize=6, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are no formulas
