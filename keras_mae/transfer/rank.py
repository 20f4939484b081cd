"""RankMe: how many dimensions features use, which takes no labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mae.transfer.similar import NOT_FINITE, checked_features

__all__ = ["rankme"]

_AT_A_TIME = 4096  # rows that are in memory as float64


def rankme(features: Any) -> float:
    """Return how many dimensions features use: the exponential of the entropy of their singular values.

    With p_k the k-th singular value divided by the sum of all, this is exp(-Σ p_k log p_k). It is 1 if all features
    are multiples of one vector, and as large as it can be if they spread evenly over all directions. It does not
    change if all features are multiplied by a number other than 0, or rotated. Compare only values of the same
    images, pooling and width: among those, the paper found better classifiers where it was higher. No labels are
    needed.

    Args:
        features: Vectors, finite numbers (images, width), such as `Embeddings.features`; they may be memory-mapped.
            Use several times as many images as there are dimensions: the paper uses 25,600.

    Returns:
        RankMe, in [1, min(images, width)]; 0 if all features are zero.

    Raises:
        ValueError: If `features` is not such an array, or holds NaN or infinite numbers.

    Example:
        >>> keras_mae.transfer.rankme(keras_mae.transfer.read_embeddings("photos.npz").features)

    Reference: "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
    Rank" (arXiv 2210.02885), section 3. The paper adds 1e-7 to each p_k, against the logarithm of 0; here 0 log 0
    is 0.
    """
    known = checked_features(features)
    largest = float(np.max([np.abs(part).max() for part in _parts(known)]))
    if not np.isfinite(largest):
        raise ValueError(NOT_FINITE)
    if not largest:
        return 0.0
    # The squares of the singular values are eigenvalues of the products of the shorter side, which fit into memory
    # where the features do not. Divided by the largest number, no product is beyond float64.
    short = known if known.shape[1] <= known.shape[0] else known.T
    products = np.zeros((short.shape[1], short.shape[1]))
    for part in _parts(short):
        products += (part / largest).T @ (part / largest)
    squares = np.linalg.eigvalsh(products)
    squares[squares < squares[-1] * len(squares) * np.finfo("float64").eps] = 0  # what rounding leaves of zeros
    values = np.sqrt(squares)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _parts(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield rows in float64, some at a time."""
    for begin in range(0, len(rows), _AT_A_TIME):
        yield np.asarray(rows[begin : begin + _AT_A_TIME], "float64")
