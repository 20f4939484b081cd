"""Which part of an image to look at: random crops for training, the center for evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from keras_mae import _checks
from keras_mae.data.fast import check_installed

__all__ = ["Box", "CenterCrop", "Crop", "RandomCrop", "RandomResizedCrop", "moved"]

_TRIES = 10  # how often a random crop that does not fit is drawn again before the center is taken


class Box(NamedTuple):
    """A part of an image, in pixels from its upper left corner, and whether to mirror it.

    What lies beyond the image's borders is reflected from within. `fast` is that of `RandomResizedCrop`.
    """

    left: float
    top: float
    right: float
    bottom: float
    flip: bool = False
    fast: bool = False

    def scaled(self, across: float, down: float) -> Box:
        """Return the same part of the image in another size."""
        left, top, right, bottom = self.left * across, self.top * down, self.right * across, self.bottom * down
        return self._replace(left=left, top=top, right=right, bottom=bottom)

    def beyond(self, width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return how many pixels of a result of `size` lie left of, above, right of and below a whole image."""
        across, down = size[1] / (self.right - self.left), size[0] / (self.bottom - self.top)
        ends = (-self.left * across, -self.top * down, (self.right - width) * across, (self.bottom - height) * down)
        left, top, right, bottom = (max(round(end), 0) for end in ends)
        return left, top, right, bottom


