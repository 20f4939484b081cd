"""What a classifier's predictions are worth: accuracy, precision, recall and F1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["scores"]


def scores(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return the scores of predictions, as scikit-learn defines them.

    "balanced_accuracy" is the mean recall of the classes that there are images of: each counts alike, however many
    images it has. "precision", "recall" and "f1" are means (macro averages) over the classes that there are images of
    or that are predicted; a ratio of nothing to nothing counts as 0 in them.

    Args:
        predicted: Predicted classes, integers (images,).
        labels: True classes, integers (images,).
        class_names: Names of all classes.

    Returns:
        JSON values by name. Those by class are `None` where a class has no images (accuracy, which is its recall) or
        is never predicted (precision), or neither (F1).
    """
    count = len(class_names)
    right = np.bincount(labels[predicted == labels], minlength=count)
    true, taken = np.bincount(labels, minlength=count), np.bincount(predicted, minlength=count)
    recall, precision, f1 = (_ratio(right, true), _ratio(right, taken), _ratio(2 * right, true + taken))
    occurring = (true + taken) > 0

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {
            name: None if np.isnan(value) else float(value) for name, value in zip(class_names, values, strict=True)
        }

    return {
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(recall[true > 0].mean()),
        "precision": float(np.nan_to_num(precision[occurring]).mean()),
        "recall": float(np.nan_to_num(recall[occurring]).mean()),
        "f1": float(np.nan_to_num(f1[occurring]).mean()),
        "images": len(labels),
        "accuracy_by_class": by_class(recall),
        "precision_by_class": by_class(precision),
        "f1_by_class": by_class(f1),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where there is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
