"""What segmentations are trained on, and scored by: the loss of pixels, and numbers of one exact confusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.distribution import sums
from keras_mae.loss import checked_class_weights, weights_for
from keras_mae.ops import log_softmax

__all__ = ["ClassAccuracy", "MeanIoU", "PixelAccuracy", "PixelCrossEntropy", "confusion", "scores_of", "shared"]

IGNORED = 255
"""Label of the pixels that belong to no class, unless somebody says otherwise."""


# === Loss ===
@keras.saving.register_keras_serializable(package="keras_mae")
class PixelCrossEntropy(keras.losses.Loss):
    """Cross-entropy of the logits of every pixel with its label, in float32.

    The mean is over all pixels of the whole batch that have a class, wherever these are: a replica or process with
    few of them counts less. Without any it is 0. Of batches whose gradients are accumulated each counts alike,
    however many such pixels it has, and so they do in the loss of an epoch. mmsegmentation's default divides by the
    number of all pixels instead, which makes a batch with many ignored ones count less; AdamW hardly sees the
    difference. With `class_weights` both the sum and what it is divided by take each pixel times its class's weight,
    as PyTorch's `CrossEntropyLoss(weight, ignore_index)` does. A label that is neither a class nor `ignore_label`
    gives NaN, for which the training step leaves the weights alone.

    Args:
        ignore_label: Label of the pixels that belong to no class.
        name: Name of the loss.
        dtype: As for any loss of Keras.
        class_weights: What a pixel of each class counts, (num_classes,), none below 0; all 1 by default.

    Call arguments:
        y_true: Labels, integers (batch, height, width).
        y_pred: Logits (batch, height, width, num_classes).
        sample_weight: Factors of the images (batch,); the mean is still divided by the number of pixels.

    Raises:
        ValueError: If labels and logits differ in size, or weights are not numbers of at least 0, one for each class.

    Example:
        >>> logits = np.zeros((1, 2, 3, 4), "float32")
        >>> float(keras_mae.dense.PixelCrossEntropy()(np.array([[[0, 3, 255], [1, 2, 255]]]), logits))
        1.3862944
    """

    def __init__(
        self,
        ignore_label: int = IGNORED,
        name: str = "pixel_cross_entropy",
        dtype: Any = None,
        *,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.ignore_label = _checks.count("ignore_label", ignore_label)
        self.class_weights = checked_class_weights(class_weights)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels, logits = ops.cast(y_true, "int32"), ops.cast(y_pred, "float32")
        _check_sizes(labels.shape, logits.shape)
        counted = labels != self.ignore_label
        known = (labels >= 0) & (labels < logits.shape[-1])
        classes = ops.where(known, labels, 0)
        places = ops.expand_dims(classes, -1)
        error = -ops.squeeze(ops.take_along_axis(log_softmax(logits), places, axis=-1), -1)
        weights = ops.cast(counted, "float32")
        if self.class_weights is not None:
            weights = weights * ops.take(weights_for(self.class_weights, logits), classes)
        error = ops.where(counted, ops.where(known, error * weights, float("nan")), 0.0)
        # Keras averages this over the images of a part of the batch, and the step over the parts, by their images:
        # which comes to the sum over all of them, divided by all pixels that count.
        images, pixels = sums([ops.cast(ops.shape(labels)[0], "float32"), ops.sum(weights)])
        return ops.sum(error, axis=(1, 2)) * (images / ops.where(pixels > 0, pixels, 1.0))

    def get_config(self) -> dict[str, Any]:
        config = {"ignore_label": self.ignore_label, "name": self.name, "dtype": self.dtype}
        return {**config, "class_weights": self.class_weights}


def _check_sizes(labels: tuple[Any, ...], logits: tuple[Any, ...]) -> None:
    """Raise a `ValueError` unless there is one label for the logits of every pixel; sizes may be unknown."""
    if (
        len(logits) != 4
        or len(labels) != 3
        or any(None not in pair and len({*pair}) > 1 for pair in _pairs(labels, logits))
    ):
        raise ValueError(
            "There must be labels (batch, height, width) for logits (batch, height, width, num_classes). "
            f"Received: labels of shape {tuple(labels)}, logits of shape {tuple(logits)}"
        )


def _pairs(labels: tuple[Any, ...], logits: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    return list(zip(labels, logits, strict=False))


# === Metrics ===
_WORD = 2**14
"""Where a count's lower word ends. Float32 is exact for a thousand replicas' words, and for counts to 2 ** 38."""


class _Score(keras.metrics.Metric):
    """A number of the confusion of all pixels since the last reset.

    Counts are kept in two words of float32 each, the type that every backend's step adds up over replicas: one word
    would stop counting at 2 ** 24. `shared` makes several metrics read one's counts.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORED, name: str | None = None, dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.num_classes = _checks.positive_int("num_classes", num_classes)
        self.ignore_label = checked_ignore_label(ignore_label, num_classes)
        self.words = self.add_variable((2, num_classes, num_classes), "zeros", dtype="float32", name="words")
        self.source: Callable[[], _Score] | None = None  # a function: what it returns is another metric's own
        self._direction = "up"  # where Keras' callbacks look for it

    @property
    def variables(self) -> list[Any]:
        return [] if self.source else super().variables

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Count the pixels of a batch, unless another metric does.

        Args:
            y_true: Labels, integers (batch, height, width).
            y_pred: Logits (batch, height, width, num_classes).
            sample_weight: Must be `None`: pixels are counted.
        """
        if sample_weight is not None:
            raise ValueError(f"`{self.name}` counts pixels: give it as one of `metrics`, not of `weighted_metrics`")
        if self.source:
            return
        _check_sizes(y_true.shape, y_pred.shape)
        lower, upper = self.words.value[0], self.words.value[1]
        counts = _counts(y_true, y_pred, self.num_classes, self.ignore_label) + ops.cast(lower, "int32")
        words = [ops.mod(counts, _WORD), ops.floor_divide(counts, _WORD)]
        lower, carried = (ops.cast(word, "float32") for word in words)
        self.words.assign(ops.stack([lower, upper + carried]))

    def result(self) -> Tensor:
        words = ops.copy((self.source() if self.source else self).words.value)  # TensorFlow's variable is no tensor
        right = ops.diagonal(words, axis1=1, axis2=2)
        return self.score(right, ops.sum(words, axis=2), ops.sum(words, axis=1))

    @staticmethod
    def score(right: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
        """Return the score, NaN where nothing was counted.

        Args:
            right: Pixels of each class that were predicted to be of it, as words (2, num_classes).
            true: Pixels of each class, likewise.
            predicted: Pixels that were predicted to be of each class, likewise.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_classes": self.num_classes, "ignore_label": self.ignore_label}


