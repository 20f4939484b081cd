"""Segmentation masks: from a file, or its content, to a label for each pixel, and what a crop takes of them."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names
from keras_mae.data.array_images import ArrayImage
from keras_mae.data.crops import Box
from keras_mae.data.levels import Levels, UnclearNumbers, numbers_of
from keras_mae.data.opening import named_errors, open_image
from keras_mae.data.sizes import room

__all__ = ["IGNORED", "MaskLabels", "cut_mask", "mask_size", "read_mask"]

IGNORED = 255
"""Label of the pixels that belong to no class, unless somebody says otherwise."""

_LARGEST = 2**16 - 1
_LOSSY = ("JPEG", "MPO", "JPEG2000")
_STRETCHED = {";2": 85, ";4": 17}
"""What Pillow multiplies grays of fewer bits by."""
_SHOWN = 5


# === What the numbers mean ===
@dataclass(frozen=True)
class MaskLabels:
    """How the numbers, or the colors, in masks become labels.

    Args:
        num_classes: Number of classes, whose labels are 0 to num_classes - 1; `None` as long as it is not known.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class, none of a class's.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one, as in ADE20K.
        colors: Label of each (red, green, blue) in masks that are drawn in colors.

    Raises:
        ValueError: If the numbers of classes differ, or `ignore_label` is the label of one.
    """

    num_classes: int | None = None
    class_names: Sequence[str] | None = None
    ignore_label: int = IGNORED
    reduce_zero_label: bool = False
    colors: Mapping[tuple[int, int, int], int] | None = None
    _packed: tuple[np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False, compare=False)
    _known: np.ndarray | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = _checks.optional(_checks.positive_int, "num_classes", self.num_classes)
        names = _class_names.checked(self.class_names, count)
        _checks.int_within("ignore_label", self.ignore_label, 0, _LARGEST)
        _checks.boolean("reduce_zero_label", self.reduce_zero_label)
        count = len(names) if names else count
        if self.colors is not None:
            count = self._pack(count)
        if count is not None and self.ignore_label < count:
            larger = _LARGEST if count > IGNORED else IGNORED
            raise ValueError(
                f"`ignore_label` must be none of the labels of the {count} classes, such as {larger}. "
                f"Received: ignore_label={self.ignore_label}"
                + (", for 0 see `reduce_zero_label`" if self.ignore_label == 0 else "")
            )
        object.__setattr__(self, "num_classes", count)
        object.__setattr__(self, "class_names", names)
        if count is not None:
            known = np.zeros(_LARGEST + 1, "bool")
            known[:count] = known[self.ignore_label] = True
            object.__setattr__(self, "_known", known)

    def _pack(self, count: int | None) -> int:
        """Keep the colors as sorted integers, and return the number of classes."""
        rule = "a dict from (red, green, blue), each in 0-255, to labels, such as {(128, 0, 0): 1}"
        if self.reduce_zero_label:
            raise ValueError("`colors` say what each label is: leave `reduce_zero_label` out. Received: both")
        if not isinstance(self.colors, Mapping) or not self.colors:
            raise _checks.argument_error("colors", rule, self.colors)
        packed = {}
        for color, label in self.colors.items():
            several = isinstance(color, Sequence) and not isinstance(color, str) and len(color) == 3
            parts = [*color, label] if several else [None]
            if not all(isinstance(part, numbers.Integral) and not isinstance(part, bool) for part in parts):
                raise _checks.argument_error("colors", rule, self.colors)
            if not all(0 <= int(part) <= 255 for part in color) or not 0 <= int(label) <= _LARGEST:
                raise _checks.argument_error("colors", rule, self.colors)
            packed[_packed(np.array(color))] = int(label)
        order = sorted(packed)
        labels = np.array([packed[color] for color in order], self.dtype)
        own = [label for label in packed.values() if label != self.ignore_label]
        if not own:
            raise _checks.argument_error("colors", "labels of classes, and not ignored ones alone", self.colors)
        if count is not None and max(own) >= count:
            raise _checks.argument_error("colors", f"labels in [0, {count}), or {self.ignore_label}", self.colors)
        object.__setattr__(self, "_packed", (np.array(order), labels))
        return count or max(own) + 1

    @property
    def dtype(self) -> np.dtype:
        """dtype of the labels: uint8 where that holds all of them."""
        return np.dtype("uint8" if self.ignore_label <= IGNORED else "uint16")

    @property
    def settings(self) -> dict[str, Any]:
        """JSON values that tell how masks are read; they are the same for the same labels."""
        colors = None if self.colors is None else sorted([*map(int, key), int(to)] for key, to in self.colors.items())
        return {
            "num_classes": self.num_classes,
            "ignore_label": int(self.ignore_label),
            "reduce_zero_label": bool(self.reduce_zero_label),
            "colors": colors,
        }

    def of(self, mask: np.ndarray, name: str) -> np.ndarray:
        """Return the labels of a mask, (height, width) in `dtype`.

        Args:
            mask: What `read_mask` returns: integers (height, width), or colors (height, width, 3).
            name: Name of the mask in errors.

        Raises:
            ValueError: If it holds a label of no class, or a color that is not in the table.
        """
        if self._packed is not None:
            return self._of_colors(mask, name)
        self._check_range(mask, name)
        labels = np.array(mask, self.dtype) if mask.dtype != self.dtype else mask
        if self.reduce_zero_label:
            none = (labels == 0) | (labels == self.ignore_label)
            labels = np.where(none, self.dtype.type(self.ignore_label), labels - self.dtype.type(1))
        if self._known is not None and not (right := self._known[labels]).all():
            self._refuse(labels[~right], name)
        return labels

    def _check_range(self, mask: np.ndarray, name: str) -> None:
        """Refuse what the type of the labels does not hold."""
        most = np.iinfo(self.dtype).max
        if mask.dtype != self.dtype and not (mask.min() >= 0 and mask.max() <= most):
            self._refuse(mask[(mask < 0) | (mask > most)], name, False)

    def _refuse(self, unknown: np.ndarray, name: str, reduced: bool = True) -> None:
        found, counts = np.unique(unknown, return_counts=True)
        first = int(self.reduce_zero_label)
        shown = ", ".join(str(int(label) + (first if reduced else 0)) for label in found[:_SHOWN])
        many = ", ..." if len(found) > _SHOWN else ""
        if self.num_classes is None:
            most = np.iinfo(self.dtype).max
            known = f"labels are 0 to {most}" + (", and more with ignore_label=65535" if most == IGNORED else "")
        else:
            known = f"labels are {first} to {self.num_classes - 1 + first}, or {self.ignore_label}, which is ignored"
            known += ", as is 0" if first else ""
        raise ValueError(f"The mask {name!r} holds unknown labels: {shown}{many}, in {_pixels(counts)}; {known}")

    def _of_colors(self, mask: np.ndarray, name: str) -> np.ndarray:
        known, labels = self._packed or (np.empty(0, int), np.empty(0, int))
        packed = _packed(mask)
        places = np.searchsorted(known, packed).clip(max=len(known) - 1)
        if (unknown := known[places] != packed).any():
            found, counts = np.unique(mask[unknown], axis=0, return_counts=True)
            shown = ", ".join(str(tuple(map(int, color))) for color in found[:_SHOWN])
            many = ", ..." if len(found) > _SHOWN else ""
            raise ValueError(
                f"The mask {name!r} holds colors that `colors` does not: {shown}{many}, in {_pixels(counts)}"
            )
        return np.asarray(labels[places])


def _pixels(counts: np.ndarray) -> str:
    number = int(counts.sum())
    return f"{number:,} pixel{'s' * (number != 1)}"


def _packed(colors: np.ndarray) -> Any:
    """Return one integer for each color (..., 3)."""
    wide = colors.astype("int64")
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


# === Files ===
def read_mask(mask: str | Path | bytes, name: str, colors: bool, max_pixels: int | None = None) -> np.ndarray:
    """Return what a mask's file, or its content, holds: palette indices and grays as the integers that they are.

    Args:
        mask: Path of the file, or its bytes: PNG, TIFF, GIF, BMP or .npy.
        name: Name of the mask in errors.
        colors: Whether to return colors, uint8 (height, width, 3).
        max_pixels: Pixels of the largest mask to read, as for `read_image`.

    Returns:
        Integers (height, width).

    Raises:
        ValueError: If it cannot be decoded, or holds no integers; the message names it.
    """
    with named_errors(mask, name), open_image(mask, None, Levels(max_pixels=max_pixels), False) as file:
        _refuse_others(file, colors)
        with room(file.size):
            if isinstance(file, ArrayImage):
                return np.asarray(file.read()[..., 0])
            if colors:
                return np.asarray(file.convert("RGB"))
            return _integers(file)


def mask_size(mask: Path, name: str, colors: bool, max_pixels: int | None = None) -> tuple[int, int]:
    """Return (height, width) by the header of a mask's file, which is refused if it cannot hold labels.

    Raises:
        ValueError: If it cannot; the message names it.
    """
    with named_errors(mask, name), open_image(mask, None, Levels(max_pixels=max_pixels), False) as file:
        _refuse_others(file, colors)
        width, height = file.shape[1::-1] if isinstance(file, ArrayImage) else file.size
        return height, width


def _refuse_others(file: Any, colors: bool) -> None:
    """Raise an `UnclearNumbers` for an opened image, not yet decoded, whose numbers are no labels."""
    if isinstance(file, ArrayImage):
        if colors or file.shape[2] != 1 or np.dtype(file.numbers.dtype).kind not in "ui":
            rule = "colors, of which an array tells nothing" if colors else "one integer for each pixel"
            raise UnclearNumbers(f"it holds {file.shape[2]} bands of {file.numbers.name}, and masks are {rule}")
        return
    if file.format in _LOSSY:
        raise UnclearNumbers(f"it is {file.format}, which does not keep labels as they were drawn: write it as PNG")
    if colors:
        return
    raw = _raw_mode(file)
    if file.mode not in ("1", "L", "P") and (file.mode[0] != "I" or numbers_of(file).reduced):
        raise UnclearNumbers(
            f"it holds colors or floats (mode {file.mode}), and masks are palette indices or grays, a label for "
            "each pixel: pass colors={(red, green, blue): label, ...} if it is drawn in colors"
        )
    if raw.endswith("I") or numbers_of(file).inverted:
        raise UnclearNumbers("0 is white in it, and nothing says whether its labels are the numbers or the grays")


def _raw_mode(file: Any) -> str:
    """Return how Pillow calls the numbers in an opened file, such as "L;4"."""
    arguments = file.tile[0][3] if file.tile else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _integers(file: Any) -> np.ndarray:
    """Return the integers in an opened file, as they are stored."""
    raw, deep = _raw_mode(file), numbers_of(file)
    if file.mode[0] == "I":
        return np.asarray(deep.of(file))
    if file.mode == "1":
        return np.asarray(file).astype("uint8")
    return np.asarray(file) // np.uint8(_STRETCHED.get(raw[-2:], 1) if file.mode == "L" else 1)


# === Crops ===
def cut_mask(labels: np.ndarray, box: Box, size: tuple[int, int], outside: int | None = None) -> np.ndarray:
    """Cut a box out of labels (height, width), resized to `size` by the nearest neighbor.

    A pixel of the result has the label at its center, so that it lies on the image as `data.images` cuts it.

    Args:
        labels: Labels of the whole image.
        box: Part to take.
        size: (height, width) of the result.
        outside: Label of what lies beyond the image's borders; by default it is reflected from within.
    """
    height, width = labels.shape
    left, top, right, bottom = box.beyond(width, height, size)
    rows = _nearest(max(box.top, 0), min(box.bottom, height), size[0] - top - bottom, height)
    columns = _nearest(max(box.left, 0), min(box.right, width), size[1] - left - right, width)
    cut: np.ndarray = labels[rows[:, None], columns]
    if left or top or right or bottom:
        around = ((top, bottom), (left, right))
        cut = np.pad(cut, around, mode="reflect") if outside is None else np.pad(cut, around, constant_values=outside)
    return cut[:, ::-1] if box.flip else cut


def _nearest(start: float, end: float, count: int, side: int) -> np.ndarray:
    """Return the places in a side of the image, integers (count,), whose pixels hold the result's centers."""
    centers = start + (np.arange(count) + 0.5) * ((end - start) / count)
    places: np.ndarray = np.floor(centers).astype("int64").clip(0, side - 1)
    return places
