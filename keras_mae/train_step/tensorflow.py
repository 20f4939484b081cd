"""The training step on TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


class TrainStep(keras.Model):
    """`train_step` and `test_step` of a model with `outputs_for_loss`, `check_batch`, `update_metrics` and
    `moving_statistics`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = self._unpack(data)
        weights = self.trainable_weights
        statistics = [tf.identity(statistic.value) for statistic in self.moving_statistics]
        with tf.GradientTape() as tape:
            # By itself the tape overlooks what was frozen when it was made, as positions are.
            tape.watch([weight.value for weight in weights])
            outputs = self.outputs_for_loss(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, weights)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in (loss, *gradients)])

        def apply() -> None:
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))

        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # It skips the step itself, and must see the overflow to lower its scale. It looks at the gradients
            # alone: an infinite loss, whose gradients may be finite, is passed on to them as NaN.
            gradients = [tf.where(tf.math.is_finite(loss), gradient, float("nan")) for gradient in gradients]
            apply()
        else:
            tf.cond(finite, apply, lambda: None)
        for statistic, before in zip(self.moving_statistics, statistics, strict=True):
            statistic.assign(tf.where(finite, statistic.value, before))
        return self.update_metrics((x, y, sample_weight), outputs, loss, finite)

    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = self._unpack(data)
        outputs = self.outputs_for_loss(x, training=False)
        loss = self.compute_loss(x, y, outputs, sample_weight, training=False)
        return self.update_metrics((x, y, sample_weight), outputs, loss)

    def predict_step(self, data: Any) -> dict[str, Any]:
        self._unpack(data)
        return super().predict_step(data)

    def _unpack(self, data: Any) -> Any:
        """Images or dict, labels and sample weights of a batch."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.check_batch(data))
        if self.jit_compile and isinstance(x, dict) and x.get("mask") is not None:
            raise ValueError(
                "TensorFlow drops the check of a given `mask` where it compiles with XLA. Use jit_compile=False, or "
                "give `ids_keep` and `ids_removed`. Received: a `mask` with jit_compile=True"
            )
        return x, y, sample_weight
