"""Cross-entropy and accuracy for integer labels and for mixed ones alike.

MixUp and CutMix train on probabilities and are validated on integers: one loss and one metric have to take both.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def _probabilities(labels: Any, logits: Any) -> Any:
    """`labels` as float32 (batch, classes)."""
    classes = logits.shape[-1]
    if labels.shape[-1:] == (classes,) and len(labels.shape) == 2 and classes > 1:
        return ops.cast(labels, "float32")
    return ops.one_hot(ops.reshape(ops.cast(labels, "int32"), (-1,)), classes, dtype="float32")


@keras.saving.register_keras_serializable(package="keras_mae")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of logits with integer labels (batch,) or probabilities (batch, classes), in float32.

    A label that is no class gives NaN, for which the training step leaves the weights alone.
    """

    def __init__(self, name: str = "cross_entropy", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        logits = ops.cast(y_pred, "float32")
        labels = _probabilities(y_true, logits)
        loss = -ops.sum(labels * ops.log_softmax(logits, axis=-1), axis=-1)
        return ops.where(ops.sum(labels, axis=-1) > 0, loss, float("nan"))


@keras.saving.register_keras_serializable(package="keras_mae")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """The share of images whose largest logit is that of the label, or of the most probable one."""

    def __init__(self, name: str = "accuracy", dtype: Any = None):
        super().__init__(self._agree, name=name, dtype=dtype)

    @staticmethod
    def _agree(y_true: Any, y_pred: Any) -> Any:
        return ops.equal(ops.argmax(_probabilities(y_true, y_pred), axis=-1), ops.argmax(y_pred, axis=-1))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}
