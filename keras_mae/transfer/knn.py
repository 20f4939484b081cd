"""The nearest neighbours' vote: what features are worth without any training."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.transfer.features import Features


def knn_accuracy(train: Features, test: Features, k: int = 20, temperature: float = 0.07) -> float:
    """Accuracy of the vote of the k training images nearest by cosine, each weighted by exp(cosine / temperature).

    Features of masked autoencoders are known to be weak here, and to be much better fine-tuned: they are not
    trained to be near for what is alike.

    Args:
        train: Features and labels of the images that vote; see `extract_features`.
        test: Features and labels of the images to classify.
        k: Neighbours that vote.
        temperature: The smaller, the more the nearest count.

    Returns:
        The share of test images that are classified right.

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If labels are missing, or `k` exceeds the number of training images.

    Reference: "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    predicted = knn_predict(train, test.features, k, temperature)
    if test.labels is None:
        raise ValueError("`test` must have labels. Received: labels=None")
    return float(np.mean(predicted == test.labels))


def knn_predict(train: Features, features: Any, k: int = 20, temperature: float = 0.07) -> np.ndarray:
    """The labels that the neighbours vote for, (images,); arguments as in `knn_accuracy`."""
    _checks.positive("temperature", temperature)
    if train.labels is None:
        raise ValueError("`train` must have labels. Received: labels=None")
    if _checks.positive_int("k", k) > len(train.features):
        raise ValueError(
            f"`k` must not exceed the number of training images. Received: k={k} for {len(train.features)} images"
        )
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise ImportError('Nearest neighbours come with scikit-learn: pip install "keras-mae[data]"') from error
    vote = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp(-distances / temperature),  # the factor exp(1 / temperature) cancels
    )
    return vote.fit(train.features, train.labels).predict(features)
