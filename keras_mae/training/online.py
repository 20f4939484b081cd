"""An online probe on the labels of a data set, by its name or folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_mae.data import CenterCrop
from keras_mae.data.drawing import balanced_draw, labels_of
from keras_mae.data.sources import Source
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.training.feeding import open_labeled
from keras_mae.training.watching import OnlineProbe

__all__ = ["open_probe"]

_VOTERS, _OTHERS = 2000, 500
"""Images that vote and images that are classified, at most: they stay in memory."""


def open_probe(
    data: str | Path,
    image_shape: tuple[int, int, int],
    every_epochs: int = 10,
    *,
    seed: int = 0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
) -> OnlineProbe:
    """Return a callback that scores an encoder on labeled images while it is pre-trained.

    Up to 2,000 images, as many of each class as there are, vote on up to 500 others.

    Args:
        data: As for `open_labeled`.
        image_shape: (height, width, channels) that the model takes.
        every_epochs: Epochs between scores.
        seed: Seed for which images vote.
        pixel_range: As for `open_labeled`.
        white_level: As for `open_labeled`.
        max_pixels: As for `open_labeled`.

    Raises:
        ValueError: If there is no such data set or folder, or it has no labels.

    Example:
        >>> probe = keras_mae.training.open_probe("photos/", (224, 224, 3), every_epochs=5)
    """
    images = open_labeled(
        data,
        image_shape,
        seed=seed,
        pixel_range=pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    generator = np.random.default_rng(seed)
    voters, others = (
        _some(source, most, generator) for source, most in ((images.train, _VOTERS), (images.test, _OTHERS))
    )
    return OnlineProbe(voters, others, every_epochs)


def _some(source: Source, most: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels, drawn by class if there are more than `most`."""
    labels, count = labels_of(source), len(source)
    indices = np.arange(count)
    if labels is not None and count > most:
        indices = np.sort(balanced_draw(labels, most, generator))
    found, known = source.batch(indices[:most], None if source.sized else CenterCrop())
    if known is None:
        raise ValueError("An online probe takes labeled images. Received: images without labels")
    return found, known
