"""Crops of images together with their segmentation masks: random ones to train on, the whole to evaluate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keras_mae import _checks, pixels
from keras_mae.data.crops import Box
from keras_mae.data.masks import IGNORED, cut_mask
from keras_mae.data.photometry import PhotometricDistortion
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["SegmentationCrop", "View", "WholeImage", "check_pairs", "fill", "placed"]

_TRIES = 10  # how often a crop is drawn that too much of one class fills; the last one is taken
_LONG = 4  # times the short side is what the long one is resized to at most: (2048, 512)


class View(NamedTuple):
    """A part of an image and its mask, and what becomes of it.

    `size` is (height, width) of the result. Where `filled`, what lies beyond the image's borders is filled and not
    reflected.
    """

    box: Box
    size: tuple[int, int]
    filled: bool


@dataclass(frozen=True)
class SegmentationCrop:
    """A random part of the image in a random size, mirrored half of the time, in other light and other colors.

    The image is resized to its base size times `scale`, in its own aspect ratio, and a crop of the result's size is
    taken out of it at random. Where that goes beyond the image, to the right of it and below, it is filled; the mask
    is ignored there. If one class has too large a share of the labeled pixels the crop is drawn again, up to ten
    times. Labels are resized by the nearest neighbor.

    Args:
        scale: Smallest and largest factor of the base size, uniform in between.
        base_size: Short side, in pixels, that an image is resized to at scale 1, or (short side, the longest that
            the other one may become); by default the shorter side of the result, and four times that: (512, 2048)
            for crops of 512.
        max_class_share: Largest share of the crop's labeled pixels that one class may have, in (0, 1]; 1 is any.
        flip: Whether to mirror half of the images.
        distortion: Distortion of the image alone, or `None`.
        padding: Pixel, a number or one for each channel, that images are filled with; by default the mean that an
            encoder takes which is told nothing: ImageNet's for three channels, else the middle of the range.

    Raises:
        ValueError: If an argument is out of range.

    Reference: "Unified Perceptual Parsing for Scene Understanding" (arXiv 1807.10221), as mmsegmentation's
    configuration for MAE has it (RandomResize, RandomCrop with cat_max_ratio, RandomFlip, PhotoMetricDistortion).
    """

    scale: tuple[float, float] = (0.5, 2.0)
    base_size: int | tuple[int, int] | None = None
    max_class_share: float = 0.75
    flip: bool = True
    distortion: PhotometricDistortion | None = field(default_factory=PhotometricDistortion)
    padding: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        _checks.rising("scale", self.scale)
        if self.base_size is not None:
            short, long = _checks.pair("base_size", self.base_size)
            if short > long:
                raise _checks.argument_error("base_size", "(short side, long side)", self.base_size)
        _checks.share("max_class_share", self.max_class_share)
        _checks.boolean("flip", self.flip)
        if self.distortion is not None:
            rule = "a keras_mae.data.PhotometricDistortion, a function like it, or None"
            _checks.function("distortion", self.distortion, rule)
        _checked_padding(self.padding)

    def __call__(
        self,
        width: int,
        height: int,
        size: tuple[int, int],
        generator: np.random.Generator,
        labels: np.ndarray | None = None,
        ignore_label: int = IGNORED,
    ) -> Box:
        """Choose a box of an image, with its labels (height, width) where they are to be looked at."""
        short, long = self._base(size)
        factor = generator.uniform(*self.scale) * min(short / min(width, height), long / max(width, height))
        # In whole pixels of the resized image, as if it were resized first and cut then.
        whole = max(1, round(height * factor)), max(1, round(width * factor))
        box = Box(0, 0, 0, 0)
        for _ in range(_TRIES):
            top, left = (
                int(generator.integers(max(side - wanted, 0) + 1)) for side, wanted in zip(whole, size, strict=True)
            )
            box = Box(left, top, left + size[1], top + size[0]).scaled(width / whole[1], height / whole[0])
            if labels is None or self._is_mixed(labels, box, size, ignore_label):
                break
        return box._replace(flip=self.flip and bool(generator.random() < 0.5))

    def _base(self, size: tuple[int, int]) -> tuple[int, int]:
        if self.base_size is None:
            return min(size), _LONG * min(size)
        if isinstance(self.base_size, int | np.integer):
            return int(self.base_size), _LONG * int(self.base_size)
        return self.base_size[0], self.base_size[1]

    def _is_mixed(self, labels: np.ndarray, box: Box, size: tuple[int, int], ignore_label: int) -> bool:
        """Return whether no class has more than its share of the labeled pixels."""
        if self.max_class_share == 1:
            return True
        cut = cut_mask(labels, box, size, ignore_label)
        counts = np.bincount(cut.ravel(), minlength=ignore_label + 1)
        counts[ignore_label] = 0
        return bool(counts.sum() and counts.max() <= self.max_class_share * counts.sum())


@dataclass(frozen=True)
class WholeImage:
    """The whole image, in its own aspect ratio: for evaluation.

    Of a source with an `image_size` it is resized to the largest size that fits in, and the rest, to the right of it
    and below, is filled; the mask is ignored there. Of one without (`image_size=None`), whose batches hold one image
    each, it has its own size, or the `short_side` that is asked for.

    Args:
        short_side: Length in pixels that the short side is resized to; by default images keep their size.
        multiple: Number, or (of the height, of the width), that divides the result's sides: it is filled up to that,
            as to an encoder's patch size.
        padding: Pixel to fill with, as for `SegmentationCrop`.

    Raises:
        ValueError: If an argument is out of range.
    """

    short_side: int | None = None
    multiple: int | tuple[int, int] = 1
    padding: float | Sequence[float] | None = None

    def __post_init__(self) -> None:
        _checks.optional(_checks.positive_int, "short_side", self.short_side)
        _checks.pair("multiple", self.multiple)
        _checked_padding(self.padding)

    def check_size(self, size: tuple[int | None, int | None]) -> None:
        """Raise ValueError if the source's size leaves nothing to `short_side` and `multiple`."""
        if size[0] is not None and (self.short_side is not None or _checks.pair("multiple", self.multiple) != (1, 1)):
            raise ValueError(
                "`short_side` and `multiple` are for sources of image_size=None. Received: "
                f"short_side={self.short_side}, multiple={self.multiple} with image_size={size}"
            )

    def __call__(
        self, width: int, height: int, size: tuple[int, int], generator: np.random.Generator | None = None
    ) -> Box:
        """Choose the box whose upper left part is the image, resized to as much as fits into `size`."""
        factor = min(size[0] / height, size[1] / width)
        return _box(width, height, (max(1, round(height * factor)), max(1, round(width * factor))), size)

    def view(self, width: int, height: int, size: tuple[int | None, int | None]) -> View:
        """Return the part and the size of the result, which is its own where `size` is `None`."""
        if size[0] is not None and size[1] is not None:
            return View(self(width, height, (size[0], size[1])), (size[0], size[1]), True)
        factor = 1.0 if self.short_side is None else self.short_side / min(width, height)
        whole = max(1, round(height * factor)), max(1, round(width * factor))
        down, across = _checks.pair("multiple", self.multiple)
        result = math.ceil(whole[0] / down) * down, math.ceil(whole[1] / across) * across
        return View(_box(width, height, whole, result), result, True)


