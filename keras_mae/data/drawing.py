"""Some of the labeled images of a source, as many of each class."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["balanced_draw", "labels_of"]


def balanced_draw(labels: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw images at random, the same number of each class, or as nearly as there are images of them.

    Numbers of two classes differ by one at most, unless all images of the smaller class are drawn. A larger draw by
    the same generator holds the smaller ones.

    Args:
        labels: Integers (images,).
        count: Number of images to draw.
        generator: Generator that is drawn from.

    Returns:
        Indices of the images (count,).
    """
    order = generator.permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    _, starts, sizes = np.unique(labels[order][by_class], return_index=True, return_counts=True)
    rank = np.empty(len(labels), "int64")  # of each image among those of its class
    rank[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.asarray(order[np.argsort(rank, kind="stable")[:count]])


def labels_of(source: Any) -> np.ndarray | None:
    """Return the labels of a source, which may have to be read with the images, or `None` if it has none by index."""
    if source.labels is not None:
        return np.asarray(source.labels)
    read = getattr(source, "read_labels", None)
    return read() if callable(read) and source.labeled else None
