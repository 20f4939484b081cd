"""Parts of a data set: images that are held out, and folders that are hardly meant as classes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from keras_mae import _checks, _class_names
from keras_mae.data import Stream, Subset
from keras_mae.data.sources import Source

__all__ = ["held_out", "warn_of_classes"]

_SPLITS = {"dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"}


def held_out(source: Source | Stream, share: float, seed: int) -> tuple[Subset, Subset]:
    """Return the images to train on, and those to validate on, which are drawn at random.

    Args:
        source: All images.
        share: Share of them to hold out, in (0, 1): at least one image, and never all.
        seed: Seed for which.

    Raises:
        ValueError: If the share is out of range, or there are fewer than two images, or none by index.
    """
    _checks.seed_int("seed", seed)
    if _checks.fraction("validation", share) == 0:
        raise _checks.argument_error("validation", "in (0, 1)", share)
    if isinstance(source, Stream):
        raise ValueError(
            "`validation` takes images by index, and those prepared as TFRecord are read from front to back: prepare "
            f"them as ArrayRecord (--format array_record). Received: validation={share}"
        )
    total = len(source)
    if total < 2:
        raise ValueError(f"`validation` takes two images or more: one is held out. Received: {total}")
    order, count = np.random.default_rng(seed).permutation(total), min(max(round(share * total), 1), total - 1)
    return Subset(source, np.sort(order[count:])), Subset(source, np.sort(order[:count]))


def warn_of_classes(train: Source, data: str | Path) -> None:
    """Warn of folders that are hardly meant as classes: parts of a data set, and those without images."""
    names = train.class_names or ()
    if names and {name.lower() for name in names} <= _SPLITS:
        warnings.warn(
            f"The classes are {_class_names.listed(names)}, which look like parts of a data set: classes are the "
            f"folders in {str(data)!r}. To train on one part and evaluate on another, give its folder, and the other "
            "as `test` (--test)",
            stacklevel=3,
        )
    if train.labels is None or not names:
        return
    images = np.bincount(train.labels, minlength=len(names))
    if empty := [name for name, count in zip(names, images, strict=True) if not count]:
        warnings.warn(
            f"{len(empty)} of the {len(names)} classes have no images in {str(data)!r}: {_class_names.listed(empty)}",
            stacklevel=3,
        )
