"""AdamW as masked autoencoders are pre-trained with it."""

from __future__ import annotations

from typing import Any

import keras

from keras_mae import _checks
from keras_mae.ops import fused_adamw
from keras_mae.optimizers.schedules import warmup_cosine


@keras.saving.register_keras_serializable(package="keras_mae")
class AdamW(keras.optimizers.AdamW):
    """AdamW that never decays biases and norms.

    Only variables of two and more dimensions are decayed, which leaves out biases and LayerNorm and keeps the
    class and mask tokens in. Keras' `exclude_from_weight_decay` does the same until the model is saved: the
    exclusions are not part of the saved optimizer, and training that goes on after `load_model` decays
    everything. Here the rule is in the class.

    The arithmetic is Keras' on every backend. On PyTorch decay and update are one fused pass over memory.

    Args:
        learning_rate: A number or a schedule.
        weight_decay: Decoupled, multiplied by the learning rate.
        beta_1: Decay of the mean of the gradients.
        beta_2: Decay of the mean of their squares; 0.95 for pre-training.
        epsilon: Added to the root of the mean square.
        kwargs: `keras.optimizers.AdamW`'s other arguments (clipping, EMA, gradient accumulation, ...).

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 8.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            **kwargs,
        )
        self._fused = keras.backend.backend() == "torch" and not self.amsgrad

    def _use_weight_decay(self, variable: Any) -> bool:
        return len(variable.shape) > 1 and super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables: Any) -> None:
        if not self._fused:
            super()._apply_weight_decay(variables)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        if not self._fused:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        for decayed in (True, False):
            chosen = [
                (grad, variable, self._get_variable_index(variable))
                for grad, variable in zip(grads, trainable_variables, strict=True)
                if self._use_weight_decay(variable) == decayed
            ]
            if chosen:
                gradients, variables, places = zip(*chosen, strict=True)
                fused_adamw(
                    gradients,
                    variables,
                    [self._momentums[place] for place in places],
                    [self._velocities[place] for place in places],
                    step=int(self.iterations) + 1,
                    learning_rate=float(learning_rate),
                    weight_decay=self.weight_decay if decayed else 0.0,
                    beta_1=self.beta_1,
                    beta_2=self.beta_2,
                    epsilon=self.epsilon,
                )


def pretraining_adamw(
    base_learning_rate: float = 1.5e-4,
    batch_size: int = 4096,
    total_steps: int | None = None,
    warmup_steps: int = 0,
    weight_decay: float = 0.05,
    **kwargs: Any,
) -> AdamW:
    """The pre-training optimizer: AdamW, betas (0.9, 0.95), warm-up and cosine, lr scaled by the batch.

    Args:
        base_learning_rate: For a batch of 256 images; the learning rate is base * batch_size / 256.
        batch_size: Images behind one update: batch × accumulation steps × replicas.
        total_steps: Updates of the whole run. `None` keeps the learning rate constant.
        warmup_steps: Updates of the warm-up from 0.
        weight_decay: Not applied to biases and norms.
        kwargs: `AdamW`'s other arguments.

    Returns:
        An `AdamW`.

    Raises:
        ValueError: If a number is out of range or the warm-up is not shorter than the run.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 8.
    """
    _checks.positive("base_learning_rate", base_learning_rate)
    peak = base_learning_rate * _checks.positive_int("batch_size", batch_size) / 256
    rate = peak if total_steps is None else warmup_cosine(peak, total_steps, warmup_steps)
    return AdamW(rate, weight_decay, **kwargs)
