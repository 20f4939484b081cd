"""Scores of features during training, on images of a data set: by its labels, or without any."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from keras_mae import _checks
from keras_mae.data import CenterCrop
from keras_mae.data.drawing import balanced_draw, labels_of
from keras_mae.data.sources import Source
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.training.examples import spread
from keras_mae.training.feeding import UnlabeledImages, open_labeled
from keras_mae.training.watching import OnlineProbe, RankMe

__all__ = ["open_probe", "open_rankme"]

_VOTERS, _OTHERS = 2000, 500
"""Images that vote and images that are classified, at most: they stay in memory."""
_RANKED = 2000
"""Images whose features are measured without labels, at most."""


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


def open_rankme(images: UnlabeledImages, every_epochs: int = 10) -> RankMe:
    """Return a callback that measures how many dimensions features use, on up to 2,000 images of a run's own data.

    They are spread over those that are held out, if any are, or else over those that are trained on, and stay in
    memory: a tenth of 20,000 images is enough for features up to several hundred wide.

    Args:
        images: Images that are pre-trained on; `open_unlabeled` opens them.
        every_epochs: Epochs between measurements.

    Raises:
        ValueError: If an argument is wrong, or an image cannot be read.

    Example:
        >>> images = keras_mae.training.open_unlabeled("photos/", (224, 224, 3), validation=0.1)
        >>> rankme = keras_mae.training.open_rankme(images, every_epochs=5)
    """
    _checks.instance("images", images, UnlabeledImages, "what `open_unlabeled` returns")
    _checks.positive_int("every_epochs", every_epochs)  # before any image is read
    return RankMe(spread(images.validation or images.train, _RANKED)[0], every_epochs)


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
