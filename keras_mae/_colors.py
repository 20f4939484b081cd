"""Colors that tell classes apart, in masks that are written and in pictures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["class_colors"]

_MOST = 256  # as many as a palette holds; then they begin again
_LEVELS = 13  # of each channel: 2,197 colors, of which those of medium lightness are chosen among
_LIGHTNESS = (25, 85)
_TAKEN = ((255, 255, 255), (0, 0, 0))  # white is for pixels of no class; black is for what is drawn over


@lru_cache(maxsize=1)
def _palette() -> np.ndarray:
    """Return colors, uint8 (256, 3), each as far as possible from those before it in CIELAB."""
    levels = np.linspace(0, 255, _LEVELS).round()
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    light = _lab(candidates)[:, 0]
    candidates = candidates[(light > _LIGHTNESS[0]) & (light < _LIGHTNESS[1])]
    places = _lab(candidates)
    distance = np.linalg.norm(places[:, None] - _lab(np.array(_TAKEN, "float64")), axis=-1).min(axis=1)
    chosen = []
    for _ in range(_MOST):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=-1))
    return candidates[chosen].astype("uint8")


def _lab(colors: np.ndarray) -> np.ndarray:
    """Return sRGB colors (n, 3) in CIELAB, where distances are about as large as they look."""
    shares = colors / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    tristimulus = linear @ matrix.T / matrix.sum(axis=1)
    x, y, z = np.where(tristimulus > 216 / 24389, np.cbrt(tristimulus), tristimulus * 841 / 108 + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def class_colors(count: int) -> np.ndarray:
    """Return a color for each of so many classes, uint8 (count, 3); class i has the same, however many there are.

    None of 256 is white or black; with more classes they begin again.
    """
    return np.resize(_palette(), (count, 3))