def _counts(labels: Tensor, logits: Tensor, num_classes: int, ignore_label: int) -> Tensor:
    """Return the confusion of a batch, int32 (num_classes, num_classes): rows are labels, columns predictions."""
    labels, predicted = ops.cast(labels, "int32"), ops.cast(ops.argmax(logits, axis=-1), "int32")
    counted = (labels != ignore_label) & (labels >= 0) & (labels < num_classes)
    cells = ops.reshape(ops.where(counted, labels * num_classes + predicted, num_classes**2), (-1,))
    counts = ops.segment_sum(ops.ones_like(cells), cells, num_segments=num_classes**2 + 1)
    return ops.reshape(counts[:-1], (num_classes, num_classes))


def _number(words: Tensor) -> Tensor:
    """Return counts as float32; what could be added up as words, exactly, was."""
    return words[0] + words[1] * float(_WORD)


def _mean_share(part: Tensor, whole: Tensor) -> Tensor:
    """Return the mean of part / whole over the classes that have a whole, NaN if none has."""
    part, whole = _number(part), _number(whole)
    present = ops.cast(whole > 0, "float32")
    return ops.sum(present * part / ops.maximum(whole, 1.0)) / ops.sum(present)


@keras.saving.register_keras_serializable(package="keras_mae")
class MeanIoU(_Score):
    """The mean over classes of intersection over union, counted over all pixels since the last reset.

    It is exact for any number of pixels up to 2 ** 38 of a pair of classes, and over all replicas and processes.
    Ignored pixels are left out, and so are classes that neither a label nor a prediction names; it is NaN as long as
    there is none. Metrics of the same classes that a `ViTSegmenter` is compiled with share one confusion.

    Args:
        num_classes: Number of classes.
        ignore_label: Label of the pixels that belong to no class.
        name: Name of the metric.
        dtype: As for any metric of Keras.

    Raises:
        ValueError: If `ignore_label` is a class's.

    Example:
        >>> metric = keras_mae.dense.MeanIoU(3)
        >>> logits = keras.ops.one_hot(np.array([[[0, 0, 1]]]), 3)
        >>> float(metric(np.array([[[0, 1, 255]]]), logits))
        0.25

    Reference: "The PASCAL Visual Object Classes Challenge: A Retrospective", section 4.2.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORED, name: str = "mean_iou", dtype: Any = None):
        super().__init__(num_classes, ignore_label, name, dtype)

    @staticmethod
    def score(right: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
        return _mean_share(right, true + predicted - right)


@keras.saving.register_keras_serializable(package="keras_mae")
class PixelAccuracy(_Score):
    """The share of pixels whose largest logit is that of their class; counted as for `MeanIoU`.

    Args:
        num_classes: Number of classes.
        ignore_label: Label of the pixels that belong to no class.
        name: Name of the metric.
        dtype: As for any metric of Keras.
    """

    def __init__(
        self, num_classes: int, ignore_label: int = IGNORED, name: str = "pixel_accuracy", dtype: Any = None
    ):
        super().__init__(num_classes, ignore_label, name, dtype)

    @staticmethod
    def score(right: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
        return _number(ops.sum(right, axis=1)) / _number(ops.sum(true, axis=1))


@keras.saving.register_keras_serializable(package="keras_mae")
class ClassAccuracy(_Score):
    """The mean over classes of the share of a class's pixels that are predicted to be of it.

    Counted as for `MeanIoU`; classes without a pixel are left out.

    Args:
        num_classes: Number of classes.
        ignore_label: Label of the pixels that belong to no class.
        name: Name of the metric.
        dtype: As for any metric of Keras.
    """

    def __init__(
        self, num_classes: int, ignore_label: int = IGNORED, name: str = "class_accuracy", dtype: Any = None
    ):
        super().__init__(num_classes, ignore_label, name, dtype)

    @staticmethod
    def score(right: Tensor, true: Tensor, predicted: Tensor) -> Tensor:
        return _mean_share(right, true)


def shared(metrics: Any) -> Any:
    """Make metrics of the same classes count in one confusion, the first one's, and return them.

    Args:
        metrics: What `compile` is given as `metrics`: one, or a structure of them, of which others are left alone.
    """
    first: dict[tuple[int, int], _Score] = {}
    for metric in keras.tree.flatten(metrics):
        if isinstance(metric, _Score):
            counting = first.setdefault((metric.num_classes, metric.ignore_label), metric)
            metric.source = None if counting is metric else (lambda counting=counting: counting)
    return metrics


def checked_ignore_label(ignore_label: Any, num_classes: int) -> int:
    """Return `ignore_label` if it is the label of none of so many classes."""
    if _checks.count("ignore_label", ignore_label) < num_classes:
        raise ValueError(
            f"`ignore_label` must be none of the labels of the {num_classes} classes, such as "
            f"{IGNORED if num_classes <= IGNORED else 2**16 - 1}. Received: ignore_label={ignore_label}"
        )
    return int(ignore_label)


# === In NumPy ===
def confusion(labels: Any, predictions: Any, num_classes: int, ignore_label: int = IGNORED) -> np.ndarray:
    """Return how many pixels of each class are predicted to be of each.

    Confusions of several images add up.

    Args:
        labels: Integers of any shape: classes, or `ignore_label`.
        predictions: Predicted classes, integers of the same shape.
        num_classes: Number of classes.
        ignore_label: Label of the pixels that belong to no class, and are left out.

    Returns:
        int64 (num_classes, num_classes): rows are labels, columns predictions.

    Raises:
        ValueError: If the shapes differ, or a number is no class.

    Example:
        >>> keras_mae.dense.confusion(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 0]), num_classes=2)
        array([[1, 1],
               [0, 1]])
    """
    num_classes = _checks.positive_int("num_classes", num_classes)
    checked_ignore_label(ignore_label, num_classes)
    rule = f"integers in [0, {num_classes})"
    true, predicted = _checks.array("labels", labels, rule), _checks.array("predictions", predictions, rule)
    if true.shape != predicted.shape:
        raise ValueError(
            "`labels` and `predictions` must have the same shape. "
            f"Received: labels.shape={true.shape}, predictions.shape={predicted.shape}"
        )
    counted = true != ignore_label
    for name, known in {"labels": true[counted], "predictions": predicted[counted]}.items():
        if known.dtype.kind not in "iu":
            raise ValueError(f"`{name}` must be {rule}. Received: {name}.dtype={known.dtype}")
        if known.size and not 0 <= known.min() <= known.max() < num_classes:
            raise ValueError(f"`{name}` must be {rule}. Received: {name} from {known.min()} to {known.max()}")
    cells = true[counted].astype("int64") * num_classes + predicted[counted].astype("int64")
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores_of(confusion: Any) -> dict[str, Any]:
    """Return the scores of a confusion, those of `MeanIoU`, `PixelAccuracy` and `ClassAccuracy`, and each class's.

    Args:
        confusion: Integers (num_classes, num_classes), as from `confusion`.

    Returns:
        `mean_iou`, `pixel_accuracy` and `class_accuracy`, floats, NaN where nothing was counted; and `iou` and
        `accuracy`, float64 (num_classes,), NaN for classes that are left out of their means.

    Raises:
        ValueError: If it is no such matrix.
    """
    counts = _checks.array("confusion", confusion, "integers (num_classes, num_classes), none below 0")
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind not in "iu" or counts.min() < 0:
        raise _checks.argument_error("confusion", "integers (num_classes, num_classes), none below 0", confusion)
    right, true, predicted = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        iou, accuracy = right / (true + predicted - right), right / true
        pixel_accuracy = float(np.float64(right.sum()) / true.sum())
    means = [
        float(share[known].mean()) if (known := ~np.isnan(share)).any() else float("nan") for share in (iou, accuracy)
    ]
    return {
        "mean_iou": means[0],
        "pixel_accuracy": pixel_accuracy,
        "class_accuracy": means[1],
        "iou": iou,
        "accuracy": accuracy,
    }
