"""What a classifier is trained on: its labels, and losses and metrics that take logits."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae.loss import PROBABILITY_TOLERANCE, Accuracy, CrossEntropy, are_classes
from keras_mae.ops import concrete, require

__all__ = ["check_labels", "check_loss", "check_metrics", "class_indices", "takes_classes", "with_accuracy"]

OTHERS = (
    "Other labels take another loss: compile with keras.losses.BinaryCrossentropy(from_logits=True) for any number "
    "of classes an image, with keras.losses.MeanSquaredError() for numbers."
)


# === Labels ===
def check_labels(labels: Any, num_classes: int) -> None:
    """Raise ValueError unless all labels are class indices or probabilities.

    Indices are integers or whole floats in [0, num_classes), of shape (batch,) or (batch, 1). Probabilities have
    shape (batch, num_classes), none is below 0, and an image's sum is 1 within `loss.PROBABILITY_TOLERANCE`.

    Args:
        labels: Array or tensor, which may have no value yet: in a compiled step.
        num_classes: Number of classes.

    Raises:
        ValueError: If there is another label; inside a compiled step, the backend's own error with the same message.
    """
    shape = getattr(labels, "shape", None)
    if shape is None:
        raise ValueError(f"Labels must be one array. Received: {type(labels).__name__}")
    shape = tuple(shape)
    indices = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
    if not indices and shape[1:] != (num_classes,):
        raise ValueError(
            f"Labels must be integers (batch,) or probabilities (batch, {num_classes}). {OTHERS} "
            f"Received: labels.shape={shape}"
        )
    known = labels if isinstance(labels, np.ndarray) else concrete(labels)
    rule = f"Labels must be integers in [0, {num_classes})."
    if not indices:
        rule = f"Labels of shape (batch, {num_classes}) must be probabilities: none below 0, an image's sum 1."
    if known is None:
        if keras.backend.standardize_dtype(labels.dtype) == "string":
            raise ValueError(f"{rule} Received: labels.dtype=string")
        require(ops.all(are_classes(labels, num_classes)), f"{rule} {OTHERS} Received: others")
    elif known.size:
        _check_known(known, num_classes, rule, indices)


def class_indices(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the class of each label, or the most probable one, int64 (batch,).

    Args:
        labels: As for `check_labels`.
        num_classes: Number of classes.

    Raises:
        ValueError: If a label is neither a class index nor probabilities.
    """
    check_labels(labels, num_classes)
    if labels.ndim == 2 and labels.shape[1] == num_classes > 1:
        labels = labels.argmax(axis=-1)
    indices: np.ndarray = labels.reshape(-1).astype("int64")
    return indices


def _check_known(labels: np.ndarray, num_classes: int, rule: str, indices: bool) -> None:
    """Raise ValueError unless an array has the labels that `rule` says, class indices or probabilities."""
    if str(labels.dtype) == "bfloat16":
        labels = labels.astype("float32")
    if labels.dtype.kind not in "biuf":
        hint = " np.unique(labels, return_inverse=True) makes integers of names." if indices else ""
        raise ValueError(f"{rule}{hint} Received: labels.dtype={labels.dtype}")
    low, high = labels.min(), labels.max()
    if not indices:
        sums = labels.sum(axis=-1, dtype="float64")
        worst = sums[np.argmax(np.abs(sums - 1))]
        if not low >= 0 or not abs(worst - 1) <= PROBABILITY_TOLERANCE:
            raise ValueError(f"{rule} {OTHERS} Received: values from {low} to {high}, a sum of {worst:.4g}")
        return
    broken = labels[labels != np.floor(labels)] if labels.dtype.kind == "f" else labels[:0]
    if broken.size:
        raise ValueError(f"{rule} {OTHERS} Received: {broken.flat[0]:.4g}")
    if low < 0 or high >= num_classes:
        raise ValueError(f"{rule} Received: labels from {low} to {high}")


# === Losses and metrics ===
LEFT_OUT = "leave it out, which is cross-entropy"
_WITHOUT_LOGITS = {"KLDivergence", "kl_divergence", "Dice", "dice", "Tversky", "tversky"}
_THRESHOLDED = (
    keras.metrics.Precision,
    keras.metrics.Recall,
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
)
# Their thresholds are probabilities, or they are of distributions: there is no setting for logits.
_OF_PROBABILITIES = (
    keras.metrics.KLDivergence,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
)
_ACCURACY = ("accuracy", "acc")


def takes_classes(loss: Any) -> bool:
    """Return whether a loss is the classifier's own, which takes class indices and probabilities only."""
    return isinstance(loss, CrossEntropy)


