"""The training step on JAX: the same, as pure functions of all state."""

from __future__ import annotations

from typing import Any

import jax
import keras
from jax import numpy as jnp

from keras_mae._types import Tensor
from keras_mae.train_step.base import BaseTrainStep, poisoned

__all__ = ["TrainStep"]

_STATE = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")


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
            updated = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                tuple(map(list, self.optimizer.stateless_apply(optimizer, gradients, trainable))),
                (list(trainable), list(optimizer)),
            )
        trainable, optimizer = updated
        logs, metrics = self._logs(metrics, data, outputs, loss, finite)
        return logs, (trainable, non_trainable, optimizer, metrics)

    def test_step(self, state: Any, data: Any) -> tuple[dict[str, Any], Any]:
        trainable, non_trainable, metrics = state
        data = keras.utils.unpack_x_y_sample_weight(data)
        _, (loss, outputs, non_trainable) = self._loss(trainable, non_trainable, None, data, False)
        logs, metrics = self._logs(metrics, data, outputs, loss)
        return logs, (trainable, non_trainable, metrics)

    # Keras takes the weights out of the model while it trains. If the very first step fails, it does not put
    # them back, and the model is lost; these do.
    test_function: Any
    predict_function: Any

    def make_train_function(self, force: bool = False) -> None:
        made = self.train_function
        super().make_train_function(force)
        if self.train_function is not made:
            self.train_function = self._keeping_state(self.train_function, _STATE)

    def make_test_function(self, force: bool = False) -> None:
        if force or self._is_stale(self.test_function):
            super().make_test_function(force=True)
            self.test_function = self._keeping_state(self.test_function, (*_STATE[:2], _STATE[3]))

    def make_predict_function(self, force: bool = False) -> None:
        if force or self._is_stale(self.predict_function):
            super().make_predict_function(force=True)
            self.predict_function = self._keeping_state(self.predict_function, _STATE[:2], self._check_inputs)

    def _places(self) -> tuple[list[int], list[int]]:
        """Return which weight is where in the state."""
        return [id(weight) for weight in self.trainable_variables], list(map(id, self.non_trainable_variables))

    def _is_stale(self, function: Any) -> bool:
        """Return whether a function is not made yet, or takes the weights in other places than they now have.

        Frozen or unfrozen, a weight has another place in the state; compiled code would take one for another.
        """
        return function is None or function.places != self._places()

    def _get_jax_state(self, *args: Any, **kwargs: Any) -> Any:
        self._places_taken = _Places(self._places())
        return super()._get_jax_state(*args, **kwargs)

    def jax_state_sync(self) -> None:
        # A callback may have frozen or unfrozen something since the state was taken: each weight gets its own value.
        state = getattr(self, "_jax_state", None)
        if state and not self._jax_state_synced and self._places_taken.places != self._places():
            values: dict[int, Any] = {}
            for places, name in zip(self._places_taken.places, _STATE, strict=False):
                values |= zip(places, state[name], strict=True)
            for places, name in zip(self._places(), _STATE, strict=False):
                state[name] = [values[place] for place in places]
            self._places_taken = _Places(self._places())
        super().jax_state_sync()

    def _check_inputs(self, data: Any) -> Any:
        """Return what `check_batch` does of the images alone: labels, if there are any, are nobody's in `predict`."""
        return self.check_batch((keras.utils.unpack_x_y_sample_weight(data)[0],))

    def _keeping_state(self, function: Any, names: tuple[str, ...], check: Any = None) -> Any:
        check = check or self.check_batch

        def step(state: Any, iterator: Any) -> Any:
            try:
                # A compiled step that fails has used up the weights it was given: batches are checked before.
                return function(state, map(check, iterator))
            except BaseException:
                if not any(value.is_deleted() for value in jax.tree.leaves(state)):
                    self._jax_state = dict(zip(names, state, strict=True))
                    self._jax_state_synced = False
                    self.jax_state_sync()
                raise

        step.places = self._places()  # type: ignore[attr-defined]
        return step


class _Places:
    """Which weight is where in a state; an object, because Keras wraps the lists that a model is given."""

    def __init__(self, places: tuple[list[int], list[int]]):
        self.places = places