def _box(width: int, height: int, whole: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return the box of `size` whose upper left part is the image resized to `whole`, both (height, width)."""
    return Box(0, 0, size[1] * width / whole[1], size[0] * height / whole[0])


def placed(
    crop: Any,
    labels: np.ndarray,
    size: tuple[int | None, int | None],
    generator: np.random.Generator,
    ignore_label: int,
) -> View:
    """Return what a crop of any kind makes of an image with these labels (height, width).

    Args:
        crop: `SegmentationCrop`, `WholeImage`, or a crop that knows of no masks, which reflects at the borders.
        labels: Labels of the whole image.
        size: (height, width) of the result; `None` where images keep their own.
        generator: Generator that is drawn from.
        ignore_label: Label of the pixels that belong to no class.
    """
    height, width = labels.shape
    if isinstance(crop, WholeImage):
        return crop.view(width, height, size)
    wanted = int(size[0] or height), int(size[1] or width)
    if isinstance(crop, SegmentationCrop):
        return View(crop(width, height, wanted, generator, labels, ignore_label), wanted, True)
    return View(crop(width, height, wanted, generator), wanted, False)


def check_pairs(source: Any, crop: Any, augment: Any, images: int) -> None:
    """Raise a `ValueError` if a crop, an augmentation or a batch is not for images with masks, or only for them.

    Args:
        source: Source of images, with masks or without.
        crop: Crop to take of each image, or `None`.
        augment: Augmentation of every batch, or `None`.
        images: Number of images in a worker's part of a batch.
    """
    masks, size = getattr(source, "masks", None), source.image_shape[:2]
    if isinstance(crop, SegmentationCrop | WholeImage) and masks is None:
        raise ValueError(
            f"`crop`: {type(crop).__name__} is for images with segmentation masks. Received: a source without"
        )
    if masks is None:
        return
    if augment is not None:
        raise ValueError(
            "`augment` is for labels of whole images: masks take crop=keras_mae.data.SegmentationCrop(...). "
            f"Received: {type(augment).__name__}"
        )
    if isinstance(crop, WholeImage):
        crop.check_size(size)
    elif size[0] is None:
        raise ValueError(
            "`image_size` must be given: only crop=keras_mae.data.WholeImage(), which is for evaluation, leaves "
            f"images their own. Received: crop={crop!r}"
        )
    if size[0] is None and images != 1:
        raise ValueError(
            "`batch_size` must be 1 for each worker where images keep their own sizes (image_size=None). "
            f"Received: {images} images"
        )


# === Filling ===
def fill(image: np.ndarray, view: View, shape: tuple[int, int], padding: Any, pixel_range: PixelRange) -> np.ndarray:
    """Return a cut image with what lies beyond the image's borders, if anything does, filled.

    Args:
        image: What was cut out, (height, width, channels).
        view: Part that was cut.
        shape: (height, width) of the whole image.
        padding: Pixel to fill with; by default the mean.
        pixel_range: (low, high), the smallest and the largest pixel.
    """
    left, top, right, bottom = view.box.beyond(shape[1], shape[0], view.size)
    if not view.filled or not (left or top or right or bottom):
        return image
    inside = np.zeros(view.size, "bool")
    inside[top : view.size[0] - bottom, left : view.size[1] - right] = True
    inside = inside[:, ::-1] if view.box.flip else inside
    values = _padding(padding, image.shape[-1], pixel_range)
    values = (values if image.dtype.kind == "f" else values.round()).astype(image.dtype)
    return np.where(inside[..., None], image, values)


def _padding(padding: Any, channels: int, pixel_range: PixelRange) -> np.ndarray:
    low, high = pixel_range
    if padding is None:
        return np.array(pixels.rescaled(*pixels.default_statistics(channels), BYTES, pixel_range)[0])
    values = np.ravel(np.asarray(padding, "float64"))
    if len(values) not in (1, channels) or not (low <= values.min() and values.max() <= high):
        raise _checks.argument_error(
            "padding", f"a number in [{low:g}, {high:g}], or one for each of the {channels} channels", padding
        )
    return np.broadcast_to(values, (channels,))


def _checked_padding(padding: Any) -> None:
    if padding is not None:
        _checks.finite_numbers("padding", padding, "a number, or one for each channel")
