"""The drawing of scores: which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names
from keras_mae.visualize.figures import new_figure

__all__ = ["confusion"]


def confusion(labels: Any, predicted: Any, class_names: Sequence[str]) -> Any:
    """Draw which class is taken for which: a row for each true class, in percent of its images.

    Args:
        labels: True classes, integers (images,).
        predicted: Predicted classes, integers (images,).
        class_names: Names of the classes, in the order of the labels.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the classes are not those of `class_names`, or there are more of one than of the other.
    """
    class_names = _class_names.checked(class_names) or ()
    if not class_names:
        raise _checks.argument_error("class_names", "the names of the classes", class_names)
    true, taken_for = (
        _classes(name, one, class_names) for name, one in (("labels", labels), ("predicted", predicted))
    )
    if true.shape != taken_for.shape:
        raise ValueError(
            "`labels` and `predicted` must have one class for each image. "
            f"Received: {len(true)} labels, {len(taken_for)} predicted"
        )
    counts = np.zeros((len(class_names), len(class_names)))
    np.add.at(counts, (true, taken_for), 1)
    return _drawn(counts, class_names, "% of each class; accuracy")


def pixel_confusion(counts: Any, class_names: Sequence[str]) -> Any:
    """Draw which class the pixels of each class are taken for, in percent of them.

    Args:
        counts: Numbers of pixels, integers (classes, classes): rows are labels, columns predictions, as
            `dense.confusion` returns them.
        class_names: Names of the classes, in the order of the labels.

    Returns:
        A matplotlib `Figure`.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the counts are not those of these classes.
    """
    names = _class_names.checked(class_names) or ()
    rule = f"integers ({len(names)}, {len(names)}) of at least 0: one row and one column for each of `class_names`"
    known = _checks.array("counts", counts, rule)
    if known.shape != (len(names), len(names)) or known.dtype.kind not in "iu" or not names or known.min() < 0:
        raise _checks.argument_error("counts", rule, counts)
    return _drawn(known, names, "% of each class's pixels; pixel accuracy")


def _drawn(counts: np.ndarray, class_names: Sequence[str], title: str) -> Any:
    """Draw numbers of images or pixels (classes, classes), rows true, columns predicted, in percent of each row."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(2.5 + 0.5 * len(class_names), 20)
    figure = new_figure(side, side)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(class_names) <= 30:
        for row, column in np.argwhere(shares >= 0.5):
            color = "white" if shares[row, column] > 50 else "black"
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=7)
        # Names are no formulas, and those of folders may be other bytes than UTF-8, which cannot be drawn.
        names = [name.encode("utf-8", "replace").decode() for name in class_names]
        plain: dict[str, Any] = {"fontsize": 7, "parse_math": False}
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", **plain)
        axes.set_yticks(range(len(names)), names, **plain)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"{title} {np.diag(counts).sum() / max(counts.sum(), 1):.2%}",
    )
    return figure


def _classes(argument: str, given: Any, class_names: Sequence[str]) -> np.ndarray:
    """Return classes, integers (images,), if they are among those with names."""
    rule = f"integers (images,) in [0, {len(class_names)}), the classes of `class_names`"
    known = _checks.array(argument, given, rule)
    if known.ndim != 1 or known.dtype.kind not in "iu" or known.min() < 0 or known.max() >= len(class_names):
        raise _checks.argument_error(argument, rule, given)
    return known
