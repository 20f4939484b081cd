"""MixUp, CutMix and random erasing, in place, as timm draws them for the published fine-tuning recipe.

A batch is mixed with itself in reverse order, all of it by one weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["cut_mix", "erase", "mix_up"]

_TRIES = 10  # how often a box to erase that does not fit is drawn again before the image is spared
_AREA, _LONGEST = (0.02, 1 / 3), 1 / 0.3  # shares of the image; height / width, or its reciprocal


def mix_up(images: np.ndarray, alpha: float, generator: np.random.Generator) -> float:
    """Blend each image with its partner, and return the weight that it keeps, drawn from Beta(alpha, alpha).

    Args:
        images: float32 (batch, height, width, channels), changed in place.
        alpha: Both parameters of the beta distribution.
        generator: Generator that is drawn from.
    """
    weight = float(generator.beta(alpha, alpha))
    for place in range(len(images) // 2):  # two at a time stay in the processor's cache
        one, other = images[place], images[-1 - place]
        part = (other - one) * np.float32(1 - weight)
        one += part
        other -= part
    return weight


def cut_mix(images: np.ndarray, alpha: float, generator: np.random.Generator) -> float:
    """Exchange a box, the same in all images, with the partner, and return the share of the area that each keeps.

    The box has the image's aspect ratio and its center anywhere; what lies beyond the borders is cut off.

    Args:
        images: (batch, height, width, channels), changed in place.
        alpha: Both parameters of the beta distribution from which the box's area is drawn.
        generator: Generator that is drawn from.
    """
    side = math.sqrt(1 - generator.beta(alpha, alpha))
    ends = []
    for size in images.shape[1:3]:
        center, half = int(generator.integers(size)), int(size * side) // 2
        ends.append((max(center - half, 0), min(center + half, size)))
    (top, bottom), (left, right) = ends
    images[:, top:bottom, left:right] = images[::-1, top:bottom, left:right].copy()
    return float(1 - (bottom - top) * (right - left) / (images.shape[1] * images.shape[2]))


def erase(
    image: np.ndarray,
    mean: Sequence[float],
    deviation: Sequence[float],
    ends: tuple[float, float],
    generator: np.random.Generator,
) -> None:
    """Fill a random box of an image with noise.

    Args:
        image: float32 (height, width, channels), changed in place.
        mean: Mean of the noise, which is normal, in each channel.
        deviation: Standard deviation of it.
        ends: The smallest and the largest pixel, at which the noise is cut off.
        generator: Generator that is drawn from.
    """
    height, width, channels = image.shape
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(-math.log(_LONGEST), math.log(_LONGEST)))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            top, left = generator.integers(height - rows + 1), generator.integers(width - columns + 1)
            noise = generator.standard_normal((rows, columns, channels), dtype="float32")
            noise = noise * np.asarray(deviation, "float32") + np.asarray(mean, "float32")
            image[top : top + rows, left : left + columns] = noise.clip(*ends)
            return
