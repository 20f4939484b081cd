"""Scores on test images: of a trained classifier, or of the nearest neighbors' vote, which trains nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mae import _checks, _class_names, distribution, transfer, visualize
from keras_mae.classifier import ViTClassifier
from keras_mae.data.reading import numpy_batches
from keras_mae.encoder import ViTEncoder
from keras_mae.labels import check_labels, class_indices
from keras_mae.training.directory import RunDirectory, RunFile
from keras_mae.training.pictures import draw

__all__ = ["leave_scores", "predicted_and_true", "run_evaluation", "run_knn", "trained_names"]


def run_evaluation(
    classifier: ViTClassifier,
    test: Any,
    run_directory: str | Path,
    *,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Score a trained classifier and leave `metrics.json` and `confusion.png`.

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
    directory = RunDirectory(run_directory)
    directory.check_free()
    if not isinstance(classifier, ViTClassifier):
        raise _checks.argument_error("classifier", "a keras_mae.ViTClassifier", classifier)
    names, known = _class_names.checked(_class_names.given_or_named(class_names, test)), classifier.class_names
    if known is None and names is not None:
        warnings.warn(_class_names.by_place(names, classifier.num_classes), stacklevel=2)
    known = known or names or tuple(map(str, range(classifier.num_classes)))
    places = _class_names.places(names or known, known)
    predicted, labels = predicted_and_true(classifier, test, places)
    with directory.opened(free=True):
        leave_scores(directory, predicted, labels, known, backend=keras.backend.backend())
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
    """Classify by the vote of the nearest neighbors, and leave `metrics.json` and `confusion.png`.

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
    directory = RunDirectory(run_directory)
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
        leave_scores(directory, predicted, places[others.labels], names, **settings)
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


def predicted_and_true(classifier: ViTClassifier, test: Any, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted and the true classes of all test images, integers (images,).

    Args:
        classifier: Trained `ViTClassifier`.
        test: Batches of (images, labels).
        places: The classifier's class for each label of `test`.
    """
    predicted, true = [], []
    for images, labels in numpy_batches(test):
        if labels is None:
            raise ValueError("A classifier is scored on (images, labels). Received: no labels")
        indices = class_indices(labels, len(places))
        whole = distribution.current().pad(images)
        predicted.append(classifier.predict_on_batch(whole)[: len(images)].argmax(-1))
        true.append(places[indices])
    return np.concatenate(predicted), np.concatenate(true)


def leave_scores(
    directory: RunDirectory, predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str], **settings: Any
) -> None:
    """Write the scores, and a confusion matrix of the classes that there are images of or that are predicted.

    Args:
        directory: Directory of the run.
        predicted: Predicted classes, integers (images,).
        labels: True classes, integers (images,).
        class_names: Names of all classes.
        settings: Further values to write with the scores.
    """
    shown, places = np.unique([labels, predicted], return_inverse=True)
    true, taken_for = places.reshape(2, -1)
    names = [class_names[index] for index in shown]
    directory.write_json(RunFile.METRICS, {**_scores(predicted, labels, class_names), **settings})
    draw(directory, RunFile.CONFUSION, lambda: visualize.confusion(true, taken_for, names))


def _scores(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the accuracy of all test images and of each class, `None` for a class without images."""
    right = predicted == labels
    by_class = [right[labels == index] for index in range(len(class_names))]
    return {
        "accuracy": float(right.mean()),
        "images": len(labels),
        "accuracy_by_class": {
            name: float(of_class.mean()) if of_class.size else None
            for name, of_class in zip(class_names, by_class, strict=True)
        },
    }