def check_loss(loss: Any) -> None:
    """Raise ValueError if a loss takes probabilities for what are logits.

    Args:
        loss: What `compile` is given: a loss, a function, a name, or a list or dict of them.

    Raises:
        ValueError: If it does, or if there are several losses, of which Keras takes the first.
    """
    losses = keras.tree.flatten(loss)
    if len(losses) > 1:
        raise ValueError(f"A classifier has one output, and one loss. Received: {len(losses)} losses")
    for one in losses:
        if isinstance(one, str) and one.lower() in ("crossentropy", "ce"):  # which Keras chooses by the labels
            raise _of_probabilities("loss", one, LEFT_OUT)
        try:
            found = keras.losses.get(one)
        except ValueError:
            continue  # Keras says so itself
        name = _name(found)
        if _takes_probabilities(found):
            raise _of_probabilities("loss", one, _with_logits("losses", found, name))
        if name in _WITHOUT_LOGITS and getattr(keras.losses, name, None) in (found, type(found)):
            raise _of_probabilities("loss", one, LEFT_OUT)


def check_metrics(metrics: Any, loss: Any) -> None:
    """Raise ValueError if a metric takes probabilities, and the loss makes logits of the outputs.

    Args:
        metrics: What `compile` is given as `metrics` or `weighted_metrics`.
        loss: What `compile` is given as `loss`, or the default one.

    Raises:
        ValueError: If one does.
    """
    if not _makes_logits(loss):
        return  # the outputs may be anything
    for one in keras.tree.flatten(metrics):
        try:
            found = keras.metrics.get(one) if one not in _ACCURACY else None
        except ValueError:
            continue  # Keras says so itself
        name = _name(found)
        if _takes_probabilities(found):
            raise _of_probabilities("metric", one, _with_logits("metrics", found, name))
        halved = isinstance(found, keras.metrics.BinaryAccuracy) and found.threshold == 0.5
        if halved or found is keras.metrics.binary_accuracy:
            raise _of_probabilities("metric", one, "give keras.metrics.BinaryAccuracy(threshold=0.0)")
        if isinstance(found, keras.metrics.BinaryIoU) and found.threshold == 0.5:
            raise _of_probabilities("metric", one, "give keras.metrics.BinaryIoU(threshold=0.0)")
        if isinstance(found, keras.metrics.FBetaScore) and found.threshold is not None:
            raise _of_probabilities("metric", one, "apply it to the sigmoid of what `predict` returns")
        if isinstance(found, _OF_PROBABILITIES) or found is keras.metrics.kl_divergence:
            raise _of_probabilities("metric", one, "apply it to the sigmoid or softmax of what `predict` returns")
        if isinstance(found, _THRESHOLDED) and found.thresholds == [0.5] and getattr(found, "top_k", None) is None:
            raise _of_probabilities("metric", one, f"give keras.metrics.{name}(thresholds=0.0)")


def with_accuracy(metrics: Any, loss: Any) -> Any:
    """Return metrics with the name "accuracy" replaced by the accuracy that goes with the loss.

    Keras would choose by the shape of the first labels, which MixUp changes, and compare a single output with 0.5.

    Args:
        metrics: What `compile` is given as `metrics` or `weighted_metrics`.
        loss: What `compile` is given as `loss`, or the default one.
    """

    def chosen(metric: Any) -> Any:
        if not (isinstance(metric, str) and metric in _ACCURACY):
            return metric
        if takes_classes(loss):
            return Accuracy(name=metric)
        binary = any(_name(one).lower().startswith("binary") for one in keras.tree.flatten(loss))
        return keras.metrics.BinaryAccuracy(name=metric, threshold=0.0) if binary else metric

    return keras.tree.map_structure(chosen, metrics)


def _name(loss: Any) -> str:
    """Return the name of a loss or metric: of its function, or of its class."""
    if isinstance(loss, functools.partial):
        loss = loss.func
    return str(getattr(loss, "__name__", type(loss).__name__))


def _from_logits(loss: Any) -> Any:
    """Return whether a loss or metric is set to take logits; `None` if it has no such setting."""
    if callable(loss) and not isinstance(loss, keras.losses.Loss | keras.metrics.Metric):
        setting = inspect.signature(loss).parameters.get("from_logits")
        return None if setting is None else setting.default
    return getattr(loss, "from_logits", getattr(loss, "_from_logits", None))


def _takes_probabilities(loss: Any) -> bool:
    return _from_logits(loss) is False


def _makes_logits(loss: Any) -> bool:
    return any(takes_classes(one) or _from_logits(one) is True for one in keras.tree.flatten(loss))


def _with_logits(module: str, found: Any, name: str) -> str:
    """Say how to write a loss or metric so that it takes logits."""
    if isinstance(found, keras.losses.Loss | keras.metrics.Metric):
        return f"give keras.{module}.{name}(from_logits=True)"
    if getattr(keras.losses, name, None) is found:
        known = {named.lower(): named for named in vars(keras.losses)}
        return f"give keras.losses.{known[name.replace('_', '')]}(from_logits=True)"
    return f"give functools.partial({name}, from_logits=True)"


def _of_probabilities(kind: str, given: Any, advice: str) -> ValueError:
    received = repr(given) if isinstance(given, str) else _name(given)
    return ValueError(
        f"A classifier gives logits, and this {kind} takes probabilities: {advice}. Received: {kind} {received}"
    )
