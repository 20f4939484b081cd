"""The nearest of many feature vectors by cosine, and a map of all of them in two dimensions."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mae import _checks, _optional

__all__ = ["NOT_FINITE", "checked_features", "map_coordinates", "nearest"]

METHODS = ("umap", "tsne", "pca")
_RULE = "finite numbers (images, width)"
NOT_FINITE = f"`features` must be {_RULE}. Received: NaN or infinite ones"
_AT_A_TIME = 8192  # rows that are compared at once
_MOST_BY_TSNE = 10_000  # images: scikit-learn takes minutes for more on a core
_BEFORE = 50  # principal components that t-SNE and UMAP start from


def checked_features(features: Any) -> np.ndarray:
    """Return features as an array of numbers (images, width). Whoever reads them all checks that they are finite.

    Raises:
        ValueError: If `features` is not such an array.
    """
    known = _checks.array("features", features, _RULE)
    if known.ndim != 2 or known.dtype.kind not in "iuf":
        raise ValueError(f"`features` must be {_RULE}. Received: features.shape={known.shape}, dtype {known.dtype}")
    return known


def nearest(
    features: Any, queries: Any, k: int = 10, *, exclude: Any = None, center: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors nearest to each query by cosine, the nearest first; of equally near ones, the first.

    Every vector is compared: nothing is approximate. The features may be memory-mapped, and larger than memory.

    Args:
        features: Vectors to search, finite numbers (images, width), such as `Embeddings.features`.
        queries: Vectors to search for, finite numbers (queries, width).
        k: Number of neighbors; all of them if there are fewer.
        exclude: Index of a vector to leave out for each query, such as the query's own, or -1 for none; integers
            (queries,).
        center: Whether the mean of `features` is first subtracted from all vectors, as `keras-mae similar` does.
            Otherwise what all images have in common brings every cosine near to 1.

    Returns:
        (indices, cosines): int64 and float32 (queries, k), with fewer than k columns if there are fewer to find. The
        cosine with a vector of zeros is 0.

    Raises:
        ValueError: If the shapes do not fit, a vector is not finite, or `k` is not positive.

    Example:
        >>> indices, cosines = nearest([[1, 0], [0, 2], [3, 3]], [[0, 1]], k=2)
        >>> indices.tolist()
        [[1, 2]]
    """
    known = checked_features(features)
    wanted = np.asarray(_checks.array("queries", queries, "finite numbers (queries, width)"), "float32")
    if wanted.ndim != 2 or wanted.shape[1] != known.shape[1]:
        raise ValueError(
            f"`queries` must have shape (queries, {known.shape[1]}), as wide as the features. "
            f"Received: queries.shape={wanted.shape}"
        )
    if not np.isfinite(wanted).all():
        raise ValueError("`queries` must be finite. Received: NaN or infinite ones")
    left_out = None if exclude is None else np.asarray(exclude)
    if left_out is not None and (left_out.shape != wanted.shape[:1] or left_out.dtype.kind not in "iu"):
        raise _checks.argument_error("exclude", "one integer for each query", exclude)
    k = min(_checks.positive_int("k", k), len(known) - (left_out is not None and bool((left_out >= 0).any())))
    _checks.boolean("center", center)
    mean = sum(rows.sum(axis=0, dtype="float64") for _, rows in _parts(known)) / len(known) if center else None
    wanted = _unit(wanted, mean)
    best = (np.empty((len(wanted), 0), "int64"), np.empty((len(wanted), 0), "float32"))
    for begin, rows in _parts(known):
        cosines = np.clip(wanted @ _unit(rows, mean).T, -1, 1)
        if left_out is not None:
            places = np.flatnonzero((left_out >= begin) & (left_out < begin + len(rows)))
            cosines[places, left_out[places] - begin] = -np.inf
        near = _largest(cosines, k)
        both = zip(best, (begin + near, np.take_along_axis(cosines, near, 1)), strict=True)
        found = [np.concatenate(parts, axis=1) for parts in both]
        order = _largest(found[1], k)  # of equal ones those of the earlier part come first
        best = (np.take_along_axis(found[0], order, 1), np.take_along_axis(found[1], order, 1))
    return best


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of each row's k largest values, the largest first, and of equal ones the first."""
    if not 0 < k < values.shape[1]:
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    some = np.argpartition(-values, k - 1, axis=1)[:, :k]  # sorting all takes ten times as long
    smallest = np.take_along_axis(values, some, 1).min(axis=1, keepdims=True)
    tied = (values >= smallest).sum(axis=1) > k
    some[tied] = np.argsort(-values[tied], axis=1, kind="stable")[:, :k]
    some.sort(axis=1)
    order = np.argsort(-np.take_along_axis(values, some, 1), axis=1, kind="stable")
    return np.take_along_axis(some, order, 1)


