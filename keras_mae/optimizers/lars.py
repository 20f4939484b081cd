"""LARS: the optimizer of linear probes with very large batches."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae.ops import constant
from keras_mae.optimizers.schedules import warmup_cosine
from keras_mae.optimizers.updates import CountsUpdates

__all__ = ["LARS", "probing_lars"]


@keras.saving.register_keras_serializable(package="keras_mae")
class LARS(CountsUpdates):
    """Momentum SGD whose steps are scaled, tensor by tensor, to the size of the weights.

        update   = gradient + weight_decay * w
        update  *= trust_coefficient * |w| / |update|        (1 where either norm is 0)
        momentum = beta * momentum + update
        w       -= learning_rate * momentum

    Variables of one dimension are neither decayed nor scaled. Under gradient accumulation the learning rate and
    averaged weights go by updates, not by batches.

    Args:
        learning_rate: A number, or a schedule of updates. It multiplies the momentum, not what enters it.
        momentum: Factor of the momentum: beta above.
        weight_decay: Factor of the weights that are added to the gradient before it is scaled: not decoupled.
        trust_coefficient: Size of a step against the weights.
        kwargs: `keras.optimizers.Optimizer`'s other arguments (clipping, EMA, gradient accumulation, ...).

    Raises:
        ValueError: If a number is out of range.

    Reference: "Large Batch Training of Convolutional Networks", algorithm 1; "Masked Autoencoders Are Scalable
    Vision Learners", appendix A.1, table 10.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        name: str = "lars",
        **kwargs: Any,
    ):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.momentum = _checks.fraction("momentum", momentum)
        self.weight_decay = _checks.non_negative("weight_decay", weight_decay)
        self.trust_coefficient = _checks.positive("trust_coefficient", trust_coefficient)

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")

    def _apply_weight_decay(self, variables: Any) -> None:
        """Do nothing: the decay is part of the gradient."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        momentum = self._momentums[self._get_variable_index(variable)]
        update = ops.cast(ops.convert_to_tensor(gradient), variable.dtype)  # on TensorFlow it may be sparse
        if len(variable.shape) > 1:
            value = ops.convert_to_tensor(variable)
            update = update + self.weight_decay * value
            weight_norm, update_norm = (ops.sqrt(ops.sum(ops.square(x))) for x in (value, update))
            known = ops.logical_and(weight_norm > 0, update_norm > 0)
            trust = self.trust_coefficient * weight_norm / ops.where(known, update_norm, constant(1.0, update_norm))
            update = update * ops.where(known, trust, constant(1.0, trust))
        update = ops.cast(momentum, variable.dtype) * self.momentum + update
        self.assign(momentum, update)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * update)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
        }


def probing_lars(
    base_learning_rate: float = 0.1,
    batch_size: int = 16384,
    *,
    total_steps: int | None = None,
    warmup_steps: int = 0,
    **kwargs: Any,
) -> LARS:
    """Return the linear probe's optimizer: LARS, momentum 0.9, no decay, warm-up and cosine to 0.

    Args:
        base_learning_rate: Learning rate for a batch of 256 images; the run's is base * batch_size / 256.
        batch_size: Number of images behind one update: batch × accumulation steps × replicas.
        total_steps: Number of updates of the whole run. `None` keeps the learning rate constant.
        warmup_steps: Number of updates of the warm-up from 0.
        kwargs: `LARS`'s other arguments.

    Returns:
        A `LARS`.

    Raises:
        ValueError: If a number is out of range or the warm-up is not shorter than the run.

    Reference: "Masked Autoencoders Are Scalable Vision Learners", appendix A.1, table 10.
    """
    _checks.positive("base_learning_rate", base_learning_rate)
    peak = base_learning_rate * _checks.positive_int("batch_size", batch_size) / 256
    return LARS(peak if total_steps is None else warmup_cosine(peak, total_steps, warmup_steps), **kwargs)
