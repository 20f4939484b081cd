"""Images with segmentation masks, by index: what their sources have in common, and arrays of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any, Self

import numpy as np

from keras_mae import _checks, _class_names
from keras_mae.data import fingerprints
from keras_mae.data import images as image_files
from keras_mae.data.crops import Box, Crop
from keras_mae.data.masks import IGNORED, MaskLabels, cut_mask
from keras_mae.data.pair_crops import View, WholeImage, fill, placed
from keras_mae.data.sources import ArraySource, Generators, known_of, still
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["ArrayPairs", "PairSource"]

_LOOKED_AT = 4


class PairSource:
    """Images and, of each, a mask with a label for each pixel; a base class.

    Its labels are the masks: `batch` returns images (batch, height, width, channels) and labels (batch, height,
    width), uint8, or uint16 where `ignore_label` is above 255. Both are cut by the same crop, the image as always
    and the mask by the nearest neighbor, so that a pixel's label is that of its center. `image_size=None` leaves
    images their own sizes, for `WholeImage` in batches of one.

    A subclass says where the images are, by a source of them, and reads their masks, in `mask`.

    Args:
        images: Source of the images.
        masks: How the numbers in masks become labels. If it knows no number of classes, all masks are read here to
            find the largest label.
        own_sizes: Whether images keep their own sizes.

    Attributes:
        masks: How masks are read: `num_classes`, `class_names`, `ignore_label`.

    Raises:
        ValueError: If a mask has to be read, and cannot be.
    """

    labels: np.ndarray | None = None
    labeled = True

    def __init__(self, images: Any, masks: MaskLabels, own_sizes: bool = False):
        self.images, self.masks = images, masks
        channels = images.image_shape[2]
        self.image_shape: Any = (None, None, channels) if own_sizes else images.image_shape
        self.sized = images.sized and not own_sizes
        self.dtype, self.levels = images.dtype, images.levels
        if masks.num_classes is None:
            self.masks = replace(masks, num_classes=self._surveyed())
        elif doubt := self._doubt():
            warnings.warn(f"The masks that were looked at hold {doubt}", stacklevel=4)
        self.class_names = _class_names.named(self.masks)

    @property
    def num_classes(self) -> int:
        """Number of classes, whose labels are 0 to num_classes - 1."""
        return int(self.masks.num_classes or 0)

    @property
    def ignore_label(self) -> int:
        """Label of the pixels that belong to no class."""
        return int(self.masks.ignore_label)

    def __len__(self) -> int:
        return len(self.images)

    def in_own_sizes(self) -> Self:
        """Return the same images and masks in their own sizes, as `image_size=None` leaves them: to be scored."""
        twin = copy.copy(self)
        twin.image_shape, twin.sized = (None, None, self.image_shape[2]), False
        return twin

    def mask(self, index: int) -> tuple[np.ndarray, str]:
        """Return what the mask of an image holds, as `read_mask` does, and its name in errors."""
        raise NotImplementedError(f"{type(self).__name__} must implement `mask`.")

    def name(self, index: int) -> str:
        """Return the name of an image in errors."""
        return f"number {index}"

    def labels_of(self, index: int) -> np.ndarray:
        """Return the labels of an image, (height, width), as large as the image is.

        Raises:
            ValueError: If its mask cannot be read, or holds a label of no class; the message names it.
        """
        mask, name = self.mask(range(len(self))[index])
        return self.masks.of(mask, name)

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images and masks from others."""
        return {"kind": "pairs", "images": known_of(self.images), "classes": self.masks.settings}

    def batch(
        self, indices: Any, crop: Crop | None = None, generators: Generators | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the images at `indices`, (batch, height, width, channels), and their masks (batch, height, width).

        With `generators`, `crop` is drawn with each of them, and an image's crops follow one another.
        """
        if crop is None and self.sized:
            images, _ = self.images.batch(indices)
            return images, np.stack([self.labels_of(int(index)) for index in indices])
        drawn = generators or still
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for index, stored in zip(indices, self._stored(indices), strict=True):
            pairs += self._views(stored, int(index), crop or WholeImage(), drawn(int(index)))
        return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])

    def _stored(self, indices: Any) -> Iterator[Any]:
        """Yield the images at `indices` as they are stored: paths, bytes of files, or arrays."""
        return iter(self.images.stored(indices))

    def _views(
        self, stored: Any, index: int, crop: Any, generators: Sequence[np.random.Generator]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return as many crops of an image and its mask as there are generators to draw them with."""
        labels = self.labels_of(index)
        views = [placed(crop, labels, self.image_shape[:2], one, self.ignore_label) for one in generators]
        shape = (*views[0].size, self.image_shape[2])
        boxes = iter([view.box for view in views])

        def drawn(width: int, height: int, size: tuple[int, int], generator: np.random.Generator) -> Box:
            if (height, width) != labels.shape:
                raise ValueError(self._sizes_differ(index, (height, width), labels.shape))
            return next(boxes)

        cut = image_files.views(stored, self.name(index), shape, drawn, generators, self.levels)
        return [
            (self._finished(image, view, labels.shape, crop, generator), self._cut(labels, view))
            for image, view, generator in zip(cut, views, generators, strict=True)
        ]

    def _cut(self, labels: np.ndarray, view: View) -> np.ndarray:
        return cut_mask(labels, view.box, view.size, self.ignore_label if view.filled else None)

    def _finished(
        self, image: np.ndarray, view: View, shape: Any, crop: Any, generator: np.random.Generator
    ) -> np.ndarray:
        """Return a cut image in other light, and filled after that, so that padding is always the same."""
        distort = getattr(crop, "distortion", None)
        if distort is not None:
            image = distort(image, generator, self.levels.pixel_range)
        return fill(image, view, shape, getattr(crop, "padding", None), self.levels.pixel_range)

    def _sizes_differ(self, index: int, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
        return (
            f"A mask must have the size of its image, turned upright. Received: {self.name(index)!r} of "
            f"{image[0]} x {image[1]} pixels, {self.mask(index)[1]!r} of {mask[0]} x {mask[1]}"
        )

    # === Classes ===
    def _surveyed(self) -> int:
        """Return the number of classes by a look at all masks: the largest label and one."""
        with ThreadPoolExecutor() as pool:
            largest = max(pool.map(self._largest_label, range(len(self))))
        if largest < 0:
            raise ValueError(
                f"Masks must hold at least one label. Received: {len(self):,} masks with {self.ignore_label}, which "
                "is ignored, alone"
            )
        if largest == 0:
            raise ValueError(
                "Masks must hold two classes or more, or `num_classes` must say how many there are. Received: "
                f"{len(self):,} masks with {self._doubt() or 'the label 0 alone'}"
            )
        return largest + 1

    def _doubt(self) -> str:
        """Return what nothing can be learned from in a few masks; "" if there is more in them."""
        found, ignored = set[int](), self.ignore_label
        for index in range(0, len(self), max(len(self) // _LOOKED_AT, 1))[:_LOOKED_AT]:
            with suppress(ValueError):  # which is raised when the mask is needed
                found.update(np.unique(self.labels_of(index)).tolist())
        if found == {ignored}:
            return f"{ignored} alone, which is ignored"
        if found != {0, ignored} or self.masks.reduce_zero_label or self.masks.colors is not None:
            return ""
        table = f"{{(0, 0, 0): 0, {(ignored,) * 3}: 1}}"
        return (
            f"the labels 0 and {ignored} alone, of which {ignored} is ignored. If it stands for a class, write 1 in "
            f"its place, or pass colors={table} with a folder"
        )

    def _largest_label(self, index: int) -> int:
        """Return the largest label in a mask, -1 if all are ignored."""
        labels = self.labels_of(index)
        present = labels[labels != self.ignore_label]
        return int(present.max()) if present.size else -1


class ArrayPairs(PairSource):
    """Images and masks in arrays, also memory-mapped ones.

    Args:
        images: (images, height, width, channels) or (images, height, width), for gray, as for `ArraySource`.
        masks: Labels (images, height, width), integers.
        image_size: Side in pixels of the images that crops of these are resized to, or (height, width); by default
            the images' own.
        num_classes: Number of classes; by default the largest label and one.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class. Above 255, for as many classes, masks are uint16.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have; as the encoder's.

    Raises:
        ValueError: If these are not images and masks of the same size, or a label is that of no class.
    """

    def __init__(
        self,
        images: Any,
        masks: Any,
        image_size: int | tuple[int, int] | None = None,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_label: int = IGNORED,
        reduce_zero_label: bool = False,
        pixel_range: PixelRange = BYTES,
    ):
        source = ArraySource(images, image_size=image_size, pixel_range=pixel_range)
        labels = MaskLabels(num_classes, class_names, ignore_label, reduce_zero_label)
        wanted = source.images.shape[:3]
        rule = f"integers (images, height, width), of the images' size {wanted}"
        known = masks if isinstance(masks, np.ndarray) else _checks.array("masks", masks, rule)
        known = known[..., 0] if known.ndim == 4 and known.shape[3] == 1 else known
        if known.shape != wanted or known.dtype.kind not in "biu":
            raise ValueError(
                f"`masks` must be {rule}. Received: masks.shape={known.shape}, masks.dtype={known.dtype}"
            )
        self._masks = known.view("uint8") if known.dtype == bool else known
        super().__init__(source, labels)
        for index in range(len(self) if num_classes or class_names else 0):
            self.labels_of(index)  # those of no class are told now

    def _stored(self, indices: Any) -> Iterator[np.ndarray]:
        return (self.images.images[index] for index in indices)

    def mask(self, index: int) -> tuple[np.ndarray, str]:
        return self._masks[index], f"number {index}"

    def fingerprint(self) -> dict[str, Any]:
        """Return JSON values that tell these images and masks from others."""
        return {**super().fingerprint(), "masks": fingerprints.of_array(self._masks)}
