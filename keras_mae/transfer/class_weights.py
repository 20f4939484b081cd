"""Weights in the loss for classes with few images, or pixels, and with many."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_mae import _checks
from keras_mae.data.drawing import labels_of
from keras_mae.labels import class_indices
from keras_mae.recipes import FineTuneRecipe, SegmentationRecipe, check_recipe

__all__ = ["balanced_class_weights", "class_weights_of", "pixel_weights_of"]


def balanced_class_weights(labels: Any, num_classes: int) -> np.ndarray:
    """Return weights with which all classes count equally in a loss, and whose mean over the images is 1.

    They are images / (classes * images of the class), as in scikit-learn, over the classes that have images. A class
    without images has weight 1.

    Args:
        labels: Classes of the images, integers (images,), or probabilities (images, num_classes), of which the
            largest counts. Or those of pixels: `masks[masks != 255]`.
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
    return _balancing(np.bincount(class_indices(given, num_classes), minlength=num_classes))


def _balancing(counts: np.ndarray) -> np.ndarray:
    """Return the weights for numbers of images, or of pixels, of each class."""
    present = counts > 0
    weights = np.ones(len(counts))
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
    source = _source_of(dataset)
    labels = None if source is None else labels_of(source)
    if labels is None:
        raise _uncounted("labels", "a ViTClassifier with keras_mae.loss.CrossEntropy", dataset)
    return list(map(float, balanced_class_weights(labels, num_classes)))


def pixel_weights_of(recipe: SegmentationRecipe, dataset: Any, num_classes: int) -> list[float] | None:
    """Return the weights by the pixels of the classes in all masks, which are read, or `None` if a recipe has none.

    Args:
        recipe: Recipe for segmentation.
        dataset: Dataset that is trained on.
        num_classes: Number of classes.

    Raises:
        ValueError: If the recipe asks for balanced weights, and the dataset's masks cannot be counted.
    """
    check_recipe(recipe, SegmentationRecipe)
    if recipe.class_weights is None:
        return None
    source = _source_of(dataset)
    if getattr(source, "masks", None) is None:
        raise _uncounted("masks", "a ViTSegmenter with keras_mae.dense.PixelCrossEntropy", dataset)

    def count(index: int) -> np.ndarray:
        pixels = np.bincount(source.labels_of(index).ravel(), minlength=num_classes)
        return pixels[:num_classes]  # what is ignored has a higher label

    with ThreadPoolExecutor() as pool:
        counts = sum(pool.map(count, range(len(source))))
    return list(map(float, _balancing(np.asarray(counts))))


def _source_of(dataset: Any) -> Any:
    return getattr(getattr(dataset, "batches", None), "source", None)


def _uncounted(what: str, instead: str, dataset: Any) -> ValueError:
    return ValueError(
        f'`class_weights="balanced"` counts the {what} of a dataset of keras_mae.data that is read by index. For '
        f"another one, compile {instead}(class_weights=...). Received: {type(dataset).__name__}"
    )