def _parts(known: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield features in float32, some at a time, with the index of the first."""
    for begin in range(0, len(known), _AT_A_TIME):
        rows = np.asarray(known[begin : begin + _AT_A_TIME], "float32")
        if not np.isfinite(rows).all():
            raise ValueError(NOT_FINITE)
        yield begin, rows


def _unit(rows: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """Return vectors of length 1 in the directions of these from a mean; zeros stay zeros."""
    rows = rows if mean is None else rows - mean  # in float64, as the mean is: no difference overflows
    largest = np.abs(rows).max(axis=1, keepdims=True)  # first, so that no square overflows float32
    rows = rows / np.where(largest > 0, largest, 1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = (rows / np.where(lengths > 0, lengths, 1)).astype("float32", copy=False)
    return unit


def map_coordinates(
    features: Any, method: str | None = None, *, seed: int = 0, center: bool = False
) -> tuple[np.ndarray, str]:
    """Return a place in two dimensions for each vector, so that those near one another by cosine lie close by.

    Args:
        features: Vectors, finite numbers (images, width), such as `Embeddings.features`.
        method: "umap", "tsne" or "pca". By default UMAP if umap-learn is installed, or else t-SNE for up to 10,000
            images, and the first two principal components for more.
        seed: Seed for UMAP and t-SNE.
        center: Whether the mean of `features` is first subtracted from each, as `keras-mae map` does; see `nearest`.

    Returns:
        (coordinates, method): float32 (images, 2), and the method that was used. Fewer than five different vectors
        are mapped by PCA.

    Raises:
        ValueError: If `features` is not such an array, or there is no such method.
        ImportError: If scikit-learn is missing, or umap-learn for "umap".

    Example:
        >>> embeddings = keras_mae.transfer.read_embeddings("photos.npz")
        >>> places, method = keras_mae.transfer.map_coordinates(embeddings.features, center=True)

    Reference: "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction" (arXiv 1802.03426);
    "Visualizing Data using t-SNE", JMLR 9.
    """
    known = checked_features(features)
    if not np.isfinite(known).all():
        raise ValueError(NOT_FINITE)
    _checks.seed_int("seed", seed)
    _checks.boolean("center", center)
    chosen = _checks.optional(lambda name, value: _checks.one_of(name, value, METHODS), "method", method)
    if chosen is None:
        others = "tsne" if len(known) <= _MOST_BY_TSNE else "pca"
        chosen = "umap" if importlib.util.find_spec("umap") else others
    mean = known.mean(axis=0, dtype="float64") if center else None
    unit = _unit(known.astype("float32"), mean)  # distances of unit vectors rank as their cosines do
    if len(np.unique(unit, axis=0)) < 5:  # copies of one image have no spread, and t-SNE would divide by it
        chosen = "pca"
    components = _principal(unit, 2 if chosen == "pca" else _BEFORE, seed)
    if chosen == "tsne":
        manifold = _optional.require("sklearn.manifold", "A map by t-SNE")
        perplexity = min(30.0, (len(known) - 1) / 3)
        components = manifold.TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
    elif chosen == "umap":
        umap = _optional.require("umap", "A map by UMAP")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as that a seed allows one thread only
            neighbors = min(15, len(known) - 1)
            start = "spectral" if len(known) > 50 else "random"
            components = umap.UMAP(n_neighbors=neighbors, init=start, random_state=seed).fit_transform(components)
    return np.asarray(components, "float32"), chosen


def _principal(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the first principal components of vectors, (rows, up to count), with zeros for a missing second one."""
    decomposition = _optional.require("sklearn.decomposition", "A map")
    if not np.ptp(rows, axis=0).any():
        return np.zeros((len(rows), 2))
    found = decomposition.PCA(min(count, *rows.shape), random_state=seed).fit_transform(rows)[:, :count]
    return np.pad(found, ((0, 0), (0, max(2 - found.shape[1], 0))))
