"""The training step on JAX: the same, as pure functions of all state."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import jax
import keras
from jax import numpy as jnp

from keras_mae._types import Tensor
from keras_mae.first_batch import IteratorStep, Places, is_stale, looking
from keras_mae.train_step.base import BaseTrainStep, poisoned

__all__ = ["TrainStep"]

_STATE = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


_trim: Callable[[int], int] | None = (
    getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
)


def _give_back(event: str, seconds: float, **_: Any) -> None:
    """After a long compilation, return to the system what the compiler left, before a step asks for memory, too."""
    if event.endswith("/backend_compile_duration") and seconds > 1 and _trim is not None:
        _trim(0)


jax.monitoring.register_event_duration_secs_listener(_give_back)


class _UpdatesIf(keras.StatelessScope):
    """A scope in which a variable that is assigned to keeps its value unless `finite`, a boolean scalar.

    What is computed from a moment then reads its new value. XLA would compute one that may yet be dropped a second
    time, from the old value, of which it keeps a copy.
    """

    def __init__(self, finite: Tensor, state: list[tuple[Any, Any]]):
        super().__init__(state)
        self.finite = finite

    def add_update(self, update: tuple[Any, Any]) -> None:
        variable, value = update
        super().add_update((variable, jnp.where(self.finite, value, self.get_current_value(variable))))


class TrainStep(BaseTrainStep):
    """`train_step` and `test_step` as functions of (state, data), for JAX to differentiate and compile."""

    def _loss(
        self, trainable: Any, non_trainable: Any, optimizer: Any, data: Any, training: bool
    ) -> tuple[Tensor, tuple[Tensor, Any, list[Tensor]]]:
        """Return the scaled loss, and (loss, outputs, new non-trainable state)."""
        x, y, sample_weight = data
        state = list(zip(self.trainable_variables, trainable, strict=True))
        state += zip(self.non_trainable_variables, non_trainable, strict=True)
        if training:
            state += zip(self.optimizer.variables, optimizer, strict=True)
        with keras.StatelessScope(state, collect_losses=True) as scope:
            outputs = self.outputs_for_loss(x, training=training)
            loss = self.compute_loss(x, y, outputs, sample_weight, training=training)
            scaled_loss = self.optimizer.scale_loss(loss) if training else loss
        non_trainable = [scope.get_current_value(variable) for variable in self.non_trainable_variables]
        return scaled_loss, (loss, outputs, non_trainable)

    def _logs(
        self, metrics: Any, data: Any, outputs: Any, loss: Any, finite: Any = None
    ) -> tuple[dict[str, Any], list[Tensor]]:
        """Return the logs, and the metrics' new state."""
        with keras.StatelessScope(list(zip(self.metrics_variables, metrics, strict=True))) as scope:
            logs = self.update_metrics(data, outputs, loss, finite)
        return logs, [scope.get_current_value(variable) for variable in self.metrics_variables]

    def train_step(self, state: Any, data: Any) -> tuple[dict[str, Any], Any]:
        trainable, non_trainable, optimizer, metrics = state
        data = keras.utils.unpack_x_y_sample_weight(data)
        (_, (loss, outputs, moved)), gradients = jax.value_and_grad(self._loss, has_aux=True)(
            trainable, non_trainable, optimizer, data, True
        )
        finite = jnp.stack([jnp.isfinite(value).all() for value in (loss, *gradients)]).all()
        statistics = {id(statistic) for statistic in self.moving_statistics}
        non_trainable = [
            jnp.where(finite, new, old) if id(variable) in statistics else new
            for variable, new, old in zip(self.non_trainable_variables, moved, non_trainable, strict=True)
        ]
        if self._scales_loss:
            updated = self.optimizer.stateless_apply(optimizer, poisoned(gradients, finite), trainable)
        else:
            updated = self._applied_if(finite, gradients, trainable, optimizer)
        trainable, optimizer = updated
        logs, metrics = self._logs(metrics, data, outputs, loss, finite)
        return logs, (trainable, non_trainable, optimizer, metrics)

    def _applied_if(
        self, finite: Tensor, gradients: Any, trainable: Any, optimizer: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return the weights and the optimizer's state after an update if `finite`, and otherwise as they were."""
        state = list(zip(self.trainable_variables, trainable, strict=True))
        state += zip(self.optimizer.variables, optimizer, strict=True)
        with _UpdatesIf(finite, state) as scope:
            self.optimizer.apply(gradients)
        changed = self.trainable_variables, self.optimizer.variables
        weights, slots = ([scope.get_current_value(variable) for variable in each] for each in changed)
        return weights, slots

    def test_step(self, state: Any, data: Any) -> tuple[dict[str, Any], Any]:
        trainable, non_trainable, metrics = state
        data = keras.utils.unpack_x_y_sample_weight(data)
        _, (loss, outputs, non_trainable) = self._loss(trainable, non_trainable, None, data, False)
        logs, metrics = self._logs(metrics, data, outputs, loss)
        return logs, (trainable, non_trainable, metrics)

    train_function: Any
    test_function: Any

    def make_train_function(self, force: bool = False) -> None:
        super().make_train_function(force)
        self.train_function = looking(
            IteratorStep, self, self.train_function, _STATE, together=True, before=self._trained.check_switches
        )

    def make_test_function(self, force: bool = False) -> None:
        super().make_test_function(force or is_stale(self.test_function))
        state = (*_STATE[:2], _STATE[3])
        self.test_function = looking(IteratorStep, self, self.test_function, state, together=True)

    def _get_jax_state(self, *args: Any, **kwargs: Any) -> Any:
        self._taken = Places(self)
        return super()._get_jax_state(*args, **kwargs)

    def jax_state_sync(self) -> None:
        # A callback may have frozen or unfrozen something since the state was taken: each weight gets its own value.
        state = getattr(self, "_jax_state", None)
        if state and not self._jax_state_synced and self._taken != (now := Places(self)):
            values: dict[int, Any] = {}
            for weights, name in zip(self._taken.weights, _STATE, strict=False):
                values |= zip(weights, state[name], strict=True)
            for weights, name in zip(now.weights, _STATE, strict=False):
                state[name] = [values[weight] for weight in weights]
            self._taken = now
        super().jax_state_sync()
