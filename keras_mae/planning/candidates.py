"""Which models may suit images of these sizes and this number: rules of thumb, not measurements of quality."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from keras_mae import _checks, presets
from keras_mae.data.surveying import Survey

__all__ = ["SMALL", "Candidate", "candidates", "continuing", "is_small", "recipe_size"]

SMALL = 64
"""Pixels of the short side up to which images are small: they are taken whole, by a recipe tuned on such images."""
_SHAPES = ((192, 224, 16), (120, 128, 8), (88, 96, 8), (0, 64, 8))
"""(least short side of the photos, image size, patch size) in pixels."""
_SMALLER = {(224, 16): (128, 16), (128, 8): (64, 8), (96, 8): (64, 8)}
"""What to try next where a run of (image size, patch size) takes too long."""
_PHOTO_WIDTHS = {"large": 1_000_000, "base": 100_000, "small": 0, "tiny": 0}
"""Models for photos, and the number of images from which on each is tried."""
_SMALL_WIDTHS = {"tiny": 10_000, "micro": 0}
"""The same for small images."""
_CHEAPEST = ("tiny", "micro")
"""Models that are also tried on smaller images."""
_FEWEST_PATCHES = ((65, 100), (16, 49), (1, 16))
"""(least short side, fewest patches) where no patch size is given."""


@dataclass(frozen=True)
class Candidate:
    """A model that may be pre-trained.

    Attributes:
        preset: Name of the preset whose widths and depths it has, or of the weights that it goes on from.
        image_size: Size (height, width) of its images in pixels.
        patch_size: Size (height, width) of a patch in pixels.
        reason: Why its images have this size.
        weights: Model that it goes on from, or `None` for a new one.
    """

    preset: str
    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    reason: str = ""
    weights: Any = field(default=None, repr=False, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and of columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    def __str__(self) -> str:
        return f"{self.preset} at {_shown(self.image_size)}, patches of {_shown(self.patch_size)}"


def is_small(survey: Survey) -> bool:
    """Return whether images are so small that they are taken whole."""
    return max(min(size) for size in survey.sizes) <= SMALL


def recipe_size(survey: Survey) -> str:
    """Return the size of `PretrainRecipe` that fits the images."""
    return "small_images" if is_small(survey) else "photos"


def candidates(
    survey: Survey,
    *,
    preset: str | None = None,
    image_size: tuple[int, int] | None = None,
    patch_size: tuple[int, int] | None = None,
) -> list[Candidate]:
    """Return the models to try, the most costly first.

    Args:
        survey: What the images are like.
        preset: Name of the only preset to try; by default several are tried.
        image_size: Size (height, width) of the images in pixels; by default it follows from the survey or the preset.
        patch_size: Size (height, width) of a patch in pixels; by default it follows from the size of the images.

    Raises:
        ValueError: If there is no such preset, or the patch does not divide the image.
    """
    if preset is not None:
        return [_of_preset(preset, image_size, patch_size)]
    if image_size is not None:
        patch = patch_size or _dividing(image_size)
        shapes = [(image_size, patch, "as asked for")]
    elif is_small(survey):
        shapes = [_small_shape(survey, patch_size)]
    else:
        shapes = _photo_shapes(survey, patch_size)
    for size, patch, _ in shapes:
        _checks.grid((*size, survey.channels), patch)
    widths = _SMALL_WIDTHS if is_small(survey) else _PHOTO_WIDTHS
    large_enough = [width for width, least in widths.items() if survey.images >= least]
    found = [Candidate(_nearest(width, *shapes[0][:2]), *shapes[0]) for width in large_enough]
    found += [Candidate(_nearest(width, *shape[:2]), *shape) for shape in shapes[1:] for width in _CHEAPEST]
    return found


def continuing(
    weights: Any, name: str, image_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
) -> Candidate:
    """Return the model that goes on from another one, whose sizes it keeps unless others are given.

    Args:
        weights: The other model: a masked autoencoder, an encoder or a classifier.
        name: Name of the other model, for the plan.
        image_size: Size (height, width) of the images in pixels; the other model's by default.
        patch_size: Size (height, width) of a patch in pixels, which must be the other model's.

    Raises:
        ValueError: If `patch_size` is not the other model's, or does not divide `image_size`.
    """
    encoder = getattr(weights, "encoder", weights)
    if patch_size not in (None, encoder.patch_size):
        raise _checks.argument_error("patch_size", f"that of the weights, {encoder.patch_size}", patch_size)
    size = image_size or encoder.image_shape[:2]
    _checks.grid((*size, 1), encoder.patch_size)
    reason = "that of the weights" if image_size is None else "as asked for"
    return Candidate(name, size, encoder.patch_size, reason, weights)


def _of_preset(preset: str, image_size: tuple[int, int] | None, patch_size: tuple[int, int] | None) -> Candidate:
    """Return the model of a preset, whose sizes it keeps unless others are given."""
    own = presets.get(preset).encoder
    size = image_size or tuple(own["image_shape"][:2])
    patch = patch_size or _checks.pair("patch_size", own["patch_size"])
    _checks.grid((*size, 1), patch)
    return Candidate(preset, size, patch, "the preset's" if image_size is None else "as asked for")


def _photo_shapes(
    survey: Survey, patch_size: tuple[int, int] | None
) -> list[tuple[tuple[int, int], tuple[int, int], str]]:
    """Return (image size, patch size, reason) for images that random crops are taken of, and a cheaper one if any."""
    side = survey.short_side
    size, patch = next((size, patch) for least, size, patch in _SHAPES if side >= least)
    reason = f"a short side has {side} pixels (median)"
    if patch_size is not None:
        whole = tuple(size // edge * edge or edge for edge in patch_size)
        return [((whole[0], whole[1]), patch_size, reason)]
    shapes = [((size, size), (patch, patch), reason)]
    if (size, patch) in _SMALLER:
        smaller, patch = _SMALLER[size, patch]
        shapes.append(((smaller, smaller), (patch, patch), f"{size} pixels would take too long"))
    return shapes


def _small_shape(survey: Survey, patch_size: tuple[int, int] | None) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Return (image size, patch size, reason) for small images, which are taken whole."""
    size = survey.one_size or (survey.short_side, survey.short_side)
    side = min(size)
    edge = max(2 if side >= 8 else 1, round(side / 8))
    patch = patch_size or (edge, edge)
    whole = (max(size[0] // patch[0], 1) * patch[0], max(size[1] // patch[1], 1) * patch[1])
    reason = "their own size" if whole == survey.one_size else f"near {_shown(size)}, in whole patches"
    return whole, patch, reason


def _dividing(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of the largest square patch that divides an image into enough patches."""
    fewest = next(fewest for least, fewest in _FEWEST_PATCHES if min(size) >= least)
    fitting = [edge for edge in range(1, min(size) + 1) if size[0] % edge == 0 and size[1] % edge == 0]
    enough = [edge for edge in fitting if (size[0] // edge) * (size[1] // edge) >= fewest]
    edge = max(enough, default=1)
    return edge, edge


def _nearest(width: str, image_size: tuple[int, int], patch_size: tuple[int, int]) -> str:
    """Return the preset of this width whose patch size, and then image size, is nearest to these."""

    def distance(name: str) -> tuple[float, float]:
        patch, size = (int(number) for number in re.findall(r"\d+", name))
        return abs(patch - max(patch_size)), abs(size - max(image_size))

    return min((name for name in presets.names() if name.split("_")[2] == width), key=distance)


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
