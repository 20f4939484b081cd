"""What the learned queries of attentive pooling look at: as an array, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.encoder import ViTEncoder
from keras_mae.pixels import BYTES, PixelRange
from keras_mae.pooling import patch_tokens
from keras_mae.visualize.figures import overlays
from keras_mae.visualize.models import classifier_of, run

__all__ = ["query_attention", "query_maps"]


def query_attention(classifier: Any, images: Any, *, batch_size: int = 32) -> np.ndarray:
    """Compute how much of each patch every learned query of attentive pooling takes.

    Args:
        classifier: A `ViTClassifier(pooling="attentive")`, trained: before that, all queries look everywhere alike.
        images: Images (batch, height, width, channels) in the encoder's `pixel_range`.
        batch_size: Images at a time.

    Returns:
        float32 (batch, queries, rows, columns); each map sums to 1. Query j makes the j-th chunk of the features.

    Raises:
        ValueError: If this is no classifier with attentive pooling, or the images do not fit it.
    """
    pooling = classifier_of(classifier).attentive_pooling
    if pooling is None:
        raise _checks.argument_error("classifier.pooling", "'attentive': others have no queries", classifier.pooling)

    def attention(encoder: ViTEncoder, images: Any) -> Any:
        return pooling.probabilities(patch_tokens(encoder, encoder.encode(images)))

    maps = run(classifier, attention, images, batch_size)
    return maps.reshape(*maps.shape[:2], *classifier.encoder.grid)


def query_maps(
    images: Any,
    maps: Any,
    queries: int | Sequence[int] | None = None,
    *,
    bands: int | Sequence[int] | None = None,
    pixel_range: PixelRange = BYTES,
) -> Any:
    """Draw images beside what the learned queries look at: all of them on average, and some each by itself.

    Args:
        images: Images (batch, height, width, channels).
        maps: Maps (batch, queries, rows, columns), from `query_attention`. Each is stretched from its smallest value
            to its largest.
        queries: Numbers of the queries to draw, from 0; the first eight by default.
        bands: As in `reconstructions`.
        pixel_range: As in `overlays`.

    Returns:
        A matplotlib `Figure`, one row per image.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If images and maps do not fit one another, or there is no such query or channel.
    """
    maps = np.asarray(maps)
    if maps.ndim != 4:
        raise ValueError(f"`maps` must have shape (batch, queries, rows, columns). Received: maps.shape={maps.shape}")
    count = maps.shape[1]
    wanted = range(min(8, count)) if queries is None else queries
    chosen = _checks.indices("queries", wanted, 0, count, f"some of the {count} queries of `maps`, from 0")
    by_title = {"mean": maps.mean(axis=1), **{f"query {number}": maps[:, number] for number in chosen}}
    return overlays(images, by_title, bands, pixel_range=pixel_range)
