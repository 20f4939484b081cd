"""RandAugment: two operations on an image, drawn at random, in the form of the published fine-tuning recipe.

It is timm's "rand-m9-mstd0.5-inc1" for any magnitude in place of the 9: fifteen operations, two of them drawn with
replacement, each applied half of the time, at a magnitude drawn anew with a deviation of 0.5. Pillow does the work,
as it did for the published models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_mae.data.opening import pillow
from keras_mae.pixels import default_statistics

__all__ = ["OPERATIONS", "Drawn", "applied", "drawn"]

_COUNT, _PROBABILITY, _DEVIATION, _LARGEST = 2, 0.5, 0.5, 10.0
_FILL = tuple(round(mean) for mean in default_statistics(3)[0])  # what comes into view beyond the borders
_TURN, _SHEAR, _MOVE = 30.0, 0.3, 0.45  # degrees, and fractions of a side, at the largest magnitude
_BITS, _LEVELS, _ADDED, _CHANGE = 4, 256, 110, 0.9
_LEAST_FACTOR = 0.1


class Drawn(NamedTuple):
    """An operation that an image is to have."""

    name: str
    share: float
    """Its magnitude, as a share of the largest: [0, 1]."""
    sign: int
    """Which way it goes, where it has two: 1 or -1."""


def drawn(magnitude: float, generator: np.random.Generator) -> list[Drawn]:
    """Draw the operations of one image, up to two."""
    operations = []
    for _ in range(_COUNT):
        name = _NAMES[generator.integers(len(_NAMES))]
        happens = generator.random() < _PROBABILITY
        share = min(max(generator.normal(magnitude, _DEVIATION) / _LARGEST, 0.0), 1.0)
        sign = 1 if generator.random() < 0.5 else -1
        if happens:
            operations.append(Drawn(name, share, sign))
    return operations


def applied(pixels: np.ndarray, operations: Sequence[Drawn]) -> np.ndarray:
    """Return an RGB image, uint8 (height, width, 3), after some operations, one after another."""
    image = pillow().fromarray(np.ascontiguousarray(pixels))
    for name, share, sign in operations:
        image = OPERATIONS[name](image, share, sign)
    return np.asarray(image)


# === Operations on a Pillow image: (image, share of the largest magnitude, sign) ===
def _by_ops(name: str) -> Callable[[Any, float, int], Any]:
    """Return an operation of `PIL.ImageOps` that has no magnitude."""

    def changed(image: Any, share: float, sign: int) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(image)

    return changed


def _by_enhancing(name: str) -> Callable[[Any, float, int], Any]:
    """Return an operation of `PIL.ImageEnhance`: less of something than there is, or more."""

    def changed(image: Any, share: float, sign: int) -> Any:
        from PIL import ImageEnhance

        factor = max(_LEAST_FACTOR, 1 + sign * _CHANGE * share)
        return getattr(ImageEnhance, name)(image).enhance(factor)

    return changed


def _rotated(image: Any, share: float, sign: int) -> Any:
    return image.rotate(sign * _TURN * share, pillow().Resampling.BICUBIC, fillcolor=_FILL)


def _posterized(image: Any, share: float, sign: int) -> Any:
    lost = 8 - (_BITS - int(_BITS * share))  # all eight at the largest magnitude: black, which ImageOps refuses
    return image.point([level >> lost << lost for level in range(_LEVELS)] * 3)


def _solarized(image: Any, share: float, sign: int) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(image, _LEVELS - int(_LEVELS * share))


def _brightened_shadows(image: Any, share: float, sign: int) -> Any:
    added, half = int(_ADDED * share), _LEVELS // 2
    levels = [level + added if level < half else level for level in range(_LEVELS)]
    return image.point([min(level, _LEVELS - 1) for level in levels] * 3)


def _mapped(image: Any, *matrix: float) -> Any:
    """Return an image that shows, at each (x, y), what was at (a x + b y + c, d x + e y + f)."""
    module = pillow()
    method, bicubic = module.Transform.AFFINE, module.Resampling.BICUBIC
    return image.transform(image.size, method, matrix, bicubic, fillcolor=_FILL)


OPERATIONS: dict[str, Callable[[Any, float, int], Any]] = {
    "AutoContrast": _by_ops("autocontrast"),
    "Equalize": _by_ops("equalize"),
    "Invert": _by_ops("invert"),
    "Rotate": _rotated,
    "Posterize": _posterized,
    "Solarize": _solarized,
    "SolarizeAdd": _brightened_shadows,
    "Color": _by_enhancing("Color"),
    "Contrast": _by_enhancing("Contrast"),
    "Brightness": _by_enhancing("Brightness"),
    "Sharpness": _by_enhancing("Sharpness"),
    "ShearX": lambda image, share, sign: _mapped(image, 1, sign * _SHEAR * share, 0, 0, 1, 0),
    "ShearY": lambda image, share, sign: _mapped(image, 1, 0, 0, sign * _SHEAR * share, 1, 0),
    "TranslateX": lambda image, share, sign: _mapped(image, 1, 0, sign * _MOVE * share * image.width, 0, 1, 0),
    "TranslateY": lambda image, share, sign: _mapped(image, 1, 0, 0, 0, 1, sign * _MOVE * share * image.height),
}
_NAMES = list(OPERATIONS)
