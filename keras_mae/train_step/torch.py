"""The training step on PyTorch."""

from __future__ import annotations

from typing import Any

import keras
import torch


class TrainStep(keras.Model):
    """`train_step` and `test_step` of a model with `outputs_for_loss`, `check_batch`, `update_metrics` and
    `moving_statistics`."""

    def train_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.check_batch(data))
        statistics = [statistic.value.clone() for statistic in self.moving_statistics]
        outputs = self.outputs_for_loss(x, training=True)
        loss = self.compute_loss(x, y, outputs, sample_weight, training=True)
        self.zero_grad()
        self.optimizer.scale_loss(loss).backward()
        weights = self.trainable_weights
        gradients = [weight.value.grad for weight in weights]
        with torch.no_grad():
            # One pass over the gradients; a norm that overflows where they do not is no step to take either.
            known = [gradient for gradient in gradients if gradient is not None]
            finite = torch.isfinite(torch.nn.utils.get_total_norm(known)) & torch.isfinite(loss)
            if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
                # It skips the step itself, and must see the overflow to lower its scale. It looks at the
                # gradients alone: an infinite loss, whose gradients may be finite, is passed on to them as NaN.
                if not finite:
                    known[0].fill_(float("nan"))
                self.optimizer.apply(gradients, weights)
            elif finite:
                self.optimizer.apply(gradients, weights)
            if not finite:
                for statistic, before in zip(self.moving_statistics, statistics, strict=True):
                    statistic.assign(before)
            return self.update_metrics((x, y, sample_weight), outputs, loss, finite)

    @torch.no_grad()
    def test_step(self, data: Any) -> dict[str, Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(self.check_batch(data))
        outputs = self.outputs_for_loss(x, training=False)
        loss = self.compute_loss(x, y, outputs, sample_weight, training=False)
        return self.update_metrics((x, y, sample_weight), outputs, loss)
