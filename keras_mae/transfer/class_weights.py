"""Weights in the loss for classes with few images and with many."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data.drawing import labels_of
from keras_mae.labels import class_indices
from keras_mae.recipes import FineTuneRecipe, check_recipe

__all__ = ["balanced_class_weights", "class_weights_of"]


def balanced_class_weights(labels: Any, num_classes: int) -> np.ndarray:
    """Return weights with which all classes count equally in a loss, and whose mean over the images is 1.

    They are images / (classes * images of the class), as in scikit-learn, over the classes that have images. A class
    without images has weight 1.

    Args:
        labels: Classes of the images, integers (images,), or probabilities (images, num_classes), of which the
            largest counts.
        num_classes: Number of classes.

    Returns:
        Weights, float64 (num_classes,).

    Raises:
        ValueError: If there are no labels, or one is neither a class nor probabilities.

    Example:
        >>> keras_mae.transfer.balanced_class_weights([0, 0, 0, 1], 2)
        array([0.66666667, 2.        ])
    """
    _checks.positive_int("num_classes", num_classes)
    given = _checks.array("labels", labels, "one class for each image")
    counts = np.bincount(class_indices(given, num_classes), minlength=num_classes)
    present = counts > 0
    weights = np.ones(num_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def class_weights_of(recipe: FineTuneRecipe, dataset: Any, num_classes: int) -> list[float] | None:
    """Return the weights of the classes that a recipe asks for, or `None` if it asks for none.

    Args:
        recipe: Recipe for fine-tuning.
        dataset: Dataset that is trained on.
        num_classes: Number of classes.

    Raises:
        ValueError: If the recipe asks for balanced weights, and the dataset's labels cannot be counted.
    """
    check_recipe(recipe, FineTuneRecipe)
    if recipe.class_weights is None:
        return None
    source = getattr(getattr(dataset, "batches", None), "source", None)
    labels = None if source is None else labels_of(source)
    if labels is None:
        raise ValueError(
            '`class_weights="balanced"` counts the labels of a dataset of keras_mae.data that is read by index. For '
            "another one, compile a ViTClassifier with keras_mae.loss.CrossEntropy(class_weights=...). "
            f"Received: {type(dataset).__name__}"
        )
    weights: list[float] = balanced_class_weights(labels, num_classes).tolist()
    return weights
