"""The training step, written once for each backend; the one Keras runs on is chosen here.

Keras' own step has no place for what this method does at every step: predict the removed patches only,
check the gradients and skip a step that is not finite, and mean over the global batch. All that Keras' step
does stays: loss scaling, gradient accumulation, clipping, EMA, sample weights, jit, steps per execution.
`base.py` says what a model brings to it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

import keras

from keras_mae import _checks
from keras_mae.train_step.base import Directed

__all__ = ["Directed", "TrainStep"]

if TYPE_CHECKING:
    # Its backend's part overrides only what Keras calls; this is what a model sees.
    from keras_mae.train_step.base import BaseTrainStep as TrainStep
else:
    _BACKEND = _checks.one_of("KERAS_BACKEND", keras.backend.backend(), ("tensorflow", "jax", "torch"))
    TrainStep = import_module(f"keras_mae.train_step.{_BACKEND}").TrainStep
