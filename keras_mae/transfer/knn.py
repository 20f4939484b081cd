"""The nearest neighbors' vote: what features are worth without any training."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae import _checks, _class_names, _optional
from keras_mae.transfer.features import Features

__all__ = ["knn_accuracy", "knn_predict"]


def knn_accuracy(train: Features, test: Features, k: int = 20, temperature: float = 0.07) -> float:
    """Score the vote of the k training images nearest by cosine, each weighted by exp(cosine / temperature).

    Features of masked autoencoders are known to be weak here, and to be much better once fine-tuned: they are not
    trained to be near one another for images that are alike.

    Args:
        train: Features and labels of the images that vote; see `extract_features`.
        test: Features and labels of the images to classify. Where both know their classes' names, labels are compared
            by them.
        k: Number of neighbors that vote.
        temperature: Divisor of the cosines; the smaller, the more the nearest neighbors count.

    Returns:
        The share of test images that are classified correctly, in [0, 1].

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If labels are missing, `k` exceeds the number of training images, or a class of `test` is none of
            `train`.

    Reference: "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4.
    """
    _check_features("test", test)
    labels = test.labels
    if labels is None:
        raise ValueError("`test` must have labels. Received: labels=None")
    if test.class_names is not None and train.class_names is not None:
        labels = _class_names.places(test.class_names, train.class_names)[labels]
    return float(np.mean(knn_predict(train, test.features, k, temperature) == labels))


def knn_predict(train: Features, features: Any, k: int = 20, temperature: float = 0.07) -> np.ndarray:
    """Return the labels, (images,), that the neighbors vote for.

    Args:
        train: Features and labels of the images that vote; see `extract_features`.
        features: Features of the images to classify, (images, embed_dim).
        k: As in `knn_accuracy`.
        temperature: As in `knn_accuracy`.

    Returns:
        The predicted labels, integers (images,).

    Raises:
        ImportError: If scikit-learn is missing.
        ValueError: If labels are missing, or `k` exceeds the number of training images.
    """
    _checks.positive("temperature", temperature)
    _check_features("train", train)
    if train.labels is None:
        raise ValueError("`train` must have labels. Received: labels=None")
    if _checks.positive_int("k", k) > len(train.features):
        raise ValueError(
            f"`k` must not exceed the number of training images. Received: k={k} for {len(train.features)} images"
        )
    width = np.shape(train.features)[1]
    rule = f"finite numbers (images, {width}), as wide as those that vote"
    known = _checks.array("features", features, rule)
    if known.ndim != 2 or known.shape[1] != width:
        raise _checks.argument_error("features.shape", f"(images, {width}), as wide as those that vote", known.shape)
    if not np.isfinite(known).all():
        raise ValueError(f"`features` must be {rule}. Received: NaN or infinite ones")
    neighbors = _optional.require("sklearn.neighbors", "The nearest neighbors' vote")
    vote = neighbors.KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distances: np.exp(-distances / temperature),  # the factor exp(1 / temperature) cancels
    )
    return np.asarray(vote.fit(train.features, train.labels).predict(features))


def _check_features(argument: str, given: Any) -> None:
    """Raise ValueError unless these are features, with as many labels if there are any."""
    _checks.has(argument, given, ("features", "labels"), "keras_mae.transfer.Features, from extract_features")
    rule = "finite features (images, width), with one label each"
    known = _checks.array(argument, given.features, rule)
    labels = None if given.labels is None else np.shape(given.labels)
    if known.ndim != 2 or labels not in (None, known.shape[:1]) or not np.isfinite(known).all():
        raise ValueError(
            f"`{argument}` must be {rule}. Received: features.shape={known.shape}, labels.shape={labels}"
            + ("" if np.isfinite(known).all() else ", NaN or infinite features")
        )
