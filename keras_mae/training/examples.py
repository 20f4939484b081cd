"""Images of a data set to draw reconstructions of."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae.data import CenterCrop, Stream
from keras_mae.data.sources import Source

__all__ = ["EXAMPLES", "spread"]

EXAMPLES = 8
"""Images whose reconstructions a run of pre-training draws."""
_READ_THROUGH = 8192  # images of files that are read from front to back, of which all are read for a few of them


def spread(source: Source | Stream, most: int = EXAMPLES) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return images spread evenly over all there are, and their names.

    Args:
        source: Images; a stream must have a length.
        most: Number of images, of which there may be fewer.

    Returns:
        (images, names): (n, height, width, channels), n up to `most`, and what to write beside each.
    """
    if isinstance(source, Stream):
        return _of_stream(source, most)
    indices = _evenly(len(source), most)
    images, _ = source.batch(indices)
    named = getattr(source, "names", None)
    return images, tuple(named(indices)) if named else _numbered(indices)


def _of_stream(stream: Stream, most: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return evenly spaced images where there are few, or else the first of files drawn at random."""
    few = len(stream) <= _READ_THROUGH
    wanted = {*_evenly(len(stream), most).tolist()} if few else set(range(most))
    crop = None if stream.sized else CenterCrop()
    images, indices = [], []
    for number, element in stream.items(not few, 0).take(max(wanted) + 1).enumerate():
        if int(number) in wanted:
            indices.append(int(number))
            values = [value.numpy() for value in element]
            images.append(stream.load(values, indices[-1], crop, lambda index: [np.random.default_rng(index)])[0])
    stream.start_of_epoch()  # these do not count
    return np.concatenate([views for views in images if views is not None]), _numbered(indices) if few else ()


def _evenly(count: int, most: int) -> np.ndarray:
    """Return numbers below `count`; not every n-th, which shards that take turns might all be of one."""
    return np.unique(np.linspace(0, count - 1, most).round().astype("int64"))


def _numbered(indices: Any) -> tuple[str, ...]:
    return tuple(f"image {index + 1}" for index in indices)
