"""The training step, written once for each backend; the one Keras runs on is chosen here.

Keras' own step has no place for what this method does at every step: predict the removed patches only,
check the gradients and skip a step that is not finite, and mean over the global batch. All that Keras' step
does stays: loss scaling, gradient accumulation, clipping, EMA, sample weights, jit, steps per execution.
"""

import keras

_BACKEND = keras.backend.backend()
if _BACKEND == "tensorflow":
    from keras_mae.train_step.tensorflow import TrainStep
elif _BACKEND == "jax":
    from keras_mae.train_step.jax import TrainStep
elif _BACKEND == "torch":
    from keras_mae.train_step.torch import TrainStep
else:
    raise ImportError(
        f"keras_mae trains on the Keras backends tensorflow, jax and torch. Received: {_BACKEND!r}. "
        "Set the environment variable KERAS_BACKEND to one of them before importing keras."
    )

__all__ = ["TrainStep"]
