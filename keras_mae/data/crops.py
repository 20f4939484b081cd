"""Which part of an image to look at: random crops for training, the center for evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from keras_mae import _checks

__all__ = ["Box", "CenterCrop", "Crop", "RandomResizedCrop"]

_TRIES = 10  # how often a random crop that does not fit is drawn again before the center is taken


class Box(NamedTuple):
    """A part of an image, in pixels from its upper left corner, and whether to mirror it."""

    left: float
    top: float
    right: float
    bottom: float
    flip: bool = False

    def scaled(self, across: float, down: float) -> Box:
        """Return the same part of the image in another size."""
        return Box(self.left * across, self.top * down, self.right * across, self.bottom * down, self.flip)


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

    Raises:
        ValueError: If a range is empty, or not of positive numbers, or `area` goes beyond 1.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1.
    """

    area: tuple[float, float] = (0.2, 1.0)
    aspect_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    clamp: bool = False

    def __post_init__(self) -> None:
        _checks.boolean("clamp", self.clamp)
        for name, high in (("area", 1.0), ("aspect_ratio", math.inf)):
            value = getattr(self, name)
            if not _is_range(value) or not 0 < value[0] <= value[1] <= high:
                raise _checks.argument_error(name, f"two rising numbers above 0{' and up to 1' * (high == 1)}", value)

    def __call__(self, width: int, height: int, size: tuple[int, int], generator: np.random.Generator) -> Box:
        left, top, box_width, box_height = self._draw(width, height, generator)
        flip = self.flip and bool(generator.random() < 0.5)
        return Box(left, top, left + box_width, top + box_height, flip)

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
        if not _is_number(self.fraction) or not 0 < self.fraction <= 1:
            raise _checks.argument_error("fraction", "in (0, 1]", self.fraction)

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


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