class Crop(Protocol):
    """Chooses a box of an image of `width` × `height`, to be resized to `size` (height, width)."""

    def __call__(self, width: int, height: int, size: tuple[int, int], generator: np.random.Generator) -> Box: ...


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, mirrored half of the time: the paper's only augmentation in pre-training.

    Area and aspect ratio (log-uniform) are drawn up to ten times until the box fits; then the center is taken, at
    the nearest aspect ratio allowed: torchvision's procedure. With `clamp` they are drawn once, and a box wider or
    higher than the image is cut down to it: the procedure of the authors' linear probe, whose crops are larger and,
    in oblong images, nearer to the image's own aspect ratio.

    Args:
        area: Smallest and largest share of the image's area: 0.2–1 in pre-training, 0.08–1 for linear probes
            (`scale` in torchvision and timm).
        aspect_ratio: Smallest and largest width / height of the box (`ratio` there).
        flip: Whether to mirror half of the images.
        clamp: Whether a box larger than the image is cut down to it, and not drawn again.
        fast: Whether simplejpeg decodes and cykooz-resizer resizes in place of Pillow (`pip install
            "keras-mae[fast]"`). The decoded pixels are the same. They are resized by the same kernel in integers of
            fewer bits: about a ninth of the numbers are one gray level off, the same ones on every machine. Images
            with opacity or of more than 8 bits are still Pillow's.

    Raises:
        ValueError: If a range is empty, or not of positive numbers, or `area` goes beyond 1.
        ImportError: If `fast` and one of those two is not installed.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1.
    """

    area: tuple[float, float] = (0.2, 1.0)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    clamp: bool = False
    fast: bool = False

    def __post_init__(self) -> None:
        _checks.boolean("flip", self.flip)
        _checks.boolean("clamp", self.clamp)
        _checks.boolean("fast", self.fast)
        if self.fast:
            check_installed()  # before a run begins
        _checks.rising("area", self.area, 1.0)
        _checks.rising("aspect_ratio", self.aspect_ratio)

    def __call__(self, width: int, height: int, size: tuple[int, int], generator: np.random.Generator) -> Box:
        left, top, box_width, box_height = self._draw(width, height, generator)
        flip = self.flip and bool(generator.random() < 0.5)
        return Box(left, top, left + box_width, top + box_height, flip, self.fast)

    def _draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        low, high = (math.log(ratio) for ratio in self.aspect_ratio)
        for _ in range(_TRIES):
            pixels = width * height * generator.uniform(*self.area)
            ratio = math.exp(generator.uniform(low, high))
            box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if self.clamp:
                box_width, box_height = min(max(box_width, 1), width), min(max(box_height, 1), height)
            if 0 < box_width <= width and 0 < box_height <= height:
                left = int(generator.integers(width - box_width + 1))
                return left, int(generator.integers(height - box_height + 1)), box_width, box_height
        nearest = min(max(width / height, self.aspect_ratio[0]), self.aspect_ratio[1])
        box_width, box_height = min(width, round(height * nearest)), min(height, round(width / nearest))
        box_width, box_height = max(box_width, 1), max(box_height, 1)
        return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


@dataclass(frozen=True)
class RandomCrop:
    """A gentle crop, for images that an object fills: nearly all of the image, mirrored half of the time.

    The short side is resized to that of the result, the image is continued beyond its borders by reflection, and the
    result is cut out of it at random: torchvision's `Resize(size)` and `RandomCrop(size, padding,
    padding_mode="reflect")`. Images in the result's own size are only moved, by whole pixels.

    Args:
        shift: Width of the reflection, as a fraction of the result's height and width, in [0, 0.25]. 4 / 224 is
            usual for ImageNet, 2 / 28 moves Fashion-MNIST by up to two pixels.
        flip: Whether to mirror half of the images.

    Raises:
        ValueError: If `shift` is out of range, or, where it meets images, above zero and less than half a pixel.

    Reference: "Improving Pixel-based MIM by Reducing Wasted Modeling Capability" (arXiv 2308.00261).
    """

    shift: float = 4 / 224
    flip: bool = True

    def __post_init__(self) -> None:
        _checks.within("shift", self.shift, 0.25)
        _checks.boolean("flip", self.flip)

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError if nothing would move in images of this size."""
        if self.shift and not any(round(self.shift * side) for side in size):
            raise ValueError(
                f"`shift` must be 0, or half a pixel or more of {size[0]} x {size[1]}. Received: shift={self.shift}"
            )

    def __call__(self, width: int, height: int, size: tuple[int, int], generator: np.random.Generator) -> Box:
        self.check_size(size)
        down, across = (round(self.shift * side) for side in size)
        # In whole pixels of the resized image, as if it were resized first and cut then.
        if width * size[0] >= height * size[1]:
            whole_height, whole_width = size[0], width * size[0] // height
        else:
            whole_height, whole_width = height * size[1] // width, size[1]
        top = int(generator.integers(-down, whole_height - size[0] + down + 1))
        left = int(generator.integers(-across, whole_width - size[1] + across + 1))
        flip = self.flip and bool(generator.random() < 0.5)
        box = Box(left, top, left + size[1], top + size[0], flip)
        return box.scaled(width / whole_width, height / whole_height)


@dataclass(frozen=True)
class CenterCrop:
    """The center of the image: the short side is resized to size / fraction, and `size` is cut out of the middle.

    It is torchvision's `Resize(int(size / fraction))` and `CenterCrop(size)`, rounded as there: at 160 pixels and
    224 / 256 the short side becomes 182 pixels long. Where height and width of the result differ, both are divided by
    `fraction`, and the image is resized, in its own aspect ratio, to the smallest size that covers them.

    Args:
        fraction: Share of the short side that stays (`crop_pct` in timm). ImageNet is evaluated with 224 / 256,
            above 224 pixels with 1.

    Raises:
        ValueError: If `fraction` is not in (0, 1].
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        _checks.share("fraction", self.fraction)

    def __call__(
        self, width: int, height: int, size: tuple[int, int], generator: np.random.Generator | None = None
    ) -> Box:
        # In whole pixels of the resized image, as if it were resized first and cut then.
        least_height, least_width = (int(side / self.fraction) for side in size)
        if width * least_height <= height * least_width:
            whole = (least_width, int(least_width * height / width))
        else:
            whole = (int(least_height * width / height), least_height)
        left, top = round((whole[0] - size[1]) / 2), round((whole[1] - size[0]) / 2)
        across, down = width / whole[0], height / whole[1]
        return Box(left * across, top * down, (left + size[1]) * across, (top + size[0]) * down)


def moved(images: np.ndarray, indices: Any, boxes: Sequence[Box]) -> np.ndarray:
    """Return images moved by whole pixels, as `RandomCrop` does with those in the result's own size.

    Args:
        images: Array (images, height, width, channels).
        indices: Indices of the images to move, integers (boxes,).
        boxes: One box for each of them, of the images' own size.

    Returns:
        (boxes, height, width, channels), in the dtype of the images.
    """
    height, width = images.shape[1:3]
    rows = _reflected(np.asarray([box.top for box in boxes]), height)
    columns = _reflected(np.asarray([box.left for box in boxes]), width)
    flip = np.asarray([box.flip for box in boxes])
    columns[flip] = columns[flip, ::-1]
    cut: np.ndarray = images[np.asarray(indices)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut


def _reflected(start: np.ndarray, size: int) -> np.ndarray:
    """Return integers (starts, size): the places from each start on, those beyond the borders reflected."""
    places = np.abs(np.rint(start).astype("int64")[:, None] + np.arange(size))
    reflected: np.ndarray = np.minimum(places, 2 * (size - 1) - places)
    return reflected
