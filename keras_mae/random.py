"""Hash noise: a pure function of (seed, step, sample, token), the same bits on every backend.

A stateful generator would draw other masks on another backend, under XLA, on each replica and after a
resume. An integer hash draws the same ones everywhere; the only state is a step counter.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mae._types import Tensor
from keras_mae.distribution import batch_parts, first_sample
from keras_mae.ops import constant

__all__ = [
    "AUXILIARY_HEAD",
    "DROP_PATH",
    "EVALUATION_STEP",
    "HEAD",
    "HELD_OUT",
    "MASKS",
    "NORMAL_PATCHES",
    "PREDICTED",
    "StepCounter",
    "hash_noise",
    "places",
    "to_uniform",
]

EVALUATION_STEP = -1
"""The step of `evaluate`, `predict` and `reconstruct`: no training step ever has this number."""

MASKS, DROP_PATH, PREDICTED, HELD_OUT, NORMAL_PATCHES, HEAD, AUXILIARY_HEAD = range(7)
"""Streams: draws of different kinds that share a seed and a step stay independent."""


class StepCounter(keras.random.SeedGenerator):
    """Counts training steps, and says what each sample of a step draws by.

    A `SeedGenerator` is what Keras carries through `jit`, `stateless_call` and distribution without
    counting it among a model's parameters. Nothing random is ever drawn from it, and Keras does not save
    it: its owner does, in `save_own_variables`.

    Attributes:
        steps_per_update: Number of steps whose gradients make one update, as the model's optimizer has it; set by
            `compile`.
    """

    def __init__(self, name: str = "step_counter"):
        super().__init__(seed=0, name=name)
        self.steps_per_update = 1

    @property
    def value(self) -> Tensor:
        """The number of training steps so far, an int32 scalar tensor."""
        return ops.cast(self.state[1], "int32")

    def place(self, rows: Any) -> tuple[Tensor, Tensor]:
        """Return where the samples of the current step are: by this they draw.

        Draws go by updates: batches whose gradients are accumulated draw what one large batch of them would.

        Args:
            rows: Number of samples in this part of the batch; the same in all steps of an update.

        Returns:
            The number of the update, an int32 scalar, and the places of the samples in its batch, int32 (rows,).
        """
        step, index = self.value, places(rows)
        if self.steps_per_update == 1:
            return step, index
        before = ops.mod(step, self.steps_per_update) * (rows * batch_parts())
        return ops.floor_divide(step, self.steps_per_update), index + ops.cast(before, "int32")

    def advance(self) -> None:
        """End the current step."""
        increment = constant(np.array([0, 1], self.state.dtype), self.state.value)
        self.state.assign(self.state.value + increment)

    def set(self, step: int) -> None:
        """Continue from `step`."""
        self.state.assign(ops.convert_to_tensor([0, int(step)], dtype=self.state.dtype))

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


def places(rows: Any) -> Tensor:
    """Return the places in the global batch of the `rows` samples of this part of it, int32 (rows,)."""
    return first_sample(rows) + ops.arange(rows, dtype="int32")


def _int32(value: int) -> int:
    """Return `value` modulo 2**32 as a signed 32-bit integer: what an int32 product would wrap to."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def mix(x: Tensor) -> Tensor:
    """Apply MurmurHash3's 32-bit finalizer: every input bit reaches every output bit."""

    x = ops.bitwise_xor(x, _upper(x, 16)) * _int32(0x85EBCA6B)
    x = ops.bitwise_xor(x, _upper(x, 13)) * _int32(0xC2B2AE35)
    return ops.bitwise_xor(x, _upper(x, 16))


def _upper(x: Tensor, bits: int) -> Tensor:
    """Return a logical shift right by so many bits: int32's own keeps the sign."""
    kept = (1 << (32 - bits)) - 1
    return ops.bitwise_and(ops.right_shift(x, constant(bits, x)), constant(kept, x))


def hash_noise(seed: int, step: Tensor | int, index: Tensor, count: int, stream: int = MASKS) -> Tensor:
    """Return `count` draws for every sample.

    Args:
        seed: Integer in [0, 2**31).
        step: Number of the update, an integer or an int32 scalar tensor.
        index: Places of the samples in the update's whole batch, int32 of shape (batch,).
        count: Draws for each sample.
        stream: Purpose of the draws: `MASKS`, `DROP_PATH`, `PREDICTED`, of anomalies `HELD_OUT` or
            `NORMAL_PATCHES`, or, of segmentation, the dropout of the `HEAD` or the `AUXILIARY_HEAD`.

    Returns:
        int32 of shape (batch, count), uniform over all 2**32 values.
    """
    # Each coordinate enters through an odd multiplier of its own and a full mix, so that neighboring
    # seeds, steps, samples and tokens share nothing.
    key = mix(ops.cast(step, "int32") * _int32(0x9E3779B1) + _int32(seed * 0x85EBCA77 + 1))
    key = mix(key + _int32(stream * 0x2545F491))
    rows = mix(ops.cast(index, "int32") * _int32(0xC2B2AE3D) + key)
    tokens = ops.arange(count, dtype="int32") * _int32(0x27D4EB2F)
    return mix(mix(ops.expand_dims(rows, 1) + ops.expand_dims(tokens, 0)) + _int32(0x165667B1))


def to_uniform(noise: Tensor) -> Tensor:
    """Return int32 noise as float32 in [0, 1): its upper 24 bits, which float32 holds exactly."""
    return ops.cast(_upper(ops.convert_to_tensor(noise), 8), "float32") * (1.0 / (1 << 24))
