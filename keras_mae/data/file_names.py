"""The names of the files that images come from, through whatever lies between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["names_of"]


def names_of(source: Any, indices: Any = None) -> Sequence[str] | None:
    """Return the names of the files of a source's images, or `None` if it knows none, as arrays do.

    Args:
        source: Source of images, also a part of another one, or one with other labels.
        indices: Indices of the images; all in their order by default.
    """
    indices = np.arange(len(source)) if indices is None else indices
    inner = getattr(source, "_source", None)
    if inner is not None:
        chosen = getattr(source, "_indices", None)
        return names_of(inner, indices if chosen is None else chosen[indices])
    named = getattr(source, "names", None)
    return list(named(indices)) if callable(named) else None
