"""What our optimizers share: under gradient accumulation everything that counts, counts updates."""

from __future__ import annotations

import functools
import numbers
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae.distribution import are_shared_out
from keras_mae.ops import constant
from keras_mae.optimizers.averages import move_averages

__all__ = ["CountsUpdates"]


def _optional(check: Any) -> Any:
    return functools.partial(_checks.optional, check)


_OF_KERAS: dict[str, Any] = {
    "clipnorm": _optional(_checks.positive),
    "clipvalue": _optional(_checks.positive),
    "global_clipnorm": _optional(_checks.positive),
    "gradient_accumulation_steps": _optional(_checks.positive_int),
    "use_ema": _checks.boolean,
    "ema_momentum": _checks.fraction,
    "ema_overwrite_frequency": _optional(_checks.positive_int),
    "loss_scale_factor": _optional(_checks.positive),
}
"""What the optimizers' arguments of Keras' must be."""


class CountsUpdates(keras.optimizers.Optimizer):
    """An optimizer that reads its schedule, and averages weights, by updates and not by batches.

    Under `gradient_accumulation_steps` Keras reads a schedule at the number of batches, so that it is over after
    1 / steps of the run, and moves and writes back averaged weights at every batch. Here both go by `iterations`,
    the number of updates. What is saved is as in Keras: the number of batches, and the gradients that wait.

    A batch that the training step skips leaves no trace: the update waits for one batch more. Batches left over at
    the end of a run change no weight.

    Args:
        learning_rate: A number, or a schedule of updates.
        ema_warmup: Whether averages begin short, as those of a recipe's `ema_momentum` do: after t updates the
            momentum is at most (1 + t) / (10 + t), so that a run of any length ends with the average of no more than
            its last ninth or so. Keras' own weigh the first updates of a short run most.
        kwargs: `keras.optimizers.Optimizer`'s other arguments.

    Raises:
        ValueError: If a number is out of range.
    """

    averages_at_end: bool = True
    """Whether `fit` ends by putting averages in the weights' place: not where another `fit` goes on. Not saved."""

    def __init__(self, learning_rate: Any, *, ema_warmup: bool = False, **kwargs: Any):
        if isinstance(learning_rate, numbers.Real):
            learning_rate = _checks.non_negative("learning_rate", learning_rate)
        else:
            _checks.function("learning_rate", learning_rate, "a number of at least 0 or a schedule")
        kwargs |= {name: check(name, kwargs[name]) for name, check in _OF_KERAS.items() if name in kwargs}
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.ema_warmup = _checks.boolean("ema_warmup", ema_warmup)

    def _get_current_learning_rate(self) -> Any:
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        if not (self.use_ema and self.gradient_accumulation_steps):
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        # Keras averages, and writes averages back, at every batch: what it did at the others is undone.
        updates = (self._iterations + 1) % self.gradient_accumulation_steps == 0
        averaged = [average for average in self._model_variables_moving_average if average is not None]
        kept = [*self._trainable_variables, *averaged]
        before = [ops.copy(ops.convert_to_tensor(variable)) for variable in kept]
        super()._backend_apply_gradients(grads, trainable_variables)
        for variable, value in zip(kept, before, strict=True):
            variable.assign(ops.where(updates, ops.convert_to_tensor(variable), value))

    def add_variable_from_reference(self, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        variable = super().add_variable_from_reference(reference_variable, *args, **kwargs)
        if are_shared_out([reference_variable]):  # at once: all of them whole would not fit
            from keras_mae.sharding import share_out

            share_out(variable)
        return variable

    def _clip_gradients(self, grads: Any) -> Any:
        if not are_shared_out(self._trainable_variables) or not (self.clipnorm or self.global_clipnorm):
            return super()._clip_gradients(grads)
        from keras_mae.sharding import norms

        # Of the whole gradients, of which these are parts: the same on all processes.
        lengths, most = norms(grads, self._trainable_variables), self.clipnorm or self.global_clipnorm
        if not self.clipnorm:
            lengths = ops.broadcast_to(ops.norm(lengths), lengths.shape)
        return [gradient * scale for gradient, scale in zip(grads, most / ops.maximum(lengths, most), strict=True)]

    def _update_model_variables_moving_average(self, trainable_variables: Any) -> None:
        if not (self.use_ema and self.ema_warmup):
            super()._update_model_variables_moving_average(trainable_variables)
            return
        done = ops.cast(self.iterations, "float32")
        highest = constant(self.ema_momentum, done)
        momentum = ops.where(done > 0, ops.minimum(highest, (1 + done) / (10 + done)), constant(0.0, done))
        move_averages(self._model_variables_moving_average, trainable_variables, 1 - momentum)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Replace the weights by their averages, once there are any: before the first update they are zeros."""
        if self.averages_at_end and int(ops.convert_to_numpy(self.iterations)):
            super().finalize_variable_values(var_list)
            if self.use_ema and keras.backend.backend() == "jax":
                # Keras lets both hold one array, whose memory the next step or prediction takes for its results.
                for variable in var_list:
                    variable.assign(ops.copy(variable.value))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "ema_warmup": self.ema_warmup}
