"""Datasets read outside of `fit`: how many batches there are, and what is in them, as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_mae import _checks

__all__ = ["check_batches", "length", "numpy_batches"]


def length(dataset: Any) -> int:
    """Return the number of batches in a dataset, which a learning rate schedule needs.

    Raises:
        ValueError: If it is not known.
    """
    if hasattr(dataset, "shape") or isinstance(dataset, tuple | list | str | dict):  # whose length is another
        raise _checks.argument_error("dataset", "batches, as keras_mae.data makes them", type(dataset).__name__)
    try:
        return len(dataset)
    except TypeError as error:
        raise ValueError(
            "`dataset` must have a known length: the schedule needs it. For a tf.data.Dataset see "
            f"tf.data.experimental.assert_cardinality. Received: {type(dataset).__name__} ({error})"
        ) from error


def check_batches(argument: str, data: Any) -> None:
    """Raise ValueError unless `data` is an array, or a dataset that can be read."""
    is_text = isinstance(data, str | bytes | type | dict)
    if is_text or not (hasattr(data, "shape") or hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise _checks.argument_error(argument, "an array of images, or a dataset of batches", data)


def numpy_batches(
    data: Any, labels: Any = None, batch_size: int = 256, *, progress: bool | str = False
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the batches of arrays or of any dataset as NumPy arrays.

    Args:
        data: Images (images, ...), the tuple (images, labels), or a dataset of batches of either.
        labels: Labels (images,), for images in an array.
        batch_size: Images at a time, for images in an array.
        progress: Whether to show a progress bar, or what to call it.

    Yields:
        (images, labels), where labels are `None` if there are none.

    Raises:
        ValueError: If there are not as many labels as images.
    """
    _checks.positive_int("batch_size", batch_size)
    check_batches("data", data)
    if labels is not None and not hasattr(labels, "shape"):
        labels = _checks.array("labels", labels, "one for each image")
    if labels is not None and not len(labels.shape):
        raise _checks.argument_error("labels", "one for each image", labels)
    if isinstance(data, tuple) and labels is None and len(data) == 2:
        data, labels = data
    if hasattr(data, "shape"):
        if labels is not None and len(labels) != len(data):
            raise ValueError(f"`labels` must be one for each image. Received: {len(labels)} for {len(data)} images")
        total: int | None = math.ceil(len(data) / batch_size)
        parts: Any = (
            (data[start : start + batch_size], None if labels is None else labels[start : start + batch_size])
            for start in range(0, len(data), batch_size)
        )
    else:
        total = _known_length(data)
        # A PyDataset goes by index, and does not end by itself when it is iterated over.
        parts = (data[index] for index in range(total or 0)) if isinstance(data, keras.utils.PyDataset) else data
    if progress:
        from rich.progress import track

        parts = track(parts, "features" if progress is True else progress, total=total, transient=True)
    for part in parts:
        images, part_labels, _ = keras.utils.unpack_x_y_sample_weight(part if isinstance(part, tuple) else (part,))
        yield _numpy(images), None if part_labels is None else _numpy(part_labels)


def _known_length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _numpy(array: Any) -> np.ndarray:
    return array.numpy() if hasattr(array, "numpy") else np.asarray(array)
