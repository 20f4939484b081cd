"""The scores that a detector gives images, and how well they separate them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_mae import _checks

__all__ = ["MEAN", "AnomalyScores", "auroc", "standardized"]

MEAN = "mean"
"""Name of the mean over the methods, next to their own names."""

_SMALLEST = 1e-6


@dataclass(frozen=True)
class AnomalyScores:
    """How unlike normal images some images are.

    Scores and maps are in standard deviations above the mean of the held-out normal images, so that methods can be
    compared: scores by the mean and deviation of these images' scores, maps by those of their pixels.

    Attributes:
        scores: Scores of the images, float32 (images,), by the name of the method; "mean" is that over the methods.
        maps: Maps of the images, float32 (images, height, width), by the same names.
        threshold: Quantile of the held-out normal images' scores "mean", as `AnomalyDetector(quantile=...)` says.
    """

    scores: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    threshold: float

    @property
    def above(self) -> np.ndarray:
        """Whether an image's score "mean" is above the threshold, Boolean (images,)."""
        above: np.ndarray = self.scores[MEAN] > self.threshold
        return above


def standardized(
    values: Mapping[str, np.ndarray], statistics: Mapping[str, tuple[float, float]]
) -> dict[str, np.ndarray]:
    """Return values by method in standard deviations above the mean, and their mean over the methods.

    Args:
        values: Values by the name of the method.
        statistics: (mean, standard deviation) of each method's values for normal images, by the same names.

    Returns:
        The values, float32 in the same shapes, by the same names and "mean".
    """
    found = {}
    for name, raw in values.items():
        mean, deviation = statistics[name]
        # Normal images may be copies of one another, whose values differ by rounding alone.
        found[name] = ((raw - mean) / max(deviation, _SMALLEST * abs(mean), _SMALLEST)).astype("float32")
    found[MEAN] = np.mean(list(found.values()), axis=0, dtype="float32")
    return found


def auroc(anomalous: Any, scores: Any) -> float:
    """Return the area under the receiver operating characteristic curve.

    It is the probability that something anomalous has a higher score than something normal; equal scores count half.

    Args:
        anomalous: Which images, or pixels, are anomalous: Booleans or 0 and 1, in any shape.
        scores: Scores in the same shape; higher is more anomalous.

    Returns:
        A number in [0, 1]; 0.5 is chance.

    Raises:
        ValueError: If the shapes differ, all or nothing is anomalous, or scores are not finite.

    Example:
        >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8])
        0.875
    """
    rule = "Booleans or 0 and 1, some of each"
    labels = _checks.array("anomalous", anomalous, rule).ravel()
    if not np.isin(labels, (0, 1)).all() or labels.min() == labels.max():
        raise _checks.argument_error("anomalous", rule, anomalous)
    values = _checks.array("scores", scores, "finite numbers in the shape of `anomalous`")
    if values.shape != np.shape(anomalous) or not np.isfinite(values).all():
        raise _checks.argument_error("scores", "finite numbers in the shape of `anomalous`", scores)
    positive = labels.astype(bool)
    _, places, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # those of equal values are the mean of theirs
    positives = int(positive.sum())
    above = ranks[places.ravel()[positive]].sum() - positives * (positives + 1) / 2
    return float(above / (positives * (len(positive) - positives)))
