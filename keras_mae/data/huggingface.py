"""Images of the `datasets` library (Hugging Face), by index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae.data.crops import Crop
from keras_mae.data.levels import Levels
from keras_mae.data.sources import Generators, cut

__all__ = ["HuggingFaceSource", "encoded_in"]


class HuggingFaceSource:
    """The images in a column of a `datasets.Dataset`, as it holds them: the bytes or the paths of image files.

    Args:
        dataset: Dataset with an image in each row; one split of it.
        image_size: Side in pixels of the images to make, or (height, width).
        channels: Channels to make, as for `FolderSource`.
        image_key: Name of the column of images; by default the one there is.
        label_key: Name of the column of labels, integers from 0; by default the one that is a `ClassLabel`, if there
            is one.
        levels: What becomes of the files' numbers.

    Raises:
        ValueError: If it is no such dataset, or has no such column.
    """

    sized = False

    def __init__(
        self,
        dataset: Any,
        image_size: int | tuple[int, int],
        channels: int,
        *,
        image_key: str | None = None,
        label_key: str | None = None,
        levels: Levels,
    ):
        library = _optional.require("datasets", "Reading a Hugging Face data set")
        _check_dataset(library, dataset)
        self.image_shape = (*_checks.pair("image_size", image_size), _checks.positive_int("channels", channels))
        self.levels, self.dtype = levels, levels.dtype
        features = dataset.features
        image = _column("image_key", image_key, features, library.Image)
        if image is None:
            raise ValueError(f"`dataset` must have a column of images. Received: the columns {sorted(features)}")
        label = _column("label_key", label_key, features, library.ClassLabel)
        self.labels = None if label is None else _labels(dataset, label)
        self.labeled = label is not None
        names = getattr(features[label], "names", None) if label is not None else None
        self.class_names = _class_names.usable(names) if names else None
        if self.labels is not None and self.class_names is None:
            self.class_names = tuple(str(number) for number in range(int(self.labels.max(initial=0)) + 1))
        if (
            self.labels is not None
            and self.class_names
            and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names)
        ):
            raise ValueError(
                f"Labels in the column {label!r} must be in [0, {len(self.class_names)}). Received: from "
                f"{self.labels.min()} to {self.labels.max()} (-1 stands for none: leave such rows out)"
            )
        self._image, self._known = image, str(getattr(dataset, "_fingerprint", ""))
        self._rows = dataset.with_format(None).select_columns([image]).cast_column(image, library.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others: the library gives data that change another name."""
        return {"kind": "Hugging Face", "column": self._image, "rows": len(self), "fingerprint": self._known}

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        labels = None if self.labels is None else self.labels[indices]
        return cut(self.stored(indices), indices, self.image_shape, crop, generators, self.levels), labels

    def stored(self, indices: Any) -> Iterator[bytes | str]:
        """Yield the bytes, or the paths, of the image files at `indices`."""
        rows = self._rows[[int(index) for index in indices]][self._image]
        return (encoded_in(row, index) for row, index in zip(rows, indices, strict=True))


def _check_dataset(library: Any, dataset: Any) -> None:
    rule = "a datasets.Dataset, read by index"
    if isinstance(dataset, library.DatasetDict):
        raise ValueError(f"`dataset` must be one split. Received: all of them: {', '.join(dataset)}")
    if isinstance(dataset, library.IterableDataset | library.IterableDatasetDict):
        raise ValueError(f"`dataset` must be {rule}: load it without streaming=True. Received: one that streams")
    if not isinstance(dataset, library.Dataset):
        raise _checks.argument_error("dataset", rule, type(dataset).__name__)
    if not len(dataset):
        raise ValueError("`dataset` must hold at least one image. Received: none")


def _column(argument: str, name: str | None, features: Any, kind: type) -> str | None:
    """Return the name of a column: the one that is asked for, or the only one of its kind."""
    found = [key for key, feature in features.items() if isinstance(feature, kind)]
    if name is None:
        if len(found) > 1:
            raise ValueError(f"`{argument}` must name one of the columns {found}. Received: none of them")
        return found[0] if found else None
    _checks.text(argument, name)
    if name not in (found if argument == "image_key" else features):
        raise ValueError(f"`{argument}` must be one of {found or sorted(features)}. Received: {argument}={name!r}")
    return name


def _labels(dataset: Any, label: str) -> np.ndarray:
    values = np.asarray(dataset.with_format(None)[label][:])
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise ValueError(f"The column {label!r} must hold an integer in each row. Received: {values.dtype}")
    return values.astype("int64")


def encoded_in(row: Any, index: Any) -> bytes | str:
    """Return an image file's bytes, or its path on this machine.

    Raises:
        ValueError: If a row has neither.
    """
    content: Any = row and (row.get("bytes") or row.get("path"))
    if not content or (isinstance(content, str) and "://" in content):
        raise ValueError(f"Row {index} must hold an image, or the path of one on this machine. Received: {content}")
    return bytes(content) if not isinstance(content, str) else content
