"""Some images of another source."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae import _checks, _class_names
from keras_mae.data import fingerprints
from keras_mae.data.crops import Crop
from keras_mae.data.drawing import labels_of
from keras_mae.data.levels import EIGHT_BITS
from keras_mae.data.sources import Generators, Source, check_source, known_of

__all__ = ["Subset"]


class Subset:
    """Some images of another source.

    Args:
        source: The other source.
        indices: Indices into it, integers (images,).
    """

    def __init__(self, source: Source, indices: Any):
        check_source(source)
        self._source, self._indices = source, _checked_indices(indices, len(source))
        self.image_shape, self.dtype = source.image_shape, source.dtype
        self.labeled, self.sized = source.labeled, source.sized
        self.class_names = _class_names.named(source)
        self.levels = getattr(source, "levels", EIGHT_BITS)
        self.labels = None if source.labels is None else source.labels[self._indices]
        self.masks = getattr(source, "masks", None)

    def __len__(self) -> int:
        return len(self._indices)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images from others."""
        return {**known_of(self._source), "indices": fingerprints.of_integers(self._indices)}

    def listing(self) -> dict[str, list[int]] | None:
        """Return the other source's listing of its files, if it has any."""
        made = getattr(self._source, "listing", None)
        return made() if callable(made) else None

    def inner(self, indices: Any) -> tuple[Source, list[int]]:
        """Return the other source, and the indices that images have there."""
        return self._source, [int(self._indices[index]) for index in indices]

    def labels_of(self, index: int) -> np.ndarray:
        """Return the mask of an image, of a source that has masks: labels (height, width), as large as the image."""
        return np.asarray(self._source.labels_of(int(self._indices[index])))  # type: ignore[attr-defined]

    def in_own_sizes(self) -> Subset:
        """Return the same images of a source that has masks, in their own sizes."""
        return Subset(self._source.in_own_sizes(), self._indices)  # type: ignore[attr-defined]

    def read_labels(self) -> np.ndarray | None:
        """Return the labels of all images, `None` if the other source has none by index."""
        labels = labels_of(self._source)
        return None if labels is None else labels[self._indices]

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return self._source.batch(self._indices[indices], crop, generators)


def _checked_indices(indices: Any, images: int) -> np.ndarray:
    """Return indices into a source of so many images."""
    rule = f"integers (images,) in [-{images}, {images})"
    known = _checks.array("indices", indices, rule)
    if known.ndim != 1 or known.dtype.kind not in "iu" or known.min() < -images or known.max() >= images:
        raise _checks.argument_error("indices", rule, indices)
    return known
