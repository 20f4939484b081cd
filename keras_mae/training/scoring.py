"""Scores on test images: of a trained classifier, or of the nearest neighbors' vote, which trains nothing."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae import _checks, _class_names, distribution, transfer, visualize
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import check_batches, numpy_batches
from keras_mae.encoder import ViTEncoder
from keras_mae.labels import check_labels, class_indices
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.metrics import scores
from keras_mae.training.pictures import draw

__all__ = ["Predictions", "leave_scores", "predictions", "run_evaluation", "run_knn", "trained_names"]


def run_evaluation(
    classifier: ViTClassifier,
    test: Any,
    run_directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Score a trained classifier and leave `metrics.json`, `predictions.csv` and `confusion.png`.

    Where both sides know the classes' names, labels are compared by them: `test` may number its classes in another
    order than the classifier, and lack some. The classifier still chooses among all of its classes. Where only one
    side has names, labels are compared by their number; if it is the classifier that has none, a warning says so.

    Args:
        classifier: Trained `ViTClassifier`.
        test: Batches of (images, labels), not augmented.
        run_directory: Folder that does not exist or is empty.
        class_names: Names of the classes of `test`, in the order of its labels; by default its `class_names`.

    Returns:
        Path of the run directory; `RunDirectory` reads what is in it.

    Raises:
        ValueError: If `run_directory` holds files, `test` has classes that the classifier does not know, or anything
            else does not fit.
    """
    _checks.instance("classifier", classifier, ViTClassifier)
    check_batches("test", test)
    directory = RunDirectory(_checks.path("run_directory", run_directory))
    directory.check_free()
    names, known = _class_names.checked(_class_names.given_or_named(class_names, test)), classifier.class_names
    if known is None and names is not None:
        warnings.warn(_class_names.by_place(names, classifier.num_classes), stacklevel=2)
    known = known or names or tuple(map(str, range(classifier.num_classes)))
    places = _class_names.places(names or known, known)
    found = predictions(classifier, test, places)
    with directory.opened(free=True):
        leave_scores(directory, found, known, backend=keras.backend.backend())
    return directory.path


def run_knn(
    encoder: ViTEncoder | ViTClassifier,
    dataset: Any,
    test: Any,
    run_directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    k: int = 20,
    temperature: float = 0.07,
    pooling: str | None = None,
) -> Path:
    """Classify by the vote of the nearest neighbors; leave `metrics.json`, `predictions.csv` and `confusion.png`.

    Args:
        encoder: `ViTEncoder`, such as `mae.encoder`, or a trained `ViTClassifier`, whose features are what its head
            sees.
        dataset: Batches of (images, labels) that vote, not augmented.
        test: Batches of (images, labels) to classify. Its labels are compared by its `class_names`, if it has any.
        run_directory: Folder that does not exist or is empty.
        class_names: Names of the classes, in the order of the labels; by default the dataset's `class_names`.
        k: Number of neighbors that vote.
        temperature: Temperature of the votes' weights; the smaller, the more the nearest count.
        pooling: Pooling of the tokens, as in `transfer.extract_features`.

    Returns:
        Path of the run directory; `RunDirectory` reads what is in it.

    Raises:
        ValueError: If `run_directory` holds files, or anything does not fit.
    """
    _checks.positive_int("k", k)
    _checks.positive("temperature", temperature)
    for name, data in {"dataset": dataset, "test": test}.items():
        check_batches(name, data)
    directory = RunDirectory(_checks.path("run_directory", run_directory))
    directory.check_free()
    names = trained_names(class_names, dataset)
    test_names = _class_names.named(test) or names
    places = _class_names.places(test_names, names)
    voters, others = (transfer.extract_features(encoder, data, pooling=pooling) for data in (dataset, test))
    for labels, known in ((voters.labels, names), (others.labels, test_names)):
        if labels is None:
            raise ValueError("Neighbors vote, and are scored, on (images, labels). Received: no labels")
        check_labels(labels, len(known))
    predicted = transfer.knn_predict(voters, others.features, k, temperature)
    used = pooling or getattr(encoder, "pooling", "token")
    settings = {"k": k, "temperature": temperature, "pooling": used, "backend": keras.backend.backend()}
    with directory.opened(free=True):
        found = Predictions(predicted, places[others.labels], None, names_of_images(test))
        leave_scores(directory, found, names, **settings)
    return directory.path


