"""Labels by name: a source whose classes are numbered as a classifier, or other data, has them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae import _class_names
from keras_mae.data import fingerprints
from keras_mae.data.crops import Crop
from keras_mae.data.levels import EIGHT_BITS
from keras_mae.data.sources import Generators, Source, known_of
from keras_mae.data.streams import Stream

__all__ = ["Relabeled", "relabeled"]


class Relabeled:
    """The images of another source, with labels that are places in a list of names.

    Args:
        source: Source with class names.
        class_names: Names in the order of the new labels. There may be more of them than the source has.

    Raises:
        ValueError: If the source has no class names, or one that is not in the list.
    """

    def __init__(self, source: Source, class_names: Sequence[str]):
        self._source, self._places = source, _places(source, class_names)
        self.image_shape, self.dtype = source.image_shape, source.dtype
        self.labeled, self.sized = source.labeled, source.sized
        self.levels = getattr(source, "levels", EIGHT_BITS)
        self.class_names: tuple[str, ...] | None = tuple(class_names)
        self.labels = None if source.labels is None else self._places[source.labels]

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images, and their labels, from others."""
        return {**known_of(self._source), **fingerprints.of_labels(self.labels)}

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        images, labels = self._source.batch(indices, crop, generators)
        return images, None if labels is None else self._places[labels]


def relabeled(source: Source | Stream, class_names: Sequence[str] | None) -> Source | Stream:
    """Return a source whose labels are places in `class_names`, or the source itself if it needs no change.

    Args:
        source: Source or stream with class names.
        class_names: Names in the order of the labels; `None` keeps the source's own.

    Raises:
        ValueError: If the source has no class names, or one that is not in the list.
    """
    names = _class_names.checked(class_names)
    if names is None or names == source.class_names:
        return source
    if not isinstance(source, Stream):
        return Relabeled(source, names)
    places, changed = _places(source, names), copy.copy(source)
    changed.places = places if source.places is None else places[source.places]
    changed.class_names = names
    return changed


def _places(source: Source | Stream, class_names: Sequence[str]) -> np.ndarray:
    if source.class_names is None:
        raise ValueError("`class_names` are for images with labels that have names. Received: images without")
    return _class_names.places(source.class_names, class_names)
