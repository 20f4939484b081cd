"""Averages of a model's weights: how they move, and how they take the weights' place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks

__all__ = ["ValidateAverages", "averaged_weights"]


def move_averages(averages: Sequence[Any], variables: Sequence[Any], share: Any) -> None:
    """Move each average towards its variable.

    Args:
        averages: Variables, or `None` for those that are not averaged.
        variables: The variables that they are of.
        share: Share of the distance to go, a float32 scalar.
    """
    pairs = [(one, of) for one, of in zip(averages, variables, strict=True) if one is not None]
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():  # one pass over memory for all
            torch._foreach_lerp_(
                [one.value for one, _ in pairs], [of.value.detach() for _, of in pairs], float(share)
            )
        return
    for one, of in pairs:
        one.assign(one + (of - one) * ops.cast(share, of.dtype))


def averaging_optimizer(model: Any) -> Any:
    """Return the optimizer of a compiled model if it averages weights and has updated them, or else `None`."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    averages = getattr(optimizer, "use_ema", False) and optimizer.built
    return optimizer if averages and int(ops.convert_to_numpy(optimizer.iterations)) else None


def _as_held() -> contextlib.AbstractContextManager[None]:
    """Return a block in which variables are read and assigned as this process holds them, whole or in part."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    from keras_mae.sharding import as_parts

    return as_parts()


@contextlib.contextmanager
def averaged_weights(model: Any) -> Iterator[None]:
    """Put the averages in the place of the weights within the block; the same bits return at its end.

    Where the optimizer keeps no averages, or has not yet made an update, nothing happens.

    Args:
        model: A compiled model.

    Example:
        >>> with keras_mae.optimizers.averaged_weights(mae):
        ...     features = keras_mae.transfer.extract_features(mae.encoder, images)
    """
    _checks.instance("model", model, keras.Model, "a compiled Keras model")
    optimizer = averaging_optimizer(model)
    if optimizer is None:
        yield
        return
    pairs = [
        (variable, average)
        for variable, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        if average is not None
    ]
    # Copies: JAX gives the memory of what a step was called with to its results.
    with _as_held():
        before = [ops.copy(ops.convert_to_tensor(variable)) for variable, _ in pairs]
        for variable, average in pairs:
            variable.assign(ops.copy(ops.convert_to_tensor(average)))
    try:
        yield
    finally:
        with _as_held():
            for (variable, _), value in zip(pairs, before, strict=True):
                variable.assign(value)


class ValidateAverages(keras.callbacks.Callback):
    """Evaluates a model by the averages of its weights, which `fit` ends with; training goes on from the weights.

    Without it `val_` metrics are those of the last weights. On TensorFlow Keras' own `SwapEMAWeights` swaps by adding
    and subtracting, which rounds. Runs and `transfer.fine_tune` have it where the recipe averages.
    """

    def __init__(self) -> None:
        super().__init__()
        self._swapped = contextlib.ExitStack()

    def on_test_begin(self, logs: Any = None) -> None:
        self._swapped.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs: Any = None) -> None:
        self._swapped.close()
