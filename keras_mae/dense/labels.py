"""The masks that a segmenter is trained on, checked before anything is computed with them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae._types import Tensor
from keras_mae.ops import concrete, require

__all__ = ["check_masks"]


def check_masks(masks: Any, size: tuple[int, int], num_classes: int, ignore_label: int) -> None:
    """Raise ValueError unless these are masks of a size, and all labels are classes' or the one to ignore.

    Args:
        masks: Array or tensor, which may have no value yet: in a compiled step.
        size: (height, width) of a mask.
        num_classes: Number of classes.
        ignore_label: Label of the pixels that belong to no class.

    Raises:
        ValueError: If they are not; inside a compiled step, the backend's own error with the same message.
    """
    rule = (
        f"Masks must be integers (batch, {size[0]}, {size[1]}): labels in [0, {num_classes}), or {ignore_label} for "
        "no class."
    )
    if not hasattr(masks, "shape") or not hasattr(masks, "dtype"):
        raise ValueError(f"{rule} Received: {'no masks' if masks is None else f'a {type(masks).__name__}'}")
    shape = tuple(masks.shape)
    if len(shape) != 3 or any(given not in (None, side) for given, side in zip(shape[1:], size, strict=True)):
        hint = " masks[..., 0] takes the last axis off." if len(shape) == 4 and shape[3] == 1 else ""
        hint = " masks.argmax(-1) makes labels of them." if len(shape) == 4 and shape[3] == num_classes > 1 else hint
        raise ValueError(f"{rule}{hint} Received: masks.shape={shape}")
    dtype = str(masks.dtype) if isinstance(masks, np.ndarray) else keras.backend.standardize_dtype(masks.dtype)
    if not dtype.startswith(("int", "uint")) or dtype == "uint64":  # which PyTorch does not have
        raise ValueError(f'{rule} masks.astype("int32") makes such of them. Received: masks.dtype={dtype}')
    known = masks if isinstance(masks, np.ndarray) else concrete(masks)
    if known is None:
        labels = ops.cast(masks, "int32")
        require(ops.all(_fitting(labels, num_classes, ignore_label)), f"{rule} Received: others")
    elif not (right := _fitting(known, num_classes, ignore_label)).all():
        found = np.unique(known[~right])
        listed = ", ".join(map(str, found[:5])) + (f" and {len(found) - 5} others" if len(found) > 5 else "")
        raise ValueError(f"{rule} Received: {listed}")


def _fitting(labels: Tensor, num_classes: int, ignore_label: int) -> Tensor:
    return ((labels >= 0) & (labels < num_classes)) | (labels == ignore_label)
