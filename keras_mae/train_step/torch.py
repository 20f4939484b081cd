"""The training step on PyTorch."""

from __future__ import annotations

from typing import Any

import keras
import torch


class TrainStep(keras.Model):
    """`train_step` and `test_step` of a `MaskedAutoencoder`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(x, training=True, removed_only=True)
        loss = self.compute_loss(x, None, outputs, sample_weight, training=True)
        self.zero_grad()
        self.optimizer.scale_loss(loss).backward()
        weights = self.trainable_weights
        gradients = [weight.value.grad for weight in weights]
        with torch.no_grad():
            # One pass over the gradients: the norm is finite if and only if all of them are.
            known = [gradient for gradient in gradients if gradient is not None]
            finite = torch.isfinite(torch.nn.utils.get_total_norm(known)) & torch.isfinite(loss)
            # A LossScaleOptimizer skips the step itself, and must see the overflow to lower its scale.
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer) or finite:
                self.optimizer.apply(gradients, weights)
            return self.update_metrics(outputs, loss, finite)

    @torch.no_grad()
    def test_step(self, data: Any) -> dict[str, Any]:
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(x, training=False, removed_only=True)
        loss = self.compute_loss(x, None, outputs, sample_weight, training=False)
        return self.update_metrics(outputs, loss)
