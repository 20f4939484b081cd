"""Features of normal patches, and how far others are from the nearest of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae.encoder import ViTEncoder
from keras_mae.random import EVALUATION_STEP, NORMAL_PATCHES, hash_noise

__all__ = ["PatchFeatures", "PatchSample", "coreset", "inner_blocks", "nearest_distances"]

_PROJECTED = 128
_NUMBERS_AT_ONCE = 2**24
_EPS = 1e-6


def inner_blocks(depth: int) -> tuple[int, ...]:
    """Return the indices of the blocks at half and at three quarters of an encoder's depth."""
    return tuple(dict.fromkeys((-(-depth // 2) - 1, -(-3 * depth // 4) - 1)))


class PatchFeatures(keras.Model):
    """The patches' tokens after some blocks of an encoder, float32 (batch, patches, blocks * embed_dim).

    Each block's tokens are standardized over their width, so that blocks count alike, and the whole is scaled such
    that each patch's vector has length 1: distances are in [0, 2].

    Args:
        encoder: A `ViTEncoder`.
        blocks: Indices of the blocks.
    """

    def __init__(self, encoder: ViTEncoder, blocks: Sequence[int]):
        super().__init__(name="patch_features", autocast=False)
        self.encoder, self.blocks = encoder, tuple(blocks)
        self.built = True

    def call(self, images: Any) -> Any:
        parts = []
        for tokens in self.encoder.encode(images, training=False, blocks=self.blocks):
            patches = ops.cast(tokens[:, self.encoder.class_tokens :], "float32")
            centered = patches - ops.mean(patches, axis=-1, keepdims=True)
            parts.append(centered / ops.sqrt(ops.mean(ops.square(centered), axis=-1, keepdims=True) + _EPS))
        return ops.concatenate(parts, axis=-1) / (len(parts) * self.encoder.embed_dim) ** 0.5


class PatchSample:
    """A random sample of the patches that pass by, of no more than a given number.

    Each patch draws a number by the hash, and those with the smallest numbers stay: all samples are equally likely,
    memory stays bounded, and the number of patches need not be known beforehand.

    Args:
        most: Number of patches to keep.
        seed: Seed for the draws.
    """

    def __init__(self, most: int, seed: int):
        self.most, self.seed = most, seed
        self._features: list[np.ndarray] = []
        self._noise: list[np.ndarray] = []

    def add(self, features: np.ndarray, places: np.ndarray) -> None:
        """Let the patches of some images pass by.

        Args:
            features: Features of the patches, float32 (images, patches, width).
            places: Indices of the images among all, integers (images,).
        """
        if not len(features):
            return
        index = ops.convert_to_tensor(places.astype("int32"))
        noise = hash_noise(self.seed, EVALUATION_STEP, index, features.shape[1], NORMAL_PATCHES)
        self._features.append(features.reshape(-1, features.shape[2]))
        self._noise.append(ops.convert_to_numpy(noise).reshape(-1))
        if sum(map(len, self._noise)) > 2 * self.most:
            self._trim()

    def taken(self) -> np.ndarray:
        """Return the sample, float32 (patches, width), in the order in which the patches passed by."""
        self._trim()
        return self._features[0]

    def _trim(self) -> None:
        features, noise = np.concatenate(self._features), np.concatenate(self._noise)
        if len(noise) > self.most:
            chosen = np.sort(np.argsort(noise, kind="stable")[: self.most])
            features, noise = features[chosen], noise[chosen]
        self._features, self._noise = [features], [noise]


def coreset(features: Any, size: int, seed: int = 0) -> np.ndarray:
    """Choose vectors such that all others lie near one of them: greedily, each the farthest from those chosen before.

    Vectors of more than 128 numbers are compared after a random projection to 128, which nearly preserves distances.
    Memory grows with the number of vectors, and time with that number times `size`.

    Args:
        features: Vectors, finite numbers (vectors, width).
        size: Number of vectors to choose.
        seed: Seed for the first one and for the projection.

    Returns:
        Indices of the chosen vectors, int64 (size,), in the order in which they were chosen. If there are no more
        than `size` vectors, all of them, in their own order.

    Raises:
        ValueError: If an argument is wrong.

    Example:
        >>> coreset([[0.0], [0.1], [5.0], [5.1]], 4)
        array([0, 1, 2, 3])

    Reference: "Towards Total Recall in Industrial Anomaly Detection" (PatchCore), algorithm 1.
    """
    features = _vectors("features", features)
    _checks.positive_int("size", size)
    seed = _checks.seed_int("seed", seed)
    if size >= len(features):
        return np.arange(len(features))
    generator = np.random.default_rng(seed)
    first = int(generator.integers(len(features)))
    if features.shape[1] > _PROJECTED:
        projection = generator.standard_normal((features.shape[1], _PROJECTED), "float32")
        features = features @ (projection / _PROJECTED**0.5)
    squares = np.einsum("ij,ij->i", features, features)
    chosen = np.empty(size, "int64")
    nearest = np.full(len(features), np.inf, "float32")
    for place in range(size):
        chosen[place] = first if place == 0 else int(nearest.argmax())
        vector = features[chosen[place]]
        np.minimum(nearest, squares - 2 * (features @ vector) + vector @ vector, out=nearest)
        nearest[chosen[place]] = -np.inf  # never twice, even among copies
    return chosen


def nearest_distances(queries: Any, bank: Any, neighbors: int = 1) -> np.ndarray:
    """Measure how far vectors are from the nearest ones in a bank.

    Args:
        queries: Vectors, finite numbers (vectors, width).
        bank: Vectors to compare with, finite numbers (others, width).
        neighbors: Number of nearest ones whose Euclidean distances are averaged.

    Returns:
        Distances, float32 (vectors,).

    Raises:
        ValueError: If the widths differ, the bank has fewer vectors than `neighbors`, or numbers are not finite.

    Example:
        >>> nearest_distances([[0.0, 3.0]], [[0.0, 0.0], [4.0, 0.0]], neighbors=2)
        array([4.], dtype=float32)
    """
    queries, bank = _vectors("queries", queries), _vectors("bank", bank)
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(
            "`queries` and `bank` must be vectors of one width. "
            f"Received: queries.shape={queries.shape}, bank.shape={bank.shape}"
        )
    _checks.int_within("neighbors", neighbors, 1, len(bank))
    squares = np.einsum("ij,ij->i", bank, bank)
    step = max(_NUMBERS_AT_ONCE // max(len(bank), neighbors * bank.shape[1]), 1)
    parts = []
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        apart = squares - 2 * (some @ bank.T)  # without the queries' own squares, which do not change the order
        nearest = np.argpartition(apart, neighbors - 1, axis=1)[:, :neighbors]
        # These squares lose small distances to rounding: the distances are computed from the differences.
        differences = bank[nearest] - some[:, None]
        parts.append(np.sqrt(np.square(differences).sum(axis=2)).mean(axis=1))
    return np.concatenate(parts).astype("float32")


def _vectors(argument: str, given: Any) -> np.ndarray:
    """Return vectors as float32."""
    rule = "finite numbers (vectors, width)"
    known = _checks.array(argument, given, rule)
    if known.ndim != 2 or not np.isfinite(known).all():
        raise _checks.argument_error(argument, rule, given)
    return np.ascontiguousarray(known, "float32")
