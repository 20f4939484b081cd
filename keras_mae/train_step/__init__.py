"""The training step, written once for each backend; the one Keras runs on is chosen here.

Keras' own step has no place for what this method does at every step: predict the removed patches only,
check the gradients and skip a step that is not finite, and mean over the global batch. All that Keras' step
does stays: loss scaling, gradient accumulation, clipping, EMA, sample weights, jit, steps per execution.
"""

from importlib import import_module
from typing import Any

import keras

from keras_mae import _checks

_BACKEND = _checks.one_of("KERAS_BACKEND", keras.backend.backend(), ("tensorflow", "jax", "torch"))

TrainStep: Any = import_module(f"keras_mae.train_step.{_BACKEND}").TrainStep


def saved_options(config: dict[str, Any]) -> dict[str, Any]:
    """What a saved model is compiled with.

    Keras saves what `jit_compile="auto"` came to where the model was saved, which another backend may not be able to
    do: here it is "auto" again.
    """
    return keras.saving.deserialize_keras_object(config) | {"jit_compile": "auto"}


__all__ = ["TrainStep", "saved_options"]