def trained_names(class_names: Sequence[str] | None, dataset: Any) -> tuple[str, ...]:
    """Return the names of the classes to learn, as given or as the dataset has them.

    Raises:
        ValueError: If there are none, or the two differ.
    """
    names, own = _class_names.checked(class_names), _class_names.named(dataset)
    if names is None and own is None:
        raise ValueError("`class_names` must be given for a dataset without class names. Received: None")
    if names is not None:
        _class_names.check_places(dataset, names)
    return names or own or ()


@dataclass(frozen=True)
class Predictions:
    """What a model says of test images.

    Attributes:
        predicted: Predicted classes, integers (images,).
        labels: True classes, integers (images,).
        probabilities: Probability of each predicted class (images,), if the model knows one.
        images: Names of the images, if they have any.
    """

    predicted: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray | None = None
    images: Sequence[str] | None = None


def names_of_images(test: Any) -> Sequence[str] | None:
    """Return the names of a dataset's images in their order, or `None` if it knows none."""
    names = getattr(test, "image_names", None)
    return names() if callable(names) else None


def predictions(classifier: ViTClassifier, test: Any, places: np.ndarray) -> Predictions:
    """Return the predicted and the true classes of all test images.

    Args:
        classifier: Trained `ViTClassifier`.
        test: Batches of (images, labels).
        places: The classifier's class for each label of `test`.
    """
    predicted, true, probabilities = [], [], []
    for images, labels in numpy_batches(test):
        if labels is None:
            raise ValueError("A classifier is scored on (images, labels). Received: no labels")
        indices = class_indices(labels, len(places))
        whole = distribution.current().pad(images)
        logits = classifier.predict_on_batch(whole)[: len(images)]
        predicted.append(logits.argmax(-1))
        shifted = np.exp(np.float64(logits) - logits.max(-1, keepdims=True))
        probabilities.append(1 / shifted.sum(-1))  # of the largest, whose term is 1
        true.append(places[indices])
    return Predictions(
        np.concatenate(predicted), np.concatenate(true), np.concatenate(probabilities), names_of_images(test)
    )


def leave_scores(directory: RunDirectory, found: Predictions, class_names: Sequence[str], **settings: Any) -> None:
    """Write the scores, the predictions, and a confusion matrix of the classes that there are images of or that are
    predicted.

    Args:
        directory: Directory of the run.
        found: What the model says of the test images.
        class_names: Names of all classes.
        settings: Further values to write with the scores.
    """
    predicted, labels = found.predicted, found.labels
    shown, places = np.unique([labels, predicted], return_inverse=True)
    true, taken_for = places.reshape(2, -1)
    names = [class_names[index] for index in shown]
    directory.write_json(RunFile.METRICS, {**scores(predicted, labels, class_names), **settings})
    directory.write(RunFile.PREDICTIONS, lambda path: _write_predictions(path, found, class_names))
    draw(directory, RunFile.CONFUSION, lambda: visualize.confusion(true, taken_for, names))


def _write_predictions(path: Path, found: Predictions, class_names: Sequence[str]) -> None:
    """Write a line for each test image: its file, class, predicted class and, if known, the probability of that."""
    images = found.images or [f"image {number}" for number in range(1, len(found.labels) + 1)]
    rows = zip(images, found.labels, found.predicted, strict=True)
    lines = [[image, class_names[label], class_names[guess]] for image, label, guess in rows]
    header = ["file", "class", "predicted"]
    if found.probabilities is not None:
        header.append("probability")
        for line, probability in zip(lines, found.probabilities, strict=True):
            line.append(f"{probability:.6g}")
    # Names of files and folders may be other bytes than UTF-8.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([header, *lines])
