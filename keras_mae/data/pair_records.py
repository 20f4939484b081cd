"""Images with segmentation masks in TensorFlow Datasets and in the `datasets` library, by index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae.data.huggingface import HuggingFaceSource, encoded_in
from keras_mae.data.levels import Levels
from keras_mae.data.masks import MaskLabels, read_mask
from keras_mae.data.pairs import PairSource
from keras_mae.data.tfds import TFDSSource, indexed_split

__all__ = ["HuggingFacePairs", "TFDSPairs"]

_MASK_KEYS = (
    "segmentation_mask", "mask", "masks", "annotation", "annotations", "label", "labels", "segmentation",
    "segmentation_label", "label_map", "semantic_segmentation",
)  # fmt: skip


class HuggingFacePairs(PairSource):
    """The images and masks in two columns of a `datasets.Dataset`.

    Args:
        dataset: Dataset with an image and its mask in each row; one split of it.
        image_size: Side in pixels of the images to make, or (height, width); `None` leaves them their own.
        channels: Channels to make, as for `FolderSource`.
        image_key: Name of the column of images; by default the one there is beside the masks.
        mask_key: Name of the column of masks, images too; by default the one that has a usual name for it, such as
            "annotation", "label" or "mask".
        masks: How masks are read.
        levels: What becomes of the images' numbers.

    Raises:
        ValueError: If it is no such dataset, or has no such columns.
    """

    def __init__(
        self,
        dataset: Any,
        image_size: int | tuple[int, int] | None,
        channels: int,
        *,
        image_key: str | None = None,
        mask_key: str | None = None,
        masks: MaskLabels,
        levels: Levels,
    ):
        library = _optional.require("datasets", "Reading a Hugging Face data set")
        features = getattr(dataset, "features", None) or {}
        there = [name for name, feature in features.items() if isinstance(feature, library.Image)]
        if isinstance(dataset, library.Dataset) and len(dataset):  # of anything else HuggingFaceSource tells
            image_key, mask_key = keys(there, image_key, mask_key, "columns")
            dataset = dataset.with_format(None)
            rows = dataset.select_columns([mask_key]).cast_column(mask_key, library.Image(decode=False))
            dataset, self._mask_rows, self._mask_key = dataset.select_columns([image_key]), rows, mask_key
        source = HuggingFaceSource(
            dataset, 1 if image_size is None else image_size, channels, image_key=image_key, levels=levels
        )
        super().__init__(source, masks, image_size is None)

    def mask(self, index: int) -> tuple[np.ndarray, str]:
        name = f"{self._mask_key} of row {index}"
        encoded = encoded_in(self._mask_rows[index][self._mask_key], index)
        return read_mask(encoded, name, self.masks.colors is not None, self.levels.max_pixels), name

    def name(self, index: int) -> str:
        return f"row {index}"

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images and masks from others."""
        known = str(getattr(self._mask_rows, "_fingerprint", ""))
        return {**super().fingerprint(), "masks": {"column": self._mask_key, "fingerprint": known}}


class TFDSPairs(PairSource):
    """A TFDS split of ArrayRecord files, by index, with an image and its mask in each example.

    Args:
        name: Name of the data set, as in `tfds.load`.
        split: Name of a split, or a part of one.
        image_size: Side in pixels of the images to make, or (height, width); `None` leaves them their own.
        channels: 1, 3 or 4.
        image_key: Name of the feature that is the image; by default the one there is beside the mask.
        mask_key: Name of the feature that is the mask; by default the one that has a usual name for it, such as
            "segmentation_mask" or "annotation".
        data_dir: Folder in which TFDS keeps its data sets.
        download: Whether to download and prepare what is not there.
        masks: How masks are read.
        levels: What becomes of the images' numbers.

    Raises:
        ValueError: If there is no such data set, split or feature, or it is not stored as ArrayRecord.
    """

    def __init__(
        self,
        name: str,
        split: str,
        image_size: int | tuple[int, int] | None,
        channels: int,
        *,
        image_key: str | None = None,
        mask_key: str | None = None,
        data_dir: str | Path | None = None,
        download: bool = False,
        masks: MaskLabels,
        levels: Levels,
    ):
        builder = indexed_split(name, split, data_dir=data_dir, download=download)
        tfds = _optional.require("tensorflow_datasets", "Reading TFDS")
        features = builder.info.features
        there = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        image_key, self._mask_key = keys(there, image_key, mask_key, "features")
        self._name = f"{name} ({split})"
        source = TFDSSource(
            builder, split, 1 if image_size is None else image_size, channels, levels, (image_key, None, None)
        )
        if masks.num_classes is None:
            masks = replace(masks, class_names=_class_names.usable(_names_of(features[self._mask_key])))
        skip = {key: tfds.decode.SkipDecoding() for key in there}
        self._examples = builder.as_data_source(split, decoders=skip)
        super().__init__(source, masks, image_size is None)

    def mask(self, index: int) -> tuple[np.ndarray, str]:
        name = f"{self._mask_key} of example {index} of {self._name}"
        encoded = self._examples[index][self._mask_key]
        return read_mask(encoded, name, self.masks.colors is not None, self.levels.max_pixels), name

    def name(self, index: int) -> str:
        return f"example {index} of {self._name}"

    def _stored(self, indices: Any) -> Iterator[bytes]:
        return iter(self.images.encoded(indices))


def _names_of(feature: Any) -> Any:
    """Return the names of the classes that a feature says its masks are of, if it says any."""
    return feature.names if getattr(feature, "num_classes", None) else None


def keys(there: Sequence[str], image: str | None, mask: str | None, what: str) -> tuple[str, str]:
    """Return the names of the image and of the mask among those of all images.

    Args:
        there: Names of what is stored as an image.
        image: Name of the image; by default the one beside the mask.
        mask: Name of the mask; by default the one that is usual.
        what: Kind of the names, for errors.

    Raises:
        ValueError: If it is not clear which they are, or there is none of that name.
    """
    for argument, given in (("image_key", image), ("mask_key", mask)):
        if given is not None and _checks.text(argument, given) not in there:
            raise ValueError(f"`{argument}` must be one of {sorted(there)}. Received: {argument}={given!r}")
    usual = [name for name in _MASK_KEYS if name in there and name != image]
    mask = mask or (usual[0] if usual else None)
    others = [name for name in there if name != mask]
    if image is None and len(others) > 1 and "image" in others:
        others = ["image"]
    image = image or (others[0] if len(others) == 1 else None)
    if mask is None or image is None or mask == image:
        raise ValueError(
            f"`image_key` and `mask_key` must name two of the {what} that hold images. "
            f"Received: image_key={image!r}, mask_key={mask!r} of {sorted(there)}"
        )
    return image, mask
